/*
 * storage/projection.c: a hash table by id over entries that also stand in a list by row, and, when finished,
 * in a queue by time of finishing; when a report waits, in a list of reports.
 */
#include "storage/projection.h"

#include "base/check.h"
#include "base/memory.h"
#include "base/spec.h"
#include "storage/job_internal.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct link { /* a member of a circular list; the list's head is a link too */
    struct link *before, *after;
};

struct entry {
    struct link by_row, by_finish, by_report; /* the latter two unlinked (NULL) when not in their list */
    struct entry *same_bucket;
    struct job *job; /* a reference of the projection's */
    struct job_progress report;
    char report_unit[24];
    uint64_t report_epoch;
    int64_t report_due_ns; /* not published before */
    int64_t bytes;         /* of a finished job: roughly what its documents take */
};

struct projection {
    size_t finished_limit; /* fixed after create */
    int64_t finished_bytes_limit;
    pthread_mutex_t lock;
    /* guarded by lock */
    struct entry **buckets;
    size_t bucket_count, entry_count, finished_count;
    int64_t finished_bytes;
    struct link rows, finishes, reports;
    int64_t left_out_row;
    uint64_t by_state[JOB_STATE_COUNT];
    json_t *needed; /* {"<job id>": how many names of it the specs of live jobs hold} */
};

#define ENTRY_OF(link, member) ((struct entry *)(void *)((char *)(link)-offsetof(struct entry, member)))

static void link_insert_before(struct link *position, struct link *link)
{
    link->before = position->before;
    link->after = position;
    position->before->after = link;
    position->before = link;
}

static void link_remove(struct link *link)
{
    if (link->before != NULL) {
        link->before->after = link->after;
        link->after->before = link->before;
        link->before = NULL;
        link->after = NULL;
    }
}

static size_t hash_text(const char *text)
{
    size_t hash = 14695981039346656037u; /* FNV-1a */
    for (; *text != '\0'; text++) {
        hash = (hash ^ (unsigned char)*text) * 1099511628211u;
    }
    return hash;
}

struct projection *projection_create(size_t finished_limit, int64_t finished_bytes_limit)
{
    struct projection *projection = memory_create(1, sizeof *projection);
    projection->finished_limit = finished_limit;
    projection->finished_bytes_limit = finished_bytes_limit;
    projection->bucket_count = 1024;
    projection->buckets = memory_create(projection->bucket_count, sizeof(struct entry *));
    projection->needed = json_object();
    CHECK(pthread_mutex_init(&projection->lock, NULL) == 0);
    struct link *heads[] = {&projection->rows, &projection->finishes, &projection->reports};
    for (size_t i = 0; i < 3; i++) {
        heads[i]->before = heads[i];
        heads[i]->after = heads[i];
    }
    return projection;
}

/* ---- under the lock ------------------------------------------------------------------------------------ */

static struct entry **find_slot(struct projection *projection, const char *job_id)
{
    struct entry **slot = &projection->buckets[hash_text(job_id) & (projection->bucket_count - 1)];
    while (*slot != NULL && strcmp((*slot)->job->id, job_id) != 0) {
        slot = &(*slot)->same_bucket;
    }
    return slot;
}

static void grow(struct projection *projection)
{
    size_t old_count = projection->bucket_count;
    struct entry **old = projection->buckets;
    projection->bucket_count = old_count * 2;
    projection->buckets = memory_create(projection->bucket_count, sizeof(struct entry *));
    for (size_t i = 0; i < old_count; i++) {
        while (old[i] != NULL) {
            struct entry *entry = old[i];
            old[i] = entry->same_bucket;
            entry->same_bucket = NULL;
            *find_slot(projection, entry->job->id) = entry;
        }
    }
    free(old);
}

/* Takes the entry out of everything and returns its job, with the reference. */
static struct job *drop(struct projection *projection, struct entry *entry)
{
    struct entry **slot = find_slot(projection, entry->job->id);
    *slot = entry->same_bucket;
    if (entry->by_finish.before != NULL) {
        projection->finished_count--;
        projection->finished_bytes -= entry->bytes;
    }
    link_remove(&entry->by_row);
    link_remove(&entry->by_finish);
    link_remove(&entry->by_report);
    projection->entry_count--;
    struct job *job = entry->job;
    free(entry);
    return job;
}

static bool is_held(const struct job *job, uint64_t epoch)
{
    return job->epoch == epoch && (job->state == JOB_STATE_RUNNING || job->state == JOB_STATE_CANCELLING);
}

