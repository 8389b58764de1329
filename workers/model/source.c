/*
 * workers/model/source.c: see source.h. A row of the view is mapped to a row (or a column) of the file; runs of rows that lie
 * together there are one pread. Transposed tensors are read as stripes: of each stored row the piece that the wanted columns
 * cover, widened to whole blocks of a block type.
 *
 * Of a pruned model's tensor (tensor_edit) the rows and columns that stay are read as if the others were not there; what a patch holds is
 * read from it instead.
 */
#include "workers/model/source.h"

#include "base/check.h"
#include "base/file.h"
#include "base/memory.h"
#include "workers/model/patch.h"
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
    const struct tensor_edit *edit = tensor->edit;
    struct source_view view = {
        .tensor = tensor, .rows = tensor->rank > 0 ? tensor->shape[0] : 1, .columns = 1};
    for (size_t i = 1; i < tensor->rank; i++) {
        view.columns *= tensor->shape[i];
    }
    view.full_rows = edit != NULL ? edit->rows : view.rows;
    view.stored_columns = edit != NULL ? edit->columns : view.columns;
    if (edit != NULL) {
        view.row_list = edit->row_list;
        view.column_list = edit->column_list;
    }
    switch (tensor->layout) {
    case LAYOUT_PLAIN:
        break;
    case LAYOUT_ROPE_PAIRS:
    case LAYOUT_QKV_CONCATENATED:
        view.layout = tensor->layout;
        view.layout_heads = tensor->layout_heads;
        break;
    case LAYOUT_NORM_PLUS_ONE:
        view.layout_add = -1.0f;
        break;
    case LAYOUT_TRANSPOSED:
        view.is_transposed = true;
        view.stored_columns = view.full_rows;
        break;
    }
    *ret_view = view;
}

void source_view_transpose(struct source_view *view)
{
    CHECK(view->parts == 0 && view->layout == LAYOUT_PLAIN);
    uint64_t rows = view->rows;
    const uint32_t *row_list = view->row_list;
    view->rows = view->columns;
    view->columns = rows;
    view->row_list = view->column_list;
    view->column_list = row_list;
    view->is_transposed = !view->is_transposed;
    view->is_flipped = !view->is_flipped;
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
           view->tensor->edit == NULL && !(fabsf(view->add) > 0) && !(fabsf(view->layout_add) > 0);
}

