/*
 * workers/tensor/cuda/attention.cu: attention in fp32, by tiles of keys in shared memory with a running maximum and sum
 * (FlashAttention, Dao 2022): scores of a tile exist, never a row of them.
 *
 *     m' = max(m, max_j s_j)    l' = l e^(m - m') + sum_j e^(s_j - m')    o' = o e^(m - m') + sum_j e^(s_j - m') v_j
 *
 * A block holds ATTENTION_QUERIES queries of one head and sequence; warp w owns 8 of them. For scores a lane is a key of
 * the tile, for values a lane is a stripe of the head. Tiles of keys start at multiples of TILE_KEYS of the sequence, and
 * tiles of queries at multiples of ATTENTION_QUERIES, so a row's bits depend on its own sequence alone; a key that a
 * query may not see adds an exact zero.
 */
#include "workers/tensor/cuda/device.cuh"
#include "workers/tensor/cuda/kernels.h"

#define TILE_KEYS    32
#define WARP_QUERIES (ATTENTION_QUERIES / BLOCK_WARPS)
#define PAD          4 /* of a row in shared memory: eight lanes that read quads of eight rows meet no common bank */

/* [rows, head_size] of a head into shared rows of HEAD + PAD; zeros beyond `valid` rows and beyond head_size. */
template <int HEAD>
static __device__ __forceinline__ void load_tile(float *to, int rows, const float *from, size_t stride,
                                                 int valid, int head_size, bool is_aligned)
{
    for (int i = (int)threadIdx.x; i < rows * (HEAD / 4); i += BLOCK_THREADS) {
        int row = i / (HEAD / 4), column = i % (HEAD / 4) * 4;
        float4 quad = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (row < valid) {
            quad =
                load_quad(from + (size_t)row * stride, (size_t)column, (size_t)head_size, is_aligned, 0.0f);
        }
        *reinterpret_cast<float4 *>(to + row * (HEAD + PAD) + column) = quad;
    }
}

/* Scores of this warp's queries against the key of this lane. */
template <int HEAD>
static __device__ __forceinline__ void multiply_keys(const float *q, const float *k, float *scores)
{
    const float *key = k + threadIdx.x % WARP * (HEAD + PAD);
#pragma unroll
    for (int r = 0; r < WARP_QUERIES; r++) {
        scores[r] = 0.0f;
    }
#pragma unroll 2
    for (int i = 0; i < HEAD; i += 4) {
        float4 b = *reinterpret_cast<const float4 *>(key + i);
#pragma unroll
        for (int r = 0; r < WARP_QUERIES; r++) {
            float4 a = *reinterpret_cast<const float4 *>(q + r * (HEAD + PAD) + i);
            scores[r] = fmaf(a.x, b.x, scores[r]);
            scores[r] = fmaf(a.y, b.y, scores[r]);
            scores[r] = fmaf(a.z, b.z, scores[r]);
            scores[r] = fmaf(a.w, b.w, scores[r]);
        }
    }
}

template <int HEAD>
static __device__ __forceinline__ void multiply_values(const float *v, const float *shares,
                                                       float sums[][HEAD / WARP])
{
    int lane = (int)threadIdx.x % WARP;
#pragma unroll 4
    for (int key = 0; key < TILE_KEYS; key++) {
        float value[HEAD / WARP];
#pragma unroll
        for (int i = 0; i < HEAD / WARP; i++) {
            value[i] = v[key * (HEAD + PAD) + i * WARP + lane];
        }
#pragma unroll
        for (int r = 0; r < WARP_QUERIES; r++) {
            float share = __shfl_sync(ALL_LANES, shares[r], key);
#pragma unroll
            for (int i = 0; i < HEAD / WARP; i++) {
                sums[r][i] = fmaf(share, value[i], sums[r][i]);
            }
        }
    }
}

