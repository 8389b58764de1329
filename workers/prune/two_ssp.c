/*
 * workers/prune/two_ssp.c: 2SSP (Sandri et al., arXiv 2501.17771), width then depth (structured_pruning section 15c):
 *
 *     1. FFN channels go, the same ratio in every layer, by the norm of what they add to the output: ||x_c||_2 ||W[:,c]||_2
 *     2. attention sublayers of the narrowed model go whole, greedily, the one without which the calibration text is likeliest
 *
 * How many attention sublayers go is balanced against the FFNs: with s the share of prunable weights that has to go,
 *
 *     count = round(attention sublayers * s^(ffn weights / (alpha * attention weights)))
 *
 * and the FFNs make up what is then missing. The widths are needed before it is known which attention goes, so they are solved with
 * stand-ins first and again for the choice; where all attentions are of one size, as in most models, both are the same. While the
 * second stage judges, the channels that went are masked.
 */
#include "workers/prune/greedy.h"
#include "workers/prune/greedy_params.h"
#include "workers/prune/width_score.h"

#include "base/memory.h"
#include "workers/model/tap.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct param_spec params[] = {
    {.name = "alpha",
     .type = PARAM_NUMBER,
     .flags = PARAM_OPEN_MIN,
     .min = 0,
     .max = 1000,
     .default_json = "1.5",
     .help = "How much of the target falls to attention: more with a larger alpha."},
    {.name = "attention_sublayers",
     .type = PARAM_INTEGER,
     .flags = PARAM_NULLABLE,
     .min = 0,
     .max = 1023,
     .unit = "sublayers",
     .help = "So many attention sublayers go; by alpha unless given."},
};

static void choose(const json_t *parameters, unsigned *ret_kinds, unsigned *ret_statistics)
{
    (void)parameters;
    *ret_kinds = WIDTH_KINDS_CHANNELS;
    *ret_statistics = WIDTH_MOMENTS | WIDTH_WEIGHTS;
}

static bool score_part(const struct prune_run *run, const struct width_part *part, double *ret_scores,
                       struct error *error)
{
    (void)run;
    (void)error;
    score_two_ssp(width_part_moments(part), width_part_columns(part), ret_scores);
    return true;
}

static bool two_ssp_score(const struct prune_run *run, struct width_groups *groups, struct error *error)
{
    return width_score_columns(run, groups, score_part, SCORE_SUM, error);
}

/* ---- how many attentions ----------------------------------------------------------------------------------------- */

/* The share of prunable weights that the target asks to remove. */
static double share_of(const struct prune_run *run, const struct prune_target *target)
{
    struct plan_size size;
    OWNED(plan) whole = plan_create(run->sublayer_count);
    plan_measure(whole, run->inventory, target->element_bytes, &size);
    double prunable = (double)size.prunable_count, all = (double)size.parameter_count;
    double share = 0;
    switch (target->kind) {
    case PRUNE_TARGET_SPARSITY:
        share = target->ratio;
        break;
    case PRUNE_TARGET_PARAMS:
        share = (all - (double)target->count) / prunable;
        break;
    case PRUNE_TARGET_MEMORY_BYTES:
        share = (1 - (double)target->count / (double)size.weight_bytes) * all / prunable;
        break;
    case PRUNE_TARGET_NUM_LAYERS:
    case PRUNE_TARGET_SUBLAYERS_REMOVED:
        break; /* width_decide refuses them */
    }
    return share < 0 ? 0 : share > 1 ? 1 : share;
}

static size_t count_attentions(const struct prune_run *run, const struct prune_target *target)
{
    double attention = 0, ffn = 0;
    size_t count = 0, may_go = 0;
    for (size_t i = 0; i < run->sublayer_count; i++) {
        bool is_attention = run->sublayers[i].kind == SUBLAYER_ATTENTION;
        *(is_attention ? &attention : &ffn) += (double)run->sublayers[i].parameter_count;
        count += is_attention ? 1 : 0;
        may_go += is_attention && !prune_is_skipped(run, run->sublayers[i].layer) ? 1 : 0;
    }
    const json_t *given = json_object_get(run->parameters, "attention_sublayers");
    double share = share_of(run, target), wanted = 0;
    if (json_is_integer(given)) {
        wanted = (double)json_integer_value(given);
    } else if (share > 0 && attention > 0) {
        double alpha = width_find_number(run->parameters, "alpha");
        wanted = floor((double)count * pow(share, ffn / (alpha * attention)) + 0.5);
    }
    return wanted < (double)may_go ? (size_t)wanted : may_go;
}

