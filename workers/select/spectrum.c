/*
 * workers/select/spectrum.c: see spectrum.h.
 *
 * The filter. With a the smallest Ritz value of A in the block, t(A) = 2 A / a - 1 maps 0..a to -1..1, and T_p(t) by its recurrence
 *
 *     y_0 = x,  y_1 = t(A) x,  y_j+1 = 2 t(A) y_j - y_j-1,      t(A) x = S x / a + (1 / a - 1) x.
 *
 * The degree p is the highest that multiplies the first vector by at most LARGEST_GROWTH: more would drown what the last ones hold in the
 * rounding of the first. y_1 costs no product, because S x is at hand from the Ritz step.
 *
 * Orthonormal by the eigenvectors of the scaled Gram matrix (SVQB, Stathopoulos & Wu 2002), repeated until it is: directions that are rounding
 * noise become random ones, which is what a block that has lost rank needs.
 */
#include "workers/select/spectrum.h"

#include "base/check.h"
#include "base/memory.h"
#include "base/rng.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { GUARD_VECTORS = 8, BLOCK_STEP = 8, LARGEST_DEGREE = 64, LARGEST_PASSES = 8 };
#define LARGEST_GROWTH 1e6
#define LARGEST_CUT    0.9999 /* of a: the filter still grows between it and 1 */
#define LEAST_CUT      0.1
#define ORTHONORMAL    1e-12

void spectrum_finish(struct spectrum *spectrum)
{
    free(spectrum->values);
    free(spectrum->vectors);
    *spectrum = (struct spectrum){0};
}

void spectrum_orient(struct spectrum *spectrum)
{
    size_t columns = spectrum->pairs;
    for (size_t l = 0; l < columns; l++) {
        double top = 0;
        for (size_t i = 0; i < spectrum->count; i++) {
            double value = spectrum->vectors[i * columns + l];
            top = fabs(value) > fabs(top) ? value : top;
        }
        for (size_t i = 0; i < spectrum->count && top < 0; i++) {
            spectrum->vectors[i * columns + l] = -spectrum->vectors[i * columns + l];
        }
    }
}

/* ---- few records --------------------------------------------------------------------------------- */

static bool prepare_result(struct spectrum *spectrum, size_t count, size_t pairs, struct error *error)
{
    spectrum->count = count;
    spectrum->pairs = pairs;
    spectrum->values = memory_try_array(pairs, sizeof *spectrum->values, "eigenvalues", error);
    spectrum->vectors = memory_try_array(count, pairs * sizeof *spectrum->vectors, "eigenvectors", error);
    return spectrum->values != NULL && spectrum->vectors != NULL;
}

static bool find_dense(const struct graph *graph, const struct dense_threads *threads, size_t pairs,
                       struct spectrum *ret_spectrum, struct error *error)
{
    size_t n = graph->count;
    FINISHED(spectrum) result = {.has_converged = true};
    OWNED_MEMORY double *matrix = memory_try_array(n, n * sizeof *matrix, "a dense graph", error);
    OWNED_MEMORY double *values = memory_try_array(n, sizeof *values, "eigenvalues", error);
    if (matrix == NULL || values == NULL || !prepare_result(&result, n, pairs, error)) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        for (size_t e = graph->starts[i]; e < graph->starts[i + 1]; e++) {
            matrix[i * n + graph->targets[e]] = graph->weights[e];
        }
    }
    if (!dense_eigen(threads, n, matrix, values, error)) {
        return false;
    }
    for (size_t l = 0; l < result.pairs; l++) {
        result.values[l] = values[l];
        for (size_t i = 0; i < n; i++) {
            result.vectors[i * result.pairs + l] = matrix[l * n + i];
        }
    }
    *ret_spectrum = result;
    result = (struct spectrum){0};
    return true;
}

/* ---- many records -------------------------------------------------------------------------------- */

struct iteration {
    const struct graph *graph;
    const struct dense_threads *threads;
    const struct spectrum_request *request;
    size_t count, width; /* of a block */
    double *x;           /* owned, [count, width] the block */
    double *sx;          /* owned, [count, width] S x after the Ritz step */
    double *spare;       /* owned, [count, width] */
    double *small;       /* owned, [width, width] */
    double *turn;        /* owned, [width, width] */
    double *values;      /* owned, [width] Ritz values of S, falling */
    double *sums;        /* owned, [width] */
    size_t products;
    uint32_t refills;
    double largest_residual;
};

