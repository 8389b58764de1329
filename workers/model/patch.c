/* workers/model/patch.c: see patch.h. */
#include "workers/model/patch.h"

#include "base/check.h"
#include "base/file.h"
#include "base/memory.h"
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COPY_BYTES ((size_t)1 << 20)

struct patch {
    int fd;
    bool is_writable; /* what lies beyond the index was cut off */
    char *path;       /* owned */
    struct patch_tensor *tensors;
    size_t count, capacity;
    uint64_t bytes;            /* of what the index knows */
    struct patch_tensor begun; /* being appended; rank 0: none */
    uint64_t begun_left, begun_at;
};

static uint64_t element_count(const struct patch_tensor *tensor)
{
    return tensor->rank > 1 ? tensor->shape[0] * tensor->shape[1] : tensor->shape[0];
}

static bool remove_old(const char *path, struct error *error)
{
    return file_system->unlink(path) == 0 || errno == ENOENT ||
           error_set_errno(error, errno, "%s cannot be removed", path);
}

struct patch *patch_create(const char *path, struct error *error)
{
    if (!remove_old(path, error)) {
        return NULL;
    }
    OWNED(patch) patch = memory_create(1, sizeof *patch);
    patch->path = memory_copy_text(path);
    patch->is_writable = true;
    patch->fd = file_create(path, 0644, error);
    return patch->fd >= 0 ? TAKE(patch) : NULL;
}

static bool parse_tensor(struct patch *patch, const json_t *item, size_t index, uint64_t file_bytes,
                         struct error *error)
{
    char pointer[64];
    (void)snprintf(pointer, sizeof pointer, "/patch/%zu", index);
    struct patch_tensor tensor = {0};
    const char *name = NULL;
    json_t *shape = NULL;
    int64_t offset = 0;
    if (!json_get_text(item, pointer, "name", &name, error) ||
        !json_get_array(item, pointer, "shape", &shape, error) ||
        !json_get_i64(item, pointer, "offset_bytes", 0, INT64_MAX, &offset, error)) {
        return false;
    }
    if (strlen(name) >= sizeof tensor.name) {
        return error_set_field(error, ERROR_CORRUPT_FILE, pointer, "the name is too long");
    }
    tensor.rank = json_array_size(shape);
    tensor.offset_bytes = (uint64_t)offset;
    (void)snprintf(tensor.name, sizeof tensor.name, "%s", name);
    if (tensor.rank < 1 || tensor.rank > 2) {
        return error_set_field(error, ERROR_CORRUPT_FILE, pointer, "tensor %s has %zu dimensions", name,
                               tensor.rank);
    }
    for (size_t i = 0; i < tensor.rank; i++) {
        json_int_t size = json_integer_value(json_array_get(shape, i));
        if (size < 1 || size > INT32_MAX) {
            return error_set_field(error, ERROR_CORRUPT_FILE, pointer, "tensor %s has a dimension of %lld",
                                   name, (long long)size);
        }
        tensor.shape[i] = (uint64_t)size;
    }
    uint64_t bytes = element_count(&tensor) * sizeof(float);
    if (bytes > file_bytes || tensor.offset_bytes > file_bytes - bytes) {
        return error_set_field(error, ERROR_CORRUPT_FILE, pointer,
                               "tensor %s lies beyond the end of " PATCH_FILE, name);
    }
    patch->tensors[patch->count++] = tensor;
    patch->bytes = tensor.offset_bytes + bytes > patch->bytes ? tensor.offset_bytes + bytes : patch->bytes;
    return true;
}

struct patch *patch_open(const char *path, const json_t *index, struct error *error)
{
    OWNED(patch) patch = memory_create(1, sizeof *patch);
    patch->path = memory_copy_text(path);
    patch->fd = file_open_read(path, error);
    uint64_t file_bytes = 0;
    if (patch->fd < 0 || !file_size(patch->fd, &file_bytes, error)) {
        return NULL;
    }
    patch->capacity = json_array_size(index) + 1;
    patch->tensors = memory_create(patch->capacity, sizeof *patch->tensors);
    for (size_t i = 0; i < json_array_size(index); i++) {
        if (!parse_tensor(patch, json_array_get(index, i), i, file_bytes, error)) {
            return NULL;
        }
    }
    return TAKE(patch);
}

void patch_destroy(struct patch *patch)
{
    if (patch == NULL) {
        return;
    }
    if (patch->fd >= 0) {
        (void)close(patch->fd);
    }
    free(patch->tensors);
    free(patch->path);
    free(patch);
}

json_t *patch_format(const struct patch *patch)
{
    json_t *index = json_array();
    for (size_t i = 0; i < patch->count; i++) {
        const struct patch_tensor *tensor = &patch->tensors[i];
        json_t *item = json_object();
        json_put_text(item, "name", tensor->name);
        json_t *shape = json_array();
        for (size_t d = 0; d < tensor->rank; d++) {
            CHECK(json_array_append_new(shape, json_integer((json_int_t)tensor->shape[d])) == 0);
        }
        json_put(item, "shape", shape);
        json_put_i64(item, "offset_bytes", (int64_t)tensor->offset_bytes);
        CHECK(json_array_append_new(index, item) == 0);
    }
    return index;
}

