/* workers/select/method_longest.c: the records with the longest responses. */
#include "workers/select/select.h"

static bool longest_select(const struct select_run *run, struct selection *ret_selection, struct error *error)
{
    for (size_t i = 0; i < ret_selection->count; i++) {
        ret_selection->scores[i] = run->records->response_tokens[i];
    }
    ret_selection->score_name = "response_tokens";
    return selection_take_best(ret_selection, run, RANKING_FALLING, error);
}

const struct select_method select_method_longest = {
    .name = "longest",
    .summary = "The records with the longest responses.",
    .reference = "the baseline of Zhao et al. 2024, Long Is More for Alignment, arXiv 2402.04833",
    .select = longest_select,
};
