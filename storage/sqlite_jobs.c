/*
 * storage/sqlite_jobs.c: jobs and their events as rows.
 *
 * The documents of a job are columns of text. A transition rewrites only those whose pointer changed:
 * snapshots share the others, so equal pointers mean equal content.
 */
#include "base/memory.h"
#include "storage/job_internal.h"
#include "storage/sqlite_internal.h"
#include <stdio.h>
#include <string.h>

static struct sqlite *of(struct database *database)
{
    return (struct sqlite *)database;
}

static const char *method_of(const struct job *job)
{
    return json_string_value(json_object_get(json_object_get(job->spec, "method"), "type"));
}

bool sqlite_insert_job(struct database *database, const struct job *job, const char *idempotency_key,
                       const char *request_sha256, int64_t *ret_row, struct error *error)
{
    struct sqlite *sqlite = of(database);
    int64_t priority = json_integer_value(json_object_get(job->spec, "priority"));
    if (!sqlite_bind(sqlite, SQLITE_STATEMENT_INSERT_JOB, error, "ttttttttiuiiiiiiiiiuuttjj", job->id,
                     job->tenant_id, job->type, method_of(job), job->name, job_state_slug(job->state),
                     job->stage, job->status_reason, priority, job->epoch, (int64_t)job->attempt_count,
                     (int64_t)job->crash_count, (int64_t)job->retry_count, job->created_at_ms,
                     job->queued_at_ms, job->started_at_ms, job->finished_at_ms, job->updated_at_ms,
                     job->run_at_ms, job->memory_bytes, job->version, idempotency_key, request_sha256,
                     job->spec, job->plan) ||
        !sqlite_run(sqlite, SQLITE_STATEMENT_INSERT_JOB, error)) {
        return false;
    }
    *ret_row = sqlite3_last_insert_rowid(sqlite->handle);
    return true;
}

static bool set_document(struct sqlite *sqlite, enum sqlite_statement which, const struct job *job,
                         const json_t *before, const json_t *after, struct error *error)
{
    if (before == after) {
        return true;
    }
    return sqlite_bind(sqlite, which, error, "jit", after, job->row, job->tenant_id) &&
           sqlite_run(sqlite, which, error);
}

bool sqlite_update_job(struct database *database, const struct job *previous, const struct job *next,
                       struct error *error)
{
    struct sqlite *sqlite = of(database);
    if (!sqlite_bind(sqlite, SQLITE_STATEMENT_UPDATE_JOB, error, "tttuiiiiiiiiuutitut",
                     job_state_slug(next->state), next->stage, next->status_reason, next->epoch,
                     (int64_t)next->attempt_count, (int64_t)next->crash_count, (int64_t)next->retry_count,
                     next->queued_at_ms, next->started_at_ms, next->finished_at_ms, next->updated_at_ms,
                     next->run_at_ms, next->memory_bytes, next->version, next->revision, next->row,
                     next->tenant_id, previous->epoch, job_state_slug(previous->state)) ||
        !sqlite_run(sqlite, SQLITE_STATEMENT_UPDATE_JOB, error)) {
        return false;
    }
    if (sqlite3_changes(sqlite->handle) != 1) {
        return error_set(error, ERROR_FENCED, "job %s is no longer %s at epoch %llu", next->id,
                         job_state_slug(previous->state), (unsigned long long)previous->epoch);
    }
    return set_document(sqlite, SQLITE_STATEMENT_SET_PLAN, next, previous->plan, next->plan, error) &&
           set_document(sqlite, SQLITE_STATEMENT_SET_STEPS, next, previous->steps, next->steps, error) &&
           set_document(sqlite, SQLITE_STATEMENT_SET_RESULT, next, previous->result, next->result, error) &&
           set_document(sqlite, SQLITE_STATEMENT_SET_ERROR, next, previous->error, next->error, error) &&
           set_document(sqlite, SQLITE_STATEMENT_SET_FILES, next, previous->files, next->files, error);
}

bool sqlite_delete_job(struct database *database, const struct job *job, struct error *error)
{
    struct sqlite *sqlite = of(database);
    return sqlite_bind(sqlite, SQLITE_STATEMENT_DELETE_JOB, error, "it", job->row, job->tenant_id) &&
           sqlite_run(sqlite, SQLITE_STATEMENT_DELETE_JOB, error);
}