/* A patch that was opened is read-only until something is written to it: then the file is opened anew, and what an earlier attempt
 * wrote beyond the index is cut off. */
static bool make_writable(struct patch *patch, struct error *error)
{
    if (patch->is_writable) {
        return true;
    }
    OWNED_FD int fd = file_system->open(AT_FDCWD, patch->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0);
    if (fd < 0 || file_system->ftruncate(fd, (off_t)patch->bytes) != 0) {
        return error_set_errno(error, errno, "%s cannot be written again", patch->path);
    }
    (void)close(patch->fd);
    patch->fd = fd;
    fd = -1;
    patch->is_writable = true;
    return true;
}

bool patch_begin(struct patch *patch, const char *name, size_t rank, const uint64_t *shape,
                 struct error *error)
{
    CHECK(rank >= 1 && rank <= 2 && strlen(name) < sizeof patch->begun.name);
    if (!make_writable(patch, error)) {
        return false;
    }
    patch->begun = (struct patch_tensor){.rank = rank, .offset_bytes = patch->bytes};
    (void)snprintf(patch->begun.name, sizeof patch->begun.name, "%s", name);
    memcpy(patch->begun.shape, shape, rank * sizeof *shape);
    patch->begun_left = element_count(&patch->begun);
    patch->begun_at = patch->bytes;
    return true;
}

static void finish_tensor(struct patch *patch)
{
    struct patch_tensor *place = NULL;
    for (size_t i = 0; i < patch->count; i++) {
        place = strcmp(patch->tensors[i].name, patch->begun.name) == 0 ? &patch->tensors[i] : place;
    }
    if (place == NULL) {
        if (patch->count == patch->capacity) {
            patch->capacity = 2 * patch->capacity + 16;
            patch->tensors = memory_resize(patch->tensors, patch->capacity, sizeof *patch->tensors);
        }
        place = &patch->tensors[patch->count++];
    }
    *place = patch->begun;
    patch->bytes = patch->begun_at;
    patch->begun.rank = 0;
}

bool patch_append(struct patch *patch, const float *values, size_t count, struct error *error)
{
    CHECK(patch->begun.rank > 0 && count <= patch->begun_left);
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(values[i])) {
            return error_set_field(error, ERROR_NUMERIC, patch->begun.name,
                                   "the new weights of %s are not all finite", patch->begun.name);
        }
    }
    if (!file_write_at(patch->fd, values, count * sizeof *values, patch->begun_at, error)) {
        return false;
    }
    patch->begun_at += count * sizeof *values;
    patch->begun_left -= count;
    if (patch->begun_left == 0) {
        finish_tensor(patch);
    }
    return true;
}

bool patch_put(struct patch *patch, const char *name, size_t rank, const uint64_t *shape, const float *values,
               struct error *error)
{
    uint64_t count = rank > 1 ? shape[0] * shape[1] : shape[0];
    return patch_begin(patch, name, rank, shape, error) && patch_append(patch, values, (size_t)count, error);
}

bool patch_sync(struct patch *patch, struct error *error)
{
    return !patch->is_writable || file_sync(patch->fd, error);
}

size_t patch_count(const struct patch *patch)
{
    return patch->count;
}

const struct patch_tensor *patch_at(const struct patch *patch, size_t index)
{
    CHECK(index < patch->count);
    return &patch->tensors[index];
}

const struct patch_tensor *patch_find(const struct patch *patch, const char *name)
{
    for (size_t i = 0; patch != NULL && i < patch->count; i++) {
        if (strcmp(patch->tensors[i].name, name) == 0) {
            return &patch->tensors[i];
        }
    }
    return NULL;
}

bool patch_read(const struct patch *patch, const struct patch_tensor *tensor, uint64_t first, size_t count,
                float *ret_values, struct error *error)
{
    CHECK(first <= element_count(tensor) && count <= element_count(tensor) - first);
    return file_read_at(patch->fd, ret_values, count * sizeof *ret_values,
                        tensor->offset_bytes + first * sizeof *ret_values, PATCH_FILE, error);
}

uint64_t patch_bytes(const struct patch *patch)
{
    return patch->bytes;
}

bool patch_copy(const struct patch *patch, const char *path, struct error *error)
{
    OWNED_FD int to = remove_old(path, error) ? file_create(path, 0644, error) : -1;
    OWNED_MEMORY void *buffer = memory_create(COPY_BYTES, 1);
    for (uint64_t done = 0; to >= 0 && done < patch->bytes; done += COPY_BYTES) {
        uint64_t left = patch->bytes - done;
        size_t count = left < COPY_BYTES ? (size_t)left : COPY_BYTES;
        if (!file_read_at(patch->fd, buffer, count, done, PATCH_FILE, error) ||
            !file_append(to, buffer, count, error)) {
            return false;
        }
    }
    return to >= 0 && file_sync(to, error);
}
