/*
 * workers/model/config_family.c: config.json, family by family. Keys fall into three groups: those that are read, those that
 * are known to change nothing in a forward pass, and all others. One of the others is let through only while it is switched
 * off (null, false, zero, empty): what we do not know could change the arithmetic, and a wrong number is worse than a
 * refusal. Defaults are those of the family's config class in transformers.
 */
#include "workers/model/config_internal.h"

#include <string.h>

static const char *const common_keys[] = {
    "model_type", "vocab_size",          "tie_word_embeddings", "bos_token_id", "eos_token_id",
    "pruning",    "quantization_config", "layer_types",         NULL,
};
static const char *const rope_keys[] = {
    "rope_theta",         "rope_scaling", "rope_parameters", "partial_rotary_factor", "sliding_window",
    "use_sliding_window", NULL,
};
static const char *const expert_keys[] = {"num_local_experts", "num_experts", "num_experts_per_tok", NULL};
static const char *const harmless_keys[] = {
    "architectures",
    "torch_dtype",
    "dtype",
    "transformers_version",
    "use_cache",
    "cache_implementation",
    "pad_token_id",
    "unk_token_id",
    "sep_token_id",
    "cls_token_id",
    "mask_token_id",
    "initializer_range",
    "init_std",
    "pretraining_tp",
    "attention_dropout",
    "activation_dropout",
    "hidden_dropout",
    "dropout",
    "layerdrop",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "gradient_checkpointing",
    "reorder_and_upcast_attn", /* the same in fp32 */
    "output_router_logits",
    "router_aux_loss_coef",
    "router_jitter_noise", /* while training */
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "auto_map",
    "is_llama_config",
    "max_sequence_length",
    "model_max_length",
    "vocab_pruned",
    "tokenizer_class",
    "id2label",
    "label2id",
    "return_dict",
    "output_attentions",
    "output_hidden_states",
    "chunk_size_feed_forward",
    "is_encoder_decoder",
    "cross_attention_hidden_size",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    "repetition_penalty",
    "length_penalty",
    "no_repeat_ngram_size",
    "num_beams",
    "num_beam_groups",
    "num_return_sequences",
    "max_length",
    "min_length",
    "diversity_penalty",
    "early_stopping",
    "do_sample",
    "finetuning_task",
    "problem_type",
    "task_specific_params",
    "prefix",
    "decoder_start_token_id",
    "exponential_decay_length_penalty",
    "suppress_tokens",
    "begin_suppress_tokens",
    "bad_words_ids",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "remove_invalid_values",
    "encoder_no_repeat_ngram_size",
    "torchscript",
    "tf_legacy_loss",
    "use_bfloat16",
    "tie_encoder_decoder",
    "output_scores",
    "return_dict_in_generate",
    "pruned_heads",
    "transformers.js_config",
    "unsloth_version",
    "unsloth_fixed",
    "attn_implementation",
    NULL,
};

/* What a family's config.json may carry beside the keys that its row names. */
static const char *const decoder_keys[] = {"is_decoder", "max_window_layers", NULL};
static const char *const gemma_keys[] = {"query_pre_attn_scalar",
                                         "attn_logit_softcapping",
                                         "final_logit_softcapping",
                                         "hidden_act",
                                         "sliding_window_pattern",
                                         "rope_local_base_freq",
                                         NULL};
static const char *const phi3_keys[] = {"original_max_position_embeddings", NULL};
static const char *const gpt2_keys[] = {"n_ctx", "scale_attn_weights", "is_decoder", NULL};
static const char *const opt_keys[] = {"word_embed_proj_dim", "do_layer_norm_before",
                                       "layer_norm_elementwise_affine", "is_decoder", NULL};
static const char *const qwen3_moe_keys[] = {"moe_intermediate_size", "norm_topk_prob",
                                             "decoder_sparse_step",   "mlp_only_layers",
                                             "max_window_layers",     NULL};
static const char *const bert_keys[] = {"type_vocab_size", "position_embedding_type", NULL};

static const char *const opt_required[] = {"do_layer_norm_before=true", "layer_norm_elementwise_affine=true",
                                           "_remove_final_layer_norm=false", NULL};
