/*
 * workers/model/config.c: config.json: the shape of the model and what holds for all its layers. How a family spells it, and
 * what it may say at all, stands in config_family.c; faults are collected as far as they can be judged apart.
 */
#include "workers/model/config_internal.h"

#include "base/text.h"
#include <math.h>
#include <stdarg.h>
#include <string.h>

#define TOKEN_MAX ((json_int_t)1 << 21)

/* ---- reading --------------------------------------------------------------------------------- */

bool config_fault(struct config_parser *parser, enum error_code code, const char *key, const char *format,
                  ...)
{
    char field[128], message[256];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    (void)snprintf(field, sizeof field, "config.json/%.100s", key);
    return error_list_add(parser->faults, code, field, "config.json: %s %s", key, message);
}

const json_t *config_member(const struct config_parser *parser, const char *key)
{
    const json_t *value = json_object_get(parser->json, key);
    return json_is_null(value) ? NULL : value;
}

bool config_has_null(const struct config_parser *parser, const char *key)
{
    return json_is_null(json_object_get(parser->json, key));
}

bool config_read_size(struct config_parser *parser, const char *key, bool is_required, size_t min, size_t max,
                      size_t *ret_value)
{
    const json_t *value = config_member(parser, key);
    if (value == NULL) {
        return is_required ? config_fault(parser, ERROR_MISSING_FIELD, key, "is missing") : false;
    }
    if (!json_is_integer(value)) {
        return config_fault(parser, ERROR_WRONG_TYPE, key, "must be an integer");
    }
    json_int_t number = json_integer_value(value);
    if (number < (json_int_t)min || number > (json_int_t)max) {
        return config_fault(parser, ERROR_OUT_OF_RANGE, key, "is %lld; it must lie in %zu..%zu",
                            (long long)number, min, max);
    }
    *ret_value = (size_t)number;
    return true;
}

bool config_read_bool(struct config_parser *parser, const char *key, bool *ret_value)
{
    const json_t *value = config_member(parser, key);
    if (value == NULL) {
        return false;
    }
    if (!json_is_boolean(value)) {
        return config_fault(parser, ERROR_WRONG_TYPE, key, "must be true or false");
    }
    *ret_value = json_is_true(value);
    return true;
}

bool config_read_number(struct config_parser *parser, const json_t *object, const char *key, double min,
                        double max, double *ret_value)
{
    const json_t *value = json_object_get(object, key);
    if (value == NULL || json_is_null(value)) {
        return false;
    }
    double number = json_number_value(value);
    if (!json_is_number(value)) {
        return config_fault(parser, ERROR_WRONG_TYPE, key, "must be a number");
    }
    if (!(number > min && number <= max)) {
        return config_fault(parser, ERROR_OUT_OF_RANGE, key, "is %g; it must be above %g and at most %g",
                            number, min, max);
    }
    *ret_value = number;
    return true;
}

static bool read_switch(struct config_parser *parser, const struct config_switch *from)
{
    bool value = from->value;
    if (from->key != NULL) {
        (void)config_read_bool(parser, from->key, &value);
    }
    return value;
}

/* ---- tokens ---------------------------------------------------------------------------------- */

static void read_eos(struct config_parser *parser)
{
    struct model_config *config = parser->config;
    const json_t *value = config_member(parser, "eos_token_id");
    size_t count = json_is_array(value) ? json_array_size(value) : value != NULL ? 1 : 0;
    size_t limit = sizeof config->eos_tokens / sizeof config->eos_tokens[0];
    for (size_t i = 0; i < count && i < limit; i++) {
        const json_t *item = json_is_array(value) ? json_array_get(value, i) : value;
        json_int_t token = json_integer_value(item);
        if (!json_is_integer(item) || token < -1 || token >= TOKEN_MAX) {
            (void)config_fault(parser, ERROR_WRONG_TYPE, "eos_token_id",
                               "must be a token id or a list of them");
            return;
        }
        if (token >= 0) {
            config->eos_tokens[config->eos_token_count++] = (int32_t)token;
        }
    }
    if (count > limit) {
        (void)config_fault(parser, ERROR_OUT_OF_RANGE, "eos_token_id",
                           "lists %zu tokens; at most %zu are read", count, limit);
    }
    int32_t assumed = parser->family->eos;
    if (json_object_get(parser->json, "eos_token_id") == NULL && assumed >= 0 &&
        (size_t)assumed < config->vocab_size) {
        config->eos_tokens[config->eos_token_count++] = assumed;
    }
}

