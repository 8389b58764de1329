/*
 * Leading eigenvectors: the reference's vectors (data_selection 1.9 T5-T7), numpy's eigenvalues of the same matrix, the iteration against the
 * dense form, and what is made of them.
 */
#include "tests/unit/workers/select/blobs.h"
#include "workers/select/spectrum.h"

/* The dense form, whatever the size. */
static bool find_dense(const struct graph *graph, const struct dense_threads *threads, size_t pairs,
                       struct spectrum *ret_spectrum)
{
    const struct spectrum_request request = {.pairs = pairs, .dense_limit = SIZE_MAX};
    return spectrum_find(graph, threads, &request, ret_spectrum, NULL);
}

/* S of blobs; owned. */
static struct graph *graph_of(const struct dense_threads *threads, const float *rows, size_t count,
                              size_t size, size_t k, double alpha)
{
    OWNED(neighbours) lists = blobs_lists(rows, count, size, k);
    struct graph *graph = graph_create(threads, lists, GRAPH_SCALE_RANK, NULL);
    assert_non_null(graph);
    assert_true(graph_normalise(graph, threads, alpha, NULL));
    return graph;
}

static void three_points_have_the_references_spectrum(void **state)
{
    (void)state;
    OWNED(pool) pool = pool_create(1, NULL);
    struct dense_threads threads = {pool, NULL};
    const double a = 0.5, even[] = {1, a, a, a, 1, a, a, a, 1}; /* T5 */
    OWNED(graph) graph = blobs_dense_graph(3, even);
    assert_true(graph_normalise(graph, &threads, 0, NULL));
    FINISHED(spectrum) spectrum = {0};
    assert_true(find_dense(graph, &threads, 3, &spectrum));
    assert_close(spectrum.values[0], 1, 1e-12);
    assert_close(spectrum.values[1], 0.25, 1e-12);
    assert_close(spectrum.values[2], 0.25, 1e-12);
    /* T6 */
    double matrix[9];
    const double x[] = {0, 1, 3};
    for (size_t i = 0; i < 9; i++) {
        matrix[i] = exp(-(x[i / 3] - x[i % 3]) * (x[i / 3] - x[i % 3]) / 2);
    }
    const double values[2][3] = {{1, 0.836861935578, 0.227681896048}, {1, 0.860866901463, 0.222088057064}};
    const double psi[2][3] = {{-0.719580262, -0.450815695, 1.700285053},
                              {-0.984936224, -0.661536354, 1.197667727}};
    for (size_t alpha = 0; alpha < 2; alpha++) {
        OWNED(graph) line = blobs_dense_graph(3, matrix);
        assert_true(graph_normalise(line, &threads, (double)alpha, NULL));
        FINISHED(spectrum) of_line = {0};
        struct spectrum_request request = {5, 0, SPECTRUM_TOLERANCE, SPECTRUM_MOST_PRODUCTS, 1};
        assert_true(spectrum_find(line, &threads, &request, &of_line, NULL));
        assert_true(of_line.has_converged);
        assert_int_equal(of_line.pairs, 3);
        float coordinates[6];
        spectrum_coordinates(&of_line, line->degrees, 2, SPECTRUM_DIFFUSION, 0, coordinates);
        for (size_t i = 0; i < 3; i++) {
            assert_close(of_line.values[i], values[alpha][i], 1e-11);
            assert_close((double)coordinates[2 * i], psi[alpha][i], 2e-7);
        }
        float later[6], heat[6];
        spectrum_coordinates(&of_line, line->degrees, 2, SPECTRUM_DIFFUSION, 2, later);
        spectrum_coordinates(&of_line, line->degrees, 2, SPECTRUM_HEAT, 2, heat);
        for (size_t i = 0; i < 6; i++) {
            double value = values[alpha][1 + i % 2];
            assert_close((double)later[i], (double)coordinates[i] * value * value, 1e-6);
            assert_close((double)heat[i], (double)coordinates[i] * exp(-2 * (1 - value)), 1e-6);
        }
    }
}

