/*
 * workers/model/tokenizer_charsmap.c: SentencePiece's precompiled_charsmap, the normalization rules of T5, XLM-R and such: a double
 * array trie (Yata's darts-clone) from byte strings to places in a blob of NUL-terminated texts.
 *
 *     uint32 trie_bytes | uint32 units[trie_bytes / 4] | blob      (little-endian, base64 in tokenizer.json)
 *
 * A unit holds a label (bits 0-7, and bit 31 in a leaf), "a leaf hangs here" (bit 8) and the distance to its children (bits 10-30,
 * times 256 with bit 9). From the node at p, byte c leads to p ^ c, if the label there is c; a leaf's value is at p ^ 0.
 *
 * The `tokenizers` library replaces a whole grapheme cluster of less than six bytes by what its *shortest* prefix in the map
 * becomes, and failing that each of its characters; so do we. The map comes from a file: every index is checked, and what
 * points outside means that there is no entry.
 */
#include "base/memory.h"
#include "workers/model/tokenizer_internal.h"
#include "workers/model/tokenizer_unicode.h"

#include <string.h>

#define CLUSTER_LIMIT_BYTES 6

struct charsmap {
    uint32_t *units; /* [unit_count] */
    size_t unit_count;
    struct text blob;
    const char *ascii[128]; /* what a single ASCII character becomes; NULL: itself */
};

static int base64_value(char digit)
{
    return digit >= 'A' && digit <= 'Z'   ? digit - 'A'
           : digit >= 'a' && digit <= 'z' ? digit - 'a' + 26
           : digit >= '0' && digit <= '9' ? digit - '0' + 52
           : digit == '+'                 ? 62
           : digit == '/'                 ? 63
                                          : -1;
}

/* Padded base64 (RFC 4648, section 4); false for anything else. */
static bool base64_decode(const char *digits, size_t length, struct text *ret_bytes)
{
    if (length % 4 != 0) {
        return false;
    }
    for (size_t at = 0; at < length; at += 4) {
        size_t count = at + 4 < length || digits[at + 3] != '=' ? 3 : digits[at + 2] != '=' ? 2 : 1;
        uint32_t bits = 0;
        for (size_t i = 0; i < 4; i++) {
            int value = i <= count ? base64_value(digits[at + i]) : 0;
            if (value < 0) {
                return false;
            }
            bits = bits << 6 | (uint32_t)value;
        }
        if ((bits & ((1u << (8 * (3 - count))) - 1)) != 0) {
            return false; /* bits that belong to no byte */
        }
        char bytes[3] = {(char)(bits >> 16 & 0xff), (char)(bits >> 8 & 0xff), (char)(bits & 0xff)};
        text_append_bytes(ret_bytes, bytes, count);
    }
    return true;
}

static size_t unit_offset(uint32_t unit)
{
    return (size_t)(unit >> 10) << ((unit & 1u << 9) >> 6);
}

/* What the shortest prefix of [bytes, length) in the map becomes: NUL-terminated, in the blob; NULL: no prefix is there. */
static const char *charsmap_find(const struct charsmap *charsmap, const char *bytes, size_t length)
{
    size_t node = unit_offset(charsmap->units[0]);
    for (size_t i = 0; i < length && bytes[i] != '\0'; i++) {
        unsigned char byte = (unsigned char)bytes[i];
        node ^= byte;
        if (node >= charsmap->unit_count || (charsmap->units[node] & 0x800000ffu) != byte) {
            return NULL;
        }
        uint32_t unit = charsmap->units[node];
        node ^= unit_offset(unit);
        if ((unit >> 8 & 1) == 0) {
            continue;
        }
        size_t place = node < charsmap->unit_count ? charsmap->units[node] & 0x7fffffffu : SIZE_MAX;
        bool is_sound = place < charsmap->blob.length &&
                        ((unsigned char)charsmap->blob.bytes[place] & 0xc0) != 0x80; /* a character starts */
        return is_sound ? charsmap->blob.bytes + place : NULL;
    }
    return NULL;
}

