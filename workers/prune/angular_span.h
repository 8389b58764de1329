/* workers/prune/angular_span.h: the contiguous span of blocks that turns the hidden states least (angular_span.c); methods that
 * replace a span choose it the same way. */
#ifndef WORKERS_PRUNE_ANGULAR_SPAN_H
#define WORKERS_PRUNE_ANGULAR_SPAN_H

#include "workers/prune/prune.h"

struct angular_span {
    size_t first, count; /* of blocks */
    double angle;        /* d: acos(cos) / pi, mean over tokens */
};
/* blocks: [block_count] units of whole blocks; 1 <= count < block_count. is_deepest: the deepest but the last, whatever its angle.
 * NUMERIC where an angle is not finite. */
bool angular_span_choose(const struct prune_run *run, const struct prune_unit *blocks, size_t block_count,
                         size_t count, bool is_deepest, struct angular_span *ret_span,
                         struct error *error) MUST_USE;
/* Makes the span the whole plan: one point that goes as a whole. */
void angular_span_put(struct plan *plan, const struct prune_unit *blocks, const struct angular_span *span);

#endif
