/*
 * workers/model/architecture.c: the table of families, and tensor names and shapes by role.
 *
 * Names are those of Hugging Face checkpoints, which outlive the code that reads them: what newer versions of
 * transformers call a module is of no interest here, what they write to disk is.
 */
#include "workers/model/architecture.h"

#include "base/check.h"
#include "base/text.h"
#include <stdio.h>
#include <string.h>

/* ---- names ----------------------------------------------------------------------------------- */

#define MODEL_NAMES                                                                                          \
    [WEIGHT_EMBEDDING] = "embed_tokens.weight", [WEIGHT_FINAL_NORM] = "norm.weight",                         \
    [WEIGHT_HEAD] = "lm_head.weight", [WEIGHT_ATTENTION_NORM] = "input_layernorm.weight"
#define ATTENTION_NAMES                                                                                      \
    [WEIGHT_Q] = "self_attn.q_proj.weight", [WEIGHT_K] = "self_attn.k_proj.weight",                          \
    [WEIGHT_V] = "self_attn.v_proj.weight", [WEIGHT_O] = "self_attn.o_proj.weight",                          \
    [WEIGHT_Q_BIAS] = "self_attn.q_proj.bias", [WEIGHT_K_BIAS] = "self_attn.k_proj.bias",                    \
    [WEIGHT_V_BIAS] = "self_attn.v_proj.bias", [WEIGHT_O_BIAS] = "self_attn.o_proj.bias"
#define HEAD_NORM_NAMES                                                                                      \
    [WEIGHT_Q_NORM] = "self_attn.q_norm.weight", [WEIGHT_K_NORM] = "self_attn.k_norm.weight"
#define FFN_NAMES                                                                                            \
    [WEIGHT_GATE] = "mlp.gate_proj.weight", [WEIGHT_UP] = "mlp.up_proj.weight",                              \
    [WEIGHT_DOWN] = "mlp.down_proj.weight"
#define FFN_NORM_NAME [WEIGHT_FFN_NORM] = "post_attention_layernorm.weight"
#define SANDWICH_NAMES                                                                                       \
    [WEIGHT_ATTENTION_POST_NORM] = "post_attention_layernorm.weight",                                        \
    [WEIGHT_FFN_NORM] = "pre_feedforward_layernorm.weight",                                                  \
    [WEIGHT_FFN_POST_NORM] = "post_feedforward_layernorm.weight"

