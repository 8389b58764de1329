/*
 * workers/model/distance.c: how far a candidate's logits are from the original's. Rows are taken a few at a time: their logits
 * lie in scratch while log-sum-exp (or norm) and then the distance are taken; the original's logits are kept where they are few
 * enough and made again from its final-normed states otherwise, with the same bits.
 *
 * Values are taken per token, in double, and added per sequence in token order.
 */
#include "workers/model/gram_head.h"
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
    float *logits; /* [row_count, vocab_size] or NULL; device memory */
    /* Where no logits are needed: states of the original on the host, or what the factor makes of them. */
    struct gram_head gram; /* upper NULL: not in use */
    float *host_normed;    /* [row_count, hidden_size], NORM */
    double *projected;     /* [row_count, hidden_size], ANGULAR: of length 1 */
    double *scales;        /* [row_count]: log-sum-exp, or norm */
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
    return run_logsumexps(model, rows, vocab, logits, vocab, ret_scales, error);
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
    size_t rows = head_logit_rows(reference->vocab_size);
    chunk_list_create(original->segments, original->sequence_count, rows, rows, &list);
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

/* ---- the original by its Gram matrix ------------------------------------------------------------------------------ */

#define GRAM_ROWS 512 /* projected at once */

/* Where the Gram matrix takes no more memory than what was planned for a reference. */
static bool is_gram_wanted(const struct model *model, enum head_metric metric, size_t rows)
{
    return (metric == HEAD_METRIC_NORM || metric == HEAD_METRIC_ANGULAR) &&
           !(model->config->final_softcap > 0) &&
           gram_head_bytes(model->config, rows) <= head_reference_bytes(model->config, rows);
}

/* Final-normed rows on the host. */
static bool read_normed(struct model *model, const struct head_weights *head, size_t rows,
                        const float *states, float *ret_rows, struct error *error)
{
    size_t size = model->config->hidden_size;
    return run_final_norm(model, head, rows, states, model->scratch, error) &&
           model->backend->memory_read(model->device, ret_rows, model->scratch,
                                       rows * size * sizeof *ret_rows, error);
}

static void make_unit(size_t size, double *x)
{
    double square = 0.0;
    for (size_t i = 0; i < size; i++) {
        square += x[i] * x[i];
    }
    double factor = 1.0 / sqrt(square);
    for (size_t i = 0; i < size; i++) {
        x[i] *= factor;
    }
}

static double angle_between(size_t size, const double *u, const double *v)
{
    double apart = 0.0, along = 0.0;
    for (size_t i = 0; i < size; i++) {
        apart += (u[i] - v[i]) * (u[i] - v[i]);
        along += (u[i] + v[i]) * (u[i] + v[i]);
    }
    double angle = 2.0 * atan2(sqrt(apart), sqrt(along)), right = 0x1.921fb54442d18p+0;
    return angle > right ? right : angle; /* NaN stays NaN, and is told */
}

static bool fill_gram(struct head_reference *reference, const struct hidden *original, struct error *error)
{
    struct model *model = reference->model;
    size_t size = reference->hidden_size;
    bool is_angular = reference->metric == HEAD_METRIC_ANGULAR;
    struct head_weights head;
    OWNED_MEMORY float *rows = memory_try_array(GRAM_ROWS * size, sizeof *rows, "states", error);
    if (is_angular) {
        reference->projected = memory_try_array(reference->row_count * size + 1, sizeof(double),
                                                "the original's projected states", error);
    } else {
        reference->host_normed =
            memory_try_array(reference->row_count * size + 1, sizeof(float), "the original's states", error);
    }
    if (rows == NULL || (reference->projected == NULL && reference->host_normed == NULL) ||
        !gram_head_create(model, &reference->gram, error) ||
        !scratch_reserve(model, GRAM_ROWS * size, error) ||
        !weights_acquire_head(model->weights, &head, error)) {
        return false;
    }
    bool is_done = true;
    for (size_t done = 0; done < reference->row_count && is_done; done += GRAM_ROWS) {
        size_t left = reference->row_count - done, count = left < GRAM_ROWS ? left : GRAM_ROWS;
        float *to = is_angular ? rows : reference->host_normed + done * size;
        is_done = read_normed(model, &head, count, original->rows + done * size, to, error) &&
                  (!is_angular || gram_head_project(model, &reference->gram, count, rows, NULL,
                                                    reference->projected + done * size, error));
    }
    weights_release_head(model->weights);
    for (size_t r = 0; r < reference->row_count && is_done && is_angular; r++) {
        make_unit(size, reference->projected + r * size);
    }
    return is_done;
}

