/*
 * workers/prune/compensation_pass.c: one group of sublayers (compensation.h). Taps look into both models: the source's shows y, the pruned
 * one's x and then z of the same rows. Expert rows are matched by their number; those that only one of the models sent to an expert are left
 * out.
 */
#include "workers/prune/compensation_internal.h"

#include "base/check.h"
#include "base/memory.h"
#include "workers/model/patch.h"
#include "workers/model/tap.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NO_SLOT     UINT32_MAX
#define WINDOW_ROWS 64

/* ---- the source's outputs ------------------------------------------------------------------------ */

static struct repair_job *find_job(const struct repair *repair, size_t sublayer, size_t expert)
{
    for (size_t i = 0; i < repair->job_count; i++) {
        if (repair->jobs[i].sublayer == sublayer && repair->jobs[i].expert == expert) {
            return &repair->jobs[i];
        }
    }
    return NULL;
}

/* The source's expert by the pruned model's numbers; SIZE_MAX: it is gone. */
static size_t number_expert(const struct repair *repair, size_t sublayer, size_t expert)
{
    const struct plan_width *width = &repair->plan->widths[sublayer];
    if (width->experts == NULL) {
        return expert;
    }
    for (size_t i = 0; i < width->expert_count; i++) {
        if (width->experts[i] == expert) {
            return i;
        }
    }
    return SIZE_MAX;
}

static bool reserve_y(struct repair_job *job, size_t count, struct error *error)
{
    if (count <= job->y_capacity) {
        return true;
    }
    float *y = memory_try_array(count, job->out * sizeof *y, "outputs of a projection", error);
    if (y == NULL) {
        return false;
    }
    if (job->y != NULL) {
        memcpy(y, job->y, job->y_count * job->out * sizeof *y);
    }
    free(job->y);
    job->y = y;
    job->y_capacity = count;
    return true;
}

static size_t row_number(const struct tap_rows *rows, size_t r)
{
    return rows->first_row + (rows->numbers != NULL ? (size_t)rows->numbers[r] : r);
}

static bool keep_outputs(void *context, const struct tap_rows *rows, struct error *error)
{
    struct repair *repair = context;
    size_t expert = number_expert(repair, rows->sublayer, rows->expert);
    struct repair_job *job = expert != SIZE_MAX ? find_job(repair, rows->sublayer, expert) : NULL;
    if (job == NULL) {
        return true;
    }
    /* A chunk's rows at once, where no expert shares them out; else as they come, doubled. */
    size_t wanted = job->y_count + rows->rows;
    size_t room = job->has_experts && job->y_capacity > 0 ? 2 * wanted : wanted;
    if (!job->has_experts && room < job->row_capacity) {
        room = job->row_capacity;
    }
    if (wanted > job->y_capacity && !reserve_y(job, room, error)) {
        return false;
    }
    const uint32_t *hidden = repair->plan->hidden;
    for (size_t r = 0; r < rows->rows; r++) {
        const float *from = rows->values + r * rows->stride;
        float *to = job->y + job->y_count * job->out;
        for (size_t o = 0; o < job->out; o++) {
            to[o] = from[hidden != NULL ? hidden[o] : o];
        }
        job->slots[row_number(rows, r)] = (uint32_t)job->y_count++;
    }
    return true;
}

/* ---- the pruned model's inputs and outputs ------------------------------------------------------- */

static bool keep_inputs(struct repair *repair, const struct tap_rows *rows, struct error *error)
{
    size_t count = rows->rows * rows->size;
    if (count > repair->x_capacity) {
        free(repair->x);
        repair->x_capacity = 0;
        repair->x = memory_try_array(count, sizeof *repair->x, "inputs of a projection", error);
        if (repair->x == NULL) {
            return false;
        }
        repair->x_capacity = count;
    }
    repair->x_size = rows->size;
    for (size_t r = 0; r < rows->rows; r++) {
        memcpy(repair->x + r * rows->size, rows->values + r * rows->stride, rows->size * sizeof *repair->x);
    }
    return true;
}

static enum gram_part part_of(const struct repair *repair, size_t row)
{
    return repair->chunk_row + row < repair->first_held_out_row ? GRAM_FIT : GRAM_HELD_OUT;
}

