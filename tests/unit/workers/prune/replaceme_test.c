/*
 * ReplaceMe against the plain form: M, Y and L are taken from the model by hand, T* solved by elimination in long double, and the stream of
 * the pruned model compared with Y + M T*. Families: transposed weights with biases, experts, parallel layers, fused projections.
 */
#include "tests/unit/workers/prune/small_model.h"

#include "base/file.h"
#include "base/memory.h"
#include "workers/model/architecture.h"
#include "workers/model/patch.h"
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

static const char *const families[] = {"llama", "llama_bias",      "gpt2",    "opt",      "gpt_neox",
                                       "phi3",  "gpt_neox_serial", "mixtral", "qwen3_moe"};
enum { FAMILIES = sizeof families / sizeof families[0] };

/* ---- the plain form ---------------------------------------------------------------------------------------------- */

struct outputs {
    float *rows; /* [rows, size] */
    size_t size;
};

static bool add_outputs(void *context, const struct tap_rows *rows, struct error *error)
{
    (void)error;
    struct outputs *outputs = context;
    for (size_t r = 0; r < rows->rows; r++) {
        size_t to = rows->first_row + (rows->numbers != NULL ? (size_t)rows->numbers[r] : r);
        for (size_t i = 0; i < rows->size; i++) {
            outputs->rows[to * outputs->size + i] +=
                rows->values[r * rows->stride + i] * (rows->weights != NULL ? rows->weights[r] : 1.0f);
        }
    }
    return true;
}

/* M, Y and L of the span [ffn + 1, end), all [rows, size], owned. */
struct sample {
    float *m, *y, *l;
};

static void take_sample(struct small_model *small, size_t ffn, size_t end, struct sample *ret_sample)
{
    struct outputs outputs = {memory_create(small->row_count * small->size, sizeof(float)), small->size};
    struct model_tap tap = {.context = &outputs, .points = 1u << TAP_FFN_OUTPUT, .visit = add_outputs};
    struct error error = {0};
    OWNED(hidden) hidden = hidden_create(small->model, &small->batch, &error);
    assert_true(hidden != NULL && model_embed(small->model, &small->batch, hidden, &error));
    for (size_t i = 0; i < end; i++) {
        if (i == ffn) {
            ret_sample->y = memory_create(small->row_count * small->size, sizeof(float));
            assert_true(hidden_read(hidden, 0, small->row_count, ret_sample->y, &error));
            model_set_tap(small->model, &tap);
        }
        assert_true(model_run_sublayer(small->model, i, hidden, &error));
        model_set_tap(small->model, NULL);
    }
    ret_sample->m = outputs.rows;
    ret_sample->l = memory_create(small->row_count * small->size, sizeof(float));
    assert_true(hidden_read(hidden, 0, small->row_count, ret_sample->l, &error));
}

static void sample_finish(struct sample *sample)
{
    free(sample->m);
    free(sample->y);
    free(sample->l);
}

/* T* = (M^T M + alpha mean(diag) I)^-1 M^T (L - Y), [size, size], by Gauss-Jordan with pivots. Owned. */
static double *solve_plainly(const struct small_model *small, const struct sample *sample, double alpha)
{
    size_t n = small->size, wide = 2 * n;
    long double *work = memory_create(n * wide, sizeof *work);
    for (size_t r = 0; r < small->row_count; r++) {
        const float *m = sample->m + r * n, *y = sample->y + r * n, *l = sample->l + r * n;
        for (size_t i = 0; i < n; i++) {
            for (size_t j = 0; j < n; j++) {
                work[i * wide + j] += (long double)m[i] * (long double)m[j];
                work[i * wide + n + j] += (long double)m[i] * ((long double)l[j] - (long double)y[j]);
            }
        }
    }
    long double mean = 0;
    for (size_t i = 0; i < n; i++) {
        mean += work[i * wide + i] / (long double)n;
    }
    for (size_t i = 0; i < n; i++) {
        work[i * wide + i] += (long double)alpha * mean;
    }
    for (size_t c = 0; c < n; c++) {
        size_t pivot = c;
        for (size_t r = c + 1; r < n; r++) {
            pivot = fabsl(work[r * wide + c]) > fabsl(work[pivot * wide + c]) ? r : pivot;
        }
        for (size_t j = 0; j < wide; j++) {
            long double swap = work[c * wide + j];
            work[c * wide + j] = work[pivot * wide + j];
            work[pivot * wide + j] = swap;
        }
        for (size_t r = 0; r < n; r++) {
            long double factor = r == c ? 0 : work[r * wide + c] / work[c * wide + c];
            for (size_t j = c; j < wide && r != c; j++) {
                work[r * wide + j] -= factor * work[c * wide + j];
            }
        }
    }
    double *map = memory_create(n * n, sizeof *map);
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++) {
            map[i * n + j] = (double)(work[i * wide + n + j] / work[i * wide + i]);
        }
    }
    free(work);
    return map;
}

