/*
 * storage/sqlite_internal.h: between the sqlite_*.c files.
 *   sqlite_database.c  open, pragmas, migrations, batches, checkpoints
 *   sqlite_error.c     result codes into struct error; abort when the file cannot be trusted
 *   sqlite_statement.c binding, stepping and reading of columns
 *   sqlite_jobs.c      jobs and their events
 *   sqlite_results.c   artifacts and models
 */
#ifndef STORAGE_SQLITE_INTERNAL_H
#define STORAGE_SQLITE_INTERNAL_H

#include "storage/database.h"
#include <sqlite3.h>

#define SQLITE_JOB_COLUMNS                                                                                   \
    "row, id, tenant_id, type, name, state, stage, status_reason, epoch, attempt_count, crash_count, "       \
    "retry_count, created_at_ms, queued_at_ms, started_at_ms, finished_at_ms, updated_at_ms, run_at_ms, "    \
    "memory_bytes, version, revision, spec, plan, steps, result, error, files"

#define SQLITE_LIST_JOBS(order, comparison)                                                                  \
    "SELECT " SQLITE_JOB_COLUMNS " FROM job WHERE tenant_id = ?1 AND (?2 IS NULL OR type = ?2)"              \
    " AND (?3 IS NULL OR method = ?3) AND (?4 IS NULL OR instr(?4, ',' || state || ',') > 0)"                \
    " AND row " comparison " ?5 ORDER BY row " order " LIMIT ?6"

/* Prepared at first use, kept until close. */
#define SQLITE_STATEMENTS(X)                                                                                 \
    X(BEGIN, "BEGIN IMMEDIATE")                                                                              \
    X(COMMIT, "COMMIT")                                                                                      \
    X(ROLLBACK, "ROLLBACK")                                                                                  \
    X(MARK, "SAVEPOINT command")                                                                             \
    X(KEEP, "RELEASE command")                                                                               \
    X(UNDO, "ROLLBACK TO command")                                                                           \
    X(INSERT_JOB,                                                                                            \
      "INSERT INTO job (id, tenant_id, type, method, name, state, stage, status_reason, priority,"           \
      " epoch, attempt_count, crash_count, retry_count, created_at_ms, queued_at_ms,"                        \
      " started_at_ms, finished_at_ms, updated_at_ms, run_at_ms, memory_bytes, version,"                     \
      " idempotency_key, request_sha256, spec, plan) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?,"   \
      " ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")                                                                      \
    X(UPDATE_JOB, "UPDATE job SET state = ?, stage = ?, status_reason = ?, epoch = ?, attempt_count = ?,"    \
                  " crash_count = ?, retry_count = ?, queued_at_ms = ?, started_at_ms = ?,"                  \
                  " finished_at_ms = ?, updated_at_ms = ?, run_at_ms = ?, memory_bytes = ?, version = ?,"    \
                  " revision = ? WHERE row = ? AND tenant_id = ? AND epoch = ? AND state = ?")               \
    X(SET_PLAN, "UPDATE job SET plan = ? WHERE row = ? AND tenant_id = ?")                                   \
    X(SET_STEPS, "UPDATE job SET steps = ? WHERE row = ? AND tenant_id = ?")                                 \
    X(SET_RESULT, "UPDATE job SET result = ? WHERE row = ? AND tenant_id = ?")                               \
    X(SET_ERROR, "UPDATE job SET error = ? WHERE row = ? AND tenant_id = ?")                                 \
    X(SET_FILES, "UPDATE job SET files = ? WHERE row = ? AND tenant_id = ?")                                 \
    X(DELETE_JOB, "DELETE FROM job WHERE row = ? AND tenant_id = ?")                                         \
    X(FIND_JOB, "SELECT " SQLITE_JOB_COLUMNS " FROM job WHERE id = ? AND tenant_id = ?")                     \
    X(FIND_KEY, "SELECT id, request_sha256 FROM job WHERE tenant_id = ? AND idempotency_key = ?")            \
    X(FIND_RUNNABLE, "SELECT tenant_id, id FROM job INDEXED BY job_runnable WHERE state = 'queued'"          \
                     " AND run_at_ms <= ? AND memory_bytes <= ? ORDER BY priority DESC, row LIMIT 1")        \
    X(LIST_NEWEST, SQLITE_LIST_JOBS("DESC", "<"))                                                            \
    X(LIST_OLDEST, SQLITE_LIST_JOBS("ASC", ">"))                                                             \
    X(LOAD_LIVE, "SELECT " SQLITE_JOB_COLUMNS " FROM job WHERE finished_at_ms = 0 ORDER BY row")             \
    X(LOAD_FINISHED, "SELECT " SQLITE_JOB_COLUMNS " FROM job WHERE finished_at_ms > 0"                       \
                     " ORDER BY finished_at_ms DESC, row DESC LIMIT ?")                                      \
    X(LEFT_OUT, "SELECT max(row) FROM job WHERE finished_at_ms > 0 AND (finished_at_ms, row) < (?, ?)")      \
    X(COUNT_FINISHED, "SELECT state, count(*) FROM job INDEXED BY job_finished WHERE finished_at_ms > 0"     \
                      " GROUP BY state")                                                                     \
    X(COUNT_LIVE, "SELECT state, count(*) FROM job INDEXED BY job_live WHERE finished_at_ms = 0"             \
                  " GROUP BY state")                                                                         \
    X(APPEND_EVENT,                                                                                          \
      "INSERT INTO job_event (id, tenant_id, job_row, created_at_ms, level, type, message, data)"            \
      " VALUES (?, ?, ?, ?, ?, ?, ?, ?)")                                                                    \
    X(LIST_EVENTS, "SELECT seq, created_at_ms, id, level, type, message, data FROM job_event"                \
                   " WHERE job_row = ? AND tenant_id = ? AND seq > ? ORDER BY seq LIMIT ?")                  \
    X(INSERT_ARTIFACT,                                                                                       \
      "INSERT INTO artifact (tenant_id, job_row, path, sha256, bytes) VALUES (?, ?, ?, ?, ?)")               \
    X(FIND_ARTIFACT,                                                                                         \
      "SELECT 1 FROM artifact WHERE sha256 = ?1 UNION ALL SELECT 1 FROM job WHERE finished_at_ms = 0"        \
      " AND instr(spec, 'sha256:' || ?1) > 0 LIMIT 1") /* of any tenant: bytes are shared */                 \
    X(INSERT_MODEL, "INSERT INTO model (id, tenant_id, name, source, folder, inventory, created_at_ms)"      \
                    " VALUES (?, ?, ?, ?, ?, ?, ?)")                                                         \
    X(LOAD_MODELS, "SELECT row, id, tenant_id, name, source, folder, inventory, created_at_ms FROM model"    \
                   " ORDER BY row")

