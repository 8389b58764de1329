/* workers/evaluate/score.h: one forward pass over a few sequences, and the negative log-likelihood of the
 * tokens that follow. */
#ifndef WORKERS_EVALUATE_SCORE_H
#define WORKERS_EVALUATE_SCORE_H

#include "workers/evaluate/control.h"
#include "workers/model/model.h"
#include "workers/model/tokenizer.h"

/* tokens[0, count) are fed; position t is asked for tokens[t + 1], for t in [first_scored, count). tokens has
 * count + 1 items.
 *
 * Neighbours with the same `group` that have `shared` > 0 begin with the same `shared` tokens (at most first_scored of any of them):
 * these go through the model once (model_run_shared). Which items share, and how much, must depend on their tokens alone. */
struct score_item {
    const int32_t *tokens; /* borrowed */
    size_t count, first_scored;
    size_t shared, group;
    /* Filled: nats, summed in token order; whether every target is the argmax (ties: lower id). */
    double nll_sum;
    bool is_greedy;
    /* NULL, or where the nll of each scored token is added by what it could see: [SCORE_BUCKETS], bucket b for a context of 2^b to
     * 2^(b+1) - 1 tokens. Items add in their order. */
    double *bucket_sums;
};
#define SCORE_BUCKETS 32
size_t score_bucket(size_t context_tokens); /* of one token or more */
bool score_batch(struct model *model, struct score_item *items, size_t count,
                 const struct evaluate_control *control, struct error *error) MUST_USE;
/* How many of the next items make one batch: at least one, about control->batch_tokens tokens together; groups that share are not
 * cut. */
size_t score_batch_size(const struct score_item *items, size_t count, const struct evaluate_control *control);
void score_progress(const struct evaluate_control *control, const char *what, uint64_t done, uint64_t total,
                    const char *unit);

/* Members of control->resume; 0 where there is none, and nothing is stored without one. */
uint64_t score_resume_count(const struct evaluate_control *control, const char *name);
void score_keep_count(const struct evaluate_control *control, const char *name, uint64_t value);

/* What stands before a text's first token when something must: the tokenizer's BOS, else the config's, else
 * its EOS; -1: nothing. */
int32_t score_prefix_token(const struct model *model, const struct tokenizer *tokenizer);

#endif
