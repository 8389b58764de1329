/*
 * daemon/daemon_internal.h: the state that the files of this folder share. For this folder only.
 *
 * Each field says whose it is. "loop": the loop thread alone reads and writes it.
 */
#ifndef DAEMON_DAEMON_INTERNAL_H
#define DAEMON_DAEMON_INTERNAL_H

#include "api/api.h"
#include "base/clock.h"
#include "daemon/daemon.h"
#include "daemon/mailbox.h"
#include "daemon/oneshot.h"
#include "storage/storage.h"
#include <pthread.h>
#include <stdatomic.h>
#include <uv.h>

#define DAEMON_TICK_MS      250
#define DAEMON_SLOT_LIMIT   64
#define DAEMON_ACTIVE_LIMIT 4 /* jobs in validation at a time */

struct attempt;

struct scheduler { /* loop */
    struct attempt *slots[DAEMON_SLOT_LIMIT];
    size_t busy_count;
    uint64_t reserved_bytes;
    bool is_claiming;
    uint64_t restart_count, death_count; /* of workers, since the start */
};

struct validator { /* loop */
    bool is_due;   /* something happened since the last look began */
    bool is_scanning;
    int64_t retry_at_ns; /* no look before */
    size_t active_count;
    char active[DAEMON_ACTIVE_LIMIT][40]; /* "" = free */
};

struct daemon {
    /* Fixed after start. */
    const struct config *config;
    const struct clock_source *clock;
    char **worker_environment; /* owned, NULL-terminated */
    json_t *catalogue;         /* owned */
    struct storage *storage;
    struct mailbox mailbox;

    uv_loop_t loop;
    uv_timer_t tick;                                        /* loop */
    uv_signal_t terminate, interrupt, hangup;               /* loop */
    struct oneshot_pool oneshots;                           /* loop */
    struct scheduler scheduler;                             /* loop */
    struct validator validator;                             /* loop */
    size_t planner_count;                                   /* loop: plans and inspections under way */
    int64_t last_tick_ns, last_watchdog_ns, last_status_ns; /* loop */
    int64_t drain_started_ns;                               /* loop; 0: not draining */

    pthread_mutex_t api_lock;
    struct api *api; /* guarded by api_lock; NULL before it started and after it was stopped */

    /* Any thread. */
    atomic_bool is_draining;
    atomic_bool wake_posted;        /* a wake letter is on its way */
    atomic_bool is_validation_news; /* and the validator has to look */
    _Atomic int64_t ticked_ns;
    _Atomic uint64_t gauge_busy, gauge_reserved, gauge_restarts, gauge_deaths;
    _Atomic int64_t gauge_oldest_heartbeat_ms;
};

/* ---- planner.c: loop thread ---------------------------------------------------------------------------- */

/* request: as sources_plan_request makes it; taken. The answer is {plan, inventory?}; a plan that needs more
 * memory than the service may give is a fault. A worker that dies is tried once more. */
void planner_plan(struct daemon *daemon, json_t *request, api_host_done *done, void *done_context);
/* Puts threads and memory_limit_bytes into a message to a worker: planned and run with the same. */
void planner_allow(const struct daemon *daemon, const json_t *spec, json_t *message);
void planner_inspect(struct daemon *daemon, const char *folder, api_host_done *done, void *done_context);

/* ---- validator.c: loop thread -------------------------------------------------------------------------- */

void validator_wake(
    struct daemon *daemon); /* a job is `validating`, or one ended that another may wait for */
void validator_tick(struct daemon *daemon); /* a look that had to be put off */

/* ---- attempt.c: loop thread ---------------------------------------------------------------------------- */

/* Takes over a claimed job (acquires it) in a slot; calls scheduler_attempt_ended once it is over. */
struct attempt *attempt_start(struct daemon *daemon, struct job *job, size_t slot);
const char *attempt_job_id(const struct attempt *attempt);
uint64_t attempt_memory_bytes(const struct attempt *attempt);
int64_t attempt_last_heard_ns(const struct attempt *attempt); /* 0: no process yet */
void attempt_cancel(struct attempt *attempt);
void attempt_drain(struct attempt *attempt);
void attempt_kill_for_drain(struct attempt *attempt);
/* Every tick: kills a worker whose lease ran out. late_ns: how much later than due the tick came; that much
 * of the silence is our own. */
void attempt_tick(struct attempt *attempt, int64_t now_ns, int64_t late_ns);

/* ---- scheduler.c: loop thread -------------------------------------------------------------------------- */

void scheduler_wake(struct daemon *daemon); /* claims while a slot is free */
void scheduler_cancel(struct daemon *daemon, const char *job_id);
void scheduler_tick(struct daemon *daemon, int64_t now_ns, int64_t late_ns);
void scheduler_drain(struct daemon *daemon, bool now);
void scheduler_attempt_ended(struct daemon *daemon, size_t slot);

/* ---- host.c -------------------------------------------------------------------------------------------- */

struct api_host host_make(struct daemon *daemon);

/* ---- serve.c ------------------------------------------------------------------------------------------- */

/* Loop: stops the loop if a drain is under way and nothing is left to wait for. */
void daemon_check_drained(struct daemon *daemon);

#endif
