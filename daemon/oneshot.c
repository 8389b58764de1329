/*
 * daemon/oneshot.c: see oneshot.h.
 *
 * Three things must have ended before an answer is made: the process, its stdout and its stderr. Each takes
 * one off `open_count`; whoever takes the last one settles.
 */
#include "daemon/oneshot.h"
#include "base/cleanup.h"
#include "base/memory.h"
#include "base/text.h"
#include <signal.h>
#include <stdint.h>
#include <string.h>

#define STDERR_LIMIT 2000

struct oneshot {
    struct oneshot_pool *pool;
    struct oneshot *next;
    const char *mode; /* static */
    uint64_t timeout_ms;
    char *request; /* owned; NULL: nothing to say */
    oneshot_done *done;
    void *context;
    uv_process_t process;
    uv_pipe_t input, output, errors;
    uv_write_t write;
    uv_timer_t timer;
    unsigned open_count, handle_count;
    struct text answer, complaints;
    int64_t exit_status;
    int signal_number;
    bool is_running;        /* the process is not reaped yet: its pid is its own */
    enum error_code broken; /* TIME_LIMIT, TOO_LARGE, UNAVAILABLE: why we killed it */
};

static void start_next(struct oneshot_pool *pool);

void oneshot_pool_init(struct oneshot_pool *pool, uv_loop_t *loop, const char *program, char **environment)
{
    *pool = (struct oneshot_pool){.loop = loop, .program = program, .environment = environment};
}

static void oneshot_free(struct oneshot *oneshot)
{
    free(oneshot->request);
    text_finish(&oneshot->answer);
    text_finish(&oneshot->complaints);
    free(oneshot);
}

static void answer_fault(const struct oneshot *oneshot, enum error_code code, const char *message)
{
    FINISHED(error_list) faults = {0};
    error_list_add(&faults, code, "", "%s", message);
    oneshot->done(oneshot->context, NULL, &faults);
}

/* {"errors": [{code, field, message}]} */
static void answer_errors(const struct oneshot *oneshot, const json_t *errors)
{
    FINISHED(error_list) faults = {0};
    for (size_t i = 0; i < json_array_size(errors); i++) {
        struct error error;
        json_to_error(json_array_get(errors, i), &error);
        error_list_add_error(&faults, &error);
    }
    if (faults.count == 0) {
        error_list_add(&faults, ERROR_INTERNAL, "", "%s failed without a reason", oneshot->mode);
    }
    oneshot->done(oneshot->context, NULL, &faults);
}

static void answer_died(const struct oneshot *oneshot)
{
    FINISHED(text) message = {0};
    if (oneshot->signal_number != 0) {
        text_append_format(&message, "pruned-worker %s was ended by signal %d (%s)", oneshot->mode,
                           oneshot->signal_number, strsignal(oneshot->signal_number));
    } else {
        text_append_format(&message, "pruned-worker %s exited with status %lld and no answer", oneshot->mode,
                           (long long)oneshot->exit_status);
    }
    if (oneshot->complaints.length > 0) {
        text_append_format(&message, ": %.200s", oneshot->complaints.bytes);
    }
    answer_fault(oneshot, ERROR_WORKER_CRASH, message.bytes);
}

static void answer(const struct oneshot *oneshot)
{
    if (oneshot->broken == ERROR_TIME_LIMIT) {
        FINISHED(text) message = {0};
        text_append_format(&message, "looking at the inputs took longer than %llu seconds",
                           (unsigned long long)oneshot->timeout_ms / 1000);
        answer_fault(oneshot, ERROR_TIME_LIMIT, message.bytes);
        return;
    }
    if (oneshot->broken == ERROR_TOO_LARGE) {
        answer_fault(oneshot, ERROR_TOO_LARGE, "the description of the model is over 64 MiB");
        return;
    }
    if (oneshot->broken == ERROR_UNAVAILABLE) {
        answer_fault(oneshot, ERROR_UNAVAILABLE, "the service is stopping");
        return;
    }
    if (oneshot->signal_number != 0 || oneshot->exit_status != 0 || oneshot->answer.length == 0) {
        answer_died(oneshot);
        return;
    }
    struct error error;
    JSON_OWNED json = json_parse(oneshot->answer.bytes, oneshot->answer.length, ONESHOT_OUTPUT_LIMIT, &error);
    const json_t *errors = json_object_get(json, "errors");
    if (json == NULL) {
        answer_fault(oneshot, ERROR_INTERNAL, error.message);
    } else if (errors != NULL) {
        answer_errors(oneshot, errors);
    } else {
        oneshot->done(oneshot->context, json, NULL);
    }
}

