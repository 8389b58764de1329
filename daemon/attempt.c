/*
 * daemon/attempt.c: one claim of a job, from the claim to the event that ends it. See daemon_internal.h.
 *
 *     prepare   in libuv's pool: work folder, sources to paths; an earlier result is laid out as a folder
 *     run       a pruned-worker with a socket pair as its descriptor 3; frames become storage events with the epoch
 *     settle    the process is reaped and its socket read to the end: only now one final event is applied
 *
 * The final event follows from two facts: the worker's last word (result, error, drained, or none) and why we
 * ended it, if we did (`kill_reason`). Proof of death comes before the event, so no two workers ever hold one
 * job. If storage cannot take the event (a full disk), it is offered again every two seconds; the slot stays
 * taken.
 */
#include "base/cleanup.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/text.h"
#include "daemon/attempt_internal.h"
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define ORPHAN_TICK_MS     1000
#define ORPHAN_TICKS_LIMIT 3 /* then a pipe that outlives the process is somebody else's, and is closed */
/* A worker that is to stop has this long, then SIGKILL: cancel takes effect within two seconds, whatever it does. */
#define CANCEL_GRACE_MS    500

/* ---- run ----------------------------------------------------------------------------------------------- */

static uint64_t count_of(const json_t *message, const char *name)
{
    json_int_t value = json_integer_value(json_object_get(message, name));
    return value > 0 ? (uint64_t)value : 0;
}

/* Whoever holds the pipes now was started by the worker. With some looks in between, what the worker itself said is
 * read. */
static void on_orphan(uv_timer_t *timer)
{
    struct attempt *attempt = timer->data;
    attempt->orphan_ticks += !attempt->is_paused;
    if (attempt->orphan_ticks >= ORPHAN_TICKS_LIMIT) {
        log_warning("a dead worker's pipe is still open elsewhere; closing it",
                    LOG_TEXT("job_id", attempt->job->id), LOG_I64("epoch", attempt->epoch));
        attempt_stop_listening(attempt);
    }
}

static void on_exit_status(uv_process_t *process, int64_t exit_status, int signal_number)
{
    struct attempt *attempt = process->data;
    attempt->exit_status = exit_status;
    attempt->signal_number = signal_number;
    attempt->is_process_started = false;
    (void)uv_timer_start(&attempt->stop_timer, on_orphan, ORPHAN_TICK_MS, ORPHAN_TICK_MS);
    attempt_part_ended(attempt);
}

static void send_job(struct attempt *attempt)
{
    const struct config *config = attempt->daemon->config;
    JSON_OWNED message = protocol_message(PROTOCOL_JOB);
    json_put_i64(message, "version", PROTOCOL_VERSION);
    json_put_text(message, "job_id", attempt->job->id);
    json_put_i64(message, "epoch", (int64_t)attempt->epoch);
    json_put(message, "spec", json_incref(attempt->job->spec));
    sources_put(&attempt->sources, message);
    json_put_text(message, "work_folder", attempt->work_folder);
    if (attempt->cache_folder != NULL) {
        json_put_text(message, "cache_folder", attempt->cache_folder);
    }
    planner_allow(attempt->daemon, attempt->job->spec, message);
    json_put_i64(message, "heartbeat_ms", config->lease_ms / 6);
    attempt_send_frame(attempt, message);
}

static void on_limit(uv_timer_t *timer);
static void on_cancel_grace(uv_timer_t *timer);

