/*
 * workers/model/plan.h: what goes. A method decides a plan, the rewriter applies it, exporters write it. A
 * plan is a JSON document ("plan.json"); it can be stored, compared, replayed and applied without scoring
 * again.
 *
 * A greedy method yields a curve: `order` lists sublayers in removal order with their scores, and any prefix
 * is a result; `removed` is the prefix that was chosen for the target.
 *
 * What stays of a sublayer that stays is its width: query heads, FFN channels, experts. Methods that compensate or rotate also
 * leave replacement weights (patch.h). plan_apply makes of both an inventory of the pruned model, as the rest of the engine
 * sees it: everything that reads weights by an inventory reads the pruned ones.
 */
#ifndef WORKERS_MODEL_PLAN_H
#define WORKERS_MODEL_PLAN_H

#include "base/cleanup.h"
#include "base/error.h"
#include "base/json.h"
#include "workers/model/inventory.h"
#include <stdbool.h>
#include <stddef.h>

#define PLAN_VERSION 1

struct patch;

/* What of one sublayer stays. Lists ascend without repeats; NULL: all. Lists are owned. */
struct plan_width {
    uint32_t *heads; /* attention: query heads. Every KV group that keeps one keeps as many as the others */
    size_t head_count;
    uint32_t *experts; /* FFN with experts: those kept */
    size_t expert_count;
    /* FFN: channels. With experts: [experts left, channel_count], a list for each expert that stays. */
    uint32_t *channels;
    size_t channel_lists, channel_count; /* lists: 1, or the experts that stay */
};

struct plan_point {
    size_t sublayer; /* the one removed at this point */
    double score;    /* of the model after this removal; NAN where a method has none */
    bool is_cut;     /* a result may end here; false inside a block that goes as a whole */
};
struct plan {
    size_t sublayer_count; /* of the source model */
    bool *removed;         /* [sublayer_count] */
    struct plan_point
        *points; /* [point_count], in removal order; the first removed_count of them are `removed` */
    size_t point_count, removed_count;
    struct plan_width *widths; /* [sublayer_count] */
    uint32_t *hidden;          /* residual channels that stay, ascending; owned; NULL: all, or rotated */
    size_t hidden_count;       /* of the pruned model; 0: as it was */
    bool is_rotated; /* hidden_count new channels are mixtures: every tensor that has them is in the patch */
    /* Biases that the source lacks and the pruned model has (compensation). Zero where the patch has no other. */
    bool adds_attention_bias, adds_ffn_bias;
    struct patch *patch; /* owned; NULL: no weight is replaced */
};
struct plan *plan_create(size_t sublayer_count) MUST_USE;
void plan_destroy(struct plan *plan);
OWNED_DEFINE(plan)
/* Appends a point to the curve. */
void plan_add_point(struct plan *plan, size_t sublayer, double score, bool is_cut);
/* Makes the first `count` points the plan. */
void plan_cut(struct plan *plan, size_t count);

/* ---- width: plan_width.c ----------------------------------------------------------------------------------------- */

/* Copies of the lists; a list of everything is no list. count: of the kept; of: how many there are. */
void plan_keep_heads(struct plan *plan, size_t sublayer, const uint32_t *heads, size_t count, size_t of);
void plan_keep_channels(struct plan *plan, size_t sublayer, const uint32_t *channels, size_t count,
                        size_t of);
void plan_keep_experts(struct plan *plan, size_t sublayer, const uint32_t *experts, size_t count, size_t of);
/* channels: [experts, count]; experts: those that stay. */
void plan_keep_expert_channels(struct plan *plan, size_t sublayer, const uint32_t *channels, size_t experts,
                               size_t count, size_t of);
void plan_keep_hidden(struct plan *plan, const uint32_t *channels, size_t count, size_t of);
/* All widths are whole again, and the patch is gone. */
void plan_clear_widths(struct plan *plan);
bool plan_has_widths(const struct plan *plan); /* something is narrower, or replaced */
bool plan_is_empty(const struct plan *plan);   /* nothing goes at all */
/* Whether the lists fit the model: within range, ascending, at least one of each, heads even over KV groups, the family able to
 * lose hidden channels. INVALID_ARGUMENT, UNSUPPORTED, naming sublayer and list. */
