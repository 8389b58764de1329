/*
 * workers/select/concepts.c: see concepts.h. Phrases of a text, then the dictionary that numbers them, with every record's
 * set. The graph is concepts_graph.c.
 */
#include "workers/select/concepts.h"

#include "base/check.h"
#include "base/memory.h"
#include "workers/model/tokenizer_unicode.h"
#include "workers/model/utf8.h"
#include "workers/select/quantile.h"
#include <stdlib.h>
#include <string.h>

/* ---- phrases --------------------------------------------------------------------------------------------- */

/* Function words and words that hold a sentence together, sorted by bytes. Of contractions the part before the apostrophe. */
static const char *const stop_words[] = {
    "a",          "able",         "about",     "above",        "accordingly", "across",     "actually",
    "after",      "afterwards",   "again",     "against",      "ago",         "ahead",      "all",
    "almost",     "alone",        "along",     "already",      "also",        "although",   "always",
    "am",         "among",        "amongst",   "an",           "and",         "another",    "any",
    "anybody",    "anyhow",       "anyone",    "anything",     "anyway",      "anywhere",   "apart",
    "are",        "aren",         "around",    "as",           "aside",       "at",         "away",
    "back",       "basically",    "be",        "became",       "because",     "become",     "becomes",
    "becoming",   "been",         "before",    "beforehand",   "behind",      "being",      "below",
    "beside",     "besides",      "between",   "beyond",       "both",        "but",        "by",
    "came",       "can",          "cannot",    "come",         "comes",       "coming",     "could",
    "couldn",     "despite",      "did",       "didn",         "do",          "does",       "doesn",
    "doing",      "don",          "done",      "down",         "due",         "during",     "each",
    "eg",         "either",       "else",      "elsewhere",    "enough",      "especially", "etc",
    "even",       "ever",         "every",     "everybody",    "everyone",    "everything", "everywhere",
    "exactly",    "except",       "fairly",    "far",          "few",         "for",        "former",
    "forth",      "from",         "further",   "furthermore",  "gave",        "get",        "gets",
    "getting",    "give",         "given",     "gives",        "giving",      "go",         "goes",
    "going",      "gone",         "got",       "had",          "hadn",        "hardly",     "has",
    "hasn",       "have",         "haven",     "having",       "he",          "hello",      "hence",
    "her",        "here",         "hereby",    "herein",       "hers",        "herself",    "hi",
    "him",        "himself",      "his",       "hither",       "how",         "however",    "i",
    "ie",         "if",           "in",        "indeed",       "inside",      "instead",    "into",
    "is",         "isn",          "it",        "its",          "itself",      "just",       "keep",
    "keeps",      "kept",         "last",      "lately",       "later",       "least",      "less",
    "lest",       "let",          "like",      "likely",       "made",        "mainly",     "make",
    "makes",      "making",       "many",      "may",          "maybe",       "me",         "meanwhile",
    "merely",     "might",        "mightn",    "mine",         "more",        "moreover",   "most",
    "mostly",     "much",         "must",      "mustn",        "my",          "myself",     "namely",
    "near",       "nearly",       "need",      "needed",       "needn",       "needs",      "neither",
    "never",      "nevertheless", "next",      "no",           "nobody",      "none",       "nonetheless",
    "nor",        "not",          "nothing",   "now",          "nowhere",     "obviously",  "of",
    "off",        "often",        "oh",        "ok",           "okay",        "on",         "once",
    "one",        "ones",         "only",      "onto",         "or",          "other",      "others",
    "otherwise",  "ought",        "our",       "ours",         "ourselves",   "out",        "outside",
    "over",       "overall",      "own",       "particularly", "per",         "perhaps",    "please",
    "plus",       "possibly",     "probably",  "quite",        "rather",      "really",     "regarding",
    "relatively", "respectively", "said",      "same",         "saw",         "say",        "says",
    "see",        "seem",         "seemed",    "seeming",      "seems",       "seen",       "several",
    "shall",      "shan",         "she",       "should",       "shouldn",     "since",      "so",
    "some",       "somebody",     "somehow",   "someone",      "something",   "sometime",   "sometimes",
    "somewhat",   "somewhere",    "soon",      "still",        "such",        "sure",       "surely",
    "take",       "taken",        "takes",     "taking",       "than",        "that",       "the",
    "their",      "theirs",       "them",      "themselves",   "then",        "thence",     "there",
    "thereafter", "thereby",      "therefore", "therein",      "these",       "they",       "this",
    "those",      "though",       "through",   "throughout",   "thus",        "till",       "to",
    "together",   "too",          "took",      "toward",       "towards",     "under",      "unless",
    "unlike",     "until",        "unto",      "up",           "upon",        "us",         "use",
    "used",       "uses",         "using",     "usually",      "very",        "via",        "was",
    "wasn",       "way",          "ways",      "we",           "well",        "went",       "were",
    "weren",      "what",         "whatever",  "when",         "whence",      "whenever",   "where",
    "whereas",    "whereby",      "wherein",   "wherever",     "whether",     "which",      "whichever",
    "while",      "whither",      "who",       "whoever",      "whole",       "whom",       "whose",
    "why",        "will",         "with",      "within",       "without",     "won",        "would",
    "wouldn",     "yes",          "yet",       "you",          "your",        "yours",      "yourself",
    "yourselves",
};
enum { STOP_WORD_COUNT = sizeof stop_words / sizeof stop_words[0] };

