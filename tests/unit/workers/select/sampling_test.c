/* Random selection: reproducible, without replacement, uniform over pairs, and whole where the budget pays for all. */
#include "workers/select/sampling.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void one_seed_gives_one_selection_and_another_seed_another(void **state)
{
    (void)state;
    enum { COUNT = 1000 };
    const struct rng rng = {.seed = 7, .stream = 3}, other = {.seed = 8, .stream = 3};
    const struct budget budget = {BUDGET_RECORDS, 100};
    size_t first[COUNT], second[COUNT], third[COUNT];
    assert_int_equal(sampling_draw(&rng, COUNT, NULL, &budget, first).records, 100);
    assert_int_equal(sampling_draw(&rng, COUNT, NULL, &budget, second).records, 100);
    assert_int_equal(sampling_draw(&other, COUNT, NULL, &budget, third).records, 100);
    assert_memory_equal(first, second, 100 * sizeof *first);
    assert_true(memcmp(first, third, 100 * sizeof *first) != 0);
    bool is_taken[COUNT] = {false};
    for (size_t i = 0; i < 100; i++) {
        assert_true(first[i] < COUNT && !is_taken[first[i]]);
        is_taken[first[i]] = true;
    }
}

static void a_larger_budget_of_records_begins_with_a_smaller_one(void **state)
{
    (void)state;
    enum { COUNT = 50 };
    const struct rng rng = {.seed = 11};
    size_t all[COUNT], some[COUNT];
    (void)sampling_draw(&rng, COUNT, NULL, &(struct budget){BUDGET_RECORDS, COUNT - 1}, all);
    for (size_t n = 0; n < COUNT; n++) {
        assert_int_equal(sampling_draw(&rng, COUNT, NULL, &(struct budget){BUDGET_RECORDS, n}, some).records,
                         n);
        assert_memory_equal(some, all, n * sizeof *some);
    }
}

static void a_budget_for_all_gives_all_in_their_order(void **state)
{
    (void)state;
    const struct rng rng = {.seed = 5};
    const uint32_t tokens[] = {3, 1, 0, 4, 2};
    const struct budget budgets[] = {
        {BUDGET_RECORDS, 5}, {BUDGET_RECORDS, 600}, {BUDGET_TOKENS, 10}, {BUDGET_TOKENS, UINT64_MAX}};
    for (size_t b = 0; b < sizeof budgets / sizeof budgets[0]; b++) {
        size_t taken[5];
        struct budget_use use = sampling_draw(&rng, 5, tokens, &budgets[b], taken);
        assert_true(use.records == 5 && use.tokens == 10);
        for (size_t i = 0; i < 5; i++) {
            assert_int_equal(taken[i], i);
        }
    }
    assert_int_equal(sampling_draw(&rng, 0, NULL, &budgets[0], NULL).records, 0);
}

/* 1e5 draws of 2 of 4. The 6 pairs have 5 degrees of freedom: chi-square exceeds 20.5 once in a thousand. */
static void all_pairs_are_equally_likely(void **state)
{
    (void)state;
    enum { DRAWS = 100000, RECORDS = 4 };
    double pairs[RECORDS][RECORDS] = {{0}}, firsts[RECORDS] = {0}, chi_square = 0, chi_square_firsts = 0;
    for (uint64_t seed = 0; seed < DRAWS; seed++) {
        size_t taken[RECORDS];
        const struct rng rng = {.seed = seed};
        assert_int_equal(
            sampling_draw(&rng, RECORDS, NULL, &(struct budget){BUDGET_RECORDS, 2}, taken).records, 2);
        size_t low = taken[0] < taken[1] ? taken[0] : taken[1];
        size_t high = taken[0] < taken[1] ? taken[1] : taken[0];
        assert_true(low < high);
        pairs[low][high]++;
        firsts[taken[0]]++;
    }
    for (size_t a = 0; a < RECORDS; a++) {
        double expected = DRAWS / 4.0;
        chi_square_firsts += (firsts[a] - expected) * (firsts[a] - expected) / expected;
        for (size_t b = a + 1; b < RECORDS; b++) {
            expected = DRAWS / 6.0;
            chi_square += (pairs[a][b] - expected) * (pairs[a][b] - expected) / expected;
        }
    }
    assert_true(chi_square < 20.5);
    assert_true(chi_square_firsts < 16.3); /* 3 degrees of freedom, once in a thousand */
}

static void a_budget_of_tokens_is_filled_like_all_others(void **state)
{
    (void)state;
    enum { COUNT = 200 };
    for (uint64_t seed = 0; seed < 100; seed++) {
        const struct rng rng = {.seed = seed, .step = 2};
        uint32_t tokens[COUNT];
        uint64_t total = 0;
        for (size_t i = 0; i < COUNT; i++) {
            tokens[i] = (uint32_t)(1 + (i * 37 + seed) % 90);
            total += tokens[i];
        }
        const struct budget budget = {BUDGET_TOKENS, total / 3};
        size_t taken[COUNT], order[COUNT];
        struct budget_use use = sampling_draw(&rng, COUNT, tokens, &budget, taken);
        assert_true(use.tokens <= budget.limit);
        /* The plain form: shuffle all but the last place (which has no choice), then fill. */
        assert_int_equal(
            sampling_draw(&rng, COUNT, NULL, &(struct budget){BUDGET_RECORDS, COUNT - 1}, order).records,
            COUNT - 1);
        uint64_t sum = 0;
        size_t at = 0;
        bool is_taken[COUNT] = {false};
        for (size_t i = 0; i + 1 < COUNT; i++) {
            if (sum + tokens[order[i]] <= budget.limit) {
                assert_int_equal(taken[at++], order[i]);
                is_taken[order[i]] = true;
                sum += tokens[order[i]];
            }
        }
        assert_true(use.records - at <= 1); /* the last place may still fit */
        for (size_t i = 0; i < COUNT; i++) {
            bool is_last = use.records > at && i == taken[at];
            assert_true(is_taken[i] || is_last || tokens[i] > budget.limit - use.tokens);
        }
    }
}

static void a_shuffle_is_the_permutation_of_the_ids(void **state)
{
    (void)state;
    enum { IDS = 50 };
    const struct rng rng = {.seed = 4, .stream = 2};
    size_t order[IDS], ids[IDS];
    rng_permutation(&rng, IDS, order);
    for (size_t i = 0; i < IDS; i++) {
        ids[i] = 3 * i;
    }
    assert_true(sampling_shuffle(&rng, ids, IDS, NULL));
    for (size_t i = 0; i < IDS; i++) {
        assert_int_equal(ids[i], 3 * order[i]);
    }
    assert_true(sampling_shuffle(&rng, NULL, 0, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_seed_gives_one_selection_and_another_seed_another),
        cmocka_unit_test(a_larger_budget_of_records_begins_with_a_smaller_one),
        cmocka_unit_test(a_budget_for_all_gives_all_in_their_order),
        cmocka_unit_test(all_pairs_are_equally_likely),
        cmocka_unit_test(a_budget_of_tokens_is_filled_like_all_others),
        cmocka_unit_test(a_shuffle_is_the_permutation_of_the_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
