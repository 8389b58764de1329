/*
 * api/watch.c: long polls. `GET /v1/jobs/{id}?wait=25&until=change` is parked here and woken by api_notify,
 * by its own deadline or by api_stop. A parked connection costs its memory and no thread; libmicrohttpd
 * neither times it out nor sees the client leave, which is why no wait is longer than API_WAIT_LIMIT.
 */
#include "api/api_internal.h"
#include "base/check.h"
#include <stdio.h>
#include <string.h>

static bool is_due(const struct request *request, const struct job *job)
{
    if (job_state_is_terminal(job->state)) {
        return true;
    }
    char etag[64];
    job_view_etag(request->api, job, etag);
    return !request->until_terminal && strcmp(etag, request->watch_etag) != 0;
}

/* Under the lock. */
static void unlink_watch(struct api *api, struct request **link)
{
    struct request *request = *link;
    *link = request->next_watch;
    request->next_watch = NULL;
    request->is_watching = false;
    api->watch_count--;
}

/* Each request of the list owns the reference that request_suspend took for it. */
static void answer_all(struct request *list, struct job *job)
{
    while (list != NULL) {
        struct request *request = list;
        list = request->next_watch;
        request->next_watch = NULL;
        struct job *now = job != NULL ? job_acquire(job)
                                      : storage_peek_job(request->api->options.storage,
                                                         request_tenant(request), request->watch_job);
        if (now != NULL) {
            job_view_answer(request, 200, now);
        } else {
            struct error error = {0};
            (void)error_set_field(&error, ERROR_NOT_FOUND, "id", "there is no job %s any more",
                                  request->watch_job);
            request_answer_error(request, 0, &error);
        }
        job_release(now);
        request_resume_done(request);
    }
}

void watch_add(struct request *request, const char *job_id, const char *etag, bool until_terminal,
               unsigned seconds)
{
    struct api *api = request->api;
    (void)snprintf(request->watch_job, sizeof request->watch_job, "%s", job_id);
    (void)snprintf(request->watch_etag, sizeof request->watch_etag, "%s", etag);
    request->until_terminal = until_terminal;
    request->watch_deadline_mono_ns = clock_boot_ns(&clock_system) + (int64_t)seconds * 1000000000;
    request_suspend(request);
    (void)pthread_mutex_lock(&api->lock);
    request->is_watching = true;
    request->next_watch = api->watches;
    api->watches = request;
    api->watch_count++;
    bool is_stopping = api->is_stopping;
    (void)pthread_cond_broadcast(&api->tick_wake);
    (void)pthread_mutex_unlock(&api->lock);
    if (is_stopping) {
        (void)watch_expire(api, 0, true);
        return;
    }
    /* It may have changed between the caller's look and the insertion. */
    struct job *job = storage_peek_job(api->options.storage, request_tenant(request), job_id);
    if (job != NULL) {
        watch_notify(api, job);
    }
    job_release(job);
}

void watch_notify(struct api *api, struct job *job)
{
    struct request *due = NULL;
    (void)pthread_mutex_lock(&api->lock);
    struct request **link = &api->watches;
    while (*link != NULL) {
        struct request *request = *link;
        if (strcmp(request->watch_job, job->id) == 0 && is_due(request, job)) {
            unlink_watch(api, link);
            request->next_watch = due;
            due = request;
        } else {
            link = &request->next_watch;
        }
    }
    (void)pthread_mutex_unlock(&api->lock);
    answer_all(due, job);
}

int64_t watch_expire(struct api *api, int64_t now_mono_ns, bool all)
{
    struct request *due = NULL;
    int64_t next = 0;
    (void)pthread_mutex_lock(&api->lock);
    struct request **link = &api->watches;
    while (*link != NULL) {
        struct request *request = *link;
        if (all || request->watch_deadline_mono_ns <= now_mono_ns) {
            unlink_watch(api, link);
            request->next_watch = due;
            due = request;
        } else {
            next =
                next == 0 || request->watch_deadline_mono_ns < next ? request->watch_deadline_mono_ns : next;
            link = &request->next_watch;
        }
    }
    (void)pthread_mutex_unlock(&api->lock);
    answer_all(due, NULL);
    return next;
}
