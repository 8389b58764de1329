/* Rows and columns that go are added to the most similar ones that stay: by hand, and against a plain form on awkward sizes. */
#include "base/memory.h"
#include "base/rng.h"
#include "workers/prune/merging.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void rows_become_means_and_columns_sums(void **state)
{
    (void)state;
    OWNED(pool) pool = pool_create(1, NULL);
    struct dense_threads threads = {pool, NULL};
    const uint32_t kept[] = {0, 2};
    /* Row 1 is like row 2, row 3 like row 0, row 4 like both alike: the lower one. */
    float rows[] = {1, 0, 0, 1, 0, 2, 3, 0, 1, 0.5F};
    assert_true(merge_rows(&threads, rows, 5, 2, kept, 2, true, NULL));
    const float means[] = {5.0F / 3, 0.5F / 3, 0, 1.5F};
    for (size_t i = 0; i < 4; i++) {
        assert_true(fabsf(rows[i] - means[i]) < 1e-6F);
    }
    float columns[] = {1, 0, 0, 3, 1, /**/ 0, 1, 2, 0, 0.5F};
    assert_true(merge_columns(&threads, columns, 2, 5, kept, 2, false, NULL));
    const float sums[] = {5, 0, 0.5F, 3};
    for (size_t i = 0; i < 4; i++) {
        assert_true(fabsf(columns[i] - sums[i]) < 1e-6F);
    }
}

static void nothing_gone_changes_nothing(void **state)
{
    (void)state;
    OWNED(pool) pool = pool_create(1, NULL);
    struct dense_threads threads = {pool, NULL};
    const uint32_t kept[] = {0, 1, 2};
    float rows[] = {1, 2, 3, 4, 5, 6};
    const float same[] = {1, 2, 3, 4, 5, 6};
    assert_true(merge_rows(&threads, rows, 3, 2, kept, 3, true, NULL));
    assert_memory_equal(rows, same, sizeof same);
    assert_true(merge_columns(&threads, rows, 2, 3, kept, 3, true, NULL));
    assert_memory_equal(rows, same, sizeof same);
}

static void many_rows_merge_as_one_by_one(void **state)
{
    (void)state;
    enum { COUNT = 601, COLUMNS = 37, KEPT = 200 };
    struct rng rng = {.seed = 5};
    float *rows = memory_create((size_t)COUNT * COLUMNS, sizeof *rows);
    float *again = memory_create((size_t)COUNT * COLUMNS, sizeof *again);
    double *expected = memory_create((size_t)KEPT * COLUMNS, sizeof *expected);
    size_t joined[KEPT] = {0};
    uint32_t kept[KEPT];
    for (size_t i = 0; i < (size_t)COUNT * COLUMNS; i++) {
        rows[i] = again[i] = (float)(rng_unit(&rng, i) - 0.5);
    }
    for (uint32_t k = 0; k < KEPT; k++) {
        kept[k] = 3 * k + 1;
        for (size_t c = 0; c < COLUMNS; c++) {
            expected[k * COLUMNS + c] = (double)rows[kept[k] * COLUMNS + c];
        }
    }
    for (size_t r = 0; r < COUNT; r++) {
        size_t best = 0;
        double most = -INFINITY;
        bool stays = r % 3 == 1 && r / 3 < KEPT;
        for (size_t k = 0; k < KEPT && !stays; k++) {
            double product = 0;
            for (size_t c = 0; c < COLUMNS; c++) {
                product += (double)rows[r * COLUMNS + c] * (double)rows[kept[k] * COLUMNS + c];
            }
            best = product > most ? k : best;
            most = product > most ? product : most;
        }
        for (size_t c = 0; c < COLUMNS && !stays; c++) {
            expected[best * COLUMNS + c] += (double)rows[r * COLUMNS + c];
        }
        joined[best] += stays ? 0 : 1;
    }
    OWNED(pool) one = pool_create(1, NULL);
    OWNED(pool) three = pool_create(3, NULL);
    struct dense_threads alone = {one, NULL}, together = {three, NULL};
    assert_true(merge_rows(&alone, rows, COUNT, COLUMNS, kept, KEPT, true, NULL));
    assert_true(merge_rows(&together, again, COUNT, COLUMNS, kept, KEPT, true, NULL));
    assert_memory_equal(rows, again, (size_t)KEPT * COLUMNS * sizeof *rows);
    for (size_t i = 0; i < (size_t)KEPT * COLUMNS; i++) {
        double mean = expected[i] / (double)(1 + joined[i / COLUMNS]);
        assert_true(fabs((double)rows[i] - mean) < 1e-5);
    }
    free(rows);
    free(again);
    free(expected);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_become_means_and_columns_sums),
        cmocka_unit_test(nothing_gone_changes_nothing),
        cmocka_unit_test(many_rows_merge_as_one_by_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
