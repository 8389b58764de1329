/*
 * workers/model/gguf_tokenizer.c: tokenizer.ggml.* as tokenizer.json, so that there is one tokenizer in the tree
 * and a GGUF model exports as a Hugging Face folder with its tokenizer.
 *
 *     model gpt2    byte-level BPE; `pre` names the pre-tokenizer, a row of the table below
 *     model llama   SentencePiece's BPE with byte fallback. The file has scores instead of merges: a pair may merge where
 *                   its concatenation is a token, and the best score goes first, which makes it a rank (Gemma ranks by
 *                   the order of tokens, as its converter lost the scores)
 *     model bert    WordPiece. The converter wrote "##ing" as "ing" and "word" as "U+2581 word"; undone here
 *
 * Tokens marked as control or user-defined are added tokens, special or not, and are matched whole.
 */
#include "workers/model/gguf_internal.h"

#include "base/memory.h"
#include "base/text.h"
#include "workers/model/utf8.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TOKENS_MAX      (1u << 21)
#define MERGES_MAX      2000000u
#define TOKEN_MAX_BYTES 1024u
#define META            "\xe2\x96\x81" /* U+2581, SentencePiece's space */

enum token_type { TOKEN_UNKNOWN = 2, TOKEN_CONTROL = 3, TOKEN_USER_DEFINED = 4 };

struct vocabulary {
    const struct gguf *gguf;
    const struct gguf_pair *tokens, *types, *scores, *merges; /* types, scores, merges: NULL where absent */
    struct text *out;
    struct error *error;
};

/* ---- pre-tokenizers of byte-level BPE -------------------------------------------------------------------- */

#define ENDINGS "'s|'t|'re|'ve|'m|'ll|'d"
#define LLAMA3                                                                                               \
    "(?i:" ENDINGS                                                                                           \
    ")|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"              \
    "\\s+(?!\\S)|\\s+"
#define QWEN2                                                                                                \
    "(?i:" ENDINGS ")|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"    \
    "\\s+(?!\\S)|\\s+"
#define TEKKEN                                                                                               \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"              \
    "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*"             \
    "|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

const struct gguf_pre gguf_pres[] = {
    /* Where a pattern has several names, the first is the one that is written. */
    {.name = "gpt-2"},
    {.name = "default"},
    {.name = "phi-2"},
    {.name = "jais"},
    {.name = "olmo", .is_nfc = true},
    {.name = "mpt", .is_nfc = true},
    {.name = "smollm", .splits_digits = true},
    {.name = "starcoder", .splits_digits = true},
    {.name = "refact", .splits_digits = true},
    {.name = "llama-bpe", .pattern = LLAMA3, .ignores_merges = true, .adds_bos = true},
    {.name = "llama3", .pattern = LLAMA3, .ignores_merges = true, .adds_bos = true},
    {.name = "llama-v3", .pattern = LLAMA3, .ignores_merges = true, .adds_bos = true},
    {.name = "falcon3", .pattern = LLAMA3, .ignores_merges = true, .adds_bos = true},
    {.name = "dbrx", .pattern = LLAMA3},
    {.name = "smaug-bpe", .pattern = LLAMA3},
    {.name = "qwen2", .pattern = QWEN2, .is_nfc = true},
    {.name = "tekken", .pattern = TEKKEN, .ignores_merges = true, .adds_bos = true},
    {0},
};

/* ---- pieces ---------------------------------------------------------------------------------------------- */

/* What tokenizer.json can hold: UTF-8 without NUL. */
static bool is_sound(const struct gguf_text *text, size_t max_bytes)
{
    return text->length <= max_bytes && text_is_utf8(text->bytes, text->length) &&
           memchr(text->bytes, '\0', text->length) == NULL;
}

static void append_token(struct text *out, const struct gguf_text *token)
{
    text_append_json(out, token->bytes, token->length);
}

static int64_t type_of(const struct vocabulary *vocabulary, size_t id)
{
    int64_t type = 1;
    return vocabulary->types != NULL && gguf_integer_at(vocabulary->types, id, &type) ? type : 1;
}

static bool is_spaces(const struct gguf_text *token)
{
    for (size_t i = 0; i < token->length; i++) {
        if (token->bytes[i] != ' ') {
            return false;
        }
    }
    return token->length > 0;
}