struct scan {
    struct text word; /* lower case */
    struct text *out;
    size_t phrase_start; /* in out */
};

static int compare_stop_words(const void *key, const void *item)
{
    return strcmp(key, *(const char *const *)item);
}

static bool is_stop_word(const struct text *word)
{
    return bsearch(word->bytes, stop_words, STOP_WORD_COUNT, sizeof stop_words[0], compare_stop_words) !=
           NULL;
}

static bool is_digit(char byte)
{
    return byte >= '0' && byte <= '9';
}

/* The word without its plural. Endings are judged by bytes: what stands before them is ASCII or stays as it is. */
static void append_singular(struct text *out, const struct text *word)
{
    size_t length = word->length;
    char before = length >= 2 ? word->bytes[length - 2] : '\0';
    if (length < 4 || word->bytes[length - 1] != 's' || before < 'a' || before > 'z') {
        text_append_bytes(out, word->bytes, length);
    } else if (length > 4 && text_ends_with(word->bytes, "ies") && word->bytes[length - 4] != 'e' &&
               word->bytes[length - 4] != 'a') {
        text_append_bytes(out, word->bytes, length - 3);
        text_append(out, "y");
    } else if (length > 4 && (text_ends_with(word->bytes, "sses") || text_ends_with(word->bytes, "shes") ||
                              text_ends_with(word->bytes, "ches") || text_ends_with(word->bytes, "xes"))) {
        text_append_bytes(out, word->bytes, length - 2);
    } else {
        bool is_singular = before == 's' || before == 'u' || before == 'i';
        text_append_bytes(out, word->bytes, is_singular ? length : length - 1);
    }
}

static void end_phrase(struct scan *scan)
{
    if (scan->out->length > scan->phrase_start) {
        text_append(scan->out, "\n");
        scan->phrase_start = scan->out->length;
    }
}

static void end_word(struct scan *scan)
{
    if (scan->word.length == 0) {
        return;
    }
    if (is_stop_word(&scan->word)) {
        end_phrase(scan);
    } else {
        if (scan->out->length > scan->phrase_start) {
            text_append(scan->out, " ");
        }
        append_singular(scan->out, &scan->word);
    }
    text_clear(&scan->word);
}

