/*
 * daemon/attempt_talk.c: what a worker says and what it is told. See attempt.c.
 *
 * Frames become storage events at once; the last word is kept for the settlement. A worker that talks faster than storage
 * writes is not read until storage has caught up, and what it may add to the event log is bounded. What a worker writes to stderr is
 * cut into lines, printable ASCII, and only the first OUTPUT_LINE_LIMIT of them reach the log.
 */
#include "base/log.h"
#include "base/memory.h"
#include "daemon/attempt_internal.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OUTPUT_LINE_LIMIT 200 /* lines of a worker's stderr that reach the log */
#define OUTPUT_LINE_BYTES 1000
#define FRAME_LIMIT       (64u << 10) /* of a frame that is not the last word */
#define LOGGED_LIMIT      1000        /* messages and stages of one attempt that reach the event log */
#define OUTSTANDING_LIMIT 64          /* storage events; above it the socket is not read */

/* ---- frames -------------------------------------------------------------------------------------------- */

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
    const char *unit = text_of(message, "unit");
    (void)snprintf(attempt->unit, sizeof attempt->unit, "%s", unit != NULL ? unit : "");
    storage_progress(attempt->daemon->storage, attempt->job->id, attempt->epoch, progress);
}

/* False once the attempt has said more than anyone will read. */
static bool may_log(struct attempt *attempt)
{
    attempt->logged_count++;
    if (attempt->logged_count == LOGGED_LIMIT + 1) {
        log_warning("the worker's further messages are dropped", LOG_TEXT("job_id", attempt->job->id),
                    LOG_I64("limit", LOGGED_LIMIT));
    }
    return attempt->logged_count <= LOGGED_LIMIT;
}

static void on_overstay(uv_timer_t *timer)
{
    attempt_kill(timer->data, KILL_HUNG); /* what it said counts all the same */
}

/* After the last word only the exit is missing; heartbeats do not put it off. */
static void expect_exit(struct attempt *attempt)
{
    if (attempt->is_process_started && !uv_is_active((uv_handle_t *)&attempt->stop_timer)) {
        (void)uv_timer_start(&attempt->stop_timer, on_overstay, (uint64_t)attempt->daemon->config->lease_ms,
                             0);
    }
}

static void take_frame(struct attempt *attempt, enum protocol_type type, json_t *message)
{
    switch (type) {
    case PROTOCOL_HEARTBEAT:
        attempt->progress.peak_rss_bytes = count_of(message, "peak_rss_bytes");
        attempt->progress.cpu_seconds = number_of(message, "cpu_seconds", 0);
        storage_progress(attempt->daemon->storage, attempt->job->id, attempt->epoch, &attempt->progress);
        break;
    case PROTOCOL_STAGE:
        if (may_log(attempt)) {
            attempt_apply(attempt,
                          (struct job_event){.kind = JOB_EVENT_STAGE, .stage = text_of(message, "stage")});
        }
        break;
    case PROTOCOL_PROGRESS:
        take_progress(attempt, message);
        break;
    case PROTOCOL_STEP:
        attempt_apply(
            attempt, (struct job_event){.kind = JOB_EVENT_STEP_FINISHED, .stage = text_of(message, "stage")});
        break;
    case PROTOCOL_MESSAGE:
        if (may_log(attempt)) {
            attempt_apply(attempt, (struct job_event){.kind = JOB_EVENT_MESSAGE,
                                                      .level = text_of(message, "level"),
                                                      .message = text_of(message, "message"),
                                                      .data = json_object_get(message, "data")});
        }
        break;
    case PROTOCOL_RESULT:
    case PROTOCOL_ERROR:
    case PROTOCOL_DRAINED:
        if (attempt->answer == NULL) {
            attempt->answer = json_incref(message);
            attempt->last_word = type;
            expect_exit(attempt);
        }
        break;
    case PROTOCOL_JOB:
    case PROTOCOL_CANCEL:
    case PROTOCOL_DRAIN:
        attempt_kill(attempt, KILL_PROTOCOL);
        break;
    }
}

