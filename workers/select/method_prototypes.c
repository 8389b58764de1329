/*
 * workers/select/method_prototypes.c: how far a record is from the centroid of its cluster: the far ones are hard, the near ones typical
 * (prototypes.h).
 */
#include "workers/select/kmeans.h"
#include "workers/select/prototypes.h"
#include "workers/select/select.h"

#include "base/memory.h"
#include <math.h>
#include <string.h>

enum { ROUNDS = 100, RESTARTS = 3, SAMPLE_ROWS = 256 };

static const char *const sides[] = {"hard", "easy", NULL};
static const struct param_spec params[] = {
    {.name = "side",
     .type = PARAM_ENUM,
     .values = sides,
     .default_json = "\"hard\"",
     .help = "Records far from their centroid, where data are plentiful, or near it, where they are scarce."},
    {.name = "centroids",
     .type = PARAM_INTEGER,
     .max = 65536,
     .default_json = "0",
     .help = "How many clusters; 0: the root of the number of records."},
    {.name = "balance_ratio",
     .type = PARAM_NUMBER,
     .max = 1,
     .default_json = "0.5",
     .help = "Share of a cluster's even part that it has before distance alone decides."},
};

/* Labels and distances of k-means. */
static bool find_distances(const struct select_run *run, size_t centroids, uint32_t *ret_labels,
                           float *ret_distances, struct error *error)
{
    const struct select_records *records = run->records;
    const struct kmeans_request request = {.form = KMEANS_COSINE,
                                           .centroid_count = centroids,
                                           .iteration_limit = ROUNDS,
                                           .restart_count = RESTARTS,
                                           .sample_count = SAMPLE_ROWS * centroids,
                                           .seed = run->seed};
    OWNED(kmeans)
    kmeans = kmeans_fit(run->threads, records->embeddings, records->count, records->embedding_size, &request,
                        error);
    return kmeans != NULL && kmeans_assign(run->threads, KMEANS_COSINE, records->embeddings, records->count,
                                           records->embedding_size, kmeans->centroids, centroids, ret_labels,
                                           ret_distances, error);
}

/* Those that the balance and the distance choose, then the rest by distance: a budget of tokens may pay for more than it seemed to. */
static bool order_records(const struct prototypes *prototypes, const double *scores, size_t *order,
                          struct error *error)
{
    size_t count = prototypes->n, ranked = 0, at = prototypes->wanted;
    enum ranking_direction direction = prototypes->side == PROTOTYPES_HARD ? RANKING_FALLING : RANKING_RISING;
    OWNED_MEMORY size_t *all = memory_try_array(count, sizeof *all, "the order of records", error);
    OWNED_MEMORY bool *is_met = memory_try_array(count, sizeof *is_met, "the order of records", error);
    if (all == NULL || is_met == NULL || !prototypes_choose(prototypes, order, error) ||
        !ranking_order(scores, count, direction, RANKING_NAN_ERROR, count, all, &ranked, error)) {
        return false;
    }
    for (size_t i = 0; i < at; i++) {
        is_met[order[i]] = true;
    }
    for (size_t i = 0; i < ranked; i++) {
        if (!is_met[all[i]]) {
            order[at++] = all[i];
        }
    }
    return true;
}

static bool prototypes_select(const struct select_run *run, struct selection *ret_selection,
                              struct error *error)
{
    size_t count = ret_selection->count, centroids = select_count(run, "centroids");
    OWNED_MEMORY uint32_t *labels = memory_try_array(count, sizeof *labels, "labels", error);
    OWNED_MEMORY float *distances = memory_try_array(count, sizeof *distances, "distances", error);
    OWNED_MEMORY size_t *order = memory_try_array(count, sizeof *order, "the order of records", error);
    ret_selection->score_name = "distance";
    if (labels == NULL || distances == NULL || order == NULL) {
        return false;
    }
    if (count == 0) {
        return true;
    }
    centroids = centroids > 0 ? centroids : (size_t)sqrt((double)count);
    centroids = centroids < count ? centroids : count;
    if (!find_distances(run, centroids, labels, distances, error)) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        ret_selection->scores[i] = (double)distances[i];
    }
    bool is_easy = strcmp(select_text(run, "side"), "easy") == 0;
    const struct prototypes prototypes = {.n = count,
                                          .cluster_count = centroids,
                                          .labels = labels,
                                          .distances = distances,
                                          .side = is_easy ? PROTOTYPES_EASY : PROTOTYPES_HARD,
                                          .wanted = selection_wanted(run),
                                          .balance_ratio = select_number(run, "balance_ratio")};
    if (!order_records(&prototypes, ret_selection->scores, order, error)) {
        return false;
    }
    selection_take(ret_selection, run, order, count);
    json_put_i64(ret_selection->details, "centroids", (int64_t)centroids);
    return true;
}

const struct select_method select_method_prototypes = {
    .name = "prototypes",
    .summary = "The records farthest from the centroids of their clusters, or nearest to them.",
    .reference = "Sorscher et al. 2022, Beyond neural scaling laws, arXiv 2206.14486",
    .needs = SELECT_NEED_EMBEDDINGS,
    .params = params,
    .param_count = sizeof params / sizeof params[0],
    .select = prototypes_select,
};
