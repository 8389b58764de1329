/* tests/unit/workers/model/gguf_model_test.c: a GGUF file as config.json, tensor names and tokenizer.json. */
#include "base/arena.h"
#include "tests/unit/workers/model/gguf_fixture.h"
#include "workers/model/gguf.h"
#include "workers/model/gguf_names.h"
#include "workers/model/tokenizer.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void add_shape(struct gguf_builder *builder, const char *architecture)
{
    static const struct {
        const char *name;
        uint32_t value;
    } sizes[] = {{"block_count", 1},          {"context_length", 64},         {"embedding_length", 16},
                 {"attention.head_count", 4}, {"attention.head_count_kv", 2}, {"feed_forward_length", 24}};
    gguf_add_text(builder, "general.architecture", architecture);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        char key[64];
        (void)snprintf(key, sizeof key, "%s.%s", architecture, sizes[i].name);
        gguf_add_u32(builder, key, sizes[i].value);
    }
    gguf_add_zeros(builder, "token_embd.weight", 16, 10);
}

static struct gguf *build(struct gguf_builder *builder)
{
    FINISHED(text) file = {0};
    struct error error = {0};
    gguf_build(builder, 3, &file);
    struct gguf *gguf = gguf_parse(file.bytes, file.length, file.length, &error);
    if (gguf == NULL) {
        fail_msg("%s", error.message);
    }
    return gguf;
}

static json_t *config_of(struct gguf_builder *builder)
{
    struct error_list faults = {0};
    OWNED(gguf) gguf = build(builder);
    json_t *config = gguf_config(gguf, &faults);
    if (config == NULL) {
        fail_msg("%s", faults.items[0].message);
    }
    error_list_finish(&faults);
    return config;
}

static void refused(struct gguf_builder *builder, enum error_code code, const char *field)
{
    struct error_list faults = {0};
    OWNED(gguf) gguf = build(builder);
    JSON_OWNED config = gguf_config(gguf, &faults);
    assert_null(config);
    assert_int_equal(faults.items[0].code, code);
    assert_string_equal(faults.items[0].field, field);
    error_list_finish(&faults);
}