static int spawn(struct attempt *attempt)
{
    struct daemon *daemon = attempt->daemon;
    (void)uv_pipe_init(&daemon->loop, &attempt->socket, 0);
    (void)uv_pipe_init(&daemon->loop, &attempt->errors, 0);
    attempt->process.data = attempt->socket.data = attempt->errors.data = attempt;
    attempt->has_handles = true;
    attempt->handle_count += 3;
    char name[] = "pruned-worker";
    char *arguments[] = {name, NULL};
    uv_stdio_container_t streams[PROTOCOL_FD + 1] = {
        {.flags = UV_IGNORE},
        {.flags = UV_IGNORE},
        {.flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE, .data.stream = (uv_stream_t *)&attempt->errors},
        {.flags = UV_CREATE_PIPE | UV_READABLE_PIPE | UV_WRITABLE_PIPE,
         .data.stream = (uv_stream_t *)&attempt->socket},
    };
    const uv_process_options_t options = {.exit_cb = on_exit_status,
                                          .file = daemon->config->worker_path,
                                          .args = arguments,
                                          .env = daemon->worker_environment,
                                          .cwd = attempt->work_folder,
                                          .stdio_count = PROTOCOL_FD + 1,
                                          .stdio = streams};
    return uv_spawn(&daemon->loop, &attempt->process, &options);
}

static void run(struct attempt *attempt)
{
    int status = spawn(attempt);
    if (status != 0) {
        error_list_add(&attempt->faults, ERROR_UNAVAILABLE, "", "cannot start %s: %s",
                       attempt->daemon->config->worker_path, uv_strerror(status));
        attempt_settle(attempt);
        return;
    }
    attempt->phase = PHASE_RUN;
    attempt->is_process_started = true;
    attempt->open_count = 3;
    attempt->last_heard_ns = clock_boot_ns(attempt->daemon->clock);
    log_info("worker started", LOG_TEXT("job_id", attempt->job->id), LOG_I64("epoch", attempt->epoch),
             LOG_I64("pid", attempt->process.pid));
    attempt_listen(attempt);
    send_job(attempt);
    uint64_t seconds = count_of(json_object_get(attempt->job->spec, "limits"), "max_seconds");
    if (seconds > 0) {
        (void)uv_timer_start(&attempt->limit_timer, on_limit, seconds * 1000, 0);
    }
}

/* ---- prepare ------------------------------------------------------------------------------------------- */

/* Whether a model beside the job's own is what an earlier pruning job made of that very model: our exporter wrote its
 * files, so that it can take nobody over whom the model itself could not. */
static bool is_made_of_model(const struct attempt *attempt, size_t index)
{
    const struct sources *sources = &attempt->sources;
    const char *uri = sources->models[index].uri;
    if (index == 0 || uri == NULL || !text_starts_with(uri, "job:") || sources->models[0].uri == NULL) {
        return false;
    }
    struct job *parent =
        storage_peek_job(attempt->daemon->storage, attempt->job->tenant_id, uri + strlen("job:"));
    const char *model = parent != NULL ? spec_model(parent->spec, 0) : NULL;
    bool is_made =
        model != NULL && strcmp(parent->type, "pruning") == 0 && strcmp(model, sources->models[0].uri) == 0;
    job_release(parent);
    return is_made;
}

/* Scores are kept in a folder of the models that they came from: a worker that one of its models has taken over can
 * forge what later jobs find for those very models, and nothing else. What was made of the job's own model needs no
 * folder of its own, so that all its pruned forms find what was measured of it. Without a folder the job does without;
 * here the cache is also cut to its size. */
static void prepare_cache(struct attempt *attempt)
{
    const struct config *config = attempt->daemon->config;
    if (config->score_cache_bytes == 0) {
        return;
    }
    JSON_OWNED owner = json_object();
    json_put_text(owner, "tenant", attempt->job->tenant_id);
    for (size_t i = 0; i < SPEC_MODEL_COUNT; i++) {
        const struct model_source *model = &attempt->sources.models[i];
        if (is_made_of_model(attempt, i)) {
            continue;
        }
        if (model->inventory != NULL) {
            json_put(owner, spec_models[i], json_incref(model->inventory));
        } else if (model->uri != NULL) {
            json_put_text(owner, spec_models[i], model->uri);
        }
    }
    OWNED_MEMORY char *text = json_format(owner, false);
    char name[65];
    sha256_hex_of(text, strlen(text), name);
    struct error error;
    OWNED_MEMORY char *all = file_join(storage_folder(attempt->daemon->storage), "scores");
    OWNED_MEMORY char *folder = file_join(all, name);
    if (file_trim_folder(all, config->score_cache_bytes, &error) && file_make_folders(folder, 0700, &error)) {
        attempt->cache_folder = TAKE(folder);
    } else {
        log_warning("scores will not be kept", LOG_TEXT("job_id", attempt->job->id),
                    LOG_TEXT("cause", error.message));
    }
}

