/*
 * workers/export/gguf_metadata.c: config.json as the keys of a GGUF architecture. It takes config.json in the spellings of
 * transformers 4 and 5 (rope_theta beside rope_scaling, or both in rope_parameters). What GGUF has no key for must be what
 * llama.cpp assumes; anything else is refused, naming the member.
 */
#include "workers/export/gguf_internal.h"

#include "base/memory.h"
#include "base/text.h"
#include "workers/model/config.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct maker {
    const json_t *config;
    struct gguf_pairs *pairs;
    struct gguf_metadata *metadata;
    const char *type; /* model_type */
    uint64_t head_size, context_tokens;
    const json_t *rope; /* rope_parameters or rope_scaling; NULL: none */
    double rope_base;
    uint64_t rotary_size;
    struct error *error;
};

/* ---- members of config.json ------------------------------------------------------------------------------ */

static bool unsupported(const struct maker *maker, const char *name, const char *what)
{
    char field[128];
    (void)snprintf(field, sizeof field, "config.json/%s", name);
    return error_set_field(maker->error, ERROR_UNSUPPORTED, field,
                           "config.json: %s %s, which GGUF cannot say", name, what);
}

/* The first of the names that is there and not null. */
static const json_t *member(const json_t *object, const char *name, const char *other)
{
    const json_t *value = json_object_get(object, name);
    if ((value == NULL || json_is_null(value)) && other != NULL) {
        value = json_object_get(object, other);
    }
    return json_is_null(value) ? NULL : value;
}

static uint64_t size_or(const json_t *object, const char *name, const char *other, uint64_t fallback)
{
    const json_t *value = member(object, name, other);
    return json_is_integer(value) && json_integer_value(value) >= 0 ? (uint64_t)json_integer_value(value)
                                                                    : fallback;
}

static double number_or(const json_t *object, const char *name, const char *other, double fallback)
{
    const json_t *value = member(object, name, other);
    return json_is_number(value) ? json_number_value(value) : fallback;
}

static bool bool_or(const json_t *object, const char *name, bool fallback)
{
    const json_t *value = member(object, name, NULL);
    return json_is_boolean(value) ? json_is_true(value) : fallback;
}

static bool get_size(const struct maker *maker, const char *name, const char *other, uint64_t *ret_value)
{
    *ret_value = size_or(maker->config, name, other, 0);
    return *ret_value > 0 && *ret_value <= INT32_MAX
               ? true
               : error_set_field(maker->error, ERROR_CONFIG_MISMATCH, name,
                                 "config.json: %s must be 1 or more", name);
}

static bool is_type(const struct maker *maker, const char *type)
{
    return strcmp(maker->type, type) == 0;
}

static bool is_gemma(const struct maker *maker)
{
    return is_type(maker, "gemma2") || is_type(maker, "gemma3_text");
}

/* ---- rotary position embedding --------------------------------------------------------------------------- */

static void put_size(struct maker *maker, const char *key, uint64_t value)
{
    gguf_pairs_put_u32(maker->pairs, key, value);
}

static void make_llama3(struct maker *maker)
{
    struct gguf_metadata *metadata = maker->metadata;
    double factor = number_or(maker->rope, "factor", NULL, 1.0),
           low = number_or(maker->rope, "low_freq_factor", NULL, 1.0),
           high = number_or(maker->rope, "high_freq_factor", NULL, 4.0),
           original = number_or(maker->rope, "original_max_position_embeddings", NULL, 8192.0);
    metadata->factor_count = (size_t)maker->rotary_size / 2;
    float *factors = memory_create(metadata->factor_count + 1, sizeof *factors);
    for (size_t i = 0; i < metadata->factor_count; i++) {
        double frequency = pow(maker->rope_base, -2.0 * (double)i / (double)maker->rotary_size);
        double turns = original * frequency / (2.0 * M_PI); /* over the original context */
        double share = (turns - low) / (high - low);
        share = share < 0.0 ? 0.0 : share > 1.0 ? 1.0 : share;
        factors[i] = (float)(1.0 / ((1.0 - share) / factor + share));
    }
    metadata->factors[GGUF_ROPE_FREQS] = factors;
}

