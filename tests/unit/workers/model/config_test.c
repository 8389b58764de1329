/* tests/unit/workers/model/config_test.c: config.json is read, and refused by the key that is wrong. */
#include "workers/model/architecture.h"
#include "workers/model/config.h"

#include "base/cleanup.h"
#include "base/memory.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char base_text[] =
    "{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": 64, \"intermediate_size\": 172, "
    "\"num_hidden_layers\": 5, \"num_attention_heads\": 8, \"num_key_value_heads\": 4, \"vocab_size\": 512, "
    "\"max_position_embeddings\": 512, \"rms_norm_eps\": 1e-05, \"hidden_act\": \"silu\", \"bos_token_id\": 1, "
    "\"eos_token_id\": 2, \"torch_dtype\": \"float32\"}";

#define FULL     "\"full_attention\""
#define SLIDING  "\"sliding_attention\""
#define ALL_FULL "[" FULL ", " FULL ", " FULL ", " FULL ", " FULL "]"

static struct model_config *config;

static int create_config(void **state)
{
    (void)state;
    config = memory_create(1, sizeof *config);
    return 0;
}

static int destroy_config(void **state)
{
    (void)state;
    free(config);
    return 0;
}

/* The base with one member set (value: JSON text; NULL: removed). */
static bool parse_with(const char *key, const char *value, struct error_list *faults)
{
    JSON_OWNED json = json_loads(base_text, 0, NULL);
    assert_non_null(json);
    if (key != NULL && value == NULL) {
        json_object_del(json, key);
    } else if (key != NULL) {
        json_t *parsed = json_loads(value, JSON_DECODE_ANY, NULL);
        assert_non_null(parsed);
        json_put(json, key, parsed);
    }
    return model_config_parse(json, config, faults);
}

static void a_stock_config_is_read(void **state)
{
    (void)state;
    FINISHED(error_list) faults = {0};
    assert_true(parse_with(NULL, NULL, &faults));
    assert_string_equal(config->model_type, "llama");
    assert_int_equal(config->head_size, 8);
    assert_int_equal(config->kv_head_count, 4);
    assert_false(config->has_tied_head);
    assert_true(config->ropes[0].base == 10000.0 && config->ropes[0].scaling.kind == NULL);
    assert_int_equal(config->bos_token, 1);
    assert_int_equal(config->eos_token_count, 1);
    assert_int_equal(config->eos_tokens[0], 2);
    for (size_t i = 0; i < 5; i++) {
        assert_true(config->layers[i].has_attention && config->layers[i].has_ffn);
        assert_int_equal(config->layers[i].intermediate_size, 172);
    }
}

static void old_and_new_forms_of_rope_are_read(void **state)
{
    (void)state;
    static const char llama3[] =
        "{\"rope_type\": \"llama3\", \"factor\": 8.0, \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, "
        "\"original_max_position_embeddings\": 8192}";
    FINISHED(error_list) faults = {0};
    assert_true(parse_with("rope_scaling", llama3, &faults));
    assert_string_equal(config->ropes[0].scaling.kind, "llama3");
    assert_int_equal(config->ropes[0].scaling.original_context_tokens, 8192);
    assert_true(config->ropes[0].scaling.high_freq_factor == 4.0);
    assert_true(parse_with("rope_scaling", "{\"type\": \"linear\", \"factor\": 2}", &faults));
    assert_string_equal(config->ropes[0].scaling.kind, "linear");
    assert_true(
        parse_with("rope_parameters", "{\"rope_type\": \"default\", \"rope_theta\": 500000.0}", &faults));
    assert_true(config->ropes[0].base == 500000.0 && config->ropes[0].scaling.kind == NULL);
}

static void defaults_are_those_of_transformers(void **state)
{
    (void)state;
    FINISHED(error_list) faults = {0};
    assert_true(parse_with("num_key_value_heads", NULL, &faults));
    assert_int_equal(config->kv_head_count, 8);
    assert_true(parse_with("head_dim", "16", &faults));
    assert_int_equal(config->head_size, 16);
    assert_true(parse_with("eos_token_id", "[5, 6, 7]", &faults));
    assert_int_equal(config->eos_token_count, 3);
    assert_true(parse_with("eos_token_id", "null", &faults));
    assert_int_equal(config->eos_token_count, 0);
    assert_true(parse_with("eos_token_id", NULL, &faults));
    assert_true(config->eos_token_count == 1 && config->eos_tokens[0] == 2);
    assert_true(parse_with("bos_token_id", NULL, &faults));
    assert_int_equal(config->bos_token, 1);
    assert_true(parse_with("bos_token_id", "null", &faults));
    assert_int_equal(config->bos_token, -1);
    assert_true(parse_with("sliding_window", "null", &faults));
    assert_true(parse_with("sliding_window", "512", &faults)); /* as wide as the context: none */
    assert_true(parse_with("layer_types", ALL_FULL, &faults));
    assert_true(parse_with("a_switch_we_do_not_know", "false", &faults));
    assert_true(parse_with("_comment", "\"x\"", &faults));
}

