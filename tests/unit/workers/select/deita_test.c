/*
 * Deita's walk: against plain loops over several blocks, duplicates and thresholds that hit distances exactly, budgets of records and of tokens.
 */
#include "tests/unit/workers/select/plain.h"
#include "workers/select/deita.h"

static struct deita_use choose(const struct deita_walk *walk, size_t thread_count, size_t *ret_order)
{
    OWNED(pool) pool = pool_create(thread_count, NULL);
    struct deita_use use = {0};
    struct error error = {0};
    if (!deita_choose(&(struct dense_threads){.pool = pool}, walk, ret_order, &use, &error)) {
        print_error("%s\n", error.message);
        fail();
    }
    return use;
}

static void scores_are_products(void **state)
{
    (void)state;
    double scores[2];
    struct error error = {0};
    assert_true(deita_scores((const double[]){2, 3}, (const double[]){4, 0.5}, 2, scores, NULL));
    assert_true(scores[0] == 8 && scores[1] == 1.5);
    assert_false(deita_scores((const double[]){2, INFINITY}, (const double[]){4, 0}, 2, scores, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
    assert_non_null(strstr(error.message, "record 1"));
    assert_true(
        deita_scores((const double[]){2, (double)NAN}, (const double[]){(double)NAN, 0}, 2, scores, NULL));
    assert_true(isnan(scores[0]) && isnan(scores[1]));
}

static void a_record_without_a_score_takes_no_part(void **state)
{
    (void)state;
    const float rows[] = {1, 0, 1, 0, 0, 1};
    const double scores[] = {(double)NAN, 1, 2};
    const uint32_t tokens[] = {1, 5, 5}; /* the shortest is not the one that ends a budget */
    struct deita_walk walk = {
        .n = 3, .size = 2, .rows = rows, .scores = scores, .tokens = tokens, .budget = {BUDGET_TOKENS, 14}};
    size_t order[3];
    struct deita_use use = choose(&walk, 1, order);
    assert_true(use.admitted.records == 2 && order[0] == 2 && order[1] == 1);
    assert_true(use.too_near == 0 && use.too_long == 0);
    walk.scores = (const double[]){(double)NAN, (double)NAN, (double)NAN};
    assert_int_equal(choose(&walk, 1, order).admitted.records, 0);
}

static void near_ones_are_left_out_in_the_order_of_scores(void **state)
{
    (void)state;
    /* Directions at 0, 0, 90, 180 and 60 degrees; the last has none. */
    const float rows[] = {1, 0, 3, 0, 0, 2, -1, 0, 1, 1.7320508F, 0, 0};
    const double scores[] = {1, 5, 4, 3, 2, 0};
    struct deita_walk walk = {
        .n = 6, .size = 2, .rows = rows, .scores = scores, .budget = {BUDGET_RECORDS, 6}};
    size_t order[6];
    struct deita_use use = choose(&walk, 1, order); /* threshold 0: the same direction alone is near */
    assert_int_equal(use.admitted.records, 5);
    assert_int_equal(use.too_near, 1);
    assert_memory_equal(order, ((const size_t[]){1, 2, 3, 4, 5}), 5 * sizeof *order);
    walk.threshold = 1; /* opposite ones alone are far; 90 degrees are the threshold, not beyond it */
    use = choose(&walk, 1, order);
    assert_int_equal(use.admitted.records, 2);
    assert_int_equal(use.too_near, 4);
    assert_true(order[0] == 1 && order[1] == 3);
    walk.threshold = 2.5;
    use = choose(&walk, 1, order);
    assert_true(use.admitted.records == 1 && order[0] == 1);
}

static void budgets_are_those_of_ranking(void **state)
{
    (void)state;
    const float rows[] = {1, 0, 0, 1, -1, 0, 0, -1};
    const double scores[] = {4, 3, 2, 1};
    const uint32_t tokens[] = {5, 9, 3, 2};
    struct deita_walk walk = {.n = 4,
                              .size = 2,
                              .rows = rows,
                              .scores = scores,
                              .tokens = tokens,
                              .threshold = 0.5,
                              .budget = {BUDGET_TOKENS, 9}};
    size_t order[4];
    struct deita_use use = choose(&walk, 1, order);
    assert_true(use.admitted.records == 2 && use.admitted.tokens == 8);
    assert_true(order[0] == 0 && order[1] == 2);
    assert_int_equal(use.too_long, 1); /* the last was not looked at: nothing has one token */
    walk.budget = (struct budget){BUDGET_RECORDS, 2};
    use = choose(&walk, 1, order);
    assert_true(use.admitted.records == 2 && use.admitted.tokens == 14 && order[1] == 1);
    walk.budget.limit = 0;
    use = choose(&walk, 1, order);
    assert_true(use.admitted.records == 0 && use.too_near == 0);
    walk.n = 0;
    use = choose(&walk, 1, order);
    assert_int_equal(use.admitted.records, 0);
}

enum { N = 1500, SIZE = 8 }; /* six blocks */

/* One after another, in double. */
static size_t choose_by_loops(const struct deita_walk *walk, size_t *order)
{
    bool is_done[N] = {false};
    size_t count = 0;
    for (size_t step = 0; step < walk->n && count < walk->budget.limit; step++) {
        size_t best = N;
        for (size_t i = 0; i < walk->n; i++) {
            if (!is_done[i] && (best == N || walk->scores[i] > walk->scores[best])) {
                best = i;
            }
        }
        is_done[best] = true;
        double nearest = INFINITY;
        for (size_t a = 0; a < count; a++) {
            double dot = 0, a_square = 0, b_square = 0;
            for (size_t c = 0; c < walk->size; c++) {
                double x = (double)walk->rows[best * walk->size + c];
                double y = (double)walk->rows[order[a] * walk->size + c];
                dot += x * y;
                a_square += x * x;
                b_square += y * y;
            }
            nearest = fmin(nearest, 1 - dot / sqrt(a_square * b_square));
        }
        if (nearest > walk->threshold + 1e-12) {
            order[count++] = best;
        }
    }
    return count;
}

static void the_walk_is_that_of_plain_loops(void **state)
{
    (void)state;
    OWNED_MEMORY float *rows = plain_rows((size_t)N * SIZE, 1);
    double scores[N];
    for (size_t i = 0; i < N; i++) {
        scores[i] = floor(300 * rng_unit(&(struct rng){.seed = 2}, i));
        if (i % 10 == 3) { /* a duplicate, sometimes of a better one */
            memcpy(rows + i * SIZE, rows + (i * 7 % N) * SIZE, SIZE * sizeof *rows);
        }
    }
    const double thresholds[] = {0, 0.02, 0.1, 0.4};
    for (size_t t = 0; t < COUNT_OF(thresholds); t++) {
        const struct deita_walk walk = {.n = N,
                                        .size = SIZE,
                                        .rows = rows,
                                        .scores = scores,
                                        .threshold = thresholds[t],
                                        .budget = {BUDGET_RECORDS, 1300}};
        size_t order[N], again[N], expected[N];
        size_t expected_count = choose_by_loops(&walk, expected);
        struct deita_use use = choose(&walk, 1, order);
        assert_int_equal(use.admitted.records, expected_count);
        assert_memory_equal(order, expected, expected_count * sizeof *order);
        struct deita_use use_again = choose(&walk, 3, again);
        assert_memory_equal(&use_again, &use, sizeof use);
        assert_memory_equal(again, order, expected_count * sizeof *order);
    }
}

/* More admitted rows than a chunk holds: a circle's points in steps of a nine-thousandth of a turn, each twice. */
static void admitted_rows_fill_more_than_a_chunk(void **state)
{
    (void)state;
    enum { POINTS = 4500 };
    OWNED_MEMORY float *rows = memory_create((size_t)4 * POINTS, sizeof *rows);
    OWNED_MEMORY double *scores = memory_create((size_t)2 * POINTS, sizeof *scores);
    OWNED_MEMORY size_t *order = memory_create((size_t)2 * POINTS, sizeof *order);
    for (size_t i = 0; i < (size_t)2 * POINTS; i++) {
        double angle = 3.14159265358979 * (double)(i % POINTS) / POINTS;
        rows[2 * i] = (float)cos(angle);
        rows[2 * i + 1] = (float)sin(angle);
    }
    const struct deita_walk walk = {.n = (size_t)2 * POINTS,
                                    .size = 2,
                                    .rows = rows,
                                    .scores = scores,
                                    .budget = {BUDGET_RECORDS, (uint64_t)2 * POINTS}};
    struct deita_use use = choose(&walk, 2, order);
    assert_int_equal(use.admitted.records, POINTS);
    assert_int_equal(use.too_near, POINTS);
    for (size_t i = 0; i < POINTS; i++) {
        assert_int_equal(order[i], i); /* equal scores: by index */
    }
}

static void what_is_wrong_is_named(void **state)
{
    (void)state;
    const float rows[] = {1, NAN};
    struct deita_walk walk = {
        .n = 2, .size = 1, .rows = rows, .scores = (const double[]){1, 2}, .budget = {BUDGET_RECORDS, 1}};
    OWNED(pool) pool = pool_create(1, NULL);
    struct dense_threads threads = {.pool = pool};
    struct error error = {0};
    struct deita_use use = {.too_near = 77};
    size_t order[2];
    assert_false(deita_choose(&threads, &walk, order, &use, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
    assert_non_null(strstr(error.message, "row 1"));
    walk.n = 1;
    struct cancel cancel = {0};
    cancel_request(&cancel, CANCEL_NOW);
    threads.cancel = &cancel;
    assert_false(deita_choose(&threads, &walk, order, &use, &error));
    assert_int_equal(error.code, ERROR_CANCELLED);
    assert_int_equal(use.too_near, 77);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scores_are_products),
        cmocka_unit_test(a_record_without_a_score_takes_no_part),
        cmocka_unit_test(near_ones_are_left_out_in_the_order_of_scores),
        cmocka_unit_test(budgets_are_those_of_ranking),
        cmocka_unit_test(the_walk_is_that_of_plain_loops),
        cmocka_unit_test(admitted_rows_fill_more_than_a_chunk),
        cmocka_unit_test(what_is_wrong_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