static void read_bos(struct config_parser *parser)
{
    const json_t *value = config_member(parser, "bos_token_id");
    json_int_t token = json_is_array(value) ? -1 : json_integer_value(value);
    int32_t assumed = parser->family->bos;
    bool is_absent = json_object_get(parser->json, "bos_token_id") == NULL;
    parser->config->bos_token =
        is_absent && assumed >= 0 && (size_t)assumed < parser->config->vocab_size ? assumed : -1;
    if (value != NULL && (!json_is_integer(value) || token < -1 || token >= TOKEN_MAX)) {
        (void)config_fault(parser, ERROR_WRONG_TYPE, "bos_token_id", "must be a token id");
    } else if (value != NULL) {
        parser->config->bos_token = (int32_t)token;
    }
}

/* ---- arithmetic ------------------------------------------------------------------------------ */

static void read_activation(struct config_parser *parser)
{
    static const struct {
        const char *name;
        enum activation activation;
    } known[] = {
        {"silu", ACTIVATION_SILU},
        {"swish", ACTIVATION_SILU},
        {"gelu", ACTIVATION_GELU},
        {"gelu_python", ACTIVATION_GELU},
        {"gelu_new", ACTIVATION_GELU_TANH},
        {"gelu_fast", ACTIVATION_GELU_TANH},
        {"gelu_accurate", ACTIVATION_GELU_TANH},
        {"gelu_pytorch_tanh", ACTIVATION_GELU_TANH},
        {"gelu_python_tanh", ACTIVATION_GELU_TANH},
        {"relu", ACTIVATION_RELU},
    };
    const char *key = parser->family->activation;
    const json_t *value = config_member(parser, key);
    const char *name = value != NULL ? json_string_value(value) : parser->family->activation_name;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (name != NULL && strcmp(known[i].name, name) == 0) {
            parser->config->activation = known[i].activation;
            return;
        }
    }
    (void)config_fault(parser, ERROR_UNSUPPORTED, key,
                       "is \"%.40s\"; silu, relu and the forms of gelu are known",
                       name != NULL ? name : "(not a string)");
}

static void read_softcap(struct config_parser *parser, const char *key, double assumed, double *ret_cap)
{
    *ret_cap = config_has_null(parser, key) ? 0.0 : assumed;
    (void)config_read_number(parser, parser->json, key, 0.0, 1e6, ret_cap);
}

static void read_scales(struct config_parser *parser)
{
    const struct config_family *family = parser->family;
    struct model_config *config = parser->config;
    double divisor = (double)config->head_size;
    bool is_scaled = true;
    config->embedding_scale =
        family->scales_embedding ? (double)(float)sqrt((double)config->hidden_size) : 1.0;
    if (family->has_softcaps) {
        divisor = 256.0;
        (void)config_read_number(parser, parser->json, "query_pre_attn_scalar", 0.0, 1e6, &divisor);
        read_softcap(parser, "attn_logit_softcapping", family->attention_softcap, &config->attention_softcap);
        read_softcap(parser, "final_logit_softcapping", family->final_softcap, &config->final_softcap);
    }
    if (config_family_knows(family, "scale_attn_weights")) {
        (void)config_read_bool(parser, "scale_attn_weights", &is_scaled);
    }
    config->attention_scale = is_scaled && divisor > 0.0 ? 1.0 / sqrt(divisor) : 1.0;
}

