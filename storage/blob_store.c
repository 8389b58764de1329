/* storage/blob_store.c: see the header for the one way in and for the sweep. */
#include "storage/blob_store.h"

#include "base/check.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/text.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define WINDOW_BYTES (1 << 20)

struct blob_store {
    /* fixed after open */
    char *blobs, *temporaries;
    const struct clock_source *clock;
    char start[17]; /* random: marks this opening's temporaries */
    atomic_uint_fast64_t temporary_count;
    pthread_mutex_t lock; /* of names in blobs/: renames, touches and deletes, never held while hashing */
    /* guarded by lock */
    uint64_t blob_count, blob_bytes;
};

bool blob_store_open(const char *folder, const struct clock_source *clock, struct blob_store **ret_store,
                     struct error *error)
{
    uint64_t random = 0;
    if (!rng_fill_entropy(&random, sizeof random, error)) {
        return false;
    }
    struct blob_store *store = memory_create(1, sizeof *store);
    store->clock = clock;
    store->blobs = file_join(folder, "blobs");
    store->temporaries = file_join(folder, "tmp");
    (void)snprintf(store->start, sizeof store->start, "%016llx", (unsigned long long)random);
    CHECK(pthread_mutex_init(&store->lock, NULL) == 0);
    if (!file_make_folders(store->blobs, 0700, error) ||
        !file_make_folders(store->temporaries, 0700, error)) {
        blob_store_close(store);
        return false;
    }
    *ret_store = store;
    return true;
}

void blob_store_close(struct blob_store *store)
{
    if (store == NULL) {
        return;
    }
    (void)pthread_mutex_destroy(&store->lock);
    free(store->blobs);
    free(store->temporaries);
    free(store);
}

/* ---- temporaries --------------------------------------------------------------------------------------- */

char *blob_store_name_temporary(struct blob_store *store, const char *kind)
{
    struct text path = {0};
    text_append_format(&path, "%s/%s-%s-%llu", store->temporaries, store->start, kind,
                       (unsigned long long)atomic_fetch_add(&store->temporary_count, 1));
    return text_take(&path);
}

void blob_store_sweep_temporaries(struct blob_store *store)
{
    DIR *folder = opendir(store->temporaries);
    if (folder == NULL) {
        return;
    }
    for (struct dirent *item = readdir(folder); item != NULL; item = readdir(folder)) {
        if (item->d_name[0] == '.' || text_starts_with(item->d_name, store->start)) {
            continue;
        }
        OWNED_MEMORY char *path = file_join(store->temporaries, item->d_name);
        struct error error = {0};
        if (!file_remove_tree(path, &error)) {
            log_warning("a leftover cannot be removed", LOG_TEXT("path", path),
                        LOG_TEXT("reason", error.message));
        }
    }
    (void)closedir(folder);
}

char *blob_store_discard(struct blob_store *store, const char *path)
{
    char *to = blob_store_name_temporary(store, "discarded");
    if (file_system->rename(path, to) != 0) {
        if (errno != ENOENT) {
            log_warning("cannot be moved away", LOG_TEXT("path", path), LOG_TEXT("reason", strerror(errno)));
        }
        free(to);
        return NULL;
    }
    return to;
}

/* ---- the way in ---------------------------------------------------------------------------------------- */

/* blobs/ab, owned. */
static char *shard_of(const struct blob_store *store, const char *sha256)
{
    struct text path = {0};
    text_append_format(&path, "%s/%.2s", store->blobs, sha256);
    return text_take(&path);
}

static char *path_of(const struct blob_store *store, const char *sha256)
{
    struct text path = {0};
    text_append_format(&path, "%s/%.2s/%s", store->blobs, sha256, sha256);
    return text_take(&path);
}

static bool hash_descriptor(int fd, const char *name, char ret_hex[SHA256_HEX], uint64_t *ret_bytes,
                            struct error *error)
{
    uint64_t bytes = 0;
    if (!file_size(fd, &bytes, error)) {
        return false;
    }
    OWNED_MEMORY unsigned char *window = memory_create(WINDOW_BYTES, 1);
    struct sha256 hash;
    sha256_start(&hash);
    for (uint64_t at = 0; at < bytes;) {
        size_t count = bytes - at < WINDOW_BYTES ? (size_t)(bytes - at) : WINDOW_BYTES;
        if (!file_read_at(fd, window, count, at, name, error)) {
            return false;
        }
        sha256_update(&hash, window, count);
        at += count;
    }
    sha256_end_hex(&hash, ret_hex);
    *ret_bytes = bytes;
    return true;
}

