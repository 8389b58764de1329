/*
 * bench/gemm.c: matrix products of every backend of this machine beside what its multiply-add units can do at most. One JSON object
 * a line:
 *
 *     gemm [--threads N] [--runs N] [ROWSxNxK ...]
 *
 * First the peaks, measured on all threads at once: independent chains of one instruction (FMA for f32; VDPBF16PS, or AMX's
 * TDPBF16PS with its operands in registers, for bf16), nothing loaded. Then backend, dtype and shape: the best of the runs, and its share of the
 * peak. PRUNED_ISA pins the instruction set of the peaks too.
 */
#include "base/clock.h"
#include "base/memory.h"
#include "base/rng.h"
#include "workers/tensor/backend.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { SHAPES_MAX = 16, CHAINS = 12, PEAK_STEPS = 2000000 };

struct shape {
    size_t rows, n, k;
};

struct options {
    size_t threads, runs, shape_count;
    struct shape shapes[SHAPES_MAX];
};

static bool parse(int argc, char **argv, struct options *options)
{
    static const struct shape usual[] = {{2048, 4096, 4096}, {2048, 8192, 2048}, {2048, 2048, 8192},
                                         {2048, 1536, 576},  {128, 4096, 4096},  {16, 4096, 4096},
                                         {1, 4096, 4096}};
    *options = (struct options){.threads = 2, .runs = 5};
    for (int i = 1; i < argc; i++) {
        struct shape shape = {0};
        if (sscanf(argv[i], "%zux%zux%zu", &shape.rows, &shape.n, &shape.k) == 3 &&
            options->shape_count < SHAPES_MAX) {
            options->shapes[options->shape_count++] = shape;
        } else if (strcmp(argv[i], "--threads") == 0 && i + 1 < argc) {
            options->threads = (size_t)strtoull(argv[++i], NULL, 10);
        } else if (strcmp(argv[i], "--runs") == 0 && i + 1 < argc) {
            options->runs = (size_t)strtoull(argv[++i], NULL, 10);
        } else {
            return false;
        }
    }
    if (options->shape_count == 0) {
        memcpy(options->shapes, usual, sizeof usual);
        options->shape_count = sizeof usual / sizeof usual[0];
    }
    return options->threads > 0 && options->runs > 0;
}

/* ---- peaks ------------------------------------------------------------------------------------------------------- */

/* Operations of one step of all chains, and the chains. The empty asm keeps each sum in its register and the loop in place. */
struct peak {
    const char *name;
    double flops;
    void (*run)(void);
};

#if defined(__x86_64__)
#define UNROLLED _Pragma("GCC unroll 16")

#define CHAIN_LOOP(type, first, next)                                                                        \
    type sums[CHAINS];                                                                                       \
    UNROLLED                                                                                                 \
    for (int c = 0; c < CHAINS; c++) {                                                                       \
        sums[c] = first;                                                                                     \
    }                                                                                                        \
    for (int i = 0; i < PEAK_STEPS; i++) {                                                                   \
        UNROLLED                                                                                             \
        for (int c = 0; c < CHAINS; c++) {                                                                   \
            sums[c] = next;                                                                                  \
        }                                                                                                    \
    }                                                                                                        \
    UNROLLED                                                                                                 \
    for (int c = 0; c < CHAINS; c++) {                                                                       \
        __asm__ volatile("" ::"v"(sums[c]));                                                                 \
    }

__attribute__((target("avx2,fma"))) static void fma_avx2(void)
{
    __m256 a = _mm256_set1_ps(0.999f);
    CHAIN_LOOP(__m256, _mm256_set1_ps((float)c), _mm256_fmadd_ps(sums[c], a, a))
}

__attribute__((target("avx512f"))) static void fma_avx512(void)
{
    __m512 a = _mm512_set1_ps(0.999f);
    CHAIN_LOOP(__m512, _mm512_set1_ps((float)c), _mm512_fmadd_ps(sums[c], a, a))
}

__attribute__((target("avx512f,avx512bf16"))) static void dot_avx512(void)
{
    __m512bh a = (__m512bh)_mm512_set1_epi32(0x3c003c00);
    CHAIN_LOOP(__m512, _mm512_set1_ps((float)c), _mm512_dpbf16_ps(sums[c], a, a))
}

