/* tests/unit/workers/data/windows_test.c: streams, windows, sampling and overlap. The tokenizer's ids are bytes. */
#include "tests/unit/workers/data/fixture.h"
#include "workers/data/overlap.h"
#include "workers/data/windows.h"

#include <math.h>

static struct corpus *corpus_of(const char *name, const char *text)
{
    struct error error = {0};
    struct corpus_options options = {.path = fixture_text(name, text)};
    struct corpus *corpus = corpus_load(&options, &error);
    assert_non_null(corpus);
    return corpus;
}

static void assert_window(const struct windows *windows, size_t index, const char *bytes)
{
    assert_int_equal(windows->sequences[index].count, strlen(bytes));
    for (size_t i = 0; i < strlen(bytes); i++) {
        assert_int_equal(windows->sequences[index].tokens[i], bytes[i] == '^' ? 256 : bytes[i]);
    }
}

static void documents_are_joined_by_two_newlines_behind_one_bos(void **state)
{
    (void)state;
    OWNED(tokenizer) tokenizer = fixture_byte_tokenizer(true);
    OWNED(corpus) corpus = corpus_of("d.jsonl", "{\"text\":\"ab\"}\n{\"text\":\"cdef\"}\n");
    struct windows_options options = {.window_tokens = 4, .vocab_size = 257};
    struct error error = {0};
    OWNED(windows) windows = windows_create(corpus, tokenizer, &options, &error);
    assert_non_null(windows);
    assert_int_equal(windows->count, 2); /* ^ab\n \ncde, f is the tail */
    assert_int_equal(windows->stream_tokens, 9);
    assert_window(windows, 0, "^ab\n");
    assert_window(windows, 1, "\ncde");
    OWNED(tokenizer) plain = fixture_byte_tokenizer(false);
    OWNED(windows) without = windows_create(corpus, plain, &options, &error);
    assert_window(without, 0, "ab\n\n");
    assert_window(without, 1, "cdef");
    struct token_stream stream = {0};
    assert_true(token_stream_create(corpus, tokenizer, 257, NULL, &stream, &error));
    assert_int_equal(stream.bos_count, 1);
    assert_int_equal(stream.byte_count, 8);
    token_stream_finish(&stream);
}

static void the_first_windows_are_taken_unless_drawn_by_seed(void **state)
{
    (void)state;
    OWNED(tokenizer) tokenizer = fixture_byte_tokenizer(false);
    OWNED(corpus) corpus = corpus_of("s.txt", "a0b0c0d0e0f0g0h0i0j0");
    struct error error = {0};
    struct windows_options options = {.window_tokens = 2, .num_samples = 3, .vocab_size = 257};
    OWNED(windows) first = windows_create(corpus, tokenizer, &options, &error);
    assert_int_equal(first->count, 3);
    assert_int_equal(first->available_count, 10);
    assert_window(first, 2, "c0");
    options.sampling = WINDOWS_RANDOM;
    bool differs = false;
    for (options.seed = 1; options.seed <= 5; options.seed++) {
        OWNED(windows) drawn = windows_create(corpus, tokenizer, &options, &error);
        OWNED(windows) again = windows_create(corpus, tokenizer, &options, &error);
        assert_int_equal(drawn->count, 3);
        assert_memory_equal(drawn->tokens, again->tokens, 6 * sizeof(int32_t));
        for (size_t i = 0; i < 3; i++) {
            assert_int_equal(drawn->sequences[i].tokens[1], '0');
            assert_true(i == 0 || drawn->sequences[i].tokens[0] > drawn->sequences[i - 1].tokens[0]);
        }
        differs = differs || memcmp(drawn->tokens, first->tokens, 6 * sizeof(int32_t)) != 0;
    }
    assert_true(differs);
    JSON_OWNED json = windows_describe(first, corpus, tokenizer, &options);
    assert_int_equal(json_integer_value(json_object_get(json, "windows_available")), 10);
    assert_string_equal(json_string_value(json_object_get(json, "tokenizer_sha256")),
                        tokenizer_sha256(tokenizer));
}

static void fewer_windows_than_asked_for_are_taken_and_none_is_an_error(void **state)
{
    (void)state;
    OWNED(tokenizer) tokenizer = fixture_byte_tokenizer(true);
    OWNED(corpus) corpus = corpus_of("short.txt", "abcdef");
    struct error error = {0};
    struct windows_options options = {.window_tokens = 3, .num_samples = 9, .vocab_size = 257};
    OWNED(windows) windows = windows_create(corpus, tokenizer, &options, &error);
    assert_int_equal(windows->count, 2);
    options.window_tokens = 8;
    assert_null(windows_create(corpus, tokenizer, &options, &error));
    assert_int_equal(error.code, ERROR_TEXT_TOO_SHORT);
    assert_non_null(strstr(error.message, "short.txt"));
    assert_non_null(strstr(error.message, "7 tokens"));
    assert_non_null(strstr(error.message, "needs 8"));
    options.window_tokens = 0;
    assert_null(windows_create(corpus, tokenizer, &options, &error));
    assert_int_equal(error.code, ERROR_OUT_OF_RANGE);
}