/* ---- the second stage sees a narrowed model ------------------------------------------------------------------------ */

static bool mask_channels(void *context, const struct tap_rows *rows, struct error *error)
{
    (void)error;
    const struct plan_width *width = &((const struct plan *)context)->widths[rows->sublayer];
    if (width->channels == NULL) {
        return true;
    }
    const uint32_t *kept = width->channels + rows->expert * width->channel_count;
    for (size_t r = 0; r < rows->rows; r++) {
        float *row = rows->values + r * rows->stride;
        for (size_t c = 0, next = 0; c < rows->size; c++) {
            bool stays = next < width->channel_count && kept[next] == c;
            next += stays ? 1 : 0;
            row[c] = stays ? row[c] : 0.0f;
        }
    }
    return true;
}

/* So many attentions go, whichever they are: the widths of what stays depend on their number alone. */
static void remove_stand_ins(const struct prune_run *run, size_t attentions, struct plan *plan)
{
    for (size_t i = 0; i < run->sublayer_count && attentions > 0; i++) {
        if (run->sublayers[i].kind == SUBLAYER_ATTENTION && !prune_is_skipped(run, run->sublayers[i].layer)) {
            prune_add_unit(plan, &(struct prune_unit){i, 1}, NAN);
            attentions--;
        }
    }
    plan_cut(plan, plan->point_count);
}

static bool two_ssp_estimate(const struct prune_run *run, const struct prune_target *target,
                             struct plan *ret_plan, struct error *error)
{
    remove_stand_ins(run, count_attentions(run, target), ret_plan);
    return width_estimate(run, target, ret_plan, error);
}

static bool remove_attentions(struct prune_run *run, const struct plan *narrowed, size_t attentions,
                              struct plan *ret_plan, struct error *error)
{
    struct prune_target goal = {.kind = PRUNE_TARGET_SUBLAYERS_REMOVED, .count = attentions};
    struct greedy_options options = {.granularity = PRUNE_BY_SUBLAYER, .is_attention_only = true};
    struct model_tap tap = {.context = (void *)(uintptr_t)narrowed,
                            .points = 1u << TAP_CHANNELS,
                            .changed = 1u << TAP_CHANNELS,
                            .visit = mask_channels};
    model_set_tap(run->model, &tap);
    bool is_good = greedy_search(run, &options, &goal, ret_plan, error);
    model_set_tap(run->model, NULL);
    return is_good;
}

static bool two_ssp_decide(struct prune_run *run, const struct prune_target *target, struct plan *ret_plan,
                           struct error *error)
{
    size_t attentions = count_attentions(run, target);
    struct prune_run quiet = *run; /* the state and its resume points are the second stage's */
    quiet.state = NULL;
    quiet.observer.save = NULL;
    if (attentions > 0) {
        OWNED(plan) narrowed = plan_create(run->sublayer_count);
        remove_stand_ins(run, attentions, narrowed);
        if (!width_decide(&quiet, target, narrowed, error) ||
            !remove_attentions(run, narrowed, attentions, ret_plan, error)) {
            return false;
        }
    }
    return width_decide(&quiet, target, ret_plan, error);
}

const struct prune_method prune_method_two_ssp = {
    .name = "two_ssp",
    .summary =
        "Narrows FFNs by what channels add to the output, then removes attention that perplexity misses least.",
    .reference = "Sandri et al. 2025, 2SSP, arXiv 2501.17771: both stages and their balance",
    .needs = PRUNE_NEED_CALIBRATION | PRUNE_NEED_WIDTH | PRUNE_NEED_EVALUATOR,
    .traits = PRUNE_TRAIT_WIDTH,
    .params = params,
    .param_count = sizeof params / sizeof params[0],
    .decide = two_ssp_decide,
    .estimate = two_ssp_estimate,
    .default_allocation = "uniform",
    .default_compensation = "none",
    .choose = choose,
    .score = two_ssp_score,
    .standardises = true,
};
