/*
 * workers/prune/statistics.c: what one forward pass over the calibration batch can tell. Sums in double,
 * tokens in order, padding rows left out; a cosine is clamped to [-1, 1]; two zero vectors do not differ
 * (cosine 1).
 */
#include "workers/prune/prune.h"

#include "base/memory.h"
#include <math.h>
#include <stdlib.h>

static double row_cosine(const float *a, const float *b, size_t count)
{
    double dot = 0;
    double norm_a = 0;
    double norm_b = 0;
    for (size_t i = 0; i < count; i++) {
        dot += (double)a[i] * (double)b[i];
        norm_a += (double)a[i] * (double)a[i];
        norm_b += (double)b[i] * (double)b[i];
    }
    if (norm_a <= 0 || norm_b <= 0) {
        return norm_a <= 0 && norm_b <= 0 ? 1 : 0;
    }
    double cosine = dot / (sqrt(norm_a) * sqrt(norm_b));
    return cosine > 1 ? 1 : cosine < -1 ? -1 : cosine;
}

static double mean_cosine(const struct hidden *before, const struct hidden *after)
{
    double sum = 0;
    size_t tokens = 0;
    for (size_t s = 0; s < before->sequence_count; s++) {
        for (size_t t = 0; t < before->token_counts[s]; t++) {
            size_t offset = (before->first_rows[s] + t) * before->hidden_size;
            sum += row_cosine(before->rows + offset, after->rows + offset, before->hidden_size);
        }
        tokens += before->token_counts[s];
    }
    return tokens > 0 ? sum / (double)tokens : (double)NAN;
}

bool prune_gather_block_cosines(struct model *model, const struct token_batch *batch, double *ret_cosines,
                                struct error *error)
{
    OWNED(hidden) before = hidden_create(model, batch, error);
    OWNED(hidden) after = before != NULL ? hidden_create(model, batch, error) : NULL;
    if (after == NULL || !model_embed(model, batch, after, error)) {
        return false;
    }
    size_t layer_count = model_get_config(model)->layer_count;
    size_t count = model_sublayer_count(model);
    double *cosines = memory_create(layer_count + 1, sizeof *cosines);
    bool is_good = true;
    for (size_t layer = 0, i = 0; layer < layer_count && is_good; layer++) {
        hidden_copy(before, after);
        bool is_empty = true;
        for (; is_good && i < count && model_sublayer(model, i)->layer == layer; i++) {
            is_good = model_run_sublayer(model, i, after, error);
            is_empty = false;
        }
        cosines[layer] = is_empty ? (double)NAN : mean_cosine(before, after);
    }
    for (size_t layer = 0; is_good && layer < layer_count; layer++) {
        ret_cosines[layer] = cosines[layer];
    }
    free(cosines);
    return is_good;
}
