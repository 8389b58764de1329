/* workers/select/sinkhorn.c: see sinkhorn.h. A sweep goes batch by batch; the rows of a batch are cut into tiles, each a task with column sums of
 * its own, which are added up in the order of the tiles. */
#include "workers/select/sinkhorn.h"

#include "base/check.h"
#include "base/memory.h"
#include "workers/select/quantile.h"
#include "workers/select/rows.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TILE_ROWS = 64, BATCH_TILES = 64 };

#define CANCELLED_SHARE  1e-3
#define STAGE_TOLERANCE  1e-2
#define STAGE_ITERATIONS 100
/* Terms below exp(EXPONENT_FLOOR) of their row are nothing: 2e-35. Columns that hold at least STARVED lose 2e-15 of themselves by that. */
#define EXPONENT_FLOOR   (-80.0)
#define STARVED          1e-20

static const double stages[] = {10.0, 4.641588833612779, 2.154434690031884, 1.0}; /* times eps */
#define STAGE_COUNT (sizeof stages / sizeof stages[0])

struct solving {
    const struct dense_threads *threads;
    const struct sinkhorn_problem *problem;
    size_t batch_rows;    /* a multiple of TILE_ROWS */
    double *x_squares;    /* [n] */
    double *y_squares;    /* [m] */
    double *weights;      /* [m], of sum 1 */
    double *offsets;      /* [m] g / eps + log nu */
    double *columns;      /* [m] the plan's column sums, times n */
    double *lowest;       /* [m] min_i (C_ij - f_i) */
    double *tile_columns; /* [tiles of a batch, m] the same of each tile */
    double *tile_lowest;  /* [tiles of a batch, m] */
    double *terms;        /* [threads, m] */
    float *costs;         /* [n, m] if kept, else [batch_rows, m] */
    bool is_kept;
    double epsilon; /* of this stage */
    struct sinkhorn_result result;
    /* the batch */
    size_t first, count;
    float *batch; /* [count, m] */
};

static void solving_finish(struct solving *solving)
{
    free(solving->x_squares);
    free(solving->y_squares);
    free(solving->weights);
    free(solving->offsets);
    free(solving->columns);
    free(solving->lowest);
    free(solving->tile_columns);
    free(solving->tile_lowest);
    free(solving->terms);
    free(solving->costs);
    sinkhorn_result_finish(&solving->result);
}

void sinkhorn_result_finish(struct sinkhorn_result *result)
{
    free(result->f);
    free(result->g);
    *result = (struct sinkhorn_result){0};
}

/* ---- what is given -------------------------------------------------------------------------------- */

static bool set_weights(struct solving *solving, struct error *error)
{
    const struct sinkhorn_problem *problem = solving->problem;
    double sum = 0.0;
    for (size_t j = 0; j < problem->m; j++) {
        double weight = problem->weights != NULL ? problem->weights[j] : 1.0;
        if (!(weight > 0.0) || !isfinite(weight)) {
            return error_set(error, ERROR_INVALID_ARGUMENT, "the weight of target %zu is %g, not above 0", j,
                             weight);
        }
        solving->weights[j] = weight;
        sum += weight;
    }
    for (size_t j = 0; j < problem->m; j++) {
        solving->weights[j] /= sum;
    }
    return true;
}

static double square_of_pair(const struct sinkhorn_problem *problem, size_t i, size_t j)
{
    const float *x = problem->x + i * problem->size, *y = problem->y + j * problem->size;
    return rows_distance_square(x, y, problem->size);
}

static double cost_of_square(const struct sinkhorn_problem *problem, double square)
{
    return problem->cost == SINKHORN_SQUARED ? square : sqrt(square);
}

/* The median, or the mean where it is 0 (more than half of the pairs are equal). */
static bool measure_median(const struct sinkhorn_problem *problem, double *ret_median, struct error *error)
{
    size_t n = problem->n, m = problem->m;
    bool is_whole = n <= SINKHORN_PAIRS / m;
    size_t count = is_whole ? n * m : SINKHORN_PAIRS;
    OWNED_MEMORY double *costs = memory_try_array(count, sizeof *costs, "sampled costs", error);
    if (costs == NULL) {
        return false;
    }
    double sum = 0.0;
    for (size_t pair = 0; pair < count; pair++) {
        size_t i = is_whole ? pair / m : (size_t)rng_below(&problem->rng, 2 * pair, n);
        size_t j = is_whole ? pair % m : (size_t)rng_below(&problem->rng, 2 * pair + 1, m);
        costs[pair] = cost_of_square(problem, square_of_pair(problem, i, j));
        sum += costs[pair];
    }
    quantile_sort(costs, count);
    double median = quantile_of_sorted(costs, count, 0.5);
    *ret_median = median > 0.0 ? median : sum / (double)count;
    return true;
}

static size_t rows_of_batch(size_t m)
{
    size_t tiles = SINKHORN_BATCH_BYTES / sizeof(float) / TILE_ROWS / m;
    return TILE_ROWS * (tiles < 1 ? 1 : tiles < BATCH_TILES ? tiles : BATCH_TILES);
}

