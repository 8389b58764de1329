/*
 * workers/prune/greedy.c: see greedy.h. FinerCut's loop (structured_pruning 1.4):
 *
 *     repeat: s_i = D(model without S + {i}) for every candidate i; i* = argmin; S += i*
 *
 * Every round is one prefix of the ranking, so the curve is complete up to where the search ends. The search
 * ends at the first point that meets the target, or, with is_full_curve, when no sublayer is left.
 */
#include "workers/prune/greedy.h"

#include "base/check.h"
#include "base/memory.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct search {
    struct prune_run *run;
    const struct greedy_options *options;
    const struct prune_target *target;
    struct plan *plan;
    struct prune_unit *units; /* [unit_count] */
    size_t unit_count;
    bool *gone;     /* [unit_count] */
    double *scores; /* [unit_count], of this round; NAN: not evaluated yet */
    uint64_t evaluations;
    bool
        is_released; /* only protected units were left: with few layers the protected ones would never be reached */
};

static bool is_candidate(const struct search *search, size_t unit)
{
    if (search->gone[unit]) {
        return false;
    }
    size_t layer = search->run->sublayers[search->units[unit].first].layer;
    return search->is_released || layer >= search->options->protected_layers ||
           search->plan->point_count >= search->options->release_count;
}

static json_t *format_state(const struct search *search)
{
    json_t *state = json_object();
    json_t *removed = json_array();
    for (size_t i = 0; i < search->plan->point_count; i++) {
        const struct plan_point *point = &search->plan->points[i];
        json_t *item = json_object();
        json_put_i64(item, "sublayer", (int64_t)point->sublayer);
        json_put_double(item, "score", point->score);
        json_put(item, "is_cut", json_boolean(point->is_cut));
        CHECK(json_array_append_new(removed, item) == 0);
    }
    json_put(state, "points", removed);
    json_t *scores = json_array();
    for (size_t i = 0; i < search->unit_count; i++) {
        json_t *score = isnan(search->scores[i]) ? json_null() : json_real(search->scores[i]);
        CHECK(json_array_append_new(scores, score) == 0);
    }
    json_put(state, "scores", scores);
    json_put_i64(state, "evaluations", (int64_t)search->evaluations);
    return state;
}

static bool save_state(const struct search *search, bool must, struct error *error)
{
    const struct prune_observer *observer = &search->run->observer;
    if (observer->save == NULL) {
        return true;
    }
    JSON_OWNED state = format_state(search);
    return observer->save(observer->context, state, must, error);
}

static void add_point(struct search *search, size_t sublayer, double score, bool is_cut)
{
    plan_add_point(search->plan, sublayer, score, is_cut);
    for (size_t u = 0; u < search->unit_count; u++) {
        search->gone[u] = search->gone[u] || search->units[u].first == sublayer;
    }
}

/* The search goes on where an earlier one ended. */
static void load_curve(struct search *search)
{
    const struct plan *curve = search->run->curve;
    for (size_t i = 0; i < curve->point_count; i++) {
        add_point(search, curve->points[i].sublayer, curve->points[i].score, curve->points[i].is_cut);
    }
}

/* The state was written by format_state and its checkpoint's hash was checked; what does not fit is a broken
 * file all the same. */
static bool load_state(struct search *search, struct error *error)
{
    const json_t *points = json_object_get(search->run->state, "points");
    const json_t *scores = json_object_get(search->run->state, "scores");
    if (json_array_size(scores) != search->unit_count ||
        json_array_size(points) > search->plan->sublayer_count) {
        return error_set(error, ERROR_CORRUPT_FILE, "checkpoint: %zu scores for %zu units",
                         json_array_size(scores), search->unit_count);
    }
    for (size_t i = 0; i < json_array_size(points); i++) {
        const json_t *item = json_array_get(points, i);
        const json_t *score = json_object_get(item, "score");
        json_int_t sublayer = json_integer_value(json_object_get(item, "sublayer"));
        if (sublayer < 0 || (size_t)sublayer >= search->plan->sublayer_count) {
            return error_set(error, ERROR_CORRUPT_FILE, "checkpoint: sublayer %lld does not exist",
                             (long long)sublayer);
        }
        add_point(search, (size_t)sublayer, json_is_number(score) ? json_number_value(score) : (double)NAN,
                  json_is_true(json_object_get(item, "is_cut")));
    }
    for (size_t i = 0; i < search->unit_count; i++) {
        const json_t *score = json_array_get(scores, i);
        search->scores[i] = json_is_number(score) ? json_number_value(score) : (double)NAN;
    }
    search->evaluations = (uint64_t)json_integer_value(json_object_get(search->run->state, "evaluations"));
    return true;
}

static size_t count_candidates(const struct search *search)
{
    size_t count = 0;
    for (size_t i = 0; i < search->unit_count; i++) {
        count += is_candidate(search, i) ? 1 : 0;
    }
    return count;
}

/* Evaluations still to come, for the ETA: exact for sublayers_removed and full curves, else by the average
 * unit. */
