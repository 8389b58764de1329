/* tests/unit/workers/evaluate/tasks_test.c: answers and choices, judged anew from the model's own logits. */
#include "tests/unit/workers/evaluate/bench.h"

#include "base/rng.h"

#define RECORDS 24

static struct task_set *set_of(enum task_kind kind, const json_t *const *records, size_t count)
{
    struct text lines = {0};
    for (size_t i = 0; i < count; i++) {
        OWNED_MEMORY char *line = json_format(records[i], false);
        text_append(&lines, line);
        text_append(&lines, "\n");
    }
    struct error error = {0};
    struct task_set *set =
        task_set_load("task", kind, fixture_text("task.jsonl", lines.bytes), NULL, NULL, &error);
    if (set == NULL) {
        fail_msg("%s", error.message);
    }
    text_finish(&lines);
    return set;
}

static struct task_result measure(struct bench *bench, const struct task_set *set,
                                  const struct evaluate_control *control)
{
    struct task_result result = {0};
    struct error error = {0};
    if (!task_measure(bench->model, bench->tokenizer, set, control, &result, &error)) {
        fail_msg("%s: %s", error_code_slug(error.code), error.message);
    }
    return result;
}

static void random_word(const struct rng *rng, uint64_t index, size_t length, char *word)
{
    for (size_t i = 0; i < length; i++) {
        word[i] = (char)('a' + rng_below(rng, index * 64 + i, 26));
    }
    word[length] = '\0';
}

#define WRITTEN_MAX 30

/* What the model writes after a prompt until it stops by itself; owned, NULL if it does not within WRITTEN_MAX tokens (or writes a
 * NUL, which no record can hold). */
static char *written_after(struct bench *bench, const char *prompt)
{
    int32_t ids[64] = {256}, generated[WRITTEN_MAX], stop[] = {2, 10};
    for (size_t i = 0; i < strlen(prompt); i++) {
        ids[i + 1] = (unsigned char)prompt[i];
    }
    struct generation generation = {
        .prompt = ids, .prompt_count = strlen(prompt) + 1, .tokens = generated, .max_tokens = WRITTEN_MAX};
    struct error error = {0};
    assert_true(model_generate(bench->model, NULL, &generation, 1, stop, 2, &error));
    struct text text = {0};
    tokenizer_decode(bench->tokenizer, generated, generation.token_count, true, &text);
    size_t length = text.length;
    char *written = text_take(&text);
    if (generation.token_count == WRITTEN_MAX || generation.token_count > length + 4 ||
        strlen(written) != length) {
        free(written);
        return NULL;
    }
    return written;
}

/* A model of random weights rarely stops by itself; prompts after which it does give the records. */
static void exact_answers_are_right_and_others_wrong(void **state)
{
    (void)state;
    struct bench bench;
    bench_open(&bench, NULL, 1, true);
    struct rng rng = {.seed = 9};
    json_t *records[RECORDS];
    size_t count = 0, right = 0;
    for (uint64_t draw = 0; draw < 3000 && count < RECORDS; draw++) {
        char prompt[16];
        random_word(&rng, draw, 1 + draw % 11, prompt);
        char *answer = written_after(&bench, prompt);
        if (answer == NULL) {
            continue;
        }
        bool is_right = count % 3 != 0;
        struct text padded = {0};
        text_append_format(&padded, " %s%s\n", answer,
                           is_right ? "" : "x"); /* white space around it does not count */
        records[count] = json_object();
        json_put_text(records[count], "prompt", prompt);
        json_put_text(records[count], "answer", padded.bytes);
        text_finish(&padded);
        free(answer);
        right += is_right ? 1 : 0;
        count++;
    }
    assert_true(count >= 6);
    OWNED(task_set) set = set_of(TASK_GENERATE, (const json_t *const *)records, count);
    struct evaluate_control control = {0}, narrow = {.batch_tokens = 1};
    struct task_result result = measure(&bench, set, &control);
    assert_int_equal(result.record_count, count);
    assert_int_equal(result.correct_count, right);
    double share = (double)right / (double)count;
    ASSERT_NEAR(result.accuracy, share, 1e-12);
    ASSERT_NEAR(result.accuracy_stderr, sqrt(share * (1 - share) / (double)(count - 1)), 1e-12);
    struct task_result again = measure(&bench, set, &narrow);
    assert_int_equal(again.correct_count, right);
    assert_int_equal(again.generated_tokens, result.generated_tokens);
    for (size_t i = 0; i < count; i++) {
        json_decref(records[i]);
    }
    bench_close(&bench);
}

/* -log p of " choice" after the query, by hand. */
static double choice_nll(struct bench *bench, const bool *removed, const char *query,
                         const char *continuation)
{
    int32_t tokens[128] = {256};
    size_t context = strlen(query), count = 1;
    for (size_t i = 0; i < context; i++) {
        tokens[count++] = (unsigned char)query[i];
    }
    for (size_t i = 0; i < strlen(continuation); i++) {
        tokens[count++] = (unsigned char)continuation[i];
    }
    return bench_nll(bench, removed, tokens, count, context);
}