static void read_biases(struct config_parser *parser)
{
    struct model_config *config = parser->config;
    config->has_qkv_bias = read_switch(parser, &parser->family->attention_bias);
    config->has_o_bias = config->has_qkv_bias && parser->family->has_o_bias;
    config->has_ffn_bias = read_switch(parser, &parser->family->ffn_bias);
}

/* ---- the shape ------------------------------------------------------------------------------- */

static void read_heads(struct config_parser *parser)
{
    const struct config_family *family = parser->family;
    struct model_config *config = parser->config;
    config->kv_head_count = config->head_count;
    if (family->has_kv_heads) {
        if (family->kv_heads > 0 && !config_has_null(parser, "num_key_value_heads")) {
            config->kv_head_count = family->kv_heads;
        }
        (void)config_read_size(parser, "num_key_value_heads", false, 1, 1024, &config->kv_head_count);
    }
    if (family->has_head_size) {
        config->head_size = config_has_null(parser, "head_dim") ? 0 : family->head_size;
        (void)config_read_size(parser, "head_dim", false, 2, 1024, &config->head_size);
    } else if (config->is_heterogeneous) {
        (void)config_read_layer_size(parser, config_member(parser, "pruning"), "head_dim", "pruning", 1024,
                                     &config->head_size);
    }
    if (config->head_count == 0 || config->hidden_size == 0 || config->kv_head_count == 0) {
        return; /* said already */
    }
    if (config->head_size == 0 && config->hidden_size % config->head_count != 0) {
        (void)config_fault(parser, ERROR_OUT_OF_RANGE, family->heads, "is %zu, which does not divide %s %zu",
                           config->head_count, family->hidden, config->hidden_size);
        return;
    }
    config->head_size = config->head_size != 0 ? config->head_size : config->hidden_size / config->head_count;
    if (config->head_size % 2 != 0 || config->head_size > 1024) {
        (void)config_fault(parser, ERROR_OUT_OF_RANGE, "head_dim", "is %zu; it must be even and at most 1024",
                           config->head_size);
    }
    if (config->head_count % config->kv_head_count != 0) {
        (void)config_fault(parser, ERROR_OUT_OF_RANGE, "num_key_value_heads",
                           "is %zu, which does not divide %s %zu", config->kv_head_count, family->heads,
                           config->head_count);
    }
}

/* Tables that are added to the tokens' embeddings. */
static void read_tables(struct config_parser *parser)
{
    const struct config_family *family = parser->family;
    struct model_config *config = parser->config;
    config->position_kind = family->positions;
    if (family->positions == POSITION_LEARNED) {
        config->position_offset = family->position_offset;
        config->position_rows = config->context_tokens + family->position_offset;
    }
    if (architecture_of(config)->names[WEIGHT_TOKEN_TYPE_EMBEDDING] != NULL) {
        config->token_type_count = 2;
        (void)config_read_size(parser, "type_vocab_size", false, 1, 1024, &config->token_type_count);
    }
    size_t width = config->hidden_size;
    if (config_family_knows(family, "word_embed_proj_dim") &&
        config_read_size(parser, "word_embed_proj_dim", false, 1, 65536, &width) &&
        width != config->hidden_size) {
        (void)config_fault(parser, ERROR_UNSUPPORTED, "word_embed_proj_dim",
                           "is %zu, and hidden_size %zu; embeddings that are projected are not known", width,
                           config->hidden_size);
    }
}