/* Rows [first, *ret_end) whose outputs lie one after the other and belong to one part. */
static void find_run(const struct repair *repair, const struct repair_job *job, const struct tap_rows *rows,
                     size_t first, size_t *ret_end)
{
    size_t row = row_number(rows, first), end = first + 1;
    enum gram_part part = part_of(repair, row);
    while (end < rows->rows && job->slots[row_number(rows, end)] == job->slots[row] + (end - first) &&
           part_of(repair, row_number(rows, end)) == part) {
        end++;
    }
    *ret_end = end;
}

/* Of rows [first, end): the token's weight times the router's. NULL: all 1. */
static const float *weigh_rows(const struct repair *repair, const struct tap_rows *rows, size_t first,
                               size_t end)
{
    if (repair->weights == NULL) {
        return rows->weights != NULL ? rows->weights + first : NULL;
    }
    for (size_t r = first; r < end; r++) {
        float gate = rows->weights != NULL ? rows->weights[r] : 1.0f;
        repair->row_weights[r - first] = gate * repair->weights[row_number(rows, r)];
    }
    return repair->row_weights;
}

static bool sum_rows(struct repair *repair, struct repair_job *job, const struct tap_rows *rows,
                     struct error *error)
{
    CHECK(repair->x_size == job->in && rows->size == job->out);
    for (size_t first = 0, end = 0; first < rows->rows; first = end) {
        size_t row = row_number(rows, first);
        uint32_t slot = job->slots[row];
        end = first + 1;
        if (slot == NO_SLOT) {
            continue;
        }
        find_run(repair, job, rows, first, &end);
        struct gram_rows some = {.rows = end - first,
                                 .x = repair->x + first * job->in,
                                 .x_stride = job->in,
                                 .y = job->y + (size_t)slot * job->out,
                                 .y_stride = job->out,
                                 .z = rows->values + first * rows->stride,
                                 .z_stride = rows->stride,
                                 .drift = repair->has_drift ? repair->drift + row * job->out : NULL,
                                 .drift_stride = job->out,
                                 .weights = weigh_rows(repair, rows, first, end)};
        if (!gram_add(job->gram, &repair->threads, part_of(repair, row), &some, error)) {
            return false;
        }
    }
    return true;
}

static bool sum_outputs(void *context, const struct tap_rows *rows, struct error *error)
{
    struct repair *repair = context;
    struct repair_job *job = find_job(repair, rows->sublayer, rows->expert);
    if (job == NULL) {
        return true;
    }
    bool is_input = rows->point == TAP_HEADS || rows->point == TAP_CHANNELS;
    return is_input ? keep_inputs(repair, rows, error) : sum_rows(repair, job, rows, error);
}

/* ---- passes -------------------------------------------------------------------------------------- */

static bool run_sublayers(struct repair *repair, struct model *model, bool is_pruned, struct hidden *hidden,
                          struct error *error)
{
    for (size_t i = repair->group->first; i < repair->group->end; i++) {
        if (!(is_pruned && repair->plan->removed[i]) && !model_run_sublayer(model, i, hidden, error)) {
            return false;
        }
    }
    return true;
}

static struct hidden *copy_chunk(struct repair *repair, struct model *model, const struct sweep_chunk *chunk,
                                 struct error *error)
{
    struct token_batch batch = {repair->options->batch->sequences + chunk->first_sequence,
                                chunk->hidden->sequence_count};
    OWNED(hidden) hidden = hidden_create(model, &batch, error);
    return hidden != NULL && hidden_copy(hidden, chunk->hidden, error) ? TAKE(hidden) : NULL;
}

static bool start_chunk(struct repair *repair, const struct sweep_chunk *chunk, struct error *error)
{
    size_t rows = chunk->hidden->row_count;
    repair->chunk_row = chunk->first_row;
    for (size_t i = 0; i < repair->job_count; i++) {
        struct repair_job *job = &repair->jobs[i];
        if (rows > job->row_capacity) {
            free(job->slots);
            job->row_capacity = 0;
            job->slots = memory_try_array(rows, sizeof *job->slots, "rows of a chunk", error);
            if (job->slots == NULL) {
                return false;
            }
            job->row_capacity = rows;
        }
        for (size_t r = 0; r < rows; r++) {
            job->slots[r] = NO_SLOT;
        }
        job->y_count = 0;
    }
    return true;
}

