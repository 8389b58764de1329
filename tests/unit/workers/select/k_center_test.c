/*
 * tests/unit/workers/select/k_center_test.c: the greedy order against a plain form that looks at all rows for each choice, on whole numbers
 * (all distances exact, many equal) and on others; duplicates, bounds, threads.
 */
#include "tests/unit/workers/select/plain.h"
#include "workers/select/k_center.h"

/* The order from a given first row. Returns the radius. */
static double plain_order(const float *rows, size_t count, size_t size, uint32_t first, size_t wanted,
                          uint32_t *order)
{
    OWNED_MEMORY double *squares = memory_create(count, sizeof *squares);
    OWNED_MEMORY bool *is_chosen = memory_create(count, sizeof *is_chosen);
    for (size_t i = 0; i < count; i++) {
        squares[i] = INFINITY;
    }
    size_t next = first;
    for (size_t n = 0; n < wanted; n++) {
        order[n] = (uint32_t)next;
        is_chosen[next] = true;
        size_t farthest = count;
        for (size_t i = 0; i < count; i++) {
            squares[i] = fmin(squares[i], plain_square(rows + i * size, rows + order[n] * size, size));
            if (!is_chosen[i] && (farthest == count || squares[i] > squares[farthest])) {
                farthest = i;
            }
        }
        next = farthest;
    }
    double most = 0;
    for (size_t i = 0; i < count; i++) {
        most = fmax(most, squares[i]);
    }
    return sqrt(most);
}

static void the_farthest_comes_next_and_ties_go_to_the_smaller_index(void **state)
{
    (void)state;
    const float rows[] = {0, 1, 2, 10, 11, 12}; /* 2 and 10 are equally near the mean */
    const uint32_t expected[] = {2, 5, 0, 3, 1, 4};
    const double radii[] = {10, 2, 2, 1, 1, 0};
    for (size_t wanted = 1; wanted <= 6; wanted++) {
        uint32_t order[6];
        double radius = -1;
        assert_true(k_center_select(&plain_threads, rows, 6, 1, wanted, order, &radius, NULL));
        assert_memory_equal(order, expected, wanted * sizeof *order);
        assert_true(radius == radii[wanted - 1]);
    }
}

static void the_order_is_that_of_a_plain_form(void **state)
{
    (void)state;
    const struct {
        size_t count, size, wanted;
        uint64_t end;
    } cases[] = {
        {40, 1, 40, 30}, {700, 5, 650, 4}, {900, 2, 900, 20}, {5000, 3, 300, 50}, {5000, 16, 150, 1000}};
    for (size_t n = 0; n < sizeof cases / sizeof *cases; n++) {
        size_t count = cases[n].count, size = cases[n].size, wanted = cases[n].wanted;
        OWNED_MEMORY float *rows = memory_create(count * size, sizeof *rows);
        OWNED_MEMORY uint32_t *order = memory_create(wanted, sizeof *order);
        OWNED_MEMORY uint32_t *expected = memory_create(wanted, sizeof *expected);
        struct rng rng = {.seed = n};
        for (size_t i = 0; i < count * size; i++) {
            rows[i] = (float)rng_below(&rng, i, cases[n].end);
        }
        double radius = -1;
        assert_true(k_center_select(&plain_threads, rows, count, size, wanted, order, &radius, NULL));
        double expected_radius = plain_order(rows, count, size, order[0], wanted, expected);
        assert_memory_equal(order, expected, wanted * sizeof *order);
        assert_true(radius == expected_radius);
    }
}

