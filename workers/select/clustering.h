/*
 * workers/select/clustering.h: records into clusters by what they ask, from embeddings to labels (data_selection 1.6 steps 1-7, 1.6b), and all
 * that a report says of it.
 *
 *     neighbours   the nearest few of each record: exact up to exact_limit records, by cells above (neighbours.h)
 *     graph        self-tuning weights; small components are linked, density is taken out by alpha (graph.h)
 *     spectrum     the leading eigenvectors (spectrum.h). Where the solver does not converge, where the graph has no scale (copies alone are
 *                  neighbours), and where that is asked for, those of the landmark form (landmarks.h), and the report says so
 *     count        as many clusters as the widest gap of the eigenvalues says (SPECTRUM_RULE), or as are asked for
 *     labels       pivoted QR (labels.h), or k-means of the diffusion coordinates
 *
 * Clusters are numbered by falling size, ties by their first record; none is empty, so there may be fewer than were asked for. Rows of zeros are
 * nobody's neighbours: they are one cluster, the last. Where all other rows coincide, or there is but one, these are one cluster.
 *
 * Threads: one call at a time drives a pool. Errors: CANCELLED, OUT_OF_MEMORY, NUMERIC and INVALID_ARGUMENT naming a record whose row is not finite
 * or not of length 1 or 0.
 */
#ifndef WORKERS_SELECT_CLUSTERING_H
#define WORKERS_SELECT_CLUSTERING_H

#include "base/cleanup.h"
#include "base/json.h"
#include "base/param.h"
#include "workers/select/neighbours.h"
#include "workers/select/select.h"
#include "workers/select/spectrum.h"
#include <stdint.h>

#define CLUSTERING_EXACT_LIMIT    100000 /* records; of 384 numbers each a minute or two */
#define CLUSTERING_MOST           256    /* clusters that may be asked for */
#define CLUSTERING_LANDMARK_LIMIT 2000
/* Of a search by cells: the recall that it aims at, and that below which the report warns. */
#define CLUSTERING_RECALL         0.97
#define CLUSTERING_LEAST_RECALL   0.95

enum clustering_form { CLUSTERING_QR, CLUSTERING_KMEANS };

/* rows: borrowed, as long as the clustering. */
struct clustering_request {
    const float *rows; /* [count, size], each of length 1 or 0 */
    size_t count, size;
    size_t neighbour_count; /* >= 1 */
    size_t exact_limit;     /* CLUSTERING_EXACT_LIMIT */
    bool keeps_neighbours;
    bool is_by_landmarks;
    double alpha;
    size_t cluster_count; /* 0: by the eigengap */
    enum clustering_form form;
    double diffusion_time; /* k-means: coordinates weigh eigenvalue^time */
    size_t most_products;  /* SPECTRUM_MOST_PRODUCTS */
    uint64_t seed;
};

/* What selectors that cluster let a request say. */
extern const char *const clustering_form_names[], *const clustering_spectrum_names[];
#define CLUSTERING_PARAMS                                                                                    \
    {                                                                                                        \
        .name = "clusters",                                                                                  \
        .type = PARAM_INTEGER,                                                                               \
        .max = CLUSTERING_MOST,                                                                              \
        .default_json = "0",                                                                                 \
        .help = "How many clusters; 0: as many as the widest gap of the eigenvalues says, 4 to 32.",         \
    },                                                                                                       \
        {                                                                                                    \
            .name = "labels",                                                                                \
            .type = PARAM_ENUM,                                                                              \
            .values = clustering_form_names,                                                                 \
            .default_json = "\"qr\"",                                                                        \
            .help = "How eigenvectors become clusters: pivoted QR, or k-means of diffusion coordinates.",    \
        },                                                                                                   \
        {.name = "spectrum",                                                                                 \
         .type = PARAM_ENUM,                                                                                 \
         .values = clustering_spectrum_names,                                                                \
         .default_json = "\"graph\"",                                                                        \
         .help = "Eigenvectors of the graph of nearest neighbours, or through landmarks: faster, coarser."}, \
        {                                                                                                    \
            .name = "neighbours",                                                                            \
            .type = PARAM_INTEGER,                                                                           \
            .min = 2,                                                                                        \
            .max = 128,                                                                                      \
            .default_json = "32",                                                                            \
            .help = "Nearest neighbours that the graph joins a record to.",                                  \
        },                                                                                                   \
        {                                                                                                    \
            .name = "alpha",                                                                                 \
            .type = PARAM_NUMBER,                                                                            \
            .max = 1,                                                                                        \
            .default_json = "1.0",                                                                           \
            .help = "How much of the data's density the graph takes out: 0 nothing, 1 all.",                 \
        },                                                                                                   \
    {                                                                                                        \
        .name = "diffusion_time", .type = PARAM_NUMBER, .max = 64, .default_json = "1.0",                    \
        .help = "k-means: a coordinate is weighed by its eigenvalue to this power.",                         \
    }
/* The request of a run that has these parameters. */
struct clustering_request clustering_request_of(const struct select_run *run);

/* What clustering_create takes at most beside the rows, by parameters as CLUSTERING_PARAMS has them: neighbours, graph, and the dearest solver. */
uint64_t clustering_bytes(const json_t *parameters, size_t records);

struct clustering {
    struct clustering_request request;
    size_t wanted_count;  /* of the spectrum; cluster_count is one more by zeros, or less by empty ones */
    size_t cluster_count; /* 0 of no records */
    uint32_t *labels;     /* owned, [count] */
    struct neighbours *neighbours; /* owned; NULL unless kept, and of fewer than two records */
    json_t *report;                /* owned, an object */
    /* For labels of another number of clusters: */
    struct spectrum spectrum; /* owned; not converged: one cluster but for zeros */
    double *degrees;          /* owned, [count], of the graph; NULL: landmarks */
    bool *is_zero;            /* owned, [count]: a row of zeros */
};
struct clustering *clustering_create(const struct dense_threads *threads,
                                     const struct clustering_request *request, struct error *error) MUST_USE;
void clustering_destroy(struct clustering *clustering);
OWNED_DEFINE(clustering)
/* The largest number of clusters that clustering_label can make, without that of the zeros; 0: none but what there is. */
size_t clustering_most(const struct clustering *clustering);
/* Labels [count] of the same spectrum cut into `wanted` clusters, 1 <= wanted <= clustering_most. *ret_count: how many became. */
bool clustering_label(const struct clustering *clustering, const struct dense_threads *threads, size_t wanted,
                      uint32_t *ret_labels, size_t *ret_count, struct error *error) MUST_USE;

/* What a selection says of its clusters: labels (handed on), their count, the picture, and "clustering" of its details. */
bool clustering_hand_over(struct clustering *clustering, const struct dense_threads *threads,
                          struct selection *selection, struct error *error) MUST_USE;

/* A picture of labelled rows, ret_map [count, 2], in which clusters lie apart: rows less their mean, along the two leading principal directions
 * of the clusters' means, each weighted by its size; of fewer than three clusters, of up to CLUSTERING_MAP_ROWS records evenly spaced. A
 * direction that is not there is 0. Signs are dense_eigen's. */
#define CLUSTERING_MAP_ROWS 256
bool clustering_map(const struct dense_threads *threads, const float *rows, size_t count, size_t size,
                    const uint32_t *labels, size_t cluster_count, float *ret_map,
                    struct error *error) MUST_USE;

#endif
