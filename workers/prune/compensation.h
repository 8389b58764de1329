/*
 * workers/prune/compensation.h: repairing what stays of a model that was made narrower, sublayer by sublayer (structured_pruning 15b). It is
 * a piece of its own, after scores and allocation, and works with any plan that has widths.
 *
 * Two streams go through the calibration batch side by side: the source model's, and that of the pruned model with everything that was repaired
 * so far. At a sublayer that lost heads or channels, the output of its projection in the first is what the second should have, from the inputs
 * that it has (the sequential target): least_squares.h finds the correction, the plan's patch takes the new weights, and the pruned model reads
 * them and goes on. Later layers so see, and repair, what earlier ones still miss.
 *
 *     one pass      dense: run the sublayer, keep y         pruned: run it on a copy, sum x and y - z
 *     solve         W + D, b + d into the patch
 *     one pass      pruned: run the sublayer with them
 *
 * A token's error counts relative to the residual that it is added to: it is divided by the root mean square of the source's residual behind the
 * sublayers at hand. Whatever reads the residual normalises it, token by token; without this a few tokens with massive activations (the first of a
 * sequence, 1000 times the others) are all that squares see, and a bias that suits them ruins the rest. plain_tokens switches it off.
 *
 * The outputs compared are those of the projection, before a norm that comes after and the residual. Both sublayers of a parallel layer
 * read the same and are repaired in one pass. Experts are repaired one by one, from the tokens that both models sent there, weighted with the
 * pruned model's gates; an expert that saw too few stays as it is. Sublayers that the plan removes are skipped by the pruned stream alone, so the
 * next one that is repaired makes up for them too.
 *
 * Memory: prune_compensation_bytes, beside two models (each with its own budget of weights) and two sweeps.
 *
 * Resume: a state after each sublayer, where the plan came without a patch (with one, as of merged rows, a repair
 * begins anew); the streams of what is done are computed again with the patch as it was. The same bytes come of any
 * number of threads, chunks and attempts.
 *
 * Errors: UNSUPPORTED (a plan that rotates the residual), CANCELLED, DRAINED, and what models, sweeps and the patch's file say.
 */
#ifndef WORKERS_PRUNE_COMPENSATION_H
#define WORKERS_PRUNE_COMPENSATION_H

#include "workers/model/plan.h"
#include "workers/prune/least_squares.h"
#include "workers/prune/prune.h"

/* What a projection should make up for: what its own output lacks, or what the residual behind it lacks, which is that and what earlier
 * sublayers still miss. The latter where the output is added to the residual as it is and alone: not with norms after sublayers, experts and
 * parallel layers, whose target is the output. */
enum prune_repair_target { PRUNE_REPAIR_RESIDUAL, PRUNE_REPAIR_OUTPUT };

struct prune_compensation {
    const struct inventory *inventory; /* of the source */
    const char *folder;                /* of its files, as model_open has it */
    struct model_options model;        /* of each of the two; pool and cancel are used throughout */
    const struct token_batch *batch;
    struct sweep_options sweep; /* of each of the two streams */
    uint64_t gram_bytes;        /* for sums of one pass, where a sublayer has many experts; 0: no limit */
    enum least_squares_mode mode;
    enum prune_repair_target target;
    bool
        allows_new_biases; /* biases that the source lacks may be added where the family's config can say so */
    bool repairs_all;      /* also projections that lost nothing, for what earlier sublayers still miss */
    bool plain_tokens;     /* every token's error counts as it is */
    const char *patch_path; /* where the patch is made, if the plan has none */
    struct prune_observer observer;
    const json_t *state; /* of an earlier attempt with the same plan, from observer.save; NULL: none */
};
/* Fills plan->patch, and plan->adds_attention_bias and adds_ffn_bias where a bias that is new is of use; nothing where nothing is gained: the plan
 * has no patch then (unless it had one). *ret_report (owned):
 *     {mode, target: "residual" or "output", token_weights: "residual" or "none", repaired_count, skipped_count,
 *      sublayers: [{sublayer, layer, kind, expert?, inputs, outputs, mode, note, lambda?, error_before, error_after,
 *                   tokens, held_out_tokens}]}
 * On failure the plan's patch may hold part of it. */
bool prune_compensate(const struct prune_compensation *options, struct plan *plan, json_t **ret_report,
                      struct error *error) MUST_USE;

/* The most that sums, factors and buffers take for a model with these dimensions (source's or pruned), chunks of up to `chunk_rows` rows and
 * gram_bytes as above. */
uint64_t prune_compensation_bytes(const struct model_config *config, size_t chunk_rows, uint64_t gram_bytes);

#endif
