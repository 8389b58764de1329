/*
 * workers/select/prototypes.h: the self-supervised prototype metric ("Beyond neural scaling laws", arXiv 2206.14486): a record is as hard as it is
 * far from the centroid of its cluster.
 *
 * Which end to keep: the hard one where data are plentiful, the easy one where they are scarce. Balance gives each cluster a floor before
 * the rest goes by score alone: floor(balance_ratio * wanted / cluster_count) of its best, or all that it has.
 *
 * Distances are of the records to the centroids they are assigned to (kmeans.h: the nearest, ties to the smaller number), in double, so equal
 * records have equal scores, to the bit. Drop duplicates first: the easy end keeps copies.
 */
#ifndef WORKERS_SELECT_PROTOTYPES_H
#define WORKERS_SELECT_PROTOTYPES_H

#include "workers/tensor/dense.h"
#include <stdint.h>

enum prototypes_distance {
    PROTOTYPES_COSINE,    /* 1 - cosine, 0..2; 1 where record or centroid is zero */
    PROTOTYPES_EUCLIDEAN, /* the distance, not its square */
};
/* Borrowed. */
struct prototypes_clusters {
    size_t count, size;
    const float *centroids; /* [count, size]; of any length for cosines */
    const uint32_t *labels; /* by record, each below count */
};
/* rows [n, size], ret_scores [n]. Rows are spread over the pool. INVALID_ARGUMENT: a label out of range. NUMERIC: a row or a centroid (named)
 * that is not finite. CANCELLED, OUT_OF_MEMORY. */
bool prototypes_score(const struct dense_threads *threads, size_t n, const float *rows,
                      const struct prototypes_clusters *clusters, enum prototypes_distance distance,
                      double *ret_scores, struct error *error) MUST_USE;

enum prototypes_side { PROTOTYPES_HARD, PROTOTYPES_EASY };
struct prototypes_choice {
    enum prototypes_side side;
    size_t wanted;
    double balance_ratio; /* 0: none, 0.5: half of the even share, at most 1 */
};
/* The chosen of n records by rank: hardest or easiest first, ties to the smaller index, also where balance chose them. Of clusters only count
 * and labels are read. ret_order: room for n; *ret_count: the smaller of wanted and n. INVALID_ARGUMENT, NUMERIC, OUT_OF_MEMORY. No state. */
bool prototypes_choose(size_t n, const double *scores, const struct prototypes_clusters *clusters,
                       const struct prototypes_choice *choice, size_t *ret_order, size_t *ret_count,
                       struct error *error) MUST_USE;

#endif
