/*
 * storage/storage_queue.c: the DB thread and the group commit.
 *
 * The thread takes whatever is queued, opens a transaction at the first command that writes, and gives each
 * command a savepoint, so one that fails undoes only itself. The batch commits when nothing more waits, or at
 * 256 commands, or 2 ms after its first one. While a commit syncs, the next batch gathers behind it: under
 * load batches grow on their own, and a single caller never waits for company.
 *
 * Answers leave after the commit. If the commit fails (disk full), every command that wrote fails with that
 * error and those that only read are run again on what is durable: reading goes on.
 */
#include "base/check.h"
#include "base/log.h"
#include "storage/storage_internal.h"
#include <string.h>
#include <time.h>

#define BATCH_COMMANDS    256
#define BATCH_MS          2
#define MAINTAIN_MS       1000
#define SWEEP_INTERVAL_MS (INT64_C(3600) * 1000)

int64_t storage_monotonic_ms(void)
{
    struct timespec now;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void storage_post(struct storage *storage, struct command *command)
{
    command->next = NULL;
    pthread_mutex_lock(&storage->queue_lock);
    *storage->last = command;
    storage->last = &command->next;
    pthread_cond_signal(&storage->queue_wake);
    pthread_mutex_unlock(&storage->queue_lock);
}

/* At most `limit` commands from the head of the queue. */
static struct command *take_queued(struct storage *storage, size_t limit)
{
    struct command *first = storage->first;
    struct command **last = &storage->first;
    for (size_t i = 0; i < limit && *last != NULL; i++) {
        last = &(*last)->next;
    }
    storage->first = *last;
    *last = NULL;
    if (storage->first == NULL) {
        storage->last = &storage->first;
    }
    return last == &storage->first ? NULL : first;
}

static struct command *take_more(struct storage *storage, size_t limit)
{
    pthread_mutex_lock(&storage->queue_lock);
    struct command *commands = take_queued(storage, limit);
    pthread_mutex_unlock(&storage->queue_lock);
    return commands;
}

/* Waits for commands, a report, the end, or at most `wait_ms`. */
static struct command *wait_for_commands(struct storage *storage, int64_t wait_ms, bool *ret_stopping)
{
    struct timespec until;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &until) == 0);
    until.tv_sec += (time_t)(wait_ms / 1000);
    until.tv_nsec += (long)(wait_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&storage->queue_lock);
    int code = 0;
    while (storage->first == NULL && !storage->stopping && !storage->reported && code == 0) {
        code = pthread_cond_timedwait(&storage->queue_wake, &storage->queue_lock, &until);
    }
    storage->reported = false;
    *ret_stopping = storage->stopping && storage->first == NULL;
    struct command *commands = take_queued(storage, BATCH_COMMANDS);
    pthread_mutex_unlock(&storage->queue_lock);
    return commands;
}

/* ---- one batch ----------------------------------------------------------------------------------------- */

struct batch {
    struct command *commands, **last; /* in order */
    size_t count;
    bool open; /* a transaction is */
};

static void fail(struct command *command, const struct error *error)
{
    command->failed = true;
    command->error = *error;
    if (command->kind->forget != NULL) {
        command->kind->forget(command);
    }
}

/* The transaction is gone, and with it what was written before `end` (NULL: by all). Readers run again. */
static void lose(struct storage *storage, struct batch *batch, const struct command *end,
                 const struct error *error)
{
    batch->open = false;
    storage_clear_overlay(storage);
    log_error("a batch of commands was rolled back", LOG_TEXT("reason", error->message),
              LOG_TEXT("code", error_code_slug(error->code)));
    for (struct command *at = batch->commands; at != end; at = at->next) {
        if (at->failed) {
            continue;
        }
        if (at->kind->writes) {
            fail(at, error);
            continue;
        }
        if (at->kind->forget != NULL) {
            at->kind->forget(at);
        }
        struct error fault = {0};
        if (!at->kind->run(storage, at, &fault)) {
            fail(at, &fault);
        }
    }
}

static void run_writer(struct storage *storage, struct batch *batch, struct command *command)
{
    struct database *database = storage->database;
    struct error error = {0};
    if (!batch->open && !database->operations->begin(database, &error)) {
        fail(command, &error);
        return;
    }
    batch->open = true;
    bool done = database->operations->mark(database, &error);
    bool marked = done;
    done =
        done && command->kind->run(storage, command, &error) && database->operations->keep(database, &error);
    if (done) {
        return;
    }
    fail(command, &error);
    if (!marked || !database->operations->undo(database)) {
        if (!marked) {
            database->operations->rollback(database);
        }
        lose(storage, batch, command, &error);
    }
}

