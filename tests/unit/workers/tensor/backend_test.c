/*
 * tests/unit/workers/tensor/backend_test.c: row operations of every backend against `reference`, on awkward shapes (0, 1, primes,
 * around vector widths), rows that lie apart, several sequences; and that no result depends on the threads.
 *
 * Tolerances are relative to the largest value of the result: norms, rope and activations 1e-6; soft caps 5e-7 of the cap;
 * log-sum-exp 3e-7; distances 2e-5, where they are tiny 2e-3.
 */
#include "tests/unit/workers/tensor/devices.h"

static const size_t sizes[] = {1, 2, 3, 7, 8, 15, 16, 17, 31, 48, 64, 97, 172, 288, 509};

/* Runs `body` for each backend of this machine, opened as `side`, with `truth` beside it. */
#define FOR_EACH_BACKEND(body)                                                                               \
    do {                                                                                                     \
        struct side truth;                                                                                   \
        assert_true(side_open(&truth, "reference", 1));                                                      \
        for (const char *const *name = backend_names(); *name != NULL; name++) {                             \
            struct side side;                                                                                \
            if (side_open(&side, *name, 2)) {                                                                \
                body(&side, &truth);                                                                         \
                side_close(&side);                                                                           \
            }                                                                                                \
        }                                                                                                    \
        side_close(&truth);                                                                                  \
    } while (0)

/* ---- norms, rope, activations, soft caps ------------------------------------------------------------------------- */

struct norm_case {
    enum norm_kind kind;
    size_t rows, groups, size;
    bool has_bias, is_in_place;
    float offset; /* added to x: a mean far from 0 */
};

/* owned; [rows, groups * size + 3] */
static float *normalise(struct side *side, const struct norm_case *c)
{
    size_t width = c->groups * c->size, stride = width + 3;
    float *x = noise(c->rows * stride, 1, 3.0f), *w = noise(c->size, 2, 1.0f), *b = noise(c->size, 3, 1.0f);
    for (size_t i = 0; i < c->rows * stride; i++) {
        x[i] += c->offset;
    }
    float *in = side_floats(side, x, c->rows * stride);
    float *out = c->is_in_place ? in : side_floats(side, x, c->rows * stride);
    struct norm job = {.kind = c->kind,
                       .rows = c->rows,
                       .groups = c->groups,
                       .size = c->size,
                       .x = in,
                       .x_stride = stride,
                       .weight = side_floats(side, w, c->size),
                       .bias = c->has_bias ? side_floats(side, b, c->size) : NULL,
                       .epsilon = 1e-5f,
                       .out = out,
                       .out_stride = stride};
    assert_true(side->ops->norm(&side->exec, &job, NULL));
    float *result = side_read(side, out, c->rows * stride);
    side_clear(side);
    free(x);
    free(w);
    free(b);
    return result;
}

static void check_norms(struct side *side, struct side *truth)
{
    for (size_t i = 0; i < COUNT_OF(sizes) * 8; i++) {
        size_t size = sizes[i / 8];
        struct norm_case c = {.kind = i % 2 == 0 ? NORM_RMS : NORM_LAYER,
                              .rows = 1 + i % 5,
                              .groups = i / 2 % 2 == 0 ? 1 : 3,
                              .size = size,
                              .has_bias = i % 2 == 1 && i % 3 == 0,
                              .is_in_place = i / 4 % 2 == 0,
                              .offset = i % 7 == 0 ? 50.0f : 0.0f};
        float *should = normalise(truth, &c), *is = normalise(side, &c);
        assert_close("norm", side->ops->name, is, should, c.rows * (c.groups * size + 3), 1e-6);
        free(should);
        free(is);
    }
}

static void norms_agree_with_reference(void **state)
{
    (void)state;
    FOR_EACH_BACKEND(check_norms);
}