static void two_blocks_have_two_eigenvalues_of_one(void **state)
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
    assert_true(find_dense(graph, &threads, 3, &spectrum));
    assert_close(spectrum.values[0], 1, 1e-12);
    assert_close(spectrum.values[1], 1, 1e-12);
    assert_close(spectrum.values[2], 0, 1e-12);
    for (size_t i = 0; i < 25; i++) {
        const double *a = spectrum.vectors + i / 5 * 3, *b = spectrum.vectors + i % 5 * 3;
        double expected = matrix[i] <= 0 ? 0 : i / 5 < 2 ? 0.5 : 1.0 / 3;
        assert_close(a[0] * b[0] + a[1] * b[1], expected, 1e-12);
    }
}

/* By numpy 2.4.6: the same points, lists of 12, W by arrays of all pairs, alpha 1, numpy.linalg.eigvalsh of the dense S. */
static void eigenvalues_are_numpys(void **state)
{
    (void)state;
    const double expected[] = {1.000000000000, 0.997961607968, 0.995695110830, 0.979378323437, 0.960656558192,
                               0.793881484753, 0.771417064379, 0.760319083686, 0.755077122766, 0.743408608986,
                               0.741028794431, 0.732563203811, 0.729112198887, 0.712373798211};
    enum { COUNT = 400, SIZE = 6, PAIRS = sizeof expected / sizeof *expected };
    OWNED(pool) pool = pool_create(2, NULL);
    struct dense_threads threads = {pool, NULL};
    float *rows = blobs_points(COUNT, SIZE, 5, 1.1);
    OWNED(graph) graph = graph_of(&threads, rows, COUNT, SIZE, 12, 1);
    struct spectrum_request request = {PAIRS, 0, SPECTRUM_TOLERANCE, SPECTRUM_MOST_PRODUCTS, 1};
    FINISHED(spectrum) dense = {0};
    FINISHED(spectrum) iterated = {0};
    assert_true(find_dense(graph, &threads, PAIRS, &dense));
    assert_true(spectrum_find(graph, &threads, &request, &iterated, NULL));
    assert_true(iterated.has_converged && iterated.products > 0);
    for (size_t l = 0; l < PAIRS; l++) {
        assert_close(dense.values[l], expected[l], 1e-10);
        assert_close(iterated.values[l], expected[l], 1e-8);
    }
    free(rows);
}

/* The sine of the largest angle between what the first `pairs` columns of two bases span. */
static double find_angle(const struct spectrum *a, const struct spectrum *b, size_t pairs)
{
    double most = 0;
    for (size_t l = 0; l < pairs;
         l++) { /* what is left of each vector of a after taking out b's: at most the angle */
        double *rest = memory_create(a->count, sizeof *rest), square = 0;
        for (size_t i = 0; i < a->count; i++) {
            rest[i] = a->vectors[i * a->pairs + l];
        }
        for (size_t m = 0; m < pairs; m++) {
            double dot = 0;
            for (size_t i = 0; i < a->count; i++) {
                dot += a->vectors[i * a->pairs + l] * b->vectors[i * b->pairs + m];
            }
            for (size_t i = 0; i < a->count; i++) {
                rest[i] -= dot * b->vectors[i * b->pairs + m];
            }
        }
        for (size_t i = 0; i < a->count; i++) {
            square += rest[i] * rest[i];
        }
        most += square; /* the sum bounds it from above */
        free(rest);
    }
    return sqrt(most);
}