/* Four accumulators, two tiles each of a and b: what a product has. Run only where `native` has asked for the tiles. */
__attribute__((target("amx-tile,amx-bf16"))) static void dot_amx(void)
{
    unsigned char config[64] = {1};
    for (size_t t = 0; t < 8; t++) {
        config[16 + 2 * t] = 64;
        config[48 + t] = 16;
    }
    __asm__ volatile("" ::"r"(config) : "memory"); /* all of it is read, which the intrinsic does not say */
    _tile_loadconfig(config);
    for (int t = 0; t < PEAK_STEPS / 8; t++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
}

static const struct peak peaks[] = {
    {"fma avx2", (double)PEAK_STEPS *CHAINS * 8 * 2, fma_avx2},
    {"fma avx512", (double)PEAK_STEPS *CHAINS * 16 * 2, fma_avx512},
    {"vdpbf16ps", (double)PEAK_STEPS *CHAINS * 32 * 2, dot_avx512},
    {"tdpbf16ps", (double)PEAK_STEPS / 8 * 4 * 16 * 16 * 32 * 2, dot_amx},
};

static const struct peak *peak_of(const char *isa, enum dtype dtype)
{
    bool is_avx512 = strncmp(isa, "avx512", 6) == 0 || strcmp(isa, "amx") == 0;
    if (dtype == DTYPE_BF16 && strcmp(isa, "amx") == 0) {
        return &peaks[3];
    }
    if (dtype == DTYPE_BF16 && strcmp(isa, "avx512_bf16") == 0) {
        return &peaks[2];
    }
    return is_avx512 ? &peaks[1] : strcmp(isa, "baseline") == 0 ? NULL : &peaks[0];
}
#else
static const struct peak *peak_of(const char *isa, enum dtype dtype)
{
    (void)isa;
    (void)dtype;
    return NULL;
}
#endif

static void peak_task(void *context, size_t index, size_t thread)
{
    (void)index;
    (void)thread;
    const struct peak *peak = context;
    peak->run();
}

static double seconds_since(int64_t start)
{
    return (double)(clock_boot_ns(&clock_system) - start) / 1e9;
}

/* FLOP/s of all threads; 0: no such instruction here. */
static double measure_peak(const struct options *options, struct pool *pool, enum dtype dtype)
{
    struct device *device = device_open("native", dtype, pool, NULL, NULL);
    struct peak peak = {0};
    if (device != NULL && peak_of(device_identity(device), dtype) != NULL) {
        peak = *peak_of(device_identity(device), dtype);
    }
    device_destroy(device);
    double best = 0.0;
    for (size_t i = 0; i <= options->runs && peak.run != NULL; i++) {
        int64_t start = clock_boot_ns(&clock_system);
        if (!pool_run(pool, options->threads, peak_task, &peak, NULL, NULL)) {
            break;
        }
        double rate = (double)options->threads * peak.flops / seconds_since(start);
        best = rate > best ? rate : best;
    }
    (void)printf("{\"peak\": \"%s\", \"dtype\": \"%s\", \"threads\": %zu, \"flops_per_second\": %.4e}\n",
                 peak.name != NULL ? peak.name : "none", dtype_slug(dtype), options->threads, best);
    return best;
}

/* ---- products ---------------------------------------------------------------------------------------------------- */

static float *fill(struct device *device, size_t count, struct error *error)
{
    const struct backend *ops = device_get_backend(device);
    OWNED_MEMORY float *values = memory_create(count, sizeof *values);
    struct rng rng = {.seed = 3};
    for (size_t i = 0; i < count; i++) {
        values[i] = i < 4096 ? (float)rng_below(&rng, i, 2001) / 1000.0f - 1.0f : values[i - 4093];
    }
    float *memory = ops->memory_create(device, count * sizeof *memory, "values", error);
    if (memory != NULL && !ops->memory_write(device, memory, values, count * sizeof *memory, error)) {
        ops->memory_destroy(device, memory);
        return NULL;
    }
    return memory;
}

static bool fill_matrix(struct device *device, struct matrix *matrix, struct error *error)
{
    const struct backend *ops = device_get_backend(device);
    OWNED_MEMORY float *row = memory_create(matrix->k, sizeof *row);
    for (size_t i = 0; i < matrix->k; i++) {
        row[i] = (float)(i * 7 % 19) / 10.0f - 0.9f;
    }
    matrix->data =
        ops->memory_create(device, ops->matrix_bytes(matrix->dtype, matrix->n, matrix->k), "a matrix", error);
    for (size_t r = 0; r < matrix->n && matrix->data != NULL; r++) {
        if (!ops->matrix_write(device, matrix, r, 1, row, matrix->k, error)) {
            return false;
        }
    }
    return matrix->data != NULL;
}

/* The best of the runs, in seconds; the first, which sets up scratch, is not counted. */
static bool time_product(const struct options *options, struct device *device, const struct matmul *job,
                         double *ret_best, struct error *error)
{
    const struct backend *ops = device_get_backend(device);
    struct exec exec = {.device = device, .is_shared = true};
    *ret_best = 1e30;
    for (size_t i = 0; i <= options->runs; i++) {
        int64_t start = clock_boot_ns(&clock_system);
        float last = 0.0f; /* waits for the device */
        if (!ops->matmul(&exec, job, error) ||
            !ops->memory_read(device, &last, job->out, sizeof last, error)) {
            return false;
        }
        double seconds = seconds_since(start);
        *ret_best = i > 0 && seconds < *ret_best ? seconds : *ret_best;
    }
    return true;
}

static bool measure_shape(const struct options *options, struct device *device, enum dtype dtype,
                          const struct shape *shape, double peak, struct error *error)
{
    const struct backend *ops = device_get_backend(device);
    struct matrix w = {.dtype = dtype, .n = shape->n, .k = shape->k};
    struct segment whole = {.count = shape->rows};
    bool is_lone = shape->rows <= 16; /* as decoding asks for them */
    struct matmul job = {.rows = shape->rows,
                         .x_stride = shape->k,
                         .w = &w,
                         .out_stride = shape->n,
                         .segments = is_lone ? NULL : &whole,
                         .segment_count = is_lone ? 0 : 1};
    float *x = fill(device, shape->rows * shape->k, error);
    job.x = x;
    job.out = ops->memory_create(device, shape->rows * shape->n * sizeof(float), "out", error);
    double best = 0.0;
    bool is_good = x != NULL && job.out != NULL && fill_matrix(device, &w, error) &&
                   time_product(options, device, &job, &best, error);
    if (is_good) {
        double rate = 2.0 * (double)shape->rows * (double)shape->n * (double)shape->k / best;
        (void)printf(
            "{\"backend\": \"%s\", \"identity\": \"%s\", \"dtype\": \"%s\", \"threads\": %zu, \"shape\": \"%zux%zux%zu\", "
            "\"seconds\": %.6f, \"flops_per_second\": %.4e, \"of_peak\": %.3f}\n",
            device_name(device), device_identity(device), dtype_slug(dtype), options->threads, shape->rows,
            shape->n, shape->k, best, rate, peak > 0.0 ? rate / peak : 0.0);
    }
    ops->memory_destroy(device, w.data);
    ops->memory_destroy(device, job.out);
    ops->memory_destroy(device, x);
    return is_good;
}

static bool measure_backend(const struct options *options, const char *name, enum dtype dtype,
                            struct pool *pool, double peak, struct error *error)
{
    struct device *device = device_open(name, dtype, pool, NULL, NULL);
    bool is_good = true;
    if (device != NULL && device_get_backend(device)->supports(device_state(device), dtype) &&
        strcmp(name, "reference") != 0) {
        for (size_t i = 0; i < options->shape_count && is_good; i++) {
            is_good = measure_shape(options, device, dtype, &options->shapes[i], peak, error);
            (void)fflush(stdout);
        }
    }
    device_destroy(device);
    return is_good;
}

int main(int argc, char **argv)
{
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16};
    struct options options;
    struct error error = {0};
    if (!parse(argc, argv, &options)) {
        (void)fprintf(stderr, "usage: gemm [--threads N] [--runs N] [ROWSxNxK ...]\n");
        return 2;
    }
    OWNED(pool) pool = pool_create(options.threads, &error);
    bool is_good = pool != NULL;
    for (size_t d = 0; d < 2 && is_good; d++) {
        double peak = measure_peak(&options, pool, dtypes[d]);
        for (const char *const *name = backend_names(); *name != NULL && is_good; name++) {
            is_good = measure_backend(&options, *name, dtypes[d], pool, peak, &error);
        }
    }
    if (!is_good) {
        (void)fprintf(stderr, "gemm: %s\n", error.message);
    }
    return is_good ? 0 : 1;
}
