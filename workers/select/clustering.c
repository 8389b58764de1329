/* workers/select/clustering.c: see clustering.h. */
#include "workers/select/clustering.h"

#include "base/check.h"
#include "base/memory.h"
#include "workers/select/kmeans.h"
#include "workers/select/labels.h"
#include "workers/select/landmarks.h"
#include "workers/select/ranking.h"
#include "workers/select/rows.h"
#include <string.h>

enum {
    KMEANS_ROUNDS = 100,
    KMEANS_RESTARTS = 10,
    LANDMARK_ROUNDS = 20,
    LANDMARK_ROWS = 64,
    MOST_PROBES = 256
};

const char *const clustering_form_names[] = {"qr", "kmeans", NULL};
const char *const clustering_spectrum_names[] = {"graph", "landmarks", NULL};

struct clustering_request clustering_request_of(const struct select_run *run)
{
    return (struct clustering_request){
        .rows = run->records->embeddings,
        .count = run->records->count,
        .size = run->records->embedding_size,
        .neighbour_count = select_count(run, "neighbours"),
        .exact_limit = CLUSTERING_EXACT_LIMIT,
        .is_by_landmarks = strcmp(select_text(run, "spectrum"), "landmarks") == 0,
        .alpha = select_number(run, "alpha"),
        .cluster_count = select_count(run, "clusters"),
        .form = strcmp(select_text(run, "labels"), "kmeans") == 0 ? CLUSTERING_KMEANS : CLUSTERING_QR,
        .diffusion_time = select_number(run, "diffusion_time"),
        .most_products = SPECTRUM_MOST_PRODUCTS,
        .seed = run->seed,
    };
}

void clustering_destroy(struct clustering *clustering)
{
    if (clustering == NULL) {
        return;
    }
    free(clustering->labels);
    neighbours_destroy(clustering->neighbours);
    json_decref(clustering->report);
    spectrum_finish(&clustering->spectrum);
    free(clustering->degrees);
    free(clustering->is_zero);
    free(clustering);
}

static void note(struct clustering *clustering, const char *text)
{
    json_t *notes = json_object_get(clustering->report, "notes");
    CHECK(json_array_append_new(notes, json_string(text)) == 0);
}

/* ---- neighbours and spectrum --------------------------------------------------------------------- */

static bool find_neighbours(struct clustering *clustering, const struct dense_threads *threads,
                            struct error *error)
{
    const struct clustering_request *request = &clustering->request;
    struct neighbours_cells_report cells = {.recall = 1};
    bool is_exact = request->count <= request->exact_limit;
    if (is_exact) {
        clustering->neighbours = neighbours_find_exact(threads, request->rows, request->count, request->size,
                                                       request->neighbour_count, error);
    } else {
        const struct neighbours_cells_request by_cells = {.k = request->neighbour_count,
                                                          .recall = CLUSTERING_RECALL,
                                                          .probe_limit = MOST_PROBES,
                                                          .seed = request->seed};
        clustering->neighbours = neighbours_find_by_cells(threads, request->rows, request->count,
                                                          request->size, &by_cells, &cells, error);
    }
    if (clustering->neighbours == NULL) {
        return false;
    }
    json_t *report = json_object();
    json_put_i64(report, "count", (int64_t)clustering->neighbours->k);
    json_put_text(report, "search", is_exact ? "exact" : "cells");
    json_put_double(report, "recall", cells.recall);
    if (!is_exact) {
        json_put_i64(report, "cells", (int64_t)cells.cell_count);
        json_put_i64(report, "cells_searched", (int64_t)cells.probe_count);
        json_put_i64(report, "recall_records", (int64_t)cells.query_count);
    }
    json_put(clustering->report, "neighbours", report);
    if (cells.recall < CLUSTERING_LEAST_RECALL) {
        note(clustering, "The search found too few of the true neighbours: clusters may be torn.");
    }
    return true;
}

/* How many pairs: for all numbers of clusters that the gap may choose or that are asked for, and two more for the report. */
static size_t wanted_pairs(const struct clustering_request *request)
{
    size_t most =
        SPECTRUM_RULE.most > request->cluster_count ? SPECTRUM_RULE.most : request->cluster_count + 2;
    return rows_least(most + 1, request->count);
}

