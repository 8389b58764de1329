/*
 * tests/unit/workers/model/inventory_families_test.c: what every family's checkpoint says about itself: the small models of
 * tests/golden/families as transformers writes them and as older versions did, experts in one tensor, a GGUF file.
 */
#include "tests/unit/workers/model/fixture.h"
#include "tests/unit/workers/model/gguf_fixture.h"

#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"
#include "workers/model/architecture.h"
#include "workers/model/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char *make_folder(void)
{
    const char *temporary = getenv("TMPDIR");
    struct text path = {0};
    text_append_format(&path, "%s/pruned_families_XXXXXX", temporary != NULL ? temporary : "/tmp");
    char *folder = text_take(&path);
    assert_non_null(mkdtemp(folder));
    return folder;
}

/* Some of the models are links to others, which a model's files may not be. */
static char *copy_golden(const char *name)
{
    static const char *const files[] = {"config.json", "model.safetensors"};
    char *folder = make_folder();
    const char *root = getenv("PRUNED_TEST_SOURCE");
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        char path[600];
        size_t count = 0;
        (void)snprintf(path, sizeof path, "%s/tests/golden/families/%s/%s", root != NULL ? root : ".", name,
                       files[i]);
        OWNED_MEMORY char *bytes = file_load(path, (size_t)1 << 20, &count, NULL);
        if (bytes == NULL) {
            fail_msg("%s is not there", path);
        }
        fixture_write(folder, files[i], bytes, count);
    }
    return folder;
}

static struct inventory *inspect(const char *path)
{
    FINISHED(error_list) faults = {0};
    struct inventory *inventory = inventory_inspect(path, false, NULL, &faults);
    if (inventory == NULL) {
        fail_msg("%s: %s: %s", path, faults.items[0].field, faults.items[0].message);
    }
    return inventory;
}

/* Parameters: num_parameters() of transformers; BERT's without the pooler. */
static const struct {
    const char *name, *prefix;
    uint64_t parameters;
} goldens[] = {
    {"bert", "", 25984 - 1056},
    {"bert_old", "bert.", 25984 - 1056},
    {"gemma2", "model.", 29472},
    {"gemma2_old", "model.", 29472},
    {"gemma3_text", "model.", 32384},
    {"gemma3_text_old", "model.", 32384},
    {"gpt2", "transformer.", 31104},
    {"gpt2_old", "", 31104},
    {"gpt_neox", "gpt_neox.", 24352},
    {"gpt_neox_old", "gpt_neox.", 24352},
    {"gpt_neox_serial", "gpt_neox.", 24352},
    {"llama", "model.", 21920},
    {"llama3", "model.", 29040},
    {"llama3_old", "model.", 29040},
    {"llama_bias", "model.", 20304},
    {"llama_headdim", "model.", 22944},
    {"llama_linear_old", "model.", 19872},
    {"mistral", "model.", 19872},
    {"mistral_old", "model.", 19872},
    {"mixtral", "model.", 30112},
    {"mixtral_old", "model.", 30112},
    {"opt", "model.decoder.", 24928},
    {"opt_old", "decoder.", 24928},
    {"phi3", "model.", 19872},
    {"phi3_longrope_old", "model.", 19872},
    {"phi3_partial_old", "model.", 19872},
    {"qwen2", "model.", 17440},
    {"qwen2_window_old", "model.", 20000},
    {"qwen3", "model.", 22992},
    {"qwen3_old", "model.", 22992},
    {"qwen3_moe", "model.", 38760},
    {"qwen3_moe_old", "model.", 38760},
};

