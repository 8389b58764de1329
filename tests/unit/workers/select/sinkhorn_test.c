/*
 * Entropic transport: the reference's vectors (data_selection 5, T1-T4, by way of the calibrated gradients), the updates by plain loops, the gap
 * between plan and potentials, targets that no record is near, and bits that depend on neither threads nor memory.
 */
#include "tests/unit/workers/select/plain.h"
#include "workers/select/gotd.h"
#include "workers/select/sinkhorn.h"

static const struct sinkhorn_problem defaults = {.size = 1,
                                                 .epsilon_ratio = 0.05,
                                                 .tolerance = 1e-13,
                                                 .iteration_limit = 20000,
                                                 .costs_limit_bytes = 1 << 20};

static struct sinkhorn_result solve(const struct sinkhorn_problem *problem, size_t thread_count)
{
    struct error error = {0};
    struct sinkhorn_result result = {0};
    OWNED(pool) pool = pool_create(thread_count, NULL);
    if (!sinkhorn_solve(&(struct dense_threads){.pool = pool}, problem, &result, &error)) {
        print_error("%s\n", error.message);
        fail();
    }
    return result;
}

/* G of records and targets on a line. */
static void gradients_on_a_line(const float *x, size_t n, const float *y, size_t m, enum sinkhorn_cost cost,
                                double epsilon_ratio, double *ret_gradients)
{
    struct sinkhorn_problem problem = defaults;
    problem.x = x;
    problem.y = y;
    problem.n = n;
    problem.m = m;
    problem.cost = cost;
    problem.epsilon_ratio = epsilon_ratio;
    FINISHED(sinkhorn_result) result = solve(&problem, 1);
    assert_true(result.is_converged);
    gotd_gradients(result.f, n, ret_gradients);
}

static void one_target_is_exact_at_every_epsilon(void **state)
{
    (void)state;
    const float x[] = {0, 1, 3}, y[] = {0};
    const double ratios[] = {0.01, 0.3, 5};
    for (size_t i = 0; i < COUNT_OF(ratios); i++) {
        double g[3];
        gradients_on_a_line(x, 3, y, 1, SINKHORN_EUCLIDEAN, ratios[i], g);
        assert_close(g[0], -2, 1e-12);
        assert_close(g[1], -0.5, 1e-12);
        assert_close(g[2], 2.5, 1e-12);
        gradients_on_a_line(x, 3, y, 1, SINKHORN_SQUARED, ratios[i], g);
        assert_close(g[0], -5, 1e-12);
        assert_close(g[1], -3.5, 1e-12);
        assert_close(g[2], 8.5, 1e-12);
    }
}

static void equal_sets_have_equal_potentials(void **state)
{
    (void)state;
    const float x[] = {0, 2};
    double g[2];
    gradients_on_a_line(x, 2, x, 2, SINKHORN_EUCLIDEAN, 0.1, g);
    assert_true(g[0] == 0 && g[1] == 0);
}

/* The median of these costs, 0 2 1 1 3 1, is 1: ratios are epsilons. */
static void gradients_on_a_line_are_the_references(void **state)
{
    (void)state;
    const float x[] = {0, 1, 3}, y[] = {0, 2};
    const struct {
        double epsilon, g[3], tolerance;
    } cases[] = {
        {1, {-.7168904152, -.0662191695, .7831095848}, 1e-9},
        {.1, {-.9653426411, .4306852821, .5346573589}, 1e-9},
        {.02, {-1, .5, .5}, 0.05},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        double g[3];
        gradients_on_a_line(x, 3, y, 2, SINKHORN_EUCLIDEAN, cases[i].epsilon, g);
        for (size_t k = 0; k < 3; k++) {
            assert_close(g[k], cases[i].g[k], cases[i].tolerance);
        }
    }
}

static double cost_of(const struct sinkhorn_problem *problem, size_t i, size_t j)
{
    double square = 0;
    for (size_t c = 0; c < problem->size; c++) {
        double difference =
            (double)problem->x[i * problem->size + c] - (double)problem->y[j * problem->size + c];
        square += difference * difference;
    }
    return problem->cost == SINKHORN_SQUARED ? square : sqrt(square);
}

