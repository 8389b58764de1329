/* workers/prune/scores.c: see scores.h, where the equations stand. */
#include "workers/prune/scores.h"

#include "base/check.h"
#include "base/memory.h"
#include <math.h>
#include <stdlib.h>

bool weight_columns_start(struct weight_columns *columns, size_t count, struct error *error)
{
    double *values = memory_try_array(count, 2 * sizeof *values, "sums of weight columns", error);
    if (values == NULL) {
        return false;
    }
    *columns = (struct weight_columns){.count = count, .squares = values, .absolutes = values + count};
    return true;
}

void weight_columns_add(struct weight_columns *columns, const float *weights, size_t rows, size_t stride)
{
    for (size_t r = 0; r < rows; r++) {
        const float *row = weights + r * stride;
        for (size_t c = 0; c < columns->count; c++) {
            double w = (double)row[c];
            columns->squares[c] += w * w;
            columns->absolutes[c] += fabs(w);
        }
    }
    columns->rows += rows;
}

void weight_columns_finish(struct weight_columns *columns)
{
    free(columns->squares);
    *columns = (struct weight_columns){0};
}

static double mean_absolute(const struct weight_columns *columns, size_t c)
{
    return columns->rows > 0 ? columns->absolutes[c] / (double)columns->rows : 0;
}

void score_wanda_sp(const struct moments *moments, const struct weight_columns *columns, double *ret_scores)
{
    CHECK(moments->count == columns->count);
    moments_norm(moments, ret_scores);
    for (size_t c = 0; c < columns->count; c++) {
        ret_scores[c] *= mean_absolute(columns, c);
    }
}

void score_magnitude_sp(const struct weight_columns *columns, double *ret_scores)
{
    for (size_t c = 0; c < columns->count; c++) {
        ret_scores[c] = sqrt(columns->squares[c]);
    }
}

void score_mean_absolute(const struct weight_columns *columns, double *ret_scores)
{
    for (size_t c = 0; c < columns->count; c++) {
        ret_scores[c] = mean_absolute(columns, c);
    }
}

void score_minitron(const struct moments *moments, double *ret_scores)
{
    moments_sequence_norm(moments, ret_scores);
}

void score_two_ssp(const struct moments *moments, const struct weight_columns *columns, double *ret_scores)
{
    CHECK(moments->count == columns->count);
    for (size_t c = 0; c < columns->count; c++) {
        ret_scores[c] = sqrt(moments->raw_square[c]) * sqrt(columns->squares[c]);
    }
}

void score_flap(enum flap_metric metric, bool is_attention, const struct moments *moments,
                const struct weight_columns *columns, double *ret_scores)
{
    CHECK(metric == FLAP_IFV || (columns != NULL && columns->count == moments->count));
    switch (metric) {
    case FLAP_WIFV:
    case FLAP_IFV:
        moments_variance(moments, ret_scores);
        for (size_t c = 0; metric == FLAP_WIFV && c < moments->count; c++) {
            ret_scores[c] *= columns->squares[c];
        }
        break;
    case FLAP_WIFN:
        score_wanda_sp(moments, columns, ret_scores);
        break;
    }
    for (size_t c = 0; is_attention && c < moments->count; c++) {
        ret_scores[c] *= ret_scores[c];
    }
}

void score_standardise(double *scores, size_t count)
{
    double mean = 0, square = 0;
    for (size_t i = 0; i < count; i++) {
        mean += scores[i];
    }
    mean /= count > 0 ? (double)count : 1;
    for (size_t i = 0; i < count; i++) {
        square += (scores[i] - mean) * (scores[i] - mean);
    }
    double deviation = count > 1 ? sqrt(square / (double)(count - 1)) : 0;
    /* Scores that are equal but for the rounding of their mean do not deviate. */
    bool is_flat = deviation <= fabs(mean) * 1e-15;
    for (size_t i = 0; i < count; i++) {
        scores[i] = is_flat ? 0 : (scores[i] - mean) / deviation;
    }
}

