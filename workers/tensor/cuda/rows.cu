/*
 * workers/tensor/cuda/rows.cu: kernels that turn rows into rows. All are bound by memory: elements move in quads where
 * rows are aligned, rows go along y (or one block each), and no element is read twice from far away.
 */
#include "workers/tensor/cuda/device.cuh"
#include "workers/tensor/cuda/kernels.h"

/* ---- norm ----------------------------------------------------------------------------------------------- */

/* What a warp (IS_BLOCK false) or a block adds up for one group of a row. */
template <bool IS_BLOCK> static __device__ __forceinline__ double group_sum(double value, double *parts)
{
    return IS_BLOCK ? block_sum(value, parts) : warp_sum(value);
}

/* One group per warp, or per block. Quad q of the group belongs to member q % MEMBERS, so the order of sums is fixed by
 * `size`. Members write only what they alone have read: out may be x. */
template <bool IS_BLOCK>
static __global__ void __launch_bounds__(BLOCK_THREADS) norm_kernel(struct kernel_norm job, bool is_aligned)
{
    __shared__ double parts[BLOCK_WARPS];
    constexpr size_t members = IS_BLOCK ? BLOCK_THREADS : WARP;
    size_t member = threadIdx.x % members;
    size_t item = IS_BLOCK ? blockIdx.x : (size_t)blockIdx.x * BLOCK_WARPS + threadIdx.x / WARP;
    if (item >= job.rows * job.groups) {
        return; /* a whole warp; blocks of the other kind never get here */
    }
    size_t row = item / job.groups, group = item % job.groups, size = job.size;
    const float *x = job.x + row * job.x_stride + group * size;
    float *out = job.out + row * job.out_stride + group * size;
    double sum = 0.0, mean = 0.0;
    if (!job.is_rms) {
        for (size_t i = 4 * member; i < size; i += 4 * members) {
            float4 a = load_quad(x, i, size, is_aligned, 0.0f);
            sum += ((double)a.x + (double)a.y) + ((double)a.z + (double)a.w);
        }
        mean = group_sum<IS_BLOCK>(sum, parts) / (double)size;
        sum = 0.0;
    }
    for (size_t i = 4 * member; i < size; i += 4 * members) {
        float4 a = load_quad(x, i, size, is_aligned, 0.0f);
        if (job.is_rms) {
            sum += (double)((a.x * a.x + a.y * a.y) + (a.z * a.z + a.w * a.w));
            continue;
        }
        const float values[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
        for (size_t j = 0; j < 4; j++) {
            double apart = i + j < size ? (double)values[j] - mean : 0.0;
            sum += apart * apart;
        }
    }
    double variance = group_sum<IS_BLOCK>(sum, parts) / (double)size;
    float factor = (float)(1.0 / sqrt(variance + (double)job.epsilon)), middle = (float)mean;
    float middle_rest = (float)(mean - (double)middle);
    for (size_t i = 4 * member; i < size; i += 4 * members) {
        float4 a = load_quad(x, i, size, is_aligned, 0.0f);
        float4 w = load_quad(job.weight, i, size, is_aligned, 0.0f);
        float4 b = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (job.bias != NULL) {
            b = load_quad(job.bias, i, size, is_aligned, 0.0f);
        }
        float4 y;
        y.x = ((a.x - middle) - middle_rest) * factor * w.x + b.x;
        y.y = ((a.y - middle) - middle_rest) * factor * w.y + b.y;
        y.z = ((a.z - middle) - middle_rest) * factor * w.z + b.z;
        y.w = ((a.w - middle) - middle_rest) * factor * w.w + b.w;
        store_quad(out, i, size, is_aligned, y);
        if (job.rounded != NULL) {
            store_rounded(job.rounded + row * job.rounded_stride + i, y);
        }
    }
}

extern "C" cudaError_t kernel_norm(const struct kernel_norm *job, cudaStream_t stream)
{
    size_t items = job->rows * job->groups;
    if (items == 0 || job->size == 0) {
        return cudaSuccess;
    }
    bool is_aligned = is_quad_aligned(job->x, job->x_stride) && is_quad_aligned(job->out, job->out_stride) &&
                      is_quad_aligned(job->weight, 0) && is_quad_aligned(job->bias, 0) &&
                      (job->groups == 1 || job->size % 4 == 0);
    if (job->size <= 1024) {
        size_t blocks = (items + BLOCK_WARPS - 1) / BLOCK_WARPS;
        norm_kernel<false><<<(unsigned)blocks, BLOCK_THREADS, 0, stream>>>(*job, is_aligned);
    } else {
        norm_kernel<true><<<(unsigned)items, BLOCK_THREADS, 0, stream>>>(*job, is_aligned);
    }
    return cudaGetLastError();
}

/* ---- element by element --------------------------------------------------------------------------------- */

static dim3 quad_grid(size_t rows, size_t count)
{
    size_t quads = (count + 3) / 4;
    return dim3((unsigned)((quads + BLOCK_THREADS - 1) / BLOCK_THREADS), grid_y(rows));
}

static __device__ __forceinline__ size_t my_column()
{
    return 4 * ((size_t)blockIdx.x * BLOCK_THREADS + threadIdx.x);
}

static __global__ void __launch_bounds__(BLOCK_THREADS)
    round_kernel(size_t rows, size_t count, const float *x, size_t x_stride, uint16_t *to, size_t to_stride,
                 bool is_aligned)
{
    size_t column = my_column();
    if (column >= to_stride) {
        return;
    }
    for (size_t row = blockIdx.y; row < rows; row += gridDim.y) {
        store_rounded(to + row * to_stride + column,
                      load_quad(x + row * x_stride, column, count, is_aligned, 0.0f));
    }
}

extern "C" cudaError_t kernel_round(size_t rows, size_t count, const float *x, size_t x_stride, uint16_t *to,
                                    size_t to_stride, cudaStream_t stream)
{
    if (rows == 0 || to_stride == 0) {
        return cudaSuccess;
    }
    round_kernel<<<quad_grid(rows, to_stride), BLOCK_THREADS, 0, stream>>>(
        rows, count, x, x_stride, to, to_stride, is_quad_aligned(x, x_stride));
    return cudaGetLastError();
}

static __global__ void __launch_bounds__(BLOCK_THREADS)
    bias_kernel(size_t rows, size_t count, const float *bias, float *x, size_t stride, bool is_aligned)
{
    size_t column = my_column();
    if (column >= count) {
        return;
    }
    float4 b = load_quad(bias, column, count, is_aligned, 0.0f);
    for (size_t row = blockIdx.y; row < rows; row += gridDim.y) {
        float4 a = load_quad(x + row * stride, column, count, is_aligned, 0.0f);
        store_quad(x + row * stride, column, count, is_aligned,
                   make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w));
    }
}

