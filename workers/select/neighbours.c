/* workers/select/neighbours.c: the exact search, and what the one by cells shares with it; see neighbours.h. */
#include "workers/select/neighbours_internal.h"

#include "base/memory.h"
#include "workers/select/rows.h"
#include <stdlib.h>
#include <string.h>

enum { BLOCK = NEIGHBOURS_BLOCK, TASK_ROWS = 64, TASK_COLUMNS = 4 * ROWS_CHUNK, TASK_LISTS = 256 };
_Static_assert(BLOCK % ROWS_CHUNK == 0, "blocks of rows are whole chunks");

/* ---- heaps --------------------------------------------------------------------------------------- */

static bool is_before(float distance, uint32_t index, float other_distance, uint32_t other_index)
{
    return distance < other_distance || (distance <= other_distance && index < other_index);
}

void neighbours_heap_replace(float *distances, uint32_t *indices, size_t count, float distance,
                             uint32_t index)
{
    size_t at = 0;
    for (size_t child = 1; child < count; child = 2 * at + 1) {
        if (child + 1 < count &&
            is_before(distances[child], indices[child], distances[child + 1], indices[child + 1])) {
            child++;
        }
        if (!is_before(distance, index, distances[child], indices[child])) {
            break;
        }
        distances[at] = distances[child];
        indices[at] = indices[child];
        at = child;
    }
    distances[at] = distance;
    indices[at] = index;
}

void neighbours_heap_clear(float *distances, uint32_t *indices, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        distances[i] = INFINITY;
        indices[i] = NEIGHBOURS_NONE;
    }
}

/* Into rising order. */
static void heap_sort(float *distances, uint32_t *indices, size_t count)
{
    for (size_t left = count; left > 1; left--) {
        float distance = distances[left - 1];
        uint32_t index = indices[left - 1];
        distances[left - 1] = distances[0];
        indices[left - 1] = indices[0];
        neighbours_heap_replace(distances, indices, left - 1, distance, index);
    }
}

/* ---- searching a block --------------------------------------------------------------------------- */

static uint32_t side_id(const struct neighbours_side *side, size_t i)
{
    return side->ids != NULL ? side->ids[i] : (uint32_t)(side->first + i);
}

void neighbours_search_finish(struct neighbours_search *search)
{
    free(search->halves);
    neighbours_destroy(search->lists);
    free(search->products);
}

/* What a candidate's product with row `id` has to reach. */
static float reach_bound(const struct neighbours_search *search, uint32_t id)
{
    return rows_bound(search->halves[id], (double)search->lists->distances[id * search->lists->k],
                      search->margin);
}

static void offer(const struct neighbours_search *search, uint32_t id, const float *row, uint32_t other_id,
                  const float *other_row)
{
    size_t k = search->lists->k;
    float *distances = search->lists->distances + id * k;
    uint32_t *indices = search->lists->indices + id * k;
    /* Nothing is nearer than a duplicate: where there are very many, this spares measuring each. */
    if (other_id == id || (distances[0] <= 0.0F && other_id > indices[0])) {
        return;
    }
    float distance = (float)rows_distance_square(row, other_row, search->size);
    if (is_before(distance, other_id, distances[0], indices[0])) {
        neighbours_heap_replace(distances, indices, k, distance, other_id);
    }
}

static void scan_rows(const struct neighbours_search *search, size_t first)
{
    const struct neighbours_side *queries = &search->queries, *candidates = &search->candidates;
    size_t size = search->size, end = rows_least(first + TASK_ROWS, queries->count);
    for (size_t r = first; r < end; r++) {
        if (isinf(queries->halves[r])) {
            continue;
        }
        const float *products = search->products + r * BLOCK;
        uint32_t id = side_id(queries, r);
        float bound = reach_bound(search, id);
        for (size_t chunk = 0; chunk < candidates->count; chunk += ROWS_CHUNK) {
            if (!rows_chunk_passes(products + chunk, candidates->halves + chunk, bound)) {
                continue;
            }
            for (size_t c = chunk; c < chunk + ROWS_CHUNK; c++) {
                if (products[c] - candidates->halves[c] >= bound) {
                    offer(search, id, queries->rows + r * size, side_id(candidates, c),
                          candidates->rows + c * size);
                    bound = reach_bound(search, id);
                }
            }
        }
    }
}

/* As rows_chunk_passes, of ROWS_CHUNK rows with one candidate. */
static bool column_chunk_passes(const float *products, float half, const float *bounds)
{
    int passing = 0;
    for (size_t i = 0; i < ROWS_CHUNK; i++) {
        passing += products[i] - half >= bounds[i];
    }
    return passing != 0;
}

/* The same products read the other way: columns look for neighbours among the rows. */
static void scan_columns(const struct neighbours_search *search, size_t first)
{
    const struct neighbours_side *rows = &search->queries, *columns = &search->candidates;
    size_t size = search->size, width = rows_least(TASK_COLUMNS, columns->count - first);
    float bounds[TASK_COLUMNS];
    for (size_t c = 0; c < TASK_COLUMNS; c++) {
        bool is_searching = c < width && isfinite(columns->halves[first + c]);
        bounds[c] = is_searching ? reach_bound(search, side_id(columns, first + c)) : INFINITY;
    }
    for (size_t r = 0; r < rows->count; r++) {
        float half = rows->halves[r];
        if (isinf(half)) {
            continue;
        }
        const float *products = search->products + r * BLOCK + first;
        for (size_t chunk = 0; chunk < width; chunk += ROWS_CHUNK) {
            if (!column_chunk_passes(products + chunk, half, bounds + chunk)) {
                continue;
            }
            for (size_t c = chunk; c < chunk + ROWS_CHUNK; c++) {
                if (products[c] - half >= bounds[c]) {
                    uint32_t id = side_id(columns, first + c);
                    offer(search, id, columns->rows + (first + c) * size, side_id(rows, r),
                          rows->rows + r * size);
                    bounds[c] = reach_bound(search, id);
                }
            }
        }
    }
}