static const char *const llama_names[WEIGHT_ROLE_COUNT] = {
    MODEL_NAMES,
    ATTENTION_NAMES,
    FFN_NORM_NAME,
    FFN_NAMES,
    [WEIGHT_GATE_BIAS] = "mlp.gate_proj.bias",
    [WEIGHT_UP_BIAS] = "mlp.up_proj.bias",
    [WEIGHT_DOWN_BIAS] = "mlp.down_proj.bias",
};
static const char *const qwen3_names[WEIGHT_ROLE_COUNT] = {
    MODEL_NAMES, ATTENTION_NAMES, HEAD_NORM_NAMES, FFN_NORM_NAME, FFN_NAMES,
};
static const char *const gemma2_names[WEIGHT_ROLE_COUNT] = {
    MODEL_NAMES,
    ATTENTION_NAMES,
    SANDWICH_NAMES,
    FFN_NAMES,
};
static const char *const gemma3_names[WEIGHT_ROLE_COUNT] = {
    MODEL_NAMES, ATTENTION_NAMES, HEAD_NORM_NAMES, SANDWICH_NAMES, FFN_NAMES,
};
static const char *const phi3_names[WEIGHT_ROLE_COUNT] = {
    MODEL_NAMES,   [WEIGHT_QKV] = "self_attn.qkv_proj.weight",   [WEIGHT_O] = "self_attn.o_proj.weight",
    FFN_NORM_NAME, [WEIGHT_GATE_UP] = "mlp.gate_up_proj.weight", [WEIGHT_DOWN] = "mlp.down_proj.weight",
};
static const char *const mixtral_names[WEIGHT_ROLE_COUNT] = {
    MODEL_NAMES,
    ATTENTION_NAMES,
    FFN_NORM_NAME,
    [WEIGHT_ROUTER] = "block_sparse_moe.gate.weight",
    [WEIGHT_EXPERT_GATE] = "block_sparse_moe.experts.%zu.w1.weight",
    [WEIGHT_EXPERT_UP] = "block_sparse_moe.experts.%zu.w3.weight",
    [WEIGHT_EXPERT_DOWN] = "block_sparse_moe.experts.%zu.w2.weight",
};
static const char *const qwen3_moe_names[WEIGHT_ROLE_COUNT] = {
    MODEL_NAMES,
    ATTENTION_NAMES,
    HEAD_NORM_NAMES,
    FFN_NORM_NAME,
    FFN_NAMES,
    [WEIGHT_ROUTER] = "mlp.gate.weight",
    [WEIGHT_EXPERT_GATE] = "mlp.experts.%zu.gate_proj.weight",
    [WEIGHT_EXPERT_UP] = "mlp.experts.%zu.up_proj.weight",
    [WEIGHT_EXPERT_DOWN] = "mlp.experts.%zu.down_proj.weight",
};
static const char *const gpt2_names[WEIGHT_ROLE_COUNT] = {
    [WEIGHT_EMBEDDING] = "wte.weight",          [WEIGHT_POSITION_EMBEDDING] = "wpe.weight",
    [WEIGHT_FINAL_NORM] = "ln_f.weight",        [WEIGHT_FINAL_NORM_BIAS] = "ln_f.bias",
    [WEIGHT_HEAD] = "lm_head.weight",           [WEIGHT_ATTENTION_NORM] = "ln_1.weight",
    [WEIGHT_ATTENTION_NORM_BIAS] = "ln_1.bias", [WEIGHT_QKV] = "attn.c_attn.weight",
    [WEIGHT_QKV_BIAS] = "attn.c_attn.bias",     [WEIGHT_O] = "attn.c_proj.weight",
    [WEIGHT_O_BIAS] = "attn.c_proj.bias",       [WEIGHT_FFN_NORM] = "ln_2.weight",
    [WEIGHT_FFN_NORM_BIAS] = "ln_2.bias",       [WEIGHT_UP] = "mlp.c_fc.weight",
    [WEIGHT_UP_BIAS] = "mlp.c_fc.bias",         [WEIGHT_DOWN] = "mlp.c_proj.weight",
    [WEIGHT_DOWN_BIAS] = "mlp.c_proj.bias",
};
static const char *const opt_names[WEIGHT_ROLE_COUNT] = {
    [WEIGHT_EMBEDDING] = "embed_tokens.weight",
    [WEIGHT_POSITION_EMBEDDING] = "embed_positions.weight",
    [WEIGHT_FINAL_NORM] = "final_layer_norm.weight",
    [WEIGHT_FINAL_NORM_BIAS] = "final_layer_norm.bias",
    [WEIGHT_HEAD] = "lm_head.weight",
    [WEIGHT_ATTENTION_NORM] = "self_attn_layer_norm.weight",
    [WEIGHT_ATTENTION_NORM_BIAS] = "self_attn_layer_norm.bias",
    [WEIGHT_Q] = "self_attn.q_proj.weight",
    [WEIGHT_K] = "self_attn.k_proj.weight",
    [WEIGHT_V] = "self_attn.v_proj.weight",
    [WEIGHT_O] = "self_attn.out_proj.weight",
    [WEIGHT_Q_BIAS] = "self_attn.q_proj.bias",
    [WEIGHT_K_BIAS] = "self_attn.k_proj.bias",
    [WEIGHT_V_BIAS] = "self_attn.v_proj.bias",
    [WEIGHT_O_BIAS] = "self_attn.out_proj.bias",
    [WEIGHT_FFN_NORM] = "final_layer_norm.weight",
    [WEIGHT_FFN_NORM_BIAS] = "final_layer_norm.bias",
    [WEIGHT_UP] = "fc1.weight",
    [WEIGHT_UP_BIAS] = "fc1.bias",
    [WEIGHT_DOWN] = "fc2.weight",
    [WEIGHT_DOWN_BIAS] = "fc2.bias",
};
static const char *const gpt_neox_names[WEIGHT_ROLE_COUNT] = {
    [WEIGHT_EMBEDDING] = "embed_in.weight",
    [WEIGHT_FINAL_NORM] = "final_layer_norm.weight",
    [WEIGHT_FINAL_NORM_BIAS] = "final_layer_norm.bias",
    [WEIGHT_HEAD] = "embed_out.weight",
    [WEIGHT_ATTENTION_NORM] = "input_layernorm.weight",
    [WEIGHT_ATTENTION_NORM_BIAS] = "input_layernorm.bias",
    [WEIGHT_QKV] = "attention.query_key_value.weight",
    [WEIGHT_QKV_BIAS] = "attention.query_key_value.bias",
    [WEIGHT_O] = "attention.dense.weight",
    [WEIGHT_O_BIAS] = "attention.dense.bias",
    [WEIGHT_FFN_NORM] = "post_attention_layernorm.weight",
    [WEIGHT_FFN_NORM_BIAS] = "post_attention_layernorm.bias",
    [WEIGHT_UP] = "mlp.dense_h_to_4h.weight",
    [WEIGHT_UP_BIAS] = "mlp.dense_h_to_4h.bias",
    [WEIGHT_DOWN] = "mlp.dense_4h_to_h.weight",
    [WEIGHT_DOWN_BIAS] = "mlp.dense_4h_to_h.bias",
};
static const char *const bert_names[WEIGHT_ROLE_COUNT] = {
    [WEIGHT_EMBEDDING] = "embeddings.word_embeddings.weight",
    [WEIGHT_POSITION_EMBEDDING] = "embeddings.position_embeddings.weight",
    [WEIGHT_TOKEN_TYPE_EMBEDDING] = "embeddings.token_type_embeddings.weight",
    [WEIGHT_EMBEDDING_NORM] = "embeddings.LayerNorm.weight",
    [WEIGHT_EMBEDDING_NORM_BIAS] = "embeddings.LayerNorm.bias",
    [WEIGHT_ATTENTION_NORM] = "attention.output.LayerNorm.weight",
    [WEIGHT_ATTENTION_NORM_BIAS] = "attention.output.LayerNorm.bias",
    [WEIGHT_Q] = "attention.self.query.weight",
    [WEIGHT_K] = "attention.self.key.weight",
    [WEIGHT_V] = "attention.self.value.weight",
    [WEIGHT_O] = "attention.output.dense.weight",
    [WEIGHT_Q_BIAS] = "attention.self.query.bias",
    [WEIGHT_K_BIAS] = "attention.self.key.bias",
    [WEIGHT_V_BIAS] = "attention.self.value.bias",
    [WEIGHT_O_BIAS] = "attention.output.dense.bias",
    [WEIGHT_FFN_NORM] = "output.LayerNorm.weight",
    [WEIGHT_FFN_NORM_BIAS] = "output.LayerNorm.bias",
    [WEIGHT_UP] = "intermediate.dense.weight",
    [WEIGHT_UP_BIAS] = "intermediate.dense.bias",
    [WEIGHT_DOWN] = "output.dense.weight",
    [WEIGHT_DOWN_BIAS] = "output.dense.bias",
};

