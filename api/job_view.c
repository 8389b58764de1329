/*
 * api/job_view.c: a job as clients see it. Field names as OpenAI's fine-tuning jobs where they have one;
 * times in Unix seconds; the stored request is shown by its members.
 */
#include "api/api_internal.h"
#include "api/problem.h"
#include "api/range.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static void put_time(json_t *object, const char *name, int64_t time_ms)
{
    if (time_ms > 0) {
        json_put_i64(object, name, time_ms / 1000);
    } else {
        json_put_text(object, name, NULL);
    }
}

static void put_known(json_t *object, const char *name, double value)
{
    json_put_double(object, name, value < 0 ? (double)NAN : value); /* NaN becomes null */
}

static json_t *borrow_or_null(json_t *value)
{
    return value != NULL ? json_incref(value) : json_null();
}

/* Tenths of a percent, as far as one wants to see. */
static double percent_of(const struct job *job)
{
    if (job->state == JOB_STATE_SUCCEEDED) {
        return 100.0;
    }
    return job->progress_ratio < 0 ? (double)NAN : floor(job->progress_ratio * 1000.0) / 10.0;
}

static json_t *progress_view(const struct job *job)
{
    json_t *progress = json_object();
    bool is_running = job->state == JOB_STATE_RUNNING;
    json_put_double(progress, "percent", percent_of(job));
    json_put_i64(progress, "step", (int64_t)job->progress_step);
    json_put_i64(progress, "steps", (int64_t)job->progress_steps);
    json_put_text(progress, "unit", job->progress_unit[0] != '\0' ? job->progress_unit : NULL);
    put_known(progress, "rate_per_second", is_running ? job->progress_rate_per_second : -1);
    put_known(progress, "eta_seconds", is_running ? job->progress_eta_seconds : -1);
    return progress;
}

static json_t *error_view(const struct job *job)
{
    if (job->error == NULL) {
        return json_null();
    }
    json_t *error = json_deep_copy(job->error);
    const char *field = json_string_value(json_object_get(error, "field"));
    if (field != NULL && *field != '\0') {
        char param[160];
        problem_param(field, param, sizeof param);
        json_put_text(error, "param", param);
    } else {
        json_put_text(error, "param", NULL);
    }
    return error;
}

static json_t *links_view(const struct job *job)
{
    static const struct {
        const char *name, *suffix;
    } links[] = {{"self", ""},          {"events", "/events"},          {"cancel", "/cancel"},
                 {"retry", "/retry"},   {"artifacts", "/artifacts"},    {"archive", "/archive"},
                 {"report", "/report"}, {"report_html", "/report.html"}};
    json_t *object = json_object();
    for (size_t i = 0; i < sizeof links / sizeof *links; i++) {
        char path[128];
        (void)snprintf(path, sizeof path, "/v1/jobs/%s%s", job->id, links[i].suffix);
        json_put_text(object, links[i].name, path);
    }
    return object;
}

static json_t *file_names(const struct job *job)
{
    json_t *names = json_array();
    size_t index = 0;
    json_t *file = NULL;
    json_array_foreach(job->files, index, file)
    {
        (void)json_array_append(names, json_object_get(file, "path"));
    }
    return names;
}

/* The request's own members; those whose name begins with an underscore are ours. */
static void put_request(json_t *view, const struct job *job)
{
    const char *name = NULL;
    json_t *value = NULL;
    json_object_foreach(job->spec, name, value)
    {
        if (name[0] != '_' && strcmp(name, "type") != 0) {
            json_put(view, name, json_incref(value));
        }
    }
    if (json_object_get(view, "metadata") == NULL) {
        json_put(view, "metadata", json_object());
    }
}

json_t *job_view(const struct job *job)
{
    json_t *view = json_object();
    put_request(view, job); /* first: nothing in a request can cover what follows */
    char text[96];
    (void)snprintf(text, sizeof text, "%s.job", job->type);
    json_put_text(view, "id", job->id);
    json_put_text(view, "object", text);
    json_put_text(view, "type", job->type);
    json_put_text(view, "name", job->name);
    json_put_text(view, "status", job_state_slug(job->state));
    json_put_text(view, "stage", job->stage);
    json_put_text(view, "status_reason", job->status_reason);
    put_time(view, "created_at", job->created_at_ms);
    put_time(view, "queued_at", job->queued_at_ms);
    put_time(view, "started_at", job->started_at_ms);
    put_time(view, "finished_at", job->finished_at_ms);
    put_time(view, "updated_at", job->updated_at_ms);
    bool has_eta = job->state == JOB_STATE_RUNNING && job->progress_eta_seconds >= 0;
    put_time(view, "estimated_finish",
             has_eta ? job->updated_at_ms + (int64_t)(fmin(job->progress_eta_seconds, 1e9) * 1000.0) : 0);
    json_put(view, "progress", progress_view(job));
    json_put(view, "steps", job->steps != NULL ? json_incref(job->steps) : json_array());
    json_put(view, "plan", borrow_or_null(job->plan));
    json_put_i64(view, "attempt", job->attempt_count);
    json_put_i64(view, "crash_count", job->crash_count);
    json_put_i64(view, "retry_count", job->retry_count);
    json_t *usage = json_object();
    json_put_double(usage, "cpu_seconds", job->cpu_seconds);
    json_put_i64(usage, "peak_rss_bytes", (int64_t)job->peak_rss_bytes);
    json_put_i64(usage, "memory_reserved_bytes", (int64_t)job->memory_bytes);
    json_put(view, "usage", usage);
    json_put(view, "result", borrow_or_null(job->result));
    json_put(view, "result_files", file_names(job));
    json_put_text(view, "revision", job->revision);
    (void)snprintf(text, sizeof text, "jobs/%s", job->id);
    json_put_text(view, "repo_id", text);
    json_put(view, "error", error_view(job));
    json_put(view, "links", links_view(job));
    return view;
}

void job_view_etag(const struct api *api, const struct job *job, char ret_etag[64])
{
    (void)snprintf(ret_etag, 64, "\"%" PRIu64 "-%s\"", job->version, api->etag_nonce);
}

void job_view_answer(struct request *request, unsigned status, const struct job *job)
{
    char etag[64];
    job_view_etag(request->api, job, etag);
    bool is_read = (request->method & (HTTP_GET | HTTP_HEAD)) != 0;
    struct MHD_Response *response = NULL;
    if (is_read && status == 200 && range_if_none_match(request->if_none_match, etag)) {
        status = 304;
        response = response_empty();
    } else {
        response = response_json(job_view(job));
    }
    response_header(response, "ETag", etag);
    if (status == 201) {
        char location[96];
        (void)snprintf(location, sizeof location, "/v1/jobs/%s", job->id);
        response_header(response, "Location", location);
        if (request->is_replay) {
            response_header(response, "Idempotency-Replayed", "true");
        }
    }
    request_answer(request, status, response);
}
