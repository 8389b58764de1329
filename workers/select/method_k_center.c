/*
 * workers/select/method_k_center.c: records that cover all there is (k_center.h): each is the one farthest from those before it.
 *
 * Each choice costs a pass over all records, so that no more are ranked than the budget takes: of tokens first as many as it pays for by their
 * mean, and twice as many again while more might fit. The order begins the same however many are ranked, so the selection does too.
 */
#include "workers/select/k_center.h"
#include "workers/select/select.h"

#include "base/memory.h"
#include <math.h>

/* Ranks `wanted` and takes what the budget pays for. */
static bool try_count(const struct select_run *run, size_t wanted, struct selection *selection,
                      struct error *error)
{
    const struct select_records *records = run->records;
    double radius = 0;
    OWNED_MEMORY uint32_t *centres = memory_try_array(wanted, sizeof *centres, "centres", error);
    OWNED_MEMORY size_t *order = memory_try_array(wanted, sizeof *order, "the order of records", error);
    if (centres == NULL || order == NULL ||
        !k_center_select(run->threads, records->embeddings, records->count, records->embedding_size, wanted,
                         centres, &radius, error)) {
        return false;
    }
    for (size_t i = 0; i < wanted; i++) {
        order[i] = centres[i];
    }
    selection_take(selection, run, order, wanted);
    json_put_double(selection->details, "radius", radius);
    json_put_i64(selection->details, "ranked", (int64_t)wanted);
    return true;
}

static bool could_take_more(const struct select_run *run, const struct selection *selection)
{
    struct budget_use use = {0};
    for (size_t i = 0; i < selection->chosen_count; i++) {
        if (!budget_take(&run->budget, run->records->total_tokens[selection->order[i]], &use)) {
            return false;
        }
    }
    for (size_t i = 0; i < run->records->count; i++) {
        if (selection->reasons[i] == SELECT_NOT_CHOSEN &&
            run->records->total_tokens[i] <= budget_unused(&run->budget, &use)) {
            return true;
        }
    }
    return false;
}

static bool k_center_method_select(const struct select_run *run, struct selection *ret_selection,
                                   struct error *error)
{
    size_t count = ret_selection->count, wanted = selection_wanted(run);
    ret_selection->score_name = "none";
    while (true) {
        if (!try_count(run, wanted, ret_selection, error)) {
            return false;
        }
        if (run->budget.unit == BUDGET_RECORDS || wanted == count || !could_take_more(run, ret_selection)) {
            return true;
        }
        wanted = wanted < count / 2 ? 2 * wanted + 1 : count;
    }
}

const struct select_method select_method_k_center = {
    .name = "k_center",
    .summary = "Records that cover all there is: each the one farthest from those before it.",
    .reference = "Gonzalez 1985; as a core set, Sener and Savarese 2018, arXiv 1708.00489",
    .needs = SELECT_NEED_EMBEDDINGS,
    .select = k_center_method_select,
};
