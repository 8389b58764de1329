/*
 * workers/model/tokenizer_spec.c: the pipeline of tokenizer.json (normalizers and pre-tokenizers:
 * tokenizer_spec_steps.c). Every part is either understood in full or
 * refused with UNSUPPORTED and its JSON pointer: a tokenizer that is almost right gives numbers that are
 * wrong.
 */
#include "workers/model/tokenizer_spec.h"
#include "base/memory.h"

#include <stdio.h>
#include <string.h>

bool spec_fail(struct spec_reader *reader, enum error_code code, const char *pointer, const char *what,
               const char *value)
{
    char field[sizeof((struct error *)0)->field];
    (void)snprintf(field, sizeof field, "tokenizer.json%s", pointer);
    return error_set_field(reader->error, code, field, "tokenizer.json%s: %s%s%s%s", pointer, what,
                           value != NULL ? " \"" : "", value != NULL ? value : "", value != NULL ? "\"" : "");
}

bool spec_unsupported(struct spec_reader *reader, const char *pointer, const char *what, const char *value)
{
    return spec_fail(reader, ERROR_UNSUPPORTED, pointer, what, value);
}

/* json_find_* / json_get_* with our field and a readable message. */
bool spec_find_bool(struct spec_reader *reader, const json_t *object, const char *pointer, const char *name,
                    bool *value)
{
    if (!json_find_bool(object, pointer, name, value, reader->error)) {
        return error_prefix(reader->error, "tokenizer.json: ");
    }
    return true;
}

bool spec_find_text(struct spec_reader *reader, const json_t *object, const char *pointer, const char *name,
                    const char **text)
{
    if (!json_find_text(object, pointer, name, text, reader->error)) {
        return error_prefix(reader->error, "tokenizer.json: ");
    }
    return true;
}

bool spec_get_text(struct spec_reader *reader, const json_t *object, const char *pointer, const char *name,
                   const char **text)
{
    if (!json_get_text(object, pointer, name, text, reader->error)) {
        return error_prefix(reader->error, "tokenizer.json: ");
    }
    return true;
}

bool spec_get_integer(struct spec_reader *reader, const json_t *object, const char *pointer, const char *name,
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
read_sequence(struct spec_reader *reader, const json_t *part, const char *pointer, const char *list_name,
              bool (*read_one)(struct spec_reader *, const json_t *, const char *type, const char *pointer))
{
    if (part == NULL || json_is_null(part)) {
        return true;
    }
    const char *type = NULL;
    if (!json_is_object(part)) {
        return spec_fail(reader, ERROR_WRONG_TYPE, pointer, "an object is needed", NULL);
    }
    if (!spec_get_text(reader, part, pointer, "type", &type)) {
        return false;
    }
    if (strcmp(type, "Sequence") != 0) {
        return read_one(reader, part, type, pointer);
    }
    json_t *list = json_object_get(part, list_name);
    if (!json_is_array(list) || json_array_size(list) > TOKENIZER_STEPS_MAX) {
        return spec_fail(reader, ERROR_WRONG_TYPE, pointer, "a list of at most 16 is needed in", list_name);
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        char inner[96];
        (void)snprintf(inner, sizeof inner, "%s/%s/%zu", pointer, list_name, i);
        const json_t *item = json_array_get(list, i);
        const char *item_type = NULL;
        if (!json_is_object(item)) {
            return spec_fail(reader, ERROR_WRONG_TYPE, inner, "an object is needed", NULL);
        }
        if (!spec_get_text(reader, item, inner, "type", &item_type) ||
            !read_one(reader, item, item_type, inner)) {
            return false;
        }
    }
    return true;
}

/* ---- post-processor -------------------------------------------------------------------------------------
 */

static bool template_add(struct spec_reader *reader, const json_t *special_tokens, const char *name,
                         bool is_front)
{
    struct tokenizer *tokenizer = reader->tokenizer;
    const json_t *ids = json_object_get(json_object_get(special_tokens, name), "ids");
    int32_t *list = is_front ? tokenizer->front_tokens : tokenizer->back_tokens;
    size_t *count = is_front ? &tokenizer->front_count : &tokenizer->back_count;
    if (!json_is_array(ids)) {
        return spec_fail(reader, ERROR_CORRUPT_FILE, "/post_processor/special_tokens", "no ids for", name);
    }
    for (size_t i = 0; i < json_array_size(ids); i++) {
        json_int_t id = json_integer_value(json_array_get(ids, i));
        if (!json_is_integer(json_array_get(ids, i)) || id < 0 || id >= (json_int_t)TOKENIZER_IDS_MAX ||
            *count == TOKENIZER_TEMPLATE_MAX) {
            return spec_fail(reader, ERROR_CORRUPT_FILE, "/post_processor/special_tokens", "bad ids for",
                             name);
        }
        list[(*count)++] = (int32_t)id;
    }
    return true;
}

static bool read_template(struct spec_reader *reader, const json_t *object, const char *pointer)
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
            return spec_fail(reader, ERROR_CORRUPT_FILE, pointer,
                             "a template item that is neither Sequence nor SpecialToken", NULL);
        }
        if (!template_add(reader, json_object_get(object, "special_tokens"), name, is_front)) {
            return false;
        }
    }
    return sequence_count == 1
               ? true
               : spec_unsupported(reader, pointer, "a template needs exactly one Sequence", NULL);
}

