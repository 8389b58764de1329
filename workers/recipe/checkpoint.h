/*
 * workers/recipe/checkpoint.h: what a job has finished, on disk, so that the next attempt goes on from there.
 *
 * Two generations: `checkpoint` and `checkpoint.old`; a save writes a new file, syncs it, and moves each one down by rename, so that
 * at every moment one of them is whole. A file is a header line and a JSON payload:
 *
 *     PRUNEDCK <version> <spec sha256> <input sha256> <payload sha256> <payload bytes> <machine>\n<payload>
 *
 * A generation that is torn or fails its hash is passed over. One that is whole but belongs to another spec, other inputs or another
 * machine (ISA, BLAS core type) is an error: results of different arithmetic are never mixed.
 */
#ifndef WORKERS_RECIPE_CHECKPOINT_H
#define WORKERS_RECIPE_CHECKPOINT_H

#include "base/error.h"
#include "base/json.h"
#include <stdbool.h>

#define CHECKPOINT_VERSION 1

struct checkpoint_identity {
    char spec_sha256[65], input_sha256[65];
    char machine[256]; /* printable, no newline */
};
bool checkpoint_save(const char *folder, const struct checkpoint_identity *identity, const json_t *payload,
                     struct error *error) MUST_USE;
/* *ret_payload: owned; NULL when there is no (whole) checkpoint. CONFLICT: another spec. INPUT_CHANGED. UNSUPPORTED: another machine. */
bool checkpoint_load(const char *folder, const struct checkpoint_identity *identity, json_t **ret_payload,
                     struct error *error) MUST_USE;

#endif
