/*
 * storage/storage_uploads.c: bytes from outside become a blob. The caller's thread appends to a temporary
 * (that is only the page cache); the I/O pool hashes, syncs and renames.
 */
#include "base/check.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"
#include "storage/storage_internal.h"
#include <stdio.h>
#include <unistd.h>

#define UPLOAD_MAGIC 0x75706c64u

struct storage_upload {
    unsigned magic;
    struct storage *storage;
    char *path;
    int fd;
    uint64_t expected_bytes, bytes; /* expected 0: unknown */
    /* once finished */
    char sha256[SHA256_HEX];
    storage_blob_done *done;
    void *context;
};

bool storage_find_blob(struct storage *storage, const char *sha256, uint64_t *ret_bytes)
{
    return blob_store_hold(storage->blobs, sha256, ret_bytes);
}

struct storage_upload *storage_open_upload(struct storage *storage, uint64_t expected_bytes,
                                           struct error *error)
{
    if (!storage_has_room(storage, expected_bytes, error)) {
        return NULL;
    }
    OWNED_MEMORY char *path = blob_store_name_temporary(storage->blobs, "upload");
    int fd = file_create(path, 0400, error);
    if (fd < 0) {
        return NULL;
    }
    struct storage_upload *upload = memory_create(1, sizeof *upload);
    upload->magic = UPLOAD_MAGIC;
    upload->storage = storage;
    upload->path = TAKE(path);
    upload->fd = fd;
    upload->expected_bytes = expected_bytes;
    return upload;
}

bool storage_append_upload(struct storage_upload *upload, const void *bytes, size_t count,
                           struct error *error)
{
    CHECK(upload->magic == UPLOAD_MAGIC);
    if (upload->expected_bytes > 0 && upload->expected_bytes - upload->bytes < count) {
        return error_set(error, ERROR_TOO_LARGE,
                         "the upload was announced with %llu bytes and goes on after them",
                         (unsigned long long)upload->expected_bytes);
    }
    if (!file_append(upload->fd, bytes, count, error)) {
        return error_prefix(error, "upload: ");
    }
    upload->bytes += count;
    return true;
}

static void destroy(struct storage_upload *upload)
{
    upload->magic = 0;
    (void)close(upload->fd);
    free(upload->path);
    free(upload);
}

void storage_abandon_upload(struct storage_upload *upload)
{
    if (upload == NULL) {
        return;
    }
    CHECK(upload->magic == UPLOAD_MAGIC);
    (void)file_system->unlink(upload->path); /* if it stays, the next start sweeps it */
    destroy(upload);
}

static void run_finish(void *context)
{
    struct storage_upload *upload = context;
    struct error error = {0};
    bool existed = false;
    uint64_t expected = upload->expected_bytes > 0 ? upload->expected_bytes : UINT64_MAX;
    bool adopted = false;
    if (!sha256_hex_is_valid(upload->sha256)) {
        (void)error_set(&error, ERROR_INVALID_ARGUMENT, "a blob is named by 64 lower-case hex digits");
    } else {
        adopted = blob_store_adopt(upload->storage->blobs, upload->path, upload->fd, upload->sha256, expected,
                                   &existed, &error);
    }
    upload->done(upload->context, adopted ? upload->bytes : 0, existed, adopted ? NULL : &error);
    if (adopted) {
        destroy(upload);
    } else {
        storage_abandon_upload(upload);
    }
}

void storage_finish_upload(struct storage_upload *upload, const char *sha256, storage_blob_done *done,
                           void *context)
{
    CHECK(upload->magic == UPLOAD_MAGIC);
    (void)snprintf(upload->sha256, sizeof upload->sha256, "%s", sha256);
    upload->done = done;
    upload->context = context;
    io_pool_post(upload->storage->pool, run_finish, upload);
}
