/*
 * api/range.h: the three conditional headers of a download (RFC 9110 sections 13 and 14), as pure functions.
 * A Range that is malformed, of another unit, or lists several ranges is ignored: the whole file is sent.
 */
#ifndef API_RANGE_H
#define API_RANGE_H

#include <stdbool.h>
#include <stdint.h>

enum range_kind { RANGE_WHOLE, RANGE_PART, RANGE_UNSATISFIABLE };
struct range {
    uint64_t offset, count; /* bytes; of RANGE_PART only, count >= 1 */
};
/* header may be NULL. */
enum range_kind range_parse(const char *header, uint64_t size_bytes, struct range *ret_range);
/* Strong comparison; a date or a weak tag never matches. NULL header: true (no condition). `etag` with its
 * quotes. */
bool range_if_range_matches(const char *header, const char *etag);
/* If-None-Match: a list of tags or "*"; weak comparison. NULL header: false. A malformed list matches
 * nothing. */
bool range_if_none_match(const char *header, const char *etag);

#endif
