/*
 * workers/export/gguf_vocabulary.c: tokenizer.json as tokenizer.ggml.*: byte-level BPE whose pre-tokenizer llama.cpp knows by
 * a name, and SentencePiece BPE with byte fallback. For the latter llama.cpp wants scores instead of merges: a token's
 * score is minus the rank of the first merge that makes it, so that the best merge has the best score.
 */
#include "workers/export/gguf_internal.h"

#include "base/memory.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_LIMIT_BYTES ((size_t)64 << 20)
#define META             "\xe2\x96\x81" /* U+2581, SentencePiece's space */

enum token_type {
    TOKEN_NORMAL = 1,
    TOKEN_UNKNOWN = 2,
    TOKEN_CONTROL = 3,
    TOKEN_USER_DEFINED = 4,
    TOKEN_UNUSED = 5,
    TOKEN_BYTE = 6
};

struct vocabulary {
    const json_t *root, *model, *vocab; /* of tokenizer.json */
    struct gguf_pairs *pairs;
    size_t count;        /* of tokens, padding included */
    const char **tokens; /* [count], borrowed from root; NULL: none has this id. Owned list */
    unsigned char *types;
    bool is_byte_level, is_nfc, splits_digits, adds_space;
    const char *pattern;    /* of a Split; NULL: none */
    json_int_t front, back; /* what the post-processor adds; -1: nothing */
    struct error *error;
};

static bool refuse(const struct vocabulary *vocabulary, const char *pointer, const char *what)
{
    char field[128];
    (void)snprintf(field, sizeof field, "tokenizer.json%s", pointer);
    return error_set_field(vocabulary->error, ERROR_UNSUPPORTED, field,
                           "tokenizer.json%s: %s, which GGUF cannot say", pointer, what);
}

/* The parts of a pipeline step: itself, or its list where it is a Sequence. */
static size_t part_count(const json_t *step, const char *list_name)
{
    const json_t *list = json_object_get(step, list_name);
    return step == NULL || json_is_null(step) ? 0 : json_is_array(list) ? json_array_size(list) : 1;
}

static const json_t *part_at(const json_t *step, const char *list_name, size_t index)
{
    const json_t *list = json_object_get(step, list_name);
    return json_is_array(list) ? json_array_get(list, index) : step;
}

static bool is_part(const json_t *part, const char *type)
{
    const char *name = json_string_value(json_object_get(part, "type"));
    return name != NULL && strcmp(name, type) == 0;
}

/* ---- the pipeline ---------------------------------------------------------------------------------------- */

static bool read_normalizer(struct vocabulary *vocabulary)
{
    const json_t *step = json_object_get(vocabulary->root, "normalizer");
    for (size_t i = 0; i < part_count(step, "normalizers"); i++) {
        const json_t *part = part_at(step, "normalizers", i);
        if (is_part(part, "NFC")) {
            vocabulary->is_nfc = true;
        } else if (is_part(part, "Prepend")) {
            vocabulary->adds_space = true;
        } else if (!is_part(part, "Replace")) {
            return refuse(vocabulary, "/normalizer", "a normalizer");
        }
    }
    return true;
}

static bool read_metaspace(struct vocabulary *vocabulary, const json_t *part)
{
    const char *scheme = json_string_value(json_object_get(part, "prepend_scheme"));
    bool adds = !json_is_false(json_object_get(part, "add_prefix_space"));
    vocabulary->adds_space = scheme != NULL ? strcmp(scheme, "never") != 0 : adds;
    return true;
}

