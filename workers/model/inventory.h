/*
 * workers/model/inventory.h: what a model folder holds, without its weights: tensor names, shapes, dtypes,
 * where each lies; the config; every file with size, mtime and sha256. Everything that can be said about a
 * job before it runs is arithmetic over this. It travels as JSON (stored when a model is registered).
 *
 * A model is a folder with safetensors, a folder with one GGUF file, or the path of a GGUF file (*.gguf). A GGUF file is
 * seen as the Hugging Face checkpoint that it is equivalent to.
 */
#ifndef WORKERS_MODEL_INVENTORY_H
#define WORKERS_MODEL_INVENTORY_H

#include "base/arena.h"
#include "base/cancel.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/json.h"
#include "workers/model/config.h"
#include "workers/model/layout.h"
#include "workers/tensor/dtype.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct patch;
/* How a tensor of a pruned model comes of the source's (plan_apply). Lists ascend; they name rows and columns of the source's canonical
 * tensor and are borrowed from the inventory's arena or from the plan, which both outlive the edit's use. */
struct tensor_edit {
    uint64_t rows, columns;      /* of the source's canonical tensor */
    const uint32_t *row_list;    /* [shape[0]]; NULL: all */
    const uint32_t *column_list; /* [rest]; NULL: all */
    double scale;                /* of norms' weights w, of 1 + w where the family adds one; 1: none */
    bool adds_one;
    bool is_zero;              /* the source has no such tensor */
    const struct patch *patch; /* may hold the tensor, which then counts alone; NULL: none. Borrowed */
};

struct inventory_tensor {
    const char *name; /* canonical, whatever the file calls it */
    enum dtype dtype;
    size_t rank;
    uint64_t shape[8];              /* of the canonical tensor */
    enum tensor_layout layout;      /* how the stored elements stand to it */
    size_t layout_heads;            /* where the layout has some */
    size_t file;                    /* index into files */
    uint64_t offset_bytes, bytes;   /* offset from the start of the file */
    bool is_extra;                  /* the architecture has no such tensor: kept, reported, never read */
    const struct tensor_edit *edit; /* of a pruned model; NULL: as it is in the file */
};
struct inventory_file {
    const char *path; /* relative, safe */
    uint64_t bytes;
    int64_t mtime_ns;
    char sha256[65]; /* "" when inspected without hashing */
};
struct inventory {
    struct arena *arena;
    struct inventory_tensor *tensors; /* [tensor_count], sorted by name */
    size_t tensor_count;
    struct inventory_file
        *files; /* [file_count], sorted by path: all regular files of the folder's top level that belong */
    size_t file_count;
    json_t *config_json; /* owned: config.json as it is, or the equivalent of a GGUF file's metadata */
    struct model_config config;
    uint64_t parameter_count, prunable_count; /* of what the config asks for; a tied head counts once */
    uint64_t weight_bytes;                    /* of all tensors in the files */
    size_t extra_tensor_count;
};
/* Reads config.json, the safetensors headers (single file or index and shards), checks that they agree and
 * that the tokenizer's size fits. All faults at once. hash: also sha256 of every file. NULL on faults. */
struct inventory *inventory_inspect(const char *path, bool hash, const struct cancel *cancel,
                                    struct error_list *faults) MUST_USE;
void inventory_destroy(struct inventory *inventory);
OWNED_DEFINE(inventory)
/* The folder of a model's files: the path itself, or where it is a GGUF file the folder that this lies in. Owned (free). */
char *inventory_folder(const char *path) MUST_USE;
struct tokenizer;
/* From tokenizer.json, else from the GGUF file; path as given to inventory_inspect. Owned; NOT_FOUND where the model has none. */
struct tokenizer *inventory_load_tokenizer(const struct inventory *inventory, const char *path,
                                           struct error *error) MUST_USE;
/* The GGUF file that the weights lie in; NULL: they are safetensors. */
const char *inventory_gguf_name(const struct inventory *inventory);
/* What an export that keeps element types writes a tensor in: its own, F16 where safetensors have no such type. */
enum dtype inventory_kept_dtype(const struct inventory_tensor *tensor);

json_t *inventory_format(const struct inventory *inventory) MUST_USE; /* owned */
struct inventory *inventory_parse(const json_t *json, struct error *error) MUST_USE;
/* sizes and mtimes (and hashes, where the mtime differs) as recorded, else INPUT_CHANGED naming the file. */
bool inventory_verify(const struct inventory *inventory, const char *path, struct error *error) MUST_USE;

const struct inventory_tensor *inventory_find(const struct inventory *inventory,
                                              const char *name); /* NULL: none */
/* sha256 over the sorted (path, sha256) of weights, config and tokenizer: the model's identity in reports. */
void inventory_model_sha256(const struct inventory *inventory, char ret_hex[65]);

#endif
