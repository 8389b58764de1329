/*
 * workers/prune/angular_span.c: the unreasonable ineffectiveness of the deeper layers (Gromov et al., arXiv 2403.17887). For every
 * number n of blocks the contiguous span that turns the hidden states least,
 *
 *     l*(n) = argmin_l d(l, n),  d(l, n) = E[acos(cos(h_l, h_{l+n}))] / pi      (equations 6 to 8)
 *
 * over the last token of each sequence (the paper) or over all tokens. The target chooses the smallest n that is enough. Spans of
 * different n need not be nested, so a plan is one span: it goes as a whole, and its score is d.
 *
 * Rule "deepest" is the paper's simple one: the n deepest blocks but the very last, which stays.
 */
#include "workers/prune/angular_span.h"

#include "base/memory.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const token_choices[] = {"last", "all", NULL};
static const char *const rules[] = {"angle", "deepest", NULL};
static const struct param_spec params[] = {
    {.name = "tokens",
     .type = PARAM_ENUM,
     .values = token_choices,
     .default_json = "\"last\"",
     .help = "Whose states angles are averaged over: the last token of each sequence, or all."},
    {.name = "rule",
     .type = PARAM_ENUM,
     .values = rules,
     .default_json = "\"angle\"",
     .help = "The span of least angle, or the deepest blocks but the last one."},
};

size_t angular_span_list(const struct prune_run *run, struct prune_unit **ret_blocks)
{
    struct prune_run all = *run;
    all.layers = NULL;
    return prune_list_units(&all, PRUNE_BY_BLOCK, ret_blocks);
}

static bool qualifies(const struct prune_run *run, const struct prune_unit *blocks, size_t first,
                      size_t count, enum angular_span_rule rule)
{
    size_t begin = blocks[first].first;
    for (size_t i = first; i < first + count; i++) {
        if (prune_is_skipped(run, run->sublayers[blocks[i].first].layer)) {
            return false;
        }
    }
    return rule != ANGULAR_SPAN_AFTER_FFN || (begin > 0 && run->sublayers[begin - 1].kind == SUBLAYER_FFN);
}

bool angular_span_choose(const struct prune_run *run, const struct prune_unit *blocks, size_t block_count,
                         size_t count, enum angular_span_rule rule, struct angular_span *ret_span,
                         struct error *error)
{
    size_t layer_count = run->inventory->config.layer_count;
    bool is_deepest = rule == ANGULAR_SPAN_DEEPEST;
    size_t end = block_count - count + (is_deepest ? 0 : 1); /* of first blocks */
    struct angular_span best = {.angle = INFINITY};
    for (size_t i = 0; i < end; i++) {
        if (!qualifies(run, blocks, i, count, rule)) {
            continue;
        }
        size_t from = run->sublayers[blocks[i].first].layer;
        size_t to = run->sublayers[blocks[i + count - 1].first].layer + 1;
        double angle = run->span_angles[prune_span_index(layer_count, from, to)];
        if (!isfinite(angle)) {
            return error_set(error, ERROR_NUMERIC,
                             "the angle between layers %zu and %zu is not a finite number", from, to);
        }
        if (is_deepest || angle < best.angle) { /* ties: lower index */
            best = (struct angular_span){.first = i, .count = count, .angle = angle};
        }
    }
    *ret_span = best;
    return true;
}

void angular_span_put(struct plan *plan, const struct prune_unit *blocks, const struct angular_span *span)
{
    struct prune_unit whole = {.first = blocks[span->first].first};
    for (size_t i = 0; i < span->count; i++) {
        whole.count += blocks[span->first + i].count;
    }
    plan_cut(plan, 0);
    plan->point_count = 0;
    prune_add_unit(plan, &whole, span->angle);
    plan_cut(plan, whole.count);
}

static bool angular_span_decide(struct prune_run *run, const struct prune_target *target,
                                struct plan *ret_plan, struct error *error)
{
    const char *text = json_string_value(json_object_get(run->parameters, "rule"));
    enum angular_span_rule rule =
        text != NULL && strcmp(text, "deepest") == 0 ? ANGULAR_SPAN_DEEPEST : ANGULAR_SPAN_LEAST;
    OWNED_MEMORY struct prune_unit *blocks = NULL;
    size_t count = angular_span_list(run, &blocks);
    if (prune_target_reached(target, ret_plan, run->inventory)) {
        return true; /* without removing anything */
    }
    for (size_t n = 1; n < count; n++) {
        struct angular_span span;
        if (!angular_span_choose(run, blocks, count, n, rule, &span, error)) {
            return false;
        }
        if (span.count == 0) {
            continue;
        }
        angular_span_put(ret_plan, blocks, &span);
        if (prune_target_reached(target, ret_plan, run->inventory)) {
            return true;
        }
    }
    return prune_target_cut(target, ret_plan, run->inventory, error); /* says what the longest span reaches */
}

static const char *const late_params[] = {"rule", NULL};

const struct prune_method prune_method_angular_span = {
    .name = "angular_span",
    .summary = "Removes the one contiguous span of blocks that turns the hidden state least.",
    .reference = "Gromov et al. 2024, The Unreasonable Ineffectiveness of the Deeper Layers, arXiv "
                 "2403.17887, equations 6-8",
    .needs = PRUNE_NEED_CALIBRATION | PRUNE_NEED_SPAN_ANGLES,
    .traits = PRUNE_TRAIT_APART | PRUNE_TRAIT_PACKS,
    .params = params,
    .param_count = sizeof params / sizeof params[0],
    .late_params = late_params,
    .decide = angular_span_decide,
};
