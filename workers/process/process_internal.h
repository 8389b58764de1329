/*
 * workers/process/process_internal.h: the parts of pruned-worker. For this folder only.
 *
 *     main        the command line
 *     service     one attempt for the daemon: protocol on descriptor 3, heartbeats, a compute thread
 *     question    --describe, --inspect, --plan: JSON in, JSON out
 *     foreground  --run SPEC --out DIR: the same recipe with a person watching
 *     sandbox     what the process gives up
 *     protocol    frames
 */
#ifndef WORKERS_PROCESS_PROCESS_INTERNAL_H
#define WORKERS_PROCESS_PROCESS_INTERNAL_H

#include "base/error.h"
#include "base/json.h"
#include <stdbool.h>

/* Each returns the exit status of the process. */
int service_main(void);
int question_main(const char *mode);
int foreground_main(int argc, char **argv); /* argv[0] is the spec */

/* Checks a spec as the service does, against the catalogue, and fills in the defaults. Owned; NULL with
 * faults. */
json_t *spec_resolve(const json_t *spec, struct error_list *faults) MUST_USE;
/* Resolves the model and every source of the spec relative to the current folder: file: URIs and plain paths.
 * *ret_inputs owned {"<uri>": "<absolute path>"}, *ret_model owned. False with faults. */
bool spec_find_files(const json_t *spec, char **ret_model, json_t **ret_inputs,
                     struct error_list *faults) MUST_USE;

#endif
