/*
 * base/json_scan.c: what is checked before jansson sees a byte. jansson recurses per level and spends up to
 * 250 bytes on a value written as two, so depth and number of values are bounded here, in one pass without
 * memory. The pass understands strings, brackets and where values begin; whether the text is JSON in full is
 * jansson's to say. The second entry finds the duplicate key that jansson complained about, with its pointer:
 * jansson names only a position.
 */
#include "base/json_internal.h"
#include "base/text.h"

#include <string.h>

struct json_place {
    size_t line, column; /* from 1; columns count bytes */
};

static struct json_place json_place_of(const char *bytes, size_t offset)
{
    struct json_place place = {.line = 1, .column = 1};
    for (size_t i = 0; i < offset; i++) {
        if (bytes[i] == '\n') {
            place.line++;
            place.column = 1;
        } else {
            place.column++;
        }
    }
    return place;
}

static bool json_fail_at(const char *bytes, size_t offset, const char *what, struct error *error)
{
    struct json_place place = json_place_of(bytes, offset);
    return error_set(error, ERROR_MALFORMED_JSON, "%s at line %zu, column %zu", what, place.line,
                     place.column);
}

/* Offset after the closing quote of the string that opens at `start`; 0 if it never closes. */
static size_t json_string_end(const char *bytes, size_t count, size_t start)
{
    for (size_t i = start + 1; i < count; i++) {
        if (bytes[i] == '\\') {
            i++;
        } else if (bytes[i] == '"') {
            return i + 1;
        }
    }
    return 0;
}

static bool json_is_space(char byte)
{
    return byte == ' ' || byte == '\t' || byte == '\n' || byte == '\r';
}

/* Offset after the number or word that begins at `start`. */
static size_t json_scalar_end(const char *bytes, size_t count, size_t start)
{
    size_t i = start + 1;
    while (i < count && !json_is_space(bytes[i]) && strchr("[]{},:\"", bytes[i]) == NULL) {
        i++;
    }
    return i;
}

static bool json_scan_bracket(const char *bytes, size_t offset, char *open, size_t *depth,
                              struct error *error)
{
    char byte = bytes[offset];
    if (byte == '{' || byte == '[') {
        if (*depth == JSON_LIMIT_DEPTH) {
            struct json_place place = json_place_of(bytes, offset);
            return error_set(error, ERROR_MALFORMED_JSON,
                             "nested deeper than %d levels at line %zu, column %zu", JSON_LIMIT_DEPTH,
                             place.line, place.column);
        }
        open[(*depth)++] = byte;
        return true;
    }
    if (*depth == 0 || open[*depth - 1] != (byte == '}' ? '{' : '[')) {
        return json_fail_at(bytes, offset, "a bracket closes what was not opened", error);
    }
    (*depth)--;
    return true;
}

static bool json_scan_root(const char *bytes, size_t count, struct error *error)
{
    size_t first = 0;
    while (first < count && json_is_space(bytes[first])) {
        first++;
    }
    if (first == count) {
        return error_set(error, ERROR_MALFORMED_JSON, "empty text; a JSON object or array is expected");
    }
    if (bytes[first] != '{' && bytes[first] != '[') {
        return json_fail_at(bytes, first, "the text must be a JSON object or array; unexpected character",
                            error);
    }
    return true;
}

bool json_scan(const char *bytes, size_t count, struct error *error)
{
    char open[JSON_LIMIT_DEPTH];
    size_t depth = 0, containers = 0, values = 0;
    if (!json_scan_root(bytes, count, error)) {
        return false;
    }
    for (size_t i = 0; i < count;) {
        char byte = bytes[i];
        if (byte == '\0') {
            return json_fail_at(bytes, i, "a NUL byte", error);
        }
        if (json_is_space(byte) || byte == ',' || byte == ':') {
            i++;
            continue;
        }
        if (byte == '}' || byte == ']' || byte == '{' || byte == '[') {
            if (!json_scan_bracket(bytes, i, open, &depth, error)) {
                return false;
            }
            containers += byte == '{' || byte == '[';
            values += byte == '{' || byte == '[';
            i++;
        } else if (byte == '"') {
            size_t end = json_string_end(bytes, count, i);
            if (end == 0) {
                return json_fail_at(bytes, i, "a string that never ends begins", error);
            }
            i = end;
            values++;
        } else {
            i = json_scalar_end(bytes, count, i);
            values++;
        }
        if (containers > JSON_LIMIT_CONTAINERS || values > JSON_LIMIT_VALUES) {
            return error_set(error, ERROR_MALFORMED_JSON,
                             "more than %d arrays and objects or %d values in one JSON text",
                             JSON_LIMIT_CONTAINERS, JSON_LIMIT_VALUES);
        }
    }
    if (depth > 0) {
        return json_fail_at(bytes, count, "the text ends inside an object or array", error);
    }
    return true;
}

/* One open object or array on the way to a position. */
struct json_level {
    bool is_object, expects_key;
    size_t key_start, key_length; /* of the member being read, without quotes, still escaped */
    size_t index;                 /* of the array item being read */
};

static void json_append_pointer(struct text *pointer, const char *bytes, const struct json_level *levels,
                                size_t depth)
{
    for (size_t i = 0; i < depth; i++) {
        text_append(pointer, "/");
        if (!levels[i].is_object) {
            text_append_format(pointer, "%zu", levels[i].index);
            continue;
        }
        for (size_t j = 0; j < levels[i].key_length; j++) {
            char byte = bytes[levels[i].key_start + j];
            if (byte == '~' || byte == '/') {
                text_append(pointer, byte == '~' ? "~0" : "~1");
            } else {
                text_append_bytes(pointer, &byte, 1);
            }
        }
    }
}

void json_fail_duplicate(const char *bytes, size_t count, size_t position, struct error *error)
{
    struct json_level levels[JSON_LIMIT_DEPTH] = {0};
    size_t depth = 0;
    for (size_t i = 0; i < count;) {
        struct json_level *level = depth > 0 ? &levels[depth - 1] : NULL;
        size_t next = i + 1;
        if ((bytes[i] == '{' || bytes[i] == '[') && depth < JSON_LIMIT_DEPTH) {
            levels[depth++] =
                (struct json_level){.is_object = bytes[i] == '{', .expects_key = bytes[i] == '{'};
        } else if ((bytes[i] == '}' || bytes[i] == ']') && depth > 0) {
            depth--;
        } else if (bytes[i] == ',' && level != NULL) {
            level->index++;
            level->expects_key = level->is_object;
        } else if (bytes[i] == '"') {
            next = json_string_end(bytes, count, i);
            if (next == 0) {
                break;
            }
            if (level != NULL && level->expects_key) {
                level->key_start = i + 1;
                level->key_length = next - i - 2;
                level->expects_key = false;
            }
            if (next == position) {
                struct text pointer = {0};
                struct json_place place = json_place_of(bytes, i);
                json_append_pointer(&pointer, bytes, levels, depth);
                int shown = (int)(next - i < 80 ? next - i : 80);
                (void)error_set_field(error, ERROR_DUPLICATE_KEY, pointer.bytes,
                                      "duplicate key %.*s at line %zu, column %zu", shown, bytes + i,
                                      place.line, place.column);
                text_finish(&pointer);
                return;
            }
        }
        i = next;
    }
    (void)error_set(error, ERROR_DUPLICATE_KEY, "an object names a member twice, before byte %zu", position);
}