enum sqlite_statement {
#define X(name, sql) SQLITE_STATEMENT_##name,
    SQLITE_STATEMENTS(X)
#undef X
        SQLITE_STATEMENT_COUNT
};

struct sqlite {
    struct database base; /* first: the operations cast back */
    sqlite3 *handle;
    char *path;
    sqlite3_stmt *statements[SQLITE_STATEMENT_COUNT];
    int wal_pages;        /* since the last complete checkpoint; set by the hook */
    int checkpoint_pages; /* wal_pages when PASSIVE last ran */
    int page_bytes;
};

struct sqlite_migration {
    int version;
    const char *name, *sql;
};
extern const struct sqlite_migration sqlite_migrations[]; /* generated from migrations/ */
extern const int sqlite_migration_count;

/* Fills *error from the extended code (0: the handle's last); logs and aborts where the file cannot be
 * trusted. Returns false. */
bool sqlite_error_set(sqlite3 *handle, int code, const char *what, struct error *error);
/* The same without the abort: while opening nothing was promised yet. */
bool sqlite_error_set_opening(sqlite3 *handle, int code, const char *what, struct error *error);

/* Binds by letters: t text (const char *, NULL is NULL), i int64_t, u uint64_t (at most INT64_MAX is kept),
 * j json_t * (as compact text, NULL is NULL). */
bool sqlite_bind(struct sqlite *sqlite, enum sqlite_statement which, struct error *error, const char *letters,
                 ...) MUST_USE;
/* One step of a bound statement. *ret_row false: done, and reset. */
bool sqlite_step(struct sqlite *sqlite, enum sqlite_statement which, bool *ret_row,
                 struct error *error) MUST_USE;
/* Steps to the end. */
bool sqlite_run(struct sqlite *sqlite, enum sqlite_statement which, struct error *error) MUST_USE;
void sqlite_reset(struct sqlite *sqlite, enum sqlite_statement which);
sqlite3_stmt *sqlite_row(struct sqlite *sqlite, enum sqlite_statement which);

const char *sqlite_text(sqlite3_stmt *row, int column); /* borrowed until the next step; NULL for NULL */
char *sqlite_copy_text(sqlite3_stmt *row, int column);  /* owned; NULL for NULL */
void sqlite_copy_identifier(sqlite3_stmt *row, int column, char ret_text[40]);
/* Our own text: parsed without the limits that requests have. NULL for NULL; CORRUPT_FILE. */
bool sqlite_parse_document(sqlite3_stmt *row, int column, json_t **ret_document,
                           struct error *error) MUST_USE;

bool sqlite_insert_job(struct database *database, const struct job *job, const char *idempotency_key,
                       const char *request_sha256, int64_t *ret_row, struct error *error);
bool sqlite_update_job(struct database *database, const struct job *previous, const struct job *next,
                       struct error *error);
bool sqlite_delete_job(struct database *database, const struct job *job, struct error *error);
bool sqlite_find_job(struct database *database, const char *tenant_id, const char *job_id,
                     struct job **ret_job, struct error *error);
bool sqlite_find_idempotency_key(struct database *database, const char *tenant_id, const char *key,
                                 char ret_job_id[40], char ret_request_sha256[65], struct error *error);
bool sqlite_find_runnable_job(struct database *database, int64_t now_ms, uint64_t memory_limit_bytes,
                              char ret_tenant_id[40], char ret_job_id[40], struct error *error);
bool sqlite_list_jobs(struct database *database, const struct job_filter *filter, int64_t after_row,
                      size_t limit, struct job_list *list, struct error *error);
bool sqlite_load_jobs(struct database *database, size_t finished_limit, struct job_list *list,
                      int64_t *ret_left_out_row, struct error *error);
bool sqlite_count_jobs(struct database *database, uint64_t ret_by_state[8], struct error *error);
bool sqlite_append_event(struct database *database, const struct job *job, const struct storage_event *event,
                         struct error *error);
bool sqlite_list_events(struct database *database, const struct job *job, int64_t after_seq, size_t limit,
                        struct event_list *list, struct error *error);
bool sqlite_insert_artifact(struct database *database, const struct job *job, const char *path,
                            const char *sha256, uint64_t bytes, struct error *error);
bool sqlite_is_blob_referenced(struct database *database, const char *sha256, bool *ret_referenced,
                               struct error *error);
bool sqlite_insert_model(struct database *database, const struct model_record *model, int64_t *ret_row,
                         struct error *error);
bool sqlite_load_models(struct database *database, struct model_list *list, struct error *error);

#endif
