/* workers/select/k_center.c: see k_center.h. */
#include "workers/select/k_center.h"

#include "base/cleanup.h"
#include "base/memory.h"
#include "workers/select/nearest.h"
#include "workers/select/rows.h"
#include <stdlib.h>

enum { BLOCK = 4096, TASK_ROWS = 64, TASK_COLUMNS = 64, BATCH = K_CENTER_BATCH };
_Static_assert(BATCH % ROWS_CHUNK == 0, "products of a batch are whole chunks");
#define CHOSEN (-1.0) /* in place of a distance */

struct centers {
    const struct dense_threads *threads;
    const float *rows; /* borrowed, [count, size] */
    size_t count, size;
    double longest;
    float *halves;   /* owned, [rows_padded(count)] */
    double *squares; /* owned, [count]: to the nearest chosen row; CHOSEN */
    double *mean;    /* owned, [size] */
    /* A batch: the farthest rows, farthest first, and which of them are chosen. */
    uint32_t candidates[BATCH + 1];
    double
        keys[BATCH + 1]; /* minus the squared distance to the nearest chosen row: rising; INFINITY: chosen */
    const uint32_t *picks; /* borrowed, [pick_count] */
    size_t pick_count;
    float *pick_rows;   /* owned, [BATCH, size] */
    float *pick_halves; /* owned, [BATCH] */
    float *products;    /* owned, [BLOCK, BATCH] */
    size_t first;       /* of a block of rows */
};

static void centers_finish(struct centers *centers)
{
    free(centers->halves);
    free(centers->squares);
    free(centers->mean);
    free(centers->pick_rows);
    free(centers->pick_halves);
    free(centers->products);
}

static bool centers_init(struct centers *centers, struct error *error)
{
    static const char what[] = "a selection of centres";
    size_t count = centers->count, size = centers->size;
    centers->halves = memory_try_array(rows_padded(count), sizeof(float), what, error);
    centers->squares = memory_try_array(count, sizeof(double), what, error);
    centers->mean = memory_try_array(size, sizeof(double), what, error);
    centers->pick_rows = memory_try_array(BATCH, size * sizeof(float), what, error);
    centers->pick_halves = memory_try_array(BATCH, sizeof(float), what, error);
    centers->products = memory_try_array(BLOCK, BATCH * sizeof(float), what, error);
    return centers->halves != NULL && centers->squares != NULL && centers->mean != NULL &&
           centers->pick_rows != NULL && centers->pick_halves != NULL && centers->products != NULL &&
           rows_measure(centers->threads, centers->rows, count, size, false, centers->halves,
                        &centers->longest, error);
}

/* ---- the first ----------------------------------------------------------------------------------- */

static void mean_task(void *context, size_t index, size_t thread)
{
    (void)thread;
    const struct centers *centers = context;
    size_t size = centers->size, first = index * TASK_COLUMNS, end = rows_least(first + TASK_COLUMNS, size);
    for (size_t r = 0; r < centers->count; r++) {
        for (size_t c = first; c < end; c++) {
            centers->mean[c] += (double)centers->rows[r * size + c];
        }
    }
    for (size_t c = first; c < end; c++) {
        centers->mean[c] /= (double)centers->count;
    }
}

static void distance_to_mean_task(void *context, size_t index, size_t thread)
{
    (void)thread;
    const struct centers *centers = context;
    size_t end = rows_least((index + 1) * TASK_ROWS, centers->count);
    for (size_t r = index * TASK_ROWS; r < end; r++) {
        const float *row = centers->rows + r * centers->size;
        double sum = 0.0;
        for (size_t c = 0; c < centers->size; c++) {
            double difference = (double)row[c] - centers->mean[c];
            sum += difference * difference;
        }
        centers->squares[r] = sum;
    }
}

/* The row nearest the mean becomes the only candidate. */
static bool find_first(struct centers *centers, struct error *error)
{
    struct pool *pool = centers->threads->pool;
    const struct cancel *cancel = centers->threads->cancel;
    if (!pool_run(pool, (centers->size + TASK_COLUMNS - 1) / TASK_COLUMNS, mean_task, centers, cancel,
                  error) ||
        !pool_run(pool, (centers->count + TASK_ROWS - 1) / TASK_ROWS, distance_to_mean_task, centers, cancel,
                  error)) {
        return false;
    }
    size_t nearest = 0;
    for (size_t r = 1; r < centers->count; r++) {
        nearest = centers->squares[r] < centers->squares[nearest] ? r : nearest;
    }
    for (size_t r = 0; r < centers->count; r++) {
        centers->squares[r] = INFINITY;
    }
    centers->candidates[0] = (uint32_t)nearest;
    centers->keys[0] = -INFINITY;
    return true;
}

/* ---- the others ---------------------------------------------------------------------------------- */

/* Of candidates a and b. */
static bool is_farther(const struct centers *centers, size_t a, size_t b)
{
    double key = centers->keys[a], other = centers->keys[b];
    return key < other || (key <= other && centers->candidates[a] < centers->candidates[b]);
}

