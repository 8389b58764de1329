/*
 * Rotating the residual stream and slicing it, on every family that can be: rotation alone changes no logit (1e-5), a sliced model computes
 * what the rotated one computes with the other axes at zero, and slicegpt finds the largest width that meets a target.
 */
#include "tests/unit/workers/prune/small_model.h"

#include "base/file.h"
#include "base/memory.h"
#include "workers/prune/rotation.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* structured_pruning section 8: rows t (3, 4). */
static void analytic_vector_of_a_rank_one_signal(void **state)
{
    (void)state;
    struct error error = {0};
    OWNED(pool) pool = pool_create(1, &error);
    struct dense_threads threads = {pool, NULL};
    static const float rows[][2] = {{3, 4}, {-6, -8}, {1.5f, 2}};
    double gram[4] = {0};
    double values[2] = {0};
    struct dense_symmetric lower = {gram, 2, 2, false};
    assert_true(dense_add_gram(&threads, 3, &rows[0][0], 2, &lower, &error));
    double scale = gram[0] / 9;
    assert_true(fabs(gram[2] / scale - 12) < 1e-12 && fabs(gram[3] / scale - 16) < 1e-12);
    assert_true(dense_eigen(&threads, 2, gram, values, &error));
    assert_true(fabs(values[0] / scale - 25) < 1e-12 && fabs(values[1] / scale) < 1e-12);
    assert_true(fabs(gram[0] - 0.6) < 1e-12 && fabs(gram[1] - 0.8) < 1e-12);
    /* Slicing to one channel and lifting loses nothing, whatever the weights. */
    static const double weights[2] = {-1.25, 7};
    for (size_t r = 0; r < 3; r++) {
        double x[2] = {(double)rows[r][0], (double)rows[r][1]};
        double sliced = gram[0] * x[0] + gram[1] * x[1];
        double folded = weights[0] * gram[0] + weights[1] * gram[1];
        assert_true(fabs(folded * sliced - (weights[0] * x[0] + weights[1] * x[1])) < 1e-12);
    }
}

/* The stream's principal axes, [size, size]: owned. */
static double *make_basis(struct small_model *small, bool is_normed)
{
    struct error error = {0};
    struct rotation_gathering gathering = {
        .model = small->model, .batch = &small->batch, .is_normed = is_normed};
    struct dense_threads threads = {small->pool, NULL};
    double *basis = memory_create(small->size * small->size, sizeof *basis);
    OWNED_MEMORY double *values = memory_create(small->size, sizeof *values);
    if (!rotation_gather(&gathering, basis, &error) ||
        !dense_eigen(&threads, small->size, basis, values, &error)) {
        fail_msg("%s", error.message);
    }
    double sum = 0;
    for (size_t i = 0; i < small->size; i++) {
        assert_true(i == 0 || values[i] <= values[i - 1]);
        sum += values[i];
    }
    /* Every signal has trace 1: one before each sublayer, one before the final norm. */
    assert_true(fabs(sum - (double)(small->sublayer_count + 1)) < 1e-4);
    return basis;
}

/* The model rotated by `basis` [count, size]. Owned: plan, inventory, model. */
static struct model *rotate(struct small_model *small, const double *basis, size_t count,
                            struct plan **ret_plan, struct inventory **ret_derived)
{
    struct error error = {0};
    char path[128];
    (void)snprintf(path, sizeof path, "%s/%zu.weights", small->work, count);
    struct plan *plan = plan_create(small->sublayer_count);
    plan->is_rotated = true;
    plan->hidden_count = count;
    plan->patch = patch_create(path, &error);
    struct mixing mixing = {small->inventory, small->source, plan->patch, {small->pool, NULL}};
    if (!rotation_put(&mixing, basis, count, NULL, &error)) {
        fail_msg("%s", error.message);
    }
    *ret_plan = plan;
    return small_model_apply(small, plan, ret_derived);
}

static const char *const families[] = {"tests/skills/model",
                                       "llama",
                                       "llama_headdim",
                                       "llama_bias",
                                       "llama3",
                                       "mistral",
                                       "qwen2",
                                       "qwen3",
                                       "phi3",
                                       "mixtral",
                                       "qwen3_moe"};
enum { FAMILIES = sizeof families / sizeof families[0] };

