/*
 * GOT-D's order: the reference's vectors (data_selection 5, T1-T3), gradients by plain loops, and what the method is for: of a pool that has too
 * little of one half of the target it takes just that.
 */
#include "tests/unit/workers/select/plain.h"
#include "workers/select/gotd.h"
#include "workers/select/sinkhorn.h"

static void gradients_are_free_of_the_constant(void **state)
{
    (void)state;
    const double euclidean[] = {10, 11, 13}, squared[] = {-7, -6, 2};
    double g[3];
    gotd_gradients(euclidean, 3, g);
    assert_close(g[0], -2, 1e-14);
    assert_close(g[1], -0.5, 1e-14);
    assert_close(g[2], 2.5, 1e-14);
    gotd_gradients(squared, 3, g);
    assert_close(g[0], -5, 1e-14);
    assert_close(g[1], -3.5, 1e-14);
    assert_close(g[2], 8.5, 1e-14);
    gotd_gradients(euclidean + 1, 1, g);
    assert_true(g[0] == 0);
    gotd_gradients(NULL, 0, NULL);
}

static void gradients_are_those_of_plain_loops_and_sum_to_zero(void **state)
{
    (void)state;
    enum { N = 101 };
    double f[N], g[N], sum = 0;
    for (size_t i = 0; i < N; i++) {
        f[i] = 50 + rng_unit(&(struct rng){.seed = 1}, i);
    }
    gotd_gradients(f, N, g);
    for (size_t i = 0; i < N; i++) {
        double others = 0;
        for (size_t l = 0; l < N; l++) {
            others += l != i ? f[l] : 0;
        }
        assert_close(g[i], f[i] - others / (N - 1), 1e-12);
        sum += g[i];
    }
    assert_close(sum, 0, 1e-11);
}

static void the_lowest_come_first_and_in_contrast_the_highest(void **state)
{
    (void)state;
    const double f[] = {3, 1, 2, 1, 3};
    size_t order[6] = {0, 0, 0, 0, 0, 77};
    assert_true(gotd_order(f, 5, GOTD_TOWARDS, 3, order, NULL));
    assert_true(order[0] == 1 && order[1] == 3 && order[2] == 2);
    assert_true(gotd_order(f, 5, GOTD_AWAY, 3, order, NULL));
    assert_true(order[0] == 0 && order[1] == 4 && order[2] == 2);
    assert_true(gotd_order(f, 5, GOTD_TOWARDS, 9, order, NULL));
    assert_memory_equal(order, ((const size_t[]){1, 3, 2, 0, 4, 77}), sizeof order); /* all */
    assert_true(gotd_order(f, 1, GOTD_TOWARDS, 1, order, NULL));
    assert_true(order[0] == 0);
    assert_true(gotd_order((const double[]){1, 1}, 2, GOTD_TOWARDS, 1, order, NULL));
    assert_true(order[0] == 0);
}

static void a_potential_that_is_no_number_is_named(void **state)
{
    (void)state;
    size_t order[2];
    struct error error = {0};
    assert_false(gotd_order((const double[]){1, NAN}, 2, GOTD_TOWARDS, 1, order, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
    assert_non_null(strstr(error.message, "record 1"));
}

/* Pool: 190 around (0, 0), and every twentieth around (4, 0); target: half and half. */
static void what_the_pool_lacks_is_taken(void **state)
{
    (void)state;
    enum { N = 200, M = 40, SIZE = 2, RARE = 10 };
    float x[N * SIZE], y[M * SIZE];
    const struct rng rng = {.seed = 5};
    for (size_t i = 0; i < N * SIZE; i++) {
        bool is_rare = i / SIZE % 20 == 7;
        x[i] = (float)rng_unit(&rng, i) + (is_rare && i % SIZE == 0 ? 4 : 0);
    }
    for (size_t i = 0; i < M * SIZE; i++) {
        y[i] = (float)rng_unit(&rng, 1000 + i) + (i / SIZE % 2 == 0 && i % SIZE == 0 ? 4 : 0);
    }
    OWNED(pool) pool = pool_create(2, NULL);
    const struct sinkhorn_problem problem = {.n = N,
                                             .m = M,
                                             .size = SIZE,
                                             .x = x,
                                             .y = y,
                                             .epsilon_ratio = 0.05,
                                             .tolerance = 1e-4,
                                             .iteration_limit = 2000};
    FINISHED(sinkhorn_result) result = {0};
    size_t order[RARE];
    assert_true(sinkhorn_solve(&(struct dense_threads){.pool = pool}, &problem, &result, NULL));
    assert_true(gotd_order(result.f, N, GOTD_TOWARDS, RARE, order, NULL));
    for (size_t i = 0; i < RARE; i++) {
        assert_int_equal(order[i] % 20, 7);
    }
    assert_true(gotd_order(result.f, N, GOTD_AWAY, RARE, order, NULL));
    for (size_t i = 0; i < RARE; i++) {
        assert_true(order[i] % 20 != 7);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_are_free_of_the_constant),
        cmocka_unit_test(gradients_are_those_of_plain_loops_and_sum_to_zero),
        cmocka_unit_test(the_lowest_come_first_and_in_contrast_the_highest),
        cmocka_unit_test(a_potential_that_is_no_number_is_named),
        cmocka_unit_test(what_the_pool_lacks_is_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
