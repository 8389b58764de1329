/*
 * workers/select/deita.h: "What makes good data for alignment?" (Deita): complexity times quality, and then a walk that keeps
 * records apart.
 *
 * The walk goes by falling score, ties to the smaller index. A record is admitted if its cosine distance, 1 - cosine, to each one admitted before it
 * exceeds the threshold, until the budget is spent (ranking.h: one that does not fit a token budget is passed over for good; it is not
 * admitted, and keeps nobody out). A pool without enough variety gives fewer records than the budget pays for.
 *
 * Distances come of fp32 products of DEITA_BLOCK records at a time with those admitted; one that these leave in question (rows_margin) is made
 * again in double. A distance within 1e-12 of the threshold does not exceed it: with threshold 0 exactly the records that point the same
 * way are left out. A record of zeros (rows.h) is at distance 1 from everything.
 *
 * Cost: at most a product of the records looked at with those admitted. Memory: a copy of the admitted rows, 16 bytes for each record, 5 MB.
 */
#ifndef WORKERS_SELECT_DEITA_H
#define WORKERS_SELECT_DEITA_H

#include "workers/select/ranking.h"
#include "workers/tensor/dense.h"

#define DEITA_BLOCK 256

/* ret_scores [count] = complexity * quality; NaN where one of the two is. NUMERIC: a product, named, that is none of numbers (infinity by 0). */
bool deita_scores(const double *complexity, const double *quality, size_t count, double *ret_scores,
                  struct error *error) MUST_USE;

/* Borrowed. */
struct deita_walk {
    size_t n, size;         /* size >= 1 */
    const float *rows;      /* [n, size] */
    const double *scores;   /* [n]; NaN: the record takes no part */
    const uint32_t *tokens; /* [n]; NULL: not known (BUDGET_RECORDS only) */
    double threshold;       /* >= 0; above 2 nothing but the first is admitted */
    struct budget budget;
};
struct deita_use {
    struct budget_use admitted;
    size_t too_near, too_long; /* looked at and left out: for the threshold, else for the tokens left */
};
/* ret_order: room for n, or for a smaller budget of records. NUMERIC: a row, named, that is no number, or too long.
 * CANCELLED, OUT_OF_MEMORY. */
bool deita_choose(const struct dense_threads *threads, const struct deita_walk *walk, size_t *ret_order,
                  struct deita_use *ret_use, struct error *error) MUST_USE;

#endif
