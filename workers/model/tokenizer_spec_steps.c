/*
 * workers/model/tokenizer_spec_steps.c: the normalizers and pre-tokenizers of tokenizer.json, each understood in full or refused by
 * name. No regular expression is compiled from the file: patterns are looked up by their exact text.
 */
#include "base/memory.h"
#include "workers/model/nfc.h"
#include "workers/model/tokenizer_spec.h"

#include <string.h>

/* {"String": "x"} -> "x" */
bool spec_read_string_pattern(struct spec_reader *reader, const json_t *object, const char *pointer,
                              const char **ret_text)
{
    const json_t *pattern = json_object_get(object, "pattern");
    const char *text = json_string_value(json_object_get(pattern, "String"));
    if (text == NULL || *text == '\0') {
        return spec_unsupported(reader, pointer, "only a non-empty String pattern is supported here", NULL);
    }
    *ret_text = text;
    return true;
}

/* ---- normalizers ----------------------------------------------------------------------------------------
 */

#define FORM_COUNT 4
static size_t form_find(const char *type)
{
    static const char *const names[FORM_COUNT] = {
        [UNICODE_NFC] = "NFC", [UNICODE_NFD] = "NFD", [UNICODE_NFKC] = "NFKC", [UNICODE_NFKD] = "NFKD"};
    size_t form = 0;
    while (form < FORM_COUNT && strcmp(names[form], type) != 0) {
        form++;
    }
    return form;
}

/* Of regular expressions only those that the converters from SentencePiece write: two or more spaces, or a line feed. */
static bool read_replace(struct spec_reader *reader, const json_t *object, const char *pointer,
                         struct normalizer *normalizer, const char **pattern, const char **content)
{
    const char *regex = json_string_value(json_object_get(json_object_get(object, "pattern"), "Regex"));
    normalizer->kind = NORMALIZER_REPLACE;
    if (regex != NULL && strcmp(regex, "\\n") == 0) {
        *pattern = "\n";
        return spec_get_text(reader, object, pointer, "content", content);
    }
    normalizer->kind = regex != NULL ? NORMALIZER_REPLACE_SPACES : NORMALIZER_REPLACE;
    if (regex != NULL && strcmp(regex, " {2,}") != 0) {
        return spec_unsupported(reader, pointer, "unknown pattern", regex);
    }
    return (regex != NULL || spec_read_string_pattern(reader, object, pointer, pattern)) &&
           spec_get_text(reader, object, pointer, "content", content);
}

static bool read_bert(struct spec_reader *reader, const json_t *object, const char *pointer,
                      struct normalizer *normalizer)
{
    normalizer->kind = NORMALIZER_BERT;
    normalizer->cleans = normalizer->separates_chinese = normalizer->lowers = true;
    if (!spec_find_bool(reader, object, pointer, "clean_text", &normalizer->cleans) ||
        !spec_find_bool(reader, object, pointer, "handle_chinese_chars", &normalizer->separates_chinese) ||
        !spec_find_bool(reader, object, pointer, "lowercase", &normalizer->lowers)) {
        return false;
    }
    normalizer->strips_accents = normalizer->lowers;
    return json_is_null(json_object_get(object, "strip_accents")) ||
           spec_find_bool(reader, object, pointer, "strip_accents", &normalizer->strips_accents);
}

static bool read_charsmap(struct spec_reader *reader, const json_t *object, const char *pointer,
                          struct normalizer *normalizer)
{
    const char *base64 = NULL;
    struct error error = {0};
    normalizer->kind = NORMALIZER_CHARSMAP;
    if (!spec_get_text(reader, object, pointer, "precompiled_charsmap", &base64)) {
        return false;
    }
    normalizer->charsmap = charsmap_parse(base64, strlen(base64), &error);
    return normalizer->charsmap != NULL || spec_fail(reader, error.code, pointer, error.message, NULL);
}

