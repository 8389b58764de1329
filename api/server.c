/*
 * api/server.c: start, tick, drain, stop. Two MHD threads with an epoll set each do all the work; one thread
 * of ours, the ticker, ends long polls at their deadline and cuts slow connections once a second.
 */
#include "api/api_internal.h"
#include "base/check.h"
#include "base/log.h"
#include "base/memory.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define THREAD_COUNT           2u
#define STACK_BYTES            (1024u * 1024u) /* jansson parses by recursion, 64 levels at most */
#define MEMORY_PER_CONNECTION  (32u * 1024u)
#define INACTIVITY_SECONDS     60u
#define STOP_LIMIT_MS          10000
#define CONNECTIONS_AT_MOST    16384u
#define DESCRIPTORS_FOR_OTHERS 128u

/* ---- the listening socket ------------------------------------------------------------------------------- */

static bool parse_address(const char *address, uint16_t port, struct sockaddr_storage *ret_address,
                          socklen_t *ret_length)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    if (address == NULL || strcmp(address, "localhost") == 0) {
        address = "127.0.0.1";
    }
    if (inet_pton(AF_INET, address, &v4.sin_addr) == 1) {
        memcpy(ret_address, &v4, sizeof v4);
        *ret_length = sizeof v4;
        return true;
    }
    if (inet_pton(AF_INET6, address, &v6.sin6_addr) == 1) {
        memcpy(ret_address, &v6, sizeof v6);
        *ret_length = sizeof v6;
        return true;
    }
    return false;
}

static bool listen_at(const struct api_options *options, int *ret_fd, struct error *error)
{
    struct sockaddr_storage address;
    socklen_t length = 0;
    int yes = 1;
    const char *name = options->address != NULL ? options->address : "127.0.0.1";
    if (!parse_address(name, options->port, &address, &length)) {
        return error_set_field(error, ERROR_INVALID_ARGUMENT, "listen", "\"%.100s\" is no IP address", name);
    }
    int fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return error_set_errno(error, errno, "cannot make a socket");
    }
    bool is_listening = setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) == 0 &&
                        bind(fd, (const struct sockaddr *)&address, length) == 0 && listen(fd, 1024) == 0;
    if (!is_listening) {
        int cause = errno;
        (void)close(fd);
        return error_set_errno(error, cause, "cannot listen at %s port %u", name, (unsigned)options->port);
    }
    *ret_fd = fd;
    return true;
}

static uint16_t port_of(int fd)
{
    struct sockaddr_storage address;
    socklen_t length = sizeof address;
    memset(&address, 0, sizeof address);
    if (getsockname(fd, (struct sockaddr *)&address, &length) != 0) {
        return 0;
    }
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    memcpy(&v4, &address, sizeof v4);
    memcpy(&v6, &address, sizeof v6);
    return address.ss_family == AF_INET    ? ntohs(v4.sin_port)
           : address.ss_family == AF_INET6 ? ntohs(v6.sin6_port)
                                           : 0;
}

/* ---- callbacks without a home --------------------------------------------------------------------------- */

/* We decode the raw target ourselves (target.h). */
static size_t keep_escapes(void *context, struct MHD_Connection *connection, char *text)
{
    (void)context;
    (void)connection;
    return strlen(text);
}

static void PRINTF(2, 0) log_library(void *context, const char *format, va_list arguments)
{
    (void)context;
    char message[256];
    (void)vsnprintf(message, sizeof message, format, arguments);
    message[strcspn(message, "\n")] = '\0';
    log_debug("libmicrohttpd", LOG_TEXT("detail", message));
}

