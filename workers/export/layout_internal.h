/* workers/export/layout_internal.h: what the parts of the layouts share: what a draft makes of a plan's blocks. */
#ifndef WORKERS_EXPORT_LAYOUT_INTERNAL_H
#define WORKERS_EXPORT_LAYOUT_INTERNAL_H

#include "workers/export/export.h"

/* The sizes that all blocks have in a file whose config has one of each. 0: there is no such sublayer. */
struct export_widths {
    size_t head_count, kv_head_count;
    struct model_layer ffn;     /* intermediate_size of those without experts */
    struct model_layer experts; /* expert_count, active_expert_count, intermediate_size of those with */
};
struct layout {
    enum export_layout kind;
    const struct model_config *config;
    const struct model_config *said; /* what the source's config.json says, before any width was pruned */
    const struct plan_block *blocks; /* [block_count], of sublayers; identity: every layer is one */
    size_t block_count;
    const struct plan_sublayer *sublayers;
    struct export_widths widths; /* where kind has one of each */
};
/* The layer that a block's attention or FFN comes from; NULL: the block has none. */
static inline const struct model_layer *layout_attention(const struct layout *layout, size_t block)
{
    long sublayer = layout->blocks[block].attention;
    return sublayer >= 0 ? &layout->config->layers[layout->sublayers[sublayer].layer] : NULL;
}
static inline const struct model_layer *layout_ffn(const struct layout *layout, size_t block)
{
    long sublayer = layout->blocks[block].ffn;
    return sublayer >= 0 ? &layout->config->layers[layout->sublayers[sublayer].layer] : NULL;
}

/* Whether transformers (5) opens the family's config only where num_attention_heads divides hidden_size, though head_dim is said. */
bool layout_must_divide(const struct model_config *config);
/* layout_decilm.c: UNSUPPORTED naming every rule that the plan breaks. */
bool layout_check_decilm(const struct layout *layout, struct error *error) MUST_USE;
/* Makes config.json (of a heterogeneous result) DeciLM's. */
void layout_put_decilm(const struct layout *layout, json_t *json);
const char *layout_dtype_name(enum dtype dtype);
/* "pruning.layers" of config.json. Owned. */
json_t *layout_format_layers(const struct layout *layout) MUST_USE;
/* Owned. */
json_t *layout_draft_config(const struct layout *layout, const struct inventory *inventory,
                            const struct export_options *options) MUST_USE;

#endif