static void a_llama_config_reads_as_the_original(void **state)
{
    (void)state;
    struct gguf_builder builder = {0};
    add_shape(&builder, "llama");
    gguf_add_f32(&builder, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    gguf_add_f32(&builder, "llama.rope.freq_base", 500000.0f);
    gguf_add_u32(&builder, "llama.rope.dimension_count", 4);
    gguf_add_text(&builder, "llama.rope.scaling.type", "linear");
    gguf_add_f32(&builder, "llama.rope.scaling.factor", 2.5f);
    gguf_add_u32(&builder, "tokenizer.ggml.eos_token_id", 7);
    JSON_OWNED config = config_of(&builder);
    OWNED_MEMORY char *text = json_format(config, false);
    assert_string_equal(
        text, "{\"architectures\":[\"LlamaForCausalLM\"],\"attention_bias\":false,\"eos_token_id\":7,"
              "\"hidden_act\":\"silu\",\"hidden_size\":16,\"intermediate_size\":24,"
              "\"max_position_embeddings\":64,\"mlp_bias\":false,\"model_type\":\"llama\","
              "\"num_attention_heads\":4,\"num_hidden_layers\":1,\"num_key_value_heads\":2,"
              "\"rms_norm_eps\":1e-05,\"rope_scaling\":{\"factor\":2.5,\"rope_type\":\"linear\"},"
              "\"rope_theta\":500000.0,\"tie_word_embeddings\":true,\"vocab_size\":10}");
}

/* As the converter computes them. */
static void add_llama3_factors(struct gguf_builder *builder, float spoil)
{
    uint64_t dims[] = {32};
    gguf_pad(&builder->data, 32);
    gguf_add_info(builder, "rope_freqs.weight", dims, 1, 0, builder->data.length);
    for (int i = 0; i < 32; i++) {
        double wavelength = 2.0 * M_PI * pow(500000.0, i / 32.0);
        double smooth = (8192.0 / wavelength - 1.0) / 3.0;
        double factor = wavelength < 2048.0   ? 1.0
                        : wavelength > 8192.0 ? 32.0
                                              : 1.0 / ((1.0 - smooth) / 32.0 + smooth);
        float value = (float)factor * (i == 20 ? spoil : 1.0f);
        uint32_t bits = 0;
        memcpy(&bits, &value, sizeof bits);
        gguf_put_int(&builder->data, bits, 4);
    }
}

static void factors_of_llama_3_are_recognised_and_others_refused(void **state)
{
    (void)state;
    for (int spoiled = 0; spoiled < 2; spoiled++) {
        struct gguf_builder builder = {0};
        add_shape(&builder, "llama");
        gguf_add_u32(&builder, "llama.attention.key_length", 64);
        gguf_add_u32(&builder, "llama.attention.value_length", 64);
        gguf_add_f32(&builder, "llama.rope.freq_base", 500000.0f);
        add_llama3_factors(&builder, spoiled ? 1.001f : 1.0f);
        if (spoiled) {
            refused(&builder, ERROR_UNSUPPORTED, "rope_freqs.weight");
            continue;
        }
        JSON_OWNED config = config_of(&builder);
        OWNED_MEMORY char *text = json_format(json_object_get(config, "rope_scaling"), false);
        assert_string_equal(text, "{\"factor\":32.0,\"high_freq_factor\":4.0,\"low_freq_factor\":1.0,"
                                  "\"original_max_position_embeddings\":8192,\"rope_type\":\"llama3\"}");
    }
}

static void what_could_change_the_arithmetic_is_refused(void **state)
{
    (void)state;
    struct gguf_builder builder = {0};
    add_shape(&builder, "llama");
    gguf_add_f32(&builder, "llama.logit_scale", 0.5f);
    refused(&builder, ERROR_UNSUPPORTED, "llama.logit_scale");
    add_shape(&builder, "llama");
    gguf_add_text(&builder, "llama.rope.scaling.type", "yarn");
    refused(&builder, ERROR_UNSUPPORTED, "llama.rope.scaling.type");
    add_shape(&builder, "llama");
    gguf_add_u32(&builder, "llama.rope.dimension_count", 2);
    refused(&builder, ERROR_UNSUPPORTED, "llama.rope.dimension_count");
    add_shape(&builder, "mamba");
    refused(&builder, ERROR_UNSUPPORTED, "general.architecture");
    add_shape(&builder, "bert");
    gguf_add_u32(&builder, "bert.pooling_type", 2);
    refused(&builder, ERROR_UNSUPPORTED, "bert.attention.head_count_kv");
    gguf_add_text(&builder, "general.architecture", "llama");
    refused(&builder, ERROR_MISSING_FIELD, "llama.block_count");
    add_shape(&builder, "qwen2");
    gguf_begin_array(&builder, "qwen2.attention.head_count_kv", GGUF_U32, 1); /* twice: refused when read */
    gguf_put_int(&builder.pairs, 2, 4);
    FINISHED(text) file = {0};
    struct error error = {0};
    gguf_build(&builder, 3, &file);
    OWNED(gguf) gguf = gguf_parse(file.bytes, file.length, file.length, &error);
    assert_null(gguf);
}

static void lists_of_equal_numbers_are_one_number(void **state)
{
    (void)state;
    for (uint32_t last = 4; last <= 5; last++) {
        struct gguf_builder builder = {0};
        gguf_add_text(&builder, "general.architecture", "qwen2");
        gguf_add_u32(&builder, "qwen2.block_count", 2);
        gguf_add_u32(&builder, "qwen2.context_length", 64);
        gguf_add_u32(&builder, "qwen2.embedding_length", 16);
        gguf_add_u32(&builder, "qwen2.attention.head_count", 4);
        gguf_begin_array(&builder, "qwen2.feed_forward_length", GGUF_I32, 2);
        gguf_put_int(&builder.pairs, 4, 4);
        gguf_put_int(&builder.pairs, last, 4);
        gguf_add_zeros(&builder, "token_embd.weight", 16, 10);
        if (last == 5) {
            refused(&builder, ERROR_UNSUPPORTED, "qwen2.feed_forward_length");
        } else {
            JSON_OWNED config = config_of(&builder);
            assert_int_equal(json_integer_value(json_object_get(config, "intermediate_size")), 4);
        }
    }
}

static const struct gguf_tensor_map *find(const struct gguf_map *map, const char *name)
{
    for (size_t i = 0; i < map->count; i++) {
        if (strcmp(map->tensors[i].name, name) == 0) {
            return &map->tensors[i];
        }
    }
    fail_msg("no %s", name);
    return NULL;
}

static void names_shapes_and_layouts_are_the_checkpoints(void **state)
{
    (void)state;
    struct gguf_builder builder = {0};
    struct gguf_map map;
    struct error error = {0};
    add_shape(&builder, "llama");
    gguf_add_zeros(&builder, "blk.0.attn_q.weight", 16, 16);
    gguf_add_zeros(&builder, "blk.0.attn_k.weight", 16, 8);
    gguf_add_zeros(&builder, "output.weight", 16, 10);
    add_llama3_factors(&builder, 1.0f);
    OWNED(gguf) llama = build(&builder);
    assert_true(gguf_map(llama, &map, &error));
    assert_int_equal(map.count, 4); /* factors are config */
    const struct gguf_tensor_map *k = find(&map, "model.layers.0.self_attn.k_proj.weight");
    assert_int_equal(k->layout, LAYOUT_ROPE_PAIRS);
    assert_int_equal(k->layout_heads, 2);
    assert_true(k->rank == 2 && k->shape[0] == 8 && k->shape[1] == 16 && k->bytes == 512);
    assert_int_equal(find(&map, "model.layers.0.self_attn.q_proj.weight")->layout_heads, 4);
    assert_int_equal(find(&map, "lm_head.weight")->layout, LAYOUT_PLAIN);
    gguf_map_finish(&map);

    add_shape(&builder, "gpt2");
    gguf_add_zeros(&builder, "blk.0.attn_qkv.weight", 16, 48);
    gguf_add_zeros(&builder, "blk.0.attn_qkv.bias", 48, 0);
    OWNED(gguf) gpt2 = build(&builder);
    assert_true(gguf_map(gpt2, &map, &error));
    const struct gguf_tensor_map *qkv = find(&map, "transformer.h.0.attn.c_attn.weight");
    assert_true(qkv->layout == LAYOUT_TRANSPOSED && qkv->shape[0] == 16 && qkv->shape[1] == 48);
    assert_int_equal(find(&map, "transformer.h.0.attn.c_attn.bias")->layout, LAYOUT_PLAIN);
    gguf_map_finish(&map);

    add_shape(&builder, "gemma2");
    gguf_add_zeros(&builder, "blk.0.ffn_norm.weight", 16, 0);
    OWNED(gguf) gemma = build(&builder);
    assert_true(gguf_map(gemma, &map, &error));
    assert_int_equal(find(&map, "model.layers.0.pre_feedforward_layernorm.weight")->layout,
                     LAYOUT_NORM_PLUS_ONE);
    gguf_map_finish(&map);

    add_shape(&builder, "qwen2");
    gguf_add_zeros(&builder, "blk.0.ssm_in.weight", 16, 16);
    OWNED(gguf) stranger = build(&builder);
    assert_false(gguf_map(stranger, &map, &error));
    assert_true(error.code == ERROR_UNSUPPORTED && strcmp(error.field, "blk.0.ssm_in.weight") == 0);

    add_shape(&builder, "llama");
    gguf_add_zeros(&builder, "blk.0.attn_q.weight", 16, 9);
    OWNED(gguf) odd = build(&builder);
    assert_false(gguf_map(odd, &map, &error));
    assert_true(error.code == ERROR_CORRUPT_FILE && strcmp(error.field, "blk.0.attn_q.weight") == 0);
}

static void stacked_experts_come_apart(void **state)
{
    (void)state;
    struct gguf_builder builder = {0};
    struct gguf_map map;
    struct error error = {0};
    uint64_t dims[] = {16, 24, 3};
    add_shape(&builder, "llama");
    gguf_add_u32(&builder, "llama.expert_count", 3);
    gguf_add_u32(&builder, "llama.expert_used_count", 2);
    gguf_pad(&builder.data, 32);
    gguf_add_info(&builder, "blk.0.ffn_up_exps.weight", dims, 3, 0, builder.data.length);
    for (int i = 0; i < 16 * 24 * 3; i++) {
        gguf_put_int(&builder.data, 0, 4);
    }
    OWNED(gguf) gguf = build(&builder);
    assert_true(gguf_map(gguf, &map, &error));
    assert_int_equal(map.count, 4);
    const struct gguf_tensor_map *first = find(&map, "model.layers.0.block_sparse_moe.experts.0.w3.weight");
    const struct gguf_tensor_map *last = find(&map, "model.layers.0.block_sparse_moe.experts.2.w3.weight");
    assert_true(first->rank == 2 && first->shape[0] == 24 && first->shape[1] == 16);
    assert_int_equal(last->bytes, 16 * 24 * 4);
    assert_int_equal(last->offset_bytes - first->offset_bytes, 2 * 16 * 24 * 4);
    gguf_map_finish(&map);
    struct error_list faults = {0};
    JSON_OWNED config = gguf_config(gguf, &faults);
    assert_non_null(config);
    assert_string_equal(json_string_value(json_object_get(config, "model_type")), "mixtral");
    assert_int_equal(json_integer_value(json_object_get(config, "num_local_experts")), 3);
}

static void rows_go_where_the_layout_says(void **state)
{
    (void)state;
    /* Two heads of six rows: canonical 0 1 2 | 3 4 5 are stored as 0 3 1 4 2 5. */
    static const size_t pairs[] = {0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11};
    /* Two heads of q, k, v with two rows each, stored q q | k k | v v. */
    static const size_t qkv[] = {0, 1, 4, 5, 8, 9, 2, 3, 6, 7, 10, 11};
    for (size_t row = 0; row < 12; row++) {
        assert_int_equal(layout_source_row(LAYOUT_ROPE_PAIRS, 2, 12, row), pairs[row]);
        assert_int_equal(layout_canonical_row(LAYOUT_ROPE_PAIRS, 2, 12, pairs[row]), row);
        assert_int_equal(layout_source_row(LAYOUT_QKV_CONCATENATED, 2, 12, row), qkv[row]);
        assert_int_equal(layout_canonical_row(LAYOUT_QKV_CONCATENATED, 2, 12, qkv[row]), row);
        assert_int_equal(layout_source_row(LAYOUT_PLAIN, 0, 12, row), row);
    }
    assert_false(layout_fits(LAYOUT_ROPE_PAIRS, 4, 12));
    assert_false(layout_fits(LAYOUT_ROPE_PAIRS, 0, 12));
    assert_false(layout_fits(LAYOUT_QKV_CONCATENATED, 3, 12));
    assert_true(layout_fits(LAYOUT_NORM_PLUS_ONE, 0, 7));
}

static void names_go_both_ways(void **state)
{
    (void)state;
    static const struct {
        const char *type, *hf, *gguf;
    } names[] = {
        {"llama", "model.layers.31.self_attn.q_proj.bias", "blk.31.attn_q.bias"},
        {"mistral", "lm_head.weight", "output.weight"},
        {"mixtral", "model.layers.0.block_sparse_moe.experts.7.w2.weight", "blk.0.ffn_down_exps.weight"},
        {"qwen3_moe", "model.layers.4.mlp.gate.weight", "blk.4.ffn_gate_inp.weight"},
        {"gpt2", "transformer.wpe.weight", "position_embd.weight"},
        {"gpt_neox", "gpt_neox.layers.0.attention.query_key_value.bias", "blk.0.attn_qkv.bias"},
        {"gemma3_text", "model.layers.0.self_attn.q_norm.weight", "blk.0.attn_q_norm.weight"},
        {"phi3", "model.layers.0.mlp.gate_up_proj.weight", "blk.0.ffn_up.weight"},
    };
    struct gguf_place place;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        FINISHED(text) gguf = {0};
        FINISHED(text) hf = {0};
        const struct gguf_family *family = gguf_family_of(names[i].type);
        assert_non_null(family);
        assert_true(gguf_place_parse_hf(family, names[i].hf, &place));
        gguf_place_format(&place, &gguf);
        assert_string_equal(gguf.bytes, names[i].gguf);
        gguf_place_format_hf(family, &place, &hf);
        assert_string_equal(hf.bytes, names[i].hf);
    }
    const struct gguf_family *gpt2 = gguf_family_of("gpt2");
    assert_true(gguf_place_parse_hf(gpt2, "h.3.ln_1.weight", &place)); /* older checkpoints lack the prefix */
    assert_int_equal(place.layer, 3);
    assert_false(gguf_place_parse_hf(gpt2, "h.03.ln_1.weight", &place));
    assert_false(gguf_place_parse_hf(gpt2, "transformer.lm_head.weight", &place));
    assert_false(gguf_place_parse_hf(gpt2, "h.3.attn.masked_bias", &place));
    assert_null(gguf_family_of("bert"));
    assert_null(gguf_family_of("opt"));
}

