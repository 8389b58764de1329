/*
 * workers/data/windows.c: one stream, cut. The stream is encoded as one text: a tokenizer may make other
 * tokens at a seam than of the two sides alone, and the protocol joins first.
 */
#include "workers/data/windows.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/text.h"

#include <string.h>

#define SAMPLING_STREAM 0x77696e64u /* names this use of the seed: "wind" */

bool token_ids_check(const int32_t *ids, size_t count, size_t vocab_size, const char *name,
                     struct error *error)
{
    for (size_t i = 0; i < count; i++) {
        if (ids[i] < 0 || (size_t)ids[i] >= vocab_size) {
            return error_set_field(error, ERROR_TOKENIZER_MISMATCH, "tokenizer.json",
                                   "the tokenizer makes token %d of %s, and the model's vocabulary has %zu",
                                   (int)ids[i], name, vocab_size);
        }
    }
    return true;
}

bool token_stream_create(const struct corpus *corpus, const struct tokenizer *tokenizer, size_t vocab_size,
                         const struct cancel *cancel, struct token_stream *ret_stream, struct error *error)
{
    struct token_stream stream = {0};
    struct text joined = {0};
    const char *bytes = corpus->documents[0].bytes;
    size_t length = corpus->documents[0].length;
    if (corpus->document_count > 1) {
        for (size_t i = 0; i < corpus->document_count; i++) {
            text_append(&joined, i > 0 ? "\n\n" : "");
            text_append_bytes(&joined, corpus->documents[i].bytes, corpus->documents[i].length);
        }
        bytes = joined.bytes;
        length = joined.length;
    }
    stream.byte_count = length;
    if (tokenizer_bos_token(tokenizer) >= 0) {
        tokens_append(&stream.tokens, tokenizer_bos_token(tokenizer));
        stream.bos_count = 1;
    }
    bool ok = cancel_check_now(cancel, error) &&
              tokenizer_encode(tokenizer, bytes, length, false, &stream.tokens, error) &&
              cancel_check_now(cancel, error) &&
              token_ids_check(stream.tokens.ids, stream.tokens.count, vocab_size, corpus->name, error);
    text_finish(&joined);
    if (!ok) {
        token_stream_finish(&stream);
        return false;
    }
    *ret_stream = stream;
    return true;
}

void token_stream_finish(struct token_stream *stream)
{
    tokens_finish(&stream->tokens);
}

static int compare_sizes(const void *left, const void *right)
{
    size_t a = *(const size_t *)left, b = *(const size_t *)right;
    return a < b ? -1 : a > b;
}

/* Which windows: owned [count], ascending. */
static size_t *choose_windows(const struct windows_options *options, size_t available, size_t count)
{
    size_t *chosen = memory_create(available, sizeof *chosen);
    if (options->sampling == WINDOWS_RANDOM) {
        struct rng rng = {.seed = options->seed, .stream = SAMPLING_STREAM};
        rng_permutation(&rng, available, chosen);
        qsort(chosen, count, sizeof *chosen, compare_sizes);
    } else {
        for (size_t i = 0; i < count; i++) {
            chosen[i] = i;
        }
    }
    return chosen;
}

struct windows *windows_create(const struct corpus *corpus, const struct tokenizer *tokenizer,
                               const struct windows_options *options, struct error *error)
{
    size_t length = options->window_tokens;
    if (length == 0) {
        (void)error_set_field(error, ERROR_OUT_OF_RANGE, "/window_tokens",
                              "a window needs at least one token");
        return NULL;
    }
    struct token_stream stream = {0};
    if (!token_stream_create(corpus, tokenizer, options->vocab_size, options->cancel, &stream, error)) {
        return NULL;
    }
    size_t available = stream.tokens.count / length;
    if (available == 0) {
        (void)error_set_field(error, ERROR_TEXT_TOO_SHORT, corpus->name,
                              "%s (%s) has %zu tokens; one window needs %zu", corpus->name,
                              corpus_half_name(corpus->half), stream.tokens.count, length);
        token_stream_finish(&stream);
        return NULL;
    }
    size_t count =
        options->num_samples == 0 || options->num_samples > available ? available : options->num_samples;
    struct windows *windows = memory_create(1, sizeof *windows);
    windows->count = count;
    windows->window_tokens = length;
    windows->available_count = available;
    windows->stream_tokens = stream.tokens.count;
    windows->tokens =
        memory_create(count * length, sizeof *windows->tokens); /* no more than the stream's own size */
    windows->sequences = memory_create(count, sizeof *windows->sequences);
    OWNED_MEMORY size_t *chosen = choose_windows(options, available, count);
    for (size_t i = 0; i < count; i++) {
        memcpy(windows->tokens + i * length, stream.tokens.ids + chosen[i] * length,
               length * sizeof *windows->tokens);
        windows->sequences[i] =
            (struct token_sequence){.tokens = windows->tokens + i * length, .count = length};
    }
    token_stream_finish(&stream);
    return windows;
}

void windows_destroy(struct windows *windows)
{
    if (windows != NULL) {
        free(windows->tokens);
        free(windows->sequences);
        free(windows);
    }
}

json_t *windows_describe(const struct windows *windows, const struct corpus *corpus,
                         const struct tokenizer *tokenizer, const struct windows_options *options)
{
    json_t *json = corpus_describe(corpus);
    json_put_i64(json, "tokens", (int64_t)windows->stream_tokens);
    json_put_i64(json, "windows", (int64_t)windows->count);
    json_put_i64(json, "windows_available", (int64_t)windows->available_count);
    json_put_i64(json, "window_tokens", (int64_t)windows->window_tokens);
    json_put_text(json, "sampling", options->sampling == WINDOWS_RANDOM ? "random" : "first");
    if (options->sampling == WINDOWS_RANDOM) {
        json_put_i64(json, "seed", (int64_t)options->seed);
    }
    json_put_text(json, "tokenizer_sha256", tokenizer_sha256(tokenizer));
    return json;
}
