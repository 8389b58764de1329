/*
 * workers/model/safetensors.h: the file format, read with suspicion.
 *
 *     u64 little-endian n | n bytes of JSON, a `{` first, spaces behind | tensor data, without a hole
 *
 * The header comes from strangers, so it has its own scanner rather than a JSON library: it accepts exactly
 * the one shape of document that the format has, never recurses, allocates from n alone and takes O(n log n).
 * What is refused: anything not UTF-8, names doubled or with control characters, unknown dtypes, numbers that
 * are not plain decimal digits below 2^48, products that overflow, ranges that disagree with shape and dtype,
 * holes, overlaps, bytes that belong to no tensor.
 *
 * Errors are CORRUPT_FILE with the tensor or the byte offset in the message; TOO_LARGE for a header past the
 * limit.
 */
#ifndef WORKERS_MODEL_SAFETENSORS_H
#define WORKERS_MODEL_SAFETENSORS_H

#include "base/arena.h"
#include "base/error.h"
#include "workers/tensor/dtype.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ST_HEADER_LIMIT_BYTES (16u << 20)
#define ST_TENSORS_MAX        200000
#define ST_RANK_MAX           8
#define ST_NAME_MAX           1024
#define ST_SHARDS_MAX         1000
#define ST_INDEX_LIMIT_BYTES  (64u << 20)

/* All that the format knows; the engine computes with those of enum dtype. */
#define ST_DTYPES(X)                                                                                         \
    X(BOOL, "BOOL", 1)                                                                                       \
    X(U8, "U8", 1)                                                                                           \
    X(I8, "I8", 1)                                                                                           \
    X(F8_E5M2, "F8_E5M2", 1)                                                                                 \
    X(F8_E4M3, "F8_E4M3", 1)                                                                                 \
    X(I16, "I16", 2)                                                                                         \
    X(U16, "U16", 2)                                                                                         \
    X(F16, "F16", 2)                                                                                         \
    X(BF16, "BF16", 2)                                                                                       \
    X(I32, "I32", 4)                                                                                         \
    X(U32, "U32", 4)                                                                                         \
    X(F32, "F32", 4)                                                                                         \
    X(F64, "F64", 8)                                                                                         \
    X(I64, "I64", 8)                                                                                         \
    X(U64, "U64", 8)
enum st_dtype {
#define X(name, slug, bytes) ST_##name,
    ST_DTYPES(X)
#undef X
};
const char *st_dtype_slug(enum st_dtype dtype);
bool st_dtype_to_dtype(enum st_dtype from, enum dtype *ret_dtype); /* false: not one we compute with */

struct st_tensor {
    const char *name; /* in the arena, unescaped */
    enum st_dtype dtype;
    size_t rank;
    uint64_t shape[ST_RANK_MAX];
    uint64_t offset_bytes, bytes; /* from the start of the file */
};
struct st_header {
    struct st_tensor *tensors; /* [tensor_count], sorted by name, in the arena */
    size_t tensor_count;
};
/* text: the n bytes of JSON. data_bytes: what follows them in the file. */
bool st_header_parse(const char *text, size_t n, uint64_t data_bytes, struct arena *arena,
                     struct st_header *ret_header, struct error *error) MUST_USE;
/* name: for errors. */
bool st_header_read(int fd, const char *name, struct arena *arena, struct st_header *ret_header,
                    struct error *error) MUST_USE;

/* model.safetensors.index.json: which shard holds each tensor. Shard names are base names
 * [A-Za-z0-9._-]+.safetensors. */
struct st_index_entry {
    const char *tensor, *shard;
};
struct st_index {
    struct st_index_entry *entries; /* [entry_count], sorted by tensor, in the arena */
    size_t entry_count;
    const char **shards; /* [shard_count], sorted, in the arena */
    size_t shard_count;
};
bool st_index_parse(const char *text, size_t count, struct arena *arena, struct st_index *ret_index,
                    struct error *error) MUST_USE;

#endif
