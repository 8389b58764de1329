/* tests/unit/daemon/mailbox_test.c: letters from other threads and from deliveries, and a loop that goes on beside them. */
#include "base/memory.h"
#include "daemon/mailbox.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

struct counted { /* a letter that says how often it was sent on */
    struct letter letter;
    struct mailbox *mailbox;
    size_t *delivered;
    bool is_sent_on;
};

static void deliver(struct letter *letter)
{
    struct counted *counted = (struct counted *)letter;
    ++*counted->delivered;
    if (!counted->is_sent_on || !mailbox_post(counted->mailbox, letter)) {
        free(counted);
    }
}

static struct counted *make(struct mailbox *mailbox, size_t *delivered, bool is_sent_on)
{
    struct counted *counted = memory_create(1, sizeof *counted);
    *counted = (struct counted){{.deliver = deliver}, mailbox, delivered, is_sent_on};
    return counted;
}

static void stop_loop(uv_timer_t *timer)
{
    uv_stop(timer->loop);
}

static void letters_that_answer_letters_do_not_keep_the_loop_from_its_timers(void **state)
{
    (void)state;
    uv_loop_t loop;
    uv_timer_t timer;
    struct mailbox mailbox;
    struct error error = {0};
    size_t delivered = 0;
    (void)alarm(30); /* a loop that never comes back ends the test */
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_true(mailbox_open(&mailbox, &loop, &error));
    assert_int_equal(uv_timer_init(&loop, &timer), 0);
    assert_int_equal(uv_timer_start(&timer, stop_loop, 20, 0), 0);
    assert_true(mailbox_post(&mailbox, &make(&mailbox, &delivered, true)->letter));
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    assert_true(delivered > 1);
    mailbox_close(&mailbox); /* refuses the letter's next round, so it is freed */
    uv_close((uv_handle_t *)&timer, NULL);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    (void)alarm(0);
}

struct sender {
    struct mailbox *mailbox;
    size_t *delivered;
};

static void send_many(void *context)
{
    struct sender *sender = context;
    for (size_t i = 0; i < 1000; i++) {
        struct counted *counted = make(sender->mailbox, sender->delivered, false);
        if (!mailbox_post(sender->mailbox, &counted->letter)) {
            free(counted);
        }
    }
}

static void every_letter_of_every_thread_is_delivered_once(void **state)
{
    (void)state;
    uv_loop_t loop;
    struct mailbox mailbox;
    struct error error = {0};
    size_t delivered = 0;
    uv_thread_t threads[4];
    (void)alarm(30);
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_true(mailbox_open(&mailbox, &loop, &error));
    struct sender sender = {&mailbox, &delivered};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(uv_thread_create(&threads[i], send_many, &sender), 0);
    }
    while (delivered < 4000) {
        (void)uv_run(&loop, UV_RUN_ONCE);
    }
    for (size_t i = 0; i < 4; i++) {
        (void)uv_thread_join(&threads[i]);
    }
    mailbox_close(&mailbox);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(delivered, 4000);
    assert_int_equal(uv_loop_close(&loop), 0);
    (void)alarm(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(letters_that_answer_letters_do_not_keep_the_loop_from_its_timers),
        cmocka_unit_test(every_letter_of_every_thread_is_delivered_once),
    };
    return cmocka_run_group_tests_name("daemon/mailbox", tests, NULL, NULL);
}
