/* Proportional shares: the reference's vectors (T1), exact whole-number arithmetic as the plain form, and the published form. */
#include "workers/select/share.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define NO_CAP SIZE_MAX

/* Deterministic whole numbers below `end`. */
static size_t noise(size_t i, size_t end)
{
    uint64_t x = ((uint64_t)i + 1) * 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return (size_t)((x ^ x >> 31) % end);
}

static void assert_shares(const double *weights, const size_t *caps, size_t count, size_t budget,
                          const size_t *expected)
{
    size_t shares[16];
    struct error error = {0};
    assert_true(share_allocate(weights, caps, count, budget, shares, &error));
    for (size_t k = 0; k < count; k++) {
        assert_int_equal(shares[k], expected[k]);
    }
}

static void the_references_vectors_hold(void **state)
{
    (void)state;
    const size_t none[] = {NO_CAP, NO_CAP, NO_CAP}, caps[] = {5, 100};
    assert_shares((const double[]){3, 1}, none, 2, 10, (const size_t[]){8, 2});
    assert_shares((const double[]){3, 1}, caps, 2, 10, (const size_t[]){5, 5});
    assert_shares((const double[]){0, 0}, none, 2, 5, (const size_t[]){3, 2});
    assert_shares((const double[]){.1, .2, .3}, none, 3, 10, (const size_t[]){2, 3, 5});
}

static void the_published_form_truncates_and_rounds_as_published(void **state)
{
    (void)state;
    size_t shares[3];
    assert_true(share_published((const double[]){3, 1}, 2, 10, shares, NULL));
    assert_true(shares[0] == 7 && shares[1] == 2);
    assert_true(share_published((const double[]){.1, .2, .3}, 3, 10, shares, NULL));
    assert_true(shares[0] == 1 && shares[1] == 3 && shares[2] == 4);
}

/* [int(B * (w / sum(w))) for w in ...] of Python 3.11 over random.Random(5).random(), and a case that rounding takes one from: of
 * 0.1 / 0.4 and 0.3 / 0.4 the second is below 0.75. */
static void the_published_form_agrees_with_python(void **state)
{
    (void)state;
    const double weights[] = {0.6229016948897019,   0.7417869892607294,  0.7951935655656966,
                              0.9424502837770503,   0.7398985747399307,  0.9223249966654170,
                              0.029005228283614737, 0.46562265437810535, 0.9433567169983137,
                              0.6489745531369242};
    const size_t expected[] = {1818, 2165, 2321, 2751, 2159, 2692, 84, 1359, 2753, 1894};
    size_t shares[10];
    assert_true(share_published(weights, 10, 20000, shares, NULL));
    assert_memory_equal(shares, expected, sizeof expected);
    assert_true(share_published((const double[]){0.1, 0.3}, 2, 4, shares, NULL));
    assert_true(shares[0] == 1 && shares[1] == 2);
    const size_t none[] = {NO_CAP, NO_CAP};
    assert_shares((const double[]){0.1, 0.3}, none, 2, 4, (const size_t[]){1, 3});
}

