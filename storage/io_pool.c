/* storage/io_pool.c: a list of tasks, a lock, two threads. */
#include "storage/io_pool.h"

#include "base/check.h"
#include "base/memory.h"
#include <pthread.h>
#include <stdlib.h>

#define THREAD_COUNT 2

struct io_task {
    struct io_task *next;
    void (*run)(void *context);
    void *context;
};

struct io_pool {
    pthread_t threads[THREAD_COUNT]; /* fixed after create */
    size_t thread_count;
    pthread_mutex_t lock;
    pthread_cond_t wake, idle;
    /* guarded by lock */
    struct io_task *first, **last;
    size_t running;
    bool stopping;
};

/* The next task; NULL: none is left, none runs that could post one, and the pool is to stop. */
static struct io_task *take(struct io_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    while (pool->first == NULL && !(pool->stopping && pool->running == 0)) {
        pthread_cond_wait(&pool->wake, &pool->lock);
    }
    struct io_task *task = pool->first;
    if (task != NULL) {
        pool->first = task->next;
        pool->last = pool->first == NULL ? &pool->first : pool->last;
        pool->running++;
    }
    pthread_mutex_unlock(&pool->lock);
    return task;
}

static void *work(void *context)
{
    struct io_pool *pool = context;
    for (struct io_task *task = take(pool); task != NULL; task = take(pool)) {
        task->run(task->context);
        free(task);
        pthread_mutex_lock(&pool->lock);
        pool->running--;
        if (pool->stopping) {
            pthread_cond_broadcast(&pool->wake);
        }
        if (pool->running == 0 && pool->first == NULL) {
            pthread_cond_broadcast(&pool->idle);
        }
        pthread_mutex_unlock(&pool->lock);
    }
    return NULL;
}

bool io_pool_create(struct io_pool **ret_pool, struct error *error)
{
    struct io_pool *pool = memory_create(1, sizeof *pool);
    pool->last = &pool->first;
    CHECK(pthread_mutex_init(&pool->lock, NULL) == 0);
    CHECK(pthread_cond_init(&pool->wake, NULL) == 0 && pthread_cond_init(&pool->idle, NULL) == 0);
    for (; pool->thread_count < THREAD_COUNT; pool->thread_count++) {
        int code = pthread_create(&pool->threads[pool->thread_count], NULL, work, pool);
        if (code != 0) {
            (void)error_set_errno(error, code, "starting a thread for files");
            io_pool_destroy(pool);
            return false;
        }
    }
    *ret_pool = pool;
    return true;
}

void io_pool_post(struct io_pool *pool, void (*run)(void *context), void *context)
{
    struct io_task *task = memory_create(1, sizeof *task);
    task->run = run;
    task->context = context;
    pthread_mutex_lock(&pool->lock);
    *pool->last = task;
    pool->last = &task->next;
    pthread_cond_signal(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
}

void io_pool_drain(struct io_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    while (pool->first != NULL || pool->running > 0) {
        pthread_cond_wait(&pool->idle, &pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
}

void io_pool_destroy(struct io_pool *pool)
{
    if (pool == NULL) {
        return;
    }
    pthread_mutex_lock(&pool->lock);
    pool->stopping = true;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    for (size_t i = 0; i < pool->thread_count; i++) {
        CHECK(pthread_join(pool->threads[i], NULL) == 0);
    }
    (void)pthread_cond_destroy(&pool->wake);
    (void)pthread_cond_destroy(&pool->idle);
    (void)pthread_mutex_destroy(&pool->lock);
    free(pool);
}
