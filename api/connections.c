/*
 * api/connections.c: the table of accepted sockets, and its reaper. libmicrohttpd's timeout counts inactivity
 * only: a client that sends one byte a second would hold its place for ever. So each connection has a phase,
 * and a phase has a total deadline:
 *
 *   first request's header    10 s after the accept
 *   between requests          30 s (an idle keep-alive and a dripped header look alike from here)
 *   body                      at least 1 KiB/s over each 30 s
 *   answering                 none of ours; MHD's inactivity timeout guards the sending
 *
 * A client that leaves in the middle of its header or body is cut too, within two seconds: when the last bytes and the end
 * arrive together, libmicrohttpd 0.9.75 (epoll is edge-triggered) reads the bytes and never hears of the end. A half-closed
 * client whose request is whole is answered as usual.
 *
 * Cutting is shutdown(2): MHD then sees the end and closes in its own thread. NOTIFY_CONNECTION's end comes
 * before close(2), so an fd in the table is always ours.
 */
#include "api/api_internal.h"
#include "base/memory.h"
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define HEADER_LIMIT_MS   10000
#define IDLE_LIMIT_MS     30000
#define BODY_WINDOW_MS    30000
#define BODY_WINDOW_BYTES (30u * 1024u)

void connections_notify(void *context, struct MHD_Connection *connection, void **peer,
                        enum MHD_ConnectionNotificationCode code)
{
    struct api *api = context;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        struct api_connection *added = memory_create(1, sizeof *added);
        added->fd = info != NULL ? info->connect_fd : -1;
        atomic_init(&added->phase, PHASE_FIRST);
        atomic_init(&added->phase_since_ms, clock_boot_ms(&clock_system));
        atomic_init(&added->phase_bytes, 0);
        (void)pthread_mutex_lock(&api->lock);
        added->next = api->connections;
        if (api->connections != NULL) {
            api->connections->previous = added;
        }
        api->connections = added;
        api->connection_count++;
        (void)pthread_mutex_unlock(&api->lock);
        *peer = added;
        return;
    }
    struct api_connection *removed = *peer;
    if (removed == NULL) {
        return;
    }
    (void)pthread_mutex_lock(&api->lock);
    if (removed->previous != NULL) {
        removed->previous->next = removed->next;
    } else {
        api->connections = removed->next;
    }
    if (removed->next != NULL) {
        removed->next->previous = removed->previous;
    }
    api->connection_count--;
    (void)pthread_mutex_unlock(&api->lock);
    *peer = NULL;
    free(removed);
}

void connection_set_phase(struct api_connection *peer, enum connection_phase phase)
{
    if (peer != NULL) {
        atomic_store(&peer->phase_since_ms, clock_boot_ms(&clock_system));
        atomic_store(&peer->phase_bytes, 0);
        atomic_store(&peer->phase, (int)phase);
    }
}

static bool is_too_slow(struct api_connection *peer, int64_t now_ms)
{
    int64_t elapsed_ms = now_ms - atomic_load(&peer->phase_since_ms);
    switch ((enum connection_phase)atomic_load(&peer->phase)) {
    case PHASE_FIRST:
        return elapsed_ms > HEADER_LIMIT_MS;
    case PHASE_IDLE:
        return elapsed_ms > IDLE_LIMIT_MS;
    case PHASE_BODY:
        if (elapsed_ms <= BODY_WINDOW_MS) {
            return false;
        }
        atomic_store(&peer->phase_since_ms, now_ms);
        return atomic_exchange(&peer->phase_bytes, 0) < BODY_WINDOW_BYTES;
    case PHASE_BUSY:
        break;
    }
    return false;
}

/* No more will come, and nothing of what came is unread: a request that is not whole by now never will be. True at the
 * second look in a row, so that bytes which are just being read do not count. */
static bool has_left(struct api_connection *peer)
{
    struct pollfd poller = {.fd = peer->fd, .events = POLLRDHUP};
    int unread_bytes = 0;
    bool before = peer->has_hung_up;
    peer->has_hung_up = atomic_load(&peer->phase) != PHASE_BUSY && poll(&poller, 1, 0) == 1 &&
                        (poller.revents & POLLRDHUP) != 0 && ioctl(peer->fd, FIONREAD, &unread_bytes) == 0 &&
                        unread_bytes == 0;
    return before && peer->has_hung_up;
}

void connections_reap(struct api *api, int64_t now_ms)
{
    (void)pthread_mutex_lock(&api->lock);
    for (struct api_connection *peer = api->connections; peer != NULL; peer = peer->next) {
        bool is_slow = peer->fd >= 0 && is_too_slow(peer, now_ms);
        if (is_slow) {
            (void)atomic_fetch_add(&api->reaped_connections, 1);
        }
        if (is_slow || (peer->fd >= 0 && has_left(peer))) {
            (void)shutdown(peer->fd, SHUT_RDWR);
        }
    }
    (void)pthread_mutex_unlock(&api->lock);
}
