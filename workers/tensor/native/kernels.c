/*
 * workers/tensor/native/kernels.c: operations on single rows, compiled once per instruction set. Long non-negative sums
 * (divergences, squares) go to double every CHUNK elements; vector.h says how sums are ordered.
 */
#include "workers/tensor/native/native.h"
#include "workers/tensor/native/vector.h"

#define CHUNK 512

/* ---- rows -------------------------------------------------------------------------------------------------------- */

static double squares(size_t count, const float *x)
{
    double total = 0.0;
    for (size_t start = 0; start < count; start += CHUNK) {
        size_t end = count - start < CHUNK ? count : start + CHUNK, i = start;
        vf sum = splat(0.0f);
        for (; i + LANES <= end; i += LANES) {
            vf v = load(x + i);
            sum += v * v;
        }
        if (i < end) {
            vf v = load_part(x + i, end - i, 0.0f);
            sum += v * v;
        }
        total += (double)sum_lanes(sum);
    }
    return total;
}

static double sum_of(size_t count, const float *x)
{
    double total = 0.0;
    for (size_t start = 0; start < count; start += CHUNK) {
        size_t end = count - start < CHUNK ? count : start + CHUNK, i = start;
        vf sum = splat(0.0f);
        for (; i + LANES <= end; i += LANES) {
            sum += load(x + i);
        }
        if (i < end) {
            sum += load_part(x + i, end - i, 0.0f);
        }
        total += (double)sum_lanes(sum);
    }
    return total;
}

/* sum (x - mean)^2, the mean as a float and what is left of it, so that a large mean costs no digits. */
static double squares_around(size_t count, const float *x, double mean)
{
    double total = 0.0;
    float high = (float)mean, low = (float)(mean - (double)high);
    for (size_t start = 0; start < count; start += CHUNK) {
        size_t end = count - start < CHUNK ? count : start + CHUNK, i = start;
        vf sum = splat(0.0f);
        for (; i + LANES <= end; i += LANES) {
            vf v = (load(x + i) - high) - low;
            sum += v * v;
        }
        if (i < end) {
            vf v = (load_part(x + i, end - i, high) - high) - low, kept = splat(0.0f);
            memcpy(&kept, &v, (end - i) * sizeof *x);
            sum += kept * kept;
        }
        total += (double)sum_lanes(sum);
    }
    return total;
}

static void rms_group(const struct norm *job, const float *x, float *out)
{
    float factor = (float)(1.0 / sqrt(squares(job->size, x) / (double)job->size + (double)job->epsilon));
    for (size_t i = 0; i < job->size; i++) {
        out[i] = x[i] * factor * job->weight[i];
    }
    for (size_t i = 0; i < job->size && job->bias != NULL; i++) {
        out[i] += job->bias[i];
    }
}

static void layer_group(const struct norm *job, const float *x, float *out)
{
    double size = (double)job->size, mean = sum_of(job->size, x) / size;
    double variance = squares_around(job->size, x, mean) / size;
    float factor = (float)(1.0 / sqrt(variance + (double)job->epsilon));
    float high = (float)mean, low = (float)(mean - (double)high);
    for (size_t i = 0; i < job->size; i++) {
        float value = ((x[i] - high) - low) * factor * job->weight[i];
        out[i] = job->bias != NULL ? value + job->bias[i] : value;
    }
}

static void norm(const struct norm *job, size_t first_row, size_t row_count)
{
    for (size_t r = first_row; r < first_row + row_count; r++) {
        for (size_t g = 0; g < job->groups; g++) {
            const float *x = job->x + r * job->x_stride + g * job->size;
            float *out = job->out + r * job->out_stride + g * job->size;
            if (job->kind == NORM_RMS) {
                rms_group(job, x, out);
            } else {
                layer_group(job, x, out);
            }
        }
    }
}

static void rope(size_t heads, size_t head_size, size_t rotary_size, const float *cosines, const float *sines,
                 float *x)
{
    size_t half = rotary_size / 2;
    for (size_t h = 0; h < heads; h++) {
        float *low = x + h * head_size, *high = low + half;
        for (size_t i = 0; i < half; i++) {
            float a = low[i], b = high[i];
            low[i] = a * cosines[i] - b * sines[i];
            high[i] = b * cosines[i] + a * sines[i];
        }
    }
}

static ALWAYS_INLINE vf activation(enum activation kind, vf x)
{
    switch (kind) {
    case ACTIVATION_SILU:
        return x / (1.0f + vexp(-x));
    case ACTIVATION_GELU:
        return x * vnormal(x);
    case ACTIVATION_GELU_TANH: { /* 1 + tanh(y) = 2 / (1 + e^-2y) */
        vf y = x * (1.0f + 0.044715f * x * x);
        return x / (1.0f + vexp(-1.5957691216057308f * y));
    }
    case ACTIVATION_RELU:
        break;
    }
    return choose(x < 0.0f, splat(0.0f), x);
}

