/* api/range.c: see range.h. */
#include "api/range.h"
#include "base/text.h"
#include <stddef.h>
#include <string.h>
#include <strings.h>

static const char *skip_space(const char *text)
{
    return text + strspn(text, " \t");
}

enum range_kind range_parse(const char *header, uint64_t size_bytes, struct range *ret_range)
{
    if (header == NULL || strncasecmp(header, "bytes=", 6) != 0) {
        return RANGE_WHOLE;
    }
    const char *first = skip_space(header + 6);
    size_t first_length = strspn(first, "0123456789");
    if (first[first_length] != '-') {
        return RANGE_WHOLE;
    }
    const char *last = first + first_length + 1;
    size_t last_length = strspn(last, "0123456789");
    if (*skip_space(last + last_length) != '\0' || (first_length == 0 && last_length == 0)) {
        return RANGE_WHOLE;
    }
    uint64_t begin = 0, end = UINT64_MAX;
    /* A number past 2^64 is past every file: it saturates. */
    if (first_length > 0 && !text_parse_u64(first, first_length, &begin)) {
        begin = UINT64_MAX;
    }
    if (last_length > 0 && !text_parse_u64(last, last_length, &end)) {
        end = UINT64_MAX;
    }
    if (first_length == 0) { /* the last `end` bytes */
        if (end == 0 || size_bytes == 0) {
            return RANGE_UNSATISFIABLE;
        }
        uint64_t count = end < size_bytes ? end : size_bytes;
        *ret_range = (struct range){.offset = size_bytes - count, .count = count};
        return RANGE_PART;
    }
    if (last_length > 0 && end < begin) {
        return RANGE_WHOLE;
    }
    if (begin >= size_bytes) {
        return RANGE_UNSATISFIABLE;
    }
    uint64_t stop = end < size_bytes - 1 ? end : size_bytes - 1;
    *ret_range = (struct range){.offset = begin, .count = stop - begin + 1};
    return RANGE_PART;
}

bool range_if_range_matches(const char *header, const char *etag)
{
    return header == NULL || strcmp(header, etag) == 0;
}

bool range_if_none_match(const char *header, const char *etag)
{
    if (header == NULL) {
        return false;
    }
    const char *rest = skip_space(header);
    if (*rest == '*') {
        return *skip_space(rest + 1) == '\0';
    }
    size_t etag_length = strlen(etag);
    while (*rest != '\0') {
        if (strncmp(rest, "W/", 2) == 0) {
            rest += 2;
        }
        const char *close = *rest == '"' ? strchr(rest + 1, '"') : NULL;
        if (close == NULL) {
            return false;
        }
        size_t length = (size_t)(close - rest) + 1;
        if (length == etag_length && memcmp(rest, etag, length) == 0) {
            return true;
        }
        rest = skip_space(close + 1);
        if (*rest == ',') {
            rest = skip_space(rest + 1);
        } else if (*rest != '\0') {
            return false;
        }
    }
    return false;
}
