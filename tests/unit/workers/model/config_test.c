/* tests/unit/workers/model/config_test.c: config.json is read, and refused by the key that is wrong. */
#include "workers/model/architecture.h"
#include "workers/model/config.h"

#include "base/cleanup.h"
#include "base/memory.h"

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
    assert_true(config->rope_base == 10000.0 && config->rope_scaling.kind == NULL);
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
    assert_string_equal(config->rope_scaling.kind, "llama3");
    assert_int_equal(config->rope_scaling.original_context_tokens, 8192);
    assert_true(config->rope_scaling.high_freq_factor == 4.0);
    assert_true(parse_with("rope_scaling", "{\"type\": \"linear\", \"factor\": 2}", &faults));
    assert_string_equal(config->rope_scaling.kind, "linear");
    assert_true(
        parse_with("rope_parameters", "{\"rope_type\": \"default\", \"rope_theta\": 500000.0}", &faults));
    assert_true(config->rope_base == 500000.0 && config->rope_scaling.kind == NULL);
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
    assert_true(parse_with("bos_token_id", NULL, &faults));
    assert_int_equal(config->bos_token, -1);
    assert_true(parse_with("sliding_window", "null", &faults));
    assert_true(parse_with("sliding_window", "512", &faults)); /* as wide as the context: none */
    assert_true(parse_with("layer_types", "[\"full_attention\"]", &faults));
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
    {"model_type", "\"gpt2\"", ERROR_UNSUPPORTED, NULL},
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
    {"rope_scaling", "{\"type\": \"yarn\", \"factor\": 2}", ERROR_UNSUPPORTED, NULL},
    {"rope_scaling", "{\"type\": \"linear\"}", ERROR_MISSING_FIELD, NULL},
    {"rope_scaling", "{\"type\": \"llama3\", \"factor\": 8}", ERROR_MISSING_FIELD, NULL},
    {"rope_parameters", "{\"partial_rotary_factor\": 0.5}", ERROR_UNSUPPORTED, NULL},
    {"hidden_act", "\"gelu\"", ERROR_UNSUPPORTED, NULL},
    {"attention_bias", "1", ERROR_WRONG_TYPE, NULL},
    {"tie_word_embeddings", "\"yes\"", ERROR_WRONG_TYPE, NULL},
    {"eos_token_id", "\"</s>\"", ERROR_WRONG_TYPE, NULL},
    {"eos_token_id", "[1, 2, 3, 4, 5, 6, 7, 8, 9]", ERROR_OUT_OF_RANGE, NULL},
    {"bos_token_id", "4294967296", ERROR_WRONG_TYPE, NULL},
    {"sliding_window", "128", ERROR_UNSUPPORTED, NULL},
    {"layer_types", "[\"full_attention\", \"sliding_attention\"]", ERROR_UNSUPPORTED, NULL},
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
        "{\"model_type\": \"llama\", \"hidden_size\": 0, \"vocab_size\": \"x\", \"hidden_act\": \"relu\"}";
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
    assert_true(architecture_tensor(config, WEIGHT_Q, 0, &shape));
    assert_string_equal(shape.name, "model.layers.0.self_attn.q_proj.weight");
    assert_false(architecture_tensor(config, WEIGHT_Q, 1, &shape));
    assert_false(architecture_tensor(config, WEIGHT_FFN_NORM, 0, &shape));
    assert_false(architecture_tensor(config, WEIGHT_GATE, 2, &shape));
}

static void biases_follow_the_family(void **state)
{
    (void)state;
    FINISHED(error_list) faults = {0};
    struct weight_shape shape;
    assert_true(parse_with("attention_bias", "true", &faults));
    assert_true(architecture_tensor(config, WEIGHT_Q_BIAS, 0, &shape) && shape.rank == 1 &&
                shape.shape[0] == 64);
    assert_true(architecture_tensor(config, WEIGHT_O_BIAS, 0, &shape));
    assert_true(parse_with("model_type", "\"qwen2\"", &faults));
    assert_true(architecture_tensor(config, WEIGHT_K_BIAS, 0, &shape) && shape.shape[0] == 32);
    assert_false(architecture_tensor(config, WEIGHT_O_BIAS, 0, &shape));
    assert_true(parse_with("mlp_bias", "true", &faults));
    assert_true(architecture_tensor(config, WEIGHT_DOWN_BIAS, 4, &shape) && shape.shape[0] == 64);
    assert_false(architecture_tensor(config, WEIGHT_Q_BIAS, 0, &shape));
}

static void every_listed_architecture_has_a_row(void **state)
{
    (void)state;
    for (const char *const *name = model_config_architectures(); *name != NULL; name++) {
        assert_string_equal(architecture_find(*name)->model_type, *name);
    }
    assert_null(architecture_find("gpt2"));
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
        cmocka_unit_test(biases_follow_the_family),
        cmocka_unit_test(every_listed_architecture_has_a_row),
    };
    return cmocka_run_group_tests(tests, create_config, destroy_config);
}
