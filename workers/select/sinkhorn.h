/*
 * workers/select/sinkhorn.h: entropic optimal transport between a pool of records X [n, size] and a target Y [m, size], for the sake of its
 * dual potentials (GOT-D, arXiv 2405.02774; Cuturi, "Sinkhorn distances", 2013). With mu = 1/n on each record, nu on the targets and a cost
 * C_ij, |x_i - y_j| or its square,
 *
 *     f_i = -eps log sum_j exp((g_j - C_ij) / eps) nu_j          g_j = -eps log sum_i exp((f_i - C_ij) / eps) mu_i
 *
 * are repeated until both hold; pi_ij = mu_i nu_j exp((f_i + g_j - C_ij) / eps) is the plan. eps is a share of the median cost.
 *
 * One sweep over the costs makes both updates with one exponential for each pair. A row is done in the log domain, its greatest
 * exponent taken out; what it leaves, exp(..) / sum, is the row of the plan and at most 1, so the columns are summed as they are, and
 * g_j <- g_j - eps log(column_j / nu_j) is the update above. A column that all rows gave nearly nothing, too little to take the logarithm of,
 * gets the hard transform min_i(C_ij - f_i) instead, which lies within eps log n of its update, and a sum to speak of the next time.
 *
 * The potentials returned are f and the g that f was made of: rows of the plan sum to mu exactly, and marginal_error is
 * sum_j |column_j - nu_j| of that very pair.
 *
 * eps-scaling: 10 eps first, then by thirds of a decade down to eps, each starting from the potentials before it.
 *
 * Costs come of an fp32 matrix product, |x|^2 + |y|^2 - 2 x.y, by batches of rows; where the square is below a thousandth of |x|^2 + |y|^2, so that
 * cancellation would leave less than four digits, it is made again of the differences, in double. Records that are equal thus have potentials equal
 * to about 1e-6 of the median, not to the bit.
 *
 * Memory: the costs, 4 n m bytes, if that is within costs_limit_bytes: they are made once. Otherwise they are made again for each sweep, in
 * SINKHORN_BATCH_BYTES (64 rows where there are more than 262,144 targets). Both give the same bits. Beside that 16 bytes for each record, 64
 * for each target and 8 more for each thread, and 4 MiB.
 *
 * Determinism: bits depend neither on the number of threads nor on the limit of memory.
 */
#ifndef WORKERS_SELECT_SINKHORN_H
#define WORKERS_SELECT_SINKHORN_H

#include "base/rng.h"
#include "workers/tensor/dense.h"
#include <stdint.h>

#define SINKHORN_BATCH_BYTES ((size_t)64 << 20)
#define SINKHORN_PAIRS       65536 /* at most so many are looked at for the median */

enum sinkhorn_cost { SINKHORN_EUCLIDEAN, SINKHORN_SQUARED };

/* All borrowed. */
struct sinkhorn_problem {
    size_t n, m, size;     /* size >= 1 */
    const float *x;        /* [n, size] */
    const float *y;        /* [m, size] */
    const double *weights; /* nu [m], > 0, of any sum; NULL: all the same */
    enum sinkhorn_cost cost;
    double epsilon_ratio;   /* eps / median cost, > 0; 0.01 to 0.05 */
    double tolerance;       /* of marginal_error, > 0; 1e-4 */
    size_t iteration_limit; /* sweeps in all, >= 1; 2000 */
    uint64_t costs_limit_bytes;
    struct rng rng; /* which pairs the median is of; all where there are no more than SINKHORN_PAIRS */
};

struct sinkhorn_result {
    double *f;          /* owned, [n] */
    double *g;          /* owned, [m]; the two are defined up to a constant, + in one and - in the other */
    double median_cost; /* quantile.h; the mean where it is 0; where that is 0, all of f and g are */
    double epsilon;
    double marginal_error; /* 0..2 */
    size_t iterations;
    bool is_converged; /* marginal_error < tolerance; false is no error */
};
/* One caller at a time drives the pool. INVALID_ARGUMENT: no records, no targets, a weight that is not above 0. NUMERIC: a row (named) that is not finite, or whose squared length
 * is not below ROWS_SQUARE_LIMIT (rows.h). CANCELLED, OUT_OF_MEMORY. */
bool sinkhorn_solve(const struct dense_threads *threads, const struct sinkhorn_problem *problem,
                    struct sinkhorn_result *ret_result, struct error *error) MUST_USE;
void sinkhorn_result_finish(struct sinkhorn_result *result);

#endif
