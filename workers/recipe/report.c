/*
 * workers/recipe/report.c: what a job leaves behind besides the model: plan.json, request.json, README.md (the same bytes in every run)
 * and report.json, report.html (which also carry times, speeds and memory).
 */
#include "workers/recipe/report.h"

#include "base/check.h"
#include "base/file.h"
#include "base/memory.h"
#include "workers/evaluate/speed.h"
#include "workers/recipe/page.h"
#include <string.h>

bool report_save_json(const struct recipe *recipe, const char *name, const json_t *json, struct error *error)
{
    OWNED_MEMORY char *text = json_format(json, true);
    OWNED_MEMORY char *path = file_join(recipe->out_folder, name);
    return file_save(path, text, strlen(text), 0644, error);
}

bool report_save_text(const struct recipe *recipe, const char *name, const char *text, struct error *error)
{
    OWNED_MEMORY char *path = file_join(recipe->out_folder, name);
    return file_save(path, text, strlen(text), 0644, error);
}

/* ---- the same in every run --------------------------------------------------------------------------------------- */

static void put_size(json_t *object, uint64_t parameters, uint64_t weight_bytes, size_t blocks,
                     size_t sublayers)
{
    json_put_i64(object, "parameters", (int64_t)parameters);
    json_put_i64(object, "weight_bytes", (int64_t)weight_bytes);
    json_put_i64(object, "blocks", (int64_t)blocks);
    json_put_i64(object, "sublayers", (int64_t)sublayers);
}

json_t *report_size_summary(const struct recipe *recipe)
{
    json_t *summary = json_object();
    json_t *before = json_object();
    struct plan_sublayer *listed = NULL;
    size_t count = plan_list_sublayers(&recipe->inventory->config, &listed);
    free(listed);
    put_size(before, recipe->inventory->parameter_count, recipe->inventory->weight_bytes,
             recipe->inventory->config.layer_count, count);
    json_put(summary, "before", before);
    if (recipe->plan != NULL) {
        json_t *after = json_object();
        put_size(after, recipe->draft.parameter_count, recipe->draft.weight_bytes, recipe->draft.block_count,
                 count - recipe->plan->removed_count);
        json_put(summary, "after", after);
    }
    return summary;
}

static json_t *format_target(const struct recipe *recipe)
{
    struct plan_size size;
    plan_measure(recipe->plan, recipe->inventory, recipe->target.element_bytes, &size);
    json_t *target = json_object();
    json_put_text(target, "kind", prune_target_name(recipe->target.kind));
    if (recipe->target.kind == PRUNE_TARGET_SPARSITY) {
        json_put_double(target, "requested", recipe->target.ratio);
        json_put_double(target, "achieved", size.sparsity_ratio);
    } else {
        json_put_i64(target, "requested", (int64_t)recipe->target.count);
        json_put_i64(target, "achieved", (int64_t)prune_target_achieved(&recipe->target, &size));
    }
    json_put_double(target, "sparsity", size.sparsity_ratio);
    json_put_i64(target, "sublayers_removed", (int64_t)size.removed_sublayer_count);
    json_put_i64(target, "parameters", (int64_t)size.parameter_count);
    return target;
}

static json_t *format_request(const struct recipe *recipe)
{
    json_t *request = recipe->is_pruning
                          ? recipe_point_spec(recipe->spec, &recipe->points, recipe->points.current)
                          : json_deep_copy(recipe->spec);
    json_t *resolved = json_object();
    json_put_text(resolved, "model_sha256", recipe->model_sha256);
    json_put_text(resolved, "backend", recipe->machine.backend);
    if (recipe->tokenizer != NULL) {
        json_put_text(resolved, "tokenizer_sha256", tokenizer_sha256(recipe->tokenizer));
    }
    if (recipe->evaluation != NULL) {
        json_put_i64(resolved, "evaluation_window_tokens", (int64_t)recipe_evaluation_window(recipe));
        json_put_text(resolved, "evaluation_sha256", recipe->evaluation->sha256);
    }
    if (recipe->calibration_json != NULL) {
        json_put(resolved, "calibration", json_incref(recipe->calibration_json));
    }
    if (recipe->plan != NULL) {
        json_put_text(resolved, "layout", export_layout_name(recipe->draft.layout));
        json_put(resolved, "target", format_target(recipe));
    }
    json_put(request, "_resolved", resolved);
    return request;
}

