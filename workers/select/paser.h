/*
 * workers/select/paser.h: PASER (arXiv 2502.12594) in two forms, which method_paser.c makes a selection of: clusters, what pruning did to each,
 * and what each record is worth.
 *
 *     mended       data_selection 1.6: clustering.h, damage_clusters, damage_efficiencies
 *     published    the arithmetic of the published code (published.h), for comparisons on small data. Of the parameters it takes `damage`,
 *                  `clusters` (0: PASER_PUBLISHED_CLUSTERS), `conflict`, and `neighbours` for near duplicates; `trim_ratio` for the report alone
 */
#ifndef WORKERS_SELECT_PASER_H
#define WORKERS_SELECT_PASER_H

#include "workers/select/admission.h"
#include "workers/select/clustering.h"
#include "workers/select/damage.h"
#include "workers/select/select.h"

/* The published code's number of clusters. */
#define PASER_PUBLISHED_CLUSTERS 10

struct paser {
    const struct select_run *run; /* borrowed */
    struct selection *selection;  /* borrowed: labels, cluster_count, map, scores, details are filled in */
    struct damage_records records;
    struct damage_cluster *clusters; /* owned, [cluster_count] */
    double *damages;                 /* owned, [cluster_count]: what the budget is shared by */
    struct clustering *clustering;   /* owned; mended: its labels are the selection's */
    struct neighbours *neighbours;   /* owned; published, and only where conflicts need it */
};
void paser_finish(struct paser *paser);

/* Clusters, damages and scores. Once; on failure paser_finish. Errors: those of clustering.h, damage.h. */
bool paser_prepare_mended(struct paser *paser, struct error *error) MUST_USE;
/* UNSUPPORTED: too many records for it. NUMERIC: where the code divides by zero. */
bool paser_prepare_published(struct paser *paser, struct error *error) MUST_USE;
/* Damage of clusters by any labels [records.count]: ret_clusters and ret_damages [cluster_count]. */
bool paser_damages(const struct paser *paser, const uint32_t *labels, size_t cluster_count,
                   struct damage_cluster *ret_clusters, double *ret_damages,
                   struct damage_summary *ret_summary, struct error *error) MUST_USE;

#endif
