/*
 * workers/tensor/openblas/dense.c: dense.h by OpenBLAS and the LAPACK inside it.
 *
 * Work is cut into tiles of the result, by the shape alone, and OpenBLAS sees one tile at a time, single-threaded. The factor is
 * the right-looking blocked Cholesky: factor a diagonal block, solve the panel under it, update what lies right and below, the
 * last two tile by tile on the pool.
 *
 * LAPACK is called by its Fortran names: Debian's libopenblas has LAPACK without its C interface. Fortran goes down columns,
 * so its upper triangle is our lower one, and the eigenvectors that it leaves as columns are rows here.
 */
#include "workers/tensor/dense.h"

#include "base/memory.h"
#include <cblas.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* As gfortran compiles them: the lengths of character arguments follow at the end. */
extern void dpotrf_(const char *uplo, const blasint *n, double *a, const blasint *lda, blasint *info,
                    size_t uplo_length);
extern void dsyevd_(const char *jobz, const char *uplo, const blasint *n, double *a, const blasint *lda,
                    double *w, double *work, const blasint *lwork, blasint *iwork, const blasint *liwork,
                    blasint *info, size_t jobz_length, size_t uplo_length);
extern void dgeqp3_(const blasint *m, const blasint *n, double *a, const blasint *lda, blasint *jpvt,
                    double *tau, double *work, const blasint *lwork, blasint *info);
extern void dgesvd_(const char *jobu, const char *jobvt, const blasint *m, const blasint *n, double *a,
                    const blasint *lda, double *s, double *u, const blasint *ldu, double *vt,
                    const blasint *ldvt, double *work, const blasint *lwork, blasint *info,
                    size_t jobu_length, size_t jobvt_length);

#define CHOLESKY_BLOCK  256
#define SOLVE_ROWS      128
#define INVERSE_COLUMNS 128

/* Edge of a tile of the result: small enough that two threads share a small matrix, large enough for BLAS's packing to pay. */
static size_t tile_edge(size_t n)
{
    return n <= 1024 ? 128 : 512;
}

static size_t tiles_of(size_t n, size_t edge)
{
    return (n + edge - 1) / edge;
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static blasint leading(size_t stride)
{
    return stride > 0 ? (blasint)stride : 1;
}

static void hold_to_one_thread(void)
{
    if (openblas_get_num_threads() != 1) {
        openblas_set_num_threads(1);
    }
}

static bool run(const struct dense_threads *threads, size_t count,
                void (*task)(void *context, size_t index, size_t thread), void *context, struct error *error)
{
    hold_to_one_thread();
    return pool_run(threads->pool, count, task, context, threads->cancel, error);
}

const char *dense_identity(void)
{
    static char text[96]; /* the same each time: the core type is the process's */
    const char *config = openblas_get_config();
    const char *name_end = strchr(config, ' ');
    const char *end = name_end != NULL ? strchr(name_end + 1, ' ') : NULL;
    int length = end != NULL ? (int)(end - config) : 8;
    (void)snprintf(text, sizeof text, "%.*s %s", length, config, openblas_get_corename());
    return text;
}

/* ---- symmetric matrices -------------------------------------------------------------------------- */

void dense_symmetric_pair(double *values, size_t n, struct dense_symmetric *ret_first,
                          struct dense_symmetric *ret_second)
{
    *ret_first = (struct dense_symmetric){values, n, n + 1, false};
    *ret_second = (struct dense_symmetric){values + 1, n, n + 1, true};
}

double dense_symmetric_get(const struct dense_symmetric *matrix, size_t i, size_t j)
{
    bool is_stored = matrix->is_upper ? j >= i : j <= i;
    return is_stored ? matrix->values[i * matrix->stride + j] : matrix->values[j * matrix->stride + i];
}

/* ---- sums over rows ------------------------------------------------------------------------------ */

/* One block of rows: out (+)= Y^T X by tiles; of a symmetric out (y is x) only one triangle of them. */
struct row_sums {
    size_t rows, m, n, y_stride, x_stride, out_stride, edge;
    const float *y, *x;
    double *out;
    bool is_symmetric, is_upper;
    float *tiles; /* [threads, edge, edge] */
};

/* Row and column of the tile `index` of a lower triangle, row by row. */
static void find_tile(size_t index, size_t *ret_row, size_t *ret_column)
{
    size_t row = 0;
    while (index > row) {
        index -= row + 1;
        row++;
    }
    *ret_row = row;
    *ret_column = index;
}

static void sum_tile(void *context, size_t index, size_t thread)
{
    const struct row_sums *sums = context;
    size_t edge = sums->edge, tile_row = 0, tile_column = 0, across = tiles_of(sums->n, edge);
    if (sums->is_symmetric) {
        find_tile(index, &tile_row, &tile_column);
    } else {
        tile_row = index / across;
        tile_column = index % across;
    }
    size_t i = tile_row * edge, j = tile_column * edge;
    size_t height = least(edge, sums->m - i), width = least(edge, sums->n - j);
    float *tile = sums->tiles + thread * edge * edge;
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (blasint)height, (blasint)width, (blasint)sums->rows,
                1.0f, sums->y + i, leading(sums->y_stride), sums->x + j, leading(sums->x_stride), 0.0f, tile,
                (blasint)edge);
    if (sums->is_upper) { /* the tile mirrored: out (j, i) */
        for (size_t c = 0; c < width; c++) {
            double *out = sums->out + (j + c) * sums->out_stride + i;
            for (size_t r = i == j ? c : 0; r < height; r++) {
                out[r] += (double)tile[r * edge + c];
            }
        }
        return;
    }
    for (size_t r = 0; r < height; r++) {
        double *out = sums->out + (i + r) * sums->out_stride + j;
        const float *from = tile + r * edge;
        size_t count = sums->is_symmetric && i == j ? r + 1 : width;
        for (size_t c = 0; c < count; c++) {
            out[c] += (double)from[c];
        }
    }
}

