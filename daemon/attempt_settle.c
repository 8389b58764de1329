/*
 * daemon/attempt_settle.c: what storage hears of an attempt, and how it ends. See attempt.c for the order of things.
 */
#include "base/cleanup.h"
#include "base/log.h"
#include "base/memory.h"
#include "daemon/attempt_internal.h"
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define SETTLE_RETRY_MS 2000

struct report { /* a storage callback on its way to the loop */
    struct letter letter;
    struct attempt *attempt;
    struct job *job; /* acquired, or NULL */
    bool is_final;
    struct error error;
};

static const char *tenant(const struct attempt *attempt)
{
    return attempt->job->tenant_id;
}

/* A process at nice 19 needs CPU time to hear us, and even to die: on a busy machine that takes seconds. So one that is
 * to end gets its priority back. Allowed by RLIMIT_NICE (LimitNICE=+0 in our unit) or as root; else nothing happens. */
void attempt_hurry(const struct attempt *attempt)
{
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/%d/task", attempt->process.pid);
    DIR *tasks =
        attempt->is_process_started ? opendir(path) : NULL; /* once reaped, the pid may be another's */
    if (tasks == NULL) {
        return;
    }
    for (const struct dirent *entry = readdir(tasks); entry != NULL; entry = readdir(tasks)) {
        uint64_t thread = 0;
        if (text_parse_u64(entry->d_name, strlen(entry->d_name), &thread)) {
            (void)setpriority(PRIO_PROCESS, (id_t)thread, 0);
        }
    }
    (void)closedir(tasks);
}

void attempt_kill(struct attempt *attempt, enum kill_reason reason)
{
    if (attempt->kill_reason == KILL_NONE) {
        attempt->kill_reason = reason;
    }
    if (attempt->is_process_started && attempt->phase == PHASE_RUN) {
        attempt_hurry(attempt);
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
            json_put(failure, "retryable",
                     json_boolean(report->error.code == ERROR_IO || report->error.code == ERROR_UNAVAILABLE));
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
        attempt_kill(attempt, KILL_FENCED);
    } else if (report->error.code != ERROR_NONE && report->error.code != ERROR_CONFLICT) {
        log_warning("cannot record an event", LOG_TEXT("job_id", attempt->job->id),
                    LOG_TEXT("cause", report->error.message));
    }
    job_release(report->job);
    free(report);
    attempt_listen_again(attempt);
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

void attempt_apply(struct attempt *attempt, struct job_event event)
{
    apply(attempt, event, false);
}

/* ---- settle -------------------------------------------------------------------------------------------- */

static void settle_error(struct attempt *attempt)
{
    struct error error;
    json_to_error(attempt->answer, &error);
    if (attempt->kill_reason == KILL_TIME_LIMIT) {
        error_set_field(&error, ERROR_TIME_LIMIT, "/limits/max_seconds", "the job ran longer than its limit");
    } else if (error.code == ERROR_DRAINED && attempt->is_draining) {
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
          (struct job_event){.kind = JOB_EVENT_WORKER_DIED, .error = &error, .message = error.message}, true);
}

static void settle_faults(struct attempt *attempt)
{
    struct error error;
    error_list_sum_up(&attempt->faults, &error);
    bool transient = error.code == ERROR_IO || error.code == ERROR_UNAVAILABLE;
    apply(attempt,
          (struct job_event){.kind = transient ? JOB_EVENT_FAILED_TRANSIENT : JOB_EVENT_FAILED,
                             .error = &error,
                             .error_stage = "prepare"},
          true);
}

void attempt_settle(struct attempt *attempt)
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
    } else if (attempt->is_draining) {
        apply(attempt, (struct job_event){.kind = JOB_EVENT_RELEASED}, true);
    } else {
        settle_died(attempt);
    }
    attempt_check_ended(attempt);
}

static void attempt_free(struct attempt *attempt)
{
    free(attempt->work_folder);
    free(attempt->cache_folder);
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

void attempt_check_ended(struct attempt *attempt)
{
    if (attempt->phase != PHASE_SETTLE || !attempt->is_recorded || attempt->event_count > 0) {
        return;
    }
    attempt->phase = PHASE_ENDED;
    scheduler_attempt_ended(attempt->daemon, attempt->slot);
    close_handle(attempt, (uv_handle_t *)&attempt->stop_timer);
    close_handle(attempt, (uv_handle_t *)&attempt->limit_timer);
    close_handle(attempt, (uv_handle_t *)&attempt->retry_timer);
    if (attempt->has_handles) {
        close_handle(attempt, (uv_handle_t *)&attempt->process);
        close_handle(attempt, (uv_handle_t *)&attempt->socket);
        close_handle(attempt, (uv_handle_t *)&attempt->errors);
    }
}
