/* workers/select/rows.c: see rows.h. */
#include "workers/select/rows.h"

#include "base/memory.h"
#include <string.h>

enum { TASK_ROWS = 256 };

struct rows_run {
    const float *rows;
    size_t count, size;
    const uint32_t *ids;
    float *out;
};

static void measure_task(void *context, size_t index, size_t thread)
{
    (void)thread;
    const struct rows_run *run = context;
    size_t end = rows_least((index + 1) * TASK_ROWS, run->count);
    for (size_t i = index * TASK_ROWS; i < end; i++) {
        const float *row = run->rows + i * run->size;
        double lanes[ROWS_LANES] = {0};
        for (size_t c = 0; c < run->size; c++) {
            lanes[c % ROWS_LANES] += (double)row[c] * (double)row[c];
        }
        double sum = 0.0;
        for (size_t lane = 0; lane < ROWS_LANES; lane++) {
            sum += lanes[lane];
        }
        run->out[i] = (float)(0.5 * sum);
    }
}

bool rows_measure(const struct dense_threads *threads, const float *rows, size_t count, size_t size,
                  bool is_unit, float *ret_halves, double *ret_longest, struct error *error)
{
    const double limit =
        0x1p99; /* twice this, squared lengths of two rows, and their products are finite in fp32 */
    struct rows_run run = {.rows = rows, .count = count, .size = size, .out = ret_halves};
    if (!pool_run(threads->pool, (count + TASK_ROWS - 1) / TASK_ROWS, measure_task, &run, threads->cancel,
                  error)) {
        return false;
    }
    double longest = 0.0;
    for (size_t i = 0; i < count; i++) {
        double square = 2.0 * (double)ret_halves[i];
        if (!(square < limit)) {
            return error_set(error, ERROR_NUMERIC, "row %zu is not finite, or too long (|x|^2 is %g)", i,
                             square);
        }
        if (is_unit && square > 0.0 && !(fabs(square - 1.0) <= ROWS_UNIT_TOLERANCE)) {
            return error_set(error, ERROR_INVALID_ARGUMENT, "row %zu is of length %g, not 1 or 0", i,
                             sqrt(square));
        }
        longest = square > longest ? square : longest;
        if (is_unit && !(square > 0.0)) {
            ret_halves[i] = INFINITY;
        }
    }
    for (size_t i = count; i < rows_padded(count); i++) {
        ret_halves[i] = INFINITY;
    }
    *ret_longest = sqrt(longest);
    return true;
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
    struct rows_run run = {rows, count, size, ids, ret_rows};
    return pool_run(threads->pool, (count + TASK_ROWS - 1) / TASK_ROWS, gather_task, &run, threads->cancel,
                    error);
}

bool rows_draw(const struct rng *rng, size_t count, size_t wanted, uint32_t *ret_ids, struct error *error)
{
    OWNED_MEMORY size_t *order = memory_try_array(count, sizeof *order, "an order of rows", error);
    OWNED_MEMORY bool *is_drawn = memory_try_array(count, sizeof *is_drawn, "a sample of rows", error);
    if (order == NULL || is_drawn == NULL) {
        return false;
    }
    rng_permutation(rng, count, order);
    for (size_t i = 0; i < wanted; i++) {
        is_drawn[order[i]] = true;
    }
    for (size_t i = 0, to = 0; i < count; i++) {
        if (is_drawn[i]) {
            ret_ids[to++] = (uint32_t)i;
        }
    }
    return true;
}
