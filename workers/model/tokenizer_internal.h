/*
 * workers/model/tokenizer_internal.h: how a tokenizer is put together. Read in this order: tokenizer_file.c
 * (the file's bulk), tokenizer_spec.c and tokenizer_spec_steps.c (its pipeline), tokenizer_vocab.c, tokenizer_bpe.c,
 * tokenizer_wordpiece.c and tokenizer_unigram.c (the models), tokenizer_normalize.c and tokenizer_charsmap.c
 * (normalizers), tokenizer_split.c (pre-tokenizers), tokenizer_added.c (added tokens), tokenizer.c (encode),
 * tokenizer_decode.c.
 *
 *     text -> added tokens cut out -> normalizers -> pre-tokenizers -> model (words to ids) -> post-processor
 *
 * Everything here is fixed after loading. What an encode call needs besides lives in its own struct
 * encode_scratch.
 */
#ifndef WORKERS_MODEL_TOKENIZER_INTERNAL_H
#define WORKERS_MODEL_TOKENIZER_INTERNAL_H

#include "base/json.h"
#include "workers/model/tokenizer.h"
#include "workers/model/utf8.h"

#define TOKENIZER_FILE_LIMIT      (64u << 20)
#define TOKENIZER_IDS_MAX         (1u << 21)
#define TOKENIZER_MERGES_MAX      2000000u
#define TOKENIZER_ADDED_MAX       65536u
#define TOKENIZER_STEPS_MAX       16u
#define TOKENIZER_TEMPLATE_MAX    16u
/* Unigram looks at every token that starts at a character and WordPiece at the longest one: these bound the work per
 * character of a hostile vocabulary. Real pieces have at most some 50 bytes, real words 100 or 200 characters. */
#define TOKENIZER_PIECE_MAX_BYTES 1024u
#define TOKENIZER_WORD_MAX        1024
/* Keeps every offset inside an encode call below 2^31, also after a normalizer made three bytes of one
 * (memory is of the text's order). */
#define TOKENIZER_TEXT_MAX_BYTES  (512u << 20)

/* A byte string inside a pool that may still grow: offset, not pointer. */
struct slice {
    uint32_t offset, length;
};

/* ---- vocabulary (tokenizer_vocab.c) ---------------------------------------------------------------------
 */

struct vocab_entry {
    struct slice content;
    int32_t id;
};
struct vocab {
    struct text pool;            /* all token contents, one after another */
    struct vocab_entry *entries; /* [entry_count], in file order */
    size_t entry_count, entry_capacity;
    double *scores;  /* [entry_capacity]: log probabilities; NULL unless the file lists pairs (Unigram) */
    uint32_t *slots; /* [slot_count]: entry index + 1; 0: free */
    size_t slot_count;
    size_t id_end; /* highest id + 1 */
};
/* Builds the lookup table over the entries; CORRUPT_FILE / DUPLICATE_KEY. */
bool vocab_index(struct vocab *vocab, struct error *error) MUST_USE;
int32_t vocab_find(const struct vocab *vocab, const char *content, size_t length); /* -1: none */
void vocab_finish(struct vocab *vocab);
uint64_t tokenizer_mix64(uint64_t value);
size_t tokenizer_slot_count(size_t count); /* a power of two, at least twice the count */

struct trie {
    struct trie_slot {
        uint32_t key; /* node << 8 | byte */
        int32_t id;   /* of the token that ends here, -1: none */
    } * slots;        /* [slot_count] */
    uint32_t slot_count, used_count;
    uint32_t first[256]; /* steps from the root */
};
#define TRIE_ROOT 0xffffffu
#define TRIE_NONE UINT32_MAX
/* What trie_create asks for: the index-th string (borrowed), its length and id. */
typedef const char *trie_item(const void *context, size_t index, size_t *ret_length, int32_t *ret_id);
/* Of equal strings the first one's id counts; an empty one is left out. UNSUPPORTED above TOKENIZER_PIECE_MAX_BYTES a
 * string or four million nodes. */
bool trie_create(struct trie *trie, trie_item *item, const void *context, size_t count,
                 struct error *error) MUST_USE;
