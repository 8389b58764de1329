/*
 * workers/model/forward.c: one sublayer over a span of rows, for every family (the steps: architecture.h), and batches cut into
 * spans.
 *
 * Scratch of a span, in floats a row:
 *   attention   normed, later the result [hidden]; q k v [in_rows]; mixed heads [heads * head_size]
 *   ffn         normed [hidden]; gate up [in_rows]; result [hidden]
 *   experts     the same, for the rows that an expert gets, behind one copy of all normed rows; router logits [experts]
 */
#include "workers/model/model_internal.h"

#include "base/check.h"
#include "base/memory.h"
#include <math.h>
#include <string.h>

struct pass {
    struct model *model;
    const struct backend *backend;
    const struct exec *exec;
    const struct span *span;
    const struct sublayer_weights *weights;
    const struct model_layer *layer;
    const float *source; /* what the sublayer reads: rows, or the branch */
    bool is_finite;
    /* For the tap, beside span's. */
    size_t index, expert;
    const int32_t *numbers; /* of the rows that the expert gets */
    const float *weights_of_rows;
};

static bool is_decoding(const struct span *span)
{
    return span->cache != NULL && span->cache->first_rows != NULL;
}

/* Shows rows of `size` elements at a point of the sublayer. */
static bool show(const struct pass *pass, enum tap_point point, size_t rows, const float *values, size_t size,
                 size_t stride, struct error *error)
{
    struct tap_rows shown = {.point = point,
                             .sublayer = pass->index,
                             .layer = pass->model->sublayers[pass->index].layer,
                             .expert = pass->expert,
                             .rows = rows,
                             .size = size,
                             .stride = stride,
                             .values = (float *)(uintptr_t)values,
                             .numbers = pass->numbers,
                             .weights = pass->weights_of_rows};
    return tap_show(pass->model, pass->span, &shown, error);
}

static bool run_norm(const struct pass *pass, const struct norm_weights *norm, size_t rows, size_t groups,
                     size_t size, const float *x, size_t x_stride, float *out, size_t out_stride,
                     struct error *error)
{
    struct norm job = {.kind = pass->model->architecture->norm,
                       .rows = rows,
                       .groups = groups,
                       .size = size,
                       .x = x,
                       .x_stride = x_stride,
                       .weight = norm->weight,
                       .bias = norm->bias,
                       .epsilon = (float)pass->model->config->norm_epsilon,
                       .out = out,
                       .out_stride = out_stride};
    return pass->backend->norm(pass->exec, &job, error);
}

static bool run_matmul(const struct pass *pass, size_t rows, const float *x, size_t x_stride,
                       const struct matrix *w, const float *bias, float *out, size_t out_stride,
                       struct error *error)
{
    /* Rows that experts share out are each alone: which of them meet depends on the batch. */
    bool is_whole =
        rows == pass->span->row_count && !is_decoding(pass->span) && pass->layer->expert_count == 0;
    struct matmul job = {.rows = rows,
                         .x = x,
                         .x_stride = x_stride,
                         .w = w,
                         .bias = bias,
                         .out = out,
                         .out_stride = out_stride,
                         .segments = is_whole ? pass->span->segments : NULL,
                         .segment_count = is_whole ? pass->span->segment_count : 0};
    return pass->backend->matmul(pass->exec, &job, error);
}

/* Norm before the sublayer into `out`, or the rows as they are where the family has none there. */
static bool prepare_input(const struct pass *pass, float *out, const float **ret_x, struct error *error)
{
    size_t size = pass->model->config->hidden_size;
    if (pass->model->architecture->norm_placement == NORM_AFTER) {
        *ret_x = pass->source;
        return true;
    }
    *ret_x = out;
    return run_norm(pass, &pass->weights->norm, pass->span->row_count, 1, size, pass->source, size, out, size,
                    error);
}

/* rows += result, with the norms that come after. */
static bool add_result(struct pass *pass, float *result, struct error *error)
{
    size_t size = pass->model->config->hidden_size, rows = pass->span->row_count;
    if (pass->weights->post_norm.weight != NULL &&
        !run_norm(pass, &pass->weights->post_norm, rows, 1, size, result, size, result, size, error)) {
        return false;
    }
    struct add job = {.rows = rows,
                      .size = size,
                      .to = pass->span->rows,
                      .to_stride = size,
                      .from = result,
                      .from_stride = size};
    if (!pass->backend->add(pass->exec, &job, &pass->is_finite, error)) {
        return false;
    }
    return pass->model->architecture->norm_placement != NORM_AFTER ||
           run_norm(pass, &pass->weights->norm, rows, 1, size, pass->span->rows, size, pass->span->rows, size,
                    error);
}

