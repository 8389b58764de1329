/*
 * workers/model/generate.c: greedy continuation with a cache of keys and values.
 *
 * A prompt goes through the tiles of forward.c, sequence by sequence, keeping keys and values; then every
 * step takes one row per live sequence through row kernels whose result depends on that row alone. So a
 * sequence's bits are its own, however sequences are grouped.
 *
 * Where there are at least as many sequences as threads, a group of them is one task from prompt to end, and
 * nothing waits. Fewer than that share the pool operation by operation.
 */
#include "workers/model/model_internal.h"

#include "base/check.h"
#include "base/memory.h"
#include <math.h>
#include <string.h>

#define GROUP_MAX 16
#define PIECE_PRODUCTS                                                                                       \
    ((size_t)1 << 17) /* of a row matmul that is split over the pool: less is not worth waking a thread */

struct lane { /* one sequence */
    struct generation *generation;
    float **caches;  /* [sublayer_count]: [capacity, 2 * kv size]; NULL where there is no attention */
    size_t position; /* of the row that is computed next */
    int32_t token;
    bool is_done;
};
struct group {
    struct model *model;
    struct exec exec;
    const bool *removed;
    struct lane *lanes; /* [count] */
    size_t count;
    size_t capacity;    /* positions of the longest lane */
    float *cache;       /* all lanes' */
    struct lane **live; /* [live_count], in order */
    size_t live_count;
    float *rows, *normed, *projected, *mixed, *result, *logits, *scores; /* [count, ...] */
    float *buffers;
    const int32_t *stop_tokens;
    size_t stop_count;
    uint64_t token_sublayers, token_heads;
};

/* ---- rows ----------------------------------------------------------------------------------- */

struct row_matmul_run {
    const struct backend *backend;
    struct matmul job;
    size_t block;
};

static void row_matmul_task(void *context, size_t index, size_t thread)
{
    (void)thread;
    const struct row_matmul_run *run = context;
    struct matmul piece = run->job;
    size_t column = index * run->block;
    piece.n = piece.n - column < run->block ? piece.n - column : run->block;
    piece.w += column * piece.w_stride;
    piece.bias = piece.bias != NULL ? piece.bias + column : NULL;
    piece.out += column;
    run->backend->rows_matmul(&piece);
}

static bool row_matmul(const struct group *group, size_t rows, const float *x, size_t x_stride,
                       const float *w, const float *bias, size_t n, size_t k, float *out, struct error *error)
{
    struct row_matmul_run run = {.backend = group->model->backend,
                                 .job = {.rows = rows,
                                         .n = n,
                                         .k = k,
                                         .x = x,
                                         .w = w,
                                         .bias = bias,
                                         .out = out,
                                         .x_stride = x_stride,
                                         .w_stride = k,
                                         .out_stride = n},
                                 .block = n};
    size_t columns = PIECE_PRODUCTS / (rows * k) + 1; /* any cut gives the same bits */
    if (group->exec.is_shared && 2 * columns <= n) {
        run.block = columns;
    }
    return exec_run(&group->exec, (n + run.block - 1) / run.block, row_matmul_task, &run, error);
}

struct row_attention_run {
    const struct group *group;
    size_t sublayer;
    const struct model_layer *layer;
    size_t stride; /* of projected rows */
};

/* Turns one row's query and key, appends key and value to its cache, and attends. */
static void row_attention_task(void *context, size_t index, size_t thread)
{
    (void)thread;
    const struct row_attention_run *run = context;
    const struct group *group = run->group;
    const struct model *model = group->model;
    const struct lane *lane = group->live[index];
    size_t head_size = model->config->head_size, heads = run->layer->head_count,
           kv_heads = run->layer->kv_head_count;
    size_t kept = 2 * kv_heads * head_size;
    float *row = group->projected + index * run->stride, *cache = lane->caches[run->sublayer];
    model->backend->rope(1, heads + kv_heads, head_size,
                         model->rope.cosines + lane->position * model->rope.half,
                         model->rope.sines + lane->position * model->rope.half, row, run->stride);
    memcpy(cache + lane->position * kept, row + heads * head_size, kept * sizeof *row);
    struct attention_row job = {.count = lane->position + 1,
                                .head_count = heads,
                                .heads_per_kv = heads / kv_heads,
                                .head_size = head_size,
                                .q = row,
                                .keys = cache,
                                .values = cache + kv_heads * head_size,
                                .stride = kept,
                                .out = group->mixed + index * heads * head_size,
                                .scratch = group->scores + index * group->capacity};
    model->backend->attention_row(&job);
}

