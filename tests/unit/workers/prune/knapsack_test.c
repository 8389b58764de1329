/*
 * The knapsack against all choices of small cases (exact with whole costs), with costs that are rounded to quanta, and as an allocation:
 * the least damage among the counts at the target.
 */
#include "base/memory.h"
#include "base/rng.h"
#include "workers/prune/knapsack.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { GROUPS = 5, ALTERNATIVES = 4 };
struct world {
    struct knapsack_alternative alternatives[GROUPS][ALTERNATIVES];
    struct knapsack_group groups[GROUPS];
};

static void world_start(struct world *world, uint64_t seed, double unit)
{
    struct rng rng = {.seed = seed, .stream = 3};
    uint64_t draw = 0;
    for (size_t g = 0; g < GROUPS; g++) {
        world->groups[g] = (struct knapsack_group){world->alternatives[g],
                                                   1 + (size_t)rng_below(&rng, draw++, ALTERNATIVES)};
        for (size_t i = 0; i < ALTERNATIVES; i++) {
            world->alternatives[g][i].cost = unit * (double)rng_below(&rng, draw++, 40);
            world->alternatives[g][i].damage = floor(rng_unit(&rng, draw++) * 20); /* with ties */
        }
    }
}

static void total_of(const struct world *world, const size_t *choice, double *ret_cost, double *ret_damage)
{
    *ret_cost = *ret_damage = 0;
    for (size_t g = 0; g < GROUPS; g++) {
        assert_true(choice[g] < world->groups[g].count);
        *ret_cost += world->alternatives[g][choice[g]].cost;
        *ret_damage += world->alternatives[g][choice[g]].damage;
    }
}

/* INFINITY: nothing is that cheap. */
static double brute_force(const struct world *world, double budget)
{
    double best = INFINITY;
    for (size_t code = 0; code < 1024; code++) {
        size_t choice[GROUPS];
        bool is_choice = true;
        for (size_t g = 0, rest = code; g < GROUPS; g++, rest /= ALTERNATIVES) {
            choice[g] = rest % ALTERNATIVES;
            is_choice = is_choice && choice[g] < world->groups[g].count;
        }
        if (is_choice) {
            double cost = 0, damage = 0;
            total_of(world, choice, &cost, &damage);
            best = cost <= budget && damage < best ? damage : best;
        }
    }
    return best;
}

static void whole_costs_give_the_best_of_all_choices(void **state)
{
    (void)state;
    static const double units[] = {1, 4096, 3};
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct world world;
        world_start(&world, seed, units[seed % 3]);
        OWNED(knapsack) knapsack = knapsack_create(world.groups, GROUPS, 8192, NULL);
        size_t last = knapsack_budget_last(knapsack);
        assert_true(last <= 40 * GROUPS);
        double before = INFINITY;
        for (size_t budget = 0; budget <= last; budget++) {
            size_t choice[GROUPS];
            double cost = 0, damage = 0, limit = knapsack_budget_cost(knapsack, budget);
            double best = knapsack_choose(knapsack, budget, choice);
            total_of(&world, choice, &cost, &damage);
            assert_true(cost <= limit && damage == best && best <= before);
            assert_true(best == brute_force(&world, limit));
            before = best;
        }
    }
}

static void rounded_costs_come_close(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct world world;
        world_start(&world, seed, 0.7317);
        OWNED(knapsack) knapsack = knapsack_create(world.groups, GROUPS, 1000, NULL);
        double quantum = knapsack_budget_cost(knapsack, 1) - knapsack_budget_cost(knapsack, 0);
        for (size_t budget = 0; budget <= knapsack_budget_last(knapsack); budget += 50) {
            size_t choice[GROUPS];
            double cost = 0, damage = 0, limit = knapsack_budget_cost(knapsack, budget);
            double best = knapsack_choose(knapsack, budget, choice);
            total_of(&world, choice, &cost, &damage);
            double slack = quantum * GROUPS; /* half a quantum for each group, both ways */
            assert_true(cost <= limit + slack && fabs(damage - best) < 1e-9);
            assert_true(best <= brute_force(&world, limit - slack));
        }
    }
}

