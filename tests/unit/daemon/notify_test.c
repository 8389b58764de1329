/* daemon/notify.c: what a supervisor hears, and what it hands over. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/notify.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int listen_at(struct sockaddr_un *address, socklen_t length)
{
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)address, length), 0);
    return fd;
}

static void hears(int fd, const char *expected)
{
    char bytes[256] = "";
    ssize_t count = recv(fd, bytes, sizeof bytes - 1, 0);
    assert_int_equal(count, strlen(expected));
    assert_string_equal(bytes, expected);
}

static void a_supervisor_at_a_path_hears_every_word(void **state)
{
    (void)state;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)snprintf(address.sun_path, sizeof address.sun_path, "/tmp/pruned_notify_%d", (int)getpid());
    int fd = listen_at(&address, sizeof address);
    assert_int_equal(setenv("NOTIFY_SOCKET", address.sun_path, 1), 0);
    notify_send("READY=1\nSTATUS=%d running", 3);
    hears(fd, "READY=1\nSTATUS=3 running");
    (void)close(fd);
    (void)unlink(address.sun_path);
    notify_send("WATCHDOG=1"); /* nobody is there any more, and that is fine */
}

static void a_supervisor_with_an_abstract_name_hears_too(void **state)
{
    (void)state;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int length =
        snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "pruned_notify_%d", (int)getpid());
    int fd = listen_at(&address, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length));
    char name[128];
    (void)snprintf(name, sizeof name, "@%s", address.sun_path + 1);
    assert_int_equal(setenv("NOTIFY_SOCKET", name, 1), 0);
    notify_send("STOPPING=1");
    hears(fd, "STOPPING=1");
    (void)close(fd);
    (void)unsetenv("NOTIFY_SOCKET");
}

static void the_watchdog_is_fed_twice_as_often_as_asked(void **state)
{
    (void)state;
    (void)unsetenv("WATCHDOG_PID");
    (void)unsetenv("WATCHDOG_USEC");
    assert_int_equal(notify_watchdog_ms(), 0);
    assert_int_equal(setenv("WATCHDOG_USEC", "30000000", 1), 0);
    assert_int_equal(notify_watchdog_ms(), 15000);
    assert_int_equal(setenv("WATCHDOG_PID", "1", 1), 0);
    assert_int_equal(notify_watchdog_ms(), 0);
}

static void a_listening_socket_is_taken_only_if_it_is_meant_for_us(void **state)
{
    (void)state;
    char pid[16];
    (void)snprintf(pid, sizeof pid, "%d", (int)getpid());
    assert_int_equal(notify_listen_fd(), -1);
    assert_int_equal(setenv("LISTEN_FDS", "1", 1), 0);
    assert_int_equal(setenv("LISTEN_PID", "1", 1), 0);
    assert_int_equal(notify_listen_fd(), -1);
    assert_int_equal(setenv("LISTEN_FDS", "1", 1), 0);
    assert_int_equal(setenv("LISTEN_PID", pid, 1), 0);
    assert_int_equal(notify_listen_fd(), 3);
    assert_null(getenv("LISTEN_FDS"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_supervisor_at_a_path_hears_every_word),
        cmocka_unit_test(a_supervisor_with_an_abstract_name_hears_too),
        cmocka_unit_test(the_watchdog_is_fed_twice_as_often_as_asked),
        cmocka_unit_test(a_listening_socket_is_taken_only_if_it_is_meant_for_us),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
