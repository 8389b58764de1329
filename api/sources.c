/*
 * api/sources.c: see sources.h.
 *
 * A path is judged after realpath: what a link points at decides, not how it is spelled. Whether something
 * exists outside the roots is nobody's business, so such a path is FORBIDDEN either way.
 */
#include "api/sources.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/text.h"
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct resolver {
    struct storage *storage;
    const char *tenant_id;
    const char *const *roots;
    unsigned flags;
    struct sources *sources;
    struct error_list *faults;
};

static bool is_inside(const char *path, const char *const *roots)
{
    for (size_t i = 0; roots != NULL && roots[i] != NULL; i++) {
        size_t length = strlen(roots[i]);
        if (strncmp(path, roots[i], length) == 0 &&
            (path[length] == '\0' || path[length] == '/' || roots[i][length - 1] == '/')) {
            return true;
        }
    }
    return false;
}

char *sources_resolve_path(const char *const *roots, const char *uri, struct error *error)
{
    const char *path = text_starts_with(uri, "file://") ? uri + strlen("file://") : uri;
    if (*path != '/') {
        error_set(error, ERROR_INVALID_ARGUMENT, "\"%.200s\" is no absolute path (file:///folder/file)", uri);
        return NULL;
    }
    char *resolved = realpath(path, NULL);
    int cause = errno;
    if (resolved != NULL && is_inside(resolved, roots)) {
        return resolved;
    }
    if (resolved == NULL && strstr(path, "/..") == NULL && is_inside(path, roots)) {
        error_set_errno(error, cause, "\"%.200s\"", path);
    } else {
        error_set(error, ERROR_FORBIDDEN, "\"%.200s\" is outside the configured roots", path);
    }
    free(resolved);
    return NULL;
}

char *sources_resolve_model(const char *const *roots, const char *uri, struct error *error)
{
    OWNED_MEMORY char *path = sources_resolve_path(roots, uri, error);
    if (path != NULL && !file_is_folder(path) && !text_ends_with(path, ".gguf")) {
        error_set(error, ERROR_INVALID_ARGUMENT, "\"%.200s\" is neither a folder nor a .gguf file", uri);
        return NULL;
    }
    return TAKE(path);
}

static const char plan_name[] = "plan.json";
static const char weights_name[] = "plan.weights";

/* The weights that a plan.json tells of lie beside it, and are an input too. */
static void resolve_weights_beside(const struct resolver *resolver, const char *uri, const char *path)
{
    if (!text_ends_with(uri, plan_name) || !text_ends_with(path, plan_name)) {
        return;
    }
    FINISHED(text) weights = {0};
    FINISHED(text) name = {0};
    text_append_bytes(&weights, path, strlen(path) - strlen(plan_name));
    text_append(&weights, weights_name);
    text_append_bytes(&name, uri, strlen(uri) - strlen(plan_name));
    text_append(&name, weights_name);
    OWNED_MEMORY char *resolved = realpath(weights.bytes, NULL);
    if (resolved != NULL && is_inside(resolved, resolver->roots) && !file_is_folder(resolved)) {
        json_put_text(resolver->sources->inputs, name.bytes, resolved);
    }
}

static void resolve_file(const struct resolver *resolver, const char *uri, const char *pointer)
{
    struct error error;
    OWNED_MEMORY char *path = sources_resolve_path(resolver->roots, uri, &error);
    if (path == NULL) {
        error_list_add(resolver->faults, error.code, pointer, "%s", error.message);
    } else if (file_is_folder(path)) {
        error_list_add(resolver->faults, ERROR_INVALID_ARGUMENT, pointer,
                       "\"%.200s\" is a folder; a text is one file", uri);
    } else {
        json_put_text(resolver->sources->inputs, uri, path);
        resolve_weights_beside(resolver, uri, path);
    }
}

static void put_blob(const struct resolver *resolver, const char *uri, const char *hex)
{
    FINISHED(text) path = {0};
    text_append_format(&path, "%s/blobs/%.2s/%s", storage_folder(resolver->storage), hex, hex);
    json_put_text(resolver->sources->inputs, uri, path.bytes);
}

