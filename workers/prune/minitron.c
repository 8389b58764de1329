/*
 * workers/prune/minitron.c: Minitron (Muralidharan et al., arXiv 2407.14679): every axis of a transformer scored by activations alone
 * (structured_pruning section 14.1), each the root of the sum over sequences of squared means of |x|:
 *
 *     channels  x = input of down_proj; of a mixture: one score for all experts, weighted by their tokens, so that they keep the same
 *     heads     x = input of o_proj; a head is the Euclidean norm of its columns
 *     hidden    x = normed rows before every sublayer, summed over sublayers
 *     experts   mean over routed tokens of the router's weight times the norm of the output
 *     blocks    1 - cos(input, output): the lowest go, so many
 *
 * The parameters choose the axes. Blocks go first; what is still missing to the target then comes from the widths, the same ratio
 * everywhere ("uniform"), which leaves a plain config.
 */
#include "workers/prune/width_score.h"

#include "base/memory.h"
#include <math.h>
#include <stdlib.h>

#define AXIS(axis, preset, text)                                                                             \
    {                                                                                                        \
        .name = axis, .type = PARAM_BOOL, .default_json = preset, .help = text                               \
    }
static const struct param_spec params[] = {
    AXIS("channels", "true", "FFN channels go (of experts too, the same in all)."),
    AXIS("heads", "true", "Attention heads go."),
    AXIS("hidden", "false", "Channels of the residual stream go, the same in all layers."),
    AXIS("experts", "false", "Whole experts go."),
    {.name = "blocks",
     .type = PARAM_INTEGER,
     .min = 0,
     .max = 1023,
     .default_json = "0",
     .unit = "blocks",
     .help = "So many blocks go first, those that turn the residual least."},
};

static size_t block_count(const json_t *parameters)
{
    return (size_t)json_integer_value(json_object_get(parameters, "blocks"));
}

static void choose(const json_t *parameters, unsigned *ret_kinds, unsigned *ret_statistics)
{
    bool has_channels = json_is_true(json_object_get(parameters, "channels"));
    bool has_heads = json_is_true(json_object_get(parameters, "heads"));
    bool has_hidden = json_is_true(json_object_get(parameters, "hidden"));
    bool has_experts = json_is_true(json_object_get(parameters, "experts"));
    *ret_kinds = (has_channels ? WIDTH_KINDS_CHANNELS : 0) | (has_heads ? WIDTH_KIND(WIDTH_HEADS) : 0) |
                 (has_hidden ? WIDTH_KIND(WIDTH_HIDDEN) : 0) | (has_experts ? WIDTH_KIND(WIDTH_EXPERTS) : 0);
    *ret_statistics = (has_channels || has_heads ? WIDTH_MOMENTS : 0) | (has_hidden ? WIDTH_RESIDUAL : 0) |
                      (has_experts ? WIDTH_ROUTED : 0) | (block_count(parameters) > 0 ? WIDTH_ANGLES : 0);
}

/* Of an expert: all experts together. */
static bool score_part(const struct prune_run *run, const struct width_part *part, double *ret_scores,
                       struct error *error)
{
    (void)run;
    const struct width_sublayer *sublayer = part->sublayer;
    if (sublayer->part_count == 1) {
        score_minitron(width_part_moments(part), ret_scores);
        return true;
    }
    OWNED_MEMORY double *scores = memory_try_array(sublayer->count, sizeof *scores, "scores", error);
    if (scores == NULL) {
        return false;
    }
    double tokens = 0;
    for (size_t e = 0; e < sublayer->part_count; e++) {
        tokens += (double)sublayer->moments[e]->tokens;
    }
    for (size_t c = 0; c < sublayer->count; c++) {
        ret_scores[c] = 0;
    }
    for (size_t e = 0; e < sublayer->part_count; e++) {
        double share = tokens > 0 ? (double)sublayer->moments[e]->tokens / tokens : 0;
        score_minitron(sublayer->moments[e], scores);
        for (size_t c = 0; c < sublayer->count; c++) {
            ret_scores[c] += share * scores[c];
        }
    }
    return true;
}