/* ---- tokenizers ------------------------------------------------------------------------------------------ */

static void add_texts(struct gguf_builder *builder, const char *key, const char *const *texts, size_t count)
{
    gguf_begin_array(builder, key, GGUF_TEXT, count);
    for (size_t i = 0; i < count; i++) {
        gguf_put_text(&builder->pairs, texts[i]);
    }
}

static struct tokenizer *tokenizer_of(struct gguf_builder *builder)
{
    struct error error = {0};
    OWNED(gguf) gguf = build(builder);
    OWNED_MEMORY char *json = gguf_tokenizer_json(gguf, &error);
    if (json == NULL) {
        fail_msg("%s", error.message);
    }
    struct tokenizer *tokenizer = tokenizer_parse(json, strlen(json), &error);
    if (tokenizer == NULL) {
        fail_msg("%s", error.message);
    }
    return tokenizer;
}

static void encodes(const struct tokenizer *tokenizer, const char *text, const int32_t *ids, size_t count)
{
    struct tokens tokens = {0};
    struct error error = {0};
    assert_true(tokenizer_encode(tokenizer, text, strlen(text), true, &tokens, &error));
    assert_int_equal(tokens.count, count);
    assert_memory_equal(tokens.ids, ids, count * sizeof *ids);
    tokens_finish(&tokens);
}

