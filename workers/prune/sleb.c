/*
 * workers/prune/sleb.c: SLEB (Song et al., arXiv 2402.09025): greedy removal of whole blocks by the negative log-likelihood of the
 * calibration text without them. The first and the last block are never removed (the reference's barriers of 1). Ties go to the
 * lower block.
 */
#include "workers/prune/greedy.h"
#include "workers/prune/greedy_params.h"

#include "base/memory.h"

#define KEPT_ENDS 1

static const struct param_spec params[] = {GREEDY_SEARCH_PARAMS};

static bool sleb_decide(struct prune_run *run, const struct prune_target *target, struct plan *ret_plan,
                        struct error *error)
{
    struct greedy_options options = {.granularity = PRUNE_BY_BLOCK, .protected_ends = KEPT_ENDS};
    greedy_options_read(run->parameters, &options);
    return greedy_search(run, &options, target, ret_plan, error);
}

static bool sleb_estimate(const struct prune_run *run, const struct prune_target *target,
                          struct plan *ret_plan, struct error *error)
{
    OWNED_MEMORY struct prune_unit *units = NULL;
    size_t count = prune_list_units(run, PRUNE_BY_BLOCK, &units), left = 0;
    for (size_t i = 0; i < count; i++) {
        size_t layer = run->sublayers[units[i].first].layer;
        if (layer >= KEPT_ENDS && layer + KEPT_ENDS < run->inventory->config.layer_count) {
            units[left++] = units[i];
        }
    }
    return prune_estimate(run, units, left, target, ret_plan, error);
}

const struct prune_method prune_method_sleb = {
    .name = "sleb",
    .summary =
        "Greedy removal of whole blocks, not the first nor the last, that costs the least log-likelihood.",
    .reference = "Song et al. 2024, SLEB, arXiv 2402.09025",
    .needs = PRUNE_NEED_CALIBRATION | PRUNE_NEED_EVALUATOR,
    .traits = PRUNE_TRAIT_CURVE | PRUNE_TRAIT_PACKS,
    .params = params,
    .param_count = sizeof params / sizeof params[0],
    .decide = sleb_decide,
    .estimate = sleb_estimate,
};
