/*
 * The landmark form: the reference's vectors (data_selection 1.9 T9), and against the full matrix Z D^-1 Z^T.
 */
#include "tests/unit/workers/select/blobs.h"
#include "workers/select/labels.h"
#include "workers/select/landmarks.h"

static void spectra_are_the_references(void **state)
{
    (void)state;
    OWNED(pool) pool = pool_create(1, NULL);
    struct dense_threads threads = {pool, NULL};
    uint32_t indices[] = {0, 1, 0, 1, 1, 0};
    double apart[] = {1, 0, 1, 0, 1, 0}; /* Z rows (1, 0), (1, 0), (0, 1) */
    struct landmarks landmarks = {3, 2, 2, indices, apart};
    FINISHED(spectrum) spectrum = {0};
    assert_true(landmarks_find_spectrum(&landmarks, &threads, 5, &spectrum, NULL));
    assert_true(spectrum.has_converged);
    assert_int_equal(spectrum.pairs, 2);
    assert_close(spectrum.values[0], 1, 1e-14);
    assert_close(spectrum.values[1], 1, 1e-14);
    const double projector[] = {.5, .5, 0, .5, .5, 0, 0, 0, 1}; /* phi phi^T */
    for (size_t i = 0; i < 9; i++) {
        const double *a = spectrum.vectors + i / 3 * 2, *b = spectrum.vectors + i % 3 * 2;
        assert_close(a[0] * b[0] + a[1] * b[1], projector[i], 1e-14);
    }
    double mixed[] = {1, 0, .5, .5, 1, 0}; /* (1, 0), (.5, .5), (0, 1) */
    landmarks.weights = mixed;
    FINISHED(spectrum) second = {0};
    assert_true(landmarks_find_spectrum(&landmarks, &threads, 1, &second, NULL));
    assert_int_equal(second.pairs, 1);
    FINISHED(spectrum) third = {0};
    assert_true(landmarks_find_spectrum(&landmarks, &threads, 2, &third, NULL));
    assert_close(third.values[0], 1, 1e-14);
    assert_close(third.values[1], 2.0 / 3, 1e-14);
}

