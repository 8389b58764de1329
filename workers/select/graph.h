/*
 * workers/select/graph.h: the neighbourhood graph of a data set, which spectrum.h cuts into clusters (data_selection 1.6 steps 2-4, 1.6b).
 *
 * Vertices are records; an edge joins i and j where either lists the other among its nearest neighbours, and weighs (self-tuning kernel,
 * Zelnik-Manor & Perona 2004)
 *
 *     W_ij = exp(-d_ij^2 / (sigma_i sigma_j)),    sigma_i = distance to the 7th neighbour, or to the last there is.
 *
 * Sigma is at least 1e-6 of its median, so that a heap of copies keeps a scale; where the median is 0 too, coinciding points weigh 1 and all
 * others nothing. The lists may disagree about d_ij by rounding: the smaller counts, so W = max(W, W^T), and it is symmetric to the bit.
 * A weight below GRAPH_LEAST_WEIGHT is no edge: such an edge joins nothing that an eigenvector could see, and would hide a component.
 *
 * Components. Each component adds an eigenvalue 1, so that a gap in the eigenvalues would count the small ones as clusters. They are
 * therefore linked before the eigenproblem (graph_link), each to the big component whose centroid is nearest: one edge for each record, to
 * one of the nearest records around the small centroid, a different one each, as heavy as all the record's own edges together. So a walk
 * leaves a small component with every other step and does not come back through a bottleneck; a single edge, or edges that meet in one
 * record, leave an eigenvalue near 1, which the gap would still count.
 *
 * Normalisation (diffusion maps, Coifman & Lafon 2006): q = W 1; W_ij /= (q_i q_j)^alpha; d = W 1; S = D^-1/2 W D^-1/2, which has the
 * eigenvalues of the walk P = D^-1 W. alpha 1 takes out how dense the data are, 0 keeps it.
 *
 * A record without neighbours (a zero row) has an empty row and degree 0; it takes part in nothing.
 *
 * Memory: 12 bytes an edge and direction (room for 2 N k of them while it is made), 4 N k meanwhile, 8 to 32 a vertex. Bits depend on the
 * inputs alone. Threads: one call at a time drives a pool. Errors: CANCELLED, OUT_OF_MEMORY and what is said.
 */
#ifndef WORKERS_SELECT_GRAPH_H
#define WORKERS_SELECT_GRAPH_H

#include "base/cleanup.h"
#include "workers/select/neighbours.h"

#define GRAPH_SCALE_RANK   7
#define GRAPH_LEAST_WEIGHT 1e-8

struct graph {
    size_t count;      /* vertices, < NEIGHBOURS_NONE */
    size_t *starts;    /* owned, [count + 1]: the edges of i are starts[i] .. starts[i + 1) */
    uint32_t *targets; /* owned, [edges], rising within a row */
    double *weights;   /* owned, [edges]: W, and S after graph_normalise */
    double *degrees;   /* owned, [count]: d, after graph_normalise; NULL before */
    /* The largest sigma before its floor. 0: every record coincides with its neighbours, and whoever looks for clusters has
     * one (data_selection 1.8). */
    double largest_scale;
};

/* W of neighbour lists. scale_rank >= 1: which neighbour gives sigma (GRAPH_SCALE_RANK). INVALID_ARGUMENT: an index that is none, the
 * record's own, or listed twice; NUMERIC: a distance that is negative or not finite. All name the record. */
struct graph *graph_create(const struct dense_threads *threads, const struct neighbours *lists,
                           size_t scale_rank, struct error *error) MUST_USE;
void graph_destroy(struct graph *graph);
OWNED_DEFINE(graph)

/* Connected components, numbered by their smallest vertex: ret_components [count], ret_count how many. */
bool graph_components(const struct graph *graph, uint32_t *ret_components, size_t *ret_count,
                      struct error *error) MUST_USE;

/* The size from which a component counts as big: max(20, count / 1000). */
size_t graph_big_component(size_t count);
/* Links each component of fewer than `big` vertices to the nearest of at least that many, before normalisation: its i-th record to the i-th
 * nearest. rows: the records' vectors [count, size]; zero rows are not linked. Where no component is big, none is linked. *ret_linked: how
 * many components were. On failure the graph is as it was. NUMERIC: a vector, by record, that rows.h refuses. */
bool graph_link(struct graph *graph, const struct dense_threads *threads, const float *rows, size_t size,
                size_t big, size_t *ret_linked, struct error *error) MUST_USE;

/* Weights become S, degrees are set. Once. alpha in 0..1. On failure the weights are neither, and the graph is of no more use. */
bool graph_normalise(struct graph *graph, const struct dense_threads *threads, double alpha,
                     struct error *error) MUST_USE;

/* out = scale S x + shift x + keep out, of blocks of `width` vectors, [count, width] each; keep 0: out is not read. out is not x. */
struct graph_product {
    size_t width;
    double scale, shift, keep;
};
bool graph_multiply(const struct graph *graph, const struct dense_threads *threads,
                    const struct graph_product *product, const double *x, double *out,
                    struct error *error) MUST_USE;

#endif
