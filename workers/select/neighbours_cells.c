/* workers/select/neighbours_cells.c: the search by cells; see neighbours.h. Rows meet the centroids twice: kmeans_assign says to which cell each
 * belongs, by exact distances, and probe_cells which cells it searches, by products alone, in batches and after the choice of how many. */
#include "workers/select/neighbours_internal.h"

#include "base/check.h"
#include "base/memory.h"
#include "base/rng.h"
#include "workers/select/kmeans.h"
#include "workers/select/rows.h"
#include <stdlib.h>
#include <string.h>

enum {
    BLOCK = NEIGHBOURS_BLOCK,
    TASK_ROWS = 64,
    CELL_ITERATIONS = 10,
    CELL_STREAM = 0x6e63,
    QUERY_STREAM = 0x6e71
};
_Static_assert(NEIGHBOURS_QUERIES <= BLOCK, "queries are one block");

/* ---- cells --------------------------------------------------------------------------------------- */

/* Some rows copied together, so that they are one side of a product. */
struct gathered {
    float *rows;   /* owned, [BLOCK, size] */
    float *halves; /* owned, [BLOCK] */
};

/* Lists of ids by cell. */
struct by_cell {
    size_t *starts; /* owned, [cell_count + 1] */
    uint32_t *ids;  /* owned */
};

struct cells {
    struct neighbours_search search;
    const struct neighbours_cells_request *request;
    size_t count;          /* cells */
    struct kmeans *kmeans; /* owned */
    uint32_t *present;     /* owned, [present_count]: rows of length 1 */
    size_t present_count;
    uint32_t *labels;       /* owned, [search.count] */
    struct by_cell members; /* rows of each cell */
    float *scores;          /* owned, [BLOCK, count]: a row's products with all centroids */
    uint32_t *queries;      /* owned, [query_count] */
    size_t query_count;
    uint32_t *truths; /* owned, [query_count, k] */
    size_t probe_count;
    uint32_t *probes;    /* owned, [NEIGHBOURS_BATCH, probe_count]: nearest cells of each row of a batch */
    float *probe_scores; /* owned, [threads, probe_count] */
    size_t batch_first, first; /* of the rows that search, and of a block of them */
    struct by_cell visitors;   /* rows of a batch that search each cell */
    struct gathered left, right;
};

static void cells_finish(struct cells *cells)
{
    neighbours_search_finish(&cells->search);
    kmeans_destroy(cells->kmeans);
    free(cells->present);
    free(cells->labels);
    free(cells->members.starts);
    free(cells->members.ids);
    free(cells->scores);
    free(cells->queries);
    free(cells->truths);
    free(cells->probes);
    free(cells->probe_scores);
    free(cells->visitors.starts);
    free(cells->visitors.ids);
    free(cells->left.rows);
    free(cells->left.halves);
    free(cells->right.rows);
    free(cells->right.halves);
}

static bool gather(const struct cells *cells, const struct gathered *into, const uint32_t *ids, size_t count,
                   struct neighbours_side *ret_side, struct error *error)
{
    const struct neighbours_search *search = &cells->search;
    for (size_t i = 0; i < rows_padded(count); i++) {
        into->halves[i] = i < count ? search->halves[ids[i]] : INFINITY;
    }
    *ret_side = (struct neighbours_side){into->rows, into->halves, ids, 0, count};
    return rows_gather(search->threads, search->rows, search->size, ids, count, into->rows, error);
}

/* Draws `wanted` of the rows of length 1. */
static bool draw_present(const struct cells *cells, uint32_t stream, size_t wanted, uint32_t *ret_ids,
                         struct error *error)
{
    struct rng rng = {.seed = cells->request->seed, .stream = stream};
    if (!rows_draw(&rng, cells->present_count, wanted, ret_ids, error)) {
        return false;
    }
    for (size_t i = 0; i < wanted; i++) {
        ret_ids[i] = cells->present[ret_ids[i]];
    }
    return true;
}

