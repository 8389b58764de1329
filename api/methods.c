/*
 * api/methods.c: the catalogue, as the worker described itself, and its answers. The param specs are parsed
 * once at start; the same trees validate requests (submit.c) and are printed as JSON Schema here.
 */
#include "api/api_internal.h"
#include "base/log.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool add_job_type(struct api *api, const char *name, const json_t *type, struct error *error)
{
    if (api->job_type_count == API_JOB_TYPE_LIMIT || strlen(name) >= sizeof api->job_types[0].name) {
        return error_set_field(error, ERROR_UNSUPPORTED, "/job_types",
                               "the catalogue's job type %s does not fit", name);
    }
    struct api_job_type *added = &api->job_types[api->job_type_count];
    const json_t *body = json_object_get(type, "body");
    if (body == NULL || !param_parse(body, &added->body, error)) {
        if (body == NULL) {
            (void)error_set(error, ERROR_MISSING_FIELD, "no body spec");
        }
        return error_prefix(error, "catalogue, job type %s: ", name);
    }
    (void)snprintf(added->name, sizeof added->name, "%s", name);
    added->schema = param_schema(added->body.root);
    api->job_type_count++;
    return true;
}

/* One entry of the list: the catalogue's own members, with the spec replaced by its schema. */
static bool method_view(const json_t *method, json_t **ret_view, struct error *error)
{
    struct param_tree tree = {0};
    const char *name = json_string_value(json_object_get(method, "name"));
    const json_t *parameters = json_object_get(method, "parameters");
    if (name == NULL) {
        return error_set(error, ERROR_MISSING_FIELD, "catalogue: a method without a name");
    }
    if (parameters != NULL && !param_parse(parameters, &tree, error)) {
        return error_prefix(error, "catalogue, method %s: ", name);
    }
    json_t *view = json_copy((json_t *)(uintptr_t)method);
    json_put_text(view, "id", name);
    json_put_text(view, "object", "method");
    json_put(view, "parameters", tree.root != NULL ? param_schema(tree.root) : json_null());
    param_tree_finish(&tree);
    *ret_view = view;
    return true;
}

bool catalogue_start(struct api *api, struct error *error)
{
    const json_t *catalogue = api->options.catalogue;
    json_t *types = json_object_get(catalogue, "job_types"), *type = NULL;
    json_t *methods = json_object_get(catalogue, "methods"), *method = NULL;
    const char *name = NULL;
    size_t index = 0;
    json_object_foreach(types, name, type)
    {
        if (!add_job_type(api, name, type, error)) {
            return false;
        }
    }
    JSON_OWNED data = json_array();
    json_array_foreach(methods, index, method)
    {
        json_t *view = NULL;
        if (!method_view(method, &view, error)) {
            return false;
        }
        (void)json_array_append_new(data, view);
    }
    json_t *schemas = json_object();
    for (size_t i = 0; i < api->job_type_count; i++) {
        json_put(schemas, api->job_types[i].name, json_incref(api->job_types[i].schema));
    }
    api->methods = json_object();
    json_put_text(api->methods, "object", "list");
    json_put(api->methods, "data", json_incref(data));
    json_put(api->methods, "has_more", json_false());
    json_put(api->methods, "job_types", schemas);
    static const char *const shown[] = {"layouts", "architectures", "formats", "devices"};
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++) {
        json_put(api->methods, shown[i], json_incref(json_object_get(catalogue, shown[i])));
    }
    return true;
}

void catalogue_finish(struct api *api)
{
    for (size_t i = 0; i < api->job_type_count; i++) {
        param_tree_finish(&api->job_types[i].body);
        json_decref(api->job_types[i].schema);
    }
    json_decref(api->methods);
}

const struct api_job_type *catalogue_find_type(const struct api *api, const char *name)
{
    for (size_t i = 0; i < api->job_type_count; i++) {
        if (strcmp(api->job_types[i].name, name) == 0) {
            return &api->job_types[i];
        }
    }
    return NULL;
}

/* The job type that the query names; *ret_type NULL where it names none. */
static bool find_wanted_type(struct request *request, const char **ret_type, struct error *error)
{
    const char *type = target_find_query(&request->target, "job_type");
    if (type != NULL && catalogue_find_type(request->api, type) == NULL) {
        FINISHED(text) known = {0};
        for (size_t i = 0; i < request->api->job_type_count; i++) {
            text_append_format(&known, "%s%s", i > 0 ? ", " : "", request->api->job_types[i].name);
        }
        return error_set_field(error, ERROR_UNKNOWN_VALUE, "job_type",
                               "there is no job type \"%.60s\"; there are %s", type, known.bytes);
    }
    *ret_type = type;
    return true;
}

static bool is_of_type(const json_t *method, const char *type)
{
    const char *own = json_string_value(json_object_get(method, "job_type"));
    return type == NULL || (own != NULL && strcmp(own, type) == 0);
}

void handle_methods(struct request *request)
{
    const char *type = NULL;
    struct error error = {0};
    if (!find_wanted_type(request, &type, &error)) {
        request_answer_error(request, 0, &error);
        return;
    }
    json_t *answer = json_copy(request->api->methods), *data = json_array(), *method = NULL;
    size_t index = 0;
    json_array_foreach(json_object_get(answer, "data"), index, method)
    {
        if (is_of_type(method, type)) {
            (void)json_array_append(data, method);
        }
    }
    json_put(answer, "data", data);
    request_answer_json(request, 200, answer);
}

/* Methods of two job types may share a name: the first of the list answers, unless the query says which. */
void handle_method(struct request *request)
{
    const char *wanted = request_variable(request, 0), *type = NULL;
    json_t *data = json_object_get(request->api->methods, "data"), *method = NULL;
    FINISHED(text) known = {0};
    struct error error = {0};
    size_t index = 0;
    if (!find_wanted_type(request, &type, &error)) {
        request_answer_error(request, 0, &error);
        return;
    }
    json_array_foreach(data, index, method)
    {
        const char *name = json_string_value(json_object_get(method, "id"));
        if (!is_of_type(method, type)) {
            continue;
        }
        if (strcmp(name, wanted) == 0) {
            request_answer_json(request, 200, json_incref(method));
            return;
        }
        text_append_format(&known, "%s%s", known.length > 0 ? ", " : "", name);
    }
    (void)error_set_field(&error, ERROR_NOT_FOUND, "name", "there is no method \"%.60s\"; there are %.250s",
                          wanted, known.bytes != NULL ? known.bytes : "none");
    request_answer_error(request, 0, &error);
}
