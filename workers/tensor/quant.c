/* workers/tensor/quant.c: see quant.h. One function per format; each decodes one block and is inlined into a loop
 * over blocks, once for any machine and once for AVX2 (no FMA: fusing would change the bits). */
#include "workers/tensor/quant.h"

#include "base/check.h"
#include "workers/tensor/half.h"
#include <math.h>
#include <string.h>

HALF_INLINE float scale_at(const unsigned char *bytes)
{
    return half_decode((uint16_t)(bytes[0] | bytes[1] << 8));
}

HALF_INLINE void decode_q8_0(const unsigned char *block, float *values)
{
    float d = scale_at(block);
    for (int i = 0; i < 32; i++) {
        values[i] = d * (float)(int8_t)block[2 + i];
    }
}

HALF_INLINE void decode_q4_0(const unsigned char *block, float *values)
{
    float d = scale_at(block);
    for (int i = 0; i < 16; i++) {
        values[i] = d * (float)((block[2 + i] & 15) - 8);
        values[16 + i] = d * (float)((block[2 + i] >> 4) - 8);
    }
}

HALF_INLINE void decode_q4_1(const unsigned char *block, float *values)
{
    float d = scale_at(block), m = scale_at(block + 2);
    for (int i = 0; i < 16; i++) {
        values[i] = d * (float)(block[4 + i] & 15) + m;
        values[16 + i] = d * (float)(block[4 + i] >> 4) + m;
    }
}

HALF_INLINE uint32_t fifth_bits_at(const unsigned char *bytes)
{
    return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

HALF_INLINE void decode_q5_0(const unsigned char *block, float *values)
{
    float d = scale_at(block);
    uint32_t fifth = fifth_bits_at(block + 2);
    for (int i = 0; i < 16; i++) {
        int low = (block[6 + i] & 15) | (int)((fifth >> i) & 1) << 4;
        int high = (block[6 + i] >> 4) | (int)((fifth >> (i + 16)) & 1) << 4;
        values[i] = d * (float)(low - 16);
        values[16 + i] = d * (float)(high - 16);
    }
}

HALF_INLINE void decode_q5_1(const unsigned char *block, float *values)
{
    float d = scale_at(block), m = scale_at(block + 2);
    uint32_t fifth = fifth_bits_at(block + 4);
    for (int i = 0; i < 16; i++) {
        int low = (block[8 + i] & 15) | (int)((fifth >> i) & 1) << 4;
        int high = (block[8 + i] >> 4) | (int)((fifth >> (i + 16)) & 1) << 4;
        values[i] = d * (float)low + m;
        values[16 + i] = d * (float)high + m;
    }
}

/* Groups 0..3 have their six bits in bytes 0..3 (scale) and 4..7 (minimum); groups 4..7 have four bits in bytes
 * 8..11 and the upper two in the top of bytes 0..3 and 4..7. */
HALF_INLINE void group_at(const unsigned char *packed, int group, int *ret_scale, int *ret_minimum)
{
    if (group < 4) {
        *ret_scale = packed[group] & 63;
        *ret_minimum = packed[group + 4] & 63;
    } else {
        *ret_scale = (packed[group + 4] & 15) | (packed[group - 4] >> 6) << 4;
        *ret_minimum = packed[group + 4] >> 4 | (packed[group] >> 6) << 4;
    }
}

/* fifth: [32], bit g of byte i belongs to element i of group g; NULL for Q4_K. */
HALF_INLINE void decode_groups(const unsigned char *block, const unsigned char *fifth,
                               const unsigned char *nibbles, float *values)
{
    float d = scale_at(block), dmin = scale_at(block + 2);
    for (int group = 0; group < 8; group++) {
        int scale = 0, minimum = 0;
        group_at(block + 4, group, &scale, &minimum);
        float step = d * (float)scale, offset = dmin * (float)minimum;
        const unsigned char *bytes = nibbles + 32 * (group / 2);
        int shift = 4 * (group % 2);
        for (int i = 0; i < 32; i++) {
            int q = (bytes[i] >> shift) & 15;
            q |= fifth != NULL ? ((fifth[i] >> group) & 1) << 4 : 0;
            values[32 * group + i] = step * (float)q - offset;
        }
    }
}

HALF_INLINE void decode_q4_k(const unsigned char *block, float *values)
{
    decode_groups(block, NULL, block + 16, values);
}

HALF_INLINE void decode_q5_k(const unsigned char *block, float *values)
{
    decode_groups(block, block + 16, block + 48, values);
}

HALF_INLINE void decode_q6_k(const unsigned char *block, float *values)
{
    const unsigned char *low = block, *high = block + 128, *scales = block + 192;
    float d = scale_at(block + 208);
    for (int part = 0; part < 8; part++) { /* of 32 elements, two groups of 16 */
        const unsigned char *nibbles = low + 64 * (part / 4) + 32 * (part % 2);
        const unsigned char *pairs = high + 32 * (part / 4);
        int nibble_shift = 4 * ((part / 2) % 2), pair_shift = 2 * (part % 4);
        for (int half = 0; half < 2; half++) {
            float step = d * (float)(int8_t)scales[2 * part + half];
            for (int i = 16 * half; i < 16 * half + 16; i++) {
                int q = ((nibbles[i] >> nibble_shift) & 15) | ((pairs[i] >> pair_shift) & 3) << 4;
                values[32 * part + i] = step * (float)(q - 32);
            }
        }
    }
}

#define FORMATS(X)                                                                                           \
    X(Q8_0, q8_0, 32, 34)                                                                                    \
    X(Q4_0, q4_0, 32, 18)                                                                                    \
    X(Q4_1, q4_1, 32, 20)                                                                                    \
    X(Q5_0, q5_0, 32, 22)                                                                                    \
    X(Q5_1, q5_1, 32, 24)                                                                                    \
    X(Q4_K, q4_k, 256, 144)                                                                                  \
    X(Q5_K, q5_k, 256, 176)                                                                                  \
    X(Q6_K, q6_k, 256, 210)

HALF_INLINE void decode_any(enum dtype dtype, const unsigned char *blocks, size_t block_count, float *values)
{
    switch (dtype) {
#define X(name, lower, count, bytes)                                                                         \
    case DTYPE_##name:                                                                                       \
        for (size_t i = 0; i < block_count; i++) {                                                           \
            decode_##lower(blocks + i * (bytes), values + i * (count));                                      \
        }                                                                                                    \
        break;
        FORMATS(X)
#undef X
    case DTYPE_F32:
    case DTYPE_F16:
    case DTYPE_BF16:
        CHECK(!"a block type");
    }
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void decode_avx2(enum dtype dtype, const unsigned char *blocks,
                                                        size_t block_count, float *values)
{
    decode_any(dtype, blocks, block_count, values);
}
#endif

void quant_decode(enum dtype dtype, const unsigned char *blocks, size_t block_count, float *ret_values)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        decode_avx2(dtype, blocks, block_count, ret_values);
        return;
    }
#endif
    decode_any(dtype, blocks, block_count, ret_values);
}

