/* tests/unit/workers/model/inventory_test.c: what a folder says about itself, what is refused, and what is noticed later. */
#include "tests/unit/workers/model/fixture.h"

#include "base/file.h"
#include "base/memory.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

static const struct fixture_spec sharded = {.layers = 2,
                                            .hidden = 16,
                                            .heads = 2,
                                            .kv_heads = 1,
                                            .head_size = 8,
                                            .ffn = 24,
                                            .vocab = 40,
                                            .dtype = DTYPE_F16,
                                            .shard_count = 3};

static void a_folder_is_described(void **state)
{
    (void)state;
    char *folder = fixture_create(&fixture_small);
    FINISHED(error_list) faults = {0};
    OWNED(inventory) inventory = inventory_inspect(folder, true, NULL, &faults);
    assert_non_null(inventory);
    assert_int_equal(inventory->file_count, 2);
    assert_string_equal(inventory->files[0].path, "config.json");
    assert_string_equal(inventory->files[1].path, "model.safetensors");
    assert_int_equal(strlen(inventory->files[1].sha256), 64);
    uint64_t attention = 24 * 24 + 2 * 12 * 24 + 24 * 24, ffn = 3 * 24 * 40;
    assert_int_equal(inventory->prunable_count, 3 * (attention + ffn));
    assert_int_equal(inventory->parameter_count, 3 * (attention + ffn + 2 * 24) + 24 + 101 * 24);
    assert_int_equal(inventory->weight_bytes, 4 * inventory->parameter_count);
    assert_int_equal(inventory->tensor_count, 3 * 9 + 2);
    const struct inventory_tensor *tensor =
        inventory_find(inventory, "model.layers.2.self_attn.k_proj.weight");
    assert_true(tensor != NULL && tensor->shape[0] == 12 && tensor->shape[1] == 24 &&
                tensor->dtype == DTYPE_F32);
    assert_null(inventory_find(inventory, "model.layers.3.self_attn.k_proj.weight"));
    fixture_destroy(folder);
}

static void a_record_reads_back_as_it_was(void **state)
{
    (void)state;
    char *folder = fixture_create(&sharded);
    FINISHED(error_list) faults = {0};
    OWNED(inventory) inventory = inventory_inspect(folder, true, NULL, &faults);
    assert_int_equal(inventory->file_count, 5);
    JSON_OWNED json = inventory_format(inventory);
    struct error error = {0};
    OWNED(inventory) again = inventory_parse(json, &error);
    if (again == NULL) {
        fail_msg("%s", error.message);
    }
    JSON_OWNED twice = inventory_format(again);
    assert_true(json_equal(json, twice));
    char first[65], second[65];
    inventory_model_sha256(inventory, first);
    inventory_model_sha256(again, second);
    assert_string_equal(first, second);
    struct model_options options = {.pool = pool_create(1, NULL)};
    struct model *model = model_open(again, folder, &options, &error);
    assert_non_null(model);
    model_destroy(model);
    pool_destroy(options.pool);
    fixture_destroy(folder);
}

static void a_record_that_was_tampered_with_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *list;
        size_t entry, member;
        const char *value;
    } edits[] = {{"files", 0, 0, "\"../x\""}, {"files", 0, 1, "-1"},       {"files", 0, 3, "\"beef\""},
                 {"tensors", 0, 0, "7"},      {"tensors", 0, 1, "\"I8\""}, {"tensors", 0, 2, "[1]"},
                 {"tensors", 0, 3, "99"},     {"tensors", 0, 4, "\"0\""},  {"tensors", 0, 5, "3"},
                 {"tensors", 0, 0, "\"zzz\""}};
    char *folder = fixture_create(&fixture_small);
    FINISHED(error_list) faults = {0};
    OWNED(inventory) inventory = inventory_inspect(folder, true, NULL, &faults);
    for (size_t i = 0; i < sizeof edits / sizeof edits[0]; i++) {
        JSON_OWNED json = inventory_format(inventory);
        json_t *entry = json_array_get(json_object_get(json, edits[i].list), edits[i].entry);
        assert_int_equal(
            json_array_set_new(entry, edits[i].member, json_loads(edits[i].value, JSON_DECODE_ANY, NULL)), 0);
        struct error error = {0};
        assert_null(inventory_parse(json, &error));
        assert_int_equal(error.code, ERROR_CORRUPT_FILE);
    }
    fixture_destroy(folder);
}

