/* workers/model/tokenizer_unicode.c: binary search in the generated ranges; plain ASCII never gets there. */
#include "workers/model/tokenizer_unicode.h"
#include "workers/model/utf8.h"

struct code_range {
    uint32_t first, last;
};
struct case_run {
    uint32_t first, last, step;
    int32_t delta;
};
enum cluster_class {
    CLUSTER_OTHER,
    CLUSTER_CONTROL,
    CLUSTER_EXTEND,
    CLUSTER_JOINER, /* zero width */
    CLUSTER_SPACING,
    CLUSTER_PREPEND,
    CLUSTER_REGIONAL, /* half of a flag */
    CLUSTER_PICTURE,
    CLUSTER_L, /* Hangul: leading consonant, vowel, trailing consonant, and syllables without and with the last */
    CLUSTER_V,
    CLUSTER_T,
    CLUSTER_LV,
    CLUSTER_LVT
};
struct cluster_run {
    uint32_t first, last;
    enum cluster_class class;
};
#include "workers/model/tokenizer_unicode_tables.inc"

#define COUNT_OF(table) (sizeof(table) / sizeof(table)[0])

static bool is_in(const struct code_range *ranges, size_t count, uint32_t code)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (code > ranges[middle].last) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < count && code >= ranges[low].first;
}

bool unicode_is_dropped(uint32_t code)
{
    return code == 0 || is_in(dropped_ranges, COUNT_OF(dropped_ranges), code);
}

bool unicode_is_chinese(uint32_t code)
{
    return code >= chinese_ranges[0].first && is_in(chinese_ranges, COUNT_OF(chinese_ranges), code);
}

bool unicode_is_accent(uint32_t code)
{
    return code >= accent_ranges[0].first && is_in(accent_ranges, COUNT_OF(accent_ranges), code);
}

bool unicode_is_mark(uint32_t code)
{
    return code >= mark_ranges[0].first && is_in(mark_ranges, COUNT_OF(mark_ranges), code);
}

bool unicode_is_punctuation(uint32_t code)
{
    if (code < 0x80) {
        return (code >= '!' && code <= '/') || (code >= ':' && code <= '@') || (code >= '[' && code <= '`') ||
               (code >= '{' && code <= '~');
    }
    return is_in(punctuation_ranges, COUNT_OF(punctuation_ranges), code);
}

static uint32_t small_letter(uint32_t code)
{
    size_t low = 0, high = COUNT_OF(case_runs);
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (code > case_runs[middle].last) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    const struct case_run *run = &case_runs[low];
    bool is_in_run = low < COUNT_OF(case_runs) && code >= run->first && (code - run->first) % run->step == 0;
    return is_in_run ? (uint32_t)((int32_t)code + run->delta) : code;
}

void unicode_lowercase_append(struct text *text, const char *bytes, size_t length)
{
    for (size_t at = 0; at < length;) {
        char ascii[256];
        size_t count = 0;
        while (count < sizeof ascii && at < length && (unsigned char)bytes[at] < 0x80) {
            char letter = bytes[at++];
            ascii[count++] = (char)(letter >= 'A' && letter <= 'Z' ? letter + ('a' - 'A') : letter);
        }
        text_append_bytes(text, ascii, count);
        if (at == length || (unsigned char)bytes[at] < 0x80) {
            continue;
        }
        uint32_t code = utf8_decode(bytes + at);
        at += utf8_length(bytes + at);
        if (code == 0x130) { /* the one letter that becomes two: i and a dot above */
            text_append(text, "i\xcc\x87");
            continue;
        }
        char encoded[4];
        text_append_bytes(text, encoded, utf8_encode(small_letter(code), encoded));
    }
}

/* ---- grapheme clusters ---------------------------------------------------------------------------------- */

static enum cluster_class class_of(uint32_t code)
{
    if (code >= 0xac00 && code <= 0xd7a3) {
        return (code - 0xac00) % 28 == 0 ? CLUSTER_LV : CLUSTER_LVT;
    }
    size_t low = 0, high = COUNT_OF(cluster_runs);
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (code > cluster_runs[middle].last) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < COUNT_OF(cluster_runs) && code >= cluster_runs[low].first ? cluster_runs[low].class
                                                                           : CLUSTER_OTHER;
}

static bool joins_in_hangul(enum cluster_class left, enum cluster_class right)
{
    bool is_vowel = right == CLUSTER_V, is_tail = right == CLUSTER_T;
    return (left == CLUSTER_L &&
            (right == CLUSTER_L || is_vowel || right == CLUSTER_LV || right == CLUSTER_LVT)) ||
           ((left == CLUSTER_LV || left == CLUSTER_V) && (is_vowel || is_tail)) ||
           ((left == CLUSTER_LVT || left == CLUSTER_T) && is_tail);
}

size_t unicode_cluster_length(const char *bytes, size_t length, size_t at)
{
    size_t end = at + utf8_length(bytes + at), regional_count = 0;
    enum cluster_class left = class_of(utf8_decode(bytes + at));
    bool has_picture = false; /* a picture came, and since then nothing but marks and joiners */
    if (left == CLUSTER_CONTROL) {
        return bytes[at] == '\r' && end < length && bytes[end] == '\n' ? 2 : end - at;
    }
    while (end < length) {
        has_picture =
            left == CLUSTER_PICTURE || (has_picture && (left == CLUSTER_EXTEND || left == CLUSTER_JOINER));
        regional_count += left == CLUSTER_REGIONAL;
        enum cluster_class right = class_of(utf8_decode(bytes + end));
        bool joins = right == CLUSTER_EXTEND || right == CLUSTER_JOINER || right == CLUSTER_SPACING ||
                     (left == CLUSTER_PREPEND && right != CLUSTER_CONTROL) || joins_in_hangul(left, right) ||
                     (left == CLUSTER_JOINER && right == CLUSTER_PICTURE && has_picture) ||
                     (left == CLUSTER_REGIONAL && right == CLUSTER_REGIONAL && regional_count % 2 == 1);
        if (!joins) {
            break;
        }
        end += utf8_length(bytes + end);
        left = right;
    }
    return end - at;
}
