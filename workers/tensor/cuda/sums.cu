/*
 * workers/tensor/cuda/sums.cu: what is read off rows: log-sum-exps and argmaxes, squares, distances, routes. One block a row;
 * the sums are double and their order is fixed by the length of the row.
 */
#include "workers/tensor/cuda/device.cuh"
#include "workers/tensor/cuda/kernels.h"

/* ---- scans ----------------------------------------------------------------------------------------------- */

static __global__ void __launch_bounds__(BLOCK_THREADS) scan_start_kernel(size_t rows, struct row_scan *scans)
{
    size_t row = (size_t)blockIdx.x * BLOCK_THREADS + threadIdx.x;
    if (row < rows) {
        struct row_scan start = {-INFINITY, 0.0, 0};
        scans[row] = start;
    }
}

extern "C" cudaError_t kernel_scan_start(size_t rows, struct row_scan *scans, cudaStream_t stream)
{
    if (rows == 0) {
        return cudaSuccess;
    }
    size_t blocks = (rows + BLOCK_THREADS - 1) / BLOCK_THREADS;
    scan_start_kernel<<<(unsigned)blocks, BLOCK_THREADS, 0, stream>>>(rows, scans);
    return cudaGetLastError();
}

struct best {
    float value;
    unsigned index;
};

static __device__ __forceinline__ struct best better(struct best a, float value, unsigned index)
{
    if (row_goes_before(value, index, a.value, a.index)) {
        a.value = value;
        a.index = index;
    }
    return a;
}

static __device__ __forceinline__ struct best warp_best(struct best mine)
{
#pragma unroll
    for (int step = WARP / 2; step > 0; step /= 2) {
        float value = __shfl_xor_sync(ALL_LANES, mine.value, step);
        unsigned index = __shfl_xor_sync(ALL_LANES, mine.index, step);
        mine = better(mine, value, index);
    }
    return mine;
}

/* Max and argmax of x [count], the same in every thread. Where nothing is above -infinity (NaN is not), index is UINT_MAX. */
static __device__ struct best block_best(const float *x, unsigned count, bool is_aligned, struct best *parts)
{
    struct best mine = {-INFINITY, 0xffffffffu};
    for (unsigned i = 4 * threadIdx.x; i < count; i += 4 * BLOCK_THREADS) {
        float4 a = load_quad(x, i, count, is_aligned, -INFINITY);
        mine = better(mine, a.x, i);
        mine = better(mine, a.y, i + 1);
        mine = better(mine, a.z, i + 2);
        mine = better(mine, a.w, i + 3);
    }
    mine = warp_best(mine);
    if (threadIdx.x % WARP == 0) {
        parts[threadIdx.x / WARP] = mine;
    }
    __syncthreads();
    mine = parts[0];
#pragma unroll
    for (int i = 1; i < BLOCK_WARPS; i++) {
        mine = better(mine, parts[i].value, parts[i].index);
    }
    __syncthreads();
    return mine;
}

/* Of one segment: quads of exponentials are added in fp32, the rest in double. */
static __device__ double block_exponentials(const float *x, unsigned count, float max, bool is_aligned,
                                            double *parts)
{
    double sum = 0.0;
    for (unsigned i = 4 * threadIdx.x; i < count; i += 4 * BLOCK_THREADS) {
        float4 a = load_quad(x, i, count, is_aligned, -INFINITY);
        sum += (double)((expf(a.x - max) + expf(a.y - max)) + (expf(a.z - max) + expf(a.w - max)));
    }
    return block_sum(sum, parts);
}

static __global__ void __launch_bounds__(BLOCK_THREADS) scan_kernel(struct kernel_scan job, bool is_aligned)
{
    __shared__ double sums[BLOCK_WARPS];
    __shared__ struct best bests[BLOCK_WARPS];
    size_t row = blockIdx.x;
    int32_t target = job.targets != NULL ? job.targets[row] : 0;
    if (target < 0) {
        return;
    }
    const float *logits = job.logits + row * job.stride;
    struct row_scan scan = job.scans[row];
    for (size_t start = 0; start < job.count; start += job.segment_columns) {
        size_t left = job.count - start;
        unsigned count = (unsigned)(left < job.segment_columns ? left : job.segment_columns);
        struct best best = block_best(logits + start, count, is_aligned, bests);
        double sum = block_exponentials(logits + start, count, best.value, is_aligned, sums);
        struct row_scan piece = {best.value, sum, job.first + start + best.index};
        row_scan_merge(&scan, &piece);
    }
    if (threadIdx.x > 0) {
        return;
    }
    job.scans[row] = scan;
    if (job.targets != NULL && (size_t)target >= job.first && (size_t)target < job.first + job.count) {
        job.target_logits[row] = logits[(size_t)target - job.first];
    }
}

