/* workers/prune/knapsack.c: see knapsack.h. */
#include "workers/prune/knapsack.h"

#include "base/check.h"
#include "base/memory.h"
#include "workers/prune/allocation_internal.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct knapsack {
    size_t group_count, width; /* width: budgets, knapsack_budget_last + 1 */
    double quantum, least_cost;
    double *best;      /* [width] of all groups */
    uint16_t *choices; /* [group_count, width] */
    uint32_t *quanta;  /* cost of each alternative above its group's least: groups one after the other */
    size_t *starts;    /* [group_count + 1] into quanta */
};

/* The largest number that divides all costs above their group's least; 0: they are no whole numbers. */
static double common_measure(const struct knapsack_group *groups, size_t group_count, const double *leasts)
{
    static const double whole_most = 0x1p53;
    double measure = 0;
    for (size_t g = 0; g < group_count; g++) {
        for (size_t i = 0; i < groups[g].count; i++) {
            double a = groups[g].alternatives[i].cost - leasts[g];
            if (a > whole_most || fmod(groups[g].alternatives[i].cost, 1) != 0) {
                return 0;
            }
            for (double b = measure; a > 0;) { /* Euclid */
                double rest = b > 0 ? fmod(b, a) : 0;
                measure = a;
                b = a;
                a = rest;
            }
        }
    }
    return measure;
}

static bool check_groups(const struct knapsack_group *groups, size_t group_count, double *ret_leasts,
                         double *ret_range, struct error *error)
{
    *ret_range = 0;
    for (size_t g = 0; g < group_count; g++) {
        CHECK(groups[g].count > 0 && groups[g].count <= UINT16_MAX);
        double least = INFINITY, most = 0;
        for (size_t i = 0; i < groups[g].count; i++) {
            const struct knapsack_alternative *alternative = &groups[g].alternatives[i];
            if (!isfinite(alternative->damage) || !isfinite(alternative->cost) || alternative->cost < 0) {
                return error_set(error, ERROR_NUMERIC,
                                 "alternative %zu of place %zu has no finite damage or cost", i, g);
            }
            least = alternative->cost < least ? alternative->cost : least;
            most = alternative->cost > most ? alternative->cost : most;
        }
        ret_leasts[g] = least;
        *ret_range += most - least;
    }
    return true;
}

static void quantise(struct knapsack *knapsack, const struct knapsack_group *groups, const double *leasts)
{
    size_t at = 0, last = 0;
    for (size_t g = 0; g < knapsack->group_count; g++) {
        uint32_t most = 0;
        knapsack->starts[g] = at;
        knapsack->least_cost += leasts[g];
        for (size_t i = 0; i < groups[g].count; i++) {
            double cost = groups[g].alternatives[i].cost - leasts[g];
            uint32_t quanta = knapsack->quantum > 0 ? (uint32_t)floor(cost / knapsack->quantum + 0.5) : 0;
            knapsack->quanta[at++] = quanta;
            most = quanta > most ? quanta : most;
        }
        last += most;
    }
    knapsack->starts[knapsack->group_count] = at;
    knapsack->width = last + 1;
}

/* After group g, best[q] is of choices that cost at most q: it never rises with q, since the first row is zero everywhere. */
static void fill_table(struct knapsack *knapsack, const struct knapsack_group *groups, double *before)
{
    for (size_t g = 0; g < knapsack->group_count; g++) {
        const uint32_t *quanta = knapsack->quanta + knapsack->starts[g];
        uint16_t *choices = knapsack->choices + g * knapsack->width;
        memcpy(before, knapsack->best, knapsack->width * sizeof *before);
        for (size_t q = 0; q < knapsack->width; q++) {
            double best = INFINITY;
            for (size_t i = 0; i < groups[g].count; i++) {
                if (quanta[i] <= q) {
                    double damage = before[q - quanta[i]] + groups[g].alternatives[i].damage;
                    if (damage < best) {
                        best = damage;
                        choices[q] = (uint16_t)i;
                    }
                }
            }
            knapsack->best[q] = best;
        }
    }
}

struct knapsack *knapsack_create(const struct knapsack_group *groups, size_t group_count, size_t quanta,
                                 struct error *error)
{
    CHECK(quanta > 0 && quanta < UINT32_MAX / 2);
    OWNED_MEMORY double *leasts = memory_create(group_count + 1, sizeof *leasts);
    double range = 0;
    if (!check_groups(groups, group_count, leasts, &range, error)) {
        return NULL;
    }
    OWNED(knapsack) knapsack = memory_create(1, sizeof *knapsack);
    size_t total = 0;
    for (size_t g = 0; g < group_count; g++) {
        total += groups[g].count;
    }
    knapsack->group_count = group_count;
    double measure = common_measure(groups, group_count, leasts);
    knapsack->quantum = measure > 0 && range / measure <= (double)quanta ? measure : range / (double)quanta;
    knapsack->starts = memory_create(group_count + 1, sizeof *knapsack->starts);
    knapsack->quanta = memory_create(total + 1, sizeof *knapsack->quanta);
    quantise(knapsack, groups, leasts);
    knapsack->best = memory_try_array(knapsack->width, sizeof *knapsack->best, "a knapsack", error);
    OWNED_MEMORY double *before = memory_try_array(knapsack->width, sizeof *before, "a knapsack", error);
    knapsack->choices = memory_try_array(knapsack->width, (group_count + 1) * sizeof *knapsack->choices,
                                         "a knapsack's choices", error);
    if (knapsack->best == NULL || before == NULL || knapsack->choices == NULL) {
        return NULL;
    }
    fill_table(knapsack, groups, before);
    return TAKE(knapsack);
}

