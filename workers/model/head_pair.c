/*
 * workers/model/head_pair.c: two models' predictions for the same tokens, side by side. Logits of a few rows at a time, each model's in
 * its own scratch. The entropy is read off the same logits by the divergence from the uniform distribution over n ids, whose logits are
 * all 0: KL(p || u) = log n - H(p).
 */
#include "workers/model/model_internal.h"

#include "base/check.h"
#include "base/memory.h"
#include <math.h>
#include <string.h>

struct side {
    struct model *model;
    struct head_weights head;
    const float *states; /* [row_count, hidden_size] */
    float *logits;       /* [most_rows, vocab], in the model's scratch */
    double scales[LOGIT_ROWS];
};

struct pair_run {
    const struct head_pair *pair;
    struct side original, pruned;
    size_t count;       /* ids that both have */
    const float *zeros; /* [count], device memory: logits of the uniform distribution; NULL: not wanted */
};

static bool run_side(struct side *side, const struct chunk *chunk, size_t most_rows, size_t count,
                     struct error *error)
{
    struct model *model = side->model;
    size_t size = model->config->hidden_size, vocab = model->config->vocab_size;
    float *normed = model->scratch;
    side->logits = normed + most_rows * size;
    return run_final_norm(model, &side->head, chunk->row_count, side->states + chunk->first_row * size,
                          normed, error) &&
           run_logits(model, &side->head, chunk->row_count, normed, chunk->segments, chunk->segment_count,
                      side->logits, error) &&
           run_logsumexps(model, chunk->row_count, count, side->logits, vocab, side->scales, error);
}

static bool compare_chunk(struct pair_run *run, const struct chunk *chunk, size_t most_rows,
                          struct error *error)
{
    const struct head_pair *pair = run->pair;
    struct model *model = pair->pruned;
    if (!run_side(&run->original, chunk, most_rows, run->count, error) ||
        !run_side(&run->pruned, chunk, most_rows, run->count, error)) {
        return false;
    }
    struct distance job = {.kind = pair->metric == HEAD_METRIC_KL ? DISTANCE_KL : DISTANCE_JS_TEXTBOOK,
                           .rows = chunk->row_count,
                           .count = run->count,
                           .original = run->original.logits,
                           .candidate = run->pruned.logits,
                           .original_stride = pair->original->config->vocab_size,
                           .candidate_stride = model->config->vocab_size,
                           .original_scales = run->original.scales,
                           .candidate_scales = run->pruned.scales,
                           .distances = pair->divergences + chunk->first_row};
    if (!model->backend->distance(&model->exec, &job, error)) {
        return false;
    }
    if (pair->entropies == NULL) {
        return true;
    }
    double uniform[LOGIT_ROWS];
    double *entropies = pair->entropies + chunk->first_row;
    for (size_t r = 0; r < chunk->row_count; r++) {
        uniform[r] = log((double)run->count);
    }
    job.kind = DISTANCE_KL;
    job.candidate = run->zeros;
    job.candidate_stride = 0;
    job.candidate_scales = uniform;
    job.distances = entropies;
    if (!model->backend->distance(&model->exec, &job, error)) {
        return false;
    }
    for (size_t r = 0; r < chunk->row_count; r++) {
        double entropy = uniform[r] - entropies[r];
        entropies[r] = entropy < 0.0 ? 0.0 : entropy; /* rounding goes below zero; NaN stays */
    }
    return true;
}

static bool check_values(const struct head_pair *pair, struct error *error)
{
    const struct hidden *hidden = pair->pruned_hidden;
    for (size_t s = 0; s < hidden->sequence_count; s++) {
        for (size_t t = 0; t < hidden->segments[s].count; t++) {
            double *value = &pair->divergences[hidden->segments[s].first_row + t];
            if (!isfinite(*value)) {
                return error_set(error, ERROR_NUMERIC,
                                 "NaN or infinity in the logits of sequence %zu, token %zu", s, t);
            }
            *value = *value < 0.0 ? 0.0 : *value;
        }
    }
    return true;
}

static bool compare_chunks(struct pair_run *run, struct error *error)
{
    const struct head_pair *pair = run->pair;
    size_t vocab = pair->original->config->vocab_size, other = pair->pruned->config->vocab_size;
    size_t rows = head_logit_rows(vocab > other ? vocab : other);
    FINISHED(chunk_list) list = {0};
    chunk_list_create(pair->pruned_hidden->segments, pair->pruned_hidden->sequence_count, rows, rows, &list);
    bool is_good =
        scratch_reserve(pair->original, list.most_rows * (pair->original->config->hidden_size + vocab),
                        error) &&
        scratch_reserve(pair->pruned, list.most_rows * (pair->pruned->config->hidden_size + other), error);
    for (size_t i = 0; i < list.count && is_good; i++) {
        is_good = compare_chunk(run, &list.chunks[i], list.most_rows, error);
    }
    return is_good;
}

static bool acquire_heads(struct pair_run *run, struct error *error)
{
    if (!weights_acquire_head(run->pair->original->weights, &run->original.head, error)) {
        return false;
    }
    if (!weights_acquire_head(run->pair->pruned->weights, &run->pruned.head, error)) {
        weights_release_head(run->pair->original->weights);
        return false;
    }
    return true;
}

bool head_compare_pair(const struct head_pair *pair, struct error *error)
{
    struct model *original = pair->original, *pruned = pair->pruned;
    size_t vocab = original->config->vocab_size, other = pruned->config->vocab_size;
    CHECK(pair->metric == HEAD_METRIC_KL || pair->metric == HEAD_METRIC_JS_TEXTBOOK);
    CHECK(original != pruned && strcmp(device_name(original->device), device_name(pruned->device)) == 0);
    CHECK(pair->original_hidden->row_count == pair->pruned_hidden->row_count);
    struct pair_run run = {.pair = pair,
                           .original = {.model = original, .states = pair->original_hidden->rows},
                           .pruned = {.model = pruned, .states = pair->pruned_hidden->rows},
                           .count = vocab < other ? vocab : other};
    if (pair->pruned_hidden->row_count == 0) {
        return true;
    }
    float *zeros = NULL;
    if (pair->entropies != NULL) {
        zeros = pruned->backend->memory_create(pruned->device, run.count * sizeof *zeros,
                                               "logits of the uniform distribution", error);
        if (zeros == NULL) {
            return false;
        }
        run.zeros = zeros;
    }
    original->work.token_heads += pair->original_hidden->row_count;
    pruned->work.token_heads += pair->pruned_hidden->row_count;
    bool is_good = acquire_heads(&run, error);
    if (is_good) {
        is_good = compare_chunks(&run, error);
        weights_release_head(original->weights);
        weights_release_head(pruned->weights);
    }
    pruned->backend->memory_destroy(pruned->device, zeros);
    return is_good && check_values(pair, error);
}
