/*
 * workers/model/shared.c: sequences with a common beginning. The beginnings go through a sublayer as a batch of their own and leave
 * keys and values; these are copied to where each sequence's own follow; then the rest of all sequences goes through the same
 * sublayer as rows that attend to what is kept (as in decoding, but many rows of a sequence at once: a row's keys are in place
 * before it attends).
 */
#include "workers/model/model_internal.h"

#include "base/check.h"
#include "base/memory.h"

struct shared_run {
    struct model *model;
    struct hidden *prefixes, *rest;
    float *cache;                 /* device memory, [cache_rows, widest]: sequence after sequence, whole */
    int32_t *prefix_to;           /* [prefixes' rows]: in the area of the first sequence that begins so */
    int32_t *copy_from, *copy_to; /* [copy_count]: to the areas of the others */
    size_t copy_count, cache_rows;
    int32_t *rest_to;            /* [rest's rows] */
    size_t *first_rows, *counts; /* [rest's rows] */
};

static size_t widest_cache(const struct model_config *config)
{
    size_t widest = 0;
    for (size_t i = 0; i < config->layer_count; i++) {
        size_t width = 2 * config->layers[i].kv_head_count * config->head_size;
        widest = width > widest ? width : widest;
    }
    return widest;
}

bool model_can_share(const struct model *model)
{
    return model->tap == NULL && !model->architecture->is_encoder && model->ropes[0][1].half == 0 &&
           model->ropes[1][1].half == 0;
}

uint64_t model_shared_bytes(const struct model_config *config, size_t rows)
{
    uint64_t lists = sizeof(int32_t) * 4 + sizeof(size_t) * 2;
    return (uint64_t)rows * (widest_cache(config) * sizeof(float) + lists);
}

/* ---- who lies where ---------------------------------------------------------------------------------------------- */

static void list_rows(struct shared_run *run, const struct token_batch *wholes, const size_t *prefix_of)
{
    size_t area = 0, row = 0;
    size_t *first_areas = memory_create(run->prefixes->sequence_count + 1, sizeof *first_areas);
    for (size_t s = 0; s < wholes->sequence_count; s++) {
        const struct segment *prefix = &run->prefixes->segments[prefix_of[s]];
        bool is_first = s == 0 || prefix_of[s - 1] != prefix_of[s];
        CHECK(s == 0 || prefix_of[s] >= prefix_of[s - 1]);
        for (size_t t = 0; t < prefix->count && is_first; t++) {
            run->prefix_to[prefix->first_row + t] = (int32_t)(area + t);
        }
        for (size_t t = 0; t < prefix->count && !is_first; t++) {
            run->copy_from[run->copy_count] = (int32_t)(first_areas[prefix_of[s]] + t);
            run->copy_to[run->copy_count++] = (int32_t)(area + t);
        }
        if (is_first) {
            first_areas[prefix_of[s]] = area;
        }
        for (size_t t = prefix->count; t < wholes->sequences[s].count; t++, row++) {
            run->rest_to[row] = (int32_t)(area + t);
            run->first_rows[row] = area;
            run->counts[row] = t + 1;
        }
        area += wholes->sequences[s].count;
    }
    free(first_areas);
}

static void shared_run_finish(struct shared_run *run)
{
    hidden_destroy(run->prefixes);
    hidden_destroy(run->rest);
    run->model->backend->memory_destroy(run->model->device, run->cache);
    free(run->prefix_to);
    free(run->copy_from);
    free(run->copy_to);
    free(run->rest_to);
    free(run->first_rows);
    free(run->counts);
}

static bool allocate(struct shared_run *run, struct error *error)
{
    const struct model *model = run->model;
    size_t rows = run->cache_rows;
    run->prefix_to = memory_try_array(rows + 1, sizeof *run->prefix_to, "rows of sequences", error);
    run->copy_from = memory_try_array(rows + 1, sizeof *run->copy_from, "rows of sequences", error);
    run->copy_to = memory_try_array(rows + 1, sizeof *run->copy_to, "rows of sequences", error);
    run->rest_to = memory_try_array(rows + 1, sizeof *run->rest_to, "rows of sequences", error);
    run->first_rows = memory_try_array(rows + 1, sizeof *run->first_rows, "rows of sequences", error);
    run->counts = memory_try_array(rows + 1, sizeof *run->counts, "rows of sequences", error);
    if (run->prefix_to == NULL || run->copy_from == NULL || run->copy_to == NULL || run->rest_to == NULL ||
        run->first_rows == NULL || run->counts == NULL) {
        return false;
    }
    run->cache = model->backend->memory_create(model->device,
                                               (rows * widest_cache(model->config) + 16) * sizeof *run->cache,
                                               "keys and values", error);
    return run->cache != NULL;
}

