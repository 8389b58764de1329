/* Q-Tuning: the reference's vectors, the corners that grow with the share, and whole batches against a plain form in perplexities. */
#include "base/rng.h"
#include "tests/unit/workers/select/plain.h"
#include "workers/select/q_tuning.h"

static double unit(uint32_t step, uint64_t index)
{
    return rng_unit(&(struct rng){.seed = 5, .stream = 1, .step = step}, index);
}

enum { MANY = 64 };
static uint32_t ones[MANY]; /* filled before the tests */

static struct q_tuning_rules rules_of(double sample_ratio, double token_ratio)
{
    return (struct q_tuning_rules){.sample_ratio = sample_ratio,
                                   .token_ratio = token_ratio,
                                   .neighbour_weight = 0.5,
                                   .share_limit = 0.49,
                                   .step_count = 9};
}

static struct q_tuning_summary select_samples(const double *perplexities, const double *entropies,
                                              size_t count, const struct q_tuning_rules *rules,
                                              enum q_tuning_label *labels)
{
    double nll_means[MANY];
    struct q_tuning_summary summary = {0};
    for (size_t i = 0; i < count; i++) {
        nll_means[i] = log(perplexities[i]);
    }
    const struct q_tuning_batch batch = {count, nll_means, entropies, ones};
    assert_true(q_tuning_select_samples(&batch, rules, labels, &summary, NULL));
    return summary;
}

static void the_two_corners_of_four_at_any_share(void **state)
{
    (void)state;
    const double perplexities[] = {1, 10, 1, 10}, entropies[] = {1, 1, 5, 5};
    enum q_tuning_label labels[4];
    for (size_t i = 1; i <= 100; i++) {
        struct q_tuning_rules rules = rules_of(0.5, 1);
        rules.step_count = 1; /* the one share is half the limit */
        rules.share_limit = 0.5 * (double)i / 100;
        struct q_tuning_summary summary = select_samples(perplexities, entropies, 4, &rules, labels);
        assert_int_equal(labels[0], Q_TUNING_DROPPED);
        assert_int_equal(labels[1], Q_TUNING_TOKENS_PRUNED);
        assert_int_equal(labels[2], Q_TUNING_KEPT_WHOLE);
        assert_int_equal(labels[3], Q_TUNING_DROPPED);
        assert_int_equal(summary.corner_count, 2);
        assert_int_equal(summary.kept_count, 2);
        assert_close(summary.share, rules.share_limit / 2, 0);
    }
}

static void a_tie_of_supplements_goes_to_the_first(void **state)
{
    (void)state;
    const double perplexities[] = {1, 10, 1, 10}, entropies[] = {1, 1, 5, 5};
    enum q_tuning_label labels[4];
    struct q_tuning_rules rules = rules_of(0.75, 1);
    struct q_tuning_summary summary = select_samples(perplexities, entropies, 4, &rules, labels);
    assert_int_equal(labels[0], Q_TUNING_KEPT_WHOLE); /* PPL^ is not above Ent^ */
    assert_int_equal(labels[1], Q_TUNING_TOKENS_PRUNED);
    assert_int_equal(labels[2], Q_TUNING_KEPT_WHOLE);
    assert_int_equal(labels[3], Q_TUNING_DROPPED);
    assert_int_equal(summary.kept_count, 3);
    assert_true(summary.share > 0.48); /* it kept looking upwards */
}

static void small_batches_and_constant_columns(void **state)
{
    (void)state;
    const double equal[] = {3, 3, 3, 3}, one[] = {7}, entropy[] = {2};
    enum q_tuning_label labels[4];
    struct q_tuning_rules half = rules_of(0.5, 1), all = rules_of(1, 1);
    assert_int_equal(select_samples(one, entropy, 1, &half, labels).kept_count, 1);
    assert_int_equal(labels[0], Q_TUNING_KEPT_WHOLE); /* both corners hold it */
    struct q_tuning_summary summary = select_samples(equal, equal, 4, &half, labels);
    assert_int_equal(summary.corner_count, 4);
    assert_int_equal(summary.kept_count, 2);
    assert_true(labels[0] == Q_TUNING_KEPT_WHOLE && labels[1] == Q_TUNING_KEPT_WHOLE);
    assert_true(labels[2] == Q_TUNING_DROPPED && labels[3] == Q_TUNING_DROPPED);
    const double perplexities[] = {1, 2, 3, 4}, entropies[] = {1, 2, 3, 4};
    assert_int_equal(select_samples(perplexities, entropies, 4, &all, labels).kept_count, 4);
    for (size_t i = 0; i < 4; i++) {
        assert_true(labels[i] == Q_TUNING_KEPT_WHOLE || labels[i] == Q_TUNING_TOKENS_PRUNED);
    }
    summary = select_samples(perplexities, entropies, 0, &half, labels);
    assert_true(summary.count == 0 && summary.kept_count == 0 && summary.share == 0);
}

