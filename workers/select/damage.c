/* workers/select/damage.c: see damage.h. Records are put side by side by cluster, so that each cluster is one sorted slice. */
#include "workers/select/damage.h"

#include "base/check.h"
#include "base/cleanup.h"
#include "base/memory.h"
#include "workers/select/quantile.h"
#include "workers/select/ranking.h"
#include <math.h>

static bool is_excluded(const struct damage_records *records, size_t i)
{
    return records->response_tokens[i] == 0;
}

static bool check_column(const struct damage_records *records, const double *column, const char *what,
                         struct error *error)
{
    for (size_t i = 0; i < records->count; i++) {
        if (!is_excluded(records, i) && !isfinite(column[i])) {
            return error_set(error, ERROR_NUMERIC, "the %s of record %zu is %g", what, i, column[i]);
        }
    }
    return true;
}

/* ---- clusters ------------------------------------------------------------------------------------ */

/* Of one cluster's values, ascending: everything that needs no other cluster. */
static void describe_cluster(const double *sorted, double trim_ratio, struct damage_cluster *cluster,
                             double *ret_squares)
{
    size_t n = cluster->count, trimmed = quantile_count_within(trim_ratio, n), kept = n - 2 * trimmed;
    double sum = 0, squares = 0;
    for (size_t i = trimmed; i < n - trimmed; i++) {
        sum += sorted[i];
    }
    double low = sorted[trimmed], high = sorted[n - 1 - trimmed];
    double winsorised = (sum + (double)trimmed * (low + high)) / (double)n;
    for (size_t i = 0; i < n; i++) {
        double value = i < trimmed ? low : i >= n - trimmed ? high : sorted[i];
        squares += (value - winsorised) * (value - winsorised);
    }
    cluster->trimmed = trimmed;
    cluster->mean = sum / (double)kept;
    cluster->mean_variance =
        n > 1 ? squares / (double)(n - 1) * (double)n / ((double)kept * (double)kept) : 0;
    *ret_squares = squares;
}

/* Values by cluster: values [count] from offsets[k] on are those of cluster k, ascending. */
static void group_values(const struct damage_records *records, const uint32_t *labels, size_t cluster_count,
                         struct damage_cluster *clusters, size_t *offsets, double *values)
{
    for (size_t i = 0; i < records->count; i++) {
        CHECK(labels[i] < cluster_count);
        clusters[labels[i]].excluded += is_excluded(records, i) ? 1 : 0;
        clusters[labels[i]].count += is_excluded(records, i) ? 0 : 1;
    }
    for (size_t k = 1; k < cluster_count; k++) {
        offsets[k] = offsets[k - 1] + clusters[k - 1].count;
    }
    for (size_t i = 0; i < records->count; i++) {
        if (!is_excluded(records, i)) {
            values[offsets[labels[i]]++] = records->divergences[i];
        }
    }
    for (size_t k = 0; k < cluster_count; k++) {
        offsets[k] -= clusters[k].count;
        quantile_sort(values + offsets[k], clusters[k].count);
    }
}

/* Everything that clusters tell of each other. */
static void shrink(struct damage_cluster *clusters, size_t cluster_count, struct damage_summary *summary)
{
    double n = (double)summary->count, spread = 0, expected = 0, scale = n;
    for (size_t k = 0; k < cluster_count; k++) {
        struct damage_cluster *cluster = &clusters[k];
        double count = (double)cluster->count, distance = cluster->mean - summary->mean;
        if (cluster->count == 1) {
            cluster->mean_variance = summary->within_variance;
        }
        if (cluster->count > 0) {
            spread += count * distance * distance;
            expected += count * cluster->mean_variance * (1 - count / n);
            scale -= count * count / n;
        }
    }
    /* One cluster leaves a scale of 0. */
    summary->between_variance = scale > 0 && spread > expected ? (spread - expected) / scale : 0;
    for (size_t k = 0; k < cluster_count; k++) {
        struct damage_cluster *cluster = &clusters[k];
        double all = summary->between_variance + cluster->mean_variance;
        cluster->weight_ratio = all > 0 ? summary->between_variance / all : 1;
        cluster->shrunk_mean =
            cluster->count > 0 ? summary->mean + cluster->weight_ratio * (cluster->mean - summary->mean) : 0;
    }
}

bool damage_clusters(const struct damage_records *records, const uint32_t *labels, size_t cluster_count,
                     double trim_ratio, struct damage_cluster *ret_clusters,
                     struct damage_summary *ret_summary, struct error *error)
{
    CHECK(trim_ratio >= 0 && trim_ratio < 0.5);
    OWNED_MEMORY double *values =
        memory_try_array(records->count, sizeof *values, "damage of records", error);
    OWNED_MEMORY size_t *offsets =
        memory_try_array(cluster_count, sizeof *offsets, "damage of clusters", error);
    if (values == NULL || offsets == NULL ||
        !check_column(records, records->divergences, "divergence", error)) {
        return false;
    }
    struct damage_summary summary = {0};
    double sum = 0, squares = 0, freedom = 0;
    for (size_t k = 0; k < cluster_count; k++) {
        ret_clusters[k] = (struct damage_cluster){0};
    }
    group_values(records, labels, cluster_count, ret_clusters, offsets, values);
    for (size_t k = 0; k < cluster_count; k++) {
        struct damage_cluster *cluster = &ret_clusters[k];
        double own = 0;
        summary.excluded += cluster->excluded;
        if (cluster->count > 0) {
            describe_cluster(values + offsets[k], trim_ratio, cluster, &own);
            summary.count += cluster->count;
            sum += (double)cluster->count * cluster->mean;
            squares += own;
            freedom += (double)(cluster->count - 1);
        }
    }
    summary.mean = summary.count > 0 ? sum / (double)summary.count : 0;
    summary.within_variance = freedom > 0 ? squares / freedom : 0;
    shrink(ret_clusters, cluster_count, &summary);
    *ret_summary = summary;
    return true;
}

