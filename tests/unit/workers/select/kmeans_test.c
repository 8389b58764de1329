/*
 * tests/unit/workers/select/kmeans_test.c: data_selection 4's vectors T1-T3, the edges of assignments and of empty clusters, and a plain Lloyd
 * iteration from the same beginnings.
 */
#include "tests/unit/workers/select/plain.h"
#include "workers/select/kmeans.h"

static size_t plain_nearest(const float *row, const float *centroids, size_t count, size_t size)
{
    size_t nearest = 0;
    for (size_t c = 1; c < count; c++) {
        nearest = plain_square(row, centroids + c * size, size) <
                          plain_square(row, centroids + nearest * size, size)
                      ? c
                      : nearest;
    }
    return nearest;
}

/* Whole numbers in 0..end-1: all distances of theirs are exact, and many are equal. */
static float *whole_rows(size_t count, size_t size, uint64_t end, uint64_t seed)
{
    float *rows = memory_create(count * size, sizeof *rows);
    struct rng rng = {.seed = seed};
    for (size_t i = 0; i < count * size; i++) {
        rows[i] = (float)rng_below(&rng, i, end);
    }
    return rows;
}

static void two_groups_have_their_means_whatever_the_beginnings(void **state)
{
    (void)state;
    const float rows[] = {0, 1, 2, 10, 11, 12};
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct kmeans_request request = {
            .centroid_count = 2, .iteration_limit = 20, .restart_count = 1, .seed = seed};
        struct error error = {0};
        OWNED(kmeans) kmeans = kmeans_fit(&plain_threads, rows, 6, 1, &request, &error);
        assert_non_null(kmeans);
        size_t low = kmeans->centroids[0] < kmeans->centroids[1] ? 0 : 1;
        assert_true(kmeans->centroids[low] == 1 && kmeans->centroids[1 - low] == 11);
        assert_true(kmeans->is_converged && kmeans->cost == 4);
        uint32_t labels[6];
        float distances[6];
        assert_true(kmeans_assign(&plain_threads, KMEANS_EUCLIDEAN, rows, 6, 1, kmeans->centroids, 2, labels,
                                  distances, &error));
        const float expected[] = {1, 0, 1, 1, 0, 1};
        assert_memory_equal(distances, expected, sizeof expected);
        for (size_t i = 0; i < 6; i++) {
            assert_int_equal(labels[i], i < 3 ? low : 1 - low);
        }
    }
}

static void one_centroid_is_the_mean(void **state)
{
    (void)state;
    const float rows[] = {0, 0, 0, 4};
    struct kmeans_request request = {.centroid_count = 1, .iteration_limit = 5, .restart_count = 1};
    OWNED(kmeans) kmeans = kmeans_fit(&plain_threads, rows, 4, 1, &request, NULL);
    assert_non_null(kmeans);
    assert_true(kmeans->centroids[0] == 1 && kmeans->cost == 12 && kmeans->is_converged);
}

static void one_direction_lies_between(void **state)
{
    (void)state;
    const float rows[] = {1, 0, 0, 1, 0, 0};
    struct kmeans_request request = {
        .form = KMEANS_COSINE, .centroid_count = 1, .iteration_limit = 5, .restart_count = 1};
    OWNED(kmeans) kmeans = kmeans_fit(&plain_threads, rows, 3, 2, &request, NULL);
    assert_non_null(kmeans);
    assert_close((double)kmeans->centroids[0], sqrt(0.5), 1e-7);
    assert_close((double)kmeans->centroids[1], sqrt(0.5), 1e-7);
    uint32_t labels[3];
    float distances[3];
    assert_true(kmeans_assign(&plain_threads, KMEANS_COSINE, rows, 3, 2, kmeans->centroids, 1, labels,
                              distances, NULL));
    assert_close((double)distances[0], 0.2928932188, 1e-7);
    assert_close((double)distances[1], 0.2928932188, 1e-7);
    assert_true(distances[2] == 1 && labels[2] == 0); /* the row of length 0 */
}

