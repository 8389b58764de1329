/* workers/select/q_tuning.c: see q_tuning.h. */
#include "workers/select/q_tuning.h"

#include "base/check.h"
#include "base/cleanup.h"
#include "base/memory.h"
#include "workers/select/quantile.h"
#include "workers/select/ranking.h"
#include <math.h>

#define NLL_LIMIT 20.0

/* ---- samples ------------------------------------------------------------------------------------- */

struct placing {
    const struct q_tuning_batch *batch;
    enum q_tuning_label *labels;   /* [batch->count] */
    size_t count;                  /* samples that have a place */
    double *nll_means, *entropies; /* [count] of those, ascending */
    double *supports;              /* [batch->count] of samples that are up for a choice, else NaN */
    size_t *order;                 /* [batch->count] the chosen ones in front */
};

static void placing_finish(struct placing *placing)
{
    free(placing->nll_means);
    free(placing->entropies);
    free(placing->supports);
    free(placing->order);
}

static bool placing_init(struct placing *placing, const struct q_tuning_batch *batch,
                         enum q_tuning_label *labels, struct error *error)
{
    static const char what[] = "a batch of samples";
    size_t room = batch->count;
    *placing = (struct placing){.batch = batch, .labels = labels};
    placing->nll_means = memory_try_array(room, sizeof(double), what, error);
    placing->entropies = memory_try_array(room, sizeof(double), what, error);
    placing->supports = memory_try_array(room, sizeof(double), what, error);
    placing->order = memory_try_array(room, sizeof(size_t), what, error);
    return placing->nll_means != NULL && placing->entropies != NULL && placing->supports != NULL &&
           placing->order != NULL;
}

static void sort_axes(struct placing *placing)
{
    const struct q_tuning_batch *batch = placing->batch;
    for (size_t i = 0; i < batch->count; i++) {
        placing->labels[i] = Q_TUNING_UNDEFINED;
        if (batch->tokens[i] > 0 && isfinite(batch->nll_means[i]) && isfinite(batch->entropies[i])) {
            placing->labels[i] = Q_TUNING_DROPPED;
            placing->nll_means[placing->count] = batch->nll_means[i];
            placing->entropies[placing->count++] = batch->entropies[i];
        }
    }
    quantile_sort(placing->nll_means, placing->count);
    quantile_sort(placing->entropies, placing->count);
}

/* Labels by the corners at a share; returns how many samples they hold. */
static size_t label_corners(struct placing *placing, double share)
{
    const struct q_tuning_batch *batch = placing->batch;
    double nll_high = quantile_of_sorted(placing->nll_means, placing->count, 1 - share);
    double nll_low = quantile_of_sorted(placing->nll_means, placing->count, share);
    double entropy_high = quantile_of_sorted(placing->entropies, placing->count, 1 - share);
    double entropy_low = quantile_of_sorted(placing->entropies, placing->count, share);
    size_t held = 0;
    for (size_t i = 0; i < batch->count; i++) {
        if (placing->labels[i] == Q_TUNING_UNDEFINED) {
            continue;
        }
        double nll = batch->nll_means[i], entropy = batch->entropies[i];
        placing->labels[i] = nll <= nll_low && entropy >= entropy_high   ? Q_TUNING_KEPT_WHOLE
                             : nll >= nll_high && entropy <= entropy_low ? Q_TUNING_TOKENS_PRUNED
                                                                         : Q_TUNING_DROPPED;
        held += placing->labels[i] != Q_TUNING_DROPPED ? 1 : 0;
    }
    return held;
}

/* (exp(x) - exp(low)) / (exp(high) - exp(low)), by exponents that are not positive. */
static double scale_perplexity(double x, double low, double high)
{
    return high > low ? exp(x - high) * expm1(low - x) / expm1(low - high) : 0;
}

/* PPL^ - Ent^ of a sample that has a place. */
static double lean(const struct placing *placing, size_t sample)
{
    size_t last = placing->count - 1;
    double low = placing->entropies[0], high = placing->entropies[last];
    double entropy = high > low ? (placing->batch->entropies[sample] - low) / (high - low) : 0;
    return scale_perplexity(placing->batch->nll_means[sample], placing->nll_means[0],
                            placing->nll_means[last]) -
           entropy;
}

static bool is_kept(enum q_tuning_label label)
{
    return label == Q_TUNING_KEPT_WHOLE || label == Q_TUNING_TOKENS_PRUNED;
}

/* The `wanted` samples of greatest support come to stand in front of placing->order: of the kept ones, or of the dropped ones. */
static bool choose(struct placing *placing, bool of_kept, size_t wanted, struct error *error)
{
    size_t count = 0;
    for (size_t i = 0; i < placing->batch->count; i++) {
        enum q_tuning_label label = placing->labels[i];
        bool is_candidate = of_kept ? is_kept(label) : label == Q_TUNING_DROPPED;
        placing->supports[i] = is_candidate ? fabs(lean(placing, i)) : (double)NAN;
    }
    if (!ranking_order(placing->supports, placing->batch->count, RANKING_FALLING, RANKING_NAN_DROP, wanted,
                       placing->order, &count, error)) {
        return false;
    }
    CHECK(count == wanted);
    return true;
}

