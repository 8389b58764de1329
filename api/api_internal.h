/*
 * api/api_internal.h: what the files of this folder share. For api/ only.
 *
 * The life of a request: MHD hands the raw target (uri_log), then the header (first call of the access
 * handler: the gate, the route, the token), then the body piece by piece, then nothing more: the route's
 * handler runs. A handler ends in exactly one request_answer, at once or later:
 *
 *     handle_x(request)                         on an MHD thread
 *         request_suspend(request);             the connection leaves the epoll set; one reference for the callback
 *         storage_apply(..., done, request);
 *     done(context, job, ...)                   on a storage or host thread, or on this one before the call returns
 *         request_answer_json(request, ...);    stores the response and resumes the connection
 *         request_resume_done(request);         gives the reference back
 *
 * Locks: api->lock guards the list of suspended requests, the list of watchers and the list of connections.
 * It is never held around a call to storage or the host. MHD_resume_connection is called under it: MHD's own
 * lock is only ever taken after ours, and a request that is answered cannot be answered again by api_stop.
 */
#ifndef API_INTERNAL_H
#define API_INTERNAL_H

#include "api/api.h"
#include "api/gate.h"
#include "api/route.h"
#include "api/target.h"
#include "base/param.h"
#include "base/rng.h"
#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

#define API_JOB_TYPE_LIMIT 8
#define API_RETRY_SECONDS  "5"
#define API_WAIT_LIMIT     25u         /* seconds; Argo and friends give up at 30 */
#define API_DISCARD_LIMIT  (16u << 20) /* of a refused body, read so that the client sees its answer */
#define API_STATUS_COUNT   600
#define API_BUCKET_COUNT   11

struct api_job_type { /* fixed after start */
    char name[32];
    struct param_tree body;
    json_t *schema;
};

struct api_connection {                     /* one accepted socket */
    struct api_connection *next, *previous; /* guarded by lock */
    int fd;
    /* Atomic: written by its MHD thread, read by the ticker. Phase start in ms of the monotonic clock. */
    atomic_llong phase_since_ms;
    atomic_int phase; /* enum connection_phase */
    atomic_ullong phase_bytes;
    bool has_hung_up; /* ticker only: seen so at the last look */
};
enum connection_phase { PHASE_FIRST, PHASE_IDLE, PHASE_BODY, PHASE_BUSY };

struct request {
    unsigned magic;
    struct api *api;
    struct MHD_Connection *connection;
    struct api_connection *peer; /* may be NULL */
    char id[40];                 /* X-Request-Id */
    int64_t started_mono_ns;

    /* Fixed once the header was read. */
    char *raw_target; /* owned */
    struct target target;
    struct error target_fault;
    enum http_method method;   /* 0 until the header is there */
    const struct route *route; /* NULL: refused before */
    size_t first_variable, second_variable;
    uint64_t content_length;
    /* Owned copies, or NULL: answers are made on threads that must not look at the connection. */
    char *if_none_match, *range, *if_range;
    void (*then)(struct request *request, struct job *job); /* see job_then */
    bool has_body, is_open;                                 /* is_open: header was seen */

    /* The body, while it arrives; MHD thread only. */
    struct text body;
    struct storage_upload *upload; /* owned; BODY_BLOB */
    struct error body_fault;       /* answered when the body has been read off */
    unsigned body_fault_status;    /* 0: by code */
    unsigned body_fault_allow;     /* methods for a 405 */
    uint64_t body_bytes;
    bool is_dispatched;
    bool is_replay; /* answered from an earlier request with the same Idempotency-Key */

    /* Guarded by api->lock. */
    bool is_answered, is_suspended;
    unsigned status;
    struct MHD_Response *response; /* owned until queued */
    struct request *next_suspended, *previous_suspended;

    /* Long poll; guarded by api->lock while it is in the list. */
    struct request *next_watch;
    bool is_watching, until_terminal;
    char watch_job[40];
    char watch_etag[64];
    int64_t watch_deadline_mono_ns;

    atomic_int reference_count;
};

struct api {
    struct api_options options; /* strings and arrays copied; catalogue borrowed. Fixed after start */
    struct MHD_Daemon *daemon;
    int listen_fd;
    uint16_t port;
    char etag_nonce[9]; /* of this process: versions of jobs start again from what is durable */
    struct api_job_type job_types[API_JOB_TYPE_LIMIT];
    size_t job_type_count;
    json_t *methods; /* owned; the answer of GET /v1/methods */
    int64_t started_at_ms;
    atomic_bool is_draining;
    atomic_bool refuses_clients; /* stopping: new connections are turned away */

    pthread_mutex_t lock;
    pthread_cond_t wake;      /* of api_stop, which waits for the last request and callback */
    pthread_cond_t tick_wake; /* of the ticker */
    struct request *suspended, *watches;
    size_t suspended_count, watch_count, connection_count;
    size_t callback_count; /* callbacks still to come */
    size_t request_count;  /* created and not yet completed */
    struct api_connection *connections;
    bool is_stopping; /* guarded by lock */
    pthread_t ticker;
    bool has_ticker;

    /* For /metrics. */
    atomic_ullong answered[ROUTE_COUNT + 1][API_STATUS_COUNT];
    atomic_ullong durations[ROUTE_COUNT + 1][API_BUCKET_COUNT + 1];
    atomic_ullong duration_sum_us[ROUTE_COUNT + 1];
    atomic_ullong upload_bytes, reaped_connections, refused_requests;
};

