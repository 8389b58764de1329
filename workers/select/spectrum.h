/*
 * workers/select/spectrum.h: the leading eigenvectors of a neighbourhood graph, how many clusters they show, and the coordinates they give
 * (data_selection 1.6 steps 5-7).
 *
 * Of S, normalised (graph.h), the largest eigenvalues are wanted. Those of A = (I + S) / 2 lie in 0..1 in the same order, so that what is
 * largest is also largest in magnitude. Reported are eigenvalues of S, which are those of the walk P = D^-1 W: 1 once for each component.
 *
 * Few records: all of S by dense_eigen. Many: a block of vectors, wider than what is wanted, by Chebyshev-filtered subspace iteration (Zhou,
 * Saad, Tiago & Chelikowsky 2006). A round multiplies the block by a polynomial of A that stays below 1 in magnitude between 0 and the block's
 * smallest Ritz value and grows fastest above it, makes it orthonormal, and takes Ritz vectors from it. Against LOBPCG or Lanczos with full
 * reorthogonalisation it needs as many products with S, for three blocks of memory instead of six or a growing basis, and makes the block
 * orthonormal once a round instead of once a product. A block, because c components or well separated clusters make c eigenvalues (nearly) 1,
 * which a single Lanczos vector cannot tell apart.
 *
 * A pair has converged when |A x - lambda x| <= tolerance; A has norm 1, so that it is relative. Where the wanted pairs do not converge within
 * most_products, has_converged is false and there are no vectors at all: fall back to landmarks.h.
 *
 * Memory of the iteration: 24 bytes * count * (pairs + 8, rounded up to 8), and 8 * count * pairs for the result (a million records, 33 pairs:
 * 1.4 GB); of the dense form 32 count^2.
 *
 * Bits depend on the inputs and the seed alone. Threads: one call at a time drives a pool. Errors: CANCELLED, OUT_OF_MEMORY, NUMERIC (dense_eigen).
 */
#ifndef WORKERS_SELECT_SPECTRUM_H
#define WORKERS_SELECT_SPECTRUM_H

#include "workers/select/graph.h"
#include <stdbool.h>
#include <stdint.h>

#define SPECTRUM_DENSE_LIMIT   2000
#define SPECTRUM_TOLERANCE     1e-6
#define SPECTRUM_MOST_PRODUCTS 3000

struct spectrum {
    bool has_converged; /* false: values and vectors are NULL */
    size_t count;       /* records */
    size_t pairs;       /* as asked for, or all there are */
    double *values;     /* owned, [pairs] of S, falling */
    double *
        vectors; /* owned, [count, pairs]: a column is a vector of length 1, its largest component positive */
    size_t products;         /* S times a block; 0: the dense form */
    double largest_residual; /* of the wanted pairs; 0: the dense form */
};
void spectrum_finish(struct spectrum *spectrum);
/* Gives each vector its sign: the component of largest magnitude (ties: the first) is positive. */
void spectrum_orient(struct spectrum *spectrum);

struct spectrum_request {
    size_t pairs;         /* >= 1; at most as many as there are records */
    size_t dense_limit;   /* SPECTRUM_DENSE_LIMIT: up to so many records the dense form */
    double tolerance;     /* SPECTRUM_TOLERANCE */
    size_t most_products; /* SPECTRUM_MOST_PRODUCTS */
    uint64_t seed;        /* of the first block */
};
/* graph: normalised, count >= 1. The iteration needs a block of at most half the records: else it is the dense form too. */
bool spectrum_find(const struct graph *graph, const struct dense_threads *threads,
                   const struct spectrum_request *request, struct spectrum *ret_spectrum,
                   struct error *error) MUST_USE;

/* How many clusters: the K in least..most (and below `pairs`) of the widest gap values[K - 1] - values[K]; ties: the smaller. `fallback` where
 * no gap reaches least_gap. Never more than there are records or pairs; where there are too few pairs for any gap, as near to `least` as that
 * allows. least, fallback >= 1. */
struct spectrum_rule {
    size_t least, most, fallback;
    double least_gap;
};
#define SPECTRUM_RULE ((struct spectrum_rule){.least = 4, .most = 32, .fallback = 10, .least_gap = 1e-3})
size_t spectrum_cluster_count(const double *values, size_t pairs, const struct spectrum_rule *rule);

/* Diffusion coordinates of vectors 1 .. dimensions (0, the trivial one of a connected graph, is left out; dimensions < pairs):
 *
 *     psi_l = weight_l sqrt(sum d) phi_l / sqrt(d),   weight_l = max(lambda_l, 0)^time  or, heat,  exp(-time (1 - lambda_l))
 *
 * so that sum_i d_i psi_il^2 = weight_l^2 sum d. degrees: [count], NULL: all 1 (landmarks.h). Rows of degree 0 are 0.
 * ret_coordinates [count, dimensions]. */
enum spectrum_form { SPECTRUM_DIFFUSION, SPECTRUM_HEAT };
void spectrum_coordinates(const struct spectrum *spectrum, const double *degrees, size_t dimensions,
                          enum spectrum_form form, double time, float *ret_coordinates);

#endif