static void take_frames(struct attempt *attempt)
{
    for (;;) {
        struct error error;
        JSON_OWNED message = NULL;
        enum protocol_type type = PROTOCOL_HEARTBEAT;
        size_t taken = attempt->reader.taken;
        if (!protocol_reader_next(&attempt->reader, &message, &type, &error)) {
            log_warning("worker broke the protocol", LOG_TEXT("job_id", attempt->job->id),
                        LOG_TEXT("cause", error.message));
            attempt_kill(attempt, KILL_PROTOCOL);
            return;
        }
        if (message == NULL) {
            return;
        }
        bool is_last_word = type == PROTOCOL_RESULT || type == PROTOCOL_ERROR || type == PROTOCOL_DRAINED;
        bool is_too_long = !is_last_word && attempt->reader.taken - taken > FRAME_LIMIT;
        if (is_too_long || count_of(message, "epoch") != attempt->epoch) {
            log_warning("worker broke the protocol", LOG_TEXT("job_id", attempt->job->id),
                        LOG_TEXT("cause", is_too_long ? "a frame is too long" : "another epoch"));
            attempt_kill(attempt, KILL_PROTOCOL);
            return;
        }
        take_frame(attempt, type, message);
        if (attempt->kill_reason == KILL_PROTOCOL) {
            return;
        }
    }
}

static void on_allocate(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
    (void)handle;
    buffer->base = memory_create(1, suggested);
    buffer->len = suggested;
}

void attempt_part_ended(struct attempt *attempt)
{
    if (--attempt->open_count == 0) {
        (void)uv_timer_stop(&attempt->stop_timer);
        (void)uv_timer_stop(&attempt->limit_timer);
        attempt_settle(attempt);
    }
}

static void on_frames(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer)
{
    struct attempt *attempt = stream->data;
    if (count > 0) {
        attempt->last_heard_ns = clock_boot_ns(attempt->daemon->clock);
        if (attempt->kill_reason != KILL_PROTOCOL) { /* after a broken frame there are no frames to find */
            protocol_reader_feed(&attempt->reader, buffer->base, (size_t)count);
            take_frames(attempt);
        }
        if (attempt->event_count > OUTSTANDING_LIMIT) {
            (void)uv_read_stop(stream);
            attempt->is_paused = true;
        }
    }
    free(buffer->base);
    if (count < 0) {
        (void)uv_read_stop(stream);
        attempt->is_socket_open = false;
        attempt_part_ended(attempt);
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
        attempt->is_errors_open = false;
        attempt_part_ended(attempt);
    }
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

void attempt_send_frame(struct attempt *attempt, const json_t *message)
{
    struct outgoing *outgoing = memory_create(1, sizeof *outgoing);
    struct error error;
    if (!protocol_append_frame(&outgoing->bytes, message, &error)) {
        log_error("frame not sent", LOG_TEXT("job_id", attempt->job->id), LOG_TEXT("cause", error.message));
        free(outgoing);
        attempt_kill(attempt, KILL_PROTOCOL);
        return;
    }
    uv_buf_t buffer = uv_buf_init(outgoing->bytes.bytes, (unsigned)outgoing->bytes.length);
    if (uv_write(&outgoing->write, (uv_stream_t *)&attempt->socket, &buffer, 1, on_sent) != 0) {
        on_sent(&outgoing->write, 0);
    }
}

void attempt_send_word(struct attempt *attempt, enum protocol_type type)
{
    JSON_OWNED message = protocol_message(type);
    json_put_i64(message, "epoch", (int64_t)attempt->epoch);
    attempt_send_frame(attempt, message);
}

void attempt_listen(struct attempt *attempt)
{
    attempt->is_socket_open = attempt->is_errors_open = true;
    (void)uv_read_start((uv_stream_t *)&attempt->socket, on_allocate, on_frames);
    (void)uv_read_start((uv_stream_t *)&attempt->errors, on_allocate, on_errors);
}

void attempt_listen_again(struct attempt *attempt)
{
    if (attempt->is_paused && attempt->event_count <= OUTSTANDING_LIMIT / 2) {
        attempt->is_paused = false;
        if (attempt->is_socket_open) {
            (void)uv_read_start((uv_stream_t *)&attempt->socket, on_allocate, on_frames);
        }
    }
}

void attempt_stop_listening(struct attempt *attempt)
{
    bool is_socket_open = attempt->is_socket_open;
    bool is_errors_open = attempt->is_errors_open;
    attempt->is_socket_open = attempt->is_errors_open = false;
    (void)uv_read_stop((uv_stream_t *)&attempt->socket);
    (void)uv_read_stop((uv_stream_t *)&attempt->errors);
    if (is_socket_open) {
        attempt_part_ended(attempt);
    }
    if (is_errors_open) {
        attempt_part_ended(attempt);
    }
}