static void sentencepiece_merges_follow_the_scores(void **state)
{
    (void)state;
    static const char *const pieces[] = {"<unk>",
                                         "<s>",
                                         "</s>",
                                         "<0x21>",
                                         "\xe2\x96\x81",
                                         "a",
                                         "b",
                                         "ab",
                                         "\xe2\x96\x81"
                                         "a",
                                         "bb",
                                         "\xe2\x96\x81"
                                         "ab",
                                         "[x]"};
    static const float scores[] = {0, 0, 0, 0, -9, -8, -7, -3, -2, -1, -4, 0};
    static const int types[] = {2, 3, 3, 6, 1, 1, 1, 1, 1, 1, 1, 4};
    struct gguf_builder builder = {0};
    gguf_add_text(&builder, "general.architecture", "llama");
    gguf_add_text(&builder, "tokenizer.ggml.model", "llama");
    gguf_add_u32(&builder, "tokenizer.ggml.bos_token_id", 1);
    add_texts(&builder, "tokenizer.ggml.tokens", pieces, 12);
    gguf_begin_array(&builder, "tokenizer.ggml.scores", GGUF_F32, 12);
    for (size_t i = 0; i < 12; i++) {
        uint32_t bits = 0;
        memcpy(&bits, &scores[i], sizeof bits);
        gguf_put_int(&builder.pairs, bits, 4);
    }
    gguf_begin_array(&builder, "tokenizer.ggml.token_type", GGUF_I32, 12);
    for (size_t i = 0; i < 12; i++) {
        gguf_put_int(&builder.pairs, (uint64_t)types[i], 4);
    }
    OWNED(tokenizer) tokenizer = tokenizer_of(&builder);
    /* bb (-1) goes before _a (-2), and that before ab (-3) and _ab (-4); "!" falls back to its byte; [x] is whole. */
    encodes(tokenizer, "abb", (const int32_t[]){1, 8, 9}, 3);
    encodes(tokenizer, "ab", (const int32_t[]){1, 10}, 2);
    encodes(tokenizer, "[x]!", (const int32_t[]){1, 11, 4, 3}, 4);
}

