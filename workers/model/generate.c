/*
 * workers/model/generate.c: greedy continuation with a cache of keys and values.
 *
 * The prompts of a group of sequences go through the model as one batch, keeping keys and values; then every step takes one
 * row per live sequence through the same sublayers. A row's bits depend on its own sequence alone (backend.h), so it does not
 * matter how sequences are grouped.
 */
#include "workers/model/model_internal.h"

#include "base/check.h"
#include "base/memory.h"
#include <string.h>

#define GROUP_LANES  64
#define GROUP_TOKENS ((size_t)1 << 16) /* of all lanes of a group: bounds what its caches take */

struct lane { /* one sequence */
    struct generation *generation;
    size_t first_row; /* of its keys and values in every cache */
    size_t position;  /* of the row that is computed next */
    int32_t token;
};
struct group {
    struct model *model;
    const bool *removed;
    struct lane *lanes; /* [count] */
    size_t count, cache_rows;
    float **
        caches; /* [sublayer_count], device memory: [cache_rows, 2 * kv size]; NULL where there is no attention */
    struct lane **live; /* [live_count], in order */
    size_t live_count;
    float *rows, *branch, *normed; /* [count, hidden_size], device memory; branch: parallel families */
    /* Of a step, host, [count]: */
    struct segment *segments;
    int32_t *to_rows;
    size_t *first_rows, *counts;
    struct head_scan *scans;
    float *embeddings; /* [count, hidden_size] */
    const int32_t *stop_tokens;
    size_t stop_count;
};

static bool is_removed(const struct group *group, size_t sublayer)
{
    return group->removed != NULL && group->removed[sublayer];
}

/* ---- steps ------------------------------------------------------------------------------------------------------- */

static void describe_rows(struct group *group)
{
    for (size_t i = 0; i < group->live_count; i++) {
        const struct lane *lane = group->live[i];
        group->segments[i] = (struct segment){.first_row = i, .count = 1, .position = lane->position};
        group->to_rows[i] = (int32_t)(lane->first_row + lane->position);
        group->first_rows[i] = lane->first_row;
        group->counts[i] = lane->position + 1;
    }
}

static bool step_sublayer(struct group *group, size_t index, size_t *branch_layer, struct error *error)
{
    struct model *model = group->model;
    const struct sublayer *sublayer = &model->sublayers[index];
    bool is_attention = sublayer->kind == SUBLAYER_ATTENTION;
    size_t bytes = group->live_count * model->config->hidden_size * sizeof *group->rows;
    struct kv_cache cache = {.rows = group->caches[index],
                             .to_rows = group->to_rows,
                             .first_rows = group->first_rows,
                             .counts = group->counts};
    struct span span = {.rows = group->rows,
                        .branch = !is_attention && *branch_layer == sublayer->layer ? group->branch : NULL,
                        .row_count = group->live_count,
                        .segments = group->segments,
                        .segment_count = group->live_count,
                        .cache = &cache};
    struct sublayer_weights weights;
    if (is_attention && group->branch != NULL) {
        *branch_layer = sublayer->layer;
        if (!model->backend->memory_copy(model->device, group->branch, group->rows, bytes, error)) {
            return false;
        }
    }
    if (!scratch_reserve(model, sublayer_scratch(model, index, group->count), error) ||
        !weights_acquire(model->weights, sublayer->layer, is_attention, &weights, error)) {
        return false;
    }
    bool is_done = run_span(model, index, &weights, &span, model->scratch, error);
    weights_release(model->weights, sublayer->layer, is_attention);
    model->work.token_sublayers += group->live_count;
    return is_done;
}

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
static void take_tokens(struct group *group)
{
    size_t kept = 0;
    for (size_t i = 0; i < group->live_count; i++) {
        struct lane *lane = group->live[i];
        struct generation *generation = lane->generation;
        lane->token = (int32_t)group->scans[i].index;
        if (is_stop(group, lane->token)) {
            continue;
        }
        generation->tokens[generation->token_count++] = lane->token;
        if (generation->token_count < generation->max_tokens) {
            group->live[kept++] = lane;
        }
    }
    group->live_count = kept;
}

