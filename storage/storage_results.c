/*
 * storage/storage_results.c: from what a worker wrote to what a client downloads.
 *
 * Publishing: each file under work/<job>.<epoch>/out/ is verified and adopted by the blob store (hash, fsync,
 * rename, fsync of the folder); then one fenced transaction writes the artifact rows and SUCCEEDED. A crash
 * before the commit leaves blobs nobody refers to, and the attempt is repeated; the repeat finds the blobs
 * and goes on.
 *
 * Folders are removed in two steps: a rename into tmp/, at once, so that a retry never takes over what is
 * being deleted; then the deletion on the I/O pool.
 */
#include "base/check.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/text.h"
#include "storage/storage_internal.h"
#include <dirent.h>
#include <errno.h>
#include <string.h>

bool storage_has_room(struct storage *storage, uint64_t bytes, struct error *error)
{
    uint64_t free_bytes = 0;
    uint64_t total_bytes = 0;
    if (!file_free_bytes(storage->folder, &free_bytes, &total_bytes, error)) {
        return false;
    }
    if (free_bytes < storage->reserve_bytes || free_bytes - storage->reserve_bytes < bytes) {
        return error_set(error, ERROR_STORAGE_FULL,
                         "%llu MiB of disk are free, %llu MiB are kept in reserve, and this needs %llu MiB",
                         (unsigned long long)(free_bytes >> 20),
                         (unsigned long long)(storage->reserve_bytes >> 20),
                         (unsigned long long)(bytes >> 20));
    }
    return true;
}

/* ---- removing ------------------------------------------------------------------------------------------ */

static void remove_tree(void *context)
{
    char *path = context;
    struct error error = {0};
    if (!file_remove_tree(path, &error)) {
        log_warning("cannot be removed now; the next start tries again", LOG_TEXT("path", path),
                    LOG_TEXT("reason", error.message));
    }
    free(path);
}

void storage_remove_later(struct storage *storage, char *path)
{
    if (path != NULL) {
        io_pool_post(storage->pool, remove_tree, path);
    }
}

/* ---- work folders -------------------------------------------------------------------------------------- */

/* "<job>.<epoch>" */
static bool parse_work_name(const char *name, char ret_job_id[40], uint64_t *ret_epoch)
{
    const char *dot = strrchr(name, '.');
    if (dot == NULL || (size_t)(dot - name) >= 40 || !text_parse_u64(dot + 1, strlen(dot + 1), ret_epoch)) {
        return false;
    }
    memcpy(ret_job_id, name, (size_t)(dot - name));
    ret_job_id[dot - name] = '\0';
    return true;
}

static char *name_work_folder(const struct storage *storage, const char *job_id, uint64_t epoch)
{
    struct text path = {0};
    text_append_format(&path, "%s/work/%s.%llu", storage->folder, job_id, (unsigned long long)epoch);
    return text_take(&path);
}

/* Calls visit(storage, job_id, epoch, context) for each folder of work/. Names are collected first: visits
 * rename. */
static void visit_work_folders(struct storage *storage,
                               void (*visit)(struct storage *storage, const char *job_id, uint64_t epoch,
                                             void *context),
                               void *context)
{
    OWNED_MEMORY char *path = file_join(storage->folder, "work");
    DIR *folder = opendir(path);
    if (folder == NULL) {
        return;
    }
    struct {
        char job_id[40];
        uint64_t epoch;
    } *found = NULL;
    size_t count = 0;
    for (struct dirent *item = readdir(folder); item != NULL; item = readdir(folder)) {
        char job_id[40];
        uint64_t epoch = 0;
        if (parse_work_name(item->d_name, job_id, &epoch)) {
            found = memory_resize(found, count + 1, sizeof *found);
            memcpy(found[count].job_id, job_id, sizeof job_id);
            found[count++].epoch = epoch;
        }
    }
    (void)closedir(folder);
    for (size_t i = 0; i < count; i++) {
        visit(storage, found[i].job_id, found[i].epoch, context);
    }
    free(found);
}

