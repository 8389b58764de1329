/* workers/select/method_superfiltering.c: the ratio of perplexities of a small model, which here is the pruned one (ifd.h). */
#include "workers/select/ifd_ranking.h"

static const struct param_spec params[] = {IFD_RANKING_PARAM};

static bool superfiltering_select(const struct select_run *run, struct selection *ret_selection,
                                  struct error *error)
{
    return ifd_ranking_select(run, IFD_PERPLEXITY_RATIO, ret_selection, error);
}

const struct select_method select_method_superfiltering = {
    .name = "superfiltering",
    .summary = "The records whose prompt helps the pruned model least to foresee the response, but helps.",
    .reference = "Superfiltering, arXiv 2402.00530: ratio of perplexities under a smaller model",
    .needs = SELECT_NEED_LOSSES | SELECT_NEED_ALONE,
    .is_loss_of_pruned = true,
    .params = params,
    .param_count = sizeof params / sizeof params[0],
    .select = superfiltering_select,
};
