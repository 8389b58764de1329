/* What clustering.h promises: blobs found by every form, few records and records without shape, the same clusters in any order, the picture. */
#include "tests/unit/workers/select/blobs.h"
#include "workers/select/clustering.h"
#include "workers/select/labels.h"

enum { SIZE = 12 };

/* Owned unit rows, record i around centre i % blobs. */
static float *unit_blobs(size_t count, size_t blobs, double spread)
{
    float *rows = blobs_points(count, SIZE, blobs, spread);
    for (size_t i = 0; i < count; i++) {
        double square = 0;
        for (size_t c = 0; c < SIZE; c++) {
            square += (double)rows[i * SIZE + c] * (double)rows[i * SIZE + c];
        }
        for (size_t c = 0; c < SIZE; c++) {
            rows[i * SIZE + c] = (float)((double)rows[i * SIZE + c] / sqrt(square));
        }
    }
    return rows;
}

static struct clustering_request request_of(const float *rows, size_t count)
{
    return (struct clustering_request){.rows = rows,
                                       .count = count,
                                       .size = SIZE,
                                       .neighbour_count = 32,
                                       .exact_limit = CLUSTERING_EXACT_LIMIT,
                                       .alpha = 1,
                                       .diffusion_time = 1,
                                       .most_products = SPECTRUM_MOST_PRODUCTS,
                                       .seed = 7};
}

static struct clustering *cluster(const struct clustering_request *request)
{
    struct error error = {0};
    struct clustering *clustering = clustering_create(&plain_threads, request, &error);
    if (clustering == NULL) {
        print_error("%s\n", error.message);
        fail();
    }
    return clustering;
}

static const char *text_of(const struct clustering *clustering, const char *part, const char *name)
{
    return json_string_value(json_object_get(json_object_get(clustering->report, part), name));
}

/* Whether labels are the blobs of unit_blobs, and the numbers those of falling size. */
static void assert_are_blobs(const struct clustering *clustering, size_t blobs)
{
    size_t count = clustering->request.count;
    OWNED_MEMORY uint32_t *truth = memory_create(count, sizeof *truth);
    OWNED_MEMORY size_t *sizes = memory_create(blobs, sizeof *sizes);
    double index = 0;
    for (size_t i = 0; i < count; i++) {
        truth[i] = (uint32_t)(i % blobs);
    }
    assert_int_equal(clustering->cluster_count, blobs);
    for (size_t i = 0; i < count; i++) {
        assert_true(clustering->labels[i] < blobs);
        sizes[clustering->labels[i]]++;
    }
    for (size_t k = 1; k < blobs; k++) {
        assert_true(sizes[k - 1] >= sizes[k]);
    }
    assert_true(labels_adjusted_rand(count, truth, clustering->labels, &index, NULL));
    assert_close(index, 1, 0);
}

static void every_form_finds_blobs_by_the_gap(void **state)
{
    (void)state;
    enum { COUNT = 603, BLOBS = 6 };
    OWNED_MEMORY float *rows = unit_blobs(COUNT, BLOBS, 0.1);
    struct clustering_request request = request_of(rows, COUNT);
    for (size_t form = 0; form < 4; form++) {
        request.form = form % 2 == 0 ? CLUSTERING_QR : CLUSTERING_KMEANS;
        request.is_by_landmarks = form >= 2;
        OWNED(clustering) clustering = cluster(&request);
        assert_are_blobs(clustering, BLOBS);
        assert_string_equal(text_of(clustering, "clusters", "chosen_by"), "eigengap");
        assert_string_equal(text_of(clustering, "spectrum", "solver"), form >= 2 ? "landmarks" : "dense");
        assert_null(clustering->neighbours);
        const json_t *neighbours = json_object_get(clustering->report, "neighbours");
        assert_true(form >= 2 ? neighbours == NULL
                              : json_number_value(json_object_get(neighbours, "recall")) >= 1);
    }
}

static void many_records_are_searched_by_cells(void **state)
{
    (void)state;
    enum { COUNT = 3000, BLOBS = 5 };
    OWNED_MEMORY float *rows = unit_blobs(COUNT, BLOBS, 0.1);
    struct clustering_request request = request_of(rows, COUNT);
    request.exact_limit = COUNT - 1;
    OWNED(clustering) clustering = cluster(&request);
    assert_are_blobs(clustering, BLOBS);
    const json_t *neighbours = json_object_get(clustering->report, "neighbours");
    assert_string_equal(text_of(clustering, "neighbours", "search"), "cells");
    assert_true(json_number_value(json_object_get(neighbours, "recall")) >= CLUSTERING_LEAST_RECALL);
    assert_true(json_integer_value(json_object_get(neighbours, "cells_searched")) > 0);
    assert_int_equal(json_array_size(json_object_get(clustering->report, "notes")), 0);
}

