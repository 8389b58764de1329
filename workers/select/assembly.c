/* workers/select/assembly.c: see assembly.h. */
#include "workers/select/assembly.h"

#include "base/check.h"
#include "base/memory.h"
#include "workers/select/share.h"
#include <math.h>
#include <string.h>

/* What waits of cluster k is records[starts[k]] .. records[ends[k]], by falling score. */
struct walk {
    const struct assembly_request *request;
    size_t *ranked;        /* [count]: all records by falling score */
    size_t *records;       /* [count] */
    size_t *starts, *ends; /* [cluster_count] */
    size_t *visits;        /* [cluster_count]: clusters in the order of the walk */
    size_t *caps, *shares; /* [cluster_count], in the budget's unit */
    double *weights;       /* [cluster_count] */
    struct budget_use use; /* of the budget, so far */
    size_t *order;         /* the caller's */
    enum select_reason *reasons;
    struct assembly_cluster *clusters;
};

static void walk_finish(struct walk *walk)
{
    free(walk->ranked);
    free(walk->records);
    free(walk->starts);
    free(walk->ends);
    free(walk->visits);
    free(walk->caps);
    free(walk->shares);
    free(walk->weights);
}

static uint32_t tokens_of(const struct walk *walk, size_t record)
{
    return walk->request->tokens[record];
}

/* ---- shares -------------------------------------------------------------------------------------- */

static bool weigh(const struct assembly_request *request, double *ret_weights, struct error *error)
{
    for (size_t k = 0; k < request->cluster_count; k++) {
        if (!isfinite(request->damages[k])) {
            return error_set(error, ERROR_NUMERIC, "the damage of cluster %zu is %g", k, request->damages[k]);
        }
        ret_weights[k] = request->damages[k] > 0 ? request->damages[k] : 0;
    }
    return true;
}

static bool share_out(const struct assembly_request *request, const double *weights, const size_t *caps,
                      uint64_t left, size_t *ret_shares, struct error *error)
{
    return request->is_published
               ? share_published(weights, request->cluster_count, left, ret_shares, error)
               : share_allocate(weights, caps, request->cluster_count, left, ret_shares, error);
}

static size_t cost_of(const struct assembly_request *request, size_t record)
{
    return request->budget.unit == BUDGET_RECORDS ? 1 : request->tokens[record];
}

bool assembly_share(const struct assembly_request *request, size_t *ret_shares, struct error *error)
{
    OWNED_MEMORY double *weights =
        memory_try_array(request->cluster_count, sizeof *weights, "weights of clusters", error);
    OWNED_MEMORY size_t *caps =
        memory_try_array(request->cluster_count, sizeof *caps, "sizes of clusters", error);
    if (weights == NULL || caps == NULL || !weigh(request, weights, error)) {
        return false;
    }
    for (size_t i = 0; i < request->count; i++) {
        caps[request->labels[i]] += cost_of(request, i);
    }
    return share_out(request, weights, caps, request->budget.limit, ret_shares, error);
}

/* ---- the lists ----------------------------------------------------------------------------------- */

static bool make_room(struct walk *walk, struct error *error)
{
    size_t count = walk->request->count, clusters = walk->request->cluster_count;
    walk->ranked = memory_try_array(count, sizeof *walk->ranked, "records by score", error);
    walk->records = memory_try_array(count, sizeof *walk->records, "records by cluster", error);
    walk->starts = memory_try_array(clusters, sizeof *walk->starts, "clusters", error);
    walk->ends = memory_try_array(clusters, sizeof *walk->ends, "clusters", error);
    walk->visits = memory_try_array(clusters, sizeof *walk->visits, "clusters", error);
    walk->caps = memory_try_array(clusters, sizeof *walk->caps, "sizes of clusters", error);
    walk->shares = memory_try_array(clusters, sizeof *walk->shares, "shares of clusters", error);
    walk->weights = memory_try_array(clusters, sizeof *walk->weights, "weights of clusters", error);
    return walk->ranked != NULL && walk->records != NULL && walk->starts != NULL && walk->ends != NULL &&
           walk->visits != NULL && walk->caps != NULL && walk->shares != NULL && walk->weights != NULL;
}