static void discard_work_folder(struct storage *storage, const char *job_id, uint64_t epoch)
{
    OWNED_MEMORY char *path = name_work_folder(storage, job_id, epoch);
    storage_remove_later(storage, blob_store_discard(storage->blobs, path));
}

struct takeover {
    const char *job_id;
    uint64_t epoch, newest;
    bool found;
};

static void find_newest(struct storage *storage, const char *job_id, uint64_t epoch, void *context)
{
    (void)storage;
    struct takeover *takeover = context;
    if (strcmp(job_id, takeover->job_id) == 0 && epoch < takeover->epoch &&
        (!takeover->found || epoch > takeover->newest)) {
        takeover->found = true;
        takeover->newest = epoch;
    }
}

static void discard_older(struct storage *storage, const char *job_id, uint64_t epoch, void *context)
{
    const struct takeover *takeover = context;
    if (strcmp(job_id, takeover->job_id) == 0 && epoch < takeover->epoch) {
        discard_work_folder(storage, job_id, epoch);
    }
}

char *storage_make_work_folder(struct storage *storage, const char *job_id, uint64_t epoch,
                               struct error *error)
{
    struct takeover takeover = {.job_id = job_id, .epoch = epoch};
    OWNED_MEMORY char *path = name_work_folder(storage, job_id, epoch);
    if (!file_is_folder(path)) {
        visit_work_folders(storage, find_newest, &takeover);
        OWNED_MEMORY char *from = name_work_folder(storage, job_id, takeover.newest);
        if (takeover.found && file_system->rename(from, path) != 0) {
            (void)error_set_errno(error, errno, "taking over %s", from);
            return NULL;
        }
        if (!takeover.found && file_system->mkdir(path, 0700) != 0) {
            (void)error_set_errno(error, errno, "making %s", path);
            return NULL;
        }
    }
    visit_work_folders(storage, discard_older, &takeover);
    return TAKE(path);
}

void storage_remove_work_folder(struct storage *storage, const char *job_id)
{
    struct takeover all = {.job_id = job_id, .epoch = UINT64_MAX};
    visit_work_folders(storage, discard_older, &all);
}

/* ---- publishing ---------------------------------------------------------------------------------------- */

struct publication {
    struct storage *storage;
    char *tenant_id, *job_id;
    uint64_t epoch;
    json_t *files, *result;
    storage_job_done *done;
    void *context;
};

static int compare_paths(const void *left, const void *right)
{
    const char *a = json_string_value(json_object_get(*(json_t *const *)left, "path"));
    const char *b = json_string_value(json_object_get(*(json_t *const *)right, "path"));
    return strcmp(a, b);
}

static bool check_file(const json_t *file, const char *pointer, struct error *error)
{
    const char *path = NULL;
    const char *sha256 = NULL;
    int64_t bytes = 0;
    if (!json_get_text(file, pointer, "path", &path, error) ||
        !json_get_text(file, pointer, "sha256", &sha256, error) ||
        !json_get_i64(file, pointer, "bytes", 0, INT64_MAX, &bytes, error)) {
        return false;
    }
    if (!file_name_is_safe(path)) {
        return error_set_field(error, ERROR_INVALID_ARGUMENT, pointer,
                               "\"%.100s\" is no file name we publish", path);
    }
    return sha256_hex_is_valid(sha256) || error_set_field(error, ERROR_INVALID_ARGUMENT, pointer,
                                                          "the sha256 of %.100s is not 64 hex digits", path);
}