static bool charsmap_read(struct charsmap *charsmap, const struct text *bytes)
{
    if (bytes->length < 8) {
        return false;
    }
    const unsigned char *at = (const unsigned char *)bytes->bytes;
    size_t words = bytes->length / 4, trie_bytes = 0;
    charsmap->units = memory_create(words, sizeof *charsmap->units);
    for (size_t i = 0; i < words; i++, at += 4) {
        charsmap->units[i] = at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
    }
    trie_bytes = charsmap->units[0];
    if (trie_bytes == 0 || trie_bytes % 4 != 0 || trie_bytes > bytes->length - 4) {
        return false;
    }
    charsmap->unit_count = trie_bytes / 4;
    memmove(charsmap->units, charsmap->units + 1, charsmap->unit_count * sizeof *charsmap->units);
    const char *blob = bytes->bytes + 4 + trie_bytes;
    size_t blob_length = bytes->length - 4 - trie_bytes;
    text_append_bytes(&charsmap->blob, blob, blob_length);
    return utf8_valid_prefix(blob, blob_length) == blob_length;
}

struct charsmap *charsmap_parse(const char *base64, size_t length, struct error *error)
{
    struct charsmap *charsmap = memory_create(1, sizeof *charsmap);
    struct text bytes = {0};
    bool ok = base64_decode(base64, length, &bytes) && charsmap_read(charsmap, &bytes);
    text_finish(&bytes);
    if (!ok) {
        charsmap_destroy(charsmap);
        (void)error_set(error, ERROR_CORRUPT_FILE,
                        "precompiled_charsmap is no map of SentencePiece's in base64");
        return NULL;
    }
    for (int code = 1; code < 128; code++) {
        char character = (char)code;
        charsmap->ascii[code] = charsmap_find(charsmap, &character, 1);
    }
    return charsmap;
}

void charsmap_destroy(struct charsmap *charsmap)
{
    if (charsmap != NULL) {
        free(charsmap->units);
        text_finish(&charsmap->blob);
        free(charsmap);
    }
}

/* Quick answer for most text: below U+0600 no character joins the next one by itself, and below U+0300 none joins the one before;
 * but CR LF is one cluster. */
static bool stands_alone(const char *bytes, size_t length, size_t at, size_t width)
{
    size_t next = at + width;
    if (next == length) {
        return true;
    }
    bool may_join = (unsigned char)bytes[at] >= 0xd8 || (unsigned char)bytes[next] >= 0xcc;
    return !may_join && !(bytes[at] == '\r' && bytes[next] == '\n');
}

static void append_character(const struct charsmap *charsmap, const char *bytes, struct text *ret_text)
{
    size_t width = utf8_length(bytes);
    const char *found =
        width == 1 ? charsmap->ascii[(unsigned char)bytes[0]] : charsmap_find(charsmap, bytes, width);
    if (found != NULL) {
        text_append(ret_text, found);
    } else {
        text_append_bytes(ret_text, bytes, width);
    }
}

void charsmap_append(const struct charsmap *charsmap, const char *bytes, size_t length, size_t limit,
                     struct text *ret_text)
{
    size_t copied = 0;
    for (size_t at = 0; at < length && ret_text->length <= limit;) {
        size_t width = utf8_length(bytes + at), cluster = width;
        bool is_alone = stands_alone(bytes, length, at, width);
        if (is_alone && width == 1 && charsmap->ascii[(unsigned char)bytes[at]] == NULL) {
            at++; /* as it is: copied in one go later */
            continue;
        }
        text_append_bytes(ret_text, bytes + copied, at - copied);
        if (!is_alone) {
            cluster = unicode_cluster_length(bytes, length, at);
        }
        const char *found = cluster < CLUSTER_LIMIT_BYTES && cluster > width
                                ? charsmap_find(charsmap, bytes + at, cluster)
                                : NULL;
        size_t end = at + cluster;
        if (found != NULL) {
            text_append(ret_text, found);
            at = end;
        }
        for (; at < end; at += utf8_length(bytes + at)) {
            append_character(charsmap, bytes + at, ret_text);
        }
        copied = at;
    }
    text_append_bytes(ret_text, bytes + copied, length - copied);
}
