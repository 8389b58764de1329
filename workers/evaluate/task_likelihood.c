/*
 * workers/evaluate/task_likelihood.c: how likely a text is after another, as lm-evaluation-harness counts it (tasks.h), for all
 * records and choices of a set.
 *
 * The choices of a record begin alike as a rule, so what their tokens have in common before any of them is scored goes through the
 * model once (score.h). That is decided on tokens, not on texts: tokenizers join what stands at a seam, and contexts that differ
 * (winogrande) share what they share. Nothing is padded in this engine (model.h), so records need no sorting by length.
 */
#include "base/memory.h"
#include "base/text.h"
#include "workers/data/windows.h"
#include "workers/evaluate/score.h"
#include "workers/evaluate/tasks_internal.h"
#include "workers/model/utf8.h"

#include <string.h>

#define SHARED_LEAST 4 /* tokens; fewer are not worth a pass of their own */

struct likelihood_run {
    struct model *model;
    const struct tokenizer *tokenizer;
    const struct task_set *set;
    const struct evaluate_control *control;
    struct tokens *sequences; /* [item_count] */
    struct score_item *items; /* [item_count]: record by record, choice by choice */
    size_t item_count;
};

/* ---- one context and one continuation ---------------------------------------------------------------------------- */

/* What Python's str.rstrip takes away: White_Space and the four separators U+001C to U+001F. */
static bool is_space_at(const char *bytes)
{
    uint32_t code = utf8_decode(bytes);
    return utf8_is_space(code) || (code >= 0x1c && code <= 0x1f);
}

/* Length without the white space at the end. */
static size_t stripped_length(const char *text, size_t length)
{
    size_t end = length;
    while (end > 0) {
        size_t start = end - 1;
        while (start > 0 && ((unsigned char)text[start] & 0xc0) == 0x80) {
            start--;
        }
        if (!is_space_at(text + start)) {
            break;
        }
        end = start;
    }
    return end;
}

/* ret_joined: the whole text; returns how much of it is context. */
static size_t join(const char *context, const char *delimiter, const char *continuation,
                   struct text *ret_joined)
{
    size_t length = strlen(context);
    text_append(ret_joined, context);
    if (delimiter != NULL) {
        text_append(ret_joined, delimiter);
    } else if (length > 0 && stripped_length(context, length) == length && !is_space_at(continuation)) {
        text_append(ret_joined, " ");
    }
    size_t context_length =
        ret_joined->bytes != NULL ? stripped_length(ret_joined->bytes, ret_joined->length) : 0;
    text_append(ret_joined, continuation);
    return context_length;
}

/* The whole text's tokens; those of the context are replaced by the context's own where the tokenizer joined something at the seam:
 * the harness feeds the context as it is tokenised alone, and what the whole has more tokens than it. */
static void take_context(const struct tokens *context, struct tokens *whole, size_t *ret_seam)
{
    if (context->count < whole->count) {
        memcpy(whole->ids, context->ids, context->count * sizeof *whole->ids);
        *ret_seam = context->count;
    } else {
        *ret_seam = whole->count - 1; /* at least one token is scored */
    }
}

static bool encode_pair(struct likelihood_run *run, const char *joined, size_t length, size_t context_length,
                        struct tokens *context, struct tokens *whole, struct error *error)
{
    if (!task_encode_start(run->model, run->tokenizer, joined, context_length, context, error)) {
        return false;
    }
    if (context_length > 0 || tokenizer_bos_token(run->tokenizer) >= 0) {
        return task_encode_start(run->model, run->tokenizer, joined, length, whole, error);
    }
    tokens_append(whole, context->ids[0]); /* the stand-in for an empty context starts the whole too */
    return tokenizer_encode(run->tokenizer, joined, length, false, whole, error) &&
           token_ids_check(whole->ids, whole->count, model_get_config(run->model)->vocab_size,
                           "a task record", error);
}

static bool prepare_item(struct likelihood_run *run, const char *context_text, const char *continuation,
                         size_t index, struct error *error)
{
    FINISHED(text) joined = {0};
    size_t context_length = join(context_text, run->set->delimiter, continuation, &joined), seam = 0;
    FINISHED(tokens) context = {0};
    struct tokens *whole = &run->sequences[index];
    if (!encode_pair(run, joined.bytes, joined.length, context_length, &context, whole, error)) {
        return false;
    }
    if (whole->count < 2) {
        return error_set(error, ERROR_INVALID_ARGUMENT,
                         "context and continuation together make no token to score");
    }
    take_context(&context, whole, &seam);
    size_t fed = whole->count - 1, limit = model_get_config(run->model)->context_tokens;
    size_t cut = limit > 0 && fed > limit ? fed - limit : 0; /* from the left */
    run->items[index] = (struct score_item){
        .tokens = whole->ids + cut, .count = fed - cut, .first_scored = seam - 1 > cut ? seam - 1 - cut : 0};
    return true;
}

