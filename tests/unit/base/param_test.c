/* tests/unit/base/param_test.c: one spec, its faults, its defaults, its schema and its way through JSON. */
#include "base/param.h"
#include "base/text.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *const metrics[] = {"norm", "angular", "kl", "js", NULL};

static const struct param_spec finercut_members[] = {
    {.name = "metric",
     .type = PARAM_ENUM,
     .values = metrics,
     .default_json = "\"js\"",
     .help = "Distance of logits."},
    {.name = "protect_ratio",
     .type = PARAM_NUMBER,
     .min = 0,
     .max = 1,
     .flags = PARAM_OPEN_MAX,
     .default_json = "0.0"},
};
static const struct param_spec random_members[] = {
    {.name = "draws", .type = PARAM_INTEGER, .min = 1, .max = 100, .flags = PARAM_REQUIRED},
};
static const struct param_spec methods[] = {
    {.name = "finercut", .type = PARAM_OBJECT, .members = finercut_members, .member_count = 2},
    {.name = "random", .type = PARAM_OBJECT, .members = random_members, .member_count = 1},
};
static const struct param_spec targets[] = {
    {.name = "sparsity", .type = PARAM_NUMBER, .min = 0, .max = 1, .flags = PARAM_OPEN_MIN | PARAM_OPEN_MAX},
    {.name = "params", .type = PARAM_INTEGER, .min = 1, .max = 1e15},
    {.name = "packable", .type = PARAM_BOOL, .flags = PARAM_BESIDE, .default_json = "true"},
};
static const struct param_spec layer_item[] = {{.type = PARAM_INTEGER, .min = 0, .max = 1000}};
static const struct param_spec limit_members[] = {
    {.name = "max_seconds",
     .type = PARAM_INTEGER,
     .min = 1,
     .max = 86400,
     .default_json = "3600",
     .unit = "seconds"},
    {.name = "memory_bytes",
     .type = PARAM_INTEGER,
     .min = 1,
     .max = 9e15,
     .flags = PARAM_NULLABLE,
     .unit = "bytes"},
};
static const struct param_spec body_members[] = {
    {.name = "name", .type = PARAM_TEXT, .min = 1, .max = 8},
    {.name = "method", .type = PARAM_UNION, .members = methods, .member_count = 2, .flags = PARAM_REQUIRED},
    {.name = "target",
     .type = PARAM_OBJECT,
     .members = targets,
     .member_count = 3,
     .flags = PARAM_REQUIRED | PARAM_EXACTLY_ONE},
    {.name = "layers", .type = PARAM_ARRAY, .members = layer_item, .member_count = 1, .min = 1, .max = 3},
    {.name = "limits", .type = PARAM_OBJECT, .members = limit_members, .member_count = 2},
    {.name = "labels", .type = PARAM_MAP, .max = 2, .item_max = 4},
    {.name = "seed", .type = PARAM_INTEGER, .default_json = "0"},
    {.name = "dry", .type = PARAM_BOOL, .default_json = "false"},
    {.name = "extra", .type = PARAM_ANY},
};
static const struct param_spec body = {.type = PARAM_OBJECT, .members = body_members, .member_count = 9};

static json_t *parse(const char *text)
{
    struct error error = {0};
    json_t *json = json_parse(text, strlen(text), JSON_LIMIT_BYTES, &error);
    if (json == NULL) {
        fail_msg("%s: %s", text, error.message);
    }
    return json;
}

#define GOOD "\"method\":{\"type\":\"finercut\"},\"target\":{\"sparsity\":0.2}"

/* The parsed copy of the spec must answer as the table does: every case runs on both. */
static struct param_tree copy;

static int copy_spec(void **state)
{
    (void)state;
    struct error error = {0};
    JSON_OWNED json = param_format(&body);
    return param_parse(json, &copy, &error) ? 0 : 1;
}

static int drop_copy(void **state)
{
    (void)state;
    param_tree_finish(&copy);
    return 0;
}

