/*
 * workers/recipe/gate.c: the quality gate. A plan is judged on the source's weights without what it removes, on windows of a text that
 * neither calibration nor evaluation read; nothing is written for it.
 *
 * perplexity: exp of the mean negative log-likelihood of every token of a window but the first, over the original's (protocol gptq).
 * kl: the mean over tokens of KL(original || pruned), in nats.
 *
 * Backing off is a bisection between nothing, which passes, and the target, which does not: with n steps about log2(n) judgements.
 * It assumes that more removed is not better; where a curve is not monotone, what is found passes and its next step does not.
 */
#include "workers/recipe/recipe_internal.h"

#include "base/check.h"
#include "base/memory.h"
#include "workers/data/overlap.h"
#include "workers/model/weights.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define GATE_ROWS 2048 /* of one pass, where memory allows */

static const json_t *gate_spec(const struct recipe *recipe)
{
    return json_object_get(recipe->spec, "quality_gate");
}

bool gate_is_kl(const json_t *gate)
{
    const char *metric = json_string_value(json_object_get(gate, "metric"));
    return metric != NULL && strcmp(metric, "kl") == 0;
}

static bool is_backing_off(const json_t *gate)
{
    const char *end = json_string_value(json_object_get(gate, "on_fail"));
    return end != NULL && strcmp(end, "back_off") == 0;
}

size_t gate_window_tokens(const json_t *gate, size_t context_tokens)
{
    const json_t *window = json_object_get(gate, "window_tokens");
    return json_is_integer(window) ? (size_t)json_integer_value(window)
           : context_tokens < 2048 ? context_tokens
                                   : 2048;
}

void gate_check(const json_t *gate, size_t context_tokens, struct error_list *faults)
{
    bool is_kl = gate_is_kl(gate);
    const char *limit = is_kl ? "max" : "max_ratio";
    const char *other = is_kl ? "max_ratio" : "max";
    char pointer[48];
    if (!json_is_number(json_object_get(gate, limit))) {
        (void)snprintf(pointer, sizeof pointer, "/quality_gate/%s", limit);
        error_list_add(faults, ERROR_MISSING_FIELD, pointer, "metric %s is judged by %s",
                       is_kl ? "kl" : "perplexity", limit);
    }
    if (json_object_get(gate, other) != NULL) {
        (void)snprintf(pointer, sizeof pointer, "/quality_gate/%s", other);
        error_list_add(faults, ERROR_INVALID_ARGUMENT, pointer, "metric %s takes no %s",
                       is_kl ? "kl" : "perplexity", other);
    }
    size_t window = gate_window_tokens(gate, context_tokens);
    if (window > context_tokens) {
        error_list_add(faults, ERROR_OUT_OF_RANGE, "/quality_gate/window_tokens",
                       "a window of %zu tokens is longer than the model's context of %zu", window,
                       context_tokens);
    }
}

/* ---- its text ---------------------------------------------------------------------------------------------------- */

bool gate_load(struct recipe *recipe, struct error *error)
{
    const json_t *gate = gate_spec(recipe);
    if (gate == NULL) {
        return true;
    }
    recipe->gate_corpus =
        recipe_load_corpus(recipe, json_object_get(gate, "text"), "/quality_gate/text", error);
    return recipe->gate_corpus != NULL;
}

static bool refuse_overlap(struct recipe *recipe, const struct token_stream *stream, const char *name,
                           size_t window, struct error *error)
{
    struct overlap overlap = {0};
    if (overlap_check(recipe->gate_windows, recipe->gate_corpus->name, stream, name, window,
                      recipe->job->cancel, &overlap, error)) {
        return true;
    }
    if (error->code == ERROR_TEXT_OVERLAP) {
        return error_set_field(error, ERROR_TEXT_OVERLAP, "/quality_gate/text/source",
                               "the gate's text %s shares a run of %zu tokens with the text %s",
                               recipe->gate_corpus->name, overlap.longest_run_tokens, name);
    }
    return false;
}

static bool check_overlaps(struct recipe *recipe, struct error *error)
{
    if (recipe->windows != NULL) {
        const struct windows *windows = recipe->windows;
        const struct token_stream calibration = {
            .tokens = {.ids = windows->tokens, .count = windows->count * windows->window_tokens}};
        if (!refuse_overlap(recipe, &calibration, recipe->calibration->name, windows->window_tokens, error)) {
            return false;
        }
    }
    if (recipe->evaluation == NULL) {
        return true;
    }
    FINISHED(token_stream) stream = {0};
    return token_stream_create(recipe->evaluation, recipe->tokenizer, recipe->inventory->config.vocab_size,
                               recipe->job->cancel, &stream, error) &&
           refuse_overlap(recipe, &stream, recipe->evaluation->name, recipe_evaluation_window(recipe), error);
}

