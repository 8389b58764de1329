/*
 * workers/evaluate/task_generate.c: greedy exact match.
 *
 * Every token adds at least one byte of text as a rule, so a text that has more tokens than the answer has
 * bytes (and some slack for white space, which is stripped) cannot match any more: it need not be finished.
 */
#include "base/memory.h"
#include "workers/evaluate/score.h"
#include "workers/evaluate/tasks_internal.h"

#include <string.h>

#define SLACK_TOKENS    8
#define STOP_TOKENS_MAX 16

struct answer_run {
    struct model *model;
    const struct tokenizer *tokenizer;
    const struct task_set *set;
    const struct evaluate_control *control;
    int32_t stop_tokens[STOP_TOKENS_MAX];
    size_t stop_count;
    struct generation *generations; /* [record_count] */
};

/* EOS, and the tokens that are a newline and nothing else (in each tokenizer's spelling): they only save
 * time, the text is cut at its first newline anyway. */
static void find_stop_tokens(struct answer_run *run)
{
    static const char *const newlines[] = {"\n", "\xc4\x8a", "<0x0A>"};
    const struct model_config *config = model_get_config(run->model);
    for (size_t i = 0; i < config->eos_token_count; i++) {
        run->stop_tokens[run->stop_count++] = config->eos_tokens[i]; /* 8 at most */
    }
    for (size_t i = 0; i < sizeof newlines / sizeof newlines[0]; i++) {
        int32_t token = tokenizer_find(run->tokenizer, newlines[i]);
        if (token >= 0) {
            run->stop_tokens[run->stop_count++] = token;
        }
    }
}

static size_t answer_tokens(const struct task_record *record)
{
    size_t needed = strlen(record->answer) + SLACK_TOKENS;
    return needed < TASK_GENERATE_MAX_TOKENS ? needed : TASK_GENERATE_MAX_TOKENS;
}

/* A prompt that leaves no room for the answer loses tokens on its left. */
static bool prepare_record(struct answer_run *run, size_t index, struct tokens *prompt, struct error *error)
{
    const struct task_record *record = &run->set->records[index];
    struct generation *generation = &run->generations[index];
    size_t context = model_get_config(run->model)->context_tokens, room = answer_tokens(record);
    if (context < 2) {
        return error_set(error, ERROR_UNSUPPORTED, "a context of %zu tokens has no room for an answer",
                         context);
    }
    room = room < context ? room : context - 1;
    if (!task_encode_start(run->model, run->tokenizer, record->query, strlen(record->query), prompt, error)) {
        return error_prefix(error, "record %zu: ", index + 1);
    }
    size_t kept = prompt->count + room > context ? context - room : prompt->count;
    generation->prompt = prompt->ids + (prompt->count - kept);
    generation->prompt_count = kept;
    generation->max_tokens = room;
    generation->tokens = memory_create(room, sizeof *generation->tokens);
    return true;
}

/* [*start, *end) without the white space at both ends. */
static void strip(const char **start, const char **end)
{
    static const char spaces[] = " \t\r\n\v\f";
    while (*start < *end && memchr(spaces, **start, sizeof spaces - 1) != NULL) {
        (*start)++;
    }
    while (*start < *end && memchr(spaces, (*end)[-1], sizeof spaces - 1) != NULL) {
        (*end)--;
    }
}

/* Both stripped; the text ends at its first newline. It may hold any byte. */
static bool matches(const char *text, size_t length, const char *answer)
{
    const char *newline = memchr(text, '\n', length);
    const char *start = text, *end = newline != NULL ? newline : text + length;
    const char *wanted = answer, *wanted_end = answer + strlen(answer);
    strip(&start, &end);
    strip(&wanted, &wanted_end);
    return end - start == wanted_end - wanted && memcmp(start, wanted, (size_t)(end - start)) == 0;
}

static bool is_correct(const struct answer_run *run, size_t index)
{
    const struct generation *generation = &run->generations[index];
    struct text text = {0};
    tokenizer_decode(run->tokenizer, generation->tokens, generation->token_count, true, &text);
    bool same = matches(text.bytes != NULL ? text.bytes : "", text.length, run->set->records[index].answer);
    text_finish(&text);
    return same;
}

/* How many records from `first` run side by side. */
static size_t batch_size(const struct answer_run *run, size_t first)
{
    size_t limit = run->control->batch_tokens > 0 ? run->control->batch_tokens : EVALUATE_BATCH_TOKENS,
           tokens = 0;
    size_t end = first;
    while (end < run->set->record_count) {
        const struct generation *generation = &run->generations[end];
        tokens += generation->prompt_count + generation->max_tokens;
        if (end > first && tokens > limit) {
            break;
        }
        end++;
    }
    return end - first;
}

static bool run_records(struct answer_run *run, struct task_result *result, struct error *error)
{
    size_t count = run->set->record_count;
    size_t done = (size_t)score_resume_count(run->control, "done");
    result->correct_count = (size_t)score_resume_count(run->control, "correct");
    result->generated_tokens = score_resume_count(run->control, "generated");
    while (done < count) {
        size_t size = batch_size(run, done);
        if (!cancel_check_now(run->control->cancel, error) ||
            !model_generate(run->model, run->control->removed, run->generations + done, size,
                            run->stop_tokens, run->stop_count, error)) {
            return false;
        }
        for (size_t i = done; i < done + size; i++) {
            result->correct_count += is_correct(run, i) ? 1 : 0;
            result->generated_tokens += run->generations[i].token_count;
        }
        done += size;
        score_keep_count(run->control, "done", done);
        score_keep_count(run->control, "correct", result->correct_count);
        score_keep_count(run->control, "generated", result->generated_tokens);
        score_progress(run->control, run->set->name, done, count, "records");
    }
    return true;
}

bool task_measure_generate(struct model *model, const struct tokenizer *tokenizer, const struct task_set *set,
                           const struct evaluate_control *control, struct task_result *result,
                           struct error *error)
{
    struct answer_run run = {.model = model, .tokenizer = tokenizer, .set = set, .control = control};
    find_stop_tokens(&run);
    struct tokens *prompts = memory_create(set->record_count, sizeof *prompts);
    run.generations = memory_create(set->record_count, sizeof *run.generations);
    bool ok = true;
    for (size_t i = 0; ok && i < set->record_count; i++) {
        ok = prepare_record(&run, i, &prompts[i], error);
    }
    ok = ok && run_records(&run, result, error);
    for (size_t i = 0; i < set->record_count; i++) {
        tokens_finish(&prompts[i]);
        free(run.generations[i].tokens);
    }
    free(prompts);
    free(run.generations);
    return ok;
}