static const char *const rope_buffers[] = {".rotary_emb.inv_freq", NULL};
static const char *const gpt2_ignored[] = {".attn.bias", ".attn.masked_bias", NULL};
static const char *const gpt_neox_ignored[] = {".rotary_emb.inv_freq", ".attention.bias",
                                               ".attention.masked_bias", NULL};
static const char *const bert_ignored[] = {"embeddings.position_ids", "embeddings.token_type_ids", "pooler.",
                                           "cls.", NULL};

static const struct name_alias mixtral_aliases[] = {{".mlp.gate.weight", ".block_sparse_moe.gate.weight"},
                                                    {NULL, NULL}};
static const struct name_alias gpt_neox_aliases[] = {{"lm_head.weight", "embed_out.weight"}, {NULL, NULL}};
static const struct name_alias bert_aliases[] = {
    {".LayerNorm.gamma", ".LayerNorm.weight"}, {".LayerNorm.beta", ".LayerNorm.bias"}, {NULL, NULL}};

/* ---- families -------------------------------------------------------------------------------- */

#define LLAMA_LIKE .prefix = "model.", .layers = "layers.", .is_gated = true, .ignored = rope_buffers

static const struct architecture rows[] = {
    {.model_type = "llama", .class_name = "LlamaForCausalLM", LLAMA_LIKE, .names = llama_names},
    {.model_type = "mistral", .class_name = "MistralForCausalLM", LLAMA_LIKE, .names = llama_names},
    {.model_type = "qwen2", .class_name = "Qwen2ForCausalLM", LLAMA_LIKE, .names = llama_names},
    {.model_type = "qwen3", .class_name = "Qwen3ForCausalLM", LLAMA_LIKE, .names = qwen3_names},
    {.model_type = "gemma2",
     .class_name = "Gemma2ForCausalLM",
     LLAMA_LIKE,
     .norm_placement = NORM_AROUND,
     .norm_adds_one = true,
     .names = gemma2_names},
    {.model_type = "gemma3_text",
     .class_name = "Gemma3ForCausalLM",
     LLAMA_LIKE,
     .norm_placement = NORM_AROUND,
     .norm_adds_one = true,
     .names = gemma3_names},
    {.model_type = "phi3", .class_name = "Phi3ForCausalLM", LLAMA_LIKE, .names = phi3_names},
    {.model_type = "gpt2",
     .class_name = "GPT2LMHeadModel",
     .prefix = "transformer.",
     .layers = "h.",
     .norm = NORM_LAYER,
     .is_transposed = true,
     .names = gpt2_names,
     .ignored = gpt2_ignored},
    {.model_type = "opt",
     .class_name = "OPTForCausalLM",
     .prefix = "model.decoder.",
     .layers = "layers.",
     .norm = NORM_LAYER,
     .names = opt_names},
    {.model_type = "gpt_neox",
     .class_name = "GPTNeoXForCausalLM",
     .prefix = "gpt_neox.",
     .layers = "layers.",
     .norm = NORM_LAYER,
     .qkv_order = QKV_INTERLEAVED,
     .names = gpt_neox_names,
     .aliases = gpt_neox_aliases,
     .ignored = gpt_neox_ignored},
    {.model_type = "mixtral",
     .class_name = "MixtralForCausalLM",
     LLAMA_LIKE,
     .names = mixtral_names,
     .aliases = mixtral_aliases,
     .fused_gate_up = "mlp.experts.gate_up_proj",
     .fused_down = "mlp.experts.down_proj"},
    {.model_type = "qwen3_moe",
     .class_name = "Qwen3MoeForCausalLM",
     LLAMA_LIKE,
     .names = qwen3_moe_names,
     .fused_gate_up = "mlp.experts.gate_up_proj",
     .fused_down = "mlp.experts.down_proj"},
    {.model_type = "bert",
     .class_name = "BertModel",
     .prefix = "bert.",
     .layers = "encoder.layer.",
     .norm = NORM_LAYER,
     .norm_placement = NORM_AFTER,
     .is_encoder = true,
     .names = bert_names,
     .aliases = bert_aliases,
     .ignored = bert_ignored},
};
enum { ROW_COUNT = sizeof rows / sizeof rows[0] };

