/*
 * workers/model/model_internal.h: what the files of the forward pass share. A sublayer is written once, over a span of rows
 * (forward.c); a batch is cut into spans here, decoding makes a span of one row for each sequence (generate.c).
 */
#ifndef WORKERS_MODEL_MODEL_INTERNAL_H
#define WORKERS_MODEL_MODEL_INTERNAL_H

#include "workers/model/architecture.h"
#include "workers/model/model.h"
#include "workers/model/rope.h"
#include "workers/model/tap.h"
#include "workers/model/weights.h"
#include "workers/tensor/backend.h"

/* Rows that are worked on at once: activations of a chunk stay near, and weights are read once for it. */
#define CHUNK_ROWS        768
#define DEVICE_CHUNK_ROWS 4096 /* on devices with memory of their own, which small products leave idle */
#define LOGIT_ROWS        128  /* whose logits are in scratch at once */

struct model {
    const struct inventory *inventory; /* borrowed */
    const struct model_config *config; /* inventory's */
    const struct architecture *architecture;
    struct device *device;
    const struct backend *backend; /* the device's */
    struct exec exec;              /* shared: all of the device */
    struct pool *pool;             /* borrowed */
    const struct cancel *cancel;   /* borrowed, may be NULL */
    struct weights *weights;
    struct sublayer *sublayers; /* [sublayer_count] */
    size_t sublayer_count;
    struct rope_table ropes[2][2]; /* [rope][is_long]; only those in use */
    float *scratch;                /* device memory */
    size_t scratch_count;
    struct model_work work;
    const struct model_tap *tap; /* borrowed; NULL: none */
    float *tap_rows;             /* host: rows of a device with memory of its own */
    size_t tap_count;
};

/* Makes model->scratch hold at least `count` floats; contents are lost. */
bool scratch_reserve(struct model *model, size_t count, struct error *error) MUST_USE;
/* OUT_OF_RANGE where the model has learned positions and they are fewer than `count`. */
bool model_check_length(const struct model *model, size_t count, struct error *error) MUST_USE;
/* Position tables for sequences of up to `count` tokens. */
bool model_extend_ropes(struct model *model, size_t count, struct error *error) MUST_USE;

/* Keys and values of one attention sublayer, kept for decoding: rows of [k v], 2 * kv_head_count * head_size each. */
struct kv_cache {
    float *rows;            /* device memory */
    const int32_t *to_rows; /* [row_count]: where the keys and values of the span's rows go */
    /* Decoding: row i of the span sees counts[i] rows from first_rows[i] on. NULL: the span holds whole sequences and attends
     * to itself. */
    const size_t *first_rows, *counts;
};
struct span {
    float *rows;   /* [row_count, hidden_size], changed in place */
    float *branch; /* same shape; what an FFN reads instead of rows; NULL: rows */
    size_t row_count;
    const struct segment *segments; /* [segment_count], rows from 0 on */
    size_t segment_count;
    const struct kv_cache *cache; /* attention: NULL: keys and values are not kept */
    size_t first_row;             /* of the hidden; for the tap */
};
/* Shows rows to the tap, where it wants this point; rows->values is device memory, [rows, size] with the stride. */
bool tap_show(struct model *model, const struct span *span, struct tap_rows *rows,
              struct error *error) MUST_USE;
/* One sublayer over a span. Its weights are acquired. scratch: sublayer_scratch(...) floats of device memory. */
size_t sublayer_scratch(const struct model *model, size_t index, size_t row_count);
bool run_span(struct model *model, size_t index, const struct sublayer_weights *weights,
              const struct span *span, float *scratch, struct error *error) MUST_USE;

/* model_run_sublayer; attention also leaves the keys and values of row i of the batch in row to_rows[i] of cache_rows (device
 * memory; NULL: nowhere). */
bool run_sublayer_keeping(struct model *model, size_t index, struct hidden *hidden, float *cache_rows,
                          const int32_t *to_rows, struct error *error) MUST_USE;

/* The same with a cache for all rows of the batch (its arrays are [row_count]; NULL: none): with first_rows set, the rows attend to
 * what is kept there and not to each other, so their own keys and values must go there too. */
bool run_sublayer_cached(struct model *model, size_t index, struct hidden *hidden,
                         const struct kv_cache *cache, struct error *error) MUST_USE;

/* Cuts the rows of a batch into chunks. Segments longer than cut_rows (WHOLE: none) are cut at multiples of it, counted from
 * their own start: how a sequence is cut depends on nothing else. Neighbours share a chunk while it has at most chunk_rows. */
#define WHOLE SIZE_MAX
struct chunk {
    size_t first_row, row_count; /* of the batch */
    struct segment *segments;    /* [segment_count], relative to first_row; owned by the list */
    size_t segment_count;
};
struct chunk_list {
    struct chunk *chunks;
    size_t count;
    struct segment *segments; /* owned: all chunks' */
    size_t most_rows;         /* of a chunk */
};
void chunk_list_create(const struct segment *segments, size_t segment_count, size_t cut_rows,
                       size_t chunk_rows, struct chunk_list *ret_list);
void chunk_list_finish(struct chunk_list *list);

/* Floats of scratch that the head takes at most, whatever is asked of it. */
uint64_t head_scratch_count(const struct model_config *config);
/* Final norm of rows into out; in place is fine. */
bool run_final_norm(struct model *model, const struct head_weights *head, size_t rows, const float *x,
                    float *out, struct error *error) MUST_USE;
/* Logits of normed rows: out [rows, vocab_size], device memory. */
bool run_logits(struct model *model, const struct head_weights *head, size_t rows, const float *normed,
                const struct segment *segments, size_t segment_count, float *out,
                struct error *error) MUST_USE;
/* Rows at a time: their logits stay in the cache from the product to what is read off them, and are enough for weights that are read
 * once for them. At most LOGIT_ROWS. */
size_t head_logit_rows(size_t vocab);
/* Of the first `count` logits of each row (at most LOGIT_ROWS rows, in device memory). */
bool run_logsumexps(struct model *model, size_t rows, size_t count, const float *logits, size_t stride,
                    double *ret_logsumexps, struct error *error) MUST_USE;

#endif
