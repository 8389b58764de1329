/*
 * workers/select/el2n.h: how far a model's belief is from the truth, of one token, and how often it forgets a record (Paul et al., "Deep
 * learning on a data diet", 2107.07075; Toneva et al., 1812.05159).
 *
 *     EL2N = || softmax(z) - onehot(y) ||_2 = sqrt(sum p^2 - 2 p_y + 1),   in 0..sqrt(2)
 *
 * of the logits z of one position and the token y that follows; of a record, the mean over its response tokens. The printed form loses all
 * digits where p_y nears 1; with the target kept out of the sums, e = exp(z - max z), it is a sum of squares:
 *
 *     EL2N = sqrt((sum_{v != y} e_v)^2 + sum_{v != y} e_v^2) / sum_v e_v
 *
 * One pass over the row: the maximum is the greatest so far, and the sums are scaled down when a greater one comes. Sums in double, in the
 * order of the vocabulary.
 *
 * Threads: any; everything is in the caller's memory.
 */
#ifndef WORKERS_SELECT_EL2N_H
#define WORKERS_SELECT_EL2N_H

#include "base/error.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* logits: [vocab_size]; target < vocab_size, else OUT_OF_RANGE. NUMERIC: a logit that is not finite, and which. */
bool el2n_of_token(const float *logits, size_t vocab_size, size_t target, double *ret_value,
                   struct error *error) MUST_USE;
/* values: [count] of a record's response tokens. NaN of none: such a record has no score. */
double el2n_mean(const double *values, size_t count);

/* A record's history over visits (epochs, checkpoints), from zeros. A record counts as wrong before its first visit. */
struct forgetting {
    uint32_t events; /* right before, wrong now */
    bool is_right, was_ever_right;
};
void forgetting_add(struct forgetting *forgetting, bool is_right);
/* The number of events; infinite for a record that was never right, which is the hardest of all. */
double forgetting_score(const struct forgetting *forgetting);

#endif
