/*
 * api/sources.h: from the names in a request to absolute paths.
 *
 * A spec names its model and its texts by URI (docs/catalogue.md): a registered model, `file:///path` inside
 * a configured root, an uploaded blob `sha256:<hex>`, an earlier result `job:job_...` (as a model only). The
 * API resolves before it plans, the daemon again at each attempt, with the same code. Every fault is reported
 * at once with its pointer. Looks at the projection and at directory entries only: no hashing, no database,
 * no waiting; any thread.
 */
#ifndef API_SOURCES_H
#define API_SOURCES_H

#include "base/cleanup.h"
#include "base/error.h"
#include "base/json.h"
#include "storage/storage.h"

struct sources {
    char *
        model_folder; /* owned, absolute: a folder or a .gguf file; NULL for a result that is not yet laid out as a
                           folder (see model_job) */
    char *model_job; /* owned job id, or NULL. storage_assemble_model(storage, model_job, model_files) makes
                        the folder */
    json_t *model_files; /* owned with model_job: the result's files [{path, bytes, sha256}] */
    json_t *inventory;   /* owned; NULL: not registered, a worker inspects the folder */
    json_t *inputs;      /* owned {"<uri>": "<absolute path>"} of every `source` in the spec */
};

/* roots: NULL-terminated, absolute, links resolved. FORBIDDEN outside of them, NOT_FOUND, UNSUPPORTED
 * (another scheme). */
bool sources_resolve(struct storage *storage, const char *tenant_id, const char *const *roots,
                     const json_t *spec, struct sources *ret_sources, struct error_list *faults) MUST_USE;
void sources_finish(struct sources *sources);

/* The path of a file:/// URI or of a plain absolute path, resolved and inside a root; owned. NULL: *error
 * says why. */
char *sources_resolve_path(const char *const *roots, const char *uri, struct error *error) MUST_USE;

/* The same of a model: a folder, or a file whose name (links resolved) ends in .gguf. Owned. */
char *sources_resolve_model(const char *const *roots, const char *uri, struct error *error) MUST_USE;

/* {spec, model: {folder, inventory} or {job, files}, inputs}: what api_host.plan takes. Owned. */
json_t *sources_plan_request(const struct sources *sources, json_t *spec) MUST_USE;

#endif
