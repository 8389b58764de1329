/*
 * workers/model/model_internal.h: what the files of the forward pass share.
 *
 * Work is cut into tiles and panels in one place (`exec_run` and the matmul below); whether the pieces run on
 * the pool or one after the other in the caller's thread never changes a bit. So a sublayer is written once,
 * over a span of tiles, and is used in two ways: many sequences are handed out whole, one task each, without
 * any waiting inside; a few are split operation by operation.
 */
#ifndef WORKERS_MODEL_MODEL_INTERNAL_H
#define WORKERS_MODEL_MODEL_INTERNAL_H

#include "workers/model/model.h"
#include "workers/model/rope.h"
#include "workers/model/weights.h"
#include "workers/tensor/backend.h"
#include <stdatomic.h>

struct scratch {
    float *values;
    size_t count;
};
struct model {
    const struct inventory *inventory; /* borrowed */
    const struct model_config *config; /* inventory's */
    const struct backend *backend;
    struct pool *pool; /* borrowed */
    size_t thread_count;
    const struct cancel *cancel; /* borrowed, may be NULL */
    struct weights *weights;
    struct sublayer *sublayers; /* [sublayer_count] */
    size_t sublayer_count;
    struct rope rope;
    struct scratch *scratch; /* [thread_count + 1]: one per thread, and one for work that is split over all */
    struct model_work work;
};

/* Where pieces of work run: on the pool, or here. */
struct exec {
    struct model *model;
    bool is_shared; /* on the pool */
    size_t thread;  /* if not: this one's scratch slot */
};
bool exec_run(const struct exec *exec, size_t count, void (*task)(void *context, size_t index, size_t thread),
              void *context, struct error *error) MUST_USE;
/* Makes slot `slot` hold at least `count` floats; call from the driving thread, or for the own slot. Contents
 * are lost. */
bool scratch_reserve(struct model *model, size_t slot, size_t count, struct error *error) MUST_USE;
bool scratch_reserve_threads(struct model *model, size_t count, struct error *error) MUST_USE;

/* out[tiles * TILE_ROWS, n] = x[.., k] * w^T + bias, over whole tiles; valid[i] rows of tile i count. */
struct tile_matmul {
    size_t tile_count, n, k;
    const struct hidden_tile *tiles;
    const float *x, *w, *bias;
    float *out;
    size_t x_stride, out_stride;
};
bool tile_matmul_run(const struct exec *exec, const struct tile_matmul *job, struct error *error) MUST_USE;

/* Where attention keeps a sequence's keys and values for decoding: rows of [k, v], 2 * kv_head_count *
 * head_size each. */
struct kv_sink {
    float *rows; /* [capacity, 2 * kv size]; position t goes to row t */
};
/* hidden += f(norm(hidden)) for tiles [first, first + count), which hold whole sequences. sink: NULL, or for
 * a span of one sequence. scratch: sublayer_scratch(...) floats, [count tiles]. */
struct span {
    struct hidden *hidden;
    size_t first, count;
    struct kv_sink *sink;
};
size_t sublayer_scratch(const struct model *model, size_t index, size_t tile_count);
/* Scratch of each thread while a span is split: scores of attention. */
size_t attention_thread_scratch(const struct hidden *hidden, const struct span *span);
bool run_span(const struct exec *exec, size_t index, const struct span *span, float *scratch, float *scores,
              struct error *error) MUST_USE;

/* Final norm of one tile into out [TILE_ROWS, hidden_size]; padding rows zero. */
void norm_tile(const struct model *model, const struct hidden *hidden, const struct hidden_tile *tile,
               const float *norm, float *out);
/* All logits of a tile: out [TILE_ROWS, vocab_size]. */
void logits_tile(const struct model *model, const float *normed, size_t rows, float *out);

#endif
