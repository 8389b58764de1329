/*
 * workers/data/corpus.c: the whole file is in memory once; a plain text is a slice of it, JSONL records are
 * decoded into one pool. Everything is judged while loading (encoding, syntax, field), so nothing that reads
 * a corpus later can fail on it.
 */
#include "workers/data/corpus.h"
#include "base/memory.h"
#include "base/text.h"
#include "workers/data/lines.h"

#include <string.h>

bool corpus_half_parse(const char *text, enum corpus_half *ret_half)
{
    if (text == NULL || *text == '\0' || strcmp(text, "whole") == 0) {
        *ret_half = CORPUS_WHOLE;
    } else if (strcmp(text, "first") == 0) {
        *ret_half = CORPUS_FIRST_HALF;
    } else if (strcmp(text, "second") == 0) {
        *ret_half = CORPUS_SECOND_HALF;
    } else {
        return false;
    }
    return true;
}

const char *corpus_half_name(enum corpus_half half)
{
    return half == CORPUS_FIRST_HALF ? "first" : half == CORPUS_SECOND_HALF ? "second" : "whole";
}

/* The cut: behind the first blank line that starts at or after the middle (records: behind the first line end
 * there). */
static size_t find_cut(const char *bytes, size_t count, bool is_records)
{
    size_t middle = count / 2, first_end = lines_end(bytes, count, middle);
    if (is_records) {
        return first_end;
    }
    /* A line starts at the middle only if a newline stands right before it. */
    size_t start = middle > 0 && bytes[middle - 1] == '\n' ? middle : first_end;
    while (start < count) {
        size_t end = lines_end(bytes, count, start);
        size_t length = end - start;
        if (bytes[start] == '\n' || (length == 2 && bytes[start] == '\r' && bytes[start + 1] == '\n')) {
            return end;
        }
        start = end;
    }
    return first_end;
}

static bool take_half(struct corpus *corpus, const char **bytes, size_t *count, struct error *error)
{
    if (corpus->half == CORPUS_WHOLE) {
        return true;
    }
    size_t cut = find_cut(*bytes, *count, corpus->text_field != NULL);
    if (cut >= *count) {
        return error_set_field(error, ERROR_TEXT_TOO_SHORT, corpus->name,
                               "%s: %zu bytes without a line end in their second half have no two halves",
                               corpus->name, *count);
    }
    if (corpus->half == CORPUS_FIRST_HALF) {
        *count = cut;
    } else {
        *bytes += cut;
        *count -= cut;
    }
    return true;
}

static bool fail_line(const struct corpus *corpus, enum error_code code, size_t line, const char *what,
                      struct error *error)
{
    return error_set_field(error, code, corpus->name, "%s, line %zu: %s", corpus->name, line, what);
}

/* One record. Its text goes to the pool; documents hold offsets until the pool has its final place. */
static bool read_record(struct corpus *corpus, const char *line, size_t length, size_t number,
                        struct text *pool, size_t *capacity, struct error *error)
{
    struct error cause = {0};
    JSON_OWNED json = json_parse(line, length, CORPUS_LIMIT_BYTES, &cause);
    if (json == NULL) {
        return fail_line(corpus, ERROR_CORRUPT_FILE, number, cause.message, error);
    }
    const char *text = NULL;
    if (!json_get_text(json, "", corpus->text_field, &text, &cause)) {
        return fail_line(corpus, ERROR_CORRUPT_FILE, number, cause.message, error);
    }
    size_t bytes = json_string_length(json_object_get(json, corpus->text_field));
    if (bytes == 0) {
        return true;
    }
    if (corpus->document_count == *capacity) {
        *capacity = *capacity == 0 ? 256 : *capacity * 2;
        corpus->documents = memory_resize(corpus->documents, *capacity, sizeof *corpus->documents);
    }
    text_append_bytes(pool, text, bytes);
    corpus->documents[corpus->document_count++] = (struct document){.length = bytes};
    corpus->byte_count += bytes;
    return true;
}

