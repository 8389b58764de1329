/*
 * api/sources.h: from the names in a request to absolute paths.
 *
 * A spec names its models (base/spec.h) and its texts by URI (docs/catalogue.md): a registered model, `file:///path`
 * inside a configured root, an uploaded blob `sha256:<hex>`, another job's result `job:job_...` or a file of it. The
 * API resolves before it plans, the daemon again at each attempt, with the same code. Every fault is reported
 * at once with its pointer. Looks at the projection and at directory entries only: no hashing, no database,
 * no waiting; any thread.
 */
#ifndef API_SOURCES_H
#define API_SOURCES_H

#include "base/cleanup.h"
#include "base/error.h"
#include "base/json.h"
#include "base/spec.h"
#include "storage/storage.h"

struct model_source {
    char *uri; /* owned: as the spec names it; NULL: the spec names none */
    char *
        folder; /* owned, absolute: a folder or a .gguf file; NULL for a result that is not laid out as one yet */
    char *
        job; /* owned id of that result, or NULL. storage_assemble_model(storage, job, files) makes the folder */
    json_t *files;     /* owned with job: the result's files [{path, bytes, sha256}] */
    json_t *inventory; /* owned; NULL: not registered, a worker inspects the folder */
};

struct sources {
    struct model_source models[SPEC_MODEL_COUNT]; /* as in spec_models */
    json_t *inputs; /* owned {"<uri>": "<absolute path>"} of every `source` in the spec */
    /* "waiting for job_...": the first job in the spec whose result is needed and that has not ended; the rest of this
     * is of no use before it has. "": nothing is waited for. */
    char wait_reason[64];
};

enum sources_flag {
    /* The result of a job that has not ended is waited for; else it is a CONFLICT. */
    SOURCES_MAY_WAIT = 1u << 0,
    /* The spec was accepted earlier: a job that is not there was deleted, PARENT_FAILED; else it is NOT_FOUND. As long
     * as a job is waited for, nothing but the states of jobs is looked at, so that faults of paths may come later. */
    SOURCES_ACCEPTED = 1u << 1,
};

/* roots: NULL-terminated, absolute, links resolved. FORBIDDEN outside of them, NOT_FOUND, UNSUPPORTED
 * (another scheme), PARENT_FAILED (the job has no result and gets none by itself). */
bool sources_resolve(struct storage *storage, const char *tenant_id, const char *const *roots,
                     const json_t *spec, unsigned flags, struct sources *ret_sources,
                     struct error_list *faults) MUST_USE;
void sources_finish(struct sources *sources);

/* The path of a file:/// URI or of a plain absolute path, resolved and inside a root; owned. NULL: *error
 * says why. */
char *sources_resolve_path(const char *const *roots, const char *uri, struct error *error) MUST_USE;

/* The same of a model: a folder, or a file whose name (links resolved) ends in .gguf. Owned. */
char *sources_resolve_model(const char *const *roots, const char *uri, struct error *error) MUST_USE;

/* The first model that is not laid out as a folder yet; NULL: all are. Borrowed. */
struct model_source *sources_find_unlaid(struct sources *sources);

/* Puts model: {folder, inventory} or {job, files}, models: {"<uri>": the same} of those beside it, and inputs. */
void sources_put(const struct sources *sources, json_t *message);

/* {spec, model, models, inputs}: what api_host.plan takes. Owned. */
json_t *sources_plan_request(const struct sources *sources, json_t *spec) MUST_USE;

#endif
