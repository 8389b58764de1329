/*
 * workers/export/layout_config.c: config.json of what is written. It is the source's, with what a plan changed: the number of
 * layers and what a config derives from their numbers (windows, experts), which is listed layer by layer since the numbers have
 * changed; sizes, where they differ from what the source's config says; and for a heterogeneous result what is left of each block
 * (workers/model/config.h).
 */
#include "workers/export/layout_internal.h"

#include "base/check.h"
#include "base/memory.h"
#include "base/text.h"
#include "workers/model/architecture.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct drafter {
    const struct layout *layout;
    const struct model_config *config; /* of what is written, but for its number of layers */
    json_t *json;
};

static const struct model_layer *attention_of(const struct drafter *drafter, size_t block)
{
    return layout_attention(drafter->layout, block);
}

static const struct model_layer *ffn_of(const struct drafter *drafter, size_t block)
{
    return layout_ffn(drafter->layout, block);
}

/* ---- lists by layer --------------------------------------------------------------------------------------------------- */

/* The layer whose window and rotation a block has: its attention's (design section 3). A block without one is given those of the
 * attention before it, else of the first: loaders count caches and masks by kind of layer, and so no kind is there that no
 * attention has. NULL: there is no attention at all. */
static const struct model_layer *kind_of(const struct drafter *drafter, size_t block)
{
    for (size_t i = block + 1; i-- > 0;) {
        if (attention_of(drafter, i) != NULL) {
            return attention_of(drafter, i);
        }
    }
    for (size_t i = block; i < drafter->layout->block_count; i++) {
        if (attention_of(drafter, i) != NULL) {
            return attention_of(drafter, i);
        }
    }
    return NULL;
}

static void list_windows(const struct drafter *drafter)
{
    json_t *json = drafter->json;
    bool is_listed = json_is_array(json_object_get(json, "layer_types"));
    if (!is_listed && !model_config_lists_windows(drafter->config)) {
        return;
    }
    json_t *types = json_array();
    size_t full_count = 0, sliding_count = 0;
    bool is_full_first = true;
    for (size_t i = 0; i < drafter->layout->block_count; i++) {
        const struct model_layer *kind = kind_of(drafter, i);
        bool is_sliding = kind != NULL && kind->window_tokens > 0;
        is_full_first = is_full_first && (is_sliding || sliding_count == 0);
        full_count += is_sliding ? 0 : 1;
        sliding_count += is_sliding ? 1 : 0;
        CHECK(json_array_append_new(types,
                                    json_string(is_sliding ? "sliding_attention" : "full_attention")) == 0);
    }
    json_put(json, "layer_types", types);
    /* Loaders that know no layer_types read the number of the first layer with a window. */
    if (json_object_get(json, "max_window_layers") != NULL && is_full_first) {
        json_put_i64(json, "max_window_layers", (int64_t)full_count);
    }
}

static void list_plain_layers(const struct drafter *drafter)
{
    if (!model_config_lists_plain_layers(drafter->config)) {
        return;
    }
    json_t *plain = json_array();
    for (size_t i = 0; i < drafter->layout->block_count; i++) {
        const struct model_layer *ffn = ffn_of(drafter, i);
        if (ffn != NULL && ffn->expert_count == 0) {
            CHECK(json_array_append_new(plain, json_integer((json_int_t)i)) == 0);
        }
    }
    json_put(drafter->json, "mlp_only_layers", plain);
    json_put_i64(drafter->json, "decoder_sparse_step", 1);
}

/* ---- sizes ------------------------------------------------------------------------------------------------------------ */

static void put_size(const struct drafter *drafter, const char *key, size_t value, size_t said)
{
    if (key != NULL && value != said && value > 0) {
        json_put_i64(drafter->json, key, (int64_t)value);
    }
}

static void put_experts(const struct drafter *drafter, const struct model_layer *layer,
                        const struct model_config *said, const char *width_key)
{
    const struct model_layer *before = NULL;
    for (size_t i = 0; i < said->layer_count && before == NULL; i++) {
        before = said->layers[i].expert_count > 0 ? &said->layers[i] : NULL;
    }
    if (before == NULL) {
        return;
    }
    const char *key =
        json_object_get(drafter->json, "num_local_experts") != NULL ? "num_local_experts" : "num_experts";
    put_size(drafter, key, layer->expert_count, before->expert_count);
    put_size(drafter, "num_experts_per_tok", layer->active_expert_count, before->active_expert_count);
    put_size(drafter, width_key, layer->intermediate_size, before->intermediate_size);
}

