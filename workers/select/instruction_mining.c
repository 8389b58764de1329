/* workers/select/instruction_mining.c: see instruction_mining.h. */
#include "workers/select/instruction_mining.h"

#include "base/cleanup.h"
#include "base/memory.h"
#include <math.h>

#define RANK_TOLERANCE     1e-12
#define CONSTANT_TOLERANCE 1e-12
#define MTLD_THRESHOLD     0.72

/* ---- columns ------------------------------------------------------------------------------------- */

struct table {
    const double *values; /* [rows, columns], NaN: missing */
    size_t rows, columns;
};

struct column {
    double mean; /* of what is there */
    bool is_constant;
};

static bool describe_column(const struct table *table, size_t index, struct column *ret_column,
                            struct error *error)
{
    double sum = 0, low = INFINITY, high = -INFINITY;
    size_t present = 0;
    for (size_t r = 0; r < table->rows; r++) {
        double value = table->values[r * table->columns + index];
        if (isinf(value)) {
            return error_set(error, ERROR_NUMERIC, "indicator %zu of row %zu is infinite", index, r);
        }
        if (!isnan(value)) {
            sum += value;
            low = fmin(low, value);
            high = fmax(high, value);
            present++;
        }
    }
    if (present == 0) {
        return error_set(error, ERROR_INVALID_ARGUMENT, "indicator %zu is missing in all %zu rows", index,
                         table->rows);
    }
    *ret_column = (struct column){
        .mean = sum / (double)present,
        .is_constant = high - low <= CONSTANT_TOLERANCE * fmax(fabs(low), fabs(high)),
    };
    return true;
}

/* ---- the rule ------------------------------------------------------------------------------------ */

bool instruction_mining_score(const struct instruction_mining_rule *rule, const double *indicators,
                              size_t record_count, double *ret_log_losses, bool *ret_is_filled,
                              struct error *error)
{
    const struct table table = {indicators, record_count, rule->count};
    for (size_t r = 0; r < record_count; r++) {
        ret_log_losses[r] = rule->intercept;
        ret_is_filled[r] = false;
    }
    for (size_t c = 0; c < rule->count && record_count > 0; c++) {
        struct column column = {0};
        double coefficient = rule->coefficients[c];
        if (coefficient == 0) {
            continue;
        }
        if (!describe_column(&table, c, &column, error)) {
            return false;
        }
        for (size_t r = 0; r < record_count; r++) {
            double value = indicators[r * rule->count + c];
            ret_is_filled[r] = ret_is_filled[r] || isnan(value);
            ret_log_losses[r] += coefficient * (isnan(value) ? column.mean : value);
        }
    }
    return true;
}

/* ---- the fit ------------------------------------------------------------------------------------- */

/* Everything in units of standardised columns. */
struct fitting {
    size_t runs, count;
    double *x;                     /* [runs, count] */
    double *y, y_mean, y_square;   /* [runs] log losses less their mean; the sum of their squares */
    double *means, *scales;        /* [count]; a scale of 0: the column is constant */
    double *vectors, *eigenvalues; /* [count, count], [count] of X^T X; those up to rank count */
    double *cross, *slopes;        /* [count] X^T y, and the solution */
    size_t rank;
    double residual_square;
};

static void fitting_finish(struct fitting *fitting)
{
    free(fitting->x);
    free(fitting->y);
    free(fitting->means);
    free(fitting->scales);
    free(fitting->vectors);
    free(fitting->eigenvalues);
    free(fitting->cross);
    free(fitting->slopes);
}

static bool fitting_init(struct fitting *fitting, size_t runs, size_t count, struct error *error)
{
    static const char what[] = "a fit over indicators";
    *fitting = (struct fitting){.runs = runs, .count = count};
    fitting->x = memory_try_array(runs, count * sizeof(double), what, error);
    fitting->y = memory_try_array(runs, sizeof(double), what, error);
    fitting->means = memory_try_array(count, sizeof(double), what, error);
    fitting->scales = memory_try_array(count, sizeof(double), what, error);
    fitting->vectors = memory_try_array(count, count * sizeof(double), what, error);
    fitting->eigenvalues = memory_try_array(count, sizeof(double), what, error);
    fitting->cross = memory_try_array(count, sizeof(double), what, error);
    fitting->slopes = memory_try_array(count, sizeof(double), what, error);
    return fitting->x != NULL && fitting->y != NULL && fitting->means != NULL && fitting->scales != NULL &&
           fitting->vectors != NULL && fitting->eigenvalues != NULL && fitting->cross != NULL &&
           fitting->slopes != NULL;
}

