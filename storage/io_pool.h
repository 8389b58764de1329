/*
 * storage/io_pool.h: two threads that hash, sync, move and delete files, in the order they were asked. A task
 * may post commands to the DB thread, and must not wait for anyone.
 */
#ifndef STORAGE_IO_POOL_H
#define STORAGE_IO_POOL_H

#include "base/error.h"

struct io_pool;
bool io_pool_create(struct io_pool **ret_pool, struct error *error) MUST_USE;
/* Any thread, tasks included. Runs `run` once on a pool thread; never fails. */
void io_pool_post(struct io_pool *pool, void (*run)(void *context), void *context);
/* Waits until no task is queued or runs. */
void io_pool_drain(struct io_pool *pool);
/* Waits until every task posted so far, and what these posted, has run; ends the threads. NULL is fine. */
void io_pool_destroy(struct io_pool *pool);

#endif