static void place_by_row(struct projection *projection, struct entry *entry)
{
    struct link *position = &projection->rows;
    while (position->before != &projection->rows &&
           ENTRY_OF(position->before, by_row)->job->row > entry->job->row) {
        position = position->before;
    }
    link_insert_before(position, &entry->by_row);
}

/* A node of a document takes some 64 bytes, and a member's name or a text its length on top. */
static int64_t weigh(const json_t *json)
{
    int64_t bytes = json == NULL ? 0 : 64;
    if (json_is_string(json)) {
        bytes += (int64_t)json_string_length(json);
    } else if (json_is_array(json)) {
        for (size_t i = 0; i < json_array_size(json); i++) {
            bytes += weigh(json_array_get(json, i));
        }
    } else if (json_is_object(json)) {
        json_t *members = NULL; /* jansson iterates over what it takes for writable */
        memcpy(&members, &json, sizeof members);
        const char *name;
        json_t *value;
        json_object_foreach(members, name, value)
        {
            bytes += 64 + (int64_t)strlen(name) + weigh(value);
        }
    }
    return bytes;
}

static int64_t weigh_job(const struct job *job)
{
    return (int64_t)sizeof *job + weigh(job->spec) + weigh(job->plan) + weigh(job->steps) +
           weigh(job->result) + weigh(job->error) + weigh(job->files);
}

struct naming {
    json_t *needed;
    json_int_t change;
};

static void count_name(void *context, const char *job_id)
{
    const struct naming *naming = context;
    json_int_t count = json_integer_value(json_object_get(naming->needed, job_id)) + naming->change;
    if (count > 0) {
        json_put_i64(naming->needed, job_id, count);
    } else {
        (void)json_object_del(naming->needed, job_id);
    }
}

/* What a live job's spec names is needed until that job has ended. */
static void count_needed(struct projection *projection, const struct job *before, const struct job *after)
{
    bool was_live = before != NULL && !job_state_is_terminal(before->state);
    bool is_live = !job_state_is_terminal(after->state);
    if (was_live != is_live) {
        struct naming naming = {projection->needed, is_live ? 1 : -1};
        spec_visit_jobs(after->spec, count_name, &naming);
    }
}

static struct entry *find_unneeded(struct projection *projection)
{
    for (struct link *link = projection->finishes.after; link != &projection->finishes; link = link->after) {
        struct entry *entry = ENTRY_OF(link, by_finish);
        if (json_object_get(projection->needed, entry->job->id) == NULL) {
            return entry;
        }
    }
    return NULL;
}

/* The finished job that leaves first, if one has to and may. Its reference goes to the caller. */
static struct job *evict(struct projection *projection)
{
    if (projection->finished_count <= projection->finished_limit &&
        projection->finished_bytes <= projection->finished_bytes_limit) {
        return NULL;
    }
    struct entry *oldest = find_unneeded(projection);
    if (oldest == NULL) {
        return NULL;
    }
    int64_t row = oldest->job->row;
    projection->left_out_row = row > projection->left_out_row ? row : projection->left_out_row;
    return drop(projection, oldest);
}

/* Loads come by row, so at the start the queue of the finished is sorted by walking back; later it is an
 * append. */
static void place_by_finish(struct projection *projection, struct entry *entry)
{
    bool finished = job_state_is_terminal(entry->job->state);
    if (finished == (entry->by_finish.before != NULL)) {
        return;
    }
    if (!finished) {
        link_remove(&entry->by_finish);
        projection->finished_count--;
        projection->finished_bytes -= entry->bytes;
        return;
    }
    struct link *position = &projection->finishes;
    while (position->before != &projection->finishes &&
           ENTRY_OF(position->before, by_finish)->job->finished_at_ms > entry->job->finished_at_ms) {
        position = position->before;
    }
    link_insert_before(position, &entry->by_finish);
    entry->bytes = weigh_job(entry->job);
    projection->finished_count++;
    projection->finished_bytes += entry->bytes;
}

/* ---- the DB thread's side ------------------------------------------------------------------------------ */

void projection_destroy(struct projection *projection)
{
    if (projection == NULL) {
        return;
    }
    while (projection->rows.after != &projection->rows) {
        job_release(drop(projection, ENTRY_OF(projection->rows.after, by_row)));
    }
    (void)pthread_mutex_destroy(&projection->lock);
    json_decref(projection->needed);
    free(projection->buckets);
    free(projection);
}

