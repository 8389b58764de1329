/*
 * workers/model/weights.h: where the forward pass gets its weights from. A unit is what is read, kept and dropped together: a
 * sublayer, or the head. Its projections that read the same input lie in one matrix (q, k, v; gate, up), in the device's own
 * layout, so that one GEMM makes them; its norms and biases are fp32 vectors in device memory.
 *
 * Resident or streamed: where the budget holds all units, each is read once, when it is first asked for, and stays. Otherwise
 * units are read when asked for (by pread, never mapped), a thread has the system read ahead the bytes of those that come next in
 * residual order (into its page cache, so this costs no memory of ours), and those that are needed last are dropped. Units take at
 * most budget_bytes together. A unit that is acquired stays until it is released.
 *
 * Embeddings are never kept: rows of the tokens that are asked for are read from the file.
 *
 * Reading converts by windows, on the pool, and refuses NaN and infinity: NUMERIC, naming the tensor and the element. A file that
 * ends early is INPUT_CHANGED. Both are told by the call that reads, not by weights_open, which reads vectors of embeddings only.
 */
#ifndef WORKERS_MODEL_WEIGHTS_H
#define WORKERS_MODEL_WEIGHTS_H

#include "base/cancel.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "workers/model/config.h"
#include "workers/model/inventory.h"
#include "workers/tensor/backend.h"

struct norm_weights {
    const float *weight; /* [hidden] or [head_size]; NULL: there is no such norm */
    const float *bias;   /* or NULL */
};
struct ffn_weights {
    struct matrix in;     /* [gate up] or [up]: [2 * intermediate or intermediate, hidden] */
    const float *in_bias; /* or NULL */
    struct matrix out;    /* down: [hidden, intermediate] */
    const float *out_bias;
};
struct sublayer_weights {
    struct norm_weights norm, post_norm; /* post_norm: NORM_AROUND */
    /* attention */
    struct matrix in; /* q k v: [(heads + 2 kv heads) * head_size, hidden] */
    const float *in_bias;
    struct norm_weights q_norm, k_norm;
    struct matrix out; /* o: [hidden, heads * head_size] */
    const float *out_bias;
    /* FFN */
    struct ffn_weights ffn;      /* where there are no experts */
    struct matrix router;        /* [experts, hidden], F32 always */
    struct ffn_weights *experts; /* [expert_count]; NULL: none */
    size_t expert_count;
};
struct head_weights {
    struct norm_weights norm; /* final */
    struct matrix matrix;     /* [vocab, hidden]; encoders: n == 0 */
};

struct weights;
struct weights_options {
    struct device *device;       /* borrowed for the weights' life */
    struct pool *pool;           /* converts and packs */
    enum dtype dtype;            /* of matrices: F32 or BF16 */
    uint64_t budget_bytes;       /* 0: no limit */
    const struct cancel *cancel; /* may be NULL */
};
/* inventory is borrowed for the weights' life; sizes come from its verified tensors. TOO_LARGE where the budget cannot hold what
 * must be held at once (the largest unit), saying how much would do; with less than weights_size.least_bytes memory is given
 * back and taken again for every unit. */
struct weights *weights_open(const struct inventory *inventory, const char *folder,
                             const struct weights_options *options, struct error *error) MUST_USE;
void weights_destroy(struct weights *weights);
OWNED_DEFINE(weights)

/* The driving thread, outside pool tasks. Valid until released. After an acquire the next sublayers in residual order, `removed` ones
 * left out, are read ahead. */
bool weights_acquire(struct weights *weights, size_t layer, bool is_attention,
                     struct sublayer_weights *ret_weights, struct error *error) MUST_USE;
void weights_release(struct weights *weights, size_t layer, bool is_attention);
bool weights_acquire_head(struct weights *weights, struct head_weights *ret_head,
                          struct error *error) MUST_USE;
void weights_release_head(struct weights *weights);
/* What is held of the sublayer is read anew when it is next acquired: its patch has changed. It must not be acquired. */
void weights_forget(struct weights *weights, size_t layer, bool is_attention);
/* removed[] by sublayer index, copied; NULL: none is. What is removed is not read ahead, and dropped first. */
void weights_set_removed(struct weights *weights, const bool *removed);

/* What enters the first sublayer: token embedding times the config's scale, plus learned positions (position of tokens[i] is
 * first_position + i) and token type 0, through the embedding norm where there is one. ret_rows: [count, hidden], host. Any
 * thread, also inside pool tasks. */
bool weights_embed(const struct weights *weights, const int32_t *tokens, size_t count, size_t first_position,
                   float *ret_rows, struct error *error) MUST_USE;
/* Whether the sublayer's output projection is all zero (an `identity` export): skipping it changes nothing. Reads until the first
 * element that is not. */
bool weights_is_identity(const struct weights *weights, size_t layer, bool is_attention,
                         bool *ret_is_identity, struct error *error) MUST_USE;
bool weights_is_resident(const struct weights *weights); /* every unit fits the budget */

/* Another budget from now on (0: no limit); what does not fit is dropped. */
void weights_set_budget(struct weights *weights, uint64_t budget_bytes);
/* What units take now; at most the budget. */
uint64_t weights_held_bytes(const struct weights *weights);
/* Bytes of tensors read from files so far. */
uint64_t weights_bytes_read(const struct weights *weights);

/* For the plan of memory; upper bounds for all backends. */
struct weights_size {
    uint64_t resident_bytes; /* all units */
    uint64_t least_bytes;    /* the least budget that works well: the two largest neighbours, or the head */
    uint64_t least_headless_bytes; /* the same where the head is never acquired */
    uint64_t head_bytes;
    uint64_t window_bytes; /* beside the budget, while units are read: of each thread */
};
void weights_measure(const struct inventory *inventory, const char *backend, enum dtype dtype,
                     struct weights_size *ret_size);

#endif