static void iteration_finish(struct iteration *it)
{
    free(it->x);
    free(it->sx);
    free(it->spare);
    free(it->small);
    free(it->turn);
    free(it->values);
    free(it->sums);
}

static void swap_blocks(double **a, double **b)
{
    double *kept = *a;
    *a = *b;
    *b = kept;
}

static bool prepare_iteration(struct iteration *it, struct error *error)
{
    size_t width = it->width;
    it->x = memory_try_array(it->count, width * sizeof *it->x, "a block of vectors", error);
    it->sx = memory_try_array(it->count, width * sizeof *it->sx, "a block of vectors", error);
    it->spare = memory_try_array(it->count, width * sizeof *it->spare, "a block of vectors", error);
    it->small = memory_try_array(width, width * sizeof *it->small, "a small matrix", error);
    it->turn = memory_try_array(width, width * sizeof *it->turn, "a small matrix", error);
    it->values = memory_try_array(width, sizeof *it->values, "eigenvalues", error);
    it->sums = memory_try_array(width, sizeof *it->sums, "eigenvalues", error);
    return it->x != NULL && it->sx != NULL && it->spare != NULL && it->small != NULL && it->turn != NULL &&
           it->values != NULL && it->sums != NULL;
}

/* The first vector of a connected graph is known: sqrt(d). The others are random. */
static void start(struct iteration *it)
{
    struct rng rng = {.seed = it->request->seed, .stream = 0x53504543};
    for (size_t i = 0; i < it->count; i++) {
        double *row = it->x + i * it->width;
        row[0] = sqrt(it->graph->degrees[i]);
        for (size_t l = 1; l < it->width; l++) {
            row[l] = rng_unit(&rng, i * it->width + l) - 0.5;
        }
    }
}

static void refill_column(struct iteration *it, size_t l)
{
    struct rng rng = {.seed = it->request->seed, .stream = 0x53504543, .step = ++it->refills};
    for (size_t i = 0; i < it->count; i++) {
        it->x[i * it->width + l] = rng_unit(&rng, i) - 0.5;
    }
}

static bool multiply(struct iteration *it, double scale, double shift, double keep, const double *x,
                     double *out, struct error *error)
{
    struct graph_product product = {.width = it->width, .scale = scale, .shift = shift, .keep = keep};
    it->products++;
    return graph_multiply(it->graph, it->threads, &product, x, out, error);
}

/* small = X^T Y. */
static bool project(struct iteration *it, const double *x, const double *y, struct error *error)
{
    struct dense_product product = {.m = it->width,
                                    .n = it->width,
                                    .k = it->count,
                                    .is_a_transposed = true,
                                    .alpha = 1,
                                    .a_stride = it->width,
                                    .b_stride = it->width,
                                    .out_stride = it->width};
    return dense_multiply(it->threads, &product, x, y, it->small, error);
}

/* *block becomes block turn^T: row l of turn says how vector l is made. */
static bool turn_block(struct iteration *it, double **block, struct error *error)
{
    struct dense_product product = {.m = it->count,
                                    .n = it->width,
                                    .k = it->width,
                                    .is_b_transposed = true,
                                    .alpha = 1,
                                    .a_stride = it->width,
                                    .b_stride = it->width,
                                    .out_stride = it->width};
    if (!dense_multiply(it->threads, &product, *block, it->turn, it->spare, error)) {
        return false;
    }
    swap_blocks(block, &it->spare);
    return true;
}

static bool is_orthonormal(const struct iteration *it)
{
    for (size_t l = 0; l < it->width; l++) {
        for (size_t m = 0; m < it->width; m++) {
            double expected = l == m ? 1 : 0;
            if (!(fabs(it->small[l * it->width + m] - expected) <= ORTHONORMAL)) {
                return false;
            }
        }
    }
    return true;
}

