/* tests/unit/workers/model/safetensors_test.c: what headers are refused, each for its own reason, and what is accepted. */
#include "workers/model/safetensors.h"

#include "base/memory.h"
#include "base/text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static bool parse(const char *text, size_t count, uint64_t data_bytes, struct st_header *ret_header,
                  struct arena **ret_arena, struct error *error)
{
    *ret_arena = arena_create(0);
    return st_header_parse(text, count, data_bytes, *ret_arena, ret_header, error);
}

static void a_header_is_read_in_any_order_and_sorted_by_name(void **state)
{
    (void)state;
    static const char text[] =
        "{ \"__metadata__\" : {\"format\":\"pt\",\"a\":\"\\n\\u00e9\\ud83d\\ude00\"} ,\r\n\t"
        "\"b\":{\"data_offsets\":[8,8],\"shape\":[0,7],\"dtype\":\"I64\"},"
        "\"\\u00e9\\\"\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[8,10]},"
        "\"a\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[0,8]}}   ";
    struct st_header header;
    struct arena *arena = NULL;
    struct error error = {0};
    if (!parse(text, sizeof text - 1, 10, &header, &arena, &error)) {
        fail_msg("%s", error.message);
    }
    assert_int_equal(header.tensor_count, 3);
    assert_string_equal(header.tensors[0].name, "a");
    assert_string_equal(header.tensors[1].name, "b");
    assert_string_equal(header.tensors[2].name, "\xc3\xa9\"");
    assert_int_equal(header.tensors[0].rank, 2);
    assert_int_equal(header.tensors[0].shape[0], 2);
    assert_int_equal(header.tensors[0].offset_bytes, 8 + sizeof text - 1);
    assert_int_equal(header.tensors[0].bytes, 8);
    assert_string_equal(st_dtype_slug(header.tensors[1].dtype), "I64");
    enum dtype dtype = DTYPE_F32;
    assert_false(st_dtype_to_dtype(header.tensors[1].dtype, &dtype));
    assert_true(st_dtype_to_dtype(header.tensors[2].dtype, &dtype) && dtype == DTYPE_BF16);
    assert_int_equal(header.tensors[2].offset_bytes, 8 + sizeof text - 1 + 8);
    arena_destroy(arena);
}

static void an_empty_file_of_tensors_is_a_file(void **state)
{
    (void)state;
    static const char *const texts[] = {"{}", "{}      ", "{\"__metadata__\":{}}"};
    for (size_t i = 0; i < 3; i++) {
        struct st_header header;
        struct arena *arena = NULL;
        assert_true(parse(texts[i], strlen(texts[i]), 0, &header, &arena, NULL));
        assert_int_equal(header.tensor_count, 0);
        arena_destroy(arena);
    }
}

#define ENTRY(name, dtype, shape, offsets)                                                                   \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" offsets "]}"