extern "C" cudaError_t kernel_scan(const struct kernel_scan *job, cudaStream_t stream)
{
    if (job->rows == 0 || job->count == 0) {
        return cudaSuccess;
    }
    scan_kernel<<<(unsigned)job->rows, BLOCK_THREADS, 0, stream>>>(
        *job, is_quad_aligned(job->logits, job->stride) && job->segment_columns % 4 == 0);
    return cudaGetLastError();
}

/* ---- squares and distances ------------------------------------------------------------------------------- */

static __global__ void __launch_bounds__(BLOCK_THREADS)
    squares_kernel(size_t count, const float *x, size_t stride, double *squares)
{
    __shared__ double parts[BLOCK_WARPS];
    const float *row = x + blockIdx.x * stride;
    double sum = 0.0;
    for (size_t i = threadIdx.x; i < count; i += BLOCK_THREADS) {
        sum += (double)row[i] * (double)row[i];
    }
    sum = block_sum(sum, parts);
    if (threadIdx.x == 0) {
        squares[blockIdx.x] = sum;
    }
}

extern "C" cudaError_t kernel_squares(size_t rows, size_t count, const float *x, size_t stride,
                                      double *squares, cudaStream_t stream)
{
    if (rows == 0) {
        return cudaSuccess;
    }
    squares_kernel<<<(unsigned)rows, BLOCK_THREADS, 0, stream>>>(count, x, stride, squares);
    return cudaGetLastError();
}

static __global__ void __launch_bounds__(BLOCK_THREADS) distance_kernel(struct kernel_distance job)
{
    __shared__ double parts[BLOCK_WARPS];
    size_t row = blockIdx.x;
    const float *original = job.original + row * job.original_stride;
    const float *candidate = job.candidate + row * job.candidate_stride;
    double a_scale = job.kind != ROW_SQUARES ? job.original_scales[row] : 0.0;
    double b_scale = job.kind != ROW_SQUARES ? job.candidate_scales[row] : 0.0;
    double sum = 0.0, along = 0.0;
    for (size_t i = threadIdx.x; i < job.count; i += BLOCK_THREADS) {
        double a = (double)original[i], b = (double)candidate[i];
        if (job.kind == ROW_SQUARES) {
            sum += (a - b) * (a - b);
        } else if (job.kind == ROW_ANGULAR) {
            a /= a_scale;
            b /= b_scale;
            /* Rounded before the subtraction: fused with the division's correction, equal rows could differ. */
            double minus = __dadd_rn(a, -b), plus = __dadd_rn(a, b);
            sum += minus * minus;
            along += plus * plus;
        } else {
            sum += row_divergence(job.kind, a - a_scale, b - b_scale);
        }
    }
    sum = block_sum(sum, parts);
    along = block_sum(along, parts);
    if (threadIdx.x == 0) {
        job.distances[row] = job.kind == ROW_ANGULAR ? row_angle(sum, along) : sum;
    }
}

extern "C" cudaError_t kernel_distance(const struct kernel_distance *job, cudaStream_t stream)
{
    if (job->rows == 0) {
        return cudaSuccess;
    }
    distance_kernel<<<(unsigned)job->rows, BLOCK_THREADS, 0, stream>>>(*job);
    return cudaGetLastError();
}

/* ---- routes ----------------------------------------------------------------------------------------------- */

/* A thread a row: there are few experts, and their order is the same loop as on the host. */
static __global__ void __launch_bounds__(BLOCK_THREADS)
    route_kernel(size_t rows, size_t expert_count, size_t active_count, bool is_normalised,
                 const float *logits, size_t stride, int32_t *experts, float *weights)
{
    size_t row = (size_t)blockIdx.x * BLOCK_THREADS + threadIdx.x;
    if (row < rows) {
        row_route(logits + row * stride, expert_count, active_count, is_normalised,
                  experts + row * active_count, weights + row * active_count);
    }
}

extern "C" cudaError_t kernel_route(size_t rows, size_t expert_count, size_t active_count, bool is_normalised,
                                    const float *logits, size_t stride, int32_t *experts, float *weights,
                                    cudaStream_t stream)
{
    if (rows == 0 || active_count == 0) {
        return cudaSuccess;
    }
    size_t blocks = (rows + BLOCK_THREADS - 1) / BLOCK_THREADS;
    route_kernel<<<(unsigned)blocks, BLOCK_THREADS, 0, stream>>>(
        rows, expert_count, active_count, is_normalised, logits, stride, experts, weights);
    return cudaGetLastError();
}
