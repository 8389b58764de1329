/*
 * storage/sqlite_error.c: SQLite's result codes in our words.
 *
 * After a failed fsync the kernel marks the page clean and reports only once, so a second try would lie; a
 * corrupt page says that what was acknowledged may be gone. Both end the process before anything more is
 * answered: the restart reads what is durable.
 */
#include "base/log.h"
#include "storage/sqlite_internal.h"
#include <stdlib.h>

static bool is_fatal(int code)
{
    return code == SQLITE_IOERR_FSYNC || code == SQLITE_IOERR_DIR_FSYNC || code == SQLITE_IOERR_TRUNCATE ||
           code == SQLITE_IOERR_CORRUPTFS || (code & 0xff) == SQLITE_CORRUPT ||
           (code & 0xff) == SQLITE_NOTADB;
}

static enum error_code translate(int code)
{
    switch (code & 0xff) {
    case SQLITE_FULL:
        return ERROR_STORAGE_FULL;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_CONSTRAINT:
        return ERROR_CONFLICT;
    case SQLITE_NOMEM:
        return ERROR_OUT_OF_MEMORY;
    case SQLITE_TOOBIG:
        return ERROR_TOO_LARGE;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return ERROR_CORRUPT_FILE;
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
    case SQLITE_PERM:
    case SQLITE_READONLY:
        return ERROR_IO;
    default:
        return ERROR_INTERNAL;
    }
}

bool sqlite_error_set_opening(sqlite3 *handle, int code, const char *what, struct error *error)
{
    if (code == 0) {
        code = sqlite3_extended_errcode(handle);
    }
    return error_set(error, translate(code), "database: %s: %s (%d)", what,
                     handle != NULL ? sqlite3_errmsg(handle) : sqlite3_errstr(code), code);
}

bool sqlite_error_set(sqlite3 *handle, int code, const char *what, struct error *error)
{
    if (code == 0) {
        code = sqlite3_extended_errcode(handle);
    }
    if (is_fatal(code)) {
        log_error("the database cannot be trusted any more, ending the process", LOG_TEXT("doing", what),
                  LOG_TEXT("reason", sqlite3_errmsg(handle)), LOG_I64("code", code));
        abort();
    }
    return sqlite_error_set_opening(handle, code, what, error);
}
