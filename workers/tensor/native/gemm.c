/*
 * workers/tensor/native/gemm.c: products, compiled once per instruction set.
 *
 * K goes in blocks of K_BLOCK elements. Rows of x of one block are copied next to each other (rounded to bf16 where the
 * matrix is), so that a microkernel reads them with a fixed stride; weights lie in panels already. For each panel the block's
 * share of it comes from memory once and meets all rows. The sums of a block are added to those of the blocks before:
 *
 *     out = ((block 0 + block 1) + block 2 ...) + bias,   each block a chain of multiply-adds in the order of k
 *
 * so a row's bits depend on its x, the matrix and nothing else, and AVX2 and AVX-512 give the same.
 *
 * bf16: operands are rounded to bf16; a step adds the product of the odd element of a pair, then that of the even one,
 * each rounded to fp32, denormal operands and sums taken for zero. VDPBF16PS is defined to do that (and does on Zen 4, where it was
 * measured); where there is none, panels are widened block by block and fp32 multiply-adds in the same order give the
 * same bits.
 */
#include "workers/tensor/native/micro.h"
#include "workers/tensor/native/native.h"

#define K_BLOCK  512
#define A_STRIDE (K_BLOCK + 16) /* rows do not share cache sets */

/* One block of k of one product. */
struct block {
    size_t k; /* steps */
    bool is_first, is_last;
};

static ALWAYS_INLINE void put(float *out, vf sums, const struct block *block, const float *bias)
{
    vf value = block->is_first ? sums : load(out) + sums;
    store(out, bias != NULL && block->is_last ? value + load(bias) : value);
}

static void put_part(float *out, vf sums, size_t count, const struct block *block, const float *bias)
{
    for (size_t i = 0; i < count; i++) {
        float value = block->is_first ? sums[i] : out[i] + sums[i];
        out[i] = bias != NULL && block->is_last ? value + bias[i] : value;
    }
}

/* What comes after the microkernel: the rows of `out` that it adds to. */
static ALWAYS_INLINE void fetch(size_t rows, const struct product *job, size_t row, size_t column)
{
    const float *out = job->out + row * job->out_stride + column;
    for (size_t r = 0; r < rows; r++) {
        __builtin_prefetch(out + r * job->out_stride, 1, 3);
        __builtin_prefetch(out + r * job->out_stride + LANES, 1, 3);
    }
}

static ALWAYS_INLINE void tile(size_t rows, bool is_pairs, const struct block *block, const float *a,
                               const float *b, const struct product *job, size_t row, size_t column)
{
    struct tile_sums t;
    fetch(rows, job, row, column);
    micro(rows, is_pairs, block->k, a, A_STRIDE, b, PANEL, &t);
    const float *bias = job->bias != NULL ? job->bias + job->first_column + column : NULL;
    float *out = job->out + row * job->out_stride + column;
    size_t columns = job->columns - column;
    if (columns >= MICRO_COLUMNS) {
        UNROLL
        for (size_t r = 0; r < rows; r++) {
            put(out + r * job->out_stride, t.sums[r][0], block, bias);
            put(out + r * job->out_stride + LANES, t.sums[r][1], block, bias != NULL ? bias + LANES : NULL);
        }
        return;
    }
    for (size_t r = 0; r < rows; r++) {
        size_t low = columns < LANES ? columns : LANES;
        put_part(out + r * job->out_stride, t.sums[r][0], low, block, bias);
        put_part(out + r * job->out_stride + low, t.sums[r][1], columns - low, block,
                 bias != NULL ? bias + low : NULL);
    }
}

static ALWAYS_INLINE void tiles(bool is_pairs, const struct block *block, const float *a, const float *b,
                                const struct product *job, size_t column)
{
    size_t row = 0;
    for (; row + MICRO_ROWS <= job->rows; row += MICRO_ROWS) {
        tile(MICRO_ROWS, is_pairs, block, a + row * A_STRIDE, b, job, row, column);
    }
    a += row * A_STRIDE;
    switch (job->rows - row) {
#define REST(rows)                                                                                           \
    case rows:                                                                                               \
        tile(rows, is_pairs, block, a, b, job, row, column);                                                 \
        break;
        REST(1)
        REST(2)
        REST(3)
        REST(4)
        REST(5)
#if MICRO_ROWS > 6
        REST(6)
        REST(7)
        REST(8)
        REST(9)
        REST(10)
        REST(11)
        REST(12)
        REST(13)
#endif
#undef REST
    default:
        break;
    }
}

static void product_f32(const struct product *job)
{
    size_t k = job->w->k;
    float *a = job->scratch;
    const float *panels = job->w->data;
    for (size_t start = 0; start == 0 || start < k; start += K_BLOCK) {
        size_t length = k - start < K_BLOCK ? k - start : K_BLOCK;
        struct block block = {.k = length, .is_first = start == 0, .is_last = start + length == k};
        for (size_t r = 0; r < job->rows && length > 0; r++) {
            memcpy(a + r * A_STRIDE, job->x[r] + start, length * sizeof *a);
        }
        for (size_t column = 0; column < job->columns; column += MICRO_COLUMNS) {
            size_t at = job->first_column + column;
            tiles(false, &block, a, panels + at / PANEL * PANEL * k + start * PANEL + at % PANEL, job,
                  column);
        }
    }
}

