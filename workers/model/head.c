/*
 * workers/model/head.c: final norm, vocabulary projection, and what is read off the logits. A row of logits is never whole in
 * memory for a log-likelihood: the device folds it into a log-sum-exp and an argmax piece by piece (backend.h).
 *
 * Rows that nobody asks about are left out before the projection. What is asked of a sequence decides how its rows lie, so a
 * row's bits depend on its own sequence still.
 */
#include "workers/model/model_internal.h"

#include "base/check.h"
#include "base/memory.h"
#include <math.h>
#include <string.h>

bool run_final_norm(struct model *model, const struct head_weights *head, size_t rows, const float *x,
                    float *out, struct error *error)
{
    size_t size = model->config->hidden_size;
    struct norm job = {.kind = model->architecture->norm,
                       .rows = rows,
                       .groups = 1,
                       .size = size,
                       .x = x,
                       .x_stride = size,
                       .weight = head->norm.weight,
                       .bias = head->norm.bias,
                       .epsilon = (float)model->config->norm_epsilon,
                       .out = out,
                       .out_stride = size};
    CHECK(head->norm.weight != NULL);
    return model->backend->norm(&model->exec, &job, error);
}

bool run_logits(struct model *model, const struct head_weights *head, size_t rows, const float *normed,
                const struct segment *segments, size_t segment_count, float *out, struct error *error)
{
    size_t vocab = model->config->vocab_size;
    struct matmul job = {.rows = rows,
                         .x = normed,
                         .x_stride = model->config->hidden_size,
                         .w = &head->matrix,
                         .out = out,
                         .out_stride = vocab,
                         .segments = segments,
                         .segment_count = segment_count};
    struct softcap cap = {
        .rows = rows, .count = vocab, .x = out, .stride = vocab, .cap = (float)model->config->final_softcap};
    return model->backend->matmul(&model->exec, &job, error) &&
           (cap.cap <= 0.0f || model->backend->softcap(&model->exec, &cap, error));
}

#define CACHED_BYTES                                                                                         \
    ((size_t)28 << 20) /* of logits that are made, scanned and compared before the next rows */

size_t head_logit_rows(size_t vocab)
{
    size_t rows = CACHED_BYTES / (vocab * sizeof(float)) / 16 * 16;
    return rows < 16 ? 16 : rows < LOGIT_ROWS ? rows : LOGIT_ROWS;
}

bool run_logsumexps(struct model *model, size_t rows, size_t count, const float *logits, size_t stride,
                    double *ret_logsumexps, struct error *error)
{
    struct head_scan scans[LOGIT_ROWS];
    struct scan job = {.rows = rows, .count = count, .logits = logits, .stride = stride, .scans = scans};
    CHECK(rows <= LOGIT_ROWS);
    if (!model->backend->scan(&model->exec, &job, error)) {
        return false;
    }
    for (size_t r = 0; r < rows; r++) {
        ret_logsumexps[r] = head_scan_logsumexp(&scans[r]);
    }
    return true;
}

/* ---- logits ------------------------------------------------------------------------------------------------------ */

static bool read_logits(struct model *model, const struct head_weights *head, const struct hidden *hidden,
                        size_t first_row, const struct chunk_list *list, float *ret_logits,
                        struct error *error)
{
    size_t size = hidden->hidden_size, vocab = model->config->vocab_size;
    if (!scratch_reserve(model, list->most_rows * (size + vocab), error)) {
        return false;
    }
    for (size_t i = 0; i < list->count; i++) {
        const struct chunk *chunk = &list->chunks[i];
        float *normed = model->scratch, *logits = normed + list->most_rows * size;
        const float *rows = hidden->rows + (first_row + chunk->first_row) * size;
        if (!run_final_norm(model, head, chunk->row_count, rows, normed, error) ||
            !run_logits(model, head, chunk->row_count, normed, chunk->segments, chunk->segment_count, logits,
                        error) ||
            !model->backend->memory_read(model->device, ret_logits + chunk->first_row * vocab, logits,
                                         chunk->row_count * vocab * sizeof *logits, error)) {
            return false;
        }
    }
    return true;
}

bool model_logits(struct model *model, const struct hidden *hidden, size_t sequence, size_t first,
                  size_t count, float *ret_logits, struct error *error)
{
    CHECK(sequence < hidden->sequence_count && first + count <= hidden->segments[sequence].count);
    struct segment segment = {.first_row = 0, .count = count, .position = first};
    struct head_weights head;
    FINISHED(chunk_list) list = {0};
    chunk_list_create(&segment, 1, LOGIT_ROWS, LOGIT_ROWS, &list);
    model->work.token_heads += count;
    if (!weights_acquire_head(model->weights, &head, error)) {
        return false;
    }
    bool is_done = read_logits(model, &head, hidden, hidden->segments[sequence].first_row + first, &list,
                               ret_logits, error);
    weights_release_head(model->weights);
    return is_done;
}

bool model_head_inputs(struct model *model, const struct hidden *hidden, size_t sequence, size_t first,
                       size_t count, float *ret_rows, struct error *error)
{
    CHECK(sequence < hidden->sequence_count && first + count <= hidden->segments[sequence].count);
    size_t size = hidden->hidden_size, start = hidden->segments[sequence].first_row + first;
    struct head_weights head;
    if (!scratch_reserve(model, LOGIT_ROWS * size, error) ||
        !weights_acquire_head(model->weights, &head, error)) {
        return false;
    }
    bool is_done = true;
    for (size_t done = 0; done < count && is_done; done += LOGIT_ROWS) {
        size_t rows = count - done < LOGIT_ROWS ? count - done : LOGIT_ROWS;
        is_done =
            run_final_norm(model, &head, rows, hidden->rows + (start + done) * size, model->scratch, error) &&
            model->backend->memory_read(model->device, ret_rows + done * size, model->scratch,
                                        rows * size * sizeof *ret_rows, error);
    }
    weights_release_head(model->weights);
    return is_done;
}