/* An id under `key`; *ret_id stays where it is absent. */
static bool read_id(const struct vocabulary *vocabulary, const char *key, int64_t *ret_id)
{
    uint64_t id = UINT64_MAX;
    if (!gguf_find_u64(vocabulary->gguf, key, 0, UINT32_MAX, &id, vocabulary->error)) {
        return false;
    }
    if (id == UINT64_MAX || id == UINT32_MAX) { /* absent, or "none" as an unsigned number */
        return true;
    }
    if (id >= vocabulary->tokens->count) {
        return error_set_field(vocabulary->error, ERROR_OUT_OF_RANGE, key,
                               "GGUF key %s is %llu; the vocabulary has %zu tokens", key,
                               (unsigned long long)id, vocabulary->tokens->count);
    }
    *ret_id = (int64_t)id;
    return true;
}

static void append_added(const struct vocabulary *vocabulary, bool is_sentencepiece)
{
    size_t count = 0;
    text_append(vocabulary->out, "\"added_tokens\":[");
    for (size_t id = 0; id < vocabulary->tokens->count; id++) {
        const struct gguf_text *token = &vocabulary->tokens->texts[id];
        int64_t type = type_of(vocabulary, id);
        bool is_special = type == TOKEN_CONTROL || (type == TOKEN_UNKNOWN && is_sentencepiece);
        bool is_added = is_special || type == TOKEN_USER_DEFINED;
        if (!is_added || token->length == 0 || (is_sentencepiece && is_spaces(token))) {
            continue; /* runs of spaces are pieces of Gemma's vocabulary */
        }
        text_append_format(vocabulary->out, "%s{\"id\":%zu,\"content\":", count++ > 0 ? "," : "", id);
        append_token(vocabulary->out, token);
        text_append_format(vocabulary->out,
                           ",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,"
                           "\"special\":%s}",
                           is_special ? "true" : "false");
    }
    text_append(vocabulary->out, "],");
}

static void append_special(struct text *out, const struct vocabulary *vocabulary, int64_t id)
{
    text_append(out, "{\"SpecialToken\":{\"id\":");
    append_token(out, &vocabulary->tokens->texts[id]);
    text_append(out, ",\"type_id\":0}}");
}

static void append_template_list(const struct vocabulary *vocabulary, const char *name, int64_t front,
                                 int64_t back, bool is_pair)
{
    struct text *out = vocabulary->out;
    text_append_format(out, "\"%s\":[", name);
    if (front >= 0) {
        append_special(out, vocabulary, front);
        text_append(out, ",");
    }
    text_append(out, "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}");
    if (back >= 0) {
        text_append(out, ",");
        append_special(out, vocabulary, back);
    }
    if (is_pair) {
        text_append(out, ",{\"Sequence\":{\"id\":\"B\",\"type_id\":1}}");
    }
    text_append(out, "],");
}

/* TemplateProcessing, with what stands before and after a text; -1: nothing. */
static void append_template(const struct vocabulary *vocabulary, int64_t front, int64_t back)
{
    struct text *out = vocabulary->out;
    int64_t ids[] = {front, back};
    size_t count = 0;
    text_append(out, "{\"type\":\"TemplateProcessing\",");
    append_template_list(vocabulary, "single", front, back, false);
    append_template_list(vocabulary, "pair", front, back, true);
    text_append(out, "\"special_tokens\":{");
    for (size_t i = 0; i < 2; i++) {
        if (ids[i] < 0 || (i > 0 && ids[i] == ids[0])) {
            continue;
        }
        text_append(out, count++ > 0 ? "," : "");
        append_token(out, &vocabulary->tokens->texts[ids[i]]);
        text_append(out, ":{\"id\":");
        append_token(out, &vocabulary->tokens->texts[ids[i]]);
        text_append_format(out, ",\"ids\":[%lld],\"tokens\":[", (long long)ids[i]);
        append_token(out, &vocabulary->tokens->texts[ids[i]]);
        text_append(out, "]}");
    }
    text_append(out, "}}");
}