static const struct {
    const char *text;
    uint64_t data_bytes;
    const char *reason;
} hostile[] = {
    {"", 0, "expected '{'"},
    {" {}", 0, "expected '{'"},
    {"[]", 0, "expected '{'"},
    {"{", 0, "expected '\"'"},
    {"{}x", 0, "behind the closing brace"},
    {"{}\n", 0, "behind the closing brace"},
    {"{}{}", 0, "behind the closing brace"},
    {"{" ENTRY("a", "F32", "1", "0,4") "", 4, "expected '}'"},
    {"{" ENTRY("a", "F32", "1", "0,4") ",}", 4, "expected '\"'"},
    {"{," ENTRY("a", "F32", "1", "0,4") "}", 4, "expected '\"'"},
    {"{\"a\":[]}", 0, "expected '{'"},
    {"{\"a\":{}}", 0, "expected '\"'"},
    {"{\"a\":null}", 0, "expected '{'"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "without dtype, shape or data_offsets"},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "without dtype, shape or data_offsets"},
    {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "without dtype, shape or data_offsets"},
    {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
     "a doubled member"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4, "an unknown member"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"a member with a long name\":1}}", 4,
     "too long"},
    {"{" ENTRY("a", "F31", "1", "0,4") "}", 4, "an unknown dtype"},
    {"{" ENTRY("a", "f32", "1", "0,4") "}", 4, "an unknown dtype"},
    {"{" ENTRY("a", "F4_E2M1_with_a_long_name", "1", "0,4") "}", 4, "too long"},
    {"{\"a\":{\"dtype\":32,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "expected '\"'"},
    {"{" ENTRY("a", "F32", "-1", "0,4") "}", 4, "plain decimal"},
    {"{" ENTRY("a", "F32", "+1", "0,4") "}", 4, "plain decimal"},
    {"{" ENTRY("a", "F32", "1.0", "0,4") "}", 4, "expected ']'"},
    {"{" ENTRY("a", "F32", "1e0", "0,4") "}", 4, "expected ']'"},
    {"{" ENTRY("a", "F32", "0x1", "0,4") "}", 4, "expected ']'"},
    {"{" ENTRY("a", "F32", "01", "0,4") "}", 4, "plain decimal"},
    {"{" ENTRY("a", "F32", "\\\"1\\\"", "0,4") "}", 4, "plain decimal"},
    {"{" ENTRY("a", "F32", "1,", "0,4") "}", 4, "plain decimal"},
    {"{" ENTRY("a", "F32", "1,1,1,1,1,1,1,1,1", "0,4") "}", 4, "too many dimensions"},
    {"{" ENTRY("a", "F32", "281474976710656", "0,4") "}", 4, "2^48 or more"},
    {"{" ENTRY("a", "F32", "99999999999999999999999999999", "0,4") "}", 4, "2^48 or more"},
    {"{" ENTRY("a", "F32", "4194305,4194305,211106198978564", "0,16") "}", 16, "overflows"},
    {"{" ENTRY("a", "F64", "281474976710655,281474976710655", "0,8") "}", 8, "overflows"},
    {"{" ENTRY("a", "F32", "0,281474976710655,281474976710655,281474976710655", "0,4") "}", 4,
     "data_offsets 4"},
    {"{" ENTRY("a", "F32", "1", "0") "}", 4, "not [begin, end]"},
    {"{" ENTRY("a", "F32", "1", "") "}", 4, "not [begin, end]"},
    {"{" ENTRY("a", "F32", "1", "0,4,8") "}", 4, "too many dimensions or offsets"},
    {"{" ENTRY("a", "F32", "1", "4,0") "}", 4, "not [begin, end]"},
    {"{" ENTRY("a", "F32", "1", "0,3") "}", 3, "make 4 bytes, data_offsets 3"},
    {"{" ENTRY("a", "BF16", "1", "0,4") "}", 4, "make 2 bytes, data_offsets 4"},
    {"{" ENTRY("a", "F32", "1", "4,8") "}", 8, "leaving a hole"},
    {"{" ENTRY("a", "F32", "1", "0,4") "," ENTRY("b", "F32", "1", "8,12") "}", 12, "leaving a hole"},
    {"{" ENTRY("a", "F32", "1", "0,4") "," ENTRY("b", "F32", "1", "2,6") "}", 6, "overlapping"},
    {"{" ENTRY("a", "F32", "1", "0,4") "," ENTRY("b", "F32", "1", "0,4") "}", 4, "overlapping"},
    {"{" ENTRY("a", "F32", "1", "0,4") "," ENTRY("a", "F32", "1", "4,8") "}", 8, "there twice"},
    {"{" ENTRY("a", "F32", "1", "0,4") "," ENTRY("\\u0061", "F32", "1", "4,8") "}", 8, "there twice"},
    {"{" ENTRY("a", "F32", "1", "0,4") "}", 8, "bytes belong to no tensor"},
    {"{" ENTRY("a", "F32", "1", "0,4") "}", 3, "truncated"},
    {"{}", 1, "bytes belong to no tensor"},
    {"{" ENTRY("", "F32", "1", "0,4") "}", 4, "empty tensor name"},
    {"{" ENTRY("a\\n", "F32", "1", "0,4") "}", 4, "control character in a name"},
    {"{" ENTRY("a\\u0000b", "F32", "1", "0,4") "}", 4, "control character in a name"},
    {"{" ENTRY("a\x7f", "F32", "1", "0,4") "}", 4, "control character in a name"},
    {"{" ENTRY("a\tb", "F32", "1", "0,4") "}", 4, "bare control character"},
    {"{" ENTRY("a\\x", "F32", "1", "0,4") "}", 4, "unknown escape"},
    {"{" ENTRY("a\\u12", "F32", "1", "0,4") "}", 4, "four hexadecimal digits"},
    {"{" ENTRY("a\\ud800", "F32", "1", "0,4") "}", 4, "lone surrogate"},
    {"{" ENTRY("a\\ud800\\u0041", "F32", "1", "0,4") "}", 4, "lone surrogate"},
    {"{" ENTRY("a\\udc00", "F32", "1", "0,4") "}", 4, "lone surrogate"},
    {"{" ENTRY("a\xff", "F32", "1", "0,4") "}", 4, "not UTF-8"},
    {"{" ENTRY("a\xc0\xaf", "F32", "1", "0,4") "}", 4, "not UTF-8"},
    {"{\"a", 0, "unfinished string"},
    {"{\"a\\", 0, "unfinished string"},
    {"{\"__metadata__\":1}", 0, "expected '{'"},
    {"{\"__metadata__\":{\"a\":1}}", 0, "expected '\"'"},
    {"{\"__metadata__\":{\"a\":{}}}", 0, "expected '\"'"},
    {"{\"__metadata__\":{\"a\"}}", 0, "expected ':'"},
    {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "second __metadata__"},
    {"{\"__metadata__\":{}", 0, "expected '}'"},
};