static void every_fault_has_its_code_and_pointer(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        enum error_code code;
        const char *field, *part;
    } cases[] = {
        {"[]", ERROR_WRONG_TYPE, "", "must be an object, is an array"},
        {"{\"target\":{\"sparsity\":0.2}}", ERROR_MISSING_FIELD, "/method", "required"},
        {"{" GOOD ",\"sed\":1}", ERROR_UNKNOWN_FIELD, "/sed", "did you mean \"seed\"?"},
        {"{" GOOD ",\"zzz\":1}", ERROR_UNKNOWN_FIELD, "/zzz", "known: name, method"},
        {"{" GOOD ",\"a/b\":1}", ERROR_UNKNOWN_FIELD, "/a~1b", "unknown"},
        {"{" GOOD ",\"name\":\"\"}", ERROR_OUT_OF_RANGE, "/name", "1 to 8 bytes, has 0"},
        {"{" GOOD ",\"name\":\"123456789\"}", ERROR_OUT_OF_RANGE, "/name", "has 9"},
        {"{" GOOD ",\"name\":\"a\\u0007\"}", ERROR_INVALID_ARGUMENT, "/name", "0x07"},
        {"{" GOOD ",\"name\":\"a\\u007f\"}", ERROR_INVALID_ARGUMENT, "/name", "0x7f"},
        {"{" GOOD ",\"name\":5}", ERROR_WRONG_TYPE, "/name", "must be a string, is an integer"},
        {"{" GOOD ",\"name\":null}", ERROR_WRONG_TYPE, "/name", "is null"},
        {"{" GOOD ",\"seed\":1.0}", ERROR_WRONG_TYPE, "/seed", "must be an integer, is a number"},
        {"{" GOOD ",\"seed\":9007199254740992}", ERROR_OUT_OF_RANGE, "/seed", "2^53"},
        {"{" GOOD ",\"seed\":-9007199254740992}", ERROR_OUT_OF_RANGE, "/seed", "2^53"},
        {"{" GOOD ",\"dry\":0}", ERROR_WRONG_TYPE, "/dry", "a boolean"},
        {"{" GOOD ",\"layers\":[]}", ERROR_OUT_OF_RANGE, "/layers", "1 to 3 items, has 0"},
        {"{" GOOD ",\"layers\":[1,2,3,4]}", ERROR_OUT_OF_RANGE, "/layers", "has 4"},
        {"{" GOOD ",\"layers\":[1,\"2\"]}", ERROR_WRONG_TYPE, "/layers/1", "an integer"},
        {"{" GOOD ",\"layers\":{}}", ERROR_WRONG_TYPE, "/layers", "an array"},
        {"{" GOOD ",\"limits\":{\"max_seconds\":0}}", ERROR_OUT_OF_RANGE, "/limits/max_seconds",
         "at least 1 seconds, is 0"},
        {"{" GOOD ",\"limits\":{\"max_seconds\":null}}", ERROR_WRONG_TYPE, "/limits/max_seconds", "null"},
        {"{" GOOD ",\"labels\":{\"a\":\"12345\"}}", ERROR_OUT_OF_RANGE, "/labels/a", "0 to 4 bytes, has 5"},
        {"{" GOOD ",\"labels\":{\"a\":1}}", ERROR_WRONG_TYPE, "/labels/a", "a string"},
        {"{" GOOD ",\"labels\":{\"\":\"x\"}}", ERROR_OUT_OF_RANGE, "/labels/", "1 to 64 bytes"},
        {"{" GOOD ",\"labels\":{\"a\":\"\",\"b\":\"\",\"c\":\"\"}}", ERROR_OUT_OF_RANGE, "/labels", "has 3"},
        {"{\"method\":{},\"target\":{\"params\":5}}", ERROR_MISSING_FIELD, "/method/type", "required"},
        {"{\"method\":{\"type\":5},\"target\":{\"params\":5}}", ERROR_WRONG_TYPE, "/method/type", "string"},
        {"{\"method\":{\"type\":\"finecut\"},\"target\":{\"params\":5}}", ERROR_UNKNOWN_VALUE, "/method/type",
         "did you mean \"finercut\"?"},
        {"{\"method\":{\"type\":\"finercut\",\"random\":{\"draws\":1}},\"target\":{\"params\":5}}",
         ERROR_UNKNOWN_FIELD, "/method/random", "does not belong"},
        {"{\"method\":{\"type\":\"finercut\",\"finercat\":{}},\"target\":{\"params\":5}}",
         ERROR_UNKNOWN_FIELD, "/method/finercat", "did you mean \"finercut\"?"},
        {"{\"method\":{\"type\":\"random\"},\"target\":{\"params\":5}}", ERROR_MISSING_FIELD,
         "/method/random/draws", "required"},
        {"{\"method\":{\"type\":\"finercut\",\"finercut\":{\"metric\":\"sj\"}},\"target\":{\"params\":5}}",
         ERROR_UNKNOWN_VALUE, "/method/finercut/metric", "did you mean \"js\"?"},
        {"{\"method\":{\"type\":\"finercut\",\"finercut\":{\"protect_ratio\":1}},\"target\":{\"params\":5}}",
         ERROR_OUT_OF_RANGE, "/method/finercut/protect_ratio", "less than 1, is 1"},
        {"{\"method\":{\"type\":\"finercut\",\"finercut\":7},\"target\":{\"params\":5}}", ERROR_WRONG_TYPE,
         "/method/finercut", "an object"},
        {"{\"method\":{\"type\":\"finercut\"},\"target\":{\"packable\":false}}", ERROR_MISSING_FIELD,
         "/target", "exactly one of sparsity, params is required, 0 are given"},
        {"{\"method\":{\"type\":\"finercut\"},\"target\":{\"sparsity\":0.5,\"params\":5}}",
         ERROR_INVALID_ARGUMENT, "/target", "2 are given"},
        {"{\"method\":{\"type\":\"finercut\"},\"target\":{\"sparsity\":0}}", ERROR_OUT_OF_RANGE,
         "/target/sparsity", "greater than 0, is 0"},
        {"{\"method\":{\"type\":\"finercut\"},\"target\":{\"sparsity\":1.5}}", ERROR_OUT_OF_RANGE,
         "/target/sparsity", "less than 1, is 1.5"},
    };
    const struct param_spec *const specs[] = {&body, copy.root};
    for (size_t i = 0; i < 2 * (sizeof cases / sizeof cases[0]); i++) {
        FINISHED(error_list) faults = {0};
        JSON_OWNED json = parse(cases[i / 2].text);
        bool valid = param_validate(specs[i % 2], json, "", &faults);
        if (valid || faults.stored != 1 || faults.items[0].code != cases[i / 2].code ||
            strcmp(faults.items[0].field, cases[i / 2].field) != 0 ||
            strstr(faults.items[0].message, cases[i / 2].part) == NULL) {
            fail_msg("%s gave %zu faults, the first %s at \"%s\": %s", cases[i / 2].text, faults.stored,
                     faults.stored > 0 ? error_code_slug(faults.items[0].code) : "",
                     faults.stored > 0 ? faults.items[0].field : "",
                     faults.stored > 0 ? faults.items[0].message : "");
        }
    }
}

