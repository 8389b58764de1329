/*
 * workers/model/config.c: config.json, key by key. Keys fall into three groups: those read here, those that
 * are known to change nothing in a forward pass, and all others. One of the others is let through only while
 * it is switched off (null, false, zero, empty): what we do not know could change the arithmetic, and a wrong
 * number is worse than a refusal.
 */
#include "workers/model/config.h"

#include "workers/model/architecture.h"
#include <math.h>
#include <stdarg.h>
#include <string.h>

struct parser {
    const json_t *json;
    struct model_config *config;
    struct error_list *faults;
};

static const char *const known_keys[] = {
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "hidden_act",
    "attention_bias",
    "mlp_bias",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "sliding_window",
    "use_sliding_window",
    "layer_types",
    "pruning",
    "quantization_config",
};
static const char *const harmless_keys[] = {
    "architectures",
    "torch_dtype",
    "dtype",
    "transformers_version",
    "use_cache",
    "pad_token_id",
    "unk_token_id",
    "sep_token_id",
    "initializer_range",
    "pretraining_tp",
    "attention_dropout",
    "hidden_dropout",
    "auto_map",
    "max_window_layers",
    "is_llama_config",
    "max_sequence_length",
    "model_max_length",
    "vocab_pruned",
    "tokenizer_class",
    "id2label",
    "label2id",
    "return_dict",
    "output_attentions",
    "output_hidden_states",
    "chunk_size_feed_forward",
    "is_decoder",
    "is_encoder_decoder",
    "cross_attention_hidden_size",
    "add_cross_attention",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    "repetition_penalty",
    "length_penalty",
    "no_repeat_ngram_size",
    "num_beams",
    "num_beam_groups",
    "num_return_sequences",
    "max_length",
    "min_length",
    "diversity_penalty",
    "early_stopping",
    "do_sample",
    "finetuning_task",
    "problem_type",
    "task_specific_params",
    "prefix",
    "decoder_start_token_id",
    "exponential_decay_length_penalty",
    "suppress_tokens",
    "begin_suppress_tokens",
    "bad_words_ids",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "remove_invalid_values",
    "encoder_no_repeat_ngram_size",
    "torchscript",
    "tf_legacy_loss",
    "use_bfloat16",
    "tie_encoder_decoder",
    "output_scores",
    "return_dict_in_generate",
    "pruned_heads",
    "transformers.js_config",
    "unsloth_version",
    "unsloth_fixed",
    "attn_implementation",
};

static bool fault(struct parser *parser, enum error_code code, const char *key, const char *format, ...)
    PRINTF(4, 5);
static bool fault(struct parser *parser, enum error_code code, const char *key, const char *format, ...)
{
    char field[128], message[256];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    (void)snprintf(field, sizeof field, "config.json/%.100s", key);
    return error_list_add(parser->faults, code, field, "config.json: %s %s", key, message);
}

/* The member, NULL when absent or null. */
static const json_t *member(const struct parser *parser, const char *key)
{
    const json_t *value = json_object_get(parser->json, key);
    return json_is_null(value) ? NULL : value;
}

/* Leaves ret_value alone when the key is absent and not required. */
static void read_size(struct parser *parser, const char *key, bool is_required, size_t min, size_t max,
                      size_t *ret_value)
{
    const json_t *value = member(parser, key);
    if (value == NULL) {
        if (is_required) {
            fault(parser, ERROR_MISSING_FIELD, key, "is missing");
        }
        return;
    }
    if (!json_is_integer(value)) {
        fault(parser, ERROR_WRONG_TYPE, key, "must be an integer");
        return;
    }
    json_int_t number = json_integer_value(value);
    if (number < (json_int_t)min || number > (json_int_t)max) {
        fault(parser, ERROR_OUT_OF_RANGE, key, "is %lld; it must lie in %zu..%zu", (long long)number, min,
              max);
        return;
    }
    *ret_value = (size_t)number;
}

static void read_bool(struct parser *parser, const char *key, bool *ret_value)
{
    const json_t *value = member(parser, key);
    if (value != NULL && !json_is_boolean(value)) {
        fault(parser, ERROR_WRONG_TYPE, key, "must be true or false");
    } else if (value != NULL) {
        *ret_value = json_is_true(value);
    }
}

static bool read_number(struct parser *parser, const json_t *object, const char *key, double min, double max,
                        double *ret_value)
{
    const json_t *value = json_object_get(object, key);
    if (value == NULL || json_is_null(value)) {
        return false;
    }
    double number = json_number_value(value);
    if (!json_is_number(value)) {
        fault(parser, ERROR_WRONG_TYPE, key, "must be a number");
    } else if (!(number > min && number <= max)) {
        fault(parser, ERROR_OUT_OF_RANGE, key, "is %g; it must be above %g and at most %g", number, min, max);
    } else {
        *ret_value = number;
        return true;
    }
    return false;
}

