/* tests/unit/base/cancel_test.c: the cancel flag, and the clocks. */
#include "base/cancel.h"
#include "base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <cmocka.h>

static void no_flag_and_no_request_mean_go_on(void **state)
{
    (void)state;
    struct cancel cancel = {0};
    assert_true(cancel_check(NULL, NULL));
    assert_true(cancel_check_now(NULL, NULL));
    assert_true(cancel_check(&cancel, NULL));
    assert_true(cancel_check_now(&cancel, NULL));
}

static void a_drain_stops_at_resume_points_only(void **state)
{
    (void)state;
    struct cancel cancel = {0};
    struct error error = {0};
    cancel_request(&cancel, CANCEL_DRAIN);
    assert_true(cancel_check_now(&cancel, &error));
    assert_false(cancel_check(&cancel, &error));
    assert_int_equal(error.code, ERROR_DRAINED);
}

static void a_cancel_stops_everything_and_is_never_taken_back(void **state)
{
    (void)state;
    struct cancel cancel = {0};
    struct error error = {0};
    cancel_request(&cancel, CANCEL_DRAIN);
    cancel_request(&cancel, CANCEL_NOW);
    cancel_request(&cancel, CANCEL_DRAIN);
    cancel_request(&cancel, CANCEL_NONE);
    assert_false(cancel_check_now(&cancel, &error));
    assert_int_equal(error.code, ERROR_CANCELLED);
    error = (struct error){0};
    assert_false(cancel_check(&cancel, &error));
    assert_int_equal(error.code, ERROR_CANCELLED);
}

static void the_system_clock_tells_the_time_and_never_goes_back(void **state)
{
    (void)state;
    time_t now = time(NULL);
    int64_t wall_ms = clock_wall_ms(&clock_system);
    assert_true(wall_ms >= (int64_t)now * 1000 - 2000 && wall_ms <= (int64_t)now * 1000 + 5000);
    int64_t last = clock_boot_ns(&clock_system);
    for (int i = 0; i < 1000; i++) {
        int64_t next = clock_boot_ns(&clock_system);
        assert_true(next >= last);
        last = next;
    }
}

static int64_t fixed_time(void *context)
{
    return *(int64_t *)context;
}

static void a_test_can_own_the_time(void **state)
{
    (void)state;
    int64_t now = 5000000;
    const struct clock_source clock = {.wall_ms = fixed_time, .boot_ns = fixed_time, .context = &now};
    assert_int_equal(clock_wall_ms(&clock), 5000000);
    now = 7999999;
    assert_int_equal(clock_boot_ns(&clock), 7999999);
    assert_int_equal(clock_boot_ms(&clock), 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_flag_and_no_request_mean_go_on),
        cmocka_unit_test(a_drain_stops_at_resume_points_only),
        cmocka_unit_test(a_cancel_stops_everything_and_is_never_taken_back),
        cmocka_unit_test(the_system_clock_tells_the_time_and_never_goes_back),
        cmocka_unit_test(a_test_can_own_the_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
