/*
 * The evolutionary search on a fitness whose best allocation is known: every candidate is at the target, the fitness never rises, the
 * optimum is found from a poor start, and a search resumed after any generation ends where the whole one does.
 */
#include "workers/prune/evolution.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

enum { GROUPS = 8, UNITS = 12, GENERATIONS = 40 };
struct world {
    struct allocation_group groups[GROUPS];
    double target; /* cost to remove */
    size_t judged, breaks_at, stage_judged[EVOLUTION_STAGES_MAX];
    size_t generation;
    size_t parents[GENERATIONS + 1][GROUPS];
    double fitness[GENERATIONS + 1];
    struct allocation_problem problem;
    struct evolution_options options;
};

static bool reach(void *context, const size_t *kept, bool *ret_is_reached, struct error *error)
{
    (void)error;
    const struct world *world = context;
    double removed = 0;
    for (size_t g = 0; g < GROUPS; g++) {
        removed += (double)(world->groups[g].unit_count - kept[g]) * world->groups[g].unit_cost;
    }
    *ret_is_reached = removed >= world->target;
    return true;
}

/* Group g suffers by (g + 1) times the square of what it lost; the best gives early groups most of the loss. */
static double fitness_of(const size_t *kept)
{
    double fitness = 0;
    for (size_t g = 0; g < GROUPS; g++) {
        double lost = (double)(UNITS - kept[g]);
        fitness += (double)((g + 1) * (g + 1)) * lost * lost;
    }
    return fitness;
}

static bool fitness(void *context, const size_t *kept, size_t stage, double *ret_fitness, struct error *error)
{
    struct world *world = context;
    bool is_reached = false;
    assert_true(reach(world, kept, &is_reached, error) && is_reached);
    for (size_t g = 0; g < GROUPS; g++) {
        assert_true(kept[g] >= 1 && kept[g] <= UNITS);
        assert_true(!world->groups[g].is_fixed || kept[g] == UNITS);
    }
    world->judged++;
    world->stage_judged[stage]++;
    *ret_fitness = fitness_of(kept) + (stage + 1 < world->options.stage_count ? (double)(kept[3] % 2) : 0);
    if (world->judged == world->breaks_at) {
        *ret_fitness = NAN;
    }
    return true;
}

static bool save(void *context, size_t generation, const size_t *parent, double value, struct error *error)
{
    (void)error;
    struct world *world = context;
    world->generation = generation;
    memcpy(world->parents[generation], parent, sizeof world->parents[generation]);
    world->fitness[generation] = value;
    return true;
}

static void world_start(struct world *world)
{
    memset(world, 0, sizeof *world);
    for (size_t g = 0; g < GROUPS; g++) {
        world->groups[g] = (struct allocation_group){
            .layer = g, .kind = ALLOCATION_HEADS, .unit_count = UNITS, .unit_cost = 1};
    }
    world->target = 32; /* uniform: 4 of each */
    world->problem = (struct allocation_problem){world->groups, GROUPS, world, reach, NULL};
    world->options = (struct evolution_options){.seed = 11,
                                                .generations = GENERATIONS,
                                                .offspring = 12,
                                                .context = world,
                                                .fitness = fitness,
                                                .save = save};
}

/* Greedy by marginal loss is exact for convex losses of equal cost. */
static double best_fitness(void)
{
    size_t kept[GROUPS];
    for (size_t g = 0; g < GROUPS; g++) {
        kept[g] = UNITS;
    }
    for (size_t i = 0; i < 32; i++) {
        size_t best = GROUPS;
        double least = INFINITY;
        for (size_t g = 0; g < GROUPS; g++) {
            double lost = (double)(UNITS - kept[g]);
            double marginal = (double)((g + 1) * (g + 1)) * (2 * lost + 1);
            if (kept[g] > 1 && marginal < least) {
                least = marginal;
                best = g;
            }
        }
        kept[best]--;
    }
    return fitness_of(kept);
}

static void the_search_finds_the_optimum_and_never_gets_worse(void **state)
{
    (void)state;
    struct world world;
    world_start(&world);
    size_t kept[GROUPS];
    double value = 0;
    assert_true(allocation_evolve(&world.problem, &world.options, kept, &value, NULL));
    assert_true(value == fitness_of(kept) && value == best_fitness());
    assert_int_equal(world.generation, GENERATIONS);
    assert_true(world.fitness[1] > value); /* it had something to do */
    for (size_t i = 2; i <= GENERATIONS; i++) {
        assert_true(world.fitness[i] <= world.fitness[i - 1]);
    }
    assert_true(world.judged <= 1 + GENERATIONS * 12);
}

