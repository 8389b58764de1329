/*
 * workers/tensor/pool.h: the compute threads of one worker. Work is a count of independent tasks; which
 * thread runs which task never changes a result, because every task writes its own memory and reductions are
 * done afterwards in order.
 */
#ifndef WORKERS_TENSOR_POOL_H
#define WORKERS_TENSOR_POOL_H

#include "base/cancel.h"
#include "base/cleanup.h"
#include "base/error.h"
#include <stddef.h>
#include <stdint.h>

struct pool;
/* thread_count >= 1, the caller's thread included. Signals stay blocked in the new threads. */
struct pool *pool_create(size_t thread_count, struct error *error) MUST_USE;
size_t pool_thread_count(const struct pool *pool);
/* Calls task(context, index, thread) for 0 <= index < count; thread < pool_thread_count names a scratch slot.
 * Returns when all are done. Not reentrant. Polls `cancel` (may be NULL) between tasks: false with CANCELLED,
 * some tasks not run. */
bool pool_run(struct pool *pool, size_t count, void (*task)(void *context, size_t index, size_t thread),
              void *context, const struct cancel *cancel, struct error *error) MUST_USE;
/* Tasks finished since creation; a heartbeat that sees it move knows the pool lives. Any thread. */
uint64_t pool_finished_count(const struct pool *pool);
void pool_destroy(struct pool *pool);
OWNED_DEFINE(pool)

#endif
