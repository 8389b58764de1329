/*
 * workers/model/config_layers.c: what may differ from layer to layer: windows and the rotation that goes with them,
 * experts, and in our own exports which sublayers are there.
 */
#include "workers/model/config_internal.h"

#include <string.h>

#define WINDOW_MAX ((size_t)1 << 24)

/* ---- windows --------------------------------------------------------------------------------- */

struct windows {
    size_t tokens;       /* 0: no layer has one */
    size_t first_layer;  /* WINDOW_FROM_LAYER */
    size_t pattern;      /* WINDOW_PATTERN: layer n-1, 2n-1, ... see everything */
    const json_t *types; /* layer_types, or NULL */
};

static bool has_window_by_rule(const struct config_family *family, const struct windows *windows,
                               size_t layer)
{
    switch (family->windows) {
    case WINDOW_NONE:
        return false;
    case WINDOW_EVERYWHERE:
        return windows->tokens > 0;
    case WINDOW_FROM_LAYER:
        return windows->tokens > 0 && layer >= windows->first_layer;
    case WINDOW_PATTERN:
        break;
    }
    return (layer + 1) % windows->pattern != 0;
}

/* layer_types names every layer's kind. Where the family has one kind only, the names must agree with it. */
static bool check_types(struct config_parser *parser, const struct windows *windows)
{
    const struct config_family *family = parser->family;
    bool is_free = family->windows == WINDOW_FROM_LAYER || family->windows == WINDOW_PATTERN;
    if (!json_is_array(windows->types) || json_array_size(windows->types) != parser->config->layer_count) {
        return config_fault(parser, json_is_array(windows->types) ? ERROR_OUT_OF_RANGE : ERROR_WRONG_TYPE,
                            "layer_types", "must list the type of each of %zu layers",
                            parser->config->layer_count);
    }
    for (size_t i = 0; i < parser->config->layer_count; i++) {
        const char *name = json_string_value(json_array_get(windows->types, i));
        bool is_sliding = name != NULL && strcmp(name, "sliding_attention") == 0;
        if (!is_sliding && (name == NULL || strcmp(name, "full_attention") != 0)) {
            return config_fault(parser, ERROR_UNSUPPORTED, "layer_types",
                                "has \"%.40s\" for layer %zu; full_attention and sliding_attention are known",
                                name != NULL ? name : "(not a string)", i);
        }
        if (!is_free && is_sliding != has_window_by_rule(family, windows, i)) {
            return config_fault(parser, ERROR_UNSUPPORTED, "layer_types",
                                "has \"%s\" for layer %zu; in models of type %s all layers %s", name, i,
                                family->model_type,
                                windows->tokens > 0 ? "share sliding_window" : "see everything");
        }
    }
    return true;
}

/* Families without windows may carry the key of others while it changes nothing. */
static void refuse_window(struct config_parser *parser)
{
    const json_t *value = config_member(parser, "sliding_window");
    bool is_used = json_is_true(config_member(parser, "use_sliding_window"));
    bool is_unused = json_is_false(config_member(parser, "use_sliding_window"));
    bool is_narrow = value != NULL && json_integer_value(value) < (json_int_t)parser->config->context_tokens;
    if (is_used || (is_narrow && !is_unused)) {
        (void)config_fault(parser, ERROR_UNSUPPORTED, "sliding_window",
                           "is shorter than the context; models of type %s are known without windows only",
                           parser->family->model_type);
    }
}

static bool read_windows(struct config_parser *parser, struct windows *ret_windows)
{
    const struct config_family *family = parser->family;
    struct windows windows = {.first_layer = 28, .types = config_member(parser, "layer_types")};
    bool is_used = !family->is_window_optional;
    if (family->windows == WINDOW_NONE) {
        refuse_window(parser);
    } else {
        if (family->is_window_optional) {
            (void)config_read_bool(parser, "use_sliding_window", &is_used);
        }
        windows.tokens = is_used && !config_has_null(parser, "sliding_window") ? family->window_tokens : 0;
        if (is_used) {
            (void)config_read_size(parser, "sliding_window", false, 1, WINDOW_MAX, &windows.tokens);
        }
        (void)config_read_size(parser, "max_window_layers", false, 0, (size_t)1 << 20, &windows.first_layer);
        windows.pattern = family->window_pattern;
        if (family->local_rope_base > 0.0) {
            (void)config_read_size(parser, "sliding_window_pattern", false, 1, MODEL_LAYERS_MAX,
                                   &windows.pattern);
        }
    }
    *ret_windows = windows;
    return windows.types == NULL || check_types(parser, &windows);
}

