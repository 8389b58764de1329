/*
 * workers/recipe/width.c: what a job does besides when its method makes sublayers narrower: statistics before
 * the search, compensation after it, and the inventory of the pruned model from then on.
 *
 * Statistics lie in the work folder, in a file of their own with its hash; the checkpoint knows that it is
 * there. A plan's patch lies beside others' in plans/<target>/, and plan.json's index of it stands in the
 * checkpoint.
 */
#include "workers/recipe/combined.h"

#include "base/check.h"
#include "base/file.h"
#include "base/memory.h"
#include "workers/model/patch.h"
#include "workers/prune/compensation.h"
#include "workers/prune/width.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define STATISTICS_FILE "statistics"
#define LEVERAGE_RATIO  0.01 /* where the method has no parameter leverage_ratio */

/* ---- what the request asks for ----------------------------------------------------------------------------------- */

const char *recipe_compensation(const struct prune_method *method, const json_t *spec)
{
    const char *type = json_string_value(json_object_get(json_object_get(spec, "compensation"), "type"));
    if ((method->traits & PRUNE_TRAIT_WIDTH) == 0) {
        return "none";
    }
    return type != NULL ? type : method->default_compensation != NULL ? method->default_compensation : "none";
}

static const json_t *parameters_of(const struct prune_method *method, const json_t *spec)
{
    return recipe_method_parameters(spec, method->name);
}

unsigned recipe_width_wanted(const struct prune_method *method, const json_t *spec)
{
    return (method->needs & PRUNE_NEED_WIDTH) == 0
               ? 0
               : width_wanted(method, parameters_of(method, spec), json_object_get(spec, "allocation"));
}

/* Whether units are weighed against the time that their sublayers take. */
static bool is_timed(const struct prune_method *method, const json_t *spec)
{
    const char *cost = (method->needs & PRUNE_NEED_WIDTH) != 0
                           ? width_cost(method, json_object_get(spec, "allocation"))
                           : NULL;
    return cost != NULL && strcmp(cost, "milliseconds") == 0;
}

bool recipe_find_reader(const struct prune_method *method, const json_t *spec, char ret_reader[80])
{
    enum { SIZE = 80 };
    const json_t *allocation = json_object_get(spec, "allocation");
    const char *compensation = recipe_compensation(method, spec);
    const char *rule =
        (method->needs & PRUNE_NEED_WIDTH) != 0 ? width_allocation_name(method, allocation) : NULL;
    bool is_gathered = (recipe_width_wanted(method, spec) & WIDTH_NEEDS_DATA) != 0;
    bool is_own =
        is_gathered && (width_wanted(method, parameters_of(method, spec), NULL) & WIDTH_NEEDS_DATA) != 0;
    if ((method->needs & PRUNE_NEED_CALIBRATION) != 0 || is_own) {
        const char *name = json_string_value(json_object_get(json_object_get(spec, "method"), "type"));
        (void)snprintf(ret_reader, SIZE, "method %.60s", name);
    } else if (rule != NULL && (is_gathered || width_needs_judge(method, allocation))) {
        (void)snprintf(ret_reader, SIZE, "allocation %.60s", rule);
    } else if (is_timed(method, spec)) {
        (void)snprintf(ret_reader, SIZE, "allocation cost milliseconds");
    } else if (strcmp(compensation, "none") != 0) {
        (void)snprintf(ret_reader, SIZE, "compensation %.60s", compensation);
    } else {
        return false;
    }
    return true;
}

bool recipe_needs_calibration(const struct prune_method *method, const json_t *spec)
{
    char reader[80];
    return recipe_find_reader(method, spec, reader);
}

bool recipe_needs_tokenizer(const struct prune_method *method, const json_t *spec)
{
    const json_t *evaluation = json_object_get(spec, "evaluation");
    return (method != NULL && recipe_needs_calibration(method, spec)) ||
           json_object_get(spec, "quality_gate") != NULL || json_object_get(evaluation, "text") != NULL ||
           json_array_size(json_object_get(evaluation, "tasks")) > 0 ||
           json_array_size(json_object_get(evaluation, "prompts")) > 0;
}

