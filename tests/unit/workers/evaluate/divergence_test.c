/* tests/unit/workers/evaluate/divergence_test.c: divergence and agreement against closed forms and the slow way; resume, batches; and
 * the figures of continuations. */
#include "tests/unit/workers/evaluate/bench.h"

#include "base/rng.h"
#include "workers/evaluate/continuation.h"
#include "workers/evaluate/divergence.h"

#define WINDOW 24

static void closed_forms_are_met(void **state)
{
    (void)state;
    /* p = (1/2, 1/4, 1/4), q = (1/4, 1/4, 1/2): KL = 1/2 log 2 - 1/4 log 2 = log(2) / 4. Both shifted, which changes nothing. */
    float p[] = {8 + logf(2), 8, 8}, q[] = {-7, -7, -7 + logf(2)};
    double kl = 0;
    size_t rank = 0;
    assert_true(divergence_of_logits(p, q, 3, &kl, &rank));
    assert_true(fabs(kl - log(2.0) / 4) < 1e-6);
    assert_int_equal(
        rank,
        1); /* the original's likeliest is token 0; token 2 comes before it, the tied token 1 does not */
    assert_true(divergence_of_logits(p, p, 3, &kl, &rank));
    assert_true(kl == 0);
    assert_int_equal(rank, 0);
    /* Uniform against a peak of n - 1 to 1 shares: sum 1/n log((1/n) / q). */
    float uniform[4] = {3, 3, 3, 3}, peak[4] = {logf(5), 0, 0, 0};
    assert_true(divergence_of_logits(uniform, peak, 4, &kl, &rank));
    assert_true(fabs(kl - (0.25 * log(0.25 / 0.625) + 0.75 * log(0.25 / 0.125))) < 1e-6);
    assert_int_equal(rank, 0);
    /* A tie of the pruned model goes to the lower id: token 3 is third. */
    float last[4] = {0, 0, 0, 1}, tied[4] = {2, 1, 0, 1};
    assert_true(divergence_of_logits(last, tied, 4, &kl, &rank));
    assert_int_equal(rank, 2);
    float broken[4] = {0, NAN, 0, 0};
    assert_false(divergence_of_logits(uniform, broken, 4, &kl, &rank));
    assert_false(divergence_of_logits(broken, uniform, 4, &kl, &rank));
}

static float *take_logits(struct bench *bench, const bool *removed, const int32_t *tokens, size_t count)
{
    struct token_sequence sequence = {tokens, count};
    struct token_batch batch = {&sequence, 1};
    OWNED(hidden) hidden = hidden_create(bench->model, &batch, NULL);
    float *logits = memory_create(count * BENCH_VOCAB, sizeof *logits);
    assert_true(model_embed(bench->model, &batch, hidden, NULL) &&
                model_run_from(bench->model, 0, removed, hidden, NULL) &&
                model_logits(bench->model, hidden, 0, 0, count, logits, NULL));
    return logits;
}

/* The slow way: both softmaxes whole, in double. */
static struct divergence expect(struct bench *bench, const bool *removed, const struct windows *windows)
{
    struct divergence wanted = {0};
    double sum = 0;
    for (size_t w = 0; w < windows->count; w++) {
        size_t rows = windows->window_tokens - 1;
        OWNED_MEMORY float *p = take_logits(bench, NULL, windows->sequences[w].tokens, rows);
        OWNED_MEMORY float *q = take_logits(bench, removed, windows->sequences[w].tokens, rows);
        for (size_t t = 0; t < rows; t++) {
            const float *z = p + t * BENCH_VOCAB, *y = q + t * BENCH_VOCAB;
            double z_sum = 0, y_sum = 0;
            size_t best = 0, before = 0;
            for (size_t v = 0; v < BENCH_VOCAB; v++) {
                z_sum += exp((double)z[v]);
                y_sum += exp((double)y[v]);
                best = z[v] > z[best] ? v : best;
            }
            for (size_t v = 0; v < BENCH_VOCAB; v++) {
                double share = exp((double)z[v]) / z_sum;
                sum += share * (log(share) - log(exp((double)y[v]) / y_sum));
                before += y[v] > y[best] || (v < best && y[v] >= y[best]) ? 1 : 0;
            }
            for (size_t k = 0; k < DIVERGENCE_RANKS; k++) {
                wanted.agreement[k] += before < divergence_ranks[k] ? 1 : 0;
            }
            wanted.token_count++;
        }
    }
    wanted.kl_mean = sum / (double)wanted.token_count;
    for (size_t k = 0; k < DIVERGENCE_RANKS; k++) {
        wanted.agreement[k] /= (double)wanted.token_count;
    }
    return wanted;
}

