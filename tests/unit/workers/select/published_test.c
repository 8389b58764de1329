/*
 * The published arithmetic: the reference's vectors (data_selection 1.9 T2, T4), eigenvectors against the matrix they belong to, blobs, and
 * where the code would divide by zero.
 */
#include "tests/unit/workers/select/blobs.h"
#include "workers/select/labels.h"
#include "workers/select/published.h"

static void the_bandwidth_counts_zeros_and_both_triangles(void **state)
{
    (void)state;
    OWNED(pool) pool = pool_create(1, NULL);
    struct dense_threads threads = {pool, NULL};
    const float line[] = {0, 1, 3}, two[] = {0, 4}, copies[] = {5, 5, 5, 9};
    double distances[16], sigma = 0, values[2], vectors[4];
    assert_true(published_distances(&threads, line, 3, 1, distances, NULL));
    assert_close(distances[2], 3, 0);
    assert_close(distances[7], 2, 0);
    assert_true(published_bandwidth(distances, 3, &sigma, NULL));
    assert_close(sigma, 1, 0);
    assert_true(published_distances(&threads, two, 2, 1, distances, NULL));
    assert_true(published_bandwidth(distances, 2, &sigma, NULL));
    assert_close(sigma, 2, 0); /* half the distance: a = e^-2 */
    assert_true(published_vectors(&threads, distances, 2, sigma, 2, values, vectors, NULL));
    assert_close(values[0], 0, 1e-14);
    assert_close(values[1], 0.2384058440, 1e-10);
    for (size_t i = 0; i < 4; i++) {
        assert_close(fabs(vectors[i]), sqrt(0.5), 1e-14);
    }
    struct error error = {0};
    assert_true(published_distances(&threads, copies, 4, 1, distances, NULL));
    assert_true(published_bandwidth(distances, 4, &sigma, NULL));
    assert_close(sigma, 0, 0);
    assert_false(published_vectors(&threads, distances, 4, sigma, 2, values, vectors, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
}

static void vectors_are_eigenvectors_of_the_unsymmetric_laplacian(void **state)
{
    (void)state;
    enum { COUNT = 60, SIZE = 4, CLUSTERS = 5 };
    OWNED(pool) pool = pool_create(2, NULL);
    struct dense_threads threads = {pool, NULL};
    float *rows = blobs_points(COUNT, SIZE, 3, 0.8);
    double *distances = memory_create((size_t)COUNT * COUNT, sizeof *distances), sigma = 0;
    double values[CLUSTERS], vectors[COUNT * CLUSTERS];
    assert_true(published_distances(&threads, rows, COUNT, SIZE, distances, NULL));
    assert_true(published_bandwidth(distances, COUNT, &sigma, NULL));
    assert_true(published_vectors(&threads, distances, COUNT, sigma, CLUSTERS, values, vectors, NULL));
    for (size_t l = 0; l < CLUSTERS; l++) {
        double square = 0;
        for (size_t i = 0; i < COUNT; i++) {
            double degree = 0, sum = 0;
            for (size_t j = 0; j < COUNT; j++) {
                double ratio = distances[i * COUNT + j] / sigma, a = exp(-ratio * ratio / 2);
                degree += a;
                sum += a * vectors[j * CLUSTERS + l];
            }
            double own = vectors[i * CLUSTERS + l];
            assert_close(own - sum / degree, values[l] * own, 1e-12);
            square += own * own;
        }
        assert_close(square, 1, 1e-12);
        assert_true(l == 0 || values[l] >= values[l - 1]);
    }
    free(distances);
    free(rows);
}

static void blobs_are_found(void **state)
{
    (void)state;
    enum { COUNT = 90, SIZE = 6, BLOBS = 3 };
    OWNED(pool) pool = pool_create(2, NULL);
    OWNED(pool) alone = pool_create(1, NULL);
    struct dense_threads threads = {pool, NULL}, one = {alone, NULL};
    float *rows = blobs_points(COUNT, SIZE, BLOBS, 0.2);
    double *distances = memory_create((size_t)COUNT * COUNT, sizeof *distances), sigma = 0;
    double values[BLOBS], vectors[COUNT * BLOBS], agreement = 0;
    assert_true(published_distances(&threads, rows, COUNT, SIZE, distances, NULL));
    assert_true(published_bandwidth(distances, COUNT, &sigma, NULL));
    assert_true(published_vectors(&threads, distances, COUNT, sigma / 4, BLOBS, values, vectors, NULL));
    uint32_t labels[COUNT], again[COUNT], truth[COUNT];
    assert_true(published_labels(&threads, vectors, COUNT, BLOBS, 0, labels, NULL));
    assert_true(published_labels(&one, vectors, COUNT, BLOBS, 0, again, NULL));
    assert_memory_equal(labels, again, sizeof labels);
    for (size_t i = 0; i < COUNT; i++) {
        truth[i] = (uint32_t)(i % BLOBS);
    }
    assert_true(labels_adjusted_rand(COUNT, labels, truth, &agreement, NULL));
    assert_close(agreement, 1, 0);
    free(distances);
    free(rows);
}

static void damage_and_keys_are_of_sums(void **state)
{
    (void)state;
    const double sums[] = {1, 2, 6, 5, NAN};
    const uint32_t labels[] = {0, 0, 2, 2, 3};
    double damage[4];
    published_damage(sums, labels, 5, 4, damage);
    assert_close(damage[0], 1.5, 0);
    assert_close(damage[1], 0, 0);
    assert_close(damage[2], 5.5, 0);
    assert_true(isnan(damage[3]));
    assert_close(published_key(log(2), 3, 1), 0.25, 1e-16); /* T2 */
    assert_close(published_key(0.2157615543, 4, 6), 0.0468520262, 1e-10);
    assert_true(isinf(published_key(1, 1, 0)));
}

static void what_it_cannot_take_is_named(void **state)
{
    (void)state;
    OWNED(pool) pool = pool_create(1, NULL);
    struct dense_threads threads = {pool, NULL};
    const float rows[] = {1, 2, 3, 4, INFINITY, 6};
    double distances[9];
    struct error error = {0};
    assert_false(published_distances(&threads, rows, 3, 2, distances, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
    assert_non_null(strstr(error.message, "record 2"));
    assert_false(published_distances(&threads, rows, PUBLISHED_LIMIT + 1, 2, distances, &error));
    assert_int_equal(error.code, ERROR_UNSUPPORTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_bandwidth_counts_zeros_and_both_triangles),
        cmocka_unit_test(vectors_are_eigenvectors_of_the_unsymmetric_laplacian),
        cmocka_unit_test(blobs_are_found),
        cmocka_unit_test(damage_and_keys_are_of_sums),
        cmocka_unit_test(what_it_cannot_take_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