/* The two updates as they are written, 5000 times. */
static void solve_by_loops(const struct sinkhorn_problem *problem, double epsilon, double *f, double *g)
{
    double sum_of_weights = 0;
    for (size_t j = 0; j < problem->m; j++) {
        sum_of_weights += problem->weights[j];
        g[j] = 0;
    }
    for (size_t round = 0; round < 5000; round++) {
        for (size_t i = 0; i < problem->n; i++) {
            double sum = 0;
            for (size_t j = 0; j < problem->m; j++) {
                sum += exp((g[j] - cost_of(problem, i, j)) / epsilon) * problem->weights[j] / sum_of_weights;
            }
            f[i] = -epsilon * log(sum);
        }
        for (size_t j = 0; j < problem->m; j++) {
            double sum = 0;
            for (size_t i = 0; i < problem->n; i++) {
                sum += exp((f[i] - cost_of(problem, i, j)) / epsilon) / (double)problem->n;
            }
            g[j] = -epsilon * log(sum);
        }
    }
}

enum { SMALL_N = 23, SMALL_M = 7, SMALL_SIZE = 5 };

static struct sinkhorn_problem small_problem(const float *x, const float *y, const double *weights,
                                             enum sinkhorn_cost cost)
{
    struct sinkhorn_problem problem = defaults;
    problem.n = SMALL_N;
    problem.m = SMALL_M;
    problem.size = SMALL_SIZE;
    problem.x = x;
    problem.y = y;
    problem.weights = weights;
    problem.cost = cost;
    problem.epsilon_ratio = 0.1;
    return problem;
}

static const double small_weights[SMALL_M] = {1, 2, 3, 0.5, 1, 1, 4};

static void potentials_are_those_of_plain_loops(void **state)
{
    (void)state;
    OWNED_MEMORY float *x = plain_rows((size_t)SMALL_N * SMALL_SIZE, 1);
    OWNED_MEMORY float *y = plain_rows((size_t)SMALL_M * SMALL_SIZE, 2);
    for (int cost = 0; cost < 2; cost++) {
        struct sinkhorn_problem problem = small_problem(x, y, small_weights, (enum sinkhorn_cost)cost);
        FINISHED(sinkhorn_result) result = solve(&problem, 2);
        double f[SMALL_N], g[SMALL_M];
        solve_by_loops(&problem, result.epsilon, f, g);
        assert_true(result.is_converged);
        for (size_t i = 0; i < SMALL_N; i++) {
            assert_close(result.f[i] - result.f[0], f[i] - f[0], 2e-6); /* costs are fp32 */
        }
        for (size_t j = 0; j < SMALL_M; j++) {
            assert_close(result.g[j] + result.f[0], g[j] + f[0], 2e-6);
        }
    }
}

static void plan_and_potentials_have_no_gap(void **state)
{
    (void)state;
    OWNED_MEMORY float *x = plain_rows((size_t)SMALL_N * SMALL_SIZE, 3);
    OWNED_MEMORY float *y = plain_rows((size_t)SMALL_M * SMALL_SIZE, 4);
    struct sinkhorn_problem problem = small_problem(x, y, small_weights, SINKHORN_EUCLIDEAN);
    problem.tolerance = 1e-4;
    FINISHED(sinkhorn_result) result = solve(&problem, 1);
    double cost = 0, entropy = 0, dual = 0, sum_of_weights = 12.5, missed = 0;
    for (size_t j = 0; j < SMALL_M; j++) {
        double nu = small_weights[j] / sum_of_weights, column = 0;
        dual += nu * result.g[j];
        for (size_t i = 0; i < SMALL_N; i++) {
            double exponent = (result.f[i] + result.g[j] - cost_of(&problem, i, j)) / result.epsilon;
            double mass = nu / SMALL_N * exp(exponent);
            column += mass;
            cost += mass * cost_of(&problem, i, j);
            entropy += mass * exponent; /* log of mass against nu mu */
        }
        missed += fabs(column - nu);
    }
    for (size_t i = 0; i < SMALL_N; i++) {
        dual += result.f[i] / SMALL_N;
    }
    assert_true(fabs(cost + result.epsilon * entropy - dual) < 1e-3 * cost);
    assert_close(missed, result.marginal_error, 1e-6);
    assert_true(result.is_converged && result.marginal_error < 1e-4);
}

