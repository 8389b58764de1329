/*
 * workers/process/process_internal.h: the parts of pruned-worker. For this folder only.
 *
 *     main        the command line
 *     service     one attempt for the daemon: protocol on descriptor 3, heartbeats, a compute thread
 *     question    --describe, --inspect, --plan: JSON in, JSON out
 *     foreground  --run SPEC --out DIR: the same recipe with a person watching
 *     spec        what the API does to a request, for the foreground
 *     confine     the sandbox, open for the inputs of a job
 *     sandbox     what the process gives up
 *     protocol    frames
 */
#ifndef WORKERS_PROCESS_PROCESS_INTERNAL_H
#define WORKERS_PROCESS_PROCESS_INTERNAL_H

#include "base/error.h"
#include "base/json.h"
#include "workers/process/sandbox.h"
#include <stdbool.h>

/* Each returns the exit status of the process. */
int service_main(void);
int question_main(const char *mode);
int foreground_main(int argc, char **argv); /* argv[0] is the spec */

/* Checks a spec as the service does, against the catalogue, and fills in the defaults. Owned; NULL with
 * faults. */
json_t *spec_resolve(const json_t *spec, struct error_list *faults) MUST_USE;
/* Resolves the models and every source of the spec relative to the current folder: file: URIs and plain paths.
 * *ret_model owned; *ret_models and *ret_inputs owned, as struct recipe_job has them. False with faults. */
bool spec_find_files(const json_t *spec, char **ret_model, json_t **ret_models, json_t **ret_inputs,
                     struct error_list *faults) MUST_USE;

/* Confines the process to reading the models and the inputs of an order or a request (model, models,
 * inputs as protocol.h says), and to what else `paths` allows; its `readable` is filled in here. */
bool confine(const json_t *order, struct sandbox_paths paths, struct error *error) MUST_USE;

#endif
