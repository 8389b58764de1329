/*
 * workers/model/gguf.h: GGUF files, versions 2 and 3, little endian: what they say, without their weights.
 *
 *     gguf.c             the file: metadata and tensor list, from bytes (this header's first part)
 *     gguf_config.c      metadata -> an equivalent config.json
 *     gguf_map.c         tensors -> the names and shapes of the family's Hugging Face checkpoint
 *     gguf_names.h       the families' names, both ways
 *     gguf_tokenizer.c   tokenizer.ggml.* -> an equivalent tokenizer.json
 *
 * A GGUF file is: magic, version, counts; key-value pairs; per tensor name, dimensions (fastest first), type and
 * offset; padding; the tensors, each at a multiple of general.alignment. Files come from strangers, so every
 * count, length and sum is checked before it is used (reliability section 8): a header of at most 64 MiB, 65536
 * pairs, 200000 tensors of rank 1..4, distinct names, no arrays in arrays, and tensors that lie one after another
 * with nothing but padding between them and end where the file does.
 *
 * Immutable after reading. Texts are borrowed from the struct and end with NUL where they are `const char *`;
 * a struct gguf_text in an array may hold NULs and does not end with one.
 */
#ifndef WORKERS_MODEL_GGUF_H
#define WORKERS_MODEL_GGUF_H

#include "base/cleanup.h"
#include "base/error.h"
#include "base/json.h"
#include "workers/model/layout.h"
#include "workers/tensor/dtype.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GGUF_HEADER_LIMIT_BYTES ((size_t)64 << 20)
#define GGUF_PAIRS_MAX          65536u
#define GGUF_TENSORS_MAX        200000u
#define GGUF_TEXTS_MAX          (1u << 22) /* texts in arrays, all together */

enum gguf_type { /* as numbered in the file */
                 GGUF_U8,
                 GGUF_I8,
                 GGUF_U16,
                 GGUF_I16,
                 GGUF_U32,
                 GGUF_I32,
                 GGUF_F32,
                 GGUF_BOOL,
                 GGUF_TEXT,
                 GGUF_ARRAY,
                 GGUF_U64,
                 GGUF_I64,
                 GGUF_F64,
                 GGUF_TYPE_COUNT
};
struct gguf_text {
    const char *bytes;
    size_t length;
};
struct gguf_pair {
    const char *key;
    bool is_array;
    enum gguf_type type;           /* of the elements where it is an array */
    size_t count;                  /* elements; 1 for a scalar */
    const unsigned char *bytes;    /* little endian, unaligned; NULL for texts */
    const struct gguf_text *texts; /* [count]; NULL for numbers */
};
struct gguf_tensor {
    const char *name;
    enum dtype dtype;
    size_t rank;
    uint64_t shape[8];            /* slowest first: the dimensions of the file, reversed */
    uint64_t offset_bytes, bytes; /* from the start of the file */
};
/* Divisors of the rotary frequencies, which are arithmetic rather than weights, so they are read with the header:
 * [head_size / 2]; count 0: the file has none. */
enum gguf_factors_kind {
    GGUF_ROPE_FREQS,
    GGUF_ROPE_FACTORS_LONG,
    GGUF_ROPE_FACTORS_SHORT,
    GGUF_FACTORS_COUNT
};
#define GGUF_FACTORS_MAX 512u
struct gguf_factors {
    const float *values;
    size_t count;
};
struct gguf {
    struct arena *arena;
    unsigned char *bytes; /* owned: the header, which pairs point into */
    uint32_t version;
    const char *architecture; /* general.architecture; "" where absent */
    struct gguf_pair *pairs;  /* [pair_count], sorted by key */
    size_t pair_count;
    struct gguf_tensor *tensors; /* [tensor_count], sorted by name */
    size_t tensor_count;
    struct gguf_factors factors[GGUF_FACTORS_COUNT];
};
extern const char *const gguf_factor_names[GGUF_FACTORS_COUNT]; /* of their tensors */