/* file: the whole file, so that line numbers are the file's in either half. */
static bool read_records(struct corpus *corpus, const char *file, const char *bytes, size_t count,
                         const struct cancel *cancel, struct error *error)
{
    struct text pool = {0};
    struct lines lines = {.bytes = file, .count = (size_t)(bytes - file) + count};
    size_t capacity = 0;
    bool ok = true;
    while (ok && lines_next(&lines)) {
        if (file + lines.first >= bytes) {
            ok = cancel_check_now(cancel, error) &&
                 read_record(corpus, file + lines.first, lines.after - lines.first, lines.number, &pool,
                             &capacity, error);
        }
    }
    corpus->storage = text_take(&pool);
    const char *at = corpus->storage;
    for (size_t i = 0; i < corpus->document_count; i++) {
        corpus->documents[i].bytes = at;
        at += corpus->documents[i].length;
    }
    return ok;
}

static bool read_corpus(struct corpus *corpus, const struct corpus_options *options, struct error *error)
{
    size_t file_count = 0;
    OWNED_MEMORY char *file =
        lines_load_file(options->path, corpus->name, CORPUS_LIMIT_BYTES, &file_count, corpus->sha256, error);
    if (file == NULL) {
        return false;
    }
    corpus->file_bytes = file_count;
    const char *bytes = file;
    size_t count = file_count;
    if (!cancel_check_now(options->cancel, error)) {
        return false;
    }
    if (lines_is_blank(bytes, count)) {
        return error_set_field(error, ERROR_TEXT_TOO_SHORT, corpus->name, "%s: the file holds no text",
                               corpus->name);
    }
    if (!take_half(corpus, &bytes, &count, error)) {
        return false;
    }
    if (corpus->text_field != NULL) {
        if (!read_records(corpus, file, bytes, count, options->cancel, error)) {
            return false;
        }
    } else if (!lines_is_blank(bytes, count)) {
        corpus->documents = memory_create(1, sizeof *corpus->documents);
        corpus->documents[0] = (struct document){.bytes = bytes, .length = count};
        corpus->document_count = 1;
        corpus->byte_count = count;
        corpus->storage = TAKE(file);
    }
    if (corpus->document_count == 0) {
        return error_set_field(error, ERROR_TEXT_TOO_SHORT, corpus->name, "%s: no text in the %s%s",
                               corpus->name, corpus_half_name(corpus->half),
                               corpus->half == CORPUS_WHOLE ? " file" : " half");
    }
    return true;
}

struct corpus *corpus_load(const struct corpus_options *options, struct error *error)
{
    OWNED(corpus) corpus = memory_create(1, sizeof *corpus);
    corpus->name = memory_copy_text(lines_file_name(options->name, options->path));
    corpus->half = options->half;
    const char *field = options->text_field;
    if (field == NULL &&
        (text_ends_with(corpus->name, ".jsonl") || text_ends_with(options->path, ".jsonl"))) {
        field = "text";
    }
    corpus->text_field = memory_copy_text(field);
    if (!read_corpus(corpus, options, error)) {
        return NULL;
    }
    return TAKE(corpus);
}

void corpus_destroy(struct corpus *corpus)
{
    if (corpus != NULL) {
        free(corpus->name);
        free(corpus->documents);
        free(corpus->text_field);
        free(corpus->storage);
        free(corpus);
    }
}

json_t *corpus_describe(const struct corpus *corpus)
{
    json_t *json = json_object();
    json_put_text(json, "name", corpus->name);
    json_put_i64(json, "bytes", (int64_t)corpus->file_bytes);
    json_put_text(json, "sha256", corpus->sha256);
    json_put_text(json, "half", corpus_half_name(corpus->half));
    json_put_text(json, "text_field", corpus->text_field);
    json_put_i64(json, "documents", (int64_t)corpus->document_count);
    json_put_i64(json, "document_bytes", (int64_t)corpus->byte_count);
    return json;
}
