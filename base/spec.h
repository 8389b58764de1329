/*
 * base/spec.h: what the API, storage and the worker must know alike about the body of a job.
 *
 * A body names models in members of its own: "model", what the job is about, and in some job types others beside it,
 * absent or null where there is none.
 */
#ifndef BASE_SPEC_H
#define BASE_SPEC_H

#include "base/json.h"

#define SPEC_MODEL_COUNT 3
extern const char *const spec_models[SPEC_MODEL_COUNT]; /* names of members; "model" first */

/* The name that a body gives its model `index`; borrowed, NULL if it has none there. */
const char *spec_model(const json_t *spec, size_t index);

#endif
