/*
 * workers/select/rds.h: representation similarity to a target set (RDS; RDS+ of "Large-scale data selection for instruction
 * tuning"): a record is worth the cosine of its embedding to the nearest target, or the mean of its cosines to all of them; where
 * the targets fall into groups (tasks, languages), the groups take turns in choosing.
 *
 * The greatest cosine is found by fp32 products, block by block, and then made again in double of each target that these leave in
 * question, so equal records have equal scores. The mean needs no products: it is the cosine's numerator with the mean of the targets, each of
 * length 1. A record or target of zeros (rows.h) has cosine 0 with everything, and counts in the mean.
 */
#ifndef WORKERS_SELECT_RDS_H
#define WORKERS_SELECT_RDS_H

#include "workers/tensor/dense.h"
#include <stdint.h>

enum rds_pooling { RDS_MAX, RDS_MEAN };
/* Borrowed. */
struct rds_targets {
    size_t count, size; /* size: of an embedding, >= 1 */
    const float *rows;  /* [count, size] */
    const uint32_t
        *groups; /* [count], each below group_count; NULL: all belong to group 0, and group_count is 1 */
    size_t group_count; /* >= 1 */
};
/* rows [n, size]; ret_scores [group_count, n], -1..1. INVALID_ARGUMENT: a group without targets, or out of range. NUMERIC: a record or target,
 * by number, that rows.h refuses. CANCELLED, OUT_OF_MEMORY. Takes about 20 MB beside the arguments. One caller at a time drives the pool. */
bool rds_score(const struct dense_threads *threads, size_t n, const float *rows,
               const struct rds_targets *targets, enum rds_pooling pooling, double *ret_scores,
               struct error *error) MUST_USE;

/* Weighted round-robin: the groups take turns, each in proportion to its weight and spread as evenly as can be (each turn adds the weights
 * to the groups' credits; the group of most credit, ties to the smaller number, pays the sum of all weights). Whose turn it is takes its best record
 * that is not taken yet, ties to the smaller index. weights [group_count], >= 0 and one above; NULL: all the same. ret_order, ret_groups (may
 * be NULL; who chose): the smaller of wanted and n. INVALID_ARGUMENT: the weights. NUMERIC, OUT_OF_MEMORY (8 bytes for each
 * group and wanted record). No state. */
bool rds_round_robin(size_t n, size_t group_count, const double *scores, const double *weights, size_t wanted,
                     size_t *ret_order, uint32_t *ret_groups, struct error *error) MUST_USE;

#endif
