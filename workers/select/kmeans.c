/* workers/select/kmeans.c: see kmeans.h. */
#include "workers/select/kmeans.h"

#include "base/check.h"
#include "base/memory.h"
#include "base/rng.h"
#include "workers/select/rows.h"
#include <stdlib.h>
#include <string.h>

enum {
    ASSIGN_TASK_ROWS = 64,
    COVER_TASK_ROWS = 256,
    PRODUCTS = 4 << 20, /* of rows and centroids at once */
    STREAM = 0x6b6d
};

/* ---- assignment ---------------------------------------------------------------------------------- */

struct assigning {
    const struct dense_threads *threads;
    enum kmeans_form form;
    const float *rows, *halves; /* borrowed; [count, size], [count] */
    size_t count, size;
    const float *centroids; /* borrowed, [centroid_count, size] */
    size_t centroid_count, padded;
    float *centroid_halves; /* owned, [padded] */
    double longest;         /* of the centroids */
    size_t block, first;    /* rows multiplied at once; the first of them now */
    float *products;        /* owned, [block, padded] */
    uint32_t *labels;       /* [count] */
    float *distances;       /* [count] or NULL */
};

static void assigning_finish(struct assigning *assigning)
{
    free(assigning->centroid_halves);
    free(assigning->products);
}

static bool assigning_init(struct assigning *assigning, struct error *error)
{
    size_t padded = rows_padded(assigning->centroid_count);
    size_t block = PRODUCTS / padded / ASSIGN_TASK_ROWS * ASSIGN_TASK_ROWS;
    assigning->padded = padded;
    assigning->block = block > ASSIGN_TASK_ROWS ? block : ASSIGN_TASK_ROWS;
    assigning->block = rows_least(assigning->block, assigning->count);
    assigning->centroid_halves = memory_try_array(padded, sizeof(float), "lengths of centroids", error);
    if (assigning->centroid_halves == NULL) {
        return false;
    }
    assigning->products =
        memory_try_array(assigning->block, padded * sizeof(float), "products with centroids", error);
    return assigning->products != NULL;
}

/* The greatest s (rows.h) of a row; -INFINITY: no centroid takes part. */
static float greatest_score(const float *products, const float *halves, size_t padded)
{
    float lanes[ROWS_CHUNK];
    for (size_t lane = 0; lane < ROWS_CHUNK; lane++) {
        lanes[lane] = -INFINITY;
    }
    for (size_t c = 0; c < padded; c += ROWS_CHUNK) {
        for (size_t lane = 0; lane < ROWS_CHUNK; lane++) {
            float score = products[c + lane] - halves[c + lane];
            lanes[lane] = score > lanes[lane] ? score : lanes[lane];
        }
    }
    float greatest = lanes[0];
    for (size_t lane = 1; lane < ROWS_CHUNK; lane++) {
        greatest = lanes[lane] > greatest ? lanes[lane] : greatest;
    }
    return greatest;
}

/* The nearest of the centroids that may be, and the square of the distance. */
static uint32_t nearest_centroid(const struct assigning *assigning, size_t i, const float *products,
                                 float greatest, double *ret_square)
{
    const float *row = assigning->rows + i * assigning->size, *halves = assigning->centroid_halves;
    double length = sqrt(2.0 * (double)assigning->halves[i]);
    double margin = rows_margin(assigning->size, length, assigning->longest);
    float bound = (float)((double)greatest - 2.0 * margin); /* both scores err */
    uint32_t nearest = 0;
    double least = INFINITY;
    for (size_t chunk = 0; chunk < assigning->padded; chunk += ROWS_CHUNK) {
        if (!rows_chunk_passes(products + chunk, halves + chunk, bound)) {
            continue;
        }
        for (size_t c = chunk; c < chunk + ROWS_CHUNK; c++) {
            if (products[c] - halves[c] >= bound) {
                double square =
                    rows_distance_square(row, assigning->centroids + c * assigning->size, assigning->size);
                if (square < least) {
                    least = square;
                    nearest = (uint32_t)c;
                }
            }
        }
    }
    *ret_square = least;
    return nearest;
}

