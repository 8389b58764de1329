/*
 * base/json.c: parsing within bounds, typed access with pointers in the errors, and our own printer:
 * jansson's prints 0.4 as 0.40000000000000002, and whether a file's bytes repeat must not depend on its
 * version.
 */
#include "base/json.h"
#include "base/check.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/json_internal.h"
#include "base/memory.h"
#include "base/text.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void json_start(void)
{
    json_object_seed(0); /* 0: from /dev/urandom */
}

json_t *json_parse(const char *bytes, size_t count, size_t limit_bytes, struct error *error)
{
    if (count > limit_bytes) {
        (void)error_set(error, ERROR_TOO_LARGE, "%zu bytes of JSON; at most %zu are accepted", count,
                        limit_bytes);
        return NULL;
    }
    if (!json_scan(bytes, count, error)) {
        return NULL;
    }
    json_error_t fault;
    json_t *json = json_loadb(bytes, count, JSON_REJECT_DUPLICATES, &fault);
    if (json == NULL) {
        if (json_error_code(&fault) == json_error_duplicate_key) {
            json_fail_duplicate(bytes, count, (size_t)fault.position, error);
        } else {
            (void)error_set(error, ERROR_MALFORMED_JSON, "%s at line %d, column %d", fault.text, fault.line,
                            fault.column);
        }
    }
    return json;
}

json_t *json_load(const char *path, size_t limit_bytes, struct error *error)
{
    size_t count = 0;
    OWNED_MEMORY char *bytes = file_load(path, limit_bytes, &count, error);
    json_t *json = bytes != NULL ? json_parse(bytes, count, limit_bytes, error) : NULL;
    if (json == NULL && error != NULL) {
        struct error cause = *error;
        (void)error_set_field(error, cause.code, path, "%s", cause.message);
        if (bytes != NULL) { /* file_load names the path itself */
            (void)error_prefix(error, "%s: ", path);
        }
    }
    return json;
}

/* Printing. */

static void json_append(struct text *text, const json_t *json, bool indented, int depth);

static void json_append_break(struct text *text, bool indented, int depth)
{
    if (indented) {
        text_append_format(text, "\n%*s", depth * 2, "");
    }
}

static void json_append_real(struct text *text, double value)
{
    if (!isfinite(value)) {
        text_append(text, "null");
        return;
    }
    char digits[32];
    for (int precision = 15; precision <= 17; precision++) {
        (void)snprintf(digits, sizeof digits, "%.*g", precision, value);
        if (strtod(digits, NULL) == value) {
            break;
        }
    }
    text_append(text, digits);
    if (strpbrk(digits, ".e") == NULL) {
        text_append(text, ".0"); /* a real stays a real when read back */
    }
}

static int json_compare_keys(const void *left, const void *right)
{
    return strcmp(*(const char *const *)left, *(const char *const *)right);
}

static void json_append_object(struct text *text, const json_t *object, bool indented, int depth)
{
    size_t count = json_object_size(object), filled = 0;
    if (count == 0) {
        text_append(text, "{}");
        return;
    }
    OWNED_MEMORY const char **keys = memory_create(count, sizeof *keys);
    json_t *open = json_iterable(object);
    for (void *at = json_object_iter(open); at != NULL; at = json_object_iter_next(open, at)) {
        keys[filled++] = json_object_iter_key(at);
    }
    qsort(keys, count, sizeof *keys, json_compare_keys);
    text_append(text, "{");
    for (size_t i = 0; i < count; i++) {
        if (i > 0) {
            text_append(text, ",");
        }
        json_append_break(text, indented, depth + 1);
        text_append_json(text, keys[i], strlen(keys[i]));
        text_append(text, indented ? ": " : ":");
        json_append(text, json_object_get(object, keys[i]), indented, depth + 1);
    }
    json_append_break(text, indented, depth);
    text_append(text, "}");
}

static void json_append_array(struct text *text, const json_t *array, bool indented, int depth)
{
    size_t count = json_array_size(array);
    if (count == 0) {
        text_append(text, "[]");
        return;
    }
    text_append(text, "[");
    for (size_t i = 0; i < count; i++) {
        if (i > 0) {
            text_append(text, ",");
        }
        json_append_break(text, indented, depth + 1);
        json_append(text, json_array_get(array, i), indented, depth + 1);
    }
    json_append_break(text, indented, depth);
    text_append(text, "]");
}

static void json_append(struct text *text, const json_t *json, bool indented, int depth)
{
    switch (json_typeof(json)) {
    case JSON_OBJECT:
        json_append_object(text, json, indented, depth);
        break;
    case JSON_ARRAY:
        json_append_array(text, json, indented, depth);
        break;
    case JSON_STRING:
        text_append_json(text, json_string_value(json), json_string_length(json));
        break;
    case JSON_INTEGER:
        text_append_format(text, "%" JSON_INTEGER_FORMAT, json_integer_value(json));
        break;
    case JSON_REAL:
        json_append_real(text, json_real_value(json));
        break;
    case JSON_TRUE:
        text_append(text, "true");
        break;
    case JSON_FALSE:
        text_append(text, "false");
        break;
    case JSON_NULL:
        text_append(text, "null");
        break;
    }
}