/* ---- records ------------------------------------------------------------------------------------- */

bool damage_efficiencies(const struct damage_records *records, double *ret_efficiencies, struct error *error)
{
    if (!check_column(records, records->divergences, "divergence", error)) {
        return false;
    }
    const double e = exp(1.0);
    for (size_t i = 0; i < records->count; i++) {
        if (is_excluded(records, i)) {
            ret_efficiencies[i] = (double)NAN;
            continue;
        }
        double divergence = records->divergences[i], tokens = (double)records->total_tokens[i];
        ret_efficiencies[i] = divergence > 0 ? divergence / log(fmax(e, tokens * tokens)) : divergence;
    }
    return true;
}

/* ---- correlations -------------------------------------------------------------------------------- */

/* The column less its mean, divided by the largest of that: squares of tiny columns would vanish. False: it is constant. */
static bool centre(double *column, size_t count)
{
    double sum = 0, largest = 0;
    bool is_constant = true;
    for (size_t i = 0; i < count; i++) {
        sum += column[i];
        is_constant = is_constant && column[i] == column[0];
    }
    if (is_constant) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        column[i] -= sum / (double)count;
        largest = fmax(largest, fabs(column[i]));
    }
    for (size_t i = 0; i < count; i++) {
        column[i] /= largest;
    }
    return true;
}

/* x and y are used up. False: one is constant. */
static bool pearson(double *x, double *y, size_t count, double *ret_value)
{
    if (!centre(x, count) || !centre(y, count)) {
        return false;
    }
    double xx = 0, yy = 0, xy = 0;
    for (size_t i = 0; i < count; i++) {
        xx += x[i] * x[i];
        yy += y[i] * y[i];
        xy += x[i] * y[i];
    }
    *ret_value = fmax(-1, fmin(1, xy / sqrt(xx * yy)));
    return true;
}

/* order: [count], scratch. */
static bool take_ranks(const double *values, size_t count, size_t *order, double *ret_ranks,
                       struct error *error)
{
    size_t ranked = 0;
    if (!ranking_order(values, count, RANKING_RISING, RANKING_NAN_ERROR, count, order, &ranked, error)) {
        return false;
    }
    for (size_t first = 0, end = 0; first < ranked; first = end) {
        for (end = first + 1; end < ranked && values[order[end]] == values[order[first]]; end++) {
        }
        for (size_t i = first; i < end; i++) {
            ret_ranks[order[i]] = 0.5 * (double)(first + end - 1); /* from 0 */
        }
    }
    return true;
}

/* Of J and `others`, NULL: the response tokens. */
static bool correlate_with(const struct damage_records *records, const double *others,
                           struct damage_correlation *ret_correlation, struct error *error)
{
    size_t stride = records->count, count = 0;
    OWNED_MEMORY double *columns =
        memory_try_array(stride, 4 * sizeof *columns, "columns to correlate", error);
    OWNED_MEMORY size_t *order = memory_try_array(stride, sizeof *order, "columns to correlate", error);
    if (columns == NULL || order == NULL) {
        return false;
    }
    double *x = columns, *y = x + stride, *x_ranks = y + stride, *y_ranks = x_ranks + stride;
    for (size_t i = 0; i < records->count; i++) {
        if (!is_excluded(records, i)) {
            x[count] = records->divergences[i];
            y[count++] = others != NULL ? others[i] : (double)records->response_tokens[i];
        }
    }
    struct damage_correlation result = {0};
    if (!take_ranks(x, count, order, x_ranks, error) || !take_ranks(y, count, order, y_ranks, error)) {
        return false;
    }
    /* Ranks are constant where values are. */
    result.is_defined = count > 1 && pearson(x, y, count, &result.pearson) &&
                        pearson(x_ranks, y_ranks, count, &result.spearman);
    *ret_correlation = result;
    return true;
}

bool damage_correlate(const struct damage_records *records, struct damage_correlations *ret_correlations,
                      struct error *error)
{
    struct damage_correlations result = {0};
    if (!check_column(records, records->divergences, "divergence", error) ||
        !correlate_with(records, NULL, &result.tokens, error)) {
        return false;
    }
    if (records->entropies != NULL &&
        (!check_column(records, records->entropies, "entropy", error) ||
         !correlate_with(records, records->entropies, &result.entropy, error))) {
        return false;
    }
    *ret_correlations = result;
    return true;
}
