/*
 * workers/model/plan_apply.c: the pruned model, as an inventory. Its config follows from the plan; its tensors follow from that config, role by
 * role; each comes of the source's tensor of the same role by keeping rows and columns (structured_pruning 0.3):
 *
 *     heads       rows of q, columns of o; of k and v the groups that keep a query head
 *     channels    rows of gate and up, columns of down
 *     experts     the tensors of those that go; rows of the router
 *     hidden      columns of what reads the residual, rows of what writes it, norms
 *
 * Rows are outputs and columns inputs; where a family stores the transpose, the two change places. Norms over fewer channels: the masked model
 * divides by the root of sum / d + epsilon, a stock one of d' channels by that of sum / d'. With weights times sqrt(d / d') and epsilon times
 * d / d' both are the same (structured_pruning 8).
 */
#include "workers/model/plan_internal.h"

#include "base/check.h"
#include "base/memory.h"
#include "workers/model/architecture.h"
#include "workers/model/inventory_internal.h"
#include "workers/model/patch.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- config ------------------------------------------------------------------------------------------------------ */

bool plan_can_add_bias(const struct model_config *config, bool is_attention)
{
    /* One switch covers all projections of a part in config.json: attention_bias, mlp_bias. */
    bool has_switch =
        strcmp(config->model_type, "llama") == 0 || strcmp(config->model_type, "pruned_llama") == 0;
    return has_switch && !(is_attention ? config->has_o_bias : config->has_ffn_bias);
}

static size_t count_groups(const struct plan_width *width, const struct model_layer *layer)
{
    size_t size = layer->head_count / layer->kv_head_count, count = 0, last = SIZE_MAX;
    for (size_t i = 0; i < width->head_count; i++) {
        count += width->heads[i] / size != last ? 1 : 0;
        last = width->heads[i] / size;
    }
    return count;
}

static void derive_layer(const struct plan_width *width, bool is_attention, struct model_layer *layer)
{
    if (is_attention && width->heads != NULL) {
        layer->kv_head_count = count_groups(width, layer);
        layer->head_count = width->head_count;
    }
    if (!is_attention && width->experts != NULL) {
        layer->expert_count = width->expert_count;
    }
    if (!is_attention && width->channels != NULL) {
        layer->intermediate_size = width->channel_count;
    }
}

void plan_derive_config(const struct plan *plan, const struct model_config *config,
                        struct model_config *ret_config)
{
    struct plan_sublayer *sublayers = NULL;
    size_t count = plan_list_sublayers(config, &sublayers);
    CHECK(count == plan->sublayer_count);
    if (ret_config != config) {
        *ret_config = *config;
    }
    for (size_t i = 0; i < count; i++) {
        derive_layer(&plan->widths[i], sublayers[i].is_attention, &ret_config->layers[sublayers[i].layer]);
    }
    free(sublayers);
    if (plan->hidden_count > 0) {
        ret_config->norm_epsilon *= (double)config->hidden_size / (double)plan->hidden_count;
        ret_config->hidden_size = plan->hidden_count;
        ret_config->has_tied_head = config->has_tied_head && !plan->is_rotated;
    }
    ret_config->has_o_bias = config->has_o_bias || plan->adds_attention_bias;
    ret_config->has_qkv_bias = config->has_qkv_bias || plan->adds_attention_bias;
    ret_config->has_ffn_bias = config->has_ffn_bias || plan->adds_ffn_bias;
}

struct patch_check {
    const struct plan *plan;
    size_t found;
    struct error *error; /* of the first that does not fit */
    bool fits;
};

