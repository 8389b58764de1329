/* workers/prune/prefix.c: see prefix.h. */
#include "workers/prune/prefix.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/memory.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CHUNKS     16          /* of the items, at most */
#define SUM_MARGIN (1 - 1e-12) /* partial sums are added in another order than the whole */

/* What was done, for reports: of this evaluator's life. */
struct work_count {
    uint64_t candidates, completed, aborted, pending;
    uint64_t naive_token_sublayers, naive_token_heads;
};

struct prefix_evaluator {
    struct prune_evaluator interface;
    struct model *model;
    struct prefix_options options;
    struct wave_engine *engine;
    struct objective *objective; /* the engine's */
    size_t sublayer_count, item_count, row_count;
    bool *removed;       /* [sublayer_count], of the current model */
    bool has_engine;     /* has been started: it is when the lowest candidate is known */
    size_t *chunk_first; /* [chunk_count + 1] of items */
    size_t chunk_count;
    struct work_count count;
    struct model_work work_before;
};

/* ---- options ----------------------------------------------------------------------------------------------------- */

static bool is_off(const json_t *parameters, const char *name)
{
    return json_is_false(json_object_get(parameters, name));
}

void prefix_options_read(const json_t *parameters, struct prefix_options *ret_options)
{
    static const struct {
        const char *name;
        struct objective_options objective;
    } metrics[] = {
        {"norm", {.kind = OBJECTIVE_DISTANCE, .metric = HEAD_METRIC_NORM}},
        {"angular", {.kind = OBJECTIVE_DISTANCE, .metric = HEAD_METRIC_ANGULAR}},
        {"kl", {.kind = OBJECTIVE_DISTANCE, .metric = HEAD_METRIC_KL}},
        {"js", {.kind = OBJECTIVE_DISTANCE, .metric = HEAD_METRIC_JS}},
        {"nll", {.kind = OBJECTIVE_NLL}},
    };
    const char *metric = json_string_value(json_object_get(parameters, "metric"));
    const char *js_form = json_string_value(json_object_get(parameters, "js_form"));
    *ret_options = (struct prefix_options){
        .objective = {.kind = OBJECTIVE_NLL},
        .wave = {.is_uncached = is_off(parameters, "prefix_cache"),
                 .is_single = is_off(parameters, "batch_candidates")},
        .is_exhaustive = is_off(parameters, "early_abort"),
    };
    for (size_t i = 0; metric != NULL && i < sizeof metrics / sizeof metrics[0]; i++) {
        if (strcmp(metric, metrics[i].name) == 0) {
            ret_options->objective = metrics[i].objective;
        }
    }
    struct objective_options *objective = &ret_options->objective;
    if (objective->kind == OBJECTIVE_DISTANCE && objective->metric == HEAD_METRIC_JS && js_form != NULL &&
        strcmp(js_form, "textbook") == 0) {
        objective->metric = HEAD_METRIC_JS_TEXTBOOK;
    }
    ret_options->objective.is_plain_head = is_off(parameters, "gram_head");
}

/* ---- a round ----------------------------------------------------------------------------------------------------- */

/* A candidate that is being judged. */
struct runner {
    struct prune_candidate *candidate;
    double *terms; /* [item_count] */
    bool is_alive; /* still in the race, and not complete */
};
struct race {
    struct prefix_evaluator *evaluator;
    struct prune_round *round;
    struct runner *runners; /* [count]: those that were pending */
    size_t count;
    double best;     /* lowest score / cost so far; INFINITY: none is complete */
    size_t *chunks;  /* [chunk_count]: the order in which they are run */
    double *terms;   /* owned: the runners' */
    double *scratch; /* terms of a wave */
    struct prune_unit *units;
    size_t *members; /* runner of each unit of a wave */
};

static double value_of(const struct prune_candidate *candidate)
{
    return candidate->score / candidate->cost;
}

static double sum_chunks(const struct race *race, const struct runner *runner, size_t chunk_count)
{
    const struct prefix_evaluator *evaluator = race->evaluator;
    double sum = 0.0;
    for (size_t c = 0; c < chunk_count; c++) {
        size_t chunk = race->chunks[c];
        for (size_t i = evaluator->chunk_first[chunk]; i < evaluator->chunk_first[chunk + 1]; i++) {
            sum += runner->terms[i];
        }
    }
    return sum / objective_parts(evaluator->objective);
}

