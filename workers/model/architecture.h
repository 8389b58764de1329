/*
 * workers/model/architecture.h: families as rows of a table. A row says how a family's sublayers are put together (norms,
 * positions, projections) and what its tensors are called in a Hugging Face checkpoint; names and shapes of all tensors
 * follow from a config by role. Inventory checks against it, the weight source loads by it, the forward pass reads the row,
 * exporters rename with it. Adding a family is adding a row and its parity test (tests/golden/families).
 *
 * A sublayer, in general (every step but the two matmuls may be absent):
 *
 *     x = norm(h)                                   NORM_BEFORE, NORM_AROUND
 *     attention: q k v = x W_in^T + b; q, k normalised per head; turned by position; mixed
 *     ffn:       gate up = x W_in^T + b; act(gate) * up, or act(up) where it is not gated; or experts, each such a one
 *     y = mixed W_out^T + b; y = norm(y)            NORM_AROUND
 *     h += y; h = norm(h)                           NORM_AFTER
 *
 * A parallel layer's FFN reads the h that its attention read (forward.c).
 */
#ifndef WORKERS_MODEL_ARCHITECTURE_H
#define WORKERS_MODEL_ARCHITECTURE_H

#include "workers/model/config.h"
#include "workers/tensor/backend.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum weight_role {
    WEIGHT_EMBEDDING,
    WEIGHT_POSITION_EMBEDDING,   /* [positions, hidden] */
    WEIGHT_TOKEN_TYPE_EMBEDDING, /* [types, hidden]; row 0 is added to every token */
    WEIGHT_EMBEDDING_NORM,
    WEIGHT_EMBEDDING_NORM_BIAS,
    WEIGHT_FINAL_NORM,
    WEIGHT_FINAL_NORM_BIAS,
    WEIGHT_HEAD,           /* absent where it is tied to the embedding, or where there is none (encoders) */
    WEIGHT_ATTENTION_NORM, /* before the sublayer; NORM_AFTER: after it */
    WEIGHT_ATTENTION_NORM_BIAS,
    WEIGHT_Q,
    WEIGHT_K,
    WEIGHT_V,
    WEIGHT_QKV, /* fused, instead of the three */
    WEIGHT_O,
    WEIGHT_Q_BIAS,
    WEIGHT_K_BIAS,
    WEIGHT_V_BIAS,
    WEIGHT_QKV_BIAS,
    WEIGHT_O_BIAS,
    WEIGHT_Q_NORM, /* [head_size] */
    WEIGHT_K_NORM,
    WEIGHT_ATTENTION_POST_NORM, /* NORM_AROUND */
    WEIGHT_FFN_NORM,
    WEIGHT_FFN_NORM_BIAS,
    WEIGHT_GATE,
    WEIGHT_UP,      /* also the first projection of an FFN that is not gated */
    WEIGHT_GATE_UP, /* fused, instead of the two */
    WEIGHT_DOWN,
    WEIGHT_GATE_BIAS,
    WEIGHT_UP_BIAS,
    WEIGHT_DOWN_BIAS,
    WEIGHT_FFN_POST_NORM,
    WEIGHT_ROUTER, /* [experts, hidden] */
    WEIGHT_EXPERT_GATE,
    WEIGHT_EXPERT_UP,
    WEIGHT_EXPERT_DOWN,
    WEIGHT_ROLE_COUNT
};
enum weight_part { WEIGHT_PART_MODEL, WEIGHT_PART_ATTENTION, WEIGHT_PART_FFN };

enum norm_placement { NORM_BEFORE, NORM_AFTER, NORM_AROUND };
/* How the rows of a fused QKV tensor lie: [Q | K | V], or for each head its q, k, v ([heads, 3, head_size]). */
enum qkv_order { QKV_CONCATENATED, QKV_INTERLEAVED };

/* Another spelling of tensor names: what ends in `ending` is what ends in `canonical`. The inventory knows tensors by their
 * canonical names alone, whatever their file calls them. */
