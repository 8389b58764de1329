/* workers/model/hidden.c: the residual stream of a batch. */
#include "workers/model/model_internal.h"

#include "base/check.h"
#include "base/memory.h"

static uint64_t state_bytes(const struct hidden *hidden)
{
    return (uint64_t)hidden->row_count * hidden->hidden_size * sizeof *hidden->rows;
}

struct hidden *hidden_create(struct model *model, const struct token_batch *batch, struct error *error)
{
    OWNED(hidden) hidden = memory_create(1, sizeof *hidden);
    hidden->model = model;
    hidden->hidden_size = model->config->hidden_size;
    hidden->sequence_count = batch->sequence_count;
    hidden->segments = memory_create(batch->sequence_count + 1, sizeof *hidden->segments);
    hidden->branch_layer = SIZE_MAX;
    for (size_t s = 0; s < batch->sequence_count; s++) {
        hidden->segments[s] =
            (struct segment){.first_row = hidden->row_count, .count = batch->sequences[s].count};
        hidden->row_count += batch->sequences[s].count;
    }
    size_t bytes = (size_t)state_bytes(hidden) + 64;
    hidden->rows = model->backend->memory_create(model->device, bytes, "hidden states", error);
    if (hidden->rows == NULL) {
        return NULL;
    }
    if (model->config->is_parallel) {
        hidden->branch = model->backend->memory_create(model->device, bytes, "hidden states", error);
        if (hidden->branch == NULL) {
            return NULL;
        }
    }
    return TAKE(hidden);
}

bool hidden_copy(struct hidden *to, const struct hidden *from, struct error *error)
{
    CHECK(to->row_count == from->row_count && to->hidden_size == from->hidden_size);
    const struct model *model = to->model;
    size_t bytes = (size_t)state_bytes(from);
    to->branch_layer = from->branch_layer;
    return model->backend->memory_copy(model->device, to->rows, from->rows, bytes, error) &&
           (from->branch_layer == SIZE_MAX ||
            model->backend->memory_copy(model->device, to->branch, from->branch, bytes, error));
}

bool hidden_place(struct hidden *to, size_t to_row, const struct hidden *from, size_t from_row, size_t count,
                  struct error *error)
{
    CHECK(to_row + count <= to->row_count && from_row + count <= from->row_count &&
          to->hidden_size == from->hidden_size);
    const struct model *model = to->model;
    size_t size = to->hidden_size;
    size_t bytes = count * size * sizeof *to->rows;
    const float *rows = from->rows + from_row * size;
    if (!model->backend->memory_copy(model->device, to->rows + to_row * size, rows, bytes, error)) {
        return false;
    }
    if (to->branch_layer == SIZE_MAX) {
        return true;
    }
    const float *branch = from->branch_layer == to->branch_layer ? from->branch + from_row * size : rows;
    return model->backend->memory_copy(model->device, to->branch + to_row * size, branch, bytes, error);
}

bool hidden_read(const struct hidden *hidden, size_t first_row, size_t count, float *ret_rows,
                 struct error *error)
{
    CHECK(first_row + count <= hidden->row_count);
    const struct model *model = hidden->model;
    return model->backend->memory_read(model->device, ret_rows,
                                       hidden->rows + first_row * hidden->hidden_size,
                                       count * hidden->hidden_size * sizeof *ret_rows, error);
}

bool hidden_write(struct hidden *hidden, size_t first_row, size_t count, const float *rows,
                  struct error *error)
{
    CHECK(first_row + count <= hidden->row_count);
    const struct model *model = hidden->model;
    return model->backend->memory_write(model->device, hidden->rows + first_row * hidden->hidden_size, rows,
                                        count * hidden->hidden_size * sizeof *rows, error);
}

void hidden_destroy(struct hidden *hidden)
{
    if (hidden == NULL) {
        return;
    }
    const struct model *model = hidden->model;
    model->backend->memory_destroy(model->device, hidden->rows);
    model->backend->memory_destroy(model->device, hidden->branch);
    free(hidden->segments);
    free(hidden);
}

struct hidden *model_run_batch(struct model *model, const struct token_batch *batch, const bool *removed,
                               struct error *error)
{
    OWNED(hidden) hidden = hidden_create(model, batch, error);
    if (hidden == NULL || !model_embed(model, batch, hidden, error) ||
        !model_run_from(model, 0, removed, hidden, error)) {
        return NULL;
    }
    return TAKE(hidden);
}

uint64_t hidden_bytes(const struct hidden *hidden)
{
    return sizeof *hidden + state_bytes(hidden) * (hidden->branch != NULL ? 2 : 1) +
           hidden->sequence_count * sizeof *hidden->segments;
}
