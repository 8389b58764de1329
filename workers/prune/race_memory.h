/*
 * workers/prune/race_memory.h: what candidates came to, token by token, when they were last finished: for sampling in later rounds
 * (race.h). Values of all tokens of the text, in double.
 */
#ifndef WORKERS_PRUNE_RACE_MEMORY_H
#define WORKERS_PRUNE_RACE_MEMORY_H

#include "workers/prune/prune.h"

struct race_memory {
    double **known; /* [sublayer_count], of the candidate that begins there; NULL: not known; owned */
    size_t sublayer_count;
    double *current; /* of the model as it is; NULL: not known; owned */
};
void race_memory_start(struct race_memory *memory, size_t sublayer_count);
void race_memory_finish(struct race_memory *memory);
/* values: [count], copied. OUT_OF_MEMORY. */
bool race_memory_keep(struct race_memory *memory, const struct prune_unit *unit, const double *values,
                      size_t count, struct error *error) MUST_USE;
void race_memory_forget(struct race_memory *memory); /* the model is another */
/* The unit goes for good: what it came to is what the model comes to from now on. */
void race_memory_commit(struct race_memory *memory, const struct prune_unit *unit);

#endif
