/*
 * workers/recipe/stages.c: from a model to a smaller model. Every stage can be entered again: what an earlier attempt finished stands in
 * recipe->done and is taken from there; what is cheap (headers, tokens) is done anew.
 */
#include "workers/recipe/combined.h"

#include "base/check.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"
#include "workers/data/overlap.h"
#include "workers/model/patch.h"
#include "workers/model/weights.h"
#include "workers/prune/prefix.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *recipe_source_name(const char *source)
{
    const char *end = strrchr(source, '/');
    return end != NULL && end[1] != '\0' ? end + 1 : source;
}

const char *recipe_find_input(const struct recipe *recipe, const char *source, const char *pointer,
                              struct error *error)
{
    const char *path = json_string_value(json_object_get(recipe->job->inputs, source));
    if (path == NULL) {
        error_set_field(error, ERROR_NOT_FOUND, pointer, "source \"%s\" was not found", source);
    }
    return path;
}

/* Of an earlier result in the store the file is named by itself: job:<id>/plan.weights beside job:<id>/plan.json. */
static bool open_given_patch(struct plan *plan, const json_t *json, const json_t *inputs, const char *source,
                             const char *folder, struct error *error)
{
    const char *slash = strrchr(source, '/');
    const json_t *index = json_object_get(json, "patch");
    FINISHED(text) beside = {0};
    text_append_bytes(&beside, source, slash != NULL ? (size_t)(slash + 1 - source) : 0);
    text_append(&beside, PATCH_FILE);
    const char *path = json_string_value(json_object_get(inputs, beside.bytes));
    if (index == NULL || path == NULL) {
        return plan_open_patch(plan, json, folder, error);
    }
    plan->patch = patch_open(path, index, error);
    return plan->patch != NULL;
}

struct plan *recipe_load_plan(const json_t *inputs, const struct inventory *inventory,
                              const char *method_name, const json_t *parameters, struct error *error)
{
    char pointer[96];
    (void)snprintf(pointer, sizeof pointer, "/method/%s/source", method_name);
    const char *source = json_string_value(json_object_get(parameters, "source"));
    const char *path = source != NULL ? json_string_value(json_object_get(inputs, source)) : NULL;
    if (path == NULL) {
        error_set_field(error, ERROR_NOT_FOUND, pointer, "plan \"%s\" was not found",
                        source != NULL ? source : "");
        return NULL;
    }
    JSON_OWNED json = json_load(path, RECIPE_PLAN_LIMIT_BYTES, error);
    OWNED(plan) plan = json != NULL ? plan_parse(json, error) : NULL;
    if (plan == NULL) {
        (void)snprintf(error->field, sizeof error->field, "%s", pointer);
        error_prefix(error, "%s: ", recipe_source_name(source));
        return NULL;
    }
    struct plan_sublayer *sublayers = NULL;
    size_t count = plan_list_sublayers(&inventory->config, &sublayers);
    free(sublayers);
    if (plan->sublayer_count != count) {
        error_set_field(error, ERROR_INVALID_ARGUMENT, pointer,
                        "the plan is of a model with %zu sublayers, this one has %zu", plan->sublayer_count,
                        count);
        return NULL;
    }
    OWNED_MEMORY char *folder = memory_copy_text(path); /* the patch lies beside plan.json */
    char *slash = strrchr(folder, '/');
    if (slash != NULL) {
        *slash = '\0';
    }
    if (!open_given_patch(plan, json, inputs, source, slash != NULL ? folder : ".", error) ||
        !plan_check_widths(plan, &inventory->config, error) ||
        !plan_check_patch(plan, &inventory->config, error)) {
        (void)snprintf(error->field, sizeof error->field, "%s", pointer);
        error_prefix(error, "%s: ", recipe_source_name(source));
        return NULL;
    }
    return TAKE(plan);
}