static bool settle(struct race *race, struct error *error)
{
    return race->round->settled == NULL || race->round->settled(race->round->context, error);
}

static bool complete(struct race *race, struct runner *runner, struct error *error)
{
    struct prune_candidate *candidate = runner->candidate;
    candidate->score = objective_total(race->evaluator->objective, runner->terms);
    candidate->standing = PRUNE_EXACT;
    runner->is_alive = false;
    race->evaluator->count.completed++;
    if (!isfinite(candidate->score)) {
        return error_set(error, ERROR_NUMERIC, "the distance without sublayer %zu is not a finite number",
                         candidate->unit.first);
    }
    race->best = fmin(race->best, value_of(candidate));
    return true;
}

/* Items [first, first + count) of the given runners. */
static bool run_members(struct race *race, size_t member_count, size_t first_item, size_t item_count,
                        bool keeps, struct error *error)
{
    for (size_t m = 0; m < member_count; m++) {
        race->units[m] = race->runners[race->members[m]].candidate->unit;
    }
    if (!wave_run(race->evaluator->engine, race->units, member_count, first_item, item_count, keeps,
                  race->scratch, error)) {
        return false;
    }
    for (size_t m = 0; m < member_count; m++) {
        memcpy(race->runners[race->members[m]].terms + first_item, race->scratch + m * item_count,
               item_count * sizeof(double));
    }
    return true;
}

/* Chunks [from, chunk_count) of the race's order, of one runner. */
static bool finish_alone(struct race *race, size_t index, size_t from, struct error *error)
{
    struct prefix_evaluator *evaluator = race->evaluator;
    race->members[0] = index;
    if (from == 0) {
        if (!run_members(race, 1, 0, evaluator->item_count, true, error)) {
            return false;
        }
    }
    for (size_t c = from; from > 0 && c < evaluator->chunk_count; c++) {
        size_t first = evaluator->chunk_first[race->chunks[c]];
        size_t end = evaluator->chunk_first[race->chunks[c] + 1];
        if (!run_members(race, 1, first, end - first, false, error)) {
            return false;
        }
    }
    return complete(race, &race->runners[index], error) && settle(race, error);
}

/* Everyone, whatever it comes to; a wave at a time, because a wave is a resume point. */
static bool run_exhaustively(struct race *race, struct error *error)
{
    size_t capacity = wave_unit_capacity(race->evaluator->engine);
    for (size_t first = 0; first < race->count;) {
        size_t count = 0;
        for (; first < race->count && count < capacity; first++) {
            if (race->runners[first].is_alive) {
                race->members[count++] = first;
            }
        }
        if (count == 0) {
            break;
        }
        if (!run_members(race, count, 0, race->evaluator->item_count, count == 1, error)) {
            return false;
        }
        for (size_t m = 0; m < count; m++) {
            if (!complete(race, &race->runners[race->members[m]], error)) {
                return false;
            }
        }
        if (!settle(race, error)) {
            return false;
        }
    }
    return true;
}

/* Heavy chunks of the leader first: they tell most. */
static void order_chunks(struct race *race, const struct runner *leader)
{
    const struct prefix_evaluator *evaluator = race->evaluator;
    double weights[CHUNKS] = {0};
    for (size_t c = 0; c < evaluator->chunk_count; c++) {
        for (size_t i = evaluator->chunk_first[c]; leader != NULL && i < evaluator->chunk_first[c + 1]; i++) {
            weights[c] += leader->terms[i];
        }
        size_t at = c;
        for (; at > 0 && weights[c] > weights[race->chunks[at - 1]]; at--) {
            race->chunks[at] = race->chunks[at - 1];
        }
        race->chunks[at] = c;
    }
}

static void drop_losers(struct race *race, size_t chunk_count)
{
    for (size_t i = 0; i < race->count; i++) {
        struct runner *runner = &race->runners[i];
        double bound = runner->is_alive ? sum_chunks(race, runner, chunk_count) * SUM_MARGIN : 0;
        if (runner->is_alive && bound / runner->candidate->cost > race->best) {
            runner->candidate->score = bound;
            runner->candidate->standing = PRUNE_BOUND;
            runner->is_alive = false;
            race->evaluator->count.aborted++;
        }
    }
}

