/*
 * api/submit.c: POST /v1/{type}/jobs.
 *
 *   parse -> validate against the catalogue's spec -> defaults -> sources to paths
 *     -> registered models, or ?dry_run: the plan (host, asynchronous); its faults are a 422, nothing is stored
 *     -> insert (storage, asynchronous): with a plan the job is `queued`, else `validating` and the daemon plans it,
 *        once the jobs whose results it needs have ended
 *
 * Everything that can be said about the body is said in one answer: faults of the spec and of the sources are
 * collected together. A submission lives from the handler to its last callback, on whatever threads these
 * come.
 */
#include "api/api_internal.h"
#include "api/sources.h"
#include "base/hash.h"
#include "base/memory.h"
#include <stdlib.h>
#include <string.h>

struct submission {
    struct request *request;
    const char *type; /* static */
    json_t *spec;     /* owned: resolved, with its type */
    struct sources sources;
    char *idempotency_key; /* owned or NULL */
    char request_sha256[SHA256_HEX];
    bool is_dry_run;
};

static void submission_destroy(struct submission *submission)
{
    json_decref(submission->spec);
    sources_finish(&submission->sources);
    free(submission->idempotency_key);
    free(submission);
}

/* ---- the asynchronous half ------------------------------------------------------------------------------ */

static void inserted(void *context, struct job *job, bool replayed, const struct error *error)
{
    struct submission *submission = context;
    struct request *request = submission->request;
    if (job == NULL) {
        struct error fault = *error;
        if (fault.code == ERROR_IDEMPOTENCY_MISMATCH && fault.field[0] == '\0') {
            (void)error_set_field(&fault, fault.code, "Idempotency-Key", "%s", error->message);
        }
        request_answer_error(request, 0, &fault);
    } else {
        request->is_replay = replayed;
        job_view_answer(request, 201, job);
    }
    submission_destroy(submission);
    request_resume_done(request);
}

static void insert(struct submission *submission, json_t *plan)
{
    int64_t memory_bytes = 0;
    const char *name = json_string_value(json_object_get(submission->spec, "name"));
    if (plan != NULL) {
        memory_bytes = json_integer_value(json_object_get(plan, "memory_bytes"));
    }
    const struct job_draft draft = {
        .tenant_id = request_tenant(submission->request),
        .type = submission->type,
        .name = name,
        .status_reason = *submission->sources.wait_reason != '\0' ? submission->sources.wait_reason : NULL,
        .idempotency_key = submission->idempotency_key,
        .request_sha256 = submission->request_sha256,
        .spec = submission->spec,
        .plan = plan,
        .memory_bytes = memory_bytes > 0 ? (uint64_t)memory_bytes : 0,
    };
    storage_insert_job(submission->request->api->options.storage, &draft, inserted, submission);
}

static void planned(void *context, const json_t *answer, const struct error_list *faults)
{
    struct submission *submission = context;
    struct request *request = submission->request;
    json_t *plan = json_object_get(answer, "plan");
    if (request_is_answered(request)) { /* by api_stop: storage may be gone */
        submission_destroy(submission);
        request_resume_done(request);
        return;
    }
    if (answer != NULL && plan != NULL && !submission->is_dry_run) {
        insert(submission, plan);
        return;
    }
    if (answer == NULL && faults != NULL && faults->stored > 0) {
        request_answer_faults(request, faults);
    } else if (plan == NULL) {
        struct error error = {0};
        (void)error_set(&error, ERROR_INTERNAL, "the planner gave neither a plan nor a fault");
        request_answer_error(request, 0, &error);
    } else {
        json_t *body = json_object();
        json_put_text(body, "object", "plan");
        json_put_text(body, "type", submission->type);
        json_put(body, "dry_run", json_true());
        json_put(body, "request", json_incref(submission->spec));
        json_put(body, "plan", json_incref(plan));
        request_answer_json(request, 200, body);
    }
    submission_destroy(submission);
    request_resume_done(request);
}

/* ---- the synchronous half ------------------------------------------------------------------------------- */

static bool has_fault_at(const struct error_list *faults, const char *field)
{
    for (size_t i = 0; i < faults->stored; i++) {
        if (strcmp(faults->items[i].field, field) == 0) {
            return true;
        }
    }
    return false;
}

/* The body without "type", which the address says already: `pruned run` takes the same document and needs it
 * there. */
