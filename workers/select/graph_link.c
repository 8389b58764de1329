/*
 * workers/select/graph_link.c: graph_link of graph.h. Small components (guests) look for the records of a big one (hosts) that are nearest to
 * their centroids: products of blocks in fp32 screen, distances in double decide (rows.h).
 */
#include "workers/select/graph.h"
#include "workers/select/nearest.h"
#include "workers/select/rows.h"

#include "base/check.h"
#include "base/memory.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TASK_COMPONENTS = 16, GUESTS = 256, HOSTS = 1024 };
_Static_assert(HOSTS % ROWS_CHUNK == 0, "a block of hosts is whole chunks");

size_t graph_big_component(size_t count)
{
    return count / 1000 > 20 ? count / 1000 : 20;
}

struct links {
    const struct dense_threads *threads;
    const float *rows; /* [count, size] */
    size_t count, size, big;
    float *halves; /* [count] |x|^2 / 2 of the rows */
    double longest;
    uint32_t *components; /* [count] */
    size_t component_count;
    size_t *firsts;   /* [component_count + 1]: where a component begins in order */
    uint32_t *order;  /* [count] vertices by component, rising */
    float *centroids; /* [component_count, size] */
    float *centroid_halves;
    double longest_centroid;
    uint32_t *bigs; /* [big_count] the big components */
    size_t big_count;
    uint32_t *hosts; /* [component_count] the big component of a small one, or none */
    /* In the places that a component has in order: its nearest hosts and their distances, rising. */
    uint32_t *nearest;    /* [count] */
    double *distances;    /* [count], squared */
    size_t *nearest_kept; /* [component_count] */
    /* Of one block of guests and hosts. */
    float *guest_rows, *host_rows; /* [GUESTS, size], [HOSTS, size] */
    float *products;               /* [GUESTS, HOSTS] */
    float host_halves[HOSTS];      /* INFINITY after host_count */
    uint32_t guests[GUESTS];       /* components */
    const uint32_t *host_order;
    size_t guest_count, host_count;
};

static void links_finish(struct links *links)
{
    free(links->halves);
    free(links->centroid_halves);
    free(links->components);
    free(links->firsts);
    free(links->order);
    free(links->centroids);
    free(links->bigs);
    free(links->hosts);
    free(links->nearest);
    free(links->distances);
    free(links->nearest_kept);
    free(links->guest_rows);
    free(links->host_rows);
    free(links->products);
}

static bool is_big(const struct links *links, size_t component)
{
    return links->firsts[component + 1] - links->firsts[component] >= links->big;
}

/* order and firsts; *ret_is_needed: there are small components and big ones. */
static bool sort_by_component(struct links *links, const struct graph *graph, bool *ret_is_needed,
                              struct error *error)
{
    links->components = memory_try_array(links->count, sizeof *links->components, "components", error);
    if (links->components == NULL ||
        !graph_components(graph, links->components, &links->component_count, error)) {
        return false;
    }
    links->firsts = memory_try_array(links->component_count + 1, sizeof *links->firsts, "components", error);
    links->order = memory_try_array(links->count, sizeof *links->order, "components", error);
    if (links->firsts == NULL || links->order == NULL) {
        return false;
    }
    rows_group(links->components, links->count, 1, links->component_count, links->firsts, links->order);
    links->bigs = memory_try_array(links->component_count, sizeof *links->bigs, "components", error);
    for (size_t c = 0; links->bigs != NULL && c < links->component_count; c++) {
        if (is_big(links, c)) {
            links->bigs[links->big_count++] = (uint32_t)c;
        }
    }
    *ret_is_needed = links->big_count > 0 && links->big_count < links->component_count;
    return links->bigs != NULL;
}

static bool measure_rows(struct links *links, struct error *error)
{
    links->halves = memory_try_array(rows_padded(links->count), sizeof *links->halves, "lengths", error);
    return links->halves != NULL && rows_measure(links->threads, links->rows, links->count, links->size,
                                                 false, links->halves, &links->longest, error);
}

static bool find_centroids(struct links *links, struct error *error)
{
    size_t size = links->size;
    links->centroids =
        memory_try_array(links->component_count, size * sizeof *links->centroids, "centroids", error);
    links->centroid_halves = memory_try_array(rows_padded(links->component_count),
                                              sizeof *links->centroid_halves, "centroids", error);
    OWNED_MEMORY double *sums = memory_try_array(size, sizeof *sums, "centroids", error);
    if (links->centroids == NULL || links->centroid_halves == NULL || sums == NULL) {
        return false;
    }
    for (size_t component = 0; component < links->component_count; component++) {
        size_t first = links->firsts[component], end = links->firsts[component + 1];
        memset(sums, 0, size * sizeof *sums);
        for (size_t at = first; at < end; at++) {
            const float *row = links->rows + links->order[at] * size;
            for (size_t c = 0; c < size; c++) {
                sums[c] += (double)row[c];
            }
        }
        for (size_t c = 0; c < size; c++) {
            links->centroids[component * size + c] = (float)(sums[c] / (double)(end - first));
        }
    }
    return rows_measure(links->threads, links->centroids, links->component_count, size, false,
                        links->centroid_halves, &links->longest_centroid, error);
}

