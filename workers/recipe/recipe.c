/*
 * workers/recipe/recipe.c: the door. One job: resolve the spec, go through the stages, write the report, sum up.
 *
 * Resume: everything that took long is in recipe->done, which is saved after each step (checkpoint.h); the checkpoint names spec, inputs
 * and machine. Results do not depend on where an attempt began, because every stage is a function of its inputs alone.
 */
#include "workers/recipe/recipe.h"

#include "base/check.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/text.h"
#include "workers/model/patch.h"
#include "workers/prune/width.h"
#include "workers/recipe/combined.h"
#include "workers/recipe/recipe_internal.h"
#include "workers/recipe/selection.h"
#include "workers/recipe/spec.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool first_fault(const struct error_list *faults, struct error *error)
{
    if (faults->stored > 0 && error != NULL) {
        *error = faults->items[0];
        if (faults->count > 1) {
            size_t used = strlen(error->message);
            (void)snprintf(error->message + used, sizeof error->message - used, " (and %zu more faults)",
                           faults->count - 1);
        }
    }
    return false;
}

static bool read_spec(struct recipe *recipe, struct error *error)
{
    FINISHED(error_list) faults = {0};
    const char *type = NULL;
    recipe->spec = recipe_resolve_spec(recipe->job->spec, &type, &faults);
    if (recipe->spec == NULL) {
        return first_fault(&faults, error);
    }
    recipe->is_pruning = strcmp(type, "pruning") == 0;
    recipe->model_name = recipe_source_name(json_string_value(json_object_get(recipe->spec, "model")));
    recipe_read_compute(recipe->spec, &recipe->compute);
    recipe->seed = (uint64_t)json_integer_value(json_object_get(recipe->spec, "seed"));
    const json_t *seconds = json_object_get(json_object_get(recipe->spec, "limits"), "max_seconds");
    if (json_is_integer(seconds)) {
        recipe->deadline_ns =
            clock_boot_ns(&clock_system) + (int64_t)json_integer_value(seconds) * 1000000000;
    }
    if (strcmp(type, "selection") == 0) {
        selection_read_spec(recipe);
        return true;
    }
    if (!recipe->is_pruning) {
        return true;
    }
    struct recipe_method found;
    recipe_find_method(recipe->spec, &found);
    recipe->method_name = found.name;
    recipe->merged = found.merged;
    recipe->method = found.depth != NULL ? &recipe->merged : found.method;
    recipe->parameters = found.parameters;
    recipe->depth = found.depth;
    recipe->depth_parameters = found.depth_parameters;
    recipe->depth_ratio = found.depth_ratio;
    const json_t *output = json_object_get(recipe->spec, "output");
    struct export_options *options = &recipe->export_options;
    CHECK(recipe->method != NULL);
    CHECK(export_layout_parse(json_string_value(json_object_get(output, "layout")), &options->layout));
    options->is_stock = export_formats_have_gguf(recipe_formats(recipe));
    CHECK(export_dtype_parse(json_string_value(json_object_get(output, "dtype")), &options->is_dtype_kept,
                             &options->dtype));
    recipe_read_points(recipe->spec, options->is_dtype_kept ? 0 : dtype_bytes(options->dtype),
                       &recipe->points, &faults);
    recipe->target = recipe->points.items[0].target;
    return faults.count == 0 || first_fault(&faults, error);
}

/* What the checkpoint is bound to. */
static void identify(struct recipe *recipe)
{
    OWNED_MEMORY char *spec = json_format(recipe->spec, false);
    sha256_hex_of(spec, strlen(spec), recipe->identity.spec_sha256);
    struct sha256 hash;
    sha256_start(&hash);
    sha256_update(&hash, recipe->model_sha256, 64);
    const struct corpus *corpora[] = {recipe->calibration, recipe->evaluation, recipe->gate_corpus};
    for (size_t i = 0; i < 3; i++) {
        const char *sum = corpora[i] != NULL ? corpora[i]->sha256 : "-";
        sha256_update(&hash, sum, strlen(sum));
    }
    for (size_t i = 0; i < recipe->task_count; i++) {
        sha256_update(&hash, recipe->tasks[i]->sha256, 64);
    }
    if (recipe->selection != NULL) {
        selection_identify(recipe, &hash);
    }
    if (recipe->given != NULL) {
        JSON_OWNED given = plan_format(recipe->given, recipe->inventory);
        OWNED_MEMORY char *text = json_format(given, false);
        sha256_update(&hash, text, strlen(text));
    }
    sha256_end_hex(&hash, recipe->identity.input_sha256);
    (void)snprintf(recipe->identity.machine, sizeof recipe->identity.machine, "%s", recipe->machine.identity);
}