static ALWAYS_INLINE void activate_row(enum activation kind, size_t count, float *x, const float *up)
{
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        vf y = activation(kind, load(x + i));
        store(x + i, up != NULL ? y * load(up + i) : y);
    }
    if (i < count) {
        vf y = activation(kind, load_part(x + i, count - i, 0.0f));
        y = up != NULL ? y * load_part(up + i, count - i, 0.0f) : y;
        memcpy(x + i, &y, (count - i) * sizeof *x);
    }
}

static void activate(const struct activate *job, size_t first_row, size_t row_count)
{
    for (size_t r = first_row; r < first_row + row_count; r++) {
        float *x = job->x + r * job->stride;
        const float *up = job->up != NULL ? job->up + r * job->stride : NULL;
        switch (job->kind) {
        case ACTIVATION_SILU:
            activate_row(ACTIVATION_SILU, job->count, x, up);
            break;
        case ACTIVATION_GELU:
            activate_row(ACTIVATION_GELU, job->count, x, up);
            break;
        case ACTIVATION_GELU_TANH:
            activate_row(ACTIVATION_GELU_TANH, job->count, x, up);
            break;
        case ACTIVATION_RELU:
            activate_row(ACTIVATION_RELU, job->count, x, up);
            break;
        }
    }
}

static bool add(size_t count, float *to, const float *from, float factor)
{
    vi worst = {0};
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        vf sum = multiply_add(splat(factor), load(from + i), load(to + i));
        store(to + i, sum);
        worst |= ((vi)sum & 0x7f800000) == 0x7f800000;
    }
    if (i < count) {
        vf sum = multiply_add(splat(factor), load_part(from + i, count - i, 0.0f),
                              load_part(to + i, count - i, 0.0f));
        memcpy(to + i, &sum, (count - i) * sizeof *to);
        worst |= ((vi)sum & 0x7f800000) == 0x7f800000;
    }
    int32_t lanes[LANES], any = 0;
    memcpy(lanes, &worst, sizeof worst);
    for (size_t l = 0; l < LANES; l++) {
        any |= lanes[l];
    }
    return any == 0;
}

static void softcap(size_t count, float *x, float cap)
{
    float inverse = 1.0f / cap;
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        store(x + i, cap * vtanh(load(x + i) * inverse));
    }
    if (i < count) {
        vf y = cap * vtanh(load_part(x + i, count - i, 0.0f) * inverse);
        memcpy(x + i, &y, (count - i) * sizeof *x);
    }
}

static inline float max_of(size_t count, const float *x)
{
    vf max = splat(-INFINITY);
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        max = vmax(max, load(x + i));
    }
    if (i < count) {
        max = vmax(max, load_part(x + i, count - i, -INFINITY));
    }
    return max_lanes(max);
}

/* ---- head ------------------------------------------------------------------------------------ */

static size_t first_index_of(size_t count, const float *x, float value)
{
    for (size_t i = 0; i < count; i++) {
        if (x[i] == value) {
            return i;
        }
    }
    return 0;
}

static void scan(size_t count, const float *logits, size_t first, struct head_scan *state)
{
    for (size_t start = 0; start < count; start += CHUNK) {
        size_t length = count - start < CHUNK ? count - start : CHUNK, i = 0;
        const float *x = logits + start;
        struct head_scan piece = {.max = max_of(length, x)};
        vf max = splat(piece.max), sum = splat(0.0f);
        for (; i + LANES <= length; i += LANES) {
            sum += vexp(load(x + i) - max);
        }
        if (i < length) {
            sum += vexp(load_part(x + i, length - i, -INFINITY) - max);
        }
        piece.sum = (double)sum_lanes(sum);
        if (piece.max > state->max) {
            piece.index = first + start + first_index_of(length, x, piece.max);
        }
        head_scan_merge(state, &piece);
    }
}

/* log cosh(u / 2) / u^2 and (u / 2 tanh(u / 2) - log cosh(u / 2)) / u^2 as polynomials of y = u^2 <= 4, fitted to 1e-8. */
static inline vf log_cosh_series(vf y)
{
    vf p = y * 0x1.6b1b22p-28f - 0x1.239f72p-23f;
    p = p * y + 0x1.10483ap-19f;
    p = p * y - 0x1.b7c67ap-16f;
    p = p * y + 0x1.6bff12p-12f;
    p = p * y - 0x1.5554fap-8f;
    return p * y + 0.125f;
}

static inline vf textbook_series(vf y)
{
    vf p = y * -0x1.556a08p-28f + 0x1.130e7ap-23f;
    p = p * y - 0x1.d9ab08p-20f;
    p = p * y + 0x1.3c26bp-16f;
    p = p * y - 0x1.8213cp-13f;
    p = p * y + 0x1.c7107ap-10f;
    p = p * y - 0x1.ffffb8p-7f;
    return p * y + 0.125f;
}

/* log(1 + r), 0 <= r <= e^-2. */
static inline vf log1p_small(vf r)
{
    vf p = r * -0x1.e9ec14p-4f + 0x1.8bf69cp-3f;
    p = p * r - 0x1.ff13c4p-3f;
    p = p * r + 0x1.5551aap-2f;
    p = p * r - 0x1.fffff6p-2f;
    return (p * r + 1.0f) * r;
}

