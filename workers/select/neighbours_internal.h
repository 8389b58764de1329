/* workers/select/neighbours_internal.h: what both searches of neighbours.h are made of (neighbours.c): lists, which are heaps with
 * the farthest neighbour on top while they are searched, and the comparison of one block of rows with another. */
#ifndef WORKERS_SELECT_NEIGHBOURS_INTERNAL_H
#define WORKERS_SELECT_NEIGHBOURS_INTERNAL_H

#include "workers/select/neighbours.h"

/* A list with nothing in it. */
void neighbours_heap_clear(float *distances, uint32_t *indices, size_t count);
/* Puts an item in place of the one on top of a heap of count >= 1, the last by (distance, index). */
void neighbours_heap_replace(float *distances, uint32_t *indices, size_t count, float distance,
                             uint32_t index);

/* Some rows, which are one side of a product. */
struct neighbours_side {
    const float *rows;   /* [count, size] */
    const float *halves; /* [rows_padded(count)] */
    const uint32_t *ids; /* [count]; NULL: first, first + 1, ... */
    size_t first, count; /* count <= NEIGHBOURS_BLOCK */
};

struct neighbours_search {
    const struct dense_threads *threads;
    const float *rows; /* borrowed, [count, size] */
    size_t count, size;
    float *halves; /* owned, [rows_padded(count)] */
    double margin;
    struct neighbours *lists;                   /* owned */
    float *products;                            /* owned, [NEIGHBOURS_BLOCK, NEIGHBOURS_BLOCK] */
    struct neighbours_side queries, candidates; /* of the present products */
};

/* The caller sets threads, rows, count and size. */
bool neighbours_search_init(struct neighbours_search *search, size_t k, struct error *error) MUST_USE;
void neighbours_search_finish(struct neighbours_search *search);
/* The block of all rows that begins at `first`, a multiple of NEIGHBOURS_BLOCK. */
struct neighbours_side neighbours_block(const struct neighbours_search *search, size_t first);
/* The lists of the queries see the candidates; where they are mutual, and then share no row, those of the candidates see the
 * queries as well. k >= 1. A list must not see a row twice. */
bool neighbours_search_block(struct neighbours_search *search, const struct neighbours_side *queries,
                             const struct neighbours_side *candidates, bool are_mutual,
                             struct error *error) MUST_USE;
/* All lists into rising order. */
bool neighbours_sort(const struct neighbours_search *search, struct error *error) MUST_USE;

#endif
