/* tests/unit/base/json_test.c: bounds before parsing, errors with places, typed access, printing. */
#include "base/cleanup.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static json_t *parse(const char *text, struct error *error)
{
    return json_parse(text, strlen(text), JSON_LIMIT_BYTES, error);
}

static void malformed_text_is_refused_with_its_place(void **state)
{
    (void)state;
    static const struct {
        const char *text, *part; /* the message must hold `part` */
    } cases[] = {
        {"", "empty"},
        {" \n ", "empty"},
        {"12", "object or array"},
        {"\"a\"", "object or array"},
        {"null", "object or array"},
        {"{", "ends inside"},
        {"{\"a\":1", "line 1"},
        {"{\"a\":1}}", "closes what was not opened"},
        {"[1}", "closes what was not opened"},
        {"{\"a\":\n \"b", "line 2, column 2"},
        {"{\"a\":\n tru}", "line 2"},
        {"{'a':1}", "line 1"},
        {"{\"a\":1,}", "line 1"},
        {"[1,]", "line 1"},
        {"{\"a\" 1}", "line 1"},
        {"[1 2]", "line 1"},
        {"[01]", "line 1"},
        {"[.5]", "line 1"},
        {"[+1]", "line 1"},
        {"[NaN]", "line 1"},
        {"[Infinity]", "line 1"},
        {"[1e999]", "line 1"},
        {"[99999999999999999999]", "line 1"},
        {"[1]x", "line 1"},
        {"[1][2]", "line 1"},
        {"[\"\\u0000\"]", "line 1"},
        {"[\"\\ud800\"]", "line 1"},
        {"[\"\\x\"]", "line 1"},
        {"[\"a\tb\"]", "line 1"},
        {"[\"\xFF\"]", "0xff"},
        {"[/* c */1]", "line 1"},
        {"\xEF\xBB\xBF[1]", "object or array"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct error error = {0};
        if (parse(cases[i].text, &error) != NULL) {
            fail_msg("accepted: %s", cases[i].text);
        }
        assert_int_equal(error.code, ERROR_MALFORMED_JSON);
        if (strstr(error.message, cases[i].part) == NULL) {
            fail_msg("%s: %s", cases[i].text, error.message);
        }
    }
}

static void a_nul_byte_is_refused(void **state)
{
    (void)state;
    struct error error = {0};
    assert_null(json_parse("[1]\0", 4, 100, &error));
    assert_int_equal(error.code, ERROR_MALFORMED_JSON);
    assert_null(json_parse("[\"a\0b\"]", 7, 100, &error));
    assert_int_equal(error.code, ERROR_MALFORMED_JSON);
}

static void too_many_bytes_are_refused_before_reading(void **state)
{
    (void)state;
    struct error error = {0};
    assert_null(json_parse("[1,2,3]", 7, 6, &error));
    assert_int_equal(error.code, ERROR_TOO_LARGE);
    JSON_OWNED exact = json_parse("[1,2,3]", 7, 7, &error);
    assert_non_null(exact);
}

static void sixty_four_levels_pass_and_sixty_five_do_not(void **state)
{
    (void)state;
    char text[131] = "";
    memset(text, '[', 64);
    memset(text + 64, ']', 64);
    JSON_OWNED deepest = parse(text, NULL);
    assert_non_null(deepest);
    memset(text, '[', 65);
    memset(text + 65, ']', 65);
    struct error error = {0};
    assert_null(parse(text, &error));
    assert_int_equal(error.code, ERROR_MALFORMED_JSON);
    assert_non_null(strstr(error.message, "deeper than 64"));
    /* Brackets inside a string are text. */
    JSON_OWNED quoted = parse(
        "[\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\\\"]\"]", &error);
    assert_non_null(quoted);
}

/* "[" + "[]," ... + "[]]" with `count` inner arrays. */
static json_t *parse_many(const char *item, size_t count, struct error *error)
{
    FINISHED(text) text = {0};
    for (size_t i = 0; i < count; i++) {
        text_append(&text, i == 0 ? "[" : ",");
        text_append(&text, item);
    }
    text_append(&text, "]");
    return json_parse(text.bytes, text.length, SIZE_MAX, error);
}

static void a_flood_of_values_is_refused(void **state)
{
    (void)state;
    struct error error = {0};
    assert_null(parse_many("[]", 1000000, &error));
    assert_int_equal(error.code, ERROR_MALFORMED_JSON);
    assert_null(parse_many("0", 4000000, &error));
    assert_int_equal(error.code, ERROR_MALFORMED_JSON);
    JSON_OWNED many = parse_many("0", 100000, &error);
    assert_int_equal(json_array_size(many), 100000);
}

static void a_duplicate_key_is_named_with_its_pointer(void **state)
{
    (void)state;
    static const struct {
        const char *text, *field, *part;
    } cases[] = {
        {"{\"a\":1,\n\"a\":2}", "/a", "\"a\" at line 2, column 1"},
        {"{\"m\":{\"type\":\"x\",\"type\":\"y\"}}", "/m/type", "\"type\" at line 1, column 18"},
        {"[1,{\"b\":[],\"c/d\":{},\"c/d\":{}}]", "/1/c~1d", "\"c/d\""},
        {"{\"x\":\"a\",\"y\":{\"x\":1},\"z\":[{\"x\":1},{\"x\":2}],\"x\":3}", "/x", "\"x\""},
        {"{\"a\":[1,[2,{\"k\":\"v\\\"\",\"k\":2}]]}", "/a/1/1/k", "\"k\""},
        {"{\"\":1,\"\":2}", "/", "\"\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct error error = {0};
        assert_null(parse(cases[i].text, &error));
        assert_int_equal(error.code, ERROR_DUPLICATE_KEY);
        assert_string_equal(error.field, cases[i].field);
        if (strstr(error.message, cases[i].part) == NULL) {
            fail_msg("%s: %s", cases[i].text, error.message);
        }
    }
    JSON_OWNED apart = parse("{\"a\":{\"a\":1},\"b\":{\"a\":\"a\"}}", NULL);
    assert_non_null(apart);
}

static void printing_sorts_keys_and_repeats_byte_for_byte(void **state)
{
    (void)state;
    JSON_OWNED json =
        parse("{\"b\":[],\"a\":{\"z\":true,\"y\":null},\"B\":{},\"ab\":[1,\"\\u00e9\\n\\\"\\u0001\"]}", NULL);
    OWNED_MEMORY char *compact = json_format(json, false);
    assert_string_equal(
        compact, "{\"B\":{},\"a\":{\"y\":null,\"z\":true},\"ab\":[1,\"\xC3\xA9\\n\\\"\\u0001\"],\"b\":[]}");
    OWNED_MEMORY char *indented = json_format(json, true);
    assert_string_equal(indented,
                        "{\n  \"B\": {},\n  \"a\": {\n    \"y\": null,\n    \"z\": true\n  },\n  \"ab\": [\n"
                        "    1,\n    \"\xC3\xA9\\n\\\"\\u0001\"\n  ],\n  \"b\": []\n}\n");
    JSON_OWNED again = parse(indented, NULL);
    assert_true(json_equal(json, again));
    OWNED_MEMORY char *nothing = json_format(NULL, false);
    assert_string_equal(nothing, "null");
}

static void numbers_print_shortest_and_keep_their_type(void **state)
{
    (void)state;
    static const struct {
        double value;
        const char *text;
    } cases[] = {
        {0.4, "[0.4]"},
        {0.1 + 0.2, "[0.30000000000000004]"},
        {1.0, "[1.0]"},
        {-0.0, "[-0.0]"},
        {1e22, "[1e+22]"},
        {123456789012345678.0, "[1.2345678901234568e+17]"},
        {1.0 / 3, "[0.3333333333333333]"},
        {5e-324, "[4.94065645841247e-324]"},
        {DBL_MAX, "[1.7976931348623157e+308]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        JSON_OWNED array = json_array();
        assert_int_equal(json_array_append_new(array, json_real(cases[i].value)), 0);
        OWNED_MEMORY char *text = json_format(array, false);
        assert_string_equal(text, cases[i].text);
        JSON_OWNED again = parse(text, NULL);
        assert_non_null(again);
        assert_true(json_is_real(json_array_get(again, 0)));
        double read = json_real_value(json_array_get(again, 0));
        assert_memory_equal(&read, &cases[i].value, sizeof read);
    }
    JSON_OWNED integers = parse("[9223372036854775807,-9223372036854775808,0,-0]", NULL);
    OWNED_MEMORY char *text = json_format(integers, false);
    assert_string_equal(text, "[9223372036854775807,-9223372036854775808,0,0]");
}

static void members_are_read_by_type(void **state)
{
    (void)state;
    JSON_OWNED json = parse("{\"t\":\"x\",\"i\":5,\"d\":0.5,\"b\":true,\"o\":{},\"a\":[]}", NULL);
    const char *text = NULL;
    int64_t integer = 0;
    double number = 0;
    bool flag = false;
    json_t *below = NULL;
    struct error error = {0};
    assert_true(json_get_text(json, "", "t", &text, &error));
    assert_string_equal(text, "x");
    assert_true(json_get_i64(json, "", "i", 0, 5, &integer, &error));
    assert_int_equal(integer, 5);
    assert_true(json_get_double(json, "", "d", &number, &error));
    assert_true(number > 0.4 && number < 0.6);
    assert_true(json_get_double(json, "", "i", &number, &error));
    assert_true(number > 4.9 && number < 5.1);
    assert_true(json_get_bool(json, "", "b", &flag, &error));
    assert_true(flag);
    assert_true(json_get_object(json, "", "o", &below, &error));
    assert_true(json_is_object(below));
    assert_true(json_get_array(json, "", "a", &below, &error));
    assert_true(json_is_array(below));
}

static void a_wrong_type_names_its_pointer_and_both_types(void **state)
{
    (void)state;
    JSON_OWNED json = parse("{\"a/b\":\"5\",\"n\":null,\"d\":1.5}", NULL);
    int64_t integer = 77;
    double number = 77;
    const char *text = "untouched";
    struct error error = {0};
    assert_false(json_get_i64(json, "/outer", "a/b", 0, 9, &integer, &error));
    assert_int_equal(error.code, ERROR_WRONG_TYPE);
    assert_string_equal(error.field, "/outer/a~1b");
    assert_string_equal(error.message, "/outer/a~1b must be an integer, is a string");
    assert_false(json_get_i64(json, "", "d", 0, 9, &integer, &error));
    assert_int_equal(error.code, ERROR_WRONG_TYPE);
    assert_int_equal(integer, 77);
    assert_false(json_find_double(json, "", "n", &number, &error));
    assert_int_equal(error.code, ERROR_WRONG_TYPE);
    assert_false(json_find_text(json, "", "d", &text, &error));
    assert_string_equal(text, "untouched");
    assert_false(json_get_text(json_object_get(json, "d"), "/d", "x", &text, &error));
    assert_int_equal(error.code, ERROR_WRONG_TYPE);
    assert_string_equal(error.field, "/d");
}

static void an_absent_member_is_missing_or_untouched(void **state)
{
    (void)state;
    JSON_OWNED json = parse("{}", NULL);
    struct error error = {0};
    json_t *below = NULL;
    int64_t integer = 77;
    bool flag = true;
    assert_false(json_get_array(json, "", "layers", &below, &error));
    assert_int_equal(error.code, ERROR_MISSING_FIELD);
    assert_string_equal(error.field, "/layers");
    assert_true(json_find_i64(json, "", "x", 0, 1, &integer, &error));
    assert_int_equal(integer, 77);
    assert_true(json_find_bool(json, "", "x", &flag, &error));
    assert_true(flag);
}

static void an_integer_outside_its_range_says_the_range(void **state)
{
    (void)state;
    JSON_OWNED json = parse("{\"n\":11}", NULL);
    int64_t integer = 77;
    struct error error = {0};
    assert_false(json_get_i64(json, "", "n", 0, 10, &integer, &error));
    assert_int_equal(error.code, ERROR_OUT_OF_RANGE);
    assert_string_equal(error.message, "/n must be from 0 to 10, is 11");
    assert_int_equal(integer, 77);
}

static void building_mends_what_json_cannot_say(void **state)
{
    (void)state;
    JSON_OWNED json = json_object();
    json_put_text(json, "file", "a\xFF.bin");
    json_put_text(json, "none", NULL);
    json_put_text(json, "bad\xFFname", "x");
    json_put_double(json, "nan", (double)NAN);
    json_put_double(json, "inf", HUGE_VAL);
    json_put_double(json, "half", 0.5);
    json_put_i64(json, "big", INT64_MIN);
    json_put(json, "left", NULL);
    OWNED_MEMORY char *text = json_format(json, false);
    assert_string_equal(
        text, "{\"bad\xEF\xBF\xBDname\":\"x\",\"big\":-9223372036854775808,\"file\":\"a\xEF\xBF\xBD.bin\","
              "\"half\":0.5,\"inf\":null,\"nan\":null,\"none\":null}");
}

static void an_error_travels_both_ways(void **state)
{
    (void)state;
    struct error error = {0}, back = {0};
    (void)error_set_field(&error, ERROR_UNREACHABLE, "/target", "at most 0.5 can go");
    JSON_OWNED json = json_from_error(&error);
    json_to_error(json, &back);
    assert_int_equal(back.code, ERROR_UNREACHABLE);
    assert_string_equal(back.field, "/target");
    assert_string_equal(back.message, "at most 0.5 can go");
    JSON_OWNED foreign = parse("{\"code\":\"quota_of_tomorrow\"}", NULL);
    json_to_error(foreign, &back);
    assert_int_equal(back.code, ERROR_INTERNAL);
    assert_string_equal(back.message, "");
}

static void loading_names_the_file(void **state)
{
    (void)state;
    char path[] = "/tmp/pruned_json_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    struct error error = {0};
    assert_true(file_append(fd, "{\"a\":1,\"a\":2}", 13, &error));
    assert_null(json_load(path, 1000, &error));
    assert_int_equal(error.code, ERROR_DUPLICATE_KEY);
    assert_string_equal(error.field, path);
    assert_non_null(strstr(error.message, path));
    assert_non_null(strstr(error.message, "\"a\""));
    assert_null(json_load(path, 5, &error));
    assert_int_equal(error.code, ERROR_TOO_LARGE);
    assert_int_equal(ftruncate(fd, 6), 0);
    assert_true(file_append(fd, "}", 1, &error));
    (void)close(fd);
    (void)unlink(path);
    assert_null(json_load(path, 5, &error));
    assert_int_equal(error.code, ERROR_NOT_FOUND);
    assert_string_equal(error.field, path);
}

static int start(void **state)
{
    (void)state;
    json_start();
    return 0;
}

static void append_visit(void *context, const char *text, const char *pointer)
{
    text_append_format(context, "%s=%s;", pointer, text);
}

static void texts_of_one_name_are_visited_with_their_pointers(void **state)
{
    (void)state;
    static const char body[] =
        "{\"a\": {\"source\": \"x\"}, \"list\": [{\"source\": \"y\"}, {\"source\": 3}], \"source\": {\"source\": \"z\"}, "
        "\"metadata\": {\"source\": \"not ours\"}, \"_kept\": {\"source\": \"not ours\"}}";
    JSON_OWNED json = json_parse(body, sizeof body - 1, JSON_LIMIT_BYTES, NULL);
    assert_non_null(json);
    FINISHED(text) seen = {0};
    json_visit_texts(json, "", "source", append_visit, &seen);
    assert_string_equal(seen.bytes, "/a/source=x;/list/0/source=y;/source/source=z;");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(malformed_text_is_refused_with_its_place),
        cmocka_unit_test(a_nul_byte_is_refused),
        cmocka_unit_test(too_many_bytes_are_refused_before_reading),
        cmocka_unit_test(sixty_four_levels_pass_and_sixty_five_do_not),
        cmocka_unit_test(a_flood_of_values_is_refused),
        cmocka_unit_test(a_duplicate_key_is_named_with_its_pointer),
        cmocka_unit_test(printing_sorts_keys_and_repeats_byte_for_byte),
        cmocka_unit_test(numbers_print_shortest_and_keep_their_type),
        cmocka_unit_test(members_are_read_by_type),
        cmocka_unit_test(a_wrong_type_names_its_pointer_and_both_types),
        cmocka_unit_test(an_absent_member_is_missing_or_untouched),
        cmocka_unit_test(an_integer_outside_its_range_says_the_range),
        cmocka_unit_test(building_mends_what_json_cannot_say),
        cmocka_unit_test(an_error_travels_both_ways),
        cmocka_unit_test(loading_names_the_file),
        cmocka_unit_test(texts_of_one_name_are_visited_with_their_pointers),
    };
    return cmocka_run_group_tests(tests, start, NULL);
}
