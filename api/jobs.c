/* api/jobs.c: reading jobs, and the verbs that move them: cancel, retry, delete. Creating them is submit.c.
 */
#include "api/api_internal.h"
#include "api/range.h"
#include "base/memory.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The id of the path; false after a 404: what cannot be an id names no job. */
static bool take_job_id(struct request *request, const char **ret_id)
{
    const char *id = request_variable(request, 0);
    if (!request_is_identifier(id, "job_")) {
        struct error error = {0};
        (void)error_set_field(&error, ERROR_NOT_FOUND, "id", "there is no job \"%.60s\"", id);
        request_answer_error(request, 0, &error);
        return false;
    }
    *ret_id = id;
    return true;
}

/* Ends an asynchronous step whose answer is the job. */
static void answer_with_job(void *context, struct job *job, bool replayed, const struct error *error)
{
    (void)replayed;
    struct request *request = context;
    if (job == NULL) {
        request_answer_error(request, 0, error);
    } else {
        job_view_answer(request, 200, job);
    }
    request_resume_done(request);
}

static void got_for_then(void *context, struct job *job, bool replayed, const struct error *error)
{
    (void)replayed;
    struct request *request = context;
    if (job == NULL) {
        request_answer_error(request, 0, error);
    } else {
        request->then(request, job);
    }
    request_resume_done(request);
}

void job_then(struct request *request, void (*then)(struct request *request, struct job *job))
{
    struct storage *storage = request->api->options.storage;
    const char *id = NULL;
    if (!take_job_id(request, &id)) {
        return;
    }
    struct job *job = storage_peek_job(storage, request_tenant(request), id);
    if (job != NULL) {
        then(request, job);
        job_release(job);
        return;
    }
    request->then = then;
    request_suspend(request);
    storage_get_job(storage, request_tenant(request), id, got_for_then, request);
}

/* ---- GET /v1/jobs/{id} ------------------------------------------------------------------------------------
 */

static bool parse_wait(struct request *request, uint64_t *ret_seconds, bool *ret_until_terminal,
                       struct error *error)
{
    const char *until = target_find_query(&request->target, "until");
    *ret_until_terminal = until == NULL || strcmp(until, "terminal") == 0;
    if (!*ret_until_terminal && strcmp(until, "change") != 0) {
        return error_set_field(error, ERROR_UNKNOWN_VALUE, "until",
                               "until is \"%.40s\"; it is terminal or change", until);
    }
    return request_query_u64(request, "wait", 0, API_WAIT_LIMIT, ret_seconds, error);
}

void handle_job(struct request *request)
{
    struct api *api = request->api;
    const char *id = NULL;
    uint64_t seconds = 0;
    bool until_terminal = true;
    struct error error = {0};
    if (!take_job_id(request, &id)) {
        return;
    }
    if (!parse_wait(request, &seconds, &until_terminal, &error)) {
        request_answer_error(request, 0, &error);
        return;
    }
    struct job *job = storage_peek_job(api->options.storage, request_tenant(request), id);
    if (job == NULL) {
        request_suspend(request);
        storage_get_job(api->options.storage, request_tenant(request), id, answer_with_job, request);
        return;
    }
    char etag[64];
    job_view_etag(api, job, etag);
    /* A client that names the version it has waits only while that is still the version. */
    bool is_news = request->if_none_match != NULL && !range_if_none_match(request->if_none_match, etag);
    bool is_done = job_state_is_terminal(job->state) || (is_news && !until_terminal);
    if (seconds == 0 || is_done) {
        job_view_answer(request, 200, job);
    } else {
        watch_add(request, id, etag, until_terminal, (unsigned)seconds);
    }
    job_release(job);
}

/* ---- verbs ---------------------------------------------------------------------------------------------- */

static void apply(struct request *request, enum job_event_kind kind)
{
    const char *id = NULL;
    if (take_job_id(request, &id)) {
        const struct job_event event = {.kind = kind};
        request_suspend(request);
        storage_apply(request->api->options.storage, request_tenant(request), id, &event, answer_with_job,
                      request);
    }
}