static void group_records(struct walk *walk)
{
    const struct assembly_request *request = walk->request;
    for (size_t i = 0; i < request->count; i++) {
        CHECK(request->labels[i] < request->cluster_count);
        struct assembly_cluster *cluster = &walk->clusters[request->labels[i]];
        cluster->records++;
        cluster->tokens += tokens_of(walk, i);
        walk->caps[request->labels[i]] += cost_of(request, i);
    }
    for (size_t k = 1; k < request->cluster_count; k++) {
        walk->starts[k] = walk->starts[k - 1] + walk->clusters[k - 1].records;
    }
    for (size_t k = 0; k < request->cluster_count; k++) {
        walk->ends[k] = walk->starts[k];
    }
    for (size_t i = 0; i < request->count; i++) {
        size_t record = walk->ranked[i], k = request->labels[record];
        struct assembly_cluster *cluster = &walk->clusters[k];
        walk->records[walk->ends[k]++] = record;
        if (cluster->example_count < ASSEMBLY_EXAMPLES) {
            cluster->examples[cluster->example_count++] = record;
        }
    }
}

static bool prepare(struct walk *walk, struct error *error)
{
    const struct assembly_request *request = walk->request;
    size_t ranked = 0, visited = 0;
    if (!make_room(walk, error) || !weigh(request, walk->weights, error) ||
        !ranking_order(request->scores, request->count, RANKING_FALLING, RANKING_NAN_ERROR, request->count,
                       walk->ranked, &ranked, error) ||
        !ranking_order(request->damages, request->cluster_count, RANKING_FALLING, RANKING_NAN_ERROR,
                       request->cluster_count, walk->visits, &visited, error)) {
        return false;
    }
    for (size_t k = 0; request->is_published && k < request->cluster_count; k++) {
        walk->visits[k] = k;
    }
    memset(walk->reasons, 0, request->count * sizeof *walk->reasons);
    memset(walk->clusters, 0, request->cluster_count * sizeof *walk->clusters);
    group_records(walk);
    return true;
}

/* ---- the walk ------------------------------------------------------------------------------------ */

/* Takes the record, which fits, or rejects it. */
static bool ask(struct walk *walk, size_t record, enum select_reason reason, bool *ret_is_taken,
                struct error *error)
{
    struct assembly_cluster *cluster = &walk->clusters[walk->request->labels[record]];
    struct admission *admission = walk->request->admission;
    *ret_is_taken = true;
    if (!cancel_check_now(walk->request->cancel, error)) {
        return false;
    }
    if (admission != NULL && reason != SELECT_DESPITE) {
        cluster->asked++;
        if (!admission_may_join(admission, record, ret_is_taken, error) ||
            (*ret_is_taken && !admission_join(admission, record, error))) {
            return false;
        }
    }
    if (!*ret_is_taken) {
        cluster->rejected++;
        walk->reasons[record] = SELECT_REJECTED;
        return true;
    }
    CHECK(budget_take(&walk->request->budget, tokens_of(walk, record), &walk->use));
    walk->order[walk->use.records - 1] = record;
    walk->reasons[record] = reason;
    cluster->taken_tokens += tokens_of(walk, record);
    cluster->chosen += reason == SELECT_CHOSEN ? 1 : 0;
    cluster->refilled += reason == SELECT_REFILLED ? 1 : 0;
    cluster->despite += reason == SELECT_DESPITE ? 1 : 0;
    return true;
}

/* One cluster's turn: what neither fits its share nor was asked goes on waiting. */
static bool visit(struct walk *walk, size_t k, enum select_reason reason, struct error *error)
{
    const struct budget *budget = &walk->request->budget;
    uint64_t left = budget_unused(budget, &walk->use); /* published shares may add up to more by rounding */
    const struct budget share = {budget->unit, walk->shares[k] < left ? walk->shares[k] : left};
    struct budget_use use = {0};
    size_t waiting = walk->starts[k];
    for (size_t i = walk->starts[k]; i < walk->ends[k]; i++) {
        size_t record = walk->records[i];
        struct budget_use next = use;
        if (budget_unused(&share, &use) == 0 || !budget_take(&share, tokens_of(walk, record), &next)) {
            walk->records[waiting++] = record;
            continue;
        }
        bool is_taken = false;
        if (!ask(walk, record, reason, &is_taken, error)) {
            return false;
        }
        use = is_taken ? next : use;
        walk->caps[k] -= cost_of(walk->request, record);
    }
    walk->ends[k] = waiting;
    return true;
}

