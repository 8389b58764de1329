/*
 * workers/tensor/dtype.h: element types and their conversion to fp32. bf16 is the upper half of an fp32;
 * rounding back is to nearest even, NaN stays NaN.
 *
 * A plain type (F32, F16, BF16) stores each element by itself. A block type, as GGUF has them, stores a block
 * of 32 or 256 elements together: small integers and the scale (and minimum) that they share. Rows of a block
 * type are whole blocks, so a row is addressed by dtype_size_bytes, never by the size of one element.
 */
#ifndef WORKERS_TENSOR_DTYPE_H
#define WORKERS_TENSOR_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Name, spelling, elements of a block, bytes of a block. */
#define DTYPES(X)                                                                                            \
    X(F32, "F32", 1, 4)                                                                                      \
    X(F16, "F16", 1, 2)                                                                                      \
    X(BF16, "BF16", 1, 2)                                                                                    \
    X(Q8_0, "Q8_0", 32, 34)                                                                                  \
    X(Q4_0, "Q4_0", 32, 18)                                                                                  \
    X(Q4_1, "Q4_1", 32, 20)                                                                                  \
    X(Q5_0, "Q5_0", 32, 22)                                                                                  \
    X(Q5_1, "Q5_1", 32, 24)                                                                                  \
    X(Q4_K, "Q4_K", 256, 144)                                                                                \
    X(Q5_K, "Q5_K", 256, 176)                                                                                \
    X(Q6_K, "Q6_K", 256, 210)
enum dtype {
#define X(name, slug, count, bytes) DTYPE_##name,
    DTYPES(X)
#undef X
};
#define X(name, slug, count, bytes) +1
enum { DTYPE_COUNT = 0 DTYPES(X) };
#undef X
const char *dtype_slug(enum dtype dtype); /* as safetensors and GGUF spell it */
bool dtype_parse(const char *slug, enum dtype *ret_dtype);
bool dtype_is_block(enum dtype dtype);
size_t dtype_block_count(enum dtype dtype); /* elements of a block; 1 for a plain type */
size_t dtype_bytes(enum dtype dtype);       /* of one element; plain types only */
/* Of count elements, a multiple of the block; count * 4 must not overflow. */
size_t dtype_size_bytes(enum dtype dtype, size_t count);

/* count elements, a multiple of the block; source may be unaligned. Block types give what the `gguf` package
 * and ggml give, bit for bit. */
void dtype_to_f32(enum dtype dtype, const void *source, size_t count, float *ret_values);
/* F32, F16, BF16 and Q8_0. */
void dtype_from_f32(enum dtype dtype, const float *values, size_t count, void *ret_bytes);

#endif
