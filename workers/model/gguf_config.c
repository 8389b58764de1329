/*
 * workers/model/gguf_config.c: GGUF metadata as config.json. What llama.cpp assumes for a family without a key for
 * it is written out here (the activation, Gemma's query scale and windows), so that the arithmetic is the same. A key of
 * the architecture that is not known and not switched off could change it, and is refused; so is what config.json
 * cannot say.
 *
 * Numbers are fp32 in the file; they become the shortest decimal that reads back as the same fp32, which is what the
 * original config.json most likely said (1e-05, not 9.999999747378752e-06).
 */
#include "workers/model/gguf_internal.h"

#include "base/check.h"
#include "base/text.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INTEGER_MAX ((uint64_t)INT32_MAX)

struct converter {
    const struct gguf *gguf;
    const struct gguf_family *family;
    json_t *config;
    struct error_list *faults;
    uint64_t layer_count, hidden_size, head_count, kv_head_count, head_size, rotary_size, context_tokens;
    double rope_base;
    struct gguf_layer_sizes *layers; /* [layer_count], owned; NULL: all alike */
};

static const char *const known_keys[] = {
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "block_count",
    "vocab_size",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "attention.causal",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.freq_base_swa",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.attn_factor",
    "rope.scaling.finetuned",
    "expert_count",
    "expert_used_count",
    "expert_feed_forward_length",
    "use_parallel_residual",
    "pooling_type",
    "tensor_data_layout",
};

/* ---- reading keys ---------------------------------------------------------------------------------------- */

const char *gguf_key(const struct gguf *gguf, const char *name, char ret_key[GGUF_KEY_BYTES])
{
    (void)snprintf(ret_key, GGUF_KEY_BYTES, "%.40s.%s", gguf->architecture, name);
    return ret_key;
}

const struct gguf_family *gguf_family_read(const struct gguf *gguf, struct error *error)
{
    char key[GGUF_KEY_BYTES];
    uint64_t experts = 0;
    if (!gguf_find_u64(gguf, gguf_key(gguf, "expert_count", key), 0, GGUF_EXPERTS_MAX, &experts, error)) {
        return NULL;
    }
    const struct gguf_family *family = gguf_family_find(gguf->architecture, experts > 0);
    if (family == NULL) {
        (void)error_set_field(
            error, ERROR_UNSUPPORTED, "general.architecture",
            "GGUF architecture \"%.60s\"%s is not known; llama, qwen2, qwen3, qwen3moe, gemma2, "
            "gemma3, phi3, gpt2, gptneox, bert and deci are",
            gguf->architecture, experts > 0 ? " with experts" : "");
    }
    return family;
}

bool gguf_find_layered(const struct gguf *gguf, const char *name, uint64_t max, uint64_t *ret_value,
                       struct error *error)
{
    char key[GGUF_KEY_BYTES];
    const struct gguf_pair *pair = gguf_find(gguf, gguf_key(gguf, name, key));
    int64_t first = 0, other = 0;
    if (pair == NULL || !pair->is_array) {
        return gguf_find_u64(gguf, key, 0, max, ret_value, error);
    }
    for (size_t i = 0; i < pair->count; i++) {
        if (!gguf_integer_at(pair, i, i == 0 ? &first : &other) || first < 0 || (uint64_t)first > max) {
            return error_set_field(error, ERROR_WRONG_TYPE, key, "GGUF key %s: integers in range are needed",
                                   key);
        }
        if (i > 0 && other != first) {
            return error_set_field(error, ERROR_UNSUPPORTED, key, "GGUF key %s differs from layer to layer",
                                   key);
        }
    }
    *ret_value = pair->count > 0 ? (uint64_t)first : *ret_value;
    return true;
}

