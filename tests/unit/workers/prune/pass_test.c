/*
 * What holds for every method that makes passes of its own and leaves weights (PRUNE_NEED_MODEL), on small models of every kind: grouped
 * KV heads, biases, fused projections, experts, parallel layers. New methods join unasked.
 */
#include "tests/unit/workers/prune/small_model.h"

#include "base/cancel.h"

#include "workers/model/architecture.h"
#include "workers/model/patch.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *const families[] = {"llama_headdim", "qwen2", "phi3",     "mixtral", "qwen3_moe",
                                       "gpt2",          "opt",   "gpt_neox", "gemma2",  "bert"};
static const struct prune_target targets[] = {
    {.kind = PRUNE_TARGET_SPARSITY, .ratio = 0.25},
    {.kind = PRUNE_TARGET_SPARSITY, .ratio = 0.25, .require_packable = true},
    {.kind = PRUNE_TARGET_PARAMS, .count = 15000},
    {.kind = PRUNE_TARGET_MEMORY_BYTES, .count = 30000, .element_bytes = 2},
    {.kind = PRUNE_TARGET_NUM_LAYERS, .count = 1},
    {.kind = PRUNE_TARGET_SUBLAYERS_REMOVED, .count = 2},
};
enum { FAMILIES = sizeof families / sizeof families[0], TARGETS = sizeof targets / sizeof targets[0] };

/* Of a plan that was made: the pruned model is what was asked for, and it runs. */
static void check_plan(struct small_model *small, const struct prune_target *target, const struct plan *plan)
{
    struct error error = {0};
    assert_true(prune_target_reached(target, plan, small->inventory));
    assert_true(plan_check_widths(plan, &small->inventory->config, &error));
    OWNED(inventory) derived = NULL;
    OWNED(model) pruned = small_model_apply(small, plan, &derived);
    struct plan_size size;
    plan_measure(plan, small->inventory, 0, &size);
    double largest = 0;
    (void)small_model_difference(small, pruned, plan, small->model, NULL, &largest);
    assert_true(isfinite(largest) && largest > 0);
    for (size_t i = 0; plan->patch != NULL && i < patch_count(plan->patch); i++) {
        const struct patch_tensor *tensor = patch_at(plan->patch, i);
        const struct inventory_tensor *of = inventory_find(derived, tensor->name);
        assert_non_null(of);
        assert_int_equal(of->rank, tensor->rank);
        assert_int_equal(of->shape[0], tensor->shape[0]);
        assert_int_equal(of->rank > 1 ? of->shape[1] : 1, tensor->rank > 1 ? tensor->shape[1] : 1);
    }
}

static void check_method(const struct prune_method *method, const char *family)
{
    FINISHED(small_model) small = {0};
    size_t made = 0;
    small_model_open(&small, family);
    if (small.inventory->config.vocab_size == 0 || architecture_of(&small.inventory->config)->is_encoder) {
        return; /* jobs refuse encoders before a method sees one */
    }
    for (size_t t = 0; t < TARGETS; t++) {
        OWNED(plan) plan = plan_create(small.sublayer_count);
        struct error error = {0};
        if (small_model_decide(&small, method->name, "{}", &targets[t], plan, &error)) {
            check_plan(&small, &targets[t], plan);
            made++;
            continue;
        }
        assert_true(error.code == ERROR_UNREACHABLE || error.code == ERROR_UNSUPPORTED);
        assert_true(strlen(error.message) > 20 && plan_is_empty(plan));
        made += error.code == ERROR_UNSUPPORTED ? 1 : 0;
    }
    assert_true(made > 0);
}

static void every_method_reaches_its_target_or_says_why_not(void **state)
{
    (void)state;
    size_t count = 0;
    for (const struct prune_method *const *method = prune_methods(); *method != NULL; method++) {
        if (((*method)->needs & PRUNE_NEED_MODEL) != 0) {
            for (size_t f = 0; f < FAMILIES; f++) {
                check_method(*method, families[f]);
            }
            count++;
        }
    }
    assert_true(count >= 2);
}

static void every_method_stops_when_it_is_told_to(void **state)
{
    (void)state;
    for (const struct prune_method *const *method = prune_methods(); *method != NULL; method++) {
        if (((*method)->needs & PRUNE_NEED_MODEL) == 0) {
            continue;
        }
        FINISHED(small_model) small = {0};
        small_model_open(&small, "llama");
        struct cancel cancel = {0};
        struct error error = {0};
        OWNED(plan) plan = plan_create(small.sublayer_count);
        cancel_request(&cancel, CANCEL_NOW);
        small.run.cancel = &cancel;
        assert_false(small_model_decide(&small, (*method)->name, "{}", &targets[0], plan, &error));
        assert_int_equal(error.code, ERROR_CANCELLED);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_method_reaches_its_target_or_says_why_not),
        cmocka_unit_test(every_method_stops_when_it_is_told_to),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
