/*
 * daemon/attempt.c: one claim of a job, from the claim to the event that ends it. See daemon_internal.h.
 *
 *     prepare   in libuv's pool: work folder, sources to paths; an earlier result is laid out as a folder
 *     run       a pruned-worker with a socket pair as its descriptor 3; frames become storage events, each
 * with the epoch settle    the process is reaped and its socket read to the end: only now one final event is
 * applied
 *
 * The final event follows from two facts: the worker's last word (result, error, drained, or none) and why we
 * ended it, if we did (`kill_reason`). Proof of death comes before the event, so no two workers ever hold one
 * job. If storage cannot take the event (a full disk), it is offered again every two seconds; the slot stays
 * taken.
 */
#include "api/sources.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "daemon/daemon_internal.h"
#include "workers/process/protocol.h"
#include <signal.h>
#include <stdio.h>
#include <string.h>

#define CANCEL_GRACE_MS   1000 /* cancel takes effect within two seconds, whatever the worker does */
#define SETTLE_RETRY_MS   2000
#define OUTPUT_LINE_LIMIT 200 /* lines of a worker's stderr that reach the log */
#define OUTPUT_LINE_BYTES 1000

enum kill_reason {
    KILL_NONE,
    KILL_CANCEL,
    KILL_HUNG,
    KILL_DRAIN,
    KILL_TIME_LIMIT,
    KILL_PROTOCOL,
    KILL_FENCED
};
enum phase { PHASE_PREPARE, PHASE_RUN, PHASE_SETTLE, PHASE_ENDED };

struct attempt {
    struct daemon *daemon;
    struct job *job; /* acquired; as it was claimed */
    size_t slot;
    uint64_t epoch;
    enum phase phase;
    enum kill_reason kill_reason;
    bool is_cancelled, is_draining;

    /* prepare */
    uv_work_t work;
    char *work_folder; /* owned */
    struct sources sources;
    struct error_list faults; /* why it could not be prepared */

    /* run */
    uv_process_t process;
    uv_pipe_t socket, errors;
    uv_timer_t cancel_timer, limit_timer, retry_timer;
    bool has_handles, is_process_started;
    unsigned open_count;   /* process, socket, errors: what has not ended yet */
    unsigned handle_count; /* handles that must be closed before free */
    struct protocol_reader reader;
    int64_t last_heard_ns;
    struct job_progress progress;
    int64_t exit_status;
    int signal_number;
    struct text line; /* of stderr, so far */
    size_t line_count;
    char last_line[256];

    /* settle */
    enum protocol_type last_word; /* valid with `answer` */
    json_t *answer;               /* owned: the result, error or drained frame; NULL: none came */
    size_t event_count;           /* storage calls whose callbacks are outstanding */
    bool is_recorded;             /* the final event was taken */
};

struct report { /* a storage callback on its way to the loop */
    struct letter letter;
    struct attempt *attempt;
    struct job *job; /* acquired, or NULL */
    bool is_final;
    struct error error;
};

static void attempt_settle(struct attempt *attempt);
static void attempt_check_ended(struct attempt *attempt);

/* ---- events to storage -----------------------------------------------------------------------------------
 */

static const char *tenant(const struct attempt *attempt)
{
    return attempt->job->tenant_id;
}

static void kill_worker(struct attempt *attempt, enum kill_reason reason)
{
    if (attempt->kill_reason == KILL_NONE) {
        attempt->kill_reason = reason;
    }
    if (attempt->is_process_started && attempt->phase == PHASE_RUN) {
        (void)uv_process_kill(&attempt->process, SIGKILL);
    }
}

static void on_retry(uv_timer_t *timer)
{
    attempt_settle(timer->data);
}