static void every_familys_checkpoint_is_counted_as_transformers_does(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof goldens / sizeof goldens[0]; i++) {
        char *folder = copy_golden(goldens[i].name);
        OWNED(inventory) inventory = inspect(folder);
        if (inventory->parameter_count != goldens[i].parameters) {
            fail_msg("%s: %llu parameters", goldens[i].name, (unsigned long long)inventory->parameter_count);
        }
        assert_int_equal(inventory->extra_tensor_count, 0);
        assert_string_equal(inventory->config.prefix, goldens[i].prefix);
        struct error error = {0};
        JSON_OWNED json = inventory_format(inventory);
        OWNED(inventory) again = inventory_parse(json, &error);
        assert_non_null(again);
        assert_string_equal(again->config.prefix, goldens[i].prefix);
        JSON_OWNED twice = inventory_format(again);
        assert_true(json_equal(json, twice));
        fixture_destroy(folder);
    }
}

static void old_and_new_spellings_make_the_same_config(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {
        {"gemma2", "gemma2_old"},
        {"gemma3_text", "gemma3_text_old"},
        {"llama3", "llama3_old"},
        {"mistral", "mistral_old"},
        {"mixtral", "mixtral_old"},
        {"phi3_longrope", "phi3_longrope_old"},
        {"gpt_neox", "gpt_neox_old"},
        {"phi3_partial", "phi3_partial_old"},
        {"qwen2_window", "qwen2_window_old"},
        {"qwen3_moe", "qwen3_moe_old"},
        {"llama_linear", "llama_linear_old"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        char *folders[2] = {copy_golden(pairs[i][0]), copy_golden(pairs[i][1])};
        OWNED(inventory) one = inspect(folders[0]);
        OWNED(inventory) two = inspect(folders[1]);
        if (memcmp(&one->config, &two->config, sizeof one->config) != 0) {
            fail_msg("%s and %s differ", pairs[i][0], pairs[i][1]);
        }
        fixture_destroy(folders[0]);
        fixture_destroy(folders[1]);
    }
}

static void older_names_of_norms_become_the_canonical_ones(void **state)
{
    (void)state;
    char *folder = copy_golden("bert_old");
    OWNED(inventory) inventory = inspect(folder);
    assert_non_null(inventory_find(inventory, "bert.encoder.layer.1.output.LayerNorm.weight"));
    assert_non_null(inventory_find(inventory, "bert.embeddings.LayerNorm.bias"));
    assert_null(inventory_find(inventory, "bert.embeddings.LayerNorm.gamma"));
    fixture_destroy(folder);
}

/* ---- experts in one tensor ------------------------------------------------------------------------------------------- */

struct fusing {
    struct text header;
    uint64_t bytes;
};

static void append_tensor(struct fusing *fusing, const char *name, const uint64_t *shape, size_t rank)
{
    uint64_t count = 1;
    text_append_format(&fusing->header, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[",
                       fusing->header.length > 0 ? "," : "{", name);
    for (size_t i = 0; i < rank; i++) {
        text_append_format(&fusing->header, "%s%llu", i > 0 ? "," : "", (unsigned long long)shape[i]);
        count *= shape[i];
    }
    text_append_format(&fusing->header, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)fusing->bytes,
                       (unsigned long long)(fusing->bytes + 4 * count));
    fusing->bytes += 4 * count;
}

static void fuse(enum weight_role role, size_t layer, const struct weight_shape *shape, void *context)
{
    struct fusing *fusing = context;
    char name[128];
    uint64_t fused[3] = {4, shape->shape[0], shape->shape[1]};
    if (role == WEIGHT_ROUTER) {
        (void)snprintf(name, sizeof name, "model.layers.%zu.mlp.gate.weight", layer);
        append_tensor(fusing, name, shape->shape, shape->rank);
    } else if (role == WEIGHT_EXPERT_GATE && shape->expert == 0) {
        (void)snprintf(name, sizeof name, "model.layers.%zu.mlp.experts.gate_up_proj", layer);
        fused[1] *= 2;
        append_tensor(fusing, name, fused, 3);
    } else if (role == WEIGHT_EXPERT_DOWN && shape->expert == 0) {
        (void)snprintf(name, sizeof name, "model.layers.%zu.mlp.experts.down_proj", layer);
        append_tensor(fusing, name, fused, 3);
    } else if (role < WEIGHT_EXPERT_GATE) {
        append_tensor(fusing, shape->name, shape->shape, shape->rank);
    }
}

static void fused_experts_are_taken_apart(void **state)
{
    (void)state;
    char *folder = copy_golden("mixtral");
    OWNED(inventory) plain = inspect(folder);
    struct fusing fusing = {0};
    architecture_visit(&plain->config, fuse, &fusing);
    text_append(&fusing.header, "}");
    struct text file = {0};
    gguf_put_int(&file, fusing.header.length, 8);
    text_append_bytes(&file, fusing.header.bytes, fusing.header.length);
    OWNED_MEMORY char *data = memory_create((size_t)fusing.bytes, 1);
    text_append_bytes(&file, data, (size_t)fusing.bytes);
    fixture_write(folder, "model.safetensors", file.bytes, file.length);
    text_finish(&fusing.header);
    text_finish(&file);

    OWNED(inventory) fused = inspect(folder);
    assert_int_equal(fused->tensor_count, plain->tensor_count);
    assert_int_equal(fused->parameter_count, plain->parameter_count);
    assert_int_equal(fused->weight_bytes, plain->weight_bytes);
    const struct inventory_tensor *gate =
        inventory_find(fused, "model.layers.1.block_sparse_moe.experts.2.w1.weight");
    const struct inventory_tensor *up =
        inventory_find(fused, "model.layers.1.block_sparse_moe.experts.2.w3.weight");
    const struct inventory_tensor *next =
        inventory_find(fused, "model.layers.1.block_sparse_moe.experts.3.w1.weight");
    const struct inventory_tensor *down =
        inventory_find(fused, "model.layers.1.block_sparse_moe.experts.3.w2.weight");
    const struct inventory_tensor *first =
        inventory_find(fused, "model.layers.1.block_sparse_moe.experts.0.w2.weight");
    assert_true(gate->rank == 2 && gate->shape[0] == 24 && gate->shape[1] == 32 &&
                gate->bytes == 24 * 32 * 4);
    assert_int_equal(up->offset_bytes, gate->offset_bytes + gate->bytes);
    assert_int_equal(next->offset_bytes, up->offset_bytes + up->bytes);
    assert_true(down->shape[0] == 32 && down->shape[1] == 24);
    assert_int_equal(down->offset_bytes, first->offset_bytes + 3 * down->bytes);
    assert_non_null(inventory_find(fused, "model.layers.0.block_sparse_moe.gate.weight"));
    fixture_destroy(folder);
}

/* ---- records --------------------------------------------------------------------------------------------------------- */

static void a_record_without_layouts_still_reads(void **state)
{
    (void)state;
    char *folder = copy_golden("gpt2");
    OWNED(inventory) inventory = inspect(folder);
    JSON_OWNED json = inventory_format(inventory);
    assert_int_equal(json_integer_value(json_object_get(json, "version")), 2);
    json_t *tensors = json_object_get(json, "tensors"), *entry = NULL;
    size_t index = 0;
    json_array_foreach(tensors, index, entry)
    {
        assert_int_equal(json_array_size(entry), 9);
        json_array_remove(entry, 8);
        json_array_remove(entry, 7);
    }
    json_put_i64(json, "version", 1);
    struct error error = {0};
    OWNED(inventory) old = inventory_parse(json, &error);
    assert_non_null(old);
    assert_int_equal(old->tensors[3].layout, LAYOUT_PLAIN);

    json_put_i64(json, "version", 3);
    assert_null(inventory_parse(json, &error));
    fixture_destroy(folder);
}

static void a_record_of_a_layout_that_does_not_fit_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *slug;
        int heads;
    } wrong[] = {
        {"rope_pairs", 0}, {"rope_pairs", 3}, {"sideways", 0}, {"qkv_concatenated", 7}, {"plain", -1}};
    char *folder = copy_golden("llama");
    OWNED(inventory) inventory = inspect(folder);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        JSON_OWNED json = inventory_format(inventory);
        json_t *entry = json_array_get(json_object_get(json, "tensors"), 0);
        assert_int_equal(json_array_set_new(entry, 7, json_string(wrong[i].slug)), 0);
        assert_int_equal(json_array_set_new(entry, 8, json_integer(wrong[i].heads)), 0);
        struct error error = {0};
        assert_null(inventory_parse(json, &error));
        assert_int_equal(error.code, ERROR_CORRUPT_FILE);
    }
    fixture_destroy(folder);
}