static bool step_sublayer(struct group *group, size_t index, struct error *error)
{
    const struct model *model = group->model;
    const struct sublayer *sublayer = &model->sublayers[index];
    const struct model_layer *layer = &model->config->layers[sublayer->layer];
    bool is_attention = sublayer->kind == SUBLAYER_ATTENTION;
    size_t rows = group->live_count, size = model->config->hidden_size;
    struct sublayer_weights w;
    if (!weights_acquire(model->weights, sublayer->layer, is_attention, &w, error)) {
        return false;
    }
    model->backend->rmsnorm(rows, size, group->rows, size, w.norm, (float)model->config->norm_epsilon,
                            group->normed, size);
    bool is_done = row_matmul(group, rows, group->normed, size, w.in, w.in_bias, w.in_rows, size,
                              group->projected, error);
    struct row_attention_run run = {group, index, layer, w.in_rows};
    if (is_attention) {
        is_done = is_done && exec_run(&group->exec, rows, row_attention_task, &run, error);
    } else {
        model->backend->silu_mul(rows, layer->intermediate_size, group->projected,
                                 group->projected + layer->intermediate_size, w.in_rows);
    }
    is_done = is_done && row_matmul(group, rows, is_attention ? group->mixed : group->projected,
                                    is_attention ? w.out_columns : w.in_rows, w.out, w.out_bias, size,
                                    w.out_columns, group->result, error);
    weights_release(model->weights, sublayer->layer, is_attention);
    if (is_done && !model->backend->add(rows * size, group->rows, group->result)) {
        return error_set(error, ERROR_NUMERIC, "NaN or infinity after sublayer %zu (%s of layer %zu)", index,
                         is_attention ? "attention" : "ffn", sublayer->layer);
    }
    group->token_sublayers += rows;
    return is_done;
}

struct argmax_run {
    const struct group *group;
    size_t vocab;
};

static bool is_stop(const struct group *group, int32_t token)
{
    for (size_t i = 0; i < group->stop_count; i++) {
        if (group->stop_tokens[i] == token) {
            return true;
        }
    }
    return false;
}

/* The live rows' next tokens; lanes that stop leave `live`. */
static void take_token(void *context, size_t index, size_t thread)
{
    (void)thread;
    const struct argmax_run *run = context;
    const struct group *group = run->group;
    struct lane *lane = group->live[index];
    struct generation *generation = lane->generation;
    struct head_scan scan;
    head_scan_start(&scan);
    group->model->backend->scan(run->vocab, group->logits + index * run->vocab, 0, &scan);
    lane->token = (int32_t)scan.index;
    if (is_stop(group, lane->token)) {
        lane->is_done = true;
        return;
    }
    generation->tokens[generation->token_count++] = lane->token;
    lane->is_done = generation->token_count == generation->max_tokens;
}

static bool step_head(struct group *group, struct error *error)
{
    const struct model *model = group->model;
    size_t rows = group->live_count, size = model->config->hidden_size, vocab = model->config->vocab_size;
    model->backend->rmsnorm(rows, size, group->rows, size, weights_final_norm(model->weights),
                            (float)model->config->norm_epsilon, group->normed, size);
    struct argmax_run run = {group, vocab};
    if (!row_matmul(group, rows, group->normed, size, weights_head(model->weights), NULL, vocab, size,
                    group->logits, error) ||
        !exec_run(&group->exec, rows, take_token, &run, error)) {
        return false;
    }
    group->token_heads += rows;
    size_t kept = 0;
    for (size_t i = 0; i < rows; i++) {
        if (!group->live[i]->is_done) {
            group->live[kept++] = group->live[i];
        }
    }
    group->live_count = kept;
    return true;
}

static bool step(struct group *group, struct error *error)
{
    const struct model *model = group->model;
    size_t size = model->config->hidden_size;
    for (size_t i = 0; i < group->live_count; i++) {
        const float *embedding = weights_embedding(model->weights) + (size_t)group->live[i]->token * size;
        memcpy(group->rows + i * size, embedding, size * sizeof *embedding);
    }
    for (size_t j = 0; j < model->sublayer_count; j++) {
        if ((group->removed == NULL || !group->removed[j]) && !step_sublayer(group, j, error)) {
            return false;
        }
    }
    for (size_t i = 0; i < group->live_count; i++) {
        group->live[i]->position++;
    }
    return step_head(group, error);
}

