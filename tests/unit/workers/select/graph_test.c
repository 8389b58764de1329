/*
 * The neighbourhood graph: weights against plain loops over all pairs and the reference's vectors (data_selection 1.9 T5, T6), components,
 * links of small ones, normalisation, products.
 */
#include "tests/unit/workers/select/blobs.h"
#include "workers/select/graph.h"

/* W_ij or S_ij; 0 where there is no edge. */
static double weight_of(const struct graph *graph, size_t i, size_t j)
{
    for (size_t e = graph->starts[i]; e < graph->starts[i + 1]; e++) {
        if (graph->targets[e] == j) {
            return graph->weights[e];
        }
    }
    return 0;
}

static void weights_are_the_references(void **state)
{
    (void)state;
    OWNED(pool) pool = pool_create(2, NULL);
    struct dense_threads threads = {pool, NULL};
    /* T6: x = 0, 1, 3; sigma = distance to the nearest = 1, 1, 2. */
    const uint32_t indices[] = {1, 2, 0, 2, 1, 0};
    const float squares[] = {1, 9, 1, 4, 4, 9};
    OWNED(neighbours) lists = blobs_copy_lists(3, 2, indices, squares);
    OWNED(graph) graph = graph_create(&threads, lists, 1, NULL);
    assert_non_null(graph);
    assert_close(weight_of(graph, 0, 1), 0.367879441, 1e-9);
    assert_close(weight_of(graph, 0, 2), 0.011108997, 1e-9);
    assert_close(weight_of(graph, 1, 2), 0.135335283, 1e-9);
    assert_close(graph->largest_scale, 2, 0);
    /* The 7th neighbour is wanted and the last there is gives sigma: 3, 2, 3. */
    OWNED(graph) wide = graph_create(&threads, lists, GRAPH_SCALE_RANK, NULL);
    assert_close(weight_of(wide, 0, 1), exp(-1.0 / 6), 1e-15);
    assert_close(weight_of(wide, 0, 2), exp(-1.0), 1e-15);
    /* Lists that disagree by rounding: the smaller counts, both ways. */
    const float rounded[] = {1, 9, 1, 4, 4, 8};
    OWNED(neighbours) other_lists = blobs_copy_lists(3, 2, indices, rounded);
    OWNED(graph) other = graph_create(&threads, other_lists, 1, NULL);
    assert_close(weight_of(other, 0, 2), exp(-4.0), 1e-15);
    assert_true(weight_of(other, 0, 2) == weight_of(other, 2, 0));
    /* An edge of one direction only: 2 lists 1 alone, and nobody lists 2. */
    const uint32_t one_way[] = {1, NEIGHBOURS_NONE, 0, NEIGHBOURS_NONE, 1, NEIGHBOURS_NONE};
    const float one_way_squares[] = {1, 0, 1, 0, 4, 0};
    OWNED(neighbours) sparse = blobs_copy_lists(3, 2, one_way, one_way_squares);
    OWNED(graph) both = graph_create(&threads, sparse, 1, NULL);
    assert_close(weight_of(both, 1, 2), exp(-2.0), 1e-15);
    assert_close(weight_of(both, 2, 1), exp(-2.0), 1e-15);
    assert_close(weight_of(both, 0, 2), 0, 0);
    assert_int_equal(both->starts[3], 4);
}