/* What evaluate_model says, without what only the checkpoint needs; `is_timed` keeps the speeds. */
static json_t *format_measured(const struct recipe *recipe, const char *side, bool is_timed)
{
    const json_t *measured = json_object_get(recipe->done, side);
    if (measured == NULL) {
        return NULL;
    }
    json_t *copy = json_deep_copy(measured);
    (void)json_object_del(copy, "parts");
    (void)json_object_del(copy, "is_complete");
    (void)json_object_del(copy, "place");
    (void)json_object_del(copy, "place_part");
    if (!is_timed) {
        (void)json_object_del(copy, "speed");
        (void)json_object_del(copy, "speed_skipped");
        (void)json_object_del(copy, "memory");
        (void)json_object_del(copy, "memory_skipped");
        (void)json_object_del(copy, "peak_rss_bytes");
    }
    return copy;
}

static bool write_card(const struct recipe *recipe, struct error *error)
{
    JSON_OWNED before = format_measured(recipe, "before", false);
    JSON_OWNED after = format_measured(recipe, "after", false);
    JSON_OWNED summary = report_size_summary(recipe);
    JSON_OWNED loaders = export_loaders(&recipe->draft, recipe_formats(recipe));
    JSON_OWNED request = recipe_point_spec(recipe->spec, &recipe->points, recipe->points.current);
    OWNED_MEMORY char *license = export_read_license(recipe->job->model_folder);
    struct export_card card = {
        .model_name = recipe->model_name,
        .method = recipe->method_name,
        .method_reference = recipe->method->reference,
        .license = license,
        .request = request,
        .before = before,
        .after = after,
        .summary = summary,
        .calibration = recipe->calibration_json,
        .loaders = loaders,
    };
    return export_write_card(&card, recipe->out_folder, error);
}

/* ---- report.json ------------------------------------------------------------------------------------------------- */

json_t *report_format_model(const struct recipe *recipe)
{
    const struct model_config *config = &recipe->inventory->config;
    json_t *model = json_object();
    json_put_text(model, "name", recipe->model_name);
    json_put_text(model, "sha256", recipe->model_sha256);
    json_put_text(model, "architecture", config->model_type);
    json_put_i64(model, "layers", (int64_t)config->layer_count);
    json_put_i64(model, "hidden_size", (int64_t)config->hidden_size);
    json_put_i64(model, "vocab_size", (int64_t)config->vocab_size);
    json_put_i64(model, "context_tokens", (int64_t)config->context_tokens);
    json_put_i64(model, "parameters", (int64_t)recipe->inventory->parameter_count);
    json_put_i64(model, "prunable_parameters", (int64_t)recipe->inventory->prunable_count);
    json_put_i64(model, "weight_bytes", (int64_t)recipe->inventory->weight_bytes);
    return model;
}

