/*
 * workers/model/source.c: see source.h. A row of the view is mapped to a row (or a column) of the file; runs of rows that lie
 * together there are one pread. Transposed tensors are read as stripes: of each stored row the piece that the wanted columns
 * cover, widened to whole blocks of a block type.
 */
#include "workers/model/source.h"

#include "base/check.h"
#include "base/file.h"
#include "base/memory.h"
#include "workers/tensor/dtype.h"
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>

/* Of one hint: Linux cuts a longer one down to the device's read-ahead window, 128 KiB where nobody set another. */
#define AHEAD_BYTES ((uint64_t)128 << 10)

struct source {
    const struct inventory *inventory; /* borrowed */
    int *fds;                          /* [file_count], -1: holds no tensor */
    atomic_uint_fast64_t bytes_read;
};

static uint64_t stored_bytes(enum dtype dtype, uint64_t count)
{
    return dtype_size_bytes(dtype, (size_t)count);
}

/* ---- opening ------------------------------------------------------------------------------------ */

struct source *source_open(const struct inventory *inventory, const char *path, struct error *error)
{
    OWNED_MEMORY char *folder = inventory_folder(path);
    OWNED(source) source = memory_create(1, sizeof *source);
    source->inventory = inventory;
    source->fds = memory_create(inventory->file_count + 1, sizeof *source->fds);
    for (size_t i = 0; i < inventory->file_count; i++) {
        source->fds[i] = -1;
    }
    OWNED_FD int folder_fd = file_open_folder(folder, error);
    if (folder_fd < 0) {
        return NULL;
    }
    for (size_t i = 0; i < inventory->tensor_count; i++) {
        size_t file = inventory->tensors[i].file;
        if (source->fds[file] < 0) {
            source->fds[file] = file_open_beneath(folder_fd, inventory->files[file].path, true, error);
            if (source->fds[file] < 0) {
                return NULL;
            }
        }
    }
    return TAKE(source);
}

void source_destroy(struct source *source)
{
    if (source == NULL) {
        return;
    }
    for (size_t i = 0; source->fds != NULL && i < source->inventory->file_count; i++) {
        if (source->fds[i] >= 0) {
            (void)close(source->fds[i]);
        }
    }
    free(source->fds);
    free(source);
}

/* ---- views -------------------------------------------------------------------------------------- */

void source_view_canonical(const struct inventory_tensor *tensor, struct source_view *ret_view)
{
    struct source_view view = {
        .tensor = tensor, .rows = tensor->rank > 0 ? tensor->shape[0] : 1, .columns = 1};
    for (size_t i = 1; i < tensor->rank; i++) {
        view.columns *= tensor->shape[i];
    }
    view.stored_columns = view.columns;
    switch (tensor->layout) {
    case LAYOUT_PLAIN:
        break;
    case LAYOUT_ROPE_PAIRS:
    case LAYOUT_QKV_CONCATENATED:
        view.layout = tensor->layout;
        view.layout_heads = tensor->layout_heads;
        break;
    case LAYOUT_NORM_PLUS_ONE:
        view.add = -1.0f;
        break;
    case LAYOUT_TRANSPOSED:
        view.is_transposed = true;
        view.stored_columns = view.rows;
        break;
    }
    *ret_view = view;
}

void source_view_transpose(struct source_view *view)
{
    CHECK(view->parts == 0 && view->layout == LAYOUT_PLAIN);
    uint64_t rows = view->rows;
    view->rows = view->columns;
    view->columns = rows;
    view->is_transposed = !view->is_transposed;
}

void source_view_deinterleave(struct source_view *view, uint64_t heads, uint64_t head_size)
{
    CHECK(!view->is_transposed && view->rows == 3 * heads * head_size);
    view->groups = heads;
    view->parts = 3;
    view->size = head_size;
}

bool source_view_is_plain(const struct source_view *view)
{
    return !view->is_transposed && view->parts == 0 && view->layout == LAYOUT_PLAIN &&
           !(fabsf(view->add) > 0);
}

/* Where row r of the view stands in the file. */
static uint64_t stored_row(const struct source_view *view, uint64_t row)
{
    if (view->parts > 0) {
        uint64_t part_rows = view->groups * view->size;
        uint64_t part = row / part_rows;
        uint64_t group = row % part_rows / view->size;
        row = (group * view->parts + part) * view->size + row % view->size;
    }
    return layout_source_row(view->layout, view->layout_heads, (size_t)view->rows, (size_t)row);
}

/* ---- reading ------------------------------------------------------------------------------------ */

bool source_read_bytes(const struct source *source, const struct inventory_tensor *tensor, uint64_t offset,
                       size_t count, void *ret_bytes, struct error *error)
{
    CHECK(offset <= tensor->bytes && count <= tensor->bytes - offset);
    const char *path = source->inventory->files[tensor->file].path;
    if (!file_read_at(source->fds[tensor->file], ret_bytes, count, tensor->offset_bytes + offset, path,
                      error)) {
        return false;
    }
    atomic_fetch_add_explicit(&((struct source *)(uintptr_t)source)->bytes_read, count, memory_order_relaxed);
    return true;
}