char *json_format(const json_t *json, bool indented)
{
    struct text text = {0};
    if (json == NULL) {
        text_append(&text, "null");
    } else {
        json_append(&text, json, indented, 0);
    }
    if (indented) {
        text_append(&text, "\n");
    }
    return text_take(&text);
}

/* Members by name. */

const char *json_type_name(const json_t *json)
{
    if (json == NULL) {
        return "nothing";
    }
    switch (json_typeof(json)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    case JSON_NULL:
        break;
    }
    return "null";
}

void json_pointer_append(struct text *pointer, const char *name)
{
    text_append(pointer, "/");
    for (; *name != '\0'; name++) {
        if (*name == '~' || *name == '/') {
            text_append(pointer, *name == '~' ? "~0" : "~1");
        } else {
            text_append_bytes(pointer, name, 1);
        }
    }
}

static void PRINTF(5, 6) json_fail_member(struct error *error, enum error_code code, const char *pointer,
                                          const char *name, const char *format, ...)
{
    struct text field = {0}, message = {0};
    text_append(&field, pointer);
    json_pointer_append(&field, name);
    va_list arguments;
    va_start(arguments, format);
    char buffer[256];
    (void)vsnprintf(buffer, sizeof buffer, format, arguments);
    va_end(arguments);
    text_append(&message, buffer);
    (void)error_set_field(error, code, field.bytes, "%s %s", field.bytes, message.bytes);
    text_finish(&field);
    text_finish(&message);
}

/* What a getter wants: the member, if it is there and of the type that `accepts` takes. */
enum json_found { JSON_FOUND, JSON_ABSENT, JSON_FAILED };

static enum json_found json_member(const json_t *object, const char *pointer, const char *name, bool required,
                                   const char *wanted, bool (*accepts)(const json_t *), json_t **ret_member,
                                   struct error *error)
{
    if (!json_is_object(object)) {
        (void)error_set_field(error, ERROR_WRONG_TYPE, pointer, "%s must be an object, is %s",
                              *pointer != '\0' ? pointer : "the root", json_type_name(object));
        return JSON_FAILED;
    }
    json_t *member = json_object_get(object, name);
    if (member == NULL) {
        if (required) {
            json_fail_member(error, ERROR_MISSING_FIELD, pointer, name, "is required (%s)", wanted);
            return JSON_FAILED;
        }
        return JSON_ABSENT;
    }
    if (!accepts(member)) {
        json_fail_member(error, ERROR_WRONG_TYPE, pointer, name, "must be %s, is %s", wanted,
                         json_type_name(member));
        return JSON_FAILED;
    }
    *ret_member = member;
    return JSON_FOUND;
}

static bool json_accepts_text(const json_t *json)
{
    return json_is_string(json);
}

static bool json_accepts_integer(const json_t *json)
{
    return json_is_integer(json);
}

static bool json_accepts_number(const json_t *json)
{
    return json_is_number(json);
}

static bool json_accepts_bool(const json_t *json)
{
    return json_is_boolean(json);
}

static bool json_accepts_object(const json_t *json)
{
    return json_is_object(json);
}

static bool json_accepts_array(const json_t *json)
{
    return json_is_array(json);
}

static bool json_read_text(const json_t *object, const char *pointer, const char *name, bool required,
                           const char **ret_text, struct error *error)
{
    json_t *member = NULL;
    enum json_found found =
        json_member(object, pointer, name, required, "a string", json_accepts_text, &member, error);
    if (found == JSON_FOUND) {
        *ret_text = json_string_value(member);
    }
    return found != JSON_FAILED;
}

static bool json_read_i64(const json_t *object, const char *pointer, const char *name, bool required,
                          int64_t min, int64_t max, int64_t *ret_value, struct error *error)
{
    json_t *member = NULL;
    enum json_found found =
        json_member(object, pointer, name, required, "an integer", json_accepts_integer, &member, error);
    if (found != JSON_FOUND) {
        return found != JSON_FAILED;
    }
    int64_t value = json_integer_value(member);
    if (value < min || value > max) {
        json_fail_member(error, ERROR_OUT_OF_RANGE, pointer, name, "must be from %lld to %lld, is %lld",
                         (long long)min, (long long)max, (long long)value);
        return false;
    }
    *ret_value = value;
    return true;
}

static bool json_read_double(const json_t *object, const char *pointer, const char *name, bool required,
                             double *ret_value, struct error *error)
{
    json_t *member = NULL;
    enum json_found found =
        json_member(object, pointer, name, required, "a number", json_accepts_number, &member, error);
    if (found == JSON_FOUND) {
        *ret_value = json_number_value(member);
    }
    return found != JSON_FAILED;
}

static bool json_read_bool(const json_t *object, const char *pointer, const char *name, bool required,
                           bool *ret_value, struct error *error)
{
    json_t *member = NULL;
    enum json_found found =
        json_member(object, pointer, name, required, "a boolean", json_accepts_bool, &member, error);
    if (found == JSON_FOUND) {
        *ret_value = json_is_true(member);
    }
    return found != JSON_FAILED;
}

