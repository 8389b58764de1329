/* workers/tensor/cuda/device.cuh: what the kernels share: quads of a row, sums over a warp or a block in a fixed order. */
#ifndef WORKERS_TENSOR_CUDA_DEVICE_CUH
#define WORKERS_TENSOR_CUDA_DEVICE_CUH

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <stddef.h>
#include <stdint.h>

#define BLOCK_THREADS 256
#define WARP          32
#define BLOCK_WARPS   (BLOCK_THREADS / WARP)
#define GRID_Y        32768u /* rows in flight of two-dimensional grids, whose y ends at 65535 */
#define ALL_LANES     0xffffffffu

/* Whether quads of rows can be moved at once. Only the speed depends on it: sums take the same elements in the same
 * order. */
static inline bool is_quad_aligned(const void *base, size_t stride)
{
    return (uintptr_t)base % 16 == 0 && stride % 4 == 0;
}

static inline unsigned grid_y(size_t rows)
{
    return rows < GRID_Y ? (unsigned)rows : GRID_Y;
}

/* Elements column .. column + 3 of a row of `count`; `fill` beyond its end. */
static __device__ __forceinline__ float4 load_quad(const float *row, size_t column, size_t count,
                                                   bool is_aligned, float fill)
{
    if (is_aligned && column + 4 <= count) {
        return *reinterpret_cast<const float4 *>(row + column);
    }
    float4 quad;
    quad.x = column < count ? row[column] : fill;
    quad.y = column + 1 < count ? row[column + 1] : fill;
    quad.z = column + 2 < count ? row[column + 2] : fill;
    quad.w = column + 3 < count ? row[column + 3] : fill;
    return quad;
}

static __device__ __forceinline__ void store_quad(float *row, size_t column, size_t count, bool is_aligned,
                                                  float4 quad)
{
    if (is_aligned && column + 4 <= count) {
        *reinterpret_cast<float4 *>(row + column) = quad;
        return;
    }
    if (column < count) {
        row[column] = quad.x;
    }
    if (column + 1 < count) {
        row[column + 1] = quad.y;
    }
    if (column + 2 < count) {
        row[column + 2] = quad.z;
    }
    if (column + 3 < count) {
        row[column + 3] = quad.w;
    }
}

/* Two fp32 as bf16, the first in the low half. */
static __device__ __forceinline__ uint32_t pack_bf16(float low, float high)
{
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&pair);
}

/* Four bf16; to is aligned to 8 bytes (strides of rounded rows are multiples of 8). */
static __device__ __forceinline__ void store_rounded(uint16_t *to, float4 quad)
{
    *reinterpret_cast<uint2 *>(to) = make_uint2(pack_bf16(quad.x, quad.y), pack_bf16(quad.z, quad.w));
}

/* Butterflies: every lane gets the same bits. */
static __device__ __forceinline__ double warp_sum(double value)
{
#pragma unroll
    for (int step = WARP / 2; step > 0; step /= 2) {
        value += __shfl_xor_sync(ALL_LANES, value, step);
    }
    return value;
}

static __device__ __forceinline__ float warp_sum(float value)
{
#pragma unroll
    for (int step = WARP / 2; step > 0; step /= 2) {
        value += __shfl_xor_sync(ALL_LANES, value, step);
    }
    return value;
}

static __device__ __forceinline__ float warp_max(float value)
{
#pragma unroll
    for (int step = WARP / 2; step > 0; step /= 2) {
        value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, step));
    }
    return value;
}

/* Of a block of BLOCK_THREADS; the same bits in every thread. parts: shared [BLOCK_WARPS]; it may be used again after the
 * call. */
static __device__ __forceinline__ double block_sum(double value, double *parts)
{
    value = warp_sum(value);
    if (threadIdx.x % WARP == 0) {
        parts[threadIdx.x / WARP] = value;
    }
    __syncthreads();
    double sum = 0.0;
#pragma unroll
    for (int i = 0; i < BLOCK_WARPS; i++) {
        sum += parts[i];
    }
    __syncthreads();
    return sum;
}

#endif
