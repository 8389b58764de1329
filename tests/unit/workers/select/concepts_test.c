/*
 * Concepts: phrases and their canonical form, against phrases that the test itself put together; sets, frequencies and limits against plain
 * string comparisons; the graph against the reference's vector (T3) and a plain matrix, and at its memory limit.
 */
#include "base/memory.h"
#include "workers/select/concepts.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ROOMY ((uint64_t)1 << 24)

/* Deterministic whole numbers below `end`. */
static size_t noise(size_t i, size_t end)
{
    uint64_t x = ((uint64_t)i + 1) * 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return (size_t)((x ^ x >> 31) % end);
}

static void assert_concepts(const char *text, const char *expected)
{
    FINISHED(text) found = {0};
    concepts_extract(text, strlen(text), &found);
    assert_string_equal(found.length > 0 ? found.bytes : "", expected);
}

static void phrases_are_runs_between_stop_words_and_marks(void **state)
{
    (void)state;
    assert_concepts("Deep learning is a method of machine learning",
                    "deep learning\nmethod\nmachine learning\n");
    assert_concepts("Deep learning, machine learning; (graph theory)!",
                    "deep learning\nmachine learning\ngraph theory\n");
    assert_concepts("red apple\ngreen pear\r\n\tblue plum", "red apple\ngreen pear\nblue plum\n");
    assert_concepts("linear  \t algebra", "linear algebra\n");
    assert_concepts("", "");
    assert_concepts(" \n.,;-'--' ", "");
    assert_concepts("It is what it is.", "");
}

static void marks_inside_words_do_not_end_a_phrase(void **state)
{
    (void)state;
    assert_concepts("machine-learning model", "machine learning model\n");
    assert_concepts("machine - learning --model-", "machine\nlearning\nmodel\n");
    assert_concepts("state-of-the-art robot", "state\nart robot\n");
    assert_concepts("the dog's tail isn't the cat\xe2\x80\x99s tail", "dog tail\ncat tail\n");
    assert_concepts("we'll say they've gone, I'm told you'd can't", "told\n");
    assert_concepts("o'clock 'quoted phrase' dogs' tail", "o clock\nquoted phrase\ndog\ntail\n");
    assert_concepts("Python 3.11 needs 1,000 bytes. 5. Next", "python 3.11\n1,000 byte\n5\n");
    assert_concepts("version 2.x", "version 2\nx\n");
}

static void spellings_of_one_concept_meet(void **state)
{
    (void)state;
    assert_concepts("CITIES City cities", "city city city\n");
    assert_concepts("classes class", "class class\n");
    assert_concepts("boxes box", "box box\n");
    assert_concepts("batches batch", "batch batch\n");
    assert_concepts("wishes wish", "wish wish\n");
    assert_concepts("models model", "model model\n");
    assert_concepts("horses horse", "horse horse\n");
    assert_concepts("analysis bus gas virus glass", "analysis bus gas virus glass\n");
    assert_concepts("ties 1990s", "tie 1990s\n");
}

static void other_scripts_are_words_and_broken_bytes_are_not(void **state)
{
    (void)state;
    assert_concepts("\xc3\x89"
                    "cole Sup\xc3\xa9rieure",
                    "\xc3\xa9"
                    "cole sup\xc3\xa9rieure\n");
    assert_concepts("\xd0\x9c\xd0\x9e\xd0\xa1\xd0\x9a\xd0\x92\xd0\x90",
                    "\xd0\xbc\xd0\xbe\xd1\x81\xd0\xba\xd0\xb2\xd0\xb0\n");
    /* An ideographic full stop, an em dash, a no-break space, a soft hyphen. */
    assert_concepts("\xe6\x9c\xba\xe5\x99\xa8\xe3\x80\x82\xe5\xad\xa6\xe4\xb9\xa0",
                    "\xe6\x9c\xba\xe5\x99\xa8\n\xe5\xad\xa6\xe4\xb9\xa0\n");
    assert_concepts("red apple\xe2\x80\x94pear", "red apple\npear\n");
    assert_concepts("red\xc2\xa0"
                    "apple",
                    "red apple\n");
    assert_concepts("hy\xc2\xadphen", "hyphen\n");
    assert_concepts("tuna\xff"
                    "salad \xe2\x82",
                    "tuna\nsalad\n");
    FINISHED(text) found = {0};
    concepts_extract("nul\0byte", 8, &found);
    assert_string_equal(found.bytes, "nul\nbyte\n");
}

