/*
 * daemon/scheduler.c: which job runs when. See daemon_internal.h.
 *
 * A job runs when a slot is free and its plan's memory fits beside what running jobs have reserved. storage
 * keeps the order; here stand only the slots and the sum. One claim is under way at a time, so the sum cannot
 * be spent twice.
 */
#include "base/log.h"
#include "base/memory.h"
#include "daemon/daemon_internal.h"
#include <stdlib.h>
#include <string.h>

struct claim {
    struct letter letter;
    struct daemon *daemon;
    struct job *job; /* acquired; NULL: nothing to run */
};

static void publish_gauges(struct daemon *daemon)
{
    const struct scheduler *scheduler = &daemon->scheduler;
    atomic_store(&daemon->gauge_busy, scheduler->busy_count);
    atomic_store(&daemon->gauge_reserved, scheduler->reserved_bytes);
    atomic_store(&daemon->gauge_restarts, scheduler->restart_count);
    atomic_store(&daemon->gauge_deaths, scheduler->death_count);
}

static void release_drop(struct letter *letter)
{
    free(letter);
}

static void on_released(void *context, struct job *job, bool replayed, const struct error *error)
{
    (void)job;
    (void)replayed;
    (void)error; /* a start releases it as well */
    struct claim *claim = context;
    claim->letter.deliver = release_drop;
    if (!mailbox_post(&claim->daemon->mailbox, &claim->letter)) {
        free(claim);
    }
}

/* Claimed, and not to be run after all: a drain began. */
static void give_back(struct claim *claim)
{
    const struct job_event event = {.kind = JOB_EVENT_RELEASED, .epoch = claim->job->epoch};
    struct job *job = claim->job;
    claim->job = NULL;
    storage_apply(claim->daemon->storage, job->tenant_id, job->id, &event, on_released, claim);
    job_release(job);
}

static void start(struct daemon *daemon, struct job *job)
{
    struct scheduler *scheduler = &daemon->scheduler;
    size_t slot = 0;
    while (scheduler->slots[slot] != NULL) {
        slot++;
    }
    scheduler->busy_count++;
    scheduler->reserved_bytes += job->memory_bytes;
    scheduler->restart_count += job->attempt_count > 1;
    scheduler->slots[slot] = attempt_start(daemon, job, slot);
    publish_gauges(daemon);
}

static void deliver_claim(struct letter *letter)
{
    struct claim *claim = (struct claim *)letter;
    struct daemon *daemon = claim->daemon;
    daemon->scheduler.is_claiming = false;
    struct job *job = claim->job;
    if (job == NULL) {
        free(claim);
        daemon_check_drained(daemon);
        return;
    }
    /* A cancel that came meanwhile is a letter behind this one: it finds the attempt in its slot. */
    if (daemon->drain_started_ns != 0) {
        give_back(claim);
    } else {
        start(daemon, job);
        job_release(job);
        free(claim);
    }
    scheduler_wake(daemon);
    daemon_check_drained(daemon);
}

static void on_claimed(void *context, struct job *job, bool replayed, const struct error *error)
{
    (void)replayed;
    struct claim *claim = context;
    if (error != NULL) {
        log_error("cannot claim a job", LOG_TEXT("cause", error->message));
    }
    claim->job = job == NULL ? NULL : job_acquire(job);
    claim->letter.deliver = deliver_claim;
    if (!mailbox_post(&claim->daemon->mailbox, &claim->letter)) {
        job_release(claim->job);
        free(claim);
    }
}

void scheduler_wake(struct daemon *daemon)
{
    struct scheduler *scheduler = &daemon->scheduler;
    if (scheduler->is_claiming || daemon->drain_started_ns != 0 ||
        scheduler->busy_count >= daemon->config->slots ||
        scheduler->reserved_bytes > daemon->config->memory_bytes) {
        return;
    }
    struct storage_counts counts;
    storage_get_counts(daemon->storage, &counts);
    if (counts.by_state[JOB_STATE_QUEUED] == 0) {
        return;
    }
    scheduler->is_claiming = true;
    struct claim *claim = memory_create(1, sizeof *claim);
    claim->daemon = daemon;
    /* With nothing beside it a job that is larger than all we may give is claimed too, to be told so by its attempt: it was
     * planned under another limit, and would wait for ever. */
    uint64_t free_bytes = daemon->config->memory_bytes - scheduler->reserved_bytes;
    storage_claim_job(daemon->storage, scheduler->busy_count == 0 ? UINT64_MAX : free_bytes, on_claimed,
                      claim);
}

void scheduler_attempt_ended(struct daemon *daemon, size_t slot)
{
    struct scheduler *scheduler = &daemon->scheduler;
    scheduler->reserved_bytes -= attempt_memory_bytes(scheduler->slots[slot]);
    scheduler->slots[slot] = NULL;
    scheduler->busy_count--;
    publish_gauges(daemon);
    scheduler_wake(daemon);
    daemon_check_drained(daemon);
}

void scheduler_cancel(struct daemon *daemon, const char *job_id)
{
    for (size_t i = 0; i < DAEMON_SLOT_LIMIT; i++) {
        struct attempt *attempt = daemon->scheduler.slots[i];
        if (attempt != NULL && strcmp(attempt_job_id(attempt), job_id) == 0) {
            attempt_cancel(attempt);
        }
    }
}

void scheduler_tick(struct daemon *daemon, int64_t now_ns, int64_t late_ns)
{
    int64_t oldest_ns = now_ns;
    for (size_t i = 0; i < DAEMON_SLOT_LIMIT; i++) {
        struct attempt *attempt = daemon->scheduler.slots[i];
        if (attempt != NULL) {
            attempt_tick(attempt, now_ns, late_ns);
            int64_t heard_ns = attempt_last_heard_ns(attempt);
            oldest_ns = heard_ns != 0 && heard_ns < oldest_ns ? heard_ns : oldest_ns;
        }
    }
    atomic_store(&daemon->gauge_oldest_heartbeat_ms, (now_ns - oldest_ns) / 1000000);
    publish_gauges(daemon);
    scheduler_wake(daemon); /* a backoff may have run out; nothing else announces that */
}

void scheduler_drain(struct daemon *daemon, bool now)
{
    for (size_t i = 0; i < DAEMON_SLOT_LIMIT; i++) {
        struct attempt *attempt = daemon->scheduler.slots[i];
        if (attempt != NULL && now) {
            attempt_kill_for_drain(attempt);
        } else if (attempt != NULL) {
            attempt_drain(attempt);
        }
    }
}