static void on_closed(uv_handle_t *handle)
{
    struct oneshot *oneshot = handle->data;
    if (--oneshot->handle_count == 0) {
        oneshot_free(oneshot);
    }
}

static void close_handle(struct oneshot *oneshot, uv_handle_t *handle)
{
    if (!uv_is_closing(handle)) {
        handle->data = oneshot;
        uv_close(handle, on_closed);
    }
}

static void settle(struct oneshot *oneshot)
{
    struct oneshot_pool *pool = oneshot->pool;
    for (size_t i = 0; i < ONESHOT_LIMIT; i++) {
        if (pool->running[i] == oneshot) {
            pool->running[i] = NULL;
        }
    }
    pool->running_count--;
    answer(oneshot);
    close_handle(oneshot, (uv_handle_t *)&oneshot->process);
    close_handle(oneshot, (uv_handle_t *)&oneshot->input);
    close_handle(oneshot, (uv_handle_t *)&oneshot->output);
    close_handle(oneshot, (uv_handle_t *)&oneshot->errors);
    close_handle(oneshot, (uv_handle_t *)&oneshot->timer);
    start_next(pool);
}

static void part_ended(struct oneshot *oneshot)
{
    if (--oneshot->open_count == 0) {
        settle(oneshot);
    }
}

static void break_off(struct oneshot *oneshot, enum error_code reason)
{
    if (oneshot->broken == ERROR_NONE) {
        oneshot->broken = reason;
        if (oneshot->is_running) {
            (void)uv_process_kill(&oneshot->process, SIGKILL);
        }
    }
}

static void on_exit_status(uv_process_t *process, int64_t exit_status, int signal_number)
{
    struct oneshot *oneshot = process->data;
    oneshot->exit_status = exit_status;
    oneshot->signal_number = signal_number;
    oneshot->is_running = false;
    part_ended(oneshot);
}

static void on_timeout(uv_timer_t *timer)
{
    break_off(timer->data, ERROR_TIME_LIMIT);
}

static void on_allocate(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
    (void)handle;
    buffer->base = memory_create(1, suggested);
    buffer->len = suggested;
}

static void on_output(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer)
{
    struct oneshot *oneshot = stream->data;
    if (count > 0) {
        if (oneshot->answer.length + (size_t)count > ONESHOT_OUTPUT_LIMIT) {
            break_off(oneshot, ERROR_TOO_LARGE);
        } else {
            text_append_bytes(&oneshot->answer, buffer->base, (size_t)count);
        }
    }
    free(buffer->base);
    if (count < 0) {
        (void)uv_read_stop(stream);
        part_ended(oneshot);
    }
}

static void on_errors(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer)
{
    struct oneshot *oneshot = stream->data;
    if (count > 0 && oneshot->complaints.length < STDERR_LIMIT) {
        text_append_bytes(&oneshot->complaints, buffer->base, (size_t)count);
    }
    free(buffer->base);
    if (count < 0) {
        (void)uv_read_stop(stream);
        part_ended(oneshot);
    }
}

static void on_written(uv_write_t *write, int status)
{
    (void)status; /* a process that does not read its question will have said so by its exit */
    struct oneshot *oneshot = write->data;
    close_handle(oneshot, (uv_handle_t *)&oneshot->input);
}