/* ---- score ------------------------------------------------------------------------------------------------------- */

double recipe_leverage_ratio(const struct recipe *recipe)
{
    const json_t *ratio = json_object_get(recipe->parameters, "leverage_ratio");
    return json_is_number(ratio) ? json_number_value(ratio) : LEVERAGE_RATIO;
}

static bool gather(struct recipe *recipe, unsigned wanted, struct error *error)
{
    struct prune_observer observer = {.context = recipe, .progress = recipe_tell_progress};
    struct token_batch batch = {0};
    struct width_gathering gathering = {.wanted = wanted,
                                        .leverage_ratio = recipe_leverage_ratio(recipe),
                                        .batch = &batch,
                                        .inventory = recipe->inventory,
                                        .folder = recipe->job->model_folder,
                                        .pool = recipe->pool,
                                        .cancel = recipe->job->cancel,
                                        .observer = &observer};
    gathering.sweep = recipe_sweep_options(recipe);
    if ((wanted & WIDTH_NEEDS_DATA) != 0) {
        CHECK(recipe->windows != NULL);
        batch = (struct token_batch){recipe->windows->sequences, recipe->windows->count};
        if (!recipe_open_source(recipe, MEMORY_SCORE, error)) {
            return false;
        }
        gathering.model = recipe->model;
    }
    recipe->statistics = width_gather(&gathering, error);
    if (recipe->model != NULL) {
        recipe->work = model_get_work(recipe->model);
    }
    return recipe->statistics != NULL;
}

bool recipe_gather_widths(struct recipe *recipe, struct error *error)
{
    unsigned wanted = recipe_width_wanted(recipe->method, recipe->spec);
    if (wanted == 0) {
        return true;
    }
    OWNED_MEMORY char *path = file_join(recipe->job->work_folder, STATISTICS_FILE);
    if (json_is_true(json_object_get(recipe->done, "statistics"))) {
        recipe->statistics = width_statistics_load(path, NULL); /* damaged or gone: they are gathered anew */
        if (recipe->statistics != NULL) {
            return true;
        }
    }
    OWNED_MEMORY char *kept = scores_statistics_path(recipe, wanted);
    recipe->statistics = kept != NULL ? width_statistics_load(kept, NULL) : NULL;
    if (recipe->statistics != NULL) {
        recipe->scores.is_file_found = true;
        (void)file_system->touch(kept);
    } else if (!gather(recipe, wanted, error)) {
        return false;
    }
    if (!width_statistics_save(recipe->statistics, path, error)) {
        return false;
    }
    struct error cause = {0};
    if (kept != NULL && !recipe->scores.is_file_found) {
        recipe->scores.is_written = true;
        if (!width_statistics_save(recipe->statistics, kept, &cause)) {
            recipe_warn(recipe, "the statistics could not be kept: %s", cause.message);
        }
    }
    json_put(recipe->done, "statistics", json_true());
    return recipe_save(recipe, error);
}

/* ---- search ------------------------------------------------------------------------------------------------------ */

void recipe_width_run_finish(struct recipe_width_run *width)
{
    source_destroy(width->weights);
    width_judge_destroy(width->judge);
    free(width->milliseconds);
    free(width->folder);
    *width = (struct recipe_width_run){0};
}

/* The median of three runs of each sublayer over the first sequence, the first being a warm-up. A measurement: it stands in the checkpoint,
 * so that another attempt decides the same. */
