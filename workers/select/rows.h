/*
 * workers/select/rows.h: what selectors need of rows of embeddings: their lengths, exact distances and cosines, and a screen before those.
 *
 * A distance by products, |x|^2 + |y|^2 - 2 x.y, loses what is near to cancellation, and its last bits hang on the shape of the
 * product. So products (rows_multiply) only screen. With
 *
 *     s(x, y) = x.y - |y|^2 / 2 = (|x|^2 - |x - y|^2) / 2
 *
 * each y within `reach` of x (a squared distance) has an s, computed in fp32, of rows_bound or more: the margin is the classical
 * bound of a sum of products in any order of adding (Higham, Accuracy and Stability of Numerical Algorithms, 3.1). What passes
 * is measured by rows_distance_square: in double, over eight lanes that are added up in order. So results depend on neither
 * BLAS nor tiles nor threads, duplicates are at distance 0, and equal distances are equal. Cosines likewise: one by way of an fp32
 * product of two rows and their lengths errs by rows_margin(size, 1, 1) at most, and rows_cosine decides.
 *
 * That asks for lengths that fp32 can multiply: a squared length of ROWS_SQUARE_LIMIT or more is refused, and a row whose squared
 * length is below ROWS_SQUARE_ZERO is a row of zeros: it has no direction.
 *
 * Products are scanned ROWS_CHUNK columns at a time; arrays of halves are padded to whole chunks with INFINITY, which no bound
 * lets pass.
 *
 * Threads: one call at a time drives a pool; what takes no dense_threads keeps no state. Errors: CANCELLED, OUT_OF_MEMORY and what
 * is said; outputs are undefined then.
 */
#ifndef WORKERS_SELECT_ROWS_H
#define WORKERS_SELECT_ROWS_H

#include "base/rng.h"
#include "workers/tensor/dense.h"
#include <float.h>
#include <math.h>
#include <stdint.h>

#define ROWS_CHUNK 32
#define ROWS_SQUARE_LIMIT                                                                                    \
    0x1p99 /* a length of 8e14: twice it, and products of such rows, are far from the end of fp32 */
#define ROWS_SQUARE_ZERO    1e-24
/* How far the squared length of a row may be from 1 where rows of length 1 are asked for. */
#define ROWS_UNIT_TOLERANCE 1e-3
#define ROWS_NO_GROUP       UINT32_MAX

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

/* a.b in double; a.a is |a|^2. */
static inline double rows_dot(const float *a, const float *b, size_t size)
{
    double lanes[ROWS_LANES] = {0};
    size_t i = 0;
    for (; i + ROWS_LANES <= size; i += ROWS_LANES) {
        for (size_t lane = 0; lane < ROWS_LANES; lane++) {
            lanes[lane] += (double)a[i + lane] * (double)b[i + lane];
        }
    }
    for (size_t lane = 0; i < size; i++, lane++) {
        lanes[lane] += (double)a[i] * (double)b[i];
    }
    double sum = 0.0;
    for (size_t lane = 0; lane < ROWS_LANES; lane++) {
        sum += lanes[lane];
    }
    return sum;
}

static inline bool rows_is_zero(double square)
{
    return square < ROWS_SQUARE_ZERO;
}

/* 1 / length, and 0 of a row of zeros. */
static inline double rows_inverse(double square)
{
    return rows_is_zero(square) ? 0.0 : 1.0 / sqrt(square);
}

/* -1..1, in double throughout; equal rows have exactly 1, a row of zeros has 0 with everything. squares: rows_dot with themselves. */
static inline double rows_cosine(const float *a, double a_square, const float *b, double b_square,
                                 size_t size)
{
    if (rows_is_zero(a_square) || rows_is_zero(b_square)) {
        return 0.0;
    }
    /* One root of the product, not a product of roots: that of s * s is s. */
    double cosine = rows_dot(a, b, size) / sqrt(a_square * b_square);
    return cosine > 1.0 ? 1.0 : cosine < -1.0 ? -1.0 : cosine;
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

/* |x|^2 of rows [count, size] into ret_squares [count]. NUMERIC, naming a row: it is not finite, or too long. */
bool rows_measure_squares(const struct dense_threads *threads, const float *rows, size_t count, size_t size,
                          double *ret_squares, struct error *error) MUST_USE;
/* |x|^2 / 2 into ret_halves [rows_padded(count)], and the greatest length. is_unit: rows are of length 1, or of zeros, which take no
 * part and get INFINITY. NUMERIC as above; INVALID_ARGUMENT: not of length 1 or 0 where is_unit. */
bool rows_measure(const struct dense_threads *threads, const float *rows, size_t count, size_t size,
                  bool is_unit, float *ret_halves, double *ret_longest, struct error *error) MUST_USE;

/* ret_products = A B^T in fp32 of rows a [a_count, size] and b [b_count, size]; `stride` >= b_count floats a row, of which
 * b_count are written. */
bool rows_multiply(const struct dense_threads *threads, size_t size, const float *a, size_t a_count,
                   const float *b, size_t b_count, float *ret_products, size_t stride,
                   struct error *error) MUST_USE;

/* ret_rows [count, size] become rows[ids[i]]. */
bool rows_gather(const struct dense_threads *threads, const float *rows, size_t size, const uint32_t *ids,
                 size_t count, float *ret_rows, struct error *error) MUST_USE;

/* `wanted` <= count of 0..count-1, each set as likely as any other, rising. Takes 9 bytes a row meanwhile. */
bool rows_draw(const struct rng *rng, size_t count, size_t wanted, uint32_t *ret_ids,
               struct error *error) MUST_USE;

/* Sorts rows by label. labels [count, per_row], each below group_count or ROWS_NO_GROUP, which is left out: the rows with label g
 * are ret_rows[ret_starts[g]] up to ret_starts[g + 1], rising. ret_starts [group_count + 1]; ret_rows: room for one a label. */
void rows_group(const uint32_t *labels, size_t count, size_t per_row, size_t group_count, size_t *ret_starts,
                uint32_t *ret_rows);

#endif
