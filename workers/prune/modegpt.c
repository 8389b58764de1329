/*
 * workers/prune/modegpt.c: the FFN part of MoDeGPT (Lin et al., arXiv 2408.09632): a Nystroem approximation keeps the channels with the
 * highest ridge leverage, the diagonal of C (C + lambda I)^-1 with C the Gram matrix of down_proj's inputs, and rebuilds down_proj from
 * them, which is the least-squares compensation (structured_pruning sections 15b and 15c).
 */
#include "workers/prune/width_score.h"

#include <string.h>

static const struct param_spec params[] = {
    {.name = "leverage_ratio",
     .type = PARAM_NUMBER,
     .flags = PARAM_OPEN_MIN,
     .min = 0,
     .max = 1000,
     .default_json = "0.01",
     .help = "lambda of the leverage, as a multiple of the mean of the Gram matrix's diagonal."},
};

static void choose(const json_t *parameters, unsigned *ret_kinds, unsigned *ret_statistics)
{
    (void)parameters;
    *ret_kinds = WIDTH_KINDS_CHANNELS;
    *ret_statistics = WIDTH_LEVERAGE;
}

static bool score_part(const struct prune_run *run, const struct width_part *part, double *ret_scores,
                       struct error *error)
{
    (void)run;
    (void)error;
    memcpy(ret_scores, part->sublayer->leverage[part->part], part->sublayer->count * sizeof *ret_scores);
    return true;
}

static bool modegpt_score(const struct prune_run *run, struct width_groups *groups, struct error *error)
{
    return width_score_columns(run, groups, score_part, SCORE_SUM, error);
}

const struct prune_method prune_method_modegpt = {
    .name = "modegpt",
    .summary = "Narrows FFNs to the channels of the highest ridge leverage, and rebuilds the rest from them.",
    .reference = "Lin et al. 2024, MoDeGPT, arXiv 2408.09632, the Nystroem part (FFN)",
    .needs = PRUNE_NEED_CALIBRATION | PRUNE_NEED_WIDTH,
    .traits = PRUNE_TRAIT_WIDTH,
    .params = params,
    .param_count = sizeof params / sizeof params[0],
    .decide = width_decide,
    .default_allocation = "uniform",
    .default_compensation = "ls",
    .choose = choose,
    .score = modegpt_score,
};