static void the_iteration_finds_what_the_dense_form_finds(void **state)
{
    (void)state;
    enum { COUNT = 700, SIZE = 6, PAIRS = 13 };
    OWNED(pool) pool = pool_create(2, NULL);
    struct dense_threads threads = {pool, NULL};
    for (size_t form = 0; form < 3; form++) { /* one component, nine of them, and one with rows of zeros */
        float *rows = blobs_points(COUNT, SIZE, form == 1 ? 9 : 4, form == 1 ? 0.05 : 1.5);
        if (form == 2) {
            memset(rows + 100 * SIZE, 0, 50 * SIZE * sizeof *rows);
        }
        OWNED(graph) graph = graph_of(&threads, rows, COUNT, SIZE, 10, form == 2 ? 0 : 1);
        struct spectrum_request request = {PAIRS, 0, 1e-9, SPECTRUM_MOST_PRODUCTS, 7};
        FINISHED(spectrum) dense = {0};
        FINISHED(spectrum) iterated = {0};
        assert_true(find_dense(graph, &threads, PAIRS + 1, &dense));
        assert_true(spectrum_find(graph, &threads, &request, &iterated, NULL));
        assert_true(iterated.has_converged && iterated.products > 0 && iterated.largest_residual <= 1e-9);
        for (size_t l = 0; l < PAIRS; l++) {
            assert_close(iterated.values[l], dense.values[l], 1e-8);
            double square = 0, residual = 0, top = 0;
            for (size_t i = 0; i < COUNT; i++) {
                double own = iterated.vectors[i * PAIRS + l], sum = 0;
                for (size_t e = graph->starts[i]; e < graph->starts[i + 1]; e++) {
                    sum += graph->weights[e] * iterated.vectors[graph->targets[e] * PAIRS + l];
                }
                square += own * own;
                residual += (sum - iterated.values[l] * own) * (sum - iterated.values[l] * own);
                top = fabs(own) > fabs(top) ? own : top;
            }
            assert_close(square, 1, 1e-10);
            assert_true(sqrt(residual) / 2 <= 1.01e-9 && top > 0);
        }
        /* Compared where the spectrum has its widest gap: subspaces cut by a small one are not well defined. */
        size_t cut = 1;
        for (size_t l = 1; l < PAIRS; l++) {
            cut = dense.values[l - 1] - dense.values[l] > dense.values[cut - 1] - dense.values[cut] ? l : cut;
        }
        assert_true(find_angle(&iterated, &dense, cut) < 1e-6);
        assert_true(form != 1 || (cut == 9 && fabs(dense.values[8] - 1) < 1e-9));
        free(rows);
    }
}

static void what_does_not_converge_leaves_no_vectors(void **state)
{
    (void)state;
    enum { COUNT = 500, SIZE = 6 };
    OWNED(pool) pool = pool_create(1, NULL);
    struct dense_threads threads = {pool, NULL};
    float *rows = blobs_points(COUNT, SIZE, 4, 1.5);
    OWNED(graph) graph = graph_of(&threads, rows, COUNT, SIZE, 10, 1);
    struct spectrum_request request = {12, 0, 1e-9, 20, 7};
    FINISHED(spectrum) spectrum = {0};
    assert_true(spectrum_find(graph, &threads, &request, &spectrum, NULL));
    assert_false(spectrum.has_converged);
    assert_null(spectrum.values);
    assert_null(spectrum.vectors);
    assert_true(spectrum.products <= 20 && spectrum.products > 0 && spectrum.largest_residual > 1e-9);
    free(rows);
}

static void bits_do_not_depend_on_threads(void **state)
{
    (void)state;
    enum { COUNT = 500, SIZE = 6, PAIRS = 6 };
    float *rows = blobs_points(COUNT, SIZE, 4, 1.2);
    struct spectrum results[2] = {{0}, {0}};
    for (size_t threads = 1; threads <= 2; threads++) {
        OWNED(pool) pool = pool_create(threads, NULL);
        struct dense_threads here = {pool, NULL};
        OWNED(graph) graph = graph_of(&here, rows, COUNT, SIZE, 10, 1);
        struct spectrum_request request = {PAIRS, 0, SPECTRUM_TOLERANCE, SPECTRUM_MOST_PRODUCTS, 3};
        assert_true(spectrum_find(graph, &here, &request, &results[threads - 1], NULL));
        assert_true(results[threads - 1].has_converged);
    }
    assert_memory_equal(results[0].values, results[1].values, PAIRS * sizeof(double));
    assert_memory_equal(results[0].vectors, results[1].vectors, (size_t)COUNT * PAIRS * sizeof(double));
    spectrum_finish(&results[0]);
    spectrum_finish(&results[1]);
    free(rows);
}

