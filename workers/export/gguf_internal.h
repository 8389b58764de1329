/* workers/export/gguf_internal.h: what the parts of the GGUF exporter share. */
#ifndef WORKERS_EXPORT_GGUF_INTERNAL_H
#define WORKERS_EXPORT_GGUF_INTERNAL_H

#include "base/text.h"
#include "workers/export/gguf.h"
#include "workers/model/gguf.h"
#include "workers/model/gguf_names.h"

/* Key-value pairs as they will lie in the file. */
struct gguf_pairs {
    struct text bytes;
    uint64_t count;
    const char *architecture; /* put before a key that begins with a dot */
};
void gguf_pairs_put_u32(struct gguf_pairs *pairs, const char *key, uint64_t value);
void gguf_pairs_put_f32(struct gguf_pairs *pairs, const char *key, double value);
void gguf_pairs_put_bool(struct gguf_pairs *pairs, const char *key, bool value);
void gguf_pairs_put_text(struct gguf_pairs *pairs, const char *key, const char *value);
/* Begins a list; its elements follow by gguf_append_*. */
void gguf_pairs_begin_list(struct gguf_pairs *pairs, const char *key, enum gguf_type type, uint64_t count);
void gguf_append_integer(struct text *text, uint64_t value, size_t byte_count);
void gguf_append_f32(struct text *text, float value);
void gguf_append_text(struct text *text, const char *bytes, size_t length);

/* One layer of a file whose layers differ. */
struct gguf_layer {
    uint64_t head_count, kv_head_count, ffn; /* as written; attention 0: none */
    bool adds_attention, adds_ffn;           /* zeros that are written for a sublayer that is absent */
};
#define GGUF_ZERO_CHANNELS 32u /* whole blocks of Q8_0 */

/* What config.json says about the file besides its keys. */
struct gguf_metadata {
    const struct gguf_family *family;
    uint64_t layer_count, hidden_size, head_count, kv_head_count, expert_count, head_size;
    struct gguf_layer *layers; /* [layer_count]; NULL: all alike. Owned */
    float *ones;               /* [hidden_size], where there are layers. Owned */
    bool has_tied_head;
    /* Tensors that are made here: factors of rotary frequencies, [factor_count] each; NULL: none. Owned. */
    float *factors[GGUF_FACTORS_COUNT];
    size_t factor_count;
};
bool gguf_metadata_write(const json_t *config, struct gguf_pairs *pairs, struct gguf_metadata *ret_metadata,
                         struct error *error) MUST_USE;
void gguf_metadata_finish(struct gguf_metadata *metadata);

/* gguf_deci.c. ffn: channels of a layer that does not say them. */
bool gguf_layers_read(const json_t *config, struct gguf_metadata *metadata, uint64_t head_size, uint64_t ffn,
                      struct error *error) MUST_USE;
void gguf_layers_put(const struct gguf_metadata *metadata, struct gguf_pairs *pairs);
/* Tensors that the model does not have: ones [shape[0]], or zeros [shape[0], shape[1]]. */
struct gguf_added {
    const char *name;  /* after "blk.<n>.", before ".weight" */
    const float *ones; /* NULL: zeros */
    uint64_t shape[2];
};
#define GGUF_ADDED_MAX 9
size_t gguf_layers_list_added(const struct gguf_metadata *metadata, size_t layer,
                              struct gguf_added ret_added[GGUF_ADDED_MAX]);

/* tokenizer.ggml.*, padded to vocab_size tokens. config: for the ids of special tokens. */
bool gguf_vocabulary_write(const struct gguf_export *model, uint64_t vocab_size, struct gguf_pairs *pairs,
                           struct error *error) MUST_USE;

#endif
