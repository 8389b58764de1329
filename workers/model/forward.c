/*
 * workers/model/forward.c: embedding and sublayers.
 *
 *   attention   x = rmsnorm(h), q k v = x W_in^T, q and k turned by position
 *               per head: softmax(q k^T / sqrt(head_size)) v, causal; h += mixed heads W_o^T
 *   ffn         x = rmsnorm(h), gate up = x W_in^T, h += (silu(gate) * up) W_down^T
 *
 * Both are written over a span of tiles (see model_internal.h). Scratch of a span, in floats per row: normed
 * and result [hidden_size], projections [in_rows], and for attention the mixed heads [out_columns].
 */
#include "workers/model/model_internal.h"

#include "base/check.h"
#include "base/memory.h"
#include <string.h>

bool model_embed(struct model *model, const struct token_batch *batch, struct hidden *ret_hidden,
                 struct error *error)
{
    const float *embedding = weights_embedding(model->weights);
    size_t size = model->config->hidden_size, longest = 0;
    CHECK(batch->sequence_count == ret_hidden->sequence_count);
    for (size_t s = 0; s < batch->sequence_count; s++) {
        CHECK(batch->sequences[s].count == ret_hidden->token_counts[s]);
        float *rows = ret_hidden->rows + ret_hidden->first_rows[s] * size;
        longest = batch->sequences[s].count > longest ? batch->sequences[s].count : longest;
        for (size_t t = 0; t < batch->sequences[s].count; t++) {
            int32_t token = batch->sequences[s].tokens[t];
            CHECK(token >= 0 && (size_t)token < model->config->vocab_size);
            memcpy(rows + t * size, embedding + (size_t)token * size, size * sizeof *rows);
        }
    }
    return rope_extend(&model->rope, longest, error);
}

/* ---- a sublayer over a span ------------------------------------------------------------------ */

struct pass {
    const struct model *model;
    const struct span *span;
    const struct hidden_tile *tiles; /* [span->count] */
    const struct sublayer_weights *weights;
    const struct model_layer *layer;
    float *normed, *projected, *mixed, *result; /* [count * TILE_ROWS, ...] */
    float *scores;                              /* of this thread; NULL: each thread's own scratch */
    atomic_bool is_unsound;
};

void norm_tile(const struct model *model, const struct hidden *hidden, const struct hidden_tile *tile,
               const float *norm, float *out)
{
    size_t size = hidden->hidden_size;
    model->backend->rmsnorm(tile->rows, size, hidden->rows + tile->first_row * size, size, norm,
                            (float)model->config->norm_epsilon, out, size);
    memset(out + tile->rows * size, 0, (TILE_ROWS - tile->rows) * size * sizeof *out);
}

static void norm_task(void *context, size_t index, size_t thread)
{
    (void)thread;
    const struct pass *pass = context;
    norm_tile(pass->model, pass->span->hidden, &pass->tiles[index], pass->weights->norm,
              pass->normed + index * TILE_ROWS * pass->span->hidden->hidden_size);
}

static void add_task(void *context, size_t index, size_t thread)
{
    (void)thread;
    struct pass *pass = context;
    const struct hidden_tile *tile = &pass->tiles[index];
    size_t size = pass->span->hidden->hidden_size;
    if (!pass->model->backend->add(tile->rows * size, pass->span->hidden->rows + tile->first_row * size,
                                   pass->result + index * TILE_ROWS * size)) {
        atomic_store(&pass->is_unsound, true);
    }
}

static void silu_task(void *context, size_t index, size_t thread)
{
    (void)thread;
    const struct pass *pass = context;
    size_t width = pass->layer->intermediate_size;
    float *gate = pass->projected + index * TILE_ROWS * 2 * width;
    pass->model->backend->silu_mul(TILE_ROWS, width, gate, gate + width, 2 * width);
}

static void rope_task(void *context, size_t index, size_t thread)
{
    (void)thread;
    const struct pass *pass = context;
    const struct hidden_tile *tile = &pass->tiles[index];
    const struct rope *rope = &pass->model->rope;
    size_t head_size = pass->model->config->head_size, stride = pass->weights->in_rows,
           first = tile->index * TILE_ROWS;
    float *rows = pass->projected + index * TILE_ROWS * stride;
    pass->model->backend->rope(tile->rows, pass->layer->head_count + pass->layer->kv_head_count, head_size,
                               rope->cosines + first * rope->half, rope->sines + first * rope->half, rows,
                               stride);
    if (pass->span->sink != NULL) {
        size_t keys = pass->layer->head_count * head_size, kept = 2 * pass->layer->kv_head_count * head_size;
        for (size_t r = 0; r < tile->rows; r++) {
            memcpy(pass->span->sink->rows + (first + r) * kept, rows + r * stride + keys,
                   kept * sizeof *rows);
        }
    }
}

