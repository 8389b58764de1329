/*
 * workers/model/gram_head.h: what is known of logits without making them (structured_pruning 1.6 C). With G = W^T W of the head's
 * matrix W and x after the final norm,
 *
 *     |W x|^2 = x^T G x = |L^T x|^2,  G = L L^T,
 *
 * so Euclidean distances and angles of logits are those of L^T x: hidden_size numbers a token, in double. Not with a softcap on logits; a
 * bias of the logits would be tolerated by the distance alone (no family here has one).
 *
 * Precision: G is summed in double; angles are 2 atan2(|u - v|, |u + v|) of vectors of length 1, which keeps small ones.
 */
#ifndef WORKERS_MODEL_GRAM_HEAD_H
#define WORKERS_MODEL_GRAM_HEAD_H

#include "workers/model/model.h"

struct gram_head {
    size_t size;   /* hidden_size */
    double *upper; /* [size, size]: L^T */
};
/* Bytes of a reference made this way. */
uint64_t gram_head_bytes(const struct model_config *config, size_t rows);
/* Reads the head's matrix once, as the model's products see it (rounded where it is bf16). NUMERIC where G has no factor. */
bool gram_head_create(struct model *model, struct gram_head *ret_gram, struct error *error) MUST_USE;
void gram_head_finish(struct gram_head *gram);
/* ret_projected [rows, size] = L^T x of host rows x [rows, size]; of rows - minus where that is not NULL. A row's bits are its own. */
bool gram_head_project(struct model *model, const struct gram_head *gram, size_t rows, const float *x,
                       const float *minus, double *ret_projected, struct error *error) MUST_USE;

#endif
