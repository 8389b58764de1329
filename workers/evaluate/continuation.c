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

static bool write_one(struct model *model, const struct tokenizer *tokenizer, const char *prompt,
                      size_t max_tokens, const struct evaluate_control *control, json_t *object,
                      struct error *error)
{
    const struct model_config *config = model_get_config(model);
    size_t context = config->context_tokens > 1 ? config->context_tokens : 2;
    FINISHED(tokens) ids = {0};
    if (!task_encode_start(model, tokenizer, prompt, strlen(prompt), &ids, error)) {
        return false;
    }
    size_t room = max_tokens < context ? max_tokens : context - 1;
    size_t kept =
        ids.count > context - room ? context - room : ids.count; /* of a prompt that is too long, the end */
    OWNED_MEMORY int32_t *tokens = memory_create(room + 1, sizeof *tokens);
    struct generation generation = {
        .prompt = ids.ids + (ids.count - kept), .prompt_count = kept, .tokens = tokens, .max_tokens = room};
    struct error cause = {0};
    if (model_generate(model, control->removed, &generation, 1, config->eos_tokens, config->eos_token_count,
                       &cause)) {
        describe(tokenizer, &generation, object);
        return true;
    }
    if (cause.code == ERROR_NUMERIC) {
        json_put_text(object, "error", cause.message);
        json_put(object, "is_degenerate", json_true());
        return true;
    }
    if (error != NULL) {
        *error = cause;
    }
    return false;
}

bool continuation_measure(struct model *model, const struct tokenizer *tokenizer, const json_t *prompts,
                          size_t max_tokens, const struct evaluate_control *control, json_t **ret_list,
                          struct error *error)
{
    JSON_OWNED list = json_array();
    for (size_t i = 0; i < json_array_size(prompts); i++) {
        const char *prompt = json_string_value(json_array_get(prompts, i));
        json_t *object = json_object();
        (void)json_array_append_new(list, object);
        json_put_text(object, "prompt", prompt);
        if (!cancel_check_now(control->cancel, error) ||
            !write_one(model, tokenizer, prompt, max_tokens, control, object, error)) {
            return false;
        }
        score_progress(control, "continuations", i + 1, json_array_size(prompts), "prompts");
    }
    *ret_list = TAKE(list);
    return true;
}
