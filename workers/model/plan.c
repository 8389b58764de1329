/*
 * workers/model/plan.c: what goes, as data.
 *
 * A plan names sublayers by their position in residual order. That order follows from config.json alone
 * (attention before FFN, layer after layer, absent ones left out), so a plan can be measured, packed and
 * checked by arithmetic over an inventory, without weights.
 *
 * Packing (structured_pruning 15.5): walk the surviving sublayers; an attention directly followed by an FFN
 * is one block, whatever layers they came from. Residual order is untouched, so the packed model computes the
 * same function. Where attention and FFN of a layer read the same (is_parallel), only these two make a block: an FFN
 * that read what another attention wrote would not any more.
 */
#include "workers/model/plan_internal.h"

#include "base/check.h"
#include "base/memory.h"
#include "base/text.h"
#include "workers/model/architecture.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PLAN_SUBLAYERS_MAX (2 * MODEL_LAYERS_MAX)

struct plan *plan_create(size_t sublayer_count)
{
    struct plan *plan = memory_create(1, sizeof *plan);
    plan->sublayer_count = sublayer_count;
    plan->removed = memory_create(sublayer_count > 0 ? sublayer_count : 1, sizeof *plan->removed);
    plan->points = memory_create(sublayer_count > 0 ? sublayer_count : 1, sizeof *plan->points);
    plan->widths = memory_create(sublayer_count > 0 ? sublayer_count : 1, sizeof *plan->widths);
    return plan;
}

void plan_destroy(struct plan *plan)
{
    if (plan != NULL) {
        plan_clear_widths(plan);
        free(plan->removed);
        free(plan->points);
        free(plan->widths);
        free(plan);
    }
}

void plan_add_point(struct plan *plan, size_t sublayer, double score, bool is_cut)
{
    CHECK(sublayer < plan->sublayer_count && plan->point_count < plan->sublayer_count);
    plan->points[plan->point_count++] = (struct plan_point){sublayer, score, is_cut};
}

void plan_cut(struct plan *plan, size_t count)
{
    CHECK(count <= plan->point_count);
    memset(plan->removed, 0, plan->sublayer_count * sizeof *plan->removed);
    for (size_t i = 0; i < count; i++) {
        plan->removed[plan->points[i].sublayer] = true;
    }
    plan->removed_count = count;
}

size_t plan_list_sublayers(const struct model_config *config, struct plan_sublayer **ret_sublayers)
{
    struct plan_sublayer *sublayers = memory_create(2 * config->layer_count + 1, sizeof *sublayers);
    size_t count = 0;
    for (size_t layer = 0; layer < config->layer_count; layer++) {
        if (config->layers[layer].has_attention) {
            sublayers[count++] = (struct plan_sublayer){layer, true};
        }
        if (config->layers[layer].has_ffn) {
            sublayers[count++] = (struct plan_sublayer){layer, false};
        }
    }
    *ret_sublayers = sublayers;
    return count;
}

bool plan_find_owner(const struct model_config *config, const char *tensor_name,
                     struct tensor_owner *ret_owner)
{
    struct tensor_owner owner = {0};
    enum weight_part part = WEIGHT_PART_ATTENTION;
    bool is_norm = false;
    if (!architecture_split_name(config, tensor_name, &owner.layer, &owner.suffix) ||
        owner.layer >= config->layer_count) {
        return false;
    }
    const struct model_layer *home = &config->layers[owner.layer];
    if (architecture_part(config, owner.suffix, &part, &is_norm)) {
        owner.is_attention = part == WEIGHT_PART_ATTENTION;
        owner.role = is_norm ? TENSOR_ROLE_NORM : TENSOR_ROLE_WEIGHT;
    } else { /* masks and the like: what belongs to a layer travels with its attention */
        owner.is_attention = home->has_attention;
        owner.role = TENSOR_ROLE_OTHER;
    }
    if (owner.is_attention ? !home->has_attention : !home->has_ffn) {
        return false;
    }
    for (size_t i = 0; i < owner.layer; i++) {
        owner.sublayer += (config->layers[i].has_attention ? 1u : 0u) + (config->layers[i].has_ffn ? 1u : 0u);
    }
    if (!owner.is_attention && home->has_attention) {
        owner.sublayer++;
    }
    *ret_owner = owner;
    return true;
}

