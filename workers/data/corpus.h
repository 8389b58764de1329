/*
 * workers/data/corpus.h: text on disk as documents. A document is one JSONL record or one whole text file
 * (design section 7).
 *
 * "half" cuts a text file after the first blank line that starts at or after its byte midpoint (no byte is
 * lost, none is in both); a JSONL file after the first record that ends there. A file that has no such place
 * is cut after the first line end.
 *
 * The whole file is read at once (it is hashed and must be UTF-8); CORPUS_LIMIT_BYTES bounds it. Immutable
 * once loaded.
 */
#ifndef WORKERS_DATA_CORPUS_H
#define WORKERS_DATA_CORPUS_H

#include "base/cancel.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/json.h"
#include <stddef.h>
#include <stdint.h>

#define CORPUS_LIMIT_BYTES (512u << 20)

enum corpus_half { CORPUS_WHOLE, CORPUS_FIRST_HALF, CORPUS_SECOND_HALF };

struct corpus_options {
    const char *path;       /* absolute */
    const char *name;       /* what to call it in errors and reports; NULL: the path's last segment */
    const char *text_field; /* the record member that holds the text; NULL: "text" for names or paths that end
                               in .jsonl, else a plain text file */
    enum corpus_half half;
    const struct cancel *cancel; /* may be NULL */
};

struct document {
    const char *bytes; /* UTF-8, [length], borrowed from the corpus; may hold NULs */
    size_t length;
};
struct corpus {
    char *name;                 /* owned */
    struct document *documents; /* [document_count], none empty */
    size_t document_count;
    uint64_t byte_count; /* of the documents: what bits per byte are measured in */
    uint64_t file_bytes; /* of the whole file */
    char sha256[65];     /* of the whole file */
    enum corpus_half half;
    char *text_field; /* owned; NULL for plain text */
    char *storage;    /* owned: the file, or the decoded records */
};
/* TEXT_TOO_SHORT: no text at all. CORRUPT_FILE: not UTF-8 (file and byte offset), not JSON or no such field
 * (file and line). TOO_LARGE, NOT_FOUND, IO, CANCELLED. field: the name. */
struct corpus *corpus_load(const struct corpus_options *options, struct error *error) MUST_USE;
void corpus_destroy(struct corpus *corpus);
OWNED_DEFINE(corpus)

/* "first", "second"; NULL or "": the whole. False on anything else. */
bool corpus_half_parse(const char *text, enum corpus_half *ret_half);
const char *corpus_half_name(enum corpus_half half); /* "whole", "first", "second" */

/* {"name", "bytes", "sha256", "half", "text_field", "documents", "document_bytes"}: goes with every number.
 * Owned. */
json_t *corpus_describe(const struct corpus *corpus) MUST_USE;

#endif
