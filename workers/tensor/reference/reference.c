/*
 * workers/tensor/reference/reference.c: every operation in plain loops, summed in double and rounded once. It
 * is the truth that other backends are compared with, and what a hole in their tables falls back to; it is
 * not meant to be fast.
 *
 * The divergences use forms whose every term is non-negative, with u = log p - log q:
 *
 *   KL(P||Q)            = sum P (u - 1 + e^-u)                                    (since sum P = sum Q)
 *   JS, reference form  = 1/2 [KL(M||P) + KL(M||Q)] = sum M log cosh(u/2)         M = (P + Q) / 2
 *   JS, textbook        = 1/2 [KL(P||M) + KL(Q||M)] = sum M [t u/2 - log cosh(u/2)],  t = tanh(u/2)
 *
 * The usual forms add large terms of both signs; for nearly equal distributions nothing but rounding would
 * remain.
 *
 * The angle between logit rows is 2 atan2(|a - b|, |a + b|) of the normalised rows: acos of a dot product
 * near 1 has lost half of its digits. It ends at pi/2, as a cosine clamped to [0, 1] would.
 *
 * Matrices are [n, k], row by row, as F32 or BF16; of a BF16 matrix x too is rounded to bf16.
 */
#include "workers/tensor/cpu.h"

#include <math.h>
#include <string.h>

/* ---- products ---------------------------------------------------------------------------------------------------- */

static size_t reference_matrix_bytes(enum dtype dtype, size_t n, size_t k)
{
    return n * k * dtype_bytes(dtype);
}

static void reference_matrix_write(const struct matrix *matrix, size_t first_row, size_t row_count,
                                   const float *rows, size_t stride)
{
    size_t row_bytes = matrix->k * dtype_bytes(matrix->dtype);
    for (size_t r = 0; r < row_count; r++) {
        dtype_from_f32(matrix->dtype, rows + r * stride, matrix->k,
                       (char *)matrix->data + (first_row + r) * row_bytes);
    }
}

static size_t reference_product_scratch(enum dtype dtype, size_t k)
{
    return dtype == DTYPE_F32 ? 0 : 2 * k * sizeof(float) + k * sizeof(uint16_t);
}

static double dot(size_t count, const float *x, const float *y)
{
    double sum = 0.0;
    for (size_t i = 0; i < count; i++) {
        sum += (double)x[i] * (double)y[i];
    }
    return sum;
}