struct corpus *recipe_load_corpus(const struct recipe *recipe, const json_t *object, const char *pointer,
                                  struct error *error)
{
    char source_pointer[128];
    (void)snprintf(source_pointer, sizeof source_pointer, "%s/source", pointer);
    const char *source = json_string_value(json_object_get(object, "source"));
    if (source == NULL) {
        error_set_field(error, ERROR_MISSING_FIELD, source_pointer, "a source of text is needed");
        return NULL;
    }
    const char *path = recipe_find_input(recipe, source, source_pointer, error);
    if (path == NULL) {
        return NULL;
    }
    struct corpus_options options = {
        .path = path,
        .name = recipe_source_name(source),
        .text_field = json_string_value(json_object_get(object, "text_field")),
        .cancel = recipe->job->cancel,
    };
    CHECK(corpus_half_parse(json_string_value(json_object_get(object, "half")), &options.half));
    return corpus_load(&options, error);
}

size_t recipe_evaluation_window(const struct recipe *recipe)
{
    const json_t *window = json_object_get(json_object_get(recipe->spec, "evaluation"), "window_tokens");
    if (json_is_integer(window)) {
        return (size_t)json_integer_value(window);
    }
    size_t context = recipe->inventory->config.context_tokens;
    return context < 2048 ? context : 2048;
}

/* ---- inspect ----------------------------------------------------------------------------------------------------- */

static bool load_inventory(struct recipe *recipe, struct error *error)
{
    const struct recipe_job *job = recipe->job;
    if (job->inventory != NULL && !json_is_null(job->inventory)) {
        recipe->inventory = inventory_parse(job->inventory, error);
        return recipe->inventory != NULL && inventory_verify(recipe->inventory, job->model_folder, error);
    }
    FINISHED(error_list) faults = {0};
    recipe->inventory = inventory_inspect(job->model_folder, true, job->cancel, &faults);
    if (recipe->inventory == NULL && error != NULL && faults.stored > 0) {
        *error = faults.items[0];
    }
    return recipe->inventory != NULL;
}

static bool load_tokenizer(struct recipe *recipe, struct error *error)
{
    if (!recipe_needs_tokenizer(recipe->method, recipe->spec)) {
        return true;
    }
    recipe->tokenizer = inventory_load_tokenizer(recipe->inventory, recipe->job->model_folder, error);
    return recipe->tokenizer != NULL;
}

static bool load_tasks(struct recipe *recipe, struct error *error)
{
    const json_t *tasks = json_object_get(json_object_get(recipe->spec, "evaluation"), "tasks");
    for (size_t i = 0; i < json_array_size(tasks) && i < RECIPE_TASKS_MAX; i++) {
        const json_t *task = json_array_get(tasks, i);
        char pointer[128];
        (void)snprintf(pointer, sizeof pointer, "/evaluation/tasks/%zu/source", i);
        const char *source = json_string_value(json_object_get(task, "source"));
        const char *path = recipe_find_input(recipe, source, pointer, error);
        enum task_kind kind;
        CHECK(task_kind_parse(json_string_value(json_object_get(task, "kind")), &kind));
        recipe->tasks[i] = path == NULL
                               ? NULL
                               : task_set_load(json_string_value(json_object_get(task, "name")), kind, path,
                                               recipe_source_name(source), recipe->job->cancel, error);
        if (recipe->tasks[i] == NULL) {
            return false;
        }
        task_set_limit(recipe->tasks[i], (size_t)json_integer_value(json_object_get(task, "limit")));
        task_set_delimit(recipe->tasks[i], json_string_value(json_object_get(task, "delimiter")));
        recipe->task_count = i + 1;
    }
    return true;
}

static bool load_texts(struct recipe *recipe, struct error *error)
{
    const json_t *calibration = json_object_get(recipe->spec, "calibration");
    if (recipe->method != NULL && recipe_needs_calibration(recipe->method, recipe->spec)) {
        recipe->calibration = recipe_load_corpus(recipe, calibration, "/calibration", error);
        if (recipe->calibration == NULL) {
            return false;
        }
    }
    if (recipe->method != NULL && (recipe->method->needs & PRUNE_NEED_PLAN) != 0) {
        recipe->given = recipe_load_plan(recipe->job->inputs, recipe->inventory, recipe->method_name,
                                         recipe->parameters, error);
        if (recipe->given == NULL) {
            return false;
        }
    }
    const json_t *text = json_object_get(json_object_get(recipe->spec, "evaluation"), "text");
    if (text != NULL) {
        recipe->evaluation = recipe_load_corpus(recipe, text, "/evaluation/text", error);
        if (recipe->evaluation == NULL) {
            return false;
        }
    }
    return gate_load(recipe, error) && load_tasks(recipe, error);
}