static void weights_are_what_loops_over_all_pairs_say(void **state)
{
    (void)state;
    enum { COUNT = 300, SIZE = 5, K = 11, RANK = 7 };
    float *rows = blobs_points(COUNT, SIZE, 4, 0.7);
    memcpy(rows + 17 * SIZE, rows + 12 * SIZE, SIZE * sizeof *rows); /* a copy */
    OWNED(neighbours) lists = blobs_lists(rows, COUNT, SIZE, K);
    OWNED(pool) pool = pool_create(2, NULL);
    OWNED(pool) alone = pool_create(1, NULL);
    struct dense_threads threads = {pool, NULL}, one = {alone, NULL};
    OWNED(graph) graph = graph_create(&threads, lists, RANK, NULL);
    OWNED(graph) again = graph_create(&one, lists, RANK, NULL);
    size_t edges = 0;
    for (size_t i = 0; i < COUNT; i++) {
        for (size_t j = 0; j < COUNT; j++) {
            double expected = 0;
            for (size_t slot = 0; slot < K; slot++) {
                double scale = sqrt((double)lists->distances[i * K + RANK - 1]) *
                               sqrt((double)lists->distances[j * K + RANK - 1]);
                if (lists->indices[i * K + slot] == j) {
                    expected = fmax(expected, exp(-(double)lists->distances[i * K + slot] / scale));
                }
                if (lists->indices[j * K + slot] == i) {
                    expected = fmax(expected, exp(-(double)lists->distances[j * K + slot] / scale));
                }
            }
            expected = expected < GRAPH_LEAST_WEIGHT ? 0 : expected;
            edges += expected > 0 ? 1 : 0;
            assert_close(weight_of(graph, i, j), expected, 1e-15);
            assert_true(weight_of(graph, i, j) == weight_of(graph, j, i));
        }
        for (size_t e = graph->starts[i] + 1; e < graph->starts[i + 1]; e++) {
            assert_true(graph->targets[e - 1] < graph->targets[e]);
        }
    }
    assert_int_equal(graph->starts[COUNT], edges);
    assert_close(weight_of(graph, 12, 17), 1, 0);
    assert_memory_equal(graph->weights, again->weights, edges * sizeof *graph->weights);
    free(rows);
}

static void copies_keep_a_scale(void **state)
{
    (void)state;
    OWNED(pool) pool = pool_create(1, NULL);
    struct dense_threads threads = {pool, NULL};
    float same[12] = {0}; /* all equal: one component of ones */
    for (size_t i = 0; i < 12; i++) {
        same[i] = 2;
    }
    OWNED(neighbours) lists = blobs_lists(same, 12, 1, 3);
    OWNED(graph) graph = graph_create(&threads, lists, GRAPH_SCALE_RANK, NULL);
    uint32_t components[12];
    size_t count = 0;
    assert_true(graph_components(graph, components, &count, NULL));
    assert_int_equal(count, 1);
    assert_close(graph->largest_scale, 0, 0);
    for (size_t e = 0; e < graph->starts[12]; e++) {
        assert_close(graph->weights[e], 1, 0);
    }
    /* Two copies among five: their sigma is 1e-6 of the median, and the edges that leave them vanish. */
    const float some[] = {1, 1, 2, 3, 4};
    OWNED(neighbours) of_some = blobs_lists(some, 5, 1, 1);
    OWNED(graph) mixed = graph_create(&threads, of_some, GRAPH_SCALE_RANK, NULL);
    assert_close(weight_of(mixed, 0, 1), 1, 0);
    assert_close(weight_of(mixed, 0, 2), 0, 0);
    assert_close(weight_of(mixed, 2, 3), exp(-1.0), 1e-15);
    assert_close(mixed->largest_scale, 1, 0);
}

static void assert_refused(const uint32_t *indices, const float *squares, enum error_code code,
                           const char *name)
{
    OWNED(pool) pool = pool_create(1, NULL);
    struct dense_threads threads = {pool, NULL};
    struct error error = {0};
    OWNED(neighbours) lists = blobs_copy_lists(3, 2, indices, squares);
    assert_null(graph_create(&threads, lists, 1, &error));
    assert_int_equal(error.code, code);
    assert_non_null(strstr(error.message, name));
}

static void lists_that_make_no_sense_are_refused_by_name(void **state)
{
    (void)state;
    const float squares[] = {1, 9, 1, 4, 4, 9};
    assert_refused((const uint32_t[]){1, 2, 0, 3, 1, 0}, squares, ERROR_INVALID_ARGUMENT, "record 1");
    assert_refused((const uint32_t[]){1, 2, 0, 1, 1, 0}, squares, ERROR_INVALID_ARGUMENT, "record 1");
    assert_refused((const uint32_t[]){1, 1, 0, 2, 1, 0}, squares, ERROR_INVALID_ARGUMENT, "record 0");
    const uint32_t indices[] = {1, 2, 0, 2, 1, 0};
    assert_refused(indices, (const float[]){1, 9, 1, 4, NAN, 9}, ERROR_NUMERIC, "record 2");
    assert_refused(indices, (const float[]){1, 9, -1, 4, 4, 9}, ERROR_NUMERIC, "record 1");
    assert_refused(indices, (const float[]){1, INFINITY, 1, 4, 4, 9}, ERROR_NUMERIC, "record 0");
}