/* ---- attention --------------------------------------------------------------------------------------------------- */

static bool is_long(const struct model *model, const struct segment *segment)
{
    return segment->position + segment->count > model->config->ropes[0].scaling.original_context_tokens;
}

/* q and k of a row lie side by side, so they turn together. Sequences that use the same table go in one job. */
static bool turn(const struct pass *pass, float *projected, size_t stride, struct error *error)
{
    const struct model *model = pass->model;
    const struct rope_table *tables = model->ropes[pass->layer->rope];
    const struct span *span = pass->span;
    if (model->config->position_kind != POSITION_ROPE) {
        return true;
    }
    for (size_t first = 0, end = 0; first < span->segment_count; first = end) {
        bool uses_long = tables[1].half != 0 && is_long(model, &span->segments[first]);
        end = first + 1;
        while (end < span->segment_count &&
               (tables[1].half == 0 || is_long(model, &span->segments[end]) == uses_long)) {
            end++;
        }
        const struct rope_table *table = &tables[uses_long ? 1 : 0];
        struct rope job = {.segments = span->segments + first,
                           .segment_count = end - first,
                           .heads = pass->layer->head_count + pass->layer->kv_head_count,
                           .head_size = model->config->head_size,
                           .rotary_size = model->config->rotary_size,
                           .cosines = table->cosines,
                           .sines = table->sines,
                           .x = projected,
                           .stride = stride};
        if (!pass->backend->rope(pass->exec, &job, error)) {
            return false;
        }
    }
    return true;
}

static bool normalise_heads(const struct pass *pass, float *projected, size_t stride, struct error *error)
{
    size_t head_size = pass->model->config->head_size, rows = pass->span->row_count;
    float *keys = projected + pass->layer->head_count * head_size;
    if (pass->weights->q_norm.weight == NULL) {
        return true;
    }
    return run_norm(pass, &pass->weights->q_norm, rows, pass->layer->head_count, head_size, projected, stride,
                    projected, stride, error) &&
           run_norm(pass, &pass->weights->k_norm, rows, pass->layer->kv_head_count, head_size, keys, stride,
                    keys, stride, error);
}

static bool keep_keys_and_values(const struct pass *pass, const float *keys, size_t stride,
                                 struct error *error)
{
    const struct kv_cache *cache = pass->span->cache;
    size_t width = 2 * pass->layer->kv_head_count * pass->model->config->head_size;
    struct copy_rows job = {.rows = pass->span->row_count,
                            .size = width,
                            .to = cache != NULL ? cache->rows : NULL,
                            .to_stride = width,
                            .from = keys,
                            .from_stride = stride,
                            .to_rows = cache != NULL ? cache->to_rows : NULL};
    return cache == NULL || pass->backend->copy_rows(pass->exec, &job, error);
}

static bool attend(const struct pass *pass, const float *projected, size_t stride, float *mixed,
                   struct error *error)
{
    const struct model_config *config = pass->model->config;
    const struct model_layer *layer = pass->layer;
    const struct span *span = pass->span;
    size_t heads = layer->head_count * config->head_size, kv = layer->kv_head_count * config->head_size;
    if (is_decoding(span)) {
        struct attention_rows job = {.rows = span->row_count,
                                     .first_rows = span->cache->first_rows,
                                     .counts = span->cache->counts,
                                     .head_count = layer->head_count,
                                     .kv_head_count = layer->kv_head_count,
                                     .head_size = config->head_size,
                                     .window = layer->window_tokens,
                                     .scale = (float)config->attention_scale,
                                     .softcap = (float)config->attention_softcap,
                                     .q = projected,
                                     .q_stride = stride,
                                     .keys = span->cache->rows,
                                     .values = span->cache->rows + kv,
                                     .kv_stride = 2 * kv,
                                     .out = mixed,
                                     .out_stride = heads};
        return pass->backend->attention_rows(pass->exec, &job, error);
    }
    struct attention job = {.segments = span->segments,
                            .segment_count = span->segment_count,
                            .head_count = layer->head_count,
                            .kv_head_count = layer->kv_head_count,
                            .head_size = config->head_size,
                            .window = layer->window_tokens,
                            .is_causal = !pass->model->architecture->is_encoder,
                            .dtype = device_dtype(pass->model->device),
                            .scale = (float)config->attention_scale,
                            .softcap = (float)config->attention_softcap,
                            .q = projected,
                            .k = projected + heads,
                            .v = projected + heads + kv,
                            .q_stride = stride,
                            .kv_stride = stride,
                            .out = mixed,
                            .out_stride = heads};
    return pass->backend->attention(pass->exec, &job, error);
}

