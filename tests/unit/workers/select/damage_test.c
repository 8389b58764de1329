/* Damage of records and clusters: the reference's vectors, the estimator behind the shrinkage against its own arithmetic and against a
 * population whose variances are known, and correlations against plain forms. */
#include "base/rng.h"
#include "tests/unit/workers/select/plain.h"
#include "workers/select/assembly.h"
#include "workers/select/damage.h"

static double unit(uint32_t step, uint64_t index)
{
    return rng_unit(&(struct rng){.seed = 5, .stream = 1, .step = step}, index);
}

enum { MANY = 600 };

/* About normal: mean 0, variance 1. */
static double bell(uint32_t step, uint64_t index)
{
    double sum = -6;
    for (uint64_t i = 0; i < 12; i++) {
        sum += unit(step, 12 * index + i);
    }
    return sum;
}

static struct damage_summary take_clusters(const double *divergences, const uint32_t *tokens,
                                           const uint32_t *labels, size_t count, size_t cluster_count,
                                           double trim_ratio, struct damage_cluster *ret_clusters)
{
    const struct damage_records records = {
        .count = count, .divergences = divergences, .response_tokens = tokens, .total_tokens = tokens};
    struct damage_summary summary = {0};
    assert_true(damage_clusters(&records, labels, cluster_count, trim_ratio, ret_clusters, &summary, NULL));
    return summary;
}

static void efficiency_is_equation_7_with_a_floor_at_e(void **state)
{
    (void)state;
    const double divergences[] = {log(2.0), 0.2157615543, 0.3, 0.3, NAN};
    const uint32_t response[] = {1, 4, 1, 1, 0}, total[] = {4, 10, 1, 2, 9};
    const struct damage_records records = {
        .count = 5, .divergences = divergences, .response_tokens = response, .total_tokens = total};
    double efficiencies[5];
    assert_true(damage_efficiencies(&records, efficiencies, NULL));
    assert_close(efficiencies[0], 0.25, 0);
    assert_close(efficiencies[1], 0.0468520262, 1e-10);
    assert_close(efficiencies[2], 0.3, 0); /* log 1 would divide by zero; it is of e */
    assert_close(efficiencies[3], 0.3 / log(4.0), 1e-16);
    assert_true(isnan(efficiencies[4]));
}

static void what_gained_ranks_last_whatever_its_length(void **state)
{
    (void)state;
    const double divergences[] = {-0.5, -0.5, -0.4, 0, 0.01};
    const uint32_t response[] = {1, 1, 1, 1, 1}, total[] = {2, 4000, 2, 7, 4000};
    const struct damage_records records = {
        .count = 5, .divergences = divergences, .response_tokens = response, .total_tokens = total};
    double efficiencies[5];
    assert_true(damage_efficiencies(&records, efficiencies, NULL));
    assert_true(efficiencies[0] == -0.5 && efficiencies[1] == -0.5 && efficiencies[2] == -0.4);
    assert_true(efficiencies[3] == 0 && efficiencies[4] > 0);
}

static void clusters_that_gained_take_no_part_of_the_budget(void **state)
{
    (void)state;
    const double divergences[] = {0.6, 0.5, -0.2, -0.3, 0.2, 0.1}, gains[] = {-1, -2, -3, -4, -5, -6};
    const uint32_t tokens[] = {1, 1, 1, 1, 1, 1}, labels[] = {0, 0, 1, 1, 2, 2};
    struct damage_cluster clusters[4];
    size_t shares[4];
    for (size_t round = 0; round < 2; round++) {
        take_clusters(round == 0 ? divergences : gains, tokens, labels, 6, 4, 0, clusters);
        double damages[4]; /* the last is empty */
        for (size_t k = 0; k < 4; k++) {
            damages[k] = clusters[k].shrunk_mean;
        }
        const struct assembly_request request = {.count = 6,
                                                 .cluster_count = 4,
                                                 .labels = labels,
                                                 .damages = damages,
                                                 .tokens = tokens,
                                                 .budget = {BUDGET_RECORDS, 3}};
        assert_true(assembly_share(&request, shares, NULL));
        assert_int_equal(shares[1], round == 0 ? 0 : 1);
        assert_true(round == 1 || shares[0] > shares[2]);
    }
    assert_true(shares[0] == 1 && shares[2] == 1 && shares[3] == 0); /* no weight at all: equal ones */
}

