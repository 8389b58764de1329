/*
 * workers/tensor/cuda/attention_bf16.cu: attention on the tensor cores: q, k, v and the probabilities are bf16, products
 * are summed in fp32, the softmax is fp32. The tiling is FlashAttention-2's (Dao 2023).
 *
 * First keys and values are packed as bf16, head after head ([kv_heads, rows, HEAD], zeros beyond head_size), so that a
 * tile of keys is one run of memory that cp.async brings while the tile before is being multiplied. A block holds 64
 * queries of one head: four warps of 16 queries (the m of mma.m16n8k16). A warp keeps its queries, its scores and its
 * sums in registers; heads of 256 read their queries from shared memory instead.
 *
 * Fragments of mma.m16n8k16, with g = lane / 4 and t = lane % 4:
 *     A [16, 16]: a0 (g, 2t..), a1 (g + 8, 2t..), a2 (g, 2t + 8..), a3 (g + 8, 2t + 8..)       pairs of columns
 *     B [16, 8]:  b0 (2t.., g), b1 (2t + 8.., g)                                                pairs of rows
 *     C [16, 8]:  c0 c1 (g, 2t..), c2 c3 (g + 8, 2t..)
 * so two neighbouring C tiles of probabilities, rounded, are the A of the product with values.
 *
 * Scores are kept in units of log 2: the scale (and, without softcap, log2 e) goes into the queries before they are
 * rounded. Rows in shared memory are HEAD + 8 long, which spreads the eight rows of an ldmatrix over all banks.
 *
 * Tiles of queries and of keys start at multiples of their sizes from the start of the sequence, and what a query may
 * not see adds an exact zero: a row's bits depend on its own sequence alone.
 */
#include "workers/tensor/cuda/device.cuh"
#include "workers/tensor/cuda/kernels.h"

#define THREADS 128
#define QUERIES ATTENTION_QUERIES
#define LOG2_E  1.4426950408889634f

/* How a head is tiled: its padded size, keys of a tile, whether queries stay in registers, blocks that share an SM. */
template <int HEAD_SIZE, int TILE_KEYS, bool ARE_QUERIES_KEPT, int BLOCKS> struct tiling {
    static constexpr int head = HEAD_SIZE, keys = TILE_KEYS, row = HEAD_SIZE + 8, blocks = BLOCKS;
    static constexpr bool is_kept = ARE_QUERIES_KEPT;
    static constexpr int stage = 2 * TILE_KEYS * row; /* elements of the keys and values of a tile */
    static constexpr size_t bytes = (size_t)(2 * stage + (ARE_QUERIES_KEPT ? 0 : QUERIES * row)) * 2;
};

/* ---- the instructions ------------------------------------------------------------------------------------- */

static __device__ __forceinline__ unsigned shared_address(const uint16_t *pointer)
{
    return (unsigned)__cvta_generic_to_shared(pointer);
}

