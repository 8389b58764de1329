/*
 * storage/sqlite_results.c: which blobs jobs refer to, and the registered models. A finished job refers to its files; a live
 * one to the texts its request names ("sha256:<hex>"), however long it waits or runs.
 */
#include "base/memory.h"
#include "storage/sqlite_internal.h"

bool sqlite_insert_artifact(struct database *database, const struct job *job, const char *path,
                            const char *sha256, uint64_t bytes, struct error *error)
{
    struct sqlite *sqlite = (struct sqlite *)database;
    return sqlite_bind(sqlite, SQLITE_STATEMENT_INSERT_ARTIFACT, error, "tittu", job->tenant_id, job->row,
                       path, sha256, bytes) &&
           sqlite_run(sqlite, SQLITE_STATEMENT_INSERT_ARTIFACT, error);
}

bool sqlite_is_blob_referenced(struct database *database, const char *sha256, bool *ret_referenced,
                               struct error *error)
{
    struct sqlite *sqlite = (struct sqlite *)database;
    if (!sqlite_bind(sqlite, SQLITE_STATEMENT_FIND_ARTIFACT, error, "t", sha256) ||
        !sqlite_step(sqlite, SQLITE_STATEMENT_FIND_ARTIFACT, ret_referenced, error)) {
        return false;
    }
    sqlite_reset(sqlite, SQLITE_STATEMENT_FIND_ARTIFACT);
    return true;
}

bool sqlite_insert_model(struct database *database, const struct model_record *model, int64_t *ret_row,
                         struct error *error)
{
    struct sqlite *sqlite = (struct sqlite *)database;
    if (!sqlite_bind(sqlite, SQLITE_STATEMENT_INSERT_MODEL, error, "tttttji", model->id, model->tenant_id,
                     model->name, model->source, model->folder, model->inventory, model->created_at_ms) ||
        !sqlite_run(sqlite, SQLITE_STATEMENT_INSERT_MODEL, error)) {
        return false;
    }
    *ret_row = sqlite3_last_insert_rowid(sqlite->handle);
    return true;
}

bool sqlite_load_models(struct database *database, struct model_list *list, struct error *error)
{
    struct sqlite *sqlite = (struct sqlite *)database;
    enum sqlite_statement which = SQLITE_STATEMENT_LOAD_MODELS;
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
        sqlite3_stmt *found = sqlite_row(sqlite, which);
        struct model_record *model = memory_create(1, sizeof *model);
        model->reference_count = 1;
        model->row = sqlite3_column_int64(found, 0);
        sqlite_copy_identifier(found, 1, model->id);
        sqlite_copy_identifier(found, 2, model->tenant_id);
        model->name = sqlite_copy_text(found, 3);
        model->source = sqlite_copy_text(found, 4);
        model->folder = sqlite_copy_text(found, 5);
        model->created_at_ms = sqlite3_column_int64(found, 7);
        if (!sqlite_parse_document(found, 6, &model->inventory, error)) {
            (void)error_prefix(error, "model %s: ", model->id);
            model_record_release(model);
            sqlite_reset(sqlite, which);
            return false;
        }
        model_list_add(list, model);
    }
}
