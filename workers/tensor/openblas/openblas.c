/*
 * workers/tensor/openblas/openblas.c: GEMMs by OpenBLAS, everything else by our own vector kernels.
 *
 * OpenBLAS gives the same bits for the same shape, and other bits for other shapes (measured: rows change
 * with M, with their position and with a cut of N on some cores). So it only ever sees whole tiles: TILE_ROWS
 * rows with zeros or old scratch behind the last token, and it runs single-threaded inside our pool.
 * Attention follows the same rule: scores of a tile of queries against (tile + 1) tiles of keys, whatever the
 * length of the sequence.
 */
#include "workers/tensor/openblas/kernels.h"

#include <cblas.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct kernels *kernels; /* fixed by start */

static void openblas_matmul(const struct matmul *job)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, TILE_ROWS, (blasint)job->n, (blasint)job->k, 1.0f,
                job->x, (blasint)job->x_stride, job->w, (blasint)job->w_stride, 0.0f, job->out,
                (blasint)job->out_stride);
    if (job->bias == NULL) {
        return;
    }
    for (size_t r = 0; r < job->rows; r++) {
        for (size_t i = 0; i < job->n; i++) {
            job->out[r * job->out_stride + i] += job->bias[i];
        }
    }
}

/* Scores of the tile's queries become probabilities: row r sees keys up to its own position, the rest weighs
 * 0. Sums: [TILE_ROWS] */
static void mask_and_normalise(const struct attention *job, size_t keys, float factor, float *sums)
{
    for (size_t r = 0; r < TILE_ROWS; r++) {
        float *row = job->scratch + r * keys;
        size_t visible = job->tile * TILE_ROWS + r + 1;
        sums[r] = kernels->softmax(visible, row, factor);
        memset(row + visible, 0, (keys - visible) * sizeof *row);
    }
}

static void openblas_attention(const struct attention *job)
{
    size_t keys = (job->tile + 1) * TILE_ROWS, first = job->tile * TILE_ROWS, size = job->head_size;
    float factor = (float)(1.0 / sqrt((double)size));
    float sums[TILE_ROWS];
    for (size_t h = job->first_head; h < job->first_head + job->head_count; h++) {
        size_t kv = h / job->heads_per_kv * size;
        float *out = job->out + first * job->out_stride + h * size;
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, TILE_ROWS, (blasint)keys, (blasint)size, 1.0f,
                    job->q + first * job->stride + h * size, (blasint)job->stride, job->k + kv,
                    (blasint)job->stride, 0.0f, job->scratch, (blasint)keys);
        mask_and_normalise(job, keys, factor, sums);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, TILE_ROWS, (blasint)size, (blasint)keys, 1.0f,
                    job->scratch, (blasint)keys, job->v + kv, (blasint)job->stride, 0.0f, out,
                    (blasint)job->out_stride);
        for (size_t r = 0; r < TILE_ROWS; r++) {
            kernels->scale(size, out + r * job->out_stride, 1.0f / sums[r]);
        }
    }
}

/* The kernels that belong to the core OpenBLAS has chosen (or was told to be). */
static const struct kernels *choose_kernels(void)
{
    static const char *const avx512_cores[] = {"SkylakeX", "Cooperlake", "SapphireRapids"};
    static const char *const avx2_cores[] = {"Haswell", "Zen", "Excavator"};
    const char *core = openblas_get_corename();
#if defined(__x86_64__)
    for (size_t i = 0; i < sizeof avx512_cores / sizeof avx512_cores[0]; i++) {
        if (strcmp(core, avx512_cores[i]) == 0 && __builtin_cpu_supports("avx512f") &&
            __builtin_cpu_supports("avx512dq")) {
            return &kernels_avx512;
        }
    }
    bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    for (size_t i = 0; i < sizeof avx2_cores / sizeof avx2_cores[0]; i++) {
        if (strcmp(core, avx2_cores[i]) == 0 && has_avx2) {
            return &kernels_avx2;
        }
    }
#endif
    return &kernels_baseline;
}

static bool openblas_start(struct backend *self, struct error *error)
{
    (void)error;
    openblas_set_num_threads(1);
    kernels = choose_kernels();
    self->rows_matmul = kernels->rows_matmul;
    self->rmsnorm = kernels->rmsnorm;
    self->rope = kernels->rope;
    self->attention_row = kernels->attention_row;
    self->silu_mul = kernels->silu_mul;
    self->add = kernels->add;
    self->scan = kernels->scan;
    self->squares = kernels->squares;
    self->distance = kernels->distance;
    return true;
}

static const char *openblas_library(void)
{
    static char text[96]; /* "OpenBLAS 0.3.21 SkylakeX" */
    const char *config = openblas_get_config();
    const char *name_end = strchr(config, ' ');
    const char *end = name_end != NULL ? strchr(name_end + 1, ' ') : NULL;
    int length = end != NULL ? (int)(end - config) : 8;
    (void)snprintf(text, sizeof text, "%.*s %s", length, config, openblas_get_corename());
    return text;
}

const struct backend backend_openblas = {
    .name = "openblas",
    .summary =
        "OpenBLAS, single-threaded on fixed tiles inside our own pool, with our own vector kernels around it.",
    .start = openblas_start,
    .library = openblas_library,
    .matmul = openblas_matmul,
    .attention = openblas_attention,
};