/* ---- prompts -------------------------------------------------------------------------------- */

/* Leaves the last token's state in row `index` of the group. */
static bool run_prompt(struct group *group, size_t index, struct error *error)
{
    struct model *model = group->model;
    struct lane *lane = &group->lanes[index];
    struct token_sequence sequence = {lane->generation->prompt, lane->generation->prompt_count};
    struct token_batch batch = {&sequence, 1};
    OWNED(hidden) hidden = hidden_create(model, &batch, error);
    if (hidden == NULL || !model_embed(model, &batch, hidden,
                                       error)) { /* positions were made before: nothing shared is written */
        return false;
    }
    size_t slot = group->exec.is_shared ? model->thread_count : group->exec.thread;
    struct kv_sink sink;
    struct span span = {.hidden = hidden, .count = hidden->tile_count, .sink = &sink};
    size_t scores = attention_thread_scratch(hidden, &span);
    for (size_t j = 0; j < model->sublayer_count; j++) {
        if (group->removed != NULL && group->removed[j]) {
            continue;
        }
        size_t count = sublayer_scratch(model, j, hidden->tile_count);
        sink.rows = lane->caches[j];
        if (!scratch_reserve(model, slot, count + scores, error) ||
            (group->exec.is_shared && !scratch_reserve_threads(model, scores, error))) {
            return false;
        }
        float *scratch = model->scratch[slot].values;
        if (!run_span(&group->exec, j, &span, scratch, group->exec.is_shared ? NULL : scratch + count,
                      error)) {
            return false;
        }
        group->token_sublayers += sequence.count;
    }
    memcpy(group->rows + index * hidden->hidden_size,
           hidden->rows + (sequence.count - 1) * hidden->hidden_size,
           hidden->hidden_size * sizeof *group->rows);
    lane->position = sequence.count;
    return true;
}

/* ---- groups --------------------------------------------------------------------------------- */

static size_t cache_width(const struct model *model, size_t sublayer)
{
    const struct sublayer *which = &model->sublayers[sublayer];
    return which->kind != SUBLAYER_ATTENTION
               ? 0
               : 2 * model->config->layers[which->layer].kv_head_count * model->config->head_size;
}

static bool allocate_caches(struct group *group, struct error *error)
{
    const struct model *model = group->model;
    size_t width = 0, total = 0;
    for (size_t j = 0; j < model->sublayer_count; j++) {
        width += cache_width(model, j);
    }
    for (size_t i = 0; i < group->count; i++) {
        total += width * (group->lanes[i].generation->prompt_count + group->lanes[i].generation->max_tokens);
    }
    group->cache =
        memory_try_array(total + 1, sizeof *group->cache, "keys and values of a generation", error);
    if (group->cache == NULL) {
        return false;
    }
    float *at = group->cache;
    for (size_t i = 0; i < group->count; i++) {
        struct lane *lane = &group->lanes[i];
        size_t capacity = lane->generation->prompt_count + lane->generation->max_tokens;
        lane->caches = memory_create(model->sublayer_count + 1, sizeof *lane->caches);
        for (size_t j = 0; j < model->sublayer_count; j++) {
            lane->caches[j] = cache_width(model, j) > 0 ? at : NULL;
            at += cache_width(model, j) * capacity;
        }
    }
    return true;
}

static bool allocate_rows(struct group *group, struct error *error)
{
    const struct model_config *config = group->model->config;
    size_t widest_in = 0, widest_out = 0;
    for (size_t i = 0; i < config->layer_count; i++) {
        const struct model_layer *layer = &config->layers[i];
        size_t qkv = (layer->head_count + 2 * layer->kv_head_count) * config->head_size,
               heads = layer->head_count * config->head_size;
        widest_in = qkv > widest_in ? qkv : widest_in;
        widest_in = 2 * layer->intermediate_size > widest_in ? 2 * layer->intermediate_size : widest_in;
        widest_out = heads > widest_out ? heads : widest_out;
    }
    size_t per_row = 3 * config->hidden_size + widest_in + widest_out + config->vocab_size + group->capacity;
    group->buffers =
        memory_try_array(per_row * group->count, sizeof *group->buffers, "rows of a generation", error);
    group->rows = group->buffers;
    if (group->rows == NULL) {
        return false;
    }
    group->normed = group->rows + group->count * config->hidden_size;
    group->result = group->normed + group->count * config->hidden_size;
    group->projected = group->result + group->count * config->hidden_size;
    group->mixed = group->projected + group->count * widest_in;
    group->logits = group->mixed + group->count * widest_out;
    group->scores = group->logits + group->count * config->vocab_size;
    return true;
}