static bool run_attention(struct pass *pass, float *scratch, struct error *error)
{
    const struct sublayer_weights *w = pass->weights;
    size_t rows = pass->span->row_count, size = pass->model->config->hidden_size, stride = w->in.n;
    float *normed = scratch, *projected = normed + rows * size, *mixed = projected + rows * stride;
    const float *keys = projected + pass->layer->head_count * pass->model->config->head_size, *x = NULL;
    return prepare_input(pass, normed, &x, error) &&
           show(pass, TAP_ATTENTION_INPUT, rows, x, size, size, error) &&
           run_matmul(pass, rows, x, size, &w->in, w->in_bias, projected, stride, error) &&
           normalise_heads(pass, projected, stride, error) && turn(pass, projected, stride, error) &&
           keep_keys_and_values(pass, keys, stride, error) && attend(pass, projected, stride, mixed, error) &&
           show(pass, TAP_HEADS, rows, mixed, w->out.k, w->out.k, error) &&
           run_matmul(pass, rows, mixed, w->out.k, &w->out, w->out_bias, normed, size, error) &&
           show(pass, TAP_ATTENTION_OUTPUT, rows, normed, size, size, error) &&
           add_result(pass, normed, error);
}

/* ---- FFN --------------------------------------------------------------------------------------------------------- */

/* out = the FFN of normed rows x */
static bool run_projections(const struct pass *pass, const struct ffn_weights *w, size_t rows, const float *x,
                            float *projected, float *out, struct error *error)
{
    size_t size = pass->model->config->hidden_size, stride = w->in.n, width = w->out.k;
    struct activate job = {.kind = pass->model->config->activation,
                           .rows = rows,
                           .count = width,
                           .x = projected,
                           .up = pass->model->architecture->is_gated ? projected + width : NULL,
                           .stride = stride};
    return run_matmul(pass, rows, x, size, &w->in, w->in_bias, projected, stride, error) &&
           pass->backend->activate(pass->exec, &job, error) &&
           show(pass, TAP_CHANNELS, rows, projected, width, stride, error) &&
           run_matmul(pass, rows, projected, stride, &w->out, w->out_bias, out, size, error) &&
           show(pass, TAP_FFN_OUTPUT, rows, out, size, size, error);
}

static bool run_ffn(struct pass *pass, float *scratch, struct error *error)
{
    const struct ffn_weights *w = &pass->weights->ffn;
    size_t rows = pass->span->row_count, size = pass->model->config->hidden_size;
    float *normed = scratch, *result = normed + rows * size, *projected = result + rows * size;
    const float *x = NULL;
    return prepare_input(pass, normed, &x, error) && show(pass, TAP_FFN_INPUT, rows, x, size, size, error) &&
           run_projections(pass, w, rows, x, projected, result, error) && add_result(pass, result, error);
}

/* Which rows go to which expert, with what weight. */
struct routing {
    int32_t *experts; /* [rows, active] */
    float *weights;   /* [rows, active] */
    int32_t *rows;    /* those of one expert, ascending */
    float *factors;
};

static size_t list_rows(const struct routing *routing, size_t rows, size_t active, size_t expert)
{
    size_t count = 0;
    for (size_t i = 0; i < rows * active; i++) {
        if (routing->experts[i] == (int32_t)expert) {
            routing->rows[count] = (int32_t)(i / active);
            routing->factors[count++] = routing->weights[i];
        }
    }
    return count;
}