static void components_are_numbered_by_their_smallest_vertex(void **state)
{
    (void)state;
    double square[36] = {0}; /* 0 with 3, 1 with 4, 2 and 5 alone */
    square[0 * 6 + 3] = square[3 * 6 + 0] = 1;
    square[1 * 6 + 4] = square[4 * 6 + 1] = 1;
    OWNED(graph) graph = blobs_dense_graph(6, square);
    uint32_t components[6];
    size_t count = 0;
    assert_true(graph_components(graph, components, &count, NULL));
    const uint32_t expected[] = {0, 1, 2, 0, 1, 3};
    assert_int_equal(count, 4);
    assert_memory_equal(components, expected, sizeof expected);
    assert_int_equal(graph_big_component(5000), 20);
    assert_int_equal(graph_big_component(52000), 52);
    OWNED(graph) empty = blobs_dense_graph(0, square);
    assert_true(graph_components(empty, components, &count, NULL));
    assert_int_equal(count, 0);
}

/* Two blobs of 60 at 0 and at 10, a clump of 9 near the second, a lone record near the first that nobody lists, and a row of zeros. */
enum { LINK_COUNT = 131, LINK_SIZE = 2, LINK_K = 6, CLUMP = 120, LONE = 129, ZERO = 130 };

static float *points_to_link(void)
{
    float *rows = memory_create(LINK_COUNT * LINK_SIZE, sizeof *rows);
    for (size_t i = 0; i < LONE; i++) {
        double centre = i >= CLUMP ? 14 : i % 2 == 0 ? 1 : 10;
        double spread = i >= CLUMP ? 0.01 : 0.9;
        for (size_t c = 0; c < LINK_SIZE; c++) {
            rows[i * LINK_SIZE + c] = (float)(centre + spread * blobs_noise(i * LINK_SIZE + c));
        }
    }
    rows[LONE * LINK_SIZE] = -3;
    return rows;
}

/* Records first .. end are a component: the i-th is linked to the i-th nearest record of the big component around their centroid, with the
 * weight of all its other edges. */
static void assert_linked(const struct graph *graph, const float *rows, size_t first, size_t end)
{
    double centre[LINK_SIZE] = {0};
    for (size_t i = first; i < end; i++) {
        centre[0] += (double)rows[i * LINK_SIZE] / (double)(end - first);
        centre[1] += (double)rows[i * LINK_SIZE + 1] / (double)(end - first);
    }
    struct blobs_near near[CLUMP / 2];
    for (size_t j = 0; j < CLUMP / 2;
         j++) { /* the first blob has the even records, the second the odd ones */
        size_t host = 2 * j + (first == LONE ? 0 : 1);
        double x = (double)rows[host * LINK_SIZE] - centre[0];
        double y = (double)rows[host * LINK_SIZE + 1] - centre[1];
        near[j] = (struct blobs_near){x * x + y * y, (uint32_t)host};
    }
    qsort(near, CLUMP / 2, sizeof *near, blobs_compare);
    for (size_t i = first; i < end; i++) {
        double sum = 0;
        for (size_t j = first; j < end; j++) {
            sum += weight_of(graph, i, j);
        }
        uint32_t host = near[i - first].index;
        assert_close(weight_of(graph, i, host), sum > 0 ? sum : 1, 1e-14);
        assert_close(weight_of(graph, host, i), weight_of(graph, i, host), 0);
    }
}

