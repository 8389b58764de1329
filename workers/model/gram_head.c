/* workers/model/gram_head.c: see gram_head.h. Projections are dot products of rows of L^T with GROUP rows of x at a time, each in lanes of
 * its own, in the order of the elements: bits depend on the row and the matrix. */
#include "workers/model/gram_head.h"

#include "base/check.h"
#include "base/memory.h"
#include "workers/model/model_internal.h"
#include "workers/model/source.h"
#include "workers/model/weights_internal.h"
#include "workers/tensor/dense.h"
#include <string.h>

#define WINDOW_ROWS 512 /* of the head's matrix, read at once */
#define GROUP       8   /* rows of x that meet a row of L^T together */
#define TASK_ROWS   32
#define LANES       8
#define RIDGE       1e-14 /* of the mean of the diagonal: a factor exists where columns depend on each other */

typedef double vd __attribute__((vector_size(LANES * sizeof(double))));

uint64_t gram_head_bytes(const struct model_config *config, size_t rows)
{
    uint64_t size = config->hidden_size;
    uint64_t window = (uint64_t)WINDOW_ROWS * size * (sizeof(double) + 2 * sizeof(float));
    return 2 * size * size * sizeof(double) + window + (uint64_t)rows * size * sizeof(double);
}

void gram_head_finish(struct gram_head *gram)
{
    free(gram->upper);
    *gram = (struct gram_head){0};
}

/* ---- the factor -------------------------------------------------------------------------------------------------- */

/* gram += W^T W over a window of rows, rounded as the device holds them. */
static bool add_window(struct model *model, float *rows, double *window, size_t count, double *gram,
                       struct error *error)
{
    size_t size = model->config->hidden_size;
    if (device_dtype(model->device) == DTYPE_BF16) {
        uint16_t halves[256];
        for (size_t i = 0; i < count * size; i += 256) {
            size_t length = count * size - i < 256 ? count * size - i : 256;
            dtype_from_f32(DTYPE_BF16, rows + i, length, halves);
            dtype_to_f32(DTYPE_BF16, halves, length, rows + i);
        }
    }
    for (size_t i = 0; i < count * size; i++) {
        window[i] = (double)rows[i];
    }
    struct dense_threads threads = {model->pool, model->cancel};
    struct dense_product product = {.m = size,
                                    .n = size,
                                    .k = count,
                                    .is_a_transposed = true,
                                    .alpha = 1,
                                    .beta = 1,
                                    .a_stride = size,
                                    .b_stride = size,
                                    .out_stride = size};
    return dense_multiply(&threads, &product, window, window, gram, error);
}

static bool sum_gram(struct model *model, double *gram, struct error *error)
{
    struct source_view view;
    const struct weights *weights = model->weights;
    size_t size = model->config->hidden_size;
    if (!weights_view(model->inventory, WEIGHT_HEAD, 0, 0, &view) &&
        !weights_view(model->inventory, WEIGHT_EMBEDDING, 0, 0, &view)) {
        return error_set(error, ERROR_UNSUPPORTED, "the model has no head");
    }
    CHECK(view.columns == size);
    OWNED_MEMORY void *bytes =
        memory_try_array(source_window_bytes(&view, WINDOW_ROWS), 1, "rows of the head", error);
    OWNED_MEMORY float *rows = memory_try_array(WINDOW_ROWS * size, sizeof *rows, "rows of the head", error);
    OWNED_MEMORY double *window =
        memory_try_array(WINDOW_ROWS * size, sizeof *window, "rows of the head", error);
    if (bytes == NULL || rows == NULL || window == NULL) {
        return false;
    }
    for (uint64_t done = 0; done < view.rows; done += WINDOW_ROWS) {
        uint64_t left = view.rows - done;
        uint64_t count = left < WINDOW_ROWS ? left : WINDOW_ROWS;
        if (!source_read_rows(weights->source, &view, done, count, bytes, rows, error) ||
            !add_window(model, rows, window, (size_t)count, gram, error)) {
            return false;
        }
    }
    return true;
}

