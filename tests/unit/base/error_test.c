/* tests/unit/base/error_test.c: filling, cutting and collecting errors. */
#include "base/error.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void every_code_has_a_slug_that_parses_back(void **state)
{
    (void)state;
    static const enum error_code codes[] = {
#define X(name, slug) ERROR_##name,
        ERROR_CODES(X)
#undef X
    };
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        assert_int_equal(error_code_parse(error_code_slug(codes[i])), codes[i]);
    }
    assert_string_equal(error_code_slug(ERROR_OUT_OF_RANGE), "out_of_range");
    assert_string_equal(error_code_slug(ERROR_NONE), "none");
}

static void an_unknown_slug_is_internal(void **state)
{
    (void)state;
    assert_int_equal(error_code_parse("from_a_newer_worker"), ERROR_INTERNAL);
    assert_int_equal(error_code_parse(NULL), ERROR_INTERNAL);
    assert_int_equal(error_code_parse("none"), ERROR_INTERNAL);
}

static void set_fills_code_and_message_and_clears_the_field(void **state)
{
    (void)state;
    struct error error = {0};
    assert_false(error_set_field(&error, ERROR_WRONG_TYPE, "/a/b", "is %s", "a string"));
    assert_int_equal(error.code, ERROR_WRONG_TYPE);
    assert_string_equal(error.field, "/a/b");
    assert_string_equal(error.message, "is a string");
    assert_false(error_set(&error, ERROR_CONFLICT, "%d of %d", 3, 4));
    assert_int_equal(error.code, ERROR_CONFLICT);
    assert_string_equal(error.field, "");
    assert_string_equal(error.message, "3 of 4");
}

static void a_null_error_is_accepted_everywhere(void **state)
{
    (void)state;
    assert_false(error_set(NULL, ERROR_IO, "x"));
    assert_false(error_set_field(NULL, ERROR_IO, "/x", "x"));
    assert_false(error_set_errno(NULL, EIO, "x"));
    assert_false(error_prefix(NULL, "x"));
}

static void a_message_may_quote_the_error_it_replaces(void **state)
{
    (void)state;
    struct error error = {0};
    (void)error_set(&error, ERROR_IO, "inner");
    (void)error_set(&error, ERROR_CONFLICT, "outer (%s)", error.message);
    assert_string_equal(error.message, "outer (inner)");
}

static void a_prefix_keeps_code_and_field(void **state)
{
    (void)state;
    struct error error = {0};
    (void)error_set_field(&error, ERROR_NUMERIC, "model.norm.weight", "is NaN");
    assert_false(error_prefix(&error, "layer %d: ", 3));
    assert_int_equal(error.code, ERROR_NUMERIC);
    assert_string_equal(error.field, "model.norm.weight");
    assert_string_equal(error.message, "layer 3: is NaN");
}

static void a_cut_never_splits_a_character(void **state)
{
    (void)state;
    /* Shift the text byte by byte: the cut falls on every position inside the four-byte characters. */
    for (int shift = 0; shift < 4; shift++) {
        char text[600] = "";
        memset(text, 'x', (size_t)shift);
        for (size_t i = (size_t)shift; i + 4 < sizeof text; i += 4) {
            memcpy(text + i, "\xF0\x9F\x98\x80", 5);
        }
        struct error error = {0};
        (void)error_set_field(&error, ERROR_IO, text, "%s", text);
        size_t message = strlen(error.message), field = strlen(error.field);
        assert_true(message >= sizeof error.message - 4 && (message - (size_t)shift) % 4 == 0);
        assert_true(field >= sizeof error.field - 4 && (field - (size_t)shift) % 4 == 0);
        (void)error_prefix(&error, "%s", "yy");
        assert_true((strlen(error.message) - 2 - (size_t)shift) % 4 == 0);
    }
}

