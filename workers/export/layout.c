/*
 * workers/export/layout.c: what becomes of every tensor.
 *
 * uniform, heterogeneous: surviving sublayers are packed into blocks and renumbered; a block's attention and FFN may come
 * from different layers. uniform needs both in every block, and then a stock config expresses it: what differed from layer to
 * layer by a rule over the layers' numbers (windows, experts) is listed layer by layer, since the numbers have changed.
 * identity: nothing moves; the output projections (and their bias) of a removed sublayer become zero, so the sublayer adds
 * nothing. A norm after it (Gemma) makes zero of zero.
 *
 * An encoder that normalises after the sum cannot be pruned: there a sublayer that adds nothing still changes its input.
 */
#include "workers/export/export.h"

#include "base/check.h"
#include "base/memory.h"
#include "base/text.h"
#include "workers/model/architecture.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const layout_names[] = {"auto", "uniform", "identity", "heterogeneous"};

bool export_layout_parse(const char *text, enum export_layout *ret_layout)
{
    for (size_t i = 0; i < sizeof layout_names / sizeof layout_names[0]; i++) {
        if (strcmp(text, layout_names[i]) == 0) {
            *ret_layout = (enum export_layout)i;
            return true;
        }
    }
    return false;
}

const char *export_layout_name(enum export_layout layout)
{
    return layout_names[layout];
}

static const char *const dtype_names[] = {
    [DTYPE_F32] = "float32", [DTYPE_F16] = "float16", [DTYPE_BF16] = "bfloat16"};

bool export_dtype_parse(const char *text, bool *ret_keep, enum dtype *ret_dtype)
{
    *ret_keep = strcmp(text, "keep") == 0;
    *ret_dtype = DTYPE_F32;
    for (size_t i = 0; i < sizeof dtype_names / sizeof dtype_names[0] && !*ret_keep; i++) {
        if (strcmp(text, dtype_names[i]) == 0) {
            *ret_dtype = (enum dtype)i;
            return true;
        }
    }
    return *ret_keep;
}

/* The block that a surviving sublayer goes to. */
static size_t find_block(const struct plan_blocks *blocks, size_t sublayer)
{
    for (size_t i = 0; i < blocks->count; i++) {
        if (blocks->blocks[i].attention == (long)sublayer || blocks->blocks[i].ffn == (long)sublayer) {
            return i;
        }
    }
    CHECK(!"a surviving sublayer is in a block");
    return 0;
}

static bool is_output_projection(const struct model_config *config, const char *suffix)
{
    enum weight_role role = WEIGHT_EMBEDDING;
    size_t expert = 0;
    return architecture_find_role(config, suffix, &role, &expert) && architecture_role_is_output(role);
}

static void draft_tensor(struct export_draft *draft, const struct plan *plan,
                         const struct inventory *inventory, const struct plan_blocks *blocks, size_t index,
                         const struct export_options *options)
{
    const struct inventory_tensor *source = &inventory->tensors[index];
    struct export_tensor tensor = {.source = index, .element_count = 1};
    struct tensor_owner owner;
    bool is_owned = plan_find_owner(&inventory->config, source->name, &owner);
    bool is_removed = is_owned && plan->removed[owner.sublayer];
    if (draft->layout == EXPORT_IDENTITY || !is_owned) {
        tensor.is_zero = is_removed && is_output_projection(&inventory->config, owner.suffix);
        tensor.name = memory_copy_text(source->name);
    } else if (is_removed) {
        return;
    } else {
        struct text name = {0};
        text_append_format(&name, "%s%s%zu.%s", inventory->config.prefix,
                           architecture_of(&inventory->config)->layers, find_block(blocks, owner.sublayer),
                           owner.suffix);
        tensor.name = text_take(&name);
        text_finish(&name);
    }
    for (size_t i = 0; i < source->rank; i++) {
        tensor.element_count *= source->shape[i];
    }
    tensor.dtype = options->is_dtype_kept ? inventory_kept_dtype(source) : options->dtype;
    tensor.bytes = tensor.element_count * dtype_bytes(tensor.dtype);
    draft->weight_bytes += tensor.bytes;
    draft->parameter_count += plan_is_counted(&inventory->config, source) ? tensor.element_count : 0;
    draft->tensors[draft->tensor_count++] = tensor;
}

