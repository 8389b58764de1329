/*
 * workers/evaluate/task_choice.c: verdicts from log-likelihoods: which choice is likeliest, and whether a continuation is what the
 * model would have written itself.
 */
#include "base/memory.h"
#include "workers/evaluate/tasks_internal.h"
#include "workers/model/utf8.h"

#include <math.h>
#include <string.h>

static size_t character_count(const char *text)
{
    size_t count = 0;
    for (; *text != '\0'; text += utf8_length(text)) {
        count++;
    }
    return count;
}

static void judge_record(const struct task_set *set, const struct task_record *record,
                         const struct task_likelihood *items, struct task_result *result)
{
    enum { SUM, BY_CHARACTER, BY_BYTE, RULES };
    size_t best[RULES] = {0};
    double lowest[RULES] = {INFINITY, INFINITY, INFINITY};
    for (size_t i = 0; i < record->choice_count; i++) {
        double values[RULES] = {items[i].nll, items[i].nll / (double)character_count(record->choices[i]),
                                items[i].nll / (double)strlen(record->choices[i])};
        for (size_t rule = 0; rule < RULES; rule++) {
            if (values[rule] < lowest[rule]) {
                lowest[rule] = values[rule];
                best[rule] = i;
            }
        }
    }
    result->correct_count += best[SUM] == record->gold ? 1 : 0;
    if (!set->has_contexts) {
        result->correct_norm_count += best[BY_CHARACTER] == record->gold ? 1 : 0;
        result->correct_bytes_count += best[BY_BYTE] == record->gold ? 1 : 0;
    }
}

bool task_measure_choice(struct model *model, const struct tokenizer *tokenizer, const struct task_set *set,
                         const struct evaluate_control *control, struct task_result *result,
                         struct error *error)
{
    OWNED_MEMORY struct task_likelihood *items = memory_create(task_item_count(set) + 1, sizeof *items);
    if (!task_likelihoods(model, tokenizer, set, control, items, error)) {
        return false;
    }
    for (size_t i = 0, at = 0; i < set->record_count; at += set->records[i].choice_count, i++) {
        judge_record(set, &set->records[i], items + at, result);
    }
    return true;
}

bool task_measure_language_modeling(struct model *model, const struct tokenizer *tokenizer,
                                    const struct task_set *set, const struct evaluate_control *control,
                                    struct task_result *result, struct error *error)
{
    OWNED_MEMORY struct task_likelihood *items = memory_create(task_item_count(set) + 1, sizeof *items);
    if (!task_likelihoods(model, tokenizer, set, control, items, error)) {
        return false;
    }
    double sum = 0, squares = 0, count = (double)set->record_count;
    for (size_t i = 0; i < set->record_count; i++) {
        result->correct_count += items[i].is_greedy ? 1 : 0;
        sum += items[i].nll;
    }
    result->nll_mean = sum / count;
    for (size_t i = 0; i < set->record_count; i++) {
        squares += (items[i].nll - result->nll_mean) * (items[i].nll - result->nll_mean);
    }
    result->nll_stderr = set->record_count > 1 ? sqrt(squares / (count - 1) / count) : 0;
    result->perplexity = exp(result->nll_mean);
    return true;
}
