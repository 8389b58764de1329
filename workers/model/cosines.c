/* workers/model/cosines.c: how far a block turns each row (sweep.h). Sums in double over eight lanes that are added up in order,
 * so that the compiler has something to vectorise and the bits stay the same. */
#include "workers/model/model_internal.h"
#include "workers/model/sweep.h"

#include "base/check.h"
#include "base/memory.h"
#include <math.h>

enum { LANES = 8, TASK_ROWS = 64 };

static double add_lanes(const double lanes[LANES])
{
    double sum = 0;
    for (size_t i = 0; i < LANES; i++) {
        sum += lanes[i];
    }
    return sum;
}

static double row_cosine(const float *a, const float *b, size_t count)
{
    double dots[LANES] = {0};
    double squares_a[LANES] = {0};
    double squares_b[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        for (size_t lane = 0; lane < LANES; lane++) {
            double x = (double)a[i + lane];
            double y = (double)b[i + lane];
            dots[lane] += x * y;
            squares_a[lane] += x * x;
            squares_b[lane] += y * y;
        }
    }
    for (size_t lane = 0; i < count; i++, lane++) {
        double x = (double)a[i];
        double y = (double)b[i];
        dots[lane] += x * y;
        squares_a[lane] += x * x;
        squares_b[lane] += y * y;
    }
    double norm_a = add_lanes(squares_a);
    double norm_b = add_lanes(squares_b);
    if (norm_a <= 0 || norm_b <= 0) {
        return norm_a <= 0 && norm_b <= 0 ? 1 : 0;
    }
    double cosine = add_lanes(dots) / (sqrt(norm_a) * sqrt(norm_b));
    return cosine > 1 ? 1 : cosine < -1 ? -1 : cosine;
}

struct cosine_run {
    const float *a, *b; /* host */
    size_t rows, size;
    double *cosines;
};

static void cosine_task(void *context, size_t index, size_t thread)
{
    (void)thread;
    const struct cosine_run *run = context;
    size_t end = (index + 1) * TASK_ROWS < run->rows ? (index + 1) * TASK_ROWS : run->rows;
    for (size_t r = index * TASK_ROWS; r < end; r++) {
        run->cosines[r] = row_cosine(run->a + r * run->size, run->b + r * run->size, run->size);
    }
}

static bool run_rows(const struct model *model, struct cosine_run *run, struct error *error)
{
    return pool_run(model->pool, (run->rows + TASK_ROWS - 1) / TASK_ROWS, cosine_task, run, model->cancel,
                    error);
}

bool hidden_cosines(const struct hidden *a, const struct hidden *b, double *ret_cosines, struct error *error)
{
    CHECK(a->row_count == b->row_count && a->hidden_size == b->hidden_size);
    const struct model *model = a->model;
    size_t size = a->hidden_size;
    if (model->backend->is_host) {
        struct cosine_run run = {a->rows, b->rows, a->row_count, size, ret_cosines};
        return run_rows(model, &run, error);
    }
    enum { STEP = 1024 };
    OWNED_MEMORY float *rows = memory_try_array(2 * STEP * size, sizeof *rows, "hidden states", error);
    for (size_t done = 0; rows != NULL && done < a->row_count; done += STEP) {
        size_t count = a->row_count - done < STEP ? a->row_count - done : STEP;
        struct cosine_run run = {rows, rows + STEP * size, count, size, ret_cosines + done};
        if (!hidden_read(a, done, count, rows, error) ||
            !hidden_read(b, done, count, rows + STEP * size, error) || !run_rows(model, &run, error)) {
            return false;
        }
    }
    return rows != NULL;
}