void knapsack_destroy(struct knapsack *knapsack)
{
    if (knapsack != NULL) {
        free(knapsack->best);
        free(knapsack->choices);
        free(knapsack->quanta);
        free(knapsack->starts);
        free(knapsack);
    }
}

size_t knapsack_budget_last(const struct knapsack *knapsack)
{
    return knapsack->width - 1;
}

double knapsack_budget_cost(const struct knapsack *knapsack, size_t budget)
{
    return knapsack->least_cost + (double)budget * knapsack->quantum;
}

double knapsack_choose(const struct knapsack *knapsack, size_t budget, size_t *ret_choice)
{
    CHECK(budget < knapsack->width);
    size_t left = budget;
    for (size_t g = knapsack->group_count; g-- > 0;) {
        ret_choice[g] = knapsack->choices[g * knapsack->width + left];
        left -= knapsack->quanta[knapsack->starts[g] + ret_choice[g]];
    }
    return knapsack->best[budget];
}

/* ---- as an allocation ------------------------------------------------------------------------------------ */

size_t knapsack_pick_levels(const struct allocation_group *group, size_t limit, size_t *ret_levels)
{
    CHECK(limit >= 2);
    size_t count = allocation_level_count(group);
    size_t picked = count < limit ? count : limit;
    for (size_t i = 0; i < picked; i++) {
        ret_levels[i] = picked > 1 ? (i * (count - 1) + (picked - 1) / 2) / (picked - 1) : 0;
    }
    return picked;
}

struct menu { /* alternatives of all groups */
    const struct allocation_problem *problem;
    const struct knapsack *knapsack;
    size_t limit;
    struct knapsack_alternative *alternatives; /* [group_count, limit] */
    struct knapsack_group *groups;             /* [group_count] */
    size_t *kept;                              /* [group_count, limit] */
    size_t *choice;                            /* [group_count] scratch */
};

static bool judge(const struct menu *menu, const struct knapsack_options *options, size_t g,
                  const double *sums, size_t kept, double *ret_damage, struct error *error)
{
    size_t count = menu->problem->groups[g].unit_count;
    *ret_damage = 0;
    if (kept == count) {
        return true;
    }
    if (options->damage != NULL) {
        return cancel_check(menu->problem->cancel, error) &&
               options->damage(options->context, g, kept, ret_damage, error);
    }
    for (size_t i = 0; i < count - kept; i++) {
        *ret_damage += sums[i];
    }
    return true;
}

static bool fill_menu(struct menu *menu, const struct knapsack_options *options, struct error *error)
{
    OWNED_MEMORY size_t *levels = memory_create(menu->limit, sizeof *levels);
    for (size_t g = 0; g < menu->problem->group_count; g++) {
        const struct allocation_group *group = &menu->problem->groups[g];
        struct knapsack_alternative *alternatives = menu->alternatives + g * menu->limit;
        size_t *kept = menu->kept + g * menu->limit;
        menu->groups[g] = (struct knapsack_group){alternatives, 1};
        if (!allocation_is_free(group)) {
            kept[0] = allocation_settled(group);
            continue;
        }
        menu->groups[g].count = knapsack_pick_levels(group, menu->limit, levels);
        OWNED_MEMORY double *sums = memory_create(group->unit_count + 1, sizeof *sums);
        if (options->damage == NULL) {
            allocation_sum_sets(group, sums);
        }
        for (size_t i = 0; i < menu->groups[g].count; i++) {
            kept[i] = allocation_level(group, levels[i]);
            alternatives[i].cost = (double)kept[i] * group->unit_cost;
            if (!judge(menu, options, g, sums, kept[i], &alternatives[i].damage, error)) {
                return false;
            }
        }
    }
    return true;
}

static void fill_choice(const void *context, uint64_t position, size_t *ret_kept)
{
    const struct menu *menu = context;
    (void)knapsack_choose(menu->knapsack, knapsack_budget_last(menu->knapsack) - (size_t)position,
                          menu->choice);
    for (size_t g = 0; g < menu->problem->group_count; g++) {
        ret_kept[g] = menu->kept[g * menu->limit + menu->choice[g]];
    }
}

bool allocation_solve_knapsack(const struct allocation_problem *problem,
                               const struct knapsack_options *options, size_t *ret_kept, struct error *error)
{
    enum { LEVELS = 16, QUANTA = 8192 };
    size_t count = problem->group_count;
    struct menu menu = {.problem = problem,
                        .limit = options->level_limit > 0 ? options->level_limit : LEVELS};
    OWNED_MEMORY struct knapsack_alternative *alternatives =
        memory_try_array(count + 1, menu.limit * sizeof *alternatives, "alternatives", error);
    OWNED_MEMORY struct knapsack_group *groups = memory_create(count + 1, sizeof *groups);
    OWNED_MEMORY size_t *kept = memory_try_array(count + 1, menu.limit * sizeof *kept, "alternatives", error);
    OWNED_MEMORY size_t *choice = memory_create(count + 1, sizeof *choice);
    if (alternatives == NULL || kept == NULL ||
        (options->damage == NULL && !allocation_check_scores(problem, error))) {
        return false;
    }
    menu.alternatives = alternatives;
    menu.groups = groups;
    menu.kept = kept;
    menu.choice = choice;
    if (!fill_menu(&menu, options, error)) {
        return false;
    }
    OWNED(knapsack)
    knapsack = knapsack_create(groups, count, options->quanta > 0 ? options->quanta : QUANTA, error);
    if (knapsack == NULL) {
        return false;
    }
    menu.knapsack = knapsack;
    struct allocation_curve curve = {&menu, knapsack_budget_last(knapsack), fill_choice};
    return allocation_bisect(problem, &curve, ret_kept, error);
}
