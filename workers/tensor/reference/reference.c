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
 */
#include "workers/tensor/backend.h"

#include <math.h>

static void reference_matmul(const struct matmul *job)
{
    for (size_t r = 0; r < job->rows; r++) {
        const float *x = job->x + r * job->x_stride;
        for (size_t i = 0; i < job->n; i++) {
            const float *w = job->w + i * job->w_stride;
            double sum = job->bias != NULL ? (double)job->bias[i] : 0.0;
            for (size_t j = 0; j < job->k; j++) {
                sum += (double)x[j] * (double)w[j];
            }
            job->out[r * job->out_stride + i] = (float)sum;
        }
    }
}

static void reference_tile_matmul(const struct matmul *job)
{
    reference_matmul(job);
    for (size_t r = job->rows; r < TILE_ROWS; r++) {
        for (size_t i = 0; i < job->n; i++) {
            job->out[r * job->out_stride + i] = 0.0f;
        }
    }
}

static void reference_rmsnorm(size_t rows, size_t size, const float *x, size_t x_stride, const float *w,
                              float epsilon, float *out, size_t out_stride)
{
    for (size_t r = 0; r < rows; r++) {
        const float *in = x + r * x_stride;
        double sum = 0.0;
        for (size_t i = 0; i < size; i++) {
            sum += (double)in[i] * (double)in[i];
        }
        double factor = 1.0 / sqrt(sum / (double)size + (double)epsilon);
        for (size_t i = 0; i < size; i++) {
            out[r * out_stride + i] = (float)((double)in[i] * factor * (double)w[i]);
        }
    }
}

static void reference_rope(size_t rows, size_t heads, size_t head_size, const float *cosines,
                           const float *sines, float *x, size_t stride)
{
    size_t half = head_size / 2;
    for (size_t r = 0; r < rows; r++) {
        for (size_t h = 0; h < heads; h++) {
            float *head = x + r * stride + h * head_size;
            for (size_t i = 0; i < half; i++) {
                double c = (double)cosines[r * half + i], s = (double)sines[r * half + i];
                double a = (double)head[i], b = (double)head[i + half];
                head[i] = (float)(a * c - b * s);
                head[i + half] = (float)(b * c + a * s);
            }
        }
    }
}

/* One query against `count` keys; scratch: [count]. */
static void attend(const float *q, const float *keys, const float *values, size_t count, size_t stride,
                   size_t head_size, float *out, float *scratch)
{
    double scale = 1.0 / sqrt((double)head_size), max = -INFINITY, sum = 0.0;
    for (size_t t = 0; t < count; t++) {
        double dot = 0.0;
        for (size_t i = 0; i < head_size; i++) {
            dot += (double)q[i] * (double)keys[t * stride + i];
        }
        scratch[t] = (float)(dot * scale);
        max = fmax(max, (double)scratch[t]);
    }
    for (size_t t = 0; t < count; t++) {
        scratch[t] = (float)exp((double)scratch[t] - max);
        sum += (double)scratch[t];
    }
    for (size_t i = 0; i < head_size; i++) {
        double mix = 0.0;
        for (size_t t = 0; t < count; t++) {
            mix += (double)scratch[t] * (double)values[t * stride + i];
        }
        out[i] = (float)(mix / sum);
    }
}

static void reference_attention(const struct attention *job)
{
    for (size_t r = 0; r < job->rows; r++) {
        size_t position = job->tile * TILE_ROWS + r;
        for (size_t h = job->first_head; h < job->first_head + job->head_count; h++) {
            size_t kv = h / job->heads_per_kv * job->head_size;
            attend(job->q + position * job->stride + h * job->head_size, job->k + kv, job->v + kv,
                   position + 1, job->stride, job->head_size,
                   job->out + position * job->out_stride + h * job->head_size, job->scratch);
        }
    }
}

static void reference_attention_row(const struct attention_row *job)
{
    for (size_t h = 0; h < job->head_count; h++) {
        size_t kv = h / job->heads_per_kv * job->head_size;
        attend(job->q + h * job->head_size, job->keys + kv, job->values + kv, job->count, job->stride,
               job->head_size, job->out + h * job->head_size, job->scratch);
    }
}

static void reference_silu_mul(size_t rows, size_t count, float *gate, const float *up, size_t stride)
{
    for (size_t r = 0; r < rows; r++) {
        for (size_t i = 0; i < count; i++) {
            double x = (double)gate[r * stride + i];
            gate[r * stride + i] = (float)(x / (1.0 + exp(-x)) * (double)up[r * stride + i]);
        }
    }
}

static bool reference_add(size_t count, float *to, const float *from)
{
    bool is_sound = true;
    for (size_t i = 0; i < count; i++) {
        to[i] += from[i];
        is_sound = is_sound && isfinite(to[i]);
    }
    return is_sound;
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
    return fmin(2.0 * atan2(sqrt(apart), sqrt(along)), 0x1.921fb54442d18p+0);
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

static double reference_distance(enum distance_kind kind, const struct distance_row *row)
{
    switch (kind) {
    case DISTANCE_SQUARES:
        return squared_difference(row);
    case DISTANCE_ANGULAR:
        return angle(row);
    case DISTANCE_KL:
    case DISTANCE_JS:
    case DISTANCE_JS_TEXTBOOK:
        break;
    }
    return divergence(kind, row);
}

const struct backend backend_reference = {
    .name = "reference",
    .summary = "Plain C, every operation, summed in double: the truth the others are tested against.",
    .matmul = reference_tile_matmul,
    .rows_matmul = reference_matmul,
    .rmsnorm = reference_rmsnorm,
    .rope = reference_rope,
    .attention = reference_attention,
    .attention_row = reference_attention_row,
    .silu_mul = reference_silu_mul,
    .add = reference_add,
    .scan = reference_scan,
    .squares = reference_squares,
    .distance = reference_distance,
};
