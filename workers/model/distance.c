/*
 * workers/model/distance.c: how far a candidate's logits are from the original's. A task is one tile: its
 * rows of logits lie in scratch while log-sum-exp (or norm) and then the distance are taken; the original's
 * logits are kept where they are few enough and made again from its final-normed states otherwise, with the
 * same bits.
 *
 * Values are taken per token, in double, and added per sequence in token order.
 */
#include "workers/model/model_internal.h"

#include "base/check.h"
#include "base/memory.h"
#include <math.h>
#include <string.h>

#define KEPT_LOGITS_BYTES ((uint64_t)512 << 20)

struct head_reference {
    enum head_metric metric;
    size_t sequence_count, token_count, vocab_size, hidden_size, tile_count, row_count;
    size_t *first_tiles; /* [sequence_count + 1] */
    size_t *token_counts;
    float *normed;  /* [row_count, hidden_size], final-normed states; NULL where logits are kept */
    float *logits;  /* [row_count, vocab_size] or NULL */
    double *scales; /* [row_count]: log-sum-exp, or norm */
};

static enum distance_kind kind_of(enum head_metric metric)
{
    switch (metric) {
    case HEAD_METRIC_NORM:
        return DISTANCE_SQUARES;
    case HEAD_METRIC_ANGULAR:
        return DISTANCE_ANGULAR;
    case HEAD_METRIC_KL:
        return DISTANCE_KL;
    case HEAD_METRIC_JS:
        return DISTANCE_JS;
    case HEAD_METRIC_JS_TEXTBOOK:
        break;
    }
    return DISTANCE_JS_TEXTBOOK;
}

/* What has to be known about a row before it can be compared. */
static double scale_of(const struct model *model, enum head_metric metric, const float *logits)
{
    size_t vocab = model->config->vocab_size;
    if (metric == HEAD_METRIC_NORM) {
        return 0.0;
    }
    if (metric == HEAD_METRIC_ANGULAR) {
        return sqrt(model->backend->squares(vocab, logits));
    }
    struct head_scan scan;
    head_scan_start(&scan);
    model->backend->scan(vocab, logits, 0, &scan);
    return head_scan_logsumexp(&scan);
}

/* ---- the original ---------------------------------------------------------------------------- */

struct reference_run {
    struct model *model;
    const struct hidden *hidden;
    struct head_reference *reference;
};

static void reference_task(void *context, size_t index, size_t thread)
{
    const struct reference_run *run = context;
    struct head_reference *reference = run->reference;
    const struct hidden_tile *tile = &run->hidden->tiles[index];
    size_t row = index * TILE_ROWS;
    float *scratch = run->model->scratch[thread].values;
    float *normed = reference->normed != NULL ? reference->normed + row * reference->hidden_size : scratch;
    float *logits = reference->logits != NULL ? reference->logits + row * reference->vocab_size
                                              : scratch + TILE_ROWS * reference->hidden_size;
    norm_tile(run->model, run->hidden, tile, weights_final_norm(run->model->weights), normed);
    logits_tile(run->model, normed, tile->rows, logits);
    for (size_t r = 0; r < tile->rows; r++) {
        reference->scales[row + r] =
            scale_of(run->model, reference->metric, logits + r * reference->vocab_size);
    }
}

static bool allocate_reference(struct head_reference *reference, struct error *error)
{
    uint64_t bytes = (uint64_t)reference->row_count * reference->vocab_size * sizeof(float);
    reference->scales =
        memory_try_array(reference->row_count + 1, sizeof(double), "the original's log-sum-exps", error);
    if (bytes <= KEPT_LOGITS_BYTES) {
        reference->logits =
            memory_try_array(reference->row_count * reference->vocab_size + 1, sizeof(float), "logits", NULL);
    }
    if (reference->logits == NULL) {
        reference->normed = memory_try_array(reference->row_count * reference->hidden_size + 1, sizeof(float),
                                             "the original's states", error);
    }
    return reference->scales != NULL && (reference->logits != NULL || reference->normed != NULL);
}

struct head_reference *head_reference_create(struct model *model, const struct hidden *original,
                                             enum head_metric metric, struct error *error)
{
    OWNED(head_reference) reference = memory_create(1, sizeof *reference);
    reference->metric = metric;
    reference->sequence_count = original->sequence_count;
    reference->vocab_size = model->config->vocab_size;
    reference->hidden_size = original->hidden_size;
    reference->tile_count = original->tile_count;
    reference->row_count = original->row_count;
    reference->first_tiles = memory_create(original->sequence_count + 1, sizeof(size_t));
    reference->token_counts = memory_create(original->sequence_count + 1, sizeof(size_t));
    for (size_t s = 0; s < original->sequence_count; s++) {
        reference->token_counts[s] = original->token_counts[s];
        reference->token_count += original->token_counts[s];
        reference->first_tiles[s + 1] =
            reference->first_tiles[s] + (original->token_counts[s] + TILE_ROWS - 1) / TILE_ROWS;
    }
    model->work.token_heads += reference->token_count;
    struct reference_run run = {model, original, reference};
    if (!allocate_reference(reference, error) ||
        !scratch_reserve_threads(model, TILE_ROWS * (reference->hidden_size + reference->vocab_size),
                                 error) ||
        !pool_run(model->pool, original->tile_count, reference_task, &run, model->cancel, error)) {
        return NULL;
    }
    for (size_t i = 0; i < original->tile_count; i++) {
        for (size_t r = 0; r < original->tiles[i].rows; r++) {
            if (!isfinite(reference->scales[i * TILE_ROWS + r])) {
                error_set(error, ERROR_NUMERIC, "NaN or infinity in the original's logits of sequence %zu",
                          original->tiles[i].sequence);
                return NULL;
            }
        }
    }
    return TAKE(reference);
}

