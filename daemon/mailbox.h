/*
 * daemon/mailbox.h: letters from any thread to the loop. uv_async_send is the only libuv call that other
 * threads may make, and it coalesces: so letters wait in a list and each wake-up delivers what it finds
 * there, in order of arrival.
 */
#ifndef DAEMON_MAILBOX_H
#define DAEMON_MAILBOX_H

#include "base/error.h"
#include <pthread.h>
#include <stdbool.h>
#include <uv.h>

/* The first member of what is sent. deliver runs on the loop thread, owns the letter and frees it. */
struct letter {
    struct letter *next;
    void (*deliver)(struct letter *letter);
};

struct mailbox {
    uv_async_t async;
    pthread_mutex_t lock;
    struct letter *first, *last; /* guarded by lock */
    bool is_closed;              /* guarded by lock */
};

bool mailbox_open(struct mailbox *mailbox, uv_loop_t *loop, struct error *error) MUST_USE;
/* Any thread. False once the mailbox is closed: the caller keeps the letter. */
bool mailbox_post(struct mailbox *mailbox, struct letter *letter) MUST_USE;
/* Loop thread. Delivers what waits, then refuses. The async handle is closed; run the loop once more after
 * it. */
void mailbox_close(struct mailbox *mailbox);

#endif
