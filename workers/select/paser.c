/* workers/select/paser.c: see paser.h. */
#include "workers/select/paser.h"

#include "base/check.h"
#include "base/memory.h"
#include "workers/select/published.h"
#include <string.h>

void paser_finish(struct paser *paser)
{
    free(paser->clusters);
    free(paser->damages);
    clustering_destroy(paser->clustering);
    neighbours_destroy(paser->neighbours);
}

static bool make_room(struct paser *paser, struct error *error)
{
    size_t clusters = paser->selection->cluster_count;
    paser->clusters = memory_try_array(clusters, sizeof *paser->clusters, "damage of clusters", error);
    paser->damages = memory_try_array(clusters, sizeof *paser->damages, "damage of clusters", error);
    return paser->clusters != NULL && paser->damages != NULL;
}

static bool needs_neighbours(const struct paser *paser)
{
    return admission_conflict_parse(select_text(paser->run, "conflict")) == ADMISSION_NEAR_DUPLICATE;
}

bool paser_damages(const struct paser *paser, const uint32_t *labels, size_t cluster_count,
                   struct damage_cluster *ret_clusters, double *ret_damages,
                   struct damage_summary *ret_summary, struct error *error)
{
    if (!damage_clusters(&paser->records, labels, cluster_count, select_number(paser->run, "trim_ratio"),
                         ret_clusters, ret_summary, error)) {
        return false;
    }
    for (size_t k = 0; k < cluster_count; k++) {
        ret_damages[k] =
            select_flag(paser->run, "shrinks") ? ret_clusters[k].shrunk_mean : ret_clusters[k].mean;
    }
    return true;
}

static void put_summary(struct paser *paser, const struct damage_summary *summary)
{
    json_t *report = json_object();
    json_put_double(report, "mean", summary->mean);
    json_put_double(report, "between_variance", summary->between_variance);
    json_put_double(report, "within_variance", summary->within_variance);
    json_put(paser->selection->details, "damage", report);
}

bool paser_prepare_mended(struct paser *paser, struct error *error)
{
    const struct select_run *run = paser->run;
    struct selection *selection = paser->selection;
    struct clustering_request wanted = clustering_request_of(run);
    wanted.keeps_neighbours = needs_neighbours(paser);
    paser->clustering = clustering_create(run->threads, &wanted, error);
    struct damage_summary summary;
    if (paser->clustering == NULL ||
        !clustering_hand_over(paser->clustering, run->threads, selection, error) ||
        !make_room(paser, error) ||
        !paser_damages(paser, selection->labels, selection->cluster_count, paser->clusters, paser->damages,
                       &summary, error) ||
        !damage_efficiencies(&paser->records, selection->scores, error)) {
        return false;
    }
    selection->score_name = "efficiency";
    put_summary(paser, &summary);
    return true;
}

/* ---- the published code -------------------------------------------------------------------------- */

static const char *const published_notes[] = {
    "Divergences are summed over the response's tokens; the code sums them over the instruction's.",
    "Eigenvectors are those of the random walk; the code hands an asymmetric matrix to a solver for symmetric ones.",
    "The factorisation starts from other random numbers than numpy's.",
    "A record's cost counts the tokens of the whole prompt, with its template; the code counts the instruction's alone.",
    "Concepts are put in a canonical form, and rare and common ones are left out; the code takes phrases as they are.",
    "The concept of a record that has but one is met, too; in the code edges alone make concepts met.",
};

/* Characters of UTF-8. */
static size_t count_characters(const char *text)
{
    size_t count = 0;
    for (; *text != '\0'; text++) {
        count += ((unsigned char)*text & 0xC0) != 0x80 ? 1 : 0;
    }
    return count;
}

