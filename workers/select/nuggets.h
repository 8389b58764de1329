/*
 * workers/select/nuggets.h: the golden score of Nuggets (ACL 2024, 2312.10302): the share of anchor tasks that a model answers
 * better with a candidate put before them as the one example.
 *
 *     GS_i = (1 / m) sum_j 1[ b_ij > a_j ]
 *
 * a_j [m]: log-probability of anchor j's answer, summed over its tokens (the mean gives the same, as both have the same length); b_ij [N, m]
 * the same with candidate i in front. The inequality is strict: an example that changes nothing has not helped. Pairs in which the candidate
 * is the anchor itself are leaks; they count neither above nor below the line.
 *
 * Early stop. The anchors are asked in a random order, the same for all candidates. After m' of m a candidate's score lies on one side of
 * the threshold tau
 *     - for certain, where the anchors left cannot change it, and
 *     - but for a probability of delta (Hoeffding), where |GS - tau| > sqrt(ln(2 / delta) / (2 m')).
 * delta is of one look: who looks c times and wants delta of all of them passes delta / c.
 *
 * Anchors: the records nearest to the centres of k-means, so that each stands for a part of all there is.
 *
 * Threads: any; everything is in the caller's memory.
 */
#ifndef WORKERS_SELECT_NUGGETS_H
#define WORKERS_SELECT_NUGGETS_H

#include "workers/tensor/dense.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct nuggets_tally {
    size_t wins, anchors; /* without leaks */
};
/* wins / anchors; NaN where every anchor was a leak. */
double nuggets_score(const struct nuggets_tally *tally);

/* zero_shot: [anchor_count]; one_shot: [candidate_count, anchor_count]; is_leak: the same shape, or NULL for none (what it marks is not
 * read). Infinite log-probabilities compare as they are. INVALID_ARGUMENT: no anchors. NUMERIC: NaN, naming anchor and candidate; the
 * tallies are undefined then. */
bool nuggets_tally(const double *zero_shot, const double *one_shot, const bool *is_leak,
                   size_t candidate_count, size_t anchor_count, struct nuggets_tally *ret_tallies,
                   struct error *error) MUST_USE;

enum nuggets_decision { NUGGETS_UNDECIDED, NUGGETS_ABOVE, NUGGETS_NOT_ABOVE };
/* tally: of the anchors asked so far; left: how many there still are, leaks not counted. threshold: 0..1, and a score must be greater;
 * delta: 0 < delta < 1. Undecided at the end only where there was no anchor at all. */
enum nuggets_decision nuggets_decide(const struct nuggets_tally *tally, size_t left, double threshold,
                                     double delta);

/* Of embeddings [count, size], count >= 1: at most `wanted` >= 1 of them, all where there are no more. ret_anchors: room for the smaller of both; by
 * rising number, none twice (two centres may have the same nearest record). Errors: kmeans.h. */
bool nuggets_choose_anchors(const struct dense_threads *threads, const float *embeddings, size_t count,
                            size_t size, size_t wanted, uint64_t seed, uint32_t *ret_anchors,
                            size_t *ret_count, struct error *error) MUST_USE;

#endif