static void the_same_seed_gives_the_same_search_and_another_another(void **state)
{
    (void)state;
    struct world first, second, other;
    world_start(&first);
    world_start(&second);
    world_start(&other);
    other.options.seed = 12;
    size_t kept[GROUPS];
    assert_true(allocation_evolve(&first.problem, &first.options, kept, NULL, NULL));
    assert_true(allocation_evolve(&second.problem, &second.options, kept, NULL, NULL));
    assert_true(allocation_evolve(&other.problem, &other.options, kept, NULL, NULL));
    assert_memory_equal(first.parents, second.parents, sizeof first.parents);
    assert_memory_not_equal(first.parents, other.parents, sizeof first.parents);
}

static void a_resumed_search_goes_on_as_if_it_had_not_stopped(void **state)
{
    (void)state;
    struct world whole;
    world_start(&whole);
    size_t kept[GROUPS], resumed_kept[GROUPS];
    assert_true(allocation_evolve(&whole.problem, &whole.options, kept, NULL, NULL));
    for (size_t at = 1; at < GENERATIONS; at += 7) {
        struct world resumed;
        world_start(&resumed);
        resumed.options.first_generation = at;
        resumed.options.parent = whole.parents[at];
        resumed.options.parent_fitness = whole.fitness[at];
        assert_true(allocation_evolve(&resumed.problem, &resumed.options, resumed_kept, NULL, NULL));
        assert_memory_equal(kept, resumed_kept, sizeof kept);
        assert_memory_equal(whole.parents[at + 1], resumed.parents[at + 1],
                            (GENERATIONS - at) * sizeof whole.parents[0]);
    }
}

static void stages_judge_fewer_at_more_expense(void **state)
{
    (void)state;
    struct world world;
    world_start(&world);
    world.options.stage_count = 3;
    world.options.survivors[0] = 6;
    world.options.survivors[1] = 2;
    size_t kept[GROUPS];
    double value = 0;
    assert_true(allocation_evolve(&world.problem, &world.options, kept, &value, NULL));
    assert_true(value == fitness_of(kept)); /* of the last stage */
    assert_true(world.stage_judged[0] > world.stage_judged[1] &&
                world.stage_judged[1] > world.stage_judged[2]);
    assert_int_equal(world.stage_judged[2], 2 * GENERATIONS + 1);
}

static void unequal_costs_and_fixed_groups_stay_at_the_target(void **state)
{
    (void)state;
    struct world world;
    world_start(&world);
    for (size_t g = 0; g < GROUPS; g++) {
        world.groups[g].unit_cost = g % 2 == 0 ? 1 : 5;
    }
    world.groups[2].is_fixed = true;
    world.target = 60;
    size_t kept[GROUPS];
    assert_true(allocation_evolve(&world.problem, &world.options, kept, NULL, NULL)); /* asserts inside */
    double removed = 0;
    for (size_t g = 0; g < GROUPS; g++) {
        removed += (double)(UNITS - kept[g]) * world.groups[g].unit_cost;
    }
    assert_true(removed >= 60 && removed < 65); /* what a cheaper switch would have left is given back */
}

static void a_fitness_that_is_no_number_ends_the_search(void **state)
{
    (void)state;
    struct world world;
    world_start(&world);
    world.breaks_at = 20;
    size_t kept[GROUPS] = {7};
    struct error error = {0};
    assert_false(allocation_evolve(&world.problem, &world.options, kept, NULL, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
    assert_int_equal(kept[0], 7);
    world.breaks_at = 0;
    world.target = 1e9;
    assert_false(allocation_evolve(&world.problem, &world.options, kept, NULL, &error));
    assert_int_equal(error.code, ERROR_UNREACHABLE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_search_finds_the_optimum_and_never_gets_worse),
        cmocka_unit_test(the_same_seed_gives_the_same_search_and_another_another),
        cmocka_unit_test(a_resumed_search_goes_on_as_if_it_had_not_stopped),
        cmocka_unit_test(stages_judge_fewer_at_more_expense),
        cmocka_unit_test(unequal_costs_and_fixed_groups_stay_at_the_target),
        cmocka_unit_test(a_fitness_that_is_no_number_ends_the_search),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
