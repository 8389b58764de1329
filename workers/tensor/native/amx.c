/*
 * workers/tensor/native/amx.c: bf16 products by AMX. tiles.h says what of this was run.
 *
 * Two tiles of rows meet the two tiles of a panel's columns: four accumulators of 16 x 16, four loads and four products a
 * step of 32 elements of k. (Measured on Sapphire Rapids, design section 4: a core does 2.76 TFLOP/s with both operands in L1, 2.0 to
 * 2.2 from L2, 0.46 beyond.) So a block of K_BLOCK elements of a panel, 32 KiB, stays in L1 while all rows of the task, packed into
 * tiles in the order in which they are read, stream past it from L2; the next panel is fetched meanwhile. Accumulators
 * go to `out` and come back with the next block of k, which changes no bit: the order of additions is that of k.
 */
#include "workers/tensor/native/native.h"
#include "workers/tensor/native/tiles.h"

#define K_BLOCK    512
#define STEP       32 /* elements of k of a tile */
#define STEPS      (K_BLOCK / STEP)
#define A_TILE     (TILE_ROWS * STEP) /* elements */
#define A_ROWS     ((PRODUCT_ROWS + 31) / 32 * 32)
#define STEP_BYTES (PANEL * STEP * sizeof(uint16_t)) /* of a panel: 16 pairs of k, 32 columns */
#define PANEL_ROW  (PANEL * 2 * sizeof(uint16_t))

struct amx_scratch {
    uint16_t a[A_ROWS / TILE_ROWS][STEPS][A_TILE];
    uint16_t rest[PANEL * STEP]; /* the panel's last step, with zeros behind k */
    float edge[2 * TILE_ROWS][PANEL];
};

/* What AMX has no part in, of the set that this one is made from. Set before any product, the same each time. */
static void (*product_without)(const struct product *job);
static size_t (*scratch_without)(enum dtype dtype, size_t k);
static void (*to_bf16)(size_t count, const float *x, uint16_t *to);

/* Rows of x, bf16, in tiles; zeros behind the last row and the last element. */
static void take_rows(const struct product *job, size_t start, size_t length, struct amx_scratch *scratch)
{
    size_t steps = (length + STEP - 1) / STEP, rows = (job->rows + 31) / 32 * 32;
    uint16_t row[K_BLOCK];
    for (size_t r = 0; r < rows; r++) {
        size_t count = r < job->rows ? length : 0;
        if (count > 0) {
            to_bf16(count, job->x[r] + start, row);
        }
        memset(row + count, 0, (steps * STEP - count) * sizeof *row);
        for (size_t s = 0; s < steps; s++) {
            memcpy(scratch->a[r / TILE_ROWS][s] + r % TILE_ROWS * STEP, row + s * STEP, STEP * sizeof *row);
        }
    }
}

/* One block of k of a panel. */
struct panel_block {
    const char *panel;
    const uint16_t *rest; /* the last step, where k ends inside it; NULL: it is whole */
    const char *next;     /* to be fetched; NULL: nothing */
    size_t steps;
    bool is_first;
};

static inline void fetch(const struct panel_block *block, size_t row, size_t step)
{
    if (block->next == NULL) {
        return;
    }
    size_t line = row / 32 * 4; /* 32 lines a step; eight runs of rows see each step */
    for (size_t i = 0; i < 4 && line + i < STEP_BYTES / 64; i++) {
        __builtin_prefetch(block->next + step * STEP_BYTES + (line + i) * 64, 0, 2);
    }
}

/* 32 rows of `a` against the panel, added to out. */
static void multiply_rows(const struct panel_block *block, const struct amx_scratch *scratch, size_t row,
                          float *out, size_t stride)
{
    const uint16_t *low = scratch->a[row / TILE_ROWS][0], *high = scratch->a[row / TILE_ROWS + 1][0];
    size_t bytes = stride * sizeof *out;
    tiles_settle();
    if (block->is_first) {
        tile_zero(0);
        tile_zero(1);
        tile_zero(2);
        tile_zero(3);
    } else {
        tile_load(0, out, bytes);
        tile_load(1, out + 16, bytes);
        tile_load(2, out + TILE_ROWS * stride, bytes);
        tile_load(3, out + TILE_ROWS * stride + 16, bytes);
    }
    for (size_t s = 0; s < block->steps; s++) {
        const char *b = block->panel + s * STEP_BYTES;
        if (block->rest != NULL && s + 1 == block->steps) {
            b = (const char *)block->rest;
        }
        tile_load(4, low + s * A_TILE, TILE_BYTES);
        tile_load(6, b, PANEL_ROW);
        tile_load(5, high + s * A_TILE, TILE_BYTES);
        tile_load(7, b + TILE_BYTES, PANEL_ROW);
        tile_dot(0, 4, 6);
        tile_dot(2, 5, 6);
        tile_dot(1, 4, 7);
        tile_dot(3, 5, 7);
        fetch(block, row, s);
    }
    tile_store(0, out, bytes);
    tile_store(1, out + 16, bytes);
    tile_store(2, out + TILE_ROWS * stride, bytes);
    tile_store(3, out + TILE_ROWS * stride + 16, bytes);
}

