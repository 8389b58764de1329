/*
 * workers/prune/greedy.h: greedy removal, one unit per round: the candidate whose absence changes the output
 * least goes for good (ties: lower index). It sees a model only through prune_evaluator, so a toy of four
 * numbers and a language model take the same path.
 *
 * Resume: after every candidate the state (curve so far, scores of the current round) is offered to
 * run->observer.save.
 */
#ifndef WORKERS_PRUNE_GREEDY_H
#define WORKERS_PRUNE_GREEDY_H

#include "workers/prune/prune.h"

struct greedy_options {
    enum prune_granularity granularity;
    size_t protected_layers; /* sublayers of layers below this are no candidates ... */
    size_t release_count;    /* ... until so many sublayers are gone */
    bool is_full_curve;      /* go on past the target until nothing is left */
};
/* Fills and cuts ret_plan. Errors as prune_method.decide. */
bool greedy_search(struct prune_run *run, const struct greedy_options *options,
                   const struct prune_target *target, struct plan *ret_plan, struct error *error) MUST_USE;

#endif
