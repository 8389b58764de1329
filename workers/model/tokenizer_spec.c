/*
 * workers/model/tokenizer_spec.c: the pipeline of tokenizer.json. Every part is either understood in full or
 * refused with UNSUPPORTED and its JSON pointer: a tokenizer that is almost right gives numbers that are
 * wrong.
 */
#include "base/memory.h"
#include "workers/model/tokenizer_internal.h"

#include <stdio.h>
#include <string.h>

struct reader {
    struct tokenizer *tokenizer;
    struct error *error;
};

static bool fail_spec(struct reader *reader, enum error_code code, const char *pointer, const char *what,
                      const char *value)
{
    char field[sizeof((struct error *)0)->field];
    (void)snprintf(field, sizeof field, "tokenizer.json%s", pointer);
    return error_set_field(reader->error, code, field, "tokenizer.json%s: %s%s%s%s", pointer, what,
                           value != NULL ? " \"" : "", value != NULL ? value : "", value != NULL ? "\"" : "");
}

static bool unsupported(struct reader *reader, const char *pointer, const char *what, const char *value)
{
    return fail_spec(reader, ERROR_UNSUPPORTED, pointer, what, value);
}

/* json_find_* / json_get_* with our field and a readable message. */
static bool find_bool(struct reader *reader, const json_t *object, const char *pointer, const char *name,
                      bool *value)
{
    if (!json_find_bool(object, pointer, name, value, reader->error)) {
        return error_prefix(reader->error, "tokenizer.json: ");
    }
    return true;
}

static bool find_text(struct reader *reader, const json_t *object, const char *pointer, const char *name,
                      const char **text)
{
    if (!json_find_text(object, pointer, name, text, reader->error)) {
        return error_prefix(reader->error, "tokenizer.json: ");
    }
    return true;
}

static bool get_text(struct reader *reader, const json_t *object, const char *pointer, const char *name,
                     const char **text)
{
    if (!json_get_text(object, pointer, name, text, reader->error)) {
        return error_prefix(reader->error, "tokenizer.json: ");
    }
    return true;
}

static bool get_integer(struct reader *reader, const json_t *object, const char *pointer, const char *name,
                        int64_t max, int64_t *value)
{
    if (!json_get_i64(object, pointer, name, 0, max, value, reader->error)) {
        return error_prefix(reader->error, "tokenizer.json: ");
    }
    return true;
}

/* A part is null, or one object, or {"type": "Sequence", "<list_name>": [objects]}: each object goes to
 * read_one. */
static bool
read_sequence(struct reader *reader, const json_t *part, const char *pointer, const char *list_name,
              bool (*read_one)(struct reader *, const json_t *, const char *type, const char *pointer))
{
    if (part == NULL || json_is_null(part)) {
        return true;
    }
    const char *type = NULL;
    if (!json_is_object(part)) {
        return fail_spec(reader, ERROR_WRONG_TYPE, pointer, "an object is needed", NULL);
    }
    if (!get_text(reader, part, pointer, "type", &type)) {
        return false;
    }
    if (strcmp(type, "Sequence") != 0) {
        return read_one(reader, part, type, pointer);
    }
    json_t *list = json_object_get(part, list_name);
    if (!json_is_array(list) || json_array_size(list) > TOKENIZER_STEPS_MAX) {
        return fail_spec(reader, ERROR_WRONG_TYPE, pointer, "a list of at most 16 is needed in", list_name);
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        char inner[96];
        (void)snprintf(inner, sizeof inner, "%s/%s/%zu", pointer, list_name, i);
        const json_t *item = json_array_get(list, i);
        const char *item_type = NULL;
        if (!json_is_object(item)) {
            return fail_spec(reader, ERROR_WRONG_TYPE, inner, "an object is needed", NULL);
        }
        if (!get_text(reader, item, inner, "type", &item_type) || !read_one(reader, item, item_type, inner)) {
            return false;
        }
    }
    return true;
}

/* {"String": "x"} -> "x" */
static bool read_string_pattern(struct reader *reader, const json_t *object, const char *pointer,
                                const char **ret_text)
{
    const json_t *pattern = json_object_get(object, "pattern");
    const char *text = json_string_value(json_object_get(pattern, "String"));
    if (text == NULL || *text == '\0') {
        return unsupported(reader, pointer, "only a non-empty String pattern is supported here", NULL);
    }
    *ret_text = text;
    return true;
}

