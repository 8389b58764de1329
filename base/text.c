/* base/text.c: a growing byte string, and the few questions about strings that several floors ask. */
#include "base/text.h"
#include "base/check.h"
#include "base/memory.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Makes room for `count` more bytes and the NUL. */
static void text_reserve(struct text *text, size_t count)
{
    size_t need = 0;
    CHECK(!__builtin_add_overflow(text->length, count, &need) && need < SIZE_MAX / 2);
    need++;
    if (need > text->capacity) {
        size_t capacity = text->capacity > 0 ? text->capacity : 64;
        while (capacity < need) {
            capacity *= 2;
        }
        text->bytes = memory_resize(text->bytes, capacity, 1);
        text->capacity = capacity;
    }
}

void text_append_bytes(struct text *text, const void *bytes, size_t count)
{
    text_reserve(text, count);
    if (count > 0) {
        memcpy(text->bytes + text->length, bytes, count);
    }
    text->length += count;
    text->bytes[text->length] = '\0';
}

void text_append(struct text *text, const char *string)
{
    text_append_bytes(text, string, strlen(string));
}

void text_append_format(struct text *text, const char *format, ...)
{
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    CHECK(length >= 0);
    text_reserve(text, (size_t)length);
    (void)vsnprintf(text->bytes + text->length, (size_t)length + 1, format, again);
    va_end(again);
    text->length += (size_t)length;
}

void text_append_html(struct text *text, const char *string)
{
    for (const char *at = string; *at != '\0';) {
        size_t plain = strcspn(at, "&<>\"'");
        text_append_bytes(text, at, plain);
        at += plain;
        switch (*at) {
        case '&':
            text_append(text, "&amp;");
            break;
        case '<':
            text_append(text, "&lt;");
            break;
        case '>':
            text_append(text, "&gt;");
            break;
        case '"':
            text_append(text, "&quot;");
            break;
        case '\'':
            text_append(text, "&#39;");
            break;
        default:
            return; /* the end */
        }
        at++;
    }
}

/* Bytes of the well-formed character at the start of bytes[0..count), 0 if there is none (Unicode 15, table
 * 3-7). */
static size_t text_utf8_length(const unsigned char *bytes, size_t count)
{
    unsigned char lead = bytes[0];
    if (lead < 0x80) {
        return 1;
    }
    if (lead < 0xC2 || lead > 0xF4) {
        return 0;
    }
    size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
    if (count < length) {
        return 0;
    }
    /* The second byte's range is narrower where overlong forms, surrogates or > U+10FFFF would begin. */
    unsigned char least = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    unsigned char most = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (bytes[1] < least || bytes[1] > most) {
        return 0;
    }
    for (size_t i = 2; i < length; i++) {
        if ((bytes[i] & 0xC0u) != 0x80u) {
            return 0;
        }
    }
    return length;
}

bool text_is_utf8(const void *bytes, size_t count)
{
    const unsigned char *at = bytes;
    while (count > 0) {
        size_t length = text_utf8_length(at, count);
        if (length == 0) {
            return false;
        }
        at += length;
        count -= length;
    }
    return true;
}

void text_append_utf8(struct text *text, const void *bytes, size_t count)
{
    const unsigned char *at = bytes;
    while (count > 0) {
        size_t run = 0, length = 0;
        while (run < count && (length = text_utf8_length(at + run, count - run)) > 0) {
            run += length;
        }
        text_append_bytes(text, at, run);
        at += run;
        count -= run;
        if (count > 0) {
            text_append(text, "\xEF\xBF\xBD");
            at++;
            count--;
        }
    }
}

void text_append_json(struct text *text, const char *bytes, size_t count)
{
    struct text clean = {0};
    if (!text_is_utf8(bytes, count)) {
        text_append_utf8(&clean, bytes, count);
        bytes = clean.bytes;
        count = clean.length;
    }
    text_append_bytes(text, "\"", 1);
    size_t run = 0; /* start of what needs no escape */
    for (size_t i = 0; i < count; i++) {
        unsigned char byte = (unsigned char)bytes[i];
        if (byte >= 0x20 && byte != '"' && byte != '\\') {
            continue;
        }
        text_append_bytes(text, bytes + run, i - run);
        run = i + 1;
        switch (byte) {
        case '"':
            text_append(text, "\\\"");
            break;
        case '\\':
            text_append(text, "\\\\");
            break;
        case '\n':
            text_append(text, "\\n");
            break;
        case '\r':
            text_append(text, "\\r");
            break;
        case '\t':
            text_append(text, "\\t");
            break;
        default:
            text_append_format(text, "\\u%04x", byte);
            break;
        }
    }
    text_append_bytes(text, bytes + run, count - run);
    text_append_bytes(text, "\"", 1);
    text_finish(&clean);
}

void text_clear(struct text *text)
{
    text->length = 0;
    if (text->bytes != NULL) {
        text->bytes[0] = '\0';
    }
}

char *text_take(struct text *text)
{
    text_reserve(text, 0);
    text->bytes[text->length] = '\0';
    char *bytes = text->bytes;
    *text = (struct text){0};
    return bytes;
}

void text_finish(struct text *text)
{
    if (text != NULL) {
        free(text->bytes);
        *text = (struct text){0};
    }
}

bool text_parse_u64(const char *string, size_t length, uint64_t *ret_value)
{
    if (length == 0) {
        return false;
    }
    uint64_t value = 0;
    for (size_t i = 0; i < length; i++) {
        if (string[i] < '0' || string[i] > '9' || __builtin_mul_overflow(value, (uint64_t)10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(string[i] - '0'), &value)) {
            return false;
        }
    }
    *ret_value = value;
    return true;
}

bool text_starts_with(const char *string, const char *prefix)
{
    return strncmp(string, prefix, strlen(prefix)) == 0;
}

bool text_ends_with(const char *string, const char *suffix)
{
    size_t length = strlen(string), tail = strlen(suffix);
    return tail <= length && memcmp(string + length - tail, suffix, tail) == 0;
}
