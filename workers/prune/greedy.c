/*
 * workers/prune/greedy.c: see greedy.h. FinerCut's loop (structured_pruning 1.4):
 *
 *     repeat: s_i = D(model without S + {i}) for every candidate i; i* = argmin; S += i*
 *
 * Every round is one prefix of the ranking, so the curve is complete up to where the search ends. The search
 * ends at the first point that meets the target, or, with is_full_curve, when no sublayer is left.
 */
#include "workers/prune/greedy.h"
#include "workers/prune/greedy_params.h"

#include "base/check.h"
#include "base/memory.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const greedy_rank_values[] = {"score", "score_per_parameter", "score_per_millisecond", NULL};
const char *const greedy_curve_values[] = {"target", "full", NULL};
const char *const greedy_screening_values[] = {"none", "bf16", NULL};

struct search {
    struct prune_run *run;
    const struct greedy_options *options;
    const struct prune_target *target;
    struct plan *plan;
    struct prune_unit *units; /* [unit_count] */
    size_t unit_count;
    bool *gone;     /* [unit_count] */
    double *scores; /* [unit_count], of this round; NAN: not evaluated yet */
    double *priors; /* [unit_count], of the last round that evaluated it; NAN: none did */
    double *costs;  /* [unit_count] */
    bool has_costs;
    uint64_t evaluations;
    bool
        is_released; /* only protected units were left: with few layers the protected ones would never be reached */
};

static bool is_candidate(const struct search *search, size_t unit)
{
    if (search->gone[unit] ||
        (search->options->is_attention_only &&
         search->run->sublayers[search->units[unit].first].kind != SUBLAYER_ATTENTION)) {
        return false;
    }
    size_t layer = search->run->sublayers[search->units[unit].first].layer;
    size_t ends = search->options->protected_ends;
    if (layer < ends || layer + ends >= search->run->inventory->config.layer_count) {
        return false;
    }
    return search->is_released || layer >= search->options->protected_layers ||
           search->plan->point_count >= search->options->release_count;
}

static json_t *format_numbers(const double *numbers, size_t count)
{
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++) {
        json_t *number = isnan(numbers[i]) ? json_null() : json_real(numbers[i]);
        CHECK(json_array_append_new(array, number) == 0);
    }
    return array;
}

