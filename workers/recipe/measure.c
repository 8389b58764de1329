/*
 * workers/recipe/measure.c: the evaluate stage. A pruning job measures the source before and the written folder after, through the
 * same code and options as an evaluation job, so an evaluation of the downloaded folder gives the same digits.
 *
 * It goes in parts (each protocol, each task, divergence, continuations, speed), each a resume point; inside a part the place is kept
 * after every batch and saved now and then. (measure_parts.c has the parts that need more than evaluate_model.)
 */
#include "workers/recipe/measure.h"

#include "base/check.h"
#include "base/memory.h"
#include "base/rng.h"
#include "workers/tensor/backend.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- the exported folder against the plan ------------------------------------------------------------------------ */

void logit_sample_finish(struct logit_sample *sample)
{
    free(sample->tokens);
    free(sample->logits);
    *sample = (struct logit_sample){0};
}

double logit_sample_magnitude(const struct logit_sample *sample)
{
    double largest = 0;
    for (size_t i = 0; sample->logits != NULL && i < sample->count * sample->vocab_size; i++) {
        largest = fmax(largest, fabs((double)sample->logits[i]));
    }
    return largest;
}

static bool run_logits(struct model *model, const struct logit_sample *sample, const bool *removed,
                       float *ret_logits, struct error *error)
{
    struct token_sequence sequence = {sample->tokens, sample->count};
    struct token_batch batch = {&sequence, 1};
    OWNED(hidden) hidden = hidden_create(model, &batch, error);
    return hidden != NULL && model_embed(model, &batch, hidden, error) &&
           model_run_from(model, 0, removed, hidden, error) &&
           model_logits(model, hidden, 0, 0, sample->count, ret_logits, error);
}

bool measure_masked_logits(struct recipe *recipe, struct logit_sample *ret_sample, struct error *error)
{
    enum { CHECK_STREAM = 2, LOGITS_MAX = 1 << 23 };
    const struct model_config *config = &recipe->inventory->config;
    struct logit_sample sample = {.count = RECIPE_CHECK_TOKENS, .vocab_size = config->vocab_size};
    size_t fitting = LOGITS_MAX / config->vocab_size + 1;
    sample.count = sample.count > fitting ? fitting : sample.count;
    sample.count = sample.count > config->context_tokens ? config->context_tokens : sample.count;
    if (recipe->windows != NULL && sample.count > recipe->windows->window_tokens) {
        sample.count = recipe->windows->window_tokens;
    }
    sample.tokens = memory_create(sample.count, sizeof *sample.tokens);
    struct rng rng = {.seed = recipe->seed, .stream = CHECK_STREAM};
    for (size_t i = 0; i < sample.count; i++) {
        sample.tokens[i] = recipe->windows != NULL ? recipe->windows->tokens[i]
                                                   : (int32_t)rng_below(&rng, i, config->vocab_size);
    }
    sample.logits =
        memory_try_array(sample.count * config->vocab_size, sizeof *sample.logits, "logits", error);
    if (sample.logits == NULL ||
        !run_logits(recipe->model, &sample, recipe->plan->removed, sample.logits, error)) {
        logit_sample_finish(&sample);
        return false;
    }
    *ret_sample = sample;
    return true;
}

static struct inventory *inspect_output(const struct recipe *recipe, struct error *error)
{
    FINISHED(error_list) faults = {0};
    struct inventory *inventory = inventory_inspect(recipe->out_folder, false, recipe->job->cancel, &faults);
    if (inventory == NULL && faults.stored > 0 && error != NULL) {
        *error = faults.items[0];
        error_prefix(error, "the exported folder: ");
    }
    return inventory;
}

bool measure_exported_logits(struct recipe *recipe, const struct logit_sample *sample, double *ret_difference,
                             struct error *error)
{
    OWNED(inventory) inventory = inspect_output(recipe, error);
    struct model *model = inventory != NULL
                              ? recipe_open_model(recipe, inventory, recipe->out_folder, MEMORY_CHECK, error)
                              : NULL;
    size_t count = sample->count * recipe->inventory->config.vocab_size;
    OWNED_MEMORY float *logits =
        model != NULL ? memory_try_array(count, sizeof *logits, "logits", error) : NULL;
    bool is_good = logits != NULL && run_logits(model, sample, NULL, logits, error);
    recipe_close_model(recipe, model);
    if (!is_good) {
        return false;
    }
    double largest = 0;
    for (size_t i = 0; i < count; i++) {
        double difference = fabs((double)logits[i] - (double)sample->logits[i]);
        largest = difference > largest || isnan(difference) ? difference : largest;
    }
    *ret_difference = largest;
    return true;
}

/* ---- parts of an evaluation -------------------------------------------------------------------------------------- */

