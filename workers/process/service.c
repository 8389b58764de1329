/*
 * workers/process/service.c: one attempt for the daemon.
 *
 * Two kinds of thread. Main owns the socket: it cuts frames, sets the cancel flag, sends heartbeats and
 * whatever the compute thread has put into `outgoing`. The compute thread runs the recipe; its observer only
 * encodes a frame under the lock and wakes main by an eventfd. When the daemon stops reading, progress is
 * dropped past OUTGOING_LIMIT; stages, steps and the last word never are.
 *
 * Life: the CPU time of the process or the recipe's activity count must grow. If neither moved for STALL_MS
 * (a deadlock; a slow disk moves within that), heartbeats stop, the lease runs out and the daemon ends us. A
 * closed socket means that the daemon is gone: exit at once, nothing we write counts any more.
 */
#include "base/cancel.h"
#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"
#include "workers/process/process_internal.h"
#include "workers/process/protocol.h"
#include "workers/process/sandbox.h"
#include "workers/recipe/recipe.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>

#define OUTGOING_LIMIT (1u << 20)
#define STALL_MS       300000

struct service {
    /* Fixed once the compute thread runs. */
    json_t *order; /* owned: the job frame */
    uint64_t epoch;
    int64_t heartbeat_ms;
    int wake_fd;
    struct cancel cancel;

    /* Main only. */
    struct protocol_reader reader;
    pthread_t thread;
    bool is_started;
    int64_t next_heartbeat_ms, last_moved_ms;
    uint64_t last_activity;
    double last_cpu_seconds;

    pthread_mutex_t lock;
    struct text outgoing; /* guarded by lock */
    size_t sent;          /* guarded by lock: bytes of its front that left */
    bool is_finished;     /* guarded by lock: the last word is in `outgoing` */
    int exit_status;      /* guarded by lock */
};

/* ---- towards the daemon -------------------------------------------------------------------------------- */

static void put_frame(struct service *service, json_t *message, bool may_drop)
{
    json_put_i64(message, "epoch", (int64_t)service->epoch);
    pthread_mutex_lock(&service->lock);
    struct error error;
    if (!may_drop || service->outgoing.length - service->sent < OUTGOING_LIMIT) {
        if (!protocol_append_frame(&service->outgoing, message, &error)) {
            JSON_OWNED failure = json_from_error(&error);
            json_put_text(failure, "type", protocol_type_slug(PROTOCOL_ERROR));
            json_put_i64(failure, "epoch", (int64_t)service->epoch);
            CHECK(protocol_append_frame(&service->outgoing, failure, &error));
        }
    }
    pthread_mutex_unlock(&service->lock);
    json_decref(message);
    const uint64_t one = 1;
    (void)!write(service->wake_fd, &one, sizeof one);
}

static void on_stage(void *context, const char *stage)
{
    json_t *message = protocol_message(PROTOCOL_STAGE);
    json_put_text(message, "stage", stage);
    put_frame(context, message, false);
}

static void on_progress(void *context, const char *stage, uint64_t step, uint64_t steps, const char *unit,
                        double ratio, double rate_per_second, double eta_seconds)
{
    json_t *message = protocol_message(PROTOCOL_PROGRESS);
    json_put_text(message, "stage", stage);
    json_put_i64(message, "step", (int64_t)step);
    json_put_i64(message, "steps", (int64_t)steps);
    json_put_text(message, "unit", unit);
    json_put_double(message, "ratio", ratio);
    json_put_double(message, "rate_per_second", rate_per_second);
    json_put_double(message, "eta_seconds", eta_seconds);
    put_frame(context, message, true);
}

static void on_step(void *context, const char *stage, uint64_t step)
{
    json_t *message = protocol_message(PROTOCOL_STEP);
    json_put_text(message, "stage", stage);
    json_put_i64(message, "step", (int64_t)step);
    put_frame(context, message, false);
}

