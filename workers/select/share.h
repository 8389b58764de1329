/*
 * workers/select/share.h: a budget of records shared out over groups (clusters, strata) in proportion to weights, and no more to a
 * group than it holds.
 *
 * Largest remainder with caps (data_selection 0.2). A group whose proportional share reaches its cap gets the cap, and the rest
 * is shared anew over the others, until no cap is reached. Then every group gets the whole part of its share, and what is missing goes,
 * one each, to the largest remainders; equal remainders go to the smaller group. Weights that are all zero (two models that do not
 * differ) count as equal ones.
 *
 * Shares are quotients in double. One that lies below a whole number by rounding alone counts as that number (within 1e-12 of itself):
 * 10 * 0.3 / (0.1 + 0.2 + 0.3) is 5. Remainders are compared in steps of 2^-32, so that equal ones tie although the quotients they
 * come of were rounded at different sizes.
 *
 * Invariants: the shares sum to the budget or to all caps, whichever is less; 0 <= share <= cap; where no cap binds, of two groups the
 * heavier never gets less (but for weights so close that their remainders tie).
 *
 * The published code's int() form is share_published: no caps, the fractions lost, and its rounding as it is.
 *
 * Threads: no state.
 */
#ifndef WORKERS_SELECT_SHARE_H
#define WORKERS_SELECT_SHARE_H

#include "base/error.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Above it whole numbers and the tolerance of 1e-12 get in each other's way. */
#define SHARE_BUDGET_LIMIT (UINT64_C(1) << 36)

/* weights: [count], finite, at least 0; caps: [count] the records of each group (SIZE_MAX: no cap); ret_shares: [count].
 * NUMERIC: a weight that is none, naming its group; OUT_OF_RANGE: more than SHARE_BUDGET_LIMIT records to share; OUT_OF_MEMORY. */
bool share_allocate(const double *weights, const size_t *caps, size_t count, size_t budget,
                    size_t *ret_shares, struct error *error) MUST_USE;

/* int(budget * (w / sum w)), the sum taken from left to right. The shares may sum to less than the budget, by up to a record for
 * each group and by what rounding takes from whole shares: (0.1, 0.2, 0.3) and 10 give 1, 3 and 4. NUMERIC: as above, and weights
 * that are all zero, by which the published code divides; OUT_OF_RANGE as above. */
bool share_published(const double *weights, size_t count, size_t budget, size_t *ret_shares,
                     struct error *error) MUST_USE;

#endif