static void deliver_final(struct attempt *attempt, const struct report *report)
{
    const char *id = attempt->job->id;
    if (report->error.code == ERROR_NONE) {
        attempt->is_recorded = true;
        log_info("attempt ended", LOG_TEXT("job_id", id), LOG_I64("epoch", attempt->epoch),
                 LOG_TEXT("state", job_state_slug(report->job->state)));
        if (job_state_is_terminal(report->job->state)) {
            storage_remove_work_folder(attempt->daemon->storage, id);
        }
    } else if (report->error.code == ERROR_FENCED || report->error.code == ERROR_NOT_FOUND) {
        attempt->is_recorded = true; /* someone else's by now; nothing of ours counts */
        log_warning("attempt was fenced", LOG_TEXT("job_id", id), LOG_I64("epoch", attempt->epoch));
    } else if (report->error.code == ERROR_CONFLICT && !attempt->is_cancelled) {
        attempt->is_cancelled = true; /* a cancel overtook the result */
        attempt_settle(attempt);
    } else {
        log_error("cannot record how an attempt ended", LOG_TEXT("job_id", id),
                  LOG_TEXT("cause", report->error.message));
        if (report->error.code == ERROR_CONFLICT) {
            attempt->is_recorded = true;
        } else if (attempt->answer != NULL && attempt->last_word == PROTOCOL_RESULT) {
            /* Publishing failed: that is this attempt's error now. */
            json_t *failure = json_from_error(&report->error);
            json_put_text(failure, "stage", "publish");
            json_decref(attempt->answer);
            attempt->answer = failure;
            attempt->last_word = PROTOCOL_ERROR;
            attempt_settle(attempt);
        } else {
            (void)uv_timer_start(&attempt->retry_timer, on_retry, SETTLE_RETRY_MS, 0);
        }
    }
}

static void deliver_report(struct letter *letter)
{
    struct report *report = (struct report *)letter;
    struct attempt *attempt = report->attempt;
    attempt->event_count--;
    if (report->is_final) {
        deliver_final(attempt, report);
    } else if (report->error.code == ERROR_FENCED) {
        kill_worker(attempt, KILL_FENCED);
    } else if (report->error.code != ERROR_NONE && report->error.code != ERROR_CONFLICT) {
        log_warning("cannot record an event", LOG_TEXT("job_id", attempt->job->id),
                    LOG_TEXT("cause", report->error.message));
    }
    job_release(report->job);
    free(report);
    attempt_check_ended(attempt);
}

static void on_applied(void *context, struct job *job, bool replayed, const struct error *error)
{
    (void)replayed;
    struct report *report = context;
    report->job = job == NULL ? NULL : job_acquire(job);
    if (error != NULL) {
        report->error = *error;
    }
    report->letter.deliver = deliver_report;
    if (!mailbox_post(&report->attempt->daemon->mailbox, &report->letter)) {
        job_release(report->job);
        free(report);
    }
}

static struct report *report_create(struct attempt *attempt, bool is_final)
{
    struct report *report = memory_create(1, sizeof *report);
    report->attempt = attempt;
    report->is_final = is_final;
    attempt->event_count++;
    return report;
}

static void apply(struct attempt *attempt, struct job_event event, bool is_final)
{
    event.epoch = attempt->epoch;
    storage_apply(attempt->daemon->storage, tenant(attempt), attempt->job->id, &event, on_applied,
                  report_create(attempt, is_final));
}

/* ---- settle ----------------------------------------------------------------------------------------------
 */

static void settle_error(struct attempt *attempt)
{
    struct error error;
    json_to_error(attempt->answer, &error);
    if (attempt->kill_reason == KILL_TIME_LIMIT) {
        error_set_field(&error, ERROR_TIME_LIMIT, "/limits/max_seconds", "the job ran longer than its limit");
    } else if (error.code == ERROR_DRAINED) {
        apply(attempt, (struct job_event){.kind = JOB_EVENT_RELEASED}, true);
        return;
    }
    bool retryable = json_is_true(json_object_get(attempt->answer, "retryable"));
    apply(attempt,
          (struct job_event){.kind = retryable ? JOB_EVENT_FAILED_TRANSIENT : JOB_EVENT_FAILED,
                             .error = &error,
                             .error_stage = json_string_value(json_object_get(attempt->answer, "stage"))},
          true);
}

