/* workers/prune/mixing.c: see mixing.h. Of the stored tensor S (rows by columns) the new one is A S ("left") or S A^T ("right"). */
#include "workers/prune/mixing.h"

#include "base/check.h"
#include "base/memory.h"

enum { STEP = 256 }; /* rows or columns that are in double at once */

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

struct stored {
    struct source_view view;
    size_t rows, columns;
};

static bool find(const struct mixing *mixing, const char *name, struct stored *ret_stored,
                 struct error *error)
{
    const struct inventory_tensor *tensor = inventory_find(mixing->inventory, name);
    if (tensor == NULL) {
        return error_set(error, ERROR_INTERNAL, "the model has no tensor %s", name);
    }
    source_view_canonical(tensor, &ret_stored->view);
    ret_stored->rows = (size_t)ret_stored->view.rows;
    ret_stored->columns = (size_t)ret_stored->view.columns;
    return true;
}

/* Rows [first, first + count) into ret_rows. */
static bool read_rows(const struct mixing *mixing, const struct stored *stored, size_t first, size_t count,
                      float *ret_rows, struct error *error)
{
    OWNED_MEMORY void *window =
        memory_try_array(source_window_bytes(&stored->view, count), 1, "weights", error);
    return window != NULL &&
           source_read_rows(mixing->source, &stored->view, first, count, window, ret_rows, error);
}

static void to_double(const float *values, size_t count, double *ret_values)
{
    for (size_t i = 0; i < count; i++) {
        ret_values[i] = (double)values[i];
    }
}

static void to_float(const double *values, size_t count, float *ret_values)
{
    for (size_t i = 0; i < count; i++) {
        ret_values[i] = (float)values[i];
    }
}

/* A S, a tile of columns at a time: S [rows, columns], A [count, rows]. */
static bool multiply_left(const struct mixing *mixing, const struct stored *stored, const float *values,
                          const double *matrix, size_t count, float *ret_values, struct error *error)
{
    size_t rows = stored->rows, columns = stored->columns;
    size_t step = (size_t)smaller(STEP, columns);
    OWNED_MEMORY double *tile = memory_try_array(rows * step, sizeof *tile, "weights", error);
    OWNED_MEMORY double *out = memory_try_array(count * step, sizeof *out, "new weights", error);
    for (size_t first = 0; tile != NULL && out != NULL && first < columns; first += step) {
        size_t now = (size_t)smaller(step, columns - first);
        for (size_t r = 0; r < rows; r++) {
            to_double(values + r * columns + first, now, tile + r * now);
        }
        struct dense_product product = {.m = count,
                                        .n = now,
                                        .k = rows,
                                        .alpha = 1,
                                        .a_stride = rows,
                                        .b_stride = now,
                                        .out_stride = now};
        if (!dense_multiply(&mixing->threads, &product, matrix, tile, out, error)) {
            return false;
        }
        for (size_t r = 0; r < count; r++) {
            to_float(out + r * now, now, ret_values + r * columns + first);
        }
    }
    return tile != NULL && out != NULL;
}

static bool put_left(const struct mixing *mixing, const struct weight_shape *from, const char *name,
                     const double *matrix, size_t count, struct error *error)
{
    struct stored stored;
    if (!find(mixing, from->name, &stored, error)) {
        return false;
    }
    OWNED_MEMORY float *values =
        memory_try_array(stored.rows * stored.columns, sizeof *values, "weights", error);
    OWNED_MEMORY float *out = memory_try_array(count * stored.columns, sizeof *out, "new weights", error);
    if (values == NULL || out == NULL) {
        return false;
    }
    for (size_t first = 0; first < stored.rows; first += STEP) {
        size_t now = (size_t)smaller(STEP, stored.rows - first);
        if (!read_rows(mixing, &stored, first, now, values + first * stored.columns, error)) {
            return false;
        }
    }
    return multiply_left(mixing, &stored, values, matrix, count, out, error) &&
           patch_put(mixing->patch, name, from->rank, (uint64_t[]){count, stored.columns}, out, error);
}

static bool put_right(const struct mixing *mixing, const struct weight_shape *from, const char *name,
                      const double *matrix, size_t count, struct error *error)
{
    struct stored stored;
    if (!find(mixing, from->name, &stored, error)) {
        return false;
    }
    size_t step = (size_t)smaller(STEP, stored.rows);
    size_t wide = stored.columns > count ? stored.columns : count;
    OWNED_MEMORY float *values = memory_try_array(step * wide, sizeof *values, "weights", error);
    OWNED_MEMORY double *rows = memory_try_array(step * stored.columns, sizeof *rows, "weights", error);
    OWNED_MEMORY double *out = memory_try_array(step * count, sizeof *out, "new weights", error);
    if (values == NULL || rows == NULL || out == NULL ||
        !patch_begin(mixing->patch, name, from->rank, (uint64_t[]){stored.rows, count}, error)) {
        return false;
    }
    for (size_t first = 0; first < stored.rows; first += step) {
        size_t now = (size_t)smaller(step, stored.rows - first);
        struct dense_product product = {.m = now,
                                        .n = count,
                                        .k = stored.columns,
                                        .is_b_transposed = true,
                                        .alpha = 1,
                                        .a_stride = stored.columns,
                                        .b_stride = stored.columns,
                                        .out_stride = count};
        if (!read_rows(mixing, &stored, first, now, values, error)) {
            return false;
        }
        to_double(values, now * stored.columns, rows);
        if (!dense_multiply(&mixing->threads, &product, rows, matrix, out, error)) {
            return false;
        }
        to_float(out, now * count, values);
        if (!patch_append(mixing->patch, values, now * count, error)) {
            return false;
        }
    }
    return true;
}

bool mixing_put_outputs(const struct mixing *mixing, const struct weight_shape *from, const char *name,
                        const double *matrix, size_t count, struct error *error)
{
    return from->is_transposed ? put_right(mixing, from, name, matrix, count, error)
                               : put_left(mixing, from, name, matrix, count, error);
}

bool mixing_put_inputs(const struct mixing *mixing, const struct weight_shape *from, const char *name,
                       const double *matrix, size_t count, struct error *error)
{
    CHECK(from->rank == 2);
    return from->is_transposed ? put_left(mixing, from, name, matrix, count, error)
                               : put_right(mixing, from, name, matrix, count, error);
}

bool mixing_read_vector(const struct mixing *mixing, const char *name, size_t count, double *ret_values,
                        struct error *error)
{
    struct stored stored;
    OWNED_MEMORY float *values = memory_create(count + 1, sizeof *values);
    if (!find(mixing, name, &stored, error)) {
        return false;
    }
    CHECK(stored.rows == count && stored.columns == 1);
    if (!read_rows(mixing, &stored, 0, count, values, error)) {
        return false;
    }
    to_double(values, count, ret_values);
    return true;
}

uint64_t mixing_bytes(uint64_t rows, uint64_t columns)
{
    uint64_t widest = rows > columns ? rows : columns;
    return 2 * rows * columns * sizeof(float) + 3 * STEP * widest * sizeof(double);
}