static void two_clusters_and_their_shrinkage_by_hand(void **state)
{
    (void)state;
    const double divergences[] = {0.6, 0.5, 0.4, 0.2, 0.2, 0.1};
    const uint32_t tokens[] = {1, 1, 1, 1, 1, 1}, labels[] = {0, 0, 0, 1, 1, 1};
    struct damage_cluster clusters[2];
    struct damage_summary summary = take_clusters(divergences, tokens, labels, 6, 2, 0, clusters);
    assert_close(clusters[0].mean, 0.5, 1e-15);
    assert_close(clusters[1].mean, 1 / 6.0, 1e-15);
    assert_close(clusters[0].mean_variance, 0.01 / 3, 1e-15);
    assert_close(clusters[1].mean_variance, 0.01 / 9, 1e-15);
    /* m = 1/3; tau^2 = (6 (1/6)^2 - (.01 + .01 / 3) / 2) / 3 = .16 / 3 */
    assert_close(summary.mean, 1 / 3.0, 1e-15);
    assert_close(summary.between_variance, 0.16 / 3, 1e-15);
    assert_close(summary.within_variance, (0.02 + 0.02 / 3) / 4, 1e-15);
    assert_close(clusters[0].shrunk_mean, 1 / 3.0 + 16.0 / 17 / 6, 1e-15);
    assert_close(clusters[1].shrunk_mean, 1 / 3.0 - 48.0 / 49 / 6, 1e-15);
}

static void records_without_responses_are_left_out_and_counted(void **state)
{
    (void)state;
    const double divergences[] = {NAN, 0.5, INFINITY, 0.1, 0.3};
    const uint32_t tokens[] = {0, 2, 0, 1, 1}, labels[] = {0, 0, 2, 1, 1};
    struct damage_cluster clusters[3];
    struct damage_summary summary = take_clusters(divergences, tokens, labels, 5, 3, 0, clusters);
    assert_int_equal(summary.count, 3);
    assert_int_equal(summary.excluded, 2);
    assert_int_equal(clusters[0].count, 1);
    assert_int_equal(clusters[0].excluded, 1);
    assert_close(clusters[0].mean, 0.5, 0);
    assert_close(clusters[1].mean, 0.2, 1e-16);
    assert_close(clusters[0].mean_variance, 0.02, 1e-16); /* one record: the pooled variance */
    assert_int_equal(clusters[2].count, 0);
    assert_int_equal(clusters[2].excluded, 1);
    assert_true(clusters[2].mean == 0 && clusters[2].shrunk_mean == 0);
    summary = take_clusters(divergences, tokens, labels, 0, 3, 0, clusters);
    assert_true(summary.count == 0 && summary.mean == 0 && clusters[0].count == 0);
}

static void what_is_equal_or_alone_stays_as_it_is(void **state)
{
    (void)state;
    const double equal[] = {0.25, 0.25, 0.25, 0.25}, zeros[] = {0, 0, 0, 0}, apart[] = {0.1, 0.2, 0.6, 0.5};
    const uint32_t tokens[] = {1, 1, 1, 1}, labels[] = {0, 1, 1, 0}, own[] = {0, 1, 2, 3},
                   one[] = {0, 0, 0, 0};
    struct damage_cluster clusters[4];
    struct damage_summary summary = take_clusters(equal, tokens, labels, 4, 2, 0, clusters);
    assert_true(summary.between_variance == 0 && clusters[0].shrunk_mean == 0.25);
    assert_true(clusters[1].shrunk_mean == 0.25);
    take_clusters(zeros, tokens, labels, 4, 2, 0, clusters);
    assert_true(clusters[0].shrunk_mean == 0 && clusters[1].shrunk_mean == 0);
    take_clusters(apart, tokens, one, 4, 1, 0, clusters);
    assert_close(clusters[0].shrunk_mean, 0.35, 1e-15);
    take_clusters(apart, tokens, own, 4, 4, 0, clusters); /* no variance is known */
    for (size_t k = 0; k < 4; k++) {
        assert_close(clusters[k].shrunk_mean, apart[k], 1e-15);
    }
}

