/*
 * workers/select/one_shot.h: what records do for the answers of some anchors when each stands before them as the one example (nuggets.h): the
 * log-probability of an anchor's answer by itself, and after each candidate, summed over its tokens, nats.
 *
 *     prompt | answer                                    zero_shot [m]
 *     candidate, prompt and answer | follow | answer     one_shot [N, m]
 *
 * `follow` is the anchor's prompt as it stands behind another record: after what ends that one, without what begins a text. The candidate
 * goes through the model once for the anchors of a round (model_run_shared).
 *
 * First the anchors are asked by themselves, then in rounds: round r asks [r ROUND, (r + 1) ROUND) for all candidates on which nuggets_decide
 * has not decided after the rounds before; delta holds for all looks of a candidate together. What an early round asked says what the next ones ask, so a pass that was
 * stopped goes on from its file, and does what it would have done.
 *
 * Not asked are: anchors after a decision; a candidate that is the anchor, token by token (a leak); and an anchor for which the context
 * leaves no room. Where prompt and anchor fit and the candidate's answer does not, the answer loses its end: never the anchor.
 *
 * A figure's bits depend on its pair's tokens alone, not on batches, threads or stops.
 *
 * Threads: one drives the model. Errors: NUMERIC naming candidate and anchor, CANCELLED, DRAINED, OUT_OF_MEMORY, STORAGE_FULL, IO.
 */
#ifndef WORKERS_SELECT_ONE_SHOT_H
#define WORKERS_SELECT_ONE_SHOT_H

#include "workers/data/candidates.h"
#include "workers/model/model.h"

#define ONE_SHOT_ROUND 16

/* Borrowed. */
struct one_shot_anchor {
    const struct candidates *set; /* for errors: whose it is */
    const struct candidate *item;
    const int32_t *follow; /* [follow_count], at least 1 */
    size_t follow_count;
};
struct one_shot {
    struct model *model; /* only to run */
    const struct candidates *candidates;
    const struct one_shot_anchor
        *anchors; /* [anchor_count], at least 1, in the order in which they are asked */
    size_t anchor_count;
    double threshold, delta; /* nuggets_decide; delta 0: every anchor is asked */
    size_t context_tokens;   /* of candidate and anchor together */
    size_t batch_tokens;
    int fd; /* read and write, of one_shot_file_bytes */
    const struct cancel *cancel;
    void *context;
    /* After each batch, its figures in the file but not synced: steps done of one_shot_steps, those of anchors by
     * themselves first. False stops with its error. */
    bool (*advanced)(void *context, size_t done, size_t total, struct error *error);
};
uint64_t one_shot_file_bytes(size_t candidate_count, size_t anchor_count);
size_t one_shot_steps(size_t candidate_count, size_t anchor_count);
/* From step number `done` on. */
bool one_shot_run(const struct one_shot *pass, size_t done, struct error *error) MUST_USE;

struct one_shot_counts {
    uint64_t evaluations, cut, leaks,
        no_room; /* pairs: asked; of them with a candidate cut short; never asked */
};
/* After the last step: zero_shot [anchor_count], one_shot [valid_count, anchor_count], NaN where not asked. */
bool one_shot_read(const struct one_shot *pass, double *ret_zero_shot, double *ret_one_shot,
                   struct one_shot_counts *ret_counts, struct error *error) MUST_USE;

/* Bytes beside weights and the forward pass's own, for pairs of up to longest_tokens. */
uint64_t one_shot_bytes(const struct model_config *config, size_t batch_tokens, size_t longest_tokens);

#endif