#if LANES > 4
/* VDPBF16PS takes denormals for zeros, whatever the control register says; so does all else in bf16 products. */
static unsigned flush_denormals(void)
{
    unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040u);
    return before;
}

static void restore_denormals(unsigned before)
{
    _mm_setcsr(before);
}
#else
static unsigned flush_denormals(void)
{
    return 0;
}

static void restore_denormals(unsigned before)
{
    (void)before;
}
#endif

#if defined(__AVX512BF16__)

static void product_bf16(const struct product *job)
{
    size_t k = job->w->k, even = (k + 1) / 2 * 2;
    float *a = job->scratch;
    const float *panels = job->w->data; /* lanes of two */
    for (size_t start = 0; start == 0 || start < k; start += K_BLOCK) {
        size_t length = k - start < K_BLOCK ? k - start : K_BLOCK;
        struct block block = {.k = (length + 1) / 2, .is_first = start == 0, .is_last = start + length == k};
        for (size_t r = 0; r < job->rows; r++) {
            take_bf16(job->x[r] + start, length, a + r * A_STRIDE);
        }
        for (size_t column = 0; column < job->columns; column += MICRO_COLUMNS) {
            size_t at = job->first_column + column;
            tiles(true, &block, a, panels + (at / PANEL * PANEL * even + start * PANEL) / 2 + at % PANEL, job,
                  column);
        }
    }
}

#else

/* The two elements of each lane, the odd one first: the order in which VDPBF16PS adds their products. */
static void widen(const uint16_t *panel, size_t pairs, float *to)
{
    for (size_t p = 0; p < pairs; p++) {
        for (size_t i = 0; i < PANEL; i += LANES) {
            vu both;
            memcpy(&both, panel + (p * PANEL + i) * 2, sizeof both);
            store(to + 2 * p * PANEL + i, (vf)(both & 0xffff0000u));
            store(to + (2 * p + 1) * PANEL + i, (vf)(both << 16));
        }
    }
}

/* A row of x rounded to bf16, as fp32, with the elements of each pair changed over; a zero behind an odd end. */
static void take_rounded(const float *x, size_t count, float *to)
{
    typedef uint64_t vl __attribute__((vector_size(4 * LANES)));
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        vf v = load(x + i);
        vu bits = (vu)v;
        bits = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
        vl two = (vl)choose(v == v, (vf)bits, v);
        store(to + i, (vf)((two << 32) | (two >> 32)));
    }
    for (; i < count; i += 2) {
        float two[2] = {x[i], i + 1 < count ? x[i + 1] : 0.0f};
        uint16_t halves[2];
        dtype_from_f32(DTYPE_BF16, two, 2, halves);
        dtype_to_f32(DTYPE_BF16, halves, 2, two);
        to[i] = two[1];
        to[i + 1] = two[0];
    }
}

static void product_bf16(const struct product *job)
{
    size_t k = job->w->k, even = (k + 1) / 2 * 2;
    float *a = job->scratch, *b = a + (size_t)PRODUCT_ROWS * A_STRIDE;
    const uint16_t *panels = job->w->data;
    for (size_t start = 0; start == 0 || start < k; start += K_BLOCK) {
        size_t length = k - start < K_BLOCK ? k - start : K_BLOCK;
        struct block block = {
            .k = (length + 1) / 2 * 2, .is_first = start == 0, .is_last = start + length == k};
        for (size_t r = 0; r < job->rows; r++) {
            take_rounded(job->x[r] + start, length, a + r * A_STRIDE);
        }
        for (size_t column = 0; column < job->columns; column += PANEL) {
            size_t at = job->first_column + column;
            widen(panels + at * even + start * PANEL, block.k / 2, b);
            for (size_t part = 0; part < PANEL && column + part < job->columns; part += MICRO_COLUMNS) {
                tiles(false, &block, a, b + part, job, column + part);
            }
        }
    }
}
#endif

static void product(const struct product *job)
{
    if (job->w->dtype == DTYPE_BF16) {
        unsigned before = flush_denormals();
        product_bf16(job);
        restore_denormals(before);
    } else {
        product_f32(job);
    }
}

static size_t product_scratch(enum dtype dtype, size_t k)
{
    (void)k;
    size_t floats = (size_t)PRODUCT_ROWS * A_STRIDE + (dtype == DTYPE_BF16 ? (size_t)K_BLOCK * PANEL : 0);
    return floats * sizeof(float);
}

void NATIVE_NAME(native_product)(struct kernels *kernels)
{
    kernels->product_scratch = product_scratch;
    kernels->product = product;
}
