/*
 * workers/select/labels.h: cluster labels from leading eigenvectors, and how far two labelings agree.
 *
 * labels_from_vectors is the direct form of Damle, Minden & Ying 2019 (data_selection 1.6 step 7 i): QR with column pivoting of V^T, V [N, K],
 * picks K records C that stand for the clusters; U, the orthogonal polar factor of V(C,:)^T, turns the vectors so that each of the C points
 * along its own axis; a record's label is the axis of largest magnitude, argmax_j |(V U)_ij|. No start, no restarts, no seed. V's columns are
 * orthonormal: eigenvectors of S, not divided by sqrt(degree). Any orthonormal basis of their span gives the same labels, so that several
 * components or (nearly) equal eigenvalues do no harm.
 *
 * Threads: one call at a time drives a pool. Errors: CANCELLED, OUT_OF_MEMORY and what is said.
 */
#ifndef WORKERS_SELECT_LABELS_H
#define WORKERS_SELECT_LABELS_H

#include "workers/tensor/dense.h"
#include <stddef.h>
#include <stdint.h>

/* vectors: [count, stride], of which the first `clusters` columns count; 1 <= clusters <= count, stride. ret_labels [count]: label j is the
 * cluster of the j-th pivot; ties: the smaller label; a row of zeros (a record without neighbours) gets 0. A label may be nobody's. Another
 * 8 clusters + 28 bytes a record. NUMERIC: a vector is not finite. */
bool labels_from_vectors(const struct dense_threads *threads, size_t count, size_t clusters,
                         const double *vectors, size_t stride, uint32_t *ret_labels,
                         struct error *error) MUST_USE;

/* The adjusted Rand index (Hubert & Arabie 1985) of two labelings [count], any numbers: 1 where they are the same partition, about 0 where they
 * have nothing to do with one another. 1 where both are one cluster, or both all apart. */
bool labels_adjusted_rand(size_t count, const uint32_t *first, const uint32_t *second, double *ret_index,
                          struct error *error) MUST_USE;

#endif
