/*
 * Similarity to targets: against plain loops over several blocks and groups, equal records with equal scores, and the turns of the round-robin
 * against its definition.
 */
#include "tests/unit/workers/select/plain.h"
#include "workers/select/rds.h"

static void score(size_t n, const float *rows, const struct rds_targets *targets, enum rds_pooling pooling,
                  size_t thread_count, double *ret_scores)
{
    OWNED(pool) pool = pool_create(thread_count, NULL);
    assert_true(
        rds_score(&(struct dense_threads){.pool = pool}, n, rows, targets, pooling, ret_scores, NULL));
}

static void cosines_by_hand(void **state)
{
    (void)state;
    const float rows[] = {2, 0, 0, 0, -1, -1}, targets[] = {1, 1, 0, 5, 0, 0};
    const struct rds_targets set = {.count = 3, .size = 2, .rows = targets, .group_count = 1};
    double scores[3];
    score(3, rows, &set, RDS_MAX, 1, scores);
    assert_close(scores[0], sqrt(0.5), 1e-15);
    assert_true(scores[1] == 0);
    assert_true(scores[2] == 0); /* the third target, which has no direction */
    score(3, rows, &set, RDS_MEAN, 1, scores);
    assert_close(scores[0], sqrt(0.5) / 3, 1e-15);
    assert_true(scores[1] == 0);
    assert_close(scores[2], (-1 - sqrt(0.5)) / 3, 1e-15);
}

static double cosine_by_loops(const float *a, const float *b, size_t size)
{
    double dot = 0, a_square = 0, b_square = 0;
    for (size_t c = 0; c < size; c++) {
        dot += (double)a[c] * (double)b[c];
        a_square += (double)a[c] * (double)a[c];
        b_square += (double)b[c] * (double)b[c];
    }
    return dot / sqrt(a_square) / sqrt(b_square);
}

enum { N = 1100, M = 131, SIZE = 24, GROUPS = 3 }; /* two blocks of records */

static void scores_are_those_of_plain_loops(void **state)
{
    (void)state;
    OWNED_MEMORY float *rows = plain_rows((size_t)N * SIZE, 1);
    OWNED_MEMORY float *targets = plain_rows((size_t)M * SIZE, 2);
    OWNED_MEMORY double *nearest = memory_create((size_t)GROUPS * N, sizeof *nearest);
    OWNED_MEMORY double *means = memory_create((size_t)GROUPS * N, sizeof *means);
    OWNED_MEMORY double *again = memory_create((size_t)GROUPS * N, sizeof *again);
    uint32_t groups[M];
    for (size_t t = 0; t < M; t++) {
        groups[t] = (uint32_t)(t % 4 % GROUPS);
    }
    memcpy(rows + (size_t)1090 * SIZE, rows + (size_t)5 * SIZE, SIZE * sizeof *rows);
    for (size_t c = 0; c < SIZE; c++) {
        rows[(size_t)8 * SIZE + c] = 1e12F * targets[(size_t)70 * SIZE + c];
    }
    const struct rds_targets set = {M, SIZE, targets, groups, GROUPS};
    score(N, rows, &set, RDS_MAX, 1, nearest);
    score(N, rows, &set, RDS_MEAN, 1, means);
    for (size_t i = 0; i < N; i++) {
        double best[GROUPS] = {-1, -1, -1}, sums[GROUPS] = {0}, counts[GROUPS] = {0};
        for (size_t t = 0; t < M; t++) {
            double cosine = cosine_by_loops(rows + i * SIZE, targets + t * SIZE, SIZE);
            best[groups[t]] = fmax(best[groups[t]], cosine);
            sums[groups[t]] += cosine;
            counts[groups[t]]++;
        }
        for (size_t g = 0; g < GROUPS; g++) {
            assert_close(nearest[g * N + i], best[g], 1e-14);
            assert_close(means[g * N + i], sums[g] / counts[g], 1e-13);
            assert_true(nearest[g * N + 1090] == nearest[g * N + 5] &&
                        means[g * N + 1090] == means[g * N + 5]);
        }
    }
    score(N, rows, &set, RDS_MAX, 3, again);
    assert_memory_equal(again, nearest, (size_t)GROUPS * N * sizeof *again);
    score(N, rows, &set, RDS_MEAN, 3, again);
    assert_memory_equal(again, means, (size_t)GROUPS * N * sizeof *again);
}

/* More targets than a block holds. */
static void the_nearest_may_lie_in_any_block(void **state)
{
    (void)state;
    enum { MANY = 4200, FEW = 40, SMALL = 6 };
    OWNED_MEMORY float *rows = plain_rows((size_t)FEW * SMALL, 3);
    OWNED_MEMORY float *targets = plain_rows((size_t)MANY * SMALL, 4);
    double scores[FEW];
    const struct rds_targets set = {.count = MANY, .size = SMALL, .rows = targets, .group_count = 1};
    score(FEW, rows, &set, RDS_MAX, 2, scores);
    for (size_t i = 0; i < FEW; i++) {
        double best = -1;
        for (size_t t = 0; t < MANY; t++) {
            best = fmax(best, cosine_by_loops(rows + i * SMALL, targets + t * SMALL, SMALL));
        }
        assert_close(scores[i], best, 1e-14);
    }
}

