/*
 * Who gives how much: levels and alignment, the allocation vectors of structured_pruning sections 2, 3 and 6, and what must hold of every
 * rule on random problems: counts are levels within bounds, monotone in the target, the first point past it, and the same whatever the
 * order of equal scores.
 */
#include "base/memory.h"
#include "base/rng.h"
#include "workers/prune/allocation.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void assert_close(double value, double expected, double tolerance)
{
    if (!(fabs(value - expected) <= tolerance)) {
        print_error("%.17g is not %.17g\n", value, expected);
        fail();
    }
}

/* ---- levels ---------------------------------------------------------------------------------------------- */

static void alignment_is_at_most_a_sixteenth_of_the_width(void **state)
{
    (void)state;
    static const size_t widths[][2] = {{14336, 256}, {4096, 256}, {4095, 128}, {1536, 64}, {768, 32},
                                       {172, 8},     {128, 8},    {127, 1},    {1, 1}};
    for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++) {
        assert_int_equal(allocation_default_alignment(ALLOCATION_CHANNELS, widths[i][0]), widths[i][1]);
        assert_int_equal(allocation_default_alignment(ALLOCATION_HEADS, widths[i][0]), 1);
        assert_int_equal(allocation_default_alignment(ALLOCATION_EXPERTS, widths[i][0]), 1);
    }
}

static void levels_are_all_multiples_down_to_the_floor(void **state)
{
    (void)state;
    struct allocation_group group = {.kind = ALLOCATION_CHANNELS, .unit_count = 172, .floor = 141};
    static const size_t levels[] = {172, 168, 160, 152, 144};
    assert_int_equal(allocation_level_count(&group), 5);
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(allocation_level(&group, i), levels[i]);
        assert_int_equal(allocation_round(&group, (double)levels[i]), levels[i]);
    }
    assert_int_equal(allocation_round(&group, 0), 144);
    assert_int_equal(allocation_round(&group, 170), 172); /* half: up */
    assert_int_equal(allocation_round(&group, 169.9), 168);
    assert_int_equal(allocation_round(&group, 155.9), 152);
    assert_int_equal(allocation_round(&group, 1e9), 172);

    group.may_be_empty = true;
    assert_int_equal(allocation_level_count(&group), 6);
    assert_int_equal(allocation_level(&group, 5), 0);
    assert_int_equal(allocation_round(&group, 71), 0);
    assert_int_equal(allocation_round(&group, 72), 144);

    group = (struct allocation_group){.kind = ALLOCATION_HEADS, .unit_count = 3};
    assert_int_equal(allocation_level_count(&group), 3);
    assert_int_equal(allocation_level(&group, 2), 1); /* never none without leave */
    group.floor = 7;
    assert_int_equal(allocation_level_count(&group), 1);
    assert_int_equal(allocation_round(&group, 0), 3);
    group = (struct allocation_group){.kind = ALLOCATION_CHANNELS, .unit_count = 64, .alignment = 48};
    assert_int_equal(allocation_level_count(&group), 2);
    assert_int_equal(allocation_level(&group, 1), 48);
}

/* ---- published shares ------------------------------------------------------------------------------------ */

static void cfsp_shares_are_the_references(void **state)
{
    (void)state;
    /* Sums over 131072 tokens, as means. */
    const double importance[] = {20000 / 131072.0, 10000 / 131072.0, 0};
    double keep[3];
    allocation_cfsp_shares(importance, 3, 1, 0.5, keep);
    assert_close(keep[0], 0.731059, 1e-6);
    assert_close(keep[1], 0.5, 1e-12);
    assert_close(keep[2], 0.268941, 1e-6);
    allocation_cfsp_shares(importance, 3, 1, 0.2, keep);
    assert_close(keep[0], 0.990476, 1e-6);
    assert_close(keep[1], 0.8, 1e-12);
    assert_close(keep[2], 0.609524, 1e-6);
    allocation_cfsp_shares(importance, 3, 1, 0, keep);
    assert_true(keep[0] == 1 && keep[1] == 1 && keep[2] == 1);
    const double flat[] = {0.1, 0.1, 0.1};
    allocation_cfsp_shares(flat, 3, 1, 0.25, keep);
    assert_close(keep[0], 0.75, 1e-12);
    assert_close(keep[2], 0.75, 1e-12);
}

