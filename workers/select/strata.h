/*
 * workers/select/strata.h: the coverage draw of DEALRec (SIGIR 2024, arXiv 2401.17197): few records from all over the range of
 * a score, without the very hardest.
 *
 * The highest drop_ratio of the records are put aside as noise. The range of the others is cut into bin_count bins of equal width, each with its
 * upper edge. Then the bins are gone through from the smallest up (equal ones: the lower first): of m records still to be drawn and r bins
 * still to come a bin gives floor(m / r), or all that it has; which ones is chance, without replacement.
 *
 * Other than in the published code exactly `wanted` records are drawn. Where more are wanted than there are left, fewer are put aside. Then
 * no remainder is lost: a bin that gives less than all that it has is no larger than those after it, so these hold what is left over.
 * The highest score counts as in the last bin, whatever the rounding of its edge; where all scores are equal there is one bin.
 *
 * Records that are all wanted are all taken; then, too, they come by index.
 */
#ifndef WORKERS_SELECT_STRATA_H
#define WORKERS_SELECT_STRATA_H

#include "base/rng.h"

struct strata {
    size_t wanted, bin_count; /* bin_count >= 1 */
    double drop_ratio;        /* 0..1 */
};
/* scores [count]. ret_taken: the smaller of wanted and count, by rising index. Bin b draws at step rng->step + b. NUMERIC: a
 * score, named, that is not finite. OUT_OF_MEMORY. No state. */
bool strata_draw(const struct rng *rng, const double *scores, size_t count, const struct strata *strata,
                 size_t *ret_taken, struct error *error) MUST_USE;

#endif
