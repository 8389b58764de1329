/*
 * storage/storage_jobs.c: commands on jobs.
 *
 * Every change goes one way: find the newest version, job_apply, write the row guarded by the state and epoch
 * it was read with, append the event, and remember the result in the overlay for the rest of the batch. After
 * the commit the result goes into the projection, on_change hears of it, and the caller gets its answer.
 *
 * Claiming is first fit: the first job in order that fits the memory that is free. A larger one at the head
 * is passed over, for a caller claims only when a slot is idle, and a slot that could work must not wait.
 */
#include "base/check.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/spec.h"
#include "base/text.h"
#include "storage/job_internal.h"
#include "storage/storage_internal.h"
#include <stdio.h>
#include <string.h>

/* ---- the overlay --------------------------------------------------------------------------------------- */

static size_t find_slot(const struct overlay *overlay, const char *job_id)
{
    size_t hash = 14695981039346656037u;
    for (const char *at = job_id; *at != '\0'; at++) {
        hash = (hash ^ (unsigned char)*at) * 1099511628211u;
    }
    size_t slot = hash & (OVERLAY_SLOTS - 1);
    while (overlay->slots[slot].id[0] != '\0' && strcmp(overlay->slots[slot].id, job_id) != 0) {
        slot = (slot + 1) & (OVERLAY_SLOTS - 1);
    }
    return slot;
}

/* job NULL: deleted. */
static void remember(struct overlay *overlay, const char *job_id, struct job *job)
{
    size_t slot = find_slot(overlay, job_id);
    if (overlay->slots[slot].id[0] == '\0') {
        (void)snprintf(overlay->slots[slot].id, sizeof overlay->slots[slot].id, "%s", job_id);
        overlay->used[overlay->count++] = slot;
    }
    job_release(overlay->slots[slot].job);
    overlay->slots[slot].job = job == NULL ? NULL : job_acquire(job);
}

void storage_clear_overlay(struct storage *storage)
{
    struct overlay *overlay = &storage->overlay;
    for (size_t i = 0; i < overlay->count; i++) {
        job_release(overlay->slots[overlay->used[i]].job);
        overlay->slots[overlay->used[i]].job = NULL;
        overlay->slots[overlay->used[i]].id[0] = '\0';
    }
    overlay->count = 0;
}

/* ---- reading and changing one job ---------------------------------------------------------------------- */

static bool say_unknown(const char *job_id, struct error *error)
{
    (void)error_set(error, ERROR_NOT_FOUND, "there is no job %.64s", job_id);
    return false;
}

bool storage_load_job(struct storage *storage, const char *tenant_id, const char *job_id,
                      struct job **ret_job, struct error *error)
{
    if (strlen(job_id) >= sizeof((struct job *)0)->id) {
        return say_unknown(job_id, error);
    }
    size_t slot = find_slot(&storage->overlay, job_id);
    if (storage->overlay.slots[slot].id[0] != '\0') {
        struct job *job = storage->overlay.slots[slot].job;
        if (job == NULL || strcmp(job->tenant_id, tenant_id) != 0) {
            return say_unknown(job_id, error);
        }
        *ret_job = job_acquire(job);
        return true;
    }
    struct job *job = projection_find(storage->projection, tenant_id, job_id);
    if (job == NULL &&
        !storage->database->operations->find_job(storage->database, tenant_id, job_id, &job, error)) {
        return false;
    }
    if (job == NULL) {
        return say_unknown(job_id, error);
    }
    *ret_job = job;
    return true;
}

static bool append_event(struct storage *storage, const struct job *job, const struct job_effects *effects,
                         json_t *data, struct error *error)
{
    struct storage_event row = {.created_at_ms = job->updated_at_ms,
                                .level = effects->log_level,
                                .type = effects->log_type,
                                .message = effects->log_message};
    struct identifier id;
    if (!rng_identifier("evt_", row.created_at_ms, &id, error)) {
        return false;
    }
    (void)snprintf(row.id, sizeof row.id, "%s", id.text);
    JSON_OWNED own = NULL;
    if (data == NULL && strcmp(effects->log_type, "message") != 0) {
        own = json_object();
        json_put_text(own, "status", job_state_slug(job->state));
        json_put_text(own, "stage", job->stage);
        json_put_text(own, "status_reason", job->status_reason);
        json_put_i64(own, "attempt", job->attempt_count);
        json_put_i64(own, "epoch", (int64_t)job->epoch);
    }
    row.data = data != NULL ? data : own;
    return storage->database->operations->append_event(storage->database, job, &row, error);
}

