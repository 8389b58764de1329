/*
 * workers/tensor/quant.h: the block formats of GGUF. dtype.h is the door; this is what stands behind it. A
 * block of 32 is
 *
 *     Q8_0   d (fp16), q [32] (int8)                          d * q
 *     Q4_0   d, nibbles [16]                                  d * (q - 8)
 *     Q4_1   d, m (fp16), nibbles [16]                        d * q + m
 *     Q5_0   d, fifth bits (uint32), nibbles [16]             d * (q - 16)
 *     Q5_1   d, m, fifth bits, nibbles [16]                   d * q + m
 *
 * where byte j of the nibbles holds element j below and element j + 16 above. A block of 256 is
 *
 *     Q4_K   d, dmin, scales and minima of 8 groups of 32 (6 bits each, [12]), nibbles [128]
 *                                                             (d * scale) * q - (dmin * minimum)
 *     Q5_K   the same with fifth bits [32] before the nibbles
 *     Q6_K   nibbles [128], upper pairs of bits [64], scales of 16 groups of 16 (int8), d
 *                                                             (d * scale) * (q - 32)
 *
 * Every product and sum is rounded to fp32 in the order written, as ggml and the `gguf` package do.
 */
#ifndef WORKERS_TENSOR_QUANT_H
#define WORKERS_TENSOR_QUANT_H

#include "workers/tensor/dtype.h"

/* block_count blocks of a block type to block_count * dtype_block_count(dtype) values. Both unaligned. */
void quant_decode(enum dtype dtype, const unsigned char *blocks, size_t block_count, float *ret_values);
/* Q8_0: the scale is the largest magnitude / 127, rounded to fp16 only after dividing by it; halves round away
 * from zero. A block whose scale has no finite inverse becomes zeros. */
void quant_encode_q8_0(const float *values, size_t block_count, unsigned char *ret_blocks);

#endif
