/*
 * storage/job.c: the state machine of a job as one pure function, and the life of a snapshot.
 *
 * Fencing: every claim raises the epoch, and every later word about that attempt carries the epoch it was
 * claimed with. A word is accepted only if the epochs agree and the job is still held by an attempt (running
 * or cancelling); anything else is FENCED, so a worker that was given up cannot write, not even between its
 * requeue and the next claim, when the epochs still agree.
 *
 * A cancel wins over everything that comes after it: a job in `cancelling` ends `cancelled`, whatever its
 * worker reports last (success, failure, death, release).
 *
 * Snapshots of one job share the JSON documents they did not change.
 */
#include "storage/job.h"

#include "base/check.h"
#include "base/memory.h"
#include "storage/job_internal.h"
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const state_slugs[] = {
#define X(name, slug) [JOB_STATE_##name] = slug,
    JOB_STATES(X)
#undef X
};

const char *job_state_slug(enum job_state state)
{
    CHECK((size_t)state < JOB_STATE_COUNT);
    return state_slugs[state];
}

bool job_state_parse(const char *slug, enum job_state *ret_state)
{
    for (size_t i = 0; i < JOB_STATE_COUNT; i++) {
        if (strcmp(slug, state_slugs[i]) == 0) {
            *ret_state = (enum job_state)i;
            return true;
        }
    }
    return false;
}

bool job_state_is_terminal(enum job_state state)
{
    return state == JOB_STATE_SUCCEEDED || state == JOB_STATE_FAILED || state == JOB_STATE_CANCELLED;
}

/* ---- snapshots ----------------------------------------------------------------------------------------- */

struct job *job_create(void)
{
    struct job *job = memory_create(1, sizeof *job);
    job->reference_count = 1;
    job_clear_progress(job);
    return job;
}

struct job *job_copy(const struct job *job)
{
    struct job *copy = memory_create(1, sizeof *copy);
    /* All but the count, the last member: other threads are moving it. */
    memcpy(copy, job, offsetof(struct job, reference_count));
    copy->reference_count = 1;
    copy->type = memory_copy_text(job->type);
    copy->name = memory_copy_text(job->name);
    copy->stage = memory_copy_text(job->stage);
    copy->status_reason = memory_copy_text(job->status_reason);
    copy->revision = memory_copy_text(job->revision);
    json_incref(copy->spec);
    json_incref(copy->plan);
    json_incref(copy->steps);
    json_incref(copy->result);
    json_incref(copy->error);
    json_incref(copy->files);
    return copy;
}

struct job *job_acquire(struct job *job)
{
    (void)__atomic_add_fetch(&job->reference_count, 1, __ATOMIC_RELAXED);
    return job;
}

void job_release(struct job *job)
{
    if (job == NULL || __atomic_sub_fetch(&job->reference_count, 1, __ATOMIC_ACQ_REL) > 0) {
        return;
    }
    json_decref(job->spec);
    json_decref(job->plan);
    json_decref(job->steps);
    json_decref(job->result);
    json_decref(job->error);
    json_decref(job->files);
    free(job->type);
    free(job->name);
    free(job->stage);
    free(job->status_reason);
    free(job->revision);
    free(job);
}

void job_replace_document(json_t **document, json_t *taken)
{
    json_decref(*document);
    *document = taken;
}

void job_replace_text(char **text, const char *value)
{
    char *copy = memory_copy_text(value);
    free(*text);
    *text = copy;
}

void job_clear_progress(struct job *job)
{
    job->progress_ratio = -1;
    job->progress_step = 0;
    job->progress_steps = 0;
    job->progress_unit[0] = '\0';
    job->progress_rate_per_second = -1;
    job->progress_eta_seconds = -1;
}

/* ---- pieces of a transition ---------------------------------------------------------------------------- */

#define RETRY_FIRST_MS 10000
#define RETRY_MOST_MS  3600000

static void describe(struct job_effects *effects, const char *level, const char *format, ...) PRINTF(3, 4);
static void describe(struct job_effects *effects, const char *level, const char *format, ...)
{
    (void)snprintf(effects->log_level, sizeof effects->log_level, "%s", level);
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(effects->log_message, sizeof effects->log_message, format, arguments);
    va_end(arguments);
}