/* Centroids. They begin at any rows: with some thousands of them, k-means++ costs more than it mends. */
static bool fit_cells(struct cells *cells, struct error *error)
{
    const struct neighbours_search *search = &cells->search;
    OWNED_MEMORY uint32_t *ids = memory_try_array(cells->count, sizeof *ids, "beginnings of cells", error);
    OWNED_MEMORY float *initial_rows =
        memory_try_array(cells->count, search->size * sizeof *initial_rows, "beginnings of cells", error);
    if (ids == NULL || initial_rows == NULL || !draw_present(cells, CELL_STREAM, cells->count, ids, error) ||
        !rows_gather(search->threads, search->rows, search->size, ids, cells->count, initial_rows, error)) {
        return false;
    }
    struct kmeans_request request = {.form = KMEANS_COSINE,
                                     .centroid_count = cells->count,
                                     .iteration_limit = CELL_ITERATIONS,
                                     .restart_count = 1,
                                     .sample_count = cells->count * NEIGHBOURS_CELL_ROWS,
                                     .initial_rows = initial_rows,
                                     .seed = cells->request->seed};
    cells->kmeans = kmeans_fit(search->threads, search->rows, search->count, search->size, &request, error);
    return cells->kmeans != NULL;
}

static bool sort_into_cells(struct cells *cells, struct error *error)
{
    static const char what[] = "cells";
    const struct neighbours_search *search = &cells->search;
    cells->labels = memory_try_array(search->count, sizeof *cells->labels, what, error);
    cells->members.starts = memory_try_array(cells->count + 1, sizeof(size_t), what, error);
    cells->members.ids = memory_try_array(search->count, sizeof(uint32_t), what, error);
    if (cells->labels == NULL || cells->members.starts == NULL || cells->members.ids == NULL ||
        !kmeans_assign(search->threads, KMEANS_COSINE, search->rows, search->count, search->size,
                       cells->kmeans->centroids, cells->count, cells->labels, NULL, error)) {
        return false;
    }
    for (size_t i = 0; i < search->count; i++) {
        if (isinf(search->halves[i])) {
            cells->labels[i] = ROWS_NO_GROUP;
        }
    }
    rows_group(cells->labels, search->count, 1, cells->count, cells->members.starts, cells->members.ids);
    return true;
}

/* scores become the products of a side with the centroids. */
static bool score_cells(struct cells *cells, const struct neighbours_side *side, struct error *error)
{
    return rows_multiply(cells->search.threads, cells->search.size, side->rows, side->count,
                         cells->kmeans->centroids, cells->count, cells->scores, cells->count, error);
}

/* ---- recall -------------------------------------------------------------------------------------- */

/* The true neighbours of the queries. Their lists are used, and emptied again. */
static bool answer_queries(struct cells *cells, struct neighbours_side *ret_queries, struct error *error)
{
    static const char what[] = "queries";
    struct neighbours_search *search = &cells->search;
    size_t k = search->lists->k;
    cells->query_count = rows_least(NEIGHBOURS_QUERIES, cells->present_count);
    cells->queries = memory_try_array(cells->query_count, sizeof *cells->queries, what, error);
    cells->truths = memory_try_array(cells->query_count, k * sizeof *cells->truths, what, error);
    if (cells->queries == NULL || cells->truths == NULL ||
        !draw_present(cells, QUERY_STREAM, cells->query_count, cells->queries, error) ||
        !gather(cells, &cells->left, cells->queries, cells->query_count, ret_queries, error)) {
        return false;
    }
    for (size_t first = 0; first < search->count; first += BLOCK) {
        struct neighbours_side candidates = neighbours_block(search, first);
        if (!neighbours_search_block(search, ret_queries, &candidates, false, error)) {
            return false;
        }
    }
    for (size_t q = 0; q < cells->query_count; q++) {
        uint32_t *indices = search->lists->indices + cells->queries[q] * k;
        memcpy(cells->truths + q * k, indices, k * sizeof *indices);
        neighbours_heap_clear(search->lists->distances + cells->queries[q] * k, indices, k);
    }
    return true;
}

static size_t rank_of_cell(const float *scores, size_t count, size_t cell)
{
    size_t rank = 0;
    for (size_t c = 0; c < count; c++) {
        rank += scores[c] > scores[cell] || (c < cell && scores[c] >= scores[cell]) ? 1 : 0;
    }
    return rank;
}