/* owned */
static float *rotate(struct side *side, size_t heads, size_t size, size_t rotary,
                     const struct segment *segments, size_t segment_count, size_t rows)
{
    size_t stride = heads * size + 2, half = rotary / 2;
    float *x = noise(rows * stride, 1, 2.0f), *c = noise(40 * half, 2, 1.0f), *s = noise(40 * half, 3, 1.0f);
    struct rope job = {.segments = segments,
                       .segment_count = segment_count,
                       .heads = heads,
                       .head_size = size,
                       .rotary_size = rotary,
                       .cosines = side_floats(side, c, 40 * half),
                       .sines = side_floats(side, s, 40 * half),
                       .x = side_floats(side, x, rows * stride),
                       .stride = stride};
    assert_true(side->ops->rope(&side->exec, &job, NULL));
    float *result = side_read(side, job.x, rows * stride);
    side_clear(side);
    free(x);
    free(c);
    free(s);
    return result;
}

static void check_rope(struct side *side, struct side *truth)
{
    static const struct segment segments[] = {{0, 5, 0}, {5, 1, 39}, {6, 11, 20}};
    static const size_t cases[][3] = {{1, 2, 2},   {3, 8, 8},   {2, 64, 64},
                                      {5, 80, 20}, {1, 34, 30}, {2, 96, 94}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        size_t heads = cases[i][0], size = cases[i][1], rotary = cases[i][2];
        float *should = rotate(truth, heads, size, rotary, segments, 3, 17);
        float *is = rotate(side, heads, size, rotary, segments, 3, 17);
        assert_close("rope", side->ops->name, is, should, 17 * (heads * size + 2), 1e-6);
        free(should);
        free(is);
    }
}

static void rope_agrees_with_reference(void **state)
{
    (void)state;
    FOR_EACH_BACKEND(check_rope);
}

/* owned; x [rows, 2 * count + 1], up behind x */
static float *activate(struct side *side, enum activation kind, size_t rows, size_t count, const float *x,
                       bool has_up)
{
    size_t stride = 2 * count + 1;
    float *memory = side_floats(side, x, rows * stride);
    struct activate job = {.kind = kind,
                           .rows = rows,
                           .count = count,
                           .x = memory,
                           .up = has_up ? memory + count : NULL,
                           .stride = stride};
    assert_true(side->ops->activate(&side->exec, &job, NULL));
    float *result = side_read(side, memory, rows * stride);
    side_clear(side);
    return result;
}

static void check_activations(struct side *side, struct side *truth)
{
    static const enum activation kinds[] = {ACTIVATION_SILU, ACTIVATION_GELU, ACTIVATION_GELU_TANH,
                                            ACTIVATION_RELU};
    for (size_t i = 0; i < COUNT_OF(sizes) * 8; i++) {
        size_t count = sizes[i / 8], rows = 3, all = rows * (2 * count + 1);
        enum activation kind = kinds[i % 4];
        float *x = noise(all, 1, i % 3 == 0 ? 30.0f : 3.0f);
        float *should = activate(truth, kind, rows, count, x, i / 4 % 2 == 0);
        float *is = activate(side, kind, rows, count, x, i / 4 % 2 == 0);
        assert_close("activation", side->ops->name, is, should, all, 1e-6);
        free(x);
        free(should);
        free(is);
    }
    /* Each value by itself: small results have their digits too, where they are not tails of fp32's own. */
    float *x = memory_create(2 * 4001 + 1, sizeof *x);
    for (size_t i = 0; i < 4001; i++) {
        x[i] = ((float)i - 2000.0f) / 400.0f;
    }
    for (size_t k = 0; k < COUNT_OF(kinds); k++) {
        float *should = activate(truth, kinds[k], 1, 4001, x, false),
              *is = activate(side, kinds[k], 1, 4001, x, false);
        for (size_t i = 0; i < 4001; i++) {
            double off = fabs((double)is[i] - (double)should[i]);
            if (!(off <= 4e-6 * fabs((double)should[i]))) {
                fail_msg("%s, activation %d of %g: %.9g should be %.9g", side->ops->name, (int)kinds[k],
                         (double)x[i], (double)is[i], (double)should[i]);
            }
        }
        free(should);
        free(is);
    }
    free(x);
}

static void activations_agree_with_reference(void **state)
{
    (void)state;
    FOR_EACH_BACKEND(check_activations);
}

