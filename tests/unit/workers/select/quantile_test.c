/* Shares of counts where products round to the wrong side, and the type-1 quantile against its definition. */
#include "base/rng.h"
#include "workers/select/quantile.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

static double unit(uint32_t step, uint64_t index)
{
    return rng_unit(&(struct rng){.seed = 5, .stream = 1, .step = step}, index);
}

static void a_share_counts_as_its_decimal_says(void **state)
{
    (void)state;
    assert_int_equal((size_t)(0.29 * 100), 28); /* the trap */
    assert_int_equal(quantile_count_within(0.29, 100), 29);
    assert_int_equal(quantile_count_within(0.3, 10), 3);
    assert_int_equal(quantile_count_within(0.2, 4), 0);
    assert_int_equal(quantile_count_within(0.5, 5), 2);
    assert_int_equal(quantile_count_within(1, 7), 7);
    assert_int_equal(quantile_count_within(0, 7), 0);
    assert_int_equal(quantile_count_within(0.4, 0), 0);
    assert_int_equal(quantile_count_reaching(0.75, 4), 3);
    assert_int_equal(quantile_count_reaching(0.5, 5), 3);
    assert_true(0.07 * 100 > 7); /* ceil would say 8 */
    assert_int_equal(quantile_count_reaching(0.07, 100), 7);
    assert_int_equal(quantile_count_reaching(0, 3), 0);
    assert_int_equal(quantile_count_reaching(1, 3), 3);
}

static void every_share_of_every_count_is_itself(void **state)
{
    (void)state;
    for (size_t n = 1; n < 400; n++) {
        for (size_t k = 0; k <= n; k++) {
            double ratio = (double)k / (double)n;
            assert_int_equal(quantile_count_within(ratio, n), k);
            assert_int_equal(quantile_count_reaching(ratio, n), k);
        }
    }
}

static void the_quantile_is_the_least_value_that_enough_lie_below(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < 500; round++) {
        double values[9] = {0};
        size_t n = 1 + round % 9;
        double ratio = round % 5 == 0 ? (double)(round % 10) / 10 : unit(round, 100);
        for (size_t i = 0; i < n; i++) {
            values[i] = floor(unit(round, i) * 6) - 2; /* with ties */
        }
        double least = INFINITY;
        for (size_t i = 0; i < n; i++) {
            size_t below = 0;
            for (size_t j = 0; j < n; j++) {
                below += values[j] <= values[i] ? 1 : 0;
            }
            if ((double)below / (double)n >= ratio) {
                least = fmin(least, values[i]);
            }
        }
        quantile_sort(values, n);
        assert_true(quantile_of_sorted(values, n, ratio) == least);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_share_counts_as_its_decimal_says),
        cmocka_unit_test(every_share_of_every_count_is_itself),
        cmocka_unit_test(the_quantile_is_the_least_value_that_enough_lie_below),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
