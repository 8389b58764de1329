/*
 * bench/clustering.c: how long the clustering of records takes, and the searches that it and other selectors are made of, on made-up
 * embeddings. One line of JSON:
 *
 *     clustering clusters|exact|cells|k_means|k_center [--rows N] [--size N] [--threads N] [--count N] [--probes N] [--write FILE] [--labels FILE]
 *
 * clusters: from rows to labels, as PASER does it. count: neighbours, centroids or centres. --write: the rows as they are measured, float
 * [rows, size], for peers/published_clustering.py. --labels: uint32 [rows] of the clusters. Rows are of length 1: topics (one for 200 rows) and what varies within one live in
 * LATENT dimensions, which a random map takes to `size`, with a little noise in all of these; that is what a sentence
 * encoder's output looks like to a search.
 */
#include "workers/select/clustering.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/rng.h"
#include "workers/select/k_center.h"
#include "workers/select/kmeans.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum { LATENT = 24, TOPIC_ROWS = 200, TASK_ROWS = 64 };

struct bench {
    const char *what, *path, *labels_path; /* where rows, and labels, are written; NULL: nowhere */
    size_t rows, size, threads, count, probes;
    float *values; /* [rows, size] */
    float *map;    /* [LATENT, size] */
};

static bool parse(int argc, char **argv, struct bench *bench)
{
    *bench = (struct bench){.rows = 52000, .size = 384, .threads = 2, .count = 32, .probes = 64};
    bench->what = argc > 1 ? argv[1] : "";
    for (int i = 2; i + 1 < argc; i += 2) {
        size_t value = (size_t)strtoull(argv[i + 1], NULL, 10);
        if (strcmp(argv[i], "--write") == 0) {
            bench->path = argv[i + 1];
        } else if (strcmp(argv[i], "--labels") == 0) {
            bench->labels_path = argv[i + 1];
        } else if (strcmp(argv[i], "--rows") == 0) {
            bench->rows = value;
        } else if (strcmp(argv[i], "--size") == 0) {
            bench->size = value;
        } else if (strcmp(argv[i], "--threads") == 0) {
            bench->threads = value;
        } else if (strcmp(argv[i], "--count") == 0) {
            bench->count = value;
        } else if (strcmp(argv[i], "--probes") == 0) {
            bench->probes = value;
        } else {
            return false;
        }
    }
    return bench->rows > 0 && bench->size > 0 && bench->threads > 0 && bench->probes > 0;
}

/* Roughly normal, of deviation 1. */
static double normal(const struct rng *rng, uint64_t index)
{
    return 2.0 *
           (rng_unit(rng, 3 * index) + rng_unit(rng, 3 * index + 1) + rng_unit(rng, 3 * index + 2) - 1.5);
}

static void fill_task(void *context, size_t index, size_t thread)
{
    (void)thread;
    const struct bench *bench = context;
    struct rng topics = {.seed = 1}, within = {.seed = 2}, noise = {.seed = 3};
    size_t topic_count = bench->rows / TOPIC_ROWS + 1, end = (index + 1) * TASK_ROWS;
    for (size_t r = index * TASK_ROWS; r < end && r < bench->rows; r++) {
        float *row = bench->values + r * bench->size;
        size_t topic = (size_t)rng_below(&(struct rng){.seed = 4}, r, topic_count);
        for (size_t l = 0; l < LATENT; l++) {
            double value = normal(&topics, topic * LATENT + l) + normal(&within, r * LATENT + l);
            for (size_t c = 0; c < bench->size; c++) {
                row[c] += (float)value * bench->map[l * bench->size + c];
            }
        }
        double square = 0;
        for (size_t c = 0; c < bench->size; c++) {
            row[c] += (float)(rng_unit(&noise, r * bench->size + c) - 0.5);
            square += (double)row[c] * (double)row[c];
        }
        for (size_t c = 0; c < bench->size; c++) {
            row[c] = (float)((double)row[c] / sqrt(square));
        }
    }
}

static bool fill(struct bench *bench, struct pool *pool, struct error *error)
{
    bench->map = memory_create(LATENT * bench->size, sizeof *bench->map);
    for (size_t i = 0; i < LATENT * bench->size; i++) {
        bench->map[i] = (float)normal(&(struct rng){.seed = 5}, i);
    }
    bench->values = memory_try_array(bench->rows * bench->size, sizeof *bench->values, "rows", error);
    return bench->values != NULL &&
           pool_run(pool, (bench->rows + TASK_ROWS - 1) / TASK_ROWS, fill_task, bench, NULL, error);
}

