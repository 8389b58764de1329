/* workers/select/perplexity_band.c: see perplexity_band.h. */
#include "workers/select/perplexity_band.h"

#include "base/check.h"
#include "base/cleanup.h"
#include "base/memory.h"
#include "workers/select/quantile.h"
#include "workers/select/ranking.h"
#include <math.h>
#include <string.h>

/* The columns of records that have tokens, the others NaN. */
static bool take_scores(const double *nll_means, const uint32_t *tokens, size_t count, double *ret_scores,
                        struct error *error)
{
    for (size_t i = 0; i < count; i++) {
        if (tokens[i] > 0 && isnan(nll_means[i])) {
            return error_set(error, ERROR_NUMERIC, "the mean loss of record %zu is NaN", i);
        }
        ret_scores[i] = tokens[i] > 0 ? nll_means[i] : (double)NAN;
    }
    return true;
}

bool perplexity_band_select(const double *nll_means, const uint32_t *tokens, size_t count,
                            const struct perplexity_band *band, size_t *ret_order,
                            struct perplexity_band_result *ret_result, struct error *error)
{
    CHECK(band->low_ratio >= 0 && band->low_ratio < band->high_ratio && band->high_ratio <= 1);
    OWNED_MEMORY double *scores = memory_try_array(count, sizeof *scores, "mean losses", error);
    size_t n = 0;
    if (scores == NULL || !take_scores(nll_means, tokens, count, scores, error) ||
        !ranking_order(scores, count, RANKING_RISING, RANKING_NAN_DROP, count, ret_order, &n, error)) {
        return false;
    }
    size_t first = quantile_count_within(band->low_ratio, n),
           end = quantile_count_within(band->high_ratio, n);
    if (end == first && n > 0) {
        end = first + 1;
    }
    memmove(ret_order, ret_order + first, (end - first) * sizeof *ret_order);
    *ret_result = (struct perplexity_band_result){
        .kept_count = end - first,
        .empty_count = count - n,
        .low_nll_mean = end > first ? scores[ret_order[0]] : (double)NAN,
        .high_nll_mean = end > first ? scores[ret_order[end - first - 1]] : (double)NAN,
    };
    return true;
}
