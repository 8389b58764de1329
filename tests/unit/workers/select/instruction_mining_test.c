/* The rule and its fit: the reference's vectors, ordinary least squares by normal equations in long double, what is missing or constant; and
 * lexical diversity against a plain form. */
#include "base/rng.h"
#include "tests/unit/workers/select/plain.h"
#include "workers/select/instruction_mining.h"

static double unit(uint32_t step, uint64_t index)
{
    return rng_unit(&(struct rng){.seed = 5, .stream = 1, .step = step}, index);
}

static struct pool *pool;

static int open_pool(void **state)
{
    (void)state;
    pool = pool_create(1, NULL);
    return pool != NULL ? 0 : -1;
}

static int close_pool(void **state)
{
    (void)state;
    pool_destroy(pool);
    return 0;
}

static bool try_fit(const double *indicators, const double *losses, size_t runs, size_t count,
                    struct instruction_mining_fit *ret_fit, struct error *error)
{
    const struct dense_threads threads = {.pool = pool};
    return instruction_mining_fit(&threads, indicators, losses, runs, count, ret_fit, error);
}

/* Of logarithms of losses. */
static struct instruction_mining_fit fit(const double *indicators, const double *log_losses, size_t runs,
                                         size_t count)
{
    double losses[256];
    struct instruction_mining_fit result = {0};
    for (size_t r = 0; r < runs; r++) {
        losses[r] = exp(log_losses[r]);
    }
    assert_true(try_fit(indicators, losses, runs, count, &result, NULL));
    return result;
}

static void a_line_is_found_and_ranks_by_falling_indicator(void **state)
{
    (void)state;
    const double z[] = {0, 1, 2}, y[] = {1, 0.5, 0};
    FINISHED(instruction_mining_fit) result = fit(z, y, 3, 1);
    assert_close(result.intercept, 1, 1e-14);
    assert_close(result.coefficients[0], -0.5, 1e-14);
    assert_close(result.r_squared, 1, 1e-14);
    double scores[3];
    bool filled[3];
    const struct instruction_mining_rule rule = {result.intercept, result.coefficients, 1};
    assert_true(instruction_mining_score(&rule, z, 3, scores, filled, NULL));
    assert_true(scores[2] < scores[1] && scores[1] < scores[0]); /* lower is better: 2, 1, 0 */
    assert_false(filled[0] || filled[1] || filled[2]);
}

static void without_columns_the_rule_is_the_mean(void **state)
{
    (void)state;
    const double z[] = {0}, y[] = {1, 2, 6};
    FINISHED(instruction_mining_fit) result = fit(z, y, 3, 0);
    assert_close(result.intercept, 3, 1e-14);
    assert_int_equal(result.rank, 0);
    assert_close(result.residual_variance, 7, 1e-13);
    assert_close(result.r_squared, 0, 0);
}

static void a_column_that_comes_twice_shares_its_slope(void **state)
{
    (void)state;
    const double z[] = {0, 0, 1, 1, 2, 2}, y[] = {1, 0.5, 0};
    FINISHED(instruction_mining_fit) result = fit(z, y, 3, 2);
    assert_close(result.coefficients[0], -0.25, 1e-14);
    assert_close(result.coefficients[1], -0.25, 1e-14);
    assert_close(result.intercept, 1, 1e-14);
    assert_int_equal(result.rank, 1);
    assert_true(isnan(result.t_statistics[0])); /* three runs are too few for two columns */
}

static void residuals_and_statistics_of_the_reference(void **state)
{
    (void)state;
    const double z[] = {0, 1, 2}, y[] = {1, 2, 5};
    FINISHED(instruction_mining_fit) result = fit(z, y, 3, 1);
    assert_close(result.intercept, 2 / 3.0, 1e-14);
    assert_close(result.coefficients[0], 2, 1e-14);
    assert_close(result.r_squared, 0.9230769231, 1e-10);
    /* Residuals (1, -2, 1) / 3: s^2 = 2/3 with one degree of freedom, the slope's variance is a half of it, the intercept's 5/6. */
    assert_close(result.residual_variance, 2 / 3.0, 1e-14);
    assert_close(result.t_statistics[0], 2 / sqrt(1 / 3.0), 1e-12);
    assert_close(result.intercept_t, 2 / 3.0 / sqrt(5 / 9.0), 1e-12);
}