uint64_t clustering_bytes(const json_t *parameters, size_t records)
{
    const struct clustering_request request = {
        .count = records,
        .cluster_count = (size_t)json_integer_value(json_object_get(parameters, "clusters"))};
    uint64_t n = records, pairs = wanted_pairs(&request);
    uint64_t k = (uint64_t)json_integer_value(json_object_get(parameters, "neighbours"));
    uint64_t few = n < SPECTRUM_DENSE_LIMIT ? n : SPECTRUM_DENSE_LIMIT;
    uint64_t all = 8 * n * n, block = (uint64_t)32 << 20; /* of products */
    uint64_t lists = 8 * n * k + 24 * n + (all < block ? all : block);
    uint64_t graph = 24 * n * k + 40 * n;
    uint64_t solver = 24 * n * (pairs + 16) + 8 * n * pairs; /* the iteration, and what it leaves */
    uint64_t dense = 32 * few * few;
    uint64_t stand = n < CLUSTERING_LANDMARK_LIMIT ? n : CLUSTERING_LANDMARK_LIMIT;
    uint64_t landmarks = 12 * n * LANDMARKS_NEAREST + 24 * stand * stand;
    solver = solver > dense ? solver : dense;
    return lists + graph + (solver > landmarks ? solver : landmarks);
}

static void report_spectrum(struct clustering *clustering, const char *solver)
{
    const struct spectrum *spectrum = &clustering->spectrum;
    json_t *report = json_object(), *values = json_array();
    for (size_t l = 0; l < spectrum->pairs; l++) {
        CHECK(json_array_append_new(values, json_real(spectrum->values[l])) == 0);
    }
    json_put_text(report, "solver", solver);
    json_put_i64(report, "products", (int64_t)spectrum->products);
    json_put_double(report, "largest_residual", spectrum->largest_residual);
    json_put(report, "eigenvalues", values);
    json_put(clustering->report, "spectrum", report);
}

/* Whether all rows but those of zeros coincide. */
static bool are_all_alike(const struct clustering *clustering)
{
    const struct clustering_request *request = &clustering->request;
    const float *first = NULL;
    for (size_t i = 0; i < request->count; i++) {
        const float *row = request->rows + i * request->size;
        if (clustering->is_zero[i]) {
            continue;
        }
        first = first != NULL ? first : row;
        if (rows_distance_square(first, row, request->size) > 0) {
            return false;
        }
    }
    return true;
}

/* The graph's spectrum; without a scale there is none. *ret_is_one: all coincide. */
static bool find_by_graph(struct clustering *clustering, const struct dense_threads *threads,
                          bool *ret_is_one, struct error *error)
{
    const struct clustering_request *request = &clustering->request;
    OWNED(graph) graph = graph_create(threads, clustering->neighbours, GRAPH_SCALE_RANK, error);
    if (graph == NULL) {
        return false;
    }
    bool has_scale = graph->largest_scale > 0;
    *ret_is_one = !has_scale && are_all_alike(clustering);
    OWNED_MEMORY uint32_t *components =
        memory_try_array(request->count, sizeof *components, "components", error);
    size_t component_count = 0, linked = 0;
    if (components == NULL || !graph_components(graph, components, &component_count, error) ||
        (has_scale && !graph_link(graph, threads, request->rows, request->size,
                                  graph_big_component(request->count), &linked, error))) {
        return false;
    }
    json_t *report = json_object();
    json_put_i64(report, "edges", (int64_t)(graph->starts[graph->count] / 2));
    json_put_i64(report, "components", (int64_t)component_count);
    json_put_i64(report, "components_linked", (int64_t)linked);
    json_put_double(report, "alpha", request->alpha);
    json_put(clustering->report, "graph", report);
    if (!has_scale) {
        if (!*ret_is_one) {
            note(clustering,
                 "Every record has copies as its nearest neighbours, so the graph has no scale: these "
                 "eigenvectors are of the landmark form.");
        }
        return true;
    }
    const struct spectrum_request wanted = {.pairs = wanted_pairs(request),
                                            .dense_limit = SPECTRUM_DENSE_LIMIT,
                                            .tolerance = SPECTRUM_TOLERANCE,
                                            .most_products = request->most_products,
                                            .seed = request->seed};
    if (!graph_normalise(graph, threads, request->alpha, error) ||
        !spectrum_find(graph, threads, &wanted, &clustering->spectrum, error)) {
        return false;
    }
    if (clustering->spectrum.has_converged) {
        clustering->degrees = TAKE(graph->degrees);
        report_spectrum(clustering, clustering->spectrum.products > 0 ? "iteration" : "dense");
    } else {
        note(clustering, "The eigenvectors of the graph did not converge: these are of the landmark form.");
    }
    return true;
}

