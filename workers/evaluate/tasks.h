/*
 * workers/evaluate/tasks.h: task accuracy.
 *
 * generate: the prompt is encoded (BOS if the tokenizer adds one), tokens are drawn greedily until an EOS, a
 * newline or more tokens than could still match, decoded and stripped of white space at both ends; correct
 * when equal to the stripped answer.
 *
 * choice: each choice is a continuation of the query, joined by one space if neither side has white space
 * there. The score is the sum of log-likelihoods of the continuation's tokens; context tokens are those of
 * the query encoded alone, counted off the joined text's tokens, as lm-evaluation-harness does. accuracy:
 * highest sum is gold; accuracy_norm: highest sum per byte of the choice. Ties: the lower index. Contexts too
 * long for the model lose tokens on the left.
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
    size_t record_count, correct_count, correct_norm_count; /* _norm: choice only */
    double accuracy, accuracy_stderr;           /* stderr: sqrt(p (1 - p) / (n - 1)); 0 for one record */
    double accuracy_norm, accuracy_norm_stderr; /* choice only */
    uint64_t generated_tokens;                  /* generate only */
};
bool task_measure(struct model *model, const struct tokenizer *tokenizer, const struct task_set *set,
                  const struct evaluate_control *control, struct task_result *ret_result,
                  struct error *error) MUST_USE;
/* {"name", "kind", "records", "accuracy", "accuracy_stderr"[, "accuracy_norm", "accuracy_norm_stderr"],
 * "source_sha256"}. Owned. */
json_t *task_format(const struct task_result *result, const struct task_set *set) MUST_USE;

#endif
