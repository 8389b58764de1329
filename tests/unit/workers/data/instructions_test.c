/* tests/unit/workers/data/instructions_test.c: shapes of instruction records, their faults and places, and templates. */
#include "tests/unit/workers/data/fixture.h"
#include "workers/data/instructions.h"

#include "base/json.h"

static struct instructions *load(const char *name, const char *text, struct instruction_fields fields,
                                 struct error *error)
{
    struct instructions_options options = {.path = fixture_text(name, text), .fields = fields};
    return instructions_load(&options, error);
}

static const struct instruction_fields unsaid = {0};

static void known_shapes_are_read_off_the_first_record(void **state)
{
    (void)state;
    static const struct {
        const char *text, *instruction, *input, *response;
    } cases[] = {
        {"{\"instruction\":\"add\",\"input\":\"1 2\",\"output\":\"3\",\"id\":7}", "add", "1 2", "3"},
        {"{\"instruction\":\"add\",\"response\":\"3\"}", "add", "", "3"},
        {"{\"instruction\":\"add\",\"input\":null,\"output\":\"\"}", "add", "", ""},
        {"{\"instruction\":\"add\",\"instances\":[{\"input\":\"1\",\"output\":\"2\"}]}", "add", "1", "2"},
        {"{\"prompt\":\"p\",\"completion\":\"c\"}", "p", "", "c"},
        {"{\"question\":\"q\",\"answer\":\"a\"}", "q", "", "a"},
        {"{\"query\":\"q\",\"response\":\"a\"}", "q", "", "a"},
        {"{\"messages\":[{\"role\":\"system\",\"content\":\"be kind\"},{\"role\":\"user\",\"content\":\"hi\"},"
         "{\"role\":\"assistant\",\"content\":\"hello\"}]}",
         "hi", "System: be kind", "hello"},
        {"{\"conversations\":[{\"from\":\"human\",\"value\":\"a\"},{\"from\":\"gpt\",\"value\":\"b\"},"
         "{\"from\":\"human\",\"value\":\"c\"},{\"from\":\"gpt\",\"value\":\"d\"}]}",
         "c", "User: a\nAssistant: b", "d"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct error error = {0};
        OWNED(instructions) set = load("r.jsonl", cases[i].text, unsaid, &error);
        if (set == NULL) {
            fail_msg("%zu: %s", i, error.message);
        }
        assert_int_equal(set->record_count, 1);
        assert_string_equal(set->records[0].instruction, cases[i].instruction);
        assert_string_equal(set->records[0].input, cases[i].input);
        assert_string_equal(set->records[0].response, cases[i].response);
    }
}

static void said_members_come_first_and_may_be_pointers(void **state)
{
    (void)state;
    struct error error = {0};
    struct instruction_fields fields = {.instruction = "/a~1b/1", .response = "out"};
    OWNED(instructions)
    set = load("r.jsonl", "{\"a/b\":[\"no\",\"yes\"],\"out\":\"o\",\"instruction\":\"i\",\"output\":\"x\"}",
               fields, &error);
    assert_non_null(set);
    assert_string_equal(set->records[0].instruction, "yes");
    assert_string_equal(set->records[0].response, "o");
}

static void fields_said_in_part_or_twice_are_refused(void **state)
{
    (void)state;
    static const struct instruction_fields wrong[] = {
        {.response = "output"},
        {.instruction = "instruction"},
        {.input = "input"},
        {.input = "input", .response = "output"},
        {.instruction = "instruction", .input = "input"},
        {.messages = "messages", .input = "input"},
        {.messages = "messages", .instruction = "instruction", .response = "output"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct error error = {0};
        OWNED(instructions)
        set = load("r.jsonl", "{\"instruction\":\"i\",\"output\":\"o\"}", wrong[i], &error);
        if (set != NULL || error.code != ERROR_INVALID_ARGUMENT ||
            strstr(error.message, "say which member") == NULL) {
            fail_msg("%zu: %s", i, set != NULL ? "was read" : error.message);
        }
        assert_string_equal(error.field, "r.jsonl");
    }
}

static void said_names_are_kept_when_the_caller_lets_go_of_his(void **state)
{
    (void)state;
    struct error error = {0};
    char instruction[] = "ask", input[] = "more", response[] = "say";
    struct instruction_fields fields = {.instruction = instruction, .input = input, .response = response};
    OWNED(instructions) set = load("r.jsonl", "{\"ask\":\"i\",\"say\":\"o\"}", fields, &error);
    assert_non_null(set);
    instruction[0] = input[0] = response[0] = '?';
    assert_string_equal(set->fields.instruction, "ask");
    assert_string_equal(set->fields.input, "more");
    assert_string_equal(set->fields.response, "say");
}

static void lines_and_arrays_keep_where_each_record_stands(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "{\"prompt\":\"a]}\\\"\",\"completion\":\"1\"}\r\n\n  {\"prompt\":\"b\",\"completion\":\"{[\"}",
        " [ {\"prompt\":\"a]}\\\"\",\"completion\":\"1\"} ,\n{\"prompt\":\"b\",\"completion\":\"{[\"}\n]\n"};
    for (size_t i = 0; i < 2; i++) {
        struct error error = {0};
        OWNED(instructions) set = load("r", texts[i], unsaid, &error);
        if (set == NULL) {
            fail_msg("%s", error.message);
        }
        assert_int_equal(set->record_count, 2);
        for (size_t r = 0; r < 2; r++) {
            const struct instruction_record *record = &set->records[r];
            JSON_OWNED own = json_parse(set->bytes + record->first_byte, record->byte_count, 1000, &error);
            assert_non_null(own);
            assert_string_equal(json_string_value(json_object_get(own, "prompt")), record->instruction);
        }
        assert_string_equal(set->records[0].instruction, "a]}\"");
        assert_string_equal(set->records[1].response, "{[");
    }
}

static void faults_name_the_file_and_the_record(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
        enum error_code code;
    } cases[] = {
        {"", "r.jsonl: no record", ERROR_TEXT_TOO_SHORT},
        {"[ ]", "r.jsonl: no record", ERROR_TEXT_TOO_SHORT},
        {"{\"a\":\"1\",\"b\":2}",
         "line 1: say which members are the instruction and the response; the first record has: a, b",
         ERROR_INVALID_ARGUMENT},
        {"{\"prompt\":\"p\",\"completion\":\"c\"}\n{\"prompt\":\"p\"}",
         "line 2: completion is nothing, not a text", ERROR_CORRUPT_FILE},
        {"{\"prompt\":\"p\",\"completion\":\"c\"}\n[1]", "line 2: a record is an array, not an object",
         ERROR_CORRUPT_FILE},
        {"{\"prompt\":\"p\",\"completion\":\"c\"}\n{", "line 2: ", ERROR_CORRUPT_FILE},
        {"{\"prompt\":\"p\",\"completion\":\"c\"}\r\n\n \t\n{}", "line 4: prompt is nothing",
         ERROR_CORRUPT_FILE},
        {"[{\"prompt\":\"p\",\"completion\":\"c\"},]", "a comma after the last record, 1",
         ERROR_CORRUPT_FILE},
        {"[{\"prompt\":\"p\",\"completion\":\"c\"}{}]", "no comma after record 1", ERROR_CORRUPT_FILE},
        {"[{\"prompt\":\"p\",\"completion\":\"c\"}", "the array of records does not end", ERROR_CORRUPT_FILE},
        {"[{\"prompt\":\"p\",\"completion\":\"c\"}] x", "text after the array", ERROR_CORRUPT_FILE},
        {"[{\"prompt\":\"p\",\"completion\":\"c\"},{\"prompt\":1}]", "record 2: prompt is",
         ERROR_CORRUPT_FILE},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}", "at least 2", ERROR_CORRUPT_FILE},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"user\",\"content\":\"hi\"}]}",
         "the last two messages of this one are of user and user", ERROR_CORRUPT_FILE},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"system\",\"content\":\"s\"},"
         "{\"role\":\"assistant\",\"content\":\"a\"}]}",
         "the last two messages of this one are of system and assistant", ERROR_CORRUPT_FILE},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"assistant\",\"content\":\"a\"},"
         "{\"role\":\"assistant\",\"content\":\"b\"}]}",
         "the last two messages of this one are of assistant and assistant", ERROR_CORRUPT_FILE},
        {"{\"messages\":[{\"role\":\"cat\",\"content\":\"hi\"},{\"role\":\"user\",\"content\":\"hi\"}]}",
         "message 0: role cat", ERROR_CORRUPT_FILE},
        {"{\"prompt\":\"\xff\"}", "not UTF-8 at byte 11", ERROR_CORRUPT_FILE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct error error = {0};
        OWNED(instructions) set = load("r.jsonl", cases[i].text, unsaid, &error);
        if (set != NULL || strstr(error.message, cases[i].message) == NULL || error.code != cases[i].code) {
            fail_msg("%zu: %s", i, set != NULL ? "was read" : error.message);
        }
        assert_string_equal(error.field, "r.jsonl");
    }
}

