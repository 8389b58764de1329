/*
 * workers/prune/wanda_sp.c: Wanda-sp, the structured form of Wanda (Sun et al., arXiv 2306.11695) in the repository of FLAP: a column of an
 * output projection is worth its mean absolute weight times the norm of its input (structured_pruning section 7); a head is worth the sum of
 * its columns.
 */
#include "workers/prune/width_score.h"

static const struct param_spec params[] = {WIDTH_STRUCTURES_PARAM("all")};

static bool score_part(const struct prune_run *run, const struct width_part *part, double *ret_scores,
                       struct error *error)
{
    (void)run;
    (void)error;
    score_wanda_sp(width_part_moments(part), width_part_columns(part), ret_scores);
    return true;
}

static bool wanda_sp_score(const struct prune_run *run, struct width_groups *groups, struct error *error)
{
    return width_score_columns(run, groups, score_part, SCORE_SUM, error);
}

const struct prune_method prune_method_wanda_sp = {
    .name = "wanda_sp",
    .summary = "Narrows FFNs and attention where weights times the norms of their inputs are smallest.",
    .reference =
        "Sun et al. 2023, Wanda, arXiv 2306.11695; structured as in An et al. 2023, FLAP, arXiv 2312.11983",
    .needs = PRUNE_NEED_CALIBRATION | PRUNE_NEED_WIDTH,
    .traits = PRUNE_TRAIT_WIDTH,
    .params = params,
    .param_count = sizeof params / sizeof params[0],
    .decide = width_decide,
    .default_allocation = "uniform",
    .default_compensation = "none",
    .choose = width_choose_structures,
    .score = wanda_sp_score,
    .standardises = true,
};
