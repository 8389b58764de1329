/*
 * workers/evaluate/continuation.h: what a model writes after a few prompts, and signs that it fell apart.
 *
 * A pruned model that lost more than its perplexity tells repeats itself, says nothing, or says what is no text. Greedy continuations
 * show it at a glance; the figures say it without reading:
 *
 *   distinct_n           different n-grams of tokens over all n-grams, n = 1, 2 (Li et al. 2016); 1 where there are none
 *   repetition_ratio     1 - distinct_4: the share of 4-grams that stood there before (Welleck et al. 2020, seq-rep-4)
 *   longest_run          the longest run of one token
 *   is_degenerate        nothing but white space; or repetition_ratio above 0.5 in 8 tokens or more; or a run of 8 or more
 *
 * Small models repeat themselves under greedy decoding unpruned as well, so a verdict compares both.
 */
#ifndef WORKERS_EVALUATE_CONTINUATION_H
#define WORKERS_EVALUATE_CONTINUATION_H

#include "base/error.h"
#include "base/json.h"
#include "workers/evaluate/control.h"
#include "workers/model/model.h"
#include "workers/model/tokenizer.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONTINUATION_TOKENS 48

struct continuation {
    size_t token_count, longest_run;
    double distinct_1, distinct_2, repetition_ratio;
    bool is_empty, is_degenerate; /* is_empty: no token, or white space alone */
};
/* The figures of a list of tokens; is_blank: their text is white space alone. */
void continuation_judge(const int32_t *tokens, size_t count, bool is_blank, struct continuation *ret_figures);

/* Greedy until an EOS or max_tokens (fewer where the context ends). Owned list, an object a prompt:
 * {"prompt", "text", "tokens", "distinct_1", "distinct_2", "repetition_ratio", "longest_run", "is_empty", "is_degenerate"}. A model
 * whose states are not finite is a finding, not a failure: {"prompt", "error", "is_degenerate": true}. Other errors: CANCELLED,
 * OUT_OF_MEMORY, INVALID_ARGUMENT (a prompt without tokens and nothing to start with). */
bool continuation_measure(struct model *model, const struct tokenizer *tokenizer, const json_t *prompts,
                          size_t max_tokens, const struct evaluate_control *control, json_t **ret_list,
                          struct error *error) MUST_USE;

#endif
