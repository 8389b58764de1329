/* workers/select/rds.c: see rds.h. */
#include "workers/select/rds.h"

#include "base/check.h"
#include "base/memory.h"
#include "workers/select/ranking.h"
#include "workers/select/rows.h"
#include <math.h>
#include <stdlib.h>

enum { BLOCK_ROWS = 1024, BLOCK_TARGETS = 4096, TASK_ROWS = 16 };

struct rds {
    size_t n;
    const float *rows;
    const struct rds_targets *targets;
    double *scores;         /* [groups, n] */
    double *row_squares;    /* [n] */
    double *target_squares; /* [targets] */
    double *scales;         /* [targets] 1 / length */
    double *means;          /* RDS_MEAN: [groups, size] */
    float *products;        /* RDS_MAX: [block rows, block targets] */
    double *nearest;        /* RDS_MAX: [block rows, groups], by products */
    /* the block */
    size_t first, count, first_target, target_count;
};

static void rds_finish(struct rds *rds)
{
    free(rds->row_squares);
    free(rds->target_squares);
    free(rds->scales);
    free(rds->means);
    free(rds->products);
    free(rds->nearest);
}

static size_t group_of(const struct rds_targets *targets, size_t target)
{
    return targets->groups != NULL ? targets->groups[target] : 0;
}

static bool count_groups(const struct rds_targets *targets, size_t *counts, struct error *error)
{
    for (size_t t = 0; t < targets->count; t++) {
        size_t group = group_of(targets, t);
        if (group >= targets->group_count) {
            return error_set(error, ERROR_INVALID_ARGUMENT, "target %zu belongs to group %zu of %zu", t,
                             group, targets->group_count);
        }
        counts[group]++;
    }
    for (size_t g = 0; g < targets->group_count; g++) {
        if (counts[g] == 0) {
            return error_set(error, ERROR_INVALID_ARGUMENT, "group %zu of %zu has no targets", g,
                             targets->group_count);
        }
    }
    return true;
}

/* ---- the mean ------------------------------------------------------------------------------------- */

static void add_means(struct rds *rds, const size_t *counts)
{
    size_t size = rds->targets->size;
    for (size_t t = 0; t < rds->targets->count; t++) {
        size_t group = group_of(rds->targets, t);
        double scale = rds->scales[t] / (double)counts[group];
        const float *row = rds->targets->rows + t * size;
        for (size_t c = 0; c < size; c++) {
            rds->means[group * size + c] += scale * (double)row[c];
        }
    }
}

static double clamp(double cosine)
{
    return cosine > 1.0 ? 1.0 : cosine < -1.0 ? -1.0 : cosine;
}

static void mean_task(void *context, size_t task, size_t thread)
{
    (void)thread;
    struct rds *rds = context;
    size_t size = rds->targets->size;
    size_t end = (task + 1) * TASK_ROWS < rds->n ? (task + 1) * TASK_ROWS : rds->n;
    for (size_t i = task * TASK_ROWS; i < end; i++) {
        const float *row = rds->rows + i * size;
        double scale = rows_inverse(rds->row_squares[i]);
        for (size_t g = 0; g < rds->targets->group_count; g++) {
            double sum = 0.0;
            for (size_t c = 0; c < size; c++) {
                sum += (double)row[c] * rds->means[g * size + c];
            }
            rds->scores[g * rds->n + i] = clamp(scale * sum);
        }
    }
}

static bool score_means(const struct dense_threads *threads, struct rds *rds, const size_t *counts,
                        struct error *error)
{
    rds->means = memory_try_array(rds->targets->group_count, rds->targets->size * sizeof *rds->means,
                                  "mean targets", error);
    if (rds->means == NULL) {
        return false;
    }
    add_means(rds, counts);
    return pool_run(threads->pool, (rds->n + TASK_ROWS - 1) / TASK_ROWS, mean_task, rds, threads->cancel,
                    error);
}

/* ---- the nearest ---------------------------------------------------------------------------------- */

/* One record and the targets of the block. The nearest so far by products only grows, so what is more than two margins below it is
 * farther, in truth, than one that has been measured. */
