/*
 * tests/unit/workers/model/tokenizer_test.c: tokenizer.json on small tokenizers written here. That real ones give the library's ids is
 * tests/unit/workers/data/tokenizer_golden_test.c and tests/long/20_tokenizer_test.py.
 */
#include "base/memory.h"
#include "base/rng.h"
#include "workers/model/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define BYTE_LEVEL                                                                                           \
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true},\"decoder\":{\"type\":\"ByteLevel\"}"
#define SPIECE                                                                                                          \
    "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"\xe2\x96\x81\"},"       \
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\xe2\x96\x81\"}]},"                             \
    "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"\xe2\x96\x81\"}," \
    "\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]}"

/* head: members before "model"; model: members of the model. */
static struct tokenizer *make(const char *head, const char *model, struct error *error)
{
    struct text json = {0};
    text_append_format(&json, "{\"version\":\"1.0\",%s%s\"model\":{\"type\":\"BPE\",%s}}", head,
                       *head != '\0' ? "," : "", model);
    struct tokenizer *tokenizer = tokenizer_parse(json.bytes, json.length, error);
    text_finish(&json);
    return tokenizer;
}

static struct tokenizer *make_sound(const char *head, const char *model)
{
    struct error error = {0};
    struct tokenizer *tokenizer = make(head, model, &error);
    if (tokenizer == NULL) {
        fail_msg("%s: %s", error_code_slug(error.code), error.message);
    }
    return tokenizer;
}

/* "1 2 3" of a text; the caller's buffer. */
static const char *ids_of(const struct tokenizer *tokenizer, const char *text, bool add_special, char *buffer,
                          size_t size)
{
    struct tokens tokens = {0};
    struct error error = {0};
    assert_true(tokenizer_encode(tokenizer, text, strlen(text), add_special, &tokens, &error));
    buffer[0] = '\0';
    for (size_t i = 0; i < tokens.count; i++) {
        size_t used = strlen(buffer);
        (void)snprintf(buffer + used, size - used, "%s%d", i > 0 ? " " : "", (int)tokens.ids[i]);
    }
    tokens_finish(&tokens);
    return buffer;
}

#define ASSERT_IDS(tokenizer, text, expected)                                                                \
    do {                                                                                                     \
        char buffer_[512];                                                                                   \
        assert_string_equal(ids_of(tokenizer, text, false, buffer_, sizeof buffer_), expected);              \
    } while (0)

static void assert_decodes(const struct tokenizer *tokenizer, const int32_t *ids, size_t count, bool skip,
                           const char *expected)
{
    struct text text = {0};
    tokenizer_decode(tokenizer, ids, count, skip, &text);
    assert_string_equal(text.bytes != NULL ? text.bytes : "", expected);
    text_finish(&text);
}

static void the_lowest_rank_merges_first_and_leftmost(void **state)
{
    (void)state;
    OWNED(tokenizer)
    tokenizer = make_sound(
        BYTE_LEVEL, "\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"\\u0120\":3,\"ab\":4,\"bc\":5,\"abc\":6,\"aa\":7},"
                    "\"merges\":[\"b c\",\"a b\",\"a bc\",\"a a\"]");
    ASSERT_IDS(tokenizer, "abc", "6"); /* bc, then a+bc */
    ASSERT_IDS(tokenizer, "ab", "4");
    ASSERT_IDS(tokenizer, "aaa", "7 0"); /* leftmost */
    ASSERT_IDS(tokenizer, "abc abc", "6 3 6");
    ASSERT_IDS(tokenizer, "", "");
    ASSERT_IDS(tokenizer, "abzc", "6"); /* z is no token, there is no <unk>: dropped before merging */
}

static void merges_may_be_pairs_and_ids_may_have_gaps(void **state)
{
    (void)state;
    OWNED(tokenizer)
    tokenizer = make_sound(BYTE_LEVEL, "\"merges\":[[\"a\",\"b\"]],\"vocab\":{\"a\":3,\"b\":9,\"ab\":90}");
    ASSERT_IDS(tokenizer, "aba", "90 3");
    assert_int_equal(tokenizer_vocab_size(tokenizer), 91);
    assert_int_equal(tokenizer_find(tokenizer, "ab"), 90);
    assert_int_equal(tokenizer_find(tokenizer, "ba"), -1);
    assert_int_equal(tokenizer_bos_token(tokenizer), -1);
}

static const char spiece_model[] =
    "\"unk_token\":\"<unk>\",\"fuse_unk\":true,\"byte_fallback\":true,\"vocab\":{\"<unk>\":0,\"<s>\":1,\"</s>\":2,"
    "\"<0xC3>\":3,\"<0xA9>\":4,\"<0x0A>\":5,\"\xe2\x96\x81\":6,\"a\":7,\"b\":8,\"\xe2\x96\x81"
    "a\":9,\"ab\":10},\"merges\":[\"\xe2\x96\x81 a\",\"a b\"]";