/* The tokens in front and behind: the flags, or the model's habit. */
static bool read_ends(const struct vocabulary *vocabulary, bool adds_bos, bool adds_eos, int64_t *ret_front,
                      int64_t *ret_back)
{
    const struct gguf *gguf = vocabulary->gguf;
    int64_t bos = -1, eos = -1;
    if (!gguf_find_bool(gguf, "tokenizer.ggml.add_bos_token", &adds_bos, vocabulary->error) ||
        !gguf_find_bool(gguf, "tokenizer.ggml.add_eos_token", &adds_eos, vocabulary->error) ||
        !read_id(vocabulary, "tokenizer.ggml.bos_token_id", &bos) ||
        !read_id(vocabulary, "tokenizer.ggml.eos_token_id", &eos)) {
        return false;
    }
    *ret_front = adds_bos ? bos : -1;
    *ret_back = adds_eos ? eos : -1;
    return true;
}

/* ---- byte-level BPE -------------------------------------------------------------------------------------- */

static const char *const byte_level =
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,"
    "\"use_regex\":";

static void append_pre(struct text *out, const struct gguf_pre *pre)
{
    text_append_format(out,
                       "\"normalizer\":%s,\"pre_tokenizer\":", pre->is_nfc ? "{\"type\":\"NFC\"}" : "null");
    if (pre->pattern != NULL || pre->splits_digits) {
        text_append(out, "{\"type\":\"Sequence\",\"pretokenizers\":[");
    }
    if (pre->splits_digits) {
        text_append(out, "{\"type\":\"Digits\",\"individual_digits\":true},");
    }
    if (pre->pattern != NULL) {
        text_append(out, "{\"type\":\"Split\",\"pattern\":{\"Regex\":");
        text_append_json(out, pre->pattern, strlen(pre->pattern));
        text_append(out, "},\"behavior\":\"Isolated\",\"invert\":false},");
    }
    text_append_format(out, "%s%s}", byte_level, pre->pattern != NULL ? "false" : "true");
    text_append(out, pre->pattern != NULL || pre->splits_digits ? "]}," : ",");
}

static void append_vocab(const struct vocabulary *vocabulary, bool respells_spaces)
{
    text_append(vocabulary->out, "\"vocab\":{");
    for (size_t id = 0; id < vocabulary->tokens->count; id++) {
        const struct gguf_text *token = &vocabulary->tokens->texts[id];
        text_append(vocabulary->out, id > 0 ? "," : "");
        if (respells_spaces && is_spaces(token)) {
            text_append(vocabulary->out, "\"");
            for (size_t i = 0; i < token->length; i++) {
                text_append(vocabulary->out, META);
            }
            text_append(vocabulary->out, "\"");
        } else {
            append_token(vocabulary->out, token);
        }
        text_append_format(vocabulary->out, ":%zu", id);
    }
    text_append(vocabulary->out, "}");
}

static bool append_file_merges(const struct vocabulary *vocabulary)
{
    const struct gguf_pair *merges = vocabulary->merges;
    text_append(vocabulary->out, ",\"merges\":[");
    for (size_t i = 0; i < merges->count; i++) {
        const struct gguf_text *merge = &merges->texts[i];
        if (!is_sound(merge, 2 * TOKEN_MAX_BYTES + 1)) {
            return error_set_field(vocabulary->error, ERROR_CORRUPT_FILE, "tokenizer.ggml.merges",
                                   "GGUF key tokenizer.ggml.merges: merge %zu is too long or no UTF-8", i);
        }
        text_append(vocabulary->out, i > 0 ? "," : "");
        append_token(vocabulary->out, merge);
    }
    text_append(vocabulary->out, "]");
    return true;
}