/* What was checked before the job started; a job handed to the worker as it is has its first fault told here. */
static bool read_layers(struct recipe *recipe, struct error *error)
{
    FINISHED(error_list) faults = {0};
    if (!recipe->is_pruning) {
        return true;
    }
    size_t context = recipe->inventory->config.context_tokens;
    const json_t *gate = json_object_get(recipe->spec, "quality_gate");
    recipe->layers = recipe_read_layers(recipe->spec, recipe->inventory->config.layer_count, &faults);
    recipe_check_traits(recipe->spec, recipe->method, &faults);
    if (gate != NULL) {
        gate_check(gate, context, &faults);
    }
    if (faults.stored > 0) {
        *error = faults.items[0];
    }
    return faults.stored == 0;
}

bool stage_inspect(struct recipe *recipe, struct error *error)
{
    if (!load_inventory(recipe, error)) {
        return false;
    }
    inventory_model_sha256(recipe->inventory, recipe->model_sha256);
    recipe_touch();
    if (!read_layers(recipe, error) || !load_tokenizer(recipe, error) || !load_texts(recipe, error)) {
        return false;
    }
    size_t context = recipe->inventory->config.context_tokens;
    size_t window = recipe_evaluation_window(recipe);
    if (recipe->evaluation != NULL && window > context) {
        return error_set_field(error, ERROR_OUT_OF_RANGE, "/evaluation/window_tokens",
                               "a window of %zu tokens is longer than the model's context of %zu", window,
                               context);
    }
    return true;
}

/* ---- calibrate --------------------------------------------------------------------------------------------------- */

static bool check_overlap(struct recipe *recipe, struct error *error)
{
    if (recipe->evaluation == NULL) {
        return true;
    }
    FINISHED(token_stream) stream = {0};
    struct overlap overlap = {0};
    if (!token_stream_create(recipe->evaluation, recipe->tokenizer, recipe->inventory->config.vocab_size,
                             recipe->job->cancel, &stream, error) ||
        !overlap_check(recipe->windows, recipe->calibration->name, &stream, recipe->evaluation->name,
                       recipe_evaluation_window(recipe), recipe->job->cancel, &overlap, error)) {
        return false;
    }
    recipe->overlap_json = overlap_format(&overlap);
    return true;
}

static bool cut_calibration(struct recipe *recipe, struct error *error)
{
    if (recipe->calibration == NULL) {
        return true;
    }
    const json_t *calibration = json_object_get(recipe->spec, "calibration");
    const char *sampling = json_string_value(json_object_get(calibration, "sampling"));
    recipe->windows_options = (struct windows_options){
        .window_tokens = (size_t)json_integer_value(json_object_get(calibration, "window_tokens")),
        .num_samples = (size_t)json_integer_value(json_object_get(calibration, "num_samples")),
        .sampling = sampling != NULL && strcmp(sampling, "random") == 0 ? WINDOWS_RANDOM : WINDOWS_FIRST,
        .seed = recipe->seed,
        .vocab_size = recipe->inventory->config.vocab_size,
        .cancel = recipe->job->cancel,
    };
    if (recipe->windows_options.window_tokens > recipe->inventory->config.context_tokens) {
        return error_set_field(error, ERROR_OUT_OF_RANGE, "/calibration/window_tokens",
                               "a window of %zu tokens is longer than the model's context of %zu",
                               recipe->windows_options.window_tokens,
                               recipe->inventory->config.context_tokens);
    }
    recipe->windows = windows_create(recipe->calibration, recipe->tokenizer, &recipe->windows_options, error);
    if (recipe->windows == NULL) {
        return false;
    }
    if (recipe->windows->count < recipe->windows_options.num_samples) {
        recipe_warn(recipe, "the calibration text fills %zu windows of %zu tokens, %zu were asked for",
                    recipe->windows->count, recipe->windows->window_tokens,
                    recipe->windows_options.num_samples);
    }
    recipe->calibration_json =
        windows_describe(recipe->windows, recipe->calibration, recipe->tokenizer, &recipe->windows_options);
    recipe_touch();
    return check_overlap(recipe, error);
}