/* ---- reading ------------------------------------------------------------------------------------------- */

static bool read_documents(sqlite3_stmt *row, int column, struct job *job, struct error *error)
{
    return sqlite_parse_document(row, column, &job->spec, error) &&
           sqlite_parse_document(row, column + 1, &job->plan, error) &&
           sqlite_parse_document(row, column + 2, &job->steps, error) &&
           sqlite_parse_document(row, column + 3, &job->result, error) &&
           sqlite_parse_document(row, column + 4, &job->error, error) &&
           sqlite_parse_document(row, column + 5, &job->files, error);
}

/* The columns of SQLITE_JOB_COLUMNS, in order. Owned; NULL on failure. */
static struct job *read_job(sqlite3_stmt *row, struct error *error)
{
    struct job *job = job_create();
    int column = 0;
    job->row = sqlite3_column_int64(row, column++);
    sqlite_copy_identifier(row, column++, job->id);
    sqlite_copy_identifier(row, column++, job->tenant_id);
    job->type = sqlite_copy_text(row, column++);
    job->name = sqlite_copy_text(row, column++);
    const char *state = sqlite_text(row, column++);
    if (state == NULL || !job_state_parse(state, &job->state)) {
        (void)error_set(error, ERROR_CORRUPT_FILE, "database: job %s is in no known state", job->id);
        job_release(job);
        return NULL;
    }
    job->stage = sqlite_copy_text(row, column++);
    job->status_reason = sqlite_copy_text(row, column++);
    job->epoch = (uint64_t)sqlite3_column_int64(row, column++);
    job->attempt_count = (uint32_t)sqlite3_column_int64(row, column++);
    job->crash_count = (uint32_t)sqlite3_column_int64(row, column++);
    job->retry_count = (uint32_t)sqlite3_column_int64(row, column++);
    job->created_at_ms = sqlite3_column_int64(row, column++);
    job->queued_at_ms = sqlite3_column_int64(row, column++);
    job->started_at_ms = sqlite3_column_int64(row, column++);
    job->finished_at_ms = sqlite3_column_int64(row, column++);
    job->updated_at_ms = sqlite3_column_int64(row, column++);
    job->run_at_ms = sqlite3_column_int64(row, column++);
    job->memory_bytes = (uint64_t)sqlite3_column_int64(row, column++);
    job->version = (uint64_t)sqlite3_column_int64(row, column++);
    job->revision = sqlite_copy_text(row, column++);
    if (!read_documents(row, column, job, error)) {
        (void)error_prefix(error, "job %s: ", job->id);
        job_release(job);
        return NULL;
    }
    if (job->state == JOB_STATE_SUCCEEDED) {
        job->progress_ratio = 1;
    }
    return job;
}

/* Adds the rows of a bound statement to the list. */
static bool read_jobs(struct sqlite *sqlite, enum sqlite_statement which, struct job_list *list,
                      struct error *error)
{
    for (bool row = true;;) {
        if (!sqlite_step(sqlite, which, &row, error)) {
            return false;
        }
        if (!row) {
            return true;
        }
        struct job *job = read_job(sqlite_row(sqlite, which), error);
        if (job == NULL) {
            sqlite_reset(sqlite, which);
            return false;
        }
        job_list_add(list, job);
    }
}

bool sqlite_find_job(struct database *database, const char *tenant_id, const char *job_id,
                     struct job **ret_job, struct error *error)
{
    struct sqlite *sqlite = of(database);
    struct job_list list = {0};
    if (!sqlite_bind(sqlite, SQLITE_STATEMENT_FIND_JOB, error, "tt", job_id, tenant_id) ||
        !read_jobs(sqlite, SQLITE_STATEMENT_FIND_JOB, &list, error)) {
        job_list_finish(&list);
        return false;
    }
    *ret_job = list.count > 0 ? job_acquire(list.jobs[0]) : NULL;
    job_list_finish(&list);
    return true;
}

