/* tests/unit/base/log_test.c: what a line looks like, read back through a pipe in place of stderr. */
#include "base/json.h"
#include "base/log.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static int pipe_ends[2], real_stderr;

static int redirect(void **state)
{
    (void)state;
    real_stderr = dup(STDERR_FILENO);
    return pipe(pipe_ends) == 0 && dup2(pipe_ends[1], STDERR_FILENO) >= 0 ? 0 : 1;
}

static int restore(void **state)
{
    (void)state;
    int result = dup2(real_stderr, STDERR_FILENO);
    (void)close(pipe_ends[0]);
    (void)close(pipe_ends[1]);
    (void)close(real_stderr);
    return result >= 0 ? 0 : 1;
}

/* One read returns one line: it was written by one write. */
static void read_line(char *line, size_t size)
{
    ssize_t got = read(pipe_ends[0], line, size - 1);
    assert_true(got > 0);
    line[got] = '\0';
}

static void a_line_is_one_json_object_with_its_fields(void **state)
{
    (void)state;
    char line[1000];
    log_start("pruned-worker", LOG_INFO, LOG_FORMAT_JSON);
    log_info("job \"started\"\n", LOG_TEXT("job_id", "job_1"), LOG_I64("epoch", 3), LOG_DOUBLE("ratio", 0.25),
             LOG_TEXT("file", "a\xFF"), LOG_TEXT("none", NULL), LOG_DOUBLE("nan", (double)NAN));
    read_line(line, sizeof line);
    assert_ptr_equal(strchr(line, '\n'), line + strlen(line) - 1);
    JSON_OWNED json = json_parse(line, strlen(line), 1000, NULL);
    assert_non_null(json);
    assert_string_equal(json_string_value(json_object_get(json, "level")), "info");
    assert_string_equal(json_string_value(json_object_get(json, "program")), "pruned-worker");
    assert_string_equal(json_string_value(json_object_get(json, "msg")), "job \"started\"\n");
    assert_string_equal(json_string_value(json_object_get(json, "job_id")), "job_1");
    assert_int_equal(json_integer_value(json_object_get(json, "epoch")), 3);
    assert_true(json_real_value(json_object_get(json, "ratio")) > 0.24);
    assert_string_equal(json_string_value(json_object_get(json, "file")), "a\xEF\xBF\xBD");
    assert_true(json_is_null(json_object_get(json, "none")));
    assert_true(json_is_null(json_object_get(json, "nan")));
    const char *stamp = json_string_value(json_object_get(json, "ts"));
    int year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0, ms = 0;
    assert_int_equal(
        sscanf(stamp, "%4d-%2d-%2dT%2d:%2d:%2d.%3dZ", &year, &month, &day, &hour, &minute, &second, &ms), 7);
    assert_int_equal(strlen(stamp), 24);
    assert_true(year >= 2024);
}

static void lines_below_the_least_level_are_not_written(void **state)
{
    (void)state;
    char line[1000];
    log_start("pruned", LOG_WARNING, LOG_FORMAT_JSON);
    log_debug("no");
    log_info("no");
    log_error("yes");
    read_line(line, sizeof line);
    assert_non_null(strstr(line, "\"level\":\"error\",\"program\":\"pruned\",\"msg\":\"yes\"}"));
}

static void the_text_form_is_for_people(void **state)
{
    (void)state;
    char line[1000];
    log_start("pruned", LOG_DEBUG, LOG_FORMAT_TEXT);
    log_debug("listening", LOG_TEXT("address", "127.0.0.1:80"), LOG_I64("threads", 2));
    read_line(line, sizeof line);
    assert_string_equal(line, "DEBUG listening address=\"127.0.0.1:80\" threads=2\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_line_is_one_json_object_with_its_fields, redirect, restore),
        cmocka_unit_test_setup_teardown(lines_below_the_least_level_are_not_written, redirect, restore),
        cmocka_unit_test_setup_teardown(the_text_form_is_for_people, redirect, restore),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