/* libuv's pool. */
static void prepare(uv_work_t *work)
{
    struct attempt *attempt = work->data;
    struct storage *storage = attempt->daemon->storage;
    uint64_t limit = attempt->daemon->config->memory_bytes;
    if (attempt->job->memory_bytes > limit) {
        error_list_add(
            &attempt->faults, ERROR_OUT_OF_MEMORY, "/model",
            "the plan needs %llu bytes of memory; this service may give %llu (workers.memory_bytes)",
            (unsigned long long)attempt->job->memory_bytes, (unsigned long long)limit);
        return;
    }
    if (!sources_resolve(storage, attempt->job->tenant_id,
                         (const char *const *)attempt->daemon->config->roots, attempt->job->spec,
                         SOURCES_ACCEPTED, &attempt->sources, &attempt->faults)) {
        return;
    }
    struct error error;
    attempt->work_folder = storage_make_work_folder(storage, attempt->job->id, attempt->epoch, &error);
    if (attempt->work_folder == NULL) {
        error_list_add_error(&attempt->faults, &error);
        return;
    }
    prepare_cache(attempt);
}

static void lay_out(struct attempt *attempt);

static void prepared(struct attempt *attempt)
{
    if (attempt->faults.count > 0 || attempt->is_cancelled || attempt->is_draining) {
        attempt_settle(attempt);
    } else {
        run(attempt);
    }
}

struct laid_out { /* an earlier result, becoming a folder */
    struct letter letter;
    struct attempt *attempt;
    struct model_source *model; /* in attempt->sources */
    char *folder;
    struct error error;
};

static void deliver_folder(struct letter *letter)
{
    struct laid_out *laid_out = (struct laid_out *)letter;
    struct attempt *attempt = laid_out->attempt;
    if (laid_out->folder == NULL) {
        error_list_add_error(&attempt->faults, &laid_out->error);
    }
    laid_out->model->folder = laid_out->folder;
    free(laid_out);
    lay_out(attempt);
}

static void on_folder(void *context, const char *folder, const struct error *error)
{
    struct laid_out *laid_out = context;
    laid_out->folder = memory_copy_text(folder);
    if (error != NULL) {
        laid_out->error = *error;
    }
    laid_out->letter.deliver = deliver_folder;
    if (!mailbox_post(&laid_out->attempt->daemon->mailbox, &laid_out->letter)) {
        free(laid_out->folder);
        free(laid_out);
    }
}

/* Lays out the next model that is an earlier result, or goes on once all are or the attempt is to stop. */
static void lay_out(struct attempt *attempt)
{
    struct model_source *model = sources_find_unlaid(&attempt->sources);
    if (attempt->faults.count > 0 || model == NULL || attempt->is_cancelled || attempt->is_draining) {
        prepared(attempt);
        return;
    }
    struct laid_out *laid_out = memory_create(1, sizeof *laid_out);
    laid_out->attempt = attempt;
    laid_out->model = model;
    storage_assemble_model(attempt->daemon->storage, model->job, model->files, on_folder, laid_out);
}

static void on_prepared(uv_work_t *work, int status)
{
    (void)status; /* never cancelled */
    lay_out(work->data);
}