static void an_outlier_in_a_hundred_is_trimmed(void **state)
{
    (void)state;
    double divergences[250];
    uint32_t tokens[250], labels[250];
    for (size_t i = 0; i < 250; i++) {
        divergences[i] = 0.001 * (double)((i * 7) % 250);
        tokens[i] = 1;
        labels[i] = i < 200 ? 0 : 1;
    }
    divergences[17] = 50;
    double sorted[200], sum = 0, mean = 0, squares = 0;
    memcpy(sorted, divergences, sizeof sorted);
    for (size_t i = 0; i < 200; i++) {
        for (size_t j = i + 1; j < 200; j++) {
            if (sorted[j] < sorted[i]) {
                double value = sorted[i];
                sorted[i] = sorted[j];
                sorted[j] = value;
            }
        }
    }
    for (size_t i = 2; i < 198; i++) {
        sum += sorted[i];
    }
    sorted[0] = sorted[1] = sorted[2];
    sorted[199] = sorted[198] = sorted[197];
    for (size_t i = 0; i < 200; i++) {
        mean += sorted[i] / 200;
    }
    for (size_t i = 0; i < 200; i++) {
        squares += (sorted[i] - mean) * (sorted[i] - mean);
    }
    struct damage_cluster clusters[2];
    take_clusters(divergences, tokens, labels, 250, 2, 0.01, clusters);
    assert_int_equal(clusters[0].trimmed, 2);
    assert_close(clusters[0].mean, sum / 196, 1e-15);
    assert_close(clusters[0].mean_variance, squares / 199 * 200 / (196.0 * 196.0), 1e-15);
    assert_int_equal(clusters[1].trimmed, 0); /* fifty are too few to trim a hundredth of */
    take_clusters(divergences, tokens, labels, 250, 2, 0, clusters);
    assert_true(clusters[0].mean > sum / 196 + 0.2);
}

static void the_between_variance_is_that_of_the_population(void **state)
{
    (void)state;
    enum { CLUSTERS = 3000, RECORDS = 12 * CLUSTERS };
    static double divergences[RECORDS], truth[CLUSTERS];
    static uint32_t tokens[RECORDS], labels[RECORDS];
    static struct damage_cluster clusters[CLUSTERS];
    size_t count = 0;
    for (uint32_t k = 0; k < CLUSTERS; k++) {
        truth[k] = 1 + 0.2 * bell(0, k);
        for (size_t i = 0; i < 2 + k % 10; i++, count++) {
            divergences[count] = truth[k] + 0.3 * bell(1, count);
            tokens[count] = 1;
            labels[count] = k;
        }
    }
    struct damage_summary summary = take_clusters(divergences, tokens, labels, count, CLUSTERS, 0, clusters);
    assert_close(summary.mean, 1, 0.02);
    assert_close(summary.between_variance, 0.04, 0.003);
    assert_close(summary.within_variance, 0.09, 0.003);
    double own = 0, shrunk = 0;
    for (size_t k = 0; k < CLUSTERS; k++) {
        own += pow(clusters[k].mean - truth[k], 2);
        shrunk += pow(clusters[k].shrunk_mean - truth[k], 2);
    }
    assert_true(shrunk < 0.85 * own); /* which is why it is done */
}