extern "C" cudaError_t kernel_add_bias(size_t rows, size_t count, const float *bias, float *x, size_t stride,
                                       cudaStream_t stream)
{
    if (rows == 0 || count == 0) {
        return cudaSuccess;
    }
    bias_kernel<<<quad_grid(rows, count), BLOCK_THREADS, 0, stream>>>(
        rows, count, bias, x, stride, is_quad_aligned(x, stride) && is_quad_aligned(bias, 0));
    return cudaGetLastError();
}

template <enum row_activation KIND>
static __global__ void __launch_bounds__(BLOCK_THREADS)
    activate_kernel(struct kernel_activate job, bool is_aligned)
{
    size_t column = my_column();
    if (column >= job.count) {
        return;
    }
    for (size_t row = blockIdx.y; row < job.rows; row += gridDim.y) {
        float *x = job.x + row * job.stride;
        float4 a = load_quad(x, column, job.count, is_aligned, 0.0f), y;
        y.x = row_activate(KIND, a.x);
        y.y = row_activate(KIND, a.y);
        y.z = row_activate(KIND, a.z);
        y.w = row_activate(KIND, a.w);
        if (job.up != NULL) {
            float4 up = load_quad(job.up + row * job.stride, column, job.count, is_aligned, 0.0f);
            y = make_float4(y.x * up.x, y.y * up.y, y.z * up.z, y.w * up.w);
        }
        store_quad(x, column, job.count, is_aligned, y);
        if (job.rounded != NULL) {
            store_rounded(job.rounded + row * job.rounded_stride + column, y);
        }
    }
}

extern "C" cudaError_t kernel_activate(const struct kernel_activate *job, cudaStream_t stream)
{
    if (job->rows == 0 || job->count == 0) {
        return cudaSuccess;
    }
    dim3 grid = quad_grid(job->rows, job->count);
    bool is_aligned = is_quad_aligned(job->x, job->stride) && is_quad_aligned(job->up, job->stride);
    switch (job->kind) {
    case ROW_SILU:
        activate_kernel<ROW_SILU><<<grid, BLOCK_THREADS, 0, stream>>>(*job, is_aligned);
        break;
    case ROW_GELU:
        activate_kernel<ROW_GELU><<<grid, BLOCK_THREADS, 0, stream>>>(*job, is_aligned);
        break;
    case ROW_GELU_TANH:
        activate_kernel<ROW_GELU_TANH><<<grid, BLOCK_THREADS, 0, stream>>>(*job, is_aligned);
        break;
    case ROW_RELU:
        activate_kernel<ROW_RELU><<<grid, BLOCK_THREADS, 0, stream>>>(*job, is_aligned);
        break;
    }
    return cudaGetLastError();
}