/* Steps 1 and 2, or one round of 3. *ret_has_moved: a record was taken or rejected. */
static bool visit_all(struct walk *walk, enum select_reason reason, bool *ret_has_moved, struct error *error)
{
    const struct assembly_request *request = walk->request;
    *ret_has_moved = false;
    if (!share_out(request, walk->weights, walk->caps, budget_unused(&request->budget, &walk->use),
                   walk->shares, error)) {
        return false;
    }
    for (size_t i = 0; i < request->cluster_count; i++) {
        size_t k = walk->visits[i], end = walk->ends[k];
        if (!visit(walk, k, reason, error)) {
            return false;
        }
        *ret_has_moved = *ret_has_moved || walk->ends[k] != end;
    }
    return true;
}

/* All records that are as `state` says, by falling score, as far as they fit. */
static bool sweep(struct walk *walk, enum select_reason state, enum select_reason reason, struct error *error)
{
    const struct assembly_request *request = walk->request;
    for (size_t i = 0; i < request->count && budget_unused(&request->budget, &walk->use) > 0; i++) {
        size_t record = walk->ranked[i];
        struct budget_use next = walk->use;
        bool is_taken = false;
        if (walk->reasons[record] == state && budget_take(&request->budget, tokens_of(walk, record), &next) &&
            !ask(walk, record, reason, &is_taken, error)) {
            return false;
        }
    }
    return true;
}

bool assembly_walk(const struct assembly_request *request, size_t *ret_order, enum select_reason *ret_reasons,
                   struct assembly_cluster *ret_clusters, struct budget_use *ret_use, struct error *error)
{
    FINISHED(walk)
    walk = {.request = request, .order = ret_order, .reasons = ret_reasons, .clusters = ret_clusters};
    bool has_moved = false;
    *ret_use = (struct budget_use){0};
    if (!prepare(&walk, error)) {
        return false;
    }
    if (request->count > 0 && !visit_all(&walk, SELECT_CHOSEN, &has_moved, error)) {
        return false;
    }
    for (size_t k = 0; k < request->cluster_count; k++) {
        ret_clusters[k].share = walk.shares[k];
    }
    while (has_moved && !request->is_published) {
        if (!visit_all(&walk, SELECT_REFILLED, &has_moved, error)) {
            return false;
        }
    }
    if (!request->is_published && (!sweep(&walk, SELECT_NOT_CHOSEN, SELECT_REFILLED, error) ||
                                   !sweep(&walk, SELECT_REJECTED, SELECT_DESPITE, error))) {
        return false;
    }
    *ret_use = walk.use;
    return true;
}

json_t *assembly_report(const struct assembly_cluster *cluster)
{
    json_t *report = json_object(), *examples = json_array();
    json_put_i64(report, "records", (int64_t)cluster->records);
    json_put_i64(report, "tokens", (int64_t)cluster->tokens);
    json_put_i64(report, "share", (int64_t)cluster->share);
    json_put_i64(report, "taken", (int64_t)(cluster->chosen + cluster->refilled + cluster->despite));
    json_put_i64(report, "taken_tokens", (int64_t)cluster->taken_tokens);
    json_put_i64(report, "chosen", (int64_t)cluster->chosen);
    json_put_i64(report, "refilled", (int64_t)cluster->refilled);
    json_put_i64(report, "despite", (int64_t)cluster->despite);
    json_put_i64(report, "asked", (int64_t)cluster->asked);
    json_put_i64(report, "rejected", (int64_t)cluster->rejected);
    for (size_t i = 0; i < cluster->example_count; i++) {
        CHECK(json_array_append_new(examples, json_integer((json_int_t)cluster->examples[i])) == 0);
    }
    json_put(report, "examples", examples);
    return report;
}