static void the_likeliest_choice_is_found_by_sum_and_by_byte(void **state)
{
    (void)state;
    struct bench bench;
    bench_open(&bench, NULL, 1, true);
    struct rng rng = {.seed = 11};
    json_t *records[RECORDS];
    const bool removed[4] = {true, false, false, true};
    size_t right[2] = {0}, right_norm[2] = {0};
    for (size_t i = 0; i < RECORDS; i++) {
        char query[16], choices[3][16];
        random_word(&rng, i * 10, i % 8, query);
        records[i] = json_object();
        json_t *list = json_array();
        double best[2] = {INFINITY, INFINITY}, best_norm[2] = {INFINITY, INFINITY};
        size_t chosen[2] = {0}, chosen_norm[2] = {0};
        for (size_t c = 0; c < 3; c++) {
            random_word(&rng, i * 10 + 1 + c, 2 + 3 * c, choices[c]);
            (void)json_array_append_new(list, json_string(choices[c]));
            char continuation[64];
            (void)snprintf(continuation, sizeof continuation, "%s%s", query[0] != '\0' ? " " : "",
                           choices[c]);
            for (size_t m = 0; m < 2; m++) {
                double nll = choice_nll(&bench, m == 1 ? removed : NULL, query, continuation);
                double norm = nll / (double)strlen(choices[c]);
                chosen[m] = nll < best[m] ? c : chosen[m];
                best[m] = fmin(best[m], nll);
                chosen_norm[m] = norm < best_norm[m] ? c : chosen_norm[m];
                best_norm[m] = fmin(best_norm[m], norm);
            }
        }
        size_t gold = i % 3;
        for (size_t m = 0; m < 2; m++) {
            right[m] += chosen[m] == gold ? 1 : 0;
            right_norm[m] += chosen_norm[m] == gold ? 1 : 0;
        }
        json_put_text(records[i], "query", query);
        json_put(records[i], "choices", list);
        json_put_i64(records[i], "gold", (int64_t)gold);
    }
    assert_true(right[0] != right_norm[0]); /* else the test could not tell the two apart */
    OWNED(task_set) set = set_of(TASK_CHOICE, (const json_t *const *)records, RECORDS);
    for (size_t m = 0; m < 2; m++) {
        for (size_t batch = 0; batch <= 50; batch += 50) {
            struct evaluate_control control = {.removed = m == 1 ? removed : NULL, .batch_tokens = batch};
            struct task_result result = measure(&bench, set, &control);
            assert_int_equal(result.correct_count, right[m]);
            assert_int_equal(result.correct_norm_count, right_norm[m]);
        }
    }
    for (size_t i = 0; i < RECORDS; i++) {
        json_decref(records[i]);
    }
    bench_close(&bench);
}

static void white_space_at_the_seam_is_not_doubled(void **state)
{
    (void)state;
    struct bench bench;
    bench_open(&bench, NULL, 1, true);
    struct evaluate_control control = {0};
    /* All three say "ab cd" or "ab ef": the same likelihoods, so the same verdict as the first, whatever it is. */
    static const char *const texts[] = {"{\"query\":\"ab\",\"choices\":[\"cd\",\"ef\"],\"gold\":0}",
                                        "{\"query\":\"ab \",\"choices\":[\"cd\",\"ef\"],\"gold\":0}",
                                        "{\"query\":\"ab\",\"choices\":[\" cd\",\" ef\"],\"gold\":0}"};
    bool is_first = choice_nll(&bench, NULL, "ab", " cd") <= choice_nll(&bench, NULL, "ab", " ef");
    for (size_t i = 0; i < 3; i++) {
        struct error error = {0};
        OWNED(task_set)
        set = task_set_load("t", TASK_CHOICE, fixture_text("t.jsonl", texts[i]), NULL, NULL, &error);
        assert_int_equal(measure(&bench, set, &control).correct_count, is_first ? 1 : 0);
    }
    bench_close(&bench);
}

static void prompts_longer_than_the_context_lose_tokens_on_the_left(void **state)
{
    (void)state;
    struct bench bench;
    bench_open(&bench, NULL, 1, true);
    struct text text = {0};
    text_append(&text, "{\"prompt\":\"");
    for (size_t i = 0; i < 600; i++) { /* the fixture's context is 512 */
        text_append(&text, i % 7 == 0 ? " " : "w");
    }
    text_append(&text, "\",\"answer\":\"x\"}\n");
    struct error error = {0};
    struct evaluate_control control = {0};
    OWNED(task_set)
    answers = task_set_load("a", TASK_GENERATE, fixture_text("a.jsonl", text.bytes), NULL, NULL, &error);
    assert_int_equal(measure(&bench, answers, &control).record_count, 1);
    text_clear(&text);
    text_append(&text, "{\"query\":\"");
    for (size_t i = 0; i < 600; i++) {
        text_append(&text, "q");
    }
    text_append(&text, "\",\"choices\":[\"a\",\"b\"],\"gold\":1}\n");
    OWNED(task_set)
    choices = task_set_load("c", TASK_CHOICE, fixture_text("c.jsonl", text.bytes), NULL, NULL, &error);
    assert_int_equal(measure(&bench, choices, &control).record_count, 1);
    text_finish(&text);
    bench_close(&bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exact_answers_are_right_and_others_wrong),
        cmocka_unit_test(the_likeliest_choice_is_found_by_sum_and_by_byte),
        cmocka_unit_test(white_space_at_the_seam_is_not_doubled),
        cmocka_unit_test(prompts_longer_than_the_context_lose_tokens_on_the_left),
    };
    return cmocka_run_group_tests(tests, fixture_start, fixture_end);
}
