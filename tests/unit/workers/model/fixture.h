/*
 * tests/unit/workers/model/fixture.h: small random models on disk. Weights are normal enough to compute with: counter-based
 * noise scaled by the row length, so that a fixture is the same bytes everywhere.
 */
#ifndef TESTS_UNIT_WORKERS_MODEL_FIXTURE_H
#define TESTS_UNIT_WORKERS_MODEL_FIXTURE_H

#include "workers/model/model.h"
#include <stdbool.h>
#include <stddef.h>

struct fixture_spec {
    size_t layers, hidden, heads, kv_heads, head_size, ffn, vocab;
    bool is_tied, has_attention_bias, has_mlp_bias;
    enum dtype dtype;
    size_t shard_count;     /* 0 or 1: one file */
    const char *model_type; /* NULL: llama */
    const char *more;       /* further members of config.json, ", \"key\": value"; NULL: none */
};
extern const struct fixture_spec fixture_small; /* 3 layers, GQA, tied, F32 */

char *fixture_create_folder(void); /* a fresh, empty one under the temporary one; owned path */
/* Writes the model into a fresh folder under the temporary one; owned path. */
char *fixture_create(const struct fixture_spec *spec);
void fixture_destroy(char *folder); /* removes and frees */
void fixture_write(const char *folder, const char *name, const void *bytes, size_t count);
/* Replaces the first `from` in a text file by `to`; fails the test where there is none. */
void fixture_edit(const char *folder, const char *name, const char *from, const char *to);

/* An opened fixture. */
struct fixture {
    char *folder;
    struct inventory *inventory;
    struct pool *pool;
    struct model *model;
};
void fixture_open(const struct fixture_spec *spec, const char *backend, size_t threads,
                  struct fixture *ret_fixture);
void fixture_finish(struct fixture *fixture);

#endif
