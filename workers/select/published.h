/*
 * workers/select/published.h: the arithmetic of PASER's published code (data_selection 1.3), for comparisons with it on small data. What it
 * computes and the paper does not say is listed there under 1.4; selectors of ours use graph.h, spectrum.h and labels.h instead.
 *
 *     D = Euclidean distances [N, N];  sigma = median of all N^2 entries (the zeros of the diagonal and both triangles)
 *     A = exp(-D^2 / (2 sigma^2));     L = I - diag(A 1)^-1 A
 *     Psi = eigenvectors of the K smallest eigenvalues of L, of length 1; eigenvalues are not used, the constant one stays
 *     S = |Psi Psi^T|;                 S ~ W H by non-negative matrix factorisation of rank K;  label_i = argmax_k W_ik
 *     CDS_k = mean over the cluster of the divergence SUMMED over positions;  key_i = that sum / log((tokens + characters)^2)
 *
 * Two steps cannot be reproduced to the digit, and do what their formulas say:
 *   - the code hands L, which is not symmetric, to a solver for symmetric matrices (ARPACK's dsaupd through eigsh), whose result is then not
 *     defined by L. Here Psi are true eigenvectors of L: D^-1/2 times those of D^-1/2 A D^-1/2, scaled to length 1. Where all degrees are
 *     equal the two are the same;
 *   - the factorisation starts from numpy's random numbers (seed 0). Here the start is of the same law, |normal| sqrt(mean(S) / K), of
 *     base/rng.h; the sweeps are scikit-learn's coordinate descent (each element in turn to its best value, W then H; at most 200 rounds,
 *     until the projected gradient has fallen to 1e-4 of that of the first).
 *
 * Everything is [N, N] in double, several times: PUBLISHED_LIMIT bounds N. Bits depend on the inputs alone. Threads: one call at a time drives a pool. Errors:
 * CANCELLED, OUT_OF_MEMORY and what is said.
 */
#ifndef WORKERS_SELECT_PUBLISHED_H
#define WORKERS_SELECT_PUBLISHED_H

#include "workers/tensor/dense.h"
#include <stddef.h>
#include <stdint.h>

#define PUBLISHED_LIMIT 8192

/* D of rows [count, size] into ret_distances [count, count]. UNSUPPORTED: more than PUBLISHED_LIMIT; NUMERIC: a row that is not finite. */
bool published_distances(const struct dense_threads *threads, const float *rows, size_t count, size_t size,
                         double *ret_distances, struct error *error) MUST_USE;
/* sigma; count >= 1. 0 where more than half of all pairs, those of a record with itself included, coincide. */
bool published_bandwidth(const double *distances, size_t count, double *ret_sigma,
                         struct error *error) MUST_USE;
/* Psi [count, clusters] and the eigenvalues of L, rising [clusters]; clusters <= count. NUMERIC: sigma is 0, where the code gets NaN. */
bool published_vectors(const struct dense_threads *threads, const double *distances, size_t count,
                       double sigma, size_t clusters, double *ret_values, double *ret_vectors,
                       struct error *error) MUST_USE;
/* Labels [count] of Psi; ties: the smaller. A label may be nobody's. */
bool published_labels(const struct dense_threads *threads, const double *vectors, size_t count,
                      size_t clusters, uint64_t seed, uint32_t *ret_labels, struct error *error) MUST_USE;

/* CDS [clusters] of summed divergences; 0 for a label that is nobody's. A NaN goes through, as there. labels[i] < clusters. */
void published_damage(const double *sums, const uint32_t *labels, size_t count, size_t clusters,
                      double *ret_damage);
/* The sort key of a record: tokens of its instruction, characters of its output. One token and no characters: the logarithm is 0, where the
 * code raises; infinite here (NaN of a sum of 0). */
double published_key(double sum, size_t tokens, size_t characters);

#endif
