/*
 * daemon/validator.c: jobs that are `validating` become `queued` or `failed`.
 *
 * No list of its own: each wake-up asks storage which jobs are validating and takes those it is not already
 * busy with, so a job can neither be forgotten nor be planned twice, across restarts too.
 *
 * A job that needs the result of another one stays `validating` until that one has ended. That it waits is seen anew at
 * every look, from its spec and from the state of the other job; its status_reason only tells. A look follows on every
 * job that becomes validating or ends, so waiting takes no timer and no place in `active`. See daemon_internal.h.
 */
#include "api/sources.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/memory.h"
#include "daemon/daemon_internal.h"
#include <stdio.h>
#include <string.h>

#define PAGE_LIMIT 100
#define RETRY_NS   (2000 * INT64_C(1000000)) /* after a refusal; a full disk must not become a busy loop */

struct scan { /* storage's list, on its way to the loop */
    struct letter letter;
    struct daemon *daemon;
    struct job *jobs[PAGE_LIMIT]; /* acquired */
    size_t count;
    bool has_more, has_failed;
};

struct validation { /* one job */
    struct letter letter;
    struct daemon *daemon;
    struct job *job; /* acquired */
    size_t place;    /* in validator.active */
    bool is_refused; /* storage did not take the outcome, or there is none yet */
};

static void validation_end(struct validation *validation)
{
    struct daemon *daemon = validation->daemon;
    if (validation->is_refused) {
        daemon->validator.retry_at_ns = clock_boot_ns(daemon->clock) + RETRY_NS;
    }
    daemon->validator.active[validation->place][0] = '\0';
    daemon->validator.active_count--;
    job_release(validation->job);
    free(validation);
    validator_wake(daemon); /* its place is free */
    daemon_check_drained(daemon);
}

static void deliver_applied(struct letter *letter)
{
    validation_end((struct validation *)letter);
}

static void on_applied(void *context, struct job *job, bool replayed, const struct error *error)
{
    (void)replayed;
    struct validation *validation = context;
    if (error != NULL) { /* a cancel came first, or the disk is full: a later look sees what is left */
        validation->is_refused = error->code != ERROR_CONFLICT && error->code != ERROR_NOT_FOUND;
        log_info("validation not recorded", LOG_TEXT("job_id", validation->job->id),
                 LOG_TEXT("cause", error->message));
    } else {
        log_info(job->state == JOB_STATE_VALIDATING ? "job waits" : "job validated",
                 LOG_TEXT("job_id", job->id), LOG_TEXT("state", job_state_slug(job->state)));
    }
    validation->letter.deliver = deliver_applied;
    if (!mailbox_post(&validation->daemon->mailbox, &validation->letter)) {
        job_release(validation->job);
        free(validation);
    }
}

static void apply(struct validation *validation, const struct job_event *event)
{
    storage_apply(validation->daemon->storage, validation->job->tenant_id, validation->job->id, event,
                  on_applied, validation);
}

static void reject(struct validation *validation, const struct error_list *faults)
{
    struct error error;
    error_list_sum_up(faults, &error);
    apply(validation,
          &(struct job_event){.kind = JOB_EVENT_REJECTED, .error = &error, .error_stage = "validate"});
}

static bool resolve(const struct daemon *daemon, const struct job *job, struct sources *ret_sources,
                    struct error_list *faults)
{
    return sources_resolve(daemon->storage, job->tenant_id, (const char *const *)daemon->config->roots,
                           job->spec, SOURCES_MAY_WAIT | SOURCES_ACCEPTED, ret_sources, faults);
}

/* A result that was deleted while the planner read it looks like a broken model: what happened is said instead. */
static void reject_plan(struct validation *validation, const struct error_list *faults)
{
    FINISHED(error_list) gone = {0};
    FINISHED(sources) sources = {0};
    reject(validation, resolve(validation->daemon, validation->job, &sources, &gone) ? faults : &gone);
}

static void on_plan(void *context, const json_t *answer, const struct error_list *faults)
{
    struct validation *validation = context;
    if (answer == NULL) {
        if (faults->items[0].code ==
            ERROR_UNAVAILABLE) { /* stopping, or too many wait: the job stays as it is */
            validation->is_refused = true;
            validation_end(validation);
        } else {
            reject_plan(validation, faults);
        }
        return;
    }
    json_t *plan = json_object_get(answer, "plan");
    int64_t memory = json_integer_value(json_object_get(plan, "memory_bytes"));
    apply(validation, &(struct job_event){.kind = JOB_EVENT_VALIDATED,
                                          .plan = plan,
                                          .memory_bytes = memory > 0 ? (uint64_t)memory : 0});
}

