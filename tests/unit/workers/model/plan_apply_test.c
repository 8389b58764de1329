/*
 * tests/unit/workers/model/plan_apply_test.c: a pruned model computes what the source computes with the same parts set to zero, for every
 * family and every kind of width: query heads within groups, KV groups, channels, experts, channels of experts, residual channels.
 * The two sum in other orders, so they agree to 1e-5 of the largest logit, not in every bit.
 */
#include "tests/unit/workers/model/golden.h"

#include "base/json.h"
#include "base/memory.h"
#include "workers/model/architecture.h"
#include "workers/model/patch.h"
#include "workers/model/plan.h"
#include "workers/model/source.h"
#include "workers/model/tap.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define TOLERANCE 1e-5

/* ---- plans ------------------------------------------------------------------------------------------------------- */

/* Every item but those of number `seed` modulo 3, at least one; `unit` items go together. */
static size_t choose(uint32_t *list, size_t count, size_t unit, size_t seed)
{
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        if ((i / unit + seed) % 3 != 0) {
            list[kept++] = (uint32_t)i;
        }
    }
    for (size_t i = 0; kept == 0 && i < unit; i++) {
        list[kept++] = (uint32_t)i;
    }
    return kept;
}

enum heads { WHOLE_GROUPS, WITHIN_GROUPS };

static void keep_heads(struct plan *plan, size_t sublayer, const struct model_layer *layer, enum heads heads)
{
    size_t size = layer->head_count / layer->kv_head_count, count = 0;
    OWNED_MEMORY uint32_t *list = memory_create(layer->head_count, sizeof *list);
    if (heads == WHOLE_GROUPS || size == 1) {
        count = choose(list, layer->head_count, size, sublayer);
    } else {
        for (size_t h = 0; h < layer->head_count; h++) {
            if (h % size != (sublayer + h / size) % size) { /* another one of each group */
                list[count++] = (uint32_t)h;
            }
        }
    }
    plan_keep_heads(plan, sublayer, list, count, layer->head_count);
}

static void keep_channels(struct plan *plan, size_t sublayer, const struct model_layer *layer)
{
    size_t of = layer->intermediate_size;
    if (layer->expert_count == 0) {
        OWNED_MEMORY uint32_t *list = memory_create(of, sizeof *list);
        plan_keep_channels(plan, sublayer, list, choose(list, of, 1, sublayer), of);
        return;
    }
    size_t left =
        layer->expert_count > layer->active_expert_count ? layer->expert_count - 1 : layer->expert_count;
    OWNED_MEMORY uint32_t *experts = memory_create(left, sizeof *experts);
    OWNED_MEMORY uint32_t *lists = memory_create(left * of, sizeof *lists);
    size_t gone = sublayer % layer->expert_count, each = of - of / 3;
    for (size_t e = 0; e < left; e++) {
        experts[e] = (uint32_t)(e + (left < layer->expert_count && e >= gone ? 1 : 0));
        for (size_t c = 0; c < each; c++) {
            lists[e * each + c] = (uint32_t)(c + (c >= e ? of / 3 : 0));
        }
    }
    plan_keep_experts(plan, sublayer, experts, left, layer->expert_count);
    plan_keep_expert_channels(plan, sublayer, lists, left, each, of);
}

static struct plan *make_plan(const struct golden *golden, enum heads heads)
{
    struct plan_sublayer *sublayers = NULL;
    size_t count = plan_list_sublayers(&golden->inventory->config, &sublayers);
    struct plan *plan = plan_create(count);
    for (size_t i = 0; i < count; i++) {
        const struct model_layer *layer = &golden->inventory->config.layers[sublayers[i].layer];
        if (sublayers[i].is_attention) {
            keep_heads(plan, i, layer, heads);
        } else {
            keep_channels(plan, i, layer);
        }
    }
    free(sublayers);
    return plan;
}

/* ---- the source with the same parts at zero ---------------------------------------------------------------------- */