static void take_usage(const struct job_progress *report, struct job *job)
{
    job->peak_rss_bytes =
        report->peak_rss_bytes > job->peak_rss_bytes ? report->peak_rss_bytes : job->peak_rss_bytes;
    job->cpu_seconds = report->cpu_seconds;
}

void projection_put(struct projection *projection, struct job *job, const struct job *previous)
{
    struct job *replaced = NULL;
    pthread_mutex_lock(&projection->lock);
    struct entry *entry = *find_slot(projection, job->id);
    if (entry == NULL) {
        if (projection->entry_count >= projection->bucket_count) {
            grow(projection);
        }
        entry = memory_create(1, sizeof *entry);
        entry->job = job_acquire(job);
        *find_slot(projection, job->id) = entry;
        place_by_row(projection, entry);
        projection->entry_count++;
        if (previous != NULL) {
            projection->by_state[previous->state]--;
        }
    } else {
        replaced = entry->job;
        projection->by_state[entry->job->state]--;
        entry->job = job_acquire(job);
    }
    projection->by_state[job->state]++;
    if (!is_held(job, entry->report_epoch)) {
        if (entry->by_report.before != NULL && entry->report_epoch == job->epoch) {
            /* Its last word about memory and time; nobody else holds the job yet. */
            take_usage(&entry->report, job);
        }
        link_remove(&entry->by_report); /* a report of an attempt that has ended */
    }
    count_needed(projection, replaced, job);
    place_by_finish(projection, entry);
    struct job *evicted = evict(projection);
    pthread_mutex_unlock(&projection->lock);
    job_release(replaced);
    while (evicted != NULL) { /* freed outside of the lock */
        job_release(evicted);
        pthread_mutex_lock(&projection->lock);
        evicted = evict(projection);
        pthread_mutex_unlock(&projection->lock);
    }
}

void projection_remove(struct projection *projection, const struct job *job)
{
    struct job *released = NULL;
    pthread_mutex_lock(&projection->lock);
    projection->by_state[job->state]--;
    struct entry *entry = *find_slot(projection, job->id);
    if (entry != NULL) {
        released = drop(projection, entry);
    }
    pthread_mutex_unlock(&projection->lock);
    job_release(released);
}

void projection_note_left_out(struct projection *projection, int64_t row)
{
    pthread_mutex_lock(&projection->lock);
    projection->left_out_row = row > projection->left_out_row ? row : projection->left_out_row;
    pthread_mutex_unlock(&projection->lock);
}

void projection_set_counts(struct projection *projection, const uint64_t by_state[8])
{
    pthread_mutex_lock(&projection->lock);
    memcpy(projection->by_state, by_state, sizeof projection->by_state);
    pthread_mutex_unlock(&projection->lock);
}

/* ---- readers ------------------------------------------------------------------------------------------- */

struct job *projection_find(struct projection *projection, const char *tenant_id, const char *job_id)
{
    pthread_mutex_lock(&projection->lock);
    struct entry *entry = *find_slot(projection, job_id);
    struct job *job = NULL;
    if (entry != NULL && (tenant_id == NULL || strcmp(entry->job->tenant_id, tenant_id) == 0)) {
        job = job_acquire(entry->job);
    }
    pthread_mutex_unlock(&projection->lock);
    return job;
}

static bool matches(const struct job *job, const struct job_filter *filter)
{
    if (strcmp(job->tenant_id, filter->tenant_id) != 0 ||
        (filter->state_mask != 0 && (filter->state_mask & (1u << job->state)) == 0) ||
        (filter->type != NULL && strcmp(job->type, filter->type) != 0)) {
        return false;
    }
    if (filter->method == NULL) {
        return true;
    }
    const char *method = json_string_value(json_object_get(json_object_get(job->spec, "method"), "type"));
    return method != NULL && strcmp(method, filter->method) == 0;
}

/* Where a listing begins; NULL: behind a job that is not here. */
static struct link *find_start(struct projection *projection, const struct job_filter *filter)
{
    if (filter->after == NULL) {
        return &projection->rows;
    }
    struct entry *entry = *find_slot(projection, filter->after);
    bool known = entry != NULL && strcmp(entry->job->tenant_id, filter->tenant_id) == 0;
    return known ? &entry->by_row : NULL;
}

