/* base/json_internal.h: the scanner in front of jansson, and what the files over jansson share. */
#ifndef BASE_JSON_INTERNAL_H
#define BASE_JSON_INTERNAL_H

#include "base/error.h"
#include "base/json.h"
#include <stddef.h>

#define JSON_LIMIT_DEPTH      64
#define JSON_LIMIT_CONTAINERS 1000000 /* arrays and objects: 130 to 250 bytes each */
#define JSON_LIMIT_VALUES     4000000 /* everything, keys too: 40 to 100 bytes each */

/* Bounds and balance; see the head of json_scan.c. MALFORMED_JSON with line and column. */
bool json_scan(const char *bytes, size_t count, struct error *error) MUST_USE;
/* Fills DUPLICATE_KEY for the key whose closing quote ends at `position`. The text passed json_scan. */
void json_fail_duplicate(const char *bytes, size_t count, size_t position, struct error *error);

/* jansson's iterators take no const, though they change nothing. */
static inline json_t *json_iterable(const json_t *json)
{
    union {
        const json_t *given;
        json_t *taken;
    } pointer = {.given = json};
    return pointer.taken;
}

#endif
