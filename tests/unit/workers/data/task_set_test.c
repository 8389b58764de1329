/* tests/unit/workers/data/task_set_test.c: task records and their faults. */
#include "tests/unit/workers/data/fixture.h"
#include "workers/data/task_set.h"

static void all_kinds_of_records_are_read(void **state)
{
    (void)state;
    struct error error = {0};
    OWNED(task_set)
    sums = task_set_load(
        "sums", TASK_GENERATE,
        fixture_text(
            "g.jsonl",
            "{\"prompt\":\"1+1=\",\"answer\":\"2\",\"tier\":1}\n\n{\"prompt\":\"\",\"answer\":\"\"}\n"),
        NULL, NULL, &error);
    assert_non_null(sums);
    assert_string_equal(sums->name, "sums");
    assert_int_equal(sums->record_count, 2);
    assert_string_equal(sums->records[0].query, "1+1=");
    assert_string_equal(sums->records[0].answer, "2");
    OWNED(task_set)
    verbs =
        task_set_load("verbs", TASK_CHOICE,
                      fixture_text("c.jsonl", "{\"query\":\"He\",\"choices\":[\"run\",\"runs\"],\"gold\":1}"),
                      NULL, NULL, &error);
    assert_non_null(verbs);
    assert_int_equal(verbs->records[0].choice_count, 2);
    assert_string_equal(verbs->records[0].choices[1], "runs");
    assert_int_equal(verbs->records[0].gold, 1);
    assert_false(verbs->has_contexts);
    OWNED(task_set)
    contexts = task_set_load(
        "who", TASK_CHOICE,
        fixture_text("w.jsonl", "{\"context_options\":[\"Ann\",\"\"],\"continuation\":\"ran.\",\"gold\":0}"),
        NULL, NULL, &error);
    assert_non_null(contexts);
    assert_true(contexts->has_contexts);
    assert_string_equal(contexts->records[0].choices[0], "Ann");
    assert_string_equal(contexts->records[0].answer, "ran.");
    OWNED(task_set)
    words = task_set_load("words", TASK_LANGUAGE_MODELING,
                          fixture_text("l.jsonl", "{\"context\":\"I saw\",\"continuation\":\"it\"}\n"
                                                  "{\"context\":\"\",\"continuation\":\"He\"}\n"),
                          NULL, NULL, &error);
    assert_non_null(words);
    assert_string_equal(words->records[0].query, "I saw");
    assert_string_equal(words->records[1].answer, "He");
    task_set_limit(words, 1);
    assert_int_equal(words->record_count, 1);
    assert_int_equal(words->total_count, 2);
    task_set_limit(words, 7);
    assert_int_equal(words->record_count, 2);
}

static void faults_name_file_and_line(void **state)
{
    (void)state;
    static const struct {
        enum task_kind kind;
        const char *text;
        enum error_code code;
        const char *message;
    } cases[] = {
        {TASK_GENERATE, "", ERROR_TEXT_TOO_SHORT, "no task record"},
        {TASK_GENERATE, "\n\n", ERROR_TEXT_TOO_SHORT, "no task record"},
        {TASK_GENERATE, "{\"prompt\":\"a\",\"answer\":\"b\"}\n{\"prompt\":\"a\"}\n", ERROR_CORRUPT_FILE,
         "t.jsonl, line 2"},
        {TASK_GENERATE, "{\"prompt\":1,\"answer\":\"b\"}\n", ERROR_CORRUPT_FILE, "line 1"},
        {TASK_GENERATE, "nonsense\n", ERROR_CORRUPT_FILE, "line 1"},
        {TASK_GENERATE, "{\"prompt\":\"\xff\",\"answer\":\"b\"}\n", ERROR_CORRUPT_FILE, "byte 11"},
        {TASK_CHOICE, "{\"query\":\"a\",\"choices\":[\"b\"],\"gold\":0}\n", ERROR_CORRUPT_FILE, "1 choices"},
        {TASK_CHOICE, "{\"query\":\"a\",\"choices\":[\"b\",\"c\"],\"gold\":2}\n", ERROR_CORRUPT_FILE, "gold"},
        {TASK_CHOICE, "{\"query\":\"a\",\"choices\":[\"b\",7],\"gold\":1}\n", ERROR_CORRUPT_FILE, "choice 1"},
        {TASK_CHOICE, "{\"query\":\"a\",\"choices\":[\"b\",\"\"],\"gold\":1}\n", ERROR_CORRUPT_FILE,
         "choice 1"},
        {TASK_CHOICE, "{\"context_options\":[\"a\",\"b\"],\"gold\":0}\n", ERROR_CORRUPT_FILE, "continuation"},
        {TASK_CHOICE, "{\"context_options\":[\"a\",\"b\"],\"continuation\":\"\",\"gold\":0}\n",
         ERROR_CORRUPT_FILE, "continuation"},
        {TASK_CHOICE,
         "{\"context_options\":[\"a\",\"b\"],\"continuation\":\"c\",\"gold\":0}\n"
         "{\"query\":\"a\",\"choices\":[\"b\",\"c\"],\"gold\":1}\n",
         ERROR_CORRUPT_FILE, "line 2"},
        {TASK_LANGUAGE_MODELING, "{\"context\":\"a\"}\n", ERROR_CORRUPT_FILE, "continuation"},
        {TASK_LANGUAGE_MODELING, "{\"context\":\"a\",\"continuation\":\"\"}\n", ERROR_CORRUPT_FILE, "empty"},
        {TASK_CHOICE, "{\"query\":\"a\",\"choices\":\"b\",\"gold\":1}\n", ERROR_CORRUPT_FILE, "choices"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct error error = {0};
        assert_null(
            task_set_load("t", cases[i].kind, fixture_text("t.jsonl", cases[i].text), NULL, NULL, &error));
        assert_int_equal(error.code, cases[i].code);
        assert_string_equal(error.field, "t.jsonl");
        if (strstr(error.message, cases[i].message) == NULL) {
            fail_msg("case %zu: %s", i, error.message);
        }
    }
    struct error error = {0};
    assert_null(task_set_load("t", TASK_CHOICE, "/nonexistent/t.jsonl", "given-name", NULL, &error));
    assert_int_equal(error.code, ERROR_NOT_FOUND);
    assert_string_equal(error.field, "given-name");
}

static void kinds_are_spelled_one_way(void **state)
{
    (void)state;
    enum task_kind kind = TASK_GENERATE;
    assert_true(task_kind_parse("choice", &kind));
    assert_int_equal(kind, TASK_CHOICE);
    assert_false(task_kind_parse("Choice", &kind));
    assert_true(task_kind_parse("language_modeling", &kind));
    assert_int_equal(kind, TASK_LANGUAGE_MODELING);
    assert_string_equal(task_kind_name(TASK_GENERATE), "generate");
    assert_string_equal(task_kind_name(TASK_LANGUAGE_MODELING), "language_modeling");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_kinds_of_records_are_read),
        cmocka_unit_test(faults_name_file_and_line),
        cmocka_unit_test(kinds_are_spelled_one_way),
    };
    return cmocka_run_group_tests(tests, fixture_start, fixture_end);
}