static bool allocate(struct solving *solving, struct error *error)
{
    size_t n = solving->problem->n, m = solving->problem->m;
    uint64_t bytes = 0;
    solving->batch_rows = rows_of_batch(m);
    solving->is_kept = !__builtin_mul_overflow((uint64_t)n, (uint64_t)m * sizeof(float), &bytes) &&
                       bytes <= solving->problem->costs_limit_bytes;
    size_t rows = solving->is_kept || n < solving->batch_rows ? n : solving->batch_rows;
    const struct {
        double **array;
        size_t rows, columns;
    } wanted[] = {
        {&solving->x_squares, n, 1},
        {&solving->y_squares, m, 1},
        {&solving->weights, m, 1},
        {&solving->offsets, m, 1},
        {&solving->columns, m, 1},
        {&solving->lowest, m, 1},
        {&solving->tile_columns, solving->batch_rows / TILE_ROWS, m},
        {&solving->tile_lowest, solving->batch_rows / TILE_ROWS, m},
        {&solving->terms, pool_thread_count(solving->threads->pool), m},
        {&solving->result.f, n, 1},
        {&solving->result.g, m, 1},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        *wanted[i].array =
            memory_try_array(wanted[i].rows, wanted[i].columns * sizeof(double), "transport", error);
        if (*wanted[i].array == NULL) {
            return false;
        }
    }
    solving->costs = memory_try_array(rows, m * sizeof(float), "transport costs", error);
    return solving->costs != NULL;
}

/* ---- costs ---------------------------------------------------------------------------------------- */

/* Products x.y of the batch become costs. */
static void finish_costs(void *context, size_t tile, size_t thread)
{
    (void)thread;
    const struct solving *solving = context;
    const struct sinkhorn_problem *problem = solving->problem;
    size_t end = (tile + 1) * TILE_ROWS < solving->count ? (tile + 1) * TILE_ROWS : solving->count;
    for (size_t r = tile * TILE_ROWS; r < end; r++) {
        size_t i = solving->first + r;
        float *costs = solving->batch + r * problem->m;
        for (size_t j = 0; j < problem->m; j++) {
            double both = solving->x_squares[i] + solving->y_squares[j];
            double square = both - 2.0 * (double)costs[j];
            if (square < CANCELLED_SHARE * both) {
                square = square_of_pair(problem, i, j);
            }
            costs[j] = (float)cost_of_square(problem, square);
        }
    }
}

static size_t tiles_of_batch(const struct solving *solving)
{
    return (solving->count + TILE_ROWS - 1) / TILE_ROWS;
}

static void enter_batch(struct solving *solving, size_t first)
{
    size_t left = solving->problem->n - first;
    solving->first = first;
    solving->count = left < solving->batch_rows ? left : solving->batch_rows;
    solving->batch = solving->is_kept ? solving->costs + first * solving->problem->m : solving->costs;
}

static bool make_costs(struct solving *solving, struct error *error)
{
    const struct sinkhorn_problem *problem = solving->problem;
    return rows_multiply(solving->threads, problem->size, problem->x + solving->first * problem->size,
                         solving->count, problem->y, problem->m, solving->batch, problem->m, error) &&
           pool_run(solving->threads->pool, tiles_of_batch(solving), finish_costs, solving,
                    solving->threads->cancel, error);
}

/* ---- a sweep -------------------------------------------------------------------------------------- */

/* f of one row, and what the row adds to the columns of its tile. terms: [m] scratch. */
static void update_row(struct solving *solving, size_t row, double *terms, double *columns, double *lowest)
{
    size_t m = solving->problem->m;
    const float *costs = solving->batch + row * m;
    double rate = 1.0 / solving->epsilon, greatest = -INFINITY, sum = 0.0;
    for (size_t j = 0; j < m; j++) {
        terms[j] = solving->offsets[j] - (double)costs[j] * rate;
        greatest = terms[j] > greatest ? terms[j] : greatest;
    }
    for (size_t j = 0; j < m; j++) {
        double exponent = terms[j] - greatest;
        terms[j] = exponent < EXPONENT_FLOOR ? 0.0 : exp(exponent);
        sum += terms[j];
    }
    double f = -solving->epsilon * (greatest + log(sum)), share = 1.0 / sum;
    for (size_t j = 0; j < m; j++) {
        double slack = (double)costs[j] - f;
        columns[j] += terms[j] * share;
        lowest[j] = slack < lowest[j] ? slack : lowest[j];
    }
    solving->result.f[solving->first + row] = f;
}

static void update_tile(void *context, size_t tile, size_t thread)
{
    struct solving *solving = context;
    size_t m = solving->problem->m;
    size_t end = (tile + 1) * TILE_ROWS < solving->count ? (tile + 1) * TILE_ROWS : solving->count;
    double *columns = solving->tile_columns + tile * m, *lowest = solving->tile_lowest + tile * m;
    for (size_t j = 0; j < m; j++) {
        columns[j] = 0.0;
        lowest[j] = INFINITY;
    }
    for (size_t row = tile * TILE_ROWS; row < end; row++) {
        update_row(solving, row, solving->terms + thread * m, columns, lowest);
    }
}

