/*
 * workers/select/method_paser.c: PASER (arXiv 2502.12594): records are clustered by what they ask, clusters share the budget by what pruning did
 * to them, and in a cluster the records that recover most for their length come first, unless their concepts conflict (data_selection 1.2,
 * 1.6). Where it differs from the paper is said in the headers of its parts: clustering.h, damage.h, admission.h, assembly.h.
 */
#include "workers/select/admission.h"
#include "workers/select/assembly.h"
#include "workers/select/clustering.h"
#include "workers/select/concepts.h"
#include "workers/select/labels.h"
#include "workers/select/measure.h"
#include "workers/select/paser.h"
#include "workers/select/published.h"

#include "base/check.h"
#include "base/memory.h"
#include <math.h>
#include <string.h>

static const char *const compat_names[] = {"mended", "published", NULL};
static const struct param_spec params[] = {
    MEASURE_DAMAGE_PARAM,
    CLUSTERING_PARAMS,
    {.name = "trim_ratio",
     .type = PARAM_NUMBER,
     .flags = PARAM_OPEN_MAX,
     .max = 0.5,
     .default_json = "0.01",
     .help = "Share of a cluster's records left out of its mean damage at each end."},
    {.name = "shrinks",
     .type = PARAM_BOOL,
     .default_json = "true",
     .help = "Draw the damage of small and noisy clusters towards the mean of all."},
    {.name = "conflict",
     .type = PARAM_ENUM,
     .values = admission_conflict_names,
     .default_json = "\"graph\"",
     .help =
         "Which records may not join: those whose concepts were never met together, those that answer a near "
         "duplicate otherwise, or none."},
    {.name = "compat",
     .type = PARAM_ENUM,
     .values = compat_names,
     .default_json = "\"mended\"",
     .help =
         "The method as the paper means it, or with the published code's arithmetic, for up to 8192 records; of the "
         "other parameters that one takes damage, clusters (0: 10), conflict and, for near duplicates, neighbours, "
         "and its report trim_ratio."},
};

/* ---- what the report says ------------------------------------------------------------------------ */

static json_t *correlation_report(const struct damage_correlation *correlation)
{
    if (!correlation->is_defined) {
        return json_null();
    }
    json_t *report = json_object();
    json_put_double(report, "pearson", correlation->pearson);
    json_put_double(report, "spearman", correlation->spearman);
    return report;
}

static bool report_correlations(const struct paser *paser, struct error *error)
{
    struct damage_correlations correlations;
    if (!damage_correlate(&paser->records, &correlations, error)) {
        return false;
    }
    json_t *report = json_object();
    json_put(report, "response_tokens", correlation_report(&correlations.tokens));
    json_put(report, "entropy", correlation_report(&correlations.entropy));
    json_put(paser->selection->details, "correlations", report);
    return true;
}

static bool report_sources(const struct paser *paser, struct error *error)
{
    const struct select_records *records = paser->run->records;
    double index = 0;
    if (records->source_count < 2) {
        return true;
    }
    if (!labels_adjusted_rand(records->count, paser->selection->labels, records->sources, &index, error)) {
        return false;
    }
    json_put_double(paser->selection->details, "source_agreement", index);
    return true;
}

static void report_clusters(const struct paser *paser, const struct assembly_cluster *parts,
                            const struct admission *admission)
{
    struct selection *selection = paser->selection;
    size_t asked = 0, rejected = 0;
    selection->clusters = json_array();
    for (size_t k = 0; k < selection->cluster_count; k++) {
        const struct damage_cluster *damage = &paser->clusters[k];
        json_t *report = assembly_report(&parts[k]);
        json_put_double(report, "damage", damage->mean);
        json_put_double(report, "damage_error", sqrt(damage->mean_variance));
        json_put_double(report, "damage_shrunk", damage->shrunk_mean);
        json_put_double(report, "weight", paser->damages[k] > 0 ? paser->damages[k] : 0);
        CHECK(json_array_append_new(selection->clusters, report) == 0);
        asked += parts[k].asked;
        rejected += parts[k].rejected;
    }
    json_t *conflicts = admission_report(admission);
    json_put_i64(conflicts, "asked", (int64_t)asked);
    json_put_i64(conflicts, "rejected", (int64_t)rejected);
    json_put(selection->details, "conflicts", conflicts);
}