static bool add_rows(const struct dense_threads *threads, size_t rows, struct row_sums *sums,
                     struct error *error)
{
    sums->edge = tile_edge(sums->m > sums->n ? sums->m : sums->n);
    size_t down = tiles_of(sums->m, sums->edge), across = tiles_of(sums->n, sums->edge);
    size_t count = sums->is_symmetric ? down * (down + 1) / 2 : down * across;
    size_t tile_count = pool_thread_count(threads->pool) * sums->edge * sums->edge;
    OWNED_MEMORY float *tiles = memory_try_array(tile_count, sizeof *tiles, "tiles of sums", error);
    if (tiles == NULL) {
        return false;
    }
    sums->tiles = tiles;
    const float *y = sums->y, *x = sums->x;
    for (size_t r = 0; r < rows && count > 0; r += sums->rows) {
        sums->rows = least(DENSE_BLOCK_ROWS, rows - r);
        sums->y = y + r * sums->y_stride;
        sums->x = x + r * sums->x_stride;
        if (!run(threads, count, sum_tile, sums, error)) {
            return false;
        }
    }
    return true;
}

bool dense_add_gram(const struct dense_threads *threads, size_t rows, const float *x, size_t x_stride,
                    const struct dense_symmetric *gram, struct error *error)
{
    struct row_sums sums = {.m = gram->n,
                            .n = gram->n,
                            .y_stride = x_stride,
                            .x_stride = x_stride,
                            .out_stride = gram->stride,
                            .y = x,
                            .x = x,
                            .out = gram->values,
                            .is_symmetric = true,
                            .is_upper = gram->is_upper};
    return add_rows(threads, rows, &sums, error);
}

bool dense_add_cross(const struct dense_threads *threads, size_t rows, size_t m, const float *y,
                     size_t y_stride, size_t n, const float *x, size_t x_stride, double *cross,
                     size_t cross_stride, struct error *error)
{
    struct row_sums sums = {.m = m,
                            .n = n,
                            .y_stride = y_stride,
                            .x_stride = x_stride,
                            .out_stride = cross_stride,
                            .y = y,
                            .x = x,
                            .out = cross};
    return add_rows(threads, rows, &sums, error);
}

/* ---- products ------------------------------------------------------------------------------------ */