bool trie_create_of_vocab(struct trie *trie, const struct vocab *vocab, struct error *error) MUST_USE;
/* The node one byte further, TRIE_NONE: no token goes on so. */
uint32_t trie_step(const struct trie *trie, uint32_t node, unsigned char byte);
void trie_finish(struct trie *trie);

/* ---- byte-pair merging (tokenizer_bpe.c) ----------------------------------------------------------------
 */

struct merge {
    int32_t new_id; /* -1: empty slot */
    uint32_t rank;
};
/* Pairs of ids to merges: open addressing, key = left << 32 | right. */
struct pair_table {
    uint64_t *keys;       /* [slot_count]; PAIR_EMPTY where free */
    struct merge *values; /* [slot_count]; NULL for a plain set */
    size_t slot_count, used_count;
};
#define PAIR_EMPTY UINT64_MAX
struct bpe {
    const struct vocab *vocab; /* borrowed from the tokenizer */
    struct pair_table merges;
    struct pair_table
        junctions;          /* pairs of initial symbols that some merge may join; unused when byte-level */
    int32_t byte_ids[256];  /* byte-level: of the byte's letter; byte fallback: of <0xXX>; -1: none */
    int32_t ascii_ids[128]; /* of the one-character token; -1: none */
    int32_t unk_id;         /* -1: none */
    char *unk_content;      /* owned; NULL: none */
    bool fuse_unk, byte_fallback, ignore_merges;
    bool has_no_cuts;   /* merges join symbols that are no characters: texts are not cut into parts */
    bool is_byte_level; /* the pipeline ends with ByteLevel: symbols are bytes */
};
/* What tokenizer_file.c collects, resolved once the whole file was read. */
struct merge_text {
    struct slice left, right; /* in the scan's own pool */
};
struct symbol { /* one piece of a word while merging: a doubly linked list over an array */
    int32_t id;
    int32_t previous, next; /* -1: none */
    uint32_t is_alive;
};
struct merge_candidate {
    uint32_t rank, position;
    int32_t new_id;
};
struct bpe_scratch {
    struct symbol *symbols;
    size_t symbol_count, symbol_capacity;
    struct merge_candidate *heap;
    size_t heap_count, heap_capacity;
    struct text letters; /* a word in byte-level letters */
};
/* Needs the vocabulary and is_byte_level; resolves the merges, bytes and characters. */
bool bpe_prepare(struct bpe *bpe, const struct text *merge_pool, const struct merge_text *merges,
                 size_t merge_count, struct error *error) MUST_USE;
void bpe_encode(const struct bpe *bpe, const char *word, size_t length, struct bpe_scratch *scratch,
                struct tokens *tokens);
void bpe_finish(struct bpe *bpe);
void bpe_scratch_finish(struct bpe_scratch *scratch);
/* The byte-level alphabet: the letter (code point) that stands for a byte, and back (-1: no byte). */
uint32_t bpe_byte_letter(unsigned byte);
int bpe_letter_byte(uint32_t letter);

/* ---- WordPiece (tokenizer_wordpiece.c) and Unigram (tokenizer_unigram.c) -------------------------------- */

struct wordpiece {
    struct trie trie;
    uint32_t inner; /* the trie's node after the prefix of inner pieces ("##"); TRIE_NONE: no piece has it */
    int32_t unk_id;
    size_t word_characters_max; /* longer words are unknown */
};
/* Needs the vocabulary; unk_id and word_characters_max are set. */
bool wordpiece_prepare(struct wordpiece *wordpiece, const struct vocab *vocab, const char *prefix,
                       struct error *error) MUST_USE;
void wordpiece_encode(const struct wordpiece *wordpiece, const char *word, size_t length,
                      struct tokens *tokens);

struct unigram {
    const struct vocab *vocab; /* borrowed from the tokenizer; id == index */
    struct trie trie;
    double unk_score;
    int32_t unk_id;
    int32_t byte_ids[256]; /* of <0xXX>; -1: none, or no byte fallback */
};
struct unigram_node { /* the best way to cut the text up to a place */
    double score;
    uint32_t start; /* where its last piece starts; UINT32_MAX: no way known yet */
    int32_t id;
};
struct unigram_scratch {
    struct unigram_node *nodes;
    size_t node_capacity;
    struct tokens reversed;
};
bool unigram_prepare(struct unigram *unigram, const struct vocab *vocab, bool falls_back_to_bytes,
                     struct error *error) MUST_USE;