/* Inspects and destroys the folder; the first fault. */
static struct error first_fault(char *folder)
{
    FINISHED(error_list) faults = {0};
    struct inventory *inventory = inventory_inspect(folder, false, NULL, &faults);
    assert_null(inventory);
    assert_true(faults.stored > 0);
    struct error error = faults.items[0];
    fixture_destroy(folder);
    return error;
}

static void a_config_that_contradicts_the_tensors_names_tensor_and_shapes(void **state)
{
    (void)state;
    char *folder = fixture_create(&fixture_small);
    fixture_edit(folder, "config.json", "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 4");
    struct error error = first_fault(folder);
    assert_int_equal(error.code, ERROR_CONFIG_MISMATCH);
    assert_string_equal(error.field, "model.layers.0.self_attn.k_proj.weight");
    assert_non_null(strstr(error.message, "is [12, 24]; config.json makes it [24, 24]"));

    folder = fixture_create(&fixture_small);
    fixture_edit(folder, "config.json", "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 2");
    error = first_fault(folder);
    assert_int_equal(error.code, ERROR_CONFIG_MISMATCH);
    assert_non_null(strstr(error.message, "belongs to layer 2; config.json has 2 layers"));

    folder = fixture_create(&fixture_small);
    fixture_edit(folder, "config.json", "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4");
    error = first_fault(folder);
    assert_int_equal(error.code, ERROR_CONFIG_MISMATCH);
    assert_string_equal(error.field, "model.layers.3.input_layernorm.weight");
    assert_non_null(strstr(error.message, "is missing"));

    folder = fixture_create(&fixture_small);
    fixture_edit(folder, "config.json", "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false");
    error = first_fault(folder);
    assert_int_equal(error.code, ERROR_CONFIG_MISMATCH);
    assert_string_equal(error.field, "lm_head.weight");
}

static void extra_tensors_are_kept_and_marked(void **state)
{
    (void)state;
    struct fixture_spec spec = fixture_small;
    spec.is_tied = false;
    char *folder = fixture_create(&spec);
    fixture_edit(folder, "config.json", "\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true");
    FINISHED(error_list) faults = {0};
    OWNED(inventory) tied = inventory_inspect(folder, false, NULL, &faults);
    assert_int_equal(tied->extra_tensor_count, 0); /* a head beside a tied one is known and not counted */
    assert_int_equal(tied->weight_bytes, 4 * (tied->parameter_count + 101 * 24));
    fixture_destroy(folder);

    spec.has_mlp_bias = true;
    folder = fixture_create(&spec);
    fixture_edit(folder, "config.json", "\"mlp_bias\": true", "\"mlp_bias\": false");
    OWNED(inventory) extra = inventory_inspect(folder, false, NULL, &faults);
    assert_int_equal(extra->extra_tensor_count, 9);
    assert_true(inventory_find(extra, "model.layers.1.mlp.up_proj.bias")->is_extra);
    assert_false(inventory_find(extra, "model.layers.1.mlp.up_proj.weight")->is_extra);
    fixture_destroy(folder);
}

