/*
 * workers/prune/gram.h: second moments of a stream of fp32 rows, and how they go with another: all that a linear repair of a projection
 * needs of the calibration data (least_squares.h). One token is a row x [in] that the projection reads, the output y [out] that it should
 * have, and the output z that it has; what is left to repair is the residual e = y - z. Summed over tokens, in double:
 *
 *     C = X^T X [in, in]    E^T X [out, in]    sums of x and e    sums of e^2 by output    sum of y^2
 *
 * The residual rather than y: z is what the pruned model computes anyway, and nothing is lost to the difference of two large sums.
 *
 * Two parts are kept apart: what repairs are fitted to, and held-out tokens that judge them (the last quarter of the sequences).
 *
 * Rows are gathered into blocks of a size that the shape alone decides, so that sums do not depend on how rows are cut into calls, nor on
 * the number of threads (dense.h).
 *
 * Memory: gram_bytes; for in = 11,468 and out = 4,096 (a down_proj of the 8B shape, a fifth pruned) 1.9 GB: one layer at a time.
 * Both C lie in one array of in * (in + 1).
 *
 * Threads: one caller; work is spread over its pool. Errors: OUT_OF_MEMORY, CANCELLED, NUMERIC (sums that are not finite).
 */
#ifndef WORKERS_PRUNE_GRAM_H
#define WORKERS_PRUNE_GRAM_H

#include "base/cleanup.h"
#include "workers/model/model.h"
#include "workers/tensor/dense.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum gram_part { GRAM_FIT, GRAM_HELD_OUT, GRAM_PARTS };
struct gram_sums {
    uint64_t tokens;
    double weight;            /* sum of squares of the rows' weights; tokens where they have none */
    struct dense_symmetric c; /* [in, in] */
    double *cross;            /* [out, in] E^T X */
    double *x;                /* [in]; of rows with weights w the sum of w^2 x: weight is their count */
    double *e, *e_squares;    /* [out]; likewise */
    double y_square;          /* sum over tokens and outputs */
};
struct gram {
    size_t in, out;
    struct gram_sums parts[GRAM_PARTS];
    /* Owned. */
    double *squares, *values;
    float *block_x, *block_e; /* [block_rows, in], [block_rows, out]: rows not yet in C and E^T X */
    size_t block_rows, block_count;
    enum gram_part block_part;
};
/* out 0: x alone. in >= 1. */
struct gram *gram_create(size_t in, size_t out, struct error *error) MUST_USE;
void gram_destroy(struct gram *gram);
OWNED_DEFINE(gram)
uint64_t gram_bytes(size_t in, size_t out);

struct gram_rows {
    size_t rows;
    const float *x; /* row r at x + r * x_stride */
    size_t x_stride;
    const float *y; /* may be NULL where out is 0 */
    size_t y_stride;
    const float *z; /* NULL: zero, e = y */
    size_t z_stride;
    const float *drift; /* added to e; NULL: nothing */
    size_t drift_stride;
    const float *
        weights; /* [rows]: errors count as weights[r] times what they are (an expert's gate, say); NULL: 1 */
};
bool gram_add(struct gram *gram, const struct dense_threads *threads, enum gram_part part,
              const struct gram_rows *rows, struct error *error) MUST_USE;
/* Call it after the last row, before sums are read. NUMERIC where a sum is not finite. */
bool gram_finish(struct gram *gram, const struct dense_threads *threads, struct error *error) MUST_USE;

/* The first held-out row of a batch: that of the last quarter of its sequences, at least one; of a single sequence the last quarter
 * of its tokens. */
size_t gram_first_held_out_row(const struct token_batch *batch);

/* What gram would be for a projection that loses input columns, from sums over all of them: of x alone (out 0), finished. weights [out, in]
 * of the whole projection, row by row; its output is y, and e = W_P x_P. kept [kept_count] ascends. Owned. */
struct gram *gram_keep(const struct gram *gram, const struct dense_threads *threads, const float *weights,
                       size_t out, const uint32_t *kept, size_t kept_count, struct error *error) MUST_USE;

/* Mean of the diagonal of C. */
double gram_mean_diagonal(const struct gram_sums *sums);

#endif