/* ---- normalizers ----------------------------------------------------------------------------------------
 */

static bool read_normalizer(struct reader *reader, const json_t *object, const char *type,
                            const char *pointer)
{
    struct tokenizer *tokenizer = reader->tokenizer;
    if (tokenizer->normalizer_count == TOKENIZER_STEPS_MAX) {
        return unsupported(reader, pointer, "more than 16 normalizers", NULL);
    }
    struct normalizer normalizer = {0};
    const char *pattern = NULL, *content = NULL;
    if (strcmp(type, "Prepend") == 0) {
        normalizer.kind = NORMALIZER_PREPEND;
        if (!get_text(reader, object, pointer, "prepend", &content)) {
            return false;
        }
    } else if (strcmp(type, "Replace") == 0) {
        normalizer.kind = NORMALIZER_REPLACE;
        if (!read_string_pattern(reader, object, pointer, &pattern) ||
            !get_text(reader, object, pointer, "content", &content)) {
            return false;
        }
    } else if (strcmp(type, "NFC") == 0) {
        normalizer.kind = NORMALIZER_NFC;
    } else {
        return unsupported(reader, pointer, "unsupported normalizer", type);
    }
    normalizer.pattern = memory_copy_text(pattern);
    normalizer.content = memory_copy_text(content);
    tokenizer->normalizers[tokenizer->normalizer_count++] = normalizer;
    return true;
}

/* ---- pre-tokenizers -------------------------------------------------------------------------------------
 */

static bool read_prepend_scheme(struct reader *reader, const json_t *object, const char *pointer,
                                enum prepend_scheme *ret)
{
    const char *scheme = NULL;
    bool adds = true; /* the older spelling */
    if (!find_text(reader, object, pointer, "prepend_scheme", &scheme) ||
        !find_bool(reader, object, pointer, "add_prefix_space", &adds)) {
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
        return unsupported(reader, pointer, "unknown prepend_scheme", scheme);
    }
    return true;
}

static bool read_metaspace(struct reader *reader, const json_t *object, const char *pointer,
                           struct split_step *step)
{
    const char *replacement = "\xe2\x96\x81";
    step->kind = SPLIT_METASPACE;
    step->splits = true;
    if (!find_text(reader, object, pointer, "replacement", &replacement) ||
        !find_bool(reader, object, pointer, "split", &step->splits) ||
        !read_prepend_scheme(reader, object, pointer, &step->prepend)) {
        return false;
    }
    if (*replacement == '\0' || utf8_length(replacement) != strlen(replacement)) {
        return unsupported(reader, pointer, "replacement must be one character, not", replacement);
    }
    step->replacement = memory_copy_text(replacement);
    return true;
}