static void missing_and_foreign_files_are_named(void **state)
{
    (void)state;
    FINISHED(error_list) faults = {0};
    assert_null(inventory_inspect("/nonexistent/model", false, NULL, &faults));
    assert_int_equal(faults.items[0].code, ERROR_NOT_FOUND);

    char *folder = fixture_create(&fixture_small);
    OWNED_MEMORY char *config = file_join(folder, "config.json");
    assert_int_equal(unlink(config), 0);
    struct error error = first_fault(folder);
    assert_true(error.code == ERROR_NOT_FOUND && strcmp(error.field, "config.json") == 0);

    folder = fixture_create(&fixture_small);
    OWNED_MEMORY char *weights = file_join(folder, "model.safetensors");
    assert_int_equal(unlink(weights), 0);
    error = first_fault(folder);
    assert_true(error.code == ERROR_NOT_FOUND && strcmp(error.field, "model.safetensors") == 0);

    folder = fixture_create(&fixture_small);
    fixture_write(folder, "model.safetensors", "GGUF", 4);
    error = first_fault(folder);
    assert_true(error.code == ERROR_CORRUPT_FILE && strcmp(error.field, "model.safetensors") == 0);

    folder = fixture_create(&fixture_small);
    fixture_write(folder, "model.safetensors", "PK\3\4 this is a zip of pickles", 29);
    error = first_fault(folder);
    assert_int_equal(error.code, ERROR_CORRUPT_FILE);

    folder = fixture_create(&fixture_small);
    fixture_edit(folder, "config.json", "\"hidden_size\"", "\"hidden_size\": 1, \"hidden_size\"");
    error = first_fault(folder);
    assert_true(error.code == ERROR_DUPLICATE_KEY && strcmp(error.field, "config.json") == 0);

    folder = fixture_create(&fixture_small);
    fixture_edit(folder, "model.safetensors", "\"F32\"", "\"I32\"");
    error = first_fault(folder);
    assert_int_equal(error.code, ERROR_UNSUPPORTED);
}

static void a_truncated_file_is_corrupt(void **state)
{
    (void)state;
    static const off_t lengths[] = {0, 7, 8, 100, 3000, 20000};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        char *folder = fixture_create(&fixture_small);
        OWNED_MEMORY char *weights = file_join(folder, "model.safetensors");
        assert_int_equal(truncate(weights, lengths[i]), 0);
        assert_int_equal(first_fault(folder).code, ERROR_CORRUPT_FILE);
    }
}

static void links_that_leave_the_folder_are_not_followed(void **state)
{
    (void)state;
    char *folder = fixture_create(&fixture_small), *outside = fixture_create(&fixture_small);
    OWNED_MEMORY char *weights = file_join(folder, "model.safetensors");
    OWNED_MEMORY char *target = file_join(outside, "model.safetensors");
    assert_int_equal(unlink(weights), 0);
    assert_int_equal(symlink(target, weights), 0);
    struct error error = first_fault(folder);
    assert_int_equal(error.code, ERROR_FORBIDDEN);
    fixture_destroy(outside);
}

static void shards_and_index_must_agree(void **state)
{
    (void)state;
    char *folder = fixture_create(&sharded);
    OWNED_MEMORY char *shard = file_join(folder, "part-1.safetensors");
    assert_int_equal(unlink(shard), 0);
    struct error error = first_fault(folder);
    assert_true(error.code == ERROR_NOT_FOUND && strcmp(error.field, "part-1.safetensors") == 0);

    folder = fixture_create(&sharded);
    fixture_edit(folder, "model.safetensors.index.json", "part-0.safetensors", "part-1.safetensors");
    error = first_fault(folder);
    assert_int_equal(error.code, ERROR_CORRUPT_FILE);
    assert_non_null(strstr(error.message, "it does not"));

    folder = fixture_create(&sharded);
    fixture_edit(folder, "model.safetensors.index.json", "part-0.safetensors", "../part-0.safetensors");
    error = first_fault(folder);
    assert_true(error.code == ERROR_CORRUPT_FILE && strcmp(error.field, "model.safetensors.index.json") == 0);

    folder = fixture_create(&sharded);
    fixture_edit(folder, "model.safetensors.index.json", ",\"lm_head.weight\":\"part-2.safetensors\"", "");
    error = first_fault(folder);
    assert_int_equal(error.code, ERROR_CORRUPT_FILE);
    assert_non_null(strstr(error.message, "the shards hold"));
}

