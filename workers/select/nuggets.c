/* workers/select/nuggets.c: see nuggets.h. */
#include "workers/select/nuggets.h"

#include "base/check.h"
#include <math.h>

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
