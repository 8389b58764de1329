/*
 * tests/unit/workers/select/neighbours_test.c: lists against a plain search over all pairs. Rows of signs have distances that every order of
 * adding gets right, and ties and duplicates in plenty: there lists are equal to the bit.
 */
#include "tests/unit/workers/select/plain.h"
#include "workers/select/neighbours.h"

/* Rows of 64 signs, of length 1; some are duplicates, some of length 0. */
enum { SIGNS = 64 };
static float *sign_rows(size_t count, uint64_t seed)
{
    float *rows = memory_create(count * SIGNS, sizeof *rows);
    struct rng rng = {.seed = seed};
    for (size_t i = 0; i < count; i++) {
        size_t like = i % 10 == 3 ? (size_t)rng_below(&rng, i, i) : i;
        uint64_t signs = rng_u64(&(struct rng){.seed = seed, .stream = 1}, like);
        for (size_t c = 0; c < SIGNS && i % 97 != 50; c++) {
            rows[i * SIGNS + c] = (signs >> c & 1) != 0 ? 0.125F : -0.125F;
        }
    }
    return rows;
}

static void normalise(float *row, size_t size)
{
    double square = 0;
    for (size_t c = 0; c < size; c++) {
        square += (double)row[c] * (double)row[c];
    }
    for (size_t c = 0; c < size; c++) {
        row[c] = (float)((double)row[c] / sqrt(square));
    }
}

/* Rows of length 1 around `topics` centres. */
static float *topic_rows(size_t count, size_t size, size_t topics, double spread, uint64_t seed)
{
    float *rows = memory_create(count * size, sizeof *rows);
    struct rng rng = {.seed = seed}, centre = {.seed = seed, .stream = 1};
    for (size_t i = 0; i < count; i++) {
        for (size_t c = 0; c < size; c++) {
            double noise = rng_unit(&rng, i * size + c) - 0.5;
            rows[i * size + c] = (float)(rng_unit(&centre, i % topics * size + c) - 0.5 + spread * noise);
        }
        normalise(rows + i * size, size);
    }
    return rows;
}

static void assert_lists_equal(const struct neighbours *a, const struct neighbours *b)
{
    assert_int_equal(a->count, b->count);
    assert_int_equal(a->k, b->k);
    assert_memory_equal(a->indices, b->indices, a->count * a->k * sizeof *a->indices);
    assert_memory_equal(a->distances, b->distances, a->count * a->k * sizeof *a->distances);
}

static void a_row_of_length_zero_has_no_neighbours_and_is_nobodys(void **state)
{
    (void)state;
    const float rows[] = {1, 0, 0, 1, 1, 0, 0, 0};
    OWNED(neighbours) lists = neighbours_find_exact(&plain_threads, rows, 4, 2, 3, NULL);
    const uint32_t none = NEIGHBOURS_NONE;
    const uint32_t indices[] = {2, 1, none, 0, 2, none, 0, 1, none, none, none, none};
    const float far = INFINITY;
    const float distances[] = {0, 2, far, 2, 2, far, 0, 2, far, far, far, far};
    assert_non_null(lists);
    assert_memory_equal(lists->indices, indices, sizeof indices);
    assert_memory_equal(lists->distances, distances, sizeof distances);
}

static void lists_of_signs_are_those_of_a_plain_search_to_the_bit(void **state)
{
    (void)state;
    const size_t counts[] = {1, 2, 31, 33, 500, 2049, 4200};
    enum { K = 7 };
    for (size_t n = 0; n < sizeof counts / sizeof *counts; n++) {
        OWNED_MEMORY float *rows = sign_rows(counts[n], n);
        OWNED(neighbours) lists = neighbours_find_exact(&plain_threads, rows, counts[n], SIGNS, K, NULL);
        assert_non_null(lists);
        for (size_t i = 0; i<counts[n]; i += counts[n]> 1000 ? 13 : 1) {
            uint32_t indices[K];
            float distances[K];
            size_t k = lists->k; /* of few rows, all others */
            assert_int_equal(k, counts[n] > K ? K : counts[n] - 1);
            plain_list(rows, counts[n], SIGNS, k, i, indices, distances);
            assert_memory_equal(lists->indices + i * k, indices, k * sizeof *indices);
            assert_memory_equal(lists->distances + i * k, distances, k * sizeof *distances);
        }
    }
}

