/* workers/prune/allocation.c: see allocation.h. */
#include "workers/prune/allocation_internal.h"

#include "base/check.h"
#include "base/cleanup.h"
#include "base/memory.h"
#include "workers/prune/scores.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- levels ---------------------------------------------------------------------------------------------- */

size_t allocation_default_alignment(enum allocation_kind kind, size_t unit_count)
{
    enum { COARSEST = 256, FINEST = 8, LEVELS = 16 };
    if (kind == ALLOCATION_HEADS || kind == ALLOCATION_EXPERTS) {
        return 1;
    }
    for (size_t alignment = COARSEST; alignment >= FINEST; alignment /= 2) {
        if (alignment * LEVELS <= unit_count) {
            return alignment;
        }
    }
    return 1;
}

static size_t step_of(const struct allocation_group *group)
{
    return group->alignment > 0 ? group->alignment
                                : allocation_default_alignment(group->kind, group->unit_count);
}

/* The fewest units of a level that is not empty. */
static size_t least_of(const struct allocation_group *group)
{
    size_t step = step_of(group);
    size_t floor = group->floor > 0 ? group->floor : 1;
    size_t least = (floor + step - 1) / step * step;
    return least < group->unit_count ? least : group->unit_count;
}

size_t allocation_level_count(const struct allocation_group *group)
{
    size_t step = step_of(group);
    size_t least = least_of(group);
    size_t empty = group->may_be_empty && group->unit_count > 0 ? 1 : 0;
    if (least == group->unit_count) {
        return 1 + empty;
    }
    size_t most = (group->unit_count - 1) / step * step; /* the largest multiple below all */
    return 2 + (most - least) / step + empty;
}

size_t allocation_level(const struct allocation_group *group, size_t index)
{
    size_t step = step_of(group);
    size_t count = allocation_level_count(group);
    CHECK(index < count);
    if (index == 0) {
        return group->unit_count;
    }
    if (group->may_be_empty && index + 1 == count) {
        return 0;
    }
    return (group->unit_count - 1) / step * step - (index - 1) * step;
}

size_t allocation_round(const struct allocation_group *group, double wanted)
{
    size_t step = step_of(group);
    size_t least = least_of(group);
    double low = 0, high = 0; /* the levels around */
    if (!(wanted > 0)) {
        wanted = 0;
    }
    if (wanted >= (double)group->unit_count) {
        return group->unit_count;
    }
    if (wanted < (double)least) {
        low = group->may_be_empty ? 0 : (double)least;
        high = (double)least;
    } else {
        size_t below = (size_t)wanted / step * step;
        size_t above = below + step < group->unit_count ? below + step : group->unit_count;
        low = (double)(below > least ? below : least);
        high = (double)above;
    }
    return (size_t)(wanted - low < high - wanted ? low : high);
}

size_t allocation_settled(const struct allocation_group *group)
{
    return group->is_fixed ? group->unit_count
                           : allocation_round(group, (double)group->unit_count * (1 - group->given_ratio));
}

void allocation_least(const struct allocation_problem *problem, size_t *ret_kept)
{
    for (size_t g = 0; g < problem->group_count; g++) {
        const struct allocation_group *group = &problem->groups[g];
        ret_kept[g] = allocation_is_free(group) ? allocation_level(group, allocation_level_count(group) - 1)
                                                : allocation_settled(group);
    }
}

/* ---- bisection ------------------------------------------------------------------------------------------- */

static bool unreachable(const struct allocation_problem *problem, struct error *error)
{
    size_t fixed = 0;
    for (size_t g = 0; g < problem->group_count; g++) {
        fixed += allocation_is_free(&problem->groups[g]) ? 0 : 1;
    }
    return error_set(
        error, ERROR_UNREACHABLE,
        "the target lies beyond what can go: %zu of %zu places are fixed or given, the others end "
        "at their floors",
        fixed, problem->group_count);
}

