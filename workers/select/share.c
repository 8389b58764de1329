/* workers/select/share.c: see share.h. */
#include "workers/select/share.h"

#include "base/cleanup.h"
#include "base/memory.h"
#include "workers/select/ranking.h"
#include <math.h>

#define WHOLE_TOLERANCE 1e-12
#define REMAINDER_STEPS 0x1p32

struct group {
    double weight, quotient;
    size_t cap, share;
    bool is_open; /* its share is not settled */
};

static bool weights_check(const double *weights, size_t count, size_t budget, struct error *error)
{
    for (size_t k = 0; k < count; k++) {
        if (!(weights[k] >= 0 && isfinite(weights[k]))) {
            return error_set(error, ERROR_NUMERIC,
                             "the weight of group %zu is %g, not a finite number from 0 up", k, weights[k]);
        }
    }
    return budget <= SHARE_BUDGET_LIMIT ||
           error_set(error, ERROR_OUT_OF_RANGE, "%zu records to share out, more than %llu", budget,
                     (unsigned long long)SHARE_BUDGET_LIMIT);
}

/* Proportional shares of `left` over the open groups. Weights are scaled by a power of two, which rounds nothing, so that neither their
 * sum nor a product can overflow. */
static void divide(struct group *groups, size_t count, size_t left)
{
    double largest = 0, sum = 0;
    size_t open = 0;
    for (size_t k = 0; k < count; k++) {
        open += groups[k].is_open ? 1 : 0;
        largest = groups[k].is_open && groups[k].weight > largest ? groups[k].weight : largest;
    }
    int exponent = 0;
    (void)frexp(largest, &exponent);
    for (size_t k = 0; k < count; k++) {
        sum += groups[k].is_open ? ldexp(groups[k].weight, -exponent) : 0;
    }
    for (size_t k = 0; k < count; k++) {
        groups[k].quotient = !groups[k].is_open ? (double)NAN
                             : largest > 0      ? (double)left * ldexp(groups[k].weight, -exponent) / sum
                                                : (double)left / (double)open;
    }
}

/* Settles the groups that reach their caps. Returns what is left for the others, whose quotients are of it. */
static size_t settle_caps(struct group *groups, size_t count, size_t left)
{
    for (bool has_settled = true; has_settled;) {
        has_settled = false;
        divide(groups, count, left);
        for (size_t k = 0; k < count; k++) {
            bool is_over = groups[k].is_open && groups[k].quotient >= (double)groups[k].cap;
            if (is_over && groups[k].cap <= left) { /* all of them fit, but for the rounding of a long sum */
                groups[k].share = groups[k].cap;
                groups[k].is_open = false;
                left -= groups[k].cap;
                has_settled = true;
            }
        }
    }
    return left;
}

/* Whole parts, then one more for the largest remainders. */
static bool settle_rest(struct group *groups, size_t count, size_t left, struct error *error)
{
    OWNED_MEMORY double *remainders = memory_try_array(count, sizeof *remainders, "remainders", error);
    OWNED_MEMORY size_t *order = memory_try_array(count, sizeof *order, "groups", error);
    if (remainders == NULL || order == NULL) {
        return false;
    }
    for (size_t k = 0; k < count; k++) {
        remainders[k] = (double)NAN;
        if (groups[k].is_open) {
            double quotient = groups[k].quotient;
            double whole = floor(quotient + WHOLE_TOLERANCE * fmax(1, quotient));
            groups[k].share = (size_t)whole < left ? (size_t)whole : left;
            remainders[k] = nearbyint((quotient - whole) * REMAINDER_STEPS);
            left -= groups[k].share;
        }
    }
    size_t open = 0;
    if (!ranking_order(remainders, count, RANKING_FALLING, RANKING_NAN_DROP, count, order, &open, error)) {
        return false;
    }
    for (size_t i = 0; left > 0 && open > 0; i = (i + 1) % open) {
        struct group *group = &groups[order[i]];
        if (group->share < group->cap) {
            group->share++;
            left--;
        }
    }
    return true;
}

bool share_allocate(const double *weights, const size_t *caps, size_t count, size_t budget,
                    size_t *ret_shares, struct error *error)
{
    size_t room = 0;
    for (size_t k = 0; k < count; k++) {
        room = caps[k] < SIZE_MAX - room ? room + caps[k] : SIZE_MAX;
    }
    budget = budget < room ? budget : room;
    if (!weights_check(weights, count, budget, error)) {
        return false;
    }
    OWNED_MEMORY struct group *groups = memory_try_array(count, sizeof *groups, "groups", error);
    if (groups == NULL) {
        return false;
    }
    for (size_t k = 0; k < count; k++) {
        groups[k] = (struct group){.weight = weights[k], .cap = caps[k], .is_open = caps[k] > 0};
    }
    if (!settle_rest(groups, count, settle_caps(groups, count, budget), error)) {
        return false;
    }
    for (size_t k = 0; k < count; k++) {
        ret_shares[k] = groups[k].share;
    }
    return true;
}

bool share_published(const double *weights, size_t count, size_t budget, size_t *ret_shares,
                     struct error *error)
{
    if (!weights_check(weights, count, budget, error)) {
        return false;
    }
    double sum = 0;
    for (size_t k = 0; k < count; k++) {
        sum += weights[k];
    }
    if (!(sum > 0 && isfinite(sum))) {
        return error_set(error, ERROR_NUMERIC, "the weights of %zu groups sum to %g", count, sum);
    }
    for (size_t k = 0; k < count; k++) {
        ret_shares[k] = (size_t)((double)budget * (weights[k] / sum));
    }
    return true;
}