bool stage_calibrate(struct recipe *recipe, struct error *error)
{
    return cut_calibration(recipe, error) && gate_cut_windows(recipe, error);
}

/* ---- score ------------------------------------------------------------------------------------------------------- */

struct model *recipe_open_model(struct recipe *recipe, const struct inventory *inventory, const char *folder,
                                enum memory_phase phase, struct error *error)
{
    struct model_options options = {.backend = recipe->compute.backend,
                                    .dtype = recipe->compute.dtype,
                                    .weights_budget_bytes = recipe->memory.weights_bytes[phase],
                                    .pool = recipe->pool,
                                    .cancel = recipe->job->cancel};
    return model_open(inventory, folder, &options, error);
}

void recipe_close_model(struct recipe *recipe, struct model *model)
{
    if (model != NULL) {
        recipe->weight_bytes_read += weights_bytes_read(model_get_weights(model));
        recipe->is_streamed = recipe->is_streamed || !model_is_resident(model);
    }
    model_destroy(model);
}

/* The source, with what the phase leaves for its weights. It is opened with the budget that takes the head. */
bool recipe_open_source(struct recipe *recipe, enum memory_phase phase, struct error *error)
{
    if (recipe->model == NULL) {
        recipe->model =
            recipe_open_model(recipe, recipe->inventory, recipe->job->model_folder, MEMORY_CHECK, error);
    }
    if (recipe->model != NULL) {
        weights_set_budget(model_get_weights(recipe->model), recipe->memory.weights_bytes[phase]);
    }
    return recipe->model != NULL;
}

void recipe_tell_progress(void *context, uint64_t step, uint64_t steps, const char *unit)
{
    progress_step(context, step, steps, unit);
}

/* What is not finite is null. */
static void put_numbers(json_t *object, const char *name, const double *numbers, size_t count)
{
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++) {
        CHECK(json_array_append_new(array, isfinite(numbers[i]) ? json_real(numbers[i]) : json_null()) == 0);
    }
    json_put(object, name, array);
}

/* [count + 1], owned (free): NAN where a number is null or absent. */
static double *get_numbers(const json_t *object, const char *name, size_t count)
{
    double *numbers = memory_create(count + 1, sizeof *numbers);
    const json_t *array = json_object_get(object, name);
    for (size_t i = 0; i < count; i++) {
        const json_t *value = json_array_get(array, i);
        numbers[i] = json_is_number(value) ? json_number_value(value) : (double)NAN;
    }
    return numbers;
}

struct sweep_options recipe_sweep_options(const struct recipe *recipe)
{
    struct sweep_options options = {.chunk_rows = recipe->memory.chunk_rows};
    if (recipe->memory.is_spilled) {
        options.memory_bytes = recipe->memory.sweep_bytes;
        options.spill_folder = recipe->job->work_folder;
    }
    return options;
}