static int compare_tensors(const void *left, const void *right)
{
    return strcmp(((const struct export_tensor *)left)->name, ((const struct export_tensor *)right)->name);
}

static json_t *format_layers(const struct plan_blocks *blocks)
{
    json_t *layers = json_array();
    for (size_t i = 0; i < blocks->count; i++) {
        json_t *layer = json_object();
        json_put(layer, "attention", json_boolean(blocks->blocks[i].attention >= 0));
        json_put(layer, "ffn", json_boolean(blocks->blocks[i].ffn >= 0));
        CHECK(json_array_append_new(layers, layer) == 0);
    }
    return layers;
}

/* The layer whose attributes (window, rotation) a block has: its attention's (design section 3). */
static const struct model_layer *block_layer(const struct model_config *config,
                                             const struct plan_block *block,
                                             const struct plan_sublayer *sublayers)
{
    return &config->layers[sublayers[block->attention >= 0 ? block->attention : block->ffn].layer];
}

/* What config.json derives from layers' numbers becomes lists over the blocks. */
static void list_windows(json_t *config, const struct inventory *inventory, const struct plan_blocks *blocks,
                         const struct plan_sublayer *sublayers)
{
    bool is_listed = json_is_array(json_object_get(config, "layer_types"));
    if (!is_listed && !model_config_lists_windows(&inventory->config)) {
        return;
    }
    json_t *types = json_array();
    size_t full_count = 0, sliding_count = 0;
    bool is_full_first = true;
    for (size_t i = 0; i < blocks->count; i++) {
        bool is_sliding = block_layer(&inventory->config, &blocks->blocks[i], sublayers)->window_tokens > 0;
        is_full_first = is_full_first && (is_sliding || sliding_count == 0);
        full_count += is_sliding ? 0 : 1;
        sliding_count += is_sliding ? 1 : 0;
        CHECK(json_array_append_new(types,
                                    json_string(is_sliding ? "sliding_attention" : "full_attention")) == 0);
    }
    json_put(config, "layer_types", types);
    /* Loaders that know no layer_types read the number of the first layer with a window. */
    if (json_object_get(config, "max_window_layers") != NULL && is_full_first) {
        json_put_i64(config, "max_window_layers", (int64_t)full_count);
    }
}

static void list_plain_layers(json_t *config, const struct inventory *inventory,
                              const struct plan_blocks *blocks, const struct plan_sublayer *sublayers)
{
    if (!model_config_lists_plain_layers(&inventory->config)) {
        return;
    }
    json_t *plain = json_array();
    for (size_t i = 0; i < blocks->count; i++) {
        long ffn = blocks->blocks[i].ffn;
        if (ffn >= 0 && inventory->config.layers[sublayers[ffn].layer].expert_count == 0) {
            CHECK(json_array_append_new(plain, json_integer((json_int_t)i)) == 0);
        }
    }
    json_put(config, "mlp_only_layers", plain);
    json_put_i64(config, "decoder_sparse_step", 1);
}

static void set_architecture(json_t *config, bool is_heterogeneous)
{
    json_put_text(config, "model_type", is_heterogeneous ? "pruned_llama" : "llama");
    json_t *architectures = json_array();
    CHECK(json_array_append_new(architectures, json_string(is_heterogeneous ? "PrunedLlamaForCausalLM"
                                                                            : "LlamaForCausalLM")) == 0);
    json_put(config, "architectures", architectures);
    if (!is_heterogeneous) {
        (void)json_object_del(config, "auto_map");
        return;
    }
    json_t *map = json_object();
    json_put_text(map, "AutoConfig", "configuration_pruned_llama.PrunedLlamaConfig");
    json_put_text(map, "AutoModel", "modeling_pruned_llama.PrunedLlamaModel");
    json_put_text(map, "AutoModelForCausalLM", "modeling_pruned_llama.PrunedLlamaForCausalLM");
    json_put(config, "auto_map", map);
}