static void check_ends(struct side *side, struct side *truth)
{
    (void)truth;
    static const enum activation kinds[] = {ACTIVATION_SILU, ACTIVATION_GELU, ACTIVATION_GELU_TANH,
                                            ACTIVATION_RELU};
    static const float x[] = {-1000.0f, -100.0f, -88.0f, 0.0f, 88.0f, 1000.0f, NAN};
    static const float should[] = {0, 0, 0, 0, 88.0f, 1000.0f};
    for (size_t k = 0; k < COUNT_OF(kinds); k++) {
        float in[15] = {0};
        memcpy(in, x, sizeof x);
        float *is = activate(side, kinds[k], 1, 7, in, false);
        for (size_t i = 0; i < 6; i++) {
            assert_true(fabsf(is[i] - should[i]) <= 1e-30f);
        }
        assert_true(isnan(is[6]));
        free(is);
    }
}

static void activations_hold_at_the_ends(void **state)
{
    (void)state;
    FOR_EACH_BACKEND(check_ends);
}

/* owned */
static float *cap(struct side *side, size_t rows, size_t count, const float *x, float limit)
{
    struct softcap job = {.rows = rows,
                          .count = count,
                          .x = side_floats(side, x, rows * (count + 1)),
                          .stride = count + 1,
                          .cap = limit};
    assert_true(side->ops->softcap(&side->exec, &job, NULL));
    float *result = side_read(side, job.x, rows * (count + 1));
    side_clear(side);
    return result;
}

static void check_softcap(struct side *side, struct side *truth)
{
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        float *x = noise(3 * (sizes[i] + 1), 1, i % 2 == 0 ? 200.0f : 0.01f);
        float *should = cap(truth, 3, sizes[i], x, 30.0f), *is = cap(side, 3, sizes[i], x, 30.0f);
        assert_close("softcap", side->ops->name, is, should, 3 * (sizes[i] + 1), 5e-7);
        free(x);
        free(should);
        free(is);
    }
}

static void softcap_agrees_with_reference(void **state)
{
    (void)state;
    FOR_EACH_BACKEND(check_softcap);
}

/* ---- adding, copying, routing ------------------------------------------------------------------------------------ */

static void check_add(struct side *side, struct side *truth)
{
    (void)truth;
    for (size_t i = 0; i < COUNT_OF(sizes) * 4; i++) {
        size_t n = sizes[i / 4], rows = 4;
        static const int32_t to_rows[] = {0, 2, 3, 6};
        static const float factors[] = {0.5f, -1.0f, 2.0f, 0.0f};
        float *to = noise(7 * (n + 1), 1, 1.0f), *from = noise(rows * (n + 2), 2, 1.0f);
        for (size_t bad = 0; bad < 3; bad++) {
            if (bad > 0) {
                from[(n + 2) + n - 1] = bad == 1 ? NAN : -INFINITY;
            }
            struct add job = {.rows = rows,
                              .size = n,
                              .to = side_floats(side, to, 7 * (n + 1)),
                              .to_stride = n + 1,
                              .from = side_floats(side, from, rows * (n + 2)),
                              .from_stride = n + 2,
                              .to_rows = i % 2 == 0 ? to_rows : NULL,
                              .factors = i / 2 % 2 == 0 ? factors : NULL};
            bool is_finite = bad > 0;
            assert_true(side->ops->add(&side->exec, &job, &is_finite, NULL));
            assert_int_equal(is_finite, bad == 0);
            float *is = side_read(side, job.to, 7 * (n + 1));
            float *should = memory_create(7 * (n + 1), sizeof *should);
            memcpy(should, to, 7 * (n + 1) * sizeof *to);
            for (size_t r = 0; r < rows && bad == 0; r++) {
                for (size_t c = 0; c < n; c++) {
                    should[(job.to_rows != NULL ? (size_t)to_rows[r] : r) * (n + 1) + c] +=
                        (job.factors != NULL ? factors[r] : 1.0f) * from[r * (n + 2) + c];
                }
            }
            if (bad == 0) {
                assert_close("add", side->ops->name, is, should, 7 * (n + 1), 2e-7);
            }
            side_clear(side);
            free(is);
            free(should);
        }
        free(to);
        free(from);
    }
}

static void add_takes_rows_and_factors_and_notices_what_is_not_finite(void **state)
{
    (void)state;
    FOR_EACH_BACKEND(check_add);
}

