/*
 * The coverage draw: the reference's vectors (data_selection 6, T3 and T4, and constant scores), the defects of the published code, and its rule
 * by plain loops on random scores.
 */
#include "tests/unit/workers/select/plain.h"
#include "workers/select/strata.h"

static const struct rng rng = {.seed = 4, .stream = 9};

/* Draws, and looks whether as many as there should be were written, rising. */
static size_t draw(const double *scores, size_t count, struct strata strata, size_t *ret_taken)
{
    struct error error = {0};
    size_t wanted = strata.wanted < count ? strata.wanted : count;
    for (size_t i = 0; i < wanted; i++) {
        ret_taken[i] = SIZE_MAX;
    }
    if (!strata_draw(&rng, scores, count, &strata, ret_taken, &error)) {
        print_error("%s\n", error.message);
        fail();
    }
    for (size_t i = 0; i < wanted; i++) {
        assert_true(ret_taken[i] < count && (i == 0 || ret_taken[i] > ret_taken[i - 1]));
    }
    return wanted;
}

/* How many of the taken ones lie in [low, high]. */
static size_t count_between(const double *scores, const size_t *taken, size_t count, double low, double high)
{
    size_t between = 0;
    for (size_t i = 0; i < count; i++) {
        between += scores[taken[i]] >= low && scores[taken[i]] <= high;
    }
    return between;
}

static void the_smallest_bins_give_first(void **state)
{
    (void)state;
    /* Bins of 1, 2 and 10: 6 are shared as 1, 2, 3. */
    const double scores[] = {0, 5, 5.5, 10, 9, 9, 9, 9, 8, 8, 8, 8, 8};
    size_t taken[13];
    size_t count = draw(scores, COUNT_OF(scores), (struct strata){6, 3, 0}, taken);
    assert_int_equal(count, 6);
    assert_int_equal(count_between(scores, taken, count, 0, 1), 1);
    assert_int_equal(count_between(scores, taken, count, 4, 6), 2);
    assert_int_equal(count_between(scores, taken, count, 8, 10), 3);
    /* Bins of 3 and 3: 5 are shared as 2, 3. */
    const double two[] = {0, 1, 0, 1, 0, 1};
    count = draw(two, COUNT_OF(two), (struct strata){5, 2, 0}, taken);
    assert_int_equal(count, 5);
    assert_int_equal(count_between(two, taken, count, 0, 0), 2);
}

static void the_hardest_tenth_is_put_aside(void **state)
{
    (void)state;
    double scores[30];
    size_t taken[30];
    for (size_t i = 0; i < COUNT_OF(scores); i++) {
        scores[i] = (double)(i * 7 % 30);
    }
    size_t count = draw(scores, 30, (struct strata){27, 25, 0.1}, taken);
    assert_int_equal(count, 27);
    assert_int_equal(count_between(scores, taken, count, 27, 29), 0);
    count = draw(scores, 30, (struct strata){29, 25, 0.1}, taken); /* the drop gives way */
    assert_int_equal(count, 29);
    assert_int_equal(count_between(scores, taken, count, 29, 29), 0);
    count = draw(scores, 30, (struct strata){40, 25, 0.1}, taken);
    assert_int_equal(count, 30);
    for (size_t i = 0; i < 30; i++) {
        assert_int_equal(taken[i], i);
    }
}

static void equal_scores_are_one_bin(void **state)
{
    (void)state;
    double scores[200];
    size_t taken[200], other[200];
    for (size_t i = 0; i < COUNT_OF(scores); i++) {
        scores[i] = 0.1;
    }
    size_t count = draw(scores, 200, (struct strata){50, 25, 0.1}, taken);
    assert_int_equal(count, 50);
    for (size_t i = 1; i < count; i++) {
        assert_true(taken[i] > taken[i - 1]);
    }
    /* Another seed, other records. */
    assert_true(strata_draw(&(struct rng){.seed = 5, .stream = 9}, scores, 200, &(struct strata){50, 25, 0.1},
                            other, NULL));
    assert_true(memcmp(taken, other, 50 * sizeof *taken) != 0);
}

