/*
 * workers/model/tokenizer_vocab.c: the vocabulary: a hash table from content to id, and, for those who look for all tokens that start
 * at a place (WordPiece, Unigram, added tokens), a trie.
 *
 * The trie is a hash table too: key = node << 8 | byte, and the node that an edge leads to is named by the slot the edge lies in. So a
 * slot is eight bytes, one step is one probe as a rule, and memory is of the order of the vocabulary's bytes. When the table gets
 * half full it is made anew at twice the size, because growing moves the nodes.
 */
#include "base/memory.h"
#include "workers/model/tokenizer_internal.h"

#include <string.h>

/* ---- content to id -------------------------------------------------------------------------------------- */

uint64_t tokenizer_mix64(uint64_t value)
{
    value ^= value >> 32;
    value *= 0xd6e8feb86659fd93u;
    value ^= value >> 32;
    value *= 0xd6e8feb86659fd93u;
    return value ^ value >> 32;
}

static uint64_t hash_bytes(const char *bytes, size_t length)
{
    uint64_t hash = 0x9e3779b97f4a7c15u ^ length;
    while (length >= 8) {
        uint64_t word = 0;
        memcpy(&word, bytes, 8);
        hash = tokenizer_mix64(hash ^ word);
        bytes += 8;
        length -= 8;
    }
    uint64_t tail = 0;
    memcpy(&tail, bytes, length);
    return tokenizer_mix64(hash ^ tail);
}

size_t tokenizer_slot_count(size_t count)
{
    size_t slots = 16;
    while (slots < count * 2) {
        slots *= 2;
    }
    return slots;
}

static size_t vocab_slot(const struct vocab *vocab, const char *content, size_t length)
{
    size_t slot = (size_t)hash_bytes(content, length) & (vocab->slot_count - 1);
    while (vocab->slots[slot] != 0) {
        struct slice known = vocab->entries[vocab->slots[slot] - 1].content;
        if (known.length == length && memcmp(vocab->pool.bytes + known.offset, content, length) == 0) {
            break;
        }
        slot = (slot + 1) & (vocab->slot_count - 1);
    }
    return slot;
}

int32_t vocab_find(const struct vocab *vocab, const char *content, size_t length)
{
    size_t slot = vocab_slot(vocab, content, length);
    return vocab->slots[slot] != 0 ? vocab->entries[vocab->slots[slot] - 1].id : -1;
}

bool vocab_index(struct vocab *vocab, struct error *error)
{
    vocab->slot_count = tokenizer_slot_count(vocab->entry_count);
    vocab->slots = memory_create(vocab->slot_count, sizeof *vocab->slots);
    for (size_t i = 0; i < vocab->entry_count; i++) {
        const struct vocab_entry *entry = &vocab->entries[i];
        const char *content = vocab->pool.bytes + entry->content.offset;
        size_t slot = vocab_slot(vocab, content, entry->content.length);
        if (vocab->slots[slot] != 0) {
            return error_set_field(error, ERROR_DUPLICATE_KEY, "tokenizer.json/model/vocab",
                                   "tokenizer.json: token \"%.*s\" stands twice in the vocabulary",
                                   (int)entry->content.length, content);
        }
        vocab->slots[slot] = (uint32_t)i + 1;
        if ((size_t)entry->id >= vocab->id_end) {
            vocab->id_end = (size_t)entry->id + 1;
        }
    }
    return true;
}

void vocab_finish(struct vocab *vocab)
{
    text_finish(&vocab->pool);
    free(vocab->entries);
    free(vocab->scores);
    free(vocab->slots);
}

/* ---- trie ----------------------------------------------------------------------------------------------- */

#define TRIE_SLOTS_MAX (1u << 23)
#define TRIE_FREE      UINT32_MAX /* root << 8 | 0xff, and UTF-8 has no byte 0xff */

/* The slot of the edge, or the free one where it belongs. */
static uint32_t trie_slot(const struct trie *trie, uint32_t key)
{
    uint32_t mask = trie->slot_count - 1;
    uint32_t slot = (uint32_t)((key * 0x9e3779b97f4a7c15u) >> 40) & mask;
    while (trie->slots[slot].key != key && trie->slots[slot].key != TRIE_FREE) {
        slot = (slot + 1) & mask;
    }
    return slot;
}

uint32_t trie_step(const struct trie *trie, uint32_t node, unsigned char byte)
{
    if (node == TRIE_ROOT) {
        return trie->first[byte];
    }
    uint32_t slot = trie_slot(trie, node << 8 | byte);
    return trie->slots[slot].key != TRIE_FREE ? slot : TRIE_NONE;
}

static void trie_start(struct trie *trie, uint32_t slot_count)
{
    free(trie->slots);
    trie->slots = memory_create(slot_count, sizeof *trie->slots);
    memset(trie->slots, 0xff, slot_count * sizeof *trie->slots); /* free keys, ids -1 */
    trie->slot_count = slot_count;
    trie->used_count = 0;
}

/* False: the table is half full. */
static bool trie_add(struct trie *trie, const char *content, size_t length, int32_t id)
{
    uint32_t node = TRIE_ROOT;
    for (size_t i = 0; i < length; i++) {
        uint32_t key = node << 8 | (unsigned char)content[i];
        node = trie_slot(trie, key);
        if (trie->slots[node].key == TRIE_FREE) {
            if (trie->used_count * 2 >= trie->slot_count) {
                return false;
            }
            trie->slots[node].key = key;
            trie->used_count++;
        }
    }
    trie->slots[node].id = trie->slots[node].id >= 0 ? trie->slots[node].id : id;
    return true;
}

bool trie_create(struct trie *trie, trie_item *item, const void *context, size_t count, struct error *error)
{
    uint32_t slot_count = 64;
    trie_start(trie, slot_count);
    for (size_t i = 0; i < count; i++) {
        size_t length = 0;
        int32_t id = 0;
        const char *content = item(context, i, &length, &id);
        if (length > TOKENIZER_PIECE_MAX_BYTES) {
            return error_set_field(error, ERROR_UNSUPPORTED, "tokenizer.json/model/vocab",
                                   "tokenizer.json: a token of %zu bytes; at most %u are supported", length,
                                   TOKENIZER_PIECE_MAX_BYTES);
        }
        if (length == 0 || trie_add(trie, content, length, id)) {
            continue;
        }
        if (slot_count == TRIE_SLOTS_MAX) {
            return error_set_field(error, ERROR_UNSUPPORTED, "tokenizer.json/model/vocab",
                                   "tokenizer.json: the vocabulary has more than %u different beginnings",
                                   TRIE_SLOTS_MAX / 2);
        }
        slot_count *= 2;
        trie_start(trie, slot_count);
        i = SIZE_MAX; /* from the first item again */
    }
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t slot = byte < 255 ? trie_slot(trie, TRIE_ROOT << 8 | byte) : 0;
        trie->first[byte] = byte < 255 && trie->slots[slot].key != TRIE_FREE ? slot : TRIE_NONE;
    }
    return true;
}

static const char *vocab_item(const void *context, size_t index, size_t *ret_length, int32_t *ret_id)
{
    const struct vocab *vocab = context;
    const struct vocab_entry *entry = &vocab->entries[index];
    *ret_length = entry->content.length;
    *ret_id = entry->id;
    return vocab->pool.bytes + entry->content.offset;
}

bool trie_create_of_vocab(struct trie *trie, const struct vocab *vocab, struct error *error)
{
    return trie_create(trie, vocab_item, vocab, vocab->entry_count, error);
}

void trie_finish(struct trie *trie)
{
    free(trie->slots);
}
