/*
 * workers/recipe/measure_parts.c: see measure.h.
 *
 * Memory: what a model takes by itself is the peak of the resident set (VmHWM, started anew) while it is loaded, runs the prompts and
 * decodes the tokens of the speed measurement, less what was resident before it was loaded (VmRSS, after the heap gave back what was
 * free). No text, batch or other model is there then.
 */
#include "workers/recipe/measure.h"

#include "base/check.h"
#include "base/file.h"
#include "base/memory.h"
#include "workers/evaluate/continuation.h"
#include "workers/evaluate/divergence.h"
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#define STATES_NAME "original.states"

/* ---- speed and memory -------------------------------------------------------------------------------------------- */

bool measure_reset_peak(struct recipe *recipe, struct side *side)
{
    uint64_t peak = speed_peak_rss_bytes();
    recipe->peak_rss_bytes = peak > recipe->peak_rss_bytes ? peak : recipe->peak_rss_bytes;
    if (side != NULL) {
        json_int_t known = json_integer_value(json_object_get(side->result, "peak_rss_bytes"));
        if ((json_int_t)peak > known) {
            json_put_i64(side->result, "peak_rss_bytes", (int64_t)peak);
        }
    }
    return machine_reset_peak();
}

static json_t *format_memory(uint64_t before_bytes)
{
    uint64_t peak = speed_peak_rss_bytes();
    json_t *memory = json_object();
    json_put_i64(memory, "peak_bytes", (int64_t)(peak > before_bytes ? peak - before_bytes : 0));
    json_put_i64(memory, "process_peak_bytes", (int64_t)peak);
    json_put_i64(memory, "process_before_bytes", (int64_t)before_bytes);
    json_put_text(
        memory, "how",
        "VmHWM while the model is loaded, runs the prompts and decodes, less VmRSS before it is loaded");
    return memory;
}

/* The side's model is closed, opened anew and timed; into part[speed_name], part[memory_name]. */
static bool time_anew(struct recipe *recipe, struct side *side, const bool *removed, json_t *part,
                      const char *speed_name, const char *memory_name, struct error *error)
{
    recipe_close_model(recipe, side->model);
    side->model = NULL;
    (void)malloc_trim(0);
    bool is_reset = measure_reset_peak(recipe, side);
    uint64_t before_bytes = speed_rss_bytes();
    side->model = recipe_open_model(recipe, side->inventory, side->folder, MEMORY_MEASURE, error);
    if (side->model == NULL) {
        return false;
    }
    struct speed_options options = SPEED_DEFAULTS;
    struct speed speed;
    options.threads = recipe->job->threads;
    options.backend = recipe->machine.backend;
    options.dtype = recipe->compute.dtype_name;
    struct evaluate_control control = measure_control(recipe, side, NULL, removed);
    if (!speed_measure(side->model, &options, &control, &speed, error)) {
        return measure_explain_stop(recipe, error);
    }
    json_put(part, speed_name, speed_format(&speed));
    if (is_reset && before_bytes > 0) {
        json_put(part, memory_name, format_memory(before_bytes));
    }
    return true;
}

bool measure_speed(struct recipe *recipe, struct side *side, struct error *error)
{
    if (measure_is_finished(side, "speed")) {
        return true;
    }
    JSON_OWNED part = json_object();
    if (!model_is_resident(side->model)) { /* it would be the disk's */
        recipe_warn(recipe,
                    "the speed of the model %s is not measured: its weights do not fit the memory of the job",
                    side->name);
        return measure_finish_part(recipe, side, part, "speed", error);
    }
    size_t count = model_sublayer_count(side->model), skipped = 0;
    OWNED_MEMORY bool *removed = memory_create(count + 1, sizeof *removed);
    for (size_t i = 0; i < count; i++) {
        removed[i] = model_sublayer(side->model, i)->is_identity;
        skipped += removed[i] ? 1 : 0;
    }
    return time_anew(recipe, side, NULL, part, "speed", "memory", error) &&
           (skipped == 0 ||
            time_anew(recipe, side, removed, part, "speed_skipped", "memory_skipped", error)) &&
           measure_finish_part(recipe, side, part, "speed", error);
}

/* ---- divergence -------------------------------------------------------------------------------------------------- */

static uint64_t divergence_tokens(const struct recipe *recipe)
{
    const json_t *value = json_object_get(json_object_get(recipe->spec, "evaluation"), "divergence_tokens");
    return json_is_integer(value) ? (uint64_t)json_integer_value(value) : 0;
}

bool measure_has_divergence(const struct recipe *recipe)
{
    return recipe->is_pruning && recipe->evaluation != NULL && divergence_tokens(recipe) > 0;
}

static char *states_path(const struct recipe *recipe)
{
    return file_join(recipe->job->work_folder, STATES_NAME);
}

