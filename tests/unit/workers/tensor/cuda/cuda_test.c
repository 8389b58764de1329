/*
 * tests/unit/workers/tensor/cuda/cuda_test.c: what only the backend cuda has: attention on the tensor cores, results that are
 * rounded ahead for the products that read them, uploads beside operations. Where it cannot be opened, the reason must be
 * UNSUPPORTED and name what is missing; the test then ends with 77 and prints it. All operations are tested with those of
 * the other backends one folder up.
 *
 * Tolerance of bf16 attention: q, k, v and the probabilities have 8 digits each; 1.5e-2 of the largest result.
 */
#include "tests/unit/workers/tensor/devices.h"

#include <stdio.h>

static bool open_bf16(struct side *side, const char *name, struct error *error)
{
    *side = (struct side){.pool = pool_create(2, NULL)};
    side->device = device_open(name, DTYPE_BF16, side->pool, NULL, error);
    if (side->device == NULL) {
        pool_destroy(side->pool);
        return false;
    }
    side->ops = device_get_backend(side->device);
    side->exec = (struct exec){.device = side->device, .is_shared = true};
    return true;
}

/* ---- attention --------------------------------------------------------------------------------------------------- */

struct shape {
    size_t counts[3], heads, kv_heads, size, window;
    bool is_causal;
    float softcap;
};

static const struct shape shapes[] = {
    {{1, 0, 0}, 1, 1, 64, 0, true, 0.0f},      {{64, 65, 63}, 4, 2, 128, 0, true, 0.0f},
    {{131, 7, 0}, 3, 3, 96, 0, true, 30.0f},   {{200, 1, 14}, 2, 1, 256, 0, true, 0.0f},
    {{129, 0, 0}, 4, 4, 80, 0, false, 0.0f},   {{300, 17, 0}, 2, 1, 128, 100, true, 0.0f},
    {{70, 64, 130}, 8, 2, 33, 5, true, 2.0f},  {{257, 0, 0}, 2, 2, 200, 64, true, 0.0f},
    {{190, 3, 0}, 2, 1, 64, 64, false, 50.0f}, {{30, 2, 0}, 2, 1, 300, 0, true, 0.0f},
};

/* owned; [rows, heads * size] of the segments of qkv [rows, stride] */
static float *attend(struct side *side, const struct shape *shape, const struct segment *segments,
                     size_t count, size_t rows, const float *qkv, size_t stride)
{
    size_t width = shape->heads * shape->size;
    const float *memory = side_floats(side, qkv, rows * stride);
    struct attention job = {.segments = segments,
                            .segment_count = count,
                            .head_count = shape->heads,
                            .kv_head_count = shape->kv_heads,
                            .head_size = shape->size,
                            .window = shape->window,
                            .is_causal = shape->is_causal,
                            .scale = (float)(1.0 / sqrt((double)shape->size)),
                            .softcap = shape->softcap,
                            .q = memory,
                            .k = memory + width,
                            .v = memory + width + shape->kv_heads * shape->size,
                            .q_stride = stride,
                            .kv_stride = stride,
                            .out = side_memory(side, rows * width * sizeof(float)),
                            .out_stride = width};
    assert_true(side->ops->attention(&side->exec, &job, NULL));
    float *out = side_read(side, job.out, rows * width);
    side_clear(side);
    return out;
}

static void attention_in_bf16_agrees_with_reference(void **state)
{
    (void)state;
    struct side side, truth;
    assert_true(open_bf16(&side, "cuda", NULL) && side_open(&truth, "reference", 1));
    for (size_t i = 0; i < COUNT_OF(shapes) * 2; i++) {
        const struct shape *shape = &shapes[i / 2];
        size_t width = shape->heads * shape->size, stride = width + 2 * shape->kv_heads * shape->size + i % 2,
               rows = 0;
        struct segment segments[3];
        for (size_t s = 0; s < 3; s++) {
            segments[s] = (struct segment){.first_row = rows, .count = shape->counts[s]};
            rows += shape->counts[s];
        }
        float *qkv = noise(rows * stride, (uint32_t)i + 1, 2.0f);
        float *should = attend(&truth, shape, segments, 3, rows, qkv, stride);
        float *is = attend(&side, shape, segments, 3, rows, qkv, stride);
        assert_close("bf16 attention", "cuda", is, should, rows * width, 1.5e-2);
        for (size_t s = 0; s < 3; s++) { /* the same bits alone */
            struct segment alone = {.count = segments[s].count};
            float *part =
                attend(&side, shape, &alone, 1, alone.count, qkv + segments[s].first_row * stride, stride);
            assert_memory_equal(part, is + segments[s].first_row * width, alone.count * width * sizeof *part);
            free(part);
        }
        free(should);
        free(is);
        free(qkv);
    }
    side_close(&side);
    side_close(&truth);
}

