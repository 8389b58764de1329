/*
 * daemon/host.c: what the API asks of us, on its own threads (struct api_host). A plan or an inspection
 * becomes a letter to the loop; the rest is read from atomics that the loop keeps fresh.
 */
#include "base/cleanup.h"
#include "base/memory.h"
#include "daemon/daemon_internal.h"
#include <stdlib.h>
#include <unistd.h>

#define ALIVE_NS (10 * INT64_C(1000000000)) /* a loop that has not ticked for this long is dead */

struct errand {
    struct letter letter;
    struct daemon *daemon;
    json_t *request; /* owned; NULL for an inspection */
    char *folder;    /* owned; of an inspection */
    api_host_done *done;
    void *done_context;
};

static void deliver_errand(struct letter *letter)
{
    struct errand *errand = (struct errand *)letter;
    if (errand->request != NULL) {
        planner_plan(errand->daemon, errand->request, errand->done, errand->done_context);
    } else {
        planner_inspect(errand->daemon, errand->folder, errand->done, errand->done_context);
    }
    free(errand->folder);
    free(errand);
}

static void run_errand(struct daemon *daemon, json_t *request, const char *folder, api_host_done *done,
                       void *done_context)
{
    struct errand *errand = memory_create(1, sizeof *errand);
    *errand = (struct errand){.letter.deliver = deliver_errand,
                              .daemon = daemon,
                              .request = request,
                              .folder = memory_copy_text(folder),
                              .done = done,
                              .done_context = done_context};
    if (!atomic_load(&daemon->is_draining) && mailbox_post(&daemon->mailbox, &errand->letter)) {
        return;
    }
    FINISHED(error_list) faults = {0};
    error_list_add(&faults, ERROR_UNAVAILABLE, "", "the service is stopping");
    done(done_context, NULL, &faults);
    json_decref(errand->request);
    free(errand->folder);
    free(errand);
}

static void host_plan(void *context, const json_t *request, api_host_done *done, void *done_context)
{
    run_errand(context, json_deep_copy(request), NULL, done, done_context);
}

static void host_inspect(void *context, const char *folder, api_host_done *done, void *done_context)
{
    run_errand(context, NULL, folder, done, done_context);
}

static bool host_is_alive(void *context)
{
    struct daemon *daemon = context;
    return clock_boot_ns(daemon->clock) - atomic_load(&daemon->ticked_ns) < ALIVE_NS;
}

static bool check(struct text *checks, const char *name, bool is_fine)
{
    if (checks != NULL) {
        text_append_format(checks, "[%c]%s %s\n", is_fine ? '+' : '-', name, is_fine ? "ok" : "failed");
    }
    return is_fine;
}

static bool host_is_ready(void *context, struct text *ret_checks)
{
    struct daemon *daemon = context;
    bool is_ready = check(ret_checks, "loop", host_is_alive(context));
    is_ready &= check(ret_checks, "not-draining", !atomic_load(&daemon->is_draining));
    is_ready &= check(ret_checks, "worker-program", access(daemon->config->worker_path, X_OK) == 0);
    return is_ready;
}

static void host_get_gauges(void *context, struct api_gauges *ret_gauges)
{
    struct daemon *daemon = context;
    *ret_gauges = (struct api_gauges){
        .worker_slots = daemon->config->slots,
        .workers_busy = atomic_load(&daemon->gauge_busy),
        .memory_reserved_bytes = atomic_load(&daemon->gauge_reserved),
        .memory_limit_bytes = daemon->config->memory_bytes,
        .worker_restarts = atomic_load(&daemon->gauge_restarts),
        .worker_deaths = atomic_load(&daemon->gauge_deaths),
        .oldest_heartbeat_age_seconds = (double)atomic_load(&daemon->gauge_oldest_heartbeat_ms) / 1000,
    };
}

struct api_host host_make(struct daemon *daemon)
{
    return (struct api_host){.context = daemon,
                             .plan = host_plan,
                             .inspect = host_inspect,
                             .is_alive = host_is_alive,
                             .is_ready = host_is_ready,
                             .get_gauges = host_get_gauges};
}