void plan_pack(const struct plan *plan, const struct inventory *inventory, struct plan_blocks *ret_blocks)
{
    struct plan_sublayer *sublayers = NULL;
    size_t count = plan_list_sublayers(&inventory->config, &sublayers);
    CHECK(count == plan->sublayer_count);
    struct plan_blocks blocks = {.blocks = memory_create(count + 1, sizeof *blocks.blocks),
                                 .is_uniform = true};
    for (size_t i = 0; i < count; i++) {
        if (plan->removed[i]) {
            continue;
        }
        struct plan_block *last = blocks.count > 0 ? &blocks.blocks[blocks.count - 1] : NULL;
        bool is_partner =
            last != NULL && last->ffn < 0 &&
            (!inventory->config.is_parallel || sublayers[last->attention].layer == sublayers[i].layer);
        if (!sublayers[i].is_attention && is_partner) {
            last->ffn = (long)i;
        } else {
            struct plan_block block = {-1, -1};
            *(sublayers[i].is_attention ? &block.attention : &block.ffn) = (long)i;
            blocks.blocks[blocks.count++] = block;
        }
    }
    for (size_t i = 0; i < blocks.count; i++) {
        blocks.is_uniform = blocks.is_uniform && blocks.blocks[i].attention >= 0 && blocks.blocks[i].ffn >= 0;
    }
    free(sublayers);
    *ret_blocks = blocks;
}

void plan_blocks_finish(struct plan_blocks *blocks)
{
    free(blocks->blocks);
    *blocks = (struct plan_blocks){0};
}

static uint64_t count_elements(const struct inventory_tensor *tensor)
{
    uint64_t count = 1;
    for (size_t i = 0; i < tensor->rank; i++) {
        count *= tensor->shape[i];
    }
    return count;
}

bool plan_is_counted(const struct model_config *config, const struct inventory_tensor *tensor)
{
    return !tensor->is_extra && !architecture_ignores(config, tensor->name);
}

void plan_measure(const struct plan *plan, const struct inventory *inventory, size_t element_bytes,
                  struct plan_size *ret_size)
{
    struct plan_size size = {0};
    uint64_t prunable_before = 0;
    for (size_t i = 0; i < inventory->tensor_count; i++) {
        const struct inventory_tensor *tensor = &inventory->tensors[i];
        uint64_t elements = count_elements(tensor);
        struct tensor_owner owner;
        bool is_owned = plan_find_owner(&inventory->config, tensor->name, &owner);
        bool is_prunable = is_owned && owner.role == TENSOR_ROLE_WEIGHT && !tensor->is_extra;
        bool is_removed = is_owned && plan->removed[owner.sublayer];
        prunable_before += is_prunable ? elements : 0;
        if (is_removed) {
            size.removed_prunable_count += is_prunable ? elements : 0;
            continue;
        }
        size.parameter_count += plan_is_counted(&inventory->config, tensor) ? elements : 0;
        size.prunable_count += is_prunable ? elements : 0;
        size.weight_bytes += element_bytes > 0 ? elements * element_bytes
                                               : elements * dtype_bytes(inventory_kept_dtype(tensor));
    }
    for (size_t i = 0; i < plan->sublayer_count; i++) {
        size.removed_sublayer_count += plan->removed[i] ? 1 : 0;
    }
    FINISHED(plan_blocks) blocks = {0};
    plan_pack(plan, inventory, &blocks);
    size.block_count = blocks.count;
    if (plan_has_widths(plan)) {
        plan_measure_widths(plan, inventory, element_bytes, &size);
    }
    size.sparsity_ratio =
        prunable_before > 0 ? (double)size.removed_prunable_count / (double)prunable_before : 0.0;
    *ret_size = size;
}