static const char spiece_head[] =
    "\"added_tokens\":[{\"id\":0,\"content\":\"<unk>\",\"special\":true,\"normalized\":false},{\"id\":1,\"content\":\"<s>\","
    "\"special\":true,\"normalized\":false},{\"id\":2,\"content\":\"</s>\",\"special\":true,\"normalized\":false}],"
    "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},"
    "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}},{\"SpecialToken\":{\"id\":\"</s>\",\"type_id\":0}}],\"pair\":[],"
    "\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[1],\"tokens\":[\"<s>\"]},\"</s>\":{\"id\":\"</s>\",\"ids\":[2],"
    "\"tokens\":[\"</s>\"]}}}," SPIECE;

static void a_character_that_is_no_token_becomes_its_bytes(void **state)
{
    (void)state;
    OWNED(tokenizer) tokenizer = make_sound(spiece_head, spiece_model);
    ASSERT_IDS(tokenizer, "a", "9");
    ASSERT_IDS(tokenizer, "ab a", "9 8 9"); /* the mark in front wins: its rank is lower */
    ASSERT_IDS(tokenizer, "a\xc3\xa9\n", "9 3 4 5");
    ASSERT_IDS(tokenizer,
               "a\xe4\xbd\xa0\xe5\xa5\xbd"
               "b",
               "9 0 8"); /* bytes missing: one <unk> for both */
}

static void the_template_surrounds_the_text(void **state)
{
    (void)state;
    char buffer[64];
    OWNED(tokenizer) tokenizer = make_sound(spiece_head, spiece_model);
    assert_int_equal(tokenizer_bos_token(tokenizer), 1);
    assert_string_equal(ids_of(tokenizer, "a", true, buffer, sizeof buffer), "1 9 2");
    assert_string_equal(ids_of(tokenizer, "", true, buffer, sizeof buffer), "1 2");
}

static void special_tokens_in_the_text_cut_it(void **state)
{
    (void)state;
    OWNED(tokenizer) tokenizer = make_sound(spiece_head, spiece_model);
    ASSERT_IDS(tokenizer, "<s>a</s>b", "1 9 2 6 8"); /* each part is normalized by itself */
    ASSERT_IDS(tokenizer, "</s></s>", "2 2");
}

static void decoding_undoes_encoding(void **state)
{
    (void)state;
    OWNED(tokenizer) tokenizer = make_sound(spiece_head, spiece_model);
    assert_decodes(tokenizer, (int32_t[]){1, 9, 8, 3, 4, 9, 2}, 7, true, "ab\xc3\xa9 a");
    assert_decodes(tokenizer, (int32_t[]){1, 9}, 2, false, "<s> a");
    assert_decodes(tokenizer, (int32_t[]){9, 3, 7}, 3, true,
                   "a\xef\xbf\xbd"
                   "a");                                              /* half a character */
    assert_decodes(tokenizer, (int32_t[]){-1, 700, 9}, 3, true, "a"); /* ids that are none are left out */
    assert_decodes(tokenizer, NULL, 0, true, "");
    OWNED(tokenizer)
    bytes =
        make_sound(BYTE_LEVEL, "\"vocab\":{\"a\":0,\"\\u0120\":1,\"\\u00c3\":2,\"\\u00a9\":3},\"merges\":[]");
    assert_decodes(bytes, (int32_t[]){0, 1, 2, 3, 2, 0}, 6, true,
                   "a \xc3\xa9\xef\xbf\xbd"
                   "a");
}

static void every_byte_has_its_letter_and_back(void **state)
{
    (void)state;
    struct text vocab = {0};
    text_append(&vocab, "\"vocab\":{");
    unsigned next = 256;
    for (unsigned byte = 0; byte < 256; byte++) { /* written anew, from the definition */
        bool is_printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
        text_append_format(&vocab, "%s\"\\u%04x\":%u", byte > 0 ? "," : "", is_printable ? byte : next, byte);
        next += is_printable ? 0 : 1;
    }
    text_append(&vocab, "},\"merges\":[]");
    OWNED(tokenizer) tokenizer = make_sound(BYTE_LEVEL, vocab.bytes);
    text_finish(&vocab);
    const char *text = "a \t\n\x01\x7f\xc2\xa0\xc2\xad\xc3\xbf\xf0\x9f\x98\x80~!";
    struct tokens tokens = {0};
    struct error error = {0};
    assert_true(tokenizer_encode(tokenizer, text, strlen(text), false, &tokens, &error));
    assert_int_equal(tokens.count, strlen(text));
    for (size_t i = 0; i < tokens.count; i++) {
        assert_int_equal(tokens.ids[i], (unsigned char)text[i]);
    }
    assert_decodes(tokenizer, tokens.ids, tokens.count, true, text);
    tokens_finish(&tokens);
}