/* "cls": ["<s>", 0] */
static bool read_pair(struct spec_reader *reader, const json_t *object, const char *pointer, const char *name,
                      bool is_front)
{
    struct tokenizer *tokenizer = reader->tokenizer;
    const json_t *value = json_array_get(json_object_get(object, name), 1);
    json_int_t id = json_integer_value(value);
    if (!json_is_integer(value) || id < 0 || id >= (json_int_t)TOKENIZER_IDS_MAX) {
        return spec_fail(reader, ERROR_CORRUPT_FILE, pointer, "no token and id in", name);
    }
    int32_t *list = is_front ? tokenizer->front_tokens : tokenizer->back_tokens;
    size_t *count = is_front ? &tokenizer->front_count : &tokenizer->back_count;
    list[(*count)++] = (int32_t)id;
    return true;
}

static bool read_post_processor(struct spec_reader *reader, const json_t *object, const char *type,
                                const char *pointer)
{
    if (strcmp(type, "ByteLevel") == 0) {
        return true; /* it trims offsets, which we do not keep */
    }
    bool is_template = strcmp(type, "TemplateProcessing") == 0;
    if (!is_template && strcmp(type, "BertProcessing") != 0 && strcmp(type, "RobertaProcessing") != 0) {
        return spec_unsupported(reader, pointer, "unsupported post-processor", type);
    }
    if (reader->tokenizer->front_count + reader->tokenizer->back_count > 0) {
        return spec_unsupported(reader, pointer, "two templates", NULL);
    }
    return is_template ? read_template(reader, object, pointer)
                       : read_pair(reader, object, pointer, "cls", true) &&
                             read_pair(reader, object, pointer, "sep", false);
}

/* ---- decoder --------------------------------------------------------------------------------------------
 */

static bool read_strip(struct spec_reader *reader, const json_t *object, const char *pointer,
                       struct decoder_step *step, const char **content)
{
    int64_t start = 0, stop = 0;
    step->kind = DECODER_STRIP;
    if (!spec_get_text(reader, object, pointer, "content", content) ||
        !spec_get_integer(reader, object, pointer, "start", 1024, &start) ||
        !spec_get_integer(reader, object, pointer, "stop", 1024, &stop)) {
        return false;
    }
    if (**content == '\0' || utf8_length(*content) != strlen(*content)) {
        return spec_unsupported(reader, pointer, "content must be one character, not", *content);
    }
    step->start = (size_t)start;
    step->stop = (size_t)stop;
    return true;
}