/* Now and then the place inside a long measurement is saved; a save that fails stops it. */
static void part_progress(void *context, const char *what, uint64_t done, uint64_t total, const char *unit)
{
    (void)what;
    struct recipe *recipe = context;
    progress_step(recipe, done, total, unit);
    double seconds = (double)(clock_boot_ns(&clock_system) - recipe->saved_ns) / 1e9;
    bool is_draining = !cancel_check(recipe->job->cancel, NULL);
    if ((seconds >= RECIPE_SAVE_SECONDS || is_draining) && recipe->save_error.code == ERROR_NONE &&
        !recipe_save(recipe, &recipe->save_error)) {
        is_draining = true;
    }
    if (is_draining) {
        cancel_request(&recipe->local_cancel, CANCEL_NOW);
    }
}

bool measure_explain_stop(struct recipe *recipe, struct error *error)
{
    if (error != NULL && error->code == ERROR_CANCELLED) {
        struct error reason = recipe->save_error;
        if (reason.code != ERROR_NONE || !recipe_check(recipe, &reason)) {
            *error = reason;
        }
    }
    return false;
}

struct evaluate_control measure_control(struct recipe *recipe, struct side *side, const char *part_name,
                                        const bool *removed)
{
    json_t *place = NULL;
    if (part_name != NULL) {
        const char *kept = json_string_value(json_object_get(side->result, "place_part"));
        if (kept == NULL || strcmp(kept, part_name) != 0) {
            json_put_text(side->result, "place_part", part_name);
            json_put(side->result, "place", json_object());
        }
        place = json_object_get(side->result, "place");
    }
    return (struct evaluate_control){.resume = place,
                                     .removed = removed,
                                     .batch_tokens = recipe->memory.batch_tokens,
                                     .cancel = &recipe->local_cancel,
                                     .context = recipe,
                                     .progress = part_progress};
}

static bool measure_part(struct recipe *recipe, struct side *side, const struct evaluation *evaluation,
                         const char *part_name, json_t **ret_json, struct error *error)
{
    struct evaluate_control control = measure_control(recipe, side, part_name, NULL);
    return evaluate_model(side->model, recipe->tokenizer, evaluation, &control, ret_json, error) ||
           measure_explain_stop(recipe, error);
}

/* Files {"perplexity": {p: ...}, "dataset", "tasks", "speed"} of a part into the side's result. */
static void merge_part(json_t *result, const json_t *part)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)part, key, value)
    {
        json_t *present = json_object_get(result, key);
        if (strcmp(key, "perplexity") == 0 && present != NULL) {
            CHECK(json_object_update(present, value) == 0);
        } else if (strcmp(key, "tasks") == 0 && present != NULL) {
            CHECK(json_array_extend(present, value) == 0);
        } else {
            json_put(result, key, json_deep_copy(value));
        }
    }
}

bool measure_finish_part(struct recipe *recipe, struct side *side, const json_t *part, const char *part_name,
                         struct error *error)
{
    merge_part(side->result, part);
    (void)json_object_del(side->result, "place");
    (void)json_object_del(side->result, "place_part");
    json_t *parts = json_object_get(side->result, "parts");
    json_put(parts, part_name, json_true());
    return recipe_save(recipe, error) && recipe_check(recipe, error);
}

bool measure_is_finished(const struct side *side, const char *part_name)
{
    return json_object_get(json_object_get(side->result, "parts"), part_name) != NULL;
}

static bool measure_text(struct recipe *recipe, struct side *side, size_t index, struct error *error)
{
    const json_t *protocols = json_object_get(json_object_get(recipe->spec, "evaluation"), "protocols");
    struct evaluation evaluation = {
        .corpus = recipe->evaluation, .protocol_count = 1, .window_tokens = recipe_evaluation_window(recipe)};
    CHECK(perplexity_protocol_parse(json_string_value(json_array_get(protocols, index)),
                                    &evaluation.protocols[0]));
    const char *name = perplexity_protocol_name(evaluation.protocols[0]);
    if (measure_is_finished(side, name)) {
        return true;
    }
    JSON_OWNED part = NULL;
    return measure_part(recipe, side, &evaluation, name, &part, error) &&
           measure_finish_part(recipe, side, part, name, error);
}

static bool measure_task(struct recipe *recipe, struct side *side, size_t index, struct error *error)
{
    struct evaluation evaluation = {.tasks = &recipe->tasks[index], .task_count = 1};
    char name[32];
    (void)snprintf(name, sizeof name, "task %zu", index);
    if (measure_is_finished(side, name)) {
        return true;
    }
    JSON_OWNED part = NULL;
    if (!measure_part(recipe, side, &evaluation, name, &part, error)) {
        return false;
    }
    (void)json_object_del(part, "task_accuracy_mean"); /* of one task; the whole mean follows */
    return measure_finish_part(recipe, side, part, name, error);
}