static void lists_of_any_rows_are_those_of_a_plain_search(void **state)
{
    (void)state;
    enum { COUNT = 2300, SIZE = 37, K = 12 };
    OWNED_MEMORY float *rows =
        topic_rows(COUNT, SIZE, 40, 0.01, 5); /* near: products alone would mix them up */
    OWNED(neighbours) lists = neighbours_find_exact(&plain_threads, rows, COUNT, SIZE, K, NULL);
    assert_non_null(lists);
    for (size_t i = 0; i < COUNT; i += 3) {
        uint32_t indices[K];
        float distances[K];
        plain_list(rows, COUNT, SIZE, K, i, indices, distances);
        assert_memory_equal(lists->indices + i * K, indices, sizeof indices);
        for (size_t n = 0; n < K; n++) {
            float found = lists->distances[i * K + n];
            assert_true(fabsf(found - distances[n]) <= 2e-7F * distances[n]);
        }
    }
}

static void very_many_duplicates_go_by_index(void **state)
{
    (void)state;
    enum { COUNT = 3000, SIZE = 5, K = 4 };
    OWNED_MEMORY float *rows = memory_create((size_t)COUNT * SIZE, sizeof *rows);
    for (size_t i = 0; i < COUNT; i++) {
        const float row[SIZE] = {0.3F, -0.2F, 0.7F, 0.1F, 0.9F};
        memcpy(rows + i * SIZE, row, sizeof row);
        normalise(rows + i * SIZE, SIZE);
    }
    OWNED(neighbours) lists = neighbours_find_exact(&plain_threads, rows, COUNT, SIZE, K, NULL);
    assert_non_null(lists);
    for (size_t i = 0; i < COUNT; i++) {
        for (size_t n = 0; n < K; n++) {
            assert_int_equal(lists->indices[i * K + n], n < i ? n : n + 1);
            assert_true(lists->distances[i * K + n] == 0);
        }
    }
}

static void lists_may_be_empty(void **state)
{
    (void)state;
    const float row[] = {1, 0};
    OWNED(neighbours) none = neighbours_find_exact(&plain_threads, row, 0, 2, 3, NULL);
    assert_non_null(none);
    assert_int_equal(none->count, 0);
    OWNED(neighbours) of_length_zero = neighbours_find_exact(&plain_threads, row, 1, 2, 0, NULL);
    assert_non_null(of_length_zero);
    OWNED(neighbours) alone = neighbours_find_exact(&plain_threads, row, 1, 2, 1, NULL);
    assert_non_null(alone);
    assert_int_equal(alone->k, 0);
    const float pair[] = {1, 0, 0, 1}; /* a list is no longer than there are others, whatever was asked for */
    OWNED(neighbours) both = neighbours_find_exact(&plain_threads, pair, 2, 2, SIZE_MAX, NULL);
    assert_non_null(both);
    assert_true(both->k == 1 && both->indices[0] == 1 && both->indices[1] == 0);
}