static void adapt_shares_are_the_references(void **state)
{
    (void)state;
    const double importance[] = {-0.95, -0.90, -0.70}, previous[] = {0.1, 0.1, 0.1};
    double removed[3];
    allocation_adapt_shares(importance, 3, previous, 0.02, 0.02, removed);
    assert_close(removed[0], 0.133333, 1e-6);
    assert_close(removed[1], 0.126667, 1e-6);
    assert_close(removed[2], 0.1, 1e-12);
    allocation_adapt_shares(importance, 3, NULL, 0, 2, removed);
    assert_close(removed[0], 0.99, 0);
    assert_close(removed[2], 0, 0);
    /* Many steps are the same line as long as no layer has given all; then the others are compared among themselves. */
    allocation_adapt_path(importance, 3, 2.5, 0.02, 0.02, removed);
    assert_close(removed[0], 2.5 * 0.033333333, 1e-8);
    assert_close(removed[1], 2.5 * 0.026666667, 1e-8);
    assert_close(removed[2], 0, 1e-15);
    allocation_adapt_path(importance, 3, 0.99 / 0.0333333333333333 + 3, 0.02, 0.02, removed);
    assert_close(removed[0], 0.99, 1e-12);
    assert_close(removed[1], 0.99 * 0.8 + 3 * 0.04, 1e-9); /* -1 and 1 now */
    assert_close(removed[2], 0, 1e-12);
    allocation_adapt_path(importance, 3, 1e9, 0.02, 0.02, removed);
    assert_close(removed[2], 0.99, 1e-12);
    const double flat[] = {3, 3};
    allocation_adapt_shares(flat, 2, NULL, 0.3, 9, removed);
    assert_close(removed[1], 0.3, 0);
}

/* ---- rules on problems ------------------------------------------------------------------------------------ */

enum { GROUPS = 9, UNITS_MOST = 700, SETS_MOST = 4 };
struct world {
    struct allocation_group groups[GROUPS];
    double scores[GROUPS][SETS_MOST * UNITS_MOST];
    double total, target; /* cost; share of it that has to go */
    bool may_repeat;
    size_t asked;
    size_t kept[64][GROUPS]; /* what was asked about */
    struct allocation_problem problem;
};

static double removed_of(const struct world *world, const size_t *kept)
{
    double removed = 0;
    for (size_t g = 0; g < GROUPS; g++) {
        removed += (double)(world->groups[g].unit_count - kept[g]) * world->groups[g].unit_cost;
    }
    return removed / world->total;
}

static bool reach(void *context, const size_t *kept, bool *ret_is_reached, struct error *error)
{
    (void)error;
    struct world *world = context;
    assert_true(world->asked < 64); /* bisection asks about distinct counts only */
    for (size_t i = 0; !world->may_repeat && i < world->asked; i++) {
        assert_memory_not_equal(world->kept[i], kept, sizeof world->kept[i]);
    }
    memcpy(world->kept[world->asked++], kept, sizeof world->kept[0]);
    *ret_is_reached = removed_of(world, kept) >= world->target;
    return true;
}

/* Every kind of constraint in turn, other widths and scores for every seed. */
static void world_start(struct world *world, uint64_t seed)
{
    static const size_t widths[] = {172, 512, 8, 700, 64, 3, 300, 16, 1};
    struct rng rng = {.seed = seed, .stream = 77};
    uint64_t draw = 0;
    memset(world, 0, sizeof *world);
    for (size_t g = 0; g < GROUPS; g++) {
        struct allocation_group *group = &world->groups[g];
        *group = (struct allocation_group){
            .sublayer = g, .layer = g / 2, .unit_count = widths[(g + seed) % GROUPS]};
        group->kind = group->unit_count <= 16 ? ALLOCATION_HEADS : ALLOCATION_CHANNELS;
        group->set_count = g % 4 == 1 ? SETS_MOST : 0;
        group->unit_cost = g % 3 == 0 ? 128 : 3;
        group->importance = rng_unit(&rng, draw++);
        group->floor = g % 4 == 2 ? group->unit_count / 3 : 0;
        group->alignment = g == 3 ? 1 : 0;
        group->scores = world->scores[g];
        for (size_t i = 0; i < (size_t)SETS_MOST * UNITS_MOST; i++) {
            world->scores[g][i] = floor(rng_unit(&rng, draw++) * 50) / 10; /* with ties */
        }
        world->total += (double)group->unit_count * group->unit_cost;
    }
    world->problem = (struct allocation_problem){world->groups, GROUPS, world, reach, NULL};
}

