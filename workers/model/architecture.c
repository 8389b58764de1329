/* workers/model/architecture.c: the table of families, and tensor names and shapes by role. */
#include "workers/model/architecture.h"

#include "base/text.h"
#include <stdio.h>
#include <string.h>

static const struct architecture rows[] = {
    {.model_type = "llama"},
    {.model_type = "mistral"},
    {.model_type = "qwen2", .has_qkv_bias = true},
    {.model_type = "pruned_llama", .is_heterogeneous = true},
};
static const char *const names[] = {"llama", "mistral", "qwen2", "pruned_llama", NULL};

const char *const *model_config_architectures(void)
{
    return names;
}

const struct architecture *architecture_find(const char *model_type)
{
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (strcmp(rows[i].model_type, model_type) == 0) {
            return &rows[i];
        }
    }
    return NULL;
}

enum dimension { D_NONE, D_HIDDEN, D_VOCAB, D_QUERY, D_KEY, D_FFN };
enum presence { ALWAYS, IF_HEAD, IF_QKV_BIAS, IF_O_BIAS, IF_MLP_BIAS };

static const struct role {
    const char *suffix;
    enum weight_part part;
    enum dimension out, in; /* in D_NONE: a vector */
    enum presence presence;
    bool is_norm;
} roles[WEIGHT_ROLE_COUNT] = {
    [WEIGHT_EMBEDDING] = {"model.embed_tokens.weight", WEIGHT_PART_MODEL, D_VOCAB, D_HIDDEN, ALWAYS, false},
    [WEIGHT_FINAL_NORM] = {"model.norm.weight", WEIGHT_PART_MODEL, D_HIDDEN, D_NONE, ALWAYS, true},
    [WEIGHT_HEAD] = {"lm_head.weight", WEIGHT_PART_MODEL, D_VOCAB, D_HIDDEN, IF_HEAD, false},
    [WEIGHT_ATTENTION_NORM] = {"input_layernorm.weight", WEIGHT_PART_ATTENTION, D_HIDDEN, D_NONE, ALWAYS,
                               true},
    [WEIGHT_Q] = {"self_attn.q_proj.weight", WEIGHT_PART_ATTENTION, D_QUERY, D_HIDDEN, ALWAYS, false},
    [WEIGHT_K] = {"self_attn.k_proj.weight", WEIGHT_PART_ATTENTION, D_KEY, D_HIDDEN, ALWAYS, false},
    [WEIGHT_V] = {"self_attn.v_proj.weight", WEIGHT_PART_ATTENTION, D_KEY, D_HIDDEN, ALWAYS, false},
    [WEIGHT_O] = {"self_attn.o_proj.weight", WEIGHT_PART_ATTENTION, D_HIDDEN, D_QUERY, ALWAYS, false},
    [WEIGHT_Q_BIAS] = {"self_attn.q_proj.bias", WEIGHT_PART_ATTENTION, D_QUERY, D_NONE, IF_QKV_BIAS, false},
    [WEIGHT_K_BIAS] = {"self_attn.k_proj.bias", WEIGHT_PART_ATTENTION, D_KEY, D_NONE, IF_QKV_BIAS, false},
    [WEIGHT_V_BIAS] = {"self_attn.v_proj.bias", WEIGHT_PART_ATTENTION, D_KEY, D_NONE, IF_QKV_BIAS, false},
    [WEIGHT_O_BIAS] = {"self_attn.o_proj.bias", WEIGHT_PART_ATTENTION, D_HIDDEN, D_NONE, IF_O_BIAS, false},
    [WEIGHT_FFN_NORM] = {"post_attention_layernorm.weight", WEIGHT_PART_FFN, D_HIDDEN, D_NONE, ALWAYS, true},
    [WEIGHT_GATE] = {"mlp.gate_proj.weight", WEIGHT_PART_FFN, D_FFN, D_HIDDEN, ALWAYS, false},
    [WEIGHT_UP] = {"mlp.up_proj.weight", WEIGHT_PART_FFN, D_FFN, D_HIDDEN, ALWAYS, false},
    [WEIGHT_DOWN] = {"mlp.down_proj.weight", WEIGHT_PART_FFN, D_HIDDEN, D_FFN, ALWAYS, false},
    [WEIGHT_GATE_BIAS] = {"mlp.gate_proj.bias", WEIGHT_PART_FFN, D_FFN, D_NONE, IF_MLP_BIAS, false},
    [WEIGHT_UP_BIAS] = {"mlp.up_proj.bias", WEIGHT_PART_FFN, D_FFN, D_NONE, IF_MLP_BIAS, false},
    [WEIGHT_DOWN_BIAS] = {"mlp.down_proj.bias", WEIGHT_PART_FFN, D_HIDDEN, D_NONE, IF_MLP_BIAS, false},
};