struct mask {
    const struct plan *plan;
    const struct model_config *config;
};

static bool is_kept(const uint32_t *list, size_t count, size_t item)
{
    for (size_t i = 0; list != NULL && i < count; i++) {
        if (list[i] == item) {
            return true;
        }
    }
    return list == NULL;
}

static bool mask_rows(void *context, const struct tap_rows *rows, struct error *error)
{
    (void)error;
    const struct mask *mask = context;
    const struct plan_width *width = &mask->plan->widths[rows->sublayer];
    size_t expert = 0;
    for (size_t e = 0; e < rows->expert; e++) {
        expert += is_kept(width->experts, width->expert_count, e) ? 1 : 0;
    }
    for (size_t c = 0; c < rows->size; c++) {
        bool stays =
            rows->point == TAP_HEADS
                ? is_kept(width->heads, width->head_count, c / mask->config->head_size)
                : is_kept(width->channels != NULL ? width->channels + expert * width->channel_count : NULL,
                          width->channel_count, c);
        for (size_t r = 0; r < rows->rows && !stays; r++) {
            rows->values[r * rows->stride + c] = 0;
        }
    }
    return true;
}

static float *logits_of(const struct golden *golden, struct model *model)
{
    OWNED(hidden) hidden = golden_run(model, &golden->batch);
    float *all = memory_create(golden->token_count * golden->width + 1, sizeof *all);
    size_t at = 0;
    for (size_t s = 0; s < golden->batch.sequence_count; s++) {
        OWNED_MEMORY float *values = golden_take_values(golden, model, hidden, s);
        memcpy(all + at, values, golden->sequences[s].count * golden->width * sizeof *values);
        at += golden->sequences[s].count * golden->width;
    }
    return all;
}

static void compare(const struct golden *golden, const char *what, const float *masked, const float *sliced)
{
    double largest = 0, worst = 0;
    for (size_t i = 0; i < golden->token_count * golden->width; i++) {
        double off = fabs((double)masked[i] - (double)sliced[i]);
        largest = fmax(largest, fabs((double)masked[i]));
        worst = off > worst || isnan(off) ? off : worst;
    }
    if (!(worst <= TOLERANCE * largest)) {
        fail_msg("%s, %s: off by %g, the largest is %g", golden->source, what, worst, largest);
    }
}

static struct inventory *apply(const struct plan *plan, const struct golden *golden)
{
    struct error error = {0};
    struct inventory *derived = plan_apply(plan, golden->inventory, &error);
    if (derived == NULL) {
        fail_msg("%s: %s", golden->source, error.message);
    }
    return derived;
}

static float *sliced_logits(const struct golden *golden, const struct plan *plan, struct pool *pool,
                            const char *backend, bool is_streamed)
{
    OWNED(inventory) derived = apply(plan, golden);
    struct golden small = *golden;
    small.inventory = derived;
    struct model_size size = {0};
    model_measure(derived, backend, DTYPE_F32, 2, 128, &size);
    OWNED(model) model = golden_open_model(&small, pool, backend, is_streamed ? size.weights_least_bytes : 0);
    return logits_of(&small, model);
}

static void sliced_is_masked(const struct golden *golden, enum heads heads, struct pool *pool)
{
    OWNED(plan) plan = make_plan(golden, heads);
    struct mask mask = {plan, &golden->inventory->config};
    struct model_tap tap = {.context = &mask,
                            .points = 1u << TAP_HEADS | 1u << TAP_CHANNELS,
                            .changed = 1u << TAP_HEADS | 1u << TAP_CHANNELS,
                            .visit = mask_rows};
    bool drops_experts = false;
    for (size_t i = 0; i < plan->sublayer_count; i++) {
        drops_experts = drops_experts || plan->widths[i].experts != NULL;
    }
    OWNED_MEMORY float *sliced = sliced_logits(golden, plan, pool, NULL, false);
    if (!drops_experts) { /* a router over fewer experts weighs them anew: no mask says that */
        OWNED(model) model = golden_open_model(golden, pool, NULL, 0);
        model_set_tap(model, &tap);
        OWNED_MEMORY float *masked = logits_of(golden, model);
        compare(golden, heads == WHOLE_GROUPS ? "whole groups" : "within groups", masked, sliced);
    }
    OWNED_MEMORY float *streamed = sliced_logits(golden, plan, pool, NULL, true);
    assert_memory_equal(sliced, streamed, golden->token_count * golden->width * sizeof *sliced);
    OWNED_MEMORY float *reference = sliced_logits(golden, plan, pool, "reference", false);
    compare(golden, "reference", reference, sliced);
}