static bool insert_artifacts(struct storage *storage, const struct job *job, struct error *error)
{
    size_t index;
    json_t *file;
    json_array_foreach(job->files, index, file)
    {
        const char *path = json_string_value(json_object_get(file, "path"));
        const char *sha256 = json_string_value(json_object_get(file, "sha256"));
        json_int_t bytes = json_integer_value(json_object_get(file, "bytes"));
        if (path == NULL || sha256 == NULL || bytes < 0) {
            return error_set(error, ERROR_INVALID_ARGUMENT, "file %zu of job %s lacks path, sha256 or bytes",
                             index, job->id);
        }
        if (!storage->database->operations->insert_artifact(storage->database, job, path, sha256,
                                                            (uint64_t)bytes, error)) {
            return false;
        }
    }
    return true;
}

bool storage_change_job(struct storage *storage, const struct job *job, const struct job_event *event,
                        struct job **ret_next, struct job_effects *ret_effects, struct error *error)
{
    struct job *next = NULL;
    if (!job_apply(job, event, clock_wall_ms(storage->clock), &next, ret_effects, error)) {
        return false;
    }
    CHECK(next != NULL);
    const struct database_operations *operations = storage->database->operations;
    bool published = job->state != JOB_STATE_SUCCEEDED && next->state == JOB_STATE_SUCCEEDED;
    if (ret_effects->changed && (!operations->update_job(storage->database, job, next, error) ||
                                 !append_event(storage, next, ret_effects, event->data, error) ||
                                 (published && !insert_artifacts(storage, next, error)))) {
        job_release(next);
        return false;
    }
    remember(&storage->overlay, next->id, next);
    *ret_next = next;
    return true;
}

/* ---- the command ----------------------------------------------------------------------------------------
 */

struct job_command {
    struct command base;
    storage_job_done *done;
    void *context;
    char *tenant_id, *job_id; /* NULL where the kind needs none */
    /* insert */
    char *type, *name, *status_reason, *idempotency_key, *request_sha256;
    json_t *spec, *plan;
    uint64_t memory_bytes;
    /* apply */
    struct job_event event; /* its texts and documents are owned */
    struct error event_error;
    /* results */
    struct job *job, *previous; /* references */
    struct job_effects effects;
    bool replayed;
};

static struct job_command *make(const struct command_kind *kind, const char *tenant_id, const char *job_id,
                                storage_job_done *done, void *context)
{
    struct job_command *command = memory_create(1, sizeof *command);
    command->base.kind = kind;
    command->tenant_id = memory_copy_text(tenant_id);
    command->job_id = memory_copy_text(job_id);
    command->done = done;
    command->context = context;
    return command;
}

static void forget(struct command *base)
{
    struct job_command *command = (struct job_command *)base;
    job_release(TAKE(command->job));
    job_release(TAKE(command->previous));
    command->effects = (struct job_effects){0};
    command->replayed = false;
}

static void free_text(const char *text)
{
    char *owned = NULL;
    memcpy(&owned, &text, sizeof owned); /* the event's texts are const to its readers */
    free(owned);
}

static void destroy(struct command *base)
{
    struct job_command *command = (struct job_command *)base;
    forget(base);
    free(command->tenant_id);
    free(command->job_id);
    free(command->type);
    free(command->name);
    free(command->status_reason);
    free(command->idempotency_key);
    free(command->request_sha256);
    json_decref(command->spec);
    json_decref(command->plan);
    free_text(command->event.stage);
    free_text(command->event.level);
    free_text(command->event.message);
    free_text(command->event.revision);
    free_text(command->event.error_stage);
    json_decref(command->event.data);
    json_decref(command->event.plan);
    json_decref(command->event.files);
    json_decref(command->event.result);
    free(command);
}