static void assign_task(void *context, size_t index, size_t thread)
{
    (void)thread;
    const struct assigning *assigning = context;
    size_t first = index * ASSIGN_TASK_ROWS;
    size_t end = rows_least(first + ASSIGN_TASK_ROWS,
                            rows_least(assigning->block, assigning->count - assigning->first));
    for (size_t r = first; r < end; r++) {
        size_t i = assigning->first + r;
        const float *products = assigning->products + r * assigning->padded;
        float greatest = greatest_score(products, assigning->centroid_halves, assigning->padded);
        double distance = 1.0;
        assigning->labels[i] = 0;
        if (isfinite(assigning->halves[i]) && isfinite(greatest)) {
            double square = 0.0;
            assigning->labels[i] = nearest_centroid(assigning, i, products, greatest, &square);
            /* Of rows of length 1: 1 - x.m without the cancellation. */
            distance = assigning->form == KMEANS_COSINE ? 0.5 * square : square;
        }
        if (assigning->distances != NULL) {
            assigning->distances[i] = (float)distance;
        }
    }
}

static bool assign_all(struct assigning *assigning, struct error *error)
{
    if (!rows_measure(assigning->threads, assigning->centroids, assigning->centroid_count, assigning->size,
                      assigning->form == KMEANS_COSINE, assigning->centroid_halves, &assigning->longest,
                      error)) {
        return error_prefix(error, "centroids: ");
    }
    for (size_t first = 0; first < assigning->count; first += assigning->block) {
        size_t count = rows_least(assigning->block, assigning->count - first);
        assigning->first = first;
        if (!rows_multiply(assigning->threads, assigning->size, assigning->rows + first * assigning->size,
                           count, assigning->centroids, assigning->centroid_count, assigning->products,
                           assigning->padded, error) ||
            !pool_run(assigning->threads->pool, (count + ASSIGN_TASK_ROWS - 1) / ASSIGN_TASK_ROWS,
                      assign_task, assigning, assigning->threads->cancel, error)) {
            return false;
        }
    }
    return true;
}

static bool check_counts(size_t count, size_t centroid_count, size_t most, struct error *error)
{
    if (count >= UINT32_MAX) {
        return error_set(error, ERROR_OUT_OF_RANGE, "k-means of %zu rows; at most 2^32 - 2", count);
    }
    if (centroid_count < 1 || centroid_count > most) {
        return error_set(error, ERROR_OUT_OF_RANGE, "%zu centroids; there can be 1 to %zu", centroid_count,
                         most);
    }
    return true;
}

bool kmeans_assign(const struct dense_threads *threads, enum kmeans_form form, const float *rows,
                   size_t count, size_t size, const float *centroids, size_t centroid_count,
                   uint32_t *ret_labels, float *ret_distances, struct error *error)
{
    if (!check_counts(count, centroid_count, UINT32_MAX - 1, error)) {
        return false;
    }
    OWNED_MEMORY float *halves =
        memory_try_array(rows_padded(count), sizeof *halves, "lengths of rows", error);
    double longest = 0.0;
    if (halves == NULL ||
        !rows_measure(threads, rows, count, size, form == KMEANS_COSINE, halves, &longest, error)) {
        return false;
    }
    FINISHED(assigning)
    assigning = {.threads = threads,
                 .form = form,
                 .rows = rows,
                 .halves = halves,
                 .count = count,
                 .size = size,
                 .centroids = centroids,
                 .centroid_count = centroid_count,
                 .labels = ret_labels,
                 .distances = ret_distances};
    return assigning_init(&assigning, error) && assign_all(&assigning, error);
}

/* ---- beginnings ---------------------------------------------------------------------------------- */

struct fitting {
    const struct kmeans_request *request;
    struct assigning assigning; /* whose rows are the rows fitted */
    float *sample;              /* owned, the rows fitted where they are not the caller's */
    float *halves;              /* owned, of the rows fitted; as are all below */
    float *centroids;           /* [centroid_count, size] */
    uint32_t *labels, *labels_before;
    float *distances;
    uint32_t *members; /* [count]: rows by label, rising within one */
    size_t *starts;    /* [centroid_count + 1]: where a label's begin */
    double *sums;      /* [threads, size] */
    double *nearest;   /* [count]: squared distance to the nearest beginning so far; no initial_rows */
};

