/*
 * workers/model/tokenizer_bpe.c: byte-pair encoding (Sennrich et al. 2016): a word starts as its characters
 * (or bytes); the adjacent pair with the lowest merge rank, leftmost first, is joined until no pair is in the
 * table.
 *
 * Cost: candidates wait in a binary heap ordered by (rank, position) and symbols form a linked list, so a
 * word of n symbols takes O(n log n). SentencePiece-style models have no words: a whole document comes at
 * once. There, a boundary between two initial symbols that no merge can ever join cuts the text into
 * independent parts. Whether one can is known beforehand: a merge (L, R) joins the last character of L with
 * the first of R, so the set of these junctions over all merges decides it exactly. In practice the parts are
 * words, and the heap stays in cache.
 */
#include "base/check.h"
#include "base/memory.h"
#include "workers/model/tokenizer_internal.h"

#include <stdio.h>
#include <string.h>

/* ---- tables ---------------------------------------------------------------------------------------------
 */

static void pair_table_create(struct pair_table *table, size_t count, bool has_values)
{
    table->slot_count = tokenizer_slot_count(count);
    table->keys = memory_create(table->slot_count, sizeof *table->keys);
    memset(table->keys, 0xff, table->slot_count * sizeof *table->keys);
    table->values = has_values ? memory_create(table->slot_count, sizeof *table->values) : NULL;
}

