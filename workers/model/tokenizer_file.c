/*
 * workers/model/tokenizer_file.c: the bulk of tokenizer.json, read without building a tree of it.
 *
 * A tokenizer holds a few hundred small settings and two giants: model.vocab (up to two million members or pairs) and
 * model.merges. As JSON values those would cost some hundred bytes each, so a hostile 64 MiB file could ask
 * for gigabytes. This scanner walks the two itself, straight into string pools, and leaves a copy of the file
 * in which they are
 * `{}` and `[]`; the copy is small and goes through base/json.h with its usual limits.
 *
 * The scanner only has to understand what it takes out: strings with escapes, plain integers, brackets.
 * Everything else is skipped by bracket counting and judged by the real parser afterwards.
 */
#include "base/memory.h"
#include "workers/model/tokenizer_internal.h"

#include <math.h>
#include <string.h>

#define REST_LIMIT_BYTES (32u << 20)
#define DEPTH_MAX        64

struct scan {
    const char *bytes;
    size_t count, at;
    struct text rest; /* the file without the giants */
    size_t copied;    /* bytes[0, copied) are in rest, or left out */
    struct vocab *vocab;
    struct text *merge_pool;
    struct merge_text *merges; /* owned until handed over */
    size_t merge_count, merge_capacity;
    bool has_vocab, has_merges;
    struct error *error;
};

static bool scan_fail(struct scan *scan, const char *what)
{
    return error_set(scan->error, ERROR_CORRUPT_FILE, "tokenizer.json: %s at byte %zu", what, scan->at);
}

static void scan_space(struct scan *scan)
{
    while (scan->at < scan->count && strchr(" \t\r\n", scan->bytes[scan->at]) != NULL &&
           scan->bytes[scan->at] != '\0') {
        scan->at++;
    }
}

/* Skips white space; the next byte, or NUL at the end. */
static char scan_peek(struct scan *scan)
{
    scan_space(scan);
    return scan->at < scan->count ? scan->bytes[scan->at] : '\0';
}

static bool scan_expect(struct scan *scan, char wanted)
{
    if (scan_peek(scan) != wanted) {
        char what[32] = "expected ' '";
        what[10] = wanted;
        return scan_fail(scan, what);
    }
    scan->at++;
    return true;
}

static bool scan_hex4(struct scan *scan, uint32_t *ret_value)
{
    uint32_t value = 0;
    if (scan->count - scan->at < 4) {
        return scan_fail(scan, "cut-off \\u escape");
    }
    for (size_t i = 0; i < 4; i++) {
        char digit = scan->bytes[scan->at + i];
        uint32_t nibble = digit >= '0' && digit <= '9'   ? (uint32_t)(digit - '0')
                          : digit >= 'a' && digit <= 'f' ? (uint32_t)(digit - 'a' + 10)
                          : digit >= 'A' && digit <= 'F' ? (uint32_t)(digit - 'A' + 10)
                                                         : 16u;
        if (nibble > 15) {
            return scan_fail(scan, "bad \\u escape");
        }
        value = value << 4 | nibble;
    }
    scan->at += 4;
    *ret_value = value;
    return true;
}

