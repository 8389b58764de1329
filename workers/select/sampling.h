/*
 * workers/select/sampling.h: uniform random selection without replacement, the baseline that every selector has to beat; by records
 * or by tokens.
 *
 * A partial Fisher-Yates shuffle: place i gets one of the records that are left at places i ... N - 1, so that every sequence of n
 * records is equally likely. Draw i is a function of the generator and of i alone (base/rng.h): the same seed gives the same
 * records, and a larger budget of records begins with those of a smaller one.
 *
 * By tokens: all records in random order, and of them what the budget takes by the rule of ranking.h, the same that fills the
 * budgets of all selectors. It never takes more than the budget. Which record is passed over depends on its length, but only once
 * what is left of the budget is shorter than the longest record.
 *
 * A budget that pays for all records gives all of them in their original order.
 *
 * Threads: no state.
 */
#ifndef WORKERS_SELECT_SAMPLING_H
#define WORKERS_SELECT_SAMPLING_H

#include "base/rng.h"
#include "workers/select/ranking.h"

/* tokens: [count], NULL: not known (BUDGET_RECORDS only). ret_taken: room for count, because the shuffle takes place there; the
 * first `records` of it, as the returned use says, are the selection in the order of drawing. */
struct budget_use sampling_draw(const struct rng *rng, size_t count, const uint32_t *tokens,
                                const struct budget *budget, size_t *ret_taken);
/* Puts ids [count] into the order of rng_permutation. OUT_OF_MEMORY. */
bool sampling_shuffle(const struct rng *rng, size_t *ids, size_t count, struct error *error) MUST_USE;

#endif