/* ---- rotary position embedding --------------------------------------------------------------- */

static void read_llama3(struct parser *parser, const json_t *object, struct rope_scaling *scaling)
{
    double original = 0.0;
    if (!read_number(parser, object, "low_freq_factor", 0.0, 1e6, &scaling->low_freq_factor) ||
        !read_number(parser, object, "high_freq_factor", 0.0, 1e6, &scaling->high_freq_factor) ||
        !read_number(parser, object, "original_max_position_embeddings", 0.0, 1e9, &original)) {
        fault(parser, ERROR_MISSING_FIELD, "rope_scaling",
              "of type llama3 needs low_freq_factor, high_freq_factor and original_max_position_embeddings");
        return;
    }
    if (!(scaling->low_freq_factor < scaling->high_freq_factor)) {
        fault(parser, ERROR_OUT_OF_RANGE, "rope_scaling", "needs low_freq_factor below high_freq_factor");
    }
    scaling->original_context_tokens = (size_t)original;
}

/* `rope_scaling` of old configs, `rope_parameters` of new ones (which holds rope_theta as well). */
static void read_rope_object(struct parser *parser, const char *key, const json_t *object)
{
    struct rope_scaling *scaling = &parser->config->rope_scaling;
    if (!json_is_object(object)) {
        fault(parser, ERROR_WRONG_TYPE, key, "must be an object or null");
        return;
    }
    (void)read_number(parser, object, "rope_theta", 0.0, 1e15, &parser->config->rope_base);
    double share = 1.0;
    if (read_number(parser, object, "partial_rotary_factor", 0.0, 1.0, &share) && share < 1.0) {
        fault(parser, ERROR_UNSUPPORTED, key, "turns only part of each head (partial_rotary_factor %g)",
              share);
    }
    const json_t *type = json_object_get(object, "rope_type");
    type = type != NULL ? type : json_object_get(object, "type");
    const char *name = type == NULL ? "default" : json_string_value(type);
    if (name == NULL) {
        fault(parser, ERROR_WRONG_TYPE, key, "has a rope_type that is not a string");
    } else if (strcmp(name, "linear") == 0 || strcmp(name, "llama3") == 0) {
        scaling->kind = strcmp(name, "linear") == 0 ? "linear" : "llama3";
        if (!read_number(parser, object, "factor", 0.0, 1e6, &scaling->factor)) {
            fault(parser, ERROR_MISSING_FIELD, key, "needs a factor");
        }
        if (name[1] == 'l') {
            read_llama3(parser, object, scaling);
        }
    } else if (strcmp(name, "default") != 0) {
        fault(parser, ERROR_UNSUPPORTED, key, "has rope_type \"%.40s\"; default, linear and llama3 are known",
              name);
    }
}

static void read_rope(struct parser *parser)
{
    static const char *const keys[] = {"rope_scaling", "rope_parameters"};
    parser->config->rope_base = 10000.0;
    (void)read_number(parser, parser->json, "rope_theta", 0.0, 1e15, &parser->config->rope_base);
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        const json_t *object = member(parser, keys[i]);
        if (object != NULL) {
            read_rope_object(parser, keys[i], object);
        }
    }
}

/* ---- tokens, layers -------------------------------------------------------------------------- */

static void read_eos(struct parser *parser)
{
    struct model_config *config = parser->config;
    const json_t *value = member(parser, "eos_token_id");
    size_t count = json_is_array(value) ? json_array_size(value) : value != NULL ? 1 : 0;
    size_t limit = sizeof config->eos_tokens / sizeof config->eos_tokens[0];
    for (size_t i = 0; i < count && i < limit; i++) {
        const json_t *item = json_is_array(value) ? json_array_get(value, i) : value;
        json_int_t token = json_integer_value(item);
        if (!json_is_integer(item) || token < -1 || token >= (json_int_t)1 << 21) {
            fault(parser, ERROR_WRONG_TYPE, "eos_token_id", "must be a token id or a list of them");
            return;
        }
        if (token >= 0) {
            config->eos_tokens[config->eos_token_count++] = (int32_t)token;
        }
    }
    if (count > limit) {
        fault(parser, ERROR_OUT_OF_RANGE, "eos_token_id", "lists %zu tokens; at most %zu are read", count,
              limit);
    }
}

