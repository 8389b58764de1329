/* workers/select/strata_take.c: see strata_take.h. */
#include "workers/select/strata_take.h"

#include "base/memory.h"
#include "workers/select/quantile.h"
#include "workers/select/sampling.h"
#include "workers/select/strata.h"

enum { STREAM_DRAW, STREAM_ORDER, STREAM_REST };

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
    for (size_t i = 0; i < count; i++) { /* of no record there is no column */
        ret_selection->scores[i] = scores[i];
    }
    ret_selection->score_name = score_name;
    if (order == NULL ||
        !strata_draw(&(struct rng){.seed = run->seed, .stream = STREAM_DRAW}, scores, count, &strata, order,
                     error) ||
        !sampling_shuffle(&(struct rng){.seed = run->seed, .stream = STREAM_ORDER}, order, strata.wanted,
                          error) ||
        !find_rest(run, scores, ret_selection, order, strata.wanted, order + strata.wanted, &rest, error) ||
        !sampling_shuffle(&(struct rng){.seed = run->seed, .stream = STREAM_REST}, order + strata.wanted,
                          rest, error)) {
        return false;
    }
    selection_take(ret_selection, run, order, strata.wanted + rest);
    return true;
}