/* ---- GGUF ------------------------------------------------------------------------------------------------------------ */

static void write_gguf(const char *folder, const char *name, bool has_vocabulary)
{
    static const struct {
        const char *key;
        uint32_t value;
    } sizes[] = {{"llama.block_count", 1},
                 {"llama.context_length", 64},
                 {"llama.embedding_length", 16},
                 {"llama.feed_forward_length", 24},
                 {"llama.vocab_size", 10},
                 {"llama.attention.head_count", 4},
                 {"llama.attention.head_count_kv", 2}};
    static const struct {
        const char *name;
        uint64_t columns, rows;
    } tensors[] = {{"token_embd.weight", 16, 10},        {"output_norm.weight", 16, 0},
                   {"blk.0.attn_norm.weight", 16, 0},    {"blk.0.attn_q.weight", 16, 16},
                   {"blk.0.attn_k.weight", 16, 8},       {"blk.0.attn_v.weight", 16, 8},
                   {"blk.0.attn_output.weight", 16, 16}, {"blk.0.ffn_norm.weight", 16, 0},
                   {"blk.0.ffn_gate.weight", 16, 24},    {"blk.0.ffn_up.weight", 16, 24},
                   {"blk.0.ffn_down.weight", 24, 16}};
    struct gguf_builder builder = {0};
    gguf_add_text(&builder, "general.architecture", "llama");
    gguf_add_f32(&builder, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        gguf_add_u32(&builder, sizes[i].key, sizes[i].value);
    }
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++) {
        gguf_add_zeros(&builder, tensors[i].name, tensors[i].columns, tensors[i].rows);
    }
    if (has_vocabulary) {
        static const char *const tokens[] = {"a", "b", "c", "d", "e", "f", "ab", "cd", "ef", "<|end|>"};
        gguf_add_text(&builder, "tokenizer.ggml.model", "gpt2");
        gguf_add_text(&builder, "tokenizer.ggml.pre", "gpt-2");
        gguf_begin_array(&builder, "tokenizer.ggml.tokens", GGUF_TEXT, 10);
        for (size_t i = 0; i < 10; i++) {
            gguf_put_text(&builder.pairs, tokens[i]);
        }
        gguf_begin_array(&builder, "tokenizer.ggml.token_type", GGUF_I32, 10);
        for (size_t i = 0; i < 10; i++) {
            gguf_put_int(&builder.pairs, i == 9 ? 3 : 1, 4);
        }
        gguf_begin_array(&builder, "tokenizer.ggml.merges", GGUF_TEXT, 3);
        gguf_put_text(&builder.pairs, "a b");
        gguf_put_text(&builder.pairs, "c d");
        gguf_put_text(&builder.pairs, "e f");
    }
    FINISHED(text) file = {0};
    gguf_build(&builder, 3, &file);
    fixture_write(folder, name, file.bytes, file.length);
}