static void check_patched(enum weight_role role, size_t layer, const struct weight_shape *shape,
                          void *context)
{
    (void)layer;
    struct patch_check *check = context;
    const struct patch_tensor *tensor = patch_find(check->plan->patch, shape->name);
    check->found += tensor != NULL ? 1 : 0;
    if (check->fits && tensor == NULL && check->plan->is_rotated && architecture_role_has_hidden(role)) {
        check->fits = error_set_field(check->error, ERROR_CORRUPT_FILE, shape->name,
                                      PATCH_FILE " has no %s, which a rotated model needs", shape->name);
    }
    bool is_same =
        tensor == NULL || (tensor->rank == shape->rank &&
                           memcmp(tensor->shape, shape->shape, shape->rank * sizeof shape->shape[0]) == 0);
    if (check->fits && !is_same) {
        check->fits =
            error_set_field(check->error, ERROR_CORRUPT_FILE, shape->name,
                            PATCH_FILE " has %s in another shape than the plan makes it", shape->name);
    }
}

bool plan_check_patch(const struct plan *plan, const struct model_config *config, struct error *error)
{
    OWNED_MEMORY struct model_config *derived = memory_create(1, sizeof *derived);
    struct patch_check check = {.plan = plan, .error = error, .fits = true};
    if (plan->patch == NULL && !plan->is_rotated) {
        return true;
    }
    plan_derive_config(plan, config, derived);
    architecture_visit(derived, check_patched, &check);
    if (check.fits && plan->patch != NULL && check.found != patch_count(plan->patch)) {
        return error_set(error, ERROR_CORRUPT_FILE, PATCH_FILE " has tensors that the pruned model has not");
    }
    return check.fits;
}

/* What config.json says of it, but for the widths of layers, which are the exporter's matter. */
static json_t *derive_json(const struct plan *plan, const struct inventory *inventory)
{
    json_t *json = json_deep_copy(inventory->config_json);
    const struct model_config *config = &inventory->config;
    if (plan->hidden_count > 0) {
        json_put_i64(json, "hidden_size", (int64_t)plan->hidden_count);
        json_put_i64(json, "head_dim", (int64_t)config->head_size);
        json_put_double(json, "rms_norm_eps",
                        config->norm_epsilon * (double)config->hidden_size / (double)plan->hidden_count);
        json_put(json, "tie_word_embeddings", json_boolean(config->has_tied_head && !plan->is_rotated));
    }
    if (plan->adds_attention_bias) {
        json_put(json, "attention_bias", json_true());
    }
    if (plan->adds_ffn_bias) {
        json_put(json, "mlp_bias", json_true());
    }
    return json;
}

/* ---- lists ------------------------------------------------------------------------------------------------------- */

struct list {
    const uint32_t *items; /* NULL: all */
    size_t count;
};

struct derivation {
    const struct plan *plan;
    const struct inventory *source;
    struct inventory *inventory; /* being made */
    struct list *heads, *groups; /* [layer_count]: rows of q, of k and v */
    struct list *fused;          /* [layer_count]: rows of [q k v], or of [gate up] where the role says so */
    size_t *attention, *ffn;     /* [layer_count]: index of the sublayer; SIZE_MAX: none */
    size_t capacity;
};

static const struct plan_width no_width;

static const struct plan_width *width_of(const struct derivation *derivation, size_t layer, bool is_attention)
{
    size_t sublayer = (is_attention ? derivation->attention : derivation->ffn)[layer];
    return sublayer == SIZE_MAX ? &no_width : &derivation->plan->widths[sublayer];
}

static uint32_t *new_list(struct derivation *derivation, size_t count)
{
    return arena_allocate(derivation->inventory->arena, count > 0 ? count : 1, sizeof(uint32_t));
}

/* Rows of the heads listed, `size` each, from `base` on, appended to a list. */
static size_t append_rows(uint32_t *list, size_t count, const uint32_t *heads, size_t head_count, size_t size,
                          size_t base)
{
    for (size_t h = 0; h < head_count; h++) {
        for (size_t i = 0; i < size; i++) {
            list[count++] = (uint32_t)(base + heads[h] * size + i);
        }
    }
    return count;
}