static void added_tokens_strip_and_respect_words_as_told(void **state)
{
    (void)state;
    OWNED(tokenizer)
    tokenizer =
        make_sound("\"added_tokens\":[{\"id\":10,\"content\":\"<l>\",\"lstrip\":true,\"normalized\":false},"
                   "{\"id\":11,\"content\":\"<r>\",\"rstrip\":true,\"normalized\":false},"
                   "{\"id\":12,\"content\":\"word\",\"single_word\":true,\"normalized\":false},"
                   "{\"id\":13,\"content\":\"<l><r>\",\"normalized\":false}]," BYTE_LEVEL,
                   "\"vocab\":{\"a\":0,\"\\u0120\":1,\"w\":2,\"o\":3,\"r\":4,\"d\":5,\"s\":6},\"merges\":[]");
    ASSERT_IDS(tokenizer, "a  <l> a", "0 10 1 0");
    ASSERT_IDS(tokenizer, "a <r>\xe3\x80\x80\n a", "0 1 11 0");
    ASSERT_IDS(tokenizer, "<r> <l>", "11 10"); /* the same space is not taken twice */
    ASSERT_IDS(tokenizer, "word words sword", "12 1 2 3 4 5 6 1 6 2 3 4 5");
    ASSERT_IDS(tokenizer, "<l><r>", "13"); /* the longest */
    ASSERT_IDS(tokenizer, "word", "12");
    assert_int_equal(tokenizer_find(tokenizer, "<l><r>"), 13);
}

static void normalized_added_tokens_are_found_in_normalized_text(void **state)
{
    (void)state;
    OWNED(tokenizer)
    tokenizer =
        make_sound("\"added_tokens\":[{\"id\":5,\"content\":\"x y\",\"normalized\":true}],"
                   "\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"_\"}",
                   "\"vocab\":{\"a\":0,\"_\":1,\"x\":2,\"y\":3},\"merges\":[]");
    ASSERT_IDS(tokenizer, "ax ya", "0 5 0");
    ASSERT_IDS(tokenizer, "ax_ya", "0 5 0");
    ASSERT_IDS(tokenizer, "a x", "0 1 2");
}

static void whole_words_may_skip_merging(void **state)
{
    (void)state;
#define REST ",\"vocab\":{\"a\":0,\"b\":1,\"\\u0120\":2,\"\\u0120ab\":3},\"merges\":[]"
    OWNED(tokenizer) ignoring = make_sound(BYTE_LEVEL, "\"ignore_merges\":true" REST);
    OWNED(tokenizer) merging = make_sound(BYTE_LEVEL, "\"ignore_merges\":false" REST);
    ASSERT_IDS(ignoring, "a ab", "0 3");
    ASSERT_IDS(merging, "a ab", "0 2 0 1");
}

