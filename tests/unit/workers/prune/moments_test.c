/*
 * The running sums behind the width criteria: the reference's vectors, accuracy with a mean far above the deviation (where unshifted sums
 * lose every digit), and independence of cuts and threads.
 */
#include "base/memory.h"
#include "workers/prune/moments.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void assert_close(double value, double expected, double tolerance)
{
    if (!(fabs(value - expected) <= tolerance)) {
        print_error("%.17g is not %.17g\n", value, expected);
        fail();
    }
}

/* Deterministic values in about [-1, 1). */
static float noise(size_t i)
{
    uint64_t x = (uint64_t)i * 0x9E3779B97F4A7C15u + 12345;
    x ^= x >> 31;
    x *= 0xBF58476D1CE4E5B9u;
    x ^= x >> 29;
    return (float)((double)(x >> 40) / 8388608.0 - 1);
}

static void means_and_variances_are_flaps(void **state)
{
    (void)state;
    const float rows[] = {1, 2, 3, 2, 5, 2};
    OWNED(moments) moments = moments_create(2, NULL);
    moments_add(moments, rows, 3, 2, NULL, NULL);
    moments_close(moments);
    double mean[2], variance[2];
    moments_mean(moments, mean);
    moments_variance(moments, variance);
    assert_close(mean[0], 3, 0);
    assert_close(mean[1], 2, 0);
    assert_close(variance[0], 4, 0);
    assert_close(variance[1], 0, 0);
}

static void minitrons_norm_is_of_means_of_sequences(void **state)
{
    (void)state;
    const float rows[] = {0.25F, -0.75F, 1, -1}; /* abs-means .5 and 1 */
    const size_t sequences[] = {0, 0, 7, 7};
    OWNED(moments) moments = moments_create(1, NULL);
    moments_add(moments, rows, 4, 1, sequences, NULL);
    moments_close(moments);
    double norm = 0;
    moments_sequence_norm(moments, &norm);
    assert_close(norm, 1.118034, 1e-6);
    assert_int_equal(moments->sequences, 2);
    moments_norm(moments, &norm); /* sqrt((.625 + 2) / 2) */
    assert_close(norm, sqrt(1.3125), 1e-15);
}

static void a_large_mean_costs_no_digits(void **state)
{
    (void)state;
    enum { ROWS = 5000 };
    static float rows[ROWS];
    double mean = 0, variance = 0, naive_sum = 0, naive_square = 0;
    for (size_t r = 0; r < ROWS; r++) {
        rows[r] = 4194304.0F + 0.5F * (float)(r % 3); /* exact in fp32; mean / deviation is ten million */
        mean += (double)rows[r] / ROWS;
        naive_sum += (double)rows[r];
        naive_square += (double)rows[r] * (double)rows[r];
    }
    for (size_t r = 0; r < ROWS; r++) {
        variance += ((double)rows[r] - mean) * ((double)rows[r] - mean) / (ROWS - 1);
    }
    OWNED(moments) moments = moments_create(1, NULL);
    moments_add(moments, rows, ROWS, 1, NULL, NULL);
    double value = 0;
    moments_variance(moments, &value);
    assert_close(value / variance, 1, 1e-12);
    double naive = (naive_square - naive_sum * naive_sum / ROWS) / (ROWS - 1);
    assert_true(fabs(naive / variance - 1) > 1e-6); /* the test tells them apart */
}

static void a_first_row_far_from_the_others_costs_few_digits(void **state)
{
    (void)state;
    enum { ROWS = 20000 };
    static float rows[ROWS];
    long double mean = 0, variance = 0;
    for (size_t r = 0; r < ROWS; r++) {
        rows[r] = r == 0 ? 1500.0F : 0.01F * noise(r); /* the massive activation of a first token */
        mean += (long double)rows[r] / ROWS;
    }
    for (size_t r = 0; r < ROWS; r++) {
        variance += ((long double)rows[r] - mean) * ((long double)rows[r] - mean) / (ROWS - 1);
    }
    OWNED(moments) moments = moments_create(1, NULL);
    moments_add(moments, rows, ROWS, 1, NULL, NULL);
    double value = 0;
    moments_variance(moments, &value);
    assert_close(value / (double)variance, 1, 1e-9);
}

static void bits_depend_on_neither_cuts_nor_threads(void **state)
{
    (void)state;
    enum { COLUMNS = 1100, STRIDE = 1103, ROWS = 37 };
    float *rows = memory_create((size_t)ROWS * STRIDE, sizeof *rows);
    size_t sequences[ROWS];
    for (size_t i = 0; i < (size_t)ROWS * STRIDE; i++) {
        rows[i] = noise(i) * 30;
    }
    for (size_t r = 0; r < ROWS; r++) {
        sequences[r] = r / 10;
    }
    OWNED(moments) whole = moments_create(COLUMNS, NULL);
    moments_add(whole, rows, ROWS, STRIDE, sequences, NULL);
    moments_close(whole);
    OWNED(pool) pool = pool_create(3, NULL);
    OWNED(moments) cut = moments_create(COLUMNS, NULL);
    for (size_t r = 0, step = 1; r < ROWS; r += step, step = step % 4 + 1) {
        size_t count = r + step > ROWS ? ROWS - r : step;
        moments_add(cut, rows + r * STRIDE, count, STRIDE, sequences + r, pool);
    }
    moments_close(cut);
    assert_int_equal(whole->tokens, ROWS);
    assert_int_equal(whole->sequences, 4);
    assert_int_equal(cut->sequences, 4);
    assert_memory_equal(whole->values, cut->values, (size_t)MOMENTS_SUMS * COLUMNS * sizeof(double));
    free(rows);
}

static void nothing_seen_gives_zeros_and_nan_is_not_hidden(void **state)
{
    (void)state;
    OWNED(moments) moments = moments_create(2, NULL);
    double values[2] = {9, 9};
    moments_close(moments);
    moments_variance(moments, values);
    assert_true(values[0] == 0 && values[1] == 0);
    moments_norm(moments, values);
    assert_true(values[0] == 0 && values[1] == 0);
    const float rows[] = {1, NAN, 2, 3};
    moments_add(moments, rows, 2, 2, NULL, NULL);
    moments_variance(moments, values);
    assert_true(!isnan(values[0]) && isnan(values[1]));
}

static void reap_weighs_the_norm_of_each_routed_token(void **state)
{
    (void)state;
    struct routed_norm norm = {0};
    assert_close(routed_norm_mean(&norm), 0, 0);
    const float outputs[] = {3, 4, 99, 0, 2, 99};
    const float weights[] = {0.5F, 0.25F};
    routed_norm_add(&norm, outputs, 2, 2, 3, weights);
    assert_close(routed_norm_mean(&norm), (0.5 * 5 + 0.25 * 2) / 2, 1e-15);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(means_and_variances_are_flaps),
        cmocka_unit_test(minitrons_norm_is_of_means_of_sequences),
        cmocka_unit_test(a_large_mean_costs_no_digits),
        cmocka_unit_test(a_first_row_far_from_the_others_costs_few_digits),
        cmocka_unit_test(bits_depend_on_neither_cuts_nor_threads),
        cmocka_unit_test(nothing_seen_gives_zeros_and_nan_is_not_hidden),
        cmocka_unit_test(reap_weighs_the_norm_of_each_routed_token),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
