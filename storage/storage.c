/*
 * storage/storage.c: opening, recovery and closing.
 *
 * What a start does, in order: the folder, the database (which also proves that no one else is here), the
 * live jobs and the newest finished ones into memory, the recovery of jobs that were running (their leases
 * are void: whoever held them is dead), then the threads, and behind the caller's back the sweeps.
 */
#include "storage/storage.h"

#include "base/check.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "storage/job_internal.h"
#include "storage/storage_internal.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/vfs.h>

#define RESERVE_BYTES_DEFAULT (256u << 20)
#define FINISHED_DEFAULT      10000
/* Reports of progress raise a version without being stored. So that a restart does not repeat a version that
 * was already seen, a job that could have reported jumps ahead of anything it can have reached. */
#define VERSION_JUMP          (UINT64_C(1) << 32)

/* Locks and renames over the network do not mean what they say. */
static bool refuse_network(const char *folder, struct error *error)
{
    struct statfs status;
    if (statfs(folder, &status) != 0) {
        return error_set_errno(error, errno, "%s", folder);
    }
    unsigned long type = (unsigned long)status.f_type & 0xffffffffu;
    if (type == 0x6969u || type == 0xff534d42u || type == 0xfe534d42u || type == 0x517bu) {
        return error_set(error, ERROR_UNSUPPORTED,
                         "%s is on a network file system (NFS or SMB); the store needs a local one", folder);
    }
    return true;
}

static bool open_folder(struct storage *storage, struct error *error)
{
    OWNED_MEMORY char *work = file_join(storage->folder, "work");
    OWNED_MEMORY char *models = file_join(storage->folder, "models");
    return file_make_folders(storage->folder, 0700, error) && refuse_network(storage->folder, error) &&
           file_make_folders(work, 0700, error) && file_make_folders(models, 0700, error);
}

/* Jobs that were held by an attempt go back to the queue, or, when a cancel was under way, to their end. */
static bool recover(struct storage *storage, struct job_list *list, struct error *error)
{
    const struct database_operations *operations = storage->database->operations;
    if (!operations->begin(storage->database, error)) {
        return false;
    }
    size_t recovered = 0;
    bool good = true;
    for (size_t i = 0; good && i < list->count; i++) {
        struct job *job = list->jobs[i];
        if (job->state != JOB_STATE_RUNNING && job->state != JOB_STATE_CANCELLING) {
            continue;
        }
        job->version += VERSION_JUMP; /* nobody else has seen this snapshot yet */
        struct job_event event = {.kind = JOB_EVENT_RELEASED,
                                  .epoch = job->epoch,
                                  .message = "the service restarted; queued again"};
        struct job_effects effects;
        struct job *next = NULL;
        good = storage_change_job(storage, job, &event, &next, &effects, error);
        if (good) {
            list->jobs[i] = next;
            job_release(job);
            recovered++;
            /* The overlay is made for one batch; here the list itself carries the newest versions. */
            storage_clear_overlay(storage);
        }
    }
    if (!good || !operations->commit(storage->database, error)) {
        operations->rollback(storage->database);
        return false;
    }
    if (recovered > 0) {
        log_info("jobs of the last run were recovered", LOG_I64("count", recovered));
    }
    return true;
}

static bool load(struct storage *storage, size_t finished_limit, struct error *error)
{
    const struct database_operations *operations = storage->database->operations;
    struct job_list list = {0};
    int64_t left_out_row = 0;
    uint64_t by_state[JOB_STATE_COUNT] = {0};
    bool loaded = operations->load_jobs(storage->database, finished_limit, &list, &left_out_row, error) &&
                  recover(storage, &list, error) &&
                  operations->count_jobs(storage->database, by_state, error) &&
                  storage_load_models(storage, error);
    for (size_t i = 0; loaded && i < list.count; i++) {
        projection_put(storage->projection, list.jobs[i], NULL);
    }
    for (size_t i = 0; loaded && i < list.count; i++) {
        if (!job_state_is_terminal(list.jobs[i]->state)) {
            storage_recall_needed(storage, list.jobs[i]);
        }
    }
    job_list_finish(&list);
    if (loaded) {
        projection_note_left_out(storage->projection, left_out_row);
        projection_set_counts(storage->projection, by_state);
    }
    return loaded;
}

static struct storage *create(const struct storage_options *options)
{
    struct storage *storage = memory_create(1, sizeof *storage);
    storage->folder = memory_copy_text(options->folder);
    storage->clock = options->clock != NULL ? options->clock : &clock_system;
    storage->reserve_bytes = options->reserve_bytes != 0 ? options->reserve_bytes : RESERVE_BYTES_DEFAULT;
    storage->on_change = options->on_change;
    storage->on_change_context = options->on_change_context;
    storage->last = &storage->first;
    pthread_condattr_t attributes;
    CHECK(pthread_condattr_init(&attributes) == 0 &&
          pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) == 0);
    CHECK(pthread_cond_init(&storage->queue_wake, &attributes) == 0);
    CHECK(pthread_mutex_init(&storage->queue_lock, NULL) == 0 &&
          pthread_mutex_init(&storage->models_lock, NULL) == 0);
    (void)pthread_condattr_destroy(&attributes);
    return storage;
}

bool storage_open(const struct storage_options *options, struct storage **ret_storage, struct error *error)
{
    struct storage *storage = create(options);
    size_t finished_limit = options->finished_in_memory != 0 ? options->finished_in_memory : FINISHED_DEFAULT;
    storage->projection = projection_create(finished_limit, PROJECTION_FINISHED_BYTES);
    struct database_options database = {.folder = storage->folder,
                                        .quota_bytes = options->database_quota_bytes};
    if (!open_folder(storage, error) || !sqlite_open_database(&database, &storage->database, error) ||
        !blob_store_open(storage->folder, storage->clock, &storage->blobs, error) ||
        !load(storage, finished_limit, error) || !io_pool_create(&storage->pool, error) ||
        !storage_start_thread(storage, error)) {
        storage_close(storage);
        return false;
    }
    storage_sweep_folders(storage);
    storage_sweep_later(storage);
    *ret_storage = storage;
    return true;
}

/* Tasks post commands, so the pool runs dry first; the last commands post only removals, which the pool runs
 * before it ends. */
void storage_close(struct storage *storage)
{
    if (storage == NULL) {
        return;
    }
    atomic_store(&storage->closing, true);
    if (storage->pool != NULL) {
        io_pool_drain(storage->pool);
    }
    storage_stop_thread(storage);
    io_pool_destroy(storage->pool);
    storage_clear_overlay(storage);
    if (storage->database != NULL) {
        storage->database->operations->close(storage->database);
    }
    projection_destroy(storage->projection);
    model_list_finish(&storage->models);
    blob_store_close(storage->blobs);
    (void)pthread_cond_destroy(&storage->queue_wake);
    (void)pthread_mutex_destroy(&storage->queue_lock);
    (void)pthread_mutex_destroy(&storage->models_lock);
    free(storage->folder);
    free(storage);
}

const char *storage_folder(const struct storage *storage)
{
    return storage->folder;
}

void storage_get_counts(struct storage *storage, struct storage_counts *ret_counts)
{
    *ret_counts = (struct storage_counts){0};
    projection_get_counts(storage->projection, clock_wall_ms(storage->clock), ret_counts);
    blob_store_get_counts(storage->blobs, &ret_counts->blob_count, &ret_counts->blob_bytes);
    ret_counts->database_bytes = atomic_load(&storage->database_bytes);
    ret_counts->commits = atomic_load(&storage->commits);
    ret_counts->commands = atomic_load(&storage->commands);
}