static void check_prompt(const struct instruction_template *form, const struct instruction_record *record,
                         const char *expected)
{
    FINISHED(text) prompt = {0};
    instruction_format_prompt(form, record, &prompt);
    assert_string_equal(prompt.bytes, expected);
}

static void templates_put_texts_in_their_places_once(void **state)
{
    (void)state;
    struct instruction_record record = {.instruction = "say {input}", .input = "x", .response = "y"};
    check_prompt(instruction_template_find("plain"), &record, "say {input}\nx\n");
    check_prompt(instruction_template_find("chatml"), &record,
                 "<|im_start|>user\nsay {input}\n\nx<|im_end|>\n<|im_start|>assistant\n");
    record.input = "";
    check_prompt(instruction_template_find("plain"), &record, "say {input}\n");
    struct instruction_template own = {.full = "A {b} {instruction}|{input}", .lone = "{ {instruction} }{"};
    check_prompt(&own, &record, "{ say {input} }{");
    record.input = "z";
    check_prompt(&own, &record, "A {b} say {input}|z");
    struct instruction_turn turns[] = {{INSTRUCTION_SYSTEM, "s"}, {INSTRUCTION_USER, "u"}};
    record.turns = turns;
    record.turn_count = 2;
    check_prompt(instruction_template_find("chatml"), &record,
                 "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\n");
    assert_null(instruction_template_find("none"));
}