/* Ends the step that is running, if there is one, with `status`. */
static void close_step(struct job *job, const char *status, int64_t now_ms)
{
    if (job->steps == NULL) {
        return;
    }
    json_t *steps = json_deep_copy(job->steps);
    CHECK(steps != NULL);
    for (size_t i = 0; i < json_array_size(steps); i++) {
        json_t *step = json_array_get(steps, i);
        const char *text = json_string_value(json_object_get(step, "status"));
        if (text != NULL && strcmp(text, "running") == 0) {
            json_put_text(step, "status", status);
            json_put_i64(step, "finished_at", now_ms / 1000);
        }
    }
    job_replace_document(&job->steps, steps);
}

/* A stage that ran in an earlier attempt is opened again; another is appended. */
static void open_step(struct job *job, const char *stage, int64_t now_ms)
{
    close_step(job, "succeeded", now_ms);
    json_t *steps = job->steps == NULL ? json_array() : json_deep_copy(job->steps);
    CHECK(steps != NULL);
    json_t *step = NULL;
    for (size_t i = 0; i < json_array_size(steps) && step == NULL; i++) {
        json_t *candidate = json_array_get(steps, i);
        const char *name = json_string_value(json_object_get(candidate, "name"));
        step = name != NULL && strcmp(name, stage) == 0 ? candidate : NULL;
    }
    if (step == NULL) {
        step = json_object();
        CHECK(step != NULL);
        json_put_text(step, "name", stage);
        json_put_i64(step, "started_at", now_ms / 1000);
        CHECK(json_array_append_new(steps, step) == 0);
    }
    json_put_text(step, "status", "running");
    json_put_text(step, "finished_at", NULL);
    job_replace_document(&job->steps, steps);
    job_replace_text(&job->stage, stage);
}

static bool is_retryable(enum error_code code)
{
    return code == ERROR_IO || code == ERROR_UNAVAILABLE || code == ERROR_STORAGE_FULL ||
           code == ERROR_OUT_OF_MEMORY || code == ERROR_WORKER_CRASH || code == ERROR_WORKER_HUNG ||
           code == ERROR_TIME_LIMIT || code == ERROR_INTERNAL;
}

static void set_error(struct job *job, const struct error *error, const char *stage)
{
    json_t *document = json_from_error(error);
    json_put_text(document, "stage", stage);
    json_put(document, "retryable", json_boolean(is_retryable(error->code)));
    job_replace_document(&job->error, document);
}

static void finish(struct job *job, enum job_state state, const char *reason, int64_t now_ms)
{
    close_step(job, state == JOB_STATE_SUCCEEDED ? "succeeded" : job_state_slug(state), now_ms);
    job->state = state;
    job->finished_at_ms = now_ms;
    job->run_at_ms = 0;
    job->progress_rate_per_second = -1;
    job->progress_eta_seconds = -1;
    job_replace_text(&job->status_reason, reason);
}

static void fail(struct job *job, const struct job_event *event, const struct error *error, int64_t now_ms,
                 struct job_effects *effects)
{
    const char *stage = event->error_stage != NULL ? event->error_stage : job->stage;
    set_error(job, error, stage);
    finish(job, JOB_STATE_FAILED, error_code_slug(error->code), now_ms);
    describe(effects, "error", "failed%s%s: %s", stage != NULL ? " in " : "", stage != NULL ? stage : "",
             error->message);
}

static void requeue(struct job *job, const char *reason, int64_t run_at_ms, int64_t now_ms,
                    struct job_effects *effects)
{
    close_step(job, "interrupted", now_ms);
    job->state = JOB_STATE_QUEUED;
    job->queued_at_ms = now_ms;
    job->run_at_ms = run_at_ms;
    job_replace_text(&job->stage, NULL);
    job_replace_text(&job->status_reason, reason);
    job_clear_progress(job);
    effects->wake_scheduler = true;
}

static const struct error *error_or_internal(const struct job_event *event, struct error *fallback)
{
    if (event->error != NULL) {
        return event->error;
    }
    (void)error_set(fallback, ERROR_INTERNAL, "the attempt ended without saying why");
    return fallback;
}

