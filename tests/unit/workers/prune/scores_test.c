/* The criteria of the width methods on the analytic vectors of structured_pruning sections 2, 6, 7, 14 and 15c. */
#include "workers/prune/scores.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void assert_close(double value, double expected, double tolerance)
{
    if (!(fabs(value - expected) <= tolerance)) {
        print_error("%.17g is not %.17g\n", value, expected);
        fail();
    }
}

/* One row of one sequence: norms are its absolutes. */
static struct moments *moments_of(const float *rows, size_t row_count, size_t count)
{
    struct moments *moments = moments_create(count, NULL);
    moments_add(moments, rows, row_count, count, NULL, NULL);
    moments_close(moments);
    return moments;
}

static struct weight_columns columns_of(const float *weights, size_t rows, size_t count)
{
    struct weight_columns columns = {0};
    assert_true(weight_columns_start(&columns, count, NULL));
    weight_columns_add(&columns, weights, rows, count);
    return columns;
}

static void wanda_sp_weighs_mean_absolutes_by_norms(void **state)
{
    (void)state;
    const float norms[] = {2, -1}, weights[] = {1, -2, 3, 4};
    OWNED(moments) moments = moments_of(norms, 1, 2);
    FINISHED(weight_columns) columns = columns_of(weights, 2, 2);
    double scores[2];
    score_wanda_sp(moments, &columns, scores);
    assert_close(scores[0], 4, 1e-15);
    assert_close(scores[1], 3, 1e-15);
    score_magnitude_sp(&columns, scores);
    assert_close(scores[0], sqrt(10), 1e-15);
    assert_close(scores[1], sqrt(20), 1e-15);
    score_two_ssp(moments, &columns, scores);
    assert_close(scores[0], 2 * sqrt(10), 1e-14);
    assert_close(scores[1], sqrt(20), 1e-14);
}

static void flap_weighs_variances_and_squares_those_of_attention(void **state)
{
    (void)state;
    const float rows[] = {1, 2, 3, 2, 5, 2}, weights[] = {1, 2, 0, 1};
    OWNED(moments) moments = moments_of(rows, 3, 2);
    FINISHED(weight_columns) columns = columns_of(weights, 2, 2);
    double scores[2];
    score_flap(FLAP_WIFV, false, moments, &columns, scores);
    assert_close(scores[0], 4, 0);
    assert_close(scores[1], 0, 0);
    score_flap(FLAP_WIFV, true, moments, &columns, scores);
    assert_close(scores[0], 16, 0);
    score_flap(FLAP_IFV, false, moments, NULL, scores);
    assert_close(scores[0], 4, 0);
    score_flap(FLAP_WIFN, false, moments, &columns, scores);
    assert_close(scores[0], 0.5 * sqrt(35), 1e-14);
    assert_close(scores[1], 1.5 * sqrt(12), 1e-14);
    /* Pruning column 1 and adding W[:,1] times its mean repairs the output exactly. */
    double means[2];
    moments_mean(moments, means);
    assert_close((double)weights[1] * means[1], 4, 0);
    assert_close((double)weights[3] * means[1], 2, 0);
}

static void standardised_scores_have_no_mean_and_deviation_one(void **state)
{
    (void)state;
    double scores[] = {1, 2, 3}, flat[] = {0.1, 0.1, 0.1, 0.1};
    score_standardise(scores, 3);
    assert_close(scores[0], -1, 1e-15);
    assert_close(scores[1], 0, 1e-15);
    assert_close(scores[2], 1, 1e-15);
    score_standardise(flat, 4);
    assert_close(flat[0], 0, 0);
    double one = 5;
    score_standardise(&one, 1);
    assert_close(one, 0, 0);
}