static const struct {
    const char *key, *value;
    enum error_code code;
    const char *field; /* NULL: config.json/<key> */
} wrong[] = {
    {"model_type", NULL, ERROR_MISSING_FIELD, NULL},
    {"model_type", "7", ERROR_WRONG_TYPE, NULL},
    {"model_type", "\"mamba\"", ERROR_UNSUPPORTED, NULL},
    {"hidden_size", NULL, ERROR_MISSING_FIELD, NULL},
    {"hidden_size", "\"64\"", ERROR_WRONG_TYPE, NULL},
    {"hidden_size", "64.5", ERROR_WRONG_TYPE, NULL},
    {"hidden_size", "0", ERROR_OUT_OF_RANGE, NULL},
    {"hidden_size", "65537", ERROR_OUT_OF_RANGE, NULL},
    {"hidden_size", "-1", ERROR_OUT_OF_RANGE, NULL},
    {"num_hidden_layers", "1025", ERROR_OUT_OF_RANGE, NULL},
    {"num_attention_heads", "1025", ERROR_OUT_OF_RANGE, NULL},
    {"num_attention_heads", "7", ERROR_OUT_OF_RANGE, NULL},
    {"num_key_value_heads", "3", ERROR_OUT_OF_RANGE, NULL},
    {"num_key_value_heads", "0", ERROR_OUT_OF_RANGE, NULL},
    {"head_dim", "7", ERROR_OUT_OF_RANGE, NULL},
    {"vocab_size", "2097153", ERROR_OUT_OF_RANGE, NULL},
    {"intermediate_size", NULL, ERROR_MISSING_FIELD, NULL},
    {"rms_norm_eps", "0", ERROR_OUT_OF_RANGE, NULL},
    {"rms_norm_eps", "\"small\"", ERROR_WRONG_TYPE, NULL},
    {"rope_theta", "-1", ERROR_OUT_OF_RANGE, NULL},
    {"rope_scaling", "7", ERROR_WRONG_TYPE, NULL},
    {"rope_scaling", "{\"type\": \"dynamic\", \"factor\": 2}", ERROR_UNSUPPORTED, NULL},
    {"rope_scaling", "{\"type\": \"yarn\"}", ERROR_MISSING_FIELD, NULL},
    {"rope_scaling", "{\"type\": \"yarn\", \"factor\": 2, \"truncate\": false}", ERROR_UNSUPPORTED, NULL},
    {"rope_scaling", "{\"type\": \"linear\", \"factor\": 2, \"mrope_section\": [1]}", ERROR_UNSUPPORTED,
     NULL},
    {"rope_scaling", "{\"type\": \"longrope\", \"short_factor\": [1, 1, 1, 1]}", ERROR_MISSING_FIELD, NULL},
    {"rope_scaling", "{\"type\": \"longrope\", \"short_factor\": [1], \"long_factor\": [1]}",
     ERROR_OUT_OF_RANGE, NULL},
    {"rope_scaling", "{\"type\": \"linear\"}", ERROR_MISSING_FIELD, NULL},
    {"rope_scaling", "{\"type\": \"llama3\", \"factor\": 8}", ERROR_MISSING_FIELD, NULL},
    {"partial_rotary_factor", "0.5", ERROR_UNSUPPORTED, NULL},
    {"hidden_act", "\"quick_gelu\"", ERROR_UNSUPPORTED, NULL},
    {"attention_bias", "1", ERROR_WRONG_TYPE, NULL},
    {"tie_word_embeddings", "\"yes\"", ERROR_WRONG_TYPE, NULL},
    {"eos_token_id", "\"</s>\"", ERROR_WRONG_TYPE, NULL},
    {"eos_token_id", "[1, 2, 3, 4, 5, 6, 7, 8, 9]", ERROR_OUT_OF_RANGE, NULL},
    {"bos_token_id", "4294967296", ERROR_WRONG_TYPE, NULL},
    {"sliding_window", "128", ERROR_UNSUPPORTED, NULL},
    {"layer_types", "[" FULL "]", ERROR_OUT_OF_RANGE, NULL},
    {"layer_types", "7", ERROR_WRONG_TYPE, NULL},
    {"layer_types", "[" FULL ", " SLIDING ", " FULL ", " FULL ", " FULL "]", ERROR_UNSUPPORTED, NULL},
    {"layer_types", "[" FULL ", " FULL ", " FULL ", " FULL ", \"linear_attention\"]", ERROR_UNSUPPORTED,
     NULL},
    {"add_cross_attention", "true", ERROR_UNSUPPORTED, NULL},
    {"query_pre_attn_scalar", "256", ERROR_UNSUPPORTED, NULL},
    {"n_embd", "64", ERROR_UNSUPPORTED, NULL},
    {"quantization_config", "{\"bits\": 4}", ERROR_UNSUPPORTED, NULL},
    {"logits_scaling", "8.0", ERROR_UNSUPPORTED, NULL},
    {"num_experts", "8", ERROR_UNSUPPORTED, NULL},
    {"use_qk_norm", "true", ERROR_UNSUPPORTED, NULL},
    {"pruning", "{\"layers\": []}", ERROR_UNSUPPORTED, NULL},
};

