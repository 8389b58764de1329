/* workers/select/method_top_damage.c: the records on which the pruned model is farthest from the original, whatever they are about. */
#include "workers/select/measure.h"
#include "workers/select/select.h"

static const struct param_spec params[] = {MEASURE_DAMAGE_PARAM};

static bool top_damage_select(const struct select_run *run, struct selection *ret_selection,
                              struct error *error)
{
    for (size_t i = 0; i < ret_selection->count; i++) { /* of no record there is no column */
        ret_selection->scores[i] = run->records->damages[i];
    }
    ret_selection->score_name = "damage";
    return selection_take_best(ret_selection, run, RANKING_FALLING, error);
}

const struct select_method select_method_top_damage = {
    .name = "top_damage",
    .summary = "The records on which the pruned model is farthest from the original.",
    .reference = "PASER without clusters: data_selection 1.2 d",
    .needs = SELECT_NEED_DAMAGE,
    .params = params,
    .param_count = sizeof params / sizeof params[0],
    .select = top_damage_select,
};