static bool read_pre_tokenizer(struct vocabulary *vocabulary)
{
    const json_t *step = json_object_get(vocabulary->root, "pre_tokenizer");
    for (size_t i = 0; i < part_count(step, "pretokenizers"); i++) {
        const json_t *part = part_at(step, "pretokenizers", i);
        const json_t *pattern = json_object_get(part, "pattern");
        if (is_part(part, "ByteLevel")) {
            vocabulary->is_byte_level = true;
            if (!json_is_false(json_object_get(part, "add_prefix_space"))) {
                return refuse(vocabulary, "/pre_tokenizer", "a space put before byte-level text");
            }
            if (json_is_false(json_object_get(part, "use_regex")) != (vocabulary->pattern != NULL)) {
                return refuse(vocabulary, "/pre_tokenizer", "this pattern");
            }
        } else if (is_part(part, "Digits") && json_is_true(json_object_get(part, "individual_digits"))) {
            vocabulary->splits_digits = true;
        } else if (is_part(part, "Metaspace")) {
            (void)read_metaspace(vocabulary, part);
        } else if (is_part(part, "Split") && json_is_string(json_object_get(pattern, "Regex")) &&
                   vocabulary->pattern == NULL) {
            vocabulary->pattern = json_string_value(json_object_get(pattern, "Regex"));
        } else if (!is_part(part, "Split") || !json_is_string(json_object_get(pattern, "String"))) {
            return refuse(vocabulary, "/pre_tokenizer",
                          "a pre-tokenizer"); /* Gemma's Split by space does nothing */
        }
    }
    return true;
}

/* One token in front at most, and one behind. */
static bool read_template(struct vocabulary *vocabulary, const json_t *part)
{
    const json_t *single = json_object_get(part, "single"), *item = NULL;
    json_int_t *side = &vocabulary->front;
    size_t index = 0;
    json_array_foreach(single, index, item)
    {
        if (json_object_get(item, "Sequence") != NULL) {
            side = &vocabulary->back;
            continue;
        }
        const char *name = json_string_value(json_object_get(json_object_get(item, "SpecialToken"), "id"));
        const json_t *special =
            json_object_get(json_object_get(part, "special_tokens"), name != NULL ? name : "");
        const json_t *ids = json_object_get(special, "ids");
        if (json_array_size(ids) != 1 || *side >= 0 || !json_is_integer(json_array_get(ids, 0))) {
            return refuse(vocabulary, "/post_processor", "more than one token on a side");
        }
        *side = json_integer_value(json_array_get(ids, 0));
    }
    return true;
}

static bool read_post_processor(struct vocabulary *vocabulary)
{
    const json_t *step = json_object_get(vocabulary->root, "post_processor");
    for (size_t i = 0; i < part_count(step, "processors"); i++) {
        const json_t *part = part_at(step, "processors", i);
        if (is_part(part, "TemplateProcessing")) {
            if (!read_template(vocabulary, part)) {
                return false;
            }
        } else if (!is_part(part, "ByteLevel")) {
            return refuse(vocabulary, "/post_processor", "a post-processor");
        }
    }
    return true;
}

/* ---- tokens ---------------------------------------------------------------------------------------------- */

static bool set_token(struct vocabulary *vocabulary, const json_t *id, const char *content,
                      unsigned char type)
{
    if (!json_is_integer(id) || json_integer_value(id) < 0 ||
        json_integer_value(id) >= (json_int_t)vocabulary->count) {
        return error_set_field(vocabulary->error, ERROR_TOKENIZER_MISMATCH, "tokenizer.json",
                               "tokenizer.json: token \"%.60s\" lies outside the model's vocabulary of %zu",
                               content, vocabulary->count);
    }
    vocabulary->tokens[json_integer_value(id)] = content;
    vocabulary->types[json_integer_value(id)] = type;
    return true;
}

static bool is_byte_token(const char *content)
{
    unsigned byte = 0;
    int length = 0;
    return strlen(content) == 6 && sscanf(content, "<0x%2X>%n", &byte, &length) == 1 && length == 6;
}

/* jansson's iterators take a mutable object, though they change nothing. */
static json_t *iterable(const json_t *json)
{
    union {
        const json_t *from;
        json_t *to;
    } pointer = {json};
    return pointer.to;
}