static bool find_by_landmarks(struct clustering *clustering, const struct dense_threads *threads,
                              struct error *error)
{
    const struct clustering_request *request = &clustering->request;
    size_t pairs = wanted_pairs(request);
    size_t fourth = rows_least(CLUSTERING_LANDMARK_LIMIT, request->count / 4);
    size_t landmark_count = fourth > pairs ? fourth : pairs;
    const struct kmeans_request fit = {.form = KMEANS_COSINE,
                                       .centroid_count = landmark_count,
                                       .iteration_limit = LANDMARK_ROUNDS,
                                       .restart_count = 1,
                                       .sample_count = LANDMARK_ROWS * landmark_count,
                                       .seed = request->seed};
    OWNED(kmeans) kmeans = kmeans_fit(threads, request->rows, request->count, request->size, &fit, error);
    FINISHED(landmarks) landmarks = {0};
    if (kmeans == NULL ||
        !landmarks_weigh(threads, request->rows, request->count, request->size, kmeans->centroids,
                         kmeans->centroid_count, LANDMARKS_NEAREST, &landmarks, error) ||
        !landmarks_find_spectrum(&landmarks, threads, pairs, &clustering->spectrum, error)) {
        return false;
    }
    report_spectrum(clustering, "landmarks");
    json_put_i64(json_object_get(clustering->report, "spectrum"), "landmarks",
                 (int64_t)kmeans->centroid_count);
    return true;
}

/* Neighbours and eigenvectors, as far as they are needed. *is_one: there are no two records that differ; it may turn true. */
static bool find_spectrum(struct clustering *clustering, const struct dense_threads *threads, bool *is_one,
                          struct error *error)
{
    const struct clustering_request *request = &clustering->request;
    bool has_graph = !*is_one && !request->is_by_landmarks;
    if ((has_graph || request->keeps_neighbours) && request->count > 1 &&
        !find_neighbours(clustering, threads, error)) {
        return false;
    }
    if (has_graph && !find_by_graph(clustering, threads, is_one, error)) {
        return false;
    }
    if (!*is_one && !clustering->spectrum.has_converged) {
        spectrum_finish(&clustering->spectrum);
        clustering->spectrum = (struct spectrum){0};
        if (!find_by_landmarks(clustering, threads, error)) {
            return false;
        }
    }
    if (!request->keeps_neighbours) {
        neighbours_destroy(TAKE(clustering->neighbours));
    }
    return true;
}

/* ---- labels -------------------------------------------------------------------------------------- */

