/*
 * workers/evaluate/task_choice.c: which continuation the model finds likeliest, as lm-evaluation-harness
 * counts it.
 *
 * White space at the end of the query moves to the continuation, because tokenizers join it to the word that
 * follows. The joined text is tokenised as one; what exceeds the length of the query's own tokens is the
 * continuation. (When a token spans the seam, both sides of it count as the harness counts them: by number,
 * not by text.)
 */
#include "base/memory.h"
#include "base/text.h"
#include "workers/data/windows.h"
#include "workers/evaluate/score.h"
#include "workers/evaluate/tasks_internal.h"

#include <string.h>

/* One record's choices among the items of a whole set. */
struct choice_run {
    struct model *model;
    const struct tokenizer *tokenizer;
    const struct task_set *set;
    struct tokens *sequences; /* [item_count] */
    struct score_item *items; /* [item_count]: record by record, choice by choice */
    size_t item_count;
};

static bool is_space(char byte)
{
    return byte != '\0' && strchr(" \t\r\n\v\f", byte) != NULL;
}

static bool prepare_choice(struct choice_run *run, const char *query, const char *choice, size_t index,
                           struct error *error)
{
    size_t length = strlen(query), query_length = length;
    while (query_length > 0 && is_space(query[query_length - 1])) {
        query_length--;
    }
    struct text joined = {0};
    text_append_bytes(&joined, query, length);
    if (length > 0 && query_length == length && !is_space(choice[0])) {
        text_append(&joined, " ");
    }
    text_append(&joined, choice);

    struct tokens context = {0}, *whole = &run->sequences[index];
    bool ok = task_encode_start(run->model, run->tokenizer, query, query_length, &context, error);
    if (ok && query_length == 0 && tokenizer_bos_token(run->tokenizer) < 0) {
        tokens_append(whole,
                      context.ids[0]); /* the stand-in for an empty context starts the joined text too */
        ok = tokenizer_encode(run->tokenizer, joined.bytes, joined.length, false, whole, error) &&
             token_ids_check(whole->ids, whole->count, model_get_config(run->model)->vocab_size,
                             "a task record", error);
    } else if (ok) {
        ok = task_encode_start(run->model, run->tokenizer, joined.bytes, joined.length, whole, error);
    }
    text_finish(&joined);
    size_t seam = context.count;
    tokens_finish(&context);
    if (!ok) {
        return false;
    }
    if (whole->count < 2) {
        return error_set(error, ERROR_INVALID_ARGUMENT, "query and choice together make no token to score");
    }
    seam = seam < whole->count ? seam : whole->count - 1; /* at least one token is scored */
    size_t fed = whole->count - 1, limit = model_get_config(run->model)->context_tokens;
    size_t cut = limit > 0 && fed > limit ? fed - limit : 0; /* from the left */
    run->items[index] = (struct score_item){
        .tokens = whole->ids + cut, .count = fed - cut, .first_scored = seam - 1 > cut ? seam - 1 - cut : 0};
    return true;
}

static void judge_record(const struct task_record *record, const struct score_item *items,
                         struct task_result *result)
{
    size_t best = 0, best_norm = 0;
    for (size_t i = 1; i < record->choice_count; i++) {
        if (items[i].nll_sum < items[best].nll_sum) {
            best = i;
        }
        if (items[i].nll_sum / (double)strlen(record->choices[i]) <
            items[best_norm].nll_sum / (double)strlen(record->choices[best_norm])) {
            best_norm = i;
        }
    }
    result->correct_count += best == record->gold ? 1 : 0;
    result->correct_norm_count += best_norm == record->gold ? 1 : 0;
}

static bool prepare_records(struct choice_run *run, const struct cancel *cancel, struct error *error)
{
    size_t at = 0;
    for (size_t i = 0; i < run->set->record_count; i++) {
        const struct task_record *record = &run->set->records[i];
        for (size_t c = 0; c < record->choice_count; c++, at++) {
            if (!prepare_choice(run, record->query, record->choices[c], at, error)) {
                return error_prefix(error, "record %zu, choice %zu: ", i + 1, c + 1);
            }
        }
        if (!cancel_check_now(cancel, error)) {
            return false;
        }
    }
    return true;
}

/* Sums of the items that an earlier attempt scored; returns how many. */
static size_t resume_items(struct choice_run *run, const struct evaluate_control *control)
{
    const json_t *sums = json_object_get(control->resume, "sums");
    size_t count = json_array_size(sums);
    count = count < run->item_count ? count : run->item_count;
    for (size_t i = 0; i < count; i++) {
        run->items[i].nll_sum = json_number_value(json_array_get(sums, i));
    }
    return count;
}

static void keep_items(const struct choice_run *run, const struct evaluate_control *control, size_t first,
                       size_t end)
{
    if (control->resume == NULL) {
        return;
    }
    if (json_object_get(control->resume, "sums") == NULL) {
        json_put(control->resume, "sums", json_array());
    }
    json_t *sums = json_object_get(control->resume, "sums");
    for (size_t i = first; i < end; i++) {
        (void)json_array_append_new(sums, json_real(run->items[i].nll_sum));
    }
}

static bool score_items(struct choice_run *run, const struct evaluate_control *control, struct error *error)
{
    size_t done = resume_items(run, control);
    while (done < run->item_count) {
        size_t size = score_batch_size(run->items + done, run->item_count - done, control);
        if (!score_batch(run->model, run->items + done, size, control, error)) {
            return false;
        }
        keep_items(run, control, done, done + size);
        done += size;
        score_progress(control, run->set->name, done, run->item_count, "choices");
    }
    return true;
}

bool task_measure_choice(struct model *model, const struct tokenizer *tokenizer, const struct task_set *set,
                         const struct evaluate_control *control, struct task_result *result,
                         struct error *error)
{
    struct choice_run run = {.model = model, .tokenizer = tokenizer, .set = set};
    for (size_t i = 0; i < set->record_count; i++) {
        run.item_count += set->records[i].choice_count;
    }
    run.sequences = memory_create(run.item_count, sizeof *run.sequences);
    run.items = memory_create(run.item_count, sizeof *run.items);
    bool ok = prepare_records(&run, control->cancel, error) && score_items(&run, control, error);
    for (size_t i = 0, at = 0; ok && i < set->record_count; at += set->records[i].choice_count, i++) {
        judge_record(&set->records[i], run.items + at, result);
    }
    for (size_t i = 0; i < run.item_count; i++) {
        tokens_finish(&run.sequences[i]);
    }
    free(run.sequences);
    free(run.items);
    return ok;
}