struct tiled_product {
    const struct dense_product *product;
    const double *a, *b;
    double *out;
    const float *float_a, *float_b;
    float *float_out;
    size_t edge;
};

static void multiply_tile(void *context, size_t index, size_t thread)
{
    (void)thread;
    const struct tiled_product *tiled = context;
    const struct dense_product *p = tiled->product;
    size_t edge = tiled->edge, across = tiles_of(p->n, edge);
    size_t i = index / across * edge, j = index % across * edge;
    size_t a_at = p->is_a_transposed ? i : i * p->a_stride;
    size_t b_at = p->is_b_transposed ? j * p->b_stride : j, out_at = i * p->out_stride + j;
    blasint height = (blasint)least(edge, p->m - i), width = (blasint)least(edge, p->n - j);
    CBLAS_TRANSPOSE a_form = p->is_a_transposed ? CblasTrans : CblasNoTrans;
    CBLAS_TRANSPOSE b_form = p->is_b_transposed ? CblasTrans : CblasNoTrans;
    if (tiled->out != NULL) {
        cblas_dgemm(CblasRowMajor, a_form, b_form, height, width, (blasint)p->k, p->alpha, tiled->a + a_at,
                    leading(p->a_stride), tiled->b + b_at, leading(p->b_stride), p->beta, tiled->out + out_at,
                    leading(p->out_stride));
    } else {
        cblas_sgemm(CblasRowMajor, a_form, b_form, height, width, (blasint)p->k, (float)p->alpha,
                    tiled->float_a + a_at, leading(p->a_stride), tiled->float_b + b_at, leading(p->b_stride),
                    (float)p->beta, tiled->float_out + out_at, leading(p->out_stride));
    }
}

static bool multiply(const struct dense_threads *threads, struct tiled_product *tiled, struct error *error)
{
    const struct dense_product *p = tiled->product;
    tiled->edge = tile_edge(p->m < p->n ? p->m : p->n);
    return run(threads, tiles_of(p->m, tiled->edge) * tiles_of(p->n, tiled->edge), multiply_tile, tiled,
               error);
}

bool dense_multiply(const struct dense_threads *threads, const struct dense_product *product, const double *a,
                    const double *b, double *out, struct error *error)
{
    struct tiled_product tiled = {.product = product, .a = a, .b = b, .out = out};
    return multiply(threads, &tiled, error);
}

bool dense_multiply_floats(const struct dense_threads *threads, const struct dense_product *product,
                           const float *a, const float *b, float *out, struct error *error)
{
    struct tiled_product tiled = {.product = product, .float_a = a, .float_b = b, .float_out = out};
    return multiply(threads, &tiled, error);
}

struct symmetric_product {
    size_t m, a_stride, out_stride;
    const double *a;
    const struct dense_symmetric *s;
    double *out;
};

static void multiply_symmetric_rows(void *context, size_t index, size_t thread)
{
    (void)thread;
    const struct symmetric_product *job = context;
    size_t i = index * SOLVE_ROWS;
    cblas_dsymm(CblasRowMajor, CblasRight, job->s->is_upper ? CblasUpper : CblasLower,
                (blasint)least(SOLVE_ROWS, job->m - i), (blasint)job->s->n, 1.0, job->s->values,
                leading(job->s->stride), job->a + i * job->a_stride, leading(job->a_stride), 0.0,
                job->out + i * job->out_stride, leading(job->out_stride));
}

bool dense_multiply_symmetric(const struct dense_threads *threads, size_t m, const double *a, size_t a_stride,
                              const struct dense_symmetric *s, double *out, size_t out_stride,
                              struct error *error)
{
    struct symmetric_product job = {m, a_stride, out_stride, a, s, out};
    return run(threads, s->n > 0 ? tiles_of(m, SOLVE_ROWS) : 0, multiply_symmetric_rows, &job, error);
}

/* ---- Cholesky ------------------------------------------------------------------------------------ */

/* One step: the diagonal block at `first`, `width` wide, is factored. */
struct cholesky_step {
    double *a;
    size_t n, stride, first, width, edge;
};