static void run_command(struct storage *storage, struct batch *batch, struct command *command)
{
    if (command->kind->writes) {
        run_writer(storage, batch, command);
        return;
    }
    struct error error = {0};
    if (!command->kind->run(storage, command, &error)) {
        fail(command, &error);
    }
}

/* Callbacks may post new commands; they go to the queue, never into this batch. */
static void answer_all(struct storage *storage, struct batch *batch)
{
    for (struct command *at = batch->commands; at != NULL; at = at->next) {
        if (!at->failed && at->kind->publish != NULL) {
            at->kind->publish(storage, at);
        }
    }
    storage_clear_overlay(storage);
    for (struct command *at = batch->commands; at != NULL;) {
        struct command *next = at->next;
        at->kind->answer(storage, at, at->failed ? &at->error : NULL);
        at->kind->destroy(at);
        at = next;
    }
}

static void run_batch(struct storage *storage, struct command *commands)
{
    struct batch batch = {.commands = commands, .last = &batch.commands};
    int64_t started_ms = storage_monotonic_ms();
    while (*batch.last != NULL) {
        struct command *command = *batch.last;
        run_command(storage, &batch, command);
        batch.last = &command->next;
        batch.count++;
        bool room = batch.count < BATCH_COMMANDS && storage_monotonic_ms() - started_ms < BATCH_MS;
        if (command->next == NULL && room) {
            command->next = take_more(storage, BATCH_COMMANDS - batch.count);
        }
    }
    struct error error = {0};
    if (batch.open && !storage->database->operations->commit(storage->database, &error)) {
        lose(storage, &batch, NULL, &error);
    } else if (batch.open) {
        atomic_fetch_add(&storage->commits, 1);
    }
    atomic_fetch_add(&storage->commands, batch.count);
    answer_all(storage, &batch);
}

/* ---- the thread ---------------------------------------------------------------------------------------- */

/* Publishes the reports that are due; returns how long until the next one, at most MAINTAIN_MS. */
static int64_t publish_reports(struct storage *storage)
{
    static const struct job_effects effects = {.changed = true, .log_type = "progress", .log_level = "info"};
    for (;;) {
        int64_t now_ns = clock_boot_ns(storage->clock);
        int64_t next_ns = 0;
        struct job *job = projection_take_report(storage->projection, now_ns, &next_ns);
        if (job == NULL) {
            int64_t wait_ms = next_ns == 0 ? MAINTAIN_MS : (next_ns - now_ns) / 1000000 + 1;
            return wait_ms > MAINTAIN_MS ? MAINTAIN_MS : wait_ms;
        }
        if (storage->on_change != NULL) {
            storage->on_change(storage->on_change_context, job, &effects);
        }
        job_release(job);
    }
}

static void maintain(struct storage *storage, bool idle)
{
    int64_t now_ms = storage_monotonic_ms();
    storage->database->operations->maintain(storage->database, idle);
    if (now_ms - storage->maintained_ms >= MAINTAIN_MS) {
        storage->maintained_ms = now_ms;
        atomic_store(&storage->database_bytes, storage->database->operations->get_bytes(storage->database));
    }
    if (now_ms - storage->swept_ms >= SWEEP_INTERVAL_MS && !atomic_load(&storage->closing)) {
        storage->swept_ms = now_ms;
        storage_sweep_later(storage);
    }
}

static void *work(void *context)
{
    struct storage *storage = context;
    bool stopping = false;
    int64_t wait_ms = MAINTAIN_MS;
    int64_t busy_ms = storage_monotonic_ms();
    while (!stopping) {
        struct command *commands = wait_for_commands(storage, wait_ms, &stopping);
        if (commands != NULL) {
            run_batch(storage, commands);
            busy_ms = storage_monotonic_ms();
        }
        wait_ms = publish_reports(storage);
        maintain(storage, storage_monotonic_ms() - busy_ms >= MAINTAIN_MS);
    }
    return NULL;
}

bool storage_start_thread(struct storage *storage, struct error *error)
{
    storage->maintained_ms = storage_monotonic_ms();
    storage->swept_ms = storage->maintained_ms;
    atomic_store(&storage->database_bytes, storage->database->operations->get_bytes(storage->database));
    int code = pthread_create(&storage->thread, NULL, work, storage);
    if (code != 0) {
        return error_set_errno(error, code, "starting the database thread");
    }
    storage->thread_started = true;
    return true;
}

void storage_stop_thread(struct storage *storage)
{
    if (!storage->thread_started) {
        return;
    }
    pthread_mutex_lock(&storage->queue_lock);
    storage->stopping = true;
    pthread_cond_signal(&storage->queue_wake);
    pthread_mutex_unlock(&storage->queue_lock);
    CHECK(pthread_join(storage->thread, NULL) == 0);
    storage->thread_started = false;
}