bool recipe_save(struct recipe *recipe, struct error *error)
{
    if (!checkpoint_save(recipe->job->work_folder, &recipe->identity, recipe->done, error)) {
        return false;
    }
    recipe->saved_ns = clock_boot_ns(&clock_system);
    recipe->save_count++;
    recipe_touch();
    if (recipe->job->observer.step != NULL) {
        recipe->job->observer.step(recipe->job->observer.context, recipe_stage_names[recipe->progress.stage],
                                   recipe->save_count);
    }
    return true;
}

static bool load_checkpoint(struct recipe *recipe, struct error *error)
{
    identify(recipe);
    json_t *payload = NULL;
    if (!checkpoint_load(recipe->job->work_folder, &recipe->identity, &payload, error)) {
        return false;
    }
    if (payload != NULL) {
        json_decref(recipe->done);
        recipe->done = payload;
        recipe->is_resumed = true;
    }
    return true;
}

/* Expected work per stage, in tokens through the whole model: enough for an ETA that settles soon. */
static void weigh_stages(struct recipe *recipe)
{
    double *weights = recipe->progress.weights;
    double calibration_tokens =
        recipe->windows != NULL ? (double)(recipe->windows->count * recipe->windows->window_tokens) : 0;
    double evaluation_tokens = 500;
    const json_t *protocols = json_object_get(json_object_get(recipe->spec, "evaluation"), "protocols");
    if (recipe->evaluation != NULL) {
        evaluation_tokens += (double)recipe->evaluation->byte_count / 4 * (double)json_array_size(protocols);
    }
    for (size_t i = 0; i < recipe->task_count; i++) {
        evaluation_tokens += (double)recipe->tasks[i]->record_count * 64;
    }
    weights[STAGE_INSPECT] = 100;
    weights[STAGE_CALIBRATE] = calibration_tokens / 10;
    weights[STAGE_EVALUATE] = evaluation_tokens;
    if (!recipe->is_pruning) {
        return;
    }
    double points = (double)recipe->points.count;
    weights[STAGE_EVALUATE] = (1 + points) * evaluation_tokens;
    weights[STAGE_REWRITE] = 10 * points;
    weights[STAGE_EXPORT] = 1000 * points;
    if ((recipe->method->needs & (PRUNE_NEEDS_TURNS | PRUNE_NEED_WIDTH)) != 0) {
        weights[STAGE_SCORE] = calibration_tokens;
    }
    weights[STAGE_SEARCH] = 1;
    if (strcmp(recipe_compensation(recipe->method, recipe->spec), "none") != 0) {
        weights[STAGE_SEARCH] +=
            2 * points * calibration_tokens; /* the original's pass, and the pruned model's */
    }
    if ((recipe->method->needs & PRUNE_NEED_MODEL) != 0) {
        weights[STAGE_SEARCH] += calibration_tokens;
    }
    if ((recipe->method->needs & PRUNE_NEED_EVALUATOR) != 0) {
        double units = 2 * (double)recipe->inventory->config.layer_count;
        double most = 0;
        for (size_t i = 0; i < recipe->points.count; i++) {
            const struct prune_target *target = &recipe->points.items[i].target;
            double rounds = target->kind == PRUNE_TARGET_SUBLAYERS_REMOVED ? (double)target->count
                            : target->kind == PRUNE_TARGET_SPARSITY        ? target->ratio * units
                                                                           : units / 3;
            most = rounds > most ? rounds : most;
        }
        weights[STAGE_SEARCH] += calibration_tokens * (1 + most * units * 0.6);
    }
    if (recipe->gate_windows != NULL) {
        weights[STAGE_SEARCH] +=
            4 * (double)(recipe->gate_windows->count * recipe->gate_windows->window_tokens);
    }
}

