/*
 * workers/select/effort.h: how much a record would move the model's head (the effort of DEALRec, SIGIR 2024, arXiv 2401.17197: the length of the
 * gradient of a record's loss). For most weights that takes a backward pass; for those of the head it does not: with a_t the states that the head
 * reads, p_t its predictions and y_t the tokens that follow, the mean loss over T tokens has the gradient
 *
 *     G = 1/T sum_t e_t a_t^T,   e_t = p_t - onehot(y_t)                     [vocabulary, states]
 *     |G|^2 = 1/T^2 sum_t sum_u (e_t . e_u) (a_t . a_u)
 *
 * so G itself is never made. Where logits are capped, z = cap tanh(x / cap), e_t is times 1 - (z / cap)^2.
 *
 * Products in double, in eight sums that are added in order: the bits do not depend on threads. Cost: T^2 / 2 products over the vocabulary.
 *
 * Threads: one caller drives the pool.
 */
#ifndef WORKERS_SELECT_EFFORT_H
#define WORKERS_SELECT_EFFORT_H

#include "workers/tensor/dense.h"

/* Logits [count, vocab_size] of the tokens from number `first` on become errors e in place. cap 0: none. NUMERIC: a logit that is not
 * finite, by token. CANCELLED, OUT_OF_MEMORY. */
bool effort_errors(const struct dense_threads *threads, float *logits, const int32_t *targets, size_t first,
                   size_t count, size_t vocab_size, double cap, struct error *error) MUST_USE;

/* A record's tokens, whose errors come in parts of `together` rows; two parts are held, one where that is all. The k-th part is loaded k
 * times: P (P + 1) / 2 loads of P parts. */
struct effort_record {
    size_t count, vocab_size, state_size, together; /* all >= 1 */
    const float *states;                            /* [count, state_size] */
    void *context;
    /* errors [count, vocab_size] of the tokens from `first` on: the same each time */
    bool (*load)(void *context, size_t first, size_t count, float *ret_errors, struct error *error);
};
/* |G|. NUMERIC: not finite. OUT_OF_MEMORY, CANCELLED, and what load says. */
bool effort_of(const struct dense_threads *threads, const struct effort_record *record, double *ret_effort,
               struct error *error) MUST_USE;

#endif
