/*
 * base/folder.c: the folder half of base/file.h: making, walking and removing trees. A walk holds one
 * descriptor per level, taken with O_NOFOLLOW, so a folder that turns into a link midway is refused and not
 * followed.
 */
#include "base/check.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define FOLDER_LIMIT_DEPTH 128

static bool folder_make_one(const char *path, const char *parent, mode_t mode, struct error *error)
{
    if (file_system->mkdir(path, mode) == 0) {
        return file_sync_folder(parent, error);
    }
    if (errno == EEXIST && file_is_folder(path)) {
        return true;
    }
    return error_set_errno(error, errno, "making folder %s", path);
}

bool file_make_folders(const char *path, mode_t mode, struct error *error)
{
    if (*path == '\0') {
        return error_set(error, ERROR_INVALID_ARGUMENT, "making a folder: the path is empty");
    }
    OWNED_MEMORY char *parent = memory_copy_text(*path == '/' ? "/" : ".");
    for (const char *at = path + strspn(path, "/"); *at != '\0';) {
        at += strcspn(at, "/");
        struct text prefix = {0};
        text_append_bytes(&prefix, path, (size_t)(at - path));
        OWNED_MEMORY char *folder = text_take(&prefix);
        if (!folder_make_one(folder, parent, mode, error)) {
            return false;
        }
        free(parent);
        parent = TAKE(folder);
        at += strspn(at, "/");
    }
    return true;
}

/* Names of one folder, sorted by byte value so that every walk of the same tree has the same order. */
struct folder_names {
    char **items; /* owned, [count] */
    size_t count;
};

static void folder_names_finish(struct folder_names *names)
{
    for (size_t i = 0; i < names->count; i++) {
        free(names->items[i]);
    }
    free(names->items);
}

static int folder_compare_names(const void *left, const void *right)
{
    return strcmp(*(char *const *)left, *(char *const *)right);
}

static void folder_names_add(struct folder_names *names, const char *name)
{
    if ((names->count & (names->count - 1)) == 0) { /* full at each power of two */
        size_t capacity = names->count > 0 ? names->count * 2 : 1;
        names->items = memory_resize(names->items, capacity, sizeof *names->items);
    }
    names->items[names->count++] = memory_copy_text(name);
}

/* Reads the names and leaves `fd` open (fdopendir would take it). */
static bool folder_list(int fd, const char *path, struct folder_names *names, struct error *error)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    DIR *folder = copy >= 0 ? fdopendir(copy) : NULL;
    if (folder == NULL) {
        (void)error_set_errno(error, errno, "listing %s", path);
        if (copy >= 0) {
            (void)close(copy);
        }
        return false;
    }
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(folder);
        if (entry == NULL) {
            break;
        }
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            folder_names_add(names, entry->d_name);
        }
    }
    int cause = errno;
    (void)closedir(folder);
    if (cause != 0) {
        return error_set_errno(error, cause, "listing %s", path);
    }
    if (names->count > 0) {
        qsort(names->items, names->count, sizeof *names->items, folder_compare_names);
    }
    return true;
}

struct folder_walk {
    bool (*visit)(const char *relative, const struct stat *status, void *context, struct error *error);
    void *context;
    struct text relative; /* of the folder being read; "" at the top */
};

static bool folder_walk_level(struct folder_walk *walk, int fd, int depth, struct error *error)
{
    FINISHED(folder_names) names = {0};
    if (depth > FOLDER_LIMIT_DEPTH) {
        return error_set(error, ERROR_INVALID_ARGUMENT, "%s: folders nested deeper than %d levels",
                         walk->relative.bytes, FOLDER_LIMIT_DEPTH);
    }
    if (!folder_list(fd, depth > 0 ? walk->relative.bytes : "the folder", &names, error)) {
        return false;
    }
    size_t length = walk->relative.length;
    for (size_t i = 0; i < names.count; i++) {
        text_append(&walk->relative, length > 0 ? "/" : "");
        text_append(&walk->relative, names.items[i]);
        struct stat status;
        if (fstatat(fd, names.items[i], &status, AT_SYMLINK_NOFOLLOW) != 0) {
            return error_set_errno(error, errno, "%s", walk->relative.bytes);
        }
        if (!walk->visit(walk->relative.bytes, &status, walk->context, error)) {
            return false;
        }
        if (S_ISDIR(status.st_mode)) {
            OWNED_FD int below = openat(fd, names.items[i], O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            if (below < 0) {
                return error_set_errno(error, errno, "%s", walk->relative.bytes);
            }
            if (!folder_walk_level(walk, below, depth + 1, error)) {
                return false;
            }
        }
        walk->relative.length = length;
        walk->relative.bytes[length] = '\0';
    }
    return true;
}

bool file_walk(const char *path,
               bool (*visit)(const char *relative, const struct stat *status, void *context,
                             struct error *error),
               void *context, struct error *error)
{
    OWNED_FD int fd = file_open_folder(path, error);
    if (fd < 0) {
        return false;
    }
    struct folder_walk walk = {.visit = visit, .context = context};
    bool done = folder_walk_level(&walk, fd, 0, error);
    text_finish(&walk.relative);
    return done;
}

/* Removal: list first, then delete backwards, so that a folder is empty when its turn comes. */

struct folder_victim {
    char *path; /* owned */
    bool is_folder;
};

struct folder_victims {
    const char *root;
    struct folder_victim *items; /* owned, [count] */
    size_t count, capacity;
};

static void folder_victims_finish(struct folder_victims *victims)
{
    for (size_t i = 0; i < victims->count; i++) {
        free(victims->items[i].path);
    }
    free(victims->items);
}

static bool folder_collect(const char *relative, const struct stat *status, void *context,
                           struct error *error)
{
    (void)error;
    struct folder_victims *victims = context;
    if (victims->count == victims->capacity) {
        victims->capacity = victims->capacity > 0 ? victims->capacity * 2 : 16;
        victims->items = memory_resize(victims->items, victims->capacity, sizeof *victims->items);
    }
    victims->items[victims->count++] = (struct folder_victim){
        .path = file_join(victims->root, relative),
        .is_folder = S_ISDIR(status->st_mode),
    };
    return true;
}

static bool folder_remove_one(const char *path, bool is_folder, struct error *error)
{
    int result = is_folder ? file_system->rmdir(path) : file_system->unlink(path);
    return result == 0 || errno == ENOENT || error_set_errno(error, errno, "removing %s", path);
}

bool file_remove_tree(const char *path, struct error *error)
{
    struct stat status;
    if (lstat(path, &status) != 0) {
        return errno == ENOENT || error_set_errno(error, errno, "removing %s", path);
    }
    if (!S_ISDIR(status.st_mode)) {
        return folder_remove_one(path, false, error);
    }
    FINISHED(folder_victims) victims = {.root = path};
    if (!file_walk(path, folder_collect, &victims, error)) {
        return false;
    }
    for (size_t i = victims.count; i-- > 0;) {
        if (!folder_remove_one(victims.items[i].path, victims.items[i].is_folder, error)) {
            return false;
        }
    }
    return folder_remove_one(path, true, error);
}