static const struct allocation_rule rules[] = {
    {.kind = ALLOCATION_UNIFORM},
    {.kind = ALLOCATION_GLOBAL},
    {.kind = ALLOCATION_GLOBAL, .cost_power = 1},
    {.kind = ALLOCATION_GLOBAL, .is_standardised = true},
    {.kind = ALLOCATION_GLOBAL, .is_standardised = true, .cost_power = 0.5},
    {.kind = ALLOCATION_CFSP, .sharpness = 1},
    {.kind = ALLOCATION_ADAPT, .amplitude = 0.01, .increment = 0.02},
    {.kind = ALLOCATION_ADAPT, .amplitude = 0.02, .increment = 0.02},
};
enum { RULES = sizeof rules / sizeof rules[0] };

static bool is_level(const struct allocation_group *group, size_t kept)
{
    for (size_t i = 0; i < allocation_level_count(group); i++) {
        if (allocation_level(group, i) == kept) {
            return true;
        }
    }
    return false;
}

static void every_rule_keeps_levels_and_goes_down_with_the_target(void **state)
{
    (void)state;
    static const double targets[] = {0, 0.001, 0.03, 0.1, 0.2, 0.35, 0.5};
    static struct world world;
    for (uint64_t seed = 0; seed < 12; seed++) {
        world_start(&world, seed);
        for (size_t r = 0; r < RULES; r++) {
            size_t before[GROUPS];
            double removed_before = 0;
            for (size_t t = 0; t < sizeof targets / sizeof targets[0]; t++) {
                size_t kept[GROUPS];
                struct error error = {0};
                world.target = targets[t];
                world.asked = 0;
                world.may_repeat = rules[r].kind == ALLOCATION_CFSP; /* not monotone, see below */
                assert_true(allocation_solve(&world.problem, &rules[r], kept, &error));
                double removed = removed_of(&world, kept);
                assert_true(removed >= targets[t] && removed >= removed_before);
                for (size_t g = 0; g < GROUPS; g++) {
                    assert_true(is_level(&world.groups[g], kept[g]));
                    assert_true(kept[g] >= 1 && kept[g] >= world.groups[g].floor &&
                                kept[g] <= world.groups[g].unit_count);
                    assert_true(targets[t] > 0 || kept[g] == world.groups[g].unit_count);
                    /* CFSP's published rescaling jumps where it begins: only the sum is monotone. */
                    assert_true(t == 0 || rules[r].kind == ALLOCATION_CFSP || kept[g] <= before[g]);
                }
                memcpy(before, kept, sizeof before);
                removed_before = removed;
            }
        }
    }
}

/* The curve point before the result misses the target: lowering the target to just below what was reached at any earlier point gives an
 * earlier point, and asking for exactly what was reached gives the same. */
static void every_rule_stops_at_the_first_point_past_the_target(void **state)
{
    (void)state;
    static struct world world;
    for (uint64_t seed = 0; seed < 1; seed++) {
        world_start(&world, seed);
        for (size_t r = 0; r < RULES; r++) {
            if (rules[r].kind == ALLOCATION_CFSP) {
                continue; /* its curve is walked below, in order of its own knob */
            }
            size_t kept[GROUPS], again[GROUPS];
            size_t points = 0;
            for (world.target = 1e-9; points < 5000; points++) {
                world.asked = 0;
                struct error error = {0};
                if (!allocation_solve(&world.problem, &rules[r], kept, &error)) {
                    assert_int_equal(error.code, ERROR_UNREACHABLE);
                    break;
                }
                double reached = removed_of(&world, kept);
                double asked = world.target;
                const double same[] = {reached, asked + (reached - asked) / 2}; /* both lead to this point */
                for (size_t i = 0; i < 2 && points % 8 == 0; i++) {
                    world.target = same[i];
                    world.asked = 0;
                    assert_true(allocation_solve(&world.problem, &rules[r], again, NULL));
                    assert_memory_equal(kept, again, sizeof kept);
                }
                world.target = reached * (1 + 1e-12) + 1e-12; /* the next point */
            }
            assert_true(points > 10);
            size_t least[GROUPS];
            allocation_least(&world.problem, least);
            if (rules[r].kind == ALLOCATION_UNIFORM || rules[r].kind == ALLOCATION_GLOBAL) {
                assert_memory_equal(kept, least, sizeof least); /* the curve ends where all floors are */
            }
        }
    }
}