static void every_hostile_header_is_refused_for_its_reason(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof hostile / sizeof hostile[0]; i++) {
        struct st_header header = {0};
        struct arena *arena = NULL;
        struct error error = {0};
        if (parse(hostile[i].text, strlen(hostile[i].text), hostile[i].data_bytes, &header, &arena, &error)) {
            fail_msg("accepted: %s", hostile[i].text);
        }
        assert_int_equal(error.code, ERROR_CORRUPT_FILE);
        if (strstr(error.message, hostile[i].reason) == NULL) {
            fail_msg("%s: said \"%s\", should say \"%s\"", hostile[i].text, error.message, hostile[i].reason);
        }
        assert_int_equal(header.tensor_count, 0);
        arena_destroy(arena);
    }
}

static void a_header_cut_anywhere_is_refused(void **state)
{
    (void)state;
    static const char text[] = "{\"__metadata__\":{\"format\":\"pt\"}," ENTRY(
        "\\u00e9", "F32", "2,2", "0,16") "," ENTRY("b", "F16", "1", "16,18") "}";
    for (size_t count = 0; count < sizeof text - 1; count++) {
        struct st_header header;
        struct arena *arena = NULL;
        OWNED_MEMORY char *exact = memory_create(count + 1, 1); /* so that reading past the end is seen */
        memcpy(exact, text, count);
        assert_false(parse(exact, count, 18, &header, &arena, NULL));
        arena_destroy(arena);
    }
}

static void a_name_may_have_1024_bytes_and_no_more(void **state)
{
    (void)state;
    for (size_t length = ST_NAME_MAX; length <= ST_NAME_MAX + 1; length++) {
        FINISHED(text) text = {0};
        text_append(&text, "{\"");
        for (size_t i = 0; i < length; i++) {
            text_append(&text, "n");
        }
        text_append(&text, "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}");
        struct st_header header;
        struct arena *arena = NULL;
        assert_int_equal(parse(text.bytes, text.length, 1, &header, &arena, NULL), length == ST_NAME_MAX);
        arena_destroy(arena);
    }
}

static void many_tensors_are_read_and_more_than_200000_refused(void **state)
{
    (void)state;
    for (size_t count = ST_TENSORS_MAX; count <= ST_TENSORS_MAX + 1; count++) {
        FINISHED(text) text = {0};
        text_append(&text, "{");
        for (size_t i = 0; i < count; i++) {
            text_append_format(&text, "%s\"%zu\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%zu,%zu]}",
                               i > 0 ? "," : "", count - i, i, i + 1);
        }
        text_append(&text, "}");
        struct st_header header;
        struct arena *arena = NULL;
        assert_int_equal(parse(text.bytes, text.length, count, &header, &arena, NULL),
                         count == ST_TENSORS_MAX);
        arena_destroy(arena);
    }
}

