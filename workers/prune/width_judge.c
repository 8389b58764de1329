/* workers/prune/width_judge.c: how far a narrowed model is from the original, by masks. */
#include "workers/prune/width.h"

#include "base/check.h"
#include "base/memory.h"
#include "workers/model/tap.h"
#include "workers/model/weights.h"
#include "workers/prune/prune.h"
#include <stdlib.h>
#include <string.h>

struct width_judge {
    struct model *model;
    struct token_batch batch; /* the caller's may be gone; its sequences are borrowed */
    const struct cancel *cancel;
    struct head_reference *reference;
    const struct plan *plan; /* being judged */
    unsigned char *is_gone;  /* [widest]: scratch */
    double *terms;           /* [sequence_count] */
};

/* Marks everything as gone but what the list keeps; heads are head_size columns each. */
static void mark(unsigned char *is_gone, size_t columns, const uint32_t *kept, size_t count, size_t unit)
{
    memset(is_gone, 1, columns);
    for (size_t i = 0; i < count; i++) {
        memset(is_gone + kept[i] * unit, 0, unit);
    }
}

static bool mask(void *context, const struct tap_rows *rows, struct error *error)
{
    (void)error;
    struct width_judge *judge = context;
    const struct plan_width *width = &judge->plan->widths[rows->sublayer];
    bool is_heads = rows->point == TAP_HEADS;
    const uint32_t *kept = is_heads                  ? width->heads
                           : width->channels != NULL ? width->channels + rows->expert * width->channel_count
                                                     : NULL;
    if (kept == NULL) {
        return true;
    }
    mark(judge->is_gone, rows->size, kept, is_heads ? width->head_count : width->channel_count,
         is_heads ? model_get_config(judge->model)->head_size : 1);
    for (size_t r = 0; r < rows->rows; r++) {
        float *row = rows->values + r * rows->stride;
        for (size_t c = 0; c < rows->size; c++) {
            row[c] = judge->is_gone[c] != 0 ? 0.0f : row[c];
        }
    }
    return true;
}

void width_judge_destroy(struct width_judge *judge)
{
    if (judge != NULL) {
        head_reference_destroy(judge->reference);
        free(judge->is_gone);
        free(judge->terms);
        free(judge);
    }
}

uint64_t width_judge_bytes(const struct model_config *config, size_t rows)
{
    return head_reference_bytes(config, rows) + 2 * (uint64_t)rows * config->hidden_size * sizeof(float);
}

struct width_judge *width_judge_create(struct model *model, const struct token_batch *batch,
                                       const struct cancel *cancel, struct error *error)
{
    const struct model_config *config = model_get_config(model);
    size_t widest = 1;
    for (size_t i = 0; i < config->layer_count; i++) {
        const struct model_layer *layer = &config->layers[i];
        size_t heads = layer->head_count * config->head_size;
        widest = heads > widest ? heads : widest;
        widest = layer->intermediate_size > widest ? layer->intermediate_size : widest;
    }
    OWNED(width_judge) judge = memory_create(1, sizeof *judge);
    judge->model = model;
    judge->batch = *batch;
    judge->cancel = cancel;
    judge->is_gone = memory_create(widest, 1);
    judge->terms = memory_create(batch->sequence_count + 1, sizeof *judge->terms);
    OWNED(hidden) hidden = hidden_create(model, batch, error);
    if (hidden == NULL || !model_embed(model, batch, hidden, error) ||
        !model_run_from(model, 0, NULL, hidden, error)) {
        return NULL;
    }
    judge->reference = head_reference_create(model, hidden, HEAD_METRIC_KL, error);
    return judge->reference != NULL ? TAKE(judge) : NULL;
}

static bool check_plan(const struct plan *plan, struct error *error)
{
    bool is_masked = plan->hidden_count == 0;
    for (size_t i = 0; i < plan->sublayer_count && is_masked; i++) {
        is_masked = plan->widths[i].experts == NULL;
    }
    return is_masked ||
           error_set_field(error, ERROR_UNSUPPORTED, "/allocation/type",
                           "this allocation judges heads and channels; experts and residual channels "
                           "need uniform, global, cfsp or adapt");
}

bool width_judge_plan(struct width_judge *judge, const struct plan *plan, size_t sequences,
                      double *ret_divergence, struct error *error)
{
    size_t all = judge->batch.sequence_count;
    size_t count = sequences == 0          ? all
                   : sequences == SIZE_MAX ? (all + 3) / 4
                   : sequences < all       ? sequences
                                           : all;
    struct token_batch batch = {judge->batch.sequences, count};
    struct model_tap tap = {.context = judge,
                            .points = 1u << TAP_HEADS | 1u << TAP_CHANNELS,
                            .changed = 1u << TAP_HEADS | 1u << TAP_CHANNELS,
                            .visit = mask};
    if (!check_plan(plan, error) || !cancel_check(judge->cancel, error)) {
        return false;
    }
    OWNED(hidden) hidden = hidden_create(judge->model, &batch, error);
    if (hidden == NULL || !model_embed(judge->model, &batch, hidden, error)) {
        return false;
    }
    judge->plan = plan;
    model_set_tap(judge->model, &tap);
    bool is_good = model_run_from(judge->model, 0, plan->removed, hidden, error);
    model_set_tap(judge->model, NULL);
    weights_set_removed(model_get_weights(judge->model), NULL);
    if (!is_good || !head_distance(judge->model, judge->reference, hidden, 0, count, judge->terms, error)) {
        return false;
    }
    double sum = 0, tokens = 0;
    for (size_t s = 0; s < count; s++) {
        sum += judge->terms[s];
        tokens += (double)batch.sequences[s].count;
    }
    *ret_divergence = sum * (double)model_get_config(judge->model)->vocab_size / tokens;
    return true;
}
