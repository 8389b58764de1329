/*
 * workers/select/landmarks.c: see landmarks.h. G is summed over records in their order, nearest^2 products each: too few to share out.
 */
#include "workers/select/landmarks.h"
#include "workers/select/nearest.h"
#include "workers/select/rows.h"

#include "base/check.h"
#include "base/memory.h"
#include <math.h>
#include <stdlib.h>

enum { BLOCK_ROWS = 1024, TASK_ROWS = 256 };
#define LEAST_VALUE 1e-10

void landmarks_finish(struct landmarks *landmarks)
{
    free(landmarks->indices);
    free(landmarks->weights);
    *landmarks = (struct landmarks){0};
}

/* ---- weights ------------------------------------------------------------------------------------- */

struct weighing {
    const float *rows, *points; /* [count, size], [landmark_count, size] */
    size_t count, size;
    const float *row_halves, *point_halves; /* half the squared lengths */
    struct landmarks *result;               /* weights: squared distances until weigh_rows */
    double longest;                         /* of the landmarks */
    size_t padded;                          /* landmark_count, to whole chunks */
    const float *products;                  /* [BLOCK_ROWS, padded] of the rows from `first` */
    size_t first;
    double bandwidth; /* h */
};

/* Landmarks pass in their order, so that ties go to the smaller. */
static void find_nearest(void *context, size_t index, size_t thread)
{
    (void)thread;
    const struct weighing *job = context;
    size_t i = job->first + index, nearest = job->result->nearest, kept = 0;
    uint32_t *indices = job->result->indices + i * nearest;
    double *squares = job->result->weights + i * nearest;
    const float *row = job->rows + i * job->size, *products = job->products + index * job->padded;
    float half = job->row_halves[i];
    double margin = rows_margin(job->size, sqrt(2 * (double)half), job->longest);
    float bound = rows_bound(half, INFINITY, margin);
    for (size_t chunk = 0; chunk < job->padded; chunk += ROWS_CHUNK) {
        if (!rows_chunk_passes(products + chunk, job->point_halves + chunk, bound)) {
            continue;
        }
        for (size_t l = chunk; l < chunk + ROWS_CHUNK; l++) {
            if (products[l] - job->point_halves[l] >= bound) {
                double square = rows_distance_square(row, job->points + l * job->size, job->size);
                kept = nearest_insert(indices, squares, kept, nearest, (uint32_t)l, square);
                bound = rows_bound(half, kept < nearest ? (double)INFINITY : squares[kept - 1], margin);
            }
        }
    }
}

static bool find_all_nearest(struct weighing *job, const struct dense_threads *threads, struct error *error)
{
    OWNED_MEMORY float *products =
        memory_try_array(BLOCK_ROWS, job->padded * sizeof *products, "products with landmarks", error);
    if (products == NULL) {
        return false;
    }
    job->products = products;
    size_t step = 0;
    for (job->first = 0; job->first < job->count; job->first += step) {
        step = rows_least(BLOCK_ROWS, job->count - job->first);
        if (!rows_multiply(threads, job->size, job->rows + job->first * job->size, step, job->points,
                           job->result->landmark_count, products, job->padded, error) ||
            !pool_run(threads->pool, step, find_nearest, job, threads->cancel, error)) {
            return false;
        }
    }
    return true;
}

static bool is_zero_row(const struct weighing *job, size_t i)
{
    return rows_is_zero(2 * (double)job->row_halves[i]);
}

static double find_bandwidth(const struct weighing *job)
{
    double sum = 0, counted = 0;
    for (size_t i = 0; i < job->count; i++) {
        for (size_t slot = 0; slot < job->result->nearest && !is_zero_row(job, i); slot++) {
            sum += sqrt(job->result->weights[i * job->result->nearest + slot]);
            counted++;
        }
    }
    return counted > 0 ? sum / counted : 0;
}

/* Squared distances become weights; the nearest is subtracted first, which cancels in the division and spares a far record 0 / 0. */
static void weigh_rows(void *context, size_t index, size_t thread)
{
    (void)thread;
    const struct weighing *job = context;
    size_t nearest = job->result->nearest, end = rows_least((index + 1) * TASK_ROWS, job->count);
    double scale = 2 * job->bandwidth * job->bandwidth;
    for (size_t i = index * TASK_ROWS; i < end; i++) {
        double *weights = job->result->weights + i * nearest;
        double least = weights[0], sum = 0;
        for (size_t slot = 0; slot < nearest; slot++) {
            weights[slot] = scale > 0 ? exp(-(weights[slot] - least) / scale) : 1;
            sum += weights[slot];
        }
        for (size_t slot = 0; slot < nearest; slot++) {
            weights[slot] = is_zero_row(job, i) ? 0 : weights[slot] / sum;
        }
    }
}

