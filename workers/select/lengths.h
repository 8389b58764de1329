/*
 * workers/select/lengths.h: squared lengths of embeddings, in double, and with them the check that every selector makes of its rows.
 *
 * Products of rows are made in fp32 (dense_multiply_floats) of the rows as they come, and divided by their lengths afterwards. They only screen:
 * where it matters by less than lengths_margin, lengths_cosine decides, so that choices depend on neither BLAS nor tiles. That asks for
 * lengths that fp32 can multiply: a squared length above LENGTHS_SQUARE_LIMIT is refused, and a row whose squared length is below
 * LENGTHS_SQUARE_ZERO has no direction: its cosine with everything is 0, as a row of zeros'.
 */
#ifndef WORKERS_SELECT_LENGTHS_H
#define WORKERS_SELECT_LENGTHS_H

#include "base/error.h"
#include <stdbool.h>
#include <stddef.h>

#define LENGTHS_SQUARE_LIMIT 1e37 /* fp32 ends at 3e38 */
#define LENGTHS_SQUARE_ZERO  1e-24

/* rows [count, size], ret_squares [count]. what: of what kind the rows are, for the error ("record"). NUMERIC: a row, named, that is not
 * finite or too long. */
bool lengths_square(const float *rows, size_t count, size_t size, const char *what, double *ret_squares,
                    struct error *error) MUST_USE;
/* 1 / length, and 0 where there is no direction. */
double lengths_inverse(double square);
/* Of two rows, in double throughout; equal rows have exactly 1. squares: theirs. -1..1. */
double lengths_cosine(const float *a, double a_square, const float *b, double b_square, size_t size);
/* By how much a cosine by way of an fp32 product may differ from that, at most: the bound of a sum of products in any order (Higham, Accuracy
 * and Stability of Numerical Algorithms, 3.1). */
double lengths_margin(size_t size);

#endif
