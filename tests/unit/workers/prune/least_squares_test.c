/*
 * tests/unit/workers/prune/least_squares_test.c: corrections against NumPy's (tests/golden/least_squares) and against the claims of
 * structured_pruning 6 and 15b; sums that do not depend on cuts and threads (gram.h).
 */
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/text.h"
#include "workers/prune/least_squares.h"

#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define GOLDEN PROJECT_ROOT "/tests/golden/least_squares/"

static struct pool *pool;
static struct dense_threads here;

static int open_pool(void **state)
{
    (void)state;
    pool = pool_create(2, NULL);
    here = (struct dense_threads){pool, NULL};
    return pool == NULL;
}

static int close_pool(void **state)
{
    (void)state;
    pool_destroy(pool);
    return 0;
}

static double noise(uint64_t seed, uint64_t index)
{
    return 2.0 * rng_unit(&(struct rng){.seed = seed}, index) - 1.0;
}

/* ---- the golden ---------------------------------------------------------------------------------- */

enum { IN = 10, OUT = 5, ROWS = 240, HELD_OUT = 60, KEPT = 7, WIDTH = IN + 2 * OUT };

static void read_rows(float *ret_rows)
{
    FILE *file = fopen(GOLDEN "rows.f32", "rb");
    assert_non_null(file);
    assert_int_equal(fread(ret_rows, sizeof *ret_rows, ROWS * WIDTH, file), ROWS * WIDTH);
    (void)fclose(file);
}

static json_t *read_expected(void)
{
    struct error error = {0};
    json_t *json = json_load(GOLDEN "expected.json", 1u << 20, &error);
    assert_non_null(json);
    return json;
}

static void read_kept(const json_t *expected, uint32_t ret_kept[KEPT])
{
    for (size_t i = 0; i < KEPT; i++) {
        ret_kept[i] = (uint32_t)json_integer_value(json_array_get(json_object_get(expected, "kept"), i));
    }
}

/* weights: [ROWS] of tokens, or NULL. */
static struct gram *gather_golden(const float *rows, const uint32_t *kept, const float *weights)
{
    float x[ROWS * KEPT];
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t i = 0; i < KEPT; i++) {
            x[r * KEPT + i] = rows[r * WIDTH + kept[i]];
        }
    }
    struct gram *gram = gram_create(KEPT, OUT, NULL);
    for (size_t part = 0; part < GRAM_PARTS; part++) {
        size_t first = part == GRAM_FIT ? 0 : ROWS - HELD_OUT,
               end = part == GRAM_FIT ? ROWS - HELD_OUT : ROWS;
        struct gram_rows some = {.rows = end - first,
                                 .x = x + first * KEPT,
                                 .x_stride = KEPT,
                                 .y = rows + first * WIDTH + IN,
                                 .y_stride = WIDTH,
                                 .z = rows + first * WIDTH + IN + OUT,
                                 .z_stride = WIDTH,
                                 .weights = weights != NULL ? weights + first : NULL};
        assert_true(gram_add(gram, &here, (enum gram_part)part, &some, NULL));
    }
    assert_true(gram_finish(gram, &here, NULL));
    return gram;
}

static void assert_near(double got, double expected, double tolerance)
{
    if (!(fabs(got - expected) <= tolerance)) {
        fail_msg("%.12g, not %.12g", got, expected);
    }
}

