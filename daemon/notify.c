/* daemon/notify.c: the readiness protocol and socket activation. See notify.h. */
#include "daemon/notify.h"
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define FIRST_LISTEN_FD 3

void notify_send(const char *format, ...)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (path == NULL || (*path != '/' && *path != '@') || strlen(path) >= sizeof address.sun_path) {
        return;
    }
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    int count = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (count < 0) {
        return;
    }
    size_t length = (size_t)count < sizeof line ? (size_t)count : sizeof line - 1;
    memcpy(address.sun_path, path, strlen(path));
    socklen_t address_length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
    if (*path == '@') {
        address.sun_path[0] = '\0'; /* an abstract name begins with a NUL */
    } else {
        address_length++;
    }
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return;
    }
    (void)sendto(fd, line, length, MSG_NOSIGNAL, (const struct sockaddr *)&address, address_length);
    (void)close(fd);
}

/* A variable as a positive number; 0 if absent or meant for another process. */
static uint64_t variable(const char *name, const char *pid_name)
{
    const char *pid = getenv(pid_name);
    const char *value = getenv(name);
    if (value == NULL || (pid != NULL && strtoull(pid, NULL, 10) != (unsigned long long)getpid())) {
        return 0;
    }
    return strtoull(value, NULL, 10);
}

int64_t notify_watchdog_ms(void)
{
    return (int64_t)(variable("WATCHDOG_USEC", "WATCHDOG_PID") / 2000);
}

int notify_listen_fd(void)
{
    uint64_t count = getenv("LISTEN_PID") != NULL ? variable("LISTEN_FDS", "LISTEN_PID") : 0;
    (void)unsetenv("LISTEN_FDS");
    (void)unsetenv("LISTEN_PID");
    (void)unsetenv("LISTEN_FDNAMES");
    if (count == 0) {
        return -1;
    }
    (void)fcntl(FIRST_LISTEN_FD, F_SETFD, FD_CLOEXEC);
    return FIRST_LISTEN_FD;
}
