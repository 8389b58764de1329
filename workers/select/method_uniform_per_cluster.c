/*
 * workers/select/method_uniform_per_cluster.c: PASER without damage: the same clusters, which share the budget alike, and in each whoever chance says:
 * what the damage has to beat.
 */
#include "workers/select/assembly.h"
#include "workers/select/clustering.h"
#include "workers/select/select.h"

#include "base/check.h"
#include "base/memory.h"
#include "base/rng.h"

enum { STREAM_ORDER = 1 };
static const struct param_spec params[] = {CLUSTERING_PARAMS};

static bool uniform_per_cluster_select(const struct select_run *run, struct selection *ret_selection,
                                       struct error *error)
{
    size_t count = ret_selection->count;
    const struct clustering_request wanted = clustering_request_of(run);
    select_progress(run, "clusters", 0, 2);
    OWNED(clustering) clustering = clustering_create(run->threads, &wanted, error);
    if (clustering == NULL || !clustering_hand_over(clustering, run->threads, ret_selection, error)) {
        return false;
    }
    size_t clusters = ret_selection->cluster_count;
    OWNED_MEMORY double *weights = memory_try_array(clusters, sizeof *weights, "weights of clusters", error);
    OWNED_MEMORY double *draws = memory_try_array(count, sizeof *draws, "random draws", error);
    OWNED_MEMORY struct assembly_cluster *parts =
        memory_try_array(clusters, sizeof *parts, "clusters", error);
    if (weights == NULL || draws == NULL || parts == NULL) {
        return false;
    }
    for (size_t k = 0; k < clusters; k++) {
        weights[k] = 1;
    }
    for (size_t i = 0; i < count; i++) {
        draws[i] = rng_unit(&(struct rng){.seed = run->seed, .stream = STREAM_ORDER}, i);
    }
    const struct assembly_request walk = {.count = count,
                                          .cluster_count = clusters,
                                          .labels = ret_selection->labels,
                                          .damages = weights,
                                          .scores = draws,
                                          .tokens = run->records->total_tokens,
                                          .budget = run->budget,
                                          .cancel = run->threads->cancel};
    struct budget_use use;
    select_progress(run, "selection", 1, 2);
    if (!assembly_walk(&walk, ret_selection->order, ret_selection->reasons, parts, &use, error)) {
        return false;
    }
    ret_selection->chosen_count = use.records;
    ret_selection->score_name = "none";
    ret_selection->clusters = json_array();
    for (size_t k = 0; k < clusters; k++) {
        CHECK(json_array_append_new(ret_selection->clusters, assembly_report(&parts[k])) == 0);
    }
    select_progress(run, "selection", 2, 2);
    return true;
}

static uint64_t choose_bytes(const json_t *parameters, size_t records, size_t targets)
{
    (void)targets;
    return clustering_bytes(parameters, records);
}

const struct select_method select_method_uniform_per_cluster = {
    .name = "uniform_per_cluster",
    .summary = "As many records of every cluster of instructions, drawn at random.",
    .reference = "PASER without damage: data_selection 1.6 steps 1-7",
    .needs = SELECT_NEED_EMBEDDINGS,
    .params = params,
    .param_count = sizeof params / sizeof params[0],
    .choose_bytes = choose_bytes,
    .select = uniform_per_cluster_select,
};
