/* workers/select/prototypes.c: see prototypes.h. */
#include "workers/select/prototypes.h"

#include "base/check.h"
#include "base/cleanup.h"
#include "base/memory.h"
#include "workers/select/quantile.h"
#include "workers/select/ranking.h"

static bool check_labels(const struct prototypes *prototypes, struct error *error)
{
    for (size_t i = 0; i < prototypes->n; i++) {
        if (prototypes->labels[i] >= prototypes->cluster_count) {
            return error_set(error, ERROR_INVALID_ARGUMENT, "record %zu belongs to cluster %u of %zu", i,
                             prototypes->labels[i], prototypes->cluster_count);
        }
    }
    return true;
}

/* Marks, of records in the order of their rank, the first `floor_count` of each cluster. left: [cluster_count] scratch. */
static size_t mark_floors(const struct prototypes *prototypes, size_t floor_count, const size_t *order,
                          size_t *left, bool *marks)
{
    size_t marked = 0;
    for (size_t c = 0; c < prototypes->cluster_count; c++) {
        left[c] = floor_count;
    }
    for (size_t r = 0; r < prototypes->n; r++) {
        size_t *mine = &left[prototypes->labels[order[r]]];
        marks[r] = *mine > 0;
        if (marks[r]) {
            (*mine)--;
            marked++;
        }
    }
    return marked;
}

/* The share of wanted records that each cluster is given, as a count. */
static size_t find_floor(const struct prototypes *prototypes, size_t wanted)
{
    size_t count = prototypes->cluster_count;
    return count > 0 ? quantile_count_within(prototypes->balance_ratio / (double)count, wanted) : 0;
}

bool prototypes_choose(const struct prototypes *prototypes, size_t *ret_order, struct error *error)
{
    CHECK(prototypes->balance_ratio >= 0.0 && prototypes->balance_ratio <= 1.0);
    size_t n = prototypes->n, wanted = prototypes->wanted < n ? prototypes->wanted : n, all = 0;
    OWNED_MEMORY double *scores = memory_try_array(n, sizeof *scores, "distances", error);
    OWNED_MEMORY size_t *order = memory_try_array(n, sizeof *order, "an order", error);
    OWNED_MEMORY bool *marks = memory_try_array(n, sizeof *marks, "marks by rank", error);
    OWNED_MEMORY size_t *left = memory_try_array(prototypes->cluster_count, sizeof *left, "floors", error);
    if (scores == NULL || order == NULL || marks == NULL || left == NULL ||
        !check_labels(prototypes, error)) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        scores[i] = (double)prototypes->distances[i];
    }
    if (!ranking_order(scores, n, prototypes->side == PROTOTYPES_HARD ? RANKING_FALLING : RANKING_RISING,
                       RANKING_NAN_ERROR, n, order, &all, error)) {
        return false;
    }
    size_t count = 0, free_places = wanted;
    free_places -= mark_floors(prototypes, find_floor(prototypes, wanted), order, left, marks);
    for (size_t r = 0; r < n && count < wanted; r++) {
        if (marks[r] || free_places > 0) {
            free_places -= marks[r] ? 0 : 1;
            ret_order[count++] = order[r];
        }
    }
    return true;
}
