/*
 * workers/export/padding.h: zeros where a narrower sublayer lacks rows or columns, so that all of a kind are as wide as the
 * widest. What is added computes nothing: a channel whose gate and up rows are zero is zero, as is what down_proj makes of it
 * (its columns are zero as well); a head whose output columns are zero adds nothing. Where query heads share key-value heads,
 * each group is filled by itself, so that every head keeps its group.
 */
#ifndef WORKERS_EXPORT_PADDING_H
#define WORKERS_EXPORT_PADDING_H

#include "workers/export/layout_internal.h"
#include "workers/model/source.h"

/* NULL: the tensor is as wide already. tensor's shape is set to the padded one. */
void padding_make(const struct layout *layout, const struct inventory_tensor *source,
                  struct export_tensor *tensor);
void padding_destroy(struct export_padding *padding);

/* Reads written rows [first, first + count) of a draft's tensor: zeros, the source's, padded. The reader keeps its memory. */
struct padded_reader {
    const struct inventory *inventory;
    const struct source *source;
    void *window; /* owned */
    size_t window_bytes;
    float *narrow; /* owned: rows before they are widened */
    size_t narrow_count;
};
void padded_reader_finish(struct padded_reader *reader);
bool padded_reader_read(struct padded_reader *reader, const struct export_tensor *tensor, uint64_t first,
                        uint64_t count, float *ret_values, struct error *error) MUST_USE;

#endif