static void what_does_not_converge_falls_back_to_landmarks_and_says_so(void **state)
{
    (void)state;
    enum { COUNT = 2100, BLOBS = 5 };
    OWNED_MEMORY float *rows = unit_blobs(COUNT, BLOBS, 0.1);
    struct clustering_request request = request_of(rows, COUNT);
    OWNED(clustering) solved = cluster(&request);
    assert_are_blobs(solved, BLOBS);
    assert_string_equal(text_of(solved, "spectrum", "solver"), "iteration");
    assert_int_equal(json_array_size(json_object_get(solved->report, "notes")), 0);
    request.most_products = 2;
    OWNED(clustering) fallen = cluster(&request);
    assert_are_blobs(fallen, BLOBS);
    assert_string_equal(text_of(fallen, "spectrum", "solver"), "landmarks");
    assert_int_equal(json_array_size(json_object_get(fallen->report, "notes")), 1);
}

static void as_many_clusters_as_asked_for_and_any_other_number_later(void **state)
{
    (void)state;
    enum { COUNT = 300 };
    OWNED_MEMORY float *rows = unit_blobs(COUNT, 6, 0.2);
    OWNED_MEMORY uint32_t *labels = memory_create(COUNT, sizeof *labels);
    for (size_t wanted = 1; wanted <= 40; wanted += 3) {
        struct clustering_request request = request_of(rows, COUNT);
        request.cluster_count = wanted;
        request.keeps_neighbours = true;
        OWNED(clustering) clustering = cluster(&request);
        assert_true(clustering->cluster_count >= 1 && clustering->cluster_count <= wanted);
        assert_true(wanted > 10 || clustering->cluster_count == wanted);
        assert_string_equal(text_of(clustering, "clusters", "chosen_by"), "request");
        assert_int_equal(clustering->neighbours->k, 32);
        assert_true(clustering_most(clustering) >= wanted + 2);
        size_t count = 0;
        assert_true(clustering_label(clustering, &plain_threads, wanted, labels, &count, NULL));
        assert_int_equal(count, clustering->cluster_count);
        assert_memory_equal(labels, clustering->labels, COUNT * sizeof *labels);
        assert_true(clustering_label(clustering, &plain_threads, wanted + 2, labels, &count, NULL));
        assert_true(count >= 1 && count <= wanted + 2);
    }
}

static void few_records_and_records_without_shape_have_clusters_too(void **state)
{
    (void)state;
    enum { MOST = 70 };
    OWNED_MEMORY float *rows = unit_blobs(MOST, MOST, 0);
    for (size_t count = 0; count < 12; count++) {
        struct clustering_request request = request_of(rows, count);
        for (size_t form = 0; form < 4; form++) {
            request.form = form % 2 == 0 ? CLUSTERING_QR : CLUSTERING_KMEANS;
            request.is_by_landmarks = form >= 2;
            for (request.cluster_count = 0; request.cluster_count < 20; request.cluster_count += 19) {
                OWNED(clustering) clustering = cluster(&request);
                assert_true(clustering->cluster_count <= count);
                assert_true((clustering->cluster_count == 0) == (count == 0));
                for (size_t i = 0; i < count; i++) {
                    assert_true(clustering->labels[i] < clustering->cluster_count);
                }
            }
        }
    }
    for (size_t i = 1; i < MOST; i++) {
        memcpy(rows + i * SIZE, rows, SIZE * sizeof *rows);
    }
    struct clustering_request request = request_of(rows, MOST);
    OWNED(clustering) alike = cluster(&request);
    assert_int_equal(alike->cluster_count, 1);
    assert_string_equal(text_of(alike, "clusters", "chosen_by"), "one_record_or_all_alike");
    assert_int_equal(clustering_most(alike), 0);
    request.is_by_landmarks = true;
    OWNED(clustering) by_landmarks = cluster(&request);
    assert_int_equal(by_landmarks->cluster_count, 1);
}