static void phrases_are_those_that_were_put_in(void **state)
{
    (void)state;
    static const struct {
        const char *written, *canonical; /* NULL: a stop word */
    } words[] = {{"Neural", "neural"}, {"networks", "network"}, {"the", NULL},
                 {"of", NULL},         {"Graphs", "graph"},     {"theories", "theory"},
                 {"IS", NULL},         {"Boxes", "box"},        {"na\xc3\xafve", "na\xc3\xafve"},
                 {"don't", NULL},      {"robot's", "robot"},    {"x86", "x86"}};
    static const struct {
        const char *bytes;
        bool ends;
    } gaps[] = {{" ", false}, {"  ", false}, {"-", false}, {"\t", false},
                {", ", true}, {".", true},   {"\n", true}, {" (", true}};
    enum { WORDS = sizeof words / sizeof words[0], GAPS = sizeof gaps / sizeof gaps[0] };
    for (size_t trial = 0; trial < 3000; trial++) {
        FINISHED(text) text = {0};
        FINISHED(text) expected = {0};
        FINISHED(text) found = {0};
        size_t length = noise(trial, 40);
        bool is_open = false;
        for (size_t i = 0; i < length; i++) {
            size_t word = noise(trial * 100 + i, WORDS), gap = noise(trial * 100 + i + 7777777, GAPS);
            text_append(&text, words[word].written);
            text_append(&text, gaps[gap].bytes);
            if (words[word].canonical != NULL) {
                text_append(&expected, is_open ? " " : "");
                text_append(&expected, words[word].canonical);
            }
            bool was_open = is_open || words[word].canonical != NULL;
            is_open = words[word].canonical != NULL && !gaps[gap].ends;
            text_append(&expected, was_open && !is_open ? "\n" : "");
        }
        text_append(&expected, is_open ? "\n" : "");
        /* A hyphen at the very end of the text is inside no word; it ends the phrase as the end does. */
        concepts_extract(text.length > 0 ? text.bytes : "", text.length, &found);
        assert_string_equal(found.length > 0 ? found.bytes : "", expected.bytes);
    }
}

static void stop_words_are_found_all_over_the_list(void **state)
{
    (void)state;
    /* Of every row of the list, the ends of its searches, and neighbours of its words that are none. */
    assert_concepts(
        "after almost am anybody are back becoming beside came couldn doing eg even exactly forth getting "
        "going hasn her him ie is keeps lest makes merely mostly near never nor off one otherwise over plus "
        "relatively see shall some somewhat take their thereafter those together unlike used wasn weren "
        "whereas while why wouldn yourselves",
        "");
    assert_concepts(
        "actually all always another anywhere away becomes being by could each etc everywhere for former go "
        "has hi i into keep less many meanwhile most namely neither of once others outside please regarding "
        "saw several so sometimes sure the there this to unless use was where whether whose would yourself",
        "");
    assert_concepts("a able yourselves yourself myself zebra", "zebra\n");
    assert_concepts("about above below under whither respectively nevertheless", "");
    assert_concepts("aa yourselvess respectivelyx", "aa yourselvess respectivelyx\n");
}

/* ---- sets ------------------------------------------------------------------------------------------------ */

static void add(struct concepts *concepts, const char *text)
{
    assert_true(concepts_add(concepts, text, strlen(text), NULL));
}

static void a_records_concepts_are_a_set(void **state)
{
    (void)state;
    OWNED(concepts) concepts = concepts_create();
    add(concepts, "apples, pears, apple, plum");
    add(concepts, "");
    add(concepts, "plums and pear and quince and plum");
    size_t count = 9;
    const int32_t *ids = concepts_of(concepts, 0, &count);
    assert_int_equal(count, 3);
    assert_true(ids[0] == 0 && ids[1] == 1 && ids[2] == 2);
    (void)concepts_of(concepts, 1, &count);
    assert_int_equal(count, 0);
    ids = concepts_of(concepts, 2, &count);
    assert_int_equal(count, 3);
    assert_true(ids[0] == 1 && ids[1] == 2 && ids[2] == 3);
    struct concepts_counts counts = concepts_counts(concepts);
    assert_true(counts.records == 3 && counts.concepts == 4 && counts.single == 2 && counts.common == 0);
}