static bool take_losses(struct fitting *fitting, const double *losses, struct error *error)
{
    double sum = 0;
    for (size_t r = 0; r < fitting->runs; r++) {
        if (!isfinite(losses[r])) {
            return error_set(error, ERROR_NUMERIC, "the loss of run %zu is %g", r, losses[r]);
        }
        if (losses[r] <= 0) {
            return error_set(error, ERROR_INVALID_ARGUMENT,
                             "the loss of run %zu is %g, which has no logarithm", r, losses[r]);
        }
        fitting->y[r] = log(losses[r]);
        sum += fitting->y[r];
    }
    fitting->y_mean = sum / (double)fitting->runs;
    for (size_t r = 0; r < fitting->runs; r++) {
        fitting->y[r] -= fitting->y_mean;
        fitting->y_square += fitting->y[r] * fitting->y[r];
    }
    return true;
}

/* Missing values become the column's mean, which is 0 here. */
static bool standardise(struct fitting *fitting, const struct table *table, struct error *error)
{
    for (size_t c = 0; c < fitting->count; c++) {
        struct column column = {0};
        if (!describe_column(table, c, &column, error)) {
            return false;
        }
        double square = 0;
        fitting->means[c] = column.mean;
        for (size_t r = 0; r < fitting->runs && !column.is_constant; r++) {
            double value = table->values[r * fitting->count + c];
            double *x = &fitting->x[r * fitting->count + c];
            *x = isnan(value) ? 0 : value - column.mean;
            square += *x * *x;
        }
        fitting->scales[c] = sqrt(square / (double)fitting->runs);
        for (size_t r = 0; r < fitting->runs && !column.is_constant; r++) {
            fitting->x[r * fitting->count + c] /= fitting->scales[c];
        }
    }
    return true;
}

static double dot(const double *a, const double *b, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum += a[i] * b[i];
    }
    return sum;
}

/* slopes = (X^T X)^+ X^T y, and what they leave. */
static bool solve(struct fitting *fitting, const struct dense_threads *threads, struct error *error)
{
    size_t n = fitting->count;
    struct dense_product product = {.m = n,
                                    .n = n,
                                    .k = fitting->runs,
                                    .is_a_transposed = true,
                                    .alpha = 1,
                                    .a_stride = n,
                                    .b_stride = n,
                                    .out_stride = n};
    if (!dense_multiply(threads, &product, fitting->x, fitting->x, fitting->vectors, error) ||
        !dense_eigen(threads, n, fitting->vectors, fitting->eigenvalues, error)) {
        return false;
    }
    product.n = product.b_stride = product.out_stride = 1;
    if (!dense_multiply(threads, &product, fitting->x, fitting->y, fitting->cross, error)) {
        return false;
    }
    for (size_t i = 0; i < n && fitting->eigenvalues[i] > RANK_TOLERANCE * fitting->eigenvalues[0]; i++) {
        const double *vector = fitting->vectors + i * n;
        double scale = dot(vector, fitting->cross, n) / fitting->eigenvalues[i];
        for (size_t c = 0; c < n; c++) {
            fitting->slopes[c] += scale * vector[c];
        }
        fitting->rank++;
    }
    for (size_t r = 0; r < fitting->runs; r++) {
        double left = fitting->y[r] - dot(fitting->x + r * n, fitting->slopes, n);
        fitting->residual_square += left * left;
    }
    return true;
}

/* Back in the columns' own units. */
static void fill_coefficients(const struct fitting *fitting, struct instruction_mining_fit *fit)
{
    fit->intercept = fitting->y_mean;
    for (size_t c = 0; c < fit->count; c++) {
        fit->coefficients[c] = fitting->scales[c] > 0 ? fitting->slopes[c] / fitting->scales[c] : 0;
        fit->intercept -= fit->coefficients[c] * fitting->means[c];
    }
    fit->rank = fitting->rank;
    fit->r_squared = fitting->y_square > 0 ? 1 - fitting->residual_square / fitting->y_square : 0;
}

/* The share of the residual variance that a linear form of the standardised slopes has: form^T P form. */
static double form_variance(const struct fitting *fitting, const double *form)
{
    double sum = 0;
    for (size_t i = 0; i < fitting->rank; i++) {
        double part = dot(fitting->vectors + i * fitting->count, form, fitting->count);
        sum += part * part / fitting->eigenvalues[i];
    }
    return sum;
}

