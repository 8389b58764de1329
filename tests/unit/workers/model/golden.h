/*
 * tests/unit/workers/model/golden.h: the small random models of tests/golden/families, a folder each, opened; and a test over all of
 * them, one case a folder.
 */
#ifndef TESTS_UNIT_WORKERS_MODEL_GOLDEN_H
#define TESTS_UNIT_WORKERS_MODEL_GOLDEN_H

#include "tests/unit/workers/model/fixture.h"

#define GOLDEN_SEQUENCES_MAX 16

struct golden {
    char source[512]; /* in the tree; some of its files are links to those of another folder */
    const char *name; /* of the folder */
    char *folder;     /* a copy without links, which an inventory would refuse */
    struct inventory *inventory;
    struct token_sequence sequences[GOLDEN_SEQUENCES_MAX];
    struct token_batch batch;
    size_t token_count, width;
    bool is_encoder;
    float *values;     /* [token_count, width]: logits, or states */
    float *embeddings; /* [sequence_count, hidden]; NULL: none */
};

/* Runs `test` with each golden as its state; the program's exit code. */
int golden_test_all(const char *group, void (*test)(void **state));
/* Fails the test; NULL where this machine has no such backend. budget_bytes: of weights; 0: all are held. */
struct model *golden_open_model(const struct golden *golden, struct pool *pool, const char *backend,
                                uint64_t budget_bytes);
/* All sublayers over a batch: owned. Fails the test. */
struct hidden *golden_run(struct model *model, const struct token_batch *batch);
/* Logits of a sequence, or an encoder's states: owned. */
float *golden_take_values(const struct golden *golden, struct model *model, const struct hidden *hidden,
                          size_t sequence);

#endif
