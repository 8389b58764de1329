/* workers/prune/merging.c: see merging.h. Similarities are made in blocks of removed rows, so that they never take [count, count]. */
#include "workers/prune/merging.h"

#include "base/cleanup.h"
#include "base/memory.h"
#include <stdlib.h>
#include <string.h>

enum { BLOCK_ROWS = 256 };

/* ret_targets [count]: for a row that goes, which of the kept rows it joins. */
static bool find_targets(const struct dense_threads *threads, const float *weights, size_t count,
                         size_t columns, const float *kept_rows, size_t kept_count, const bool *stays,
                         size_t *ret_targets, struct error *error)
{
    OWNED_MEMORY float *block = memory_try_array(BLOCK_ROWS * columns, sizeof *block, "rows to merge", error);
    OWNED_MEMORY float *likeness =
        memory_try_array(BLOCK_ROWS * kept_count, sizeof *likeness, "likeness of rows", error);
    size_t numbers[BLOCK_ROWS];
    if (block == NULL || likeness == NULL) {
        return false;
    }
    for (size_t next = 0; next < count;) {
        size_t filled = 0;
        for (; next < count && filled < BLOCK_ROWS; next++) {
            if (!stays[next]) {
                memcpy(block + filled * columns, weights + next * columns, columns * sizeof *block);
                numbers[filled++] = next;
            }
        }
        struct dense_product product = {.m = filled,
                                        .n = kept_count,
                                        .k = columns,
                                        .is_b_transposed = true,
                                        .alpha = 1,
                                        .a_stride = columns,
                                        .b_stride = columns,
                                        .out_stride = kept_count};
        if (filled > 0 && !dense_multiply_floats(threads, &product, block, kept_rows, likeness, error)) {
            return false;
        }
        for (size_t r = 0; r < filled; r++) {
            const float *row = likeness + r * kept_count;
            size_t best = 0;
            for (size_t k = 1; k < kept_count; k++) {
                best = row[k] > row[best] ? k : best;
            }
            ret_targets[numbers[r]] = best;
        }
    }
    return true;
}

bool merge_rows(const struct dense_threads *threads, float *weights, size_t count, size_t columns,
                const uint32_t *kept, size_t kept_count, bool is_mean, struct error *error)
{
    OWNED_MEMORY float *kept_rows =
        memory_try_array(kept_count * columns, sizeof *kept_rows, "kept rows", error);
    OWNED_MEMORY bool *stays = memory_create(count + 1, sizeof *stays);
    OWNED_MEMORY size_t *targets = memory_create(count + 1, sizeof *targets);
    OWNED_MEMORY size_t *joined = memory_create(kept_count + 1, sizeof *joined);
    if (kept_rows == NULL) {
        return false;
    }
    for (size_t k = 0; k < kept_count; k++) {
        stays[kept[k]] = true;
        memcpy(kept_rows + k * columns, weights + (size_t)kept[k] * columns, columns * sizeof *kept_rows);
    }
    if (!find_targets(threads, weights, count, columns, kept_rows, kept_count, stays, targets, error)) {
        return false;
    }
    for (size_t r = 0; r < count; r++) {
        float *row = kept_rows + targets[r] * columns;
        for (size_t c = 0; c < columns && !stays[r]; c++) {
            row[c] += weights[r * columns + c];
        }
        joined[targets[r]] += stays[r] ? 0 : 1;
    }
    for (size_t k = 0; k < kept_count; k++) {
        for (size_t c = 0; c < columns && is_mean && joined[k] > 0; c++) {
            kept_rows[k * columns + c] /= (float)(1 + joined[k]);
        }
    }
    memcpy(weights, kept_rows, kept_count * columns * sizeof *weights);
    return true;
}

bool merge_columns(const struct dense_threads *threads, float *weights, size_t rows, size_t count,
                   const uint32_t *kept, size_t kept_count, bool is_mean, struct error *error)
{
    OWNED_MEMORY float *turned = memory_try_array(rows * count, sizeof *turned, "columns to merge", error);
    if (turned == NULL) {
        return false;
    }
    for (size_t r = 0; r < rows; r++) {
        for (size_t c = 0; c < count; c++) {
            turned[c * rows + r] = weights[r * count + c];
        }
    }
    if (!merge_rows(threads, turned, count, rows, kept, kept_count, is_mean, error)) {
        return false;
    }
    for (size_t r = 0; r < rows; r++) {
        for (size_t c = 0; c < kept_count; c++) {
            weights[r * kept_count + c] = turned[c * rows + r];
        }
    }
    return true;
}
