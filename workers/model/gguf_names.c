/* workers/model/gguf_names.c: see gguf_names.h. */
#include "workers/model/gguf_names.h"

#include <stdint.h>
#include <string.h>

#define LAYERS_MAX  1024u
#define EXPERTS_MAX 1024u

/* ---- the tables ------------------------------------------------------------------------------------------ */

static const struct gguf_name plain_model[] = {
    {.gguf = "token_embd", .hf = "embed_tokens"},
    {.gguf = "output_norm", .hf = "norm"},
    {.gguf = "output", .hf = "lm_head", .is_outside = true},
    {0},
};
static const struct gguf_name gemma_model[] = {
    {.gguf = "token_embd", .hf = "embed_tokens"},
    {.gguf = "output_norm", .hf = "norm", .layout = LAYOUT_NORM_PLUS_ONE},
    {.gguf = "output", .hf = "lm_head", .is_outside = true},
    {0},
};
static const struct gguf_name gpt2_model[] = {
    {.gguf = "token_embd", .hf = "wte"},
    {.gguf = "position_embd", .hf = "wpe"},
    {.gguf = "output_norm", .hf = "ln_f"},
    {.gguf = "output", .hf = "lm_head", .is_outside = true},
    {0},
};
static const struct gguf_name gptneox_model[] = {
    {.gguf = "token_embd", .hf = "embed_in"},
    {.gguf = "output_norm", .hf = "final_layer_norm"},
    {.gguf = "output", .hf = "embed_out", .is_outside = true},
    {0},
};
static const struct gguf_name bert_model[] = {
    {.gguf = "token_embd", .hf = "embeddings.word_embeddings"},
    {.gguf = "position_embd", .hf = "embeddings.position_embeddings"},
    {.gguf = "token_types", .hf = "embeddings.token_type_embeddings"},
    {.gguf = "token_embd_norm", .hf = "embeddings.LayerNorm"},
    {0},
};

