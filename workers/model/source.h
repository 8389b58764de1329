/*
 * workers/model/source.h: the tensors of an inventory, read as rows of fp32, whatever the files hold: any element type, rows
 * in another order, projections transposed. Rows are read by pread in windows that the caller sizes; nothing is kept but the open
 * files. Any thread.
 *
 * A view says how one tensor is to be seen. The canonical view is what a Hugging Face checkpoint of the family holds (exporters
 * read it); the forward pass wants [out_features, in_features] with query, key and value rows one after the other, and asks for
 * that with view_transpose and view_deinterleave.
 *
 * Errors: NUMERIC for NaN and infinity, naming tensor and element (row-major in the view); INPUT_CHANGED for a file that ends
 * early; IO.
 */
#ifndef WORKERS_MODEL_SOURCE_H
#define WORKERS_MODEL_SOURCE_H

#include "base/cleanup.h"
#include "base/error.h"
#include "workers/model/inventory.h"
#include "workers/model/layout.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct source;
/* inventory is borrowed for the source's life, path as given to inventory_inspect. Opens the files that hold tensors. */
struct source *source_open(const struct inventory *inventory, const char *path, struct error *error) MUST_USE;
void source_destroy(struct source *source);
OWNED_DEFINE(source)

struct source_view {
    const struct inventory_tensor *tensor; /* borrowed from the inventory */
    uint64_t rows, columns;                /* of the view */
    uint64_t stored_columns;               /* of a row in the file */
    bool is_transposed;                    /* row r of the view is column r of the file */
    /* Rows in another order: the file holds for each of `groups` heads its parts one after the other ([groups, parts, size]), the
     * view [parts, groups, size]. parts 0: as they are. */
    uint64_t groups, parts, size;
    enum tensor_layout layout; /* of the file's rows: PLAIN, ROPE_PAIRS, QKV_CONCATENATED */
    size_t layout_heads;
    float add; /* to every element, in the end */
    /* Of a pruned model: the rows and columns that stay, numbers of the view without the edit; NULL: all. */
    uint64_t full_rows; /* of that view */
    const uint32_t *row_list, *column_list;
    float layout_add; /* to every element, first */
    bool is_flipped;  /* the transpose of the canonical view */
};
/* The canonical view. A tensor of rank 1 is [count, 1], of more than two [shape[0], rest]. */
void source_view_canonical(const struct inventory_tensor *tensor, struct source_view *ret_view);
/* The view's transpose. */
void source_view_transpose(struct source_view *view);
/* Fused q, k, v that lie head by head ([heads, 3, head_size] rows) as [q | k | v]. */
void source_view_deinterleave(struct source_view *view, uint64_t heads, uint64_t head_size);
/* Whether reading canonical rows gives back the bytes of the file, but for the element type. */
bool source_view_is_plain(const struct source_view *view);

/* Bytes of memory that reading `count` rows takes. */
size_t source_window_bytes(const struct source_view *view, uint64_t count);
/* Rows [first_row, first_row + count) into ret_rows [count, columns]. window: at least source_window_bytes(view, count). */
bool source_read_rows(const struct source *source, const struct source_view *view, uint64_t first_row,
                      uint64_t count, void *window, float *ret_rows, struct error *error) MUST_USE;
/* Stored bytes [offset, offset + count) of a tensor as they are. */
bool source_read_bytes(const struct source *source, const struct inventory_tensor *tensor, uint64_t offset,
                       size_t count, void *ret_bytes, struct error *error) MUST_USE;
/* Tells the system that this tensor will be read soon; returns at once, as far as the system can. */
void source_read_ahead(const struct source *source, const struct inventory_tensor *tensor);
/* Bytes of tensors read since opening, by whoever reads. */
uint64_t source_bytes_read(const struct source *source);

#endif
