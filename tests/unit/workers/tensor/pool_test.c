/* tests/unit/workers/tensor/pool_test.c: every task runs once, whoever runs it; cancelling stops between tasks. */
#include "base/memory.h"
#include "workers/tensor/pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct tally {
    atomic_int runs[1000];
    size_t thread_count;
    atomic_bool has_bad_thread;
    struct cancel *cancel;
    size_t cancel_at;
};

static void count_task(void *context, size_t index, size_t thread)
{
    struct tally *tally = context;
    atomic_fetch_add(&tally->runs[index], 1);
    if (thread >= tally->thread_count) {
        atomic_store(&tally->has_bad_thread, true);
    }
    if (tally->cancel != NULL && index == tally->cancel_at) {
        cancel_request(tally->cancel, CANCEL_NOW);
    }
}

static void every_task_runs_once_on_any_number_of_threads(void **state)
{
    (void)state;
    struct tally *tally = memory_create(1, sizeof *tally);
    static const size_t counts[] = {0, 1, 2, 3, 17, 1000};
    for (size_t threads = 1; threads <= 5; threads++) {
        OWNED(pool) pool = pool_create(threads, NULL);
        uint64_t total = 0;
        assert_int_equal(pool_thread_count(pool), threads);
        for (size_t i = 0; i < 60; i++) {
            size_t count = counts[i % 6];
            memset(tally, 0, sizeof *tally);
            tally->thread_count = threads;
            assert_true(pool_run(pool, count, count_task, tally, NULL, NULL));
            for (size_t t = 0; t < 1000; t++) {
                assert_int_equal(atomic_load(&tally->runs[t]), t < count ? 1 : 0);
            }
            assert_false(atomic_load(&tally->has_bad_thread));
            total += count;
        }
        assert_int_equal(pool_finished_count(pool), total);
    }
    free(tally);
}

static void cancelling_stops_between_tasks(void **state)
{
    (void)state;
    struct tally *tally = memory_create(1, sizeof *tally);
    for (size_t threads = 1; threads <= 3; threads++) {
        OWNED(pool) pool = pool_create(threads, NULL);
        struct cancel cancel = {0};
        struct error error = {0};
        memset(tally, 0, sizeof *tally);
        tally->thread_count = threads;
        tally->cancel = &cancel;
        tally->cancel_at = 5;
        assert_false(pool_run(pool, 1000, count_task, tally, &cancel, &error));
        assert_int_equal(error.code, ERROR_CANCELLED);
        assert_int_equal(atomic_load(&tally->runs[0]), 1);
        assert_true(pool_finished_count(pool) < 1000);
        assert_true(pool_run(pool, 3, count_task, tally, NULL, &error)); /* the pool lives on */
    }
    free(tally);
}

static void a_drain_does_not_stop_tasks(void **state)
{
    (void)state;
    OWNED(pool) pool = pool_create(2, NULL);
    struct tally *tally = memory_create(1, sizeof *tally);
    struct cancel cancel = {0};
    tally->thread_count = 2;
    cancel_request(&cancel, CANCEL_DRAIN);
    assert_true(pool_run(pool, 10, count_task, tally, &cancel, NULL));
    free(tally);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_task_runs_once_on_any_number_of_threads),
        cmocka_unit_test(cancelling_stops_between_tasks),
        cmocka_unit_test(a_drain_does_not_stop_tasks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