static const char *const model_types[] = {"llama",       "mistral",   "qwen2", "qwen3", "gemma2",
                                          "gemma3_text", "phi3",      "gpt2",  "opt",   "gpt_neox",
                                          "mixtral",     "qwen3_moe", "bert",  NULL};
_Static_assert(sizeof model_types / sizeof model_types[0] == ROW_COUNT + 1, "one name a row");

const char *const *model_config_architectures(void)
{
    return model_types;
}

const struct architecture *architecture_find(const char *model_type)
{
    for (size_t i = 0; i < ROW_COUNT; i++) {
        if (strcmp(rows[i].model_type, model_type) == 0) {
            return &rows[i];
        }
    }
    return NULL;
}

const struct architecture *architecture_of(const struct model_config *config)
{
    for (size_t i = 0; i < ROW_COUNT; i++) { /* a parsed config holds the row's own text */
        if (rows[i].model_type == config->model_type) {
            return &rows[i];
        }
    }
    const struct architecture *row = architecture_find(config->model_type);
    CHECK(row != NULL);
    return row;
}

/* ---- roles ----------------------------------------------------------------------------------- */

enum dimension {
    D_NONE,
    D_HIDDEN,
    D_VOCAB,
    D_POSITIONS,
    D_TOKEN_TYPES,
    D_QUERY,
    D_KEY,
    D_QKV,
    D_HEAD,
    D_FFN,
    D_GATE_UP,
    D_EXPERTS
};
enum presence { ALWAYS, IF_HEAD, IF_QKV_BIAS, IF_O_BIAS, IF_PLAIN, IF_FFN_BIAS, IF_EXPERTS };
enum kind { NORM, TABLE, BIAS, PROJECTION, EXPERT }; /* the last two are transposed where the family's are */