bool projection_list(struct projection *projection, const struct job_filter *filter, size_t limit,
                     struct job_list *list)
{
    unsigned finished = 1u << JOB_STATE_SUCCEEDED | 1u << JOB_STATE_FAILED | 1u << JOB_STATE_CANCELLED;
    bool only_live = filter->state_mask != 0 && (filter->state_mask & finished) == 0;
    pthread_mutex_lock(&projection->lock);
    struct link *at = find_start(projection, filter);
    bool complete = at != NULL;
    /* Oldest first begins where jobs have left; newest first meets that edge at left_out_row. */
    int64_t edge = only_live ? 0 : projection->left_out_row;
    if (complete && filter->ascending && edge > 0 &&
        (at == &projection->rows || ENTRY_OF(at, by_row)->job->row < edge)) {
        complete = false;
    }
    while (complete && list->count < limit) {
        at = filter->ascending ? at->after : at->before;
        if (at == &projection->rows) {
            complete = filter->ascending || edge == 0;
            break;
        }
        struct job *job = ENTRY_OF(at, by_row)->job;
        if (job->row < edge) {
            complete = false;
        } else if (matches(job, filter)) {
            job_list_add(list, job_acquire(job));
        }
    }
    pthread_mutex_unlock(&projection->lock);
    return complete;
}

void projection_get_counts(struct projection *projection, int64_t now_ms, struct storage_counts *ret_counts)
{
    pthread_mutex_lock(&projection->lock);
    memcpy(ret_counts->by_state, projection->by_state, sizeof ret_counts->by_state);
    ret_counts->runnable = 0;
    ret_counts->oldest_queued_at_ms = 0;
    for (struct link *at = projection->rows.after; at != &projection->rows; at = at->after) {
        const struct job *job = ENTRY_OF(at, by_row)->job;
        if (job->state == JOB_STATE_QUEUED) {
            int64_t oldest = ret_counts->oldest_queued_at_ms;
            ret_counts->oldest_queued_at_ms =
                oldest == 0 || job->queued_at_ms < oldest ? job->queued_at_ms : oldest;
            ret_counts->runnable += job->run_at_ms <= now_ms ? 1 : 0;
        }
    }
    pthread_mutex_unlock(&projection->lock);
}

/* ---- progress ------------------------------------------------------------------------------------------ */

bool projection_report(struct projection *projection, const char *job_id, uint64_t epoch,
                       const struct job_progress *progress)
{
    pthread_mutex_lock(&projection->lock);
    struct entry *entry = *find_slot(projection, job_id);
    bool accepted = entry != NULL && is_held(entry->job, epoch);
    if (accepted) {
        entry->report = *progress;
        entry->report_epoch = epoch;
        entry->report.unit = NULL;
        (void)snprintf(entry->report_unit, sizeof entry->report_unit, "%s",
                       progress->unit != NULL ? progress->unit : "");
        if (entry->by_report.before == NULL) {
            link_insert_before(&projection->reports, &entry->by_report);
        }
    }
    pthread_mutex_unlock(&projection->lock);
    return accepted;
}

static struct job *make_snapshot(const struct entry *entry)
{
    struct job *next = job_copy(entry->job);
    const struct job_progress *report = &entry->report;
    next->version++;
    next->progress_ratio = report->ratio;
    next->progress_step = report->step;
    next->progress_steps = report->steps;
    next->progress_rate_per_second = report->rate_per_second;
    next->progress_eta_seconds = report->eta_seconds;
    memcpy(next->progress_unit, entry->report_unit, sizeof next->progress_unit);
    take_usage(report, next);
    return next;
}

struct job *projection_take_report(struct projection *projection, int64_t boot_ns, int64_t *ret_next_ns)
{
    struct job *next = NULL;
    struct job *released = NULL;
    int64_t next_ns = 0;
    pthread_mutex_lock(&projection->lock);
    struct link *at = projection->reports.after;
    while (at != &projection->reports && next == NULL) {
        struct entry *entry = ENTRY_OF(at, by_report);
        at = at->after;
        if (entry->report_due_ns > boot_ns) {
            next_ns = next_ns == 0 || entry->report_due_ns < next_ns ? entry->report_due_ns : next_ns;
            continue;
        }
        next = make_snapshot(entry);
        released = entry->job;
        entry->job = job_acquire(next);
        entry->report_due_ns = boot_ns + PROJECTION_REPORT_INTERVAL_NS;
        link_remove(&entry->by_report);
    }
    pthread_mutex_unlock(&projection->lock);
    job_release(released);
    *ret_next_ns = next_ns;
    return next;
}
