/* workers/evaluate/tasks_internal.h: the kinds of tasks; tasks.c is the door. */
#ifndef WORKERS_EVALUATE_TASKS_INTERNAL_H
#define WORKERS_EVALUATE_TASKS_INTERNAL_H

#include "workers/evaluate/tasks.h"

bool task_measure_generate(struct model *model, const struct tokenizer *tokenizer, const struct task_set *set,
                           const struct evaluate_control *control, struct task_result *result,
                           struct error *error) MUST_USE;
bool task_measure_choice(struct model *model, const struct tokenizer *tokenizer, const struct task_set *set,
                         const struct evaluate_control *control, struct task_result *result,
                         struct error *error) MUST_USE;
bool task_measure_language_modeling(struct model *model, const struct tokenizer *tokenizer,
                                    const struct task_set *set, const struct evaluate_control *control,
                                    struct task_result *result, struct error *error) MUST_USE;
/* Appends `text` as the start of a sequence: the tokenizer's BOS, if it adds one, then its tokens; a text
 * without any token gets the prefix token of score.h. INVALID_ARGUMENT if there is none either. */
bool task_encode_start(const struct model *model, const struct tokenizer *tokenizer, const char *text,
                       size_t length, struct tokens *tokens, struct error *error) MUST_USE;

#endif
