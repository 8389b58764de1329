/* workers/select/ifd_ranking.c: see ifd_ranking.h. */
#include "workers/select/ifd_ranking.h"

#include <string.h>

bool ifd_ranking_select(const struct select_run *run, enum ifd_form form, struct selection *selection,
                        struct error *error)
{
    const struct ifd_records records = {.count = run->records->count,
                                        .prompt_tokens = run->records->prompt_tokens,
                                        .answer_tokens = run->records->response_tokens,
                                        .conditional_losses = run->records->losses,
                                        .alone_losses = run->records->alone_losses};
    /* Records are cut to dataset.max_tokens already. */
    const struct ifd_rules rules = {.form = form,
                                    .max_tokens = UINT32_MAX,
                                    .min_answer_tokens = (uint32_t)select_count(run, "min_response_tokens")};
    FINISHED(ifd_result) result = {0};
    if (!ifd_select(&records, &rules, 1, &result, error)) {
        return false;
    }
    memcpy(selection->scores, result.scores, records.count * sizeof *result.scores);
    for (size_t i = 0; i < records.count; i++) {
        selection->reasons[i] = result.verdicts[i] == IFD_RANKED ? SELECT_NOT_CHOSEN : SELECT_FILTERED;
    }
    selection_take(selection, run, result.order, result.kept_count);
    selection->score_name = "ifd";
    json_put_i64(selection->details, "short_responses", (int64_t)result.verdict_counts[IFD_SHORT_ANSWER]);
    json_put_i64(selection->details, "above_one", (int64_t)result.verdict_counts[IFD_ABOVE_ONE]);
    json_put_i64(selection->details, "undefined", (int64_t)result.verdict_counts[IFD_UNDEFINED]);
    return true;
}
