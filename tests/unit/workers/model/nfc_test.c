/* tests/unit/workers/model/nfc_test.c: cases of UAX 15, and a hostile one. */
#include "base/cleanup.h"
#include "base/memory.h"
#include "workers/model/nfc.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void known_texts_normalize_as_the_standard_says(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to;
    } cases[] = {
        {"", ""},
        {"plain text", "plain text"},
        {"e\xcc\x81", "\xc3\xa9"},                  /* e + acute */
        {"xe\xcc\x81y", "x\xc3\xa9y"},              /* in the middle of plain text */
        {"\xc3\xa9", "\xc3\xa9"},                   /* already composed */
        {"\xe2\x84\xab", "\xc3\x85"},               /* Angstrom sign: a single character, never restored */
        {"q\xcc\x87\xcc\xa3", "q\xcc\xa3\xcc\x87"}, /* marks by class */
        {"s\xcc\x87\xcc\xa3", "\xe1\xb9\xa9"},      /* reordered, then both compose */
        {"a\xcc\x81\xcc\x81", "\xc3\xa1\xcc\x81"},  /* the second is blocked */
        {"\xcc\x81"
         "a",
         "\xcc\x81"
         "a"},                                                    /* a mark without a letter */
        {"\xe1\x84\x92\xe1\x85\xa1\xe1\x86\xab", "\xed\x95\x9c"}, /* Hangul */
        {"\xed\x95\x98\xe1\x86\xab", "\xed\x95\x9c"},             /* Hangul, half composed */
        {"\xe0\xa5\x98", "\xe0\xa4\x95\xe0\xa4\xbc"},             /* excluded from composition */
        {"\xf0\x9f\x98\x80\xe4\xbd\xa0", "\xf0\x9f\x98\x80\xe4\xbd\xa0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct text text = {0};
        unicode_form_append(&text, UNICODE_NFC, cases[i].from, strlen(cases[i].from));
        assert_string_equal(text.bytes, cases[i].to);
        text_finish(&text);
    }
}

static void the_other_forms_take_apart_and_fold(void **state)
{
    (void)state;
    static const struct {
        enum unicode_form form;
        const char *from, *to;
    } cases[] = {
        {UNICODE_NFD, "\xc3\xa9x", "e\xcc\x81x"},
        {UNICODE_NFD, "q\xcc\x87\xcc\xa3", "q\xcc\xa3\xcc\x87"}, /* sorted, not composed */
        {UNICODE_NFD, "\xed\x95\x9c", "\xe1\x84\x92\xe1\x85\xa1\xe1\x86\xab"},
        {UNICODE_NFD, "\xc2\xbd\xef\xac\x81", "\xc2\xbd\xef\xac\x81"}, /* one half, fi: not canonical */
        {UNICODE_NFKD, "\xc2\xbd\xef\xac\x81",
         "1\xe2\x81\x84"
         "2fi"},
        {UNICODE_NFKC, "\xef\xbc\xa1\xcc\x81", "\xc3\x81"}, /* fullwidth A and acute */
        {UNICODE_NFKC, "\xe1\xba\x9b", "\xe1\xb9\xa1"},     /* a letter whose part folds */
        {UNICODE_NFKD, "\xc2\xa0", " "},
        {UNICODE_NFC, "\xef\xac\x81", "\xef\xac\x81"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct text text = {0};
        unicode_form_append(&text, cases[i].form, cases[i].from, strlen(cases[i].from));
        assert_string_equal(text.bytes, cases[i].to);
        text_finish(&text);
    }
}

static void a_letter_with_a_million_marks_takes_no_quadratic_time(void **state)
{
    (void)state;
    size_t count = 1u << 20;
    OWNED_MEMORY char *bytes = memory_create(count * 2 + 2, 1);
    bytes[0] = 'a';
    for (size_t i = 0; i < count; i++) {
        memcpy(bytes + 1 + i * 2, i % 2 == 0 ? "\xcc\x81" : "\xcc\xa3", 2); /* above, below, above, ... */
    }
    struct text text = {0};
    unicode_form_append(&text, UNICODE_NFC, bytes, count * 2 + 1);
    assert_memory_equal(text.bytes, "\xe1\xba\xa1\xcc\xa3", 5); /* a with dot below, the next dot below */
    assert_memory_equal(text.bytes + text.length - 2, "\xcc\x81", 2);
    text_finish(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_texts_normalize_as_the_standard_says),
        cmocka_unit_test(the_other_forms_take_apart_and_fold),
        cmocka_unit_test(a_letter_with_a_million_marks_takes_no_quadratic_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
