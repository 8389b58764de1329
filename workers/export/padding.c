/* workers/export/padding.c: see padding.h. */
#include "workers/export/padding.h"

#include "base/check.h"
#include "base/memory.h"
#include "workers/model/architecture.h"
#include <stdlib.h>
#include <string.h>

/* ---- runs ------------------------------------------------------------------------------------------------------------- */

struct runs {
    struct export_run *items;
    size_t count, capacity;
    uint64_t at; /* next row of the source */
};

static void add(struct runs *runs, uint64_t count, bool is_zero)
{
    if (count == 0) {
        return;
    }
    struct export_run *last = runs->count > 0 ? &runs->items[runs->count - 1] : NULL;
    if (last != NULL && last->is_zero == is_zero) {
        last->count += count;
    } else {
        if (runs->count == runs->capacity) {
            runs->capacity = runs->capacity > 0 ? 2 * runs->capacity : 8;
            runs->items = memory_resize(runs->items, runs->capacity, sizeof *runs->items);
        }
        runs->items[runs->count++] = (struct export_run){is_zero ? 0 : runs->at, count, is_zero};
    }
    runs->at += is_zero ? 0 : count;
}

static void add_channels(struct runs *runs, const struct layout *layout, const struct model_layer *layer)
{
    add(runs, layer->intermediate_size, false);
    add(runs, layout->widths.ffn.intermediate_size - layer->intermediate_size, true);
}

static void add_kv_heads(struct runs *runs, const struct layout *layout, const struct model_layer *layer,
                         size_t size)
{
    add(runs, layer->kv_head_count * size, false);
    add(runs, (layout->widths.kv_head_count - layer->kv_head_count) * size, true);
}

/* Group by group: the heads that are there, then those that a group of the widest layer has besides. */
static void add_heads(struct runs *runs, const struct layout *layout, const struct model_layer *layer,
                      size_t size)
{
    const struct export_widths *widths = &layout->widths;
    size_t each = layer->head_count / layer->kv_head_count,
           wanted = widths->head_count / widths->kv_head_count;
    for (size_t i = 0; i < layer->kv_head_count; i++) {
        add(runs, each * size, false);
        add(runs, (wanted - each) * size, true);
    }
    add(runs, (widths->kv_head_count - layer->kv_head_count) * wanted * size, true);
}

enum axis { AXIS_WHOLE, AXIS_CHANNELS, AXIS_GATE_UP, AXIS_HEADS, AXIS_KV_HEADS, AXIS_QKV };

/* Along out_features, and along in_features. */
static void find_axes(const struct model_config *config, enum weight_role role, enum axis *ret_out,
                      enum axis *ret_in)
{
    (void)config;
    *ret_out = *ret_in = AXIS_WHOLE;
    switch ((int)role) {
    case WEIGHT_Q:
    case WEIGHT_Q_BIAS:
        *ret_out = AXIS_HEADS;
        break;
    case WEIGHT_K:
    case WEIGHT_V:
    case WEIGHT_K_BIAS:
    case WEIGHT_V_BIAS:
        *ret_out = AXIS_KV_HEADS;
        break;
    case WEIGHT_QKV:
    case WEIGHT_QKV_BIAS:
        *ret_out = AXIS_QKV;
        break;
    case WEIGHT_O:
        *ret_in = AXIS_HEADS;
        break;
    case WEIGHT_GATE:
    case WEIGHT_UP:
    case WEIGHT_GATE_BIAS:
    case WEIGHT_UP_BIAS:
        *ret_out = AXIS_CHANNELS;
        break;
    case WEIGHT_GATE_UP:
        *ret_out = AXIS_GATE_UP;
        break;
    case WEIGHT_DOWN:
        *ret_in = AXIS_CHANNELS;
        break;
    default:
        break;
    }
}

static void make_runs(const struct layout *layout, const struct model_layer *layer, enum axis axis,
                      uint64_t whole, struct runs *runs)
{
    size_t size = layout->config->head_size;
    switch (axis) {
    case AXIS_WHOLE:
        add(runs, whole, false);
        break;
    case AXIS_CHANNELS:
        add_channels(runs, layout, layer);
        break;
    case AXIS_GATE_UP:
        add_channels(runs, layout, layer);
        add_channels(runs, layout, layer);
        break;
    case AXIS_HEADS:
        add_heads(runs, layout, layer, size);
        break;
    case AXIS_KV_HEADS:
        add_kv_heads(runs, layout, layer, size);
        break;
    case AXIS_QKV:
        if (architecture_of(layout->config)->qkv_order == QKV_INTERLEAVED) {
            add_heads(runs, layout, layer, 3 * size);
            break;
        }
        add_heads(runs, layout, layer, size);
        add_kv_heads(runs, layout, layer, size);
        add_kv_heads(runs, layout, layer, size);
        break;
    }
}

static uint64_t count_all(const struct runs *runs)
{
    uint64_t count = 0;
    for (size_t i = 0; i < runs->count; i++) {
        count += runs->items[i].count;
    }
    return count;
}