static void resolve_blob(const struct resolver *resolver, const char *uri, const char *pointer)
{
    const char *hex = uri + strlen("sha256:");
    uint64_t bytes;
    if (!sha256_hex_is_valid(hex)) {
        error_list_add(resolver->faults, ERROR_INVALID_ARGUMENT, pointer,
                       "\"%.80s\" is no digest: sha256: and 64 hexadecimal digits", uri);
    } else if (!storage_find_blob(resolver->storage, hex, &bytes)) {
        error_list_add(resolver->faults, ERROR_NOT_FOUND, pointer, "the blob %s was not uploaded", uri);
    } else {
        put_blob(resolver, uri, hex);
    }
}

/* A job that ended without a result. */
static void add_parent_failed(const struct resolver *resolver, const struct job *job, const char *pointer)
{
    const char *code = json_string_value(json_object_get(job->error, "code"));
    const char *message = json_string_value(json_object_get(job->error, "message"));
    if (code != NULL && message != NULL) {
        error_list_add(resolver->faults, ERROR_PARENT_FAILED, pointer,
                       "the job %s, whose result is needed here, failed (%s: %.200s)", job->id, code,
                       message);
    } else {
        error_list_add(resolver->faults, ERROR_PARENT_FAILED, pointer,
                       "the job %s, whose result is needed here, is %s", job->id, job_state_slug(job->state));
    }
}

static void add_wait(struct sources *sources, const struct job *job)
{
    if (sources->wait_reason[0] == '\0') {
        (void)snprintf(sources->wait_reason, sizeof sources->wait_reason, "waiting for %s", job->id);
    }
}

/* Acquired. NULL: there is a fault, or the job has to be waited for. */
static struct job *find_result(const struct resolver *resolver, const char *job_id, const char *pointer)
{
    struct job *job = storage_peek_job(resolver->storage, resolver->tenant_id, job_id);
    if (job == NULL && (resolver->flags & SOURCES_ACCEPTED) != 0) {
        error_list_add(resolver->faults, ERROR_PARENT_FAILED, pointer,
                       "the job %.60s, whose result is needed here, was deleted", job_id);
    } else if (job == NULL) {
        error_list_add(resolver->faults, ERROR_NOT_FOUND, pointer,
                       "there is no job %.60s among those whose results can be used, the latest ones",
                       job_id);
    } else if (job->state == JOB_STATE_SUCCEEDED) {
        return job;
    } else if (job_state_is_terminal(job->state)) {
        add_parent_failed(resolver, job, pointer);
    } else if ((resolver->flags & SOURCES_MAY_WAIT) == 0) {
        error_list_add(resolver->faults, ERROR_CONFLICT, pointer, "the job %s is %s; it has no result yet",
                       job->id, job_state_slug(job->state));
    } else {
        add_wait(resolver->sources, job);
    }
    job_release(job);
    return NULL;
}

static const char *find_digest(const json_t *files, const char *path)
{
    size_t index;
    const json_t *file;
    json_array_foreach((json_t *)(uintptr_t)files, index, file)
    {
        const char *name = json_string_value(json_object_get(file, "path"));
        if (name != NULL && strcmp(name, path) == 0) {
            return json_string_value(json_object_get(file, "sha256"));
        }
    }
    return NULL;
}