static void add_tiles(struct solving *solving)
{
    size_t m = solving->problem->m;
    for (size_t tile = 0; tile < tiles_of_batch(solving); tile++) {
        const double *columns = solving->tile_columns + tile * m;
        const double *lowest = solving->tile_lowest + tile * m;
        for (size_t j = 0; j < m; j++) {
            solving->columns[j] += columns[j];
            solving->lowest[j] = lowest[j] < solving->lowest[j] ? lowest[j] : solving->lowest[j];
        }
    }
}

/* f of g, and the marginal error of the two. */
static bool sweep(struct solving *solving, struct error *error)
{
    const struct sinkhorn_problem *problem = solving->problem;
    for (size_t j = 0; j < problem->m; j++) {
        solving->offsets[j] = solving->result.g[j] / solving->epsilon + log(solving->weights[j]);
        solving->columns[j] = 0.0;
        solving->lowest[j] = INFINITY;
    }
    bool is_made = solving->is_kept && solving->result.iterations > 0;
    for (size_t first = 0; first < problem->n; first += solving->batch_rows) {
        enter_batch(solving, first);
        if ((!is_made && !make_costs(solving, error)) ||
            !pool_run(solving->threads->pool, tiles_of_batch(solving), update_tile, solving,
                      solving->threads->cancel, error)) {
            return false;
        }
        add_tiles(solving);
    }
    double missed = 0.0;
    for (size_t j = 0; j < problem->m; j++) {
        missed += fabs(solving->columns[j] / (double)problem->n - solving->weights[j]);
    }
    solving->result.marginal_error = missed;
    solving->result.iterations++;
    return true;
}

static void update_targets(struct solving *solving)
{
    for (size_t j = 0; j < solving->problem->m; j++) {
        double mass = solving->columns[j] / (double)solving->problem->n;
        double *g = &solving->result.g[j];
        *g = mass < STARVED ? solving->lowest[j] : *g - solving->epsilon * log(mass / solving->weights[j]);
    }
}

static bool run_stage(struct solving *solving, double factor, bool is_last, struct error *error)
{
    size_t limit = solving->problem->iteration_limit, from = solving->result.iterations;
    double tolerance = solving->problem->tolerance;
    if (!is_last) {
        limit = limit - 1 - from < STAGE_ITERATIONS ? limit - 1 : from + STAGE_ITERATIONS;
        tolerance = tolerance > STAGE_TOLERANCE ? tolerance : STAGE_TOLERANCE;
    }
    solving->epsilon = factor * solving->result.epsilon;
    do {
        if (solving->result.iterations > from) {
            update_targets(solving);
        }
        if (!sweep(solving, error)) {
            return false;
        }
    } while (!(solving->result.marginal_error < tolerance) && solving->result.iterations < limit);
    return true;
}

static bool solve(struct solving *solving, struct error *error)
{
    struct sinkhorn_result *result = &solving->result;
    const struct sinkhorn_problem *problem = solving->problem;
    if (!allocate(solving, error) || !set_weights(solving, error) ||
        !rows_measure_squares(solving->threads, problem->x, problem->n, problem->size, solving->x_squares,
                              error)) {
        return false;
    }
    if (!rows_measure_squares(solving->threads, problem->y, problem->m, problem->size, solving->y_squares,
                              error)) {
        return error_prefix(error, "targets: ");
    }
    if (!measure_median(problem, &result->median_cost, error)) {
        return false;
    }
    result->epsilon = problem->epsilon_ratio * result->median_cost;
    result->is_converged = !(result->median_cost > 0.0);
    for (size_t s = 0; s < STAGE_COUNT && !result->is_converged; s++) {
        bool is_last = s + 1 == STAGE_COUNT;
        /* The last stage has at least one sweep: potentials are always of eps itself. */
        if ((is_last || result->iterations + 1 < problem->iteration_limit) &&
            !run_stage(solving, stages[s], is_last, error)) {
            return false;
        }
        result->is_converged = is_last && result->marginal_error < problem->tolerance;
    }
    return true;
}

bool sinkhorn_solve(const struct dense_threads *threads, const struct sinkhorn_problem *problem,
                    struct sinkhorn_result *ret_result, struct error *error)
{
    CHECK(problem->size >= 1 && problem->epsilon_ratio > 0.0 && problem->tolerance > 0.0 &&
          problem->iteration_limit >= 1);
    if (problem->n == 0 || problem->m == 0) {
        return error_set(error, ERROR_INVALID_ARGUMENT, "transport of %zu records to %zu targets", problem->n,
                         problem->m);
    }
    FINISHED(solving) solving = {.threads = threads, .problem = problem};
    if (!solve(&solving, error)) {
        return false;
    }
    *ret_result = solving.result;
    solving.result = (struct sinkhorn_result){0};
    return true;
}
