/* workers/data/lines.h: text line by line, for the readers of JSONL. */
#ifndef WORKERS_DATA_LINES_H
#define WORKERS_DATA_LINES_H

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

#endif