bool spec_read_normalizer(struct spec_reader *reader, const json_t *object, const char *type,
                          const char *pointer)
{
    struct tokenizer *tokenizer = reader->tokenizer;
    if (tokenizer->normalizer_count == TOKENIZER_STEPS_MAX) {
        return spec_unsupported(reader, pointer, "more than 16 normalizers", NULL);
    }
    struct normalizer normalizer = {0};
    const char *pattern = NULL, *content = NULL;
    bool ok = true;
    size_t form = form_find(type);
    if (form < FORM_COUNT) {
        normalizer.kind = NORMALIZER_FORM;
        normalizer.form = (int)form;
    } else if (strcmp(type, "Prepend") == 0) {
        normalizer.kind = NORMALIZER_PREPEND;
        ok = spec_get_text(reader, object, pointer, "prepend", &content);
    } else if (strcmp(type, "Replace") == 0) {
        ok = read_replace(reader, object, pointer, &normalizer, &pattern, &content);
    } else if (strcmp(type, "Lowercase") == 0) {
        normalizer.kind = NORMALIZER_LOWERCASE;
    } else if (strcmp(type, "Strip") == 0) {
        normalizer.kind = NORMALIZER_STRIP;
        normalizer.strips_left = normalizer.strips_right = true;
        ok = spec_find_bool(reader, object, pointer, "strip_left", &normalizer.strips_left) &&
             spec_find_bool(reader, object, pointer, "strip_right", &normalizer.strips_right);
    } else if (strcmp(type, "StripAccents") == 0) {
        normalizer.kind = NORMALIZER_STRIP_ACCENTS;
    } else if (strcmp(type, "Nmt") == 0) {
        normalizer.kind = NORMALIZER_NMT;
    } else if (strcmp(type, "BertNormalizer") == 0) {
        ok = read_bert(reader, object, pointer, &normalizer);
    } else if (strcmp(type, "Precompiled") == 0) {
        ok = read_charsmap(reader, object, pointer, &normalizer);
    } else {
        ok = spec_unsupported(reader, pointer, "unsupported normalizer", type);
    }
    if (!ok) {
        return false;
    }
    normalizer.pattern = memory_copy_text(pattern);
    normalizer.content = memory_copy_text(content);
    tokenizer->normalizers[tokenizer->normalizer_count++] = normalizer;
    return true;
}

/* ---- pre-tokenizers -------------------------------------------------------------------------------------
 */

static bool read_prepend_scheme(struct spec_reader *reader, const json_t *object, const char *pointer,
                                enum prepend_scheme *ret)
{
    const char *scheme = NULL;
    bool adds = true; /* the older spelling */
    if (!spec_find_text(reader, object, pointer, "prepend_scheme", &scheme) ||
        !spec_find_bool(reader, object, pointer, "add_prefix_space", &adds)) {
        return false;
    }
    if (scheme == NULL) {
        *ret = adds ? PREPEND_ALWAYS : PREPEND_NEVER;
    } else if (strcmp(scheme, "always") == 0) {
        *ret = PREPEND_ALWAYS;
    } else if (strcmp(scheme, "first") == 0) {
        *ret = PREPEND_FIRST;
    } else if (strcmp(scheme, "never") == 0) {
        *ret = PREPEND_NEVER;
    } else {
        return spec_unsupported(reader, pointer, "unknown prepend_scheme", scheme);
    }
    return true;
}

bool spec_read_metaspace(struct spec_reader *reader, const json_t *object, const char *pointer,
                         struct split_step *step)
{
    const char *replacement = "\xe2\x96\x81";
    step->kind = SPLIT_METASPACE;
    step->splits = true;
    if (!spec_find_text(reader, object, pointer, "replacement", &replacement) ||
        !spec_find_bool(reader, object, pointer, "split", &step->splits) ||
        !read_prepend_scheme(reader, object, pointer, &step->prepend)) {
        return false;
    }
    if (*replacement == '\0' || utf8_length(replacement) != strlen(replacement)) {
        return spec_unsupported(reader, pointer, "replacement must be one character, not", replacement);
    }
    step->replacement = memory_copy_text(replacement);
    return true;
}

static bool read_byte_level(struct spec_reader *reader, const json_t *object, const char *pointer)
{
    struct tokenizer *tokenizer = reader->tokenizer;
    struct split_step step = {.kind = SPLIT_BYTE_LEVEL, .adds_prefix_space = true};
    bool uses_regex = true;
    if (!spec_find_bool(reader, object, pointer, "add_prefix_space", &step.adds_prefix_space) ||
        !spec_find_bool(reader, object, pointer, "use_regex", &uses_regex)) {
        return false;
    }
    if (tokenizer->step_count + 2 > TOKENIZER_STEPS_MAX) {
        return spec_unsupported(reader, pointer, "more than 16 pre-tokenizers", NULL);
    }
    /* The space comes before the regular expression. */
    tokenizer->steps[tokenizer->step_count++] = step;
    if (uses_regex) {
        tokenizer->steps[tokenizer->step_count++] =
            (struct split_step){.kind = SPLIT_REGEX, .pattern = SPLIT_PATTERN_GPT2};
    }
    tokenizer->bpe.is_byte_level = true;
    return true;
}