static void corrections_are_those_of_numpy(void **state)
{
    (void)state;
    static const struct {
        enum least_squares_mode mode;
        bool can_have_bias;
        const char *expected;
    } cases[] = {{LEAST_SQUARES_NONE, true, "none"},       {LEAST_SQUARES_BIAS, true, "bias"},
                 {LEAST_SQUARES_BIAS, false, "none"},      {LEAST_SQUARES_LS, true, "ls"},
                 {LEAST_SQUARES_LS_BIAS, true, "ls_bias"}, {LEAST_SQUARES_LS_BIAS, false, "ls"},
                 {LEAST_SQUARES_AUTO, true, "ls_bias"},    {LEAST_SQUARES_AUTO, false, "ls"}};
    float rows[ROWS * WIDTH];
    uint32_t kept[KEPT];
    read_rows(rows);
    json_t *expected = read_expected();
    read_kept(expected, kept);
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        OWNED(gram) gram = gather_golden(rows, kept, NULL);
        struct least_squares_request request = {cases[c].mode, cases[c].can_have_bias};
        struct least_squares_result result;
        assert_true(least_squares_solve(gram, &here, &request, &result, NULL));
        const json_t *wanted = json_object_get(json_object_get(expected, "results"), cases[c].expected);
        const json_t *none = json_object_get(json_object_get(expected, "results"), "none");
        assert_string_equal(least_squares_name(result.mode), cases[c].expected);
        assert_int_equal(result.tokens, ROWS - HELD_OUT);
        assert_int_equal(result.held_out_tokens, HELD_OUT);
        assert_near(result.lambda, json_number_value(json_object_get(wanted, "lambda")), 0.0);
        assert_near(result.error_before, json_number_value(json_object_get(none, "error")), 1e-6);
        assert_near(result.error_after, json_number_value(json_object_get(wanted, "error")), 1e-6);
        const json_t *weights = json_object_get(wanted, "weights"), *bias = json_object_get(wanted, "bias");
        assert_int_equal(result.weights != NULL, weights != NULL);
        assert_int_equal(result.bias != NULL, strstr(cases[c].expected, "bias") != NULL);
        for (size_t o = 0; o < OUT; o++) {
            for (size_t i = 0; weights != NULL && i < KEPT; i++) {
                double value = json_number_value(json_array_get(json_array_get(weights, o), i));
                assert_near(result.weights[o * KEPT + i], value, 2e-5);
            }
            if (result.bias != NULL) {
                assert_near(result.bias[o], json_number_value(json_array_get(bias, o)), 5e-5);
            }
        }
        least_squares_result_finish(&result);
    }
    json_decref(expected);
}

/* With weights the bias is what a column without penalty would get: NumPy solves for both at once. */
static void tokens_may_have_weights(void **state)
{
    (void)state;
    float rows[ROWS * WIDTH], weights[ROWS];
    uint32_t kept[KEPT];
    read_rows(rows);
    JSON_OWNED expected = read_expected();
    read_kept(expected, kept);
    for (size_t r = 0; r < ROWS; r++) {
        weights[r] = 0.5f + (float)(r % 7) / 4.0f;
    }
    OWNED(gram) gram = gather_golden(rows, kept, weights);
    struct least_squares_request request = {LEAST_SQUARES_LS_BIAS, true};
    struct least_squares_result result;
    assert_true(least_squares_solve(gram, &here, &request, &result, NULL));
    const json_t *wanted = json_object_get(json_object_get(expected, "results"), "weighted");
    assert_int_equal(result.mode, LEAST_SQUARES_LS_BIAS);
    assert_near(result.lambda, json_number_value(json_object_get(wanted, "lambda")), 0.0);
    assert_near(result.error_before, json_number_value(json_object_get(wanted, "before")), 1e-6);
    assert_near(result.error_after, json_number_value(json_object_get(wanted, "error")), 1e-6);
    for (size_t o = 0; o < OUT; o++) {
        for (size_t i = 0; i < KEPT; i++) {
            const json_t *row = json_array_get(json_object_get(wanted, "weights"), o);
            assert_near(result.weights[o * KEPT + i], json_number_value(json_array_get(row, i)), 2e-5);
        }
        const json_t *bias = json_object_get(wanted, "bias");
        assert_near(result.bias[o], json_number_value(json_array_get(bias, o)), 5e-5);
    }
    least_squares_result_finish(&result);
}

