/*
 * bench/products.c: how fast a backend's matrix products are at given shapes, as the forward pass asks for them. One line of JSON:
 *
 *     products [--dtype f32|bf16] [--backend NAME] [--threads N] [--rows N] [--runs N] NxK ...
 *
 * A run multiplies `rows` rows by each matrix [n, k] once; the median of the runs counts, the first one does not. flops: 2 rows n k
 * over all shapes.
 */
#include "base/clock.h"
#include "base/memory.h"
#include "base/rng.h"
#include "workers/tensor/backend.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SHAPES_MAX = 16, RUNS_MAX = 100 };

struct options {
    const char *dtype, *backend;
    size_t threads, rows, runs, shape_count;
    struct matrix shapes[SHAPES_MAX]; /* data filled later */
};

static bool parse(int argc, char **argv, struct options *options)
{
    *options = (struct options){.dtype = "f32", .threads = 2, .rows = 768, .runs = 5};
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        struct matrix shape = {.n = 0};
        if (sscanf(argv[i], "%zux%zu", &shape.n, &shape.k) == 2 && options->shape_count < SHAPES_MAX) {
            options->shapes[options->shape_count++] = shape;
            continue;
        }
        if (value == NULL) {
            return false;
        }
        if (strcmp(argv[i], "--dtype") == 0) {
            options->dtype = value;
        } else if (strcmp(argv[i], "--backend") == 0) {
            options->backend = value;
        } else if (strcmp(argv[i], "--threads") == 0) {
            options->threads = (size_t)strtoull(value, NULL, 10);
        } else if (strcmp(argv[i], "--rows") == 0) {
            options->rows = (size_t)strtoull(value, NULL, 10);
        } else if (strcmp(argv[i], "--runs") == 0) {
            options->runs = (size_t)strtoull(value, NULL, 10);
        } else {
            return false;
        }
        i++;
    }
    return options->shape_count > 0 && options->threads > 0 && options->rows > 0 && options->runs > 0 &&
           options->runs <= RUNS_MAX;
}

struct bench {
    struct options options;
    struct device *device;
    const struct backend *backend;
    float *x, *out; /* device memory for the widest shape */
};

static bool fill(const struct bench *bench, float *device_memory, size_t rows, size_t count,
                 struct error *error)
{
    OWNED_MEMORY float *values = memory_create(count, sizeof *values);
    struct rng rng = {.seed = 3};
    for (size_t i = 0; i < count; i++) {
        values[i] = (float)rng_below(&rng, i, 2001) / 1000.0f - 1.0f;
    }
    for (size_t r = 0; r < rows; r++) {
        if (!bench->backend->memory_write(bench->device, device_memory + r * count, values,
                                          count * sizeof *values, error)) {
            return false;
        }
    }
    return true;
}

static bool fill_matrix(const struct bench *bench, struct matrix *matrix, struct error *error)
{
    enum { STEP = 64 };
    size_t bytes = bench->backend->matrix_bytes(matrix->dtype, matrix->n, matrix->k);
    OWNED_MEMORY float *rows = memory_create(STEP * matrix->k, sizeof *rows);
    struct rng rng = {.seed = 5};
    for (size_t i = 0; i < STEP * matrix->k; i++) {
        rows[i] = (float)rng_below(&rng, i, 2001) / 1000.0f - 1.0f;
    }
    matrix->data = bench->backend->memory_create(bench->device, bytes, "a matrix", error);
    bool is_good = matrix->data != NULL;
    for (size_t r = 0; r < matrix->n && is_good; r += STEP) {
        size_t count = matrix->n - r < STEP ? matrix->n - r : STEP;
        is_good = bench->backend->matrix_write(bench->device, matrix, r, count, rows, matrix->k, error);
    }
    return is_good;
}