static bool make_list(struct maker *maker, const char *name, enum gguf_factors_kind kind)
{
    const json_t *list = json_object_get(maker->rope, name);
    size_t count = (size_t)maker->rotary_size / 2;
    if (!json_is_array(list) || json_array_size(list) != count) {
        return unsupported(maker, name, "has another length than half the rotary size");
    }
    maker->metadata->factor_count = count;
    maker->metadata->factors[kind] = memory_create(count + 1, sizeof(float));
    for (size_t i = 0; i < count; i++) {
        maker->metadata->factors[kind][i] = (float)json_number_value(json_array_get(list, i));
    }
    return true;
}

static bool make_longrope(struct maker *maker)
{
    uint64_t limit = size_or(maker->config, "max_position_embeddings", NULL, 1);
    uint64_t original = size_or(maker->config, "original_max_position_embeddings", NULL,
                                size_or(maker->rope, "original_max_position_embeddings", NULL, 0));
    if (!is_type(maker, "phi3") || original < 2) {
        return unsupported(maker, "rope_scaling", "is longrope without an original context, or of no Phi-3");
    }
    double ratio = (double)limit / (double)original;
    double usual = ratio > 1.0 ? sqrt(1.0 + log(ratio) / log((double)original)) : 1.0;
    put_size(maker, ".rope.scaling.original_context_length", original);
    gguf_pairs_put_f32(maker->pairs, ".rope.scaling.attn_factor",
                       number_or(maker->rope, "attention_factor", NULL, usual));
    return make_list(maker, "long_factor", GGUF_ROPE_FACTORS_LONG) &&
           make_list(maker, "short_factor", GGUF_ROPE_FACTORS_SHORT);
}

/* Gemma 3's local layers are plain; its rope object may be one for each kind of layer. */
static bool find_rope(struct maker *maker)
{
    const json_t *rope = member(maker->config, "rope_parameters", "rope_scaling");
    const json_t *full = json_object_get(rope, "full_attention"),
                 *local = json_object_get(rope, "sliding_attention");
    double local_base =
        number_or(maker->config, "rope_local_base_freq", NULL, number_or(local, "rope_theta", NULL, 10000.0));
    const char *local_type = json_string_value(json_object_get(local, "rope_type"));
    if (local_type != NULL && strcmp(local_type, "default") != 0) {
        return unsupported(maker, "rope_parameters", "scales sliding layers");
    }
    maker->rope = full != NULL ? full : rope;
    bool is_third = is_type(maker, "gemma3_text");
    maker->rope_base = number_or(maker->config, "rope_theta", "rotary_emb_base",
                                 number_or(maker->rope, "rope_theta", NULL, is_third ? 1e6 : 10000.0));
    if (is_third && local_base != 10000.0) {
        gguf_pairs_put_f32(maker->pairs, ".rope.freq_base_swa", local_base);
    }
    return true;
}

static bool make_rope(struct maker *maker)
{
    if (!find_rope(maker)) {
        return false;
    }
    bool is_neox = is_type(maker, "gpt_neox");
    double share =
        number_or(maker->config, is_neox ? "rotary_pct" : "partial_rotary_factor", "partial_rotary_factor",
                  number_or(maker->rope, "partial_rotary_factor", NULL, is_neox ? 0.25 : 1.0));
    maker->rotary_size = (uint64_t)((double)maker->head_size * share);
    if (maker->rotary_size % 2 != 0 || maker->rotary_size == 0 || maker->rotary_size > 2 * GGUF_FACTORS_MAX ||
        (maker->rotary_size != maker->head_size && !is_neox && !is_type(maker, "phi3"))) {
        return unsupported(maker, "partial_rotary_factor", "turns another part of a head");
    }
    put_size(maker, ".rope.dimension_count", maker->rotary_size);
    gguf_pairs_put_f32(maker->pairs, ".rope.freq_base", maker->rope_base);
    const char *kind = json_string_value(member(maker->rope, "rope_type", "type"));
    if (kind == NULL || strcmp(kind, "default") == 0) {
        return true;
    }
    if (strcmp(kind, "linear") == 0) {
        gguf_pairs_put_text(maker->pairs, ".rope.scaling.type", "linear");
        gguf_pairs_put_f32(maker->pairs, ".rope.scaling.factor", number_or(maker->rope, "factor", NULL, 1.0));
        return true;
    }
    if (strcmp(kind, "llama3") == 0 && strcmp(maker->metadata->family->architecture, "llama") == 0) {
        make_llama3(maker);
        return true;
    }
    return strcmp(kind, "longrope") == 0 ? make_longrope(maker)
                                         : unsupported(maker, "rope_scaling", "is of a kind");
}

