/* Golden scores: the reference's vectors, ties, leaks; and the early stop, whose certain decisions may never be wrong and whose likely ones
 * may be wrong no more often than they say. */
#include "base/rng.h"
#include "workers/select/nuggets.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static double unit(uint32_t step, uint64_t index)
{
    return rng_unit(&(struct rng){.seed = 5, .stream = 1, .step = step}, index);
}

static double score(const double *zero_shot, const double *one_shot, const bool *is_leak, size_t anchors)
{
    struct nuggets_tally tally = {0};
    assert_true(nuggets_tally(zero_shot, one_shot, is_leak, 1, anchors, &tally, NULL));
    return nuggets_score(&tally);
}

static void a_tie_is_no_win(void **state)
{
    (void)state;
    const double a[] = {-1, -2, -3, -4}, b[] = {-0.5, -2, -3.5, -3.9};
    double better[4], shifted_a[4], shifted_b[4];
    assert_true(score(a, b, NULL, 4) == 0.5);
    assert_true(score(a, a, NULL, 4) == 0);
    for (size_t j = 0; j < 4; j++) {
        better[j] = a[j] + 0.01;
        shifted_a[j] = a[j] - 64;
        shifted_b[j] = b[j] - 64;
    }
    assert_true(score(a, better, NULL, 4) == 1);
    assert_true(score(shifted_a, shifted_b, NULL, 4) == 0.5);
}

static void leaks_count_on_neither_side(void **state)
{
    (void)state;
    const double a[] = {-1, -2, -3}, b[] = {NAN, -1, -4};
    const bool leak[] = {true, false, false}, all[] = {true, true, true};
    assert_true(score(a, b, leak, 3) == 0.5);
    assert_true(isnan(score(a, b, all, 3)));
}

static void many_candidates_are_scored_like_one_each(void **state)
{
    (void)state;
    enum { CANDIDATES = 30, ANCHORS = 13 };
    double a[ANCHORS], b[CANDIDATES * ANCHORS];
    bool leak[CANDIDATES * ANCHORS];
    struct nuggets_tally tallies[CANDIDATES];
    for (size_t j = 0; j < ANCHORS; j++) {
        a[j] = -floor(unit(0, j) * 4);
    }
    for (size_t i = 0; i < (size_t)CANDIDATES * ANCHORS; i++) {
        b[i] = -floor(unit(1, i) * 4);
        leak[i] = unit(2, i) < 0.1;
    }
    assert_true(nuggets_tally(a, b, leak, CANDIDATES, ANCHORS, tallies, NULL));
    for (size_t i = 0; i < CANDIDATES; i++) {
        size_t wins = 0, asked = 0;
        for (size_t j = 0; j < ANCHORS; j++) {
            if (!leak[i * ANCHORS + j]) {
                asked++;
                wins += b[i * ANCHORS + j] - a[j] > 0.5 ? 1 : 0; /* whole numbers */
            }
        }
        assert_int_equal(tallies[i].wins, wins);
        assert_int_equal(tallies[i].anchors, asked);
    }
}

