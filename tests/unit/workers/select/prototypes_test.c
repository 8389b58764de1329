/*
 * The prototype metric: the reference's vectors (data_selection 4, T1-T3), the two ends as complements, and floors.
 */
#include "tests/unit/workers/select/plain.h"
#include "workers/select/kmeans.h"
#include "workers/select/prototypes.h"

enum { N = 700 };

static void assert_chosen(struct prototypes prototypes, const size_t *expected, size_t expected_count)
{
    size_t order[N];
    assert_true(prototypes.n <= N);
    assert_true(prototypes_choose(&prototypes, order, NULL));
    if (expected_count > 0) {
        assert_memory_equal(order, expected, expected_count * sizeof *order);
    }
}

/* The reference's T1 to T3: distances as k-means gives them. */
static void distances_come_of_assignment(void **state)
{
    (void)state;
    const float rows[] = {0, 1, 2, 10, 11, 12, 15}, centroids[] = {1, 11};
    float distances[7];
    uint32_t labels[7];
    OWNED(pool) pool = pool_create(1, NULL);
    assert_true(kmeans_assign(&(struct dense_threads){.pool = pool}, KMEANS_EUCLIDEAN, rows, 7, 1, centroids,
                              2, labels, distances, NULL));
    struct prototypes prototypes = {.n = 6, .cluster_count = 2, .labels = labels, .distances = distances};
    prototypes.side = PROTOTYPES_EASY;
    prototypes.wanted = 2;
    assert_chosen(prototypes, (const size_t[]){1, 4}, 2);
    prototypes.side = PROTOTYPES_HARD;
    prototypes.wanted = 4;
    assert_chosen(prototypes, (const size_t[]){0, 2, 3, 5}, 4);
    prototypes.n = 7;
    assert_chosen(prototypes, (const size_t[]){6, 0, 2, 3}, 4);
}

static void hard_and_easy_are_complements(void **state)
{
    (void)state;
    float distances[N];
    uint32_t labels[N] = {0};
    for (size_t i = 0; i < N; i++) {
        distances[i] = (float)rng_unit(&(struct rng){.seed = 3}, i);
    }
    size_t hard[N], easy[N], seen[N] = {0};
    const size_t wanted = 250;
    struct prototypes prototypes = {.n = N,
                                    .cluster_count = 1,
                                    .labels = labels,
                                    .distances = distances,
                                    .side = PROTOTYPES_HARD,
                                    .wanted = wanted,
                                    .balance_ratio = 1};
    assert_true(prototypes_choose(&prototypes, hard, NULL));
    prototypes.side = PROTOTYPES_EASY;
    prototypes.wanted = N - wanted;
    prototypes.balance_ratio = 0;
    assert_true(prototypes_choose(&prototypes, easy, NULL));
    for (size_t i = 0; i < wanted; i++) {
        seen[hard[i]]++;
        assert_true(i == 0 || distances[hard[i]] <= distances[hard[i - 1]]);
    }
    for (size_t i = 0; i < N - wanted; i++) {
        seen[easy[i]]++;
    }
    for (size_t i = 0; i < N; i++) {
        assert_int_equal(seen[i], 1);
    }
}

static void balance_gives_each_cluster_its_floor(void **state)
{
    (void)state;
    const float distances[] = {9, 8, 7, 6, 5, 1, 0.5F, 0.25F};
    const uint32_t labels[] = {0, 0, 0, 0, 0, 1, 1, 2};
    struct prototypes prototypes = {8, 3, labels, distances, PROTOTYPES_HARD, 6, 0};
    assert_chosen(prototypes, (const size_t[]){0, 1, 2, 3, 4, 5}, 6);
    prototypes.balance_ratio = 0.5; /* one each */
    assert_chosen(prototypes, (const size_t[]){0, 1, 2, 3, 5, 7}, 6);
    prototypes.balance_ratio = 1; /* two each, and the third cluster has but one */
    assert_chosen(prototypes, (const size_t[]){0, 1, 2, 5, 6, 7}, 6);
    prototypes.side = PROTOTYPES_EASY;
    prototypes.wanted = 3;
    assert_chosen(prototypes, (const size_t[]){7, 6, 4}, 3);
    prototypes.wanted = 99;
    assert_chosen(prototypes, (const size_t[]){7, 6, 5, 4, 3, 2, 1, 0}, 8);
    prototypes.n = 0;
    assert_chosen(prototypes, NULL, 0);
}

static void what_is_wrong_is_named(void **state)
{
    (void)state;
    const uint32_t labels[] = {0, 1, 0}, too_high[] = {0, 2, 0};
    struct error error = {0};
    size_t order[3];
    struct prototypes prototypes = {3, 2, too_high, (const float[]){1, 2, 3}, PROTOTYPES_HARD, .wanted = 1};
    assert_false(prototypes_choose(&prototypes, order, &error));
    assert_int_equal(error.code, ERROR_INVALID_ARGUMENT);
    assert_non_null(strstr(error.message, "record 1"));
    prototypes.labels = labels;
    prototypes.distances = (const float[]){1, NAN, 3};
    assert_false(prototypes_choose(&prototypes, order, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(distances_come_of_assignment),
        cmocka_unit_test(hard_and_easy_are_complements),
        cmocka_unit_test(balance_gives_each_cluster_its_floor),
        cmocka_unit_test(what_is_wrong_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