static void check_copy(struct side *side, struct side *truth)
{
    (void)truth;
    static const int32_t to_rows[] = {5, 0, 2}, from_rows[] = {1, 1, 3};
    for (size_t i = 0; i < COUNT_OF(sizes) * 4; i++) {
        size_t n = sizes[i / 4];
        float *to = noise(6 * (n + 1), 1, 1.0f), *from = noise(4 * (n + 2), 2, 1.0f);
        struct copy_rows job = {.rows = 3,
                                .size = n,
                                .to = side_floats(side, to, 6 * (n + 1)),
                                .to_stride = n + 1,
                                .from = side_floats(side, from, 4 * (n + 2)),
                                .from_stride = n + 2,
                                .to_rows = i % 2 == 0 ? to_rows : NULL,
                                .from_rows = i / 2 % 2 == 0 ? from_rows : NULL};
        assert_true(side->ops->copy_rows(&side->exec, &job, NULL));
        float *is = side_read(side, job.to, 6 * (n + 1));
        for (size_t r = 0; r < 3; r++) {
            memcpy(to + (job.to_rows != NULL ? (size_t)to_rows[r] : r) * (n + 1),
                   from + (job.from_rows != NULL ? (size_t)from_rows[r] : r) * (n + 2), n * sizeof *to);
        }
        assert_memory_equal(is, to, 6 * (n + 1) * sizeof *to);
        side_clear(side);
        free(is);
        free(to);
        free(from);
    }
}

static void rows_are_copied_where_they_belong(void **state)
{
    (void)state;
    FOR_EACH_BACKEND(check_copy);
}

static void check_route(struct side *side, struct side *truth)
{
    static const size_t cases[][2] = {{1, 1}, {8, 2}, {5, 5}, {128, 8}, {60, 4}};
    for (size_t i = 0; i < COUNT_OF(cases) * 2; i++) {
        size_t experts = cases[i / 2][0], active = cases[i / 2][1], rows = 9;
        float *logits = noise(rows * (experts + 1), 5, 4.0f);
        logits[experts - 1] = logits[0] = 5.0f; /* a tie at the top */
        int32_t chosen[2][9 * 8];
        float weights[2][9 * 8];
        struct side *sides[] = {side, truth};
        for (size_t s = 0; s < 2; s++) {
            struct route job = {.rows = rows,
                                .expert_count = experts,
                                .active_count = active,
                                .is_normalised = i % 2 == 0,
                                .logits = side_floats(sides[s], logits, rows * (experts + 1)),
                                .stride = experts + 1,
                                .experts = chosen[s],
                                .weights = weights[s]};
            assert_true(sides[s]->ops->route(&sides[s]->exec, &job, NULL));
            side_clear(sides[s]);
        }
        assert_int_equal(chosen[0][0], 0);
        assert_memory_equal(chosen[0], chosen[1], rows * active * sizeof chosen[0][0]);
        assert_close("route", side->ops->name, weights[0], weights[1], rows * active, 1e-6);
        for (size_t r = 0; r < rows && i % 2 == 0; r++) {
            double sum = 0.0;
            for (size_t a = 0; a < active; a++) {
                sum += (double)weights[0][r * active + a];
                assert_true(a == 0 || weights[0][r * active + a] <= weights[0][r * active + a - 1]);
            }
            assert_true(fabs(sum - 1.0) < 1e-6);
        }
        free(logits);
    }
}

static void experts_are_chosen_in_falling_order(void **state)
{
    (void)state;
    FOR_EACH_BACKEND(check_route);
}

/* ---- rows of logits ---------------------------------------------------------------------------------------------- */

static void check_scan(struct side *side, struct side *truth)
{
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        size_t n = sizes[i] * 5, rows = 3;
        float *x = noise(rows * (n + 1), 1, 20.0f);
        x[n / 2] = x[n - 1] = 21.0f; /* a tie, once n is over 1 */
        struct head_scan is[3], should[3];
        struct scan job = {.rows = rows,
                           .count = n,
                           .logits = side_floats(side, x, rows * (n + 1)),
                           .stride = n + 1,
                           .scans = is};
        assert_true(side->ops->scan(&side->exec, &job, NULL));
        job.logits = side_floats(truth, x, rows * (n + 1));
        job.scans = should;
        assert_true(truth->ops->scan(&truth->exec, &job, NULL));
        assert_int_equal(is[0].index, n / 2);
        for (size_t r = 0; r < rows; r++) {
            assert_true(is[r].max == should[r].max);
            assert_int_equal(is[r].index, should[r].index);
            assert_true(fabs(head_scan_logsumexp(&is[r]) - head_scan_logsumexp(&should[r])) < 3e-7);
        }
        side_clear(side);
        side_clear(truth);
        free(x);
    }
}

