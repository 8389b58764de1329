/*
 * api/models.c: registered models. Registering a model inspects it once (a worker reads the headers of its
 * files) and stores the inventory, so that later requests for it are planned before they are accepted.
 *
 *   {name, source}:  a folder or a .gguf file inside a root, used in place
 *   {name, files}:   uploaded blobs, laid out as a folder by storage first; discarded again if the inspection
 * fails
 */
#include "api/api_internal.h"
#include "api/sources.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_COUNT_LIMIT 1024

static const struct param_spec file_members[] = {
    {.name = "path",
     .type = PARAM_TEXT,
     .flags = PARAM_REQUIRED,
     .min = 1,
     .max = 512,
     .help = "name in the folder"},
    {.name = "sha256",
     .type = PARAM_TEXT,
     .flags = PARAM_REQUIRED,
     .min = 64,
     .max = 71,
     .help = "of an uploaded blob"},
};
static const struct param_spec file_item = {
    .type = PARAM_OBJECT, .members = file_members, .member_count = 2, .help = "one file of the model"};
static const struct param_spec model_members[] = {
    {.name = "name",
     .type = PARAM_TEXT,
     .flags = PARAM_REQUIRED | PARAM_BESIDE,
     .min = 1,
     .max = 96,
     .help = "letters, digits and . _ - /, the first one a letter or digit"},
    {.name = "source",
     .type = PARAM_TEXT,
     .min = 1,
     .max = 4096,
     .help = "file:///folder or file:///file.gguf, inside a root"},
    {.name = "files",
     .type = PARAM_ARRAY,
     .min = 1,
     .max = FILE_COUNT_LIMIT,
     .members = &file_item,
     .member_count = 1,
     .help = "uploaded blobs"},
};
static const struct param_spec model_spec = {.type = PARAM_OBJECT,
                                             .flags = PARAM_EXACTLY_ONE,
                                             .members = model_members,
                                             .member_count = 3,
                                             .help = "a model to register"};

struct registration {
    struct request *request;
    struct identifier id;
    char *name, *source, *folder; /* owned; folder NULL until it is known */
    bool is_assembled;
};

static void registration_destroy(struct registration *registration)
{
    free(registration->name);
    free(registration->source);
    free(registration->folder);
    free(registration);
}

/* ---- views ---------------------------------------------------------------------------------------------- */

json_t *model_view(const struct model_record *model)
{
    json_t *view = json_object();
    json_put_text(view, "id", model->id);
    json_put_text(view, "object", "model");
    json_put_text(view, "name", model->name);
    json_put_text(view, "source", model->source);
    json_put_i64(view, "created_at", model->created_at_ms / 1000);
    json_put_i64(view, "created", model->created_at_ms / 1000); /* OpenAI's spelling for models */
    json_put_text(view, "owned_by", "pruned");
    /* What one wants to see at a glance; the whole inventory, some kilobytes a layer, is for GET of one model. */
    static const char *const shown[] = {"parameter_count", "prunable_count", "weight_bytes"};
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++) {
        json_t *value = json_object_get(model->inventory, shown[i]);
        json_put(view, shown[i], value != NULL ? json_incref(value) : json_null());
    }
    json_t *type = json_object_get(json_object_get(model->inventory, "config"), "model_type");
    json_put(view, "model_type", type != NULL ? json_incref(type) : json_null());
    return view;
}

void handle_model(struct request *request)
{
    OWNED_MEMORY char *name = request_tail(request, 0);
    struct model_record *model =
        storage_find_model(request->api->options.storage, request_tenant(request), name);
    if (model == NULL) {
        struct error error = {0};
        (void)error_set_field(&error, ERROR_NOT_FOUND, "id", "no model is registered as \"%.100s\"", name);
        request_answer_error(request, 0, &error);
        return;
    }
    json_t *view = model_view(model);
    json_put(view, "inventory", model->inventory != NULL ? json_incref(model->inventory) : json_null());
    model_record_release(model);
    request_answer_json(request, 200, view);
}

