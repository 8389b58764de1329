/*
 * workers/recipe/work_plan.c: what a job will cost and make, before it runs: arithmetic over the inventory. An impossible request is
 * answered here, with every fault at once, and never after an hour of calibration.
 *
 * Methods that need no data are decided on the spot, so their plan is exact; for the others the sizes are upper bounds at the
 * target.
 */
#include "workers/recipe/combined.h"

#include "workers/prune/width.h"

#include "base/check.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"
#include "workers/export/certificate.h"
#include "workers/model/architecture.h"
#include "workers/recipe/selection.h"
#include "workers/recipe/spec.h"
#include <stdlib.h>
#include <string.h>

struct work {
    const struct recipe_job *job;
    const json_t *spec;
    const struct inventory *inventory;
    struct recipe_method found;
    const struct prune_method *method; /* NULL: an evaluation */
    const json_t *parameters;
    struct recipe_points points;
    struct prune_layers *layers; /* owned */
    struct prune_target target;  /* of the point that is being planned */
    struct export_options options;
    bool is_exact;     /* the method asks no data: what is planned is what comes out */
    struct plan *plan; /* owned: of the first point, as far as it is known; NULL: it cannot be */
    struct error_list *faults;
    json_t *warnings;
    uint64_t text_bytes;
};

static uint64_t get_integer(const json_t *object, const char *name, uint64_t otherwise)
{
    const json_t *value = json_object_get(object, name);
    return json_is_integer(value) ? (uint64_t)json_integer_value(value) : otherwise;
}

/* ---- sources ----------------------------------------------------------------------------------------------------- */

static void check_source(struct work *work, const char *source, const char *pointer)
{
    const char *path = json_string_value(json_object_get(work->job->inputs, source));
    struct error error = {0};
    if (path == NULL) {
        error_list_add(work->faults, ERROR_NOT_FOUND, pointer, "source \"%s\" was not found", source);
        return;
    }
    OWNED_FD int fd = file_open_read(path, &error);
    uint64_t bytes = 0;
    if (fd < 0 || !file_size(fd, &bytes, &error)) {
        (void)snprintf(error.field, sizeof error.field, "%s", pointer);
        (void)snprintf(error.message, sizeof error.message, "source \"%s\" cannot be read", source);
        error_list_add_error(work->faults, &error);
    } else if (bytes == 0) {
        error_list_add(work->faults, ERROR_TEXT_TOO_SHORT, pointer, "source \"%s\" is empty", source);
    }
    work->text_bytes += bytes;
}

/* Whether two texts of the request are the same: one source, and no halves that keep them apart. */
static bool is_same_text(const json_t *first, const json_t *second)
{
    const char *source = json_string_value(json_object_get(first, "source"));
    const char *other = json_string_value(json_object_get(second, "source"));
    const char *half = json_string_value(json_object_get(first, "half"));
    const char *other_half = json_string_value(json_object_get(second, "half"));
    return source != NULL && other != NULL && strcmp(source, other) == 0 &&
           (half == NULL || other_half == NULL || strcmp(half, other_half) == 0);
}

static void check_gate(struct work *work)
{
    const json_t *gate = json_object_get(work->spec, "quality_gate");
    const json_t *text = json_object_get(gate, "text");
    const json_t *evaluation = json_object_get(work->spec, "evaluation");
    if (gate == NULL) {
        return;
    }
    gate_check(gate, work->inventory->config.context_tokens, work->faults);
    check_source(work, json_string_value(json_object_get(text, "source")), "/quality_gate/text/source");
    if (is_same_text(text, json_object_get(evaluation, "text"))) {
        error_list_add(work->faults, ERROR_TEXT_OVERLAP, "/quality_gate/text/source",
                       "the gate is judged on other text than the one that is reported; give it its own");
    }
    if (recipe_needs_calibration(work->method, work->spec) &&
        is_same_text(text, json_object_get(work->spec, "calibration"))) {
        error_list_add(work->faults, ERROR_TEXT_OVERLAP, "/quality_gate/text/source",
                       "the gate is judged on other text than the calibration's; give it its own");
    }
}