bool gguf_read_heads(const struct gguf *gguf, size_t *ret_heads, size_t *ret_kv_heads, struct error *error)
{
    char key[GGUF_KEY_BYTES];
    uint64_t heads = 0, kv_heads = 0;
    if (!gguf_find_layered(gguf, "attention.head_count", 1024, &heads, error)) {
        return false;
    }
    kv_heads = heads;
    if (!gguf_find_layered(gguf, "attention.head_count_kv", 1024, &kv_heads, error)) {
        return false;
    }
    if (heads == 0 || kv_heads == 0) {
        gguf_key(gguf, heads == 0 ? "attention.head_count" : "attention.head_count_kv", key);
        return error_set_field(error, heads == 0 ? ERROR_MISSING_FIELD : ERROR_OUT_OF_RANGE, key,
                               "GGUF key %s must be 1 or more", key);
    }
    *ret_heads = (size_t)heads;
    *ret_kv_heads = (size_t)kv_heads;
    return true;
}

static void note(struct converter *converter, const struct error *error)
{
    (void)error_list_add_error(converter->faults, error);
}

static void unsupported(struct converter *converter, const char *name, const char *what)
{
    char key[GGUF_KEY_BYTES];
    gguf_key(converter->gguf, name, key);
    (void)error_list_add(converter->faults, ERROR_UNSUPPORTED, key, "GGUF key %s %s", key, what);
}

static bool has_key(const struct converter *converter, const char *name)
{
    char key[GGUF_KEY_BYTES];
    return gguf_find(converter->gguf, gguf_key(converter->gguf, name, key)) != NULL;
}

/* 0 where it is absent; required: then a fault. */
static uint64_t get_size(struct converter *converter, const char *name, bool is_required)
{
    struct error error = {0};
    uint64_t value = 0;
    char key[GGUF_KEY_BYTES];
    if (!gguf_find_layered(converter->gguf, name, INTEGER_MAX, &value, &error)) {
        note(converter, &error);
    } else if (is_required && value == 0) {
        gguf_key(converter->gguf, name, key);
        (void)error_list_add(converter->faults, ERROR_MISSING_FIELD, key, "GGUF key %s must be 1 or more",
                             key);
    }
    return value;
}

static double shortest(double value)
{
    for (int digits = 1; digits < 9; digits++) {
        char text[40];
        (void)snprintf(text, sizeof text, "%.*g", digits, value);
        double back = strtod(text, NULL);
        if ((float)back == (float)value) { /* NOLINT: equality is meant */
            return back;
        }
    }
    return value;
}

static double get_number(struct converter *converter, const char *name, double fallback)
{
    struct error error = {0};
    char key[GGUF_KEY_BYTES];
    double value = fallback;
    if (!gguf_find_f64(converter->gguf, gguf_key(converter->gguf, name, key), &value, &error)) {
        note(converter, &error);
    }
    if (!isfinite(value)) {
        unsupported(converter, name, "is not finite");
        return fallback;
    }
    return shortest(value);
}

static bool get_bool(struct converter *converter, const char *name, bool fallback)
{
    struct error error = {0};
    char key[GGUF_KEY_BYTES];
    bool value = fallback;
    if (!gguf_find_bool(converter->gguf, gguf_key(converter->gguf, name, key), &value, &error)) {
        note(converter, &error);
    }
    return value;
}

static void put_size(struct converter *converter, const char *name, uint64_t value)
{
    json_put_i64(converter->config, name, (int64_t)value);
}

static void put_number(struct converter *converter, const char *name, double value)
{
    json_put_double(converter->config, name, value);
}

/* ---- rotary position embedding --------------------------------------------------------------------------- */

/* Whether the factors are those of Llama 3's rule with the given original context: frequencies whose wavelength is
 * past original / 1 are divided by `factor`, those below original / 4 are left, those between in between. */
static bool is_llama3(const struct converter *converter, const struct gguf_factors *factors, double factor,
                      double original)
{
    for (size_t i = 0; i < factors->count; i++) {
        double frequency = pow(converter->rope_base, -2.0 * (double)i / (double)converter->rotary_size);
        double turns = original * frequency / (2.0 * M_PI); /* over the original context */
        double share = (turns - 1.0) / 3.0;
        share = share < 0.0 ? 0.0 : share > 1.0 ? 1.0 : share;
        double should = 1.0 / ((1.0 - share) / factor + share);
        if (!(fabs((double)factors->values[i] - should) <= 2e-5 * should)) {
            return false;
        }
    }
    return true;
}