HALF_INLINE void encode_block(const float *values, unsigned char *block)
{
    uint32_t largest = 0; /* bits of magnitudes order as the magnitudes do, with NaN above all */
    for (int i = 0; i < 32; i++) {
        uint32_t magnitude = half_bits_of(values[i]) & 0x7fffffffu;
        largest = magnitude > largest ? magnitude : largest;
    }
    float d = half_float_of(largest) / 127.0f;
    float inverse = 1.0f / d;
    uint16_t scale = half_encode(d);
    block[0] = (unsigned char)(scale & 255);
    block[1] = (unsigned char)(scale >> 8);
    if (!isfinite(d) || !isfinite(inverse)) { /* zero, too small, infinite or NaN: the scale alone says so */
        memset(block + 2, 0, 32);
        return;
    }
    for (int i = 0; i < 32; i++) {
        float value = values[i] * inverse;
        float magnitude = fabsf(value); /* 127 and a rounding error at most */
        int whole = (int)magnitude;
        int rounded = whole + (int)(2.0f * (magnitude - (float)whole));
        block[2 + i] = (unsigned char)(value < 0.0f ? -rounded : rounded);
    }
}

HALF_INLINE void encode_blocks(const float *values, size_t block_count, unsigned char *blocks)
{
    for (size_t i = 0; i < block_count; i++) {
        encode_block(values + 32 * i, blocks + 34 * i);
    }
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void encode_avx2(const float *values, size_t block_count,
                                                        unsigned char *blocks)
{
    encode_blocks(values, block_count, blocks);
}
#endif

void quant_encode_q8_0(const float *values, size_t block_count, unsigned char *ret_blocks)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        encode_avx2(values, block_count, ret_blocks);
        return;
    }
#endif
    encode_blocks(values, block_count, ret_blocks);
}
