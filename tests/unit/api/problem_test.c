/* Unit tests of api/problem.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "api/problem.h"

static const char *text_at(const json_t *object, const char *name)
{
    return json_string_value(json_object_get(object, name));
}

static void every_code_has_a_status_and_a_title(void **state)
{
    (void)state;
    static const enum error_code codes[] = {
#define X(name, slug) ERROR_##name,
        ERROR_CODES(X)
#undef X
    };
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        unsigned status = problem_status(codes[i]);
        assert_in_range(status, 400, 599);
        assert_true(strlen(problem_title(codes[i])) > 3);
    }
    assert_int_equal(problem_status(ERROR_NOT_FOUND), 404);
    assert_int_equal(problem_status(ERROR_STORAGE_FULL), 507);
    assert_int_equal(problem_status(ERROR_INTERNAL), 500);
}

static unsigned status_in_body(enum error_code code, const char *field)
{
    struct error error = {0};
    (void)error_set_field(&error, code, field, "x");
    return problem_status_in_body(&error);
}

static void faults_of_a_body_are_unprocessable(void **state)
{
    (void)state;
    assert_int_equal(status_in_body(ERROR_NOT_FOUND, "/model"), 422);
    assert_int_equal(status_in_body(ERROR_FORBIDDEN, "/model"), 422);
    assert_int_equal(status_in_body(ERROR_OUT_OF_RANGE, "/seed"), 422);
    assert_int_equal(status_in_body(ERROR_OUT_OF_MEMORY, "/model"), 422);
    assert_int_equal(status_in_body(ERROR_MALFORMED_JSON, ""), 400);
    assert_int_equal(status_in_body(ERROR_DUPLICATE_KEY, "/model"), 400);
    assert_int_equal(status_in_body(ERROR_MALFORMED_JSON, "config.json"), 422);
    assert_int_equal(status_in_body(ERROR_TOO_LARGE, ""), 413);
    assert_int_equal(status_in_body(ERROR_TOO_LARGE, "tokenizer.json"), 422);
    assert_int_equal(status_in_body(ERROR_UNAVAILABLE, ""), 503);
    assert_int_equal(status_in_body(ERROR_INTERNAL, ""), 500);
}

static void pointers_become_dotted_names(void **state)
{
    (void)state;
    char param[32];
    problem_param("/target/sparsity", param, sizeof param);
    assert_string_equal(param, "target.sparsity");
    problem_param("/a~1b/c~0d", param, sizeof param);
    assert_string_equal(param, "a/b.c~d");
    problem_param("limit", param, sizeof param);
    assert_string_equal(param, "limit");
    problem_param("/0123456789", param, 5);
    assert_string_equal(param, "0123");
}

static void one_body_serves_both_readers(void **state)
{
    (void)state;
    struct error items[2] = {{0}};
    (void)error_set_field(&items[0], ERROR_OUT_OF_RANGE, "/target/sparsity", "must be in (0,1)");
    (void)error_set_field(&items[1], ERROR_UNKNOWN_FIELD, "/foo", "no such field");
    JSON_OWNED body = problem_body(422, items, 2, 2, "/v1/pruning/jobs", "req_1");
    assert_string_equal(text_at(body, "type"), "/docs/problems/out-of-range");
    assert_string_equal(text_at(body, "detail"), "target.sparsity: must be in (0,1)");
    assert_string_equal(text_at(body, "instance"), "/v1/pruning/jobs");
    assert_string_equal(text_at(body, "request_id"), "req_1");
    assert_int_equal(json_integer_value(json_object_get(body, "status")), 422);
    const json_t *error = json_object_get(body, "error");
    assert_string_equal(text_at(error, "type"), "invalid_request_error");
    assert_string_equal(text_at(error, "param"), "target.sparsity");
    assert_string_equal(text_at(error, "code"), "out_of_range");
    const json_t *second = json_array_get(json_object_get(body, "errors"), 1);
    assert_string_equal(text_at(second, "pointer"), "#/foo");
    assert_null(json_object_get(body, "errors_total"));
}

static void what_failed_inside_stays_inside(void **state)
{
    (void)state;
    struct error item = {0};
    (void)error_set_field(&item, ERROR_IO, "/var/lib/pruned/blobs", "secret path");
    JSON_OWNED body = problem_body(500, &item, 1, 70, "/", "req_1");
    char *text = json_format(body, false);
    assert_null(strstr(text, "secret"));
    free(text);
    assert_int_equal(json_integer_value(json_object_get(body, "errors_total")), 70);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_has_a_status_and_a_title),
        cmocka_unit_test(faults_of_a_body_are_unprocessable),
        cmocka_unit_test(pointers_become_dotted_names),
        cmocka_unit_test(one_body_serves_both_readers),
        cmocka_unit_test(what_failed_inside_stays_inside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