static double squared_distance(const float *a, const float *b, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
    }
    return sum;
}

/* Blocks 1 .. of a model whose last block goes: the FFN before it is sublayer 2 * (layers - 2) + 1. */
static void decide_one_block(struct small_model *small, const char *parameters, struct plan *plan)
{
    struct prune_target target = {.kind = PRUNE_TARGET_NUM_LAYERS,
                                  .count = small->inventory->config.layer_count - 1};
    struct error error = {0};
    if (!small_model_decide(small, "replaceme", parameters, &target, plan, &error)) {
        fail_msg("%s: %s", small->folder, error.message);
    }
    assert_int_equal(plan->removed_count, 2);
    assert_true(plan->points[1].is_cut && !plan->points[0].is_cut);
    assert_int_equal(plan->points[1].sublayer, plan->points[0].sublayer + 1);
    assert_true(plan->points[0].sublayer >= 2 && plan->points[0].sublayer % 2 == 0);
}

static void the_stream_is_what_the_plain_form_says(void **state)
{
    (void)state;
    for (size_t f = 0; f < FAMILIES; f++) {
        FINISHED(small_model) small = {0};
        small_model_open(&small, families[f]);
        OWNED(plan) plan = plan_create(small.sublayer_count);
        decide_one_block(&small, "{\"fit\": \"ridge\", \"alpha\": 0.01}", plan);
        size_t first = plan->points[0].sublayer, n = small.size, count = small.row_count * n;
        FINISHED(sample) sample = {0};
        take_sample(&small, first - 1, first + 2, &sample);
        OWNED_MEMORY double *map = solve_plainly(&small, &sample, 0.01);
        OWNED(inventory) derived = NULL;
        OWNED(model) pruned = small_model_apply(&small, plan, &derived);
        OWNED_MEMORY float *stream = small_model_stream(&small, pruned, plan, first + 2);
        double most = 0;
        double largest = 0;
        for (size_t r = 0; r < small.row_count; r++) {
            for (size_t j = 0; j < n; j++) {
                double expected = (double)sample.y[r * n + j];
                for (size_t i = 0; i < n; i++) {
                    expected += (double)sample.m[r * n + i] * map[i * n + j];
                }
                most = fmax(most, fabs((double)stream[r * n + j] - expected));
                largest = fmax(largest, fabs(expected));
            }
        }
        (void)printf("# %s: the stream, up to %.3g, differs by at most %.3g\n", families[f], largest, most);
        assert_true(most <= 2e-5 * fmax(1, largest));
        assert_true(squared_distance(stream, sample.l, count) > 0);
    }
}