static void settle_died(struct attempt *attempt)
{
    struct error error;
    const char *stage = attempt->progress.unit != NULL ? attempt->job->stage : NULL;
    if (attempt->kill_reason == KILL_HUNG) {
        error_set(&error, ERROR_WORKER_HUNG, "the worker was silent for %lld ms and was killed",
                  (long long)attempt->daemon->config->lease_ms);
    } else if (attempt->kill_reason == KILL_PROTOCOL) {
        error_set(&error, ERROR_WORKER_CRASH, "the worker broke the protocol and was killed");
    } else if (attempt->signal_number != 0) {
        error_set(&error, ERROR_WORKER_CRASH, "the worker was ended by signal %d (%s)%s%.200s",
                  attempt->signal_number, strsignal(attempt->signal_number),
                  *attempt->last_line != '\0' ? ": " : "", attempt->last_line);
    } else {
        error_set(&error, ERROR_WORKER_CRASH, "the worker exited with status %lld and no answer%s%.200s",
                  (long long)attempt->exit_status, *attempt->last_line != '\0' ? ": " : "",
                  attempt->last_line);
    }
    attempt->daemon->scheduler.death_count++;
    log_warning("worker died", LOG_TEXT("job_id", attempt->job->id), LOG_I64("epoch", attempt->epoch),
                LOG_TEXT("cause", error.message));
    apply(attempt,
          (struct job_event){
              .kind = JOB_EVENT_WORKER_DIED, .error = &error, .error_stage = stage, .message = error.message},
          true);
}

static void settle_faults(struct attempt *attempt)
{
    const struct error *error = &attempt->faults.items[0];
    bool transient = error->code == ERROR_IO || error->code == ERROR_UNAVAILABLE;
    apply(attempt,
          (struct job_event){.kind = transient ? JOB_EVENT_FAILED_TRANSIENT : JOB_EVENT_FAILED,
                             .error = error,
                             .error_stage = "prepare"},
          true);
}

static void attempt_settle(struct attempt *attempt)
{
    attempt->phase = PHASE_SETTLE;
    if (attempt->kill_reason == KILL_FENCED) {
        attempt->is_recorded = true;
    } else if (attempt->is_cancelled) {
        apply(attempt, (struct job_event){.kind = JOB_EVENT_CANCELLED}, true);
    } else if (attempt->answer != NULL && attempt->last_word == PROTOCOL_RESULT) {
        storage_publish(attempt->daemon->storage, tenant(attempt), attempt->job->id, attempt->epoch,
                        json_object_get(attempt->answer, "files"), json_object_get(attempt->answer, "result"),
                        on_applied, report_create(attempt, true));
    } else if (attempt->answer != NULL && attempt->last_word == PROTOCOL_ERROR) {
        settle_error(attempt);
    } else if (attempt->faults.stored > 0) {
        settle_faults(attempt);
    } else if (attempt->kill_reason == KILL_TIME_LIMIT) {
        struct error error;
        error_set_field(&error, ERROR_TIME_LIMIT, "/limits/max_seconds", "the job ran longer than its limit");
        apply(attempt, (struct job_event){.kind = JOB_EVENT_FAILED, .error = &error}, true);
    } else if (attempt->is_draining || attempt->answer != NULL) {
        apply(attempt, (struct job_event){.kind = JOB_EVENT_RELEASED}, true);
    } else {
        settle_died(attempt);
    }
    attempt_check_ended(attempt);
}

static void attempt_free(struct attempt *attempt)
{
    free(attempt->work_folder);
    sources_finish(&attempt->sources);
    error_list_finish(&attempt->faults);
    protocol_reader_finish(&attempt->reader);
    text_finish(&attempt->line);
    json_decref(attempt->answer);
    job_release(attempt->job);
    free(attempt);
}

static void on_closed(uv_handle_t *handle)
{
    struct attempt *attempt = handle->data;
    if (--attempt->handle_count == 0) {
        attempt_free(attempt);
    }
}

static void close_handle(struct attempt *attempt, uv_handle_t *handle)
{
    handle->data = attempt;
    uv_close(handle, on_closed);
}

static void attempt_check_ended(struct attempt *attempt)
{
    if (attempt->phase != PHASE_SETTLE || !attempt->is_recorded || attempt->event_count > 0) {
        return;
    }
    attempt->phase = PHASE_ENDED;
    scheduler_attempt_ended(attempt->daemon, attempt->slot);
    close_handle(attempt, (uv_handle_t *)&attempt->cancel_timer);
    close_handle(attempt, (uv_handle_t *)&attempt->limit_timer);
    close_handle(attempt, (uv_handle_t *)&attempt->retry_timer);
    if (attempt->has_handles) {
        close_handle(attempt, (uv_handle_t *)&attempt->process);
        close_handle(attempt, (uv_handle_t *)&attempt->socket);
        close_handle(attempt, (uv_handle_t *)&attempt->errors);
    }
}

/* ---- frames ----------------------------------------------------------------------------------------------
 */

static double number_of(const json_t *message, const char *name, double missing)
{
    const json_t *value = json_object_get(message, name);
    return json_is_number(value) ? json_number_value(value) : missing;
}