static __global__ void __launch_bounds__(BLOCK_THREADS) add_kernel(struct kernel_add job, bool is_aligned)
{
    size_t column = my_column();
    if (column >= job.size) {
        return;
    }
    bool is_finite = true;
    for (size_t row = blockIdx.y; row < job.rows; row += gridDim.y) {
        size_t to_row = job.to_rows != NULL ? (size_t)job.to_rows[row] : row;
        float factor = job.factors != NULL ? job.factors[row] : 1.0f;
        float *to = job.to + to_row * job.to_stride;
        float4 a = load_quad(to, column, job.size, is_aligned, 0.0f);
        float4 b = load_quad(job.from + row * job.from_stride, column, job.size, is_aligned, 0.0f);
        a = make_float4(fmaf(factor, b.x, a.x), fmaf(factor, b.y, a.y), fmaf(factor, b.z, a.z),
                        fmaf(factor, b.w, a.w));
        store_quad(to, column, job.size, is_aligned, a);
        is_finite = is_finite && isfinite(a.x) && isfinite(a.y) && isfinite(a.z) && isfinite(a.w);
    }
    if (!is_finite) {
        *job.is_finite = 0; /* all who write here write the same */
    }
}

extern "C" cudaError_t kernel_add(const struct kernel_add *job, cudaStream_t stream)
{
    if (job->rows == 0 || job->size == 0) {
        return cudaSuccess;
    }
    add_kernel<<<quad_grid(job->rows, job->size), BLOCK_THREADS, 0, stream>>>(
        *job, is_quad_aligned(job->to, job->to_stride) && is_quad_aligned(job->from, job->from_stride));
    return cudaGetLastError();
}

static __global__ void __launch_bounds__(BLOCK_THREADS)
    copy_kernel(size_t rows, size_t size, float *to, size_t to_stride, const float *from, size_t from_stride,
                const int32_t *to_rows, const int32_t *from_rows, bool is_aligned)
{
    size_t column = my_column();
    if (column >= size) {
        return;
    }
    for (size_t row = blockIdx.y; row < rows; row += gridDim.y) {
        size_t to_row = to_rows != NULL ? (size_t)to_rows[row] : row;
        size_t from_row = from_rows != NULL ? (size_t)from_rows[row] : row;
        store_quad(to + to_row * to_stride, column, size, is_aligned,
                   load_quad(from + from_row * from_stride, column, size, is_aligned, 0.0f));
    }
}

extern "C" cudaError_t kernel_copy_rows(size_t rows, size_t size, float *to, size_t to_stride,
                                        const float *from, size_t from_stride, const int32_t *to_rows,
                                        const int32_t *from_rows, cudaStream_t stream)
{
    if (rows == 0 || size == 0) {
        return cudaSuccess;
    }
    copy_kernel<<<quad_grid(rows, size), BLOCK_THREADS, 0, stream>>>(
        rows, size, to, to_stride, from, from_stride, to_rows, from_rows,
        is_quad_aligned(to, to_stride) && is_quad_aligned(from, from_stride));
    return cudaGetLastError();
}

static __global__ void __launch_bounds__(BLOCK_THREADS)
    softcap_kernel(size_t rows, size_t count, float *x, size_t stride, float cap, bool is_aligned)
{
    size_t column = my_column();
    if (column >= count) {
        return;
    }
    for (size_t row = blockIdx.y; row < rows; row += gridDim.y) {
        float4 a = load_quad(x + row * stride, column, count, is_aligned, 0.0f);
        store_quad(x + row * stride, column, count, is_aligned,
                   make_float4(row_softcap(a.x, cap), row_softcap(a.y, cap), row_softcap(a.z, cap),
                               row_softcap(a.w, cap)));
    }
}

extern "C" cudaError_t kernel_softcap(size_t rows, size_t count, float *x, size_t stride, float cap,
                                      cudaStream_t stream)
{
    if (rows == 0 || count == 0) {
        return cudaSuccess;
    }
    softcap_kernel<<<quad_grid(rows, count), BLOCK_THREADS, 0, stream>>>(rows, count, x, stride, cap,
                                                                         is_quad_aligned(x, stride));
    return cudaGetLastError();
}

/* ---- rope ------------------------------------------------------------------------------------------------ */

static __global__ void __launch_bounds__(BLOCK_THREADS) rope_kernel(struct kernel_rope job)
{
    float *row = job.x + (size_t)job.rows[blockIdx.x] * job.stride;
    size_t angles = (size_t)job.positions[blockIdx.x] * job.half;
    unsigned half = (unsigned)job.half, pairs = half * (unsigned)job.heads;
    for (unsigned pair = threadIdx.x; pair < pairs; pair += BLOCK_THREADS) {
        unsigned head = pair / half, i = pair % half;
        float *a = row + (size_t)head * job.head_size + i, *b = a + half;
        float first = *a, second = *b;
        row_turn(&first, &second, job.cosines[angles + i], job.sines[angles + i]);
        *a = first;
        *b = second;
    }
}

extern "C" cudaError_t kernel_rope(const struct kernel_rope *job, cudaStream_t stream)
{
    if (job->count == 0 || job->heads == 0 || job->half == 0) {
        return cudaSuccess;
    }
    rope_kernel<<<(unsigned)job->count, BLOCK_THREADS, 0, stream>>>(*job);
    return cudaGetLastError();
}