static void all_faults_come_at_once_under_the_given_pointer(void **state)
{
    (void)state;
    FINISHED(error_list) faults = {0};
    JSON_OWNED json = parse("{\"sed\":1,\"name\":7,\"method\":{\"type\":\"x\"},\"layers\":[-1,2,2000]}");
    assert_false(param_validate(&body, json, "/jobs/3", &faults));
    assert_int_equal(faults.count, 6); /* sed, name, method/type, target, two layers */
    for (size_t i = 0; i < faults.stored; i++) {
        assert_true(text_starts_with(faults.items[i].field, "/jobs/3/"));
    }
}

static void good_requests_have_no_faults(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "{" GOOD "}",
        "{" GOOD ",\"name\":\"a\\tb\\nc\",\"layers\":[0,1000],\"labels\":{\"a\":\"1234\"},\"extra\":[null]}",
        "{" GOOD ",\"seed\":9007199254740991,\"limits\":{\"memory_bytes\":null}}",
        "{\"method\":{\"type\":\"random\",\"random\":{\"draws\":100}},\"target\":{\"params\":1}}",
        "{\"method\":{\"type\":\"finercut\",\"finercut\":{\"protect_ratio\":0}},\"target\":{\"sparsity\":0.9}}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        FINISHED(error_list) faults = {0};
        JSON_OWNED json = parse(texts[i]);
        assert_true(param_validate(&body, json, "", &faults));
        assert_true(param_validate(copy.root, json, "", &faults));
        assert_int_equal(faults.count, 0);
    }
}