static void each_fault_names_its_key(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        FINISHED(error_list) faults = {0};
        char field[128];
        (void)snprintf(field, sizeof field, "config.json/%s", wrong[i].key);
        assert_false(parse_with(wrong[i].key, wrong[i].value, &faults));
        bool is_said = false;
        for (size_t f = 0; f < faults.stored; f++) {
            is_said = is_said ||
                      (faults.items[f].code == wrong[i].code && strcmp(faults.items[f].field, field) == 0);
        }
        if (!is_said) {
            fail_msg("%s = %s: the first fault was %s of %s", wrong[i].key, wrong[i].value,
                     error_code_slug(faults.items[0].code), faults.items[0].field);
        }
    }
}

static void all_faults_come_at_once(void **state)
{
    (void)state;
    static const char text[] =
        "{\"model_type\": \"llama\", \"hidden_size\": 0, \"vocab_size\": \"x\", \"hidden_act\": \"mish\"}";
    JSON_OWNED json = json_loads(text, 0, NULL);
    FINISHED(error_list) faults = {0};
    assert_false(model_config_parse(json, config, &faults));
    assert_int_equal(faults.count, 6); /* hidden_size, vocab_size, hidden_act; three are missing */
}

static void a_heterogeneous_config_says_what_each_layer_has(void **state)
{
    (void)state;
    JSON_OWNED json = json_loads(base_text, 0, NULL);
    JSON_OWNED pruning = json_loads(
        "{\"layers\": [{\"attention\": true, \"ffn\": false}, {\"attention\": false, \"ffn\": true}]}", 0,
        NULL);
    FINISHED(error_list) faults = {0};
    json_put_text(json, "model_type", "pruned_llama");
    assert_false(model_config_parse(json, config, &faults)); /* needs "pruning" */
    json_put_i64(json, "num_hidden_layers", 2);
    json_put(json, "pruning", json_incref(pruning));
    assert_true(model_config_parse(json, config, &faults));
    assert_true(config->layers[0].has_attention && !config->layers[0].has_ffn);
    assert_true(!config->layers[1].has_attention && config->layers[1].has_ffn);
    struct weight_shape shape;
    assert_true(architecture_tensor(config, WEIGHT_Q, 0, 0, &shape));
    assert_string_equal(shape.name, "model.layers.0.self_attn.q_proj.weight");
    assert_false(architecture_tensor(config, WEIGHT_Q, 1, 0, &shape));
    assert_false(architecture_tensor(config, WEIGHT_FFN_NORM, 0, 0, &shape));
    assert_false(architecture_tensor(config, WEIGHT_GATE, 2, 0, &shape));
}

