/*
 * api/api.h: the HTTP door. Parses, validates, reads the projection, posts commands, streams files.
 *
 * The API knows storage and the catalogue; what needs a process (planning, inspecting, cancelling a worker) it asks
 * of its host through `struct api_host`. Two MHD epoll threads; a handler never blocks: it suspends its connection and
 * the callback resumes it.
 */
#ifndef API_API_H
#define API_API_H

#include "base/error.h"
#include "base/json.h"
#include "base/text.h"
#include "storage/storage.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Answers of the host arrive on any thread, once. `answer` is borrowed for the call; on failure it is NULL and `faults`
 * says why (all at once). */
typedef void api_host_done(void *context, const json_t *answer, const struct error_list *faults);

struct api_gauges {
    uint64_t worker_slots, workers_busy, memory_reserved_bytes, memory_limit_bytes, worker_restarts,
        worker_deaths;
    double oldest_heartbeat_age_seconds;
};

struct api_host {
    void *context;
    /* Runs `pruned-worker --plan`: request as workers/process/protocol.h says; answer {plan, inventory}. */
    void (*plan)(void *context, const json_t *request, api_host_done *done, void *done_context);
    /* Runs `pruned-worker --inspect`: answer {inventory}. */
    void (*inspect)(void *context, const char *folder, api_host_done *done, void *done_context);
    /* True while the loop ticks (livez); ready: not draining, workers can be started, one line per check for ?verbose. */
    bool (*is_alive)(void *context);
    bool (*is_ready)(void *context, struct text *ret_checks);
    /* Fills in the scheduler's figures for /metrics: slots, busy, reserved bytes, oldest heartbeat age. */
    void (*get_gauges)(void *context, struct api_gauges *ret_gauges);
};
struct api_options {
    int listen_fd;       /* -1: bind address:port here */
    const char *address; /* "127.0.0.1" */
    uint16_t port;       /* 0: any; see api_port */
    /* NULL-terminated: allowed Host names besides localhost and IP addresses, "*" allows all; and the folders that a
     * model or a text may be read from, absolute, links resolved. Copied. */
    const char *const *hosts, *const *roots;
    const char *token; /* NULL: no authentication; else Bearer token for all of /v1 */
    uint64_t max_upload_bytes;
    const json_t *catalogue; /* what pruned-worker --describe printed; borrowed until api_stop */
    struct storage *storage;
    struct api_host host;
};

struct api;
bool api_start(const struct api_options *options, struct api **ret_api, struct error *error) MUST_USE;
uint16_t api_port(const struct api *api);
/* Wire this as storage's on_change: wakes long polls. Any thread. */
void api_notify(struct api *api, struct job *job);
/* From now on: readyz 503, new jobs 503 unavailable with Retry-After; reads go on. */
void api_drain(struct api *api);
/* Turns new clients away, resumes every suspended connection, waits up to 10 s, stops. NULL is fine. */
void api_stop(struct api *api);

#endif