json_t *report_format_resources(const struct recipe *recipe)
{
    json_t *resources = json_object();
    json_put_i64(resources, "planned_memory_bytes", (int64_t)recipe->memory.planned_bytes);
    if (recipe->memory.limit_bytes > 0) {
        json_put_i64(resources, "memory_limit_bytes", (int64_t)recipe->memory.limit_bytes);
    }
    json_put(resources, "weights_streamed", json_boolean(recipe->is_streamed));
    json_put_i64(resources, "weight_bytes_read", (int64_t)recipe->weight_bytes_read);
    json_put(resources, "states_spilled", json_boolean(recipe->memory.is_spilled));
    uint64_t peak = speed_peak_rss_bytes();
    json_put_i64(resources, "peak_rss_bytes",
                 (int64_t)(peak > recipe->peak_rss_bytes ? peak : recipe->peak_rss_bytes));
    json_put_i64(resources, "threads", (int64_t)recipe->job->threads);
    json_put_text(resources, "machine", recipe->machine.identity);
    json_put_text(resources, "backend", recipe->machine.backend);
    json_put_text(resources, "dtype", recipe->compute.dtype_name);
    json_put_text(resources, "version", PRUNED_VERSION);
    json_put(resources, "is_resumed", json_boolean(recipe->is_resumed));
    if (recipe->is_pruning) {
        json_put(resources, "scores", scores_format(recipe));
    }
    json_put_i64(resources, "search_token_sublayers", (int64_t)recipe->work.token_sublayers);
    json_put_i64(resources, "search_token_heads", (int64_t)recipe->work.token_heads);
    json_t *search = json_object_get(recipe->done, "search_work");
    if (search != NULL) { /* evaluations and token-sublayers beside those of one full forward a candidate */
        json_put(resources, "search", json_incref(search));
    }
    json_t *seconds = json_object();
    for (size_t i = 0; i < STAGE_COUNT; i++) {
        json_put_double(seconds, recipe_stage_names[i], recipe->progress.stage_seconds[i]);
    }
    json_put(resources, "stage_seconds", seconds);
    return resources;
}

static void put_pruning(const struct recipe *recipe, json_t *report)
{
    json_put(report, "target", format_target(recipe));
    json_t *method = json_object();
    json_put_text(method, "name", recipe->method_name);
    json_put_text(method, "summary", recipe->method->summary);
    json_put_text(method, "reference", recipe->method->reference);
    json_put(method, "parameters",
             json_deep_copy(json_object_get(json_object_get(recipe->spec, "method"), recipe->method_name)));
    json_put(method, "is_curve", json_boolean((recipe->method->traits & PRUNE_TRAIT_CURVE) != 0));
    json_put(report, "method", method);
    json_put(report, "plan", plan_format(recipe->plan, recipe->inventory));
    json_put(report, "curve", curve_format(recipe));
    json_put(report, "quality_gate", json_incref(json_object_get(recipe->done, "gate")));
    json_put(report, "layers", recipe_format_widths(recipe));
    if (recipe_repair_report(recipe) != NULL) {
        json_put(report, "compensation", json_incref((json_t *)(uintptr_t)recipe_repair_report(recipe)));
    }
    json_t *output = json_object();
    json_put_text(output, "layout", export_layout_name(recipe->draft.layout));
    json_t *loaders = export_loaders(&recipe->draft, recipe_formats(recipe));
    json_put(output, "loaders", loaders);
    json_put(report, "loaders", json_incref(loaders));
    json_put(report, "output", output);
    json_put(report, "check", json_deep_copy(json_object_get(recipe->done, "check")));
    if (recipe->calibration_json != NULL) {
        json_put(report, "calibration", json_incref(recipe->calibration_json));
    }
    if (recipe->overlap_json != NULL) {
        json_put(report, "overlap", json_incref(recipe->overlap_json));
    }
}

/* A result that fell apart on a prompt which the original continues soundly. */
static void warn_degenerate(struct recipe *recipe)
{
    const json_t *before = json_object_get(json_object_get(recipe->done, "before"), "continuations");
    const json_t *after = json_object_get(json_object_get(recipe->done, "after"), "continuations");
    size_t count = json_array_size(after), worse = 0;
    for (size_t i = 0; i < count; i++) {
        worse += json_is_true(json_object_get(json_array_get(after, i), "is_degenerate")) &&
                         !json_is_true(json_object_get(json_array_get(before, i), "is_degenerate"))
                     ? 1
                     : 0;
    }
    if (worse > 0) {
        recipe_warn(recipe,
                    "the result's continuation of %zu of %zu prompts is degenerate, the original's is not",
                    worse, count);
    }
}