static json_t *llama3_scaling(struct converter *converter, const struct gguf_factors *factors)
{
    double factor = 1.0;
    for (size_t i = 0; i < factors->count; i++) {
        factor = (double)factors->values[i] > factor ? (double)factors->values[i] : factor;
    }
    factor = shortest(factor);
    /* 8192 first, which all released models have; then the other powers of two. */
    for (int power = 12; factor > 1.0 && power <= 24; power++) {
        double original = power == 12 ? 8192.0 : ldexp(1.0, power - 8);
        if (isfinite(factor) && factors->count == converter->rotary_size / 2 &&
            is_llama3(converter, factors, factor, original)) {
            json_t *scaling = json_object();
            json_put_text(scaling, "rope_type", "llama3");
            json_put_double(scaling, "factor", factor);
            json_put_double(scaling, "low_freq_factor", 1.0);
            json_put_double(scaling, "high_freq_factor", 4.0);
            json_put_i64(scaling, "original_max_position_embeddings", (int64_t)original);
            return scaling;
        }
    }
    return NULL;
}

static void convert_freqs(struct converter *converter)
{
    const struct gguf_factors *factors = &converter->gguf->factors[GGUF_ROPE_FREQS];
    bool is_plain = true;
    for (size_t i = 0; i < factors->count; i++) {
        is_plain = is_plain && factors->values[i] == 1.0f; /* NOLINT: equality is meant */
    }
    if (is_plain) {
        return;
    }
    bool is_llama = strcmp(converter->family->model_type, "llama") == 0;
    json_t *scaling = is_llama ? llama3_scaling(converter, factors) : NULL;
    if (scaling == NULL || json_object_get(converter->config, "rope_scaling") != NULL) {
        json_decref(scaling);
        (void)error_list_add(converter->faults, ERROR_UNSUPPORTED, gguf_factor_names[GGUF_ROPE_FREQS],
                             "GGUF tensor %s holds factors that are not those of Llama 3's rule",
                             gguf_factor_names[GGUF_ROPE_FREQS]);
        return;
    }
    json_put(converter->config, "rope_scaling", scaling);
}

static json_t *factor_list(const struct gguf_factors *factors)
{
    json_t *list = json_array();
    for (size_t i = 0; i < factors->count; i++) {
        CHECK(json_array_append_new(list, json_real(shortest((double)factors->values[i]))) == 0);
    }
    return list;
}

/* Phi-3's: two lists of factors, the second from the original context length on. */
static void convert_longrope(struct converter *converter)
{
    const struct gguf_factors *lists = converter->gguf->factors;
    const struct gguf_factors *longs = &lists[GGUF_ROPE_FACTORS_LONG],
                              *shorts = &lists[GGUF_ROPE_FACTORS_SHORT];
    uint64_t original = get_size(converter, "rope.scaling.original_context_length", longs->count > 0);
    if (original > 0) {
        put_size(converter, "original_max_position_embeddings", original);
    }
    if (longs->count == 0 && shorts->count == 0) {
        return;
    }
    bool is_phi3 = strcmp(converter->family->architecture, "phi3") == 0;
    bool is_finite = true;
    for (size_t i = 0; i < longs->count && longs->count == shorts->count; i++) {
        is_finite = is_finite && isfinite(longs->values[i]) && isfinite(shorts->values[i]);
    }
    if (!is_phi3 || longs->count != shorts->count || longs->count != converter->rotary_size / 2 ||
        !is_finite || json_object_get(converter->config, "rope_scaling") != NULL) {
        (void)error_list_add(converter->faults, ERROR_UNSUPPORTED, gguf_factor_names[GGUF_ROPE_FACTORS_LONG],
                             "the GGUF file's rope_factors are not those of a Phi-3 model");
        return;
    }
    json_t *scaling = json_object();
    json_put_text(scaling, "rope_type", "longrope");
    json_put(scaling, "long_factor", factor_list(longs));
    json_put(scaling, "short_factor", factor_list(shorts));
    /* The rule of config.json's reader, unless the file says another number. */
    double ratio = original > 0 ? (double)converter->context_tokens / (double)original : 1.0;
    double usual = ratio > 1.0 && original > 1 ? sqrt(1.0 + log(ratio) / log((double)original)) : 1.0;
    double stated = get_number(converter, "rope.scaling.attn_factor", usual);
    if (fabs(stated - usual) > 1e-6) {
        json_put_double(scaling, "attention_factor", stated);
    }
    json_put(converter->config, "rope_scaling", scaling);
}