static void put_task_mean(json_t *result)
{
    const json_t *tasks = json_object_get(result, "tasks");
    double sum = 0;
    for (size_t i = 0; i < json_array_size(tasks); i++) {
        sum += json_number_value(json_object_get(json_array_get(tasks, i), "accuracy"));
    }
    if (json_array_size(tasks) > 0) {
        json_put_double(result, "task_accuracy_mean", sum / (double)json_array_size(tasks));
    }
}

enum part_kind { PART_TEXT, PART_DIVERGENCE, PART_TASK, PART_CONTINUATIONS, PART_SPEED };
struct part {
    enum part_kind kind;
    size_t index;
};

/* Speed comes last of the first model and first of the second: the two are measured next to each other. */
static size_t list_parts(const struct recipe *recipe, bool is_second, struct part *parts)
{
    const json_t *spec = json_object_get(recipe->spec, "evaluation");
    bool has_speed = json_is_true(json_object_get(spec, "speed"));
    size_t texts = recipe->evaluation != NULL ? json_array_size(json_object_get(spec, "protocols")) : 0;
    size_t count = 0;
    if (has_speed && is_second) {
        parts[count++] = (struct part){PART_SPEED, 0};
    }
    for (size_t i = 0; i < texts; i++) {
        parts[count++] = (struct part){PART_TEXT, i};
    }
    if (measure_has_divergence(recipe)) {
        parts[count++] = (struct part){PART_DIVERGENCE, 0};
    }
    for (size_t i = 0; i < recipe->task_count; i++) {
        parts[count++] = (struct part){PART_TASK, i};
    }
    if (measure_has_continuations(recipe)) {
        parts[count++] = (struct part){PART_CONTINUATIONS, 0};
    }
    if (has_speed && !is_second) {
        parts[count++] = (struct part){PART_SPEED, 0};
    }
    return count;
}

static bool run_part(struct recipe *recipe, struct side *side, const struct part *part, struct error *error)
{
    switch (part->kind) {
    case PART_TEXT:
        return measure_text(recipe, side, part->index, error);
    case PART_DIVERGENCE:
        return measure_divergence(recipe, side, error);
    case PART_TASK:
        return measure_task(recipe, side, part->index, error);
    case PART_CONTINUATIONS:
        return measure_continuations(recipe, side, error);
    case PART_SPEED:
        break;
    }
    return measure_speed(recipe, side, error);
}

static bool measure_side(struct recipe *recipe, struct side *side, double start, double end,
                         struct error *error)
{
    struct part parts[RECIPE_TASKS_MAX + 8];
    size_t count = list_parts(recipe, strcmp(side->name, "after") == 0, parts);
    double width = (end - start) / (double)(count > 0 ? count : 1);
    for (size_t i = 0; i < count; i++) {
        progress_part(recipe, start + width * (double)i, start + width * (double)(i + 1));
        if (!run_part(recipe, side, &parts[i], error)) {
            return false;
        }
    }
    put_task_mean(side->result);
    json_put(side->result, "is_complete", json_true());
    return recipe_save(recipe, error);
}

static bool measure_folder(struct recipe *recipe, const char *name, const struct inventory *inventory,
                           const char *folder, double start, double end, struct error *error)
{
    struct side side = {.name = name,
                        .folder = folder,
                        .inventory = inventory,
                        .result = json_object_get(recipe->done, name)};
    if (side.result == NULL) {
        json_put(recipe->done, name, json_object());
        side.result = json_object_get(recipe->done, name);
        json_put(side.result, "parts", json_object());
    }
    if (strcmp(name, "before") == 0 && !measure_has_states(recipe)) { /* lost since: made again */
        (void)json_object_del(json_object_get(side.result, "parts"), "states");
        (void)json_object_del(side.result, "is_complete");
        const char *place = json_string_value(json_object_get(side.result, "place_part"));
        if (place != NULL && strcmp(place, "states") == 0) {
            (void)json_object_del(side.result, "place_part");
        }
    }
    if (json_object_get(side.result, "is_complete") != NULL) {
        return true;
    }
    bool is_reset = measure_reset_peak(recipe, NULL);
    side.model = recipe_open_model(recipe, inventory, folder, MEMORY_MEASURE, error);
    bool is_good = side.model != NULL && measure_side(recipe, &side, start, end, error);
    recipe_close_model(recipe, side.model);
    if (is_good && is_reset) {
        (void)measure_reset_peak(recipe, &side);
    }
    return is_good;
}

bool stage_evaluate(struct recipe *recipe, struct error *error)
{
    if (!recipe->is_pruning) {
        return measure_folder(recipe, "model", recipe->inventory, recipe->job->model_folder, 0, 1, error);
    }
    if (!measure_folder(recipe, "before", recipe->inventory, recipe->job->model_folder, 0, 0.5, error)) {
        return false;
    }
    OWNED(inventory) exported = inspect_output(recipe, error);
    return exported != NULL && measure_folder(recipe, "after", exported, recipe->out_folder, 0.5, 1, error);
}
