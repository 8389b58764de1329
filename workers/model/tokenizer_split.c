/*
 * workers/model/tokenizer_split.c: pre-tokenizers: how text is cut into the words that byte-pair merging
 * works on.
 *
 * No regular expression from a file is ever compiled (a hostile one can take for ever). A pattern is looked
 * up by its exact text; the row holds our own spelling of it for PCRE2. That differs from the text in one
 * point: \s is written out as Unicode's White_Space, because PCRE2's own \s with UCP also takes U+180E, which
 * the reference's engine does not.
 *
 * Limit: letters and numbers are those of PCRE2's Unicode version (14 in 10.42). A letter added since is cut like a
 * symbol, where a tokenizer library with newer tables would keep its word together.
 *
 * The steps of a pipeline nest: each piece a step makes goes to the next step at once, the last piece of all
 * to the merger, so no list of pieces is ever built.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/check.h"
#include "base/memory.h"
#include "workers/model/tokenizer_internal.h"
#include "workers/model/tokenizer_unicode.h"

#include <string.h>

#define JIT_STACK_START_BYTES (64u << 10)
#define JIT_STACK_LIMIT_BYTES (32u << 20)

#define SPACES                                                                                               \
    "\\x{09}-\\x{0d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}"   \
    "\\x{3000}"
#define SPACE     "[" SPACES "]"
#define NOT_SPACE "[^" SPACES "]"
#define ENDINGS   "'s|'t|'re|'ve|'m|'ll|'d"

/* Words cut where a small letter is followed by a capital one: aB is two; what may follow each of them. */
#define CASED(ending)                                                                                        \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+" ending       \
    "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*" ending

static const struct {
    const char *text; /* as in tokenizer.json; NULL: only by number */
    const char *pattern;
} split_table[] = {
    [SPLIT_PATTERN_GPT2] = {ENDINGS "| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
                            ENDINGS "| ?\\p{L}+| ?\\p{N}+| ?[^" SPACES "\\p{L}\\p{N}]+|" SPACE
                                    "+(?!" NOT_SPACE ")|" SPACE "+"},
    [SPLIT_PATTERN_DIGITS] = {NULL, "\\p{N}+"},
    [SPLIT_PATTERN_DIGIT] = {NULL, "\\p{N}"},
    [SPLIT_PATTERN_WORD] = {NULL, "[\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{200c}\\x{200d}]"},
    /* Llama 3 */
    {"(?i:" ENDINGS ")|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
     "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     "(?i:" ENDINGS ")|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^" SPACES "\\p{L}\\p{N}]+[\\r\\n]*|" SPACE
     "*[\\r\\n]+|" SPACE "+(?!" NOT_SPACE ")|" SPACE "+"},
    /* Qwen 2 */
    {"(?i:" ENDINGS
     ")|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     "(?i:" ENDINGS ")|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^" SPACES "\\p{L}\\p{N}]+[\\r\\n]*|" SPACE
     "*[\\r\\n]+|" SPACE "+(?!" NOT_SPACE ")|" SPACE "+"},
    /* Mistral's tekken */
    {CASED("") "|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     CASED("") "|\\p{N}| ?[^" SPACES "\\p{L}\\p{N}]+[\\r\\n/]*|" SPACE "*[\\r\\n]+|" SPACE "+(?!" NOT_SPACE
               ")|" SPACE "+"},
    /* o200k: tekken with endings on the word and up to three digits */
    {CASED("(?i:" ENDINGS ")?") "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     CASED("(?i:" ENDINGS ")?") "|\\p{N}{1,3}| ?[^" SPACES "\\p{L}\\p{N}]+[\\r\\n/]*|" SPACE
                                "*[\\r\\n]+|" SPACE "+(?!" NOT_SPACE ")|" SPACE "+"},
};
#define SPLIT_TABLE_COUNT (sizeof split_table / sizeof split_table[0])

size_t split_pattern_find(const char *text)
{
    for (size_t i = 0; i < SPLIT_TABLE_COUNT; i++) {
        if (split_table[i].text != NULL && strcmp(split_table[i].text, text) == 0) {
            return i;
        }
    }
    return SIZE_MAX;
}

