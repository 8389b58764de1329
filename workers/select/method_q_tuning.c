/*
 * workers/select/method_q_tuning.c: the sample stage of Q-Tuning (q_tuning.h) over the whole data set as one batch: what the pruned model gets wrong
 * although it is sure, and what it gets right although it is not. The token stage, where `token_ratio`
 * asks for it, is that of one pass: the training asks it anew for every batch.
 *
 * The order, which the paper does not have: those that the stage keeps come first, then the others; both by falling contrast of loss and entropy,
 * each scaled to 0..1, by which the paper fills up its corners.
 */
#include "workers/select/q_tuning.h"
#include "workers/select/select.h"

#include "base/memory.h"
#include <math.h>

enum { STEPS = 9 };

static const struct param_spec params[] = {
    {.name = "token_ratio",
     .type = PARAM_NUMBER,
     .flags = PARAM_NULLABLE,
     .min = 0.001,
     .max = 1,
     .help =
         "Of chosen records that the model gets wrong although it is sure, this share of the response's tokens is to be learnt: those of lowest "
         "perplexity, with their neighbours'; file token_masks.jsonl says which. None is left out unless given."},
    {.name = "neighbour_weight",
     .type = PARAM_NUMBER,
     .max = 1,
     .default_json = "0.5",
     .help = "How much the two tokens beside it count for a token there."},
};

/* The least of a column, of samples that have a place, and its range. */
static void scale_of(const double *values, const enum q_tuning_label *labels, size_t count, double *ret_least,
                     double *ret_range)
{
    double least = (double)INFINITY, most = -(double)INFINITY;
    for (size_t i = 0; i < count; i++) {
        bool has_place = labels[i] != Q_TUNING_UNDEFINED;
        least = has_place ? fmin(least, values[i]) : least;
        most = has_place ? fmax(most, values[i]) : most;
    }
    *ret_least = least;
    *ret_range = most - least;
}

/* Scores: contrast, and NaN of samples that have no place. */
static void find_contrasts(const struct select_run *run, const enum q_tuning_label *labels,
                           double *ret_scores)
{
    const struct select_records *records = run->records;
    double loss = 0, losses = 0, entropy = 0, entropies = 0;
    scale_of(records->losses, labels, records->count, &loss, &losses);
    scale_of(records->entropies, labels, records->count, &entropy, &entropies);
    for (size_t i = 0; i < records->count; i++) {
        double high_loss = losses > 0 ? (records->losses[i] - loss) / losses : 0;
        double high_entropy = entropies > 0 ? (records->entropies[i] - entropy) / entropies : 0;
        ret_scores[i] = labels[i] == Q_TUNING_UNDEFINED ? (double)NAN : fabs(high_loss - high_entropy);
    }
}

/* Kept ones first; returns how many are ranked. */
static bool order_records(const double *scores, const enum q_tuning_label *labels, size_t count,
                          size_t *order, size_t *ret_ranked, struct error *error)
{
    OWNED_MEMORY size_t *all = memory_try_array(count, sizeof *all, "the order of records", error);
    if (all == NULL ||
        !ranking_order(scores, count, RANKING_FALLING, RANKING_NAN_DROP, count, all, ret_ranked, error)) {
        return false;
    }
    size_t at = 0;
    for (size_t pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < *ret_ranked; i++) {
            if ((labels[all[i]] == Q_TUNING_DROPPED) == (pass == 1)) {
                order[at++] = all[i];
            }
        }
    }
    return true;
}

static bool q_tuning_select(const struct select_run *run, struct selection *ret_selection,
                            struct error *error)
{
    const struct select_records *records = run->records;
    size_t count = records->count, wanted = selection_wanted(run), ranked = 0;
    ret_selection->score_name = "contrast";
    OWNED_MEMORY enum q_tuning_label *labels = memory_try_array(count, sizeof *labels, "labels", error);
    OWNED_MEMORY size_t *order = memory_try_array(count, sizeof *order, "the order of records", error);
    if (labels == NULL || order == NULL || count == 0) {
        return labels != NULL && order != NULL;
    }
    const struct q_tuning_batch batch = {.count = count,
                                         .nll_means = records->losses,
                                         .entropies = records->entropies,
                                         .tokens = records->response_tokens};
    const struct q_tuning_rules rules = {.sample_ratio = (double)(wanted > 0 ? wanted : 1) / (double)count,
                                         .token_ratio = 1,
                                         .share_limit = 0.49,
                                         .step_count = STEPS};
    struct q_tuning_summary summary;
    if (!q_tuning_select_samples(&batch, &rules, labels, &summary, error)) {
        return false;
    }
    find_contrasts(run, labels, ret_selection->scores);
    if (!order_records(ret_selection->scores, labels, count, order, &ranked, error)) {
        return false;
    }
    size_t misled = 0, open = 0;
    for (size_t i = 0; i < count; i++) {
        ret_selection->reasons[i] =
            labels[i] == Q_TUNING_UNDEFINED ? SELECT_FILTERED : ret_selection->reasons[i];
        misled += labels[i] == Q_TUNING_TOKENS_PRUNED ? 1 : 0;
        open += labels[i] == Q_TUNING_KEPT_WHOLE ? 1 : 0;
    }
    selection_take(ret_selection, run, order, ranked);
    if (json_is_number(json_object_get(run->parameters, "token_ratio"))) {
        ret_selection->is_token_pruned =
            memory_try_array(count, sizeof *ret_selection->is_token_pruned, "labels", error);
        for (size_t i = 0; i < count && ret_selection->is_token_pruned != NULL; i++) {
            ret_selection->is_token_pruned[i] = labels[i] == Q_TUNING_TOKENS_PRUNED;
        }
        if (ret_selection->is_token_pruned == NULL) {
            return false;
        }
    }
    json_put_i64(ret_selection->details, "sure_and_wrong", (int64_t)misled);
    json_put_i64(ret_selection->details, "unsure_and_right", (int64_t)open);
    json_put_i64(ret_selection->details, "in_corners", (int64_t)summary.corner_count);
    json_put_double(ret_selection->details, "corner_share", summary.share);
    return true;
}

const struct select_method select_method_q_tuning = {
    .name = "q_tuning",
    .summary = "What the pruned model gets wrong although it is sure, and right although it is not.",
    .reference = "Q-Tuning, arXiv 2509.23873: over all records at once",
    .needs = SELECT_NEED_LOSSES | SELECT_NEED_ENTROPIES,
    .is_loss_of_pruned = true,
    .params = params,
    .param_count = sizeof params / sizeof params[0],
    .select = q_tuning_select,
};