static struct head_reference *create(struct model *model, const struct hidden *original,
                                     enum head_metric metric, bool is_plain, struct error *error)
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
    if (!is_plain && is_gram_wanted(model, metric, reference->row_count)) {
        struct error reason = {0};
        if (fill_gram(reference, original, &reason)) {
            return TAKE(reference);
        }
        if (reason.code != ERROR_NUMERIC) {
            if (error != NULL) {
                *error = reason;
            }
            return NULL;
        }
        gram_head_finish(&reference->gram); /* no factor: by logits, then */
    }
    model->work.token_heads += reference->row_count;
    if (!allocate_reference(reference, error) || !fill_reference(reference, original, error) ||
        !check_scales(reference, error)) {
        return NULL;
    }
    return TAKE(reference);
}

struct head_reference *head_reference_create(struct model *model, const struct hidden *original,
                                             enum head_metric metric, struct error *error)
{
    return create(model, original, metric, false, error);
}

struct head_reference *head_reference_create_plain(struct model *model, const struct hidden *original,
                                                   enum head_metric metric, struct error *error)
{
    return create(model, original, metric, true, error);
}

void head_reference_destroy(struct head_reference *reference)
{
    if (reference == NULL) {
        return;
    }
    const struct model *model = reference->model;
    model->backend->memory_destroy(model->device, reference->normed);
    model->backend->memory_destroy(model->device, reference->logits);
    gram_head_finish(&reference->gram);
    free(reference->host_normed);
    free(reference->projected);
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

/* One run of head_compare, or of head_distance over rows of a larger batch. */
struct comparison {
    struct model *model;
    const struct head_reference *reference;
    const struct head_comparison *job;
    size_t hidden_row, reference_row; /* that are compared first */
    size_t row_count;                 /* of each candidate */
};

/* Rows of a chunk: consecutive, or those that `tokens` lists, by their place in the sequences that are compared. */
struct piece {
    size_t first_row, row_count;
    const int32_t *rows; /* NULL: consecutive */
    const struct segment *segments;
    size_t segment_count;
};

/* to[i] = from[the piece's i-th row], counted from `first`. */
static bool gather(struct model *model, const struct piece *piece, size_t size, const float *from, float *to,
                   struct error *error)
{
    struct copy_rows job = {.rows = piece->row_count,
                            .size = size,
                            .to = to,
                            .to_stride = size,
                            .from = from,
                            .from_stride = size,
                            .from_rows = piece->rows};
    return model->backend->copy_rows(&model->exec, &job, error);
}

static bool compare_slot(const struct comparison *run, const struct head_weights *head,
                         const struct piece *piece, size_t index, const float *original,
                         const double *original_scales, struct error *error)
{
    const struct head_reference *reference = run->reference;
    struct model *model = run->model;
    size_t size = reference->hidden_size, vocab = reference->vocab_size, rows = piece->row_count;
    float *normed = model->scratch, *logits = normed + LOGIT_ROWS * size;
    double scales[LOGIT_ROWS], distances[LOGIT_ROWS];
    struct distance job = {.kind = kind_of(reference->metric),
                           .rows = rows,
                           .count = vocab,
                           .original = original,
                           .candidate = logits,
                           .original_stride = vocab,
                           .candidate_stride = vocab,
                           .original_scales = original_scales,
                           .candidate_scales = scales,
                           .distances = distances};
    size_t first = run->hidden_row + run->job->slots[index] * run->row_count;
    const float *states =
        run->job->hidden->rows + (first + (piece->rows == NULL ? piece->first_row : 0)) * size;
    if (piece->rows != NULL && !gather(model, piece, size, states, normed, error)) {
        return false;
    }
    if (!run_final_norm(model, head, rows, piece->rows != NULL ? normed : states, normed, error) ||
        !run_logits(model, head, rows, normed, piece->segments, piece->segment_count, logits, error) ||
        !take_scales(model, reference->metric, rows, logits, scales, error) ||
        !model->backend->distance(&model->exec, &job, error)) {
        return false;
    }
    for (size_t r = 0; r < rows; r++) {
        run->job->values[index][piece->rows != NULL ? (size_t)piece->rows[r] : piece->first_row + r] =
            distances[r];
    }
    return true;
}

/* The original's logits of a piece, which all candidates are compared with: as they are kept, or in scratch. */
static bool take_original(const struct comparison *run, const struct head_weights *head,
                          const struct piece *piece, const float **ret_logits, struct error *error)
{
    const struct head_reference *reference = run->reference;
    struct model *model = run->model;
    size_t size = reference->hidden_size, vocab = reference->vocab_size;
    size_t row = run->reference_row + (piece->rows == NULL ? piece->first_row : 0);
    float *remade = model->scratch + LOGIT_ROWS * (size + vocab);
    *ret_logits = remade;
    if (reference->logits != NULL && piece->rows == NULL) {
        *ret_logits = reference->logits + row * vocab;
        return true;
    }
    if (reference->logits != NULL) {
        return gather(model, piece, vocab, reference->logits + row * vocab, remade, error);
    }
    const float *normed = reference->normed + row * size;
    if (piece->rows != NULL && !gather(model, piece, size, normed, model->scratch, error)) {
        return false;
    }
    return run_logits(model, head, piece->row_count, piece->rows != NULL ? model->scratch : normed,
                      piece->segments, piece->segment_count, remade, error);
}

static bool compare_piece(const struct comparison *run, const struct head_weights *head,
                          const struct piece *piece, struct error *error)
{
    const float *original = NULL;
    double scales[LOGIT_ROWS];
    for (size_t r = 0; r < piece->row_count; r++) {
        size_t row = piece->rows != NULL ? (size_t)piece->rows[r] : piece->first_row + r;
        scales[r] = run->reference->scales[run->reference_row + row];
    }
    if (!take_original(run, head, piece, &original, error)) {
        return false;
    }
    for (size_t i = 0; i < run->job->slot_count; i++) {
        if (!compare_slot(run, head, piece, i, original, scales, error)) {
            return false;
        }
    }
    return true;
}

static bool compare_all(const struct comparison *run, const struct head_weights *head, struct error *error)
{
    const struct segment *segments = run->reference->segments + run->job->first_sequence;
    FINISHED(chunk_list) list = {0};
    size_t rows = head_logit_rows(run->reference->vocab_size);
    chunk_list_create(segments, run->job->sequence_count, rows, rows, &list);
    for (size_t i = 0; i < list.count; i++) {
        /* Chunks start where their first segment does, counted from the first that is compared. */
        const struct chunk *chunk = &list.chunks[i];
        struct piece piece = {.first_row = chunk->first_row - segments[0].first_row,
                              .row_count = chunk->row_count,
                              .segments = chunk->segments,
                              .segment_count = chunk->segment_count};
        if (!compare_piece(run, head, &piece, error)) {
            return false;
        }
    }
    return true;
}

static bool compare_tokens(const struct comparison *run, const struct head_weights *head, struct error *error)
{
    int32_t rows[LOGIT_ROWS];
    size_t most = head_logit_rows(run->reference->vocab_size);
    for (size_t done = 0; done < run->job->token_count;) {
        struct piece piece = {.rows = rows};
        for (; piece.row_count < most && done < run->job->token_count; done++) {
            CHECK(run->job->tokens[done] < run->row_count);
            rows[piece.row_count++] = (int32_t)run->job->tokens[done];
        }
        if (!compare_piece(run, head, &piece, error)) {
            return false;
        }
    }
    return true;
}

/* Without logits; all tokens, whatever was asked for. */
static bool compare_projected(const struct comparison *run, struct error *error)
{
    struct model *model = run->model;
    const struct head_reference *reference = run->reference;
    size_t size = reference->hidden_size;
    struct head_weights head;
    OWNED_MEMORY float *rows = memory_try_array(GRAM_ROWS * size, sizeof *rows, "states", error);
    OWNED_MEMORY double *projected =
        memory_try_array(GRAM_ROWS * size, sizeof *projected, "projected states", error);
    if (rows == NULL || projected == NULL || !scratch_reserve(model, GRAM_ROWS * size, error) ||
        !weights_acquire_head(model->weights, &head, error)) {
        return false;
    }
    bool is_done = true;
    for (size_t at = 0; at < run->job->slot_count * run->row_count && is_done;) {
        size_t slot = at / run->row_count, row = at % run->row_count;
        size_t left = run->row_count - row, count = left < GRAM_ROWS ? left : GRAM_ROWS;
        size_t from = run->hidden_row + run->job->slots[slot] * run->row_count + row;
        size_t original = (run->reference_row + row) * size;
        const float *minus = reference->host_normed != NULL ? reference->host_normed + original : NULL;
        is_done = read_normed(model, &head, count, run->job->hidden->rows + from * size, rows, error) &&
                  gram_head_project(model, &reference->gram, count, rows, minus, projected, error);
        for (size_t r = 0; r < count && is_done; r++) {
            double *x = projected + r * size, square = 0.0;
            for (size_t i = 0; i < size && minus != NULL; i++) {
                square += x[i] * x[i];
            }
            if (minus == NULL) {
                make_unit(size, x);
            }
            run->job->values[slot][row + r] =
                minus != NULL ? square : angle_between(size, reference->projected + original + r * size, x);
        }
        at += count;
    }
    weights_release_head(model->weights);
    return is_done;
}

static bool compare(const struct comparison *run, struct error *error)
{
    struct model *model = run->model;
    const struct head_reference *reference = run->reference;
    size_t sets = reference->logits != NULL && run->job->tokens == NULL ? 1 : 2;
    struct head_weights head;
    size_t count = run->job->tokens != NULL ? run->job->token_count : run->row_count;
    if (count == 0 || run->job->slot_count == 0) {
        return true;
    }
    if (reference->gram.upper != NULL) {
        return compare_projected(run, error);
    }
    model->work.token_heads += run->job->slot_count * count;
    if (!scratch_reserve(model, LOGIT_ROWS * (reference->hidden_size + sets * reference->vocab_size),
                         error) ||
        !weights_acquire_head(model->weights, &head, error)) {
        return false;
    }
    bool is_done =
        run->job->tokens != NULL ? compare_tokens(run, &head, error) : compare_all(run, &head, error);
    weights_release_head(model->weights);
    return is_done;
}

static size_t count_rows(const struct head_reference *reference, size_t first_sequence, size_t sequence_count)
{
    size_t rows = 0;
    CHECK(first_sequence + sequence_count <= reference->sequence_count);
    for (size_t s = first_sequence; s < first_sequence + sequence_count; s++) {
        rows += reference->segments[s].count;
    }
    return rows;
}

bool head_term(const struct head_reference *reference, size_t sequence, const double *values,
               double *ret_term, struct error *error)
{
    double sum = 0.0;
    for (size_t t = 0; t < reference->segments[sequence].count; t++) {
        sum += values[t];
    }
    if (!isfinite(sum)) {
        return error_set(error, ERROR_NUMERIC, "NaN or infinity in the logits of sequence %zu", sequence);
    }
    bool is_divergence = reference->metric != HEAD_METRIC_NORM && reference->metric != HEAD_METRIC_ANGULAR;
    *ret_term = reference->metric == HEAD_METRIC_NORM ? sqrt(sum)
                : is_divergence                       ? sum / (double)reference->vocab_size
                                                      : sum;
    return true;
}

bool head_distance(struct model *model, const struct head_reference *reference, const struct hidden *hidden,
                   size_t first_sequence, size_t sequence_count, double *ret_terms, struct error *error)
{
    size_t rows = count_rows(reference, first_sequence, sequence_count), slot = 0;
    bool is_whole = hidden->sequence_count == reference->sequence_count;
    CHECK(is_whole || hidden->sequence_count == sequence_count);
    if (sequence_count == 0) {
        return true;
    }
    const struct segment *segments = reference->segments + first_sequence;
    for (size_t s = 0; s < sequence_count; s++) {
        CHECK(hidden->segments[is_whole ? first_sequence + s : s].count == segments[s].count);
    }
    OWNED_MEMORY double *values = memory_try_array(rows + 1, sizeof *values, "distances of tokens", error);
    struct head_comparison job = {.hidden = hidden,
                                  .slots = &slot,
                                  .slot_count = 1,
                                  .first_sequence = first_sequence,
                                  .sequence_count = sequence_count,
                                  .values = &values};
    struct comparison run = {.model = model,
                             .reference = reference,
                             .job = &job,
                             .hidden_row = is_whole ? segments[0].first_row : 0,
                             .reference_row = segments[0].first_row,
                             .row_count = rows};
    bool is_good = values != NULL && compare(&run, error);
    for (size_t s = 0; s < sequence_count && is_good; s++) {
        is_good = head_term(reference, first_sequence + s,
                            values + segments[s].first_row - segments[0].first_row, &ret_terms[s], error);
    }
    return is_good;
}

bool head_compare(struct model *model, const struct head_reference *reference,
                  const struct head_comparison *comparison, struct error *error)
{
    size_t rows = count_rows(reference, comparison->first_sequence, comparison->sequence_count);
    for (size_t i = 0; i < comparison->slot_count; i++) {
        CHECK((comparison->slots[i] + 1) * rows <= comparison->hidden->row_count);
    }
    struct comparison run = {.model = model,
                             .reference = reference,
                             .job = comparison,
                             .reference_row =
                                 rows > 0 ? reference->segments[comparison->first_sequence].first_row : 0,
                             .row_count = rows};
    CHECK(comparison->tokens == NULL || model_rows_are_free(model));
    return compare(&run, error);
}

bool head_reference_is_small(const struct head_reference *reference)
{
    return reference->gram.upper != NULL;
}

bool model_rows_are_free(const struct model *model)
{
    /* Libraries work on tiles of a sequence's rows (cpu.h); our own kernels do not. */
    const char *name = device_name(model->device);
    return strcmp(name, "native") == 0 || strcmp(name, "reference") == 0;
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