static void equal_distances_go_to_the_smaller_centroid(void **state)
{
    (void)state;
    const float rows[] = {1, 3, -4};
    const float centroids[] = {2, 0, 4, 2}; /* 1 lies between 2 and 0, 3 between 2 and 4 */
    uint32_t labels[3];
    assert_true(
        kmeans_assign(&plain_threads, KMEANS_EUCLIDEAN, rows, 3, 1, centroids, 4, labels, NULL, NULL));
    assert_int_equal(labels[0], 0);
    assert_int_equal(labels[1], 0);
    assert_int_equal(labels[2], 1);
}

static void assignments_are_those_of_a_plain_search(void **state)
{
    (void)state;
    const size_t sizes[] = {1, 3, 8, 21};
    for (size_t s = 0; s < 4; s++) {
        size_t size = sizes[s], count = 700, centroid_count = 45 + 40 * s;
        OWNED_MEMORY float *rows = whole_rows(count, size, 5, s);
        OWNED_MEMORY float *centroids = whole_rows(centroid_count, size, 5, 100 + s);
        OWNED_MEMORY uint32_t *labels = memory_create(count, sizeof *labels);
        OWNED_MEMORY float *distances = memory_create(count, sizeof *distances);
        assert_true(kmeans_assign(&plain_threads, KMEANS_EUCLIDEAN, rows, count, size, centroids,
                                  centroid_count, labels, distances, NULL));
        for (size_t i = 0; i < count; i++) {
            size_t nearest = plain_nearest(rows + i * size, centroids, centroid_count, size);
            assert_int_equal(labels[i], nearest);
            assert_true((double)distances[i] ==
                        plain_square(rows + i * size, centroids + nearest * size, size));
        }
        /* Far from the origin products lose all that tells the rows apart; distances do not. */
        for (size_t i = 0; i < count * size; i++) {
            rows[i] += 4096;
        }
        for (size_t i = 0; i < centroid_count * size; i++) {
            centroids[i] += 4096;
        }
        OWNED_MEMORY uint32_t *moved = memory_create(count, sizeof *moved);
        assert_true(kmeans_assign(&plain_threads, KMEANS_EUCLIDEAN, rows, count, size, centroids,
                                  centroid_count, moved, NULL, NULL));
        assert_memory_equal(moved, labels, count * sizeof *labels);
    }
}

static void an_empty_cluster_takes_the_farthest_row(void **state)
{
    (void)state;
    const float rows[] = {0, 1, 10, 11}, beginnings[] = {0.5F, 1000};
    struct kmeans_request request = {.centroid_count = 2, .restart_count = 1, .initial_rows = beginnings};
    request.iteration_limit = 1;
    OWNED(kmeans) once = kmeans_fit(&plain_threads, rows, 4, 1, &request, NULL);
    assert_non_null(once);
    assert_close((double)once->centroids[0], 11.0 / 3, 1e-6);
    assert_true(once->centroids[1] == 11 && !once->is_converged);
    request.iteration_limit = 10;
    OWNED(kmeans) kmeans = kmeans_fit(&plain_threads, rows, 4, 1, &request, NULL);
    assert_non_null(kmeans);
    assert_true(kmeans->centroids[0] == 0.5F && kmeans->centroids[1] == 10.5F && kmeans->cost == 1);
    assert_true(kmeans->is_converged && kmeans->iterations == 2);
}

static void more_centroids_than_distinct_rows_leave_nothing_over(void **state)
{
    (void)state;
    const float rows[] = {5, 5, 5, 7, 7, 5};
    struct kmeans_request request = {
        .centroid_count = 4, .iteration_limit = 10, .restart_count = 2, .seed = 3};
    OWNED(kmeans) kmeans = kmeans_fit(&plain_threads, rows, 6, 1, &request, NULL);
    assert_non_null(kmeans);
    assert_true(kmeans->cost == 0 && kmeans->is_converged);
    const float zeros[] = {0, 0, 0, 0};
    request.form = KMEANS_COSINE;
    request.centroid_count = 2;
    OWNED(kmeans) nothing = kmeans_fit(&plain_threads, zeros, 2, 2, &request, NULL);
    assert_non_null(nothing);
    assert_true(nothing->cost == 2);
    request.centroid_count = 1;
    const float opposite[] = {1, 0, -1, 0};
    OWNED(kmeans) kept = kmeans_fit(&plain_threads, opposite, 2, 2, &request, NULL);
    assert_non_null(kept);
    assert_true(fabsf(kept->centroids[0]) == 1 && kept->cost == 2);
}

