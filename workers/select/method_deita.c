/* workers/select/method_deita.c: complexity times quality, as records say them of themselves, and no two records that are near each other (deita.h). */
#include "workers/select/deita.h"
#include "workers/select/select.h"

#include "base/memory.h"
#include <math.h>

static const struct param_spec params[] = {
    {.name = "columns",
     .type = PARAM_ARRAY,
     .min = 2,
     .max = 2,
     .members = &select_column_item,
     .member_count = 1,
     .default_json = "[\"complexity\", \"quality\"]",
     .help = "Where a record holds the scores of its complexity and its quality."},
    {.name = "threshold",
     .type = PARAM_NUMBER,
     .max = 2,
     .default_json = "0.1",
     .help = "How far apart chosen records are at least: 1 - cosine."},
};

static bool deita_select(const struct select_run *run, struct selection *ret_selection, struct error *error)
{
    const struct select_records *records = run->records;
    size_t count = records->count;
    OWNED_MEMORY double *complexity = memory_try_array(count, sizeof *complexity, "complexities", error);
    OWNED_MEMORY double *quality = memory_try_array(count, sizeof *quality, "qualities", error);
    ret_selection->score_name = "complexity_times_quality";
    if (complexity == NULL || quality == NULL) {
        return false;
    }
    if (count == 0) {
        return true;
    }
    for (size_t i = 0; i < count; i++) {
        complexity[i] = records->columns[i * records->column_count];
        quality[i] = records->columns[i * records->column_count + 1];
    }
    const struct deita_walk walk = {.n = count,
                                    .size = records->embedding_size,
                                    .rows = records->embeddings,
                                    .scores = ret_selection->scores,
                                    .tokens = records->total_tokens,
                                    .threshold = select_number(run, "threshold"),
                                    .budget = run->budget};
    struct deita_use use;
    size_t without_numbers = 0;
    if (!deita_scores(complexity, quality, count, ret_selection->scores, error)) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (isnan(ret_selection->scores[i])) {
            ret_selection->reasons[i] = SELECT_FILTERED;
            without_numbers++;
        }
    }
    if (without_numbers == count) {
        return error_set(error, ERROR_INVALID_ARGUMENT, "no record has a number in both columns");
    }
    if (!deita_choose(run->threads, &walk, ret_selection->order, &use, error)) {
        return false;
    }
    ret_selection->chosen_count = use.admitted.records;
    for (size_t i = 0; i < use.admitted.records; i++) {
        ret_selection->reasons[ret_selection->order[i]] = SELECT_CHOSEN;
    }
    json_put_i64(ret_selection->details, "records_without_numbers", (int64_t)without_numbers);
    json_put_i64(ret_selection->details, "too_near", (int64_t)use.too_near);
    json_put_i64(ret_selection->details, "too_long", (int64_t)use.too_long);
    return true;
}

const struct select_method select_method_deita = {
    .name = "deita",
    .summary = "The most complex and best records by scores of theirs, none near one chosen before.",
    .reference = "Liu et al. 2024, Deita, What Makes Good Data for Alignment?, arXiv 2312.15685",
    .needs = SELECT_NEED_EMBEDDINGS | SELECT_NEED_FIELDS,
    .params = params,
    .param_count = sizeof params / sizeof params[0],
    .select = deita_select,
};
