/*
 * workers/tensor/half.h: one fp16 number to fp32 and back, in integer arithmetic that a compiler turns into
 * vectors without F16C, so the bits are the same on every machine. Decoding touches no subnormal fp32, which
 * would cost a microcode assist each.
 */
#ifndef WORKERS_TENSOR_HALF_H
#define WORKERS_TENSOR_HALF_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define HALF_INLINE static inline __attribute__((always_inline, unused))

HALF_INLINE uint32_t half_bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

HALF_INLINE float half_float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* yes where the condition holds, else no. By a mask, as a conditional around floating-point work stays a branch. */
HALF_INLINE uint32_t half_select(bool condition, uint32_t yes, uint32_t no)
{
    uint32_t mask = -(uint32_t)condition;
    return (yes & mask) | (no & ~mask);
}

HALF_INLINE float half_decode(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t exponent = half & 0x7c00u;
    uint32_t magnitude = (uint32_t)(half & 0x7fffu) << 13;
    uint32_t normal = magnitude + (112u << 23);
    uint32_t special = magnitude | 0x7f800000u; /* exponent 31: infinity or NaN */
    /* A subnormal half is its fraction times 2^-24, which fp32 holds as a normal number. */
    uint32_t small = half_bits_of((float)(int32_t)(half & 0x3ffu) * 0x1p-24f);
    uint32_t bits = exponent == 0x7c00u ? special : normal;
    return half_float_of(half_select(exponent == 0, small, bits) | sign);
}

HALF_INLINE uint16_t half_encode(float value)
{
    uint32_t bits = half_bits_of(value);
    uint32_t sign = (bits >> 16) & 0x8000u;
    uint32_t magnitude = bits & 0x7fffffffu;
    uint32_t rounded = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
    /* Below 2^-14 the half is a multiple of 2^-24: added to 0.5, whose last place is 2^-24, the FPU rounds to
     * nearest even there. */
    uint32_t small = half_bits_of(half_float_of(magnitude) + 0.5f) - 0x3f000000u;
    uint32_t result = half_select(magnitude < 0x38800000u, small, rounded);
    result = half_select(magnitude >= 0x477ff000u, 0x7c00u, result); /* 65520 and more round to infinity */
    result = half_select(magnitude > 0x7f800000u, 0x7e00u, result);
    return (uint16_t)(sign | result);
}

#endif