/* No edges: the vector that is known of a connected graph, sqrt(d), is zero, and a random one takes its place. */
static void a_vector_of_zeros_is_refilled(void **state)
{
    (void)state;
    enum { COUNT = 60 };
    OWNED(pool) pool = pool_create(1, NULL);
    struct dense_threads threads = {pool, NULL};
    double *matrix = memory_create((size_t)COUNT * COUNT, sizeof *matrix);
    OWNED(graph) graph = blobs_dense_graph(COUNT, matrix);
    assert_true(graph_normalise(graph, &threads, 1, NULL));
    struct spectrum_request request = {5, 0, SPECTRUM_TOLERANCE, SPECTRUM_MOST_PRODUCTS, 1};
    FINISHED(spectrum) spectrum = {0};
    assert_true(spectrum_find(graph, &threads, &request, &spectrum, NULL));
    assert_true(spectrum.has_converged && spectrum.products > 0);
    for (size_t l = 0; l < 5; l++) {
        assert_close(spectrum.values[l], 0, 1e-12);
        for (size_t m = 0; m <= l; m++) {
            double dot = 0;
            for (size_t i = 0; i < COUNT; i++) {
                dot += spectrum.vectors[i * 5 + l] * spectrum.vectors[i * 5 + m];
            }
            assert_close(dot, l == m ? 1 : 0, 1e-10);
        }
    }
    free(matrix);
}

/* Five rings. */
static void many_records_take_the_iteration(void **state)
{
    (void)state;
    enum { COUNT = SPECTRUM_DENSE_LIMIT + 1, EVERY = 400 };
    OWNED(pool) pool = pool_create(2, NULL);
    struct dense_threads threads = {pool, NULL};
    OWNED(neighbours) lists = blobs_copy_lists(COUNT, 1, NULL, NULL);
    for (size_t i = 0; i < COUNT; i++) {
        size_t first = i / EVERY * EVERY, end = first + EVERY < COUNT - 1 ? first + EVERY : COUNT;
        first = end == COUNT ? (size_t)4 * EVERY : first;
        lists->indices[i] = (uint32_t)(i + 1 < end ? i + 1 : first);
        lists->distances[i] = 1;
    }
    OWNED(graph) graph = graph_create(&threads, lists, 1, NULL);
    assert_true(graph_normalise(graph, &threads, 1, NULL));
    struct spectrum_request request = {5, SPECTRUM_DENSE_LIMIT, 1e-6, SPECTRUM_MOST_PRODUCTS, 1};
    FINISHED(spectrum) spectrum = {0};
    assert_true(spectrum_find(graph, &threads, &request, &spectrum, NULL));
    assert_true(spectrum.has_converged && spectrum.products > 0);
    for (size_t l = 0; l < 5; l++) {
        assert_close(spectrum.values[l], 1, 1e-9); /* one for each ring */
    }
}

/* A graph where S has few different eigenvalues, so that the filter may send the whole rest of a block to zero: all pairs alike. */
static void a_block_that_loses_rank_is_made_whole(void **state)
{
    (void)state;
    enum { COUNT = 60 };
    OWNED(pool) pool = pool_create(1, NULL);
    struct dense_threads threads = {pool, NULL};
    double *matrix = memory_create((size_t)COUNT * COUNT, sizeof *matrix);
    for (size_t i = 0; i < (size_t)COUNT * COUNT; i++) {
        matrix[i] = 1; /* S = J / N: 1, and 0 59 times */
    }
    OWNED(graph) graph = blobs_dense_graph(COUNT, matrix);
    assert_true(graph_normalise(graph, &threads, 1, NULL));
    struct spectrum_request request = {5, 0, SPECTRUM_TOLERANCE, SPECTRUM_MOST_PRODUCTS, 1};
    FINISHED(spectrum) spectrum = {0};
    assert_true(spectrum_find(graph, &threads, &request, &spectrum, NULL));
    assert_true(spectrum.has_converged && spectrum.products > 0);
    assert_close(spectrum.values[0], 1, 1e-10);
    assert_close(spectrum.values[4], 0, 1e-10);
    free(matrix);
}

