/* workers/tensor/cuda/operations.c: from the jobs of backend.h to launches. Each says what it wrote; those whose rows are
 * multiplied next write them as bf16 too. */
#include "workers/tensor/cuda/cuda_internal.h"

#include "base/check.h"
#include "base/memory.h"
#include <stdlib.h>
#include <string.h>

_Static_assert((int)ACTIVATION_SILU == (int)ROW_SILU && (int)ACTIVATION_GELU == (int)ROW_GELU &&
                   (int)ACTIVATION_GELU_TANH == (int)ROW_GELU_TANH && (int)ACTIVATION_RELU == (int)ROW_RELU,
               "activations have the numbers of backend.h");

/* ---- segments ----------------------------------------------------------------------------------------------------------- */

/* Tiles of queries with the most keys first, so that the last blocks to run are short ones. */
static size_t list_tiles(const struct segment *segments, size_t count, struct attention_tile *tiles)
{
    size_t longest = 0, filled = 0;
    for (size_t s = 0; s < count; s++) {
        longest = segments[s].count > longest ? segments[s].count : longest;
    }
    for (size_t number = (longest + ATTENTION_QUERIES - 1) / ATTENTION_QUERIES; number-- > 0;) {
        for (size_t s = 0; s < count; s++) {
            if (number * ATTENTION_QUERIES < segments[s].count) {
                tiles[filled++] =
                    (struct attention_tile){.first_row = (int32_t)segments[s].first_row,
                                            .count = (int32_t)segments[s].count,
                                            .first_query = (int32_t)(number * ATTENTION_QUERIES)};
            }
        }
    }
    return filled;
}

static void list_rows(const struct segment *segments, size_t count, int32_t *rows, int32_t *positions)
{
    for (size_t s = 0, filled = 0; s < count; s++) {
        for (size_t i = 0; i < segments[s].count; i++, filled++) {
            rows[filled] = (int32_t)(segments[s].first_row + i);
            positions[filled] = (int32_t)(segments[s].position + i);
        }
    }
}

static bool fill_table(struct cuda *cuda, const struct segment *segments, size_t count, struct error *error)
{
    struct segment_table *table = &cuda->table;
    size_t tile_count = 0;
    table->row_count = 0;
    table->first_row = SIZE_MAX;
    table->end_row = 0;
    for (size_t s = 0; s < count; s++) {
        size_t end = segments[s].first_row + segments[s].count;
        CHECK(end <= INT32_MAX && segments[s].position <= INT32_MAX - segments[s].count);
        table->row_count += segments[s].count;
        tile_count += (segments[s].count + ATTENTION_QUERIES - 1) / ATTENTION_QUERIES;
        table->first_row =
            segments[s].first_row < table->first_row ? segments[s].first_row : table->first_row;
        table->end_row = end > table->end_row ? end : table->end_row;
    }
    table->tile_count = tile_count;
    OWNED_MEMORY int32_t *rows = memory_create(table->row_count + 1, sizeof *rows);
    OWNED_MEMORY int32_t *positions = memory_create(table->row_count + 1, sizeof *positions);
    OWNED_MEMORY struct attention_tile *tiles = memory_create(tile_count + 1, sizeof *tiles);
    list_rows(segments, count, rows, positions);
    CHECK(list_tiles(segments, count, tiles) == tile_count);
    const void *ignored = NULL;
    return cuda_put(cuda, &table->rows, rows, table->row_count * sizeof *rows, &ignored, error) &&
           cuda_put(cuda, &table->positions, positions, table->row_count * sizeof *positions, &ignored,
                    error) &&
           cuda_put(cuda, &table->tiles, tiles, tile_count * sizeof *tiles, &ignored, error);
}

/* Rows, positions and tiles of the segments on the device. The layers of a model ask with the same ones. */
static bool use_segments(struct cuda *cuda, const struct segment *segments, size_t count, struct error *error)
{
    struct segment_table *table = &cuda->table;
    if (table->segments != NULL && table->count == count &&
        (count == 0 || memcmp(table->segments, segments, count * sizeof *segments) == 0)) {
        return true;
    }
    free(table->segments);
    table->segments = NULL;
    if (!fill_table(cuda, segments, count, error)) {
        return false;
    }
    table->segments = memory_create(count + 1, sizeof *segments);
    table->count = count;
    if (count > 0) {
        memcpy(table->segments, segments, count * sizeof *segments);
    }
    return true;
}

/* ---- rows --------------------------------------------------------------------------------------------------------------- */