static void no_number_is_no_damage(void **state)
{
    (void)state;
    struct world world;
    world_start(&world, 1, 1);
    world.alternatives[2][0].damage = NAN;
    struct error error = {0};
    assert_null(knapsack_create(world.groups, GROUPS, 100, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
}

/* ---- as an allocation ------------------------------------------------------------------------------------ */

struct places {
    struct allocation_group groups[3];
    double scores[3][6];
    double target; /* cost to remove */
    size_t asked;
    struct allocation_problem problem;
};

static double removed_of(const struct places *places, const size_t *kept)
{
    double removed = 0;
    for (size_t g = 0; g < 3; g++) {
        removed += (double)(places->groups[g].unit_count - kept[g]) * places->groups[g].unit_cost;
    }
    return removed;
}

static bool reach(void *context, const size_t *kept, bool *ret_is_reached, struct error *error)
{
    (void)error;
    const struct places *places = context;
    *ret_is_reached = removed_of(places, kept) >= places->target;
    return true;
}

static void places_start(struct places *places, uint64_t seed)
{
    struct rng rng = {.seed = seed, .stream = 4};
    memset(places, 0, sizeof *places);
    for (size_t g = 0; g < 3; g++) {
        for (size_t i = 0; i < 6; i++) {
            places->scores[g][i] = rng_unit(&rng, g * 6 + i);
        }
        places->groups[g] = (struct allocation_group){.kind = ALLOCATION_CHANNELS,
                                                      .unit_count = 6,
                                                      .unit_cost = g == 1 ? 5 : 2,
                                                      .scores = places->scores[g],
                                                      .floor = g == 2 ? 3 : 0};
    }
    places->problem = (struct allocation_problem){places->groups, 3, places, reach, NULL};
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double damage_of(const struct places *places, size_t group, size_t kept)
{
    double sorted[6], damage = 0;
    memcpy(sorted, places->scores[group], sizeof sorted);
    qsort(sorted, 6, sizeof *sorted, compare_doubles);
    for (size_t i = 0; i < 6 - kept; i++) {
        damage += sorted[i];
    }
    return damage;
}

static bool squared_damage(void *context, size_t group, size_t kept, double *ret_damage, struct error *error)
{
    (void)error;
    struct places *places = context;
    assert_true(kept < 6); /* nothing gone is not asked about */
    places->asked++;
    double damage = damage_of(places, group, kept);
    *ret_damage = damage * damage;
    return true;
}

static void an_allocation_does_the_least_damage_at_the_target(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 30; seed++) {
        struct places places;
        places_start(&places, seed);
        places.groups[0].is_fixed = seed % 5 == 0;
        bool is_squared = seed % 2 == 0;
        for (places.target = 1; places.target <= 30; places.target += 4) {
            struct knapsack_options options = {.context = &places,
                                               .damage = is_squared ? squared_damage : NULL};
            size_t kept[3];
            assert_true(allocation_solve_knapsack(&places.problem, &options, kept, NULL));
            double removed = removed_of(&places, kept), damage = 0, best = INFINITY;
            assert_true(removed >= places.target && kept[2] >= 3 && kept[0] >= 1 && kept[1] >= 1);
            for (size_t code = 0; code < 216; code++) {
                size_t other[3] = {code % 6 + 1, code / 6 % 6 + 1, code / 36 + 1};
                if (removed_of(&places, other) >= places.target && other[2] >= 3 &&
                    (!places.groups[0].is_fixed || other[0] == 6)) {
                    double sum = 0;
                    for (size_t g = 0; g < 3; g++) {
                        double one = damage_of(&places, g, other[g]);
                        sum += is_squared ? one * one : one;
                    }
                    best = sum < best ? sum : best;
                }
            }
            for (size_t g = 0; g < 3; g++) {
                double one = damage_of(&places, g, kept[g]);
                damage += is_squared ? one * one : one;
            }
            assert_true(fabs(damage - best) < 1e-12);
        }
        assert_true(!is_squared || places.asked > 0);
    }
}

static void beyond_the_floors_is_unreachable(void **state)
{
    (void)state;
    struct places places;
    places_start(&places, 1);
    struct knapsack_options options = {0};
    size_t kept[3];
    struct error error = {0};
    places.target = 41; /* 5 of 2, 5 of 5, 3 of 2 */
    assert_true(allocation_solve_knapsack(&places.problem, &options, kept, &error));
    assert_true(kept[0] == 1 && kept[1] == 1 && kept[2] == 3);
    places.target = 42;
    assert_false(allocation_solve_knapsack(&places.problem, &options, kept, &error));
    assert_int_equal(error.code, ERROR_UNREACHABLE);
}

static void a_limit_leaves_levels_from_all_to_least(void **state)
{
    (void)state;
    struct allocation_group group = {.kind = ALLOCATION_CHANNELS, .unit_count = 1536};
    size_t levels[24];
    assert_int_equal(knapsack_pick_levels(&group, 24, levels), 24);
    assert_int_equal(knapsack_pick_levels(&group, 5, levels), 5);
    assert_int_equal(levels[0], 0);
    assert_int_equal(levels[4], 23);
    for (size_t i = 1; i < 5; i++) {
        assert_true(levels[i] > levels[i - 1]);
    }
    group.unit_count = 1;
    assert_int_equal(knapsack_pick_levels(&group, 5, levels), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_costs_give_the_best_of_all_choices),
        cmocka_unit_test(rounded_costs_come_close),
        cmocka_unit_test(no_number_is_no_damage),
        cmocka_unit_test(an_allocation_does_the_least_damage_at_the_target),
        cmocka_unit_test(beyond_the_floors_is_unreachable),
        cmocka_unit_test(a_limit_leaves_levels_from_all_to_least),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
