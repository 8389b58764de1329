/*
 * workers/model/weights_internal.h: shared by weights.c (opening, acquiring), weights_unit.c (what a unit is made of, loading
 * it), weights_cache.c (whose memory it lies in) and weights_embed.c (rows of embeddings).
 *
 * Units are numbered in residual order: 2 * layer for attention, 2 * layer + 1 for the FFN, the head last. A unit lies in one
 * block of device memory; its pieces are matrices and vectors at fixed offsets, and its loads say which rows of which tensor fill
 * them.
 */
#ifndef WORKERS_MODEL_WEIGHTS_INTERNAL_H
#define WORKERS_MODEL_WEIGHTS_INTERNAL_H

#include "workers/model/architecture.h"
#include "workers/model/source.h"
#include "workers/model/weights.h"
#include <pthread.h>

enum slot {
    SLOT_NORM,
    SLOT_NORM_BIAS,
    SLOT_POST_NORM,
    SLOT_IN,
    SLOT_IN_BIAS,
    SLOT_Q_NORM,
    SLOT_K_NORM,
    SLOT_OUT, /* also the head's matrix */
    SLOT_OUT_BIAS,
    SLOT_ROUTER,
    SLOT_COUNT, /* expert e: SLOT_COUNT + 2 e (in), + 1 (out) */
};
struct piece {
    bool is_vector;
    enum dtype dtype;
    size_t n, k; /* n 0: absent; vectors: k 1 */
    uint64_t offset_bytes;
};
struct load {
    struct source_view view;
    size_t piece;
    uint64_t first_row;   /* of the piece */
    uint64_t window_rows; /* read at once */
    size_t first_task;
};
struct block {
    void *memory; /* device; NULL: this entry is not in use */
    uint64_t bytes;
    bool is_taken;
    const struct unit *shape; /* the unit whose layout was written last */
};
struct unit {
    struct piece *pieces; /* [piece_count], by slot */
    size_t piece_count;
    struct load *loads; /* [load_count] */
    size_t load_count, task_count;
    uint64_t bytes;
    struct block *block; /* NULL: not loaded */
    size_t acquired_count;
    bool is_advised; /* read ahead, not yet loaded */
    struct sublayer_weights sublayer;
    struct head_weights head;
    struct ffn_weights *experts; /* [expert_count] */
    size_t expert_count;
};
struct ahead {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    size_t units[4]; /* asked for; guarded by lock */
    size_t count;
    bool is_stopping, is_started;
};
struct window {
    void *bytes;
    float *rows;
};
struct weights {
    const struct inventory *inventory; /* borrowed */
    const struct model_config *config; /* inventory's */
    const struct architecture *architecture;
    const struct backend *backend;
    struct weights_options options;
    struct source *source;
    struct unit *units;                 /* [unit_count] */
    size_t unit_count;                  /* 2 * layers + 1 */
    size_t loaded_count, present_count; /* units that have pieces */
    uint64_t total_bytes, largest_bytes, held_bytes;
    struct block *blocks;   /* [unit_count] */
    struct window *windows; /* [threads]; NULL once all is resident */
    size_t thread_count, window_bytes, window_row_bytes;
    bool is_head_used;
    bool *removed; /* [sublayers], by sublayer index */
    size_t sublayer_count;
    size_t *sublayer_of_unit; /* [unit_count]; SIZE_MAX: absent, or the head */
    struct ahead ahead;
    float *embedding_norm, *embedding_norm_bias, *token_type; /* host, [hidden]; NULL: none */
};

/* ---- weights_unit.c ---- */
/* matrix_bytes: of the backend, or an upper bound of all. */
void unit_lay_out(struct unit *unit, size_t (*matrix_bytes)(enum dtype dtype, size_t n, size_t k));
/* Pieces and loads of unit `index`; nothing is read. */
void unit_describe(const struct inventory *inventory, size_t index, enum dtype dtype, struct unit *ret_unit);
void unit_finish(struct unit *unit);
size_t unit_count_of(const struct model_config *config);
/* Into the unit's block. */
bool unit_load(struct weights *weights, struct unit *unit, struct error *error) MUST_USE;
/* The view of one tensor as the forward pass wants it; false: the model has none. */
bool weights_view(const struct inventory *inventory, enum weight_role role, size_t layer, size_t expert,
                  struct source_view *ret_view);

/* ---- weights_cache.c ---- */
/* Gives the unit a block, dropping others where it must. */
bool cache_take_block(struct weights *weights, size_t index, struct error *error) MUST_USE;
/* Gives memory back until `bytes` fit beside what is held; false: no more can go. */
bool cache_make_room(struct weights *weights, size_t index, uint64_t bytes);
void cache_drop(struct weights *weights, struct unit *unit);
void cache_destroy(struct weights *weights);
/* Reads ahead what comes after `index`. */
void cache_read_ahead(struct weights *weights, size_t index);
bool cache_start(struct weights *weights, struct error *error) MUST_USE;

/* ---- weights_embed.c ---- */
bool embed_open(struct weights *weights, struct error *error) MUST_USE;

#endif