static void a_template_is_checked_whole(void **state)
{
    (void)state;
    static const struct {
        struct instruction_template form;
        const char *message; /* NULL: it is fine */
    } cases[] = {
        {{.full = "{instruction} {\"a\": 1} {} {a b} {input}", .lone = "{instruction}{x"}, NULL},
        {{.is_chat = true}, NULL},
        {{.full = "{input}", .lone = "{instruction}"}, "with an input has no {instruction}"},
        {{.full = "{instruction}", .lone = "{instruction}"}, "with an input has no {input}"},
        {{.full = "{instruction}{input}", .lone = ""}, "without an input has no {instruction}"},
        {{.full = "{instruction}{input}", .lone = "{instruction}{input}"}, "without an input has {input}"},
        {{.full = "{instruction}{input}"}, "no text for records without an input"},
        {{.lone = "{instruction}"}, "no text for records with an input"},
        {{.full = "{instruction}{input}{output}", .lone = "{instruction}"}, "has {output}"},
        {{.full = "{instruction}{input}", .lone = "{instruction}{Input_2}"}, "has {Input_2}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct error error = {0};
        bool is_fine = instruction_template_check(&cases[i].form, &error);
        if (is_fine != (cases[i].message == NULL) ||
            (!is_fine && strstr(error.message, cases[i].message) == NULL)) {
            fail_msg("%zu: %s", i, is_fine ? "passed" : error.message);
        }
        assert_true(is_fine || error.code == ERROR_INVALID_ARGUMENT);
    }
    static const char *const names[] = {"plain", "alpaca", "chatml"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        assert_true(instruction_template_check(instruction_template_find(names[i]), NULL));
    }
}

static void real_sets_are_read_whole(void **state)
{
    (void)state;
    const char *root = getenv("PRUNED_TEST_DATA");
    static const struct {
        const char *path;
        size_t count;
    } sets[] = {
        {"instruct/alpaca_en_demo.json", 0},          {"instruct/code_alpaca_2k.json", 0},
        {"instruct/cherry_alpaca_5_percent.json", 0}, {"instruct/self_instruct_seed_tasks.jsonl", 175},
        {"instruct/gsm8k/train.jsonl", 7473},         {"instruct/p3_t0/xsum_summarize_DOC.jsonl", 0}};
    size_t total = 0;
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++) {
        char path[1024];
        (void)snprintf(path, sizeof path, "%s/%s", root != NULL ? root : "", sets[i].path);
        if (!file_exists(path)) {
            (void)printf("# %s is not there\n", sets[i].path);
            skip();
        }
        struct error error = {0};
        struct instructions_options options = {.path = path};
        OWNED(instructions) set = instructions_load(&options, &error);
        if (set == NULL) {
            fail_msg("%s", error.message);
        }
        assert_true(sets[i].count == 0 || set->record_count == sets[i].count);
        total += set->record_count;
    }
    (void)printf("# %zu records\n", total);
    assert_true(total > 10000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_shapes_are_read_off_the_first_record),
        cmocka_unit_test(said_members_come_first_and_may_be_pointers),
        cmocka_unit_test(fields_said_in_part_or_twice_are_refused),
        cmocka_unit_test(said_names_are_kept_when_the_caller_lets_go_of_his),
        cmocka_unit_test(lines_and_arrays_keep_where_each_record_stands),
        cmocka_unit_test(faults_name_the_file_and_the_record),
        cmocka_unit_test(templates_put_texts_in_their_places_once),
        cmocka_unit_test(a_template_is_checked_whole),
        cmocka_unit_test(real_sets_are_read_whole),
    };
    json_start();
    return cmocka_run_group_tests(tests, fixture_start, fixture_end);
}