/* ---- transitions: one function per group of events ------------------------------------------------------
 */

static bool refuse(const struct job *job, const char *what, struct error *error)
{
    return error_set(error, ERROR_CONFLICT, "job %s is %s and cannot be %s", job->id,
                     job_state_slug(job->state), what);
}

static void apply_claim(struct job *next, int64_t now_ms, struct job_effects *effects)
{
    next->state = JOB_STATE_RUNNING;
    next->epoch++;
    next->attempt_count++;
    next->started_at_ms = next->started_at_ms == 0 ? now_ms : next->started_at_ms;
    next->run_at_ms = 0;
    job_replace_text(&next->stage, NULL);
    job_replace_text(&next->status_reason, NULL);
    job_clear_progress(next);
    describe(effects, "info", "running, attempt %u", next->attempt_count);
}

static void apply_cancel(struct job *next, int64_t now_ms, struct job_effects *effects)
{
    if (next->state == JOB_STATE_RUNNING) {
        next->state = JOB_STATE_CANCELLING;
        effects->stop_worker = true;
        describe(effects, "info", "cancel requested");
        return;
    }
    finish(next, JOB_STATE_CANCELLED, "cancelled_by_user", now_ms);
    describe(effects, "info", "cancelled before it ran");
}

/* A job without a plan goes back to where plans are made. */
static void apply_retry(struct job *next, int64_t now_ms, struct job_effects *effects)
{
    next->state = next->plan == NULL ? JOB_STATE_VALIDATING : JOB_STATE_QUEUED;
    next->queued_at_ms = next->plan == NULL ? 0 : now_ms;
    next->started_at_ms = 0;
    next->finished_at_ms = 0;
    next->run_at_ms = 0;
    next->attempt_count = 0;
    next->crash_count = 0;
    next->retry_count = 0;
    next->peak_rss_bytes = 0;
    next->cpu_seconds = 0;
    job_replace_text(&next->stage, NULL);
    job_replace_text(&next->status_reason, NULL);
    job_replace_text(&next->revision, NULL);
    job_replace_document(&next->steps, NULL);
    job_replace_document(&next->error, NULL);
    job_replace_document(&next->result, NULL);
    job_replace_document(&next->files, NULL);
    job_clear_progress(next);
    effects->wake_scheduler = next->state == JOB_STATE_QUEUED;
    describe(effects, "info", "queued again by request");
}

/* Events of people and of the scheduler: legal in some states, CONFLICT in the others. */
static bool apply_outside(const struct job_event *event, int64_t now_ms, struct job *next,
                          struct job_effects *effects, struct error *error)
{
    struct error fallback = {0};
    switch (event->kind) {
    case JOB_EVENT_VALIDATED:
        if (next->state != JOB_STATE_VALIDATING) {
            return refuse(next, "validated", error);
        }
        next->state = JOB_STATE_QUEUED;
        next->queued_at_ms = now_ms;
        next->memory_bytes = event->memory_bytes;
        job_replace_text(&next->status_reason, NULL);
        if (event->plan != NULL) {
            job_replace_document(&next->plan, json_incref(event->plan));
        }
        effects->wake_scheduler = true;
        describe(effects, "info", "validated and queued");
        return true;
    case JOB_EVENT_REJECTED:
        if (next->state != JOB_STATE_VALIDATING) {
            return refuse(next, "rejected", error);
        }
        fail(next, event, error_or_internal(event, &fallback), now_ms, effects);
        return true;
    case JOB_EVENT_WAITING:
        if (next->state != JOB_STATE_VALIDATING) {
            return refuse(next, "kept waiting", error);
        }
        effects->changed = event->message != NULL &&
                           (next->status_reason == NULL || strcmp(next->status_reason, event->message) != 0);
        if (effects->changed) {
            job_replace_text(&next->status_reason, event->message);
            describe(effects, "info", "%s", event->message);
        }
        return true;
    case JOB_EVENT_CLAIMED:
        if (next->state != JOB_STATE_QUEUED || next->run_at_ms > now_ms) {
            return refuse(next, "claimed", error);
        }
        apply_claim(next, now_ms, effects);
        return true;
    case JOB_EVENT_CANCEL:
        if (job_state_is_terminal(next->state)) {
            return refuse(next, "cancelled", error);
        }
        effects->changed = next->state != JOB_STATE_CANCELLING;
        if (effects->changed) {
            apply_cancel(next, now_ms, effects);
        }
        return true;
    case JOB_EVENT_RETRY:
        if (next->state != JOB_STATE_FAILED && next->state != JOB_STATE_CANCELLED) {
            return refuse(next, "retried", error);
        }
        apply_retry(next, now_ms, effects);
        return true;
    case JOB_EVENT_STAGE:
    case JOB_EVENT_STEP_FINISHED:
    case JOB_EVENT_MESSAGE:
    case JOB_EVENT_SUCCEEDED:
    case JOB_EVENT_FAILED:
    case JOB_EVENT_FAILED_TRANSIENT:
    case JOB_EVENT_WORKER_DIED:
    case JOB_EVENT_RELEASED:
    case JOB_EVENT_CANCELLED:
        break;
    }
    CHECK(!"a fenced event took the unfenced way");
    return false;
}