bool sqlite_find_idempotency_key(struct database *database, const char *tenant_id, const char *key,
                                 char ret_job_id[40], char ret_request_sha256[65], struct error *error)
{
    struct sqlite *sqlite = of(database);
    bool row = false;
    if (!sqlite_bind(sqlite, SQLITE_STATEMENT_FIND_KEY, error, "tt", tenant_id, key) ||
        !sqlite_step(sqlite, SQLITE_STATEMENT_FIND_KEY, &row, error)) {
        return false;
    }
    ret_job_id[0] = '\0';
    ret_request_sha256[0] = '\0';
    if (row) {
        sqlite3_stmt *found = sqlite_row(sqlite, SQLITE_STATEMENT_FIND_KEY);
        const char *sha256 = sqlite_text(found, 1);
        sqlite_copy_identifier(found, 0, ret_job_id);
        (void)snprintf(ret_request_sha256, 65, "%s", sha256 != NULL ? sha256 : "");
        sqlite_reset(sqlite, SQLITE_STATEMENT_FIND_KEY);
    }
    return true;
}

bool sqlite_find_runnable_job(struct database *database, int64_t now_ms, uint64_t memory_limit_bytes,
                              char ret_tenant_id[40], char ret_job_id[40], struct error *error)
{
    struct sqlite *sqlite = of(database);
    bool row = false;
    if (!sqlite_bind(sqlite, SQLITE_STATEMENT_FIND_RUNNABLE, error, "iu", now_ms, memory_limit_bytes) ||
        !sqlite_step(sqlite, SQLITE_STATEMENT_FIND_RUNNABLE, &row, error)) {
        return false;
    }
    ret_tenant_id[0] = '\0';
    ret_job_id[0] = '\0';
    if (row) {
        sqlite3_stmt *found = sqlite_row(sqlite, SQLITE_STATEMENT_FIND_RUNNABLE);
        sqlite_copy_identifier(found, 0, ret_tenant_id);
        sqlite_copy_identifier(found, 1, ret_job_id);
        sqlite_reset(sqlite, SQLITE_STATEMENT_FIND_RUNNABLE);
    }
    return true;
}

bool sqlite_list_jobs(struct database *database, const struct job_filter *filter, int64_t after_row,
                      size_t limit, struct job_list *list, struct error *error)
{
    struct sqlite *sqlite = of(database);
    enum sqlite_statement which =
        filter->ascending ? SQLITE_STATEMENT_LIST_OLDEST : SQLITE_STATEMENT_LIST_NEWEST;
    char states[128] = ",";
    size_t length = 1;
    for (size_t i = 0; i < JOB_STATE_COUNT; i++) {
        if ((filter->state_mask & (1u << i)) != 0) {
            length += (size_t)snprintf(states + length, sizeof states - length, "%s,",
                                       job_state_slug((enum job_state)i));
        }
    }
    int64_t edge = after_row > 0 ? after_row : filter->ascending ? 0 : INT64_MAX;
    return sqlite_bind(sqlite, which, error, "ttttii", filter->tenant_id, filter->type, filter->method,
                       filter->state_mask == 0 ? NULL : states, edge, (int64_t)limit) &&
           read_jobs(sqlite, which, list, error);
}

static int compare_rows(const void *left, const void *right)
{
    int64_t a = (*(struct job *const *)left)->row;
    int64_t b = (*(struct job *const *)right)->row;
    return (a > b) - (a < b);
}