static json_t *take_body(struct request *request, const char *type, struct error_list *faults)
{
    struct error error = {0};
    json_t *body = json_parse(request->body.bytes != NULL ? request->body.bytes : "", request->body.length,
                              JSON_LIMIT_BYTES, &error);
    if (body == NULL) {
        (void)error_list_add_error(faults, &error);
        return NULL;
    }
    json_t *named = json_object_get(body, "type");
    if (named != NULL && (!json_is_string(named) || strcmp(json_string_value(named), type) != 0)) {
        (void)error_list_add(faults, ERROR_INVALID_ARGUMENT, "/type",
                             "this address takes jobs of type \"%s\"", type);
    }
    if (json_is_object(body)) {
        (void)json_object_del(body, "type");
    }
    return body;
}

static void take_idempotency_key(struct submission *submission, struct error_list *faults)
{
    const char *key = request_header(submission->request, "Idempotency-Key");
    if (key == NULL) {
        return;
    }
    size_t length = strlen(key);
    bool is_printable = true;
    for (size_t i = 0; i < length; i++) {
        is_printable = is_printable && key[i] >= 0x20 && key[i] < 0x7f;
    }
    if (length == 0 || length > 255 || !is_printable) {
        (void)error_list_add(faults, ERROR_OUT_OF_RANGE, "Idempotency-Key",
                             "Idempotency-Key must be 1 to 255 printable ASCII characters");
        return;
    }
    submission->idempotency_key = memory_copy_text(key);
}

static bool prepare(struct submission *submission, struct error_list *faults)
{
    struct request *request = submission->request;
    struct api *api = request->api;
    const struct api_job_type *type = catalogue_find_type(api, submission->type);
    struct error error = {0};
    if (type == NULL) {
        return error_list_add(faults, ERROR_UNSUPPORTED, "type", "this build has no %s jobs",
                              submission->type);
    }
    if (!request_query_bool(request, "dry_run", &submission->is_dry_run, &error)) {
        (void)error_list_add_error(faults, &error);
    }
    take_idempotency_key(submission, faults);
    JSON_OWNED body = take_body(request, submission->type, faults);
    if (body == NULL) {
        return false;
    }
    OWNED_MEMORY char *canonical = json_format(body, false);
    sha256_hex_of(canonical, strlen(canonical), submission->request_sha256);
    bool is_valid = param_validate(type->body.root, body, "", faults);
    if (is_valid) {
        submission->spec = param_resolve(type->body.root, body);
        json_put_text(submission->spec, "type", submission->type);
    }
    if (json_is_object(body)) {
        FINISHED(error_list) found = {0};
        bool is_resolved =
            sources_resolve(api->options.storage, request_tenant(request), api->options.roots,
                            is_valid ? submission->spec : body, submission->is_dry_run ? 0 : SOURCES_MAY_WAIT,
                            &submission->sources, &found);
        for (size_t i = 0; !is_resolved && i < found.stored; i++) {
            if (!has_fault_at(faults, found.items[i].field)) {
                (void)error_list_add_error(faults, &found.items[i]);
            }
        }
    }
    return faults->count == 0;
}

/* Whether the plan is arithmetic: nothing has to be waited for or inspected. */
static bool are_registered(const struct sources *sources)
{
    if (*sources->wait_reason != '\0') {
        return false;
    }
    for (size_t i = 0; i < SPEC_MODEL_COUNT; i++) {
        if (sources->models[i].uri != NULL && sources->models[i].inventory == NULL) {
            return false;
        }
    }
    return true;
}

static void submit(struct request *request, const char *type)
{
    struct api *api = request->api;
    FINISHED(error_list) faults = {0};
    struct submission *submission = memory_create(1, sizeof *submission);
    submission->request = request;
    submission->type = type;
    if (!prepare(submission, &faults)) {
        request_answer_faults(request, &faults);
        submission_destroy(submission);
        return;
    }
    request_suspend(request);
    if (submission->is_dry_run || are_registered(&submission->sources)) {
        JSON_OWNED plan_request = sources_plan_request(&submission->sources, submission->spec);
        api->options.host.plan(api->options.host.context, plan_request, planned, submission);
    } else {
        insert(submission, NULL);
    }
}

void handle_submit_pruning(struct request *request)
{
    submit(request, "pruning");
}

void handle_submit_selection(struct request *request)
{
    submit(request, "selection");
}

void handle_submit_evaluation(struct request *request)
{
    submit(request, "evaluation");
}