/* ---- families -------------------------------------------------------------------------------------------- */

static bool check_activation(const struct maker *maker)
{
    const char *wanted = is_gemma(maker)              ? "gelu_pytorch_tanh"
                         : is_type(maker, "gpt2")     ? "gelu_new"
                         : is_type(maker, "gpt_neox") ? "gelu"
                                                      : "silu";
    const char *name = is_type(maker, "gpt2") ? "activation_function"
                       : is_gemma(maker)      ? "hidden_activation"
                                              : "hidden_act";
    const char *is = json_string_value(member(maker->config, name, is_gemma(maker) ? "hidden_act" : NULL));
    bool is_same = is == NULL || strcmp(is, wanted) == 0 ||
                   (strcmp(is, "swish") == 0 && strcmp(wanted, "silu") == 0) ||
                   (is_type(maker, "gpt2") && strcmp(is, "gelu_pytorch_tanh") == 0);
    return is_same ? true : unsupported(maker, name, "is another activation than the family's");
}

/* Layers that see a window: every `period` layers, the last of them sees all. */
static bool check_pattern(const struct maker *maker, uint64_t period)
{
    const json_t *types = member(maker->config, "layer_types", NULL), *type = NULL;
    size_t index = 0;
    json_array_foreach(types, index, type)
    {
        const char *name = json_string_value(type);
        bool is_full = name != NULL && strcmp(name, "full_attention") == 0;
        if (is_full != ((index + 1) % period == 0)) {
            return unsupported(maker, "layer_types", "breaks the family's pattern of windows");
        }
    }
    return true;
}

/* null: none; absent: the family's. */
static double cap_or(const struct maker *maker, const char *name, double fallback)
{
    const json_t *value = json_object_get(maker->config, name);
    return value == NULL ? fallback : json_number_value(value);
}

static bool make_gemma(struct maker *maker)
{
    const struct gguf_metadata *metadata = maker->metadata;
    bool is_second = is_type(maker, "gemma2");
    uint64_t window = size_or(maker->config, "sliding_window", NULL, 0);
    uint64_t period =
        is_second ? 2 : size_or(maker->config, "sliding_window_pattern", "_sliding_window_pattern", 6);
    if (period == 0 || (window > 0 && window < maker->context_tokens && !check_pattern(maker, period))) {
        return period != 0 ? false : unsupported(maker, "sliding_window_pattern", "is 0");
    }
    put_size(maker, ".attention.sliding_window", window > 0 ? window : maker->context_tokens);
    if (!is_second && period != 6) {
        put_size(maker, ".attention.sliding_window_pattern", period);
    }
    /* Gemma 2's defaults; llama.cpp divides by its caps, so none is none it can do. */
    double attention_cap = cap_or(maker, "attn_logit_softcapping", is_second ? 50.0 : 0.0);
    double final_cap = cap_or(maker, "final_logit_softcapping", is_second ? 30.0 : 0.0);
    if (is_second && (attention_cap == 0.0 || final_cap == 0.0)) {
        return unsupported(maker, "attn_logit_softcapping", "or final_logit_softcapping is off");
    }
    if (is_second) {
        gguf_pairs_put_f32(maker->pairs, ".attn_logit_softcapping", attention_cap);
    } else if (attention_cap != 0.0) {
        return unsupported(maker, "attn_logit_softcapping", "is set");
    }
    if (is_second || final_cap != 0.0) {
        gguf_pairs_put_f32(maker->pairs, ".final_logit_softcapping", final_cap);
    }
    bool is_27b = metadata->layer_count == (is_second ? 46u : 62u);
    double assumed =
        is_27b ? (double)(metadata->hidden_size / metadata->head_count) : (double)maker->head_size;
    return number_or(maker->config, "query_pre_attn_scalar", NULL, is_second ? 224.0 : 256.0) == assumed
               ? true
               : unsupported(maker, "query_pre_attn_scalar",
                             "is another than llama.cpp assumes for this shape");
}

