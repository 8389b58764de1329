/*
 * workers/model/distance.c: how far a candidate's logits are from the original's. Rows are taken a few at a time: their logits
 * lie in scratch while log-sum-exp (or norm) and then the distance are taken; the original's logits are kept where they are few
 * enough and made again from its final-normed states otherwise, with the same bits.
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
    struct model *model; /* borrowed: whose device the rows lie on */
    size_t sequence_count, row_count, vocab_size, hidden_size;
    struct segment *segments; /* [sequence_count] */
    float *
        normed; /* [row_count, hidden_size], final-normed states; NULL where logits are kept; device memory */
    float *logits;  /* [row_count, vocab_size] or NULL; device memory */
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

/* What has to be known about rows of logits before they can be compared. */
static bool take_scales(struct model *model, enum head_metric metric, size_t rows, const float *logits,
                        double *ret_scales, struct error *error)
{
    size_t vocab = model->config->vocab_size;
    struct head_scan scans[LOGIT_ROWS];
    struct scan job = {.rows = rows, .count = vocab, .logits = logits, .stride = vocab, .scans = scans};
    CHECK(rows <= LOGIT_ROWS);
    if (metric == HEAD_METRIC_NORM) {
        memset(ret_scales, 0, rows * sizeof *ret_scales);
        return true;
    }
    if (metric == HEAD_METRIC_ANGULAR) {
        if (!model->backend->squares(&model->exec, rows, vocab, logits, vocab, ret_scales, error)) {
            return false;
        }
        for (size_t r = 0; r < rows; r++) {
            ret_scales[r] = sqrt(ret_scales[r]);
        }
        return true;
    }
    if (!model->backend->scan(&model->exec, &job, error)) {
        return false;
    }
    for (size_t r = 0; r < rows; r++) {
        ret_scales[r] = head_scan_logsumexp(&scans[r]);
    }
    return true;
}

uint64_t head_scratch_count(const struct model_config *config)
{
    return (uint64_t)LOGIT_ROWS * (config->hidden_size + 2 * (uint64_t)config->vocab_size) +
           (uint64_t)CHUNK_ROWS * config->hidden_size;
}

/* ---- the original ------------------------------------------------------------------------------------------------ */

static bool allocate_reference(struct head_reference *reference, struct error *error)
{
    const struct model *model = reference->model;
    uint64_t logits = (uint64_t)reference->row_count * reference->vocab_size * sizeof(float);
    size_t states = reference->row_count * reference->hidden_size * sizeof(float);
    reference->scales =
        memory_try_array(reference->row_count + 1, sizeof(double), "the original's log-sum-exps", error);
    if (logits <= KEPT_LOGITS_BYTES) {
        reference->logits = model->backend->memory_create(model->device, (size_t)logits + 1, "logits", error);
    } else {
        reference->normed =
            model->backend->memory_create(model->device, states + 1, "the original's states", error);
    }
    return reference->scales != NULL && (reference->logits != NULL || reference->normed != NULL);
}

static bool fill_chunk(struct head_reference *reference, const struct head_weights *head,
                       const struct hidden *original, const struct chunk *chunk, struct error *error)
{
    struct model *model = reference->model;
    size_t size = reference->hidden_size, vocab = reference->vocab_size, row = chunk->first_row;
    float *normed = reference->normed != NULL ? reference->normed + row * size : model->scratch;
    float *logits =
        reference->logits != NULL ? reference->logits + row * vocab : model->scratch + LOGIT_ROWS * size;
    return run_final_norm(model, head, chunk->row_count, original->rows + row * size, normed, error) &&
           run_logits(model, head, chunk->row_count, normed, chunk->segments, chunk->segment_count, logits,
                      error) &&
           take_scales(model, reference->metric, chunk->row_count, logits, reference->scales + row, error);
}

static bool fill_reference(struct head_reference *reference, const struct hidden *original,
                           struct error *error)
{
    struct model *model = reference->model;
    struct head_weights head;
    FINISHED(chunk_list) list = {0};
    chunk_list_create(original->segments, original->sequence_count, LOGIT_ROWS, LOGIT_ROWS, &list);
    if (!scratch_reserve(model, LOGIT_ROWS * (reference->hidden_size + reference->vocab_size), error) ||
        !weights_acquire_head(model->weights, &head, error)) {
        return false;
    }
    bool is_done = true;
    for (size_t i = 0; i < list.count && is_done; i++) {
        is_done = fill_chunk(reference, &head, original, &list.chunks[i], error);
    }
    weights_release_head(model->weights);
    return is_done;
}

