/*
 * tests/unit/workers/tensor/cuda/arithmetic_test.c: the formulas of the GPU's row kernels, compiled for the host, against
 * `reference`: what a kernel does to each element is right before any GPU has run it. The kernels themselves are tested where
 * there is a GPU, by the tests of all backends and by cuda_test.c.
 */
#include "tests/unit/workers/tensor/devices.h"
#include "workers/tensor/cuda/arithmetic.h"

static void close_to(const char *what, double is, double should, double tolerance)
{
    if (!(fabs(is - should) <= tolerance)) {
        fail_msg("%s: %.17g should be %.17g", what, is, should);
    }
}

static void activations_keep_their_digits(void **state)
{
    (void)state;
    enum { COUNT = 6001 };
    struct side truth;
    assert_true(side_open(&truth, "reference", 1));
    float *x = memory_create(COUNT, sizeof *x);
    for (size_t i = 0; i < COUNT; i++) {
        x[i] = ((float)i - 3000.0f) / 600.0f;
    }
    for (int kind = ACTIVATION_SILU; kind <= ACTIVATION_RELU; kind++) {
        struct activate job = {.kind = (enum activation)kind,
                               .rows = 1,
                               .count = COUNT,
                               .x = side_floats(&truth, x, COUNT),
                               .stride = COUNT};
        assert_true(truth.ops->activate(&truth.exec, &job, NULL));
        for (size_t i = 0; i < COUNT; i++) {
            close_to("activation", (double)row_activate((enum row_activation)kind, x[i]), (double)job.x[i],
                     4e-6 * fabs((double)job.x[i]));
        }
        static const float ends[] = {-1000.0f, -100.0f, -88.0f, 0.0f, 88.0f, 1000.0f};
        for (size_t i = 0; i < COUNT_OF(ends); i++) {
            float should = ends[i] > 0.0f ? ends[i] : 0.0f;
            close_to("far out", (double)row_activate((enum row_activation)kind, ends[i]), (double)should,
                     1e-30);
        }
        assert_true(isnan(row_activate((enum row_activation)kind, NAN)));
        side_clear(&truth);
    }
    free(x);
    side_close(&truth);
}

static void a_turn_errs_by_a_last_place(void **state)
{
    (void)state;
    float *values = noise(4000, 1, 2.0f);
    for (size_t i = 0; i + 4 <= 4000; i += 4) {
        double a = (double)values[i], b = (double)values[i + 1], c = (double)values[i + 2],
               s = (double)values[i + 3];
        float turned[2] = {values[i], values[i + 1]};
        row_turn(&turned[0], &turned[1], values[i + 2], values[i + 3]);
        /* Even where the products cancel. */
        close_to("first of a pair", (double)turned[0], a * c - b * s, 1.2e-7 * fabs(a * c - b * s) + 1e-30);
        close_to("second of a pair", (double)turned[1], b * c + a * s, 1.2e-7 * fabs(b * c + a * s) + 1e-30);
    }
    free(values);
}

static void scans_merge_as_the_hosts_do(void **state)
{
    (void)state;
    float *values = noise(64, 2, 9.0f);
    struct head_scan host;
    head_scan_start(&host);
    struct row_scan scan = {.max = -INFINITY};
    for (size_t i = 0; i < 64; i++) {
        float max = i % 9 == 4 ? -INFINITY : i % 5 == 0 ? 3.0f : values[i];
        struct head_scan next = {.max = max, .sum = 1.0 + (double)i, .index = 10 * i};
        struct row_scan piece = {.max = max, .sum = 1.0 + (double)i, .index = 10 * i};
        head_scan_merge(&host, &next);
        row_scan_merge(&scan, &piece);
        assert_true(scan.max == host.max && scan.sum == host.sum && scan.index == host.index);
    }
    assert_true(row_goes_before(2.0f, 7, 1.0f, 3) && row_goes_before(2.0f, 3, 2.0f, 7) &&
                !row_goes_before(2.0f, 7, 2.0f, 3) && !row_goes_before(NAN, 1, -INFINITY, 2));
    free(values);
}

static double by_rows(enum row_distance kind, size_t n, const float *x, const float *y, double x_scale,
                      double y_scale)
{
    double sum = 0.0, along = 0.0;
    for (size_t i = 0; i < n; i++) {
        if (kind == ROW_ANGULAR) {
            double a = (double)x[i] / x_scale, b = (double)y[i] / y_scale;
            sum += (a - b) * (a - b);
            along += (a + b) * (a + b);
        } else {
            sum += row_divergence(kind, (double)x[i] - x_scale, (double)y[i] - y_scale);
        }
    }
    return kind == ROW_ANGULAR ? row_angle(sum, along) : sum;
}