/* Sums over all inputs and the weights say the same as sums over the kept inputs and a residual. */
static void sums_over_all_inputs_give_those_over_the_kept(void **state)
{
    (void)state;
    float x[ROWS * IN], weights[OUT * IN], y[ROWS * OUT], z[ROWS * OUT], narrow[ROWS * KEPT];
    uint32_t kept[KEPT];
    float rows[ROWS * WIDTH];
    read_rows(rows);
    json_t *expected = read_expected();
    read_kept(expected, kept);
    for (size_t o = 0; o < OUT; o++) {
        for (size_t i = 0; i < IN; i++) {
            const json_t *row = json_array_get(json_object_get(expected, "weights"), o);
            weights[o * IN + i] = (float)json_number_value(json_array_get(row, i));
        }
    }
    json_decref(expected);
    for (size_t r = 0; r < ROWS; r++) {
        memcpy(x + r * IN, rows + r * WIDTH, IN * sizeof *x);
        for (size_t o = 0; o < OUT; o++) {
            double all = 0.0, some = 0.0;
            for (size_t i = 0; i < IN; i++) {
                all += (double)weights[o * IN + i] * (double)x[r * IN + i];
            }
            for (size_t i = 0; i < KEPT; i++) {
                narrow[r * KEPT + i] = x[r * IN + kept[i]];
                some += (double)weights[o * IN + kept[i]] * (double)narrow[r * KEPT + i];
            }
            y[r * OUT + o] = (float)all;
            z[r * OUT + o] = (float)some;
        }
    }
    OWNED(gram) all = gram_create(IN, 0, NULL);
    OWNED(gram) direct = gram_create(KEPT, OUT, NULL);
    for (size_t part = 0; part < GRAM_PARTS; part++) {
        size_t first = part * 100, count = part == 0 ? 100 : ROWS - 100;
        struct gram_rows of_all = {.rows = count, .x = x + first * IN, .x_stride = IN};
        struct gram_rows of_kept = {.rows = count,
                                    .x = narrow + first * KEPT,
                                    .x_stride = KEPT,
                                    .y = y + first * OUT,
                                    .y_stride = OUT,
                                    .z = z + first * OUT,
                                    .z_stride = OUT};
        assert_true(gram_add(all, &here, (enum gram_part)part, &of_all, NULL));
        assert_true(gram_add(direct, &here, (enum gram_part)part, &of_kept, NULL));
    }
    assert_true(gram_finish(all, &here, NULL) && gram_finish(direct, &here, NULL));
    OWNED(gram) derived = gram_keep(all, &here, weights, OUT, kept, KEPT, NULL);
    assert_non_null(derived);
    for (size_t part = 0; part < GRAM_PARTS; part++) {
        const struct gram_sums *a = &derived->parts[part], *b = &direct->parts[part];
        assert_int_equal(a->tokens, b->tokens);
        assert_near(a->y_square, b->y_square, 1e-5 * b->y_square);
        for (size_t o = 0; o < OUT; o++) {
            assert_near(a->e[o], b->e[o], 1e-4 * sqrt(b->e_squares[o] * (double)b->tokens));
            assert_near(a->e_squares[o], b->e_squares[o], 1e-4 * b->e_squares[o]);
            for (size_t i = 0; i < KEPT; i++) {
                double scale = sqrt(b->e_squares[o] * dense_symmetric_get(&b->c, i, i));
                assert_near(a->cross[o * KEPT + i], b->cross[o * KEPT + i], 1e-4 * scale);
            }
        }
        for (size_t i = 0; i < KEPT; i++) {
            assert_near(a->x[i], b->x[i], 1e-9 * (double)b->tokens);
            for (size_t j = 0; j < KEPT; j++) {
                double scale = sqrt(dense_symmetric_get(&b->c, i, i) * dense_symmetric_get(&b->c, j, j));
                assert_near(dense_symmetric_get(&a->c, i, j), dense_symmetric_get(&b->c, i, j), 1e-6 * scale);
            }
        }
    }
}

static void a_ridge_map_is_that_of_numpy_and_goes_before_a_projection(void **state)
{
    (void)state;
    float rows[ROWS * WIDTH];
    read_rows(rows);
    json_t *expected = read_expected();
    const json_t *map = json_object_get(json_object_get(expected, "results"), "map");
    OWNED(gram) gram = gram_create(IN, OUT, NULL);
    struct gram_rows some = {
        .rows = ROWS - HELD_OUT, .x = rows, .x_stride = WIDTH, .y = rows + IN, .y_stride = WIDTH};
    assert_true(gram_add(gram, &here, GRAM_FIT, &some, NULL) && gram_finish(gram, &here, NULL));
    const double *got = NULL;
    assert_true(least_squares_map(gram, &here, json_number_value(json_object_get(map, "alpha")), &got, NULL));
    enum { COLUMNS = 3 };
    float down[IN * COLUMNS], folded[OUT * COLUMNS];
    for (size_t i = 0; i < IN * COLUMNS; i++) {
        down[i] = (float)noise(5, i);
    }
    assert_true(least_squares_fold(&here, got, OUT, IN, down, COLUMNS, folded, NULL));
    for (size_t o = 0; o < OUT; o++) {
        const json_t *row = json_array_get(json_object_get(map, "weights"), o);
        double sums[COLUMNS] = {0};
        for (size_t i = 0; i < IN; i++) {
            double value = json_number_value(json_array_get(row, i));
            assert_near(got[o * IN + i], value, 2e-5);
            for (size_t c = 0; c < COLUMNS; c++) {
                sums[c] += value * (double)down[i * COLUMNS + c];
            }
        }
        for (size_t c = 0; c < COLUMNS; c++) {
            assert_near((double)folded[o * COLUMNS + c], sums[c], 1e-4);
        }
    }
    json_decref(expected);
}