/* ---- request.c: life and answers -------------------------------------------------------------------------
 */

struct request *request_create(struct api *api, const char *raw_target);
struct request *request_acquire(struct request *request);
void request_release(struct request *request);
/* Takes a reference for the callback to come; MHD thread, from the handler. */
void request_suspend(struct request *request);
/* Ends what request_suspend began: the callback's reference. */
void request_resume_done(struct request *request);
/* True once it was answered, by api_stop for instance: a callback that comes later must start nothing more.
 */
bool request_is_answered(struct request *request);
/* Any thread, exactly once. Takes the response. The connection is not to be touched afterwards. */
void request_answer(struct request *request, unsigned status, struct MHD_Response *response);
void request_answer_json(struct request *request, unsigned status, json_t *body); /* takes body */
void request_answer_text(struct request *request, unsigned status, const char *type, const char *text);
void request_answer_empty(struct request *request, unsigned status);
/* status 0: by the code. */
void request_answer_error(struct request *request, unsigned status, const struct error *error);
/* Faults of a request body: 422 (or what the first code demands). */
void request_answer_faults(struct request *request, const struct error_list *faults);
struct MHD_Response *response_json(json_t *body) MUST_USE; /* takes body */
struct MHD_Response *response_empty(void) MUST_USE;
void response_header(struct MHD_Response *response, const char *name, const char *value);
struct MHD_Response *response_problem(const struct request *request, unsigned status,
                                      const struct error *items, size_t count, size_t total) MUST_USE;
/* Segment behind the first or second {}. */
const char *request_variable(const struct request *request, size_t index);
/* The segments that {...} stands for, joined by slashes; owned. */
char *request_tail(const struct request *request, size_t index) MUST_USE;
/* Only while the connection is ours: on its MHD thread, before the handler returns. */
const char *request_header(const struct request *request, const char *name); /* NULL if absent */
/* Query parameters; false after adding nothing: *error was set (field = name). Absent: output untouched. */
bool request_query_u64(const struct request *request, const char *name, uint64_t min, uint64_t max,
                       uint64_t *ret_value, struct error *error) MUST_USE;
bool request_query_bool(const struct request *request, const char *name, bool *ret_value,
                        struct error *error) MUST_USE;
/* "job_" + 26 of [0-9A-Z], or another prefix. */
bool request_is_identifier(const char *text, const char *prefix);
const char *request_tenant(const struct request *request);

/* ---- watch.c: long polls ----------------------------------------------------------------------------------
 */

/* Suspends the request until the job changes from `etag` (or is terminal), or the seconds pass. */
void watch_add(struct request *request, const char *job_id, const char *etag, bool until_terminal,
               unsigned seconds);
void watch_notify(struct api *api, struct job *job);
/* Answers those past their deadline; returns the next deadline, or 0. Ticker thread. */
int64_t watch_expire(struct api *api, int64_t now_mono_ns, bool all);

/* ---- jobs.c --------------------------------------------------------------------------------------------- */

/* Calls `then` with the job of the path (borrowed), at once or from a storage thread; answers 404 itself. */
void job_then(struct request *request, void (*then)(struct request *request, struct job *job));

/* ---- job_view.c ----------------------------------------------------------------------------------------- */

json_t *job_view(const struct job *job) MUST_USE; /* owned */
void job_view_etag(const struct api *api, const struct job *job, char ret_etag[64]);
/* Answers with the job, its ETag, and 304 where If-None-Match has it. */
void job_view_answer(struct request *request, unsigned status, const struct job *job);

/* ---- models.c ------------------------------------------------------------------------------------------- */

json_t *model_view(const struct model_record *model) MUST_USE; /* owned */

/* ---- intake.c: from the first byte to the handler ------------------------------------------------------- */

/* The callbacks of libmicrohttpd; context: the api. */
void *intake_begin(void *context, const char *raw_target, struct MHD_Connection *connection);
enum MHD_Result intake_continue(void *context, struct MHD_Connection *connection, const char *url,
                                const char *method, const char *version, const char *bytes, size_t *count,
                                void **state);
void intake_complete(void *context, struct MHD_Connection *connection, void **state,
                     enum MHD_RequestTerminationCode code);

/* ---- connections.c: every accepted socket, and the end of the slow ones --------------------------------- */

void connections_notify(void *context, struct MHD_Connection *connection, void **peer,
                        enum MHD_ConnectionNotificationCode code);
void connection_set_phase(struct api_connection *peer, enum connection_phase phase); /* NULL is fine */
void connections_reap(struct api *api, int64_t now_ms);

/* ---- blobs.c -------------------------------------------------------------------------------------------- */

/* At the header: opens the upload or decides the answer (request->body_fault). */
void blob_begin(struct request *request);
void blob_append(struct request *request, const void *bytes, size_t count);

/* ---- submit.c, methods.c, metrics.c --------------------------------------------------------------------- */

bool catalogue_start(struct api *api, struct error *error) MUST_USE;
void catalogue_finish(struct api *api);
const struct api_job_type *catalogue_find_type(const struct api *api, const char *name);
void metrics_count(struct request *request);

#define ROUTE(name, handler, method, pattern, body, flags, query)                                            \
    void handle_##handler(struct request *request);
#include "api/routes.def"
#undef ROUTE

#endif