#define M WEIGHT_PART_MODEL
#define A WEIGHT_PART_ATTENTION
#define F WEIGHT_PART_FFN
static const struct role {
    enum weight_part part;
    enum kind kind;
    enum dimension out, in; /* in D_NONE: a vector */
    enum presence presence;
} roles[WEIGHT_ROLE_COUNT] = {
    [WEIGHT_EMBEDDING] = {M, TABLE, D_VOCAB, D_HIDDEN, ALWAYS},
    [WEIGHT_POSITION_EMBEDDING] = {M, TABLE, D_POSITIONS, D_HIDDEN, ALWAYS},
    [WEIGHT_TOKEN_TYPE_EMBEDDING] = {M, TABLE, D_TOKEN_TYPES, D_HIDDEN, ALWAYS},
    [WEIGHT_EMBEDDING_NORM] = {M, NORM, D_HIDDEN, D_NONE, ALWAYS},
    [WEIGHT_EMBEDDING_NORM_BIAS] = {M, NORM, D_HIDDEN, D_NONE, ALWAYS},
    [WEIGHT_FINAL_NORM] = {M, NORM, D_HIDDEN, D_NONE, ALWAYS},
    [WEIGHT_FINAL_NORM_BIAS] = {M, NORM, D_HIDDEN, D_NONE, ALWAYS},
    [WEIGHT_HEAD] = {M, TABLE, D_VOCAB, D_HIDDEN, IF_HEAD},
    [WEIGHT_ATTENTION_NORM] = {A, NORM, D_HIDDEN, D_NONE, ALWAYS},
    [WEIGHT_ATTENTION_NORM_BIAS] = {A, NORM, D_HIDDEN, D_NONE, ALWAYS},
    [WEIGHT_Q] = {A, PROJECTION, D_QUERY, D_HIDDEN, ALWAYS},
    [WEIGHT_K] = {A, PROJECTION, D_KEY, D_HIDDEN, ALWAYS},
    [WEIGHT_V] = {A, PROJECTION, D_KEY, D_HIDDEN, ALWAYS},
    [WEIGHT_QKV] = {A, PROJECTION, D_QKV, D_HIDDEN, ALWAYS},
    [WEIGHT_O] = {A, PROJECTION, D_HIDDEN, D_QUERY, ALWAYS},
    [WEIGHT_Q_BIAS] = {A, BIAS, D_QUERY, D_NONE, IF_QKV_BIAS},
    [WEIGHT_K_BIAS] = {A, BIAS, D_KEY, D_NONE, IF_QKV_BIAS},
    [WEIGHT_V_BIAS] = {A, BIAS, D_KEY, D_NONE, IF_QKV_BIAS},
    [WEIGHT_QKV_BIAS] = {A, BIAS, D_QKV, D_NONE, IF_QKV_BIAS},
    [WEIGHT_O_BIAS] = {A, BIAS, D_HIDDEN, D_NONE, IF_O_BIAS},
    [WEIGHT_Q_NORM] = {A, NORM, D_HEAD, D_NONE, ALWAYS},
    [WEIGHT_K_NORM] = {A, NORM, D_HEAD, D_NONE, ALWAYS},
    [WEIGHT_ATTENTION_POST_NORM] = {A, NORM, D_HIDDEN, D_NONE, ALWAYS},
    [WEIGHT_FFN_NORM] = {F, NORM, D_HIDDEN, D_NONE, ALWAYS},
    [WEIGHT_FFN_NORM_BIAS] = {F, NORM, D_HIDDEN, D_NONE, ALWAYS},
    [WEIGHT_GATE] = {F, PROJECTION, D_FFN, D_HIDDEN, IF_PLAIN},
    [WEIGHT_UP] = {F, PROJECTION, D_FFN, D_HIDDEN, IF_PLAIN},
    [WEIGHT_GATE_UP] = {F, PROJECTION, D_GATE_UP, D_HIDDEN, IF_PLAIN},
    [WEIGHT_DOWN] = {F, PROJECTION, D_HIDDEN, D_FFN, IF_PLAIN},
    [WEIGHT_GATE_BIAS] = {F, BIAS, D_FFN, D_NONE, IF_FFN_BIAS},
    [WEIGHT_UP_BIAS] = {F, BIAS, D_FFN, D_NONE, IF_FFN_BIAS},
    [WEIGHT_DOWN_BIAS] = {F, BIAS, D_HIDDEN, D_NONE, IF_FFN_BIAS},
    [WEIGHT_FFN_POST_NORM] = {F, NORM, D_HIDDEN, D_NONE, ALWAYS},
    [WEIGHT_ROUTER] = {F, PROJECTION, D_EXPERTS, D_HIDDEN, IF_EXPERTS},
    [WEIGHT_EXPERT_GATE] = {F, EXPERT, D_FFN, D_HIDDEN, IF_EXPERTS},
    [WEIGHT_EXPERT_UP] = {F, EXPERT, D_FFN, D_HIDDEN, IF_EXPERTS},
    [WEIGHT_EXPERT_DOWN] = {F, EXPERT, D_HIDDEN, D_FFN, IF_EXPERTS},
};
#undef M
#undef A
#undef F

