/* tests/unit/workers/evaluate/perplexity_test.c: both protocols against sums written out by hand. */
#include "tests/unit/workers/evaluate/bench.h"

static const char story[] =
    "Once upon a time there was a small pruned tree.\nIt grew again, and again, and again.";

static struct corpus *corpus_of(const char *name, const char *text)
{
    struct error error = {0};
    struct corpus_options options = {.path = fixture_text(name, text)};
    struct corpus *corpus = corpus_load(&options, &error);
    assert_non_null(corpus);
    return corpus;
}

/* BOS and the bytes of a text; the count. */
static size_t tokens_of(const char *text, int32_t *tokens)
{
    tokens[0] = 256;
    for (size_t i = 0; i < strlen(text); i++) {
        tokens[i + 1] = (unsigned char)text[i];
    }
    return strlen(text) + 1;
}

static struct perplexity measure(struct bench *bench, const struct corpus *corpus,
                                 enum perplexity_protocol protocol, size_t window,
                                 const struct evaluate_control *control)
{
    struct perplexity perplexity = {0};
    struct error error = {0};
    if (!perplexity_measure(bench->model, bench->tokenizer, corpus, protocol, window, control, &perplexity,
                            &error)) {
        fail_msg("%s: %s", error_code_slug(error.code), error.message);
    }
    return perplexity;
}

static void gptq_scores_all_but_the_first_token_of_whole_windows(void **state)
{
    (void)state;
    struct bench bench;
    bench_open(&bench, NULL, 1, true);
    OWNED(corpus) corpus = corpus_of("s.txt", story);
    struct evaluate_control control = {0};
    int32_t tokens[256];
    size_t count = tokens_of(story, tokens), window = 16, windows = count / window;
    assert_true(count % window != 0); /* there is a tail to drop */
    double sum = 0;
    for (size_t w = 0; w < windows; w++) {
        sum += bench_nll(&bench, NULL, tokens + w * window, window, 0);
    }
    struct perplexity result = measure(&bench, corpus, PERPLEXITY_GPTQ, window, &control);
    assert_int_equal(result.window_count, windows);
    assert_int_equal(result.token_count, windows * (window - 1));
    assert_int_equal(result.text_tokens, count - 1);
    ASSERT_NEAR(result.nll_sum, sum, 1e-5);
    ASSERT_NEAR(result.nll_mean, sum / (double)(windows * (window - 1)), 1e-5);
    ASSERT_NEAR(result.perplexity, exp(result.nll_mean), 1e-12);
    /* one byte is one token here */
    ASSERT_NEAR(result.bits_per_byte, result.nll_mean / log(2), 1e-12);
    bench_close(&bench);
}

static void rolling_scores_every_token_once(void **state)
{
    (void)state;
    struct bench bench;
    bench_open(&bench, NULL, 1, true);
    OWNED(corpus) corpus = corpus_of("s.txt", story);
    struct evaluate_control control = {0};
    int32_t tokens[256];
    size_t count = tokens_of(story, tokens), window = 16;
    double sum = 0;
    for (size_t start = 0; start + 1 < count; start += window) {
        size_t end = start + window + 1 < count ? start + window + 1 : count;
        sum += bench_nll(&bench, NULL, tokens + start, end - start, 0);
    }
    struct perplexity result = measure(&bench, corpus, PERPLEXITY_ROLLING, window, &control);
    assert_int_equal(result.token_count, strlen(story));
    assert_int_equal(result.window_count, (strlen(story) + window - 1) / window);
    ASSERT_NEAR(result.nll_sum, sum, 1e-5);
    ASSERT_NEAR(result.bits_per_byte, sum / log(2) / (double)strlen(story), 1e-5);
    bench_close(&bench);
}

static void rolling_starts_anew_with_every_document(void **state)
{
    (void)state;
    struct bench bench;
    bench_open(&bench, NULL, 1, true);
    OWNED(corpus)
    corpus = corpus_of("d.jsonl", "{\"text\":\"first one\"}\n{\"text\":\"x\"}\n{\"text\":\"the third\"}\n");
    struct evaluate_control control = {0};
    double sum = 0;
    static const char *const documents[] = {"first one", "x", "the third"};
    for (size_t i = 0; i < 3; i++) {
        int32_t tokens[64];
        size_t count = tokens_of(documents[i], tokens);
        sum += bench_nll(&bench, NULL, tokens, count, 0);
    }
    struct perplexity result = measure(&bench, corpus, PERPLEXITY_ROLLING, 64, &control);
    assert_int_equal(result.token_count, 19);
    assert_int_equal(result.window_count, 3);
    ASSERT_NEAR(result.nll_sum, sum, 1e-5);
    bench_close(&bench);
}

