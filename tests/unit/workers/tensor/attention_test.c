/*
 * tests/unit/workers/tensor/attention_test.c: attention of whole sequences and of single rows, every backend against
 * `reference`, with windows, soft caps, shared heads and several sequences; and the promise that a sequence's bits are its own.
 * Tolerance: 3e-6 of the largest value (2e-2 where products may round their operands to bf16), 2e-4 with scores of several hundreds, whose last places are that far apart.
 */
#include "tests/unit/workers/tensor/devices.h"

struct shape {
    size_t counts[3]; /* of the segments */
    size_t heads, kv_heads, size, window;
    bool is_causal;
    float softcap;
};

static const struct shape shapes[] = {
    {{1, 0, 0}, 1, 1, 2, 0, true, 0.0f},        {{5, 3, 0}, 4, 2, 8, 0, true, 0.0f},
    {{64, 1, 65}, 8, 4, 8, 0, true, 0.0f},      {{131, 0, 0}, 6, 6, 48, 0, true, 30.0f},
    {{200, 127, 14}, 3, 1, 64, 0, true, 0.0f},  {{129, 0, 0}, 4, 4, 20, 0, false, 0.0f},
    {{300, 17, 0}, 2, 1, 33, 5, true, 0.0f},    {{400, 0, 0}, 2, 2, 128, 130, true, 2.0f},
    {{270, 257, 0}, 2, 1, 16, 256, true, 0.0f}, {{128, 256, 129}, 1, 1, 1, 1, true, 0.0f},
    {{30, 0, 0}, 2, 1, 300, 0, true, 0.0f},     {{260, 7, 0}, 3, 3, 80, 0, false, 4.0f},
};

struct problem {
    struct shape shape;
    enum dtype dtype;
    size_t rows, stride;
    float *qkv; /* owned; q, k and v of a row side by side */
    struct segment segments[3];
    size_t segment_count;
};

static struct problem make_problem(const struct shape *shape)
{
    struct problem problem = {.shape = *shape};
    for (size_t s = 0; s < 3; s++) {
        problem.segments[s] = (struct segment){.first_row = problem.rows, .count = shape->counts[s]};
        problem.rows += shape->counts[s];
        problem.segment_count += shape->counts[s] > 0 || s == 1;
    }
    problem.stride = (shape->heads + 2 * shape->kv_heads) * shape->size + 1;
    problem.qkv = noise(problem.rows * problem.stride, 1, 2.0f);
    return problem;
}

/* owned; [rows, heads * size] */
static float *attend(struct side *side, const struct problem *problem)
{
    const struct shape *shape = &problem->shape;
    size_t width = shape->heads * shape->size;
    const float *qkv = side_floats(side, problem->qkv, problem->rows * problem->stride);
    struct attention job = {.dtype = problem->dtype,
                            .segments = problem->segments,
                            .segment_count = problem->segment_count,
                            .head_count = shape->heads,
                            .kv_head_count = shape->kv_heads,
                            .head_size = shape->size,
                            .window = shape->window,
                            .is_causal = shape->is_causal,
                            .scale = (float)(1.0 / sqrt((double)shape->size)),
                            .softcap = shape->softcap,
                            .q = qkv,
                            .k = qkv + width,
                            .v = qkv + width + shape->kv_heads * shape->size,
                            .q_stride = problem->stride,
                            .kv_stride = problem->stride,
                            .out = side_memory(side, (problem->rows * (width + 2)) * sizeof(float)),
                            .out_stride = width + 2};
    assert_true(side->ops->attention(&side->exec, &job, NULL));
    float *all = side_read(side, job.out, problem->rows * (width + 2));
    float *out = memory_create(problem->rows * width + 1, sizeof *out);
    for (size_t r = 0; r < problem->rows; r++) {
        memcpy(out + r * width, all + r * (width + 2), width * sizeof *out);
    }
    free(all);
    side_clear(side);
    return out;
}

static void attention_agrees_with_reference(void **state)
{
    (void)state;
    struct side truth;
    assert_true(side_open(&truth, "reference", 1));
    for (const char *const *name = backend_names(); *name != NULL; name++) {
        struct side side;
        if (!side_open(&side, *name, 2)) {
            continue;
        }
        for (size_t i = 0; i < COUNT_OF(shapes); i++) {
            struct problem problem = make_problem(&shapes[i]);
            float *should = attend(&truth, &problem), *is = attend(&side, &problem);
            assert_close("attention", *name, is, should, problem.rows * shapes[i].heads * shapes[i].size,
                         3e-6);
            free(is);
            problem.dtype = DTYPE_BF16;
            is = attend(&side, &problem);
            assert_close("bf16 attention", *name, is, should, problem.rows * shapes[i].heads * shapes[i].size,
                         2e-2);
            problem.dtype = DTYPE_F32;
            free(should);
            free(is);
            for (size_t r = 0; r < problem.rows * problem.stride; r++) {
                problem.qkv[r] *= 8.0f; /* scores of several hundreds: nearly all weight on one key */
            }
            should = attend(&truth, &problem);
            is = attend(&side, &problem);
            assert_close("peaked attention", *name, is, should,
                         problem.rows * shapes[i].heads * shapes[i].size, 2e-4);
            free(should);
            free(is);
            free(problem.qkv);
        }
        side_close(&side);
    }
    side_close(&truth);
}

