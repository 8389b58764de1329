/* workers/prune/objective.c: see objective.h. */
#include "workers/prune/objective.h"

#include "base/check.h"
#include "base/memory.h"
#include <stdlib.h>
#include <string.h>

struct objective {
    struct model *model; /* borrowed */
    struct objective_text text;
    struct objective_options options;
    struct head_reference *reference; /* DISTANCE */
    size_t *first_sequences;          /* [item_count + 1] */
    size_t item_count;
    double parts;
};

static int32_t target_of(const struct objective *objective, size_t sequence, size_t position)
{
    const struct token_sequence *tokens = &objective->text.batch.sequences[sequence];
    if (objective->text.targets != NULL) {
        return objective->text.targets[sequence][position];
    }
    return position + 1 < tokens->count ? tokens->tokens[position + 1] : -1;
}

static void list_items(struct objective *objective)
{
    const struct objective_text *text = &objective->text;
    bool is_records = objective->options.kind == OBJECTIVE_ACCURACY;
    objective->item_count = is_records ? text->record_count : text->batch.sequence_count;
    objective->first_sequences = memory_create(objective->item_count + 1, sizeof(size_t));
    for (size_t i = 0; i < objective->item_count; i++) {
        objective->first_sequences[i + 1] =
            objective->first_sequences[i] + (is_records ? text->choice_counts[i] : 1);
    }
    CHECK(objective->first_sequences[objective->item_count] == text->batch.sequence_count);
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
    switch (objective->options.kind) {
    case OBJECTIVE_DISTANCE:
        return (double)(objective->options.metric == HEAD_METRIC_NORM ? batch->sequence_count : tokens);
    case OBJECTIVE_NLL:
        return (double)scored;
    case OBJECTIVE_ACCURACY:
        break;
    }
    return (double)objective->item_count;
}

struct objective *objective_create(struct model *model, const struct objective_text *text,
                                   const struct objective_options *options, const struct hidden *original,
                                   struct error *error)
{
    OWNED(objective) objective = memory_create(1, sizeof *objective);
    objective->model = model;
    objective->text = *text;
    objective->options = *options;
    list_items(objective);
    objective->parts = count_parts(objective);
    if (!(objective->parts > 0)) {
        error_set(error, ERROR_TEXT_TOO_SHORT, "the text has no token to score");
        return NULL;
    }
    if (options->kind == OBJECTIVE_DISTANCE) {
        CHECK(original != NULL);
        objective->reference = head_reference_create(model, original, options->metric, error);
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
    free(objective->first_sequences);
    free(objective);
}

size_t objective_item_count(const struct objective *objective)
{
    return objective->item_count;
}

void objective_sequences(const struct objective *objective, size_t first_item, size_t item_count,
                         size_t *ret_first, size_t *ret_count)
{
    CHECK(first_item + item_count <= objective->item_count);
    *ret_first = objective->first_sequences[first_item];
    *ret_count = objective->first_sequences[first_item + item_count] - *ret_first;
}

/* ---- log-likelihoods --------------------------------------------------------------------------------------------- */

static double sum_of(const struct target_sequence *targets, size_t count)
{
    double sum = 0.0;
    for (size_t t = 0; t < count; t++) {
        sum += targets->nll[t];
    }
    return sum;
}

/* A record's term: 0 where the likeliest of its choices (ties: the first) is the right one. */
static double miss_of(const struct objective *objective, size_t record, const double *sums)
{
    size_t best = 0;
    for (size_t i = 1; i < objective->text.choice_counts[record]; i++) {
        best = sums[i] < sums[best] ? i : best;
    }
    return best == objective->text.golds[record] ? 0.0 : 1.0;
}

static bool take_likelihoods(struct objective *objective, const struct hidden *hidden, size_t candidate_count,
                             size_t first_item, size_t item_count, double *ret_terms, struct error *error)
{
    size_t first = 0;
    size_t count = 0;
    objective_sequences(objective, first_item, item_count, &first, &count);
    CHECK(hidden->sequence_count == candidate_count * count);
    OWNED_MEMORY int32_t *targets = memory_create(hidden->row_count + 1, sizeof *targets);
    OWNED_MEMORY double *nll = memory_create(hidden->row_count + 1, sizeof *nll);
    OWNED_MEMORY struct target_sequence *sequences =
        memory_create(hidden->sequence_count + 1, sizeof *sequences);
    OWNED_MEMORY double *sums = memory_create(hidden->sequence_count + 1, sizeof *sums);
    for (size_t s = 0; s < hidden->sequence_count; s++) {
        const struct segment *segment = &hidden->segments[s];
        for (size_t t = 0; t < segment->count; t++) {
            targets[segment->first_row + t] = target_of(objective, first + s % count, t);
        }
        sequences[s] = (struct target_sequence){.targets = targets + segment->first_row,
                                                .nll = nll + segment->first_row};
    }
    if (!model_nll(objective->model, hidden, sequences, error)) {
        return false;
    }
    for (size_t s = 0; s < hidden->sequence_count; s++) {
        sums[s] = sum_of(&sequences[s], hidden->segments[s].count);
    }
    for (size_t c = 0; c < candidate_count; c++) {
        for (size_t i = 0; i < item_count; i++) {
            const double *own = sums + c * count + objective->first_sequences[first_item + i] - first;
            ret_terms[c * item_count + i] = objective->options.kind == OBJECTIVE_ACCURACY
                                                ? miss_of(objective, first_item + i, own)
                                                : own[0];
        }
    }
    return true;
}

/* ---- terms ------------------------------------------------------------------------------------------------------- */

bool objective_terms(struct objective *objective, const struct hidden *hidden, size_t candidate_count,
                     size_t first_item, size_t item_count, double *ret_terms, struct error *error)
{
    if (candidate_count == 0 || item_count == 0) {
        return true;
    }
    if (objective->options.kind != OBJECTIVE_DISTANCE) {
        return take_likelihoods(objective, hidden, candidate_count, first_item, item_count, ret_terms, error);
    }
    return head_distances(objective->model, objective->reference, hidden, candidate_count, first_item,
                          item_count, ret_terms, error);
}

double objective_parts(const struct objective *objective)
{
    return objective->parts;
}

double objective_total(const struct objective *objective, const double *terms)
{
    double sum = 0.0;
    for (size_t i = 0; i < objective->item_count; i++) {
        sum += terms[i];
    }
    return sum / objective->parts;
}
