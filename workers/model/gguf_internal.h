/* workers/model/gguf_internal.h: what the readers of GGUF share. */
#ifndef WORKERS_MODEL_GGUF_INTERNAL_H
#define WORKERS_MODEL_GGUF_INTERNAL_H

#include "workers/model/gguf.h"
#include "workers/model/gguf_names.h"

#define GGUF_EXPERTS_MAX 1024u
#define GGUF_LAYERS_MAX  1024u
#define GGUF_KEY_BYTES   128u

/* "<architecture>.<name>"; an architecture that makes it longer is unknown anyway. Returns ret_key. */
const char *gguf_key(const struct gguf *gguf, const char *name, char ret_key[GGUF_KEY_BYTES]);
/* The family of the file; NULL: UNSUPPORTED naming general.architecture. */
const struct gguf_family *gguf_family_read(const struct gguf *gguf, struct error *error);
/* An integer that may stand once or once per layer; all the same, else UNSUPPORTED. Absent: ret untouched. */
bool gguf_find_layered(const struct gguf *gguf, const char *name, uint64_t max, uint64_t *ret_value,
                       struct error *error);
bool gguf_read_heads(const struct gguf *gguf, size_t *ret_heads, size_t *ret_kv_heads, struct error *error);

/* gguf_layers.c: of a family that has_layers. ret_layers: owned [*ret_count]. */
struct gguf_layer_sizes {
    size_t head_count, kv_head_count, ffn; /* 0: no such sublayer */
};
bool gguf_read_layers(const struct gguf *gguf, struct gguf_layer_sizes **ret_layers, size_t *ret_count,
                      struct error *error) MUST_USE;
/* The most heads with their key-value heads, and the most channels. */
struct gguf_layer_sizes gguf_widest_layer(const struct gguf_layer_sizes *layers, size_t count);
/* "pruning.layers" of config.json (config.h). Owned. */
json_t *gguf_format_layers(const struct gguf_layer_sizes *layers, size_t count) MUST_USE;

#endif