static bool read_split(struct spec_reader *reader, const json_t *object, const char *pointer,
                       struct split_step *step)
{
    static const char *const behaviors[] = {[BEHAVIOR_REMOVED] = "Removed",
                                            [BEHAVIOR_ISOLATED] = "Isolated",
                                            [BEHAVIOR_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
                                            [BEHAVIOR_MERGED_WITH_NEXT] = "MergedWithNext",
                                            [BEHAVIOR_CONTIGUOUS] = "Contiguous"};
    const char *name = "", *string = NULL;
    bool inverts = false;
    const char *pattern = json_string_value(json_object_get(json_object_get(object, "pattern"), "Regex"));
    if (!spec_get_text(reader, object, pointer, "behavior", &name) ||
        !spec_find_bool(reader, object, pointer, "invert", &inverts)) {
        return false;
    }
    size_t behavior = 0;
    while (behavior < sizeof behaviors / sizeof behaviors[0] && strcmp(behaviors[behavior], name) != 0) {
        behavior++;
    }
    /* Our patterns match every character, so that "remove what does not match" is "isolate what does". */
    bool is_isolated = inverts ? behavior == BEHAVIOR_REMOVED : behavior == BEHAVIOR_ISOLATED;
    if (behavior == sizeof behaviors / sizeof behaviors[0] || (pattern != NULL && !is_isolated)) {
        return spec_unsupported(reader, pointer, inverts ? "inverted Split" : "unsupported Split behavior",
                                name);
    }
    if (pattern != NULL) {
        step->kind = SPLIT_REGEX;
        step->pattern = split_pattern_find(pattern);
        return step->pattern != SIZE_MAX || spec_unsupported(reader, pointer, "unknown pattern", pattern);
    }
    if (inverts) {
        return spec_unsupported(reader, pointer, "inverted Split", NULL);
    }
    if (!spec_read_string_pattern(reader, object, pointer, &string)) {
        return false;
    }
    step->kind = SPLIT_STRING;
    step->behavior = (enum split_behavior)behavior;
    step->replacement = memory_copy_text(string);
    return true;
}

bool spec_read_pre_tokenizer(struct spec_reader *reader, const json_t *object, const char *type,
                             const char *pointer)
{
    struct tokenizer *tokenizer = reader->tokenizer;
    struct split_step step = {0};
    if (tokenizer->bpe.is_byte_level) {
        return spec_unsupported(reader, pointer,
                                "ByteLevel must be the last pre-tokenizer, but after it comes", type);
    }
    if (strcmp(type, "ByteLevel") == 0) {
        return read_byte_level(reader, object, pointer);
    }
    if (strcmp(type, "Metaspace") == 0) {
        if (!spec_read_metaspace(reader, object, pointer, &step)) {
            return false;
        }
        if (step.prepend == PREPEND_FIRST && tokenizer->step_count > 0 && tokenizer->normalizer_count > 0) {
            /* "First" means: at the start of the text as it was before normalizing, and places there are not kept. */
            free(step.replacement);
            return spec_unsupported(reader, pointer, "prepend_scheme \"first\" behind normalizers and",
                                    "a split");
        }
    } else if (strcmp(type, "Split") == 0) {
        if (!read_split(reader, object, pointer, &step)) {
            return false;
        }
    } else if (strcmp(type, "WhitespaceSplit") == 0) {
        step.kind = SPLIT_WHITESPACE;
    } else if (strcmp(type, "BertPreTokenizer") == 0) {
        step.kind = SPLIT_BERT;
    } else if (strcmp(type, "Digits") == 0) {
        bool is_individual = false;
        if (!spec_find_bool(reader, object, pointer, "individual_digits", &is_individual)) {
            return false;
        }
        step.kind = SPLIT_REGEX;
        step.pattern = is_individual ? SPLIT_PATTERN_DIGIT : SPLIT_PATTERN_DIGITS;
    } else {
        return spec_unsupported(reader, pointer, "unsupported pre-tokenizer", type);
    }
    tokenizer->steps[tokenizer->step_count++] =
        step; /* read_sequence allows 16; ByteLevel checks for its two */
    return true;
}