static __device__ __forceinline__ void load_matrices(uint32_t *r, const uint16_t *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

static __device__ __forceinline__ void load_matrices_turned(uint32_t *r, const uint16_t *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/* c += a b */
static __device__ __forceinline__ void multiply(float *c, const uint32_t *a, uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
                 "{%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* 16 bytes, or as many zeros. */
static __device__ __forceinline__ void copy_ahead(uint16_t *to, const uint16_t *from, bool is_there)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(shared_address(to)), "l"(from), "r"(is_there ? 16 : 0)
                 : "memory");
}

static __device__ __forceinline__ void end_copies()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* All but the youngest group of copies have arrived (this thread's). */
static __device__ __forceinline__ void await_copies_before_last()
{
    asm volatile("cp.async.wait_group 1;" ::: "memory");
}

static __device__ __forceinline__ float power_of_two(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* tanh to about 1e-7 absolute: 1 - 2 / (1 + e^2x). */
static __device__ __forceinline__ float quick_tanh(float x)
{
    return 1.0f - __fdividef(2.0f, 1.0f + power_of_two(2.0f * LOG2_E * x));
}

/* ---- packing ------------------------------------------------------------------------------------------------ */

/* Keys (blockIdx.z 0) and values (1) of rows [first_row, first_row + row_count) as bf16 [kv_heads, row_count, padded]. */
static __global__ void __launch_bounds__(BLOCK_THREADS)
    pack_kernel(struct kernel_attention job, unsigned padded, bool is_aligned)
{
    const float *from = blockIdx.z == 0 ? job.k : job.v;
    uint16_t *to = job.packed + blockIdx.z * job.kv_head_count * job.row_count * padded;
    unsigned quads = padded / 4, per_row = quads * (unsigned)job.kv_head_count;
    unsigned quad = blockIdx.x * BLOCK_THREADS + threadIdx.x;
    if (quad >= per_row) {
        return;
    }
    size_t head = quad / quads, column = quad % quads * 4;
    for (size_t row = blockIdx.y; row < job.row_count; row += gridDim.y) {
        float4 a = load_quad(from + (job.first_row + row) * job.kv_stride + head * job.head_size, column,
                             job.head_size, is_aligned, 0.0f);
        store_rounded(to + (head * job.row_count + row) * padded + column, a);
    }
}

/* ---- the kernel ---------------------------------------------------------------------------------------------- */

/* Where a warp's lane finds its row of an A tile, of two B tiles of keys, of two (turned) B tiles of values. */
template <class T> static __device__ __forceinline__ const uint16_t *query_row(const uint16_t *q, int lane)
{
    return q + (lane & 15) * T::row + (lane >> 4) * 8;
}

template <class T> static __device__ __forceinline__ const uint16_t *key_row(const uint16_t *k, int lane)
{
    return k + ((lane & 7) + ((lane >> 4) << 3)) * T::row + ((lane >> 3) & 1) * 8;
}

template <class T> static __device__ __forceinline__ const uint16_t *value_row(const uint16_t *v, int lane)
{
    return v + ((lane & 7) + (((lane >> 3) & 1) << 3)) * T::row + (lane >> 4) * 8;
}

/* Starts the copies of the keys and values of one tile; rows from `valid` on are zeros. */
template <class T>
static __device__ __forceinline__ void fetch_tile(uint16_t *stage, const uint16_t *keys,
                                                  const uint16_t *values, int valid)
{
    constexpr int pieces = T::head / 8;
#pragma unroll 1 /* unrolled, its addresses would push the sums out of the registers */
    for (int i = (int)threadIdx.x; i < T::keys * pieces; i += THREADS) {
        int row = i / pieces, column = i % pieces * 8;
        bool is_there = row < valid;
        unsigned from = is_there ? (unsigned)(row * T::head + column) : 0u;
        copy_ahead(stage + row * T::row + column, keys + from, is_there);
        copy_ahead(stage + (T::keys + row) * T::row + column, values + from, is_there);
    }
}

/* The block's queries, times factor, rounded, into shared memory. */
template <class T>
static __device__ __forceinline__ void load_queries(uint16_t *to, const float *from, size_t stride,
                                                    int queries, size_t head_size, float factor,
                                                    bool is_aligned)
{
    for (int i = (int)threadIdx.x; i < QUERIES * (T::head / 4); i += THREADS) {
        int row = i / (T::head / 4), column = i % (T::head / 4) * 4;
        float4 a = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (row < queries) {
            a = load_quad(from + (size_t)row * stride, (size_t)column, head_size, is_aligned, 0.0f);
        }
        store_rounded(to + row * T::row + column,
                      make_float4(a.x * factor, a.y * factor, a.z * factor, a.w * factor));
    }
}

/* scores [keys / 8][4] of the warp's 16 queries. */
template <class T>
static __device__ __forceinline__ void multiply_keys(float scores[][4], uint32_t kept[][4],
                                                     const uint16_t *queries, const uint16_t *keys, int lane)
{
#pragma unroll
    for (int n = 0; n < T::keys / 8; n++) {
        scores[n][0] = scores[n][1] = scores[n][2] = scores[n][3] = 0.0f;
    }
    const uint16_t *row = key_row<T>(keys, lane);
#pragma unroll
    for (int i = 0; i < T::head / 16; i++) {
        uint32_t fresh[4];
        uint32_t *a = T::is_kept ? kept[i] : fresh;
        if (!T::is_kept) {
            load_matrices(fresh, query_row<T>(queries, lane) + i * 16);
        }
#pragma unroll
        for (int n = 0; n < T::keys / 16; n++) {
            uint32_t b[4];
            load_matrices(b, row + n * 16 * T::row + i * 16);
            multiply(scores[2 * n], a, b[0], b[1]);
            multiply(scores[2 * n + 1], a, b[2], b[3]);
        }
    }
}

/* sums [head / 8][4] += probabilities (in the place of scores) times values */
template <class T>
static __device__ __forceinline__ void multiply_values(float sums[][4], const float scores[][4],
                                                       const uint16_t *values, int lane)
{
    const uint16_t *row = value_row<T>(values, lane);
#pragma unroll
    for (int i = 0; i < T::keys / 16; i++) {
        const uint32_t a[4] = {pack_bf16(scores[2 * i][0], scores[2 * i][1]),
                               pack_bf16(scores[2 * i][2], scores[2 * i][3]),
                               pack_bf16(scores[2 * i + 1][0], scores[2 * i + 1][1]),
                               pack_bf16(scores[2 * i + 1][2], scores[2 * i + 1][3])};
#pragma unroll
        for (int n = 0; n < T::head / 16; n++) {
            uint32_t b[4];
            load_matrices_turned(b, row + i * 16 * T::row + n * 16);
            multiply(sums[2 * n], a, b[0], b[1]);
            multiply(sums[2 * n + 1], a, b[2], b[3]);
        }
    }
}

/* What a query may see of the keys of its sequence. */
struct sight {
    int count, window; /* window 0: all */
    bool is_causal;
};

static __device__ __forceinline__ bool sees(struct sight sight, int query, int key)
{
    return key < sight.count && (!sight.is_causal || key <= query) &&
           (sight.window == 0 || key > query - sight.window);
}

/* Scores become probabilities against the running maxima of the two queries of this thread (g and g + 8); sums and totals
 * so far shrink with them. totals are this thread's share; the four threads of a row are added at the end. */
template <class T>
static __device__ __forceinline__ void take_powers(float scores[][4], float sums[][4], float *largest,
                                                   float *totals)
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float now = largest[half];
#pragma unroll
        for (int n = 0; n < T::keys / 8; n++) {
            now = fmaxf(now, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
        }
        now = fmaxf(now, __shfl_xor_sync(ALL_LANES, now, 1));
        now = fmaxf(now, __shfl_xor_sync(ALL_LANES, now, 2));
        float base = now == -INFINITY ? 0.0f : now; /* nothing seen yet */
        float kept = power_of_two(largest[half] - base), sum = 0.0f;
        largest[half] = now;
#pragma unroll
        for (int n = 0; n < T::keys / 8; n++) {
            scores[n][2 * half] = power_of_two(scores[n][2 * half] - base);
            scores[n][2 * half + 1] = power_of_two(scores[n][2 * half + 1] - base);
            sum += scores[n][2 * half] + scores[n][2 * half + 1];
        }
        totals[half] = totals[half] * kept + sum;
        if (__any_sync(ALL_LANES, kept != 1.0f)) { /* seldom after the first tiles; times 1 changes no bit */
#pragma unroll
            for (int n = 0; n < T::head / 8; n++) {
                sums[n][2 * half] *= kept;
                sums[n][2 * half + 1] *= kept;
            }
        }
    }
}

template <class T>
static __device__ __forceinline__ void store_sums(const struct kernel_attention *job, const float sums[][4],
                                                  const float *totals, size_t row, int head, int half, int t)
{
    size_t head_size = job->head_size, start = (size_t)head * head_size;
    float *out = job->out + row * job->out_stride + start;
    uint16_t *rounded = job->rounded != NULL ? job->rounded + row * job->rounded_stride + start : NULL;
    bool is_paired = (uintptr_t)out % 8 == 0 && head_size % 2 == 0;
    float factor = 1.0f / totals[half];
#pragma unroll
    for (int n = 0; n < T::head / 8; n++) {
        size_t column = (size_t)(n * 8 + 2 * t);
        float a = sums[n][2 * half] * factor, b = sums[n][2 * half + 1] * factor;
        if (column + 1 < head_size && is_paired) {
            *reinterpret_cast<float2 *>(out + column) = make_float2(a, b);
        } else {
            if (column < head_size) {
                out[column] = a;
            }
            if (column + 1 < head_size) {
                out[column + 1] = b;
            }
        }
        if (rounded != NULL && column + 1 < head_size) { /* head_size is even then */
            *reinterpret_cast<uint32_t *>(rounded + column) = pack_bf16(a, b);
        }
    }
}

template <class T, bool IS_CAPPED>
static __global__ void __launch_bounds__(THREADS, T::blocks)
    attention_kernel(struct kernel_attention job, bool is_aligned)
{
    extern __shared__ __align__(16) uint16_t shared[];
    const struct attention_tile tile = job.tiles[blockIdx.x / (unsigned)job.head_count];
    const int head = (int)(blockIdx.x % (unsigned)job.head_count);
    const int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP, t = lane % 4;
    const int queries = min(tile.count - tile.first_query, QUERIES);
    const struct sight sight = {
        tile.count, job.window > 0 && job.window < (size_t)tile.count ? (int)job.window : 0, job.is_causal};
    const size_t kv_head = (size_t)head / (job.head_count / job.kv_head_count);
    const uint16_t *keys =
        job.packed + (kv_head * job.row_count + ((size_t)tile.first_row - job.first_row)) * T::head;
    const uint16_t *values = keys + job.kv_head_count * job.row_count * T::head;
    uint16_t *q_tile = T::is_kept ? shared : shared + 2 * T::stage; /* kept ones only pass through */
    const uint16_t *warp_queries = q_tile + warp * 16 * T::row;

    const float factor = IS_CAPPED ? job.scale / job.softcap : job.scale * LOG2_E;
    load_queries<T>(q_tile,
                    job.q + ((size_t)tile.first_row + (size_t)tile.first_query) * job.q_stride +
                        (size_t)head * job.head_size,
                    job.q_stride, queries, job.head_size, factor, is_aligned);
    __syncthreads();
    uint32_t kept[T::is_kept ? T::head / 16 : 1][4];
    if (T::is_kept) {
#pragma unroll
        for (int i = 0; i < T::head / 16; i++) {
            load_matrices(kept[T::is_kept ? i : 0], query_row<T>(warp_queries, lane) + i * 16);
        }
        __syncthreads(); /* before the first tile of keys takes their place */
    }

    float sums[T::head / 8][4], largest[2] = {-INFINITY, -INFINITY}, totals[2] = {0.0f, 0.0f};
#pragma unroll
    for (int n = 0; n < T::head / 8; n++) {
        sums[n][0] = sums[n][1] = sums[n][2] = sums[n][3] = 0.0f;
    }
    const int end = job.is_causal ? tile.first_query + queries : tile.count;
    const int start = sight.window > 0 ? max(tile.first_query - sight.window + 1, 0) / T::keys * T::keys : 0;
    fetch_tile<T>(shared, keys + (size_t)start * T::head, values + (size_t)start * T::head,
                  tile.count - start);
    end_copies();
    const int query = tile.first_query + warp * 16 + lane / 4; /* and query + 8 */
    int stage = 0;
    for (int base = start; base < end; base += T::keys, stage ^= 1) {
        int next = base + T::keys;
        if (next < end) {
            fetch_tile<T>(shared + (stage ^ 1) * T::stage, keys + (size_t)next * T::head,
                          values + (size_t)next * T::head, tile.count - next);
        }
        end_copies();
        await_copies_before_last();
        __syncthreads();
        const uint16_t *k_tile = shared + stage * T::stage, *v_tile = k_tile + T::keys * T::row;
        float scores[T::keys / 8][4];
        multiply_keys<T>(scores, kept, warp_queries, k_tile, lane);
        if (IS_CAPPED) {
            float cap = job.softcap * LOG2_E;
#pragma unroll
            for (int n = 0; n < T::keys / 8; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    scores[n][i] = cap * quick_tanh(scores[n][i]);
                }
            }
        }
        bool is_whole = next <= sight.count && (!sight.is_causal || next - 1 <= tile.first_query) &&
                        (sight.window == 0 || base > tile.first_query + QUERIES - 1 - sight.window);
        if (!is_whole) {
#pragma unroll
            for (int n = 0; n < T::keys / 8; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    bool is_seen = sees(sight, query + (i / 2) * 8, base + n * 8 + 2 * t + i % 2);
                    scores[n][i] = is_seen ? scores[n][i] : -INFINITY;
                }
            }
        }
        take_powers<T>(scores, sums, largest, totals);
        multiply_values<T>(sums, scores, v_tile, lane);
        __syncthreads(); /* before the next tile's copies take this one's place */
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        totals[half] += __shfl_xor_sync(ALL_LANES, totals[half], 1);
        totals[half] += __shfl_xor_sync(ALL_LANES, totals[half], 2);
        int row = query + half * 8;
        if (row < tile.first_query + queries) {
            store_sums<T>(&job, sums, totals, (size_t)(tile.first_row + row), head, half, t);
        }
    }
}

