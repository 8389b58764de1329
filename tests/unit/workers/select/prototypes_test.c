/*
 * The prototype metric: the reference's vectors (data_selection 4, T1-T3), scores by plain loops, the two ends as complements, and floors.
 */
#include "base/memory.h"
#include "base/rng.h"
#include "workers/select/prototypes.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

static void assert_close(double value, double expected, double tolerance)
{
    if (!(fabs(value - expected) <= tolerance)) {
        print_error("%.17g is not %.17g\n", value, expected);
        fail();
    }
}

static float *rows_of(size_t count, uint64_t seed)
{
    float *values = memory_create(count + 1, sizeof *values);
    for (size_t i = 0; i < count; i++) {
        values[i] = (float)(rng_unit(&(struct rng){.seed = seed, .stream = 1}, i) - 0.45);
    }
    return values;
}

static void score(size_t n, const float *rows, const struct prototypes_clusters *clusters,
                  enum prototypes_distance distance, double *ret_scores)
{
    OWNED(pool) pool = pool_create(2, NULL);
    assert_true(prototypes_score(&(struct dense_threads){.pool = pool}, n, rows, clusters, distance,
                                 ret_scores, NULL));
}

static void assert_chosen(size_t n, const double *scores, const struct prototypes_clusters *clusters,
                          struct prototypes_choice choice, const size_t *expected, size_t expected_count)
{
    size_t order[32], count = 0;
    assert_true(n <= COUNT_OF(order));
    assert_true(prototypes_choose(n, scores, clusters, &choice, order, &count, NULL));
    assert_int_equal(count, expected_count);
    assert_memory_equal(order, expected, expected_count * sizeof *order);
}

static void two_clusters_on_a_line(void **state)
{
    (void)state;
    const float rows[] = {0, 1, 2, 10, 11, 12}, centroids[] = {1, 11};
    const uint32_t labels[] = {0, 0, 0, 1, 1, 1};
    const struct prototypes_clusters clusters = {2, 1, centroids, labels};
    const double expected[] = {1, 0, 1, 1, 0, 1};
    double scores[6];
    score(6, rows, &clusters, PROTOTYPES_EUCLIDEAN, scores);
    assert_memory_equal(scores, expected, sizeof scores);
    assert_chosen(6, scores, &clusters, (struct prototypes_choice){PROTOTYPES_EASY, 2, 0},
                  (const size_t[]){1, 4}, 2);
    assert_chosen(6, scores, &clusters, (struct prototypes_choice){PROTOTYPES_HARD, 4, 0},
                  (const size_t[]){0, 2, 3, 5}, 4);
}

static void one_cluster_and_a_far_record(void **state)
{
    (void)state;
    const float rows[] = {0, 0, 0, 4}, centroid[] = {1};
    const uint32_t labels[4] = {0};
    const struct prototypes_clusters clusters = {1, 1, centroid, labels};
    const double expected[] = {1, 1, 1, 3};
    double scores[4];
    score(4, rows, &clusters, PROTOTYPES_EUCLIDEAN, scores);
    assert_memory_equal(scores, expected, sizeof scores);
    assert_chosen(4, scores, &clusters, (struct prototypes_choice){PROTOTYPES_HARD, 1, 0},
                  (const size_t[]){3}, 1);
}

static void cosines_do_not_mind_lengths(void **state)
{
    (void)state;
    const float rows[] = {1, 0, 0, 1, 0, 0, -3, -3}, centroids[] = {20, 20, 0, 0};
    const uint32_t labels[] = {0, 0, 0, 0, 1};
    const struct prototypes_clusters clusters = {2, 2, centroids, labels};
    double scores[4];
    score(4, rows, &clusters, PROTOTYPES_COSINE, scores);
    assert_close(scores[0], .2928932188, 1e-10);
    assert_true(scores[1] == scores[0]);
    assert_true(scores[2] == 1); /* no direction */
    assert_close(scores[3], 2, 1e-15);
    score(1, rows, &(struct prototypes_clusters){2, 2, centroids, labels + 4}, PROTOTYPES_COSINE, scores);
    assert_true(scores[0] == 1);
}

enum { N = 700, SIZE = 19, CLUSTERS = 5 };

static void scores_are_those_of_plain_loops(void **state)
{
    (void)state;
    OWNED_MEMORY float *rows = rows_of((size_t)N * SIZE, 1);
    OWNED_MEMORY float *centroids = rows_of((size_t)CLUSTERS * SIZE, 2);
    uint32_t labels[N];
    double cosines[N], distances[N];
    for (size_t i = 0; i < N; i++) {
        labels[i] = (uint32_t)(i * i % CLUSTERS);
    }
    memcpy(rows + (size_t)600 * SIZE, rows + (size_t)20 * SIZE, SIZE * sizeof *rows); /* both cluster 0 */
    const struct prototypes_clusters clusters = {CLUSTERS, SIZE, centroids, labels};
    score(N, rows, &clusters, PROTOTYPES_COSINE, cosines);
    score(N, rows, &clusters, PROTOTYPES_EUCLIDEAN, distances);
    for (size_t i = 0; i < N; i++) {
        double square = 0, dot = 0, a = 0, b = 0;
        for (size_t c = 0; c < SIZE; c++) {
            double x = (double)rows[i * SIZE + c], y = (double)centroids[labels[i] * SIZE + c];
            square += (x - y) * (x - y);
            dot += x * y;
            a += x * x;
            b += y * y;
        }
        assert_close(distances[i], sqrt(square), 1e-13);
        assert_close(cosines[i], 1 - dot / (sqrt(a) * sqrt(b)), 1e-13);
    }
    assert_true(cosines[20] == cosines[600] && distances[20] == distances[600]);
}

