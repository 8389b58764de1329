/*
 * workers/select/k_center.h: greedy k-center (Gonzalez 1985): the row nearest the mean of all rows first, and then again and again
 * the row farthest from all that are chosen. The radius, the greatest distance of any row from the nearest chosen one, is at
 * most twice the least that so many centres can have.
 *
 * A choice needs the distances to the one before. Still work is done in blocks: of the K_CENTER_BATCH rows farthest now, choices
 * go on among these alone for as long as the best of them is ahead of every other row even without that one's losses; then one
 * product brings all rows up to date with the batch. Products screen and distances in double decide (rows.h): the order
 * depends on neither threads nor BLAS.
 *
 * Cost: 2 count wanted size operations where many choices fit a batch; at worst each passes over all rows by itself, at the
 * speed of memory. Memory: 12 bytes a row and 512 bytes for each of 4096 rows.
 *
 * Threads: one call at a time drives a pool. Errors: OUT_OF_RANGE (2^32 - 1 rows or more, or more wanted than there are), NUMERIC
 * naming a row (rows.h), OUT_OF_MEMORY, CANCELLED.
 */
#ifndef WORKERS_SELECT_K_CENTER_H
#define WORKERS_SELECT_K_CENTER_H

#include "workers/tensor/dense.h"
#include <stdint.h>

#define K_CENTER_BATCH 128

/* rows [count, size]. ret_order [wanted]: the rows chosen, in the order of choice; equally far, the smaller index is first, and
 * so are duplicates of chosen rows, which come last. *ret_radius: after the last; infinite where none is wanted of some. */
bool k_center_select(const struct dense_threads *threads, const float *rows, size_t count, size_t size,
                     size_t wanted, uint32_t *ret_order, double *ret_radius, struct error *error) MUST_USE;

#endif