static void on_message(void *context, const char *level, const char *text, json_t *data)
{
    json_t *message = protocol_message(PROTOCOL_MESSAGE);
    json_put_text(message, "level", level);
    json_put_text(message, "message", text);
    json_put(message, "data", data == NULL ? NULL : json_incref(data));
    put_frame(context, message, false);
}

/* The high-water mark of this program alone: getrusage also counts the process image before exec. */
static uint64_t peak_rss_bytes(void)
{
    char bytes[8192];
    int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return 0;
    }
    ssize_t count = read(fd, bytes, sizeof bytes - 1);
    (void)close(fd);
    bytes[count > 0 ? count : 0] = '\0';
    const char *line = strstr(bytes, "VmHWM:");
    return line == NULL ? 0 : strtoull(line + strlen("VmHWM:"), NULL, 10) * 1024;
}

static double cpu_seconds(void)
{
    struct timespec time;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static void put_usage(struct service *service)
{
    json_t *message = protocol_message(PROTOCOL_HEARTBEAT);
    json_put_i64(message, "peak_rss_bytes", (int64_t)peak_rss_bytes());
    json_put_double(message, "cpu_seconds", cpu_seconds());
    put_frame(service, message, true);
}

/* What another try may cure. A full disk, a bad model, a missing file it will not. */
static bool is_retryable(enum error_code code)
{
    return code == ERROR_IO || code == ERROR_UNAVAILABLE;
}

static void finish(struct service *service, json_t *message, int exit_status)
{
    pthread_mutex_lock(&service->lock);
    service->exit_status = exit_status;
    pthread_mutex_unlock(&service->lock);
    put_usage(service); /* what it took in the end */
    put_frame(service, message, false);
    pthread_mutex_lock(&service->lock);
    service->is_finished = true;
    pthread_mutex_unlock(&service->lock);
    const uint64_t one = 1;
    (void)!write(service->wake_fd, &one, sizeof one);
}

static void finish_error(struct service *service, const struct error *error, const char *stage)
{
    if (error->code == ERROR_DRAINED) {
        finish(service, protocol_message(PROTOCOL_DRAINED), 0);
        return;
    }
    json_t *message = json_from_error(error);
    json_put_text(message, "type", protocol_type_slug(PROTOCOL_ERROR));
    json_put_text(message, "stage", stage);
    json_put(message, "retryable", json_boolean(is_retryable(error->code)));
    finish(service, message, 1);
}

/* ---- the compute thread -------------------------------------------------------------------------------- */

static void *compute(void *context)
{
    struct service *service = context;
    const json_t *order = service->order;
    const json_t *model = json_object_get(order, "model");
    const json_t *inventory = json_object_get(model, "inventory");
    const struct recipe_job job = {
        .spec = json_object_get(order, "spec"),
        .model_folder = json_string_value(json_object_get(model, "folder")),
        .inventory = json_is_object(inventory) ? inventory : NULL,
        .models = json_object_get(order, "models"),
        .inputs = json_object_get(order, "inputs"),
        .work_folder = json_string_value(json_object_get(order, "work_folder")),
        .cache_folder = json_string_value(json_object_get(order, "cache_folder")),
        .threads = (size_t)json_integer_value(json_object_get(order, "threads")),
        .memory_limit_bytes = (uint64_t)json_integer_value(json_object_get(order, "memory_limit_bytes")),
        .cancel = &service->cancel,
        .observer = {service, on_stage, on_progress, on_step, on_message},
    };
    json_t *files = NULL;
    json_t *result = NULL;
    const char *stage = NULL;
    struct error error = {0};
    if (recipe_run(&job, &files, &result, &stage, &error)) {
        json_t *message = protocol_message(PROTOCOL_RESULT);
        json_put(message, "files", files);
        json_put(message, "result", result);
        finish(service, message, 0);
    } else {
        finish_error(service, &error, stage);
    }
    return NULL;
}

/* Whether the request says {"compute": {"backend": "cuda"}}: nothing else opens a GPU. */
static bool uses_gpu(const json_t *order)
{
    const json_t *compute = json_object_get(json_object_get(order, "spec"), "compute");
    const char *backend = json_string_value(json_object_get(compute, "backend"));
    return backend != NULL && strcmp(backend, "cuda") == 0;
}

static bool confine_job(const json_t *order, struct error *error)
{
    const struct sandbox_paths paths = {
        .writable = json_string_value(json_object_get(order, "work_folder")),
        .cache = json_string_value(json_object_get(order, "cache_folder")),
        .memory_limit_bytes = (uint64_t)json_integer_value(json_object_get(order, "memory_limit_bytes")),
        .uses_gpu = uses_gpu(order),
    };
    return confine(order, paths, error);
}

static bool check_order(const json_t *order, struct error *error)
{
    int64_t number = 0;
    const char *text = NULL;
    json_t *object = NULL;
    json_t *model = NULL;
    return json_find_i64(order, "", "version", PROTOCOL_VERSION, PROTOCOL_VERSION, &number, error) &&
           json_find_i64(order, "", "threads", 1, 4096, &number, error) &&
           json_get_object(order, "", "spec", &object, error) &&
           json_get_object(order, "", "model", &model, error) &&
           json_get_text(model, "/model", "folder", &text, error) &&
           json_get_object(order, "", "models", &object, error) &&
           json_get_object(order, "", "inputs", &object, error) &&
           json_get_text(order, "", "work_folder", &text, error) &&
           json_find_text(order, "", "cache_folder", &text, error);
}

static void start_job(struct service *service, json_t *order)
{
    if (service->is_started) {
        return; /* one process, one attempt */
    }
    service->is_started = true;
    service->order = json_incref(order);
    service->epoch = (uint64_t)json_integer_value(json_object_get(order, "epoch"));
    json_int_t heartbeat = json_integer_value(json_object_get(order, "heartbeat_ms"));
    service->heartbeat_ms = heartbeat > 0 ? heartbeat : PROTOCOL_HEARTBEAT_MS;
    service->next_heartbeat_ms = 0;
    struct error error = {0};
    int status = 0;
    if (!check_order(order, &error) || !confine_job(order, &error)) {
        finish_error(service, &error, NULL);
    } else if ((status = pthread_create(&service->thread, NULL, compute, service)) != 0) {
        error_set_errno(&error, status, "cannot start the compute thread");
        finish_error(service, &error, NULL);
    } else {
        (void)pthread_detach(service->thread);
    }
}

/* ---- the main thread ----------------------------------------------------------------------------------- */

static void heartbeat(struct service *service, int64_t now_ms)
{
    if (!service->is_started || now_ms < service->next_heartbeat_ms) {
        return;
    }
    service->next_heartbeat_ms = now_ms + service->heartbeat_ms;
    double cpu = cpu_seconds();
    uint64_t activity = recipe_activity();
    if (activity != service->last_activity || cpu - service->last_cpu_seconds > 0.01 ||
        service->last_moved_ms == 0) {
        service->last_moved_ms = now_ms;
        service->last_activity = activity;
        service->last_cpu_seconds = cpu;
    }
    if (now_ms - service->last_moved_ms > STALL_MS) {
        return;
    }
    put_usage(service);
}

/* Returns false once everything is said. */
static bool send_outgoing(struct service *service)
{
    pthread_mutex_lock(&service->lock);
    while (service->sent < service->outgoing.length) {
        ssize_t count = write(PROTOCOL_FD, service->outgoing.bytes + service->sent,
                              service->outgoing.length - service->sent);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count < 0 && errno != EAGAIN) {
            _exit(1); /* the daemon is gone */
        }
        if (count < 0) {
            break;
        }
        service->sent += (size_t)count;
    }
    if (service->sent == service->outgoing.length) {
        text_clear(&service->outgoing);
        service->sent = 0;
    }
    bool is_done = service->is_finished && service->outgoing.length == 0;
    pthread_mutex_unlock(&service->lock);
    return !is_done;
}

