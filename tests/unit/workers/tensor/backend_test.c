/*
 * tests/unit/workers/tensor/backend_test.c: every operation of every backend and kernel set against `reference`, on awkward
 * shapes (0, 1, primes, around vector widths and tiles); and the promise that a row's bits are its own.
 *
 * Tolerances: a sum of k fp32 products may err by a few units in the last place times the sum of magnitudes; everything
 * else is relative to the largest value of the row.
 */
#include "base/memory.h"
#include "base/rng.h"
#include "workers/tensor/backend.h"
#include "workers/tensor/openblas/kernels.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const size_t sizes[] = {1, 2, 3, 7, 8, 15, 16, 17, 31, 48, 64, 97, 172, 288, 509};
#define SIZE_COUNT (sizeof sizes / sizeof sizes[0])

/* What is tested: openblas as it was started, and each kernel set that this CPU runs. */
static struct backend candidates[4];
static size_t candidate_count;

static void add_kernels(const struct kernels *set)
{
    struct backend *backend = &candidates[candidate_count++];
    *backend = *backend_open("openblas", NULL);
    backend->name = set->name;
    backend->rows_matmul = set->rows_matmul;
    backend->rmsnorm = set->rmsnorm;
    backend->rope = set->rope;
    backend->attention_row = set->attention_row;
    backend->silu_mul = set->silu_mul;
    backend->add = set->add;
    backend->scan = set->scan;
    backend->squares = set->squares;
    backend->distance = set->distance;
}

static int list_candidates(void **state)
{
    (void)state;
    candidates[candidate_count++] = *backend_open("openblas", NULL);
    add_kernels(&kernels_baseline);
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        add_kernels(&kernels_avx2);
    }
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
        add_kernels(&kernels_avx512);
    }
#endif
    return 0;
}

static float *noise(size_t count, uint32_t stream, float size)
{
    float *values = memory_create(count + 1, sizeof *values);
    struct rng rng = {.seed = 7, .stream = stream};
    for (size_t i = 0; i < count; i++) {
        values[i] = size * (float)(2.0 * rng_unit(&rng, i) - 1.0);
    }
    return values;
}

static void assert_close(const char *what, const float *is, const float *should, size_t count,
                         double tolerance)
{
    double largest = 1e-30;
    for (size_t i = 0; i < count; i++) {
        largest = fmax(largest, fabs((double)should[i]));
    }
    for (size_t i = 0; i < count; i++) {
        double off = fabs((double)is[i] - (double)should[i]);
        if (!(off <= tolerance * largest)) {
            fail_msg("%s: element %zu of %zu is %.9g, should be %.9g (off by %g of %g)", what, i, count,
                     (double)is[i], (double)should[i], off, largest);
        }
    }
}

static struct matmul make_matmul(size_t rows, size_t n, size_t k, bool has_bias)
{
    return (struct matmul){.rows = rows,
                           .n = n,
                           .k = k,
                           .x = noise(TILE_ROWS * k, 1, 1.0f),
                           .w = noise(n * k, 2, 1.0f),
                           .bias = has_bias ? noise(n, 3, 1.0f) : NULL,
                           .out = noise(TILE_ROWS * n, 4, 1.0f),
                           .x_stride = k,
                           .w_stride = k,
                           .out_stride = n};
}

static void free_matmul(struct matmul *job)
{
    free((void *)(uintptr_t)job->x);
    free((void *)(uintptr_t)job->w);
    free((void *)(uintptr_t)job->bias);
    free(job->out);
}