/* One over the root mean square of each row of the source's residual; a silent row counts as it is. */
static bool weigh_tokens(struct repair *repair, const struct hidden *hidden, struct error *error)
{
    size_t size = hidden->hidden_size;
    if (repair->options->plain_tokens) {
        return true;
    }
    if (hidden->row_count > repair->weight_capacity) {
        free(repair->weights);
        free(repair->row_weights);
        repair->weight_capacity = hidden->row_count;
        repair->weights = memory_create(hidden->row_count, sizeof *repair->weights);
        repair->row_weights = memory_create(hidden->row_count, sizeof *repair->row_weights);
    }
    OWNED_MEMORY float *rows = memory_try_array(WINDOW_ROWS, size * sizeof *rows, "hidden states", error);
    for (size_t first = 0; rows != NULL && first < hidden->row_count; first += WINDOW_ROWS) {
        size_t left = hidden->row_count - first, count = left < WINDOW_ROWS ? left : WINDOW_ROWS;
        if (!hidden_read(hidden, first, count, rows, error)) {
            return false;
        }
        for (size_t r = 0; r < count; r++) {
            double square = 0.0;
            for (size_t i = 0; i < size; i++) {
                square += (double)rows[r * size + i] * (double)rows[r * size + i];
            }
            repair->weights[first + r] = square > 0.0 ? (float)sqrt((double)size / square) : 1.0f;
        }
    }
    return rows != NULL;
}

/* Residuals in front of the group, the source's less the pruned model's: what earlier sublayers still miss. */
static bool find_drift(struct repair *repair, const struct hidden *dense, const struct hidden *pruned,
                       struct error *error)
{
    size_t size = dense->hidden_size, out = pruned->hidden_size, row_count = dense->row_count;
    const struct repair_job *job = &repair->jobs[0];
    const struct architecture *architecture = architecture_of(&repair->derived->config);
    repair->has_drift = repair->options->target == PRUNE_REPAIR_RESIDUAL && !job->has_experts &&
                        repair->group->end == repair->group->first + 1 &&
                        architecture->norm_placement == NORM_BEFORE;
    if (!repair->has_drift) {
        return true;
    }
    if (row_count > repair->drift_capacity) {
        free(repair->drift);
        repair->drift_capacity = 0;
        repair->drift = memory_try_array(row_count, out * sizeof *repair->drift, "hidden states", error);
        if (repair->drift == NULL) {
            return false;
        }
        repair->drift_capacity = row_count;
    }
    OWNED_MEMORY float *rows = memory_try_array(WINDOW_ROWS, size * sizeof *rows, "hidden states", error);
    if (rows == NULL || !hidden_read(pruned, 0, row_count, repair->drift, error)) {
        return false;
    }
    const uint32_t *hidden = repair->plan->hidden;
    for (size_t first = 0; first < row_count; first += WINDOW_ROWS) {
        size_t left = row_count - first, count = left < WINDOW_ROWS ? left : WINDOW_ROWS;
        if (!hidden_read(dense, first, count, rows, error)) {
            return false;
        }
        for (size_t i = 0; i < count * out; i++) {
            float *drift = repair->drift + first * out + i;
            *drift = rows[i / out * size + (hidden != NULL ? hidden[i % out] : i % out)] - *drift;
        }
    }
    return true;
}

static bool sum_chunk(void *context, const struct sweep_chunk *dense, const struct sweep_chunk *pruned,
                      struct error *error)
{
    struct repair *repair = context;
    struct model_tap outputs = {.context = repair,
                                .points = 1u << TAP_ATTENTION_OUTPUT | 1u << TAP_FFN_OUTPUT,
                                .visit = keep_outputs};
    struct model_tap both = {.context = repair,
                             .points = outputs.points | 1u << TAP_HEADS | 1u << TAP_CHANNELS,
                             .visit = sum_outputs};
    OWNED(hidden) dense_copy = NULL;
    if (!start_chunk(repair, dense, error) || !find_drift(repair, dense->hidden, pruned->hidden, error)) {
        return false;
    }
    if (repair->keeps_dense) {
        dense_copy = copy_chunk(repair, repair->dense, dense, error);
        if (dense_copy == NULL) {
            return false;
        }
    }
    struct hidden *hidden = repair->keeps_dense ? dense_copy : dense->hidden;
    model_set_tap(repair->dense, &outputs);
    bool is_good = run_sublayers(repair, repair->dense, false, hidden, error);
    model_set_tap(repair->dense, NULL);
    is_good = is_good && weigh_tokens(repair, hidden, error);
    OWNED(hidden) pruned_copy = is_good ? copy_chunk(repair, repair->pruned, pruned, error) : NULL;
    if (pruned_copy == NULL) {
        return false;
    }
    model_set_tap(repair->pruned, &both);
    is_good = run_sublayers(repair, repair->pruned, true, pruned_copy, error);
    model_set_tap(repair->pruned, NULL);
    return is_good;
}