static bool score_hidden(const struct prune_run *run, struct width_group *group, struct error *error)
{
    OWNED_MEMORY double *scores = memory_try_array(group->count, sizeof *scores, "scores", error);
    if (scores == NULL) {
        return false;
    }
    for (size_t i = 0; i < run->sublayer_count; i++) {
        score_minitron(run->statistics->sublayers[i].residual, scores);
        score_add(group->scores, scores, group->count);
    }
    return score_check(group->scores, group->count, "the residual stream", error);
}

static bool minitron_score(const struct prune_run *run, struct width_groups *groups, struct error *error)
{
    for (size_t i = 0; i < groups->count; i++) {
        if (groups->items[i].kind == WIDTH_HIDDEN && !score_hidden(run, &groups->items[i], error)) {
            return false;
        }
    }
    return width_score_experts(run, groups, error) &&
           width_score_columns(run, groups, score_part, SCORE_NORM, error);
}

static bool check_blocks(size_t wanted, size_t count, struct error *error)
{
    return wanted < count ||
           error_set_field(error, ERROR_UNREACHABLE, "/method/minitron/blocks",
                           "%zu blocks cannot go: only %zu may, and one must stay", wanted, count);
}

/* The blocks that turn least, in the order of going; ties: the lower one. */
static bool remove_blocks(struct prune_run *run, struct plan *plan, struct error *error)
{
    if (run->statistics == NULL || run->statistics->cosines == NULL) {
        return error_set(error, ERROR_INTERNAL, "no cosines of blocks were gathered");
    }
    struct prune_unit *units = NULL;
    size_t count = prune_list_units(run, PRUNE_BY_BLOCK, &units);
    size_t wanted = block_count(run->parameters);
    bool is_good = check_blocks(wanted, count, error);
    for (size_t round = 0; round < wanted && is_good; round++) {
        size_t best = count;
        double lowest = INFINITY;
        for (size_t i = 0; i < count; i++) {
            double turn = (double)INFINITY;
            if (units[i].count > 0) {
                turn = 1 - run->statistics->cosines[run->sublayers[units[i].first].layer];
            }
            if (isnan(turn)) {
                is_good = error_set(error, ERROR_NUMERIC, "the cosine of block %zu is not a number",
                                    run->sublayers[units[i].first].layer);
            }
            if (turn < lowest) {
                lowest = turn;
                best = i;
            }
        }
        if (is_good) {
            prune_add_unit(plan, &units[best], lowest);
            units[best].count = 0;
        }
    }
    free(units);
    if (is_good) {
        plan_cut(plan, plan->point_count);
    }
    return is_good;
}

/* So many blocks go, whichever they are. */
static bool minitron_estimate(const struct prune_run *run, const struct prune_target *target,
                              struct plan *ret_plan, struct error *error)
{
    struct prune_unit *units = NULL;
    size_t count = prune_list_units(run, PRUNE_BY_BLOCK, &units), wanted = block_count(run->parameters);
    bool is_good = check_blocks(wanted, count, error);
    for (size_t i = 0; i < wanted && is_good; i++) {
        prune_add_unit(ret_plan, &units[i], NAN);
    }
    free(units);
    plan_cut(ret_plan, ret_plan->point_count);
    return is_good && width_estimate(run, target, ret_plan, error);
}

static bool minitron_decide(struct prune_run *run, const struct prune_target *target, struct plan *ret_plan,
                            struct error *error)
{
    return (block_count(run->parameters) == 0 || remove_blocks(run, ret_plan, error)) &&
           width_decide(run, target, ret_plan, error);
}

const struct prune_method prune_method_minitron = {
    .name = "minitron",
    .summary =
        "Narrows every layer alike by the size of activations: channels, heads, hidden size, experts, blocks.",
    .reference = "Muralidharan et al. 2024, Minitron, arXiv 2407.14679: importance of width and depth",
    .needs = PRUNE_NEED_CALIBRATION | PRUNE_NEED_WIDTH,
    .traits = PRUNE_TRAIT_WIDTH,
    .params = params,
    .param_count = sizeof params / sizeof params[0],
    .decide = minitron_decide,
    .estimate = minitron_estimate,
    .default_allocation = "uniform",
    .default_compensation = "none",
    .choose = choose,
    .score = minitron_score,
    .standardises = true,
    .ranks_within_groups = true,
};