static bool prepare(struct bench *bench, struct error *error)
{
    struct options *options = &bench->options;
    size_t widest_k = 0;
    size_t widest_n = 0;
    for (size_t i = 0; i < options->shape_count; i++) {
        struct matrix *shape = &options->shapes[i];
        shape->dtype = strcmp(options->dtype, "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32;
        widest_k = shape->k > widest_k ? shape->k : widest_k;
        widest_n = shape->n > widest_n ? shape->n : widest_n;
        if (!fill_matrix(bench, shape, error)) {
            return false;
        }
    }
    bench->x =
        bench->backend->memory_create(bench->device, options->rows * widest_k * sizeof(float), "x", error);
    bench->out =
        bench->backend->memory_create(bench->device, options->rows * widest_n * sizeof(float), "out", error);
    return bench->x != NULL && bench->out != NULL && fill(bench, bench->x, options->rows, widest_k, error);
}

static bool run(const struct bench *bench, double *ret_seconds, struct error *error)
{
    const struct options *options = &bench->options;
    struct exec exec = {.device = bench->device, .is_shared = true};
    struct segment whole = {.count = options->rows};
    int64_t start = clock_boot_ns(&clock_system);
    for (size_t i = 0; i < options->shape_count; i++) {
        struct matmul job = {.rows = options->rows,
                             .x = bench->x,
                             .x_stride = options->shapes[i].k,
                             .w = &options->shapes[i],
                             .out = bench->out,
                             .out_stride = options->shapes[i].n,
                             .segments = &whole,
                             .segment_count = 1};
        if (!bench->backend->matmul(&exec, &job, error)) {
            return false;
        }
    }
    float last = 0; /* waits for the device */
    bool is_good = bench->backend->memory_read(bench->device, &last, bench->out, sizeof last, error);
    *ret_seconds = (double)(clock_boot_ns(&clock_system) - start) / 1e9;
    return is_good;
}

static int compare_doubles(const void *a, const void *b)
{
    double left = *(const double *)a;
    double right = *(const double *)b;
    return (left > right) - (left < right);
}

static bool measure(struct bench *bench, struct error *error)
{
    double seconds[RUNS_MAX + 1];
    for (size_t i = 0; i <= bench->options.runs; i++) {
        if (!run(bench, &seconds[i], error)) {
            return false;
        }
    }
    qsort(seconds + 1, bench->options.runs, sizeof seconds[0], compare_doubles);
    double median = seconds[1 + bench->options.runs / 2];
    double flops = 0;
    for (size_t i = 0; i < bench->options.shape_count; i++) {
        const struct matrix *shape = &bench->options.shapes[i];
        flops += 2.0 * (double)bench->options.rows * (double)shape->n * (double)shape->k;
    }
    (void)printf(
        "{\"backend\": \"%s\", \"identity\": \"%s\", \"dtype\": \"%s\", \"threads\": %zu, \"rows\": %zu, "
        "\"flops\": %.0f, \"seconds\": %.6f, \"flops_per_second\": %.4e}\n",
        device_name(bench->device), device_identity(bench->device), bench->options.dtype,
        bench->options.threads, bench->options.rows, flops, median, flops / median);
    return true;
}

int main(int argc, char **argv)
{
    struct bench bench = {0};
    struct error error = {0};
    if (!parse(argc, argv, &bench.options)) {
        (void)fprintf(
            stderr,
            "usage: products [--dtype f32|bf16] [--backend NAME] [--threads N] [--rows N] [--runs N] NxK ...\n");
        return 2;
    }
    enum dtype dtype = strcmp(bench.options.dtype, "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32;
    struct pool *pool = pool_create(bench.options.threads, &error);
    bench.device = pool != NULL ? device_open(bench.options.backend, dtype, pool, NULL, &error) : NULL;
    bool is_good = bench.device != NULL;
    if (is_good) {
        bench.backend = device_get_backend(bench.device);
        is_good = prepare(&bench, &error) && measure(&bench, &error);
        for (size_t i = 0; i < bench.options.shape_count; i++) {
            bench.backend->memory_destroy(bench.device, bench.options.shapes[i].data);
        }
        bench.backend->memory_destroy(bench.device, bench.x);
        bench.backend->memory_destroy(bench.device, bench.out);
    }
    device_destroy(bench.device);
    pool_destroy(pool);
    if (!is_good) {
        (void)fprintf(stderr, "products: %s\n", error.message);
    }
    return is_good ? 0 : 1;
}