/* ---- the cases --------------------------------------------------------------------------------------------------- */

/* Residual channels whose every producer is zero may go: with the norms' rule nothing changes. The patch makes the producers so. */
static void zero_rows(struct plan *plan, const struct golden *golden)
{
    char path[600];
    (void)snprintf(path, sizeof path, "%s/plan.weights", golden->folder);
    plan->patch = patch_create(path, NULL);
    assert_non_null(plan->patch);
    OWNED(source) source = source_open(golden->inventory, golden->folder, NULL);
    const struct model_config *config = &golden->inventory->config;
    size_t hidden = config->hidden_size;
    for (size_t i = 0; i < golden->inventory->tensor_count; i++) {
        const struct inventory_tensor *tensor = &golden->inventory->tensors[i];
        struct source_view view;
        struct tensor_owner owner;
        bool is_output = false, is_embedding = false;
        enum weight_role role = WEIGHT_EMBEDDING;
        size_t expert = 0;
        struct weight_shape shape;
        if (plan_find_owner(config, tensor->name, &owner)) {
            is_output = architecture_find_role(config, owner.suffix, &role, &expert) &&
                        architecture_role_is_output(role);
        } else {
            is_embedding = architecture_tensor(config, WEIGHT_EMBEDDING, 0, 0, &shape) &&
                           strcmp(shape.name, tensor->name) == 0;
        }
        if (!is_output && !is_embedding) {
            continue;
        }
        source_view_canonical(tensor, &view);
        size_t count = (size_t)(view.rows * view.columns);
        OWNED_MEMORY float *values = memory_create(count, sizeof *values);
        OWNED_MEMORY void *window = memory_create(source_window_bytes(&view, view.rows), 1);
        assert_true(source_read_rows(source, &view, 0, view.rows, window, values, NULL));
        for (size_t e = 0; e < count; e++) {
            size_t channel = is_embedding ? e % view.columns : e / view.columns;
            values[e] = channel % 4 == 1 && channel < hidden ? 0.0f : values[e];
        }
        assert_true(patch_put(plan->patch, tensor->name, tensor->rank, tensor->shape, values, NULL));
    }
}

static void hidden_channels_of_zero_may_go(const struct golden *golden, struct pool *pool)
{
    const struct architecture *row = architecture_of(&golden->inventory->config);
    size_t size = golden->inventory->config.hidden_size, kept = 0;
    OWNED_MEMORY uint32_t *list = memory_create(size, sizeof *list);
    for (size_t c = 0; c < size; c++) {
        if (c % 4 != 1) {
            list[kept++] = (uint32_t)c;
        }
    }
    struct plan_sublayer *sublayers = NULL;
    size_t count = plan_list_sublayers(&golden->inventory->config, &sublayers);
    free(sublayers);
    OWNED(plan) plan = plan_create(count);
    plan_keep_hidden(plan, list, kept, size);
    struct error error = {0};
    bool is_scaled = fabs(golden->inventory->config.embedding_scale - 1.0) > 0;
    if (row->norm != NORM_RMS || is_scaled) {
        assert_null(plan_apply(plan, golden->inventory, &error));
        assert_int_equal(error.code, ERROR_UNSUPPORTED);
        return;
    }
    OWNED(plan) zeroed = plan_create(count);
    zero_rows(zeroed, golden);
    OWNED_MEMORY float *masked = sliced_logits(golden, zeroed, pool, NULL, false);
    OWNED_MEMORY float *plain = sliced_logits(golden, plan, pool, NULL, false);
    compare(golden, "residual channels", masked, plain);
}