bool architecture_role_has_hidden(enum weight_role role)
{
    return roles[role].out == D_HIDDEN || roles[role].in == D_HIDDEN;
}

bool architecture_role_is_output(enum weight_role role)
{
    return role == WEIGHT_O || role == WEIGHT_O_BIAS || role == WEIGHT_DOWN || role == WEIGHT_DOWN_BIAS ||
           role == WEIGHT_EXPERT_DOWN;
}

static uint64_t dimension_of(const struct model_config *config, size_t layer, enum dimension dimension)
{
    const struct model_layer *home = &config->layers[layer < config->layer_count ? layer : 0];
    switch (dimension) {
    case D_NONE:
        return 1;
    case D_HIDDEN:
        return config->hidden_size;
    case D_VOCAB:
        return config->vocab_size;
    case D_POSITIONS:
        return config->position_rows;
    case D_TOKEN_TYPES:
        return config->token_type_count;
    case D_QUERY:
        return home->head_count * config->head_size;
    case D_KEY:
        return home->kv_head_count * config->head_size;
    case D_QKV:
        return (home->head_count + 2 * home->kv_head_count) * config->head_size;
    case D_HEAD:
        return config->head_size;
    case D_FFN:
        return home->intermediate_size;
    case D_GATE_UP:
        return 2 * home->intermediate_size;
    case D_EXPERTS:
        break;
    }
    return home->expert_count;
}