static const struct gguf_name llama_attention[] = {
    {.gguf = "attn_norm", .hf = "input_layernorm"},
    {.gguf = "attn_q", .hf = "self_attn.q_proj", .layout = LAYOUT_ROPE_PAIRS},
    {.gguf = "attn_k", .hf = "self_attn.k_proj", .layout = LAYOUT_ROPE_PAIRS, .is_kv = true},
    {.gguf = "attn_v", .hf = "self_attn.v_proj"},
    {.gguf = "attn_output", .hf = "self_attn.o_proj"},
    {.gguf = "ffn_norm", .hf = "post_attention_layernorm"},
    {0},
};
static const struct gguf_name qwen_attention[] = {
    {.gguf = "attn_norm", .hf = "input_layernorm"},
    {.gguf = "attn_q", .hf = "self_attn.q_proj"},
    {.gguf = "attn_k", .hf = "self_attn.k_proj"},
    {.gguf = "attn_v", .hf = "self_attn.v_proj"},
    {.gguf = "attn_output", .hf = "self_attn.o_proj"},
    {.gguf = "ffn_norm", .hf = "post_attention_layernorm"},
    {0},
};
static const struct gguf_name head_norms[] = {
    {.gguf = "attn_q_norm", .hf = "self_attn.q_norm"},
    {.gguf = "attn_k_norm", .hf = "self_attn.k_norm"},
    {0},
};
static const struct gguf_name gated_ffn[] = {
    {.gguf = "ffn_gate", .hf = "mlp.gate_proj"},
    {.gguf = "ffn_up", .hf = "mlp.up_proj"},
    {.gguf = "ffn_down", .hf = "mlp.down_proj"},
    {0},
};
static const struct gguf_name mixtral_ffn[] = {
    {.gguf = "ffn_gate_inp", .hf = "block_sparse_moe.gate"},
    {.gguf = "ffn_gate_exps", .hf = "block_sparse_moe.experts.%zu.w1", .is_expert = true},
    {.gguf = "ffn_down_exps", .hf = "block_sparse_moe.experts.%zu.w2", .is_expert = true},
    {.gguf = "ffn_up_exps", .hf = "block_sparse_moe.experts.%zu.w3", .is_expert = true},
    {0},
};
static const struct gguf_name qwen_experts[] = {
    {.gguf = "ffn_gate_inp", .hf = "mlp.gate"},
    {.gguf = "ffn_gate_exps", .hf = "mlp.experts.%zu.gate_proj", .is_expert = true},
    {.gguf = "ffn_up_exps", .hf = "mlp.experts.%zu.up_proj", .is_expert = true},
    {.gguf = "ffn_down_exps", .hf = "mlp.experts.%zu.down_proj", .is_expert = true},
    {0},
};
static const struct gguf_name gemma_attention[] = {
    {.gguf = "attn_norm", .hf = "input_layernorm", .layout = LAYOUT_NORM_PLUS_ONE},
    {.gguf = "attn_q", .hf = "self_attn.q_proj"},
    {.gguf = "attn_k", .hf = "self_attn.k_proj"},
    {.gguf = "attn_v", .hf = "self_attn.v_proj"},
    {.gguf = "attn_output", .hf = "self_attn.o_proj"},
    {.gguf = "post_attention_norm", .hf = "post_attention_layernorm", .layout = LAYOUT_NORM_PLUS_ONE},
    {.gguf = "ffn_norm", .hf = "pre_feedforward_layernorm", .layout = LAYOUT_NORM_PLUS_ONE},
    {.gguf = "post_ffw_norm", .hf = "post_feedforward_layernorm", .layout = LAYOUT_NORM_PLUS_ONE},
    {0},
};
static const struct gguf_name gemma_head_norms[] = {
    {.gguf = "attn_q_norm", .hf = "self_attn.q_norm", .layout = LAYOUT_NORM_PLUS_ONE},
    {.gguf = "attn_k_norm", .hf = "self_attn.k_norm", .layout = LAYOUT_NORM_PLUS_ONE},
    {0},
};
static const struct gguf_name phi3_layer[] = {
    {.gguf = "attn_norm", .hf = "input_layernorm"},
    {.gguf = "attn_qkv", .hf = "self_attn.qkv_proj"},
    {.gguf = "attn_output", .hf = "self_attn.o_proj"},
    {.gguf = "ffn_norm", .hf = "post_attention_layernorm"},
    {.gguf = "ffn_up", .hf = "mlp.gate_up_proj"},
    {.gguf = "ffn_down", .hf = "mlp.down_proj"},
    {0},
};
static const struct gguf_name gpt2_layer[] = {
    {.gguf = "attn_norm", .hf = "ln_1"},
    {.gguf = "attn_qkv", .hf = "attn.c_attn", .layout = LAYOUT_TRANSPOSED},
    {.gguf = "attn_output", .hf = "attn.c_proj", .layout = LAYOUT_TRANSPOSED},
    {.gguf = "ffn_norm", .hf = "ln_2"},
    {.gguf = "ffn_up", .hf = "mlp.c_fc", .layout = LAYOUT_TRANSPOSED},
    {.gguf = "ffn_down", .hf = "mlp.c_proj", .layout = LAYOUT_TRANSPOSED},
    {0},
};
static const struct gguf_name gptneox_layer[] = {
    {.gguf = "attn_norm", .hf = "input_layernorm"},
    {.gguf = "attn_qkv", .hf = "attention.query_key_value", .layout = LAYOUT_QKV_CONCATENATED},
    {.gguf = "attn_output", .hf = "attention.dense"},
    {.gguf = "ffn_norm", .hf = "post_attention_layernorm"},
    {.gguf = "ffn_up", .hf = "mlp.dense_h_to_4h"},
    {.gguf = "ffn_down", .hf = "mlp.dense_4h_to_h"},
    {0},
};
static const struct gguf_name bert_layer[] = {
    {.gguf = "attn_q", .hf = "attention.self.query"},
    {.gguf = "attn_k", .hf = "attention.self.key"},
    {.gguf = "attn_v", .hf = "attention.self.value"},
    {.gguf = "attn_output", .hf = "attention.output.dense"},
    {.gguf = "attn_output_norm", .hf = "attention.output.LayerNorm"},
    {.gguf = "ffn_up", .hf = "intermediate.dense"},
    {.gguf = "ffn_down", .hf = "output.dense"},
    {.gguf = "layer_output_norm", .hf = "output.LayerNorm"},
    {0},
};