bool allocation_bisect(const struct allocation_problem *problem, const struct allocation_curve *curve,
                       size_t *ret_kept, struct error *error)
{
    size_t bytes = problem->group_count * sizeof(size_t);
    OWNED_MEMORY size_t *kept = memory_create(3 * problem->group_count + 1, sizeof *kept);
    size_t *low = kept, *high = kept + problem->group_count, *middle = high + problem->group_count;
    bool is_reached = false;
    curve->fill(curve->context, 0, low);
    if (!problem->reach(problem->context, low, &is_reached, error)) {
        return false;
    }
    if (is_reached) {
        memcpy(ret_kept, low, bytes);
        return true;
    }
    curve->fill(curve->context, curve->last, high);
    if (memcmp(low, high, bytes) != 0 && !problem->reach(problem->context, high, &is_reached, error)) {
        return false;
    }
    if (!is_reached) {
        return unreachable(problem, error);
    }
    for (uint64_t from = 0, to = curve->last; to - from > 1;) {
        uint64_t position = from + (to - from) / 2;
        curve->fill(curve->context, position, middle);
        if (memcmp(middle, low, bytes) == 0) {
            is_reached = false;
        } else if (memcmp(middle, high, bytes) == 0) {
            is_reached = true;
        } else if (!cancel_check(problem->cancel, error) ||
                   !problem->reach(problem->context, middle, &is_reached, error)) {
            return false;
        }
        memcpy(is_reached ? high : low, middle, bytes);
        *(is_reached ? &to : &from) = position;
    }
    memcpy(ret_kept, high, bytes);
    return true;
}

/* Doubles of one sign are ordered as their bits are: a knob is bisected to the last of them. */
static uint64_t bits_of(double knob)
{
    uint64_t bits = 0;
    memcpy(&bits, &knob, sizeof bits);
    return bits;
}

static double knob_of(uint64_t bits)
{
    double knob = 0;
    memcpy(&knob, &bits, sizeof knob);
    return knob;
}

/* ---- rules over a share of each group --------------------------------------------------------------------- */

struct shares {
    const struct allocation_problem *problem;
    const struct allocation_rule *rule;
    double *importance; /* [free groups] */
    double *keep;       /* [free groups] scratch */
    size_t free_count;
};

static void fill_shares(const void *context, uint64_t position, size_t *ret_kept)
{
    const struct shares *shares = context;
    const struct allocation_rule *rule = shares->rule;
    double knob = knob_of(position);
    switch (rule->kind) {
    case ALLOCATION_CFSP:
        allocation_cfsp_shares(shares->importance, shares->free_count, rule->sharpness, knob, shares->keep);
        break;
    case ALLOCATION_ADAPT:
        allocation_adapt_path(shares->importance, shares->free_count, knob, rule->increment, rule->amplitude,
                              shares->keep);
        for (size_t i = 0; i < shares->free_count; i++) {
            shares->keep[i] = 1 - shares->keep[i];
        }
        break;
    case ALLOCATION_UNIFORM:
    case ALLOCATION_GLOBAL:
        for (size_t i = 0; i < shares->free_count; i++) {
            shares->keep[i] = 1 - knob;
        }
        break;
    }
    size_t at = 0;
    for (size_t g = 0; g < shares->problem->group_count; g++) {
        const struct allocation_group *group = &shares->problem->groups[g];
        ret_kept[g] = allocation_is_free(group)
                          ? allocation_round(group, (double)group->unit_count * shares->keep[at++])
                          : allocation_settled(group);
    }
}

static bool solve_shares(const struct allocation_problem *problem, const struct allocation_rule *rule,
                         size_t *ret_kept, struct error *error)
{
    static const double steps_most = 1e9; /* adapt: by then every layer that gives at all has given */
    bool is_ranked = rule->kind == ALLOCATION_CFSP || rule->kind == ALLOCATION_ADAPT;
    OWNED_MEMORY double *importance = memory_create(2 * problem->group_count + 1, sizeof *importance);
    struct shares shares = {problem, rule, importance, importance + problem->group_count, 0};
    for (size_t g = 0; g < problem->group_count; g++) {
        const struct allocation_group *group = &problem->groups[g];
        if (!allocation_is_free(group)) {
            continue;
        }
        if (is_ranked && !isfinite(group->importance)) {
            return error_set(error, ERROR_NUMERIC, "the importance of layer %zu is not a finite number",
                             group->layer);
        }
        importance[shares.free_count++] = group->importance;
    }
    CHECK(rule->kind != ALLOCATION_ADAPT || rule->increment > 0);
    double most = rule->kind == ALLOCATION_ADAPT ? steps_most : 1;
    struct allocation_curve curve = {&shares, bits_of(most), fill_shares};
    return allocation_bisect(problem, &curve, ret_kept, error);
}

void allocation_cfsp_shares(const double *importance, size_t count, double sharpness, double ratio,
                            double *ret_keep)
{
    static const double published_scale = 13.1072, headroom = 1.05;
    double mean = 0, average = 0, most = 0;
    for (size_t i = 0; i < count; i++) {
        mean += importance[i] / (double)count;
    }
    for (size_t i = 0; i < count; i++) {
        ret_keep[i] = 1 / (1 + exp(-sharpness * published_scale * (importance[i] - mean)));
        average += ret_keep[i] / (double)count;
        most = ret_keep[i] > most ? ret_keep[i] : most;
    }
    double factor = 1;
    if (ratio < 1 && most > average && most / average * (1 - ratio) >= 1) {
        factor = average * (1 / (1 - ratio) - 1) / (most - average) / headroom;
    }
    for (size_t i = 0; i < count; i++) {
        ret_keep[i] = (average + (ret_keep[i] - average) * factor) / average * (1 - ratio);
    }
}

