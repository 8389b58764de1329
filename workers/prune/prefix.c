/* workers/prune/prefix.c: see prefix.h. */
#include "workers/prune/prefix.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/memory.h"
#include "workers/prune/race.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Ratios of exact to screened scores, and what is added on both sides for those that nobody saw. */
#define BAND_UNKNOWN_LOW  0.5
#define BAND_UNKNOWN_HIGH 2.0
#define BAND_FLOOR        0.01
#define BAND_SPREADS      2.0
#define BAND_SAMPLES      4 /* candidates that are confirmed in the first round, whatever their screened scores */

struct band {
    double least, most; /* of the ratios seen */
    size_t count;
};

struct prefix_evaluator {
    struct prune_evaluator interface;
    struct prefix_options options;
    struct race_side exact, screen; /* screen: only where there is a model for it */
    struct race_memory memory;      /* filled by screening only */
    size_t sublayer_count, row_count;
    bool *removed; /* [sublayer_count], of the current model */
    struct band band;
    uint64_t candidate_count, naive_token_sublayers, naive_token_heads;
    uint64_t confirmed_count; /* candidates that were screened and evaluated exactly all the same */
    uint64_t at_once_count;   /* of them: while the others were still screened */
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

/* ---- the evaluator ----------------------------------------------------------------------------------------------- */

static bool has_screen(const struct prefix_evaluator *evaluator)
{
    return evaluator->screen.engine != NULL;
}

/* A side starts when the lowest candidate is known. */
static bool reach(const struct prefix_evaluator *evaluator, struct race_side *side, size_t first,
                  struct error *error)
{
    return race_side_reach(side, evaluator->removed, first, error);
}

static size_t lowest_of(const struct prefix_evaluator *evaluator, const struct prune_round *round)
{
    size_t first = evaluator->sublayer_count;
    for (size_t i = 0; i < round->count; i++) {
        size_t unit = round->candidates[i].unit.first;
        first = unit < first ? unit : first;
    }
    return first;
}

/* What one full forward for each of these candidates would have been. */
static void count_naive(struct prefix_evaluator *evaluator, const struct prune_unit *unit)
{
    uint64_t alive = 0;
    for (size_t j = 0; j < evaluator->sublayer_count; j++) {
        alive += evaluator->removed[j] ? 0 : 1;
    }
    evaluator->candidate_count++;
    evaluator->naive_token_sublayers += (alive - unit->count) * evaluator->row_count;
    evaluator->naive_token_heads += evaluator->row_count;
}

static bool prefix_restart(void *context, const bool *removed, struct error *error)
{
    (void)error;
    struct prefix_evaluator *evaluator = context;
    memcpy(evaluator->removed, removed, evaluator->sublayer_count * sizeof *removed);
    race_side_restart(&evaluator->exact);
    race_side_restart(&evaluator->screen);
    race_memory_forget(&evaluator->memory);
    return true;
}

static bool prefix_evaluate(void *context, const struct prune_unit *unit, double best, double *ret_score,
                            struct error *error)
{
    (void)best;
    struct prefix_evaluator *evaluator = context;
    struct prune_candidate candidate = {.unit = *unit, .cost = 1, .prior = NAN};
    struct prune_round round = {.candidates = &candidate, .count = 1, .lazy_epsilon = -1};
    struct race_options options = {.is_exhaustive = true, .low = 1, .high = 1};
    count_naive(evaluator, unit);
    if (!reach(evaluator, &evaluator->exact, unit->first, error) ||
        !race_run(&evaluator->exact, &round, &options, error)) {
        return false;
    }
    *ret_score = candidate.score;
    return true;
}

/* ---- screening --------------------------------------------------------------------------------------------------- */

static void read_band(const struct band *band, double *ret_low, double *ret_high)
{
    if (band->count == 0) {
        *ret_low = BAND_UNKNOWN_LOW;
        *ret_high = BAND_UNKNOWN_HIGH;
        return;
    }
    double margin = fmax(BAND_FLOOR, BAND_SPREADS * (band->most / band->least - 1));
    *ret_low = band->least / (1 + margin);
    *ret_high = band->most * (1 + margin);
}

static void add_ratio(struct band *band, double ratio)
{
    if (!(ratio > 0) || !isfinite(ratio)) {
        return; /* a score of zero says nothing */
    }
    band->least = band->count == 0 ? ratio : fmin(band->least, ratio);
    band->most = band->count == 0 ? ratio : fmax(band->most, ratio);
    band->count++;
}

static double best_exact(const struct prune_round *round)
{
    double best = INFINITY;
    for (size_t i = 0; i < round->count; i++) {
        const struct prune_candidate *candidate = &round->candidates[i];
        best = candidate->standing == PRUNE_EXACT ? fmin(best, candidate->score / candidate->cost) : best;
    }
    return best;
}

/* Pending candidates that may win by what screening said of them, or that are wanted for the band. */
static size_t choose_confirmed(const struct prefix_evaluator *evaluator, const struct prune_round *round,
                               const struct prune_candidate *screened, bool *chosen)
{
    double low = 0;
    double high = 0;
    double best = best_exact(round);
    size_t count = 0;
    read_band(&evaluator->band, &low, &high);
    for (size_t i = 0; i < round->count; i++) {
        chosen[i] = round->candidates[i].standing == PRUNE_PENDING && isfinite(best) &&
                    screened[i].score * low / screened[i].cost <= best;
        count += chosen[i] ? 1 : 0;
    }
    size_t wanted = isinf(best)                            ? 1
                    : evaluator->band.count < BAND_SAMPLES ? BAND_SAMPLES - evaluator->band.count
                                                           : 0;
    while (count < wanted) { /* the lowest of those that were screened to the end */
        size_t next = round->count;
        for (size_t i = 0; i < round->count; i++) {
            bool is_free = round->candidates[i].standing == PRUNE_PENDING && !chosen[i] &&
                           screened[i].standing == PRUNE_EXACT;
            if (is_free && (next == round->count || screened[i].score / screened[i].cost <
                                                        screened[next].score / screened[next].cost)) {
                next = i;
            }
        }
        if (next == round->count) {
            break;
        }
        chosen[next] = true;
        count++;
    }
    return count;
}

/* A round that is screened. */
struct screening {
    struct prefix_evaluator *evaluator;
    struct prune_round *round;
    struct prune_candidate *screened; /* [round->count]: of the cheap model */
    bool *is_learnt;                  /* [round->count]: its ratio is in the band, or it has none */
};

static void learn(struct screening *screening)
{
    for (size_t i = 0; i < screening->round->count; i++) {
        const struct prune_candidate *exact = &screening->round->candidates[i];
        const struct prune_candidate *screened = &screening->screened[i];
        if (!screening->is_learnt[i] && exact->standing == PRUNE_EXACT && screened->standing == PRUNE_EXACT) {
            add_ratio(&screening->evaluator->band, exact->score / screened->score);
            screening->is_learnt[i] = true;
        }
    }
}

/* The chosen ones, exactly. Those that were wanted for the band are finished; of the others losers may go early. */
static bool confirm(struct screening *screening, const bool *chosen, struct error *error)
{
    struct prefix_evaluator *evaluator = screening->evaluator;
    struct prune_round *round = screening->round;
    OWNED_MEMORY struct prune_candidate *candidates = memory_create(round->count, sizeof *candidates);
    OWNED_MEMORY size_t *origins = memory_create(round->count, sizeof *origins);
    struct prune_round part = {.candidates = candidates, .lazy_epsilon = -1};
    for (size_t i = 0; i < round->count; i++) {
        if (chosen[i] || round->candidates[i].standing == PRUNE_EXACT) {
            origins[part.count] = i;
            candidates[part.count] = round->candidates[i];
            candidates[part.count++].prior = screening->screened[i].score;
        }
    }
    struct race_options options = {.is_exhaustive = evaluator->options.is_exhaustive ||
                                                    evaluator->band.count < BAND_SAMPLES,
                                   .memory = &evaluator->memory,
                                   .low = 1,
                                   .high = 1};
    if (!race_run(&evaluator->exact, &part, &options, error)) {
        return false;
    }
    for (size_t i = 0; i < part.count; i++) {
        struct prune_candidate *candidate = &round->candidates[origins[i]];
        evaluator->confirmed_count += candidate->standing == PRUNE_PENDING ? 1 : 0;
        candidate->score = candidates[i].score;
        candidate->standing = candidates[i].standing;
    }
    return round->settled == NULL || round->settled(round->context, error);
}

static bool confirm_one(void *context, size_t index, double *ret_score, bool *ret_is_exact,
                        struct error *error)
{
    struct screening *screening = context;
    const struct prune_candidate *candidate = &screening->round->candidates[index];
    OWNED_MEMORY bool *chosen = memory_create(screening->round->count, sizeof *chosen);
    chosen[index] = true;
    screening->evaluator->at_once_count++;
    bool is_good = confirm(screening, chosen, error);
    *ret_score = candidate->score;
    *ret_is_exact = candidate->standing == PRUNE_EXACT;
    return is_good;
}

/* Everyone by the cheap model. Once the band is known, whoever seems to be ahead is evaluated exactly at once, and the others race against
 * that. */
static bool screen(struct screening *screening, struct error *error)
{
    struct prefix_evaluator *evaluator = screening->evaluator;
    struct prune_round cheap = *screening->round;
    cheap.candidates = screening->screened;
    struct race_options options = {.is_exhaustive = evaluator->options.is_exhaustive,
                                   .is_sampled = objective_selects(evaluator->screen.objective),
                                   .memory = &evaluator->memory,
                                   .context = screening};
    read_band(&evaluator->band, &options.low, &options.high);
    if (evaluator->band.count >= BAND_SAMPLES && options.is_sampled) {
        options.confirm = confirm_one;
    }
    return race_run(&evaluator->screen, &cheap, &options, error);
}

/* Then, exactly, whoever may win by the band of ratios seen so far, until nobody is left. */
static bool screen_round(struct prefix_evaluator *evaluator, struct prune_round *round, struct error *error)
{
    OWNED_MEMORY struct prune_candidate *screened = memory_create(round->count, sizeof *screened);
    OWNED_MEMORY bool *chosen = memory_create(round->count, sizeof *chosen);
    OWNED_MEMORY bool *is_learnt = memory_create(round->count, sizeof *is_learnt);
    struct screening screening = {evaluator, round, screened, is_learnt};
    for (size_t i = 0; i < round->count; i++) {
        screened[i] = round->candidates[i];
        is_learnt[i] = screened[i].standing != PRUNE_PENDING;
    }
    if (!screen(&screening, error)) {
        return false;
    }
    learn(&screening);
    while (choose_confirmed(evaluator, round, screened, chosen) > 0) {
        if (!confirm(&screening, chosen, error)) {
            return false;
        }
        learn(&screening);
    }
    double low = 0;
    double high = 0;
    read_band(&evaluator->band, &low, &high);
    for (size_t i = 0; i < round->count; i++) {
        struct prune_candidate *candidate = &round->candidates[i];
        if (candidate->standing == PRUNE_PENDING && screened[i].standing != PRUNE_PENDING) {
            candidate->score = screened[i].score * low;
            candidate->standing = PRUNE_BOUND;
        }
    }
    return true;
}

static bool prefix_evaluate_round(void *context, struct prune_round *round, struct error *error)
{
    struct prefix_evaluator *evaluator = context;
    size_t first = lowest_of(evaluator, round);
    size_t pending = 0;
    for (size_t i = 0; i < round->count; i++) {
        if (round->candidates[i].standing == PRUNE_PENDING) {
            count_naive(evaluator, &round->candidates[i].unit);
            pending++;
        }
    }
    if (pending == 0) {
        return true;
    }
    if (!reach(evaluator, &evaluator->exact, first, error)) {
        return false;
    }
    if (has_screen(evaluator) && round->lazy_epsilon < 0) {
        return reach(evaluator, &evaluator->screen, first, error) && screen_round(evaluator, round, error);
    }
    struct race_options options = {.is_exhaustive = evaluator->options.is_exhaustive, .low = 1, .high = 1};
    return race_run(&evaluator->exact, round, &options, error);
}

/* ---- the rest of the interface ----------------------------------------------------------------------------------- */

static bool prefix_commit(void *context, const struct prune_unit *unit, struct error *error)
{
    struct prefix_evaluator *evaluator = context;
    for (size_t i = 0; i < unit->count; i++) {
        evaluator->removed[unit->first + i] = true;
    }
    race_memory_commit(&evaluator->memory, unit);
    return race_side_commit(&evaluator->exact, unit, error) &&
           race_side_commit(&evaluator->screen, unit, error);
}

/* The fastest of three: the first also reads the weights. */
static bool prefix_time(void *context, size_t sublayer, double *ret_ms, struct error *error)
{
    struct prefix_evaluator *evaluator = context;
    double fastest = INFINITY;
    for (size_t i = 0; i < 3; i++) {
        int64_t ns = 0;
        if (!wave_time(evaluator->exact.engine, sublayer, &ns, error)) {
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
    struct model_work work = model_get_work(evaluator->exact.model);
    json_t *json = json_object();
    json_put_i64(json, "candidates", (int64_t)evaluator->candidate_count);
    json_put_i64(json, "completed", (int64_t)evaluator->exact.completed);
    json_put_i64(json, "aborted", (int64_t)evaluator->exact.aborted);
    json_put_i64(json, "left_out", (int64_t)evaluator->exact.left_out);
    json_put_i64(json, "token_sublayers",
                 (int64_t)(work.token_sublayers - evaluator->work_before.token_sublayers));
    json_put_i64(json, "token_heads", (int64_t)(work.token_heads - evaluator->work_before.token_heads));
    json_put_i64(json, "naive_token_sublayers", (int64_t)evaluator->naive_token_sublayers);
    json_put_i64(json, "naive_token_heads", (int64_t)evaluator->naive_token_heads);
    if (has_screen(evaluator)) {
        struct model_work screened = model_get_work(evaluator->screen.model);
        double low = 0;
        double high = 0;
        read_band(&evaluator->band, &low, &high);
        json_t *screen = json_object();
        json_put_i64(screen, "completed", (int64_t)evaluator->screen.completed);
        json_put_i64(screen, "aborted", (int64_t)evaluator->screen.aborted);
        json_put_i64(screen, "sampled", (int64_t)evaluator->screen.sampled);
        json_put_i64(screen, "confirmed", (int64_t)evaluator->confirmed_count);
        json_put_i64(screen, "confirmed_at_once", (int64_t)evaluator->at_once_count);
        json_put_i64(screen, "token_sublayers", (int64_t)screened.token_sublayers);
        json_put_i64(screen, "token_heads", (int64_t)screened.token_heads);
        json_put_double(screen, "ratio_least", evaluator->band.least);
        json_put_double(screen, "ratio_most", evaluator->band.most);
        json_put_double(screen, "band_low", low);
        json_put_double(screen, "band_high", high);
        json_put(json, "screen", screen);
    }
    return json;
}

struct prefix_evaluator *prefix_evaluator_create(struct model *model, const struct objective_text *text,
                                                 const struct prefix_options *options)
{
    struct prefix_evaluator *evaluator = memory_create(1, sizeof *evaluator);
    evaluator->interface = (struct prune_evaluator){.context = evaluator,
                                                    .restart = prefix_restart,
                                                    .evaluate = prefix_evaluate,
                                                    .commit = prefix_commit,
                                                    .evaluate_round = prefix_evaluate_round,
                                                    .time_sublayer = prefix_time,
                                                    .describe = prefix_describe};
    evaluator->options = *options;
    evaluator->sublayer_count = model_sublayer_count(model);
    evaluator->removed = memory_create(evaluator->sublayer_count + 1, sizeof *evaluator->removed);
    evaluator->work_before = model_get_work(model);
    race_memory_start(&evaluator->memory, evaluator->sublayer_count);
    race_side_start(&evaluator->exact, model, text, &options->objective, &options->wave);
    if (options->screen != NULL) {
        race_side_start(&evaluator->screen, options->screen, text, &options->objective, &options->wave);
    }
    evaluator->row_count = wave_rows_of(evaluator->exact.engine, 0, evaluator->exact.item_count);
    return evaluator;
}

void prefix_evaluator_destroy(struct prefix_evaluator *evaluator)
{
    if (evaluator == NULL) {
        return;
    }
    race_side_finish(&evaluator->exact);
    race_side_finish(&evaluator->screen);
    race_memory_finish(&evaluator->memory);
    free(evaluator->removed);
    free(evaluator);
}

struct prune_evaluator *prefix_evaluator_interface(struct prefix_evaluator *evaluator)
{
    return &evaluator->interface;
}

/* A value of every token for every candidate; with screening also a control, and what is kept between rounds on both sides' behalf. */
uint64_t prefix_evaluator_values_bytes(size_t sublayer_count, size_t rows, bool has_screen)
{
    return (uint64_t)sublayer_count * rows * sizeof(double) * (has_screen ? 2 : 1);
}

size_t prefix_evaluator_state_count(const struct prefix_evaluator *evaluator)
{
    return wave_state_count(evaluator->exact.engine);
}
