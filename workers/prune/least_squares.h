/*
 * workers/prune/least_squares.h: repairing a linear projection after it has lost inputs, in closed form (structured_pruning 15b).
 *
 * The projection computes z = W x + b from the inputs x that it kept, and should compute y; e = y - z (gram.h). A correction (D, d) of weights
 * and bias leaves e - D x - d:
 *
 *     none      D = 0, d = 0
 *     bias      d = mean(e). Of an otherwise dense model this is FLAP's W_P mean(x_P).
 *     ls        D = E^T X (C + l I)^-1
 *     ls_bias   the same of centred sums, and d = mean(e) - D mean(x)
 *
 * The correction form: with E = Y - X W^T it is W + (Y^T X - W C)(C + l I)^-1, which leaves W as it is where nothing is missing (a plain ridge
 * regression on Y would shrink it). l is relative to the mean of C's diagonal (centred for ls_bias) and the best of 1e-4, 1e-3, 1e-2, 1e-1
 * by the error over held-out tokens, which is exact arithmetic over their sums:
 *
 *     sum |e - D x - d|^2 = sum e^2 - 2 <D, E^T X> + <D C, D> - 2 d.sum(e) + 2 d.(D sum(x)) + n d^2
 *
 * Where rows have weights w all of this is of w (e - D x - d): means are weighted with w^2, and n is the sum of w^2.
 *
 * A correction stands only where it lowers that error. Weights are fitted only to at least LEAST_SQUARES_TOKENS tokens for each input.
 *
 * Cost: a factor for each l and form ([in, in] doubles beside the sums, in^3 / 3), and LEAST_SQUARES_PROBE outputs solved to judge it (evenly
 * spread; all where there are no more), then all outputs once.
 *
 * Threads and errors as in gram.h.
 */
#ifndef WORKERS_PRUNE_LEAST_SQUARES_H
#define WORKERS_PRUNE_LEAST_SQUARES_H

#include "workers/prune/gram.h"

#define LEAST_SQUARES_TOKENS   4
#define LEAST_SQUARES_PROBE    256
/* A residual below this share of sum y^2 is the rounding of fp32: there is nothing to repair. */
#define LEAST_SQUARES_ROUNDING 1e-10

enum least_squares_mode {
    LEAST_SQUARES_NONE,
    LEAST_SQUARES_BIAS,
    LEAST_SQUARES_LS,
    LEAST_SQUARES_LS_BIAS,
    LEAST_SQUARES_AUTO /* the best of all by the held-out error */
};
const char *least_squares_name(enum least_squares_mode mode); /* "ls_bias" */
/* Of one of the names; UNKNOWN_VALUE. */
bool least_squares_parse(const char *name, enum least_squares_mode *ret_mode, struct error *error) MUST_USE;

/* Why the result is `none`, or less than was asked for. */
enum least_squares_note {
    LEAST_SQUARES_FITTED,
    LEAST_SQUARES_AS_ASKED,       /* none was asked for */
    LEAST_SQUARES_NOTHING_LOST,   /* the residual is rounding */
    LEAST_SQUARES_TOO_FEW_TOKENS, /* for weights; a bias may have been fitted */
    LEAST_SQUARES_NO_GAIN,        /* the held-out error would rise */
    LEAST_SQUARES_NO_BIAS,        /* only a bias was asked for, and there can be none */
};
const char *least_squares_note_text(enum least_squares_note note); /* "fitted", "too_few_tokens" */

struct least_squares_request {
    enum least_squares_mode mode;
    bool can_have_bias; /* else bias is none, and ls_bias is ls */
};
struct least_squares_result {
    enum least_squares_mode mode; /* NONE, BIAS, LS, LS_BIAS */
    enum least_squares_note note;
    double lambda;                    /* relative; 0 where no weights were fitted */
    double error_before, error_after; /* over held-out tokens, relative to sum y^2 (0 where that is 0) */
    uint64_t tokens, held_out_tokens;
    /* The correction. weights: [out, in], lies in the gram; NULL: none. bias: owned, [out]; NULL: none. */
    const double *weights;
    double *bias;
};
/* gram: finished; the cross sums of its fit part are used up. */
bool least_squares_solve(struct gram *gram, const struct dense_threads *threads,
                         const struct least_squares_request *request, struct least_squares_result *ret_result,
                         struct error *error) MUST_USE;
void least_squares_result_finish(struct least_squares_result *result);
/* Beside the gram, while it is solved. */
uint64_t least_squares_bytes(size_t in, size_t out);

/* The plain ridge map over the fit part (ReplaceMe, 15c: x a row of M, y of L - Y; alpha absolute): the cross sums become
 * E^T X (C + alpha I)^-1 [out, in] = T*^T, which goes before the projection that makes x: W_down <- T*^T W_down. NUMERIC where C + alpha I is
 * not positive definite. */
bool least_squares_map(struct gram *gram, const struct dense_threads *threads, double alpha,
                       const double **ret_map, struct error *error) MUST_USE;
/* weights [in, columns] become map [out, in] times them, [out, columns], in double. */
bool least_squares_fold(const struct dense_threads *threads, const double *map, size_t out, size_t in,
                        const float *weights, size_t columns, float *ret_weights,
                        struct error *error) MUST_USE;

#endif
