/*
 * workers/model/tokenizer.c: loading and encoding; see tokenizer_internal.h for the pipeline and the order to
 * read in.
 */
#include "workers/model/tokenizer.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"
#include "workers/model/tokenizer_internal.h"

#include <string.h>

/* ---- loading --------------------------------------------------------------------------------------------
 */

static bool index_ids(struct tokenizer *tokenizer, struct error *error)
{
    const struct vocab *vocab = &tokenizer->vocab;
    tokenizer->id_end = vocab->id_end;
    for (size_t i = 0; i < tokenizer->added_count; i++) {
        size_t id = (size_t)tokenizer->added[i].id;
        tokenizer->id_end = id >= tokenizer->id_end ? id + 1 : tokenizer->id_end;
    }
    for (size_t i = 0; i < tokenizer->front_count + tokenizer->back_count; i++) {
        int32_t id = i < tokenizer->front_count ? tokenizer->front_tokens[i]
                                                : tokenizer->back_tokens[i - tokenizer->front_count];
        if ((size_t)id >= tokenizer->id_end) {
            return error_set_field(error, ERROR_CORRUPT_FILE, "tokenizer.json/post_processor",
                                   "tokenizer.json: the template uses token %d, and ids end at %zu", (int)id,
                                   tokenizer->id_end);
        }
    }
    tokenizer->contents = memory_create(tokenizer->id_end, sizeof *tokenizer->contents);
    tokenizer->added_by_id = memory_create(tokenizer->id_end, sizeof *tokenizer->added_by_id);
    memset(tokenizer->added_by_id, 0xff, tokenizer->id_end * sizeof *tokenizer->added_by_id);
    for (size_t i = 0; i < vocab->entry_count; i++) {
        tokenizer->contents[vocab->entries[i].id] = vocab->entries[i].content;
    }
    for (size_t i = 0; i < tokenizer->added_count; i++) {
        tokenizer->added_by_id[tokenizer->added[i].id] = (int32_t)i;
    }
    return true;
}

static bool tokenizer_read(struct tokenizer *tokenizer, const char *bytes, size_t count, struct error *error)
{
    struct text merge_pool = {0};
    OWNED_MEMORY struct merge_text *merges = NULL;
    size_t merge_count = 0;
    JSON_OWNED json =
        tokenizer_file_read(bytes, count, &tokenizer->vocab, &merge_pool, &merges, &merge_count, error);
    bool ok = json != NULL && vocab_index(&tokenizer->vocab, error) &&
              tokenizer_spec_read(json, tokenizer, error) &&
              (tokenizer->kind != MODEL_BPE ||
               bpe_prepare(&tokenizer->bpe, &merge_pool, merges, merge_count, error)) &&
              index_ids(tokenizer, error);
    text_finish(&merge_pool);
    if (!ok) {
        return false;
    }
    tokenizer->patterns = split_patterns_create(tokenizer, error);
    if (tokenizer->patterns == NULL) {
        return false;
    }
    for (size_t i = 0; i < tokenizer->added_count; i++) {
        struct added_token *token = &tokenizer->added[i];
        if (!token->is_normalized) {
            text_append_bytes(&token->decoded, token->content, token->length);
        } else if (!tokenizer_normalize(tokenizer, token->content, token->length, &token->decoded, error)) {
            return false;
        }
    }
    if (!added_set_create(tokenizer, false, &tokenizer->raw, error) ||
        !added_set_create(tokenizer, true, &tokenizer->normalized, error)) {
        return false;
    }
    sha256_hex_of(bytes, count, tokenizer->sha256);
    return true;
}

struct tokenizer *tokenizer_parse(const char *bytes, size_t count, struct error *error)
{
    if (count > TOKENIZER_FILE_LIMIT) {
        (void)error_set(error, ERROR_TOO_LARGE, "tokenizer.json has %zu bytes; at most %u are accepted",
                        count, TOKENIZER_FILE_LIMIT);
        return NULL;
    }
    OWNED(tokenizer) tokenizer = memory_create(1, sizeof *tokenizer);
    if (!tokenizer_read(tokenizer, bytes, count, error)) {
        return NULL;
    }
    return TAKE(tokenizer);
}

struct tokenizer *tokenizer_load(const char *folder, struct error *error)
{
    OWNED_MEMORY char *path = file_join(folder, "tokenizer.json");
    if (!file_exists(path)) {
        (void)error_set_field(error, ERROR_NOT_FOUND, "tokenizer.json", "the model has no tokenizer.json");
        return NULL;
    }
    size_t count = 0;
    OWNED_MEMORY char *bytes = file_load(path, TOKENIZER_FILE_LIMIT, &count, error);
    return bytes != NULL ? tokenizer_parse(bytes, count, error) : NULL;
}

void tokenizer_destroy(struct tokenizer *tokenizer)
{
    if (tokenizer == NULL) {
        return;
    }
    added_set_finish(&tokenizer->raw);
    added_set_finish(&tokenizer->normalized);
    split_patterns_destroy(tokenizer->patterns);
    tokenizer_spec_finish(tokenizer);
    bpe_finish(&tokenizer->bpe);
    trie_finish(&tokenizer->wordpiece.trie);
    trie_finish(&tokenizer->unigram.trie);
    vocab_finish(&tokenizer->vocab);
    free(tokenizer->contents);
    free(tokenizer->added_by_id);
    free(tokenizer);
}