static void hard_and_easy_are_complements(void **state)
{
    (void)state;
    double scores[N];
    uint32_t labels[N] = {0};
    for (size_t i = 0; i < N; i++) {
        scores[i] = rng_unit(&(struct rng){.seed = 3}, i);
    }
    const struct prototypes_clusters clusters = {.count = 1, .labels = labels};
    size_t hard[N], easy[N], hard_count = 0, easy_count = 0, seen[N] = {0};
    const size_t wanted = 250;
    assert_true(prototypes_choose(N, scores, &clusters,
                                  &(struct prototypes_choice){PROTOTYPES_HARD, wanted, 1}, hard, &hard_count,
                                  NULL));
    assert_true(prototypes_choose(N, scores, &clusters,
                                  &(struct prototypes_choice){PROTOTYPES_EASY, N - wanted, 0}, easy,
                                  &easy_count, NULL));
    assert_true(hard_count == wanted && easy_count == N - wanted);
    for (size_t i = 0; i < hard_count; i++) {
        seen[hard[i]]++;
        assert_true(i == 0 || scores[hard[i]] < scores[hard[i - 1]]);
    }
    for (size_t i = 0; i < easy_count; i++) {
        seen[easy[i]]++;
    }
    for (size_t i = 0; i < N; i++) {
        assert_int_equal(seen[i], 1);
    }
}

static void balance_gives_each_cluster_its_floor(void **state)
{
    (void)state;
    const double scores[] = {9, 8, 7, 6, 5, 1, 0.5, 0.25};
    const uint32_t labels[] = {0, 0, 0, 0, 0, 1, 1, 2};
    const struct prototypes_clusters clusters = {.count = 3, .labels = labels};
    assert_chosen(8, scores, &clusters, (struct prototypes_choice){PROTOTYPES_HARD, 6, 0},
                  (const size_t[]){0, 1, 2, 3, 4, 5}, 6);
    assert_chosen(8, scores, &clusters, (struct prototypes_choice){PROTOTYPES_HARD, 6, 0.5},
                  (const size_t[]){0, 1, 2, 3, 5, 7}, 6); /* one each */
    assert_chosen(8, scores, &clusters, (struct prototypes_choice){PROTOTYPES_HARD, 6, 1},
                  (const size_t[]){0, 1, 2, 5, 6, 7}, 6); /* two each, and the third cluster has but one */
    assert_chosen(8, scores, &clusters, (struct prototypes_choice){PROTOTYPES_EASY, 3, 1},
                  (const size_t[]){7, 6, 4}, 3);
    assert_chosen(8, scores, &clusters, (struct prototypes_choice){PROTOTYPES_EASY, 99, 1},
                  (const size_t[]){7, 6, 5, 4, 3, 2, 1, 0}, 8);
    assert_chosen(0, scores, &clusters, (struct prototypes_choice){PROTOTYPES_EASY, 3, 1}, NULL, 0);
}

static void what_is_wrong_is_named(void **state)
{
    (void)state;
    const float rows[] = {1, 2, NAN}, centroids[] = {1, 1};
    const uint32_t labels[] = {0, 1, 0}, too_high[] = {0, 2, 0};
    OWNED(pool) pool = pool_create(1, NULL);
    const struct dense_threads threads = {.pool = pool};
    struct error error = {0};
    double scores[3];
    size_t order[3], count = 0;
    struct prototypes_clusters clusters = {2, 1, centroids, labels};
    assert_false(prototypes_score(&threads, 3, rows, &clusters, PROTOTYPES_COSINE, scores, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
    assert_non_null(strstr(error.message, "record 2"));
    clusters.labels = too_high;
    assert_false(prototypes_score(&threads, 2, rows, &clusters, PROTOTYPES_COSINE, scores, &error));
    assert_int_equal(error.code, ERROR_INVALID_ARGUMENT);
    const struct prototypes_choice choice = {PROTOTYPES_HARD, 1, 0};
    assert_false(prototypes_choose(3, (const double[]){1, 2, 3}, &clusters, &choice, order, &count, &error));
    assert_int_equal(error.code, ERROR_INVALID_ARGUMENT);
    clusters.labels = labels;
    assert_false(
        prototypes_choose(3, (const double[]){1, NAN, 3}, &clusters, &choice, order, &count, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_clusters_on_a_line),
        cmocka_unit_test(one_cluster_and_a_far_record),
        cmocka_unit_test(cosines_do_not_mind_lengths),
        cmocka_unit_test(scores_are_those_of_plain_loops),
        cmocka_unit_test(hard_and_easy_are_complements),
        cmocka_unit_test(balance_gives_each_cluster_its_floor),
        cmocka_unit_test(what_is_wrong_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
