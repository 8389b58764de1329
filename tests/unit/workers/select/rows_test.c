/*
 * Rows: lengths, cosines and their edges, the screen, which lets everything pass that is within reach, draws and groups.
 */
#include "tests/unit/workers/select/plain.h"
#include "workers/select/rows.h"

static void lengths_have_one_limit_and_one_zero(void **state)
{
    (void)state;
    const float rows[] = {3, 4, 1e-13F, 0, 1e14F, 0};
    double squares[3], longest = 0;
    float halves[ROWS_CHUNK];
    assert_true(rows_measure_squares(&plain_threads, rows, 3, 2, squares, NULL));
    assert_true(squares[0] == 25);
    assert_close(squares[2], 1e28, 1e21);
    assert_true(rows_is_zero(squares[1]) && !rows_is_zero(squares[0]));
    assert_true(rows_inverse(squares[1]) == 0 && rows_inverse(squares[0]) == 0.2);
    assert_true(rows_measure(&plain_threads, rows, 3, 2, false, halves, &longest, NULL));
    assert_true(halves[0] == 12.5F && isinf(halves[3]) && isinf(halves[ROWS_CHUNK - 1]));
    assert_close(longest, 1e14, 1e8);
    const float units[] = {0.6F, 0.8F, 1e-13F, 0};
    assert_true(rows_measure(&plain_threads, units, 2, 2, true, halves, &longest, NULL));
    assert_true(halves[0] > 0.49F && isinf(halves[1])); /* what is no direction takes no part */
    const float bad[][2] = {{NAN, 0}, {1e15F, 0}, {-INFINITY, 1}};
    for (size_t i = 0; i < 3; i++) {
        struct error error = {0};
        const float two[] = {1, 0, bad[i][0], bad[i][1]};
        assert_false(rows_measure_squares(&plain_threads, two, 2, 2, squares, &error));
        assert_int_equal(error.code, ERROR_NUMERIC);
        assert_non_null(strstr(error.message, "row 1"));
        assert_false(rows_measure(&plain_threads, two, 2, 2, false, halves, &longest, &error));
        assert_int_equal(error.code, ERROR_NUMERIC);
    }
}

static void cosines_of_equal_rows_are_one(void **state)
{
    (void)state;
    enum { COUNT = 50, SIZE = 21 };
    OWNED_MEMORY float *rows = plain_rows((size_t)COUNT * SIZE, 1);
    const float zero[SIZE] = {0};
    for (size_t i = 0; i < COUNT; i++) {
        const float *a = rows + i * SIZE, *b = rows + (i + 1) % COUNT * SIZE;
        double dot = 0, a_square = rows_dot(a, a, SIZE), b_square = rows_dot(b, b, SIZE);
        for (size_t c = 0; c < SIZE; c++) {
            dot += (double)a[c] * (double)b[c];
        }
        assert_true(rows_cosine(a, a_square, a, a_square, SIZE) == 1);
        assert_close(rows_cosine(a, a_square, b, b_square, SIZE), dot / sqrt(a_square * b_square), 1e-14);
        assert_close(rows_distance_square(a, b, SIZE), plain_square(a, b, SIZE), 1e-13);
        assert_true(rows_cosine(a, a_square, zero, 0, SIZE) == 0);
    }
}

/* Far from the origin fp32 products say little; still none that is within reach is lost. */
static void the_screen_loses_nothing(void **state)
{
    (void)state;
    enum { COUNT = 96, SIZE = 43 };
    const double shifts[] = {0, 1, 300, 1e5, 1e10};
    for (size_t s = 0; s < COUNT_OF(shifts); s++) {
        OWNED_MEMORY float *rows = plain_rows((size_t)COUNT * SIZE, s);
        for (size_t i = 0; i < (size_t)COUNT * SIZE; i++) {
            rows[i] = (float)((double)rows[i] + shifts[s]);
        }
        float halves[COUNT], products[COUNT * COUNT];
        double longest = 0;
        assert_true(rows_measure(&plain_threads, rows, COUNT, SIZE, false, halves, &longest, NULL));
        assert_true(rows_multiply(&plain_threads, SIZE, rows, COUNT, rows, COUNT, products, COUNT, NULL));
        for (size_t i = 0; i < (size_t)COUNT * COUNT; i++) {
            size_t x = i / COUNT, y = i % COUNT;
            double reach = rows_distance_square(rows + x * SIZE, rows + y * SIZE, SIZE);
            float bound = rows_bound(halves[x], reach, rows_margin(SIZE, longest, longest));
            assert_true(products[i] - halves[y] >= bound);
        }
        assert_true(products[1] - INFINITY < rows_bound(halves[0], INFINITY, 0));
    }
}

static void a_draw_is_a_rising_set(void **state)
{
    (void)state;
    enum { COUNT = 9, WANTED = 4, DRAWS = 2000 };
    size_t times[COUNT] = {0};
    for (size_t d = 0; d < DRAWS; d++) {
        uint32_t ids[WANTED];
        assert_true(rows_draw(&(struct rng){.seed = d}, COUNT, WANTED, ids, NULL));
        for (size_t i = 0; i < WANTED; i++) {
            assert_true(ids[i] < COUNT && (i == 0 || ids[i] > ids[i - 1]));
            times[ids[i]]++;
        }
    }
    for (size_t i = 0; i < COUNT; i++) {
        assert_close((double)times[i], DRAWS * 4.0 / 9, 120); /* over five deviations */
    }
    uint32_t all[COUNT];
    assert_true(rows_draw(&(struct rng){.seed = 1}, COUNT, COUNT, all, NULL));
    assert_true(all[0] == 0 && all[COUNT - 1] == COUNT - 1);
}

static void groups_are_rising_and_leave_none_out_but_none(void **state)
{
    (void)state;
    const uint32_t labels[] = {2, 0, ROWS_NO_GROUP, 2, 0, 3, 2, ROWS_NO_GROUP};
    size_t starts[5];
    uint32_t rows[8];
    rows_group(labels, 8, 1, 4, starts, rows);
    assert_memory_equal(starts, ((const size_t[]){0, 2, 2, 5, 6}), sizeof starts);
    assert_memory_equal(rows, ((const uint32_t[]){1, 4, 0, 3, 6, 5}), 6 * sizeof *rows);
    rows_group(labels, 4, 2, 4, starts, rows); /* two labels a row */
    assert_memory_equal(rows, ((const uint32_t[]){0, 2, 0, 1, 3, 2}), 6 * sizeof *rows);
    rows_group(labels, 0, 1, 4, starts, rows);
    assert_int_equal(starts[4], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lengths_have_one_limit_and_one_zero),
        cmocka_unit_test(cosines_of_equal_rows_are_one),
        cmocka_unit_test(the_screen_loses_nothing),
        cmocka_unit_test(a_draw_is_a_rising_set),
        cmocka_unit_test(groups_are_rising_and_leave_none_out_but_none),
    };
    return cmocka_run_group_tests(tests, plain_open, plain_close);
}
