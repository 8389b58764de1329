/* workers/evaluate/score.c: a sequence's numbers are its own (model.h), so how items are grouped into batches
 * only decides speed and memory. */
#include "workers/evaluate/score.h"
#include "base/check.h"
#include "base/memory.h"

void score_progress(const struct evaluate_control *control, const char *what, uint64_t done, uint64_t total,
                    const char *unit)
{
    if (control->progress != NULL) {
        control->progress(control->context, what, done, total, unit);
    }
}

size_t score_bucket(size_t context_tokens)
{
    size_t bucket = 0;
    while (context_tokens > 1 && bucket + 1 < SCORE_BUCKETS) {
        context_tokens /= 2;
        bucket++;
    }
    return bucket;
}

/* The end of the group that items[first] is of. */
static size_t group_end(const struct score_item *items, size_t first, size_t count)
{
    size_t end = first + 1;
    while (items[first].shared > 0 && end < count && items[end].shared > 0 &&
           items[end].group == items[first].group) {
        end++;
    }
    return end;
}

size_t score_batch_size(const struct score_item *items, size_t count, const struct evaluate_control *control)
{
    size_t limit = control->batch_tokens > 0 ? control->batch_tokens : EVALUATE_BATCH_TOKENS, tokens = 0,
           size = 0;
    while (size < count) {
        size_t end = group_end(items, size, count);
        for (size_t i = size; i < end; i++) {
            tokens += items[i].count;
        }
        if (size > 0 && tokens > limit) {
            break;
        }
        size = end;
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

/* The items of a batch that share beginnings, or those that do not. */
struct score_pass {
    struct score_item **items; /* [count], in order */
    size_t count;
    bool is_shared;
    struct token_sequence *wholes, *prefixes; /* [count] */
    size_t *prefix_of;                        /* [count] */
    size_t prefix_count;
    struct target_sequence *targets; /* [count], of what is not shared */
    int32_t *target_tokens;
    double *nll;
    bool *is_greedy;
};

static void score_pass_finish(struct score_pass *pass)
{
    free(pass->items);
    free(pass->wholes);
    free(pass->prefixes);
    free(pass->prefix_of);
    free(pass->targets);
    free(pass->target_tokens);
    free(pass->nll);
    free(pass->is_greedy);
}

static void list_items(struct score_pass *pass, struct score_item *items, size_t count)
{
    pass->items = memory_create(count + 1, sizeof(struct score_item *));
    for (size_t i = 0; i < count; i++) {
        if ((items[i].shared > 0) == pass->is_shared) {
            pass->items[pass->count++] = &items[i];
        }
    }
}

static bool fill_pass(struct score_pass *pass, struct error *error)
{
    size_t tokens = 0, count = pass->count;
    for (size_t i = 0; i < count; i++) {
        CHECK(pass->items[i]->shared <= pass->items[i]->first_scored);
        tokens += pass->items[i]->count - pass->items[i]->shared;
    }
    pass->wholes = memory_create(count, sizeof *pass->wholes);
    pass->prefixes = memory_create(count, sizeof *pass->prefixes);
    pass->prefix_of = memory_create(count, sizeof *pass->prefix_of);
    pass->targets = memory_create(count, sizeof *pass->targets);
    pass->target_tokens = memory_try_array(tokens, sizeof *pass->target_tokens, "target tokens", error);
    pass->nll = memory_try_array(tokens, sizeof *pass->nll, "log-likelihoods", error);
    pass->is_greedy = memory_try_array(tokens, sizeof *pass->is_greedy, "log-likelihoods", error);
    if (pass->target_tokens == NULL || pass->nll == NULL || pass->is_greedy == NULL) {
        return false;
    }
    for (size_t i = 0, at = 0; i < count; i++) {
        const struct score_item *item = pass->items[i];
        bool is_new = i == 0 || item->group != pass->items[i - 1]->group;
        if (pass->is_shared && is_new) {
            pass->prefixes[pass->prefix_count++] = (struct token_sequence){item->tokens, item->shared};
        }
        pass->prefix_of[i] = pass->prefix_count - (pass->is_shared ? 1 : 0);
        pass->wholes[i] = (struct token_sequence){.tokens = item->tokens, .count = item->count};
        pass->targets[i] = (struct target_sequence){
            .targets = pass->target_tokens + at, .nll = pass->nll + at, .is_greedy = pass->is_greedy + at};
        for (size_t t = item->shared; t < item->count; t++) {
            pass->target_tokens[at++] = t >= item->first_scored ? item->tokens[t + 1] : -1;
        }
    }
    return true;
}

static void sum_item(struct score_item *item, const struct target_sequence *targets)
{
    double sum = 0;
    bool is_greedy = true;
    for (size_t t = item->first_scored; t < item->count; t++) {
        double nll = targets->nll[t - item->shared];
        sum += nll;
        is_greedy = is_greedy && targets->is_greedy[t - item->shared];
        if (item->bucket_sums != NULL) {
            item->bucket_sums[score_bucket(t + 1)] += nll;
        }
    }
    item->nll_sum = sum;
    item->is_greedy = is_greedy;
}

static bool run_pass(struct model *model, struct score_pass *pass, const struct evaluate_control *control,
                     struct error *error)
{
    if (pass->count == 0) {
        return true;
    }
    if (!fill_pass(pass, error)) {
        return false;
    }
    OWNED(hidden) hidden = NULL;
    struct token_batch wholes = {pass->wholes, pass->count}, prefixes = {pass->prefixes, pass->prefix_count};
    if (pass->is_shared) {
        if (!model_run_shared(model, control->removed, &prefixes, &wholes, pass->prefix_of, &hidden, error)) {
            return false;
        }
    } else {
        hidden = hidden_create(model, &wholes, error);
        if (hidden == NULL || !model_embed(model, &wholes, hidden, error) ||
            !model_run_from(model, 0, control->removed, hidden, error)) {
            return false;
        }
    }
    if (!model_nll(model, hidden, pass->targets, error)) {
        return false;
    }
    for (size_t i = 0; i < pass->count; i++) {
        sum_item(pass->items[i], &pass->targets[i]);
    }
    return true;
}

bool score_batch(struct model *model, struct score_item *items, size_t count,
                 const struct evaluate_control *control, struct error *error)
{
    bool ok = cancel_check_now(control->cancel, error);
    for (size_t i = 0; i < 2 && ok; i++) {
        struct score_pass pass = {.is_shared = i == 1};
        list_items(&pass, items, count);
        ok = run_pass(model, &pass, control, error);
        score_pass_finish(&pass);
    }
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