struct attempt *attempt_start(struct daemon *daemon, struct job *job, size_t slot)
{
    struct attempt *attempt = memory_create(1, sizeof *attempt);
    attempt->daemon = daemon;
    attempt->job = job_acquire(job);
    attempt->slot = slot;
    attempt->epoch = job->epoch;
    attempt->progress.unit = attempt->unit;
    attempt->progress.ratio = attempt->progress.rate_per_second = attempt->progress.eta_seconds = -1;
    (void)uv_timer_init(&daemon->loop, &attempt->stop_timer);
    (void)uv_timer_init(&daemon->loop, &attempt->limit_timer);
    (void)uv_timer_init(&daemon->loop, &attempt->retry_timer);
    attempt->stop_timer.data = attempt->limit_timer.data = attempt->retry_timer.data = attempt;
    attempt->handle_count = 3;
    attempt->work.data = attempt;
    (void)uv_queue_work(&daemon->loop, &attempt->work, prepare, on_prepared);
    return attempt;
}

/* ---- from outside -------------------------------------------------------------------------------------- */

const char *attempt_job_id(const struct attempt *attempt)
{
    return attempt->job->id;
}

uint64_t attempt_memory_bytes(const struct attempt *attempt)
{
    return attempt->job->memory_bytes;
}

int64_t attempt_last_heard_ns(const struct attempt *attempt)
{
    return attempt->phase == PHASE_RUN ? attempt->last_heard_ns : 0;
}

static void on_cancel_grace(uv_timer_t *timer)
{
    struct attempt *attempt = timer->data;
    attempt_kill(attempt, KILL_CANCEL);
}

static void ask_to_stop(struct attempt *attempt)
{
    if (attempt->phase == PHASE_RUN && attempt->is_process_started) {
        attempt_hurry(attempt);
        attempt_send_word(attempt, PROTOCOL_CANCEL);
        (void)uv_timer_start(&attempt->stop_timer, on_cancel_grace, CANCEL_GRACE_MS, 0);
    }
}

static void on_limit(uv_timer_t *timer)
{
    struct attempt *attempt = timer->data;
    if (attempt->kill_reason == KILL_NONE && attempt->answer == NULL) {
        attempt->kill_reason = KILL_TIME_LIMIT;
        ask_to_stop(attempt);
    }
}

void attempt_cancel(struct attempt *attempt)
{
    if (!attempt->is_cancelled && attempt->phase <= PHASE_RUN) {
        attempt->is_cancelled = true;
        ask_to_stop(attempt);
    }
}

void attempt_drain(struct attempt *attempt)
{
    if (!attempt->is_draining && attempt->phase <= PHASE_RUN) {
        attempt->is_draining = true;
        if (attempt->phase == PHASE_RUN) {
            attempt_send_word(attempt, PROTOCOL_DRAIN);
        }
    }
}

void attempt_kill_for_drain(struct attempt *attempt)
{
    attempt->is_draining = true;
    attempt_kill(attempt, KILL_DRAIN);
    if (attempt->phase == PHASE_SETTLE && uv_is_active((uv_handle_t *)&attempt->retry_timer)) {
        /* Storage would not take the event; the next start releases the job anyway. */
        (void)uv_timer_stop(&attempt->retry_timer);
        attempt->is_recorded = true;
        attempt_check_ended(attempt);
    }
}

void attempt_tick(struct attempt *attempt, int64_t now_ns, int64_t late_ns)
{
    if (attempt->phase != PHASE_RUN || !attempt->is_process_started || attempt->kill_reason != KILL_NONE) {
        return;
    }
    if (attempt->is_paused) {
        attempt->last_heard_ns = now_ns; /* it is we who do not listen */
    } else if (late_ns > 0) {
        attempt->last_heard_ns += late_ns; /* what it said meanwhile still waits in the socket */
    }
    if (now_ns - attempt->last_heard_ns > attempt->daemon->config->lease_ms * 1000000) {
        attempt_kill(attempt, KILL_HUNG);
    }
}
