/*
 * workers/prune/moments.h: running sums over the rows that pass one point of a sublayer: the input of an output projection (mixed heads,
 * FFN channels), or normed rows of the residual. They are all that the width criteria need of the calibration data.
 *
 * Everything is summed in double and in token order, one column after the other's neighbours: a column's sums never depend on how rows are
 * cut into calls, nor on the number of threads (threads share columns, never a sum).
 *
 * The variance comes of sums that are shifted by the column's first value x_0: with y = x - x_0,
 *     sum (x - mean)^2 = sum y^2 - (sum y)^2 / n.
 * Nothing is lost to a large mean: x_0 is itself one of the n rows, so sum (x - mean)^2 >= (x_0 - mean)^2, and what is subtracted,
 * n (x_0 - mean)^2, is at most n times what is left. The relative error is below n^2 / 2^53 at worst (n is below 2^24 here, and errors of
 * sums grow with its root in practice), whatever the mean; unshifted sums lose (mean / deviation)^2 instead, without bound.
 *
 * Threads: one caller; moments_add spreads columns over the pool it is given.
 */
#ifndef WORKERS_PRUNE_MOMENTS_H
#define WORKERS_PRUNE_MOMENTS_H

#include "base/cleanup.h"
#include "base/error.h"
#include "workers/tensor/pool.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct moments {
    size_t count;               /* columns */
    uint64_t tokens, sequences; /* seen so far; the open sequence counts */
    double *values;          /* owned, [MOMENTS_SUMS, count]: the six arrays below in one piece, for saving */
    double *shift;           /* [count] first row */
    double *sum;             /* [count] of x - shift */
    double *square;          /* [count] of (x - shift)^2 */
    double *raw_square;      /* [count] of x^2 */
    double *absolute;        /* [count] of |x|, the open sequence's alone */
    double *sequence_square; /* [count] of (mean |x| of a sequence)^2, closed sequences */
    uint64_t open_tokens;    /* of the open sequence; 0: none is open */
    size_t open_sequence;    /* its number */
};
#define MOMENTS_SUMS 6

/* count >= 1. OUT_OF_MEMORY. */
struct moments *moments_create(size_t count, struct error *error) MUST_USE;
void moments_destroy(struct moments *moments);
OWNED_DEFINE(moments)

/* Adds rows: row r is values[r * stride ... + count). sequences: [rows] the number of each row's sequence (NULL: all belong to the open
 * one, or to sequence 0); rows of one sequence come together, in one call or several, and a number that changes closes the sequence.
 * pool: NULL: the caller alone. */
void moments_add(struct moments *moments, const float *values, size_t rows, size_t stride,
                 const size_t *sequences, struct pool *pool);
/* Closes the open sequence, if any: call it at the end of the data. */
void moments_close(struct moments *moments);

/* Of closed data, each [count]. No tokens give zeros, one token has no variance. */
void moments_mean(const struct moments *moments, double *ret_means);
void moments_variance(const struct moments *moments, double *ret_variances); /* over n - 1 */
/* Wanda's norm: sqrt(mean over sequences of the sum over tokens of x^2). */
void moments_norm(const struct moments *moments, double *ret_norms);
/* Minitron's: sqrt(sum over sequences of (mean over tokens of |x|)^2). */
void moments_sequence_norm(const struct moments *moments, double *ret_norms);

/* What REAP needs of an expert: mean over its routed tokens of gate * ||f(x)||. Start from zeros. */
struct routed_norm {
    double sum;
    uint64_t tokens;
};
/* outputs: row r is outputs[r * stride ... + size), the expert's own; weights: [rows] the router's. */
void routed_norm_add(struct routed_norm *norm, const float *outputs, size_t rows, size_t size, size_t stride,
                     const float *weights);
/* 0 for an expert that no token chose. */
double routed_norm_mean(const struct routed_norm *norm);

#endif