void unigram_encode(const struct unigram *unigram, const char *word, size_t length,
                    struct unigram_scratch *scratch, struct tokens *tokens);

/* ---- the pipeline (tokenizer_spec.c reads it) -----------------------------------------------------------
 */

enum normalizer_kind {
    NORMALIZER_PREPEND,
    NORMALIZER_REPLACE,
    NORMALIZER_REPLACE_SPACES, /* two or more spaces */
    NORMALIZER_FORM,
    NORMALIZER_LOWERCASE,
    NORMALIZER_STRIP,
    NORMALIZER_STRIP_ACCENTS,
    NORMALIZER_NMT,
    NORMALIZER_BERT,
    NORMALIZER_CHARSMAP
};
struct charsmap; /* SentencePiece's precompiled_charsmap (tokenizer_charsmap.c) */
struct normalizer {
    enum normalizer_kind kind;
    char *pattern, *content;                                /* owned; pattern: REPLACE only */
    int form;                                               /* FORM: enum unicode_form */
    bool strips_left, strips_right;                         /* STRIP */
    bool cleans, separates_chinese, strips_accents, lowers; /* BERT */
    struct charsmap *charsmap;                              /* CHARSMAP, owned */
};
enum split_kind {
    SPLIT_REGEX,
    SPLIT_METASPACE,
    SPLIT_BYTE_LEVEL,
    SPLIT_WHITESPACE,
    SPLIT_BERT,
    SPLIT_STRING
};
/* What becomes of the places where SPLIT_STRING cuts. */
enum split_behavior {
    BEHAVIOR_REMOVED,
    BEHAVIOR_ISOLATED,
    BEHAVIOR_MERGED_WITH_PREVIOUS,
    BEHAVIOR_MERGED_WITH_NEXT,
    BEHAVIOR_CONTIGUOUS
};
enum prepend_scheme { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER };
struct split_step {
    enum split_kind kind;
    size_t pattern;               /* SPLIT_REGEX: row of the pattern table */
    bool adds_prefix_space;       /* SPLIT_BYTE_LEVEL */
    enum prepend_scheme prepend;  /* SPLIT_METASPACE */
    bool splits;                  /* SPLIT_METASPACE */
    char *replacement;            /* SPLIT_METASPACE; SPLIT_STRING: where to cut; owned */
    enum split_behavior behavior; /* SPLIT_STRING */
};
enum decoder_kind {
    DECODER_REPLACE,
    DECODER_BYTE_FALLBACK,
    DECODER_FUSE,
    DECODER_STRIP,
    DECODER_BYTE_LEVEL,
    DECODER_METASPACE,
    DECODER_WORDPIECE
};
struct decoder_step {
    enum decoder_kind kind;
    char *pattern,
        *content;       /* owned; STRIP: content is the one character; METASPACE: pattern is the replacement;
                   * WORDPIECE: pattern is the prefix of inner pieces */
    size_t start, stop; /* STRIP */
    bool drops_first;   /* METASPACE: the replacements in the first token */
    bool cleans_up;     /* WORDPIECE */
};
struct added_token {
    char *content; /* owned; as in the file */
    size_t length;
    struct text
        decoded; /* what decoding starts from: normalized, if the token is looked for in normalized text */
    int32_t id;
    bool is_special, is_single_word, strips_left, strips_right, is_normalized;
};
/* A set of added tokens looked for in one pass. */
struct added_set {
    struct trie trie;      /* ids: rows of patterns */
    struct text *patterns; /* [count]: as they are looked for, owned */
    size_t *tokens;        /* [count]: index into added */
    size_t count;
};
struct split_patterns; /* compiled regular expressions (tokenizer_split.c) */