/* ---- rows rounded ahead ------------------------------------------------------------------------------------------ */

enum { ROWS = 70, WIDTH = 136, OUTPUTS = 96 };

/* owned; what a device of its own makes of x, where nothing was rounded ahead */
static float *multiply_fresh(const float *x, const float *w)
{
    struct side side;
    assert_true(open_bf16(&side, "cuda", NULL));
    struct matrix matrix = side_matrix(&side, DTYPE_BF16, OUTPUTS, WIDTH, w);
    const struct segment segment = {.count = ROWS};
    struct matmul job = {.rows = ROWS,
                         .x = side_floats(&side, x, ROWS * WIDTH),
                         .x_stride = WIDTH,
                         .w = &matrix,
                         .out = side_memory(&side, ROWS * OUTPUTS * sizeof(float)),
                         .out_stride = OUTPUTS,
                         .segments = &segment,
                         .segment_count = 1};
    assert_true(side.ops->matmul(&side.exec, &job, NULL));
    float *out = side_read(&side, job.out, ROWS * OUTPUTS);
    side_close(&side);
    return out;
}

static void check_product(struct side *side, const struct matrix *matrix, const float *x, const float *w,
                          float *out)
{
    const struct segment segment = {.count = ROWS};
    struct matmul job = {.rows = ROWS,
                         .x = x,
                         .x_stride = WIDTH,
                         .w = matrix,
                         .out = out,
                         .out_stride = OUTPUTS,
                         .segments = &segment,
                         .segment_count = 1};
    assert_true(side->ops->matmul(&side->exec, &job, NULL));
    float *is = side_read(side, out, ROWS * OUTPUTS), *rows = side_read(side, x, ROWS * WIDTH);
    float *should = multiply_fresh(rows, w);
    assert_memory_equal(is, should, ROWS * OUTPUTS * sizeof *is);
    free(is);
    free(should);
    free(rows);
}

static void products_read_what_was_written_last(void **state)
{
    (void)state;
    struct side side;
    assert_true(open_bf16(&side, "cuda", NULL));
    float *values = noise(ROWS * WIDTH, 1, 2.0f), *w = noise(OUTPUTS * WIDTH, 2, 1.0f);
    struct matrix matrix = side_matrix(&side, DTYPE_BF16, OUTPUTS, WIDTH, w);
    float *x = side_floats(&side, values, ROWS * WIDTH), *other = side_floats(&side, values, ROWS * WIDTH);
    float *out = side_memory(&side, ROWS * OUTPUTS * sizeof *out);
    const float *weight = side_floats(&side, values, WIDTH);
    struct norm norm = {.kind = NORM_RMS,
                        .rows = ROWS,
                        .groups = 1,
                        .size = WIDTH,
                        .x = x,
                        .x_stride = WIDTH,
                        .weight = weight,
                        .epsilon = 1e-5f,
                        .out = x,
                        .out_stride = WIDTH};
    assert_true(side.ops->norm(&side.exec, &norm, NULL));
    check_product(&side, &matrix, x, w, out);
    check_product(&side, &matrix, x, w, out);
    struct activate activate = {
        .kind = ACTIVATION_SILU, .rows = ROWS, .count = WIDTH, .x = x, .up = other, .stride = WIDTH};
    assert_true(side.ops->activate(&side.exec, &activate, NULL));
    check_product(&side, &matrix, x, w, out);
    bool is_finite = false;
    struct add add = {
        .rows = ROWS, .size = WIDTH, .to = x, .to_stride = WIDTH, .from = other, .from_stride = WIDTH};
    assert_true(side.ops->add(&side.exec, &add, &is_finite, NULL) && is_finite);
    check_product(&side, &matrix, x, w, out);
    struct softcap softcap = {.rows = 1, .count = 3, .x = x + 5 * WIDTH, .stride = WIDTH, .cap = 0.1f};
    assert_true(side.ops->softcap(&side.exec, &softcap, NULL));
    check_product(&side, &matrix, x, w, out);
    assert_true(side.ops->memory_write(side.device, x + 7, values, 64, NULL));
    check_product(&side, &matrix, x, w, out);
    assert_true(side.ops->memory_copy(side.device, x + 9 * WIDTH, other, WIDTH * sizeof *x, NULL));
    check_product(&side, &matrix, x, w, out);
    const int32_t to_rows[] = {ROWS - 1};
    struct copy_rows copy = {.rows = 1,
                             .size = 2,
                             .to = x,
                             .to_stride = WIDTH,
                             .from = other,
                             .from_stride = WIDTH,
                             .to_rows = to_rows};
    assert_true(side.ops->copy_rows(&side.exec, &copy, NULL));
    check_product(&side, &matrix, x, w, out);
    free(values);
    free(w);
    side_close(&side);
}