static void set_windows(struct config_parser *parser)
{
    struct windows windows;
    struct model_config *config = parser->config;
    if (!read_windows(parser, &windows)) {
        return;
    }
    for (size_t i = 0; i < config->layer_count; i++) {
        const char *type = json_string_value(json_array_get(windows.types, i));
        bool is_sliding = type != NULL ? strcmp(type, "sliding_attention") == 0
                                       : has_window_by_rule(parser->family, &windows, i);
        if (is_sliding && windows.tokens == 0) {
            (void)config_fault(parser, ERROR_MISSING_FIELD, "sliding_window",
                               "is missing or switched off, and layer %zu attends to a window", i);
            return;
        }
        config->layers[i].window_tokens = is_sliding ? windows.tokens : 0;
        config->layers[i].rope = is_sliding && parser->family->local_rope_base > 0.0 ? 1 : 0;
    }
}

/* ---- experts --------------------------------------------------------------------------------- */

static bool is_plain(struct config_parser *parser, size_t layer, size_t step)
{
    const json_t *plain = config_member(parser, "mlp_only_layers");
    for (size_t i = 0; i < json_array_size(plain); i++) {
        if (json_integer_value(json_array_get(plain, i)) == (json_int_t)layer) {
            return true;
        }
    }
    return (layer + 1) % step != 0;
}

static bool check_plain_layers(struct config_parser *parser)
{
    const json_t *plain = config_member(parser, "mlp_only_layers");
    bool is_good = plain == NULL || json_is_array(plain);
    for (size_t i = 0; i < json_array_size(plain); i++) {
        is_good = is_good && json_is_integer(json_array_get(plain, i));
    }
    return is_good ||
           config_fault(parser, ERROR_WRONG_TYPE, "mlp_only_layers", "must be a list of layer numbers");
}

static void set_experts(struct config_parser *parser)
{
    const struct config_family *family = parser->family;
    struct model_config *config = parser->config;
    size_t count = family->expert_count, active = family->active_expert_count,
           size = config->intermediate_size, step = 1;
    bool is_local = config_read_size(parser, "num_local_experts", false, 0, MODEL_EXPERTS_MAX, &count);
    size_t other = count;
    if (config_read_size(parser, "num_experts", false, 0, MODEL_EXPERTS_MAX, &other) && is_local &&
        other != count) {
        (void)config_fault(parser, ERROR_CONFIG_MISMATCH, "num_experts",
                           "is %zu, and num_local_experts is %zu", other, count);
    }
    count = other;
    (void)config_read_size(parser, "num_experts_per_tok", false, 1, MODEL_EXPERTS_MAX, &active);
    config->normalises_experts = !family->is_expert_sized_apart;
    if (family->is_expert_sized_apart) {
        size = 768;
        (void)config_read_size(parser, "moe_intermediate_size", false, 1, (size_t)1 << 20, &size);
        (void)config_read_size(parser, "decoder_sparse_step", false, 1, MODEL_LAYERS_MAX, &step);
        (void)config_read_bool(parser, "norm_topk_prob", &config->normalises_experts);
        if (!check_plain_layers(parser)) {
            return;
        }
    }
    if (active > count && count > 0) {
        (void)config_fault(parser, ERROR_OUT_OF_RANGE, "num_experts_per_tok", "is %zu of %zu experts", active,
                           count);
        return;
    }
    if (count == 0 && !family->is_expert_sized_apart) {
        (void)config_fault(parser, ERROR_OUT_OF_RANGE, "num_local_experts", "is 0");
        return;
    }
    for (size_t i = 0; i < config->layer_count && count > 0; i++) {
        if (!is_plain(parser, i, step)) {
            config->layers[i].expert_count = count;
            config->layers[i].active_expert_count = active;
            config->layers[i].intermediate_size = size;
        }
    }
}

/* ---- what is there --------------------------------------------------------------------------- */

bool config_read_layer_size(struct config_parser *parser, const json_t *object, const char *name,
                            const char *key, size_t max, size_t *ret_value)
{
    const json_t *value = json_object_get(object, name);
    if (value == NULL) {
        return true;
    }
    json_int_t number = json_integer_value(value);
    if (!json_is_integer(value) || number < 1 || (uint64_t)number > max) {
        return config_fault(parser, ERROR_OUT_OF_RANGE, key, "has a %s that is not in 1..%zu", name, max);
    }
    *ret_value = (size_t)number;
    return true;
}