/* cross is used up. */
static void fill_statistics(struct fitting *fitting, struct instruction_mining_fit *fit)
{
    double *form = fitting->cross;
    fit->residual_variance = fit->intercept_t = (double)NAN;
    for (size_t c = 0; c < fit->count; c++) {
        fit->t_statistics[c] = (double)NAN;
        form[c] = 0;
    }
    if (fitting->runs < fit->count + 2) {
        return;
    }
    fit->residual_variance = fitting->residual_square / (double)(fitting->runs - 1 - fitting->rank);
    for (size_t c = 0; c < fit->count; c++) {
        if (fitting->scales[c] > 0) {
            form[c] = 1 / fitting->scales[c];
            fit->t_statistics[c] =
                fit->coefficients[c] / sqrt(fit->residual_variance * form_variance(fitting, form));
            form[c] = 0;
        }
    }
    for (size_t c = 0; c < fit->count; c++) {
        form[c] = fitting->scales[c] > 0 ? fitting->means[c] / fitting->scales[c] : 0;
    }
    double variance = 1 / (double)fitting->runs + form_variance(fitting, form);
    fit->intercept_t = fit->intercept / sqrt(fit->residual_variance * variance);
}

static size_t count_filled(const struct table *table)
{
    size_t filled = 0;
    for (size_t r = 0; r < table->rows; r++) {
        bool is_filled = false;
        for (size_t c = 0; c < table->columns; c++) {
            is_filled = is_filled || isnan(table->values[r * table->columns + c]);
        }
        filled += is_filled ? 1 : 0;
    }
    return filled;
}

bool instruction_mining_fit(const struct dense_threads *threads, const double *indicators,
                            const double *losses, size_t run_count, size_t count,
                            struct instruction_mining_fit *ret_fit, struct error *error)
{
    if (run_count == 0) {
        return error_set(error, ERROR_INVALID_ARGUMENT, "a fit over indicators needs at least one run");
    }
    const struct table table = {indicators, run_count, count};
    FINISHED(fitting) fitting = {0};
    FINISHED(instruction_mining_fit) fit = {.count = count, .filled_count = count_filled(&table)};
    fit.coefficients = memory_try_array(count, sizeof *fit.coefficients, "coefficients", error);
    fit.t_statistics = memory_try_array(count, sizeof *fit.t_statistics, "coefficients", error);
    if (fit.coefficients == NULL || fit.t_statistics == NULL ||
        !fitting_init(&fitting, run_count, count, error) || !take_losses(&fitting, losses, error) ||
        !standardise(&fitting, &table, error) || !solve(&fitting, threads, error)) {
        return false;
    }
    fill_coefficients(&fitting, &fit);
    fill_statistics(&fitting, &fit);
    *ret_fit = fit;
    fit = (struct instruction_mining_fit){0};
    return true;
}

void instruction_mining_fit_finish(struct instruction_mining_fit *fit)
{
    free(fit->coefficients);
    free(fit->t_statistics);
    *fit = (struct instruction_mining_fit){0};
}

/* ---- lexical diversity --------------------------------------------------------------------------- */

/* The words of the factor at hand: slots of older factors count as free. */
struct word_slot {
    int32_t word;
    size_t factor; /* from 1; 0: never used */
};

static bool add_word(struct word_slot *slots, size_t slot_count, int32_t word, size_t factor)
{
    size_t at = (size_t)((uint64_t)(uint32_t)word * UINT64_C(0x9E3779B97F4A7C15) >> 32) & (slot_count - 1);
    while (slots[at].factor == factor) {
        if (slots[at].word == word) {
            return false;
        }
        at = (at + 1) & (slot_count - 1);
    }
    slots[at] = (struct word_slot){word, factor};
    return true;
}

/* first_factor: greater than any that the slots hold. Returns the length over the factors of one direction. */
static double diversity(const int32_t *words, size_t count, bool is_backward, struct word_slot *slots,
                        size_t slot_count, size_t first_factor)
{
    double share = 1;
    size_t types = 0, tokens = 0, factor = first_factor;
    for (size_t i = 0; i < count; i++) {
        tokens++;
        types += add_word(slots, slot_count, words[is_backward ? count - 1 - i : i], factor) ? 1 : 0;
        share = (double)types / (double)tokens;
        if (share <= MTLD_THRESHOLD) {
            share = 1;
            types = tokens = 0;
            factor++;
        }
    }
    double factors = (double)(factor - first_factor) + (1 - share) / (1 - MTLD_THRESHOLD);
    return factors > 0 ? (double)count / factors : (double)count;
}

bool instruction_mining_mtld(const int32_t *words, size_t count, double *ret_mtld, struct error *error)
{
    size_t slot_count = 16;
    while (slot_count / 2 < count) {
        slot_count *= 2;
    }
    OWNED_MEMORY struct word_slot *slots =
        memory_try_array(slot_count, sizeof *slots, "the words of a text", error);
    if (slots == NULL) {
        return false;
    }
    double forward = diversity(words, count, false, slots, slot_count, 1);
    double backward = diversity(words, count, true, slots, slot_count, count + 2);
    *ret_mtld = count > 0 ? (forward + backward) / 2 : (double)NAN;
    return true;
}