static void scan_finds_logsumexp_and_the_first_maximum(void **state)
{
    (void)state;
    FOR_EACH_BACKEND(check_scan);
}

static void measure(struct side *side, enum distance_kind kind, size_t rows, size_t n, const float *x,
                    const float *y, const double *x_scales, const double *y_scales, double *ret)
{
    struct distance job = {.kind = kind,
                           .rows = rows,
                           .count = n,
                           .original = side_floats(side, x, rows * n),
                           .candidate = side_floats(side, y, rows * n),
                           .original_stride = n,
                           .candidate_stride = n,
                           .original_scales = x_scales,
                           .candidate_scales = y_scales,
                           .distances = ret};
    assert_true(side->ops->distance(&side->exec, &job, NULL));
    side_clear(side);
}

/* Log-sum-exp, or the L2 norm, of each row by the truth. */
static void find_scales(struct side *truth, bool is_norm, size_t rows, size_t n, const float *x, double *ret)
{
    const float *memory = side_floats(truth, x, rows * n);
    struct head_scan scans[4];
    struct scan job = {.rows = rows, .count = n, .logits = memory, .stride = n, .scans = scans};
    assert_true(truth->ops->scan(&truth->exec, &job, NULL));
    assert_true(truth->ops->squares(&truth->exec, rows, n, memory, n, ret, NULL));
    for (size_t r = 0; r < rows; r++) {
        ret[r] = is_norm ? sqrt(ret[r]) : head_scan_logsumexp(&scans[r]);
    }
    side_clear(truth);
}

static const enum distance_kind distance_kinds[] = {DISTANCE_SQUARES, DISTANCE_ANGULAR, DISTANCE_KL,
                                                    DISTANCE_JS, DISTANCE_JS_TEXTBOOK};

static void check_distances(struct side *side, struct side *truth)
{
    static const float steps[] = {0.0f, 1e-3f, 0.1f, 3.0f, 60.0f};
    enum { ROWS = 2 };
    for (size_t i = 0; i < COUNT_OF(sizes) * COUNT_OF(steps); i++) {
        size_t n = (sizes[i / COUNT_OF(steps)] + 1) * 3;
        float step = steps[i % COUNT_OF(steps)];
        float *x = noise(ROWS * n, 1, 8.0f), *y = noise(ROWS * n, 2, step);
        for (size_t j = 0; j < ROWS * n; j++) {
            y[j] += x[j];
        }
        for (size_t k = 0; k < COUNT_OF(distance_kinds); k++) {
            bool is_angle = distance_kinds[k] == DISTANCE_ANGULAR;
            double x_scales[ROWS], y_scales[ROWS], should[ROWS], is[ROWS];
            find_scales(truth, is_angle, ROWS, n, x, x_scales);
            find_scales(truth, is_angle, ROWS, n, y, y_scales);
            measure(truth, distance_kinds[k], ROWS, n, x, y, x_scales, y_scales, should);
            measure(side, distance_kinds[k], ROWS, n, x, y, x_scales, y_scales, is);
            /* fp32 rows of norm 1 cannot be closer than that */
            double slack = is_angle ? 3e-7 : 1e-13;
            for (size_t r = 0; r < ROWS; r++) {
                double off = fabs(is[r] - should[r]);
                if (!(off <= 2e-3 * should[r] + slack) || (step >= 0.1f && off > 2e-5 * should[r])) {
                    fail_msg("%s, kind %d, %zu columns, step %g: %.12g should be %.12g", side->ops->name,
                             (int)distance_kinds[k], n, (double)step, is[r], should[r]);
                }
            }
        }
        free(x);
        free(y);
    }
}