static bool has_outgoing(struct service *service)
{
    pthread_mutex_lock(&service->lock);
    bool has = service->outgoing.length > service->sent;
    pthread_mutex_unlock(&service->lock);
    return has;
}

static void take_frame(struct service *service, enum protocol_type type, json_t *message)
{
    switch (type) {
    case PROTOCOL_JOB:
        start_job(service, message);
        break;
    case PROTOCOL_CANCEL:
        cancel_request(&service->cancel, CANCEL_NOW);
        break;
    case PROTOCOL_DRAIN:
        cancel_request(&service->cancel, CANCEL_DRAIN);
        break;
    case PROTOCOL_HEARTBEAT:
    case PROTOCOL_STAGE:
    case PROTOCOL_PROGRESS:
    case PROTOCOL_STEP:
    case PROTOCOL_MESSAGE:
    case PROTOCOL_RESULT:
    case PROTOCOL_ERROR:
    case PROTOCOL_DRAINED:
        (void)fprintf(stderr, "the daemon sent a worker's frame\n");
        _exit(1);
    }
}

static void receive(struct service *service)
{
    char bytes[65536];
    ssize_t count = read(PROTOCOL_FD, bytes, sizeof bytes);
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) {
        return;
    }
    if (count <= 0) {
        _exit(1);
    }
    protocol_reader_feed(&service->reader, bytes, (size_t)count);
    for (;;) {
        JSON_OWNED message = NULL;
        enum protocol_type type = PROTOCOL_JOB;
        struct error error;
        if (!protocol_reader_next(&service->reader, &message, &type, &error)) {
            (void)fprintf(stderr, "%s\n", error.message);
            _exit(1);
        }
        if (message == NULL) {
            return;
        }
        take_frame(service, type, message);
    }
}