static void edges_and_extremes_lose_nobody(void **state)
{
    (void)state;
    const double scores[] = {-1.7e308, 1.7e308, 0.1, 0.3, -0.0, 0};
    size_t taken[6];
    assert_int_equal(draw(scores, 6, (struct strata){5, 7, 0}, taken), 5);
    assert_int_equal(draw(scores, 6, (struct strata){1, 1, 0}, taken), 1);
    assert_int_equal(draw(scores, 1, (struct strata){1, 50, 0.1}, taken), 1);
    assert_int_equal(draw(scores, 6, (struct strata){0, 50, 0.1}, taken), 0);
    assert_int_equal(draw(scores, 6, (struct strata){2, 50, 1}, taken), 2); /* all but two put aside */
    assert_true(taken[0] == 0 && taken[1] == 4);
    assert_int_equal(draw(NULL, 0, (struct strata){3, 50, 0.1}, taken), 0);
}

static int compare_sizes(const void *a, const void *b)
{
    size_t x = *(const size_t *)a, y = *(const size_t *)b;
    return (x > y) - (x < y);
}

/* Scores of quarters, so that edges are exact: how many each bin gives is the rule's, whichever they are. */
static void shares_are_those_of_plain_loops(void **state)
{
    (void)state;
    enum { N = 400, BINS = 16 };
    for (uint32_t round = 0; round < 40; round++) {
        double scores[N];
        size_t taken[N], sizes[BINS] = {0}, given[BINS] = {0}, expected[BINS] = {0};
        for (size_t i = 0; i < N; i++) {
            double unit = rng_unit(&(struct rng){.seed = round}, i);
            scores[i] = i == 0 ? 0 : i == 1 ? BINS : 0.25 * ceil(4 * BINS * unit * unit * unit);
        }
        size_t wanted = 10 + 9 * (size_t)round;
        size_t count = draw(scores, N, (struct strata){wanted, BINS, 0}, taken);
        assert_int_equal(count, wanted);
        for (size_t i = 0; i < N; i++) {
            sizes[scores[i] > 0 ? (size_t)ceil(scores[i]) - 1 : 0]++;
        }
        for (size_t i = 0; i < count; i++) {
            given[scores[taken[i]] > 0 ? (size_t)ceil(scores[taken[i]]) - 1 : 0]++;
            assert_true(i == 0 || taken[i] > taken[i - 1]);
        }
        for (size_t b = 0; b < BINS; b++) {
            assert_true(given[b] <= sizes[b]);
        }
        qsort(sizes, BINS, sizeof *sizes, compare_sizes);
        size_t empty = 0, left = wanted;
        for (size_t b = 0; b < BINS; b++) {
            empty += sizes[b] == 0;
        }
        for (size_t b = empty; b < BINS; b++) {
            size_t share = left / (BINS - b);
            expected[b] = sizes[b] < share ? sizes[b] : share;
            left -= expected[b];
        }
        qsort(expected, BINS, sizeof *expected, compare_sizes);
        qsort(given, BINS, sizeof *given, compare_sizes);
        assert_memory_equal(given, expected, sizeof given);
    }
}

static void what_is_not_finite_is_named(void **state)
{
    (void)state;
    const double bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        const double scores[] = {1, bad[i]};
        size_t taken[2] = {77};
        struct error error = {0};
        assert_false(strata_draw(&rng, scores, 2, &(struct strata){1, 5, 0.1}, taken, &error));
        assert_int_equal(error.code, ERROR_NUMERIC);
        assert_non_null(strstr(error.message, "record 1"));
        assert_int_equal(taken[0], 77);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_smallest_bins_give_first),    cmocka_unit_test(the_hardest_tenth_is_put_aside),
        cmocka_unit_test(equal_scores_are_one_bin),        cmocka_unit_test(edges_and_extremes_lose_nobody),
        cmocka_unit_test(shares_are_those_of_plain_loops), cmocka_unit_test(what_is_not_finite_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