/* Numbers by falling size, ties by the first record; ROWS_NO_GROUP becomes the last. labels: below wanted. */
static bool renumber(uint32_t *labels, size_t count, size_t wanted, size_t *ret_count, struct error *error)
{
    OWNED_MEMORY double *sizes = memory_try_array(wanted, sizeof *sizes, "sizes of clusters", error);
    OWNED_MEMORY uint32_t *firsts = memory_try_array(wanted, sizeof *firsts, "clusters", error);
    OWNED_MEMORY uint32_t *numbers = memory_try_array(wanted, sizeof *numbers, "clusters", error);
    OWNED_MEMORY double *met_sizes = memory_try_array(wanted, sizeof *met_sizes, "sizes of clusters", error);
    OWNED_MEMORY size_t *order = memory_try_array(wanted, sizeof *order, "clusters", error);
    if (sizes == NULL || firsts == NULL || numbers == NULL || met_sizes == NULL || order == NULL) {
        return false;
    }
    size_t met = 0, left_out = 0;
    for (size_t i = 0; i < count; i++) {
        if (labels[i] == ROWS_NO_GROUP) {
            left_out++;
            continue;
        }
        if (!(sizes[labels[i]] > 0)) {
            firsts[met++] = labels[i];
        }
        sizes[labels[i]] += 1;
    }
    for (size_t k = 0; k < met; k++) {
        met_sizes[k] = sizes[firsts[k]];
    }
    size_t ranked = 0;
    if (!ranking_order(met_sizes, met, RANKING_FALLING, RANKING_NAN_ERROR, met, order, &ranked, error)) {
        return false;
    }
    for (size_t k = 0; k < met; k++) {
        numbers[firsts[order[k]]] = (uint32_t)k;
    }
    for (size_t i = 0; i < count; i++) {
        labels[i] = labels[i] == ROWS_NO_GROUP ? (uint32_t)met : numbers[labels[i]];
    }
    *ret_count = met + (left_out > 0 ? 1 : 0);
    return true;
}

static bool label_by_kmeans(const struct clustering *clustering, const struct dense_threads *threads,
                            size_t wanted, uint32_t *ret_labels, struct error *error)
{
    size_t count = clustering->request.count, size = wanted - 1;
    OWNED_MEMORY float *coordinates =
        memory_try_array(count, size * sizeof *coordinates, "diffusion coordinates", error);
    if (coordinates == NULL) {
        return false;
    }
    spectrum_coordinates(&clustering->spectrum, clustering->degrees, size, SPECTRUM_DIFFUSION,
                         clustering->request.diffusion_time, coordinates);
    const struct kmeans_request fit = {.form = KMEANS_EUCLIDEAN,
                                       .centroid_count = wanted,
                                       .iteration_limit = KMEANS_ROUNDS,
                                       .restart_count = KMEANS_RESTARTS,
                                       .seed = clustering->request.seed};
    OWNED(kmeans) kmeans = kmeans_fit(threads, coordinates, count, size, &fit, error);
    return kmeans != NULL && kmeans_assign(threads, KMEANS_EUCLIDEAN, coordinates, count, size,
                                           kmeans->centroids, wanted, ret_labels, NULL, error);
}

size_t clustering_most(const struct clustering *clustering)
{
    return clustering->spectrum.has_converged ? clustering->spectrum.pairs : 0;
}

bool clustering_label(const struct clustering *clustering, const struct dense_threads *threads, size_t wanted,
                      uint32_t *ret_labels, size_t *ret_count, struct error *error)
{
    const struct spectrum *spectrum = &clustering->spectrum;
    CHECK(wanted >= 1 && wanted <= clustering_most(clustering));
    bool is_done = wanted > 1 && clustering->request.form == CLUSTERING_KMEANS
                       ? label_by_kmeans(clustering, threads, wanted, ret_labels, error)
                       : labels_from_vectors(threads, spectrum->count, wanted, spectrum->vectors,
                                             spectrum->pairs, ret_labels, error);
    if (!is_done) {
        return false;
    }
    for (size_t i = 0; i < spectrum->count; i++) {
        ret_labels[i] = clustering->is_zero[i] ? ROWS_NO_GROUP : ret_labels[i];
    }
    return renumber(ret_labels, spectrum->count, wanted, ret_count, error);
}

/* ---- all of it ----------------------------------------------------------------------------------- */

/* How many clusters, and how that was decided. */
static size_t choose_count(const struct clustering *clustering, size_t nonzero, const char **ret_chosen_by)
{
    const struct spectrum *spectrum = &clustering->spectrum;
    const struct spectrum_rule rule = SPECTRUM_RULE;
    size_t most = rows_least(clustering_most(clustering), nonzero),
           wanted = clustering->request.cluster_count;
    if (wanted > 0) {
        *ret_chosen_by = "request";
        return rows_least(wanted, most);
    }
    size_t count = spectrum_cluster_count(spectrum->values, spectrum->pairs, &rule);
    bool has_gap =
        count < spectrum->pairs && spectrum->values[count - 1] - spectrum->values[count] >= rule.least_gap;
    *ret_chosen_by = has_gap ? "eigengap" : "no_gap";
    return rows_least(count, most);
}

