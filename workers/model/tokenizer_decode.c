/*
 * workers/model/tokenizer_decode.c: ids back to text. The decoder is a chain over a list of strings, one per
 * token at first, as the reference defines it: steps may rewrite strings, join runs of them or drop some.
 */
#include "base/memory.h"
#include "workers/model/tokenizer_internal.h"

#include <string.h>

/* A list of strings: slices of one pool. A step reads one list and writes another. */
struct strings {
    struct text pool;
    struct slice *items;
    size_t count, capacity;
};

static void strings_add(struct strings *strings, const char *bytes, size_t length)
{
    if (strings->count == strings->capacity) {
        strings->capacity = strings->capacity == 0 ? 64 : strings->capacity * 2;
        strings->items = memory_resize(strings->items, strings->capacity, sizeof *strings->items);
    }
    strings->items[strings->count++] = (struct slice){(uint32_t)strings->pool.length, (uint32_t)length};
    text_append_bytes(&strings->pool, bytes, length);
}

static void strings_finish(struct strings *strings)
{
    text_finish(&strings->pool);
    free(strings->items);
    *strings = (struct strings){0};
}

static const char *string_at(const struct strings *strings, size_t index, size_t *ret_length)
{
    *ret_length = strings->items[index].length;
    return strings->pool.bytes != NULL ? strings->pool.bytes + strings->items[index].offset : "";
}

static void decode_replace(const char *wanted, const char *content, const struct strings *from, size_t first,
                           struct strings *to)
{
    size_t pattern = strlen(wanted);
    for (size_t i = first; i < from->count; i++) {
        size_t length = 0;
        const char *bytes = string_at(from, i, &length);
        struct text text = {0};
        for (size_t done = 0; done < length;) {
            const char *found = memmem(bytes + done, length - done, wanted, pattern);
            size_t end = found != NULL ? (size_t)(found - bytes) : length;
            text_append_bytes(&text, bytes + done, end - done);
            if (found != NULL) {
                text_append(&text, content);
            }
            done = end + (found != NULL ? pattern : 0);
        }
        strings_add(to, text.bytes != NULL ? text.bytes : "", text.length);
        text_finish(&text);
    }
}

static int hex_digit(char digit)
{
    return digit >= '0' && digit <= '9'   ? digit - '0'
           : digit >= 'A' && digit <= 'F' ? digit - 'A' + 10
           : digit >= 'a' && digit <= 'f' ? digit - 'a' + 10
                                          : -1;
}