/* The runner that is ahead on the chunks seen so far, and ahead of `leader` there. race->count: none. */
static size_t find_ahead(const struct race *race, const struct runner *leader, size_t chunk_count)
{
    size_t found = race->count;
    double lowest =
        leader != NULL ? sum_chunks(race, leader, chunk_count) / leader->candidate->cost : (double)INFINITY;
    for (size_t i = 0; i < race->count; i++) {
        const struct runner *runner = &race->runners[i];
        double value = runner->is_alive ? sum_chunks(race, runner, chunk_count) / runner->candidate->cost
                                        : (double)INFINITY;
        if (value < lowest) {
            lowest = value;
            found = i;
        }
    }
    return found;
}

static size_t count_alive(struct race *race)
{
    size_t count = 0;
    for (size_t i = 0; i < race->count; i++) {
        if (race->runners[i].is_alive) {
            race->members[count++] = i;
        }
    }
    return count;
}

/* The lowest of what an earlier round said. race->count: nobody knows. */
static size_t find_favourite(const struct race *race)
{
    size_t found = race->count;
    double lowest = INFINITY;
    for (size_t i = 0; i < race->count; i++) {
        const struct prune_candidate *candidate = race->runners[i].candidate;
        if (race->runners[i].is_alive && candidate->prior / candidate->cost < lowest) {
            lowest = candidate->prior / candidate->cost;
            found = i;
        }
    }
    return found;
}

static bool run_race(struct race *race, struct error *error)
{
    struct prefix_evaluator *evaluator = race->evaluator;
    const struct runner *leader = NULL;
    size_t favourite = find_favourite(race);
    if (favourite < race->count) {
        if (!finish_alone(race, favourite, 0, error)) {
            return false;
        }
        leader = &race->runners[favourite];
    }
    order_chunks(race, leader);
    for (size_t c = 0; c < evaluator->chunk_count; c++) {
        size_t count = count_alive(race);
        size_t first = evaluator->chunk_first[race->chunks[c]];
        size_t items = evaluator->chunk_first[race->chunks[c] + 1] - first;
        if (count == 0) {
            break;
        }
        if (!run_members(race, count, first, items, false, error)) {
            return false;
        }
        drop_losers(race, c + 1);
        for (size_t ahead = 0;
             c + 1 < evaluator->chunk_count && (ahead = find_ahead(race, leader, c + 1)) < race->count;) {
            if (!finish_alone(race, ahead, c + 1, error)) {
                return false;
            }
            leader = &race->runners[ahead];
            drop_losers(race, c + 1);
        }
    }
    for (size_t i = 0; i < race->count; i++) {
        if (race->runners[i].is_alive && !complete(race, &race->runners[i], error)) {
            return false;
        }
    }
    return settle(race, error);
}

/* ---- lazy rounds ------------------------------------------------------------------------------------------------- */

/*
 * Lazy greedy (a heuristic: scores may fall when more is gone). Whoever did worse before than (the favourite's score now) /
 * (1 - epsilon) stays pending. The favourite is the lowest of what earlier rounds said, evaluated or not, so that a round that is
 * resumed leaves the same candidates out; nobody goes early, for the same reason.
 */
static bool leave_out(struct race *race, struct error *error)
{
    struct prune_round *round = race->round;
    const struct prune_candidate *favourite = NULL;
    for (size_t i = 0; i < round->count; i++) {
        const struct prune_candidate *candidate = &round->candidates[i];
        if (!isnan(candidate->prior) &&
            (favourite == NULL || candidate->prior / candidate->cost < favourite->prior / favourite->cost)) {
            favourite = candidate;
        }
    }
    if (favourite == NULL) {
        return true;
    }
    for (size_t i = 0; i < race->count; i++) {
        if (race->runners[i].candidate == favourite && !finish_alone(race, i, 0, error)) {
            return false;
        }
    }
    double limit = value_of(favourite) / (1 - round->lazy_epsilon);
    for (size_t i = 0; i < race->count; i++) {
        const struct prune_candidate *candidate = race->runners[i].candidate;
        if (race->runners[i].is_alive && candidate->prior / candidate->cost >= limit) {
            race->runners[i].is_alive = false;
            race->evaluator->count.pending++;
        }
    }
    return true;
}

/* ---- the evaluator ----------------------------------------------------------------------------------------------- */

