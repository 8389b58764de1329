/*
 * workers/recipe/gate.c: the quality gate: how good a plan is. A plan is judged on the source's weights as it would leave them, on windows
 * of a text that neither calibration nor evaluation read; nothing is exported for it.
 *
 * perplexity: exp of the mean negative log-likelihood of every token of a window but the first, over the original's (protocol gptq).
 * kl: the mean over the same predictions of KL(original || pruned), in nats (divergence.h).
 */
#include "workers/recipe/gate.h"

#include "base/check.h"
#include "base/file.h"
#include "base/memory.h"
#include "workers/data/overlap.h"
#include "workers/evaluate/divergence.h"
#include "workers/model/weights.h"
#include "workers/recipe/measure.h"
#include <math.h>
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

bool gate_is_backing_off(const json_t *gate)
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

/* The pruned model: the source without what a plan removes, or what the plan's widths make of it. NULL plan: the source. */
struct judged {
    struct model *model; /* the recipe's own unless `derived` */
    struct inventory *derived;
    const bool *removed;
};

static bool open_judged(struct recipe *recipe, const struct plan *plan, struct judged *ret_judged,
                        struct error *error)
{
    struct judged judged = {.removed = plan != NULL ? plan->removed : NULL};
    if (plan != NULL && plan_has_widths(plan)) {
        recipe_close_model(recipe, recipe->model);
        recipe->model = NULL;
        judged.derived = plan_apply(plan, recipe->inventory, error);
        judged.model =
            judged.derived == NULL
                ? NULL
                : recipe_open_model(recipe, judged.derived, recipe->job->model_folder, MEMORY_MEASURE, error);
    } else if (recipe_open_source(recipe, MEMORY_MEASURE, error)) {
        judged.model = recipe->model;
    }
    *ret_judged = judged;
    if (judged.model != NULL) {
        weights_set_removed(model_get_weights(judged.model), judged.removed);
    }
    return judged.model != NULL;
}

static void close_judged(struct recipe *recipe, struct judged *judged)
{
    if (judged->model != NULL && judged->model == recipe->model) {
        weights_set_removed(model_get_weights(judged->model), NULL);
    } else {
        recipe_close_model(recipe, judged->model);
    }
    inventory_destroy(judged->derived);
}

static bool add_nll(const struct judged *judged, const struct token_batch *batch, double *sum,
                    struct error *error)
{
    struct model *model = judged->model;
    OWNED(hidden) hidden = hidden_create(model, batch, error);
    if (hidden == NULL || !model_embed(model, batch, hidden, error) ||
        !model_run_from(model, 0, judged->removed, hidden, error)) {
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
        *sum += targets[i] >= 0 ? nll[i] : 0;
    }
    return true;
}

/* The place inside a measurement is in done.gate, so that a kill costs no more than the time between saves. */
static bool measure_nll(struct recipe *recipe, struct side *side, const struct judged *judged,
                        const char *name, double *ret_mean, struct error *error)
{
    const struct windows *windows = recipe->gate_windows;
    struct evaluate_control control = measure_control(recipe, side, name, NULL);
    double sum = json_number_value(json_object_get(control.resume, "sum"));
    size_t done = (size_t)json_integer_value(json_object_get(control.resume, "windows"));
    size_t rows = (size_t)recipe->memory.gate_rows;
    size_t step = rows / windows->window_tokens > 0 ? rows / windows->window_tokens : 1;
    while (done < windows->count) {
        size_t count = windows->count - done < step ? windows->count - done : step;
        struct token_batch batch = {windows->sequences + done, count};
        if (!add_nll(judged, &batch, &sum, error)) {
            return false;
        }
        done += count;
        json_put_i64(control.resume, "windows", (int64_t)done);
        json_put(control.resume, "sum", json_real(sum));
        control.progress(control.context, "perplexity", done, windows->count, "windows");
        if (recipe->save_error.code != ERROR_NONE) {
            *error = recipe->save_error;
            return false;
        }
        if (!recipe_check(recipe, error)) {
            return false;
        }
    }
    *ret_mean = sum / (double)(windows->count * (windows->window_tokens - 1));
    return true;
}