struct tokenizer {
    char sha256[65];
    struct vocab vocab;
    enum model_kind { MODEL_BPE, MODEL_WORDPIECE, MODEL_UNIGRAM } kind;
    struct bpe bpe; /* one of the three is in use */
    struct wordpiece wordpiece;
    struct unigram unigram;
    struct normalizer normalizers[TOKENIZER_STEPS_MAX];
    size_t normalizer_count;
    struct split_step steps[TOKENIZER_STEPS_MAX];
    size_t step_count;
    struct decoder_step decoders[TOKENIZER_STEPS_MAX];
    size_t decoder_count;
    int32_t front_tokens[TOKENIZER_TEMPLATE_MAX], back_tokens[TOKENIZER_TEMPLATE_MAX];
    size_t front_count, back_count;
    struct added_token *added; /* [added_count] */
    size_t added_count;
    struct added_set raw, normalized; /* looked for before and after normalizing */
    struct slice *contents;           /* [id_end]: in vocab.pool, or length 0 */
    int32_t *added_by_id;             /* [id_end]: index into added, -1: none */
    size_t id_end;                    /* added tokens included */
    struct split_patterns *patterns;
};

/* Reads model.vocab and model.merges into vocab and the merge list and returns the rest of the file as JSON
 * (owned). */
json_t *tokenizer_file_read(const char *bytes, size_t count, struct vocab *vocab, struct text *merge_pool,
                            struct merge_text **ret_merges, size_t *ret_merge_count,
                            struct error *error) MUST_USE;
/* Fills everything but the models' tables from the rest of the file; those of WordPiece and Unigram too. The vocabulary
 * is indexed. */
bool tokenizer_spec_read(const json_t *json, struct tokenizer *tokenizer, struct error *error) MUST_USE;
void tokenizer_spec_finish(struct tokenizer *tokenizer);

/* tokenizer_normalize.c: normalizes [bytes, length) into ret_text (appended); TOO_LARGE if that lets the text grow beyond
 * any real need. */
bool tokenizer_normalize(const struct tokenizer *tokenizer, const char *bytes, size_t length,
                         struct text *ret_text, struct error *error) MUST_USE;

/* tokenizer_charsmap.c. The map from its base64 text; NULL with CORRUPT_FILE. */
struct charsmap *charsmap_parse(const char *base64, size_t length, struct error *error) MUST_USE;
void charsmap_destroy(struct charsmap *charsmap);
/* Stops once ret_text is longer than the limit. */
void charsmap_append(const struct charsmap *charsmap, const char *bytes, size_t length, size_t limit,
                     struct text *ret_text);

/* ---- one encode call ------------------------------------------------------------------------------------
 */

struct encode_scratch {
    const struct tokenizer *tokenizer;
    struct bpe_scratch bpe;
    struct unigram_scratch unigram;
    struct split_matcher *matcher;          /* PCRE2's memory; made when first needed */
    struct text steps[TOKENIZER_STEPS_MAX]; /* a step that rewrites its piece writes here */
    struct text normalized;
    struct tokens *tokens; /* where ids go */
};

/* tokenizer_split.c. Row of the table for a pattern's exact text, SIZE_MAX: unknown. */
size_t split_pattern_find(const char *text);
enum split_pattern { SPLIT_PATTERN_GPT2, SPLIT_PATTERN_DIGITS, SPLIT_PATTERN_DIGIT, SPLIT_PATTERN_WORD };
/* Compiles the patterns that the tokenizer's steps use. */
struct split_patterns *split_patterns_create(const struct tokenizer *tokenizer, struct error *error) MUST_USE;
void split_patterns_destroy(struct split_patterns *patterns);
/* Whether the character at bytes[0] is what a regular expression calls \w. */
bool split_is_word_character(const struct split_patterns *patterns, const char *bytes);
void split_matcher_destroy(struct split_matcher *matcher);
/* Runs the pre-tokenizers from `step` on one piece and encodes what comes out. is_first: the piece starts the
 * text. */
bool split_and_encode(struct encode_scratch *scratch, size_t step, const char *bytes, size_t length,
                      bool is_first, struct error *error) MUST_USE;

/* tokenizer_added.c */
bool added_set_create(const struct tokenizer *tokenizer, bool is_normalized, struct added_set *ret_set,
                      struct error *error) MUST_USE;
void added_set_finish(struct added_set *set);
struct added_match {
    size_t start, end;
    int32_t id;
};
/* The next match at or after *at in [bytes, length); *at moves to where to look on. floor: where the last
 * match ended. */
bool added_set_next(const struct tokenizer *tokenizer, const struct added_set *set, const char *bytes,
                    size_t length, size_t floor, size_t *at, struct added_match *ret_match);

#endif
