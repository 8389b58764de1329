/*
 * workers/process/spec.c: what the API does to a request, for `pruned run`: the same table checks it and
 * fills in the defaults; names become paths, relative to the current folder.
 */
#include "workers/process/process_internal.h"

#include "base/cleanup.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/param.h"
#include "base/spec.h"
#include "base/text.h"
#include "workers/recipe/catalogue.h"
#include "workers/recipe/recipe.h"
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void refuse_type(const char *type, struct error_list *faults)
{
    JSON_OWNED catalogue = recipe_catalogue();
    FINISHED(text) known = {0};
    const char *name;
    json_t *body;
    json_object_foreach(json_object_get(catalogue, "job_types"), name, body)
    {
        text_append_format(&known, "%s%s", known.length > 0 ? ", " : "", name);
    }
    error_list_add(faults, ERROR_UNKNOWN_VALUE, "/type", "there is no job type \"%.60s\"; known: %s", type,
                   known.bytes);
}

json_t *spec_resolve(const json_t *spec, struct error_list *faults)
{
    struct error error;
    const char *type = NULL;
    if (!json_get_text(spec, "", "type", &type, &error)) {
        error_list_add_error(faults, &error);
        return NULL;
    }
    const struct param_spec *body = catalogue_body(type);
    if (body == NULL) {
        refuse_type(type, faults);
        return NULL;
    }
    JSON_OWNED request = json_copy((json_t *)(uintptr_t)spec);
    (void)json_object_del(request, "type");
    const char *name;
    json_t *member;
    void *next;
    json_object_foreach_safe(request, next, name, member)
    {
        if (name[0] == '_') { /* "_resolved" of a request.json: it can be run again as it is */
            (void)json_object_del(request, name);
        }
    }
    if (!param_validate(body, request, "", faults)) {
        return NULL;
    }
    json_t *resolved = param_resolve(body, request);
    json_put_text(resolved, "type", type);
    return resolved;
}

static char *find_path(const char *uri, const char *pointer, struct error_list *faults)
{
    const char *path = uri;
    if (text_starts_with(uri, "file://")) {
        path = uri + strlen("file://");
    } else if (text_starts_with(uri, "file:")) {
        path = uri + strlen("file:");
    } else if (text_starts_with(uri, "sha256:") || text_starts_with(uri, "job:")) {
        error_list_add(faults, ERROR_UNSUPPORTED, pointer,
                       "\"%.200s\" lives in a service; name a file or folder here", uri);
        return NULL;
    }
    char *resolved = realpath(path, NULL);
    if (resolved == NULL) {
        struct error error;
        error_set_errno(&error, errno, "\"%.200s\"", path);
        error_list_add(faults, error.code, pointer, "%s", error.message);
    }
    return resolved;
}

struct source_finder {
    json_t *inputs;
    struct error_list *faults;
};

static void find_source(void *context, const char *uri, const char *pointer)
{
    const struct source_finder *finder = context;
    OWNED_MEMORY char *path = find_path(uri, pointer, finder->faults);
    if (path != NULL) {
        json_put_text(finder->inputs, uri, path);
    }
}

static char *find_model(const char *uri, const char *pointer, struct error_list *faults)
{
    char *folder = find_path(uri, pointer, faults);
    if (folder != NULL && !file_is_folder(folder) && !text_ends_with(folder, ".gguf")) {
        error_list_add(faults, ERROR_INVALID_ARGUMENT, pointer,
                       "\"%.200s\" is neither a folder nor a GGUF file", folder);
    }
    return folder;
}

bool spec_find_files(const json_t *spec, char **ret_model, json_t **ret_models, json_t **ret_inputs,
                     struct error_list *faults)
{
    size_t before = faults->count;
    JSON_OWNED inputs = json_object();
    JSON_OWNED models = json_object();
    const char *uri = spec_model(spec, 0);
    OWNED_MEMORY char *folder = find_model(uri == NULL ? "" : uri, "/model", faults);
    for (size_t i = 1; i < SPEC_MODEL_COUNT; i++) {
        char pointer[64];
        (void)snprintf(pointer, sizeof pointer, "/%s", spec_models[i]);
        uri = spec_model(spec, i);
        OWNED_MEMORY char *beside = uri != NULL ? find_model(uri, pointer, faults) : NULL;
        if (beside != NULL) {
            json_t *model = json_object();
            json_put_text(model, "folder", beside);
            json_put(model, "inventory", json_null());
            json_put(models, uri, model);
        }
    }
    struct source_finder finder = {inputs, faults};
    json_visit_texts(spec, "", "source", find_source, &finder);
    if (faults->count != before) {
        return false;
    }
    *ret_model = TAKE(folder);
    *ret_models = TAKE(models);
    *ret_inputs = TAKE(inputs);
    return true;
}