static void a_row_that_is_not_finite_or_not_of_length_one_is_named(void **state)
{
    (void)state;
    struct error error = {0};
    float rows[] = {1, 0, 0, 1, NAN, 1};
    assert_null(neighbours_find_exact(&plain_threads, rows, 3, 2, 1, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
    assert_non_null(strstr(error.message, "row 2"));
    rows[3] = 2;
    rows[4] = 0;
    assert_null(neighbours_find_exact(&plain_threads, rows, 3, 2, 1, &error));
    assert_int_equal(error.code, ERROR_INVALID_ARGUMENT);
    assert_non_null(strstr(error.message, "row 1"));
}

static void a_search_can_be_cancelled(void **state)
{
    (void)state;
    struct cancel cancel = {0};
    cancel_request(&cancel, CANCEL_NOW);
    struct dense_threads threads = {plain_threads.pool, &cancel};
    struct error error = {0};
    OWNED_MEMORY float *rows = sign_rows(100, 1);
    struct neighbours_cells_request request = {.k = 3, .recall = 0.9, .probe_limit = 4};
    struct neighbours_cells_report report;
    assert_null(neighbours_find_exact(&threads, rows, 100, SIGNS, 3, &error));
    assert_int_equal(error.code, ERROR_CANCELLED);
    assert_null(neighbours_find_by_cells(&threads, rows, 100, SIGNS, &request, &report, &error));
    assert_int_equal(error.code, ERROR_CANCELLED);
}

static void all_cells_hold_all_neighbours(void **state)
{
    (void)state;
    enum { COUNT = 5000, K = 6 };
    OWNED_MEMORY float *rows = sign_rows(COUNT, 9);
    struct neighbours_cells_request request = {
        .k = K, .cell_count = 20, .recall = 1, .probe_limit = SIZE_MAX, .seed = 3};
    struct neighbours_cells_report report;
    OWNED(neighbours)
    found = neighbours_find_by_cells(&plain_threads, rows, COUNT, SIGNS, &request, &report, NULL);
    OWNED(neighbours) exact = neighbours_find_exact(&plain_threads, rows, COUNT, SIGNS, K, NULL);
    assert_non_null(found);
    assert_non_null(exact);
    assert_int_equal(report.cell_count, 20);
    assert_int_equal(report.probe_count, 20); /* signs have no cells to speak of */
    assert_int_equal(report.query_count, 500);
    assert_true(report.recall == 1);
    assert_lists_equal(found, exact);
}

static double share_found(const struct neighbours *found, const struct neighbours *exact)
{
    size_t hits = 0, total = 0;
    for (size_t i = 0; i < exact->count; i++) {
        for (size_t n = 0; n < exact->k; n++) {
            total += exact->indices[i * exact->k + n] != NEIGHBOURS_NONE;
            for (size_t m = 0; m < exact->k && exact->indices[i * exact->k + n] != NEIGHBOURS_NONE; m++) {
                hits += found->indices[i * exact->k + m] == exact->indices[i * exact->k + n];
            }
        }
    }
    return (double)hits / (double)total;
}

static void few_cells_hold_as_many_neighbours_as_was_asked_for(void **state)
{
    (void)state;
    enum { COUNT = 20000, SIZE = 24, K = 10 };
    OWNED_MEMORY float *rows = topic_rows(COUNT, SIZE, 300, 0.6, 2);
    struct neighbours_cells_request request = {.k = K, .recall = 0.95, .probe_limit = 100, .seed = 1};
    struct neighbours_cells_report report;
    OWNED(neighbours)
    found = neighbours_find_by_cells(&plain_threads, rows, COUNT, SIZE, &request, &report, NULL);
    OWNED(neighbours) exact = neighbours_find_exact(&plain_threads, rows, COUNT, SIZE, K, NULL);
    assert_non_null(found);
    assert_non_null(exact);
    assert_int_equal(report.cell_count, 282); /* 2 sqrt(20000) */
    assert_true(report.probe_count > 0 && report.probe_count < 60);
    assert_true(report.recall >= 0.93);
    assert_true(fabs(share_found(found, exact) - report.recall) < 0.02);
    for (size_t i = 0; i < (size_t)COUNT * K; i++) {
        assert_true(found->distances[i] >= exact->distances[i]);
    }
}

static void too_few_cells_are_seen_in_the_recall(void **state)
{
    (void)state;
    enum { COUNT = 4000, K = 10 };
    OWNED_MEMORY float *rows = sign_rows(COUNT, 4);
    struct neighbours_cells_request request = {.k = K, .recall = 0.95, .probe_limit = 2, .seed = 1};
    struct neighbours_cells_report report;
    OWNED(neighbours)
    found = neighbours_find_by_cells(&plain_threads, rows, COUNT, SIGNS, &request, &report, NULL);
    OWNED(neighbours) exact = neighbours_find_exact(&plain_threads, rows, COUNT, SIGNS, K, NULL);
    assert_non_null(found);
    assert_non_null(exact);
    assert_int_equal(report.probe_count, 2);
    assert_true(report.recall < 0.6);
    assert_true(fabs(share_found(found, exact) - report.recall) < 0.03);
}

static void bits_do_not_depend_on_threads(void **state)
{
    (void)state;
    enum { COUNT = 4500, SIZE = 19, K = 5 };
    OWNED_MEMORY float *rows = topic_rows(COUNT, SIZE, 50, 0.5, 7);
    memset(rows + 8 * SIZE, 0, SIZE * sizeof *rows);
    struct neighbours_cells_request request = {.k = K, .recall = 0.9, .probe_limit = 30, .seed = 11};
    struct neighbours_cells_report report, report_of_three;
    OWNED(pool) three = pool_create(3, NULL);
    OWNED(pool) one = pool_create(1, NULL);
    struct dense_threads threads = {three, NULL}, alone = {one, NULL};
    OWNED(neighbours) exact = neighbours_find_exact(&alone, rows, COUNT, SIZE, K, NULL);
    OWNED(neighbours) exact_by_three = neighbours_find_exact(&threads, rows, COUNT, SIZE, K, NULL);
    OWNED(neighbours) found = neighbours_find_by_cells(&alone, rows, COUNT, SIZE, &request, &report, NULL);
    OWNED(neighbours)
    found_by_three = neighbours_find_by_cells(&threads, rows, COUNT, SIZE, &request, &report_of_three, NULL);
    assert_true(exact != NULL && exact_by_three != NULL && found != NULL && found_by_three != NULL);
    assert_lists_equal(exact, exact_by_three);
    assert_lists_equal(found, found_by_three);
    assert_int_equal(report.probe_count, report_of_three.probe_count);
    assert_true(report.recall == report_of_three.recall);
}

static void cells_of_few_rows_or_none(void **state)
{
    (void)state;
    const float rows[] = {0, 0, 1, 0, 0, 0, 0, 1};
    struct neighbours_cells_request request = {.k = 2, .recall = 0.95, .probe_limit = 8};
    struct neighbours_cells_report report;
    OWNED(neighbours) zeros = neighbours_find_by_cells(&plain_threads, rows, 1, 2, &request, &report, NULL);
    assert_non_null(zeros);
    assert_int_equal(report.cell_count, 0);
    assert_int_equal(zeros->k, 0);
    OWNED(neighbours) lone = neighbours_find_by_cells(&plain_threads, rows, 3, 2, &request, &report, NULL);
    assert_non_null(lone);
    assert_int_equal(report.cell_count, 1);
    assert_true(report.recall == 1);
    assert_int_equal(lone->indices[2], NEIGHBOURS_NONE);
    request.cell_count = 1;
    OWNED(neighbours) pair = neighbours_find_by_cells(&plain_threads, rows, 4, 2, &request, &report, NULL);
    assert_non_null(pair);
    assert_int_equal(pair->indices[2], 3);
    assert_int_equal(pair->indices[6], 1);
    assert_true(pair->distances[6] == 2 && pair->indices[7] == NEIGHBOURS_NONE);
    OWNED(neighbours) nothing = neighbours_find_by_cells(&plain_threads, rows, 0, 2, &request, &report, NULL);
    assert_non_null(nothing);
    assert_true(report.recall == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_row_of_length_zero_has_no_neighbours_and_is_nobodys),
        cmocka_unit_test(lists_of_signs_are_those_of_a_plain_search_to_the_bit),
        cmocka_unit_test(lists_of_any_rows_are_those_of_a_plain_search),
        cmocka_unit_test(very_many_duplicates_go_by_index),
        cmocka_unit_test(lists_may_be_empty),
        cmocka_unit_test(a_row_that_is_not_finite_or_not_of_length_one_is_named),
        cmocka_unit_test(a_search_can_be_cancelled),
        cmocka_unit_test(all_cells_hold_all_neighbours),
        cmocka_unit_test(few_cells_hold_as_many_neighbours_as_was_asked_for),
        cmocka_unit_test(too_few_cells_are_seen_in_the_recall),
        cmocka_unit_test(bits_do_not_depend_on_threads),
        cmocka_unit_test(cells_of_few_rows_or_none),
    };
    return cmocka_run_group_tests(tests, plain_open, plain_close);
}