static bool time_sublayers(struct recipe *recipe, double **ret_milliseconds, struct error *error)
{
    enum { RUNS = 4 };
    size_t count = model_sublayer_count(recipe->model);
    double *milliseconds = memory_create(count + 1, sizeof *milliseconds);
    *ret_milliseconds = milliseconds;
    const json_t *saved = json_object_get(recipe->done, "sublayer_milliseconds");
    if (json_array_size(saved) == count) {
        for (size_t i = 0; i < count; i++) {
            milliseconds[i] = json_number_value(json_array_get(saved, i));
        }
        return true;
    }
    struct token_batch batch = {recipe->windows->sequences, 1};
    OWNED(hidden) hidden = hidden_create(recipe->model, &batch, error);
    if (hidden == NULL || !model_embed(recipe->model, &batch, hidden, error)) {
        return false;
    }
    json_t *array = json_array();
    bool is_good = true;
    for (size_t i = 0; i < count && is_good; i++) {
        OWNED(hidden) copy = hidden_create(recipe->model, &batch, error);
        double times[RUNS] = {0};
        is_good = copy != NULL;
        for (size_t run = 0; run < RUNS && is_good; run++) {
            is_good = hidden_copy(copy, hidden, error);
            int64_t start_ns = clock_boot_ns(&clock_system);
            is_good = is_good && model_run_sublayer(recipe->model, i, copy, error);
            times[run] = (double)(clock_boot_ns(&clock_system) - start_ns) / 1e6;
        }
        double low = fmin(fmin(times[1], times[2]), times[3]),
               high = fmax(fmax(times[1], times[2]), times[3]);
        milliseconds[i] = fmax(times[1] + times[2] + times[3] - low - high, 1e-6);
        is_good = is_good && model_run_sublayer(recipe->model, i, hidden, error);
        CHECK(json_array_append_new(array, json_real(milliseconds[i])) == 0);
    }
    json_put(recipe->done, "sublayer_milliseconds", array);
    return is_good && recipe_save(recipe, error);
}

bool recipe_open_widths(struct recipe *recipe, const struct prune_target *target,
                        struct recipe_width_run *width, struct prune_run *run, struct error *error)
{
    const json_t *allocation = json_object_get(recipe->spec, "allocation");
    if ((recipe->method->traits & (PRUNE_TRAIT_WIDTH | PRUNE_TRAIT_REPLACE)) == 0) {
        return true;
    }
    width->weights = source_open(recipe->inventory, recipe->job->model_folder, error);
    if (width->weights == NULL) {
        return false;
    }
    width->folder = recipe_plan_folder(recipe, target);
    const char *compensation = recipe_compensation(recipe->method, recipe->spec);
    run->adds_biases = strcmp(compensation, "none") != 0 && strcmp(compensation, "ls") != 0;
    run->statistics = recipe->statistics;
    run->allocation = allocation;
    run->weights = width->weights;
    run->pool = recipe->pool;
    run->work_folder = width->folder;
    if (!file_make_folders(width->folder, 0755, error)) {
        return false;
    }
    bool times = is_timed(recipe->method, recipe->spec);
    bool is_judged =
        (recipe->method->needs & PRUNE_NEED_WIDTH) != 0 && width_needs_judge(recipe->method, allocation);
    if (!times && !is_judged) {
        return true;
    }
    if (recipe->windows == NULL) {
        return error_set_field(error, ERROR_MISSING_FIELD, "/calibration/source",
                               "this allocation runs the model: a source of text is needed");
    }
    struct token_batch batch = {recipe->windows->sequences, recipe->windows->count};
    if (!recipe_open_source(recipe, MEMORY_SEARCH, error) ||
        (times && !time_sublayers(recipe, &width->milliseconds, error))) {
        return false;
    }
    run->sublayer_milliseconds = width->milliseconds;
    if (is_judged) {
        width->judge = width_judge_create(recipe->model, &batch, recipe->job->cancel, error);
        run->judge = width->judge;
    }
    return !is_judged || width->judge != NULL;
}

char *recipe_plan_folder(const struct recipe *recipe, const struct prune_target *target)
{
    char name[96];
    double value = target->kind == PRUNE_TARGET_SPARSITY ? target->ratio : (double)target->count;
    (void)snprintf(name, sizeof name, "plans/%s-%.15g", prune_target_name(target->kind), value);
    return file_join(recipe->job->work_folder, name);
}

