/*
 * workers/data/windows.h: documents as token windows.
 *
 * A stream is all documents joined by two newlines and encoded as one text, one BOS at the very start if the
 * tokenizer adds one (the `gptq` protocol); windows are its consecutive pieces of window_tokens, the tail
 * dropped. Calibration takes the first num_samples windows, or with RANDOM sampling num_samples of them
 * without replacement (drawn by seed, then in ascending order, so that more threads or another library change
 * nothing).
 *
 * Every id is checked against the model's vocabulary here (TOKENIZER_MISMATCH), so the engine may CHECK.
 */
#ifndef WORKERS_DATA_WINDOWS_H
#define WORKERS_DATA_WINDOWS_H

#include "base/cancel.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "workers/data/corpus.h"
#include "workers/model/model.h"
#include "workers/model/tokenizer.h"
#include <stddef.h>
#include <stdint.h>

/* Every id below vocab_size, else TOKENIZER_MISMATCH naming the id and `name`, the text it came from. */
bool token_ids_check(const int32_t *ids, size_t count, size_t vocab_size, const char *name,
                     struct error *error) MUST_USE;

/* The stream of a corpus. bos_count is 0 or 1: how many of ids stand for no text. */
struct token_stream {
    struct tokens tokens;
    size_t bos_count;
    uint64_t byte_count; /* of the text the other tokens stand for, joining newlines included */
};
bool token_stream_create(const struct corpus *corpus, const struct tokenizer *tokenizer, size_t vocab_size,
                         const struct cancel *cancel, struct token_stream *ret_stream,
                         struct error *error) MUST_USE;
void token_stream_finish(struct token_stream *stream);

enum windows_sampling { WINDOWS_FIRST, WINDOWS_RANDOM };
struct windows_options {
    size_t window_tokens;
    size_t num_samples; /* 0: all there are */
    enum windows_sampling sampling;
    uint64_t seed;     /* WINDOWS_RANDOM */
    size_t vocab_size; /* of the model */
    const struct cancel *cancel;
};
struct windows {
    int32_t *tokens;                  /* [count, window_tokens], owned */
    struct token_sequence *sequences; /* [count], into tokens: hand {sequences, count} to model_embed */
    size_t count, window_tokens;
    size_t available_count; /* whole windows in the stream; count < the num_samples asked for: the text was
                               shorter */
    size_t stream_tokens;   /* BOS included */
};
/* TEXT_TOO_SHORT when not even one window fills, naming file, tokens found and tokens needed; fewer windows
 * than num_samples are taken as they are (the caller compares `count` and warns). */
struct windows *windows_create(const struct corpus *corpus, const struct tokenizer *tokenizer,
                               const struct windows_options *options, struct error *error) MUST_USE;
void windows_destroy(struct windows *windows);
OWNED_DEFINE(windows)

/* What a number must carry: corpus_describe plus {"tokens", "windows", "windows_available", "window_tokens",
 * "sampling", "seed", "tokenizer_sha256"}. Owned. */
json_t *windows_describe(const struct windows *windows, const struct corpus *corpus,
                         const struct tokenizer *tokenizer, const struct windows_options *options) MUST_USE;

#endif
