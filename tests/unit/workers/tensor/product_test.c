/*
 * tests/unit/workers/tensor/product_test.c: matmul and the fused head of every backend against `reference`, on awkward shapes (0, 1,
 * primes, around vector widths, panels, tiles and blocks of k); and the promise that a row's bits are its own.
 *
 * Tolerances, relative to the largest result: a sum of k fp32 products errs by a few units in the last place times
 * sqrt(k); with bf16 operands the products are exact and the sums the same, so the same bound holds against a reference
 * that rounds its operands too.
 */
#include "tests/unit/workers/tensor/devices.h"
#include "workers/tensor/cpu.h"

#define TOLERANCE(k) (2e-6 * sqrt((double)(k) + 8.0))

static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16};

struct shape {
    size_t rows, n, k;
    bool has_bias;
    size_t segments; /* 0: rows are alone */
};

struct problem {
    struct shape shape;
    size_t x_stride, out_stride;
    float *x, *w, *bias; /* owned */
    struct segment *segments;
};

static struct problem make_problem(struct shape shape)
{
    struct problem problem = {.shape = shape, .x_stride = shape.k + 3, .out_stride = shape.n + 5};
    problem.x = noise(shape.rows * problem.x_stride, 1, 1.0f);
    problem.w = noise(shape.n * shape.k, 2, 1.0f);
    problem.bias = shape.has_bias ? noise(shape.n, 3, 1.0f) : NULL;
    problem.segments = memory_create(shape.segments + 1, sizeof *problem.segments);
    for (size_t s = 0, row = 0; s < shape.segments; s++) {
        size_t even = shape.rows / shape.segments;
        even -= s % 2 == 1 && even > 1 ? 1 : 0;
        size_t count = s + 1 < shape.segments ? even : shape.rows - row;
        problem.segments[s] = (struct segment){.first_row = row, .count = count};
        row += count;
    }
    return problem;
}

static void free_problem(struct problem *problem)
{
    free(problem->x);
    free(problem->w);
    free(problem->bias);
    free(problem->segments);
}

/* owned; [rows, n], and nothing between the rows has changed */
static float *multiply(struct side *side, const struct problem *problem, enum dtype dtype)
{
    const struct shape *shape = &problem->shape;
    size_t out_count = shape->rows * problem->out_stride;
    float *before = noise(out_count, 9, 1.0f);
    struct matrix w = side_matrix(side, dtype, shape->n, shape->k, problem->w);
    struct matmul job = {.rows = shape->rows,
                         .x = side_floats(side, problem->x, shape->rows * problem->x_stride),
                         .x_stride = problem->x_stride,
                         .w = &w,
                         .bias = side_floats(side, problem->bias, shape->n),
                         .out = side_floats(side, before, out_count),
                         .out_stride = problem->out_stride,
                         .segments = shape->segments > 0 ? problem->segments : NULL,
                         .segment_count = shape->segments};
    assert_true(side->ops->matmul(&side->exec, &job, NULL));
    float *all = side_read(side, job.out, out_count);
    float *out = memory_create(shape->rows * shape->n + 1, sizeof *out);
    for (size_t r = 0; r < shape->rows; r++) {
        memcpy(out + r * shape->n, all + r * problem->out_stride, shape->n * sizeof *out);
        assert_memory_equal(all + r * problem->out_stride + shape->n,
                            before + r * problem->out_stride + shape->n,
                            (problem->out_stride - shape->n) * sizeof *out);
    }
    free(all);
    free(before);
    side_clear(side);
    return out;
}

static const struct shape shapes[] = {
    {0, 5, 7, false, 0},      {1, 1, 1, false, 0},      {1, 1, 1, true, 1},       {2, 3, 2, true, 0},
    {3, 33, 31, false, 1},    {5, 64, 64, true, 2},     {6, 31, 513, false, 0},   {7, 32, 17, true, 7},
    {13, 100, 97, false, 3},  {14, 65, 512, true, 1},   {15, 16, 1030, true, 2},  {16, 48, 288, false, 0},
    {17, 509, 172, true, 4},  {29, 130, 3, false, 2},   {43, 7, 1537, true, 0},   {63, 96, 48, false, 1},
    {97, 257, 109, true, 5},  {131, 40, 640, false, 2}, {253, 70, 64, true, 1},   {300, 33, 130, false, 3},
    {509, 129, 66, false, 4}, {2, 1100, 40, true, 0},   {260, 1030, 24, true, 2}, {4, 9, 0, true, 0},
};