/* After the backslash. Appends the character. */
static bool scan_escape(struct scan *scan, struct text *text)
{
    static const char letters[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    char letter = scan->at < scan->count ? scan->bytes[scan->at++] : '\0';
    const char *found = letter != '\0' ? strchr(letters, letter) : NULL;
    if (found != NULL) {
        text_append_bytes(text, &meanings[found - letters], 1);
        return true;
    }
    uint32_t code = 0, low = 0;
    if (letter != 'u' || !scan_hex4(scan, &code)) {
        return letter != 'u' ? scan_fail(scan, "unknown escape") : false;
    }
    if (code >= 0xd800 && code < 0xdc00) {
        if (scan->count - scan->at < 6 || memcmp(scan->bytes + scan->at, "\\u", 2) != 0) {
            return scan_fail(scan, "lone surrogate");
        }
        scan->at += 2;
        if (!scan_hex4(scan, &low)) {
            return false;
        }
        if (low < 0xdc00 || low > 0xdfff) {
            return scan_fail(scan, "lone surrogate");
        }
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    } else if (code >= 0xdc00 && code < 0xe000) {
        return scan_fail(scan, "lone surrogate");
    }
    char bytes[4];
    size_t length = utf8_encode(code, bytes);
    text_append_bytes(text, bytes, length);
    return true;
}

/* A string, appended to text. */
static bool scan_string(struct scan *scan, struct text *text)
{
    if (!scan_expect(scan, '"')) {
        return false;
    }
    for (;;) {
        size_t start = scan->at;
        while (scan->at < scan->count && scan->bytes[scan->at] != '"' && scan->bytes[scan->at] != '\\' &&
               (unsigned char)scan->bytes[scan->at] >= 0x20) {
            scan->at++;
        }
        text_append_bytes(text, scan->bytes + start, scan->at - start);
        if (scan->at >= scan->count || (unsigned char)scan->bytes[scan->at] < 0x20) {
            return scan_fail(scan, "unfinished string");
        }
        if (scan->bytes[scan->at++] == '"') {
            return true;
        }
        if (!scan_escape(scan, text)) {
            return false;
        }
    }
}

/* Past one value of any kind, by brackets and quotes only. */
static bool scan_skip(struct scan *scan)
{
    size_t depth = 0;
    do {
        char next = scan_peek(scan);
        if (next == '"') {
            scan->at++;
            while (scan->at < scan->count && scan->bytes[scan->at] != '"') {
                scan->at += scan->bytes[scan->at] == '\\' ? 2 : 1;
            }
            scan->at++;
        } else if (next == '{' || next == '[') {
            depth++;
            scan->at++;
        } else if ((next == '}' || next == ']') && depth > 0) {
            depth--;
            scan->at++;
        } else if ((next == ',' || next == ':') && depth > 0) {
            scan->at++;
        } else {
            size_t start = scan->at;
            while (scan->at < scan->count && strchr(",:{}[]\" \t\r\n", scan->bytes[scan->at]) == NULL) {
                scan->at++;
            }
            if (scan->at == start) {
                return scan_fail(scan, "expected a value");
            }
        }
        if (scan->at > scan->count || depth > DEPTH_MAX) {
            scan->at = scan->at > scan->count ? scan->count : scan->at;
            return scan_fail(scan, depth > DEPTH_MAX ? "nested too deep" : "unfinished file");
        }
    } while (depth > 0);
    return true;
}

/* Walks {"key": value, ...} or [value, ...]: false when there is no further item or on a fault (*ret_ok
 * tells). */
static bool scan_next(struct scan *scan, char end, bool *is_first, bool *ret_ok)
{
    char next = scan_peek(scan);
    *ret_ok = true;
    if (next == end) {
        scan->at++;
        return false;
    }
    if (!*is_first && !scan_expect(scan, ',')) {
        *ret_ok = false;
        return false;
    }
    *is_first = false;
    return true;
}

static bool scan_id(struct scan *scan, int32_t *ret_id)
{
    uint64_t value = 0;
    (void)scan_peek(scan);
    size_t start = scan->at;
    while (scan->at < scan->count && scan->bytes[scan->at] >= '0' && scan->bytes[scan->at] <= '9' &&
           scan->at - start < 8) {
        scan->at++;
    }
    if (!text_parse_u64(scan->bytes + start, scan->at - start, &value) || value >= TOKENIZER_IDS_MAX) {
        scan->at = start;
        return scan_fail(scan, "a token id that is no integer below 2097152");
    }
    *ret_id = (int32_t)value;
    return true;
}

static double scaled(double value, int64_t exponent)
{
    static const double powers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    int64_t left = exponent < 0 ? -exponent : exponent;
    if (value == 0.0 || left > 700) {
        return exponent > 0 && value != 0.0 ? HUGE_VAL : 0.0;
    }
    double power = 1.0;
    for (; left > 22; left -= 22) {
        power *= 1e22;
    }
    power *= powers[left];
    return exponent < 0 ? value / power : value * power;
}

/* A JSON number. The value is the digits as an integer, times or over a power of ten, one rounding each: that is how the
 * reference reads it, and scores that tie there must tie here. */
static bool scan_number(struct scan *scan, double *ret_value)
{
    (void)scan_peek(scan);
    size_t start = scan->at;
    uint64_t digits = 0;
    int64_t exponent = 0, shift = 0;
    size_t digit_count = 0;
    bool is_negative = scan->at < scan->count && scan->bytes[scan->at] == '-', after_point = false;
    scan->at += is_negative ? 1 : 0;
    for (; scan->at < scan->count; scan->at++) {
        char next = scan->bytes[scan->at];
        if (next == '.' && !after_point) {
            after_point = true;
            continue;
        }
        if (next < '0' || next > '9') {
            break;
        }
        digit_count++;
        if (digits < UINT64_MAX / 10) {
            digits = digits * 10 + (uint64_t)(next - '0');
            shift -= after_point ? 1 : 0;
        } else {
            shift += after_point ? 0 : 1;
        }
    }
    if (scan->at < scan->count && (scan->bytes[scan->at] == 'e' || scan->bytes[scan->at] == 'E')) {
        scan->at++;
        bool is_small = scan->at < scan->count && scan->bytes[scan->at] == '-';
        scan->at += scan->at < scan->count && (is_small || scan->bytes[scan->at] == '+') ? 1 : 0;
        digit_count = 0; /* some must follow */
        for (; scan->at < scan->count && scan->bytes[scan->at] >= '0' && scan->bytes[scan->at] <= '9';
             scan->at++) {
            digit_count++;
            exponent = exponent < 100000 ? exponent * 10 + (scan->bytes[scan->at] - '0') : exponent;
        }
        exponent = is_small ? -exponent : exponent;
    }
    double value = scaled((double)digits, exponent + shift);
    if (digit_count == 0 || !isfinite(value)) {
        scan->at = start;
        return scan_fail(scan, "expected a number");
    }
    *ret_value = is_negative ? -value : value;
    return true;
}

static bool vocab_grow(struct scan *scan, bool has_scores)
{
    struct vocab *vocab = scan->vocab;
    if (vocab->entry_count < vocab->entry_capacity) {
        return true;
    }
    if (vocab->entry_count >= TOKENIZER_IDS_MAX) {
        return scan_fail(scan, "more than 2097152 tokens");
    }
    vocab->entry_capacity = vocab->entry_capacity == 0 ? 1024 : vocab->entry_capacity * 2;
    vocab->entries = memory_resize(vocab->entries, vocab->entry_capacity, sizeof *vocab->entries);
    if (has_scores) {
        vocab->scores = memory_resize(vocab->scores, vocab->entry_capacity, sizeof *vocab->scores);
    }
    return true;
}

static bool scan_content(struct scan *scan, struct vocab_entry *entry)
{
    struct vocab *vocab = scan->vocab;
    entry->content.offset = (uint32_t)vocab->pool.length;
    if (!scan_string(scan, &vocab->pool)) {
        return false;
    }
    entry->content.length = (uint32_t)(vocab->pool.length - entry->content.offset);
    return true;
}

/* {"content": id, ...} */
static bool scan_vocab(struct scan *scan)
{
    struct vocab *vocab = scan->vocab;
    bool is_first = true, ok = true;
    if (!scan_expect(scan, '{')) {
        return false;
    }
    while (scan_next(scan, '}', &is_first, &ok)) {
        if (!vocab_grow(scan, false)) {
            return false;
        }
        struct vocab_entry *entry = &vocab->entries[vocab->entry_count];
        if (!scan_content(scan, entry) || !scan_expect(scan, ':') || !scan_id(scan, &entry->id)) {
            return false;
        }
        vocab->entry_count++;
    }
    return ok;
}

/* [["content", score], ...]: ids count up. */
static bool scan_scored_vocab(struct scan *scan)
{
    struct vocab *vocab = scan->vocab;
    bool is_first = true, ok = true;
    if (!scan_expect(scan, '[')) {
        return false;
    }
    while (scan_next(scan, ']', &is_first, &ok)) {
        if (!vocab_grow(scan, true)) {
            return false;
        }
        struct vocab_entry *entry = &vocab->entries[vocab->entry_count];
        entry->id = (int32_t)vocab->entry_count;
        if (!scan_expect(scan, '[') || !scan_content(scan, entry) || !scan_expect(scan, ',') ||
            !scan_number(scan, &vocab->scores[vocab->entry_count]) || !scan_expect(scan, ']')) {
            return false;
        }
        vocab->entry_count++;
    }
    return ok;
}

/* "left right", or ["left", "right"]. */
static bool scan_merge(struct scan *scan, struct merge_text *merge)
{
    struct text *pool = scan->merge_pool;
    size_t start = pool->length, middle = 0, right = 0;
    if (scan_peek(scan) == '[') {
        scan->at++;
        if (!scan_string(scan, pool)) {
            return false;
        }
        middle = right = pool->length;
        if (!scan_expect(scan, ',') || !scan_string(scan, pool) || !scan_expect(scan, ']')) {
            return false;
        }
    } else {
        if (!scan_string(scan, pool)) {
            return false;
        }
        const char *space =
            pool->length > start ? memchr(pool->bytes + start, ' ', pool->length - start) : NULL;
        if (space == NULL) {
            return scan_fail(scan, "a merge without its space");
        }
        middle = (size_t)(space - pool->bytes);
        right = middle + 1;
        if (memchr(pool->bytes + right, ' ', pool->length - right) != NULL) {
            return scan_fail(scan, "a merge with two spaces");
        }
    }
    merge->left = (struct slice){(uint32_t)start, (uint32_t)(middle - start)};
    merge->right = (struct slice){(uint32_t)right, (uint32_t)(pool->length - right)};
    return true;
}

static bool scan_merges(struct scan *scan)
{
    bool is_first = true, ok = true;
    if (!scan_expect(scan, '[')) {
        return false;
    }
    while (scan_next(scan, ']', &is_first, &ok)) {
        if (scan->merge_count == scan->merge_capacity) {
            if (scan->merge_count >= TOKENIZER_MERGES_MAX) {
                return scan_fail(scan, "more than 2000000 merges");
            }
            scan->merge_capacity = scan->merge_capacity == 0 ? 1024 : scan->merge_capacity * 2;
            scan->merges = memory_resize(scan->merges, scan->merge_capacity, sizeof *scan->merges);
        }
        if (!scan_merge(scan, &scan->merges[scan->merge_count])) {
            return false;
        }
        scan->merge_count++;
    }
    return ok;
}

/* One giant: taken out of the rest, which gets its empty form. A giant of another shape belongs to another
 * model type; it is left out too, so that the answer is about the type and not about size. */
static bool scan_giant(struct scan *scan, bool is_vocab)
{
    bool *seen = is_vocab ? &scan->has_vocab : &scan->has_merges;
    char wanted = is_vocab ? '{' : '[';
    if (*seen) {
        return error_set(scan->error, ERROR_DUPLICATE_KEY, "tokenizer.json: model.%s stands there twice",
                         is_vocab ? "vocab" : "merges");
    }
    *seen = true;
    char first = scan_peek(scan);
    text_append_bytes(&scan->rest, scan->bytes + scan->copied, scan->at - scan->copied);
    bool ok = is_vocab && first == '[' ? scan_scored_vocab(scan)
              : first != wanted        ? scan_skip(scan)
              : is_vocab               ? scan_vocab(scan)
                                       : scan_merges(scan);
    text_append(&scan->rest, first == '{' ? "{}" : first == '[' ? "[]" : "null");
    scan->copied = scan->at;
    return ok;
}

/* The object at `at`; inside "model" the giants are taken out. */
static bool scan_object(struct scan *scan, bool is_model)
{
    struct text key = {0};
    bool is_first = true, ok = scan_expect(scan, '{');
    while (ok && scan_next(scan, '}', &is_first, &ok)) {
        text_clear(&key);
        ok = scan_string(scan, &key) && scan_expect(scan, ':');
        if (!ok) {
            break;
        }
        const char *name = key.bytes != NULL ? key.bytes : "";
        if (is_model && (strcmp(name, "vocab") == 0 || strcmp(name, "merges") == 0)) {
            ok = scan_giant(scan, strcmp(name, "vocab") == 0);
        } else if (!is_model && strcmp(name, "model") == 0 && scan_peek(scan) == '{') {
            ok = scan_object(scan, true);
        } else {
            ok = scan_skip(scan);
        }
    }
    text_finish(&key);
    return ok;
}

json_t *tokenizer_file_read(const char *bytes, size_t count, struct vocab *vocab, struct text *merge_pool,
                            struct merge_text **ret_merges, size_t *ret_merge_count, struct error *error)
{
    size_t valid = utf8_valid_prefix(bytes, count);
    if (valid != count) {
        (void)error_set(error, ERROR_CORRUPT_FILE, "tokenizer.json: not UTF-8 at byte %zu", valid);
        return NULL;
    }
    struct scan scan = {
        .bytes = bytes, .count = count, .vocab = vocab, .merge_pool = merge_pool, .error = error};
    json_t *json = NULL;
    if (scan_object(&scan, false)) {
        text_append_bytes(&scan.rest, bytes + scan.copied, count - scan.copied);
        json = json_parse(scan.rest.bytes, scan.rest.length, REST_LIMIT_BYTES, error);
        if (json == NULL) {
            (void)error_prefix(error, "tokenizer.json: ");
        }
    }
    text_finish(&scan.rest);
    if (json == NULL) {
        free(scan.merges);
        return NULL;
    }
    *ret_merges = scan.merges;
    *ret_merge_count = scan.merge_count;
    return json;
}
