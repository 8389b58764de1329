/*
 * workers/tensor/native/vector.h: vectors of LANES floats and their functions, for files that are compiled once per
 * instruction set.
 *
 * Every sum has an order fixed by its length alone: lane l of the accumulator takes elements l, l + LANES,
 * ...; a last partial vector is padded with zeros (or with what leaves the result alone); lanes are then
 * added by halving. Blocking over rows or columns only decides which accumulators are alive at once, never
 * the order inside one.
 *
 * exp, exp2, expm1, log1p and the normal distribution are our own: reduction by powers of two, then a polynomial fitted
 * by weighted least squares (Lawson's iteration), or the atanh series cut where the rest is under 1e-8 of the value. exp and
 * log are good to about 2 units in the last place.
 */
#ifndef WORKERS_TENSOR_NATIVE_VECTOR_H
#define WORKERS_TENSOR_NATIVE_VECTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif
#include <math.h>
#include <string.h>

#define ALWAYS_INLINE inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef float v4 __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));

#define LN2_HIGH 0x1.62e4p-1f /* 15 significant bits: n * LN2_HIGH is exact */
#define LN2_LOW  0x1.7f7d1cf79abcap-20f
#define LOG2_E   0x1.715476p+0f
#define ROUNDER  0x1.8p23f

static inline vf splat(float value)
{
    return value - (vf){0};
}

static inline vf load(const float *x)
{
    vf v;
    memcpy(&v, x, sizeof v);
    return v;
}

static inline void store(float *x, vf v)
{
    memcpy(x, &v, sizeof v);
}

/*
 * sum + a * b, rounded once where the instruction set fuses. Written out, because dot_block is compiled for several
 * blockings whose bits must agree, and a compiler may contract a product in one of them and not in another.
 */
static inline vf multiply_add(vf a, vf b, vf sum)
{
#if LANES == 16
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum);
#elif LANES == 8
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)sum);
#else
    return sum + a * b;
#endif
}

/* The first `count` < LANES elements, the rest `fill`. */
static inline vf load_part(const float *x, size_t count, float fill)
{
    vf v = splat(fill);
    memcpy(&v, x, count * sizeof *x);
    return v;
}

/* The last `part` < LANES of `count` elements, zeros elsewhere; where there are enough elements without a byte-wise copy. */
static inline vf load_last(const float *x, size_t count, size_t part)
{
    static const int32_t window[32] = {0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,
                                       -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
    if (count < LANES) {
        return load_part(x, count, 0.0f);
    }
    vi mask;
    memcpy(&mask, window + 16 - LANES + part, sizeof mask);
    return (vf)((vi)load(x + count - LANES) & mask);
}

static inline vf choose(vi mask, vf yes, vf no)
{
    return (vf)((mask & (vi)yes) | (~mask & (vi)no));
}

/* The larger, the smaller; b where either is NaN. */
static inline vf vmax(vf a, vf b)
{
#if LANES == 16
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif LANES == 8
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return choose(a > b, a, b);
#endif
}

static inline vf vmin(vf a, vf b)
{
#if LANES == 16
    return (vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif LANES == 8
    return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return choose(a < b, a, b);
#endif
}

static inline vf vabs(vf a)
{
    return (vf)((vi)a & 0x7fffffff);
}

/* Lanes added by halving, down to four. */
static inline v4 fold(vf v)
{
    v4 parts[LANES / 4];
    memcpy(parts, &v, sizeof parts);
    for (size_t width = LANES / 8; width > 0; width /= 2) {
        for (size_t i = 0; i < width; i++) {
            parts[i] += parts[i + width];
        }
    }
    return parts[0];
}

static inline float sum_lanes(vf v)
{
    v4 f = fold(v);
    return (f[0] + f[2]) + (f[1] + f[3]);
}

/* sum_lanes of four vectors at once, by a transposition: the same additions. */
static inline v4 sum_lanes_of_four(const vf *v)
{
    v4 a = fold(v[0]), b = fold(v[1]), c = fold(v[2]), d = fold(v[3]);
    v4 ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5),
       ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    v4 cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5),
       cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    v4 ab = ab_low + ab_high, cd = cd_low + cd_high; /* (0 + 2 of a, of b, 1 + 3 of a, of b) */
    return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}

static inline v4 max_of_four(v4 a, v4 b)
{
#if defined(__SSE2__)
    return (v4)_mm_max_ps((__m128)a, (__m128)b);
#else
    v4 larger;
    for (size_t i = 0; i < 4; i++) {
        larger[i] = a[i] > b[i] ? a[i] : b[i];
    }
    return larger;
#endif
}

static inline float max_lanes(vf v)
{
    v4 parts[LANES / 4];
    memcpy(parts, &v, sizeof parts);
    for (size_t width = LANES / 8; width > 0; width /= 2) {
        for (size_t i = 0; i < width; i++) {
            parts[i] = max_of_four(parts[i], parts[i + width]);
        }
    }
    v4 two = max_of_four(parts[0], __builtin_shufflevector(parts[0], parts[0], 2, 3, 0, 1));
    return max_of_four(two, __builtin_shufflevector(two, two, 1, 0, 3, 2))[0];
}