struct recall {
    struct storage *storage;
    const char *tenant_id;
};

static void recall_job(void *context, const char *job_id)
{
    const struct recall *recall = context;
    struct job *job = NULL;
    struct error error;
    if (storage_load_job(recall->storage, recall->tenant_id, job_id, &job, &error) &&
        job_state_is_terminal(
            job->state)) { /* a live one is there, or comes by the command that revived it */
        projection_put(recall->storage->projection, job, job);
    }
    job_release(job);
}

void storage_recall_needed(struct storage *storage, const struct job *job)
{
    struct recall recall = {storage, job->tenant_id};
    spec_visit_jobs(job->spec, recall_job, &recall);
}

static void publish(struct storage *storage, struct command *base)
{
    struct job_command *command = (struct job_command *)base;
    if (command->job == NULL || !command->effects.changed) {
        return;
    }
    projection_put(storage->projection, command->job, command->previous);
    if (!job_state_is_terminal(command->job->state) &&
        (command->previous == NULL || job_state_is_terminal(command->previous->state))) {
        storage_recall_needed(storage, command->job);
    }
    /* A job that was cancelled while it waited for its next attempt has checkpoints and no attempt that would clear up. */
    if (command->job->state == JOB_STATE_CANCELLED && command->job->epoch > 0) {
        storage_remove_work_folder(storage, command->job->id);
    }
}

static void answer(struct storage *storage, struct command *base, const struct error *error)
{
    struct job_command *command = (struct job_command *)base;
    if (error == NULL && command->job != NULL && command->effects.changed && storage->on_change != NULL) {
        storage->on_change(storage->on_change_context, command->job, &command->effects);
    }
    if (command->done != NULL) {
        command->done(command->context, command->job, command->replayed, error);
    }
}

/* ---- insert -------------------------------------------------------------------------------------------- */

static bool replay(struct storage *storage, struct job_command *command, bool *ret_known, struct error *error)
{
    char job_id[40];
    char request_sha256[65];
    if (!storage->database->operations->find_idempotency_key(
            storage->database, command->tenant_id, command->idempotency_key, job_id, request_sha256, error)) {
        return false;
    }
    *ret_known = job_id[0] != '\0';
    if (!*ret_known) {
        return true;
    }
    const char *wanted = command->request_sha256 != NULL ? command->request_sha256 : "";
    if (strcmp(wanted, request_sha256) != 0) {
        return error_set(error, ERROR_IDEMPOTENCY_MISMATCH,
                         "the idempotency key was used before, with another request, for job %s", job_id);
    }
    command->replayed = true;
    return storage_load_job(storage, command->tenant_id, job_id, &command->job, error);
}

static struct job *draft_job(const struct job_command *command, const char *job_id, int64_t now_ms)
{
    struct job *job = job_create();
    (void)snprintf(job->id, sizeof job->id, "%s", job_id);
    (void)snprintf(job->tenant_id, sizeof job->tenant_id, "%s", command->tenant_id);
    job->type = memory_copy_text(command->type);
    job->name = memory_copy_text(command->name);
    job->status_reason = memory_copy_text(command->status_reason);
    job->state = command->plan == NULL ? JOB_STATE_VALIDATING : JOB_STATE_QUEUED;
    job->created_at_ms = now_ms;
    job->updated_at_ms = now_ms;
    job->queued_at_ms = command->plan == NULL ? 0 : now_ms;
    job->memory_bytes = command->memory_bytes;
    job->version = 1;
    job->spec = json_incref(command->spec);
    job->plan = json_incref(command->plan);
    return job;
}