/* The same where there are fewer rows or columns than that: by way of a buffer. */
static void multiply_edge(const struct panel_block *block, struct amx_scratch *scratch, size_t row,
                          size_t rows, size_t columns, float *out, size_t stride)
{
    for (size_t r = 0; r < rows && !block->is_first; r++) {
        memcpy(scratch->edge[r], out + r * stride, columns * sizeof *out);
    }
    multiply_rows(block, scratch, row, scratch->edge[0], PANEL);
    for (size_t r = 0; r < rows; r++) {
        memcpy(out + r * stride, scratch->edge[r], columns * sizeof *out);
    }
}

static void multiply_panel(const struct product *job, const struct panel_block *block,
                           struct amx_scratch *scratch, size_t column, bool is_last)
{
    size_t left = job->columns - column, columns = left < PANEL ? left : PANEL;
    const float *bias = job->bias != NULL && is_last ? job->bias + job->first_column + column : NULL;
    for (size_t row = 0; row < job->rows; row += 2 * TILE_ROWS) {
        size_t below = job->rows - row, rows = below < 2 * TILE_ROWS ? below : 2 * TILE_ROWS;
        float *out = job->out + row * job->out_stride + column;
        if (rows == 2 * TILE_ROWS && columns == PANEL) {
            multiply_rows(block, scratch, row, out, job->out_stride);
        } else {
            multiply_edge(block, scratch, row, rows, columns, out, job->out_stride);
        }
        for (size_t r = 0; r < rows && bias != NULL; r++) {
            for (size_t c = 0; c < columns; c++) {
                out[r * job->out_stride + c] += bias[c];
            }
        }
    }
}

/* The panel's step that k ends inside of, zeros behind it. */
static const uint16_t *take_rest(struct amx_scratch *scratch, const char *step, size_t length)
{
    size_t bytes = (length % STEP + 1) / 2 * PANEL_ROW;
    memcpy(scratch->rest, step, bytes);
    memset((char *)scratch->rest + bytes, 0, sizeof scratch->rest - bytes);
    return scratch->rest;
}

static void product_amx(const struct product *job)
{
    size_t k = job->w->k, panel_bytes = (k + 1) / 2 * PANEL_ROW;
    struct amx_scratch *scratch = job->scratch;
    const char *panels = (const char *)job->w->data + job->first_column / PANEL * panel_bytes;
    memset(scratch->edge, 0, sizeof scratch->edge);
    tiles_start();
    for (size_t start = 0; start == 0 || start < k; start += K_BLOCK) {
        size_t length = k - start < K_BLOCK ? k - start : K_BLOCK;
        take_rows(job, start, length, scratch);
        for (size_t column = 0; column < job->columns; column += PANEL) {
            struct panel_block block = {.panel = panels + column / PANEL * panel_bytes +
                                                 start * PANEL * sizeof(uint16_t),
                                        .steps = (length + STEP - 1) / STEP,
                                        .is_first = start == 0};
            if (length % STEP != 0) {
                block.rest = take_rest(scratch, block.panel + (block.steps - 1) * STEP_BYTES, length);
            }
            block.next =
                column + PANEL < job->columns && length == K_BLOCK ? block.panel + panel_bytes : NULL;
            multiply_panel(job, &block, scratch, column, start + length == k);
        }
    }
    tiles_end();
}

static void product(const struct product *job)
{
    if (job->w->dtype == DTYPE_BF16) {
        product_amx(job);
    } else {
        product_without(job);
    }
}

static size_t product_scratch(enum dtype dtype, size_t k)
{
    return dtype == DTYPE_BF16 ? sizeof(struct amx_scratch) : scratch_without(dtype, k);
}

void NATIVE_NAME(native_product)(struct kernels *kernels)
{
    product_without = kernels->product;
    scratch_without = kernels->product_scratch;
    to_bf16 = kernels->to_bf16;
    kernels->product_scratch = product_scratch;
    kernels->product = product;
}
