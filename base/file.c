/*
 * base/file.c: files and folders by whole operations. Every call that changes state on disk goes through the
 * table `file_system`; reading a folder, stat and openat2 change nothing and are called directly.
 */
#include "base/file.h"
#include "base/check.h"
#include "base/cleanup.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The table over the kernel. */

static int real_open(int folder_fd, const char *path, int flags, mode_t mode)
{
    return openat(folder_fd, path, flags, mode);
}

static int real_rename_noreplace(const char *from, const char *to)
{
    return renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE);
}

static int real_fallocate(int fd, off_t length)
{
    return fallocate(fd, 0, 0, length);
}

static int real_touch(const char *path)
{
    return utimensat(AT_FDCWD, path, NULL, AT_SYMLINK_NOFOLLOW);
}

const struct file_system file_system_real = {
    .open = real_open,
    .pread = pread,
    .pwrite = pwrite,
    .write = write,
    .fsync = fsync,
    .ftruncate = ftruncate,
    .rename_noreplace = real_rename_noreplace,
    .rename = rename,
    .link = link,
    .touch = real_touch,
    .unlink = unlink,
    .rmdir = rmdir,
    .mkdir = mkdir,
    .fallocate = real_fallocate,
};
const struct file_system *file_system = &file_system_real;
bool file_sync_failure_is_error = false;

/* Reading. */

/* Takes the descriptor: returns it, or closes it and fails, unless it is a regular file. */
static int file_keep_regular(int fd, const char *path, struct error *error)
{
    struct stat status;
    if (fstat(fd, &status) != 0) {
        (void)error_set_errno(error, errno, "%s", path);
        (void)close(fd);
        return -1;
    }
    if (!S_ISREG(status.st_mode)) {
        (void)error_set_field(error, ERROR_INVALID_ARGUMENT, path, "%s is not a regular file", path);
        (void)close(fd);
        return -1;
    }
    return fd;
}

int file_open_read(const char *path, struct error *error)
{
    /* O_NONBLOCK: opening a FIFO must not wait for a writer; it means nothing to a regular file. */
    int fd = file_system->open(AT_FDCWD, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0);
    if (fd < 0) {
        (void)error_set_errno(error, errno, "%s", path);
        return -1;
    }
    return file_keep_regular(fd, path, error);
}

static bool file_path_climbs(const char *path)
{
    if (*path == '/') {
        return true;
    }
    for (const char *at = path; *at != '\0';) {
        size_t length = strcspn(at, "/");
        if (length == 2 && at[0] == '.' && at[1] == '.') {
            return true;
        }
        at += length + (at[length] == '/');
    }
    return false;
}

int file_open_beneath(int folder_fd, const char *path, bool follow_links, struct error *error)
{
    if (file_path_climbs(path)) {
        (void)error_set_field(error, ERROR_FORBIDDEN, path,
                              "%s: the path must be relative and without \"..\"", path);
        return -1;
    }
    struct open_how how = {
        .flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | (follow_links ? 0u : RESOLVE_NO_SYMLINKS),
    };
    long fd = -1;
    int attempts = 0;
    do { /* EAGAIN: a folder on the way was renamed meanwhile */
        fd = syscall(SYS_openat2, folder_fd, path, &how, sizeof how);
    } while (fd < 0 && (errno == EINTR || (errno == EAGAIN && ++attempts < 100)));
    if (fd >= 0) {
        return file_keep_regular((int)fd, path, error);
    }
    int cause = errno;
    if (cause == EXDEV || cause == ELOOP) {
        (void)error_set_field(error, ERROR_FORBIDDEN, path, "%s: %s", path,
                              follow_links ? "the path leads outside its folder"
                                           : "symbolic links are not followed");
    } else if (cause == EACCES || cause == EPERM) {
        (void)error_set_field(error, ERROR_FORBIDDEN, path, "%s: permission denied", path);
    } else {
        (void)error_set_errno(error, cause, "%s", path);
    }
    return -1;
}