static void the_first_row_is_the_one_nearest_the_mean(void **state)
{
    (void)state;
    enum { COUNT = 501, SIZE = 130 };
    OWNED_MEMORY float *rows = memory_create((size_t)COUNT * SIZE, sizeof *rows);
    double mean[SIZE] = {0};
    struct rng rng = {.seed = 31};
    for (size_t i = 0; i < (size_t)COUNT * SIZE; i++) {
        rows[i] = (float)(rng_unit(&rng, i) * (double)(i / SIZE % 7 + 1));
        mean[i % SIZE] += (double)rows[i] / COUNT;
    }
    size_t nearest = 0;
    double least = INFINITY;
    for (size_t i = 0; i < COUNT; i++) {
        double square = 0;
        for (size_t c = 0; c < SIZE; c++) {
            square += ((double)rows[i * SIZE + c] - mean[c]) * ((double)rows[i * SIZE + c] - mean[c]);
        }
        nearest = square < least ? i : nearest;
        least = fmin(least, square);
    }
    uint32_t order[3], expected[3];
    double radius = 0;
    assert_true(k_center_select(&plain_threads, rows, COUNT, SIZE, 3, order, &radius, NULL));
    assert_int_equal(order[0], nearest);
    double expected_radius = plain_order(rows, COUNT, SIZE, order[0], 3, expected);
    assert_memory_equal(order, expected, sizeof order);
    assert_true(fabs(radius - expected_radius) <= 1e-12 * expected_radius);
}

static void duplicates_come_last_and_by_index(void **state)
{
    (void)state;
    const float rows[] = {4, 4, 0, 4, 0, 4};
    const uint32_t expected[] = {0, 2, 1, 3, 4, 5};
    uint32_t order[6];
    double radius = -1;
    assert_true(k_center_select(&plain_threads, rows, 6, 1, 6, order, &radius, NULL));
    assert_memory_equal(order, expected, sizeof order);
    assert_true(radius == 0);
    assert_true(k_center_select(&plain_threads, rows, 6, 1, 3, order, &radius, NULL));
    assert_memory_equal(order, expected, 3 * sizeof *order);
    assert_true(radius == 0);
}

static void bits_do_not_depend_on_threads(void **state)
{
    (void)state;
    enum { COUNT = 6000, SIZE = 24, WANTED = 400 };
    OWNED_MEMORY float *rows = memory_create((size_t)COUNT * SIZE, sizeof *rows);
    struct rng rng = {.seed = 17};
    for (size_t i = 0; i < (size_t)COUNT * SIZE; i++) {
        rows[i] = (float)rng_unit(&rng, i);
    }
    OWNED(pool) three = pool_create(3, NULL);
    OWNED(pool) one = pool_create(1, NULL);
    struct dense_threads threads = {three, NULL}, alone = {one, NULL};
    uint32_t order[WANTED], order_of_three[WANTED];
    double radius = 0, radius_of_three = 1;
    assert_true(k_center_select(&alone, rows, COUNT, SIZE, WANTED, order, &radius, NULL));
    assert_true(k_center_select(&threads, rows, COUNT, SIZE, WANTED, order_of_three, &radius_of_three, NULL));
    assert_memory_equal(order, order_of_three, sizeof order);
    assert_true(radius == radius_of_three);
}

static void edges_and_errors(void **state)
{
    (void)state;
    float rows[] = {1, 2, 3};
    uint32_t order[4];
    double radius = -1;
    struct error error = {0};
    assert_true(k_center_select(&plain_threads, rows, 0, 1, 0, order, &radius, &error));
    assert_true(radius == 0);
    assert_true(k_center_select(&plain_threads, rows, 3, 1, 0, order, &radius, &error));
    assert_true(isinf(radius));
    assert_true(k_center_select(&plain_threads, rows, 1, 1, 1, order, &radius, &error));
    assert_true(order[0] == 0 && radius == 0);
    assert_false(k_center_select(&plain_threads, rows, 3, 1, 4, order, &radius, &error));
    assert_int_equal(error.code, ERROR_OUT_OF_RANGE);
    rows[1] = NAN;
    assert_false(k_center_select(&plain_threads, rows, 3, 1, 2, order, &radius, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
    assert_non_null(strstr(error.message, "row 1"));
    assert_true(radius == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_farthest_comes_next_and_ties_go_to_the_smaller_index),
        cmocka_unit_test(the_order_is_that_of_a_plain_form),
        cmocka_unit_test(the_first_row_is_the_one_nearest_the_mean),
        cmocka_unit_test(duplicates_come_last_and_by_index),
        cmocka_unit_test(bits_do_not_depend_on_threads),
        cmocka_unit_test(edges_and_errors),
    };
    return cmocka_run_group_tests(tests, plain_open, plain_close);
}