static void iterations_are_those_of_a_plain_form(void **state)
{
    (void)state;
    enum { COUNT = 400, SIZE = 5, CENTROIDS = 9, LIMIT = 100 };
    struct rng rng = {.seed = 8};
    static float rows[COUNT * SIZE];
    for (size_t i = 0; i < (size_t)COUNT * SIZE; i++) {
        rows[i] = (float)(rng_unit(&rng, i) + rng_unit(&rng, i + 100000));
    }
    float centroids[CENTROIDS * SIZE];
    memcpy(centroids, rows, sizeof centroids);
    size_t labels[COUNT] = {0}, iterations = 0;
    for (bool has_changed = true; has_changed; iterations++) {
        double sums[CENTROIDS * SIZE] = {0}, counts[CENTROIDS] = {0};
        has_changed = false;
        for (size_t i = 0; i < COUNT; i++) {
            size_t label = plain_nearest(rows + i * SIZE, centroids, CENTROIDS, SIZE);
            has_changed = has_changed || iterations == 0 || label != labels[i];
            labels[i] = label;
            counts[label]++;
            for (size_t c = 0; c < SIZE; c++) {
                sums[label * SIZE + c] += (double)rows[i * SIZE + c];
            }
        }
        for (size_t i = 0; i < (size_t)CENTROIDS * SIZE && has_changed; i++) {
            assert_true(counts[i / SIZE] > 0);
            centroids[i] = (float)(sums[i] / counts[i / SIZE]);
        }
    }
    struct kmeans_request request = {
        .centroid_count = CENTROIDS, .iteration_limit = LIMIT, .restart_count = 1, .initial_rows = rows};
    OWNED(kmeans) kmeans = kmeans_fit(&plain_threads, rows, COUNT, SIZE, &request, NULL);
    assert_non_null(kmeans);
    assert_memory_equal(kmeans->centroids, centroids, sizeof centroids);
    assert_int_equal(kmeans->iterations, iterations - 1);
    assert_true(kmeans->is_converged);
}

static void directions_do_not_depend_on_where_they_point(void **state)
{
    (void)state;
    enum { COUNT = 300, SIZE = 4 };
    struct rng rng = {.seed = 21};
    static float rows[COUNT * SIZE], turned[COUNT * SIZE];
    for (size_t i = 0; i < COUNT; i++) {
        double values[SIZE], square = 0;
        for (size_t c = 0; c < SIZE; c++) {
            values[c] = rng_unit(&rng, i * SIZE + c) - 0.5;
            square += values[c] * values[c];
        }
        for (size_t c = 0; c < SIZE;
             c++) { /* a rotation that is exact: axes change places, and one its sign */
            rows[i * SIZE + c] = (float)(values[c] / sqrt(square));
            turned[i * SIZE + (c + 1) % SIZE] = (c == 2 ? -1.0F : 1.0F) * rows[i * SIZE + c];
        }
    }
    struct kmeans_request request = {
        .form = KMEANS_COSINE, .centroid_count = 6, .iteration_limit = 50, .restart_count = 3, .seed = 2};
    OWNED(kmeans) kmeans = kmeans_fit(&plain_threads, rows, COUNT, SIZE, &request, NULL);
    OWNED(kmeans) other = kmeans_fit(&plain_threads, turned, COUNT, SIZE, &request, NULL);
    assert_non_null(kmeans);
    assert_non_null(other);
    assert_close(kmeans->cost, other->cost, 1e-6);
    for (size_t i = 0; i < 6; i++) {
        double square = 0;
        for (size_t c = 0; c < SIZE; c++) {
            double value = (double)kmeans->centroids[i * SIZE + c];
            square += value * value;
            double there = (double)other->centroids[i * SIZE + (c + 1) % SIZE];
            assert_close(c == 2 ? -there : there, value, 1e-6);
        }
        assert_close(square, 1, 1e-6);
    }
}

