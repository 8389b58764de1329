/*
 * workers/model/weights.h: where the forward pass gets its fp32 weights from. A sublayer's projections that
 * read the same input lie in one matrix (q, k, v; gate, up), so that one GEMM makes them. Today everything is
 * resident; the acquire and release pair is what streaming will hang on.
 *
 * Loading converts by windows and refuses NaN and infinity: NUMERIC, naming the tensor.
 */
#ifndef WORKERS_MODEL_WEIGHTS_H
#define WORKERS_MODEL_WEIGHTS_H

#include "base/cancel.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "workers/model/config.h"
#include "workers/model/inventory.h"

struct sublayer_weights {
    const float *norm;     /* [hidden] */
    const float *in;       /* [in_rows, hidden]: q k v, or gate up */
    const float *in_bias;  /* [in_rows] or NULL */
    const float *out;      /* [hidden, out_columns]: o, or down */
    const float *out_bias; /* [hidden] or NULL */
    size_t in_rows, out_columns;
};
struct weights;
/* inventory is borrowed for the weights' life; sizes come from its verified tensors. */
struct weights *weights_open(const struct inventory *inventory, const char *folder,
                             const struct cancel *cancel, struct error *error) MUST_USE;
void weights_destroy(struct weights *weights);
OWNED_DEFINE(weights)

/* Valid until released. Thread-safe. */
bool weights_acquire(const struct weights *weights, size_t layer, bool is_attention,
                     struct sublayer_weights *ret_weights, struct error *error) MUST_USE;
void weights_release(const struct weights *weights, size_t layer, bool is_attention);
const float *weights_embedding(const struct weights *weights); /* [vocab, hidden] */
const float *weights_head(const struct weights *weights);      /* [vocab, hidden]; the embedding where tied */
const float *weights_final_norm(const struct weights *weights); /* [hidden] */

#endif
