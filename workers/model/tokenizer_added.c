/*
 * workers/model/tokenizer_added.c: tokens that are cut out of a text before anything else sees it: <s>,
 * <|endoftext|> and such.
 *
 * The search is leftmost, then longest, as the reference's automaton does it. There are few such tokens and
 * they start with rare bytes, so a list per first byte is enough. Tokens with `normalized: true` are looked
 * for in the normalized text, in their own normalized form, after the others were cut out.
 */
#include "base/memory.h"
#include "workers/model/tokenizer_internal.h"

#include <string.h>

static int pattern_compare(const void *left_item, const void *right_item)
{
    const struct added_pattern *left = left_item, *right = right_item;
    unsigned char left_byte = (unsigned char)left->bytes[0], right_byte = (unsigned char)right->bytes[0];
    if (left_byte != right_byte) {
        return left_byte < right_byte ? -1 : 1;
    }
    if (left->length != right->length) {
        return left->length > right->length ? -1 : 1;
    }
    return left->token < right->token ? -1 : left->token > right->token;
}

void added_set_create(const struct tokenizer *tokenizer, bool is_normalized, struct added_set *ret_set)
{
    ret_set->patterns = memory_create(tokenizer->added_count + 1, sizeof *ret_set->patterns);
    for (size_t i = 0; i < tokenizer->added_count; i++) {
        const struct added_token *token = &tokenizer->added[i];
        if (token->is_normalized != is_normalized || token->length == 0) {
            continue;
        }
        struct text bytes = {0};
        if (is_normalized) {
            tokenizer_normalize(tokenizer, token->content, token->length, &bytes);
        } else {
            text_append_bytes(&bytes, token->content, token->length);
        }
        size_t length = bytes.length;
        if (length == 0) {
            text_finish(&bytes);
            continue;
        }
        ret_set->patterns[ret_set->count++] =
            (struct added_pattern){.bytes = text_take(&bytes), .length = length, .token = i};
    }
    qsort(ret_set->patterns, ret_set->count, sizeof *ret_set->patterns, pattern_compare);
    size_t at = 0;
    for (size_t byte = 0; byte <= 256; byte++) {
        while (at < ret_set->count && (unsigned char)ret_set->patterns[at].bytes[0] < byte) {
            at++;
        }
        ret_set->first[byte] = at;
    }
}

void added_set_finish(struct added_set *set)
{
    for (size_t i = 0; i < set->count; i++) {
        free(set->patterns[i].bytes);
    }
    free(set->patterns);
}

static size_t spaces_before(const char *bytes, size_t end, size_t floor)
{
    while (end > floor) {
        size_t start = end - 1;
        while (start > 0 && ((unsigned char)bytes[start] & 0xc0) == 0x80) {
            start--;
        }
        if (!utf8_is_space(utf8_decode(bytes + start)) || start < floor) {
            break;
        }
        end = start;
    }
    return end;
}

static size_t spaces_after(const char *bytes, size_t start, size_t length)
{
    while (start < length && utf8_is_space(utf8_decode(bytes + start))) {
        start += utf8_length(bytes + start);
    }
    return start;
}

/* A word character next to a match of a single_word token forbids it. */
static bool touches_word(const struct tokenizer *tokenizer, const char *bytes, size_t length, size_t start,
                         size_t end)
{
    if (start > 0) {
        size_t before = start - 1;
        while (before > 0 && ((unsigned char)bytes[before] & 0xc0) == 0x80) {
            before--;
        }
        if (split_is_word_character(tokenizer->patterns, bytes + before)) {
            return true;
        }
    }
    return end < length && split_is_word_character(tokenizer->patterns, bytes + end);
}

bool added_set_next(const struct tokenizer *tokenizer, const struct added_set *set, const char *bytes,
                    size_t length, size_t floor, size_t *at, struct added_match *ret_match)
{
    while (set->count > 0 && *at < length) {
        unsigned char byte = (unsigned char)bytes[*at];
        const struct added_pattern *found = NULL;
        for (size_t i = set->first[byte]; i < set->first[byte + 1] && found == NULL; i++) {
            const struct added_pattern *pattern = &set->patterns[i];
            if (pattern->length <= length - *at &&
                memcmp(pattern->bytes, bytes + *at, pattern->length) == 0) {
                found = pattern;
            }
        }
        if (found == NULL) {
            (*at)++;
            continue;
        }
        const struct added_token *token = &tokenizer->added[found->token];
        size_t start = *at, end = *at + found->length;
        *at = end;
        if (token->is_single_word && touches_word(tokenizer, bytes, length, start, end)) {
            continue;
        }
        ret_match->start = token->strips_left ? spaces_before(bytes, start, floor) : start;
        ret_match->end = token->strips_right ? spaces_after(bytes, end, length) : end;
        ret_match->id = token->id;
        return true;
    }
    return false;
}