/* Hosts of TASK_COMPONENTS components. */
static void find_hosts(void *context, size_t index, size_t thread)
{
    (void)thread;
    struct links *links = context;
    size_t end = rows_least((index + 1) * TASK_COMPONENTS, links->component_count);
    for (size_t component = index * TASK_COMPONENTS; component < end; component++) {
        links->hosts[component] = NEIGHBOURS_NONE;
        const float *centroid = links->centroids + component * links->size;
        /* A row of zeros has no edges, so that it is a component by itself. */
        bool is_zero = links->firsts[component + 1] - links->firsts[component] == 1 &&
                       rows_is_zero(2 * (double)links->centroid_halves[component]);
        if (is_zero || is_big(links, component)) {
            continue;
        }
        double nearest = HUGE_VAL;
        for (size_t b = 0; b < links->big_count; b++) {
            const float *other = links->centroids + links->bigs[b] * links->size;
            double square = rows_distance_square(centroid, other, links->size);
            if (square < nearest) {
                nearest = square;
                links->hosts[component] = links->bigs[b];
            }
        }
    }
}

/* One guest against a block of hosts, which pass in the order of records: ties go to the smaller. */
static void meet_hosts(void *context, size_t guest, size_t thread)
{
    (void)thread;
    struct links *links = context;
    const float *products = links->products + guest * HOSTS;
    size_t component = links->guests[guest], first = links->firsts[component];
    size_t most = links->firsts[component + 1] - first, kept = links->nearest_kept[component];
    uint32_t *nearest = links->nearest + first;
    double *squares = links->distances + first;
    float half = links->centroid_halves[component];
    double margin = rows_margin(links->size, sqrt(2 * (double)half), links->longest);
    float bound = rows_bound(half, kept < most ? (double)INFINITY : squares[kept - 1], margin);
    for (size_t chunk = 0; chunk < links->host_count; chunk += ROWS_CHUNK) {
        if (!rows_chunk_passes(products + chunk, links->host_halves + chunk, bound)) {
            continue;
        }
        for (size_t h = chunk; h < chunk + ROWS_CHUNK; h++) {
            if (products[h] - links->host_halves[h] >= bound) {
                double square = rows_distance_square(links->centroids + component * links->size,
                                                     links->host_rows + h * links->size, links->size);
                kept = nearest_insert(nearest, squares, kept, most, links->host_order[h], square);
                bound = rows_bound(half, kept < most ? (double)INFINITY : squares[kept - 1], margin);
            }
        }
    }
    links->nearest_kept[component] = kept;
}

/* The guests gathered against all of `host`. */
static bool seat_guests(struct links *links, size_t host, struct error *error)
{
    size_t size = links->size, step = 0;
    if (!rows_gather(links->threads, links->centroids, size, links->guests, links->guest_count,
                     links->guest_rows, error)) {
        return false;
    }
    for (size_t at = links->firsts[host]; at < links->firsts[host + 1]; at += step) {
        step = rows_least(HOSTS, links->firsts[host + 1] - at);
        links->host_count = step;
        links->host_order = links->order + at;
        for (size_t h = 0; h < HOSTS; h++) {
            links->host_halves[h] = h < step ? links->halves[links->host_order[h]] : INFINITY;
        }
        if (!rows_gather(links->threads, links->rows, size, links->host_order, step, links->host_rows,
                         error) ||
            !rows_multiply(links->threads, size, links->guest_rows, links->guest_count, links->host_rows,
                           step, links->products, HOSTS, error) ||
            !pool_run(links->threads->pool, links->guest_count, meet_hosts, links, links->threads->cancel,
                      error)) {
            return false;
        }
    }
    links->guest_count = 0;
    return true;
}

static bool prepare_search(struct links *links, struct error *error)
{
    size_t components = links->component_count, count = links->count, size = links->size;
    links->hosts = memory_try_array(components, sizeof *links->hosts, "links", error);
    links->nearest = memory_try_array(count, sizeof *links->nearest, "links", error);
    links->distances = memory_try_array(count, sizeof *links->distances, "links", error);
    links->nearest_kept = memory_try_array(components, sizeof *links->nearest_kept, "links", error);
    links->guest_rows = memory_try_array(GUESTS, size * sizeof *links->guest_rows, "links", error);
    links->host_rows = memory_try_array(HOSTS, size * sizeof *links->host_rows, "links", error);
    links->products = memory_try_array(GUESTS, HOSTS * sizeof *links->products, "links", error);
    return links->hosts != NULL && links->nearest != NULL && links->distances != NULL &&
           links->nearest_kept != NULL && links->guest_rows != NULL && links->host_rows != NULL &&
           links->products != NULL;
}