/* ---- sensitivity --------------------------------------------------------------------------------- */

/* Half the distance of two allocations, each spread evenly over its clusters' records, as a share of the budget: what another number of
 * clusters would move. */
static double moved_ratio(const struct assembly_request *walk, const struct assembly_cluster *parts,
                          const uint32_t *labels, const size_t *shares, const double *sizes)
{
    bool is_by_records = walk->budget.unit == BUDGET_RECORDS;
    double moved = 0, spent = 0;
    for (size_t i = 0; i < walk->count; i++) {
        const struct assembly_cluster *part = &parts[walk->labels[i]];
        double cost = is_by_records ? 1 : (double)walk->tokens[i];
        double size = is_by_records ? (double)part->records : (double)part->tokens;
        double before = (double)part->share * cost / size;
        moved += fabs(before - (double)shares[labels[i]] * cost / sizes[labels[i]]) / 2;
        spent += before;
    }
    return spent > 0 ? moved / spent : 0;
}

/* The allocation at another number of clusters, into `reports`. */
static bool try_count(const struct paser *paser, const struct assembly_request *walk,
                      const struct assembly_cluster *parts, size_t wanted, json_t *reports,
                      struct error *error)
{
    OWNED_MEMORY uint32_t *labels = memory_try_array(walk->count, sizeof *labels, "labels", error);
    OWNED_MEMORY struct damage_cluster *clusters =
        memory_try_array(wanted + 1, sizeof *clusters, "damage of clusters", error);
    OWNED_MEMORY double *damages = memory_try_array(wanted + 1, sizeof *damages, "damage of clusters", error);
    OWNED_MEMORY size_t *shares = memory_try_array(wanted + 1, sizeof *shares, "shares", error);
    OWNED_MEMORY double *sizes = memory_try_array(wanted + 1, sizeof *sizes, "sizes of clusters", error);
    struct damage_summary summary;
    size_t count = 0;
    double agreement = 0;
    if (labels == NULL || clusters == NULL || damages == NULL || shares == NULL || sizes == NULL ||
        !clustering_label(paser->clustering, paser->run->threads, wanted, labels, &count, error) ||
        !paser_damages(paser, labels, count, clusters, damages, &summary, error)) {
        return false;
    }
    struct assembly_request other = *walk;
    other.labels = labels;
    other.cluster_count = count;
    other.damages = damages;
    for (size_t i = 0; i < walk->count; i++) {
        sizes[labels[i]] += walk->budget.unit == BUDGET_RECORDS ? 1 : walk->tokens[i];
    }
    if (!assembly_share(&other, shares, error) ||
        !labels_adjusted_rand(walk->count, labels, walk->labels, &agreement, error)) {
        return false;
    }
    json_t *report = json_object(), *list = json_array();
    for (size_t k = 0; k < count; k++) {
        CHECK(json_array_append_new(list, json_integer((json_int_t)shares[k])) == 0);
    }
    json_put_i64(report, "clusters", (int64_t)count);
    json_put_double(report, "agreement", agreement);
    json_put_double(report, "moved_ratio", moved_ratio(walk, parts, labels, shares, sizes));
    json_put(report, "shares", list);
    CHECK(json_array_append_new(reports, report) == 0);
    return true;
}

static bool report_sensitivity(const struct paser *paser, const struct assembly_request *walk,
                               const struct assembly_cluster *parts, struct error *error)
{
    JSON_OWNED reports = json_array();
    const struct clustering *clustering = paser->clustering;
    size_t most = clustering != NULL ? clustering_most(clustering) : 0;
    size_t wanted = clustering != NULL ? clustering->wanted_count : 0;
    if ((wanted > 2 && wanted - 2 <= most && !try_count(paser, walk, parts, wanted - 2, reports, error)) ||
        (wanted + 2 <= most && !try_count(paser, walk, parts, wanted + 2, reports, error))) {
        return false;
    }
    json_put(paser->selection->details, "sensitivity", TAKE(reports));
    return true;
}