bool recipe_reopen_patch(const struct recipe *recipe, const struct prune_target *target, const json_t *saved,
                         struct plan *plan, struct error *error)
{
    OWNED_MEMORY char *folder = recipe_plan_folder(recipe, target);
    return plan_open_patch(plan, saved, folder, error);
}

/* ---- compensation ------------------------------------------------------------------------------------------------ */

static const char *point_name(const char *folder)
{
    const char *slash = strrchr(folder, '/');
    return slash != NULL ? slash + 1 : folder;
}

/* A member of a member of the checkpoint; NULL: absent. */
static json_t *get_of_point(const struct recipe *recipe, const char *member, const char *name)
{
    return json_object_get(json_object_get(recipe->done, member), name);
}

static void put_of_point(struct recipe *recipe, const char *member, const char *name, json_t *value)
{
    json_t *all = json_object_get(recipe->done, member);
    if (all == NULL) {
        all = json_object();
        json_put(recipe->done, member, all);
    }
    json_put(all, name, value);
}

static bool save_repair(void *context, const json_t *state, bool must, struct error *error)
{
    struct recipe *recipe = context;
    double seconds = (double)(clock_boot_ns(&clock_system) - recipe->saved_ns) / 1e9;
    if (!must && seconds < RECIPE_SAVE_SECONDS) {
        return recipe_check(recipe, error);
    }
    json_put(recipe->done, "repair", json_deep_copy(state));
    return recipe_save(recipe, error) && recipe_check(recipe, error);
}

bool recipe_repair(struct recipe *recipe, const struct prune_target *target, struct plan *plan,
                   struct error *error)
{
    enum least_squares_mode mode;
    const char *name = recipe_compensation(recipe->method, recipe->spec);
    OWNED_MEMORY char *folder = recipe_plan_folder(recipe, target);
    if (strcmp(name, "none") == 0 || !plan_has_widths(plan)) {
        return true;
    }
    CHECK(recipe->windows != NULL);
    OWNED_MEMORY char *patch_path = file_join(folder, PATCH_FILE);
    struct token_batch batch = {recipe->windows->sequences, recipe->windows->count};
    uint64_t budget = recipe->memory.weights_bytes[MEMORY_REPAIR];
    struct prune_compensation options = {
        .inventory = recipe->inventory,
        .folder = recipe->job->model_folder,
        .model = {.backend = recipe->compute.backend,
                  .dtype = recipe->compute.dtype,
                  .weights_budget_bytes = budget > 1 ? budget / 2 : budget,
                  .pool = recipe->pool,
                  .cancel = recipe->job->cancel},
        .batch = &batch,
        .gram_bytes = recipe->memory.gram_bytes,
        .allows_new_biases = true,
        .patch_path = patch_path,
        .observer = {recipe, recipe_tell_progress, save_repair},
        .state = plan->patch == NULL ? json_object_get(recipe->done, "repair") : NULL,
    };
    if (!least_squares_parse(name, &mode, error)) {
        return false;
    }
    options.mode = mode;
    options.sweep = recipe_sweep_options(recipe);
    recipe_close_model(recipe, recipe->model); /* its memory goes to the two that follow */
    recipe->model = NULL;
    JSON_OWNED report = NULL;
    if (!prune_compensate(&options, plan, &report, error)) {
        return false;
    }
    put_of_point(recipe, "compensation", point_name(folder), json_incref(report));
    (void)json_object_del(recipe->done, "repair");
    return true;
}

const json_t *recipe_repair_report(const struct recipe *recipe)
{
    const struct recipe_point *point = &recipe->points.items[recipe->points.current];
    OWNED_MEMORY char *folder = recipe_plan_folder(recipe, &point->plan_target);
    return get_of_point(recipe, "compensation", point_name(folder));
}