static void put_bias(const struct drafter *drafter, const char *key, bool value, bool said)
{
    if (key != NULL && value != said) {
        json_put(drafter->json, key, json_boolean(value));
    }
}

static void put_widths(const struct drafter *drafter, const struct model_config *said)
{
    const struct export_widths *widths = &drafter->layout->widths;
    struct model_config_keys keys;
    model_config_find_keys(drafter->config, &keys);
    put_size(drafter, keys.heads, widths->head_count, said->head_count);
    put_size(drafter, keys.kv_heads, widths->kv_head_count, said->kv_head_count);
    if (widths->ffn.intermediate_size > 0) {
        put_size(drafter, keys.ffn, widths->ffn.intermediate_size, said->intermediate_size);
    }
    if (widths->experts.expert_count > 0) {
        put_experts(drafter, &widths->experts, said, keys.expert_ffn);
    }
    /* Said wherever hidden_size over heads would give another one. */
    size_t heads = widths->head_count > 0 ? widths->head_count : said->head_count;
    const json_t *stated = json_object_get(drafter->json, "head_dim");
    bool is_assumed = stated == NULL || json_is_null(stated);
    size_t assumed =
        is_assumed && drafter->config->hidden_size == said->hidden_size && heads == said->head_count
            ? said->head_size
            : 0;
    put_size(drafter, keys.head_size, drafter->config->head_size, is_assumed ? assumed : said->head_size);
}

static void put_hidden(const struct drafter *drafter, const struct model_config *said)
{
    struct model_config_keys keys;
    model_config_find_keys(drafter->config, &keys);
    put_size(drafter, keys.hidden, drafter->config->hidden_size, said->hidden_size);
    if (json_object_get(drafter->json, "word_embed_proj_dim") != NULL) {
        put_size(drafter, "word_embed_proj_dim", drafter->config->hidden_size, said->hidden_size);
    }
    if (drafter->config->hidden_size != said->hidden_size) {
        put_size(drafter, keys.head_size, drafter->config->head_size, 0);
    }
}

/* ---- heterogeneous ---------------------------------------------------------------------------------------------------- */

json_t *layout_format_layers(const struct layout *layout)
{
    json_t *layers = json_array();
    for (size_t i = 0; i < layout->block_count; i++) {
        const struct model_layer *attention = layout_attention(layout, i), *ffn = layout_ffn(layout, i);
        json_t *layer = json_object(), *heads = json_object(), *channels = json_object();
        if (attention != NULL) {
            json_put_i64(heads, "num_attention_heads", (int64_t)attention->head_count);
            json_put_i64(heads, "num_key_value_heads", (int64_t)attention->kv_head_count);
        }
        if (ffn != NULL && ffn->expert_count > 0) {
            json_put_i64(channels, "num_experts", (int64_t)ffn->expert_count);
            json_put_i64(channels, "num_experts_per_tok", (int64_t)ffn->active_expert_count);
        }
        if (ffn != NULL) {
            json_put_i64(channels, "intermediate_size", (int64_t)ffn->intermediate_size);
        }
        json_put(layer, "attention", attention != NULL ? json_incref(heads) : json_false());
        json_put(layer, "ffn", ffn != NULL ? json_incref(channels) : json_false());
        json_decref(heads);
        json_decref(channels);
        CHECK(json_array_append_new(layers, layer) == 0);
    }
    return layers;
}

static void put_map(json_t *map, const char *key, const char *stem, const char *ending)
{
    FINISHED(text) name = {0};
    text_append_format(&name, "modeling_pruned.Pruned%s%s", stem, ending);
    json_put_text(map, key, name.bytes);
}