/* How many of a query's nearest cells hold the share of neighbours that was asked for: of every other query. */
static bool choose_probe_count(struct cells *cells, const struct neighbours_side *queries,
                               struct error *error)
{
    size_t k = cells->search.lists->k, total = 0, reached = 0;
    OWNED_MEMORY size_t *at_rank = memory_try_array(cells->count, sizeof *at_rank, "ranks of cells", error);
    if (at_rank == NULL || !score_cells(cells, queries, error)) {
        return false;
    }
    for (size_t q = 0; q < cells->query_count; q += 2) {
        for (size_t n = 0; n < k; n++) {
            uint32_t truth = cells->truths[q * k + n];
            if (truth != NEIGHBOURS_NONE) {
                at_rank[rank_of_cell(cells->scores + q * cells->count, cells->count, cells->labels[truth])]++;
                total++;
            }
        }
    }
    size_t limit = rows_least(cells->request->probe_limit, cells->count);
    cells->probe_count = 1;
    reached = at_rank[0];
    while (cells->probe_count < limit && (double)reached < cells->request->recall * (double)total) {
        reached += at_rank[cells->probe_count++];
    }
    return true;
}

/* Over the queries that had no say in the choice. */
static void measure_recall(const struct cells *cells, struct neighbours_cells_report *report)
{
    const struct neighbours *lists = cells->search.lists;
    size_t total = 0, found = 0;
    for (size_t q = 1; q < cells->query_count; q += 2) {
        const uint32_t *list = lists->indices + cells->queries[q] * lists->k;
        for (size_t n = 0; n < lists->k; n++) {
            uint32_t truth = cells->truths[q * lists->k + n];
            if (truth == NEIGHBOURS_NONE) {
                continue;
            }
            total++;
            for (size_t i = 0; i < lists->k; i++) {
                found += list[i] == truth ? 1 : 0;
            }
        }
    }
    report->query_count = cells->query_count / 2;
    report->recall = total > 0 ? (double)found / (double)total : 1.0;
}

/* ---- searching cells ----------------------------------------------------------------------------- */

static void probe_task(void *context, size_t index, size_t thread)
{
    const struct cells *cells = context;
    const struct neighbours_search *search = &cells->search;
    size_t probe_count = cells->probe_count;
    float *distances = cells->probe_scores + thread * probe_count;
    size_t end = rows_least((index + 1) * TASK_ROWS, rows_least(BLOCK, search->count - cells->first));
    for (size_t r = index * TASK_ROWS; r < end; r++) {
        size_t i = cells->first + r;
        uint32_t *probes = cells->probes + (i - cells->batch_first) * probe_count;
        const float *scores = cells->scores + r * cells->count;
        neighbours_heap_clear(distances, probes, probe_count);
        for (size_t c = 0; c < cells->count && isfinite(search->halves[i]); c++) {
            if (-scores[c] < distances[0]) { /* at equal scores the earlier cell is there already */
                neighbours_heap_replace(distances, probes, probe_count, -scores[c], (uint32_t)c);
            }
        }
    }
}

/* Which cells the rows of a batch search, and so which of them search a cell. */
static bool probe_cells(struct cells *cells, size_t batch_count, struct error *error)
{
    const struct neighbours_search *search = &cells->search;
    size_t end = cells->batch_first + batch_count;
    for (cells->first = cells->batch_first; cells->first < end; cells->first += BLOCK) {
        struct neighbours_side side = neighbours_block(search, cells->first);
        if (!score_cells(cells, &side, error) ||
            !pool_run(search->threads->pool, (side.count + TASK_ROWS - 1) / TASK_ROWS, probe_task, cells,
                      search->threads->cancel, error)) {
            return false;
        }
    }
    rows_group(cells->probes, batch_count, cells->probe_count, cells->count, cells->visitors.starts,
               cells->visitors.ids);
    for (size_t v = 0; v < cells->visitors.starts[cells->count]; v++) {
        cells->visitors.ids[v] += (uint32_t)cells->batch_first;
    }
    return true;
}

static bool search_cell(struct cells *cells, size_t cell, struct error *error)
{
    const struct by_cell *members = &cells->members, *visitors = &cells->visitors;
    size_t visitors_end = visitors->starts[cell + 1], members_end = members->starts[cell + 1];
    if (visitors->starts[cell] == visitors_end) {
        return true;
    }
    for (size_t m = members->starts[cell]; m < members_end; m += BLOCK) {
        struct neighbours_side candidates, queries;
        if (!gather(cells, &cells->right, members->ids + m, rows_least(BLOCK, members_end - m), &candidates,
                    error)) {
            return false;
        }
        for (size_t v = visitors->starts[cell]; v < visitors_end; v += BLOCK) {
            if (!gather(cells, &cells->left, visitors->ids + v, rows_least(BLOCK, visitors_end - v), &queries,
                        error) ||
                !neighbours_search_block(&cells->search, &queries, &candidates, false, error)) {
                return false;
            }
        }
    }
    return true;
}

