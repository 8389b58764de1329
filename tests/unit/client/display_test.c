/* client/display.c: bars, durations, and what a status means for an exit code. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "client/client.h"
#include <math.h>
#include <string.h>

static void a_bar_is_as_full_as_its_ratio(void **state)
{
    (void)state;
    char bar[64];
    assert_string_equal(display_bar(0, bar), "[------------------------------]");
    assert_string_equal(display_bar(0.5, bar), "[###############---------------]");
    assert_string_equal(display_bar(1, bar), "[##############################]");
    assert_string_equal(display_bar(7, bar), "[##############################]");
    assert_string_equal(display_bar(-1, bar), "[------------------------------]");
    assert_string_equal(display_bar((double)NAN, bar), "[------------------------------]");
}

static void durations_are_short_words(void **state)
{
    (void)state;
    char text[32];
    assert_string_equal(display_seconds(0, text), "0s");
    assert_string_equal(display_seconds(59.4, text), "59s");
    assert_string_equal(display_seconds(330, text), "5m 30s");
    assert_string_equal(display_seconds(7500, text), "2h 05m");
    assert_string_equal(display_seconds(-3, text), "0s");
}

static void the_exit_code_tells_how_a_job_ended(void **state)
{
    (void)state;
    bool is_terminal = false;
    assert_int_equal(client_exit_of("succeeded", &is_terminal), 0);
    assert_true(is_terminal);
    assert_int_equal(client_exit_of("failed", &is_terminal), 1);
    assert_true(is_terminal);
    assert_int_equal(client_exit_of("cancelled", &is_terminal), 3);
    assert_true(is_terminal);
    (void)client_exit_of("cancelling", &is_terminal);
    assert_false(is_terminal);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bar_is_as_full_as_its_ratio),
        cmocka_unit_test(durations_are_short_words),
        cmocka_unit_test(the_exit_code_tells_how_a_job_ended),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
