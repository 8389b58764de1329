/* workers/select/ranking.c: see ranking.h. */
#include "workers/select/ranking.h"

#include "base/check.h"
#include <math.h>

struct ranking {
    const double *scores;
    enum ranking_direction direction;
};

/* Whether a comes before b; a total order over records without NaN. */
static bool is_before(const struct ranking *ranking, size_t a, size_t b)
{
    double left = ranking->scores[a], right = ranking->scores[b];
    if (left > right) {
        return ranking->direction == RANKING_FALLING;
    }
    if (left < right) {
        return ranking->direction == RANKING_RISING;
    }
    return a < b;
}

/* Puts `record` where it belongs below `at`, in a heap of `count` whose parents come after their children. */
static void sift_down(const struct ranking *ranking, size_t *heap, size_t count, size_t at, size_t record)
{
    for (size_t child = 2 * at + 1; child < count; child = 2 * at + 1) {
        if (child + 1 < count && is_before(ranking, heap[child], heap[child + 1])) {
            child++;
        }
        if (!is_before(ranking, record, heap[child])) {
            break;
        }
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = record;
}

static void sift_up(const struct ranking *ranking, size_t *heap, size_t at, size_t record)
{
    while (at > 0 && is_before(ranking, heap[(at - 1) / 2], record)) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = record;
}

bool ranking_order(const double *scores, size_t count, enum ranking_direction direction, enum ranking_nan nan,
                   size_t wanted, size_t *ret_order, size_t *ret_count, struct error *error)
{
    for (size_t i = 0; i < count && nan == RANKING_NAN_ERROR; i++) {
        if (isnan(scores[i])) {
            return error_set(error, ERROR_NUMERIC, "the score of record %zu is not a number", i);
        }
    }
    const struct ranking ranking = {scores, direction};
    size_t kept = 0;
    for (size_t i = 0; i < count && wanted > 0; i++) {
        if (isnan(scores[i])) {
            continue;
        }
        if (kept < wanted) {
            sift_up(&ranking, ret_order, kept++, i);
        } else if (is_before(&ranking, i, ret_order[0])) {
            sift_down(&ranking, ret_order, kept, 0, i);
        }
    }
    for (size_t end = kept; end > 1; end--) {
        size_t last = ret_order[end - 1];
        ret_order[end - 1] = ret_order[0];
        sift_down(&ranking, ret_order, end - 1, 0, last);
    }
    *ret_count = kept;
    return true;
}

uint64_t budget_unused(const struct budget *budget, const struct budget_use *use)
{
    return budget->limit - (budget->unit == BUDGET_RECORDS ? use->records : use->tokens);
}

bool budget_take(const struct budget *budget, uint32_t tokens, struct budget_use *use)
{
    if (budget_unused(budget, use) < (budget->unit == BUDGET_RECORDS ? 1 : tokens)) {
        return false;
    }
    use->records++;
    use->tokens += tokens;
    return true;
}

struct budget_use ranking_fill(const struct budget *budget, const size_t *order, size_t count,
                               const uint32_t *tokens, size_t *ret_taken)
{
    CHECK(tokens != NULL || budget->unit == BUDGET_RECORDS);
    struct budget_use use = {0};
    for (size_t i = 0; i < count; i++) {
        size_t record = order[i];
        if (budget_take(budget, tokens != NULL ? tokens[record] : 0, &use)) {
            ret_taken[use.records - 1] = record;
        }
    }
    return use;
}