/* ---- the pass ---------------------------------------------------------------------------------------------------- */

/* model_embed reads tokens from a segment's position on, which is where the rest of a whole sequence lies. */
static bool embed_rest(struct shared_run *run, const struct token_batch *wholes, const size_t *prefix_of,
                       struct error *error)
{
    struct model *model = run->model;
    size_t longest = 0;
    OWNED_MEMORY struct token_sequence *rest = memory_create(wholes->sequence_count + 1, sizeof *rest);
    for (size_t s = 0; s < wholes->sequence_count; s++) {
        const struct token_sequence *whole = &wholes->sequences[s];
        size_t shared = run->prefixes->segments[prefix_of[s]].count;
        CHECK(shared < whole->count);
        rest[s] = (struct token_sequence){whole->tokens, whole->count - shared};
        longest = whole->count > longest ? whole->count : longest;
        for (size_t t = shared; t < whole->count; t++) {
            CHECK(whole->tokens[t] >= 0 && (size_t)whole->tokens[t] < model->config->vocab_size);
        }
    }
    struct token_batch batch = {rest, wholes->sequence_count};
    run->rest = hidden_create(model, &batch, error);
    if (run->rest == NULL || !model_check_length(model, longest, error) ||
        !model_extend_ropes(model, longest, error)) {
        return false;
    }
    for (size_t s = 0; s < wholes->sequence_count; s++) {
        run->rest->segments[s].position = run->prefixes->segments[prefix_of[s]].count;
    }
    return model_embed(model, &batch, run->rest, error);
}

static bool run_both(struct shared_run *run, size_t index, struct error *error)
{
    struct model *model = run->model;
    const struct sublayer *sublayer = &model->sublayers[index];
    if (sublayer->kind != SUBLAYER_ATTENTION) {
        return model_run_sublayer(model, index, run->prefixes, error) &&
               model_run_sublayer(model, index, run->rest, error);
    }
    size_t width = 2 * model->config->layers[sublayer->layer].kv_head_count * model->config->head_size;
    struct kv_cache cache = {
        .rows = run->cache, .to_rows = run->rest_to, .first_rows = run->first_rows, .counts = run->counts};
    struct copy_rows copy = {.rows = run->copy_count,
                             .size = width,
                             .to = run->cache,
                             .to_stride = width,
                             .from = run->cache,
                             .from_stride = width,
                             .to_rows = run->copy_to,
                             .from_rows = run->copy_from};
    return run_sublayer_keeping(model, index, run->prefixes, run->cache, run->prefix_to, error) &&
           (run->copy_count == 0 || model->backend->copy_rows(&model->exec, &copy, error)) &&
           run_sublayer_cached(model, index, run->rest, &cache, error);
}

bool model_run_shared(struct model *model, const bool *removed, const struct token_batch *prefixes,
                      const struct token_batch *wholes, const size_t *prefix_of, struct hidden **ret_rest,
                      struct error *error)
{
    struct shared_run run = {.model = model};
    CHECK(model_can_share(model));
    for (size_t s = 0; s < wholes->sequence_count; s++) {
        run.cache_rows += wholes->sequences[s].count;
    }
    run.prefixes = hidden_create(model, prefixes, error);
    bool is_done = run.prefixes != NULL && allocate(&run, error) &&
                   model_embed(model, prefixes, run.prefixes, error) &&
                   embed_rest(&run, wholes, prefix_of, error);
    if (is_done) {
        list_rows(&run, wholes, prefix_of);
        weights_set_removed(model->weights, removed);
    }
    for (size_t j = 0; is_done && j < model->sublayer_count; j++) {
        is_done = (removed != NULL && removed[j]) || run_both(&run, j, error);
    }
    if (is_done) {
        *ret_rest = run.rest;
        run.rest = NULL;
    }
    shared_run_finish(&run);
    return is_done;
}