static void check_evaluation(struct work *work)
{
    const json_t *evaluation = json_object_get(work->spec, "evaluation");
    const char *source = json_string_value(json_object_get(json_object_get(evaluation, "text"), "source"));
    const json_t *tasks = json_object_get(evaluation, "tasks");
    if (source != NULL) {
        check_source(work, source, "/evaluation/text/source");
    }
    for (size_t i = 0; i < json_array_size(tasks); i++) {
        char pointer[64];
        (void)snprintf(pointer, sizeof pointer, "/evaluation/tasks/%zu/source", i);
        check_source(work, json_string_value(json_object_get(json_array_get(tasks, i), "source")), pointer);
    }
    uint64_t context = work->inventory->config.context_tokens;
    uint64_t window = get_integer(evaluation, "window_tokens", 0);
    if (window > context) {
        error_list_add(work->faults, ERROR_OUT_OF_RANGE, "/evaluation/window_tokens",
                       "a window of %llu tokens is longer than the model's context of %llu",
                       (unsigned long long)window, (unsigned long long)context);
    }
    if (work->method == NULL && source == NULL && json_array_size(tasks) == 0 &&
        json_array_size(json_object_get(evaluation, "prompts")) == 0 &&
        !json_is_true(json_object_get(evaluation, "speed"))) {
        error_list_add(work->faults, ERROR_INVALID_ARGUMENT, "/evaluation",
                       "nothing to measure: no text, no tasks, no prompts, no speed");
    }
}

static void check_calibration(struct work *work)
{
    const json_t *calibration = json_object_get(work->spec, "calibration");
    const char *source = json_string_value(json_object_get(calibration, "source"));
    char reader[80];
    if (!recipe_find_reader(work->method, work->spec, reader)) {
        return;
    }
    if (source == NULL) {
        error_list_add(work->faults, ERROR_MISSING_FIELD, "/calibration/source", "%s needs calibration text",
                       reader);
        return;
    }
    check_source(work, source, "/calibration/source");
    uint64_t window = get_integer(calibration, "window_tokens", 256);
    if (window > work->inventory->config.context_tokens) {
        error_list_add(work->faults, ERROR_OUT_OF_RANGE, "/calibration/window_tokens",
                       "a window of %llu tokens is longer than the model's context of %zu",
                       (unsigned long long)window, work->inventory->config.context_tokens);
    }
    if (is_same_text(calibration, json_object_get(json_object_get(work->spec, "evaluation"), "text"))) {
        error_list_add(work->faults, ERROR_TEXT_OVERLAP, "/evaluation/text/source",
                       "calibration and evaluation use the same text; give each its own half or file");
    }
}

/* ---- target ------------------------------------------------------------------------------------------------------ */

struct sublayer *recipe_list_sublayers(const struct inventory *inventory, size_t *ret_count)
{
    struct plan_sublayer *listed = NULL;
    size_t count = plan_list_sublayers(&inventory->config, &listed);
    struct sublayer *sublayers = memory_create(count + 1, sizeof *sublayers);
    for (size_t i = 0; i < count; i++) {
        sublayers[i].kind = listed[i].is_attention ? SUBLAYER_ATTENTION : SUBLAYER_FFN;
        sublayers[i].layer = listed[i].layer;
    }
    free(listed);
    for (size_t i = 0; i < inventory->tensor_count; i++) {
        const struct inventory_tensor *tensor = &inventory->tensors[i];
        struct tensor_owner owner;
        if (plan_find_owner(&inventory->config, tensor->name, &owner)) {
            uint64_t elements = 1;
            for (size_t d = 0; d < tensor->rank; d++) {
                elements *= tensor->shape[d];
            }
            *(owner.role == TENSOR_ROLE_NORM ? &sublayers[owner.sublayer].norm_count
                                             : &sublayers[owner.sublayer].parameter_count) += elements;
        }
    }
    *ret_count = count;
    return sublayers;
}

static void put_size(json_t *object, const struct plan_size *size)
{
    json_put_i64(object, "parameters", (int64_t)size->parameter_count);
    json_put_i64(object, "weight_bytes", (int64_t)size->weight_bytes);
    json_put_i64(object, "blocks", (int64_t)size->block_count);
    json_put_i64(object, "sublayers_removed", (int64_t)size->removed_sublayer_count);
    json_put_double(object, "sparsity", size->sparsity_ratio);
}