struct split_patterns {
    pcre2_code *codes[SPLIT_TABLE_COUNT]; /* NULL: not used by this tokenizer */
};
struct split_matcher {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

static bool pattern_compile(struct split_patterns *patterns, size_t row, struct error *error)
{
    if (patterns->codes[row] != NULL) {
        return true;
    }
    int code = 0;
    PCRE2_SIZE offset = 0;
    patterns->codes[row] = pcre2_compile((PCRE2_SPTR)split_table[row].pattern, PCRE2_ZERO_TERMINATED,
                                         PCRE2_UTF | PCRE2_UCP, &code, &offset, NULL);
    if (patterns->codes[row] == NULL) { /* a PCRE2 without Unicode, or no memory */
        PCRE2_UCHAR message[128] = {0};
        (void)pcre2_get_error_message(code, message, sizeof message);
        return error_set(error, ERROR_UNSUPPORTED, "PCRE2 cannot compile pattern %zu: %s", row,
                         (const char *)message);
    }
    (void)pcre2_jit_compile(patterns->codes[row],
                            PCRE2_JIT_COMPLETE); /* without it the interpreter runs: slower, equal */
    return true;
}

struct split_patterns *split_patterns_create(const struct tokenizer *tokenizer, struct error *error)
{
    struct split_patterns *patterns = memory_create(1, sizeof *patterns);
    bool ok = pattern_compile(patterns, SPLIT_PATTERN_WORD, error);
    for (size_t i = 0; ok && i < tokenizer->step_count; i++) {
        const struct split_step *step = &tokenizer->steps[i];
        ok = step->kind != SPLIT_REGEX || pattern_compile(patterns, step->pattern, error);
    }
    if (!ok) {
        split_patterns_destroy(patterns);
        return NULL;
    }
    return patterns;
}

void split_patterns_destroy(struct split_patterns *patterns)
{
    if (patterns != NULL) {
        for (size_t i = 0; i < SPLIT_TABLE_COUNT; i++) {
            pcre2_code_free(patterns->codes[i]);
        }
        free(patterns);
    }
}

bool split_is_word_character(const struct split_patterns *patterns, const char *bytes)
{
    pcre2_match_data *data = pcre2_match_data_create(1, NULL);
    CHECK(data != NULL);
    int found = pcre2_match(patterns->codes[SPLIT_PATTERN_WORD], (PCRE2_SPTR)bytes, utf8_length(bytes), 0,
                            PCRE2_NO_UTF_CHECK, data, NULL);
    pcre2_match_data_free(data);
    return found > 0;
}

static struct split_matcher *matcher_create(void)
{
    struct split_matcher *matcher = memory_create(1, sizeof *matcher);
    matcher->data = pcre2_match_data_create(1, NULL);
    matcher->context = pcre2_match_context_create(NULL);
    matcher->stack = pcre2_jit_stack_create(JIT_STACK_START_BYTES, JIT_STACK_LIMIT_BYTES, NULL);
    CHECK(matcher->data != NULL && matcher->context != NULL); /* small: memory ended */
    if (matcher->stack != NULL) {
        pcre2_jit_stack_assign(matcher->context, NULL, matcher->stack);
    }
    return matcher;
}

void split_matcher_destroy(struct split_matcher *matcher)
{
    if (matcher != NULL) {
        pcre2_match_data_free(matcher->data);
        pcre2_match_context_free(matcher->context);
        pcre2_jit_stack_free(matcher->stack);
        free(matcher);
    }
}

/* Matches are pieces, and so is what lies between them ("Isolated"). */
static bool split_regex(struct encode_scratch *scratch, size_t step, const char *bytes, size_t length,
                        bool is_first, struct error *error)
{
    const struct tokenizer *tokenizer = scratch->tokenizer;
    const pcre2_code *code = tokenizer->patterns->codes[tokenizer->steps[step].pattern];
    if (scratch->matcher == NULL) {
        scratch->matcher = matcher_create();
    }
    struct split_matcher *matcher = scratch->matcher;
    size_t done = 0;
    while (done < length) {
        int found = pcre2_match(code, (PCRE2_SPTR)bytes, length, done, PCRE2_NO_UTF_CHECK, matcher->data,
                                matcher->context);
        if (found < 0 && found != PCRE2_ERROR_NOMATCH) {
            return error_set(error, ERROR_UNSUPPORTED,
                             "cutting the text into words failed at byte %zu (PCRE2 error %d)", done, found);
        }
        const PCRE2_SIZE *range = pcre2_get_ovector_pointer(matcher->data);
        size_t start = found > 0 ? range[0] : length, end = found > 0 ? range[1] : length;
        if (start > done &&
            !split_and_encode(scratch, step + 1, bytes + done, start - done, is_first && done == 0, error)) {
            return false;
        }
        if (end > start &&
            !split_and_encode(scratch, step + 1, bytes + start, end - start, is_first && start == 0, error)) {
            return false;
        }
        done = end > done ? end : length; /* our patterns match no empty text */
    }
    return true;
}

/* Spaces become the replacement, one is put in front; then a piece starts at every replacement. */
static bool split_metaspace(struct encode_scratch *scratch, size_t step, const char *bytes, size_t length,
                            bool is_first, struct error *error)
{
    const struct split_step *metaspace = &scratch->tokenizer->steps[step];
    const char *replacement = metaspace->replacement;
    size_t mark = strlen(replacement);
    struct text *text = &scratch->steps[step];
    if (length > TOKENIZER_TEXT_MAX_BYTES - 64) { /* each byte may become four, and offsets stay below 2^31 */
        return error_set(error, ERROR_TOO_LARGE,
                         "a text of %zu bytes after normalizing; at most %u can be cut", length,
                         TOKENIZER_TEXT_MAX_BYTES - 64);
    }
    text_clear(text);
    bool starts = (length >= mark && memcmp(bytes, replacement, mark) == 0) || bytes[0] == ' ';
    if (!starts &&
        (metaspace->prepend == PREPEND_ALWAYS || (metaspace->prepend == PREPEND_FIRST && is_first))) {
        text_append(text, replacement);
    }
    for (size_t done = 0; done < length;) {
        const char *space = memchr(bytes + done, ' ', length - done);
        size_t end = space != NULL ? (size_t)(space - bytes) : length;
        text_append_bytes(text, bytes + done, end - done);
        if (space != NULL) {
            text_append(text, replacement);
        }
        done = end + (space != NULL ? 1 : 0);
    }
    if (!metaspace->splits) {
        return split_and_encode(scratch, step + 1, text->bytes, text->length, is_first, error);
    }
    for (size_t done = 0; done < text->length;) {
        size_t from = done + utf8_length(text->bytes + done);
        const char *next =
            from < text->length ? memmem(text->bytes + from, text->length - from, replacement, mark) : NULL;
        size_t end = next != NULL ? (size_t)(next - text->bytes) : text->length;
        if (!split_and_encode(scratch, step + 1, text->bytes + done, end - done, is_first && done == 0,
                              error)) {
            return false;
        }
        done = end;
    }
    return true;
}

static bool split_byte_level(struct encode_scratch *scratch, size_t step, const char *bytes, size_t length,
                             bool is_first, struct error *error)
{
    if (!scratch->tokenizer->steps[step].adds_prefix_space || bytes[0] == ' ') {
        return split_and_encode(scratch, step + 1, bytes, length, is_first, error);
    }
    struct text *text = &scratch->steps[step];
    text_clear(text);
    text_append(text, " ");
    text_append_bytes(text, bytes, length);
    return split_and_encode(scratch, step + 1, text->bytes, text->length, is_first, error);
}

/* Words between white space; with cuts_punctuation every punctuation character is a word too (BertPreTokenizer). */
static bool split_words(struct encode_scratch *scratch, size_t step, bool cuts_punctuation, const char *bytes,
                        size_t length, bool is_first, struct error *error)
{
    size_t done = 0;
    for (size_t at = 0; at <= length;) {
        size_t width = at < length ? utf8_length(bytes + at) : 1;
        uint32_t code = at < length ? utf8_decode(bytes + at) : ' ';
        bool is_space = utf8_is_space(code);
        bool is_cut = is_space || (cuts_punctuation && unicode_is_punctuation(code));
        if (is_cut &&
            !split_and_encode(scratch, step + 1, bytes + done, at - done, is_first && done == 0, error)) {
            return false;
        }
        if (is_cut && !is_space &&
            !split_and_encode(scratch, step + 1, bytes + at, width, is_first && at == 0, error)) {
            return false;
        }
        at += width;
        done = is_cut ? at : done;
    }
    return true;
}

/* Whether a stretch joins the piece that ends before it; a stretch is an occurrence of the string, or what lies between. */
static bool joins(enum split_behavior behavior, bool was_match, bool is_match)
{
    switch (behavior) {
    case BEHAVIOR_REMOVED:
    case BEHAVIOR_ISOLATED:
        return false;
    case BEHAVIOR_MERGED_WITH_PREVIOUS:
        return is_match && !was_match;
    case BEHAVIOR_MERGED_WITH_NEXT:
        return was_match && !is_match;
    case BEHAVIOR_CONTIGUOUS:
        return was_match == is_match;
    }
    return false;
}

static bool split_string(struct encode_scratch *scratch, size_t step, const char *bytes, size_t length,
                         bool is_first, struct error *error)
{
    const struct split_step *spec = &scratch->tokenizer->steps[step];
    size_t pattern = strlen(spec->replacement), start = 0; /* bytes[start, done): the piece at hand */
    bool was_match = false;
    for (size_t done = 0; done < length;) {
        const char *found = memmem(bytes + done, length - done, spec->replacement, pattern);
        bool is_match = found == bytes + done;
        size_t end = is_match ? done + pattern : found != NULL ? (size_t)(found - bytes) : length;
        if (!joins(spec->behavior, was_match, is_match)) {
            bool is_wanted = !(was_match && spec->behavior == BEHAVIOR_REMOVED);
            if (is_wanted && !split_and_encode(scratch, step + 1, bytes + start, done - start,
                                               is_first && start == 0, error)) {
                return false;
            }
            start = done;
        }
        was_match = is_match;
        done = end;
    }
    return (was_match && spec->behavior == BEHAVIOR_REMOVED) ||
           split_and_encode(scratch, step + 1, bytes + start, length - start, is_first && start == 0, error);
}

static void encode_piece(struct encode_scratch *scratch, const char *bytes, size_t length)
{
    const struct tokenizer *tokenizer = scratch->tokenizer;
    switch (tokenizer->kind) {
    case MODEL_BPE:
        bpe_encode(&tokenizer->bpe, bytes, length, &scratch->bpe, scratch->tokens);
        break;
    case MODEL_WORDPIECE:
        wordpiece_encode(&tokenizer->wordpiece, bytes, length, scratch->tokens);
        break;
    case MODEL_UNIGRAM:
        unigram_encode(&tokenizer->unigram, bytes, length, &scratch->unigram, scratch->tokens);
        break;
    }
}

bool split_and_encode(struct encode_scratch *scratch, size_t step, const char *bytes, size_t length,
                      bool is_first, struct error *error)
{
    const struct tokenizer *tokenizer = scratch->tokenizer;
    if (length == 0) {
        return true;
    }
    if (step == tokenizer->step_count) {
        encode_piece(scratch, bytes, length);
        return true;
    }
    switch (tokenizer->steps[step].kind) {
    case SPLIT_REGEX:
        return split_regex(scratch, step, bytes, length, is_first, error);
    case SPLIT_METASPACE:
        return split_metaspace(scratch, step, bytes, length, is_first, error);
    case SPLIT_BYTE_LEVEL:
        return split_byte_level(scratch, step, bytes, length, is_first, error);
    case SPLIT_WHITESPACE:
        return split_words(scratch, step, false, bytes, length, is_first, error);
    case SPLIT_BERT:
        return split_words(scratch, step, true, bytes, length, is_first, error);
    case SPLIT_STRING:
        return split_string(scratch, step, bytes, length, is_first, error);
    }
    return error_set(error, ERROR_INTERNAL, "unknown pre-tokenizer step");
}