/* Terms of the sums explained in reference.c. Padding lanes hold equal logits far below: every term is 0. */
static inline vf divergence_terms(enum distance_kind kind, vf log_p, vf log_q)
{
    vf u = log_p - log_q;
    if (kind == DISTANCE_KL) {
        vf p = vexp(log_p), q = vexp(log_q);
        vf series = u * (-1.0f / 5040) + 1.0f / 720;
        series = series * u - 1.0f / 120;
        series = series * u + 1.0f / 24;
        series = series * u - 1.0f / 6;
        series = series * u + 0.5f;
        return choose(vabs(u) < 0.25f, p * (u * u) * series, p * u + (q - p));
    }
    /* The larger of p and q, and r = smaller / larger = e^-|u|: m = larger (1 + r) / 2, and for |u| that is not small
     * log cosh(u / 2) = |u| / 2 + log(1 + r) - log 2. */
    vf size = vabs(u), r = vexp(-size), y = u * u;
    vf m = vexp(vmax(log_p, log_q)) * (0.5f + 0.5f * r);
    vf log_cosh = 0.5f * size + (log1p_small(r) - 0x1.62e43p-1f);
    if (kind == DISTANCE_JS) {
        return m * choose(size < 2.0f, y * log_cosh_series(y), log_cosh);
    }
    vf t = (1.0f - r) / (1.0f + r); /* tanh(|u| / 2) */
    return m * choose(size < 2.0f, y * textbook_series(y), 0.5f * size * t - log_cosh);
}

static inline vf terms_of(enum distance_kind kind, const struct distance_row *row, vf a, vf b)
{
    if (kind == DISTANCE_SQUARES) {
        return (a - b) * (a - b);
    }
    return divergence_terms(kind, a - (float)row->original_scale, b - (float)row->candidate_scale);
}

static ALWAYS_INLINE double sum_terms(enum distance_kind kind, const struct distance_row *row)
{
    double total = 0.0;
    for (size_t start = 0; start < row->count; start += CHUNK) {
        size_t end = row->count - start < CHUNK ? row->count : start + CHUNK, i = start;
        vf sum = splat(0.0f);
        for (; i + LANES <= end; i += LANES) {
            sum += terms_of(kind, row, load(row->original + i), load(row->candidate + i));
        }
        if (i < end) {
            vf a = load_part(row->original + i, end - i, 0.0f),
               b = load_part(row->candidate + i, end - i, 0.0f);
            vf terms = terms_of(kind, row, a, b), kept = splat(0.0f);
            memcpy(&kept, &terms, (end - i) * sizeof *row->original);
            sum += kept;
        }
        total += (double)sum_lanes(sum);
    }
    return total;
}

/* A product that is rounded before it is used: contracted into a subtraction, equal rows would differ by what rounding lost. */
static inline vf rounded(vf product)
{
    __asm__("" : "+m"(product));
    return product;
}

static double angle(const struct distance_row *row)
{
    float a_factor = (float)(1.0 / row->original_scale), b_factor = (float)(1.0 / row->candidate_scale);
    double apart = 0.0, along = 0.0;
    for (size_t start = 0; start < row->count; start += CHUNK) {
        size_t end = row->count - start < CHUNK ? row->count : start + CHUNK, i = start;
        vf minus = splat(0.0f), plus = splat(0.0f);
        for (; i < end; i += LANES) {
            bool is_whole = i + LANES <= end;
            vf a = is_whole ? load(row->original + i) : load_part(row->original + i, end - i, 0.0f);
            vf b = is_whole ? load(row->candidate + i) : load_part(row->candidate + i, end - i, 0.0f);
            a = rounded(a * a_factor);
            b = rounded(b * b_factor);
            minus += (a - b) * (a - b);
            plus += (a + b) * (a + b);
        }
        apart += (double)sum_lanes(minus);
        along += (double)sum_lanes(plus);
    }
    double angle = 2.0 * atan2(sqrt(apart), sqrt(along)), right = 0x1.921fb54442d18p+0;
    return angle > right ? right : angle; /* NaN stays NaN, and is told */
}

static double distance(const struct distance_row *row)
{
    switch (row->kind) {
    case DISTANCE_SQUARES:
        return sum_terms(DISTANCE_SQUARES, row);
    case DISTANCE_ANGULAR:
        return angle(row);
    case DISTANCE_KL:
        return sum_terms(DISTANCE_KL, row);
    case DISTANCE_JS:
        return sum_terms(DISTANCE_JS, row);
    case DISTANCE_JS_TEXTBOOK:
        break;
    }
    return sum_terms(DISTANCE_JS_TEXTBOOK, row);
}

static void to_bf16(size_t count, const float *x, uint16_t *to)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
        to[i] = (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u : rounded);
    }
}

void NATIVE_NAME(native_rows)(struct kernels *kernels)
{
    kernels->norm = norm;
    kernels->rope = rope;
    kernels->activate = activate;
    kernels->add = add;
    kernels->softcap = softcap;
    kernels->scan = scan;
    kernels->squares = squares;
    kernels->distance = distance;
    kernels->to_bf16 = to_bf16;
}
