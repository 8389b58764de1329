/* tests/unit/workers/data/corpus_test.c: documents, halves and what is wrong with a file. */
#include "base/hash.h"
#include "tests/unit/workers/data/fixture.h"
#include "workers/data/corpus.h"

static struct corpus *load(const char *path, const char *field, enum corpus_half half, struct error *error)
{
    struct corpus_options options = {.path = path, .text_field = field, .half = half};
    return corpus_load(&options, error);
}

static void assert_document(const struct corpus *corpus, size_t index, const char *text)
{
    assert_true(index < corpus->document_count);
    assert_int_equal(corpus->documents[index].length, strlen(text));
    assert_memory_equal(corpus->documents[index].bytes, text, strlen(text));
}

static void a_text_file_is_one_document(void **state)
{
    (void)state;
    struct error error = {0};
    const char text[] = "One line.\n\nAnother.\n";
    OWNED(corpus) corpus = load(fixture_text("a.txt", text), NULL, CORPUS_WHOLE, &error);
    assert_non_null(corpus);
    assert_int_equal(corpus->document_count, 1);
    assert_document(corpus, 0, text);
    assert_string_equal(corpus->name, "a.txt");
    assert_int_equal(corpus->byte_count, strlen(text));
    char expected[65];
    sha256_hex_of(text, strlen(text), expected);
    assert_string_equal(corpus->sha256, expected);
    JSON_OWNED json = corpus_describe(corpus);
    OWNED_MEMORY char *described = json_format(json, false);
    assert_non_null(strstr(described, "\"documents\":1"));
    assert_non_null(strstr(described, "\"half\":\"whole\""));
}

static void a_record_is_one_document_and_empty_ones_are_none(void **state)
{
    (void)state;
    struct error error = {0};
    OWNED(corpus)
    corpus = load(
        fixture_text("a.jsonl", "{\"text\":\"one\",\"id\":1}\n\n{\"text\":\"\"}\r\n{\"text\":\"t\\u00e9\"}"),
        NULL, CORPUS_WHOLE, &error);
    assert_non_null(corpus);
    assert_int_equal(corpus->document_count, 2);
    assert_document(corpus, 0, "one");
    assert_document(corpus, 1, "t\xc3\xa9");
    assert_int_equal(corpus->byte_count, 6);
    OWNED(corpus) other = load(fixture_text("b.txt", "{\"body\":\"x\"}\n"), "body", CORPUS_WHOLE, &error);
    assert_non_null(other);
    assert_document(other, 0, "x");
}

static void halves_meet_behind_the_first_blank_line_at_or_after_the_middle(void **state)
{
    (void)state;
    static const struct {
        const char *first, *second;
    } cases[] = {
        {"aaaa\nbbbb\n\n", "cc\n\ndd\n"},   /* a blank line before the middle does not count */
        {"a\n\nbbbbb\n\n", "cccc\n"},       /* nor the one before, however near */
        {"aaaa\r\nbb\r\n\r\n", "cccc\r\n"}, /* CR LF */
        {"aaaaaa\n\n", "\nbbbb\n"},         /* the second of two blank lines goes to the second half */
        {"aaaaaaaaaaaa\n\n", "b"},          /* far behind the middle */
        {"aaaa\n", "bb"},                   /* no blank line: the first line end */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char whole[128];
        struct error error = {0};
        (void)snprintf(whole, sizeof whole, "%s%s", cases[i].first, cases[i].second);
        const char *path = fixture_text("h.txt", whole);
        OWNED(corpus) first = load(path, NULL, CORPUS_FIRST_HALF, &error);
        OWNED(corpus) second = load(path, NULL, CORPUS_SECOND_HALF, &error);
        assert_non_null(first);
        assert_non_null(second);
        assert_document(first, 0, cases[i].first);
        assert_document(second, 0, cases[i].second);
        assert_string_equal(first->sha256, second->sha256); /* of the whole file */
    }
    /* A blank line that starts one byte before the middle does not count. */
    struct error error = {0};
    OWNED(corpus) second = load(fixture_text("h.txt", "abc\n\nde\nfgh\n"), NULL, CORPUS_SECOND_HALF, &error);
    assert_non_null(second);
    assert_document(second, 0, "fgh\n");
}