/* The byte of "<0xXX>", -1 for anything else. */
static int byte_of(const char *bytes, size_t length)
{
    if (length != 6 || memcmp(bytes, "<0x", 3) != 0 || bytes[5] != '>') {
        return -1;
    }
    int high = hex_digit(bytes[3]), low = hex_digit(bytes[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

static void flush_bytes(struct text *bytes, struct strings *to)
{
    if (bytes->length > 0 && utf8_valid_prefix(bytes->bytes, bytes->length) == bytes->length) {
        strings_add(to, bytes->bytes, bytes->length);
    } else {
        for (size_t i = 0; i < bytes->length; i++) {
            strings_add(to, "\xef\xbf\xbd", 3);
        }
    }
    text_clear(bytes);
}

/* A run of byte tokens is one string if it is UTF-8, else one U+FFFD per byte. */
static void decode_byte_fallback(const struct strings *from, struct strings *to)
{
    struct text bytes = {0};
    for (size_t i = 0; i < from->count; i++) {
        size_t length = 0;
        const char *string = string_at(from, i, &length);
        int byte = byte_of(string, length);
        if (byte >= 0) {
            char value = (char)byte;
            text_append_bytes(&bytes, &value, 1);
        } else {
            flush_bytes(&bytes, to);
            strings_add(to, string, length);
        }
    }
    flush_bytes(&bytes, to);
    text_finish(&bytes);
}

static void decode_strip(const struct decoder_step *step, const struct strings *from, struct strings *to)
{
    size_t width = strlen(step->content);
    for (size_t i = 0; i < from->count; i++) {
        size_t length = 0;
        const char *bytes = string_at(from, i, &length);
        for (size_t n = 0; n < step->start && length >= width && memcmp(bytes, step->content, width) == 0;
             n++) {
            bytes += width;
            length -= width;
        }
        for (size_t n = 0;
             n < step->stop && length >= width && memcmp(bytes + length - width, step->content, width) == 0;
             n++) {
            length -= width;
        }
        strings_add(to, bytes, length);
    }
}

/* Letters back to bytes; a token with a character outside the alphabet (an added one) stands for itself. */
static void decode_byte_level(const struct strings *from, struct strings *to)
{
    struct text all = {0};
    for (size_t i = 0; i < from->count; i++) {
        size_t length = 0, start = all.length;
        const char *bytes = string_at(from, i, &length);
        for (size_t done = 0; done < length; done += utf8_length(bytes + done)) {
            int byte = bpe_letter_byte(utf8_decode(bytes + done));
            if (byte < 0) {
                all.length = start;
                text_append_bytes(&all, bytes, length);
                break;
            }
            char value = (char)byte;
            text_append_bytes(&all, &value, 1);
        }
    }
    struct text lossy = {0};
    utf8_append_lossy(&lossy, all.bytes, all.length);
    strings_add(to, lossy.bytes != NULL ? lossy.bytes : "", lossy.length);
    text_finish(&all);
    text_finish(&lossy);
}

/* The first token loses every replacement, not only a leading one. */
static void decode_metaspace(const struct decoder_step *step, const struct strings *from, struct strings *to)
{
    struct strings first = {0};
    if (from->count > 0 && step->drops_first) {
        size_t length = 0;
        const char *bytes = string_at(from, 0, &length);
        strings_add(&first, bytes, length);
        decode_replace(step->pattern, "", &first, 0, to);
        strings_finish(&first);
    }
    decode_replace(step->pattern, " ", from, step->drops_first ? 1 : 0, to);
}

static void replace_all(struct text *text, const char *wanted, const char *content)
{
    size_t pattern = strlen(wanted);
    const char *found = memmem(text->bytes, text->length, wanted, pattern);
    if (found == NULL) {
        return;
    }
    struct text changed = {0};
    size_t done = 0;
    for (; found != NULL; found = memmem(text->bytes + done, text->length - done, wanted, pattern)) {
        text_append_bytes(&changed, text->bytes + done, (size_t)(found - text->bytes) - done);
        text_append(&changed, content);
        done = (size_t)(found - text->bytes) + pattern;
    }
    text_append_bytes(&changed, text->bytes + done, text->length - done);
    text_finish(text);
    *text = changed;
}

/* A token that is no inner piece gets a space in front. Cleaning up works on each token by itself, as in the reference. */
static void decode_wordpiece(const struct decoder_step *step, const struct strings *from, struct strings *to)
{
    static const char *const clean[][2] = {
        {" .", "."},   {" ?", "?"},           {" !", "!"},   {" ,", ","},     {" ' ", "'"},   {" n't", "n't"},
        {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
    size_t prefix = strlen(step->pattern);
    for (size_t i = 0; i < from->count; i++) {
        size_t length = 0;
        const char *bytes = string_at(from, i, &length);
        bool is_inner = length >= prefix && memcmp(bytes, step->pattern, prefix) == 0;
        struct text text = {0};
        text_append(&text, i > 0 && !is_inner ? " " : "");
        size_t dropped = i > 0 && is_inner ? prefix : 0;
        text_append_bytes(&text, bytes + dropped, length - dropped);
        for (size_t n = 0; step->cleans_up && text.length > 0 && n < sizeof clean / sizeof clean[0]; n++) {
            replace_all(&text, clean[n][0], clean[n][1]);
        }
        strings_add(to, text.bytes != NULL ? text.bytes : "", text.length);
        text_finish(&text);
    }
}

static void decode_step(const struct decoder_step *step, const struct strings *from, struct strings *to)
{
    switch (step->kind) {
    case DECODER_REPLACE:
        decode_replace(step->pattern, step->content, from, 0, to);
        break;
    case DECODER_BYTE_FALLBACK:
        decode_byte_fallback(from, to);
        break;
    case DECODER_FUSE:
        strings_add(to, from->pool.bytes != NULL ? from->pool.bytes : "", from->pool.length);
        break;
    case DECODER_STRIP:
        decode_strip(step, from, to);
        break;
    case DECODER_BYTE_LEVEL:
        decode_byte_level(from, to);
        break;
    case DECODER_METASPACE:
        decode_metaspace(step, from, to);
        break;
    case DECODER_WORDPIECE:
        decode_wordpiece(step, from, to);
        break;
    }
}

void tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t count, bool skip_special,
                      struct text *text)
{
    struct strings strings = {0};
    for (size_t i = 0; i < count; i++) {
        if (ids[i] < 0 || (size_t)ids[i] >= tokenizer->id_end) {
            continue;
        }
        int32_t added = tokenizer->added_by_id[ids[i]];
        struct slice content = tokenizer->contents[ids[i]];
        if (added >= 0 && !(skip_special && tokenizer->added[added].is_special)) {
            strings_add(&strings, tokenizer->added[added].decoded.bytes,
                        tokenizer->added[added].decoded.length);
        } else if (added < 0 && content.length > 0) {
            strings_add(&strings, tokenizer->vocab.pool.bytes + content.offset, content.length);
        }
    }
    for (size_t i = 0; i < tokenizer->decoder_count; i++) {
        struct strings next = {0};
        decode_step(&tokenizer->decoders[i], &strings, &next);
        strings_finish(&strings);
        strings = next;
    }
    for (size_t i = 0; i < strings.count; i++) {
        size_t length = 0;
        const char *bytes = string_at(&strings, i, &length);
        if (i > 0 && tokenizer->decoder_count == 0) {
            text_append(text, " "); /* without a decoder the reference separates tokens */
        }
        text_append_bytes(text, bytes, length);
    }
    strings_finish(&strings);
}