static void distances_agree_with_reference_however_small(void **state)
{
    (void)state;
    FOR_EACH_BACKEND(check_distances);
}

static void check_squares(struct side *side, struct side *truth)
{
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        size_t n = sizes[i] * 7;
        float *x = noise(2 * (n + 1), 1, 5.0f);
        double is[2], should[2];
        const float *here = side_floats(side, x, 2 * (n + 1)), *there = side_floats(truth, x, 2 * (n + 1));
        assert_true(side->ops->squares(&side->exec, 2, n, here, n + 1, is, NULL));
        assert_true(truth->ops->squares(&truth->exec, 2, n, there, n + 1, should, NULL));
        assert_true(fabs(is[0] - should[0]) <= 1e-6 * should[0] &&
                    fabs(is[1] - should[1]) <= 1e-6 * should[1]);
        side_clear(side);
        side_clear(truth);
        free(x);
    }
}

static void squares_agree_with_reference(void **state)
{
    (void)state;
    FOR_EACH_BACKEND(check_squares);
}

/* structured_pruning 1.8: logits (h, 0), h0 = -0.85; a sublayer that adds a_i is removed, so h = -0.85 - a_i. */
static void check_toy(struct side *side, struct side *truth)
{
    (void)truth;
    static const struct {
        double removed, reference_form, textbook, norm;
    } rows[] = {{0.05, 6.489230e-05, 6.488720e-05, 0.05},
                {0.1, 0.0, 2.568094e-04, 0.1},
                {1.0, 0.0, 2.002956e-02, 1.0},
                {-2.0, 0.0, 1.103960e-01, 2.0},
                {0.15, 0.0, 5.715055e-04, 0.15},   /* round 2: 3 and 1 */
                {1.05, 0.0, 2.172130e-02, 1.05},   /* 3 and 0 */
                {-1.95, 0.0, 1.056959e-01, 1.95},  /* 3 and 2 */
                {1.15, 0.0, 2.519310e-02, 1.15},   /* round 3: 3, 1 and 0 */
                {-1.85, 0.0, 9.638919e-02, 1.85}}; /* 3, 1 and 2 */
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        float z0[2] = {-0.85f, 0.0f}, z[2] = {(float)(-0.85 - rows[i].removed), 0.0f};
        double scale = log1p(exp((double)z0[0])), other = log1p(exp((double)z[0])), is = 0.0;
        measure(side, DISTANCE_JS_TEXTBOOK, 1, 2, z0, z, &scale, &other, &is);
        assert_true(fabs(is - rows[i].textbook) <
                    2e-5 * rows[i].textbook); /* fp32 logits; 7 printed digits */
        measure(side, DISTANCE_SQUARES, 1, 2, z0, z, &scale, &other, &is);
        assert_true(fabs(sqrt(is) - rows[i].norm) < 1e-6);
        if (rows[i].reference_form > 0.0) {
            measure(side, DISTANCE_JS, 1, 2, z0, z, &scale, &other, &is);
            assert_true(fabs(is - rows[i].reference_form) < 2e-5 * rows[i].reference_form);
        }
    }
}

static void the_finercut_toy_comes_out_as_calculated(void **state)
{
    (void)state;
    FOR_EACH_BACKEND(check_toy);
}

/* ---- cuts, nothing, cancelling, opening -------------------------------------------------------------------------- */

/* Enough rows for several tasks: the same bits alone and on any number of threads. */
static void rows_have_the_same_bits_on_any_threads(void **state)
{
    (void)state;
    enum { ROWS = 700, N = 201 };
    float *x = noise(ROWS * (2 * N + 1), 1, 3.0f);
    for (const char *const *name = backend_names(); *name != NULL; name++) {
        float *first[2] = {NULL, NULL};
        for (size_t threads = 1; threads <= 4; threads++) {
            struct side side;
            if (!side_open(&side, *name, threads < 4 ? threads : 2)) {
                continue;
            }
            side.exec.is_shared = threads < 4;
            side.exec.thread = threads < 4 ? 0 : 1;
            struct norm_case c = {.kind = NORM_LAYER, .rows = ROWS, .groups = 1, .size = N};
            float *out[2] = {activate(&side, ACTIVATION_GELU, ROWS, N, x, true), normalise(&side, &c)};
            size_t bytes[2] = {ROWS * (2 * N + 1) * sizeof *x, ROWS * (N + 3) * sizeof *x};
            for (size_t i = 0; i < 2; i++) {
                if (first[i] == NULL) {
                    first[i] = out[i];
                    continue;
                }
                assert_memory_equal(first[i], out[i], bytes[i]);
                free(out[i]);
            }
            side_close(&side);
        }
        free(first[0]);
        free(first[1]);
    }
    free(x);
}

