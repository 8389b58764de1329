/* workers/evaluate/score.c: a sequence's numbers are its own (model.h), so how items are grouped into batches
 * only decides speed and memory. */
#include "workers/evaluate/score.h"
#include "base/memory.h"

void score_progress(const struct evaluate_control *control, const char *what, uint64_t done, uint64_t total,
                    const char *unit)
{
    if (control->progress != NULL) {
        control->progress(control->context, what, done, total, unit);
    }
}

size_t score_batch_size(const struct score_item *items, size_t count, const struct evaluate_control *control)
{
    size_t limit = control->batch_tokens > 0 ? control->batch_tokens : EVALUATE_BATCH_TOKENS, tokens = 0,
           size = 0;
    while (size < count && (size == 0 || tokens + items[size].count <= limit)) {
        tokens += items[size].count;
        size++;
    }
    return size;
}

int32_t score_prefix_token(const struct model *model, const struct tokenizer *tokenizer)
{
    const struct model_config *config = model_get_config(model);
    int32_t token = tokenizer_bos_token(tokenizer);
    if (token < 0) {
        token = config->bos_token;
    }
    if (token < 0 && config->eos_token_count > 0) {
        token = config->eos_tokens[0];
    }
    return token >= 0 && (size_t)token < config->vocab_size ? token : -1;
}

/* The batch's arrays, cut from three allocations. */
struct score_memory {
    struct token_sequence *sequences;
    struct target_sequence *targets;
    int32_t *target_tokens;
    double *nll;
};

static void score_memory_finish(struct score_memory *memory)
{
    free(memory->sequences);
    free(memory->targets);
    free(memory->target_tokens);
    free(memory->nll);
}

static bool score_memory_create(struct score_memory *memory, const struct score_item *items, size_t count,
                                struct error *error)
{
    size_t tokens = 0;
    for (size_t i = 0; i < count; i++) {
        tokens += items[i].count;
    }
    memory->sequences = memory_create(count, sizeof *memory->sequences);
    memory->targets = memory_create(count, sizeof *memory->targets);
    memory->target_tokens = memory_try_array(tokens, sizeof *memory->target_tokens, "target tokens", error);
    memory->nll = memory_try_array(tokens, sizeof *memory->nll, "log-likelihoods", error);
    if (memory->target_tokens == NULL || memory->nll == NULL) {
        return false;
    }
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        memory->sequences[i] = (struct token_sequence){.tokens = items[i].tokens, .count = items[i].count};
        memory->targets[i] =
            (struct target_sequence){.targets = memory->target_tokens + at, .nll = memory->nll + at};
        for (size_t t = 0; t < items[i].count; t++) {
            memory->target_tokens[at + t] = t >= items[i].first_scored ? items[i].tokens[t + 1] : -1;
        }
        at += items[i].count;
    }
    return true;
}

bool score_batch(struct model *model, struct score_item *items, size_t count,
                 const struct evaluate_control *control, struct error *error)
{
    struct score_memory memory = {0};
    OWNED(hidden) hidden = NULL;
    bool ok = cancel_check_now(control->cancel, error) && score_memory_create(&memory, items, count, error);
    if (ok) {
        struct token_batch batch = {.sequences = memory.sequences, .sequence_count = count};
        hidden = hidden_create(model, &batch, error);
        ok = hidden != NULL && model_embed(model, &batch, hidden, error) &&
             model_run_from(model, 0, control->removed, hidden, error) &&
             model_nll(model, hidden, memory.targets, error);
    }
    for (size_t i = 0; ok && i < count; i++) {
        double sum = 0;
        for (size_t t = items[i].first_scored; t < items[i].count; t++) {
            sum += memory.targets[i].nll[t];
        }
        items[i].nll_sum = sum;
    }
    score_memory_finish(&memory);
    return ok;
}

uint64_t score_resume_count(const struct evaluate_control *control, const char *name)
{
    json_int_t value = json_integer_value(json_object_get(control->resume, name));
    return value > 0 ? (uint64_t)value : 0;
}

void score_keep_count(const struct evaluate_control *control, const char *name, uint64_t value)
{
    if (control->resume != NULL) {
        json_put_i64(control->resume, name, (int64_t)value);
    }
}
