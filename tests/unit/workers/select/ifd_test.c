/* IFD: the reference's vectors in both forms, what is dropped and why, and the order against a plain search. */
#include "base/cleanup.h"
#include "base/rng.h"
#include "tests/unit/workers/select/plain.h"
#include "workers/select/ifd.h"

static double unit(uint32_t step, uint64_t index)
{
    return rng_unit(&(struct rng){.seed = 5, .stream = 1, .step = step}, index);
}

enum { MANY = 120 };
static uint32_t tens[MANY]; /* filled before the tests */
static const struct ifd_rules ratio = {IFD_LOSS_RATIO, 512, 1}, perplexities = {IFD_PERPLEXITY_RATIO, 512, 1};

/* Records of ordinary lengths. */
static struct ifd_result select_losses(const double *conditional, const double *alone, size_t count,
                                       const struct ifd_rules *rules, double rate)
{
    const struct ifd_records records = {count, tens, tens, conditional, alone};
    struct ifd_result result = {0};
    assert_true(ifd_select(&records, rules, rate, &result, NULL));
    return result;
}

static void both_forms_are_the_papers(void **state)
{
    (void)state;
    const double conditional[] = {1, 3}, alone[] = {2, 5};
    FINISHED(ifd_result) by_loss = select_losses(conditional, alone, 2, &ratio, 1);
    FINISHED(ifd_result) by_perplexity = select_losses(conditional, alone, 2, &perplexities, 1);
    assert_close(by_loss.scores[0], 0.5, 0);
    assert_close(by_loss.scores[1], 0.6, 1e-16);
    assert_close(by_perplexity.scores[0], 0.3678794412, 1e-10);
    assert_close(by_perplexity.scores[1], 0.1353352832, 1e-10);
    assert_int_equal(by_loss.order[0], 1); /* and they do not order alike */
    assert_int_equal(by_perplexity.order[0], 0);
}

static void the_hardest_below_one_are_kept(void **state)
{
    (void)state;
    const double conditional[] = {0.2, 0.9, 1.1, 0.5, NAN}, alone[] = {1, 1, 1, 1, 1};
    FINISHED(ifd_result) result = select_losses(conditional, alone, 5, &ratio, 0.7); /* 2 of 3 */
    assert_int_equal(result.kept_count, 2);
    assert_int_equal(result.order[0], 1);
    assert_int_equal(result.order[1], 3);
    assert_int_equal(result.order[2], 0);
    assert_int_equal(result.verdict_counts[IFD_RANKED], 3);
    assert_int_equal(result.verdicts[2], IFD_ABOVE_ONE);
    assert_close(result.scores[2], 1.1, 0);
    assert_int_equal(result.verdicts[4], IFD_UNDEFINED);
    assert_true(isnan(result.scores[4]));
}

static void a_model_that_ignores_prompts_scores_one(void **state)
{
    (void)state;
    const double losses[] = {1.75, 3};
    FINISHED(ifd_result) by_loss = select_losses(losses, losses, 2, &ratio, 1);
    FINISHED(ifd_result) by_perplexity = select_losses(losses, losses, 2, &perplexities, 1);
    for (size_t i = 0; i < 2; i++) {
        assert_true(by_loss.scores[i] == 1 && by_perplexity.scores[i] == 1);
        assert_int_equal(by_loss.order[i], i); /* kept, ties by index */
    }
    assert_int_equal(by_loss.kept_count, 2);
}

static void losses_without_a_ratio_are_dropped(void **state)
{
    (void)state;
    const double conditional[] = {0, 1, -1, INFINITY, 1, 0.5, 800}, alone[] = {0, 0, 2, 2, INFINITY, -2, 0};
    FINISHED(ifd_result) by_loss = select_losses(conditional, alone, 7, &ratio, 1);
    assert_int_equal(by_loss.verdict_counts[IFD_UNDEFINED], 7);
    assert_int_equal(by_loss.kept_count, 0);
    FINISHED(ifd_result) by_perplexity = select_losses(conditional, alone, 7, &perplexities, 1);
    assert_int_equal(by_perplexity.verdicts[0], IFD_RANKED); /* e^0 is a ratio */
    assert_int_equal(by_perplexity.verdicts[1], IFD_ABOVE_ONE);
    assert_int_equal(by_perplexity.verdicts[6], IFD_ABOVE_ONE); /* e^800 */
    assert_int_equal(by_perplexity.verdict_counts[IFD_UNDEFINED], 4);
}

