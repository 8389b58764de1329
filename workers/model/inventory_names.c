/*
 * workers/model/inventory_names.c: one spelling for all names. Checkpoints of a family differ by the version that wrote them:
 * with or without the prefix of the base model, with older names of norms, with all experts of a layer in one tensor. The
 * architecture's row lists the spellings; here they become the canonical names that everything else looks for.
 */
#include "workers/model/inventory_internal.h"

#include "base/text.h"
#include "workers/model/architecture.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int compare_tensors(const void *a, const void *b)
{
    const struct inventory_tensor *left = a, *right = b;
    return strcmp(left->name, right->name);
}

void inventory_sort_tensors(struct inventory *inventory)
{
    qsort(inventory->tensors, inventory->tensor_count, sizeof *inventory->tensors, compare_tensors);
}

/* ---- prefix ---------------------------------------------------------------------------------- */

/* "model.decoder." may be lacking as a whole or from the left: "decoder.", "". */
void inventory_choose_prefix(struct inventory *inventory)
{
    struct model_config *config = &inventory->config;
    const struct architecture *row = architecture_of(config);
    for (const char *prefix = row->prefix;;) {
        char name[128];
        (void)snprintf(name, sizeof name, "%s%s", prefix, row->names[WEIGHT_EMBEDDING]);
        if (inventory_find(inventory, name) != NULL) {
            (void)snprintf(config->prefix, sizeof config->prefix, "%s", prefix);
            return;
        }
        const char *dot = strchr(prefix, '.');
        if (dot == NULL) {
            return; /* no embedding: what is missing will be named with the row's prefix */
        }
        prefix = dot + 1;
    }
}

/* ---- other spellings ------------------------------------------------------------------------- */

static void rename_tensors(struct inventory *inventory)
{
    const struct name_alias *aliases = architecture_of(&inventory->config)->aliases;
    for (size_t i = 0; aliases != NULL && i < inventory->tensor_count; i++) {
        const char *name = inventory->tensors[i].name;
        for (const struct name_alias *alias = aliases; alias->ending != NULL; alias++) {
            if (text_ends_with(name, alias->ending)) {
                FINISHED(text) renamed = {0};
                text_append_bytes(&renamed, name, strlen(name) - strlen(alias->ending));
                text_append(&renamed, alias->canonical);
                inventory->tensors[i].name = arena_copy_text(inventory->arena, renamed.bytes, renamed.length);
                break;
            }
        }
    }
}

static void drop_duplicates(struct inventory *inventory)
{
    size_t kept = 0;
    for (size_t i = 0; i < inventory->tensor_count; i++) {
        if (kept == 0 || strcmp(inventory->tensors[kept - 1].name, inventory->tensors[i].name) != 0) {
            inventory->tensors[kept++] = inventory->tensors[i];
        }
    }
    inventory->tensor_count = kept;
}

/* ---- fused experts --------------------------------------------------------------------------- */

/* How many tensors it becomes; 0: it is none of fused experts, or not of the shape that they have. */
static size_t count_pieces(const struct model_config *config, const struct inventory_tensor *tensor,
                           size_t *ret_layer, bool *ret_is_down)
{
    const struct architecture *row = architecture_of(config);
    const char *suffix = NULL;
    if (row->fused_down == NULL || !architecture_split_name(config, tensor->name, ret_layer, &suffix) ||
        *ret_layer >= config->layer_count) {
        return 0;
    }
    *ret_is_down = strcmp(suffix, row->fused_down) == 0;
    const struct model_layer *layer = &config->layers[*ret_layer];
    uint64_t hidden = config->hidden_size, size = layer->intermediate_size;
    uint64_t rows = *ret_is_down ? hidden : 2 * size, columns = *ret_is_down ? size : hidden;
    bool is_fused = *ret_is_down || strcmp(suffix, row->fused_gate_up) == 0;
    if (!is_fused || tensor->rank != 3 || layer->expert_count == 0 ||
        tensor->shape[0] != layer->expert_count || tensor->shape[1] != rows || tensor->shape[2] != columns) {
        return 0;
    }
    return layer->expert_count * (*ret_is_down ? 1 : 2);
}

/* The pieces lie one after the other: of each expert its down, or its gate and up. */
static struct inventory_tensor *append_pieces(const struct inventory *inventory,
                                              const struct inventory_tensor *tensor, size_t layer,
                                              bool is_down, size_t count, struct inventory_tensor *to)
{
    for (size_t i = 0; i < count; i++) {
        enum weight_role role = is_down      ? WEIGHT_EXPERT_DOWN
                                : i % 2 == 0 ? WEIGHT_EXPERT_GATE
                                             : WEIGHT_EXPERT_UP;
        struct weight_shape shape;
        if (!architecture_tensor(&inventory->config, role, layer, is_down ? i : i / 2, &shape)) {
            continue; /* cannot be: the layer has that many experts */
        }
        *to = *tensor;
        to->name = arena_copy_text(inventory->arena, shape.name, strlen(shape.name));
        to->rank = 2;
        to->shape[0] = shape.shape[0];
        to->shape[1] = shape.shape[1];
        to->shape[2] = 0;
        to->bytes = tensor->bytes / count;
        to->offset_bytes = tensor->offset_bytes + i * to->bytes;
        to++;
    }
    return to;
}

static void split_experts(struct inventory *inventory)
{
    size_t count = 0, layer = 0;
    bool is_down = false;
    for (size_t i = 0; i < inventory->tensor_count; i++) {
        size_t pieces = count_pieces(&inventory->config, &inventory->tensors[i], &layer, &is_down);
        count += pieces > 0 ? pieces : 1;
    }
    if (count == inventory->tensor_count) {
        return;
    }
    struct inventory_tensor *all = arena_allocate(inventory->arena, count + 1, sizeof *all), *next = all;
    for (size_t i = 0; i < inventory->tensor_count; i++) {
        const struct inventory_tensor *tensor = &inventory->tensors[i];
        size_t pieces = count_pieces(&inventory->config, tensor, &layer, &is_down);
        if (pieces > 0) {
            next = append_pieces(inventory, tensor, layer, is_down, pieces, next);
        } else {
            *next++ = *tensor;
        }
    }
    inventory->tensors = all;
    inventory->tensor_count = (size_t)(next - all);
}

void inventory_settle_names(struct inventory *inventory)
{
    rename_tensors(inventory);
    inventory_sort_tensors(inventory);
    drop_duplicates(inventory);
    inventory_choose_prefix(inventory);
    split_experts(inventory);
    inventory_sort_tensors(inventory);
    drop_duplicates(inventory);
}