static const char *const gpt2_required[] = {"scale_attn_by_inverse_layer_idx=false",
                                            "add_cross_attention=false", NULL};
static const char *const gemma_required[] = {"use_bidirectional_attention=false", NULL};
static const char *const bert_required[] = {"is_decoder=false", "add_cross_attention=false",
                                            "position_embedding_type=absolute", NULL};

/* The spelling that most families share. */
#define SIZES                                                                                                \
    .hidden = "hidden_size", .layers = "num_hidden_layers", .heads = "num_attention_heads",                  \
    .context = "max_position_embeddings"
#define LLAMA_LIKE                                                                                           \
    SIZES, .ffn = "intermediate_size", .epsilon = "rms_norm_eps", .has_kv_heads = true,                      \
           .has_head_size = true, .rotary_share = 1.0
#define SILU                .activation = "hidden_act", .activation_name = "silu"
#define TOKENS(first, last) .bos = (first), .eos = (last)
#define NO_TOKENS           TOKENS(-1, -1)
#define ALL_BIASES          .attention_bias = {NULL, true}, .ffn_bias = {NULL, true}, .has_o_bias = true
#define BIAS_KEY            .attention_bias = {"attention_bias", false}, .has_o_bias = true

#define LLAMA                                                                                                \
    LLAMA_LIKE, SILU, TOKENS(1, 2), BIAS_KEY, .ffn_bias = {"mlp_bias", false}, .epsilon_value = 1e-6,        \
                                              .context_tokens = 2048, .rope_base = 10000.0,                  \
                                              .keys = decoder_keys
#define QWEN                                                                                                 \
    LLAMA_LIKE, SILU, NO_TOKENS, .epsilon_value = 1e-6, .context_tokens = 32768, .rope_base = 10000.0,       \
                                 .is_window_optional = true, .window_tokens = 4096
#define GEMMA                                                                                                \
    LLAMA_LIKE, TOKENS(2, 1), BIAS_KEY,                                                                      \
        .activation = "hidden_activation", .activation_name = "gelu_pytorch_tanh", .epsilon_value = 1e-6,    \
        .kv_heads = 4, .head_size = 256, .windows = WINDOW_PATTERN, .window_tokens = 4096,                   \
        .tied = {NULL, true}, .scales_embedding = true, .has_softcaps = true, .keys = gemma_keys,            \
        .required = gemma_required

