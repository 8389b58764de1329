/* workers/select/labels.c: see labels.h. */
#include "workers/select/labels.h"

#include "base/check.h"
#include "base/memory.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void copy_columns(size_t count, size_t columns, const double *from, size_t stride, double *to)
{
    for (size_t i = 0; i < count; i++) {
        memcpy(to + i * columns, from + i * stride, columns * sizeof *to);
    }
}

bool labels_from_vectors(const struct dense_threads *threads, size_t count, size_t clusters,
                         const double *vectors, size_t stride, uint32_t *ret_labels, struct error *error)
{
    CHECK(clusters > 0 && clusters <= count && clusters <= stride);
    OWNED_MEMORY double *turned = memory_try_array(count, clusters * sizeof *turned, "labels", error);
    OWNED_MEMORY double *turn = memory_try_array(clusters, clusters * sizeof *turn, "labels", error);
    OWNED_MEMORY size_t *pivots = memory_try_array(clusters, sizeof *pivots, "labels", error);
    if (turned == NULL || turn == NULL || pivots == NULL) {
        return false;
    }
    copy_columns(count, clusters, vectors, stride, turned);
    if (!dense_pivot_rows(threads, count, clusters, turned, clusters, pivots, error)) {
        return false;
    }
    for (size_t j = 0; j < clusters; j++) {
        for (size_t l = 0; l < clusters; l++) {
            turn[l * clusters + j] = vectors[pivots[j] * stride + l];
        }
    }
    struct dense_product product = {.m = count,
                                    .n = clusters,
                                    .k = clusters,
                                    .alpha = 1,
                                    .a_stride = stride,
                                    .b_stride = clusters,
                                    .out_stride = clusters};
    if (!dense_polar(threads, clusters, turn, error) ||
        !dense_multiply(threads, &product, vectors, turn, turned, error)) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        const double *row = turned + i * clusters;
        size_t best = 0;
        for (size_t j = 1; j < clusters; j++) {
            best = fabs(row[j]) > fabs(row[best]) ? j : best;
        }
        ret_labels[i] = (uint32_t)best;
    }
    return true;
}

static int compare_keys(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Pairs of records with the same key; keys are sorted. */
static uint64_t count_pairs(const uint64_t *keys, size_t count)
{
    uint64_t pairs = 0;
    for (size_t first = 0, end = 0; first < count; first = end) {
        for (end = first + 1; end < count && keys[end] == keys[first]; end++) {
        }
        uint64_t members = end - first;
        pairs += members * (members - 1) / 2;
    }
    return pairs;
}

bool labels_adjusted_rand(size_t count, const uint32_t *first, const uint32_t *second, double *ret_index,
                          struct error *error)
{
    OWNED_MEMORY uint64_t *keys = memory_try_array(count, sizeof *keys, "pairs of labels", error);
    if (keys == NULL) {
        return false;
    }
    uint64_t pairs[3]; /* together in the first, in the second, in both */
    for (size_t form = 0; form < 3; form++) {
        for (size_t i = 0; i < count; i++) {
            uint64_t high = form != 1 ? first[i] : 0, low = form != 0 ? second[i] : 0;
            keys[i] = high << 32 | low;
        }
        qsort(keys, count, sizeof *keys, compare_keys);
        pairs[form] = count_pairs(keys, count);
    }
    double all = count > 1 ? (double)count * ((double)count - 1) / 2 : 1;
    double expected = (double)pairs[0] * (double)pairs[1] / all;
    double most = ((double)pairs[0] + (double)pairs[1]) / 2;
    bool is_same = pairs[0] == pairs[2] && pairs[1] == pairs[2];
    *ret_index = is_same ? 1 : ((double)pairs[2] - expected) / (most - expected);
    return true;
}
