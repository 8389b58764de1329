/*
 * Labels by pivots: blocks, blobs, what scikit-learn's cluster_qr says of the same matrix, and that only the span of the vectors counts; the
 * adjusted Rand index against counting pairs.
 */
#include "tests/unit/workers/select/blobs.h"
#include "workers/select/labels.h"
#include "workers/select/spectrum.h"

/* The dense form, whatever the size. */
static bool find_dense(const struct graph *graph, const struct dense_threads *threads, size_t pairs,
                       struct spectrum *ret_spectrum)
{
    const struct spectrum_request request = {.pairs = pairs, .dense_limit = SIZE_MAX};
    return spectrum_find(graph, threads, &request, ret_spectrum, NULL);
}

static double agreement(size_t count, const uint32_t *first, const uint32_t *second)
{
    double index = 0;
    assert_true(labels_adjusted_rand(count, first, second, &index, NULL));
    return index;
}

static void blocks_are_separated_exactly(void **state)
{
    (void)state;
    OWNED(pool) pool = pool_create(1, NULL);
    struct dense_threads threads = {pool, NULL};
    double matrix[25] = {0}; /* T7 */
    for (size_t i = 0; i < 25; i++) {
        matrix[i] = (i / 5 < 2) == (i % 5 < 2) ? 1 : 0;
    }
    OWNED(graph) graph = blobs_dense_graph(5, matrix);
    assert_true(graph_normalise(graph, &threads, 1, NULL));
    FINISHED(spectrum) spectrum = {0};
    assert_true(find_dense(graph, &threads, 5, &spectrum));
    uint32_t labels[5];
    assert_true(labels_from_vectors(&threads, 5, 2, spectrum.vectors, 5, labels, NULL));
    const uint32_t blocks[] = {0, 0, 1, 1, 1};
    assert_close(agreement(5, labels, blocks), 1, 0);
    assert_true(labels_from_vectors(&threads, 5, 1, spectrum.vectors, 5, labels, NULL));
    assert_true(labels[0] == 0 && labels[4] == 0);
}

/* Vectors of blobs; ret_spectrum is finished by the caller. */
static void find_blobs(size_t count, size_t size, size_t blobs, double spread, size_t pairs,
                       struct spectrum *ret_spectrum)
{
    OWNED(pool) pool = pool_create(2, NULL);
    struct dense_threads threads = {pool, NULL};
    float *rows = blobs_points(count, size, blobs, spread);
    OWNED(neighbours) lists = blobs_lists(rows, count, size, 10);
    OWNED(graph) graph = graph_create(&threads, lists, GRAPH_SCALE_RANK, NULL);
    assert_true(graph_normalise(graph, &threads, 1, NULL));
    assert_true(find_dense(graph, &threads, pairs, ret_spectrum));
    free(rows);
}

static void blobs_are_found(void **state)
{
    (void)state;
    enum { COUNT = 350, BLOBS = 7 };
    OWNED(pool) pool = pool_create(2, NULL);
    struct dense_threads threads = {pool, NULL};
    static const double spreads[] = {0.1, 0.5, 0.8}; /* the first: a component each */
    for (size_t s = 0; s < 3; s++) {
        FINISHED(spectrum) spectrum = {0};
        find_blobs(COUNT, 6, BLOBS, spreads[s], BLOBS + 1, &spectrum);
        uint32_t labels[COUNT], truth[COUNT];
        assert_true(labels_from_vectors(&threads, COUNT, BLOBS, spectrum.vectors, BLOBS + 1, labels, NULL));
        for (size_t i = 0; i < COUNT; i++) {
            truth[i] = (uint32_t)(i % BLOBS);
        }
        assert_true(agreement(COUNT, labels, truth) >= 0.99);
        struct spectrum_rule rule = SPECTRUM_RULE;
        assert_int_equal(spectrum_cluster_count(spectrum.values, BLOBS + 1, &rule), BLOBS);
    }
}

/* By scikit-learn 1.9.1: cluster_qr of numpy.linalg.eigh's first six vectors of the same S (points, lists of 10 and alpha 1 as below). */
static void labels_are_those_of_cluster_qr(void **state)
{
    (void)state;
    static const char expected[] = "023415023415022415023415023415023415023415023415023415023415"
                                   "023415023415123415043405123415023415143415033415023415023415"
                                   "123415023415023415023415023415023415023415023415023415023415"
                                   "003415023415023415023415023415023415123415023415023415023415";
    enum { COUNT = sizeof expected - 1, CLUSTERS = 6 };
    OWNED(pool) pool = pool_create(2, NULL);
    struct dense_threads threads = {pool, NULL};
    FINISHED(spectrum) spectrum = {0};
    find_blobs(COUNT, 5, CLUSTERS, 1.0, CLUSTERS, &spectrum); /* blobs that overlap */
    uint32_t labels[COUNT], theirs[COUNT];
    assert_true(labels_from_vectors(&threads, COUNT, CLUSTERS, spectrum.vectors, CLUSTERS, labels, NULL));
    for (size_t i = 0; i < COUNT; i++) {
        theirs[i] = (uint32_t)(expected[i] - '0');
    }
    assert_true(agreement(COUNT, labels, theirs) >= 0.99);
}

