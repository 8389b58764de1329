/* workers/prune/least_squares.c: see least_squares.h. Outputs are rows and each is a problem of its own, so blocks of them pass through one
 * factor. */
#include "workers/prune/least_squares.h"

#include "base/check.h"
#include "base/memory.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double lambdas[] = {1e-4, 1e-3, 1e-2, 1e-1};
#define LAMBDA_COUNT (sizeof lambdas / sizeof lambdas[0])

static const char *const names[] = {"none", "bias", "ls", "ls_bias", "auto"};

const char *least_squares_name(enum least_squares_mode mode)
{
    return names[mode];
}

bool least_squares_parse(const char *name, enum least_squares_mode *ret_mode, struct error *error)
{
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(name, names[i]) == 0) {
            *ret_mode = (enum least_squares_mode)i;
            return true;
        }
    }
    return error_set(error, ERROR_UNKNOWN_VALUE,
                     "no compensation \"%.64s\"; there are none, bias, ls, ls_bias and auto", name);
}

const char *least_squares_note_text(enum least_squares_note note)
{
    static const char *const texts[] = {"fitted",         "as_asked", "nothing_lost",
                                        "too_few_tokens", "no_gain",  "no_bias"};
    return texts[note];
}

/* ---- one form ------------------------------------------------------------------------------------ */

struct solving {
    const struct gram *gram;
    const struct dense_threads *threads;
    double *factor;         /* [in, in] */
    double *rows, *product; /* [LEAST_SQUARES_PROBE, in] */
};

/* Every how many outputs one is probed. */
static size_t probe_step(const struct gram *gram)
{
    return (gram->out + LEAST_SQUARES_PROBE - 1) / LEAST_SQUARES_PROBE;
}

uint64_t least_squares_bytes(size_t in, size_t out)
{
    size_t probe = out < LEAST_SQUARES_PROBE ? out : LEAST_SQUARES_PROBE;
    return ((uint64_t)in * in + 2 * (uint64_t)probe * in + 4 * (uint64_t)out) * sizeof(double);
}

static double dot(const double *a, const double *b, size_t count)
{
    double sum = 0.0;
    for (size_t i = 0; i < count; i++) {
        sum += a[i] * b[i];
    }
    return sum;
}

/* The factor of C + lambda I, or of its centred form. *ret_is_good: it has one. lambda: absolute where is_absolute. */
static bool factor(const struct solving *solving, bool is_centred, double lambda, bool is_absolute,
                   bool *ret_is_good, struct error *error)
{
    const struct gram_sums *fit = &solving->gram->parts[GRAM_FIT];
    size_t n = solving->gram->in;
    double mean = 0.0, scale = is_centred && fit->weight > 0.0 ? 1.0 / fit->weight : 0.0;
    for (size_t i = 0; i < n; i++) {
        const double *c = fit->c.values + i * fit->c.stride;
        double *to = solving->factor + i * n;
        for (size_t j = 0; j <= i; j++) {
            to[j] = c[j] - scale * fit->x[i] * fit->x[j];
        }
        mean += to[i] / (double)n;
    }
    for (size_t i = 0; i < n; i++) {
        solving->factor[i * n + i] += is_absolute ? lambda : lambda * mean;
    }
    struct error failure = {0};
    *ret_is_good = dense_cholesky(solving->threads, n, solving->factor, n, &failure);
    if (!*ret_is_good && (failure.code != ERROR_NUMERIC || is_absolute)) {
        if (error != NULL) {
            *error = failure;
        }
        return false;
    }
    return true;
}

/* rows [count, in] become D's rows of outputs[first + r * step]. */
static void gather_outputs(const struct solving *solving, bool is_centred, size_t count, size_t first,
                           size_t step, double *rows)
{
    const struct gram_sums *fit = &solving->gram->parts[GRAM_FIT];
    size_t n = solving->gram->in;
    double scale = is_centred && fit->weight > 0.0 ? 1.0 / fit->weight : 0.0;
    for (size_t r = 0; r < count; r++) {
        size_t output = first + r * step;
        for (size_t i = 0; i < n; i++) {
            rows[r * n + i] = fit->cross[output * n + i] - scale * fit->e[output] * fit->x[i];
        }
    }
}

static double bias_of(const struct gram *gram, size_t output, const double *weights)
{
    const struct gram_sums *fit = &gram->parts[GRAM_FIT];
    double missing = fit->e[output] - (weights != NULL ? dot(weights, fit->x, gram->in) : 0.0);
    return fit->weight > 0.0 ? missing / fit->weight : 0.0;
}

/* The held-out error of one output: weights [in] and their product with C, or NULL. */
static double error_of(const struct gram *gram, size_t output, const double *weights, const double *product,
                       double bias)
{
    const struct gram_sums *held = &gram->parts[GRAM_HELD_OUT];
    double sum = held->e_squares[output] + bias * (bias * held->weight - 2.0 * held->e[output]);
    if (weights != NULL) {
        sum +=
            dot(weights, product, gram->in) - 2.0 * dot(weights, held->cross + output * gram->in, gram->in);
        sum += 2.0 * bias * dot(weights, held->x, gram->in);
    }
    return sum;
}