/* The patch's tensor that the view is of; NULL: the file's counts. */
static const struct patch_tensor *find_patch(const struct source_view *view)
{
    const struct tensor_edit *edit = view->tensor->edit;
    return edit != NULL ? patch_find(edit->patch, view->tensor->name) : NULL;
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
    row = view->row_list != NULL ? view->row_list[row] : row;
    return layout_source_row(view->layout, view->layout_heads, (size_t)view->full_rows, (size_t)row);
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

/* Of a row that is read whole, whatever of it is wanted. */
static uint64_t wide_bytes(const struct source_view *view)
{
    uint64_t widest = view->stored_columns + 2 * dtype_block_count(view->tensor->dtype);
    return widest * sizeof(float) +
           stored_bytes(view->tensor->dtype, widest + dtype_block_count(view->tensor->dtype)) + 64;
}

size_t source_window_bytes(const struct source_view *view, uint64_t count)
{
    enum dtype dtype = view->tensor->dtype;
    uint64_t patched = view->tensor->edit != NULL && view->tensor->edit->patch != NULL
                           ? (view->is_flipped ? count : 1) * sizeof(float) + 64
                           : 0;
    uint64_t bytes = 0;
    if (view->row_list != NULL || view->column_list != NULL) {
        bytes = wide_bytes(view);
    } else if (view->is_transposed) {
        /* One stored row's piece, and its values. */
        uint64_t widest = count + 2 * dtype_block_count(dtype);
        bytes = widest * sizeof(float) + stored_bytes(dtype, widest + dtype_block_count(dtype)) + 64;
    } else {
        bytes = stored_bytes(dtype, count * view->stored_columns);
    }
    return (size_t)(bytes > patched ? bytes : patched);
}

/* The view's rows are stored columns. Those of a list lie between the first and the last of them. */
static bool read_stripe(const struct source *source, const struct source_view *view, uint64_t first_row,
                        uint64_t count, void *window, float *ret_rows, struct error *error)
{
    const struct inventory_tensor *tensor = view->tensor;
    const uint32_t *list = view->row_list != NULL ? view->row_list + first_row : NULL;
    uint64_t first = list != NULL ? list[0] : first_row;
    uint64_t span = list != NULL ? list[count - 1] - first + 1 : count;
    uint64_t wide = 0;
    uint64_t start = stripe_start(view, first, span, &wide);
    float *values = window;
    unsigned char *bytes = (unsigned char *)(values + wide);
    uint64_t row_bytes = stored_bytes(tensor->dtype, view->stored_columns);
    uint64_t skipped = stored_bytes(tensor->dtype, start);
    size_t piece = (size_t)stored_bytes(tensor->dtype, wide);
    for (uint64_t r = 0; r < view->columns; r++) {
        uint64_t stored = view->column_list != NULL ? view->column_list[r] : r;
        if (!source_read_bytes(source, tensor, stored * row_bytes + skipped, piece, bytes, error)) {
            return false;
        }
        dtype_to_f32(tensor->dtype, bytes, (size_t)wide, values);
        float *to = ret_rows + r;
        for (uint64_t c = 0; c < count; c++, to += view->columns) {
            *to = values[(list != NULL ? list[c] : first + c) - start];
        }
    }
    return true;
}

/* One stored row, and of it the columns that stay. */
static bool read_columns(const struct source *source, const struct source_view *view, uint64_t row,
                         void *window, float *ret_row, struct error *error)
{
    const struct inventory_tensor *tensor = view->tensor;
    uint64_t row_bytes = stored_bytes(tensor->dtype, view->stored_columns);
    float *values = window;
    unsigned char *bytes = (unsigned char *)(values + view->stored_columns);
    if (!source_read_bytes(source, tensor, stored_row(view, row) * row_bytes, (size_t)row_bytes, bytes,
                           error)) {
        return false;
    }
    dtype_to_f32(tensor->dtype, bytes, (size_t)view->stored_columns, values);
    for (uint64_t c = 0; c < view->columns; c++) {
        ret_row[c] = values[view->column_list[c]];
    }
    return true;
}

static bool read_runs(const struct source *source, const struct source_view *view, uint64_t first_row,
                      uint64_t count, unsigned char *window, float *ret_rows, struct error *error)
{
    const struct inventory_tensor *tensor = view->tensor;
    uint64_t row_bytes = stored_bytes(tensor->dtype, view->stored_columns);
    /* A window for rows that are kept apart holds one of them. */
    uint64_t most = view->row_list != NULL ? wide_bytes(view) / (row_bytes > 0 ? row_bytes : 1) : count;
    most = most > 0 ? most : 1;
    for (uint64_t done = 0; done < count;) {
        uint64_t start = stored_row(view, first_row + done);
        uint64_t run = 1;
        if (view->column_list != NULL) {
            if (!read_columns(source, view, first_row + done, window, ret_rows + done * view->columns,
                              error)) {
                return false;
            }
            done++;
            continue;
        }
        while (done + run < count && run < most && stored_row(view, first_row + done + run) == start + run) {
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

/* From the patch, which is fp32 in canonical order. */
static bool read_patch(const struct source_view *view, const struct patch_tensor *tensor, uint64_t first_row,
                       uint64_t count, void *window, float *ret_rows, struct error *error)
{
    const struct patch *patch = view->tensor->edit->patch;
    uint64_t stride = tensor->rank > 1 ? tensor->shape[1] : 1;
    if (view->is_flipped) {
        CHECK(tensor->shape[0] == view->columns && stride == view->rows && view->parts == 0);
        for (uint64_t r = 0; r < view->columns; r++) {
            if (!patch_read(patch, tensor, r * stride + first_row, (size_t)count, window, error)) {
                return false;
            }
            const float *values = window;
            for (uint64_t c = 0; c < count; c++) {
                ret_rows[c * view->columns + r] = values[c];
            }
        }
        return true;
    }
    CHECK(tensor->shape[0] == view->rows && stride == view->columns);
    struct source_view plain = *view; /* heads apart may still be wanted together */
    plain.row_list = NULL;
    plain.layout = LAYOUT_PLAIN;
    plain.full_rows = view->rows;
    for (uint64_t done = 0; done < count; done++) {
        uint64_t row = stored_row(&plain, first_row + done);
        if (!patch_read(patch, tensor, row * stride, (size_t)stride, ret_rows + done * stride, error)) {
            return false;
        }
    }
    return true;
}

/* *ret_add: what is still to be added. */
static bool read_values(const struct source *source, const struct source_view *view, uint64_t first_row,
                        uint64_t count, void *window, float *ret_rows, float *ret_add, struct error *error)
{
    const struct patch_tensor *patched = find_patch(view);
    *ret_add = view->add;
    const struct tensor_edit *edit = view->tensor->edit;
    if (count == 0) {
        return true;
    }
    if (patched != NULL) {
        return read_patch(view, patched, first_row, count, window, ret_rows, error) &&
               check_finite(view, first_row, count, ret_rows, error);
    }
    if (edit != NULL && edit->is_zero) {
        memset(ret_rows, 0, (size_t)(count * view->columns) * sizeof *ret_rows);
        return true;
    }
    if (!(view->is_transposed ? read_stripe(source, view, first_row, count, window, ret_rows, error)
                              : read_runs(source, view, first_row, count, window, ret_rows, error)) ||
        !check_finite(view, first_row, count, ret_rows, error)) {
        return false;
    }
    if (edit == NULL || !(edit->scale > 1 || edit->scale < 1)) {
        *ret_add += view->layout_add;
        return true;
    }
    double one = edit->adds_one ? 1 : 0;
    for (size_t i = 0; i < (size_t)(count * view->columns); i++) {
        double value = (double)(ret_rows[i] + view->layout_add);
        ret_rows[i] = (float)((value + one) * edit->scale - one);
    }
    return true;
}

bool source_read_rows(const struct source *source, const struct source_view *view, uint64_t first_row,
                      uint64_t count, void *window, float *ret_rows, struct error *error)
{
    CHECK(first_row <= view->rows && count <= view->rows - first_row);
    float add = 0;
    if (!read_values(source, view, first_row, count, window, ret_rows, &add, error)) {
        return false;
    }
    for (size_t i = 0; fabsf(add) > 0 && i < (size_t)(count * view->columns); i++) {
        ret_rows[i] += add;
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