static uint64_t estimate_steps(const struct search *search)
{
    size_t alive = 0;
    for (size_t i = 0; i < search->unit_count; i++) {
        alive += search->gone[i] ? 0 : 1;
    }
    size_t rounds = alive;
    if (!search->options->is_full_curve) {
        struct plan_size size;
        plan_measure(search->plan, search->run->inventory, search->target->element_bytes, &size);
        double removable = (double)size.prunable_count / (double)(alive > 0 ? alive : 1);
        double wanted = (double)alive;
        switch (search->target->kind) {
        case PRUNE_TARGET_SPARSITY:
            wanted = (search->target->ratio * (double)(size.prunable_count + size.removed_prunable_count) -
                      (double)size.removed_prunable_count) /
                     (removable > 0 ? removable : 1);
            break;
        case PRUNE_TARGET_PARAMS:
            wanted = ((double)size.parameter_count - (double)search->target->count) /
                     (removable > 0 ? removable : 1);
            break;
        case PRUNE_TARGET_SUBLAYERS_REMOVED:
            wanted = (double)search->target->count - (double)size.removed_sublayer_count;
            break;
        case PRUNE_TARGET_MEMORY_BYTES:
        case PRUNE_TARGET_NUM_LAYERS:
            break;
        }
        wanted = ceil(wanted);
        rounds = wanted < 1 ? 1 : wanted > (double)alive ? alive : (size_t)wanted;
    }
    uint64_t steps = search->evaluations;
    size_t candidates = count_candidates(search);
    for (size_t i = 0; i < search->unit_count; i++) {
        candidates -= candidates > 0 && !isnan(search->scores[i]) ? 1 : 0;
    }
    steps += candidates; /* the rest of this round */
    for (size_t round = 1; round < rounds; round++) {
        steps += alive > round ? alive - round : 0;
    }
    return steps;
}

static bool run_round(struct search *search, size_t *ret_winner, struct error *error)
{
    struct prune_run *run = search->run;
    double best = INFINITY;
    size_t winner = search->unit_count;
    for (size_t i = 0; i < search->unit_count; i++) {
        if (!is_candidate(search, i)) {
            continue;
        }
        if (isnan(search->scores[i])) {
            if (!run->evaluator->evaluate(run->evaluator->context, &search->units[i], best,
                                          &search->scores[i], error)) {
                return false;
            }
            search->evaluations++;
            if (!isfinite(search->scores[i])) {
                return error_set(error, ERROR_NUMERIC,
                                 "the distance without sublayer %zu is not a finite number",
                                 search->units[i].first);
            }
            bool goes_on = cancel_check(run->cancel, error);
            if (!save_state(search, !goes_on, goes_on ? error : NULL) || !goes_on) {
                return false;
            }
        }
        if (search->scores[i] < best) {
            best = search->scores[i];
            winner = i;
        }
        if (run->observer.progress != NULL) {
            run->observer.progress(run->observer.context, search->evaluations, estimate_steps(search),
                                   "candidate");
        }
    }
    *ret_winner = winner;
    return true;
}

static bool has_units(const struct search *search)
{
    size_t alive = 0;
    for (size_t i = 0; i < search->unit_count; i++) {
        alive += search->gone[i] ? 0 : 1;
    }
    return alive > 0;
}

static bool search_rounds(struct search *search, struct error *error)
{
    struct prune_run *run = search->run;
    bool is_reached = false;
    for (;;) {
        plan_cut(search->plan, search->plan->point_count);
        is_reached = is_reached || prune_target_reached(search->target, search->plan, run->inventory);
        if ((is_reached && !search->options->is_full_curve) || !has_units(search)) {
            break;
        }
        search->is_released = search->is_released || count_candidates(search) == 0;
        size_t winner = 0;
        if (!run_round(search, &winner, error)) {
            return false;
        }
        CHECK(winner < search->unit_count);
        if (!run->evaluator->commit(run->evaluator->context, &search->units[winner], error)) {
            return false;
        }
        prune_add_unit(search->plan, &search->units[winner], search->scores[winner]);
        search->gone[winner] = true;
        for (size_t i = 0; i < search->unit_count; i++) {
            search->scores[i] = NAN;
        }
    }
    return prune_target_cut(search->target, search->plan, run->inventory, error);
}

bool greedy_search(struct prune_run *run, const struct greedy_options *options,
                   const struct prune_target *target, struct plan *ret_plan, struct error *error)
{
    CHECK(run->evaluator != NULL && ret_plan->point_count == 0);
    struct search search = {.run = run, .options = options, .target = target, .plan = ret_plan};
    search.unit_count = prune_list_units(run, options->granularity, &search.units);
    search.gone = memory_create(search.unit_count + 1, sizeof *search.gone);
    search.scores = memory_create(search.unit_count + 1, sizeof *search.scores);
    for (size_t i = 0; i < search.unit_count; i++) {
        search.scores[i] = NAN;
    }
    if (run->state == NULL && run->curve != NULL) {
        load_curve(&search);
    }
    bool is_good = run->state == NULL || load_state(&search, error);
    if (is_good) {
        plan_cut(ret_plan, ret_plan->point_count);
        is_good = run->evaluator->restart(run->evaluator->context, ret_plan->removed, error);
    }
    is_good = is_good && search_rounds(&search, error);
    free(search.units);
    free(search.gone);
    free(search.scores);
    return is_good;
}