/* Inverts a [n, n] into b by Gauss-Jordan with pivots. */
static void invert(long double *a, long double *b, size_t n)
{
    for (size_t i = 0; i < n * n; i++) {
        b[i] = i / n == i % n ? 1 : 0;
    }
    for (size_t c = 0; c < n; c++) {
        size_t pivot = c;
        for (size_t r = c; r < n; r++) {
            pivot = fabsl(a[r * n + c]) > fabsl(a[pivot * n + c]) ? r : pivot;
        }
        for (size_t k = 0; k < n; k++) {
            long double x = a[c * n + k], y = b[c * n + k];
            a[c * n + k] = a[pivot * n + k];
            b[c * n + k] = b[pivot * n + k];
            a[pivot * n + k] = x;
            b[pivot * n + k] = y;
        }
        long double scale = a[c * n + c];
        for (size_t k = 0; k < n; k++) {
            a[c * n + k] /= scale;
            b[c * n + k] /= scale;
        }
        for (size_t r = 0; r < n; r++) {
            long double factor = r == c ? 0 : a[r * n + c];
            for (size_t k = 0; k < n && r != c; k++) {
                a[r * n + k] -= factor * a[c * n + k];
                b[r * n + k] -= factor * b[c * n + k];
            }
        }
    }
}

/* Normal equations over [1 | z]: coefficients, t statistics and R^2. */
static void plain_fit(const double *z, const double *y, size_t runs, size_t count, double *ret_beta,
                      double *ret_t, double *ret_r_squared)
{
    enum { MOST = 10 };
    long double gram[MOST * MOST] = {0}, inverse[MOST * MOST], cross[MOST] = {0}, beta[MOST] = {0};
    long double rss = 0, tss = 0, mean = 0;
    size_t n = count + 1;
    for (size_t r = 0; r < runs; r++) {
        long double row[MOST] = {1};
        for (size_t c = 0; c < count; c++) {
            row[c + 1] = (long double)z[r * count + c];
        }
        for (size_t i = 0; i < n; i++) {
            cross[i] += row[i] * (long double)y[r];
            for (size_t j = 0; j < n; j++) {
                gram[i * n + j] += row[i] * row[j];
            }
        }
        mean += (long double)y[r] / (long double)runs;
    }
    invert(gram, inverse, n);
    for (size_t i = 0; i < n * n; i++) {
        beta[i / n] += inverse[i] * cross[i % n];
    }
    for (size_t r = 0; r < runs; r++) {
        long double left = (long double)y[r] - beta[0];
        for (size_t c = 0; c < count; c++) {
            left -= beta[c + 1] * (long double)z[r * count + c];
        }
        rss += left * left;
        tss += ((long double)y[r] - mean) * ((long double)y[r] - mean);
    }
    for (size_t i = 0; i < n; i++) {
        ret_beta[i] = (double)beta[i];
        ret_t[i] = (double)(beta[i] / sqrtl(rss / (long double)(runs - n) * inverse[i * n + i]));
    }
    *ret_r_squared = (double)(1 - rss / tss);
}

static void fits_agree_with_normal_equations(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < 12; round++) {
        double z[129 * 9], y[129], beta[10], t[10], r_squared = 0;
        size_t count = 1 + round % 9, runs = round % 2 == 0 ? 129 : count + 2;
        for (size_t r = 0; r < runs; r++) {
            y[r] = unit(round, r);
            for (size_t c = 0; c < count; c++) { /* scales from 1e-4 to 1e4, means away from 0 */
                double x = unit(round, 1000 + r * count + c);
                y[r] += 0.3 * (double)c * x;
                z[r * count + c] = (x + 2) * pow(10, (double)(c % 9) - 4);
            }
        }
        plain_fit(z, y, runs, count, beta, t, &r_squared);
        FINISHED(instruction_mining_fit) result = fit(z, y, runs, count);
        assert_int_equal(result.rank, count);
        assert_close(result.intercept, beta[0], 1e-9 * (1 + fabs(beta[0])));
        assert_close(result.intercept_t, t[0], 1e-7 * (1 + fabs(t[0])));
        assert_close(result.r_squared, r_squared, 1e-9);
        for (size_t c = 0; c < count; c++) {
            assert_close(result.coefficients[c], beta[c + 1], 1e-9 * fabs(beta[c + 1]) + 1e-12);
            assert_close(result.t_statistics[c], t[c + 1], 1e-7 * (1 + fabs(t[c + 1])));
        }
    }
}

