/*
 * workers/prune/statistics.c: what one forward pass over the calibration batch can tell. The batch goes through the model layer
 * by layer (sweep.h), so weights are read once. A cosine is clamped to [-1, 1]; two zero vectors do not differ (cosine 1). Sums in
 * double, tokens in order, whatever the chunks.
 */
#include "workers/prune/prune.h"

#include "base/memory.h"
#include <math.h>
#include <stdlib.h>

struct gathering {
    struct model *model;
    size_t first, end;     /* sublayers of the current layer */
    struct hidden *before; /* copy of a chunk; made anew where the shape changes */
    double *row_cosines;   /* [rows of the largest chunk] */
    double sum;
    size_t tokens;
};

static bool copy_chunk(struct gathering *gathering, const struct hidden *hidden, struct error *error)
{
    if (gathering->before == NULL || gathering->before->row_count != hidden->row_count) {
        hidden_destroy(gathering->before);
        struct token_sequence rows = {.count = hidden->row_count};
        struct token_batch batch = {&rows, 1};
        gathering->before = hidden_create(gathering->model, &batch, error);
    }
    return gathering->before != NULL && hidden_copy(gathering->before, hidden, error);
}

static bool gather_chunk(void *context, const struct sweep_chunk *chunk, struct error *error)
{
    struct gathering *gathering = context;
    if (!copy_chunk(gathering, chunk->hidden, error)) {
        return false;
    }
    for (size_t i = gathering->first; i < gathering->end; i++) {
        if (!model_run_sublayer(gathering->model, i, chunk->hidden, error)) {
            return false;
        }
    }
    if (!hidden_cosines(gathering->before, chunk->hidden, gathering->row_cosines, error)) {
        return false;
    }
    for (size_t r = 0; r < chunk->hidden->row_count; r++) {
        gathering->sum += gathering->row_cosines[r];
    }
    gathering->tokens += chunk->hidden->row_count;
    return true;
}

static bool gather_layers(struct sweep *sweep, struct gathering *gathering,
                          const struct prune_observer *observer, double *ret_cosines, struct error *error)
{
    size_t layer_count = model_get_config(gathering->model)->layer_count;
    size_t count = model_sublayer_count(gathering->model);
    for (size_t layer = 0; layer < layer_count; layer++) {
        gathering->first = gathering->end;
        while (gathering->end < count && model_sublayer(gathering->model, gathering->end)->layer == layer) {
            gathering->end++;
        }
        gathering->sum = 0;
        gathering->tokens = 0;
        bool is_empty = gathering->first == gathering->end;
        if (!is_empty && !sweep_each(sweep, true, gather_chunk, gathering, error)) {
            return false;
        }
        ret_cosines[layer] =
            is_empty || gathering->tokens == 0 ? (double)NAN : gathering->sum / (double)gathering->tokens;
        if (observer != NULL && observer->progress != NULL) {
            observer->progress(observer->context, layer + 1, layer_count, "layer");
        }
    }
    return true;
}

bool prune_gather_block_cosines(struct model *model, const struct token_batch *batch,
                                const struct sweep_options *options, const struct prune_observer *observer,
                                double *ret_cosines, struct error *error)
{
    OWNED(sweep) sweep = sweep_create(model, batch, options, error);
    if (sweep == NULL || !sweep_embed(sweep, error)) {
        return false;
    }
    size_t layer_count = model_get_config(model)->layer_count;
    OWNED_MEMORY double *cosines = memory_create(layer_count + 1, sizeof *cosines);
    struct gathering gathering = {.model = model};
    gathering.row_cosines =
        memory_try_array(sweep_most_rows(sweep), sizeof *gathering.row_cosines, "cosines", error);
    bool is_good =
        gathering.row_cosines != NULL && gather_layers(sweep, &gathering, observer, cosines, error);
    hidden_destroy(gathering.before);
    free(gathering.row_cosines);
    for (size_t layer = 0; is_good && layer < layer_count; layer++) {
        ret_cosines[layer] = cosines[layer];
    }
    return is_good;
}