static void shrinkage_only_draws_inwards_and_ignores_the_order(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < 20; round++) {
        double divergences[MANY], shuffled[MANY];
        uint32_t tokens[MANY], labels[MANY], tokens_too[MANY], labels_too[MANY];
        size_t order[MANY];
        struct damage_cluster clusters[9], again[9];
        rng_permutation(&(struct rng){.seed = round}, MANY, order);
        for (size_t i = 0; i < MANY; i++) {
            labels[i] = (uint32_t)(9 * unit(round, i) * unit(round, MANY + i));
            tokens[i] = unit(round, 2 * MANY + i) < 0.1 ? 0 : 3;
            divergences[i] = 0.5 * unit(round, 3 * MANY + i) + 0.02 * labels[i];
        }
        for (size_t i = 0; i < MANY; i++) {
            shuffled[i] = divergences[order[i]];
            labels_too[i] = labels[order[i]];
            tokens_too[i] = tokens[order[i]];
        }
        double trim = round % 2 == 0 ? 0 : 0.05;
        struct damage_summary summary = take_clusters(divergences, tokens, labels, MANY, 9, trim, clusters);
        take_clusters(shuffled, tokens_too, labels_too, MANY, 9, trim, again);
        assert_memory_equal(clusters, again, sizeof clusters);
        for (size_t k = 0; k < 9; k++) {
            double sum = 0, own = fabs(clusters[k].mean - summary.mean);
            size_t count = 0;
            for (size_t i = 0; i < MANY; i++) {
                sum += labels[i] == k && tokens[i] > 0 ? divergences[i] : 0;
                count += labels[i] == k && tokens[i] > 0 ? 1 : 0;
            }
            assert_int_equal(clusters[k].count, count);
            if (count > 0) {
                assert_true(trim > 0 || fabs(clusters[k].mean - sum / (double)count) < 1e-14);
                assert_true(fabs(clusters[k].shrunk_mean - summary.mean) <= own * (1 + 1e-12));
            }
        }
    }
}