/* job:<id>/<path>. With a plan come the weights it tells of, under their own name. */
static void resolve_result_file(const struct resolver *resolver, const char *uri, const char *pointer)
{
    const char *name = uri + strlen("job:");
    const char *slash = strchr(name, '/');
    FINISHED(text) job_id = {0};
    text_append_bytes(&job_id, name, slash != NULL ? (size_t)(slash - name) : strlen(name));
    struct job *job = find_result(resolver, job_id.bytes, pointer);
    const char *path = slash != NULL ? slash + 1 : "";
    const char *hex = job != NULL ? find_digest(job->files, path) : NULL;
    if (hex != NULL) {
        put_blob(resolver, uri, hex);
    } else if (job != NULL) {
        error_list_add(resolver->faults, ERROR_NOT_FOUND, pointer,
                       "the result of job %s has no file \"%.200s\"", job->id, path);
    }
    if (hex != NULL && text_ends_with(uri, plan_name)) {
        FINISHED(text) beside = {0};
        text_append_bytes(&beside, uri, strlen(uri) - strlen(plan_name));
        text_append(&beside, weights_name);
        const char *weights = find_digest(job->files, beside.bytes + (path - uri));
        if (weights != NULL) {
            put_blob(resolver, beside.bytes, weights);
        }
    }
    job_release(job);
}

static void resolve_source(void *context, const char *uri, const char *pointer)
{
    const struct resolver *resolver = context;
    if (text_starts_with(uri, "file:") || *uri == '/') {
        resolve_file(resolver, uri, pointer);
    } else if (text_starts_with(uri, "sha256:")) {
        resolve_blob(resolver, uri, pointer);
    } else if (text_starts_with(uri, "job:")) {
        resolve_result_file(resolver, uri, pointer);
    } else {
        error_list_add(resolver->faults, ERROR_UNSUPPORTED, pointer,
                       "\"%.200s\": a source is file:///path, sha256:<hex> of an uploaded blob or "
                       "job:<id>/<file> of an earlier result",
                       uri);
    }
}

/* Results of some job types have none; said here, for a folder without one does not tell whose it was. */
static bool has_model(const json_t *files)
{
    size_t index;
    const json_t *file;
    json_array_foreach((json_t *)(uintptr_t)files, index, file)
    {
        const char *name = json_string_value(json_object_get(file, "path"));
        if (name != NULL && (strcmp(name, "config.json") == 0 || text_ends_with(name, ".gguf"))) {
            return true;
        }
    }
    return false;
}

static void resolve_result(const struct resolver *resolver, const char *job_id, const char *pointer,
                           struct model_source *source)
{
    struct job *job = find_result(resolver, job_id, pointer);
    if (job != NULL && !has_model(job->files)) {
        error_list_add(resolver->faults, ERROR_INVALID_ARGUMENT, pointer,
                       "the result of job %s (%s) holds no model, neither a config.json nor a .gguf file",
                       job->id, job->type);
    } else if (job != NULL) {
        OWNED_MEMORY char *models = file_join(storage_folder(resolver->storage), "models");
        char *folder = file_join(models, job->id);
        if (file_is_folder(folder)) {
            source->folder = folder;
        } else {
            free(folder);
            source->job = memory_copy_text(job->id);
            source->files = json_incref(job->files);
        }
    }
    job_release(job);
}

static void resolve_model(const struct resolver *resolver, const char *name, const char *pointer,
                          struct model_source *source)
{
    source->uri = memory_copy_text(name);
    struct model_record *model = storage_find_model(resolver->storage, resolver->tenant_id, name);
    if (model != NULL) {
        source->folder = memory_copy_text(model->folder);
        source->inventory = json_incref(model->inventory);
        model_record_release(model);
    } else if (text_starts_with(name, "job:")) {
        resolve_result(resolver, name + strlen("job:"), pointer, source);
    } else if (text_starts_with(name, "file:") || *name == '/') {
        struct error error;
        source->folder = sources_resolve_model(resolver->roots, name, &error);
        if (source->folder == NULL) {
            error_list_add(resolver->faults, error.code, pointer, "%s", error.message);
        }
    } else if (strstr(name, "://") != NULL) {
        error_list_add(
            resolver->faults, ERROR_UNSUPPORTED, pointer,
            "\"%.200s\": a model is a registered name or id, file:///folder, file:///file.gguf or job:<id>",
            name);
    } else {
        error_list_add(resolver->faults, ERROR_NOT_FOUND, pointer, "no model is registered as \"%.200s\"",
                       name);
    }
}

