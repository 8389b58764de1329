/*
 * workers/select/kmeans.h: k-means over rows of embeddings (Lloyd 1982; k-means++ of Arthur and Vassilvitskii, SODA 2007), and
 * the assignment of rows to given centroids. In two forms:
 *
 *     euclidean   nearest by |x - m|^2; a centroid is the mean of its rows; distance |x - m|^2
 *     cosine      rows of length 1 or 0 (rows.h); a centroid is the direction of the sum of its rows; distance 1 - x.m. A row of
 *                 length 0 is nobody's direction: it has label 0, distance 1, and moves no centroid.
 *
 * Assignment screens by products and decides by distances in double (rows.h), so an equal distance goes to the smaller centroid,
 * and nothing depends on threads, tiles or BLAS. Sums of centroids are in double, in the order of the rows.
 *
 * Fitting. Centroids start at rows drawn by k-means++ (each with probability by its squared distance to the nearest before it),
 * or where the caller says. A cluster that gets no row takes the one farthest from its own centroid (ties: the smaller
 * index) out of a cluster of two or more; where no row is off its centroid (no more distinct rows than centroids) it
 * stays where it is, as does a centroid whose rows cancel out. It ends when no label changes, or after `iteration_limit` moves.
 * Of `restart_count` beginnings the one of least cost counts, the sum of the distances (ties: the earliest).
 *
 * Cost: 2 count size centroid_count operations for an assignment, and as many for a k-means++ beginning, one row at a time there
 * (by the speed of memory): for very many rows, fit on a sample of some 64 to 256 rows a centroid. Memory: 28 bytes a row
 * fitted, products of some 16 MB (more than 65,536 centroids: 256 bytes each), 8 bytes for each number of a centroid; a sample
 * is copied.
 *
 * Threads: one call at a time drives a pool. Errors: OUT_OF_RANGE (counts), NUMERIC and INVALID_ARGUMENT naming a row (rows.h),
 * OUT_OF_MEMORY, CANCELLED.
 */
#ifndef WORKERS_SELECT_KMEANS_H
#define WORKERS_SELECT_KMEANS_H

#include "base/cleanup.h"
#include "workers/tensor/dense.h"
#include <stdint.h>

enum kmeans_form { KMEANS_EUCLIDEAN, KMEANS_COSINE };

struct kmeans_request {
    enum kmeans_form form;
    size_t centroid_count; /* 1..rows fitted */
    size_t iteration_limit;
    size_t restart_count; /* >= 1; 1 where there are initial_rows */
    size_t sample_count;  /* fit to so many rows, drawn by the seed; 0, or as many as there are: to all */
    const float *initial_rows; /* borrowed, [centroid_count, size], of length 1 where cosine; or NULL */
    uint64_t seed;
};

struct kmeans {
    size_t centroid_count, size;
    float *centroids; /* owned, [centroid_count, size]; of length 1 where cosine (0 if all rows are) */
    size_t iterations;
    double cost; /* over the rows fitted */
    bool is_converged;
};

/* rows [count, size], borrowed for the call. The caller owns the result. */
struct kmeans *kmeans_fit(const struct dense_threads *threads, const float *rows, size_t count, size_t size,
                          const struct kmeans_request *request, struct error *error) MUST_USE;
void kmeans_destroy(struct kmeans *kmeans);
OWNED_DEFINE(kmeans)

/* The nearest centroid of each row: labels [count], and its distances [count] (may be NULL). centroids [centroid_count, size], at
 * least one; where cosine of length 1 or 0, and one of length 0 gets no row while there is another. */
bool kmeans_assign(const struct dense_threads *threads, enum kmeans_form form, const float *rows,
                   size_t count, size_t size, const float *centroids, size_t centroid_count,
                   uint32_t *ret_labels, float *ret_distances, struct error *error) MUST_USE;

#endif
