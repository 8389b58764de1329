/*
 * storage/sqlite_database.c: the connection: opening, migrating, batches and checkpoints.
 *
 * locking_mode=EXCLUSIVE comes before journal_mode=WAL: then there is no shared memory file, no second opener
 * can come in (it is told so), and the WAL-reset race of SQLite before 3.51.3, which needs two connections,
 * cannot happen. synchronous=FULL syncs the WAL at each commit: a commit survives power loss.
 *
 * SQLite checkpoints nothing on its own here: maintain() moves the WAL into the file (PASSIVE) at 4 MiB, and
 * empties it (TRUNCATE) when nothing is asked for or past 64 MiB, so no commit pays for it by surprise.
 *
 * The file is never opened or closed by other means in this process: closing any descriptor of it would drop
 * the POSIX locks.
 */
#include "base/check.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/text.h"
#include "storage/sqlite_internal.h"
#include <stdio.h>
#include <string.h>
#include <time.h>

#define APPLICATION_ID       0x70727564 /* "prud" */
#define PASSIVE_BYTES        (4 << 20)
#define TRUNCATE_BYTES       (64 << 20)
#define QUICK_CHECK_LIMIT_MS 250

static const char pragmas[] = "PRAGMA locking_mode=EXCLUSIVE;"
                              "PRAGMA auto_vacuum=INCREMENTAL;" /* counts only at creation */
                              "PRAGMA journal_mode=WAL;"
                              "PRAGMA synchronous=FULL;"
                              "PRAGMA foreign_keys=ON;"
                              "PRAGMA trusted_schema=OFF;"
                              "PRAGMA cell_size_check=ON;"
                              "PRAGMA secure_delete=OFF;"
                              "PRAGMA mmap_size=0;"
                              "PRAGMA temp_store=MEMORY;"
                              "PRAGMA cache_size=-16384;"
                              "PRAGMA wal_autocheckpoint=0;"
                              "PRAGMA journal_size_limit=67108864;";

static struct sqlite *of(struct database *database)
{
    return (struct sqlite *)database;
}

static bool execute(sqlite3 *handle, const char *sql, const char *what, struct error *error)
{
    return sqlite3_exec(handle, sql, NULL, NULL, NULL) == SQLITE_OK ||
           sqlite_error_set_opening(handle, 0, what, error);
}

static bool read_integer(sqlite3 *handle, const char *sql, int64_t *ret_value, struct error *error)
{
    sqlite3_stmt *statement = NULL;
    bool read = sqlite3_prepare_v2(handle, sql, -1, &statement, NULL) == SQLITE_OK &&
                sqlite3_step(statement) == SQLITE_ROW;
    if (read) {
        *ret_value = sqlite3_column_int64(statement, 0);
    } else {
        (void)sqlite_error_set_opening(handle, 0, sql, error);
    }
    (void)sqlite3_finalize(statement);
    return read;
}

static int note_wal(void *context, sqlite3 *handle, const char *name, int pages)
{
    (void)handle;
    (void)name;
    ((struct sqlite *)context)->wal_pages = pages;
    return SQLITE_OK;
}

static int note_mode(void *context, int column_count, char **values, char **names)
{
    (void)column_count;
    (void)names;
    (void)snprintf(context, 16, "%s", values[0]);
    return 0;
}

/* ---- opening ------------------------------------------------------------------------------------------- */