/* Owned: checked, sorted by path, nothing but path, bytes and sha256. NULL on failure. */
static json_t *sort_files(const json_t *files, struct error *error)
{
    size_t count = json_array_size(files);
    if (!json_is_array(files) || count == 0) {
        (void)error_set_field(error, ERROR_INVALID_ARGUMENT, "/files", "the worker reported no files");
        return NULL;
    }
    OWNED_MEMORY json_t **sorted = memory_create(count, sizeof(json_t *));
    for (size_t i = 0; i < count; i++) {
        char pointer[48];
        (void)snprintf(pointer, sizeof pointer, "/files/%zu", i);
        sorted[i] = json_array_get(files, i);
        if (!check_file(sorted[i], pointer, error)) {
            return NULL;
        }
    }
    qsort(sorted, count, sizeof *sorted, compare_paths);
    json_t *list = json_array();
    CHECK(list != NULL);
    for (size_t i = 0; i < count; i++) {
        if (i > 0 && compare_paths(&sorted[i - 1], &sorted[i]) == 0) {
            (void)error_set_field(error, ERROR_INVALID_ARGUMENT, "/files", "the file %s is reported twice",
                                  json_string_value(json_object_get(sorted[i], "path")));
            json_decref(list);
            return NULL;
        }
        json_t *file = json_object();
        CHECK(file != NULL && json_array_append_new(list, file) == 0);
        json_put(file, "path", json_incref(json_object_get(sorted[i], "path")));
        json_put(file, "bytes", json_incref(json_object_get(sorted[i], "bytes")));
        json_put(file, "sha256", json_incref(json_object_get(sorted[i], "sha256")));
    }
    return list;
}

/* sha1 over "path NUL size NUL sha256 newline" of each file, but for report.*, whose times differ from run to
 * run. */
static void compute_revision(const json_t *files, char ret_revision[41])
{
    FINISHED(text) manifest = {0};
    size_t index;
    const json_t *file;
    json_array_foreach(files, index, file)
    {
        const char *path = json_string_value(json_object_get(file, "path"));
        if (text_starts_with(path, "report.")) {
            continue;
        }
        char size[32];
        int length = snprintf(size, sizeof size, "%lld",
                              (long long)json_integer_value(json_object_get(file, "bytes")));
        text_append_bytes(&manifest, path, strlen(path) + 1);
        text_append_bytes(&manifest, size, (size_t)length + 1);
        text_append(&manifest, json_string_value(json_object_get(file, "sha256")));
        text_append(&manifest, "\n");
    }
    sha1_hex_of(manifest.length > 0 ? manifest.bytes : "", manifest.length, ret_revision);
}

static bool adopt_file(struct storage *storage, const char *out, int out_fd, const json_t *file,
                       struct error *error)
{
    const char *path = json_string_value(json_object_get(file, "path"));
    const char *sha256 = json_string_value(json_object_get(file, "sha256"));
    uint64_t bytes = (uint64_t)json_integer_value(json_object_get(file, "bytes"));
    OWNED_FD int fd = file_open_beneath(out_fd, path, false, error);
    if (fd < 0) {
        uint64_t there = 0;
        if (error->code != ERROR_NOT_FOUND) {
            return false;
        }
        if (blob_store_hold(storage->blobs, sha256, &there) && there == bytes) {
            return true; /* moved by an earlier try of the same publication */
        }
        /* Not NOT_FOUND: to the caller that says that the job is gone and that nobody waits for its end. */
        return error_set_field(error, ERROR_CHECKSUM_MISMATCH, path,
                               "%s was announced with %llu bytes and was not written", path,
                               (unsigned long long)bytes);
    }
    bool existed = false;
    OWNED_MEMORY char *from = file_join(out, path);
    return blob_store_adopt(storage->blobs, from, fd, sha256, bytes, &existed, error) ||
           error_prefix(error, "publishing %s: ", path);
}

/* An attempt that no longer holds its job is told so before its files are moved; the transaction decides all
 * the same. Every live job is in memory. */