size_t tokenizer_vocab_size(const struct tokenizer *tokenizer)
{
    return tokenizer->id_end;
}

int32_t tokenizer_bos_token(const struct tokenizer *tokenizer)
{
    return tokenizer->front_count > 0 ? tokenizer->front_tokens[0] : -1;
}

const char *tokenizer_sha256(const struct tokenizer *tokenizer)
{
    return tokenizer->sha256;
}

int32_t tokenizer_find(const struct tokenizer *tokenizer, const char *content)
{
    for (size_t i = 0; i < tokenizer->added_count; i++) {
        if (strcmp(tokenizer->added[i].content, content) == 0) {
            return tokenizer->added[i].id;
        }
    }
    return vocab_find(&tokenizer->vocab, content, strlen(content));
}

/* ---- tokens ---------------------------------------------------------------------------------------------
 */

void tokens_append(struct tokens *tokens, int32_t id)
{
    if (tokens->count == tokens->capacity) {
        tokens->capacity = tokens->capacity == 0 ? 64 : tokens->capacity * 2;
        tokens->ids = memory_resize(tokens->ids, tokens->capacity, sizeof *tokens->ids);
    }
    tokens->ids[tokens->count++] = id;
}

void tokens_finish(struct tokens *tokens)
{
    free(tokens->ids);
    *tokens = (struct tokens){0};
}

/* ---- encoding -------------------------------------------------------------------------------------------
 */

/* One piece of raw text between added tokens that are looked for before normalizing. */
static bool encode_normalized(struct encode_scratch *scratch, const char *bytes, size_t length, bool is_first,
                              struct error *error)
{
    const struct tokenizer *tokenizer = scratch->tokenizer;
    struct text *text = &scratch->normalized;
    if (length == 0) {
        return true;
    }
    if (tokenizer->normalizer_count > 0) {
        text_clear(text);
        if (!tokenizer_normalize(tokenizer, bytes, length, text, error)) {
            return false;
        }
        bytes = text->bytes != NULL ? text->bytes : "";
        length = text->length;
    }
    size_t at = 0, done = 0;
    struct added_match match;
    while (added_set_next(tokenizer, &tokenizer->normalized, bytes, length, done, &at, &match)) {
        if (!split_and_encode(scratch, 0, bytes + done, match.start - done, is_first && done == 0, error)) {
            return false;
        }
        tokens_append(scratch->tokens, match.id);
        done = match.end;
        at = at > done ? at : done;
    }
    return split_and_encode(scratch, 0, bytes + done, length - done, is_first && done == 0, error);
}

static bool encode_text(struct encode_scratch *scratch, const char *bytes, size_t length, struct error *error)
{
    const struct tokenizer *tokenizer = scratch->tokenizer;
    size_t at = 0, done = 0;
    struct added_match match;
    while (added_set_next(tokenizer, &tokenizer->raw, bytes, length, done, &at, &match)) {
        if (!encode_normalized(scratch, bytes + done, match.start - done, done == 0, error)) {
            return false;
        }
        tokens_append(scratch->tokens, match.id);
        done = match.end;
        at = at > done ? at : done;
    }
    return encode_normalized(scratch, bytes + done, length - done, done == 0, error);
}

static void scratch_finish(struct encode_scratch *scratch)
{
    bpe_scratch_finish(&scratch->bpe);
    free(scratch->unigram.nodes);
    tokens_finish(&scratch->unigram.reversed);
    split_matcher_destroy(scratch->matcher);
    for (size_t i = 0; i < TOKENIZER_STEPS_MAX; i++) {
        text_finish(&scratch->steps[i]);
    }
    text_finish(&scratch->normalized);
}

bool tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t length, bool add_special,
                      struct tokens *tokens, struct error *error)
{
    size_t valid = utf8_valid_prefix(text, length), before = tokens->count;
    if (valid != length) {
        return error_set(error, ERROR_INVALID_ARGUMENT, "the text is not UTF-8 at byte %zu", valid);
    }
    if (length > TOKENIZER_TEXT_MAX_BYTES) {
        return error_set(error, ERROR_TOO_LARGE, "a text of %zu bytes; at most %u are encoded at once",
                         length, TOKENIZER_TEXT_MAX_BYTES);
    }
    for (size_t i = 0; add_special && i < tokenizer->front_count; i++) {
        tokens_append(tokens, tokenizer->front_tokens[i]);
    }
    struct encode_scratch scratch = {.tokenizer = tokenizer, .tokens = tokens};
    bool ok = encode_text(&scratch, text, length, error);
    scratch_finish(&scratch);
    if (!ok) {
        tokens->count = before;
        return false;
    }
    for (size_t i = 0; add_special && i < tokenizer->back_count; i++) {
        tokens_append(tokens, tokenizer->back_tokens[i]);
    }
    return true;
}
