/* workers/prune/allocation_internal.h: what the allocation rules share (allocation.c, knapsack.c, evolution.c). */
#ifndef WORKERS_PRUNE_ALLOCATION_INTERNAL_H
#define WORKERS_PRUNE_ALLOCATION_INTERNAL_H

#include "workers/prune/allocation.h"

/* Counts over a knob: position 0 removes least, `last` most. */
struct allocation_curve {
    const void *context;
    uint64_t last;
    void (*fill)(const void *context, uint64_t position, size_t *ret_kept);
};
/* The first point of the curve that reaches the target. */
bool allocation_bisect(const struct allocation_problem *problem, const struct allocation_curve *curve,
                       size_t *ret_kept, struct error *error) MUST_USE;

/* Whether the rule decides about it; else it keeps allocation_settled. */
static inline bool allocation_is_free(const struct allocation_group *group)
{
    return !group->is_fixed && !group->is_given;
}
size_t allocation_settled(const struct allocation_group *group); /* of a group that is not free */

/* The k-th lowest scores of all sets together, ascending: ret_sums [unit_count]. */
void allocation_sum_sets(const struct allocation_group *group, double *ret_sums);
bool allocation_check_scores(const struct allocation_problem *problem, struct error *error) MUST_USE;

#endif
