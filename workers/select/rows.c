/* workers/select/rows.c: see rows.h. */
#include "workers/select/rows.h"

#include "base/memory.h"
#include "workers/select/sampling.h"
#include <string.h>

enum { TASK_ROWS = 256 };

struct rows_run {
    const float *rows;
    size_t count, size;
    const uint32_t *ids;
    float *out;
    double *squares; /* where they are wanted */
};

static bool run_rows(const struct dense_threads *threads,
                     void (*task)(void *context, size_t index, size_t thread), struct rows_run *run,
                     struct error *error)
{
    return pool_run(threads->pool, (run->count + TASK_ROWS - 1) / TASK_ROWS, task, run, threads->cancel,
                    error);
}

static void measure_task(void *context, size_t index, size_t thread)
{
    (void)thread;
    const struct rows_run *run = context;
    size_t end = rows_least((index + 1) * TASK_ROWS, run->count);
    for (size_t i = index * TASK_ROWS; i < end; i++) {
        const float *row = run->rows + i * run->size;
        double square = rows_dot(row, row, run->size);
        if (run->squares != NULL) {
            run->squares[i] = square;
        } else {
            run->out[i] = (float)(0.5 * square);
        }
    }
}

static bool check_square(size_t row, double square, struct error *error)
{
    return square < ROWS_SQUARE_LIMIT ||
           error_set(error, ERROR_NUMERIC, "row %zu is not finite, or too long (|x|^2 is %g)", row, square);
}

bool rows_measure_squares(const struct dense_threads *threads, const float *rows, size_t count, size_t size,
                          double *ret_squares, struct error *error)
{
    struct rows_run run = {.rows = rows, .count = count, .size = size, .squares = ret_squares};
    if (!run_rows(threads, measure_task, &run, error)) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (!check_square(i, ret_squares[i], error)) {
            return false;
        }
    }
    return true;
}

bool rows_measure(const struct dense_threads *threads, const float *rows, size_t count, size_t size,
                  bool is_unit, float *ret_halves, double *ret_longest, struct error *error)
{
    struct rows_run run = {.rows = rows, .count = count, .size = size, .out = ret_halves};
    if (!run_rows(threads, measure_task, &run, error)) {
        return false;
    }
    double longest = 0.0;
    for (size_t i = 0; i < count; i++) {
        double square = 2.0 * (double)ret_halves[i];
        if (!check_square(i, square, error)) {
            return false;
        }
        longest = square > longest ? square : longest;
        if (is_unit && rows_is_zero(square)) {
            ret_halves[i] = INFINITY;
        } else if (is_unit && !(fabs(square - 1.0) <= ROWS_UNIT_TOLERANCE)) {
            return error_set(error, ERROR_INVALID_ARGUMENT, "row %zu is of length %g, not 1 or 0", i,
                             sqrt(square));
        }
    }
    for (size_t i = count; i < rows_padded(count); i++) {
        ret_halves[i] = INFINITY;
    }
    *ret_longest = sqrt(longest);
    return true;
}

bool rows_multiply(const struct dense_threads *threads, size_t size, const float *a, size_t a_count,
                   const float *b, size_t b_count, float *ret_products, size_t stride, struct error *error)
{
    const struct dense_product product = {.m = a_count,
                                          .n = b_count,
                                          .k = size,
                                          .is_b_transposed = true,
                                          .alpha = 1.0,
                                          .a_stride = size,
                                          .b_stride = size,
                                          .out_stride = stride};
    return dense_multiply_floats(threads, &product, a, b, ret_products, error);
}

static void gather_task(void *context, size_t index, size_t thread)
{
    (void)thread;
    const struct rows_run *run = context;
    size_t end = rows_least((index + 1) * TASK_ROWS, run->count);
    for (size_t i = index * TASK_ROWS; i < end; i++) {
        memcpy(run->out + i * run->size, run->rows + run->ids[i] * run->size, run->size * sizeof *run->out);
    }
}

bool rows_gather(const struct dense_threads *threads, const float *rows, size_t size, const uint32_t *ids,
                 size_t count, float *ret_rows, struct error *error)
{
    struct rows_run run = {.rows = rows, .count = count, .size = size, .ids = ids, .out = ret_rows};
    return run_rows(threads, gather_task, &run, error);
}

bool rows_draw(const struct rng *rng, size_t count, size_t wanted, uint32_t *ret_ids, struct error *error)
{
    OWNED_MEMORY size_t *drawn = memory_try_array(count, sizeof *drawn, "a sample of rows", error);
    OWNED_MEMORY bool *is_drawn = memory_try_array(count, sizeof *is_drawn, "a sample of rows", error);
    if (drawn == NULL || is_drawn == NULL) {
        return false;
    }
    (void)sampling_draw(rng, count, NULL, &(struct budget){BUDGET_RECORDS, wanted}, drawn);
    for (size_t i = 0; i < wanted; i++) {
        is_drawn[drawn[i]] = true;
    }
    for (size_t i = 0, to = 0; i < count; i++) {
        if (is_drawn[i]) {
            ret_ids[to++] = (uint32_t)i;
        }
    }
    return true;
}

void rows_group(const uint32_t *labels, size_t count, size_t per_row, size_t group_count, size_t *ret_starts,
                uint32_t *ret_rows)
{
    memset(ret_starts, 0, (group_count + 1) * sizeof *ret_starts);
    for (size_t i = 0; i < count * per_row; i++) {
        if (labels[i] != ROWS_NO_GROUP) {
            ret_starts[labels[i] + 1]++;
        }
    }
    for (size_t g = 0; g < group_count; g++) {
        ret_starts[g + 1] += ret_starts[g];
    }
    for (size_t i = 0; i < count * per_row; i++) {
        if (labels[i] != ROWS_NO_GROUP) {
            ret_rows[ret_starts[labels[i]]++] = (uint32_t)(i / per_row);
        }
    }
    memmove(ret_starts + 1, ret_starts, group_count * sizeof *ret_starts); /* each has come to its end */
    ret_starts[0] = 0;
}