static bool step_head(struct group *group, struct error *error)
{
    struct model *model = group->model;
    struct head_weights head;
    if (!weights_acquire_head(model->weights, &head, error)) {
        return false;
    }
    struct head job = {.rows = group->live_count,
                       .x = group->normed,
                       .x_stride = model->config->hidden_size,
                       .w = &head.matrix,
                       .softcap = (float)model->config->final_softcap,
                       .scans = group->scans};
    bool is_done = run_final_norm(model, &head, group->live_count, group->rows, group->normed, error) &&
                   model->backend->head(&model->exec, &job, error);
    weights_release_head(model->weights);
    if (is_done) {
        model->work.token_heads += group->live_count;
        take_tokens(group);
    }
    return is_done;
}

static bool step(struct group *group, struct error *error)
{
    struct model *model = group->model;
    size_t size = model->config->hidden_size, branch_layer = SIZE_MAX;
    for (size_t i = 0; i < group->live_count; i++) {
        if (!weights_embed(model->weights, &group->live[i]->token, 1, group->live[i]->position,
                           group->embeddings + i * size, error)) {
            return false;
        }
    }
    if (!model->backend->memory_write(model->device, group->rows, group->embeddings,
                                      group->live_count * size * sizeof *group->rows, error)) {
        return false;
    }
    describe_rows(group);
    for (size_t j = 0; j < model->sublayer_count; j++) {
        if (!is_removed(group, j) && !step_sublayer(group, j, &branch_layer, error)) {
            return false;
        }
    }
    for (size_t i = 0; i < group->live_count; i++) {
        group->live[i]->position++;
    }
    return step_head(group, error);
}

/* ---- prompts ----------------------------------------------------------------------------------------------------- */

static bool run_prompts(struct group *group, struct hidden *hidden, const struct token_batch *batch,
                        const int32_t *to_rows, struct error *error)
{
    struct model *model = group->model;
    if (!model_embed(model, batch, hidden, error)) {
        return false;
    }
    for (size_t j = 0; j < model->sublayer_count; j++) {
        if (!is_removed(group, j) &&
            !run_sublayer_keeping(model, j, hidden, group->caches[j], to_rows, error)) {
            return false;
        }
    }
    return true;
}

/* Leaves the last token's state of every lane in the group's rows. */
static bool start_lanes(struct group *group, struct error *error)
{
    struct model *model = group->model;
    OWNED_MEMORY struct token_sequence *sequences = memory_create(group->count, sizeof *sequences);
    size_t count = 0;
    for (size_t i = 0; i < group->count; i++) {
        const struct generation *generation = group->lanes[i].generation;
        sequences[i] = (struct token_sequence){generation->prompt, generation->prompt_count};
        count += generation->prompt_count;
    }
    struct token_batch batch = {sequences, group->count};
    OWNED_MEMORY int32_t *to_rows = memory_create(count + 1, sizeof *to_rows);
    OWNED(hidden) hidden = hidden_create(model, &batch, error);
    if (hidden == NULL) {
        return false;
    }
    for (size_t i = 0, row = 0; i < group->count; i++) {
        struct lane *lane = &group->lanes[i];
        for (size_t t = 0; t < sequences[i].count; t++) {
            to_rows[row++] = (int32_t)(lane->first_row + t);
        }
        lane->position = sequences[i].count;
        group->to_rows[i] = (int32_t)(row - 1); /* the last of its sequence */
        group->live[group->live_count++] = lane;
    }
    size_t size = model->config->hidden_size;
    struct copy_rows last = {.rows = group->count,
                             .size = size,
                             .to = group->rows,
                             .to_stride = size,
                             .from = hidden->rows,
                             .from_stride = size,
                             .from_rows = group->to_rows};
    return run_prompts(group, hidden, &batch, to_rows, error) &&
           model->backend->copy_rows(&model->exec, &last, error) && step_head(group, error);
}

/* ---- groups ------------------------------------------------------------------------------------------------------ */

static float *create_rows(const struct model *model, size_t rows, size_t size, struct error *error)
{
    return model->backend->memory_create(model->device, (rows * size + 16) * sizeof(float),
                                         "keys, values and rows of a generation", error);
}