static void metaspace_prepends_where_its_scheme_says(void **state)
{
    (void)state;
    static const struct {
        const char *scheme, *ids, *after_token;
    } cases[] = {{"always", "1 0 1 0", "9 1 0"}, {"first", "1 0 1 0", "9 0"}, {"never", "0 1 0", "9 0"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char head[512];
        (void)snprintf(
            head, sizeof head,
            "\"added_tokens\":[{\"id\":9,\"content\":\"<t>\",\"normalized\":false,\"special\":true}],"
            "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"%s\",\"split\":true},"
            "\"decoder\":{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"%s\"}",
            cases[i].scheme, cases[i].scheme);
        OWNED(tokenizer)
        tokenizer = make_sound(head, "\"vocab\":{\"a\":0,\"_\":1,\"a_\":2},\"merges\":[\"a _\"]");
        ASSERT_IDS(tokenizer, "a a", cases[i].ids); /* a_ never merges: words are cut before the mark */
        ASSERT_IDS(tokenizer, "<t>a", cases[i].after_token);
        assert_decodes(tokenizer, (int32_t[]){1, 0, 1, 0}, 4, true, i < 2 ? "a a" : " a a");
    }
}

static void digits_are_cut_one_by_one_or_in_runs(void **state)
{
    (void)state;
    const char *model = "\"vocab\":{\"1\":1,\"2\":2,\"a\":0,\"12\":3,\"a1\":4},\"merges\":[\"1 2\",\"a 1\"]";
    OWNED(tokenizer)
    single = make_sound("\"pre_tokenizer\":{\"type\":\"Digits\",\"individual_digits\":true}", model);
    OWNED(tokenizer)
    runs = make_sound("\"pre_tokenizer\":{\"type\":\"Digits\",\"individual_digits\":false}", model);
    ASSERT_IDS(single, "a12", "0 1 2");
    ASSERT_IDS(runs, "a12", "0 3");
}

static void byte_level_may_put_a_space_in_front(void **state)
{
    (void)state;
    OWNED(tokenizer)
    tokenizer =
        make_sound("\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"use_regex\":true}",
                   "\"vocab\":{\"a\":0,\"\\u0120\":1},\"merges\":[]");
    ASSERT_IDS(tokenizer, "a", "1 0");
    ASSERT_IDS(tokenizer, " a", "1 0");
}

/* ---- against a slow merger written anew ------------------------------------------------------------------ */

#define LETTERS 3
struct naive_merge {
    char left[16], right[16];
};

/* Merges that build on each other: each joins two known tokens. */
static size_t random_merges(const struct rng *rng, struct naive_merge *merges, size_t wanted,
                            char known[][16], size_t *known_count)
{
    size_t count = 0;
    for (uint64_t draw = 0; count < wanted && draw < 1000; draw++) {
        const char *left = known[rng_below(rng, draw * 2, *known_count)];
        const char *right = known[rng_below(rng, draw * 2 + 1, *known_count)];
        char joined[32];
        (void)snprintf(joined, sizeof joined, "%s%s", left, right);
        bool is_known = strlen(joined) > 12;
        for (size_t i = 0; i < *known_count; i++) {
            is_known = is_known || strcmp(known[i], joined) == 0;
        }
        if (is_known) {
            continue;
        }
        (void)snprintf(merges[count].left, sizeof merges[count].left, "%s", left);
        (void)snprintf(merges[count].right, sizeof merges[count].right, "%s", right);
        (void)snprintf(known[(*known_count)++], 16, "%.15s", joined);
        count++;
    }
    return count;
}

/* Repeatedly: the merge of the lowest rank that applies anywhere, at its leftmost place. */
static size_t naive_encode(const struct naive_merge *merges, size_t merge_count, const char *text,
                           char parts[][16])
{
    size_t count = strlen(text);
    for (size_t i = 0; i < count; i++) {
        (void)snprintf(parts[i], 16, "%c", text[i]);
    }
    for (bool changed = true; changed;) {
        changed = false;
        for (size_t m = 0; m < merge_count && !changed; m++) {
            for (size_t i = 0; i + 1 < count && !changed; i++) {
                if (strcmp(parts[i], merges[m].left) == 0 && strcmp(parts[i + 1], merges[m].right) == 0) {
                    (void)snprintf(parts[i] + strlen(parts[i]), 16 - strlen(parts[i]), "%s", merges[m].right);
                    memmove(parts[i + 1], parts[i + 2], (count - i - 2) * 16);
                    count--;
                    changed = true;
                }
            }
        }
    }
    return count;
}

static void merging_by_heap_and_by_parts_equals_merging_naively(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < 60; round++) {
        struct rng rng = {.seed = 5, .stream = 1, .step = round};
        struct naive_merge merges[24];
        char known[LETTERS + 24][16] = {"x", "y", "z"};
        size_t known_count = LETTERS,
               merge_count = random_merges(&rng, merges, 1 + round % 24, known, &known_count);
        struct text model = {0};
        text_append(&model, "\"vocab\":{");
        for (size_t i = 0; i < known_count; i++) {
            text_append_format(&model, "%s\"%s\":%zu", i > 0 ? "," : "", known[i], i);
        }
        text_append(&model, "},\"merges\":[");
        for (size_t i = 0; i < merge_count; i++) {
            text_append_format(&model, "%s\"%s %s\"", i > 0 ? "," : "", merges[i].left, merges[i].right);
        }
        text_append(&model, "]");
        OWNED(tokenizer) cut = make_sound("", model.bytes);
        OWNED(tokenizer)
        whole = make_sound(
            "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}",
            model.bytes);
        text_finish(&model);
        char text[201] = {0}, parts[200][16];
        for (size_t i = 0; i < 200; i++) {
            text[i] = "xyz"[rng_below(&rng, 5000 + i, LETTERS)];
        }
        size_t part_count = naive_encode(merges, merge_count, text, parts);
        const struct tokenizer *both[] = {cut, whole};
        for (size_t b = 0; b < 2; b++) {
            struct tokens tokens = {0};
            struct error error = {0};
            assert_true(tokenizer_encode(both[b], text, 200, false, &tokens, &error));
            assert_int_equal(tokens.count, part_count);
            for (size_t i = 0; i < part_count; i++) {
                assert_string_equal(known[tokens.ids[i]], parts[i]);
            }
            tokens_finish(&tokens);
        }
    }
}

static void a_megabyte_without_a_single_cut_takes_no_quadratic_time(void **state)
{
    (void)state;
    OWNED(tokenizer)
    tokenizer = make_sound("", "\"vocab\":{\"a\":0,\"aa\":1,\"aaaa\":2},\"merges\":[\"a a\",\"aa aa\"]");
    size_t length = 1u << 20;
    OWNED_MEMORY char *text = memory_create(length + 1, 1);
    memset(text, 'a', length);
    struct tokens tokens = {0};
    struct error error = {0};
    clock_t start = clock();
    assert_true(tokenizer_encode(tokenizer, text, length, false, &tokens, &error));
    assert_int_equal(tokens.count, length / 4);
    assert_true((double)(clock() - start) / CLOCKS_PER_SEC < 10); /* it takes 0.2; quadratic takes hours */
    tokens_finish(&tokens);
}

/* ---- WordPiece and Unigram -------------------------------------------------------------------------------- */

/* The whole file is `rest` inside braces. */
static struct tokenizer *parse_sound(const char *rest)
{
    struct text json = {0};
    struct error error = {0};
    text_append_format(&json, "{%s}", rest);
    struct tokenizer *tokenizer = tokenizer_parse(json.bytes, json.length, &error);
    text_finish(&json);
    if (tokenizer == NULL) {
        fail_msg("%s: %s", error_code_slug(error.code), error.message);
    }
    return tokenizer;
}

#define WORDPIECE                                                                                                    \
    "\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"[UNK]\",\"continuing_subword_prefix\":\"##\","                \
    "\"max_input_chars_per_word\":6,\"vocab\":{\"[UNK]\":0,\"a\":1,\"ab\":2,\"##b\":3,\"##bc\":4,\"##c\":5,\"e\":6," \
    "\"\\u4f60\":7,\".\":8,\"##d\":9,\"##\":10}}"
