/* workers/recipe/spec.h: the body of a job, checked and resolved. */
#ifndef WORKERS_RECIPE_SPEC_H
#define WORKERS_RECIPE_SPEC_H

#include "base/error.h"
#include "base/json.h"

/* Owned copy of the spec without members that start with "_", validated against the catalogue, defaults filled in, "type" kept.
 * NULL with every fault in `faults`. *ret_type is borrowed from the result. */
json_t *recipe_resolve_spec(const json_t *spec, const char **ret_type, struct error_list *faults) MUST_USE;

#endif