static uint64_t count_of(const json_t *message, const char *name)
{
    json_int_t value = json_integer_value(json_object_get(message, name));
    return value > 0 ? (uint64_t)value : 0;
}

static const char *text_of(const json_t *message, const char *name)
{
    return json_string_value(json_object_get(message, name));
}

static void take_progress(struct attempt *attempt, const json_t *message)
{
    struct job_progress *progress = &attempt->progress;
    progress->step = count_of(message, "step");
    progress->steps = count_of(message, "steps");
    progress->ratio = number_of(message, "ratio", -1);
    progress->rate_per_second = number_of(message, "rate_per_second", -1);
    progress->eta_seconds = number_of(message, "eta_seconds", -1);
    progress->unit = text_of(message, "unit");
    storage_progress(attempt->daemon->storage, attempt->job->id, attempt->epoch, progress);
    progress->unit = NULL; /* the message goes */
}

static void take_frame(struct attempt *attempt, enum protocol_type type, json_t *message)
{
    switch (type) {
    case PROTOCOL_HEARTBEAT:
        attempt->progress.peak_rss_bytes = count_of(message, "peak_rss_bytes");
        attempt->progress.cpu_seconds = number_of(message, "cpu_seconds", 0);
        break;
    case PROTOCOL_STAGE:
        apply(attempt, (struct job_event){.kind = JOB_EVENT_STAGE, .stage = text_of(message, "stage")},
              false);
        break;
    case PROTOCOL_PROGRESS:
        take_progress(attempt, message);
        break;
    case PROTOCOL_STEP:
        apply(attempt,
              (struct job_event){.kind = JOB_EVENT_STEP_FINISHED, .stage = text_of(message, "stage")}, false);
        break;
    case PROTOCOL_MESSAGE:
        apply(attempt,
              (struct job_event){.kind = JOB_EVENT_MESSAGE,
                                 .level = text_of(message, "level"),
                                 .message = text_of(message, "message"),
                                 .data = json_object_get(message, "data")},
              false);
        break;
    case PROTOCOL_RESULT:
    case PROTOCOL_ERROR:
    case PROTOCOL_DRAINED:
        if (attempt->answer == NULL) {
            attempt->answer = json_incref(message);
            attempt->last_word = type;
        }
        break;
    case PROTOCOL_JOB:
    case PROTOCOL_CANCEL:
    case PROTOCOL_DRAIN:
        kill_worker(attempt, KILL_PROTOCOL);
        break;
    }
}

static void take_frames(struct attempt *attempt)
{
    for (;;) {
        struct error error;
        JSON_OWNED message = NULL;
        enum protocol_type type = PROTOCOL_HEARTBEAT;
        if (!protocol_reader_next(&attempt->reader, &message, &type, &error)) {
            log_warning("worker broke the protocol", LOG_TEXT("job_id", attempt->job->id),
                        LOG_TEXT("cause", error.message));
            kill_worker(attempt, KILL_PROTOCOL);
            return;
        }
        if (message == NULL) {
            return;
        }
        if (count_of(message, "epoch") != attempt->epoch || attempt->kill_reason == KILL_PROTOCOL) {
            kill_worker(attempt, KILL_PROTOCOL);
            return;
        }
        take_frame(attempt, type, message);
    }
}

static void on_allocate(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
    (void)handle;
    buffer->base = memory_create(1, suggested);
    buffer->len = suggested;
}

static void part_ended(struct attempt *attempt)
{
    if (--attempt->open_count == 0) {
        (void)uv_timer_stop(&attempt->cancel_timer);
        (void)uv_timer_stop(&attempt->limit_timer);
        attempt_settle(attempt);
    }
}

static void on_frames(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer)
{
    struct attempt *attempt = stream->data;
    if (count > 0) {
        attempt->last_heard_ns = clock_boot_ns(attempt->daemon->clock);
        protocol_reader_feed(&attempt->reader, buffer->base, (size_t)count);
        take_frames(attempt);
    }
    free(buffer->base);
    if (count < 0) {
        (void)uv_read_stop(stream);
        part_ended(attempt);
    }
}