static void without_a_bos_the_configs_leads_rolling_and_nothing_leads_gptq(void **state)
{
    (void)state;
    struct bench bench;
    bench_open(&bench, NULL, 1, false);
    OWNED(corpus) corpus = corpus_of("s.txt", "0123456789abcdef");
    struct evaluate_control control = {0};
    int32_t tokens[64];
    size_t count = tokens_of("0123456789abcdef", tokens);
    ASSERT_NEAR(measure(&bench, corpus, PERPLEXITY_GPTQ, 8, &control).nll_sum,
                bench_nll(&bench, NULL, tokens + 1, 8, 0) + bench_nll(&bench, NULL, tokens + 9, 8, 0), 1e-5);
    tokens[0] = 1; /* bos_token_id of the fixture's config.json */
    ASSERT_NEAR(measure(&bench, corpus, PERPLEXITY_ROLLING, 64, &control).nll_sum,
                bench_nll(&bench, NULL, tokens, count, 0), 1e-5);
    bench_close(&bench);
}

static void removed_sublayers_are_skipped(void **state)
{
    (void)state;
    struct bench bench;
    bench_open(&bench, NULL, 1, true);
    OWNED(corpus) corpus = corpus_of("s.txt", story);
    const bool removed[4] = {false, true, true, false};
    struct evaluate_control whole = {0}, cut = {.removed = removed};
    int32_t tokens[256];
    size_t count = tokens_of(story, tokens);
    struct perplexity result = measure(&bench, corpus, PERPLEXITY_ROLLING, 256, &cut);
    ASSERT_NEAR(result.nll_sum, bench_nll(&bench, removed, tokens, count, 0), 1e-5);
    assert_true(fabs(result.nll_sum - measure(&bench, corpus, PERPLEXITY_ROLLING, 256, &whole).nll_sum) >
                1e-3);
    bench_close(&bench);
}

static void the_bits_depend_neither_on_batches_nor_on_threads(void **state)
{
    (void)state;
    static const size_t batches[] = {1, 40, 0};
    double sums[2] = {0};
    for (size_t threads = 1; threads <= 2; threads++) {
        struct bench bench;
        bench_open(&bench, NULL, threads, true);
        OWNED(corpus) corpus = corpus_of("s.txt", story);
        for (size_t i = 0; i < 3; i++) {
            for (size_t p = 0; p < 2; p++) {
                struct evaluate_control control = {.batch_tokens = batches[i]};
                double sum =
                    measure(&bench, corpus, p == 0 ? PERPLEXITY_GPTQ : PERPLEXITY_ROLLING, 13, &control)
                        .nll_sum;
                sums[p] = threads == 1 && i == 0 ? sum : sums[p];
                assert_true(sum == sums[p]);
            }
        }
        bench_close(&bench);
    }
}

static void what_cannot_be_measured_is_an_answer(void **state)
{
    (void)state;
    struct bench bench;
    bench_open(&bench, NULL, 1, true);
    OWNED(corpus) corpus = corpus_of("s.txt", "too short");
    struct cancel cancel = {0};
    cancel_request(&cancel, CANCEL_NOW);
    struct evaluate_control control = {0}, cancelled = {.cancel = &cancel};
    struct perplexity result = {0};
    struct error error = {0};
    assert_false(perplexity_measure(bench.model, bench.tokenizer, corpus, PERPLEXITY_GPTQ, 64, &control,
                                    &result, &error));
    assert_int_equal(error.code, ERROR_TEXT_TOO_SHORT);
    assert_non_null(strstr(error.message, "s.txt (whole) has 10 tokens; one window needs 64"));
    assert_false(perplexity_measure(bench.model, bench.tokenizer, corpus, PERPLEXITY_GPTQ, 1, &control,
                                    &result, &error));
    assert_int_equal(error.code, ERROR_OUT_OF_RANGE);
    assert_false(perplexity_measure(bench.model, bench.tokenizer, corpus, PERPLEXITY_GPTQ, 513, &control,
                                    &result, &error));
    assert_int_equal(error.code, ERROR_OUT_OF_RANGE); /* the fixture's context is 512 */
    assert_false(perplexity_measure(bench.model, bench.tokenizer, corpus, PERPLEXITY_ROLLING, 64, &cancelled,
                                    &result, &error));
    assert_int_equal(error.code, ERROR_CANCELLED);
    bench_close(&bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gptq_scores_all_but_the_first_token_of_whole_windows),
        cmocka_unit_test(rolling_scores_every_token_once),
        cmocka_unit_test(rolling_starts_anew_with_every_document),
        cmocka_unit_test(without_a_bos_the_configs_leads_rolling_and_nothing_leads_gptq),
        cmocka_unit_test(removed_sublayers_are_skipped),
        cmocka_unit_test(the_bits_depend_neither_on_batches_nor_on_threads),
        cmocka_unit_test(what_cannot_be_measured_is_an_answer),
    };
    return cmocka_run_group_tests(tests, fixture_start, fixture_end);
}
