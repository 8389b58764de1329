/*
 * workers/model/plan.h: what goes. A method decides a plan, the rewriter applies it, exporters write it. A
 * plan is a JSON document ("plan.json"); it can be stored, compared, replayed and applied without scoring
 * again.
 *
 * A greedy method yields a curve: `order` lists sublayers in removal order with their scores, and any prefix
 * is a result; `removed` is the prefix that was chosen for the target.
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
};
struct plan *plan_create(size_t sublayer_count) MUST_USE;
void plan_destroy(struct plan *plan);
OWNED_DEFINE(plan)
/* Appends a point to the curve. */
void plan_add_point(struct plan *plan, size_t sublayer, double score, bool is_cut);
/* Makes the first `count` points the plan. */
void plan_cut(struct plan *plan, size_t count);

json_t *plan_format(const struct plan *plan, const struct inventory *inventory) MUST_USE; /* owned */
struct plan *plan_parse(const json_t *json, struct error *error) MUST_USE;

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