static void resolving_writes_every_default_down(void **state)
{
    (void)state;
    static const struct {
        const char *text, *resolved;
    } cases[] = {
        {"{" GOOD "}",
         "{\"dry\":false,\"limits\":{\"max_seconds\":3600},\"method\":{\"finercut\":{\"metric\":\"js\","
         "\"protect_ratio\":0.0},\"type\":\"finercut\"},\"seed\":0,\"target\":{\"packable\":true,\"sparsity\":0.2}}"},
        {"{\"method\":{\"type\":\"random\",\"random\":{\"draws\":3}},\"target\":{\"params\":7},\"seed\":5,"
         "\"limits\":{\"memory_bytes\":null,\"max_seconds\":9},\"layers\":[2]}",
         "{\"dry\":false,\"layers\":[2],\"limits\":{\"max_seconds\":9},\"method\":{\"random\":{\"draws\":3},"
         "\"type\":\"random\"},\"seed\":5,\"target\":{\"packable\":true,\"params\":7}}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        JSON_OWNED json = parse(cases[i].text);
        JSON_OWNED before = json_deep_copy(json);
        JSON_OWNED resolved = param_resolve(&body, json);
        JSON_OWNED by_copy = param_resolve(copy.root, json);
        OWNED_MEMORY char *text = json_format(resolved, false);
        assert_string_equal(text, cases[i].resolved);
        assert_true(json_equal(resolved, by_copy));
        assert_true(json_equal(json, before));
        FINISHED(error_list) faults = {0};
        assert_true(param_validate(&body, resolved, "", &faults));
        JSON_OWNED twice = param_resolve(&body, resolved);
        assert_true(json_equal(resolved, twice));
    }
}

static void an_object_that_needs_something_is_not_made_up(void **state)
{
    (void)state;
    static const struct param_spec inner[] = {{.name = "path", .type = PARAM_TEXT, .flags = PARAM_REQUIRED}};
    static const struct param_spec outer[] = {
        {.name = "file", .type = PARAM_OBJECT, .members = inner, .member_count = 1}};
    static const struct param_spec root = {.type = PARAM_OBJECT, .members = outer, .member_count = 1};
    JSON_OWNED json = parse("{}");
    JSON_OWNED resolved = param_resolve(&root, json);
    assert_int_equal(json_object_size(resolved), 0);
}

static void the_json_form_reads_back_the_same(void **state)
{
    (void)state;
    JSON_OWNED first = param_format(&body);
    JSON_OWNED second = param_format(copy.root);
    assert_true(json_equal(first, second));
    static const struct param_spec open = {.type = PARAM_NUMBER, .min = 1, .max = HUGE_VAL};
    struct param_tree tree = {0};
    JSON_OWNED json = param_format(&open);
    assert_null(json_object_get(json, "max"));
    assert_true(param_parse(json, &tree, NULL));
    assert_true(isinf(tree.root->max));
    param_tree_finish(&tree);
    param_tree_finish(NULL);
}

static void a_broken_json_form_is_refused_with_its_pointer(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        enum error_code code;
        const char *field;
    } cases[] = {
        {"{}", ERROR_MISSING_FIELD, "/type"},
        {"{\"type\":\"colour\"}", ERROR_UNKNOWN_VALUE, ""},
        {"{\"type\":\"bool\",\"flags\":[\"shiny\"]}", ERROR_UNKNOWN_VALUE, ""},
        {"{\"type\":\"bool\",\"flags\":[1]}", ERROR_UNKNOWN_VALUE, ""},
        {"{\"type\":\"number\",\"min\":\"a\"}", ERROR_WRONG_TYPE, "/min"},
        {"{\"type\":\"enum\",\"values\":[1]}", ERROR_WRONG_TYPE, ""},
        {"{\"type\":\"object\",\"members\":[{\"type\":\"bool\"}]}", ERROR_MISSING_FIELD, "/members/0"},
        {"{\"type\":\"object\",\"members\":[5]}", ERROR_WRONG_TYPE, "/members/0"},
        {"{\"type\":\"object\",\"members\":[{\"name\":\"a\",\"type\":\"integer\",\"max\":3,\"default\":4}]}",
         ERROR_OUT_OF_RANGE, "/members/0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct error error = {0};
        struct param_tree tree = {0};
        JSON_OWNED json = parse(cases[i].text);
        assert_false(param_parse(json, &tree, &error));
        assert_int_equal(error.code, cases[i].code);
        assert_string_equal(error.field, cases[i].field);
        assert_null(tree.root);
    }
}

static void the_schema_says_what_validation_checks(void **state)
{
    (void)state;
    JSON_OWNED schema = param_schema(&body);
    OWNED_MEMORY char *text = json_format(schema, false);
    static const char *const parts[] = {
        "\"$schema\":\"https://json-schema.org/draft/2020-12/schema\"",
        "\"additionalProperties\":false",
        "\"required\":[\"method\",\"target\"]",
        "\"metric\":{\"default\":\"js\",\"description\":\"Distance of "
        "logits.\",\"enum\":[\"norm\",\"angular\",\"kl\","
        "\"js\"],\"type\":\"string\"}",
        "\"protect_ratio\":{\"default\":0.0,\"exclusiveMaximum\":1.0,\"minimum\":0.0,\"type\":\"number\"}",
        "\"sparsity\":{\"exclusiveMaximum\":1.0,\"exclusiveMinimum\":0.0,\"type\":\"number\"}",
        "\"oneOf\":[{\"required\":[\"sparsity\"]},{\"required\":[\"params\"]}]",
        "\"layers\":{\"items\":{\"maximum\":1000,\"minimum\":0,\"type\":\"integer\"},\"maxItems\":3,"
        "\"minItems\":1,"
        "\"type\":\"array\"}",
        "\"max_seconds\":{\"default\":3600,\"maximum\":86400,\"minimum\":1,\"type\":\"integer\",\"x-unit\":"
        "\"seconds\"}",
        "{\"anyOf\":[{\"maximum\":9000000000000000,\"minimum\":1,\"type\":\"integer\"},{\"type\":\"null\"}],"
        "\"x-unit\":\"bytes\"}",
        "\"type\":{\"const\":\"finercut\"}}",
        "\"required\":[\"type\"]",
        "\"required\":[\"type\",\"random\"]",
        "\"propertyNames\":{\"maxLength\":64,\"minLength\":1}",
        "\"name\":{\"maxLength\":8,\"minLength\":1,\"type\":\"string\"}",
        "\"extra\":{}",
    };
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (strstr(text, parts[i]) == NULL) {
            fail_msg("the schema lacks %s:\n%s", parts[i], text);
        }
    }
    JSON_OWNED by_copy = param_schema(copy.root);
    assert_true(json_equal(schema, by_copy));
}