static void list_heads(struct derivation *derivation, size_t layer)
{
    const struct model_config *config = &derivation->source->config;
    const struct model_layer *from = &config->layers[layer];
    const struct plan_width *width = width_of(derivation, layer, true);
    size_t size = config->head_size, groups = 0;
    if (width->heads == NULL) {
        return;
    }
    OWNED_MEMORY uint32_t *kept_groups = memory_create(from->kv_head_count + 1, sizeof *kept_groups);
    for (size_t i = 0; i < width->head_count; i++) {
        uint32_t group = (uint32_t)(width->heads[i] / (from->head_count / from->kv_head_count));
        if (groups == 0 || kept_groups[groups - 1] != group) {
            kept_groups[groups++] = group;
        }
    }
    size_t q = width->head_count * size, kv = groups * size;
    uint32_t *rows = new_list(derivation, q), *kv_rows = new_list(derivation, kv);
    derivation->heads[layer] =
        (struct list){rows, append_rows(rows, 0, width->heads, width->head_count, size, 0)};
    derivation->groups[layer] = (struct list){kv_rows, append_rows(kv_rows, 0, kept_groups, groups, size, 0)};
    uint32_t *all = new_list(derivation, q + 2 * kv);
    size_t count = 0;
    if (architecture_of(config)->qkv_order == QKV_INTERLEAVED) {
        CHECK(from->head_count == from->kv_head_count);
        count = append_rows(all, 0, width->heads, width->head_count, 3 * size, 0);
    } else {
        size_t q_rows = from->head_count * size, kv_all = from->kv_head_count * size;
        count = append_rows(all, 0, width->heads, width->head_count, size, 0);
        count = append_rows(all, count, kept_groups, groups, size, q_rows);
        count = append_rows(all, count, kept_groups, groups, size, q_rows + kv_all);
    }
    derivation->fused[layer] = (struct list){all, count};
}

/* Channels of the expert that is the nth of those left. */
static struct list channel_list(const struct derivation *derivation, size_t layer, size_t expert)
{
    const struct plan_width *width = width_of(derivation, layer, false);
    if (width->channels == NULL) {
        return (struct list){0};
    }
    return (struct list){width->channels + expert * width->channel_count, width->channel_count};
}

static struct list gate_up_list(struct derivation *derivation, size_t layer)
{
    struct list channels = channel_list(derivation, layer, 0);
    if (channels.items == NULL) {
        return channels;
    }
    uint32_t *rows = new_list(derivation, 2 * channels.count);
    size_t count = append_rows(rows, 0, channels.items, channels.count, 1, 0);
    count = append_rows(rows, count, channels.items, channels.count, 1,
                        derivation->source->config.layers[layer].intermediate_size);
    return (struct list){rows, count};
}