static void fitting_finish(struct fitting *fitting)
{
    assigning_finish(&fitting->assigning);
    free(fitting->sample);
    free(fitting->halves);
    free(fitting->centroids);
    free(fitting->labels);
    free(fitting->labels_before);
    free(fitting->distances);
    free(fitting->members);
    free(fitting->starts);
    free(fitting->sums);
    free(fitting->nearest);
}

/* What a new beginning covers. */
struct covering {
    struct fitting *fitting;
    const float *row;
};

static void cover_task(void *context, size_t index, size_t thread)
{
    (void)thread;
    const struct covering *covering = context;
    const struct assigning *assigning = &covering->fitting->assigning;
    size_t end = rows_least((index + 1) * COVER_TASK_ROWS, assigning->count);
    for (size_t i = index * COVER_TASK_ROWS; i < end; i++) {
        double square =
            rows_distance_square(assigning->rows + i * assigning->size, covering->row, assigning->size);
        double *nearest = &covering->fitting->nearest[i];
        if (isfinite(assigning->halves[i]) && square < *nearest) {
            *nearest = square;
        }
    }
}

/* Row i with probability weights[i] / sum; `count` where all are 0. INFINITY counts as 1, that is, before the first. */
static size_t draw_row(const double *weights, size_t count, double unit)
{
    double sum = 0.0, passed = 0.0;
    for (size_t i = 0; i < count; i++) {
        sum += isfinite(weights[i]) ? weights[i] : 1.0;
    }
    size_t last = count; /* the greatest unit may round past the end */
    for (size_t i = 0; i < count; i++) {
        double weight = isfinite(weights[i]) ? weights[i] : 1.0;
        last = weight > 0.0 ? i : last;
        passed += weight;
        if (passed > unit * sum) {
            break;
        }
    }
    return last;
}

static bool begin_centroids(struct fitting *fitting, size_t restart, struct error *error)
{
    const struct assigning *assigning = &fitting->assigning;
    const struct dense_threads *threads = assigning->threads;
    size_t size = assigning->size, count = assigning->count;
    if (fitting->request->initial_rows != NULL) {
        memcpy(fitting->centroids, fitting->request->initial_rows,
               assigning->centroid_count * size * sizeof(float));
        return true;
    }
    struct rng rng = {.seed = fitting->request->seed, .stream = STREAM, .step = (uint32_t)restart + 1};
    for (size_t i = 0; i < count; i++) {
        fitting->nearest[i] = isfinite(fitting->halves[i]) ? (double)INFINITY : 0.0;
    }
    for (size_t c = 0; c < assigning->centroid_count; c++) {
        size_t drawn = draw_row(fitting->nearest, count, rng_unit(&rng, c));
        struct covering covering = {fitting, assigning->rows};
        if (drawn < count) {
            covering.row += drawn * size;
        } else if (c > 0) { /* every distinct row is a beginning */
            covering.row = fitting->centroids;
        }
        memcpy(fitting->centroids + c * size, covering.row, size * sizeof(float));
        bool is_last = c + 1 == assigning->centroid_count; /* nobody asks what it covers */
        if (!is_last && !pool_run(threads->pool, (count + COVER_TASK_ROWS - 1) / COVER_TASK_ROWS, cover_task,
                                  &covering, threads->cancel, error)) {
            return false;
        }
    }
    return true;
}

/* ---- Lloyd's iteration --------------------------------------------------------------------------- */

