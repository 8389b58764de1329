/*
 * api/intake.c: from the first byte to the handler.
 *
 * Order of refusals: the gate (400, connection closed), the path (404, 405 with Allow), a page of another
 * site (403), the token (401), draining (503), the query, the media type, the length. A fault found at the
 * header is answered only when a body of reasonable size has been read off: a client that sends first and
 * listens later would otherwise see a reset instead of its answer. Who asks with Expect: 100-continue, or
 * announces more, is answered at once.
 */
#include "api/api_internal.h"
#include "api/problem.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/memory.h"
#include <inttypes.h>
#include <string.h>
#include <strings.h>

void *intake_begin(void *context, const char *raw_target, struct MHD_Connection *connection)
{
    struct api *api = context;
    struct request *request = request_create(api, raw_target != NULL ? raw_target : "");
    request->connection = connection;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    request->peer = info != NULL ? info->socket_context : NULL;
    (void)pthread_mutex_lock(&api->lock);
    api->request_count++;
    (void)pthread_mutex_unlock(&api->lock);
    return request;
}

/* ---- the header -------------------------------------------------------------------------------------------
 */

static enum MHD_Result add_header(void *context, enum MHD_ValueKind kind, const char *name,
                                  size_t name_length, const char *value, size_t value_length)
{
    (void)kind;
    gate_add_header(context, name, name_length, value != NULL ? value : "", value != NULL ? value_length : 0);
    return MHD_YES;
}

/* Equal time whatever the token: compares digests. */
static bool token_matches(const char *header, const char *token)
{
    if (header == NULL || strncasecmp(header, "Bearer ", 7) != 0) {
        return false;
    }
    const char *given = header + 7 + strspn(header + 7, " ");
    char left[SHA256_HEX], right[SHA256_HEX];
    unsigned difference = 0;
    sha256_hex_of(given, strlen(given), left);
    sha256_hex_of(token, strlen(token), right);
    for (size_t i = 0; i < sizeof left; i++) {
        difference |= (unsigned)(left[i] ^ right[i]);
    }
    return difference == 0;
}

static bool media_type_is_json(const char *header)
{
    static const char wanted[] = "application/json";
    size_t length = sizeof wanted - 1;
    return header != NULL && strncasecmp(header, wanted, length) == 0 &&
           (header[length] == '\0' || header[length] == ';' || header[length] == ' ');
}

static bool check_query(struct request *request, struct error *error)
{
    for (size_t i = 0; i < request->target.query_count; i++) {
        const char *name = request->target.query[i].name;
        if (!route_takes_query(request->route, name)) {
            return error_set_field(
                error, ERROR_UNKNOWN_FIELD, name, "there is no query parameter \"%.60s\" here%s%s", name,
                request->route->query[0] != '\0' ? "; there are: " : "", request->route->query);
        }
    }
    return true;
}

static bool check_route(struct request *request, struct error *error)
{
    struct api *api = request->api;
    struct route_match match = route_find(&request->target, request->method);
    if (match.route == NULL && match.allow == 0) {
        return error_set_field(error, ERROR_NOT_FOUND, "path",
                               "there is nothing at this address; GET / lists what there is");
    }
    if (match.route == NULL) {
        request->body_fault_allow = match.allow;
        return error_set(error, ERROR_METHOD_NOT_ALLOWED,
                         "this address does not take that method; see Allow");
    }
    request->route = match.route;
    request->first_variable = match.first_variable;
    request->second_variable = match.second_variable;
    const char *site = request_header(request, "Sec-Fetch-Site");
    if (site != NULL && strcmp(site, "cross-site") == 0 && (request->method & (HTTP_GET | HTTP_HEAD)) == 0) {
        return error_set_field(error, ERROR_FORBIDDEN, "Sec-Fetch-Site",
                               "a page of another site may not change anything here");
    }
    if (api->options.token != NULL && (match.route->flags & ROUTE_OPEN) == 0 &&
        !token_matches(request_header(request, "Authorization"), api->options.token)) {
        return error_set_field(error, ERROR_UNAUTHORIZED, "Authorization",
                               "a token is needed: Authorization: Bearer <token>");
    }
    if ((match.route->flags & ROUTE_ADMITS) != 0 && atomic_load(&api->is_draining)) {
        return error_set(error, ERROR_UNAVAILABLE, "the service is shutting down; try again in a moment");
    }
    return check_query(request, error);
}

static bool check_body(struct request *request, struct error *error)
{
    if (request->route->body != BODY_JSON) {
        return true;
    }
    const char *type = request_header(request, "Content-Type");
    if (!media_type_is_json(type)) {
        return error_set_field(
            error, ERROR_UNSUPPORTED_MEDIA_TYPE, "Content-Type",
            "the body must be application/json (curl: --json, or -H 'Content-Type: application/json')");
    }
    if (request->content_length > JSON_LIMIT_BYTES) {
        return error_set_field(error, ERROR_TOO_LARGE, "Content-Length",
                               "the body has %" PRIu64 " bytes; at most %u are taken",
                               request->content_length, JSON_LIMIT_BYTES);
    }
    return true;
}

static void answer_fault(struct request *request)
{
    unsigned status = request->body_fault_status != 0 ? request->body_fault_status
                                                      : problem_status(request->body_fault.code);
    struct MHD_Response *response = response_problem(request, status, &request->body_fault, 1, 1);
    if (request->body_fault_allow != 0) {
        char allow[48];
        route_format_allow(request->body_fault_allow, allow, sizeof allow);
        response_header(response, "Allow", allow);
    }
    if (request->body_fault_status == 400) {
        response_header(response, "Connection", "close");
    }
    request_answer(request, status, response);
}