static const double adapt_most_removed = 0.99;

static double adapt_clamp(double removed)
{
    return removed < 0 ? 0 : removed > adapt_most_removed ? adapt_most_removed : removed;
}

/* How fast each layer of a comparison gives: increment - amplitude * i_b. left NULL: all are compared; else those of which left is true, and
 * the others give nothing. */
static void adapt_rates(const double *importance, size_t count, const bool *left, double increment,
                        double amplitude, double *ret_rates)
{
    double mean = 0, span = 0, compared = 0;
    for (size_t i = 0; i < count; i++) {
        compared += left == NULL || left[i] ? 1 : 0;
    }
    for (size_t i = 0; i < count; i++) {
        mean += left == NULL || left[i] ? importance[i] / compared : 0;
    }
    for (size_t i = 0; i < count; i++) {
        double deviation = left == NULL || left[i] ? fabs(importance[i] - mean) : 0;
        span = deviation > span ? deviation : span;
    }
    for (size_t i = 0; i < count; i++) {
        double relative = span > 0 ? (importance[i] - mean) / span : 0;
        ret_rates[i] = left == NULL || left[i] ? increment - amplitude * relative : 0;
    }
}

void allocation_adapt_shares(const double *importance, size_t count, const double *previous, double increment,
                             double amplitude, double *ret_removed)
{
    adapt_rates(importance, count, NULL, increment, amplitude, ret_removed);
    for (size_t i = 0; i < count; i++) {
        ret_removed[i] = adapt_clamp((previous != NULL ? previous[i] : 0) + ret_removed[i]);
    }
}

void allocation_adapt_path(const double *importance, size_t count, double steps, double increment,
                           double amplitude, double *ret_removed)
{
    OWNED_MEMORY bool *left = memory_create(count + 1, sizeof *left);
    OWNED_MEMORY double *rates = memory_create(count + 1, sizeof *rates);
    size_t left_count = count;
    for (size_t i = 0; i < count; i++) {
        left[i] = true;
        ret_removed[i] = 0;
    }
    while (steps > 0 && left_count > 0) {
        adapt_rates(importance, count, left, increment, amplitude, rates);
        double time = steps; /* until the next layer has given all */
        size_t next = count;
        for (size_t i = 0; i < count; i++) {
            double until = left[i] && rates[i] > 0 ? (adapt_most_removed - ret_removed[i]) / rates[i] : steps;
            if (until < time) {
                time = until;
                next = i;
            }
        }
        for (size_t i = 0; i < count; i++) {
            ret_removed[i] = adapt_clamp(ret_removed[i] + time * rates[i]);
        }
        steps -= time;
        if (next == count) {
            break;
        }
        ret_removed[next] = adapt_most_removed;
        left[next] = false;
        left_count--;
    }
}

/* ---- one ranking over all -------------------------------------------------------------------------------- */

static int compare_doubles(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

void allocation_sum_sets(const struct allocation_group *group, double *ret_sums)
{
    size_t count = group->unit_count;
    size_t sets = group->set_count > 0 ? group->set_count : 1;
    OWNED_MEMORY double *sorted = memory_create(count + 1, sizeof *sorted);
    for (size_t i = 0; i < count; i++) {
        ret_sums[i] = 0;
    }
    for (size_t s = 0; s < sets; s++) {
        memcpy(sorted, group->scores + s * count, count * sizeof *sorted);
        qsort(sorted, count, sizeof *sorted, compare_doubles);
        score_add(ret_sums, sorted, count);
    }
}

bool allocation_check_scores(const struct allocation_problem *problem, struct error *error)
{
    for (size_t g = 0; g < problem->group_count; g++) {
        const struct allocation_group *group = &problem->groups[g];
        size_t sets = group->set_count > 0 ? group->set_count : 1;
        char what[64];
        (void)snprintf(what, sizeof what, "sublayer %zu", group->sublayer);
        if (allocation_is_free(group) &&
            (group->scores == NULL || !score_check(group->scores, sets * group->unit_count, what, error))) {
            CHECK(group->scores != NULL);
            return false;
        }
    }
    return true;
}

struct ranked {
    double priority;
    uint32_t group, nth; /* the nth lowest of its group */
};
struct ranking {
    const struct allocation_problem *problem;
    struct ranked *order; /* [count] in the order of going */
    size_t count;
};

/* Lowest first; of equals, what comes last in the model goes first, and within a group the order of its own. */
static int compare_ranked(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->priority < y->priority || x->priority > y->priority) {
        return x->priority < y->priority ? -1 : 1;
    }
    if (x->group != y->group) {
        return x->group > y->group ? -1 : 1;
    }
    return x->nth < y->nth ? -1 : x->nth > y->nth;
}

