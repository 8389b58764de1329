/* workers/select/method_strata.c: few records from all over the range of damage, without the worst (strata_take.h). */
#include "workers/select/measure.h"
#include "workers/select/strata_take.h"

static const struct param_spec params[] = {MEASURE_DAMAGE_PARAM, STRATA_BINS_PARAM, STRATA_DROP_PARAM};

static bool strata_select(const struct select_run *run, struct selection *ret_selection, struct error *error)
{
    return strata_take(run, run->records->damages, "damage", ret_selection, error);
}

const struct select_method select_method_strata = {
    .name = "strata",
    .summary = "Records from all over the range of damage, without the most damaged.",
    .reference = "the coverage draw of DEALRec, arXiv 2401.17197, by damage",
    .needs = SELECT_NEED_DAMAGE,
    .params = params,
    .param_count = sizeof params / sizeof params[0],
    .select = strata_select,
};