/* Reads the header from a descriptor. CORRUPT_FILE naming the key or tensor; UNSUPPORTED: a version, byte order,
 * tensor type or split file that we do not read; TOO_LARGE: a header over the limit. NULL on failure. */
struct gguf *gguf_read(int fd, struct error *error) MUST_USE;
/* The same from memory: bytes [count] is the file, or its beginning if file_bytes is larger (factors that lie past
 * it are CORRUPT_FILE). */
struct gguf *gguf_parse(const void *bytes, size_t count, uint64_t file_bytes, struct error *error) MUST_USE;
void gguf_destroy(struct gguf *gguf);
OWNED_DEFINE(gguf)

const struct gguf_tensor *gguf_find_tensor(const struct gguf *gguf, const char *name); /* NULL: none */
const struct gguf_pair *gguf_find(const struct gguf *gguf, const char *key);           /* NULL: none */
/* One number of a pair, index < count; false where it is no such number (a text; for u64 a negative one or a
 * fraction). A bool is 0 or 1. */
bool gguf_number_at(const struct gguf_pair *pair, size_t index, double *ret_value);
bool gguf_integer_at(const struct gguf_pair *pair, size_t index, int64_t *ret_value);
/* Scalars by key. Absent: _find_ returns true and leaves ret untouched; _get_ fails with MISSING_FIELD. The
 * error's field is the key. WRONG_TYPE, OUT_OF_RANGE. */
bool gguf_find_u64(const struct gguf *gguf, const char *key, uint64_t min, uint64_t max, uint64_t *ret_value,
                   struct error *error) MUST_USE;
bool gguf_get_u64(const struct gguf *gguf, const char *key, uint64_t min, uint64_t max, uint64_t *ret_value,
                  struct error *error) MUST_USE;
bool gguf_find_f64(const struct gguf *gguf, const char *key, double *ret_value, struct error *error) MUST_USE;
bool gguf_get_f64(const struct gguf *gguf, const char *key, double *ret_value, struct error *error) MUST_USE;
bool gguf_find_bool(const struct gguf *gguf, const char *key, bool *ret_value, struct error *error) MUST_USE;
/* NUL-terminated, without NULs inside, UTF-8. */
bool gguf_find_string(const struct gguf *gguf, const char *key, const char **ret_text,
                      struct error *error) MUST_USE;

/* ---- the file as a Hugging Face checkpoint --------------------------------------------------------------- */

/* An equivalent config.json, owned. NULL with faults: UNSUPPORTED names the key that could change the arithmetic
 * and that we cannot express. Families: llama (Mistral), Mixtral, qwen2, qwen3, qwen3moe, gemma2, gemma3, phi3,
 * gpt2, gptneox, bert. */
json_t *gguf_config(const struct gguf *gguf, struct error_list *faults) MUST_USE;

/* One tensor of the checkpoint that the file is equivalent to. Several may lie in one tensor of the file (experts),
 * none is left out but what the config expresses (rope_freqs.weight). */
struct gguf_tensor_map {
    const char *name;   /* as the family's Hugging Face checkpoint has it */
    const char *source; /* the file's name for it */
    enum dtype dtype;
    size_t rank;
    uint64_t shape[8]; /* canonical: [out, in] for a matrix, [in, out] where layout says TRANSPOSED */
    uint64_t offset_bytes, bytes;
    enum tensor_layout layout;
    size_t layout_heads; /* ROPE_PAIRS, QKV_CONCATENATED; else 0 */
};
struct gguf_map {
    struct arena *arena;
    struct gguf_tensor_map *tensors; /* [count], sorted by name */
    size_t count;
};
/* UNSUPPORTED naming the tensor that the family does not have; CORRUPT_FILE where heads do not divide a shape. */
bool gguf_map(const struct gguf *gguf, struct gguf_map *ret_map, struct error *error) MUST_USE;
void gguf_map_finish(struct gguf_map *map);

/* An equivalent tokenizer.json, owned text (free). NULL: NOT_FOUND (no vocabulary in the file), UNSUPPORTED,
 * CORRUPT_FILE. */
char *gguf_tokenizer_json(const struct gguf *gguf, struct error *error) MUST_USE;

#endif