/* The map is fitted to make up for the span: less is lost than by removal alone, and no tensor but the down projection's changes. */
static void the_map_makes_up_for_the_span(void **state)
{
    (void)state;
    for (size_t f = 0; f < FAMILIES; f++) {
        for (int is_ridge = 0; is_ridge < 2; is_ridge++) {
            FINISHED(small_model) small = {0};
            small_model_open(&small, families[f]);
            OWNED(plan) plan = plan_create(small.sublayer_count);
            decide_one_block(&small, is_ridge == 1 ? "{\"fit\": \"ridge\"}" : "{}", plan);
            size_t first = plan->points[0].sublayer, count = small.row_count * small.size;
            FINISHED(sample) sample = {0};
            take_sample(&small, first - 1, first + 2, &sample);
            OWNED_MEMORY float *removed = small_model_stream(&small, small.model, plan, first + 2);
            OWNED(inventory) derived = NULL;
            OWNED(model) pruned = small_model_apply(&small, plan, &derived);
            OWNED_MEMORY float *stream = small_model_stream(&small, pruned, plan, first + 2);
            double before = squared_distance(removed, sample.l, count);
            double after = squared_distance(stream, sample.l, count);
            (void)printf("# %s, %s: error of removal %.4g, with the map %.4g\n", families[f],
                         is_ridge == 1 ? "ridge" : "correction", before, after);
            assert_true(plan->patch == NULL ? after <= before : after < before);
            assert_true(is_ridge == 0 || plan->patch != NULL);
            for (size_t i = 0; plan->patch != NULL && i < patch_count(plan->patch); i++) {
                struct tensor_owner owner;
                const char *name = patch_at(plan->patch, i)->name;
                enum weight_role role;
                size_t expert = 0;
                assert_true(plan_find_owner(&small.inventory->config, name, &owner));
                assert_int_equal(owner.sublayer, first - 1);
                assert_true(architecture_find_role(&small.inventory->config, owner.suffix, &role, &expert));
                assert_true(role == WEIGHT_DOWN || role == WEIGHT_DOWN_BIAS || role == WEIGHT_EXPERT_DOWN);
            }
        }
    }
}

static void less_memory_changes_no_byte(void **state)
{
    (void)state;
    FINISHED(small_model) small = {0};
    small_model_open(&small, "qwen3_moe");
    char *bytes[2] = {0};
    size_t counts[2] = {0};
    for (size_t i = 0; i < 2; i++) {
        if (i == 1) {
            small.run.sweep =
                (struct sweep_options){.chunk_rows = 1, .memory_bytes = 1, .spill_folder = small.work};
        }
        OWNED(plan) plan = plan_create(small.sublayer_count);
        decide_one_block(&small, "{\"fit\": \"ridge\"}", plan);
        OWNED_MEMORY char *path = file_join(small.work, PATCH_FILE);
        struct error error = {0};
        bytes[i] = file_load(path, (size_t)1 << 24, &counts[i], &error);
        assert_non_null(bytes[i]);
    }
    assert_int_equal(counts[0], counts[1]);
    assert_memory_equal(bytes[0], bytes[1], counts[0]);
    free(bytes[0]);
    free(bytes[1]);
    OWNED_MEMORY char *rows = file_join(small.work, "replaceme.rows");
    assert_false(file_exists(rows));
}

static void the_span_is_that_of_least_angle_after_an_ffn(void **state)
{
    (void)state;
    FINISHED(small_model) small = {0};
    small_model_open(&small, "tests/skills/model");
    size_t layers = small.inventory->config.layer_count;
    for (size_t n = 1; n < layers; n += 5) {
        struct prune_target target = {.kind = PRUNE_TARGET_NUM_LAYERS, .count = layers - n};
        OWNED(plan) plan = plan_create(small.sublayer_count);
        struct error error = {0};
        assert_true(small_model_decide(&small, "replaceme", "{}", &target, plan, &error));
        size_t best = 1;
        for (size_t from = 1; from + n <= layers; from++) {
            if (small.span_angles[prune_span_index(layers, from, from + n)] <
                small.span_angles[prune_span_index(layers, best, best + n)]) {
                best = from;
            }
        }
        assert_int_equal(plan->removed_count, 2 * n);
        assert_int_equal(plan->points[0].sublayer, 2 * best);
        OWNED(inventory) derived = NULL;
        OWNED(model) pruned = small_model_apply(&small, plan, &derived);
        double largest = 0;
        (void)small_model_difference(&small, pruned, plan, small.model, NULL, &largest);
        assert_true(isfinite(largest) && largest > 0);
    }
}