static void matmul_agrees_with_reference(void **state)
{
    (void)state;
    for (size_t c = 0; c < candidate_count; c++) {
        for (size_t a = 0; a < SIZE_COUNT; a++) {
            for (size_t b = 0; b < SIZE_COUNT; b++) {
                size_t rows = 1 + (a * 11 + b * 5) % TILE_ROWS;
                struct matmul job = make_matmul(rows, sizes[a], sizes[b], a % 2 == 1);
                float *truth = memory_create(TILE_ROWS * job.n, sizeof *truth), *is = job.out;
                job.out = truth;
                backend_reference.rows_matmul(&job);
                job.out = is;
                candidates[c].matmul(&job);
                assert_close("matmul", is, truth, rows * job.n, 2e-6 * sqrt((double)job.k + 8));
                memset(is, 0x55, rows * job.n * sizeof *is);
                candidates[c].rows_matmul(&job);
                assert_close("rows_matmul", is, truth, rows * job.n, 2e-6 * sqrt((double)job.k + 8));
                free(truth);
                free_matmul(&job);
            }
        }
    }
}

static void a_row_of_a_tile_does_not_depend_on_the_other_rows(void **state)
{
    (void)state;
    for (size_t a = 0; a < SIZE_COUNT; a++) {
        struct matmul job = make_matmul(TILE_ROWS, sizes[a], sizes[SIZE_COUNT - 1 - a], true);
        size_t kept = 5, count = kept * job.n;
        float *x = (float *)(uintptr_t)job.x, *first = memory_create(count, sizeof *first);
        candidates[0].matmul(&job);
        memcpy(first, job.out, count * sizeof *first);
        memset(x + kept * job.k, 0, (TILE_ROWS - kept) * job.k * sizeof *x);
        job.rows = kept;
        candidates[0].matmul(&job);
        assert_memory_equal(first, job.out, count * sizeof *first);
        free(first);
        free_matmul(&job);
    }
}

static void a_decoded_row_does_not_depend_on_the_batch_nor_on_the_cut(void **state)
{
    (void)state;
    for (size_t c = 0; c < candidate_count; c++) {
        for (size_t a = 0; a < SIZE_COUNT; a++) {
            struct matmul job = make_matmul(7, sizes[a], sizes[SIZE_COUNT - 1 - a], true);
            float *together = memory_create(7 * job.n, sizeof *together);
            candidates[c].rows_matmul(&job);
            memcpy(together, job.out, 7 * job.n * sizeof *together);
            for (size_t r = 0; r < 7; r++) {
                for (size_t column = 0; column < job.n; column += 3) {
                    struct matmul piece = job;
                    piece.rows = 1;
                    piece.n = job.n - column < 3 ? job.n - column : 3;
                    piece.x += r * job.k;
                    piece.w += column * job.k;
                    piece.bias += column;
                    piece.out += r * job.n + column;
                    candidates[c].rows_matmul(&piece);
                }
            }
            assert_memory_equal(together, job.out, 7 * job.n * sizeof *together);
            free(together);
            free_matmul(&job);
        }
    }
}

static void rmsnorm_and_silu_and_rope_agree_with_reference(void **state)
{
    (void)state;
    for (size_t c = 0; c < candidate_count; c++) {
        for (size_t a = 0; a < SIZE_COUNT; a++) {
            size_t n = sizes[a], rows = 3;
            float *x = noise(rows * 2 * n, 1, 3.0f), *w = noise(n, 2, 1.0f), *is = noise(rows * n, 3, 1.0f);
            float *should = memory_create(rows * 2 * n, sizeof *should),
                  *copy = memory_create(rows * 2 * n, sizeof *copy);
            backend_reference.rmsnorm(rows, n, x, 2 * n, w, 1e-5f, should, n);
            candidates[c].rmsnorm(rows, n, x, 2 * n, w, 1e-5f, is, n);
            assert_close("rmsnorm", is, should, rows * n, 1e-6);

            memcpy(should, x, rows * 2 * n * sizeof *x);
            memcpy(copy, x, rows * 2 * n * sizeof *x);
            backend_reference.silu_mul(rows, n, should, should + n, 2 * n);
            candidates[c].silu_mul(rows, n, copy, copy + n, 2 * n);
            assert_close("silu_mul", copy, should, rows * 2 * n, 1e-6);

            float *angles = noise(rows * n, 4, 1.0f), *more = noise(rows * n, 5, 1.0f);
            memcpy(should, x, rows * 2 * n * sizeof *x);
            memcpy(copy, x, rows * 2 * n * sizeof *x);
            backend_reference.rope(rows, 1, 2 * n, angles, more, should, 2 * n);
            candidates[c].rope(rows, 1, 2 * n, angles, more, copy, 2 * n);
            assert_close("rope", copy, should, rows * 2 * n, 1e-6);
            free(x);
            free(w);
            free(is);
            free(should);
            free(copy);
            free(angles);
            free(more);
        }
    }
}