void handle_list_models(struct request *request)
{
    uint64_t limit = 20;
    bool has_more = false;
    struct error error = {0};
    const char *after = target_find_query(&request->target, "after");
    if (after != NULL && !request_is_identifier(after, "model_")) {
        (void)error_set_field(&error, ERROR_INVALID_ARGUMENT, "after",
                              "after is \"%.60s\"; it takes the id of a model", after);
    }
    if (error.code != ERROR_NONE || !request_query_u64(request, "limit", 1, 100, &limit, &error)) {
        request_answer_error(request, 0, &error);
        return;
    }
    struct model_record **models = NULL;
    size_t count = storage_list_models(request->api->options.storage, request_tenant(request), after,
                                       (size_t)limit, &has_more, &models);
    json_t *data = json_array(), *body = json_object();
    json_put_text(body, "object", "list");
    json_put(body, "has_more", json_boolean(has_more));
    json_put_text(body, "first_id", count > 0 ? models[0]->id : NULL);
    json_put_text(body, "last_id", count > 0 ? models[count - 1]->id : NULL);
    for (size_t i = 0; i < count; i++) {
        (void)json_array_append_new(data, model_view(models[i]));
        model_record_release(models[i]);
    }
    free(models);
    json_put(body, "data", data);
    request_answer_json(request, 200, body);
}

/* ---- registering: the asynchronous half ----------------------------------------------------------------- */

/* Ends a registration that came to nothing; the request has its answer. */
static void give_up(struct registration *registration)
{
    struct request *request = registration->request;
    if (registration->is_assembled) {
        storage_discard_model(request->api->options.storage, registration->id.text);
    }
    registration_destroy(registration);
    request_resume_done(request);
}

static void model_inserted(void *context, struct model_record *model, const struct error *error)
{
    struct registration *registration = context;
    struct request *request = registration->request;
    if (model == NULL) {
        struct error fault = *error;
        if (fault.field[0] == '\0') {
            (void)error_set_field(&fault, error->code, "/name", "%s", error->message);
        }
        request_answer_error(request, 0, &fault);
        give_up(registration);
        return;
    }
    bool is_new = strcmp(model->id, registration->id.text) == 0;
    struct MHD_Response *response = response_json(model_view(model));
    char location[96];
    (void)snprintf(location, sizeof location, "/v1/models/%s", model->id);
    response_header(response, "Location", location);
    request_answer(request, is_new ? 201 : 200, response);
    registration->is_assembled = registration->is_assembled && !is_new; /* a replay needs no second folder */
    give_up(registration);
}

static void inspected(void *context, const json_t *answer, const struct error_list *faults)
{
    struct registration *registration = context;
    struct request *request = registration->request;
    json_t *inventory = json_object_get(answer, "inventory");
    if (request_is_answered(request)) { /* by api_stop; storage sweeps the folder at its next start */
        registration->is_assembled = false;
        give_up(registration);
        return;
    }
    if (inventory == NULL) {
        struct error_list none = {0};
        if (faults == NULL || faults->stored == 0) {
            (void)error_list_add(&none, ERROR_INTERNAL, "",
                                 "the inspection gave neither an inventory nor a fault");
        }
        request_answer_faults(request, none.stored > 0 ? &none : faults);
        error_list_finish(&none);
        give_up(registration);
        return;
    }
    struct model_record draft = {.name = registration->name,
                                 .source = registration->source,
                                 .folder = registration->folder,
                                 .inventory = inventory,
                                 .created_at_ms = clock_wall_ms(&clock_system)};
    (void)snprintf(draft.id, sizeof draft.id, "%s", registration->id.text);
    (void)snprintf(draft.tenant_id, sizeof draft.tenant_id, "%s", request_tenant(request));
    storage_insert_model(request->api->options.storage, &draft, model_inserted, registration);
}

static void assembled(void *context, const char *folder, const struct error *error)
{
    struct registration *registration = context;
    struct api *api = registration->request->api;
    if (folder == NULL) {
        struct error_list faults = {0};
        (void)error_list_add_error(&faults, error);
        request_answer_faults(registration->request, &faults);
        error_list_finish(&faults);
        give_up(registration);
        return;
    }
    registration->is_assembled = true;
    registration->folder = memory_copy_text(folder);
    api->options.host.inspect(api->options.host.context, registration->folder, inspected, registration);
}

/* ---- registering: the synchronous half ------------------------------------------------------------------ */

