/* The order of records against a plain sort, with many ties, and what budgets take of an order. */
#include "base/memory.h"
#include "workers/select/ranking.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Deterministic whole numbers below `end`. */
static size_t noise(size_t i, size_t end)
{
    uint64_t x = ((uint64_t)i + 1) * 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return (size_t)((x ^ x >> 31) % end);
}

static void the_best_come_first_and_ties_go_to_the_smaller_index(void **state)
{
    (void)state;
    const double scores[] = {1, 3, 2, 3, -1, 1};
    size_t order[6], count = 0;
    assert_true(ranking_order(scores, 6, RANKING_FALLING, RANKING_NAN_ERROR, 9, order, &count, NULL));
    assert_int_equal(count, 6);
    const size_t falling[] = {1, 3, 2, 0, 5, 4};
    assert_memory_equal(order, falling, sizeof falling);
    assert_true(ranking_order(scores, 6, RANKING_RISING, RANKING_NAN_ERROR, 3, order, &count, NULL));
    assert_int_equal(count, 3);
    const size_t rising[] = {4, 0, 5};
    assert_memory_equal(order, rising, sizeof rising);
}

static void minus_zero_is_zero_and_infinities_are_scores(void **state)
{
    (void)state;
    const double scores[] = {0.0, -0.0, (double)INFINITY, -(double)INFINITY, -0.0, 0.0};
    size_t order[6], count = 0;
    assert_true(ranking_order(scores, 6, RANKING_FALLING, RANKING_NAN_ERROR, 6, order, &count, NULL));
    const size_t falling[] = {2, 0, 1, 4, 5, 3};
    assert_memory_equal(order, falling, sizeof falling);
    assert_true(ranking_order(scores, 6, RANKING_RISING, RANKING_NAN_ERROR, 6, order, &count, NULL));
    const size_t rising[] = {3, 0, 1, 4, 5, 2};
    assert_memory_equal(order, rising, sizeof rising);
}