static void limits_keep_the_rarest_and_drop_the_common_and_the_single(void **state)
{
    (void)state;
    OWNED(concepts) concepts = concepts_create();
    /* Frequencies of 10 records: common 6, frequent 4, twice 2, thrice 3, pair 2, lone 1. */
    add(concepts, "common, frequent, thrice, twice, pair, lone");
    add(concepts, "common, frequent, thrice, twice");
    add(concepts, "common, frequent, thrice, pair");
    add(concepts, "common, frequent");
    add(concepts, "common");
    add(concepts, "common");
    for (size_t i = 0; i < 4; i++) {
        add(concepts, "");
    }
    assert_true(concepts_limit(concepts, 3, 0.4, NULL));
    /* Record 0: lone (5) is single, common (0) over 4 of 10. Rarest three of the rest: twice (3), pair (4), thrice (2). */
    size_t count = 0;
    const int32_t *ids = concepts_of(concepts, 0, &count);
    assert_int_equal(count, 3);
    assert_true(ids[0] == 2 && ids[1] == 3 && ids[2] == 4);
    ids = concepts_of(concepts, 1,
                      &count); /* frequent (1), thrice (2), twice (3): 4 of 10 is within the share */
    assert_int_equal(count, 3);
    assert_true(ids[0] == 1 && ids[1] == 2 && ids[2] == 3);
    (void)concepts_of(concepts, 4, &count);
    assert_int_equal(count, 0);
    struct concepts_counts counts = concepts_counts(concepts);
    assert_true(counts.records == 10 && counts.concepts == 6 && counts.common == 1 &&
                counts.records_cut == 1 && counts.single == 1);
}

static void a_share_of_whole_records_is_not_missed_by_rounding(void **state)
{
    (void)state;
    /* 0.01 * 2900 is 28.999999999999996. */
    OWNED(concepts) concepts = concepts_create();
    for (size_t i = 0; i < 2900; i++) {
        add(concepts, i < 29 ? "rare, frequent" : i == 29 ? "frequent" : "");
    }
    assert_true(concepts_limit(concepts, CONCEPTS_PER_RECORD, CONCEPTS_COMMON_RATIO, NULL));
    size_t count = 0;
    const int32_t *ids = concepts_of(concepts, 0, &count);
    assert_true(count == 1 && ids[0] == 0);
}

static void two_of_few_records_may_share_a_concept(void **state)
{
    (void)state;
    /* Less than two records are a hundredth of five. */
    OWNED(concepts) concepts = concepts_create();
    for (size_t i = 0; i < 5; i++) {
        add(concepts, i < 2 ? "pair, thrice" : i == 2 ? "thrice" : "");
    }
    assert_true(concepts_limit(concepts, CONCEPTS_PER_RECORD, CONCEPTS_COMMON_RATIO, NULL));
    size_t count = 0;
    const int32_t *ids = concepts_of(concepts, 1, &count);
    assert_true(count == 1 && ids[0] == 0);
    assert_int_equal(concepts_counts(concepts).common, 1);
}

static void nothing_at_all_has_no_concepts(void **state)
{
    (void)state;
    OWNED(concepts) concepts = concepts_create();
    assert_true(concepts_limit(concepts, 32, 0.01, NULL));
    assert_int_equal(concepts_counts(concepts).records, 0);
    concepts_destroy(NULL);
    concepts_graph_destroy(NULL);
}

enum { MANY_RECORDS = 300, MANY_WORDS = 40, MOST_CONCEPTS = 2000 };

/* Random records of a dictionary of distinct words, skewed so that some are common: has[r][c] of the concept's number. */
static void many_records(size_t trial, bool has[MANY_RECORDS][MOST_CONCEPTS], struct concepts *concepts)
{
    size_t numbers[MOST_CONCEPTS] = {0}, met = 0; /* by word, from 1 */
    memset(has, 0, sizeof(bool[MANY_RECORDS][MOST_CONCEPTS]));
    for (size_t r = 0; r < MANY_RECORDS; r++) {
        FINISHED(text) text = {0};
        size_t words = noise(trial * 1000 + r, MANY_WORDS);
        for (size_t w = 0; w < words; w++) {
            size_t i = (trial * MANY_RECORDS + r) * MANY_WORDS + w;
            size_t word = noise(i, 1 + noise(i + 999999999, MOST_CONCEPTS));
            text_append_format(&text, "w%zuq, ", word);
            if (numbers[word] == 0) {
                numbers[word] = ++met;
            }
            has[r][numbers[word] - 1] = true;
        }
        assert_true(concepts_add(concepts, text.length > 0 ? text.bytes : "", text.length, NULL));
    }
}