bool cuda_norm(const struct exec *exec, const struct norm *job, struct error *error)
{
    struct cuda *cuda = cuda_enter(exec, error);
    if (cuda == NULL) {
        return false;
    }
    struct kernel_norm kernel = {.is_rms = job->kind == NORM_RMS,
                                 .rows = job->rows,
                                 .groups = job->groups,
                                 .size = job->size,
                                 .x = job->x,
                                 .x_stride = job->x_stride,
                                 .weight = job->weight,
                                 .bias = job->bias,
                                 .epsilon = job->epsilon,
                                 .out = job->out,
                                 .out_stride = job->out_stride,
                                 .rounded_stride = job->size};
    cuda_wrote(cuda, job->out, job->rows, job->groups * job->size, job->out_stride);
    kernel.rounded = job->groups == 1 ? cuda_rounded_room(cuda, exec->device, job->rows, job->size) : NULL;
    bool is_fine = cuda_fine(kernel_norm(&kernel, cuda->stream), "norm", error);
    if (is_fine && kernel.rounded != NULL) {
        cuda_rounded_keep(cuda, job->out, job->out_stride, job->rows, job->size);
    }
    return cuda_leave(cuda, is_fine);
}

bool cuda_rope(const struct exec *exec, const struct rope *job, struct error *error)
{
    struct cuda *cuda = cuda_enter(exec, error);
    if (cuda == NULL) {
        return false;
    }
    bool is_fine = use_segments(cuda, job->segments, job->segment_count, error);
    if (is_fine && cuda->table.row_count > 0) {
        const struct kernel_rope kernel = {.count = cuda->table.row_count,
                                           .rows = cuda->table.rows.data,
                                           .positions = cuda->table.positions.data,
                                           .heads = job->heads,
                                           .head_size = job->head_size,
                                           .half = job->rotary_size / 2,
                                           .cosines = job->cosines,
                                           .sines = job->sines,
                                           .x = job->x,
                                           .stride = job->stride};
        cuda_wrote(cuda, job->x, cuda->table.end_row, job->heads * job->head_size, job->stride);
        is_fine = cuda_fine(kernel_rope(&kernel, cuda->stream), "rope", error);
    }
    return cuda_leave(cuda, is_fine);
}

static bool attend(struct cuda *cuda, const struct device *device, const struct attention *job,
                   struct error *error)
{
    const struct segment_table *table = &cuda->table;
    size_t width = job->head_count * job->head_size;
    bool is_bf16 = cuda_host->device_dtype(device) == DTYPE_BF16;
    struct kernel_attention kernel = {.tile_count = table->tile_count,
                                      .tiles = table->tiles.data,
                                      .head_count = job->head_count,
                                      .kv_head_count = job->kv_head_count,
                                      .head_size = job->head_size,
                                      .window = job->window,
                                      .is_causal = job->is_causal,
                                      .scale = job->scale,
                                      .softcap = job->softcap,
                                      .q = job->q,
                                      .k = job->k,
                                      .v = job->v,
                                      .q_stride = job->q_stride,
                                      .kv_stride = job->kv_stride,
                                      .out = job->out,
                                      .out_stride = job->out_stride,
                                      .rounded_stride = width,
                                      .first_row = table->first_row,
                                      .row_count = table->end_row - table->first_row};
    cuda_wrote(cuda, job->out, table->end_row, width, job->out_stride);
    /* Only where every row from the first on is written, and pairs of a head stay together. */
    if (table->first_row == 0 && table->row_count == table->end_row && job->head_size % 2 == 0) {
        kernel.rounded = cuda_rounded_room(cuda, device, table->end_row, width);
    }
    if (is_bf16) {
        size_t elements =
            2 * job->kv_head_count * kernel.row_count * kernel_attention_padded_head(job->head_size);
        if (!cuda_reserve(&cuda->packed, elements * sizeof(uint16_t), "keys and values in bf16", error)) {
            return false;
        }
        kernel.packed = cuda->packed.data;
    }
    if (!cuda_fine(is_bf16 ? kernel_attention_bf16(&kernel, cuda->stream)
                           : kernel_attention(&kernel, cuda->stream),
                   "attention", error)) {
        return false;
    }
    if (kernel.rounded != NULL) {
        cuda_rounded_keep(cuda, job->out, job->out_stride, table->end_row, width);
    }
    return true;
}

static bool check_head_size(size_t head_size, struct error *error)
{
    return head_size <= ATTENTION_ROWS_HEAD_SIZE ||
           error_set(error, ERROR_UNSUPPORTED, "GPU: heads of %zu are wider than %d", head_size,
                     ATTENTION_ROWS_HEAD_SIZE);
}

