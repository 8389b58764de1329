/*
 * workers/tensor/cuda/kernels.h: launchers of our own kernels. Each puts its work on `stream` and returns what the launch
 * said (later failures come from whoever waits). All pointers are device memory unless said otherwise; strides count
 * elements; sizes may be 0. A bf16 is carried as uint16_t.
 *
 * `rounded`: many results are multiplied next with bf16 weights. Where a job has a `rounded` matrix, the result is also
 * written there as bf16 rows [rows, rounded_stride], which saves a pass over memory. NULL: not wanted.
 *
 * Every sum has an order that its length (and its place in its own sequence) fixes. No atomic adds.
 */
#ifndef WORKERS_TENSOR_CUDA_KERNELS_H
#define WORKERS_TENSOR_CUDA_KERNELS_H

#include "workers/tensor/cuda/arithmetic.h"
#include <cuda_runtime.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- rows (rows.cu) ---------------------------------------------------------------------------------- */

struct kernel_norm {
    bool is_rms;
    size_t rows, groups, size;
    const float *x;
    size_t x_stride;
    const float *weight, *bias; /* bias or NULL */
    float epsilon;
    float *out;
    size_t out_stride;
    uint16_t *rounded; /* groups == 1 only */
    size_t rounded_stride;
};
cudaError_t kernel_norm(const struct kernel_norm *job, cudaStream_t stream);

/* bf16 of x [rows, count] with zeros up to to_stride. */
cudaError_t kernel_round(size_t rows, size_t count, const float *x, size_t x_stride, uint16_t *to,
                         size_t to_stride, cudaStream_t stream);
/* x[r] += bias */
cudaError_t kernel_add_bias(size_t rows, size_t count, const float *bias, float *x, size_t stride,
                            cudaStream_t stream);

struct kernel_rope {
    size_t count;             /* of rows to turn */
    const int32_t *rows;      /* [count] */
    const int32_t *positions; /* [count] */
    size_t heads, head_size, half;
    const float *cosines, *sines; /* [positions, half] */
    float *x;
    size_t stride;
};
cudaError_t kernel_rope(const struct kernel_rope *job, cudaStream_t stream);

struct kernel_activate {
    enum row_activation kind;
    size_t rows, count;
    float *x;
    const float *up; /* or NULL */
    size_t stride;
    uint16_t *rounded;
    size_t rounded_stride;
};
cudaError_t kernel_activate(const struct kernel_activate *job, cudaStream_t stream);

struct kernel_add {
    size_t rows, size;
    float *to;
    size_t to_stride;
    const float *from;
    size_t from_stride;
    const int32_t *to_rows; /* [rows] or NULL */
    const float *factors;   /* [rows] or NULL */
    int32_t *is_finite;     /* set to 0 where a sum is not finite; left alone otherwise */
};
cudaError_t kernel_add(const struct kernel_add *job, cudaStream_t stream);

cudaError_t kernel_copy_rows(size_t rows, size_t size, float *to, size_t to_stride, const float *from,
                             size_t from_stride, const int32_t *to_rows, const int32_t *from_rows,
                             cudaStream_t stream);
cudaError_t kernel_softcap(size_t rows, size_t count, float *x, size_t stride, float cap,
                           cudaStream_t stream);

/* ---- what is read off rows (sums.cu) ----------------------------------------------------------------- */

cudaError_t kernel_route(size_t rows, size_t expert_count, size_t active_count, bool is_normalised,
                         const float *logits, size_t stride, int32_t *experts, float *weights,
                         cudaStream_t stream);
cudaError_t kernel_scan_start(size_t rows, struct row_scan *scans, cudaStream_t stream);
/* Folds `count` columns, the first of which is column `first`, into scans [rows], segment after segment. */
struct kernel_scan {
    size_t rows, first, count, segment_columns;
    const float *logits;
    size_t stride;
    const int32_t *targets; /* [rows]; negative: the row is left alone; NULL: all rows */
    struct row_scan *scans;
    float *target_logits; /* [rows]; written where the target is among these columns; NULL without targets */
};
cudaError_t kernel_scan(const struct kernel_scan *job, cudaStream_t stream);
cudaError_t kernel_squares(size_t rows, size_t count, const float *x, size_t stride, double *squares,
                           cudaStream_t stream);
struct kernel_distance {
    enum row_distance kind;
    size_t rows, count;
    const float *original, *candidate;
    size_t original_stride, candidate_stride;
    const double *original_scales, *candidate_scales; /* [rows]; not read for ROW_SQUARES */
    double *distances;
};
cudaError_t kernel_distance(const struct kernel_distance *job, cudaStream_t stream);

/* ---- attention (attention.cu, attention_bf16.cu) ------------------------------------------------------ */

#define ATTENTION_QUERIES        64 /* of a tile */
/* The largest head of kernel_attention and kernel_attention_bf16. */
#define ATTENTION_HEAD_SIZE      256
#define ATTENTION_ROWS_HEAD_SIZE 4096

struct attention_tile {
    int32_t first_row, count; /* of the segment */
    int32_t first_query;      /* of the tile, in the segment */
};
struct kernel_attention {
    size_t tile_count;
    const struct attention_tile *tiles; /* in the order they are started */
    size_t head_count, kv_head_count, head_size;
    size_t window; /* keys after query - window are seen; 0: all */
    bool is_causal;
    float scale, softcap;
    const float *q, *k, *v;
    size_t q_stride, kv_stride;
    float *out;
    size_t out_stride;
    uint16_t *rounded;
    size_t rounded_stride;
    /* bf16 only: [2][kv_head_count][row_count][padded head], filled inside with rows [first_row, first_row + row_count),
     * which hold all segments */
    uint16_t *packed;
    size_t first_row, row_count;
};
/* fp32 products and sums. */
cudaError_t kernel_attention(const struct kernel_attention *job, cudaStream_t stream);
/* Elements of a packed head; the bytes of `packed` are 2 * 2 * kv_head_count * row_count of these. */
size_t kernel_attention_padded_head(size_t head_size);
/* q, k, v and the probabilities rounded to bf16, sums and softmax in fp32, on the tensor cores. */
cudaError_t kernel_attention_bf16(const struct kernel_attention *job, cudaStream_t stream);

struct kernel_attention_rows {
    size_t rows;
    const uint64_t *first_rows, *counts; /* [rows] */
    size_t head_count, kv_head_count, head_size, window;
    float scale, softcap;
    const float *q;
    size_t q_stride;
    const float *keys, *values;
    size_t kv_stride;
    float *out;
    size_t out_stride;
};
cudaError_t kernel_attention_rows(const struct kernel_attention_rows *job, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
