/* workers/select/published.c: see published.h. */
#include "workers/select/published.h"
#include "workers/select/quantile.h"
#include "workers/select/rows.h"

#include "base/check.h"
#include "base/memory.h"
#include "base/rng.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LARGEST_ROUNDS = 200 };
#define TOLERANCE 1e-4

/* ---- affinities ---------------------------------------------------------------------------------- */

struct distances {
    const float *rows;
    size_t count, size;
    double *out;
};

static void measure_row(void *context, size_t i, size_t thread)
{
    (void)thread;
    const struct distances *job = context;
    for (size_t j = 0; j < job->count; j++) {
        job->out[i * job->count + j] =
            sqrt(rows_distance_square(job->rows + i * job->size, job->rows + j * job->size, job->size));
    }
}

bool published_distances(const struct dense_threads *threads, const float *rows, size_t count, size_t size,
                         double *ret_distances, struct error *error)
{
    if (count > PUBLISHED_LIMIT) {
        return error_set(error, ERROR_UNSUPPORTED,
                         "the published form keeps all pairs of %zu records; it is for at most %d", count,
                         PUBLISHED_LIMIT);
    }
    for (size_t i = 0; i < count * size; i++) {
        if (!isfinite(rows[i])) {
            return error_set(error, ERROR_NUMERIC, "the vector of record %zu is not finite", i / size);
        }
    }
    struct distances job = {rows, count, size, ret_distances};
    return pool_run(threads->pool, count, measure_row, &job, threads->cancel, error);
}

bool published_bandwidth(const double *distances, size_t count, double *ret_sigma, struct error *error)
{
    CHECK(count > 0);
    size_t entries = count * count;
    OWNED_MEMORY double *sorted = memory_try_array(count, count * sizeof *sorted, "distances", error);
    if (sorted == NULL) {
        return false;
    }
    memcpy(sorted, distances, entries * sizeof *sorted);
    quantile_sort(sorted, entries);
    *ret_sigma = (sorted[(entries - 1) / 2] + sorted[entries / 2]) / 2;
    return true;
}

/* The lower triangle of D^-1/2 A D^-1/2, and scales = D^-1/2 [count]. */
static void make_symmetric(const double *distances, size_t count, double sigma, double *matrix,
                           double *scales)
{
    for (size_t i = 0; i < count; i++) {
        double degree = 0;
        for (size_t j = 0; j < count; j++) {
            double ratio = distances[i * count + j] / sigma;
            matrix[i * count + j] = exp(-ratio * ratio / 2);
            degree += matrix[i * count + j];
        }
        scales[i] = 1 / sqrt(degree); /* at least A_ii = 1 */
    }
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j <= i; j++) {
            matrix[i * count + j] *= scales[i] * scales[j];
        }
    }
}

bool published_vectors(const struct dense_threads *threads, const double *distances, size_t count,
                       double sigma, size_t clusters, double *ret_values, double *ret_vectors,
                       struct error *error)
{
    CHECK(clusters <= count);
    if (!(sigma > 0)) {
        return error_set(error, ERROR_NUMERIC,
                         "the median of all distances is %g: more than half of the pairs coincide", sigma);
    }
    OWNED_MEMORY double *matrix = memory_try_array(count, count * sizeof *matrix, "affinities", error);
    OWNED_MEMORY double *room = memory_try_array(count, 2 * sizeof *room, "affinities", error);
    if (matrix == NULL || room == NULL) {
        return false;
    }
    double *scales = room, *values = room + count;
    make_symmetric(distances, count, sigma, matrix, scales);
    if (!dense_eigen(threads, count, matrix, values, error)) {
        return false;
    }
    for (size_t l = 0; l < clusters; l++) {
        ret_values[l] = 1 - values[l];
        double square = 0;
        for (size_t i = 0; i < count; i++) {
            double value = matrix[l * count + i] * scales[i];
            square += value * value;
        }
        for (size_t i = 0; i < count; i++) {
            ret_vectors[i * clusters + l] = matrix[l * count + i] * scales[i] / sqrt(square);
        }
    }
    return true;
}

/* ---- factors ------------------------------------------------------------------------------------- */

/* S ~ W H. S is symmetric, so that both halves of a round are the same step with the factors exchanged, H as H^T. */
struct factors {
    const struct dense_threads *threads;
    size_t count, clusters;
    const double *s;       /* [count, count] */
    double *w, *h;         /* [count, clusters], h transposed */
    double *target, *gram; /* [count, clusters] S times the other; [clusters, clusters] */
};

static double normal(const struct rng *rng, uint64_t index)
{
    double radius = sqrt(-2 * log(1 - rng_unit(rng, 2 * index)));
    return radius * cos(2 * acos(-1) * rng_unit(rng, 2 * index + 1));
}