/* Lanes of 16 make loops that the compiler vectorises without help. */
static bool is_finite(const float *values, size_t count)
{
    enum { LANES = 16 };
    uint32_t found[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        uint32_t bits[LANES];
        memcpy(bits, values + i, sizeof bits);
        for (size_t lane = 0; lane < LANES; lane++) {
            /* Exponent 255 and only that carries into the sign bit. */
            found[lane] |= (bits[lane] & 0x7fffffffu) + 0x00800000u;
        }
    }
    uint32_t any = 0;
    for (size_t lane = 0; lane < LANES; lane++) {
        any |= found[lane];
    }
    bool is_sound = (any & 0x80000000u) == 0;
    for (; i < count; i++) {
        is_sound = is_sound && isfinite(values[i]);
    }
    return is_sound;
}

static bool check_finite(const struct source_view *view, uint64_t first_row, uint64_t count,
                         const float *rows, struct error *error)
{
    size_t elements = (size_t)(count * view->columns);
    if (is_finite(rows, elements)) {
        return true;
    }
    size_t i = 0;
    while (isfinite(rows[i])) {
        i++;
    }
    const char *name = view->tensor->name;
    return error_set_field(error, ERROR_NUMERIC, name, "tensor %.200s holds %s at element %" PRIu64, name,
                           isnan(rows[i]) ? "NaN" : "infinity", first_row * view->columns + i);
}

/* Of the stored columns [first, first + count) those of whole blocks around them. */
static uint64_t stripe_start(const struct source_view *view, uint64_t first, uint64_t count,
                             uint64_t *ret_count)
{
    size_t block = dtype_block_count(view->tensor->dtype);
    uint64_t start = first / block * block;
    uint64_t end = (first + count + block - 1) / block * block;
    *ret_count = end - start;
    return start;
}

size_t source_window_bytes(const struct source_view *view, uint64_t count)
{
    enum dtype dtype = view->tensor->dtype;
    if (view->is_transposed) {
        /* One stored row's piece, and its values. */
        uint64_t widest = count + 2 * dtype_block_count(dtype);
        return (size_t)(widest * sizeof(float) + stored_bytes(dtype, widest + dtype_block_count(dtype))) + 64;
    }
    return (size_t)stored_bytes(dtype, count * view->stored_columns);
}

/* The view's rows are stored columns. */
static bool read_stripe(const struct source *source, const struct source_view *view, uint64_t first_row,
                        uint64_t count, void *window, float *ret_rows, struct error *error)
{
    const struct inventory_tensor *tensor = view->tensor;
    uint64_t wide = 0;
    uint64_t start = stripe_start(view, first_row, count, &wide);
    float *values = window;
    unsigned char *bytes = (unsigned char *)(values + wide);
    uint64_t row_bytes = stored_bytes(tensor->dtype, view->stored_columns);
    uint64_t skipped = stored_bytes(tensor->dtype, start);
    size_t piece = (size_t)stored_bytes(tensor->dtype, wide);
    for (uint64_t r = 0; r < view->columns; r++) {
        if (!source_read_bytes(source, tensor, r * row_bytes + skipped, piece, bytes, error)) {
            return false;
        }
        dtype_to_f32(tensor->dtype, bytes, (size_t)wide, values);
        const float *from = values + (first_row - start);
        float *to = ret_rows + r;
        for (uint64_t c = 0; c < count; c++, to += view->columns) {
            *to = from[c];
        }
    }
    return true;
}

static bool read_runs(const struct source *source, const struct source_view *view, uint64_t first_row,
                      uint64_t count, unsigned char *window, float *ret_rows, struct error *error)
{
    const struct inventory_tensor *tensor = view->tensor;
    uint64_t row_bytes = stored_bytes(tensor->dtype, view->stored_columns);
    for (uint64_t done = 0; done < count;) {
        uint64_t start = stored_row(view, first_row + done);
        uint64_t run = 1;
        while (done + run < count && stored_row(view, first_row + done + run) == start + run) {
            run++;
        }
        if (!source_read_bytes(source, tensor, start * row_bytes, (size_t)(run * row_bytes), window, error)) {
            return false;
        }
        dtype_to_f32(tensor->dtype, window, (size_t)(run * view->stored_columns),
                     ret_rows + done * view->columns);
        done += run;
    }
    return true;
}

bool source_read_rows(const struct source *source, const struct source_view *view, uint64_t first_row,
                      uint64_t count, void *window, float *ret_rows, struct error *error)
{
    CHECK(first_row <= view->rows && count <= view->rows - first_row);
    if (!(view->is_transposed ? read_stripe(source, view, first_row, count, window, ret_rows, error)
                              : read_runs(source, view, first_row, count, window, ret_rows, error))) {
        return false;
    }
    if (!check_finite(view, first_row, count, ret_rows, error)) {
        return false;
    }
    if (fabsf(view->add) > 0) {
        for (size_t i = 0; i < (size_t)(count * view->columns); i++) {
            ret_rows[i] += view->add;
        }
    }
    return true;
}

void source_read_ahead(const struct source *source, const struct inventory_tensor *tensor)
{
    for (uint64_t done = 0; done < tensor->bytes; done += AHEAD_BYTES) {
        uint64_t part = tensor->bytes - done < AHEAD_BYTES ? tensor->bytes - done : AHEAD_BYTES;
        (void)posix_fadvise(source->fds[tensor->file], (off_t)(tensor->offset_bytes + done), (off_t)part,
                            POSIX_FADV_WILLNEED);
    }
}

uint64_t source_bytes_read(const struct source *source)
{
    return atomic_load_explicit(&((struct source *)(uintptr_t)source)->bytes_read, memory_order_relaxed);
}