struct name_alias {
    const char *ending, *canonical;
};

struct architecture {
    const char *model_type; /* of config.json */
    const char *class_name; /* of transformers, as `architectures` in config.json has it */
    const char *
        prefix; /* of every tensor name but the head's, e.g. "model."; checkpoints may lack it, see model_config.prefix */
    const char *layers; /* after the prefix, before the layer number: "layers." */
    enum norm_kind norm;
    enum norm_placement norm_placement;
    bool norm_adds_one; /* the tensor holds weight - 1 (Gemma) */
    bool
        is_transposed; /* projections are stored [in_features, out_features] (Conv1D); the embedding is not */
    enum qkv_order qkv_order;
    bool is_gated;                    /* the FFN has a gate */
    bool is_encoder;                  /* attention sees all tokens; there is no head */
    const char *const *names;         /* [WEIGHT_ROLE_COUNT]: after "<prefix>" for the model's own, after
                                 "<prefix><layers><n>." for a layer's; "%zu" stands for the expert; NULL: no such tensor.
                                 A bias that config.json decides on is named here and asked for by the config (has_*_bias). */
    const struct name_alias *aliases; /* the last one empty; NULL: none */
    const char *const *
        ignored; /* endings of names that architecture_ignores, or beginnings of them where the last letter is a
                                   dot; NULL-terminated; NULL: none */
    /* All experts in one tensor, as some checkpoints have them, after "<prefix><layers><n>.": [experts, gate and up,
     * hidden] and [experts, hidden, intermediate]. The inventory takes them apart. NULL: none. */
    const char *fused_gate_up, *fused_down;
};
const struct architecture *architecture_find(const char *model_type); /* NULL: none */
const struct architecture *architecture_of(const struct model_config *config);

struct weight_shape {
    char name[128];
    enum weight_part part;
    bool is_norm;       /* of its sublayer: goes with it, but is not prunable */
    bool is_transposed; /* stored [in, out] */
    size_t expert;      /* of EXPERT roles */
    size_t rank;        /* 1 or 2 */
    uint64_t shape[2];  /* as stored: weights [out_features, in_features], or transposed */
    uint64_t count;     /* of elements */
};
/* The tensor of this role in this layer (ignored for the model's own) and expert (of EXPERT roles). False: a model with
 * this config has none. */
bool architecture_tensor(const struct model_config *config, enum weight_role role, size_t layer,
                         size_t expert, struct weight_shape *ret_shape);
/* Calls visit for every tensor a model with this config has, in checkpoint order: embeddings, layers (experts inside), final
 * norm, head. */
void architecture_visit(const struct model_config *config,
                        void (*visit)(enum weight_role role, size_t layer, const struct weight_shape *shape,
                                      void *context),
                        void *context);
/* The role of a layer's tensor of this suffix; false: no role has such a name. *ret_expert: of EXPERT roles, else 0. */
bool architecture_find_role(const struct model_config *config, const char *suffix, enum weight_role *ret_role,
                            size_t *ret_expert);
bool architecture_role_has_hidden(enum weight_role role); /* one of its dimensions is the residual's */
bool architecture_role_is_output(enum weight_role role);  /* the last matmul of a sublayer, or its bias */
/* Splits "<prefix><layers><n>.<suffix>"; *ret_suffix is borrowed from the name. False: not a layer's tensor. */
bool architecture_split_name(const struct model_config *config, const char *tensor_name, size_t *ret_layer,
                             const char **ret_suffix);
/* The part that a layer's tensor of this suffix belongs to and whether it is a norm; false: no role has such a name. */
bool architecture_part(const struct model_config *config, const char *suffix, enum weight_part *ret_part,
                       bool *ret_is_norm);
/* Tensors that checkpoints carry and no forward pass needs: rotary buffers, causal masks, poolers; the head of a model whose
 * head is tied. */
bool architecture_ignores(const struct model_config *config, const char *tensor_name);

#endif