/* rows[those of the expert] += weight * expert(normed row) */
static bool run_expert(struct pass *pass, size_t expert, const struct routing *routing, const float *normed,
                       float *scratch, struct error *error)
{
    size_t size = pass->model->config->hidden_size;
    size_t count = list_rows(routing, pass->span->row_count, pass->layer->active_expert_count, expert);
    float *gathered = scratch, *result = gathered + count * size, *projected = result + count * size;
    struct copy_rows gather = {.rows = count,
                               .size = size,
                               .to = gathered,
                               .to_stride = size,
                               .from = normed,
                               .from_stride = size,
                               .from_rows = routing->rows};
    struct add scatter = {.rows = count,
                          .size = size,
                          .to = pass->span->rows,
                          .to_stride = size,
                          .from = result,
                          .from_stride = size,
                          .to_rows = routing->rows,
                          .factors = routing->factors};
    bool is_finite = true;
    pass->expert = expert;
    pass->numbers = routing->rows;
    pass->weights_of_rows = routing->factors;
    bool is_done = count == 0 || (pass->backend->copy_rows(pass->exec, &gather, error) &&
                                  run_projections(pass, &pass->weights->experts[expert], count, gathered,
                                                  projected, result, error) &&
                                  pass->backend->add(pass->exec, &scatter, &is_finite, error));
    pass->is_finite = pass->is_finite && is_finite;
    return is_done;
}

static bool run_experts(struct pass *pass, float *scratch, struct error *error)
{
    size_t rows = pass->span->row_count, size = pass->model->config->hidden_size,
           active = pass->layer->active_expert_count, experts = pass->layer->expert_count;
    OWNED_MEMORY int32_t *chosen = memory_create(rows * active + 1, sizeof *chosen);
    OWNED_MEMORY float *chosen_weights = memory_create(rows * active + 1, sizeof *chosen_weights);
    OWNED_MEMORY int32_t *expert_rows = memory_create(rows + 1, sizeof *expert_rows);
    OWNED_MEMORY float *factors = memory_create(rows + 1, sizeof *factors);
    struct routing routing = {chosen, chosen_weights, expert_rows, factors};
    float *normed = scratch, *logits = normed + rows * size, *rest = logits + rows * experts;
    struct route job = {.rows = rows,
                        .expert_count = experts,
                        .active_count = active,
                        .is_normalised = pass->model->config->normalises_experts,
                        .logits = logits,
                        .stride = experts,
                        .experts = chosen,
                        .weights = chosen_weights};
    const float *x = NULL;
    CHECK(pass->model->architecture->norm_placement == NORM_BEFORE);
    if (!prepare_input(pass, normed, &x, error) || !show(pass, TAP_FFN_INPUT, rows, x, size, size, error) ||
        !run_matmul(pass, rows, normed, size, &pass->weights->router, NULL, logits, experts, error) ||
        !pass->backend->route(pass->exec, &job, error)) {
        return false;
    }
    pass->is_finite = true;
    for (size_t e = 0; e < experts; e++) {
        if (!run_expert(pass, e, &routing, normed, rest, error)) {
            return false;
        }
    }
    return true;
}

/* ---- a sublayer over a span -------------------------------------------------------------------------------------- */

size_t sublayer_scratch(const struct model *model, size_t index, size_t row_count)
{
    const struct sublayer *sublayer = &model->sublayers[index];
    const struct model_layer *layer = &model->config->layers[sublayer->layer];
    size_t size = model->config->hidden_size;
    if (sublayer->kind == SUBLAYER_ATTENTION) {
        return row_count *
               (size + (2 * layer->head_count + 2 * layer->kv_head_count) * model->config->head_size);
    }
    size_t projected = (model->architecture->is_gated ? 2 : 1) * layer->intermediate_size;
    return row_count * (2 * size + projected + (layer->expert_count > 0 ? size + layer->expert_count : 0));
}

bool run_span(struct model *model, size_t index, const struct sublayer_weights *weights,
              const struct span *span, float *scratch, struct error *error)
{
    const struct sublayer *sublayer = &model->sublayers[index];
    bool is_attention = sublayer->kind == SUBLAYER_ATTENTION;
    struct pass pass = {.model = model,
                        .backend = model->backend,
                        .exec = &model->exec,
                        .span = span,
                        .weights = weights,
                        .index = index,
                        .layer = &model->config->layers[sublayer->layer],
                        .source = span->branch != NULL ? span->branch : span->rows};
    bool is_done = is_attention                   ? run_attention(&pass, scratch, error)
                   : pass.layer->expert_count > 0 ? run_experts(&pass, scratch, error)
                                                  : run_ffn(&pass, scratch, error);
    if (is_done && !pass.is_finite) {
        return error_set(error, ERROR_NUMERIC, "NaN or infinity after sublayer %zu (%s of layer %zu)", index,
                         is_attention ? "attention" : "ffn", sublayer->layer);
    }
    return is_done;
}