#define BERT                                                                                                 \
    "\"normalizer\":{\"type\":\"BertNormalizer\",\"clean_text\":true,\"handle_chinese_chars\":true,"         \
    "\"strip_accents\":null,\"lowercase\":true},\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},"          \
    "\"decoder\":{\"type\":\"WordPiece\",\"prefix\":\"##\",\"cleanup\":true},"

static void wordpiece_takes_the_longest_piece_from_the_left(void **state)
{
    (void)state;
    OWNED(tokenizer) tokenizer = parse_sound(BERT WORDPIECE);
    ASSERT_IDS(tokenizer, "abc", "2 5"); /* ab c, though a bc is possible too */
    ASSERT_IDS(tokenizer, "abbc", "2 4");
    ASSERT_IDS(tokenizer, "abx", "0"); /* nothing goes on: the whole word is unknown */
    ASSERT_IDS(tokenizer, "ab x a", "2 0 1");
    ASSERT_IDS(tokenizer, "abcbcb", "2 5 4 3");
    ASSERT_IDS(tokenizer, "abcbcbc", "0"); /* seven characters */
    ASSERT_IDS(tokenizer, "A\xc3\x89 \xc3\xa9.a", "0 6 8 1");
    ASSERT_IDS(tokenizer,
               "a\xe4\xbd\xa0"
               "a\x01"
               "b",
               "1 7 2"); /* a word of its own; the control character goes */
    ASSERT_IDS(tokenizer, "  \t", "");
    assert_decodes(tokenizer, (int32_t[]){2, 5, 8, 1, 3}, 5, true, "abc. ab");
}

#define UNIGRAM                                                                                                      \
    "\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"<unk>\",0],[\"a\",-2.0],[\"b\",-2.5],[\"ab\",-4.6]," \
    "[\"abc\",-1e1],[\"c\",-3.0],[\"aa\",-3.5],[\"xy\",-30]"

static void unigram_takes_the_likeliest_cut(void **state)
{
    (void)state;
    OWNED(tokenizer) tokenizer = parse_sound(UNIGRAM "]}");
    ASSERT_IDS(tokenizer, "ab", "1 2");    /* -4.5 against -4.6 */
    ASSERT_IDS(tokenizer, "abc", "1 2 5"); /* -7.5 against -10 */
    ASSERT_IDS(tokenizer, "aaa",
               "1 6"); /* ties: the way found first stays, and "a" then "aa" reaches the end first */
    ASSERT_IDS(tokenizer, "aaxxxb", "6 0 2"); /* one <unk> for the run */
    ASSERT_IDS(tokenizer, "axyb", "1 7 2"); /* a piece of unknown characters beats two of them at -40 each */
    ASSERT_IDS(tokenizer, "\xe4\xbd\xa0", "0");
    ASSERT_IDS(tokenizer, "", "");
    OWNED(tokenizer)
    bytes = parse_sound(UNIGRAM ",[\"<0xC3>\",-9],[\"<0xA9>\",-9]],\"byte_fallback\":true}");
    ASSERT_IDS(bytes, "a\xc3\xa9\xc3\xa9", "1 8 9 8 9");
    ASSERT_IDS(bytes, "a\xc3\xa9x", "1 0"); /* x has no byte: the run as a whole is unknown */
}

static void a_hostile_unigram_vocabulary_costs_no_quadratic_time(void **state)
{
    (void)state;
    struct text json = {0};
    text_append(&json, UNIGRAM);
    text_append(&json, ",[\"");
    for (size_t i = 0; i < 1024; i++) {
        text_append(&json, "z");
    }
    text_append(&json, "\",-1]]}");
    OWNED(tokenizer) tokenizer = parse_sound(json.bytes);
    size_t length = 1u << 16;
    OWNED_MEMORY char *text = memory_create(length + 1, 1);
    memset(text, 'z', length);
    struct tokens tokens = {0};
    struct error error = {0};
    assert_true(tokenizer_encode(tokenizer, text, length, false, &tokens, &error));
    assert_int_equal(tokens.count, length / 1024);
    tokens_finish(&tokens);
    const char *end = strstr(json.bytes, "z\",-1]");
    size_t at = (size_t)(end - json.bytes);
    struct text longer = {0};
    text_append_bytes(&longer, json.bytes, at);
    text_append(&longer, "z");
    text_append(&longer, end);
    struct text whole = {0};
    text_append_format(&whole, "{%s}", longer.bytes);
    assert_null(tokenizer_parse(whole.bytes, whole.length, &error)); /* a piece of 1,025 bytes */
    assert_int_equal(error.code, ERROR_UNSUPPORTED);
    assert_string_equal(error.field, "tokenizer.json/model/vocab");
    text_finish(&json);
    text_finish(&longer);
    text_finish(&whole);
}

