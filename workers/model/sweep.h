/*
 * workers/model/sweep.h: the hidden states of a whole set of sequences, taken through the model layer by layer, a chunk of
 * sequences at a time, so that streamed weights are read once for the set:
 *
 *     sweep_embed; for each layer: sweep_each(run the layer's sublayers on the chunk); sweep_each(apply the head)
 *
 * Chunks that the budget of memory holds stay in memory; the others live in one file without a name in the given folder, read and
 * written by a thread while the chunks between are worked on. Three chunks pass through memory then: the one that is worked
 * on, the one that comes next, the one that was.
 *
 * The branch of parallel layers (model.h) is not carried from one sweep_each to the next: run both sublayers of such a layer in one
 * visit.
 *
 * One thread. Errors: STORAGE_FULL and IO from the file, OUT_OF_MEMORY, and what the visits say.
 */
#ifndef WORKERS_MODEL_SWEEP_H
#define WORKERS_MODEL_SWEEP_H

#include "workers/model/model.h"

#define SWEEP_CHUNK_ROWS 4096

struct sweep;
struct sweep_options {
    size_t chunk_rows;        /* worked on at once, about: sequences stay whole; 0: SWEEP_CHUNK_ROWS */
    uint64_t memory_bytes;    /* for states; 0: all are held */
    const char *spill_folder; /* borrowed for the call; NULL: all are held */
};
/* model and batch are borrowed for the sweep's life. */
struct sweep *sweep_create(struct model *model, const struct token_batch *batch,
                           const struct sweep_options *options, struct error *error) MUST_USE;
void sweep_destroy(struct sweep *sweep);
OWNED_DEFINE(sweep)

bool sweep_embed(struct sweep *sweep, struct error *error) MUST_USE;

struct sweep_chunk {
    struct hidden *hidden; /* borrowed for the visit */
    size_t first_sequence; /* of the batch */
    size_t first_row;      /* of all rows of the batch */
};
/* All chunks, in order. is_changed: what a visit leaves in the chunk's states is kept. A visit that returns false ends it. */
bool sweep_each(struct sweep *sweep, bool is_changed,
                bool (*visit)(void *context, const struct sweep_chunk *chunk, struct error *error),
                void *context, struct error *error) MUST_USE;
/* The same over two sweeps of the same batch with the same chunk_rows, chunk beside chunk: two models side by side. */
bool sweep_each_beside(struct sweep *first, bool is_first_changed, struct sweep *second,
                       bool is_second_changed,
                       bool (*visit)(void *context, const struct sweep_chunk *first,
                                     const struct sweep_chunk *second, struct error *error),
                       void *context, struct error *error) MUST_USE;

size_t sweep_most_rows(const struct sweep *sweep);       /* of a chunk */
uint64_t sweep_spilled_bytes(const struct sweep *sweep); /* size of the file */

/* For the plan of the work: bytes of all states when they are held, and of what a sweep that spills needs at least, for
 * sequences of up to longest_rows. */
void sweep_measure(const struct model_config *config, size_t rows, size_t longest_rows, size_t chunk_rows,
                   uint64_t *ret_held_bytes, uint64_t *ret_least_bytes);

/* Cosines between rows of two states of the same shape, in double: ret_cosines [row_count]; two zero rows do not differ (1). */
bool hidden_cosines(const struct hidden *a, const struct hidden *b, double *ret_cosines,
                    struct error *error) MUST_USE;

#endif