static bool configure(struct sqlite *sqlite, struct error *error)
{
    sqlite3 *handle = sqlite->handle;
    (void)sqlite3_extended_result_codes(handle, 1);
    (void)sqlite3_db_config(handle, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    (void)sqlite3_db_config(handle, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0, NULL);
    (void)sqlite3_db_config(handle, SQLITE_DBCONFIG_DQS_DML, 0, NULL);
    (void)sqlite3_db_config(handle, SQLITE_DBCONFIG_DQS_DDL, 0, NULL);
    (void)sqlite3_db_config(handle, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    if (sqlite3_exec(handle, pragmas, NULL, NULL, NULL) != SQLITE_OK) {
        if ((sqlite3_errcode(handle) & 0xff) == SQLITE_BUSY) {
            return error_set(error, ERROR_CONFLICT,
                             "another process holds the database %s; only one may use the folder at a time",
                             sqlite->path);
        }
        return sqlite_error_set_opening(handle, 0, sqlite->path, error);
    }
    /* Where WAL is not possible SQLite keeps another mode and says so only by this name. */
    char mode[16] = "";
    if (sqlite3_exec(handle, "PRAGMA journal_mode", note_mode, mode, NULL) != SQLITE_OK ||
        strcmp(mode, "wal") != 0) {
        return error_set(error, ERROR_IO, "the database %s cannot use a write-ahead log here (mode \"%s\")",
                         sqlite->path, mode);
    }
    sqlite3_wal_hook(handle, note_wal, sqlite);
    return true;
}

static int is_late(void *context)
{
    const struct timespec *deadline = context;
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec > deadline->tv_sec ||
           (now.tv_sec == deadline->tv_sec && now.tv_nsec > deadline->tv_nsec);
}

/* After an unclean exit a quick look, cut short where the file is large: restart to ready is to stay under 1 s. */
static bool check_quickly(struct sqlite *sqlite, struct error *error)
{
    struct timespec deadline;
    (void)clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_nsec += QUICK_CHECK_LIMIT_MS * 1000000L;
    deadline.tv_sec += deadline.tv_nsec / 1000000000;
    deadline.tv_nsec %= 1000000000;
    sqlite3_progress_handler(sqlite->handle, 10000, is_late, &deadline);
    sqlite3_stmt *statement = NULL;
    int code = sqlite3_prepare_v2(sqlite->handle, "PRAGMA quick_check(1)", -1, &statement, NULL);
    code = code == SQLITE_OK ? sqlite3_step(statement) : code;
    bool sound = true;
    if (code == SQLITE_ROW) {
        const char *verdict = sqlite_text(statement, 0);
        sound = strcmp(verdict, "ok") == 0 ||
                error_set(error, ERROR_CORRUPT_FILE, "database %s: %s", sqlite->path, verdict);
    } else if ((code & 0xff) == SQLITE_INTERRUPT) {
        log_info("quick check of the database cut short", LOG_I64("limit_ms", QUICK_CHECK_LIMIT_MS));
    } else {
        sound = sqlite_error_set_opening(sqlite->handle, 0, "quick check", error);
    }
    (void)sqlite3_finalize(statement);
    sqlite3_progress_handler(sqlite->handle, 0, NULL, NULL);
    return sound;
}

/* A copy of the file as it was, beside it, before a schema that holds data is changed. */
static bool keep_copy(struct sqlite *sqlite, int64_t version, struct error *error)
{
    FINISHED(text) path = {0};
    text_append_format(&path, "%s.schema-%d", sqlite->path, (int)version);
    (void)file_system->unlink(path.bytes); /* of an upgrade that did not finish */
    sqlite3_stmt *statement = NULL;
    bool kept = sqlite3_prepare_v2(sqlite->handle, "VACUUM INTO ?", -1, &statement, NULL) == SQLITE_OK &&
                sqlite3_bind_text(statement, 1, path.bytes, -1, SQLITE_STATIC) == SQLITE_OK &&
                sqlite3_step(statement) == SQLITE_DONE;
    if (!kept) {
        (void)sqlite_error_set_opening(sqlite->handle, 0, "copy before the upgrade", error);
    }
    (void)sqlite3_finalize(statement);
    return kept;
}

static bool migrate(struct sqlite *sqlite, int newest, struct error *error)
{
    int64_t version = 0;
    int64_t application_id = 0;
    if (!read_integer(sqlite->handle, "PRAGMA user_version", &version, error) ||
        !read_integer(sqlite->handle, "PRAGMA application_id", &application_id, error)) {
        return false;
    }
    if (version > 0 && application_id != APPLICATION_ID) {
        return error_set(error, ERROR_UNSUPPORTED, "%s is a database of another program", sqlite->path);
    }
    if (version > sqlite_migration_count) {
        return error_set(error, ERROR_UNSUPPORTED,
                         "the database %s has schema %d, newer than this program's %d; use the newer program",
                         sqlite->path, (int)version, sqlite_migration_count);
    }
    if (version > 0 && version < newest && !keep_copy(sqlite, version, error)) {
        return false;
    }
    for (int i = (int)version; i < newest; i++) {
        FINISHED(text) sql = {0};
        text_append_format(
            &sql, "BEGIN IMMEDIATE;\n%s\nPRAGMA application_id = %d;\nPRAGMA user_version = %d;\nCOMMIT;",
            sqlite_migrations[i].sql, APPLICATION_ID, sqlite_migrations[i].version);
        if (!execute(sqlite->handle, sql.bytes, sqlite_migrations[i].name, error)) {
            return false;
        }
    }
    return true;
}

static bool limit_pages(struct sqlite *sqlite, uint64_t quota_bytes, struct error *error)
{
    int64_t page_bytes = 0;
    if (!read_integer(sqlite->handle, "PRAGMA page_size", &page_bytes, error)) {
        return false;
    }
    sqlite->page_bytes = (int)page_bytes;
    if (quota_bytes == 0) {
        return true;
    }
    FINISHED(text) sql = {0};
    text_append_format(&sql, "PRAGMA max_page_count = %llu",
                       (unsigned long long)(quota_bytes / (uint64_t)page_bytes) + 1);
    return execute(sqlite->handle, sql.bytes, "quota", error);
}

static const struct database_operations operations;

bool sqlite_open_database(const struct database_options *options, struct database **ret_database,
                          struct error *error)
{
    CHECK(sqlite3_threadsafe() != 0);
    struct sqlite *sqlite = memory_create(1, sizeof *sqlite);
    sqlite->base.operations = &operations;
    sqlite->path = file_join(options->folder, "pruned.db");
    FINISHED(text) wal_path = {0};
    text_append_format(&wal_path, "%s-wal", sqlite->path);
    bool unclean = file_exists(wal_path.bytes);
    int newest = options->schema_version == 0 ? sqlite_migration_count : options->schema_version;
    int code = sqlite3_open_v2(sqlite->path, &sqlite->handle,
                               SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);
    bool opened = code == SQLITE_OK || sqlite_error_set_opening(sqlite->handle, code, sqlite->path, error);
    if (!opened || !configure(sqlite, error) || (unclean && !check_quickly(sqlite, error)) ||
        !migrate(sqlite, newest, error) || !limit_pages(sqlite, options->quota_bytes, error)) {
        operations.close(&sqlite->base);
        return false;
    }
    *ret_database = &sqlite->base;
    return true;
}

/* A close with an unfinished upgrade or a failed open leaves the WAL to the next opener. */
static void close_database(struct database *database)
{
    struct sqlite *sqlite = of(database);
    if (sqlite == NULL) {
        return;
    }
    for (size_t i = 0; i < SQLITE_STATEMENT_COUNT; i++) {
        (void)sqlite3_finalize(sqlite->statements[i]);
    }
    if (sqlite->handle != NULL) {
        (void)sqlite3_wal_checkpoint_v2(sqlite->handle, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
        CHECK(sqlite3_close(sqlite->handle) == SQLITE_OK);
    }
    free(sqlite->path);
    free(sqlite);
}

/* ---- batches ------------------------------------------------------------------------------------------- */

static bool run_plain(struct database *database, enum sqlite_statement which, struct error *error)
{
    return sqlite_bind(of(database), which, error, "") && sqlite_run(of(database), which, error);
}

static bool begin(struct database *database, struct error *error)
{
    return run_plain(database, SQLITE_STATEMENT_BEGIN, error);
}

static void rollback(struct database *database)
{
    /* A failed statement may have closed the transaction already; SQLite then refuses, which is what we want.
     */
    if (sqlite3_get_autocommit(of(database)->handle) == 0) {
        struct error ignored;
        (void)run_plain(database, SQLITE_STATEMENT_ROLLBACK, &ignored);
    }
}

static bool commit(struct database *database, struct error *error)
{
    if (run_plain(database, SQLITE_STATEMENT_COMMIT, error)) {
        return true;
    }
    rollback(database);
    return false;
}

static bool mark(struct database *database, struct error *error)
{
    return run_plain(database, SQLITE_STATEMENT_MARK, error);
}

static bool keep(struct database *database, struct error *error)
{
    return run_plain(database, SQLITE_STATEMENT_KEEP, error);
}

static bool undo(struct database *database)
{
    struct error ignored;
    if (sqlite3_get_autocommit(of(database)->handle) == 0 &&
        run_plain(database, SQLITE_STATEMENT_UNDO, &ignored) && keep(database, &ignored)) {
        return true;
    }
    rollback(database);
    return false;
}

/* ---- maintenance --------------------------------------------------------------------------------------- */

static void maintain(struct database *database, bool idle)
{
    struct sqlite *sqlite = of(database);
    int64_t wal_bytes = (int64_t)sqlite->wal_pages * sqlite->page_bytes;
    int64_t passed_bytes = (int64_t)sqlite->checkpoint_pages * sqlite->page_bytes;
    if (wal_bytes == 0) {
        return;
    }
    bool truncate = idle || wal_bytes > TRUNCATE_BYTES;
    if (!truncate && wal_bytes - passed_bytes < PASSIVE_BYTES) {
        return;
    }
    int mode = truncate ? SQLITE_CHECKPOINT_TRUNCATE : SQLITE_CHECKPOINT_PASSIVE;
    int code = sqlite3_wal_checkpoint_v2(sqlite->handle, NULL, mode, NULL, NULL);
    if (code != SQLITE_OK) {
        /* Nothing is lost: the WAL holds it all. A full disk is met here first; the next round tries again.
         */
        struct error error = {0};
        (void)sqlite_error_set(sqlite->handle, 0, "checkpoint", &error);
        log_warning("checkpoint failed", LOG_TEXT("reason", error.message));
    }
    sqlite->checkpoint_pages = sqlite->wal_pages;
    if (truncate && code == SQLITE_OK) {
        sqlite->wal_pages = 0;
        sqlite->checkpoint_pages = 0;
    }
}

static uint64_t get_bytes(struct database *database)
{
    struct sqlite *sqlite = of(database);
    int64_t pages = 0;
    struct error ignored;
    if (!read_integer(sqlite->handle, "PRAGMA page_count", &pages, &ignored)) {
        return 0;
    }
    return (uint64_t)(pages + sqlite->wal_pages) * (uint64_t)sqlite->page_bytes;
}

static const struct database_operations operations = {
    .close = close_database,
    .begin = begin,
    .commit = commit,
    .rollback = rollback,
    .mark = mark,
    .keep = keep,
    .undo = undo,
    .insert_job = sqlite_insert_job,
    .update_job = sqlite_update_job,
    .delete_job = sqlite_delete_job,
    .find_job = sqlite_find_job,
    .find_idempotency_key = sqlite_find_idempotency_key,
    .find_runnable_job = sqlite_find_runnable_job,
    .list_jobs = sqlite_list_jobs,
    .load_jobs = sqlite_load_jobs,
    .count_jobs = sqlite_count_jobs,
    .append_event = sqlite_append_event,
    .list_events = sqlite_list_events,
    .insert_artifact = sqlite_insert_artifact,
    .is_blob_referenced = sqlite_is_blob_referenced,
    .insert_model = sqlite_insert_model,
    .load_models = sqlite_load_models,
    .maintain = maintain,
    .get_bytes = get_bytes,
};