/* ---- the method ---------------------------------------------------------------------------------- */

static bool assemble(const struct paser *paser, bool is_published, struct error *error)
{
    const struct select_run *run = paser->run;
    struct selection *selection = paser->selection;
    const struct neighbours *neighbours =
        paser->clustering != NULL ? paser->clustering->neighbours : paser->neighbours;
    OWNED(admission)
    admission = admission_create(admission_conflict_parse(select_text(run, "conflict")), selection->count,
                                 run->records->texts, neighbours, run->threads->cancel, error);
    OWNED_MEMORY struct assembly_cluster *parts =
        memory_try_array(selection->cluster_count, sizeof *parts, "clusters", error);
    if (admission == NULL || parts == NULL) {
        return false;
    }
    const struct assembly_request walk = {.count = selection->count,
                                          .cluster_count = selection->cluster_count,
                                          .labels = selection->labels,
                                          .damages = paser->damages,
                                          .scores = selection->scores,
                                          .tokens = run->records->total_tokens,
                                          .budget = run->budget,
                                          .admission = admission,
                                          .is_published = is_published,
                                          .cancel = run->threads->cancel};
    struct budget_use use;
    select_progress(run, "selection", 1, 2);
    if (!assembly_walk(&walk, selection->order, selection->reasons, parts, &use, error) ||
        !report_sensitivity(paser, &walk, parts, error)) {
        return false;
    }
    selection->chosen_count = use.records;
    report_clusters(paser, parts, admission);
    return true;
}

static bool paser_select(const struct select_run *run, struct selection *ret_selection, struct error *error)
{
    const struct select_records *records = run->records;
    bool is_published = strcmp(select_text(run, "compat"), "published") == 0;
    FINISHED(paser)
    paser = {.run = run,
             .selection = ret_selection,
             .records = {.count = records->count,
                         .divergences = records->damages,
                         .response_tokens = records->response_tokens,
                         .total_tokens = records->total_tokens,
                         .entropies = records->entropies}};
    json_put_text(ret_selection->details, "compat", select_text(run, "compat"));
    select_progress(run, "clusters", 0, 2);
    if (!(is_published ? paser_prepare_published(&paser, error) : paser_prepare_mended(&paser, error)) ||
        !assemble(&paser, is_published, error) || !report_correlations(&paser, error) ||
        !report_sources(&paser, error)) {
        return false;
    }
    select_progress(run, "selection", 2, 2);
    return true;
}

/* Published: distances, and what its eigenvectors or its factorisation take beside them. The graph of concepts grows with the pairs of concepts
 * of a record, up to its limit. */
static uint64_t choose_bytes(const json_t *parameters, size_t records, size_t targets)
{
    (void)targets;
    uint64_t n = records < PUBLISHED_LIMIT ? records : PUBLISHED_LIMIT;
    bool is_published = strcmp(json_string_value(json_object_get(parameters, "compat")), "published") == 0;
    const char *conflict = json_string_value(json_object_get(parameters, "conflict"));
    uint64_t pairs = (uint64_t)records * CONCEPTS_PER_RECORD * CONCEPTS_PER_RECORD * sizeof(uint64_t);
    uint64_t graph = pairs < ADMISSION_GRAPH_BYTES ? pairs : ADMISSION_GRAPH_BYTES;
    return (is_published ? 32 * n * n : clustering_bytes(parameters, records)) +
           (strcmp(conflict, "graph") == 0 ? graph : 0);
}

const struct select_method select_method_paser = {
    .name = "paser",
    .summary =
        "Clusters of instructions share the budget by what pruning did to them; the records that recover most "
        "for their length come first, unless their concepts conflict.",
    .reference = "PASER, arXiv 2502.12594, eq. 6 and 7; data_selection 1.6",
    .needs = SELECT_NEED_EMBEDDINGS | SELECT_NEED_DAMAGE,
    .params = params,
    .param_count = sizeof params / sizeof params[0],
    .choose_bytes = choose_bytes,
    .select = paser_select,
};