static void one_record_and_narrow_graphs_take_the_dense_form(void **state)
{
    (void)state;
    OWNED(pool) pool = pool_create(1, NULL);
    struct dense_threads threads = {pool, NULL};
    const double none[] = {0};
    OWNED(graph) graph = blobs_dense_graph(1, none);
    assert_true(graph_normalise(graph, &threads, 1, NULL));
    struct spectrum_request request = {33, 0, SPECTRUM_TOLERANCE, SPECTRUM_MOST_PRODUCTS, 1};
    FINISHED(spectrum) spectrum = {0};
    assert_true(spectrum_find(graph, &threads, &request, &spectrum, NULL));
    assert_int_equal(spectrum.pairs, 1);
    assert_close(fabs(spectrum.vectors[0]), 1, 0);
    FINISHED(spectrum) again = {0};
    assert_true(spectrum_find(graph, &threads, &request, &again, NULL));
    assert_true(again.has_converged);
    assert_int_equal(again.products, 0);
    request.pairs = SIZE_MAX - 3; /* all there are, though there be no room for so many */
    FINISHED(spectrum) all = {0};
    assert_true(spectrum_find(graph, &threads, &request, &all, NULL));
    assert_int_equal(all.pairs, 1);
}

static void clusters_are_counted_at_the_widest_gap(void **state)
{
    (void)state;
    struct spectrum_rule rule = SPECTRUM_RULE;
    const double clear[] = {1, .99, .98, .97, .96, .6, .5, .4}; /* 5 before the gap of .36 */
    assert_int_equal(spectrum_cluster_count(clear, 8, &rule), 5);
    const double early[] = {1, .5, .45, .44, .43, .40, .39}; /* the widest counts from `least` on */
    assert_int_equal(spectrum_cluster_count(early, 7, &rule), 5);
    const double ties[] = {1, .9, .75, .75, .5, .25, 0};
    assert_int_equal(spectrum_cluster_count(ties, 7, &rule), 4);
    const double flat[] = {1, .9999, .9998, .9997, .9996, .9995, .9994, .9993, .9992, .9991, .9990, .9989};
    assert_int_equal(spectrum_cluster_count(flat, 12, &rule), 10); /* the fallback */
    assert_int_equal(spectrum_cluster_count(flat, 7, &rule), 7);   /* as far as there are vectors */
    assert_int_equal(spectrum_cluster_count(clear, 4, &rule), 4);  /* no gap to see */
    assert_int_equal(spectrum_cluster_count(clear, 2, &rule), 2);
    assert_int_equal(spectrum_cluster_count(clear, 1, &rule), 1);
    assert_int_equal(spectrum_cluster_count(clear, 0, &rule), 0);
    rule.least = 1;
    assert_int_equal(spectrum_cluster_count(early, 7, &rule), 1);
    rule.most = 3;
    assert_int_equal(spectrum_cluster_count(early, 7, &rule), 1);
}

