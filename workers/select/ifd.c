/* workers/select/ifd.c: see ifd.h. */
#include "workers/select/ifd.h"

#include "base/cleanup.h"
#include "base/memory.h"
#include "workers/select/quantile.h"
#include "workers/select/ranking.h"
#include <math.h>

enum ifd_verdict ifd_judge_lengths(const struct ifd_rules *rules, uint32_t prompt_tokens,
                                   uint32_t answer_tokens)
{
    if (answer_tokens == 0) {
        return IFD_EMPTY_ANSWER;
    }
    if (answer_tokens < rules->min_answer_tokens) {
        return IFD_SHORT_ANSWER;
    }
    if (prompt_tokens >= rules->max_tokens) {
        return IFD_LONG_PROMPT;
    }
    return answer_tokens > rules->max_tokens - prompt_tokens ? IFD_LONG_RECORD : IFD_RANKED;
}

/* NaN: undefined. */
static double score_of(enum ifd_form form, double conditional, double alone)
{
    bool is_defined = isfinite(conditional) && isfinite(alone) && conditional >= 0 && alone >= 0;
    if (!is_defined || (form == IFD_LOSS_RATIO && alone <= 0)) {
        return (double)NAN;
    }
    return form == IFD_LOSS_RATIO ? conditional / alone : exp(conditional - alone);
}

/* ranked: [count], the score of a record that is to be ranked, else NaN. */
static void judge_records(const struct ifd_records *records, const struct ifd_rules *rules,
                          struct ifd_result *result, double *ranked)
{
    for (size_t i = 0; i < records->count; i++) {
        enum ifd_verdict verdict =
            ifd_judge_lengths(rules, records->prompt_tokens[i], records->answer_tokens[i]);
        double score = (double)NAN;
        if (verdict == IFD_RANKED) {
            score = score_of(rules->form, records->conditional_losses[i], records->alone_losses[i]);
            verdict = isnan(score) ? IFD_UNDEFINED : score > 1 ? IFD_ABOVE_ONE : IFD_RANKED;
        }
        result->scores[i] = score;
        result->verdicts[i] = verdict;
        result->verdict_counts[verdict]++;
        ranked[i] = verdict == IFD_RANKED ? score : (double)NAN;
    }
}

bool ifd_select(const struct ifd_records *records, const struct ifd_rules *rules, double rate,
                struct ifd_result *ret_result, struct error *error)
{
    size_t count = records->count, ranked_count = 0;
    OWNED_MEMORY double *ranked = memory_try_array(count, sizeof *ranked, "scores", error);
    FINISHED(ifd_result) result = {0};
    result.scores = memory_try_array(count, sizeof *result.scores, "scores", error);
    result.verdicts = memory_try_array(count, sizeof *result.verdicts, "verdicts", error);
    result.order = memory_try_array(count, sizeof *result.order, "an order of records", error);
    if (ranked == NULL || result.scores == NULL || result.verdicts == NULL || result.order == NULL) {
        return false;
    }
    judge_records(records, rules, &result, ranked);
    if (!ranking_order(ranked, count, RANKING_FALLING, RANKING_NAN_DROP, count, result.order, &ranked_count,
                       error)) {
        return false;
    }
    result.kept_count = quantile_count_within(rate, ranked_count);
    *ret_result = result;
    result = (struct ifd_result){0};
    return true;
}

void ifd_result_finish(struct ifd_result *result)
{
    free(result->scores);
    free(result->verdicts);
    free(result->order);
    *result = (struct ifd_result){0};
}
