/*
 * workers/model/tokenizer.h: tokenizer.json of Hugging Face's `tokenizers`, in the forms the supported models
 * use: byte-level BPE (pre-tokenizer pattern looked up by its exact text in our own table, run by PCRE2 with
 * Unicode classes), SentencePiece-style BPE with byte fallback, WordPiece and Unigram, with the normalizers that
 * go with them. Anything else is UNSUPPORTED, naming the JSON pointer. No regex from the file is compiled. The
 * file's "truncation" and "padding" are not applied: whoever makes batches decides about lengths. Bounds:
 * reliability section 8. Immutable after loading; encode and decode are thread-safe.
 */
#ifndef WORKERS_MODEL_TOKENIZER_H
#define WORKERS_MODEL_TOKENIZER_H

#include "base/cleanup.h"
#include "base/error.h"
#include "base/text.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tokenizer;
/* Loads folder/tokenizer.json; NOT_FOUND says that the model has none. */
struct tokenizer *tokenizer_load(const char *folder, struct error *error) MUST_USE;
struct tokenizer *tokenizer_parse(const char *bytes, size_t count, struct error *error) MUST_USE;
void tokenizer_destroy(struct tokenizer *tokenizer);
OWNED_DEFINE(tokenizer)

size_t tokenizer_vocab_size(const struct tokenizer *tokenizer); /* highest id + 1, added tokens included */
int32_t tokenizer_bos_token(
    const struct tokenizer *tokenizer); /* what the post-processor puts in front; -1: nothing */
const char *tokenizer_sha256(const struct tokenizer *tokenizer); /* of the file: goes with every number */
int32_t tokenizer_find(const struct tokenizer *tokenizer, const char *content); /* id of a whole token; -1 */

struct tokens {
    int32_t *ids;
    size_t count, capacity;
};
void tokens_append(struct tokens *tokens, int32_t id);
void tokens_finish(struct tokens *tokens);
/* Appends the ids of `text` (UTF-8; invalid bytes are an INVALID_ARGUMENT naming the offset). add_special:
 * run the post-processor (BOS). Added tokens in the text are matched as the library does. */
bool tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t length, bool add_special,
                      struct tokens *tokens, struct error *error) MUST_USE;
/* Appends text; special tokens are left out if skip_special. */
void tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t count, bool skip_special,
                      struct text *text);

#endif
