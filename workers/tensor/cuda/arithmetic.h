/*
 * workers/tensor/cuda/arithmetic.h: the formulas of the row kernels, element by element, for the device and for the
 * host: a unit test compiles this file as plain C and compares it with `reference`, so that the arithmetic is checked
 * where there is no GPU.
 *
 * The forms are those of reference.c whose every term is non-negative. Divergences and angles are double throughout;
 * what goes into the residual stream is fp32 with an error of at most a few units in the last place.
 */
#ifndef WORKERS_TENSOR_CUDA_ARITHMETIC_H
#define WORKERS_TENSOR_CUDA_ARITHMETIC_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __CUDACC__
#define ROW_FUNCTION static inline __host__ __device__
#else
#define ROW_FUNCTION static inline
#endif

/* The kinds of backend.h, in its order (cuda_operations.c asserts it). */
enum row_activation { ROW_SILU, ROW_GELU, ROW_GELU_TANH, ROW_RELU };
enum row_distance { ROW_SQUARES, ROW_ANGULAR, ROW_KL, ROW_JS, ROW_JS_TEXTBOOK };

/* As struct head_scan, member for member (cuda_operations.c asserts it). */
struct row_scan {
    float max;
    double sum;
    size_t index;
};

/* a * c - b * s, within 1.5 units in the last place of the result: the error of the second product is added back. */
ROW_FUNCTION float row_difference_of_products(float a, float c, float b, float s)
{
    float product = b * s;
    float lost = fmaf(-b, s, product);
    return fmaf(a, c, -product) + lost;
}

/* The pair (a, b) turned by the angle whose cosine and sine are given. */
ROW_FUNCTION void row_turn(float *a, float *b, float cosine, float sine)
{
    float turned = row_difference_of_products(*a, cosine, *b, sine);
    *b = row_difference_of_products(*b, cosine, -*a, sine);
    *a = turned;
}

/* 1 / (1 + e^-u). What fp32 leaves of u is made good, because it would come out of the exponential u times larger. */
ROW_FUNCTION float row_logistic(double u)
{
    if (u < -87.0) {
        return 0.0f;
    }
    float high = (float)u, rest = (float)(u - (double)high), power = expf(-high);
    return 1.0f / (1.0f + fmaf(-rest, power, power));
}

/* x / (1 + e^-x) and its kin; NaN stays NaN, so that the sum that follows finds it. */
ROW_FUNCTION float row_activate(enum row_activation kind, float x)
{
    switch (kind) {
    case ROW_SILU:
        return x / (1.0f + expf(-x));
    case ROW_GELU: /* erfc keeps the digits that 1 + erf loses on the left */
        return 0.5f * x * erfcf(x * -0.70710678118654752f);
    case ROW_GELU_TANH: /* 1/2 (1 + tanh u) = 1 / (1 + e^-2u) */
        return x *
               row_logistic((double)x * (1.5957691216057308 + 0.071354816272600237 * (double)x * (double)x));
    case ROW_RELU:
        break;
    }
    return x < 0.0f ? 0.0f : x;
}

ROW_FUNCTION float row_softcap(float x, float cap)
{
    return cap * tanhf(x / cap);
}

/* Whether (value, index) goes before (other, other_index): the larger, at equal values the lower index. */
ROW_FUNCTION bool row_goes_before(float value, size_t index, float other, size_t other_index)
{
    return value > other || (value == other && index < other_index);
}

/* next: of later columns. As head_scan_merge. */
ROW_FUNCTION void row_scan_merge(struct row_scan *into, const struct row_scan *next)
{
    if (next->max == -INFINITY) {
        return;
    }
    if (next->max > into->max) {
        into->sum = into->sum * exp((double)into->max - (double)next->max) + next->sum;
        into->max = next->max;
        into->index = next->index;
        return;
    }
    into->sum += next->sum * exp((double)next->max - (double)into->max);
}

ROW_FUNCTION double row_log_cosh(double x)
{
    double size = fabs(x);
    if (size >= 20.0) {
        return size - 0.69314718055994531;
    }
    double s = sinh(x);
    return 0.5 * log1p(s * s);
}

/* One column's share of a divergence, from log p and log q; at least 0 up to rounding. */
ROW_FUNCTION double row_divergence(enum row_distance kind, double log_p, double log_q)
{
    double u = log_p - log_q, size = fabs(u);
    double p = exp(log_p), q = exp(log_q);
    if (kind == ROW_KL) { /* P (u - 1 + e^-u) */
        if (size < 1e-3) {
            return p * u * u * (0.5 - u * (1.0 / 6.0 - u * (1.0 / 24.0)));
        }
        return size < 30.0 ? p * (u + expm1(-u)) : p * u + (q - p);
    }
    double m = 0.5 * (p + q), apart = row_log_cosh(0.5 * u);
    if (kind == ROW_JS) {
        return m * apart;
    }
    return m * (0.5 * u * tanh(0.5 * u) - apart);
}

/* The angle between two vectors of length 1 from |a - b|^2 and |a + b|^2; it ends at pi/2. */
ROW_FUNCTION double row_angle(double apart, double along)
{
    double angle = 2.0 * atan2(sqrt(apart), sqrt(along));
    return angle < 1.5707963267948966 || angle != angle ? angle : 1.5707963267948966;
}

/* Mixture of experts, one row: softmax over all, the `active` largest in falling order, ties to the lower index. */
ROW_FUNCTION void row_route(const float *logits, size_t experts, size_t active, bool is_normalised,
                            int32_t *ret_experts, float *ret_weights)
{
    float max = logits[0];
    for (size_t e = 1; e < experts; e++) {
        max = logits[e] > max ? logits[e] : max;
    }
    double sum = 0.0;
    for (size_t e = 0; e < experts; e++) {
        sum += exp((double)logits[e] - (double)max);
    }
    double chosen_sum = 0.0;
    float last = INFINITY;
    size_t last_index = 0;
    for (size_t a = 0; a < active; a++) {
        /* The first of those that come after the last chosen in the order (falling value, rising index). */
        size_t best = experts;
        for (size_t e = 0; e < experts; e++) {
            bool is_after = a == 0 || row_goes_before(last, last_index, logits[e], e);
            if (is_after && (best == experts || row_goes_before(logits[e], e, logits[best], best))) {
                best = e;
            }
        }
        best = best < experts ? best : a; /* NaN among the logits: any valid expert; the weight is NaN */
        last = logits[best];
        last_index = best;
        double share = exp((double)logits[best] - (double)max) / sum;
        ret_experts[a] = (int32_t)best;
        ret_weights[a] = (float)share;
        chosen_sum += share;
    }
    if (is_normalised) {
        for (size_t a = 0; a < active; a++) {
            ret_weights[a] = (float)(exp((double)logits[ret_experts[a]] - (double)max) / sum / chosen_sum);
        }
    }
}

#endif