static void matmul_agrees_with_reference(void **state)
{
    (void)state;
    struct side truth;
    assert_true(side_open(&truth, "reference", 1));
    for (const char *const *name = backend_names(); *name != NULL; name++) {
        struct side side;
        if (!side_open(&side, *name, 2)) {
            continue;
        }
        for (size_t i = 0; i < COUNT_OF(shapes) * COUNT_OF(dtypes); i++) {
            enum dtype dtype = dtypes[i % 2];
            struct problem problem = make_problem(shapes[i / 2]);
            float *should = multiply(&truth, &problem, dtype), *is = multiply(&side, &problem, dtype);
            assert_close(dtype_slug(dtype), *name, is, should, problem.shape.rows * problem.shape.n,
                         TOLERANCE(problem.shape.k));
            free(should);
            free(is);
            free_problem(&problem);
        }
        side_close(&side);
    }
    side_close(&truth);
}

static void matmul_has_the_same_bits_on_any_threads(void **state)
{
    (void)state;
    for (const char *const *name = backend_names(); *name != NULL; name++) {
        for (size_t i = 0; i < COUNT_OF(shapes) * COUNT_OF(dtypes); i++) {
            struct problem problem = make_problem(shapes[i / 2]);
            size_t bytes = problem.shape.rows * problem.shape.n * sizeof(float);
            float *first = NULL;
            for (size_t threads = 1; threads <= 4; threads++) {
                struct side side;
                if (!side_open(&side, *name, threads < 4 ? threads : 2)) {
                    continue;
                }
                side.exec.is_shared = threads < 4;
                side.exec.thread = threads < 4 ? 0 : 1;
                float *out = multiply(&side, &problem, dtypes[i % 2]);
                if (first == NULL) {
                    first = memory_create(bytes + 1, 1);
                    memcpy(first, out, bytes);
                }
                assert_memory_equal(out, first, bytes);
                free(out);
                side_close(&side);
            }
            free(first);
            free_problem(&problem);
        }
    }
}

/* Each segment on its own, or each row where rows are alone, gives what the whole job gave. */
static void a_row_does_not_depend_on_the_rest_of_the_job(void **state)
{
    (void)state;
    for (const char *const *name = backend_names(); *name != NULL; name++) {
        struct side side;
        if (!side_open(&side, *name, 2)) {
            continue;
        }
        for (size_t i = 0; i < COUNT_OF(shapes) * COUNT_OF(dtypes); i++) {
            struct problem problem = make_problem(shapes[i / 2]);
            size_t n = problem.shape.n;
            float *whole = multiply(&side, &problem, dtypes[i % 2]);
            size_t parts = problem.shape.segments > 0 ? problem.shape.segments : problem.shape.rows;
            for (size_t p = 0; p < parts; p++) {
                struct segment segment = {.first_row = p, .count = 1};
                segment = problem.shape.segments > 0 ? problem.segments[p] : segment;
                struct problem part = problem;
                struct segment alone = {.count = segment.count};
                part.segments = &alone;
                part.shape.segments = problem.shape.segments > 0;
                part.shape.rows = segment.count;
                part.x += segment.first_row * problem.x_stride;
                float *out = multiply(&side, &part, dtypes[i % 2]);
                assert_memory_equal(out, whole + segment.first_row * n, segment.count * n * sizeof *out);
                free(out);
            }
            free(whole);
            free_problem(&problem);
        }
        side_close(&side);
    }
}

/* A sequence cut short gives the bits of its beginning. */
static void a_prefix_of_a_segment_has_the_same_bits(void **state)
{
    (void)state;
    static const size_t prefixes[] = {1, 2, 13, 64, 127, 129, 250, 385};
    for (const char *const *name = backend_names(); *name != NULL; name++) {
        struct side side;
        if (!side_open(&side, *name, 2)) {
            continue;
        }
        for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
            struct problem problem = make_problem((struct shape){400, 67, 90, true, 1});
            float *whole = multiply(&side, &problem, dtypes[d]);
            for (size_t p = 0; p < COUNT_OF(prefixes); p++) {
                problem.shape.rows = problem.segments[0].count = prefixes[p];
                float *out = multiply(&side, &problem, dtypes[d]);
                assert_memory_equal(out, whole, prefixes[p] * problem.shape.n * sizeof *out);
                free(out);
            }
            free(whole);
            free_problem(&problem);
        }
        side_close(&side);
    }
}

