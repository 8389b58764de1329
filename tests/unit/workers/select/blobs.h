/*
 * tests/unit/workers/select/blobs.h: points around a few centres and their nearest neighbours by plain loops, for the tests of graphs and
 * spectra. Everything comes of integers, so that an oracle in another language makes the same points.
 */
#ifndef TESTS_UNIT_WORKERS_SELECT_BLOBS_H
#define TESTS_UNIT_WORKERS_SELECT_BLOBS_H

#include "base/memory.h"
#include "workers/select/graph.h"
#include <math.h>
#include <stdlib.h>

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

/* Fills owned arrays [count, k]; zero rows have no neighbours and are nobody's. */
static inline struct graph_lists blobs_lists(const float *rows, size_t count, size_t size, size_t k)
{
    uint32_t *indices = memory_create(count * k + 1, sizeof *indices);
    float *squares = memory_create(count * k + 1, sizeof *squares);
    struct blobs_near *near = memory_create(count + 1, sizeof *near);
    for (size_t i = 0; i < count; i++) {
        size_t found = 0;
        for (size_t j = 0; j < count; j++) {
            double square = 0, own = 0, other = 0;
            for (size_t c = 0; c < size; c++) {
                double x = (double)rows[i * size + c], y = (double)rows[j * size + c];
                square += (x - y) * (x - y);
                own += x * x;
                other += y * y;
            }
            if (j != i && own > 0 && other > 0) {
                near[found++] = (struct blobs_near){square, (uint32_t)j};
            }
        }
        qsort(near, found, sizeof *near, blobs_compare);
        for (size_t slot = 0; slot < k; slot++) {
            indices[i * k + slot] = slot < found ? near[slot].index : GRAPH_NO_NEIGHBOUR;
            squares[i * k + slot] = slot < found ? (float)near[slot].square : 0;
        }
    }
    free(near);
    return (struct graph_lists){count, k, indices, squares};
}

static inline void blobs_lists_free(struct graph_lists *lists)
{
    free((void *)(uintptr_t)lists->indices);
    free((void *)(uintptr_t)lists->squares);
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
