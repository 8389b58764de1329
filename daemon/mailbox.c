/* daemon/mailbox.c: see mailbox.h. */
#include "daemon/mailbox.h"
#include <stddef.h>

/* What waits now, and no more: a letter that a delivery posts wakes the loop again (its send comes after ours was taken), so
 * letters that answer letters cannot keep the loop from its sockets and children. */
static void deliver_waiting(struct mailbox *mailbox)
{
    pthread_mutex_lock(&mailbox->lock);
    struct letter *letter = mailbox->first;
    mailbox->first = mailbox->last = NULL;
    pthread_mutex_unlock(&mailbox->lock);
    while (letter != NULL) {
        struct letter *next = letter->next; /* deliver frees its letter */
        letter->deliver(letter);
        letter = next;
    }
}

static void on_async(uv_async_t *async)
{
    deliver_waiting(async->data);
}

bool mailbox_open(struct mailbox *mailbox, uv_loop_t *loop, struct error *error)
{
    int status = uv_async_init(loop, &mailbox->async, on_async);
    if (status != 0) {
        return error_set(error, ERROR_IO, "uv_async_init: %s", uv_strerror(status));
    }
    mailbox->async.data = mailbox;
    mailbox->first = mailbox->last = NULL;
    mailbox->is_closed = false;
    pthread_mutex_init(&mailbox->lock, NULL);
    return true;
}

bool mailbox_post(struct mailbox *mailbox, struct letter *letter)
{
    pthread_mutex_lock(&mailbox->lock);
    bool posted = !mailbox->is_closed;
    if (posted) {
        letter->next = NULL;
        if (mailbox->last == NULL) {
            mailbox->first = letter;
        } else {
            mailbox->last->next = letter;
        }
        mailbox->last = letter;
        /* Under the lock, so that the handle cannot be closed between the check and the send. */
        (void)uv_async_send(&mailbox->async);
    }
    pthread_mutex_unlock(&mailbox->lock);
    return posted;
}

void mailbox_close(struct mailbox *mailbox)
{
    deliver_waiting(mailbox);
    pthread_mutex_lock(&mailbox->lock);
    mailbox->is_closed = true;
    pthread_mutex_unlock(&mailbox->lock);
    deliver_waiting(mailbox); /* what slipped in between */
    uv_close((uv_handle_t *)&mailbox->async, NULL);
}