/* The windows that both models are compared on, made once; NULL without an error: the text fills none. */
static bool find_windows(struct recipe *recipe, const struct windows **ret_windows, struct error *error)
{
    struct error cause = {0};
    size_t window = recipe_evaluation_window(recipe);
    struct windows_options options = {.window_tokens = window,
                                      .num_samples =
                                          (size_t)((divergence_tokens(recipe) + window - 1) / window),
                                      .vocab_size = recipe->inventory->config.vocab_size,
                                      .cancel = recipe->job->cancel};
    if (recipe->divergence_windows == NULL) {
        recipe->divergence_windows = windows_create(recipe->evaluation, recipe->tokenizer, &options, &cause);
    }
    *ret_windows = recipe->divergence_windows;
    if (*ret_windows == NULL && cause.code != ERROR_TEXT_TOO_SHORT) {
        *error = cause;
        return false;
    }
    return true;
}

bool measure_has_states(const struct recipe *recipe)
{
    OWNED_MEMORY char *path = states_path(recipe);
    bool are_needed = false;
    for (size_t i = 0; i < recipe->points.count; i++) {
        const json_t *parts = json_object_get(recipe_point_member(recipe, i, "after"), "parts");
        are_needed = are_needed || json_object_get(parts, "divergence") == NULL;
    }
    return !measure_has_divergence(recipe) || !are_needed || file_exists(path);
}

static bool compare_sides(struct recipe *recipe, struct side *side, const struct windows *windows,
                          const char *path, json_t *part, struct error *error)
{
    /* No budget: of this model the head alone is asked for. */
    struct model_options options = {.backend = recipe->compute.backend,
                                    .dtype = recipe->compute.dtype,
                                    .pool = recipe->pool,
                                    .cancel = recipe->job->cancel};
    struct divergence divergence;
    struct model *original = model_open(recipe->inventory, recipe->job->model_folder, &options, error);
    struct evaluate_control control = measure_control(recipe, side, "divergence", NULL);
    bool is_good = original != NULL && (divergence_measure(original, side->model, windows, &control, path,
                                                           recipe->pool, &divergence, error) ||
                                        measure_explain_stop(recipe, error));
    recipe_close_model(recipe, original);
    if (is_good) {
        json_put(part, "divergence", divergence_format(&divergence));
    }
    return is_good;
}

bool measure_divergence(struct recipe *recipe, struct side *side, struct error *error)
{
    bool is_original = strcmp(side->name, "after") != 0;
    const char *part_name = is_original ? "states" : "divergence";
    if (measure_is_finished(side, part_name)) {
        return true;
    }
    const struct windows *windows = NULL;
    OWNED_MEMORY char *path = states_path(recipe);
    JSON_OWNED part = json_object();
    if (!find_windows(recipe, &windows, error)) {
        return false;
    }
    if (windows == NULL) {
        if (!is_original) {
            recipe_warn(recipe,
                        "the divergence from the original is not measured: the text does not fill a window");
        }
        return measure_finish_part(recipe, side, part, part_name, error);
    }
    if (is_original) {
        struct evaluate_control control = measure_control(recipe, side, part_name, NULL);
        return (divergence_keep(side->model, windows, &control, path, error) ||
                measure_explain_stop(recipe, error)) &&
               measure_finish_part(recipe, side, part, part_name, error);
    }
    return compare_sides(recipe, side, windows, path, part, error) &&
           measure_finish_part(recipe, side, part, part_name, error);
}

/* ---- continuations ----------------------------------------------------------------------------------------------- */

/* Asked for in the spec; null there: a few of ours wherever the job has a tokenizer (and holds its weights). */
static json_t *list_prompts(const struct recipe *recipe)
{
    static const char *const ours[] = {"The capital of France is", "Once upon a time, there was a",
                                       "Water boils when"};
    json_t *asked = json_object_get(json_object_get(recipe->spec, "evaluation"), "prompts");
    if (recipe->tokenizer == NULL) {
        return NULL;
    }
    if (json_is_array(asked)) {
        return json_array_size(asked) > 0 ? json_incref(asked) : NULL;
    }
    json_t *prompts = json_array();
    for (size_t i = 0; i < sizeof ours / sizeof ours[0]; i++) {
        CHECK(json_array_append_new(prompts, json_string(ours[i])) == 0);
    }
    return prompts;
}

bool measure_has_continuations(const struct recipe *recipe)
{
    JSON_OWNED prompts = list_prompts(recipe);
    return prompts != NULL;
}

bool measure_continuations(struct recipe *recipe, struct side *side, struct error *error)
{
    if (measure_is_finished(side, "continuations")) {
        return true;
    }
    JSON_OWNED prompts = list_prompts(recipe);
    JSON_OWNED part = json_object();
    json_t *list = NULL;
    bool is_asked = json_is_array(json_object_get(json_object_get(recipe->spec, "evaluation"), "prompts"));
    if (!is_asked && !model_is_resident(side->model)) { /* each token would read the whole model */
        return measure_finish_part(recipe, side, part, "continuations", error);
    }
    struct evaluate_control control = measure_control(recipe, side, NULL, NULL);
    if (!continuation_measure(side->model, recipe->tokenizer, prompts, CONTINUATION_TOKENS, &control, &list,
                              error)) {
        return measure_explain_stop(recipe, error);
    }
    json_put(part, "continuations", list);
    return measure_finish_part(recipe, side, part, "continuations", error);
}
