/*
 * workers/select/embed.h: vectors of records as selectors compare them, and the pass of an encoder that makes them. Without an encoder they are
 * the pools of measure.h.
 *
 * Threads: one drives a model.
 */
#ifndef WORKERS_SELECT_EMBED_H
#define WORKERS_SELECT_EMBED_H

#include "workers/data/candidates.h"
#include "workers/model/model.h"

/* The mean of vectors [count, size]: states of language models share most of their direction. */
void embed_mean(const float *vectors, size_t count, size_t size, double *ret_mean);
/* Vectors become embeddings in place: less `mean` (NULL: nothing), and of length 1, or 0 where nothing is left. */
void embed_vectors(float *vectors, size_t count, size_t size, const double *mean);

/* Sentence embeddings of an encoder: the mean of the last states over all tokens, of length 1, float [count, hidden_size] in the file. The
 * longest go first; from number `done` of that order on. */
struct embed_pass {
    struct model *encoder;
    const struct candidates *candidates;    /* for errors: whose valid records they are of */
    const struct token_sequence *sequences; /* [count] */
    size_t count, batch_tokens;
    int fd;
    const struct cancel *cancel;
    void *context;
    /* After each batch, its vectors in the file but not synced: records done of all. False stops with its error. */
    bool (*advanced)(void *context, size_t done, size_t total, struct error *error);
};
/* Errors: NUMERIC naming file and record, CANCELLED, DRAINED, OUT_OF_MEMORY, STORAGE_FULL, IO. */
bool embed_sequences(const struct embed_pass *pass, size_t done, struct error *error) MUST_USE;

#endif