/* Which outputs (rows) and inputs (columns) of a role's weight stay. */
static void find_lists(struct derivation *derivation, enum weight_role role, size_t layer, size_t expert,
                       struct list *ret_rows, struct list *ret_columns)
{
    struct list none = {0}, hidden = {derivation->plan->hidden, derivation->plan->hidden_count};
    struct list rows = none, columns = none;
    const struct plan_width *ffn = NULL;
    switch (role) {
    case WEIGHT_EMBEDDING:
    case WEIGHT_POSITION_EMBEDDING:
    case WEIGHT_TOKEN_TYPE_EMBEDDING:
    case WEIGHT_HEAD:
        columns = hidden;
        break;
    case WEIGHT_EMBEDDING_NORM:
    case WEIGHT_EMBEDDING_NORM_BIAS:
    case WEIGHT_FINAL_NORM:
    case WEIGHT_FINAL_NORM_BIAS:
    case WEIGHT_ATTENTION_NORM:
    case WEIGHT_ATTENTION_NORM_BIAS:
    case WEIGHT_ATTENTION_POST_NORM:
    case WEIGHT_FFN_NORM:
    case WEIGHT_FFN_NORM_BIAS:
    case WEIGHT_FFN_POST_NORM:
    case WEIGHT_O_BIAS:
    case WEIGHT_DOWN_BIAS:
        rows = hidden;
        break;
    case WEIGHT_Q:
    case WEIGHT_Q_BIAS:
        rows = derivation->heads[layer];
        columns = role == WEIGHT_Q ? hidden : none;
        break;
    case WEIGHT_K:
    case WEIGHT_V:
    case WEIGHT_K_BIAS:
    case WEIGHT_V_BIAS:
        rows = derivation->groups[layer];
        columns = role == WEIGHT_K || role == WEIGHT_V ? hidden : none;
        break;
    case WEIGHT_QKV:
    case WEIGHT_QKV_BIAS:
        rows = derivation->fused[layer];
        columns = role == WEIGHT_QKV ? hidden : none;
        break;
    case WEIGHT_O:
        rows = hidden;
        columns = derivation->heads[layer];
        break;
    case WEIGHT_GATE:
    case WEIGHT_UP:
    case WEIGHT_EXPERT_GATE:
    case WEIGHT_EXPERT_UP:
        columns = hidden;
        rows = channel_list(derivation, layer, expert);
        break;
    case WEIGHT_GATE_BIAS:
    case WEIGHT_UP_BIAS:
        rows = channel_list(derivation, layer, 0);
        break;
    case WEIGHT_GATE_UP:
        columns = hidden;
        rows = gate_up_list(derivation, layer);
        break;
    case WEIGHT_DOWN:
    case WEIGHT_EXPERT_DOWN:
        rows = hidden;
        columns = channel_list(derivation, layer, expert);
        break;
    case WEIGHT_ROUTER:
        columns = hidden;
        ffn = width_of(derivation, layer, false);
        rows = (struct list){ffn->experts, ffn->expert_count};
        break;
    case WEIGHT_Q_NORM:
    case WEIGHT_K_NORM:
    case WEIGHT_ROLE_COUNT:
        break;
    }
    *ret_rows = rows;
    *ret_columns = columns;
}

/* ---- tensors ----------------------------------------------------------------------------------------------------- */

static bool is_scaled_norm(enum weight_role role)
{
    return role == WEIGHT_FINAL_NORM || role == WEIGHT_ATTENTION_NORM || role == WEIGHT_FFN_NORM ||
           role == WEIGHT_ATTENTION_POST_NORM || role == WEIGHT_FFN_POST_NORM ||
           role == WEIGHT_EMBEDDING_NORM;
}

static uint64_t columns_of(const struct inventory_tensor *tensor)
{
    uint64_t columns = 1;
    for (size_t i = 1; i < tensor->rank; i++) {
        columns *= tensor->shape[i];
    }
    return columns;
}

/* The source's tensor of a role; of a head that is tied no more, the embedding. NULL: it has none. */
static const struct inventory_tensor *find_source(const struct derivation *derivation, enum weight_role role,
                                                  size_t layer, size_t expert)
{
    const struct model_config *config = &derivation->source->config;
    const struct plan_width *width = role >= WEIGHT_EXPERT_GATE && role <= WEIGHT_EXPERT_DOWN
                                         ? width_of(derivation, layer, false)
                                         : &no_width;
    struct weight_shape shape;
    size_t number = width->experts != NULL ? width->experts[expert] : expert;
    if (architecture_tensor(config, role, layer, number, &shape)) {
        return inventory_find(derivation->source, shape.name);
    }
    if (role == WEIGHT_HEAD && architecture_tensor(config, WEIGHT_EMBEDDING, 0, 0, &shape)) {
        return inventory_find(derivation->source, shape.name);
    }
    return NULL;
}