static bool write_byte_level(const struct vocabulary *vocabulary)
{
    struct text *out = vocabulary->out;
    const char *name = "default";
    if (!gguf_find_string(vocabulary->gguf, "tokenizer.ggml.pre", &name, vocabulary->error)) {
        return false;
    }
    const struct gguf_pre *pre = gguf_pres;
    while (pre->name != NULL && strcmp(pre->name, name) != 0) {
        pre++;
    }
    if (pre->name == NULL) {
        return error_set_field(vocabulary->error, ERROR_UNSUPPORTED, "tokenizer.ggml.pre",
                               "GGUF key tokenizer.ggml.pre: pre-tokenizer \"%.60s\" is not known", name);
    }
    if (vocabulary->merges == NULL) {
        return error_set_field(vocabulary->error, ERROR_MISSING_FIELD, "tokenizer.ggml.merges",
                               "GGUF key tokenizer.ggml.merges is missing");
    }
    int64_t front = -1, back = -1;
    if (!read_ends(vocabulary, pre->adds_bos, false, &front, &back)) {
        return false;
    }
    append_added(vocabulary, false);
    append_pre(out, pre);
    text_append(out, "\"post_processor\":");
    if (front >= 0 || back >= 0) {
        text_append_format(out, "{\"type\":\"Sequence\",\"processors\":[%strue},", byte_level);
        append_template(vocabulary, front, back);
        text_append(out, "]},");
    } else {
        text_append_format(out, "%strue},", byte_level);
    }
    text_append_format(out, "\"decoder\":%strue},", byte_level);
    text_append_format(out,
                       "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,"
                       "\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,\"fuse_unk\":false,"
                       "\"byte_fallback\":false,\"ignore_merges\":%s,",
                       pre->ignores_merges ? "true" : "false");
    append_vocab(vocabulary, false);
    if (!append_file_merges(vocabulary)) {
        return false;
    }
    text_append(out, "}}");
    return true;
}

/* ---- SentencePiece BPE ----------------------------------------------------------------------------------- */

/* Tokens by content: open addressing, id + 1, 0 free. */
struct token_index {
    const struct gguf_text *tokens;
    uint32_t *slots;
    size_t slot_count; /* a power of two */
};

#define HASH_START UINT64_C(0xcbf29ce484222325)
static uint64_t hash_step(uint64_t hash, char byte)
{
    return (hash ^ (unsigned char)byte) * UINT64_C(0x100000001b3);
}

static uint64_t hash_of(const char *bytes, size_t length)
{
    uint64_t hash = HASH_START;
    for (size_t i = 0; i < length; i++) {
        hash = hash_step(hash, bytes[i]);
    }
    return hash;
}

/* The slot that holds the content, or the free one where it would go. */
static size_t find_slot(const struct token_index *index, uint64_t hash, const char *bytes, size_t length)
{
    size_t slot = (size_t)(hash ^ hash >> 32) & (index->slot_count - 1);
    while (index->slots[slot] != 0) {
        const struct gguf_text *token = &index->tokens[index->slots[slot] - 1];
        if (token->length == length && memcmp(token->bytes, bytes, length) == 0) {
            break;
        }
        slot = (slot + 1) & (index->slot_count - 1);
    }
    return slot;
}

struct candidate {
    double score;
    uint32_t token, left_bytes; /* the token cut after left_bytes */
    uint32_t left_characters;
};

/* Best score first; then the longer left part; then the earlier token. */
static int compare_candidates(const void *left, const void *right)
{
    const struct candidate *a = left, *b = right;
    if (a->score != b->score) { /* NOLINT: an order */
        return a->score > b->score ? -1 : 1;
    }
    if (a->left_characters != b->left_characters && a->token == b->token) {
        return a->left_characters > b->left_characters ? -1 : 1;
    }
    return (a->token > b->token) - (a->token < b->token);
}

struct candidate_list {
    struct candidate *items; /* owned */
    size_t count, capacity;
};

/* The ways to make one token of two others. */
static bool cut_token(const struct token_index *index, size_t id, double score, struct candidate_list *list)
{
    const struct gguf_text *token = &index->tokens[id];
    uint64_t hash = HASH_START;
    uint32_t characters = 0;
    for (size_t i = 0; i + 1 < token->length; i++) {
        hash = hash_step(hash, token->bytes[i]);
        if (((unsigned char)token->bytes[i + 1] & 0xc0u) == 0x80u) {
            continue; /* inside a character */
        }
        characters++;
        size_t rest = token->length - i - 1;
        if (index->slots[find_slot(index, hash, token->bytes, i + 1)] == 0 ||
            index->slots[find_slot(index, hash_of(token->bytes + i + 1, rest), token->bytes + i + 1, rest)] ==
                0) {
            continue;
        }
        if (list->count == MERGES_MAX) {
            return false;
        }
        if (list->count == list->capacity) {
            list->capacity = list->capacity > 0 ? 2 * list->capacity : 1024;
            list->items = memory_resize(list->items, list->capacity, sizeof *list->items);
        }
        list->items[list->count++] = (struct candidate){score, (uint32_t)id, (uint32_t)(i + 1), characters};
    }
    return true;
}

