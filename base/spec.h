/*
 * base/spec.h: what the API, storage and the worker must know alike about the body of a job.
 *
 * A body names models in members of its own: "model", what the job is about, and in some job types others beside it,
 * absent or null where there is none. A model or a `source` (a text, a plan) may be the result of an earlier job: "job:<id>" and
 * "job:<id>/<path>".
 */
#ifndef BASE_SPEC_H
#define BASE_SPEC_H

#include "base/json.h"

#define SPEC_TYPE_COUNT 3
extern const char *const spec_types[SPEC_TYPE_COUNT]; /* of jobs; a body without "type" is of the first */

#define SPEC_MODEL_COUNT 3
extern const char *const spec_models[SPEC_MODEL_COUNT]; /* names of members; "model" first */

/* The name that a body gives its model `index`; borrowed, NULL if it has none there. */
const char *spec_model(const json_t *spec, size_t index);

/* Calls visit with the id of each job whose result a body names, models before sources; an id may come more than once. */
void spec_visit_jobs(const json_t *spec, void (*visit)(void *context, const char *job_id), void *context);

#endif
