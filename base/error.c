/*
 * base/error.c: filling the one error type. Field and message are excerpts with a fixed size; a cut never
 * falls inside a UTF-8 character, because both travel as JSON.
 */
#include "base/error.h"
#include "base/memory.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const error_slugs[] = {"none",
#define X(name, slug) slug,
                                          ERROR_CODES(X)
#undef X
};
#define ERROR_SLUG_COUNT (sizeof error_slugs / sizeof error_slugs[0])

const char *error_code_slug(enum error_code code)
{
    return (size_t)code < ERROR_SLUG_COUNT ? error_slugs[code] : "internal";
}

enum error_code error_code_parse(const char *slug)
{
    for (size_t i = 1; slug != NULL && i < ERROR_SLUG_COUNT; i++) {
        if (strcmp(slug, error_slugs[i]) == 0) {
            return (enum error_code)i;
        }
    }
    return ERROR_INTERNAL;
}

/* Drops the bytes of a character that vsnprintf cut in two at the end of a full buffer. */
static void error_trim_utf8(char *text)
{
    size_t length = strlen(text);
    size_t start = length;
    while (start > 0 && length - start < 3 && ((unsigned char)text[start - 1] & 0xC0u) == 0x80u) {
        start--;
    }
    if (start == 0) {
        return;
    }
    unsigned char lead = (unsigned char)text[start - 1];
    size_t need = lead >= 0xF0u ? 4 : lead >= 0xE0u ? 3 : lead >= 0xC0u ? 2 : 1;
    if (need > 1 && length - (start - 1) < need) {
        text[start - 1] = '\0';
    }
}

static void PRINTF(3, 0) error_format(char *buffer, size_t size, const char *format, va_list arguments)
{
    int written = vsnprintf(buffer, size, format, arguments);
    if (written < 0) {
        buffer[0] = '\0';
    } else if ((size_t)written >= size) {
        error_trim_utf8(buffer);
    }
}

static void error_copy_field(struct error *error, const char *field)
{
    int written = snprintf(error->field, sizeof error->field, "%s", field != NULL ? field : "");
    if (written >= (int)sizeof error->field) {
        error_trim_utf8(error->field);
    }
}

bool error_set(struct error *error, enum error_code code, const char *format, ...)
{
    if (error != NULL) {
        char message[sizeof error->message]; /* the arguments may point into *error itself */
        va_list arguments;
        va_start(arguments, format);
        error_format(message, sizeof message, format, arguments);
        va_end(arguments);
        error->code = code;
        error->field[0] = '\0';
        memcpy(error->message, message, sizeof message);
    }
    return false;
}

bool error_set_field(struct error *error, enum error_code code, const char *field, const char *format, ...)
{
    if (error != NULL) {
        struct error filled = {.code = code};
        va_list arguments;
        va_start(arguments, format);
        error_format(filled.message, sizeof filled.message, format, arguments);
        va_end(arguments);
        error_copy_field(&filled, field);
        *error = filled;
    }
    return false;
}

static enum error_code error_code_from_errno(int error_number)
{
    switch (error_number) {
    case ENOSPC:
    case EDQUOT:
        return ERROR_STORAGE_FULL;
    case ENOENT:
        return ERROR_NOT_FOUND;
    case ENOMEM:
        return ERROR_OUT_OF_MEMORY;
    default:
        return ERROR_IO;
    }
}

bool error_set_errno(struct error *error, int error_number, const char *format, ...)
{
    int saved = errno;
    if (error != NULL) {
        char context[sizeof error->message];
        va_list arguments;
        va_start(arguments, format);
        error_format(context, sizeof context, format, arguments);
        va_end(arguments);
        char buffer[128]; /* GNU strerror_r: may return a constant instead of filling it */
        const char *reason = strerror_r(error_number, buffer, sizeof buffer);
        (void)error_set(error, error_code_from_errno(error_number), "%s: %s", context, reason);
    }
    errno = saved;
    return false;
}

bool error_prefix(struct error *error, const char *format, ...)
{
    if (error != NULL) {
        char context[sizeof error->message], message[sizeof error->message];
        va_list arguments;
        va_start(arguments, format);
        error_format(context, sizeof context, format, arguments);
        va_end(arguments);
        int written = snprintf(message, sizeof message, "%s%s", context, error->message);
        if (written >= (int)sizeof message) {
            error_trim_utf8(message);
        }
        memcpy(error->message, message, sizeof message);
    }
    return false;
}

bool error_list_add_error(struct error_list *list, const struct error *error)
{
    if (list->stored < ERROR_LIST_LIMIT) {
        struct error copy = *error; /* `error` may lie in the array that is about to move */
        list->items = memory_resize(list->items, list->stored + 1, sizeof *list->items);
        list->items[list->stored++] = copy;
    }
    list->count++;
    return false;
}

bool error_list_add(struct error_list *list, enum error_code code, const char *field, const char *format, ...)
{
    struct error error = {.code = code};
    va_list arguments;
    va_start(arguments, format);
    error_format(error.message, sizeof error.message, format, arguments);
    va_end(arguments);
    error_copy_field(&error, field);
    return error_list_add_error(list, &error);
}

void error_list_sum_up(const struct error_list *list, struct error *ret_error)
{
    *ret_error = list->items[0];
    if (list->count > 1) {
        char more[40];
        int length = snprintf(more, sizeof more, " (and %zu more)", list->count - 1);
        size_t used = strlen(ret_error->message), room = sizeof ret_error->message - (size_t)length - 1;
        if (used > room) { /* an excerpt of the message, but the whole count */
            ret_error->message[room] = '\0';
            error_trim_utf8(ret_error->message);
            used = strlen(ret_error->message);
        }
        memcpy(ret_error->message + used, more, (size_t)length + 1);
    }
}

void error_list_finish(struct error_list *list)
{
    if (list != NULL) {
        free(list->items);
        *list = (struct error_list){0};
    }
}