static bool reach(struct prefix_evaluator *evaluator, size_t first, struct error *error)
{
    if (evaluator->has_engine) {
        return wave_reach(evaluator->engine, first, error);
    }
    evaluator->has_engine = wave_restart(evaluator->engine, evaluator->removed, first, error);
    return evaluator->has_engine;
}

/* What one full forward for each of these candidates would have been. */
static void count_naive(struct prefix_evaluator *evaluator, const struct prune_unit *unit)
{
    uint64_t alive = 0;
    for (size_t j = 0; j < evaluator->sublayer_count; j++) {
        alive += evaluator->removed[j] ? 0 : 1;
    }
    evaluator->count.candidates++;
    evaluator->count.naive_token_sublayers += (alive - unit->count) * evaluator->row_count;
    evaluator->count.naive_token_heads += evaluator->row_count;
}

static bool prefix_restart(void *context, const bool *removed, struct error *error)
{
    (void)error;
    struct prefix_evaluator *evaluator = context;
    memcpy(evaluator->removed, removed, evaluator->sublayer_count * sizeof *removed);
    evaluator->has_engine = false;
    return true;
}

static bool prefix_evaluate(void *context, const struct prune_unit *unit, double best, double *ret_score,
                            struct error *error)
{
    (void)best;
    struct prefix_evaluator *evaluator = context;
    OWNED_MEMORY double *terms = memory_create(evaluator->item_count + 1, sizeof *terms);
    count_naive(evaluator, unit);
    if (!reach(evaluator, unit->first, error) ||
        !wave_run(evaluator->engine, unit, 1, 0, evaluator->item_count, true, terms, error)) {
        return false;
    }
    evaluator->count.completed++;
    *ret_score = objective_total(evaluator->objective, terms);
    return true;
}

static bool run_round(struct race *race, struct error *error)
{
    struct prefix_evaluator *evaluator = race->evaluator;
    struct prune_round *round = race->round;
    size_t first = evaluator->sublayer_count;
    for (size_t i = 0; i < round->count; i++) {
        struct prune_candidate *candidate = &round->candidates[i];
        first = candidate->unit.first < first ? candidate->unit.first : first;
        if (candidate->standing == PRUNE_EXACT) {
            race->best = fmin(race->best, value_of(candidate));
        }
        if (candidate->standing == PRUNE_PENDING) {
            race->runners[race->count] =
                (struct runner){candidate, race->terms + race->count * evaluator->item_count, true};
            race->count++;
            count_naive(evaluator, &candidate->unit);
        }
    }
    if (race->count == 0) {
        return true;
    }
    if (!reach(evaluator, first, error)) {
        return false;
    }
    bool is_lazy = round->lazy_epsilon >= 0;
    bool races = !is_lazy && !evaluator->options.is_exhaustive && evaluator->chunk_count > 1 &&
                 model_is_resident(evaluator->model);
    if (is_lazy && !leave_out(race, error)) {
        return false;
    }
    return races ? run_race(race, error) : run_exhaustively(race, error);
}

static bool prefix_evaluate_round(void *context, struct prune_round *round, struct error *error)
{
    struct prefix_evaluator *evaluator = context;
    struct race race = {.evaluator = evaluator, .round = round, .best = INFINITY};
    size_t count = round->count + 1;
    OWNED_MEMORY struct runner *runners = memory_create(count, sizeof *runners);
    OWNED_MEMORY size_t *chunks = memory_create(CHUNKS + 1, sizeof *chunks);
    OWNED_MEMORY size_t *members = memory_create(count, sizeof *members);
    OWNED_MEMORY struct prune_unit *units = memory_create(count, sizeof *units);
    OWNED_MEMORY double *terms = memory_create(count * evaluator->item_count + 1, sizeof *terms);
    OWNED_MEMORY double *scratch = memory_create(count * evaluator->item_count + 1, sizeof *scratch);
    race.runners = runners;
    race.chunks = chunks;
    race.members = members;
    race.units = units;
    race.terms = terms;
    race.scratch = scratch;
    return run_round(&race, error);
}

static bool prefix_commit(void *context, const struct prune_unit *unit, struct error *error)
{
    struct prefix_evaluator *evaluator = context;
    for (size_t i = 0; i < unit->count; i++) {
        evaluator->removed[unit->first + i] = true;
    }
    return !evaluator->has_engine || wave_commit(evaluator->engine, unit, error);
}