static bool make_experts(struct maker *maker)
{
    uint64_t used = 0, size = 0;
    bool is_mixtral = is_type(maker, "mixtral");
    maker->metadata->expert_count = size_or(maker->config, "num_local_experts", "num_experts", 0);
    if (maker->metadata->expert_count == 0 || maker->metadata->expert_count > 1024) {
        return unsupported(maker, "num_local_experts", "is not 1..1024");
    }
    if (!get_size(maker, "num_experts_per_tok", NULL, &used)) {
        return false;
    }
    put_size(maker, ".expert_count", maker->metadata->expert_count);
    put_size(maker, ".expert_used_count", used);
    if (is_mixtral) {
        return true;
    }
    if (!get_size(maker, "moe_intermediate_size", NULL, &size)) {
        return false;
    }
    put_size(maker, ".expert_feed_forward_length", size);
    if (!bool_or(maker->config, "norm_topk_prob", false)) {
        return unsupported(maker, "norm_topk_prob", "is false");
    }
    if (json_array_size(json_object_get(maker->config, "mlp_only_layers")) > 0 ||
        size_or(maker->config, "decoder_sparse_step", NULL, 1) != 1) {
        return unsupported(maker, "mlp_only_layers", "has layers without experts");
    }
    return true;
}

/* A window that llama.cpp does not apply in this family does nothing in a context that is no longer. */
static void shorten_context(struct maker *maker)
{
    bool is_off = (is_type(maker, "qwen2") || is_type(maker, "qwen3") || is_type(maker, "qwen3_moe")) &&
                  !bool_or(maker->config, "use_sliding_window", false);
    uint64_t window = size_or(maker->config, "sliding_window", NULL, 0);
    if (!is_gemma(maker) && !is_off && window > 0 && window < maker->context_tokens) {
        maker->context_tokens = window;
    }
}

static bool make_plain(struct maker *maker)
{
    const struct gguf_metadata *metadata = maker->metadata;
    if (metadata->layers == NULL) {
        put_size(maker, ".attention.head_count_kv", metadata->kv_head_count);
    }
    gguf_pairs_put_f32(maker->pairs, ".attention.layer_norm_rms_epsilon",
                       number_or(maker->config, "rms_norm_eps", NULL, 1e-6));
    bool is_explicit = member(maker->config, "head_dim", NULL) != NULL;
    if (is_explicit || metadata->layers != NULL ||
        maker->head_size * metadata->head_count != metadata->hidden_size) {
        put_size(maker, ".attention.key_length", maker->head_size);
        put_size(maker, ".attention.value_length", maker->head_size);
    }
    return make_rope(maker) && (!is_gemma(maker) || make_gemma(maker)) &&
           (!metadata->family->has_experts || make_experts(maker));
}

static bool make_older(struct maker *maker)
{
    gguf_pairs_put_f32(maker->pairs, ".attention.layer_norm_epsilon",
                       number_or(maker->config, "layer_norm_epsilon", "layer_norm_eps", 1e-5));
    if (is_type(maker, "gpt2")) {
        if (bool_or(maker->config, "scale_attn_by_inverse_layer_idx", false) ||
            !bool_or(maker->config, "scale_attn_weights", true)) {
            return unsupported(maker, "scale_attn_weights", "is another scale of attention");
        }
        return true;
    }
    if (!bool_or(maker->config, "attention_bias", true)) {
        return unsupported(maker, "attention_bias", "is false");
    }
    if (maker->metadata->has_tied_head) {
        return unsupported(maker, "tie_word_embeddings", "is true in a GPT-NeoX model");
    }
    gguf_pairs_put_bool(maker->pairs, ".use_parallel_residual",
                        bool_or(maker->config, "use_parallel_residual", true));
    return make_rope(maker);
}

