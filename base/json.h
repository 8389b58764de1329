/*
 * base/json.h: jansson behind bounds. Parsing refuses duplicate keys, NUL in strings, non-object/array roots,
 * more than the given bytes and more than 64 levels (checked before jansson sees the text, as are 1e6 arrays
 * and objects and 4e6 values: 16 MB of "[]," would cost 743 MB). Getters turn a wrong type into WRONG_TYPE
 * with its pointer.
 *
 * This header is the one place that includes jansson.h; all use json_t through it. json_t * in a signature:
 * borrowed unless the comment says owned (json_decref, or JSON_OWNED for a local).
 */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include "base/error.h"
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct text;

#define JSON_LIMIT_BYTES (1u << 20) /* of a request body */

/* Documents are shared between threads by reference. jansson counts atomically, but looks at the count before
 * without, and drops a reference with release order only, which does not order one thread's last read before
 * another's free. These do both; by the defines the whole tree uses them under jansson's names. */
static inline json_t *json_acquire(json_t *json)
{
    if (json != NULL && __atomic_load_n(&json->refcount, __ATOMIC_RELAXED) != (size_t)-1) {
        (void)__atomic_add_fetch(&json->refcount, 1, __ATOMIC_RELAXED);
    }
    return json;
}
static inline void json_release(json_t *json)
{
    if (json != NULL && __atomic_load_n(&json->refcount, __ATOMIC_RELAXED) != (size_t)-1 &&
        __atomic_sub_fetch(&json->refcount, 1, __ATOMIC_ACQ_REL) == 0) {
        json_delete(json);
    }
}
#define json_incref json_acquire
#define json_decref json_release

#define JSON_OWNED __attribute__((cleanup(json_owned_cleanup))) json_t *
static inline void json_owned_cleanup(json_t **json)
{
    json_decref(*json);
}

/* Call once, before any thread: seeds the hash tables from entropy. */
void json_start(void);
/* Owned; NULL with MALFORMED_JSON (message has line and column), DUPLICATE_KEY or TOO_LARGE. */
json_t *json_parse(const char *bytes, size_t count, size_t limit_bytes, struct error *error) MUST_USE;
json_t *json_load(const char *path, size_t limit_bytes, struct error *error) MUST_USE; /* field: the path */
/* Owned text (free); sorted keys, compact or indented by 2, numbers in the shortest form that reads back
 * (a real keeps its ".0" or exponent); indented text ends in a newline. NaN prints as null. Never fails. */
char *json_format(const json_t *json, bool indented) MUST_USE;

/* Members of an object by name. `pointer` is the object's own JSON pointer ("" at the root) for the error.
 * Absent: _get_ variants fail with MISSING_FIELD; _find_ variants return true and leave ret untouched. */
bool json_get_text(const json_t *object, const char *pointer, const char *name, const char **ret_text,
                   struct error *error) MUST_USE; /* borrowed from the object */
bool json_get_i64(const json_t *object, const char *pointer, const char *name, int64_t min, int64_t max,
                  int64_t *ret_value, struct error *error) MUST_USE;
bool json_get_double(const json_t *object, const char *pointer, const char *name, double *ret_value,
                     struct error *error) MUST_USE; /* an integer is a number too */
bool json_get_bool(const json_t *object, const char *pointer, const char *name, bool *ret_value,
                   struct error *error) MUST_USE;
bool json_get_object(const json_t *object, const char *pointer, const char *name, json_t **ret_object,
                     struct error *error) MUST_USE;
bool json_get_array(const json_t *object, const char *pointer, const char *name, json_t **ret_array,
                    struct error *error) MUST_USE;
bool json_find_text(const json_t *object, const char *pointer, const char *name, const char **ret_text,
                    struct error *error) MUST_USE;
bool json_find_i64(const json_t *object, const char *pointer, const char *name, int64_t min, int64_t max,
                   int64_t *ret_value, struct error *error) MUST_USE;
bool json_find_double(const json_t *object, const char *pointer, const char *name, double *ret_value,
                      struct error *error) MUST_USE;
bool json_find_bool(const json_t *object, const char *pointer, const char *name, bool *ret_value,
                    struct error *error) MUST_USE;
/* "an object", "a string", ... for messages; NULL: "nothing". */
const char *json_type_name(const json_t *json);
/* Appends "/" and the name, with ~ and / escaped (RFC 6901). */
void json_pointer_append(struct text *pointer, const char *name);
/* Calls visit for every text member called `name` at any depth of `value`, with its JSON pointer below `pointer`, in key
 * order of insertion. What stands under "metadata" or a key that starts with "_" is the caller's own and is passed over. */
void json_visit_texts(const json_t *value, const char *pointer, const char *name,
                      void (*visit)(void *context, const char *text, const char *pointer), void *context);
/* Sets a member, taking the value; aborts when memory ends. NULL value: does nothing. Bytes of names and
 * texts that are no UTF-8 (a file's name, say) become U+FFFD. */
void json_put(json_t *object, const char *name, json_t *value);
void json_put_text(json_t *object, const char *name, const char *text); /* NULL text: JSON null */
/* A double; NaN and infinity become null (JSON has neither). */
void json_put_double(json_t *object, const char *name, double value);
void json_put_i64(json_t *object, const char *name, int64_t value);
/* {"code","field","message"} both ways. */
json_t *json_from_error(const struct error *error) MUST_USE; /* owned */
void json_to_error(const json_t *object, struct error *ret_error);

#endif