/* One tile of queries, the heads of one KV head. */
static void attention_task(void *context, size_t index, size_t thread)
{
    const struct pass *pass = context;
    size_t groups = pass->layer->kv_head_count, heads_per_kv = pass->layer->head_count / groups;
    size_t tile_index = index / groups, group = index % groups;
    const struct hidden_tile *tile = &pass->tiles[tile_index];
    size_t head_size = pass->model->config->head_size, stride = pass->weights->in_rows;
    const float *sequence = pass->projected + (tile_index - tile->index) * TILE_ROWS * stride;
    size_t keys = pass->layer->head_count * head_size, values = keys + groups * head_size;
    struct attention job = {.tile = tile->index,
                            .rows = tile->rows,
                            .first_head = group * heads_per_kv,
                            .head_count = heads_per_kv,
                            .heads_per_kv = heads_per_kv,
                            .head_size = head_size,
                            .q = sequence,
                            .k = sequence + keys,
                            .v = sequence + values,
                            .stride = stride,
                            .out = pass->mixed + (tile_index - tile->index) * TILE_ROWS * keys,
                            .out_stride = keys,
                            .scratch =
                                pass->scores != NULL ? pass->scores : pass->model->scratch[thread].values};
    pass->model->backend->attention(&job);
}

static bool run_matmul(const struct exec *exec, const struct pass *pass, const float *x, size_t x_stride,
                       const float *w, const float *bias, size_t n, size_t k, float *out, struct error *error)
{
    struct tile_matmul job = {.tile_count = pass->span->count,
                              .n = n,
                              .k = k,
                              .tiles = pass->tiles,
                              .x = x,
                              .w = w,
                              .bias = bias,
                              .out = out,
                              .x_stride = x_stride,
                              .out_stride = n};
    return tile_matmul_run(exec, &job, error);
}

static bool run_pass(const struct exec *exec, struct pass *pass, bool is_attention, struct error *error)
{
    const struct sublayer_weights *w = pass->weights;
    size_t tiles = pass->span->count, size = pass->span->hidden->hidden_size;
    if (!exec_run(exec, tiles, norm_task, pass, error) ||
        !run_matmul(exec, pass, pass->normed, size, w->in, w->in_bias, w->in_rows, size, pass->projected,
                    error)) {
        return false;
    }
    if (is_attention) {
        if (!exec_run(exec, tiles, rope_task, pass, error) ||
            !exec_run(exec, tiles * pass->layer->kv_head_count, attention_task, pass, error)) {
            return false;
        }
    } else if (!exec_run(exec, tiles, silu_task, pass, error)) {
        return false;
    }
    const float *inner = is_attention ? pass->mixed : pass->projected;
    size_t stride = is_attention ? w->out_columns : w->in_rows;
    return run_matmul(exec, pass, inner, stride, w->out, w->out_bias, size, w->out_columns, pass->result,
                      error) &&
           exec_run(exec, tiles, add_task, pass, error);
}

size_t sublayer_scratch(const struct model *model, size_t index, size_t tile_count)
{
    const struct sublayer *sublayer = &model->sublayers[index];
    const struct model_layer *layer = &model->config->layers[sublayer->layer];
    size_t heads = layer->head_count * model->config->head_size,
           kv = layer->kv_head_count * model->config->head_size;
    size_t widths = sublayer->kind == SUBLAYER_ATTENTION ? 2 * heads + 2 * kv : 2 * layer->intermediate_size;
    return tile_count * TILE_ROWS * (2 * model->config->hidden_size + widths);
}

size_t attention_thread_scratch(const struct hidden *hidden, const struct span *span)
{
    size_t most = 0;
    for (size_t i = span->first; i < span->first + span->count; i++) {
        most = hidden->tiles[i].index > most ? hidden->tiles[i].index : most;
    }
    return attention_scratch(most);
}

bool run_span(const struct exec *exec, size_t index, const struct span *span, float *scratch, float *scores,
              struct error *error)
{
    const struct model *model = exec->model;
    const struct sublayer *sublayer = &model->sublayers[index];
    bool is_attention = sublayer->kind == SUBLAYER_ATTENTION;
    struct sublayer_weights weights;
    if (!weights_acquire(model->weights, sublayer->layer, is_attention, &weights, error)) {
        return false;
    }
    size_t rows = span->count * TILE_ROWS, size = model->config->hidden_size;
    struct pass pass = {.model = model,
                        .span = span,
                        .tiles = span->hidden->tiles + span->first,
                        .weights = &weights,
                        .layer = &model->config->layers[sublayer->layer],
                        .normed = scratch,
                        .result = scratch + rows * size,
                        .projected = scratch + 2 * rows * size,
                        .mixed = scratch + 2 * rows * size + rows * weights.in_rows,
                        .scores = scores};
    bool is_done = run_pass(exec, &pass, is_attention, error);
    weights_release(model->weights, sublayer->layer, is_attention);
    if (is_done && atomic_load(&pass.is_unsound)) {
        return error_set(error, ERROR_NUMERIC, "NaN or infinity after sublayer %zu (%s of layer %zu)", index,
                         is_attention ? "attention" : "ffn", sublayer->layer);
    }
    return is_done;
}