static void the_order_of_records_and_a_shift_of_all_change_nothing(void **state)
{
    (void)state;
    OWNED_MEMORY float *x = plain_rows((size_t)SMALL_N * SMALL_SIZE, 5);
    OWNED_MEMORY float *y = plain_rows((size_t)SMALL_M * SMALL_SIZE, 6);
    struct sinkhorn_problem problem = small_problem(x, y, NULL, SINKHORN_EUCLIDEAN);
    FINISHED(sinkhorn_result) result = solve(&problem, 1);
    float moved_x[SMALL_N * SMALL_SIZE], moved_y[SMALL_M * SMALL_SIZE];
    for (size_t i = 0; i < (size_t)SMALL_N * SMALL_SIZE; i++) {
        size_t from = (SMALL_N - 1 - i / SMALL_SIZE) * SMALL_SIZE + i % SMALL_SIZE;
        moved_x[i] = x[from] + 100; /* so that |x|^2 + |y|^2 - 2 x.y alone would keep two digits */
    }
    for (size_t i = 0; i < (size_t)SMALL_M * SMALL_SIZE; i++) {
        moved_y[i] = y[i] + 100;
    }
    problem.x = moved_x;
    problem.y = moved_y;
    FINISHED(sinkhorn_result) moved = solve(&problem, 1);
    assert_close(moved.median_cost, result.median_cost, 2e-5);
    for (size_t i = 0; i < SMALL_N; i++) {
        assert_close(moved.f[SMALL_N - 1 - i] - moved.f[SMALL_N - 1], result.f[i] - result.f[0], 5e-5);
    }
}

static void equal_records_share_a_potential(void **state)
{
    (void)state;
    OWNED_MEMORY float *x = plain_rows((size_t)SMALL_N * SMALL_SIZE, 7);
    OWNED_MEMORY float *y = plain_rows((size_t)SMALL_M * SMALL_SIZE, 8);
    memcpy(x + (size_t)20 * SMALL_SIZE, x + (size_t)3 * SMALL_SIZE, SMALL_SIZE * sizeof *x);
    struct sinkhorn_problem problem = small_problem(x, y, NULL, SINKHORN_SQUARED);
    FINISHED(sinkhorn_result) result = solve(&problem, 1);
    assert_close(result.f[20], result.f[3], 1e-6 * result.median_cost);
}

static void a_target_that_no_record_is_near_gets_its_mass(void **state)
{
    (void)state;
    const float x[] = {0, 1, 2, 3}, y[] = {0, 1, 2, 1e6F};
    struct sinkhorn_problem problem = defaults;
    problem.n = problem.m = 4;
    problem.x = x;
    problem.y = y;
    problem.epsilon_ratio = 0.3; /* smaller ones take long: what the far target takes moves down the line */
    problem.tolerance = 1e-6;
    FINISHED(sinkhorn_result) result = solve(&problem, 1);
    assert_true(result.is_converged);
    double mass = 0;
    for (size_t i = 0; i < 4; i++) {
        mass += exp((result.f[i] + result.g[3] - (1e6 - (double)i)) / result.epsilon) / 16;
    }
    assert_close(mass, 0.25, 1e-6);
}

static void bits_depend_on_neither_threads_nor_memory(void **state)
{
    (void)state;
    enum { N = 4500, M = 33, SIZE = 7 }; /* two batches */
    OWNED_MEMORY float *x = plain_rows((size_t)N * SIZE, 9);
    OWNED_MEMORY float *y = plain_rows((size_t)M * SIZE, 10);
    struct sinkhorn_problem problem = defaults;
    problem.n = N;
    problem.m = M;
    problem.size = SIZE;
    problem.x = x;
    problem.y = y;
    problem.tolerance = 1e-4;
    FINISHED(sinkhorn_result) kept = solve(&problem, 1);
    problem.costs_limit_bytes = (uint64_t)N * M * 4 - 1;
    FINISHED(sinkhorn_result) made = solve(&problem, 3);
    assert_true(kept.is_converged);
    assert_int_equal(kept.iterations, made.iterations);
    assert_memory_equal(kept.f, made.f, N * sizeof(double));
    assert_memory_equal(kept.g, made.g, M * sizeof(double));
}