static bool run_insert(struct storage *storage, struct command *base, struct error *error)
{
    struct job_command *command = (struct job_command *)base;
    bool known = false;
    if (command->idempotency_key != NULL && (!replay(storage, command, &known, error) || known)) {
        return known && command->job != NULL;
    }
    json_int_t disk_bytes = json_integer_value(json_object_get(command->plan, "disk_bytes"));
    struct identifier id;
    int64_t now_ms = clock_wall_ms(storage->clock);
    if (!storage_has_room(storage, disk_bytes > 0 ? (uint64_t)disk_bytes : 0, error) ||
        !rng_identifier("job_", now_ms, &id, error)) {
        return false;
    }
    struct job *job = draft_job(command, id.text, now_ms);
    struct job_effects effects = {.changed = true,
                                  .wake_scheduler = job->state == JOB_STATE_QUEUED,
                                  .log_type = "status",
                                  .log_level = "info"};
    (void)snprintf(effects.log_message, sizeof effects.log_message, "accepted, %s",
                   job_state_slug(job->state));
    if (!storage->database->operations->insert_job(storage->database, job, command->idempotency_key,
                                                   command->request_sha256, &job->row, error) ||
        !append_event(storage, job, &effects, NULL, error)) {
        job_release(job);
        return false;
    }
    remember(&storage->overlay, job->id, job);
    command->job = job;
    command->effects = effects;
    return true;
}

static const struct command_kind kind_insert = {.writes = true,
                                                .run = run_insert,
                                                .publish = publish,
                                                .answer = answer,
                                                .forget = forget,
                                                .destroy = destroy};

void storage_insert_job(struct storage *storage, const struct job_draft *draft, storage_job_done *done,
                        void *context)
{
    struct job_command *command = make(&kind_insert, draft->tenant_id, NULL, done, context);
    command->type = memory_copy_text(draft->type);
    command->name = memory_copy_text(draft->name);
    command->status_reason = memory_copy_text(draft->status_reason);
    command->idempotency_key = memory_copy_text(draft->idempotency_key);
    command->request_sha256 = memory_copy_text(draft->request_sha256);
    command->spec = json_deep_copy(draft->spec);
    command->plan = json_deep_copy(draft->plan);
    command->memory_bytes = draft->memory_bytes;
    storage_post(storage, &command->base);
}

/* ---- apply, claim, delete, get ------------------------------------------------------------------------- */

static bool run_apply(struct storage *storage, struct command *base, struct error *error)
{
    struct job_command *command = (struct job_command *)base;
    struct job *job = NULL;
    if (!storage_load_job(storage, command->tenant_id, command->job_id, &job, error)) {
        return false;
    }
    command->previous = job;
    return storage_change_job(storage, job, &command->event, &command->job, &command->effects, error);
}

static const struct command_kind kind_apply = {.writes = true,
                                               .run = run_apply,
                                               .publish = publish,
                                               .answer = answer,
                                               .forget = forget,
                                               .destroy = destroy};

void storage_apply(struct storage *storage, const char *tenant_id, const char *job_id,
                   const struct job_event *event, storage_job_done *done, void *context)
{
    struct job_command *command = make(&kind_apply, tenant_id, job_id, done, context);
    command->event = *event;
    command->event.stage = memory_copy_text(event->stage);
    command->event.level = memory_copy_text(event->level);
    command->event.message = memory_copy_text(event->message);
    command->event.revision = memory_copy_text(event->revision);
    command->event.error_stage = memory_copy_text(event->error_stage);
    command->event.data = json_deep_copy(event->data);
    command->event.plan = json_deep_copy(event->plan);
    command->event.files = json_deep_copy(event->files);
    command->event.result = json_deep_copy(event->result);
    if (event->error != NULL) {
        command->event_error = *event->error;
        command->event.error = &command->event_error;
    }
    storage_post(storage, &command->base);
}

static bool run_claim(struct storage *storage, struct command *base, struct error *error)
{
    struct job_command *command = (struct job_command *)base;
    char tenant_id[40];
    char job_id[40];
    if (!storage->database->operations->find_runnable_job(storage->database, clock_wall_ms(storage->clock),
                                                          command->memory_bytes, tenant_id, job_id, error)) {
        return false;
    }
    if (job_id[0] == '\0') {
        return true;
    }
    struct job_event event = {.kind = JOB_EVENT_CLAIMED};
    return storage_load_job(storage, tenant_id, job_id, &command->previous, error) &&
           storage_change_job(storage, command->previous, &event, &command->job, &command->effects, error);
}

static const struct command_kind kind_claim = {.writes = true,
                                               .run = run_claim,
                                               .publish = publish,
                                               .answer = answer,
                                               .forget = forget,
                                               .destroy = destroy};