bool recipe_keep_plan(struct recipe *recipe, const struct prune_target *target, const struct plan *plan,
                      struct error *error)
{
    OWNED_MEMORY char *folder = recipe_plan_folder(recipe, target);
    if ((recipe->method->traits & (PRUNE_TRAIT_WIDTH | PRUNE_TRAIT_REPLACE)) == 0) {
        return true;
    }
    if (plan->patch != NULL && !patch_sync(plan->patch, error)) {
        return false;
    }
    put_of_point(recipe, "made", point_name(folder), plan_format(plan, recipe->inventory));
    (void)json_object_del(recipe->done, "search"); /* it was this plan's */
    return recipe_save(recipe, error);
}

bool recipe_find_plan(const struct recipe *recipe, const struct prune_target *target, struct plan **ret_plan,
                      struct error *error)
{
    OWNED_MEMORY char *folder = recipe_plan_folder(recipe, target);
    const json_t *saved = get_of_point(recipe, "made", point_name(folder));
    *ret_plan = NULL;
    if (saved == NULL) {
        return true;
    }
    OWNED(plan) plan = plan_parse(saved, error);
    if (plan == NULL || !plan_open_patch(plan, saved, folder, error)) {
        return false;
    }
    *ret_plan = TAKE(plan);
    return true;
}

/* ---- the pruned model -------------------------------------------------------------------------------------------- */

void recipe_derive(struct recipe *recipe)
{
    inventory_destroy(recipe->derived);
    recipe->derived = NULL;
    if (plan_has_widths(recipe->plan)) {
        recipe->derived = plan_apply(recipe->plan, recipe->inventory, NULL);
        CHECK(recipe->derived != NULL); /* the plan was checked when it was made */
    }
}

const struct inventory *recipe_pruned(const struct recipe *recipe)
{
    return recipe->derived != NULL ? recipe->derived : recipe->inventory;
}

static void format_attention(const struct model_layer *from, const struct model_layer *to, bool is_removed,
                             json_t *item)
{
    json_t *part = json_object();
    json_put_i64(part, "heads", (int64_t)from->head_count);
    json_put_i64(part, "kv_heads", (int64_t)from->kv_head_count);
    json_put_i64(part, "kept_heads", is_removed ? 0 : (int64_t)to->head_count);
    json_put_i64(part, "kept_kv_heads", is_removed ? 0 : (int64_t)to->kv_head_count);
    json_put(item, "attention", part);
}

static void format_ffn(const struct model_layer *from, const struct model_layer *to, bool is_removed,
                       json_t *item)
{
    json_t *part = json_object();
    json_put_i64(part, "of", (int64_t)from->intermediate_size);
    json_put_i64(part, "kept", is_removed ? 0 : (int64_t)to->intermediate_size);
    if (from->expert_count > 0) {
        json_put_i64(part, "experts", (int64_t)from->expert_count);
        json_put_i64(part, "kept_experts", is_removed ? 0 : (int64_t)to->expert_count);
    }
    json_put(item, "ffn", part);
}

json_t *recipe_format_widths(const struct recipe *recipe)
{
    struct plan_sublayer *sublayers = NULL;
    const struct model_config *from = &recipe->inventory->config, *to = &recipe_pruned(recipe)->config;
    size_t count = plan_list_sublayers(from, &sublayers);
    json_t *layers = json_array();
    for (size_t layer = 0, i = 0; layer < from->layer_count; layer++) {
        json_t *item = json_object();
        json_put_i64(item, "layer", (int64_t)layer);
        for (; i < count && sublayers[i].layer == layer; i++) {
            (sublayers[i].is_attention ? format_attention : format_ffn)(
                &from->layers[layer], &to->layers[layer], recipe->plan->removed[i], item);
        }
        CHECK(json_array_append_new(layers, item) == 0);
    }
    free(sublayers);
    return layers;
}

bool recipe_write_patch(const struct recipe *recipe, struct error *error)
{
    OWNED_MEMORY char *path = file_join(recipe->out_folder, PATCH_FILE);
    if (recipe->plan->patch == NULL) {
        return true;
    }
    return patch_copy(recipe->plan->patch, path, error);
}