int file_open_folder(const char *path, struct error *error)
{
    int fd = file_system->open(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (fd < 0) {
        (void)error_set_errno(error, errno, "folder %s", path);
    }
    return fd;
}

bool file_read_at(int fd, void *bytes, size_t count, uint64_t offset, const char *name, struct error *error)
{
    unsigned char *at = bytes;
    size_t rest = count;
    if (offset > (uint64_t)INT64_MAX - count) {
        return error_set_field(error, ERROR_OUT_OF_RANGE, name, "%s: offset %llu is beyond any file", name,
                               (unsigned long long)offset);
    }
    while (rest > 0) {
        ssize_t got = file_system->pread(fd, at, rest, (off_t)offset);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return error_set_errno(error, errno, "%s: reading %zu bytes at %llu", name, rest,
                                   (unsigned long long)offset);
        }
        if (got == 0) {
            return error_set_field(error, ERROR_INPUT_CHANGED, name,
                                   "%s: the file ends at byte %llu, %zu bytes before it should", name,
                                   (unsigned long long)offset, rest);
        }
        at += got;
        rest -= (size_t)got;
        offset += (uint64_t)got;
    }
    return true;
}

char *file_load(const char *path, size_t limit_bytes, size_t *ret_count, struct error *error)
{
    OWNED_FD int fd = file_open_read(path, error);
    uint64_t size = 0;
    if (fd < 0 || !file_size(fd, &size, error)) {
        return NULL;
    }
    if (size > limit_bytes) {
        (void)error_set_field(error, ERROR_TOO_LARGE, path, "%s has %llu bytes; at most %zu are accepted",
                              path, (unsigned long long)size, limit_bytes);
        return NULL;
    }
    OWNED_MEMORY char *bytes = malloc((size_t)size + 1);
    if (bytes == NULL) {
        (void)error_set(error, ERROR_OUT_OF_MEMORY, "%s: no memory for %llu bytes", path,
                        (unsigned long long)size);
        return NULL;
    }
    if (!file_read_at(fd, bytes, (size_t)size, 0, path, error)) {
        return NULL;
    }
    bytes[size] = '\0';
    *ret_count = (size_t)size;
    return TAKE(bytes);
}

bool file_size(int fd, uint64_t *ret_bytes, struct error *error)
{
    struct stat status;
    if (fstat(fd, &status) != 0) {
        return error_set_errno(error, errno, "size of descriptor %d", fd);
    }
    *ret_bytes = (uint64_t)status.st_size;
    return true;
}

/* Writing. */