bool gram_head_create(struct model *model, struct gram_head *ret_gram, struct error *error)
{
    size_t size = model->config->hidden_size;
    OWNED_MEMORY double *gram = memory_try_array(size * size, sizeof *gram, "the head's Gram matrix", error);
    OWNED_MEMORY double *upper = memory_try_array(size * size, sizeof *upper, "its factor", error);
    struct dense_threads threads = {model->pool, model->cancel};
    if (gram == NULL || upper == NULL) {
        return false;
    }
    memset(gram, 0, size * size * sizeof *gram);
    memset(upper, 0, size * size * sizeof *upper);
    if (!sum_gram(model, gram, error)) {
        return false;
    }
    double trace = 0;
    for (size_t i = 0; i < size; i++) {
        trace += gram[i * size + i];
    }
    for (size_t i = 0; i < size; i++) {
        gram[i * size + i] += RIDGE * trace / (double)size;
    }
    if (!dense_cholesky(&threads, size, gram, size, error)) {
        return false;
    }
    for (size_t i = 0; i < size; i++) {
        for (size_t j = i; j < size; j++) {
            upper[i * size + j] = gram[j * size + i];
        }
    }
    *ret_gram = (struct gram_head){size, TAKE(upper)};
    return true;
}

/* ---- projections ------------------------------------------------------------------------------------------------- */

struct projection {
    const struct gram_head *gram;
    size_t rows;
    const float *x, *minus;
    double *out;
};

/* By address: without AVX-512 there is no agreed way to pass such a vector. */
static double sum_lanes(const vd *v)
{
    double sum = 0.0;
    for (size_t l = 0; l < LANES; l++) {
        sum += (*v)[l];
    }
    return sum;
}

/* Dots of row j of L^T, which is zero before element j, with GROUP rows of x. */
static void dot_group(size_t size, size_t j, const double *upper, const double *x, size_t stride,
                      double *ret_sums)
{
    vd sums[GROUP] = {{0}};
    size_t start = j / LANES * LANES;
    for (size_t i = start; i < stride; i += LANES) {
        vd u;
        if (i + LANES <= size) {
            memcpy(&u, upper + i, sizeof u);
        } else {
            u = (vd){0};
            memcpy(&u, upper + i, (size - i) * sizeof *upper);
        }
        for (size_t r = 0; r < GROUP; r++) {
            vd v;
            memcpy(&v, x + r * stride + i, sizeof v);
            sums[r] += u * v;
        }
    }
    for (size_t r = 0; r < GROUP; r++) {
        ret_sums[r] = sum_lanes(&sums[r]);
    }
}

static void project_group(const struct projection *run, size_t first, size_t count, double *x)
{
    size_t size = run->gram->size;
    size_t stride = (size + LANES - 1) / LANES * LANES;
    memset(x, 0, GROUP * stride * sizeof *x);
    for (size_t r = 0; r < count; r++) {
        for (size_t i = 0; i < size; i++) {
            size_t at = (first + r) * size + i;
            x[r * stride + i] = (double)run->x[at] - (run->minus != NULL ? (double)run->minus[at] : 0.0);
        }
    }
    for (size_t j = 0; j < size; j++) {
        double sums[GROUP];
        dot_group(size, j, run->gram->upper + j * size, x, stride, sums);
        for (size_t r = 0; r < count; r++) {
            run->out[(first + r) * size + j] = sums[r];
        }
    }
}

static void project_task(void *context, size_t index, size_t thread)
{
    (void)thread;
    const struct projection *run = context;
    size_t stride = (run->gram->size + LANES - 1) / LANES * LANES;
    OWNED_MEMORY double *x = memory_create(GROUP * stride, sizeof *x);
    size_t end = (index + 1) * TASK_ROWS < run->rows ? (index + 1) * TASK_ROWS : run->rows;
    for (size_t first = index * TASK_ROWS; first < end; first += GROUP) {
        project_group(run, first, end - first < GROUP ? end - first : GROUP, x);
    }
}

bool gram_head_project(struct model *model, const struct gram_head *gram, size_t rows, const float *x,
                       const float *minus, double *ret_projected, struct error *error)
{
    struct projection run = {gram, rows, x, minus, ret_projected};
    return pool_run(model->pool, (rows + TASK_ROWS - 1) / TASK_ROWS, project_task, &run, model->cancel,
                    error);
}