static void samples_without_statistics_have_no_part(void **state)
{
    (void)state;
    /* The four of the first test between samples that have none; 1e6 nats are no perplexity that a double holds. */
    const double nll_means[] = {NAN, 0, 1e6, 9, 0, 1e6, 3}, entropies[] = {1, 1, 1, NAN, 5, 5, 0};
    const uint32_t tokens[] = {1, 1, 1, 1, 1, 1, 0};
    const struct q_tuning_batch batch = {7, nll_means, entropies, tokens};
    struct q_tuning_rules rules = rules_of(0.75, 1);
    enum q_tuning_label labels[7];
    struct q_tuning_summary summary = {0};
    assert_true(q_tuning_select_samples(&batch, &rules, labels, &summary, NULL));
    const enum q_tuning_label expected[] = {Q_TUNING_UNDEFINED, Q_TUNING_KEPT_WHOLE, Q_TUNING_TOKENS_PRUNED,
                                            Q_TUNING_UNDEFINED, Q_TUNING_KEPT_WHOLE, Q_TUNING_DROPPED,
                                            Q_TUNING_UNDEFINED};
    assert_memory_equal(labels, expected, sizeof labels);
    assert_int_equal(summary.count, 4);
}

static void perplexities_beyond_a_double_are_compared_all_the_same(void **state)
{
    (void)state;
    /* PPL^ is 1, a half, 0 and 0; the corners hold 0, 2 and 3 at every share tried, and two may stay. */
    const double nll_means[] = {1000, 1000 - log(2), 0, 0}, entropies[] = {2, 2, 2, 2};
    const struct q_tuning_batch batch = {4, nll_means, entropies, ones};
    struct q_tuning_rules rules = rules_of(0.5, 1);
    enum q_tuning_label labels[4];
    struct q_tuning_summary summary = {0};
    assert_true(q_tuning_select_samples(&batch, &rules, labels, &summary, NULL));
    assert_int_equal(summary.corner_count, 3);
    assert_int_equal(labels[0], Q_TUNING_TOKENS_PRUNED);
    assert_int_equal(labels[1], Q_TUNING_DROPPED);
    assert_int_equal(labels[2], Q_TUNING_KEPT_WHOLE);
    assert_int_equal(labels[3], Q_TUNING_DROPPED);
}

static void fill_batch(uint32_t round, size_t count, bool has_ties, double *perplexities, double *entropies)
{
    for (size_t i = 0; i < count; i++) {
        perplexities[i] = exp(4 * unit(round, i));
        entropies[i] = 3 * unit(round, MANY + i);
        if (has_ties) {
            perplexities[i] = 1 + floor(perplexities[i] / 8);
            entropies[i] = floor(entropies[i] * 2);
        }
    }
}

static void the_corners_grow_with_the_share(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < 60; round++) {
        double perplexities[MANY], entropies[MANY];
        enum q_tuning_label labels[MANY];
        size_t count = 1 + round % MANY, before = 0;
        fill_batch(round, count, round % 2 == 0, perplexities, entropies);
        for (size_t i = 1; i <= 50; i++) {
            struct q_tuning_rules rules = rules_of(0.5, 1);
            rules.step_count = 1;
            rules.share_limit = 0.01 * (double)i;
            size_t held = select_samples(perplexities, entropies, count, &rules, labels).corner_count;
            assert_true(held >= before);
            before = held;
        }
    }
}