static void a_token_outside_the_models_vocabulary_is_a_mismatch(void **state)
{
    (void)state;
    OWNED(tokenizer) tokenizer = fixture_byte_tokenizer(false);
    OWNED(corpus) corpus = corpus_of("v.txt", "az");
    struct error error = {0};
    struct windows_options options = {.window_tokens = 2, .vocab_size = 'z'};
    assert_null(windows_create(corpus, tokenizer, &options, &error));
    assert_int_equal(error.code, ERROR_TOKENIZER_MISMATCH);
    assert_non_null(strstr(error.message, "122"));
}

/* `count` letters that repeat no 3-gram soon, from `seed`. */
static void fill_text(char *text, size_t count, unsigned seed)
{
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1103515245u + 12345u;
        text[i] = (char)('a' + (seed >> 16) % 26);
    }
    text[count] = '\0';
}

static bool check(const char *calibration_text, const char *evaluation_text, size_t window_tokens,
                  struct overlap *overlap, struct error *error)
{
    OWNED(tokenizer) tokenizer = fixture_byte_tokenizer(true);
    OWNED(corpus) calibration = corpus_of("calibration.txt", calibration_text);
    OWNED(corpus) evaluation = corpus_of("evaluation.txt", evaluation_text);
    struct windows_options options = {.window_tokens = window_tokens, .vocab_size = 257};
    OWNED(windows) windows = windows_create(calibration, tokenizer, &options, error);
    struct token_stream stream = {0};
    assert_non_null(windows);
    assert_true(token_stream_create(evaluation, tokenizer, 257, NULL, &stream, error));
    bool ok = overlap_check(windows, calibration->name, &stream, evaluation->name, window_tokens, NULL,
                            overlap, error);
    token_stream_finish(&stream);
    return ok;
}

static void the_same_text_is_refused_wherever_its_windows_are_cut(void **state)
{
    (void)state;
    char common[401], other[401], shifted[1000];
    fill_text(common, 400, 1);
    fill_text(other, 400, 2);
    struct overlap overlap = {0};
    struct error error = {0};
    assert_true(check(common, other, 64, &overlap, &error));
    assert_int_equal(overlap.shared_ngram_count, 0);
    assert_int_equal(overlap.ngram_count, 400 - 12);
    assert_false(check(common, common, 64, &overlap, &error));
    assert_int_equal(error.code, ERROR_TEXT_OVERLAP);
    assert_non_null(strstr(error.message, "calibration.txt"));
    (void)snprintf(shifted, sizeof shifted, "xyz%.200s%s", other, common + 50);
    assert_false(check(common, shifted, 64, &overlap, &error));
    assert_int_equal(error.code, ERROR_TEXT_OVERLAP);
}

static void short_coincidences_are_reported_not_refused(void **state)
{
    (void)state;
    char common[401], other[401];
    fill_text(common, 400, 1);
    fill_text(other, 400, 2);
    memcpy(other + 100, common + 10, 30); /* 18 shared 13-grams, a run of 30 tokens, below a window of 64 */
    struct overlap overlap = {0};
    struct error error = {0};
    assert_true(check(common, other, 64, &overlap, &error));
    assert_int_equal(overlap.shared_ngram_count, 18);
    assert_int_equal(overlap.longest_run_tokens, 30);
    assert_true(fabs(overlap.ngram_ratio - 18.0 / 388) < 1e-12);
    JSON_OWNED json = overlap_format(&overlap);
    assert_int_equal(json_integer_value(json_object_get(json, "shared_ngrams")), 18);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(documents_are_joined_by_two_newlines_behind_one_bos),
        cmocka_unit_test(the_first_windows_are_taken_unless_drawn_by_seed),
        cmocka_unit_test(fewer_windows_than_asked_for_are_taken_and_none_is_an_error),
        cmocka_unit_test(a_token_outside_the_models_vocabulary_is_a_mismatch),
        cmocka_unit_test(the_same_text_is_refused_wherever_its_windows_are_cut),
        cmocka_unit_test(short_coincidences_are_reported_not_refused),
    };
    return cmocka_run_group_tests(tests, fixture_start, fixture_end);
}