static void a_plan_survives_its_json(const struct golden *golden)
{
    OWNED(plan) plan = make_plan(golden, WITHIN_GROUPS);
    json_t *json = plan_format(plan, golden->inventory);
    struct error error = {0};
    OWNED(plan) parsed = plan_parse(json, &error);
    assert_non_null(parsed);
    assert_true(plan_check_widths(parsed, &golden->inventory->config, &error));
    json_t *again = plan_format(parsed, golden->inventory);
    assert_true(json_equal(json, again));
    json_decref(json);
    json_decref(again);
}

/* What a plan.json from somewhere may say. */
static void plans_that_do_not_fit_are_refused(const struct golden *golden)
{
    const struct model_config *config = &golden->inventory->config;
    struct error error = {0};
    OWNED(plan) plan = make_plan(golden, WHOLE_GROUPS);
    plan->hidden_count = config->hidden_size - 1;
    assert_false(plan_check_widths(plan, config, &error));
    plan->hidden_count = 0;
    struct weight_shape shape;
    char path[600];
    (void)snprintf(path, sizeof path, "%s/plan.weights", golden->folder);
    assert_true(architecture_tensor(config, WEIGHT_FINAL_NORM, 0, 0, &shape));
    OWNED_MEMORY float *values = memory_create(shape.count + 1, sizeof *values);
    const struct {
        const char *name;
        uint64_t count;
        bool is_rotated, fits;
    } rows[] = {{shape.name, shape.count, false, true},
                {shape.name, shape.count + 1, false, false},
                {"nowhere.weight", shape.count, false, false},
                {shape.name, shape.count, true, false}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        patch_destroy(plan->patch);
        plan->patch = patch_create(path, &error);
        assert_non_null(plan->patch);
        assert_true(patch_put(plan->patch, rows[i].name, 1, &rows[i].count, values, &error));
        plan->is_rotated = rows[i].is_rotated;
        error = (struct error){0};
        assert_int_equal(plan_check_patch(plan, config, &error), rows[i].fits);
        assert_int_equal(error.code, rows[i].fits ? ERROR_NONE : ERROR_CORRUPT_FILE);
    }
}

static void sizes_are_those_of_the_shapes(const struct golden *golden)
{
    OWNED(plan) plan = make_plan(golden, WITHIN_GROUPS);
    OWNED(inventory) derived = apply(plan, golden);
    struct plan_size size, whole;
    OWNED(plan) none = plan_create(plan->sublayer_count);
    plan_measure(none, golden->inventory, 0, &whole);
    plan_measure(plan, golden->inventory, 0, &size);
    assert_int_equal(size.parameter_count, derived->parameter_count);
    assert_int_equal(size.prunable_count, derived->prunable_count);
    assert_int_equal(size.removed_prunable_count, whole.prunable_count - size.prunable_count);
    assert_int_equal(whole.parameter_count - size.parameter_count, size.removed_prunable_count);
}

static void a_pruned_model_is_the_masked_one(void **state)
{
    const struct golden *golden = *state;
    if (golden->is_encoder) {
        return;
    }
    OWNED(pool) pool = pool_create(2, NULL);
    sliced_is_masked(golden, WHOLE_GROUPS, pool);
    sliced_is_masked(golden, WITHIN_GROUPS, pool);
    hidden_channels_of_zero_may_go(golden, pool);
    a_plan_survives_its_json(golden);
    sizes_are_those_of_the_shapes(golden);
    plans_that_do_not_fit_are_refused(golden);
}

int main(void)
{
    return golden_test_all("plan_apply", a_pruned_model_is_the_masked_one);
}
