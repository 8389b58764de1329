/*
 * workers/select/damage.h: what pruning did to each record and to each cluster of records (PASER, arXiv 2502.12594; data_selection
 * 1.2 d and f).
 *
 * J_i is record i's mean divergence of the pruned from the original model over its response tokens, teacher forced (Jensen-Shannon, in
 * 0..ln 2; or another damage signal: a rise of the loss may be negative). A record without response tokens has no J: it is left out of
 * everything and counted.
 *
 *     CDS_k = mean of J over the records of cluster k         degradation: what the budget is shared by
 *     IES_i = J_i / log(max(e, L_i^2))                        efficiency: what ranks records in a cluster; L_i is prompt and response in tokens
 *
 * IES is the paper's equation 7; the floor at e is ours (a single token would divide by zero). Where J is negative IES is J itself: a quotient
 * would rank the longer of two records that gained the same before the shorter.
 *
 * A trimmed CDS leaves out the trim_ratio of n records (rounded down, quantile.h) at each end of the cluster.
 *
 * Shrinkage. Short responses and small clusters give noisy means, and a budget follows noise. With m_k the (trimmed) means, n_k the counts
 * and v_k the variances of the means, all clusters are drawn towards the common mean by how little they tell (empirical Bayes):
 *
 *     m     = sum n_k m_k / sum n_k
 *     v_k   = s_k^2 / n_k, s_k^2 over n_k - 1. A cluster of one record takes the pooled s^2, sum (n_k - 1) s_k^2 / sum (n_k - 1) (0 where
 *             all are of one record). Of a trimmed mean of h = n_k - 2 g records: s_k^2 n_k / h^2, s_k^2 winsorised.
 *     tau^2 = max(0, (sum n_k (m_k - m)^2 - sum n_k v_k (1 - n_k / n)) / (n - sum n_k^2 / n)), n = sum n_k: between-cluster variance by the
 *             method of moments, whose expectation is the true one whatever the weights are; 0 where there is one cluster
 *     shrunk_k = m + B_k (m_k - m), B_k = tau^2 / (tau^2 + v_k); B_k = 1 where both are 0
 *
 * How clusters share the budget by these, and that one which gained by the pruning takes no part, is assembly.h's.
 *
 * A cluster's records are summed in ascending order of J: its figures do not depend on the order of records.
 *
 * Threads: any. Errors: OUT_OF_MEMORY, and NUMERIC: a value that is not finite, naming the record; outputs are untouched then.
 */
#ifndef WORKERS_SELECT_DAMAGE_H
#define WORKERS_SELECT_DAMAGE_H

#include "base/error.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* All borrowed, [count]. */
struct damage_records {
    size_t count;
    const double *divergences;       /* J; not read where there are no response tokens */
    const uint32_t *response_tokens; /* T; 0: J is undefined, the record is excluded */
    const uint32_t *total_tokens;    /* L */
    const double *entropies; /* mean over response tokens of the original's entropy, nats; NULL: not known */
};

struct damage_cluster {
    size_t count, excluded; /* records with J, and without */
    size_t trimmed;         /* of count, at each end */
    double mean;            /* CDS, 0 where count is 0: such a cluster can take no budget */
    double mean_variance;   /* v_k */
    double weight_ratio;    /* B_k, 0..1: how much of its own mean is left */
    double shrunk_mean;
};
struct damage_summary {
    size_t count, excluded;
    double mean;             /* m */
    double between_variance; /* tau^2 */
    double within_variance;  /* pooled s^2 of records */
};
/* labels: [records->count], each < cluster_count. trim_ratio: 0 <= trim_ratio < 0.5; the usual 0.01 trims clusters of 100 and more.
 * ret_clusters: [cluster_count]. */
bool damage_clusters(const struct damage_records *records, const uint32_t *labels, size_t cluster_count,
                     double trim_ratio, struct damage_cluster *ret_clusters,
                     struct damage_summary *ret_summary, struct error *error) MUST_USE;

/* IES of each record, [records->count]; NaN for an excluded one (ranking.h drops it where asked to). */
bool damage_efficiencies(const struct damage_records *records, double *ret_efficiencies,
                         struct error *error) MUST_USE;

/* Of two columns; undefined (and 0) where there are fewer than two records or one column is constant. Spearman's is Pearson's of ranks, ties
 * sharing their mean rank. */
struct damage_correlation {
    bool is_defined;
    double pearson, spearman; /* -1..1 */
};
struct damage_correlations {
    struct damage_correlation tokens;  /* of J and T: is the damage one of length? */
    struct damage_correlation entropy; /* of J and entropy: or of how open the answer is? */
};
bool damage_correlate(const struct damage_records *records, struct damage_correlations *ret_correlations,
                      struct error *error) MUST_USE;

#endif
