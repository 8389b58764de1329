/* workers/prune/angular_span.h: the contiguous span of blocks that turns the hidden states least (angular_span.c); methods that
 * replace a span choose it the same way. */
#ifndef WORKERS_PRUNE_ANGULAR_SPAN_H
#define WORKERS_PRUNE_ANGULAR_SPAN_H

#include "workers/prune/prune.h"

struct angular_span {
    size_t first, count; /* of blocks */
    double angle;        /* d: acos(cos) / pi, mean over tokens */
};
enum angular_span_rule {
    ANGULAR_SPAN_LEAST, /* of least angle */
    ANGULAR_SPAN_AFTER_FFN, /* the same of those that come right after an FFN, which can take over what they did */
    ANGULAR_SPAN_DEEPEST, /* the deepest but the last block, whatever its angle */
};
/* All blocks of the model, also of layers that are skipped: owned (free). */
size_t angular_span_list(const struct prune_run *run, struct prune_unit **ret_blocks);
/* A span holds no layer that is skipped. blocks: [block_count] of angular_span_list; 1 <= count < block_count. ret_span->count is 0 where no span qualifies. NUMERIC where an
 * angle is not finite. */
bool angular_span_choose(const struct prune_run *run, const struct prune_unit *blocks, size_t block_count,
                         size_t count, enum angular_span_rule rule, struct angular_span *ret_span,
                         struct error *error) MUST_USE;
/* Makes the span the whole plan: one point that goes as a whole. */
void angular_span_put(struct plan *plan, const struct prune_unit *blocks, const struct angular_span *span);

#endif