/* ---- claims of the reference --------------------------------------------------------------------- */

/* A gram of a projection that loses inputs, with the same tokens fitted and held out. */
static struct gram *gather_loss(const float *x, size_t rows, size_t in, const float *weights, size_t out,
                                const uint32_t *kept, size_t kept_count)
{
    OWNED(gram) all = gram_create(in, 0, NULL);
    struct gram_rows some = {.rows = rows, .x = x, .x_stride = in};
    assert_true(gram_add(all, &here, GRAM_FIT, &some, NULL) &&
                gram_add(all, &here, GRAM_HELD_OUT, &some, NULL) && gram_finish(all, &here, NULL));
    struct gram *gram = gram_keep(all, &here, weights, out, kept, kept_count, NULL);
    assert_non_null(gram);
    return gram;
}

/* Section 6: X = (1 3 5), (2 2 2); W = [[1 2] [0 1]]; without column 1 the bias is [4 2] and the error 0. */
static void the_bias_is_that_of_flap(void **state)
{
    (void)state;
    const float x[] = {1.0f, 2.0f, 3.0f, 2.0f, 5.0f, 2.0f}, weights[] = {1.0f, 2.0f, 0.0f, 1.0f};
    const uint32_t kept[] = {0};
    OWNED(gram) gram = gather_loss(x, 3, 2, weights, 2, kept, 1);
    struct least_squares_request request = {LEAST_SQUARES_BIAS, true};
    struct least_squares_result result;
    assert_true(least_squares_solve(gram, &here, &request, &result, NULL));
    assert_int_equal(result.mode, LEAST_SQUARES_BIAS);
    assert_true(result.bias[0] == 4.0 && result.bias[1] == 2.0);
    assert_true(result.error_before > 0.0 && result.error_after == 0.0);
    least_squares_result_finish(&result);
}

static void fill_noise(float *x, size_t count, uint64_t seed)
{
    for (size_t i = 0; i < count; i++) {
        x[i] = (float)noise(seed, i);
    }
}

/* Section 15b: where what is lost is zero the correction is exactly zero, and a plain ridge regression is not. */
static void silent_inputs_leave_the_weights_alone(void **state)
{
    (void)state;
    enum { N = 8, TOKENS = 400, LEFT = 6 };
    float x[TOKENS * N], weights[3 * N];
    const uint32_t kept[LEFT] = {0, 1, 2, 4, 5, 7};
    fill_noise(x, TOKENS * N, 1);
    fill_noise(weights, 3 * N, 2);
    for (size_t r = 0; r < TOKENS; r++) {
        x[r * N + 3] = x[r * N + 6] = 0.0f;
    }
    static const enum least_squares_mode modes[] = {LEAST_SQUARES_BIAS, LEAST_SQUARES_LS,
                                                    LEAST_SQUARES_LS_BIAS, LEAST_SQUARES_AUTO};
    for (size_t m = 0; m < 4; m++) {
        OWNED(gram) gram = gather_loss(x, TOKENS, N, weights, 3, kept, LEFT);
        struct least_squares_request request = {modes[m], true};
        struct least_squares_result result;
        assert_true(least_squares_solve(gram, &here, &request, &result, NULL));
        assert_int_equal(result.mode, LEAST_SQUARES_NONE);
        assert_int_equal(result.note, LEAST_SQUARES_NOTHING_LOST);
        assert_true(result.weights == NULL && result.bias == NULL);
    }
    OWNED(gram) gram = gather_loss(x, TOKENS, N, weights, 3, kept, LEFT);
    double alpha = 0.1 * gram_mean_diagonal(&gram->parts[GRAM_FIT]);
    const double *correction = NULL;
    assert_true(least_squares_map(gram, &here, alpha, &correction, NULL));
    for (size_t i = 0; i < 3 * LEFT; i++) {
        assert_near(correction[i], 0.0, 1e-6);
    }
    OWNED(gram) whole = gram_create(LEFT, 3, NULL); /* the same, of y itself */
    for (size_t r = 0; r < TOKENS; r++) {
        float row[LEFT], y[3] = {0};
        for (size_t i = 0; i < LEFT; i++) {
            row[i] = x[r * N + kept[i]];
            for (size_t o = 0; o < 3; o++) {
                y[o] += weights[o * N + kept[i]] * row[i];
            }
        }
        struct gram_rows one = {.rows = 1, .x = row, .x_stride = LEFT, .y = y, .y_stride = 3};
        assert_true(gram_add(whole, &here, GRAM_FIT, &one, NULL));
    }
    const double *plain = NULL;
    assert_true(gram_finish(whole, &here, NULL) && least_squares_map(whole, &here, alpha, &plain, NULL));
    double shrunk = 0.0;
    for (size_t o = 0; o < 3; o++) {
        for (size_t i = 0; i < LEFT; i++) {
            double change = fabs(plain[o * LEFT + i] - (double)weights[o * N + kept[i]]);
            shrunk = change > shrunk ? change : shrunk;
        }
    }
    assert_true(shrunk > 0.02);
}