enum character {
    CHARACTER_WORD,
    CHARACTER_SPACE,
    CHARACTER_HYPHEN,
    CHARACTER_APOSTROPHE,
    CHARACTER_POINT, /* or comma */
    CHARACTER_END,   /* of a phrase */
    CHARACTER_NONE,  /* soft hyphens and other format characters: not there */
};

static enum character character_of_ascii(char byte)
{
    bool is_letter = (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z');
    return is_letter || is_digit(byte)   ? CHARACTER_WORD
           : byte == ' ' || byte == '\t' ? CHARACTER_SPACE
           : byte == '-'                 ? CHARACTER_HYPHEN
           : byte == '\''                ? CHARACTER_APOSTROPHE
           : byte == '.' || byte == ','  ? CHARACTER_POINT
                                         : CHARACTER_END;
}

/* Of the character at bytes[0], valid UTF-8. */
static enum character character_of(const char *bytes)
{
    if ((unsigned char)bytes[0] < 0x80) {
        return character_of_ascii(bytes[0]);
    }
    uint32_t code = utf8_decode(bytes);
    if (code == 0x2019) {
        return CHARACTER_APOSTROPHE;
    }
    if (code == 0x2010 || code == 0x2011) {
        return CHARACTER_HYPHEN;
    }
    bool is_line_end = code == 0x85 || code == 0x2028 || code == 0x2029;
    if (utf8_is_space(code) && !is_line_end) {
        return CHARACTER_SPACE;
    }
    if (is_line_end || code == 0xfffd || unicode_is_punctuation(code)) {
        return CHARACTER_END;
    }
    return unicode_is_dropped(code) ? CHARACTER_NONE : CHARACTER_WORD;
}

/* Bytes of the ending of a contraction or possessive that starts at bytes[at], behind the apostrophe; 0: none does. */
static size_t clitic_length(const char *bytes, size_t length, size_t at)
{
    static const char *const clitics[] = {"s", "t", "ll", "re", "ve", "d", "m"};
    for (size_t i = 0; i < sizeof clitics / sizeof clitics[0]; i++) {
        size_t count = strlen(clitics[i]);
        if (length - at >= count && memcmp(bytes + at, clitics[i], count) == 0 &&
            (length - at == count || character_of(bytes + at + count) != CHARACTER_WORD)) {
            return count;
        }
    }
    return 0;
}

/* A mark that means something else inside a word. Returns the bytes behind it that are dealt with too. */
static size_t scan_mark(struct scan *scan, enum character mark, const char *bytes, size_t length, size_t next)
{
    const struct text *word = &scan->word;
    bool is_inside = word->length > 0 && next < length && character_of(bytes + next) == CHARACTER_WORD;
    if (is_inside && mark == CHARACTER_POINT && is_digit(bytes[next]) &&
        is_digit(word->bytes[word->length - 1])) {
        text_append_bytes(&scan->word, bytes + next - 1, 1);
        return 0;
    }
    if (is_inside && mark == CHARACTER_APOSTROPHE) {
        size_t clitic = clitic_length(bytes, length, next);
        if (clitic == 0) {
            end_word(scan);
        }
        return clitic;
    }
    end_word(scan);
    if (!is_inside || mark == CHARACTER_POINT) {
        end_phrase(scan);
    }
    return 0;
}

/* bytes: lower case, valid UTF-8. */
static void scan_text(struct scan *scan, const char *bytes, size_t length)
{
    for (size_t at = 0; at < length;) {
        size_t next = at + utf8_length(bytes + at);
        enum character character = character_of(bytes + at);
        switch (character) {
        case CHARACTER_WORD:
            while (next < length && character_of(bytes + next) == CHARACTER_WORD) {
                next += utf8_length(bytes + next);
            }
            text_append_bytes(&scan->word, bytes + at, next - at);
            break;
        case CHARACTER_SPACE:
            end_word(scan);
            break;
        case CHARACTER_HYPHEN:
        case CHARACTER_APOSTROPHE:
        case CHARACTER_POINT:
            next += scan_mark(scan, character, bytes, length, next);
            break;
        case CHARACTER_END:
            end_word(scan);
            end_phrase(scan);
            break;
        case CHARACTER_NONE:
            break;
        }
        at = next;
    }
    end_word(scan);
    end_phrase(scan);
}

void concepts_extract(const char *bytes, size_t length, struct text *text)
{
    FINISHED(text) valid = {0};
    if (utf8_valid_prefix(bytes, length) < length) {
        utf8_append_lossy(&valid, bytes, length);
        bytes = valid.bytes;
        length = valid.length;
    }
    FINISHED(text) lowered = {0};
    unicode_lowercase_append(&lowered, bytes, length);
    struct scan scan = {.out = text, .phrase_start = text->length};
    scan_text(&scan, lowered.bytes, lowered.length);
    text_finish(&scan.word);
}

/* ---- the dictionary -------------------------------------------------------------------------------------- */

enum { SMALLEST_CAPACITY = 1024 };

struct concepts {
    /* By concept. Slots: open addressing, the upper half of an item is the hash, the lower one the number + 1, 0 free. names,
     * name_ends and slots are gone after concepts_limit. */
    size_t count;
    char *names; /* owned: all in a row */
    size_t *name_ends;
    uint32_t *frequencies;
    uint64_t *slots;
    size_t name_bytes_capacity, name_ends_capacity, frequencies_capacity,
        slot_count; /* slot_count: a power of two */
    /* By record: ids[ends[r - 1]] ... ids[ends[r]]. */
    size_t record_count;
    size_t *ends;
    int32_t *ids;
    size_t ends_capacity, ids_capacity;
    bool is_limited;
    size_t common_count, records_cut;
};

struct concepts *concepts_create(void)
{
    return memory_create(1, sizeof(struct concepts));
}

void concepts_destroy(struct concepts *concepts)
{
    if (concepts != NULL) {
        free(concepts->names);
        free(concepts->name_ends);
        free(concepts->frequencies);
        free(concepts->slots);
        free(concepts->ends);
        free(concepts->ids);
        free(concepts);
    }
}

/* Makes room for `needed` items in *array (a pointer to items, `used` of them), at least doubling it. */
static bool grow(void *array, size_t *capacity, size_t used, size_t needed, size_t item_bytes,
                 const char *what, struct error *error)
{
    if (needed <= *capacity) {
        return true;
    }
    size_t larger = *capacity < SMALLEST_CAPACITY / 2 ? SMALLEST_CAPACITY : 2 * *capacity;
    larger = larger > needed ? larger : needed;
    void *grown = memory_try_array(larger, item_bytes, what, error);
    if (grown == NULL) {
        return false;
    }
    void *old = NULL;
    memcpy(&old, array, sizeof old);
    if (used > 0) {
        memcpy(grown, old, used * item_bytes);
    }
    free(old);
    memcpy(array, &grown, sizeof grown);
    *capacity = larger;
    return true;
}

static size_t name_start(const struct concepts *concepts, size_t concept)
{
    return concept > 0 ? concepts->name_ends[concept - 1] : 0;
}

static uint32_t hash_of(const char *bytes, size_t length) /* FNV-1a, folded */
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < length; i++) {
        hash = (hash ^ (unsigned char)bytes[i]) * UINT64_C(0x100000001b3);
    }
    return (uint32_t)(hash ^ hash >> 32);
}