static void cfsp_as_shipped_is_the_norm_and_the_channel_axis_is_not(void **state)
{
    (void)state;
    const float norms[] = {2, 3}, down[] = {1, 2, 3, -4}, up[] = {1, 1, 2, 0}, gate[] = {1, -1, 1, 3};
    OWNED(moments) moments = moments_of(norms, 1, 2);
    double scores[2];
    score_cfsp(moments, 2, 3, 1, scores);
    assert_close(scores[0], 3, 1e-15);
    assert_close(scores[1], 4.5, 1e-15);
    score_cfsp(moments, 2, 3, 2, scores);
    assert_close(scores[1], 13.5, 1e-14);

    /* By hand, shares over channels: down rows |1|2:|2|3 = 1/4, 3/4 and 6:12 = 1/3, 2/3; up columns 1/3, 2/3 and 1, 0; gate columns
     * 1/2, 1/2 and 1/4, 3/4. */
    assert_true(score_cfsp_channels(moments, down, up, gate, 2, 1, 1, scores, NULL));
    double first = (1.0 / 4 + 1.0 / 3 + 1.0 / 3 + 1 + 1.0 / 2 + 1.0 / 4) / 2;
    double second = (3.0 / 4 + 2.0 / 3 + 2.0 / 3 + 0 + 1.0 / 2 + 3.0 / 4) / 2;
    assert_close(scores[0], 2 * first, 1e-14);
    assert_close(scores[1], 3 * second, 1e-14);
    assert_true(fabs(scores[0] / scores[1] - 2.0 / 3) > 0.05); /* not the norm's ratio */
    assert_true(score_cfsp_channels(moments, down, NULL, NULL, 2, 1, 0, scores, NULL));
    assert_close(scores[0], (1.0 / 4 + 1.0 / 3) / 2, 1e-14);
}

static void a_dead_channel_scores_zero_in_every_form_of_cfsp(void **state)
{
    (void)state;
    const float norms[] = {0, 3}, down[] = {0, 0, 0, -4}, up[] = {0, 1, 0, 0};
    OWNED(moments) moments = moments_of(norms, 1, 2);
    double scores[2];
    score_cfsp(moments, 2, 2, 0, scores);
    assert_close(scores[0], 0, 0);
    assert_true(score_cfsp_channels(moments, down, up, NULL, 2, 1, 1, scores, NULL));
    assert_close(scores[0], 0, 0);
    assert_true(score_check(scores, 2, "a test", NULL));
}

static void minitron_takes_the_root_of_squared_means(void **state)
{
    (void)state;
    const float rows[] = {0.5F, -1};
    const size_t sequences[] = {3, 4};
    OWNED(moments) moments = moments_create(1, NULL);
    moments_add(moments, rows, 2, 1, sequences, NULL);
    moments_close(moments);
    double score = 0;
    score_minitron(moments, &score);
    assert_close(score, 1.118034, 1e-6);
    double total = 1;
    score_add(&total, &score, 1);
    assert_close(total, 2.118034, 1e-6);
}

static void columns_fold_into_heads_and_heads_into_groups(void **state)
{
    (void)state;
    const double columns[] = {3, 4, 0, 1, 5, 12, -2, 2};
    double heads[4], groups[2];
    score_fold(SCORE_NORM, columns, 8, 2, heads);
    assert_close(heads[0], 5, 0);
    assert_close(heads[2], 13, 0);
    score_fold(SCORE_SUM, columns, 8, 2, heads);
    assert_close(heads[2], 17, 0);
    assert_close(heads[3], 0, 0);
    score_fold(SCORE_MEAN, columns, 8, 2, heads);
    assert_close(heads[0], 3.5, 0);
    score_fold(SCORE_MAX, heads, 4, 2, groups);
    assert_close(groups[0], 3.5, 0);
    assert_close(groups[1], 8.5, 0);
}

static void a_score_that_is_no_number_names_its_unit(void **state)
{
    (void)state;
    const double scores[] = {1, INFINITY};
    struct error error = {0};
    assert_false(score_check(scores, 2, "sublayer 3", &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
    assert_non_null(strstr(error.message, "unit 1 of sublayer 3"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wanda_sp_weighs_mean_absolutes_by_norms),
        cmocka_unit_test(flap_weighs_variances_and_squares_those_of_attention),
        cmocka_unit_test(standardised_scores_have_no_mean_and_deviation_one),
        cmocka_unit_test(cfsp_as_shipped_is_the_norm_and_the_channel_axis_is_not),
        cmocka_unit_test(a_dead_channel_scores_zero_in_every_form_of_cfsp),
        cmocka_unit_test(minitron_takes_the_root_of_squared_means),
        cmocka_unit_test(columns_fold_into_heads_and_heads_into_groups),
        cmocka_unit_test(a_score_that_is_no_number_names_its_unit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