static void solve_panel(void *context, size_t index, size_t thread)
{
    (void)thread;
    const struct cholesky_step *step = context;
    size_t row = step->first + step->width + index * step->edge;
    cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit,
                (blasint)least(step->edge, step->n - row), (blasint)step->width, 1.0,
                step->a + step->first * step->stride + step->first, (blasint)step->stride,
                step->a + row * step->stride + step->first, (blasint)step->stride);
}

static void update_trailing(void *context, size_t index, size_t thread)
{
    (void)thread;
    const struct cholesky_step *step = context;
    size_t tile_row = 0, tile_column = 0;
    find_tile(index, &tile_row, &tile_column);
    size_t begin = step->first + step->width;
    size_t i = begin + tile_row * step->edge, j = begin + tile_column * step->edge;
    const double *left = step->a + i * step->stride + step->first;
    const double *right = step->a + j * step->stride + step->first;
    double *out = step->a + i * step->stride + j;
    blasint height = (blasint)least(step->edge, step->n - i), width = (blasint)least(step->edge, step->n - j);
    blasint stride = (blasint)step->stride;
    if (i == j) {
        cblas_dsyrk(CblasRowMajor, CblasLower, CblasNoTrans, height, (blasint)step->width, -1.0, left, stride,
                    1.0, out, stride);
    } else {
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, height, width, (blasint)step->width, -1.0, left,
                    stride, right, stride, 1.0, out, stride);
    }
}

bool dense_cholesky(const struct dense_threads *threads, size_t n, double *a, size_t stride,
                    struct error *error)
{
    hold_to_one_thread();
    struct cholesky_step step = {.a = a, .n = n, .stride = stride, .edge = tile_edge(n)};
    for (; step.first < n; step.first += step.width) {
        step.width = least(CHOLESKY_BLOCK, n - step.first);
        double *block = a + step.first * stride + step.first;
        for (size_t i = 0; i < step.width; i++) { /* LAPACK lets a NaN pass */
            if (!isfinite(block[i * stride + i])) {
                return error_set(error, ERROR_NUMERIC, "a matrix to factor is not finite at row %zu",
                                 step.first + i);
            }
        }
        blasint width = (blasint)step.width, lda = leading(stride), info = 0;
        dpotrf_("U", &width, block, &lda, &info, 1);
        if (info != 0) {
            return error_set(error, ERROR_NUMERIC, "a matrix to factor is not positive definite at row %zu",
                             step.first + (size_t)info - 1);
        }
        for (size_t i = 0; i < step.width; i++) { /* not every LAPACK takes a NaN for a failure */
            if (!isfinite(block[i * stride + i])) {
                return error_set(error, ERROR_NUMERIC, "a matrix to factor is not finite at row %zu",
                                 step.first + i);
            }
        }
        size_t down = tiles_of(n - step.first - step.width, step.edge);
        if (!run(threads, down, solve_panel, &step, error) ||
            !run(threads, down * (down + 1) / 2, update_trailing, &step, error)) {
            return false;
        }
    }
    return true;
}

struct solve {
    size_t n, l_stride, m, b_stride;
    const double *l;
    double *b;
};

static void solve_rows(void *context, size_t index, size_t thread)
{
    (void)thread;
    const struct solve *job = context;
    size_t first = index * SOLVE_ROWS;
    blasint rows = (blasint)least(SOLVE_ROWS, job->m - first), n = (blasint)job->n;
    double *b = job->b + first * job->b_stride;
    cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, rows, n, 1.0, job->l,
                leading(job->l_stride), b, leading(job->b_stride));
    cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasNoTrans, CblasNonUnit, rows, n, 1.0, job->l,
                leading(job->l_stride), b, leading(job->b_stride));
}

bool dense_cholesky_solve(const struct dense_threads *threads, size_t n, const double *l, size_t l_stride,
                          size_t m, double *b, size_t b_stride, struct error *error)
{
    struct solve job = {n, l_stride, m, b_stride, l, b};
    return run(threads, n > 0 ? tiles_of(m, SOLVE_ROWS) : 0, solve_rows, &job, error);
}

/* ---- eigenvectors -------------------------------------------------------------------------------- */

static void swap_rows(double *a, double *b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        double kept = a[i];
        a[i] = b[i];
        b[i] = kept;
    }
}