static void read_bos(struct parser *parser)
{
    const json_t *value = member(parser, "bos_token_id");
    json_int_t token = json_is_array(value) ? -1 : json_integer_value(value);
    parser->config->bos_token = -1;
    if (value != NULL && (!json_is_integer(value) || token < -1 || token >= (json_int_t)1 << 21)) {
        fault(parser, ERROR_WRONG_TYPE, "bos_token_id", "must be a token id");
    } else if (value != NULL) {
        parser->config->bos_token = (int32_t)token;
    }
}

static void read_layer(struct parser *parser, const json_t *entry, size_t index)
{
    struct model_layer *layer = &parser->config->layers[index];
    const json_t *attention = json_object_get(entry, "attention"), *ffn = json_object_get(entry, "ffn");
    if (!json_is_boolean(attention) || !json_is_boolean(ffn)) {
        fault(parser, ERROR_WRONG_TYPE, "pruning", "layers/%zu needs attention and ffn, true or false",
              index);
        return;
    }
    layer->has_attention = json_is_true(attention);
    layer->has_ffn = json_is_true(ffn);
}

static void read_layers(struct parser *parser, const struct architecture *row)
{
    struct model_config *config = parser->config;
    for (size_t i = 0; i < config->layer_count; i++) {
        config->layers[i] = (struct model_layer){.has_attention = true,
                                                 .has_ffn = true,
                                                 .head_count = config->head_count,
                                                 .kv_head_count = config->kv_head_count,
                                                 .intermediate_size = config->intermediate_size};
    }
    const json_t *pruning = member(parser, "pruning");
    if (!row->is_heterogeneous) {
        /* Our uniform and identity exports say there what was done; only `layers` changes the arithmetic. */
        if (json_object_get(pruning, "layers") != NULL) {
            fault(parser, ERROR_UNSUPPORTED, "pruning",
                  "has layers, which belong to model_type pruned_llama only");
        }
        return;
    }
    const json_t *layers = json_object_get(pruning, "layers");
    if (!json_is_array(layers) || json_array_size(layers) != config->layer_count) {
        fault(parser, ERROR_MISSING_FIELD, "pruning", "needs layers: one entry for each of %zu layers",
              config->layer_count);
        return;
    }
    for (size_t i = 0; i < config->layer_count; i++) {
        read_layer(parser, json_array_get(layers, i), i);
    }
}

/* ---- what we cannot do ----------------------------------------------------------------------- */

static bool is_listed(const char *key, const char *const *list, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(list[i], key) == 0) {
            return true;
        }
    }
    return false;
}

static bool is_switched_off(const json_t *value)
{
    return json_is_null(value) || json_is_false(value) ||
           (json_is_number(value) && json_number_value(value) == 0.0) ||
           (json_is_array(value) && json_array_size(value) == 0) ||
           (json_is_object(value) && json_object_size(value) == 0) ||
           (json_is_string(value) && json_string_length(value) == 0);
}

/* jansson's iterators take a mutable object, though they change nothing. */
static json_t *iterable(const json_t *json)
{
    union {
        const json_t *from;
        json_t *to;
    } pointer = {json};
    return pointer.to;
}

static void refuse_unknown_keys(struct parser *parser)
{
    json_t *json = iterable(parser->json);
    for (void *iterator = json_object_iter(json); iterator != NULL;
         iterator = json_object_iter_next(json, iterator)) {
        const char *key = json_object_iter_key(iterator);
        if (key[0] != '_' && !is_listed(key, known_keys, sizeof known_keys / sizeof known_keys[0]) &&
            !is_listed(key, harmless_keys, sizeof harmless_keys / sizeof harmless_keys[0]) &&
            !is_switched_off(json_object_iter_value(iterator))) {
            fault(parser, ERROR_UNSUPPORTED, key, "is not known; it could change what the model computes");
        }
    }
}

static void refuse_what_differs(struct parser *parser)
{
    const json_t *act = member(parser, "hidden_act"), *window = member(parser, "sliding_window");
    const char *name = json_string_value(act);
    if (act != NULL && (name == NULL || (strcmp(name, "silu") != 0 && strcmp(name, "swish") != 0))) {
        fault(parser, ERROR_UNSUPPORTED, "hidden_act", "is \"%.40s\"; only silu is known",
              name != NULL ? name : "(not a string)");
    }
    const json_t *use_window = json_object_get(parser->json, "use_sliding_window");
    bool is_windowed =
        window != NULL && json_integer_value(window) < (json_int_t)parser->config->context_tokens;
    if (json_is_true(use_window) || (is_windowed && !json_is_false(use_window))) {
        fault(parser, ERROR_UNSUPPORTED, "sliding_window",
              "is shorter than the context; windowed attention is not known");
    }
    if (member(parser, "quantization_config") != NULL) {
        fault(parser, ERROR_UNSUPPORTED, "quantization_config",
              "is set; the weights must be F32, F16 or BF16");
    }
    const json_t *types = member(parser, "layer_types"), *type = NULL;
    size_t index = 0;
    json_array_foreach(types, index, type)
    {
        const char *kind = json_string_value(type);
        if (kind == NULL || strcmp(kind, "full_attention") != 0) {
            fault(parser, ERROR_UNSUPPORTED, "layer_types",
                  "has \"%.40s\" for layer %zu; only full_attention is known",
                  kind != NULL ? kind : "(not a string)", index);
            return;
        }
    }
}