static bool is_present(const struct model_config *config, const struct role *role, size_t layer,
                       size_t expert)
{
    if (role->part != WEIGHT_PART_MODEL && layer >= config->layer_count) {
        return false;
    }
    const struct model_layer *home = &config->layers[role->part != WEIGHT_PART_MODEL ? layer : 0];
    if ((role->part == WEIGHT_PART_ATTENTION && !home->has_attention) ||
        (role->part == WEIGHT_PART_FFN && !home->has_ffn) ||
        (role->kind == EXPERT && expert >= home->expert_count)) {
        return false;
    }
    switch (role->presence) {
    case ALWAYS:
        return true;
    case IF_HEAD:
        return !config->has_tied_head;
    case IF_QKV_BIAS:
        return config->has_qkv_bias;
    case IF_O_BIAS:
        return config->has_o_bias;
    case IF_PLAIN:
        return home->expert_count == 0;
    case IF_FFN_BIAS:
        return home->expert_count == 0 && config->has_ffn_bias;
    case IF_EXPERTS:
        break;
    }
    return home->expert_count > 0;
}

/* The name with the expert's number in it. */
static void format_name(char *to, size_t size, const char *prefix, const char *name, size_t expert)
{
    const char *place = strstr(name, "%zu");
    if (place == NULL) {
        (void)snprintf(to, size, "%s%s", prefix, name);
    } else {
        (void)snprintf(to, size, "%s%.*s%zu%s", prefix, (int)(place - name), name, expert,
                       place + strlen("%zu"));
    }
}

bool architecture_tensor(const struct model_config *config, enum weight_role role, size_t layer,
                         size_t expert, struct weight_shape *ret_shape)
{
    const struct architecture *row = architecture_of(config);
    const struct role *part = &roles[role];
    if (row->names[role] == NULL || !is_present(config, part, layer, expert)) {
        return false;
    }
    char prefix[80] = "";
    if (part->part != WEIGHT_PART_MODEL) {
        (void)snprintf(prefix, sizeof prefix, "%s%s%zu.", config->prefix, row->layers, layer);
    } else if (role != WEIGHT_HEAD) {
        (void)snprintf(prefix, sizeof prefix, "%s", config->prefix);
    }
    struct weight_shape shape = {.part = part->part,
                                 .is_norm = part->kind == NORM,
                                 .is_transposed = row->is_transposed && part->kind >= PROJECTION,
                                 .expert = part->kind == EXPERT ? expert : 0,
                                 .rank = part->in == D_NONE ? 1 : 2};
    format_name(shape.name, sizeof shape.name, prefix, row->names[role], expert);
    uint64_t out = dimension_of(config, layer, part->out), in = dimension_of(config, layer, part->in);
    shape.shape[0] = shape.is_transposed ? in : out;
    shape.shape[1] = shape.is_transposed ? out : in;
    shape.count = out * in;
    *ret_shape = shape;
    return true;
}

/* ---- all tensors ----------------------------------------------------------------------------- */

struct visit {
    const struct model_config *config;
    void (*visit)(enum weight_role role, size_t layer, const struct weight_shape *shape, void *context);
    void *context;
};

static void visit_roles(const struct visit *visit, enum weight_role first, enum weight_role last,
                        size_t layer, size_t expert)
{
    for (size_t role = first; role <= last; role++) {
        struct weight_shape shape;
        if (architecture_tensor(visit->config, (enum weight_role)role, layer, expert, &shape)) {
            visit->visit((enum weight_role)role, layer, &shape, visit->context);
        }
    }
}