/* gemm.c promises it: fp32 by fused multiply-adds in one order, bf16 as VDPBF16PS is defined, with and without that instruction. */
static void instruction_sets_that_fuse_give_the_same_bits(void **state)
{
    (void)state;
    static const char *const isas[] = {"avx2", "avx512", "avx512_bf16"};
    const char *before = getenv("PRUNED_ISA");
    char *kept = memory_copy_text(before);
    for (size_t i = 0; i < COUNT_OF(shapes) * COUNT_OF(dtypes); i++) {
        struct problem problem = make_problem(shapes[i / 2]);
        size_t bytes = problem.shape.rows * problem.shape.n * sizeof(float);
        for (size_t v = 0; v < problem.shape.rows * problem.x_stride; v += 3) {
            problem.x[v] *= v % 2 == 0 ? 1e-38f : 1e-20f; /* denormals, and products that are */
        }
        float *first = NULL;
        for (size_t s = 0; s < COUNT_OF(isas); s++) {
            struct side side;
            assert_int_equal(setenv("PRUNED_ISA", isas[s], 1), 0);
            if (!side_open(&side, "native", 2)) {
                continue;
            }
            float *out = multiply(&side, &problem, dtypes[i % 2]);
            if (first == NULL) {
                first = memory_create(bytes + 1, 1);
                memcpy(first, out, bytes);
            }
            assert_memory_equal(out, first, bytes);
            free(out);
            side_close(&side);
        }
        free(first);
        free_problem(&problem);
    }
    assert_int_equal(kept != NULL ? setenv("PRUNED_ISA", kept, 1) : unsetenv("PRUNED_ISA"), 0);
    free(kept);
}

static void rows_are_rounded_to_bf16_as_weights_are(void **state)
{
    (void)state;
    const struct kernels *kernels = native_kernels(NULL);
    if (kernels == NULL) {
        skip(); /* PRUNED_ISA names a set that this CPU lacks */
    }
    enum { COUNT = 4099 };
    static const float ends[] = {0.0f,   -0.0f,   INFINITY,    -INFINITY,  3.4028235e38f,
                                 1e-45f, -1e-40f, 1.00390625f, 1.01171875f};
    float *x = noise(COUNT, 1, 1e3f);
    memcpy(x, ends, sizeof ends);
    uint16_t *is = memory_create(COUNT, sizeof *is), *should = memory_create(COUNT, sizeof *should);
    kernels->to_bf16(COUNT, x, is);
    dtype_from_f32(DTYPE_BF16, x, COUNT, should);
    assert_memory_equal(is, should, COUNT * sizeof *is);
    float nan = NAN, back = 0.0f;
    kernels->to_bf16(1, &nan, is);
    dtype_to_f32(DTYPE_BF16, is, 1, &back);
    assert_true(isnan(back));
    free(x);
    free(is);
    free(should);
}

/* ---- head -------------------------------------------------------------------------------------------------------- */

struct heads {
    struct head_scan *scans; /* owned */
    float *targets;          /* owned */
};

static struct heads scan_head(struct side *side, const struct problem *problem, enum dtype dtype,
                              float softcap, const int32_t *targets)
{
    const struct shape *shape = &problem->shape;
    struct heads heads = {.scans = memory_create(shape->rows + 1, sizeof *heads.scans),
                          .targets = memory_create(shape->rows + 1, sizeof *heads.targets)};
    struct matrix w = side_matrix(side, dtype, shape->n, shape->k, problem->w);
    struct head job = {.rows = shape->rows,
                       .x = side_floats(side, problem->x, shape->rows * problem->x_stride),
                       .x_stride = problem->x_stride,
                       .w = &w,
                       .softcap = softcap,
                       .segments = shape->segments > 0 ? problem->segments : NULL,
                       .segment_count = shape->segments,
                       .targets = targets,
                       .scans = heads.scans,
                       .target_logits = targets != NULL ? heads.targets : NULL};
    assert_true(side->ops->head(&side->exec, &job, NULL));
    side_clear(side);
    return heads;
}

static int32_t *make_targets(size_t rows, size_t n)
{
    int32_t *targets = memory_create(rows + 1, sizeof *targets);
    struct rng rng = {.seed = 3, .stream = 4};
    for (size_t r = 0; r < rows; r++) {
        targets[r] = r % 5 == 2 ? -1 : (int32_t)rng_below(&rng, r, n);
    }
    return targets;
}

static const struct shape head_shapes[] = {
    {1, 3, 7, false, 0},     {5, 700, 48, false, 1},    {70, 1537, 33, false, 3},
    {13, 513, 64, false, 0}, {300, 1030, 20, false, 2}, {600, 40, 9, false, 2},
};