static bool check_scales(const struct head_reference *reference, struct error *error)
{
    for (size_t s = 0; s < reference->sequence_count; s++) {
        const struct segment *segment = &reference->segments[s];
        for (size_t r = segment->first_row; r < segment->first_row + segment->count; r++) {
            if (!isfinite(reference->scales[r])) {
                return error_set(error, ERROR_NUMERIC,
                                 "NaN or infinity in the original's logits of sequence %zu", s);
            }
        }
    }
    return true;
}

struct head_reference *head_reference_create(struct model *model, const struct hidden *original,
                                             enum head_metric metric, struct error *error)
{
    OWNED(head_reference) reference = memory_create(1, sizeof *reference);
    reference->metric = metric;
    reference->model = model;
    reference->sequence_count = original->sequence_count;
    reference->row_count = original->row_count;
    reference->vocab_size = model->config->vocab_size;
    reference->hidden_size = original->hidden_size;
    reference->segments = memory_create(original->sequence_count + 1, sizeof *reference->segments);
    memcpy(reference->segments, original->segments, original->sequence_count * sizeof *original->segments);
    model->work.token_heads += reference->row_count;
    if (!allocate_reference(reference, error) || !fill_reference(reference, original, error) ||
        !check_scales(reference, error)) {
        return NULL;
    }
    return TAKE(reference);
}

void head_reference_destroy(struct head_reference *reference)
{
    if (reference == NULL) {
        return;
    }
    const struct model *model = reference->model;
    model->backend->memory_destroy(model->device, reference->normed);
    model->backend->memory_destroy(model->device, reference->logits);
    free(reference->segments);
    free(reference->scales);
    free(reference);
}

uint64_t head_reference_bytes(const struct model_config *config, size_t rows)
{
    uint64_t logits = (uint64_t)rows * config->vocab_size * sizeof(float);
    uint64_t states = (uint64_t)rows * config->hidden_size * sizeof(float);
    return rows * sizeof(double) + (logits <= KEPT_LOGITS_BYTES ? logits : states);
}

/* ---- a candidate ------------------------------------------------------------------------------------------------- */

/* Candidates against the same sequences of the original: rows of the first, rows of the second, ... */
struct comparison {
    struct model *model;
    const struct head_reference *reference;
    const struct hidden *hidden;
    size_t hidden_row, reference_row; /* that are compared first */
    size_t row_count;                 /* of each candidate */
    size_t candidate_count;
    double *values; /* [candidate_count, row_count] */
};

static bool compare_chunk(const struct comparison *run, const struct head_weights *head,
                          const struct chunk *chunk, size_t candidate, const float *original,
                          struct error *error)
{
    const struct head_reference *reference = run->reference;
    struct model *model = run->model;
    size_t size = reference->hidden_size, vocab = reference->vocab_size, rows = chunk->row_count;
    size_t row = candidate * run->row_count + chunk->first_row;
    float *normed = model->scratch, *logits = normed + LOGIT_ROWS * size;
    double scales[LOGIT_ROWS];
    struct distance job = {.kind = kind_of(reference->metric),
                           .rows = rows,
                           .count = vocab,
                           .original = original,
                           .candidate = logits,
                           .original_stride = vocab,
                           .candidate_stride = vocab,
                           .original_scales = reference->scales + run->reference_row + chunk->first_row,
                           .candidate_scales = scales,
                           .distances = run->values + row};
    const float *states = run->hidden->rows + (run->hidden_row + row) * size;
    return run_final_norm(model, head, rows, states, normed, error) &&
           run_logits(model, head, rows, normed, chunk->segments, chunk->segment_count, logits, error) &&
           take_scales(model, reference->metric, rows, logits, scales, error) &&
           model->backend->distance(&model->exec, &job, error);
}

/* The original's logits are made once for all candidates, where they are not kept. */
static bool compare_chunks(const struct comparison *run, const struct head_weights *head,
                           const struct chunk *chunk, struct error *error)
{
    const struct head_reference *reference = run->reference;
    struct model *model = run->model;
    size_t size = reference->hidden_size, vocab = reference->vocab_size;
    size_t row = run->reference_row + chunk->first_row;
    float *remade = model->scratch + LOGIT_ROWS * (size + vocab);
    if (reference->logits == NULL &&
        !run_logits(model, head, chunk->row_count, reference->normed + row * size, chunk->segments,
                    chunk->segment_count, remade, error)) {
        return false;
    }
    const float *original = reference->logits != NULL ? reference->logits + row * vocab : remade;
    for (size_t i = 0; i < run->candidate_count; i++) {
        if (!compare_chunk(run, head, chunk, i, original, error)) {
            return false;
        }
    }
    return true;
}