static bool check_epoch(const struct publication *publication, struct error *error)
{
    struct job *job = storage_peek_job(publication->storage, publication->tenant_id, publication->job_id);
    if (job == NULL) {
        return error_set(error, ERROR_NOT_FOUND, "there is no live job %.64s", publication->job_id);
    }
    bool held = job->epoch == publication->epoch &&
                (job->state == JOB_STATE_RUNNING || job->state == JOB_STATE_CANCELLING);
    if (!held) {
        (void)error_set(error, ERROR_FENCED,
                        "job %s is %s at epoch %llu; the result of epoch %llu came too late", job->id,
                        job_state_slug(job->state), (unsigned long long)job->epoch,
                        (unsigned long long)publication->epoch);
    }
    job_release(job);
    return held;
}

static bool adopt_files(const struct publication *publication, const json_t *files, struct error *error)
{
    OWNED_MEMORY char *work = name_work_folder(publication->storage, publication->job_id, publication->epoch);
    OWNED_MEMORY char *out = file_join(work, "out");
    OWNED_FD int out_fd = file_open_folder(out, error);
    if (out_fd < 0) {
        return error->code == ERROR_NOT_FOUND
                   ? error_set(error, ERROR_CHECKSUM_MISMATCH, "the attempt announced files and wrote none")
                   : false;
    }
    size_t index;
    const json_t *file;
    json_array_foreach(files, index, file)
    {
        if (!adopt_file(publication->storage, out, out_fd, file, error)) {
            return false;
        }
    }
    return true;
}

static void run_publication(void *context)
{
    struct publication *publication = context;
    struct error error = {0};
    JSON_OWNED files = NULL;
    if (check_epoch(publication, &error)) {
        files = sort_files(publication->files, &error);
    }
    if (files == NULL || !adopt_files(publication, files, &error)) {
        publication->done(publication->context, NULL, false, &error);
    } else {
        char revision[41];
        compute_revision(files, revision);
        struct job_event event = {.kind = JOB_EVENT_SUCCEEDED,
                                  .epoch = publication->epoch,
                                  .files = files,
                                  .result = publication->result,
                                  .revision = revision};
        storage_apply(publication->storage, publication->tenant_id, publication->job_id, &event,
                      publication->done, publication->context);
    }
    free(publication->tenant_id);
    free(publication->job_id);
    json_decref(publication->files);
    json_decref(publication->result);
    free(publication);
}

static void ignore_job(void *context, struct job *job, bool replayed, const struct error *error)
{
    (void)context;
    (void)job;
    (void)replayed;
    (void)error;
}

void storage_publish(struct storage *storage, const char *tenant_id, const char *job_id, uint64_t epoch,
                     json_t *files, json_t *result, storage_job_done *done, void *context)
{
    struct publication *publication = memory_create(1, sizeof *publication);
    publication->storage = storage;
    publication->tenant_id = memory_copy_text(tenant_id);
    publication->job_id = memory_copy_text(job_id);
    publication->epoch = epoch;
    publication->files = json_deep_copy(files);
    publication->result = json_deep_copy(result);
    publication->done = done != NULL ? done : ignore_job;
    publication->context = context;
    io_pool_post(storage->pool, run_publication, publication);
}

int storage_open_artifact(struct storage *storage, const struct job *job, const char *path,
                          uint64_t *ret_bytes, char ret_sha256[65], struct error *error)
{
    size_t index;
    const json_t *file;
    json_array_foreach(job->files, index, file)
    {
        const char *name = json_string_value(json_object_get(file, "path"));
        const char *sha256 = json_string_value(json_object_get(file, "sha256"));
        if (name == NULL || sha256 == NULL || strcmp(name, path) != 0) {
            continue;
        }
        uint64_t bytes = (uint64_t)json_integer_value(json_object_get(file, "bytes"));
        int fd = blob_store_open_blob(storage->blobs, sha256, bytes, error);
        if (fd >= 0) {
            *ret_bytes = bytes;
            memcpy(ret_sha256, sha256, 65);
        }
        return fd;
    }
    (void)error_set(error, ERROR_NOT_FOUND, "job %s has no file %.200s", job->id, path);
    return -1;
}

/* ---- sweeps -------------------------------------------------------------------------------------------- */