static void silu_holds_at_the_ends(void **state)
{
    (void)state;
    for (size_t c = 0; c < candidate_count; c++) {
        float gate[] = {-1000.0f, -100.0f, -88.0f, 0.0f, 88.0f, 1000.0f}, up[] = {1, 1, 1, 1, 1, 1};
        candidates[c].silu_mul(1, 6, gate, up, 6);
        static const float should[] = {0, 0, 0, 0, 88.0f, 1000.0f};
        for (size_t i = 0; i < 6; i++) {
            assert_true(fabsf(gate[i] - should[i]) <= 1e-30f);
        }
    }
}

static void add_notices_what_is_not_finite(void **state)
{
    (void)state;
    for (size_t c = 0; c < candidate_count; c++) {
        for (size_t a = 0; a < SIZE_COUNT; a++) {
            size_t n = sizes[a];
            float *to = noise(n, 1, 1.0f), *from = noise(n, 2, 1.0f),
                  *should = memory_create(n, sizeof *should);
            for (size_t i = 0; i < n; i++) {
                should[i] = to[i] + from[i];
            }
            assert_true(candidates[c].add(n, to, from));
            assert_memory_equal(to, should, n * sizeof *to);
            from[n - 1] = a % 2 == 0 ? NAN : -INFINITY;
            assert_false(candidates[c].add(n, to, from));
            free(to);
            free(from);
            free(should);
        }
    }
}

/* Grouped-query attention of a sequence of `count` tokens, all tiles, by one backend. Out: [count, heads * size]. */
static float *attend(const struct backend *backend, const float *qkv, size_t count, size_t heads,
                     size_t kv_heads, size_t size)
{
    size_t tiles = (count + TILE_ROWS - 1) / TILE_ROWS, stride = (heads + 2 * kv_heads) * size;
    float *out = memory_create(tiles * TILE_ROWS * heads * size, sizeof *out);
    float *scratch = memory_create(attention_scratch(tiles), sizeof *scratch);
    for (size_t tile = 0; tile < tiles; tile++) {
        size_t left = count - tile * TILE_ROWS;
        struct attention job = {.tile = tile,
                                .rows = left < TILE_ROWS ? left : TILE_ROWS,
                                .head_count = heads,
                                .heads_per_kv = heads / kv_heads,
                                .head_size = size,
                                .q = qkv,
                                .k = qkv + heads * size,
                                .v = qkv + (heads + kv_heads) * size,
                                .stride = stride,
                                .out = out,
                                .out_stride = heads * size,
                                .scratch = scratch};
        backend->attention(&job);
    }
    free(scratch);
    return out;
}