/* Exact for methods without data, else as large as what the job will make. NULL with faults. Owned. */
static struct plan *make_plan_of_point(struct work *work)
{
    size_t count = 0;
    OWNED_MEMORY struct sublayer *sublayers = recipe_list_sublayers(work->inventory, &count);
    struct prune_run run = {.method = work->method,
                            .inventory = work->inventory,
                            .sublayers = sublayers,
                            .sublayer_count = count,
                            .parameters = work->parameters,
                            .seed = get_integer(work->spec, "seed", 42),
                            .allocation = json_object_get(work->spec, "allocation"),
                            .layers = work->layers,
                            .cancel = work->job->cancel};
    struct error error = {0};
    OWNED(plan) plan = plan_create(count);
    OWNED(plan) given = NULL;
    bool is_good = true;
    if ((work->method->needs & PRUNE_NEED_PLAN) != 0) {
        given = recipe_load_plan(work->job->inputs, work->inventory, work->method->name, work->parameters,
                                 &error);
        run.given = given;
        is_good = given != NULL;
    }
    is_good =
        is_good && (work->is_exact ? work->method->decide(&run, &work->target, plan, &error)
                                   : combined_estimate(&work->found, &run, &work->target, plan, &error));
    if (!is_good) {
        error_list_add_error(work->faults, &error);
        return NULL;
    }
    return TAKE(plan);
}

/* disk_bytes: as recipe_point_bytes. The first point's plan stays in work->plan. */
static json_t *plan_output(struct work *work, uint64_t *ret_disk_bytes)
{
    struct error error = {0};
    OWNED(plan) plan = make_plan_of_point(work);
    if (plan == NULL) {
        return NULL;
    }
    struct plan_size size;
    plan_measure(plan, work->inventory, work->target.element_bytes, &size);
    json_t *output = json_object();
    put_size(output, &size);
    json_put(output, "is_exact", json_boolean(work->is_exact));
    struct export_draft draft = {0};
    const json_t *formats = json_object_get(json_object_get(work->spec, "output"), "formats");
    uint64_t format_bytes = 0;
    bool is_narrow = plan_has_widths(plan);
    OWNED(inventory) derived = is_narrow ? plan_apply(plan, work->inventory, &error) : NULL;
    const struct inventory *pruned = work->is_exact && is_narrow ? derived : work->inventory;
    if ((is_narrow && derived == NULL) ||
        !export_check_layout(&work->inventory->config, work->options.layout, &error) ||
        (work->is_exact && !export_draft_make(plan, pruned, &work->options, &draft, &error)) ||
        !export_check_formats(work->is_exact ? &draft : NULL, pruned, formats, &work->options, &format_bytes,
                              &error)) {
        error_list_add_error(work->faults, &error);
    } else if (work->is_exact) {
        json_put_text(output, "layout", export_layout_name(draft.layout));
    }
    uint64_t weight_bytes = work->is_exact                            ? draft.weight_bytes
                            : work->options.layout == EXPORT_IDENTITY ? work->inventory->weight_bytes
                                                                      : size.weight_bytes;
    *ret_disk_bytes = recipe_point_bytes(weight_bytes, format_bytes, plan);
    export_draft_finish(&draft);
    if (work->plan == NULL) {
        work->plan = TAKE(plan);
    }
    return output;
}

/* ---- layouts and loaders ----------------------------------------------------------------------------------------- */

/* Whether the sublayers that go leave whole blocks whatever the data says. */
static bool is_packing(const struct work *work)
{
    const struct prune_method *remover = work->found.depth != NULL ? work->found.depth : work->method;
    const json_t *parameters = work->found.depth != NULL ? work->found.depth_parameters : work->parameters;
    const char *granularity = json_string_value(json_object_get(parameters, "granularity"));
    return work->target.require_packable || (remover->traits & PRUNE_TRAIT_PACKS) != 0 ||
           (granularity != NULL && strcmp(granularity, "block") == 0);
}

/* An estimate says how much goes. What export rules ask besides is whether blocks are whole and of one width: it becomes so, or not, as the
 * method and the allocation promise, and not by chance. */
