/*
 * workers/select/neighbours.h: the k nearest neighbours of each of `count` rows of embeddings, of length 1 or 0 (rows.h). A row of
 * length 0 has no neighbours and is nobody's; nor is a row its own. Duplicates are, at distance 0.
 *
 * Products screen and distances in double decide (rows.h): a list holds the k least by (squared distance as fp32, index) of all
 * rows that were searched, bit for bit, whatever the threads, tiles or BLAS.
 *
 *     exact      all rows, by blocks of NEIGHBOURS_BLOCK x NEIGHBOURS_BLOCK, each pair multiplied once: count^2 size
 *                operations. 52,000 rows of 384: 1 TFLOP
 *     by cells   an inverted file (Sivic and Zisserman, ICCV 2003): rows are sorted into cells by spherical k-means on a sample,
 *                and for each row only the cells are searched whose centroids are nearest. Cell by cell, so that its rows and
 *                the rows that search it are one product
 *
 * How many cells are searched follows from the data. The neighbours of a sample of rows are found exactly; of half the
 * sample it is seen at which rank of cells each neighbour lies, and so how many cells it takes for the recall that was asked for.
 * The other half measures what the lists then hold. Half a sample errs by about half a hundredth: ask for somewhat more
 * than must be reached.
 *
 * By cells the lists depend, beside the seed, on which cells are nearest, and so on dense_identity where two are about as
 * near.
 *
 * Memory beside the rows, of which no copy is made: 8 count k bytes of lists, which the caller owns; meanwhile 4 count bytes
 * and 16 MiB of products. By cells another 20 count, the sample for k-means (NEIGHBOURS_CELL_ROWS a cell, 196 MB for 1M x 384)
 * or, after it, NEIGHBOURS_BATCH x 8 bytes for each cell searched, and some tens of MiB.
 *
 * Threads: one call at a time drives a pool. Errors: OUT_OF_RANGE (2^32 - 1 rows or more), NUMERIC and INVALID_ARGUMENT naming a row
 * (rows.h), OUT_OF_MEMORY, CANCELLED.
 */
#ifndef WORKERS_SELECT_NEIGHBOURS_H
#define WORKERS_SELECT_NEIGHBOURS_H

#include "base/cleanup.h"
#include "workers/tensor/dense.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NEIGHBOURS_NONE      UINT32_MAX
#define NEIGHBOURS_BLOCK     2048
#define NEIGHBOURS_CELL_ROWS 64     /* rows of the sample for each cell */
#define NEIGHBOURS_BATCH     131072 /* rows that search at once */
#define NEIGHBOURS_QUERIES   1000   /* rows by which recall is chosen and measured */

/* Row i's neighbours, nearest first (equal distances: smaller index first), at i * k. Fewer than k: NEIGHBOURS_NONE and INFINITY. */
struct neighbours {
    size_t count, k;   /* k: as asked for, at most count - 1 */
    uint32_t *indices; /* [count, k] */
    float *distances;  /* [count, k], squared */
};
void neighbours_destroy(struct neighbours *neighbours);
OWNED_DEFINE(neighbours)

/* rows [count, size], borrowed for the call; the caller owns the result. */
struct neighbours *neighbours_find_exact(const struct dense_threads *threads, const float *rows, size_t count,
                                         size_t size, size_t k, struct error *error) MUST_USE;

struct neighbours_cells_request {
    size_t k;
    size_t cell_count; /* at most; 0: 2 sqrt(count) */
    double recall;     /* to aim at, 0..1 */
    size_t
        probe_limit; /* most cells that one row may search, >= 1; where that is too few, recall falls short */
    uint64_t seed;
};
struct neighbours_cells_report {
    size_t cell_count, probe_count; /* cells; searched for each row */
    size_t query_count;             /* rows by which recall was measured */
    double recall;                  /* share of their true neighbours in the lists; 1 where they have none */
};
struct neighbours *neighbours_find_by_cells(const struct dense_threads *threads, const float *rows,
                                            size_t count, size_t size,
                                            const struct neighbours_cells_request *request,
                                            struct neighbours_cells_report *ret_report,
                                            struct error *error) MUST_USE;

#endif