static void log_line(struct attempt *attempt)
{
    if (attempt->line.length == 0) {
        return;
    }
    (void)snprintf(attempt->last_line, sizeof attempt->last_line, "%.*s", (int)sizeof attempt->last_line - 1,
                   attempt->line.bytes);
    attempt->line_count++;
    if (attempt->line_count <= OUTPUT_LINE_LIMIT) {
        log_warning(attempt->line_count == OUTPUT_LINE_LIMIT ? "worker output (no more follows)"
                                                             : "worker output",
                    LOG_TEXT("job_id", attempt->job->id), LOG_TEXT("line", attempt->line.bytes));
    }
    text_clear(&attempt->line);
}

static void on_errors(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer)
{
    struct attempt *attempt = stream->data;
    for (ssize_t i = 0; i < count; i++) {
        char byte = buffer->base[i];
        if (byte == '\n') {
            log_line(attempt);
        } else if (attempt->line.length < OUTPUT_LINE_BYTES) {
            text_append_bytes(&attempt->line, byte >= ' ' && byte < 127 ? &byte : "?", 1);
        }
    }
    free(buffer->base);
    if (count < 0) {
        log_line(attempt);
        (void)uv_read_stop(stream);
        part_ended(attempt);
    }
}

static void on_exit_status(uv_process_t *process, int64_t exit_status, int signal_number)
{
    struct attempt *attempt = process->data;
    attempt->exit_status = exit_status;
    attempt->signal_number = signal_number;
    attempt->is_process_started = false;
    part_ended(attempt);
}

struct outgoing {
    uv_write_t write;
    struct text bytes;
};

static void on_sent(uv_write_t *write, int status)
{
    (void)status; /* a worker that is gone shows it by its exit */
    struct outgoing *outgoing = (struct outgoing *)write;
    text_finish(&outgoing->bytes);
    free(outgoing);
}

static void send_frame(struct attempt *attempt, const json_t *message)
{
    struct outgoing *outgoing = memory_create(1, sizeof *outgoing);
    struct error error;
    if (!protocol_append_frame(&outgoing->bytes, message, &error)) {
        log_error("frame not sent", LOG_TEXT("job_id", attempt->job->id), LOG_TEXT("cause", error.message));
        free(outgoing);
        kill_worker(attempt, KILL_PROTOCOL);
        return;
    }
    uv_buf_t buffer = uv_buf_init(outgoing->bytes.bytes, (unsigned)outgoing->bytes.length);
    if (uv_write(&outgoing->write, (uv_stream_t *)&attempt->socket, &buffer, 1, on_sent) != 0) {
        on_sent(&outgoing->write, 0);
    }
}

static void send_word(struct attempt *attempt, enum protocol_type type)
{
    JSON_OWNED message = protocol_message(type);
    json_put_i64(message, "epoch", (int64_t)attempt->epoch);
    send_frame(attempt, message);
}

/* ---- run -------------------------------------------------------------------------------------------------
 */

static void send_job(struct attempt *attempt)
{
    const struct config *config = attempt->daemon->config;
    const json_t *limits = json_object_get(attempt->job->spec, "limits");
    uint64_t threads = count_of(limits, "threads");
    uint64_t memory = count_of(limits, "max_memory_bytes");
    JSON_OWNED message = protocol_message(PROTOCOL_JOB);
    json_put_i64(message, "version", PROTOCOL_VERSION);
    json_put_text(message, "job_id", attempt->job->id);
    json_put_i64(message, "epoch", (int64_t)attempt->epoch);
    json_put(message, "spec", json_incref(attempt->job->spec));
    json_t *model = json_object();
    json_put_text(model, "folder", attempt->sources.model_folder);
    json_put(model, "inventory",
             attempt->sources.inventory != NULL ? json_incref(attempt->sources.inventory) : json_null());
    json_put(message, "model", model);
    json_put(message, "inputs", json_incref(attempt->sources.inputs));
    json_put_text(message, "work_folder", attempt->work_folder);
    json_put_i64(message, "threads",
                 (int64_t)(threads > 0 && threads < config->threads ? threads : config->threads));
    json_put_i64(message, "memory_limit_bytes",
                 (int64_t)(memory > 0 && memory < config->memory_bytes ? memory : config->memory_bytes));
    json_put_i64(message, "heartbeat_ms", config->lease_ms / 6);
    send_frame(attempt, message);
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
    (void)uv_read_start((uv_stream_t *)&attempt->socket, on_allocate, on_frames);
    (void)uv_read_start((uv_stream_t *)&attempt->errors, on_allocate, on_errors);
    send_job(attempt);
    uint64_t seconds = count_of(json_object_get(attempt->job->spec, "limits"), "max_seconds");
    if (seconds > 0) {
        (void)uv_timer_start(&attempt->limit_timer, on_limit, seconds * 1000, 0);
    }
}