struct look { /* at the jobs of a spec */
    const struct resolver *resolver;
    bool is_hopeless; /* one has no result and gets none */
};

static void look_at_job(void *context, const char *job_id)
{
    struct look *look = context;
    const struct resolver *resolver = look->resolver;
    struct job *job = storage_peek_job(resolver->storage, resolver->tenant_id, job_id);
    if (job == NULL || (job_state_is_terminal(job->state) && job->state != JOB_STATE_SUCCEEDED)) {
        look->is_hopeless = true;
    } else if (job->state != JOB_STATE_SUCCEEDED) {
        add_wait(resolver->sources, job);
    }
    job_release(job);
}

/* Told from the states of jobs alone. With a hopeless one among them there are faults to tell instead. */
static bool has_to_wait(const struct resolver *resolver, const json_t *spec)
{
    struct look look = {.resolver = resolver};
    spec_visit_jobs(spec, look_at_job, &look);
    return !look.is_hopeless && resolver->sources->wait_reason[0] != '\0';
}

bool sources_resolve(struct storage *storage, const char *tenant_id, const char *const *roots,
                     const json_t *spec, unsigned flags, struct sources *ret_sources,
                     struct error_list *faults)
{
    size_t before = faults->count;
    struct sources sources = {.inputs = json_object()};
    struct resolver resolver = {storage, tenant_id, roots, flags, &sources, faults};
    if (flags == (SOURCES_MAY_WAIT | SOURCES_ACCEPTED) && has_to_wait(&resolver, spec)) {
        *ret_sources = sources;
        return true;
    }
    for (size_t i = 0; i < SPEC_MODEL_COUNT; i++) {
        char pointer[64];
        const char *name = spec_model(spec, i);
        (void)snprintf(pointer, sizeof pointer, "/%s", spec_models[i]);
        if (name != NULL) {
            resolve_model(&resolver, name, pointer, &sources.models[i]);
        } else if (i == 0) {
            error_list_add(faults, ERROR_MISSING_FIELD, pointer, "a model is needed");
        }
    }
    json_visit_texts(spec, "", "source", resolve_source, &resolver);
    if (faults->count != before) {
        sources_finish(&sources);
        return false;
    }
    *ret_sources = sources;
    return true;
}

void sources_finish(struct sources *sources)
{
    for (size_t i = 0; i < SPEC_MODEL_COUNT; i++) {
        free(sources->models[i].uri);
        free(sources->models[i].folder);
        free(sources->models[i].job);
        json_decref(sources->models[i].files);
        json_decref(sources->models[i].inventory);
    }
    json_decref(sources->inputs);
    memset(sources, 0, sizeof *sources);
}

struct model_source *sources_find_unlaid(struct sources *sources)
{
    for (size_t i = 0; i < SPEC_MODEL_COUNT; i++) {
        if (sources->models[i].job != NULL && sources->models[i].folder == NULL) {
            return &sources->models[i];
        }
    }
    return NULL;
}

static json_t *describe_model(const struct model_source *source)
{
    json_t *model = json_object();
    if (source->folder != NULL) {
        json_put_text(model, "folder", source->folder);
        json_put(model, "inventory",
                 source->inventory != NULL ? json_incref(source->inventory) : json_null());
    } else {
        json_put_text(model, "job", source->job);
        json_put(model, "files", json_incref(source->files));
    }
    return model;
}

void sources_put(const struct sources *sources, json_t *message)
{
    json_t *models = json_object();
    for (size_t i = 1; i < SPEC_MODEL_COUNT; i++) {
        if (sources->models[i].uri != NULL) {
            json_put(models, sources->models[i].uri, describe_model(&sources->models[i]));
        }
    }
    json_put(message, "model", describe_model(&sources->models[0]));
    json_put(message, "models", models);
    json_put(message, "inputs", json_incref(sources->inputs));
}

json_t *sources_plan_request(const struct sources *sources, json_t *spec)
{
    json_t *request = json_object();
    json_put(request, "spec", json_incref(spec));
    sources_put(sources, request);
    return request;
}
