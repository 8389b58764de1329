/*
 * workers/prune/rotation.h: one orthogonal basis for the whole residual stream (SliceGPT, Ashkboos et al., arXiv 2401.15024, with a single
 * rotation). RMS norms commute with an orthogonal E once their weights are folded into what reads them:
 *
 *     rms(E x) = rms(x)  =>  W diag(g) x / rms(x) = (W diag(g) E^T) (E x) / rms(E x)
 *
 * so with x' = E x everywhere
 *
 *     embeddings                    e' = E e
 *     what reads the stream         W' = W diag(g) E^T      q k v, gate up, router, head (its g is the final norm's)
 *     what writes it                W' = E W, b' = E b      o, down
 *     norms                         g' = 1
 *
 * computes the same. Keeping the first d' rows of E slices the stream: the model is a plain one of hidden size d'. Its norms divide by
 * the root of sum / d' + epsilon'; SliceGPT goes on dividing by that of sum / d + epsilon, which is the same with
 * g' = sqrt(d / d') and epsilon' = epsilon d / d' (structured_pruning 8).
 *
 * What is per head (q_norm, k_norm, q, k, v biases) or inside a sublayer is untouched. A tied head comes apart, as only it takes the
 * final norm's weight.
 */
#ifndef WORKERS_PRUNE_ROTATION_H
#define WORKERS_PRUNE_ROTATION_H

#include "workers/prune/mixing.h"
#include "workers/prune/prune.h"

/* UNSUPPORTED, naming why, where a rotation cannot be expressed: norms that subtract a mean, norms after sublayers. */
bool rotation_check(const struct model_config *config, struct error *error) MUST_USE;

struct rotation_gathering {
    struct model *model;
    const struct token_batch *batch;
    struct sweep_options sweep;
    bool is_normed; /* rows are divided by their length, as norms do; else the stream as it is */
    const struct prune_observer *observer; /* may be NULL */
};
/* The lower triangle of the sum over signals of C / trace C, C = X^T X: signals are the inputs of all norms before sublayers, and of the
 * final one. ret_sum: [hidden, hidden]. One dense pass; bits do not depend on chunks. Takes another hidden * (hidden + 1)
 * doubles. */
bool rotation_gather(const struct rotation_gathering *gathering, double *ret_sum,
                     struct error *error) MUST_USE;

/* Puts every tensor that the rotation changes into the patch, as the model with hidden size `count` has it. basis: [count, hidden]
 * orthonormal rows. observer: told of tensors. The plan's is_rotated and hidden_count say the rest. */
bool rotation_put(const struct mixing *mixing, const double *basis, size_t count,
                  const struct prune_observer *observer, struct error *error) MUST_USE;
/* Bytes that rotation_put takes at most. */
uint64_t rotation_put_bytes(const struct model_config *config);

#endif