/* ---- uploads ----------------------------------------------------------------------------------------------------- */

struct upload {
    struct side *side;
    const struct matrix *matrix;
    const float *values;
};

static void upload_rows(void *context, size_t index, size_t thread)
{
    (void)thread;
    const struct upload *upload = context;
    size_t k = upload->matrix->k;
    assert_true(upload->side->ops->matrix_write(upload->side->device, upload->matrix, index * 50, 50,
                                                upload->values + index * 50 * k, k, NULL));
}

/* A matrix is written again and again from several threads while products read it: each product has its own weights. */
static void products_wait_for_the_uploads_before_them_and_no_others(void **state)
{
    (void)state;
    enum { N = 1000, K = 64, ROUNDS = 6 };
    struct side side;
    assert_true(open_bf16(&side, "cuda", NULL));
    float *ones = memory_create(8 * K, sizeof *ones), *values = memory_create(N * K, sizeof *values);
    struct matrix matrix = side_matrix(&side, DTYPE_BF16, N, K, values);
    float *outs[ROUNDS];
    for (size_t i = 0; i < 8 * K; i++) {
        ones[i] = 1.0f;
    }
    const float *x = side_floats(&side, ones, 8 * K);
    for (size_t round = 0; round < ROUNDS; round++) {
        for (size_t i = 0; i < N * K; i++) {
            values[i] = (float)(round + 1);
        }
        struct upload upload = {&side, &matrix, values};
        assert_true(pool_run(side.pool, N / 50, upload_rows, &upload, NULL, NULL));
        outs[round] = side_memory(&side, 8 * N * sizeof(float));
        struct matmul job = {
            .rows = 8, .x = x, .x_stride = K, .w = &matrix, .out = outs[round], .out_stride = N};
        assert_true(side.ops->matmul(&side.exec, &job, NULL));
    }
    for (size_t round = 0; round < ROUNDS; round++) {
        float *out = side_read(&side, outs[round], 8 * N);
        for (size_t i = 0; i < 8 * N; i++) {
            assert_true(out[i] == (float)((round + 1) * K));
        }
        free(out);
    }
    free(ones);
    free(values);
    side_close(&side);
}

int main(void)
{
    struct side side;
    struct error error = {0};
    if (!open_bf16(&side, "cuda", &error)) {
        (void)printf("skipped: %s\n", error.message);
        /* Both what was wanted and what is missing are named. */
        return error.code == ERROR_UNSUPPORTED && strstr(error.message, "cuda") != NULL &&
                       strlen(error.message) > 30
                   ? 77
                   : 1;
    }
    (void)printf("%s\n", device_identity(side.device));
    side_close(&side);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_in_bf16_agrees_with_reference),
        cmocka_unit_test(products_read_what_was_written_last),
        cmocka_unit_test(products_wait_for_the_uploads_before_them_and_no_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