static void a_heterogeneous_config_has_widths_by_layer(void **state)
{
    (void)state;
    static const struct {
        const char *type, *layers, *part; /* part of the fault; NULL: none */
    } cases[] = {
        {"pruned_llama",
         "[{\"attention\": {\"num_attention_heads\": 4, \"num_key_value_heads\": 2}, \"ffn\": {\"intermediate_size\": "
         "24}}, {\"attention\": {\"num_attention_heads\": 2, \"num_key_value_heads\": 1}, \"ffn\": true}]",
         NULL},
        {"pruned_qwen3", "[{\"attention\": true, \"ffn\": false}, {\"attention\": false, \"ffn\": true}]",
         NULL},
        {"pruned_llama", "[{\"attention\": true, \"ffn\": 1}, {\"attention\": true, \"ffn\": true}]",
         "layers/0 needs ffn"},
        {"pruned_llama",
         "[{\"attention\": {\"num_attention_heads\": 4, \"num_key_value_heads\": 3}, \"ffn\": true}, {\"attention\": "
         "true, \"ffn\": true}]",
         "3 key-value heads for 4"},
        {"pruned_llama",
         "[{\"attention\": true, \"ffn\": {\"intermediate_size\": 0}}, {\"attention\": true, \"ffn\": true}]",
         "intermediate_size"},
        {"pruned_llama",
         "[{\"attention\": true, \"ffn\": {\"num_experts\": 4, \"num_experts_per_tok\": 2}}, {\"attention\": true, "
         "\"ffn\": true}]",
         "uses 2 of 4 experts"},
        {"pruned_bert", "[]", "pruned_bert"},
        {"pruned_mamba", "[]", "pruned_mamba"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        JSON_OWNED json = json_loads(base_text, 0, NULL);
        JSON_OWNED pruning = json_object();
        FINISHED(error_list) faults = {0};
        json_put(pruning, "layers", json_loads(cases[i].layers, 0, NULL));
        json_put_text(json, "model_type", cases[i].type);
        json_put_i64(json, "num_hidden_layers", 2);
        json_put(json, "pruning", json_incref(pruning));
        bool is_parsed = model_config_parse(json, config, &faults);
        if (cases[i].part != NULL) {
            assert_false(is_parsed);
            assert_non_null(strstr(faults.items[0].message, cases[i].part));
            continue;
        }
        assert_true(is_parsed && config->is_heterogeneous);
        assert_string_equal(config->model_type, cases[i].type + strlen("pruned_"));
        if (i == 0) {
            struct weight_shape shape;
            assert_true(architecture_tensor(config, WEIGHT_GATE, 0, 0, &shape) && shape.shape[0] == 24);
            assert_true(architecture_tensor(config, WEIGHT_K, 1, 0, &shape));
            assert_int_equal(shape.shape[0], config->head_size);
            assert_true(architecture_tensor(config, WEIGHT_O, 1, 0, &shape));
            assert_int_equal(shape.shape[1], 2 * config->head_size);
        }
    }
}

static void biases_follow_the_family(void **state)
{
    (void)state;
    FINISHED(error_list) faults = {0};
    struct weight_shape shape;
    assert_true(parse_with("attention_bias", "true", &faults));
    assert_true(architecture_tensor(config, WEIGHT_Q_BIAS, 0, 0, &shape) && shape.rank == 1 &&
                shape.shape[0] == 64);
    assert_true(architecture_tensor(config, WEIGHT_O_BIAS, 0, 0, &shape));
    assert_true(parse_with("model_type", "\"qwen2\"", &faults));
    assert_true(architecture_tensor(config, WEIGHT_K_BIAS, 0, 0, &shape) && shape.shape[0] == 32);
    assert_false(architecture_tensor(config, WEIGHT_O_BIAS, 0, 0, &shape));
    assert_true(parse_with("mlp_bias", "true", &faults));
    assert_true(architecture_tensor(config, WEIGHT_DOWN_BIAS, 4, 0, &shape) && shape.shape[0] == 64);
    assert_false(architecture_tensor(config, WEIGHT_Q_BIAS, 0, 0, &shape));
}

/* ---- families -------------------------------------------------------------------------------------------------------- */

#define SIZES                                                                                                \
    "\"hidden_size\": 32, \"num_attention_heads\": 4, \"num_hidden_layers\": 4, \"intermediate_size\": 48, " \
    "\"vocab_size\": 80, \"num_key_value_heads\": 2"

static void parse_text(const char *text, struct error_list *faults)
{
    JSON_OWNED json = json_loads(text, 0, NULL);
    assert_non_null(json);
    if (!model_config_parse(json, config, faults)) {
        fail_msg("%s: %s", text, faults->items[0].message);
    }
}

static void expect_windows(size_t a, size_t b, size_t c, size_t d)
{
    const size_t expected[] = {a, b, c, d};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(config->layers[i].window_tokens, expected[i]);
    }
}

static void windows_follow_the_family(void **state)
{
    (void)state;
    FINISHED(error_list) faults = {0};
    parse_text("{\"model_type\": \"mistral\", " SIZES "}", &faults);
    expect_windows(4096, 4096, 4096, 4096);
    parse_text("{\"model_type\": \"mistral\", " SIZES ", \"sliding_window\": null}", &faults);
    expect_windows(0, 0, 0, 0);
    parse_text("{\"model_type\": \"mixtral\", " SIZES "}", &faults);
    expect_windows(0, 0, 0, 0);
    parse_text("{\"model_type\": \"phi3\", " SIZES ", \"sliding_window\": 7}", &faults);
    expect_windows(7, 7, 7, 7);
    parse_text("{\"model_type\": \"qwen2\", " SIZES ", \"sliding_window\": 7, \"max_window_layers\": 2}",
               &faults);
    expect_windows(0, 0, 0, 0); /* use_sliding_window is false where it is absent */
    parse_text("{\"model_type\": \"qwen2\", " SIZES ", \"sliding_window\": 7, \"max_window_layers\": 2, "
               "\"use_sliding_window\": true}",
               &faults);
    expect_windows(0, 0, 7, 7);
    parse_text("{\"model_type\": \"qwen3\", " SIZES ", \"sliding_window\": 7, \"use_sliding_window\": true, "
               "\"layer_types\": [" FULL ", " SLIDING ", " FULL ", " FULL "]}",
               &faults);
    expect_windows(0, 7, 0, 0);
    parse_text("{\"model_type\": \"qwen3_moe\", " SIZES
               ", \"sliding_window\": 7, \"use_sliding_window\": true}",
               &faults);
    expect_windows(7, 7, 7, 7);
    parse_text("{\"model_type\": \"gemma2\", " SIZES "}", &faults);
    expect_windows(4096, 0, 4096, 0);
    parse_text("{\"model_type\": \"gemma2\", " SIZES ", \"sliding_window\": 9, "
               "\"layer_types\": [" FULL ", " SLIDING ", " SLIDING ", " FULL "]}",
               &faults);
    expect_windows(0, 9, 9, 0);
    parse_text("{\"model_type\": \"gemma3_text\", " SIZES ", \"sliding_window_pattern\": 3}", &faults);
    expect_windows(4096, 4096, 0, 4096);
    parse_text("{\"model_type\": \"gemma3_text\", " SIZES "}", &faults); /* every sixth is full */
    expect_windows(4096, 4096, 4096, 4096);
}