static bool search_cells(struct cells *cells, struct error *error)
{
    static const char what[] = "searches of cells";
    size_t count = cells->search.count, probe_count = cells->probe_count;
    size_t batch = rows_least(NEIGHBOURS_BATCH, count);
    size_t thread_count = pool_thread_count(cells->search.threads->pool);
    cells->probes = memory_try_array(batch, probe_count * sizeof(uint32_t), what, error);
    cells->probe_scores = memory_try_array(thread_count, probe_count * sizeof(float), what, error);
    cells->visitors.starts = memory_try_array(cells->count + 1, sizeof(size_t), what, error);
    cells->visitors.ids = memory_try_array(batch, probe_count * sizeof(uint32_t), what, error);
    if (cells->probes == NULL || cells->probe_scores == NULL || cells->visitors.starts == NULL ||
        cells->visitors.ids == NULL) {
        return false;
    }
    for (cells->batch_first = 0; cells->batch_first < count; cells->batch_first += batch) {
        if (!probe_cells(cells, rows_least(batch, count - cells->batch_first), error)) {
            return false;
        }
        for (size_t cell = 0; cell < cells->count; cell++) {
            if (!search_cell(cells, cell, error)) {
                return false;
            }
        }
    }
    return true;
}

/* ---- by cells ------------------------------------------------------------------------------------ */

static bool cells_init(struct cells *cells, struct error *error)
{
    static const char what[] = "cells";
    const struct neighbours_search *search = &cells->search;
    cells->present = memory_try_array(search->count, sizeof *cells->present, what, error);
    if (cells->present == NULL) {
        return false;
    }
    for (size_t i = 0; i < search->count; i++) {
        if (isfinite(search->halves[i])) {
            cells->present[cells->present_count++] = (uint32_t)i;
        }
    }
    size_t wanted = cells->request->cell_count;
    wanted = wanted > 0 ? wanted : (size_t)(2.0 * sqrt((double)search->count));
    cells->count = rows_least(wanted, cells->present_count);
    cells->scores = memory_try_array(BLOCK, cells->count * sizeof(float), what, error);
    struct gathered *sides[] = {&cells->left, &cells->right};
    for (size_t i = 0; i < 2; i++) {
        sides[i]->rows = memory_try_array(BLOCK, search->size * sizeof(float), what, error);
        sides[i]->halves = memory_try_array(BLOCK, sizeof(float), what, error);
        if (sides[i]->rows == NULL || sides[i]->halves == NULL) {
            return false;
        }
    }
    return cells->scores != NULL;
}

struct neighbours *neighbours_find_by_cells(const struct dense_threads *threads, const float *rows,
                                            size_t count, size_t size,
                                            const struct neighbours_cells_request *request,
                                            struct neighbours_cells_report *ret_report, struct error *error)
{
    CHECK(request->probe_limit >= 1 && request->recall >= 0.0 && request->recall <= 1.0);
    FINISHED(cells)
    cells = {.search = {.threads = threads, .rows = rows, .count = count, .size = size}, .request = request};
    if (!neighbours_search_init(&cells.search, request->k, error) || !cells_init(&cells, error)) {
        return NULL;
    }
    struct neighbours_cells_report report = {.recall = 1.0};
    if (cells.count > 0 && cells.search.lists->k > 0) {
        struct neighbours_side queries;
        if (!fit_cells(&cells, error) || !sort_into_cells(&cells, error) ||
            !answer_queries(&cells, &queries, error) || !choose_probe_count(&cells, &queries, error) ||
            !search_cells(&cells, error) || !neighbours_sort(&cells.search, error)) {
            return NULL;
        }
        measure_recall(&cells, &report);
    }
    report.cell_count = cells.count;
    report.probe_count = cells.probe_count;
    *ret_report = report;
    return TAKE(cells.search.lists);
}