#define MODEL .prefix = "model.", .layers = "layers."
static const struct gguf_family families[] = {
    {"llama", "llama", "LlamaForCausalLM", MODEL, .model = plain_model,
     .layer = {llama_attention, gated_ffn}},
    {"deci", "llama", "LlamaForCausalLM", MODEL, .has_layers = true, .model = plain_model,
     .layer = {llama_attention, gated_ffn}},
    {"llama", "mixtral", "MixtralForCausalLM", MODEL, .has_experts = true, .model = plain_model,
     .layer = {llama_attention, mixtral_ffn}},
    {"qwen2", "qwen2", "Qwen2ForCausalLM", MODEL, .model = plain_model, .layer = {qwen_attention, gated_ffn}},
    {"qwen3", "qwen3", "Qwen3ForCausalLM", MODEL, .model = plain_model,
     .layer = {qwen_attention, head_norms, gated_ffn}},
    {"qwen3moe", "qwen3_moe", "Qwen3MoeForCausalLM", MODEL, .has_experts = true, .model = plain_model,
     .layer = {qwen_attention, head_norms, qwen_experts}},
    {"gemma2", "gemma2", "Gemma2ForCausalLM", MODEL, .model = gemma_model,
     .layer = {gemma_attention, gated_ffn}},
    {"gemma3", "gemma3_text", "Gemma3ForCausalLM", MODEL, .model = gemma_model,
     .layer = {gemma_attention, gemma_head_norms, gated_ffn}},
    {"phi3", "phi3", "Phi3ForCausalLM", MODEL, .model = plain_model, .layer = {phi3_layer}},
    {"gpt2", "gpt2", "GPT2LMHeadModel", "transformer.", "h.", .model = gpt2_model, .layer = {gpt2_layer}},
    {"gptneox", "gpt_neox", "GPTNeoXForCausalLM", "gpt_neox.", "layers.", .model = gptneox_model,
     .layer = {gptneox_layer}},
    {"bert", "bert", "BertModel", "", "encoder.layer.", .model = bert_model, .layer = {bert_layer}},
};
#undef MODEL
#define FAMILY_COUNT (sizeof families / sizeof families[0])

const struct gguf_family *gguf_family_find(const char *architecture, bool has_experts)
{
    for (size_t i = 0; i < FAMILY_COUNT; i++) {
        if (strcmp(families[i].architecture, architecture) == 0 && families[i].has_experts == has_experts) {
            return &families[i];
        }
    }
    return NULL;
}

const struct gguf_family *gguf_family_of(const char *model_type)
{
    const char *wanted = strcmp(model_type, "mistral") == 0 ? "llama" : model_type;
    for (size_t i = 0; i < FAMILY_COUNT; i++) {
        if (strcmp(families[i].model_type, wanted) == 0 && strcmp(wanted, "bert") != 0) {
            return &families[i];
        }
    }
    return NULL;
}

/* ---- names ----------------------------------------------------------------------------------------------- */

/* Takes "<number>." off *name. */
static bool take_number(const char **name, size_t limit, size_t *ret_number)
{
    const char *dot = strchr(*name, '.');
    uint64_t number = 0;
    bool is_plain = dot != NULL && (**name != '0' || dot == *name + 1); /* one spelling for a number */
    if (!is_plain || !text_parse_u64(*name, (size_t)(dot - *name), &number) || number >= limit) {
        return false;
    }
    *name = dot + 1;
    *ret_number = (size_t)number;
    return true;
}

/* Cuts ".weight" or ".bias" off: the length of what is before. */
static bool split_ending(const char *name, size_t *ret_length, bool *ret_is_bias)
{
    *ret_is_bias = text_ends_with(name, ".bias");
    if (!*ret_is_bias && !text_ends_with(name, ".weight")) {
        return false;
    }
    *ret_length = strlen(name) - (*ret_is_bias ? strlen(".bias") : strlen(".weight"));
    return true;
}