/* The BATCH + 1 farthest rows that are not chosen, farthest first; how many there are. */
static size_t find_farthest(struct centers *centers)
{
    size_t count = 0;
    for (size_t r = 0; r < centers->count; r++) {
        if (centers->squares[r] >= 0.0) {
            count = nearest_insert(centers->candidates, centers->keys, count, BATCH + 1, (uint32_t)r,
                                   -centers->squares[r]);
        }
    }
    return count;
}

/* Chooses at most `room` of the `count` farthest rows, the first in any case. The last of BATCH + 1 stands for all rows outside:
 * as nothing gets farther, whoever is ahead of it is ahead of them. */
static void pick(struct centers *centers, size_t count, size_t room, uint32_t *ret_order)
{
    const uint32_t *candidates = centers->candidates;
    double *keys = centers->keys;
    bool is_all = count <= BATCH;
    count = rows_least(count, BATCH);
    size_t best = 0;
    centers->picks = ret_order;
    centers->pick_count = 0;
    do {
        const float *row = centers->rows + candidates[best] * centers->size;
        ret_order[centers->pick_count++] = candidates[best];
        keys[best] = INFINITY;
        for (size_t i = 0; i < count; i++) {
            if (keys[i] <= 0.0) {
                const float *other = centers->rows + candidates[i] * centers->size;
                keys[i] = fmax(keys[i], -rows_distance_square(other, row, centers->size));
            }
            best = is_farther(centers, i, best) ? i : best;
        }
    } while (centers->pick_count < room && keys[best] < 0.0 && (is_all || is_farther(centers, best, BATCH)));
}

static void update_task(void *context, size_t index, size_t thread)
{
    (void)thread;
    const struct centers *centers = context;
    size_t first = centers->first + index * TASK_ROWS, size = centers->size;
    size_t end = rows_least(first + TASK_ROWS, rows_least(centers->first + BLOCK, centers->count));
    for (size_t r = first; r < end; r++) {
        if (centers->squares[r] < 0.0) {
            continue;
        }
        const float *products = centers->products + (r - centers->first) * BATCH;
        double length = sqrt(2.0 * (double)centers->halves[r]);
        double margin = rows_margin(size, length, centers->longest);
        float bound = rows_bound(centers->halves[r], centers->squares[r], margin);
        for (size_t p = 0; p < centers->pick_count; p++) {
            if (products[p] - centers->pick_halves[p] >= bound) {
                double square =
                    rows_distance_square(centers->rows + r * size, centers->pick_rows + p * size, size);
                if (square < centers->squares[r]) {
                    centers->squares[r] = square;
                    bound = rows_bound(centers->halves[r], square, margin);
                }
            }
        }
    }
}

/* squares of all rows, after the picks of a batch. */
static bool update(struct centers *centers, struct error *error)
{
    size_t size = centers->size;
    for (size_t p = 0; p < centers->pick_count; p++) {
        centers->pick_halves[p] = centers->halves[centers->picks[p]];
        centers->squares[centers->picks[p]] = CHOSEN;
    }
    if (!rows_gather(centers->threads, centers->rows, size, centers->picks, centers->pick_count,
                     centers->pick_rows, error)) {
        return false;
    }
    for (centers->first = 0; centers->first < centers->count; centers->first += BLOCK) {
        size_t count = rows_least(BLOCK, centers->count - centers->first);
        if (!rows_multiply(centers->threads, size, centers->rows + centers->first * size, count,
                           centers->pick_rows, centers->pick_count, centers->products, BATCH, error) ||
            !pool_run(centers->threads->pool, (count + TASK_ROWS - 1) / TASK_ROWS, update_task, centers,
                      centers->threads->cancel, error)) {
            return false;
        }
    }
    return true;
}

bool k_center_select(const struct dense_threads *threads, const float *rows, size_t count, size_t size,
                     size_t wanted, uint32_t *ret_order, double *ret_radius, struct error *error)
{
    if (count >= UINT32_MAX || wanted > count) {
        return error_set(error, ERROR_OUT_OF_RANGE, "%zu centres of %zu rows; at most 2^32 - 2 rows", wanted,
                         count);
    }
    FINISHED(centers) centers = {.threads = threads, .rows = rows, .count = count, .size = size};
    if (!centers_init(&centers, error)) {
        return false;
    }
    size_t done = 0;
    for (; done < wanted; done += centers.pick_count) {
        size_t candidate_count = 1;
        if (done > 0) {
            candidate_count = find_farthest(&centers);
        } else if (!find_first(&centers, error)) {
            return false;
        }
        if (centers.keys[0] >= 0.0) {
            break;
        }
        pick(&centers, candidate_count, wanted - done, ret_order + done);
        if (!update(&centers, error)) {
            return false;
        }
    }
    for (size_t r = 0; r < count && done < wanted; r++) { /* duplicates of what is chosen */
        if (centers.squares[r] >= 0.0) {
            ret_order[done++] = (uint32_t)r;
        }
    }
    double most = count > 0 && wanted == 0 ? (double)INFINITY : 0.0;
    for (size_t r = 0; r < count && wanted > 0; r++) {
        most = centers.squares[r] > most ? centers.squares[r] : most;
    }
    *ret_radius = sqrt(most);
    return true;
}
