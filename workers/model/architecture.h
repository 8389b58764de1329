/*
 * workers/model/architecture.h: families as rows of a table. A row says which biases and defaults a model_type has; the names
 * and shapes of all tensors follow from a config by role. Inventory checks against it, the weight source loads by it,
 * exporters rename with it.
 */
#ifndef WORKERS_MODEL_ARCHITECTURE_H
#define WORKERS_MODEL_ARCHITECTURE_H

#include "workers/model/config.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct architecture {
    const char *model_type;
    bool has_qkv_bias;     /* always; where false, config.json's attention_bias decides, and then for the output projection too */
    bool is_heterogeneous; /* config.json says per layer what is there */
};
const struct architecture *architecture_find(const char *model_type); /* NULL: none */

enum tensor_role {
    TENSOR_EMBEDDING,
    TENSOR_FINAL_NORM,
    TENSOR_HEAD, /* absent where it is tied to the embedding */
    TENSOR_ATTENTION_NORM,
    TENSOR_Q,
    TENSOR_K,
    TENSOR_V,
    TENSOR_O,
    TENSOR_Q_BIAS,
    TENSOR_K_BIAS,
    TENSOR_V_BIAS,
    TENSOR_O_BIAS,
    TENSOR_FFN_NORM,
    TENSOR_GATE,
    TENSOR_UP,
    TENSOR_DOWN,
    TENSOR_GATE_BIAS,
    TENSOR_UP_BIAS,
    TENSOR_DOWN_BIAS,
    TENSOR_ROLE_COUNT
};
enum tensor_part { TENSOR_PART_MODEL, TENSOR_PART_ATTENTION, TENSOR_PART_FFN };

struct tensor_shape {
    char name[96];
    enum tensor_part part;
    bool is_norm;      /* of its sublayer: goes with it, but is not prunable */
    size_t rank;       /* 1 or 2 */
    uint64_t shape[2]; /* weights: [out_features, in_features] */
    uint64_t count;    /* of elements */
};
/* The tensor of this role in this layer (ignored for the model's own). False: a model with this config has none. */
bool architecture_tensor(const struct model_config *config, enum tensor_role role, size_t layer, struct tensor_shape *ret_shape);
/* Calls visit for every tensor a model with this config has, in checkpoint order: embedding, layers, final norm, head. */
void architecture_visit(const struct model_config *config,
                        void (*visit)(enum tensor_role role, size_t layer, const struct tensor_shape *shape, void *context),
                        void *context);
/* Tensors that checkpoints carry and no forward pass needs: rotary buffers; the head of a model whose head is tied. */
bool architecture_ignores(const struct model_config *config, const char *tensor_name);

#endif