json_t *plan_format(const struct plan *plan, const struct inventory *inventory)
{
    struct plan_sublayer *sublayers = NULL;
    size_t count = plan_list_sublayers(&inventory->config, &sublayers);
    CHECK(count == plan->sublayer_count);
    json_t *root = json_object();
    json_put_i64(root, "version", PLAN_VERSION);
    json_put_i64(root, "sublayer_count", (int64_t)plan->sublayer_count);
    json_put_i64(root, "removed_count", (int64_t)plan->removed_count);
    json_t *points = json_array();
    for (size_t i = 0; i < plan->point_count; i++) {
        const struct plan_point *point = &plan->points[i];
        json_t *item = json_object();
        json_put_i64(item, "sublayer", (int64_t)point->sublayer);
        json_put_i64(item, "layer", (int64_t)sublayers[point->sublayer].layer);
        json_put_text(item, "kind", sublayers[point->sublayer].is_attention ? "attention" : "ffn");
        json_put_double(item, "score", point->score);
        json_put(item, "is_cut", json_boolean(point->is_cut));
        CHECK(json_array_append_new(points, item) == 0);
    }
    json_put(root, "points", points);
    json_t *layers = json_array();
    for (size_t layer = 0, i = 0; layer < inventory->config.layer_count; layer++) {
        json_t *item = json_object();
        for (; i < count && sublayers[i].layer == layer; i++) {
            json_put(item, sublayers[i].is_attention ? "attention" : "ffn", json_boolean(!plan->removed[i]));
        }
        CHECK(json_array_append_new(layers, item) == 0);
    }
    json_put(root, "kept", layers);
    plan_format_widths(plan, root);
    free(sublayers);
    return root;
}

static bool parse_point(const json_t *item, size_t index, struct plan *plan, bool *seen, struct error *error)
{
    char pointer[64];
    (void)snprintf(pointer, sizeof pointer, "/points/%zu", index);
    int64_t sublayer = 0;
    bool is_cut = true;
    double score = NAN;
    if (!json_get_i64(item, pointer, "sublayer", 0, (int64_t)plan->sublayer_count - 1, &sublayer, error) ||
        !json_find_bool(item, pointer, "is_cut", &is_cut, error)) {
        return false;
    }
    const json_t *value = json_object_get(item, "score");
    if (json_is_number(value)) {
        score = json_number_value(value);
    }
    if (seen[sublayer]) {
        return error_set_field(error, ERROR_INVALID_ARGUMENT, pointer, "sublayer %lld is removed twice",
                               (long long)sublayer);
    }
    seen[sublayer] = true;
    plan_add_point(plan, (size_t)sublayer, score, is_cut);
    return true;
}

struct plan *plan_parse(const json_t *json, struct error *error)
{
    int64_t version = 0;
    int64_t count = 0;
    int64_t removed_count = 0;
    json_t *points = NULL;
    if (!json_get_i64(json, "", "version", PLAN_VERSION, PLAN_VERSION, &version, error) ||
        !json_get_i64(json, "", "sublayer_count", 1, PLAN_SUBLAYERS_MAX, &count, error) ||
        !json_get_i64(json, "", "removed_count", 0, count, &removed_count, error) ||
        !json_get_array(json, "", "points", &points, error)) {
        return NULL;
    }
    if (json_array_size(points) > (size_t)count || json_array_size(points) < (size_t)removed_count) {
        error_set_field(error, ERROR_OUT_OF_RANGE, "/points", "%zu points for %lld removed of %lld sublayers",
                        json_array_size(points), (long long)removed_count, (long long)count);
        return NULL;
    }
    OWNED(plan) plan = plan_create((size_t)count);
    OWNED_MEMORY bool *seen = memory_create((size_t)count, sizeof *seen);
    if (!plan_parse_widths(json, plan, error)) {
        return NULL;
    }
    for (size_t i = 0; i < json_array_size(points); i++) {
        if (!parse_point(json_array_get(points, i), i, plan, seen, error)) {
            return NULL;
        }
    }
    plan_cut(plan, (size_t)removed_count);
    return TAKE(plan);
}
