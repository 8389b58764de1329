/*
 * workers/select/perplexity_band.h: records whose perplexity lies in a band of all records' (POINTS, 2409.04828, keeps the lowest
 * fifth; as a filter of noise, drop the highest twentieth under the original model).
 *
 *     PPL = exp(nll_mean), nll_mean over all text tokens of the record; it is ranked as nll_mean, which cannot overflow
 *
 * Of n records by rising perplexity (equal ones by index), record number r (from 1) is the quantile Q_g by inverse distribution function
 * for (r - 1) / n < g <= r / n. The band (low, high] keeps those with low < r / n <= high: floor(high n) - floor(low n) of them (quantile.h),
 * so that bands that meet share no record and leave none out. A band too narrow for any record keeps the next one above `low`.
 * Equal perplexities may fall on both sides of an edge.
 *
 * Threads: any.
 */
#ifndef WORKERS_SELECT_PERPLEXITY_BAND_H
#define WORKERS_SELECT_PERPLEXITY_BAND_H

#include "base/error.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct perplexity_band {
    double low_ratio, high_ratio; /* 0 <= low < high <= 1; POINTS: 0, 0.2 */
};
struct perplexity_band_result {
    size_t kept_count;
    size_t empty_count; /* records without tokens: they have no perplexity and are no part of n */
    double low_nll_mean, high_nll_mean; /* of the first and the last kept record; NaN where none is */
};
/* nll_means: [count] nats per token, not read where tokens [count] is 0; infinite is the highest. ret_order: room for count; the kept records,
 * by rising perplexity, are its first kept_count. NUMERIC: NaN, naming the record; OUT_OF_MEMORY. */
bool perplexity_band_select(const double *nll_means, const uint32_t *tokens, size_t count,
                            const struct perplexity_band *band, size_t *ret_order,
                            struct perplexity_band_result *ret_result, struct error *error) MUST_USE;

#endif
