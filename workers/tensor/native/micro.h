/*
 * workers/tensor/native/micro.h: the heart of products: MICRO_ROWS x MICRO_COLUMNS accumulators in registers, one
 * multiply-add per element of k, in the order of k. What an element comes out as depends on its row, its column and the length alone.
 *
 * With IS_PAIRS a step multiplies two bf16 elements of k, which lie in one 32-bit lane, by VDPBF16PS.
 */
#ifndef WORKERS_TENSOR_NATIVE_MICRO_H
#define WORKERS_TENSOR_NATIVE_MICRO_H

#include "workers/tensor/dtype.h"
#include "workers/tensor/native/vector.h"

#if LANES == 16
#define MICRO_ROWS 14
#elif LANES == 8
#define MICRO_ROWS 6
#else
#define MICRO_ROWS 6
#endif
#define MICRO_COLUMNS (2 * LANES)

#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

struct tile_sums {
    vf sums[MICRO_ROWS][2];
};

#if defined(__AVX512BF16__)
/* A row of x as bf16; a zero behind an odd end. */
static inline void take_bf16(const float *x, size_t count, float *to)
{
    size_t i = 0;
    for (; i + 32 <= count; i += 32) {
        __m512bh pairs = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + i + 16), _mm512_loadu_ps(x + i));
        memcpy(to + i / 2, &pairs, sizeof pairs);
    }
    for (; i < count; i += 2) {
        float two[2] = {x[i], i + 1 < count ? x[i + 1] : 0.0f};
        dtype_from_f32(DTYPE_BF16, two, 2, to + i / 2);
    }
}

/* Two vectors as the elements of pairs. */
static inline vf pair_up(vf first, vf second)
{
    __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)first));
    __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)second));
    return (vf)_mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}
#endif

static ALWAYS_INLINE vf step(bool is_pairs, vf a, vf b, vf sum)
{
#if defined(__AVX512BF16__)
    if (is_pairs) {
        return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
    }
#else
    (void)is_pairs;
#endif
    return multiply_add(a, b, sum);
}

/* sums[r][...] = a[r * a_stride + j] * b[j * b_stride + ...], summed over j < k; r < rows, which is a constant. */
static ALWAYS_INLINE void micro(size_t rows, bool is_pairs, size_t k, const float *a, size_t a_stride,
                                const float *b, size_t b_stride, struct tile_sums *ret)
{
    vf sums[MICRO_ROWS][2];
    UNROLL
    for (size_t r = 0; r < rows; r++) {
        sums[r][0] = splat(0.0f);
        sums[r][1] = splat(0.0f);
    }
    for (size_t j = 0; j < k; j++) {
        vf low = load(b + j * b_stride), high = load(b + j * b_stride + LANES);
        UNROLL
        for (size_t r = 0; r < rows; r++) {
            vf x = splat(a[r * a_stride + j]);
            sums[r][0] = step(is_pairs, x, low, sums[r][0]);
            sums[r][1] = step(is_pairs, x, high, sums[r][1]);
        }
    }
    UNROLL
    for (size_t r = 0; r < rows; r++) {
        ret->sums[r][0] = sums[r][0];
        ret->sums[r][1] = sums[r][1];
    }
}

#endif