/* ---- a sublayer over a batch ------------------------------------------------------------------------------------- */

/* cache: of the whole batch, or NULL. */
static bool run_chunks(struct model *model, size_t index, const struct sublayer_weights *weights,
                       struct hidden *hidden, bool reads_branch, const struct kv_cache *cache,
                       struct error *error)
{
    FINISHED(chunk_list) list = {0};
    bool is_attention = model->sublayers[index].kind == SUBLAYER_ATTENTION;
    size_t rows = model->backend->is_host ? CHUNK_ROWS : DEVICE_CHUNK_ROWS;
    chunk_list_create(hidden->segments, hidden->sequence_count, is_attention ? WHOLE : rows, rows, &list);
    if (!scratch_reserve(model, sublayer_scratch(model, index, list.most_rows), error)) {
        return false;
    }
    for (size_t i = 0; i < list.count; i++) {
        const struct chunk *chunk = &list.chunks[i];
        size_t offset = chunk->first_row * hidden->hidden_size;
        struct kv_cache part = {0};
        if (cache != NULL) {
            part = *cache;
            part.to_rows += chunk->first_row;
            part.first_rows += part.first_rows != NULL ? chunk->first_row : 0;
            part.counts += part.counts != NULL ? chunk->first_row : 0;
        }
        struct span span = {.rows = hidden->rows + offset,
                            .branch = reads_branch ? hidden->branch + offset : NULL,
                            .row_count = chunk->row_count,
                            .segments = chunk->segments,
                            .segment_count = chunk->segment_count,
                            .cache = cache != NULL && is_attention ? &part : NULL,
                            .first_row = chunk->first_row};
        if (!run_span(model, index, weights, &span, model->scratch, error)) {
            return false;
        }
    }
    return true;
}

/* A parallel layer's attention leaves what it read for its FFN; any other sublayer's run makes that stale. */
static bool keep_branch(const struct model *model, const struct sublayer *sublayer, struct hidden *hidden,
                        bool *ret_reads_branch, struct error *error)
{
    *ret_reads_branch = false;
    if (hidden->branch == NULL) {
        return true;
    }
    if (sublayer->kind != SUBLAYER_ATTENTION) {
        *ret_reads_branch = hidden->branch_layer == sublayer->layer;
        hidden->branch_layer = SIZE_MAX;
        return true;
    }
    hidden->branch_layer = sublayer->layer;
    return model->backend->memory_copy(model->device, hidden->branch, hidden->rows,
                                       hidden->row_count * hidden->hidden_size * sizeof *hidden->rows, error);
}

bool run_sublayer_cached(struct model *model, size_t index, struct hidden *hidden,
                         const struct kv_cache *cache, struct error *error)
{
    CHECK(index < model->sublayer_count);
    const struct sublayer *sublayer = &model->sublayers[index];
    bool is_attention = sublayer->kind == SUBLAYER_ATTENTION, reads_branch = false;
    struct sublayer_weights weights;
    model->work.token_sublayers += hidden->row_count;
    if (!keep_branch(model, sublayer, hidden, &reads_branch, error) ||
        !weights_acquire(model->weights, sublayer->layer, is_attention, &weights, error)) {
        return false;
    }
    bool is_done = run_chunks(model, index, &weights, hidden, reads_branch, cache, error);
    weights_release(model->weights, sublayer->layer, is_attention);
    return is_done;
}

bool run_sublayer_keeping(struct model *model, size_t index, struct hidden *hidden, float *cache_rows,
                          const int32_t *to_rows, struct error *error)
{
    struct kv_cache cache = {.rows = cache_rows, .to_rows = to_rows};
    return run_sublayer_cached(model, index, hidden, cache_rows != NULL ? &cache : NULL, error);
}

bool model_run_sublayer(struct model *model, size_t index, struct hidden *hidden, struct error *error)
{
    return run_sublayer_cached(model, index, hidden, NULL, error);
}

