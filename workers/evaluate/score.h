/* workers/evaluate/score.h: one forward pass over a few sequences, and the negative log-likelihood of the
 * tokens that follow. */
#ifndef WORKERS_EVALUATE_SCORE_H
#define WORKERS_EVALUATE_SCORE_H

#include "workers/evaluate/control.h"
#include "workers/model/model.h"
#include "workers/model/tokenizer.h"

/* tokens[0, count) are fed; position t is asked for tokens[t + 1], for t in [first_scored, count). tokens has
 * count + 1 items. */
struct score_item {
    const int32_t *tokens; /* borrowed */
    size_t count, first_scored;
    double nll_sum; /* filled: nats, summed in token order */
};
bool score_batch(struct model *model, struct score_item *items, size_t count,
                 const struct evaluate_control *control, struct error *error) MUST_USE;
/* How many of the next items make one batch: at least one, about control->batch_tokens tokens together. */
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
