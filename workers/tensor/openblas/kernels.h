/*
 * workers/tensor/openblas/kernels.h: what BLAS has no word for, vectorised. kernels.c is compiled once per
 * instruction set; the backend picks the one that belongs to the core type OpenBLAS runs as, so that
 * OPENBLAS_CORETYPE pins all arithmetic.
 */
#ifndef WORKERS_TENSOR_OPENBLAS_KERNELS_H
#define WORKERS_TENSOR_OPENBLAS_KERNELS_H

#include "workers/tensor/backend.h"

struct kernels {
    const char *name;
    void (*rows_matmul)(const struct matmul *job);
    void (*rmsnorm)(size_t rows, size_t size, const float *x, size_t x_stride, const float *w, float epsilon,
                    float *out, size_t out_stride);
    void (*rope)(size_t rows, size_t heads, size_t head_size, const float *cosines, const float *sines,
                 float *x, size_t stride);
    void (*attention_row)(const struct attention_row *job);
    void (*silu_mul)(size_t rows, size_t count, float *gate, const float *up, size_t stride);
    bool (*add)(size_t count, float *to, const float *from);
    void (*scan)(size_t count, const float *logits, size_t first, struct head_scan *scan);
    double (*squares)(size_t count, const float *x);
    double (*distance)(enum distance_kind kind, const struct distance_row *row);
    /* scores = exp(scale * (scores - max)); returns their sum. */
    float (*softmax)(size_t count, float *scores, float scale);
    void (*scale)(size_t count, float *x, float factor);
};
extern const struct kernels kernels_baseline, kernels_avx2, kernels_avx512;

#endif
