/*
 * workers/export/export.h: a plan applied and written as a Hugging Face folder.
 *
 *     layout.c    which layout, and what becomes of every tensor (no weight is touched)
 *     layout_config.c   config.json of it
 *     layout_decilm.c   block_configs of DeciLM, which vLLM reads
 *     padding.c   zeros between a tensor's rows and columns: padded and identity layouts of narrower sublayers
 *     writer.c    safetensors files, sharded; tensors stream from the source, one buffer at a time
 *     export.c    the folder: weights, config.json, tokenizer and side files byte for byte, our modelling files
 *     formats.c   GGUF files beside it (gguf.h)
 *     certificate.c   what each runtime will do with it, by rules
 *     card.c      README.md, the model card
 *     sums.c      SHA256SUMS and the list of what is there
 *
 * The source folder is only read. The output folder must exist and be empty (an interrupted export is begun
 * again in a fresh one); every file is synced.
 */
#ifndef WORKERS_EXPORT_EXPORT_H
#define WORKERS_EXPORT_EXPORT_H

#include "base/cancel.h"
#include "base/error.h"
#include "base/json.h"
#include "workers/model/inventory.h"
#include "workers/model/plan.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum export_layout {
    EXPORT_AUTO,
    EXPORT_UNIFORM,
    EXPORT_PADDED,
    EXPORT_IDENTITY,
    EXPORT_HETEROGENEOUS,
    EXPORT_DECILM
};
#define EXPORT_LAYOUT_COUNT 6
bool export_layout_parse(const char *text, enum export_layout *ret_layout);
const char *export_layout_name(enum export_layout layout);
bool export_is_remote(enum export_layout layout); /* transformers opens it with trust_remote_code only */
/* What no plan can change: UNSUPPORTED where a model of this family is never written so. */
bool export_check_layout(const struct model_config *config, enum export_layout layout, struct error *error);
/* "keep", "float32", "bfloat16", "float16"; *ret_keep true for the first. */
bool export_dtype_parse(const char *text, bool *ret_keep, enum dtype *ret_dtype);

struct export_options {
    enum export_layout layout;
    bool is_stock; /* a GGUF file goes with it: AUTO takes no layout that this cannot hold */
    bool is_dtype_kept;
    enum dtype dtype; /* of all weights unless kept */
    uint64_t max_shard_bytes;
    const json_t *pruning; /* goes into config.json's "pruning" beside "layers"; borrowed, may be NULL */
    const struct cancel *cancel; /* may be NULL */
    void *context;
    void (*progress)(void *context, uint64_t done_bytes, uint64_t total_bytes); /* may be NULL */
};

/* Rows (or columns) of a written tensor: count of the source's from `first` on, or count zeros. */
struct export_run {
    uint64_t first, count;
    bool is_zero;
};
struct export_padding {
    struct export_run *rows, *columns; /* owned */
    size_t row_run_count, column_run_count;
};
/* What will be written: arithmetic over the inventory. */
struct export_tensor {
    char *name; /* owned */
    size_t source;
    bool is_zero; /* written as zeros (identity) */
    size_t rank;
    uint64_t shape[8];              /* as written */
    struct export_padding *padding; /* owned; NULL: all rows and columns are the source's */
    enum dtype dtype;
    uint64_t element_count, bytes;
};
struct export_draft {
    enum export_layout layout;     /* chosen, never AUTO */
    struct export_tensor *tensors; /* [tensor_count], sorted by name */
    size_t tensor_count, block_count;
    uint64_t weight_bytes, parameter_count;
    json_t *config;   /* owned: the new config.json */
    bool is_verbatim; /* nothing changes: weight files are copied whole */
};
/* inventory: of the model as the plan leaves it (plan_apply; the source's own where no width changes); what the plan removes is
 * still in it. UNSUPPORTED: the layout cannot express the plan (field "/output/layout"). */
bool export_draft_make(const struct plan *plan, const struct inventory *inventory,
                       const struct export_options *options, struct export_draft *ret_draft,
                       struct error *error) MUST_USE;
void export_draft_finish(struct export_draft *draft);

/* Writes weights, config.json, side files; source_path as given to inventory_inspect. CANCELLED, STORAGE_FULL, INPUT_CHANGED, IO. */
bool export_write(const struct export_draft *draft, const struct inventory *inventory,
                  const char *source_path, const char *out_folder, const struct export_options *options,
                  struct error *error) MUST_USE;

/* formats.c: the formats of output.formats, NULL-terminated: "hf", which is always written, and GGUF by element type.
 * formats: a list of their names, or NULL; borrowed. */
extern const char *const export_formats[];
bool export_formats_have_gguf(const json_t *formats);
/* Whether the draft (NULL: the model as it is) can be written so, by what is known without its files; the bytes of weights
 * besides the folder's. UNSUPPORTED, field "/output/formats/<index>". */
bool export_check_formats(const struct export_draft *draft, const struct inventory *inventory,
                          const json_t *formats, const struct export_options *options, uint64_t *ret_bytes,
                          struct error *error) MUST_USE;
/* Writes them into the folder that export_write filled, whose tokenizer they take. UNSUPPORTED: a tokenizer that GGUF cannot
 * say; otherwise as export_write. */
bool export_write_formats(const struct export_draft *draft, const struct inventory *inventory,
                          const char *source_path, const char *out_folder, const json_t *formats,
                          const struct export_options *options, struct error *error) MUST_USE;
/* certificate.h: what each runtime will do with what was written: [{loader, verdict, basis, reason, line}]; line, which opens it, is
 * there where it loads as it should. formats: as above. Owned. */
json_t *export_loaders(const struct export_draft *draft, const json_t *formats) MUST_USE;

/* README.md. All JSON borrowed and the same in every run: no times, no speeds. */
struct export_card {
    const char *model_name, *method, *method_reference;
    const char *license; /* NULL: unknown */
    const json_t *request, *before, *after, *summary, *calibration, *loaders;
};
bool export_write_card(const struct export_card *card, const char *out_folder, struct error *error) MUST_USE;
/* The licence named by the front matter of the source's README.md: owned, NULL where there is none. */
char *export_read_license(const char *source_path) MUST_USE;

/* Writes SHA256SUMS over everything but itself and report.*; *ret_files: owned [{path, bytes, sha256}],
 * sorted, of everything. */
bool export_write_sums(const char *out_folder, json_t **ret_files, struct error *error) MUST_USE;

#endif