static void apply_transient(const struct job_event *event, int64_t now_ms, struct job *next,
                            struct job_effects *effects)
{
    struct error fallback = {0};
    const struct error *cause = error_or_internal(event, &fallback);
    uint32_t earlier = next->retry_count++;
    if (next->retry_count >= JOB_RETRY_LIMIT) {
        fail(next, event, cause, now_ms, effects);
        return;
    }
    int64_t backoff_ms = (int64_t)RETRY_FIRST_MS << earlier;
    backoff_ms = backoff_ms > RETRY_MOST_MS ? RETRY_MOST_MS : backoff_ms;
    requeue(next, "retry_backoff", now_ms + backoff_ms, now_ms, effects);
    describe(effects, "warn", "try %u of %d failed, again in %d s: %s", next->retry_count, JOB_RETRY_LIMIT,
             (int)(backoff_ms / 1000), cause->message);
}

static void apply_death(const struct job_event *event, int64_t now_ms, struct job *next,
                        struct job_effects *effects)
{
    const char *how = event->message != NULL ? event->message : "the worker died";
    next->crash_count++;
    if (next->crash_count < JOB_CRASH_LIMIT) {
        requeue(next, "worker_lost", 0, now_ms, effects);
        describe(effects, "warn", "worker lost (%u of %d without a finished step): %s", next->crash_count,
                 JOB_CRASH_LIMIT, how);
        return;
    }
    struct error cause = {0};
    (void)error_set(&cause, ERROR_WORKER_CRASH,
                    "%d worker deaths without a finished step in between; the last: %s", JOB_CRASH_LIMIT,
                    how);
    fail(next, event, &cause, now_ms, effects);
}

static void apply_success(const struct job_event *event, int64_t now_ms, struct job *next,
                          struct job_effects *effects)
{
    finish(next, JOB_STATE_SUCCEEDED, NULL, now_ms);
    job_replace_text(&next->revision, event->revision);
    job_replace_document(&next->error, NULL);
    job_replace_document(&next->files, json_incref(event->files));
    job_replace_document(&next->result, json_incref(event->result));
    next->crash_count = 0;
    next->progress_ratio = 1;
    describe(effects, "info", "succeeded with %zu files", json_array_size(event->files));
}

