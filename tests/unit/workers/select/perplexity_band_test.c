/* The band of perplexities: the reference's vectors, edges, and that bands that meet share out all records. */
#include "base/rng.h"
#include "tests/unit/workers/select/plain.h"
#include "workers/select/perplexity_band.h"

static double unit(uint32_t step, uint64_t index)
{
    return rng_unit(&(struct rng){.seed = 5, .stream = 1, .step = step}, index);
}

enum { MANY = 97 };
static uint32_t ones[MANY]; /* filled before the tests */

static struct perplexity_band_result keep(const double *nll_means, size_t count, double low, double high,
                                          size_t *ret_order)
{
    const struct perplexity_band band = {low, high};
    struct perplexity_band_result result = {0};
    assert_true(perplexity_band_select(nll_means, ones, count, &band, ret_order, &result, NULL));
    return result;
}

static void the_lowest_two_fifths_of_five(void **state)
{
    (void)state;
    size_t order[5];
    const double nll_means[] = {log(5), log(1), log(3), log(2), log(4)};
    struct perplexity_band_result result = keep(nll_means, 5, 0, 0.4, order);
    assert_int_equal(result.kept_count, 2);
    assert_int_equal(order[0], 1);
    assert_int_equal(order[1], 3);
    assert_close(exp(result.high_nll_mean), 2, 1e-15);
    assert_close(result.low_nll_mean, 0, 0);
    struct perplexity_band_result noise = keep(nll_means, 5, 0.8, 1, order);
    assert_int_equal(noise.kept_count, 1);
    assert_int_equal(order[0], 0);
}

static void a_band_keeps_at_least_one(void **state)
{
    (void)state;
    size_t order[4];
    const double nll_means[] = {3, 1, 2, 2};
    struct perplexity_band_result low = keep(nll_means, 4, 0, 0.2, order);
    assert_int_equal(low.kept_count, 1);
    assert_int_equal(order[0], 1);
    struct perplexity_band_result middle = keep(nll_means, 4, 0.5, 0.6, order);
    assert_int_equal(middle.kept_count, 1);
    assert_int_equal(order[0], 3); /* the third of the four; its equal by index came before */
    struct perplexity_band_result none = keep(nll_means, 0, 0, 1, order);
    assert_int_equal(none.kept_count, 0);
    assert_true(isnan(none.low_nll_mean) && isnan(none.high_nll_mean));
}

static void records_without_tokens_have_no_place(void **state)
{
    (void)state;
    size_t order[5];
    const double nll_means[] = {NAN, 900, 1, INFINITY, 2};
    const uint32_t tokens[] = {0, 3, 1, 1, 2};
    const struct perplexity_band half = {0, 0.5}, rest = {0.5, 1};
    struct perplexity_band_result result = {0};
    assert_true(perplexity_band_select(nll_means, tokens, 5, &half, order, &result, NULL));
    assert_int_equal(result.empty_count, 1);
    assert_int_equal(result.kept_count, 2);
    assert_int_equal(order[0], 2);
    assert_int_equal(order[1], 4);
    struct perplexity_band_result high = {0};
    assert_true(perplexity_band_select(nll_means, tokens, 5, &rest, order, &high, NULL));
    assert_int_equal(order[0], 1); /* e^900 would tie with infinity */
    assert_int_equal(order[1], 3);
}

static void nan_is_named(void **state)
{
    (void)state;
    size_t order[3] = {7, 7, 7};
    const double nll_means[] = {1, 2, NAN};
    const struct perplexity_band band = {0, 1};
    struct perplexity_band_result result = {.kept_count = 42};
    struct error error = {0};
    assert_false(perplexity_band_select(nll_means, ones, 3, &band, order, &result, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
    assert_non_null(strstr(error.message, "record 2"));
    assert_int_equal(result.kept_count, 42);
    assert_int_equal(order[0], 7);
}

static void bands_that_meet_share_out_all_records(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < 60; round++) {
        double nll_means[MANY];
        size_t low_order[MANY], high_order[MANY];
        size_t count = 10 + round % (MANY - 10), seen = 0;
        double edge = 0.2 + 0.6 * unit(round, MANY);
        bool is_seen[MANY] = {false};
        for (size_t i = 0; i < count; i++) {
            nll_means[i] = floor(unit(round, i) * 20);
        }
        struct perplexity_band_result low = keep(nll_means, count, 0, edge, low_order);
        struct perplexity_band_result high = keep(nll_means, count, edge, 1, high_order);
        assert_int_equal(low.kept_count + high.kept_count, count);
        assert_int_equal(low.kept_count, (size_t)floor(edge * (double)count));
        for (size_t i = 0; i < count; i++) {
            size_t record = i < low.kept_count ? low_order[i] : high_order[i - low.kept_count];
            size_t before = 0; /* its place, by counting */
            for (size_t j = 0; j < count; j++) {
                before +=
                    nll_means[j] < nll_means[record] || (nll_means[j] == nll_means[record] && j < record);
            }
            assert_int_equal(before, i);
            seen += is_seen[record] ? 0 : 1;
            is_seen[record] = true;
        }
        assert_int_equal(seen, count);
    }
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
        cmocka_unit_test(the_lowest_two_fifths_of_five),         cmocka_unit_test(a_band_keeps_at_least_one),
        cmocka_unit_test(records_without_tokens_have_no_place),  cmocka_unit_test(nan_is_named),
        cmocka_unit_test(bands_that_meet_share_out_all_records),
    };
    return cmocka_run_group_tests(tests, fill_ones, NULL);
}