static double bias_error(const struct gram *gram, bool is_fitted)
{
    double sum = 0.0;
    for (size_t o = 0; o < gram->out; o++) {
        sum += error_of(gram, o, NULL, NULL, is_fitted ? bias_of(gram, o, NULL) : 0.0);
    }
    return sum;
}

/* The error of `count` rows of D that are solved. */
static bool add_errors(const struct solving *solving, bool is_centred, size_t count, size_t first,
                       size_t step, const double *rows, double *error_sum, struct error *error)
{
    const struct gram *gram = solving->gram;
    size_t n = gram->in;
    if (!dense_multiply_symmetric(solving->threads, count, rows, n, &gram->parts[GRAM_HELD_OUT].c,
                                  solving->product, n, error)) {
        return false;
    }
    for (size_t r = 0; r < count; r++) {
        size_t output = first + r * step;
        double bias = is_centred ? bias_of(gram, output, rows + r * n) : 0.0;
        *error_sum += error_of(gram, output, rows + r * n, solving->product + r * n, bias);
    }
    return true;
}

/* ---- choosing ------------------------------------------------------------------------------------ */

struct choice {
    bool is_fitted, is_centred;
    double lambda;
    double error; /* over the probed outputs */
};

/* The best lambda of one form, where it is better than `best`. */
static bool try_form(const struct solving *solving, bool is_centred, struct choice *best, struct error *error)
{
    const struct gram *gram = solving->gram;
    size_t step = probe_step(gram), count = (gram->out + step - 1) / step;
    for (size_t i = 0; i < LAMBDA_COUNT; i++) {
        bool is_good = false;
        double sum = 0.0;
        if (!factor(solving, is_centred, lambdas[i], false, &is_good, error)) {
            return false;
        }
        if (!is_good) {
            continue;
        }
        gather_outputs(solving, is_centred, count, 0, step, solving->rows);
        if (!dense_cholesky_solve(solving->threads, gram->in, solving->factor, gram->in, count, solving->rows,
                                  gram->in, error) ||
            !add_errors(solving, is_centred, count, 0, step, solving->rows, &sum, error)) {
            return false;
        }
        if (isfinite(sum) && (!best->is_fitted || sum < best->error)) {
            *best = (struct choice){true, is_centred, lambdas[i], sum};
        }
    }
    return true;
}

/* All outputs of the chosen form: D takes the place of the cross sums, by blocks of outputs. Where the fit turns out to be no better than
 * `limit`, *ret_error says so and nothing may be read of them. */
static bool solve_all(const struct solving *solving, struct gram *gram, const struct choice *choice,
                      double *ret_error, struct error *error)
{
    bool is_good = false;
    *ret_error = 0.0;
    if (!factor(solving, choice->is_centred, choice->lambda, false, &is_good, error)) {
        return false;
    }
    CHECK(is_good); /* it had a factor before */
    size_t n = gram->in;
    for (size_t first = 0; first < gram->out; first += LEAST_SQUARES_PROBE) {
        size_t left = gram->out - first, count = left < LEAST_SQUARES_PROBE ? left : LEAST_SQUARES_PROBE;
        double *to = gram->parts[GRAM_FIT].cross + first * n;
        gather_outputs(solving, choice->is_centred, count, first, 1, to);
        if (!dense_cholesky_solve(solving->threads, n, solving->factor, n, count, to, n, error) ||
            !add_errors(solving, choice->is_centred, count, first, 1, to, ret_error, error)) {
            return false;
        }
    }
    return true;
}

static void fill_bias(const struct gram *gram, const double *weights, struct least_squares_result *result)
{
    result->bias = memory_create(gram->out, sizeof *result->bias);
    for (size_t o = 0; o < gram->out; o++) {
        result->bias[o] = bias_of(gram, o, weights != NULL ? weights + o * gram->in : NULL);
    }
}

static bool fit_weights(struct gram *gram, const struct dense_threads *threads, bool can_be_plain,
                        bool can_be_centred, double *error_now, struct least_squares_result *result,
                        struct error *error)
{
    size_t n = gram->in, count = gram->out < LEAST_SQUARES_PROBE ? gram->out : LEAST_SQUARES_PROBE;
    OWNED_MEMORY double *square = memory_try_array(n, n * sizeof *square, "a factor", error);
    OWNED_MEMORY double *rows = memory_try_array(count, n * sizeof *rows, "solutions", error);
    OWNED_MEMORY double *product = memory_try_array(count, n * sizeof *product, "solutions", error);
    if (square == NULL || rows == NULL || product == NULL) {
        return false;
    }
    struct solving solving = {gram, threads, square, rows, product};
    struct choice best = {0};
    double sum = 0.0;
    if ((can_be_plain && !try_form(&solving, false, &best, error)) ||
        (can_be_centred && !try_form(&solving, true, &best, error))) {
        return false;
    }
    if (!best.is_fitted) {
        return true;
    }
    if (!solve_all(&solving, gram, &best, &sum, error)) {
        return false;
    }
    if (isfinite(sum) && sum < *error_now) {
        *error_now = sum;
        result->mode = best.is_centred ? LEAST_SQUARES_LS_BIAS : LEAST_SQUARES_LS;
        result->note = LEAST_SQUARES_FITTED;
        result->lambda = best.lambda;
        result->weights = gram->parts[GRAM_FIT].cross;
    }
    return true;
}