/* ---- launching ------------------------------------------------------------------------------------------------ */

template <class T, bool IS_CAPPED>
static cudaError_t launch(const struct kernel_attention *job, cudaStream_t stream)
{
    cudaError_t status = cudaFuncSetAttribute(attention_kernel<T, IS_CAPPED>,
                                              cudaFuncAttributeMaxDynamicSharedMemorySize, (int)T::bytes);
    if (status != cudaSuccess) {
        return status;
    }
    bool is_aligned = is_quad_aligned(job->q, job->q_stride) && job->head_size % 4 == 0;
    attention_kernel<T, IS_CAPPED>
        <<<(unsigned)(job->tile_count * job->head_count), THREADS, T::bytes, stream>>>(*job, is_aligned);
    return cudaGetLastError();
}

template <class T> static cudaError_t pack_and_launch(const struct kernel_attention *job, cudaStream_t stream)
{
    unsigned per_row = (unsigned)job->kv_head_count * (T::head / 4);
    dim3 grid((per_row + BLOCK_THREADS - 1) / BLOCK_THREADS, grid_y(job->row_count), 2);
    bool is_aligned = is_quad_aligned(job->k, job->kv_stride) && is_quad_aligned(job->v, job->kv_stride) &&
                      job->head_size % 4 == 0;
    pack_kernel<<<grid, BLOCK_THREADS, 0, stream>>>(*job, T::head, is_aligned);
    cudaError_t status = cudaGetLastError();
    if (status != cudaSuccess) {
        return status;
    }
    return job->softcap > 0.0f ? launch<T, true>(job, stream) : launch<T, false>(job, stream);
}

extern "C" size_t kernel_attention_padded_head(size_t head_size)
{
    if (head_size <= 64) {
        return 64;
    }
    if (head_size <= 96) {
        return 96;
    }
    return head_size <= 128 ? 128 : 256;
}

extern "C" cudaError_t kernel_attention_bf16(const struct kernel_attention *job, cudaStream_t stream)
{
    if (job->tile_count == 0 || job->head_count == 0) {
        return cudaSuccess;
    }
    switch (job->head_size <= ATTENTION_HEAD_SIZE ? kernel_attention_padded_head(job->head_size) : 0) {
    case 64:
        return pack_and_launch<tiling<64, 64, true, 3>>(job, stream);
    case 96:
        return pack_and_launch<tiling<96, 64, true, 3>>(job, stream);
    case 128:
        return pack_and_launch<tiling<128, 64, true, 2>>(job, stream);
    case 256:
        return pack_and_launch<tiling<256, 32, false, 2>>(job, stream);
    default:
        return cudaErrorInvalidValue;
    }
}