static void expect_gguf(const struct inventory *inventory)
{
    assert_string_equal(inventory_gguf_name(inventory), "model.gguf");
    assert_string_equal(inventory->config.model_type, "llama");
    assert_int_equal(inventory->tensor_count, 11);
    assert_true(inventory->config.has_tied_head && inventory->config.norm_epsilon == 1e-5);
    const struct inventory_tensor *k = inventory_find(inventory, "model.layers.0.self_attn.k_proj.weight");
    assert_true(k != NULL && k->layout == LAYOUT_ROPE_PAIRS && k->layout_heads == 2 && k->shape[0] == 8);
    assert_int_equal(inventory_find(inventory, "model.layers.0.mlp.up_proj.weight")->layout, LAYOUT_PLAIN);
    struct error error = {0};
    JSON_OWNED json = inventory_format(inventory);
    OWNED(inventory) again = inventory_parse(json, &error);
    assert_non_null(again);
    JSON_OWNED twice = inventory_format(again);
    assert_true(json_equal(json, twice));
}

static void a_gguf_file_is_a_model(void **state)
{
    (void)state;
    char *folder = make_folder();
    write_gguf(folder, "model.gguf", false);
    OWNED_MEMORY char *path = file_join(folder, "model.gguf");
    OWNED(inventory) of_folder = inspect(folder);
    expect_gguf(of_folder);
    OWNED(inventory) of_file = inspect(path);
    expect_gguf(of_file);
    struct error error = {0};
    assert_true(inventory_verify(of_folder, folder, &error));
    assert_true(inventory_verify(of_file, path, &error));
    assert_null(inventory_load_tokenizer(of_file, path, &error));
    assert_int_equal(error.code, ERROR_NOT_FOUND);

    write_gguf(folder, "other.gguf", false);
    FINISHED(error_list) faults = {0};
    assert_null(inventory_inspect(folder, false, NULL, &faults));
    assert_int_equal(faults.items[0].code, ERROR_UNSUPPORTED);
    assert_non_null(strstr(faults.items[0].message, "2 GGUF files"));
    OWNED(inventory) still = inspect(path);
    expect_gguf(still);
    fixture_write(folder, "model.gguf", "GGUF", 4);
    error_list_finish(&faults);
    faults = (struct error_list){0};
    assert_null(inventory_inspect(path, false, NULL, &faults));
    assert_int_equal(faults.items[0].code, ERROR_CORRUPT_FILE);
    fixture_destroy(folder);
}

