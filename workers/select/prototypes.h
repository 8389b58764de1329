/*
 * workers/select/prototypes.h: the self-supervised prototype metric ("Beyond neural scaling laws", arXiv 2206.14486): a record is as hard as it is
 * far from the centroid of its cluster. Clusters, labels and distances are those of kmeans_assign (kmeans.h), in either form.
 *
 * Which end to keep: the hard one where data are plentiful, the easy one where they are scarce. Balance gives each cluster a floor before
 * the rest goes by distance alone: the share balance_ratio / cluster_count of what is wanted (quantile.h), or all that it has.
 *
 * Drop duplicates first: the easy end keeps copies.
 */
#ifndef WORKERS_SELECT_PROTOTYPES_H
#define WORKERS_SELECT_PROTOTYPES_H

#include "base/error.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum prototypes_side { PROTOTYPES_HARD, PROTOTYPES_EASY };
struct prototypes {
    size_t n, cluster_count;
    const uint32_t *labels; /* borrowed, [n], each below cluster_count */
    const float *distances; /* borrowed, [n] */
    enum prototypes_side side;
    size_t wanted;
    double balance_ratio; /* 0: none, 0.5: half of the even share, at most 1 */
};
/* The chosen by rank: hardest or easiest first, ties to the smaller index, also where balance chose them. ret_order: the smaller of wanted
 * and n. INVALID_ARGUMENT: a label out of range. NUMERIC: a distance that is no number. OUT_OF_MEMORY. No state. */
bool prototypes_choose(const struct prototypes *prototypes, size_t *ret_order, struct error *error) MUST_USE;

#endif
