/* EL2N and entropy: the reference's distributions, logits that would overflow or cancel, and the printed formulas. */
#include "base/rng.h"
#include "tests/unit/workers/select/plain.h"
#include "workers/select/token_measure.h"

static double unit(uint32_t step, uint64_t index)
{
    return rng_unit(&(struct rng){.seed = 5, .stream = 1, .step = step}, index);
}

static double el2n(const float *logits, size_t count, size_t target)
{
    struct token_measures measures = {-1, -1};
    assert_true(token_measure(logits, count, target, &measures, NULL));
    return measures.el2n;
}

static double entropy(const float *logits, size_t count, size_t target)
{
    struct token_measures measures = {-1, -1};
    assert_true(token_measure(logits, count, target, &measures, NULL));
    return measures.entropy;
}

static void distributions_of_the_reference(void **state)
{
    (void)state;
    const float logits[] = {logf(0.7F), logf(0.2F), logf(0.1F)};
    assert_close(el2n(logits, 3, 0), 0.3741657387, 1e-7); /* logits are fp32 */
    assert_close(el2n(logits, 3, 2), 1.1575836903, 1e-7);
    const float sure[] = {0, 3000, 0};
    assert_close(el2n(sure, 3, 1), 0, 0);
    assert_close(el2n(sure, 3, 0), 1.4142135624, 1e-10);
}

static void one_word_is_never_wrong(void **state)
{
    (void)state;
    const float logit = -80;
    assert_close(el2n(&logit, 1, 0), 0, 0);
}

static void digits_survive_a_belief_near_one(void **state)
{
    (void)state;
    /* Of two words p_y = 1 / (1 + e), e = exp(-30), and the value is sqrt(2) e / (1 + e); 1 - 2 p_y + sum p^2 rounds to nothing. */
    const float logits[] = {30, 0};
    double e = exp(-30.0), p = 1 / (1 + e), q = e / (1 + e);
    assert_true(fabs(sqrt(fabs(p * p + q * q - 2 * p + 1)) / (sqrt(2.0) * q) - 1) > 1e-6);
    assert_close(el2n(logits, 2, 0) / (sqrt(2.0) * q), 1, 1e-14);
}

static void any_logits_agree_with_the_textbook(void **state)
{
    (void)state;
    enum { VOCAB = 301 };
    static const double bases[] = {0, 5000, -4000}; /* exp overflows above 709 */
    for (uint32_t round = 0; round < 60; round++) {
        float logits[VOCAB];
        double base = bases[round % 3];
        long double sum = 0, squares = 0, expected_entropy = 0;
        size_t target = (size_t)(unit(round, VOCAB) * VOCAB);
        for (size_t v = 0; v < VOCAB; v++) {
            logits[v] = (float)(base + (round % 4 == 0 ? 0.05 * (double)v : 15 * unit(round, v)));
            sum += expl((long double)logits[v] - (long double)base);
        }
        for (size_t v = 0; v < VOCAB; v++) {
            long double log_p = (long double)logits[v] - (long double)base - logl(sum), p = expl(log_p);
            squares += v == target ? (1 - p) * (1 - p) : p * p;
            expected_entropy -= p * log_p;
        }
        assert_close(el2n(logits, VOCAB, target), (double)sqrtl(squares), 1e-14);
        assert_close(entropy(logits, VOCAB, target), (double)expected_entropy, 1e-12);
    }
}

static void a_logit_that_is_none_is_named(void **state)
{
    (void)state;
    const float wrong[] = {1, 2, INFINITY, NAN};
    struct error error = {0};
    struct token_measures value = {7, 8};
    assert_false(token_measure(wrong, 4, 0, &value, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
    assert_non_null(strstr(error.message, "token 2"));
    assert_false(token_measure(wrong + 3, 1, 0, &value, &error)); /* the target's own */
    assert_int_equal(error.code, ERROR_NUMERIC);
    assert_false(token_measure(wrong, 2, 2, &value, &error));
    assert_int_equal(error.code, ERROR_OUT_OF_RANGE);
    assert_true(value.el2n == 7 && value.entropy == 8);
}

static void a_record_is_the_mean_of_its_tokens(void **state)
{
    (void)state;
    const double values[] = {0.5, 1, 0.75};
    assert_close(token_measure_mean(values, 3), 0.75, 0);
    assert_true(isnan(token_measure_mean(values, 0)));
}

static void entropies_of_uniform_beliefs(void **state)
{
    (void)state;
    const float logits[] = {3.5F, 3.5F, 3.5F, 3.5F};
    assert_close(entropy(logits, 4, 1), 1.3862943611, 1e-10);
    assert_close(entropy(logits, 2, 0), 0.6931471806, 1e-10);
    assert_true(entropy(logits, 1, 0) == 0);
    const float far[] = {-3e38F, 3e38F};
    assert_true(entropy(far, 2, 0) == 0 && entropy(far, 2, 1) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(distributions_of_the_reference),     cmocka_unit_test(one_word_is_never_wrong),
        cmocka_unit_test(digits_survive_a_belief_near_one),   cmocka_unit_test(entropies_of_uniform_beliefs),
        cmocka_unit_test(any_logits_agree_with_the_textbook), cmocka_unit_test(a_logit_that_is_none_is_named),
        cmocka_unit_test(a_record_is_the_mean_of_its_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