static void weights_that_are_none_are_named(void **state)
{
    (void)state;
    const double bad[] = {(double)NAN, (double)INFINITY, -1, -(double)INFINITY};
    const size_t none[] = {NO_CAP, NO_CAP, 0};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const double weights[] = {1, 2, bad[i]};
        size_t shares[3] = {9, 9, 9};
        struct error error = {0};
        assert_false(share_allocate(weights, none, 3, 4, shares, &error)); /* a group without room too */
        assert_int_equal(error.code, ERROR_NUMERIC);
        assert_non_null(strstr(error.message, "group 2"));
        memset(&error, 0, sizeof error);
        assert_false(share_published(weights, 3, 4, shares, &error));
        assert_int_equal(error.code, ERROR_NUMERIC);
        assert_true(shares[0] == 9 && shares[1] == 9 && shares[2] == 9);
    }
    struct error error = {0};
    size_t shares[2];
    assert_false(share_published((const double[]){0, 0}, 2, 4, shares, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
    assert_false(share_allocate((const double[]){1, 1}, none, 2, (size_t)1 << 40, shares, &error));
    assert_int_equal(error.code, ERROR_OUT_OF_RANGE);
}

static void empty_cases_give_nothing(void **state)
{
    (void)state;
    assert_true(share_allocate(NULL, NULL, 0, 10, NULL, NULL));
    assert_shares((const double[]){1, 2}, (const size_t[]){4, 4}, 2, 0, (const size_t[]){0, 0});
    assert_shares((const double[]){1, 2}, (const size_t[]){0, 0}, 2, 7, (const size_t[]){0, 0});
    assert_shares((const double[]){5, 0, 0}, (const size_t[]){2, 0, 9}, 3, 7, (const size_t[]){2, 0, 5});
    /* More than all caps: every group whole. */
    assert_shares((const double[]){5, 1}, (const size_t[]){2, 3}, 2, 50, (const size_t[]){2, 3});
}

static void weights_of_any_size_share_alike(void **state)
{
    (void)state;
    const size_t none[] = {NO_CAP, NO_CAP, NO_CAP};
    const double scales[] = {1e-320, 1e-300, 1, 1e300, 4e307};
    for (size_t i = 0; i < sizeof scales / sizeof scales[0]; i++) {
        const double weights[] = {2 * scales[i], scales[i], scales[i]};
        assert_shares(weights, none, 3, 8, (const size_t[]){4, 2, 2});
    }
    /* Weights far below one that reached its cap still count among themselves. */
    assert_shares((const double[]){1e300, 3e-300, 1e-300}, (const size_t[]){1, 100, 100}, 3, 9,
                  (const size_t[]){1, 6, 2});
}

/* Largest remainder with caps over whole weights: nothing is rounded. */
static void share_exactly(const size_t *whole_weights, const size_t *caps, size_t count, size_t budget,
                          size_t *ret_shares)
{
    size_t weights[16], room = 0, left = 0, sum = 0;
    bool is_open[16];
    for (size_t k = 0; k < count; k++) {
        weights[k] = whole_weights[k];
        is_open[k] = caps[k] > 0;
        ret_shares[k] = 0;
        room += caps[k];
    }
    left = budget < room ? budget : room;
    for (bool again = true; again;) {
        again = false;
        sum = 0;
        for (size_t k = 0; k < count; k++) {
            sum += is_open[k] ? weights[k] : 0;
        }
        for (size_t k = 0; k < count && sum == 0; k++) {
            weights[k] = 1;
        }
        for (size_t k = 0; k < count && sum == 0; k++) {
            again = again || is_open[k];
        }
        size_t of = left;
        for (size_t k = 0; k < count && sum > 0; k++) {
            if (is_open[k] && of * weights[k] >= caps[k] * sum) {
                ret_shares[k] = caps[k];
                left -= caps[k];
                is_open[k] = false;
                again = true;
            }
        }
    }
    size_t given = 0;
    for (size_t k = 0; k < count; k++) {
        if (is_open[k]) {
            ret_shares[k] = left * weights[k] / sum;
            given += ret_shares[k];
        }
    }
    for (; given < left; given++) {
        size_t best = count;
        for (size_t k = 0; k < count; k++) {
            bool is_free = is_open[k] && ret_shares[k] == left * weights[k] / sum;
            if (is_free && (best == count || left * weights[k] % sum > left * weights[best] % sum)) {
                best = k;
            }
        }
        ret_shares[best]++;
    }
}

static void shares_are_those_of_exact_arithmetic(void **state)
{
    (void)state;
    const double units[] = {1, 0.1, 1.0 / 3, 1e-7, 12345.678};
    size_t capped = 0;
    for (size_t trial = 0; trial < 20000; trial++) {
        size_t count = 1 + noise(trial, 12), budget = noise(trial + 100000, 200);
        size_t whole[16], caps[16], expected[16], shares[16], sum = 0, room = 0;
        double weights[16];
        for (size_t k = 0; k < count; k++) {
            size_t i = trial * 16 + k;
            whole[k] = noise(i + 1000000, 3) == 0 ? 0 : noise(i + 2000000, trial % 3 == 0 ? 5 : 1000);
            weights[k] = (double)whole[k] * units[trial % 5];
            caps[k] = noise(i + 3000000, trial % 2 == 0 ? 40 : 4000);
            room += caps[k];
        }
        share_exactly(whole, caps, count, budget, expected);
        assert_true(share_allocate(weights, caps, count, budget, shares, NULL));
        for (size_t k = 0; k < count; k++) {
            assert_int_equal(shares[k], expected[k]);
            assert_true(shares[k] <= caps[k]);
            capped += shares[k] == caps[k] && caps[k] > 0 ? 1 : 0;
            sum += shares[k];
        }
        assert_int_equal(sum, budget < room ? budget : room);
    }
    assert_true(capped > 1000); /* the trials reach caps */
}

static void without_caps_the_heavier_group_never_gets_less(void **state)
{
    (void)state;
    for (size_t trial = 0; trial < 3000; trial++) {
        double weights[16];
        size_t caps[16], shares[16], published[16], budget = noise(trial, 20000), sum = 0;
        for (size_t k = 0; k < 16; k++) {
            weights[k] = exp(-(double)noise(trial * 16 + k, 1000000) / 1e5);
            caps[k] = NO_CAP;
        }
        assert_true(share_allocate(weights, caps, 16, budget, shares, NULL));
        assert_true(share_published(weights, 16, budget, published, NULL));
        for (size_t a = 0; a < 16; a++) {
            sum += shares[a];
            assert_true(published[a] <= shares[a] && shares[a] <= published[a] + 2);
            for (size_t b = 0; b < 16; b++) {
                assert_true(!(weights[a] > weights[b]) || shares[a] >= shares[b]);
            }
        }
        assert_int_equal(sum, budget);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_references_vectors_hold),
        cmocka_unit_test(the_published_form_truncates_and_rounds_as_published),
        cmocka_unit_test(the_published_form_agrees_with_python),
        cmocka_unit_test(weights_that_are_none_are_named),
        cmocka_unit_test(empty_cases_give_nothing),
        cmocka_unit_test(weights_of_any_size_share_alike),
        cmocka_unit_test(shares_are_those_of_exact_arithmetic),
        cmocka_unit_test(without_caps_the_heavier_group_never_gets_less),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