static void a_window_that_is_asked_for_and_switched_off_is_refused(void **state)
{
    (void)state;
    FINISHED(error_list) faults = {0};
    JSON_OWNED json = json_loads("{\"model_type\": \"qwen2\", " SIZES ", \"sliding_window\": 7, "
                                 "\"layer_types\": [" FULL ", " SLIDING ", " FULL ", " FULL "]}",
                                 0, NULL);
    assert_false(model_config_parse(json, config, &faults));
    assert_string_equal(faults.items[0].field, "config.json/sliding_window");
}

static void gemma_has_two_rotations_scales_and_caps(void **state)
{
    (void)state;
    FINISHED(error_list) faults = {0};
    parse_text(
        "{\"model_type\": \"gemma3_text\", " SIZES ", \"sliding_window_pattern\": 2, \"rope_theta\": 500.0, "
        "\"rope_local_base_freq\": 50.0, \"rope_scaling\": {\"factor\": 8.0, \"rope_type\": \"linear\"}}",
        &faults);
    assert_true(config->ropes[0].base == 500.0 && config->ropes[1].base == 50.0);
    assert_string_equal(config->ropes[0].scaling.kind, "linear");
    assert_null(config->ropes[1].scaling.kind);
    assert_true(config->layers[0].rope == 1 && config->layers[1].rope == 0);
    assert_true(config->head_size == 256 && config->rotary_size == 256);
    assert_true(config->attention_softcap == 0.0 && config->final_softcap == 0.0);
    assert_true(config->attention_scale == 1.0 / 16.0 && config->has_tied_head);
    assert_true(config->embedding_scale == (double)5.6568542494923806f);
    assert_int_equal(config->activation, ACTIVATION_GELU_TANH);
    parse_text(
        "{\"model_type\": \"gemma3_text\", " SIZES
        ", \"rope_parameters\": {\"full_attention\": {\"rope_type\": "
        "\"default\", \"rope_theta\": 7.0}, \"sliding_attention\": {\"rope_type\": \"default\", \"rope_theta\": 3.0}}}",
        &faults);
    assert_true(config->ropes[0].base == 7.0 && config->ropes[1].base == 3.0);
    parse_text("{\"model_type\": \"gemma3_text\", " SIZES "}", &faults);
    assert_true(config->ropes[0].base == 1e6 && config->ropes[1].base == 1e4);
    parse_text("{\"model_type\": \"gemma2\", " SIZES ", \"head_dim\": 16, \"query_pre_attn_scalar\": 64, "
               "\"final_logit_softcapping\": null, \"hidden_activation\": \"gelu\"}",
               &faults);
    assert_true(config->attention_softcap == 50.0 && config->final_softcap == 0.0 &&
                config->attention_scale == 0.125);
    assert_int_equal(config->activation, ACTIVATION_GELU);
    assert_int_equal(config->layers[0].rope, 0);
}

static void scaled_rotations_are_completed_as_transformers_does(void **state)
{
    (void)state;
    FINISHED(error_list) faults = {0};
    parse_text("{\"model_type\": \"qwen2\", " SIZES
               ", \"rope_theta\": 1000000.0, \"rope_scaling\": {\"factor\": 4.0, "
               "\"original_max_position_embeddings\": 32768, \"type\": \"yarn\"}}",
               &faults);
    const struct rope_scaling *scaling = &config->ropes[0].scaling;
    assert_string_equal(scaling->kind, "yarn");
    assert_true(scaling->beta_fast == 32.0 && scaling->beta_slow == 1.0 &&
                scaling->original_context_tokens == 32768);
    assert_true(fabs(scaling->attention_factor - 1.138629436111989) < 1e-15); /* 0.1 ln 4 + 1 */
    parse_text("{\"model_type\": \"llama\", " SIZES ", \"rope_scaling\": {\"factor\": 40, \"mscale\": 0.707, "
               "\"mscale_all_dim\": 1.0, \"rope_type\": \"yarn\", \"beta_fast\": 16, \"beta_slow\": 2}}",
               &faults);
    assert_true(fabs(scaling->attention_factor - 0.9210423553163399) < 1e-15);
    assert_true(scaling->beta_fast == 16.0 && scaling->beta_slow == 2.0);
    assert_int_equal(scaling->original_context_tokens, 2048); /* where absent: the context */
    parse_text("{\"model_type\": \"llama\", " SIZES
               ", \"rope_scaling\": {\"factor\": 40, \"attention_factor\": 0.5, "
               "\"rope_type\": \"yarn\"}}",
               &faults);
    assert_true(scaling->attention_factor == 0.5);

    static const char *const phi3[] = {
        "{\"model_type\": \"phi3\", " SIZES
        ", \"max_position_embeddings\": 96, \"original_max_position_embeddings\": 48, "
        "\"rope_scaling\": {\"type\": \"longrope\", \"short_factor\": [1, 1.1, 1.3, 1.6], \"long_factor\": [1.2, 2, 3.5, 6]}}",
        "{\"model_type\": \"phi3\", " SIZES
        ", \"max_position_embeddings\": 96, \"original_max_position_embeddings\": 48, "
        "\"rope_scaling\": {\"type\": \"su\", \"short_factor\": [1, 1.1, 1.3, 1.6], \"long_factor\": [1.2, 2, 3.5, 6]}}",
        "{\"model_type\": \"phi3\", " SIZES
        ", \"max_position_embeddings\": 96, \"original_max_position_embeddings\": 48, "
        "\"rope_parameters\": {\"rope_type\": \"longrope\", \"original_max_position_embeddings\": 7, "
        "\"short_factor\": [1, 1.1, 1.3, 1.6], \"long_factor\": [1.2, 2, 3.5, 6]}}",
    };
    for (size_t i = 0; i < 3; i++) {
        parse_text(phi3[i], &faults);
        assert_string_equal(scaling->kind, "longrope");
        assert_int_equal(scaling->original_context_tokens, 48);
        assert_true(scaling->short_factors[3] == 1.6 && scaling->long_factors[3] == 6.0);
        assert_true(fabs(scaling->attention_factor - 1.0858417157905849) <
                    1e-15); /* sqrt(1 + ln 2 / ln 48) */
    }
}