static void only_the_span_of_the_vectors_counts(void **state)
{
    (void)state;
    enum { COUNT = 200, CLUSTERS = 4, STRIDE = 6 };
    OWNED(pool) pool = pool_create(2, NULL);
    OWNED(pool) alone = pool_create(1, NULL);
    struct dense_threads threads = {pool, NULL}, one = {alone, NULL};
    FINISHED(spectrum) spectrum = {0};
    find_blobs(COUNT, 6, CLUSTERS, 0.7, STRIDE, &spectrum);
    double *turned = memory_create((size_t)COUNT * CLUSTERS, sizeof *turned);
    for (size_t i = 0; i < COUNT; i++) { /* turns in three planes, and a sign */
        double v[CLUSTERS];
        memcpy(v, spectrum.vectors + i * STRIDE, sizeof v);
        for (size_t l = 0; l + 1 < CLUSTERS; l++) {
            double angle = 0.6 + (double)l, a = v[l], b = v[l + 1];
            v[l] = cos(angle) * a - sin(angle) * b;
            v[l + 1] = sin(angle) * a + cos(angle) * b;
        }
        v[2] = -v[2];
        memcpy(turned + i * CLUSTERS, v, sizeof v);
    }
    uint32_t first[COUNT], second[COUNT], third[COUNT];
    assert_true(labels_from_vectors(&threads, COUNT, CLUSTERS, spectrum.vectors, STRIDE, first, NULL));
    assert_true(labels_from_vectors(&threads, COUNT, CLUSTERS, turned, CLUSTERS, second, NULL));
    assert_true(labels_from_vectors(&one, COUNT, CLUSTERS, spectrum.vectors, STRIDE, third, NULL));
    assert_memory_equal(first, second, sizeof first);
    assert_memory_equal(first, third, sizeof first);
    memset(turned + 5 * CLUSTERS, 0, CLUSTERS * sizeof *turned);
    assert_true(labels_from_vectors(&threads, COUNT, CLUSTERS, turned, CLUSTERS, second, NULL));
    assert_int_equal(second[5], 0);
    turned[7 * CLUSTERS + 1] = NAN;
    struct error error = {0};
    assert_false(labels_from_vectors(&threads, COUNT, CLUSTERS, turned, CLUSTERS, second, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
    assert_non_null(strstr(error.message, "row 7"));
    free(turned);
}

/* By hand: (agreements - expected) / (most - expected) over the pairs of records. */
static double agreement_of_pairs(size_t count, const uint32_t *first, const uint32_t *second)
{
    double both = 0, in_first = 0, in_second = 0, all = 0;
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < i; j++) {
            both += first[i] == first[j] && second[i] == second[j] ? 1 : 0;
            in_first += first[i] == first[j] ? 1 : 0;
            in_second += second[i] == second[j] ? 1 : 0;
            all++;
        }
    }
    double expected = in_first * in_second / all;
    return (both - expected) / ((in_first + in_second) / 2 - expected);
}

static void the_adjusted_rand_index_counts_pairs(void **state)
{
    (void)state;
    /* scikit-learn's documented examples. */
    assert_close(agreement(4, (const uint32_t[]){0, 0, 1, 1}, (const uint32_t[]){1, 1, 0, 0}), 1, 0);
    assert_close(agreement(4, (const uint32_t[]){0, 0, 1, 2}, (const uint32_t[]){0, 0, 1, 1}), 4.0 / 7,
                 1e-15);
    assert_close(agreement(4, (const uint32_t[]){0, 0, 0, 0}, (const uint32_t[]){0, 1, 2, 3}), 0, 0);
    assert_close(agreement(4, (const uint32_t[]){0, 0, 1, 1}, (const uint32_t[]){0, 1, 0, 1}), -0.5, 1e-15);
    assert_close(agreement(3, (const uint32_t[]){5, 5, 5}, (const uint32_t[]){9, 9, 9}), 1, 0);
    assert_close(agreement(3, (const uint32_t[]){UINT32_MAX, 1, 2}, (const uint32_t[]){0, 1, 2}), 1, 0);
    assert_close(agreement(1, (const uint32_t[]){3}, (const uint32_t[]){4}), 1, 0);
    assert_close(agreement(0, NULL, NULL), 1, 0);
    enum { COUNT = 150 };
    for (size_t seed = 0; seed < 20; seed++) {
        uint32_t first[COUNT], second[COUNT];
        for (size_t i = 0; i < COUNT; i++) {
            first[i] = (uint32_t)(3.5 * (blobs_noise(seed * 1000 + i) + 1));
            double other = 2.5 * (blobs_noise(seed * 1000 + 500 + i) + 1);
            second[i] = i % 3 == 0 ? (uint32_t)other : first[i] / 2;
        }
        assert_close(agreement(COUNT, first, second), agreement_of_pairs(COUNT, first, second), 1e-13);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_are_separated_exactly),
        cmocka_unit_test(blobs_are_found),
        cmocka_unit_test(labels_are_those_of_cluster_qr),
        cmocka_unit_test(only_the_span_of_the_vectors_counts),
        cmocka_unit_test(the_adjusted_rand_index_counts_pairs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