bool gate_cut_windows(struct recipe *recipe, struct error *error)
{
    const json_t *gate = gate_spec(recipe);
    if (gate == NULL) {
        return true;
    }
    struct windows_options options = {
        .window_tokens = gate_window_tokens(gate, recipe->inventory->config.context_tokens),
        .num_samples = (size_t)json_integer_value(json_object_get(gate, "num_windows")),
        .sampling = WINDOWS_FIRST,
        .vocab_size = recipe->inventory->config.vocab_size,
        .cancel = recipe->job->cancel,
    };
    recipe->gate_windows = windows_create(recipe->gate_corpus, recipe->tokenizer, &options, error);
    if (recipe->gate_windows == NULL) {
        return false;
    }
    recipe->gate_text_json =
        windows_describe(recipe->gate_windows, recipe->gate_corpus, recipe->tokenizer, &options);
    recipe_touch();
    return check_overlaps(recipe, error);
}

double gate_search_share(const struct recipe *recipe)
{
    if (recipe->gate_windows == NULL) {
        return 1;
    }
    return recipe->method->needs & PRUNE_NEED_EVALUATOR ? 0.8 : 0.1;
}

uint64_t gate_rows(const json_t *gate, size_t context_tokens, bool is_least)
{
    uint64_t window = gate_window_tokens(gate, context_tokens);
    return is_least || window > GATE_ROWS ? window : GATE_ROWS - GATE_ROWS % window;
}

/* ---- one measurement --------------------------------------------------------------------------------------------- */

/* Its state; the place inside it is in done.gate.place, so that a kill costs no more than the time between saves. */
struct judgement {
    struct recipe *recipe;
    const bool *removed; /* NULL: the original */
    json_t *place;       /* borrowed: {"name", "windows", "sum"} */
    double sum;          /* nats */
};

static bool add_nll(struct judgement *judgement, const struct token_batch *batch, struct error *error)
{
    struct model *model = judgement->recipe->model;
    OWNED(hidden) hidden = hidden_create(model, batch, error);
    if (hidden == NULL || !model_embed(model, batch, hidden, error) ||
        !model_run_from(model, 0, judgement->removed, hidden, error)) {
        return false;
    }
    OWNED_MEMORY double *nll = memory_create(hidden->row_count, sizeof *nll);
    OWNED_MEMORY int32_t *targets = memory_create(hidden->row_count, sizeof *targets);
    OWNED_MEMORY struct target_sequence *sequences = memory_create(batch->sequence_count, sizeof *sequences);
    size_t row = 0;
    for (size_t s = 0; s < batch->sequence_count; s++) {
        const struct token_sequence *window = &batch->sequences[s];
        sequences[s] = (struct target_sequence){.targets = targets + row, .nll = nll + row};
        for (size_t t = 0; t < window->count; t++) {
            targets[row + t] = t + 1 < window->count ? window->tokens[t + 1] : -1;
        }
        row += window->count;
    }
    if (!model_nll(model, hidden, sequences, error)) {
        return false;
    }
    for (size_t i = 0; i < row; i++) {
        judgement->sum += targets[i] >= 0 ? nll[i] : 0;
    }
    return true;
}

/* A reference is made anew for each judgement: it would be as large as the logits of all windows. */
static bool add_divergence(struct judgement *judgement, const struct token_batch *batch, struct error *error)
{
    struct model *model = judgement->recipe->model;
    OWNED(hidden) hidden = hidden_create(model, batch, error);
    if (hidden == NULL || !model_embed(model, batch, hidden, error) ||
        !model_run_from(model, 0, NULL, hidden, error)) {
        return false;
    }
    OWNED(head_reference) reference = head_reference_create(model, hidden, HEAD_METRIC_KL, error);
    OWNED_MEMORY double *terms = memory_create(batch->sequence_count, sizeof *terms);
    if (reference == NULL || !model_embed(model, batch, hidden, error) ||
        !model_run_from(model, 0, judgement->removed, hidden, error) ||
        !head_distance(model, reference, hidden, 0, batch->sequence_count, terms, error)) {
        return false;
    }
    for (size_t s = 0; s < batch->sequence_count; s++) {
        judgement->sum += terms[s] * (double)judgement->recipe->inventory->config.vocab_size;
    }
    return true;
}

