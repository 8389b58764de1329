/*
 * workers/select/token_measure.h: what the logits z of one position say of the token y that follows, beside its loss (which model_nll gives): how
 * far the belief p = softmax(z) is from the truth (data_selection 7.3), and how open it is (data_selection 3).
 *
 *     EL2N    = || p - onehot(y) ||_2 = sqrt(sum p^2 - 2 p_y + 1),   in 0..sqrt(2)
 *     entropy = - sum p log p,                                       nats
 *
 * The printed form of EL2N loses all digits where p_y nears 1; with the target kept out of the sums, e = exp(z - max z), it is a sum of squares:
 *
 *     EL2N = sqrt((sum_{v != y} e_v)^2 + sum_{v != y} e_v^2) / sum_v e_v
 *
 * One pass over the row: the maximum is the greatest so far, and the sums are scaled down when a greater one comes. Sums in double, in the
 * order of the vocabulary.
 *
 * Threads: any; everything is in the caller's memory.
 */
#ifndef WORKERS_SELECT_TOKEN_MEASURE_H
#define WORKERS_SELECT_TOKEN_MEASURE_H

#include "base/error.h"
#include <stdbool.h>
#include <stddef.h>

struct token_measures {
    double el2n, entropy;
};
/* logits: [vocab_size]; target < vocab_size, else OUT_OF_RANGE. NUMERIC: a logit that is not finite, and which. */
bool token_measure(const float *logits, size_t vocab_size, size_t target, struct token_measures *ret_measures,
                   struct error *error) MUST_USE;
/* A record's measure: the mean of its response tokens' [count]. NaN of none: such a record has no score. */
double token_measure_mean(const double *values, size_t count);

#endif
