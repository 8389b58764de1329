/*
 * workers/select/gotd.h: GOT-D, "Get more for less" (arXiv 2405.02774): the records whose mass, if it grew, would bring the pool nearer to a
 * target by optimal transport. The derivative of the transport cost by the mass of record i is its dual potential f_i (sinkhorn.h), made free
 * of the constant that potentials leave open (as LAVA does):
 *
 *     G_i = f_i - (1 / (N - 1)) sum_{l != i} f_l,        sum G = 0
 *
 * The lowest come first; in the contrast form, whose target are examples to move away from, the highest. This does not match distributions: it
 * takes what the pool has too little of, and nothing of what it has enough of.
 *
 * G ranks as f does, so the order is made of f, whose ties no subtraction has blurred. Equal records share a potential, to the rounding of
 * sinkhorn.h, and come together: drop duplicates first.
 *
 * Threads: no state.
 */
#ifndef WORKERS_SELECT_GOTD_H
#define WORKERS_SELECT_GOTD_H

#include "base/error.h"
#include <stdbool.h>
#include <stddef.h>

/* G [count] of potentials [count]; ret_gradients may be the same array. One record has none: 0. */
void gotd_gradients(const double *potentials, size_t count, double *ret_gradients);

enum gotd_side { GOTD_TOWARDS, GOTD_AWAY };
/* The first `wanted` records, ties to the smaller index. ret_order: the smaller of wanted and count. NUMERIC: a potential that is no
 * number. */
bool gotd_order(const double *potentials, size_t count, enum gotd_side side, size_t wanted, size_t *ret_order,
                struct error *error) MUST_USE;

#endif