static const struct {
    const char *text, *reason;
    enum error_code code;
} indices[] = {
    {"{}", "weight_map", ERROR_MISSING_FIELD},
    {"{\"weight_map\":[]}", "", ERROR_WRONG_TYPE},
    {"{\"weight_map\":{}}", "names 0 tensors", ERROR_CORRUPT_FILE},
    {"{\"weight_map\":{\"a\":1}}", "plain name", ERROR_CORRUPT_FILE},
    {"{\"weight_map\":{\"a\":\"../b.safetensors\"}}", "plain name", ERROR_CORRUPT_FILE},
    {"{\"weight_map\":{\"a\":\"/etc/b.safetensors\"}}", "plain name", ERROR_CORRUPT_FILE},
    {"{\"weight_map\":{\"a\":\"sub/b.safetensors\"}}", "plain name", ERROR_CORRUPT_FILE},
    {"{\"weight_map\":{\"a\":\".hidden.safetensors\"}}", "plain name", ERROR_CORRUPT_FILE},
    {"{\"weight_map\":{\"a\":\"b.bin\"}}", "plain name", ERROR_CORRUPT_FILE},
    {"{\"weight_map\":{\"a\":\"b c.safetensors\"}}", "plain name", ERROR_CORRUPT_FILE},
    {"{\"weight_map\":{\"a\":\"\"}}", "plain name", ERROR_CORRUPT_FILE},
    {"{\"weight_map\":{\"a\":\"b.safetensors\",\"a\":\"c.safetensors\"}}", "", ERROR_DUPLICATE_KEY},
    {"{\"weight_map\":{\"a\":\"b.safetensors\"}", "", ERROR_MALFORMED_JSON},
};

static void every_hostile_index_is_refused_for_its_reason(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof indices / sizeof indices[0]; i++) {
        OWNED(arena) arena = arena_create(0);
        struct st_index index;
        struct error error = {0};
        assert_false(st_index_parse(indices[i].text, strlen(indices[i].text), arena, &index, &error));
        if (error.code != indices[i].code || strstr(error.message, indices[i].reason) == NULL) {
            fail_msg("%s: said %s, \"%s\"", indices[i].text, error_code_slug(error.code), error.message);
        }
    }
}

static void an_index_lists_tensors_and_shards_sorted(void **state)
{
    (void)state;
    static const char text[] =
        "{\"metadata\":{\"total_size\":3},\"weight_map\":{\"c\":\"x.safetensors\",\"a\":\"y.safetensors\","
        "\"b\":\"x.safetensors\"}}";
    OWNED(arena) arena = arena_create(0);
    struct st_index index;
    assert_true(st_index_parse(text, sizeof text - 1, arena, &index, NULL));
    assert_int_equal(index.entry_count, 3);
    assert_string_equal(index.entries[0].tensor, "a");
    assert_string_equal(index.entries[0].shard, "y.safetensors");
    assert_string_equal(index.entries[2].tensor, "c");
    assert_int_equal(index.shard_count, 2);
    assert_string_equal(index.shards[0], "x.safetensors");
    assert_string_equal(index.shards[1], "y.safetensors");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_header_is_read_in_any_order_and_sorted_by_name),
        cmocka_unit_test(an_empty_file_of_tensors_is_a_file),
        cmocka_unit_test(every_hostile_header_is_refused_for_its_reason),
        cmocka_unit_test(a_header_cut_anywhere_is_refused),
        cmocka_unit_test(a_name_may_have_1024_bytes_and_no_more),
        cmocka_unit_test(many_tensors_are_read_and_more_than_200000_refused),
        cmocka_unit_test(every_hostile_index_is_refused_for_its_reason),
        cmocka_unit_test(an_index_lists_tensors_and_shards_sorted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
