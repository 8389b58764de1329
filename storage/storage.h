/*
 * storage/storage.h: the door of everything durable, and the interface a second database implements.
 *
 * One thread (the DB thread) owns the connection. Commands go down a queue; it drains them, opens a transaction,
 * gives each a savepoint, commits at 256 commands or 2 ms, and only then answers all of them: an answer
 * means durable (synchronous=FULL). Live jobs and those they name, the last 10,000 finished ones, all models, are read from an
 * in-memory projection that changes after the commit. Files are hashed, synced, moved and deleted by an I/O pool
 * of two threads. An fsync error or a corrupt database aborts the process; a full disk fails the write with
 * STORAGE_FULL and reading goes on.
 *
 * Callbacks: `done` is called exactly once, either on the caller's thread before the call returns or on a storage
 * thread. It must not block or take a lock that is held around a storage call. What it is handed is borrowed for
 * the call (acquire a job to keep it). All functions are thread-safe. Arguments are copied before return.
 *
 * Layout of the folder:  pruned.db (+ -wal)   blobs/ab/<sha256>   tmp/   work/<job>.<epoch>/   models/<id>/
 */
#ifndef STORAGE_STORAGE_H
#define STORAGE_STORAGE_H

#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "storage/job.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STORAGE_TENANT_DEFAULT "tenant_default"

struct storage;

struct storage_options {
    const char *folder;               /* created with mode 0700 if absent; NFS is refused */
    const struct clock_source *clock; /* NULL: the system's */
    uint64_t reserve_bytes; /* new work is refused (STORAGE_FULL) below this much free disk; 0: 256 MiB */
    uint64_t database_quota_bytes; /* 0: none */
    size_t finished_in_memory;     /* 0: 10,000 */
    /* Called on the DB thread after each commit that changed a job, and for progress; must be short. May be NULL. */
    void (*on_change)(void *context, struct job *job, const struct job_effects *effects);
    void *on_change_context;
};

/* Opens or creates; migrates forward; refuses a newer schema (UNSUPPORTED) and a database that another process
 * holds (CONFLICT, says so). Every job that was running goes back to queued (RELEASED: leases are void at a
 * start) or to cancelled; leftovers in tmp/ and unreferenced blobs older than 24 h and stale work/ folders are swept.
 */
bool storage_open(const struct storage_options *options, struct storage **ret_storage,
                  struct error *error) MUST_USE;
/* Waits for queued commands, checkpoints the WAL (TRUNCATE), closes. NULL is fine. */
void storage_close(struct storage *storage);
const char *storage_folder(const struct storage *storage);

/* ---- jobs ---------------------------------------------------------------------------------------------- */

struct job_draft {
    const char *tenant_id, *type, *name; /* name may be NULL */
    const char *status_reason;           /* of a job that starts `validating`; NULL: none */
    const char *idempotency_key;         /* NULL: none */
    const char *request_sha256;          /* of the canonical request; compared when the key was seen */
    json_t *spec, *plan;                 /* plan NULL: the job starts `validating`, else `queued` */
    uint64_t memory_bytes;
};
/* replayed: the key was known and the request the same; the job is the first one as it is now.
 * Errors: IDEMPOTENCY_MISMATCH, STORAGE_FULL. */
typedef void storage_job_done(void *context, struct job *job, bool replayed, const struct error *error);
void storage_insert_job(struct storage *storage, const struct job_draft *draft, storage_job_done *done,
                        void *context);
/* Runs job_apply in a transaction and logs its event. NOT_FOUND, FENCED, CONFLICT. */
void storage_apply(struct storage *storage, const char *tenant_id, const char *job_id,
                   const struct job_event *event, storage_job_done *done, void *context);
/* Claims the first runnable job (state queued, run_at passed, priority, then row) whose memory_bytes is at most the
 * limit (a larger one at the head keeps later ones waiting only until a slot would be idle: see storage.c). job NULL:
 * none. */
void storage_claim_job(struct storage *storage, uint64_t memory_limit_bytes, storage_job_done *done,
                       void *context);
/* Terminal jobs only (else CONFLICT); its events and artifact rows go, and the folder its result was laid out in unless
 * a running job reads it; blobs follow in the sweep. */
void storage_delete_job(struct storage *storage, const char *tenant_id, const char *job_id,
                        storage_job_done *done, void *context);

/* From the projection only; NULL if it is not there. Caller releases. Never blocks on the database. */
struct job *storage_peek_job(struct storage *storage, const char *tenant_id, const char *job_id) MUST_USE;
/* Projection first, then the database. NOT_FOUND. */
void storage_get_job(struct storage *storage, const char *tenant_id, const char *job_id,
                     storage_job_done *done, void *context);

struct job_filter {
    const char *tenant_id;
    const char *type;    /* NULL: any */
    unsigned state_mask; /* 1u << JOB_STATE_*; 0: any */
    const char *method;  /* NULL: any */
    const char *after;   /* job id; NULL: from the start. NOT_FOUND if there is no such job */
    size_t limit;        /* 1..100 */
    bool ascending;      /* default: newest first */
};
typedef void storage_jobs_done(void *context, struct job *const *jobs, size_t count, bool has_more,
                               const struct error *error);
void storage_list_jobs(struct storage *storage, const struct job_filter *filter, storage_jobs_done *done,
                       void *context);

/* Not durable; a newer epoch's or a terminal job's report is dropped. At most 4 a second a job reach on_change. */
struct job_progress {
    uint64_t step, steps;
    const char *unit;
    double ratio, rate_per_second, eta_seconds;
    uint64_t peak_rss_bytes;
    double cpu_seconds;
};
void storage_progress(struct storage *storage, const char *job_id, uint64_t epoch,
                      const struct job_progress *progress);