/* Targets that differ by the last bit of one number: products cannot tell which is the nearest, and must not. */
static void targets_a_bit_apart_are_told_apart(void **state)
{
    (void)state;
    enum { COPIES = 64, FEW = 50, WIDE = 96 };
    OWNED_MEMORY float *rows = plain_rows((size_t)FEW * WIDE, 5);
    OWNED_MEMORY float *targets = plain_rows((size_t)COPIES * WIDE, 6);
    for (size_t t = 1; t < COPIES; t++) {
        memcpy(targets + t * WIDE, targets, WIDE * sizeof *targets);
        targets[t * WIDE + t] = nextafterf(targets[t], t % 2 == 0 ? 1 : -1);
    }
    double scores[FEW];
    const struct rds_targets set = {.count = COPIES, .size = WIDE, .rows = targets, .group_count = 1};
    score(FEW, rows, &set, RDS_MAX, 2, scores);
    for (size_t i = 0; i < FEW; i++) {
        double best = -1;
        for (size_t t = 0; t < COPIES; t++) {
            best = fmax(best, cosine_by_loops(rows + i * WIDE, targets + t * WIDE, WIDE));
        }
        assert_close(scores[i], best, 1e-15);
    }
}

static void turns_follow_the_weights(void **state)
{
    (void)state;
    const double scores[] = {9, 8, 7, 6, 5, 4, /**/ 9, 1, 2, 3, 4, 5, /**/ 0, 0, 0, 0, 0, 0};
    const double weights[] = {2, 1, 0};
    const size_t expected[] = {0, 5, 1, 2, 4, 3};
    const uint32_t expected_groups[] = {0, 1, 0, 0, 1, 0};
    size_t order[6];
    uint32_t groups[6];
    assert_true(rds_round_robin(6, 3, scores, weights, 10, order, groups, NULL));
    assert_memory_equal(order, expected, sizeof expected);
    assert_memory_equal(groups, expected_groups, sizeof expected_groups);
    assert_true(rds_round_robin(6, 3, scores, NULL, 3, order, NULL, NULL)); /* equal turns */
    assert_true(order[0] == 0 && order[1] == 5 && order[2] == 1);
}

/* Each turn is the best record left of whose turn it is, and after each turn every group has had its share to within one. */
static void turns_are_greedy_and_fair(void **state)
{
    (void)state;
    enum { RECORDS = 97 };
    const double weights[GROUPS] = {0.5, 3, 1.25};
    OWNED_MEMORY double *scores = memory_create((size_t)GROUPS * RECORDS, sizeof *scores);
    for (size_t i = 0; i < (size_t)GROUPS * RECORDS; i++) {
        scores[i] = floor(20 * rng_unit(&(struct rng){.seed = 8}, i));
    }
    size_t order[RECORDS], turns[GROUPS] = {0};
    uint32_t groups[RECORDS];
    bool is_taken[RECORDS] = {false};
    assert_true(rds_round_robin(RECORDS, GROUPS, scores, weights, RECORDS, order, groups, NULL));
    for (size_t turn = 0; turn < RECORDS; turn++) {
        size_t best = RECORDS;
        const double *mine = scores + (size_t)groups[turn] * RECORDS;
        for (size_t i = 0; i < RECORDS; i++) {
            if (!is_taken[i] && (best == RECORDS || mine[i] > mine[best])) {
                best = i;
            }
        }
        assert_int_equal(order[turn], best);
        is_taken[best] = true;
        turns[groups[turn]]++;
        for (size_t g = 0; g < GROUPS; g++) {
            assert_close((double)turns[g], (double)(turn + 1) * weights[g] / 4.75, 1);
        }
    }
}

static void what_is_wrong_is_named(void **state)
{
    (void)state;
    const float rows[] = {1, 2}, bad[] = {1, INFINITY};
    const uint32_t groups[] = {0, 2};
    OWNED(pool) pool = pool_create(1, NULL);
    const struct dense_threads threads = {.pool = pool};
    struct error error = {0};
    double scores[6] = {0};
    size_t order[2];
    struct rds_targets set = {.count = 2, .size = 1, .rows = rows, .group_count = 1};
    assert_false(rds_score(&threads, 2, bad, &set, RDS_MAX, scores, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
    assert_non_null(strstr(error.message, "row 1"));
    set.rows = bad;
    assert_false(rds_score(&threads, 2, rows, &set, RDS_MEAN, scores, &error));
    assert_non_null(strstr(error.message, "targets: row 1"));
    set.groups = groups;
    set.group_count = 2;
    assert_false(rds_score(&threads, 2, rows, &set, RDS_MAX, scores, &error));
    assert_non_null(strstr(error.message, "group 2 of 2"));
    set.group_count = 3;
    assert_false(rds_score(&threads, 2, rows, &set, RDS_MAX, scores, &error));
    assert_non_null(strstr(error.message, "group 1 of 3"));
    assert_int_equal(error.code, ERROR_INVALID_ARGUMENT);
    assert_false(rds_round_robin(2, 2, scores, (const double[]){0, 0}, 1, order, NULL, &error));
    assert_int_equal(error.code, ERROR_INVALID_ARGUMENT);
    assert_false(rds_round_robin(2, 2, scores, (const double[]){1, -1}, 1, order, NULL, &error));
    assert_non_null(strstr(error.message, "group 1"));
    scores[3] = NAN;
    assert_false(rds_round_robin(2, 2, scores, NULL, 1, order, NULL, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
    assert_non_null(strstr(error.message, "group 1: "));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cosines_by_hand),
        cmocka_unit_test(scores_are_those_of_plain_loops),
        cmocka_unit_test(the_nearest_may_lie_in_any_block),
        cmocka_unit_test(targets_a_bit_apart_are_told_apart),
        cmocka_unit_test(turns_follow_the_weights),
        cmocka_unit_test(turns_are_greedy_and_fair),
        cmocka_unit_test(what_is_wrong_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