static void serve(struct service *service)
{
    while (send_outgoing(service)) {
        int64_t now_ms = clock_boot_ms(&clock_system);
        heartbeat(service, now_ms);
        int64_t wait_ms = service->is_started ? service->next_heartbeat_ms - now_ms : -1;
        struct pollfd polled[2] = {
            {.fd = PROTOCOL_FD, .events = (short)(POLLIN | (has_outgoing(service) ? POLLOUT : 0))},
            {.fd = service->wake_fd, .events = POLLIN},
        };
        (void)poll(polled, 2, wait_ms < 0 && service->is_started ? 0 : (int)wait_ms);
        if ((polled[0].revents & (POLLIN | POLLHUP | POLLERR)) != 0) {
            receive(service);
        }
        if ((polled[1].revents & POLLIN) != 0) {
            uint64_t wakes;
            (void)!read(service->wake_fd, &wakes, sizeof wakes);
        }
    }
}

int service_main(void)
{
    struct stat status;
    if (fstat(PROTOCOL_FD, &status) != 0 || !S_ISSOCK(status.st_mode)) {
        (void)fprintf(stderr, "pruned-worker: descriptor %d is no socket; see --help\n", PROTOCOL_FD);
        return 2;
    }
    sandbox_start(PROTOCOL_FD, true);
    /* A Ctrl-C at the terminal of `pruned serve` is the daemon's to answer; it drains us. */
    (void)signal(SIGINT, SIG_IGN);
    (void)signal(SIGTERM, SIG_IGN);
    (void)signal(SIGHUP, SIG_IGN);
    (void)fcntl(PROTOCOL_FD, F_SETFL, O_NONBLOCK);
    (void)fcntl(PROTOCOL_FD, F_SETFD, FD_CLOEXEC);

    struct service *service = memory_create(1, sizeof *service);
    pthread_mutex_init(&service->lock, NULL);
    service->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    CHECK(service->wake_fd >= 0);
    serve(service);
    int exit_status = service->exit_status;
    /* The compute thread may still be unwinding; the process ends with the last word, not with it. */
    _exit(exit_status);
}