static bool read_sizes(struct maker *maker)
{
    struct gguf_metadata *metadata = maker->metadata;
    bool is_gpt2 = is_type(maker, "gpt2");
    if (!get_size(maker, "num_hidden_layers", "n_layer", &metadata->layer_count) ||
        !get_size(maker, "hidden_size", "n_embd", &metadata->hidden_size) ||
        !get_size(maker, "num_attention_heads", "n_head", &metadata->head_count) ||
        !get_size(maker, "max_position_embeddings", "n_positions", &maker->context_tokens)) {
        return false;
    }
    metadata->kv_head_count = size_or(maker->config, "num_key_value_heads", NULL, metadata->head_count);
    maker->head_size = size_or(maker->config, "head_dim", NULL, metadata->hidden_size / metadata->head_count);
    if (maker->head_size == 0 || metadata->kv_head_count == 0) {
        return unsupported(maker, "head_dim", "or num_key_value_heads is 0");
    }
    metadata->head_size = maker->head_size;
    /* transformers' own defaults */
    bool ties = is_gpt2 || is_gemma(maker);
    metadata->has_tied_head = bool_or(maker->config, "tie_word_embeddings", ties);
    return true;
}

bool gguf_can_differ(const char *model_type)
{
    const struct gguf_family *family = gguf_family_of(model_type);
    return family != NULL && strcmp(family->architecture, "llama") == 0 && !family->has_experts;
}

bool gguf_metadata_write(const json_t *config, struct gguf_pairs *pairs, struct gguf_metadata *ret_metadata,
                         struct error *error)
{
    struct gguf_metadata metadata = {0};
    struct maker maker = {.config = config, .pairs = pairs, .metadata = &metadata, .error = error};
    const char *type = json_string_value(json_object_get(config, "model_type"));
    const char *base = type != NULL ? model_config_stock_type(type) : NULL;
    bool is_layered = base != NULL;
    const char *stock = is_layered ? base : type;
    metadata.family = type != NULL ? gguf_family_of(stock) : NULL;
    if (is_layered && !gguf_can_differ(stock)) {
        return error_set_field(
            error, ERROR_UNSUPPORTED, "config.json/model_type",
            "GGUF has layers that differ in its architecture deci alone, which computes as Llama "
            "does; models of type %.60s do not",
            stock);
    }
    if (metadata.family == NULL) {
        return error_set_field(error, ERROR_UNSUPPORTED, "config.json/model_type",
                               "GGUF is not written for models of type \"%.60s\"", type != NULL ? type : "");
    }
    maker.type = metadata.family->model_type;
    pairs->architecture = is_layered ? "deci" : metadata.family->architecture;
    uint64_t ffn = 0;
    if (!read_sizes(&maker) || !check_activation(&maker)) {
        return false;
    }
    ffn = size_or(config, "intermediate_size", "n_inner",
                  is_type(&maker, "gpt2") ? 4 * metadata.hidden_size : 0);
    shorten_context(&maker);
    if (is_layered && !gguf_layers_read(config, &metadata, maker.head_size, ffn, error)) {
        gguf_metadata_finish(&metadata);
        return false;
    }
    gguf_pairs_put_text(pairs, "general.architecture", pairs->architecture);
    gguf_pairs_put_text(pairs, "general.type", "model");
    put_size(&maker, ".block_count", metadata.layer_count);
    put_size(&maker, ".context_length", maker.context_tokens);
    put_size(&maker, ".embedding_length", metadata.hidden_size);
    if (is_layered) {
        gguf_layers_put(&metadata, pairs);
    } else {
        put_size(&maker, ".feed_forward_length", ffn);
        put_size(&maker, ".attention.head_count", metadata.head_count);
    }
    bool is_older = is_type(&maker, "gpt2") || is_type(&maker, "gpt_neox");
    bool is_good = is_older ? make_older(&maker) : make_plain(&maker);
    if (!is_good) {
        gguf_metadata_finish(&metadata);
        return false;
    }
    *ret_metadata = metadata;
    return true;
}

void gguf_metadata_finish(struct gguf_metadata *metadata)
{
    for (size_t i = 0; i < GGUF_FACTORS_COUNT; i++) {
        free(metadata->factors[i]);
    }
    free(metadata->layers);
    free(metadata->ones);
    *metadata = (struct gguf_metadata){0};
}