struct storage_event { /* one row of the append-only log */
    int64_t seq, created_at_ms;
    char id[40]; /* evt_ + 26 */
    const char *level, *type, *message;
    json_t *data; /* may be NULL */
};
typedef void storage_events_done(void *context, const struct storage_event *events, size_t count,
                                 bool has_more, const struct error *error);
/* Oldest first, seq > after_seq. NOT_FOUND if the job is unknown. */
void storage_list_events(struct storage *storage, const char *tenant_id, const char *job_id,
                         int64_t after_seq, size_t limit, storage_events_done *done, void *context);

/* Jobs per state, for /metrics and admission. */
struct storage_counts {
    uint64_t by_state[8]; /* enum job_state */
    uint64_t runnable, blob_count, blob_bytes, database_bytes, commits, commands;
    int64_t oldest_queued_at_ms; /* 0: none */
};
void storage_get_counts(struct storage *storage, struct storage_counts *ret_counts);

/* ---- results ------------------------------------------------------------------------------------------- */

/* work/<job>.<epoch>, created; returned path is owned. A later epoch may take over an earlier one's checkpoints:
 * the newest earlier folder of the job is renamed to the new epoch's name. */
char *storage_make_work_folder(struct storage *storage, const char *job_id, uint64_t epoch,
                               struct error *error) MUST_USE;
/* Removed in the background (after failure and success; a cancelled job's goes by itself). */
void storage_remove_work_folder(struct storage *storage, const char *job_id);

/* The worker wrote, hashed and synced `files` ([{path, bytes, sha256}]) under work/<job>.<epoch>/out/. I/O pool: verify
 * each hash, rename into blobs/, fsync folders; then one fenced transaction: artifact rows, manifest, SUCCEEDED.
 * Errors: FENCED, CHECKSUM_MISMATCH (also for a file that is not there), STORAGE_FULL, IO; NOT_FOUND: no such job.
 * Idempotent: a crash in between leaves only orphans. */
void storage_publish(struct storage *storage, const char *tenant_id, const char *job_id, uint64_t epoch,
                     json_t *files, json_t *result, storage_job_done *done, void *context);
/* Opens one file of a succeeded job, found in job->files. The descriptor is the caller's. NOT_FOUND. */
int storage_open_artifact(struct storage *storage, const struct job *job, const char *path,
                          uint64_t *ret_bytes, char ret_sha256[65], struct error *error) MUST_USE;

/* ---- blobs: uploads by content --------------------------------------------------------------------------- */

/* Whether it is there; a blob that was asked for is safe from the sweep for half a day. */
bool storage_find_blob(struct storage *storage, const char *sha256, uint64_t *ret_bytes) MUST_USE;
struct storage_upload;
/* Appends go to a temporary on the caller's thread (page cache); finish hashes, syncs and renames in the I/O pool.
 * An upload that is neither finished nor abandoned is swept at the next start. */
struct storage_upload *storage_open_upload(struct storage *storage, uint64_t expected_bytes,
                                           struct error *error) MUST_USE;
bool storage_append_upload(struct storage_upload *upload, const void *bytes, size_t count,
                           struct error *error) MUST_USE;
typedef void storage_blob_done(void *context, uint64_t bytes, bool existed, const struct error *error);
/* Takes the upload. CHECKSUM_MISMATCH names both hashes. */
void storage_finish_upload(struct storage_upload *upload, const char *sha256, storage_blob_done *done,
                           void *context);
void storage_abandon_upload(struct storage_upload *upload); /* NULL is fine */

/* ---- models ---------------------------------------------------------------------------------------------- */

struct model_record { /* immutable, shared by reference count like a job */
    char id[40];      /* model_ + 26 */
    char tenant_id[40];
    int64_t row;
    char *name;        /* unique per tenant */
    char *source;      /* "file:///path" for a folder in place, "blobs" for an assembled one */
    char *folder;      /* absolute path the worker reads */
    json_t *inventory; /* tensor names, shapes, dtypes, config, files with size, mtime_ns, sha256 */
    int64_t created_at_ms;
    int reference_count;
};
struct model_record *model_record_acquire(struct model_record *model);
void model_record_release(struct model_record *model);
typedef void storage_model_done(void *context, struct model_record *model, const struct error *error);

/* Hard links (or copies) files ([{path, sha256}]) from blobs/ into models/<id>/. id is made by the caller
 * (rng_identifier "model_"). NOT_FOUND lists the missing blob in field. done's text: the folder. */
typedef void storage_folder_done(void *context, const char *folder, const struct error *error);
void storage_assemble_model(struct storage *storage, const char *model_id, json_t *files,
                            storage_folder_done *done, void *context);
/* Removes models/<id>/ of an assembled model that was not inserted (its inspection failed); in the background. A folder
 * that a model record names stays. */
void storage_discard_model(struct storage *storage, const char *model_id);
/* CONFLICT if the name is taken by another model; the same name with the same source and content is a replay. */
void storage_insert_model(struct storage *storage, const struct model_record *draft, storage_model_done *done,
                          void *context);
/* By id or name; from memory. Caller releases; NULL if there is none. */
struct model_record *storage_find_model(struct storage *storage, const char *tenant_id,
                                        const char *id_or_name) MUST_USE;
/* Newest first; *ret_models is an owned array of acquired records. */
size_t storage_list_models(struct storage *storage, const char *tenant_id, const char *after, size_t limit,
                           bool *ret_has_more, struct model_record ***ret_models);

#endif