/* Whose element type a bias has that the source lacks: its sublayer's output projection's. */
static const struct inventory_tensor *find_sibling(const struct derivation *derivation,
                                                   const struct weight_shape *shape, size_t layer)
{
    const struct inventory_tensor *sibling =
        find_source(derivation, shape->part == WEIGHT_PART_ATTENTION ? WEIGHT_O : WEIGHT_DOWN, layer, 0);
    return sibling != NULL ? sibling : &derivation->source->tensors[0];
}

static void add_tensor(enum weight_role role, size_t layer, const struct weight_shape *shape, void *context)
{
    struct derivation *derivation = context;
    struct inventory *inventory = derivation->inventory;
    const struct inventory_tensor *source = find_source(derivation, role, layer, shape->expert);
    struct tensor_edit edit = {.scale = 1, .patch = derivation->plan->patch, .is_zero = source == NULL};
    struct list outputs, inputs;
    find_lists(derivation, role, layer, shape->expert, &outputs, &inputs);
    const struct list *rows = shape->is_transposed ? &inputs : &outputs,
                      *columns = shape->is_transposed ? &outputs : &inputs;
    const struct inventory_tensor *sibling = source != NULL ? source : find_sibling(derivation, shape, layer);
    struct inventory_tensor tensor = {.dtype = inventory_kept_dtype(sibling), .file = sibling->file};
    if (source != NULL) {
        tensor = *source;
        edit.rows = source->shape[0];
        edit.columns = columns_of(source);
    }
    tensor.name = arena_copy_text(inventory->arena, shape->name, strlen(shape->name));
    tensor.rank = shape->rank;
    memcpy(tensor.shape, shape->shape, sizeof shape->shape);
    edit.row_list = rows->items;
    edit.column_list = columns->items;
    if (derivation->plan->hidden_count > 0 && is_scaled_norm(role)) {
        edit.scale =
            sqrt((double)derivation->source->config.hidden_size / (double)derivation->plan->hidden_count);
        edit.adds_one = architecture_of(&inventory->config)->norm_adds_one;
    }
    bool is_same = source != NULL && rows->items == NULL && columns->items == NULL && edit.patch == NULL &&
                   !(edit.scale > 1 || edit.scale < 1) && source->shape[0] == tensor.shape[0];
    tensor.edit = NULL;
    if (!is_same) {
        struct tensor_edit *kept = arena_allocate(inventory->arena, 1, sizeof *kept);
        *kept = edit;
        tensor.edit = kept;
    }
    CHECK(inventory->tensor_count < derivation->capacity);
    inventory->tensors[inventory->tensor_count++] = tensor;
    inventory->parameter_count += shape->count;
    inventory->prunable_count += shape->part != WEIGHT_PART_MODEL && !shape->is_norm ? shape->count : 0;
    inventory->weight_bytes += shape->count * dtype_bytes(inventory_kept_dtype(&tensor));
}

static void count_tensor(enum weight_role role, size_t layer, const struct weight_shape *shape, void *context)
{
    (void)role;
    (void)layer;
    (void)shape;
    (*(size_t *)context)++;
}

/* What no forward pass reads goes over as it is. */
static void add_others(struct derivation *derivation)
{
    const struct inventory *source = derivation->source;
    for (size_t i = 0; i < source->tensor_count; i++) {
        const struct inventory_tensor *tensor = &source->tensors[i];
        if (tensor->is_extra || architecture_ignores(&derivation->inventory->config, tensor->name)) {
            derivation->inventory->tensors[derivation->inventory->tensor_count++] = *tensor;
            derivation->inventory->weight_bytes += tensor->bytes;
            derivation->inventory->extra_tensor_count += tensor->is_extra ? 1 : 0;
        }
    }
}

static void index_sublayers(struct derivation *derivation)
{
    struct plan_sublayer *sublayers = NULL;
    size_t layers = derivation->source->config.layer_count;
    size_t count = plan_list_sublayers(&derivation->source->config, &sublayers);
    for (size_t layer = 0; layer < layers; layer++) {
        derivation->attention[layer] = derivation->ffn[layer] = SIZE_MAX;
    }
    for (size_t i = 0; i < count; i++) {
        (sublayers[i].is_attention ? derivation->attention : derivation->ffn)[sublayers[i].layer] = i;
    }
    free(sublayers);
}

