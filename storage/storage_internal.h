/*
 * storage/storage_internal.h: between the storage*.c files.
 *   storage.c          opening, recovery, closing; counts and reports
 *   storage_queue.c    the DB thread: commands, group commit, maintenance
 *   storage_jobs.c     commands on jobs, listings, events
 *   storage_results.c  work folders, publishing, artifacts, the sweep
 *   storage_uploads.c  blobs that come in from outside
 *   storage_models.c   models: assembly, records
 * Behind them: database.h (rows), projection.h (memory), blob_store.h (files), io_pool.h (threads).
 *
 * A command is one request to the DB thread. `run` happens inside the batch and fills the results; if the
 * batch is lost, commands that write fail with its error and commands that only read run again. `publish`
 * happens after the commit (only on success; updates the projection), then `answer` calls the caller back,
 * always once. The queue frees the command after that through `destroy`.
 */
#ifndef STORAGE_STORAGE_INTERNAL_H
#define STORAGE_STORAGE_INTERNAL_H

#include "storage/blob_store.h"
#include "storage/database.h"
#include "storage/io_pool.h"
#include "storage/projection.h"
#include <pthread.h>
#include <stdatomic.h>

struct command;
struct command_kind {
    bool writes;
    bool (*run)(struct storage *storage, struct command *command, struct error *error);
    void (*publish)(struct storage *storage, struct command *command); /* NULL: nothing to */
    void (*answer)(struct storage *storage, struct command *command,
                   const struct error *error); /* error NULL: done */
    void (*forget)(
        struct command *command); /* results of a run that is to be repeated; NULL: none are kept */
    void (*destroy)(struct command *command);
};
struct command { /* first member of each kind's own struct */
    const struct command_kind *kind;
    struct command *next;
    bool failed;
    struct error error;
};

/* Changes of the batch that is open: what commands of the same batch must see before the projection does. */
#define OVERLAY_SLOTS 1024 /* a power of two, over twice the commands of a batch */
struct overlay {
    struct {
        char id[40];
        struct job *job; /* NULL: deleted in this batch */
    } slots[OVERLAY_SLOTS];
    size_t used[OVERLAY_SLOTS];
    size_t count;
};

struct storage {
    /* fixed after open */
    char *folder;
    const struct clock_source *clock;
    uint64_t reserve_bytes;
    void (*on_change)(void *context, struct job *job, const struct job_effects *effects);
    void *on_change_context;
    struct database *database; /* DB thread only once it runs */
    struct projection *projection;
    struct blob_store *blobs;
    struct io_pool *pool;
    pthread_t thread;
    bool thread_started;

    pthread_mutex_t queue_lock;
    pthread_cond_t queue_wake;
    /* guarded by queue_lock */
    struct command *first, **last;
    bool stopping, reported; /* reported: a report of progress waits in the projection */

    /* DB thread only */
    struct overlay overlay;
    int64_t maintained_ms, swept_ms; /* monotonic */

    pthread_mutex_t models_lock;
    struct model_list models; /* guarded by models_lock; by row */

    atomic_bool closing;
    atomic_uint_fast64_t commits, commands, database_bytes;
};

/* ---- storage_queue.c ---- */
/* Any thread. Takes the command. */
void storage_post(struct storage *storage, struct command *command);
bool storage_start_thread(struct storage *storage, struct error *error) MUST_USE;
/* Runs what is queued, then ends the thread. */
void storage_stop_thread(struct storage *storage);
int64_t storage_monotonic_ms(void);

/* ---- storage_jobs.c; DB thread ---- */
/* The newest version: of this batch, of the projection, of the database. *ret_job acquired. NOT_FOUND. */
bool storage_load_job(struct storage *storage, const char *tenant_id, const char *job_id,
                      struct job **ret_job, struct error *error) MUST_USE;
/* Brings back what a live job's spec names and has left the projection. */
void storage_recall_needed(struct storage *storage, const struct job *job);
/* job_apply, the row, the event. *ret_next acquired; effects->changed false: it is the job as it was. */
bool storage_change_job(struct storage *storage, const struct job *job, const struct job_event *event,
                        struct job **ret_next, struct job_effects *ret_effects, struct error *error) MUST_USE;
void storage_clear_overlay(struct storage *storage);

/* ---- storage_results.c ---- */
bool storage_has_room(struct storage *storage, uint64_t bytes, struct error *error) MUST_USE;
/* Removes on the I/O pool; `path` is a temporary already. Taken; NULL is fine. */
void storage_remove_later(struct storage *storage, char *path);
/* At the start: leftovers of work/ and models/ become temporaries. */
void storage_sweep_folders(struct storage *storage);
/* On the I/O pool: leftovers of tmp/, then old blobs that nothing refers to. */
void storage_sweep_later(struct storage *storage);

/* ---- storage_models.c ---- */
bool storage_load_models(struct storage *storage, struct error *error) MUST_USE;
bool storage_has_model(struct storage *storage, const char *model_id) MUST_USE;

#endif
