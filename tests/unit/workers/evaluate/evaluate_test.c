/* tests/unit/workers/evaluate/evaluate_test.c: speed with a clock of our own, memory, and the door that joins the pieces. */
#include "tests/unit/workers/evaluate/bench.h"

static int64_t ticking_ns(void *context)
{
    int64_t *now = context;
    return *now += 2000000; /* each look at the clock takes 2 ms */
}

struct seen {
    size_t calls;
    uint64_t done, total;
};
static void see(void *context, const char *what, uint64_t done, uint64_t total, const char *unit)
{
    struct seen *seen = context;
    assert_non_null(what);
    assert_non_null(unit);
    assert_true(done <= total);
    seen->calls++;
    seen->done = done;
    seen->total = total;
}

static void speed_is_tokens_over_the_median_time(void **state)
{
    (void)state;
    struct bench bench;
    bench_open(&bench, NULL, 1, true);
    int64_t now = 0;
    struct clock_source clock = {.boot_ns = ticking_ns, .context = &now};
    struct speed_options options = {.prompt_tokens = 20,
                                    .decode_tokens = 6,
                                    .run_count = 4,
                                    .warmup_count = 2,
                                    .threads = 1,
                                    .backend = "openblas",
                                    .clock = &clock};
    struct seen seen = {0};
    struct evaluate_control control = {.context = &seen, .progress = see};
    struct speed speed = {0};
    struct error error = {0};
    assert_true(speed_measure(bench.model, &options, &control, &speed, &error));
    ASSERT_NEAR(speed.prefill_tokens_per_second, 20 / 0.002, 1e-9);
    ASSERT_NEAR(speed.decode_tokens_per_second, 6 / 0.002, 1e-9);
    assert_int_equal(seen.calls, 12);
    assert_int_equal(seen.done, seen.total);
    JSON_OWNED json = speed_format(&speed);
    assert_int_equal(json_integer_value(json_object_get(json, "warmups")), 2);
    assert_string_equal(json_string_value(json_object_get(json, "backend")), "openblas");
    options.prompt_tokens = 513;
    assert_false(speed_measure(bench.model, &options, &control, &speed, &error));
    assert_int_equal(error.code, ERROR_OUT_OF_RANGE);
    bench_close(&bench);
}

static void peak_memory_grows_with_what_is_touched(void **state)
{
    (void)state;
    uint64_t before = speed_peak_rss_bytes();
    assert_true(before > 0);
    size_t count = (size_t)before + (64u << 20);
    OWNED_MEMORY char *bytes = memory_create(count, 1);
    for (size_t i = 0; i < count; i += 4096) {
        bytes[i] = 1;
    }
    assert_true(speed_peak_rss_bytes() >= before + (32u << 20));
}

static void the_door_measures_what_was_asked_for_and_no_more(void **state)
{
    (void)state;
    struct bench bench;
    bench_open(&bench, NULL, 1, true);
    struct error error = {0};
    struct corpus_options corpus_options = {
        .path = fixture_text("e.txt", "A text to be measured, long enough for a window.")};
    OWNED(corpus) corpus = corpus_load(&corpus_options, &error);
    OWNED(task_set)
    choices = task_set_load("pick", TASK_CHOICE,
                            fixture_text("c.jsonl", "{\"query\":\"q\",\"choices\":[\"a\",\"b\"],\"gold\":0}"),
                            NULL, NULL, &error);
    struct task_set *tasks[] = {choices};
    int64_t now = 0;
    struct clock_source clock = {.boot_ns = ticking_ns, .context = &now};
    struct speed_options speed = {.prompt_tokens = 8, .decode_tokens = 2, .run_count = 1, .clock = &clock};
    struct evaluation evaluation = {.corpus = corpus,
                                    .protocols = {PERPLEXITY_ROLLING},
                                    .protocol_count = 1,
                                    .window_tokens = 32,
                                    .tasks = tasks,
                                    .task_count = 1,
                                    .speed = &speed};
    struct evaluate_control control = {0};
    JSON_OWNED json = NULL;
    assert_true(evaluate_model(bench.model, bench.tokenizer, &evaluation, &control, &json, &error));
    const json_t *protocols = json_object_get(json, "perplexity");
    assert_int_equal(json_object_size(protocols), 1);
    assert_true(json_real_value(json_object_get(json_object_get(protocols, "rolling"), "perplexity")) > 1);
    assert_string_equal(json_string_value(json_object_get(json_object_get(json, "dataset"), "sha256")),
                        corpus->sha256);
    const json_t *task = json_array_get(json_object_get(json, "tasks"), 0);
    assert_string_equal(json_string_value(json_object_get(task, "name")), "pick");
    assert_true(json_real_value(json_object_get(json, "task_accuracy_mean")) ==
                json_real_value(json_object_get(task, "accuracy")));
    assert_non_null(json_object_get(json, "speed"));

    struct evaluation nothing = {0};
    JSON_OWNED empty = NULL;
    assert_true(evaluate_model(bench.model, bench.tokenizer, &nothing, &control, &empty, &error));
    assert_int_equal(json_object_size(empty), 0);
    bench_close(&bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(speed_is_tokens_over_the_median_time),
        cmocka_unit_test(peak_memory_grows_with_what_is_touched),
        cmocka_unit_test(the_door_measures_what_was_asked_for_and_no_more),
    };
    return cmocka_run_group_tests(tests, fixture_start, fixture_end);
}