/* A graph of nearest neighbours has no scale here; landmarks have one. */
static void copies_alone_as_neighbours_are_no_reason_for_one_cluster(void **state)
{
    (void)state;
    enum { PROMPTS = 20, COUNT = 10 * PROMPTS };
    OWNED_MEMORY float *rows = unit_blobs(COUNT, PROMPTS, 0);
    struct clustering_request request = request_of(rows, COUNT);
    request.neighbour_count = 8;
    for (size_t form = 0; form < 2; form++) {
        request.form = form == 0 ? CLUSTERING_QR : CLUSTERING_KMEANS;
        request.cluster_count = 0;
        OWNED(clustering) clustering = cluster(&request);
        assert_true(clustering->cluster_count >= 4 && clustering->cluster_count <= PROMPTS);
        for (size_t i = 0; i < COUNT; i++) {
            assert_int_equal(clustering->labels[i], clustering->labels[i % PROMPTS]);
        }
        assert_string_equal(text_of(clustering, "spectrum", "solver"), "landmarks");
        assert_int_equal(json_array_size(json_object_get(clustering->report, "notes")), 1);
        request.cluster_count = PROMPTS;
        OWNED(clustering) asked = cluster(&request);
        assert_are_blobs(asked, PROMPTS);
    }
    memset(rows, 0, 10 * SIZE * sizeof *rows); /* the first row that is not of zeros is no reason either */
    OWNED(clustering) clustering = cluster(&request);
    assert_true(clustering->cluster_count > 2);
}

static void kept_neighbours_are_there_of_any_two_records(void **state)
{
    (void)state;
    enum { COUNT = 40 };
    OWNED_MEMORY float *rows = unit_blobs(COUNT, 1, 0);
    struct clustering_request request = request_of(rows, COUNT);
    request.keeps_neighbours = true;
    memset(rows + SIZE, 0, (COUNT - 1) * SIZE * sizeof *rows);
    for (size_t zeros = COUNT - 1; zeros <= COUNT; zeros++) { /* one row that is not of zeros, and none */
        for (size_t search = 0; search < 2; search++) {
            request.exact_limit = search == 0 ? COUNT : 1;
            OWNED(clustering) clustering = cluster(&request);
            assert_non_null(clustering->neighbours);
            assert_int_equal(clustering->cluster_count, zeros < COUNT ? 2 : 1);
        }
        memset(rows, 0, SIZE * sizeof *rows);
    }
}