static bool collect_tokens(struct vocabulary *vocabulary)
{
    const char *unknown = json_string_value(json_object_get(vocabulary->model, "unk_token"));
    json_t *vocab = iterable(vocabulary->vocab);
    for (void *at = json_object_iter(vocab); at != NULL; at = json_object_iter_next(vocab, at)) {
        const char *content = json_object_iter_key(at);
        bool is_byte = !vocabulary->is_byte_level && is_byte_token(content);
        if (!set_token(vocabulary, json_object_iter_value(at), content,
                       is_byte ? TOKEN_BYTE : TOKEN_NORMAL)) {
            return false;
        }
    }
    const json_t *added = json_object_get(vocabulary->root, "added_tokens"), *item = NULL;
    size_t index = 0;
    json_array_foreach(added, index, item)
    {
        const char *content = json_string_value(json_object_get(item, "content"));
        bool is_special = json_is_true(json_object_get(item, "special"));
        if (content == NULL) {
            return refuse(vocabulary, "/added_tokens", "a token without content");
        }
        bool is_unknown = !vocabulary->is_byte_level && unknown != NULL && strcmp(content, unknown) == 0;
        if (!set_token(vocabulary, json_object_get(item, "id"), content,
                       is_unknown   ? TOKEN_UNKNOWN
                       : is_special ? TOKEN_CONTROL
                                    : TOKEN_USER_DEFINED)) {
            return false;
        }
    }
    const json_t *id = unknown != NULL ? json_object_get(vocab, unknown) : NULL;
    return id == NULL || vocabulary->is_byte_level || set_token(vocabulary, id, unknown, TOKEN_UNKNOWN);
}

static void put_tokens(const struct vocabulary *vocabulary)
{
    gguf_pairs_begin_list(vocabulary->pairs, "tokenizer.ggml.tokens", GGUF_TEXT, vocabulary->count);
    for (size_t i = 0; i < vocabulary->count; i++) {
        char padding[32];
        (void)snprintf(padding, sizeof padding, "[PAD%zu]", i);
        const char *content = vocabulary->tokens[i] != NULL ? vocabulary->tokens[i] : padding;
        gguf_append_text(&vocabulary->pairs->bytes, content, strlen(content));
    }
    gguf_pairs_begin_list(vocabulary->pairs, "tokenizer.ggml.token_type", GGUF_I32, vocabulary->count);
    for (size_t i = 0; i < vocabulary->count; i++) {
        gguf_append_integer(&vocabulary->pairs->bytes,
                            vocabulary->tokens[i] != NULL ? vocabulary->types[i] : TOKEN_UNUSED, 4);
    }
}

/* The two sides of a merge, "left right" or ["left", "right"], with one space between. */
static bool format_merge(const json_t *merge, struct text *text)
{
    const char *whole = json_string_value(merge), *left = json_string_value(json_array_get(merge, 0)),
               *right = json_string_value(json_array_get(merge, 1));
    text_clear(text);
    if (whole != NULL) {
        text_append(text, whole);
    } else if (left != NULL && right != NULL) {
        text_append_format(text, "%s %s", left, right);
    }
    const char *space = text->length > 0 ? strchr(text->bytes, ' ') : NULL;
    return space != NULL && strchr(space + 1, ' ') == NULL;
}

/* ---- the two kinds --------------------------------------------------------------------------------------- */

static const char *find_pre(const struct vocabulary *vocabulary)
{
    bool ignores = json_is_true(json_object_get(vocabulary->model, "ignore_merges"));
    for (const struct gguf_pre *pre = gguf_pres; pre->name != NULL; pre++) {
        bool is_pattern = pre->pattern == NULL
                              ? vocabulary->pattern == NULL
                              : vocabulary->pattern != NULL && strcmp(pre->pattern, vocabulary->pattern) == 0;
        if (is_pattern && pre->splits_digits == vocabulary->splits_digits &&
            pre->is_nfc == vocabulary->is_nfc && pre->ignores_merges == ignores) {
            return pre->name;
        }
    }
    return NULL;
}

