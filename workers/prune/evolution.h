/*
 * workers/prune/evolution.h: an evolutionary search over the levels of allocation groups, after EvoPress (Sieberling et al., arXiv
 * 2410.14649): a (1 + lambda) search whose mutations switch levels: one group gets a level back, others give levels until the target is
 * reached again, so that every candidate stays at the target.
 *
 * Selection has stages: all offspring are judged cheaply (few tokens), the survivors of each stage at more expense; the parent takes part
 * in the last stage. The next parent is the fittest; of equals the parent, then the lower index.
 *
 * Random numbers are counter-based, keyed by (seed, generation, offspring): a search that resumes at a generation with its parent goes on
 * as if it had never stopped.
 */
#ifndef WORKERS_PRUNE_EVOLUTION_H
#define WORKERS_PRUNE_EVOLUTION_H

#include "workers/prune/allocation.h"

#define EVOLUTION_STAGES_MAX 4

struct evolution_options {
    uint64_t seed;
    size_t generations, offspring; /* lambda */
    size_t switches_most;          /* level switches of a mutation: the lower of two draws from 1..; 0: 3 */
    size_t stage_count;            /* 1..EVOLUTION_STAGES_MAX; 0: 1 */
    size_t survivors[EVOLUTION_STAGES_MAX]; /* after each stage but the last, which leaves one */
    void *context;
    /* Lower is better: the divergence of the model with these counts from the original, say. stage 0 .. stage_count - 1. */
    bool (*fitness)(void *context, const size_t *kept, size_t stage, double *ret_fitness,
                    struct error *error);
    /* A resume point after each generation; may be NULL. */
    bool (*save)(void *context, size_t generation, const size_t *parent, double fitness, struct error *error);
    size_t first_generation; /* resume: generations already done ... */
    const size_t *parent;    /* ... and their parent, [group_count]; NULL: the uniform allocation's result */
    double parent_fitness;   /* of a resumed parent (used where first_generation > 0) */
};
/* As allocation_solve; ret_fitness may be NULL. NUMERIC where a fitness is no number. */
bool allocation_evolve(const struct allocation_problem *problem, const struct evolution_options *options,
                       size_t *ret_kept, double *ret_fitness, struct error *error) MUST_USE;

#endif