/* A span that does nothing needs no map: the correction leaves every weight as it is. */
static void a_span_of_zeros_changes_no_logit(void **state)
{
    (void)state;
    FINISHED(small_model) small = {0};
    small_model_open(&small, "llama");
    struct error error = {0};
    char path[128];
    (void)snprintf(path, sizeof path, "%s/zeros.weights", small.work);
    OWNED(plan) zeros = plan_create(small.sublayer_count);
    zeros->patch = patch_create(path, &error);
    static const enum weight_role roles[] = {WEIGHT_O, WEIGHT_DOWN};
    for (size_t i = 0; i < 2; i++) {
        struct weight_shape shape;
        assert_true(architecture_tensor(&small.inventory->config, roles[i], 1, 0, &shape));
        OWNED_MEMORY float *values = memory_create((size_t)shape.count, sizeof *values);
        assert_true(patch_put(zeros->patch, shape.name, shape.rank, shape.shape, values, &error));
    }
    OWNED(inventory) source = NULL;
    OWNED(model) model = small_model_apply(&small, zeros, &source);
    OWNED(source) weights = source_open(source, small.folder, &error);
    small.run.inventory = source;
    small.run.model = model;
    small.run.weights = weights;
    struct model *before = small.model;
    small.model = model;
    OWNED(plan) plan = plan_create(small.sublayer_count);
    decide_one_block(&small, "{}", plan);
    small.model = before;
    assert_null(plan->patch);
    assert_true(small_model_difference(&small, model, NULL, model, plan, NULL) <= 1e-5);
}

static void norms_after_the_ffn_are_refused(void **state)
{
    (void)state;
    static const char *const names[] = {"gemma2", "gemma3_text", "bert"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        FINISHED(small_model) small = {0};
        small_model_open(&small, names[i]);
        struct prune_target target = {.kind = PRUNE_TARGET_SPARSITY, .ratio = 0.2};
        OWNED(plan) plan = plan_create(small.sublayer_count);
        struct error error = {0};
        assert_false(small_model_decide(&small, "replaceme", "{}", &target, plan, &error));
        assert_int_equal(error.code, ERROR_UNSUPPORTED);
        assert_non_null(strstr(error.message, "norms after"));
    }
}

static void a_target_of_nothing_or_too_much_leaves_no_weights(void **state)
{
    (void)state;
    FINISHED(small_model) small = {0};
    small_model_open(&small, "llama");
    struct error error = {0};
    struct prune_target nothing = {.kind = PRUNE_TARGET_SPARSITY, .ratio = 0};
    OWNED(plan) plan = plan_create(small.sublayer_count);
    assert_true(small_model_decide(&small, "replaceme", "{}", &nothing, plan, &error));
    assert_true(plan_is_empty(plan));
    struct prune_target much = {.kind = PRUNE_TARGET_SPARSITY, .ratio = 0.9};
    assert_false(small_model_decide(&small, "replaceme", "{}", &much, plan, &error));
    assert_int_equal(error.code, ERROR_UNREACHABLE);
    assert_non_null(strstr(error.message, "removes 2 sublayers"));
    assert_true(plan_is_empty(plan));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_stream_is_what_the_plain_form_says),
        cmocka_unit_test(the_map_makes_up_for_the_span),
        cmocka_unit_test(less_memory_changes_no_byte),
        cmocka_unit_test(the_span_is_that_of_least_angle_after_an_ffn),
        cmocka_unit_test(a_span_of_zeros_changes_no_logit),
        cmocka_unit_test(norms_after_the_ffn_are_refused),
        cmocka_unit_test(a_target_of_nothing_or_too_much_leaves_no_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