static bool cut_tokens(const struct vocabulary *vocabulary, const struct token_index *index,
                       bool ranks_by_order, struct candidate_list *list)
{
    for (size_t id = 0; id < vocabulary->tokens->count; id++) {
        double score = -(double)id;
        if (!ranks_by_order && (!gguf_number_at(vocabulary->scores, id, &score) || isnan(score))) {
            return error_set_field(vocabulary->error, ERROR_CORRUPT_FILE, "tokenizer.ggml.scores",
                                   "GGUF key tokenizer.ggml.scores: score %zu is no number", id);
        }
        if (!cut_token(index, id, score, list)) {
            return error_set_field(vocabulary->error, ERROR_UNSUPPORTED, "tokenizer.ggml.tokens",
                                   "GGUF key tokenizer.ggml.tokens: more than %u pairs merge", MERGES_MAX);
        }
    }
    return true;
}

static bool append_derived_merges(const struct vocabulary *vocabulary, const struct gguf_text *spelled,
                                  bool ranks_by_order)
{
    size_t count = vocabulary->tokens->count;
    struct token_index index = {.tokens = spelled, .slot_count = 16};
    struct candidate_list list = {0};
    while (index.slot_count < 2 * count) {
        index.slot_count *= 2;
    }
    index.slots = memory_create(index.slot_count, sizeof *index.slots);
    for (size_t id = 0; id < count; id++) {
        const struct gguf_text *token = &spelled[id];
        index.slots[find_slot(&index, hash_of(token->bytes, token->length), token->bytes, token->length)] =
            (uint32_t)(id + 1);
    }
    bool is_good = cut_tokens(vocabulary, &index, ranks_by_order, &list);
    if (is_good && list.count > 0) {
        qsort(list.items, list.count, sizeof *list.items, compare_candidates);
    }
    if (is_good) {
        text_append(vocabulary->out, ",\"merges\":[");
        for (size_t i = 0; i < list.count; i++) {
            const struct gguf_text *token = &spelled[list.items[i].token];
            size_t left = list.items[i].left_bytes;
            text_append(vocabulary->out, i > 0 ? ",[" : "[");
            text_append_json(vocabulary->out, token->bytes, left);
            text_append(vocabulary->out, ",");
            text_append_json(vocabulary->out, token->bytes + left, token->length - left);
            text_append(vocabulary->out, "]");
        }
        text_append(vocabulary->out, "]");
    }
    free(index.slots);
    free(list.items);
    return is_good;
}

/* Gemma's runs of spaces stand in the file as spaces; its pieces are runs of U+2581. */
static struct gguf_text *respell(const struct vocabulary *vocabulary, bool is_gemma, struct text *pool)
{
    size_t count = vocabulary->tokens->count, longest = 0;
    struct gguf_text *spelled = memory_create(count, sizeof *spelled);
    for (size_t id = 0; id < count; id++) {
        spelled[id] = vocabulary->tokens->texts[id];
        bool is_longer = is_gemma && is_spaces(&spelled[id]) && spelled[id].length > longest;
        longest = is_longer ? spelled[id].length : longest;
    }
    for (size_t i = 0; i < longest; i++) {
        text_append(pool, META);
    }
    for (size_t id = 0; is_gemma && id < count; id++) {
        if (is_spaces(&spelled[id])) {
            spelled[id] = (struct gguf_text){pool->bytes, spelled[id].length * strlen(META)};
        }
    }
    return spelled;
}

static void append_sentencepiece_pipeline(struct text *out, bool adds_space)
{
    text_append(out, "\"normalizer\":");
    text_append(out, adds_space
                         ? "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"" META
                           "\"},"
                         : "");
    text_append(out, "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"" META "\"}");
    text_append(out, adds_space ? "]}," : ",");
    text_append(
        out, "\"pre_tokenizer\":null,\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\","
             "\"pattern\":{\"String\":\"" META "\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},"
             "{\"type\":\"Fuse\"}");
    text_append(out, adds_space ? ",{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}" : "");
    text_append(out, "]},");
}