static bool put_byte_level(const struct vocabulary *vocabulary)
{
    const char *pre = find_pre(vocabulary);
    const json_t *merges = json_object_get(vocabulary->model, "merges"), *merge = NULL;
    if (pre == NULL) {
        return refuse(vocabulary, "/pre_tokenizer", "a pattern that llama.cpp has no name for");
    }
    gguf_pairs_put_text(vocabulary->pairs, "tokenizer.ggml.model", "gpt2");
    gguf_pairs_put_text(vocabulary->pairs, "tokenizer.ggml.pre", pre);
    put_tokens(vocabulary);
    FINISHED(text) line = {0};
    size_t index = 0;
    gguf_pairs_begin_list(vocabulary->pairs, "tokenizer.ggml.merges", GGUF_TEXT, json_array_size(merges));
    json_array_foreach(merges, index, merge)
    {
        if (!format_merge(merge, &line)) {
            return refuse(vocabulary, "/model/merges", "a merge with spaces in it");
        }
        gguf_append_text(&vocabulary->pairs->bytes, line.bytes, line.length);
    }
    return true;
}

/* Minus the rank of the first merge that makes the token; what no merge makes comes after all. */
static float *make_scores(const struct vocabulary *vocabulary)
{
    float *scores = memory_create(vocabulary->count, sizeof *scores);
    const json_t *merges = json_object_get(vocabulary->model, "merges"), *merge = NULL;
    size_t index = 0;
    for (size_t i = 0; i < vocabulary->count; i++) {
        scores[i] = vocabulary->types[i] == TOKEN_NORMAL ? -(float)(json_array_size(merges) + i) : 0.0f;
    }
    OWNED_MEMORY unsigned char *is_ranked = memory_create(vocabulary->count, 1);
    FINISHED(text) whole = {0};
    json_array_foreach(merges, index, merge)
    {
        const char *line = json_string_value(merge), *left = json_string_value(json_array_get(merge, 0)),
                   *right = json_string_value(json_array_get(merge, 1));
        const char *space = line != NULL ? strchr(line, ' ') : NULL;
        text_clear(&whole);
        if (space != NULL) {
            text_append_bytes(&whole, line, (size_t)(space - line));
            text_append(&whole, space + 1);
        } else if (left != NULL && right != NULL) {
            text_append(&whole, left);
            text_append(&whole, right);
        }
        const json_t *id = whole.length > 0 ? json_object_get(vocabulary->vocab, whole.bytes) : NULL;
        if (json_is_integer(id) && !is_ranked[json_integer_value(id)]) { /* in range: collect_tokens saw it */
            is_ranked[json_integer_value(id)] = 1;
            scores[json_integer_value(id)] = -(float)index;
        }
    }
    return scores;
}

static bool put_sentencepiece(const struct vocabulary *vocabulary)
{
    if (!json_is_true(json_object_get(vocabulary->model, "byte_fallback")) || vocabulary->pattern != NULL ||
        vocabulary->splits_digits || vocabulary->is_nfc) {
        return refuse(vocabulary, "/model",
                      "neither byte-level BPE nor SentencePiece BPE with byte fallback");
    }
    gguf_pairs_put_text(vocabulary->pairs, "tokenizer.ggml.model", "llama");
    gguf_pairs_put_text(vocabulary->pairs, "tokenizer.ggml.pre", "default");
    gguf_pairs_put_bool(vocabulary->pairs, "tokenizer.ggml.add_space_prefix", vocabulary->adds_space);
    put_tokens(vocabulary);
    OWNED_MEMORY float *scores = make_scores(vocabulary);
    gguf_pairs_begin_list(vocabulary->pairs, "tokenizer.ggml.scores", GGUF_F32, vocabulary->count);
    for (size_t i = 0; i < vocabulary->count; i++) {
        gguf_append_f32(&vocabulary->pairs->bytes, scores[i]);
    }
    return true;
}