static bool keep_place(struct judgement *judgement, size_t windows, struct error *error)
{
    struct recipe *recipe = judgement->recipe;
    json_put_i64(judgement->place, "windows", (int64_t)windows);
    json_put(judgement->place, "sum", json_real(judgement->sum));
    double seconds = (double)(clock_boot_ns(&clock_system) - recipe->saved_ns) / 1e9;
    bool goes_on = recipe_check(recipe, NULL);
    if ((seconds >= RECIPE_SAVE_SECONDS || !goes_on) && !recipe_save(recipe, error)) {
        return false;
    }
    return recipe_check(recipe, error);
}

static json_t *find_place(json_t *gate, const char *name)
{
    json_t *place = json_object_get(gate, "place");
    const char *whose = json_string_value(json_object_get(place, "name"));
    if (whose == NULL || strcmp(whose, name) != 0) {
        place = json_object();
        json_put_text(place, "name", name);
        json_put_i64(place, "windows", 0);
        json_put(place, "sum", json_real(0));
        json_put(gate, "place", place);
    }
    return place;
}

/* Mean over the scored tokens, in nats. */
static bool measure(struct recipe *recipe, const char *name, const bool *removed, double *ret_mean,
                    struct error *error)
{
    bool is_kl = gate_is_kl(gate_spec(recipe));
    const struct windows *windows = recipe->gate_windows;
    struct judgement judgement = {.recipe = recipe, .removed = removed};
    judgement.place = find_place(json_object_get(recipe->done, "gate"), name);
    judgement.sum = json_number_value(json_object_get(judgement.place, "sum"));
    size_t done = (size_t)json_integer_value(json_object_get(judgement.place, "windows"));
    size_t rows = (size_t)recipe->memory.gate_rows;
    size_t step = rows / windows->window_tokens > 0 ? rows / windows->window_tokens : 1;
    if (!recipe_open_source(recipe, MEMORY_MEASURE, error)) {
        return false;
    }
    weights_set_removed(model_get_weights(recipe->model), is_kl ? NULL : removed);
    bool is_good = true;
    while (is_good && done < windows->count) {
        size_t count = windows->count - done < step ? windows->count - done : step;
        struct token_batch batch = {windows->sequences + done, count};
        is_good = is_kl ? add_divergence(&judgement, &batch, error) : add_nll(&judgement, &batch, error);
        done += is_good ? count : 0;
        progress_step(recipe, done, windows->count, "window");
        is_good = is_good && keep_place(&judgement, done, error);
    }
    weights_set_removed(model_get_weights(recipe->model), NULL);
    size_t scored = windows->count * (windows->window_tokens - (is_kl ? 0 : 1));
    *ret_mean = judgement.sum / (double)scored;
    return is_good;
}

/* ---- judging ----------------------------------------------------------------------------------------------------- */

/* {"metric", "max_ratio" or "max", "perplexity_before", "tries": [...], "place"}: what is known so far. */
static bool start_gate(struct recipe *recipe, struct error *error)
{
    const json_t *spec = gate_spec(recipe);
    json_t *gate = json_object_get(recipe->done, "gate");
    if (gate == NULL) {
        gate = json_object();
        static const char *const copied[] = {"metric", "max_ratio", "max", "on_fail"};
        for (size_t i = 0; i < sizeof copied / sizeof copied[0]; i++) {
            json_put(gate, copied[i], json_incref(json_object_get(spec, copied[i])));
        }
        json_put(gate, "text", json_incref(recipe->gate_text_json));
        json_put(gate, "tries", json_array());
        json_put(recipe->done, "gate", gate);
    }
    if (gate_is_kl(spec) || json_object_get(gate, "nll_before") != NULL) {
        return true;
    }
    double mean = 0;
    progress_part(recipe, 0, 0.2);
    if (!measure(recipe, "before", NULL, &mean, error)) {
        return false;
    }
    json_put(gate, "nll_before", json_real(mean));
    json_put_double(gate, "perplexity_before", exp(mean));
    return recipe_save(recipe, error);
}

