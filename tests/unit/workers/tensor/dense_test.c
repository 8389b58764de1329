/*
 * tests/unit/workers/tensor/dense_test.c: the dense algebra against plain loops in double, on awkward sizes (0, 1, 7, 129, 577:
 * around blocks and tiles) and on matrices without full rank; and that bits do not depend on the number of threads.
 *
 * Tolerances: sums over rows are fp32 products, relative to the two diagonal elements; what follows is double, so factors and
 * vectors are judged by what they rebuild.
 */
#include "base/memory.h"
#include "base/rng.h"
#include "workers/tensor/dense.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

static const size_t sizes[] = {0, 1, 7, 129, 577};

static float *rows_of(size_t count, uint64_t seed)
{
    float *values = memory_create(count + 1, sizeof *values);
    for (size_t i = 0; i < count; i++) {
        values[i] = (float)(rng_unit(&(struct rng){.seed = seed, .stream = 1}, i) - 0.45);
    }
    return values;
}

static double *doubles_of(size_t count, uint64_t seed)
{
    double *values = memory_create(count + 1, sizeof *values);
    for (size_t i = 0; i < count; i++) {
        values[i] = rng_unit(&(struct rng){.seed = seed, .stream = 2}, i) - 0.5;
    }
    return values;
}

/* The truth: out [m, n] = Y^T X in double, one element after another. */
static double *cross_by_loops(size_t rows, size_t m, const float *y, size_t n, const float *x)
{
    double *out = memory_create(m * n + 1, sizeof *out);
    for (size_t r = 0; r < rows; r++) {
        for (size_t i = 0; i < m; i++) {
            for (size_t j = 0; j < n; j++) {
                out[i * n + j] += (double)y[r * m + i] * (double)x[r * n + j];
            }
        }
    }
    return out;
}

/* X^T X of `rank` random rows, full. */
static double *gram_of(size_t n, size_t rank, uint64_t seed)
{
    float *x = rows_of(rank * n, seed);
    double *gram = cross_by_loops(rank, n, x, n, x);
    free(x);
    return gram;
}

static double largest(const double *values, size_t count)
{
    double most = 0.0;
    for (size_t i = 0; i < count; i++) {
        most = fabs(values[i]) > most ? fabs(values[i]) : most;
    }
    return most;
}

/* out [m, n] = op(A) op(B), by loops; strides are the widths. */
static double *multiply_by_loops(size_t m, size_t n, size_t k, const double *a, bool is_a_transposed,
                                 const double *b, bool is_b_transposed)
{
    double *out = memory_create(m * n + 1, sizeof *out);
    for (size_t i = 0; i < m; i++) {
        for (size_t j = 0; j < n; j++) {
            for (size_t l = 0; l < k; l++) {
                out[i * n + j] += (is_a_transposed ? a[l * m + i] : a[i * k + l]) *
                                  (is_b_transposed ? b[j * k + l] : b[l * n + j]);
            }
        }
    }
    return out;
}

static void assert_close(const double *got, const double *expected, size_t count, double tolerance)
{
    double scale = largest(expected, count);
    for (size_t i = 0; i < count; i++) {
        if (!(fabs(got[i] - expected[i]) <= tolerance * (scale + 1e-30))) {
            fail_msg("element %zu of %zu: %.17g, not %.17g", i, count, got[i], expected[i]);
        }
    }
}