static void byte_level_files_name_their_pattern(void **state)
{
    (void)state;
    static const char *const pieces[] = {"<|end|>",
                                         "1",
                                         "2",
                                         "12",
                                         "a",
                                         "\xc4\xa0",
                                         "\xc4\xa0"
                                         "a"};
    static const char *const merges[] = {"1 2", "\xc4\xa0 a"};
    for (int pass = 0; pass < 3; pass++) {
        static const char *const names[] = {"gpt-2", "smollm", "unheard-of"};
        struct gguf_builder builder = {0};
        gguf_add_text(&builder, "tokenizer.ggml.model", "gpt2");
        gguf_add_text(&builder, "tokenizer.ggml.pre", names[pass]);
        gguf_add_u32(&builder, "tokenizer.ggml.eos_token_id", 0);
        gguf_add_bool(&builder, "tokenizer.ggml.add_eos_token", true);
        add_texts(&builder, "tokenizer.ggml.tokens", pieces, 7);
        add_texts(&builder, "tokenizer.ggml.merges", merges, 2);
        gguf_begin_array(&builder, "tokenizer.ggml.token_type", GGUF_I32, 7);
        for (size_t i = 0; i < 7; i++) {
            gguf_put_int(&builder.pairs, i == 0 ? 3 : 1, 4);
        }
        if (pass == 2) {
            struct error error = {0};
            OWNED(gguf) gguf = build(&builder);
            assert_null(gguf_tokenizer_json(gguf, &error));
            assert_true(error.code == ERROR_UNSUPPORTED && strcmp(error.field, "tokenizer.ggml.pre") == 0);
            continue;
        }
        OWNED(tokenizer) tokenizer = tokenizer_of(&builder);
        if (pass == 0) {
            encodes(tokenizer, "12<|end|> a", (const int32_t[]){3, 0, 6, 0}, 4);
        } else { /* smollm takes digits apart */
            encodes(tokenizer, "12<|end|> a", (const int32_t[]){1, 2, 0, 6, 0}, 5);
        }
    }
}