/* The smallest value with at least that share at or below it, by counting. */
static double plain_quantile(const double *values, size_t count, double ratio)
{
    double least = INFINITY;
    for (size_t i = 0; i < count; i++) {
        size_t below = 0;
        for (size_t j = 0; j < count; j++) {
            below += values[j] <= values[i] ? 1 : 0;
        }
        if ((double)below / (double)count >= ratio && values[i] < least) {
            least = values[i];
        }
    }
    return least;
}

static double plain_scaled(const double *values, size_t count, size_t i)
{
    double low = INFINITY, high = -INFINITY;
    for (size_t j = 0; j < count; j++) {
        low = fmin(low, values[j]);
        high = fmax(high, values[j]);
    }
    return high > low ? (values[i] - low) / (high - low) : 0;
}

static void plain_select(const double *ppl, const double *ent, size_t count,
                         const struct q_tuning_rules *rules, enum q_tuning_label *labels)
{
    double low = 0, high = rules->share_limit;
    size_t held = 0, target = (size_t)ceil(rules->sample_ratio * (double)count - 1e-9);
    for (size_t step = 0; step < rules->step_count; step++) {
        double a = (low + high) / 2;
        held = 0;
        for (size_t i = 0; i < count; i++) {
            bool is_q2 =
                ppl[i] >= plain_quantile(ppl, count, 1 - a) && ent[i] <= plain_quantile(ent, count, a);
            bool is_q4 =
                ppl[i] <= plain_quantile(ppl, count, a) && ent[i] >= plain_quantile(ent, count, 1 - a);
            labels[i] = is_q4 ? Q_TUNING_KEPT_WHOLE : is_q2 ? Q_TUNING_TOKENS_PRUNED : Q_TUNING_DROPPED;
            held += labels[i] != Q_TUNING_DROPPED ? 1 : 0;
        }
        if ((double)held / (double)count < rules->sample_ratio) {
            low = a;
        } else {
            high = a;
        }
    }
    while (held != target) { /* one at a time: the best of the rest comes, or the worst of the kept goes */
        size_t chosen = count;
        double chosen_support = 0;
        for (size_t i = 0; i < count; i++) {
            double support = fabs(plain_scaled(ppl, count, i) - plain_scaled(ent, count, i));
            bool is_dropped = labels[i] == Q_TUNING_DROPPED;
            if (held < target && is_dropped && (chosen == count || support > chosen_support + 1e-12)) {
                chosen = i;
                chosen_support = support;
            }
            if (held > target && !is_dropped && (chosen == count || support <= chosen_support + 1e-12)) {
                chosen = i;
                chosen_support = support;
            }
        }
        bool is_q2 = plain_scaled(ppl, count, chosen) > plain_scaled(ent, count, chosen) + 1e-12;
        labels[chosen] = held > target ? Q_TUNING_DROPPED
                         : is_q2       ? Q_TUNING_TOKENS_PRUNED
                                       : Q_TUNING_KEPT_WHOLE;
        held = held > target ? held - 1 : held + 1;
    }
}

static void batches_agree_with_a_plain_form(void **state)
{
    (void)state;
    const double ratios[] = {0.125, 0.25, 0.3, 0.5, 0.8, 1};
    for (uint32_t round = 0; round < 120; round++) {
        double perplexities[MANY], entropies[MANY];
        enum q_tuning_label labels[MANY], expected[MANY];
        size_t count = 1 + round % MANY;
        struct q_tuning_rules rules = rules_of(ratios[round % 6], 1);
        rules.share_limit = round % 2 == 0 ? 0.49 : 0.5;
        fill_batch(round, count, false, perplexities, entropies);
        struct q_tuning_summary summary = select_samples(perplexities, entropies, count, &rules, labels);
        plain_select(perplexities, entropies, count, &rules, expected);
        size_t kept = 0;
        for (size_t i = 0; i < count; i++) {
            assert_int_equal(labels[i], expected[i]);
            kept += labels[i] != Q_TUNING_DROPPED ? 1 : 0;
        }
        assert_int_equal(kept, summary.kept_count);
    }
}

static void select_tokens(const double *perplexities, size_t count, const struct q_tuning_rules *rules,
                          bool *ret_is_kept)
{
    double nlls[MANY];
    for (size_t i = 0; i < count; i++) {
        nlls[i] = log(perplexities[i]);
    }
    assert_true(q_tuning_select_tokens(nlls, count, rules, ret_is_kept, NULL));
}

