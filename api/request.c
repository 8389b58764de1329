/* api/request.c: the life of one request and the ways to answer it. See api_internal.h for the course of
 * things. */
#include "api/api_internal.h"
#include "api/problem.h"
#include "base/check.h"
#include "base/log.h"
#include "base/memory.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define REQUEST_MAGIC 0x52455155u

struct request *request_create(struct api *api, const char *raw_target)
{
    struct request *request = memory_create(1, sizeof *request);
    request->magic = REQUEST_MAGIC;
    request->api = api;
    request->raw_target = memory_copy_text(raw_target);
    request->started_mono_ns = clock_boot_ns(&clock_system);
    atomic_init(&request->reference_count, 1);
    struct identifier id;
    if (rng_identifier("req_", clock_wall_ms(&clock_system), &id, NULL)) {
        (void)snprintf(request->id, sizeof request->id, "%s", id.text);
    }
    if (!target_parse(raw_target, &request->target, &request->target_fault)) {
        CHECK(request->target_fault.code != ERROR_NONE);
    }
    return request;
}

struct request *request_acquire(struct request *request)
{
    CHECK(request->magic == REQUEST_MAGIC);
    (void)atomic_fetch_add(&request->reference_count, 1);
    return request;
}

void request_release(struct request *request)
{
    CHECK(request->magic == REQUEST_MAGIC);
    if (atomic_fetch_sub(&request->reference_count, 1) != 1) {
        return;
    }
    if (request->response != NULL) {
        MHD_destroy_response(request->response);
    }
    storage_abandon_upload(request->upload);
    text_finish(&request->body);
    target_finish(&request->target);
    free(request->raw_target);
    free(request->if_none_match);
    free(request->range);
    free(request->if_range);
    request->magic = 0;
    free(request);
}

void request_suspend(struct request *request)
{
    struct api *api = request->api;
    (void)request_acquire(request);
    (void)pthread_mutex_lock(&api->lock);
    CHECK(!request->is_suspended && !request->is_answered);
    api->callback_count++;
    MHD_suspend_connection(request->connection);
    request->is_suspended = true;
    request->next_suspended = api->suspended;
    request->previous_suspended = NULL;
    if (api->suspended != NULL) {
        api->suspended->previous_suspended = request;
    }
    api->suspended = request;
    api->suspended_count++;
    (void)pthread_mutex_unlock(&api->lock);
}

void request_resume_done(struct request *request)
{
    struct api *api = request->api;
    request_release(request);
    (void)pthread_mutex_lock(&api->lock);
    api->callback_count--;
    (void)pthread_cond_broadcast(&api->wake);
    (void)pthread_mutex_unlock(&api->lock);
}

bool request_is_answered(struct request *request)
{
    (void)pthread_mutex_lock(&request->api->lock);
    bool is_answered = request->is_answered;
    (void)pthread_mutex_unlock(&request->api->lock);
    return is_answered;
}

/* Under the lock: from here on the connection belongs to MHD again. */
static void resume(struct request *request)
{
    struct api *api = request->api;
    if (request->previous_suspended != NULL) {
        request->previous_suspended->next_suspended = request->next_suspended;
    } else {
        api->suspended = request->next_suspended;
    }
    if (request->next_suspended != NULL) {
        request->next_suspended->previous_suspended = request->previous_suspended;
    }
    request->is_suspended = false;
    api->suspended_count--;
    MHD_resume_connection(request->connection);
    (void)pthread_cond_broadcast(&api->wake);
}

void request_answer(struct request *request, unsigned status, struct MHD_Response *response)
{
    struct api *api = request->api;
    CHECK(request->magic == REQUEST_MAGIC && response != NULL);
    response_header(response, "X-Request-Id", request->id);
    response_header(response, "X-Content-Type-Options", "nosniff");
    (void)pthread_mutex_lock(&api->lock);
    bool is_late = request->is_answered; /* api_stop was quicker */
    if (!is_late) {
        request->is_answered = true;
        request->status = status;
        request->response = response;
        if (request->is_suspended) {
            resume(request);
        }
    }
    (void)pthread_mutex_unlock(&api->lock);
    if (is_late) {
        MHD_destroy_response(response);
    }
}

void response_header(struct MHD_Response *response, const char *name, const char *value)
{
    if (MHD_add_response_header(response, name, value) != MHD_YES) {
        log_warning("a response header was refused", LOG_TEXT("header", name), LOG_TEXT("value", value));
    }
}

struct MHD_Response *response_json(json_t *body)
{
    char *text = json_format(body, false);
    size_t length = strlen(text);
    text = memory_resize(text, length + 2, 1);
    memcpy(text + length, "\n", 2); /* a prompt after curl stays on its own line */
    json_decref(body);
    struct MHD_Response *response =
        MHD_create_response_from_buffer_with_free_callback(length + 1, text, free);
    CHECK(response != NULL);
    response_header(response, "Content-Type", "application/json");
    response_header(response, "Cache-Control", "no-cache");
    return response;
}

