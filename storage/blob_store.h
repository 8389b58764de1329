/*
 * storage/blob_store.h: files by content. A blob's name is the sha256 of its bytes: blobs/ab/<sha256>.
 *
 * A blob comes in by one way: a temporary on the same file system is hashed, synced, renamed into place
 * without replacing, and the folder is synced. So under a blob's name there are always the whole bytes or
 * nothing, and a crash leaves a temporary (swept at the next start) or a blob nobody refers to (swept when a
 * day old).
 *
 * Sweep against publish: a blob that is wanted again is touched under the lock, and the sweep looks at the
 * age under the same lock before it deletes; so what a publication counts on is never a day old until its
 * rows are committed. All functions are thread-safe; those that hash or sync belong on the I/O pool.
 */
#ifndef STORAGE_BLOB_STORE_H
#define STORAGE_BLOB_STORE_H

#include "base/clock.h"
#include "base/error.h"
#include <stdint.h>

#define BLOB_SWEEP_AGE_MS (INT64_C(24) * 3600 * 1000)

struct blob_store;
/* Makes blobs/ and tmp/ below the folder. The clock is borrowed. */
bool blob_store_open(const char *folder, const struct clock_source *clock, struct blob_store **ret_store,
                     struct error *error) MUST_USE;
void blob_store_close(struct blob_store *store); /* NULL is fine */

/* tmp/<start>-<kind>-<number>, unused; owned. <start> tells this opening's temporaries from leftovers. */
char *blob_store_name_temporary(struct blob_store *store, const char *kind) MUST_USE;
/* Removes every temporary of earlier openings. */
void blob_store_sweep_temporaries(struct blob_store *store);
/* Renames a file or folder to a temporary, at once, and returns the new path (owned; remove it on the I/O
 * pool). NULL: it is not there, or could not be moved. */
char *blob_store_discard(struct blob_store *store, const char *path) MUST_USE;

/* Takes the file at `path`, open as `fd`, into the store under `sha256`, which its content must have; `bytes`
 * too, unless it is UINT64_MAX. *ret_existed: the content was there already, and the file is gone. On failure
 * the file stays. CHECKSUM_MISMATCH, STORAGE_FULL, IO. */
bool blob_store_adopt(struct blob_store *store, const char *path, int fd, const char *sha256, uint64_t bytes,
                      bool *ret_existed, struct error *error) MUST_USE;
/* Whether it is there; and if so, keeps the sweep away for half a day at least. */
bool blob_store_hold(struct blob_store *store, const char *sha256, uint64_t *ret_bytes) MUST_USE;
/* -1 on failure: NOT_FOUND, CORRUPT_FILE if it is not that long. */
int blob_store_open_blob(struct blob_store *store, const char *sha256, uint64_t bytes,
                         struct error *error) MUST_USE;
/* A hard link at `path`, or a copy where links cannot go on; synced if a copy. */
bool blob_store_link(struct blob_store *store, const char *sha256, const char *path,
                     struct error *error) MUST_USE;

struct blob_list {
    char (*hashes)[65]; /* owned */
    size_t count, capacity;
};
void blob_list_finish(struct blob_list *list);
/* Blobs older than a day; counts all blobs on the way. */
bool blob_store_list_old(struct blob_store *store, struct blob_list *list, struct error *error) MUST_USE;
/* Deletes if it is still that old; returns whether it did. */
bool blob_store_remove_old(struct blob_store *store, const char *sha256);
void blob_store_get_counts(struct blob_store *store, uint64_t *ret_count, uint64_t *ret_bytes);

#endif