static void records_of_small_components_are_linked_to_the_nearest_big_one(void **state)
{
    (void)state;
    OWNED(pool) pool = pool_create(2, NULL);
    struct dense_threads threads = {pool, NULL};
    float *rows = points_to_link();
    OWNED(neighbours) lists = blobs_lists(rows, LINK_COUNT, LINK_SIZE, LINK_K);
    for (size_t slot = 0; slot < LINK_K; slot++) {
        lists->indices[LONE * LINK_K + slot] = NEIGHBOURS_NONE;
    }
    OWNED(graph) graph = graph_create(&threads, lists, GRAPH_SCALE_RANK, NULL);
    uint32_t components[LINK_COUNT];
    size_t count = 0, linked = 0, edges = graph->starts[LINK_COUNT];
    assert_true(graph_components(graph, components, &count, NULL));
    assert_int_equal(count, 5);
    assert_true(graph_link(graph, &threads, rows, LINK_SIZE, 500, &linked, NULL)); /* none is big */
    assert_int_equal(linked, 0);
    assert_int_equal(graph->starts[LINK_COUNT], edges);
    assert_true(graph_link(graph, &threads, rows, LINK_SIZE, 20, &linked, NULL));
    assert_int_equal(linked, 2);
    assert_int_equal(graph->starts[LINK_COUNT], edges + 2 * 10);
    assert_true(graph_components(graph, components, &count, NULL));
    assert_int_equal(count, 3);
    assert_int_equal(components[CLUMP], components[1]);
    assert_int_equal(components[LONE], components[0]);
    assert_int_equal(graph->starts[ZERO], graph->starts[ZERO + 1]);
    assert_linked(graph, rows, CLUMP, LONE);
    assert_linked(graph, rows, LONE, LONE + 1);
    for (size_t i = 0; i < LINK_COUNT; i++) {
        for (size_t e = graph->starts[i] + 1; e < graph->starts[i + 1]; e++) {
            assert_true(graph->targets[e - 1] < graph->targets[e]);
        }
    }
    struct error error = {0};
    rows[33 * LINK_SIZE + 1] = NAN;
    assert_false(graph_link(graph, &threads, rows, LINK_SIZE, 20, &linked, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
    assert_non_null(strstr(error.message, "row 33"));
    free(rows);
}

/* Many guests and hosts: more than one block of each, against plain loops. */
static void links_cross_blocks(void **state)
{
    (void)state;
    enum { HOSTS = 2200, GUESTS = 300, COUNT = HOSTS + GUESTS, SIZE = 3 };
    float *rows = memory_create((size_t)COUNT * SIZE, sizeof *rows);
    for (size_t i = 0; i < (size_t)COUNT * SIZE; i++) {
        rows[i] = (float)(4096 + blobs_noise(i)); /* where fp32 products cannot tell them apart */
    }
    memcpy(rows + (size_t)2000 * SIZE, rows + (size_t)40 * SIZE, SIZE * sizeof *rows); /* equal hosts */
    memcpy(rows + (size_t)HOSTS * SIZE, rows + (size_t)40 * SIZE, SIZE * sizeof *rows);
    /* Hosts are one ring, guests lie alone. */
    OWNED(neighbours) lists = blobs_copy_lists(COUNT, 1, NULL, NULL);
    for (size_t i = 0; i < COUNT; i++) {
        lists->indices[i] = i < HOSTS ? (uint32_t)((i + 1) % HOSTS) : NEIGHBOURS_NONE;
        lists->distances[i] = 1;
    }
    size_t linked = 0;
    OWNED(pool) pool = pool_create(2, NULL);
    struct dense_threads threads = {pool, NULL};
    OWNED(graph) graph = graph_create(&threads, lists, 1, NULL);
    assert_true(graph_link(graph, &threads, rows, SIZE, 20, &linked, NULL));
    assert_int_equal(linked, GUESTS);
    for (size_t i = HOSTS; i < COUNT; i++) {
        assert_int_equal(graph->starts[i + 1] - graph->starts[i], 1);
        size_t nearest = 0;
        double least = HUGE_VAL;
        for (size_t j = 0; j < HOSTS; j++) {
            double square = plain_square(rows + i * SIZE, rows + j * SIZE, SIZE);
            nearest = square < least ? j : nearest;
            least = fmin(least, square);
        }
        assert_int_equal(graph->targets[graph->starts[i]], nearest);
    }
    free(rows);
}

static void degrees_are_the_references(void **state)
{
    (void)state;
    OWNED(pool) pool = pool_create(1, NULL);
    struct dense_threads threads = {pool, NULL};
    /* T6: x = 0, 1, 3, sigma = 1, each its own neighbour. */
    double matrix[9];
    const double x[] = {0, 1, 3};
    for (size_t i = 0; i < 9; i++) {
        matrix[i] = exp(-(x[i / 3] - x[i % 3]) * (x[i / 3] - x[i % 3]) / 2);
    }
    const double degrees[2][3] = {{1.61763965625, 1.74186594295, 1.14644427977},
                                  {0.60339892686, 0.61261475940, 0.83460243006}};
    for (size_t alpha = 0; alpha < 2; alpha++) {
        OWNED(graph) graph = blobs_dense_graph(3, matrix);
        assert_true(graph_normalise(graph, &threads, (double)alpha, NULL));
        for (size_t i = 0; i < 3; i++) {
            assert_close(graph->degrees[i], degrees[alpha][i], 1e-10);
            for (size_t j = 0; j < 3; j++) {
                assert_true(weight_of(graph, i, j) == weight_of(graph, j, i));
            }
        }
    }
}

static void products_are_those_of_loops(void **state)
{
    (void)state;
    enum { COUNT = 531, SIZE = 4, WIDEST = 131 };
    float *rows = blobs_points(COUNT, SIZE, 3, 0.8);
    memset(rows + 5 * SIZE, 0, SIZE * sizeof *rows); /* a row of zeros: no edges */
    OWNED(neighbours) lists = blobs_lists(rows, COUNT, SIZE, 9);
    OWNED(pool) alone = pool_create(1, NULL);
    OWNED(pool) pool = pool_create(2, NULL);
    struct dense_threads one = {alone, NULL}, threads = {pool, NULL};
    OWNED(graph) graph = graph_create(&threads, lists, GRAPH_SCALE_RANK, NULL);
    assert_true(graph_normalise(graph, &threads, 0.5, NULL));
    assert_close(graph->degrees[5], 0, 0);
    static const size_t widths[] = {1, 7, 8, 64, WIDEST};
    double *x = memory_create((size_t)COUNT * WIDEST, sizeof *x),
           *first = memory_create((size_t)COUNT * WIDEST, sizeof *first),
           *second = memory_create((size_t)COUNT * WIDEST, sizeof *second);
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
        size_t width = widths[w];
        for (size_t i = 0; i < COUNT * width; i++) {
            x[i] = blobs_noise(i + 5);
            first[i] = second[i] = blobs_noise(i + 999);
        }
        struct graph_product product = {.width = width, .scale = 2, .shift = -0.5, .keep = -1};
        assert_true(graph_multiply(graph, &one, &product, x, first, NULL));
        assert_true(graph_multiply(graph, &threads, &product, x, second, NULL));
        assert_memory_equal(first, second, COUNT * width * sizeof *first);
        for (size_t i = 0; i < COUNT; i++) {
            for (size_t c = 0; c < width; c++) {
                double sum = 0;
                for (size_t e = graph->starts[i]; e < graph->starts[i + 1]; e++) {
                    sum += graph->weights[e] * x[graph->targets[e] * width + c];
                }
                double before = blobs_noise(i * width + c + 999);
                assert_close(first[i * width + c], 2 * sum - 0.5 * x[i * width + c] - before, 1e-14);
            }
        }
        product = (struct graph_product){.width = width, .scale = 1};
        for (size_t i = 0; i < COUNT * width; i++) {
            first[i] = NAN; /* not read */
        }
        assert_true(graph_multiply(graph, &threads, &product, x, first, NULL));
        assert_close(first[5 * width], 0, 0);
    }
    free(x);
    free(first);
    free(second);
    free(rows);
}

static void a_cancelled_product_says_so(void **state)
{
    (void)state;
    OWNED(pool) pool = pool_create(1, NULL);
    struct cancel cancel = {0};
    struct dense_threads threads = {pool, &cancel};
    const double matrix[] = {1, 1, 1, 1};
    OWNED(graph) graph = blobs_dense_graph(2, matrix);
    assert_true(graph_normalise(graph, &threads, 1, NULL));
    cancel_request(&cancel, CANCEL_NOW);
    double x[2] = {1, 2}, out[2];
    struct error error = {0};
    struct graph_product product = {.width = 1, .scale = 1};
    assert_false(graph_multiply(graph, &threads, &product, x, out, &error));
    assert_int_equal(error.code, ERROR_CANCELLED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_are_the_references),
        cmocka_unit_test(weights_are_what_loops_over_all_pairs_say),
        cmocka_unit_test(copies_keep_a_scale),
        cmocka_unit_test(lists_that_make_no_sense_are_refused_by_name),
        cmocka_unit_test(components_are_numbered_by_their_smallest_vertex),
        cmocka_unit_test(records_of_small_components_are_linked_to_the_nearest_big_one),
        cmocka_unit_test(links_cross_blocks),
        cmocka_unit_test(degrees_are_the_references),
        cmocka_unit_test(products_are_those_of_loops),
        cmocka_unit_test(a_cancelled_product_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