static bool write_sentencepiece(const struct vocabulary *vocabulary)
{
    struct text *out = vocabulary->out;
    int64_t front = -1, back = -1, unknown = 0;
    bool adds_space = true;
    bool is_gemma = text_starts_with(vocabulary->gguf->architecture, "gemma");
    if (!gguf_find_bool(vocabulary->gguf, "tokenizer.ggml.add_space_prefix", &adds_space,
                        vocabulary->error) ||
        !read_ends(vocabulary, true, false, &front, &back) ||
        !read_id(vocabulary, "tokenizer.ggml.unknown_token_id", &unknown)) {
        return false;
    }
    if (vocabulary->merges == NULL && vocabulary->scores == NULL) {
        return error_set_field(vocabulary->error, ERROR_MISSING_FIELD, "tokenizer.ggml.scores",
                               "GGUF key tokenizer.ggml.scores is missing");
    }
    append_added(vocabulary, true);
    append_sentencepiece_pipeline(out, adds_space);
    text_append(out, "\"post_processor\":");
    append_template(vocabulary, front, back);
    text_append(out, ",\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":");
    append_token(out, &vocabulary->tokens->texts[unknown]);
    text_append(out, ",\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,\"fuse_unk\":true,"
                     "\"byte_fallback\":true,\"ignore_merges\":false,");
    append_vocab(vocabulary, is_gemma);
    FINISHED(text) pool = {0};
    OWNED_MEMORY struct gguf_text *spelled = respell(vocabulary, is_gemma, &pool);
    bool is_good = vocabulary->merges != NULL ? append_file_merges(vocabulary)
                                              : append_derived_merges(vocabulary, spelled, is_gemma);
    text_append(out, "}}");
    return is_good;
}

/* ---- WordPiece ------------------------------------------------------------------------------------------- */

static void append_wordpiece_token(struct text *out, const struct gguf_text *token)
{
    size_t meta = strlen(META);
    if (token->length >= meta && memcmp(token->bytes, META, meta) == 0) {
        text_append_json(out, token->bytes + meta, token->length - meta);
    } else if (token->length > 1 && token->bytes[0] == '[' && token->bytes[token->length - 1] == ']') {
        append_token(out, token);
    } else {
        FINISHED(text) piece = {0};
        text_append(&piece, "##");
        text_append_bytes(&piece, token->bytes, token->length);
        text_append_json(out, piece.bytes, piece.length);
    }
}

static bool write_wordpiece(const struct vocabulary *vocabulary)
{
    struct text *out = vocabulary->out;
    int64_t front = -1, back = -1, unknown = -1;
    /* Two spellings: BERT's own names, and those that all models have. */
    if (!read_id(vocabulary, "tokenizer.ggml.bos_token_id", &front) ||
        !read_id(vocabulary, "tokenizer.ggml.cls_token_id", &front) ||
        !read_id(vocabulary, "tokenizer.ggml.eos_token_id", &back) ||
        !read_id(vocabulary, "tokenizer.ggml.seperator_token_id", &back) ||
        !read_id(vocabulary, "tokenizer.ggml.unknown_token_id", &unknown)) {
        return false;
    }
    for (size_t id = 0; id < vocabulary->tokens->count; id++) { /* older files do not say */
        const struct gguf_text *token = &vocabulary->tokens->texts[id];
        bool is_five = token->length == 5;
        unknown = unknown < 0 && is_five && memcmp(token->bytes, "[UNK]", 5) == 0 ? (int64_t)id : unknown;
        front = front < 0 && is_five && memcmp(token->bytes, "[CLS]", 5) == 0 ? (int64_t)id : front;
        back = back < 0 && is_five && memcmp(token->bytes, "[SEP]", 5) == 0 ? (int64_t)id : back;
    }
    if (unknown < 0 || front < 0 || back < 0) {
        return error_set_field(vocabulary->error, ERROR_CORRUPT_FILE, "tokenizer.ggml.tokens",
                               "the WordPiece vocabulary lacks [UNK], [CLS] or [SEP]");
    }
    append_added(vocabulary, false);
    text_append(
        out, "\"normalizer\":{\"type\":\"BertNormalizer\",\"clean_text\":true,\"handle_chinese_chars\":true,"
             "\"strip_accents\":null,\"lowercase\":true},\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},"
             "\"post_processor\":");
    append_template(vocabulary, front, back);
    text_append(out, ",\"decoder\":{\"type\":\"WordPiece\",\"prefix\":\"##\",\"cleanup\":true},"
                     "\"model\":{\"type\":\"WordPiece\",\"unk_token\":");
    append_token(out, &vocabulary->tokens->texts[unknown]);
    text_append(out, ",\"continuing_subword_prefix\":\"##\",\"max_input_chars_per_word\":100,\"vocab\":{");
    for (size_t id = 0; id < vocabulary->tokens->count; id++) {
        text_append(out, id > 0 ? "," : "");
        append_wordpiece_token(out, &vocabulary->tokens->texts[id]);
        text_append_format(out, ":%zu", id);
    }
    text_append(out, "}}}");
    return true;
}

/* ---- the whole ------------------------------------------------------------------------------------------- */

static bool find_list(const struct vocabulary *vocabulary, const char *key, bool is_text, size_t count,
                      const struct gguf_pair **ret_pair)
{
    const struct gguf_pair *pair = gguf_find(vocabulary->gguf, key);
    if (pair != NULL && (!pair->is_array || (pair->type == GGUF_TEXT) != is_text ||
                         (count != SIZE_MAX && pair->count != count))) {
        return error_set_field(vocabulary->error, ERROR_WRONG_TYPE, key,
                               "GGUF key %s must be a list of %s, one for each token", key,
                               is_text ? "texts" : "numbers");
    }
    *ret_pair = pair;
    return true;
}

static bool read_vocabulary(struct vocabulary *vocabulary)
{
    static const char key[] = "tokenizer.ggml.tokens";
    if (!find_list(vocabulary, key, true, SIZE_MAX, &vocabulary->tokens)) {
        return false;
    }
    if (vocabulary->tokens == NULL || vocabulary->tokens->count == 0) {
        return error_set_field(vocabulary->error, ERROR_NOT_FOUND, key, "the GGUF file has no vocabulary");
    }
    size_t count = vocabulary->tokens->count;
    if (count > TOKENS_MAX) {
        return error_set_field(vocabulary->error, ERROR_CORRUPT_FILE, key,
                               "GGUF key %s: %zu tokens; at most %u", key, count, TOKENS_MAX);
    }
    for (size_t id = 0; id < count; id++) {
        const struct gguf_text *token = &vocabulary->tokens->texts[id];
        if (!is_sound(token, TOKEN_MAX_BYTES)) {
            return error_set_field(vocabulary->error, ERROR_CORRUPT_FILE, key,
                                   "GGUF key %s: token %zu is too long or no UTF-8", key, id);
        }
    }
    return find_list(vocabulary, "tokenizer.ggml.token_type", false, count, &vocabulary->types) &&
           find_list(vocabulary, "tokenizer.ggml.scores", false, count, &vocabulary->scores) &&
           find_list(vocabulary, "tokenizer.ggml.merges", true, SIZE_MAX, &vocabulary->merges);
}

char *gguf_tokenizer_json(const struct gguf *gguf, struct error *error)
{
    FINISHED(text) out = {0};
    struct vocabulary vocabulary = {.gguf = gguf, .out = &out, .error = error};
    const char *model = "";
    if (!read_vocabulary(&vocabulary) || !gguf_find_string(gguf, "tokenizer.ggml.model", &model, error)) {
        return NULL;
    }
    text_append(&out, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,");
    bool is_good = false;
    if (strcmp(model, "gpt2") == 0) {
        is_good = write_byte_level(&vocabulary);
    } else if (strcmp(model, "llama") == 0) {
        is_good = write_sentencepiece(&vocabulary);
    } else if (strcmp(model, "bert") == 0) {
        is_good = write_wordpiece(&vocabulary);
    } else {
        (void)error_set_field(
            error, ERROR_UNSUPPORTED, "tokenizer.ggml.model",
            "GGUF key tokenizer.ggml.model: \"%.60s\" is not known; gpt2, llama and bert are", model);
    }
    return is_good ? text_take(&out) : NULL;
}
