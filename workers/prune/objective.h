/*
 * workers/prune/objective.h: what candidates are judged by. One term per item, each at least 0, so that a sum over some of the
 * items is a lower bound on the whole; a score is the sum of all terms, in the order of the items, over a fixed number of parts.
 *
 *     distance    of the logits from the original's (FinerCut); an item is a sequence (model.h: head_distance)
 *     nll         of the text's own next tokens, in nats (SLEB, BlockPruner); an item is a sequence, parts are scored tokens
 */
#ifndef WORKERS_PRUNE_OBJECTIVE_H
#define WORKERS_PRUNE_OBJECTIVE_H

#include "base/cleanup.h"
#include "base/error.h"
#include "workers/model/model.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum objective_kind { OBJECTIVE_DISTANCE, OBJECTIVE_NLL };

/* What is judged on; all borrowed. */
struct objective_text {
    struct token_batch batch;
};
struct objective_options {
    enum objective_kind kind;
    enum head_metric metric; /* DISTANCE */
    bool
        is_plain_head; /* DISTANCE: all distances from logits, also those that the head's Gram matrix gives */
};

struct objective;
/* original: states of the whole batch before the final norm, of the model without anything removed; only for DISTANCE, else
 * NULL. text's arrays are borrowed for the objective's life. */
struct objective *objective_create(struct model *model, const struct objective_text *text,
                                   const struct objective_options *options, const struct hidden *original,
                                   struct error *error) MUST_USE;
void objective_destroy(struct objective *objective);
OWNED_DEFINE(objective)

/* What is found out about tokens, which terms are made of: hidden holds these items' sequences of the candidate in slot 0, then of
 * slot 1, ... */
struct objective_query {
    const struct hidden *hidden;
    const size_t *slots; /* [slot_count]: the candidates that are wanted */
    size_t slot_count;
    size_t first_item, item_count;
    const size_t
        *tokens; /* [token_count], ascending, of the items' tokens; NULL: all. Where objective_selects */
    size_t token_count;
    double *const *values; /* [slot_count] of [tokens of the items]: filled where asked for */
};
bool objective_evaluate(struct objective *objective, const struct objective_query *query,
                        struct error *error) MUST_USE;
/* Whether single tokens can be asked for, with the same bits, and for less than all of them cost. */
bool objective_selects(const struct objective *objective);
/* Terms of items from the values of all their tokens: ret_terms [item_count]. NUMERIC. */
bool objective_terms(const struct objective *objective, size_t first_item, size_t item_count,
                     const double *values, double *ret_terms, struct error *error) MUST_USE;
/* What some values come to in the sum that objective_parts divides, whatever the others are; where objective_selects. */
double objective_bound(const struct objective *objective, const double *values, const size_t *tokens,
                       size_t token_count);
/* What a ratio of sums of values is as a ratio of scores, of the same items. */
double objective_ratio(const struct objective *objective, double ratio);
double objective_parts(const struct objective *objective);
double objective_total(const struct objective *objective, const double *terms); /* [item_count] */

#endif