/* Gives each empty cluster the row farthest from its centroid. */
static void fill_empty(struct fitting *fitting)
{
    size_t count = fitting->assigning.count, centroid_count = fitting->assigning.centroid_count;
    size_t *sizes = fitting->starts;
    memset(sizes, 0, centroid_count * sizeof *sizes);
    for (size_t i = 0; i < count; i++) {
        sizes[fitting->labels[i]] += isfinite(fitting->halves[i]) ? 1 : 0;
    }
    for (size_t c = 0; c < centroid_count; c++) {
        if (sizes[c] > 0) {
            continue;
        }
        size_t farthest = count;
        float most = 0.0F;
        for (size_t i = 0; i < count; i++) {
            if (fitting->distances[i] > most && isfinite(fitting->halves[i]) &&
                sizes[fitting->labels[i]] > 1) {
                most = fitting->distances[i];
                farthest = i;
            }
        }
        if (farthest == count) {
            return;
        }
        sizes[fitting->labels[farthest]]--;
        sizes[c] = 1;
        fitting->labels[farthest] = (uint32_t)c;
    }
}

/* Rows of zeros in the cosine form are left out: of the labels, too, until the next assignment. */
static void group_members(struct fitting *fitting)
{
    size_t count = fitting->assigning.count;
    for (size_t i = 0; i < count; i++) {
        fitting->labels[i] = isfinite(fitting->halves[i]) ? fitting->labels[i] : ROWS_NO_GROUP;
    }
    rows_group(fitting->labels, count, 1, fitting->assigning.centroid_count, fitting->starts,
               fitting->members);
}

static void move_task(void *context, size_t c, size_t thread)
{
    const struct fitting *fitting = context;
    const struct assigning *assigning = &fitting->assigning;
    size_t size = assigning->size, first = fitting->starts[c], end = fitting->starts[c + 1];
    double *sums = fitting->sums + thread * size;
    memset(sums, 0, size * sizeof *sums);
    for (size_t m = first; m < end; m++) {
        const float *row = assigning->rows + fitting->members[m] * size;
        for (size_t i = 0; i < size; i++) {
            sums[i] += (double)row[i];
        }
    }
    double divisor = (double)(end - first);
    if (assigning->form == KMEANS_COSINE) {
        double square = 0.0;
        for (size_t i = 0; i < size; i++) {
            square += sums[i] * sums[i];
        }
        divisor = sqrt(square);
    }
    if (divisor > 0.0) {
        float *centroid = fitting->centroids + c * size;
        for (size_t i = 0; i < size; i++) {
            centroid[i] = (float)(sums[i] / divisor);
        }
    }
}

/* Leaves the centroids in `fitting`, and their account in *ret_trial. */
static bool iterate(struct fitting *fitting, struct kmeans *ret_trial, struct error *error)
{
    struct assigning *assigning = &fitting->assigning;
    size_t label_bytes = assigning->count * sizeof *fitting->labels;
    for (size_t iterations = 0;; iterations++) {
        if (!assign_all(assigning, error)) {
            return false;
        }
        bool is_converged =
            iterations > 0 && memcmp(fitting->labels, fitting->labels_before, label_bytes) == 0;
        if (is_converged || iterations == fitting->request->iteration_limit) {
            ret_trial->iterations = iterations;
            ret_trial->is_converged = is_converged;
            break;
        }
        fill_empty(fitting);
        memcpy(fitting->labels_before, fitting->labels, label_bytes);
        group_members(fitting);
        if (!pool_run(assigning->threads->pool, assigning->centroid_count, move_task, fitting,
                      assigning->threads->cancel, error)) {
            return false;
        }
    }
    ret_trial->cost = 0.0;
    for (size_t i = 0; i < assigning->count; i++) {
        ret_trial->cost += (double)fitting->distances[i];
    }
    return true;
}

/* ---- fitting ------------------------------------------------------------------------------------- */

