/*
 * workers/prune/wave.h: candidates of a round taken through the model together (structured_pruning 1.6 A, B).
 *
 *     h_0 -> f_0 -> h_1 -> f_1 -> ... -> h_N -> head
 *
 * A candidate without unit u shares h_0 .. h_u with the current model, so it starts from the h_u of the prefix cache and runs only
 * what comes after. The candidates of a wave lie one after the other in one matrix of rows; a sweep goes up the model once, and at
 * each position lets in the candidate that begins there, so a wave reads every weight once. Rows that have been let in are always
 * the first ones. Terms equal those of a full forward bit for bit, because a row's bits depend on its own sequence only (model.h).
 *
 * Memory decides what is kept: the state before every sublayer that is left; else only the one before the lowest candidate, from
 * which the current model's own rows are swept along with the candidates. Streamed weights are always swept that way: what it
 * costs is less than one candidate, and nothing has to be run again after a commit.
 */
#ifndef WORKERS_PRUNE_WAVE_H
#define WORKERS_PRUNE_WAVE_H

#include "workers/prune/objective.h"
#include "workers/prune/prune.h"

struct wave_options {
    uint64_t memory_limit_bytes; /* of hidden states; 0: no limit */
    bool is_uncached;            /* every candidate from the embedding on */
    bool is_single;              /* one candidate a wave */
};
struct wave_engine;
/* model and text are borrowed. */
struct wave_engine *wave_engine_create(struct model *model, const struct objective_text *text,
                                       const struct objective_options *objective,
                                       const struct wave_options *options);
void wave_engine_destroy(struct wave_engine *engine);
OWNED_DEFINE(wave_engine)
/* Borrowed; NULL before the first restart, which makes it from a run of the original. */
struct objective *wave_engine_objective(struct wave_engine *engine);

/* The current model is the one without removed[]; no candidate will begin below sublayer `first`. */
bool wave_restart(struct wave_engine *engine, const bool *removed, size_t first,
                  struct error *error) MUST_USE;
/* Candidates below `first` so far may come. */
bool wave_reach(struct wave_engine *engine, size_t first, struct error *error) MUST_USE;
/* Candidates after a sweep: their last states, in slots. */
struct wave_view {
    const struct hidden *hidden;
    const size_t *units; /* [unit_count]: which of the units each slot is */
    size_t unit_count;
    size_t first_item, item_count;
    size_t first_row, row_count; /* tokens of these items, among all; of each slot */
};
/* Takes units through items [first_item, first_item + item_count), in as many sweeps as memory asks for, and shows each. keeps: of one
 * unit and all items its states are kept, so that a commit of it costs nothing. */
bool wave_run(struct wave_engine *engine, const struct prune_unit *units, size_t unit_count,
              size_t first_item, size_t item_count, bool keeps,
              bool (*visit)(void *context, const struct wave_view *view, struct error *error), void *context,
              struct error *error) MUST_USE;
bool wave_commit(struct wave_engine *engine, const struct prune_unit *unit, struct error *error) MUST_USE;

/* How long one sublayer takes over all tokens now. */
bool wave_time(struct wave_engine *engine, size_t sublayer, int64_t *ret_ns, struct error *error) MUST_USE;

size_t wave_rows_of(const struct wave_engine *engine, size_t first_item, size_t item_count);
size_t wave_unit_capacity(const struct wave_engine *engine); /* units of all items in one sweep */
size_t wave_state_count(const struct wave_engine *engine); /* hidden states of all tokens that are held now */

#endif