static void what_cannot_be_scored_is_named(void **state)
{
    (void)state;
    const double a[] = {-1, -2}, b[] = {-1, -2, -3, NAN}, wrong[] = {-1, NAN};
    struct nuggets_tally tallies[2];
    struct error error = {0};
    assert_false(nuggets_tally(a, b, NULL, 2, 2, tallies, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
    assert_non_null(strstr(error.message, "anchor 1 after candidate 1"));
    assert_false(nuggets_tally(wrong, b, NULL, 1, 2, tallies, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
    assert_false(nuggets_tally(a, b, NULL, 2, 0, tallies, &error));
    assert_int_equal(error.code, ERROR_INVALID_ARGUMENT);
}

static enum nuggets_decision decide(size_t wins, size_t asked, size_t left, double threshold, double delta)
{
    return nuggets_decide(&(struct nuggets_tally){wins, asked}, left, threshold, delta);
}

static void hoeffding_asks_for_its_gap(void **state)
{
    (void)state;
    /* delta .05, 20 of 1000 asked: sqrt(ln 40 / 40) = 0.30368. */
    assert_int_equal(decide(17, 20, 980, 0.5, 0.05), NUGGETS_ABOVE); /* gap .35 */
    assert_int_equal(decide(16, 20, 980, 0.5, 0.05), NUGGETS_UNDECIDED);
    assert_int_equal(decide(3, 20, 980, 0.5, 0.05), NUGGETS_NOT_ABOVE);
    assert_int_equal(decide(4, 20, 980, 0.5, 0.05), NUGGETS_UNDECIDED);
    assert_int_equal(decide(0, 0, 100, 0.5, 0.05), NUGGETS_UNDECIDED);
    assert_int_equal(decide(0, 0, 0, 0.5, 0.05), NUGGETS_UNDECIDED);
}

static void what_is_left_may_not_matter(void **state)
{
    (void)state;
    assert_int_equal(decide(6, 6, 4, 0.5, 1e-9), NUGGETS_ABOVE); /* 6 of 10 at least */
    assert_int_equal(decide(5, 6, 4, 0.5, 1e-9), NUGGETS_UNDECIDED);
    assert_int_equal(decide(1, 6, 4, 0.5, 1e-9), NUGGETS_NOT_ABOVE);    /* .5 at most, which is not above */
    assert_int_equal(decide(17, 20, 0, 0.85, 0.05), NUGGETS_NOT_ABOVE); /* .85 is not above .85 */
    assert_int_equal(decide(18, 20, 0, 0.85, 0.05), NUGGETS_ABOVE);
}

static void an_early_decision_is_rarely_wrong(void **state)
{
    (void)state;
    enum { ROUNDS = 4000, ANCHORS = 200, LOOK = 40 };
    const double threshold = 0.6, delta = 0.1;
    size_t decided = 0, wrong = 0;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        double rate = unit(round, 1000);
        struct nuggets_tally tally = {0}, early = {0};
        for (size_t j = 0; j < ANCHORS; j++) {
            tally.wins += unit(round, j) < rate ? 1 : 0;
            tally.anchors++;
            early = j + 1 == LOOK ? tally : early;
        }
        enum nuggets_decision said = nuggets_decide(&early, ANCHORS - LOOK, threshold, delta);
        enum nuggets_decision is = nuggets_decide(&tally, 0, threshold, delta);
        assert_int_equal(is, nuggets_score(&tally) > threshold ? NUGGETS_ABOVE : NUGGETS_NOT_ABOVE);
        decided += said != NUGGETS_UNDECIDED ? 1 : 0;
        wrong += said != NUGGETS_UNDECIDED && said != is ? 1 : 0;
    }
    assert_true(decided > ROUNDS / 3);
    assert_true((double)wrong <= delta * ROUNDS);
}

/* Points around far corners, some of them more than once: one anchor a corner, the one nearest to its middle. */
static void anchors_stand_for_parts_of_the_records(void **state)
{
    (void)state;
    enum { CORNERS = 4, EACH = 9, COUNT = CORNERS * EACH };
    static const float corners[CORNERS][2] = {{10, 0}, {0, 10}, {-10, 0}, {0, -10}};
    float rows[COUNT * 2];
    uint32_t anchors[COUNT];
    size_t found = 0;
    struct error error = {0};
    struct pool *pool = pool_create(2, NULL);
    const struct dense_threads threads = {pool, NULL};
    for (size_t i = 0; i < COUNT; i++) { /* steps -4 .. 4 along x: the fifth is in the middle */
        rows[2 * i] = corners[i % CORNERS][0] + 0.1F * ((float)(i / CORNERS) - 4);
        rows[2 * i + 1] = corners[i % CORNERS][1];
    }
    for (uint64_t seed = 0; seed < 5; seed++) {
        assert_true(nuggets_choose_anchors(&threads, rows, COUNT, 2, CORNERS, seed, anchors, &found, &error));
        assert_int_equal(found, CORNERS);
        for (size_t j = 0; j < CORNERS; j++) {
            assert_int_equal(anchors[j], 4 * CORNERS + j);
        }
    }
    assert_true(nuggets_choose_anchors(&threads, rows, 5, 2, 5, 1, anchors, &found, &error));
    assert_int_equal(found, 5);
    for (size_t j = 0; j < 5; j++) {
        assert_int_equal(anchors[j], j);
    }
    /* Where all are alike all centres have the same nearest record. */
    for (size_t i = 0; i < COUNT * 2; i++) {
        rows[i] = 1;
    }
    assert_true(nuggets_choose_anchors(&threads, rows, COUNT, 2, 7, 1, anchors, &found, &error));
    assert_int_equal(found, 1);
    assert_int_equal(anchors[0], 0);
    pool_destroy(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_tie_is_no_win),
        cmocka_unit_test(leaks_count_on_neither_side),
        cmocka_unit_test(many_candidates_are_scored_like_one_each),
        cmocka_unit_test(what_cannot_be_scored_is_named),
        cmocka_unit_test(hoeffding_asks_for_its_gap),
        cmocka_unit_test(what_is_left_may_not_matter),
        cmocka_unit_test(an_early_decision_is_rarely_wrong),
        cmocka_unit_test(anchors_stand_for_parts_of_the_records),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