static void the_limit_of_iterations_is_kept_and_said(void **state)
{
    (void)state;
    OWNED_MEMORY float *x = plain_rows((size_t)SMALL_N * SMALL_SIZE, 11);
    OWNED_MEMORY float *y = plain_rows((size_t)SMALL_M * SMALL_SIZE, 12);
    struct sinkhorn_problem problem = small_problem(x, y, NULL, SINKHORN_EUCLIDEAN);
    problem.epsilon_ratio = 0.01;
    for (size_t limit = 1; limit < 30; limit++) {
        problem.iteration_limit = limit;
        FINISHED(sinkhorn_result) result = solve(&problem, 1);
        assert_int_equal(result.iterations, limit);
        assert_false(result.is_converged);
        assert_true(isfinite(result.f[0]) && result.marginal_error > 0);
    }
}

static void costs_that_are_all_zero_need_no_transport(void **state)
{
    (void)state;
    const float x[] = {4, 4, 4}, y[] = {4};
    struct sinkhorn_problem problem = defaults;
    problem.n = 3;
    problem.m = 1;
    problem.x = x;
    problem.y = y;
    FINISHED(sinkhorn_result) result = solve(&problem, 1);
    assert_true(result.is_converged && result.median_cost == 0);
    assert_true(result.f[0] == 0 && result.f[2] == 0 && result.g[0] == 0);
}

static void assert_refused(const struct sinkhorn_problem *problem, const struct cancel *cancel,
                           enum error_code code, const char *text)
{
    OWNED(pool) pool = pool_create(1, NULL);
    struct error error = {0};
    struct sinkhorn_result result = {.iterations = 77};
    assert_false(sinkhorn_solve(&(struct dense_threads){pool, cancel}, problem, &result, &error));
    assert_int_equal(error.code, code);
    assert_non_null(strstr(error.message, text));
    assert_int_equal(result.iterations, 77);
}

static void what_cannot_be_solved_is_named(void **state)
{
    (void)state;
    const float good[] = {1, 2}, bad[] = {1, NAN}, vast[] = {1, 1e19F};
    const double weights[] = {1, 0};
    struct sinkhorn_problem problem = defaults;
    problem.n = problem.m = 2;
    problem.x = good;
    problem.y = good;
    struct cancel cancel = {0};
    cancel_request(&cancel, CANCEL_NOW);
    assert_refused(&problem, &cancel, ERROR_CANCELLED, "");
    problem.weights = weights;
    assert_refused(&problem, NULL, ERROR_INVALID_ARGUMENT, "target 1");
    problem.weights = NULL;
    problem.x = bad;
    assert_refused(&problem, NULL, ERROR_NUMERIC, "row 1");
    problem.x = good;
    problem.y = vast;
    assert_refused(&problem, NULL, ERROR_NUMERIC, "targets: row 1");
    problem.m = 0;
    assert_refused(&problem, NULL, ERROR_INVALID_ARGUMENT, "0 targets");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_target_is_exact_at_every_epsilon),
        cmocka_unit_test(equal_sets_have_equal_potentials),
        cmocka_unit_test(gradients_on_a_line_are_the_references),
        cmocka_unit_test(potentials_are_those_of_plain_loops),
        cmocka_unit_test(plan_and_potentials_have_no_gap),
        cmocka_unit_test(the_order_of_records_and_a_shift_of_all_change_nothing),
        cmocka_unit_test(equal_records_share_a_potential),
        cmocka_unit_test(a_target_that_no_record_is_near_gets_its_mass),
        cmocka_unit_test(bits_depend_on_neither_threads_nor_memory),
        cmocka_unit_test(the_limit_of_iterations_is_kept_and_said),
        cmocka_unit_test(costs_that_are_all_zero_need_no_transport),
        cmocka_unit_test(what_cannot_be_solved_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
