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
        nfc_append(&text, cases[i].from, strlen(cases[i].from));
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
    nfc_append(&text, bytes, count * 2 + 1);
    assert_memory_equal(text.bytes, "\xe1\xba\xa1\xcc\xa3", 5); /* a with dot below, the next dot below */
    assert_memory_equal(text.bytes + text.length - 2, "\xcc\x81", 2);
    text_finish(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_texts_normalize_as_the_standard_says),
        cmocka_unit_test(a_letter_with_a_million_marks_takes_no_quadratic_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
