/*
 * storage/job.h: what a job is, and the pure machine that moves it.
 *
 *   validating -> queued -> running -> succeeded
 *        |          ^  |      | ^ |--> failed
 *        |          |  |      | |
 *        |          '--|------' | (drain, worker death, transient failure: back to queued)
 *        '-> failed    '-> cancelled <- cancelling <- running
 *
 * job_apply is a function of (job, event, now) alone: no clock, no disk, no lock. Storage runs it inside the
 * transaction that makes its effects durable; the simulator in tests/unit runs it a million times.
 */
#ifndef STORAGE_JOB_H
#define STORAGE_JOB_H

#include "base/error.h"
#include "base/json.h"
#include "base/rng.h"
#include <stdbool.h>
#include <stdint.h>

#define JOB_STATES(X)                                                                                        \
    X(VALIDATING, "validating")                                                                              \
    X(QUEUED, "queued")                                                                                      \
    X(RUNNING, "running")                                                                                    \
    X(PAUSED, "paused")                                                                                      \
    X(CANCELLING, "cancelling")                                                                              \
    X(SUCCEEDED, "succeeded")                                                                                \
    X(FAILED, "failed")                                                                                      \
    X(CANCELLED, "cancelled")
enum job_state {
#define X(name, slug) JOB_STATE_##name,
    JOB_STATES(X)
#undef X
};
const char *job_state_slug(enum job_state state);
bool job_state_parse(const char *slug, enum job_state *ret_state);
bool job_state_is_terminal(enum job_state state);

#define JOB_CRASH_LIMIT 3 /* worker deaths without a finished step in between (design section 5) */
#define JOB_RETRY_LIMIT 5 /* transient failures; the fifth is final */

/* One version of a job. Immutable once published; shared by reference count (job_acquire / job_release).
 * Strings and JSON are owned by the snapshot; any of them may be NULL where the comment allows it. */
struct job {
    char id[40]; /* job_ + 26 */
    char tenant_id[40];
    int64_t row; /* insertion order; the cursor behind `after` */
    char *type;  /* "pruning", "selection", "evaluation" */
    char *name;  /* NULL: none was given */
    enum job_state state;
    char *stage; /* NULL until running: "inspect", "calibrate", ... */
    char *
        status_reason; /* NULL or a machine word: "worker_lost", "retry_backoff", ...; "waiting for job_..." */
    uint64_t epoch;    /* +1 with every claim; every later write of that attempt carries it */
    uint32_t attempt_count, crash_count, retry_count;
    int64_t created_at_ms, queued_at_ms, started_at_ms, finished_at_ms, updated_at_ms; /* 0: not yet */
    int64_t run_at_ms;     /* not claimed before (retry backoff) */
    uint64_t memory_bytes; /* the reservation its plan asks for; 0 unknown */
    uint64_t version;      /* +1 with every change, progress included: the ETag */
    json_t *spec;          /* the resolved request body */
    json_t *plan;          /* plan of the work; NULL until validated */
    json_t *steps;         /* [{name, status, started_at, finished_at}] */
    json_t *result;        /* NULL until succeeded: the summary the worker reported */
    json_t *error;         /* NULL or {code, field, message, stage, retryable} */
    json_t *files;         /* NULL or [{path, bytes, sha256}], sorted by path */
    char *
        revision; /* NULL or 40 hex: sha1 over the canonical manifest (sorted path NUL size NUL sha256 newline),
                       without report.* */
    /* Not durable: the last report of the worker. */
    double progress_ratio; /* 0..1; negative: none */
    uint64_t progress_step, progress_steps;
    char progress_unit[24];
    double progress_rate_per_second, progress_eta_seconds; /* negative: unknown */
    uint64_t peak_rss_bytes;
    double cpu_seconds;
    int reference_count; /* atomic; storage and job_acquire/release only */
};
struct job *job_acquire(struct job *job);
void job_release(struct job *job); /* NULL is fine */

enum job_event_kind {
    JOB_EVENT_VALIDATED,     /* validating -> queued; plan, memory_bytes */
    JOB_EVENT_REJECTED,      /* validating -> failed; error */
    JOB_EVENT_WAITING,       /* validating stays; message becomes the status_reason */
    JOB_EVENT_CLAIMED,       /* queued -> running; epoch+1, attempt+1 */
    JOB_EVENT_STAGE,         /* fenced; a stage began: `stage` (closes the one before in `steps`) */
    JOB_EVENT_STEP_FINISHED, /* fenced; a durable checkpoint: crash_count = 0 */
    JOB_EVENT_MESSAGE,       /* fenced; only the event log grows: level, message, data */
    JOB_EVENT_SUCCEEDED,     /* fenced; running -> succeeded; files, revision, result */
    JOB_EVENT_FAILED,        /* fenced; running -> failed; cancelling -> cancelled; error */
    JOB_EVENT_FAILED_TRANSIENT, /* fenced; running -> queued with backoff 10 s * 2^n (cap 1 h, 5 tries), then failed */
    JOB_EVENT_WORKER_DIED, /* fenced; running -> queued, crash_count+1; the third in a row -> failed worker_crash;
                                   cancelling -> cancelled; message says how it died */
    JOB_EVENT_RELEASED,  /* fenced; running -> queued: a drain or the daemon's own death; counts as nothing;
                                   cancelling -> cancelled */
    JOB_EVENT_CANCEL,    /* validating, queued -> cancelled; running -> cancelling; cancelling: no change;
                                   terminal: CONFLICT */
    JOB_EVENT_CANCELLED, /* fenced; cancelling -> cancelled */
    JOB_EVENT_RETRY,     /* failed, cancelled -> queued, counters cleared; else CONFLICT */
};
struct job_event {
    enum job_event_kind kind;
    uint64_t epoch; /* of the writer; compared for the fenced kinds, FENCED if it is not the job's */
    const char *stage;
    const char *level; /* "info", "warn", "error" */
    const char *message;
    json_t *data, *plan, *files, *result; /* borrowed */
    const char *revision;
    const struct error *error;
    const char *error_stage;
    uint64_t memory_bytes;
};

/* What must follow a transition. */
struct job_effects {
    bool changed;        /* false: nothing to write (cancel of a cancelling job) */
    bool wake_scheduler; /* the job became runnable */
    bool stop_worker;    /* a running job was cancelled */
    char log_type[24];   /* the event row: "status", "progress", "message" */
    char log_level[8];
    char log_message[384];
};
/* Makes the next version in *ret_next (owned, one reference). The old one stays as it is. FENCED, CONFLICT. */
bool job_apply(const struct job *job, const struct job_event *event, int64_t now_ms, struct job **ret_next,
               struct job_effects *ret_effects, struct error *error) MUST_USE;

#endif