static void attention_agrees_with_reference_and_with_decoding(void **state)
{
    (void)state;
    static const size_t shapes[][4] = {/* tokens, heads, KV heads, head size */
                                       {1, 1, 1, 2},    {5, 4, 2, 8},    {64, 8, 4, 8},  {65, 6, 6, 48},
                                       {131, 3, 1, 64}, {200, 4, 4, 20}, {70, 2, 1, 128}};
    for (size_t c = 0; c < candidate_count; c++) {
        for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
            size_t count = shapes[i][0], heads = shapes[i][1], kv_heads = shapes[i][2], size = shapes[i][3];
            size_t rows = (count + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS,
                   stride = (heads + 2 * kv_heads) * size;
            float *qkv = noise(rows * stride, 1, 2.0f);
            float *truth = attend(&backend_reference, qkv, count, heads, kv_heads, size);
            float *is = attend(&candidates[c], qkv, count, heads, kv_heads, size);
            assert_close("attention", is, truth, count * heads * size, 3e-6);
            float *row = memory_create(heads * size, sizeof *row),
                  *scratch = memory_create(count + 16, sizeof *scratch);
            for (size_t t = 0; t < count; t += 13) {
                struct attention_row job = {.count = t + 1,
                                            .head_count = heads,
                                            .heads_per_kv = heads / kv_heads,
                                            .head_size = size,
                                            .q = qkv + t * stride,
                                            .keys = qkv + heads * size,
                                            .values = qkv + (heads + kv_heads) * size,
                                            .stride = stride,
                                            .out = row,
                                            .scratch = scratch};
                candidates[c].attention_row(&job);
                assert_close("attention_row", row, truth + t * heads * size, heads * size, 3e-6);
            }
            free(qkv);
            free(truth);
            free(is);
            free(row);
            free(scratch);
        }
    }
}

static void attention_of_a_prefix_has_the_same_bits(void **state)
{
    (void)state;
    size_t heads = 4, kv_heads = 2, size = 24, stride = (heads + 2 * kv_heads) * size, width = heads * size;
    float *qkv = noise(256 * stride, 1, 2.0f);
    float *whole = attend(&candidates[0], qkv, 256, heads, kv_heads, size);
    static const size_t prefixes[] = {1, 63, 64, 65, 130};
    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
        float *part = attend(&candidates[0], qkv, prefixes[i], heads, kv_heads, size);
        assert_memory_equal(part, whole, prefixes[i] * width * sizeof *part);
        free(part);
    }
    free(qkv);
    free(whole);
}

static void scan_finds_logsumexp_and_the_first_maximum(void **state)
{
    (void)state;
    for (size_t c = 0; c < candidate_count; c++) {
        for (size_t a = 0; a < SIZE_COUNT; a++) {
            size_t n = sizes[a] * 5;
            float *x = noise(n, 1, 20.0f);
            x[n / 2] = 21.0f;
            x[n - 1] = 21.0f; /* a tie, once n is over 1 */
            struct head_scan is, should;
            head_scan_start(&is);
            head_scan_start(&should);
            backend_reference.scan(n, x, 0, &should);
            candidates[c].scan(n / 3, x, 0, &is);
            candidates[c].scan(n - n / 3, x + n / 3, n / 3, &is);
            assert_true(is.max == should.max);
            assert_int_equal(is.index, should.index);
            assert_int_equal(is.index, n / 2);
            double off = head_scan_logsumexp(&is) - head_scan_logsumexp(&should);
            assert_true(fabs(off) < 3e-7);
            free(x);
        }
    }
}

