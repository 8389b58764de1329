/*
 * api/target.h: the request target, decoded once. "/v1/jobs/job_1?wait=5" becomes path segments and query
 * pairs.
 *
 * We parse the raw target ourselves: MHD's own unescaping turns "/x%00y" into "/x". Refused: anything but
 * origin form, bytes outside printable ASCII, broken percent escapes, escapes that decode to a control
 * character, to a slash inside a segment or to bad UTF-8, "." and ".." segments, a query name given twice.
 */
#ifndef API_TARGET_H
#define API_TARGET_H

#include "base/error.h"
#include <stdbool.h>
#include <stddef.h>

#define TARGET_SEGMENT_LIMIT 24
#define TARGET_QUERY_LIMIT   16

struct target {
    char *bytes; /* owned; everything below points into it */
    const char *segments[TARGET_SEGMENT_LIMIT];
    size_t segment_count;
    struct target_pair {
        const char *name, *value;
    } query[TARGET_QUERY_LIMIT];
    size_t query_count;
};
/* INVALID_ARGUMENT; *ret_target is then empty. */
bool target_parse(const char *raw, struct target *ret_target, struct error *error) MUST_USE;
void target_finish(struct target *target);
/* NULL if the name was not given; "" if it was given without a value. */
const char *target_find_query(const struct target *target, const char *name);

#endif
