/* base/cancel.h: one flag, set once from any thread, polled between tiles. A drain asks for a checkpoint and
 * a clean stop; a cancel for a stop. cancel_check turns it into CANCELLED or DRAINED; NULL means never. */
#ifndef BASE_CANCEL_H
#define BASE_CANCEL_H

#include "base/error.h"
#include <stdatomic.h>

enum cancel_state { CANCEL_NONE, CANCEL_DRAIN, CANCEL_NOW };
struct cancel {
    atomic_int state;
};
void cancel_request(struct cancel *cancel, enum cancel_state state); /* NOW outranks DRAIN */
/* True to go on. Long work polls `cancel_check_now` (ignores drains); steps that end at a resume point
 * `cancel_check`. */
bool cancel_check(const struct cancel *cancel, struct error *error) MUST_USE;
bool cancel_check_now(const struct cancel *cancel, struct error *error) MUST_USE;

#endif