static void *tick(void *context)
{
    struct api *api = context;
    int64_t next_reap_ns = clock_boot_ns(&clock_system);
    for (;;) {
        int64_t now_ns = clock_boot_ns(&clock_system);
        if (now_ns >= next_reap_ns) {
            connections_reap(api, now_ns / 1000000);
            next_reap_ns = now_ns + 1000000000;
        }
        int64_t next_ns = watch_expire(api, now_ns, false);
        next_ns = next_ns == 0 || next_ns > next_reap_ns ? next_reap_ns : next_ns;
        /* The condition counts on another clock than ours (no suspend): only the distance carries over. */
        int64_t wait_ns = next_ns > now_ns ? next_ns - now_ns : 0;
        struct timespec until;
        (void)clock_gettime(CLOCK_MONOTONIC, &until);
        int64_t until_ns = (int64_t)until.tv_nsec + wait_ns;
        until.tv_sec += (time_t)(until_ns / 1000000000);
        until.tv_nsec = (long)(until_ns % 1000000000);
        (void)pthread_mutex_lock(&api->lock);
        bool is_stopping = api->is_stopping;
        if (!is_stopping) {
            (void)pthread_cond_timedwait(&api->tick_wake, &api->lock, &until);
            is_stopping = api->is_stopping;
        }
        (void)pthread_mutex_unlock(&api->lock);
        if (is_stopping) {
            return NULL;
        }
    }
}

/* ---- start
 * ------------------------------------------------------------------------------------------------------------
 */

static const char **copy_list(const char *const *list)
{
    size_t count = 0;
    while (list != NULL && list[count] != NULL) {
        count++;
    }
    const char **copy = memory_create(count + 1, sizeof *copy);
    for (size_t i = 0; i < count; i++) {
        copy[i] = memory_copy_text(list[i]);
    }
    return copy;
}

static void free_list(const char *const *list)
{
    for (size_t i = 0; list != NULL && list[i] != NULL; i++) {
        free((void *)(uintptr_t)list[i]);
    }
    free((void *)(uintptr_t)list);
}

static void api_destroy(struct api *api)
{
    catalogue_finish(api);
    free_list(api->options.hosts);
    free_list(api->options.roots);
    free((void *)(uintptr_t)api->options.address);
    free((void *)(uintptr_t)api->options.token);
    (void)pthread_cond_destroy(&api->wake);
    (void)pthread_cond_destroy(&api->tick_wake);
    (void)pthread_mutex_destroy(&api->lock);
    free(api);
}

static struct api *api_create(const struct api_options *options)
{
    struct api *api = memory_create(1, sizeof *api);
    pthread_condattr_t attributes;
    unsigned char nonce[4] = {0};
    api->options = *options;
    api->options.hosts = copy_list(options->hosts);
    api->options.roots = copy_list(options->roots);
    api->options.address = memory_copy_text(options->address);
    api->options.token = memory_copy_text(options->token);
    api->listen_fd = options->listen_fd;
    api->started_at_ms = clock_wall_ms(&clock_system);
    CHECK(rng_fill_entropy(nonce, sizeof nonce, NULL));
    (void)snprintf(api->etag_nonce, sizeof api->etag_nonce, "%02x%02x%02x%02x", (unsigned)nonce[0],
                   (unsigned)nonce[1], (unsigned)nonce[2], (unsigned)nonce[3]);
    CHECK(pthread_mutex_init(&api->lock, NULL) == 0);
    CHECK(pthread_condattr_init(&attributes) == 0);
    CHECK(pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) == 0);
    CHECK(pthread_cond_init(&api->wake, &attributes) == 0);
    CHECK(pthread_cond_init(&api->tick_wake, &attributes) == 0);
    (void)pthread_condattr_destroy(&attributes);
    return api;
}

static unsigned connection_limit(void)
{
    struct rlimit limit;
    rlim_t count = 1024;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        count = limit.rlim_cur;
    }
    count = count > 2 * DESCRIPTORS_FOR_OTHERS ? count - DESCRIPTORS_FOR_OTHERS : DESCRIPTORS_FOR_OTHERS;
    count /= 2; /* a download holds a second descriptor */
    return count < CONNECTIONS_AT_MOST ? (unsigned)count : CONNECTIONS_AT_MOST;
}

/* Once the API stops, a new client is turned away at once. MHD_quiesce_daemon would leave it in the backlog, but in
 * libmicrohttpd 0.9.75 it races its own threads for the listening socket and aborts ("Failed to remove listen FD"). */
static enum MHD_Result may_accept(void *context, const struct sockaddr *address, socklen_t address_bytes)
{
    struct api *api = context;
    (void)address;
    (void)address_bytes;
    return atomic_load(&api->refuses_clients) ? MHD_NO : MHD_YES;
}