static void rotation_alone_changes_no_logit(void **state)
{
    (void)state;
    for (size_t f = 0; f < FAMILIES; f++) {
        FINISHED(small_model) small = {0};
        small_model_open(&small, families[f]);
        OWNED_MEMORY double *basis = make_basis(&small, f % 2 == 0);
        OWNED(plan) plan = NULL;
        OWNED(inventory) derived = NULL;
        OWNED(model) rotated = rotate(&small, basis, small.size, &plan, &derived);
        assert_false(derived->config.has_tied_head);
        double largest = 0;
        double most = small_model_difference(&small, small.model, NULL, rotated, NULL, &largest);
        (void)printf("# %s: logits up to %.3g differ by at most %.3g\n", families[f], largest, most);
        assert_true(largest > 0.01 && most <= 1e-5 * fmax(1, largest));
    }
}

/* What config.json will say is what the model is. */
static void check_config(const struct inventory *derived)
{
    FINISHED(error_list) faults = {0};
    OWNED_MEMORY struct model_config *read = memory_create(1, sizeof *read);
    if (!model_config_parse(derived->config_json, read, &faults)) {
        fail_msg("%s: %s", faults.items[0].field, faults.items[0].message);
    }
    assert_int_equal(read->hidden_size, derived->config.hidden_size);
    assert_int_equal(read->head_size, derived->config.head_size);
    assert_int_equal(read->rotary_size, derived->config.rotary_size);
    assert_int_equal(read->has_tied_head, derived->config.has_tied_head);
    assert_true(fabs(read->norm_epsilon / derived->config.norm_epsilon - 1) < 1e-12);
    assert_true(fabs(read->attention_scale / derived->config.attention_scale - 1) < 1e-12);
}

/* Axes that are gone are axes at zero: the full basis with zero rows, and the first rows alone. */
static void a_sliced_model_computes_what_the_masked_one_computes(void **state)
{
    (void)state;
    for (size_t f = 0; f < FAMILIES; f++) {
        FINISHED(small_model) small = {0};
        small_model_open(&small, families[f]);
        size_t count = small.size * 3 / 4;
        OWNED_MEMORY double *basis = make_basis(&small, true);
        memset(basis + count * small.size, 0, (small.size - count) * small.size * sizeof *basis);
        OWNED(plan) masked_plan = NULL;
        OWNED(plan) plan = NULL;
        OWNED(inventory) masked_inventory = NULL;
        OWNED(inventory) derived = NULL;
        OWNED(model) masked = rotate(&small, basis, small.size, &masked_plan, &masked_inventory);
        OWNED(model) sliced = rotate(&small, basis, count, &plan, &derived);
        assert_int_equal(derived->config.hidden_size, count);
        assert_int_equal(derived->config.head_size, small.inventory->config.head_size);
        check_config(derived);
        double largest = 0;
        double most = small_model_difference(&small, masked, NULL, sliced, NULL, &largest);
        assert_true(largest > 0.01 && most <= 1e-5 * fmax(1, largest));
        assert_true(small_model_difference(&small, small.model, NULL, sliced, NULL, NULL) > 1e-4);
    }
}

static void families_that_cannot_be_rotated_say_why(void **state)
{
    (void)state;
    static const char *const names[] = {"gpt2", "opt", "gpt_neox", "bert", "gemma2", "gemma3_text"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        FINISHED(small_model) small = {0};
        small_model_open(&small, names[i]);
        struct error error = {0};
        assert_false(rotation_check(&small.inventory->config, &error));
        assert_int_equal(error.code, ERROR_UNSUPPORTED);
        assert_non_null(strstr(error.message, i < 4 ? "subtract the mean" : "norms after sublayers"));
        struct prune_target target = {.kind = PRUNE_TARGET_SPARSITY, .ratio = 0.2};
        OWNED(plan) plan = plan_create(small.sublayer_count);
        assert_false(small_model_decide(&small, "slicegpt", "{}", &target, plan, &error));
        assert_int_equal(error.code, ERROR_UNSUPPORTED);
        assert_true(plan_is_empty(plan));
    }
}