/* Section 15b: on inputs of a large mean ls without a bias is far worse than FLAP's bias alone. */
static void a_lost_mean_wants_a_bias(void **state)
{
    (void)state;
    enum { N = 6, TOKENS = 600 };
    float x[TOKENS * N], weights[2 * N];
    const uint32_t kept[] = {0, 1, 2, 3};
    fill_noise(x, TOKENS * N, 3);
    fill_noise(weights, 2 * N, 4);
    for (size_t r = 0; r < TOKENS; r++) {
        x[r * N + 4] = 5.0f + 0.1f * x[r * N + 4];
        x[r * N + 5] = -3.0f + 0.1f * x[r * N + 5] + 0.2f * x[r * N];
    }
    double errors[4];
    for (size_t m = 0; m < 4; m++) {
        static const enum least_squares_mode modes[] = {LEAST_SQUARES_BIAS, LEAST_SQUARES_LS,
                                                        LEAST_SQUARES_LS_BIAS, LEAST_SQUARES_AUTO};
        OWNED(gram) gram = gather_loss(x, TOKENS, N, weights, 2, kept, 4);
        struct least_squares_request request = {modes[m], true};
        struct least_squares_result result;
        assert_true(least_squares_solve(gram, &here, &request, &result, NULL));
        assert_true(result.error_after <= result.error_before);
        errors[m] = result.error_after;
        assert_true(m != 3 || result.mode == LEAST_SQUARES_LS_BIAS);
        least_squares_result_finish(&result);
    }
    assert_true(errors[1] > 100.0 * errors[0]);
    assert_true(errors[2] < errors[0]);
    assert_near(errors[3], errors[2], 1e-15);
}

static void weights_want_four_tokens_for_each_input(void **state)
{
    (void)state;
    enum { N = 6 };
    float x[20 * N], weights[2 * N];
    const uint32_t kept[] = {0, 1, 2, 3, 4};
    fill_noise(x, sizeof x / sizeof x[0], 6);
    fill_noise(weights, 2 * N, 7);
    for (size_t r = 0; r < 20; r++) {
        x[r * N + 5] += 4.0f;
    }
    for (size_t tokens = 19; tokens <= 20; tokens++) {
        for (size_t m = 0; m < 2; m++) {
            OWNED(gram) gram = gather_loss(x, tokens, N, weights, 2, kept, 5);
            struct least_squares_request request = {m == 0 ? LEAST_SQUARES_LS : LEAST_SQUARES_AUTO, true};
            struct least_squares_result result;
            assert_true(least_squares_solve(gram, &here, &request, &result, NULL));
            if (tokens == 19) {
                assert_int_equal(result.note, LEAST_SQUARES_TOO_FEW_TOKENS);
                assert_int_equal(result.mode, m == 0 ? LEAST_SQUARES_NONE : LEAST_SQUARES_BIAS);
            } else {
                assert_int_equal(result.note, LEAST_SQUARES_FITTED);
                assert_int_equal(result.mode, m == 0 ? LEAST_SQUARES_LS : LEAST_SQUARES_LS_BIAS);
            }
            least_squares_result_finish(&result);
        }
    }
}

