/*
 * tests/unit/workers/tensor/devices.h: opened backends for the tests of operations. All memory that operations see is the
 * device's own and is filled and read through it, so that a backend on another device joins unasked.
 */
#ifndef TESTS_UNIT_WORKERS_TENSOR_DEVICES_H
#define TESTS_UNIT_WORKERS_TENSOR_DEVICES_H

#include "base/memory.h"
#include "base/rng.h"
#include "workers/tensor/backend.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

struct side {
    struct pool *pool;
    struct device *device;
    const struct backend *ops;
    struct exec exec;
    void *memory[32]; /* freed when the side is closed or cleared */
    size_t memory_count;
};

/* False: this machine or build lacks it. */
static inline bool side_open(struct side *side, const char *name, size_t threads)
{
    struct error error = {0};
    *side = (struct side){.pool = pool_create(threads, NULL)};
    side->device = device_open(name, DTYPE_F32, side->pool, NULL, &error);
    if (side->device == NULL) {
        assert_int_equal(error.code, ERROR_UNSUPPORTED);
        pool_destroy(side->pool);
        return false;
    }
    side->ops = device_get_backend(side->device);
    side->exec = (struct exec){.device = side->device, .is_shared = true};
    return true;
}

static inline void side_clear(struct side *side)
{
    while (side->memory_count > 0) {
        side->ops->memory_destroy(side->device, side->memory[--side->memory_count]);
    }
}

static inline void side_close(struct side *side)
{
    side_clear(side);
    device_destroy(side->device);
    pool_destroy(side->pool);
}

static inline void *side_memory(struct side *side, size_t bytes)
{
    assert_true(side->memory_count < COUNT_OF(side->memory));
    void *memory = side->ops->memory_create(side->device, bytes, "test", NULL);
    assert_non_null(memory);
    side->memory[side->memory_count++] = memory;
    return memory;
}

/* Device memory with these values; NULL: NULL. */
static inline float *side_floats(struct side *side, const float *values, size_t count)
{
    if (values == NULL) {
        return NULL;
    }
    float *memory = side_memory(side, count * sizeof *memory);
    assert_true(side->ops->memory_write(side->device, memory, values, count * sizeof *memory, NULL));
    return memory;
}

/* owned; the device's values on the host */
static inline float *side_read(struct side *side, const float *memory, size_t count)
{
    float *values = memory_create(count + 1, sizeof *values);
    assert_true(side->ops->memory_read(side->device, values, memory, count * sizeof *values, NULL));
    return values;
}

static inline struct matrix side_matrix(struct side *side, enum dtype dtype, size_t n, size_t k,
                                        const float *w)
{
    struct matrix matrix = {.dtype = dtype, .n = n, .k = k};
    matrix.data = side_memory(side, side->ops->matrix_bytes(dtype, n, k));
    size_t half = n / 3; /* in two parts, as a window of a file would be */
    assert_true(side->ops->matrix_write(side->device, &matrix, half, n - half, w + half * k, k, NULL));
    assert_true(side->ops->matrix_write(side->device, &matrix, 0, half, w, k, NULL));
    return matrix;
}

static inline float *noise(size_t count, uint32_t stream, float size)
{
    float *values = memory_create(count + 1, sizeof *values);
    struct rng rng = {.seed = 7, .stream = stream};
    for (size_t i = 0; i < count; i++) {
        values[i] = size * (float)(2.0 * rng_unit(&rng, i) - 1.0);
    }
    return values;
}

/* Within tolerance of the largest value there is in `should`. */
static inline void assert_close(const char *what, const char *backend, const float *is, const float *should,
                                size_t count, double tolerance)
{
    double largest = 1e-30;
    for (size_t i = 0; i < count; i++) {
        largest = fmax(largest, fabs((double)should[i]));
    }
    for (size_t i = 0; i < count; i++) {
        double off = fabs((double)is[i] - (double)should[i]);
        if (!(off <= tolerance * largest)) {
            fail_msg("%s of %s: element %zu of %zu is %.9g, should be %.9g (off by %g of %g)", what, backend,
                     i, count, (double)is[i], (double)should[i], off, largest);
        }
    }
}

#endif