static void a_tokenizer_larger_than_the_vocabulary_is_refused(void **state)
{
    (void)state;
    static const char tokenizer[] =
        "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"added_tokens\": [], \"normalizer\": null, "
        "\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": true}, "
        "\"post_processor\": null, \"decoder\": {\"type\": \"ByteLevel\"}, \"model\": {\"type\": \"BPE\", \"dropout\": null, "
        "\"unk_token\": null, \"continuing_subword_prefix\": null, \"end_of_word_suffix\": null, \"fuse_unk\": false, "
        "\"byte_fallback\": false, \"vocab\": {\"a\": 0, \"b\": 101}, \"merges\": []}}";
    char *folder = fixture_create(&fixture_small);
    fixture_write(folder, "tokenizer.json", tokenizer, sizeof tokenizer - 1);
    struct error error = first_fault(folder);
    if (error.code != ERROR_TOKENIZER_MISMATCH) {
        fail_msg("%s: %s", error_code_slug(error.code), error.message);
    }
    assert_non_null(strstr(error.message, "102 tokens; the model's vocabulary has 101"));
}

static void a_changed_file_is_noticed(void **state)
{
    (void)state;
    char *folder = fixture_create(&fixture_small);
    FINISHED(error_list) faults = {0};
    OWNED(inventory) inventory = inventory_inspect(folder, true, NULL, &faults);
    OWNED_MEMORY char *config = file_join(folder, "config.json");
    struct error error = {0};
    assert_true(inventory_verify(inventory, folder, &error));

    static const struct timespec other[2] = {{1000000000, 0}, {1000000000, 0}};
    assert_int_equal(utimensat(AT_FDCWD, config, other, 0), 0); /* touched, the same content */
    assert_true(inventory_verify(inventory, folder, &error));

    fixture_edit(folder, "config.json", "silu", "relu"); /* the same length */
    assert_int_equal(utimensat(AT_FDCWD, config, other, 0), 0);
    assert_false(inventory_verify(inventory, folder, &error));
    assert_true(error.code == ERROR_INPUT_CHANGED && strcmp(error.field, "config.json") == 0);

    fixture_edit(folder, "config.json", "relu", "silu");
    assert_true(inventory_verify(inventory, folder, &error));
    assert_int_equal(truncate(config, 5), 0);
    assert_false(inventory_verify(inventory, folder, &error));
    assert_non_null(strstr(error.message, "has 5 bytes"));
    assert_int_equal(unlink(config), 0);
    assert_false(inventory_verify(inventory, folder, &error));
    assert_int_equal(error.code, ERROR_INPUT_CHANGED);
    fixture_destroy(folder);
}

static void an_inspection_can_be_cancelled(void **state)
{
    (void)state;
    char *folder = fixture_create(&fixture_small);
    struct cancel cancel = {0};
    FINISHED(error_list) faults = {0};
    cancel_request(&cancel, CANCEL_NOW);
    assert_null(inventory_inspect(folder, true, &cancel, &faults));
    assert_int_equal(faults.items[0].code, ERROR_CANCELLED);
    fixture_destroy(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_folder_is_described),
        cmocka_unit_test(a_record_reads_back_as_it_was),
        cmocka_unit_test(a_record_that_was_tampered_with_is_refused),
        cmocka_unit_test(a_config_that_contradicts_the_tensors_names_tensor_and_shapes),
        cmocka_unit_test(extra_tensors_are_kept_and_marked),
        cmocka_unit_test(missing_and_foreign_files_are_named),
        cmocka_unit_test(a_truncated_file_is_corrupt),
        cmocka_unit_test(links_that_leave_the_folder_are_not_followed),
        cmocka_unit_test(shards_and_index_must_agree),
        cmocka_unit_test(a_tokenizer_larger_than_the_vocabulary_is_refused),
        cmocka_unit_test(a_changed_file_is_noticed),
        cmocka_unit_test(an_inspection_can_be_cancelled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