/* Whether text [length] is the pattern, whose "%zu" stands for a number that goes to *ret_expert. */
static bool matches(const char *pattern, const char *text, size_t length, size_t *ret_expert)
{
    const char *hole = strstr(pattern, "%zu");
    if (hole == NULL) {
        return strlen(pattern) == length && memcmp(pattern, text, length) == 0;
    }
    size_t before = (size_t)(hole - pattern);
    if (length <= before || memcmp(pattern, text, before) != 0) {
        return false;
    }
    const char *rest = text + before, *after = hole + strlen("%zu."); /* the hole is followed by a dot */
    return take_number(&rest, EXPERTS_MAX, ret_expert) && strlen(after) == length - (size_t)(rest - text) &&
           memcmp(after, rest, strlen(after)) == 0;
}

static const struct gguf_name *find_row(const struct gguf_name *rows, const char *base, size_t length,
                                        bool is_hf, size_t *ret_expert)
{
    for (const struct gguf_name *row = rows; row != NULL && row->gguf != NULL; row++) {
        if (matches(is_hf ? row->hf : row->gguf, base, length, ret_expert)) {
            return row;
        }
    }
    return NULL;
}

static bool parse_rest(const struct gguf_family *family, const char *rest, bool is_hf,
                       struct gguf_place *place)
{
    size_t length = 0;
    if (!split_ending(rest, &length, &place->is_bias)) {
        return false;
    }
    if (place->layer == SIZE_MAX) {
        place->row = find_row(family->model, rest, length, is_hf, &place->expert);
        return place->row != NULL;
    }
    for (size_t i = 0; i < 3 && place->row == NULL; i++) {
        place->row = find_row(family->layer[i], rest, length, is_hf, &place->expert);
    }
    return place->row != NULL;
}

bool gguf_place_parse(const struct gguf_family *family, const char *name, struct gguf_place *ret_place)
{
    struct gguf_place place = {.layer = SIZE_MAX};
    const char *rest = name;
    if (text_starts_with(name, "blk.")) {
        rest += strlen("blk.");
        if (!take_number(&rest, LAYERS_MAX, &place.layer)) {
            return false;
        }
    }
    if (!parse_rest(family, rest, false, &place)) {
        return false;
    }
    *ret_place = place;
    return true;
}

bool gguf_place_parse_hf(const struct gguf_family *family, const char *name, struct gguf_place *ret_place)
{
    struct gguf_place place = {.layer = SIZE_MAX};
    bool has_prefix = text_starts_with(name, family->prefix);
    const char *rest = has_prefix ? name + strlen(family->prefix) : name;
    if (text_starts_with(rest, family->layers)) {
        rest += strlen(family->layers);
        if (!take_number(&rest, LAYERS_MAX, &place.layer)) {
            return false;
        }
    }
    if (!parse_rest(family, rest, true, &place) ||
        (has_prefix && family->prefix[0] != '\0' && place.row->is_outside)) {
        return false;
    }
    *ret_place = place;
    return true;
}

void gguf_place_format(const struct gguf_place *place, struct text *name)
{
    if (place->layer != SIZE_MAX) {
        text_append_format(name, "blk.%zu.", place->layer);
    }
    text_append_format(name, "%s.%s", place->row->gguf, place->is_bias ? "bias" : "weight");
}

void gguf_place_format_hf(const struct gguf_family *family, const struct gguf_place *place, struct text *name)
{
    if (!place->row->is_outside) {
        text_append(name, family->prefix);
    }
    if (place->layer != SIZE_MAX) {
        text_append_format(name, "%s%zu.", family->layers, place->layer);
    }
    const char *hole = strstr(place->row->hf, "%zu");
    if (hole == NULL) {
        text_append(name, place->row->hf);
    } else {
        text_append_bytes(name, place->row->hf, (size_t)(hole - place->row->hf));
        text_append_format(name, "%zu%s", place->expert, hole + strlen("%zu"));
    }
    text_append(name, place->is_bias ? ".bias" : ".weight");
}

enum tensor_layout gguf_place_layout(const struct gguf_place *place)
{
    return place->is_bias && place->row->layout == LAYOUT_TRANSPOSED ? LAYOUT_PLAIN : place->row->layout;
}