bool landmarks_weigh(const struct dense_threads *threads, const float *rows, size_t count, size_t size,
                     const float *landmarks, size_t landmark_count, size_t nearest,
                     struct landmarks *ret_landmarks, struct error *error)
{
    CHECK(landmark_count > 0 && landmark_count < UINT32_MAX && nearest > 0);
    nearest = rows_least(nearest, landmark_count);
    FINISHED(landmarks) result = {.count = count, .landmark_count = landmark_count, .nearest = nearest};
    result.indices = memory_try_array(count, nearest * sizeof *result.indices, "landmarks", error);
    result.weights = memory_try_array(count, nearest * sizeof *result.weights, "landmarks", error);
    OWNED_MEMORY float *row_halves =
        memory_try_array(rows_padded(count), sizeof *row_halves, "lengths", error);
    OWNED_MEMORY float *point_halves =
        memory_try_array(rows_padded(landmark_count), sizeof *point_halves, "lengths", error);
    double longest = 0;
    if (result.indices == NULL || result.weights == NULL || row_halves == NULL || point_halves == NULL ||
        !rows_measure(threads, rows, count, size, false, row_halves, &longest, error)) {
        return false;
    }
    if (!rows_measure(threads, landmarks, landmark_count, size, false, point_halves, &longest, error)) {
        return error_prefix(error, "landmarks: ");
    }
    struct weighing job = {.rows = rows,
                           .points = landmarks,
                           .count = count,
                           .size = size,
                           .row_halves = row_halves,
                           .point_halves = point_halves,
                           .longest = longest,
                           .padded = rows_padded(landmark_count),
                           .result = &result};
    if (!find_all_nearest(&job, threads, error)) {
        return false;
    }
    job.bandwidth = find_bandwidth(&job);
    if (!pool_run(threads->pool, (count + TASK_ROWS - 1) / TASK_ROWS, weigh_rows, &job, threads->cancel,
                  error)) {
        return false;
    }
    *ret_landmarks = result;
    result = (struct landmarks){0};
    return true;
}

/* ---- spectrum ------------------------------------------------------------------------------------ */

/* The landmarks that somebody weighs: places [landmark_count] in G, and scales = D^-1/2 by place. */
static size_t find_places(const struct landmarks *landmarks, size_t *places, double *scales)
{
    for (size_t i = 0; i < landmarks->count * landmarks->nearest; i++) {
        scales[landmarks->indices[i]] += landmarks->weights[i];
    }
    size_t used = 0;
    for (size_t l = 0; l < landmarks->landmark_count; l++) {
        double mass = scales[l];
        places[l] = used;
        if (mass > 0) {
            scales[used++] = 1 / sqrt(mass);
        }
    }
    return used;
}

/* The lower triangle of G [used, used]. */
static void sum_products(const struct landmarks *landmarks, const size_t *places, const double *scales,
                         size_t used, double *g)
{
    for (size_t i = 0; i < landmarks->count; i++) {
        const uint32_t *indices = landmarks->indices + i * landmarks->nearest;
        const double *weights = landmarks->weights + i * landmarks->nearest;
        for (size_t a = 0; a < landmarks->nearest; a++) {
            for (size_t b = 0; b < landmarks->nearest; b++) {
                size_t row = places[indices[a]], column = places[indices[b]];
                if (column <= row && weights[a] > 0 && weights[b] > 0) {
                    g[row * used + column] += weights[a] * weights[b];
                }
            }
        }
    }
    for (size_t row = 0; row < used; row++) {
        for (size_t column = 0; column <= row; column++) {
            g[row * used + column] *= scales[row] * scales[column];
        }
    }
}

struct extension {
    const struct landmarks *landmarks;
    const size_t *places;
    const double *scales, *vectors; /* vectors [pairs, used] by rows */
    size_t used;
    struct spectrum *result;
};

/* phi = Z D^-1/2 U Lambda^-1/2 */
static void extend_rows(void *context, size_t index, size_t thread)
{
    (void)thread;
    const struct extension *job = context;
    const struct landmarks *landmarks = job->landmarks;
    size_t pairs = job->result->pairs, end = rows_least((index + 1) * TASK_ROWS, landmarks->count);
    for (size_t i = index * TASK_ROWS; i < end; i++) {
        for (size_t l = 0; l < pairs; l++) {
            double sum = 0;
            for (size_t slot = 0; slot < landmarks->nearest; slot++) {
                size_t at = i * landmarks->nearest + slot;
                if (landmarks->weights[at] > 0) {
                    size_t place = job->places[landmarks->indices[at]];
                    sum += landmarks->weights[at] * job->scales[place] * job->vectors[l * job->used + place];
                }
            }
            job->result->vectors[i * pairs + l] = sum / sqrt(job->result->values[l]);
        }
    }
}

bool landmarks_find_spectrum(const struct landmarks *landmarks, const struct dense_threads *threads,
                             size_t pairs, struct spectrum *ret_spectrum, struct error *error)
{
    size_t landmark_count = landmarks->landmark_count;
    OWNED_MEMORY size_t *places = memory_try_array(landmark_count, sizeof *places, "landmarks", error);
    OWNED_MEMORY double *scales = memory_try_array(landmark_count, sizeof *scales, "landmarks", error);
    if (places == NULL || scales == NULL) {
        return false;
    }
    size_t used = find_places(landmarks, places, scales);
    OWNED_MEMORY double *g = memory_try_array(used, used * sizeof *g, "products of landmarks", error);
    FINISHED(spectrum) result = {.has_converged = true, .count = landmarks->count};
    result.values = memory_try_array(used, sizeof *result.values, "eigenvalues", error);
    if (g == NULL || result.values == NULL) {
        return false;
    }
    sum_products(landmarks, places, scales, used, g);
    if (!dense_eigen(threads, used, g, result.values, error)) {
        return false;
    }
    while (result.pairs < pairs && result.pairs < used && result.values[result.pairs] >= LEAST_VALUE) {
        result.pairs++;
    }
    result.vectors =
        memory_try_array(result.count, result.pairs * sizeof *result.vectors, "eigenvectors", error);
    struct extension job = {landmarks, places, scales, g, used, &result};
    if (result.vectors == NULL || !pool_run(threads->pool, (result.count + TASK_ROWS - 1) / TASK_ROWS,
                                            extend_rows, &job, threads->cancel, error)) {
        return false;
    }
    spectrum_orient(&result);
    *ret_spectrum = result;
    result = (struct spectrum){0};
    return true;
}