/* Points `assigning` to the rows to fit: the caller's, or a sample of them. */
static bool take_rows(struct fitting *fitting, struct error *error)
{
    struct assigning *assigning = &fitting->assigning;
    size_t wanted = fitting->request->sample_count, size = assigning->size;
    bool is_sampled = wanted > 0 && wanted < assigning->count;
    if (!check_counts(assigning->count, assigning->centroid_count, is_sampled ? wanted : assigning->count,
                      error)) {
        return false;
    }
    if (!is_sampled) {
        return true;
    }
    struct rng rng = {.seed = fitting->request->seed, .stream = STREAM};
    OWNED_MEMORY uint32_t *ids = memory_try_array(wanted, sizeof *ids, "a sample of rows", error);
    if (ids == NULL || !rows_draw(&rng, assigning->count, wanted, ids, error)) {
        return false;
    }
    fitting->sample = memory_try_array(wanted, size * sizeof(float), "a sample of rows", error);
    if (fitting->sample == NULL ||
        !rows_gather(assigning->threads, assigning->rows, size, ids, wanted, fitting->sample, error)) {
        return false;
    }
    assigning->rows = fitting->sample;
    assigning->count = wanted;
    return true;
}

static bool make_room(struct fitting *fitting, struct error *error)
{
    static const char what[] = "k-means";
    struct assigning *assigning = &fitting->assigning;
    size_t count = assigning->count, centroid_count = assigning->centroid_count, size = assigning->size;
    size_t thread_count = pool_thread_count(assigning->threads->pool);
    fitting->halves = memory_try_array(rows_padded(count), sizeof(float), what, error);
    fitting->centroids = memory_try_array(centroid_count, size * sizeof(float), what, error);
    fitting->labels = memory_try_array(count, sizeof(uint32_t), what, error);
    fitting->labels_before = memory_try_array(count, sizeof(uint32_t), what, error);
    fitting->distances = memory_try_array(count, sizeof(float), what, error);
    fitting->members = memory_try_array(count, sizeof(uint32_t), what, error);
    fitting->starts = memory_try_array(centroid_count + 1, sizeof(size_t), what, error);
    fitting->sums = memory_try_array(thread_count, size * sizeof(double), what, error);
    if (fitting->request->initial_rows == NULL) {
        fitting->nearest = memory_try_array(count, sizeof(double), what, error);
        if (fitting->nearest == NULL) {
            return false;
        }
    }
    assigning->halves = fitting->halves;
    assigning->centroids = fitting->centroids;
    assigning->labels = fitting->labels;
    assigning->distances = fitting->distances;
    return fitting->halves != NULL && fitting->centroids != NULL && fitting->labels != NULL &&
           fitting->labels_before != NULL && fitting->distances != NULL && fitting->members != NULL &&
           fitting->starts != NULL && fitting->sums != NULL && assigning_init(assigning, error);
}

struct kmeans *kmeans_fit(const struct dense_threads *threads, const float *rows, size_t count, size_t size,
                          const struct kmeans_request *request, struct error *error)
{
    CHECK(request->restart_count == 1 || (request->restart_count > 1 && request->initial_rows == NULL));
    FINISHED(fitting)
    fitting = {.request = request,
               .assigning = {.threads = threads,
                             .form = request->form,
                             .rows = rows,
                             .count = count,
                             .size = size,
                             .centroid_count = request->centroid_count}};
    double longest = 0.0;
    if (!take_rows(&fitting, error) || !make_room(&fitting, error) ||
        !rows_measure(threads, fitting.assigning.rows, fitting.assigning.count, size,
                      request->form == KMEANS_COSINE, fitting.halves, &longest, error)) {
        return NULL;
    }
    OWNED(kmeans) best = memory_create(1, sizeof *best);
    best->centroids =
        memory_try_array(request->centroid_count, size * sizeof *best->centroids, "centroids", error);
    if (best->centroids == NULL) {
        return NULL;
    }
    best->centroid_count = request->centroid_count;
    best->size = size;
    for (size_t restart = 0; restart < request->restart_count; restart++) {
        struct kmeans trial = *best;
        if (!begin_centroids(&fitting, restart, error) || !iterate(&fitting, &trial, error)) {
            return NULL;
        }
        if (restart == 0 || trial.cost < best->cost) {
            *best = trial;
            memcpy(best->centroids, fitting.centroids, best->centroid_count * size * sizeof(float));
        }
    }
    return TAKE(best);
}

void kmeans_destroy(struct kmeans *kmeans)
{
    if (kmeans != NULL) {
        free(kmeans->centroids);
        free(kmeans);
    }
}