void request_answer_json(struct request *request, unsigned status, json_t *body)
{
    request_answer(request, status, response_json(body));
}

void request_answer_text(struct request *request, unsigned status, const char *type, const char *text)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer_with_free_callback(strlen(text), memory_copy_text(text), free);
    CHECK(response != NULL);
    response_header(response, "Content-Type", type);
    response_header(response, "Cache-Control", "no-cache");
    request_answer(request, status, response);
}

struct MHD_Response *response_empty(void)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer_with_free_callback(0, memory_create(1, 1), free);
    CHECK(response != NULL);
    return response;
}

void request_answer_empty(struct request *request, unsigned status)
{
    request_answer(request, status, response_empty());
}

struct MHD_Response *response_problem(const struct request *request, unsigned status,
                                      const struct error *items, size_t count, size_t total)
{
    char path[256];
    (void)snprintf(path, sizeof path, "%.*s", (int)strcspn(request->raw_target, "?"), request->raw_target);
    for (char *byte = path; *byte != '\0'; byte++) {
        *byte = (char)(*byte >= 0x20 && *byte < 0x7f ? *byte : '?');
    }
    for (size_t i = 0; i < count; i++) {
        if (items[i].code == ERROR_INTERNAL || items[i].code == ERROR_IO || items[i].code == ERROR_NONE) {
            log_error("request failed", LOG_TEXT("request_id", request->id), LOG_TEXT("path", path),
                      LOG_TEXT("code", error_code_slug(items[i].code)), LOG_TEXT("field", items[i].field),
                      LOG_TEXT("error", items[i].message));
        }
    }
    struct MHD_Response *response =
        response_json(problem_body(status, items, count, total, path, request->id));
    (void)MHD_del_response_header(response, "Content-Type", "application/json");
    response_header(response, "Content-Type", "application/problem+json");
    if (status == 503) {
        response_header(response, "Retry-After", API_RETRY_SECONDS);
    } else if (status == 401) {
        response_header(response, "WWW-Authenticate", "Bearer");
    }
    return response;
}

void request_answer_error(struct request *request, unsigned status, const struct error *error)
{
    if (status == 0) {
        status = problem_status(error->code);
    }
    request_answer(request, status, response_problem(request, status, error, 1, 1));
}

void request_answer_faults(struct request *request, const struct error_list *faults)
{
    CHECK(faults->stored > 0);
    unsigned status = problem_status_in_body(&faults->items[0]);
    request_answer(request, status,
                   response_problem(request, status, faults->items, faults->stored, faults->count));
}

const char *request_variable(const struct request *request, size_t index)
{
    size_t segment = index == 0 ? request->first_variable : request->second_variable;
    CHECK(segment < request->target.segment_count);
    return request->target.segments[segment];
}

char *request_tail(const struct request *request, size_t index)
{
    struct text tail = {0};
    size_t first = index == 0 ? request->first_variable : request->second_variable;
    for (size_t i = first; i < request->target.segment_count; i++) {
        text_append(&tail, i > first ? "/" : "");
        text_append(&tail, request->target.segments[i]);
    }
    return text_take(&tail);
}

const char *request_header(const struct request *request, const char *name)
{
    return MHD_lookup_connection_value(request->connection, MHD_HEADER_KIND, name);
}

bool request_query_u64(const struct request *request, const char *name, uint64_t min, uint64_t max,
                       uint64_t *ret_value, struct error *error)
{
    const char *text = target_find_query(&request->target, name);
    if (text == NULL) {
        return true;
    }
    uint64_t value = 0;
    if (!text_parse_u64(text, strlen(text), &value)) {
        return error_set_field(error, ERROR_WRONG_TYPE, name, "%s must be an integer without a sign", name);
    }
    if (value < min || value > max) {
        return error_set_field(error, ERROR_OUT_OF_RANGE, name,
                               "%s is %s; it must be between %" PRIu64 " and %" PRIu64, name, text, min, max);
    }
    *ret_value = value;
    return true;
}

bool request_query_bool(const struct request *request, const char *name, bool *ret_value, struct error *error)
{
    const char *text = target_find_query(&request->target, name);
    if (text == NULL) {
        return true;
    }
    /* `?verbose` alone means yes; hub clients spell True and true. */
    bool is_true = *text == '\0' || strcasecmp(text, "true") == 0 || strcmp(text, "1") == 0;
    if (!is_true && strcasecmp(text, "false") != 0 && strcmp(text, "0") != 0) {
        return error_set_field(error, ERROR_WRONG_TYPE, name, "%s must be true or false", name);
    }
    *ret_value = is_true;
    return true;
}

bool request_is_identifier(const char *text, const char *prefix)
{
    if (!text_starts_with(text, prefix)) {
        return false;
    }
    const char *rest = text + strlen(prefix);
    return strlen(rest) == 26 && strspn(rest, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") == 26;
}

const char *request_tenant(const struct request *request)
{
    (void)request;
    return STORAGE_TENANT_DEFAULT;
}
