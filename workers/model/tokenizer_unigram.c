/*
 * workers/model/tokenizer_unigram.c: the unigram language model (Kudo 2018): of all ways to cut a text into pieces, the one with the
 * highest sum of log probabilities, found from left to right (Viterbi). A character that is no piece by itself may stand as
 * <unk>, ten below the worst piece; a run of <unk> becomes one, or its bytes.
 *
 * Sums are doubles added in the reference's order, and only a better way replaces a known one: ties come out alike.
 */
#include "base/check.h"
#include "base/memory.h"
#include "workers/model/tokenizer_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define UNKNOWN_PENALTY 10.0
#define NO_WAY          UINT32_MAX

bool unigram_prepare(struct unigram *unigram, const struct vocab *vocab, bool falls_back_to_bytes,
                     struct error *error)
{
    double lowest = INFINITY;
    unigram->vocab = vocab;
    for (size_t i = 0; i < vocab->entry_count; i++) {
        lowest = vocab->scores[i] < lowest ? vocab->scores[i] : lowest;
    }
    unigram->unk_score = lowest - UNKNOWN_PENALTY;
    for (unsigned byte = 0; byte < 256; byte++) {
        char content[8];
        size_t length = (size_t)snprintf(content, sizeof content, "<0x%02X>", byte);
        unigram->byte_ids[byte] = falls_back_to_bytes ? vocab_find(vocab, content, length) : -1;
    }
    return trie_create_of_vocab(&unigram->trie, vocab, error);
}

static void offer(struct unigram_node *node, double score, size_t start, int32_t id)
{
    if (node->start == NO_WAY || score > node->score) {
        *node = (struct unigram_node){.score = score, .start = (uint32_t)start, .id = id};
    }
}

/* Fills nodes[0..length]: node i is the best way to cut word[0, i); only ends of characters are reached. */
static void find_best(const struct unigram *unigram, const char *word, size_t length,
                      struct unigram_node *nodes)
{
    const struct trie *trie = &unigram->trie;
    const double *scores = unigram->vocab->scores;
    for (size_t i = 0; i <= length; i++) {
        nodes[i].start = NO_WAY;
    }
    nodes[0].score = 0.0;
    for (size_t start = 0, width = 1; start < length; start += width) {
        double here = nodes[start].score;
        bool has_character = false;
        uint32_t node = TRIE_ROOT;
        width = utf8_length(word + start);
        for (size_t at = start; at < length; at++) {
            node = trie_step(trie, node, (unsigned char)word[at]);
            if (node == TRIE_NONE) {
                break;
            }
            int32_t id = trie->slots[node].id;
            if (id >= 0) {
                offer(&nodes[at + 1], scores[id] + here, start, id);
                has_character = has_character || at + 1 - start == width;
            }
        }
        if (!has_character) {
            offer(&nodes[start + width], unigram->unk_score + here, start, unigram->unk_id);
        }
    }
}

/* Appends, last first, what word[start, end) becomes that no piece covers. */
static void append_unknown(const struct unigram *unigram, const char *word, size_t start, size_t end,
                           struct tokens *reversed)
{
    size_t before = reversed->count;
    int32_t whole = vocab_find(unigram->vocab, word + start, end - start);
    if (whole >= 0) { /* fused characters may be a piece, after all */
        tokens_append(reversed, whole);
        return;
    }
    for (size_t i = end; i > start; i--) {
        int32_t id = unigram->byte_ids[(unsigned char)word[i - 1]];
        if (id < 0) {
            reversed->count = before;
            tokens_append(reversed, unigram->unk_id);
            return;
        }
        tokens_append(reversed, id);
    }
}

void unigram_encode(const struct unigram *unigram, const char *word, size_t length,
                    struct unigram_scratch *scratch, struct tokens *tokens)
{
    CHECK(length < INT32_MAX);
    if (scratch->node_capacity < length + 1) {
        scratch->node_capacity = length + 1 > 256 ? length + 1 : 256;
        free(scratch->nodes);
        scratch->nodes = memory_create(scratch->node_capacity, sizeof *scratch->nodes);
    }
    const struct unigram_node *nodes = scratch->nodes;
    find_best(unigram, word, length, scratch->nodes);
    scratch->reversed.count = 0;
    size_t end = length, unknown_end = length; /* word[end, unknown_end): a run of <unk> seen so far */
    while (end > 0) {
        if (nodes[end].id != unigram->unk_id) {
            if (unknown_end > end) {
                append_unknown(unigram, word, end, unknown_end, &scratch->reversed);
            }
            tokens_append(&scratch->reversed, nodes[end].id);
            unknown_end = nodes[end].start;
        }
        end = nodes[end].start;
    }
    if (unknown_end > 0) {
        append_unknown(unigram, word, 0, unknown_end, &scratch->reversed);
    }
    for (size_t i = scratch->reversed.count; i > 0; i--) {
        tokens_append(tokens, scratch->reversed.ids[i - 1]);
    }
}
