/* base/file_trim.c: a folder that is a cache stays within its size; what was touched last stays. */
#include "base/cleanup.h"
#include "base/file.h"
#include "base/memory.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct entry {
    char *path; /* owned, relative */
    uint64_t bytes;
    struct timespec used;
};
struct listing {
    struct entry *entries;
    size_t count, capacity;
    uint64_t bytes;
};

static bool list_entry(const char *relative, const struct stat *status, void *context, struct error *error)
{
    (void)error;
    struct listing *listing = context;
    if (!S_ISREG(status->st_mode)) {
        return true;
    }
    if (listing->count == listing->capacity) {
        listing->capacity = 2 * listing->capacity + 16;
        listing->entries = memory_resize(listing->entries, listing->capacity, sizeof *listing->entries);
    }
    listing->entries[listing->count++] =
        (struct entry){memory_copy_text(relative), (uint64_t)status->st_size, status->st_mtim};
    listing->bytes += (uint64_t)status->st_size;
    return true;
}

static int compare_use(const void *a, const void *b)
{
    const struct entry *left = a;
    const struct entry *right = b;
    if (left->used.tv_sec != right->used.tv_sec) {
        return left->used.tv_sec < right->used.tv_sec ? -1 : 1;
    }
    if (left->used.tv_nsec != right->used.tv_nsec) {
        return left->used.tv_nsec < right->used.tv_nsec ? -1 : 1;
    }
    return strcmp(left->path, right->path);
}

bool file_trim_folder(const char *path, uint64_t limit_bytes, struct error *error)
{
    struct listing listing = {0};
    if (!file_is_folder(path)) {
        return true;
    }
    bool is_good = file_walk(path, list_entry, &listing, error);
    if (is_good && listing.bytes > limit_bytes) {
        qsort(listing.entries, listing.count, sizeof *listing.entries, compare_use);
        for (size_t i = 0; i < listing.count && is_good && listing.bytes > limit_bytes; i++) {
            OWNED_MEMORY char *name = file_join(path, listing.entries[i].path);
            is_good = file_system->unlink(name) == 0 || errno == ENOENT || /* another's eviction */
                      error_set_errno(error, errno, "removing %.200s", name);
            listing.bytes -= listing.entries[i].bytes;
        }
    }
    for (size_t i = 0; i < listing.count; i++) {
        free(listing.entries[i].path);
    }
    free(listing.entries);
    return is_good;
}
