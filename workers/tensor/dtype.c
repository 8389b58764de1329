/*
 * workers/tensor/dtype.c: conversions between stored element types and fp32. Everything is integer arithmetic
 * on bit patterns in loops the compiler vectorises; F16 needs no F16C instruction, so the result is the same
 * on every machine.
 *
 * F16 to fp32 uses the exponent trick: shifted into place, the bits are the value times 2^-112, and one exact
 * multiplication puts that right, subnormals included. Back, the value is added to a power of two that makes
 * the FPU round to nearest even at the right bit.
 */
#include "workers/tensor/dtype.h"

#include <string.h>

const char *dtype_slug(enum dtype dtype)
{
    static const char *const slugs[] = {
#define X(name, slug, bytes) [DTYPE_##name] = slug,
        DTYPES(X)
#undef X
    };
    return slugs[dtype];
}

size_t dtype_bytes(enum dtype dtype)
{
    static const size_t sizes[] = {
#define X(name, slug, bytes) [DTYPE_##name] = bytes,
        DTYPES(X)
#undef X
    };
    return sizes[dtype];
}

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static float f16_decode(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t magnitude = (uint32_t)(half & 0x7fffu) << 13;
    float value = float_of(magnitude) * 0x1p112f;
    uint32_t special = magnitude | 0x7f800000u; /* exponent 31: infinity or NaN */
    uint32_t bits = (half & 0x7c00u) == 0x7c00u ? special : bits_of(value);
    return float_of(bits | sign);
}

static uint16_t f16_encode(float value)
{
    uint32_t bits = bits_of(value);
    uint32_t sign = (bits >> 16) & 0x8000u;
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return (uint16_t)(sign | 0x7e00u);
    }
    if (magnitude >= 0x477ff000u) { /* 65520 and more round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    }
    if (magnitude < 0x38800000u) { /* below 2^-14: a subnormal half, a multiple of 2^-24 */
        float sum = float_of(magnitude) + 0.5f;
        return (uint16_t)(sign | (bits_of(sum) - 0x3f000000u));
    }
    uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    return (uint16_t)(sign | ((rounded - 0x38000000u) >> 13));
}

static uint16_t bf16_encode(float value)
{
    uint32_t bits = bits_of(value);
    uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    uint32_t quiet = bits | 0x00400000u;
    return (uint16_t)(((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded) >> 16);
}

void dtype_to_f32(enum dtype dtype, const void *source, size_t count, float *ret_values)
{
    const unsigned char *bytes = source;
    switch (dtype) {
    case DTYPE_F32:
        memcpy(ret_values, source, count * sizeof(float));
        break;
    case DTYPE_F16:
        for (size_t i = 0; i < count; i++) {
            uint16_t half;
            memcpy(&half, bytes + 2 * i, sizeof half);
            ret_values[i] = f16_decode(half);
        }
        break;
    case DTYPE_BF16:
        for (size_t i = 0; i < count; i++) {
            uint16_t upper;
            memcpy(&upper, bytes + 2 * i, sizeof upper);
            ret_values[i] = float_of((uint32_t)upper << 16);
        }
        break;
    }
}

void dtype_from_f32(enum dtype dtype, const float *values, size_t count, void *ret_bytes)
{
    unsigned char *bytes = ret_bytes;
    switch (dtype) {
    case DTYPE_F32:
        memcpy(ret_bytes, values, count * sizeof(float));
        break;
    case DTYPE_F16:
        for (size_t i = 0; i < count; i++) {
            uint16_t half = f16_encode(values[i]);
            memcpy(bytes + 2 * i, &half, sizeof half);
        }
        break;
    case DTYPE_BF16:
        for (size_t i = 0; i < count; i++) {
            uint16_t upper = bf16_encode(values[i]);
            memcpy(bytes + 2 * i, &upper, sizeof upper);
        }
        break;
    }
}
