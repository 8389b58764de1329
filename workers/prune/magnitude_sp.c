/*
 * workers/prune/magnitude_sp.c: the baseline that needs no data: a column of an output projection is worth its Euclidean norm
 * (structured_pruning section 7); a head is worth the sum of its columns.
 */
#include "workers/prune/width_score.h"

static const struct param_spec params[] = {WIDTH_STRUCTURES_PARAM("all")};

static void choose(const json_t *parameters, unsigned *ret_kinds, unsigned *ret_statistics)
{
    *ret_kinds = width_structures_chosen(parameters);
    *ret_statistics = WIDTH_WEIGHTS;
}

static bool score_part(const struct prune_run *run, const struct width_part *part, double *ret_scores,
                       struct error *error)
{
    (void)run;
    (void)error;
    score_magnitude_sp(width_part_columns(part), ret_scores);
    return true;
}

static bool magnitude_sp_score(const struct prune_run *run, struct width_groups *groups, struct error *error)
{
    return width_score_columns(run, groups, score_part, SCORE_SUM, error);
}

const struct prune_method prune_method_magnitude_sp = {
    .name = "magnitude_sp",
    .summary =
        "Narrows FFNs and attention where the output projection's columns are shortest; needs no data.",
    .reference = "baseline: column norms, as in An et al. 2023, FLAP, arXiv 2312.11983",
    .needs = PRUNE_NEED_WIDTH,
    .traits = PRUNE_TRAIT_WIDTH,
    .params = params,
    .param_count = sizeof params / sizeof params[0],
    .decide = width_decide,
    .default_allocation = "uniform",
    .default_compensation = "none",
    .choose = choose,
    .score = magnitude_sp_score,
    .standardises = true,
};
