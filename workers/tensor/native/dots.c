/*
 * workers/tensor/native/dots.c: products with matrices that lie row by row, [n, k] fp32, for rows that are alone
 * (decoding). Each output is one dot product in an order fixed by k; blocking decides only how many are made at once. Compiled once
 * per instruction set, for backends whose layout this is.
 */
#include "workers/tensor/native/native.h"
#include "workers/tensor/native/vector.h"

#define BLOCK_COLUMNS 4

/* ROWS x COLUMNS dot products at once; each in its own accumulator. */
static ALWAYS_INLINE void dot_block(const struct product *job, size_t row, size_t column, size_t rows,
                                    size_t columns)
{
    size_t k = job->w->k, whole = k - k % LANES;
    const float *const *x = job->x + row, *w = (const float *)job->w->data + (job->first_column + column) * k;
    const float *bias = job->bias != NULL ? job->bias + job->first_column + column : NULL;
    vf sums[4][BLOCK_COLUMNS];
    memset(sums, 0, sizeof sums);
    for (size_t j = 0; j < whole; j += LANES) {
        vf b[BLOCK_COLUMNS];
        for (size_t c = 0; c < columns; c++) {
            b[c] = load(w + c * k + j);
        }
        for (size_t r = 0; r < rows; r++) {
            vf a = load(x[r] + j);
            for (size_t c = 0; c < columns; c++) {
                sums[r][c] = multiply_add(a, b[c], sums[r][c]);
            }
        }
    }
    if (whole < k) {
        vf b[BLOCK_COLUMNS];
        for (size_t c = 0; c < columns; c++) {
            b[c] = load_last(w + c * k, k, k - whole);
        }
        for (size_t r = 0; r < rows; r++) {
            vf a = load_last(x[r], k, k - whole);
            for (size_t c = 0; c < columns; c++) {
                sums[r][c] = multiply_add(a, b[c], sums[r][c]);
            }
        }
    }
    for (size_t r = 0; r < rows; r++) {
        float *out = job->out + (row + r) * job->out_stride + column;
        if (columns == BLOCK_COLUMNS) {
            v4 four = sum_lanes_of_four(sums[r]), more = {0};
            if (bias != NULL) {
                memcpy(&more, bias, sizeof more);
            }
            four += more;
            memcpy(out, &four, sizeof four);
        } else {
            out[0] = sum_lanes(sums[r][0]) + (bias != NULL ? bias[0] : 0.0f);
        }
    }
}

static ALWAYS_INLINE void dot_columns(const struct product *job, size_t column, size_t columns)
{
    size_t row = 0;
    for (; row + 4 <= job->rows; row += 4) {
        dot_block(job, row, column, 4, columns);
    }
    for (; row + 2 <= job->rows; row += 2) {
        dot_block(job, row, column, 2, columns);
    }
    if (row < job->rows) {
        dot_block(job, row, column, 1, columns);
    }
}

static void dots(const struct product *job)
{
    size_t column = 0;
    for (; column + BLOCK_COLUMNS <= job->columns; column += BLOCK_COLUMNS) {
        dot_columns(job, column, BLOCK_COLUMNS);
    }
    for (; column < job->columns; column++) {
        dot_columns(job, column, 1);
    }
}

void NATIVE_NAME(native_dots)(struct kernels *kernels)
{
    kernels->product_of_lone_rows = dots;
}