static void look_for_nearest(struct rds *rds, size_t r)
{
    const struct rds_targets *targets = rds->targets;
    size_t size = targets->size, i = rds->first + r;
    const float *row = rds->rows + i * size, *products = rds->products + r * rds->target_count;
    double *nearest = rds->nearest + r * targets->group_count;
    double scale = rows_inverse(rds->row_squares[i]), slack = 2.0 * rows_margin(size, 1.0, 1.0);
    for (size_t j = 0; j < rds->target_count; j++) {
        size_t t = rds->first_target + j, group = group_of(targets, t);
        double cosine = scale * rds->scales[t] * (double)products[j];
        nearest[group] = cosine > nearest[group] ? cosine : nearest[group];
    }
    for (size_t j = 0; j < rds->target_count; j++) {
        size_t t = rds->first_target + j, group = group_of(targets, t);
        double cosine = scale * rds->scales[t] * (double)products[j];
        if (cosine < nearest[group] - slack) {
            continue;
        }
        double exact =
            rows_cosine(row, rds->row_squares[i], targets->rows + t * size, rds->target_squares[t], size);
        double *score = &rds->scores[group * rds->n + i];
        *score = exact > *score ? exact : *score;
    }
}

static void nearest_task(void *context, size_t task, size_t thread)
{
    (void)thread;
    struct rds *rds = context;
    size_t end = (task + 1) * TASK_ROWS < rds->count ? (task + 1) * TASK_ROWS : rds->count;
    for (size_t r = task * TASK_ROWS; r < end; r++) {
        look_for_nearest(rds, r);
    }
}

static bool score_block(const struct dense_threads *threads, struct rds *rds, struct error *error)
{
    const struct rds_targets *targets = rds->targets;
    for (size_t t = 0; t < targets->count; t += BLOCK_TARGETS) {
        rds->first_target = t;
        rds->target_count = targets->count - t < BLOCK_TARGETS ? targets->count - t : BLOCK_TARGETS;
        if (!rows_multiply(threads, targets->size, rds->rows + rds->first * targets->size, rds->count,
                           targets->rows + t * targets->size, rds->target_count, rds->products,
                           rds->target_count, error) ||
            !pool_run(threads->pool, (rds->count + TASK_ROWS - 1) / TASK_ROWS, nearest_task, rds,
                      threads->cancel, error)) {
            return false;
        }
    }
    return true;
}

static bool score_nearest(const struct dense_threads *threads, struct rds *rds, struct error *error)
{
    const struct rds_targets *targets = rds->targets;
    size_t columns = targets->count < BLOCK_TARGETS ? targets->count : BLOCK_TARGETS;
    rds->products = memory_try_array(BLOCK_ROWS, columns * sizeof *rds->products, "products", error);
    rds->nearest =
        rds->products != NULL
            ? memory_try_array(BLOCK_ROWS, targets->group_count * sizeof *rds->nearest, "cosines", error)
            : NULL;
    if (rds->nearest == NULL) {
        return false;
    }
    for (size_t i = 0; i < targets->group_count * rds->n; i++) {
        rds->scores[i] = -1.0;
    }
    for (size_t first = 0; first < rds->n; first += BLOCK_ROWS) {
        rds->first = first;
        rds->count = rds->n - first < BLOCK_ROWS ? rds->n - first : BLOCK_ROWS;
        for (size_t i = 0; i < rds->count * targets->group_count; i++) {
            rds->nearest[i] = -INFINITY;
        }
        if (!score_block(threads, rds, error)) {
            return false;
        }
    }
    return true;
}

static bool measure(const struct dense_threads *threads, struct rds *rds, struct error *error)
{
    const struct rds_targets *targets = rds->targets;
    size_t count = targets->count, size = targets->size;
    rds->row_squares = memory_try_array(rds->n, sizeof(double), "lengths", error);
    rds->target_squares =
        rds->row_squares != NULL ? memory_try_array(count, sizeof(double), "lengths", error) : NULL;
    rds->scales =
        rds->target_squares != NULL ? memory_try_array(count, sizeof(double), "lengths", error) : NULL;
    if (rds->scales == NULL ||
        !rows_measure_squares(threads, rds->rows, rds->n, size, rds->row_squares, error)) {
        return false;
    }
    if (!rows_measure_squares(threads, targets->rows, count, size, rds->target_squares, error)) {
        return error_prefix(error, "targets: ");
    }
    for (size_t t = 0; t < count; t++) {
        rds->scales[t] = rows_inverse(rds->target_squares[t]);
    }
    return true;
}