static void more_beginnings_cost_no_more(void **state)
{
    (void)state;
    enum { COUNT = 500, SIZE = 2 };
    OWNED_MEMORY float *rows = whole_rows(COUNT, SIZE, 100, 6);
    double before = INFINITY;
    for (size_t restarts = 1; restarts <= 8; restarts++) {
        struct kmeans_request request = {
            .centroid_count = 12, .iteration_limit = 60, .restart_count = restarts, .seed = 4};
        OWNED(kmeans) kmeans = kmeans_fit(&plain_threads, rows, COUNT, SIZE, &request, NULL);
        assert_non_null(kmeans);
        assert_true(kmeans->cost <= before);
        before = kmeans->cost;
    }
}

static void a_sample_stands_for_all(void **state)
{
    (void)state;
    enum { COUNT = 3000 };
    OWNED_MEMORY float *rows = memory_create(COUNT, sizeof *rows);
    struct rng rng = {.seed = 1};
    for (size_t i = 0; i < COUNT; i++) {
        rows[i] = (float)(10.0 * (double)(i % 3) + rng_unit(&rng, i));
    }
    struct kmeans_request request = {
        .centroid_count = 3, .iteration_limit = 30, .restart_count = 4, .sample_count = 300, .seed = 9};
    OWNED(kmeans) kmeans = kmeans_fit(&plain_threads, rows, COUNT, 1, &request, NULL);
    assert_non_null(kmeans);
    bool is_seen[3] = {0};
    for (size_t c = 0; c < 3; c++) {
        double group = round((double)kmeans->centroids[c] / 10 - 0.05);
        assert_close((double)kmeans->centroids[c], 10 * group + 0.5, 0.1);
        is_seen[(size_t)group] = true;
    }
    assert_true(is_seen[0] && is_seen[1] && is_seen[2]);
    assert_close(kmeans->cost, 300.0 / 12, 5);
}

static void bits_depend_on_the_seed_alone(void **state)
{
    (void)state;
    enum { COUNT = 5000, SIZE = 70, CENTROIDS = 40 };
    OWNED_MEMORY float *rows = memory_create((size_t)COUNT * SIZE, sizeof *rows);
    struct rng rng = {.seed = 13};
    for (size_t i = 0; i < (size_t)COUNT * SIZE; i++) {
        rows[i] = (float)rng_unit(&rng, i);
    }
    struct kmeans_request request = {.centroid_count = CENTROIDS,
                                     .iteration_limit = 6,
                                     .restart_count = 2,
                                     .sample_count = 4000,
                                     .seed = 5};
    OWNED(pool) three = pool_create(3, NULL);
    OWNED(pool) one = pool_create(1, NULL);
    struct dense_threads threads = {three, NULL}, alone = {one, NULL};
    OWNED(kmeans) kmeans = kmeans_fit(&alone, rows, COUNT, SIZE, &request, NULL);
    OWNED(kmeans) by_three = kmeans_fit(&threads, rows, COUNT, SIZE, &request, NULL);
    request.seed = 6;
    OWNED(kmeans) other = kmeans_fit(&threads, rows, COUNT, SIZE, &request, NULL);
    assert_true(kmeans != NULL && by_three != NULL && other != NULL);
    size_t bytes = (size_t)CENTROIDS * SIZE * sizeof(float);
    assert_memory_equal(kmeans->centroids, by_three->centroids, bytes);
    assert_true(kmeans->cost == by_three->cost);
    assert_memory_not_equal(kmeans->centroids, other->centroids, bytes);
}