/* ---- the whole
 * -------------------------------------------------------------------------------------------------------------
 */

static void read_shape(struct parser *parser)
{
    struct model_config *config = parser->config;
    read_size(parser, "num_hidden_layers", true, 1, MODEL_LAYERS_MAX, &config->layer_count);
    read_size(parser, "hidden_size", true, 1, 65536, &config->hidden_size);
    read_size(parser, "intermediate_size", true, 1, (size_t)1 << 20, &config->intermediate_size);
    read_size(parser, "num_attention_heads", true, 1, 1024, &config->head_count);
    config->kv_head_count = config->head_count;
    read_size(parser, "num_key_value_heads", false, 1, 1024, &config->kv_head_count);
    read_size(parser, "vocab_size", true, 1, (size_t)1 << 21, &config->vocab_size);
    config->context_tokens = 2048;
    read_size(parser, "max_position_embeddings", false, 1, (size_t)1 << 24, &config->context_tokens);
    read_size(parser, "head_dim", false, 2, 1024, &config->head_size);
    config->norm_epsilon = 1e-6;
    (void)read_number(parser, parser->json, "rms_norm_eps", 0.0, 1.0, &config->norm_epsilon);
    if (config->head_count == 0 || config->hidden_size == 0) {
        return; /* said already */
    }
    if (config->head_size == 0 && config->hidden_size % config->head_count != 0) {
        fault(parser, ERROR_OUT_OF_RANGE, "num_attention_heads",
              "is %zu, which does not divide hidden_size %zu", config->head_count, config->hidden_size);
        return;
    }
    config->head_size = config->head_size != 0 ? config->head_size : config->hidden_size / config->head_count;
    if (config->head_size % 2 != 0 || config->head_size > 1024) {
        fault(parser, ERROR_OUT_OF_RANGE, "head_dim", "is %zu; it must be even and at most 1024",
              config->head_size);
    }
    if (config->head_count % config->kv_head_count != 0) {
        fault(parser, ERROR_OUT_OF_RANGE, "num_key_value_heads",
              "is %zu, which does not divide num_attention_heads %zu", config->kv_head_count,
              config->head_count);
    }
}

static const struct architecture *read_architecture(struct parser *parser)
{
    const json_t *type = member(parser, "model_type");
    const char *name = json_string_value(type);
    const struct architecture *row = name != NULL ? architecture_find(name) : NULL;
    if (type == NULL) {
        fault(parser, ERROR_MISSING_FIELD, "model_type", "is missing");
    } else if (name == NULL) {
        fault(parser, ERROR_WRONG_TYPE, "model_type", "must be a string");
    } else if (row == NULL) {
        fault(parser, ERROR_UNSUPPORTED, "model_type",
              "is \"%.60s\"; llama, mistral, qwen2 and pruned_llama are known", name);
    }
    return row;
}

bool model_config_parse(const json_t *json, struct model_config *ret_config, struct error_list *faults)
{
    size_t before = faults->count;
    if (!json_is_object(json)) {
        return error_list_add(faults, ERROR_WRONG_TYPE, "config.json", "config.json must be an object");
    }
    struct model_config *config = ret_config;
    memset(config, 0, sizeof *config);
    struct parser parser = {json, config, faults};
    const struct architecture *row = read_architecture(&parser);
    if (row == NULL) {
        return false; /* nothing else can be judged */
    }
    config->model_type = row->model_type;
    read_shape(&parser);
    read_rope(&parser);
    read_bool(&parser, "tie_word_embeddings", &config->has_tied_head);
    read_bool(&parser, "attention_bias", &config->has_attention_bias);
    read_bool(&parser, "mlp_bias", &config->has_mlp_bias);
    read_bos(&parser);
    read_eos(&parser);
    refuse_what_differs(&parser);
    refuse_unknown_keys(&parser);
    read_layers(&parser, row);
    return faults->count == before;
}