/* The slot of the name, or the free one where it would go. */
static size_t find_slot(const struct concepts *concepts, const char *name, size_t length, uint32_t hash)
{
    size_t slot = hash & (concepts->slot_count - 1);
    for (; concepts->slots[slot] != 0; slot = (slot + 1) & (concepts->slot_count - 1)) {
        if (concepts->slots[slot] >> 32 != hash) {
            continue;
        }
        size_t concept = (size_t)(uint32_t)concepts->slots[slot] - 1, start = name_start(concepts, concept);
        if (concepts->name_ends[concept] - start == length &&
            memcmp(concepts->names + start, name, length) == 0) {
            break;
        }
    }
    return slot;
}

/* Keeps a quarter of the slots free for one more concept. */
static bool grow_slots(struct concepts *concepts, struct error *error)
{
    if ((concepts->count + 1) * 4 <= concepts->slot_count * 3) {
        return true;
    }
    size_t count = concepts->slot_count > 0 ? 2 * concepts->slot_count : SMALLEST_CAPACITY;
    uint64_t *slots = memory_try_array(count, sizeof *slots, "index of concepts", error);
    if (slots == NULL) {
        return false;
    }
    for (size_t i = 0; i < concepts->slot_count; i++) {
        if (concepts->slots[i] != 0) {
            size_t slot = (size_t)(concepts->slots[i] >> 32) & (count - 1);
            while (slots[slot] != 0) {
                slot = (slot + 1) & (count - 1);
            }
            slots[slot] = concepts->slots[i];
        }
    }
    free(concepts->slots);
    concepts->slots = slots;
    concepts->slot_count = count;
    return true;
}

