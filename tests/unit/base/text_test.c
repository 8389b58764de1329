/* tests/unit/base/text_test.c: growing strings, escapes, UTF-8 and numbers. */
#include "base/cleanup.h"
#include "base/text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void appending_grows_and_stays_terminated(void **state)
{
    (void)state;
    FINISHED(text) text = {0};
    for (int i = 0; i < 1000; i++) {
        text_append(&text, "ab");
        text_append_bytes(&text, "c\0", 2);
        text_append_format(&text, "%03d", i);
        assert_int_equal(text.length, (size_t)(i + 1) * 7);
        assert_int_equal(text.bytes[text.length], 0);
    }
    assert_memory_equal(text.bytes,
                        "abc\0"
                        "000abc\0"
                        "001",
                        14);
    assert_memory_equal(text.bytes + 999 * 7,
                        "abc\0"
                        "999",
                        7);
}

static void taking_an_empty_text_gives_an_empty_string(void **state)
{
    (void)state;
    struct text text = {0};
    OWNED_MEMORY char *empty = text_take(&text);
    assert_string_equal(empty, "");
    text_append(&text, "abc");
    OWNED_MEMORY char *full = text_take(&text);
    assert_string_equal(full, "abc");
    assert_null(text.bytes);
    text_finish(NULL);
}

static void clearing_keeps_the_memory(void **state)
{
    (void)state;
    FINISHED(text) text = {0};
    text_clear(&text);
    text_append(&text, "abc");
    char *before = text.bytes;
    text_clear(&text);
    assert_int_equal(text.length, 0);
    assert_string_equal(text.bytes, "");
    text_append(&text, "de");
    assert_ptr_equal(text.bytes, before);
    assert_string_equal(text.bytes, "de");
}

static void html_escapes_the_five(void **state)
{
    (void)state;
    FINISHED(text) text = {0};
    text_append_html(&text, "a<b>&\"c'd");
    assert_string_equal(text.bytes, "a&lt;b&gt;&amp;&quot;c&#39;d");
}

static void json_escapes_what_must_be_and_mends_the_rest(void **state)
{
    (void)state;
    FINISHED(text) text = {0};
    text_append_json(&text, "a\"\\\n\t\r\x01\x7F\xC3\xA9\xFFz\0y", 14);
    assert_string_equal(text.bytes, "\"a\\\"\\\\\\n\\t\\r\\u0001\x7F\xC3\xA9\xEF\xBF\xBDz\\u0000y\"");
}

static void utf8_is_strict(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        bool valid;
    } cases[] = {
        {"", true},
        {"plain", true},
        {"\xC2\x80", true},
        {"\xDF\xBF", true},
        {"\xE0\xA0\x80", true},
        {"\xED\x9F\xBF", true},
        {"\xEE\x80\x80", true},
        {"\xF0\x90\x80\x80", true},
        {"\xF4\x8F\xBF\xBF", true},
        {"\x80", false},             /* continuation alone */
        {"\xC1\xBF", false},         /* overlong two */
        {"\xE0\x9F\xBF", false},     /* overlong three */
        {"\xF0\x8F\xBF\xBF", false}, /* overlong four */
        {"\xED\xA0\x80", false},     /* surrogate */
        {"\xF4\x90\x80\x80", false}, /* past U+10FFFF */
        {"\xF5\x80\x80\x80", false},
        {"\xC2", false}, /* cut */
        {"\xE2\x82", false},
        {"\xF0\x9F\x98", false},
        {"\xE2\x28\xA1", false},
        {"a\xFF", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(text_is_utf8(cases[i].bytes, strlen(cases[i].bytes)), cases[i].valid);
        FINISHED(text) text = {0};
        text_append_utf8(&text, cases[i].bytes, strlen(cases[i].bytes));
        assert_true(text_is_utf8(text.bytes, text.length));
        if (cases[i].valid) {
            assert_int_equal(text.length, strlen(cases[i].bytes));
        }
    }
}

static void numbers_are_digits_and_fit(void **state)
{
    (void)state;
    static const char *const refused[] = {
        "", "-1", "+1", " 1", "1 ", "1a", "0x1", "18446744073709551616", "99999999999999999999999"};
    uint64_t value = 7;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        assert_false(text_parse_u64(refused[i], strlen(refused[i]), &value));
        assert_int_equal(value, 7);
    }
    assert_true(text_parse_u64("18446744073709551615", 20, &value));
    assert_true(value == UINT64_MAX);
    assert_true(text_parse_u64("00123456", 5, &value));
    assert_int_equal(value, 123);
}

static void prefixes_and_suffixes(void **state)
{
    (void)state;
    assert_true(text_starts_with("model.layers", "model."));
    assert_true(text_starts_with("a", ""));
    assert_false(text_starts_with("mod", "model"));
    assert_true(text_ends_with("a.json", ".json"));
    assert_true(text_ends_with(".json", ".json"));
    assert_false(text_ends_with("json", ".json"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(appending_grows_and_stays_terminated),
        cmocka_unit_test(taking_an_empty_text_gives_an_empty_string),
        cmocka_unit_test(clearing_keeps_the_memory),
        cmocka_unit_test(html_escapes_the_five),
        cmocka_unit_test(json_escapes_what_must_be_and_mends_the_rest),
        cmocka_unit_test(utf8_is_strict),
        cmocka_unit_test(numbers_are_digits_and_fit),
        cmocka_unit_test(prefixes_and_suffixes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