/* Runs it once; what there is to say goes into `text`. */
static bool run(const struct bench *bench, const struct dense_threads *threads, char *text, size_t text_bytes,
                struct error *error)
{
    text[0] = '\0';
    if (strcmp(bench->what, "clusters") == 0) {
        const struct clustering_request request = {.rows = bench->values,
                                                   .count = bench->rows,
                                                   .size = bench->size,
                                                   .neighbour_count = bench->count,
                                                   .exact_limit = CLUSTERING_EXACT_LIMIT,
                                                   .alpha = 1,
                                                   .form = CLUSTERING_QR,
                                                   .diffusion_time = 1,
                                                   .most_products = SPECTRUM_MOST_PRODUCTS,
                                                   .seed = 1};
        OWNED(clustering) clustering = clustering_create(threads, &request, error);
        if (clustering != NULL) {
            OWNED_MEMORY char *report = json_format(clustering->report, false);
            (void)snprintf(text, text_bytes, ", \"clusters\": %zu, \"report\": %s", clustering->cluster_count,
                           report);
        }
        return clustering != NULL && (bench->labels_path == NULL ||
                                      file_save(bench->labels_path, clustering->labels,
                                                bench->rows * sizeof *clustering->labels, 0644, error));
    }
    if (strcmp(bench->what, "exact") == 0) {
        OWNED(neighbours)
        lists = neighbours_find_exact(threads, bench->values, bench->rows, bench->size, bench->count, error);
        return lists != NULL;
    }
    if (strcmp(bench->what, "cells") == 0) {
        struct neighbours_cells_request request = {
            .k = bench->count, .recall = 0.96, .probe_limit = bench->probes, .seed = 1};
        struct neighbours_cells_report report = {0};
        OWNED(neighbours)
        lists = neighbours_find_by_cells(threads, bench->values, bench->rows, bench->size, &request, &report,
                                         error);
        (void)snprintf(text, text_bytes, ", \"cells\": %zu, \"probes\": %zu, \"recall\": %.4f",
                       report.cell_count, report.probe_count, report.recall);
        return lists != NULL;
    }
    if (strcmp(bench->what, "k_means") == 0) {
        struct kmeans_request request = {
            .centroid_count = bench->count, .iteration_limit = 20, .restart_count = 1, .seed = 1};
        OWNED(kmeans)
        kmeans = kmeans_fit(threads, bench->values, bench->rows, bench->size, &request, error);
        if (kmeans != NULL) {
            (void)snprintf(text, text_bytes, ", \"iterations\": %zu, \"cost\": %.6g", kmeans->iterations,
                           kmeans->cost);
        }
        return kmeans != NULL;
    }
    if (strcmp(bench->what, "k_center") == 0) {
        OWNED_MEMORY uint32_t *order = memory_create(bench->count, sizeof *order);
        double radius = 0;
        bool is_good = k_center_select(threads, bench->values, bench->rows, bench->size, bench->count, order,
                                       &radius, error);
        (void)snprintf(text, text_bytes, ", \"radius\": %.6f", radius);
        return is_good;
    }
    return error_set(error, ERROR_UNKNOWN_VALUE, "no search \"%s\"", bench->what);
}

int main(int argc, char **argv)
{
    struct bench bench;
    if (!parse(argc, argv, &bench)) {
        (void)fprintf(
            stderr,
            "usage: clustering clusters|exact|cells|k_means|k_center [--rows N] [--size N] [--threads N] "
            "[--count N] [--probes N] [--write FILE] [--labels FILE]\n");
        return 2;
    }
    struct error error = {0};
    char text[4096] = "";
    OWNED(pool) pool = pool_create(bench.threads, &error);
    bool is_good =
        pool != NULL && fill(&bench, pool, &error) &&
        (bench.path == NULL ||
         file_save(bench.path, bench.values, bench.rows * bench.size * sizeof *bench.values, 0644, &error));
    int64_t start = clock_boot_ns(&clock_system);
    clock_t cpu_start = clock();
    struct dense_threads threads = {pool, NULL};
    is_good = is_good && run(&bench, &threads, text, sizeof text, &error);
    double seconds = (double)(clock_boot_ns(&clock_system) - start) / 1e9;
    double cpu_seconds = (double)(clock() - cpu_start) / (double)CLOCKS_PER_SEC; /* of all threads */
    struct rusage usage;
    (void)getrusage(RUSAGE_SELF, &usage);
    if (is_good) {
        (void)printf(
            "{\"search\": \"%s\", \"identity\": \"%s\", \"threads\": %zu, \"rows\": %zu, \"size\": %zu, "
            "\"count\": %zu, \"seconds\": %.3f, \"cpu_seconds\": %.3f, \"peak_bytes\": %lld%s}\n",
            bench.what, dense_identity(), bench.threads, bench.rows, bench.size, bench.count, seconds,
            cpu_seconds, (long long)usage.ru_maxrss * 1024, text);
    } else {
        (void)fprintf(stderr, "%s\n", error.message);
    }
    free(bench.values);
    free(bench.map);
    return is_good ? 0 : 1;
}