static bool intern(struct concepts *concepts, const char *name, size_t length, int32_t *ret_id,
                   struct error *error)
{
    if (!grow_slots(concepts, error)) {
        return false;
    }
    uint32_t hash = hash_of(name, length);
    size_t slot = find_slot(concepts, name, length, hash);
    if (concepts->slots[slot] == 0) {
        size_t count = concepts->count, start = name_start(concepts, count);
        if (count == INT32_MAX) {
            return error_set(error, ERROR_TOO_LARGE, "more than %zu concepts in the records", count);
        }
        if (!grow(&concepts->names, &concepts->name_bytes_capacity, start, start + length, 1,
                  "names of concepts", error) ||
            !grow(&concepts->name_ends, &concepts->name_ends_capacity, count, count + 1,
                  sizeof *concepts->name_ends, "names of concepts", error) ||
            !grow(&concepts->frequencies, &concepts->frequencies_capacity, count, count + 1,
                  sizeof *concepts->frequencies, "frequencies of concepts", error)) {
            return false;
        }
        memcpy(concepts->names + start, name, length);
        concepts->name_ends[count] = start + length;
        concepts->frequencies[count] = 0;
        concepts->slots[slot] = (uint64_t)hash << 32 | (uint32_t)(count + 1);
        concepts->count++;
    }
    *ret_id = (int32_t)((uint32_t)concepts->slots[slot] - 1);
    return true;
}

static int compare_ids(const void *left, const void *right)
{
    const int32_t *a = left, *b = right;
    return (*a > *b) - (*a < *b);
}

static size_t record_start(const struct concepts *concepts, size_t record)
{
    return record > 0 ? concepts->ends[record - 1] : 0;
}

bool concepts_add(struct concepts *concepts, const char *bytes, size_t length, struct error *error)
{
    CHECK(!concepts->is_limited);
    size_t record = concepts->record_count, start = record_start(concepts, record), end = start;
    if (record == INT32_MAX) {
        return error_set(error, ERROR_TOO_LARGE, "more than %zu records", record);
    }
    FINISHED(text) phrases = {0};
    concepts_extract(bytes, length, &phrases);
    for (size_t at = 0; at < phrases.length;) {
        const char *name = phrases.bytes + at;
        size_t name_bytes = (size_t)((const char *)memchr(name, '\n', phrases.length - at) - name);
        if (!grow(&concepts->ids, &concepts->ids_capacity, end, end + 1, sizeof *concepts->ids,
                  "concepts of records", error) ||
            !intern(concepts, name, name_bytes, &concepts->ids[end], error)) {
            return false;
        }
        end++;
        at += name_bytes + 1;
    }
    if (!grow(&concepts->ends, &concepts->ends_capacity, record, record + 1, sizeof *concepts->ends,
              "concepts of records", error)) {
        return false;
    }
    size_t kept = start;
    if (end > start) {
        qsort(concepts->ids + start, end - start, sizeof *concepts->ids, compare_ids);
    }
    for (size_t i = start; i < end; i++) {
        if (kept == start || concepts->ids[i] != concepts->ids[kept - 1]) {
            concepts->frequencies[concepts->ids[i]]++;
            concepts->ids[kept++] = concepts->ids[i];
        }
    }
    concepts->ends[record] = kept;
    concepts->record_count++;
    return true;
}