static void make_typical(const struct work *work, struct plan *plan)
{
    const struct prune_method *remover = work->found.depth != NULL ? work->found.depth : work->method;
    const char *rule =
        width_allocation_name(work->method, json_object_get(work->spec, "allocation")); /* NULL: no widths */
    bool is_even = rule == NULL || strcmp(rule, "uniform") == 0 || strcmp(rule, "per_layer") == 0;
    if ((remover->traits & PRUNE_TRAIT_WIDTH) == 0 && plan->removed_count > 0) {
        FINISHED(plan_blocks) blocks = {0};
        plan_pack(plan, work->inventory, &blocks);
        if (blocks.is_uniform != is_packing(work)) {
            plan_cut(plan, blocks.is_uniform ? plan->removed_count - 1 : 0);
        }
    }
    for (size_t i = plan->sublayer_count; i-- > 0 && !is_even;) { /* the last narrow one stays whole */
        struct plan_width *width = &plan->widths[i];
        if (width->heads != NULL || width->experts != NULL || width->channels != NULL) {
            free(width->heads);
            free(width->experts);
            free(width->channels);
            *width = (struct plan_width){0};
            break;
        }
    }
}

/* A layout that cannot be is a fault where no plan of this size can have it, else a warning: what packs and what is of one width is only known
 * when the plan is. */
static void refuse_layout(struct work *work, const struct error *error)
{
    if (work->is_exact) {
        return; /* plan_output said it */
    }
    if (work->options.layout == EXPORT_IDENTITY) {
        error_list_add_error(work->faults, error);
        return;
    }
    struct text warning = {0};
    text_append_format(&warning, "as far as is known before the search: %s", error->message);
    CHECK(json_array_append_new(work->warnings, json_string(warning.bytes)) == 0);
    text_finish(&warning);
}

static json_t *list_loaders(const struct work *work, const struct export_draft *draft)
{
    struct certificate_subject subject;
    struct certificate_entry entries[CERTIFICATE_MAX];
    certificate_describe(draft, json_object_get(json_object_get(work->spec, "output"), "formats"), &subject);
    size_t count = certificate_make(&subject, entries);
    json_t *loaders = json_array();
    for (size_t i = 0; i < count; i++) {
        if (entries[i].verdict == CERTIFICATE_LOADS) {
            CHECK(json_array_append_new(loaders, json_string(entries[i].runtime)) == 0);
        }
    }
    return loaders;
}

/* Every layout is drafted from what is known of the first point's plan; loaders are of the one that was asked for. */
static void put_layouts(struct work *work, json_t *json)
{
    json_t *layouts = json_array();
    json_put(json, "layouts", layouts);
    if (!work->is_exact) {
        make_typical(work, work->plan);
    }
    OWNED(inventory)
    derived = plan_has_widths(work->plan) ? plan_apply(work->plan, work->inventory, NULL) : NULL;
    if (plan_has_widths(work->plan) && derived == NULL) {
        return; /* plan_output said it */
    }
    const struct inventory *pruned = derived != NULL ? derived : work->inventory;
    struct export_options options = work->options;
    for (size_t layout = EXPORT_AUTO; layout < EXPORT_LAYOUT_COUNT; layout++) {
        struct export_draft draft = {0};
        struct error error = {0};
        options.layout = (enum export_layout)layout;
        bool is_possible = export_draft_make(work->plan, pruned, &options, &draft, &error);
        if (is_possible && layout != EXPORT_AUTO) {
            CHECK(json_array_append_new(layouts, json_string(export_layout_name(options.layout))) == 0);
        }
        if (layout == (size_t)work->options.layout) {
            if (!is_possible) {
                refuse_layout(work, &error);
            }
            /* A job that comes to an end has this layout, so a model that lost nothing stands for its result. */
            OWNED(plan) nothing = plan_create(work->plan->sublayer_count);
            if (is_possible || export_draft_make(nothing, work->inventory, &options, &draft, NULL)) {
                json_put(json, "loaders", list_loaders(work, &draft));
            }
        }
        export_draft_finish(&draft);
    }
}

/* ---- the answer -------------------------------------------------------------------------------------------------- */

static json_t *list_stages(const struct work *work)
{
    json_t *stages = json_array();
    for (size_t i = 0; i < STAGE_COUNT; i++) {
        bool is_skipped = i == STAGE_READ || i == STAGE_EMBED || i == STAGE_SELECT || /* of selection jobs */
                          (work->method == NULL && i != STAGE_INSPECT && i != STAGE_EVALUATE);
        if (!is_skipped) {
            CHECK(json_array_append_new(stages, json_string(recipe_stage_names[i])) == 0);
        }
    }
    return stages;
}