static void more_columns_than_runs_fit_with_the_least_slopes(void **state)
{
    (void)state;
    enum { RUNS = 4, COUNT = 7 };
    double z[RUNS * COUNT], y[RUNS];
    for (size_t i = 0; i < (size_t)RUNS * COUNT; i++) {
        z[i] = unit(3, i);
        y[i % RUNS] = unit(4, i % RUNS);
    }
    FINISHED(instruction_mining_fit) result = fit(z, y, RUNS, COUNT);
    assert_int_equal(result.rank, RUNS - 1);
    assert_close(result.r_squared, 1, 1e-12);
    assert_true(isnan(result.residual_variance) && isnan(result.intercept_t));
    for (size_t r = 0; r < RUNS; r++) {
        double predicted = result.intercept;
        for (size_t c = 0; c < COUNT; c++) {
            predicted += result.coefficients[c] * z[r * COUNT + c];
        }
        assert_close(predicted, y[r], 1e-12);
    }
    /* Least of norm: in standardised columns the slopes lie in the span of the rows, so that what is added to them along any direction
     * outside of it makes them longer; the projection on the rows' span is the slopes themselves. */
    double standard[RUNS * COUNT], slopes[COUNT], left[COUNT];
    for (size_t c = 0; c < COUNT; c++) {
        double mean = 0, square = 0;
        for (size_t r = 0; r < RUNS; r++) {
            mean += z[r * COUNT + c] / RUNS;
        }
        for (size_t r = 0; r < RUNS; r++) {
            standard[r * COUNT + c] = z[r * COUNT + c] - mean;
            square += standard[r * COUNT + c] * standard[r * COUNT + c] / RUNS;
        }
        for (size_t r = 0; r < RUNS; r++) {
            standard[r * COUNT + c] /= sqrt(square);
        }
        left[c] = slopes[c] = result.coefficients[c] * sqrt(square);
    }
    for (size_t r = 0; r + 1 < RUNS; r++) { /* Gram-Schmidt; the last centred row depends on the others */
        double *row = standard + r * COUNT;
        double along = 0, norm = 0;
        for (size_t q = 0; q < r; q++) {
            double dot = 0;
            for (size_t c = 0; c < COUNT; c++) {
                dot += row[c] * standard[q * COUNT + c];
            }
            for (size_t c = 0; c < COUNT; c++) {
                row[c] -= dot * standard[q * COUNT + c];
            }
        }
        for (size_t c = 0; c < COUNT; c++) {
            norm += row[c] * row[c];
        }
        for (size_t c = 0; c < COUNT; c++) {
            row[c] /= sqrt(norm);
            along += row[c] * left[c];
        }
        for (size_t c = 0; c < COUNT; c++) {
            left[c] -= along * row[c];
        }
    }
    for (size_t c = 0; c < COUNT; c++) {
        assert_close(left[c], 0, 1e-12);
    }
}

static void a_constant_column_is_dropped(void **state)
{
    (void)state;
    const double z[] = {0.1, 0, 0.1, 1, 0.1, 2, 0.1, 3}, y[] = {1, 2, 5, 5}, equal[] = {2, 2, 2, 2};
    const double alone[] = {0, 1, 2, 3};
    FINISHED(instruction_mining_fit) result = fit(z, y, 4, 2);
    FINISHED(instruction_mining_fit) other = fit(alone, y, 4, 1);
    assert_true(result.coefficients[0] == 0 && isnan(result.t_statistics[0]));
    assert_close(result.coefficients[1], other.coefficients[0], 1e-14);
    assert_close(result.intercept, other.intercept, 1e-14);
    assert_close(result.t_statistics[1], other.t_statistics[0], 1e-12);
    FINISHED(instruction_mining_fit) flat = fit(alone, equal, 4, 1);
    assert_true(flat.r_squared == 0);
    assert_close(flat.intercept, 2, 1e-15);
    FINISHED(instruction_mining_fit) none = fit(alone, y, 4, 0);
    assert_close(none.intercept, 13 / 4.0, 1e-15);
    assert_true(none.rank == 0 && none.r_squared == 0);
}

static void what_is_missing_is_the_mean_and_flagged(void **state)
{
    (void)state;
    const double coefficients[] = {1, 10, 0};
    const struct instruction_mining_rule rule = {0.5, coefficients, 3};
    const double z[] = {1, 1, NAN, NAN, 2, NAN, 3, NAN, NAN, 5, 3, NAN};
    double scores[4];
    bool filled[4];
    assert_true(instruction_mining_score(&rule, z, 4, scores, filled, NULL));
    assert_close(scores[0], 11.5, 0);
    assert_close(scores[1], 23.5, 0); /* the mean of 1, 3, 5 */
    assert_close(scores[2], 23.5, 0); /* the mean of 1, 2, 3 */
    assert_close(scores[3], 35.5, 0);
    assert_true(!filled[0] && filled[1] && filled[2] && !filled[3]); /* the third column is not read */
    const double gaps[] = {0, NAN, 2, 4}, full[] = {0, 2, 2, 4}, y[] = {1, 3, 2, 5};
    FINISHED(instruction_mining_fit) result = fit(gaps, y, 4, 1);
    FINISHED(instruction_mining_fit) other = fit(full, y, 4, 1);
    assert_int_equal(result.filled_count, 1);
    assert_int_equal(other.filled_count, 0);
    assert_close(result.coefficients[0], other.coefficients[0], 1e-14);
    assert_close(result.intercept, other.intercept, 1e-14);
}