static void a_sequence_has_the_same_bits_in_any_company(void **state)
{
    (void)state;
    for (const char *const *name = backend_names(); *name != NULL; name++) {
        for (size_t i = 0; i < COUNT_OF(shapes) * 2; i++) {
            struct problem problem = make_problem(&shapes[i / 2]);
            problem.dtype = i % 2 == 0 ? DTYPE_F32 : DTYPE_BF16;
            size_t width = shapes[i / 2].heads * shapes[i / 2].size;
            float *first = NULL;
            for (size_t threads = 1; threads <= 4; threads++) {
                struct side side;
                if (!side_open(&side, *name, threads < 4 ? threads : 2)) {
                    continue;
                }
                side.exec.is_shared = threads < 4;
                side.exec.thread = threads < 4 ? 0 : 1;
                float *out = attend(&side, &problem);
                if (first == NULL) {
                    first = memory_create(problem.rows * width + 1, sizeof *first);
                    memcpy(first, out, problem.rows * width * sizeof *first);
                }
                assert_memory_equal(first, out, problem.rows * width * sizeof *first);
                free(out);
                for (size_t s = 0; s < problem.segment_count && threads == 2; s++) {
                    struct problem alone = problem;
                    alone.qkv += problem.segments[s].first_row * problem.stride;
                    alone.segment_count = 1;
                    alone.rows = problem.segments[s].count;
                    alone.segments[0] = (struct segment){.count = alone.rows};
                    out = attend(&side, &alone);
                    assert_memory_equal(first + problem.segments[s].first_row * width, out,
                                        alone.rows * width * sizeof *first);
                    free(out);
                }
                side_close(&side);
            }
            free(first);
            free(problem.qkv);
        }
    }
}

static void attention_of_a_prefix_has_the_same_bits(void **state)
{
    (void)state;
    static const size_t prefixes[] = {1, 13, 63, 126, 127, 128, 129, 255, 299};
    for (const char *const *name = backend_names(); *name != NULL; name++) {
        struct side side;
        if (!side_open(&side, *name, 2)) {
            continue;
        }
        for (size_t window = 0; window < 200; window += 90) {
            struct shape shape = {{300, 0, 0}, 4, 2, 24, window, true, 0.0f};
            struct problem problem = make_problem(&shape);
            problem.dtype = window == 90 ? DTYPE_BF16 : DTYPE_F32;
            float *whole = attend(&side, &problem);
            for (size_t p = 0; p < COUNT_OF(prefixes); p++) {
                problem.rows = problem.segments[0].count = prefixes[p];
                problem.segment_count = 1;
                float *out = attend(&side, &problem);
                assert_memory_equal(out, whole, prefixes[p] * 4 * 24 * sizeof *out);
                free(out);
            }
            free(whole);
            free(problem.qkv);
        }
        side_close(&side);
    }
}

/* owned; rows of the problem's first segment, each a query of its own over the keys up to it */
static float *attend_rows(struct side *side, const struct problem *problem, size_t step)
{
    const struct shape *shape = &problem->shape;
    size_t width = shape->heads * shape->size, rows = (problem->segments[0].count + step - 1) / step;
    size_t *first_rows = memory_create(rows, sizeof *first_rows),
           *counts = memory_create(rows, sizeof *counts);
    for (size_t r = 0; r < rows; r++) {
        first_rows[r] = 0;
        counts[r] = r * step + 1;
    }
    const float *qkv = side_floats(side, problem->qkv, problem->rows * problem->stride);
    struct attention_rows job = {.rows = rows,
                                 .first_rows = first_rows,
                                 .counts = counts,
                                 .head_count = shape->heads,
                                 .kv_head_count = shape->kv_heads,
                                 .head_size = shape->size,
                                 .window = shape->window,
                                 .scale = (float)(1.0 / sqrt((double)shape->size)),
                                 .softcap = shape->softcap,
                                 .q = qkv,
                                 .q_stride = problem->stride * step,
                                 .keys = qkv + width,
                                 .values = qkv + width + shape->kv_heads * shape->size,
                                 .kv_stride = problem->stride,
                                 .out = side_memory(side, rows * width * sizeof(float)),
                                 .out_stride = width};
    assert_true(side->ops->attention_rows(&side->exec, &job, NULL));
    float *out = side_read(side, job.out, rows * width);
    free(first_rows);
    free(counts);
    side_clear(side);
    return out;
}

static void decoding_agrees_with_attention(void **state)
{
    (void)state;
    struct side truth;
    assert_true(side_open(&truth, "reference", 1));
    for (const char *const *name = backend_names(); *name != NULL; name++) {
        struct side side;
        if (!side_open(&side, *name, 2)) {
            continue;
        }
        for (size_t i = 0; i < COUNT_OF(shapes); i++) {
            if (!shapes[i].is_causal) {
                continue;
            }
            struct problem problem = make_problem(&shapes[i]);
            size_t width = shapes[i].heads * shapes[i].size, step = 7;
            float *should = attend(&truth, &problem), *is = attend_rows(&side, &problem, step);
            size_t rows = (problem.segments[0].count + step - 1) / step;
            for (size_t r = 0; r < rows; r++) {
                assert_close("attention_rows", *name, is + r * width, should + r * step * width, width, 3e-6);
            }
            side.exec.is_shared = false;
            float *alone = attend_rows(&side, &problem, step);
            side.exec.is_shared = true;
            assert_memory_equal(is, alone, rows * width * sizeof *is);
            free(alone);
            free(should);
            free(is);
            free(problem.qkv);
        }
        side_close(&side);
    }
    side_close(&truth);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_agrees_with_reference),
        cmocka_unit_test(a_sequence_has_the_same_bits_in_any_company),
        cmocka_unit_test(attention_of_a_prefix_has_the_same_bits),
        cmocka_unit_test(decoding_agrees_with_attention),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