static void sums_do_not_depend_on_chunks(void **state)
{
    (void)state;
    FINISHED(small_model) small = {0};
    small_model_open(&small, "qwen3_moe");
    struct error error = {0};
    size_t count = small.size * small.size;
    OWNED_MEMORY double *held = memory_create(count, sizeof *held);
    OWNED_MEMORY double *spilled = memory_create(count, sizeof *spilled);
    struct rotation_gathering gathering = {.model = small.model, .batch = &small.batch};
    assert_true(rotation_gather(&gathering, held, &error));
    gathering.sweep = (struct sweep_options){.chunk_rows = 1, .memory_bytes = 1, .spill_folder = small.work};
    assert_true(rotation_gather(&gathering, spilled, &error));
    assert_memory_equal(held, spilled, count * sizeof *held);
}

static void slicegpt_takes_the_largest_width_that_is_enough(void **state)
{
    (void)state;
    static const struct prune_target targets[] = {
        {.kind = PRUNE_TARGET_SPARSITY, .ratio = 0.2},
        {.kind = PRUNE_TARGET_SPARSITY, .ratio = 0.5, .require_packable = true},
        {.kind = PRUNE_TARGET_PARAMS, .count = 20000},
        {.kind = PRUNE_TARGET_MEMORY_BYTES, .count = 40000, .element_bytes = 2},
    };
    static const char *const names[] = {"llama_headdim", "qwen2", "qwen3_moe"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        FINISHED(small_model) small = {0};
        small_model_open(&small, names[i]);
        for (size_t t = 0; t < sizeof targets / sizeof targets[0]; t++) {
            OWNED(plan) plan = plan_create(small.sublayer_count);
            OWNED(plan) wider = plan_create(small.sublayer_count);
            struct error error = {0};
            if (prune_target_reached(&targets[t], plan, small.inventory)) {
                continue;
            }
            if (!small_model_decide(&small, "slicegpt", "{\"round_to\": 2}", &targets[t], plan, &error)) {
                fail_msg("%s", error.message);
            }
            assert_true(prune_target_reached(&targets[t], plan, small.inventory));
            assert_true(plan->is_rotated && plan->hidden_count % 2 == 0 && plan->removed_count == 0);
            wider->is_rotated = true;
            wider->hidden_count = plan->hidden_count + 2;
            assert_true(wider->hidden_count > small.size ||
                        !prune_target_reached(&targets[t], wider, small.inventory));
            OWNED(inventory) derived = NULL;
            OWNED(model) sliced = small_model_apply(&small, plan, &derived);
            double largest = 0;
            (void)small_model_difference(&small, sliced, NULL, small.model, NULL, &largest);
            assert_true(isfinite(largest) && largest > 0);
        }
    }
}

static void slicegpt_says_when_no_width_is_enough(void **state)
{
    (void)state;
    FINISHED(small_model) small = {0};
    small_model_open(&small, "qwen2");
    static const struct prune_target targets[] = {
        {.kind = PRUNE_TARGET_SPARSITY, .ratio = 0.99},
        {.kind = PRUNE_TARGET_PARAMS, .count = 1000},
        {.kind = PRUNE_TARGET_NUM_LAYERS, .count = 1},
        {.kind = PRUNE_TARGET_SUBLAYERS_REMOVED, .count = 1},
    };
    for (size_t t = 0; t < sizeof targets / sizeof targets[0]; t++) {
        OWNED(plan) plan = plan_create(small.sublayer_count);
        struct error error = {0};
        assert_false(small_model_decide(&small, "slicegpt", "{}", &targets[t], plan, &error));
        assert_int_equal(error.code, ERROR_UNREACHABLE);
        assert_non_null(strstr(error.message, "8 of 32 channels"));
        assert_true(plan_is_empty(plan));
    }
}

/* A head that comes apart makes the model larger: the width has to pay for it. */
static void an_untied_head_counts(void **state)
{
    (void)state;
    FINISHED(small_model) small = {0};
    small_model_open(&small, "qwen2");
    struct plan_size before;
    struct plan_size after;
    OWNED(plan) plan = plan_create(small.sublayer_count);
    plan_measure(plan, small.inventory, 0, &before);
    plan->is_rotated = true;
    plan->hidden_count = small.size;
    plan_measure(plan, small.inventory, 0, &after);
    assert_int_equal(after.parameter_count - before.parameter_count,
                     small.size * small.inventory->config.vocab_size);
    OWNED(plan) chosen = plan_create(small.sublayer_count);
    struct prune_target target = {.kind = PRUNE_TARGET_PARAMS, .count = before.parameter_count - 1};
    struct error error = {0};
    assert_true(small_model_decide(&small, "slicegpt", "{}", &target, chosen, &error));
    assert_true(chosen->hidden_count < small.size);
}