void score_cfsp(const struct moments *moments, size_t rows, size_t terms, double power, double *ret_scores)
{
    moments_norm(moments, ret_scores);
    for (size_t c = 0; c < moments->count; c++) {
        double norm = ret_scores[c];
        ret_scores[c] = norm == 0 ? 0 : (double)terms / (double)rows * pow(norm, power);
    }
}

/* Adds mean over r of |W[c,r]| / sum over c' of |W[c',r]| for a projection [count, rows] into the channels. */
static bool add_input_shares(const float *weights, size_t count, size_t rows, double *scores,
                             struct error *error)
{
    OWNED_MEMORY double *sums = memory_try_array(rows, sizeof *sums, "sums of weight columns", error);
    if (sums == NULL) {
        return false;
    }
    for (size_t c = 0; c < count; c++) {
        for (size_t r = 0; r < rows; r++) {
            sums[r] += fabs((double)weights[c * rows + r]);
        }
    }
    for (size_t c = 0; c < count; c++) {
        double share = 0;
        for (size_t r = 0; r < rows; r++) {
            share += sums[r] > 0 ? fabs((double)weights[c * rows + r]) / sums[r] : 0;
        }
        scores[c] += share / (double)rows;
    }
    return true;
}

bool score_cfsp_channels(const struct moments *moments, const float *down, const float *up, const float *gate,
                         size_t rows, double inner_power, double power, double *ret_scores,
                         struct error *error)
{
    size_t count = moments->count;
    OWNED_MEMORY double *norms = memory_try_array(count, 2 * sizeof *norms, "norms of channels", error);
    if (norms == NULL) {
        return false;
    }
    double *inner = norms + count;
    moments_norm(moments, norms);
    for (size_t c = 0; c < count; c++) {
        inner[c] = norms[c] == 0 ? 0 : pow(norms[c], inner_power);
        ret_scores[c] = 0;
    }
    for (size_t r = 0; r < rows; r++) {
        const float *row = down + r * count;
        double sum = 0;
        for (size_t c = 0; c < count; c++) {
            sum += fabs((double)row[c]) * inner[c];
        }
        for (size_t c = 0; sum > 0 && c < count; c++) {
            ret_scores[c] += fabs((double)row[c]) * inner[c] / sum / (double)rows;
        }
    }
    if ((up != NULL && !add_input_shares(up, count, rows, ret_scores, error)) ||
        (gate != NULL && !add_input_shares(gate, count, rows, ret_scores, error))) {
        return false;
    }
    for (size_t c = 0; c < count; c++) {
        ret_scores[c] *= norms[c] == 0 ? 0 : pow(norms[c], power);
    }
    return true;
}

static double fold_unit(enum score_fold fold, const double *scores, size_t count)
{
    double result = fold == SCORE_MAX ? scores[0] : 0;
    for (size_t i = 0; i < count; i++) {
        switch (fold) {
        case SCORE_SUM:
        case SCORE_MEAN:
            result += scores[i];
            break;
        case SCORE_NORM:
            result += scores[i] * scores[i];
            break;
        case SCORE_MAX:
            result = scores[i] > result || isnan(scores[i]) ? scores[i] : result;
            break;
        }
    }
    return fold == SCORE_NORM ? sqrt(result) : fold == SCORE_MEAN ? result / (double)count : result;
}

void score_fold(enum score_fold fold, const double *scores, size_t count, size_t unit_size,
                double *ret_scores)
{
    CHECK(unit_size > 0 && count % unit_size == 0);
    for (size_t i = 0; i < count / unit_size; i++) {
        ret_scores[i] = fold_unit(fold, scores + i * unit_size, unit_size);
    }
}

void score_add(double *to, const double *from, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        to[i] += from[i];
    }
}

bool score_check(const double *scores, size_t count, const char *what, struct error *error)
{
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(scores[i])) {
            return error_set(error, ERROR_NUMERIC, "the score of unit %zu of %s is not a finite number", i,
                             what);
        }
    }
    return true;
}