static json_t *format_report(const struct recipe *recipe)
{
    static const char *const sides[] = {"before", "after", "model"};
    json_t *report = json_object();
    json_put_i64(report, "version", 1);
    json_put_text(report, "type", recipe->is_pruning ? "pruning" : "evaluation");
    json_put_text(report, "name", json_string_value(json_object_get(recipe->spec, "name")));
    json_put(report, "request", json_incref(recipe->spec));
    json_put(report, "model", report_format_model(recipe));
    json_put(report, "size", report_size_summary(recipe));
    if (recipe->is_pruning) {
        put_pruning(recipe, report);
    }
    json_t *evaluation = json_object();
    for (size_t i = 0; i < 3; i++) {
        json_put(evaluation, sides[i], format_measured(recipe, sides[i], true));
    }
    json_put(report, "evaluation", evaluation);
    json_put(report, "resources", report_format_resources(recipe));
    json_put(report, "warnings", json_incref(recipe->warnings));
    return report;
}

/* ---- the job object's `result` ------------------------------------------------------------------------------------ */

static json_t *sum_side(const json_t *measured)
{
    json_t *side = json_object();
    json_t *perplexity = json_object();
    const char *protocol;
    json_t *value;
    json_object_foreach(json_object_get(measured, "perplexity"), protocol, value)
    {
        json_put(perplexity, protocol, json_incref(json_object_get(value, "perplexity")));
    }
    json_put(side, "perplexity", perplexity);
    json_t *tasks = json_object();
    size_t index;
    json_array_foreach(json_object_get(measured, "tasks"), index, value)
    {
        json_put(tasks, json_string_value(json_object_get(value, "name")),
                 json_incref(json_object_get(value, "accuracy")));
    }
    json_put(side, "tasks", tasks);
    static const char *const copied[] = {"task_accuracy_mean", "divergence", "speed", "speed_skipped",
                                         "memory"};
    for (size_t i = 0; i < sizeof copied / sizeof copied[0]; i++) {
        json_put(side, copied[i], json_incref(json_object_get(measured, copied[i])));
    }
    return side;
}

static json_t *format_result(const struct recipe *recipe, const json_t *report)
{
    json_t *result = json_object();
    static const char *const copied[] = {"size", "target", "output", "check", "curve", "quality_gate"};
    for (size_t i = 0; i < sizeof copied / sizeof copied[0]; i++) {
        json_put(result, copied[i], json_incref(json_object_get(report, copied[i])));
    }
    static const char *const sides[] = {"before", "after", "model"};
    for (size_t i = 0; i < 3; i++) {
        const json_t *measured = json_object_get(json_object_get(report, "evaluation"), sides[i]);
        if (measured != NULL) {
            json_put(result, sides[i], sum_side(measured));
        }
    }
    if (recipe->is_pruning) {
        json_put_text(result, "method", recipe->method_name);
        json_t *removed = json_array();
        size_t index;
        const json_t *point;
        json_array_foreach(json_object_get(json_object_get(report, "plan"), "points"), index, point)
        {
            if (index < recipe->plan->removed_count) {
                json_t *item = json_object();
                json_put(item, "layer", json_incref(json_object_get(point, "layer")));
                json_put(item, "kind", json_incref(json_object_get(point, "kind")));
                CHECK(json_array_append_new(removed, item) == 0);
            }
        }
        json_put(result, "removed", removed);
    }
    return result;
}

bool report_write_point(struct recipe *recipe, struct error *error)
{
    JSON_OWNED plan = plan_format(recipe->plan, recipe->inventory);
    JSON_OWNED request = format_request(recipe);
    return report_save_json(recipe, "plan.json", plan, error) && write_card(recipe, error) &&
           report_save_json(recipe, "request.json", request, error);
}

bool report_write(struct recipe *recipe, json_t **ret_result, struct error *error)
{
    if (!recipe->is_pruning && (!file_remove_tree(recipe->out_folder, error) ||
                                !file_make_folders(recipe->out_folder, 0755, error))) {
        return false;
    }
    warn_degenerate(recipe);
    JSON_OWNED request = format_request(recipe);
    JSON_OWNED report = format_report(recipe);
    OWNED_MEMORY char *page = page_format(report);
    if (recipe->is_pruning ? !report_write_point(recipe, error)
                           : !report_save_json(recipe, "request.json", request, error)) {
        return false;
    }
    if (!report_save_json(recipe, "report.json", report, error) ||
        !report_save_text(recipe, "report.html", page, error)) {
        return false;
    }
    *ret_result = format_result(recipe, report);
    return true;
}