template <int HEAD>
static __global__ void __launch_bounds__(BLOCK_THREADS, 1)
    attention_kernel(struct kernel_attention job, bool is_aligned)
{
    extern __shared__ __align__(16) float shared[];
    float *q_tile = shared, *kv_tile = shared + ATTENTION_QUERIES * (HEAD + PAD);
    const struct attention_tile tile = job.tiles[blockIdx.x / job.head_count];
    int head = (int)(blockIdx.x % job.head_count), head_size = (int)job.head_size;
    int kv_head = head / (int)(job.head_count / job.kv_head_count);
    int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP;
    int queries = min(tile.count - tile.first_query, ATTENTION_QUERIES);
    int window = job.window > 0 && job.window < (size_t)tile.count ? (int)job.window : 0;
    size_t first = (size_t)tile.first_row;
    const float *keys = job.k + first * job.kv_stride + (size_t)kv_head * job.head_size;
    const float *values = job.v + first * job.kv_stride + (size_t)kv_head * job.head_size;

    load_tile<HEAD>(q_tile, ATTENTION_QUERIES,
                    job.q + (first + (size_t)tile.first_query) * job.q_stride + (size_t)head * job.head_size,
                    job.q_stride, queries, head_size, is_aligned);

    float sums[WARP_QUERIES][HEAD / WARP], largest[WARP_QUERIES], total[WARP_QUERIES], scores[WARP_QUERIES];
#pragma unroll
    for (int r = 0; r < WARP_QUERIES; r++) {
        largest[r] = -INFINITY;
        total[r] = 0.0f;
#pragma unroll
        for (int i = 0; i < HEAD / WARP; i++) {
            sums[r][i] = 0.0f;
        }
    }
    int end = job.is_causal ? tile.first_query + queries : tile.count;
    int start = window > 0 ? max(tile.first_query - window + 1, 0) / TILE_KEYS * TILE_KEYS : 0;
    for (int base = start; base < end; base += TILE_KEYS) {
        int valid = min(tile.count - base, TILE_KEYS);
        __syncthreads(); /* values of the tile before were read; queries are there */
        load_tile<HEAD>(kv_tile, TILE_KEYS, keys + (size_t)base * job.kv_stride, job.kv_stride, valid,
                        head_size, is_aligned);
        __syncthreads();
        multiply_keys<HEAD>(q_tile + warp * WARP_QUERIES * (HEAD + PAD), kv_tile, scores);
        __syncthreads();
        load_tile<HEAD>(kv_tile, TILE_KEYS, values + (size_t)base * job.kv_stride, job.kv_stride, valid,
                        head_size, is_aligned);
        int key = base + lane;
#pragma unroll
        for (int r = 0; r < WARP_QUERIES; r++) {
            int query = tile.first_query + warp * WARP_QUERIES + r;
            float score = scores[r] * job.scale;
            if (job.softcap > 0.0f) {
                score = row_softcap(score, job.softcap);
            }
            bool is_seen =
                key < tile.count && (!job.is_causal || key <= query) && (window == 0 || key > query - window);
            score = is_seen ? score : -INFINITY;
            float now = fmaxf(largest[r], warp_max(score));
            float share = is_seen ? expf(score - now) : 0.0f;
            float kept = largest[r] == now ? 1.0f : expf(largest[r] - now);
            total[r] = total[r] * kept + warp_sum(share);
            largest[r] = now;
            scores[r] = share;
#pragma unroll
            for (int i = 0; i < HEAD / WARP; i++) {
                sums[r][i] *= kept;
            }
        }
        __syncthreads();
        multiply_values<HEAD>(kv_tile, scores, sums);
    }
#pragma unroll
    for (int r = 0; r < WARP_QUERIES; r++) {
        int query = warp * WARP_QUERIES + r;
        if (query >= queries) {
            break;
        }
        size_t row = first + (size_t)(tile.first_query + query);
        float *out = job.out + row * job.out_stride + (size_t)head * job.head_size;
#pragma unroll
        for (int i = 0; i < HEAD / WARP; i++) {
            int column = i * WARP + lane;
            if (column < head_size) {
                float value = sums[r][i] / total[r];
                out[column] = value;
                if (job.rounded != NULL) {
                    job.rounded[row * job.rounded_stride + (size_t)head * job.head_size + (size_t)column] =
                        (uint16_t)pack_bf16(value, 0.0f);
                }
            }
        }
    }
}

