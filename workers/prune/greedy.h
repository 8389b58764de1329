/*
 * workers/prune/greedy.h: greedy removal, one unit per round: the candidate whose absence changes the output
 * least goes for good (ties: lower index). It sees a model only through prune_evaluator, so a toy of four
 * numbers and a language model take the same path.
 *
 * An evaluator that judges whole rounds gets them whole (prefix.h), and may leave losers with a lower bound.
 *
 * Lazy rounds (a heuristic) evaluate only candidates that could win by what earlier rounds said of them. The round that reaches the
 * target is verified: when it has a winner, everyone that was left out is evaluated too.
 *
 * Resume: after every candidate, or every part of a round, the state (curve so far, scores of the current round, what earlier rounds
 * said, costs that were measured) is offered to run->observer.save.
 */
#ifndef WORKERS_PRUNE_GREEDY_H
#define WORKERS_PRUNE_GREEDY_H

#include "workers/prune/prune.h"

struct greedy_options {
    enum prune_granularity granularity;
    size_t protected_layers; /* sublayers of layers below this are no candidates ... */
    size_t release_count;    /* ... until so many sublayers are gone */
    bool is_attention_only;  /* FFNs are no candidates */
    bool is_full_curve;      /* go on past the target until nothing is left */
    size_t protected_ends;   /* first and last layers that are never candidates */
    double lazy_epsilon;     /* in (0, 1): lazy; 0: every candidate in every round */
    enum greedy_rank {
        GREEDY_BY_SCORE,
        GREEDY_BY_SCORE_PER_PARAMETER,   /* prunable ones */
        GREEDY_BY_SCORE_PER_MILLISECOND, /* as measured once, per kind and shape of sublayer */
    } rank;
};
/* `rank_by`, `curve`, `lazy` and `lazy_epsilon` of a method's parameters; the rest stays as it is. */
void greedy_options_read(const json_t *parameters, struct greedy_options *options);
/* Fills and cuts ret_plan. Errors as prune_method.decide. */
bool greedy_search(struct prune_run *run, const struct greedy_options *options,
                   const struct prune_target *target, struct plan *ret_plan, struct error *error) MUST_USE;

#endif