static void sets_and_limits_are_those_of_the_plain_form(void **state)
{
    (void)state;
    static bool has[MANY_RECORDS][MOST_CONCEPTS];
    OWNED(concepts) concepts = concepts_create();
    many_records(0, has, concepts);
    size_t frequencies[MOST_CONCEPTS] = {0}, different = 0;
    for (size_t w = 0; w < MOST_CONCEPTS; w++) {
        for (size_t r = 0; r < MANY_RECORDS; r++) {
            frequencies[w] += has[r][w] ? 1 : 0;
        }
        different += frequencies[w] > 0 ? 1 : 0;
    }
    assert_int_equal(concepts_counts(concepts).concepts, different);
    for (size_t stage = 0; stage < 2; stage++) {
        size_t least = stage == 1 ? 2 : 1, most = stage == 1 ? 15 : MANY_RECORDS; /* 5 % of 300 */
        if (stage == 1) {
            assert_true(concepts_limit(concepts, 8, 0.05, NULL));
        }
        for (size_t r = 0; r < MANY_RECORDS; r++) {
            static bool is_expected[MOST_CONCEPTS];
            size_t room = stage == 1 ? 8 : MOST_CONCEPTS, expected = 0, count = 0;
            memset(is_expected, 0, sizeof is_expected);
            for (size_t f = least; f <= most; f++) {
                for (size_t c = 0; c < different && expected < room; c++) {
                    if (has[r][c] && frequencies[c] == f) {
                        is_expected[c] = true;
                        expected++;
                    }
                }
            }
            const int32_t *ids = concepts_of(concepts, r, &count);
            assert_int_equal(count, expected);
            for (size_t i = 0; i < count; i++) {
                assert_true(i == 0 || ids[i - 1] < ids[i]);
                assert_true(is_expected[ids[i]]);
            }
        }
    }
}

/* ---- the graph ------------------------------------------------------------------------------------------- */

/* Offers a record and admits it if it may be. */
static bool offer(struct concepts_graph *graph, const int32_t *concepts, size_t count)
{
    bool is_consistent = concepts_graph_is_consistent(graph, concepts, count);
    if (is_consistent) {
        assert_true(concepts_graph_admit(graph, concepts, count, NULL));
    }
    return is_consistent;
}

enum { A, B, C, D, E };

static void the_references_stream_admits_1_2_5_6(void **state)
{
    (void)state;
    OWNED(concepts_graph) graph = concepts_graph_create(5, ROOMY, NULL);
    assert_true(offer(graph, (const int32_t[]){A, B}, 2));
    assert_true(offer(graph, (const int32_t[]){B, C}, 2));
    assert_false(offer(graph, (const int32_t[]){A, C}, 2));
    assert_false(offer(graph, (const int32_t[]){A, B, C}, 3));
    assert_true(offer(graph, (const int32_t[]){D, E}, 2));
    assert_true(offer(graph, (const int32_t[]){A}, 1));
    struct concepts_graph_counts counts = concepts_graph_counts(graph);
    assert_true(counts.vertices == 5 && counts.edges == 3 && counts.unrecorded == 0);
    assert_true(counts.bytes <= ROOMY);
}

static void the_order_of_records_matters(void **state)
{
    (void)state;
    OWNED(concepts_graph) graph = concepts_graph_create(3, ROOMY, NULL);
    assert_true(offer(graph, (const int32_t[]){A, B, C}, 3));
    assert_true(offer(graph, (const int32_t[]){A, B}, 2));
    assert_true(offer(graph, (const int32_t[]){B, C}, 2));
    assert_true(offer(graph, (const int32_t[]){A, C}, 2));
    assert_int_equal(concepts_graph_counts(graph).edges, 3);
}

static void lone_concepts_are_vertices_and_repeated_ones_count_once(void **state)
{
    (void)state;
    OWNED(concepts_graph) graph = concepts_graph_create(70, ROOMY, NULL);
    assert_true(offer(graph, NULL, 0));
    assert_true(offer(graph, (const int32_t[]){0, 0}, 2));
    assert_true(offer(graph, (const int32_t[]){69}, 1));
    assert_true(offer(graph, (const int32_t[]){69, 69, 69}, 3));
    assert_false(offer(graph, (const int32_t[]){0, 69}, 2)); /* both are there, apart */
    assert_true(concepts_graph_admit(graph, (const int32_t[]){69, 0, 69}, 3, NULL)); /* a last resort */
    assert_true(offer(graph, (const int32_t[]){0, 69}, 2));
    struct concepts_graph_counts counts = concepts_graph_counts(graph);
    assert_true(counts.vertices == 2 && counts.edges == 1);
}

