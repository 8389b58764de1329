/*
 * workers/recipe/measure.c: the evaluate stage. A pruning job measures the source before and the written folder after, through the
 * same code and options as an evaluation job, so an evaluation of the downloaded folder gives the same digits.
 *
 * It goes in parts (each protocol, each task, speed), each a resume point.
 */
#include "workers/recipe/recipe_internal.h"

#include "base/check.h"
#include "base/memory.h"
#include "base/rng.h"
#include "workers/evaluate/evaluate.h"
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
    struct logit_sample sample = {.count = RECIPE_CHECK_TOKENS};
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

struct side {         /* one model being measured */
    const char *name; /* "before", "after", "model" */
    struct model *model;
    const struct inventory *inventory;
    json_t *result; /* borrowed from recipe->done */
};

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

/* Cancelled by the deadline is TIME_LIMIT, by a drain DRAINED. */
static bool explain_stop(struct recipe *recipe, struct error *error)
{
    if (error != NULL && error->code == ERROR_CANCELLED) {
        struct error reason = recipe->save_error;
        if (reason.code != ERROR_NONE || !recipe_check(recipe, &reason)) {
            *error = reason;
        }
    }
    return false;
}

/* part_name: the place inside the part is kept and taken up again; NULL: it is not worth it (speed). */
static bool measure_part(struct recipe *recipe, struct side *side, const struct evaluation *evaluation,
                         const char *part_name, const bool *removed, json_t **ret_json, struct error *error)
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
    struct evaluate_control control = {.resume = place,
                                       .removed = removed,
                                       .batch_tokens = recipe->memory.batch_tokens,
                                       .cancel = &recipe->local_cancel,
                                       .context = recipe,
                                       .progress = part_progress};
    return evaluate_model(side->model, recipe->tokenizer, evaluation, &control, ret_json, error) ||
           explain_stop(recipe, error);
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

static bool finish_part(struct recipe *recipe, struct side *side, const json_t *part, const char *part_name,
                        struct error *error)
{
    merge_part(side->result, part);
    (void)json_object_del(side->result, "place");
    (void)json_object_del(side->result, "place_part");
    json_t *parts = json_object_get(side->result, "parts");
    json_put(parts, part_name, json_true());
    return recipe_save(recipe, error) && recipe_check(recipe, error);
}

static bool is_finished(const struct side *side, const char *part_name)
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
    if (is_finished(side, name)) {
        return true;
    }
    JSON_OWNED part = NULL;
    return measure_part(recipe, side, &evaluation, name, NULL, &part, error) &&
           finish_part(recipe, side, part, name, error);
}

static bool measure_task(struct recipe *recipe, struct side *side, size_t index, struct error *error)
{
    struct evaluation evaluation = {.tasks = &recipe->tasks[index], .task_count = 1};
    char name[32];
    (void)snprintf(name, sizeof name, "task %zu", index);
    if (is_finished(side, name)) {
        return true;
    }
    JSON_OWNED part = NULL;
    if (!measure_part(recipe, side, &evaluation, name, NULL, &part, error)) {
        return false;
    }
    (void)json_object_del(part, "task_accuracy_mean"); /* of one task; the whole mean follows */
    return finish_part(recipe, side, part, name, error);
}

/* Speed is measured as a stock runtime loads the folder, and with sublayers skipped whose projection is zero. */
static bool measure_speed(struct recipe *recipe, struct side *side, struct error *error)
{
    if (is_finished(side, "speed")) {
        return true;
    }
    JSON_OWNED part = NULL;
    if (!model_is_resident(side->model)) { /* it would be the disk's */
        recipe_warn(recipe,
                    "the speed of the model %s is not measured: its weights do not fit the memory of the job",
                    side->name);
        part = json_object();
        return finish_part(recipe, side, part, "speed", error);
    }
    struct speed_options speed = SPEED_DEFAULTS;
    speed.threads = recipe->job->threads;
    speed.backend = recipe->machine.backend;
    speed.dtype = recipe->compute.dtype_name;
    struct evaluation evaluation = {.speed = &speed};
    if (!measure_part(recipe, side, &evaluation, NULL, NULL, &part, error)) {
        return false;
    }
    size_t count = model_sublayer_count(side->model);
    OWNED_MEMORY bool *removed = memory_create(count + 1, sizeof *removed);
    size_t skipped = 0;
    for (size_t i = 0; i < count; i++) {
        removed[i] = model_sublayer(side->model, i)->is_identity;
        skipped += removed[i] ? 1 : 0;
    }
    if (skipped > 0) {
        JSON_OWNED second = NULL;
        if (!measure_part(recipe, side, &evaluation, NULL, removed, &second, error)) {
            return false;
        }
        json_put(part, "speed_skipped", json_deep_copy(json_object_get(second, "speed")));
    }
    return finish_part(recipe, side, part, "speed", error);
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

static bool measure_side(struct recipe *recipe, struct side *side, double start, double end,
                         struct error *error)
{
    const json_t *spec = json_object_get(recipe->spec, "evaluation");
    size_t text_parts = recipe->evaluation != NULL ? json_array_size(json_object_get(spec, "protocols")) : 0;
    bool has_speed = json_is_true(json_object_get(spec, "speed"));
    size_t parts = text_parts + recipe->task_count + (has_speed ? 1 : 0);
    bool is_second = strcmp(side->name, "after") == 0;
    bool is_good = true;
    for (size_t i = 0; i < parts && is_good; i++) {
        double width = (end - start) / (double)parts;
        progress_part(recipe, start + width * (double)i, start + width * (double)(i + 1));
        /* Speed comes last of the first model and first of the second: the two are measured next to each other. */
        size_t part = has_speed && is_second ? (i + parts - 1) % parts : i;
        if (part < text_parts) {
            is_good = measure_text(recipe, side, part, error);
        } else if (part < text_parts + recipe->task_count) {
            is_good = measure_task(recipe, side, part - text_parts, error);
        } else {
            is_good = measure_speed(recipe, side, error);
        }
    }
    if (is_good) {
        put_task_mean(side->result);
        json_put(side->result, "is_complete", json_true());
    }
    return is_good && recipe_save(recipe, error);
}

static bool measure_folder(struct recipe *recipe, const char *name, const struct inventory *inventory,
                           const char *folder, double start, double end, struct error *error)
{
    struct side side = {.name = name, .inventory = inventory, .result = json_object_get(recipe->done, name)};
    if (side.result == NULL) {
        json_put(recipe->done, name, json_object());
        side.result = json_object_get(recipe->done, name);
        json_put(side.result, "parts", json_object());
    }
    if (json_object_get(side.result, "is_complete") != NULL) {
        return true;
    }
    uint64_t peak = speed_peak_rss_bytes();
    recipe->peak_rss_bytes = peak > recipe->peak_rss_bytes ? peak : recipe->peak_rss_bytes;
    bool is_reset = machine_reset_peak();
    side.model = recipe_open_model(recipe, inventory, folder, MEMORY_MEASURE, error);
    bool is_good = side.model != NULL && measure_side(recipe, &side, start, end, error);
    recipe_close_model(recipe, side.model);
    if (!is_good) {
        return false;
    }
    if (is_reset) {
        json_put_i64(side.result, "peak_rss_bytes", (int64_t)speed_peak_rss_bytes());
    }
    return true;
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
