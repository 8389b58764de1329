/*
 * workers/model/architecture.h: families as rows of a table. A row says which biases and defaults a
 * model_type has; the names and shapes of all tensors follow from a config by role. Inventory checks against
 * it, the weight source loads by it, exporters rename with it.
 */
#ifndef WORKERS_MODEL_ARCHITECTURE_H
#define WORKERS_MODEL_ARCHITECTURE_H

#include "workers/model/config.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct architecture {
    const char *model_type;
    bool has_qkv_bias; /* always; where false, config.json's attention_bias decides, and then for the output
                          projection too */
    bool is_heterogeneous; /* config.json says per layer what is there */
};
const struct architecture *architecture_find(const char *model_type); /* NULL: none */

enum weight_role {
    WEIGHT_EMBEDDING,
    WEIGHT_FINAL_NORM,
    WEIGHT_HEAD, /* absent where it is tied to the embedding */
    WEIGHT_ATTENTION_NORM,
    WEIGHT_Q,
    WEIGHT_K,
    WEIGHT_V,
    WEIGHT_O,
    WEIGHT_Q_BIAS,
    WEIGHT_K_BIAS,
    WEIGHT_V_BIAS,
    WEIGHT_O_BIAS,
    WEIGHT_FFN_NORM,
    WEIGHT_GATE,
    WEIGHT_UP,
    WEIGHT_DOWN,
    WEIGHT_GATE_BIAS,
    WEIGHT_UP_BIAS,
    WEIGHT_DOWN_BIAS,
    WEIGHT_ROLE_COUNT
};
enum weight_part { WEIGHT_PART_MODEL, WEIGHT_PART_ATTENTION, WEIGHT_PART_FFN };

struct weight_shape {
    char name[96];
    enum weight_part part;
    bool is_norm;      /* of its sublayer: goes with it, but is not prunable */
    size_t rank;       /* 1 or 2 */
    uint64_t shape[2]; /* weights: [out_features, in_features] */
    uint64_t count;    /* of elements */
};
/* The tensor of this role in this layer (ignored for the model's own). False: a model with this config has
 * none. */
bool architecture_tensor(const struct model_config *config, enum weight_role role, size_t layer,
                         struct weight_shape *ret_shape);
/* Calls visit for every tensor a model with this config has, in checkpoint order: embedding, layers, final
 * norm, head. */
void architecture_visit(const struct model_config *config,
                        void (*visit)(enum weight_role role, size_t layer, const struct weight_shape *shape,
                                      void *context),
                        void *context);
/* Tensors that checkpoints carry and no forward pass needs: rotary buffers; the head of a model whose head is
 * tied. */
bool architecture_ignores(const struct model_config *config, const char *tensor_name);

#endif