static void halves_of_records_lose_none_and_keep_line_numbers(void **state)
{
    (void)state;
    struct error error = {0};
    const char *path = fixture_text(
        "r.jsonl",
        "{\"text\":\"1\"}\n{\"text\":\"2\"}\n{\"text\":\"3\"}\n{\"text\":\"4\"}\n{\"text\":\"5\"}\n");
    OWNED(corpus) first = load(path, NULL, CORPUS_FIRST_HALF, &error);
    OWNED(corpus) second = load(path, NULL, CORPUS_SECOND_HALF, &error);
    assert_int_equal(first->document_count, 3);
    assert_int_equal(second->document_count, 2);
    assert_document(first, 2, "3");
    assert_document(second, 0, "4");
    path = fixture_text("r.jsonl", "{\"text\":\"1\"}\n{\"text\":\"2\"}\n{\"text\":\"3\"}\nno\n");
    assert_null(load(path, NULL, CORPUS_SECOND_HALF, &error));
    assert_int_equal(error.code, ERROR_CORRUPT_FILE);
    assert_non_null(strstr(error.message, "r.jsonl, line 4"));
}

static void what_is_wrong_with_a_file_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *name, *bytes;
        size_t count;
        enum corpus_half half;
        enum error_code code;
        const char *message;
    } cases[] = {
        {"e.txt", "", 0, CORPUS_WHOLE, ERROR_TEXT_TOO_SHORT, "no text"},
        {"e.txt", " \n\t\r\n", 5, CORPUS_WHOLE, ERROR_TEXT_TOO_SHORT, "no text"},
        {"e.txt",
         "ab\xff"
         "c",
         4, CORPUS_WHOLE, ERROR_CORRUPT_FILE, "byte 2"},
        {"e.txt", "one line", 8, CORPUS_SECOND_HALF, ERROR_TEXT_TOO_SHORT, "two halves"},
        {"e.jsonl", "{\"text\":\"a\"}\n{\"text\":7}\n", 25, CORPUS_WHOLE, ERROR_CORRUPT_FILE, "line 2"},
        {"e.jsonl", "{\"body\":\"a\"}\n", 13, CORPUS_WHOLE, ERROR_CORRUPT_FILE, "line 1"},
        {"e.jsonl", "{\"text\":\"a\"", 11, CORPUS_WHOLE, ERROR_CORRUPT_FILE, "line 1"},
        {"e.jsonl", "{\"text\":\"\"}\n", 12, CORPUS_WHOLE, ERROR_TEXT_TOO_SHORT, "no text"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct error error = {0};
        assert_null(
            load(fixture_file(cases[i].name, cases[i].bytes, cases[i].count), NULL, cases[i].half, &error));
        assert_int_equal(error.code, cases[i].code);
        assert_string_equal(error.field, cases[i].name);
        assert_non_null(strstr(error.message, cases[i].message));
    }
    struct error error = {0};
    assert_null(load("/nonexistent/x.txt", NULL, CORPUS_WHOLE, &error));
    assert_int_equal(error.code, ERROR_NOT_FOUND);
    assert_string_equal(error.field, "x.txt");
}

static void a_cancelled_load_says_so(void **state)
{
    (void)state;
    struct cancel cancel = {0};
    cancel_request(&cancel, CANCEL_NOW);
    struct error error = {0};
    struct corpus_options options = {.path = fixture_text("c.txt", "text\n"), .cancel = &cancel};
    assert_null(corpus_load(&options, &error));
    assert_int_equal(error.code, ERROR_CANCELLED);
}

static void halves_are_spelled_one_way(void **state)
{
    (void)state;
    enum corpus_half half = CORPUS_WHOLE;
    assert_true(corpus_half_parse("second", &half));
    assert_int_equal(half, CORPUS_SECOND_HALF);
    assert_true(corpus_half_parse(NULL, &half));
    assert_int_equal(half, CORPUS_WHOLE);
    assert_false(corpus_half_parse("third", &half));
    assert_string_equal(corpus_half_name(CORPUS_FIRST_HALF), "first");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_text_file_is_one_document),
        cmocka_unit_test(a_record_is_one_document_and_empty_ones_are_none),
        cmocka_unit_test(halves_meet_behind_the_first_blank_line_at_or_after_the_middle),
        cmocka_unit_test(halves_of_records_lose_none_and_keep_line_numbers),
        cmocka_unit_test(what_is_wrong_with_a_file_is_named),
        cmocka_unit_test(a_cancelled_load_says_so),
        cmocka_unit_test(halves_are_spelled_one_way),
    };
    return cmocka_run_group_tests(tests, fixture_start, fixture_end);
}