static bool gather_turns(struct recipe *recipe, struct error *error)
{
    unsigned needs = recipe->method->needs;
    size_t layers = recipe->inventory->config.layer_count;
    size_t spans = prune_span_count(layers);
    struct token_batch batch = {recipe->windows->sequences, recipe->windows->count};
    struct prune_turn_options options = {
        .sweep = recipe_sweep_options(recipe),
        .angles_of_all_tokens = prune_angles_of_all_tokens(recipe_search_parameters(recipe->spec)),
        .angle_memory_bytes = recipe->memory.angle_bytes,
    };
    OWNED_MEMORY double *block_cosines = memory_create(layers + 1, sizeof *block_cosines);
    OWNED_MEMORY double *sublayer_cosines = memory_create(2 * layers + 1, sizeof *sublayer_cosines);
    OWNED_MEMORY double *span_angles = memory_create(spans + 1, sizeof *span_angles);
    struct prune_turns turns = {
        .block_cosines = (needs & PRUNE_NEED_BLOCK_COSINES) != 0 ? block_cosines : NULL,
        .sublayer_cosines = (needs & PRUNE_NEED_SUBLAYER_COSINES) != 0 ? sublayer_cosines : NULL,
        .span_angles = (needs & PRUNE_NEED_SPAN_ANGLES) != 0 ? span_angles : NULL,
    };
    struct prune_observer observer = {.context = recipe, .progress = recipe_tell_progress};
    if (!recipe_open_source(recipe, MEMORY_SCORE, error) ||
        !prune_gather_turns(recipe->model, &batch, &options, &observer, &turns, error)) {
        return false;
    }
    recipe->work = model_get_work(recipe->model);
    json_t *object = json_object();
    if (turns.block_cosines != NULL) {
        put_numbers(object, "block_cosines", block_cosines, layers);
    }
    if (turns.sublayer_cosines != NULL) {
        put_numbers(object, "sublayer_cosines", sublayer_cosines, model_sublayer_count(recipe->model));
    }
    if (turns.span_angles != NULL) {
        put_numbers(object, "span_angles", span_angles, spans);
    }
    json_put(recipe->done, "turns", object);
    return true;
}

bool stage_score(struct recipe *recipe, struct error *error)
{
    bool is_done = (recipe->method->needs & PRUNE_NEEDS_TURNS) == 0 ||
                   json_object_get(recipe->done, "turns") != NULL ||
                   (gather_turns(recipe, error) && recipe_save(recipe, error));
    return is_done && recipe_gather_widths(recipe, error);
}

/* ---- search ------------------------------------------------------------------------------------------------------ */

static bool search_save(void *context, const json_t *state, bool must, struct error *error)
{
    struct recipe *recipe = context;
    if (recipe->is_timed_out) {
        return recipe_check(recipe, error);
    }
    double seconds = (double)(clock_boot_ns(&clock_system) - recipe->saved_ns) / 1e9;
    if (!must && seconds < RECIPE_SAVE_SECONDS) {
        return true;
    }
    json_put(recipe->done, "search", json_deep_copy(state));
    return recipe_save(recipe, error);
}

bool recipe_decide(struct recipe *recipe, const struct prune_target *target, const struct plan *curve,
                   struct plan **ret_plan, struct error *error)
{
    OWNED(plan) plan = NULL;
    if (!recipe_find_plan(recipe, target, ret_plan, error) || *ret_plan != NULL) {
        return *ret_plan != NULL;
    }
    if (!recipe_choose(recipe, target, curve, &plan, error) ||
        !recipe_finish_plan(recipe, target, plan, error)) {
        return false;
    }
    *ret_plan = TAKE(plan);
    return true;
}

bool recipe_finish_plan(struct recipe *recipe, const struct prune_target *target, struct plan *plan,
                        struct error *error)
{
    OWNED(plan) kept = NULL;
    return recipe_find_plan(recipe, target, &kept, error) &&
           (kept != NULL ||
            (recipe_repair(recipe, target, plan, error) && recipe_keep_plan(recipe, target, plan, error)));
}