static bool read_byte_level(struct reader *reader, const json_t *object, const char *pointer)
{
    struct tokenizer *tokenizer = reader->tokenizer;
    struct split_step step = {.kind = SPLIT_BYTE_LEVEL, .adds_prefix_space = true};
    bool uses_regex = true;
    if (!find_bool(reader, object, pointer, "add_prefix_space", &step.adds_prefix_space) ||
        !find_bool(reader, object, pointer, "use_regex", &uses_regex)) {
        return false;
    }
    if (tokenizer->step_count + 2 > TOKENIZER_STEPS_MAX) {
        return unsupported(reader, pointer, "more than 16 pre-tokenizers", NULL);
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

static bool read_split(struct reader *reader, const json_t *object, const char *pointer,
                       struct split_step *step)
{
    const char *behavior = "";
    bool inverts = false;
    const char *pattern = json_string_value(json_object_get(json_object_get(object, "pattern"), "Regex"));
    if (!get_text(reader, object, pointer, "behavior", &behavior) ||
        !find_bool(reader, object, pointer, "invert", &inverts)) {
        return false;
    }
    if (pattern == NULL) {
        return unsupported(reader, pointer, "only Split by Regex is supported", NULL);
    }
    if (strcmp(behavior, "Isolated") != 0 || inverts) {
        return unsupported(reader, pointer, inverts ? "inverted Split" : "unsupported Split behavior",
                           inverts ? NULL : behavior);
    }
    step->kind = SPLIT_REGEX;
    step->pattern = split_pattern_find(pattern);
    if (step->pattern == SIZE_MAX) {
        return unsupported(reader, pointer, "unknown pattern", pattern);
    }
    return true;
}

static bool read_pre_tokenizer(struct reader *reader, const json_t *object, const char *type,
                               const char *pointer)
{
    struct tokenizer *tokenizer = reader->tokenizer;
    struct split_step step = {0};
    if (tokenizer->bpe.is_byte_level) {
        return unsupported(reader, pointer, "ByteLevel must be the last pre-tokenizer, but after it comes",
                           type);
    }
    if (strcmp(type, "ByteLevel") == 0) {
        return read_byte_level(reader, object, pointer);
    }
    if (strcmp(type, "Metaspace") == 0) {
        if (!read_metaspace(reader, object, pointer, &step)) {
            return false;
        }
    } else if (strcmp(type, "Split") == 0) {
        if (!read_split(reader, object, pointer, &step)) {
            return false;
        }
    } else if (strcmp(type, "Digits") == 0) {
        bool is_individual = false;
        if (!find_bool(reader, object, pointer, "individual_digits", &is_individual)) {
            return false;
        }
        step.kind = SPLIT_REGEX;
        step.pattern = is_individual ? SPLIT_PATTERN_DIGIT : SPLIT_PATTERN_DIGITS;
    } else {
        return unsupported(reader, pointer, "unsupported pre-tokenizer", type);
    }
    tokenizer->steps[tokenizer->step_count++] =
        step; /* read_sequence allows 16; ByteLevel checks for its two */
    return true;
}

/* ---- post-processor -------------------------------------------------------------------------------------
 */

static bool template_add(struct reader *reader, const json_t *special_tokens, const char *name, bool is_front)
{
    struct tokenizer *tokenizer = reader->tokenizer;
    const json_t *ids = json_object_get(json_object_get(special_tokens, name), "ids");
    int32_t *list = is_front ? tokenizer->front_tokens : tokenizer->back_tokens;
    size_t *count = is_front ? &tokenizer->front_count : &tokenizer->back_count;
    if (!json_is_array(ids)) {
        return fail_spec(reader, ERROR_CORRUPT_FILE, "/post_processor/special_tokens", "no ids for", name);
    }
    for (size_t i = 0; i < json_array_size(ids); i++) {
        json_int_t id = json_integer_value(json_array_get(ids, i));
        if (!json_is_integer(json_array_get(ids, i)) || id < 0 || id >= (json_int_t)TOKENIZER_IDS_MAX ||
            *count == TOKENIZER_TEMPLATE_MAX) {
            return fail_spec(reader, ERROR_CORRUPT_FILE, "/post_processor/special_tokens", "bad ids for",
                             name);
        }
        list[(*count)++] = (int32_t)id;
    }
    return true;
}

static bool read_template(struct reader *reader, const json_t *object, const char *pointer)
{
    const json_t *single = json_object_get(object, "single");
    bool is_front = true;
    size_t sequence_count = 0;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *item = json_array_get(single, i);
        const json_t *special = json_object_get(item, "SpecialToken");
        if (json_object_get(item, "Sequence") != NULL) {
            sequence_count++;
            is_front = false;
            continue;
        }
        const char *name = json_string_value(json_object_get(special, "id"));
        if (name == NULL) {
            return fail_spec(reader, ERROR_CORRUPT_FILE, pointer,
                             "a template item that is neither Sequence nor SpecialToken", NULL);
        }
        if (!template_add(reader, json_object_get(object, "special_tokens"), name, is_front)) {
            return false;
        }
    }
    return sequence_count == 1 ? true
                               : unsupported(reader, pointer, "a template needs exactly one Sequence", NULL);
}

static bool read_post_processor(struct reader *reader, const json_t *object, const char *type,
                                const char *pointer)
{
    if (strcmp(type, "ByteLevel") == 0) {
        return true; /* it trims offsets, which we do not keep */
    }
    if (strcmp(type, "TemplateProcessing") != 0) {
        return unsupported(reader, pointer, "unsupported post-processor", type);
    }
    if (reader->tokenizer->front_count + reader->tokenizer->back_count > 0) {
        return unsupported(reader, pointer, "two templates", NULL);
    }
    return read_template(reader, object, pointer);
}

/* ---- decoder --------------------------------------------------------------------------------------------
 */

static bool read_strip(struct reader *reader, const json_t *object, const char *pointer,
                       struct decoder_step *step, const char **content)
{
    int64_t start = 0, stop = 0;
    step->kind = DECODER_STRIP;
    if (!get_text(reader, object, pointer, "content", content) ||
        !get_integer(reader, object, pointer, "start", 1024, &start) ||
        !get_integer(reader, object, pointer, "stop", 1024, &stop)) {
        return false;
    }
    if (**content == '\0' || utf8_length(*content) != strlen(*content)) {
        return unsupported(reader, pointer, "content must be one character, not", *content);
    }
    step->start = (size_t)start;
    step->stop = (size_t)stop;
    return true;
}

static bool read_decoder(struct reader *reader, const json_t *object, const char *type, const char *pointer)
{
    struct tokenizer *tokenizer = reader->tokenizer;
    struct decoder_step step = {0};
    const char *pattern = NULL, *content = NULL;
    bool ok = true;
    if (strcmp(type, "ByteLevel") == 0) {
        step.kind = DECODER_BYTE_LEVEL;
    } else if (strcmp(type, "ByteFallback") == 0) {
        step.kind = DECODER_BYTE_FALLBACK;
    } else if (strcmp(type, "Fuse") == 0) {
        step.kind = DECODER_FUSE;
    } else if (strcmp(type, "Strip") == 0) {
        ok = read_strip(reader, object, pointer, &step, &content);
    } else if (strcmp(type, "Replace") == 0) {
        step.kind = DECODER_REPLACE;
        ok = read_string_pattern(reader, object, pointer, &pattern) &&
             get_text(reader, object, pointer, "content", &content);
    } else if (strcmp(type, "Metaspace") == 0) {
        struct split_step metaspace = {0};
        ok = read_metaspace(reader, object, pointer, &metaspace);
        step.kind = DECODER_METASPACE;
        step.drops_first = metaspace.prepend != PREPEND_NEVER;
        step.pattern = metaspace.replacement;
    } else {
        ok = unsupported(reader, pointer, "unsupported decoder", type);
    }
    if (!ok) {
        return false;
    }
    step.pattern = step.pattern != NULL ? step.pattern : memory_copy_text(pattern);
    step.content = memory_copy_text(content);
    tokenizer->decoders[tokenizer->decoder_count++] = step; /* read_sequence allows 16 */
    return true;
}

/* ---- added tokens ---------------------------------------------------------------------------------------
 */

static bool read_added_token(struct reader *reader, const json_t *item, const char *pointer,
                             struct added_token *token)
{
    const char *content = NULL;
    int64_t id = 0;
    token->is_normalized = true;
    if (!json_is_object(item)) {
        return fail_spec(reader, ERROR_WRONG_TYPE, pointer, "an object is needed", NULL);
    }
    if (!get_text(reader, item, pointer, "content", &content) ||
        !get_integer(reader, item, pointer, "id", TOKENIZER_IDS_MAX - 1, &id) ||
        !find_bool(reader, item, pointer, "special", &token->is_special) ||
        !find_bool(reader, item, pointer, "single_word", &token->is_single_word) ||
        !find_bool(reader, item, pointer, "lstrip", &token->strips_left) ||
        !find_bool(reader, item, pointer, "rstrip", &token->strips_right) ||
        !find_bool(reader, item, pointer, "normalized", &token->is_normalized)) {
        return false;
    }
    token->length = strlen(content);
    token->id = (int32_t)id;
    int32_t known = bpe_find(&reader->tokenizer->bpe, content, token->length);
    if (known >= 0 && known != token->id) {
        return fail_spec(reader, ERROR_CORRUPT_FILE, pointer, "another id than in the vocabulary for",
                         content);
    }
    token->content = memory_copy_text(content);
    return true;
}

static bool read_added(struct reader *reader, const json_t *json)
{
    struct tokenizer *tokenizer = reader->tokenizer;
    const json_t *list = json_object_get(json, "added_tokens");
    size_t count = json_array_size(list);
    if (list != NULL && !json_is_null(list) && (!json_is_array(list) || count > TOKENIZER_ADDED_MAX)) {
        return fail_spec(reader, ERROR_WRONG_TYPE, "/added_tokens", "a list of at most 65536 is needed",
                         NULL);
    }
    tokenizer->added = memory_create(count > 0 ? count : 1, sizeof *tokenizer->added);
    for (size_t i = 0; i < count; i++) {
        char pointer[64];
        (void)snprintf(pointer, sizeof pointer, "/added_tokens/%zu", i);
        struct added_token token = {0};
        if (!read_added_token(reader, json_array_get(list, i), pointer, &token)) {
            return false;
        }
        tokenizer->added[tokenizer->added_count++] = token;
    }
    return true;
}

/* ---- the whole ------------------------------------------------------------------------------------------
 */

static bool is_absent_or_empty(const json_t *model, const char *name)
{
    const json_t *value = json_object_get(model, name);
    return value == NULL || json_is_null(value) || (json_is_string(value) && json_string_length(value) == 0);
}

static bool read_model(struct reader *reader, const json_t *json)
{
    struct bpe *bpe = &reader->tokenizer->bpe;
    const json_t *model = json_object_get(json, "model");
    const char *type = "BPE", *unk = NULL;
    if (!json_is_object(model)) {
        return fail_spec(reader, ERROR_CORRUPT_FILE, "/model", "no model", NULL);
    }
    if (!find_text(reader, model, "/model", "type", &type)) {
        return false;
    }
    if (strcmp(type, "BPE") != 0) {
        return unsupported(reader, "/model/type", "unsupported model", type);
    }
    if (bpe->entry_count == 0) {
        return fail_spec(reader, ERROR_CORRUPT_FILE, "/model/vocab", "no vocabulary", NULL);
    }
    const json_t *dropout = json_object_get(model, "dropout");
    if (json_is_number(dropout) && json_number_value(dropout) != 0.0) {
        return unsupported(reader, "/model/dropout", "dropout makes ids random", NULL);
    }
    if (!is_absent_or_empty(model, "continuing_subword_prefix")) {
        return unsupported(reader, "/model/continuing_subword_prefix", "unsupported prefix", NULL);
    }
    if (!is_absent_or_empty(model, "end_of_word_suffix")) {
        return unsupported(reader, "/model/end_of_word_suffix", "unsupported suffix", NULL);
    }
    if ((!json_is_null(json_object_get(model, "unk_token")) &&
         !find_text(reader, model, "/model", "unk_token", &unk)) ||
        !find_bool(reader, model, "/model", "fuse_unk", &bpe->fuse_unk) ||
        !find_bool(reader, model, "/model", "byte_fallback", &bpe->byte_fallback) ||
        !find_bool(reader, model, "/model", "ignore_merges", &bpe->ignore_merges)) {
        return false;
    }
    bpe->unk_id = unk != NULL ? bpe_find(bpe, unk, strlen(unk)) : -1;
    bpe->unk_content = unk != NULL && *unk != '\0' ? memory_copy_text(unk) : NULL;
    if (unk != NULL && *unk != '\0' && bpe->unk_id < 0) {
        return fail_spec(reader, ERROR_CORRUPT_FILE, "/model/unk_token", "not in the vocabulary:", unk);
    }
    if (bpe->byte_fallback && bpe->is_byte_level) {
        return unsupported(reader, "/model/byte_fallback", "byte fallback together with ByteLevel", NULL);
    }
    return true;
}

bool tokenizer_spec_read(const json_t *json, struct tokenizer *tokenizer, struct error *error)
{
    struct reader reader = {.tokenizer = tokenizer, .error = error};
    return read_sequence(&reader, json_object_get(json, "normalizer"), "/normalizer", "normalizers",
                         read_normalizer) &&
           read_sequence(&reader, json_object_get(json, "pre_tokenizer"), "/pre_tokenizer", "pretokenizers",
                         read_pre_tokenizer) &&
           read_model(&reader, json) &&
           read_sequence(&reader, json_object_get(json, "post_processor"), "/post_processor", "processors",
                         read_post_processor) &&
           read_sequence(&reader, json_object_get(json, "decoder"), "/decoder", "decoders", read_decoder) &&
           read_added(&reader, json);
}

void tokenizer_spec_finish(struct tokenizer *tokenizer)
{
    for (size_t i = 0; i < tokenizer->normalizer_count; i++) {
        free(tokenizer->normalizers[i].pattern);
        free(tokenizer->normalizers[i].content);
    }
    for (size_t i = 0; i < tokenizer->step_count; i++) {
        free(tokenizer->steps[i].replacement);
    }
    for (size_t i = 0; i < tokenizer->decoder_count; i++) {
        free(tokenizer->decoders[i].pattern);
        free(tokenizer->decoders[i].content);
    }
    for (size_t i = 0; i < tokenizer->added_count; i++) {
        free(tokenizer->added[i].content);
        text_finish(&tokenizer->added[i].decoded);
    }
    free(tokenizer->added);
}