static void rows_of_zeros_are_the_last_cluster(void **state)
{
    (void)state;
    enum { COUNT = 303, BLOBS = 5 };
    OWNED_MEMORY float *rows = unit_blobs(COUNT, BLOBS, 0.1);
    for (size_t i = 0; i < COUNT; i += 100) {
        memset(rows + i * SIZE, 0, SIZE * sizeof *rows);
    }
    struct clustering_request request = request_of(rows, COUNT);
    for (size_t form = 0; form < 4; form++) {
        request.form = form % 2 == 0 ? CLUSTERING_QR : CLUSTERING_KMEANS;
        request.is_by_landmarks = form >= 2;
        OWNED(clustering) clustering = cluster(&request);
        assert_int_equal(clustering->cluster_count, BLOBS + 1);
        for (size_t i = 0; i < COUNT; i++) {
            assert_true((clustering->labels[i] == BLOBS) == (i % 100 == 0));
        }
    }
    memset(rows, 0, COUNT * SIZE * sizeof *rows);
    OWNED(clustering) zeros = cluster(&request);
    assert_int_equal(zeros->cluster_count, 1);
    rows[17] = (float)NAN;
    struct error error = {0};
    assert_null(clustering_create(&plain_threads, &request, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
}

static void records_in_another_order_are_the_same_clusters(void **state)
{
    (void)state;
    enum { COUNT = 400 };
    OWNED_MEMORY float *rows = unit_blobs(COUNT, 7, 0.3);
    OWNED_MEMORY float *mixed = memory_create(COUNT * SIZE, sizeof *mixed);
    OWNED_MEMORY size_t *order = memory_create(COUNT, sizeof *order);
    OWNED_MEMORY uint32_t *labels = memory_create(COUNT, sizeof *labels);
    rng_permutation(&(struct rng){.seed = 5}, COUNT, order);
    for (size_t i = 0; i < COUNT; i++) {
        memcpy(mixed + i * SIZE, rows + order[i] * SIZE, SIZE * sizeof *rows);
    }
    struct clustering_request request = request_of(rows, COUNT);
    OWNED(clustering) first = cluster(&request);
    request.rows = mixed;
    OWNED(clustering) second = cluster(&request);
    for (size_t i = 0; i < COUNT; i++) {
        labels[i] = first->labels[order[i]];
    }
    double index = 0;
    assert_true(labels_adjusted_rand(COUNT, labels, second->labels, &index, NULL));
    assert_close(index, 1, 0);
}

/* In the picture the centres of blobs are farther apart than their records are from them. */
static void clusters_lie_apart_in_the_picture(void **state)
{
    (void)state;
    enum { COUNT = 400 };
    for (size_t blobs = 2; blobs <= 3; blobs++) {
        OWNED_MEMORY float *rows = unit_blobs(COUNT, blobs, 0.1);
        OWNED_MEMORY uint32_t *labels = memory_create(COUNT, sizeof *labels);
        OWNED_MEMORY float *map = memory_create((size_t)COUNT * 2, sizeof *map);
        OWNED_MEMORY float *again = memory_create((size_t)COUNT * 2, sizeof *again);
        double centres[3][2] = {{0}}, widest = 0, nearest = (double)INFINITY;
        for (size_t i = 0; i < COUNT; i++) {
            labels[i] = (uint32_t)(i % blobs);
        }
        assert_true(clustering_map(&plain_threads, rows, COUNT, SIZE, labels, blobs, map, NULL));
        assert_true(clustering_map(&plain_threads, rows, COUNT, SIZE, labels, blobs, again, NULL));
        assert_memory_equal(map, again, (size_t)COUNT * 2 * sizeof *map);
        for (size_t i = 0; i < COUNT; i++) {
            for (size_t axis = 0; axis < 2; axis++) {
                double size = (double)((COUNT + blobs - 1 - i % blobs) / blobs);
                centres[i % blobs][axis] += (double)map[2 * i + axis] / size;
            }
        }
        for (size_t i = 0; i < COUNT; i++) {
            const double *centre = centres[i % blobs];
            widest = fmax(widest, hypot((double)map[2 * i] - centre[0], (double)map[2 * i + 1] - centre[1]));
        }
        for (size_t a = 0; a < blobs; a++) {
            for (size_t b = 0; b < a; b++) {
                nearest = fmin(nearest, hypot(centres[a][0] - centres[b][0], centres[a][1] - centres[b][1]));
            }
        }
        assert_true(nearest > 2 * widest);
    }
    const uint32_t label = 0;
    const float one[SIZE] = {1};
    float place[2] = {7, 7};
    assert_true(clustering_map(&plain_threads, one, 1, SIZE, &label, 1, place, NULL));
    assert_close((double)place[0], 0, 0);
    assert_close((double)place[1], 0, 0);
    assert_true(clustering_map(&plain_threads, one, 0, SIZE, &label, 0, place, NULL));
}

/* The principal directions of three means by hand: (0, 0), (4, 0), (0, 2) with weights 1, 1, 1 lie farthest apart along the first axis. */
static void the_picture_turns_rows_and_does_not_scale_them(void **state)
{
    (void)state;
    const float rows[] = {0, 0, 4, 0, 0, 2};
    const uint32_t labels[] = {0, 1, 2};
    float map[6];
    assert_true(clustering_map(&plain_threads, rows, 3, 2, labels, 3, map, NULL));
    for (size_t a = 0; a < 3; a++) {
        for (size_t b = 0; b < a; b++) {
            assert_close(sqrt(plain_square(map + 2 * a, map + 2 * b, 2)),
                         sqrt(plain_square(rows + 2 * a, rows + 2 * b, 2)), 1e-6);
        }
    }
    assert_true(fabs((double)map[0] - (double)map[2]) > fabs((double)map[1] - (double)map[3]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_form_finds_blobs_by_the_gap),
        cmocka_unit_test(many_records_are_searched_by_cells),
        cmocka_unit_test(what_does_not_converge_falls_back_to_landmarks_and_says_so),
        cmocka_unit_test(as_many_clusters_as_asked_for_and_any_other_number_later),
        cmocka_unit_test(few_records_and_records_without_shape_have_clusters_too),
        cmocka_unit_test(copies_alone_as_neighbours_are_no_reason_for_one_cluster),
        cmocka_unit_test(kept_neighbours_are_there_of_any_two_records),
        cmocka_unit_test(rows_of_zeros_are_the_last_cluster),
        cmocka_unit_test(records_in_another_order_are_the_same_clusters),
        cmocka_unit_test(clusters_lie_apart_in_the_picture),
        cmocka_unit_test(the_picture_turns_rows_and_does_not_scale_them),
    };
    return cmocka_run_group_tests(tests, plain_open, plain_close);
}
