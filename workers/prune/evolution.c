/* workers/prune/evolution.c: see evolution.h. */
#include "workers/prune/evolution.h"

#include "base/check.h"
#include "base/cleanup.h"
#include "base/memory.h"
#include "base/rng.h"
#include "workers/prune/allocation_internal.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct candidate {
    size_t *kept; /* [group_count], borrowed */
    double fitness;
    size_t index; /* of its generation: 0 the parent, then offspring */
};
struct evolution {
    const struct allocation_problem *problem;
    const struct evolution_options *options;
    size_t *free_groups; /* [free_count] that have more than one level */
    size_t free_count;
    size_t *kept;                 /* [offspring + 1, group_count]; 0: the parent */
    struct candidate *candidates; /* [offspring + 1] */
};
/* Draws of one offspring. */
struct dice {
    struct rng rng;
    uint64_t next;
};

static size_t roll(struct dice *dice, size_t end)
{
    return (size_t)rng_below(&dice->rng, dice->next++, end);
}

/* The level index of a count that is a level. */
static size_t level_of(const struct allocation_group *group, size_t kept)
{
    size_t low = 0, high = allocation_level_count(group) - 1;
    while (low < high) { /* levels descend */
        size_t middle = (low + high) / 2;
        if (allocation_level(group, middle) > kept) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* Moves a group by one level; false: it is at the end. */
static bool shift_level(const struct allocation_problem *problem, size_t g, bool is_wider, size_t *kept)
{
    const struct allocation_group *group = &problem->groups[g];
    size_t level = level_of(group, kept[g]);
    if (is_wider ? level == 0 : level + 1 >= allocation_level_count(group)) {
        return false;
    }
    kept[g] = allocation_level(group, is_wider ? level - 1 : level + 1);
    return true;
}

/* One group gets a level back, others give until the target is reached again. Sets ret_is_reached; a switch that finds no way says false
 * there. */
static bool switch_levels(struct evolution *evolution, struct dice *dice, size_t *kept, bool *ret_is_reached,
                          struct error *error)
{
    enum { GIVES_MOST = 8, TRIES_MOST = 32 };
    const struct allocation_problem *problem = evolution->problem;
    *ret_is_reached = false;
    size_t taker = evolution->free_groups[roll(dice, evolution->free_count)];
    if (!shift_level(problem, taker, true, kept)) {
        return true;
    }
    for (size_t gives = 0, tries = 0; gives < GIVES_MOST && tries < TRIES_MOST; tries++) {
        size_t giver = evolution->free_groups[roll(dice, evolution->free_count)];
        if (giver == taker || !shift_level(problem, giver, false, kept)) {
            continue;
        }
        gives++;
        if (!problem->reach(problem->context, kept, ret_is_reached, error)) {
            return false;
        }
        if (*ret_is_reached) {
            return true;
        }
    }
    return true;
}

static double cost_of(const struct allocation_problem *problem, const size_t *kept)
{
    double cost = 0;
    for (size_t g = 0; g < problem->group_count; g++) {
        cost += (double)kept[g] * problem->groups[g].unit_cost;
    }
    return cost;
}

/* Where levels cost differently a switch may give more than was taken: what still reaches the target without it is given back, tried on
 * groups whose level fits into the difference. */
static bool give_back(struct evolution *evolution, struct dice *dice, const size_t *parent, size_t *kept,
                      struct error *error)
{
    const struct allocation_problem *problem = evolution->problem;
    double slack = cost_of(problem, parent) - cost_of(problem, kept);
    size_t start = roll(dice, evolution->free_count);
    for (size_t i = 0; i < evolution->free_count && slack > 0; i++) {
        size_t g = evolution->free_groups[(start + i) % evolution->free_count];
        size_t was = kept[g];
        if (!shift_level(problem, g, true, kept)) {
            continue;
        }
        double cost = (double)(kept[g] - was) * problem->groups[g].unit_cost;
        bool is_reached = false;
        if (cost <= slack && !problem->reach(problem->context, kept, &is_reached, error)) {
            return false;
        }
        if (is_reached) {
            slack -= cost;
        } else {
            kept[g] = was;
        }
    }
    return true;
}

static bool is_known(const struct evolution *evolution, size_t count, const size_t *kept)
{
    for (size_t i = 0; i < count; i++) {
        if (memcmp(evolution->candidates[i].kept, kept, evolution->problem->group_count * sizeof *kept) ==
            0) {
            return true;
        }
    }
    return false;
}

/* Fills candidate `index`; ret_is_found false: no new one in so many tries. */
static bool mutate(struct evolution *evolution, size_t generation, size_t index, bool *ret_is_found,
                   struct error *error)
{
    enum { TRIES = 16, SWITCHES = 3, STREAM = 0x45564F00 };
    const struct evolution_options *options = evolution->options;
    size_t bytes = evolution->problem->group_count * sizeof(size_t);
    size_t most = options->switches_most > 0 ? options->switches_most : SWITCHES;
    struct dice dice = {{options->seed, (uint32_t)STREAM + (uint32_t)index, (uint32_t)generation}, 0};
    const size_t *parent = evolution->candidates[0].kept;
    size_t *kept = evolution->kept + index * evolution->problem->group_count;
    *ret_is_found = false;
    for (size_t try = 0; try < TRIES && !*ret_is_found; try++) {
        size_t first = 1 + roll(&dice, most), second = 1 + roll(&dice, most);
        memcpy(kept, parent, bytes);
        bool is_reached = true;
        for (size_t i = 0; i < (first < second ? first : second) && is_reached; i++) {
            if (!switch_levels(evolution, &dice, kept, &is_reached, error)) {
                return false;
            }
        }
        if (is_reached && !give_back(evolution, &dice, parent, kept, error)) {
            return false;
        }
        *ret_is_found = is_reached && !is_known(evolution, index, kept);
    }
    return true;
}

static bool judge(struct evolution *evolution, struct candidate *candidate, size_t stage, struct error *error)
{
    const struct evolution_options *options = evolution->options;
    if (!cancel_check(evolution->problem->cancel, error) ||
        !options->fitness(options->context, candidate->kept, stage, &candidate->fitness, error)) {
        return false;
    }
    return !isnan(candidate->fitness) ||
           error_set(error, ERROR_NUMERIC, "the fitness of an allocation is not a number");
}

static int compare_candidates(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->fitness < y->fitness || x->fitness > y->fitness) {
        return x->fitness < y->fitness ? -1 : 1;
    }
    return x->index < y->index ? -1 : x->index > y->index;
}

/* candidates[1..count] against the parent at 0, whose fitness is of the last stage. */
static bool select_parent(struct evolution *evolution, size_t count, struct error *error)
{
    const struct evolution_options *options = evolution->options;
    size_t stages = options->stage_count > 0 ? options->stage_count : 1;
    for (size_t stage = 0; stage < stages; stage++) {
        for (size_t i = 1; i < count; i++) {
            if (!judge(evolution, &evolution->candidates[i], stage, error)) {
                return false;
            }
        }
        qsort(evolution->candidates + 1, count - 1, sizeof *evolution->candidates, compare_candidates);
        if (stage + 1 < stages && options->survivors[stage] + 1 < count) {
            count = options->survivors[stage] + 1;
        }
    }
    if (count > 1 && evolution->candidates[1].fitness < evolution->candidates[0].fitness) {
        memcpy(evolution->kept, evolution->candidates[1].kept,
               evolution->problem->group_count * sizeof *evolution->kept);
        evolution->candidates[0].fitness = evolution->candidates[1].fitness;
    }
    return true;
}

static bool run_generation(struct evolution *evolution, size_t generation, struct error *error)
{
    size_t count = 1;
    for (size_t i = 0; i < evolution->options->offspring; i++) {
        bool is_found = false;
        evolution->candidates[count] =
            (struct candidate){evolution->kept + count * evolution->problem->group_count, INFINITY, count};
        if (!mutate(evolution, generation, count, &is_found, error)) {
            return false;
        }
        if (!is_found) {
            break; /* a space this small is exhausted */
        }
        count++;
    }
    return select_parent(evolution, count, error);
}

static bool start(struct evolution *evolution, struct error *error)
{
    const struct allocation_problem *problem = evolution->problem;
    const struct evolution_options *options = evolution->options;
    for (size_t g = 0; g < problem->group_count; g++) {
        if (allocation_is_free(&problem->groups[g]) && allocation_level_count(&problem->groups[g]) > 1) {
            evolution->free_groups[evolution->free_count++] = g;
        }
    }
    if (options->parent != NULL) {
        memcpy(evolution->kept, options->parent, problem->group_count * sizeof *evolution->kept);
    } else {
        static const struct allocation_rule uniform = {.kind = ALLOCATION_UNIFORM};
        if (!allocation_solve(problem, &uniform, evolution->kept, error)) {
            return false;
        }
    }
    size_t last_stage = options->stage_count > 0 ? options->stage_count - 1 : 0;
    evolution->candidates[0] = (struct candidate){evolution->kept, options->parent_fitness, 0};
    return options->first_generation > 0 || judge(evolution, &evolution->candidates[0], last_stage, error);
}

bool allocation_evolve(const struct allocation_problem *problem, const struct evolution_options *options,
                       size_t *ret_kept, double *ret_fitness, struct error *error)
{
    CHECK(options->stage_count <= EVOLUTION_STAGES_MAX && options->fitness != NULL);
    CHECK(options->first_generation == 0 || options->parent != NULL);
    struct evolution evolution = {.problem = problem, .options = options};
    OWNED_MEMORY size_t *free_groups = memory_create(problem->group_count + 1, sizeof *free_groups);
    OWNED_MEMORY size_t *kept = memory_try_array(
        options->offspring + 2, (problem->group_count + 1) * sizeof *kept, "offspring", error);
    OWNED_MEMORY struct candidate *candidates = memory_create(options->offspring + 2, sizeof *candidates);
    if (kept == NULL) {
        return false;
    }
    evolution.free_groups = free_groups;
    evolution.kept = kept;
    evolution.candidates = candidates;
    if (!start(&evolution, error)) {
        return false;
    }
    for (size_t g = options->first_generation; g < options->generations && evolution.free_count > 1; g++) {
        if (!run_generation(&evolution, g, error) ||
            (options->save != NULL &&
             !options->save(options->context, g + 1, kept, candidates[0].fitness, error))) {
            return false;
        }
    }
    memcpy(ret_kept, kept, problem->group_count * sizeof *ret_kept);
    if (ret_fitness != NULL) {
        *ret_fitness = candidates[0].fitness;
    }
    return true;
}
