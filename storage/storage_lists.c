/* storage/storage_lists.c: pages of jobs and of events. */
#include "base/memory.h"
#include "storage/storage_internal.h"
#include <string.h>

#define PAGE_LIMIT  100
#define EVENT_LIMIT 1000

void job_list_add(struct job_list *list, struct job *taken)
{
    if (list->count == list->capacity) {
        list->capacity = list->capacity == 0 ? 64 : list->capacity * 2;
        list->jobs = memory_resize(list->jobs, list->capacity, sizeof(struct job *));
    }
    list->jobs[list->count++] = taken;
}

void job_list_finish(struct job_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        job_release(list->jobs[i]);
    }
    free(list->jobs);
    *list = (struct job_list){0};
}

static void free_text(const char *text)
{
    char *owned = NULL;
    memcpy(&owned, &text, sizeof owned); /* const to the readers of an event */
    free(owned);
}

void event_list_finish(struct event_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        free_text(list->events[i].level);
        free_text(list->events[i].type);
        free_text(list->events[i].message);
        json_decref(list->events[i].data);
    }
    free(list->events);
    *list = (struct event_list){0};
}

/* ---- jobs ---------------------------------------------------------------------------------------------- */

struct list_command {
    struct command base;
    storage_jobs_done *done;
    void *context;
    struct job_filter filter; /* its texts are owned */
    char *texts[4];
    struct job_list list;
};

/* One more than the page was asked for, to know whether there is more. */
static void answer_page(storage_jobs_done *done, void *context, const struct job_list *list, size_t limit)
{
    bool has_more = list->count > limit;
    done(context, list->jobs, has_more ? limit : list->count, has_more, NULL);
}

static bool run_list(struct storage *storage, struct command *base, struct error *error)
{
    struct list_command *command = (struct list_command *)base;
    int64_t after_row = 0;
    if (command->filter.after != NULL) {
        struct job *after = NULL;
        if (!storage_load_job(storage, command->filter.tenant_id, command->filter.after, &after, error)) {
            return false;
        }
        after_row = after->row;
        job_release(after);
    }
    if (!storage->database->operations->list_jobs(storage->database, &command->filter, after_row,
                                                  command->filter.limit + 1, &command->list, error)) {
        return false;
    }
    /* What is in memory is newer: it has the progress. */
    for (size_t i = 0; i < command->list.count; i++) {
        struct job *stored = command->list.jobs[i];
        struct job *newer = projection_find(storage->projection, stored->tenant_id, stored->id);
        if (newer != NULL && newer->state == stored->state) {
            command->list.jobs[i] = newer;
            job_release(stored);
        } else {
            job_release(newer);
        }
    }
    return true;
}

static void answer_list(struct storage *storage, struct command *base, const struct error *error)
{
    (void)storage;
    struct list_command *command = (struct list_command *)base;
    if (error != NULL) {
        command->done(command->context, NULL, 0, false, error);
        return;
    }
    answer_page(command->done, command->context, &command->list, command->filter.limit);
}

static void forget_list(struct command *base)
{
    job_list_finish(&((struct list_command *)base)->list);
}

static void destroy_list(struct command *base)
{
    struct list_command *command = (struct list_command *)base;
    forget_list(base);
    for (size_t i = 0; i < sizeof command->texts / sizeof *command->texts; i++) {
        free(command->texts[i]);
    }
    free(command);
}

static const struct command_kind kind_list = {
    .writes = false, .run = run_list, .answer = answer_list, .forget = forget_list, .destroy = destroy_list};

void storage_list_jobs(struct storage *storage, const struct job_filter *filter, storage_jobs_done *done,
                       void *context)
{
    struct error error = {0};
    if (filter->limit < 1 || filter->limit > PAGE_LIMIT) {
        (void)error_set_field(&error, ERROR_OUT_OF_RANGE, "limit", "limit is %zu; it must be 1 to %d",
                              filter->limit, PAGE_LIMIT);
        done(context, NULL, 0, false, &error);
        return;
    }
    struct job_list list = {0};
    if (projection_list(storage->projection, filter, filter->limit + 1, &list)) {
        answer_page(done, context, &list, filter->limit);
        job_list_finish(&list);
        return;
    }
    job_list_finish(&list);
    struct list_command *command = memory_create(1, sizeof *command);
    command->base.kind = &kind_list;
    command->done = done;
    command->context = context;
    command->filter = *filter;
    command->filter.tenant_id = command->texts[0] = memory_copy_text(filter->tenant_id);
    command->filter.type = command->texts[1] = memory_copy_text(filter->type);
    command->filter.method = command->texts[2] = memory_copy_text(filter->method);
    command->filter.after = command->texts[3] = memory_copy_text(filter->after);
    storage_post(storage, &command->base);
}

/* ---- events -------------------------------------------------------------------------------------------- */

struct events_command {
    struct command base;
    storage_events_done *done;
    void *context;
    char *tenant_id, *job_id;
    int64_t after_seq;
    size_t limit;
    struct event_list list;
};

static bool run_events(struct storage *storage, struct command *base, struct error *error)
{
    struct events_command *command = (struct events_command *)base;
    struct job *job = NULL;
    if (!storage_load_job(storage, command->tenant_id, command->job_id, &job, error)) {
        return false;
    }
    bool listed = storage->database->operations->list_events(storage->database, job, command->after_seq,
                                                             command->limit + 1, &command->list, error);
    job_release(job);
    return listed;
}

static void answer_events(struct storage *storage, struct command *base, const struct error *error)
{
    (void)storage;
    struct events_command *command = (struct events_command *)base;
    if (error != NULL) {
        command->done(command->context, NULL, 0, false, error);
        return;
    }
    bool has_more = command->list.count > command->limit;
    command->done(command->context, command->list.events, has_more ? command->limit : command->list.count,
                  has_more, NULL);
}

static void forget_events(struct command *base)
{
    event_list_finish(&((struct events_command *)base)->list);
}

static void destroy_events(struct command *base)
{
    struct events_command *command = (struct events_command *)base;
    forget_events(base);
    free(command->tenant_id);
    free(command->job_id);
    free(command);
}

static const struct command_kind kind_events = {.writes = false,
                                                .run = run_events,
                                                .answer = answer_events,
                                                .forget = forget_events,
                                                .destroy = destroy_events};

void storage_list_events(struct storage *storage, const char *tenant_id, const char *job_id,
                         int64_t after_seq, size_t limit, storage_events_done *done, void *context)
{
    struct events_command *command = memory_create(1, sizeof *command);
    command->base.kind = &kind_events;
    command->done = done;
    command->context = context;
    command->tenant_id = memory_copy_text(tenant_id);
    command->job_id = memory_copy_text(job_id);
    command->after_seq = after_seq;
    command->limit = limit < 1 ? 1 : limit > EVENT_LIMIT ? EVENT_LIMIT : limit;
    storage_post(storage, &command->base);
}