static void cfsp_reaches_what_it_would_miss_with_a_smaller_ratio(void **state)
{
    (void)state;
    static struct world world;
    world_start(&world, 3);
    for (size_t g = 0; g < GROUPS; g++) { /* as published: one width, so that shares are exact */
        world.groups[g] = (struct allocation_group){
            .kind = ALLOCATION_CHANNELS, .unit_count = 600, .alignment = 1, .unit_cost = 1};
        world.groups[g].importance = 0.1 + 0.02 * (double)g;
    }
    world.total = 600.0 * GROUPS;
    size_t kept[GROUPS], before[GROUPS];
    double keep[GROUPS], importance[GROUPS];
    for (size_t g = 0; g < GROUPS; g++) {
        importance[g] = world.groups[g].importance;
    }
    for (world.target = 0.05; world.target < 0.9; world.target += 0.05) {
        world.asked = 0;
        assert_true(allocation_solve(&world.problem, &rules[5], kept, NULL));
        assert_close(removed_of(&world, kept), world.target, 1.5e-3);
        allocation_cfsp_shares(importance, GROUPS, 1, world.target, keep);
        for (size_t g = 0; g < GROUPS; g++) {
            assert_true(fabs((double)kept[g] - 600 * keep[g]) <= 2); /* the published share at that ratio */
            before[g] = kept[g];
        }
        assert_true(before[0] < before[GROUPS - 1]); /* more turning, more kept */
    }
}

static void equal_scores_in_another_order_give_the_same_counts(void **state)
{
    (void)state;
    static struct world world, shuffled;
    world_start(&world, 5);
    world_start(&shuffled, 5);
    for (size_t g = 0; g < GROUPS; g++) {
        size_t count = shuffled.groups[g].unit_count;
        size_t *order = memory_create(count, sizeof *order);
        struct rng rng = {.seed = 9, .step = (uint32_t)g};
        rng_permutation(&rng, count, order);
        for (size_t s = 0; s < SETS_MOST; s++) {
            for (size_t i = 0; i < count; i++) {
                shuffled.scores[g][s * count + i] = world.scores[g][s * count + order[i]];
            }
        }
        free(order);
    }
    for (size_t r = 0; r < RULES; r++) {
        size_t kept[GROUPS], other[GROUPS];
        world.target = shuffled.target = 0.3;
        world.asked = shuffled.asked = 0;
        assert_true(allocation_solve(&world.problem, &rules[r], kept, NULL));
        assert_true(allocation_solve(&shuffled.problem, &rules[r], other, NULL));
        assert_memory_equal(kept, other, sizeof kept);
    }
}

static void fixed_and_given_groups_keep_theirs(void **state)
{
    (void)state;
    static struct world world;
    world_start(&world, 0); /* widths 172, 512, 8, 700, ... */
    world.groups[0].is_fixed = true;
    world.groups[0].scores = NULL;
    world.groups[0].importance = NAN; /* not asked of it */
    world.groups[1].is_given = true;
    world.groups[1].given_ratio = 0.5;
    world.groups[1].scores = NULL;
    for (size_t r = 0; r < RULES; r++) {
        size_t kept[GROUPS];
        world.target = 0.3;
        world.asked = 0;
        assert_true(allocation_solve(&world.problem, &rules[r], kept, NULL));
        assert_int_equal(kept[0], 172);
        assert_int_equal(kept[1], 256);
        assert_true(removed_of(&world, kept) >= 0.3);
    }
    for (size_t g = 0; g < GROUPS; g++) {
        world.groups[g].is_fixed = true;
    }
    size_t kept[GROUPS] = {7};
    struct error error = {0};
    world.asked = 0;
    assert_false(allocation_solve(&world.problem, &rules[0], kept, &error));
    assert_int_equal(error.code, ERROR_UNREACHABLE);
    assert_int_equal(kept[0], 7); /* outputs stay untouched */
}