static json_t *find_try(const json_t *tries, const char *name)
{
    size_t index;
    json_t *item;
    json_array_foreach((json_t *)(uintptr_t)tries, index, item)
    {
        if (strcmp(json_string_value(json_object_get(item, "name")), name) == 0) {
            return item;
        }
    }
    return NULL;
}

/* A plan's entry in the tries, which says whether it passes: borrowed. NULL on failure. */
static const json_t *judge(struct recipe *recipe, const char *name, const struct plan *plan,
                           struct error *error)
{
    json_t *gate = json_object_get(recipe->done, "gate");
    json_t *tries = json_object_get(gate, "tries");
    json_t *known = find_try(tries, name);
    if (known != NULL) {
        return known;
    }
    double mean = 0;
    /* Each try halves what is left of the bar; nobody knows how many there will be. */
    double start = 1 - 0.8 * pow(0.5, (double)json_array_size(tries));
    progress_part(recipe, start, (1 + start) / 2);
    if (!measure(recipe, name, plan->removed, &mean, error)) {
        return NULL;
    }
    struct plan_size size;
    plan_measure(plan, recipe->inventory, recipe->target.element_bytes, &size);
    json_t *item = json_object();
    json_put_text(item, "name", name);
    json_put_double(item, "sparsity_ratio", size.sparsity_ratio);
    json_put_i64(item, "sublayers_removed", (int64_t)size.removed_sublayer_count);
    json_put_i64(item, "parameter_count", (int64_t)size.parameter_count);
    bool passes = false;
    if (gate_is_kl(gate)) {
        json_put_double(item, "kl", mean);
        passes = mean <= json_number_value(json_object_get(gate, "max"));
    } else {
        double ratio = exp(mean - json_number_value(json_object_get(gate, "nll_before")));
        json_put_double(item, "perplexity", exp(mean));
        json_put_double(item, "ratio", ratio);
        passes = ratio <= json_number_value(json_object_get(gate, "max_ratio"));
    }
    json_put(item, "passed", json_boolean(passes));
    CHECK(json_array_append_new(tries, item) == 0);
    (void)json_object_del(gate, "place");
    return recipe_save(recipe, error) ? item : NULL;
}

static bool passes(const json_t *item)
{
    return json_is_true(json_object_get(item, "passed"));
}

static bool fail_gate(struct recipe *recipe, const json_t *item, const char *rest, struct error *error)
{
    const json_t *gate = gate_spec(recipe);
    double sparsity = json_number_value(json_object_get(item, "sparsity_ratio"));
    if (gate_is_kl(gate)) {
        return error_set_field(error, ERROR_QUALITY_GATE_FAILED, "/quality_gate/max",
                               "at sparsity %.4g the divergence is %.4g nats per token, %.4g are allowed%s",
                               sparsity, json_number_value(json_object_get(item, "kl")),
                               json_number_value(json_object_get(gate, "max")), rest);
    }
    return error_set_field(
        error, ERROR_QUALITY_GATE_FAILED, "/quality_gate/max_ratio",
        "at sparsity %.4g the perplexity is %.6g, %.4g times the original's; %.4g times is allowed%s",
        sparsity, json_number_value(json_object_get(item, "perplexity")),
        json_number_value(json_object_get(item, "ratio")),
        json_number_value(json_object_get(gate, "max_ratio")), rest);
}

/* ---- choosing ---------------------------------------------------------------------------------------------------- */

/* Steps towards what was asked for, the smallest first. */
struct steps {
    struct recipe *recipe;
    size_t count;
    size_t *cuts;                    /* [count]: of the head's curve; NULL: the points of the sweep, */
    size_t order[RECIPE_POINTS_MAX]; /* in this order */
};

static const json_t *judge_step(const struct steps *steps, size_t index, struct error *error)
{
    struct recipe_points *points = &steps->recipe->points;
    if (steps->cuts == NULL) {
        const struct recipe_point *point = &points->items[steps->order[index]];
        return judge(steps->recipe, point->name, point->plan, error);
    }
    struct plan *plan = points->items[points->head].plan;
    char name[48];
    size_t wanted = plan->removed_count;
    (void)snprintf(name, sizeof name, "sublayers_removed-%zu", steps->cuts[index]);
    plan_cut(plan, steps->cuts[index]);
    const json_t *item = judge(steps->recipe, name, plan, error);
    plan_cut(plan, wanted);
    return item;
}