int file_create(const char *path, mode_t mode, struct error *error)
{
    int fd = file_system->open(AT_FDCWD, path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
    if (fd < 0) {
        (void)error_set_errno(error, errno, "creating %s", path);
    }
    return fd;
}

bool file_write_at(int fd, const void *bytes, size_t count, uint64_t offset, struct error *error)
{
    const unsigned char *at = bytes;
    CHECK(offset <= (uint64_t)INT64_MAX - count);
    while (count > 0) {
        ssize_t put = file_system->pwrite(fd, at, count, (off_t)offset);
        if (put < 0 && errno == EINTR) {
            continue;
        }
        if (put <= 0) {
            return error_set_errno(error, put < 0 ? errno : EIO, "writing %zu bytes at %llu", count,
                                   (unsigned long long)offset);
        }
        at += put;
        count -= (size_t)put;
        offset += (uint64_t)put;
    }
    return true;
}

bool file_append(int fd, const void *bytes, size_t count, struct error *error)
{
    const unsigned char *at = bytes;
    while (count > 0) {
        ssize_t put = file_system->write(fd, at, count);
        if (put < 0 && errno == EINTR) {
            continue;
        }
        if (put <= 0) {
            return error_set_errno(error, put < 0 ? errno : EIO, "appending %zu bytes", count);
        }
        at += put;
        count -= (size_t)put;
    }
    return true;
}

static bool file_sync_named(int fd, const char *name, struct error *error)
{
    int result = 0;
    do { /* EINTR: nothing was tried yet */
        result = file_system->fsync(fd);
    } while (result != 0 && errno == EINTR);
    if (result == 0) {
        return true;
    }
    int cause = errno;
    if (!file_sync_failure_is_error) {
        (void)fprintf(stderr, "fsync of %s failed (%s): what is on disk is unknown; stopping to recover\n",
                      name, strerrorname_np(cause));
        abort();
    }
    return error_set_errno(error, cause, "fsync of %s", name);
}

bool file_sync(int fd, struct error *error)
{
    return file_sync_named(fd, "a file", error);
}

bool file_sync_folder(const char *path, struct error *error)
{
    OWNED_FD int fd = file_open_folder(path, error);
    return fd >= 0 && file_sync_named(fd, path, error);
}

/* "a/b/c" -> "a/b", "c" -> ".", "/c" -> "/"; owned. */
static char *file_parent(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (slash == NULL) {
        return memory_copy_text(".");
    }
    struct text parent = {0};
    text_append_bytes(&parent, path, slash > path ? (size_t)(slash - path) : 1);
    return text_take(&parent);
}

static bool file_fill_temporary(const char *temporary, const void *bytes, size_t count, mode_t mode,
                                struct error *error)
{
    OWNED_FD int fd = file_create(temporary, mode, error);
    if (fd < 0) {
        return false;
    }
    if (!file_append(fd, bytes, count, error) || !file_sync_named(fd, temporary, error)) {
        (void)file_system->unlink(temporary);
        return false;
    }
    return true;
}

bool file_save(const char *path, const void *bytes, size_t count, mode_t mode, struct error *error)
{
    static atomic_uint serial; /* two threads may save the same path; the last rename stays */
    struct text temporary = {0};
    text_append_format(&temporary, "%s.%d.%u.tmp", path, (int)getpid(), atomic_fetch_add(&serial, 1u));
    OWNED_MEMORY char *name = text_take(&temporary);
    OWNED_MEMORY char *parent = file_parent(path);
    if (!file_fill_temporary(name, bytes, count, mode, error)) {
        return error_prefix(error, "saving %s: ", path);
    }
    if (file_system->rename(name, path) != 0) {
        (void)error_set_errno(error, errno, "saving %s", path);
        (void)file_system->unlink(name);
        return false;
    }
    return file_sync_folder(parent, error);
}

/* Small questions. */

bool file_is_folder(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

bool file_exists(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0;
}

bool file_free_bytes(const char *path, uint64_t *ret_free_bytes, uint64_t *ret_total_bytes,
                     struct error *error)
{
    struct statvfs status;
    if (statvfs(path, &status) != 0) {
        return error_set_errno(error, errno, "free space of %s", path);
    }
    *ret_free_bytes = (uint64_t)status.f_bavail * status.f_frsize;
    *ret_total_bytes = (uint64_t)status.f_blocks * status.f_frsize;
    return true;
}

bool file_hash(const char *path, char ret_hex[65], uint64_t *ret_bytes, struct error *error)
{
    enum { WINDOW_BYTES = 1 << 20 };
    OWNED_FD int fd = file_open_read(path, error);
    if (fd < 0) {
        return false;
    }
    OWNED_MEMORY unsigned char *window = memory_create(WINDOW_BYTES, 1);
    struct sha256 hash;
    uint64_t offset = 0;
    sha256_start(&hash);
    for (;;) {
        ssize_t got = file_system->pread(fd, window, WINDOW_BYTES, (off_t)offset);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return error_set_errno(error, errno, "reading %s", path);
        }
        if (got == 0) {
            break;
        }
        sha256_update(&hash, window, (size_t)got);
        offset += (uint64_t)got;
    }
    sha256_end_hex(&hash, ret_hex);
    if (ret_bytes != NULL) {
        *ret_bytes = offset;
    }
    return true;
}

char *file_join(const char *folder, const char *name)
{
    struct text path = {0};
    text_append(&path, folder);
    text_append(&path, "/");
    text_append(&path, name);
    return text_take(&path);
}

bool file_name_is_safe(const char *relative)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    enum { LIMIT_BYTES = 512 };
    size_t total = strnlen(relative, LIMIT_BYTES + 1);
    if (total == 0 || total > LIMIT_BYTES) {
        return false;
    }
    for (const char *at = relative;;) {
        size_t length = strspn(at, letters);
        bool dots = (length == 1 && at[0] == '.') || (length == 2 && at[0] == '.' && at[1] == '.');
        if (length == 0 || dots) {
            return false;
        }
        if (at[length] == '\0') {
            return true;
        }
        if (at[length] != '/') {
            return false;
        }
        at += length + 1;
    }
}
