/*
 * workers/prune/merging.h: what Adapt-Pruner does with rows that go (structured_pruning section 3): each is added to the kept row that is
 * most like it, k* = argmax_k W_r . W_k (ties: the lower one).
 *
 *     rows that make channels (up, gate)   the kept row becomes the mean of itself and what was added
 *     columns that read them (down)        the kept column becomes the sum
 *
 * The published code loses all but the last of several rows that fall to one kept row; here all are added.
 */
#ifndef WORKERS_PRUNE_MERGING_H
#define WORKERS_PRUNE_MERGING_H

#include "workers/tensor/dense.h"
#include <stdint.h>

/* weights [count, columns]; kept: [kept_count] ascending. Afterwards its first kept_count rows are the merged ones. CANCELLED,
 * OUT_OF_MEMORY. */
bool merge_rows(const struct dense_threads *threads, float *weights, size_t count, size_t columns,
                const uint32_t *kept, size_t kept_count, bool is_mean, struct error *error) MUST_USE;
/* The same of columns: weights [rows, count] become [rows, kept_count], row after row without gaps. */
bool merge_columns(const struct dense_threads *threads, float *weights, size_t rows, size_t count,
                   const uint32_t *kept, size_t kept_count, bool is_mean, struct error *error) MUST_USE;

#endif