void storage_claim_job(struct storage *storage, uint64_t memory_limit_bytes, storage_job_done *done,
                       void *context)
{
    struct job_command *command = make(&kind_claim, NULL, NULL, done, context);
    command->memory_bytes = memory_limit_bytes;
    storage_post(storage, &command->base);
}

static bool run_delete(struct storage *storage, struct command *base, struct error *error)
{
    struct job_command *command = (struct job_command *)base;
    struct job *job = NULL;
    if (!storage_load_job(storage, command->tenant_id, command->job_id, &job, error)) {
        return false;
    }
    CHECK(job != NULL);
    command->job = job;
    if (!job_state_is_terminal(job->state)) {
        return error_set(error, ERROR_CONFLICT, "job %s is %s; only a finished job can be deleted", job->id,
                         job_state_slug(job->state));
    }
    if (!storage->database->operations->delete_job(storage->database, job, error)) {
        return false;
    }
    remember(&storage->overlay, job->id, NULL);
    return true;
}

/* True while an attempt may be reading the result of `job`. No later attempt will: its source is gone. */
static bool is_result_in_use(struct storage *storage, const struct job *job)
{
    unsigned held = 1u << JOB_STATE_RUNNING | 1u << JOB_STATE_CANCELLING;
    const struct job_filter filter = {.tenant_id = job->tenant_id, .state_mask = held};
    struct job_list list = {0};
    bool is_used = !projection_list(storage->projection, &filter, SIZE_MAX, &list);
    for (size_t i = 0; i < list.count && !is_used; i++) {
        for (size_t k = 0; k < SPEC_MODEL_COUNT && !is_used; k++) {
            const char *model = spec_model(list.jobs[i]->spec, k);
            is_used = model != NULL && text_starts_with(model, "job:") &&
                      strcmp(model + strlen("job:"), job->id) == 0;
        }
    }
    job_list_finish(&list);
    return is_used;
}

/* With the job goes the folder that its result was laid out in as a model, or at the next start. */
static void publish_delete(struct storage *storage, struct command *base)
{
    struct job_command *command = (struct job_command *)base;
    projection_remove(storage->projection, command->job);
    storage_remove_work_folder(storage, command->job->id);
    if (!is_result_in_use(storage, command->job)) {
        storage_discard_model(storage, command->job->id);
    }
}

static const struct command_kind kind_delete = {.writes = true,
                                                .run = run_delete,
                                                .publish = publish_delete,
                                                .answer = answer,
                                                .forget = forget,
                                                .destroy = destroy};

void storage_delete_job(struct storage *storage, const char *tenant_id, const char *job_id,
                        storage_job_done *done, void *context)
{
    storage_post(storage, &make(&kind_delete, tenant_id, job_id, done, context)->base);
}

struct job *storage_peek_job(struct storage *storage, const char *tenant_id, const char *job_id)
{
    return projection_find(storage->projection, tenant_id, job_id);
}

static bool run_get(struct storage *storage, struct command *base, struct error *error)
{
    struct job_command *command = (struct job_command *)base;
    return storage_load_job(storage, command->tenant_id, command->job_id, &command->job, error);
}

static const struct command_kind kind_get = {
    .writes = false, .run = run_get, .answer = answer, .forget = forget, .destroy = destroy};

void storage_get_job(struct storage *storage, const char *tenant_id, const char *job_id,
                     storage_job_done *done, void *context)
{
    struct job *job = storage_peek_job(storage, tenant_id, job_id);
    if (job != NULL) {
        done(context, job, false, NULL);
        job_release(job);
        return;
    }
    storage_post(storage, &make(&kind_get, tenant_id, job_id, done, context)->base);
}

void storage_progress(struct storage *storage, const char *job_id, uint64_t epoch,
                      const struct job_progress *progress)
{
    if (!projection_report(storage->projection, job_id, epoch, progress)) {
        return;
    }
    pthread_mutex_lock(&storage->queue_lock);
    storage->reported = true;
    pthread_cond_signal(&storage->queue_wake);
    pthread_mutex_unlock(&storage->queue_lock);
}
