/*
 * workers/tensor/pool.c: the compute threads. A run publishes (task, context, count) under the lock, wakes
 * the threads and works along; whoever is free takes the next index. A run ends when every thread that joined
 * it has left, so the caller may free the context at once.
 *
 * Threads join a run by its generation number: one that wakes up late, after the run is over, sees no open
 * run and sleeps on.
 *
 * The next run mostly follows within microseconds, and a wake-up through the kernel costs tens of them: so a thread without
 * work, and a caller whose helpers are finishing, look out for SPIN_PAUSES pauses (some 30 microseconds) before
 * they sleep.
 */
#include "workers/tensor/pool.h"

#include "base/check.h"
#include "base/memory.h"
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

#define SPIN_PAUSES 1000

struct pool_thread {
    struct pool *pool;
    size_t index; /* scratch slot; 0 is the caller's */
    pthread_t handle;
};

struct pool {
    size_t thread_count;         /* fixed after create */
    struct pool_thread *threads; /* [thread_count]; slot 0 unused */
    size_t started;

    pthread_mutex_t lock;
    pthread_cond_t work, idle;
    bool is_open, is_stopping; /* guarded by lock; is_open: a run accepts helpers */
    size_t sleepers;           /* guarded by lock: threads that wait for `work` */
    /* Written under lock, watched without. */
    atomic_uint_fast64_t generation;
    atomic_size_t helpers; /* threads inside the current run */

    /* The current run: written under lock before it opens, read by those inside. */
    void (*task)(void *context, size_t index, size_t thread);
    void *context;
    const struct cancel *cancel;
    size_t count;
    atomic_size_t next;
    atomic_bool is_cancelled;

    atomic_uint_fast64_t finished;
};

static void pool_work(struct pool *pool, size_t thread)
{
    for (;;) {
        size_t index = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed);
        if (index >= pool->count) {
            return;
        }
        if (!cancel_check_now(pool->cancel, NULL)) {
            atomic_store(&pool->is_cancelled, true);
            return;
        }
        pool->task(pool->context, index, thread);
        atomic_fetch_add_explicit(&pool->finished, 1, memory_order_relaxed);
    }
}

static void pause_briefly(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* Until there is another run than `seen`, or for as long as it is worth it. */
static void watch_for_work(struct pool *pool, uint64_t seen)
{
    for (size_t i = 0;
         i < SPIN_PAUSES && atomic_load_explicit(&pool->generation, memory_order_acquire) == seen; i++) {
        pause_briefly();
    }
}

static void *pool_thread_main(void *argument)
{
    struct pool_thread *self = argument;
    struct pool *pool = self->pool;
    uint64_t seen = 0;
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        while (!pool->is_stopping && (!pool->is_open || pool->generation == seen)) {
            pool->sleepers++;
            pthread_cond_wait(&pool->work, &pool->lock);
            pool->sleepers--;
        }
        if (pool->is_stopping) {
            break;
        }
        seen = pool->generation;
        pool->helpers++;
        pthread_mutex_unlock(&pool->lock);
        pool_work(pool, self->index);
        pthread_mutex_lock(&pool->lock);
        if (--pool->helpers == 0) {
            pthread_cond_signal(&pool->idle);
        }
        pthread_mutex_unlock(&pool->lock);
        watch_for_work(pool, seen);
        pthread_mutex_lock(&pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

struct pool *pool_create(size_t thread_count, struct error *error)
{
    CHECK(thread_count >= 1);
    OWNED(pool) pool = memory_create(1, sizeof *pool);
    pool->thread_count = thread_count;
    pool->threads = memory_create(thread_count, sizeof *pool->threads);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->idle, NULL);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pool->started = 1;
    int failure = 0;
    for (size_t i = 1; i < thread_count && failure == 0; i++) {
        pool->threads[i] = (struct pool_thread){.pool = pool, .index = i};
        failure = pthread_create(&pool->threads[i].handle, NULL, pool_thread_main, &pool->threads[i]);
        pool->started += failure == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failure != 0) {
        error_set_errno(error, failure, "cannot start compute thread %zu of %zu", pool->started,
                        thread_count);
        return NULL;
    }
    return TAKE(pool);
}

size_t pool_thread_count(const struct pool *pool)
{
    return pool->thread_count;
}

bool pool_run(struct pool *pool, size_t count, void (*task)(void *context, size_t index, size_t thread),
              void *context, const struct cancel *cancel, struct error *error)
{
    bool is_shared = count > 1 && pool->thread_count > 1;
    pthread_mutex_lock(&pool->lock);
    CHECK(!pool->is_open && pool->helpers == 0);
    pool->task = task;
    pool->context = context;
    pool->cancel = cancel;
    pool->count = count;
    atomic_store(&pool->next, 0);
    atomic_store(&pool->is_cancelled, false);
    if (is_shared) {
        pool->is_open = true;
        pool->generation++;
        if (pool->sleepers > 0) {
            pthread_cond_broadcast(&pool->work);
        }
    }
    pthread_mutex_unlock(&pool->lock);

    pool_work(pool, 0);

    if (is_shared) {
        for (size_t i = 0; i < SPIN_PAUSES && atomic_load_explicit(&pool->helpers, memory_order_acquire) > 0;
             i++) {
            pause_briefly();
        }
        pthread_mutex_lock(&pool->lock);
        pool->is_open = false;
        while (pool->helpers > 0) {
            pthread_cond_wait(&pool->idle, &pool->lock);
        }
        pthread_mutex_unlock(&pool->lock);
    }
    return !atomic_load(&pool->is_cancelled) || cancel_check_now(cancel, error);
}

uint64_t pool_finished_count(const struct pool *pool)
{
    return atomic_load_explicit(&pool->finished, memory_order_relaxed);
}

void pool_destroy(struct pool *pool)
{
    if (pool == NULL) {
        return;
    }
    pthread_mutex_lock(&pool->lock);
    pool->is_stopping = true;
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    for (size_t i = 1; i < pool->started; i++) {
        pthread_join(pool->threads[i].handle, NULL);
    }
    pthread_cond_destroy(&pool->idle);
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->lock);
    free(pool->threads);
    free(pool);
}
