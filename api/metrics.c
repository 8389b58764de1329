/*
 * api/metrics.c: Prometheus text. Counters are relaxed atomics bumped when a request ends; everything about
 * jobs, disk and workers is asked for at the scrape. No label ever carries an id.
 */
#include "api/api_internal.h"
#include <inttypes.h>
#include <stdio.h>
#include <sys/resource.h>

static const double bounds_s[API_BUCKET_COUNT] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1, 5, 15, 30};

void metrics_count(struct request *request)
{
    struct api *api = request->api;
    enum route_id id = request->route != NULL ? request->route->id : ROUTE_NONE;
    int64_t elapsed_ns = clock_boot_ns(&clock_system) - request->started_mono_ns;
    double seconds = (double)elapsed_ns / 1e9;
    size_t bucket = 0;
    while (bucket < API_BUCKET_COUNT && seconds > bounds_s[bucket]) {
        bucket++;
    }
    if (request->status < API_STATUS_COUNT) {
        (void)atomic_fetch_add_explicit(&api->answered[id][request->status], 1, memory_order_relaxed);
    }
    (void)atomic_fetch_add_explicit(&api->durations[id][bucket], 1, memory_order_relaxed);
    (void)atomic_fetch_add_explicit(&api->duration_sum_us[id], (unsigned long long)(elapsed_ns / 1000),
                                    memory_order_relaxed);
}

