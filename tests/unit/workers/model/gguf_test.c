/* tests/unit/workers/model/gguf_test.c: GGUF headers, sound and hostile. */
#include "base/arena.h"
#include "base/file.h"
#include "tests/unit/workers/model/gguf_fixture.h"
#include "workers/model/gguf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct gguf *parse(const struct text *file, struct error *error)
{
    return gguf_parse(file->bytes, file->length, file->length, error);
}

/* Builds, parses and expects a refusal. */
static void refused(struct gguf_builder *builder, enum error_code code, const char *field, const char *part)
{
    FINISHED(text) file = {0};
    struct error error = {0};
    gguf_build(builder, 3, &file);
    OWNED(gguf) gguf = parse(&file, &error);
    assert_null(gguf);
    if (error.code != code || strstr(error.message, part) == NULL ||
        (field != NULL && strcmp(error.field, field) != 0)) {
        fail_msg("code %s, field %s: %s", error_code_slug(error.code), error.field, error.message);
    }
}

static void a_sound_file_reads_back(void **state)
{
    (void)state;
    for (uint32_t version = 2; version <= 3; version++) {
        struct gguf_builder builder = {0};
        gguf_add_text(&builder, "general.architecture", "llama");
        gguf_add_u32(&builder, "llama.block_count", 7);
        gguf_add_f32(&builder, "llama.rope.freq_base", 10000.0f);
        gguf_add_bool(&builder, "tokenizer.ggml.add_bos_token", true);
        gguf_begin_array(&builder, "tokenizer.ggml.tokens", GGUF_TEXT, 2);
        gguf_put_text(&builder.pairs, "<s>");
        gguf_put_text(&builder.pairs, "");
        gguf_begin_array(&builder, "numbers", GGUF_I16, 2);
        gguf_put_int(&builder.pairs, 0xfffe, 2);
        gguf_put_int(&builder.pairs, 5, 2);
        gguf_add_zeros(&builder, "token_embd.weight", 3, 5);
        gguf_add_zeros(&builder, "output_norm.weight", 3, 0);
        FINISHED(text) file = {0};
        struct error error = {0};
        gguf_build(&builder, version, &file);
        OWNED(gguf) gguf = parse(&file, &error);
        assert_non_null(gguf);
        assert_string_equal(gguf->architecture, "llama");
        assert_int_equal(gguf->version, version);
        uint64_t blocks = 0;
        double base = 0.0;
        bool adds_bos = false;
        assert_true(gguf_get_u64(gguf, "llama.block_count", 1, 100, &blocks, &error));
        assert_int_equal(blocks, 7);
        assert_true(gguf_get_f64(gguf, "llama.rope.freq_base", &base, &error));
        assert_true(base == 10000.0);
        assert_true(gguf_find_bool(gguf, "tokenizer.ggml.add_bos_token", &adds_bos, &error));
        assert_true(adds_bos);
        const struct gguf_pair *tokens = gguf_find(gguf, "tokenizer.ggml.tokens");
        assert_non_null(tokens);
        assert_true(tokens->is_array && tokens->count == 2 && tokens->texts[0].length == 3);
        int64_t number = 0;
        assert_true(gguf_integer_at(gguf_find(gguf, "numbers"), 0, &number));
        assert_int_equal(number, -2);
        const struct gguf_tensor *tensor = gguf_find_tensor(gguf, "token_embd.weight");
        assert_non_null(tensor);
        assert_int_equal(tensor->rank, 2);
        assert_int_equal(tensor->shape[0], 5);
        assert_int_equal(tensor->shape[1], 3);
        assert_int_equal(tensor->bytes, 60);
        assert_int_equal(tensor->offset_bytes + 64 + 12, file.length);
        assert_null(gguf_find_tensor(gguf, "output.weight"));
    }
}

static void getters_name_the_key(void **state)
{
    (void)state;
    struct gguf_builder builder = {0};
    FINISHED(text) file = {0};
    struct error error = {0};
    gguf_add_text(&builder, "a", "text");
    gguf_add_u32(&builder, "b", 4);
    gguf_begin_array(&builder, "c", GGUF_U8, 0);
    gguf_build(&builder, 3, &file);
    OWNED(gguf) gguf = parse(&file, &error);
    assert_non_null(gguf);
    uint64_t value = 11;
    assert_false(gguf_get_u64(gguf, "a", 0, 9, &value, &error));
    assert_true(error.code == ERROR_WRONG_TYPE && strcmp(error.field, "a") == 0);
    assert_false(gguf_get_u64(gguf, "b", 5, 9, &value, &error));
    assert_true(error.code == ERROR_OUT_OF_RANGE && strcmp(error.field, "b") == 0);
    assert_false(gguf_find_u64(gguf, "c", 0, 9, &value, &error));
    assert_int_equal(error.code, ERROR_WRONG_TYPE);
    assert_false(gguf_get_u64(gguf, "d", 0, 9, &value, &error));
    assert_true(error.code == ERROR_MISSING_FIELD && strcmp(error.field, "d") == 0);
    assert_true(gguf_find_u64(gguf, "d", 0, 9, &value, &error));
    assert_int_equal(value, 11);
}

