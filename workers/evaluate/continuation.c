/* workers/evaluate/continuation.c: see continuation.h. */
#include "workers/evaluate/continuation.h"
#include "base/cleanup.h"
#include "base/memory.h"
#include "base/text.h"
#include "workers/evaluate/score.h"
#include "workers/evaluate/tasks_internal.h"
#include "workers/model/utf8.h"

#include <string.h>

#define REPETITION_MOST         0.5
#define REPETITION_LEAST_TOKENS 8
#define RUN_MOST                8

/* ---- figures ----------------------------------------------------------------------------------------------------- */

static bool is_same(const int32_t *left, const int32_t *right, size_t size)
{
    return memcmp(left, right, size * sizeof *left) == 0;
}

/* Different n-grams over all. A few hundred tokens at most, so comparing all with all is quick enough. */
static double distinct(const int32_t *tokens, size_t count, size_t size)
{
    size_t all = count >= size ? count - size + 1 : 0, different = 0;
    for (size_t i = 0; i < all; i++) {
        bool is_new = true;
        for (size_t j = 0; j < i && is_new; j++) {
            is_new = !is_same(tokens + i, tokens + j, size);
        }
        different += is_new ? 1 : 0;
    }
    return all > 0 ? (double)different / (double)all : 1;
}

void continuation_judge(const int32_t *tokens, size_t count, bool is_blank, struct continuation *ret_figures)
{
    struct continuation figures = {.token_count = count,
                                   .distinct_1 = distinct(tokens, count, 1),
                                   .distinct_2 = distinct(tokens, count, 2),
                                   .repetition_ratio = 1 - distinct(tokens, count, 4),
                                   .is_empty = count == 0 || is_blank};
    for (size_t i = 0, run = 0; i < count; i++) {
        run = i > 0 && tokens[i] == tokens[i - 1] ? run + 1 : 1;
        figures.longest_run = run > figures.longest_run ? run : figures.longest_run;
    }
    figures.is_degenerate = figures.is_empty || figures.longest_run >= RUN_MOST ||
                            (count >= REPETITION_LEAST_TOKENS && figures.repetition_ratio > REPETITION_MOST);
    *ret_figures = figures;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static bool is_blank(const struct text *text)
{
    for (size_t i = 0; i < text->length; i += utf8_length(text->bytes + i)) {
        if (!utf8_is_space(utf8_decode(text->bytes + i))) {
            return false;
        }
    }
    return true;
}

static void put_figures(json_t *object, const struct continuation *figures)
{
    json_put_i64(object, "tokens", (int64_t)figures->token_count);
    json_put_double(object, "distinct_1", figures->distinct_1);
    json_put_double(object, "distinct_2", figures->distinct_2);
    json_put_double(object, "repetition_ratio", figures->repetition_ratio);
    json_put_i64(object, "longest_run", (int64_t)figures->longest_run);
    json_put(object, "is_empty", json_boolean(figures->is_empty));
    json_put(object, "is_degenerate", json_boolean(figures->is_degenerate));
}

static void describe(const struct tokenizer *tokenizer, const struct generation *generation, json_t *object)
{
    FINISHED(text) decoded = {0};
    FINISHED(text) written = {0};
    struct continuation figures;
    tokenizer_decode(tokenizer, generation->tokens, generation->token_count, true, &decoded);
    /* The last token may be the beginning of a character; NUL ends a C string. */
    for (size_t i = 0; i < decoded.length; i++) {
        decoded.bytes[i] = decoded.bytes[i] == '\0' ? ' ' : decoded.bytes[i];
    }
    utf8_append_lossy(&written, decoded.bytes != NULL ? decoded.bytes : "", decoded.length);
    continuation_judge(generation->tokens, generation->token_count, is_blank(&written), &figures);
    json_put_text(object, "text", written.bytes != NULL ? written.bytes : "");
    put_figures(object, &figures);
}

/* Prompts and where their continuations go. */
struct writer {
    struct model *model;
    const struct tokenizer *tokenizer;
    const struct evaluate_control *control;
    struct tokens *ids;             /* [count] */
    struct generation *generations; /* [count] */
    size_t count;
};

/* Of a prompt that is too long, the end is kept. */
static bool prepare(struct writer *writer, size_t index, const char *prompt, size_t max_tokens,
                    struct error *error)
{
    size_t context = model_get_config(writer->model)->context_tokens;
    context = context > 1 ? context : 2;
    struct tokens *ids = &writer->ids[index];
    if (!task_encode_start(writer->model, writer->tokenizer, prompt, strlen(prompt), ids, error)) {
        return error_prefix(error, "prompt %zu: ", index + 1);
    }
    size_t room = max_tokens < context ? max_tokens : context - 1;
    size_t kept = ids->count > context - room ? context - room : ids->count;
    writer->generations[index] = (struct generation){.prompt = ids->ids + (ids->count - kept),
                                                     .prompt_count = kept,
                                                     .tokens = memory_create(room + 1, sizeof(int32_t)),
                                                     .max_tokens = room};
    return true;
}

static bool generate(struct writer *writer, size_t first, size_t count, struct error *error)
{
    const struct model_config *config = model_get_config(writer->model);
    return cancel_check_now(writer->control->cancel, error) &&
           model_generate(writer->model, writer->control->removed, writer->generations + first, count,
                          config->eos_tokens, config->eos_token_count, error);
}

/* All side by side, so that streamed weights are read once a step. Where states are not finite, one by one: which are it? */
static bool write_all(struct writer *writer, json_t *list, struct error *error)
{
    struct error cause = {0};
    bool is_together = generate(writer, 0, writer->count, &cause);
    for (size_t i = 0; i < writer->count; i++) {
        json_t *object = json_array_get(list, i);
        if (is_together || (cause.code == ERROR_NUMERIC && generate(writer, i, 1, &cause))) {
            describe(writer->tokenizer, &writer->generations[i], object);
        } else if (cause.code == ERROR_NUMERIC) {
            json_put_text(object, "error", cause.message);
            json_put(object, "is_degenerate", json_true());
        } else {
            *error = cause;
            return false;
        }
    }
    return true;
}

bool continuation_measure(struct model *model, const struct tokenizer *tokenizer, const json_t *prompts,
                          size_t max_tokens, const struct evaluate_control *control, json_t **ret_list,
                          struct error *error)
{
    JSON_OWNED list = json_array();
    struct error local = {0};
    error = error != NULL ? error : &local;
    struct writer writer = {
        .model = model, .tokenizer = tokenizer, .control = control, .count = json_array_size(prompts)};
    writer.ids = memory_create(writer.count + 1, sizeof *writer.ids);
    writer.generations = memory_create(writer.count + 1, sizeof *writer.generations);
    bool is_good = true;
    for (size_t i = 0; i < writer.count && is_good; i++) {
        const char *prompt = json_string_value(json_array_get(prompts, i));
        json_t *object = json_object();
        (void)json_array_append_new(list, object);
        json_put_text(object, "prompt", prompt);
        is_good = prepare(&writer, i, prompt, max_tokens, error);
    }
    is_good = is_good && write_all(&writer, list, error);
    if (is_good) {
        score_progress(control, "continuations", writer.count, writer.count, "prompts");
        *ret_list = TAKE(list);
    }
    for (size_t i = 0; i < writer.count; i++) {
        tokens_finish(&writer.ids[i]);
        free(writer.generations[i].tokens);
    }
    free(writer.ids);
    free(writer.generations);
    return is_good;
}