/* What held in the fitted tokens does not in the others: nothing is changed. */
static void a_correction_that_does_not_carry_over_is_refused(void **state)
{
    (void)state;
    enum { N = 4, TOKENS = 200 };
    float x[TOKENS * N], y[TOKENS * 2], z[TOKENS * 2];
    fill_noise(x, TOKENS * N, 8);
    memset(z, 0, sizeof z);
    OWNED(gram) gram = gram_create(N, 2, NULL);
    for (size_t part = 0; part < GRAM_PARTS; part++) {
        float sign = part == GRAM_FIT ? 1.0f : -1.0f;
        for (size_t r = 0; r < TOKENS; r++) {
            y[r * 2] = sign * (x[r * N] + 0.5f);
            y[r * 2 + 1] = sign * (x[r * N + 1] - x[r * N + 2] + 0.5f);
        }
        struct gram_rows rows = {
            .rows = TOKENS, .x = x, .x_stride = N, .y = y, .y_stride = 2, .z = z, .z_stride = 2};
        assert_true(gram_add(gram, &here, (enum gram_part)part, &rows, NULL));
    }
    assert_true(gram_finish(gram, &here, NULL));
    struct least_squares_request request = {LEAST_SQUARES_AUTO, true};
    struct least_squares_result result;
    assert_true(least_squares_solve(gram, &here, &request, &result, NULL));
    assert_int_equal(result.mode, LEAST_SQUARES_NONE);
    assert_int_equal(result.note, LEAST_SQUARES_NO_GAIN);
    assert_true(result.weights == NULL && result.bias == NULL && result.lambda == 0.0);
    assert_near(result.error_after, result.error_before, 0.0);
}

/* Without full rank (fewer kinds of rows than inputs) ridge still has an answer, and a good one. */
static void inputs_that_say_the_same_do_no_harm(void **state)
{
    (void)state;
    enum { N = 12, TOKENS = 300, KINDS = 4 };
    float kinds[KINDS * N], x[TOKENS * N], weights[3 * N];
    const uint32_t kept[] = {0, 1, 2, 3, 4, 5, 6, 7};
    fill_noise(kinds, KINDS * N, 9);
    fill_noise(weights, 3 * N, 10);
    for (size_t r = 0; r < TOKENS; r++) {
        for (size_t i = 0; i < N; i++) {
            x[r * N + i] = 0.0f;
            for (size_t k = 0; k < KINDS; k++) {
                x[r * N + i] += (float)noise(11, r * KINDS + k) * kinds[k * N + i];
            }
        }
    }
    OWNED(gram) gram = gather_loss(x, TOKENS, N, weights, 3, kept, 8);
    struct least_squares_request request = {LEAST_SQUARES_LS, false};
    struct least_squares_result result;
    assert_true(least_squares_solve(gram, &here, &request, &result, NULL));
    assert_int_equal(result.mode, LEAST_SQUARES_LS);
    assert_true(result.lambda == 1e-4 && result.error_after < 1e-5 * result.error_before);
    least_squares_result_finish(&result);
}

/* ---- sums ---------------------------------------------------------------------------------------- */

static void add_by_pieces(struct gram *gram, const struct dense_threads *threads, const float *x,
                          const float *y, const float *gates, size_t rows, size_t piece)
{
    for (size_t first = 0; first < rows; first += piece) {
        struct gram_rows some = {.rows = rows - first < piece ? rows - first : piece,
                                 .x = x + first * gram->in,
                                 .x_stride = gram->in,
                                 .y = y + first * gram->out,
                                 .y_stride = gram->out,
                                 .weights = gates != NULL ? gates + first : NULL};
        assert_true(gram_add(gram, threads, GRAM_FIT, &some, NULL));
    }
    assert_true(gram_finish(gram, threads, NULL));
}