bool plan_check_widths(const struct plan *plan, const struct model_config *config,
                       struct error *error) MUST_USE;
/* Whether every tensor of the patch is one of the pruned model's, in its shape, and where the residual is rotated all that has it is there. For
 * patches from outside; the widths have been checked. CORRUPT_FILE, naming the tensor. */
bool plan_check_patch(const struct plan *plan, const struct model_config *config,
                      struct error *error) MUST_USE;
/* Owned copy without the patch. */
struct plan *plan_copy(const struct plan *plan) MUST_USE;

/* ---- what it makes of a model: plan_apply.c ---------------------------------------------------------------------- */

/* The pruned model's config: dimensions of layers, hidden size, biases. Removed sublayers stay in it (they are skipped, not
 * narrowed). ret_config: a copy. */
void plan_derive_config(const struct plan *plan, const struct model_config *config,
                        struct model_config *ret_config);
/* The pruned model's inventory: the source's files and sublayers, tensors under the same names (experts numbered anew) with the
 * shapes they will have and the edits that make them (inventory.h). Removed sublayers are still there. inventory and plan are
 * borrowed for its life; tensors that compensation will replace are found in plan->patch when they are read. */
struct inventory *plan_apply(const struct plan *plan, const struct inventory *inventory,
                             struct error *error) MUST_USE;
/* Whether this family's stock config can say that there are biases at the outputs of attention (ffn). */
bool plan_can_add_bias(const struct model_config *config, bool is_attention);

json_t *plan_format(const struct plan *plan, const struct inventory *inventory) MUST_USE; /* owned */
/* Without its patch: plan_open_patch. Widths are as they were written; plan_check_widths judges whether they fit a model. */
struct plan *plan_parse(const json_t *json, struct error *error) MUST_USE;
/* The patch that plan.json tells of, where it does, from PATCH_FILE in this folder. */
bool plan_open_patch(struct plan *plan, const json_t *json, const char *folder, struct error *error) MUST_USE;

/* The sublayers that an inventory's config describes, in residual order (attention before FFN of the same
 * layer). */
struct plan_sublayer {
    size_t layer;
    bool is_attention;
};
size_t plan_list_sublayers(const struct model_config *config,
                           struct plan_sublayer **ret_sublayers); /* owned (free) */

/* Which sublayer a tensor belongs to, by its name. False: to none (embeddings, final norm, head). OTHER: no forward pass needs
 * it (masks); it goes where its layer's attention goes. */
enum tensor_role { TENSOR_ROLE_WEIGHT, TENSOR_ROLE_NORM, TENSOR_ROLE_OTHER };
struct tensor_owner {
    size_t sublayer;
    size_t layer;
    enum tensor_role role;
    bool is_attention;
    const char *suffix; /* borrowed from the name: after the layer's number */
};
bool plan_find_owner(const struct model_config *config, const char *tensor_name,
                     struct tensor_owner *ret_owner);

/* Whether it is one of the model's parameters: not one that the architecture lacks or ignores. */
bool plan_is_counted(const struct model_config *config, const struct inventory_tensor *tensor);

/* How a plan packs into blocks: attention followed by FFN is one block, empty blocks disappear. A block's attributes (window,
 * rotation) are those of the layer its attention came from. */
struct plan_block {
    long attention, ffn; /* sublayer indices, -1: absent */
};
struct plan_blocks {
    struct plan_block *blocks;
    size_t count;
    bool is_uniform; /* every block has both: a stock config expresses it */
};
void plan_pack(const struct plan *plan, const struct inventory *inventory, struct plan_blocks *ret_blocks);
void plan_blocks_finish(struct plan_blocks *blocks);

/* Counts after the plan (design section 3): what `target` is measured in. */
struct plan_size {
    uint64_t parameter_count, prunable_count, removed_prunable_count, weight_bytes;
    size_t block_count, removed_sublayer_count;
    double sparsity_ratio; /* removed prunable / prunable of the source */
};
/* element_bytes: of the exported dtype; 0: each tensor's own (inventory_kept_dtype). A plan that was cut to nothing measures the
 * source. */
void plan_measure(const struct plan *plan, const struct inventory *inventory, size_t element_bytes,
                  struct plan_size *ret_size);

#endif