static void fill_ranking(const void *context, uint64_t position, size_t *ret_kept)
{
    const struct ranking *ranking = context;
    const struct allocation_problem *problem = ranking->problem;
    for (size_t g = 0; g < problem->group_count; g++) {
        ret_kept[g] = problem->groups[g].unit_count;
    }
    for (size_t i = 0; i < position; i++) {
        ret_kept[ranking->order[i].group]--;
    }
    for (size_t g = 0; g < problem->group_count; g++) {
        const struct allocation_group *group = &problem->groups[g];
        ret_kept[g] = allocation_is_free(group) ? allocation_round(group, (double)ret_kept[g])
                                                : allocation_settled(group);
    }
}

static void rank_all(const struct allocation_problem *problem, const struct allocation_rule *rule,
                     double *sums, struct ranking *ranking)
{
    double lowest = 0;
    for (size_t g = 0; g < problem->group_count; g++) {
        const struct allocation_group *group = &problem->groups[g];
        if (!allocation_is_free(group)) {
            continue;
        }
        allocation_sum_sets(group, sums);
        if (rule->is_standardised) {
            score_standardise(sums, group->unit_count);
        }
        for (size_t i = 0; i < group->unit_count; i++) {
            ranking->order[ranking->count++] = (struct ranked){sums[i], (uint32_t)g, (uint32_t)i};
            lowest = sums[i] < lowest ? sums[i] : lowest;
        }
    }
    for (size_t i = 0; i < ranking->count && rule->cost_power != 0; i++) {
        struct ranked *unit = &ranking->order[i];
        double cost = problem->groups[unit->group].unit_cost;
        CHECK(cost > 0);
        unit->priority = (unit->priority - lowest) / pow(cost, rule->cost_power);
    }
    qsort(ranking->order, ranking->count, sizeof *ranking->order, compare_ranked);
}

static bool solve_ranking(const struct allocation_problem *problem, const struct allocation_rule *rule,
                          size_t *ret_kept, struct error *error)
{
    size_t count = 0, most = 0;
    for (size_t g = 0; g < problem->group_count; g++) {
        count += problem->groups[g].unit_count;
        most = problem->groups[g].unit_count > most ? problem->groups[g].unit_count : most;
    }
    struct ranking ranking = {.problem = problem};
    OWNED_MEMORY double *sums = memory_try_array(most + 1, sizeof *sums, "scores of a group", error);
    OWNED_MEMORY struct ranked *order =
        memory_try_array(count + 1, sizeof *order, "a ranking of all units", error);
    if (sums == NULL || order == NULL || !allocation_check_scores(problem, error)) {
        return false;
    }
    ranking.order = order;
    rank_all(problem, rule, sums, &ranking);
    struct allocation_curve curve = {&ranking, ranking.count, fill_ranking};
    return allocation_bisect(problem, &curve, ret_kept, error);
}

bool allocation_solve(const struct allocation_problem *problem, const struct allocation_rule *rule,
                      size_t *ret_kept, struct error *error)
{
    return rule->kind == ALLOCATION_GLOBAL ? solve_ranking(problem, rule, ret_kept, error)
                                           : solve_shares(problem, rule, ret_kept, error);
}

/* ---- what stays ------------------------------------------------------------------------------------------ */

struct scored {
    double score;
    uint32_t index;
};

static int compare_scored(const void *a, const void *b)
{
    const struct scored *x = a, *y = b;
    if (x->score < y->score || x->score > y->score) {
        return x->score > y->score ? -1 : 1;
    }
    return x->index < y->index ? -1 : x->index > y->index;
}

static int compare_indices(const void *a, const void *b)
{
    const uint32_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

void allocation_pick(const double *scores, size_t count, size_t kept, uint32_t *ret_indices)
{
    CHECK(kept <= count && count <= UINT32_MAX);
    OWNED_MEMORY struct scored *order = memory_create(count + 1, sizeof *order);
    for (size_t i = 0; i < count; i++) {
        CHECK(!isnan(scores[i]));
        order[i] = (struct scored){scores[i], (uint32_t)i};
    }
    qsort(order, count, sizeof *order, compare_scored);
    for (size_t i = 0; i < kept; i++) {
        ret_indices[i] = order[i].index;
    }
    qsort(ret_indices, kept, sizeof *ret_indices, compare_indices);
}