static void two_triangles_share_an_array_and_are_sums_over_rows(void **state)
{
    (void)state;
    static const size_t row_counts[] = {0, 1, 300, 1025};
    for (size_t s = 0; s < COUNT_OF(sizes); s++) {
        for (size_t c = 0; c < COUNT_OF(row_counts); c++) {
            size_t n = sizes[s], rows = n > 200 && c > 2 ? 1100 : row_counts[c];
            float *x = rows_of(rows * n, 1), *y = rows_of(rows * n, 2);
            double *x_gram = cross_by_loops(rows, n, x, n, x), *y_gram = cross_by_loops(rows, n, y, n, y);
            double *results[2] = {NULL, NULL};
            for (size_t threads = 1; threads <= 2; threads++) {
                OWNED(pool) pool = pool_create(threads, NULL);
                struct dense_threads here = {pool, NULL};
                double *both = memory_create(n * (n + 1) + 1, sizeof *both);
                struct dense_symmetric first, second;
                dense_symmetric_pair(both, n, &first, &second);
                assert_true(dense_add_gram(&here, rows / 2, x, n, &first, NULL));
                assert_true(dense_add_gram(&here, rows, y, n, &second, NULL));
                assert_true(dense_add_gram(&here, rows - rows / 2, x + rows / 2 * n, n, &first, NULL));
                for (size_t i = 0; i < n; i++) {
                    for (size_t j = 0; j < n; j++) {
                        double scale = sqrt(x_gram[i * n + i] * x_gram[j * n + j]) + 1e-12;
                        assert_true(fabs(dense_symmetric_get(&first, i, j) - x_gram[i * n + j]) <=
                                    2e-6 * scale);
                        scale = sqrt(y_gram[i * n + i] * y_gram[j * n + j]) + 1e-12;
                        assert_true(fabs(dense_symmetric_get(&second, i, j) - y_gram[i * n + j]) <=
                                    2e-6 * scale);
                    }
                }
                results[threads - 1] = both;
            }
            assert_memory_equal(results[0], results[1], n * (n + 1) * sizeof(double));
            free(results[0]);
            free(results[1]);
            free(x_gram);
            free(y_gram);
            free(x);
            free(y);
        }
    }
}

static void cross_products_are_sums_over_rows(void **state)
{
    (void)state;
    for (size_t s = 0; s < COUNT_OF(sizes); s++) {
        for (size_t t = 0; t < COUNT_OF(sizes); t++) {
            size_t m = sizes[s], n = sizes[t], rows = 131;
            float *y = rows_of(rows * m, 3), *x = rows_of(rows * n, 4);
            double *expected = cross_by_loops(rows, m, y, n, x);
            OWNED(pool) pool = pool_create(2, NULL);
            struct dense_threads here = {pool, NULL};
            double *cross = memory_create(m * (n + 3) + 1, sizeof *cross); /* rows further apart than wide */
            assert_true(dense_add_cross(&here, rows, m, y, m, n, x, n, cross, n + 3, NULL));
            for (size_t i = 0; i < m; i++) {
                for (size_t j = 0; j < n + 3; j++) {
                    double wanted = j < n ? expected[i * n + j] : 0.0;
                    assert_true(fabs(cross[i * (n + 3) + j] - wanted) <= 2e-6 * (double)rows);
                }
            }
            free(cross);
            free(expected);
            free(y);
            free(x);
        }
    }
}

static void products_take_every_form(void **state)
{
    (void)state;
    static const size_t shapes[][3] = {{1, 1, 1}, {7, 129, 577}, {129, 577, 7}, {577, 7, 129}, {3, 5, 0}};
    for (size_t s = 0; s < COUNT_OF(shapes); s++) {
        for (size_t form = 0; form < 4; form++) {
            size_t m = shapes[s][0], n = shapes[s][1], k = shapes[s][2];
            bool is_a_transposed = form % 2 == 1, is_b_transposed = form / 2 == 1;
            double *a = doubles_of(m * k, 5), *b = doubles_of(k * n, 6), *before = doubles_of(m * n, 7);
            double *expected = multiply_by_loops(m, n, k, a, is_a_transposed, b, is_b_transposed);
            float *fa = memory_create(m * k + 1, sizeof *fa), *fb = memory_create(k * n + 1, sizeof *fb);
            float *fout = memory_create(m * n + 1, sizeof *fout);
            double *out = memory_create(m * n + 1, sizeof *out),
                   *narrow = memory_create(m * n + 1, sizeof *out);
            for (size_t i = 0; i < m * k; i++) {
                fa[i] = (float)a[i];
            }
            for (size_t i = 0; i < k * n; i++) {
                fb[i] = (float)b[i];
            }
            for (size_t i = 0; i < m * n; i++) {
                out[i] = before[i];
                fout[i] = NAN; /* beta 0: not read */
                expected[i] = 2.0 * expected[i] + 0.5 * before[i];
            }
            OWNED(pool) pool = pool_create(2, NULL);
            struct dense_threads here = {pool, NULL};
            struct dense_product product = {.m = m,
                                            .n = n,
                                            .k = k,
                                            .is_a_transposed = is_a_transposed,
                                            .is_b_transposed = is_b_transposed,
                                            .alpha = 2.0,
                                            .beta = 0.5,
                                            .a_stride = is_a_transposed ? m : k,
                                            .b_stride = is_b_transposed ? k : n,
                                            .out_stride = n};
            assert_true(dense_multiply(&here, &product, a, b, out, NULL));
            assert_close(out, expected, m * n, 1e-13);
            product.beta = 0.0;
            assert_true(dense_multiply_floats(&here, &product, fa, fb, fout, NULL));
            for (size_t i = 0; i < m * n; i++) {
                narrow[i] = (double)fout[i] + 0.5 * before[i];
            }
            assert_close(narrow, expected, m * n, 1e-5);
            free(a);
            free(b);
            free(before);
            free(expected);
            free(fa);
            free(fb);
            free(fout);
            free(out);
            free(narrow);
        }
    }
}

