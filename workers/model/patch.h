/*
 * workers/model/patch.h: tensors that a method computed: they replace a tensor of the pruned model, or are a bias that was not there.
 * fp32, in canonical shape and order, one after the other in a file (little-endian), so that a patch may be larger than memory. The
 * index of names, shapes and offsets travels in plan.json; the file beside it is PATCH_FILE.
 *
 * Threads: reading from any thread; writing from one, while nobody reads.
 */
#ifndef WORKERS_MODEL_PATCH_H
#define WORKERS_MODEL_PATCH_H

#include "base/cleanup.h"
#include "base/error.h"
#include "base/json.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PATCH_FILE "plan.weights"

struct patch;
struct patch_tensor {
    char name[128];
    size_t rank; /* 1 or 2 */
    uint64_t shape[2];
    uint64_t offset_bytes;
};
/* A new file; an old one of this name goes. */
struct patch *patch_create(const char *path, struct error *error) MUST_USE;
/* What patch_format said about the file. What the file holds beyond is cut off when something is written (an earlier attempt's end).
 * CORRUPT_FILE naming the tensor. */
struct patch *patch_open(const char *path, const json_t *index, struct error *error) MUST_USE;
void patch_destroy(struct patch *patch);
OWNED_DEFINE(patch)
json_t *patch_format(const struct patch *patch) MUST_USE; /* [{name, shape, offset_bytes}]; owned */

/* Appends a tensor in one piece, or by parts in row-major order. A tensor put again takes the place of the earlier one. The values must be
 * finite: NUMERIC, naming the tensor. */
bool patch_put(struct patch *patch, const char *name, size_t rank, const uint64_t *shape, const float *values,
               struct error *error) MUST_USE;
bool patch_begin(struct patch *patch, const char *name, size_t rank, const uint64_t *shape,
                 struct error *error) MUST_USE;
bool patch_append(struct patch *patch, const float *values, size_t count, struct error *error) MUST_USE;
/* On disk, before a checkpoint names it. */
bool patch_sync(struct patch *patch, struct error *error) MUST_USE;

size_t patch_count(const struct patch *patch);
const struct patch_tensor *patch_at(const struct patch *patch, size_t index);
/* NULL: it has none, or only the beginning of one. Valid until the next write. */
const struct patch_tensor *patch_find(const struct patch *patch, const char *name);
/* Elements [first, first + count) of a tensor. */
bool patch_read(const struct patch *patch, const struct patch_tensor *tensor, uint64_t first, size_t count,
                float *ret_values, struct error *error) MUST_USE;
uint64_t patch_bytes(const struct patch *patch); /* of the file */
/* A copy of the file, synced; an old one of this name goes. */
bool patch_copy(const struct patch *patch, const char *path, struct error *error) MUST_USE;

#endif