/* turn of the Gram matrix in small: row l = u_l D / sqrt(lambda_l), of D G D = U^T diag(lambda) U with a diagonal of ones. */
static bool find_turn(struct iteration *it, struct error *error)
{
    size_t width = it->width;
    for (size_t l = 0; l < width; l++) {
        double square = it->small[l * width + l];
        it->sums[l] = square > 0 ? 1 / sqrt(square) : 0;
    }
    for (size_t l = 0; l < width; l++) {
        for (size_t m = 0; m < width; m++) {
            it->turn[l * width + m] = it->small[l * width + m] * (it->sums[l] * it->sums[m]);
        }
    }
    if (!dense_eigen(it->threads, width, it->turn, it->values, error)) {
        return false;
    }
    double floor_value = it->values[0] * (double)width * DBL_EPSILON;
    for (size_t l = 0; l < width; l++) {
        double value = it->values[l] > floor_value ? it->values[l] : floor_value;
        for (size_t m = 0; m < width; m++) {
            it->turn[l * width + m] *= it->sums[m] / sqrt(value);
        }
    }
    return true;
}

static bool make_orthonormal(struct iteration *it, bool *ret_is_done, struct error *error)
{
    *ret_is_done = false;
    for (size_t pass = 0; pass < LARGEST_PASSES; pass++) {
        if (!project(it, it->x, it->x, error)) {
            return false;
        }
        if (is_orthonormal(it)) {
            *ret_is_done = true;
            return true;
        }
        bool is_refilled = false;
        for (size_t l = 0; l < it->width; l++) {
            if (!(it->small[l * it->width + l] > 0)) {
                refill_column(it, l);
                is_refilled = true;
            }
        }
        if (!is_refilled && (!find_turn(it, error) || !turn_block(it, &it->x, error))) {
            return false;
        }
    }
    return true;
}

/* x and sx become Ritz vectors and S times them. */
static bool take_ritz_vectors(struct iteration *it, struct error *error)
{
    if (!multiply(it, 1, 0, 0, it->x, it->sx, error) || !project(it, it->x, it->sx, error)) {
        return false;
    }
    memcpy(it->turn, it->small, it->width * it->width * sizeof *it->turn);
    return dense_eigen(it->threads, it->width, it->turn, it->values, error) &&
           turn_block(it, &it->x, error) && turn_block(it, &it->sx, error);
}

/* The largest |A x - lambda x| of the first `pairs` = |S x - theta x| / 2. */
static double find_residual(const struct iteration *it, size_t pairs)
{
    memset(it->sums, 0, it->width * sizeof *it->sums);
    for (size_t i = 0; i < it->count; i++) {
        const double *x = it->x + i * it->width, *sx = it->sx + i * it->width;
        for (size_t l = 0; l < pairs; l++) {
            double rest = sx[l] - it->values[l] * x[l];
            it->sums[l] += rest * rest;
        }
    }
    double largest = 0;
    for (size_t l = 0; l < pairs; l++) {
        largest = it->sums[l] > largest ? it->sums[l] : largest;
    }
    return sqrt(largest) / 2;
}

/* The smallest Ritz value of A. */
static double find_cut(const struct iteration *it)
{
    double cut = (1 + it->values[it->width - 1]) / 2;
    return cut < LEAST_CUT ? LEAST_CUT : cut > LARGEST_CUT ? LARGEST_CUT : cut;
}

/* The highest p with T_p(2 / a - 1) = cosh(p acosh(2 / a - 1)) <= LARGEST_GROWTH, in 2 .. LARGEST_DEGREE. */
static size_t find_degree(double cut)
{
    double degree = floor(acosh(LARGEST_GROWTH) / acosh(2 / cut - 1));
    return degree < 2 ? 2 : degree > LARGEST_DEGREE ? LARGEST_DEGREE : (size_t)degree;
}

static bool filter(struct iteration *it, double cut, size_t degree, struct error *error)
{
    double scale = 1 / cut, shift = 1 / cut - 1;
    for (size_t i = 0; i < it->count * it->width; i++) {
        it->sx[i] = scale * it->sx[i] + shift * it->x[i];
    }
    for (size_t j = 1; j < degree; j++) { /* x is y_j-1, sx is y_j */
        if (!multiply(it, 2 * scale, 2 * shift, -1, it->sx, it->x, error)) {
            return false;
        }
        swap_blocks(&it->x, &it->sx);
    }
    swap_blocks(&it->x, &it->sx);
    return true;
}

