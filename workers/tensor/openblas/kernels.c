/*
 * workers/tensor/openblas/kernels.c: row kernels in C with vector types, compiled once per instruction set
 * (KERNELS names the table, LANES the floats of a vector).
 *
 * Every sum has an order fixed by its length alone: lane l of the accumulator takes elements l, l + LANES,
 * ...; a last partial vector is padded with zeros (or with what leaves the result alone); lanes are then
 * added by halving. Blocking over rows or columns only decides which accumulators are alive at once, never
 * the order inside one.
 *
 * exp, expm1 and log1p are our own: reduction by powers of two, then the Taylor or atanh series, cut where
 * the rest is under 1e-8 of the value on the reduced range. They are good to about 2 units in the last place.
 *
 * Long non-negative sums (divergences, squares) go to double every CHUNK elements.
 */
#include "workers/tensor/openblas/kernels.h"

#if LANES > 4
#include <immintrin.h>
#endif
#include <math.h>
#include <string.h>

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef float v4 __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));

#define CHUNK    512
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

static inline vf vmax(vf a, vf b)
{
    return choose(a > b, a, b);
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

static inline float max_lanes(vf v)
{
    float lanes[LANES];
    store(lanes, v);
    for (size_t width = LANES / 2; width > 0; width /= 2) {
        for (size_t i = 0; i < width; i++) {
            lanes[i] = lanes[i] > lanes[i + width] ? lanes[i] : lanes[i + width];
        }
    }
    return lanes[0];
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

/* (e^r - 1) for a reduced r. */
static inline vf taylor_expm1(vf r)
{
    vf p = r * (1.0f / 5040) + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    return p * (r * r) + r;
}

/* e^x; 0 below -87, infinity above 88.3 is not reached by callers. */
static inline vf vexp(vf x)
{
    vf bounded = vmax(splat(-87.0f), x);
    bounded = choose(bounded < 88.0f, bounded, splat(88.0f));
    struct reduced reduced = reduce(bounded);
    vf value = taylor_expm1(reduced.r) * reduced.power + reduced.power;
    return choose(x < -87.0f, splat(0.0f), value);
}

/* e^x - 1 for -80 <= x <= 0, small x included. */
static inline vf vexpm1(vf x)
{
    struct reduced reduced = reduce(x);
    return taylor_expm1(reduced.r) * reduced.power + (reduced.power - 1.0f);
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

/* ---- matmul of few rows ---------------------------------------------------------------------- */

#define BLOCK_COLUMNS 4

/* ROWS x COLUMNS dot products at once; each in its own accumulator. */
static inline __attribute__((always_inline)) void dot_block(const struct matmul *job, size_t row,
                                                            size_t column, size_t rows, size_t columns)
{
    const float *x = job->x + row * job->x_stride, *w = job->w + column * job->w_stride;
    vf sums[4][BLOCK_COLUMNS];
    memset(sums, 0, sizeof sums);
    size_t k = job->k, whole = k - k % LANES;
    for (size_t j = 0; j < whole; j += LANES) {
        vf b[BLOCK_COLUMNS];
        for (size_t c = 0; c < columns; c++) {
            b[c] = load(w + c * job->w_stride + j);
        }
        for (size_t r = 0; r < rows; r++) {
            vf a = load(x + r * job->x_stride + j);
            for (size_t c = 0; c < columns; c++) {
                sums[r][c] = multiply_add(a, b[c], sums[r][c]);
            }
        }
    }
    if (whole < k) {
        vf b[BLOCK_COLUMNS];
        for (size_t c = 0; c < columns; c++) {
            b[c] = load_last(w + c * job->w_stride, k, k - whole);
        }
        for (size_t r = 0; r < rows; r++) {
            vf a = load_last(x + r * job->x_stride, k, k - whole);
            for (size_t c = 0; c < columns; c++) {
                sums[r][c] = multiply_add(a, b[c], sums[r][c]);
            }
        }
    }
    for (size_t r = 0; r < rows; r++) {
        float *out = job->out + (row + r) * job->out_stride + column;
        if (columns == BLOCK_COLUMNS) {
            v4 four = sum_lanes_of_four(sums[r]), bias = {0};
            memcpy(&bias, job->bias != NULL ? job->bias + column : (const float *)&bias, sizeof bias);
            four += bias;
            memcpy(out, &four, sizeof four);
        } else {
            out[0] = sum_lanes(sums[r][0]) + (job->bias != NULL ? job->bias[column] : 0.0f);
        }
    }
}

static inline __attribute__((always_inline)) void dot_columns(const struct matmul *job, size_t column,
                                                              size_t columns)
{
    size_t row = 0;
    for (; row + 4 <= job->rows; row += 4) {
        dot_block(job, row, column, 4, columns);
    }
    for (; row + 2 <= job->rows; row += 2) {
        dot_block(job, row, column, 2, columns);
    }
    if (row < job->rows) {
        dot_block(job, row, column, 1, columns);
    }
}

static void rows_matmul(const struct matmul *job)
{
    size_t column = 0;
    for (; column + BLOCK_COLUMNS <= job->n; column += BLOCK_COLUMNS) {
        dot_columns(job, column, BLOCK_COLUMNS);
    }
    for (; column < job->n; column++) {
        dot_columns(job, column, 1);
    }
}

/* ---- rows -------------------------------------------------------------------------------------------------
 */

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

static void rmsnorm(size_t rows, size_t size, const float *x, size_t x_stride, const float *w, float epsilon,
                    float *out, size_t out_stride)
{
    for (size_t r = 0; r < rows; r++) {
        const float *in = x + r * x_stride;
        float *to = out + r * out_stride;
        float factor = (float)(1.0 / sqrt(squares(size, in) / (double)size + (double)epsilon));
        for (size_t i = 0; i < size; i++) {
            to[i] = in[i] * factor * w[i];
        }
    }
}

static void rope(size_t rows, size_t heads, size_t head_size, const float *cosines, const float *sines,
                 float *x, size_t stride)
{
    size_t half = head_size / 2;
    for (size_t r = 0; r < rows; r++) {
        const float *c = cosines + r * half, *s = sines + r * half;
        for (size_t h = 0; h < heads; h++) {
            float *low = x + r * stride + h * head_size, *high = low + half;
            for (size_t i = 0; i < half; i++) {
                float a = low[i], b = high[i];
                low[i] = a * c[i] - b * s[i];
                high[i] = b * c[i] + a * s[i];
            }
        }
    }
}

static void silu_mul(size_t rows, size_t count, float *gate, const float *up, size_t stride)
{
    for (size_t r = 0; r < rows; r++) {
        float *g = gate + r * stride;
        const float *u = up + r * stride;
        size_t i = 0;
        for (; i + LANES <= count; i += LANES) {
            vf x = load(g + i);
            store(g + i, x / (1.0f + vexp(-x)) * load(u + i));
        }
        if (i < count) {
            vf x = load_part(g + i, count - i, 0.0f);
            vf y = x / (1.0f + vexp(-x)) * load_part(u + i, count - i, 0.0f);
            memcpy(g + i, &y, (count - i) * sizeof *g);
        }
    }
}

static bool add(size_t count, float *to, const float *from)
{
    vi worst = {0};
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        vf sum = load(to + i) + load(from + i);
        store(to + i, sum);
        worst |= ((vi)sum & 0x7f800000) == 0x7f800000;
    }
    bool is_sound = true;
    for (; i < count; i++) {
        to[i] += from[i];
        is_sound = is_sound && isfinite(to[i]);
    }
    int32_t lanes[LANES];
    memcpy(lanes, &worst, sizeof worst);
    for (size_t l = 0; l < LANES; l++) {
        is_sound = is_sound && lanes[l] == 0;
    }
    return is_sound;
}

static void scale(size_t count, float *x, float factor)
{
    for (size_t i = 0; i < count; i++) {
        x[i] *= factor;
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

static float softmax(size_t count, float *scores, float factor)
{
    vf max = splat(max_of(count, scores)), sum = splat(0.0f);
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        vf e = vexp((load(scores + i) - max) * factor);
        store(scores + i, e);
        sum += e;
    }
    if (i < count) {
        vf e = vexp((load_part(scores + i, count - i, -INFINITY) - max) * factor);
        memcpy(scores + i, &e, (count - i) * sizeof *scores);
        sum += e;
    }
    return sum_lanes(sum);
}

/* ---- decoding -------------------------------------------------------------------------------- */

static void mix_values(const struct attention_row *job, size_t head, float sum)
{
    const float *values = job->values + head / job->heads_per_kv * job->head_size;
    float *out = job->out + head * job->head_size;
    size_t i = 0, size = job->head_size;
    for (; i + LANES <= size; i += LANES) {
        vf mix = splat(0.0f);
        for (size_t t = 0; t < job->count; t++) {
            mix += job->scratch[t] * load(values + t * job->stride + i);
        }
        store(out + i, mix / sum);
    }
    for (; i < size; i++) {
        float mix = 0.0f;
        for (size_t t = 0; t < job->count; t++) {
            mix += job->scratch[t] * values[t * job->stride + i];
        }
        out[i] = mix / sum;
    }
}

static void attention_row(const struct attention_row *job)
{
    float factor = (float)(1.0 / sqrt((double)job->head_size));
    for (size_t h = 0; h < job->head_count; h++) {
        const float *keys = job->keys + h / job->heads_per_kv * job->head_size;
        struct matmul scores = {.rows = 1,
                                .n = job->count,
                                .k = job->head_size,
                                .x = job->q + h * job->head_size,
                                .w = keys,
                                .out = job->scratch,
                                .x_stride = job->head_size,
                                .w_stride = job->stride,
                                .out_stride = job->count};
        rows_matmul(&scores);
        mix_values(job, h, softmax(job->count, job->scratch, factor));
    }
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

/* Terms of the sums explained in reference.c. Padding lanes hold equal logits far below: every term is 0. */
static inline vf divergence_terms(enum distance_kind kind, vf log_p, vf log_q)
{
    vf u = log_p - log_q, p = vexp(log_p), q = vexp(log_q);
    if (kind == DISTANCE_KL) {
        vf series = u * (-1.0f / 5040) + 1.0f / 720;
        series = series * u - 1.0f / 120;
        series = series * u + 1.0f / 24;
        series = series * u - 1.0f / 6;
        series = series * u + 0.5f;
        return choose(vabs(u) < 0.25f, p * (u * u) * series, p * u + (q - p));
    }
    vf m = 0.5f * (p + q), size = vabs(u);
    vf bounded = choose(size < 80.0f, size, splat(80.0f));
    vf e = vexpm1(-bounded); /* E - 1, E = e^-|u|; 1 + e would round to 0 for |u| > 17 */
    vf log_cosh = 0.5f * vlog1p(e * e / (4.0f * vexp(-bounded))) + 0.5f * (size - bounded);
    if (kind == DISTANCE_JS) {
        return m * log_cosh;
    }
    vf t = -e / (2.0f + e); /* tanh(|u| / 2) */
    return m * (0.5f * size * t - log_cosh);
}

static inline vf terms_of(enum distance_kind kind, const struct distance_row *row, vf a, vf b)
{
    if (kind == DISTANCE_SQUARES) {
        return (a - b) * (a - b);
    }
    return divergence_terms(kind, a - (float)row->original_scale, b - (float)row->candidate_scale);
}

static inline __attribute__((always_inline)) double sum_terms(enum distance_kind kind,
                                                              const struct distance_row *row)
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
    return fmin(2.0 * atan2(sqrt(apart), sqrt(along)), 0x1.921fb54442d18p+0);
}

static double distance(enum distance_kind kind, const struct distance_row *row)
{
    switch (kind) {
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

#define TEXT_OF(x)  TEXT_OF_(x)
#define TEXT_OF_(x) #x
const struct kernels KERNELS = {
    .name = TEXT_OF(KERNELS),
    .rows_matmul = rows_matmul,
    .rmsnorm = rmsnorm,
    .rope = rope,
    .attention_row = attention_row,
    .silu_mul = silu_mul,
    .add = add,
    .scan = scan,
    .squares = squares,
    .distance = distance,
    .softmax = softmax,
    .scale = scale,
};