bool recipe_choose(struct recipe *recipe, const struct prune_target *target, const struct plan *curve,
                   struct plan **ret_plan, struct error *error)
{
    size_t count = 0;
    OWNED_MEMORY struct sublayer *sublayers = recipe_list_sublayers(recipe->inventory, &count);
    size_t layers = recipe->inventory->config.layer_count;
    const json_t *turns = json_object_get(recipe->done, "turns");
    OWNED_MEMORY double *block_cosines = get_numbers(turns, "block_cosines", layers);
    OWNED_MEMORY double *sublayer_cosines = get_numbers(turns, "sublayer_cosines", count);
    OWNED_MEMORY double *span_angles = get_numbers(turns, "span_angles", prune_span_count(layers));
    struct recipe_search search = {0};
    struct token_batch batch = {0};
    if (recipe->windows != NULL) {
        batch = (struct token_batch){recipe->windows->sequences, recipe->windows->count};
    }
    if ((recipe->method->needs & PRUNE_NEED_EVALUATOR) != 0 &&
        (!recipe_open_source(recipe, MEMORY_SEARCH, error) || !recipe_open_search(recipe, &search, error))) {
        recipe_search_finish(&search);
        return false;
    }
    if ((recipe->method->needs & PRUNE_NEED_MODEL) != 0 &&
        !recipe_open_source(recipe, MEMORY_SEARCH, error)) {
        return false;
    }
    OWNED_MEMORY char *kept_path = scores_pass_path(recipe);
    struct prune_run run = {
        .method = recipe->method,
        .inventory = recipe->inventory,
        .sublayers = sublayers,
        .sublayer_count = count,
        .parameters = recipe->parameters,
        .seed = recipe->seed,
        .block_cosines = block_cosines,
        .sublayer_cosines = sublayer_cosines,
        .span_angles = span_angles,
        .evaluator = search.evaluator != NULL ? prefix_evaluator_interface(search.evaluator) : NULL,
        .given = recipe->given,
        .layers = recipe->layers,
        .curve = curve,
        .model = recipe->model,
        .batch = &batch,
        .sweep = recipe_sweep_options(recipe),
        .kept_path = kept_path,
        .cancel = recipe->job->cancel,
        .observer = {recipe, recipe_tell_progress, search_save},
        .state = json_object_get(recipe->done, "search"),
    };
    struct recipe_width_run width = {0};
    OWNED(plan) plan = plan_create(count);
    bool is_good = recipe_open_widths(recipe, target, &width, &run, error) &&
                   combined_decide(recipe, &run, target, plan, error);
    recipe_width_run_finish(&width);
    if (recipe->model != NULL) {
        recipe->work = model_get_work(recipe->model);
    }
    if (search.evaluator != NULL) {
        json_put(recipe->done, "search_work", run.evaluator->describe(run.evaluator->context));
    }
    recipe_search_finish(&search); /* it holds states of the model, which a repair closes */
    if (is_good) {
        *ret_plan = TAKE(plan);
    }
    return is_good;
}

/* ---- rewrite and export ------------------------------------------------------------------------------------------ */

static void export_progress(void *context, uint64_t done_bytes, uint64_t total_bytes)
{
    progress_step(context, done_bytes, total_bytes, "byte");
}

uint64_t recipe_point_bytes(uint64_t weight_bytes, uint64_t format_bytes, const struct plan *plan)
{
    return weight_bytes + format_bytes + (plan->patch != NULL ? patch_bytes(plan->patch) : 0) +
           RECIPE_BESIDE_BYTES;
}

bool stage_rewrite(struct recipe *recipe, struct error *error)
{
    const json_t *output = json_object_get(recipe->spec, "output");
    uint64_t format_bytes = 0;
    JSON_OWNED pruning = json_object();
    json_put_text(pruning, "method", recipe->method_name);
    json_put_i64(pruning, "sublayers_removed", (int64_t)recipe->plan->removed_count);
    json_put_text(pruning, "source_sha256", recipe->model_sha256);
    recipe->export_options.max_shard_bytes =
        (uint64_t)json_integer_value(json_object_get(output, "max_shard_bytes"));
    recipe->export_options.pruning = pruning;
    recipe->export_options.cancel = recipe->job->cancel;
    recipe->export_options.context = recipe;
    recipe->export_options.progress = export_progress;
    bool is_good = export_draft_make(recipe->plan, recipe_pruned(recipe), &recipe->export_options,
                                     &recipe->draft, error) &&
                   export_check_formats(&recipe->draft, recipe_pruned(recipe), recipe_formats(recipe),
                                        &recipe->export_options, &format_bytes, error);
    recipe->export_options.pruning = NULL;
    recipe->disk_bytes += recipe_point_bytes(recipe->draft.weight_bytes, format_bytes, recipe->plan);
    return is_good;
}

static bool list_file(const char *relative, const struct stat *status, void *context, struct error *error)
{
    (void)error;
    if (S_ISREG(status->st_mode)) {
        json_put_i64(context, relative, (int64_t)status->st_size);
    }
    return true;
}

