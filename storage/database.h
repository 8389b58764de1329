/*
 * storage/database.h: what storage asks of a database. SQLite implements it (sqlite_*.c); a second database
 * implements this header and nothing else.
 *
 * storage.c owns the queue of commands, the group commit, the projection and every decision (job_apply); a
 * database only stores. All calls come from one thread at a time: first from the one that opens, then from
 * the DB thread. A batch is begin, then for each command mark, calls, keep or undo, and at last commit or
 * rollback. Reads may come outside of a batch. Within a batch reads see what was written before.
 *
 * Failures are answers (STORAGE_FULL, CONFLICT, FENCED, IO). A database that cannot be trusted any more (an
 * fsync failed, a page is corrupt) logs and aborts the process: a restart recovers from what is durable.
 */
#ifndef STORAGE_DATABASE_H
#define STORAGE_DATABASE_H

#include "storage/storage.h"

struct database {
    const struct database_operations *operations;
};

struct database_options {
    const char *folder;
    uint64_t quota_bytes; /* 0: none */
    int schema_version;   /* migrate no further than this; 0: the newest. For tests of migrations. */
};

struct job_list {
    struct job **jobs; /* owned, and so is a reference to each */
    size_t count, capacity;
};
void job_list_add(struct job_list *list, struct job *taken);
void job_list_finish(struct job_list *list);

struct event_list {
    struct storage_event *events; /* owned; their texts too */
    size_t count, capacity;
};
void event_list_finish(struct event_list *list);

struct model_list {
    struct model_record **models; /* owned, and so is a reference to each */
    size_t count, capacity;
};
void model_list_add(struct model_list *list, struct model_record *taken);
void model_list_finish(struct model_list *list);

struct database_operations {
    void (*close)(struct database *database); /* NULL-safe; no batch is open */

    bool (*begin)(struct database *database, struct error *error);
    /* True: everything kept since begin survives power loss. False: nothing of it is there. */
    bool (*commit)(struct database *database, struct error *error);
    void (*rollback)(struct database *database);
    bool (*mark)(struct database *database, struct error *error);
    bool (*keep)(struct database *database, struct error *error);
    /* Back to the mark. False: the database gave up the whole batch, which is now closed. */
    bool (*undo)(struct database *database);

    /* job->row is 0; *ret_row grows with every insert. */
    bool (*insert_job)(struct database *database, const struct job *job, const char *idempotency_key,
                       const char *request_sha256, int64_t *ret_row, struct error *error);
    /* Writes what differs. FENCED unless the stored row still has the state and epoch of `previous`. */
    bool (*update_job)(struct database *database, const struct job *previous, const struct job *next,
                       struct error *error);
    bool (*delete_job)(struct database *database, const struct job *job, struct error *error);
    /* *ret_job: owned, NULL if there is none. */
    bool (*find_job)(struct database *database, const char *tenant_id, const char *job_id,
                     struct job **ret_job, struct error *error);
    /* ret_job_id: "" if the key is new. */
    bool (*find_idempotency_key)(struct database *database, const char *tenant_id, const char *key,
                                 char ret_job_id[40], char ret_request_sha256[65], struct error *error);
    /* First queued job by priority, then row, with run_at passed, that fits the limit. ret_job_id: "" if
     * none. */
    bool (*find_runnable_job)(struct database *database, int64_t now_ms, uint64_t memory_limit_bytes,
                              char ret_tenant_id[40], char ret_job_id[40], struct error *error);
    /* The filter's `after` is given as its row, 0: from the start; its limit is not looked at. */
    bool (*list_jobs)(struct database *database, const struct job_filter *filter, int64_t after_row,
                      size_t limit, struct job_list *list, struct error *error);
    /* Every live job and the last `finished_limit` finished ones, by row. *ret_left_out_row: the highest row
     * of a finished job that was left out, 0: none was. */
    bool (*load_jobs)(struct database *database, size_t finished_limit, struct job_list *list,
                      int64_t *ret_left_out_row, struct error *error);
    bool (*count_jobs)(struct database *database, uint64_t ret_by_state[8], struct error *error);

    bool (*append_event)(struct database *database, const struct job *job, const struct storage_event *event,
                         struct error *error);
    bool (*list_events)(struct database *database, const struct job *job, int64_t after_seq, size_t limit,
                        struct event_list *list, struct error *error);

    bool (*insert_artifact)(struct database *database, const struct job *job, const char *path,
                            const char *sha256, uint64_t bytes, struct error *error);
    bool (*is_blob_referenced)(struct database *database, const char *sha256, bool *ret_referenced,
                               struct error *error);

    bool (*insert_model)(struct database *database, const struct model_record *model, int64_t *ret_row,
                         struct error *error);
    bool (*load_models)(struct database *database, struct model_list *list, struct error *error);

    /* Between batches, at least once a second; idle: nothing was asked for a second. Checkpoints. */
    void (*maintain)(struct database *database, bool idle);
    uint64_t (*get_bytes)(struct database *database);
};

/* Opens or creates <folder>/pruned.db and migrates it. CONFLICT: another process holds it; UNSUPPORTED: its
 * schema is newer than this program; CORRUPT_FILE. */
bool sqlite_open_database(const struct database_options *options, struct database **ret_database,
                          struct error *error) MUST_USE;

#endif