static bool check_disk(const struct recipe *recipe, struct error *error)
{
    uint64_t free_bytes = 0, total_bytes = 0, needed = recipe->disk_bytes;
    if (!file_free_bytes(recipe->job->work_folder, &free_bytes, &total_bytes, error)) {
        return false;
    }
    if (free_bytes < needed && json_object_get(recipe->done, "exported") == NULL) {
        return error_set(error, ERROR_STORAGE_FULL, "the result needs %llu bytes on disk, %llu are free",
                         (unsigned long long)needed, (unsigned long long)free_bytes);
    }
    return true;
}

static bool run_search(struct recipe *recipe, struct error *error)
{
    bool is_good = stage_search(recipe, error);
    width_statistics_destroy(recipe->statistics); /* nobody asks for them any more */
    recipe->statistics = NULL;
    return is_good;
}

static bool run_rewrite(struct recipe *recipe, struct error *error)
{
    double share = 1 / (double)recipe->points.count;
    recipe->disk_bytes = 0;
    return recipe_for_points(recipe, stage_rewrite, share, error) && check_disk(recipe, error);
}

static bool run_score(struct recipe *recipe, struct error *error)
{
    if (json_object_get(recipe->done, "plans") != NULL) {
        return true; /* an earlier attempt got past the search */
    }
    if (!scores_take(recipe, error) || !stage_score(recipe, error)) {
        return false;
    }
    scores_keep_members(recipe);
    return true;
}

static bool run_export(struct recipe *recipe, struct error *error)
{
    return recipe_for_points(recipe, stage_export, 1 / (double)recipe->points.count, error);
}

/* The head's share has the model before in it. */
static bool run_evaluate(struct recipe *recipe, struct error *error)
{
    return recipe->is_pruning
               ? recipe_for_points(recipe, stage_evaluate, 2 / (double)(recipe->points.count + 1), error)
               : stage_evaluate(recipe, error);
}

/* Of the points in folders of their own; the head's are the report's. */
static bool write_points(struct recipe *recipe, struct error *error)
{
    for (size_t i = 0; i < recipe->points.count; i++) {
        if (i != recipe->points.head) {
            recipe_select_point(recipe, i);
            if (!report_write_point(recipe, error)) {
                return false;
            }
        }
    }
    if (recipe->is_pruning) {
        recipe_select_point(recipe, recipe->points.head);
    }
    return true;
}

static uint64_t corpus_bytes(const struct corpus *corpus)
{
    return corpus != NULL ? corpus->file_bytes : 0;
}

static bool check_memory(const struct recipe *recipe, struct error *error)
{
    const struct memory_plan *plan = &recipe->memory;
    return plan->fits ||
           error_set_field(error, ERROR_OUT_OF_MEMORY, "/limits/max_memory_bytes",
                           "the job needs at least %llu bytes of memory, %llu are allowed",
                           (unsigned long long)plan->least_bytes, (unsigned long long)plan->limit_bytes);
}

static bool plan_memory(struct recipe *recipe, struct error *error)
{
    uint64_t texts = corpus_bytes(recipe->calibration) + corpus_bytes(recipe->evaluation) +
                     corpus_bytes(recipe->gate_corpus);
    for (size_t i = 0; i < recipe->task_count; i++) {
        texts += recipe->tasks[i]->file_bytes;
    }
    struct memory_plan *plan = &recipe->memory;
    memory_plan_make(recipe->inventory, recipe->spec, recipe->job->threads, texts,
                     recipe->job->memory_limit_bytes, plan);
    return check_memory(recipe, error);
}

static bool run_inspect(struct recipe *recipe, struct error *error)
{
    return stage_inspect(recipe, error) && plan_memory(recipe, error) && load_checkpoint(recipe, error);
}

static bool run_calibrate(struct recipe *recipe, struct error *error)
{
    bool is_good = stage_calibrate(recipe, error);
    if (is_good) {
        weigh_stages(recipe);
    }
    return is_good;
}

/* ---- selection --------------------------------------------------------------------------------------------------- */

