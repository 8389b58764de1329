/*
 * workers/model/config.h: config.json, checked, in one vocabulary for all families. Allow-listed keys with ranges
 * (reliability section 8); a key that would change the arithmetic and is not known is UNSUPPORTED, naming the key. What a
 * family fixes by itself stands in its row of architecture.h; what a config may choose stands here.
 *
 * Heterogeneous models (our own export) have model_type "pruned_<family>" and say layer by layer what is left:
 *
 *     "pruning": {"layers": [{"attention": {"num_attention_heads": n, "num_key_value_heads": n} or false,
 *                             "ffn": {"intermediate_size": n} or {"num_experts": n, "num_experts_per_tok": n,
 *                                    "intermediate_size": n} or false}, ...],
 *                 "head_dim": n}               where the family's heads divide the hidden size otherwise
 *
 * DeciLM folders of ours (MODEL_DECILM_TYPE) say the same beside "block_configs", which are not read.
 * true, for either, is what the rest of the config says.
 */
#ifndef WORKERS_MODEL_CONFIG_H
#define WORKERS_MODEL_CONFIG_H

#include "base/error.h"
#include "base/json.h"
#include "workers/tensor/backend.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MODEL_LAYERS_MAX  1024
#define MODEL_EXPERTS_MAX 1024
#define ROPE_PAIRS_MAX    512

struct model_layer {
    bool has_attention, has_ffn;
    size_t head_count, kv_head_count;
    size_t intermediate_size; /* of the FFN, or of each expert */
    size_t window_tokens;     /* attention sees the last so many tokens, its own included; 0: all */
    size_t rope;              /* index into model_config.ropes */
    size_t expert_count, active_expert_count; /* 0: a plain FFN */
};
/* "linear", "llama3" (Llama 3.1+), "yarn", "longrope"; kind NULL: none. */
struct rope_scaling {
    const char *kind;
    double factor, low_freq_factor, high_freq_factor, beta_fast, beta_slow;
    double attention_factor; /* cosines and sines are multiplied by it; 1: not */
    size_t original_context_tokens;
    double short_factors[ROPE_PAIRS_MAX], long_factors[ROPE_PAIRS_MAX]; /* longrope, [rotary_size / 2] */
};
struct rope_config {
    double base;
    struct rope_scaling scaling;
};
enum position_kind { POSITION_ROPE, POSITION_LEARNED, POSITION_NONE };
struct model_config {
    const char *model_type; /* of the architecture row: static, without "pruned_" */
    bool is_heterogeneous;  /* config.json says layer by layer what is there */
    char prefix[32]; /* of tensor names: the row's, or "" where the files lack it (set by the inventory) */
    size_t layer_count, hidden_size, intermediate_size, head_count, kv_head_count, head_size, vocab_size,
        context_tokens;
    double norm_epsilon;
    enum activation activation;
    enum position_kind position_kind;
    size_t position_rows, position_offset; /* learned: rows of the table; token t reads row t + offset */
    size_t token_type_count;
    struct rope_config ropes[2]; /* 1: of local layers, where a family has two */
    size_t rotary_size;          /* elements of a head that turn; even */
    bool has_tied_head;
    bool has_qkv_bias, has_o_bias, has_ffn_bias; /* that tensors of such roles are there */
    bool is_parallel;                            /* the FFN reads what its layer's attention read */
    bool normalises_experts;                     /* weights of the chosen experts are divided by their sum */
    double embedding_scale; /* embeddings are multiplied by it, rounded to fp32 as transformers rounds it */
    double attention_scale; /* of q k^T */
    double attention_softcap, final_softcap; /* 0: none */
    int32_t bos_token, eos_tokens[8];        /* -1: none */
    size_t eos_token_count;
    struct model_layer layers[MODEL_LAYERS_MAX]; /* [layer_count] */
};
/* All faults at once; field: the key ("config.json/hidden_size"). */
bool model_config_parse(const json_t *json, struct model_config *ret_config, struct error_list *faults);
#define MODEL_HETEROGENEOUS_PREFIX "pruned_"
#define MODEL_DECILM_TYPE          "nemotron-nas" /* heterogeneous Llama, with "pruning" beside its block_configs */
/* The stock model_type that a heterogeneous one is of; NULL: it is none. Borrowed from it, or static. */
const char *model_config_stock_type(const char *model_type);
/* For whoever writes a config.json with other layers: the key of the number of layers; whether windows, or FFNs without
 * experts, follow from layers' numbers or lists (then `layer_types`, `mlp_only_layers` say them layer by layer). */
const char *model_config_layer_count_key(const struct model_config *config);
/* Keys of other sizes; NULL: the family has none. */
struct model_config_keys {
    const char *hidden, *heads, *kv_heads, *head_size, *ffn, *expert_ffn, *attention_bias, *ffn_bias;
};
void model_config_find_keys(const struct model_config *config, struct model_config_keys *ret_keys);
bool model_config_lists_windows(const struct model_config *config);
bool model_config_lists_plain_layers(const struct model_config *config);
/* The architectures' names, NULL-terminated, for the catalogue. */
const char *const *model_config_architectures(void);

#endif