static char *states_path(const struct recipe *recipe)
{
    return file_join(recipe->job->work_folder, "gate.states");
}

/* The original's states, once; of it only the head is needed afterwards (divergence.h). */
static bool keep_states(struct recipe *recipe, struct side *side, struct error *error)
{
    OWNED_MEMORY char *path = states_path(recipe);
    json_t *gate = side->result;
    if (json_is_true(json_object_get(gate, "has_states")) && file_exists(path)) {
        return true;
    }
    struct judged judged = {0};
    bool is_good = open_judged(recipe, NULL, &judged, error);
    struct evaluate_control control = measure_control(recipe, side, "states", NULL);
    control.batch_tokens = (size_t)recipe->memory.gate_rows;
    is_good = is_good && (divergence_keep(judged.model, recipe->gate_windows, &control, path, error) ||
                          measure_explain_stop(recipe, error));
    close_judged(recipe, &judged);
    json_put(gate, "has_states", json_true());
    return is_good && recipe_save(recipe, error);
}

static bool measure_kl(struct recipe *recipe, struct side *side, const struct judged *judged,
                       const char *name, double *ret_mean, struct error *error)
{
    OWNED_MEMORY char *path = states_path(recipe);
    struct model_options options = {.backend = recipe->compute.backend,
                                    .dtype = recipe->compute.dtype,
                                    .pool = recipe->pool,
                                    .cancel = recipe->job->cancel};
    struct divergence divergence;
    struct model *original = model_open(recipe->inventory, recipe->job->model_folder, &options, error);
    struct evaluate_control control = measure_control(recipe, side, name, judged->removed);
    control.batch_tokens = (size_t)recipe->memory.gate_rows;
    bool is_good =
        original != NULL && (divergence_measure(original, judged->model, recipe->gate_windows, &control, path,
                                                recipe->pool, &divergence, error) ||
                             measure_explain_stop(recipe, error));
    recipe_close_model(recipe, original);
    *ret_mean = is_good ? divergence.kl_mean : 0;
    return is_good;
}

/* Mean over the predictions, in nats: the divergence of a plan, or its likelihood's logarithm. */
static bool measure(struct recipe *recipe, const char *name, const struct plan *plan, double *ret_mean,
                    struct error *error)
{
    bool is_kl = gate_is_kl(gate_spec(recipe));
    struct judged judged = {0};
    struct side side = {.name = "gate", .result = json_object_get(recipe->done, "gate")};
    bool is_good = open_judged(recipe, plan, &judged, error) &&
                   (is_kl ? measure_kl(recipe, &side, &judged, name, ret_mean, error)
                          : measure_nll(recipe, &side, &judged, name, ret_mean, error));
    close_judged(recipe, &judged);
    return is_good;
}

/* ---- judging ----------------------------------------------------------------------------------------------------- */

/* {"metric", "max_ratio" or "max", "perplexity_before", "tries": [...], "place"}: what is known so far. */
bool gate_start(struct recipe *recipe, struct error *error)
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
    double mean = 0;
    progress_part(recipe, 0, 0.2);
    if (gate_is_kl(spec)) {
        struct side side = {.name = "gate", .result = gate};
        return keep_states(recipe, &side, error);
    }
    if (json_object_get(gate, "nll_before") != NULL) {
        return true;
    }
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
const json_t *gate_judge(struct recipe *recipe, const char *name, const struct plan *plan,
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
    if (!measure(recipe, name, plan, &mean, error)) {
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
    (void)json_object_del(gate, "place_part");
    return recipe_save(recipe, error) ? item : NULL;
}

bool gate_passes(const json_t *item)
{
    return json_is_true(json_object_get(item, "passed"));
}

bool gate_fail(struct recipe *recipe, const json_t *item, const char *rest, struct error *error)
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