bool rds_score(const struct dense_threads *threads, size_t n, const float *rows,
               const struct rds_targets *targets, enum rds_pooling pooling, double *ret_scores,
               struct error *error)
{
    CHECK(targets->size >= 1 && targets->group_count >= 1);
    CHECK(targets->groups != NULL || targets->group_count == 1);
    FINISHED(rds) rds = {.n = n, .rows = rows, .targets = targets, .scores = ret_scores};
    OWNED_MEMORY size_t *counts = memory_try_array(targets->group_count, sizeof *counts, "groups", error);
    if (counts == NULL || !count_groups(targets, counts, error)) {
        return false;
    }
    return measure(threads, &rds, error) && (pooling == RDS_MEAN ? score_means(threads, &rds, counts, error)
                                                                 : score_nearest(threads, &rds, error));
}

/* ---- turns ---------------------------------------------------------------------------------------- */

static double weight_of(const double *weights, size_t group)
{
    return weights != NULL ? weights[group] : 1.0;
}

static bool sum_weights(const double *weights, size_t group_count, double *ret_sum, struct error *error)
{
    double sum = 0.0;
    for (size_t g = 0; g < group_count; g++) {
        double weight = weight_of(weights, g);
        if (!(weight >= 0.0) || !isfinite(weight)) {
            return error_set(error, ERROR_INVALID_ARGUMENT, "the weight of group %zu is %g", g, weight);
        }
        sum += weight;
    }
    if (!(sum > 0.0)) {
        return error_set(error, ERROR_INVALID_ARGUMENT, "none of %zu groups has a weight above 0",
                         group_count);
    }
    *ret_sum = sum;
    return true;
}

static size_t next_group(const double *weights, size_t group_count, double sum, double *credits)
{
    size_t next = group_count;
    for (size_t g = 0; g < group_count; g++) {
        double weight = weight_of(weights, g);
        credits[g] += weight;
        if (weight > 0.0 && (next == group_count || credits[g] > credits[next])) {
            next = g;
        }
    }
    credits[next] -= sum;
    return next;
}

bool rds_round_robin(size_t n, size_t group_count, const double *scores, const double *weights, size_t wanted,
                     size_t *ret_order, uint32_t *ret_groups, struct error *error)
{
    wanted = wanted < n ? wanted : n;
    double sum = 0.0;
    if (!sum_weights(weights, group_count, &sum, error)) {
        return false;
    }
    OWNED_MEMORY size_t *orders =
        memory_try_array(group_count, wanted * sizeof *orders, "orders of the groups", error);
    OWNED_MEMORY bool *is_taken =
        orders != NULL ? memory_try_array(n, sizeof *is_taken, "marks", error) : NULL;
    OWNED_MEMORY size_t *places =
        is_taken != NULL ? memory_try_array(group_count, sizeof *places, "places", error) : NULL;
    OWNED_MEMORY double *credits =
        places != NULL ? memory_try_array(group_count, sizeof *credits, "credits", error) : NULL;
    if (credits == NULL) {
        return false;
    }
    for (size_t g = 0; g < group_count; g++) {
        size_t count = 0;
        if (!ranking_order(scores + g * n, n, RANKING_FALLING, RANKING_NAN_ERROR, wanted, orders + g * wanted,
                           &count, error)) {
            return error_prefix(error, "group %zu: ", g);
        }
    }
    for (size_t taken = 0; taken < wanted; taken++) {
        size_t group = next_group(weights, group_count, sum, credits);
        const size_t *order = orders + group * wanted;
        /* Fewer than wanted are taken, so one of the first `wanted` is free. */
        while (is_taken[order[places[group]]]) {
            places[group]++;
        }
        ret_order[taken] = order[places[group]];
        is_taken[ret_order[taken]] = true;
        if (ret_groups != NULL) {
            ret_groups[taken] = (uint32_t)group;
        }
    }
    return true;
}