static bool run_pruned(void *context, const struct sweep_chunk *chunk, struct error *error)
{
    struct repair *repair = context;
    return run_sublayers(repair, repair->pruned, true, chunk->hidden, error);
}

static bool run_both(void *context, const struct sweep_chunk *dense, const struct sweep_chunk *pruned,
                     struct error *error)
{
    struct repair *repair = context;
    return run_sublayers(repair, repair->dense, false, dense->hidden, error) &&
           run_sublayers(repair, repair->pruned, true, pruned->hidden, error);
}

bool repair_run(struct repair *repair, const struct repair_group *group, struct error *error)
{
    repair->group = group;
    return sweep_each_beside(repair->dense_sweep, true, repair->pruned_sweep, true, run_both, repair, error);
}

/* ---- the patch ----------------------------------------------------------------------------------- */

static bool find_tensor(const struct repair *repair, enum weight_role role, const struct repair_job *job,
                        const struct inventory_tensor **ret_tensor, bool *ret_is_transposed)
{
    struct weight_shape shape;
    if (!architecture_tensor(&repair->derived->config, role, job->layer, job->expert, &shape)) {
        return false;
    }
    *ret_tensor = inventory_find(repair->derived, shape.name);
    *ret_is_transposed = shape.is_transposed;
    CHECK(*ret_tensor != NULL);
    return true;
}

/* The tensor as it is plus the correction [out, in], which is transposed where the tensor is, or [out] for a bias. */
static bool patch_tensor_plus(const struct repair *repair, const struct inventory_tensor *tensor,
                              const double *correction, bool is_transposed, struct error *error)
{
    struct source_view view;
    source_view_canonical(tensor, &view);
    uint64_t step = view.rows < WINDOW_ROWS ? view.rows : WINDOW_ROWS;
    size_t columns = (size_t)view.columns, down = (size_t)view.rows;
    OWNED_MEMORY void *window = memory_try_array(source_window_bytes(&view, step), 1, tensor->name, error);
    OWNED_MEMORY float *rows = memory_try_array((size_t)step, columns * sizeof *rows, tensor->name, error);
    struct patch *patch = repair->plan->patch;
    if (window == NULL || rows == NULL ||
        !patch_begin(patch, tensor->name, tensor->rank, tensor->shape, error)) {
        return false;
    }
    for (uint64_t first = 0; first < view.rows; first += step) {
        uint64_t count = view.rows - first < step ? view.rows - first : step;
        if (!source_read_rows(repair->source, &view, first, count, window, rows, error)) {
            return false;
        }
        for (size_t r = 0; r < (size_t)count; r++) {
            for (size_t c = 0; c < columns; c++) {
                size_t row = (size_t)first + r;
                double change = correction[is_transposed ? c * down + row : row * columns + c];
                rows[r * columns + c] = (float)((double)rows[r * columns + c] + change);
            }
        }
        if (!patch_append(patch, rows, (size_t)count * columns, error)) {
            return false;
        }
    }
    return true;
}

static enum weight_role weight_role_of(const struct repair_job *job)
{
    return job->is_attention ? WEIGHT_O : job->has_experts ? WEIGHT_EXPERT_DOWN : WEIGHT_DOWN;
}

static bool write_correction(const struct repair *repair, const struct repair_job *job,
                             const struct least_squares_result *result, struct error *error)
{
    const struct inventory_tensor *tensor = NULL;
    bool is_transposed = false;
    if (result->weights != NULL) {
        CHECK(find_tensor(repair, weight_role_of(job), job, &tensor, &is_transposed));
        if (!patch_tensor_plus(repair, tensor, result->weights, is_transposed, error)) {
            return false;
        }
    }
    if (result->bias == NULL) {
        return true;
    }
    CHECK(find_tensor(repair, job->is_attention ? WEIGHT_O_BIAS : WEIGHT_DOWN_BIAS, job, &tensor,
                      &is_transposed));
    return patch_tensor_plus(repair, tensor, result->bias, false, error);
}