/* What a worker, or the supervisor for it, says about the attempt that holds the job. */
static bool apply_fenced(const struct job_event *event, int64_t now_ms, struct job *next,
                         struct job_effects *effects, struct error *error)
{
    bool cancelling = next->state == JOB_STATE_CANCELLING;
    struct error fallback = {0};
    switch (event->kind) {
    case JOB_EVENT_STAGE:
        effects->changed = !cancelling;
        if (!cancelling) {
            open_step(next, event->stage != NULL ? event->stage : "unnamed", now_ms);
            double ratio = next->progress_ratio; /* of the whole job: a new stage does not lower it */
            job_clear_progress(next);
            next->progress_ratio = ratio;
            (void)snprintf(effects->log_type, sizeof effects->log_type, "progress");
            describe(effects, "info", "stage %s", next->stage);
        }
        return true;
    case JOB_EVENT_STEP_FINISHED:
        effects->changed = next->crash_count != 0;
        next->crash_count = 0;
        (void)snprintf(effects->log_type, sizeof effects->log_type, "progress");
        describe(effects, "info", "a step finished, worker deaths forgiven");
        return true;
    case JOB_EVENT_MESSAGE:
        (void)snprintf(effects->log_type, sizeof effects->log_type, "message");
        describe(effects, event->level != NULL ? event->level : "info", "%s",
                 event->message != NULL ? event->message : "");
        return true;
    case JOB_EVENT_CANCELLED:
        if (!cancelling) {
            return refuse(next, "reported cancelled: nobody asked", error);
        }
        break;
    case JOB_EVENT_SUCCEEDED:
        if (!cancelling) {
            apply_success(event, now_ms, next, effects);
        }
        break;
    case JOB_EVENT_FAILED:
        if (!cancelling) {
            fail(next, event, error_or_internal(event, &fallback), now_ms, effects);
        }
        break;
    case JOB_EVENT_FAILED_TRANSIENT:
        if (!cancelling) {
            apply_transient(event, now_ms, next, effects);
        }
        break;
    case JOB_EVENT_WORKER_DIED:
        if (!cancelling) {
            apply_death(event, now_ms, next, effects);
        }
        break;
    case JOB_EVENT_RELEASED:
        if (!cancelling) {
            next->attempt_count -= next->attempt_count > 0 ? 1 : 0;
            requeue(next, "released", 0, now_ms, effects);
            describe(effects, "info", "%s",
                     event->message != NULL ? event->message : "released and queued again");
        }
        break;
    case JOB_EVENT_VALIDATED:
    case JOB_EVENT_REJECTED:
    case JOB_EVENT_WAITING:
    case JOB_EVENT_CLAIMED:
    case JOB_EVENT_CANCEL:
    case JOB_EVENT_RETRY:
        CHECK(!"an unfenced event took the fenced way");
        return false;
    }
    if (cancelling) {
        finish(next, JOB_STATE_CANCELLED, "cancelled_by_user", now_ms);
        describe(effects, "info", "cancelled");
    }
    return true;
}

static bool is_fenced(enum job_event_kind kind)
{
    switch (kind) {
    case JOB_EVENT_STAGE:
    case JOB_EVENT_STEP_FINISHED:
    case JOB_EVENT_MESSAGE:
    case JOB_EVENT_SUCCEEDED:
    case JOB_EVENT_FAILED:
    case JOB_EVENT_FAILED_TRANSIENT:
    case JOB_EVENT_WORKER_DIED:
    case JOB_EVENT_RELEASED:
    case JOB_EVENT_CANCELLED:
        return true;
    case JOB_EVENT_VALIDATED:
    case JOB_EVENT_REJECTED:
    case JOB_EVENT_WAITING:
    case JOB_EVENT_CLAIMED:
    case JOB_EVENT_CANCEL:
    case JOB_EVENT_RETRY:
        return false;
    }
    return false;
}

bool job_apply(const struct job *job, const struct job_event *event, int64_t now_ms, struct job **ret_next,
               struct job_effects *ret_effects, struct error *error)
{
    bool fenced = is_fenced(event->kind);
    bool held = job->state == JOB_STATE_RUNNING || job->state == JOB_STATE_CANCELLING;
    if (fenced && (event->epoch != job->epoch || !held)) {
        return error_set(
            error, ERROR_FENCED, "job %s is %s at epoch %llu; a word from epoch %llu came too late", job->id,
            job_state_slug(job->state), (unsigned long long)job->epoch, (unsigned long long)event->epoch);
    }
    /* Wall time may step back; a job's own times do not. */
    now_ms = now_ms < job->updated_at_ms ? job->updated_at_ms : now_ms;
    struct job_effects effects = {.changed = true, .log_type = "status"};
    struct job *next = job_copy(job);
    if (!(fenced ? apply_fenced : apply_outside)(event, now_ms, next, &effects, error)) {
        job_release(next);
        return false;
    }
    if (effects.changed) {
        next->version++;
        next->updated_at_ms = now_ms;
    }
    *ret_next = next;
    *ret_effects = effects;
    return true;
}
