/*
 * workers/select/rows.h: what selectors need of rows of embeddings: their lengths, exact distances, and a screen before those.
 *
 * A distance by products, |x|^2 + |y|^2 - 2 x.y, loses what is near to cancellation, and its last bits hang on the shape of the
 * product. So products only screen. With
 *
 *     s(x, y) = x.y - |y|^2 / 2 = (|x|^2 - |x - y|^2) / 2
 *
 * each y within `reach` of x (a squared distance) has an s, computed in fp32, of rows_bound or more: the margin is the classical
 * bound of a sum of products in any order of adding (Higham, Accuracy and Stability of Numerical Algorithms, 3.1). What passes
 * is measured by rows_distance_square: in double, over eight lanes that are added up in order. So results depend on neither
 * BLAS nor tiles nor threads, duplicates are at distance 0, and equal distances are equal.
 *
 * Products are scanned ROWS_CHUNK columns at a time; arrays of halves are padded to whole chunks with INFINITY, which no bound
 * lets pass.
 */
#ifndef WORKERS_SELECT_ROWS_H
#define WORKERS_SELECT_ROWS_H

#include "base/rng.h"
#include "workers/tensor/dense.h"
#include <float.h>
#include <math.h>
#include <stdint.h>

#define ROWS_CHUNK          32
/* How far the squared length of a row may be from 1 where rows of length 1 are asked for. */
#define ROWS_UNIT_TOLERANCE 1e-3

enum { ROWS_LANES = 8 };

static inline size_t rows_least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline size_t rows_padded(size_t count)
{
    return (count + ROWS_CHUNK - 1) / ROWS_CHUNK * ROWS_CHUNK;
}

/* |a - b|^2 of a, b [size]. */
static inline double rows_distance_square(const float *a, const float *b, size_t size)
{
    double lanes[ROWS_LANES] = {0};
    size_t i = 0;
    for (; i + ROWS_LANES <= size; i += ROWS_LANES) {
        for (size_t lane = 0; lane < ROWS_LANES; lane++) {
            double difference = (double)a[i + lane] - (double)b[i + lane];
            lanes[lane] += difference * difference;
        }
    }
    for (size_t lane = 0; i < size; i++, lane++) {
        double difference = (double)a[i] - (double)b[i];
        lanes[lane] += difference * difference;
    }
    double sum = 0.0;
    for (size_t lane = 0; lane < ROWS_LANES; lane++) {
        sum += lanes[lane];
    }
    return sum;
}

/* By how much s in fp32 and its bound may err, of rows x no longer than `length` and y no longer than `other_length`. */
static inline double rows_margin(size_t size, double length, double other_length)
{
    double rounding = 0x1p-24 * ((double)(size + 16) * length * other_length +
                                 8.0 * (length * length + other_length * other_length));
    return rounding + (double)(size + 16) * (double)FLT_MIN; /* products that underflow */
}

/* half: |x|^2 / 2; INFINITY (a row that takes no part) is reached by nothing. */
static inline float rows_bound(float half, double reach, double margin)
{
    double bound = (double)half - 0.5 * reach - margin;
    return bound > -(double)FLT_MAX ? (float)bound : -FLT_MAX;
}

/* Whether one of ROWS_CHUNK products passes. */
static inline bool rows_chunk_passes(const float *products, const float *halves, float bound)
{
    int passing = 0;
    for (size_t i = 0; i < ROWS_CHUNK; i++) {
        passing += products[i] - halves[i] >= bound;
    }
    return passing != 0;
}

/* |x|^2 / 2 of rows [count, size] into ret_halves [rows_padded(count)], and the greatest length. is_unit: rows are of length 1,
 * or 0, which take no part and get INFINITY. NUMERIC: a row is not finite, or above 1e15 long; INVALID_ARGUMENT: not of length
 * 1 or 0 where is_unit. */
bool rows_measure(const struct dense_threads *threads, const float *rows, size_t count, size_t size,
                  bool is_unit, float *ret_halves, double *ret_longest, struct error *error) MUST_USE;

/* ret_rows [count, size] become rows[ids[i]]. */
bool rows_gather(const struct dense_threads *threads, const float *rows, size_t size, const uint32_t *ids,
                 size_t count, float *ret_rows, struct error *error) MUST_USE;

/* `wanted` <= count of 0..count-1, each set as likely as any other, rising. Takes count * 9 bytes meanwhile. */
bool rows_draw(const struct rng *rng, size_t count, size_t wanted, uint32_t *ret_ids,
               struct error *error) MUST_USE;

#endif