static void find_scales(struct side *truth, size_t n, const float *x, double *ret_logsumexp, double *ret_norm)
{
    const float *memory = side_floats(truth, x, n);
    struct head_scan scan;
    struct scan job = {.rows = 1, .count = n, .logits = memory, .stride = n, .scans = &scan};
    assert_true(truth->ops->scan(&truth->exec, &job, NULL));
    assert_true(truth->ops->squares(&truth->exec, 1, n, memory, n, ret_norm, NULL));
    *ret_norm = sqrt(*ret_norm);
    *ret_logsumexp = head_scan_logsumexp(&scan);
}

static void distances_agree_however_small(void **state)
{
    (void)state;
    enum { N = 601 };
    static const float steps[] = {0.0f, 1e-5f, 1e-3f, 0.1f, 3.0f, 60.0f, 900.0f};
    static const enum distance_kind kinds[] = {DISTANCE_ANGULAR, DISTANCE_KL, DISTANCE_JS,
                                               DISTANCE_JS_TEXTBOOK};
    struct side truth;
    assert_true(side_open(&truth, "reference", 1));
    for (size_t s = 0; s < COUNT_OF(steps); s++) {
        float *x = noise(N, 1, 8.0f), *y = noise(N, 2, steps[s]);
        double scales[2][2]; /* of x, of y: log-sum-exp, norm */
        for (size_t i = 0; i < N; i++) {
            y[i] += x[i];
        }
        find_scales(&truth, N, x, &scales[0][0], &scales[0][1]);
        find_scales(&truth, N, y, &scales[1][0], &scales[1][1]);
        for (size_t k = 0; k < COUNT_OF(kinds); k++) {
            size_t which = kinds[k] == DISTANCE_ANGULAR ? 1 : 0;
            double should = 0.0;
            struct distance job = {.kind = kinds[k],
                                   .rows = 1,
                                   .count = N,
                                   .original = side_floats(&truth, x, N),
                                   .candidate = side_floats(&truth, y, N),
                                   .original_stride = N,
                                   .candidate_stride = N,
                                   .original_scales = &scales[0][which],
                                   .candidate_scales = &scales[1][which],
                                   .distances = &should};
            assert_true(truth.ops->distance(&truth.exec, &job, NULL));
            double is = by_rows((enum row_distance)kinds[k], N, x, y, scales[0][which], scales[1][which]);
            assert_true(is >= 0.0);
            close_to("distance", is, should, 1e-8 * should + 1e-15);
            side_clear(&truth);
        }
        free(x);
        free(y);
    }
    side_close(&truth);
}

static void routes_are_those_of_reference(void **state)
{
    (void)state;
    static const size_t cases[][2] = {{1, 1}, {8, 2}, {5, 5}, {128, 8}};
    struct side truth;
    assert_true(side_open(&truth, "reference", 1));
    for (size_t i = 0; i < COUNT_OF(cases) * 2; i++) {
        size_t experts = cases[i / 2][0], active = cases[i / 2][1];
        float *logits = noise(experts, 5 + (uint32_t)i, 4.0f), should_weights[8], weights[8];
        int32_t should[8], is[8];
        logits[0] = logits[experts - 1] = 5.0f; /* a tie */
        struct route job = {.rows = 1,
                            .expert_count = experts,
                            .active_count = active,
                            .is_normalised = i % 2 == 1,
                            .logits = side_floats(&truth, logits, experts),
                            .stride = experts,
                            .experts = should,
                            .weights = should_weights};
        assert_true(truth.ops->route(&truth.exec, &job, NULL));
        row_route(logits, experts, active, i % 2 == 1, is, weights);
        for (size_t a = 0; a < active; a++) {
            assert_int_equal(is[a], should[a]);
            close_to("weight", (double)weights[a], (double)should_weights[a], 2e-7);
        }
        logits[experts / 2] = NAN;
        row_route(logits, experts, active, false, is, weights);
        for (size_t a = 0; a < active; a++) {
            assert_true(is[a] >= 0 && (size_t)is[a] < experts && isnan(weights[a]));
        }
        free(logits);
        side_clear(&truth);
    }
    side_close(&truth);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(activations_keep_their_digits), cmocka_unit_test(a_turn_errs_by_a_last_place),
        cmocka_unit_test(scans_merge_as_the_hosts_do),   cmocka_unit_test(distances_agree_however_small),
        cmocka_unit_test(routes_are_those_of_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