static void scan_task(void *context, size_t index, size_t thread)
{
    (void)thread;
    const struct neighbours_search *search = context;
    size_t row_tasks = (search->queries.count + TASK_ROWS - 1) / TASK_ROWS;
    if (index < row_tasks) {
        scan_rows(search, index * TASK_ROWS);
    } else {
        scan_columns(search, (index - row_tasks) * TASK_COLUMNS);
    }
}

bool neighbours_search_block(struct neighbours_search *search, const struct neighbours_side *queries,
                             const struct neighbours_side *candidates, bool are_mutual, struct error *error)
{
    search->queries = *queries;
    search->candidates = *candidates;
    size_t tasks = (queries->count + TASK_ROWS - 1) / TASK_ROWS;
    tasks += are_mutual ? (candidates->count + TASK_COLUMNS - 1) / TASK_COLUMNS : 0;
    return rows_multiply(search->threads, search->size, queries->rows, queries->count, candidates->rows,
                         candidates->count, search->products, BLOCK, error) &&
           pool_run(search->threads->pool, tasks, scan_task, search, search->threads->cancel, error);
}

struct neighbours_side neighbours_block(const struct neighbours_search *search, size_t first)
{
    struct neighbours_side side = {search->rows + first * search->size, search->halves + first, NULL, first,
                                   rows_least(BLOCK, search->count - first)};
    return side;
}

/* ---- lists --------------------------------------------------------------------------------------- */

static struct neighbours *create_lists(size_t count, size_t k, struct error *error)
{
    static const char what[] = "lists of neighbours";
    OWNED(neighbours) lists = memory_create(1, sizeof *lists);
    lists->count = count;
    lists->k = k;
    lists->indices = memory_try_array(count, k * sizeof *lists->indices, what, error);
    if (lists->indices == NULL) {
        return NULL;
    }
    lists->distances = memory_try_array(count, k * sizeof *lists->distances, what, error);
    if (lists->distances == NULL) {
        return NULL;
    }
    neighbours_heap_clear(lists->distances, lists->indices, count * k);
    return TAKE(lists);
}

void neighbours_destroy(struct neighbours *neighbours)
{
    if (neighbours != NULL) {
        free(neighbours->indices);
        free(neighbours->distances);
        free(neighbours);
    }
}

bool neighbours_search_init(struct neighbours_search *search, size_t k, struct error *error)
{
    if (search->count >= UINT32_MAX) {
        return error_set(error, ERROR_OUT_OF_RANGE, "neighbours of %zu rows; at most 2^32 - 2",
                         search->count);
    }
    k = search->count > 0 ? rows_least(k, search->count - 1) : 0;
    search->halves = memory_try_array(rows_padded(search->count), sizeof(float), "lengths of rows", error);
    double longest = 0.0;
    if (search->halves == NULL || !rows_measure(search->threads, search->rows, search->count, search->size,
                                                true, search->halves, &longest, error)) {
        return false;
    }
    search->margin = rows_margin(search->size, longest, longest);
    search->products = memory_try_array(BLOCK, BLOCK * sizeof(float), "products of rows", error);
    if (search->products == NULL) {
        return false;
    }
    search->lists = create_lists(search->count, k, error);
    return search->lists != NULL;
}

static void sort_task(void *context, size_t index, size_t thread)
{
    (void)thread;
    struct neighbours *lists = context;
    size_t end = rows_least((index + 1) * TASK_LISTS, lists->count);
    for (size_t i = index * TASK_LISTS; i < end; i++) {
        heap_sort(lists->distances + i * lists->k, lists->indices + i * lists->k, lists->k);
    }
}

bool neighbours_sort(const struct neighbours_search *search, struct error *error)
{
    return pool_run(search->threads->pool, (search->count + TASK_LISTS - 1) / TASK_LISTS, sort_task,
                    search->lists, search->threads->cancel, error);
}

struct neighbours *neighbours_find_exact(const struct dense_threads *threads, const float *rows, size_t count,
                                         size_t size, size_t k, struct error *error)
{
    FINISHED(neighbours_search) search = {.threads = threads, .rows = rows, .count = count, .size = size};
    if (!neighbours_search_init(&search, k, error)) {
        return NULL;
    }
    for (size_t i = 0; search.lists->k > 0 && i < count; i += BLOCK) {
        struct neighbours_side queries = neighbours_block(&search, i);
        for (size_t j = i; j < count; j += BLOCK) {
            struct neighbours_side candidates = neighbours_block(&search, j);
            if (!neighbours_search_block(&search, &queries, &candidates, i != j, error)) {
                return NULL;
            }
        }
    }
    return neighbours_sort(&search, error) ? TAKE(search.lists) : NULL;
}