static json_t *format_entry(const struct repair_job *job, const struct least_squares_result *result)
{
    json_t *entry = json_object();
    json_put_i64(entry, "sublayer", (int64_t)job->sublayer);
    json_put_i64(entry, "layer", (int64_t)job->layer);
    json_put_text(entry, "kind", job->is_attention ? "attention" : "ffn");
    if (job->has_experts) {
        json_put_i64(entry, "expert", (int64_t)job->expert);
    }
    json_put_i64(entry, "inputs", (int64_t)job->in);
    json_put_i64(entry, "outputs", (int64_t)job->out);
    json_put_text(entry, "mode", least_squares_name(result->mode));
    json_put_text(entry, "note", least_squares_note_text(result->note));
    if (result->weights != NULL) {
        json_put_double(entry, "lambda", result->lambda);
    }
    json_put_double(entry, "error_before", result->error_before);
    json_put_double(entry, "error_after", result->error_after);
    json_put_i64(entry, "tokens", (int64_t)result->tokens);
    json_put_i64(entry, "held_out_tokens", (int64_t)result->held_out_tokens);
    return entry;
}

static bool settle_job(struct repair *repair, struct repair_job *job, struct error *error)
{
    struct least_squares_request request = {repair->options->mode, job->can_have_bias};
    struct least_squares_result result;
    if (!gram_finish(job->gram, &repair->threads, error) ||
        !least_squares_solve(job->gram, &repair->threads, &request, &result, error)) {
        return error_prefix(error, "the %s of layer %zu: ", job->is_attention ? "attention" : "ffn",
                            job->layer);
    }
    bool is_good = write_correction(repair, job, &result, error);
    CHECK(json_array_append_new(repair->entries, format_entry(job, &result)) == 0);
    least_squares_result_finish(&result);
    return is_good;
}

/* ---- a group ------------------------------------------------------------------------------------- */

static void finish_jobs(struct repair_job *jobs, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        gram_destroy(jobs[i].gram);
        free(jobs[i].y);
        free(jobs[i].slots);
        jobs[i].gram = NULL;
        jobs[i].y = NULL;
        jobs[i].slots = NULL;
        jobs[i].y_count = jobs[i].y_capacity = jobs[i].row_capacity = 0;
    }
}

/* As many jobs as may be summed at once: at least one. */
static size_t count_jobs(const struct repair *repair, const struct repair_group *group, size_t first)
{
    uint64_t bytes = 0, limit = repair->options->gram_bytes;
    size_t count = 0;
    while (first + count < group->job_count) {
        const struct repair_job *job = &group->jobs[first + count];
        bytes += gram_bytes(job->in, job->out);
        if (count > 0 && limit > 0 && bytes > limit) {
            break;
        }
        count++;
    }
    return count;
}

static bool repair_jobs(struct repair *repair, struct error *error)
{
    for (size_t i = 0; i < repair->job_count; i++) {
        struct repair_job *job = &repair->jobs[i];
        job->gram = gram_create(job->in, job->out, error);
        if (job->gram == NULL) {
            return false;
        }
    }
    if (!sweep_each_beside(repair->dense_sweep, !repair->keeps_dense, repair->pruned_sweep, false, sum_chunk,
                           repair, error)) {
        return false;
    }
    for (size_t i = 0; i < repair->job_count; i++) {
        if (!settle_job(repair, &repair->jobs[i], error)) {
            return false;
        }
    }
    return true;
}

bool repair_group(struct repair *repair, const struct repair_group *group, struct error *error)
{
    repair->group = group;
    for (size_t first = 0; first < group->job_count; first += repair->job_count) {
        repair->jobs = group->jobs + first;
        repair->job_count = count_jobs(repair, group, first);
        repair->keeps_dense = first + repair->job_count < group->job_count;
        bool is_good = repair_jobs(repair, error);
        finish_jobs(repair->jobs, repair->job_count);
        if (!is_good) {
            return false;
        }
    }
    for (size_t i = group->first; i < group->end; i++) {
        model_forget_sublayer(repair->pruned, i);
    }
    return sweep_each(repair->pruned_sweep, true, run_pruned, repair, error);
}