static void weights_fall_with_distance_and_sum_to_one(void **state)
{
    (void)state;
    OWNED(pool) pool = pool_create(2, NULL);
    struct dense_threads threads = {pool, NULL};
    /* Landmarks at 1, 3, 3, 8 (two alike) and rows at 1, 2, 5, 1000 and 0. */
    const float points[] = {1, 3, 3, 8}, rows[] = {1, 2, 5, 1000, 0};
    FINISHED(landmarks) landmarks = {0};
    assert_true(landmarks_weigh(&threads, rows, 5, 1, points, 4, 3, &landmarks, NULL));
    const uint32_t indices[] = {0, 1, 2, 0, 1, 2, 1, 2, 3, 3, 1, 2};
    assert_memory_equal(landmarks.indices, indices, sizeof indices);
    double h = (0 + 2 + 2 + 1 + 1 + 1 + 2 + 2 + 3 + 992 + 997 + 997) / 12.0;
    for (size_t i = 0; i < 4; i++) {
        double sum = 0, expected[3];
        for (size_t slot = 0; slot < 3; slot++) {
            double distance = (double)rows[i] - (double)points[indices[i * 3 + slot]];
            expected[slot] = exp(-distance * distance / (2 * h * h));
            sum += expected[slot];
        }
        for (size_t slot = 0; slot < 3; slot++) {
            assert_close(landmarks.weights[i * 3 + slot], expected[slot] / sum, 1e-12);
        }
    }
    assert_close(landmarks.weights[12], 0, 0); /* a row of zeros */
    assert_close(landmarks.weights[14], 0, 0);
    /* Each on a landmark: equal weights. More neighbours than landmarks: all of them. */
    FINISHED(landmarks) exact = {0};
    assert_true(landmarks_weigh(&threads, points, 2, 1, points, 4, 1, &exact, NULL));
    assert_close(exact.weights[0], 1, 0);
    FINISHED(landmarks) all = {0};
    assert_true(landmarks_weigh(&threads, rows, 5, 1, points, 4, 9, &all, NULL));
    assert_int_equal(all.nearest, 4);
    struct error error = {0};
    const float bad[] = {1, 2, NAN};
    assert_false(landmarks_weigh(&threads, bad, 3, 1, points, 4, 2, &all, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
    assert_non_null(strstr(error.message, "row 2"));
    assert_false(landmarks_weigh(&threads, rows, 5, 1, bad, 3, 2, &all, &error));
    assert_non_null(strstr(error.message, "landmarks: row 2"));
}

/* Far from the origin, where fp32 products cannot tell neighbours apart, and with landmarks that are alike, tiles apart. */
static void distances_decide_and_ties_go_to_the_smaller(void **state)
{
    (void)state;
    enum { COUNT = 1100, POINTS = 700, SIZE = 3, NEAREST = 5 };
    OWNED_MEMORY float *rows = plain_rows((size_t)COUNT * SIZE, 1);
    OWNED_MEMORY float *points = plain_rows((size_t)POINTS * SIZE, 2);
    for (size_t i = 0; i < (size_t)COUNT * SIZE; i++) {
        rows[i] += 4096;
    }
    for (size_t i = 0; i < (size_t)POINTS * SIZE; i++) {
        points[i] += 4096;
    }
    for (size_t i = 0; i < 30; i++) {
        memcpy(points + (300 + 13 * i) * SIZE, points + i * SIZE, SIZE * sizeof *points);
    }
    OWNED(pool) pool = pool_create(2, NULL);
    struct dense_threads threads = {pool, NULL};
    FINISHED(landmarks) landmarks = {0};
    assert_true(landmarks_weigh(&threads, rows, COUNT, SIZE, points, POINTS, NEAREST, &landmarks, NULL));
    for (size_t i = 0; i < COUNT; i++) {
        bool is_taken[POINTS] = {false};
        for (size_t slot = 0; slot < NEAREST; slot++) {
            size_t nearest = POINTS;
            double least = HUGE_VAL;
            for (size_t l = 0; l < POINTS; l++) {
                double square = plain_square(rows + i * SIZE, points + l * SIZE, SIZE);
                if (!is_taken[l] && square < least) {
                    nearest = l;
                    least = square;
                }
            }
            is_taken[nearest] = true;
            assert_int_equal(landmarks.indices[i * NEAREST + slot], nearest);
        }
    }
}

/* Z D^-1 Z^T into matrix [count, count] of zeros. */
static void multiply_out(const struct landmarks *z, double *matrix)
{
    for (size_t l = 0; l < z->landmark_count; l++) {
        double *column = memory_create(z->count, sizeof *column), mass = 0;
        for (size_t i = 0; i < z->count * z->nearest; i++) {
            column[i / z->nearest] += z->indices[i] == l ? z->weights[i] : 0;
            mass += z->indices[i] == l ? z->weights[i] : 0;
        }
        for (size_t i = 0; i < z->count * z->count && mass > 0; i++) {
            matrix[i] += column[i / z->count] * column[i % z->count] / mass;
        }
        free(column);
    }
}

static void pairs_are_those_of_the_full_matrix(void **state)
{
    (void)state;
    enum { COUNT = 150, SIZE = 5, POINTS = 20, PAIRS = 8 };
    OWNED(pool) pool = pool_create(2, NULL);
    OWNED(pool) alone = pool_create(1, NULL);
    struct dense_threads threads = {pool, NULL}, one = {alone, NULL};
    float *rows = blobs_points(COUNT, SIZE, 4, 0.6), points[POINTS * SIZE];
    memset(rows + 11 * SIZE, 0, SIZE * sizeof *rows);
    memcpy(points, rows + 20 * SIZE, sizeof points);
    for (size_t c = 0; c < SIZE; c++) {
        points[3 * SIZE + c] = 50; /* a landmark that nobody weighs */
    }
    FINISHED(landmarks) z = {0};
    FINISHED(spectrum) spectrum = {0};
    FINISHED(spectrum) again = {0};
    assert_true(landmarks_weigh(&threads, rows, COUNT, SIZE, points, POINTS, LANDMARKS_NEAREST, &z, NULL));
    assert_true(landmarks_find_spectrum(&z, &threads, PAIRS, &spectrum, NULL));
    assert_true(landmarks_find_spectrum(&z, &one, PAIRS, &again, NULL));
    assert_int_equal(spectrum.pairs, PAIRS);
    assert_memory_equal(spectrum.vectors, again.vectors, (size_t)COUNT * PAIRS * sizeof(double));
    double *matrix = memory_create((size_t)COUNT * COUNT, sizeof *matrix), values[COUNT];
    multiply_out(&z, matrix);
    for (size_t i = 0; i < COUNT; i++) {
        double sum = 0;
        for (size_t j = 0; j < COUNT; j++) {
            sum += matrix[i * COUNT + j];
        }
        assert_close(sum, i == 11 ? 0 : 1, 1e-12); /* degrees are 1 */
    }
    for (size_t a = 0; a < PAIRS; a++) { /* vectors are of the full matrix, and orthonormal */
        for (size_t i = 0; i < COUNT; i++) {
            double sum = 0;
            for (size_t j = 0; j < COUNT; j++) {
                sum += matrix[i * COUNT + j] * spectrum.vectors[j * PAIRS + a];
            }
            assert_close(sum, spectrum.values[a] * spectrum.vectors[i * PAIRS + a], 1e-12);
        }
        for (size_t b = 0; b <= a; b++) {
            double dot = 0;
            for (size_t i = 0; i < COUNT; i++) {
                dot += spectrum.vectors[i * PAIRS + a] * spectrum.vectors[i * PAIRS + b];
            }
            assert_close(dot, a == b ? 1 : 0, 1e-10);
        }
    }
    assert_true(dense_eigen(&threads, COUNT, matrix, values, NULL));
    for (size_t l = 0; l < PAIRS; l++) {
        assert_close(spectrum.values[l], values[l], 1e-12);
    }
    free(matrix);
    free(rows);
}

static void blobs_are_found_through_landmarks(void **state)
{
    (void)state;
    enum { COUNT = 1500, SIZE = 6, BLOBS = 6, POINTS = 60 }; /* more than one block of rows */
    OWNED(pool) pool = pool_create(2, NULL);
    struct dense_threads threads = {pool, NULL};
    float *rows = blobs_points(COUNT, SIZE, BLOBS, 0.5);
    FINISHED(landmarks) landmarks = {0};
    FINISHED(spectrum) spectrum = {0};
    assert_true(
        landmarks_weigh(&threads, rows, COUNT, SIZE, rows, POINTS, LANDMARKS_NEAREST, &landmarks, NULL));
    assert_true(landmarks_find_spectrum(&landmarks, &threads, BLOBS + 2, &spectrum, NULL));
    struct spectrum_rule rule = SPECTRUM_RULE;
    assert_int_equal(spectrum_cluster_count(spectrum.values, spectrum.pairs, &rule), BLOBS);
    uint32_t labels[COUNT], truth[COUNT];
    assert_true(labels_from_vectors(&threads, COUNT, BLOBS, spectrum.vectors, spectrum.pairs, labels, NULL));
    for (size_t i = 0; i < COUNT; i++) {
        truth[i] = (uint32_t)(i % BLOBS);
    }
    double agreement = 0;
    assert_true(labels_adjusted_rand(COUNT, labels, truth, &agreement, NULL));
    assert_true(agreement >= 0.99);
    free(rows);
}

static void nothing_has_no_pairs(void **state)
{
    (void)state;
    OWNED(pool) pool = pool_create(1, NULL);
    struct dense_threads threads = {pool, NULL};
    const float zeros[6] = {0}, points[] = {1, 2};
    FINISHED(landmarks) landmarks = {0};
    FINISHED(spectrum) spectrum = {0};
    assert_true(landmarks_weigh(&threads, zeros, 3, 2, points, 1, 5, &landmarks, NULL));
    assert_true(landmarks_find_spectrum(&landmarks, &threads, 4, &spectrum, NULL));
    assert_int_equal(spectrum.pairs, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spectra_are_the_references),
        cmocka_unit_test(weights_fall_with_distance_and_sum_to_one),
        cmocka_unit_test(distances_decide_and_ties_go_to_the_smaller),
        cmocka_unit_test(pairs_are_those_of_the_full_matrix),
        cmocka_unit_test(blobs_are_found_through_landmarks),
        cmocka_unit_test(nothing_has_no_pairs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