struct stopper {
    struct cancel cancel;
    size_t batches, stop_after;
};

static void on_progress(void *context, const char *what, uint64_t done, uint64_t total, const char *unit)
{
    (void)what;
    (void)unit;
    struct stopper *stopper = context;
    assert_true(done <= total);
    if (++stopper->batches == stopper->stop_after) {
        cancel_request(&stopper->cancel, CANCEL_NOW);
    }
}

/* Keeps and compares, stopped after every `stop_after` batches (0: never). */
static struct divergence run_both(struct bench *bench, const bool *removed, const struct windows *windows,
                                  size_t batch_tokens, size_t stop_after)
{
    OWNED_MEMORY char *path = memory_copy_text(fixture_text("states", ""));
    struct divergence found = {0};
    for (size_t half = 0; half < 2; half++) {
        JSON_OWNED place = json_object();
        bool is_done = false;
        for (size_t attempt = 0; attempt < 100 && !is_done; attempt++) {
            struct stopper stopper = {.stop_after = stop_after};
            struct evaluate_control control = {.removed = half == 1 ? removed : NULL,
                                               .batch_tokens = batch_tokens,
                                               .cancel = &stopper.cancel,
                                               .context = &stopper,
                                               .progress = on_progress,
                                               .resume = place};
            struct error error = {0};
            is_done = half == 0 ? divergence_keep(bench->model, windows, &control, path, &error)
                                : divergence_measure(bench->model, bench->model, windows, &control, path,
                                                     bench->fixture.pool, &found, &error);
            assert_true(is_done || error.code == ERROR_CANCELLED);
        }
        assert_true(is_done);
    }
    return found;
}

static struct windows *make_windows(struct bench *bench, size_t count)
{
    struct text words = {0};
    struct rng rng = {.seed = 5};
    for (uint64_t i = 0; i < WINDOW * count + 1; i++) {
        char letter = (char)('a' + rng_below(&rng, i, 26));
        text_append_bytes(&words, &letter, 1);
    }
    struct corpus_options options = {.path = fixture_text("text.txt", words.bytes)};
    OWNED(corpus) corpus = corpus_load(&options, NULL);
    struct windows_options cut = {.window_tokens = WINDOW, .num_samples = count, .vocab_size = BENCH_VOCAB};
    struct windows *windows = windows_create(corpus, bench->tokenizer, &cut, NULL);
    assert_non_null(windows);
    text_finish(&words);
    return windows;
}

static void kept_states_give_what_both_models_side_by_side_give(void **state)
{
    (void)state;
    struct bench bench;
    bench_open(&bench, NULL, 2, true);
    const bool removed[4] = {false, true, true, false};
    OWNED(windows) windows = make_windows(&bench, 7);
    struct divergence wanted = expect(&bench, removed, windows);
    struct divergence found = run_both(&bench, removed, windows, 0, 0);
    assert_int_equal(found.token_count, 7 * (WINDOW - 1));
    assert_int_equal(found.token_count, wanted.token_count);
    assert_true(wanted.kl_mean > 1e-4);
    ASSERT_NEAR(found.kl_mean, wanted.kl_mean, 1e-6);
    assert_true(wanted.agreement[0] < 1 && wanted.agreement[0] < wanted.agreement[2]);
    for (size_t k = 0; k < DIVERGENCE_RANKS; k++) {
        assert_true(found.agreement[k] == wanted.agreement[k]);
    }
    /* Other batches, and stops after each of them: the same bits. */
    struct divergence again = run_both(&bench, removed, windows, 2 * WINDOW, 1);
    assert_memory_equal(&again.kl_mean, &found.kl_mean, sizeof found.kl_mean);
    assert_memory_equal(again.agreement, found.agreement, sizeof found.agreement);
    bench_close(&bench);
}