static void reference_product(const struct product *job)
{
    const struct matrix *w = job->w;
    size_t k = w->k, row_bytes = k * dtype_bytes(w->dtype);
    float *rounded = job->scratch, *row = rounded + k;
    for (size_t r = 0; r < job->rows; r++) {
        const float *x = job->x[r];
        if (w->dtype != DTYPE_F32) {
            dtype_from_f32(w->dtype, x, k, row + k);
            dtype_to_f32(w->dtype, row + k, k, rounded);
            x = rounded;
        }
        for (size_t c = 0; c < job->columns; c++) {
            size_t column = job->first_column + c;
            const void *at = (const char *)w->data + column * row_bytes;
            if (w->dtype != DTYPE_F32) {
                dtype_to_f32(w->dtype, at, k, row);
                at = row;
            }
            double bias = job->bias != NULL ? (double)job->bias[column] : 0.0;
            job->out[r * job->out_stride + c] = (float)(dot(k, x, at) + bias);
        }
    }
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

static void norm_group(const struct norm *job, const float *x, float *out)
{
    double mean = 0.0, square = 0.0, size = (double)job->size;
    if (job->kind == NORM_LAYER) {
        for (size_t i = 0; i < job->size; i++) {
            mean += (double)x[i] / size;
        }
    }
    for (size_t i = 0; i < job->size; i++) {
        square += ((double)x[i] - mean) * ((double)x[i] - mean) / size;
    }
    double factor = 1.0 / sqrt(square + (double)job->epsilon);
    for (size_t i = 0; i < job->size; i++) {
        double bias = job->bias != NULL ? (double)job->bias[i] : 0.0;
        out[i] = (float)(((double)x[i] - mean) * factor * (double)job->weight[i] + bias);
    }
}

static void reference_norm(const struct norm *job, size_t first_row, size_t row_count)
{
    for (size_t r = first_row; r < first_row + row_count; r++) {
        for (size_t g = 0; g < job->groups; g++) {
            norm_group(job, job->x + r * job->x_stride + g * job->size,
                       job->out + r * job->out_stride + g * job->size);
        }
    }
}

static void reference_rope(size_t heads, size_t head_size, size_t rotary_size, const float *cosines,
                           const float *sines, float *x)
{
    size_t half = rotary_size / 2;
    for (size_t h = 0; h < heads; h++) {
        float *head = x + h * head_size;
        for (size_t i = 0; i < half; i++) {
            double c = (double)cosines[i], s = (double)sines[i];
            double a = (double)head[i], b = (double)head[i + half];
            head[i] = (float)(a * c - b * s);
            head[i + half] = (float)(b * c + a * s);
        }
    }
}

static double activation(enum activation kind, double x)
{
    switch (kind) {
    case ACTIVATION_SILU:
        return x / (1.0 + exp(-x));
    case ACTIVATION_GELU:
        return 0.5 * x * erfc(-x * 0.70710678118654752440);
    case ACTIVATION_GELU_TANH: /* 1 + tanh(y) = 2 / (1 + e^-2y), which keeps its digits for small results */
        return x / (1.0 + exp(-2.0 * 0.79788456080286535588 * (x + 0.044715 * x * x * x)));
    case ACTIVATION_RELU:
        break;
    }
    return fmax(x, 0.0) + (x - x); /* NaN stays NaN */
}

static void reference_activate(const struct activate *job, size_t first_row, size_t row_count)
{
    for (size_t r = first_row; r < first_row + row_count; r++) {
        for (size_t i = 0; i < job->count; i++) {
            float *x = &job->x[r * job->stride + i];
            double up = job->up != NULL ? (double)job->up[r * job->stride + i] : 1.0;
            *x = (float)(activation(job->kind, (double)*x) * up);
        }
    }
}

static bool reference_add(size_t count, float *to, const float *from, float factor)
{
    bool is_finite = true;
    for (size_t i = 0; i < count; i++) {
        to[i] = (float)((double)to[i] + (double)factor * (double)from[i]);
        is_finite = is_finite && isfinite(to[i]);
    }
    return is_finite;
}

static void reference_softcap(size_t count, float *x, float cap)
{
    for (size_t i = 0; i < count; i++) {
        x[i] = (float)((double)cap * tanh((double)x[i] / (double)cap));
    }
}

static void reference_scan(size_t count, const float *logits, size_t first, struct head_scan *scan)
{
    struct head_scan piece;
    head_scan_start(&piece);
    for (size_t i = 0; i < count; i++) {
        if (logits[i] > piece.max) {
            piece.max = logits[i];
            piece.index = first + i;
        }
    }
    for (size_t i = 0; i < count; i++) {
        piece.sum += exp((double)logits[i] - (double)piece.max);
    }
    head_scan_merge(scan, &piece);
}

/* ---- attention --------------------------------------------------------------------------------------------------- */

static size_t reference_attention_scratch(size_t head_size)
{
    return head_size * sizeof(double);
}

/* One query of one head against keys [first, end). Scores are made twice, so that none has to be kept. */
struct query {
    const float *q, *keys, *values;
    size_t first, end, stride, head_size;
    double scale, softcap;
};

static double score_of(const struct query *query, size_t key)
{
    double score = query->scale * dot(query->head_size, query->q, query->keys + key * query->stride);
    return query->softcap > 0.0 ? query->softcap * tanh(score / query->softcap) : score;
}

static void answer(const struct query *query, double *mix, float *out)
{
    double max = -INFINITY, sum = 0.0;
    for (size_t t = query->first; t < query->end; t++) {
        max = fmax(max, score_of(query, t));
    }
    memset(mix, 0, query->head_size * sizeof *mix);
    for (size_t t = query->first; t < query->end; t++) {
        double weight = exp(score_of(query, t) - max);
        sum += weight;
        for (size_t i = 0; i < query->head_size; i++) {
            mix[i] += weight * (double)query->values[t * query->stride + i];
        }
    }
    for (size_t i = 0; i < query->head_size; i++) {
        out[i] = (float)(mix[i] / sum);
    }
}

static void reference_attend(const struct attention_tile *tile)
{
    const struct attention *job = tile->job;
    size_t size = job->head_size, row0 = tile->segment->first_row;
    for (size_t t = tile->first_query; t < tile->first_query + tile->query_count; t++) {
        for (size_t h = tile->first_head; h < tile->first_head + tile->head_count; h++) {
            struct query query = {.q = job->q + (row0 + t) * job->q_stride + h * size,
                                  .keys = job->k + row0 * job->kv_stride + tile->kv_head * size,
                                  .values = job->v + row0 * job->kv_stride + tile->kv_head * size,
                                  .end = job->is_causal ? t + 1 : tile->segment->count,
                                  .stride = job->kv_stride,
                                  .head_size = size,
                                  .scale = (double)job->scale,
                                  .softcap = (double)job->softcap};
            query.first = job->window > 0 && t + 1 > job->window ? t + 1 - job->window : 0;
            answer(&query, tile->scratch, job->out + (row0 + t) * job->out_stride + h * size);
        }
    }
}

static void reference_attend_row(const struct attention_rows *job, const struct attention_tile *tile)
{
    size_t row = tile->first_query, size = job->head_size, count = job->counts[row];
    size_t at = job->first_rows[row] * job->kv_stride + tile->kv_head * size;
    for (size_t h = tile->first_head; h < tile->first_head + tile->head_count; h++) {
        struct query query = {.q = job->q + row * job->q_stride + h * size,
                              .keys = job->keys + at,
                              .values = job->values + at,
                              .first = job->window > 0 && count > job->window ? count - job->window : 0,
                              .end = count,
                              .stride = job->kv_stride,
                              .head_size = size,
                              .scale = (double)job->scale,
                              .softcap = (double)job->softcap};
        answer(&query, tile->scratch, job->out + row * job->out_stride + h * size);
    }
}

/* ---- distances --------------------------------------------------------------------------------------------------- */

static double reference_squares(size_t count, const float *x)
{
    double sum = 0.0;
    for (size_t i = 0; i < count; i++) {
        sum += (double)x[i] * (double)x[i];
    }
    return sum;
}

static double squared_difference(const struct distance_row *row)
{
    double sum = 0.0;
    for (size_t i = 0; i < row->count; i++) {
        double difference = (double)row->original[i] - (double)row->candidate[i];
        sum += difference * difference;
    }
    return sum;
}

static double angle(const struct distance_row *row)
{
    double apart = 0.0, along = 0.0;
    for (size_t i = 0; i < row->count; i++) {
        double a = (double)row->original[i] / row->original_scale,
               b = (double)row->candidate[i] / row->candidate_scale;
        apart += (a - b) * (a - b);
        along += (a + b) * (a + b);
    }
    double angle = 2.0 * atan2(sqrt(apart), sqrt(along)), right = 0x1.921fb54442d18p+0;
    return angle > right ? right : angle; /* NaN stays NaN, and is told */
}

static double log_cosh(double x)
{
    double s = sinh(x);
    return fabs(x) < 20.0 ? 0.5 * log1p(s * s) : fabs(x) - log(2.0);
}

static double divergence(enum distance_kind kind, const struct distance_row *row)
{
    double sum = 0.0;
    for (size_t i = 0; i < row->count; i++) {
        double log_p = (double)row->original[i] - row->original_scale;
        double log_q = (double)row->candidate[i] - row->candidate_scale;
        double u = log_p - log_q, p = exp(log_p), q = exp(log_q), m = 0.5 * (p + q);
        if (kind == DISTANCE_KL) {
            sum += fabs(u) < 1e-3 ? p * u * u * (0.5 - u * (1.0 / 6.0 - u / 24.0)) : p * u - p + q;
        } else if (kind == DISTANCE_JS) {
            sum += m * log_cosh(0.5 * u);
        } else {
            sum += m * (0.5 * u * tanh(0.5 * u) - log_cosh(0.5 * u));
        }
    }
    return sum;
}

static double reference_distance(const struct distance_row *row)
{
    switch (row->kind) {
    case DISTANCE_SQUARES:
        return squared_difference(row);
    case DISTANCE_ANGULAR:
        return angle(row);
    case DISTANCE_KL:
    case DISTANCE_JS:
    case DISTANCE_JS_TEXTBOOK:
        break;
    }
    return divergence(row->kind, row);
}

static void reference_to_bf16(size_t count, const float *x, uint16_t *to)
{
    dtype_from_f32(DTYPE_BF16, x, count, to);
}

const struct kernels kernels_reference = {
    .name = "reference",
    .matrix_bytes = reference_matrix_bytes,
    .matrix_write = reference_matrix_write,
    .product_scratch = reference_product_scratch,
    .product = reference_product,
    .norm = reference_norm,
    .rope = reference_rope,
    .activate = reference_activate,
    .add = reference_add,
    .softcap = reference_softcap,
    .scan = reference_scan,
    .squares = reference_squares,
    .distance = reference_distance,
    .to_bf16 = reference_to_bf16,
    .attention_queries = 16,
    .attention_scratch = reference_attention_scratch,
    .attend = reference_attend,
    .attend_row = reference_attend_row,
};

static bool reference_open(struct backend *self, struct pool *pool, void **ret_state, struct error *error)
{
    (void)self;
    (void)error;
    *ret_state = cpu_create(&kernels_reference, pool);
    return true;
}

static bool reference_supports(void *state, enum dtype dtype)
{
    (void)state;
    return dtype == DTYPE_F32;
}

const struct backend backend_reference = {
    CPU_OPERATIONS,
    .name = "reference",
    .summary = "Plain C, every operation, summed in double: the truth the others are tested against.",
    .open = reference_open,
    .supports = reference_supports,
    .matrix_bytes = reference_matrix_bytes,
};
