/* workers/select/strata.c: see strata.h. Records are sorted once, so that a bin is a piece of the order. */
#include "workers/select/strata.h"

#include "base/check.h"
#include "base/cleanup.h"
#include "base/memory.h"
#include "workers/select/quantile.h"
#include "workers/select/ranking.h"
#include "workers/select/sampling.h"
#include <math.h>

struct bins {
    const double *scores;
    const size_t *order; /* [count] by rising score */
    size_t count;
    size_t filled;  /* bins that hold anything */
    size_t *starts; /* [filled + 1] places in the order */
    double *sizes;  /* [filled] */
    size_t *ids;    /* [filled] which of the equal-width bins it is */
};

/* The upper edge of bin b. */
static double edge(const struct bins *bins, size_t b, size_t bin_count)
{
    double lowest = bins->scores[bins->order[0]], highest = bins->scores[bins->order[bins->count - 1]];
    double share = (double)(b + 1) / (double)bin_count;
    return b + 1 == bin_count ? highest : lowest * (1.0 - share) + highest * share;
}

static void fill_bins(struct bins *bins, size_t bin_count)
{
    size_t b = 0;
    for (size_t place = 0; place < bins->count; place++) {
        double score = bins->scores[bins->order[place]];
        size_t before = b;
        while (b + 1 < bin_count && score > edge(bins, b, bin_count)) {
            b++;
        }
        if (place == 0 || b != before) {
            bins->starts[bins->filled] = place;
            bins->ids[bins->filled++] = b;
        }
    }
    bins->starts[bins->filled] = bins->count;
    for (size_t i = 0; i < bins->filled; i++) {
        bins->sizes[i] = (double)(bins->starts[i + 1] - bins->starts[i]);
    }
}

/* Marks what the bins give. by_size: [filled] scratch; local: [count] scratch. */
static bool draw_bins(const struct rng *rng, const struct bins *bins, size_t wanted, size_t *by_size,
                      size_t *local, bool *is_taken, struct error *error)
{
    size_t ranked = 0;
    if (!ranking_order(bins->sizes, bins->filled, RANKING_RISING, RANKING_NAN_ERROR, bins->filled, by_size,
                       &ranked, error)) {
        return false;
    }
    for (size_t i = 0; i < ranked; i++) {
        size_t bin = by_size[i], size = bins->starts[bin + 1] - bins->starts[bin];
        const struct budget budget = {BUDGET_RECORDS, wanted / (ranked - i)};
        struct rng mine = *rng;
        mine.step += (uint32_t)bins->ids[bin];
        size_t drawn = sampling_draw(&mine, size, NULL, &budget, local).records;
        for (size_t d = 0; d < drawn; d++) {
            is_taken[bins->order[bins->starts[bin] + local[d]]] = true;
        }
        wanted -= drawn;
    }
    return true;
}

static bool check_finite(const double *scores, size_t count, struct error *error)
{
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(scores[i])) {
            return error_set(error, ERROR_NUMERIC, "the score of record %zu is %g", i, scores[i]);
        }
    }
    return true;
}

bool strata_draw(const struct rng *rng, const double *scores, size_t count, const struct strata *strata,
                 size_t *ret_taken, struct error *error)
{
    CHECK(strata->bin_count >= 1 && strata->drop_ratio >= 0.0 && strata->drop_ratio <= 1.0);
    size_t wanted = strata->wanted < count ? strata->wanted : count;
    size_t kept = count - quantile_count_within(strata->drop_ratio, count);
    kept = kept > wanted ? kept : wanted;
    size_t most = strata->bin_count < count ? strata->bin_count : count;
    OWNED_MEMORY size_t *places = memory_try_array(2 * count, sizeof *places, "strata", error);
    OWNED_MEMORY size_t *lists =
        places != NULL ? memory_try_array(3 * most + 1, sizeof *lists, "bins", error) : NULL;
    OWNED_MEMORY double *sizes = lists != NULL ? memory_try_array(most, sizeof *sizes, "bins", error) : NULL;
    OWNED_MEMORY bool *is_taken =
        sizes != NULL ? memory_try_array(count, sizeof *is_taken, "marks", error) : NULL;
    size_t ranked = 0;
    if (is_taken == NULL || !check_finite(scores, count, error) ||
        !ranking_order(scores, count, RANKING_RISING, RANKING_NAN_ERROR, kept, places, &ranked, error)) {
        return false;
    }
    struct bins bins = {.scores = scores,
                        .order = places,
                        .count = kept,
                        .starts = lists,
                        .ids = lists + most + 1,
                        .sizes = sizes};
    fill_bins(&bins, strata->bin_count);
    if (!draw_bins(rng, &bins, wanted, lists + 2 * most + 1, places + count, is_taken, error)) {
        return false;
    }
    size_t taken = 0;
    for (size_t i = 0; i < count; i++) {
        if (is_taken[i]) {
            ret_taken[taken++] = i;
        }
    }
    return true;
}
