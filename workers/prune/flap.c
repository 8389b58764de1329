/*
 * workers/prune/flap.c: FLAP (An et al., AAAI 2024): a column that hardly fluctuates can be replaced by its mean, which goes into the bias of
 * the output projection (structured_pruning section 6). The metric is the weighted variance of the column's input; it is standardised
 * within each layer and kind, so that one ranking over the whole model (allocation "global", the published AL-AM) compares heads with
 * channels. A head is worth the mean of its columns' standard scores.
 *
 * Differences from the published code: the variance is exact (moments.h), where theirs forgets the first sequence; heads of grouped
 * attention are handled; experts' channels are standardised expert by expert.
 */
#include "workers/prune/width_score.h"

static const char *const metrics[] = {"wifv", "ifv", "wifn", NULL}; /* in the order of enum flap_metric */
static const struct param_spec params[] = {
    WIDTH_STRUCTURES_PARAM("all"),
    {.name = "metric",
     .type = PARAM_ENUM,
     .values = metrics,
     .default_json = "\"wifv\"",
     .help =
         "wifv: variance of the input times the squared weights; ifv: variance alone; wifn: mean weight times "
         "norm of the input."},
};

static bool score_part(const struct prune_run *run, const struct width_part *part, double *ret_scores,
                       struct error *error)
{
    enum flap_metric metric = (enum flap_metric)width_find_value(run->parameters, "metric", metrics);
    score_flap(metric, part->group->kind == WIDTH_HEADS, width_part_moments(part), width_part_columns(part),
               ret_scores);
    if (!score_check(ret_scores, part->sublayer->count, "a layer", error)) {
        return error_prefix(error, "layer %zu: ", part->group->layer);
    }
    score_standardise(ret_scores, part->sublayer->count);
    return true;
}

static bool flap_score(const struct prune_run *run, struct width_groups *groups, struct error *error)
{
    return width_score_columns(run, groups, score_part, SCORE_MEAN, error);
}

const struct prune_method prune_method_flap = {
    .name = "flap",
    .summary = "Narrows FFNs and attention where inputs fluctuate least, and keeps their means as biases.",
    .reference = "An et al. 2023, FLAP, arXiv 2312.11983: WIFV, standardisation, AL-AM, bias compensation",
    .needs = PRUNE_NEED_CALIBRATION | PRUNE_NEED_WIDTH,
    .traits = PRUNE_TRAIT_WIDTH,
    .params = params,
    .param_count = sizeof params / sizeof params[0],
    .decide = width_decide,
    .default_allocation = "global",
    .default_compensation = "bias",
    .choose = width_choose_structures,
    .score = flap_score,
};