void architecture_visit(const struct model_config *config,
                        void (*visit)(enum weight_role role, size_t layer, const struct weight_shape *shape,
                                      void *context),
                        void *context)
{
    const struct visit all = {config, visit, context};
    visit_roles(&all, WEIGHT_EMBEDDING, WEIGHT_EMBEDDING_NORM_BIAS, 0, 0);
    for (size_t layer = 0; layer < config->layer_count; layer++) {
        visit_roles(&all, WEIGHT_ATTENTION_NORM, WEIGHT_ROUTER, layer, 0);
        for (size_t expert = 0; expert < config->layers[layer].expert_count; expert++) {
            visit_roles(&all, WEIGHT_EXPERT_GATE, WEIGHT_EXPERT_DOWN, layer, expert);
        }
    }
    visit_roles(&all, WEIGHT_FINAL_NORM, WEIGHT_HEAD, 0, 0);
}

/* ---- names back to roles --------------------------------------------------------------------- */

bool architecture_split_name(const struct model_config *config, const char *tensor_name, size_t *ret_layer,
                             const char **ret_suffix)
{
    const struct architecture *row = architecture_of(config);
    if (!text_starts_with(tensor_name, config->prefix)) {
        return false;
    }
    const char *rest = tensor_name + strlen(config->prefix);
    if (!text_starts_with(rest, row->layers)) {
        return false;
    }
    const char *digits = rest + strlen(row->layers), *dot = strchr(digits, '.');
    uint64_t layer = 0;
    if (dot == NULL || !text_parse_u64(digits, (size_t)(dot - digits), &layer)) {
        return false;
    }
    *ret_layer = (size_t)layer;
    *ret_suffix = dot + 1;
    return true;
}

static bool matches(const char *pattern, const char *suffix, size_t *ret_expert)
{
    const char *place = strstr(pattern, "%zu");
    *ret_expert = 0;
    if (place == NULL) {
        return strcmp(pattern, suffix) == 0;
    }
    size_t before = (size_t)(place - pattern), digits = 0;
    uint64_t expert = 0;
    if (strncmp(pattern, suffix, before) != 0) {
        return false;
    }
    digits = strspn(suffix + before, "0123456789");
    if (!text_parse_u64(suffix + before, digits, &expert) ||
        strcmp(place + strlen("%zu"), suffix + before + digits) != 0) {
        return false;
    }
    *ret_expert = (size_t)expert;
    return true;
}

bool architecture_find_role(const struct model_config *config, const char *suffix, enum weight_role *ret_role,
                            size_t *ret_expert)
{
    const struct architecture *row = architecture_of(config);
    for (size_t role = WEIGHT_ATTENTION_NORM; role < WEIGHT_ROLE_COUNT; role++) {
        if (row->names[role] != NULL && matches(row->names[role], suffix, ret_expert)) {
            *ret_role = (enum weight_role)role;
            return true;
        }
    }
    return false;
}

bool architecture_part(const struct model_config *config, const char *suffix, enum weight_part *ret_part,
                       bool *ret_is_norm)
{
    enum weight_role role = WEIGHT_EMBEDDING;
    size_t expert = 0;
    if (!architecture_find_role(config, suffix, &role, &expert)) {
        return false;
    }
    *ret_part = roles[role].part;
    *ret_is_norm = roles[role].kind == NORM;
    return true;
}

bool architecture_ignores(const struct model_config *config, const char *tensor_name)
{
    const struct architecture *row = architecture_of(config);
    if (config->has_tied_head && row->names[WEIGHT_HEAD] != NULL &&
        strcmp(tensor_name, row->names[WEIGHT_HEAD]) == 0) {
        return true;
    }
    const char *rest = tensor_name;
    if (text_starts_with(tensor_name, config->prefix)) {
        rest += strlen(config->prefix);
    }
    for (size_t i = 0; row->ignored != NULL && row->ignored[i] != NULL; i++) {
        const char *pattern = row->ignored[i];
        bool is_beginning = pattern[strlen(pattern) - 1] == '.';
        if (is_beginning ? text_starts_with(rest, pattern) || text_starts_with(tensor_name, pattern)
                         : text_ends_with(tensor_name, pattern)) {
            return true;
        }
    }
    return false;
}
