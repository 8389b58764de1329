/*
 * workers/prune/prefix.h: a prune_evaluator over a model: how a round of candidates is judged with as little work as keeps the result
 * (structured_pruning 1.6). What a sweep of candidates is, and the prefix cache, are in wave.h.
 *
 * Losers of a round go early (race.h): they have a bound, not a score. Winners, their scores and their order stay what an exhaustive
 * search finds, bit for bit. Streamed weights are swept once a round, with all candidates and items, and nobody goes early.
 *
 * Screening (optional). A second model of the same weights, in bf16, judges everyone first. How its scores relate to the exact ones is
 * measured: the ratios of all candidates that were evaluated both ways (on the tokens that were) lie in a band, which is widened on both
 * sides by twice its width (1 % at least; before anything is known it reaches from 1/2 to 2). Most candidates go by what some windows say
 * of the others (race.h). Once the band is known, whoever seems to be ahead is evaluated exactly at once, and the others race against
 * that. Whoever may still win by the band is evaluated exactly; a ratio outside of it widens it, and the round is looked at again. Scores
 * are the exact model's; that the winner is, rests on the band and on the errors of sampling, which are measured and no proof. What was
 * measured is gone after a resume.
 */
#ifndef WORKERS_PRUNE_PREFIX_H
#define WORKERS_PRUNE_PREFIX_H

#include "workers/prune/objective.h"
#include "workers/prune/prune.h"
#include "workers/prune/wave.h"

struct prefix_options {
    struct objective_options objective;
    struct wave_options wave; /* memory, and what is switched off */
    bool is_exhaustive;       /* no early abort */
    struct model *screen;     /* borrowed; NULL: no screening */
};
/* From a method's parameters: metric and js_form, prefix_cache, batch_candidates, early_abort, gram_head; what is absent has the
 * accelerated form, and without a metric the objective is the text's log-likelihood. The memory limit stays 0. */
void prefix_options_read(const json_t *parameters, struct prefix_options *ret_options);

struct prefix_evaluator;
/* model and text are borrowed. The first round makes a reference of the model without anything removed, with the tap that is set then. */
struct prefix_evaluator *prefix_evaluator_create(struct model *model, const struct objective_text *text,
                                                 const struct prefix_options *options);
void prefix_evaluator_destroy(struct prefix_evaluator *evaluator);
OWNED_DEFINE(prefix_evaluator)
/* Borrowed, valid as long as the evaluator. */
struct prune_evaluator *prefix_evaluator_interface(struct prefix_evaluator *evaluator);
/* For the plan of the work: what judging a round takes beside states and references, of each model (of two where one screens). */
uint64_t prefix_evaluator_values_bytes(size_t sublayer_count, size_t rows, bool has_screen);
size_t prefix_evaluator_state_count(const struct prefix_evaluator *evaluator); /* hidden states it holds */

#endif
