/*
 * daemon/notify.h: what systemd is told and what it hands us, without its library. Datagrams to
 * $NOTIFY_SOCKET (a path or an abstract name); descriptors 3.. by $LISTEN_FDS. Outside systemd all of it does
 * nothing.
 */
#ifndef DAEMON_NOTIFY_H
#define DAEMON_NOTIFY_H

#include "base/error.h"
#include <stdint.h>

/* One datagram, "READY=1\nSTATUS=..." (see sd_notify(3)). Never fails: a supervisor that went away is its own
 * fault. */
void notify_send(const char *format, ...) PRINTF(1, 2);
/* How often WATCHDOG=1 is due, half of $WATCHDOG_USEC; 0: nobody asks. */
int64_t notify_watchdog_ms(void);
/* The listening socket of our .socket unit, close-on-exec; -1 if there is none. Clears the variables. */
int notify_listen_fd(void);

#endif