static void check_nothing(struct side *side, struct side *truth)
{
    (void)truth;
    float *memory = side_memory(side, 64);
    double squares = 0.0;
    bool is_finite = false;
    const struct backend *ops = side->ops;
    struct exec *exec = &side->exec;
    assert_true(ops->norm(
        exec, &(struct norm){.groups = 1, .size = 4, .x = memory, .weight = memory, .out = memory}, NULL));
    assert_true(ops->activate(exec, &(struct activate){.rows = 1, .x = memory}, NULL));
    assert_true(
        ops->add(exec, &(struct add){.rows = 0, .size = 3, .to = memory, .from = memory}, &is_finite, NULL));
    assert_true(is_finite);
    assert_true(
        ops->copy_rows(exec, &(struct copy_rows){.rows = 2, .size = 0, .to = memory, .from = memory}, NULL));
    assert_true(
        ops->rope(exec, &(struct rope){.x = memory, .heads = 1, .head_size = 2, .rotary_size = 2}, NULL));
    assert_true(ops->route(exec, &(struct route){.rows = 0, .expert_count = 2, .active_count = 1}, NULL));
    assert_true(ops->squares(exec, 1, 0, memory, 0, &squares, NULL));
    assert_true(squares == 0.0);
    assert_true(
        ops->attention(exec, &(struct attention){.head_count = 1, .kv_head_count = 1, .head_size = 4}, NULL));
    assert_true(ops->attention_rows(
        exec, &(struct attention_rows){.head_count = 1, .kv_head_count = 1, .head_size = 4}, NULL));
    struct head_scan scan;
    assert_true(ops->scan(exec, &(struct scan){.rows = 1, .logits = memory, .scans = &scan}, NULL));
    assert_true(scan.max == -INFINITY && scan.sum == 0.0);
    side_clear(side);
}

static void jobs_of_nothing_do_nothing(void **state)
{
    (void)state;
    FOR_EACH_BACKEND(check_nothing);
}

static void a_cancelled_job_says_so(void **state)
{
    (void)state;
    for (const char *const *name = backend_names(); *name != NULL; name++) {
        OWNED(pool) pool = pool_create(2, NULL);
        struct cancel cancel = {0};
        struct error error = {0};
        struct device *device = device_open(*name, DTYPE_F32, pool, &cancel, &error);
        if (device == NULL) {
            assert_int_equal(error.code, ERROR_UNSUPPORTED);
            continue;
        }
        const struct backend *ops = device_get_backend(device);
        float *x = ops->memory_create(device, 4000 * 64 * sizeof *x, "test", NULL);
        struct softcap job = {.rows = 4000, .count = 64, .x = x, .stride = 64, .cap = 1.0f};
        cancel_request(&cancel, CANCEL_NOW);
        for (size_t i = 0; i < 2; i++) {
            struct exec exec = {.device = device, .is_shared = i == 0, .thread = i};
            error = (struct error){0};
            assert_false(ops->softcap(&exec, &job, &error));
            assert_int_equal(error.code, ERROR_CANCELLED);
        }
        ops->memory_destroy(device, x);
        device_destroy(device);
    }
}

