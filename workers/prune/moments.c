/*
 * workers/prune/moments.c: see moments.h. Rows are visited in blocks of columns, so that the six sums of a block stay in the first level of
 * cache while all rows of a call pass by; blocks are what threads share.
 */
#include "workers/prune/moments.h"

#include "base/check.h"
#include "base/memory.h"
#include <math.h>
#include <stdlib.h>

enum { BLOCK_COLUMNS = 512 };

struct moments *moments_create(size_t count, struct error *error)
{
    CHECK(count > 0);
    double *values = memory_try_array(count, MOMENTS_SUMS * sizeof *values, "moments", error);
    if (values == NULL) {
        return NULL;
    }
    struct moments *moments = memory_create(1, sizeof *moments);
    *moments = (struct moments){.count = count,
                                .values = values,
                                .shift = values,
                                .sum = values + count,
                                .square = values + 2 * count,
                                .raw_square = values + 3 * count,
                                .absolute = values + 4 * count,
                                .sequence_square = values + 5 * count};
    return moments;
}

void moments_destroy(struct moments *moments)
{
    if (moments != NULL) {
        free(moments->values);
        free(moments);
    }
}

struct addition {
    struct moments *moments;
    const float *values;
    size_t rows, stride;
};

static void close_columns(struct moments *moments, size_t first, size_t end)
{
    double tokens = (double)moments->open_tokens;
    for (size_t c = first; c < end; c++) {
        double mean = moments->absolute[c] / tokens;
        moments->sequence_square[c] += mean * mean;
        moments->absolute[c] = 0;
    }
}

/* All rows of one sequence, for one block of columns. */
static void add_columns(void *context, size_t index, size_t thread)
{
    (void)thread;
    const struct addition *addition = context;
    struct moments *moments = addition->moments;
    size_t first = index * BLOCK_COLUMNS;
    size_t end = first + BLOCK_COLUMNS < moments->count ? first + BLOCK_COLUMNS : moments->count;
    if (moments->tokens == 0) {
        for (size_t c = first; c < end; c++) {
            moments->shift[c] = (double)addition->values[c];
        }
    }
    for (size_t r = 0; r < addition->rows; r++) {
        const float *row = addition->values + r * addition->stride;
        for (size_t c = first; c < end; c++) {
            double x = (double)row[c];
            double y = x - moments->shift[c];
            moments->sum[c] += y;
            moments->square[c] += y * y;
            moments->raw_square[c] += x * x;
            moments->absolute[c] += fabs(x);
        }
    }
}

static void add_run(struct addition *addition, struct pool *pool)
{
    struct moments *moments = addition->moments;
    size_t blocks = (moments->count + BLOCK_COLUMNS - 1) / BLOCK_COLUMNS;
    /* Without a cancel flag a pool cannot fail. */
    if (pool == NULL || !pool_run(pool, blocks, add_columns, addition, NULL, NULL)) {
        CHECK(pool == NULL);
        for (size_t block = 0; block < blocks; block++) {
            add_columns(addition, block, 0);
        }
    }
    moments->tokens += addition->rows;
    moments->open_tokens += addition->rows;
}

void moments_add(struct moments *moments, const float *values, size_t rows, size_t stride,
                 const size_t *sequences, struct pool *pool)
{
    CHECK(stride >= moments->count || rows <= 1);
    for (size_t first = 0, end = 0; first < rows; first = end) {
        size_t number =
            sequences != NULL ? sequences[first] : (moments->open_tokens > 0 ? moments->open_sequence : 0);
        for (end = first + 1; end < rows && (sequences == NULL || sequences[end] == number); end++) {
        }
        if (moments->open_tokens > 0 && number != moments->open_sequence) {
            moments_close(moments);
        }
        moments->sequences += moments->open_tokens == 0 ? 1 : 0;
        moments->open_sequence = number;
        struct addition addition = {moments, values + first * stride, end - first, stride};
        add_run(&addition, pool);
    }
}

void moments_close(struct moments *moments)
{
    if (moments->open_tokens > 0) {
        close_columns(moments, 0, moments->count);
        moments->open_tokens = 0;
    }
}

void moments_mean(const struct moments *moments, double *ret_means)
{
    for (size_t c = 0; c < moments->count; c++) {
        ret_means[c] =
            moments->tokens > 0 ? moments->shift[c] + moments->sum[c] / (double)moments->tokens : 0;
    }
}

void moments_variance(const struct moments *moments, double *ret_variances)
{
    double tokens = (double)moments->tokens;
    for (size_t c = 0; c < moments->count; c++) {
        double spread =
            moments->tokens > 1 ? moments->square[c] - moments->sum[c] * moments->sum[c] / tokens : 0;
        ret_variances[c] = spread > 0 ? spread / (tokens - 1) : isnan(spread) ? spread : 0;
    }
}

void moments_norm(const struct moments *moments, double *ret_norms)
{
    for (size_t c = 0; c < moments->count; c++) {
        ret_norms[c] = moments->sequences > 0 ? sqrt(moments->raw_square[c] / (double)moments->sequences) : 0;
    }
}

void moments_sequence_norm(const struct moments *moments, double *ret_norms)
{
    CHECK(moments->open_tokens == 0);
    for (size_t c = 0; c < moments->count; c++) {
        ret_norms[c] = sqrt(moments->sequence_square[c]);
    }
}

void routed_norm_add(struct routed_norm *norm, const float *outputs, size_t rows, size_t size, size_t stride,
                     const float *weights)
{
    for (size_t r = 0; r < rows; r++) {
        const float *row = outputs + r * stride;
        double square = 0;
        for (size_t c = 0; c < size; c++) {
            square += (double)row[c] * (double)row[c];
        }
        norm->sum += (double)weights[r] * sqrt(square);
    }
    norm->tokens += rows;
}

double routed_norm_mean(const struct routed_norm *norm)
{
    return norm->tokens > 0 ? norm->sum / (double)norm->tokens : 0;
}
