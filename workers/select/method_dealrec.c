/*
 * workers/select/method_dealrec.c: DEALRec by its effort: few records from all over the range of how much they would move the model that is to be
 * healed, without the hardest (strata_take.h). The effort is that of the head, which takes no backward pass (effort.h); the paper's is of one
 * layer's adapter, and it adds the influence that a small model trained for the purpose says: neither is here.
 */
#include "workers/select/strata_take.h"

static const struct param_spec params[] = {STRATA_BINS_PARAM, STRATA_DROP_PARAM};

static bool dealrec_select(const struct select_run *run, struct selection *ret_selection, struct error *error)
{
    return strata_take(run, run->records->efforts, "effort", ret_selection, error);
}

const struct select_method select_method_dealrec = {
    .name = "dealrec",
    .summary =
        "Records from all over the range of effort, the gradient that they would send into the pruned model's head, without the hardest.",
    .reference =
        "effort score and coverage draw of DEALRec, arXiv 2401.17197; of the head, without the influence score",
    .needs = SELECT_NEED_EFFORTS,
    .is_loss_of_pruned = true,
    .params = params,
    .param_count = sizeof params / sizeof params[0],
    .select = dealrec_select,
};