void handle_job_cancel(struct request *request)
{
    apply(request, JOB_EVENT_CANCEL);
}

void handle_job_retry(struct request *request)
{
    apply(request, JOB_EVENT_RETRY);
}

static void deleted(void *context, struct job *job, bool replayed, const struct error *error)
{
    (void)replayed;
    (void)job;
    struct request *request = context;
    if (error != NULL && error->code != ERROR_NONE) {
        request_answer_error(request, 0, error);
    } else {
        request_answer_empty(request, 204);
    }
    request_resume_done(request);
}

void handle_job_delete(struct request *request)
{
    const char *id = NULL;
    if (take_job_id(request, &id)) {
        request_suspend(request);
        storage_delete_job(request->api->options.storage, request_tenant(request), id, deleted, request);
    }
}

/* ---- lists ---------------------------------------------------------------------------------------------- */

/* RFC 8288, relative: a proxy may have given us another name. */
static void add_next_link(struct MHD_Response *response, const struct request *request, const char *last_id)
{
    struct text link = {0};
    text_append_format(&link, "<%.*s?after=%s", (int)strcspn(request->raw_target, "?"), request->raw_target,
                       last_id);
    for (size_t i = 0; i < request->target.query_count; i++) {
        const struct target_pair *pair = &request->target.query[i];
        if (strcmp(pair->name, "after") == 0) {
            continue;
        }
        text_append_format(&link, "&%s=", pair->name);
        for (const char *byte = pair->value; *byte != '\0'; byte++) {
            bool is_plain = strchr("%&#+<> \"", *byte) == NULL && *byte > 0x20 && *byte < 0x7f;
            text_append_format(&link, is_plain ? "%c" : "%%%02X", (unsigned char)*byte);
        }
    }
    text_append(&link, ">; rel=\"next\"");
    response_header(response, "Link", link.bytes);
    text_finish(&link);
}

static void listed(void *context, struct job *const *jobs, size_t count, bool has_more,
                   const struct error *error)
{
    struct request *request = context;
    if (error != NULL && error->code != ERROR_NONE) {
        request_answer_error(request, 0, error);
        request_resume_done(request);
        return;
    }
    json_t *data = json_array();
    for (size_t i = 0; i < count; i++) {
        (void)json_array_append_new(data, job_view(jobs[i]));
    }
    json_t *body = json_object();
    json_put_text(body, "object", "list");
    json_put(body, "data", data);
    json_put(body, "has_more", json_boolean(has_more));
    json_put_text(body, "first_id", count > 0 ? jobs[0]->id : NULL);
    json_put_text(body, "last_id", count > 0 ? jobs[count - 1]->id : NULL);
    struct MHD_Response *response = response_json(body);
    if (has_more && count > 0) {
        add_next_link(response, request, jobs[count - 1]->id);
    }
    request_answer(request, 200, response);
    request_resume_done(request);
}

static bool parse_status(const char *text, unsigned *ret_mask, struct error *error)
{
    unsigned mask = 0;
    while (text != NULL && *text != '\0') {
        char slug[32];
        size_t length = strcspn(text, ",");
        enum job_state state = JOB_STATE_VALIDATING;
        (void)snprintf(slug, sizeof slug, "%.*s", (int)(length < sizeof slug ? length : sizeof slug - 1),
                       text);
        if (length >= sizeof slug || !job_state_parse(slug, &state)) {
            return error_set_field(
                error, ERROR_UNKNOWN_VALUE, "status",
                "\"%s\" is no status; they are validating, queued, running, paused, cancelling, "
                "succeeded, failed, cancelled",
                slug);
        }
        mask |= 1u << state;
        text += length + (text[length] == ',' ? 1 : 0);
    }
    *ret_mask = mask;
    return true;
}

