/*
 * daemon/oneshot.h: one question to the worker program, one answer: `pruned-worker --plan < request >
 * answer`.
 *
 * A model that nobody has vouched for is read by such a process, never by the service. At most ONESHOT_LIMIT
 * run at a time, the rest wait in order; each has a time limit and a bounded output. A crash, a
 * time-out or a flood is an answer too: one fault that says so. Loop thread only.
 */
#ifndef DAEMON_ONESHOT_H
#define DAEMON_ONESHOT_H

#include "base/error.h"
#include "base/json.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#define ONESHOT_LIMIT        2
#define ONESHOT_QUEUE_LIMIT  64
#define ONESHOT_TIMEOUT_MS   60000  /* of arithmetic */
#define ONESHOT_READING_MS   600000 /* more for each model that is hashed whole */
#define ONESHOT_OUTPUT_LIMIT (64u << 20)

/* answer: borrowed; NULL on failure, and then faults has at least one. Called once, on the loop. */
typedef void oneshot_done(void *context, json_t *answer, const struct error_list *faults);

struct oneshot;
struct oneshot_pool {
    uv_loop_t *loop;
    const char *program; /* borrowed, absolute */
    char **environment;  /* borrowed */
    struct oneshot *running[ONESHOT_LIMIT];
    struct oneshot *first, *last; /* waiting */
    size_t running_count, waiting_count;
    bool is_closed;
};

void oneshot_pool_init(struct oneshot_pool *pool, uv_loop_t *loop, const char *program, char **environment);
/* mode: "--plan". request: borrowed, may be NULL (nothing on stdin). Faults: UNAVAILABLE (queue full,
 * closing), WORKER_CRASH, TIME_LIMIT, TOO_LARGE, and whatever {"errors": [...]} the program printed. */
void oneshot_ask(struct oneshot_pool *pool, const char *mode, const json_t *request, uint64_t timeout_ms,
                 oneshot_done *done, void *context);
/* Kills what runs and answers all with UNAVAILABLE; running_count falls to 0 as the processes are reaped. */
void oneshot_pool_close(struct oneshot_pool *pool);

#endif
