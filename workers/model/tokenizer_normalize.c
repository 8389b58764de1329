/*
 * workers/model/tokenizer_normalize.c: normalizers: each rewrites the whole text at hand, one after another. They follow the
 * `tokenizers` library, oddities included; its views of single characters are in tokenizer_unicode.c.
 *
 * A file may say that a character becomes a megabyte, sixteen times over. So a text may grow by a factor that no real
 * tokenizer comes near (Unicode's longest expansion is eleven), and the steps that put in texts from the file stop there.
 */
#include "base/memory.h"
#include "workers/model/nfc.h"
#include "workers/model/tokenizer_internal.h"
#include "workers/model/tokenizer_unicode.h"

#include <string.h>

#define GROWTH_MAX       32
#define GROWTH_SMALL     4096 /* for short texts */
#define GROWTH_MAX_BYTES (3ull * TOKENIZER_TEXT_MAX_BYTES)

static void append_code(struct text *text, uint32_t code)
{
    char bytes[4];
    text_append_bytes(text, bytes, utf8_encode(code, bytes));
}

static void normalize_replace(const struct normalizer *normalizer, const char *bytes, size_t length,
                              size_t limit, struct text *ret_text)
{
    size_t pattern = strlen(normalizer->pattern);
    for (size_t done = 0; done < length && ret_text->length <= limit;) {
        const char *found = memmem(bytes + done, length - done, normalizer->pattern, pattern);
        size_t end = found != NULL ? (size_t)(found - bytes) : length;
        text_append_bytes(ret_text, bytes + done, end - done);
        if (found != NULL) {
            text_append(ret_text, normalizer->content);
        }
        done = end + (found != NULL ? pattern : 0);
    }
}

static void normalize_spaces(const struct normalizer *normalizer, const char *bytes, size_t length,
                             size_t limit, struct text *ret_text)
{
    for (size_t done = 0; done < length && ret_text->length <= limit;) {
        const char *found = memmem(bytes + done, length - done, "  ", 2);
        size_t end = found != NULL ? (size_t)(found - bytes) : length;
        text_append_bytes(ret_text, bytes + done, end - done);
        if (found != NULL) {
            text_append(ret_text, normalizer->content);
        }
        while (end < length && bytes[end] == ' ') {
            end++;
        }
        done = end;
    }
}

static void normalize_strip(const struct normalizer *normalizer, const char *bytes, size_t length,
                            struct text *ret_text)
{
    size_t start = 0;
    while (normalizer->strips_left && start < length && utf8_is_space(utf8_decode(bytes + start))) {
        start += utf8_length(bytes + start);
    }
    while (normalizer->strips_right && length > start) {
        size_t last = length - 1;
        while (last > start && ((unsigned char)bytes[last] & 0xc0) == 0x80) {
            last--;
        }
        if (!utf8_is_space(utf8_decode(bytes + last))) {
            break;
        }
        length = last;
    }
    text_append_bytes(ret_text, bytes + start, length - start);
}

/* Copies without the characters that is_left_out names; those are never ASCII. */
static void copy_without(bool (*is_left_out)(uint32_t code), const char *bytes, size_t length,
                         struct text *ret_text)
{
    size_t copied = 0;
    for (size_t at = 0; at < length;) {
        size_t width = utf8_length(bytes + at);
        if (width > 1 && is_left_out(utf8_decode(bytes + at))) {
            text_append_bytes(ret_text, bytes + copied, at - copied);
            copied = at + width;
        }
        at += width;
    }
    text_append_bytes(ret_text, bytes + copied, length - copied);
}

/* What SentencePiece's nmt rules do besides NFKC: some control characters go, others become spaces. */
static void normalize_nmt(const char *bytes, size_t length, struct text *ret_text)
{
    for (size_t at = 0; at < length; at += utf8_length(bytes + at)) {
        uint32_t code = utf8_decode(bytes + at);
        bool is_dropped = (code >= 0x01 && code <= 0x08) || code == 0x0b || (code >= 0x0e && code <= 0x1f) ||
                          code == 0x7f || code == 0x8f || code == 0x9f;
        bool is_space = code == 0x09 || code == 0x0a || code == 0x0c || code == 0x0d || code == 0x1680 ||
                        (code >= 0x200b && code <= 0x200f) || code == 0x2028 || code == 0x2029 ||
                        code == 0x2581 || code == 0xfeff || code == 0xfffd;
        if (is_space) {
            text_append(ret_text, " ");
        } else if (!is_dropped) {
            text_append_bytes(ret_text, bytes + at, utf8_length(bytes + at));
        }
    }
}

