/* workers/select/strata_take.c: see strata_take.h. */
#include "workers/select/strata_take.h"

#include "base/memory.h"
#include "workers/select/quantile.h"
#include "workers/select/strata.h"
#include <string.h>

enum { STREAM_DRAW, STREAM_ORDER, STREAM_REST };

/* Shuffles by a stream of its own. */
static bool shuffle(const struct select_run *run, uint32_t stream, size_t *ids, size_t count,
                    struct error *error)
{
    OWNED_MEMORY size_t *places = memory_try_array(count, 2 * sizeof *places, "a random order", error);
    if (places == NULL || count == 0) {
        return places != NULL;
    }
    rng_permutation(&(struct rng){.seed = run->seed, .stream = stream}, count, places);
    for (size_t i = 0; i < count; i++) {
        places[count + i] = ids[places[i]];
    }
    memcpy(ids, places + count, count * sizeof *ids);
    return true;
}

/* Marks as FILTERED the highest that were not drawn; returns how many others there are, into `rest`. */
static bool find_rest(const struct select_run *run, const double *scores, struct selection *selection,
                      const size_t *drawn, size_t drawn_count, size_t *rest, size_t *ret_count,
                      struct error *error)
{
    size_t count = selection->count, ranked = 0;
    size_t dropped = quantile_count_within(select_number(run, "drop_ratio"), count);
    OWNED_MEMORY size_t *order = memory_try_array(count, sizeof *order, "records by score", error);
    OWNED_MEMORY bool *is_met = memory_try_array(count, sizeof *is_met, "records drawn", error);
    if (order == NULL || is_met == NULL ||
        !ranking_order(scores, count, RANKING_RISING, RANKING_NAN_ERROR, count, order, &ranked, error)) {
        return false;
    }
    for (size_t i = 0; i < drawn_count; i++) {
        is_met[drawn[i]] = true;
    }
    *ret_count = 0;
    for (size_t i = 0; i < count; i++) {
        if (is_met[order[i]]) {
            continue;
        }
        if (i >= count - dropped) {
            selection->reasons[order[i]] = SELECT_FILTERED;
        } else {
            rest[(*ret_count)++] = order[i];
        }
    }
    return true;
}

bool strata_take(const struct select_run *run, const double *scores, const char *score_name,
                 struct selection *ret_selection, struct error *error)
{
    size_t count = ret_selection->count, rest = 0;
    const struct strata strata = {.wanted = selection_wanted(run),
                                  .bin_count = select_count(run, "bins"),
                                  .drop_ratio = select_number(run, "drop_ratio")};
    OWNED_MEMORY size_t *order = memory_try_array(count, sizeof *order, "the order of records", error);
    memcpy(ret_selection->scores, scores, count * sizeof *ret_selection->scores);
    ret_selection->score_name = score_name;
    if (order == NULL ||
        !strata_draw(&(struct rng){.seed = run->seed, .stream = STREAM_DRAW}, scores, count, &strata, order,
                     error) ||
        !shuffle(run, STREAM_ORDER, order, strata.wanted, error) ||
        !find_rest(run, scores, ret_selection, order, strata.wanted, order + strata.wanted, &rest, error) ||
        !shuffle(run, STREAM_REST, order + strata.wanted, rest, error)) {
        return false;
    }
    selection_take(ret_selection, run, order, strata.wanted + rest);
    return true;
}
