/*
 * workers/select/method_gotd.c: the records that would bring the data nearer to given ones by optimal transport (gotd.h, sinkhorn.h).
 *
 * Costs are of every record and target, so that of more than TARGET_LIMIT targets k-means centroids stand for them, weighed by how many they
 * stand for.
 */
#include "workers/select/gotd.h"
#include "workers/select/kmeans.h"
#include "workers/select/select.h"
#include "workers/select/sinkhorn.h"

#include "base/memory.h"
#include <string.h>

enum { TARGET_LIMIT = 2000, ROUNDS = 20, SAMPLE_ROWS = 64, SWEEPS = 2000 };
#define TOLERANCE   1e-4
#define COSTS_BYTES ((uint64_t)2 << 30)

static const char *const sides[] = {"towards", "away", NULL};
static const struct param_spec params[] = {
    SELECT_TARGETS_PARAM,
    {.name = "side",
     .type = PARAM_ENUM,
     .values = sides,
     .default_json = "\"towards\"",
     .help = "Whether the targets are what to become like, or what to move away from."},
    {.name = "epsilon_ratio",
     .type = PARAM_NUMBER,
     .min = 0.001,
     .max = 1,
     .default_json = "0.05",
     .help = "How far transport is blurred, as a share of the median distance."},
};

/* What targets are transported to. */
struct sinks {
    size_t count;
    const float *rows;
    struct kmeans *kmeans; /* owned; NULL: the targets themselves */
    double *weights;       /* owned; NULL: all the same */
};

static void sinks_finish(struct sinks *sinks)
{
    kmeans_destroy(sinks->kmeans);
    free(sinks->weights);
}

static bool sinks_make(const struct select_run *run, struct sinks *sinks, struct error *error)
{
    const struct select_records *targets = run->targets;
    *sinks = (struct sinks){.count = targets->count, .rows = targets->embeddings};
    if (targets->count <= TARGET_LIMIT) {
        return true;
    }
    const struct kmeans_request request = {.form = KMEANS_EUCLIDEAN,
                                           .centroid_count = TARGET_LIMIT,
                                           .iteration_limit = ROUNDS,
                                           .restart_count = 1,
                                           .sample_count = (size_t)SAMPLE_ROWS * TARGET_LIMIT,
                                           .seed = run->seed};
    OWNED_MEMORY uint32_t *labels = memory_try_array(targets->count, sizeof *labels, "labels", error);
    sinks->weights = memory_try_array(TARGET_LIMIT, sizeof *sinks->weights, "weights of targets", error);
    if (labels == NULL || sinks->weights == NULL) {
        return false;
    }
    sinks->kmeans = kmeans_fit(run->threads, targets->embeddings, targets->count, targets->embedding_size,
                               &request, error);
    if (sinks->kmeans == NULL ||
        !kmeans_assign(run->threads, KMEANS_EUCLIDEAN, targets->embeddings, targets->count,
                       targets->embedding_size, sinks->kmeans->centroids, TARGET_LIMIT, labels, NULL,
                       error)) {
        return false;
    }
    for (size_t i = 0; i < targets->count; i++) {
        sinks->weights[labels[i]] += 1;
    }
    sinks->count = 0; /* weights are above 0: a centroid that nobody is nearest to goes */
    for (size_t c = 0; c < TARGET_LIMIT; c++) {
        if (sinks->weights[c] > 0) {
            memmove(sinks->kmeans->centroids + sinks->count * targets->embedding_size,
                    sinks->kmeans->centroids + c * targets->embedding_size,
                    targets->embedding_size * sizeof(float));
            sinks->weights[sinks->count++] = sinks->weights[c];
        }
    }
    sinks->rows = sinks->kmeans->centroids;
    return true;
}

static bool gotd_select(const struct select_run *run, struct selection *ret_selection, struct error *error)
{
    const struct select_records *records = run->records;
    enum gotd_side side = strcmp(select_text(run, "side"), "away") == 0 ? GOTD_AWAY : GOTD_TOWARDS;
    ret_selection->score_name = "gradient";
    FINISHED(sinks) sinks = {0};
    FINISHED(sinkhorn_result) result = {0};
    OWNED_MEMORY size_t *order =
        memory_try_array(records->count, sizeof *order, "the order of records", error);
    if (order == NULL) {
        return false;
    }
    if (records->count == 0) {
        return true;
    }
    if (!sinks_make(run, &sinks, error)) {
        return false;
    }
    const struct sinkhorn_problem problem = {.n = records->count,
                                             .m = sinks.count,
                                             .size = records->embedding_size,
                                             .x = records->embeddings,
                                             .y = sinks.rows,
                                             .weights = sinks.weights,
                                             .cost = SINKHORN_EUCLIDEAN,
                                             .epsilon_ratio = select_number(run, "epsilon_ratio"),
                                             .tolerance = TOLERANCE,
                                             .iteration_limit = SWEEPS,
                                             .costs_limit_bytes = COSTS_BYTES,
                                             .rng = {.seed = run->seed}};
    if (!sinkhorn_solve(run->threads, &problem, &result, error) ||
        !gotd_order(result.f, records->count, side, records->count, order, error)) {
        return false;
    }
    gotd_gradients(result.f, records->count, ret_selection->scores);
    selection_take(ret_selection, run, order, records->count);
    json_put_i64(ret_selection->details, "targets", (int64_t)run->targets->count);
    json_put_i64(ret_selection->details, "targets_used", (int64_t)sinks.count);
    json_put_i64(ret_selection->details, "sweeps", (int64_t)result.iterations);
    json_put_double(ret_selection->details, "marginal_error", result.marginal_error);
    json_put(ret_selection->details, "converged", json_boolean(result.is_converged));
    return true;
}

static uint64_t choose_bytes(const json_t *parameters, size_t records, size_t targets)
{
    (void)parameters;
    uint64_t sinks = targets < TARGET_LIMIT ? targets : TARGET_LIMIT;
    uint64_t costs = (uint64_t)records * sinks * sizeof(float);
    return (costs < COSTS_BYTES ? costs : COSTS_BYTES) + SINKHORN_BATCH_BYTES + 64 * (uint64_t)records;
}

const struct select_method select_method_gotd = {
    .name = "gotd",
    .summary = "The records of which more would bring the data nearer to given ones, by optimal transport.",
    .reference = "GOT-D, arXiv 2405.02774; potentials by Sinkhorn's iteration, Cuturi 2013",
    .needs = SELECT_NEED_EMBEDDINGS | SELECT_NEED_TARGETS,
    .params = params,
    .param_count = sizeof params / sizeof params[0],
    .choose_bytes = choose_bytes,
    .select = gotd_select,
};