template <int HEAD> static cudaError_t launch(const struct kernel_attention *job, cudaStream_t stream)
{
    size_t bytes = (ATTENTION_QUERIES + TILE_KEYS) * (HEAD + PAD) * sizeof(float);
    cudaError_t status =
        cudaFuncSetAttribute(attention_kernel<HEAD>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    if (status != cudaSuccess) {
        return status;
    }
    bool is_aligned = is_quad_aligned(job->q, job->q_stride) && is_quad_aligned(job->k, job->kv_stride) &&
                      is_quad_aligned(job->v, job->kv_stride) && job->head_size % 4 == 0;
    attention_kernel<HEAD>
        <<<(unsigned)(job->tile_count * job->head_count), BLOCK_THREADS, bytes, stream>>>(*job, is_aligned);
    return cudaGetLastError();
}

extern "C" cudaError_t kernel_attention(const struct kernel_attention *job, cudaStream_t stream)
{
    if (job->tile_count == 0 || job->head_count == 0) {
        return cudaSuccess;
    }
    if (job->head_size <= 64) {
        return launch<64>(job, stream);
    }
    if (job->head_size <= 128) {
        return launch<128>(job, stream);
    }
    return job->head_size <= ATTENTION_HEAD_SIZE ? launch<256>(job, stream) : cudaErrorInvalidValue;
}

/* ---- one query a row, for decoding ------------------------------------------------------------------------ */

#define ROWS_THREADS 128 /* and keys of a chunk */
#define ROWS_WARPS   (ROWS_THREADS / WARP)

/* A block is a row and a head. Chunks of keys start at the first key that the query sees. */
static __global__ void __launch_bounds__(ROWS_THREADS) attention_rows_kernel(struct kernel_attention_rows job)
{
    extern __shared__ float shared[];
    __shared__ float scores[ROWS_THREADS];
    size_t row = blockIdx.x / job.head_count, head = blockIdx.x % job.head_count, size = job.head_size;
    size_t kv_head = head / (job.head_count / job.kv_head_count);
    float *q = shared, *sums = shared + size;
    size_t count = job.counts[row], skipped = job.window > 0 && count > job.window ? count - job.window : 0;
    size_t first = job.first_rows[row] + skipped;
    const float *keys = job.keys + first * job.kv_stride + kv_head * size;
    const float *values = job.values + first * job.kv_stride + kv_head * size;
    size_t thread = threadIdx.x, lane = thread % WARP, warp = thread / WARP;
    count -= skipped;
    for (size_t i = thread; i < size; i += ROWS_THREADS) {
        q[i] = job.q[row * job.q_stride + head * size + i];
        sums[i] = 0.0f;
    }
    float largest = -INFINITY, total = 0.0f;
    for (size_t base = 0; base < count; base += ROWS_THREADS) {
        size_t chunk = count - base < ROWS_THREADS ? count - base : ROWS_THREADS;
        __syncthreads();
        for (size_t key = warp; key < ROWS_THREADS; key += ROWS_WARPS) {
            float dot = 0.0f;
            for (size_t i = lane; key < chunk && i < size; i += WARP) {
                dot = fmaf(q[i], keys[(base + key) * job.kv_stride + i], dot);
            }
            dot = warp_sum(dot) * job.scale;
            if (job.softcap > 0.0f) {
                dot = row_softcap(dot, job.softcap);
            }
            if (lane == 0) {
                scores[key] = key < chunk ? dot : -INFINITY;
            }
        }
        __syncthreads();
        float now = largest, share = 0.0f;
        for (size_t i = lane; i < ROWS_THREADS; i += WARP) { /* each warp finds the same */
            now = fmaxf(now, scores[i]);
        }
        now = warp_max(now);
        for (size_t i = lane; i < ROWS_THREADS; i += WARP) {
            share += i < chunk ? expf(scores[i] - now) : 0.0f;
        }
        float kept = largest == now ? 1.0f : expf(largest - now);
        total = total * kept + warp_sum(share);
        largest = now;
        __syncthreads();
        scores[thread] = thread < chunk ? expf(scores[thread] - now) : 0.0f;
        __syncthreads();
        for (size_t i = thread; i < size; i += ROWS_THREADS) {
            float sum = sums[i] * kept;
            for (size_t key = 0; key < chunk; key++) {
                sum = fmaf(scores[key], values[(base + key) * job.kv_stride + i], sum);
            }
            sums[i] = sum;
        }
    }
    for (size_t i = thread; i < size; i += ROWS_THREADS) { /* the thread's own sums */
        job.out[row * job.out_stride + head * size + i] = sums[i] / total;
    }
}

extern "C" cudaError_t kernel_attention_rows(const struct kernel_attention_rows *job, cudaStream_t stream)
{
    if (job->rows == 0 || job->head_count == 0) {
        return cudaSuccess;
    }
    size_t bytes = 2 * job->head_size * sizeof(float);
    attention_rows_kernel<<<(unsigned)(job->rows * job->head_count), ROWS_THREADS, bytes, stream>>>(*job);
    return cudaGetLastError();
}