static void wordpiece_gets_its_hashes_back(void **state)
{
    (void)state;
    static const char *const pieces[] = {"[UNK]", "[CLS]",        "[SEP]", "\xe2\x96\x81play",
                                         "ing",   "\xe2\x96\x81["};
    struct gguf_builder builder = {0};
    struct error error = {0};
    gguf_add_text(&builder, "tokenizer.ggml.model", "bert");
    add_texts(&builder, "tokenizer.ggml.tokens", pieces, 6);
    OWNED(gguf) gguf = build(&builder);
    OWNED_MEMORY char *text = gguf_tokenizer_json(gguf, &error);
    assert_non_null(text);
    JSON_OWNED json = json_parse(text, strlen(text), 1u << 20, &error);
    assert_non_null(json);
    OWNED_MEMORY char *vocab = json_format(json_object_get(json_object_get(json, "model"), "vocab"), false);
    assert_string_equal(vocab, "{\"##ing\":4,\"[\":5,\"[CLS]\":1,\"[SEP]\":2,\"[UNK]\":0,\"play\":3}");
}

static void vocabularies_that_are_none_are_refused(void **state)
{
    (void)state;
    static const char *const pieces[] = {"a", "\xff", "b"};
    for (int pass = 0; pass < 3; pass++) {
        struct gguf_builder builder = {0};
        struct error error = {0};
        gguf_add_text(&builder, "tokenizer.ggml.model", pass == 2 ? "rwkv" : "llama");
        if (pass > 0) {
            add_texts(&builder, "tokenizer.ggml.tokens", pieces, pass == 1 ? 3 : 1);
        }
        OWNED(gguf) gguf = build(&builder);
        assert_null(gguf_tokenizer_json(gguf, &error));
        static const enum error_code codes[] = {ERROR_NOT_FOUND, ERROR_CORRUPT_FILE, ERROR_UNSUPPORTED};
        assert_int_equal(error.code, codes[pass]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_llama_config_reads_as_the_original),
        cmocka_unit_test(factors_of_llama_3_are_recognised_and_others_refused),
        cmocka_unit_test(what_could_change_the_arithmetic_is_refused),
        cmocka_unit_test(lists_of_equal_numbers_are_one_number),
        cmocka_unit_test(names_shapes_and_layouts_are_the_checkpoints),
        cmocka_unit_test(stacked_experts_come_apart),
        cmocka_unit_test(rows_go_where_the_layout_says),
        cmocka_unit_test(names_go_both_ways),
        cmocka_unit_test(sentencepiece_merges_follow_the_scores),
        cmocka_unit_test(byte_level_files_name_their_pattern),
        cmocka_unit_test(wordpiece_gets_its_hashes_back),
        cmocka_unit_test(vocabularies_that_are_none_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