static void check_memory(struct side *side, struct side *truth)
{
    (void)truth;
    static const size_t sizes_in_bytes[] = {1, 100, 4097, 3 << 20};
    for (size_t i = 0; i < COUNT_OF(sizes_in_bytes); i++) {
        size_t bytes = sizes_in_bytes[i];
        char *one = side_memory(side, bytes), *two = side_memory(side, bytes);
        char *host = memory_create(bytes, 1), *zeros = memory_create(bytes, 1);
        memset(host, 0x5a, bytes);
        assert_true(side->ops->memory_read(side->device, host, one, bytes, NULL));
        assert_memory_equal(host, zeros, bytes);
        memset(host, 0x5a, bytes);
        assert_true(side->ops->memory_write(side->device, one, host, bytes, NULL));
        assert_true(side->ops->memory_copy(side->device, two, one, bytes, NULL));
        assert_true(side->ops->memory_read(side->device, zeros, two, bytes, NULL));
        assert_memory_equal(host, zeros, bytes);
        struct matrix matrix = {.dtype = DTYPE_F32, .n = 1, .k = 1, .data = two};
        if (bytes >= side->ops->matrix_bytes(DTYPE_F32, 1, 1)) {
            matrix_clear(side->device, &matrix);
            assert_true(side->ops->memory_read(side->device, zeros, two, 1, NULL));
            assert_int_equal(zeros[0], 0);
        }
        free(host);
        free(zeros);
        side_clear(side);
    }
    struct error error = {0};
    assert_null(side->ops->memory_create(side->device, SIZE_MAX / 2, "everything", &error));
    assert_int_equal(error.code, ERROR_OUT_OF_MEMORY);
    assert_non_null(strstr(error.message, "everything"));
}

static void memory_is_zeroed_and_moves_both_ways(void **state)
{
    (void)state;
    FOR_EACH_BACKEND(check_memory);
}

static void check_overhead(struct side *side, struct side *truth)
{
    (void)truth;
    const char *name = device_name(side->device);
    uint64_t one = device_overhead_bytes(name, DTYPE_F32, 1, 2048, 4096),
             two = device_overhead_bytes(name, DTYPE_F32, 2, 2048, 4096);
    assert_true(one > 0 || !side->ops->is_host);
    assert_true(two >= one && device_overhead_bytes(name, DTYPE_F32, 2, 4096, 8192) >= two);
    assert_true(two < (uint64_t)1 << 31);
}

static void what_a_device_takes_is_known_before(void **state)
{
    (void)state;
    FOR_EACH_BACKEND(check_overhead);
    assert_int_equal(device_overhead_bytes("abacus", DTYPE_F32, 1, 1, 1), 0);
}

static void an_unknown_backend_is_refused_by_name(void **state)
{
    (void)state;
    struct error error = {0};
    OWNED(pool) pool = pool_create(1, NULL);
    assert_null(device_open("abacus", DTYPE_F32, pool, NULL, &error));
    assert_int_equal(error.code, ERROR_UNKNOWN_VALUE);
    assert_non_null(strstr(error.message, "abacus"));
    assert_non_null(strstr(error.message, "reference"));
    for (size_t i = 0; i < 2; i++) {
        enum dtype dtype = i == 0 ? DTYPE_F32 : DTYPE_BF16;
        OWNED(device) device = device_open(NULL, dtype, pool, NULL, &error);
        assert_non_null(device);
        assert_true(strlen(device_name(device)) > 0 && strlen(device_identity(device)) > 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norms_agree_with_reference),
        cmocka_unit_test(rope_agrees_with_reference),
        cmocka_unit_test(activations_agree_with_reference),
        cmocka_unit_test(activations_hold_at_the_ends),
        cmocka_unit_test(softcap_agrees_with_reference),
        cmocka_unit_test(add_takes_rows_and_factors_and_notices_what_is_not_finite),
        cmocka_unit_test(rows_are_copied_where_they_belong),
        cmocka_unit_test(experts_are_chosen_in_falling_order),
        cmocka_unit_test(scan_finds_logsumexp_and_the_first_maximum),
        cmocka_unit_test(distances_agree_with_reference_however_small),
        cmocka_unit_test(squares_agree_with_reference),
        cmocka_unit_test(the_finercut_toy_comes_out_as_calculated),
        cmocka_unit_test(rows_have_the_same_bits_on_any_threads),
        cmocka_unit_test(jobs_of_nothing_do_nothing),
        cmocka_unit_test(a_cancelled_job_says_so),
        cmocka_unit_test(memory_is_zeroed_and_moves_both_ways),
        cmocka_unit_test(what_a_device_takes_is_known_before),
        cmocka_unit_test(an_unknown_backend_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