static void convert_linear(struct converter *converter)
{
    char key[GGUF_KEY_BYTES];
    struct error error = {0};
    const char *type = NULL;
    if (!gguf_find_string(converter->gguf, gguf_key(converter->gguf, "rope.scaling.type", key), &type,
                          &error)) {
        note(converter, &error);
    }
    double factor =
        get_number(converter, "rope.scaling.factor", get_number(converter, "rope.scale_linear", 1.0));
    bool is_none = type == NULL ? factor == 1.0 || factor == 0.0 : strcmp(type, "none") == 0;
    if (type != NULL && strcmp(type, "linear") != 0 && !is_none &&
        !(strcmp(type, "longrope") == 0 && converter->gguf->factors[GGUF_ROPE_FACTORS_LONG].count > 0)) {
        unsupported(converter, "rope.scaling.type", "is neither none nor linear");
        return;
    }
    if (!is_none && factor != 1.0 && (type == NULL || strcmp(type, "linear") == 0)) {
        json_t *scaling = json_object();
        json_put_text(scaling, "rope_type", "linear");
        json_put_double(scaling, "factor", factor);
        json_put(converter->config, "rope_scaling", scaling);
    }
}

static void convert_rope(struct converter *converter)
{
    bool is_neox = strcmp(converter->family->architecture, "gptneox") == 0;
    converter->rope_base = get_number(converter, "rope.freq_base", 10000.0);
    converter->rotary_size = get_size(converter, "rope.dimension_count", false);
    if (converter->rotary_size == 0) {
        converter->rotary_size = converter->head_size;
    }
    put_number(converter, is_neox ? "rotary_emb_base" : "rope_theta", converter->rope_base);
    double share = (double)converter->rotary_size / (double)converter->head_size;
    bool may_be_part = is_neox || strcmp(converter->family->architecture, "phi3") == 0;
    if (converter->rotary_size != converter->head_size && (!may_be_part || share > 1.0)) {
        unsupported(converter, "rope.dimension_count", "is not the size of a head");
    }
    if (is_neox) {
        put_number(converter, "rotary_pct", share);
    } else if (may_be_part && share < 1.0) {
        put_number(converter, "partial_rotary_factor", share);
    }
    convert_linear(converter);
    convert_freqs(converter);
    convert_longrope(converter);
}

/* ---- families -------------------------------------------------------------------------------------------- */

static void convert_gemma(struct converter *converter)
{
    bool is_second = strcmp(converter->family->architecture, "gemma2") == 0;
    /* The largest of each generation scales queries by the hidden size's share of a head. */
    bool is_27b = converter->layer_count == (is_second ? 46 : 62);
    put_size(converter, "query_pre_attn_scalar",
             is_27b ? converter->hidden_size / converter->head_count : converter->head_size);
    json_put_text(converter->config, "hidden_activation", "gelu_pytorch_tanh");
    uint64_t window = get_size(converter, "attention.sliding_window", !is_second);
    put_size(converter, "sliding_window", window > 0 ? window : 4096);
    double attention_cap = get_number(converter, "attn_logit_softcapping", is_second ? 50.0 : 0.0);
    double final_cap = get_number(converter, "final_logit_softcapping", is_second ? 30.0 : 0.0);
    json_put(converter->config, "attn_logit_softcapping",
             attention_cap != 0.0 ? json_real(attention_cap) : json_null());
    json_put(converter->config, "final_logit_softcapping",
             final_cap != 0.0 ? json_real(final_cap) : json_null());
    uint64_t pattern = has_key(converter, "attention.sliding_window_pattern")
                           ? get_size(converter, "attention.sliding_window_pattern", true)
                           : (is_second ? 2 : 6);
    if (is_second && pattern != 2) {
        unsupported(converter, "attention.sliding_window_pattern", "is not 2");
    }
    if (!is_second) {
        put_size(converter, "sliding_window_pattern", pattern);
        put_number(converter, "rope_local_base_freq", get_number(converter, "rope.freq_base_swa", 10000.0));
    }
}

