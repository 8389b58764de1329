/* Unit tests of api/range.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "api/range.h"

static void check(const char *header, uint64_t size, enum range_kind kind, uint64_t offset, uint64_t count)
{
    struct range range = {.offset = 77, .count = 77};
    enum range_kind got = range_parse(header, size, &range);
    assert_int_equal(got, kind);
    if (kind == RANGE_PART) {
        assert_int_equal(range.offset, offset);
        assert_int_equal(range.count, count);
    } else {
        assert_int_equal(range.offset, 77); /* untouched */
    }
}

static void one_range_is_cut_to_the_file(void **state)
{
    (void)state;
    check("bytes=0-0", 10, RANGE_PART, 0, 1);
    check("bytes=2-4", 10, RANGE_PART, 2, 3);
    check("bytes=5-", 10, RANGE_PART, 5, 5);
    check("bytes=5-99", 10, RANGE_PART, 5, 5);
    check("bytes=9-9", 10, RANGE_PART, 9, 1);
    check("Bytes= 1-2 ", 10, RANGE_PART, 1, 2);
    check("bytes=3-18446744073709551615", 10, RANGE_PART, 3, 7);
    check("bytes=3-99999999999999999999999", 10, RANGE_PART, 3, 7);
}

static void a_suffix_counts_from_the_end(void **state)
{
    (void)state;
    check("bytes=-3", 10, RANGE_PART, 7, 3);
    check("bytes=-10", 10, RANGE_PART, 0, 10);
    check("bytes=-11", 10, RANGE_PART, 0, 10);
    check("bytes=-99999999999999999999999", 10, RANGE_PART, 0, 10);
    check("bytes=-0", 10, RANGE_UNSATISFIABLE, 0, 0);
    check("bytes=-1", 0, RANGE_UNSATISFIABLE, 0, 0);
}

static void a_range_behind_the_end_cannot_be_satisfied(void **state)
{
    (void)state;
    check("bytes=10-", 10, RANGE_UNSATISFIABLE, 0, 0);
    check("bytes=10-12", 10, RANGE_UNSATISFIABLE, 0, 0);
    check("bytes=0-", 0, RANGE_UNSATISFIABLE, 0, 0);
    check("bytes=18446744073709551615-", 10, RANGE_UNSATISFIABLE, 0, 0);
    check("bytes=99999999999999999999-", UINT64_MAX, RANGE_UNSATISFIABLE, 0, 0);
}

static void what_is_no_single_byte_range_is_ignored(void **state)
{
    (void)state;
    static const char *const headers[] = {
        "",          "bytes",      "bytes=",        "bytes=-",     "bytes=a-b",
        "bytes=4-2", "items=0-1",  "bytes=0-1,3-4", "bytes=0x1-2", "bytes=1 - 2",
        "bytes=--1", "bytes=+1-2", "bytes=1-2;",    "0-1"};
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++) {
        check(headers[i], 10, RANGE_WHOLE, 0, 0);
    }
    check(NULL, 10, RANGE_WHOLE, 0, 0);
}

static void if_range_wants_the_very_tag(void **state)
{
    (void)state;
    assert_true(range_if_range_matches(NULL, "\"a\""));
    assert_true(range_if_range_matches("\"a\"", "\"a\""));
    assert_false(range_if_range_matches("W/\"a\"", "\"a\""));
    assert_false(range_if_range_matches("\"b\"", "\"a\""));
    assert_false(range_if_range_matches("Mon, 23 Nov 2026 12:00:00 GMT", "\"a\""));
}

static void if_none_match_reads_lists_and_stars(void **state)
{
    (void)state;
    assert_false(range_if_none_match(NULL, "\"a\""));
    assert_true(range_if_none_match("\"a\"", "\"a\""));
    assert_true(range_if_none_match("W/\"a\"", "\"a\""));
    assert_true(range_if_none_match("\"x\", \"a,b\" ,W/\"a\"", "\"a\""));
    assert_true(range_if_none_match(" * ", "\"a\""));
    assert_false(range_if_none_match("\"x\",\"y\"", "\"a\""));
    assert_false(range_if_none_match("a", "\"a\""));
    assert_false(range_if_none_match("\"a", "\"a\""));
    assert_false(range_if_none_match("\"ab\"", "\"a\""));
    assert_false(range_if_none_match("\"x\" \"a\"", "\"a\""));
    assert_false(range_if_none_match("", "\"a\""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_range_is_cut_to_the_file),
        cmocka_unit_test(a_suffix_counts_from_the_end),
        cmocka_unit_test(a_range_behind_the_end_cannot_be_satisfied),
        cmocka_unit_test(what_is_no_single_byte_range_is_ignored),
        cmocka_unit_test(if_range_wants_the_very_tag),
        cmocka_unit_test(if_none_match_reads_lists_and_stars),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