static void part_of_a_head_may_turn(void **state)
{
    (void)state;
    FINISHED(error_list) faults = {0};
    parse_text("{\"model_type\": \"phi3\", " SIZES ", \"partial_rotary_factor\": 0.5}", &faults);
    assert_int_equal(config->rotary_size, 4);
    static const char neox[] =
        "{\"model_type\": \"gpt_neox\", \"hidden_size\": 32, \"num_attention_heads\": 2, "
        "\"num_hidden_layers\": 1, \"intermediate_size\": 48, \"vocab_size\": 80%s}";
    static const struct {
        const char *more;
        size_t size;
        double base;
    } cases[] = {{"", 4, 10000.0},
                 {", \"rotary_pct\": 0.5, \"rotary_emb_base\": 500", 8, 500.0},
                 {", \"rope_parameters\": {\"partial_rotary_factor\": 1.0, \"rope_theta\": 9.0}", 16, 9.0}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[512];
        (void)snprintf(text, sizeof text, neox, cases[i].more);
        parse_text(text, &faults);
        assert_int_equal(config->rotary_size, cases[i].size);
        assert_true(config->ropes[0].base == cases[i].base);
        assert_true(config->is_parallel && config->has_qkv_bias && config->has_o_bias &&
                    config->has_ffn_bias);
    }
}

static void experts_stand_where_the_family_has_them(void **state)
{
    (void)state;
    FINISHED(error_list) faults = {0};
    struct weight_shape shape;
    parse_text("{\"model_type\": \"mixtral\", " SIZES "}", &faults);
    assert_true(config->layers[3].expert_count == 8 && config->layers[3].active_expert_count == 2);
    assert_true(config->normalises_experts && config->ropes[0].base == 1e6);
    assert_true(architecture_tensor(config, WEIGHT_EXPERT_DOWN, 2, 7, &shape));
    assert_string_equal(shape.name, "model.layers.2.block_sparse_moe.experts.7.w2.weight");
    assert_true(shape.shape[0] == 32 && shape.shape[1] == 48 && shape.expert == 7);
    assert_false(architecture_tensor(config, WEIGHT_EXPERT_DOWN, 2, 8, &shape));
    assert_false(architecture_tensor(config, WEIGHT_DOWN, 2, 0, &shape));
    parse_text(
        "{\"model_type\": \"qwen3_moe\", " SIZES ", \"num_experts\": 6, \"num_experts_per_tok\": 3, "
        "\"moe_intermediate_size\": 24, \"decoder_sparse_step\": 2, \"mlp_only_layers\": [3], \"norm_topk_prob\": true}",
        &faults);
    assert_true(config->layers[0].expert_count == 0 && config->layers[1].expert_count == 6);
    assert_true(config->layers[3].expert_count == 0 && config->layers[3].intermediate_size == 48);
    assert_true(config->layers[1].intermediate_size == 24 && config->layers[1].active_expert_count == 3);
    assert_true(architecture_tensor(config, WEIGHT_GATE, 0, 0, &shape) && shape.shape[0] == 48);
    assert_true(architecture_tensor(config, WEIGHT_ROUTER, 1, 0, &shape) && shape.shape[0] == 6);
    parse_text("{\"model_type\": \"qwen3_moe\", " SIZES "}", &faults);
    assert_true(config->layers[0].expert_count == 128 && config->layers[0].intermediate_size == 768 &&
                !config->normalises_experts);
}

