/* base/param_internal.h: what the files behind base/param.h share. */
#ifndef BASE_PARAM_INTERNAL_H
#define BASE_PARAM_INTERNAL_H

#include "base/param.h"

#define PARAM_INTEGER_LIMIT 9007199254740991.0 /* 2^53 - 1: what every JSON reader keeps exact */
#define PARAM_MAP_KEY_BYTES 64

/* Absent, or null where null counts as absent. */
bool param_is_absent(const struct param_spec *spec, const json_t *value);
bool param_is_bounded(const struct param_spec *spec); /* min and max mean something */
const struct param_spec *param_find_member(const struct param_spec *spec, const char *name);
/* What the spec stands for when its value is absent; owned, NULL if it stays absent. */
json_t *param_default(const struct param_spec *spec) MUST_USE;
/* "integer", "text", ...; as in the JSON form of a spec. */
const char *param_type_name(enum param_type type);

#endif