/* Heads that no tile holds, row by row as in decoding. */
static bool attend_wide(struct cuda *cuda, const struct attention *job, const struct segment *segment,
                        struct error *error)
{
    OWNED_MEMORY size_t *lists =
        memory_create(2 * segment->count + 1, sizeof *lists); /* first rows, counts */
    for (size_t i = 0; i < segment->count; i++) {
        size_t first = job->window > 0 && i + 1 > job->window ? i + 1 - job->window : 0;
        lists[i] = first;
        lists[segment->count + i] = (job->is_causal ? i + 1 : segment->count) - first;
    }
    const void *on_device = NULL;
    if (segment->count == 0 ||
        !cuda_put(cuda, &cuda->inputs[0], lists, 2 * segment->count * sizeof *lists, &on_device, error)) {
        return segment->count == 0;
    }
    size_t first = segment->first_row;
    const struct kernel_attention_rows kernel = {.rows = segment->count,
                                                 .first_rows = on_device,
                                                 .counts = (const uint64_t *)on_device + segment->count,
                                                 .head_count = job->head_count,
                                                 .kv_head_count = job->kv_head_count,
                                                 .head_size = job->head_size,
                                                 .scale = job->scale,
                                                 .softcap = job->softcap,
                                                 .q = job->q + first * job->q_stride,
                                                 .q_stride = job->q_stride,
                                                 .keys = job->k + first * job->kv_stride,
                                                 .values = job->v + first * job->kv_stride,
                                                 .kv_stride = job->kv_stride,
                                                 .out = job->out + first * job->out_stride,
                                                 .out_stride = job->out_stride};
    cuda_wrote(cuda, kernel.out, segment->count, job->head_count * job->head_size, job->out_stride);
    return cuda_fine(kernel_attention_rows(&kernel, cuda->stream), "attention", error);
}

bool cuda_attention(const struct exec *exec, const struct attention *job, struct error *error)
{
    CHECK(job->kv_head_count > 0 && job->head_count % job->kv_head_count == 0);
    if (!check_head_size(job->head_size, error)) {
        return false;
    }
    for (size_t s = 0; s < job->segment_count; s++) {
        CHECK(job->segments[s].position == 0);
    }
    struct cuda *cuda = cuda_enter(exec, error);
    if (cuda == NULL) {
        return false;
    }
    if (job->head_size > ATTENTION_HEAD_SIZE) {
        bool is_fine = true;
        for (size_t s = 0; is_fine && s < job->segment_count; s++) {
            is_fine = attend_wide(cuda, job, &job->segments[s], error);
        }
        return cuda_leave(cuda, is_fine);
    }
    return cuda_leave(cuda, use_segments(cuda, job->segments, job->segment_count, error) &&
                                (cuda->table.tile_count == 0 || attend(cuda, exec->device, job, error)));
}

bool cuda_attention_rows(const struct exec *exec, const struct attention_rows *job, struct error *error)
{
    _Static_assert(sizeof(size_t) == sizeof(uint64_t), "the kernel reads 64 bits");
    CHECK(job->kv_head_count > 0 && job->head_count % job->kv_head_count == 0);
    if (!check_head_size(job->head_size, error)) {
        return false;
    }
    struct cuda *cuda = cuda_enter(exec, error);
    if (cuda == NULL || job->rows == 0) {
        return cuda != NULL && cuda_leave(cuda, true);
    }
    const void *first_rows = NULL, *counts = NULL;
    bool is_fine =
        cuda_put(cuda, &cuda->inputs[0], job->first_rows, job->rows * sizeof(size_t), &first_rows, error) &&
        cuda_put(cuda, &cuda->inputs[1], job->counts, job->rows * sizeof(size_t), &counts, error);
    const struct kernel_attention_rows kernel = {.rows = job->rows,
                                                 .first_rows = first_rows,
                                                 .counts = counts,
                                                 .head_count = job->head_count,
                                                 .kv_head_count = job->kv_head_count,
                                                 .head_size = job->head_size,
                                                 .window = job->window,
                                                 .scale = job->scale,
                                                 .softcap = job->softcap,
                                                 .q = job->q,
                                                 .q_stride = job->q_stride,
                                                 .keys = job->keys,
                                                 .values = job->values,
                                                 .kv_stride = job->kv_stride,
                                                 .out = job->out,
                                                 .out_stride = job->out_stride};
    cuda_wrote(cuda, job->out, job->rows, job->head_count * job->head_size, job->out_stride);
    return cuda_leave(cuda,
                      is_fine && cuda_fine(kernel_attention_rows(&kernel, cuda->stream), "attention", error));
}