/* x = n ln 2 + r, |r| <= ln 2 / 2; n as a float and as 2^n. */
struct reduced {
    vf r, power;
};
static inline struct reduced reduce(vf x)
{
    vf shifted = x * LOG2_E + ROUNDER;
    vf n = shifted - ROUNDER;
    vf r = x - n * LN2_HIGH;
    return (struct reduced){r - n * LN2_LOW, (vf)(((vu)shifted << 23) + 0x3f800000u)};
}

/* e^r - 1 for a reduced r: r + r^2 q(r), q fitted to 3e-9 of e^r. */
static inline vf reduced_expm1(vf r)
{
    vf p = r * 0x1.6a2352p-10f + 0x1.123a6cp-7f;
    p = p * r + 0x1.5558f4p-5f;
    p = p * r + 0x1.55549p-3f;
    p = p * r + 0x1.fffffcp-2f;
    return p * (r * r) + r;
}

/* e^x; 0 below -87, e^88 above 88, NaN stays NaN. */
static inline vf vexp(vf x)
{
    vf bounded = vmax(splat(-87.0f), vmin(splat(88.0f), x));
    struct reduced reduced = reduce(bounded);
    vf value = reduced_expm1(reduced.r) * reduced.power + reduced.power;
    return choose(x < -87.0f, splat(0.0f), value);
}

/* 2^x for x <= 0, and 2^-126 where that is less: 2^n times a polynomial of the rest, fitted to 2e-9. NaN stays NaN. */
static inline vf vexp2(vf x)
{
    x = vmax(splat(-126.0f), x);
#if LANES == 16
    vf n = (vf)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    vf shifted = x + ROUNDER;
    vf n = shifted - ROUNDER;
#endif
    vf f = x - n;
    vf p = f * 0x1.41d334p-13f + 0x1.5f456ap-10f;
    p = p * f + 0x1.3b2dbcp-7f;
    p = p * f + 0x1.c6aed4p-5f;
    p = p * f + 0x1.ebfbdap-3f;
    p = p * f + 0x1.62e43p-1f;
    p = p * f + 1.0f;
#if LANES == 16
    return (vf)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
    return p * (vf)(((vu)shifted << 23) + 0x3f800000u);
#endif
}

/* (1 + erf(x / sqrt 2)) / 2, small values with all their digits: e^-z^2 times a polynomial of t = 1 / (1 + z / 2), z = |x| / sqrt 2,
 * fitted to 5e-8 of erfc up to z = 9.6, where erfc leaves fp32. */
static inline vf vnormal(vf x)
{
    vf z = vmin(splat(9.6f), vabs(x) * 0x1.6a09e6p-1f);
    vf t = 1.0f / (1.0f + 0.5f * z);
    vf p = t * -0x1.e2c41p-5f + 0x1.22b6fap-2f;
    p = p * t + -0x1.f1752ap-2f;
    p = p * t + 0x1.1b1746p-2f;
    p = p * t + -0x1.a1f25ep-6f;
    p = p * t + 0x1.9e2112p-3f;
    p = p * t + 0x1.f21fdap-3f;
    p = p * t + 0x1.212298p-2f;
    p = p * t + 0x1.20db84p-2f;
    vf half = 0.5f * (p * t) * vexp(-(x * x) * 0.5f);
    return choose(x < 0.0f, half, 1.0f - half);
}

/* e^x - 1 for -80 <= x <= 0, small x included. */
static inline vf vexpm1(vf x)
{
    struct reduced reduced = reduce(x);
    return reduced_expm1(reduced.r) * reduced.power + (reduced.power - 1.0f);
}

/* By e^-2|x| - 1, so that small x keep their digits. */
static inline vf vtanh(vf x)
{
    vf size = vabs(x);
    size = choose(size < 20.0f, size, splat(20.0f));
    vf e = vexpm1(-2.0f * size), t = -e / (2.0f + e);
    t = choose(x == x, t, x);
    return (vf)((vi)t | ((vi)x & (vi)splat(-0.0f)));
}

/* log(1 + y) for y >= -0.75, small y included: the log of the rounded sum, put right by what rounding lost.
 */
static inline vf vlog1p(vf y)
{
    vf w = 1.0f + y;
    vf lost = (y - (w - 1.0f)) / w;
    vi bits = (vi)w - 0x3f3504f3; /* sqrt(1/2): mantissas come to [sqrt 1/2, sqrt 2) */
    vi exponent = bits >> 23;
    vf m = (vf)((bits & 0x7fffff) + 0x3f3504f3);
    vf f = m - 1.0f;
    vf s = f / (2.0f + f);
    vf z = s * s;
    vf p = z * (1.0f / 9) + 1.0f / 7;
    p = p * z + 1.0f / 5;
    p = p * z + 1.0f / 3;
    vf log_m = 2.0f * s + 2.0f * s * (p * z);
    vf n = __builtin_convertvector(exponent, vf);
    return n * LN2_HIGH + (log_m + (n * LN2_LOW + lost));
}

#endif