bool least_squares_solve(struct gram *gram, const struct dense_threads *threads,
                         const struct least_squares_request *request, struct least_squares_result *ret_result,
                         struct error *error)
{
    CHECK(gram->out > 0 && gram->block_count == 0);
    const struct gram_sums *fit = &gram->parts[GRAM_FIT], *held = &gram->parts[GRAM_HELD_OUT];
    bool is_auto = request->mode == LEAST_SQUARES_AUTO, can_have_bias = request->can_have_bias;
    bool wants_bias = can_have_bias && (is_auto || request->mode == LEAST_SQUARES_BIAS);
    bool wants_centred = can_have_bias && (is_auto || request->mode == LEAST_SQUARES_LS_BIAS);
    bool wants_plain = is_auto || request->mode == LEAST_SQUARES_LS ||
                       (request->mode == LEAST_SQUARES_LS_BIAS && !can_have_bias);
    double before = bias_error(gram, false), now = before;
    struct least_squares_result result = {
        .note = LEAST_SQUARES_NO_GAIN, .tokens = fit->tokens, .held_out_tokens = held->tokens};
    if (request->mode == LEAST_SQUARES_NONE) {
        result.note = LEAST_SQUARES_AS_ASKED;
    } else if (request->mode == LEAST_SQUARES_BIAS && !can_have_bias) {
        result.note = LEAST_SQUARES_NO_BIAS;
    } else if (before <= LEAST_SQUARES_ROUNDING * held->y_square) {
        result.note = held->tokens > 0 ? LEAST_SQUARES_NOTHING_LOST : LEAST_SQUARES_TOO_FEW_TOKENS;
    } else {
        double with_bias = wants_bias && fit->tokens > 0 ? bias_error(gram, true) : before;
        bool has_tokens = fit->tokens >= LEAST_SQUARES_TOKENS * (uint64_t)gram->in;
        if (with_bias < now) {
            now = with_bias;
            result.mode = LEAST_SQUARES_BIAS;
            result.note = LEAST_SQUARES_FITTED;
        }
        if ((wants_plain || wants_centred) && !has_tokens) {
            result.note = LEAST_SQUARES_TOO_FEW_TOKENS;
        } else if ((wants_plain || wants_centred) &&
                   !fit_weights(gram, threads, wants_plain, wants_centred, &now, &result, error)) {
            return false;
        }
    }
    if (result.mode == LEAST_SQUARES_BIAS || result.mode == LEAST_SQUARES_LS_BIAS) {
        fill_bias(gram, result.weights, &result);
    }
    result.error_before = held->y_square > 0.0 ? before / held->y_square : 0.0;
    result.error_after = held->y_square > 0.0 ? now / held->y_square : 0.0;
    *ret_result = result;
    return true;
}

void least_squares_result_finish(struct least_squares_result *result)
{
    free(result->bias);
    *result = (struct least_squares_result){0};
}

/* ---- a map --------------------------------------------------------------------------------------- */

bool least_squares_map(struct gram *gram, const struct dense_threads *threads, double alpha,
                       const double **ret_map, struct error *error)
{
    CHECK(gram->out > 0 && gram->block_count == 0);
    size_t n = gram->in;
    double *cross = gram->parts[GRAM_FIT].cross;
    OWNED_MEMORY double *square = memory_try_array(n, n * sizeof *square, "a factor", error);
    bool is_good = false;
    struct solving solving = {.gram = gram, .threads = threads, .factor = square};
    if (square == NULL || !factor(&solving, false, alpha, true, &is_good, error) ||
        !dense_cholesky_solve(threads, n, square, n, gram->out, cross, n, error)) {
        return false;
    }
    *ret_map = cross;
    return true;
}

bool least_squares_fold(const struct dense_threads *threads, const double *map, size_t out, size_t in,
                        const float *weights, size_t columns, float *ret_weights, struct error *error)
{
    OWNED_MEMORY double *from = memory_try_array(in + 1, (columns + 1) * sizeof *from, "weights", error);
    OWNED_MEMORY double *to = memory_try_array(out + 1, (columns + 1) * sizeof *to, "weights", error);
    if (from == NULL || to == NULL) {
        return false;
    }
    for (size_t i = 0; i < in * columns; i++) {
        from[i] = (double)weights[i];
    }
    struct dense_product product = {.m = out,
                                    .n = columns,
                                    .k = in,
                                    .alpha = 1.0,
                                    .a_stride = in,
                                    .b_stride = columns,
                                    .out_stride = columns};
    if (!dense_multiply(threads, &product, map, from, to, error)) {
        return false;
    }
    for (size_t i = 0; i < out * columns; i++) {
        ret_weights[i] = (float)to[i];
    }
    return true;
}