static json_t *draft_config(const struct export_draft *draft, const struct inventory *inventory,
                            const struct plan_blocks *blocks, const struct export_options *options)
{
    json_t *config = json_deep_copy(inventory->config_json);
    json_t *pruning = options->pruning != NULL ? json_deep_copy(options->pruning) : json_object();
    json_put_text(pruning, "layout", export_layout_name(draft->layout));
    if (draft->layout != EXPORT_IDENTITY) {
        struct plan_sublayer *sublayers = NULL;
        (void)plan_list_sublayers(&inventory->config, &sublayers);
        list_windows(config, inventory, blocks, sublayers);
        list_plain_layers(config, inventory, blocks, sublayers);
        free(sublayers);
        json_put_i64(config, model_config_layer_count_key(&inventory->config), (int64_t)blocks->count);
        bool is_heterogeneous = draft->layout == EXPORT_HETEROGENEOUS;
        bool was_heterogeneous = strcmp(inventory->config.model_type, "pruned_llama") == 0;
        if (is_heterogeneous || was_heterogeneous) {
            set_architecture(config, is_heterogeneous);
        }
        if (is_heterogeneous) {
            json_put(pruning, "layers", format_layers(blocks));
            /* Said, since what is assumed where they are absent depends on the family. */
            json_put_i64(config, "num_key_value_heads", (int64_t)inventory->config.kv_head_count);
            json_put_i64(config, "max_position_embeddings", (int64_t)inventory->config.context_tokens);
            (void)json_object_del(config, "sliding_window");
        }
    }
    json_put(config, "pruning", pruning);
    if (!options->is_dtype_kept) {
        const char *key = json_object_get(config, "dtype") != NULL ? "dtype" : "torch_dtype";
        json_put_text(config, key, dtype_names[options->dtype]);
    }
    return config;
}

/* What our modelling file computes: Llama's arithmetic, which is Mistral's as well where it has no window. */
static bool is_llama_arithmetic(const struct model_config *config)
{
    const char *family = config->model_type;
    return strcmp(family, "llama") == 0 || strcmp(family, "pruned_llama") == 0 ||
           (strcmp(family, "mistral") == 0 && config->layers[0].window_tokens == 0);
}

bool export_check_layout(const struct model_config *config, enum export_layout layout, struct error *error)
{
    if (layout == EXPORT_HETEROGENEOUS && !is_llama_arithmetic(config)) {
        return error_set_field(
            error, ERROR_UNSUPPORTED, "/output/layout",
            "layout heterogeneous is for Llama-type models; this one is %s; ask for identity or auto",
            config->model_type);
    }
    return true;
}

static bool choose_layout(const struct plan *plan, const struct inventory *inventory,
                          const struct plan_blocks *blocks, const struct export_options *options,
                          enum export_layout *ret_layout, struct error *error)
{
    enum export_layout layout = options->layout;
    const struct architecture *row = architecture_of(&inventory->config);
    const char *family = row->model_type;
    bool has_modelling_file = is_llama_arithmetic(&inventory->config);
    if (plan->removed_count > 0 && row->norm_placement == NORM_AFTER) {
        return error_set_field(
            error, ERROR_UNSUPPORTED, "/output/layout",
            "no layout can express a pruned model of type %s, which normalises after each sublayer", family);
    }
    if (layout == EXPORT_AUTO) {
        layout = blocks->is_uniform                         ? EXPORT_UNIFORM
                 : has_modelling_file && !options->is_stock ? EXPORT_HETEROGENEOUS
                                                            : EXPORT_IDENTITY;
    }
    if (!export_check_layout(&inventory->config, layout, error)) {
        return false;
    }
    size_t incomplete = 0;
    for (size_t i = 0; i < blocks->count; i++) {
        incomplete += blocks->blocks[i].attention < 0 || blocks->blocks[i].ffn < 0 ? 1 : 0;
    }
    if (layout == EXPORT_UNIFORM && !blocks->is_uniform) {
        return error_set_field(
            error, ERROR_UNSUPPORTED, "/output/layout",
            "layout uniform cannot express this plan: %zu of %zu blocks lack attention or FFN; ask for "
            "%sidentity or auto, or set target.require_packable",
            incomplete, blocks->count, has_modelling_file ? "heterogeneous, " : "");
    }
    if (layout == EXPORT_IDENTITY && plan->sublayer_count != 2 * inventory->config.layer_count) {
        return error_set_field(
            error, ERROR_UNSUPPORTED, "/output/layout",
            "layout identity needs a source whose layers all have attention and FFN; this one has %zu "
            "sublayers in %zu layers",
            plan->sublayer_count, inventory->config.layer_count);
    }
    *ret_layout = layout;
    return true;
}