static void derive_tensors(struct derivation *derivation)
{
    size_t layers = derivation->source->config.layer_count + 1;
    struct inventory *inventory = derivation->inventory;
    OWNED_MEMORY struct list *heads = memory_create(layers, sizeof *heads);
    OWNED_MEMORY struct list *groups = memory_create(layers, sizeof *groups);
    OWNED_MEMORY struct list *fused = memory_create(layers, sizeof *fused);
    OWNED_MEMORY size_t *attention = memory_create(layers, sizeof *attention);
    OWNED_MEMORY size_t *ffn = memory_create(layers, sizeof *ffn);
    derivation->heads = heads;
    derivation->groups = groups;
    derivation->fused = fused;
    derivation->attention = attention;
    derivation->ffn = ffn;
    index_sublayers(derivation);
    for (size_t layer = 0; layer < layers - 1; layer++) {
        if (attention[layer] != SIZE_MAX) {
            list_heads(derivation, layer);
        }
    }
    architecture_visit(&inventory->config, count_tensor, &derivation->capacity);
    derivation->capacity += derivation->source->tensor_count;
    inventory->tensors =
        arena_allocate(inventory->arena, derivation->capacity + 1, sizeof *inventory->tensors);
    architecture_visit(&inventory->config, add_tensor, derivation);
    add_others(derivation);
    inventory_sort_tensors(inventory);
}

struct inventory *plan_apply(const struct plan *plan, const struct inventory *inventory, struct error *error)
{
    if (!plan_check_widths(plan, &inventory->config, error)) {
        return NULL;
    }
    struct inventory *derived = memory_create(1, sizeof *derived);
    derived->arena = arena_create(0);
    derived->files = inventory->files;
    derived->file_count = inventory->file_count;
    plan_derive_config(plan, &inventory->config, &derived->config);
    derived->config_json = derive_json(plan, inventory);
    struct derivation derivation = {.plan = plan, .source = inventory, .inventory = derived};
    derive_tensors(&derivation);
    return derived;
}

/* ---- size -------------------------------------------------------------------------------------------------------- */

/* Tensors of removed sublayers count for nothing. */
void plan_measure_widths(const struct plan *plan, const struct inventory *inventory, size_t element_bytes,
                         struct plan_size *size)
{
    struct inventory *derived = plan_apply(plan, inventory, NULL);
    CHECK(derived != NULL); /* whoever fills widths checks them */
    uint64_t kept = 0;
    size->parameter_count = size->weight_bytes = 0;
    for (size_t i = 0; i < derived->tensor_count; i++) {
        const struct inventory_tensor *tensor = &derived->tensors[i];
        struct tensor_owner owner;
        bool is_owned = plan_find_owner(&derived->config, tensor->name, &owner);
        uint64_t elements = columns_of(tensor) * (tensor->rank > 0 ? tensor->shape[0] : 1);
        if (is_owned && plan->removed[owner.sublayer]) {
            continue;
        }
        bool is_added =
            tensor->edit != NULL && tensor->edit->is_zero; /* a bias: new, so not of what could go */
        kept += is_owned && owner.role == TENSOR_ROLE_WEIGHT && !tensor->is_extra && !is_added ? elements : 0;
        size->parameter_count += plan_is_counted(&derived->config, tensor) ? elements : 0;
        size->weight_bytes +=
            elements * (element_bytes > 0 ? element_bytes : dtype_bytes(inventory_kept_dtype(tensor)));
    }
    size->prunable_count = kept;
    size->removed_prunable_count = kept < inventory->prunable_count ? inventory->prunable_count - kept : 0;
    inventory_destroy(derived);
}