bool json_get_text(const json_t *object, const char *pointer, const char *name, const char **ret_text,
                   struct error *error)
{
    return json_read_text(object, pointer, name, true, ret_text, error);
}

bool json_find_text(const json_t *object, const char *pointer, const char *name, const char **ret_text,
                    struct error *error)
{
    return json_read_text(object, pointer, name, false, ret_text, error);
}

bool json_get_i64(const json_t *object, const char *pointer, const char *name, int64_t min, int64_t max,
                  int64_t *ret_value, struct error *error)
{
    return json_read_i64(object, pointer, name, true, min, max, ret_value, error);
}

bool json_find_i64(const json_t *object, const char *pointer, const char *name, int64_t min, int64_t max,
                   int64_t *ret_value, struct error *error)
{
    return json_read_i64(object, pointer, name, false, min, max, ret_value, error);
}

bool json_get_double(const json_t *object, const char *pointer, const char *name, double *ret_value,
                     struct error *error)
{
    return json_read_double(object, pointer, name, true, ret_value, error);
}

bool json_find_double(const json_t *object, const char *pointer, const char *name, double *ret_value,
                      struct error *error)
{
    return json_read_double(object, pointer, name, false, ret_value, error);
}

bool json_get_bool(const json_t *object, const char *pointer, const char *name, bool *ret_value,
                   struct error *error)
{
    return json_read_bool(object, pointer, name, true, ret_value, error);
}

bool json_find_bool(const json_t *object, const char *pointer, const char *name, bool *ret_value,
                    struct error *error)
{
    return json_read_bool(object, pointer, name, false, ret_value, error);
}

bool json_get_object(const json_t *object, const char *pointer, const char *name, json_t **ret_object,
                     struct error *error)
{
    return json_member(object, pointer, name, true, "an object", json_accepts_object, ret_object, error) ==
           JSON_FOUND;
}

bool json_get_array(const json_t *object, const char *pointer, const char *name, json_t **ret_array,
                    struct error *error)
{
    return json_member(object, pointer, name, true, "an array", json_accepts_array, ret_array, error) ==
           JSON_FOUND;
}

/* Building. */

void json_put(json_t *object, const char *name, json_t *value)
{
    if (value == NULL) {
        return;
    }
    struct text clean = {0};
    if (!text_is_utf8(name, strlen(name))) {
        text_append_utf8(&clean, name, strlen(name));
        name = clean.bytes;
    }
    CHECK(json_object_set_new(object, name, value) == 0);
    text_finish(&clean);
}

void json_put_text(json_t *object, const char *name, const char *text)
{
    if (text == NULL) {
        json_put(object, name, json_null());
        return;
    }
    struct text clean = {0};
    text_append_utf8(&clean, text, strlen(text));
    json_t *value = json_stringn(clean.bytes != NULL ? clean.bytes : "", clean.length);
    CHECK(value != NULL);
    json_put(object, name, value);
    text_finish(&clean);
}

void json_put_double(json_t *object, const char *name, double value)
{
    json_t *number = isfinite(value) ? json_real(value) : json_null();
    CHECK(number != NULL);
    json_put(object, name, number);
}

void json_put_i64(json_t *object, const char *name, int64_t value)
{
    json_t *number = json_integer(value);
    CHECK(number != NULL);
    json_put(object, name, number);
}

json_t *json_from_error(const struct error *error)
{
    json_t *object = json_object();
    CHECK(object != NULL);
    json_put_text(object, "code", error_code_slug(error->code));
    json_put_text(object, "field", error->field);
    json_put_text(object, "message", error->message);
    return object;
}

void json_to_error(const json_t *object, struct error *ret_error)
{
    const char *code = json_string_value(json_object_get(object, "code"));
    const char *field = json_string_value(json_object_get(object, "field"));
    const char *message = json_string_value(json_object_get(object, "message"));
    (void)error_set_field(ret_error, error_code_parse(code), field, "%s", message != NULL ? message : "");
}

void json_visit_texts(const json_t *value, const char *pointer, const char *name,
                      void (*visit)(void *context, const char *text, const char *pointer), void *context)
{
    char below[512];
    if (json_is_object(value)) {
        const char *key;
        json_t *member;
        json_object_foreach((json_t *)(uintptr_t)value, key, member)
        {
            (void)snprintf(below, sizeof below, "%s/%s", pointer, key);
            if (strcmp(key, name) == 0 && json_is_string(member)) {
                visit(context, json_string_value(member), below);
            } else if (strcmp(key, "metadata") != 0 && *key != '_') {
                json_visit_texts(member, below, name, visit, context);
            }
        }
    } else if (json_is_array(value)) {
        for (size_t i = 0; i < json_array_size(value); i++) {
            (void)snprintf(below, sizeof below, "%s/%zu", pointer, i);
            json_visit_texts(json_array_get(value, i), below, name, visit, context);
        }
    }
}