static void admissions_are_those_of_a_plain_matrix(void **state)
{
    (void)state;
    enum { CONCEPTS = 90, LONGEST = 7 };
    for (size_t trial = 0; trial < 300; trial++) {
        static bool edges[CONCEPTS][CONCEPTS];
        bool vertices[CONCEPTS] = {false};
        size_t vertex_count = 0, edge_count = 0;
        memset(edges, 0, sizeof edges);
        OWNED(concepts_graph) graph = concepts_graph_create(CONCEPTS, ROOMY, NULL);
        for (size_t r = 0; r < 120; r++) {
            int32_t ids[LONGEST];
            size_t count = noise(trial * 1000 + r, LONGEST + 1);
            bool is_consistent = true;
            for (size_t i = 0; i < count; i++) {
                ids[i] = (int32_t)noise((trial * 1000 + r) * 10 + i + 123456, CONCEPTS);
                for (size_t j = 0; j < i; j++) {
                    is_consistent = is_consistent && (ids[i] == ids[j] || !vertices[ids[i]] ||
                                                      !vertices[ids[j]] || edges[ids[i]][ids[j]]);
                }
            }
            assert_int_equal(offer(graph, ids, count), is_consistent);
            for (size_t i = 0; i < count && is_consistent; i++) {
                vertices[ids[i]] = true;
                for (size_t j = 0; j < count; j++) {
                    edges[ids[i]][ids[j]] = ids[i] != ids[j];
                }
            }
        }
        for (size_t i = 0; i < CONCEPTS; i++) {
            vertex_count += vertices[i] ? 1 : 0;
            for (size_t j = 0; j < i; j++) {
                edge_count += edges[i][j] ? 1 : 0;
            }
        }
        struct concepts_graph_counts counts = concepts_graph_counts(graph);
        assert_int_equal(counts.vertices, vertex_count);
        assert_int_equal(counts.edges, edge_count);
    }
}

static void leaving_single_concepts_out_changes_no_admission(void **state)
{
    (void)state;
    static bool has[MANY_RECORDS][MOST_CONCEPTS];
    size_t rejected = 0;
    for (size_t trial = 1; trial < 6; trial++) {
        OWNED(concepts) whole = concepts_create();
        OWNED(concepts) limited = concepts_create();
        many_records(trial, has, whole);
        many_records(trial, has, limited);
        assert_true(concepts_limit(limited, SIZE_MAX, 1, NULL)); /* only the single ones go */
        size_t concept_count = concepts_counts(whole).concepts;
        OWNED(concepts_graph) graph = concepts_graph_create(concept_count, ROOMY, NULL);
        OWNED(concepts_graph) smaller = concepts_graph_create(concept_count, ROOMY, NULL);
        for (size_t r = 0; r < MANY_RECORDS; r++) {
            size_t count = 0, fewer = 0;
            const int32_t *ids = concepts_of(whole, r, &count);
            const int32_t *rest = concepts_of(limited, r, &fewer);
            bool is_consistent = offer(graph, ids, count);
            assert_int_equal(is_consistent, offer(smaller, rest, fewer));
            rejected += is_consistent ? 0 : 1;
        }
        assert_true(concepts_graph_counts(smaller).edges < concepts_graph_counts(graph).edges);
    }
    assert_true(rejected > 100);
}