static void check_name(const char *name, struct error_list *faults)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-/";
    bool is_plain = name[strspn(name, allowed)] == '\0' && strchr("._-/", name[0]) == NULL;
    if (!is_plain || strstr(name, "..") != NULL || text_starts_with(name, "model_") ||
        text_starts_with(name, "job_")) {
        (void)error_list_add(
            faults, ERROR_INVALID_ARGUMENT, "/name",
            "\"%.100s\" cannot name a model: letters, digits and . _ - / only, the first one a letter "
            "or digit, no \"..\", and model_ and job_ are taken",
            name);
    }
}

static const char *digits_of(const char *sha256)
{
    return text_starts_with(sha256, "sha256:") ? sha256 + 7 : sha256;
}

/* Normalises "sha256:<hex>" to hex; every fault of every file. */
static void check_files(struct storage *storage, json_t *files, struct error_list *faults)
{
    JSON_OWNED seen = json_object();
    size_t index = 0;
    json_t *file = NULL;
    json_array_foreach(files, index, file)
    {
        char pointer[64];
        const char *path = json_string_value(json_object_get(file, "path"));
        const char *hex = digits_of(json_string_value(json_object_get(file, "sha256")));
        uint64_t bytes = 0;
        (void)snprintf(pointer, sizeof pointer, "/files/%zu/path", index);
        if (!file_name_is_safe(path)) {
            (void)error_list_add(faults, ERROR_INVALID_ARGUMENT, pointer,
                                 "\"%.200s\" is no safe relative file name", path);
        } else if (json_object_get(seen, path) != NULL) {
            (void)error_list_add(faults, ERROR_INVALID_ARGUMENT, pointer, "\"%.200s\" is named twice", path);
        }
        json_put(seen, path, json_true());
        (void)snprintf(pointer, sizeof pointer, "/files/%zu/sha256", index);
        if (!sha256_hex_is_valid(hex)) {
            (void)error_list_add(faults, ERROR_INVALID_ARGUMENT, pointer,
                                 "\"%.80s\" is not 64 lower-case hexadecimal digits", hex);
        } else if (!storage_find_blob(storage, hex, &bytes)) {
            (void)error_list_add(faults, ERROR_NOT_FOUND, pointer, "the blob sha256:%s was not uploaded",
                                 hex);
        } else {
            char copy[SHA256_HEX];
            (void)snprintf(copy, sizeof copy, "%s", hex);
            json_put_text(file, "sha256", copy);
        }
    }
}

static json_t *parse_registration(struct request *request, struct registration *registration,
                                  struct error_list *faults)
{
    struct error error = {0};
    json_t *body = json_parse(request->body.bytes != NULL ? request->body.bytes : "", request->body.length,
                              JSON_LIMIT_BYTES, &error);
    if (body == NULL) {
        (void)error_list_add_error(faults, &error);
        return NULL;
    }
    if (!param_validate(&model_spec, body, "", faults)) {
        return body;
    }
    registration->name = memory_copy_text(json_string_value(json_object_get(body, "name")));
    check_name(registration->name, faults);
    const char *source = json_string_value(json_object_get(body, "source"));
    if (source != NULL) {
        registration->folder = sources_resolve_model(request->api->options.roots, source, &error);
        if (registration->folder == NULL) {
            (void)error_list_add(faults, error.code, "/source", "%s", error.message);
        } else {
            struct text uri = {0};
            text_append_format(&uri, "file://%s", registration->folder);
            registration->source = text_take(&uri);
        }
    } else {
        registration->source = memory_copy_text("blobs");
        check_files(request->api->options.storage, json_object_get(body, "files"), faults);
    }
    return body;
}

void handle_model_register(struct request *request)
{
    struct api *api = request->api;
    FINISHED(error_list) faults = {0};
    struct registration *registration = memory_create(1, sizeof *registration);
    registration->request = request;
    JSON_OWNED body = parse_registration(request, registration, &faults);
    struct error error = {0};
    if (faults.count == 0 &&
        !rng_identifier("model_", clock_wall_ms(&clock_system), &registration->id, &error)) {
        (void)error_list_add_error(&faults, &error);
    }
    if (faults.count > 0) {
        request_answer_faults(request, &faults);
        registration_destroy(registration);
        return;
    }
    json_t *files = json_object_get(body, "files");
    request_suspend(request);
    if (files != NULL) {
        storage_assemble_model(api->options.storage, registration->id.text, files, assembled, registration);
    } else {
        api->options.host.inspect(api->options.host.context, registration->folder, inspected, registration);
    }
}
