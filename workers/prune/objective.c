/* workers/prune/objective.c: see objective.h. */
#include "workers/prune/objective.h"

#include "base/check.h"
#include "base/memory.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct objective {
    struct model *model; /* borrowed */
    struct objective_text text;
    struct objective_options options;
    struct head_reference *reference; /* DISTANCE */
    double parts;
};

static int32_t target_of(const struct objective *objective, size_t sequence, size_t position)
{
    const struct token_sequence *tokens = &objective->text.batch.sequences[sequence];
    return position + 1 < tokens->count ? tokens->tokens[position + 1] : -1;
}

static double count_parts(const struct objective *objective)
{
    const struct token_batch *batch = &objective->text.batch;
    size_t scored = 0;
    size_t tokens = 0;
    for (size_t s = 0; s < batch->sequence_count; s++) {
        tokens += batch->sequences[s].count;
        for (size_t t = 0; t < batch->sequences[s].count; t++) {
            scored += target_of(objective, s, t) >= 0 ? 1 : 0;
        }
    }
    if (objective->options.kind == OBJECTIVE_NLL) {
        return (double)scored;
    }
    return (double)(objective->options.metric == HEAD_METRIC_NORM ? batch->sequence_count : tokens);
}

struct objective *objective_create(struct model *model, const struct objective_text *text,
                                   const struct objective_options *options, const struct hidden *original,
                                   struct error *error)
{
    OWNED(objective) objective = memory_create(1, sizeof *objective);
    objective->model = model;
    objective->text = *text;
    objective->options = *options;
    objective->parts = count_parts(objective);
    if (!(objective->parts > 0)) {
        error_set(error, ERROR_TEXT_TOO_SHORT, "the text has no token to score");
        return NULL;
    }
    if (options->kind == OBJECTIVE_DISTANCE) {
        CHECK(original != NULL);
        objective->reference = options->is_plain_head
                                   ? head_reference_create_plain(model, original, options->metric, error)
                                   : head_reference_create(model, original, options->metric, error);
        if (objective->reference == NULL) {
            return NULL;
        }
    }
    return TAKE(objective);
}

void objective_destroy(struct objective *objective)
{
    if (objective == NULL) {
        return;
    }
    head_reference_destroy(objective->reference);
    free(objective);
}

static size_t rows_of(const struct objective *objective, size_t first_sequence, size_t count)
{
    size_t rows = 0;
    for (size_t s = first_sequence; s < first_sequence + count; s++) {
        rows += objective->text.batch.sequences[s].count;
    }
    return rows;
}

/* ---- values ------------------------------------------------------------------------------------------------------ */

/* The wanted slots' sequences, one after the other, as a batch of their own. */
static bool take_likelihoods(struct objective *objective, const struct objective_query *query,
                             struct error *error)
{
    size_t first = query->first_item;
    size_t count = query->item_count;
    size_t rows = rows_of(objective, first, count);
    struct hidden view = *query->hidden;
    OWNED_MEMORY int32_t *targets = memory_create(query->slot_count * rows + 1, sizeof *targets);
    OWNED_MEMORY struct segment *segments = memory_create(query->slot_count * count + 1, sizeof *segments);
    OWNED_MEMORY struct target_sequence *sequences =
        memory_create(query->slot_count * count + 1, sizeof *sequences);
    OWNED_MEMORY double *nll = memory_create(query->slot_count * rows + 1, sizeof *nll);
    view.segments = segments;
    view.sequence_count = 0;
    for (size_t i = 0; i < query->slot_count; i++) {
        size_t row = 0;
        int32_t *own = targets + i * rows;
        for (size_t s = 0; s < count; s++) {
            size_t length = objective->text.batch.sequences[first + s].count;
            segments[view.sequence_count] =
                (struct segment){.first_row = query->slots[i] * rows + row, .count = length};
            sequences[view.sequence_count++] =
                (struct target_sequence){.targets = own + row, .nll = nll + i * rows + row};
            for (size_t t = 0; t < length; t++) {
                own[row + t] = query->tokens == NULL ? target_of(objective, first + s, t) : -1;
            }
            row += length;
        }
        for (size_t t = 0; query->tokens != NULL && t < query->token_count; t++) {
            size_t s = 0;
            size_t at = query->tokens[t];
            while (at >= objective->text.batch.sequences[first + s].count) {
                at -= objective->text.batch.sequences[first + s++].count;
            }
            own[query->tokens[t]] = target_of(objective, first + s, at);
        }
    }
    if (!model_nll(objective->model, &view, sequences, error)) {
        return false;
    }
    for (size_t i = 0; i < query->slot_count; i++) {
        for (size_t t = 0; query->tokens != NULL && t < query->token_count; t++) {
            query->values[i][query->tokens[t]] = nll[i * rows + query->tokens[t]];
        }
        if (query->tokens == NULL) {
            memcpy(query->values[i], nll + i * rows, rows * sizeof *nll);
        }
    }
    return true;
}

bool objective_evaluate(struct objective *objective, const struct objective_query *query, struct error *error)
{
    if (query->slot_count == 0 || query->item_count == 0) {
        return true;
    }
    if (objective->options.kind != OBJECTIVE_DISTANCE) {
        return take_likelihoods(objective, query, error);
    }
    struct head_comparison comparison = {.hidden = query->hidden,
                                         .slots = query->slots,
                                         .slot_count = query->slot_count,
                                         .first_sequence = query->first_item,
                                         .sequence_count = query->item_count,
                                         .tokens = query->tokens,
                                         .token_count = query->token_count,
                                         .values = query->values};
    return head_compare(objective->model, objective->reference, &comparison, error);
}

bool objective_selects(const struct objective *objective)
{
    return objective->options.kind == OBJECTIVE_DISTANCE && objective->options.metric != HEAD_METRIC_NORM &&
           !head_reference_is_small(objective->reference) && model_rows_are_free(objective->model);
}

/* ---- terms ------------------------------------------------------------------------------------------------------- */

static double sum_of(const double *values, size_t count)
{
    double sum = 0.0;
    for (size_t t = 0; t < count; t++) {
        sum += values[t];
    }
    return sum;
}

bool objective_terms(const struct objective *objective, size_t first_item, size_t item_count,
                     const double *values, double *ret_terms, struct error *error)
{
    for (size_t i = 0; i < item_count; i++) {
        size_t rows = rows_of(objective, first_item + i, 1);
        if (objective->options.kind == OBJECTIVE_NLL) {
            ret_terms[i] = sum_of(values, rows);
        } else if (!head_term(objective->reference, first_item + i, values, &ret_terms[i], error)) {
            return false;
        }
        values += rows;
    }
    return true;
}

double objective_bound(const struct objective *objective, const double *values, const size_t *tokens,
                       size_t token_count)
{
    double sum = 0.0;
    for (size_t i = 0; i < token_count; i++) {
        sum += values[tokens[i]];
    }
    bool is_divergence = objective->options.metric != HEAD_METRIC_ANGULAR;
    return is_divergence ? sum / (double)model_get_config(objective->model)->vocab_size : sum;
}

double objective_ratio(const struct objective *objective, double ratio)
{
    bool is_norm =
        objective->options.kind == OBJECTIVE_DISTANCE && objective->options.metric == HEAD_METRIC_NORM;
    return is_norm ? sqrt(ratio) : ratio;
}

double objective_parts(const struct objective *objective)
{
    return objective->parts;
}

double objective_total(const struct objective *objective, const double *terms)
{
    double sum = 0.0;
    for (size_t i = 0; i < objective->text.batch.sequence_count; i++) {
        sum += terms[i];
    }
    return sum / objective->parts;
}