static int spawn(struct oneshot *oneshot)
{
    struct oneshot_pool *pool = oneshot->pool;
    (void)uv_pipe_init(pool->loop, &oneshot->input, 0);
    (void)uv_pipe_init(pool->loop, &oneshot->output, 0);
    (void)uv_pipe_init(pool->loop, &oneshot->errors, 0);
    (void)uv_timer_init(pool->loop, &oneshot->timer);
    oneshot->process.data = oneshot->output.data = oneshot->errors.data = oneshot->timer.data = oneshot;
    oneshot->handle_count = 5;
    char *arguments[] = {(char *)(uintptr_t)pool->program, (char *)(uintptr_t)oneshot->mode, NULL};
    uv_stdio_container_t streams[3] = {
        {.flags = UV_CREATE_PIPE | UV_READABLE_PIPE, .data.stream = (uv_stream_t *)&oneshot->input},
        {.flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE, .data.stream = (uv_stream_t *)&oneshot->output},
        {.flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE, .data.stream = (uv_stream_t *)&oneshot->errors},
    };
    const uv_process_options_t options = {.exit_cb = on_exit_status,
                                          .file = pool->program,
                                          .args = arguments,
                                          .env = pool->environment,
                                          .stdio_count = 3,
                                          .stdio = streams};
    return uv_spawn(pool->loop, &oneshot->process, &options);
}

static void start(struct oneshot *oneshot)
{
    struct oneshot_pool *pool = oneshot->pool;
    pool->running_count++;
    for (size_t i = 0; i < ONESHOT_LIMIT; i++) {
        if (pool->running[i] == NULL) {
            pool->running[i] = oneshot;
            break;
        }
    }
    int status = spawn(oneshot);
    if (status != 0) {
        text_append_format(&oneshot->complaints, "cannot start %s: %s", pool->program, uv_strerror(status));
        oneshot->exit_status = -1;
        settle(oneshot);
        return;
    }
    oneshot->is_running = true;
    oneshot->open_count = 3;
    (void)uv_timer_start(&oneshot->timer, on_timeout, oneshot->timeout_ms, 0);
    (void)uv_read_start((uv_stream_t *)&oneshot->output, on_allocate, on_output);
    (void)uv_read_start((uv_stream_t *)&oneshot->errors, on_allocate, on_errors);
    oneshot->write.data = oneshot;
    uv_buf_t buffer =
        uv_buf_init(oneshot->request, oneshot->request == NULL ? 0 : (unsigned)strlen(oneshot->request));
    if (oneshot->request == NULL ||
        uv_write(&oneshot->write, (uv_stream_t *)&oneshot->input, &buffer, 1, on_written) != 0) {
        close_handle(oneshot, (uv_handle_t *)&oneshot->input);
    }
}

static void start_next(struct oneshot_pool *pool)
{
    while (pool->first != NULL && pool->running_count < ONESHOT_LIMIT && !pool->is_closed) {
        struct oneshot *oneshot = pool->first;
        pool->first = oneshot->next;
        if (pool->first == NULL) {
            pool->last = NULL;
        }
        pool->waiting_count--;
        start(oneshot);
    }
}

void oneshot_ask(struct oneshot_pool *pool, const char *mode, const json_t *request, uint64_t timeout_ms,
                 oneshot_done *done, void *context)
{
    struct oneshot *oneshot = memory_create(1, sizeof *oneshot);
    oneshot->pool = pool;
    oneshot->mode = mode;
    oneshot->timeout_ms = timeout_ms;
    oneshot->done = done;
    oneshot->context = context;
    if (pool->is_closed || pool->waiting_count >= ONESHOT_QUEUE_LIMIT) {
        answer_fault(oneshot, ERROR_UNAVAILABLE,
                     pool->is_closed ? "the service is stopping"
                                     : "too many models wait to be inspected; try again");
        oneshot_free(oneshot);
        return;
    }
    oneshot->request = request == NULL ? NULL : json_format(request, false);
    if (pool->last == NULL) {
        pool->first = oneshot;
    } else {
        pool->last->next = oneshot;
    }
    pool->last = oneshot;
    pool->waiting_count++;
    start_next(pool);
}

void oneshot_pool_close(struct oneshot_pool *pool)
{
    pool->is_closed = true;
    while (pool->first != NULL) {
        struct oneshot *oneshot = pool->first;
        pool->first = oneshot->next;
        pool->waiting_count--;
        answer_fault(oneshot, ERROR_UNAVAILABLE, "the service is stopping");
        oneshot_free(oneshot);
    }
    pool->last = NULL;
    for (size_t i = 0; i < ONESHOT_LIMIT; i++) {
        if (pool->running[i] != NULL) {
            break_off(pool->running[i], ERROR_UNAVAILABLE);
        }
    }
}
