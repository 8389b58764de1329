/* workers/select/sampling.c: see sampling.h. */
#include "workers/select/sampling.h"

#include "base/check.h"
#include "base/cleanup.h"
#include "base/memory.h"

static bool pays_for_all(const struct budget *budget, size_t count, const uint32_t *tokens)
{
    if (budget->unit == BUDGET_RECORDS) {
        return budget->limit >= count;
    }
    uint64_t total = 0;
    for (size_t i = 0; i < count; i++) {
        total += tokens[i];
    }
    return budget->limit >= total;
}

struct budget_use sampling_draw(const struct rng *rng, size_t count, const uint32_t *tokens,
                                const struct budget *budget, size_t *ret_taken)
{
    CHECK(tokens != NULL || budget->unit == BUDGET_RECORDS);
    for (size_t i = 0; i < count; i++) {
        ret_taken[i] = i;
    }
    size_t drawn = 0; /* in place, at the front */
    if (!pays_for_all(budget, count, tokens)) {
        drawn = budget->unit == BUDGET_RECORDS ? (size_t)budget->limit : count;
    }
    for (size_t i = 0; i < drawn; i++) {
        size_t other = i + (size_t)rng_below(rng, i, count - i);
        size_t kept = ret_taken[i];
        ret_taken[i] = ret_taken[other];
        ret_taken[other] = kept;
    }
    return ranking_fill(budget, ret_taken, count, tokens, ret_taken);
}

bool sampling_shuffle(const struct rng *rng, size_t *ids, size_t count, struct error *error)
{
    OWNED_MEMORY size_t *order = memory_try_array(count, 2 * sizeof *order, "a random order", error);
    if (order == NULL || count == 0) {
        return order != NULL;
    }
    size_t *shuffled = order + count;
    rng_permutation(rng, count, order);
    for (size_t i = 0; i < count; i++) {
        shuffled[i] = ids[order[i]];
    }
    for (size_t i = 0; i < count; i++) {
        ids[i] = shuffled[i];
    }
    return true;
}