static bool label_published(struct paser *paser, struct error *error)
{
    const struct select_records *records = paser->run->records;
    const struct dense_threads *threads = paser->run->threads;
    size_t count = records->count, asked = select_count(paser->run, "clusters");
    size_t clusters = asked > 0 ? asked : PASER_PUBLISHED_CLUSTERS;
    clusters = clusters < count ? clusters : count;
    if (count > PUBLISHED_LIMIT) {
        return error_set(error, ERROR_UNSUPPORTED,
                         "compat \"published\" keeps all pairs of records: %zu records are more than %d",
                         count, PUBLISHED_LIMIT);
    }
    OWNED_MEMORY double *distances =
        memory_try_array(count, count * sizeof *distances, "distances of records", error);
    OWNED_MEMORY double *vectors = memory_try_array(count, clusters * sizeof *vectors, "eigenvectors", error);
    OWNED_MEMORY double *values = memory_try_array(clusters, sizeof *values, "eigenvalues", error);
    double sigma = 0;
    if (distances == NULL || vectors == NULL || values == NULL) {
        return false;
    }
    paser->selection->labels = memory_try_array(count, sizeof(uint32_t), "labels", error);
    paser->selection->cluster_count = clusters;
    if (paser->selection->labels == NULL ||
        !published_distances(threads, records->embeddings, count, records->embedding_size, distances,
                             error) ||
        !published_bandwidth(distances, count, &sigma, error) ||
        !published_vectors(threads, distances, count, sigma, clusters, values, vectors, error) ||
        !published_labels(threads, vectors, count, clusters, paser->run->seed, paser->selection->labels,
                          error)) {
        return false;
    }
    json_t *report = json_object(), *eigenvalues = json_array();
    json_put_double(report, "bandwidth", sigma);
    json_put_i64(report, "clusters", (int64_t)clusters);
    for (size_t k = 0; k < clusters; k++) {
        CHECK(json_array_append_new(eigenvalues, json_real(values[k])) == 0);
    }
    json_put(report, "eigenvalues", eigenvalues);
    json_put(paser->selection->details, "clustering", report);
    return true;
}

static bool score_published(struct paser *paser, struct error *error)
{
    const struct select_records *records = paser->run->records;
    struct selection *selection = paser->selection;
    OWNED_MEMORY double *sums = memory_try_array(records->count, sizeof *sums, "sums of divergences", error);
    struct damage_summary summary;
    if (sums == NULL || !make_room(paser, error) ||
        !damage_clusters(&paser->records, selection->labels, selection->cluster_count,
                         select_number(paser->run, "trim_ratio"), paser->clusters, &summary, error)) {
        return false;
    }
    put_summary(paser, &summary);
    for (size_t i = 0; i < records->count; i++) {
        sums[i] = records->damages[i] * (double)records->response_tokens[i];
        selection->scores[i] =
            published_key(sums[i], records->prompt_tokens[i], count_characters(records->texts[i]->response));
    }
    published_damage(sums, selection->labels, records->count, selection->cluster_count, paser->damages);
    selection->score_name = "published_key";
    return true;
}

bool paser_prepare_published(struct paser *paser, struct error *error)
{
    const struct select_records *records = paser->run->records;
    struct selection *selection = paser->selection;
    json_t *notes = json_array();
    for (size_t i = 0; i < sizeof published_notes / sizeof published_notes[0]; i++) {
        CHECK(json_array_append_new(notes, json_string(published_notes[i])) == 0);
    }
    json_put(selection->details, "differences", notes);
    if (records->count == 0) {
        selection->score_name = "published_key";
        return make_room(paser, error);
    }
    selection->map = memory_try_array(records->count, 2 * sizeof *selection->map, "the picture", error);
    if (selection->map == NULL || !label_published(paser, error) || !score_published(paser, error) ||
        !clustering_map(paser->run->threads, records->embeddings, records->count, records->embedding_size,
                        selection->labels, selection->cluster_count, selection->map, error)) {
        return false;
    }
    if (needs_neighbours(paser) && records->count > 1) {
        paser->neighbours =
            neighbours_find_exact(paser->run->threads, records->embeddings, records->count,
                                  records->embedding_size, select_count(paser->run, "neighbours"), error);
        return paser->neighbours != NULL;
    }
    return true;
}