static void learned_positions_and_tables(void **state)
{
    (void)state;
    FINISHED(error_list) faults = {0};
    struct weight_shape shape;
    parse_text(
        "{\"model_type\": \"gpt2\", \"n_embd\": 32, \"n_head\": 4, \"n_layer\": 2, \"vocab_size\": 80, "
        "\"scale_attn_weights\": false}",
        &faults);
    assert_true(config->intermediate_size == 128 && config->context_tokens == 1024 &&
                config->position_rows == 1024);
    assert_true(config->position_kind == POSITION_LEARNED && config->has_tied_head &&
                config->attention_scale == 1.0);
    assert_true(config->bos_token == -1 && config->eos_token_count == 0); /* 50256 is no token of 80 */
    assert_true(architecture_tensor(config, WEIGHT_QKV, 1, 0, &shape) && shape.is_transposed);
    assert_string_equal(shape.name, "transformer.h.1.attn.c_attn.weight");
    assert_true(shape.shape[0] == 32 && shape.shape[1] == 96);
    parse_text("{\"model_type\": \"opt\", "
               "\"hidden_size\": 32, \"num_attention_heads\": 4, \"num_hidden_layers\": 2, "
               "\"ffn_dim\": 64, \"vocab_size\": 80, \"enable_bias\": false}",
               &faults);
    assert_true(config->position_offset == 2 && config->position_rows == 2050 &&
                config->activation == ACTIVATION_RELU);
    assert_true(!config->has_qkv_bias && !config->has_o_bias && !config->has_ffn_bias);
    parse_text(
        "{\"model_type\": \"bert\", \"hidden_size\": 32, \"num_attention_heads\": 4, \"num_hidden_layers\": 2, "
        "\"intermediate_size\": 64, \"vocab_size\": 80}",
        &faults);
    assert_true(config->token_type_count == 2 && config->position_rows == 512 &&
                config->norm_epsilon == 1e-12);
    assert_false(architecture_tensor(config, WEIGHT_HEAD, 0, 0, &shape));
    assert_false(architecture_tensor(config, WEIGHT_FINAL_NORM, 0, 0, &shape));
    assert_true(architecture_tensor(config, WEIGHT_TOKEN_TYPE_EMBEDDING, 0, 0, &shape) &&
                shape.shape[0] == 2);
}

static const struct {
    const char *text, *field;
} refused[] = {
    {"{\"model_type\": \"gemma3\", \"text_config\": {\"model_type\": \"gemma3_text\"}}",
     "config.json/model_type"},
    {"{\"model_type\": \"gemma2\", " SIZES ", \"use_bidirectional_attention\": true}",
     "config.json/use_bidirectional_attention"},
    {"{\"model_type\": \"gemma3_text\", " SIZES ", \"rope_parameters\": {\"rope_theta\": 5.0}}",
     "config.json/rope_parameters"},
    {"{\"model_type\": \"phi3\", " SIZES ", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}}",
     "config.json/rope_scaling"},
    {"{\"model_type\": \"phi3\", " SIZES ", \"partial_rotary_factor\": 0.1}",
     "config.json/partial_rotary_factor"},
    {"{\"model_type\": \"qwen2\", " SIZES ", \"attention_bias\": false, \"mlp_bias\": true}",
     "config.json/mlp_bias"},
    {"{\"model_type\": \"mixtral\", " SIZES ", \"num_experts_per_tok\": 9}",
     "config.json/num_experts_per_tok"},
    {"{\"model_type\": \"qwen3_moe\", " SIZES ", \"num_experts\": 4, \"num_local_experts\": 5}",
     "config.json/num_experts"},
    {"{\"model_type\": \"qwen3_moe\", " SIZES ", \"mlp_only_layers\": 3}", "config.json/mlp_only_layers"},
    {"{\"model_type\": \"gpt2\", \"n_embd\": 32, \"n_head\": 4, \"n_layer\": 2, \"vocab_size\": 80, "
     "\"scale_attn_by_inverse_layer_idx\": true}",
     "config.json/scale_attn_by_inverse_layer_idx"},
    {"{\"model_type\": \"gpt2\", \"n_embd\": 30, \"n_head\": 4, \"n_layer\": 2, \"vocab_size\": 80}",
     "config.json/n_head"},
    {"{\"model_type\": \"gpt2\", " SIZES "}", "config.json/n_embd"},
    {"{\"model_type\": \"opt\", " SIZES ", \"ffn_dim\": 64, \"word_embed_proj_dim\": 16}",
     "config.json/word_embed_proj_dim"},
    {"{\"model_type\": \"opt\", " SIZES ", \"ffn_dim\": 64, \"do_layer_norm_before\": false}",
     "config.json/do_layer_norm_before"},
    {"{\"model_type\": \"opt\", " SIZES ", \"ffn_dim\": 64, \"_remove_final_layer_norm\": true}",
     "config.json/_remove_final_layer_norm"},
    {"{\"model_type\": \"bert\", " SIZES ", \"is_decoder\": true}", "config.json/is_decoder"},
    {"{\"model_type\": \"bert\", " SIZES ", \"position_embedding_type\": \"relative_key\"}",
     "config.json/position_embedding_type"},
};

static void what_a_family_cannot_do_is_refused_by_name(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        FINISHED(error_list) faults = {0};
        JSON_OWNED json = json_loads(refused[i].text, 0, NULL);
        assert_non_null(json);
        assert_false(model_config_parse(json, config, &faults));
        bool is_said = false;
        for (size_t f = 0; f < faults.stored; f++) {
            is_said = is_said || strcmp(faults.items[f].field, refused[i].field) == 0;
        }
        if (!is_said) {
            fail_msg("%s: the first fault was of %s", refused[i].text, faults.items[0].field);
        }
    }
}

