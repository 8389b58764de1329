/*
 * workers/prune/finercut.c: FinerCut (Zhang et al., arXiv 2405.18218): greedy removal of attention and FFN
 * sublayers by the distance of the final logits from the original model's.
 *
 * Reference behaviour that is kept (structured_pruning 1.3): with N sublayers and protect_ratio x, layers
 * 0 .. int(N x / 2) are no candidates until int(N x) + 1 sublayers are gone. So x = 0 protects layer 0 for
 * the first removal only. Scores are exact; ties go to the lower index in residual order (the reference takes
 * the alphabetically first module name).
 */
#include "workers/prune/greedy.h"
#include "workers/prune/greedy_params.h"

static const char *const granularities[] = {"sublayer", "block", NULL};
static const char *const metrics[] = {"norm", "angular", "kl", "js", "nll", NULL};
static const char *const js_forms[] = {"reference", "textbook", NULL};

static const struct param_spec params[] = {
    {.name = "metric",
     .type = PARAM_ENUM,
     .values = metrics,
     .default_json = "\"js\"",
     .help =
         "Distance between the final logits of the original and of the pruned model; nll: what the text's own "
         "next tokens cost, without the original."},
    {.name = "js_form",
     .type = PARAM_ENUM,
     .values = js_forms,
     .default_json = "\"reference\"",
     .help = "Form of the Jensen-Shannon divergence: the reference implementation's, or the textbook's; only "
             "for metric js."},
    {.name = "granularity",
     .type = PARAM_ENUM,
     .values = granularities,
     .default_json = "\"sublayer\"",
     .help = "What goes in one step: an attention or FFN sublayer, or a whole block."},
    {.name = "protect_ratio",
     .type = PARAM_NUMBER,
     .min = 0,
     .max = 1,
     .default_json = "0.4",
     .help = "Share of the early blocks that are not touched until that share of all sublayers is gone."},
    {.name = "gram_head",
     .type = PARAM_BOOL,
     .default_json = "true",
     .help = "Metrics norm and angular by the head's Gram matrix in double, without logits."},
    GREEDY_SEARCH_PARAMS,
};

static const char *const late_params[] = {"curve", NULL};

static bool finercut_decide(struct prune_run *run, const struct prune_target *target, struct plan *ret_plan,
                            struct error *error)
{
    double protect_ratio = json_number_value(json_object_get(run->parameters, "protect_ratio"));
    double product = (double)run->sublayer_count * protect_ratio;
    struct greedy_options options = {
        .granularity = prune_run_granularity(run),
        .protected_layers = (size_t)(product / 2) + 1,
        .release_count = (size_t)product + 1,
    };
    greedy_options_read(run->parameters, &options);
    /* With few or narrow layers everything can be protected; then nothing is. */
    if (options.protected_layers >= run->inventory->config.layer_count) {
        options.protected_layers = 0;
    }
    return greedy_search(run, &options, target, ret_plan, error);
}

const struct prune_method prune_method_finercut = {
    .name = "finercut",
    .summary =
        "Greedy removal of attention and FFN sublayers whose absence changes the output distribution least.",
    .reference = "Zhang et al. 2024, FinerCut, arXiv 2405.18218",
    .needs = PRUNE_NEED_CALIBRATION | PRUNE_NEED_EVALUATOR,
    .traits = PRUNE_TRAIT_CURVE,
    .params = params,
    .param_count = sizeof params / sizeof params[0],
    .late_params = late_params,
    .decide = finercut_decide,
};