static bool parse_filter(struct request *request, struct job_filter *filter, struct error *error)
{
    uint64_t limit = 20;
    const char *order = target_find_query(&request->target, "order");
    filter->after = target_find_query(&request->target, "after");
    filter->method = target_find_query(&request->target, "method");
    if (filter->after != NULL && !request_is_identifier(filter->after, "job_")) {
        return error_set_field(error, ERROR_INVALID_ARGUMENT, "after",
                               "after is \"%.60s\"; it takes the id of a job", filter->after);
    }
    if (order != NULL && strcmp(order, "asc") != 0 && strcmp(order, "desc") != 0) {
        return error_set_field(error, ERROR_UNKNOWN_VALUE, "order", "order is \"%.40s\"; it is asc or desc",
                               order);
    }
    filter->ascending = order != NULL && strcmp(order, "asc") == 0;
    if (!request_query_u64(request, "limit", 1, 100, &limit, error)) {
        return false;
    }
    filter->limit = (size_t)limit;
    return parse_status(target_find_query(&request->target, "status"), &filter->state_mask, error);
}

static void list_jobs(struct request *request, const char *type)
{
    struct error error = {0};
    struct job_filter filter = {.tenant_id = request_tenant(request), .type = type};
    if (!parse_filter(request, &filter, &error)) {
        request_answer_error(request, 0, &error);
        return;
    }
    request_suspend(request);
    storage_list_jobs(request->api->options.storage, &filter, listed, request);
}

void handle_list_jobs(struct request *request)
{
    list_jobs(request, NULL);
}

void handle_list_pruning(struct request *request)
{
    list_jobs(request, "pruning");
}

void handle_list_selection(struct request *request)
{
    list_jobs(request, "selection");
}

void handle_list_evaluation(struct request *request)
{
    list_jobs(request, "evaluation");
}

/* ---- events --------------------------------------------------------------------------------------------- */

static void events_listed(void *context, const struct storage_event *events, size_t count, bool has_more,
                          const struct error *error)
{
    struct request *request = context;
    if (error != NULL && error->code != ERROR_NONE) {
        request_answer_error(request, 0, error);
        request_resume_done(request);
        return;
    }
    json_t *data = json_array();
    for (size_t i = 0; i < count; i++) {
        const struct storage_event *event = &events[i];
        json_t *item = json_object();
        json_put_text(item, "id", event->id);
        json_put_text(item, "object", "job.event");
        json_put_i64(item, "seq", event->seq);
        json_put_i64(item, "created_at", event->created_at_ms / 1000);
        json_put_text(item, "level", event->level);
        json_put_text(item, "type", event->type);
        json_put_text(item, "message", event->message);
        json_put(item, "data", event->data != NULL ? json_incref(event->data) : json_null());
        (void)json_array_append_new(data, item);
    }
    json_t *body = json_object();
    json_put_text(body, "object", "list");
    json_put(body, "data", data);
    json_put(body, "has_more", json_boolean(has_more));
    json_put(body, "first_seq", count > 0 ? json_integer(events[0].seq) : json_null());
    json_put(body, "last_seq", count > 0 ? json_integer(events[count - 1].seq) : json_null());
    struct MHD_Response *response = response_json(body);
    if (has_more && count > 0) {
        char last[32];
        (void)snprintf(last, sizeof last, "%" PRId64, events[count - 1].seq);
        add_next_link(response, request, last);
    }
    request_answer(request, 200, response);
    request_resume_done(request);
}

void handle_job_events(struct request *request)
{
    const char *id = NULL;
    uint64_t after = 0, limit = 100;
    struct error error = {0};
    if (!take_job_id(request, &id)) {
        return;
    }
    if (!request_query_u64(request, "after", 0, INT64_MAX, &after, &error) ||
        !request_query_u64(request, "limit", 1, 1000, &limit, &error)) {
        request_answer_error(request, 0, &error);
        return;
    }
    request_suspend(request);
    storage_list_events(request->api->options.storage, request_tenant(request), id, (int64_t)after,
                        (size_t)limit, events_listed, request);
}
