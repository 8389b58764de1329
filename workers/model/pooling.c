/* workers/model/pooling.c: one vector for a sequence. */
#include "workers/model/model_internal.h"

#include "base/check.h"
#include "base/memory.h"
#include <math.h>

bool model_mean_pool(const struct hidden *hidden, size_t sequence, bool is_normalised, float *ret_embedding,
                     struct error *error)
{
    CHECK(sequence < hidden->sequence_count);
    const struct segment *segment = &hidden->segments[sequence];
    size_t size = hidden->hidden_size;
    OWNED_MEMORY float *rows = memory_try_array(segment->count * size + 1, sizeof *rows, "states", error);
    OWNED_MEMORY double *sums = memory_create(size, sizeof *sums);
    if (rows == NULL || !hidden_read(hidden, segment->first_row, segment->count, rows, error)) {
        return false;
    }
    double squares = 0.0;
    for (size_t i = 0; i < size; i++) {
        for (size_t t = 0; t < segment->count; t++) {
            sums[i] += (double)rows[t * size + i];
        }
        sums[i] /= segment->count > 0 ? (double)segment->count : 1.0;
        squares += sums[i] * sums[i];
    }
    if (!isfinite(squares)) {
        return error_set(error, ERROR_NUMERIC, "NaN or infinity in the states of sequence %zu", sequence);
    }
    double norm = is_normalised && squares > 0.0 ? sqrt(squares) : 1.0;
    for (size_t i = 0; i < size; i++) {
        ret_embedding[i] = (float)(sums[i] / norm);
    }
    return true;
}