static void a_text_that_a_file_lets_grow_without_end_is_refused(void **state)
{
    (void)state;
    struct text json = {0};
    text_append(&json, "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[");
    for (size_t i = 0; i < 16; i++) { /* a hundredfold sixteen times */
        text_append_format(&json, "%s{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"",
                           i > 0 ? "," : "");
        for (size_t n = 0; n < 100; n++) {
            text_append(&json, "a");
        }
        text_append(&json, "\"}");
    }
    text_append(&json, "]}," UNIGRAM "]}");
    OWNED(tokenizer) tokenizer = parse_sound(json.bytes);
    text_finish(&json);
    struct tokens tokens = {0};
    struct error error = {0};
    assert_false(tokenizer_encode(tokenizer, "ba", 2, false, &tokens, &error));
    assert_int_equal(error.code, ERROR_TOO_LARGE);
    assert_int_equal(tokens.count, 0);
    ASSERT_IDS(tokenizer, "b", "2");
    tokens_finish(&tokens);
}

static void many_added_tokens_that_start_alike_cost_no_quadratic_time(void **state)
{
    (void)state;
    struct text json = {0};
    text_append(&json, "\"added_tokens\":[");
    for (size_t i = 0; i < 60000; i++) {
        text_append_format(&json, "%s{\"id\":%zu,\"content\":\"aa%05zu\",\"normalized\":false}",
                           i > 0 ? "," : "", 100 + i, i);
    }
    text_append(&json, "]," UNIGRAM "]}");
    OWNED(tokenizer) tokenizer = parse_sound(json.bytes);
    text_finish(&json);
    size_t length = 1u << 20;
    OWNED_MEMORY char *text = memory_create(length + 1, 1);
    memset(text, 'a', length);
    memcpy(text + length - 7, "aa00012", 7);
    struct tokens tokens = {0};
    struct error error = {0};
    clock_t start = clock();
    assert_true(tokenizer_encode(tokenizer, text, length, false, &tokens, &error));
    assert_true((double)(clock() - start) / CLOCKS_PER_SEC <
                10); /* a list of 60,000 at every byte takes minutes */
    assert_int_equal(tokens.ids[tokens.count - 1], 112);
    tokens_finish(&tokens);
}