static void hostile_pairs_are_refused(void **state)
{
    (void)state;
    struct gguf_builder builder = {0};
    gguf_add_u32(&builder, "twice", 1);
    gguf_add_u32(&builder, "twice", 2);
    refused(&builder, ERROR_CORRUPT_FILE, "twice", "twice");
    gguf_begin_array(&builder, "nested", GGUF_ARRAY, 1);
    refused(&builder, ERROR_CORRUPT_FILE, "nested", "array of arrays");
    gguf_begin_array(&builder, "long", GGUF_U64, UINT64_MAX / 4);
    refused(&builder, ERROR_CORRUPT_FILE, "long", "longer than any file");
    gguf_begin_array(&builder, "many", GGUF_TEXT, UINT64_MAX);
    refused(&builder, ERROR_CORRUPT_FILE, NULL, "ends inside it");
    gguf_put_int(&builder.pairs, UINT64_MAX, 8);
    builder.pair_count++;
    refused(&builder, ERROR_CORRUPT_FILE, NULL, "ends inside it");
    gguf_add_u32(&builder, "", 1);
    refused(&builder, ERROR_CORRUPT_FILE, NULL, "a key");
    gguf_add_u32(&builder, "line\nbreak", 1);
    refused(&builder, ERROR_CORRUPT_FILE, NULL, "a key");
    gguf_begin_array(&builder, "unknown", (enum gguf_type)77, 1);
    refused(&builder, ERROR_CORRUPT_FILE, "unknown", "unknown type");
    gguf_add_bool(&builder, "maybe", true);
    builder.pairs.bytes[builder.pairs.length - 1] = 2;
    refused(&builder, ERROR_CORRUPT_FILE, "maybe", "neither 0 nor 1");
    gguf_add_u32(&builder, "general.alignment", 24);
    refused(&builder, ERROR_CORRUPT_FILE, "general.alignment", "power of two");
    gguf_add_u32(&builder, "general.alignment", 1u << 20);
    refused(&builder, ERROR_OUT_OF_RANGE, "general.alignment", "it must be");
    gguf_add_u32(&builder, "split.count", 2);
    refused(&builder, ERROR_UNSUPPORTED, "split.count", "join");
    builder.pair_count = UINT64_C(1) << 40;
    refused(&builder, ERROR_CORRUPT_FILE, NULL, "more tensors or key-value pairs");
    builder.tensor_count = 150000;
    refused(&builder, ERROR_CORRUPT_FILE, NULL, "ends inside it");
}

static void add_data(struct gguf_builder *builder, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        text_append_bytes(&builder->data, "", 1);
    }
}

