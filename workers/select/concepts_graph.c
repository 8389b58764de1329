/* workers/select/concepts_graph.c: the graph of concepts.h. */
#include "workers/select/concepts.h"

#include "base/check.h"
#include "base/memory.h"
#include <stdlib.h>

enum { SMALLEST_SLOTS = 1024 };

struct concepts_graph {
    size_t concept_count;
    uint64_t limit_bytes;
    uint64_t *vertices; /* owned: a bit for each concept */
    uint64_t *
        edges; /* owned, [slot_count]: open addressing, smaller << 32 | larger concept, 0 free (no edge is 0: 0 and 0) */
    size_t slot_count; /* a power of two */
    size_t vertex_count, edge_count, unrecorded;
    bool is_full;
};

static uint64_t vertices_words(size_t concept_count)
{
    return ((uint64_t)concept_count + 63) / 64;
}

struct concepts_graph *concepts_graph_create(size_t concept_count, uint64_t limit_bytes, struct error *error)
{
    CHECK(concept_count <= INT32_MAX);
    uint64_t words = vertices_words(concept_count);
    uint64_t bytes = (words + SMALLEST_SLOTS) * sizeof(uint64_t);
    if (bytes > limit_bytes) {
        (void)error_set(error, ERROR_OUT_OF_RANGE,
                        "a graph of %zu concepts needs %llu bytes, more than its limit of %llu",
                        concept_count, (unsigned long long)bytes, (unsigned long long)limit_bytes);
        return NULL;
    }
    OWNED_MEMORY uint64_t *vertices =
        memory_try_array((size_t)words, sizeof *vertices, "concept graph", error);
    OWNED_MEMORY uint64_t *edges = memory_try_array(SMALLEST_SLOTS, sizeof *edges, "concept graph", error);
    if (vertices == NULL || edges == NULL) {
        return NULL;
    }
    struct concepts_graph *graph = memory_create(1, sizeof *graph);
    *graph = (struct concepts_graph){.concept_count = concept_count,
                                     .limit_bytes = limit_bytes,
                                     .vertices = TAKE(vertices),
                                     .edges = TAKE(edges),
                                     .slot_count = SMALLEST_SLOTS};
    return graph;
}

void concepts_graph_destroy(struct concepts_graph *graph)
{
    if (graph != NULL) {
        free(graph->vertices);
        free(graph->edges);
        free(graph);
    }
}

static bool has_vertex(const struct concepts_graph *graph, int32_t concept)
{
    CHECK(concept >= 0 && (size_t) concept < graph->concept_count);
    return (graph->vertices[(uint32_t) concept / 64] >> ((uint32_t) concept % 64) & 1) != 0;
}

static uint64_t edge_of(int32_t a, int32_t b)
{
    return a < b ? (uint64_t)(uint32_t)a << 32 | (uint32_t)b : (uint64_t)(uint32_t)b << 32 | (uint32_t)a;
}

/* The slot of the edge, or the free one where it would go. */
static size_t find_edge(const uint64_t *edges, size_t slot_count, uint64_t edge)
{
    uint64_t hash = edge * UINT64_C(0x9e3779b97f4a7c15);
    hash = (hash ^ hash >> 32) * UINT64_C(0xd6e8feb86659fd93);
    size_t slot = (size_t)(hash ^ hash >> 32) & (slot_count - 1);
    while (edges[slot] != 0 && edges[slot] != edge) {
        slot = (slot + 1) & (slot_count - 1);
    }
    return slot;
}

bool concepts_graph_is_consistent(const struct concepts_graph *graph, const int32_t *concepts, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!has_vertex(graph, concepts[i])) {
            continue;
        }
        for (size_t j = 0; j < i; j++) {
            uint64_t edge = edge_of(concepts[j], concepts[i]);
            if (concepts[j] != concepts[i] && has_vertex(graph, concepts[j]) &&
                graph->edges[find_edge(graph->edges, graph->slot_count, edge)] == 0) {
                return false;
            }
        }
    }
    return true;
}

/* Keeps a quarter of the slots free for `more` edges, or marks the graph as full. */
static bool grow_edges(struct concepts_graph *graph, size_t more, struct error *error)
{
    size_t count = graph->slot_count;
    while ((graph->edge_count + more) > count / 4 * 3) {
        count *= 2;
    }
    if (count == graph->slot_count) {
        return true;
    }
    uint64_t words = vertices_words(graph->concept_count) + graph->slot_count + count;
    if (words > graph->limit_bytes / sizeof(uint64_t)) {
        graph->is_full = true;
        return true;
    }
    uint64_t *edges = memory_try_array(count, sizeof *edges, "edges of the concept graph", error);
    if (edges == NULL) {
        return false;
    }
    for (size_t i = 0; i < graph->slot_count; i++) {
        if (graph->edges[i] != 0) {
            edges[find_edge(edges, count, graph->edges[i])] = graph->edges[i];
        }
    }
    free(graph->edges);
    graph->edges = edges;
    graph->slot_count = count;
    return true;
}

bool concepts_graph_admit(struct concepts_graph *graph, const int32_t *concepts, size_t count,
                          struct error *error)
{
    if (!graph->is_full && !grow_edges(graph, count > 0 ? count * (count - 1) / 2 : 0, error)) {
        return false;
    }
    if (graph->is_full) {
        graph->unrecorded++;
        return true;
    }
    for (size_t i = 0; i < count; i++) {
        if (!has_vertex(graph, concepts[i])) {
            graph->vertices[(uint32_t)concepts[i] / 64] |= UINT64_C(1) << ((uint32_t)concepts[i] % 64);
            graph->vertex_count++;
        }
        for (size_t j = 0; j < i; j++) {
            uint64_t edge = edge_of(concepts[j], concepts[i]);
            size_t slot = find_edge(graph->edges, graph->slot_count, edge);
            if (concepts[j] != concepts[i] && graph->edges[slot] == 0) {
                graph->edges[slot] = edge;
                graph->edge_count++;
            }
        }
    }
    return true;
}

struct concepts_graph_counts concepts_graph_counts(const struct concepts_graph *graph)
{
    uint64_t words = vertices_words(graph->concept_count) + graph->slot_count;
    return (struct concepts_graph_counts){.vertices = graph->vertex_count,
                                          .edges = graph->edge_count,
                                          .unrecorded = graph->unrecorded,
                                          .bytes = words * sizeof(uint64_t)};
}
