/*
 * workers/evaluate/evaluate.h: the door: one model measured in everything an `evaluation` object asks for.
 * The pieces can be called by themselves.
 */
#ifndef WORKERS_EVALUATE_EVALUATE_H
#define WORKERS_EVALUATE_EVALUATE_H

#include "base/error.h"
#include "base/json.h"
#include "workers/data/corpus.h"
#include "workers/data/task_set.h"
#include "workers/evaluate/control.h"
#include "workers/evaluate/perplexity.h"
#include "workers/evaluate/speed.h"
#include "workers/evaluate/tasks.h"
#include "workers/model/model.h"
#include "workers/model/tokenizer.h"
#include <stddef.h>

struct evaluation {
    const struct corpus *corpus; /* NULL: no perplexity */
    enum perplexity_protocol protocols[2];
    size_t protocol_count;
    size_t window_tokens;          /* 0: the model's context, 2048 at most */
    struct task_set *const *tasks; /* [task_count], borrowed */
    size_t task_count;
    const struct speed_options *speed; /* NULL: not measured */
};
/* Owned JSON:
 * {"perplexity": {"<protocol>": <perplexity_format>}, "dataset": <corpus_describe + "window_tokens",
 * "tokenizer_sha256">, "tasks": [<task_format>], "task_accuracy_mean": number, "speed": <speed_format>};
 * absent parts are left out. */
bool evaluate_model(struct model *model, const struct tokenizer *tokenizer,
                    const struct evaluation *evaluation, const struct evaluate_control *control,
                    json_t **ret_json, struct error *error) MUST_USE;

#endif
