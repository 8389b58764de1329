/*
 * workers/select/method_perplexity.c: random records of a band of perplexity under the original model (perplexity_band.h). The lowest is what the
 * model knows by heart, so a low band is no selection of what to learn; the highest is noise, which the default leaves out.
 */
#include "workers/select/perplexity_band.h"
#include "workers/select/sampling.h"
#include "workers/select/select.h"

#include "base/memory.h"

static const struct param_spec params[] = {
    {.name = "low_ratio",
     .type = PARAM_NUMBER,
     .flags = PARAM_OPEN_MAX,
     .max = 1,
     .default_json = "0.0",
     .help = "Share of the records, by rising perplexity, that is left out."},
    {.name = "high_ratio",
     .type = PARAM_NUMBER,
     .flags = PARAM_OPEN_MIN,
     .max = 1,
     .default_json = "0.95",
     .help = "Share of the records, by rising perplexity, where the band ends; POINTS takes 0 to 0.2."},
};

static bool perplexity_check(const json_t *parameters, struct error *error)
{
    double low = json_number_value(json_object_get(parameters, "low_ratio"));
    double high = json_number_value(json_object_get(parameters, "high_ratio"));
    return low < high || error_set_field(error, ERROR_INVALID_ARGUMENT, "/high_ratio",
                                         "the band ends at %g, not above low_ratio, %g", high, low);
}

static bool perplexity_select(const struct select_run *run, struct selection *ret_selection,
                              struct error *error)
{
    const struct select_records *records = run->records;
    const struct perplexity_band band = {select_number(run, "low_ratio"), select_number(run, "high_ratio")};
    struct perplexity_band_result result;
    OWNED_MEMORY size_t *kept = memory_try_array(records->count, sizeof *kept, "records of the band", error);
    if (kept == NULL || !perplexity_check(run->parameters, error) ||
        !perplexity_band_select(records->losses, records->response_tokens, records->count, &band, kept,
                                &result, error)) {
        return false;
    }
    for (size_t i = 0; i < records->count; i++) {
        ret_selection->scores[i] = records->losses[i];
        ret_selection->reasons[i] = SELECT_FILTERED;
    }
    for (size_t i = 0; i < result.kept_count; i++) {
        ret_selection->reasons[kept[i]] = SELECT_NOT_CHOSEN;
    }
    if (!sampling_shuffle(&(struct rng){.seed = run->seed}, kept, result.kept_count, error)) {
        return false;
    }
    selection_take(ret_selection, run, kept, result.kept_count);
    ret_selection->score_name = "loss";
    json_put_i64(ret_selection->details, "in_band", (int64_t)result.kept_count);
    json_put_double(ret_selection->details, "lowest_loss", result.low_nll_mean);
    json_put_double(ret_selection->details, "highest_loss", result.high_nll_mean);
    return true;
}

const struct select_method select_method_perplexity = {
    .name = "perplexity",
    .summary = "Random records of a band of the original model's perplexity of the response.",
    .reference = "POINTS, arXiv 2409.04828, as a band: data_selection 7.1",
    .needs = SELECT_NEED_LOSSES,
    .params = params,
    .param_count = sizeof params / sizeof params[0],
    .check = perplexity_check,
    .select = perplexity_select,
};