static bool verify(int fd, const char *path, const char *sha256, uint64_t bytes, uint64_t *ret_bytes,
                   struct error *error)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash != NULL ? slash + 1 : path;
    char found[SHA256_HEX];
    if (!hash_descriptor(fd, name, found, ret_bytes, error)) {
        return false;
    }
    if (bytes != UINT64_MAX && *ret_bytes != bytes) {
        return error_set_field(error, ERROR_CHECKSUM_MISMATCH, name,
                               "%s has %llu bytes where %llu were announced", name,
                               (unsigned long long)*ret_bytes, (unsigned long long)bytes);
    }
    if (strcmp(found, sha256) != 0) {
        return error_set_field(error, ERROR_CHECKSUM_MISMATCH, name,
                               "the content has sha256 %s where %s was announced", found, sha256);
    }
    return true;
}

static bool is_older(const struct blob_store *store, const struct stat *status, int64_t age_ms)
{
    int64_t changed_ms = (int64_t)status->st_mtim.tv_sec * 1000 + status->st_mtim.tv_nsec / 1000000;
    return clock_wall_ms(store->clock) - changed_ms > age_ms;
}

/* Young enough for whoever counts on it now. Not at every look: the modification time is shared with the hard links of
 * registered models, and a new one makes the next attempt read the whole model again. */
static bool refresh(const struct blob_store *store, const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 &&
           (!is_older(store, &status, BLOB_SWEEP_AGE_MS / 2) || file_system->touch(path) == 0);
}

static bool size_of(const char *path, uint64_t *ret_bytes)
{
    struct stat status;
    if (stat(path, &status) != 0 || !S_ISREG(status.st_mode)) {
        return false;
    }
    *ret_bytes = (uint64_t)status.st_size;
    return true;
}

/* Under the lock. A blob of another length was damaged from outside; the good bytes take its place. What was written long
 * ago (before a long evaluation) counts from now on: the sweep must not take it before its job is committed. */
static bool place(struct blob_store *store, const char *from, const char *to, uint64_t bytes,
                  bool *ret_existed, struct error *error)
{
    bool placed = file_system->touch(from) == 0 && file_system->rename_noreplace(from, to) == 0;
    if (!placed && errno != EEXIST) {
        return error_set_errno(error, errno, "publishing %s", to);
    }
    uint64_t there = 0;
    if (placed) {
        store->blob_count++;
        store->blob_bytes += bytes;
        *ret_existed = false;
        return true;
    }
    if (!size_of(to, &there) || there != bytes) {
        log_warning("a damaged blob is replaced", LOG_TEXT("path", to), LOG_I64("bytes", there));
        *ret_existed = false;
        return file_system->rename(from, to) == 0 || error_set_errno(error, errno, "publishing %s", to);
    }
    if (!refresh(store, to) || file_system->unlink(from) != 0) {
        return error_set_errno(error, errno, "publishing %s", to);
    }
    *ret_existed = true;
    return true;
}

bool blob_store_adopt(struct blob_store *store, const char *path, int fd, const char *sha256, uint64_t bytes,
                      bool *ret_existed, struct error *error)
{
    OWNED_MEMORY char *shard = shard_of(store, sha256);
    OWNED_MEMORY char *to = path_of(store, sha256);
    if (!verify(fd, path, sha256, bytes, &bytes, error) || !file_sync(fd, error) ||
        !file_make_folders(shard, 0700, error)) {
        return false;
    }
    pthread_mutex_lock(&store->lock);
    bool placed = place(store, path, to, bytes, ret_existed, error);
    pthread_mutex_unlock(&store->lock);
    /* Also when it existed: the other publication may not have come to its own sync yet. */
    return placed && file_sync_folder(shard, error);
}

/* ---- reading ------------------------------------------------------------------------------------------- */

bool blob_store_hold(struct blob_store *store, const char *sha256, uint64_t *ret_bytes)
{
    if (!sha256_hex_is_valid(sha256)) {
        return false;
    }
    OWNED_MEMORY char *path = path_of(store, sha256);
    pthread_mutex_lock(&store->lock);
    bool held = size_of(path, ret_bytes) && refresh(store, path);
    pthread_mutex_unlock(&store->lock);
    return held;
}