/* ---- a sublayer over a batch ----------------------------------------------------------------- */

/* Spans that are handed out whole: sequences for attention, tiles for the FFN. */
struct handout {
    struct model *model;
    size_t index;
    struct hidden *hidden;
    size_t *first_tiles;  /* [sequence_count + 1] */
    size_t scratch_count; /* floats before the scores */
    struct error *errors; /* [thread_count] */
};

static void span_task(void *context, size_t index, size_t thread)
{
    struct handout *handout = context;
    struct span span = {.hidden = handout->hidden,
                        .first = handout->first_tiles != NULL ? handout->first_tiles[index] : index,
                        .count = 1};
    if (handout->first_tiles != NULL) {
        span.count = handout->first_tiles[index + 1] - span.first;
    }
    if (span.count == 0 || handout->errors[thread].code != ERROR_NONE) {
        return;
    }
    struct exec exec = {.model = handout->model, .thread = thread};
    float *scratch = handout->model->scratch[thread].values;
    if (!run_span(&exec, handout->index, &span, scratch, scratch + handout->scratch_count,
                  &handout->errors[thread])) {
        CHECK(handout->errors[thread].code != ERROR_NONE);
    }
}

static bool hand_out(struct handout *handout, size_t count, struct error *error)
{
    struct model *model = handout->model;
    bool is_done = pool_run(model->pool, count, span_task, handout, model->cancel, error);
    for (size_t i = 0; is_done && i < model->thread_count; i++) {
        if (handout->errors[i].code != ERROR_NONE) {
            if (error != NULL) {
                *error = handout->errors[i];
            }
            is_done = false;
        }
    }
    return is_done;
}

static size_t list_first_tiles(const struct hidden *hidden, size_t *first_tiles)
{
    size_t most = 0, tile = 0;
    for (size_t s = 0; s < hidden->sequence_count; s++) {
        size_t count = (hidden->token_counts[s] + TILE_ROWS - 1) / TILE_ROWS;
        first_tiles[s] = tile;
        tile += count;
        most = count > most ? count : most;
    }
    first_tiles[hidden->sequence_count] = tile;
    return most;
}

bool model_run_sublayer(struct model *model, size_t index, struct hidden *hidden, struct error *error)
{
    CHECK(index < model->sublayer_count);
    bool is_attention = model->sublayers[index].kind == SUBLAYER_ATTENTION;
    size_t pieces = is_attention ? hidden->sequence_count : hidden->tile_count;
    for (size_t s = 0; s < hidden->sequence_count; s++) {
        model->work.token_sublayers += hidden->token_counts[s];
    }
    if (pieces < model->thread_count) {
        struct span span = {.hidden = hidden, .count = hidden->tile_count};
        struct exec exec = {.model = model, .is_shared = true};
        size_t shared = model->thread_count;
        return scratch_reserve(model, shared, sublayer_scratch(model, index, hidden->tile_count), error) &&
               scratch_reserve_threads(model, attention_thread_scratch(hidden, &span), error) &&
               run_span(&exec, index, &span, model->scratch[shared].values, NULL, error);
    }
    OWNED_MEMORY size_t *first_tiles = memory_create(hidden->sequence_count + 1, sizeof *first_tiles);
    OWNED_MEMORY struct error *errors = memory_create(model->thread_count, sizeof *errors);
    size_t longest = list_first_tiles(hidden, first_tiles), span_tiles = is_attention ? longest : 1;
    struct handout handout = {.model = model,
                              .index = index,
                              .hidden = hidden,
                              .first_tiles = is_attention ? first_tiles : NULL,
                              .scratch_count = sublayer_scratch(model, index, span_tiles),
                              .errors = errors};
    return scratch_reserve_threads(model, handout.scratch_count + attention_scratch(longest), error) &&
           hand_out(&handout, pieces, error);
}

bool model_run_from(struct model *model, size_t first, const bool *removed, struct hidden *hidden,
                    struct error *error)
{
    for (size_t i = first; i < model->sublayer_count; i++) {
        if ((removed == NULL || !removed[i]) && !model_run_sublayer(model, i, hidden, error)) {
            return false;
        }
    }
    return true;
}
