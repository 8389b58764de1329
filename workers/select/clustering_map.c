/* workers/select/clustering_map.c: clusters as a picture; see clustering.h. */
#include "workers/select/clustering.h"

#include "base/memory.h"
#include <math.h>

enum { AXES = 2, TASK_ROWS = 256 };
#define LEAST_VALUE 1e-12 /* of the largest eigenvalue: less is no direction */

/* What the directions are of: groups of records, their means less that of all, and how many records each stands for. */
struct groups {
    size_t count, size;
    double *means;   /* [count, size] */
    double *weights; /* [count] */
    double *centre;  /* [size] */
};

static void groups_finish(struct groups *groups)
{
    free(groups->means);
    free(groups->weights);
    free(groups->centre);
}

static bool groups_make(const float *rows, size_t count, size_t size, const uint32_t *labels,
                        size_t cluster_count, struct groups *groups, struct error *error)
{
    bool is_sample = cluster_count <= AXES;
    size_t sampled = count < CLUSTERING_MAP_ROWS ? count : CLUSTERING_MAP_ROWS;
    groups->count = is_sample ? sampled : cluster_count;
    groups->size = size;
    groups->means = memory_try_array(groups->count, size * sizeof *groups->means, "means of clusters", error);
    groups->weights = memory_try_array(groups->count, sizeof *groups->weights, "sizes of clusters", error);
    groups->centre = memory_try_array(size, sizeof *groups->centre, "the mean of the records", error);
    if (groups->means == NULL || groups->weights == NULL || groups->centre == NULL) {
        return false;
    }
    size_t used = is_sample ? sampled : count;
    for (size_t i = 0; i < used; i++) {
        size_t record = is_sample ? i * count / sampled : i, group = is_sample ? i : labels[i];
        groups->weights[group] += 1;
        for (size_t c = 0; c < size; c++) {
            double value = (double)rows[record * size + c];
            groups->means[group * size + c] += value;
            groups->centre[c] += value / (double)used;
        }
    }
    for (size_t g = 0; g < groups->count; g++) {
        for (size_t c = 0; c < size && groups->weights[g] > 0; c++) {
            groups->means[g * size + c] =
                groups->means[g * size + c] / groups->weights[g] - groups->centre[c];
        }
    }
    return true;
}

/* Principal directions [AXES, size] by the Gram matrix of the weighted means. */
static bool find_directions(const struct dense_threads *threads, const struct groups *groups,
                            double *ret_directions, struct error *error)
{
    size_t n = groups->count, size = groups->size;
    OWNED_MEMORY double *gram = memory_try_array(n, n * sizeof *gram, "products of means", error);
    OWNED_MEMORY double *values = memory_try_array(n, sizeof *values, "eigenvalues", error);
    if (gram == NULL || values == NULL) {
        return false;
    }
    for (size_t a = 0; a < n; a++) {
        for (size_t b = 0; b <= a; b++) {
            double sum = 0;
            for (size_t c = 0; c < size; c++) {
                sum += groups->means[a * size + c] * groups->means[b * size + c];
            }
            gram[a * n + b] = sum * sqrt(groups->weights[a] * groups->weights[b]);
        }
    }
    if (!dense_eigen(threads, n, gram, values, error)) {
        return false;
    }
    for (size_t axis = 0; axis < AXES && axis < n && values[axis] > LEAST_VALUE * values[0]; axis++) {
        for (size_t a = 0; a < n; a++) {
            double share = gram[axis * n + a] * sqrt(groups->weights[a] / values[axis]);
            for (size_t c = 0; c < size; c++) {
                ret_directions[axis * size + c] += share * groups->means[a * size + c];
            }
        }
    }
    return true;
}

struct projection {
    const float *rows;
    size_t count, size;
    const double *centre, *directions;
    float *map;
};

static void project_rows(void *context, size_t index, size_t thread)
{
    (void)thread;
    struct projection *job = context;
    size_t first = index * TASK_ROWS;
    size_t end = job->count - first < TASK_ROWS ? job->count : first + TASK_ROWS;
    for (size_t i = first; i < end; i++) {
        for (size_t axis = 0; axis < AXES; axis++) {
            const double *direction = job->directions + axis * job->size;
            double sum = 0;
            for (size_t c = 0; c < job->size; c++) {
                sum += ((double)job->rows[i * job->size + c] - job->centre[c]) * direction[c];
            }
            job->map[i * AXES + axis] = (float)sum;
        }
    }
}

bool clustering_map(const struct dense_threads *threads, const float *rows, size_t count, size_t size,
                    const uint32_t *labels, size_t cluster_count, float *ret_map, struct error *error)
{
    if (count == 0) {
        return true;
    }
    FINISHED(groups) groups = {0};
    OWNED_MEMORY double *directions =
        memory_try_array(AXES, size * sizeof *directions, "directions of the picture", error);
    if (directions == NULL || !groups_make(rows, count, size, labels, cluster_count, &groups, error) ||
        !find_directions(threads, &groups, directions, error)) {
        return false;
    }
    struct projection job = {rows, count, size, groups.centre, directions, ret_map};
    return pool_run(threads->pool, (count + TASK_ROWS - 1) / TASK_ROWS, project_rows, &job, threads->cancel,
                    error);
}