static void hostile_tensors_are_refused(void **state)
{
    (void)state;
    static const uint64_t eight[] = {8}, huge[] = {UINT64_C(1) << 40, UINT64_C(1) << 40, 1, 1},
                          wide[] = {UINT64_C(1) << 47, UINT64_C(1) << 15}, zero[] = {0}, odd[] = {33};
    struct gguf_builder builder = {0};
    gguf_add_info(&builder, "a", eight, 1, 0, 0);
    gguf_add_info(&builder, "b", eight, 1, 0, 0);
    add_data(&builder, 64);
    refused(&builder, ERROR_CORRUPT_FILE, NULL, "overlaps");
    gguf_add_info(&builder, "a", eight, 1, 0, 0);
    gguf_add_info(&builder, "b", eight, 1, 0, 64);
    add_data(&builder, 96);
    refused(&builder, ERROR_CORRUPT_FILE, "b", "a hole");
    gguf_add_info(&builder, "a", eight, 1, 0, 0);
    gguf_add_info(&builder, "a", eight, 1, 0, 32);
    add_data(&builder, 64);
    refused(&builder, ERROR_CORRUPT_FILE, "a", "twice");
    gguf_add_info(&builder, "a", eight, 1, 0, 0);
    add_data(&builder, 31);
    refused(&builder, ERROR_CORRUPT_FILE, "a", "the file ends before it does");
    gguf_add_info(&builder, "a", eight, 1, 0, 0);
    add_data(&builder, 33);
    refused(&builder, ERROR_CORRUPT_FILE, NULL, "belong to none");
    gguf_add_info(&builder, "a", eight, 1, 0, 8);
    refused(&builder, ERROR_CORRUPT_FILE, "a", "alignment");
    gguf_add_info(&builder, "a", huge, 4, 0, 0);
    refused(&builder, ERROR_CORRUPT_FILE, "a", "out of range");
    gguf_add_info(&builder, "a", wide, 2, 0, 0);
    refused(&builder, ERROR_CORRUPT_FILE, "a", "more bytes than");
    gguf_add_info(&builder, "a", zero, 1, 0, 0);
    refused(&builder, ERROR_CORRUPT_FILE, "a", "out of range");
    gguf_add_info(&builder, "a", odd, 1, 8, 0);
    refused(&builder, ERROR_CORRUPT_FILE, "a", "whole blocks");
    gguf_add_info(&builder, "a", eight, 1, 10, 0);
    refused(&builder, ERROR_UNSUPPORTED, "a", "GGML type 10");
    gguf_add_info(&builder, "a", eight, 0, 0, 0);
    gguf_put_int(&builder.infos, 0, 8);
    refused(&builder, ERROR_CORRUPT_FILE, "a", "rank");
    gguf_add_info(&builder, "a", eight, 1, 0, UINT64_MAX - 31);
    refused(&builder, ERROR_CORRUPT_FILE, "a", "a hole");
}

static void every_cut_of_a_sound_file_is_refused(void **state)
{
    (void)state;
    struct gguf_builder builder = {0};
    FINISHED(text) file = {0};
    gguf_add_text(&builder, "general.architecture", "llama");
    gguf_begin_array(&builder, "tokenizer.ggml.tokens", GGUF_TEXT, 2);
    gguf_put_text(&builder.pairs, "<s>");
    gguf_put_text(&builder.pairs, "x");
    gguf_add_zeros(&builder, "token_embd.weight", 3, 5);
    gguf_build(&builder, 3, &file);
    for (size_t length = 0; length < file.length; length++) {
        struct error error = {0};
        OWNED(gguf) gguf = gguf_parse(file.bytes, length, length, &error);
        assert_null(gguf);
        assert_int_equal(error.code, ERROR_CORRUPT_FILE);
    }
}

static void other_versions_are_named(void **state)
{
    (void)state;
    static const struct {
        uint32_t version;
        const char *part;
    } cases[] = {{1, "another version"}, {4, "another version"}, {0x03000000, "big endian"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct gguf_builder builder = {0};
        FINISHED(text) file = {0};
        struct error error = {0};
        gguf_build(&builder, cases[i].version, &file);
        OWNED(gguf) gguf = parse(&file, &error);
        assert_null(gguf);
        assert_int_equal(error.code, ERROR_UNSUPPORTED);
        assert_non_null(strstr(error.message, cases[i].part));
    }
}

/* A header larger than the first read. */
static void a_long_header_is_read_from_a_file(void **state)
{
    (void)state;
    struct gguf_builder builder = {0};
    FINISHED(text) file = {0};
    struct error error = {0};
    enum { COUNT = 700000 };
    gguf_begin_array(&builder, "tokenizer.ggml.tokens", GGUF_TEXT, COUNT);
    for (int i = 0; i < COUNT; i++) {
        gguf_put_text(&builder.pairs, "abc");
    }
    gguf_add_zeros(&builder, "token_embd.weight", 3, 5);
    gguf_build(&builder, 3, &file);
    char path[] = "/tmp/gguf_test_XXXXXX";
    OWNED_FD int fd = mkstemp(path);
    assert_true(fd >= 0);
    (void)unlink(path);
    assert_true(file_append(fd, file.bytes, file.length, &error));
    OWNED(gguf) gguf = gguf_read(fd, &error);
    assert_non_null(gguf);
    assert_int_equal(gguf_find(gguf, "tokenizer.ggml.tokens")->count, COUNT);
    assert_int_equal(gguf->tensors[0].offset_bytes + 60, file.length);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sound_file_reads_back),
        cmocka_unit_test(getters_name_the_key),
        cmocka_unit_test(hostile_pairs_are_refused),
        cmocka_unit_test(hostile_tensors_are_refused),
        cmocka_unit_test(every_cut_of_a_sound_file_is_refused),
        cmocka_unit_test(other_versions_are_named),
        cmocka_unit_test(a_long_header_is_read_from_a_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