static bool plan_selection_memory(struct recipe *recipe, struct error *error)
{
    const struct selection_job *selection = recipe->selection;
    const struct selection_sets *sets[] = {&selection->dataset, &selection->targets};
    uint64_t texts = 0, tokens = 0;
    size_t records = 0;
    for (size_t k = 0; k < 2; k++) {
        for (size_t i = 0; i < sets[k]->count; i++) {
            texts += sets[k]->sets[i]->file_bytes;
        }
        records += sets[k]->candidates != NULL ? sets[k]->candidates->item_count : 0;
        tokens += sets[k]->candidates != NULL ? sets[k]->candidates->valid_tokens : 0;
    }
    const struct selection_size size = {
        .original = recipe->inventory,
        .pruned = selection->pruned.inventory,
        .encoder = selection->encoder.inventory,
        .spec = recipe->spec,
        .method = selection->method,
        .threads = recipe->job->threads,
        .records = records,
        .targets = selection->targets.candidates != NULL ? selection->targets.candidates->item_count : 0,
        .tokens = tokens,
        .text_bytes = texts,
        .limit_bytes = recipe->job->memory_limit_bytes};
    selection_plan_memory(&size, &recipe->memory);
    return check_memory(recipe, error);
}

static bool run_selection_inspect(struct recipe *recipe, struct error *error)
{
    return stage_inspect(recipe, error) && selection_inspect(recipe, error) && load_checkpoint(recipe, error);
}

static bool run_read(struct recipe *recipe, struct error *error)
{
    if (!selection_read(recipe, error) || !plan_selection_memory(recipe, error)) {
        return false;
    }
    const struct selection_job *selection = recipe->selection;
    double *weights = recipe->progress.weights, tokens = (double)selection->dataset.candidates->valid_tokens;
    weights[STAGE_INSPECT] = weights[STAGE_READ] = 100;
    weights[STAGE_EMBED] = selection->encoder.inventory != NULL ? tokens / 10 : 0;
    weights[STAGE_SCORE] = (selection->original.layout.bytes > 0 ? tokens : 0) +
                           (selection->damaged.layout.bytes > 0 ? tokens : 0);
    weights[STAGE_SELECT] = 100 + (double)selection->dataset.candidates->valid_count;
    weights[STAGE_EXPORT] = 100;
    return true;
}

/* ---- all jobs ---------------------------------------------------------------------------------------------------- */

static bool run_stages(struct recipe *recipe, const char **ret_stage, struct error *error)
{
    enum { PRUNING = 1, EVALUATION = 2, SELECTION = 4 };
    static const struct {
        enum recipe_stage stage;
        bool (*run)(struct recipe *recipe, struct error *error);
        unsigned types;
    } stages[] = {
        {STAGE_INSPECT, run_inspect, PRUNING | EVALUATION},
        {STAGE_INSPECT, run_selection_inspect, SELECTION},
        {STAGE_READ, run_read, SELECTION},
        {STAGE_CALIBRATE, run_calibrate, PRUNING | EVALUATION},
        {STAGE_EMBED, selection_embed, SELECTION},
        {STAGE_SCORE, run_score, PRUNING},
        {STAGE_SCORE, selection_score, SELECTION},
        {STAGE_SEARCH, run_search, PRUNING},
        {STAGE_SELECT, selection_choose, SELECTION},
        {STAGE_REWRITE, run_rewrite, PRUNING},
        {STAGE_EXPORT, run_export, PRUNING},
        {STAGE_EVALUATE, run_evaluate, PRUNING | EVALUATION},
    };
    unsigned type = recipe->selection != NULL ? SELECTION : recipe->is_pruning ? PRUNING : EVALUATION;
    for (size_t i = 0; i < sizeof stages / sizeof stages[0]; i++) {
        if ((stages[i].types & type) == 0) {
            continue;
        }
        *ret_stage = recipe_stage_names[stages[i].stage];
        progress_enter(recipe, stages[i].stage);
        if (!recipe_check(recipe, error) || !stages[i].run(recipe, error)) {
            return false;
        }
        progress_finish(recipe);
        recipe->progress.stage_seconds[stages[i].stage] =
            (double)(clock_boot_ns(&clock_system) - recipe->progress.stage_entered_ns) / 1e9;
    }
    return true;
}

