/*
 * workers/select/instruction_mining.h: how much loss a record promises, by a linear rule over indicators of its quality (Instruction Mining,
 * 2307.06290).
 *
 *     log loss = beta_0 + beta . z,   z: the record's indicators (length, reward, perplexity, MTLD, ...); lower is better
 *
 * The coefficients are data: from a configuration (published versions differ), or fitted to runs: R models tuned on different subsets, the
 * mean indicators z of each subset, and the loss that each model ended with.
 *
 * The fit centres columns and log losses, scales each column to deviation 1, and takes the least-squares slopes of minimum norm there, by the
 * eigenvectors of the Gram matrix: eigenvalues below 1e-12 of the largest count as 0 (columns that agree to 1e-6 are one column, and share
 * its slope). A column that varies by less than 1e-12 of its magnitude is constant: its slope is 0. Statistics: with residual variance
 * s^2 = RSS / (R - 1 - rank) and P the pseudo-inverse, t_j = beta_j / sqrt(s^2 P_jj), all in the units of the columns; from R >= columns + 2
 * runs on.
 *
 * A missing indicator is NaN, and taken as the mean of its column over the table at hand; the record is flagged.
 *
 * Threads: any; the fit is small and runs on the caller's. Errors: OUT_OF_MEMORY; NUMERIC: an infinite value, naming row and column;
 * INVALID_ARGUMENT where said. Outputs are undefined then.
 */
#ifndef WORKERS_SELECT_INSTRUCTION_MINING_H
#define WORKERS_SELECT_INSTRUCTION_MINING_H

#include "base/error.h"
#include "workers/tensor/dense.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct instruction_mining_rule {
    double intercept;
    const double *coefficients; /* [count], borrowed; a column of coefficient 0 is not read */
    size_t count;
};
/* Predicted log losses [record_count] of indicators [record_count, rule->count]. ret_is_filled: [record_count] whether an indicator was
 * missing. INVALID_ARGUMENT: a column that is missing throughout. */
bool instruction_mining_score(const struct instruction_mining_rule *rule, const double *indicators,
                              size_t record_count, double *ret_log_losses, bool *ret_is_filled,
                              struct error *error) MUST_USE;

struct instruction_mining_fit {
    double intercept;
    double *coefficients; /* owned, [count] */
    size_t count;
    size_t rank;         /* independent columns, without the intercept */
    size_t filled_count; /* runs with a missing indicator */
    double r_squared;    /* 0 where all losses are equal */
    /* NaN where there are too few runs, and of constant columns; infinite where nothing is left to explain. */
    double residual_variance;
    double intercept_t;
    double *t_statistics; /* owned, [count] */
};
/* indicators: [run_count, count]; losses: [run_count]. INVALID_ARGUMENT: no runs, a loss that is not positive, a column that is missing
 * throughout. Free the result by instruction_mining_fit_finish. */
bool instruction_mining_fit(const struct dense_threads *threads, const double *indicators,
                            const double *losses, size_t run_count, size_t count,
                            struct instruction_mining_fit *ret_fit, struct error *error) MUST_USE;
void instruction_mining_fit_finish(struct instruction_mining_fit *fit);

/* Lexical diversity of a text, MTLD: its length over the number of factors. A factor is a run of words whose
 * share of different ones has come down to 0.72; what is left at the end is the part (1 - share) / (1 - 0.72) of one. The mean of both
 * directions. Where no word comes twice there is no factor, and the value is the length. NaN of no words. words: [count], equal numbers for
 * equal words. */
bool instruction_mining_mtld(const int32_t *words, size_t count, double *ret_mtld,
                             struct error *error) MUST_USE;

#endif
