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
#include "workers/model/architecture.h"
#include "workers/recipe/spec.h"
#include <math.h>
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
    if (!recipe_needs_calibration(work->method, work->spec)) {
        return;
    }
    if (source == NULL) {
        error_list_add(work->faults, ERROR_MISSING_FIELD, "/calibration/source",
                       "method %s needs calibration text", work->method->name);
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

/* A plan that removes the largest (or smallest) units first, everything but the last: the bounds of what any order can reach. */
static struct plan *extreme_plan(const struct work *work, bool is_largest_first, struct prune_run *run)
{
    struct prune_unit *units = NULL;
    bool is_block =
        (work->method->traits & PRUNE_TRAIT_PACKS) != 0 || prune_run_granularity(run) == PRUNE_BY_BLOCK;
    size_t count = prune_list_units(run, is_block ? PRUNE_BY_BLOCK : PRUNE_BY_SUBLAYER, &units);
    struct plan *plan = plan_create(run->sublayer_count);
    size_t sublayers = 0;
    for (size_t i = 0; i < count; i++) {
        sublayers += units[i].count;
    }
    size_t rounds = sublayers == run->sublayer_count && count > 0 ? count - 1 : count; /* skipped ones stay */
    for (size_t round = 0; round < rounds; round++) {
        size_t best = 0;
        uint64_t best_size = 0;
        bool is_found = false;
        for (size_t i = 0; i < count; i++) {
            uint64_t size = 0;
            for (size_t s = 0; s < units[i].count; s++) {
                size += run->sublayers[units[i].first + s].parameter_count;
            }
            if (units[i].count > 0 &&
                (!is_found || (is_largest_first ? size > best_size : size < best_size))) {
                best = i;
                best_size = size;
                is_found = true;
            }
        }
        prune_add_unit(plan, &units[best], NAN);
        units[best].count = 0;
    }
    free(units);
    return plan;
}

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

/* Exact for methods without data, else the first point at which the target is met when the smallest units go first: no order
 * leaves more. */
static json_t *plan_output(struct work *work, uint64_t *ret_weight_bytes)
{
    size_t count = 0;
    OWNED_MEMORY struct sublayer *sublayers = recipe_list_sublayers(work->inventory, &count);
    struct prune_run run = {.method = work->method,
                            .inventory = work->inventory,
                            .sublayers = sublayers,
                            .sublayer_count = count,
                            .parameters = work->parameters,
                            .seed = get_integer(work->spec, "seed", 42),
                            .layers = work->layers,
                            .cancel = work->job->cancel};
    struct error error = {0};
    bool is_exact = (work->method->needs & (PRUNE_NEED_CALIBRATION | PRUNE_NEED_WIDTH)) == 0;
    OWNED(plan) plan = NULL;
    OWNED(plan) given = NULL;
    if ((work->method->needs & PRUNE_NEED_PLAN) != 0) {
        given = recipe_load_plan(work->job->inputs, work->inventory, work->method->name, work->parameters,
                                 &error);
        if (given == NULL) {
            error_list_add_error(work->faults, &error);
            return NULL;
        }
        run.given = given;
    }
    if (is_exact) {
        plan = plan_create(count);
        if (!work->method->decide(&run, &work->target, plan, &error)) {
            error_list_add_error(work->faults, &error);
            return NULL;
        }
    } else if (work->method->estimate != NULL || (work->method->needs & PRUNE_NEED_WIDTH) != 0) {
        plan = plan_create(count);
        if (!(work->method->estimate != NULL ? work->method->estimate : width_estimate)(&run, &work->target,
                                                                                        plan, &error)) {
            error_list_add_error(work->faults, &error);
            return NULL;
        }
    } else {
        /* require_packable depends on the order; the rest is the same for all orders, at its best for the largest first. */
        struct prune_target target = work->target;
        target.require_packable = false;
        OWNED(plan) most = extreme_plan(work, true, &run);
        if (!prune_target_cut(&target, most, work->inventory, &error)) {
            error_list_add_error(work->faults, &error);
            return NULL;
        }
        plan = extreme_plan(work, false, &run);
        if (!prune_target_cut(&target, plan, work->inventory, NULL)) {
            plan_destroy(plan);
            plan = TAKE(most);
        }
    }
    struct plan_size size;
    plan_measure(plan, work->inventory, work->target.element_bytes, &size);
    json_t *output = json_object();
    put_size(output, &size);
    json_put(output, "is_exact", json_boolean(is_exact));
    struct export_draft draft = {0};
    const json_t *formats = json_object_get(json_object_get(work->spec, "output"), "formats");
    uint64_t format_bytes = 0;
    OWNED(inventory)
    derived = is_exact && plan_has_widths(plan) ? plan_apply(plan, work->inventory, &error) : NULL;
    const struct inventory *pruned = derived != NULL ? derived : work->inventory;
    if (!export_check_layout(&work->inventory->config, work->options.layout, &error) ||
        (is_exact && !export_draft_make(plan, pruned, &work->options, &draft, &error)) ||
        !export_check_formats(is_exact ? &draft : NULL, pruned, formats, &work->options, &format_bytes,
                              &error)) {
        error_list_add_error(work->faults, &error);
    } else if (is_exact) {
        json_put_text(output, "layout", export_layout_name(draft.layout));
    }
    export_draft_finish(&draft);
    *ret_weight_bytes = size.weight_bytes + format_bytes;
    return output;
}

/* ---- the answer -------------------------------------------------------------------------------------------------- */

static json_t *list_layouts(const struct work *work)
{
    bool is_packing = work->target.require_packable || (work->method->traits & PRUNE_TRAIT_PACKS) != 0;
    const char *granularity = json_string_value(json_object_get(work->parameters, "granularity"));
    is_packing = is_packing || (granularity != NULL && strcmp(granularity, "block") == 0);
    /* A narrower sublayer is still there, so that blocks stay whole. */
    bool is_whole = is_packing || (work->method->traits & PRUNE_TRAIT_WIDTH) != 0;
    const struct {
        enum export_layout layout;
        bool is_possible;
    } listed[] = {{EXPORT_UNIFORM, is_packing},
                  {EXPORT_PADDED, is_whole},
                  {EXPORT_IDENTITY, true},
                  {EXPORT_HETEROGENEOUS, true},
                  {EXPORT_DECILM, true}};
    json_t *layouts = json_array();
    for (size_t i = 0; i < sizeof listed / sizeof listed[0]; i++) {
        if (listed[i].is_possible && export_check_layout(&work->inventory->config, listed[i].layout, NULL)) {
            CHECK(json_array_append_new(layouts, json_string(export_layout_name(listed[i].layout))) == 0);
        }
    }
    if (work->options.layout == EXPORT_UNIFORM && !is_packing) {
        CHECK(json_array_append_new(
                  work->warnings,
                  json_string("layout uniform is only possible if the plan happens to pack; set "
                              "target.require_packable or granularity block")) == 0);
    }
    return layouts;
}

static json_t *list_loaders(const struct work *work)
{
    enum export_layout layout = work->options.layout;
    json_t *loaders = json_array();
    bool is_stock = layout == EXPORT_UNIFORM || layout == EXPORT_IDENTITY || work->target.require_packable ||
                    work->options.is_stock;
    CHECK(json_array_append_new(
              loaders, json_string(is_stock ? "transformers" : "transformers (trust_remote_code)")) == 0);
    if (is_stock) {
        CHECK(json_array_append_new(loaders, json_string("vllm")) == 0);
    }
    if (export_formats_have_gguf(json_object_get(json_object_get(work->spec, "output"), "formats"))) {
        CHECK(json_array_append_new(loaders, json_string("llama.cpp")) == 0);
    }
    CHECK(json_array_append_new(loaders, json_string("pruned")) == 0);
    return loaders;
}

static json_t *list_stages(const struct work *work)
{
    json_t *stages = json_array();
    for (size_t i = 0; i < STAGE_COUNT; i++) {
        bool is_skipped = work->method == NULL && i != STAGE_INSPECT && i != STAGE_EVALUATE;
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
static json_t *plan_point(struct work *work, size_t index, uint64_t *weight_bytes)
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
    if (work->options.layout == EXPORT_IDENTITY) {
        bytes = work->inventory->weight_bytes;
    }
    *weight_bytes += bytes;
    return output;
}

/* "output": of the point at top level, the first as far as is known; "points": of each, with a sweep. */
static void plan_points(struct work *work, json_t *plan, uint64_t *weight_bytes)
{
    json_t *list = json_array();
    for (size_t i = 0; i < work->points.count; i++) {
        json_t *output = plan_point(work, i, weight_bytes);
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
    uint64_t weight_bytes = 0;
    if (work->method != NULL) {
        check_calibration(work);
        check_gate(work);
    }
    check_evaluation(work);
    check_tokenizer(work);
    if (work->method != NULL) {
        plan_points(work, plan, &weight_bytes);
        json_put(plan, "layouts", list_layouts(work));
        json_put(plan, "loaders", list_loaders(work));
    }
    check_compute(work);
    check_memory(work, plan);
    uint64_t folders = work->points.count > 0 ? work->points.count : 1;
    json_put_i64(plan, "disk_bytes", (int64_t)(weight_bytes + folders * (16u << 20)));
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
    struct work work = {.job = job, .spec = spec, .inventory = inventory, .faults = faults};
    if (strcmp(type, "pruning") == 0) {
        read_method(&work);
    }
    JSON_OWNED plan = make_plan(&work);
    recipe_points_finish(&work.points);
    recipe_free_layers(work.layers);
    if (faults->count > 0) {
        return false;
    }
    *ret_plan = json_incref(plan);
    return true;
}