static const struct config_family families[] = {
    {.model_type = "llama", LLAMA},
    {.model_type = "mistral",
     LLAMA_LIKE,
     SILU,
     TOKENS(1, 2),
     .epsilon_value = 1e-6,
     .kv_heads = 8,
     .context_tokens = 131072,
     .rope_base = 10000.0,
     .windows = WINDOW_EVERYWHERE,
     .window_tokens = 4096,
     .keys = decoder_keys},
    {.model_type = "qwen2",
     QWEN,
     .kv_heads = 32,
     .windows = WINDOW_FROM_LAYER,
     .attention_bias = {NULL, true},
     .keys = decoder_keys},
    {.model_type = "qwen3",
     QWEN,
     BIAS_KEY,
     .kv_heads = 32,
     .head_size = 128,
     .windows = WINDOW_FROM_LAYER,
     .keys = decoder_keys},
    {.model_type = "qwen3_moe",
     QWEN,
     BIAS_KEY,
     .kv_heads = 4,
     .windows = WINDOW_EVERYWHERE,
     .expert_count = 128,
     .active_expert_count = 8,
     .is_expert_sized_apart = true,
     .keys = qwen3_moe_keys},
    {.model_type = "gemma2",
     GEMMA,
     .context_tokens = 8192,
     .rope_base = 10000.0,
     .window_pattern = 2,
     .attention_softcap = 50.0,
     .final_softcap = 30.0},
    {.model_type = "gemma3_text",
     GEMMA,
     .context_tokens = 131072,
     .rope_base = 1000000.0,
     .local_rope_base = 10000.0,
     .window_pattern = 6},
    {.model_type = "phi3",
     LLAMA_LIKE,
     SILU,
     TOKENS(1, 32000),
     .epsilon_value = 1e-5,
     .context_tokens = 4096,
     .rope_base = 10000.0,
     .rotary_share_key = "partial_rotary_factor",
     .is_rope_longrope_only = true,
     .windows = WINDOW_EVERYWHERE,
     .keys = phi3_keys},
    {.model_type = "mixtral",
     LLAMA_LIKE,
     SILU,
     TOKENS(1, 2),
     .epsilon_value = 1e-5,
     .kv_heads = 8,
     .context_tokens = 131072,
     .rope_base = 1000000.0,
     .windows = WINDOW_EVERYWHERE,
     .expert_count = 8,
     .active_expert_count = 2,
     .keys = decoder_keys},
    {.model_type = "gpt2",
     TOKENS(50256, 50256),
     ALL_BIASES,
     .hidden = "n_embd",
     .layers = "n_layer",
     .heads = "n_head",
     .ffn = "n_inner",
     .is_ffn_optional = true,
     .context = "n_positions",
     .epsilon = "layer_norm_epsilon",
     .epsilon_value = 1e-5,
     .activation = "activation_function",
     .activation_name = "gelu_new",
     .context_tokens = 1024,
     .positions = POSITION_LEARNED,
     .tied = {NULL, true},
     .keys = gpt2_keys,
     .required = gpt2_required},
    {.model_type = "opt",
     SIZES,
     TOKENS(2, 2),
     .attention_bias = {"enable_bias", true},
     .ffn_bias = {"enable_bias", true},
     .has_o_bias = true,
     .ffn = "ffn_dim",
     .epsilon_value = 1e-5,
     .activation = "activation_function",
     .activation_name = "relu",
     .context_tokens = 2048,
     .positions = POSITION_LEARNED,
     .position_offset = 2,
     .tied = {NULL, true},
     .keys = opt_keys,
     .required = opt_required},
    {.model_type = "gpt_neox",
     SIZES,
     TOKENS(0, 2),
     .attention_bias = {"attention_bias", true},
     .ffn_bias = {NULL, true},
     .has_o_bias = true,
     .ffn = "intermediate_size",
     .epsilon = "layer_norm_eps",
     .epsilon_value = 1e-5,
     .activation = "hidden_act",
     .activation_name = "gelu",
     .context_tokens = 2048,
     .rope_base = 10000.0,
     .rope_base_key = "rotary_emb_base",
     .rotary_share_key = "rotary_pct",
     .rotary_share = 0.25,
     .parallel = {"use_parallel_residual", true},
     .keys = decoder_keys},
    {.model_type = "bert",
     SIZES,
     NO_TOKENS,
     ALL_BIASES,
     .ffn = "intermediate_size",
     .epsilon = "layer_norm_eps",
     .epsilon_value = 1e-12,
     .activation = "hidden_act",
     .activation_name = "gelu",
     .context_tokens = 512,
     .positions = POSITION_LEARNED,
     .tied = {NULL, true},
     .keys = bert_keys,
     .required = bert_required},
};

const struct config_family *config_family_find(const char *model_type)
{
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        if (strcmp(families[i].model_type, model_type) == 0) {
            return &families[i];
        }
    }
    return NULL;
}

const char *model_config_layer_count_key(const struct model_config *config)
{
    return config_family_find(config->model_type)->layers;
}

void model_config_find_keys(const struct model_config *config, struct model_config_keys *ret_keys)
{
    const struct config_family *family = config_family_find(config->model_type);
    bool has_experts = family->expert_count > 0;
    *ret_keys =
        (struct model_config_keys){.hidden = family->hidden,
                                   .heads = family->heads,
                                   .kv_heads = family->has_kv_heads ? "num_key_value_heads" : NULL,
                                   .head_size = family->has_head_size ? "head_dim" : NULL,
                                   .ffn = family->ffn,
                                   .expert_ffn = !has_experts                    ? NULL
                                                 : family->is_expert_sized_apart ? "moe_intermediate_size"
                                                                                 : family->ffn,
                                   .attention_bias = family->attention_bias.key,
                                   .ffn_bias = family->ffn_bias.key};
}

bool model_config_lists_windows(const struct model_config *config)
{
    const struct config_family *family = config_family_find(config->model_type);
    bool has_windows = false;
    for (size_t i = 0; i < config->layer_count; i++) {
        has_windows = has_windows || config->layers[i].window_tokens > 0;
    }
    return has_windows && (family->windows == WINDOW_FROM_LAYER || family->windows == WINDOW_PATTERN);
}