bool dense_eigen(const struct dense_threads *threads, size_t n, double *a, double *ret_values,
                 struct error *error)
{
    hold_to_one_thread();
    if (!cancel_check_now(threads->cancel, error)) {
        return false;
    }
    if (n == 0) {
        return true;
    }
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j <= i; j++) {
            if (!isfinite(a[i * n + j])) {
                return error_set(error, ERROR_NUMERIC, "a symmetric matrix is not finite at row %zu", i);
            }
        }
    }
    size_t work_count = 1 + 6 * n + 2 * n * n, index_count = 3 + 5 * n;
    if (work_count > (size_t)INT32_MAX) { /* 32-bit indices of this LAPACK */
        return error_set(error, ERROR_UNSUPPORTED, "eigenvectors of a matrix of %zu rows", n);
    }
    OWNED_MEMORY double *work = memory_try_array(work_count, sizeof *work, "room for eigenvectors", error);
    OWNED_MEMORY blasint *indices =
        memory_try_array(index_count, sizeof *indices, "room for eigenvectors", error);
    if (work == NULL || indices == NULL) {
        return false;
    }
    blasint size = (blasint)n, lwork = (blasint)work_count, liwork = (blasint)index_count, info = 0;
    dsyevd_("V", "U", &size, a, &size, ret_values, work, &lwork, indices, &liwork, &info, 1, 1);
    if (info != 0) {
        return error_set(error, ERROR_NUMERIC, "the eigenvectors of a matrix of %zu rows do not converge", n);
    }
    for (size_t i = 0; i < n / 2; i++) { /* ascending as they come */
        swap_rows(a + i * n, a + (n - 1 - i) * n, n);
        swap_rows(&ret_values[i], &ret_values[n - 1 - i], 1);
    }
    for (size_t i = 0; i < n; i++) {
        double *vector = a + i * n;
        size_t top = 0;
        for (size_t j = 1; j < n; j++) {
            top = fabs(vector[j]) > fabs(vector[top]) ? j : top;
        }
        double sign = vector[top] < 0.0 ? -1.0 : 1.0;
        for (size_t j = 0; j < n; j++) {
            vector[j] *= sign;
        }
    }
    return true;
}

/* ---- pivots and polar factors -------------------------------------------------------------------- */

static bool check_finite(size_t rows, size_t columns, const double *a, size_t stride, const char *what,
                         struct error *error)
{
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < columns; j++) {
            if (!isfinite(a[i * stride + j])) {
                return error_set(error, ERROR_NUMERIC, "%s is not finite at row %zu", what, i);
            }
        }
    }
    return true;
}

bool dense_pivot_rows(const struct dense_threads *threads, size_t rows, size_t columns, double *a,
                      size_t stride, size_t *ret_rows, struct error *error)
{
    hold_to_one_thread();
    if (!cancel_check_now(threads->cancel, error) ||
        !check_finite(rows, columns, a, stride, "a matrix to pivot", error)) {
        return false;
    }
    size_t count = least(rows, columns);
    if (count == 0) {
        return true;
    }
    /* The least it takes: the blocked form, which wants more, begins at 128 columns. */
    size_t work_count = 3 * rows + 1;
    if (work_count > (size_t)INT32_MAX) {
        return error_set(error, ERROR_UNSUPPORTED, "pivots among %zu rows", rows);
    }
    OWNED_MEMORY double *work = memory_try_array(work_count + count, sizeof *work, "room for pivots", error);
    OWNED_MEMORY blasint *pivots = memory_try_array(rows, sizeof *pivots, "room for pivots", error);
    if (work == NULL || pivots == NULL) {
        return false;
    }
    blasint m = (blasint)columns, n = (blasint)rows, lda = leading(stride), lwork = (blasint)work_count,
            info = 0;
    dgeqp3_(&m, &n, a, &lda, pivots, work + work_count, work, &lwork, &info);
    if (info != 0) {
        return error_set(error, ERROR_INTERNAL, "dgeqp3 refuses its argument %d", -(int)info);
    }
    for (size_t i = 0; i < count; i++) {
        ret_rows[i] = (size_t)pivots[i] - 1;
    }
    return true;
}