/* ---- prepare ---------------------------------------------------------------------------------------------
 */

/* libuv's pool. */
static void prepare(uv_work_t *work)
{
    struct attempt *attempt = work->data;
    struct storage *storage = attempt->daemon->storage;
    if (!sources_resolve(storage, tenant(attempt), (const char *const *)attempt->daemon->config->roots,
                         attempt->job->spec, &attempt->sources, &attempt->faults)) {
        return;
    }
    struct error error;
    attempt->work_folder = storage_make_work_folder(storage, attempt->job->id, attempt->epoch, &error);
    if (attempt->work_folder == NULL) {
        error_list_add_error(&attempt->faults, &error);
    }
}

static void prepared(struct attempt *attempt)
{
    if (attempt->faults.count > 0 || attempt->is_cancelled || attempt->is_draining) {
        attempt_settle(attempt);
    } else {
        run(attempt);
    }
}

struct laid_out { /* an earlier result, as a folder */
    struct letter letter;
    struct attempt *attempt;
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
    attempt->sources.model_folder = laid_out->folder;
    free(laid_out);
    prepared(attempt);
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

static void on_prepared(uv_work_t *work, int status)
{
    (void)status; /* never cancelled */
    struct attempt *attempt = work->data;
    if (attempt->faults.count == 0 && attempt->sources.model_job != NULL && !attempt->is_cancelled) {
        struct laid_out *laid_out = memory_create(1, sizeof *laid_out);
        laid_out->attempt = attempt;
        storage_assemble_model(attempt->daemon->storage, attempt->sources.model_job,
                               attempt->sources.model_files, on_folder, laid_out);
        return;
    }
    prepared(attempt);
}

struct attempt *attempt_start(struct daemon *daemon, struct job *job, size_t slot)
{
    struct attempt *attempt = memory_create(1, sizeof *attempt);
    attempt->daemon = daemon;
    attempt->job = job_acquire(job);
    attempt->slot = slot;
    attempt->epoch = job->epoch;
    attempt->progress.ratio = attempt->progress.rate_per_second = attempt->progress.eta_seconds = -1;
    (void)uv_timer_init(&daemon->loop, &attempt->cancel_timer);
    (void)uv_timer_init(&daemon->loop, &attempt->limit_timer);
    (void)uv_timer_init(&daemon->loop, &attempt->retry_timer);
    attempt->cancel_timer.data = attempt->limit_timer.data = attempt->retry_timer.data = attempt;
    attempt->handle_count = 3;
    attempt->work.data = attempt;
    (void)uv_queue_work(&daemon->loop, &attempt->work, prepare, on_prepared);
    return attempt;
}

/* ---- from outside ----------------------------------------------------------------------------------------
 */

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
    kill_worker(attempt, KILL_CANCEL);
}

static void ask_to_stop(struct attempt *attempt)
{
    if (attempt->phase == PHASE_RUN) {
        send_word(attempt, PROTOCOL_CANCEL);
        (void)uv_timer_start(&attempt->cancel_timer, on_cancel_grace, CANCEL_GRACE_MS, 0);
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
            send_word(attempt, PROTOCOL_DRAIN);
        }
    }
}

void attempt_kill_for_drain(struct attempt *attempt)
{
    attempt->is_draining = true;
    kill_worker(attempt, KILL_DRAIN);
    if (attempt->phase == PHASE_SETTLE && uv_is_active((uv_handle_t *)&attempt->retry_timer)) {
        /* Storage would not take the event; the next start releases the job anyway. */
        (void)uv_timer_stop(&attempt->retry_timer);
        attempt->is_recorded = true;
        attempt_check_ended(attempt);
    }
}

void attempt_tick(struct attempt *attempt, int64_t now_ns, int64_t late_ns)
{
    if (attempt->phase != PHASE_RUN || attempt->kill_reason != KILL_NONE) {
        return;
    }
    if (late_ns > 0) {
        attempt->last_heard_ns += late_ns; /* what it said meanwhile still waits in the socket */
    }
    if (now_ns - attempt->last_heard_ns > attempt->daemon->config->lease_ms * 1000000) {
        kill_worker(attempt, KILL_HUNG);
    }
}
