/*
 * workers/model/config.h: config.json, checked. An architecture is a row of a table, not a branch: which model_type, how its
 * tensors are called, which norms and biases it has. Allow-listed keys with ranges (reliability section 8); a key that would
 * change the arithmetic and is not known is UNSUPPORTED, naming the key.
 *
 * Heterogeneous models (our own export) carry "pruning": {"layers": [{"attention": bool, "ffn": bool}]} and
 * model_type "pruned_llama"; stock ones have both everywhere.
 */
#ifndef WORKERS_MODEL_CONFIG_H
#define WORKERS_MODEL_CONFIG_H

#include "base/error.h"
#include "base/json.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MODEL_LAYERS_MAX 1024

struct model_layer {
    bool has_attention, has_ffn;
    size_t head_count, kv_head_count, intermediate_size;
};
struct rope_scaling { /* "llama3" (Llama 3.1+) or "linear"; kind NULL: none */
    const char *kind;
    double factor, low_freq_factor, high_freq_factor;
    size_t original_context_tokens;
};
struct model_config {
    const char *model_type; /* of the architecture row: static */
    size_t layer_count, hidden_size, intermediate_size, head_count, kv_head_count, head_size, vocab_size,
        context_tokens;
    double norm_epsilon, rope_base;
    struct rope_scaling rope_scaling;
    bool has_tied_head, has_attention_bias, has_mlp_bias;
    int32_t bos_token, eos_tokens[8]; /* -1: none */
    size_t eos_token_count;
    struct model_layer layers[MODEL_LAYERS_MAX]; /* [layer_count] */
};
/* All faults at once; field: the key ("config.json/hidden_size"). */
bool model_config_parse(const json_t *json, struct model_config *ret_config, struct error_list *faults);
/* The architectures' names, NULL-terminated, for the catalogue. */
const char *const *model_config_architectures(void);

#endif