static char *copy_header(const struct request *request, const char *name)
{
    const char *value = request_header(request, name);
    return value != NULL ? memory_copy_text(value) : NULL;
}

static void open_request(struct request *request, const char *method, const char *version)
{
    struct gate gate = {0};
    request->is_open = true;
    request->method = http_method_parse(method);
    (void)MHD_get_connection_values_n(request->connection, MHD_HEADER_KIND, add_header, &gate);
    bool passes = gate_finish(&gate, version, request->api->options.hosts, &request->body_fault);
    if (passes && request->target_fault.code != ERROR_NONE) {
        request->body_fault = request->target_fault;
        passes = false;
    }
    if (!passes) { /* whatever follows on this connection cannot be trusted to be a request */
        (void)atomic_fetch_add(&request->api->refused_requests, 1);
        request->body_fault_status = 400;
        answer_fault(request);
        return;
    }
    request->content_length = gate.content_length;
    request->has_body = gate.chunked || gate.content_length > 0;
    request->if_none_match = copy_header(request, "If-None-Match");
    request->range = copy_header(request, "Range");
    request->if_range = copy_header(request, "If-Range");
    connection_set_phase(request->peer, request->has_body ? PHASE_BODY : PHASE_BUSY);
    if (check_route(request, &request->body_fault) && check_body(request, &request->body_fault) &&
        request->route->body == BODY_BLOB) {
        blob_begin(request);
    }
    bool is_fault = request->body_fault.code != ERROR_NONE;
    if (is_fault && request->has_body &&
        (gate.expects_continue || gate.chunked || gate.content_length > API_DISCARD_LIMIT)) {
        answer_fault(request);
    }
}

/* ---- the body ------------------------------------------------------------------------------------------- */

/* False when the connection has to be cut: nobody listens to an answer behind so much. */
static bool take_body(struct request *request, const char *bytes, size_t count)
{
    request->body_bytes += count;
    if (request->peer != NULL) {
        (void)atomic_fetch_add(&request->peer->phase_bytes, count);
    }
    if (request->is_answered) {
        return false;
    }
    if (request->body_fault.code != ERROR_NONE || request->route->body == BODY_NONE) {
        uint64_t limit = request->content_length > API_DISCARD_LIMIT ? request->content_length
                                                                     : (uint64_t)API_DISCARD_LIMIT;
        return request->body_bytes <= limit;
    }
    if (request->route->body == BODY_BLOB) {
        blob_append(request, bytes, count);
    } else if (request->body_bytes > JSON_LIMIT_BYTES) {
        text_finish(&request->body);
        (void)error_set_field(&request->body_fault, ERROR_TOO_LARGE, "body", "the body passed %u bytes",
                              JSON_LIMIT_BYTES);
    } else {
        text_append_bytes(&request->body, bytes, count);
    }
    return true;
}

/* ---- the handler ---------------------------------------------------------------------------------------- */

static void dispatch(struct request *request)
{
    request->is_dispatched = true;
    connection_set_phase(request->peer, PHASE_BUSY);
    if (request->body_fault.code != ERROR_NONE) {
        answer_fault(request);
    } else {
        request->route->handle(request);
    }
}

/* Hands the answer to MHD if there is one; else the connection is suspended and we are called again. */
static enum MHD_Result queue_answer(struct request *request)
{
    (void)pthread_mutex_lock(&request->api->lock);
    struct MHD_Response *response = request->response;
    request->response = NULL;
    (void)pthread_mutex_unlock(&request->api->lock);
    if (response == NULL) {
        return MHD_YES;
    }
    enum MHD_Result queued = MHD_queue_response(request->connection, request->status, response);
    MHD_destroy_response(response);
    return queued;
}

enum MHD_Result intake_continue(void *context, struct MHD_Connection *connection, const char *url,
                                const char *method, const char *version, const char *bytes, size_t *count,
                                void **state)
{
    (void)context;
    (void)connection;
    (void)url;
    struct request *request = *state;
    if (request == NULL) {
        return MHD_NO;
    }
    if (!request->is_open) {
        open_request(request, method, version);
        return queue_answer(request);
    }
    if (*count > 0) {
        bool goes_on = take_body(request, bytes, *count);
        *count = 0;
        return goes_on ? MHD_YES : MHD_NO;
    }
    if (!request->is_dispatched) {
        dispatch(request);
    }
    return queue_answer(request);
}

void intake_complete(void *context, struct MHD_Connection *connection, void **state,
                     enum MHD_RequestTerminationCode code)
{
    (void)connection;
    (void)code;
    struct api *api = context;
    struct request *request = *state;
    if (request == NULL) {
        return;
    }
    *state = NULL;
    connection_set_phase(request->peer, PHASE_IDLE);
    if (request->is_open && request->status != 0) {
        metrics_count(request);
        int64_t elapsed_ms = (clock_boot_ns(&clock_system) - request->started_mono_ns) / 1000000;
        bool is_read = (request->method & (HTTP_GET | HTTP_HEAD)) != 0;
        const char *pattern = request->route != NULL ? request->route->pattern : "none";
        const struct log_field fields[] = {LOG_TEXT("request_id", request->id),
                                           LOG_TEXT("route", pattern),
                                           LOG_I64("status", request->status),
                                           LOG_I64("elapsed_ms", elapsed_ms),
                                           {0}};
        log_write(is_read ? LOG_DEBUG : LOG_INFO, "request", fields);
    }
    (void)pthread_mutex_lock(&api->lock);
    api->request_count--;
    (void)pthread_cond_broadcast(&api->wake);
    (void)pthread_mutex_unlock(&api->lock);
    request_release(request);
}