static void head_agrees_with_reference(void **state)
{
    (void)state;
    struct side truth;
    assert_true(side_open(&truth, "reference", 1));
    for (const char *const *name = backend_names(); *name != NULL; name++) {
        struct side side;
        if (!side_open(&side, *name, 2)) {
            continue;
        }
        for (size_t i = 0; i < COUNT_OF(head_shapes) * 4; i++) {
            enum dtype dtype = dtypes[i % 2];
            struct problem problem = make_problem(head_shapes[i / 4]);
            size_t rows = problem.shape.rows;
            float softcap = i % 3 == 0 ? 5.0f : 0.0f;
            int32_t *targets = i / 2 % 2 == 0 ? make_targets(rows, problem.shape.n) : NULL;
            struct heads should = scan_head(&truth, &problem, dtype, softcap, targets);
            struct heads is = scan_head(&side, &problem, dtype, softcap, targets);
            for (size_t r = 0; r < rows; r++) {
                if (targets != NULL && targets[r] < 0) {
                    continue;
                }
                double scale = sqrt((double)problem.shape.k) + 1.0;
                assert_true(fabs((double)is.scans[r].max - (double)should.scans[r].max) < 1e-6 * scale);
                assert_true(fabs(head_scan_logsumexp(&is.scans[r]) - head_scan_logsumexp(&should.scans[r])) <
                            1e-6 * scale);
                assert_int_equal(is.scans[r].index, should.scans[r].index);
                if (targets != NULL) {
                    assert_true(fabs((double)is.targets[r] - (double)should.targets[r]) < 3e-6 * scale);
                }
            }
            free(targets);
            free(should.scans);
            free(should.targets);
            free(is.scans);
            free(is.targets);
            free_problem(&problem);
        }
        side_close(&side);
    }
    side_close(&truth);
}

static void head_has_the_same_bits_however_it_is_cut(void **state)
{
    (void)state;
    for (const char *const *name = backend_names(); *name != NULL; name++) {
        for (size_t i = 0; i < COUNT_OF(head_shapes) * COUNT_OF(dtypes); i++) {
            struct problem problem = make_problem(head_shapes[i / 2]);
            size_t rows = problem.shape.rows;
            int32_t *targets = make_targets(rows, problem.shape.n);
            struct heads first = {0};
            for (size_t variant = 0; variant < 5; variant++) {
                struct side side;
                if (!side_open(&side, *name, 1 + variant % 3)) {
                    continue;
                }
                side.exec.is_shared = variant != 3;
                /* Last: all rows, no targets; what was wanted before must come out the same. */
                struct heads out =
                    scan_head(&side, &problem, dtypes[i % 2], 0.0f, variant < 4 ? targets : NULL);
                first = variant == 0 ? out : first;
                for (size_t r = 0; r < rows; r++) {
                    if (targets[r] >= 0) {
                        assert_memory_equal(&out.scans[r], &first.scans[r], sizeof *out.scans);
                        assert_true(variant == 4 || out.targets[r] == first.targets[r]);
                    }
                }
                if (variant > 0) {
                    free(out.scans);
                    free(out.targets);
                }
                side_close(&side);
            }
            free(first.scans);
            free(first.targets);
            free(targets);
            free_problem(&problem);
        }
    }
}

static void ties_go_to_the_first_column(void **state)
{
    (void)state;
    for (const char *const *name = backend_names(); *name != NULL; name++) {
        struct side side;
        if (!side_open(&side, *name, 2)) {
            continue;
        }
        struct problem problem = make_problem((struct shape){3, 1200, 4, false, 1});
        for (size_t i = 0; i < 1200 * 4; i++) {
            problem.w[i] = i / 4 == 77 || i / 4 == 78 || i / 4 == 600 || i / 4 == 1199 ? 2.0f : 0.5f;
        }
        for (size_t i = 0; i < 3 * problem.x_stride; i++) {
            problem.x[i] = 1.0f;
        }
        struct heads heads = scan_head(&side, &problem, DTYPE_F32, 0.0f, NULL);
        for (size_t r = 0; r < 3; r++) {
            assert_int_equal(heads.scans[r].index, 77);
            assert_true(heads.scans[r].max == 8.0f);
        }
        free(heads.scans);
        free(heads.targets);
        free_problem(&problem);
        side_close(&side);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matmul_agrees_with_reference),
        cmocka_unit_test(matmul_has_the_same_bits_on_any_threads),
        cmocka_unit_test(a_row_does_not_depend_on_the_rest_of_the_job),
        cmocka_unit_test(a_prefix_of_a_segment_has_the_same_bits),
        cmocka_unit_test(instruction_sets_that_fuse_give_the_same_bits),
        cmocka_unit_test(rows_are_rounded_to_bf16_as_weights_are),
        cmocka_unit_test(head_agrees_with_reference),
        cmocka_unit_test(head_has_the_same_bits_however_it_is_cut),
        cmocka_unit_test(ties_go_to_the_first_column),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
