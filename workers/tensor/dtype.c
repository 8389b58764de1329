/*
 * workers/tensor/dtype.c: conversions between stored element types and fp32. Plain types are integer
 * arithmetic on bit patterns (half.h) in loops that the compiler vectorises, once for any machine and once for
 * AVX2; both give the same bits. The block types are quant.c's.
 */
#include "workers/tensor/dtype.h"

#include "base/check.h"
#include "workers/tensor/half.h"
#include "workers/tensor/quant.h"

static const struct {
    const char *slug;
    size_t block_count, block_bytes;
} types[] = {
#define X(name, slug, count, bytes) [DTYPE_##name] = {slug, count, bytes},
    DTYPES(X)
#undef X
};

const char *dtype_slug(enum dtype dtype)
{
    return types[dtype].slug;
}

bool dtype_parse(const char *slug, enum dtype *ret_dtype)
{
    for (size_t i = 0; i < DTYPE_COUNT; i++) {
        if (strcmp(slug, types[i].slug) == 0) {
            *ret_dtype = (enum dtype)i;
            return true;
        }
    }
    return false;
}

bool dtype_is_block(enum dtype dtype)
{
    return types[dtype].block_count > 1;
}

size_t dtype_block_count(enum dtype dtype)
{
    return types[dtype].block_count;
}

size_t dtype_bytes(enum dtype dtype)
{
    CHECK(!dtype_is_block(dtype));
    return types[dtype].block_bytes;
}

size_t dtype_size_bytes(enum dtype dtype, size_t count)
{
    CHECK(count % types[dtype].block_count == 0);
    return count / types[dtype].block_count * types[dtype].block_bytes;
}

HALF_INLINE uint16_t bf16_encode(float value)
{
    uint32_t bits = half_bits_of(value);
    uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    uint32_t quiet = bits | 0x00400000u;
    return (uint16_t)(((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded) >> 16);
}

/* A loop over two-byte elements, compiled twice. */
#define LOOP(name, from_type, to_type, expression)                                                           \
    HALF_INLINE void name##_loop(const unsigned char *from, size_t count, unsigned char *to)                 \
    {                                                                                                        \
        for (size_t i = 0; i < count; i++) {                                                                 \
            from_type value;                                                                                 \
            memcpy(&value, from + i * sizeof value, sizeof value);                                           \
            to_type result = (expression);                                                                   \
            memcpy(to + i * sizeof result, &result, sizeof result);                                          \
        }                                                                                                    \
    }                                                                                                        \
    static void name##_any(const unsigned char *restrict from, size_t count, unsigned char *restrict to)     \
    {                                                                                                        \
        name##_loop(from, count, to);                                                                        \
    }                                                                                                        \
    LOOP_AVX2(name)                                                                                          \
    static void name(const void *from, size_t count, void *to)                                               \
    {                                                                                                        \
        (HAS_AVX2 ? name##_avx2 : name##_any)(from, count, to);                                              \
    }
#if defined(__x86_64__)
#define HAS_AVX2 __builtin_cpu_supports("avx2")
#define LOOP_AVX2(name)                                                                                      \
    __attribute__((target("avx2"))) static void name##_avx2(const unsigned char *restrict from,              \
                                                            size_t count, unsigned char *restrict to)        \
    {                                                                                                        \
        name##_loop(from, count, to);                                                                        \
    }
#else
#define HAS_AVX2 0
#define LOOP_AVX2(name)                                                                                      \
    static void name##_avx2(const unsigned char *from, size_t count, unsigned char *to)                      \
    {                                                                                                        \
        name##_any(from, count, to);                                                                         \
    }
#endif
LOOP(f16_to_f32, uint16_t, float, half_decode(value))
LOOP(bf16_to_f32, uint16_t, float, half_float_of((uint32_t)value << 16))
LOOP(f32_to_f16, float, uint16_t, half_encode(value))
LOOP(f32_to_bf16, float, uint16_t, bf16_encode(value))

void dtype_to_f32(enum dtype dtype, const void *source, size_t count, float *ret_values)
{
    if (dtype == DTYPE_F32) {
        memcpy(ret_values, source, count * sizeof(float));
    } else if (dtype == DTYPE_F16) {
        f16_to_f32(source, count, ret_values);
    } else if (dtype == DTYPE_BF16) {
        bf16_to_f32(source, count, ret_values);
    } else {
        CHECK(count % dtype_block_count(dtype) == 0);
        quant_decode(dtype, source, count / dtype_block_count(dtype), ret_values);
    }
}

void dtype_from_f32(enum dtype dtype, const float *values, size_t count, void *ret_bytes)
{
    CHECK(dtype <= DTYPE_Q8_0);
    if (dtype == DTYPE_F32) {
        memcpy(ret_bytes, values, count * sizeof(float));
    } else if (dtype == DTYPE_F16) {
        f32_to_f16(values, count, ret_bytes);
    } else if (dtype == DTYPE_BF16) {
        f32_to_bf16(values, count, ret_bytes);
    } else {
        CHECK(count % dtype_block_count(DTYPE_Q8_0) == 0);
        quant_encode_q8_0(values, count / dtype_block_count(DTYPE_Q8_0), ret_bytes);
    }
}
