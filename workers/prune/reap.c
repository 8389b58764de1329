/*
 * workers/prune/reap.c: REAP (Lasby et al., arXiv 2510.13999): experts of a mixture are worth the mean, over the tokens routed to them, of
 * the router's weight times the norm of their output (structured_pruning section 15c); the others go whole, none is merged. An expert that
 * no calibration token chose is worth 0.
 */
#include "workers/prune/width_score.h"

static void choose(const json_t *parameters, unsigned *ret_kinds, unsigned *ret_statistics)
{
    (void)parameters;
    *ret_kinds = WIDTH_KIND(WIDTH_EXPERTS);
    *ret_statistics = WIDTH_ROUTED;
}

static bool reap_score(const struct prune_run *run, struct width_groups *groups, struct error *error)
{
    return width_score_experts(run, groups, error);
}

const struct prune_method prune_method_reap = {
    .name = "reap",
    .summary = "Removes the experts of a mixture that add least to the tokens routed to them.",
    .reference = "Lasby et al. 2025, REAP, arXiv 2510.13999",
    .needs = PRUNE_NEED_CALIBRATION | PRUNE_NEED_WIDTH,
    .traits = PRUNE_TRAIT_WIDTH,
    .decide = width_decide,
    .default_allocation = "uniform",
    .default_compensation = "none",
    .choose = choose,
    .score = reap_score,
};