static void sums_do_not_depend_on_cuts_and_threads(void **state)
{
    (void)state;
    enum { N = 200, OUTPUTS = 30, TOKENS = 2100 };
    float *x = memory_create(TOKENS * N, sizeof *x), *y = memory_create(TOKENS * OUTPUTS, sizeof *y);
    float *gates = memory_create(TOKENS, sizeof *gates);
    fill_noise(x, TOKENS * N, 12);
    fill_noise(y, TOKENS * OUTPUTS, 13);
    fill_noise(gates, TOKENS, 14);
    OWNED(gram) whole = gram_create(N, OUTPUTS, NULL);
    add_by_pieces(whole, &here, x, y, gates, TOKENS, TOKENS);
    static const size_t pieces[] = {1, 37, 1024};
    for (size_t p = 0; p < 3; p++) {
        for (size_t threads = 1; threads <= 3; threads += 2) {
            OWNED(pool) other = pool_create(threads, NULL);
            struct dense_threads there = {other, NULL};
            OWNED(gram) cut = gram_create(N, OUTPUTS, NULL);
            add_by_pieces(cut, &there, x, y, gates, TOKENS, pieces[p]);
            assert_memory_equal(cut->squares, whole->squares, N * (N + 1) * sizeof(double));
            assert_memory_equal(cut->values, whole->values, (N + OUTPUTS * N + 2 * OUTPUTS) * sizeof(double));
        }
    }
    for (size_t r = 0; r < TOKENS; r++) { /* a gate is a factor of the row */
        for (size_t i = 0; i < N; i++) {
            x[r * N + i] *= gates[r];
        }
        for (size_t o = 0; o < OUTPUTS; o++) {
            y[r * OUTPUTS + o] *= gates[r];
        }
    }
    OWNED(gram) scaled = gram_create(N, OUTPUTS, NULL);
    add_by_pieces(scaled, &here, x, y, NULL, TOKENS, TOKENS);
    assert_memory_equal(scaled->squares, whole->squares, N * (N + 1) * sizeof(double));
    assert_memory_equal(scaled->parts[0].cross, whole->parts[0].cross, OUTPUTS * N * sizeof(double));
    free(x);
    free(y);
    free(gates);
}

static void sums_that_are_not_finite_are_refused(void **state)
{
    (void)state;
    const float x[] = {1.0f, INFINITY};
    OWNED(gram) gram = gram_create(2, 0, NULL);
    struct gram_rows rows = {.rows = 1, .x = x, .x_stride = 2};
    struct error error = {0};
    assert_true(gram_add(gram, &here, GRAM_FIT, &rows, NULL));
    assert_false(gram_finish(gram, &here, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
}

static void the_last_quarter_of_the_sequences_is_held_out(void **state)
{
    (void)state;
    struct token_sequence sequences[] = {{NULL, 10}, {NULL, 20}, {NULL, 30}, {NULL, 40},
                                         {NULL, 1},  {NULL, 2},  {NULL, 3},  {NULL, 4}};
    assert_int_equal(gram_first_held_out_row(&(struct token_batch){sequences, 8}), 103);
    assert_int_equal(gram_first_held_out_row(&(struct token_batch){sequences, 4}), 60);
    assert_int_equal(gram_first_held_out_row(&(struct token_batch){sequences, 3}), 30);
    assert_int_equal(gram_first_held_out_row(&(struct token_batch){sequences + 3, 1}), 30);
}

static void modes_have_names(void **state)
{
    (void)state;
    for (size_t m = LEAST_SQUARES_NONE; m <= LEAST_SQUARES_AUTO; m++) {
        enum least_squares_mode mode = LEAST_SQUARES_NONE;
        assert_true(least_squares_parse(least_squares_name((enum least_squares_mode)m), &mode, NULL));
        assert_int_equal(mode, m);
    }
    struct error error = {0};
    enum least_squares_mode mode;
    assert_false(least_squares_parse("ridge", &mode, &error));
    assert_int_equal(error.code, ERROR_UNKNOWN_VALUE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(corrections_are_those_of_numpy),
        cmocka_unit_test(tokens_may_have_weights),
        cmocka_unit_test(sums_over_all_inputs_give_those_over_the_kept),
        cmocka_unit_test(a_ridge_map_is_that_of_numpy_and_goes_before_a_projection),
        cmocka_unit_test(the_bias_is_that_of_flap),
        cmocka_unit_test(silent_inputs_leave_the_weights_alone),
        cmocka_unit_test(a_lost_mean_wants_a_bias),
        cmocka_unit_test(weights_want_four_tokens_for_each_input),
        cmocka_unit_test(a_correction_that_does_not_carry_over_is_refused),
        cmocka_unit_test(inputs_that_say_the_same_do_no_harm),
        cmocka_unit_test(sums_do_not_depend_on_cuts_and_threads),
        cmocka_unit_test(sums_that_are_not_finite_are_refused),
        cmocka_unit_test(the_last_quarter_of_the_sequences_is_held_out),
        cmocka_unit_test(modes_have_names),
    };
    return cmocka_run_group_tests(tests, open_pool, close_pool);
}
