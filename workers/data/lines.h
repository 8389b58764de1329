/* workers/data/lines.h: text files loaded whole, and their lines, for the readers of JSONL. Threads: no state. */
#ifndef WORKERS_DATA_LINES_H
#define WORKERS_DATA_LINES_H

#include "base/error.h"
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

/* Where the line that contains byte `at` ends, its newline included; count if none follows. */
static inline size_t lines_end(const char *bytes, size_t count, size_t at)
{
    const char *newline = at < count ? memchr(bytes + at, '\n', count - at) : NULL;
    return newline != NULL ? (size_t)(newline - bytes) + 1 : count;
}

/* Nothing but spaces, tabs and line ends. */
static inline bool lines_is_blank(const char *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (bytes[i] != ' ' && bytes[i] != '\t' && bytes[i] != '\r' && bytes[i] != '\n') {
            return false;
        }
    }
    return true;
}

/* What a file is called in errors and reports: `name`, or if that is NULL its path's last segment. Borrowed of either. */
const char *lines_file_name(const char *name, const char *path);
/* The whole file, [*ret_count]; ret_sha256: of it. Owned, free(). NULL: CORRUPT_FILE where it is not UTF-8, TOO_LARGE, NOT_FOUND, IO; their
 * field is `name`. */
char *lines_load_file(const char *path, const char *name, size_t limit_bytes, size_t *ret_count,
                      char ret_sha256[65], struct error *error) MUST_USE;

/* A walk over lines, from {.bytes, .count}. */
struct lines {
    const char *bytes; /* borrowed, [count] */
    size_t count;
    size_t number;       /* of the line at hand, from 1; blank ones count */
    size_t first, after; /* its bytes, line end excluded: first ... after - 1 */
    size_t next;
};
/* Goes to the next line that is not blank; false: there is none. */
bool lines_next(struct lines *lines);

#endif