bool dense_polar(const struct dense_threads *threads, size_t n, double *a, struct error *error)
{
    hold_to_one_thread();
    if (!cancel_check_now(threads->cancel, error) ||
        !check_finite(n, n, a, n, "a matrix to polarise", error)) {
        return false;
    }
    if (n == 0) {
        return true;
    }
    size_t work_count = 64 * n + 5;
    if (work_count > (size_t)INT32_MAX) {
        return error_set(error, ERROR_UNSUPPORTED, "the polar factor of a matrix of %zu rows", n);
    }
    OWNED_MEMORY double *room =
        memory_try_array(2 * n * n + n + work_count, sizeof *room, "room for a polar factor", error);
    if (room == NULL) {
        return false;
    }
    /* A^T = U S V^T down the columns; U and V^T as they lie are U^T and V by rows, and V U^T is the factor of A. */
    double *u = room, *vt = room + n * n, *values = room + 2 * n * n, *work = values + n;
    blasint size = (blasint)n, lwork = (blasint)work_count, info = 0;
    dgesvd_("A", "A", &size, &size, a, &size, values, u, &size, vt, &size, work, &lwork, &info, 1, 1);
    if (info != 0) {
        return error_set(error, ERROR_NUMERIC, "the singular values of a matrix of %zu rows do not converge",
                         n);
    }
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, size, size, size, 1.0, vt, size, u, size, 0.0, a,
                size);
    return true;
}

/* ---- leverage ------------------------------------------------------------------------------------ */

/* C (C + lambda I)^-1 = I - lambda (C + lambda I)^-1, and the diagonal of the inverse is the squared length of the columns of L^-1,
 * which are zero above the diagonal. */
struct inverse {
    size_t n;
    const double *l;
    double *scratch; /* [threads, n, INVERSE_COLUMNS] */
    double *squares; /* [n] */
};

static void invert_columns(void *context, size_t index, size_t thread)
{
    const struct inverse *job = context;
    size_t first = index * INVERSE_COLUMNS, width = least(INVERSE_COLUMNS, job->n - first);
    size_t rows = job->n - first;
    double *z = job->scratch + thread * job->n * INVERSE_COLUMNS;
    memset(z, 0, rows * width * sizeof *z);
    for (size_t c = 0; c < width; c++) {
        z[c * width + c] = 1.0;
        job->squares[first + c] = 0.0;
    }
    cblas_dtrsm(CblasRowMajor, CblasLeft, CblasLower, CblasNoTrans, CblasNonUnit, (blasint)rows,
                (blasint)width, 1.0, job->l + first * job->n + first, (blasint)job->n, z, (blasint)width);
    for (size_t r = 0; r < rows; r++) {
        for (size_t c = 0; c < width; c++) {
            job->squares[first + c] += z[r * width + c] * z[r * width + c];
        }
    }
}

bool dense_leverage(const struct dense_threads *threads, const struct dense_symmetric *c, double lambda,
                    double *ret_leverage, struct error *error)
{
    size_t n = c->n;
    size_t scratch_count = pool_thread_count(threads->pool) * n * INVERSE_COLUMNS;
    OWNED_MEMORY double *l = memory_try_array(n * n + 1, sizeof *l, "a factor", error);
    OWNED_MEMORY double *scratch =
        memory_try_array(scratch_count + 1, sizeof *scratch, "room for a factor", error);
    if (l == NULL || scratch == NULL) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j <= i; j++) {
            l[i * n + j] = dense_symmetric_get(c, i, j);
        }
        l[i * n + i] += lambda;
    }
    struct inverse job = {n, l, scratch, ret_leverage};
    if (!dense_cholesky(threads, n, l, n, error) ||
        !run(threads, tiles_of(n, INVERSE_COLUMNS), invert_columns, &job, error)) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        double leverage = 1.0 - lambda * ret_leverage[i];
        bool is_silent = dense_symmetric_get(c, i, i) == 0.0;
        ret_leverage[i] = is_silent || leverage < 0.0 ? 0.0 : leverage;
    }
    return true;
}