bool cuda_activate(const struct exec *exec, const struct activate *job, struct error *error)
{
    struct cuda *cuda = cuda_enter(exec, error);
    if (cuda == NULL) {
        return false;
    }
    struct kernel_activate kernel = {.kind = (enum row_activation)job->kind,
                                     .rows = job->rows,
                                     .count = job->count,
                                     .x = job->x,
                                     .up = job->up,
                                     .stride = job->stride,
                                     .rounded_stride = job->count};
    cuda_wrote(cuda, job->x, job->rows, job->count, job->stride);
    kernel.rounded = cuda_rounded_room(cuda, exec->device, job->rows, job->count);
    bool is_fine = cuda_fine(kernel_activate(&kernel, cuda->stream), "activation", error);
    if (is_fine && kernel.rounded != NULL) {
        cuda_rounded_keep(cuda, job->x, job->stride, job->rows, job->count);
    }
    return cuda_leave(cuda, is_fine);
}

static size_t row_end(const int32_t *rows, size_t count)
{
    size_t end = rows == NULL ? count : 0;
    for (size_t i = 0; rows != NULL && i < count; i++) {
        end = (size_t)rows[i] >= end ? (size_t)rows[i] + 1 : end;
    }
    return end;
}

bool cuda_add(const struct exec *exec, const struct add *job, bool *ret_is_finite, struct error *error)
{
    struct cuda *cuda = cuda_enter(exec, error);
    if (cuda == NULL) {
        return false;
    }
    const void *to_rows = NULL, *factors = NULL;
    int32_t is_finite = 1;
    bool is_fine =
        cuda_put(cuda, &cuda->inputs[0], job->to_rows, job->rows * sizeof *job->to_rows, &to_rows, error) &&
        cuda_put(cuda, &cuda->inputs[1], job->factors, job->rows * sizeof *job->factors, &factors, error);
    const struct kernel_add kernel = {.rows = job->rows,
                                      .size = job->size,
                                      .to = job->to,
                                      .to_stride = job->to_stride,
                                      .from = job->from,
                                      .from_stride = job->from_stride,
                                      .to_rows = to_rows,
                                      .factors = factors,
                                      .is_finite = cuda->is_finite};
    cuda_wrote(cuda, job->to, row_end(job->to_rows, job->rows), job->size, job->to_stride);
    is_fine = is_fine && cuda_fine(kernel_add(&kernel, cuda->stream), "addition", error) &&
              cuda_get(cuda, &is_finite, cuda->is_finite, sizeof is_finite, "addition", error);
    if (is_fine && is_finite == 0) {
        const int32_t one = 1;
        is_fine = cuda_fine(
            cudaMemcpyAsync(cuda->is_finite, &one, sizeof one, cudaMemcpyHostToDevice, cuda->stream),
            "addition", error);
    }
    if (is_fine) {
        *ret_is_finite = is_finite != 0;
    }
    return cuda_leave(cuda, is_fine);
}

bool cuda_copy_rows(const struct exec *exec, const struct copy_rows *job, struct error *error)
{
    struct cuda *cuda = cuda_enter(exec, error);
    if (cuda == NULL) {
        return false;
    }
    const void *to_rows = NULL, *from_rows = NULL;
    size_t bytes = job->rows * sizeof(int32_t);
    cuda_wrote(cuda, job->to, row_end(job->to_rows, job->rows), job->size, job->to_stride);
    return cuda_leave(cuda,
                      cuda_put(cuda, &cuda->inputs[0], job->to_rows, bytes, &to_rows, error) &&
                          cuda_put(cuda, &cuda->inputs[1], job->from_rows, bytes, &from_rows, error) &&
                          cuda_fine(kernel_copy_rows(job->rows, job->size, job->to, job->to_stride, job->from,
                                                     job->from_stride, to_rows, from_rows, cuda->stream),
                                    "copying rows", error));
}

bool cuda_softcap(const struct exec *exec, const struct softcap *job, struct error *error)
{
    struct cuda *cuda = cuda_enter(exec, error);
    if (cuda == NULL) {
        return false;
    }
    cuda_wrote(cuda, job->x, job->rows, job->count, job->stride);
    return cuda_leave(
        cuda, cuda_fine(kernel_softcap(job->rows, job->count, job->x, job->stride, job->cap, cuda->stream),
                        "softcap", error));
}
