/* workers/select/method_rds.c: the records most like those of given data sets, which take turns in choosing (rds.h). */
#include "workers/select/rds.h"
#include "workers/select/select.h"

#include "base/memory.h"
#include <string.h>

static const char *const poolings[] = {"max", "mean", NULL};
static const struct param_spec params[] = {
    SELECT_TARGETS_PARAM,
    {.name = "pooling",
     .type = PARAM_ENUM,
     .values = poolings,
     .default_json = "\"max\"",
     .help = "A record is worth its cosine to the nearest target, or the mean of its cosines to all."},
};

static bool rds_select(const struct select_run *run, struct selection *ret_selection, struct error *error)
{
    const struct select_records *records = run->records, *targets = run->targets;
    size_t count = records->count, groups = targets->source_count;
    size_t wanted = run->budget.unit == BUDGET_RECORDS ? selection_wanted(run) : count;
    const struct rds_targets wanted_like = {.count = targets->count,
                                            .size = targets->embedding_size,
                                            .rows = targets->embeddings,
                                            .groups = targets->sources,
                                            .group_count = groups};
    enum rds_pooling pooling = strcmp(select_text(run, "pooling"), "mean") == 0 ? RDS_MEAN : RDS_MAX;
    OWNED_MEMORY double *scores = memory_try_array(count, groups * sizeof *scores, "cosines", error);
    OWNED_MEMORY size_t *order = memory_try_array(wanted, sizeof *order, "the order of records", error);
    ret_selection->score_name = "cosine";
    if (scores == NULL || order == NULL) {
        return false;
    }
    if (count == 0) {
        return true;
    }
    if (!rds_score(run->threads, count, records->embeddings, &wanted_like, pooling, scores, error) ||
        !rds_round_robin(count, groups, scores, NULL, wanted, order, NULL, error)) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        ret_selection->scores[i] = scores[i];
        for (size_t g = 1; g < groups; g++) {
            double score = scores[g * count + i];
            ret_selection->scores[i] = score > ret_selection->scores[i] ? score : ret_selection->scores[i];
        }
    }
    selection_take(ret_selection, run, order, wanted);
    json_put_i64(ret_selection->details, "targets", (int64_t)targets->count);
    return true;
}

const struct select_method select_method_rds = {
    .name = "rds",
    .summary = "The records most like those of given data sets, which take turns in choosing.",
    .reference =
        "RDS+ of Ivison et al. 2025, Large-Scale Data Selection for Instruction Tuning, arXiv 2503.01807",
    .needs = SELECT_NEED_EMBEDDINGS | SELECT_NEED_TARGETS,
    .params = params,
    .param_count = sizeof params / sizeof params[0],
    .select = rds_select,
};