static void parse_numbers(const json_t *array, size_t count, double *numbers)
{
    for (size_t i = 0; i < count; i++) {
        const json_t *number = json_array_get(array, i);
        numbers[i] = json_is_number(number) ? json_number_value(number) : (double)NAN;
    }
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
    json_put(state, "scores", format_numbers(search->scores, search->unit_count));
    json_put(state, "priors", format_numbers(search->priors, search->unit_count));
    if (search->has_costs) {
        json_put(state, "costs", format_numbers(search->costs, search->unit_count));
    }
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
    parse_numbers(scores, search->unit_count, search->scores);
    parse_numbers(json_object_get(search->run->state, "priors"), search->unit_count, search->priors);
    const json_t *costs = json_object_get(search->run->state, "costs");
    search->has_costs = json_array_size(costs) == search->unit_count;
    if (search->has_costs) {
        parse_numbers(costs, search->unit_count, search->costs);
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

/* ---- what a unit costs ------------------------------------------------------------------------------------------- */

static double count_parameters(const struct search *search, const struct prune_unit *unit)
{
    OWNED(plan) plan = plan_create(search->plan->sublayer_count);
    for (size_t i = 0; i < unit->count; i++) {
        plan_add_point(plan, unit->first + i, NAN, i + 1 == unit->count);
    }
    plan_cut(plan, plan->point_count);
    struct plan_size size;
    plan_measure(plan, search->run->inventory, 0, &size);
    return (double)size.removed_prunable_count;
}

/* Sublayers whose weights and attributes have the same shapes take the same time. */
static bool is_alike(const struct search *search, size_t a, size_t b)
{
    const struct sublayer *left = &search->run->sublayers[a];
    const struct sublayer *right = &search->run->sublayers[b];
    const struct model_layer *layers = search->run->inventory->config.layers;
    const struct model_layer *one = &layers[left->layer];
    const struct model_layer *other = &layers[right->layer];
    if (left->kind != right->kind) {
        return false;
    }
    return left->kind == SUBLAYER_ATTENTION
               ? one->head_count == other->head_count && one->kv_head_count == other->kv_head_count &&
                     one->window_tokens == other->window_tokens
               : one->intermediate_size == other->intermediate_size &&
                     one->expert_count == other->expert_count &&
                     one->active_expert_count == other->active_expert_count;
}

static bool time_sublayers(const struct search *search, double *ret_ms, struct error *error)
{
    const struct prune_run *run = search->run;
    for (size_t i = 0; i < run->sublayer_count; i++) {
        size_t same = 0;
        while (same < i && !is_alike(search, same, i)) {
            same++;
        }
        ret_ms[i] = same < i ? ret_ms[same] : (double)NAN;
        if (same == i && !run->evaluator->time_sublayer(run->evaluator->context, i, &ret_ms[i], error)) {
            return false;
        }
    }
    return true;
}

/* Once a search: what was measured goes with the state, so that a resume ranks by the same numbers. */
static bool take_costs(struct search *search, struct error *error)
{
    bool is_timed = search->options->rank == GREEDY_BY_SCORE_PER_MILLISECOND;
    OWNED_MEMORY double *ms = memory_create(search->run->sublayer_count + 1, sizeof *ms);
    if (search->has_costs) {
        return true;
    }
    if (is_timed && search->run->evaluator->time_sublayer == NULL) {
        return error_set(error, ERROR_UNSUPPORTED, "this evaluator cannot time sublayers");
    }
    if (is_timed && !time_sublayers(search, ms, error)) {
        return false;
    }
    for (size_t i = 0; i < search->unit_count; i++) {
        const struct prune_unit *unit = &search->units[i];
        double cost = 0;
        for (size_t j = 0; j < unit->count && is_timed; j++) {
            cost += ms[unit->first + j];
        }
        if (search->options->rank == GREEDY_BY_SCORE_PER_PARAMETER) {
            cost = count_parameters(search, unit);
        }
        search->costs[i] = cost > 0 ? cost : 1;
    }
    search->has_costs = search->options->rank != GREEDY_BY_SCORE;
    return true;
}

/* ---- rounds ------------------------------------------------------------------------------------------------------ */

struct round_run {
    struct search *search;
    struct prune_round round;
    size_t *units; /* of each candidate */
};

/* What is known so far is worth a checkpoint; false: the run stops here. */
static bool keep_going(struct search *search, struct error *error)
{
    const struct prune_observer *observer = &search->run->observer;
    bool goes_on = cancel_check(search->run->cancel, error);
    if (!save_state(search, !goes_on, goes_on ? error : NULL) || !goes_on) {
        return false;
    }
    if (observer->progress != NULL) {
        observer->progress(observer->context, search->evaluations, estimate_steps(search), "candidate");
    }
    return true;
}

static void take_scores(struct round_run *run)
{
    for (size_t i = 0; i < run->round.count; i++) {
        const struct prune_candidate *candidate = &run->round.candidates[i];
        double *score = &run->search->scores[run->units[i]];
        if (candidate->standing == PRUNE_EXACT && isnan(*score)) {
            *score = candidate->score;
            run->search->evaluations++;
        }
    }
}

static bool round_settled(void *context, struct error *error)
{
    struct round_run *run = context;
    take_scores(run);
    return keep_going(run->search, error);
}

static bool evaluate_each(struct round_run *run, struct error *error)
{
    const struct prune_evaluator *evaluator = run->search->run->evaluator;
    double best = INFINITY;
    for (size_t i = 0; i < run->round.count; i++) {
        struct prune_candidate *candidate = &run->round.candidates[i];
        if (candidate->standing == PRUNE_PENDING) {
            if (!evaluator->evaluate(evaluator->context, &candidate->unit, best, &candidate->score, error)) {
                return false;
            }
            if (!isfinite(candidate->score)) {
                return error_set(error, ERROR_NUMERIC,
                                 "the distance without sublayer %zu is not a finite number",
                                 candidate->unit.first);
            }
            candidate->standing = PRUNE_EXACT;
            if (!round_settled(run, error)) {
                return false;
            }
        }
        best = fmin(best, candidate->score);
    }
    return true;
}

/* The candidate with the lowest score / cost; ties: the first. count: none is evaluated. */
static size_t find_winner(const struct prune_round *round)
{
    size_t winner = round->count;
    for (size_t i = 0; i < round->count; i++) {
        const struct prune_candidate *candidate = &round->candidates[i];
        if (candidate->standing == PRUNE_EXACT &&
            (winner == round->count ||
             candidate->score / candidate->cost <
                 round->candidates[winner].score / round->candidates[winner].cost)) {
            winner = i;
        }
    }
    return winner;
}

/* Whether the search would end with this unit. */
static bool would_end(const struct search *search, size_t unit)
{
    OWNED(plan) plan = plan_create(search->plan->sublayer_count);
    for (size_t i = 0; i < search->plan->point_count; i++) {
        const struct plan_point *point = &search->plan->points[i];
        plan_add_point(plan, point->sublayer, point->score, point->is_cut);
    }
    prune_add_unit(plan, &search->units[unit], NAN);
    plan_cut(plan, plan->point_count);
    return plan->point_count == plan->sublayer_count ||
           (!search->options->is_full_curve &&
            prune_target_reached(search->target, plan, search->run->inventory));
}

static bool evaluate_candidates(struct round_run *run, struct error *error)
{
    struct search *search = run->search;
    const struct prune_evaluator *evaluator = search->run->evaluator;
    if (evaluator->evaluate_round == NULL) {
        return evaluate_each(run, error);
    }
    bool is_lazy = search->options->lazy_epsilon > 0;
    run->round.lazy_epsilon = is_lazy ? search->options->lazy_epsilon : -1;
    if (!evaluator->evaluate_round(evaluator->context, &run->round, error)) {
        return false;
    }
    take_scores(run);
    size_t winner = find_winner(&run->round);
    CHECK(winner < run->round.count);
    if (!is_lazy || !would_end(search, run->units[winner])) {
        return true;
    }
    run->round.lazy_epsilon = -1;
    bool is_verified = evaluator->evaluate_round(evaluator->context, &run->round, error);
    take_scores(run);
    return is_verified;
}

static void keep_priors(const struct round_run *run)
{
    for (size_t i = 0; i < run->round.count; i++) {
        const struct prune_candidate *candidate = &run->round.candidates[i];
        if (candidate->standing != PRUNE_PENDING) {
            run->search->priors[run->units[i]] = candidate->score;
        }
    }
}

static bool run_round(struct search *search, size_t *ret_winner, struct error *error)
{
    OWNED_MEMORY struct prune_candidate *candidates = memory_create(search->unit_count, sizeof *candidates);
    OWNED_MEMORY size_t *units = memory_create(search->unit_count, sizeof *units);
    struct round_run run = {.search = search, .units = units};
    run.round = (struct prune_round){
        .candidates = candidates, .lazy_epsilon = -1, .context = &run, .settled = round_settled};
    for (size_t i = 0; i < search->unit_count; i++) {
        if (is_candidate(search, i)) {
            units[run.round.count] = i;
            candidates[run.round.count++] = (struct prune_candidate){
                .unit = search->units[i],
                .cost = search->costs[i],
                .prior = search->priors[i],
                .score = search->scores[i],
                .standing = isnan(search->scores[i]) ? PRUNE_PENDING : PRUNE_EXACT,
            };
        }
    }
    if (!evaluate_candidates(&run, error)) {
        return false;
    }
    size_t winner = find_winner(&run.round);
    CHECK(winner < run.round.count);
    keep_priors(&run);
    *ret_winner = units[winner];
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
        if (count_candidates(search) == 0) {
            break; /* what is left may not go */
        }
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

void greedy_options_read(const json_t *parameters, struct greedy_options *options)
{
    const char *curve = json_string_value(json_object_get(parameters, "curve"));
    const char *rank = json_string_value(json_object_get(parameters, "rank_by"));
    options->is_full_curve = curve != NULL && strcmp(curve, "full") == 0;
    options->rank = rank == NULL                                 ? GREEDY_BY_SCORE
                    : strcmp(rank, "score_per_parameter") == 0   ? GREEDY_BY_SCORE_PER_PARAMETER
                    : strcmp(rank, "score_per_millisecond") == 0 ? GREEDY_BY_SCORE_PER_MILLISECOND
                                                                 : GREEDY_BY_SCORE;
    if (json_is_true(json_object_get(parameters, "lazy"))) {
        options->lazy_epsilon = json_number_value(json_object_get(parameters, "lazy_epsilon"));
    }
}

bool greedy_search(struct prune_run *run, const struct greedy_options *options,
                   const struct prune_target *target, struct plan *ret_plan, struct error *error)
{
    CHECK(run->evaluator != NULL && ret_plan->point_count == 0);
    struct search search = {.run = run, .options = options, .target = target, .plan = ret_plan};
    search.unit_count = prune_list_units(run, options->granularity, &search.units);
    search.gone = memory_create(search.unit_count + 1, sizeof *search.gone);
    search.scores = memory_create(search.unit_count + 1, sizeof *search.scores);
    search.priors = memory_create(search.unit_count + 1, sizeof *search.priors);
    search.costs = memory_create(search.unit_count + 1, sizeof *search.costs);
    for (size_t i = 0; i < search.unit_count; i++) {
        search.scores[i] = NAN;
        search.priors[i] = NAN;
    }
    if (run->state == NULL && run->curve != NULL) {
        load_curve(&search);
    }
    bool is_good = run->state == NULL || load_state(&search, error);
    if (is_good) {
        plan_cut(ret_plan, ret_plan->point_count);
        is_good = run->evaluator->restart(run->evaluator->context, ret_plan->removed, error);
    }
    is_good = is_good && take_costs(&search, error) && search_rounds(&search, error);
    free(search.priors);
    free(search.costs);
    free(search.units);
    free(search.gone);
    free(search.scores);
    return is_good;
}