/* BertNormalizer's clean_text and handle_chinese_chars in one pass. */
static void bert_clean(const struct normalizer *normalizer, const char *bytes, size_t length,
                       struct text *ret_text)
{
    size_t copied = 0; /* bytes[copied, at) is to be copied as it is */
    for (size_t at = 0; at < length;) {
        unsigned char first = (unsigned char)bytes[at];
        if (first >= 0x20 && first < 0x7f) {
            at++;
            continue;
        }
        uint32_t code = utf8_decode(bytes + at);
        size_t width = utf8_length(bytes + at);
        bool is_dropped = normalizer->cleans && unicode_is_dropped(code);
        bool is_space = normalizer->cleans && !is_dropped && utf8_is_space(code);
        bool is_chinese = normalizer->separates_chinese && unicode_is_chinese(code);
        if (is_dropped || is_space || is_chinese) {
            text_append_bytes(ret_text, bytes + copied, at - copied);
            text_append(ret_text, is_dropped ? "" : " ");
            if (is_chinese && !is_dropped) {
                append_code(ret_text, code);
                text_append(ret_text, " ");
            }
            copied = at + width;
        }
        at += width;
    }
    text_append_bytes(ret_text, bytes + copied, length - copied);
}

static void normalize_bert(const struct normalizer *normalizer, const char *bytes, size_t length,
                           struct text *ret_text)
{
    struct text cleaned = {0}, apart = {0}, bare = {0};
    bert_clean(normalizer, bytes, length, &cleaned);
    const struct text *text = &cleaned;
    if (normalizer->strips_accents) {
        unicode_form_append(&apart, UNICODE_NFD, text->bytes, text->length);
        copy_without(unicode_is_accent, apart.bytes, apart.length, &bare);
        text = &bare;
    }
    if (normalizer->lowers) {
        unicode_lowercase_append(ret_text, text->bytes, text->length);
    } else {
        text_append_bytes(ret_text, text->bytes, text->length);
    }
    text_finish(&cleaned);
    text_finish(&apart);
    text_finish(&bare);
}

static void normalize_once(const struct normalizer *normalizer, const char *bytes, size_t length,
                           size_t limit, struct text *ret_text)
{
    switch (normalizer->kind) {
    case NORMALIZER_PREPEND:
        if (length > 0) {
            text_append(ret_text, normalizer->content);
        }
        text_append_bytes(ret_text, bytes, length);
        break;
    case NORMALIZER_REPLACE:
        normalize_replace(normalizer, bytes, length, limit, ret_text);
        break;
    case NORMALIZER_REPLACE_SPACES:
        normalize_spaces(normalizer, bytes, length, limit, ret_text);
        break;
    case NORMALIZER_FORM:
        unicode_form_append(ret_text, (enum unicode_form)normalizer->form, bytes, length);
        break;
    case NORMALIZER_LOWERCASE:
        unicode_lowercase_append(ret_text, bytes, length);
        break;
    case NORMALIZER_STRIP:
        normalize_strip(normalizer, bytes, length, ret_text);
        break;
    case NORMALIZER_STRIP_ACCENTS:
        copy_without(unicode_is_mark, bytes, length, ret_text);
        break;
    case NORMALIZER_NMT:
        normalize_nmt(bytes, length, ret_text);
        break;
    case NORMALIZER_BERT:
        normalize_bert(normalizer, bytes, length, ret_text);
        break;
    case NORMALIZER_CHARSMAP:
        charsmap_append(normalizer->charsmap, bytes, length, limit, ret_text);
        break;
    }
}

bool tokenizer_normalize(const struct tokenizer *tokenizer, const char *bytes, size_t length,
                         struct text *ret_text, struct error *error)
{
    struct text current = {0};
    size_t limit =
        length < GROWTH_MAX_BYTES / GROWTH_MAX ? GROWTH_MAX * length + GROWTH_SMALL : GROWTH_MAX_BYTES;
    bool ok = true;
    for (size_t i = 0; ok && i < tokenizer->normalizer_count; i++) {
        struct text next = {0};
        normalize_once(&tokenizer->normalizers[i], bytes, length, limit, &next);
        text_finish(&current);
        current = next;
        bytes = current.bytes != NULL ? current.bytes : "";
        length = current.length;
        if (length > limit) {
            ok = error_set(error, ERROR_TOO_LARGE, "normalizing makes a text of more than %zu bytes", limit);
        }
    }
    if (ok) {
        text_append_bytes(ret_text, bytes, length);
    }
    text_finish(&current);
    return ok;
}