static int compare_keys(const void *left, const void *right)
{
    const uint64_t *a = left, *b = right;
    return (*a > *b) - (*a < *b);
}

/* One record's set, cut, to ids[kept ...]. keys: room for the set. Returns where it ends. */
static size_t limit_record(struct concepts *concepts, size_t start, size_t end, size_t kept,
                           size_t per_record, size_t most, uint64_t *keys)
{
    size_t count = 0;
    for (size_t i = start; i < end; i++) {
        uint32_t frequency = concepts->frequencies[concepts->ids[i]];
        if (frequency > 1 && frequency <= most) {
            keys[count++] = (uint64_t)frequency << 32 | (uint32_t)concepts->ids[i];
        }
    }
    if (count > per_record) {
        qsort(keys, count, sizeof *keys, compare_keys);
        count = per_record;
        concepts->records_cut++;
    }
    size_t first = kept;
    for (size_t i = 0; i < count; i++) {
        concepts->ids[kept++] = (int32_t)(uint32_t)keys[i];
    }
    if (kept > first) {
        qsort(concepts->ids + first, kept - first, sizeof *concepts->ids, compare_ids);
    }
    return kept;
}

bool concepts_limit(struct concepts *concepts, size_t per_record, double common_ratio, struct error *error)
{
    CHECK(!concepts->is_limited);
    size_t longest = 0;
    for (size_t r = 0; r < concepts->record_count; r++) {
        size_t count = concepts->ends[r] - record_start(concepts, r);
        longest = count > longest ? count : longest;
    }
    OWNED_MEMORY uint64_t *keys = memory_try_array(longest, sizeof *keys, "concepts of a record", error);
    if (keys == NULL) {
        return false;
    }
    size_t most = quantile_count_within(common_ratio, concepts->record_count);
    most = most > 2 ? most : 2;
    size_t start = 0, kept = 0;
    for (size_t r = 0; r < concepts->record_count; r++) {
        size_t end = concepts->ends[r];
        kept = limit_record(concepts, start, end, kept, per_record, most, keys);
        concepts->ends[r] = kept;
        start = end;
    }
    for (size_t c = 0; c < concepts->count; c++) {
        concepts->common_count += concepts->frequencies[c] > most ? 1 : 0;
    }
    concepts->ids = memory_resize(concepts->ids, kept, sizeof *concepts->ids);
    free(TAKE(concepts->names));
    free(TAKE(concepts->name_ends));
    free(TAKE(concepts->slots));
    concepts->is_limited = true;
    return true;
}

const int32_t *concepts_of(const struct concepts *concepts, size_t record, size_t *ret_count)
{
    CHECK(record < concepts->record_count);
    size_t start = record_start(concepts, record);
    *ret_count = concepts->ends[record] - start;
    return *ret_count > 0 ? concepts->ids + start : NULL;
}

struct concepts_counts concepts_counts(const struct concepts *concepts)
{
    struct concepts_counts counts = {.records = concepts->record_count,
                                     .concepts = concepts->count,
                                     .common = concepts->common_count,
                                     .records_cut = concepts->records_cut};
    for (size_t c = 0; c < concepts->count; c++) {
        counts.single += concepts->frequencies[c] == 1 ? 1 : 0;
    }
    return counts;
}