static void a_value_that_is_none_is_named(void **state)
{
    (void)state;
    const double divergences[] = {1, NAN}, fine[] = {1, 2}, wrong[] = {1, INFINITY};
    const uint32_t tokens[] = {1, 1}, labels[] = {0, 0};
    struct damage_records records = {2, divergences, tokens, tokens, NULL};
    struct damage_cluster cluster = {.count = 77};
    struct damage_summary summary = {.count = 78};
    struct damage_correlations correlations = {0};
    double efficiencies[2] = {9, 9};
    struct error error = {0};
    assert_false(damage_clusters(&records, labels, 1, 0, &cluster, &summary, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
    assert_non_null(strstr(error.message, "record 1"));
    assert_true(cluster.count == 77 && summary.count == 78);
    assert_false(damage_efficiencies(&records, efficiencies, &error));
    assert_true(efficiencies[0] == 9);
    assert_false(damage_correlate(&records, &correlations, &error));
    records = (struct damage_records){2, fine, tokens, tokens, wrong};
    assert_false(damage_correlate(&records, &correlations, &error));
    assert_non_null(strstr(error.message, "entropy of record 1"));
}

static struct damage_correlations correlate(const double *divergences, const uint32_t *tokens,
                                            const double *entropies, size_t count)
{
    const struct damage_records records = {count, divergences, tokens, tokens, entropies};
    struct damage_correlations correlations = {0};
    assert_true(damage_correlate(&records, &correlations, NULL));
    return correlations;
}

static void correlations_by_hand(void **state)
{
    (void)state;
    /* Ranks (0, 1.5, 1.5, 3, 4) with (1, 0, 2.5, 2.5, 4) and (4, 2.5, 2.5, 1, 0). */
    const double divergences[] = {1, 2, 99, 2, 3, 10}, entropies[] = {5, 4, NAN, 4, 3, 2};
    const uint32_t tokens[] = {2, 1, 0, 4, 4, 5};
    struct damage_correlations found = correlate(divergences, tokens, entropies, 6);
    assert_true(found.tokens.is_defined && found.entropy.is_defined);
    assert_close(found.tokens.pearson, 16.4 / sqrt(53.2 * 10.8), 1e-14);
    assert_close(found.tokens.spearman, 7.25 / 9.5, 1e-14);
    assert_close(found.entropy.pearson, -14.8 / sqrt(53.2 * 5.2), 1e-14);
    assert_close(found.entropy.spearman, -1, 1e-15);
}

static void a_constant_column_correlates_with_nothing(void **state)
{
    (void)state;
    const double divergences[] = {1, 2, 3}, tiny[] = {1e-200, 2e-200, 4e-200};
    const uint32_t tokens[] = {4, 4, 4}, none[] = {0, 1, 0}, rising[] = {1, 2, 3};
    assert_false(correlate(divergences, tokens, divergences, 3).tokens.is_defined);
    assert_close(correlate(divergences, tokens, divergences, 3).entropy.pearson, 1, 1e-15);
    assert_false(correlate(divergences, none, NULL, 3).tokens.is_defined); /* one record */
    assert_false(correlate(divergences, rising, NULL, 3).entropy.is_defined);
    assert_false(correlate(divergences, rising, NULL, 0).tokens.is_defined);
    /* 3 / sqrt(2 * 14 / 3), though squares of the one column underflow. */
    assert_close(correlate(tiny, rising, NULL, 3).tokens.pearson, 3 / sqrt(28 / 3.0), 1e-15);
}

static double plain_pearson(const double *x, const double *y, size_t count)
{
    long double x_mean = 0, y_mean = 0, xx = 0, yy = 0, xy = 0;
    for (size_t i = 0; i < count; i++) {
        x_mean += (long double)x[i] / (long double)count;
        y_mean += (long double)y[i] / (long double)count;
    }
    for (size_t i = 0; i < count; i++) {
        xx += ((long double)x[i] - x_mean) * ((long double)x[i] - x_mean);
        yy += ((long double)y[i] - y_mean) * ((long double)y[i] - y_mean);
        xy += ((long double)x[i] - x_mean) * ((long double)y[i] - y_mean);
    }
    return (double)(xy / sqrtl(xx * yy));
}

static void correlations_agree_with_plain_ones(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < 20; round++) {
        enum { COUNT = 150 };
        double x[COUNT], y[COUNT], x_ranks[COUNT], y_ranks[COUNT];
        uint32_t tokens[COUNT];
        for (size_t i = 0; i < COUNT; i++) {
            x[i] = floor(30 * unit(round, i)) / 7;
            tokens[i] = (uint32_t)(1 + x[i] * round + 20 * unit(round, COUNT + i));
            y[i] = (double)tokens[i];
        }
        for (size_t i = 0; i < COUNT; i++) {
            x_ranks[i] = y_ranks[i] = 0;
            for (size_t j = 0; j < COUNT; j++) {
                x_ranks[i] += x[j] < x[i] ? 1 : x[j] > x[i] ? 0 : 0.5;
                y_ranks[i] += y[j] < y[i] ? 1 : y[j] > y[i] ? 0 : 0.5;
            }
        }
        struct damage_correlations found = correlate(x, tokens, y, COUNT);
        assert_close(found.tokens.pearson, plain_pearson(x, y, COUNT), 1e-13);
        assert_close(found.tokens.spearman, plain_pearson(x_ranks, y_ranks, COUNT), 1e-13);
        assert_true(found.tokens.pearson == found.entropy.pearson); /* given as both */
        assert_true(found.tokens.spearman == found.entropy.spearman);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(efficiency_is_equation_7_with_a_floor_at_e),
        cmocka_unit_test(what_gained_ranks_last_whatever_its_length),
        cmocka_unit_test(clusters_that_gained_take_no_part_of_the_budget),
        cmocka_unit_test(two_clusters_and_their_shrinkage_by_hand),
        cmocka_unit_test(records_without_responses_are_left_out_and_counted),
        cmocka_unit_test(what_is_equal_or_alone_stays_as_it_is),
        cmocka_unit_test(an_outlier_in_a_hundred_is_trimmed),
        cmocka_unit_test(the_between_variance_is_that_of_the_population),
        cmocka_unit_test(shrinkage_only_draws_inwards_and_ignores_the_order),
        cmocka_unit_test(a_value_that_is_none_is_named),
        cmocka_unit_test(correlations_by_hand),
        cmocka_unit_test(a_constant_column_correlates_with_nothing),
        cmocka_unit_test(correlations_agree_with_plain_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
