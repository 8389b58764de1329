/*
 * workers/select/strata_take.h: the selection by DEALRec's coverage draw (strata.h) of a score, for the selectors that differ in the score alone.
 *
 * A budget of tokens pays for about as many records as are drawn, in random order; what is left over goes to the others that are not put aside, at
 * random.
 */
#ifndef WORKERS_SELECT_STRATA_TAKE_H
#define WORKERS_SELECT_STRATA_TAKE_H

#include "workers/select/select.h"

#define STRATA_BINS_PARAM                                                                                    \
    {                                                                                                        \
        .name = "bins", .type = PARAM_INTEGER, .min = 1, .max = 10000, .default_json = "50",                 \
        .help = "Parts of equal width that the range of the scores is cut into."                             \
    }
#define STRATA_DROP_PARAM                                                                                    \
    {                                                                                                        \
        .name = "drop_ratio", .type = PARAM_NUMBER, .max = 1, .default_json = "0.1",                         \
        .help = "Share of the records of highest score that is put aside as noise, while there are others."  \
    }
/* scores [count], all finite; score_name: static. */
bool strata_take(const struct select_run *run, const double *scores, const char *score_name,
                 struct selection *ret_selection, struct error *error) MUST_USE;

#endif
