/*
 * workers/export/gguf.h: a model written as one GGUF file (version 3), which llama.cpp and what is built on it load.
 *
 *     gguf.c              the file: tensors planned, header, weights streamed (this header)
 *     gguf_metadata.c     config.json -> the architecture's keys
 *     gguf_deci.c         layers that differ ("pruned_llama")
 *     gguf_vocabulary.c   tokenizer.json -> tokenizer.ggml.*
 *
 * The caller yields rows of the canonical tensors, those of the family's Hugging Face checkpoint, as fp32; names, order of
 * rows and Gemma's norms are turned into what llama.cpp expects (workers/model/layout.h), which is the inverse of what
 * workers/model/gguf_map.c undoes. Matrices become `dtype`; vectors, routers and position tables are F32 always, as
 * llama.cpp's own converter has them; rows that are no whole blocks of Q8_0 become F16.
 *
 * What llama.cpp would compute otherwise is refused, naming the key: a rope scaling, activation or pattern of windows that
 * GGUF cannot say. Windows that it ignores (Mistral, Qwen, Phi-3) shorten context_length instead, inside which they do
 * nothing.
 *
 * Memory: a few windows of 1 MiB, or the largest transposed matrix (GPT-2) as fp32.
 */
#ifndef WORKERS_EXPORT_GGUF_H
#define WORKERS_EXPORT_GGUF_H

#include "base/cancel.h"
#include "base/error.h"
#include "base/json.h"
#include "workers/tensor/dtype.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct gguf_export_tensor {
    const char *name; /* of the checkpoint */
    size_t rank;      /* 1 or 2 */
    uint64_t shape[2];
};
struct gguf_export {
    const json_t *config;       /* config.json of what is written */
    enum dtype dtype;           /* F32, F16, BF16, Q8_0 */
    const char *name;           /* general.name; NULL: none */
    const char *tokenizer_json; /* text [tokenizer_count]; NULL: the file gets no vocabulary */
    size_t tokenizer_count;
    const char *chat_template;                /* NULL: none */
    const struct gguf_export_tensor *tensors; /* [tensor_count]; a head that is tied is left out */
    size_t tensor_count;
    void *context;
    /* Rows [first, first + count) of a tensor (a vector: elements), fp32, into ret_values. */
    bool (*read_rows)(void *context, size_t tensor, uint64_t first, uint64_t count, float *ret_values,
                      struct error *error);
    const struct cancel *cancel;                                                /* may be NULL */
    void (*progress)(void *context, uint64_t done_bytes, uint64_t total_bytes); /* may be NULL */
};

/* Whether it can be written, and the bytes of its tensors: arithmetic, nothing is read. UNSUPPORTED,
 * TOKENIZER_MISMATCH, CONFIG_MISMATCH. */
bool gguf_export_plan(const struct gguf_export *model, uint64_t *ret_bytes, struct error *error) MUST_USE;
/* Writes a new file at `path`, synced; the folder is the caller's to sync. NUMERIC: a value that is no number or does not
 * fit dtype, naming the tensor. On failure what was written stays, as with every export. */
bool gguf_export_write(const struct gguf_export *model, const char *path, struct error *error) MUST_USE;

/* Whether layers of a model of this (stock) type may differ: absent sublayers, widths of their own. */
bool gguf_can_differ(const char *model_type);

/* "f32", "f16", "bf16", "q8_0", as in the format "gguf:q8_0". */
bool gguf_export_dtype_parse(const char *text, enum dtype *ret_dtype);

#endif