/* *ret_step: the largest that passes with the next one failing; SIZE_MAX: none does. *ret_failed: the last that did not. */
static bool bisect(const struct steps *steps, size_t *ret_step, const json_t **ret_failed,
                   struct error *error)
{
    size_t low = 0; /* steps below pass */
    size_t high = steps->count - 1;
    const json_t *item = judge_step(steps, high, error);
    if (item == NULL) {
        return false;
    }
    *ret_failed = item;
    if (passes(item)) {
        *ret_step = high;
        return true;
    }
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        item = judge_step(steps, middle, error);
        if (item == NULL) {
            return false;
        }
        if (passes(item)) {
            low = middle + 1;
        } else {
            high = middle;
            *ret_failed = item;
        }
    }
    *ret_step = low > 0 ? low - 1 : SIZE_MAX;
    return true;
}

static void list_cuts(const struct recipe *recipe, struct plan *plan, struct steps *steps)
{
    const struct prune_target any = {.kind = PRUNE_TARGET_SUBLAYERS_REMOVED,
                                     .require_packable = recipe->target.require_packable};
    size_t wanted = plan->removed_count;
    steps->cuts = memory_create(plan->point_count + 1, sizeof *steps->cuts);
    for (size_t count = 1; count <= wanted; count++) {
        plan_cut(plan, count);
        if (count == wanted ||
            (plan->points[count - 1].is_cut && prune_target_reached(&any, plan, recipe->inventory))) {
            steps->cuts[steps->count++] = count;
        }
    }
    plan_cut(plan, wanted);
}

static double removed_share(const struct recipe *recipe, size_t index)
{
    struct plan_size size;
    plan_measure(recipe->points.items[index].plan, recipe->inventory, 0, &size);
    return size.sparsity_ratio;
}

static void list_points(const struct recipe *recipe, struct steps *steps)
{
    for (size_t i = 0; i < recipe->points.count; i++) {
        size_t at = i;
        for (; at > 0 && removed_share(recipe, i) < removed_share(recipe, steps->order[at - 1]); at--) {
            steps->order[at] = steps->order[at - 1];
        }
        steps->order[at] = i;
    }
    steps->count = recipe->points.count;
}

static bool choose_cut(struct recipe *recipe, struct steps *steps, const char **ret_outcome,
                       struct error *error)
{
    struct plan *plan = recipe->points.items[recipe->points.head].plan;
    const json_t *failed = NULL;
    size_t step = 0;
    list_cuts(recipe, plan, steps);
    if (steps->count == 0) {
        *ret_outcome = "nothing_removed";
        return true;
    }
    if (!is_backing_off(gate_spec(recipe))) {
        const json_t *item = judge_step(steps, steps->count - 1, error);
        *ret_outcome = "passed";
        return item != NULL && (passes(item) || fail_gate(recipe, item, "", error));
    }
    if (!bisect(steps, &step, &failed, error)) {
        return false;
    }
    if (step == SIZE_MAX) {
        return fail_gate(recipe, failed, ", and no smaller step passes", error);
    }
    *ret_outcome = step + 1 == steps->count ? "passed" : "backed_off";
    plan_cut(plan, steps->cuts[step]);
    return true;
}

/* Without a target the head is the largest of the sweep that passes. */
static bool choose_point(struct recipe *recipe, struct steps *steps, const char **ret_outcome,
                         struct error *error)
{
    const json_t *failed = NULL;
    size_t step = 0;
    list_points(recipe, steps);
    if (!bisect(steps, &step, &failed, error)) {
        return false;
    }
    if (step == SIZE_MAX) {
        return fail_gate(recipe, failed, ", and no target of the sweep passes", error);
    }
    *ret_outcome = step + 1 == steps->count ? "passed" : "backed_off";
    recipe->points.head = steps->order[step];
    return true;
}

bool gate_choose(struct recipe *recipe, struct error *error)
{
    if (recipe->gate_windows == NULL) {
        return true;
    }
    if (!start_gate(recipe, error)) {
        return false;
    }
    struct steps steps = {.recipe = recipe};
    const char *outcome = NULL;
    bool is_good = recipe->points.has_target ? choose_cut(recipe, &steps, &outcome, error)
                                             : choose_point(recipe, &steps, &outcome, error);
    free(steps.cuts);
    if (is_good) {
        json_t *gate = json_object_get(recipe->done, "gate");
        json_put_text(gate, "outcome", outcome);
        (void)json_object_del(gate, "place");
    }
    return is_good;
}