/* ---- all of them ------------------------------------------------------------------------------------------------- */

/* Lets the items of one record share what they begin with, where that saves a quarter of their tokens. */
static void share_beginnings(struct score_item *items, size_t count, size_t group)
{
    size_t shared = items[0].first_scored, tokens = 0;
    for (size_t i = 0; i < count; i++) {
        size_t same = 0;
        while (same < shared && same < items[i].first_scored &&
               items[i].tokens[same] == items[0].tokens[same]) {
            same++;
        }
        shared = same;
        tokens += items[i].count;
    }
    if (shared < SHARED_LEAST || 4 * shared * (count - 1) < tokens) {
        return;
    }
    for (size_t i = 0; i < count; i++) {
        items[i].shared = shared;
        items[i].group = group;
    }
}

static bool prepare_record(struct likelihood_run *run, size_t record_index, size_t first, struct error *error)
{
    const struct task_record *record = &run->set->records[record_index];
    for (size_t c = 0; c < record->choice_count; c++) {
        const char *context = run->set->has_contexts ? record->choices[c] : record->query;
        const char *continuation =
            run->set->kind == TASK_CHOICE && !run->set->has_contexts ? record->choices[c] : record->answer;
        if (!prepare_item(run, context, continuation, first + c, error)) {
            return error_prefix(error, "record %zu, choice %zu: ", record_index + 1, c + 1);
        }
    }
    if (model_can_share(run->model) && record->choice_count > 1) {
        share_beginnings(run->items + first, record->choice_count, record_index);
    }
    return true;
}

/* Sums of the items that an earlier attempt scored; returns how many. */
static size_t resume_items(struct likelihood_run *run, struct task_likelihood *results)
{
    const json_t *sums = json_object_get(run->control->resume, "sums");
    const json_t *greedy = json_object_get(run->control->resume, "greedy");
    size_t count = json_array_size(sums);
    count = count < json_array_size(greedy) ? count : json_array_size(greedy);
    count = count < run->item_count ? count : run->item_count;
    for (size_t i = 0; i < count; i++) {
        results[i].nll = json_number_value(json_array_get(sums, i));
        results[i].is_greedy = json_is_true(json_array_get(greedy, i));
    }
    return count;
}

static void keep_items(const struct evaluate_control *control, const struct task_likelihood *results,
                       size_t count)
{
    if (control->resume == NULL) {
        return;
    }
    if (json_object_get(control->resume, "sums") == NULL) {
        json_put(control->resume, "sums", json_array());
        json_put(control->resume, "greedy", json_array());
    }
    json_t *sums = json_object_get(control->resume, "sums");
    json_t *greedy = json_object_get(control->resume, "greedy");
    for (size_t i = 0; i < count; i++) {
        (void)json_array_append_new(sums, json_real(results[i].nll));
        (void)json_array_append_new(greedy, json_boolean(results[i].is_greedy));
    }
}

static bool score_items(struct likelihood_run *run, struct task_likelihood *results, struct error *error)
{
    size_t done = resume_items(run, results);
    while (done < run->item_count) {
        size_t size = score_batch_size(run->items + done, run->item_count - done, run->control);
        if (!score_batch(run->model, run->items + done, size, run->control, error)) {
            return false;
        }
        for (size_t i = done; i < done + size; i++) {
            results[i] = (struct task_likelihood){run->items[i].nll_sum, run->items[i].is_greedy};
        }
        keep_items(run->control, results + done, size);
        done += size;
        score_progress(run->control, run->set->name, done, run->item_count, "choices");
    }
    return true;
}

size_t task_item_count(const struct task_set *set)
{
    size_t count = 0;
    for (size_t i = 0; i < set->record_count; i++) {
        count += set->records[i].choice_count;
    }
    return count;
}

bool task_likelihoods(struct model *model, const struct tokenizer *tokenizer, const struct task_set *set,
                      const struct evaluate_control *control, struct task_likelihood *ret_likelihoods,
                      struct error *error)
{
    struct likelihood_run run = {.model = model,
                                 .tokenizer = tokenizer,
                                 .set = set,
                                 .control = control,
                                 .item_count = task_item_count(set)};
    run.sequences = memory_create(run.item_count, sizeof *run.sequences);
    run.items = memory_create(run.item_count, sizeof *run.items);
    bool ok = true;
    for (size_t i = 0, first = 0; ok && i < set->record_count; first += set->records[i].choice_count, i++) {
        ok = prepare_record(&run, i, first, error) && cancel_check_now(control->cancel, error);
    }
    ok = ok && score_items(&run, ret_likelihoods, error);
    for (size_t i = 0; i < run.item_count; i++) {
        tokens_finish(&run.sequences[i]);
    }
    free(run.sequences);
    free(run.items);
    return ok;
}