bool sqlite_load_jobs(struct database *database, size_t finished_limit, struct job_list *list,
                      int64_t *ret_left_out_row, struct error *error)
{
    struct sqlite *sqlite = of(database);
    if (!sqlite_bind(sqlite, SQLITE_STATEMENT_LOAD_LIVE, error, "") ||
        !read_jobs(sqlite, SQLITE_STATEMENT_LOAD_LIVE, list, error)) {
        return false;
    }
    size_t live_count = list->count;
    if (!sqlite_bind(sqlite, SQLITE_STATEMENT_LOAD_FINISHED, error, "i", (int64_t)finished_limit) ||
        !read_jobs(sqlite, SQLITE_STATEMENT_LOAD_FINISHED, list, error)) {
        return false;
    }
    int64_t left_out_row = 0;
    if (list->count - live_count == finished_limit && finished_limit > 0) {
        const struct job *oldest = list->jobs[list->count - 1];
        bool row = false;
        if (!sqlite_bind(sqlite, SQLITE_STATEMENT_LEFT_OUT, error, "ii", oldest->finished_at_ms,
                         oldest->row) ||
            !sqlite_step(sqlite, SQLITE_STATEMENT_LEFT_OUT, &row, error)) {
            return false;
        }
        left_out_row = row ? sqlite3_column_int64(sqlite_row(sqlite, SQLITE_STATEMENT_LEFT_OUT), 0) : 0;
        sqlite_reset(sqlite, SQLITE_STATEMENT_LEFT_OUT);
    }
    if (list->count > 1) {
        qsort(list->jobs, list->count, sizeof *list->jobs, compare_rows);
    }
    *ret_left_out_row = left_out_row;
    return true;
}

static bool add_counts(struct sqlite *sqlite, enum sqlite_statement which, uint64_t by_state[8],
                       struct error *error)
{
    if (!sqlite_bind(sqlite, which, error, "")) {
        return false;
    }
    for (bool row = true;;) {
        if (!sqlite_step(sqlite, which, &row, error)) {
            return false;
        }
        if (!row) {
            return true;
        }
        enum job_state state = JOB_STATE_QUEUED;
        const char *slug = sqlite_text(sqlite_row(sqlite, which), 0);
        if (slug != NULL && job_state_parse(slug, &state)) {
            by_state[state] += (uint64_t)sqlite3_column_int64(sqlite_row(sqlite, which), 1);
        }
    }
}

bool sqlite_count_jobs(struct database *database, uint64_t ret_by_state[8], struct error *error)
{
    uint64_t by_state[JOB_STATE_COUNT] = {0};
    if (!add_counts(of(database), SQLITE_STATEMENT_COUNT_FINISHED, by_state, error) ||
        !add_counts(of(database), SQLITE_STATEMENT_COUNT_LIVE, by_state, error)) {
        return false;
    }
    memcpy(ret_by_state, by_state, sizeof by_state);
    return true;
}

/* ---- events -------------------------------------------------------------------------------------------- */

bool sqlite_append_event(struct database *database, const struct job *job, const struct storage_event *event,
                         struct error *error)
{
    struct sqlite *sqlite = of(database);
    return sqlite_bind(sqlite, SQLITE_STATEMENT_APPEND_EVENT, error, "ttiitttj", event->id, job->tenant_id,
                       job->row, event->created_at_ms, event->level, event->type, event->message,
                       event->data) &&
           sqlite_run(sqlite, SQLITE_STATEMENT_APPEND_EVENT, error);
}

bool sqlite_list_events(struct database *database, const struct job *job, int64_t after_seq, size_t limit,
                        struct event_list *list, struct error *error)
{
    struct sqlite *sqlite = of(database);
    enum sqlite_statement which = SQLITE_STATEMENT_LIST_EVENTS;
    if (!sqlite_bind(sqlite, which, error, "itii", job->row, job->tenant_id, after_seq, (int64_t)limit)) {
        return false;
    }
    for (bool row = true;;) {
        if (!sqlite_step(sqlite, which, &row, error)) {
            return false;
        }
        if (!row) {
            return true;
        }
        sqlite3_stmt *found = sqlite_row(sqlite, which);
        struct storage_event event = {.seq = sqlite3_column_int64(found, 0),
                                      .created_at_ms = sqlite3_column_int64(found, 1)};
        sqlite_copy_identifier(found, 2, event.id);
        if (!sqlite_parse_document(found, 6, &event.data, error)) {
            sqlite_reset(sqlite, which);
            return false;
        }
        event.level = sqlite_copy_text(found, 3);
        event.type = sqlite_copy_text(found, 4);
        event.message = sqlite_copy_text(found, 5);
        if (list->count == list->capacity) {
            list->capacity = list->capacity == 0 ? 32 : list->capacity * 2;
            list->events = memory_resize(list->events, list->capacity, sizeof *list->events);
        }
        list->events[list->count++] = event;
    }
}