static void what_cannot_be_is_said(void **state)
{
    (void)state;
    float rows[] = {0, 1, 2, 3};
    struct kmeans_request request = {.centroid_count = 5, .iteration_limit = 5, .restart_count = 1};
    struct error error = {0};
    assert_null(kmeans_fit(&plain_threads, rows, 4, 1, &request, &error));
    assert_int_equal(error.code, ERROR_OUT_OF_RANGE);
    request.centroid_count = 0;
    assert_null(kmeans_fit(&plain_threads, rows, 4, 1, &request, &error));
    assert_int_equal(error.code, ERROR_OUT_OF_RANGE);
    request.centroid_count = 3;
    request.sample_count = 2;
    assert_null(kmeans_fit(&plain_threads, rows, 4, 1, &request, &error));
    assert_int_equal(error.code, ERROR_OUT_OF_RANGE);
    request.sample_count = 0;
    rows[3] = NAN;
    assert_null(kmeans_fit(&plain_threads, rows, 4, 1, &request, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
    assert_non_null(strstr(error.message, "row 3"));
    rows[3] = INFINITY;
    uint32_t labels[4];
    assert_false(kmeans_assign(&plain_threads, KMEANS_EUCLIDEAN, rows, 4, 1, rows, 1, labels, NULL, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
    assert_false(kmeans_assign(&plain_threads, KMEANS_COSINE, rows, 2, 1, rows + 2, 1, labels, NULL, &error));
    assert_int_equal(error.code, ERROR_INVALID_ARGUMENT);
    assert_non_null(strstr(error.message, "centroids: row 0"));
    request.form = KMEANS_COSINE;
    assert_null(kmeans_fit(&plain_threads, rows, 3, 1, &request, &error));
    assert_int_equal(error.code, ERROR_INVALID_ARGUMENT);
    assert_non_null(strstr(error.message, "row 2"));
}

/* More rows and centroids than are multiplied at once. */
static void blocks_of_rows_are_assigned_alike(void **state)
{
    (void)state;
    enum { COUNT = 9000, CENTROIDS = 500, SIZE = 4 };
    OWNED_MEMORY float *rows = whole_rows(COUNT, SIZE, 12, 5);
    OWNED_MEMORY float *centroids = whole_rows(CENTROIDS, SIZE, 12, 6);
    OWNED_MEMORY uint32_t *labels = memory_create(COUNT, sizeof *labels);
    OWNED_MEMORY float *distances = memory_create(COUNT, sizeof *distances);
    assert_true(kmeans_assign(&plain_threads, KMEANS_EUCLIDEAN, rows, COUNT, SIZE, centroids, CENTROIDS,
                              labels, distances, NULL));
    for (size_t i = 0; i < COUNT; i += i < 8100 || i > 8300 ? 7 : 1) {
        size_t nearest = plain_nearest(rows + i * SIZE, centroids, CENTROIDS, SIZE);
        assert_int_equal(labels[i], nearest);
        assert_close((double)distances[i], plain_square(rows + i * SIZE, centroids + nearest * SIZE, SIZE),
                     0);
    }
}

static void a_centroid_of_zeros_gets_no_row_while_there_is_another(void **state)
{
    (void)state;
    const float rows[] = {1, 0, -1, 0, 0, 1, 0, 0}, centroids[] = {0, 0, 1, 0};
    uint32_t labels[4];
    float distances[4];
    assert_true(
        kmeans_assign(&plain_threads, KMEANS_COSINE, rows, 4, 2, centroids, 2, labels, distances, NULL));
    assert_memory_equal(labels, ((const uint32_t[]){1, 1, 1, 0}), sizeof labels);
    assert_memory_equal(distances, ((const float[]){0, 2, 1, 1}), sizeof distances);
    assert_true(
        kmeans_assign(&plain_threads, KMEANS_COSINE, rows, 4, 2, centroids, 1, labels, distances, NULL));
    assert_memory_equal(labels, ((const uint32_t[]){0, 0, 0, 0}), sizeof labels);
    assert_memory_equal(distances, ((const float[]){1, 1, 1, 1}), sizeof distances);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_groups_have_their_means_whatever_the_beginnings),
        cmocka_unit_test(one_centroid_is_the_mean),
        cmocka_unit_test(one_direction_lies_between),
        cmocka_unit_test(equal_distances_go_to_the_smaller_centroid),
        cmocka_unit_test(assignments_are_those_of_a_plain_search),
        cmocka_unit_test(an_empty_cluster_takes_the_farthest_row),
        cmocka_unit_test(more_centroids_than_distinct_rows_leave_nothing_over),
        cmocka_unit_test(iterations_are_those_of_a_plain_form),
        cmocka_unit_test(directions_do_not_depend_on_where_they_point),
        cmocka_unit_test(more_beginnings_cost_no_more),
        cmocka_unit_test(a_sample_stands_for_all),
        cmocka_unit_test(bits_depend_on_the_seed_alone),
        cmocka_unit_test(what_cannot_be_is_said),
        cmocka_unit_test(blocks_of_rows_are_assigned_alike),
        cmocka_unit_test(a_centroid_of_zeros_gets_no_row_while_there_is_another),
    };
    return cmocka_run_group_tests(tests, plain_open, plain_close);
}