static void what_cannot_be_fitted_is_named(void **state)
{
    (void)state;
    const double z[] = {1, 2, 3}, losses[] = {1, 2, 0}, nan_losses[] = {1, NAN, 2}, good[] = {1, 2, 3};
    const double missing[] = {NAN, NAN, NAN}, infinite[] = {1, 2, -INFINITY};
    struct instruction_mining_fit result = {.count = 42};
    struct error error = {0};
    assert_false(try_fit(z, losses, 3, 1, &result, &error));
    assert_int_equal(error.code, ERROR_INVALID_ARGUMENT);
    assert_non_null(strstr(error.message, "run 2"));
    assert_false(try_fit(z, nan_losses, 3, 1, &result, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
    assert_false(try_fit(missing, good, 3, 1, &result, &error));
    assert_int_equal(error.code, ERROR_INVALID_ARGUMENT);
    assert_false(try_fit(infinite, good, 3, 1, &result, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
    assert_non_null(strstr(error.message, "indicator 0 of row 2"));
    assert_false(try_fit(z, good, 0, 1, &result, &error));
    assert_int_equal(error.code, ERROR_INVALID_ARGUMENT);
    assert_int_equal(result.count, 42);
    const struct instruction_mining_rule rule = {0, (const double[]){1}, 1};
    double scores[3];
    bool filled[3];
    assert_false(instruction_mining_score(&rule, missing, 3, scores, filled, &error));
    assert_int_equal(error.code, ERROR_INVALID_ARGUMENT);
    assert_true(instruction_mining_score(&rule, NULL, 0, NULL, NULL, &error));
}

static double mtld(const int32_t *words, size_t count)
{
    double value = -1;
    assert_true(instruction_mining_mtld(words, count, &value, NULL));
    return value;
}

static void diversity_by_hand(void **state)
{
    (void)state;
    const int32_t same[] = {7, 7, 7, 7, 7, 7}, odd[] = {7, 7, 7}, different[] = {-1, 2, 3, 0};
    assert_close(mtld(same, 6), 2, 0); /* each pair is a factor */
    assert_close(mtld(odd, 3), 3, 0);  /* the third alone has come down by nothing */
    assert_close(mtld(different, 4), 4, 0);
    assert_true(isnan(mtld(NULL, 0)));
    /* Forward a b c a: .75 at the end, .25 / .28 of a factor. Backward a c b a the same. */
    const int32_t partial[] = {1, 2, 3, 1};
    assert_close(mtld(partial, 4), 4 / (0.25 / 0.28), 1e-13);
    /* Forward a a | b: 1 factor; backward b a a is at 2/3: 1 factor. */
    const int32_t ends[] = {1, 1, 2};
    assert_close(mtld(ends, 3), 3, 0);
}

static double plain_diversity(const int32_t *words, size_t count, bool is_backward)
{
    double factors = 0, share = 1;
    size_t first = 0;
    for (size_t end = 1; end <= count; end++) {
        size_t types = 0;
        for (size_t i = first; i < end; i++) {
            bool is_new = true;
            for (size_t j = first; j < i; j++) {
                is_new = is_new &&
                         words[is_backward ? count - 1 - i : i] != words[is_backward ? count - 1 - j : j];
            }
            types += is_new ? 1 : 0;
        }
        share = (double)types / (double)(end - first);
        if (share <= 0.72) {
            factors += 1;
            first = end;
            share = 1;
        }
    }
    factors += (1 - share) / (1 - 0.72);
    return factors > 0 ? (double)count / factors : (double)count;
}

static void diversity_agrees_with_a_plain_form(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < 60; round++) {
        int32_t words[170];
        size_t count = 1 + (size_t)(169 * unit(round, 1000));
        double kinds = 1 + 90 * unit(round, 1001);
        for (size_t i = 0; i < count; i++) {
            words[i] = (int32_t)(kinds * unit(round, i)) * 65536 - 5; /* numbers that hash alike, if badly */
        }
        double plain = (plain_diversity(words, count, false) + plain_diversity(words, count, true)) / 2;
        assert_close(mtld(words, count), plain, 1e-12 * plain);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_is_found_and_ranks_by_falling_indicator),
        cmocka_unit_test(without_columns_the_rule_is_the_mean),
        cmocka_unit_test(a_column_that_comes_twice_shares_its_slope),
        cmocka_unit_test(residuals_and_statistics_of_the_reference),
        cmocka_unit_test(fits_agree_with_normal_equations),
        cmocka_unit_test(more_columns_than_runs_fit_with_the_least_slopes),
        cmocka_unit_test(a_constant_column_is_dropped),
        cmocka_unit_test(what_is_missing_is_the_mean_and_flagged),
        cmocka_unit_test(what_cannot_be_fitted_is_named),
        cmocka_unit_test(diversity_by_hand),
        cmocka_unit_test(diversity_agrees_with_a_plain_form),
    };
    return cmocka_run_group_tests(tests, open_pool, close_pool);
}