struct names {
    size_t count;
};

/* Every tensor's name leads back to its role, its layer and its part. */
static void look_back(enum weight_role role, size_t layer, const struct weight_shape *shape, void *context)
{
    struct names *names = context;
    size_t found_layer = 0, expert = 0;
    const char *suffix = NULL;
    enum weight_role found = WEIGHT_EMBEDDING;
    enum weight_part part = WEIGHT_PART_MODEL;
    bool is_norm = false;
    names->count++;
    assert_false(architecture_ignores(config, shape->name));
    if (shape->part == WEIGHT_PART_MODEL) {
        assert_false(architecture_split_name(config, shape->name, &found_layer, &suffix));
        return;
    }
    assert_true(architecture_split_name(config, shape->name, &found_layer, &suffix));
    assert_int_equal(found_layer, layer);
    assert_true(architecture_find_role(config, suffix, &found, &expert));
    assert_int_equal(found, role);
    assert_int_equal(expert, shape->expert);
    assert_true(architecture_part(config, suffix, &part, &is_norm));
    assert_true(part == shape->part && is_norm == shape->is_norm);
}

static void every_listed_architecture_has_a_row(void **state)
{
    (void)state;
    for (const char *const *name = model_config_architectures(); *name != NULL; name++) {
        assert_string_equal(architecture_find(*name)->model_type, *name);
        char text[512];
        bool is_gpt2 = strcmp(*name, "gpt2") == 0, has_groups = architecture_find(*name)->is_gated;
        (void)snprintf(
            text, sizeof text,
            is_gpt2
                ? "{\"model_type\": \"%s\", \"n_embd\": 32, \"n_head\": 4, \"n_layer\": 2, \"vocab_size\": 80}"
                : "{\"model_type\": \"%s\", \"hidden_size\": 32, \"num_attention_heads\": 4, "
                  "\"num_hidden_layers\": 2, \"vocab_size\": 80, \"%s\": 48%s}",
            *name, strcmp(*name, "opt") == 0 ? "ffn_dim" : "intermediate_size",
            has_groups ? ", \"num_key_value_heads\": 2" : "");
        FINISHED(error_list) faults = {0};
        parse_text(text, &faults);
        struct names names = {0};
        architecture_visit(config, look_back, &names);
        assert_true(names.count > 12);
    }
    assert_null(architecture_find("mamba"));
}

static void buffers_are_ignored(void **state)
{
    (void)state;
    FINISHED(error_list) faults = {0};
    parse_text(
        "{\"model_type\": \"gpt2\", \"n_embd\": 32, \"n_head\": 4, \"n_layer\": 2, \"vocab_size\": 80}",
        &faults);
    assert_true(architecture_ignores(config, "h.0.attn.bias"));
    assert_true(architecture_ignores(config, "transformer.h.0.attn.masked_bias"));
    assert_true(architecture_ignores(config, "lm_head.weight"));
    assert_false(architecture_ignores(config, "transformer.h.0.attn.c_attn.bias"));
    parse_text("{\"model_type\": \"bert\", "
               "\"hidden_size\": 32, \"num_attention_heads\": 4, \"num_hidden_layers\": 2, "
               "\"intermediate_size\": 64, \"vocab_size\": 80}",
               &faults);
    assert_true(architecture_ignores(config, "bert.pooler.dense.weight"));
    assert_true(architecture_ignores(config, "cls.predictions.bias"));
    assert_true(architecture_ignores(config, "bert.embeddings.position_ids"));
    assert_false(architecture_ignores(config, "bert.embeddings.LayerNorm.bias"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stock_config_is_read),
        cmocka_unit_test(old_and_new_forms_of_rope_are_read),
        cmocka_unit_test(defaults_are_those_of_transformers),
        cmocka_unit_test(each_fault_names_its_key),
        cmocka_unit_test(all_faults_come_at_once),
        cmocka_unit_test(a_heterogeneous_config_says_what_each_layer_has),
        cmocka_unit_test(a_heterogeneous_config_has_widths_by_layer),
        cmocka_unit_test(biases_follow_the_family),
        cmocka_unit_test(windows_follow_the_family),
        cmocka_unit_test(a_window_that_is_asked_for_and_switched_off_is_refused),
        cmocka_unit_test(gemma_has_two_rotations_scales_and_caps),
        cmocka_unit_test(scaled_rotations_are_completed_as_transformers_does),
        cmocka_unit_test(part_of_a_head_may_turn),
        cmocka_unit_test(experts_stand_where_the_family_has_them),
        cmocka_unit_test(learned_positions_and_tables),
        cmocka_unit_test(what_a_family_cannot_do_is_refused_by_name),
        cmocka_unit_test(buffers_are_ignored),
        cmocka_unit_test(every_listed_architecture_has_a_row),
    };
    return cmocka_run_group_tests(tests, create_config, destroy_config);
}