static bool run_group(struct group *group, struct error *error)
{
    for (size_t i = 0; i < group->count; i++) {
        size_t capacity = group->lanes[i].generation->prompt_count + group->lanes[i].generation->max_tokens;
        group->capacity = capacity > group->capacity ? capacity : group->capacity;
    }
    if (!allocate_caches(group, error) || !allocate_rows(group, error)) {
        return false;
    }
    group->live = memory_create(group->count, sizeof *group->live);
    for (size_t i = 0; i < group->count; i++) {
        if (!run_prompt(group, i, error)) {
            return false;
        }
        group->live[group->live_count++] = &group->lanes[i];
    }
    if (!step_head(group, error)) {
        return false;
    }
    while (group->live_count > 0) {
        if (!cancel_check_now(group->model->cancel, error) || !step(group, error)) {
            return false;
        }
    }
    return true;
}

static void finish_group(struct group *group)
{
    for (size_t i = 0; i < group->count; i++) {
        free(group->lanes[i].caches);
    }
    free(group->live);
    free(group->cache);
    free(group->buffers);
}

struct generation_run {
    struct group *groups;
    struct error *errors; /* [group_count] */
};

static void group_task(void *context, size_t index, size_t thread)
{
    const struct generation_run *run = context;
    run->groups[index].exec.thread = thread;
    (void)run_group(&run->groups[index], &run->errors[index]);
    finish_group(&run->groups[index]);
}

static bool run_groups(struct model *model, struct group *groups, size_t group_count, struct error *error)
{
    OWNED_MEMORY struct error *errors = memory_create(group_count, sizeof *errors);
    struct generation_run run = {groups, errors};
    bool is_done = true;
    if (groups[0].exec.is_shared) {
        group_task(&run, 0, 0);
    } else {
        is_done = pool_run(model->pool, group_count, group_task, &run, model->cancel, error);
    }
    for (size_t i = 0; i < group_count; i++) {
        if (is_done && errors[i].code != ERROR_NONE) {
            if (error != NULL) {
                *error = errors[i];
            }
            is_done = false;
        }
        model->work.token_sublayers += groups[i].token_sublayers;
        model->work.token_heads += groups[i].token_heads;
    }
    return is_done;
}

bool model_generate(struct model *model, const bool *removed, struct generation *generations, size_t count,
                    const int32_t *stop_tokens, size_t stop_count, struct error *error)
{
    OWNED_MEMORY struct lane *lanes = memory_create(count + 1, sizeof *lanes);
    size_t lane_count = 0, longest = 0;
    for (size_t i = 0; i < count; i++) {
        size_t end = generations[i].prompt_count + generations[i].max_tokens;
        CHECK(generations[i].prompt_count >= 1);
        generations[i].token_count = 0;
        longest = end > longest ? end : longest;
        if (generations[i].max_tokens > 0) {
            lanes[lane_count++].generation = &generations[i];
        }
    }
    if (lane_count == 0) {
        return true;
    }
    if (!rope_extend(&model->rope, longest, error)) {
        return false;
    }
    bool is_shared = lane_count < model->thread_count;
    size_t size = (lane_count + model->thread_count - 1) / model->thread_count;
    size = is_shared ? lane_count : size > GROUP_MAX ? GROUP_MAX : size;
    size_t group_count = (lane_count + size - 1) / size;
    OWNED_MEMORY struct group *groups = memory_create(group_count, sizeof *groups);
    for (size_t i = 0; i < group_count; i++) {
        size_t first = i * size;
        groups[i] = (struct group){.model = model,
                                   .exec = {.model = model, .is_shared = is_shared},
                                   .removed = removed,
                                   .lanes = lanes + first,
                                   .count = lane_count - first < size ? lane_count - first : size,
                                   .stop_tokens = stop_tokens,
                                   .stop_count = stop_count};
    }
    return run_groups(model, groups, group_count, error);
}
