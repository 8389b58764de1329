/*
 * workers/tensor/cuda/matrix_peak.c: the rate of bf16 products that this GPU reaches at large shapes, by cuBLASLt alone: random
 * operands, bf16 results, the fastest of the algorithms that the library proposes for each shape. One line of JSON a shape, and
 * one for the best. It is what the forward pass on a GPU is compared with (bench/cuda.md).
 *
 *     cuda_matrix_peak [SECONDS]        seconds to spend on each shape, 1
 *
 * Operands are random: rates depend on the bits through the power they take, and zeros flatter.
 */
#include "base/rng.h"
#include "workers/tensor/dtype.h"
#include <cublasLt.h>
#include <cuda_runtime.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define CANDIDATES      8
#define WORKSPACE_BYTES ((size_t)64 << 20)
#define BLOCK           ((size_t)1 << 20) /* random values that are repeated */

#define FINE(call) check((int)(call), #call)
static void check(int status, const char *call)
{
    if (status != 0) {
        (void)fprintf(stderr, "%s: status %d\n", call, status);
        exit(status == cudaErrorNoDevice || status == cudaErrorInsufficientDriver ? 77 : 1);
    }
}

struct shape {
    uint64_t rows, n, k;
};
/* The last four: products of the 8B shape over 8192 rows. */
static const struct shape shapes[] = {{8192, 8192, 8192}, {16384, 8192, 8192}, {8192, 16384, 16384},
                                      {8192, 4096, 4096}, {8192, 1024, 4096},  {8192, 14336, 4096},
                                      {8192, 4096, 14336}};

static void *make_operand(uint64_t count, uint32_t stream)
{
    static float values[BLOCK];
    static uint16_t rounded[BLOCK];
    const struct rng rng = {.seed = 1, .stream = stream};
    void *operand = NULL;
    for (size_t i = 0; i < BLOCK; i++) {
        values[i] = (float)(2.0 * rng_unit(&rng, i) - 1.0);
    }
    dtype_from_f32(DTYPE_BF16, values, BLOCK, rounded);
    FINE(cudaMalloc(&operand, count * 2));
    for (uint64_t start = 0; start < count; start += BLOCK) {
        uint64_t part = count - start < BLOCK ? count - start : BLOCK;
        FINE(cudaMemcpy((char *)operand + start * 2, rounded, part * 2, cudaMemcpyHostToDevice));
    }
    return operand;
}

struct product {
    cublasLtHandle_t blas;
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t w, x, out;
    void *w_data, *x_data, *out_data, *workspace;
};

static void multiply(const struct product *product, const cublasLtMatmulAlgo_t *algorithm)
{
    const float one = 1.0f, zero = 0.0f;
    FINE(cublasLtMatmul(product->blas, product->operation, &one, product->w_data, product->w, product->x_data,
                        product->x, &zero, product->out_data, product->out, product->out_data, product->out,
                        algorithm, product->workspace, WORKSPACE_BYTES, NULL));
}

/* Seconds that `count` products take. */
static double time_products(const struct product *product, const cublasLtMatmulAlgo_t *algorithm, int count)
{
    cudaEvent_t start, end;
    float milliseconds = 0.0f;
    FINE(cudaEventCreate(&start));
    FINE(cudaEventCreate(&end));
    FINE(cudaEventRecord(start, NULL));
    for (int i = 0; i < count; i++) {
        multiply(product, algorithm);
    }
    FINE(cudaEventRecord(end, NULL));
    FINE(cudaEventSynchronize(end));
    FINE(cudaEventElapsedTime(&milliseconds, start, end));
    FINE(cudaEventDestroy(start));
    FINE(cudaEventDestroy(end));
    return (double)milliseconds * 1e-3;
}

/* FLOP/s */
static double measure(cublasLtHandle_t blas, const struct shape *shape, double seconds)
{
    struct product product = {.blas = blas};
    const cublasOperation_t turned = CUBLAS_OP_T;
    const uint64_t workspace = WORKSPACE_BYTES;
    product.w_data = make_operand(shape->n * shape->k, 1);
    product.x_data = make_operand(shape->rows * shape->k, 2);
    FINE(cudaMalloc(&product.out_data, shape->rows * shape->n * 2));
    FINE(cudaMalloc(&product.workspace, WORKSPACE_BYTES));
    FINE(cublasLtMatmulDescCreate(&product.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    FINE(cublasLtMatmulDescSetAttribute(product.operation, CUBLASLT_MATMUL_DESC_TRANSA, &turned,
                                        sizeof turned));
    FINE(cublasLtMatrixLayoutCreate(&product.w, CUDA_R_16BF, shape->k, shape->n, (int64_t)shape->k));
    FINE(cublasLtMatrixLayoutCreate(&product.x, CUDA_R_16BF, shape->k, shape->rows, (int64_t)shape->k));
    FINE(cublasLtMatrixLayoutCreate(&product.out, CUDA_R_16BF, shape->n, shape->rows, (int64_t)shape->n));
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t results[CANDIDATES];
    int count = 0;
    FINE(cublasLtMatmulPreferenceCreate(&preference));
    FINE(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                              &workspace, sizeof workspace));
    FINE(cublasLtMatmulAlgoGetHeuristic(blas, product.operation, product.w, product.x, product.out,
                                        product.out, preference, CANDIDATES, results, &count));
    double flops = 2.0 * (double)shape->rows * (double)shape->n * (double)shape->k, best = 0.0;
    for (int i = 0; i < count; i++) {
        multiply(&product, &results[i].algo);
        double once = time_products(&product, &results[i].algo, 2) / 2.0;
        double wanted = seconds / (double)count / once;
        int repeats = wanted > 2.0 ? (int)wanted : 2;
        double rate = flops * (double)repeats / time_products(&product, &results[i].algo, repeats);
        best = rate > best ? rate : best;
    }
    FINE(cublasLtMatmulPreferenceDestroy(preference));
    FINE(cublasLtMatrixLayoutDestroy(product.w));
    FINE(cublasLtMatrixLayoutDestroy(product.x));
    FINE(cublasLtMatrixLayoutDestroy(product.out));
    FINE(cublasLtMatmulDescDestroy(product.operation));
    FINE(cudaFree(product.w_data));
    FINE(cudaFree(product.x_data));
    FINE(cudaFree(product.out_data));
    FINE(cudaFree(product.workspace));
    return best;
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? strtod(argv[1], NULL) : 1.0, best = 0.0;
    struct cudaDeviceProp properties;
    FINE(cudaSetDevice(0));
    FINE(cudaGetDeviceProperties(&properties, 0));
    cublasLtHandle_t blas;
    FINE(cublasLtCreate(&blas));
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        double rate = measure(blas, &shapes[i], seconds > 0.0 ? seconds : 1.0);
        best = rate > best ? rate : best;
        (void)printf("{\"rows\": %llu, \"n\": %llu, \"k\": %llu, \"tflops\": %.1f}\n",
                     (unsigned long long)shapes[i].rows, (unsigned long long)shapes[i].n,
                     (unsigned long long)shapes[i].k, rate * 1e-12);
        (void)fflush(stdout);
    }
    (void)printf("{\"gpu\": \"%s\", \"dtype\": \"bf16\", \"peak_tflops\": %.1f}\n", properties.name,
                 best * 1e-12);
    FINE(cublasLtDestroy(blas));
    return 0;
}