static void tokens_of_the_reference_in_both_forms(void **state)
{
    (void)state;
    const double perplexities[] = {1, 10, 2, 8, 9};
    const bool mean[] = {true, true, true, false, false}, sum[] = {true, true, false, false, true};
    const bool high[] = {false, true, false, true, true};
    struct q_tuning_rules rules = rules_of(1, 0.6);
    bool is_kept[5];
    select_tokens(perplexities, 5, &rules, is_kept); /* s = 5.5 5.75 5.5 6.75 8.5 */
    assert_memory_equal(is_kept, mean, sizeof mean);
    rules.keeps_high_tokens = true;
    select_tokens(perplexities, 5, &rules, is_kept);
    assert_memory_equal(is_kept, high, sizeof high);
    rules.keeps_high_tokens = false;
    rules.sums_neighbours = true;
    select_tokens(perplexities, 5, &rules, is_kept); /* s = 5.5 6.5 10 9.5 8.5 */
    assert_memory_equal(is_kept, sum, sizeof sum);
}

static void without_neighbours_it_is_the_tokens_own_perplexity(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < 30; round++) {
        double perplexities[MANY];
        bool is_kept[MANY];
        size_t count = 1 + round, wanted = count / 2 > 0 ? count / 2 : 1;
        struct q_tuning_rules rules = rules_of(1, 0.5);
        rules.neighbour_weight = 0;
        rules.keeps_high_tokens = round % 2 == 1;
        for (size_t i = 0; i < count; i++) {
            perplexities[i] = 1 + floor(5 * unit(round, i));
        }
        select_tokens(perplexities, count, &rules, is_kept);
        for (size_t i = 0; i < count; i++) {
            size_t before = 0;
            for (size_t j = 0; j < count; j++) {
                double gain = rules.keeps_high_tokens ? perplexities[j] - perplexities[i]
                                                      : perplexities[i] - perplexities[j];
                before += gain > 0.5 || (fabs(gain) < 0.5 && j < i) ? 1 : 0;
            }
            assert_int_equal(is_kept[i], before < wanted);
        }
    }
}

static void edges_of_the_token_stage(void **state)
{
    (void)state;
    const double nlls[] = {1, 2, NAN}, huge[] = {5000, 25, 0};
    struct q_tuning_rules rules = rules_of(1, 0.1);
    bool is_kept[3] = {false, true, true};
    struct error error = {0};
    assert_true(q_tuning_select_tokens(nlls, 1, &rules, is_kept, NULL));
    assert_true(is_kept[0]); /* one at least */
    assert_true(q_tuning_select_tokens(nlls, 0, &rules, is_kept, NULL));
    assert_false(q_tuning_select_tokens(nlls, 3, &rules, is_kept, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
    assert_non_null(strstr(error.message, "token 2"));
    rules.neighbour_weight = 0;
    rules.token_ratio = 0.7;
    assert_true(q_tuning_select_tokens(huge, 3, &rules, is_kept, NULL));
    assert_true(is_kept[0] && !is_kept[1] && is_kept[2]); /* above 20 nats all are one: ties to the earlier */
}

static int fill_ones(void **state)
{
    (void)state;
    for (size_t i = 0; i < MANY; i++) {
        ones[i] = 1;
    }
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_two_corners_of_four_at_any_share),
        cmocka_unit_test(a_tie_of_supplements_goes_to_the_first),
        cmocka_unit_test(small_batches_and_constant_columns),
        cmocka_unit_test(samples_without_statistics_have_no_part),
        cmocka_unit_test(perplexities_beyond_a_double_are_compared_all_the_same),
        cmocka_unit_test(the_corners_grow_with_the_share),
        cmocka_unit_test(batches_agree_with_a_plain_form),
        cmocka_unit_test(tokens_of_the_reference_in_both_forms),
        cmocka_unit_test(without_neighbours_it_is_the_tokens_own_perplexity),
        cmocka_unit_test(edges_of_the_token_stage),
    };
    return cmocka_run_group_tests(tests, fill_ones, NULL);
}