static void a_target_of_nothing_leaves_no_weights(void **state)
{
    (void)state;
    FINISHED(small_model) small = {0};
    small_model_open(&small, "llama");
    struct prune_target target = {.kind = PRUNE_TARGET_SPARSITY, .ratio = 0};
    OWNED(plan) plan = plan_create(small.sublayer_count);
    struct error error = {0};
    assert_true(small_model_decide(&small, "slicegpt", "{}", &target, plan, &error));
    assert_true(plan_is_empty(plan) && plan->patch == NULL);
}

static void slicegpt_repeats_itself(void **state)
{
    (void)state;
    FINISHED(small_model) small = {0};
    small_model_open(&small, "llama");
    struct prune_target target = {.kind = PRUNE_TARGET_SPARSITY, .ratio = 0.3};
    char *bytes[2] = {0};
    size_t counts[2] = {0};
    for (size_t i = 0; i < 2; i++) {
        OWNED(plan) plan = plan_create(small.sublayer_count);
        struct error error = {0};
        assert_true(small_model_decide(&small, "slicegpt", "{}", &target, plan, &error));
        OWNED_MEMORY char *path = file_join(small.work, PATCH_FILE);
        bytes[i] = file_load(path, (size_t)1 << 24, &counts[i], &error);
        assert_non_null(bytes[i]);
    }
    assert_int_equal(counts[0], counts[1]);
    assert_memory_equal(bytes[0], bytes[1], counts[0]);
    free(bytes[0]);
    free(bytes[1]);
}

/* A second target needs no pass: it has no model to make one with. A damaged file is made anew. */
static void slicegpt_keeps_its_basis_for_another_target(void **state)
{
    (void)state;
    FINISHED(small_model) small = {0};
    small_model_open(&small, "llama");
    struct prune_target target = {.kind = PRUNE_TARGET_SPARSITY, .ratio = 0.3};
    OWNED_MEMORY char *kept = file_join(small.work, "kept");
    OWNED_MEMORY char *path = file_join(small.work, PATCH_FILE);
    struct error error = {0};
    char *first = NULL;
    size_t first_count = 0;
    small.run.kept_path = kept;
    for (size_t i = 0; i < 4; i++) {
        size_t count = 0;
        OWNED_MEMORY char *bytes = NULL;
        OWNED(plan) plan = plan_create(small.sublayer_count);
        small.run.model = i == 1 ? NULL : small.model;
        if (i >= 2) { /* damaged at its end, then at its beginning */
            size_t kept_count = 0;
            OWNED_MEMORY char *damaged = file_load(kept, (size_t)1 << 24, &kept_count, &error);
            damaged[i == 2 ? kept_count - 1 : 9] ^= 1;
            assert_true(file_save(kept, damaged, kept_count, 0644, &error));
        }
        assert_true(small_model_decide(&small, "slicegpt", "{}", &target, plan, &error));
        bytes = file_load(path, (size_t)1 << 24, &count, &error);
        if (i == 0) {
            first_count = count;
            first = TAKE(bytes);
            continue;
        }
        assert_int_equal(count, first_count);
        assert_memory_equal(bytes, first, count);
    }
    free(first);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(analytic_vector_of_a_rank_one_signal),
        cmocka_unit_test(rotation_alone_changes_no_logit),
        cmocka_unit_test(a_sliced_model_computes_what_the_masked_one_computes),
        cmocka_unit_test(families_that_cannot_be_rotated_say_why),
        cmocka_unit_test(sums_do_not_depend_on_chunks),
        cmocka_unit_test(slicegpt_takes_the_largest_width_that_is_enough),
        cmocka_unit_test(slicegpt_says_when_no_width_is_enough),
        cmocka_unit_test(an_untied_head_counts),
        cmocka_unit_test(a_target_of_nothing_leaves_no_weights),
        cmocka_unit_test(slicegpt_repeats_itself),
        cmocka_unit_test(slicegpt_keeps_its_basis_for_another_target),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
