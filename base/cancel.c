/* base/cancel.c: the flag between whoever asks for an end and whoever computes. */
#include "base/cancel.h"

#include <stddef.h>

void cancel_request(struct cancel *cancel, enum cancel_state state)
{
    int seen = atomic_load(&cancel->state);
    while (seen < (int)state && !atomic_compare_exchange_weak(&cancel->state, &seen, (int)state)) {
    }
}

bool cancel_check(const struct cancel *cancel, struct error *error)
{
    int state = cancel != NULL ? atomic_load_explicit(&cancel->state, memory_order_relaxed) : CANCEL_NONE;
    if (state == CANCEL_NOW) {
        return error_set(error, ERROR_CANCELLED, "cancelled on request");
    }
    if (state == CANCEL_DRAIN) {
        return error_set(error, ERROR_DRAINED, "stopped at a checkpoint because the service drains");
    }
    return true;
}

bool cancel_check_now(const struct cancel *cancel, struct error *error)
{
    if (cancel != NULL && atomic_load_explicit(&cancel->state, memory_order_relaxed) == CANCEL_NOW) {
        return error_set(error, ERROR_CANCELLED, "cancelled on request");
    }
    return true;
}