static bool start_daemon(struct api *api, struct error *error)
{
    unsigned flags =
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_ITC | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    api->daemon = MHD_start_daemon(
        flags, 0, may_accept, api, intake_continue, api, MHD_OPTION_EXTERNAL_LOGGER, log_library, NULL,
        MHD_OPTION_LISTEN_SOCKET, api->listen_fd, MHD_OPTION_THREAD_POOL_SIZE, THREAD_COUNT,
        MHD_OPTION_THREAD_STACK_SIZE, (size_t)STACK_BYTES, MHD_OPTION_CONNECTION_LIMIT, connection_limit(),
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)MEMORY_PER_CONNECTION, MHD_OPTION_CONNECTION_TIMEOUT,
        INACTIVITY_SECONDS, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_UNESCAPE_CALLBACK, keep_escapes, NULL,
        MHD_OPTION_URI_LOG_CALLBACK, intake_begin, api, MHD_OPTION_NOTIFY_COMPLETED, intake_complete, api,
        MHD_OPTION_NOTIFY_CONNECTION, connections_notify, api, MHD_OPTION_END);
    if (api->daemon == NULL) {
        return error_set(error, ERROR_IO, "cannot start the HTTP server");
    }
    return true;
}

bool api_start(const struct api_options *options, struct api **ret_api, struct error *error)
{
    struct api *api = api_create(options);
    if (!catalogue_start(api, error) || (api->listen_fd < 0 && !listen_at(options, &api->listen_fd, error))) {
        api_destroy(api);
        return false;
    }
    api->port = port_of(api->listen_fd);
    if (!start_daemon(api, error)) {
        (void)close(api->listen_fd);
        api_destroy(api);
        return false;
    }
    if (pthread_create(&api->ticker, NULL, tick, api) != 0) {
        (void)error_set(error, ERROR_IO, "cannot start a thread");
        api_stop(api);
        return false;
    }
    api->has_ticker = true;
    *ret_api = api;
    return true;
}

uint16_t api_port(const struct api *api)
{
    return api->port;
}

void api_notify(struct api *api, struct job *job)
{
    watch_notify(api, job);
}

void api_drain(struct api *api)
{
    atomic_store(&api->is_draining, true);
}

/* ---- stop ----------------------------------------------------------------------------------------------- */

/* Under the lock: waits until *count is zero or the time is up. */
static void wait_for_none(struct api *api, const size_t *count, const struct timespec *until)
{
    int status = 0;
    while (*count > 0 && status == 0) {
        status = pthread_cond_timedwait(&api->wake, &api->lock, until);
    }
}

/* Answers what is still suspended: MHD must not be stopped before each is resumed. */
static void refuse_suspended(struct api *api)
{
    for (;;) {
        (void)pthread_mutex_lock(&api->lock);
        struct request *request = api->suspended != NULL ? request_acquire(api->suspended) : NULL;
        (void)pthread_mutex_unlock(&api->lock);
        if (request == NULL) {
            return;
        }
        struct error error = {0};
        (void)error_set(&error, ERROR_UNAVAILABLE, "the service is shutting down; try again in a moment");
        request_answer_error(request, 0, &error);
        request_release(request);
    }
}

void api_stop(struct api *api)
{
    if (api == NULL) {
        return;
    }
    struct timespec until;
    api_drain(api);
    atomic_store(&api->refuses_clients, true);
    (void)pthread_mutex_lock(&api->lock);
    api->is_stopping = true;
    (void)pthread_cond_broadcast(&api->tick_wake);
    (void)pthread_mutex_unlock(&api->lock);
    (void)watch_expire(api, 0, true);
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += STOP_LIMIT_MS / 1000;
    (void)pthread_mutex_lock(&api->lock);
    wait_for_none(api, &api->request_count, &until);
    (void)pthread_mutex_unlock(&api->lock);
    refuse_suspended(api);
    MHD_stop_daemon(api->daemon); /* closes the listening socket */
    if (api->has_ticker) {
        (void)pthread_join(api->ticker, NULL);
    }
    (void)pthread_mutex_lock(&api->lock);
    wait_for_none(api, &api->callback_count, &until);
    size_t still_out = api->callback_count;
    (void)pthread_mutex_unlock(&api->lock);
    if (still_out > 0) { /* the process is about to end: better a leak than a callback into freed memory */
        log_warning("stopped with callbacks outstanding", LOG_I64("count", still_out));
        return;
    }
    api_destroy(api);
}