void padding_make(const struct layout *layout, const struct inventory_tensor *source,
                  struct export_tensor *tensor)
{
    size_t number = 0, expert = 0;
    const char *suffix = NULL;
    enum weight_role role = WEIGHT_EMBEDDING;
    struct weight_shape shape;
    if (!architecture_split_name(layout->config, source->name, &number, &suffix) ||
        !architecture_find_role(layout->config, suffix, &role, &expert) ||
        !architecture_tensor(layout->config, role, number, expert, &shape) || shape.rank != source->rank) {
        return;
    }
    enum axis out = AXIS_WHOLE, in = AXIS_WHOLE;
    find_axes(layout->config, role, &out, &in);
    const struct model_layer *layer = &layout->config->layers[number];
    enum axis axes[2] = {shape.is_transposed ? in : out, shape.is_transposed ? out : in};
    struct runs runs[2] = {{0}, {0}};
    bool is_padded = false;
    for (size_t d = 0; d < 2; d++) {
        uint64_t before = d < source->rank ? source->shape[d] : 1;
        make_runs(layout, layer, axes[d], before, &runs[d]);
        uint64_t after = count_all(&runs[d]);
        is_padded = is_padded || after != before;
        if (d < source->rank) {
            tensor->shape[d] = after;
        }
    }
    if (!is_padded) {
        free(runs[0].items);
        free(runs[1].items);
        return;
    }
    tensor->padding = memory_create(1, sizeof *tensor->padding);
    *tensor->padding = (struct export_padding){.rows = runs[0].items,
                                               .row_run_count = runs[0].count,
                                               .columns = runs[1].items,
                                               .column_run_count = runs[1].count};
}

void padding_destroy(struct export_padding *padding)
{
    if (padding != NULL) {
        free(padding->rows);
        free(padding->columns);
        free(padding);
    }
}

/* ---- reading ---------------------------------------------------------------------------------------------------------- */

void padded_reader_finish(struct padded_reader *reader)
{
    free(reader->window);
    free(reader->narrow);
    *reader = (struct padded_reader){0};
}

static bool grow(void **memory, size_t *have, size_t needed, size_t item_bytes, struct error *error)
{
    if (needed > *have) {
        free(*memory);
        *have = 0;
        *memory = memory_try_array(needed, item_bytes, "a window of weights", error);
        if (*memory == NULL) {
            return false;
        }
        *have = needed;
    }
    return true;
}

static bool read_source(struct padded_reader *reader, const struct source_view *view, uint64_t first,
                        uint64_t count, float *ret_values, struct error *error)
{
    return grow(&reader->window, &reader->window_bytes, source_window_bytes(view, count), 1, error) &&
           source_read_rows(reader->source, view, first, count, reader->window, ret_values, error);
}

static void widen(const struct export_padding *padding, const float *narrow, uint64_t rows,
                  uint64_t narrow_columns, uint64_t columns, float *ret_values)
{
    for (uint64_t row = 0; row < rows; row++) {
        const float *from = narrow + row * narrow_columns;
        float *to = ret_values + row * columns;
        for (size_t i = 0; i < padding->column_run_count; i++) {
            const struct export_run *run = &padding->columns[i];
            if (run->is_zero) {
                memset(to, 0, (size_t)run->count * sizeof *to);
            } else {
                memcpy(to, from + run->first, (size_t)run->count * sizeof *to);
            }
            to += run->count;
        }
    }
}

/* Rows of the source as rows of the tensor. */
static bool read_wide(struct padded_reader *reader, const struct export_tensor *tensor,
                      const struct source_view *view, uint64_t first, uint64_t count, uint64_t columns,
                      float *ret_values, struct error *error)
{
    if (tensor->padding->column_run_count == 1) {
        return read_source(reader, view, first, count, ret_values, error);
    }
    void *narrow = reader->narrow;
    bool is_grown =
        grow(&narrow, &reader->narrow_count, (size_t)(count * view->columns), sizeof(float), error);
    reader->narrow = narrow;
    if (!is_grown || !read_source(reader, view, first, count, reader->narrow, error)) {
        return false;
    }
    widen(tensor->padding, reader->narrow, count, view->columns, columns, ret_values);
    return true;
}

bool padded_reader_read(struct padded_reader *reader, const struct export_tensor *tensor, uint64_t first,
                        uint64_t count, float *ret_values, struct error *error)
{
    struct source_view view;
    source_view_canonical(&reader->inventory->tensors[tensor->source], &view);
    uint64_t columns = 1;
    for (size_t i = 1; i < tensor->rank; i++) {
        columns *= tensor->shape[i];
    }
    if (tensor->is_zero) {
        memset(ret_values, 0, (size_t)(count * columns) * sizeof *ret_values);
        return true;
    }
    if (tensor->padding == NULL) {
        return read_source(reader, &view, first, count, ret_values, error);
    }
    uint64_t begin = 0;
    for (size_t i = 0; i < tensor->padding->row_run_count && count > 0; i++) {
        const struct export_run *run = &tensor->padding->rows[i];
        if (first < begin + run->count) {
            uint64_t skipped = first - begin, left = run->count - skipped, part = left < count ? left : count;
            if (run->is_zero) {
                memset(ret_values, 0, (size_t)(part * columns) * sizeof *ret_values);
            } else if (!read_wide(reader, tensor, &view, run->first + skipped, part, columns, ret_values,
                                  error)) {
                return false;
            }
            ret_values += part * columns;
            first += part;
            count -= part;
        }
        begin += run->count;
    }
    CHECK(count == 0);
    return true;
}