static void convert_experts(struct converter *converter)
{
    bool is_mixtral = strcmp(converter->family->model_type, "mixtral") == 0;
    uint64_t size = get_size(converter, "expert_feed_forward_length", !is_mixtral);
    put_size(converter, is_mixtral ? "num_local_experts" : "num_experts",
             get_size(converter, "expert_count", true));
    put_size(converter, "num_experts_per_tok", get_size(converter, "expert_used_count", true));
    if (is_mixtral) {
        return;
    }
    put_size(converter, "moe_intermediate_size", size);
    put_size(converter, "decoder_sparse_step", 1);
    json_put(converter->config, "norm_topk_prob", json_true());
}

static void convert_sizes(struct converter *converter)
{
    const struct gguf_tensor *embedding = gguf_find_tensor(converter->gguf, "token_embd.weight");
    uint64_t ffn = converter->layers != NULL
                       ? gguf_widest_layer(converter->layers, (size_t)converter->layer_count).ffn
                       : get_size(converter, "feed_forward_length", !converter->family->has_experts);
    if (embedding == NULL || embedding->rank != 2) {
        (void)error_list_add(converter->faults, ERROR_CORRUPT_FILE, "token_embd.weight",
                             "GGUF tensor token_embd.weight is missing or no matrix");
    } else {
        put_size(converter, "vocab_size", embedding->shape[0]);
    }
    bool is_gpt2 = strcmp(converter->family->model_type, "gpt2") == 0;
    put_size(converter, is_gpt2 ? "n_layer" : "num_hidden_layers", converter->layer_count);
    put_size(converter, is_gpt2 ? "n_embd" : "hidden_size", converter->hidden_size);
    put_size(converter, is_gpt2 ? "n_head" : "num_attention_heads", converter->head_count);
    put_size(converter, is_gpt2 ? "n_positions" : "max_position_embeddings", converter->context_tokens);
    if (ffn > 0 || strcmp(converter->family->model_type, "mixtral") == 0) {
        uint64_t experts = get_size(converter, "expert_feed_forward_length", false);
        put_size(converter, is_gpt2 ? "n_inner" : "intermediate_size", ffn > 0 ? ffn : experts);
    }
}

/* In any layer. */
static bool has_tensor(const struct converter *converter, const char *name)
{
    for (size_t i = 0; i < converter->layer_count; i++) {
        char full[64];
        (void)snprintf(full, sizeof full, "blk.%zu.%s", i, name);
        if (gguf_find_tensor(converter->gguf, full) != NULL) {
            return true;
        }
    }
    return false;
}

static void convert_plain(struct converter *converter)
{
    const char *type = converter->family->model_type;
    put_size(converter, "num_key_value_heads", converter->kv_head_count);
    put_number(converter, "rms_norm_eps", get_number(converter, "attention.layer_norm_rms_epsilon", 1e-6));
    bool is_gemma = strcmp(type, "gemma2") == 0 || strcmp(type, "gemma3_text") == 0;
    bool is_qwen3 = strcmp(type, "qwen3") == 0 || strcmp(type, "qwen3_moe") == 0;
    if (is_gemma || is_qwen3 || converter->head_size * converter->head_count != converter->hidden_size) {
        put_size(converter, "head_dim", converter->head_size);
    }
    if (!is_gemma) {
        json_put_text(converter->config, "hidden_act", "silu");
    }
    if (strcmp(type, "llama") == 0) {
        json_put(converter->config, "attention_bias", json_boolean(has_tensor(converter, "attn_q.bias")));
        json_put(converter->config, "mlp_bias", json_boolean(has_tensor(converter, "ffn_up.bias")));
    }
    if (strcmp(type, "qwen2") == 0) {
        json_put(converter->config, "use_sliding_window", json_false());
    }
    if (strcmp(type, "phi3") == 0) {
        uint64_t window = get_size(converter, "attention.sliding_window", false);
        json_put(converter->config, "sliding_window",
                 window > 0 ? json_integer((json_int_t)window) : json_null());
    } else if (!is_gemma && get_size(converter, "attention.sliding_window", false) > 0) {
        unsupported(converter, "attention.sliding_window", "is set, which the family does not have in GGUF");
    }
    if (is_gemma) {
        convert_gemma(converter);
    }
    if (converter->family->has_experts) {
        convert_experts(converter);
    }
    convert_rope(converter);
}