static void check_memory(struct work *work, json_t *plan)
{
    uint64_t limit = get_integer(json_object_get(work->spec, "limits"), "max_memory_bytes", 0);
    if (work->job->memory_limit_bytes > 0 && (limit == 0 || work->job->memory_limit_bytes < limit)) {
        limit = work->job->memory_limit_bytes;
    }
    struct memory_plan memory;
    memory_plan_make(work->inventory, work->spec, work->job->threads, work->text_bytes, limit, &memory);
    if (!memory.fits) {
        error_list_add(work->faults, ERROR_OUT_OF_MEMORY, "/limits/max_memory_bytes",
                       "the job needs at least %llu bytes of memory, %llu are allowed",
                       (unsigned long long)memory.least_bytes, (unsigned long long)limit);
    }
    json_put_i64(plan, "memory_bytes", (int64_t)memory.planned_bytes);
    json_put_i64(plan, "memory_bytes_least", (int64_t)memory.least_bytes);
    json_put(plan, "weights_streamed", json_boolean(memory.is_streamed));
    json_put(plan, "states_spilled", json_boolean(memory.is_spilled));
    if (memory.is_streamed &&
        json_is_true(json_object_get(json_object_get(work->spec, "evaluation"), "speed"))) {
        CHECK(json_array_append_new(
                  work->warnings,
                  json_string("speed is only measured of a model whose weights fit the memory")) == 0);
    }
}

static void check_compute(struct work *work)
{
    struct recipe_compute compute;
    struct machine machine;
    struct error error = {0};
    recipe_read_compute(work->spec, &compute);
    OWNED(pool) pool = pool_create(1, &error);
    if (pool == NULL || !machine_describe(&compute, pool, &machine, &error)) {
        (void)snprintf(error.field, sizeof error.field, "/compute/backend");
        error_list_add_error(work->faults, &error);
    }
}

static void read_method(struct work *work)
{
    recipe_find_method(work->spec, &work->found);
    work->method = recipe_method_of(&work->found);
    CHECK(work->method != NULL);
    work->parameters = work->found.parameters;
    work->is_exact = (work->method->needs & (PRUNE_NEED_CALIBRATION | PRUNE_NEED_WIDTH)) == 0;
    const json_t *output = json_object_get(work->spec, "output");
    CHECK(export_layout_parse(json_string_value(json_object_get(output, "layout")), &work->options.layout));
    work->options.is_stock = export_formats_have_gguf(json_object_get(output, "formats"));
    CHECK(export_dtype_parse(json_string_value(json_object_get(output, "dtype")),
                             &work->options.is_dtype_kept, &work->options.dtype));
    recipe_read_points(work->spec, work->options.is_dtype_kept ? 0 : dtype_bytes(work->options.dtype),
                       &work->points, work->faults);
    work->target = work->points.items[0].target;
    work->layers = recipe_read_layers(work->spec, work->inventory->config.layer_count, work->faults);
    recipe_check_traits(work->spec, work->method, work->faults);
}

/* A GGUF file may bring a tokenizer of its own. */
static void check_tokenizer(struct work *work)
{
    bool is_needed = recipe_needs_tokenizer(work->method, work->spec);
    bool is_there = inventory_gguf_name(work->inventory) != NULL;
    for (size_t i = 0; i < work->inventory->file_count; i++) {
        is_there = is_there || strcmp(work->inventory->files[i].path, "tokenizer.json") == 0;
    }
    if (is_needed && !is_there) {
        error_list_add(work->faults, ERROR_NOT_FOUND, "tokenizer.json",
                       "the model has no tokenizer.json, which calibration, texts, tasks and prompts need");
    }
}

/* All that jobs do ends in the loss of a head; and what an encoder would be without a sublayer no layout can express. */
static bool check_is_decoder(const struct inventory *inventory, struct error_list *faults)
{
    if (architecture_of(&inventory->config)->is_encoder) {
        error_list_add(
            faults, ERROR_UNSUPPORTED, "/model",
            "a model of type %s is an encoder: it has no language model's head, so jobs can neither "
            "prune nor measure it",
            inventory->config.model_type);
        return false;
    }
    return true;
}

