/*
 * base/param.h: what may be asked for, as data. One tree of specs describes a request body: it validates
 * (all faults at once, each with its JSON pointer), fills in defaults, prints itself as JSON Schema 2020-12
 * and travels as JSON from the worker (which knows the methods) to the daemon (which answers requests).
 *
 * The engine declares static tables; the daemon reads the same tree back with param_parse.
 */
#ifndef BASE_PARAM_H
#define BASE_PARAM_H

#include "base/cleanup.h"
#include "base/error.h"
#include "base/json.h"
#include <stdbool.h>
#include <stddef.h>

enum param_type {
    PARAM_BOOL,
    PARAM_INTEGER, /* min, max inclusive; |value| < 2^53 */
    PARAM_NUMBER,  /* finite; min, max; inclusive unless the flags say otherwise */
    PARAM_TEXT,   /* min, max = length in bytes; UTF-8 without control characters (tab and newline allowed) */
    PARAM_ENUM,   /* one of `values` */
    PARAM_OBJECT, /* `members` */
    PARAM_UNION, /* {"type": "<member name>", "<member name>": {...}}: the named member may be absent (all its
                    defaults), a member other than the named one is UNKNOWN_FIELD */
    PARAM_ARRAY, /* min, max = item count; one member spec describes each item */
    PARAM_MAP,   /* any keys (1..64 bytes), text values (max bytes); max = number of pairs is min's partner:
                    `max` pairs, each value at most `item_max` bytes; or one member spec describes each value */
    PARAM_ANY,   /* taken as it is */
};
enum param_flag {
    PARAM_REQUIRED = 1u << 0,
    PARAM_EXACTLY_ONE = 1u << 1, /* OBJECT: exactly one of the members that are not PARAM_BESIDE */
    PARAM_OPEN_MIN = 1u << 2,    /* NUMBER: value > min */
    PARAM_OPEN_MAX = 1u << 3,    /* NUMBER: value < max */
    PARAM_NULLABLE = 1u << 4,    /* null counts as absent */
    PARAM_BESIDE = 1u << 5,      /* of an EXACTLY_ONE object: does not count (target.require_packable) */
    PARAM_EITHER = 1u << 6,      /* of an OBJECT: at least one of the members so marked is required */
};

struct param_spec {
    const char *name; /* snake_case; NULL for array items */
    enum param_type type;
    unsigned flags;
    double min, max;           /* both 0: unbounded */
    double item_max;           /* PARAM_MAP only */
    const char *default_json;  /* JSON text ("0.4", "\"js\""); NULL: no default, stays absent */
    const char *const *values; /* PARAM_ENUM: NULL-terminated */
    const struct param_spec *members;
    size_t member_count;
    const char *unit; /* "tokens", "bytes"; NULL if none */
    const char *help; /* one sentence */
};

/* Checks `value` against the spec. Adds every fault to `faults` under `pointer` ("" at the root). An unknown
 * member or enum value is answered with the nearest known one ("did you mean"). Returns whether none was
 * added. */
bool param_validate(const struct param_spec *spec, const json_t *value, const char *pointer,
                    struct error_list *faults);
/* Owned deep copy of a validated value with all defaults filled in (absent objects too, where every required
 * member has a default). Keys sorted by name on output as everywhere. */
json_t *param_resolve(const struct param_spec *spec, const json_t *value) MUST_USE;
/* Owned JSON Schema 2020-12 of the spec. */
json_t *param_schema(const struct param_spec *spec) MUST_USE;

/* The spec itself as JSON and back. The parsed tree is owned by the arena-like holder. */
json_t *param_format(const struct param_spec *spec) MUST_USE; /* owned */
struct param_tree {
    struct arena *arena;
    const struct param_spec *root;
};
bool param_parse(const json_t *json, struct param_tree *ret_tree, struct error *error) MUST_USE;
void param_tree_finish(struct param_tree *tree);

#endif