static void set_architecture(const struct drafter *drafter, bool is_heterogeneous)
{
    const struct architecture *row = architecture_of(drafter->config);
    FINISHED(text) type = {0};
    FINISHED(text) class_name = {0};
    FINISHED(text) stem = {0};
    text_append(&stem, row->class_name);
    char *ending =
        strstr(stem.bytes, text_ends_with(row->class_name, "LMHeadModel") ? "LMHeadModel" : "ForCausalLM");
    CHECK(ending != NULL || !is_heterogeneous);
    if (ending != NULL) {
        *ending = '\0';
    }
    text_append_format(&type, "%s%s", is_heterogeneous ? MODEL_HETEROGENEOUS_PREFIX : "", row->model_type);
    if (is_heterogeneous) {
        text_append_format(&class_name, "Pruned%sForCausalLM", stem.bytes);
    } else {
        text_append(&class_name, row->class_name);
    }
    json_put_text(drafter->json, "model_type", type.bytes);
    json_t *architectures = json_array();
    CHECK(json_array_append_new(architectures, json_string(class_name.bytes)) == 0);
    json_put(drafter->json, "architectures", architectures);
    if (!is_heterogeneous) {
        (void)json_object_del(drafter->json, "auto_map");
        return;
    }
    json_t *map = json_object();
    put_map(map, "AutoConfig", stem.bytes, "Config");
    put_map(map, "AutoModel", stem.bytes, "Model");
    put_map(map, "AutoModelForCausalLM", stem.bytes, "ForCausalLM");
    json_put(drafter->json, "auto_map", map);
}

bool layout_must_divide(const struct model_config *config)
{
    static const char *const types[] = {"llama", "gemma2", "gemma3_text"};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (strcmp(config->model_type, types[i]) == 0) {
            return true;
        }
    }
    return false;
}

static void put_heterogeneous(const struct drafter *drafter, json_t *pruning)
{
    /* Every layer says its own; one divides whatever is left of the hidden size. */
    if (layout_must_divide(drafter->config) &&
        drafter->config->hidden_size % drafter->layout->said->head_count != 0) {
        json_put_i64(drafter->json, "num_attention_heads", 1);
        json_put_i64(drafter->json, "num_key_value_heads", 1);
        json_put_i64(drafter->json, "head_dim", (int64_t)drafter->config->head_size);
    }
    struct model_config_keys keys;
    bool has_attention = false;
    model_config_find_keys(drafter->config, &keys);
    json_put(pruning, "layers", layout_format_layers(drafter->layout));
    if (keys.head_size == NULL) {
        json_put_i64(pruning, "head_dim", (int64_t)drafter->config->head_size);
    }
    for (size_t i = 0; i < drafter->layout->block_count; i++) {
        has_attention = has_attention || attention_of(drafter, i) != NULL;
    }
    if (!has_attention) {
        json_put(drafter->json, "use_cache", json_false());
    }
}

/* ---- the whole -------------------------------------------------------------------------------------------------------- */

static const char *const dtype_names[] = {
    [DTYPE_F32] = "float32", [DTYPE_F16] = "float16", [DTYPE_BF16] = "bfloat16"};

const char *layout_dtype_name(enum dtype dtype)
{
    CHECK(dtype == DTYPE_F32 || dtype == DTYPE_F16 || dtype == DTYPE_BF16);
    return dtype_names[dtype];
}

json_t *layout_draft_config(const struct layout *layout, const struct inventory *inventory,
                            const struct export_options *options)
{
    struct drafter drafter = {
        .layout = layout, .config = &inventory->config, .json = json_deep_copy(inventory->config_json)};
    const struct model_config *said = layout->said;
    json_t *pruning = options->pruning != NULL ? json_deep_copy(options->pruning) : json_object();
    bool is_heterogeneous = export_is_remote(layout->kind);
    struct model_config_keys keys;
    model_config_find_keys(drafter.config, &keys);
    json_put_text(pruning, "layout", export_layout_name(layout->kind));
    put_hidden(&drafter, said);
    put_bias(&drafter, keys.attention_bias, drafter.config->has_o_bias, said->has_o_bias);
    put_bias(&drafter, keys.ffn_bias, drafter.config->has_ffn_bias, said->has_ffn_bias);
    if (layout->kind != EXPORT_IDENTITY) {
        list_windows(&drafter);
        list_plain_layers(&drafter);
        json_put_i64(drafter.json, model_config_layer_count_key(drafter.config),
                     (int64_t)layout->block_count);
    }
    if (is_heterogeneous) {
        put_heterogeneous(&drafter, pruning);
    } else {
        put_widths(&drafter, said);
    }
    if (is_heterogeneous || drafter.config->is_heterogeneous) {
        set_architecture(&drafter, is_heterogeneous);
    }
    if (layout->kind == EXPORT_DECILM) {
        layout_put_decilm(layout, drafter.json);
    }
    json_put(drafter.json, "pruning", pruning);
    if (!options->is_dtype_kept) {
        const char *key = json_object_get(drafter.json, "dtype") != NULL ? "dtype" : "torch_dtype";
        json_put_text(drafter.json, key, layout_dtype_name(options->dtype));
    }
    return drafter.json;
}
