/*
 * workers/prune/race.h: the candidates of a round against each other, over one model.
 *
 * Early abort (exact). Scores are sums of terms that are not negative, so the terms of some items bound a candidate from below. The
 * candidate that did best last round is finished first; the others take the items chunk by chunk, and go when their partial sum
 * exceeds the best finished score. When one is ahead of the leader on the items seen so far, it is finished next.
 *
 * Where scores are only known to within a band (screening), a candidate goes when the least that it can come to exceeds the most that the
 * best one can. There a candidate may also be sampled: the tokens seen say what the others come to, by their ratio to a control variate
 * whose values are known for all tokens (Cochran, Sampling Techniques, chapter 6). The control is what the candidate came to when it was
 * last finished, plus what the model is at by now; failing that, the leader of the round. A candidate goes when even SAMPLE_ERRORS
 * standard errors of that ratio would not save it.
 */
#ifndef WORKERS_PRUNE_RACE_H
#define WORKERS_PRUNE_RACE_H

#include "workers/prune/prune.h"
#include "workers/prune/wave.h"

#define RACE_CHUNKS   16 /* of the items, at most */
/* Tokens of a window go together, so that errors are nearly twice what single tokens make one think. In 26,730 estimates of candidates
 * within twice the best (SmolLM2-135M, 15 rounds, 1 to 9 of 10 windows) the whole was 6 errors below in 15, 7.2 at most. Fewer tokens
 * than SAMPLE_TOKENS say nothing. */
#define SAMPLE_ERRORS 7.0
#define SAMPLE_TOKENS 128

/* For sampling, of all tokens: what the candidate that begins at a sublayer came to when it was last finished; what the model as it is
 * comes to. NULL: not known. */
struct race_memory {
    double **known; /* [sublayer_count] */
    size_t sublayer_count;
    double *current;
};
void race_memory_start(struct race_memory *memory, size_t sublayer_count);
void race_memory_finish(struct race_memory *memory);
void race_memory_forget(struct race_memory *memory); /* the model is another */
void race_memory_commit(struct race_memory *memory, const struct prune_unit *unit);

/* One model that candidates are taken through. Zeroed; then race_side_start, race_side_finish. */
struct race_side {
    struct wave_engine *engine;  /* owned */
    struct objective *objective; /* the engine's; NULL: it is to start anew */
    struct model *model;         /* borrowed */
    size_t item_count;
    size_t *chunk_first; /* [chunk_count + 1] of items */
    size_t chunk_count;
    uint64_t completed, aborted, left_out;
};
void race_side_start(struct race_side *side, struct model *model, const struct objective_text *text,
                     const struct objective_options *objective, const struct wave_options *wave);
void race_side_finish(struct race_side *side);
void race_side_restart(struct race_side *side); /* at the next reach */
/* Candidates from sublayer `first` on may come. removed: of the current model, where it starts anew. */
bool race_side_reach(struct race_side *side, const bool *removed, size_t first, struct error *error) MUST_USE;
bool race_side_commit(struct race_side *side, const struct prune_unit *unit, struct error *error) MUST_USE;

struct race_options {
    bool is_exhaustive;         /* nobody goes early */
    bool is_sampled;            /* candidates may go by what the tokens seen say of the others; with memory */
    struct race_memory *memory; /* what is finished is kept there; NULL: not at all */
    double low, high;           /* a score stands for [low, high] times itself; both 1: exact */
    /* Whoever is clearly ahead is not finished here but elsewhere, exactly: its score, and its values in memory. NULL: here. index: of
     * the round's candidates. */
    bool (*confirm)(void *context, size_t index, double *ret_score, struct error *error);
    void *context;
};
/* Settles the round's pending candidates on this side. The engine reaches all of them. */
bool race_run(struct race_side *side, struct prune_round *round, const struct race_options *options,
              struct error *error) MUST_USE;

#endif
