/*
 * workers/select/assembly.h: PASER's walk: clusters share a budget by their damage, and each takes its best records that may join
 * (data_selection 1.2 e-h, 1.6 steps 10-13).
 *
 *   1. Shares. Each cluster's part of the budget, in the budget's unit, is in proportion to max(0, damage), and no more than its records need
 *      (share.h). Where no cluster is damaged all count alike.
 *   2. The walk. Clusters by falling damage, ties by number; in a cluster the records by falling score, ties by index. One that fits what is left of
 *      the share is asked whether it may join (admission.h): it is taken, or REJECTED. One that does not fit waits.
 *   3. Refill. What is left of the budget is shared anew in the same way over what waits, and walked, until a round neither takes nor rejects
 *      anything. Then all that waits, of all clusters by falling score, takes what still fits.
 *   4. At last the rejected ones, by falling score, as far as the budget goes: DESPITE.
 *
 * So a budget of records is spent but for the lack of records, and a budget of tokens leaves nothing out that still fits. Taken are, in the order of
 * taking: CHOSEN in the first walk, REFILLED after it.
 *
 * is_published: the published code's walk instead. Shares are share_published (no caps, fractions lost), clusters come by number, and 3 and 4 are not
 * there: the budget is not spent in full.
 *
 * Threads: one. Errors: CANCELLED, OUT_OF_MEMORY; NUMERIC: a score or damage that is no number, naming it, and what share.h refuses.
 */
#ifndef WORKERS_SELECT_ASSEMBLY_H
#define WORKERS_SELECT_ASSEMBLY_H

#include "base/cancel.h"
#include "base/json.h"
#include "workers/select/admission.h"
#include "workers/select/ranking.h"
#include "workers/select/select.h"

#define ASSEMBLY_EXAMPLES 5

/* All borrowed. */
struct assembly_request {
    size_t count, cluster_count;
    const uint32_t *labels; /* [count], < cluster_count */
    const double *damages;  /* [cluster_count] */
    const double *scores;   /* [count] */
    const uint32_t *tokens; /* [count] */
    struct budget budget;
    struct admission *admission; /* NULL: all may join */
    bool is_published;
    const struct cancel *cancel; /* may be NULL */
};
struct assembly_cluster {
    size_t records; /* that it has */
    uint64_t tokens;
    size_t share; /* of the first walk, in the budget's unit */
    size_t chosen, refilled, despite;
    uint64_t taken_tokens;
    size_t asked, rejected; /* whether they may join; and may not, those taken despite it included */
    size_t examples[ASSEMBLY_EXAMPLES]; /* [example_count]: the records of highest score */
    size_t example_count;
};
/* ret_order: room for count, of which ret_use->records are filled; ret_reasons [count]; ret_clusters [cluster_count]. */
bool assembly_walk(const struct assembly_request *request, size_t *ret_order, enum select_reason *ret_reasons,
                   struct assembly_cluster *ret_clusters, struct budget_use *ret_use,
                   struct error *error) MUST_USE;
/* The shares of step 1 alone [cluster_count]. */
bool assembly_share(const struct assembly_request *request, size_t *ret_shares, struct error *error) MUST_USE;
/* Owned: what a report says of a cluster. */
json_t *assembly_report(const struct assembly_cluster *cluster) MUST_USE;

#endif