static bool add_samples(struct placing *placing, size_t wanted, struct error *error)
{
    if (!choose(placing, false, wanted, error)) {
        return false;
    }
    for (size_t i = 0; i < wanted; i++) {
        size_t sample = placing->order[i];
        placing->labels[sample] = lean(placing, sample) > 0 ? Q_TUNING_TOKENS_PRUNED : Q_TUNING_KEPT_WHOLE;
    }
    return true;
}

static bool trim_samples(struct placing *placing, size_t wanted, struct error *error)
{
    if (!choose(placing, true, wanted, error)) {
        return false;
    }
    for (size_t i = 0; i < wanted; i++) {
        placing->supports[placing->order[i]] = (double)NAN;
    }
    for (size_t i = 0; i < placing->batch->count; i++) {
        if (!isnan(placing->supports[i])) {
            placing->labels[i] = Q_TUNING_DROPPED;
        }
    }
    return true;
}

bool q_tuning_select_samples(const struct q_tuning_batch *batch, const struct q_tuning_rules *rules,
                             enum q_tuning_label *ret_labels, struct q_tuning_summary *ret_summary,
                             struct error *error)
{
    CHECK(rules->sample_ratio > 0 && rules->sample_ratio <= 1 && rules->step_count > 0);
    CHECK(rules->share_limit > 0 && rules->share_limit <= 0.5);
    FINISHED(placing) placing = {0};
    if (!placing_init(&placing, batch, ret_labels, error)) {
        return false;
    }
    sort_axes(&placing);
    struct q_tuning_summary summary = {.count = placing.count};
    double low = 0, high = rules->share_limit;
    for (size_t step = 0; step < rules->step_count && placing.count > 0; step++) {
        summary.share = (low + high) / 2;
        summary.corner_count = label_corners(&placing, summary.share);
        bool is_short = (double)summary.corner_count / (double)placing.count < rules->sample_ratio;
        *(is_short ? &low : &high) = summary.share;
    }
    size_t target = quantile_count_reaching(rules->sample_ratio, placing.count), held = summary.corner_count;
    summary.kept_count = target;
    if ((held < target && !add_samples(&placing, target - held, error)) ||
        (held > target && !trim_samples(&placing, target, error))) {
        return false;
    }
    *ret_summary = summary;
    return true;
}

/* ---- tokens -------------------------------------------------------------------------------------- */

static void score_tokens(const double *perplexities, size_t count, const struct q_tuning_rules *rules,
                         double *ret_scores)
{
    for (size_t i = 0; i < count; i++) {
        double neighbours = 0;
        size_t there = 0;
        if (i > 0) {
            neighbours += perplexities[i - 1];
            there++;
        }
        if (i + 1 < count) {
            neighbours += perplexities[i + 1];
            there++;
        }
        if (there == 2 && !rules->sums_neighbours) {
            neighbours /= 2;
        }
        ret_scores[i] =
            (1 - rules->neighbour_weight) * perplexities[i] + rules->neighbour_weight * neighbours;
    }
}

bool q_tuning_select_tokens(const double *nlls, size_t count, const struct q_tuning_rules *rules,
                            bool *ret_is_kept, struct error *error)
{
    CHECK(rules->token_ratio > 0 && rules->token_ratio <= 1);
    CHECK(rules->neighbour_weight >= 0 && rules->neighbour_weight <= 1);
    OWNED_MEMORY double *perplexities =
        memory_try_array(count, 2 * sizeof *perplexities, "scores of tokens", error);
    OWNED_MEMORY size_t *order = memory_try_array(count, sizeof *order, "scores of tokens", error);
    if (perplexities == NULL || order == NULL) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (isnan(nlls[i])) {
            return error_set(error, ERROR_NUMERIC, "the loss of response token %zu is NaN", i);
        }
        perplexities[i] = exp(fmin(nlls[i], NLL_LIMIT));
    }
    double *scores = perplexities + count;
    size_t wanted = quantile_count_within(rules->token_ratio, count), kept = 0;
    wanted = wanted == 0 ? 1 : wanted;
    score_tokens(perplexities, count, rules, scores);
    if (!ranking_order(scores, count, rules->keeps_high_tokens ? RANKING_FALLING : RANKING_RISING,
                       RANKING_NAN_ERROR, wanted, order, &kept, error)) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        ret_is_kept[i] = false;
    }
    for (size_t i = 0; i < kept; i++) {
        ret_is_kept[order[i]] = true;
    }
    return true;
}
