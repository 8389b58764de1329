/*
 * workers/select/q_tuning.h: which samples of a batch to tune on, and which of their tokens (Q-Tuning, "Winning the pruning gamble",
 * 2509.23873). It is asked anew for every batch, with the model as it is by then.
 *
 * A sample is placed by its perplexity and its mean entropy over the response tokens:
 *     Q1 high, high  noise: dropped                         Q2 high, low   a confident misconception: kept, its tokens pruned
 *     Q3 low, low    known: dropped                         Q4 low, high   keeps the model calibrated: kept whole
 * With Q_g the quantile by inverse distribution function (quantile.h), at a share a the kept corners are
 *     Q2 = { PPL >= Q_{1-a}(PPL) and Ent <= Q_a(Ent) },     Q4 = { PPL <= Q_a(PPL) and Ent >= Q_{1-a}(Ent) }
 * (our reading of the paper's partition: these corners grow with a, which its search needs). A sample in both is in Q4. The share is
 * bisected from [0, share_limit] until the corners hold sample_ratio of the batch; the last share tried stands.
 *
 * The target is ceil(sample_ratio * batch). What the corners lack is added, and what they have too much is dropped, by
 *     supp = | PPL^ - Ent^ |, each scaled to 0..1 over the batch (0 where it is constant)
 * the greatest first, ties by index. An added sample is Q2 where PPL^ > Ent^, else Q4.
 *
 * Tokens of a Q2 sample, with PPL_i = exp(min(nll_i, 20)):
 *     s_i = (1 - lambda) PPL_i + lambda mean(PPL_{i-1}, PPL_{i+1})          (at an end: of the one neighbour there is)
 * and the floor(token_ratio * T) tokens of lowest s are kept, at least one; ties to the earlier. The printed formula has the neighbours' sum
 * where the text says mean, and the printed algorithm keeps the highest where the text removes them: sums_neighbours and keeps_high_tokens are
 * those forms. The mask is of the loss; tokens masked out stay in the input.
 *
 * Perplexities are compared as their logarithms, and PPL^ is made of differences of these, so that no sample overflows.
 *
 * Threads: any. Errors: OUT_OF_MEMORY, NUMERIC where said.
 */
#ifndef WORKERS_SELECT_Q_TUNING_H
#define WORKERS_SELECT_Q_TUNING_H

#include "base/error.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct q_tuning_rules {
    double sample_ratio, token_ratio; /* 0 < ratio <= 1 */
    double neighbour_weight;          /* lambda, 0..1; 0.5 */
    double share_limit;               /* 0 < limit <= 0.5; 0.49 in the algorithm, 0.5 in the text */
    size_t step_count;                /* of the bisection, at least 1; below 10 */
    bool sums_neighbours, keeps_high_tokens;
};

enum q_tuning_label {
    Q_TUNING_UNDEFINED, /* no response tokens, or a statistic that is not finite: no part of the batch */
    Q_TUNING_DROPPED,
    Q_TUNING_TOKENS_PRUNED, /* Q2 */
    Q_TUNING_KEPT_WHOLE,    /* Q4 */
};

/* All borrowed, [count]. Of samples without tokens the rest is not read. */
struct q_tuning_batch {
    size_t count;
    const double *nll_means, *entropies; /* over response tokens, nats (model_nll, token_measure.h) */
    const uint32_t *tokens;              /* response tokens */
};
struct q_tuning_summary {
    size_t count;        /* of samples that have a place: the rest of the batch is undefined */
    size_t corner_count; /* in the two corners, at */
    double share;        /* this share; 0 of an empty batch */
    size_t kept_count;   /* the target: the corners', less the dropped or more by the added */
};
/* ret_labels: [batch->count]. */
bool q_tuning_select_samples(const struct q_tuning_batch *batch, const struct q_tuning_rules *rules,
                             enum q_tuning_label *ret_labels, struct q_tuning_summary *ret_summary,
                             struct error *error) MUST_USE;

/* nlls: [count] of a Q2 sample's response tokens in order, nats. ret_is_kept: [count]. NUMERIC: NaN, naming the token. */
bool q_tuning_select_tokens(const double *nlls, size_t count, const struct q_tuning_rules *rules,
                            bool *ret_is_kept, struct error *error) MUST_USE;

#endif