static void lengths_are_judged_before_losses(void **state)
{
    (void)state;
    const struct ifd_rules rules = {IFD_LOSS_RATIO, 100, 2};
    const uint32_t prompt[] = {5, 5, 100, 99, 98, UINT32_MAX, 1}, answer[] = {0, 1, 2, 2, 2, 2, UINT32_MAX};
    const enum ifd_verdict expected[] = {IFD_EMPTY_ANSWER, IFD_SHORT_ANSWER, IFD_LONG_PROMPT, IFD_LONG_RECORD,
                                         IFD_RANKED,       IFD_LONG_PROMPT,  IFD_LONG_RECORD};
    const double nothing[] = {NAN, NAN, NAN, NAN, 1, NAN, NAN}, ones[] = {1, 1, 1, 1, 2, 1, 1};
    const struct ifd_records records = {7, prompt, answer, nothing, ones};
    FINISHED(ifd_result) result = {0};
    assert_true(ifd_select(&records, &rules, 1, &result, NULL));
    for (size_t i = 0; i < 7; i++) {
        assert_int_equal(ifd_judge_lengths(&rules, prompt[i], answer[i]), expected[i]);
        assert_int_equal(result.verdicts[i], expected[i]);
    }
    assert_int_equal(result.kept_count, 1);
    assert_int_equal(result.order[0], 4);
}

static void a_rate_of_nothing_keeps_nothing(void **state)
{
    (void)state;
    const double conditional[] = {0.1, 0.2, 0.3}, alone[] = {1, 1, 1};
    FINISHED(ifd_result) few = select_losses(conditional, alone, 3, &ratio, 0.3);
    assert_int_equal(few.kept_count, 0); /* floor(.9); [-0:] would be all three */
    FINISHED(ifd_result) none = select_losses(conditional, alone, 3, &ratio, 0);
    assert_int_equal(none.kept_count, 0);
    FINISHED(ifd_result) empty = select_losses(conditional, alone, 0, &ratio, 1);
    assert_int_equal(empty.kept_count, 0);
}

static void the_order_is_that_of_a_plain_search(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < 40; round++) {
        double conditional[MANY], alone[MANY];
        bool is_taken[MANY] = {false};
        const struct ifd_rules *rules = round % 2 == 0 ? &ratio : &perplexities;
        for (size_t i = 0; i < MANY; i++) {
            conditional[i] = floor(unit(round, i) * 12) / 4; /* ties, zeros, and values above one */
            alone[i] = floor(unit(round, MANY + i) * 12) / 4;
        }
        FINISHED(ifd_result) result = select_losses(conditional, alone, MANY, rules, 0.25);
        size_t place = 0;
        for (; place < MANY; place++) {
            size_t best = MANY;
            double best_score = -1;
            for (size_t i = 0; i < MANY; i++) {
                double score = rules == &ratio ? conditional[i] / alone[i] : exp(conditional[i] - alone[i]);
                if (!is_taken[i] && score <= 1 && score > best_score) {
                    best = i;
                    best_score = score;
                }
            }
            if (best == MANY) {
                break;
            }
            is_taken[best] = true;
            assert_int_equal(result.order[place], best);
        }
        assert_int_equal(result.verdict_counts[IFD_RANKED], place);
        assert_int_equal(result.kept_count, place / 4);
    }
}

static int fill_tens(void **state)
{
    (void)state;
    for (size_t i = 0; i < MANY; i++) {
        tens[i] = 10;
    }
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_forms_are_the_papers),
        cmocka_unit_test(the_hardest_below_one_are_kept),
        cmocka_unit_test(a_model_that_ignores_prompts_scores_one),
        cmocka_unit_test(losses_without_a_ratio_are_dropped),
        cmocka_unit_test(lengths_are_judged_before_losses),
        cmocka_unit_test(a_rate_of_nothing_keeps_nothing),
        cmocka_unit_test(the_order_is_that_of_a_plain_search),
    };
    return cmocka_run_group_tests(tests, fill_tens, NULL);
}
