/*
 * workers/prune/prefix.h: a prune_evaluator over a model with the exact prefix cache (structured_pruning 1.6
 * A).
 *
 *     h_0 -> f_0 -> h_1 -> f_1 -> ... -> h_N -> head
 *
 * A candidate without sublayer i shares h_0 .. h_i with the current model, so it starts from the cached h_i
 * and runs only what comes after. The trajectory of the best candidate of a round is kept; when that
 * candidate is committed it becomes the cache. Scores equal those of a full forward bit for bit, because a
 * row's bits depend on its own sequence only (model.h).
 *
 * Memory: three trajectories (cache, best, current) when they fit; else the cache alone, and a commit
 * recomputes one suffix; else every k-th state of it, and a candidate starts at the nearest one before it.
 */
#ifndef WORKERS_PRUNE_PREFIX_H
#define WORKERS_PRUNE_PREFIX_H

#include "workers/prune/prune.h"

struct prefix_evaluator;
/* model and batch are borrowed. memory_limit_bytes: for hidden states; 0: no limit. The reference logits are
 * of the model without anything removed. */
struct prefix_evaluator *prefix_evaluator_create(struct model *model, const struct token_batch *batch,
                                                 enum head_metric metric, uint64_t memory_limit_bytes,
                                                 struct error *error) MUST_USE;
void prefix_evaluator_destroy(struct prefix_evaluator *evaluator);
OWNED_DEFINE(prefix_evaluator)
/* Borrowed, valid as long as the evaluator. */
struct prune_evaluator *prefix_evaluator_interface(struct prefix_evaluator *evaluator);
size_t prefix_evaluator_state_count(const struct prefix_evaluator *evaluator); /* hidden states it may keep */

/* The metric that parameters `metric` and `js_form` name. */
enum head_metric prune_head_metric(const json_t *parameters);

#endif