static bool compare(const struct comparison *run, const struct segment *segments, size_t count,
                    struct error *error)
{
    struct model *model = run->model;
    size_t vocab = run->reference->vocab_size, sets = run->reference->logits != NULL ? 1 : 2;
    struct head_weights head;
    FINISHED(chunk_list) list = {0};
    chunk_list_create(segments, count, LOGIT_ROWS, LOGIT_ROWS, &list);
    if (!scratch_reserve(model, LOGIT_ROWS * (run->reference->hidden_size + sets * vocab), error) ||
        !weights_acquire_head(model->weights, &head, error)) {
        return false;
    }
    bool is_done = true;
    for (size_t i = 0; i < list.count && is_done; i++) {
        /* Chunks start where their first segment does, counted from the first that is compared. */
        struct chunk chunk = list.chunks[i];
        chunk.first_row -= segments[0].first_row;
        is_done = compare_chunks(run, &head, &chunk, error);
    }
    weights_release_head(model->weights);
    return is_done;
}

static bool sum_terms(const struct comparison *run, size_t candidate, size_t first_sequence,
                      size_t sequence_count, double *ret_terms, struct error *error)
{
    const struct head_reference *reference = run->reference;
    for (size_t s = 0; s < sequence_count; s++) {
        const struct segment *segment = &reference->segments[first_sequence + s];
        size_t row = candidate * run->row_count + segment->first_row - run->reference_row;
        double sum = 0.0;
        for (size_t t = 0; t < segment->count; t++) {
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

/* The candidates' rows lie from hidden_row on. */
static bool take_distances(struct model *model, const struct head_reference *reference,
                           const struct hidden *hidden, size_t hidden_row, size_t candidate_count,
                           size_t first_sequence, size_t sequence_count, double *ret_terms,
                           struct error *error)
{
    const struct segment *segments = reference->segments + first_sequence;
    size_t rows = 0;
    CHECK(first_sequence + sequence_count <= reference->sequence_count);
    for (size_t s = 0; s < sequence_count; s++) {
        rows += segments[s].count;
    }
    if (rows == 0 || candidate_count == 0) {
        memset(ret_terms, 0, candidate_count * sequence_count * sizeof *ret_terms);
        return true;
    }
    model->work.token_heads += candidate_count * rows;
    OWNED_MEMORY double *values =
        memory_try_array(candidate_count * rows + 1, sizeof *values, "distances of tokens", error);
    struct comparison run = {.model = model,
                             .reference = reference,
                             .hidden = hidden,
                             .hidden_row = hidden_row,
                             .reference_row = segments[0].first_row,
                             .row_count = rows,
                             .candidate_count = candidate_count,
                             .values = values};
    bool is_good = values != NULL && compare(&run, segments, sequence_count, error);
    for (size_t i = 0; i < candidate_count && is_good; i++) {
        is_good = sum_terms(&run, i, first_sequence, sequence_count, ret_terms + i * sequence_count, error);
    }
    return is_good;
}

bool head_distance(struct model *model, const struct head_reference *reference, const struct hidden *hidden,
                   size_t first_sequence, size_t sequence_count, double *ret_terms, struct error *error)
{
    CHECK(first_sequence + sequence_count <= reference->sequence_count);
    bool is_whole = hidden->sequence_count == reference->sequence_count;
    CHECK(is_whole || hidden->sequence_count == sequence_count);
    for (size_t s = 0; s < sequence_count; s++) {
        CHECK(hidden->segments[is_whole ? first_sequence + s : s].count ==
              reference->segments[first_sequence + s].count);
    }
    size_t first_row = is_whole && sequence_count > 0 ? reference->segments[first_sequence].first_row : 0;
    return take_distances(model, reference, hidden, first_row, 1, first_sequence, sequence_count, ret_terms,
                          error);
}

bool head_distances(struct model *model, const struct head_reference *reference, const struct hidden *hidden,
                    size_t candidate_count, size_t first_sequence, size_t sequence_count, double *ret_terms,
                    struct error *error)
{
    CHECK(hidden->sequence_count == candidate_count * sequence_count);
    for (size_t s = 0; s < hidden->sequence_count; s++) {
        CHECK(hidden->segments[s].count == reference->segments[first_sequence + s % sequence_count].count);
    }
    return take_distances(model, reference, hidden, 0, candidate_count, first_sequence, sequence_count,
                          ret_terms, error);
}

double head_distance_total(const struct head_reference *reference, const double *terms)
{
    double sum = 0.0;
    for (size_t s = 0; s < reference->sequence_count; s++) {
        sum += terms[s];
    }
    size_t parts = reference->metric == HEAD_METRIC_NORM ? reference->sequence_count : reference->row_count;
    return parts > 0 ? sum / (double)parts : 0.0;
}
