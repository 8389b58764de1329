/*
 * workers/prune/race.h: the candidates of a round against each other, over one model.
 *
 * Early abort (exact). Scores are sums of terms that are not negative, so the terms of some items bound a candidate from below. The
 * candidate that did best last round is finished first; the others take the items chunk by chunk, and go when their partial sum
 * exceeds the best finished score. When one is ahead of the leader on the items seen so far, it is finished next.
 *
 * Where scores are only known to within a band (screening), a candidate goes when the least that it can come to exceeds the most that the
 * best one can.
 */
#ifndef WORKERS_PRUNE_RACE_H
#define WORKERS_PRUNE_RACE_H

#include "workers/prune/prune.h"
#include "workers/prune/wave.h"

#define RACE_CHUNKS 16 /* of the items, at most */

/* One model that candidates are taken through. Zeroed; then race_side_start, race_side_finish. */
struct race_side {
    struct wave_engine *engine;  /* owned */
    struct objective *objective; /* the engine's */
    struct model *model;         /* borrowed */
    size_t item_count;
    size_t *chunk_first; /* [chunk_count + 1] of items */
    size_t chunk_count;
    bool is_started;
    uint64_t completed, aborted, left_out;
};
bool race_side_start(struct race_side *side, struct model *model, const struct objective_text *text,
                     const struct objective_options *objective, const struct wave_options *wave,
                     struct error *error) MUST_USE;
void race_side_finish(struct race_side *side);

struct race_options {
    bool is_exhaustive; /* nobody goes early */
    double low, high;   /* a score stands for [low, high] times itself; both 1: exact */
};
/* Settles the round's pending candidates on this side. The engine reaches all of them. */
bool race_run(struct race_side *side, struct prune_round *round, const struct race_options *options,
              struct error *error) MUST_USE;

#endif
