/*
 * workers/prune/blockpruner.c: BlockPruner (Zhong et al., arXiv 2406.10594): greedy removal of attention and FFN sublayers by the
 * perplexity of the calibration text without them. Its logarithm, the mean negative log-likelihood, ranks the same. Ties go to the
 * lower sublayer.
 */
#include "workers/prune/greedy.h"
#include "workers/prune/greedy_params.h"

static const struct param_spec params[] = {GREEDY_SEARCH_PARAMS};

static bool blockpruner_decide(struct prune_run *run, const struct prune_target *target,
                               struct plan *ret_plan, struct error *error)
{
    struct greedy_options options = {.granularity = PRUNE_BY_SUBLAYER};
    greedy_options_read(run->parameters, &options);
    return greedy_search(run, &options, target, ret_plan, error);
}

const struct prune_method prune_method_blockpruner = {
    .name = "blockpruner",
    .summary = "Greedy removal of attention and FFN sublayers that costs the least perplexity.",
    .reference = "Zhong et al. 2024, BlockPruner, arXiv 2406.10594",
    .needs = PRUNE_NEED_CALIBRATION | PRUNE_NEED_EVALUATOR,
    .traits = PRUNE_TRAIT_CURVE,
    .params = params,
    .param_count = sizeof params / sizeof params[0],
    .decide = blockpruner_decide,
};