static void discard_if_stale(struct storage *storage, const char *job_id, uint64_t epoch, void *context)
{
    (void)context;
    struct job *job = projection_find(storage->projection, NULL, job_id);
    if (job == NULL || job_state_is_terminal(job->state)) {
        discard_work_folder(storage, job_id, epoch);
    }
    job_release(job);
}

void storage_sweep_folders(struct storage *storage)
{
    visit_work_folders(storage, discard_if_stale, NULL);
    OWNED_MEMORY char *path = file_join(storage->folder, "models");
    DIR *folder = opendir(path);
    if (folder == NULL) {
        return;
    }
    for (struct dirent *item = readdir(folder); item != NULL; item = readdir(folder)) {
        if (item->d_name[0] != '.' && !storage_has_model(storage, item->d_name)) {
            OWNED_MEMORY char *model = file_join(path, item->d_name);
            storage_remove_later(storage, blob_store_discard(storage->blobs, model));
        }
    }
    (void)closedir(folder);
}

struct sweep_command {
    struct command base;
    struct storage *storage;
    struct blob_list old, orphans;
};

static void remove_orphans(void *context)
{
    struct sweep_command *sweep = context;
    size_t removed = 0;
    for (size_t i = 0; i < sweep->orphans.count; i++) {
        removed += blob_store_remove_old(sweep->storage->blobs, sweep->orphans.hashes[i]) ? 1 : 0;
    }
    if (removed > 0) {
        log_info("blobs that nothing refers to were removed", LOG_I64("count", removed));
    }
    blob_list_finish(&sweep->old);
    blob_list_finish(&sweep->orphans);
    free(sweep);
}

static bool run_sweep(struct storage *storage, struct command *base, struct error *error)
{
    struct sweep_command *sweep = (struct sweep_command *)base;
    sweep->orphans.count = 0;
    sweep->orphans.hashes =
        memory_resize(sweep->orphans.hashes, sweep->old.count, sizeof *sweep->orphans.hashes);
    for (size_t i = 0; i < sweep->old.count; i++) {
        bool referenced = true;
        if (!storage->database->operations->is_blob_referenced(storage->database, sweep->old.hashes[i],
                                                               &referenced, error)) {
            sweep->orphans.count = 0;
            return false;
        }
        if (!referenced) {
            memcpy(sweep->orphans.hashes[sweep->orphans.count++], sweep->old.hashes[i],
                   sizeof *sweep->old.hashes);
        }
    }
    return true;
}

static void answer_sweep(struct storage *storage, struct command *base, const struct error *error)
{
    (void)storage;
    (void)base;
    if (error != NULL) {
        log_warning("the sweep of blobs was put off", LOG_TEXT("reason", error->message));
    }
}

/* The last step needs the disk, not the database: the command goes on to the pool, and ends there. */
static void hand_to_pool(struct command *base)
{
    struct sweep_command *sweep = (struct sweep_command *)base;
    io_pool_post(sweep->storage->pool, remove_orphans, sweep);
}

static const struct command_kind kind_sweep = {
    .writes = false, .run = run_sweep, .answer = answer_sweep, .destroy = hand_to_pool};

static void start_sweep(void *context)
{
    struct storage *storage = context;
    struct error error = {0};
    struct sweep_command *sweep = memory_create(1, sizeof *sweep);
    sweep->base.kind = &kind_sweep;
    sweep->storage = storage;
    blob_store_sweep_temporaries(storage->blobs);
    if (!blob_store_list_old(storage->blobs, &sweep->old, &error)) {
        log_warning("the sweep of blobs was put off", LOG_TEXT("reason", error.message));
    }
    if (sweep->old.count == 0 || atomic_load(&storage->closing)) {
        remove_orphans(sweep);
        return;
    }
    storage_post(storage, &sweep->base);
}

void storage_sweep_later(struct storage *storage)
{
    io_pool_post(storage->pool, start_sweep, storage);
}