static const struct param_spec share_members[] = {
    {.name = "share", .type = PARAM_NUMBER, .min = 0, .max = 1, .flags = PARAM_REQUIRED},
    {.name = "hard", .type = PARAM_BOOL, .default_json = "false"},
};
static const struct param_spec share_item = {
    .type = PARAM_OBJECT, .members = share_members, .member_count = 2};
static const struct param_spec either_members[] = {
    {.name = "one", .type = PARAM_INTEGER, .flags = PARAM_EITHER | PARAM_NULLABLE},
    {.name = "other", .type = PARAM_INTEGER, .flags = PARAM_EITHER | PARAM_NULLABLE},
    {.name = "parts", .type = PARAM_MAP, .max = 2, .members = &share_item, .member_count = 1},
};
static const struct param_spec either = {.type = PARAM_OBJECT, .members = either_members, .member_count = 3};

static void one_of_several_members_and_maps_of_objects(void **state)
{
    (void)state;
    static const struct {
        const char *value, *pointer;
        enum error_code code;
    } rows[] = {
        {"{\"one\": 1}", NULL, ERROR_NONE},
        {"{\"one\": 1, \"other\": 2}", NULL, ERROR_NONE},
        {"{}", "/one", ERROR_MISSING_FIELD},
        {"{\"other\": null}", "/one", ERROR_MISSING_FIELD},
        {"{\"one\": 1, \"parts\": {\"a\": {\"share\": 2}}}", "/parts/a/share", ERROR_OUT_OF_RANGE},
        {"{\"one\": 1, \"parts\": {\"a\": 3}}", "/parts/a", ERROR_WRONG_TYPE},
        {"{\"one\": 1, \"parts\": {\"a\": {}}}", "/parts/a/share", ERROR_MISSING_FIELD},
        {"{\"one\": 1, \"parts\": {\"a\": {\"share\": 0.5}}}", NULL, ERROR_NONE},
    };
    JSON_OWNED form = param_format(&either);
    struct param_tree tree = {0};
    struct error error = {0};
    assert_true(param_parse(form, &tree, &error));
    const struct param_spec *specs[] = {&either, tree.root};
    for (size_t i = 0; i < 2 * sizeof rows / sizeof rows[0]; i++) {
        FINISHED(error_list) faults = {0};
        JSON_OWNED value = parse(rows[i / 2].value);
        bool is_good = param_validate(specs[i % 2], value, "", &faults);
        assert_int_equal(is_good, rows[i / 2].pointer == NULL);
        if (!is_good) {
            assert_int_equal(faults.count, 1);
            assert_int_equal(faults.items[0].code, rows[i / 2].code);
            assert_string_equal(faults.items[0].field, rows[i / 2].pointer);
        }
    }
    JSON_OWNED value = parse(rows[7].value);
    JSON_OWNED resolved = param_resolve(tree.root, value);
    const json_t *part = json_object_get(json_object_get(resolved, "parts"), "a");
    assert_true(json_is_false(json_object_get(part, "hard")));
    JSON_OWNED schema = param_schema(tree.root);
    assert_int_equal(json_array_size(json_object_get(schema, "anyOf")), 2);
    param_tree_finish(&tree);
}