/* ---- special tokens -------------------------------------------------------------------------------------- */

/* A token id of config.json, of a list the first; -1: none. */
static json_int_t config_id(const json_t *config, const char *name)
{
    const json_t *value = json_object_get(config, name);
    value = json_is_array(value) ? json_array_get(value, 0) : value;
    return json_is_integer(value) ? json_integer_value(value) : -1;
}

static void put_id(const struct vocabulary *vocabulary, const char *key, json_int_t id)
{
    if (id >= 0 && id < (json_int_t)vocabulary->count) {
        gguf_pairs_put_u32(vocabulary->pairs, key, (uint64_t)id);
    }
}

static void put_special(const struct vocabulary *vocabulary, const json_t *config)
{
    json_int_t bos = config_id(config, "bos_token_id"), eos = config_id(config, "eos_token_id");
    put_id(vocabulary, "tokenizer.ggml.bos_token_id", vocabulary->front >= 0 ? vocabulary->front : bos);
    put_id(vocabulary, "tokenizer.ggml.eos_token_id", vocabulary->back >= 0 ? vocabulary->back : eos);
    put_id(vocabulary, "tokenizer.ggml.padding_token_id", config_id(config, "pad_token_id"));
    for (size_t i = 0; i < vocabulary->count; i++) {
        if (vocabulary->tokens[i] != NULL && vocabulary->types[i] == TOKEN_UNKNOWN) {
            gguf_pairs_put_u32(vocabulary->pairs, "tokenizer.ggml.unknown_token_id", i);
            break;
        }
    }
    gguf_pairs_put_bool(vocabulary->pairs, "tokenizer.ggml.add_bos_token", vocabulary->front >= 0);
    gguf_pairs_put_bool(vocabulary->pairs, "tokenizer.ggml.add_eos_token", vocabulary->back >= 0);
}

/* ---- the whole ------------------------------------------------------------------------------------------- */

static bool write_vocabulary(struct vocabulary *vocabulary, const struct gguf_export *model)
{
    const char *type = json_string_value(json_object_get(vocabulary->model, "type"));
    if ((type != NULL && strcmp(type, "BPE") != 0) || !json_is_object(vocabulary->vocab)) {
        return refuse(vocabulary, "/model", "no BPE model");
    }
    if (!read_normalizer(vocabulary) || !read_pre_tokenizer(vocabulary) || !read_post_processor(vocabulary) ||
        !collect_tokens(vocabulary)) {
        return false;
    }
    if (!(vocabulary->is_byte_level ? put_byte_level(vocabulary) : put_sentencepiece(vocabulary))) {
        return false;
    }
    put_special(vocabulary, model->config);
    if (model->chat_template != NULL) {
        gguf_pairs_put_text(vocabulary->pairs, "tokenizer.chat_template", model->chat_template);
    }
    return true;
}

bool gguf_vocabulary_write(const struct gguf_export *model, uint64_t vocab_size, struct gguf_pairs *pairs,
                           struct error *error)
{
    if (model->tokenizer_json == NULL) {
        gguf_pairs_put_text(pairs, "tokenizer.ggml.model", "none");
        return true;
    }
    JSON_OWNED root = json_parse(model->tokenizer_json, model->tokenizer_count, FILE_LIMIT_BYTES, error);
    if (root == NULL) {
        return error_prefix(error, "tokenizer.json: ");
    }
    struct vocabulary vocabulary = {
        .root = root, .pairs = pairs, .count = (size_t)vocab_size, .front = -1, .back = -1, .error = error};
    vocabulary.model = json_object_get(root, "model");
    vocabulary.vocab = json_object_get(vocabulary.model, "vocab");
    vocabulary.tokens = memory_create(vocabulary.count, sizeof *vocabulary.tokens);
    vocabulary.types = memory_create(vocabulary.count, 1);
    bool is_good = write_vocabulary(&vocabulary, model);
    free(vocabulary.tokens);
    free(vocabulary.types);
    return is_good;
}