static bool iterate(struct iteration *it, size_t pairs, bool *ret_has_converged, struct error *error)
{
    *ret_has_converged = false;
    while (true) {
        bool is_done = false;
        if (!make_orthonormal(it, &is_done, error)) {
            return false;
        }
        if (!is_done) {
            return true;
        }
        if (!take_ritz_vectors(it, error)) {
            return false;
        }
        it->largest_residual = find_residual(it, pairs);
        if (it->largest_residual <= it->request->tolerance) {
            *ret_has_converged = true;
            return true;
        }
        double cut = find_cut(it);
        size_t degree = find_degree(cut);
        if (it->products + degree > it->request->most_products) {
            return true;
        }
        if (!filter(it, cut, degree, error)) {
            return false;
        }
    }
}

bool spectrum_find(const struct graph *graph, const struct dense_threads *threads,
                   const struct spectrum_request *request, struct spectrum *ret_spectrum, struct error *error)
{
    CHECK(graph->degrees != NULL && graph->count > 0 && request->pairs > 0);
    size_t pairs = request->pairs < graph->count ? request->pairs : graph->count;
    size_t width = (pairs + GUARD_VECTORS + BLOCK_STEP - 1) / BLOCK_STEP * BLOCK_STEP;
    if (graph->count <= request->dense_limit || width > graph->count / 2) {
        return find_dense(graph, threads, pairs, ret_spectrum, error);
    }
    FINISHED(iteration)
    it = {.graph = graph, .threads = threads, .request = request, .count = graph->count, .width = width};
    FINISHED(spectrum) result = {.count = graph->count, .pairs = pairs};
    if (!prepare_iteration(&it, error)) {
        return false;
    }
    start(&it);
    if (!iterate(&it, pairs, &result.has_converged, error)) {
        return false;
    }
    if (result.has_converged) {
        if (!prepare_result(&result, graph->count, pairs, error)) {
            return false;
        }
        memcpy(result.values, it.values, pairs * sizeof *result.values);
        for (size_t i = 0; i < result.count; i++) {
            memcpy(result.vectors + i * pairs, it.x + i * width, pairs * sizeof *it.x);
        }
        spectrum_orient(&result);
    }
    result.products = it.products;
    result.largest_residual = it.largest_residual;
    *ret_spectrum = result;
    result = (struct spectrum){0};
    return true;
}

/* ---- what they say ------------------------------------------------------------------------------- */

size_t spectrum_cluster_count(const double *values, size_t pairs, const struct spectrum_rule *rule)
{
    CHECK(rule->least > 0 && rule->least <= rule->most && rule->fallback > 0);
    size_t best = 0;
    double widest = -1;
    for (size_t k = rule->least; k <= rule->most && k < pairs; k++) {
        double gap = values[k - 1] - values[k];
        if (gap > widest) {
            widest = gap;
            best = k;
        }
    }
    size_t count = best == 0 ? rule->least : widest < rule->least_gap ? rule->fallback : best;
    return count < pairs ? count : pairs;
}

void spectrum_coordinates(const struct spectrum *spectrum, const double *degrees, size_t dimensions,
                          enum spectrum_form form, double time, float *ret_coordinates)
{
    CHECK(spectrum->has_converged && dimensions < spectrum->pairs);
    double total = 0;
    for (size_t i = 0; i < spectrum->count; i++) {
        total += degrees != NULL ? degrees[i] : 1;
    }
    for (size_t l = 1; l <= dimensions; l++) {
        double value = spectrum->values[l];
        double weight = form == SPECTRUM_HEAT ? exp(-time * (1 - value)) : pow(value > 0 ? value : 0, time);
        for (size_t i = 0; i < spectrum->count; i++) {
            double degree = degrees != NULL ? degrees[i] : 1;
            double scale = degree > 0 ? sqrt(total / degree) : 0;
            ret_coordinates[i * dimensions + l - 1] =
                (float)(weight * scale * spectrum->vectors[i * spectrum->pairs + l]);
        }
    }
}