static void a_nan_is_an_error_by_name_or_dropped(void **state)
{
    (void)state;
    const double scores[] = {1, 4, (double)NAN, 2, (double)-NAN};
    size_t order[5] = {77, 77, 77, 77, 77}, count = 99;
    struct error error = {0};
    assert_false(ranking_order(scores, 5, RANKING_FALLING, RANKING_NAN_ERROR, 2, order, &count, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
    assert_non_null(strstr(error.message, "record 2"));
    assert_true(order[0] == 77 && count == 99);
    assert_true(ranking_order(scores, 5, RANKING_FALLING, RANKING_NAN_DROP, 5, order, &count, &error));
    assert_int_equal(count, 3);
    assert_true(order[0] == 1 && order[1] == 3 && order[2] == 0 && order[3] == 77);
}

static void nothing_wanted_or_nothing_there_is_an_empty_order(void **state)
{
    (void)state;
    const double scores[] = {1};
    size_t count = 9;
    assert_true(ranking_order(scores, 1, RANKING_FALLING, RANKING_NAN_ERROR, 0, NULL, &count, NULL));
    assert_int_equal(count, 0);
    count = 9;
    assert_true(ranking_order(NULL, 0, RANKING_FALLING, RANKING_NAN_ERROR, 5, NULL, &count, NULL));
    assert_int_equal(count, 0);
}

/* Whether a record of score a and index i comes first, written out as the rule says. */
static bool comes_first(double a, size_t i, double b, size_t j, enum ranking_direction direction)
{
    return direction == RANKING_FALLING ? a > b || (a == b && i < j)
                                        : a < b || (a == b && i < j); /* NOLINT */
}

static void every_top_n_is_the_front_of_a_plain_sort(void **state)
{
    (void)state;
    enum { MOST = 60 };
    for (size_t trial = 0; trial < 600; trial++) {
        double scores[MOST];
        size_t sorted[MOST], order[MOST], alive = 0, count = 0;
        size_t records = noise(trial, MOST + 1), values = 1 + noise(trial + 1000, 30);
        enum ranking_direction direction = trial % 2 == 0 ? RANKING_FALLING : RANKING_RISING;
        for (size_t i = 0; i < records; i++) {
            size_t value = noise(trial * 100 + i, values + 2);
            scores[i] = value < values ? (double)value - 5 : value == values ? -0.0 : (double)NAN;
            if (isnan(scores[i])) {
                continue;
            }
            size_t at = alive++; /* insertion sort */
            for (; at > 0 && comes_first(scores[i], i, scores[sorted[at - 1]], sorted[at - 1], direction);
                 at--) {
                sorted[at] = sorted[at - 1];
            }
            sorted[at] = i;
        }
        size_t wanted = noise(trial + 5000, MOST + 10);
        assert_true(ranking_order(scores, records, direction, RANKING_NAN_DROP, wanted, order, &count, NULL));
        assert_int_equal(count, wanted < alive ? wanted : alive);
        for (size_t i = 0; i < count; i++) {
            assert_int_equal(order[i], sorted[i]);
        }
    }
}

static void a_million_sorted_scores_take_no_quadratic_time(void **state)
{
    (void)state;
    enum { COUNT = 1000000 };
    double *scores = memory_create(COUNT, sizeof *scores);
    size_t *order = memory_create(COUNT, sizeof *order);
    for (size_t i = 0; i < COUNT; i++) {
        size_t third = i / 3; /* ties */
        scores[i] = (double)third;
    }
    size_t count = 0;
    assert_true(ranking_order(scores, COUNT, RANKING_FALLING, RANKING_NAN_ERROR, COUNT, order, &count, NULL));
    for (size_t i = 1; i < COUNT; i++) {
        assert_true(
            comes_first(scores[order[i - 1]], order[i - 1], scores[order[i]], order[i], RANKING_FALLING));
    }
    free(scores);
    free(order);
}

static void a_budget_of_records_takes_the_front(void **state)
{
    (void)state;
    const size_t order[] = {3, 0, 2};
    const uint32_t tokens[] = {10, 20, 30, 40};
    const struct budget two = {BUDGET_RECORDS, 2}, many = {BUDGET_RECORDS, UINT64_MAX};
    size_t taken[3];
    struct budget_use use = ranking_fill(&two, order, 3, tokens, taken);
    assert_true(use.records == 2 && use.tokens == 50 && taken[0] == 3 && taken[1] == 0);
    use = ranking_fill(&many, order, 3, NULL, taken);
    assert_true(use.records == 3 && use.tokens == 0 && taken[2] == 2);
    use = ranking_fill(&(struct budget){BUDGET_RECORDS, 0}, order, 3, tokens, taken);
    assert_true(use.records == 0 && use.tokens == 0);
}

static void a_budget_of_tokens_passes_over_what_does_not_fit(void **state)
{
    (void)state;
    const uint32_t tokens[] = {50, 60, 30, 20, 0, 1};
    size_t order[] = {0, 1, 2, 3, 4, 5};
    /* 50; 60 does not fit in 50; 30; 20; 0 fits into nothing; 1 does not. In place. */
    struct budget_use use = ranking_fill(&(struct budget){BUDGET_TOKENS, 100}, order, 6, tokens, order);
    assert_int_equal(use.records, 4);
    assert_int_equal(use.tokens, 100);
    const size_t taken[] = {0, 2, 3, 4};
    assert_memory_equal(order, taken, sizeof taken);
    const uint32_t longest[] = {UINT32_MAX, UINT32_MAX};
    const size_t both[] = {1, 0};
    use = ranking_fill(&(struct budget){BUDGET_TOKENS, UINT64_MAX}, both, 2, longest, order);
    assert_true(use.records == 2 && use.tokens == 2 * (uint64_t)UINT32_MAX);
}

static void a_walk_takes_a_record_at_a_time(void **state)
{
    (void)state;
    const struct budget records = {BUDGET_RECORDS, 2}, tokens = {BUDGET_TOKENS, 10};
    struct budget_use use = {0};
    assert_int_equal(budget_unused(&records, &use), 2);
    assert_true(budget_take(&records, UINT32_MAX, &use) && budget_take(&records, 0, &use));
    assert_false(budget_take(&records, 0, &use));
    assert_int_equal(budget_unused(&records, &use), 0);
    assert_true(use.records == 2 && use.tokens == UINT32_MAX);
    use = (struct budget_use){0};
    assert_false(budget_take(&tokens, 11, &use));
    assert_true(budget_take(&tokens, 7, &use));
    assert_int_equal(budget_unused(&tokens, &use), 3);
    assert_false(budget_take(&tokens, 4, &use));
    assert_true(budget_take(&tokens, 3, &use) && budget_take(&tokens, 0, &use));
    assert_false(budget_take(&tokens, 1, &use));
    assert_true(use.records == 3 && use.tokens == 10);
}

static void what_a_token_budget_leaves_is_too_little_for_all_it_passed_over(void **state)
{
    (void)state;
    enum { COUNT = 80 };
    for (size_t trial = 0; trial < 300; trial++) {
        uint32_t tokens[COUNT];
        size_t order[COUNT], taken[COUNT], front[COUNT];
        for (size_t i = 0; i < COUNT; i++) {
            tokens[i] = (uint32_t)noise(trial * 1000 + i, 50);
            order[i] = (i * 7 + trial) % COUNT;
        }
        const struct budget budget = {BUDGET_TOKENS, noise(trial, 2500)};
        struct budget_use use = ranking_fill(&budget, order, COUNT, tokens, taken);
        assert_true(use.tokens <= budget.limit);
        uint64_t sum = 0;
        size_t at = 0;
        for (size_t i = 0; i < COUNT; i++) {
            if (at < use.records && taken[at] == order[i]) {
                sum += tokens[taken[at++]];
            } else {
                assert_true(tokens[order[i]] > budget.limit - use.tokens);
            }
        }
        assert_true(at == use.records && sum == use.tokens); /* taken is a part of the order, in its order */
        struct budget_use half = ranking_fill(&budget, order, COUNT / 2, tokens, front);
        assert_true(half.records <= use.records);
        assert_memory_equal(front, taken, half.records * sizeof *front);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_best_come_first_and_ties_go_to_the_smaller_index),
        cmocka_unit_test(minus_zero_is_zero_and_infinities_are_scores),
        cmocka_unit_test(a_nan_is_an_error_by_name_or_dropped),
        cmocka_unit_test(nothing_wanted_or_nothing_there_is_an_empty_order),
        cmocka_unit_test(every_top_n_is_the_front_of_a_plain_sort),
        cmocka_unit_test(a_million_sorted_scores_take_no_quadratic_time),
        cmocka_unit_test(a_budget_of_records_takes_the_front),
        cmocka_unit_test(a_budget_of_tokens_passes_over_what_does_not_fit),
        cmocka_unit_test(a_walk_takes_a_record_at_a_time),
        cmocka_unit_test(what_a_token_budget_leaves_is_too_little_for_all_it_passed_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
