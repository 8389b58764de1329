/*
 * workers/prune/race.h: the candidates of a round against each other, over one model.
 *
 * Early abort (exact). Scores are sums of terms that are not negative, so the terms of some items bound a candidate from below. The
 * candidate that did best last round is finished first; the others take the items chunk by chunk, and go when their partial sum
 * exceeds the best finished score. When one is ahead of the leader on the items seen so far, it is finished next.
 *
 * Where scores are only known to within a band (screening), a candidate goes when the least that it can come to exceeds the most that the
 * best one can. There a candidate may also be sampled: the tokens seen say what the others come to, by their ratio to a control variate
 * whose values are known for all tokens (ratio estimation). The control is what the candidate came to when it was last finished, plus what
 * the model is at by now; failing that, the leader of the round. A candidate goes when even SAMPLE_ERRORS standard errors of that ratio
 * would not save it: measured, no proof.
 */
#ifndef WORKERS_PRUNE_RACE_H
#define WORKERS_PRUNE_RACE_H

#include "workers/prune/prune.h"
#include "workers/prune/race_memory.h"
#include "workers/prune/wave.h"

#define RACE_CHUNKS   16 /* of the items, at most */
/* Tokens of a window go together, so that errors are nearly twice what single tokens make one think. In 26,730 estimates of candidates
 * within twice the best (SmolLM2-135M, 15 rounds, 1 to 9 of 10 windows) the whole was 6 errors below in 15, 7.2 at most. Fewer tokens
 * than SAMPLE_TOKENS say nothing. */
#define SAMPLE_ERRORS 8.0
#define SAMPLE_TOKENS 128

/* One model that candidates are taken through. Zeroed; then race_side_start, race_side_finish. */
struct race_side {
    struct wave_engine *engine;  /* owned */
    struct objective *objective; /* the engine's; NULL: it is to start anew */
    struct model *model;         /* borrowed */
    size_t item_count;
    size_t *chunk_first; /* [chunk_count + 1] of items */
    size_t chunk_count;
    uint64_t completed, aborted, left_out;
    uint64_t sampled; /* of the aborted: those whose tokens seen do not yet come to the best */
};
void race_side_start(struct race_side *side, struct model *model, const struct objective_text *text,
                     const struct objective_options *objective, const struct wave_options *wave);
void race_side_finish(struct race_side *side);
void race_side_restart(struct race_side *side); /* at the next reach */
/* Candidates from sublayer `first` on may come. removed: of the current model, where it starts anew. */
bool race_side_reach(struct race_side *side, const bool *removed, size_t first, struct error *error) MUST_USE;
bool race_side_commit(struct race_side *side, const struct prune_unit *unit, struct error *error) MUST_USE;

struct race_options {
    bool is_exhaustive; /* nobody goes early */
    bool is_sampled;    /* candidates may go by what the tokens seen say of the others; with memory */
    struct race_memory
        *memory; /* what is finished is kept there, where single tokens can be asked for; NULL: nothing */
    double low, high; /* a score stands for [low, high] times itself; both 1: exact */
    /* Whoever is ahead is not finished here but elsewhere, exactly. *ret_score: its score, or a bound on it that is no better than the best;
     * *ret_is_exact: which, and then its values are in memory. NULL: here. index: of the round's candidates. */
    bool (*confirm)(void *context, size_t index, double *ret_score, bool *ret_is_exact, struct error *error);
    void *context;
};
/* Settles the round's pending candidates on this side. Those that were exact before are exact scores of the side that decides. One that was
 * confirmed gets the score that it would have had here: what was seen of it, by its exact values. The engine reaches all of them. */
bool race_run(struct race_side *side, struct prune_round *round, const struct race_options *options,
              struct error *error) MUST_USE;

#endif
