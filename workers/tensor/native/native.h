/* workers/tensor/native/native.h: names of what is compiled once per instruction set. ISA is the set's name, LANES the floats
 * of its vectors. */
#ifndef WORKERS_TENSOR_NATIVE_NATIVE_H
#define WORKERS_TENSOR_NATIVE_NATIVE_H

#include "workers/tensor/cpu.h"

#define NATIVE_PASTE_(name, isa) name##_##isa
#define NATIVE_PASTE(name, isa)  NATIVE_PASTE_(name, isa)
#define NATIVE_NAME(name)        NATIVE_PASTE(name, ISA)

/* Matrices: panels of 32 rows of w, [n / 32][k][32] F32 or [n / 32][k / 2][32][2] BF16, padded with zeros. The same for all
 * instruction sets. */
#define PANEL 32
void native_matrix_write(const struct matrix *matrix, size_t first_row, size_t row_count, const float *rows,
                         size_t stride);

#define NATIVE_SET(isa)                                                                                      \
    void native_rows_##isa(struct kernels *kernels);      /* row operations */                               \
    void native_product_##isa(struct kernels *kernels);   /* products */                                     \
    void native_dots_##isa(struct kernels *kernels);      /* products of lone rows */                        \
    void native_attention_##isa(struct kernels *kernels); /* attention */
NATIVE_SET(baseline)
NATIVE_SET(avx2)
NATIVE_SET(avx512)
void native_product_avx512_bf16(struct kernels *kernels);
void native_attention_avx512_bf16(struct kernels *kernels);
/* Put bf16 products in the place of those that are there. */
void native_product_amx(struct kernels *kernels);
void native_product_amx_emulated(struct kernels *kernels);
#undef NATIVE_SET

#endif
