/*
 * tests/unit/workers/select/blobs.h: points around a few centres and their nearest neighbours by plain loops, for the tests of graphs and
 * spectra. Everything comes of integers, so that an oracle in another language makes the same points.
 */
#ifndef TESTS_UNIT_WORKERS_SELECT_BLOBS_H
#define TESTS_UNIT_WORKERS_SELECT_BLOBS_H

#include "tests/unit/workers/select/plain.h"
#include "workers/select/graph.h"

/* In -1 .. 1. */
static inline double blobs_noise(uint64_t i)
{
    uint64_t x = i * 0x9E3779B97F4A7C15u + 12345;
    x ^= x >> 31;
    x *= 0xBF58476D1CE4E5B9u;
    x ^= x >> 29;
    return (double)(x >> 40) / 8388608.0 - 1;
}

/* Owned, [count, size]: point i lies around centre i % blobs, each coordinate within `spread`. */
static inline float *blobs_points(size_t count, size_t size, size_t blobs, double spread)
{
    float *rows = memory_create(count * size + 1, sizeof *rows);
    for (size_t i = 0; i < count * size; i++) {
        double centre = 2 * blobs_noise(7919 * (i / size % blobs) + i % size + 1);
        rows[i] = (float)(centre + spread * blobs_noise(1000000 + i));
    }
    return rows;
}

struct blobs_near {
    double square;
    uint32_t index;
};

static inline int blobs_compare(const void *a, const void *b)
{
    const struct blobs_near *x = a, *y = b;
    if (x->square < y->square || x->square > y->square) {
        return x->square < y->square ? -1 : 1;
    }
    return (x->index > y->index) - (x->index < y->index);
}

/* Owned; in room of its own. */
static inline struct neighbours *blobs_copy_lists(size_t count, size_t k, const uint32_t *indices,
                                                  const float *distances)
{
    struct neighbours *lists = memory_create(1, sizeof *lists);
    *lists = (struct neighbours){count, k, memory_create(count * k + 1, sizeof *indices),
                                 memory_create(count * k + 1, sizeof *distances)};
    if (indices != NULL) {
        memcpy(lists->indices, indices, count * k * sizeof *indices);
        memcpy(lists->distances, distances, count * k * sizeof *distances);
    }
    return lists;
}

/* Owned; neighbours_find_exact of rows of any length. */
static inline struct neighbours *blobs_lists(const float *rows, size_t count, size_t size, size_t k)
{
    struct neighbours *lists = blobs_copy_lists(count, k, NULL, NULL);
    for (size_t i = 0; i < count; i++) {
        plain_list(rows, count, size, k, i, lists->indices + i * k, lists->distances + i * k);
    }
    return lists;
}

/* Owned: of all pairs (i, j) with a positive matrix[i * count + j], the diagonal included. */
static inline struct graph *blobs_dense_graph(size_t count, const double *matrix)
{
    struct graph *graph = memory_create(1, sizeof *graph);
    graph->count = count;
    graph->starts = memory_create(count + 1, sizeof *graph->starts);
    graph->targets = memory_create(count * count, sizeof *graph->targets);
    graph->weights = memory_create(count * count, sizeof *graph->weights);
    size_t edges = 0;
    for (size_t i = 0; i < count * count; i++) {
        if (matrix[i] > 0) {
            graph->targets[edges] = (uint32_t)(i % count);
            graph->weights[edges++] = matrix[i];
        }
        if (i % count == count - 1) {
            graph->starts[i / count + 1] = edges;
        }
    }
    return graph;
}

#endif
