/*
 * tests/unit/workers/select/plain.h: what tests of selectors share: cmocka with all that it wants, numbers that are close, random rows, a pool for
 * a group of tests, and squared distances and nearest neighbours by plain loops.
 */
#ifndef TESTS_UNIT_WORKERS_SELECT_PLAIN_H
#define TESTS_UNIT_WORKERS_SELECT_PLAIN_H

#include "base/memory.h"
#include "base/rng.h"
#include "workers/select/neighbours.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

static inline void assert_close(double value, double expected, double tolerance)
{
    if (!(fabs(value - expected) <= tolerance)) {
        print_error("%.17g is not %.17g\n", value, expected);
        fail();
    }
}

/* Setup and teardown of a group of tests; threads of two. */
static struct dense_threads plain_threads __attribute__((unused));
static inline int plain_open(void **state)
{
    (void)state;
    plain_threads.pool = pool_create(2, NULL);
    return plain_threads.pool == NULL;
}
static inline int plain_close(void **state)
{
    (void)state;
    pool_destroy(plain_threads.pool);
    return 0;
}

/* Owned numbers in -0.45 .. 0.55. */
static inline float *plain_rows(size_t count, uint64_t seed)
{
    float *values = memory_create(count + 1, sizeof *values);
    for (size_t i = 0; i < count; i++) {
        values[i] = (float)(rng_unit(&(struct rng){.seed = seed, .stream = 1}, i) - 0.45);
    }
    return values;
}

static inline double plain_square(const float *a, const float *b, size_t size)
{
    double sum = 0;
    for (size_t c = 0; c < size; c++) {
        sum += ((double)a[c] - (double)b[c]) * ((double)a[c] - (double)b[c]);
    }
    return sum;
}

static inline bool plain_is_zero(const float *row, size_t size)
{
    for (size_t c = 0; c < size; c++) {
        if (row[c] < 0 || row[c] > 0) {
            return false;
        }
    }
    return true;
}

/* The nearest k neighbours of row i by insertion, over all rows in order; zero rows have none and are nobody's. */
static inline void plain_list(const float *rows, size_t count, size_t size, size_t k, size_t i,
                              uint32_t *indices, float *distances)
{
    size_t length = 0;
    for (size_t j = 0; j < count && !plain_is_zero(rows + i * size, size); j++) {
        if (j == i || plain_is_zero(rows + j * size, size)) {
            continue;
        }
        float distance = (float)plain_square(rows + i * size, rows + j * size, size);
        if (length == k && distance >= distances[k - 1]) {
            continue;
        }
        size_t at = length < k ? length++ : k - 1;
        for (; at > 0 && distances[at - 1] > distance; at--) {
            distances[at] = distances[at - 1];
            indices[at] = indices[at - 1];
        }
        distances[at] = distance;
        indices[at] = (uint32_t)j;
    }
    for (; length < k; length++) {
        distances[length] = INFINITY;
        indices[length] = NEIGHBOURS_NONE;
    }
}

#endif
