/*
 * base/file.h: every system call that changes state on disk goes through this table, so that tests can fail
 * the n-th call, tear a write or count fsyncs. Names say what reached the disk when they return.
 *
 * fsync failure is never retried: file_sync and file_sync_folder abort the process (the page is marked clean
 * by the kernel, a second fsync would lie); restart recovers from what is durable. Workers, which own nothing
 * durable, set `file_sync_failure_is_error` and get an IO error instead.
 *
 * All descriptors are close-on-exec. All functions are thread-safe. Paths are borrowed.
 */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include "base/error.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

struct file_system { /* the system calls; each returns as the call does, with errno */
    int (*open)(int folder_fd, const char *path, int flags, mode_t mode);
    ssize_t (*pread)(int fd, void *bytes, size_t count, off_t offset);
    ssize_t (*pwrite)(int fd, const void *bytes, size_t count, off_t offset);
    ssize_t (*write)(int fd, const void *bytes, size_t count);
    int (*fsync)(int fd);
    int (*ftruncate)(int fd, off_t length);
    int (*rename_noreplace)(const char *from, const char *to); /* renameat2(RENAME_NOREPLACE) */
    int (*rename)(const char *from, const char *to);
    int (*link)(const char *from, const char *to); /* a hard link */
    int (*touch)(const char *path);                /* access and modification time: now */
    int (*unlink)(const char *path);
    int (*rmdir)(const char *path);
    int (*mkdir)(const char *path, mode_t mode);
    int (*fallocate)(int fd, off_t length);
};
extern const struct file_system file_system_real;
extern const struct file_system *file_system; /* what is used; tests swap it before any thread starts */
extern bool file_sync_failure_is_error;

/* Reading. */
int file_open_read(const char *path, struct error *error) MUST_USE; /* regular files only; -1 on failure */
/* Opens `path` beneath `folder_fd`: openat2 RESOLVE_BENEATH | NO_MAGICLINKS, and NO_SYMLINKS unless
 * follow_links. Absolute paths, "..", links out: FORBIDDEN. Regular files only. */
int file_open_beneath(int folder_fd, const char *path, bool follow_links, struct error *error) MUST_USE;
int file_open_folder(const char *path, struct error *error) MUST_USE;
/* Exactly `count` bytes at `offset`; a short read is INPUT_CHANGED (the file was longer when it was
 * inspected). */
bool file_read_at(int fd, void *bytes, size_t count, uint64_t offset, const char *name,
                  struct error *error) MUST_USE;
/* Whole file, owned, NUL-terminated; TOO_LARGE past the limit. */
char *file_load(const char *path, size_t limit_bytes, size_t *ret_count, struct error *error) MUST_USE;
bool file_size(int fd, uint64_t *ret_bytes, struct error *error) MUST_USE;

/* Writing. */
int file_create(const char *path, mode_t mode, struct error *error) MUST_USE; /* O_EXCL; -1 on failure */
bool file_write_at(int fd, const void *bytes, size_t count, uint64_t offset, struct error *error) MUST_USE;
bool file_append(int fd, const void *bytes, size_t count, struct error *error) MUST_USE;
bool file_sync(int fd, struct error *error) MUST_USE;
bool file_sync_folder(const char *path, struct error *error) MUST_USE;
/* Temporary beside it, write, fsync, rename over, fsync of the folder: old or new content, never a mix. */
bool file_save(const char *path, const void *bytes, size_t count, mode_t mode, struct error *error) MUST_USE;

/* Folders. */
/* mkdir -p; the parents of new ones are synced. */
bool file_make_folders(const char *path, mode_t mode, struct error *error) MUST_USE;
/* Absent is fine; never follows links. */
bool file_remove_tree(const char *path, struct error *error) MUST_USE;
bool file_is_folder(const char *path);
bool file_exists(const char *path);
/* Calls visit for each entry below `path`, sorted by name within a folder, depth first. relative: "a/b".
 * Links are visited as links (S_ISLNK), never followed. visit returns false to stop (with its error). */
bool file_walk(const char *path,
               bool (*visit)(const char *relative, const struct stat *status, void *context,
                             struct error *error),
               void *context, struct error *error) MUST_USE;
/* Removes the regular files below `path` that were modified (or touched) longest ago until the others have at most limit_bytes
 * together. An absent folder is fine, and so are others that remove files at the same time. */
bool file_trim_folder(const char *path, uint64_t limit_bytes, struct error *error) MUST_USE;
/* Free and total bytes of the file system that holds the path. */
bool file_free_bytes(const char *path, uint64_t *ret_free_bytes, uint64_t *ret_total_bytes,
                     struct error *error) MUST_USE;
/* sha256 of a whole file by a 1 MiB window; *ret_bytes may be NULL. */
bool file_hash(const char *path, char ret_hex[65], uint64_t *ret_bytes, struct error *error) MUST_USE;
/* "a" + "/" + "b", owned. */
char *file_join(const char *folder, const char *name) MUST_USE;
/* A relative path made of 1..n safe segments: [A-Za-z0-9._-]+, no "." or "..", at most 512 bytes. */
bool file_name_is_safe(const char *relative);

#endif