static void a_product_reads_one_triangle_of_a_symmetric_matrix(void **state)
{
    (void)state;
    for (size_t s = 0; s < COUNT_OF(sizes); s++) {
        size_t n = sizes[s], m = 131;
        double *full[2] = {gram_of(n, 40, 8), gram_of(n, 40, 9)}, *a = doubles_of(m * n, 10);
        double *both = memory_create(n * (n + 1) + 1, sizeof *both),
               *out = memory_create(m * n + 1, sizeof *out);
        struct dense_symmetric parts[2];
        dense_symmetric_pair(both, n, &parts[0], &parts[1]);
        for (size_t i = 0; i < n; i++) {
            for (size_t j = 0; j <= i; j++) {
                both[i * (n + 1) + j] = full[0][i * n + j];
                both[j * (n + 1) + i + 1] = full[1][i * n + j];
            }
        }
        OWNED(pool) pool = pool_create(2, NULL);
        struct dense_threads here = {pool, NULL};
        for (size_t part = 0; part < 2; part++) {
            double *expected = multiply_by_loops(m, n, n, a, false, full[part], false);
            assert_true(dense_multiply_symmetric(&here, m, a, n, &parts[part], out, n, NULL));
            assert_close(out, expected, m * n, 1e-13);
            free(expected);
        }
        free(both);
        free(out);
        free(a);
        free(full[0]);
        free(full[1]);
    }
}

static void a_factor_rebuilds_its_matrix_and_solves(void **state)
{
    (void)state;
    for (size_t s = 0; s < COUNT_OF(sizes); s++) {
        size_t n = sizes[s], m = 133;
        double *matrix = gram_of(n, n + 20, 11), *right = doubles_of(m * n, 12), *results[2] = {NULL, NULL};
        for (size_t threads = 1; threads <= 2; threads++) {
            OWNED(pool) pool = pool_create(threads, NULL);
            struct dense_threads here = {pool, NULL};
            double *l = memory_create(n * n + 1, sizeof *l), *x = memory_create(m * n + 1, sizeof *x);
            memcpy(l, matrix, n * n * sizeof *l);
            memcpy(x, right, m * n * sizeof *x);
            assert_true(dense_cholesky(&here, n, l, n, NULL));
            for (size_t i = 0; i < n; i++) { /* the other triangle is left alone */
                for (size_t j = i + 1; j < n; j++) {
                    assert_true(l[i * n + j] == matrix[i * n + j]);
                    l[i * n + j] = 0.0;
                }
            }
            double *rebuilt = multiply_by_loops(n, n, n, l, false, l, true);
            assert_close(rebuilt, matrix, n * n, 1e-12);
            assert_true(dense_cholesky_solve(&here, n, l, n, m, x, n, NULL));
            double *back = multiply_by_loops(m, n, n, x, false, matrix, false);
            assert_close(back, right, m * n, 1e-8);
            free(rebuilt);
            free(back);
            free(l);
            results[threads - 1] = x;
        }
        assert_memory_equal(results[0], results[1], m * n * sizeof(double));
        free(results[0]);
        free(results[1]);
        free(matrix);
        free(right);
    }
}

