/* workers/select/method_ifd.c: instruction-following difficulty of the original model: the prompts that help least, but help (ifd.h). */
#include "workers/select/ifd_ranking.h"

static const struct param_spec params[] = {IFD_RANKING_PARAM};

static bool ifd_method_select(const struct select_run *run, struct selection *ret_selection,
                              struct error *error)
{
    return ifd_ranking_select(run, IFD_LOSS_RATIO, ret_selection, error);
}

const struct select_method select_method_ifd = {
    .name = "ifd",
    .summary = "The records whose prompt helps the original model least to foresee the response, but helps.",
    .reference = "Cherry LLM, arXiv 2308.12032: ratio of mean losses",
    .needs = SELECT_NEED_LOSSES | SELECT_NEED_ALONE,
    .params = params,
    .param_count = sizeof params / sizeof params[0],
    .select = ifd_method_select,
};