static uint64_t dimension_of(const struct model_config *config, size_t layer, enum dimension dimension)
{
    switch (dimension) {
    case D_NONE:
        return 1;
    case D_HIDDEN:
        return config->hidden_size;
    case D_VOCAB:
        return config->vocab_size;
    case D_QUERY:
        return config->layers[layer].head_count * config->head_size;
    case D_KEY:
        return config->layers[layer].kv_head_count * config->head_size;
    case D_FFN:
        break;
    }
    return config->layers[layer].intermediate_size;
}

static bool is_present(const struct model_config *config, const struct role *role, size_t layer)
{
    if (role->part != WEIGHT_PART_MODEL && layer >= config->layer_count) {
        return false;
    }
    if ((role->part == WEIGHT_PART_ATTENTION && !config->layers[layer].has_attention) ||
        (role->part == WEIGHT_PART_FFN && !config->layers[layer].has_ffn)) {
        return false;
    }
    const struct architecture *row = architecture_find(config->model_type);
    bool is_qkv_biased = config->has_attention_bias || (row != NULL && row->has_qkv_bias);
    switch (role->presence) {
    case ALWAYS:
        return true;
    case IF_HEAD:
        return !config->has_tied_head;
    case IF_QKV_BIAS:
        return is_qkv_biased;
    case IF_O_BIAS:
        return is_qkv_biased && (row == NULL || !row->has_qkv_bias);
    case IF_MLP_BIAS:
        break;
    }
    return config->has_mlp_bias;
}

bool architecture_tensor(const struct model_config *config, enum weight_role role, size_t layer,
                         struct weight_shape *ret_shape)
{
    const struct role *row = &roles[role];
    if (!is_present(config, row, layer)) {
        return false;
    }
    struct weight_shape shape = {
        .part = row->part, .is_norm = row->is_norm, .rank = row->in == D_NONE ? 1 : 2};
    if (row->part == WEIGHT_PART_MODEL) {
        (void)snprintf(shape.name, sizeof shape.name, "%s", row->suffix);
    } else {
        (void)snprintf(shape.name, sizeof shape.name, "model.layers.%zu.%s", layer, row->suffix);
    }
    shape.shape[0] = dimension_of(config, layer, row->out);
    shape.shape[1] = dimension_of(config, layer, row->in);
    shape.count = shape.shape[0] * shape.shape[1];
    *ret_shape = shape;
    return true;
}

static void visit_role(const struct model_config *config, enum weight_role role, size_t layer,
                       void (*visit)(enum weight_role, size_t, const struct weight_shape *, void *),
                       void *context)
{
    struct weight_shape shape;
    if (architecture_tensor(config, role, layer, &shape)) {
        visit(role, layer, &shape, context);
    }
}

void architecture_visit(const struct model_config *config,
                        void (*visit)(enum weight_role role, size_t layer, const struct weight_shape *shape,
                                      void *context),
                        void *context)
{
    visit_role(config, WEIGHT_EMBEDDING, 0, visit, context);
    for (size_t layer = 0; layer < config->layer_count; layer++) {
        for (size_t role = WEIGHT_ATTENTION_NORM; role < WEIGHT_ROLE_COUNT; role++) {
            visit_role(config, (enum weight_role)role, layer, visit, context);
        }
    }
    visit_role(config, WEIGHT_FINAL_NORM, 0, visit, context);
    visit_role(config, WEIGHT_HEAD, 0, visit, context);
}

bool architecture_ignores(const struct model_config *config, const char *tensor_name)
{
    return text_ends_with(tensor_name, ".rotary_emb.inv_freq") ||
           (config->has_tied_head && strcmp(tensor_name, "lm_head.weight") == 0);
}
