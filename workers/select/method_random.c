/* workers/select/method_random.c: every record as likely as any other (sampling.h): what a selector has to beat. */
#include "workers/select/sampling.h"
#include "workers/select/select.h"

#include "base/memory.h"

static bool random_select(const struct select_run *run, struct selection *ret_selection, struct error *error)
{
    const struct select_records *records = run->records;
    const struct rng rng = {.seed = run->seed};
    OWNED_MEMORY size_t *order =
        memory_try_array(records->count, sizeof *order, "the order of records", error);
    if (order == NULL) {
        return false;
    }
    struct budget_use use = sampling_draw(&rng, records->count, records->total_tokens, &run->budget, order);
    selection_take(ret_selection, run, order, use.records);
    ret_selection->score_name = "none";
    return true;
}

const struct select_method select_method_random = {
    .name = "random",
    .summary = "Every record as likely as any other.",
    .reference = "the baseline of all papers; Fisher and Yates 1938",
    .select = random_select,
};