static void a_model_is_no_way_from_itself(void **state)
{
    (void)state;
    struct bench bench;
    bench_open(&bench, NULL, 2, true);
    OWNED(windows) windows = make_windows(&bench, 3);
    struct divergence found = run_both(&bench, NULL, windows, 0, 0);
    assert_true(found.kl_mean == 0);
    assert_true(found.agreement[0] == 1 && found.agreement[1] == 1 && found.agreement[2] == 1);
    bench_close(&bench);
}

static void states_that_are_missing_are_told(void **state)
{
    (void)state;
    struct bench bench;
    bench_open(&bench, NULL, 1, true);
    OWNED(windows) windows = make_windows(&bench, 2);
    struct evaluate_control control = {0};
    struct divergence found;
    struct error error = {0};
    const char *path = fixture_text("states", "short");
    assert_false(divergence_measure(bench.model, bench.model, windows, &control, path, bench.fixture.pool,
                                    &found, &error));
    assert_int_equal(error.code, ERROR_INPUT_CHANGED);
    bench_close(&bench);
}

/* ---- continuations ----------------------------------------------------------------------------------------------- */

static void repetition_and_emptiness_are_seen(void **state)
{
    (void)state;
    struct continuation figures;
    int32_t varied[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2}, cycle[16], same[] = {4, 4, 4, 4, 4, 4, 4, 4};
    continuation_judge(varied, 11, false, &figures);
    assert_true(figures.distinct_1 == 9.0 / 11 && figures.distinct_2 == 9.0 / 10);
    assert_true(figures.repetition_ratio == 0 && figures.longest_run == 1 && !figures.is_degenerate);
    for (int32_t i = 0; i < 16; i++) {
        cycle[i] = i % 3;
    }
    continuation_judge(cycle, 16, false, &figures); /* 13 4-grams, 3 of them different */
    ASSERT_NEAR(figures.repetition_ratio, 10.0 / 13, 1e-12);
    assert_true(figures.is_degenerate && !figures.is_empty);
    continuation_judge(same, 8, false, &figures);
    assert_int_equal(figures.longest_run, 8);
    assert_true(figures.is_degenerate);
    continuation_judge(same, 3, false, &figures); /* too short to judge by repetition */
    assert_false(figures.is_degenerate);
    continuation_judge(NULL, 0, false, &figures);
    assert_true(figures.is_empty && figures.is_degenerate);
    continuation_judge(varied, 11, true, &figures);
    assert_true(figures.is_empty && figures.is_degenerate);
}

static void continuations_are_greedy_and_fit_the_context(void **state)
{
    (void)state;
    struct bench bench;
    bench_open(&bench, NULL, 1, true);
    struct text longer = {0};
    for (size_t i = 0; i < 600; i++) { /* the fixture's context is 512 */
        text_append(&longer, "w");
    }
    JSON_OWNED prompts = json_pack("[sss]", "ab", "", longer.bytes);
    text_finish(&longer);
    struct evaluate_control control = {0};
    JSON_OWNED list = NULL;
    struct error error = {0};
    assert_true(continuation_measure(bench.model, bench.tokenizer, prompts, 12, &control, &list, &error));
    assert_int_equal(json_array_size(list), 3);
    int32_t ids[] = {256, 'a', 'b'}, written[12];
    struct generation generation = {.prompt = ids, .prompt_count = 3, .tokens = written, .max_tokens = 12};
    const struct model_config *config = model_get_config(bench.model);
    assert_true(model_generate(bench.model, NULL, &generation, 1, config->eos_tokens, config->eos_token_count,
                               &error));
    for (size_t i = 0; i < 3; i++) {
        const json_t *item = json_array_get(list, i);
        assert_true(json_is_string(json_object_get(item, "text")) &&
                    json_is_boolean(json_object_get(item, "is_degenerate")));
    }
    assert_int_equal(json_integer_value(json_object_get(json_array_get(list, 0), "tokens")),
                     generation.token_count);
    bench_close(&bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(closed_forms_are_met),
        cmocka_unit_test(kept_states_give_what_both_models_side_by_side_give),
        cmocka_unit_test(a_model_is_no_way_from_itself),
        cmocka_unit_test(states_that_are_missing_are_told),
        cmocka_unit_test(repetition_and_emptiness_are_seen),
        cmocka_unit_test(continuations_are_greedy_and_fit_the_context),
    };
    return cmocka_run_group_tests(tests, fixture_start, fixture_end);
}
