/* Unit tests of api/target.c and api/route.c: from the raw target to a row of routes.def. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "api/route.h"

static struct route_match find(const char *raw, enum http_method method)
{
    struct target target;
    struct error error = {0};
    assert_true(target_parse(raw, &target, &error));
    struct route_match match = route_find(&target, method);
    target_finish(&target);
    return match;
}

static void check_route(const char *raw, enum http_method method, enum route_id id)
{
    struct route_match match = find(raw, method);
    assert_non_null(match.route);
    assert_int_equal(match.route->id, id);
}

static void check_refused(const char *raw)
{
    struct target target;
    struct error error = {0};
    assert_false(target_parse(raw, &target, &error));
    assert_int_equal(error.code, ERROR_INVALID_ARGUMENT);
    assert_null(target.bytes);
}

static void each_row_is_found_by_its_own_pattern(void **state)
{
    (void)state;
    for (unsigned id = 0; id < ROUTE_COUNT; id++) {
        const struct route *route = route_get((enum route_id)id);
        char path[128] = "";
        for (const char *byte = route->pattern; *byte != '\0'; byte++) {
            bool is_tail = strncmp(byte, "{...}", 5) == 0,
                 is_variable = is_tail || strncmp(byte, "{}", 2) == 0;
            if (is_variable) {
                strcat(path, is_tail ? "a/b.c" : "x");
                byte += is_tail ? 4 : 1;
            } else {
                strncat(path, byte, 1);
            }
        }
        check_route(path, route->method, (enum route_id)id);
    }
}

static void head_is_answered_where_get_is(void **state)
{
    (void)state;
    check_route("/livez", HTTP_HEAD, ROUTE_LIVEZ);
    check_route("/v1/jobs/j/artifacts/a/b", HTTP_HEAD, ROUTE_JOB_ARTIFACT);
}

static void a_known_path_tells_its_methods_and_an_unknown_one_nothing(void **state)
{
    (void)state;
    char allow[64];
    struct route_match match = find("/v1/pruning/jobs", HTTP_DELETE);
    assert_null(match.route);
    route_format_allow(match.allow, allow, sizeof allow);
    assert_string_equal(allow, "GET, HEAD, POST");
    match = find("/v1/jobs/x", HTTP_PUT);
    route_format_allow(match.allow, allow, sizeof allow);
    assert_string_equal(allow, "GET, HEAD, DELETE");
    static const char *const unknown[] = {"/v1",
                                          "/v1/job",
                                          "/v1/jobs/",
                                          "//livez",
                                          "/livez/",
                                          "/v1/jobs//events",
                                          "/v1/jobs/x/artifacts/",
                                          "/v1/models/",
                                          "/v1/jobs/x/y"};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        match = find(unknown[i], HTTP_GET);
        assert_null(match.route);
        assert_int_equal(match.allow, 0);
    }
}

static void variables_point_at_their_segments(void **state)
{
    (void)state;
    struct route_match match = find("/v1/jobs/job_1/artifacts/sub/file.json", HTTP_GET);
    assert_int_equal(match.first_variable, 2);
    assert_int_equal(match.second_variable, 4);
}

static void targets_are_decoded_once(void **state)
{
    (void)state;
    struct target target;
    assert_true(target_parse("/a%20b/c%2525?x=1+2&y=%26&z&w=", &target, NULL));
    assert_int_equal(target.segment_count, 2);
    assert_string_equal(target.segments[0], "a b");
    assert_string_equal(target.segments[1], "c%25");
    assert_string_equal(target_find_query(&target, "x"), "1 2");
    assert_string_equal(target_find_query(&target, "y"), "&");
    assert_string_equal(target_find_query(&target, "z"), "");
    assert_string_equal(target_find_query(&target, "w"), "");
    assert_null(target_find_query(&target, "v"));
    target_finish(&target);
    assert_true(target_parse("/", &target, NULL));
    assert_int_equal(target.segment_count, 0);
    target_finish(&target);
}

static void hostile_targets_are_refused(void **state)
{
    (void)state;
    static const char *const raws[] = {"",
                                       "x",
                                       "*",
                                       "http://evil/",
                                       "/%00",
                                       "/x%00y",
                                       "/%",
                                       "/%4",
                                       "/%zz",
                                       "/%0a",
                                       "/%7f",
                                       "/a%2fb",
                                       "/a%5cb",
                                       "/..",
                                       "/a/../b",
                                       "/%2e%2e/x",
                                       "/.",
                                       "/a b",
                                       "/\x80",
                                       "/%ff",
                                       "/%c0%af",
                                       "/#x",
                                       "/?a=%00",
                                       "/?a=1&a=2",
                                       "/?a=%x",
                                       "/1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/17/18/19/20/21/22/23/24/25",
                                       "/?1&2&3&4&5&6&7&8&9&10&11&12&13&14&15&16&17"};
    for (size_t i = 0; i < sizeof raws / sizeof *raws; i++) {
        check_refused(raws[i]);
    }
}

static void only_listed_query_parameters_are_taken(void **state)
{
    (void)state;
    const struct route *route = route_get(ROUTE_LIST_JOBS);
    assert_true(route_takes_query(route, "after"));
    assert_true(route_takes_query(route, "method"));
    assert_false(route_takes_query(route, "aft"));
    assert_false(route_takes_query(route, "after limit"));
    assert_false(route_takes_query(route, ""));
    assert_false(route_takes_query(route_get(ROUTE_LIVEZ), "x"));
}

static void methods_are_case_sensitive(void **state)
{
    (void)state;
    assert_int_equal(http_method_parse("GET"), HTTP_GET);
    assert_int_equal(http_method_parse("get"), HTTP_OTHER);
    assert_int_equal(http_method_parse("PATCH"), HTTP_OTHER);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_row_is_found_by_its_own_pattern),
        cmocka_unit_test(head_is_answered_where_get_is),
        cmocka_unit_test(a_known_path_tells_its_methods_and_an_unknown_one_nothing),
        cmocka_unit_test(variables_point_at_their_segments),
        cmocka_unit_test(targets_are_decoded_once),
        cmocka_unit_test(hostile_targets_are_refused),
        cmocka_unit_test(only_listed_query_parameters_are_taken),
        cmocka_unit_test(methods_are_case_sensitive),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
