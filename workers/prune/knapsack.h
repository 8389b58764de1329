/*
 * workers/prune/knapsack.h: one alternative of each group, the least damage within a budget: the multiple-choice knapsack of Puzzle
 * (structured_pruning 14.2), by dynamic programming over quantised cost,
 *     best[g][q] = min over alternatives v of group g: best[g-1][q - cost_v] + damage_v.
 * One table answers every budget, so the target is found by bisection over the budget without a new search.
 *
 * Costs are exact where they are whole numbers whose common measure divides the range into at most the given number of quanta; else each
 * is rounded to the nearest quantum. The target itself is judged on the counts, never on quanta.
 *
 * Damage adds up over groups: right for alternatives that were each judged alone in the dense model ("replace one block").
 */
#ifndef WORKERS_PRUNE_KNAPSACK_H
#define WORKERS_PRUNE_KNAPSACK_H

#include "base/cleanup.h"
#include "workers/prune/allocation.h"

struct knapsack_alternative {
    double cost, damage; /* finite; cost >= 0 */
};
struct knapsack_group {
    const struct knapsack_alternative *alternatives; /* [count], borrowed for the call */
    size_t count;                                    /* 1..65535 */
};
struct knapsack;
/* quanta: at most so many steps of the budget. NUMERIC, OUT_OF_MEMORY. */
struct knapsack *knapsack_create(const struct knapsack_group *groups, size_t group_count, size_t quanta,
                                 struct error *error) MUST_USE;
void knapsack_destroy(struct knapsack *knapsack);
OWNED_DEFINE(knapsack)
/* Budgets run from 0 (each group's cheapest) to knapsack_budget_last (each group's dearest). */
size_t knapsack_budget_last(const struct knapsack *knapsack);
double knapsack_budget_cost(const struct knapsack *knapsack, size_t budget); /* in the alternatives' cost */
/* The least damage of all choices that cost at most `budget` quanta, and its alternatives (of equals, the lower index in later groups):
 * ret_choice [group_count]. */
double knapsack_choose(const struct knapsack *knapsack, size_t budget, size_t *ret_choice);

/* ---- as an allocation ------------------------------------------------------------------------------------ */

struct knapsack_options {
    size_t level_limit; /* alternatives a group, evenly over its levels, all and least included; 0: 16 */
    size_t quanta;      /* 0: 8192 */
    void *context;
    /* What the model loses when one group keeps `kept` and all others everything; asked once per alternative but the first (which is
     * 0). NULL: the sum of the scores that go. */
    bool (*damage)(void *context, size_t group, size_t kept, double *ret_damage, struct error *error);
};
/* As allocation_solve. */
bool allocation_solve_knapsack(const struct allocation_problem *problem,
                               const struct knapsack_options *options, size_t *ret_kept,
                               struct error *error) MUST_USE;
/* The levels that a limit leaves: ret_levels [at most limit] of indices into the group's levels, first and last included. */
size_t knapsack_pick_levels(const struct allocation_group *group, size_t limit, size_t *ret_levels);

#endif