static bool make_labels(struct clustering *clustering, const struct dense_threads *threads, size_t nonzero,
                        bool is_one, struct error *error)
{
    const struct clustering_request *request = &clustering->request;
    const char *chosen_by = "one_record_or_all_alike";
    size_t wanted = 1;
    if (is_one) {
        for (size_t i = 0; i < request->count; i++) {
            clustering->labels[i] = clustering->is_zero[i] ? ROWS_NO_GROUP : 0;
        }
        if (!renumber(clustering->labels, request->count, 1, &clustering->cluster_count, error)) {
            return false;
        }
    } else {
        wanted = choose_count(clustering, nonzero, &chosen_by);
        if (!clustering_label(clustering, threads, wanted, clustering->labels, &clustering->cluster_count,
                              error)) {
            return false;
        }
    }
    clustering->wanted_count = wanted;
    json_t *report = json_object();
    const double *values = clustering->spectrum.values;
    json_put_i64(report, "count", (int64_t)clustering->cluster_count);
    json_put_i64(report, "wanted", (int64_t)wanted);
    json_put_text(report, "chosen_by", chosen_by);
    json_put_text(report, "labels", clustering_form_names[request->form]);
    if (!is_one && wanted < clustering->spectrum.pairs) {
        json_put_double(report, "gap", values[wanted - 1] - values[wanted]);
    }
    json_put(clustering->report, "clusters", report);
    return true;
}

/* Zeros are found, and what is no row is refused. */
static bool find_zeros(struct clustering *clustering, const struct dense_threads *threads,
                       size_t *ret_nonzero, struct error *error)
{
    const struct clustering_request *request = &clustering->request;
    OWNED_MEMORY double *squares =
        memory_try_array(request->count, sizeof *squares, "lengths of rows", error);
    if (squares == NULL ||
        !rows_measure_squares(threads, request->rows, request->count, request->size, squares, error)) {
        return false;
    }
    *ret_nonzero = 0;
    for (size_t i = 0; i < request->count; i++) {
        clustering->is_zero[i] = rows_is_zero(squares[i]);
        *ret_nonzero += clustering->is_zero[i] ? 0 : 1;
    }
    json_put_i64(clustering->report, "records", (int64_t)request->count);
    json_put_i64(clustering->report, "zero_rows", (int64_t)(request->count - *ret_nonzero));
    return true;
}

struct clustering *clustering_create(const struct dense_threads *threads,
                                     const struct clustering_request *request, struct error *error)
{
    CHECK(request->neighbour_count > 0);
    OWNED(clustering) clustering = memory_create(1, sizeof *clustering);
    clustering->request = *request;
    clustering->report = json_object();
    json_put(clustering->report, "notes", json_array());
    clustering->labels = memory_try_array(request->count, sizeof *clustering->labels, "labels", error);
    clustering->is_zero =
        memory_try_array(request->count, sizeof *clustering->is_zero, "rows of zeros", error);
    size_t nonzero = 0;
    if (clustering->labels == NULL || clustering->is_zero == NULL ||
        !find_zeros(clustering, threads, &nonzero, error)) {
        return NULL;
    }
    bool is_one = nonzero < 2;
    if (!find_spectrum(clustering, threads, &is_one, error) ||
        !make_labels(clustering, threads, nonzero, is_one, error)) {
        return NULL;
    }
    return TAKE(clustering);
}

bool clustering_hand_over(struct clustering *clustering, const struct dense_threads *threads,
                          struct selection *selection, struct error *error)
{
    const struct clustering_request *request = &clustering->request;
    selection->map = memory_try_array(request->count, 2 * sizeof *selection->map, "the picture", error);
    if (selection->map == NULL ||
        !clustering_map(threads, request->rows, request->count, request->size, clustering->labels,
                        clustering->cluster_count, selection->map, error)) {
        return false;
    }
    selection->labels = TAKE(clustering->labels);
    selection->cluster_count = clustering->cluster_count;
    json_put(selection->details, "clustering", TAKE(clustering->report));
    return true;
}