static bool read_decoder(struct spec_reader *reader, const json_t *object, const char *type,
                         const char *pointer)
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
        ok = spec_read_string_pattern(reader, object, pointer, &pattern) &&
             spec_get_text(reader, object, pointer, "content", &content);
    } else if (strcmp(type, "Metaspace") == 0) {
        struct split_step metaspace = {0};
        ok = spec_read_metaspace(reader, object, pointer, &metaspace);
        step.kind = DECODER_METASPACE;
        step.drops_first = metaspace.prepend != PREPEND_NEVER;
        step.pattern = metaspace.replacement;
    } else if (strcmp(type, "WordPiece") == 0) {
        step.kind = DECODER_WORDPIECE;
        step.cleans_up = true;
        pattern = "##";
        ok = spec_find_text(reader, object, pointer, "prefix", &pattern) &&
             spec_find_bool(reader, object, pointer, "cleanup", &step.cleans_up);
    } else {
        ok = spec_unsupported(reader, pointer, "unsupported decoder", type);
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

static bool read_added_token(struct spec_reader *reader, const json_t *item, const char *pointer,
                             struct added_token *token)
{
    const char *content = NULL;
    int64_t id = 0;
    token->is_normalized = true;
    if (!json_is_object(item)) {
        return spec_fail(reader, ERROR_WRONG_TYPE, pointer, "an object is needed", NULL);
    }
    if (!spec_get_text(reader, item, pointer, "content", &content) ||
        !spec_get_integer(reader, item, pointer, "id", TOKENIZER_IDS_MAX - 1, &id) ||
        !spec_find_bool(reader, item, pointer, "special", &token->is_special) ||
        !spec_find_bool(reader, item, pointer, "single_word", &token->is_single_word) ||
        !spec_find_bool(reader, item, pointer, "lstrip", &token->strips_left) ||
        !spec_find_bool(reader, item, pointer, "rstrip", &token->strips_right) ||
        !spec_find_bool(reader, item, pointer, "normalized", &token->is_normalized)) {
        return false;
    }
    token->length = strlen(content);
    token->id = (int32_t)id;
    int32_t known = vocab_find(&reader->tokenizer->vocab, content, token->length);
    if (known >= 0 && known != token->id) {
        return spec_fail(reader, ERROR_CORRUPT_FILE, pointer, "another id than in the vocabulary for",
                         content);
    }
    token->content = memory_copy_text(content);
    return true;
}

static bool read_added(struct spec_reader *reader, const json_t *json)
{
    struct tokenizer *tokenizer = reader->tokenizer;
    const json_t *list = json_object_get(json, "added_tokens");
    size_t count = json_array_size(list);
    if (list != NULL && !json_is_null(list) && (!json_is_array(list) || count > TOKENIZER_ADDED_MAX)) {
        return spec_fail(reader, ERROR_WRONG_TYPE, "/added_tokens", "a list of at most 65536 is needed",
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

static bool read_bpe(struct spec_reader *reader, const json_t *model, const char *unk)
{
    struct bpe *bpe = &reader->tokenizer->bpe;
    const json_t *dropout = json_object_get(model, "dropout");
    bpe->vocab = &reader->tokenizer->vocab;
    if (json_is_number(dropout) && json_number_value(dropout) != 0.0) {
        return spec_unsupported(reader, "/model/dropout", "dropout makes ids random", NULL);
    }
    if (!is_absent_or_empty(model, "continuing_subword_prefix")) {
        return spec_unsupported(reader, "/model/continuing_subword_prefix", "unsupported prefix", NULL);
    }
    if (!is_absent_or_empty(model, "end_of_word_suffix")) {
        return spec_unsupported(reader, "/model/end_of_word_suffix", "unsupported suffix", NULL);
    }
    if (!spec_find_bool(reader, model, "/model", "fuse_unk", &bpe->fuse_unk) ||
        !spec_find_bool(reader, model, "/model", "byte_fallback", &bpe->byte_fallback) ||
        !spec_find_bool(reader, model, "/model", "ignore_merges", &bpe->ignore_merges)) {
        return false;
    }
    bpe->unk_id = unk != NULL ? vocab_find(bpe->vocab, unk, strlen(unk)) : -1;
    bpe->unk_content = unk != NULL && *unk != '\0' ? memory_copy_text(unk) : NULL;
    if (unk != NULL && *unk != '\0' && bpe->unk_id < 0) {
        return spec_fail(reader, ERROR_CORRUPT_FILE, "/model/unk_token", "not in the vocabulary:", unk);
    }
    if (bpe->byte_fallback && bpe->is_byte_level) {
        return spec_unsupported(reader, "/model/byte_fallback", "byte fallback together with ByteLevel",
                                NULL);
    }
    return true;
}

static bool read_wordpiece(struct spec_reader *reader, const json_t *model, const char *unk)
{
    struct wordpiece *wordpiece = &reader->tokenizer->wordpiece;
    const struct vocab *vocab = &reader->tokenizer->vocab;
    const char *prefix = "##";
    int64_t word_max = 100;
    if (!spec_find_text(reader, model, "/model", "continuing_subword_prefix", &prefix) ||
        (json_object_get(model, "max_input_chars_per_word") != NULL &&
         !spec_get_integer(reader, model, "/model", "max_input_chars_per_word", TOKENIZER_WORD_MAX,
                           &word_max))) {
        return false;
    }
    unk = unk != NULL ? unk : "[UNK]";
    wordpiece->unk_id = vocab_find(vocab, unk, strlen(unk));
    wordpiece->word_characters_max = (size_t)word_max;
    if (wordpiece->unk_id < 0) {
        return spec_fail(reader, ERROR_CORRUPT_FILE, "/model/unk_token", "not in the vocabulary:", unk);
    }
    return wordpiece_prepare(wordpiece, vocab, prefix, reader->error);
}

static bool read_unigram(struct spec_reader *reader, const json_t *model)
{
    struct unigram *unigram = &reader->tokenizer->unigram;
    const struct vocab *vocab = &reader->tokenizer->vocab;
    int64_t unk_id = 0;
    bool falls_back = false;
    if (!json_is_integer(json_object_get(model, "unk_id"))) {
        return spec_unsupported(reader, "/model/unk_id", "Unigram without an unknown token", NULL);
    }
    if (!spec_get_integer(reader, model, "/model", "unk_id", (int64_t)vocab->entry_count - 1, &unk_id) ||
        !spec_find_bool(reader, model, "/model", "byte_fallback", &falls_back)) {
        return false;
    }
    unigram->unk_id = (int32_t)unk_id;
    return unigram_prepare(unigram, vocab, falls_back, reader->error);
}

static bool read_model(struct spec_reader *reader, const json_t *json)
{
    struct tokenizer *tokenizer = reader->tokenizer;
    const json_t *model = json_object_get(json, "model");
    const char *type = "BPE", *unk = NULL;
    if (!json_is_object(model)) {
        return spec_fail(reader, ERROR_CORRUPT_FILE, "/model", "no model", NULL);
    }
    if (!spec_find_text(reader, model, "/model", "type", &type)) {
        return false;
    }
    bool is_bpe = strcmp(type, "BPE") == 0, is_unigram = strcmp(type, "Unigram") == 0;
    if (!is_bpe && !is_unigram && strcmp(type, "WordPiece") != 0) {
        return spec_unsupported(reader, "/model/type", "unsupported model", type);
    }
    tokenizer->kind = is_bpe ? MODEL_BPE : is_unigram ? MODEL_UNIGRAM : MODEL_WORDPIECE;
    if (tokenizer->vocab.entry_count == 0 || (tokenizer->vocab.scores != NULL) != is_unigram) {
        return spec_fail(reader, ERROR_CORRUPT_FILE, "/model/vocab", "no vocabulary for the model", type);
    }
    if (!is_bpe && tokenizer->bpe.is_byte_level) {
        return spec_unsupported(reader, "/pre_tokenizer", "ByteLevel together with the model", type);
    }
    if (!json_is_null(json_object_get(model, "unk_token")) &&
        !spec_find_text(reader, model, "/model", "unk_token", &unk)) {
        return false;
    }
    return is_bpe       ? read_bpe(reader, model, unk)
           : is_unigram ? read_unigram(reader, model)
                        : read_wordpiece(reader, model, unk);
}

bool tokenizer_spec_read(const json_t *json, struct tokenizer *tokenizer, struct error *error)
{
    struct spec_reader reader = {.tokenizer = tokenizer, .error = error};
    return read_sequence(&reader, json_object_get(json, "normalizer"), "/normalizer", "normalizers",
                         spec_read_normalizer) &&
           read_sequence(&reader, json_object_get(json, "pre_tokenizer"), "/pre_tokenizer", "pretokenizers",
                         spec_read_pre_tokenizer) &&
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
        charsmap_destroy(tokenizer->normalizers[i].charsmap);
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