/* An earlier attempt's export counts if every file is there in its full length. (They were synced before the checkpoint.) */
static bool is_exported(const struct recipe *recipe)
{
    json_t *wanted = json_object_get(recipe->done, "exported");
    if (wanted == NULL || !file_is_folder(recipe->out_folder)) {
        return false;
    }
    JSON_OWNED found = json_object();
    if (!file_walk(recipe->out_folder, list_file, found, NULL)) {
        return false;
    }
    const char *path;
    const json_t *bytes;
    json_object_foreach(wanted, path, bytes)
    {
        if (!json_equal(bytes, json_object_get(found, path))) {
            return false;
        }
    }
    return true;
}

/* Whether every weight is written as it was read. Block types are not: safetensors have none. */
static bool is_lossless(const struct recipe *recipe)
{
    bool is_same = true;
    for (size_t i = 0; i < recipe->draft.tensor_count && is_same; i++) {
        const struct export_tensor *tensor = &recipe->draft.tensors[i];
        const struct inventory_tensor *source = &recipe_pruned(recipe)->tensors[tensor->source];
        bool is_new = source->edit != NULL && source->edit->patch != NULL; /* in fp32, so it may be rounded */
        is_same =
            tensor->is_zero || tensor->dtype == DTYPE_F32 || (tensor->dtype == source->dtype && !is_new);
    }
    return is_same;
}

static bool write_formats(struct recipe *recipe, struct error *error)
{
    progress_part(recipe, 0.8, 0.9);
    return export_write_formats(&recipe->draft, recipe_pruned(recipe), recipe->job->model_folder,
                                recipe->out_folder, recipe_formats(recipe), &recipe->export_options, error);
}

/* The model whose logits the exported one must have: of the plan, without what it removes. */
static bool open_pruned(struct recipe *recipe, struct error *error)
{
    if (recipe->derived == NULL) {
        return recipe_open_source(recipe, MEMORY_CHECK, error);
    }
    recipe_close_model(recipe, recipe->model);
    recipe->model =
        recipe_open_model(recipe, recipe->derived, recipe->job->model_folder, MEMORY_CHECK, error);
    return recipe->model != NULL;
}

static bool write_out(struct recipe *recipe, struct error *error)
{
    struct logit_sample sample = {0};
    double difference = 0;
    bool is_good = open_pruned(recipe, error) && measure_masked_logits(recipe, &sample, error);
    recipe_close_model(recipe, recipe->model);
    recipe->model = NULL;
    progress_part(recipe, 0.2, 0.8);
    is_good = is_good && file_remove_tree(recipe->out_folder, error) &&
              file_make_folders(recipe->out_folder, 0755, error) &&
              export_write(&recipe->draft, recipe_pruned(recipe), recipe->job->model_folder,
                           recipe->out_folder, &recipe->export_options, error) &&
              recipe_write_patch(recipe, error) && write_formats(recipe, error);
    progress_part(recipe, 0.9, 1.0);
    is_good = is_good && measure_exported_logits(recipe, &sample, &difference, error);
    json_t *check = json_object();
    json_put_double(check, "logit_difference_max", difference);
    json_put_double(check, "logit_magnitude_max", logit_sample_magnitude(&sample));
    json_put_i64(check, "tokens", (int64_t)sample.count);
    json_put(check, "is_rounded", json_boolean(!is_lossless(recipe)));
    json_put(recipe->done, "check", check);
    logit_sample_finish(&sample);
    if (is_good && is_lossless(recipe) && !(difference <= RECIPE_CHECK_TOLERANCE)) {
        return error_set(error, ERROR_INTERNAL, "the exported model's logits differ by %g from the plan's",
                         difference);
    }
    return is_good;
}

bool stage_export(struct recipe *recipe, struct error *error)
{
    if (is_exported(recipe)) {
        return true;
    }
    (void)json_object_del(recipe->done, "after"); /* was measured on files that are gone */
    if (!write_out(recipe, error)) {
        return false;
    }
    json_t *files = json_object();
    if (!file_walk(recipe->out_folder, list_file, files, error)) {
        json_decref(files);
        return false;
    }
    json_put(recipe->done, "exported", files);
    return recipe_save(recipe, error);
}