static void what_cannot_be_factored_is_named(void **state)
{
    (void)state;
    OWNED(pool) pool = pool_create(2, NULL);
    struct dense_threads here = {pool, NULL};
    struct error error = {0};
    size_t n = 577;
    double *matrix = memory_create(n * n, sizeof *matrix);
    for (size_t i = 0; i < n; i++) {
        matrix[i * n + i] = i == 300 ? -1.0 : 1.0;
    }
    assert_false(dense_cholesky(&here, n, matrix, n, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
    assert_non_null(strstr(error.message, "row 300"));
    matrix[0] = NAN;
    assert_false(dense_cholesky(&here, n, matrix, n, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
    double *values = memory_create(n, sizeof *values);
    assert_false(dense_eigen(&here, n, matrix, values, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
    free(values);
    free(matrix);
}

static void eigenvectors_rebuild_their_matrix(void **state)
{
    (void)state;
    for (size_t s = 0; s < COUNT_OF(sizes); s++) {
        for (size_t rank_step = 0; rank_step < 2; rank_step++) {
            size_t n = sizes[s], rank = rank_step == 0 ? n + 5 : n / 3;
            OWNED(pool) pool = pool_create(1, NULL);
            struct dense_threads here = {pool, NULL};
            double *matrix = gram_of(n, rank, 13), *vectors = memory_create(n * n + 1, sizeof *vectors);
            double *values = memory_create(n + 1, sizeof *values),
                   *scaled = memory_create(n * n + 1, sizeof *scaled);
            for (size_t i = 0; i < n; i++) {
                for (size_t j = 0; j < n; j++) {
                    vectors[i * n + j] =
                        j <= i ? matrix[i * n + j] : (double)NAN; /* only the lower triangle is read */
                }
            }
            assert_true(dense_eigen(&here, n, vectors, values, NULL));
            for (size_t i = 0; i < n; i++) {
                assert_true(i == 0 || values[i] <= values[i - 1]);
                assert_true(rank >= n || i < rank || fabs(values[i]) <= 1e-10 * values[0]);
                size_t top = 0;
                for (size_t j = 0; j < n; j++) {
                    top = fabs(vectors[i * n + j]) > fabs(vectors[i * n + top]) ? j : top;
                    scaled[i * n + j] = values[i] * vectors[i * n + j];
                }
                assert_true(vectors[i * n + top] > 0.0);
            }
            double *rebuilt = multiply_by_loops(n, n, n, vectors, true, scaled, false);
            assert_close(rebuilt, matrix, n * n, 1e-11);
            double *products = multiply_by_loops(n, n, n, vectors, false, vectors, true);
            for (size_t i = 0; i < n * n; i++) {
                assert_true(fabs(products[i] - (i / n == i % n ? 1.0 : 0.0)) <= 1e-11);
            }
            free(rebuilt);
            free(products);
            free(scaled);
            free(values);
            free(vectors);
            free(matrix);
        }
    }
}

/* structured_pruning section 8: rows t (3, 4) give eigenvalues in the ratio 25 : 0 and the first vector (.6, .8). */
static void eigenvectors_of_a_line_are_its_direction(void **state)
{
    (void)state;
    OWNED(pool) pool = pool_create(1, NULL);
    struct dense_threads here = {pool, NULL};
    double a[] = {9.0, 12.0, 12.0, 16.0}, values[2];
    assert_true(dense_eigen(&here, 2, a, values, NULL));
    assert_true(fabs(values[0] - 25.0) < 1e-12 && fabs(values[1]) < 1e-12);
    assert_true(fabs(a[0] - 0.6) < 1e-14 && fabs(a[1] - 0.8) < 1e-14);
}

/* The squared distance of row i of a [rows, n] from the span of the orthonormal `basis` [count, n]. */
static double rest_of_row(const double *row, size_t n, const double *basis, size_t count, double *ret_rest)
{
    memcpy(ret_rest, row, n * sizeof *row);
    for (size_t pass = 0; pass < 2; pass++) {
        for (size_t b = 0; b < count; b++) {
            double dot = 0.0;
            for (size_t j = 0; j < n; j++) {
                dot += ret_rest[j] * basis[b * n + j];
            }
            for (size_t j = 0; j < n; j++) {
                ret_rest[j] -= dot * basis[b * n + j];
            }
        }
    }
    double square = 0.0;
    for (size_t j = 0; j < n; j++) {
        square += ret_rest[j] * ret_rest[j];
    }
    return square;
}

static void pivots_are_the_rows_farthest_from_those_before(void **state)
{
    (void)state;
    static const size_t shapes[][2] = {{1, 1}, {577, 7}, {129, 33}, {7, 129}, {300, 140}, {5, 0}, {0, 5}};
    OWNED(pool) pool = pool_create(2, NULL);
    struct dense_threads here = {pool, NULL};
    for (size_t s = 0; s < COUNT_OF(shapes); s++) {
        size_t rows = shapes[s][0], n = shapes[s][1], count = rows < n ? rows : n, stride = n + 3;
        double *a = doubles_of(rows * stride, 16), *before = doubles_of(rows * stride, 16);
        double *basis = memory_create(count * n + 1, sizeof *basis),
               *rest = memory_create(n + 1, sizeof *rest);
        size_t *pivots = memory_create(count + 1, sizeof *pivots);
        assert_true(dense_pivot_rows(&here, rows, n, a, stride, pivots, NULL));
        for (size_t k = 0; k < count; k++) {
            double most = 0.0;
            for (size_t i = 0; i < rows; i++) {
                most = fmax(most, rest_of_row(before + i * stride, n, basis, k, rest));
            }
            double taken = rest_of_row(before + pivots[k] * stride, n, basis, k, rest);
            assert_true(taken >= most * (1.0 - 1e-10));
            for (size_t j = 0; j < n; j++) {
                basis[k * n + j] = rest[j] / sqrt(taken);
            }
            assert_true(rows == 0 || a[n] == before[n]); /* what lies between rows is left */
        }
        free(pivots);
        free(rest);
        free(basis);
        free(before);
        free(a);
    }
    struct error error = {0};
    double bad[] = {1.0, 2.0, 3.0, NAN};
    size_t pivots[2];
    assert_false(dense_pivot_rows(&here, 2, 2, bad, 2, pivots, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
    assert_non_null(strstr(error.message, "row 1"));
}

static void a_polar_factor_is_the_nearest_rotation(void **state)
{
    (void)state;
    OWNED(pool) pool = pool_create(2, NULL);
    struct dense_threads here = {pool, NULL};
    for (size_t s = 0; s < COUNT_OF(sizes); s++) {
        size_t n = sizes[s];
        if (n > 200) {
            continue;
        }
        double *a = doubles_of(n * n, 17), *q = memory_create(n * n + 1, sizeof *q);
        memcpy(q, a, n * n * sizeof *q);
        assert_true(dense_polar(&here, n, q, NULL));
        double *products = multiply_by_loops(n, n, n, q, false, q, true);
        double *rest = multiply_by_loops(n, n, n, q, true, a, false); /* P of A = Q P */
        double *values = memory_create(n + 1, sizeof *values);
        for (size_t i = 0; i < n * n; i++) {
            assert_true(fabs(products[i] - (i / n == i % n ? 1.0 : 0.0)) <= 1e-12);
            assert_true(fabs(rest[i] - rest[i % n * n + i / n]) <= 1e-12 * (double)n); /* symmetric */
        }
        assert_true(dense_eigen(&here, n, rest, values, NULL));
        assert_true(n == 0 || values[n - 1] >= -1e-12); /* and positive */
        free(values);
        free(rest);
        free(products);
        free(q);
        free(a);
    }
    double mirror[] = {0.0, -2.0, 3.0, 0.0},
           none[] = {0.0, 0.0, 0.0, 0.0}; /* known, and one that is singular */
    assert_true(dense_polar(&here, 2, mirror, NULL));
    assert_true(fabs(mirror[0]) < 1e-15 && fabs(mirror[1] + 1.0) < 1e-15 && fabs(mirror[2] - 1.0) < 1e-15);
    assert_true(dense_polar(&here, 2, none, NULL));
    assert_true(fabs(fabs(none[0] * none[3] - none[1] * none[2]) - 1.0) < 1e-14);
    struct error error = {0};
    none[2] = INFINITY;
    assert_false(dense_polar(&here, 2, none, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
}

/* By eigenvectors: leverage_i = sum_k v_ki^2 s_k / (s_k + lambda). */
static void leverage_is_what_eigenvectors_say(void **state)
{
    (void)state;
    for (size_t s = 0; s < COUNT_OF(sizes); s++) {
        for (size_t rank_step = 0; rank_step < 2; rank_step++) {
            size_t n = sizes[s], rank = rank_step == 0 ? n + 5 : n / 3 + 1;
            OWNED(pool) pool = pool_create(2, NULL);
            struct dense_threads here = {pool, NULL};
            double *matrix = gram_of(n, rank, 14), *vectors = memory_create(n * n + 1, sizeof *vectors);
            double *values = memory_create(n + 1, sizeof *values),
                   *leverage = memory_create(n + 1, sizeof *leverage);
            for (size_t j = 0; j < n && n > 7; j++) { /* a channel that never speaks */
                matrix[3 * n + j] = matrix[j * n + 3] = 0.0;
            }
            memcpy(vectors, matrix, n * n * sizeof *vectors);
            assert_true(dense_eigen(&here, n, vectors, values, NULL));
            double lambda = 0.37;
            struct dense_symmetric c = {matrix, n, n, true};
            assert_true(dense_leverage(&here, &c, lambda, leverage, NULL));
            for (size_t i = 0; i < n; i++) {
                double expected = 0.0;
                for (size_t k = 0; k < n; k++) {
                    expected += vectors[k * n + i] * vectors[k * n + i] * values[k] / (values[k] + lambda);
                }
                assert_true(fabs(leverage[i] - expected) < 1e-10);
            }
            assert_true(n <= 7 || leverage[3] == 0.0);
            free(leverage);
            free(values);
            free(vectors);
            free(matrix);
        }
    }
}

static void a_cancelled_sum_says_so(void **state)
{
    (void)state;
    OWNED(pool) pool = pool_create(2, NULL);
    struct cancel cancel = {0};
    cancel_request(&cancel, CANCEL_NOW);
    struct dense_threads here = {pool, &cancel};
    float *x = rows_of(300 * 300, 15);
    double *gram = memory_create(300 * 300, sizeof *gram);
    struct error error = {0};
    assert_false(
        dense_add_gram(&here, 300, x, 300, &(struct dense_symmetric){gram, 300, 300, false}, &error));
    assert_int_equal(error.code, ERROR_CANCELLED);
    free(gram);
    free(x);
}

static void the_library_is_named(void **state)
{
    (void)state;
    assert_true(strncmp(dense_identity(), "OpenBLAS ", 9) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_triangles_share_an_array_and_are_sums_over_rows),
        cmocka_unit_test(cross_products_are_sums_over_rows),
        cmocka_unit_test(products_take_every_form),
        cmocka_unit_test(a_product_reads_one_triangle_of_a_symmetric_matrix),
        cmocka_unit_test(a_factor_rebuilds_its_matrix_and_solves),
        cmocka_unit_test(what_cannot_be_factored_is_named),
        cmocka_unit_test(eigenvectors_rebuild_their_matrix),
        cmocka_unit_test(eigenvectors_of_a_line_are_its_direction),
        cmocka_unit_test(pivots_are_the_rows_farthest_from_those_before),
        cmocka_unit_test(a_polar_factor_is_the_nearest_rotation),
        cmocka_unit_test(leverage_is_what_eigenvectors_say),
        cmocka_unit_test(a_cancelled_sum_says_so),
        cmocka_unit_test(the_library_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