static void errno_becomes_a_code_and_stays_as_it_was(void **state)
{
    (void)state;
    static const struct {
        int number;
        enum error_code code;
    } pairs[] = {
        {ENOSPC, ERROR_STORAGE_FULL},
        {EDQUOT, ERROR_STORAGE_FULL},
        {ENOENT, ERROR_NOT_FOUND},
        {ENOMEM, ERROR_OUT_OF_MEMORY},
        {EIO, ERROR_IO},
        {EACCES, ERROR_IO},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        struct error error = {0};
        errno = EDOM;
        assert_false(error_set_errno(&error, pairs[i].number, "opening %s", "a.txt"));
        assert_int_equal(errno, EDOM);
        assert_int_equal(error.code, pairs[i].code);
        char expected[128];
        (void)snprintf(expected, sizeof expected, "opening a.txt: %s", strerror(pairs[i].number));
        assert_string_equal(error.message, expected);
    }
}

static void a_list_keeps_the_first_faults_and_counts_all(void **state)
{
    (void)state;
    struct error_list list = {0};
    for (int i = 0; i < ERROR_LIST_LIMIT + 10; i++) {
        assert_false(error_list_add(&list, ERROR_OUT_OF_RANGE, "/x", "fault %d", i));
    }
    assert_int_equal(list.stored, ERROR_LIST_LIMIT);
    assert_int_equal(list.count, ERROR_LIST_LIMIT + 10);
    assert_string_equal(list.items[0].message, "fault 0");
    assert_string_equal(list.items[ERROR_LIST_LIMIT - 1].message, "fault 63");
    assert_string_equal(list.items[5].field, "/x");
    error_list_finish(&list);
    assert_null(list.items);
    error_list_finish(NULL);
}

static void a_list_can_copy_its_own_item(void **state)
{
    (void)state;
    struct error_list list = {0};
    (void)error_list_add(&list, ERROR_IO, "/a", "first");
    for (int i = 0; i < 20; i++) {
        (void)error_list_add_error(&list, &list.items[0]);
    }
    assert_string_equal(list.items[20].message, "first");
    error_list_finish(&list);
}

static void a_sum_of_faults_is_the_first_and_how_many_more(void **state)
{
    (void)state;
    struct error_list list = {0};
    struct error error;
    char message[600];
    memset(message, 'm', sizeof message - 1);
    message[sizeof message - 1] = '\0';
    (void)error_list_add(&list, ERROR_IO, "/a", "first");
    error_list_sum_up(&list, &error);
    assert_string_equal(error.message, "first");
    (void)error_list_add(&list, ERROR_NOT_FOUND, "/b", "second");
    (void)error_list_add(&list, ERROR_NOT_FOUND, "/c", "third");
    error_list_sum_up(&list, &error);
    assert_string_equal(error.message, "first (and 2 more)");
    assert_string_equal(error.field, "/a");
    assert_int_equal(error.code, ERROR_IO);
    error_list_finish(&list);
    (void)error_list_add(&list, ERROR_IO, "", "%s", message);
    (void)error_list_add(&list, ERROR_IO, "", "second");
    error_list_sum_up(&list, &error); /* the count is whole, the message an excerpt */
    assert_int_equal(strlen(error.message), sizeof error.message - 1);
    assert_string_equal(error.message + sizeof error.message - 1 - strlen("m (and 1 more)"),
                        "m (and 1 more)");
    error_list_finish(&list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_has_a_slug_that_parses_back),
        cmocka_unit_test(an_unknown_slug_is_internal),
        cmocka_unit_test(set_fills_code_and_message_and_clears_the_field),
        cmocka_unit_test(a_null_error_is_accepted_everywhere),
        cmocka_unit_test(a_message_may_quote_the_error_it_replaces),
        cmocka_unit_test(a_prefix_keeps_code_and_field),
        cmocka_unit_test(a_cut_never_splits_a_character),
        cmocka_unit_test(errno_becomes_a_code_and_stays_as_it_was),
        cmocka_unit_test(a_list_keeps_the_first_faults_and_counts_all),
        cmocka_unit_test(a_list_can_copy_its_own_item),
        cmocka_unit_test(a_sum_of_faults_is_the_first_and_how_many_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