/* Why graph_link is there: a far clump of copies is one eigenvalue of 1 more, and with links it is none. */
static void linked_components_are_not_counted_as_clusters(void **state)
{
    (void)state;
    enum {
        BLOBS = 5,
        COUNT = 400,
        CLUMPS = 3,
        CLUMP = 12,
        ALL = COUNT + CLUMPS * CLUMP,
        SIZE = 4,
        PAIRS = 12
    };
    OWNED(pool) pool = pool_create(2, NULL);
    struct dense_threads threads = {pool, NULL};
    float *rows = blobs_points(ALL, SIZE, BLOBS, 0.35);
    for (size_t i = COUNT; i < ALL; i++) {
        for (size_t c = 0; c < SIZE; c++) {
            double place = c == (i - COUNT) / CLUMP ? 6 : 0;
            rows[i * SIZE + c] = (float)(place + 1e-4 * blobs_noise(i * SIZE + c));
        }
    }
    OWNED(neighbours) lists = blobs_lists(rows, ALL, SIZE, 10);
    struct spectrum_rule rule = SPECTRUM_RULE;
    for (size_t is_linked = 0; is_linked < 2; is_linked++) {
        OWNED(graph) graph = graph_create(&threads, lists, GRAPH_SCALE_RANK, NULL);
        size_t linked = 0;
        assert_true(is_linked == 0 || graph_link(graph, &threads, rows, SIZE, 20, &linked, NULL));
        assert_int_equal(linked, is_linked == 0 ? 0 : CLUMPS);
        assert_true(graph_normalise(graph, &threads, 1, NULL));
        FINISHED(spectrum) spectrum = {0};
        assert_true(find_dense(graph, &threads, PAIRS, &spectrum));
        assert_int_equal(spectrum_cluster_count(spectrum.values, PAIRS, &rule),
                         is_linked == 0 ? BLOBS + CLUMPS : BLOBS);
    }
    free(rows);
}

static void records_without_neighbours_have_no_coordinates(void **state)
{
    (void)state;
    OWNED(pool) pool = pool_create(1, NULL);
    struct dense_threads threads = {pool, NULL};
    double matrix[16] = {0};
    matrix[0 * 4 + 1] = matrix[1 * 4 + 0] = 1;
    matrix[1 * 4 + 2] = matrix[2 * 4 + 1] = 0.5;
    OWNED(graph) graph = blobs_dense_graph(4, matrix);
    assert_true(graph_normalise(graph, &threads, 0, NULL));
    FINISHED(spectrum) spectrum = {0};
    assert_true(find_dense(graph, &threads, 4, &spectrum));
    float coordinates[12];
    spectrum_coordinates(&spectrum, graph->degrees, 3, SPECTRUM_DIFFUSION, 1, coordinates);
    for (size_t c = 0; c < 3; c++) {
        assert_true(coordinates[9 + c] <= 0 && coordinates[9 + c] >= 0);
    }
    /* Without its row, psi^2 weighted by degrees is lambda^2 sum d; S has 1, 0, 0, -1 here, and -1 weighs nothing. */
    spectrum_coordinates(&spectrum, NULL, 3, SPECTRUM_HEAT, 0, coordinates);
    double square = 0;
    for (size_t i = 0; i < 4; i++) {
        square += (double)coordinates[i * 3 + 2] * (double)coordinates[i * 3 + 2];
    }
    assert_close(square, 4, 1e-6);
    assert_close(spectrum.values[3], -1, 1e-12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(three_points_have_the_references_spectrum),
        cmocka_unit_test(two_blocks_have_two_eigenvalues_of_one),
        cmocka_unit_test(eigenvalues_are_numpys),
        cmocka_unit_test(the_iteration_finds_what_the_dense_form_finds),
        cmocka_unit_test(what_does_not_converge_leaves_no_vectors),
        cmocka_unit_test(bits_do_not_depend_on_threads),
        cmocka_unit_test(a_vector_of_zeros_is_refilled),
        cmocka_unit_test(many_records_take_the_iteration),
        cmocka_unit_test(a_block_that_loses_rank_is_made_whole),
        cmocka_unit_test(one_record_and_narrow_graphs_take_the_dense_form),
        cmocka_unit_test(clusters_are_counted_at_the_widest_gap),
        cmocka_unit_test(linked_components_are_not_counted_as_clusters),
        cmocka_unit_test(records_without_neighbours_have_no_coordinates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