static bool allocate_group(struct group *group, struct error *error)
{
    const struct model *model = group->model;
    const struct model_config *config = model->config;
    size_t count = group->count, size = config->hidden_size;
    group->caches = memory_create(model->sublayer_count + 1, sizeof *group->caches);
    group->live = memory_create(count, sizeof *group->live);
    group->segments = memory_create(count, sizeof *group->segments);
    group->to_rows = memory_create(count, sizeof *group->to_rows);
    group->first_rows = memory_create(count, sizeof *group->first_rows);
    group->counts = memory_create(count, sizeof *group->counts);
    group->scans = memory_create(count, sizeof *group->scans);
    group->embeddings = memory_create(count * size, sizeof *group->embeddings);
    for (size_t j = 0; j < model->sublayer_count; j++) {
        const struct sublayer *which = &model->sublayers[j];
        size_t width = 2 * config->layers[which->layer].kv_head_count * config->head_size;
        if (which->kind == SUBLAYER_ATTENTION && !is_removed(group, j)) {
            group->caches[j] = create_rows(model, group->cache_rows, width, error);
            if (group->caches[j] == NULL) {
                return false;
            }
        }
    }
    group->rows = create_rows(model, count, size, error);
    group->normed = group->rows != NULL ? create_rows(model, count, size, error) : NULL;
    group->branch =
        group->normed != NULL && config->is_parallel ? create_rows(model, count, size, error) : NULL;
    return group->normed != NULL && (group->branch != NULL || !config->is_parallel);
}

static void finish_group(struct group *group)
{
    const struct model *model = group->model;
    for (size_t j = 0; group->caches != NULL && j < model->sublayer_count; j++) {
        model->backend->memory_destroy(model->device, group->caches[j]);
    }
    model->backend->memory_destroy(model->device, group->rows);
    model->backend->memory_destroy(model->device, group->normed);
    model->backend->memory_destroy(model->device, group->branch);
    free(group->caches);
    free(group->live);
    free(group->segments);
    free(group->to_rows);
    free(group->first_rows);
    free(group->counts);
    free(group->scans);
    free(group->embeddings);
}

static bool run_group(struct group *group, struct error *error)
{
    bool is_done = allocate_group(group, error) && start_lanes(group, error);
    while (is_done && group->live_count > 0) {
        is_done = cancel_check_now(group->model->cancel, error) && step(group, error);
    }
    finish_group(group);
    return is_done;
}

/* Lanes from `first` on that make a group; sets where their keys and values lie. */
static size_t gather_lanes(struct lane *lanes, size_t first, size_t count, size_t *ret_rows)
{
    size_t end = first, rows = 0;
    while (end < count && end - first < GROUP_LANES) {
        size_t needed = lanes[end].generation->prompt_count + lanes[end].generation->max_tokens;
        if (end > first && rows + needed > GROUP_TOKENS) {
            break;
        }
        lanes[end++].first_row = rows;
        rows += needed;
    }
    *ret_rows = rows;
    return end - first;
}

bool model_generate(struct model *model, const bool *removed, struct generation *generations, size_t count,
                    const int32_t *stop_tokens, size_t stop_count, struct error *error)
{
    OWNED_MEMORY struct lane *lanes = memory_create(count + 1, sizeof *lanes);
    size_t lane_count = 0, longest = 0;
    CHECK(!model->architecture->is_encoder);
    for (size_t i = 0; i < count; i++) {
        size_t end = generations[i].prompt_count + generations[i].max_tokens;
        CHECK(generations[i].prompt_count >= 1);
        generations[i].token_count = 0;
        if (generations[i].max_tokens > 0) {
            longest = end > longest ? end : longest;
            lanes[lane_count++].generation = &generations[i];
        }
    }
    if (!model_check_length(model, longest, error) || !model_extend_ropes(model, longest, error)) {
        return false;
    }
    weights_set_removed(model->weights, removed);
    for (size_t first = 0; first < lane_count;) {
        struct group group = {.model = model,
                              .removed = removed,
                              .lanes = lanes + first,
                              .stop_tokens = stop_tokens,
                              .stop_count = stop_count};
        group.count = gather_lanes(lanes, first, lane_count, &group.cache_rows);
        if (!run_group(&group, error)) {
            return false;
        }
        first += group.count;
    }
    return true;
}