/* FLAP: two layers' heads and channels in one ranking, a head as dear as many channels: what goes is the lowest z-scores until the cost is
 * reached, whatever kind they are. */
static void a_global_ranking_takes_the_lowest_scores_of_any_kind(void **state)
{
    (void)state;
    static struct world world;
    world_start(&world, 0);
    const double heads[] = {0.9, 0.1, 0.8, 0.7}, channels[] = {0.2, 0.95, 0.05, 0.3, 0.6, 0.5};
    world.groups[0] = (struct allocation_group){
        .kind = ALLOCATION_HEADS, .unit_count = 4, .unit_cost = 10, .scores = heads};
    world.groups[1] = (struct allocation_group){
        .kind = ALLOCATION_CHANNELS, .unit_count = 6, .unit_cost = 1, .scores = channels};
    for (size_t g = 2; g < GROUPS; g++) {
        world.groups[g].is_fixed = true;
    }
    world.total = 46; /* of the two */
    static const struct {
        double removed, cost_power;
        size_t heads, channels;
    } cases[] = {{1, 0, 4, 5},
                 {2, 0, 3, 5},
                 {11, 0, 3, 5},
                 {12, 0, 3, 4},
                 {13, 0, 3, 3},
                 {16, 0, 2, 1},
                 /* per cost, heads go first: .01, .07, .08 */
                 {1, 1, 3, 6},
                 {11, 1, 3, 5},
                 {12, 1, 2, 5},
                 {22, 1, 1, 5}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct allocation_rule rule = {.kind = ALLOCATION_GLOBAL, .cost_power = cases[i].cost_power};
        size_t kept[GROUPS];
        world.target = cases[i].removed / 46;
        world.asked = 0;
        assert_true(allocation_solve(&world.problem, &rule, kept, NULL));
        assert_int_equal(kept[0], cases[i].heads);
        assert_int_equal(kept[1], cases[i].channels);
    }
}

static void ranking_no_number_is_an_error(void **state)
{
    (void)state;
    static struct world world;
    world_start(&world, 1);
    world.target = 0.1;
    world.scores[4][0] = NAN;
    world.groups[6].importance = INFINITY;
    struct error error = {0};
    size_t kept[GROUPS];
    assert_false(allocation_solve(&world.problem, &rules[1], kept, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
    assert_non_null(strstr(error.message, "sublayer 4"));
    assert_false(allocation_solve(&world.problem, &rules[5], kept, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
    assert_non_null(strstr(error.message, "layer 3"));
}

/* ---- what stays ------------------------------------------------------------------------------------------ */

static void the_highest_stay_and_ties_go_to_the_lower_index(void **state)
{
    (void)state;
    const double scores[] = {1, 3, 2, 3, -1, 2, 2};
    uint32_t kept[7];
    allocation_pick(scores, 7, 4, kept);
    const uint32_t expected[] = {1, 2, 3, 5};
    assert_memory_equal(kept, expected, sizeof expected);
    allocation_pick(scores, 7, 7, kept);
    for (uint32_t i = 0; i < 7; i++) {
        assert_int_equal(kept[i], i);
    }
    allocation_pick(scores, 7, 0, kept);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(alignment_is_at_most_a_sixteenth_of_the_width),
        cmocka_unit_test(levels_are_all_multiples_down_to_the_floor),
        cmocka_unit_test(cfsp_shares_are_the_references),
        cmocka_unit_test(adapt_shares_are_the_references),
        cmocka_unit_test(every_rule_keeps_levels_and_goes_down_with_the_target),
        cmocka_unit_test(every_rule_stops_at_the_first_point_past_the_target),
        cmocka_unit_test(cfsp_reaches_what_it_would_miss_with_a_smaller_ratio),
        cmocka_unit_test(equal_scores_in_another_order_give_the_same_counts),
        cmocka_unit_test(fixed_and_given_groups_keep_theirs),
        cmocka_unit_test(a_global_ranking_takes_the_lowest_scores_of_any_kind),
        cmocka_unit_test(ranking_no_number_is_an_error),
        cmocka_unit_test(the_highest_stay_and_ties_go_to_the_lower_index),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