static void finish_recipe(struct recipe *recipe)
{
    selection_finish(recipe->selection);
    export_draft_finish(&recipe->draft);
    inventory_destroy(recipe->derived);
    width_statistics_destroy(recipe->statistics);
    plan_destroy(recipe->plan);
    recipe_points_finish(&recipe->points);
    scores_finish(&recipe->scores);
    recipe_free_layers(recipe->layers);
    windows_destroy(recipe->gate_windows);
    corpus_destroy(recipe->gate_corpus);
    json_decref(recipe->gate_text_json);
    plan_destroy(recipe->given);
    model_destroy(recipe->model);
    windows_destroy(recipe->windows);
    windows_destroy(recipe->divergence_windows);
    corpus_destroy(recipe->calibration);
    corpus_destroy(recipe->evaluation);
    for (size_t i = 0; i < recipe->task_count; i++) {
        task_set_destroy(recipe->tasks[i]);
    }
    tokenizer_destroy(recipe->tokenizer);
    inventory_destroy(recipe->inventory);
    recipe_watch_pool(NULL);
    pool_destroy(recipe->pool);
    json_decref(recipe->calibration_json);
    json_decref(recipe->overlap_json);
    json_decref(recipe->warnings);
    json_decref(recipe->done);
    json_decref(recipe->spec);
    free(recipe->out_folder);
}

/* A killed attempt leaves the temporary of whatever it was saving; it must not become part of a result. */
static bool remove_temporary(const char *relative, const struct stat *status, void *context,
                             struct error *error)
{
    if (!S_ISREG(status->st_mode) || !text_ends_with(relative, ".tmp")) {
        return true;
    }
    OWNED_MEMORY char *path = file_join(context, relative);
    return file_system->unlink(path) == 0 || error_set_errno(error, errno, "removing %s", path);
}

static bool remove_temporaries(const struct recipe *recipe, struct error *error)
{
    char *folder = (char *)(uintptr_t)recipe->job->work_folder;
    return file_walk(folder, remove_temporary, folder, error);
}

static bool run_job(struct recipe *recipe, json_t **ret_files, json_t **ret_result, const char **ret_stage,
                    struct error *error)
{
    *ret_stage = recipe_stage_names[STAGE_INSPECT];
    if (!remove_temporaries(recipe, error) || !read_spec(recipe, error)) {
        return false;
    }
    recipe->pool = pool_create(recipe->job->threads > 0 ? recipe->job->threads : 1, error);
    if (recipe->pool == NULL) {
        return false;
    }
    recipe_watch_pool(recipe->pool);
    if (!machine_describe(&recipe->compute, recipe->pool, &recipe->machine, error)) {
        return false;
    }
    JSON_OWNED result = NULL;
    if (!run_stages(recipe, ret_stage, error)) {
        return false;
    }
    if (recipe->selection != NULL) {
        *ret_stage = recipe_stage_names[STAGE_EXPORT];
        progress_enter(recipe, STAGE_EXPORT);
    }
    bool is_written = recipe->selection != NULL
                          ? selection_export(recipe, &result, error)
                          : write_points(recipe, error) && report_write(recipe, &result, error);
    if (!is_written || !export_write_sums(recipe->out_folder, ret_files, error)) {
        return false;
    }
    *ret_result = json_incref(result);
    return true;
}

bool recipe_run(const struct recipe_job *job, json_t **ret_files, json_t **ret_result, const char **ret_stage,
                struct error *error)
{
    struct recipe recipe = {.job = job, .done = json_object(), .warnings = json_array()};
    recipe.out_folder = file_join(job->work_folder, "out");
    struct error local = {0};
    if (error == NULL) {
        error = &local;
    }
    bool is_good = run_job(&recipe, ret_files, ret_result, ret_stage, error);
    finish_recipe(&recipe);
    return is_good;
}

char *recipe_model_folder(const char *model)
{
    return inventory_folder(model);
}

bool recipe_inspect(const char *folder, json_t **ret_inventory, struct error_list *faults)
{
    OWNED(inventory) inventory = inventory_inspect(folder, true, NULL, faults);
    if (inventory == NULL) {
        return false;
    }
    *ret_inventory = inventory_format(inventory);
    return true;
}
