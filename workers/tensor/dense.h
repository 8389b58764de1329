/*
 * workers/tensor/dense.h: the dense algebra that statistics, rotations and repairs need, in double on the host: Gram matrices of
 * streams of fp32 rows, products, Cholesky factors and solves, symmetric eigenvectors, pivots, polar factors, ridge leverage.
 *
 * All matrices are row by row. A stride is the distance of two rows in elements. A symmetric matrix is one triangle; the
 * other is neither read nor written, so that two of them can share one array of [n, n + 1] (dense_symmetric_pair).
 *
 * Precision. Rows are fp32; their products are made in fp32 over blocks of DENSE_BLOCK_ROWS rows and the blocks are summed in
 * double: an element errs by about 1e-7 of the geometric mean of its two diagonal elements. Everything after that is double.
 *
 * Determinism. OpenBLAS runs single-threaded inside the pool, on tiles that the shape alone decides, each sum in a fixed order:
 * bits depend on the shape, the values and the core type (dense_identity), never on the number of threads.
 *
 * Threads: one call at a time drives a pool. Errors: CANCELLED (between tiles), OUT_OF_MEMORY, and NUMERIC where said;
 * UNSUPPORTED of dense_eigen, dense_pivot_rows and dense_polar: more rows than LAPACK's int counts. Outputs are undefined then.
 */
#ifndef WORKERS_TENSOR_DENSE_H
#define WORKERS_TENSOR_DENSE_H

#include "base/cancel.h"
#include "base/error.h"
#include "workers/tensor/pool.h"
#include <stdbool.h>
#include <stddef.h>

#define DENSE_BLOCK_ROWS 1024

/* Where the work is done; both borrowed. cancel may be NULL. */
struct dense_threads {
    struct pool *pool;
    const struct cancel *cancel;
};

/* One triangle of a symmetric [n, n]: element (i, j) lies at values[i * stride + j], of is_upper for j >= i, else for j <= i. */
struct dense_symmetric {
    double *values;
    size_t n, stride;
    bool is_upper;
};
/* Two symmetric matrices in one array of n * (n + 1): the first its lower triangle, the second the upper one beside it. */
void dense_symmetric_pair(double *values, size_t n, struct dense_symmetric *ret_first,
                          struct dense_symmetric *ret_second);
double dense_symmetric_get(const struct dense_symmetric *matrix, size_t i, size_t j); /* any i, j < n */

/* Library, version and core type on which the bits depend. Static. */
const char *dense_identity(void);

/* gram += X^T X, x [rows, gram->n]. */
bool dense_add_gram(const struct dense_threads *threads, size_t rows, const float *x, size_t x_stride,
                    const struct dense_symmetric *gram, struct error *error) MUST_USE;
/* cross [m, n] += Y^T X, y [rows, m], x [rows, n]. */
bool dense_add_cross(const struct dense_threads *threads, size_t rows, size_t m, const float *y,
                     size_t y_stride, size_t n, const float *x, size_t x_stride, double *cross,
                     size_t cross_stride, struct error *error) MUST_USE;

/* out [m, n] = beta out + alpha op(A) op(B), op(A) [m, k], op(B) [k, n]; op(A) is A or, where said, its transpose. beta 0: out
 * is not read. out overlaps neither. */
struct dense_product {
    size_t m, n, k;
    bool is_a_transposed, is_b_transposed;
    double alpha, beta;
    size_t a_stride, b_stride, out_stride;
};
bool dense_multiply(const struct dense_threads *threads, const struct dense_product *product, const double *a,
                    const double *b, double *out, struct error *error) MUST_USE;
bool dense_multiply_floats(const struct dense_threads *threads, const struct dense_product *product,
                           const float *a, const float *b, float *out, struct error *error) MUST_USE;
/* out [m, n] = A S, a [m, n], S symmetric [n, n]. */
bool dense_multiply_symmetric(const struct dense_threads *threads, size_t m, const double *a, size_t a_stride,
                              const struct dense_symmetric *s, double *out, size_t out_stride,
                              struct error *error) MUST_USE;

/* The lower triangle of a positive definite A becomes L, A = L L^T; the rest is left. NUMERIC: it is not positive definite, or not
 * finite, and at which row. */
bool dense_cholesky(const struct dense_threads *threads, size_t n, double *a, size_t stride,
                    struct error *error) MUST_USE;
/* B [m, n] becomes B (L L^T)^-1: each row is a right-hand side, and becomes its solution. */
bool dense_cholesky_solve(const struct dense_threads *threads, size_t n, const double *l, size_t l_stride,
                          size_t m, double *b, size_t b_stride, struct error *error) MUST_USE;

/* Eigenvalues of a symmetric A, largest first, and its eigenvectors of length 1: the lower triangle of a [n, n], stride n, is
 * read, and row i of a becomes the vector of ret_values[i]. Sign: each vector's component of largest magnitude (ties: the
 * first) is positive. By divide and conquer (dsyevd): about 9 n^3 operations on one thread, not cancelled half-way, and
 * another 2 n^2 doubles. NUMERIC: it does not converge, or A is not finite. */
bool dense_eigen(const struct dense_threads *threads, size_t n, double *a, double *ret_values,
                 struct error *error) MUST_USE;

/* The rows that a QR factorisation of A^T with column pivoting (dgeqp3) takes first: each is the one farthest from the span of those
 * before it. a [rows, columns] is used up; ret_rows [min(rows, columns)]. On one thread, not cancelled half-way; another 3 doubles a
 * row. NUMERIC: A is not finite, and at which row. */
bool dense_pivot_rows(const struct dense_threads *threads, size_t rows, size_t columns, double *a,
                      size_t stride, size_t *ret_rows, struct error *error) MUST_USE;

/* A [n, n], stride n, becomes its orthogonal polar factor: U V^T of A = U Sigma V^T (dgesvd), the orthogonal matrix nearest to A; one
 * of them where A is singular. On one thread. NUMERIC: A is not finite, or it does not converge. */
bool dense_polar(const struct dense_threads *threads, size_t n, double *a, struct error *error) MUST_USE;

/* Ridge leverage: ret_leverage[i] = (C (C + lambda I)^-1)_ii, in 0..1, 0 where C_ii is 0. lambda > 0, absolute. Takes another
 * n^2 doubles. NUMERIC: C is not positive semidefinite, or not finite. */
bool dense_leverage(const struct dense_threads *threads, const struct dense_symmetric *c, double lambda,
                    double *ret_leverage, struct error *error) MUST_USE;

#endif
