/* workers/select/ifd_ranking.h: a selection by instruction-following difficulty (ifd.h), which two selectors make, of one model or of another. */
#ifndef WORKERS_SELECT_IFD_RANKING_H
#define WORKERS_SELECT_IFD_RANKING_H

#include "workers/select/ifd.h"
#include "workers/select/select.h"

#define IFD_RANKING_PARAM                                                                                    \
    {                                                                                                        \
        .name = "min_response_tokens", .type = PARAM_INTEGER, .min = 1, .max = 4096, .default_json = "2",    \
        .unit = "tokens", .help = "Shorter responses are not ranked: means over a token or two are noise.",  \
    }
/* All of it: what ifd.h does not rank is FILTERED, and details count why. */
bool ifd_ranking_select(const struct select_run *run, enum ifd_form form, struct selection *selection,
                        struct error *error) MUST_USE;

#endif