static uint64_t pair_key(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

/* The slot of the key, or the free one where it belongs. */
static size_t pair_slot(const struct pair_table *table, uint64_t key)
{
    size_t slot = (size_t)tokenizer_mix64(key) & (table->slot_count - 1);
    while (table->keys[slot] != key && table->keys[slot] != PAIR_EMPTY) {
        slot = (slot + 1) & (table->slot_count - 1);
    }
    return slot;
}

static const struct merge *pair_find(const struct pair_table *table, int32_t left, int32_t right)
{
    size_t slot = pair_slot(table, pair_key(left, right));
    return table->keys[slot] != PAIR_EMPTY ? &table->values[slot] : NULL;
}

static void junction_add(struct pair_table *table, int32_t left, int32_t right)
{
    if (left < 0 || right < 0) {
        return;
    }
    if (table->used_count * 2 >= table->slot_count) {
        struct pair_table wider = {0};
        pair_table_create(&wider, table->slot_count, false);
        for (size_t i = 0; i < table->slot_count; i++) {
            if (table->keys[i] != PAIR_EMPTY) {
                wider.keys[pair_slot(&wider, table->keys[i])] = table->keys[i];
            }
        }
        wider.used_count = table->used_count;
        free(table->keys);
        *table = wider;
    }
    size_t slot = pair_slot(table, pair_key(left, right));
    if (table->keys[slot] == PAIR_EMPTY) {
        table->keys[slot] = pair_key(left, right);
        table->used_count++;
    }
}

/* ---- the byte-level alphabet -------------------------------------------------------------------------- */

/* GPT-2's bytes_to_unicode: printable bytes stand for themselves, the other 68 for 256, 257, ... in order. */
uint32_t bpe_byte_letter(unsigned byte)
{
    if ((byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae) {
        return byte;
    }
    return byte <= ' ' ? 256 + byte : byte < 0xad ? 256 + 33 + (byte - 0x7f) : 256 + 67;
}

int bpe_letter_byte(uint32_t letter)
{
    if (letter < 256) {
        return bpe_byte_letter(letter) == letter ? (int)letter : -1;
    }
    if (letter <= 256 + 32) {
        return (int)(letter - 256);
    }
    return letter < 256 + 67 ? (int)(letter - 256 - 33 + 0x7f) : letter == 256 + 67 ? 0xad : -1;
}

static void prepare_bytes(struct bpe *bpe)
{
    for (unsigned byte = 0; byte < 256; byte++) {
        char content[8];
        size_t length = 0;
        if (bpe->is_byte_level) {
            length = utf8_encode(bpe_byte_letter(byte), content);
        } else {
            length = (size_t)snprintf(content, sizeof content, "<0x%02X>", byte);
        }
        bpe->byte_ids[byte] = vocab_find(bpe->vocab, content, length);
        if (byte < 128) {
            char character = (char)byte;
            bpe->ascii_ids[byte] = vocab_find(bpe->vocab, &character, 1);
        }
    }
}

/* ---- merges ---------------------------------------------------------------------------------------------
 */

static bool fail_merge(struct error *error, size_t rank, const char *what, struct slice content,
                       const char *pool)
{
    return error_set_field(error, ERROR_CORRUPT_FILE, "tokenizer.json/model/merges",
                           "tokenizer.json: merge %zu %s \"%.*s\", which is not in the vocabulary", rank,
                           what, (int)content.length, pool + content.offset);
}

static bool has_byte_token(const char *text)
{
    for (text = strstr(text, "<0x"); text != NULL; text = strstr(text + 1, "<0x")) {
        if (strspn(text + 3, "0123456789ABCDEF") >= 2 && text[5] == '>') {
            return true;
        }
    }
    return false;
}

/* A merge of L and R joins the last character of L with the first of R. That is the whole truth as long as
 * initial symbols are characters; when a merge takes in <0x41> or <unk>, which stand for something else, no
 * cut is safe. */
static void add_junction(struct bpe *bpe, const char *joined, size_t left_length)
{
    if (has_byte_token(joined) || (bpe->unk_content != NULL && strstr(joined, bpe->unk_content) != NULL)) {
        bpe->has_no_cuts = true;
        return;
    }
    size_t last = left_length - 1;
    while (last > 0 && ((unsigned char)joined[last] & 0xc0) == 0x80) {
        last--;
    }
    int32_t last_id = vocab_find(bpe->vocab, joined + last, left_length - last);
    junction_add(&bpe->junctions, last_id,
                 vocab_find(bpe->vocab, joined + left_length, utf8_length(joined + left_length)));
}

static bool add_merge(struct bpe *bpe, const char *pool, const struct merge_text *merge, size_t rank,
                      struct text *joined, struct error *error)
{
    const char *left = pool + merge->left.offset, *right = pool + merge->right.offset;
    int32_t left_id = vocab_find(bpe->vocab, left, merge->left.length);
    int32_t right_id = vocab_find(bpe->vocab, right, merge->right.length);
    if (left_id < 0 || right_id < 0 || merge->left.length == 0 || merge->right.length == 0) {
        return fail_merge(error, rank, "joins", left_id < 0 ? merge->left : merge->right, pool);
    }
    text_clear(joined);
    text_append_bytes(joined, left, merge->left.length);
    text_append_bytes(joined, right, merge->right.length);
    int32_t new_id = vocab_find(bpe->vocab, joined->bytes, joined->length);
    if (new_id < 0) {
        return fail_merge(error, rank, "makes", (struct slice){0, (uint32_t)joined->length}, joined->bytes);
    }
    uint64_t key = pair_key(left_id, right_id);
    size_t slot = pair_slot(&bpe->merges, key);
    bpe->merges.keys[slot] = key; /* a repeated merge: the later rank counts, as in the reference */
    bpe->merges.values[slot] = (struct merge){.new_id = new_id, .rank = (uint32_t)rank};
    if (!bpe->is_byte_level) {
        add_junction(bpe, joined->bytes, merge->left.length);
    }
    return true;
}

bool bpe_prepare(struct bpe *bpe, const struct text *merge_pool, const struct merge_text *merges,
                 size_t merge_count, struct error *error)
{
    prepare_bytes(bpe);
    pair_table_create(&bpe->merges, merge_count, true);
    pair_table_create(&bpe->junctions, 4096, false);
    struct text joined = {0};
    bool ok = true;
    for (size_t i = 0; ok && i < merge_count; i++) {
        ok = add_merge(bpe, merge_pool->bytes, &merges[i], i, &joined, error);
    }
    text_finish(&joined);
    return ok;
}

/* ---- the heap -------------------------------------------------------------------------------------------
 */

static bool comes_before(const struct merge_candidate *left, const struct merge_candidate *right)
{
    return left->rank != right->rank ? left->rank < right->rank : left->position < right->position;
}

static void heap_push(struct bpe_scratch *scratch, struct merge_candidate candidate)
{
    if (scratch->heap_count == scratch->heap_capacity) {
        scratch->heap_capacity = scratch->heap_capacity == 0 ? 256 : scratch->heap_capacity * 2;
        scratch->heap = memory_resize(scratch->heap, scratch->heap_capacity, sizeof *scratch->heap);
    }
    struct merge_candidate *heap = scratch->heap;
    size_t at = scratch->heap_count++;
    while (at > 0 && comes_before(&candidate, &heap[(at - 1) / 2])) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = candidate;
}

static struct merge_candidate heap_pop(struct bpe_scratch *scratch)
{
    struct merge_candidate *heap = scratch->heap, top = heap[0];
    struct merge_candidate last = heap[--scratch->heap_count];
    size_t count = scratch->heap_count, at = 0;
    for (size_t child = 1; child < count; child = at * 2 + 1) {
        if (child + 1 < count && comes_before(&heap[child + 1], &heap[child])) {
            child++;
        }
        if (!comes_before(&heap[child], &last)) {
            break;
        }
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return top;
}

/* ---- encoding -------------------------------------------------------------------------------------------
 */

static void push_candidate(const struct bpe *bpe, struct bpe_scratch *scratch, int32_t left, int32_t right)
{
    const struct symbol *symbols = scratch->symbols;
    const struct merge *merge = pair_find(&bpe->merges, symbols[left].id, symbols[right].id);
    if (merge != NULL) {
        heap_push(scratch, (struct merge_candidate){
                               .rank = merge->rank, .position = (uint32_t)left, .new_id = merge->new_id});
    }
}

/* Merges the symbols at hand among themselves, appends what is left and empties the list. */
static void merge_part(const struct bpe *bpe, struct bpe_scratch *scratch, struct tokens *tokens)
{
    struct symbol *symbols = scratch->symbols;
    size_t count = scratch->symbol_count;
    if (count == 0) {
        return;
    }
    scratch->symbol_count = 0;
    scratch->heap_count = 0;
    for (size_t i = 0; i < count; i++) {
        symbols[i].previous = (int32_t)i - 1;
        symbols[i].next = i + 1 == count ? -1 : (int32_t)i + 1;
        symbols[i].is_alive = 1;
    }
    for (size_t i = 0; i + 1 < count; i++) {
        push_candidate(bpe, scratch, (int32_t)i, (int32_t)i + 1);
    }
    while (scratch->heap_count > 0) {
        struct merge_candidate top = heap_pop(scratch);
        struct symbol *left = &symbols[top.position];
        if (!left->is_alive || left->next < 0) {
            continue; /* one of the pair was merged elsewhere meanwhile */
        }
        struct symbol *right = &symbols[left->next];
        const struct merge *merge = pair_find(&bpe->merges, left->id, right->id);
        if (merge == NULL || merge->new_id != top.new_id) {
            continue;
        }
        left->id = top.new_id;
        left->next = right->next;
        right->is_alive = 0;
        if (left->next >= 0) {
            symbols[left->next].previous = (int32_t)top.position;
            push_candidate(bpe, scratch, (int32_t)top.position, left->next);
        }
        if (left->previous >= 0) {
            push_candidate(bpe, scratch, left->previous, (int32_t)top.position);
        }
    }
    for (int32_t i = 0; i >= 0; i = symbols[i].next) {
        tokens_append(tokens, symbols[i].id);
    }
}

static bool can_join(const struct bpe *bpe, int32_t left, int32_t right)
{
    return bpe->is_byte_level || bpe->has_no_cuts ||
           bpe->junctions.keys[pair_slot(&bpe->junctions, pair_key(left, right))] != PAIR_EMPTY;
}

/* Adds a symbol to the part at hand, or ends that part and starts the next with it. */
static void add_symbol(const struct bpe *bpe, struct bpe_scratch *scratch, int32_t id, struct tokens *tokens)
{
    if (id < 0) {
        return; /* no token and no <unk>: the reference drops it */
    }
    if (scratch->symbol_count > 0 && !can_join(bpe, scratch->symbols[scratch->symbol_count - 1].id, id)) {
        merge_part(bpe, scratch, tokens);
    }
    if (scratch->symbol_count == scratch->symbol_capacity) {
        scratch->symbol_capacity = scratch->symbol_capacity == 0 ? 256 : scratch->symbol_capacity * 2;
        scratch->symbols =
            memory_resize(scratch->symbols, scratch->symbol_capacity, sizeof *scratch->symbols);
    }
    scratch->symbols[scratch->symbol_count++].id = id;
}

static bool has_all_bytes(const struct bpe *bpe, const char *character, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        if (bpe->byte_ids[(unsigned char)character[i]] < 0) {
            return false;
        }
    }
    return true;
}

/* A character that is no token becomes its bytes (if all of them are), else <unk> (fused with a preceding
 * one), else nothing. A character of a byte-level word is one byte. */
static void encode_word(const struct bpe *bpe, const char *word, size_t length, struct bpe_scratch *scratch,
                        struct tokens *tokens)
{
    bool after_unknown = false;
    for (size_t i = 0, bytes = 1; i < length; i += bytes) {
        unsigned char first = (unsigned char)word[i];
        int32_t id = -1;
        if (bpe->is_byte_level) {
            id = bpe->byte_ids[first];
        } else {
            bytes = utf8_length(word + i);
            id = bytes == 1 ? bpe->ascii_ids[first] : vocab_find(bpe->vocab, word + i, bytes);
        }
        bool is_unknown = id < 0;
        if (is_unknown && bpe->byte_fallback && has_all_bytes(bpe, word + i, bytes)) {
            for (size_t b = 0; b < bytes; b++) {
                add_symbol(bpe, scratch, bpe->byte_ids[(unsigned char)word[i + b]], tokens);
            }
            is_unknown = false;
        } else if (!(is_unknown && after_unknown && bpe->fuse_unk)) {
            add_symbol(bpe, scratch, is_unknown ? bpe->unk_id : id, tokens);
        }
        after_unknown = is_unknown;
    }
    merge_part(bpe, scratch, tokens);
}

/* The id of the whole word, -1 if it is no token. */
static int32_t find_word(const struct bpe *bpe, const char *word, size_t length, struct bpe_scratch *scratch)
{
    if (!bpe->is_byte_level) {
        return vocab_find(bpe->vocab, word, length);
    }
    text_clear(&scratch->letters);
    for (size_t i = 0; i < length; i++) {
        char bytes[4];
        size_t count = utf8_encode(bpe_byte_letter((unsigned char)word[i]), bytes);
        text_append_bytes(&scratch->letters, bytes, count);
    }
    return vocab_find(bpe->vocab, scratch->letters.bytes, scratch->letters.length);
}

void bpe_encode(const struct bpe *bpe, const char *word, size_t length, struct bpe_scratch *scratch,
                struct tokens *tokens)
{
    if (length == 0) {
        return;
    }
    CHECK(length < INT32_MAX);
    if (bpe->ignore_merges) {
        int32_t whole = find_word(bpe, word, length, scratch);
        if (whole >= 0) {
            tokens_append(tokens, whole);
            return;
        }
    }
    encode_word(bpe, word, length, scratch, tokens);
}

void bpe_finish(struct bpe *bpe)
{
    free(bpe->merges.keys);
    free(bpe->merges.values);
    free(bpe->junctions.keys);
    free(bpe->unk_content);
    *bpe = (struct bpe){0};
}

void bpe_scratch_finish(struct bpe_scratch *scratch)
{
    free(scratch->symbols);
    free(scratch->heap);
    text_finish(&scratch->letters);
}
