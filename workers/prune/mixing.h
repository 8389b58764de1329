/*
 * workers/prune/mixing.h: weights whose outputs or inputs are mixed by a matrix, computed from the source's tensor and put into a plan's
 * patch. For a projection y = W x + b:
 *
 *     outputs   y' = A y                    W' = A W, b' = A b
 *     inputs    x' with x = A^T x' in use   W' = W A^T
 *
 * Products are in double, results in fp32. One tensor at a time: mixed inputs are streamed by rows; mixed outputs need the
 * source's tensor in fp32 and the new one (mixing_bytes). Families that store the transpose are handled; experts that lie in one
 * fused tensor are put one by one, under their own names.
 *
 * One thread drives. Errors: what reading and writing say, OUT_OF_MEMORY, CANCELLED; NUMERIC from the patch.
 */
#ifndef WORKERS_PRUNE_MIXING_H
#define WORKERS_PRUNE_MIXING_H

#include "workers/model/architecture.h"
#include "workers/model/inventory.h"
#include "workers/model/patch.h"
#include "workers/model/source.h"
#include "workers/tensor/dense.h"

struct mixing { /* all borrowed */
    const struct inventory *inventory;
    const struct source *source; /* of the inventory */
    struct patch *patch;
    struct dense_threads threads;
};
/* matrix: [count, out_features] (outputs) or [count, in_features] (inputs), count rows without gaps. `from`: the source's tensor, a
 * weight or (outputs) a bias; `name`: the new one's. */
bool mixing_put_outputs(const struct mixing *mixing, const struct weight_shape *from, const char *name,
                        const double *matrix, size_t count, struct error *error) MUST_USE;
bool mixing_put_inputs(const struct mixing *mixing, const struct weight_shape *from, const char *name,
                       const double *matrix, size_t count, struct error *error) MUST_USE;
/* A vector of the source, as it is: ret_values [count]. */
bool mixing_read_vector(const struct mixing *mixing, const char *name, size_t count, double *ret_values,
                        struct error *error) MUST_USE;
/* Bytes that putting a tensor of rows x columns takes at most. */
uint64_t mixing_bytes(uint64_t rows, uint64_t columns);

#endif
