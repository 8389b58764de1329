/*
 * workers/prune/scores.h: the criteria of the width methods, as functions of moments (moments.h) and of weights; they know no model.
 * A higher score is kept longer. Units are the input columns of an output projection W [out, units] (down_proj: FFN channels; o_proj:
 * channels of mixed heads, which score_fold makes heads and KV groups of), or experts.
 *
 *     wanda_sp      mean_r |W[r,c]| * n_c            n_c = sqrt(mean over sequences of the sum of squares)
 *     magnitude_sp  ||W[:,c]||_2
 *     flap          WIFV: V_c * sum_r W[r,c]^2; IFV: V_c; WIFN: mean_r |W[r,c]| * n_c; squared for o_proj, then standardised
 *     cfsp          (3/d) n_c^p, or with shares over channels (score_cfsp_channels)
 *     minitron      sqrt(sum over sequences of (mean |x_c|)^2)
 *     two_ssp       ||x_c||_2 * ||W[:,c]||_2: the channel's contribution to the output
 *     modegpt       the ridge leverage [C (C + l I)^-1]_cc, whose diagonal the caller computes
 *     reap          mean over routed tokens of gate * ||f(x)||  (moments.h)
 *
 * All sums in double, in index order. Outputs may not overlap inputs.
 */
#ifndef WORKERS_PRUNE_SCORES_H
#define WORKERS_PRUNE_SCORES_H

#include "workers/prune/moments.h"

/* Column sums of an output projection. Zero-initialise, score_columns_start, add rows, then read. */
struct weight_columns {
    size_t rows, count;
    double *squares;   /* owned, [count] sum_r W[r,c]^2 */
    double *absolutes; /* owned, [count] sum_r |W[r,c]| */
};
bool weight_columns_start(struct weight_columns *columns, size_t count, struct error *error) MUST_USE;
/* Row r of the rows is weights[r * stride ... + count). */
void weight_columns_add(struct weight_columns *columns, const float *weights, size_t rows, size_t stride);
void weight_columns_finish(struct weight_columns *columns);

/* Each ret_scores: [count] of the moments or columns; both have the same count. */
void score_wanda_sp(const struct moments *moments, const struct weight_columns *columns, double *ret_scores);
void score_magnitude_sp(const struct weight_columns *columns, double *ret_scores);
/* mean_r |W[r,c]|: CFSP's mag_base. */
void score_mean_absolute(const struct weight_columns *columns, double *ret_scores);
void score_minitron(const struct moments *moments, double *ret_scores);
void score_two_ssp(const struct moments *moments, const struct weight_columns *columns, double *ret_scores);

enum flap_metric { FLAP_WIFV, FLAP_IFV, FLAP_WIFN };
/* is_attention: the metric is squared, as published for o_proj. Not standardised. columns: NULL is fine for FLAP_IFV. */
void score_flap(enum flap_metric metric, bool is_attention, const struct moments *moments,
                const struct weight_columns *columns, double *ret_scores);
/* (s - mean) / deviation over n - 1, in place; all zero where nothing deviates. */
void score_standardise(double *scores, size_t count);

/* CFSP's fine score as shipped: shares over rows sum to one in every column, so that mean_r(...) is terms/rows for every channel and the
 * score is terms/rows * n_c^power. terms: 3 of a gated FFN (down, up, gate), 2 of one without a gate. A channel whose norm is zero: 0. */
void score_cfsp(const struct moments *moments, size_t rows, size_t terms, double power, double *ret_scores);
/* The variant that is not degenerate: shares over channels instead of rows,
 *     mean_r(|D[r,c]| n_c^b / sum_c' |D[r,c']| n_c'^b + |U[c,r]| / sum_c' |U[c',r]| + |G[c,r]| / sum_c' |G[c',r]|) * n_c^power.
 * down: [rows, count]; up, gate: [count, rows]; gate NULL: no such term; up NULL too: the down term alone ("one_wa"). A share whose sum is
 * zero counts 0. OUT_OF_MEMORY. */
bool score_cfsp_channels(const struct moments *moments, const float *down, const float *up, const float *gate,
                         size_t rows, double inner_power, double power, double *ret_scores,
                         struct error *error) MUST_USE;

/* How the columns of a unit become its score. */
enum score_fold { SCORE_SUM, SCORE_MEAN, SCORE_NORM, SCORE_MAX }; /* NORM: Euclidean */
/* ret_scores [count / unit_size] of scores [count]: heads of columns (unit_size = head_size), KV groups of heads. count is a multiple. */
void score_fold(enum score_fold fold, const double *scores, size_t count, size_t unit_size,
                double *ret_scores);
/* to[i] += from[i]: Minitron's hidden channels are the sum over all norms' outputs. */
void score_add(double *to, const double *from, size_t count);

/* NUMERIC naming `what` and the unit where a score is no finite number. */
bool score_check(const double *scores, size_t count, const char *what, struct error *error) MUST_USE;

#endif