static void start(struct factors *factors, uint64_t seed)
{
    size_t entries = factors->count * factors->count;
    double sum = 0;
    for (size_t i = 0; i < entries; i++) {
        sum += factors->s[i];
    }
    double scale = sqrt(sum / (double)entries / (double)factors->clusters);
    struct rng of_h = {.seed = seed, .stream = 1}, of_w = {.seed = seed, .stream = 2};
    for (size_t i = 0; i < factors->count * factors->clusters; i++) {
        factors->h[i] = fabs(scale * normal(&of_h, i));
        factors->w[i] = fabs(scale * normal(&of_w, i));
    }
}

/* One sweep over `moving` with `fixed` held: element (i, t) goes to max(0, w - gradient / curvature). ret_violation += the projected
 * gradient. */
static bool sweep(struct factors *factors, double *moving, const double *fixed, double *ret_violation,
                  struct error *error)
{
    size_t count = factors->count, clusters = factors->clusters;
    struct dense_product product = {.m = count,
                                    .n = clusters,
                                    .k = count,
                                    .alpha = 1,
                                    .a_stride = count,
                                    .b_stride = clusters,
                                    .out_stride = clusters};
    struct dense_product gram = product;
    gram.m = clusters;
    gram.is_a_transposed = true;
    gram.a_stride = clusters;
    if (!dense_multiply(factors->threads, &product, factors->s, fixed, factors->target, error) ||
        !dense_multiply(factors->threads, &gram, fixed, fixed, factors->gram, error)) {
        return false;
    }
    for (size_t t = 0; t < clusters; t++) {
        const double *row = factors->gram + t * clusters;
        for (size_t i = 0; i < count; i++) {
            double *own = moving + i * clusters;
            double gradient = -factors->target[i * clusters + t];
            for (size_t r = 0; r < clusters; r++) {
                gradient += row[r] * own[r];
            }
            *ret_violation += fabs(own[t] <= 0 && gradient > 0 ? 0 : gradient);
            if (row[t] > 0) {
                double moved = own[t] - gradient / row[t];
                own[t] = moved > 0 ? moved : 0;
            }
        }
    }
    return true;
}

static bool factorise(struct factors *factors, struct error *error)
{
    double first = 0;
    for (size_t round = 0; round < LARGEST_ROUNDS; round++) {
        double violation = 0;
        if (!sweep(factors, factors->w, factors->h, &violation, error) ||
            !sweep(factors, factors->h, factors->w, &violation, error)) {
            return false;
        }
        first = round == 0 ? violation : first;
        if (violation <= TOLERANCE * first) {
            return true;
        }
    }
    return true;
}

bool published_labels(const struct dense_threads *threads, const double *vectors, size_t count,
                      size_t clusters, uint64_t seed, uint32_t *ret_labels, struct error *error)
{
    CHECK(count > 0 && clusters > 0);
    size_t entries = count * count, part = count * clusters;
    OWNED_MEMORY double *s = memory_try_array(count, count * sizeof *s, "affinities", error);
    OWNED_MEMORY double *room =
        memory_try_array(3 * part + clusters * clusters, sizeof *room, "factors", error);
    if (s == NULL || room == NULL) {
        return false;
    }
    struct dense_product product = {.m = count,
                                    .n = count,
                                    .k = clusters,
                                    .is_b_transposed = true,
                                    .alpha = 1,
                                    .a_stride = clusters,
                                    .b_stride = clusters,
                                    .out_stride = count};
    if (!dense_multiply(threads, &product, vectors, vectors, s, error)) {
        return false;
    }
    for (size_t i = 0; i < entries; i++) {
        s[i] = fabs(s[i]);
    }
    struct factors factors = {threads, count,       clusters,        s,
                              room,    room + part, room + 2 * part, room + 3 * part};
    start(&factors, seed);
    if (!factorise(&factors, error)) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        const double *row = factors.w + i * clusters;
        size_t best = 0;
        for (size_t t = 1; t < clusters; t++) {
            best = row[t] > row[best] ? t : best;
        }
        ret_labels[i] = (uint32_t)best;
    }
    return true;
}

/* ---- scores -------------------------------------------------------------------------------------- */

void published_damage(const double *sums, const uint32_t *labels, size_t count, size_t clusters,
                      double *ret_damage)
{
    for (size_t k = 0; k < clusters; k++) {
        double sum = 0;
        size_t members = 0;
        for (size_t i = 0; i < count; i++) {
            if (labels[i] == k) {
                sum += sums[i];
                members++;
            }
        }
        ret_damage[k] = members > 0 ? sum / (double)members : 0;
    }
}

double published_key(double sum, size_t tokens, size_t characters)
{
    double cost = (double)(tokens + characters);
    return sum / log(cost * cost);
}
