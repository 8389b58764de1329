/*
 * workers/tensor/openblas/openblas.c: fp32 products by OpenBLAS, everything else by our own vector kernels.
 *
 * OpenBLAS gives the same bits for the same shape, and other bits for other shapes (measured: rows change
 * with M, with their position and with a cut of N on some cores). So it only ever sees whole tiles: TILE_ROWS
 * rows with zeros behind the last, COLUMNS columns of the matrix (or its last ones), and it runs single-threaded
 * inside our pool. A tile starts at a segment's first row. Rows that are alone (decoding) are dot products of our own.
 *
 * Matrices: [n, k] fp32, row by row; those of other types are native's, and so are their products.
 */
#include "workers/tensor/cpu.h"
#include "workers/tensor/dense.h"

#include <cblas.h>
#include <stdio.h>
#include <string.h>

#define TILE_ROWS 192
#define COLUMNS   HEAD_COLUMNS

static struct kernels ours, native; /* filled by open, the same each time: the core type is the process's */

static size_t openblas_matrix_bytes(enum dtype dtype, size_t n, size_t k)
{
    return dtype == DTYPE_F32 ? n * k * sizeof(float) : native_matrix_bytes(dtype, n, k);
}

static void openblas_matrix_write(const struct matrix *matrix, size_t first_row, size_t row_count,
                                  const float *rows, size_t stride)
{
    if (matrix->dtype != DTYPE_F32) {
        native.matrix_write(matrix, first_row, row_count, rows, stride);
        return;
    }
    float *to = (float *)matrix->data + first_row * matrix->k;
    for (size_t r = 0; r < row_count && matrix->k > 0; r++) {
        memcpy(to + r * matrix->k, rows + r * stride, matrix->k * sizeof *to);
    }
}

static size_t openblas_product_scratch(enum dtype dtype, size_t k)
{
    size_t tile = sizeof(float) * TILE_ROWS * (k + COLUMNS), other = native.product_scratch(dtype, k);
    return dtype == DTYPE_F32 ? tile : other;
}

/* Whether the rows can be read where they are: a whole tile, at equal distances that BLAS can express. */
static bool is_in_place(const struct product *job)
{
    if (job->rows < TILE_ROWS || job->x[1] < job->x[0] + job->w->k) {
        return false;
    }
    for (size_t r = 1; r < job->rows; r++) {
        if (job->x[r] - job->x[r - 1] != job->x[1] - job->x[0]) {
            return false;
        }
    }
    return true;
}

static void openblas_product(const struct product *job)
{
    if (job->w->dtype != DTYPE_F32) {
        native.product(job);
        return;
    }
    size_t k = job->w->k, columns = job->columns;
    float *x = job->scratch, *out = x + TILE_ROWS * k;
    const float *in = x;
    size_t in_stride = k;
    if (is_in_place(job)) {
        in = job->x[0];
        in_stride = (size_t)(job->x[1] - job->x[0]);
    } else {
        for (size_t r = 0; r < job->rows && k > 0; r++) {
            memcpy(x + r * k, job->x[r], k * sizeof *x);
        }
        memset(x + job->rows * k, 0, (TILE_ROWS - job->rows) * k * sizeof *x);
    }
    bool is_whole = job->rows == TILE_ROWS;
    float *to = is_whole ? job->out : out;
    size_t to_stride = is_whole ? job->out_stride : columns;
    blasint ld_k = k > 0 ? (blasint)k : 1;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, TILE_ROWS, (blasint)columns, (blasint)k, 1.0f, in,
                in_stride > 0 ? (blasint)in_stride : 1, (const float *)job->w->data + job->first_column * k,
                ld_k, 0.0f, to, (blasint)to_stride);
    const float *bias = job->bias != NULL ? job->bias + job->first_column : NULL;
    for (size_t r = 0; r < job->rows && (!is_whole || bias != NULL); r++) {
        for (size_t c = 0; c < columns; c++) {
            job->out[r * job->out_stride + c] = to[r * to_stride + c] + (bias != NULL ? bias[c] : 0.0f);
        }
    }
}

static void openblas_lone_rows(const struct product *job)
{
    if (job->w->dtype != DTYPE_F32) {
        native.product(job);
    } else {
        native.product_of_lone_rows(job);
    }
}

/* The kernels that belong to the core OpenBLAS has chosen (or was told to be), so that OPENBLAS_CORETYPE pins all arithmetic. */
static const struct kernels *choose_kernels(struct error *error)
{
    static const struct {
        const char *core, *isa;
    } rows[] = {{"SapphireRapids", "avx512_bf16"},
                {"Cooperlake", "avx512_bf16"},
                {"SapphireRapids", "avx512"},
                {"Cooperlake", "avx512"},
                {"SkylakeX", "avx512"},
                {"Haswell", "avx2"},
                {"Zen", "avx2"},
                {"Excavator", "avx2"}};
    const char *core = openblas_get_corename();
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct kernels *kernels =
            strcmp(core, rows[i].core) == 0 ? native_kernels_of(rows[i].isa, NULL) : NULL;
        if (kernels != NULL) {
            return kernels;
        }
    }
    return native_kernels_of("baseline", error);
}

static bool openblas_open(struct backend *self, struct pool *pool, void **ret_state, struct error *error)
{
    (void)self;
    const struct kernels *kernels = choose_kernels(error);
    if (kernels == NULL) {
        return false;
    }
    openblas_set_num_threads(1);
    native = *kernels;
    ours = native;
    ours.library_thread_bytes = (size_t)4 << 20; /* packed operands; 2 MiB were measured */
    ours.row_tile = TILE_ROWS;
    ours.column_tile = COLUMNS;
    ours.matrix_bytes = openblas_matrix_bytes;
    ours.matrix_write = openblas_matrix_write;
    ours.product_scratch = openblas_product_scratch;
    ours.product = openblas_product;
    ours.product_of_lone_rows = openblas_lone_rows;
    *ret_state = cpu_create(&ours, pool);
    return true;
}

static const char *openblas_identity(void *state)
{
    static char text[128]; /* "OpenBLAS 0.3.21 SkylakeX, avx512" */
    (void)snprintf(text, sizeof text, "%s, %s", dense_identity(), ((struct cpu *)state)->kernels.name);
    return text;
}

static bool openblas_supports(void *state, enum dtype dtype)
{
    (void)state;
    return dtype == DTYPE_F32;
}

const struct backend backend_openblas = {
    .name = "openblas",
    .summary = "fp32 by OpenBLAS, single-threaded on fixed tiles inside our own pool; the rest as native.",
    .falls_back_to = "native",
    CPU_OPERATIONS,
    .open = openblas_open,
    .identity = openblas_identity,
    .supports = openblas_supports,
    .matrix_bytes = openblas_matrix_bytes,
};
