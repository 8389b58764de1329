/*
 * base/text.h: a growing byte string. `bytes` is always NUL-terminated once anything was appended; it may
 * hold NULs inside. Zero-initialise, text_finish frees. Aborts at the end of memory (small host data).
 */
#ifndef BASE_TEXT_H
#define BASE_TEXT_H

#include "base/error.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct text {
    char *bytes;
    size_t length, capacity;
};
void text_append(struct text *text, const char *string);
void text_append_bytes(struct text *text, const void *bytes, size_t count);
void text_append_format(struct text *text, const char *format, ...) PRINTF(2, 3);
/* & < > " ' become entities; for HTML and SVG. */
void text_append_html(struct text *text, const char *string);
/* Bytes that are no UTF-8 become U+FFFD, one each. */
void text_append_utf8(struct text *text, const void *bytes, size_t count);
/* A JSON string with its quotes; bytes that are no UTF-8 become U+FFFD. */
void text_append_json(struct text *text, const char *bytes, size_t count);
void text_clear(struct text *text); /* keeps the capacity */
char *text_take(struct text *text); /* owned by the caller; never NULL ("" if empty) */
void text_finish(struct text *text);

bool text_is_utf8(const void *bytes, size_t count); /* strict: no surrogates, no overlong forms */
/* Decimal digits only, no sign, no space; false on overflow or anything else. */
bool text_parse_u64(const char *string, size_t length, uint64_t *ret_value);
bool text_starts_with(const char *string, const char *prefix);
bool text_ends_with(const char *string, const char *suffix);

#endif
