/*
 * workers/select/landmarks.h: the spectrum of a data set through landmarks, a few thousand rows that stand for all (LSC, Chen & Cai 2011;
 * data_selection 1.6): seconds for a million records, and nothing that may fail to converge. It is what spectrum.h falls back to.
 *
 * Each record weighs its r nearest landmarks, rows summing to 1:
 *
 *     Z_ij ~ exp(-|x_i - u_j|^2 / (2 h^2)),    h = the mean of all those distances
 *
 * (h = 0, every record on its landmarks: equal weights). With D = diag(Z^T 1) the affinity Z D^-1 Z^T of records has rows that sum to 1, and
 * with G = D^-1/2 Z^T Z D^-1/2 = U Lambda U^T its eigenvectors are phi = Z D^-1/2 U Lambda^-1/2 and its eigenvalues Lambda, in 0..1.
 * Degrees are all 1. Landmarks that nobody weighs are left out. Which landmarks are nearest is decided by distances in double (rows.h).
 *
 * The landmarks are given (k-means centroids, as a rule). A record whose row is zero has no landmarks, and its rows of Z and phi are zero.
 *
 * Cost: count * landmarks * size products, 9 landmarks^3 for G (dense_eigen, on one thread); memory: 12 bytes a weight, 24 landmarks^2, the
 * result. Bits depend on the inputs alone. Threads: one call at a time drives a pool. Errors: CANCELLED, OUT_OF_MEMORY, NUMERIC.
 */
#ifndef WORKERS_SELECT_LANDMARKS_H
#define WORKERS_SELECT_LANDMARKS_H

#include "workers/select/spectrum.h"

#define LANDMARKS_NEAREST 5

/* Z, sparse. */
struct landmarks {
    size_t count, landmark_count;
    size_t nearest;    /* weights a record */
    uint32_t *indices; /* owned, [count, nearest], by rising distance */
    double *weights;   /* owned, [count, nearest]; all 0 for a record of zeros */
};
/* rows: [count, size]; landmarks: [landmark_count, size]. nearest >= 1 (LANDMARKS_NEAREST), cut to landmark_count, which is 1 or more. Ties go
 * to the smaller landmark. NUMERIC: a row or landmark, by number, that rows.h refuses. */
bool landmarks_weigh(const struct dense_threads *threads, const float *rows, size_t count, size_t size,
                     const float *landmarks, size_t landmark_count, size_t nearest,
                     struct landmarks *ret_landmarks, struct error *error) MUST_USE;
void landmarks_finish(struct landmarks *landmarks);

/* The leading pairs. Fewer than `pairs` where there are fewer landmarks or the others are null (Lambda below 1e-10). */
bool landmarks_find_spectrum(const struct landmarks *landmarks, const struct dense_threads *threads,
                             size_t pairs, struct spectrum *ret_spectrum, struct error *error) MUST_USE;

#endif