/* The fastest of three: the first also reads the weights. */
static bool prefix_time(void *context, size_t sublayer, double *ret_ms, struct error *error)
{
    struct prefix_evaluator *evaluator = context;
    double fastest = INFINITY;
    for (size_t i = 0; i < 3; i++) {
        int64_t ns = 0;
        if (!wave_time(evaluator->engine, sublayer, &ns, error)) {
            return false;
        }
        fastest = fmin(fastest, (double)ns / 1e6);
    }
    *ret_ms = fastest > 0 ? fastest : 1e-6;
    return true;
}

static json_t *prefix_describe(void *context)
{
    const struct prefix_evaluator *evaluator = context;
    const struct work_count *count = &evaluator->count;
    struct model_work work = model_get_work(evaluator->model);
    json_t *json = json_object();
    json_put_i64(json, "candidates", (int64_t)count->candidates);
    json_put_i64(json, "completed", (int64_t)count->completed);
    json_put_i64(json, "aborted", (int64_t)count->aborted);
    json_put_i64(json, "left_out", (int64_t)count->pending);
    json_put_i64(json, "token_sublayers",
                 (int64_t)(work.token_sublayers - evaluator->work_before.token_sublayers));
    json_put_i64(json, "token_heads", (int64_t)(work.token_heads - evaluator->work_before.token_heads));
    json_put_i64(json, "naive_token_sublayers", (int64_t)count->naive_token_sublayers);
    json_put_i64(json, "naive_token_heads", (int64_t)count->naive_token_heads);
    return json;
}

/* Chunks of about equal size: at least one item, and no smaller than a sixteenth of all rows. */
static void cut_chunks(struct prefix_evaluator *evaluator)
{
    size_t least = (evaluator->row_count + CHUNKS - 1) / CHUNKS;
    evaluator->chunk_first = memory_create(CHUNKS + 2, sizeof *evaluator->chunk_first);
    for (size_t item = 0, first = 0; item < evaluator->item_count; item++) {
        bool is_last = item + 1 == evaluator->item_count;
        if (is_last || (wave_rows_of(evaluator->engine, first, item + 1 - first) >= least &&
                        evaluator->chunk_count + 1 < CHUNKS)) {
            first = item + 1;
            evaluator->chunk_first[++evaluator->chunk_count] = first;
        }
    }
}

struct prefix_evaluator *prefix_evaluator_create(struct model *model, const struct objective_text *text,
                                                 const struct prefix_options *options, struct error *error)
{
    OWNED(prefix_evaluator) evaluator = memory_create(1, sizeof *evaluator);
    evaluator->interface = (struct prune_evaluator){.context = evaluator,
                                                    .restart = prefix_restart,
                                                    .evaluate = prefix_evaluate,
                                                    .commit = prefix_commit,
                                                    .evaluate_round = prefix_evaluate_round,
                                                    .time_sublayer = prefix_time,
                                                    .describe = prefix_describe};
    evaluator->model = model;
    evaluator->options = *options;
    evaluator->sublayer_count = model_sublayer_count(model);
    evaluator->removed = memory_create(evaluator->sublayer_count + 1, sizeof *evaluator->removed);
    evaluator->work_before = model_get_work(model);
    evaluator->engine = wave_engine_create(model, text, &options->objective, &options->wave, error);
    if (evaluator->engine == NULL) {
        return NULL;
    }
    evaluator->objective = wave_engine_objective(evaluator->engine);
    evaluator->item_count = objective_item_count(evaluator->objective);
    evaluator->row_count = wave_rows_of(evaluator->engine, 0, evaluator->item_count);
    cut_chunks(evaluator);
    return TAKE(evaluator);
}

void prefix_evaluator_destroy(struct prefix_evaluator *evaluator)
{
    if (evaluator == NULL) {
        return;
    }
    wave_engine_destroy(evaluator->engine);
    free(evaluator->removed);
    free(evaluator->chunk_first);
    free(evaluator);
}

struct prune_evaluator *prefix_evaluator_interface(struct prefix_evaluator *evaluator)
{
    return &evaluator->interface;
}

size_t prefix_evaluator_state_count(const struct prefix_evaluator *evaluator)
{
    return wave_state_count(evaluator->engine);
}
