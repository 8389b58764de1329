/* workers/select/method_el2n.c: the records whose response the pruned model foresees worst, by the length of the error of its beliefs. */
#include "workers/select/quantile.h"
#include "workers/select/select.h"

#include "base/memory.h"

static const struct param_spec params[] = {
    {.name = "skip_ratio",
     .type = PARAM_NUMBER,
     .flags = PARAM_OPEN_MAX,
     .max = 1,
     .default_json = "0.0",
     .help = "Share of the records of highest score that are left out as noise."},
};

static bool el2n_select(const struct select_run *run, struct selection *ret_selection, struct error *error)
{
    size_t count = ret_selection->count, ranked = 0;
    size_t skipped = quantile_count_within(select_number(run, "skip_ratio"), count);
    OWNED_MEMORY size_t *order = memory_try_array(count, sizeof *order, "the order of records", error);
    if (order == NULL || !ranking_order(run->records->el2n, count, RANKING_FALLING, RANKING_NAN_ERROR, count,
                                        order, &ranked, error)) {
        return false;
    }
    for (size_t i = 0; i < count; i++) { /* of no record there is no column */
        ret_selection->scores[i] = run->records->el2n[i];
    }
    ret_selection->score_name = "el2n";
    for (size_t i = 0; i < skipped; i++) {
        ret_selection->reasons[order[i]] = SELECT_FILTERED;
    }
    selection_take(ret_selection, run, order + skipped, ranked - skipped);
    json_put_i64(ret_selection->details, "skipped", (int64_t)skipped);
    return true;
}

const struct select_method select_method_el2n = {
    .name = "el2n",
    .summary =
        "The records whose response the pruned model foresees worst: mean length of the error of its beliefs.",
    .reference = "Paul et al. 2021, Deep Learning on a Data Diet, arXiv 2107.07075, by token",
    .needs = SELECT_NEED_EL2N,
    .is_loss_of_pruned = true,
    .params = params,
    .param_count = sizeof params / sizeof params[0],
    .select = el2n_select,
};