static void a_gguf_file_brings_its_tokenizer(void **state)
{
    (void)state;
    char *folder = make_folder();
    struct error error = {0};
    write_gguf(folder, "model.gguf", true);
    OWNED(inventory) inventory = inspect(folder);
    OWNED(tokenizer) tokenizer = inventory_load_tokenizer(inventory, folder, &error);
    if (tokenizer == NULL) {
        fail_msg("%s", error.message);
    }
    assert_int_equal(tokenizer_vocab_size(tokenizer), 10);
    FINISHED(tokens) tokens = {0};
    assert_true(tokenizer_encode(tokenizer, "abcde", 5, false, &tokens, &error));
    assert_int_equal(tokens.count, 3);
    assert_true(tokens.ids[0] == 6 && tokens.ids[1] == 7 && tokens.ids[2] == 4);
    fixture_destroy(folder);
}

static void the_folder_of_a_model_is_known_from_its_path(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"a/b", "a/b"}, {"a/b.gguf", "a"}, {"b.gguf", "."}, {"/b.gguf", "/"}, {"a.gguf/b.gguf", "a.gguf"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        OWNED_MEMORY char *folder = inventory_folder(cases[i][0]);
        assert_string_equal(folder, cases[i][1]);
    }
}

int main(void)
{
    json_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_familys_checkpoint_is_counted_as_transformers_does),
        cmocka_unit_test(old_and_new_spellings_make_the_same_config),
        cmocka_unit_test(older_names_of_norms_become_the_canonical_ones),
        cmocka_unit_test(fused_experts_are_taken_apart),
        cmocka_unit_test(a_record_without_layouts_still_reads),
        cmocka_unit_test(a_record_of_a_layout_that_does_not_fit_is_refused),
        cmocka_unit_test(a_gguf_file_is_a_model),
        cmocka_unit_test(a_gguf_file_brings_its_tokenizer),
        cmocka_unit_test(the_folder_of_a_model_is_known_from_its_path),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
