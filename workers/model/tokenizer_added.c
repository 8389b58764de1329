/*
 * workers/model/tokenizer_added.c: tokens that are cut out of a text before anything else sees it: <s>,
 * <|endoftext|> and such.
 *
 * The search is leftmost, then longest, as the reference's automaton does it: a walk down a trie from every place, which ends
 * at the first byte as a rule. Tokens with `normalized: true` are looked
 * for in the normalized text, in their own normalized form, after the others were cut out.
 */
#include "base/memory.h"
#include "workers/model/tokenizer_internal.h"

#include <string.h>

static const char *pattern_item(const void *context, size_t index, size_t *ret_length, int32_t *ret_id)
{
    const struct added_set *set = context;
    *ret_length = set->patterns[index].length;
    *ret_id = (int32_t)index;
    return set->patterns[index].bytes;
}

bool added_set_create(const struct tokenizer *tokenizer, bool is_normalized, struct added_set *ret_set,
                      struct error *error)
{
    ret_set->patterns = memory_create(tokenizer->added_count + 1, sizeof *ret_set->patterns);
    ret_set->tokens = memory_create(tokenizer->added_count + 1, sizeof *ret_set->tokens);
    for (size_t i = 0; i < tokenizer->added_count; i++) {
        const struct added_token *token = &tokenizer->added[i];
        if (token->is_normalized != is_normalized || token->length == 0) {
            continue;
        }
        struct text *bytes = &ret_set->patterns[ret_set->count];
        ret_set->tokens[ret_set->count++] = i;
        if (!is_normalized) {
            text_append_bytes(bytes, token->content, token->length);
        } else if (!tokenizer_normalize(tokenizer, token->content, token->length, bytes, error)) {
            return false;
        }
    }
    return trie_create(&ret_set->trie, pattern_item, ret_set, ret_set->count, error);
}

void added_set_finish(struct added_set *set)
{
    for (size_t i = 0; i < set->count; i++) {
        text_finish(&set->patterns[i]);
    }
    free(set->patterns);
    free(set->tokens);
    trie_finish(&set->trie);
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
    const struct trie *trie = &set->trie;
    while (set->count > 0 && *at < length) {
        size_t start = *at, end = start;
        int32_t row = -1;
        uint32_t node = trie_step(trie, TRIE_ROOT, (unsigned char)bytes[start]);
        for (size_t next = start + 1; node != TRIE_NONE; next++) {
            if (trie->slots[node].id >= 0) {
                row = trie->slots[node].id;
                end = next;
            }
            node = next < length ? trie_step(trie, node, (unsigned char)bytes[next]) : TRIE_NONE;
        }
        if (row < 0) {
            (*at)++;
            continue;
        }
        const struct added_token *token = &tokenizer->added[set->tokens[row]];
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