bool model_config_lists_plain_layers(const struct model_config *config)
{
    return config_family_find(config->model_type)->is_expert_sized_apart;
}

/* ---- keys ------------------------------------------------------------------------------------ */

static bool is_listed(const char *key, const char *const *list)
{
    for (size_t i = 0; list != NULL && list[i] != NULL; i++) {
        if (strcmp(list[i], key) == 0) {
            return true;
        }
    }
    return false;
}

/* Whether the list of "key=value" pairs has the key. */
static bool is_required(const char *key, const char *const *list)
{
    size_t length = strlen(key);
    for (size_t i = 0; list != NULL && list[i] != NULL; i++) {
        if (strncmp(list[i], key, length) == 0 && list[i][length] == '=') {
            return true;
        }
    }
    return false;
}

bool config_family_knows(const struct config_family *family, const char *key)
{
    const char *const named[] = {family->hidden,
                                 family->layers,
                                 family->heads,
                                 family->ffn,
                                 family->context,
                                 family->epsilon,
                                 family->activation,
                                 family->rope_base_key,
                                 family->rotary_share_key,
                                 family->attention_bias.key,
                                 family->ffn_bias.key,
                                 family->parallel.key,
                                 family->has_kv_heads ? "num_key_value_heads" : NULL,
                                 family->has_head_size ? "head_dim" : NULL};
    for (size_t i = 0; i < sizeof named / sizeof named[0]; i++) {
        if (named[i] != NULL && strcmp(named[i], key) == 0) {
            return true;
        }
    }
    return is_listed(key, common_keys) || is_listed(key, harmless_keys) || is_listed(key, family->keys) ||
           is_required(key, family->required) ||
           (family->positions == POSITION_ROPE && is_listed(key, rope_keys)) ||
           (family->expert_count > 0 && is_listed(key, expert_keys));
}

static bool is_switched_off(const json_t *value)
{
    return json_is_null(value) || json_is_false(value) ||
           (json_is_number(value) && json_number_value(value) == 0.0) ||
           (json_is_array(value) && json_array_size(value) == 0) ||
           (json_is_object(value) && json_object_size(value) == 0) ||
           (json_is_string(value) && json_string_length(value) == 0);
}

/* jansson's iterators take a mutable object, though they change nothing. */
json_t *config_iterable(const json_t *json)
{
    union {
        const json_t *from;
        json_t *to;
    } pointer = {json};
    return pointer.to;
}

/* "key=value": true, false or a text. Absent and null are what is required. */
static void check_required(struct config_parser *parser, const char *pair)
{
    char key[64];
    const char *sign = strchr(pair, '=');
    (void)snprintf(key, sizeof key, "%.*s", (int)(sign - pair), pair);
    const json_t *value = config_member(parser, key);
    bool is_met = json_is_boolean(value)  ? strcmp(sign + 1, json_is_true(value) ? "true" : "false") == 0
                  : json_is_string(value) ? strcmp(sign + 1, json_string_value(value)) == 0
                                          : value == NULL;
    if (!is_met) {
        (void)config_fault(parser, ERROR_UNSUPPORTED, key,
                           "is not %s; models of type %s are known with that only", sign + 1,
                           parser->family->model_type);
    }
}

void config_refuse_unknown_keys(struct config_parser *parser)
{
    json_t *json = config_iterable(parser->json);
    for (void *iterator = json_object_iter(json); iterator != NULL;
         iterator = json_object_iter_next(json, iterator)) {
        const char *key = json_object_iter_key(iterator);
        bool is_block_list = parser->config->is_heterogeneous && strcmp(key, "block_configs") == 0;
        if (key[0] != '_' && !is_block_list && !config_family_knows(parser->family, key) &&
            !is_switched_off(json_object_iter_value(iterator))) {
            (void)config_fault(parser, ERROR_UNSUPPORTED, key,
                               "is not known; it could change what the model computes");
        }
    }
    for (size_t i = 0; parser->family->required != NULL && parser->family->required[i] != NULL; i++) {
        check_required(parser, parser->family->required[i]);
    }
}
