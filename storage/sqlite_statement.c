/* storage/sqlite_statement.c: prepared statements, prepared at first use and kept; bind, step, read. */
#include "base/check.h"
#include "base/memory.h"
#include "storage/sqlite_internal.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name, *sql;
} statements[] = {
#define X(name, sql) {#name, sql},
    SQLITE_STATEMENTS(X)
#undef X
};

static bool prepare(struct sqlite *sqlite, enum sqlite_statement which, struct error *error)
{
    if (sqlite->statements[which] == NULL &&
        sqlite3_prepare_v3(sqlite->handle, statements[which].sql, -1, SQLITE_PREPARE_PERSISTENT,
                           &sqlite->statements[which], NULL) != SQLITE_OK) {
        return sqlite_error_set(sqlite->handle, 0, statements[which].name, error);
    }
    return true;
}

static int bind_json(sqlite3_stmt *statement, int index, const json_t *json)
{
    if (json == NULL) {
        return sqlite3_bind_null(statement, index);
    }
    char *text = json_format(json, false);
    return sqlite3_bind_text64(statement, index, text, strlen(text), free, SQLITE_UTF8);
}

bool sqlite_bind(struct sqlite *sqlite, enum sqlite_statement which, struct error *error, const char *letters,
                 ...)
{
    if (!prepare(sqlite, which, error)) {
        return false;
    }
    sqlite3_stmt *statement = sqlite->statements[which];
    CHECK(sqlite3_bind_parameter_count(statement) == (int)strlen(letters));
    va_list arguments;
    va_start(arguments, letters);
    int code = SQLITE_OK;
    for (int i = 0; letters[i] != '\0' && code == SQLITE_OK; i++) {
        if (letters[i] == 't') {
            code = sqlite3_bind_text(statement, i + 1, va_arg(arguments, const char *), -1, SQLITE_TRANSIENT);
        } else if (letters[i] == 'i') {
            code = sqlite3_bind_int64(statement, i + 1, va_arg(arguments, int64_t));
        } else if (letters[i] == 'u') {
            uint64_t value = va_arg(arguments, uint64_t);
            code = sqlite3_bind_int64(statement, i + 1, value > INT64_MAX ? INT64_MAX : (int64_t)value);
        } else {
            CHECK(letters[i] == 'j');
            code = bind_json(statement, i + 1, va_arg(arguments, const json_t *));
        }
    }
    va_end(arguments);
    return code == SQLITE_OK || sqlite_error_set(sqlite->handle, code, statements[which].name, error);
}

void sqlite_reset(struct sqlite *sqlite, enum sqlite_statement which)
{
    /* Both repeat the code of the last step, which was already looked at. */
    (void)sqlite3_reset(sqlite->statements[which]);
    (void)sqlite3_clear_bindings(sqlite->statements[which]);
}

bool sqlite_step(struct sqlite *sqlite, enum sqlite_statement which, bool *ret_row, struct error *error)
{
    if (!prepare(sqlite, which, error)) {
        return false;
    }
    int code = sqlite3_step(sqlite->statements[which]);
    *ret_row = code == SQLITE_ROW;
    if (code == SQLITE_ROW) {
        return true;
    }
    bool done = code == SQLITE_DONE || sqlite_error_set(sqlite->handle, 0, statements[which].name, error);
    sqlite_reset(sqlite, which);
    return done;
}

bool sqlite_run(struct sqlite *sqlite, enum sqlite_statement which, struct error *error)
{
    bool row = true;
    while (row) {
        if (!sqlite_step(sqlite, which, &row, error)) {
            return false;
        }
    }
    return true;
}

sqlite3_stmt *sqlite_row(struct sqlite *sqlite, enum sqlite_statement which)
{
    return sqlite->statements[which];
}

const char *sqlite_text(sqlite3_stmt *row, int column)
{
    return (const char *)sqlite3_column_text(row, column);
}

char *sqlite_copy_text(sqlite3_stmt *row, int column)
{
    return memory_copy_text(sqlite_text(row, column));
}

void sqlite_copy_identifier(sqlite3_stmt *row, int column, char ret_text[40])
{
    const char *text = sqlite_text(row, column);
    (void)snprintf(ret_text, 40, "%s", text != NULL ? text : "");
}

bool sqlite_parse_document(sqlite3_stmt *row, int column, json_t **ret_document, struct error *error)
{
    const char *text = sqlite_text(row, column);
    if (text == NULL) {
        *ret_document = NULL;
        return true;
    }
    json_error_t fault;
    json_t *document = json_loadb(text, (size_t)sqlite3_column_bytes(row, column), JSON_DECODE_ANY, &fault);
    if (document == NULL) {
        return error_set(error, ERROR_CORRUPT_FILE, "database: column %s holds no JSON: %s",
                         sqlite3_column_name(row, column), fault.text);
    }
    *ret_document = document;
    return true;
}