static void faulty_wordpiece_and_unigram_models_are_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *model;
        enum error_code code;
        const char *field; /* NULL: any */
    } cases[] = {
        {"\"type\":\"Unigram\",\"unk_id\":1,\"vocab\":[[\"a\",0]]", ERROR_OUT_OF_RANGE, NULL},
        {"\"type\":\"Unigram\",\"unk_id\":null,\"vocab\":[[\"a\",0]]", ERROR_UNSUPPORTED,
         "tokenizer.json/model/unk_id"},
        {"\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"a\",0],[\"a\",1]]", ERROR_DUPLICATE_KEY,
         "tokenizer.json/model/vocab"},
        {"\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[]", ERROR_CORRUPT_FILE, "tokenizer.json/model/vocab"},
        {"\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":{\"a\":0}", ERROR_CORRUPT_FILE,
         "tokenizer.json/model/vocab"},
        {"\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"a\"]]", ERROR_CORRUPT_FILE, NULL},
        {"\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"a\",1e999]]", ERROR_CORRUPT_FILE, NULL},
        {"\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"a\",-]]", ERROR_CORRUPT_FILE, NULL},
        {"\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"a\",1e]]", ERROR_CORRUPT_FILE, NULL},
        {"\"type\":\"BPE\",\"merges\":[],\"vocab\":[[\"a\",0]]", ERROR_CORRUPT_FILE,
         "tokenizer.json/model/vocab"},
        {"\"type\":\"WordPiece\",\"vocab\":[[\"[UNK]\",0]]", ERROR_CORRUPT_FILE,
         "tokenizer.json/model/vocab"},
        {"\"type\":\"WordPiece\",\"unk_token\":\"?\",\"vocab\":{\"a\":0}", ERROR_CORRUPT_FILE,
         "tokenizer.json/model/unk_token"},
        {"\"type\":\"WordPiece\",\"max_input_chars_per_word\":1000000000,\"vocab\":{\"[UNK]\":0}",
         ERROR_OUT_OF_RANGE, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct text json = {0};
        struct error error = {0};
        text_append_format(&json, "{\"model\":{%s}}", cases[i].model);
        struct tokenizer *tokenizer = tokenizer_parse(json.bytes, json.length, &error);
        text_finish(&json);
        assert_null(tokenizer);
        if (error.code != cases[i].code ||
            (cases[i].field != NULL && strcmp(error.field, cases[i].field) != 0)) {
            fail_msg("case %zu: %s at \"%s\": %s", i, error_code_slug(error.code), error.field,
                     error.message);
        }
    }
}

/* ---- refusals ------------------------------------------------------------------------------------------- */

static void what_is_not_understood_is_refused_by_name(void **state)
{
    (void)state;
    static const char sound[] = "\"vocab\":{\"a\":0,\"b\":1},\"merges\":[]";
    static const struct {
        const char *head, *model;
        enum error_code code;
        const char *field; /* NULL: any */
    } cases[] = {
        {"\"normalizer\":{\"type\":\"ByteLevel\"}", sound, ERROR_UNSUPPORTED, "tokenizer.json/normalizer"},
        {"\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFKX\"}]}", sound,
         ERROR_UNSUPPORTED, "tokenizer.json/normalizer/normalizers/0"},
        {"\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"a+\"},\"content\":\"b\"}", sound,
         ERROR_UNSUPPORTED, "tokenizer.json/normalizer"},
        {"\"normalizer\":7", sound, ERROR_WRONG_TYPE, "tokenizer.json/normalizer"},
        {"\"pre_tokenizer\":{\"type\":\"Whitespace\"}", sound, ERROR_UNSUPPORTED,
         "tokenizer.json/pre_tokenizer"},
        {"\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a+)+$\"},\"behavior\":\"Isolated\",\"invert\":false}",
         sound, ERROR_UNSUPPORTED, "tokenizer.json/pre_tokenizer"},
        {"\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},{\"type\":\"Digits\"}]}",
         sound, ERROR_UNSUPPORTED, "tokenizer.json/pre_tokenizer/pretokenizers/1"},
        {"\"post_processor\":{\"type\":\"Other\"}", sound, ERROR_UNSUPPORTED,
         "tokenizer.json/post_processor"},
        {"\"post_processor\":{\"type\":\"BertProcessing\",\"cls\":[\"a\",0],\"sep\":[\"b\"]}", sound,
         ERROR_CORRUPT_FILE, "tokenizer.json/post_processor"},
        {"\"post_processor\":{\"type\":\"RobertaProcessing\",\"cls\":[\"a\",0],\"sep\":[\"b\",2]}", sound,
         ERROR_CORRUPT_FILE, "tokenizer.json/post_processor"},
        {"\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AAAA\"}", sound,
         ERROR_CORRUPT_FILE, "tokenizer.json/normalizer"},
        {"\"normalizer\":{\"type\":\"NFC\"},\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":"
         "\"WhitespaceSplit\"},{\"type\":\"Metaspace\",\"prepend_scheme\":\"first\"}]}",
         sound, ERROR_UNSUPPORTED, "tokenizer.json/pre_tokenizer/pretokenizers/1"},
        {"\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\" \"},\"behavior\":\"Other\",\"invert\":false}",
         sound, ERROR_UNSUPPORTED, "tokenizer.json/pre_tokenizer"},
        {"\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\" \"},\"behavior\":\"Removed\",\"invert\":true}",
         sound, ERROR_UNSUPPORTED, "tokenizer.json/pre_tokenizer"},
        {"\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}},{\"Sequence\":"
         "{\"id\":\"A\"}}],\"special_tokens\":{\"<s>\":{\"ids\":[55]}}}",
         sound, ERROR_CORRUPT_FILE, "tokenizer.json/post_processor"},
        {"\"decoder\":{\"type\":\"CTC\"}", sound, ERROR_UNSUPPORTED, "tokenizer.json/decoder"},
        {"\"added_tokens\":[{\"id\":5,\"content\":\"a\"}]", sound, ERROR_CORRUPT_FILE,
         "tokenizer.json/added_tokens/0"},
        {"\"added_tokens\":[{\"content\":\"c\"}]", sound, ERROR_MISSING_FIELD, NULL},
        {"", "\"type\":\"Unigram\",\"vocab\":[[\"a\",0.0]]", ERROR_DUPLICATE_KEY, NULL},
        {"", "\"vocab\":{},\"merges\":[]", ERROR_CORRUPT_FILE, "tokenizer.json/model/vocab"},
        {"", "\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]", ERROR_DUPLICATE_KEY, "tokenizer.json/model/vocab"},
        {"", "\"vocab\":{\"a\":0},\"vocab\":{\"a\":0},\"merges\":[]", ERROR_DUPLICATE_KEY, NULL},
        {"", "\"vocab\":{\"a\":-1},\"merges\":[]", ERROR_CORRUPT_FILE, NULL},
        {"", "\"vocab\":{\"a\":99999999},\"merges\":[]", ERROR_CORRUPT_FILE, NULL},
        {"", "\"vocab\":{\"a\":0.5},\"merges\":[]", ERROR_CORRUPT_FILE, NULL},
        {"", "\"vocab\":{\"\\ud800\":0},\"merges\":[]", ERROR_CORRUPT_FILE, NULL},
        {"", "\"vocab\":{\"a\":0},\"merges\":[\"ab\"]", ERROR_CORRUPT_FILE, NULL},
        {"", "\"vocab\":{\"a\":0},\"merges\":[\"a b\"]", ERROR_CORRUPT_FILE, "tokenizer.json/model/merges"},
        {"", "\"vocab\":{\"a\":0,\"b\":1},\"merges\":[\"a b\"]", ERROR_CORRUPT_FILE,
         "tokenizer.json/model/merges"},
        {"", "\"dropout\":0.1,\"vocab\":{\"a\":0},\"merges\":[]", ERROR_UNSUPPORTED,
         "tokenizer.json/model/dropout"},
        {"", "\"unk_token\":\"<unk>\",\"vocab\":{\"a\":0},\"merges\":[]", ERROR_CORRUPT_FILE,
         "tokenizer.json/model/unk_token"},
        {"", "\"continuing_subword_prefix\":\"##\",\"vocab\":{\"a\":0},\"merges\":[]", ERROR_UNSUPPORTED,
         "tokenizer.json/model/continuing_subword_prefix"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct error error = {0};
        struct tokenizer *tokenizer = make(cases[i].head, cases[i].model, &error);
        assert_null(tokenizer);
        if (error.code != cases[i].code ||
            (cases[i].field != NULL && strcmp(error.field, cases[i].field) != 0)) {
            fail_msg("case %zu: %s at \"%s\": %s", i, error_code_slug(error.code), error.field,
                     error.message);
        }
        assert_non_null(strstr(error.message, "tokenizer.json"));
    }
}

static void another_model_type_is_unsupported_even_with_a_huge_vocabulary(void **state)
{
    (void)state;
    struct text json = {0};
    text_append(&json, "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{");
    for (size_t i = 0; i < 400000; i++) { /* as JSON values these would take a hundred megabytes */
        text_append_format(&json, "%s\"a%zu\":%zu", i > 0 ? "," : "", i, i);
    }
    text_append(&json, "}}}");
    struct error error = {0};
    assert_null(tokenizer_parse(json.bytes, json.length, &error));
    assert_int_equal(error.code, ERROR_UNSUPPORTED);
    assert_string_equal(error.field, "tokenizer.json/model/type");
    text_finish(&json);
}

static void a_file_cut_off_anywhere_is_an_error(void **state)
{
    (void)state;
    struct text json = {0};
    text_append_format(&json, "{\"version\":\"1.0\",%s,\"model\":{\"type\":\"BPE\",%s}}", spiece_head,
                       spiece_model);
    for (size_t length = 0; length < json.length; length++) {
        struct error error = {0};
        char *exact = memory_create(length + 1, 1); /* so that the sanitizer sees the first byte beyond */
        memcpy(exact, json.bytes, length);
        assert_null(tokenizer_parse(exact, length, &error));
        assert_int_not_equal(error.code, ERROR_NONE);
        free(exact);
    }
    struct error error = {0};
    OWNED(tokenizer) tokenizer = tokenizer_parse(json.bytes, json.length, &error);
    assert_non_null(tokenizer);
    text_finish(&json);
}

static void text_that_is_not_utf8_is_refused_with_its_place(void **state)
{
    (void)state;
    OWNED(tokenizer) tokenizer = make_sound(BYTE_LEVEL, "\"vocab\":{\"a\":0},\"merges\":[]");
    static const char *const bad[] = {"aa\xff",         "aa\xc3(",    "aa\xe2\x82",
                                      "aa\xed\xa0\x80", "aa\xc0\x80", "aa\xf5\x80\x80\x80"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct tokens tokens = {0};
        struct error error = {0};
        assert_false(tokenizer_encode(tokenizer, bad[i], strlen(bad[i]), false, &tokens, &error));
        assert_int_equal(error.code, ERROR_INVALID_ARGUMENT);
        assert_non_null(strstr(error.message, "byte 2"));
        assert_int_equal(tokens.count, 0);
        tokens_finish(&tokens);
    }
}

static void a_model_without_a_tokenizer_says_so(void **state)
{
    (void)state;
    struct error error = {0};
    assert_null(tokenizer_load("/nonexistent-folder", &error));
    assert_int_equal(error.code, ERROR_NOT_FOUND);
    assert_string_equal(error.field, "tokenizer.json");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_lowest_rank_merges_first_and_leftmost),
        cmocka_unit_test(merges_may_be_pairs_and_ids_may_have_gaps),
        cmocka_unit_test(a_character_that_is_no_token_becomes_its_bytes),
        cmocka_unit_test(the_template_surrounds_the_text),
        cmocka_unit_test(special_tokens_in_the_text_cut_it),
        cmocka_unit_test(decoding_undoes_encoding),
        cmocka_unit_test(every_byte_has_its_letter_and_back),
        cmocka_unit_test(added_tokens_strip_and_respect_words_as_told),
        cmocka_unit_test(normalized_added_tokens_are_found_in_normalized_text),
        cmocka_unit_test(whole_words_may_skip_merging),
        cmocka_unit_test(metaspace_prepends_where_its_scheme_says),
        cmocka_unit_test(digits_are_cut_one_by_one_or_in_runs),
        cmocka_unit_test(byte_level_may_put_a_space_in_front),
        cmocka_unit_test(merging_by_heap_and_by_parts_equals_merging_naively),
        cmocka_unit_test(a_megabyte_without_a_single_cut_takes_no_quadratic_time),
        cmocka_unit_test(wordpiece_takes_the_longest_piece_from_the_left),
        cmocka_unit_test(unigram_takes_the_likeliest_cut),
        cmocka_unit_test(a_hostile_unigram_vocabulary_costs_no_quadratic_time),
        cmocka_unit_test(a_text_that_a_file_lets_grow_without_end_is_refused),
        cmocka_unit_test(many_added_tokens_that_start_alike_cost_no_quadratic_time),
        cmocka_unit_test(faulty_wordpiece_and_unigram_models_are_refused_by_name),
        cmocka_unit_test(what_is_not_understood_is_refused_by_name),
        cmocka_unit_test(another_model_type_is_unsupported_even_with_a_huge_vocabulary),
        cmocka_unit_test(a_file_cut_off_anywhere_is_an_error),
        cmocka_unit_test(text_that_is_not_utf8_is_refused_with_its_place),
        cmocka_unit_test(a_model_without_a_tokenizer_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