/* nearest, of all small components. */
static bool search_hosts(struct links *links, size_t *ret_linked, struct error *error)
{
    if (!prepare_search(links, error) || !find_centroids(links, error) ||
        !pool_run(links->threads->pool, (links->component_count + TASK_COMPONENTS - 1) / TASK_COMPONENTS,
                  find_hosts, links, links->threads->cancel, error)) {
        return false;
    }
    size_t linked = 0;
    for (size_t b = 0; b < links->big_count; b++) {
        for (size_t c = 0; c < links->component_count; c++) {
            if (links->hosts[c] == links->bigs[b]) {
                linked++;
                links->guests[links->guest_count++] = (uint32_t)c;
            }
            if (links->guest_count == GUESTS && !seat_guests(links, links->bigs[b], error)) {
                return false;
            }
        }
        if (links->guest_count > 0 && !seat_guests(links, links->bigs[b], error)) {
            return false;
        }
    }
    *ret_linked = linked;
    return true;
}

/* Into row i, whose edges end at *end, keeping targets rising. */
static void insert_edge(struct graph *graph, size_t i, size_t *end, uint32_t target, double weight)
{
    size_t at = (*end)++;
    for (; at > graph->starts[i] && graph->targets[at - 1] > target; at--) {
        graph->targets[at] = graph->targets[at - 1];
        graph->weights[at] = graph->weights[at - 1];
    }
    graph->targets[at] = target;
    graph->weights[at] = weight;
}

/* All of a record's edges together; 1 where it has none. */
static double weight_of_link(const struct graph *graph, size_t i)
{
    double sum = 0;
    for (size_t e = graph->starts[i]; e < graph->starts[i + 1]; e++) {
        sum += graph->weights[e];
    }
    return sum > 0 ? sum : 1;
}

/* The record that each is linked to, or none. */
static uint32_t *list_ends(const struct links *links, struct error *error)
{
    uint32_t *ends = memory_try_array(links->count, sizeof *ends, "links", error);
    for (size_t c = 0; ends != NULL && c < links->component_count; c++) {
        for (size_t at = links->firsts[c]; at < links->firsts[c + 1]; at++) {
            ends[links->order[at]] =
                links->hosts[c] == NEIGHBOURS_NONE ? NEIGHBOURS_NONE : links->nearest[at];
        }
    }
    return ends;
}

static bool add_links(struct graph *graph, const uint32_t *ends, struct error *error)
{
    size_t count = graph->count, links = 0;
    for (size_t i = 0; i < count; i++) {
        links += ends[i] != NEIGHBOURS_NONE ? 1 : 0;
    }
    OWNED(graph) wider = memory_create(1, sizeof *wider);
    size_t edges = graph->starts[count] + 2 * links;
    wider->starts = memory_try_array(count + 1, sizeof *wider->starts, "rows of a graph", error);
    wider->targets = memory_try_array(edges, sizeof *wider->targets, "edges of a graph", error);
    wider->weights = memory_try_array(edges, sizeof *wider->weights, "edges of a graph", error);
    OWNED_MEMORY size_t *after = memory_try_array(count, sizeof *after, "rows of a graph", error);
    if (wider->starts == NULL || wider->targets == NULL || wider->weights == NULL || after == NULL) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (ends[i] != NEIGHBOURS_NONE) {
            wider->starts[i + 1]++;
            wider->starts[ends[i] + 1]++;
        }
    }
    for (size_t i = 0; i < count; i++) {
        size_t first = graph->starts[i], width = graph->starts[i + 1] - first;
        wider->starts[i + 1] += wider->starts[i] + width;
        memcpy(wider->targets + wider->starts[i], graph->targets + first, width * sizeof *wider->targets);
        memcpy(wider->weights + wider->starts[i], graph->weights + first, width * sizeof *wider->weights);
        after[i] = wider->starts[i] + width;
    }
    for (size_t i = 0; i < count; i++) {
        if (ends[i] != NEIGHBOURS_NONE) {
            double weight = weight_of_link(graph, i);
            insert_edge(wider, i, &after[i], ends[i], weight);
            insert_edge(wider, ends[i], &after[ends[i]], (uint32_t)i, weight);
        }
    }
    struct graph before = *graph;
    graph->starts = wider->starts;
    graph->targets = wider->targets;
    graph->weights = wider->weights;
    wider->starts = before.starts;
    wider->targets = before.targets;
    wider->weights = before.weights;
    return true;
}

bool graph_link(struct graph *graph, const struct dense_threads *threads, const float *rows, size_t size,
                size_t big, size_t *ret_linked, struct error *error)
{
    CHECK(graph->degrees == NULL);
    FINISHED(links)
    links = {.threads = threads, .rows = rows, .count = graph->count, .size = size, .big = big};
    bool is_needed = false;
    if (!measure_rows(&links, error) || !sort_by_component(&links, graph, &is_needed, error)) {
        return false;
    }
    size_t linked = 0;
    if (is_needed) {
        if (!search_hosts(&links, &linked, error)) {
            return false;
        }
        OWNED_MEMORY uint32_t *ends = list_ends(&links, error);
        if (ends == NULL || !add_links(graph, ends, error)) {
            return false;
        }
    }
    *ret_linked = linked;
    return true;
}