bool export_draft_make(const struct plan *plan, const struct inventory *inventory,
                       const struct export_options *options, struct export_draft *ret_draft,
                       struct error *error)
{
    FINISHED(plan_blocks) blocks = {0};
    plan_pack(plan, inventory, &blocks);
    struct export_draft draft = {0};
    if (!choose_layout(plan, inventory, &blocks, options, &draft.layout, error)) {
        return false;
    }
    draft.block_count = draft.layout == EXPORT_IDENTITY ? inventory->config.layer_count : blocks.count;
    draft.tensors = memory_create(inventory->tensor_count + 1, sizeof *draft.tensors);
    for (size_t i = 0; i < inventory->tensor_count; i++) {
        draft_tensor(&draft, plan, inventory, &blocks, i, options);
    }
    qsort(draft.tensors, draft.tensor_count, sizeof *draft.tensors, compare_tensors);
    draft.config = draft_config(&draft, inventory, &blocks, options);
    bool is_same_dtype = true;
    for (size_t i = 0; i < draft.tensor_count; i++) {
        is_same_dtype =
            is_same_dtype && draft.tensors[i].dtype == inventory->tensors[draft.tensors[i].source].dtype;
    }
    draft.is_verbatim = plan->removed_count == 0 && is_same_dtype && inventory_gguf_name(inventory) == NULL;
    *ret_draft = draft;
    return true;
}

void export_draft_finish(struct export_draft *draft)
{
    for (size_t i = 0; i < draft->tensor_count; i++) {
        free(draft->tensors[i].name);
    }
    free(draft->tensors);
    json_decref(draft->config);
    *draft = (struct export_draft){0};
}

json_t *export_loaders(const struct export_draft *draft)
{
    json_t *loaders = json_array();
    json_t *item = json_object();
    bool is_remote = draft->layout == EXPORT_HETEROGENEOUS;
    const char *family = json_string_value(json_object_get(draft->config, "model_type"));
    bool is_encoder =
        family != NULL && architecture_find(family) != NULL && architecture_find(family)->is_encoder;
    json_put_text(item, "loader", "transformers");
    json_put_text(item, "line",
                  is_remote    ? "AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)"
                  : is_encoder ? "AutoModel.from_pretrained(folder)"
                               : "AutoModelForCausalLM.from_pretrained(folder)");
    CHECK(json_array_append_new(loaders, item) == 0);
    if (!is_remote && !is_encoder) {
        item = json_object();
        json_put_text(item, "loader", "vllm");
        json_put_text(item, "line", "vllm serve FOLDER");
        CHECK(json_array_append_new(loaders, item) == 0);
    }
    item = json_object();
    json_put_text(item, "loader", "pruned");
    json_put_text(item, "line", "{\"type\": \"evaluation\", \"model\": \"FOLDER\", \"evaluation\": {...}}");
    CHECK(json_array_append_new(loaders, item) == 0);
    return loaders;
}
