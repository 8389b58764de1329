/* workers/select/nuggets.c: see nuggets.h. */
#include "workers/select/nuggets.h"

#include "base/check.h"
#include "base/memory.h"
#include "workers/select/kmeans.h"
#include <math.h>
#include <stdlib.h>

#define ITERATIONS    100
#define ROWS_A_CENTRE ((size_t)256) /* of a sample to fit to */

double nuggets_score(const struct nuggets_tally *tally)
{
    return tally->anchors > 0 ? (double)tally->wins / (double)tally->anchors : (double)NAN;
}

/* One candidate. *ret_wrong: the first anchor whose one-shot value is NaN, else anchor_count. */
static struct nuggets_tally tally_one(const double *zero_shot, const double *one_shot, const bool *is_leak,
                                      size_t anchor_count, size_t *ret_wrong)
{
    struct nuggets_tally tally = {0};
    *ret_wrong = anchor_count;
    for (size_t j = 0; j < anchor_count; j++) {
        if (is_leak != NULL && is_leak[j]) {
            continue;
        }
        if (isnan(one_shot[j])) {
            *ret_wrong = j;
            break;
        }
        tally.wins += one_shot[j] > zero_shot[j] ? 1 : 0;
        tally.anchors++;
    }
    return tally;
}

bool nuggets_tally(const double *zero_shot, const double *one_shot, const bool *is_leak,
                   size_t candidate_count, size_t anchor_count, struct nuggets_tally *ret_tallies,
                   struct error *error)
{
    if (anchor_count == 0) {
        return error_set(error, ERROR_INVALID_ARGUMENT, "golden scores need at least one anchor");
    }
    for (size_t j = 0; j < anchor_count; j++) {
        if (isnan(zero_shot[j])) {
            return error_set(error, ERROR_NUMERIC, "the log-probability of anchor %zu is NaN", j);
        }
    }
    for (size_t i = 0; i < candidate_count; i++) {
        size_t first = i * anchor_count, wrong = 0;
        ret_tallies[i] = tally_one(zero_shot, one_shot + first, is_leak != NULL ? is_leak + first : NULL,
                                   anchor_count, &wrong);
        if (wrong < anchor_count) {
            return error_set(error, ERROR_NUMERIC,
                             "the log-probability of anchor %zu after candidate %zu is NaN", wrong, i);
        }
    }
    return true;
}

enum nuggets_decision nuggets_decide(const struct nuggets_tally *tally, size_t left, double threshold,
                                     double delta)
{
    CHECK(delta > 0 && delta < 1 && tally->wins <= tally->anchors);
    size_t all = tally->anchors + left;
    if (all == 0) {
        return NUGGETS_UNDECIDED;
    }
    /* As scores, so that the last look says what comparing the whole score would. */
    if ((double)tally->wins / (double)all > threshold) {
        return NUGGETS_ABOVE;
    }
    if (!((double)(tally->wins + left) / (double)all > threshold)) {
        return NUGGETS_NOT_ABOVE;
    }
    if (tally->anchors == 0) {
        return NUGGETS_UNDECIDED;
    }
    double gap = nuggets_score(tally) - threshold;
    double bound = sqrt(log(2.0 / delta) / (2.0 * (double)tally->anchors));
    return gap > bound ? NUGGETS_ABOVE : gap < -bound ? NUGGETS_NOT_ABOVE : NUGGETS_UNDECIDED;
}

static int compare_numbers(const void *a, const void *b)
{
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
    return left < right ? -1 : left > right ? 1 : 0;
}

bool nuggets_choose_anchors(const struct dense_threads *threads, const float *embeddings, size_t count,
                            size_t size, size_t wanted, uint64_t seed, uint32_t *ret_anchors,
                            size_t *ret_count, struct error *error)
{
    if (count <= wanted) {
        for (size_t i = 0; i < count; i++) {
            ret_anchors[i] = (uint32_t)i;
        }
        *ret_count = count;
        return true;
    }
    const struct kmeans_request request = {.form = KMEANS_EUCLIDEAN,
                                           .centroid_count = wanted,
                                           .iteration_limit = ITERATIONS,
                                           .restart_count = 1,
                                           .sample_count =
                                               count / wanted > ROWS_A_CENTRE ? ROWS_A_CENTRE * wanted : 0,
                                           .seed = seed};
    OWNED(kmeans) kmeans = kmeans_fit(threads, embeddings, count, size, &request, error);
    /* The nearest record of a centre is the record that the centre would be given to. */
    if (kmeans == NULL || !kmeans_assign(threads, KMEANS_EUCLIDEAN, kmeans->centroids, wanted, size,
                                         embeddings, count, ret_anchors, NULL, error)) {
        return false;
    }
    qsort(ret_anchors, wanted, sizeof *ret_anchors, compare_numbers);
    *ret_count = 0;
    for (size_t i = 0; i < wanted; i++) {
        if (i == 0 || ret_anchors[i] != ret_anchors[*ret_count - 1]) {
            ret_anchors[(*ret_count)++] = ret_anchors[i];
        }
    }
    return true;
}
