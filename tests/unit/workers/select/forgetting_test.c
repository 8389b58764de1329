/* Forgetting: histories of right and wrong visits. */
#include "workers/select/forgetting.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static double forgetting_of(const char *series)
{
    struct forgetting forgetting = {0};
    for (; *series != '\0'; series++) {
        forgetting_add(&forgetting, *series == '1');
    }
    return forgetting_score(&forgetting);
}

static void falls_count_and_never_right_is_hardest(void **state)
{
    (void)state;
    assert_true(forgetting_of("011010") == 2);
    assert_true(forgetting_of("111") == 0);
    assert_true(isinf(forgetting_of("000")) && isinf(forgetting_of("")));
    assert_true(forgetting_of("0001") == 0);
    assert_true(forgetting_of("10") == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(falls_count_and_never_right_is_hardest)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
