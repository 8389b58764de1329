/* workers/evaluate/tasks.c: what all kinds share: how a text starts a sequence, accuracy with its error, the
 * result as JSON. */
#include "workers/data/windows.h"
#include "workers/evaluate/score.h"
#include "workers/evaluate/tasks_internal.h"

#include <math.h>

bool task_encode_start(const struct model *model, const struct tokenizer *tokenizer, const char *text,
                       size_t length, struct tokens *tokens, struct error *error)
{
    size_t start = tokens->count;
    if (tokenizer_bos_token(tokenizer) >= 0) {
        tokens_append(tokens, tokenizer_bos_token(tokenizer));
    }
    if (!tokenizer_encode(tokenizer, text, length, false, tokens, error)) {
        return false;
    }
    if (tokens->count == start) {
        int32_t prefix = score_prefix_token(model, tokenizer);
        if (prefix < 0) {
            return error_set(error, ERROR_INVALID_ARGUMENT,
                             "an empty prompt, and neither tokenizer nor config name a token to start with");
        }
        tokens_append(tokens, prefix);
    }
    return token_ids_check(tokens->ids + start, tokens->count - start, model_get_config(model)->vocab_size,
                           "a task record", error);
}

/* Of a mean of n zeros and ones, from the sample variance. */
static double standard_error(double share, size_t count)
{
    return count > 1 ? sqrt(share * (1 - share) / (double)(count - 1)) : 0;
}

bool task_measure(struct model *model, const struct tokenizer *tokenizer, const struct task_set *set,
                  const struct evaluate_control *control, struct task_result *ret_result, struct error *error)
{
    struct task_result result = {.name = set->name, .kind = set->kind, .record_count = set->record_count};
    result.has_norm = set->kind == TASK_CHOICE && !set->has_contexts;
    bool ok = false;
    switch (set->kind) {
    case TASK_GENERATE:
        ok = task_measure_generate(model, tokenizer, set, control, &result, error);
        break;
    case TASK_CHOICE:
        ok = task_measure_choice(model, tokenizer, set, control, &result, error);
        break;
    case TASK_LANGUAGE_MODELING:
        ok = task_measure_language_modeling(model, tokenizer, set, control, &result, error);
        break;
    }
    if (!ok) {
        return error_prefix(error, "task %s: ", set->name);
    }
    double count = (double)result.record_count;
    result.accuracy = (double)result.correct_count / count;
    result.accuracy_stderr = standard_error(result.accuracy, result.record_count);
    result.accuracy_norm = (double)result.correct_norm_count / count;
    result.accuracy_norm_stderr = standard_error(result.accuracy_norm, result.record_count);
    result.accuracy_bytes = (double)result.correct_bytes_count / count;
    result.accuracy_bytes_stderr = standard_error(result.accuracy_bytes, result.record_count);
    *ret_result = result;
    return true;
}

json_t *task_format(const struct task_result *result, const struct task_set *set)
{
    json_t *json = json_object();
    json_put_text(json, "name", result->name);
    json_put_text(json, "kind", task_kind_name(result->kind));
    json_put_i64(json, "records", (int64_t)result->record_count);
    json_put_i64(json, "records_total", (int64_t)set->total_count);
    json_put_double(json, "accuracy", result->accuracy);
    json_put_double(json, "accuracy_stderr", result->accuracy_stderr);
    if (result->has_norm) {
        json_put_double(json, "accuracy_norm", result->accuracy_norm);
        json_put_double(json, "accuracy_norm_stderr", result->accuracy_norm_stderr);
        json_put_double(json, "accuracy_bytes", result->accuracy_bytes);
        json_put_double(json, "accuracy_bytes_stderr", result->accuracy_bytes_stderr);
    }
    if (result->kind == TASK_LANGUAGE_MODELING) {
        json_put_double(json, "perplexity", result->perplexity);
        json_put_double(json, "nll_mean", result->nll_mean);
        json_put_double(json, "nll_stderr", result->nll_stderr);
    }
    if (set->delimiter != NULL) {
        json_put_text(json, "delimiter", set->delimiter);
    }
    json_put_text(json, "source_sha256", set->sha256);
    return json;
}
