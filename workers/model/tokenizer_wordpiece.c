/*
 * workers/model/tokenizer_wordpiece.c: WordPiece as BERT uses it: from the left, always the longest piece of the vocabulary; pieces
 * inside a word carry a prefix ("##"). A word that cannot be cut up so is one <unk>, and so is a word of too many characters.
 */
#include "workers/model/tokenizer_internal.h"

#include <string.h>

bool wordpiece_prepare(struct wordpiece *wordpiece, const struct vocab *vocab, const char *prefix,
                       struct error *error)
{
    if (!trie_create_of_vocab(&wordpiece->trie, vocab, error)) {
        return false;
    }
    wordpiece->inner = TRIE_ROOT;
    for (; *prefix != '\0' && wordpiece->inner != TRIE_NONE; prefix++) {
        wordpiece->inner = trie_step(&wordpiece->trie, wordpiece->inner, (unsigned char)*prefix);
    }
    return true;
}

void wordpiece_encode(const struct wordpiece *wordpiece, const char *word, size_t length,
                      struct tokens *tokens)
{
    const struct trie *trie = &wordpiece->trie;
    size_t before = tokens->count, characters = 0;
    for (size_t i = 0; i < length && characters <= wordpiece->word_characters_max; i++) {
        characters += ((unsigned char)word[i] & 0xc0) != 0x80;
    }
    bool is_known = characters <= wordpiece->word_characters_max;
    for (size_t start = 0; is_known && start < length;) {
        uint32_t node = start == 0 ? TRIE_ROOT : wordpiece->inner;
        int32_t id = -1;
        size_t end = start;
        for (size_t at = start; at < length && node != TRIE_NONE; at++) {
            node = trie_step(trie, node, (unsigned char)word[at]);
            if (node != TRIE_NONE && trie->slots[node].id >= 0) {
                id = trie->slots[node].id;
                end = at + 1;
            }
        }
        is_known = id >= 0;
        if (is_known) {
            tokens_append(tokens, id);
        }
        start = end;
    }
    if (!is_known) {
        tokens->count = before;
        tokens_append(tokens, wordpiece->unk_id);
    }
}