/* gpt2, gpt_neox, bert: layer norms, no key-value heads of their own. */
static void convert_older(struct converter *converter)
{
    const char *type = converter->family->model_type;
    bool is_gpt2 = strcmp(type, "gpt2") == 0, is_bert = strcmp(type, "bert") == 0;
    double epsilon = get_number(converter, "attention.layer_norm_epsilon", 1e-5);
    put_number(converter, is_gpt2 ? "layer_norm_epsilon" : "layer_norm_eps", epsilon);
    if (converter->kv_head_count != converter->head_count) {
        unsupported(converter, "attention.head_count_kv", "is not attention.head_count");
    }
    json_put_text(converter->config, is_gpt2 ? "activation_function" : "hidden_act",
                  is_gpt2 ? "gelu_new" : "gelu");
    if (is_bert) {
        const struct gguf_tensor *types = gguf_find_tensor(converter->gguf, "token_types.weight");
        const struct gguf_tensor *positions = gguf_find_tensor(converter->gguf, "position_embd.weight");
        put_size(converter, "type_vocab_size", types != NULL && types->rank == 2 ? types->shape[0] : 1);
        if (positions != NULL) {
            put_size(converter, "max_position_embeddings", positions->shape[0]);
        }
        if (get_bool(converter, "attention.causal", false)) {
            unsupported(converter, "attention.causal", "is true in an encoder");
        }
        uint64_t pooling = get_size(converter, "pooling_type", false);
        if (pooling > 1) {
            unsupported(converter, "pooling_type", "is neither none nor mean");
        }
    } else if (!is_gpt2) {
        json_put(converter->config, "use_parallel_residual",
                 json_boolean(get_bool(converter, "use_parallel_residual", true)));
        convert_rope(converter);
    }
}

/* ---- the whole ------------------------------------------------------------------------------------------- */

static bool is_switched_off(const struct gguf_pair *pair)
{
    double value = 0.0;
    return pair->count == 0 ||
           (!pair->is_array && (pair->type == GGUF_TEXT ? pair->texts[0].length == 0
                                                        : gguf_number_at(pair, 0, &value) && value == 0.0));
}

static void refuse_unknown_keys(struct converter *converter)
{
    const struct gguf *gguf = converter->gguf;
    size_t length = strlen(gguf->architecture);
    for (size_t i = 0; i < gguf->pair_count; i++) {
        const struct gguf_pair *pair = &gguf->pairs[i];
        bool is_known = strncmp(pair->key, gguf->architecture, length) != 0 || pair->key[length] != '.' ||
                        is_switched_off(pair);
        for (size_t k = 0; !is_known && k < sizeof known_keys / sizeof known_keys[0]; k++) {
            is_known = strcmp(pair->key + length + 1, known_keys[k]) == 0;
        }
        if (!is_known) {
            (void)error_list_add(converter->faults, ERROR_UNSUPPORTED, pair->key,
                                 "GGUF key %.120s is not known; it could change what the model computes",
                                 pair->key);
        }
    }
    const char *type = "model";
    struct error error = {0};
    if (!gguf_find_string(gguf, "general.type", &type, &error)) {
        note(converter, &error);
    } else if (strcmp(type, "model") != 0) {
        (void)error_list_add(converter->faults, ERROR_UNSUPPORTED, "general.type",
                             "the GGUF file holds no model but \"%.60s\"", type);
    }
}

