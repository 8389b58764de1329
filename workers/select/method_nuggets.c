/* workers/select/method_nuggets.c: the records that help most as the one example before others (nuggets.h). One that was asked fewer anchors has the share of
 * those. */
#include "workers/select/nuggets.h"
#include "workers/select/select.h"

#include "base/memory.h"
#include <math.h>

static const struct param_spec params[] = {
    {.name = "anchors",
     .type = PARAM_INTEGER,
     .min = 1,
     .max = 10000,
     .default_json = "100",
     .unit = "records",
     .help =
         "At most so many tasks are asked after each record: those nearest to the centres of so many clusters."},
    {.name = "targets",
     .type = PARAM_ARRAY,
     .flags = PARAM_NULLABLE,
     .min = 1,
     .max = 64,
     .members = &select_source_item,
     .member_count = 1,
     .help = "Data sets that the tasks are taken from; the records themselves unless given."},
    {.name = "threshold",
     .type = PARAM_NUMBER,
     .max = 1,
     .default_json = "0.85",
     .help = "A record of which it is sure that its score is above or not above this is asked no further."},
    {.name = "delta",
     .type = PARAM_NUMBER,
     .max = 0.5,
     .default_json = "0.05",
     .help = "How likely a record may be judged wrongly by that; 0: every record is asked every task."},
};

static bool nuggets_select(const struct select_run *run, struct selection *ret_selection, struct error *error)
{
    const struct select_records *records = run->records;
    size_t anchors = records->anchor_count, above = 0;
    uint64_t evaluations = 0;
    double threshold = select_number(run, "threshold");
    OWNED_MEMORY bool *is_unasked = memory_try_array(anchors, sizeof *is_unasked, "anchors", error);
    ret_selection->score_name = "golden_score";
    if (is_unasked == NULL) {
        return false;
    }
    for (size_t i = 0; i < records->count; i++) {
        struct nuggets_tally tally = {0};
        const double *row = records->one_shot + i * anchors;
        if (!cancel_check_now(run->threads->cancel, error)) {
            return false;
        }
        for (size_t j = 0; j < anchors; j++) {
            is_unasked[j] = isnan(row[j]);
        }
        if (!nuggets_tally(records->zero_shot, row, is_unasked, 1, anchors, &tally, error)) {
            return false;
        }
        evaluations += tally.anchors;
        ret_selection->scores[i] = nuggets_score(&tally);
        above += ret_selection->scores[i] > threshold ? 1 : 0;
    }
    json_put_i64(ret_selection->details, "anchors", (int64_t)anchors);
    json_put_i64(ret_selection->details, "pairs", (int64_t)(records->count * anchors));
    json_put_i64(ret_selection->details, "pairs_asked", (int64_t)evaluations);
    json_put_i64(ret_selection->details, "records_above_threshold", (int64_t)above);
    return selection_take_best(ret_selection, run, RANKING_FALLING, error);
}

const struct select_method select_method_nuggets = {
    .name = "nuggets",
    .summary =
        "The records that most often make the model's answers to other tasks likelier when they stand before them as an example.",
    .reference =
        "golden score of Li et al. 2024, One-Shot Learning as Instruction Data Prospector, arXiv 2312.10302; early stop by Hoeffding",
    .needs = SELECT_NEED_EMBEDDINGS | SELECT_NEED_ONE_SHOT,
    .params = params,
    .param_count = sizeof params / sizeof params[0],
    .select = nuggets_select,
};