static void a_graph_at_its_limit_stops_growing_and_says_so(void **state)
{
    (void)state;
    enum { CONCEPTS = 4096, RECORD = 16 };
    const uint64_t limit =
        40000; /* 512 bytes of vertices; tables of 8 KiB and 16 KiB, but not 16 KiB and 32 KiB */
    OWNED(concepts_graph) graph = concepts_graph_create(CONCEPTS, limit, NULL);
    size_t recorded = 0;
    for (size_t r = 0; r < CONCEPTS / RECORD; r++) {
        int32_t ids[RECORD];
        for (size_t i = 0; i < RECORD; i++) {
            ids[i] = (int32_t)(r * RECORD + i);
        }
        assert_true(offer(graph, ids, RECORD));
        struct concepts_graph_counts counts = concepts_graph_counts(graph);
        assert_true(counts.bytes <= limit);
        recorded += counts.unrecorded == 0 ? 1 : 0;
    }
    struct concepts_graph_counts counts = concepts_graph_counts(graph);
    assert_int_equal(recorded, 1536 / 120); /* three quarters of 2048 slots, 120 pairs a record */
    assert_int_equal(counts.vertices, recorded * RECORD);
    assert_int_equal(counts.edges, recorded * 120);
    assert_int_equal(counts.unrecorded, CONCEPTS / RECORD - recorded);
    assert_true(concepts_graph_is_consistent(graph, (const int32_t[]){0, 1, 15}, 3));
    assert_false(concepts_graph_is_consistent(graph, (const int32_t[]){0, 16}, 2));
    assert_true(concepts_graph_is_consistent(graph, (const int32_t[]){0, 4095}, 2)); /* never recorded */

    struct error error = {0};
    assert_null(concepts_graph_create(CONCEPTS, 8000, &error));
    assert_int_equal(error.code, ERROR_OUT_OF_RANGE);
}

static void a_large_graph_keeps_every_edge(void **state)
{
    (void)state;
    enum { CONCEPTS = 3000, RECORDS = 2500, RECORD = 20 };
    OWNED(concepts_graph) graph = concepts_graph_create(CONCEPTS, ROOMY, NULL);
    uint8_t *is_edge = memory_create((size_t)CONCEPTS * CONCEPTS, 1);
    size_t edges = 0;
    for (size_t r = 0; r < RECORDS; r++) {
        int32_t ids[RECORD];
        for (size_t i = 0; i < RECORD; i++) {
            ids[i] = (int32_t)noise(r * RECORD + i, CONCEPTS);
            for (size_t j = 0; j < i; j++) {
                size_t low = (size_t)(ids[i] < ids[j] ? ids[i] : ids[j]);
                size_t high = (size_t)(ids[i] < ids[j] ? ids[j] : ids[i]);
                edges += low != high && is_edge[low * CONCEPTS + high] == 0 ? 1 : 0;
                is_edge[low * CONCEPTS + high] = low != high;
            }
        }
        assert_true(concepts_graph_admit(graph, ids, RECORD, NULL));
    }
    assert_int_equal(concepts_graph_counts(graph).edges, edges);
    for (size_t i = 0; i < 200000; i++) {
        int32_t pair[2] = {(int32_t)noise(i, CONCEPTS), (int32_t)noise(i + 5000000, CONCEPTS)};
        size_t low = (size_t)(pair[0] < pair[1] ? pair[0] : pair[1]);
        size_t high = (size_t)(pair[0] < pair[1] ? pair[1] : pair[0]);
        assert_int_equal(concepts_graph_is_consistent(graph, pair, 2),
                         low == high || is_edge[low * CONCEPTS + high] != 0);
    }
    free(is_edge);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(phrases_are_runs_between_stop_words_and_marks),
        cmocka_unit_test(marks_inside_words_do_not_end_a_phrase),
        cmocka_unit_test(spellings_of_one_concept_meet),
        cmocka_unit_test(other_scripts_are_words_and_broken_bytes_are_not),
        cmocka_unit_test(phrases_are_those_that_were_put_in),
        cmocka_unit_test(stop_words_are_found_all_over_the_list),
        cmocka_unit_test(a_records_concepts_are_a_set),
        cmocka_unit_test(limits_keep_the_rarest_and_drop_the_common_and_the_single),
        cmocka_unit_test(a_share_of_whole_records_is_not_missed_by_rounding),
        cmocka_unit_test(two_of_few_records_may_share_a_concept),
        cmocka_unit_test(nothing_at_all_has_no_concepts),
        cmocka_unit_test(sets_and_limits_are_those_of_the_plain_form),
        cmocka_unit_test(the_references_stream_admits_1_2_5_6),
        cmocka_unit_test(the_order_of_records_matters),
        cmocka_unit_test(lone_concepts_are_vertices_and_repeated_ones_count_once),
        cmocka_unit_test(admissions_are_those_of_a_plain_matrix),
        cmocka_unit_test(leaving_single_concepts_out_changes_no_admission),
        cmocka_unit_test(a_graph_at_its_limit_stops_growing_and_says_so),
        cmocka_unit_test(a_large_graph_keeps_every_edge),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
