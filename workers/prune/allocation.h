/*
 * workers/prune/allocation.h: who gives how much. Scores rank the units of one place (the channels of an FFN, the KV groups of an attention);
 * an allocation says how many of them each place keeps, so that all together just reach the target. It knows no model: a place is a
 * `struct allocation_group`, and whether counts reach the target is asked back.
 *
 *     uniform     the same ratio everywhere; groups with a given ratio keep theirs
 *     global      one ranking over all groups (FLAP's AL-AM; SPA with cost_power 1)
 *     cfsp        sigmoid of each layer's importance (structured_pruning section 2)
 *     adapt       Adapt-Pruner's recursion on each layer's importance (section 3)
 *     knapsack.h  alternatives per group, each with what it costs and what it spoils
 *     evolution.h an evolutionary search over the same levels
 *
 * Every rule is a curve of counts over one knob along which ever more goes. The result is the first point of the curve at or past the
 * target, found by bisection: knobs are compared as the integers their doubles are, so "first" is exact, and equal counts are not
 * asked about twice. No randomness (evolution.h has its seed), no threads: the same input gives the same counts.
 *
 * Levels: a group keeps all its units, or a multiple of its alignment; never fewer than its floor. Counts that a rule wants are rounded
 * to the nearest level (halves up), which keeps curves monotone.
 *
 * Sets: units that must stay in equal number in each of several sets are one group with set_count > 1: query heads within KV groups
 * (units = heads of a KV group), channels of experts (units = channels of an expert). Counts are then per set.
 */
#ifndef WORKERS_PRUNE_ALLOCATION_H
#define WORKERS_PRUNE_ALLOCATION_H

#include "base/cancel.h"
#include "base/error.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum allocation_kind {
    ALLOCATION_HEADS, /* KV groups with their query heads, or query heads within KV groups */
    ALLOCATION_CHANNELS,
    ALLOCATION_EXPERTS,
    ALLOCATION_EXPERT_CHANNELS,
    ALLOCATION_HIDDEN,
};
struct allocation_group {
    size_t sublayer, layer; /* for the caller, and for messages */
    enum allocation_kind kind;
    size_t unit_count; /* of each set */
    size_t set_count;  /* 0 counts as 1 */
    const double *
        scores; /* [set_count, unit_count] borrowed, finite; higher = keep. NULL where the rule ranks nothing */
    double unit_cost;  /* of one unit in every set, > 0: parameters, bytes, FLOPs or milliseconds */
    double importance; /* of the layer; only for cfsp (mean angle / pi) and adapt (minus mean cosine) */
    size_t floor;      /* fewest units kept; 0: one */
    bool may_be_empty; /* no unit at all is a level too: the caller makes it the removal of the sublayer */
    size_t alignment;  /* of counts: 0: by width (below); 1: any count */
    bool is_fixed;     /* keeps all */
    bool is_given;     /* keeps what given_ratio, the share of units removed, leaves (nearest level) */
    double given_ratio;
};
struct allocation_problem {
    const struct allocation_group *groups; /* [group_count] borrowed */
    size_t group_count;
    void *context;
    /* Whether the target is reached when group g keeps kept[g] units (of each set). Removing more never un-reaches it. */
    bool (*reach)(void *context, const size_t *kept, bool *ret_is_reached, struct error *error);
    const struct cancel *cancel; /* may be NULL */
};

/* ---- levels ---------------------------------------------------------------------------------------------- */

/* Design section 3: the largest of 256, 128, 64, 32, 16, 8 that is at most a sixteenth of the width; below that 1. Heads and experts: 1. */
size_t allocation_default_alignment(enum allocation_kind kind, size_t unit_count);
/* Levels from 0 (all units) to allocation_level_count - 1 (the fewest). */
size_t allocation_level_count(const struct allocation_group *group);
size_t allocation_level(const struct allocation_group *group, size_t index); /* units kept */
/* The level nearest to a wanted count (halves up), of any group whatever its constraints. */
size_t allocation_round(const struct allocation_group *group, double wanted);
/* The fewest that each group may keep: [group_count]. */
void allocation_least(const struct allocation_problem *problem, size_t *ret_kept);

/* ---- rules ----------------------------------------------------------------------------------------------- */

enum allocation_rule_kind { ALLOCATION_UNIFORM, ALLOCATION_GLOBAL, ALLOCATION_CFSP, ALLOCATION_ADAPT };
struct allocation_rule {
    enum allocation_rule_kind kind;
    /* global: units go by (score / unit_cost^cost_power), lowest first; 0: by score. Scores below zero are first raised by the lowest. With
     * sets, the k-th lowest scores of all sets go together. */
    double cost_power;
    bool is_standardised; /* global: scores of each group are standardised first */
    double sharpness;     /* cfsp: a */
    double amplitude;     /* adapt: A; the published 0.02. Above `increment`, important layers grow back */
    double increment;     /* adapt: share of every layer that goes in one step, > 0; 0.02 */
};
/* Fills ret_kept [group_count]. UNREACHABLE where the least counts do not reach the target (ret_kept untouched), NUMERIC for a
 * score or importance that is no number, CANCELLED, and what reach says. */
bool allocation_solve(const struct allocation_problem *problem, const struct allocation_rule *rule,
                      size_t *ret_kept, struct error *error) MUST_USE;

/* The shares that layers keep when the mean gives `ratio` (0..1), [count]:
 *     x_b = 13.1072 (t_b - mean t); s_b = 1/(1+exp(-a x_b)); keep_b = s_b / mean s * (1 - ratio)
 * with t the mean angle / pi of a layer's tokens: 13.1072 = 131072 tokens / 1e4 reproduces the published sums over 128 x 1024 tokens at any
 * count. Where a layer would keep everything, deviations of s shrink by f = avg (1/(1-ratio) - 1) / (max s - avg) / 1.05. */
void allocation_cfsp_shares(const double *importance, size_t count, double sharpness, double ratio,
                            double *ret_keep);
/* One step of Adapt-Pruner: s_b = clamp(previous_b + increment - amplitude * i_b, 0, 0.99), i = (importance - mean) / max |...|.
 * previous NULL: zeros. */
void allocation_adapt_shares(const double *importance, size_t count, const double *previous, double increment,
                             double amplitude, double *ret_removed);
/* `steps` such steps (a real number) from nothing, with the importance of the dense model throughout. Published code measures it anew
 * after every step, so that no layer is spared for ever; here layers that have given all they may leave the comparison, and the others
 * are ranked among themselves. */
void allocation_adapt_path(const double *importance, size_t count, double steps, double increment,
                           double amplitude, double *ret_removed);

/* ---- what stays ------------------------------------------------------------------------------------------ */

/* The `kept` units of the highest scores, ties to the lower index, in ascending order: ret_indices [kept]. */
void allocation_pick(const double *scores, size_t count, size_t kept, uint32_t *ret_indices);

#endif