/* One point; a fault of its target stands where the request has it. */
static json_t *plan_point(struct work *work, size_t index, uint64_t *disk_bytes)
{
    uint64_t bytes = 0;
    size_t before = work->faults->stored;
    work->target = work->points.items[index].target;
    json_t *output = plan_output(work, &bytes);
    for (size_t i = before; i < work->faults->stored; i++) {
        struct error *fault = &work->faults->items[i];
        if (strncmp(fault->field, "/target", strlen("/target")) == 0) {
            (void)snprintf(fault->field, sizeof fault->field, "%s", work->points.items[index].pointer);
        }
    }
    *disk_bytes += bytes;
    return output;
}

/* "output": of the point at top level, the first as far as is known; "points": of each, with a sweep. */
static void plan_points(struct work *work, json_t *plan, uint64_t *disk_bytes)
{
    json_t *list = json_array();
    for (size_t i = 0; i < work->points.count; i++) {
        json_t *output = plan_point(work, i, disk_bytes);
        if (output != NULL) {
            if (i == 0) {
                json_put(plan, "output", json_deep_copy(output));
            }
            json_put_text(output, "name", work->points.items[i].name);
            json_put(output, "requested", json_incref(work->points.items[i].requested));
            CHECK(json_array_append_new(list, output) == 0);
        }
    }
    if (json_object_get(work->spec, "sweep") != NULL) {
        json_put(plan, "points", json_incref(list));
    }
    json_decref(list);
    work->target = work->points.items[0].target;
}

static json_t *make_plan(struct work *work)
{
    json_t *plan = json_object();
    work->warnings = json_array();
    uint64_t disk_bytes = 0;
    if (work->method != NULL) {
        check_calibration(work);
        check_gate(work);
    }
    check_evaluation(work);
    check_tokenizer(work);
    if (work->method != NULL) {
        plan_points(work, plan, &disk_bytes);
        if (work->plan != NULL) {
            put_layouts(work, plan);
        }
    }
    check_compute(work);
    check_memory(work, plan);
    json_put_i64(plan, "disk_bytes", (int64_t)(work->method != NULL ? disk_bytes : RECIPE_BESIDE_BYTES));
    json_put(plan, "stages", list_stages(work));
    json_put(plan, "warnings", work->warnings);
    return plan;
}

static struct inventory *find_inventory(const struct recipe_job *job, json_t **ret_inventory,
                                        struct error_list *faults)
{
    if (job->inventory != NULL && !json_is_null(job->inventory)) {
        struct error error = {0};
        struct inventory *inventory = inventory_parse(job->inventory, &error);
        if (inventory == NULL) {
            error_list_add_error(faults, &error);
        }
        return inventory;
    }
    struct inventory *inventory = inventory_inspect(job->model_folder, true, job->cancel, faults);
    if (inventory != NULL && ret_inventory != NULL) {
        *ret_inventory = inventory_format(inventory);
    }
    return inventory;
}

bool recipe_plan(const struct recipe_job *job, json_t **ret_plan, json_t **ret_inventory,
                 struct error_list *faults)
{
    const char *type = NULL;
    JSON_OWNED spec = recipe_resolve_spec(job->spec, &type, faults);
    OWNED(inventory) inventory = find_inventory(job, ret_inventory, faults);
    if (spec == NULL || inventory == NULL || !check_is_decoder(inventory, faults)) {
        return false;
    }
    if (strcmp(type, "selection") == 0) {
        JSON_OWNED selection = selection_plan(job, spec, inventory, faults);
        if (faults->count == 0) {
            *ret_plan = json_incref(selection);
        }
        return faults->count == 0;
    }
    struct work work = {.job = job, .spec = spec, .inventory = inventory, .faults = faults};
    if (strcmp(type, "pruning") == 0) {
        read_method(&work);
    }
    JSON_OWNED plan = make_plan(&work);
    recipe_points_finish(&work.points);
    plan_destroy(work.plan);
    recipe_free_layers(work.layers);
    if (faults->count > 0) {
        return false;
    }
    *ret_plan = json_incref(plan);
    return true;
}