static struct validation *validation_create(struct daemon *daemon, struct job *job, size_t place)
{
    struct validator *validator = &daemon->validator;
    (void)snprintf(validator->active[place], sizeof validator->active[place], "%s", job->id);
    validator->active_count++;
    struct validation *validation = memory_create(1, sizeof *validation);
    *validation = (struct validation){.daemon = daemon, .job = job_acquire(job), .place = place};
    return validation;
}

static void validate(struct daemon *daemon, struct job *job, size_t place)
{
    FINISHED(error_list) faults = {0};
    FINISHED(sources) sources = {0};
    if (!resolve(daemon, job, &sources, &faults)) {
        reject(validation_create(daemon, job, place), &faults);
    } else if (*sources.wait_reason == '\0') {
        planner_plan(daemon, sources_plan_request(&sources, job->spec), on_plan,
                     validation_create(daemon, job, place));
    } else if (job->status_reason == NULL || strcmp(job->status_reason, sources.wait_reason) != 0) {
        apply(validation_create(daemon, job, place),
              &(struct job_event){.kind = JOB_EVENT_WAITING, .message = sources.wait_reason});
    }
}

static bool is_active(const struct validator *validator, const char *job_id)
{
    for (size_t i = 0; i < DAEMON_ACTIVE_LIMIT; i++) {
        if (strcmp(validator->active[i], job_id) == 0) {
            return true;
        }
    }
    return false;
}

static void take(struct daemon *daemon, struct job *job)
{
    struct validator *validator = &daemon->validator;
    /* The list may be older than our own last transition; what counts is the job now. */
    struct job *current = storage_peek_job(daemon->storage, job->tenant_id, job->id);
    for (size_t i = 0; i < DAEMON_ACTIVE_LIMIT && current != NULL; i++) {
        if (validator->active[i][0] == '\0' && current->state == JOB_STATE_VALIDATING &&
            !is_active(validator, job->id)) {
            validate(daemon, current, i);
            break;
        }
    }
    job_release(current);
}

static void list_page(struct daemon *daemon, const char *after);

static void deliver_scan(struct letter *letter)
{
    struct scan *scan = (struct scan *)letter;
    struct daemon *daemon = scan->daemon;
    struct validator *validator = &daemon->validator;
    char last[40] = "";
    for (size_t i = 0; i < scan->count; i++) {
        if (daemon->drain_started_ns == 0) {
            take(daemon, scan->jobs[i]);
        }
        (void)snprintf(last, sizeof last, "%s", scan->jobs[i]->id);
        job_release(scan->jobs[i]);
    }
    if (scan->has_failed) {
        validator->is_due = true;
        validator->retry_at_ns = clock_boot_ns(daemon->clock) + RETRY_NS;
    }
    /* With every place taken the rest is seen by the look that follows on the first one's end. */
    bool goes_on =
        scan->has_more && daemon->drain_started_ns == 0 && validator->active_count < DAEMON_ACTIVE_LIMIT;
    free(scan);
    if (goes_on) {
        list_page(daemon, last);
        return;
    }
    validator->is_scanning = false;
    validator_tick(daemon);
    daemon_check_drained(daemon);
}

static void on_list(void *context, struct job *const *jobs, size_t count, bool has_more,
                    const struct error *error)
{
    struct scan *scan = context;
    scan->has_more = has_more;
    scan->has_failed = error != NULL;
    for (size_t i = 0; i < count && i < PAGE_LIMIT; i++) {
        scan->jobs[scan->count++] = job_acquire(jobs[i]);
    }
    scan->letter.deliver = deliver_scan;
    if (!mailbox_post(&scan->daemon->mailbox, &scan->letter)) {
        for (size_t i = 0; i < scan->count; i++) {
            job_release(scan->jobs[i]);
        }
        free(scan);
    }
}

static void list_page(struct daemon *daemon, const char *after)
{
    struct scan *scan = memory_create(1, sizeof *scan);
    scan->daemon = daemon;
    const struct job_filter filter = {.tenant_id = STORAGE_TENANT_DEFAULT,
                                      .state_mask = 1u << JOB_STATE_VALIDATING,
                                      .after = after,
                                      .limit = PAGE_LIMIT,
                                      .ascending = true};
    storage_list_jobs(daemon->storage, &filter, on_list, scan);
}

void validator_tick(struct daemon *daemon)
{
    struct validator *validator = &daemon->validator;
    if (!validator->is_due || validator->is_scanning || daemon->drain_started_ns != 0 ||
        validator->active_count == DAEMON_ACTIVE_LIMIT ||
        clock_boot_ns(daemon->clock) < validator->retry_at_ns) {
        return;
    }
    validator->is_due = false;
    struct storage_counts counts;
    storage_get_counts(daemon->storage, &counts);
    if (counts.by_state[JOB_STATE_VALIDATING] > validator->active_count) {
        validator->is_scanning = true;
        list_page(daemon, NULL);
    }
}

void validator_wake(struct daemon *daemon)
{
    daemon->validator.is_due = true;
    validator_tick(daemon);
}