bool model_run_from(struct model *model, size_t first, const bool *removed, struct hidden *hidden,
                    struct error *error)
{
    weights_set_removed(model->weights, removed);
    for (size_t i = first; i < model->sublayer_count; i++) {
        if ((removed == NULL || !removed[i]) && !model_run_sublayer(model, i, hidden, error)) {
            return false;
        }
    }
    return true;
}

/* ---- embedding --------------------------------------------------------------------------------------------------- */

struct embed_run {
    const struct model *model;
    const struct chunk_list *list;
    const struct token_batch *batch;
    const size_t *sequences; /* [list->count]: the sequence of a piece */
    float *rows;             /* host */
    struct error *errors;    /* [thread_count] */
};

static void embed_task(void *context, size_t index, size_t thread)
{
    const struct embed_run *run = context;
    const struct chunk *piece = &run->list->chunks[index];
    const struct token_sequence *sequence = &run->batch->sequences[run->sequences[index]];
    size_t first = piece->segments[0].position;
    struct error *error = &run->errors[thread];
    float *rows = run->rows + piece->first_row * run->model->config->hidden_size;
    if (error->code == ERROR_NONE &&
        !weights_embed(run->model->weights, sequence->tokens + first, piece->row_count, first, rows, error)) {
        CHECK(error->code != ERROR_NONE);
    }
}

static bool embed_rows(struct model *model, const struct token_batch *batch, const struct hidden *hidden,
                       float *rows, struct error *error)
{
    FINISHED(chunk_list) list = {0};
    size_t threads = device_thread_count(model->device);
    chunk_list_create(hidden->segments, hidden->sequence_count, 256, 1, &list); /* 1: every piece apart */
    OWNED_MEMORY size_t *sequences = memory_create(list.count + 1, sizeof *sequences);
    OWNED_MEMORY struct error *errors = memory_create(threads, sizeof *errors);
    for (size_t i = 0, s = 0; i < list.count; i++) {
        while (list.chunks[i].first_row >= hidden->segments[s].first_row + hidden->segments[s].count) {
            s++;
        }
        sequences[i] = s;
    }
    struct embed_run run = {model, &list, batch, sequences, rows, errors};
    if (!pool_run(model->pool, list.count, embed_task, &run, model->cancel, error)) {
        return false;
    }
    for (size_t i = 0; i < threads; i++) {
        if (errors[i].code != ERROR_NONE) {
            if (error != NULL) {
                *error = errors[i];
            }
            return false;
        }
    }
    return true;
}

bool model_check_length(const struct model *model, size_t count, struct error *error)
{
    const struct model_config *config = model->config;
    if (config->position_kind == POSITION_LEARNED &&
        count + config->position_offset > config->position_rows) {
        return error_set(error, ERROR_OUT_OF_RANGE,
                         "a sequence has %zu tokens; the model has positions for %zu", count,
                         config->position_rows - config->position_offset);
    }
    return true;
}

bool model_embed(struct model *model, const struct token_batch *batch, struct hidden *ret_hidden,
                 struct error *error)
{
    size_t longest = 0;
    CHECK(batch->sequence_count == ret_hidden->sequence_count);
    for (size_t s = 0; s < batch->sequence_count; s++) {
        const struct token_sequence *sequence = &batch->sequences[s];
        CHECK(sequence->count == ret_hidden->segments[s].count);
        longest = sequence->count > longest ? sequence->count : longest;
        for (size_t t = 0; t < sequence->count; t++) {
            CHECK(sequence->tokens[t] >= 0 && (size_t)sequence->tokens[t] < model->config->vocab_size);
        }
    }
    ret_hidden->branch_layer = SIZE_MAX;
    if (!model_check_length(model, longest, error) || !model_extend_ropes(model, longest, error)) {
        return false;
    }
    size_t count = ret_hidden->row_count * ret_hidden->hidden_size;
    if (model->backend->is_host) {
        return embed_rows(model, batch, ret_hidden, ret_hidden->rows, error);
    }
    OWNED_MEMORY float *rows = memory_try_array(count + 1, sizeof *rows, "embeddings", error);
    return rows != NULL && embed_rows(model, batch, ret_hidden, rows, error) &&
           hidden_write(ret_hidden, 0, ret_hidden->row_count, rows, error);
}