static void names_of_any_length_are_survived(void **state)
{
    (void)state;
    char name[4001];
    memset(name, 'm', 4000);
    name[4000] = '\0';
    FINISHED(text) long_text = {0};
    text_append_format(&long_text, "{" GOOD ",\"%s\":1,\"limits\":{\"%.64s\":1}}", name, name);
    JSON_OWNED json = parse(long_text.bytes);
    FINISHED(error_list) faults = {0};
    assert_false(param_validate(&body, json, "", &faults));
    assert_int_equal(faults.count, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_fault_has_its_code_and_pointer),
        cmocka_unit_test(all_faults_come_at_once_under_the_given_pointer),
        cmocka_unit_test(good_requests_have_no_faults),
        cmocka_unit_test(resolving_writes_every_default_down),
        cmocka_unit_test(an_object_that_needs_something_is_not_made_up),
        cmocka_unit_test(the_json_form_reads_back_the_same),
        cmocka_unit_test(a_broken_json_form_is_refused_with_its_pointer),
        cmocka_unit_test(the_schema_says_what_validation_checks),
        cmocka_unit_test(one_of_several_members_and_maps_of_objects),
        cmocka_unit_test(names_of_any_length_are_survived),
    };
    return cmocka_run_group_tests(tests, copy_spec, drop_copy);
}