static void head(struct text *out, const char *name, const char *type, const char *help)
{
    text_append_format(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void gauge(struct text *out, const char *name, const char *help, double value)
{
    head(out, name, "gauge", help);
    text_append_format(out, "%s %.17g\n", name, value);
}

static void counter(struct text *out, const char *name, const char *help, uint64_t value)
{
    head(out, name, "counter", help);
    text_append_format(out, "%s %" PRIu64 "\n", name, value);
}

static const char *pattern_of(size_t id)
{
    return id < ROUTE_COUNT ? route_get((enum route_id)id)->pattern : "none";
}

static const char *method_of(size_t id)
{
    if (id >= ROUTE_COUNT) {
        return "any";
    }
    switch (route_get((enum route_id)id)->method) {
    case HTTP_GET:
        return "GET";
    case HTTP_HEAD:
        return "HEAD";
    case HTTP_POST:
        return "POST";
    case HTTP_PUT:
        return "PUT";
    case HTTP_DELETE:
        return "DELETE";
    case HTTP_OTHER:
        break;
    }
    return "other";
}

static void put_http(struct text *out, const struct api *api)
{
    head(out, "pruned_http_requests_total", "counter", "Requests answered.");
    for (size_t id = 0; id <= ROUTE_COUNT; id++) {
        for (size_t status = 0; status < API_STATUS_COUNT; status++) {
            unsigned long long count = atomic_load_explicit(&api->answered[id][status], memory_order_relaxed);
            if (count > 0) {
                text_append_format(
                    out, "pruned_http_requests_total{route=\"%s\",method=\"%s\",code=\"%zu\"} %llu\n",
                    pattern_of(id), method_of(id), status, count);
            }
        }
    }
    head(out, "pruned_http_request_duration_seconds", "histogram",
         "From the request line to the end of the answer.");
    for (size_t id = 0; id <= ROUTE_COUNT; id++) {
        unsigned long long total = 0, cumulated[API_BUCKET_COUNT + 1];
        for (size_t i = 0; i <= API_BUCKET_COUNT; i++) {
            total += atomic_load_explicit(&api->durations[id][i], memory_order_relaxed);
            cumulated[i] = total;
        }
        for (size_t i = 0; total > 0 && i <= API_BUCKET_COUNT; i++) {
            char bound[24] = "+Inf";
            if (i < API_BUCKET_COUNT) {
                (void)snprintf(bound, sizeof bound, "%g", bounds_s[i]);
            }
            text_append_format(
                out,
                "pruned_http_request_duration_seconds_bucket{route=\"%s\",method=\"%s\",le=\"%s\"} %llu\n",
                pattern_of(id), method_of(id), bound, cumulated[i]);
        }
        if (total > 0) {
            double sum_s =
                (double)atomic_load_explicit(&api->duration_sum_us[id], memory_order_relaxed) / 1e6;
            text_append_format(
                out,
                "pruned_http_request_duration_seconds_sum{route=\"%s\",method=\"%s\"} %.6f\n"
                "pruned_http_request_duration_seconds_count{route=\"%s\",method=\"%s\"} %llu\n",
                pattern_of(id), method_of(id), sum_s, pattern_of(id), method_of(id), total);
        }
    }
}

static void put_storage(struct text *out, const struct api *api)
{
    struct storage_counts counts = {0};
    storage_get_counts(api->options.storage, &counts);
    head(out, "pruned_jobs", "gauge", "Jobs by status.");
    for (unsigned state = 0; state <= JOB_STATE_CANCELLED; state++) {
        text_append_format(out, "pruned_jobs{status=\"%s\"} %" PRIu64 "\n",
                           job_state_slug((enum job_state)state), counts.by_state[state]);
    }
    double age = counts.oldest_queued_at_ms > 0
                     ? (double)(clock_wall_ms(&clock_system) - counts.oldest_queued_at_ms) / 1000.0
                     : 0.0;
    gauge(out, "pruned_queue_depth", "Jobs that could be claimed now.", (double)counts.runnable);
    gauge(out, "pruned_queue_oldest_age_seconds", "Age of the oldest queued job.", age);
    head(out, "pruned_store_bytes", "gauge", "Bytes on disk by kind.");
    text_append_format(out, "pruned_store_bytes{kind=\"blobs\"} %" PRIu64 "\n", counts.blob_bytes);
    text_append_format(out, "pruned_store_bytes{kind=\"database\"} %" PRIu64 "\n", counts.database_bytes);
    gauge(out, "pruned_store_blobs", "Blobs on disk.", (double)counts.blob_count);
    counter(out, "pruned_storage_commits_total", "Transactions committed.", counts.commits);
    counter(out, "pruned_storage_commands_total", "Commands committed in them.", counts.commands);
}

static void put_workers(struct text *out, const struct api *api)
{
    struct api_gauges gauges = {0};
    if (api->options.host.get_gauges == NULL) {
        return;
    }
    api->options.host.get_gauges(api->options.host.context, &gauges);
    uint64_t idle = gauges.worker_slots > gauges.workers_busy ? gauges.worker_slots - gauges.workers_busy : 0;
    head(out, "pruned_workers", "gauge", "Worker slots by state.");
    text_append_format(
        out, "pruned_workers{state=\"busy\"} %" PRIu64 "\npruned_workers{state=\"idle\"} %" PRIu64 "\n",
        gauges.workers_busy, idle);
    gauge(out, "pruned_worker_heartbeat_age_seconds", "Age of the oldest heartbeat of a running worker.",
          gauges.oldest_heartbeat_age_seconds);
    gauge(out, "pruned_memory_reserved_bytes", "Memory reserved by running jobs.",
          (double)gauges.memory_reserved_bytes);
    gauge(out, "pruned_memory_limit_bytes", "Memory that jobs may reserve.",
          (double)gauges.memory_limit_bytes);
    counter(out, "pruned_worker_starts_total", "Workers started.", gauges.worker_restarts);
    counter(out, "pruned_worker_deaths_total", "Workers that died.", gauges.worker_deaths);
}

void handle_metrics(struct request *request)
{
    struct api *api = request->api;
    struct text out = {0};
    struct rusage usage;
    head(&out, "pruned_build_info", "gauge", "Always 1; the labels tell.");
    text_append_format(&out, "pruned_build_info{version=\"%s\"} 1\n", PRUNED_VERSION);
    put_storage(&out, api);
    put_workers(&out, api);
    put_http(&out, api);
    (void)pthread_mutex_lock(&api->lock);
    size_t connections = api->connection_count, watches = api->watch_count;
    (void)pthread_mutex_unlock(&api->lock);
    gauge(&out, "pruned_http_connections", "Open connections.", (double)connections);
    gauge(&out, "pruned_http_long_polls", "Requests that wait for a job to change.", (double)watches);
    counter(&out, "pruned_http_upload_bytes_total", "Bytes of blobs received.",
            atomic_load(&api->upload_bytes));
    counter(&out, "pruned_http_refused_total", "Requests refused by the header gate.",
            atomic_load(&api->refused_requests));
    counter(&out, "pruned_http_cut_total", "Connections cut for being too slow.",
            atomic_load(&api->reaped_connections));
    if (getrusage(RUSAGE_SELF, &usage) == 0) {
        double cpu = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                     (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
        head(&out, "process_cpu_seconds_total", "counter", "CPU time of the service itself.");
        text_append_format(&out, "process_cpu_seconds_total %.6f\n", cpu);
        gauge(&out, "process_max_resident_memory_bytes", "Peak resident memory.",
              (double)usage.ru_maxrss * 1024.0);
    }
    gauge(&out, "process_start_time_seconds", "Unix time of the start.", (double)api->started_at_ms / 1000.0);
    request_answer_text(request, 200, "text/plain; version=0.0.4; charset=utf-8", out.bytes);
    text_finish(&out);
}