static void distances_agree_with_reference_however_small(void **state)
{
    (void)state;
    static const enum distance_kind kinds[] = {DISTANCE_SQUARES, DISTANCE_ANGULAR, DISTANCE_KL, DISTANCE_JS,
                                               DISTANCE_JS_TEXTBOOK};
    static const float steps[] = {0.0f, 1e-3f, 0.1f, 3.0f, 60.0f};
    for (size_t c = 0; c < candidate_count; c++) {
        for (size_t a = 1; a < SIZE_COUNT; a++) {
            for (size_t s = 0; s < sizeof steps / sizeof steps[0]; s++) {
                size_t n = sizes[a] * 3;
                float *x = noise(n, 1, 8.0f), *y = noise(n, 2, steps[s]);
                struct head_scan p, q;
                head_scan_start(&p);
                head_scan_start(&q);
                for (size_t i = 0; i < n; i++) {
                    y[i] += x[i];
                }
                backend_reference.scan(n, x, 0, &p);
                backend_reference.scan(n, y, 0, &q);
                for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
                    bool is_angle = kinds[k] == DISTANCE_ANGULAR;
                    struct distance_row row = {
                        .count = n,
                        .original = x,
                        .candidate = y,
                        .original_scale =
                            is_angle ? sqrt(backend_reference.squares(n, x)) : head_scan_logsumexp(&p),
                        .candidate_scale =
                            is_angle ? sqrt(backend_reference.squares(n, y)) : head_scan_logsumexp(&q)};
                    double should = backend_reference.distance(kinds[k], &row),
                           is = candidates[c].distance(kinds[k], &row);
                    double slack =
                        is_angle ? 3e-7 : 1e-13; /* fp32 rows of norm 1 cannot be closer than that */
                    if (!(fabs(is - should) <= 2e-3 * should + slack) ||
                        (steps[s] >= 0.1f && fabs(is - should) > 2e-5 * should)) {
                        fail_msg("%s, kind %d, %zu columns, step %g: %.12g should be %.12g",
                                 candidates[c].name, (int)kinds[k], n, (double)steps[s], is, should);
                    }
                }
                free(x);
                free(y);
            }
        }
    }
}

/* structured_pruning 1.8: logits (h, 0), h0 = -0.85; a sublayer that adds a_i is removed, so h = -0.85 - a_i. */
static void the_finercut_toy_comes_out_as_calculated(void **state)
{
    (void)state;
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
    for (size_t c = 0; c <= candidate_count; c++) {
        const struct backend *backend = c < candidate_count ? &candidates[c] : &backend_reference;
        double tolerance = c < candidate_count ? 2e-5 : 6e-6; /* fp32 logits; 7 printed digits */
        for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
            float z0[2] = {-0.85f, 0.0f}, z[2] = {(float)(-0.85 - rows[i].removed), 0.0f};
            struct distance_row row = {.count = 2,
                                       .original = z0,
                                       .candidate = z,
                                       .original_scale = log1p(exp((double)z0[0])),
                                       .candidate_scale = log1p(exp((double)z[0]))};
            assert_true(fabs(backend->distance(DISTANCE_JS_TEXTBOOK, &row) - rows[i].textbook) <
                        tolerance * rows[i].textbook);
            assert_true(fabs(sqrt(backend->distance(DISTANCE_SQUARES, &row)) - rows[i].norm) < 1e-6);
            if (rows[i].reference_form > 0.0) {
                assert_true(fabs(backend->distance(DISTANCE_JS, &row) - rows[i].reference_form) <
                            tolerance * rows[i].reference_form);
            }
        }
    }
}

static void an_unknown_backend_is_refused_by_name(void **state)
{
    (void)state;
    struct error error = {0};
    assert_null(backend_open("abacus", &error));
    assert_int_equal(error.code, ERROR_UNKNOWN_VALUE);
    assert_non_null(strstr(error.message, "abacus"));
    assert_string_equal(backend_open(NULL, &error)->name, backend_names()[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matmul_agrees_with_reference),
        cmocka_unit_test(a_row_of_a_tile_does_not_depend_on_the_other_rows),
        cmocka_unit_test(a_decoded_row_does_not_depend_on_the_batch_nor_on_the_cut),
        cmocka_unit_test(rmsnorm_and_silu_and_rope_agree_with_reference),
        cmocka_unit_test(silu_holds_at_the_ends),
        cmocka_unit_test(add_notices_what_is_not_finite),
        cmocka_unit_test(attention_agrees_with_reference_and_with_decoding),
        cmocka_unit_test(attention_of_a_prefix_has_the_same_bits),
        cmocka_unit_test(scan_finds_logsumexp_and_the_first_maximum),
        cmocka_unit_test(distances_agree_with_reference_however_small),
        cmocka_unit_test(the_finercut_toy_comes_out_as_calculated),
        cmocka_unit_test(an_unknown_backend_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, list_candidates, NULL);
}