/* false: not there; true: as the config has it; an object: with sizes of its own. */
static bool read_side(struct config_parser *parser, const json_t *entry, const char *side, size_t index,
                      bool *ret_is_there, const json_t **ret_sizes)
{
    const json_t *value = json_object_get(entry, side);
    if (!json_is_boolean(value) && !json_is_object(value)) {
        return config_fault(parser, ERROR_WRONG_TYPE, "pruning",
                            "layers/%zu needs %s: false, true or an object of sizes", index, side);
    }
    *ret_is_there = !json_is_false(value);
    *ret_sizes = json_is_object(value) ? value : NULL;
    return true;
}

static void read_layer(struct config_parser *parser, const json_t *entry, size_t index)
{
    struct model_layer *layer = &parser->config->layers[index];
    const json_t *attention = NULL, *ffn = NULL;
    if (!read_side(parser, entry, "attention", index, &layer->has_attention, &attention) ||
        !read_side(parser, entry, "ffn", index, &layer->has_ffn, &ffn) ||
        !config_read_layer_size(parser, attention, "num_attention_heads", "pruning", 1024,
                                &layer->head_count) ||
        !config_read_layer_size(parser, attention, "num_key_value_heads", "pruning", 1024,
                                &layer->kv_head_count) ||
        !config_read_layer_size(parser, ffn, "intermediate_size", "pruning", (size_t)1 << 20,
                                &layer->intermediate_size) ||
        !config_read_layer_size(parser, ffn, "num_experts", "pruning", MODEL_EXPERTS_MAX,
                                &layer->expert_count) ||
        !config_read_layer_size(parser, ffn, "num_experts_per_tok", "pruning", MODEL_EXPERTS_MAX,
                                &layer->active_expert_count)) {
        return;
    }
    if (layer->head_count % (layer->kv_head_count > 0 ? layer->kv_head_count : 1) != 0 ||
        (!parser->family->has_kv_heads && layer->head_count != layer->kv_head_count)) {
        (void)config_fault(parser, ERROR_OUT_OF_RANGE, "pruning",
                           "layers/%zu has %zu key-value heads for %zu heads", index, layer->kv_head_count,
                           layer->head_count);
    }
    if (layer->active_expert_count > layer->expert_count ||
        (layer->expert_count > 0 && layer->active_expert_count == 0) ||
        (layer->expert_count > 0 && parser->family->expert_count == 0)) {
        (void)config_fault(parser, ERROR_OUT_OF_RANGE, "pruning", "layers/%zu uses %zu of %zu experts", index,
                           layer->active_expert_count, layer->expert_count);
    }
}

static void read_presence(struct config_parser *parser)
{
    struct model_config *config = parser->config;
    const json_t *layers = json_object_get(config_member(parser, "pruning"), "layers");
    if (!config->is_heterogeneous) {
        /* Our other exports say there what was done; only `layers` changes the arithmetic. */
        if (layers != NULL) {
            (void)config_fault(parser, ERROR_UNSUPPORTED, "pruning",
                               "has layers, which belong to models of type %s%s only",
                               MODEL_HETEROGENEOUS_PREFIX, config->model_type);
        }
        return;
    }
    if (!json_is_array(layers) || json_array_size(layers) != config->layer_count) {
        (void)config_fault(parser, ERROR_MISSING_FIELD, "pruning",
                           "needs layers: one entry for each of %zu layers", config->layer_count);
        return;
    }
    for (size_t i = 0; i < config->layer_count; i++) {
        read_layer(parser, json_array_get(layers, i), i);
    }
}

void config_read_layers(struct config_parser *parser)
{
    struct model_config *config = parser->config;
    for (size_t i = 0; i < config->layer_count; i++) {
        config->layers[i] = (struct model_layer){.has_attention = true,
                                                 .has_ffn = true,
                                                 .head_count = config->head_count,
                                                 .kv_head_count = config->kv_head_count,
                                                 .intermediate_size = config->intermediate_size};
    }
    set_windows(parser);
    if (parser->family->expert_count > 0) {
        set_experts(parser);
    }
    read_presence(parser);
}
