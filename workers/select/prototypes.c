/* workers/select/prototypes.c: see prototypes.h. */
#include "workers/select/prototypes.h"

#include "base/check.h"
#include "base/memory.h"
#include "workers/select/lengths.h"
#include "workers/select/ranking.h"
#include <math.h>

enum { TASK_ROWS = 256 };

struct scoring {
    size_t n;
    const float *rows;
    const struct prototypes_clusters *clusters;
    enum prototypes_distance distance;
    const double *row_squares, *centroid_squares; /* [n], [clusters] */
    double *scores;                               /* [n] */
};

static double euclidean(const float *a, const float *b, size_t size)
{
    double square = 0.0;
    for (size_t c = 0; c < size; c++) {
        double difference = (double)a[c] - (double)b[c];
        square += difference * difference;
    }
    return sqrt(square);
}

static void score_rows(void *context, size_t task, size_t thread)
{
    (void)thread;
    const struct scoring *scoring = context;
    const struct prototypes_clusters *clusters = scoring->clusters;
    size_t size = clusters->size;
    size_t end = (task + 1) * TASK_ROWS < scoring->n ? (task + 1) * TASK_ROWS : scoring->n;
    for (size_t i = task * TASK_ROWS; i < end; i++) {
        size_t cluster = clusters->labels[i];
        const float *row = scoring->rows + i * size, *centroid = clusters->centroids + cluster * size;
        scoring->scores[i] = scoring->distance == PROTOTYPES_EUCLIDEAN
                                 ? euclidean(row, centroid, size)
                                 : 1.0 - lengths_cosine(row, scoring->row_squares[i], centroid,
                                                        scoring->centroid_squares[cluster], size);
    }
}

static bool check_labels(size_t n, const struct prototypes_clusters *clusters, struct error *error)
{
    for (size_t i = 0; i < n; i++) {
        if (clusters->labels[i] >= clusters->count) {
            return error_set(error, ERROR_INVALID_ARGUMENT, "record %zu belongs to cluster %u of %zu", i,
                             clusters->labels[i], clusters->count);
        }
    }
    return true;
}

bool prototypes_score(const struct dense_threads *threads, size_t n, const float *rows,
                      const struct prototypes_clusters *clusters, enum prototypes_distance distance,
                      double *ret_scores, struct error *error)
{
    OWNED_MEMORY double *row_squares = memory_try_array(n, sizeof *row_squares, "lengths", error);
    OWNED_MEMORY double *squares =
        row_squares != NULL ? memory_try_array(clusters->count, sizeof *squares, "lengths", error) : NULL;
    if (squares == NULL || !check_labels(n, clusters, error) ||
        !lengths_square(rows, n, clusters->size, "record", row_squares, error) ||
        !lengths_square(clusters->centroids, clusters->count, clusters->size, "centroid", squares, error)) {
        return false;
    }
    struct scoring scoring = {n, rows, clusters, distance, row_squares, squares, ret_scores};
    return pool_run(threads->pool, (n + TASK_ROWS - 1) / TASK_ROWS, score_rows, &scoring, threads->cancel,
                    error);
}

/* Marks, of records in the order of their rank, the first `floor` of each cluster. left: [clusters] scratch. */
static size_t mark_floors(const struct prototypes_clusters *clusters, size_t floor_count, const size_t *order,
                          size_t n, size_t *left, bool *marks)
{
    size_t marked = 0;
    for (size_t c = 0; c < clusters->count; c++) {
        left[c] = floor_count;
    }
    for (size_t r = 0; r < n; r++) {
        size_t *mine = &left[clusters->labels[order[r]]];
        marks[r] = *mine > 0;
        if (marks[r]) {
            (*mine)--;
            marked++;
        }
    }
    return marked;
}

bool prototypes_choose(size_t n, const double *scores, const struct prototypes_clusters *clusters,
                       const struct prototypes_choice *choice, size_t *ret_order, size_t *ret_count,
                       struct error *error)
{
    CHECK(choice->balance_ratio >= 0.0 && choice->balance_ratio <= 1.0);
    size_t wanted = choice->wanted < n ? choice->wanted : n, all = 0;
    OWNED_MEMORY size_t *order = memory_try_array(n, sizeof *order, "an order", error);
    OWNED_MEMORY bool *marks =
        order != NULL ? memory_try_array(n, sizeof *marks, "marks by rank", error) : NULL;
    OWNED_MEMORY size_t *left =
        marks != NULL ? memory_try_array(clusters->count, sizeof *left, "floors", error) : NULL;
    if (left == NULL || !check_labels(n, clusters, error) ||
        !ranking_order(scores, n, choice->side == PROTOTYPES_HARD ? RANKING_FALLING : RANKING_RISING,
                       RANKING_NAN_ERROR, n, order, &all, error)) {
        return false;
    }
    double share = clusters->count > 0 ? (double)wanted / (double)clusters->count : 0.0;
    size_t marked =
        mark_floors(clusters, (size_t)floor(choice->balance_ratio * share + 1e-9), order, n, left, marks);
    size_t count = 0, free_places = wanted - marked;
    for (size_t r = 0; r < n && count < wanted; r++) {
        if (marks[r] || free_places > 0) {
            free_places -= marks[r] ? 0 : 1;
            ret_order[count++] = order[r];
        }
    }
    *ret_count = count;
    return true;
}