static void read_shape(struct config_parser *parser)
{
    const struct config_family *family = parser->family;
    struct model_config *config = parser->config;
    config_read_size(parser, family->layers, true, 1, MODEL_LAYERS_MAX, &config->layer_count);
    config_read_size(parser, family->hidden, true, 1, 65536, &config->hidden_size);
    config->intermediate_size = family->is_ffn_optional ? 4 * config->hidden_size : 0;
    config_read_size(parser, family->ffn, !family->is_ffn_optional, 1, (size_t)1 << 20,
                     &config->intermediate_size);
    config_read_size(parser, family->heads, true, 1, 1024, &config->head_count);
    config_read_size(parser, "vocab_size", true, 1, (size_t)1 << 21, &config->vocab_size);
    config->context_tokens = family->context_tokens;
    config_read_size(parser, family->context, false, 1, (size_t)1 << 24, &config->context_tokens);
    config->norm_epsilon = family->epsilon_value;
    if (family->epsilon != NULL) {
        (void)config_read_number(parser, parser->json, family->epsilon, 0.0, 1.0, &config->norm_epsilon);
    }
    read_heads(parser);
    read_tables(parser);
}

/* ---- the whole ------------------------------------------------------------------------------- */

const char *model_config_stock_type(const char *model_type)
{
    return text_starts_with(model_type, MODEL_HETEROGENEOUS_PREFIX)
               ? model_type + strlen(MODEL_HETEROGENEOUS_PREFIX)
           : strcmp(model_type, MODEL_DECILM_TYPE) == 0 ? "llama"
                                                        : NULL;
}

static const struct architecture *read_architecture(struct config_parser *parser)
{
    const json_t *type = config_member(parser, "model_type");
    const char *name = json_string_value(type);
    const char *stock = name != NULL ? model_config_stock_type(name) : NULL;
    bool is_pruned = stock != NULL;
    const char *family = is_pruned ? stock : name;
    const struct architecture *row = family != NULL ? architecture_find(family) : NULL;
    row = is_pruned && row != NULL && row->is_encoder ? NULL : row;
    parser->config->is_heterogeneous = is_pruned && row != NULL;
    if (type == NULL) {
        (void)config_fault(parser, ERROR_MISSING_FIELD, "model_type", "is missing");
    } else if (name == NULL) {
        (void)config_fault(parser, ERROR_WRONG_TYPE, "model_type", "must be a string");
    } else if (row == NULL && json_is_object(config_member(parser, "text_config"))) {
        (void)config_fault(
            parser, ERROR_UNSUPPORTED, "model_type",
            "is \"%.60s\", a model of more than text (text_config lies inside); models of text are known",
            name);
    } else if (row == NULL) {
        FINISHED(text) known = {0};
        for (const char *const *each = model_config_architectures(); *each != NULL; each++) {
            text_append_format(&known, "%s%s", known.length > 0 ? ", " : "", *each);
        }
        text_append(&known, ", and " MODEL_HETEROGENEOUS_PREFIX "... of ours");
        (void)config_fault(parser, ERROR_UNSUPPORTED, "model_type", "is \"%.60s\"; known are %s", name,
                           known.bytes);
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
    struct config_parser parser = {json, NULL, config, faults};
    const struct architecture *row = read_architecture(&parser);
    if (row == NULL) {
        return false; /* nothing else can be judged */
    }
    parser.family = config_family_find(row->model_type);
    config->model_type = row->model_type;
    (void)snprintf(config->prefix, sizeof config->prefix, "%s", row->prefix);
    read_shape(&parser);
    config_read_rope(&parser);
    config->has_tied_head = parser.family->tied.value;
    (void)config_read_bool(&parser, "tie_word_embeddings", &config->has_tied_head);
    config->is_parallel = read_switch(&parser, &parser.family->parallel);
    read_activation(&parser);
    read_scales(&parser);
    read_biases(&parser);
    read_bos(&parser);
    read_eos(&parser);
    if (config_member(&parser, "quantization_config") != NULL) {
        (void)config_fault(&parser, ERROR_UNSUPPORTED, "quantization_config",
                           "is set; the weights must be F32, F16 or BF16");
    }
    config_refuse_unknown_keys(&parser);
    config_read_layers(&parser);
    return faults->count == before;
}