static void convert_tokens(struct converter *converter)
{
    static const struct {
        const char *key, *name;
    } tokens[] = {{"tokenizer.ggml.bos_token_id", "bos_token_id"},
                  {"tokenizer.ggml.eos_token_id", "eos_token_id"},
                  {"tokenizer.ggml.padding_token_id", "pad_token_id"}};
    for (size_t i = 0; i < sizeof tokens / sizeof tokens[0]; i++) {
        struct error error = {0};
        uint64_t id = UINT64_MAX;
        if (!gguf_find_u64(converter->gguf, tokens[i].key, 0, UINT32_MAX, &id, &error)) {
            note(converter, &error);
        } else if (id < INTEGER_MAX) { /* 2^32 - 1 says that there is none */
            put_size(converter, tokens[i].name, id);
        }
    }
}

static bool read_shape(struct converter *converter)
{
    size_t before = converter->faults->count;
    struct error error = {0};
    size_t heads = 1, kv_heads = 1;
    converter->layer_count = get_size(converter, "block_count", true);
    converter->hidden_size = get_size(converter, "embedding_length", true);
    converter->context_tokens = get_size(converter, "context_length", true);
    size_t count = 0;
    if (converter->family->has_layers) {
        if (gguf_read_layers(converter->gguf, &converter->layers, &count, &error)) {
            struct gguf_layer_sizes widest = gguf_widest_layer(converter->layers, count);
            heads = widest.head_count > 0 ? widest.head_count : 1;
            kv_heads = widest.kv_head_count > 0 ? widest.kv_head_count : 1;
        } else {
            note(converter, &error);
        }
    } else if (!gguf_read_heads(converter->gguf, &heads, &kv_heads, &error)) {
        note(converter, &error);
    }
    converter->head_count = heads;
    converter->kv_head_count = kv_heads;
    converter->head_size = get_size(converter, "attention.key_length", false);
    uint64_t value_size = get_size(converter, "attention.value_length", false);
    if (value_size != converter->head_size && value_size != 0) {
        unsupported(converter, "attention.value_length", "is not attention.key_length");
    }
    if (converter->head_size == 0) {
        converter->head_size = converter->hidden_size / converter->head_count;
    }
    if (converter->head_size == 0 && converter->faults->count == before) {
        unsupported(converter, "attention.head_count", "is larger than embedding_length");
    }
    return converter->faults->count == before;
}

static void convert_layers(struct converter *converter)
{
    json_t *pruning = json_object();
    json_put_text(converter->config, "model_type", "pruned_llama");
    json_put(pruning, "layers", gguf_format_layers(converter->layers, (size_t)converter->layer_count));
    json_put(converter->config, "pruning", pruning);
}

json_t *gguf_config(const struct gguf *gguf, struct error_list *faults)
{
    struct error error = {0};
    size_t before = faults->count;
    struct converter converter = {.gguf = gguf, .faults = faults};
    converter.family = gguf_family_read(gguf, &error);
    if (converter.family == NULL) {
        (void)error_list_add_error(faults, &error);
        return NULL;
    }
    if (!read_shape(&converter)) {
        free(converter.layers);
        return NULL;
    }
    JSON_OWNED config = json_object();
    converter.config = config;
    json_put_text(config, "model_type", converter.family->model_type);
    json_t *classes = json_array();
    CHECK(json_array_append_new(classes, json_string(converter.family->class_name)) == 0);
    json_put(config, "architectures", classes);
    json_put(config, "tie_word_embeddings", json_boolean(gguf_find_tensor(gguf, "output.weight") == NULL));
    convert_sizes(&converter);
    bool is_older = strcmp(converter.family->model_type, "gpt2") == 0 ||
                    strcmp(converter.family->model_type, "gpt_neox") == 0 ||
                    strcmp(converter.family->model_type, "bert") == 0;
    if (is_older) {
        convert_older(&converter);
    } else {
        convert_plain(&converter);
    }
    if (converter.layers != NULL) {
        convert_layers(&converter);
    }
    convert_tokens(&converter);
    refuse_unknown_keys(&converter);
    free(converter.layers);
    return faults->count == before ? json_incref(config) : NULL;
}
