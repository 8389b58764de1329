/* workers/evaluate/evaluate.c: the pieces in order: perplexity, tasks, speed. */
#include "workers/evaluate/evaluate.h"

#include <string.h>

#define DEFAULT_WINDOW_TOKENS 2048

static bool add_perplexity(struct model *model, const struct tokenizer *tokenizer,
                           const struct evaluation *evaluation, const struct evaluate_control *control,
                           json_t *json, struct error *error)
{
    size_t window = evaluation->window_tokens, context = model_get_config(model)->context_tokens;
    if (window == 0) {
        window = context > 0 && context < DEFAULT_WINDOW_TOKENS ? context : DEFAULT_WINDOW_TOKENS;
    }
    json_t *dataset = corpus_describe(evaluation->corpus);
    json_put_i64(dataset, "window_tokens", (int64_t)window);
    json_put_text(dataset, "tokenizer_sha256", tokenizer_sha256(tokenizer));
    json_put(json, "dataset", dataset);
    json_t *protocols = json_object();
    json_put(json, "perplexity", protocols);
    for (size_t i = 0; i < evaluation->protocol_count; i++) {
        struct perplexity perplexity;
        if (!perplexity_measure(model, tokenizer, evaluation->corpus, evaluation->protocols[i], window,
                                control, &perplexity, error)) {
            return false;
        }
        json_put(protocols, perplexity_protocol_name(evaluation->protocols[i]),
                 perplexity_format(&perplexity));
    }
    return true;
}

static bool add_tasks(struct model *model, const struct tokenizer *tokenizer,
                      const struct evaluation *evaluation, const struct evaluate_control *control,
                      json_t *json, struct error *error)
{
    json_t *list = json_array();
    double sum = 0;
    json_put(json, "tasks", list);
    for (size_t i = 0; i < evaluation->task_count; i++) {
        struct task_result result;
        if (!task_measure(model, tokenizer, evaluation->tasks[i], control, &result, error)) {
            return false;
        }
        sum += result.accuracy;
        (void)json_array_append_new(list, task_format(&result, evaluation->tasks[i]));
    }
    json_put_double(json, "task_accuracy_mean", sum / (double)evaluation->task_count);
    return true;
}

bool evaluate_model(struct model *model, const struct tokenizer *tokenizer,
                    const struct evaluation *evaluation, const struct evaluate_control *control,
                    json_t **ret_json, struct error *error)
{
    JSON_OWNED json = json_object();
    if (evaluation->corpus != NULL && evaluation->protocol_count > 0 &&
        !add_perplexity(model, tokenizer, evaluation, control, json, error)) {
        return false;
    }
    if (evaluation->task_count > 0 && !add_tasks(model, tokenizer, evaluation, control, json, error)) {
        return false;
    }
    if (evaluation->speed != NULL) {
        struct speed speed;
        if (!speed_measure(model, evaluation->speed, control, &speed, error)) {
            return false;
        }
        json_put(json, "speed", speed_format(&speed));
    }
    *ret_json = TAKE(json);
    return true;
}