int blob_store_open_blob(struct blob_store *store, const char *sha256, uint64_t bytes, struct error *error)
{
    OWNED_MEMORY char *path = path_of(store, sha256);
    OWNED_FD int fd = file_open_read(path, error);
    uint64_t there = 0;
    if (fd < 0 || !file_size(fd, &there, error)) {
        return -1;
    }
    if (there != bytes) {
        (void)error_set_field(error, ERROR_CORRUPT_FILE, sha256,
                              "blob %s has %llu bytes where %llu were stored", sha256,
                              (unsigned long long)there, (unsigned long long)bytes);
        return -1;
    }
    return fd_take(&fd);
}

static bool copy_blob(const char *from, const char *path, struct error *error)
{
    OWNED_FD int source = file_open_read(from, error);
    uint64_t bytes = 0;
    if (source < 0 || !file_size(source, &bytes, error)) {
        return false;
    }
    OWNED_FD int target = file_create(path, 0400, error);
    OWNED_MEMORY unsigned char *window = memory_create(WINDOW_BYTES, 1);
    bool copied = target >= 0;
    for (uint64_t at = 0; copied && at < bytes;) {
        size_t count = bytes - at < WINDOW_BYTES ? (size_t)(bytes - at) : WINDOW_BYTES;
        copied =
            file_read_at(source, window, count, at, from, error) && file_append(target, window, count, error);
        at += count;
    }
    return copied && file_sync(target, error);
}

bool blob_store_link(struct blob_store *store, const char *sha256, const char *path, struct error *error)
{
    OWNED_MEMORY char *from = path_of(store, sha256);
    if (file_system->link(from, path) == 0) {
        return true;
    }
    if (errno != EMLINK && errno != EPERM && errno != EOPNOTSUPP) {
        return error_set_errno(error, errno, "linking %s", path);
    }
    return copy_blob(from, path, error);
}

/* ---- the sweep ----------------------------------------------------------------------------------------- */

void blob_list_finish(struct blob_list *list)
{
    free(list->hashes);
    *list = (struct blob_list){0};
}

struct census {
    const struct blob_store *store;
    struct blob_list *list;
    uint64_t count, bytes;
};

static bool visit(const char *relative, const struct stat *status, void *context, struct error *error)
{
    (void)error;
    struct census *census = context;
    const char *name = strrchr(relative, '/');
    if (!S_ISREG(status->st_mode) || name == NULL || !sha256_hex_is_valid(name + 1)) {
        return true;
    }
    census->count++;
    census->bytes += (uint64_t)status->st_size;
    if (is_older(census->store, status, BLOB_SWEEP_AGE_MS)) {
        struct blob_list *list = census->list;
        if (list->count == list->capacity) {
            list->capacity = list->capacity == 0 ? 64 : list->capacity * 2;
            list->hashes = memory_resize(list->hashes, list->capacity, sizeof *list->hashes);
        }
        (void)snprintf(list->hashes[list->count++], sizeof *list->hashes, "%s", name + 1);
    }
    return true;
}

bool blob_store_list_old(struct blob_store *store, struct blob_list *list, struct error *error)
{
    struct census census = {.store = store, .list = list};
    if (!file_walk(store->blobs, visit, &census, error)) {
        return false;
    }
    pthread_mutex_lock(&store->lock);
    store->blob_count = census.count;
    store->blob_bytes = census.bytes;
    pthread_mutex_unlock(&store->lock);
    return true;
}

bool blob_store_remove_old(struct blob_store *store, const char *sha256)
{
    OWNED_MEMORY char *path = path_of(store, sha256);
    struct stat status;
    pthread_mutex_lock(&store->lock);
    bool removed = stat(path, &status) == 0 && is_older(store, &status, BLOB_SWEEP_AGE_MS) &&
                   file_system->unlink(path) == 0;
    if (removed) {
        store->blob_count -= store->blob_count > 0 ? 1 : 0;
        uint64_t bytes = (uint64_t)status.st_size;
        store->blob_bytes -= store->blob_bytes < bytes ? store->blob_bytes : bytes;
    }
    pthread_mutex_unlock(&store->lock);
    return removed;
}

void blob_store_get_counts(struct blob_store *store, uint64_t *ret_count, uint64_t *ret_bytes)
{
    pthread_mutex_lock(&store->lock);
    *ret_count = store->blob_count;
    *ret_bytes = store->blob_bytes;
    pthread_mutex_unlock(&store->lock);
}