void head_reference_destroy(struct head_reference *reference)
{
    if (reference == NULL) {
        return;
    }
    free(reference->first_tiles);
    free(reference->token_counts);
    free(reference->normed);
    free(reference->logits);
    free(reference->scales);
    free(reference);
}

uint64_t head_reference_bytes(const struct model_config *config, size_t rows)
{
    uint64_t logits = (uint64_t)rows * config->vocab_size * sizeof(float);
    uint64_t states = (uint64_t)rows * config->hidden_size * sizeof(float);
    return rows * sizeof(double) + (logits <= KEPT_LOGITS_BYTES ? logits : states);
}

/* ---- a candidate
 * ---------------------------------------------------------------------------------------------------------
 */

struct distance_run {
    struct model *model;
    const struct head_reference *reference;
    const struct hidden *hidden;
    size_t first_tile;           /* of hidden, that is compared first */
    size_t reference_first_tile; /* and its counterpart */
    double *values;              /* [tiles * TILE_ROWS] */
};

static void distance_task(void *context, size_t index, size_t thread)
{
    const struct distance_run *run = context;
    const struct head_reference *reference = run->reference;
    const struct hidden_tile *tile = &run->hidden->tiles[run->first_tile + index];
    size_t vocab = reference->vocab_size, row = (run->reference_first_tile + index) * TILE_ROWS;
    float *normed = run->model->scratch[thread].values, *logits = normed + TILE_ROWS * reference->hidden_size;
    float *remade = logits + TILE_ROWS * vocab;
    const float *original = reference->logits != NULL ? reference->logits + row * vocab : remade;
    if (reference->logits == NULL) {
        logits_tile(run->model, reference->normed + row * reference->hidden_size, tile->rows, remade);
    }
    norm_tile(run->model, run->hidden, tile, weights_final_norm(run->model->weights), normed);
    logits_tile(run->model, normed, tile->rows, logits);
    for (size_t r = 0; r < tile->rows; r++) {
        struct distance_row pair = {.count = vocab,
                                    .original = original + r * vocab,
                                    .candidate = logits + r * vocab,
                                    .original_scale = reference->scales[row + r],
                                    .candidate_scale =
                                        scale_of(run->model, reference->metric, logits + r * vocab)};
        run->values[index * TILE_ROWS + r] = run->model->backend->distance(kind_of(reference->metric), &pair);
    }
}

static bool sum_terms(const struct distance_run *run, size_t first_sequence, size_t sequence_count,
                      double *ret_terms, struct error *error)
{
    const struct head_reference *reference = run->reference;
    for (size_t s = 0; s < sequence_count; s++) {
        size_t row = (reference->first_tiles[first_sequence + s] - run->reference_first_tile) * TILE_ROWS;
        double sum = 0.0;
        for (size_t t = 0; t < reference->token_counts[first_sequence + s]; t++) {
            sum += run->values[row + t];
        }
        if (!isfinite(sum)) {
            return error_set(error, ERROR_NUMERIC, "NaN or infinity in the logits of sequence %zu",
                             first_sequence + s);
        }
        bool is_divergence =
            reference->metric != HEAD_METRIC_NORM && reference->metric != HEAD_METRIC_ANGULAR;
        ret_terms[s] = reference->metric == HEAD_METRIC_NORM ? sqrt(sum)
                       : is_divergence                       ? sum / (double)reference->vocab_size
                                                             : sum;
    }
    return true;
}

bool head_distance(struct model *model, const struct head_reference *reference, const struct hidden *hidden,
                   size_t first_sequence, size_t sequence_count, double *ret_terms, struct error *error)
{
    CHECK(first_sequence + sequence_count <= reference->sequence_count);
    bool is_whole = hidden->sequence_count == reference->sequence_count;
    CHECK(is_whole || hidden->sequence_count == sequence_count);
    size_t first = reference->first_tiles[first_sequence],
           count = reference->first_tiles[first_sequence + sequence_count] - first;
    for (size_t s = 0; s < sequence_count; s++) {
        size_t tokens = reference->token_counts[first_sequence + s];
        CHECK(hidden->token_counts[is_whole ? first_sequence + s : s] == tokens);
        model->work.token_heads += tokens;
    }
    OWNED_MEMORY double *values =
        memory_try_array(count * TILE_ROWS + 1, sizeof *values, "distances of tokens", error);
    struct distance_run run = {.model = model,
                               .reference = reference,
                               .hidden = hidden,
                               .first_tile = is_whole ? first : 0,
                               .reference_first_tile = first,
                               .values = values};
    size_t rows_of_logits = reference->logits != NULL ? 1 : 2;
    return values != NULL &&
           scratch_reserve_threads(
               model, TILE_ROWS * (reference->hidden_size + rows_of_logits * reference->vocab_size), error) &&
           pool_run(model->pool, count, distance_task, &run, model->cancel, error) &&
           sum_terms(&run, first_sequence, sequence_count, ret_terms, error);
}

double head_distance_total(const struct head_reference *reference, const double *terms)
{
    double sum = 0.0;
    for (size_t s = 0; s < reference->sequence_count; s++) {
        sum += terms[s];
    }
    size_t parts = reference->metric == HEAD_METRIC_NORM ? reference->sequence_count : reference->token_count;
    return parts > 0 ? sum / (double)parts : 0.0;
}