/* ---- negative log-likelihood ------------------------------------------------------------------------------------- */

/* The rows that have a target, sequence after sequence. */
struct scored {
    int32_t *rows;            /* [count], of the batch */
    int32_t *targets;         /* [count] */
    struct segment *segments; /* [segment_count]; positions count scored rows */
    size_t count, segment_count;
};

static void scored_finish(struct scored *scored)
{
    free(scored->rows);
    free(scored->targets);
    free(scored->segments);
}

/* Lists the rows with targets; zeroes what is not scored. */
static void list_scored(const struct model *model, const struct hidden *hidden,
                        const struct target_sequence *sequences, struct scored *scored)
{
    scored->rows = memory_create(hidden->row_count + 1, sizeof *scored->rows);
    scored->targets = memory_create(hidden->row_count + 1, sizeof *scored->targets);
    scored->segments = memory_create(hidden->sequence_count + 1, sizeof *scored->segments);
    for (size_t s = 0; s < hidden->sequence_count; s++) {
        const struct target_sequence *sequence = &sequences[s];
        size_t before = scored->count;
        for (size_t t = 0; t < hidden->segments[s].count; t++) {
            int32_t target = sequence->targets[t];
            CHECK(target < 0 || (size_t)target < model->config->vocab_size);
            sequence->nll[t] = 0.0;
            if (sequence->is_greedy != NULL) {
                sequence->is_greedy[t] = false;
            }
            if (target >= 0) {
                scored->rows[scored->count] = (int32_t)(hidden->segments[s].first_row + t);
                scored->targets[scored->count++] = target;
            }
        }
        if (scored->count > before) {
            scored->segments[scored->segment_count++] =
                (struct segment){.first_row = before, .count = scored->count - before};
        }
    }
}

static bool scan_chunk(struct model *model, const struct head_weights *head, const struct hidden *hidden,
                       const struct scored *scored, const struct chunk *chunk, struct head_scan *scans,
                       float *target_logits, struct error *error)
{
    size_t size = hidden->hidden_size;
    struct copy_rows gather = {.rows = chunk->row_count,
                               .size = size,
                               .to = model->scratch,
                               .to_stride = size,
                               .from = hidden->rows,
                               .from_stride = size,
                               .from_rows = scored->rows + chunk->first_row};
    struct head job = {.rows = chunk->row_count,
                       .x = model->scratch,
                       .x_stride = size,
                       .w = &head->matrix,
                       .softcap = (float)model->config->final_softcap,
                       .segments = chunk->segments,
                       .segment_count = chunk->segment_count,
                       .targets = scored->targets + chunk->first_row,
                       .scans = scans + chunk->first_row,
                       .target_logits = target_logits + chunk->first_row};
    return model->backend->copy_rows(&model->exec, &gather, error) &&
           run_final_norm(model, head, chunk->row_count, model->scratch, model->scratch, error) &&
           model->backend->head(&model->exec, &job, error);
}

static bool scan_scored(struct model *model, const struct head_weights *head, const struct hidden *hidden,
                        const struct scored *scored, struct head_scan *scans, float *target_logits,
                        struct error *error)
{
    FINISHED(chunk_list) list = {0};
    chunk_list_create(scored->segments, scored->segment_count, CHUNK_ROWS, CHUNK_ROWS, &list);
    if (!scratch_reserve(model, list.most_rows * hidden->hidden_size, error)) {
        return false;
    }
    for (size_t i = 0; i < list.count; i++) {
        if (!scan_chunk(model, head, hidden, scored, &list.chunks[i], scans, target_logits, error)) {
            return false;
        }
    }
    return true;
}

static bool finish_nll(const struct hidden *hidden, const struct target_sequence *sequences,
                       const struct head_scan *scans, const float *target_logits, struct error *error)
{
    size_t i = 0;
    for (size_t s = 0; s < hidden->sequence_count; s++) {
        const struct target_sequence *sequence = &sequences[s];
        for (size_t t = 0; t < hidden->segments[s].count; t++) {
            if (sequence->targets[t] < 0) {
                continue;
            }
            double nll = head_scan_logsumexp(&scans[i]) - (double)target_logits[i];
            if (!isfinite(nll)) {
                return error_set(error, ERROR_NUMERIC,
                                 "NaN or infinity in the logits of sequence %zu, token %zu", s, t);
            }
            sequence->nll[t] = nll;
            if (sequence->is_greedy != NULL) {
                sequence->is_greedy[t] = scans[i].index == (size_t)sequence->targets[t];
            }
            i++;
        }
    }
    return true;
}

bool model_nll(struct model *model, const struct hidden *hidden, struct target_sequence *targets,
               struct error *error)
{
    FINISHED(scored) scored = {0};
    list_scored(model, hidden, targets, &scored);
    model->work.token_heads += scored.count;
    OWNED_MEMORY struct head_scan *scans =
        memory_try_array(scored.count + 1, sizeof *scans, "scans of the head", error);
    OWNED_MEMORY float *logits = memory_try_array(scored.count + 1, sizeof *logits, "target logits", error);
    struct head_weights head;
    if (scans == NULL || logits == NULL || !weights_acquire_head(model->weights, &head, error)) {
        return false;
    }
    bool is_done = scan_scored(model, &head, hidden, &scored, scans, logits, error);
    weights_release_head(model->weights);
    return is_done && finish_nll(hidden, targets, scans, logits, error);
}
