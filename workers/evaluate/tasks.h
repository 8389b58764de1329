/*
 * workers/evaluate/tasks.h: task accuracy.
 *
 * generate: the prompt is encoded (BOS if the tokenizer adds one), tokens are drawn greedily until an EOS, a
 * newline or more tokens than could still match, decoded and stripped of white space at both ends; correct
 * when equal to the stripped answer.
 *
 * choice and language_modeling go by log-likelihood, with the rules of lm-evaluation-harness (its `_encode_pair` and
 * `loglikelihood`, written anew from their definition):
 *
 *   - A continuation follows its context behind the delimiter; without one behind a single space, unless white space stands on
 *     either side. White space at the end of the context moves to the continuation, because tokenizers join it to what follows.
 *   - The context is encoded (BOS if the tokenizer adds one; an empty one is BOS, else EOS), and so is the joined text; the
 *     continuation's tokens are those by which the joined text exceeds the context. Fed are the context's tokens, then these.
 *   - What is longer than the model's context loses tokens on the left.
 *   - The score is the sum of the continuation's log-likelihoods.
 *
 * choice: {query, choices, gold} asks for the likeliest choice after the query; {context_options, continuation, gold} (winogrande)
 * for the context that makes the continuation likeliest. accuracy: the highest sum is gold. First shape only: accuracy_norm, the
 * highest sum per character of the choice (delimiter not counted), and accuracy_bytes, per byte; the harness calls them acc_norm and
 * acc_bytes, and they are one and the same where texts are ASCII. Ties: the lower index.
 *
 * language_modeling: {context, continuation} (lambada). accuracy: every token of the continuation is the argmax. perplexity: exp of
 * the mean over records of the continuation's negative log-likelihood (the sum over its tokens).
 *
 * Standard errors are those of a mean from the sample variance: sqrt(p (1 - p) / (n - 1)) for shares.
 */
#ifndef WORKERS_EVALUATE_TASKS_H
#define WORKERS_EVALUATE_TASKS_H

#include "base/error.h"
#include "base/json.h"
#include "workers/data/task_set.h"
#include "workers/evaluate/control.h"
#include "workers/model/model.h"
#include "workers/model/tokenizer.h"
#include <stddef.h>
#include <stdint.h>

#define TASK_GENERATE_MAX_TOKENS 256

struct task_result {
    const char *name; /* borrowed from the set */
    enum task_kind kind;
    bool has_norm; /* accuracy_norm and accuracy_bytes are defined: choices after one query */
    size_t record_count, correct_count, correct_norm_count, correct_bytes_count;
    double accuracy, accuracy_stderr; /* 0 for one record */
    double accuracy_norm, accuracy_norm_stderr;
    double accuracy_bytes, accuracy_bytes_stderr;
    double nll_mean, nll_stderr, perplexity; /* language_modeling: nats a record */
    uint64_t generated_tokens;               /* generate only */
};
bool task_measure(struct model *model, const struct tokenizer *tokenizer, const struct task_set *set,
                  const struct evaluate_control *control, struct task_result *ret_result,
                  struct error *error) MUST_USE;
/* {"name", "kind", "records", "records_total", "accuracy", "accuracy_stderr"[, "accuracy_norm", "accuracy_norm_stderr", "accuracy_bytes", "accuracy_bytes_stderr"]
 * [, "perplexity", "nll_mean", "nll_stderr"][, "delimiter"], "source_sha256"}. Owned. */
json_t *task_format(const struct task_result *result, const struct task_set *set) MUST_USE;

/* Of one continuation after one context: nats, and whether each of its tokens is the argmax. */
struct task_likelihood {
    double nll;
    bool is_greedy;
};
size_t
task_item_count(const struct task_set *set); /* choices of all records; 1 a record where there are none */
/* Of every choice of every record, in order: [task_item_count]. Sets of kind choice or language_modeling. */
bool task_likelihoods(struct model *model, const struct tokenizer *tokenizer, const struct task_set *set,
                      const struct evaluate_control *control, struct task_likelihood *ret_likelihoods,
                      struct error *error) MUST_USE;

#endif
