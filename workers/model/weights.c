/* workers/model/weights.c: opening, acquiring and releasing units; see weights.h and weights_internal.h. */
#include "workers/model/weights_internal.h"

#include "base/check.h"
#include "base/memory.h"
#include <inttypes.h>
#include <math.h>
#include <string.h>

/* ---- opening ------------------------------------------------------------------------------------- */

static void measure_windows(struct weights *weights, const struct unit *unit)
{
    for (size_t i = 0; i < unit->load_count; i++) {
        const struct load *load = &unit->loads[i];
        size_t bytes = source_window_bytes(&load->view, load->window_rows);
        size_t row_bytes = (size_t)(load->window_rows * load->view.columns) * sizeof(float);
        weights->window_bytes = bytes > weights->window_bytes ? bytes : weights->window_bytes;
        weights->window_row_bytes =
            row_bytes > weights->window_row_bytes ? row_bytes : weights->window_row_bytes;
    }
}

static void describe_units(struct weights *weights)
{
    const struct model_config *config = weights->config;
    weights->unit_count = unit_count_of(config);
    weights->units = memory_create(weights->unit_count, sizeof *weights->units);
    weights->blocks = memory_create(weights->unit_count, sizeof *weights->blocks);
    weights->sublayer_of_unit = memory_create(weights->unit_count, sizeof *weights->sublayer_of_unit);
    weights->removed = memory_create(weights->unit_count, sizeof *weights->removed);
    for (size_t i = 0; i < weights->unit_count; i++) {
        struct unit *unit = &weights->units[i];
        unit_describe(weights->inventory, i, weights->options.dtype, unit);
        unit_lay_out(unit, weights->backend->matrix_bytes);
        measure_windows(weights, unit);
        weights->total_bytes += unit->bytes;
        weights->largest_bytes = unit->bytes > weights->largest_bytes ? unit->bytes : weights->largest_bytes;
        weights->present_count += unit->bytes > 0 ? 1 : 0;
        bool is_sublayer = i + 1 < weights->unit_count &&
                           (i % 2 == 0 ? config->layers[i / 2].has_attention : config->layers[i / 2].has_ffn);
        weights->sublayer_of_unit[i] = is_sublayer ? weights->sublayer_count++ : SIZE_MAX;
    }
}

static bool create_windows(struct weights *weights, struct error *error)
{
    weights->windows = memory_create(weights->thread_count, sizeof *weights->windows);
    for (size_t i = 0; i < weights->thread_count; i++) {
        struct window *window = &weights->windows[i];
        window->bytes = memory_try_array(weights->window_bytes, 1, "a window of weights", error);
        window->rows = memory_try_array(weights->window_row_bytes, 1, "a window of weights", error);
        if (window->bytes == NULL || window->rows == NULL) {
            return false;
        }
    }
    return true;
}

static void destroy_windows(struct weights *weights)
{
    for (size_t i = 0; weights->windows != NULL && i < weights->thread_count; i++) {
        free(weights->windows[i].bytes);
        free(weights->windows[i].rows);
    }
    free(weights->windows);
    weights->windows = NULL;
}

struct weights *weights_open(const struct inventory *inventory, const char *folder,
                             const struct weights_options *options, struct error *error)
{
    OWNED(weights) weights = memory_create(1, sizeof *weights);
    weights->inventory = inventory;
    weights->config = &inventory->config;
    weights->architecture = architecture_of(weights->config);
    weights->options = *options;
    weights->backend = device_get_backend(options->device);
    weights->thread_count = pool_thread_count(options->pool);
    describe_units(weights);
    if (options->budget_bytes > 0 && weights->largest_bytes > options->budget_bytes) {
        error_set(error, ERROR_TOO_LARGE,
                  "the weights need %" PRIu64 " bytes at once, their budget is %" PRIu64,
                  weights->largest_bytes, options->budget_bytes);
        return NULL;
    }
    weights->source = source_open(inventory, folder, error);
    if (weights->source == NULL || !embed_open(weights, error) || !cache_start(weights, error)) {
        return NULL;
    }
    return TAKE(weights);
}

void weights_destroy(struct weights *weights)
{
    if (weights == NULL) {
        return;
    }
    cache_destroy(weights);
    for (size_t i = 0; weights->units != NULL && i < weights->unit_count; i++) {
        unit_finish(&weights->units[i]);
    }
    free(weights->units);
    free(weights->sublayer_of_unit);
    free(weights->removed);
    destroy_windows(weights);
    source_destroy(weights->source);
    free(weights->embedding_norm);
    free(weights->embedding_norm_bias);
    free(weights->token_type);
    free(weights);
}

/* ---- acquiring ----------------------------------------------------------------------------------- */

static bool acquire(struct weights *weights, size_t index, struct error *error)
{
    struct unit *unit = &weights->units[index];
    CHECK(unit->bytes > 0);
    if (unit->block == NULL) {
        if ((weights->windows == NULL && !create_windows(weights, error)) ||
            !cache_take_block(weights, index, error)) {
            return false;
        }
        cache_read_ahead(weights, index);
        if (!unit_load(weights, unit, error)) {
            cache_drop(weights, unit);
            return false;
        }
        if (weights->loaded_count == weights->present_count) {
            destroy_windows(weights); /* resident: nothing will be read again */
        }
    } else {
        cache_read_ahead(weights, index);
    }
    unit->is_advised = false;
    unit->acquired_count++;
    return true;
}

static void release(struct weights *weights, size_t index)
{
    CHECK(weights->units[index].acquired_count > 0);
    weights->units[index].acquired_count--;
}

bool weights_acquire(struct weights *weights, size_t layer, bool is_attention,
                     struct sublayer_weights *ret_weights, struct error *error)
{
    size_t index = 2 * layer + (is_attention ? 0 : 1);
    if (!acquire(weights, index, error)) {
        return false;
    }
    *ret_weights = weights->units[index].sublayer;
    return true;
}

void weights_release(struct weights *weights, size_t layer, bool is_attention)
{
    release(weights, 2 * layer + (is_attention ? 0 : 1));
}

bool weights_acquire_head(struct weights *weights, struct head_weights *ret_head, struct error *error)
{
    size_t index = weights->unit_count - 1;
    weights->is_head_used = true;
    if (weights->units[index].bytes == 0) { /* an encoder without a final norm */
        *ret_head = (struct head_weights){0};
        return true;
    }
    if (!acquire(weights, index, error)) {
        return false;
    }
    *ret_head = weights->units[index].head;
    return true;
}

void weights_release_head(struct weights *weights)
{
    size_t index = weights->unit_count - 1;
    if (weights->units[index].bytes > 0) {
        release(weights, index);
    }
}

void weights_forget(struct weights *weights, size_t layer, bool is_attention)
{
    struct unit *unit = &weights->units[2 * layer + (is_attention ? 0 : 1)];
    CHECK(unit->acquired_count == 0);
    cache_drop(weights, unit);
}

void weights_set_removed(struct weights *weights, const bool *removed)
{
    for (size_t i = 0; i < weights->sublayer_count; i++) {
        weights->removed[i] = removed != NULL && removed[i];
    }
}

void weights_set_budget(struct weights *weights, uint64_t budget_bytes)
{
    weights->options.budget_bytes = budget_bytes;
    (void)cache_make_room(weights, 0, 0);
}

/* ---- questions ----------------------------------------------------------------------------------- */

bool weights_is_resident(const struct weights *weights)
{
    return weights->options.budget_bytes == 0 || weights->total_bytes <= weights->options.budget_bytes;
}

uint64_t weights_held_bytes(const struct weights *weights)
{
    return weights->held_bytes;
}

uint64_t weights_bytes_read(const struct weights *weights)
{
    return source_bytes_read(weights->source);
}

/* Whether all elements are zero; the first window is small, because most tensors say no at once. */
static bool is_zero(const struct weights *weights, enum weight_role role, size_t layer, size_t expert,
                    bool *ret_is_zero, struct error *error)
{
    struct source_view view;
    *ret_is_zero = true;
    if (!weights_view(weights->inventory, role, layer, expert, &view)) {
        return true;
    }
    uint64_t window_rows = view.rows < 64 ? view.rows : 64;
    OWNED_MEMORY void *window =
        memory_try_array(source_window_bytes(&view, window_rows), 1, view.tensor->name, error);
    OWNED_MEMORY float *rows =
        memory_try_array((size_t)(window_rows * view.columns), sizeof *rows, view.tensor->name, error);
    if (window == NULL || rows == NULL) {
        return false;
    }
    uint64_t count = 1;
    for (uint64_t done = 0; done < view.rows && *ret_is_zero; done += count) {
        count = done == 0 ? 1 : window_rows;
        count = count < view.rows - done ? count : view.rows - done;
        if (!source_read_rows(weights->source, &view, done, count, window, rows, error)) {
            return false;
        }
        for (size_t i = 0; i < (size_t)(count * view.columns); i++) {
            *ret_is_zero = *ret_is_zero && !(fabsf(rows[i]) > 0);
        }
    }
    return true;
}

bool weights_is_identity(const struct weights *weights, size_t layer, bool is_attention,
                         bool *ret_is_identity, struct error *error)
{
    const struct model_layer *shape = &weights->config->layers[layer];
    *ret_is_identity = false;
    if (weights->architecture->norm_placement == NORM_AFTER) {
        return true; /* what is added is zero, and the sum is normalised all the same */
    }
    bool is_all_zero = true;
    if (!is_zero(weights, is_attention ? WEIGHT_O : WEIGHT_DOWN, layer, 0, &is_all_zero, error)) {
        return false;
    }
    if (is_all_zero &&
        !is_zero(weights, is_attention ? WEIGHT_O_BIAS : WEIGHT_DOWN_BIAS, layer, 0, &is_all_zero, error)) {
        return false;
    }
    for (size_t i = 0; !is_attention && is_all_zero && i < shape->expert_count; i++) {
        if (!is_zero(weights, WEIGHT_EXPERT_DOWN, layer, i, &is_all_zero, error)) {
            return false;
        }
    }
    *ret_is_identity = is_all_zero;
    return true;
}

/* ---- the plan of memory -------------------------------------------------------------------------- */

/* At least what any backend's layout takes: panels of up to 64 rows and columns, padded. */
static size_t bound_matrix_bytes(enum dtype dtype, size_t n, size_t k)
{
    return (n + 63) / 64 * 64 * ((k + 63) / 64 * 64) * dtype_bytes(dtype);
}

void weights_measure(const struct inventory *inventory, const char *backend, enum dtype dtype,
                     struct weights_size *ret_size)
{
    (void)backend; /* the bound holds for all */
    struct weights_size size = {0};
    struct weights windows = {0};
    uint64_t before = 0;
    size_t count = unit_count_of(&inventory->config);
    for (size_t i = 0; i < count; i++) {
        struct unit unit;
        unit_describe(inventory, i, dtype, &unit);
        unit_lay_out(&unit, bound_matrix_bytes);
        measure_windows(&windows, &unit);
        bool is_head = i + 1 == count;
        uint64_t least = is_head ? unit.bytes : before + unit.bytes;
        size.resident_bytes += unit.bytes;
        size.least_bytes = least > size.least_bytes ? least : size.least_bytes;
        size.head_bytes = is_head ? unit.bytes : 0;
        if (!is_head) {
            size.least_headless_bytes = least > size.least_headless_bytes ? least : size.least_headless_bytes;
        }
        before = unit.bytes > 0 ? unit.bytes : before;
        unit_finish(&unit);
    }
    size.window_bytes = (uint64_t)windows.window_bytes + windows.window_row_bytes;
    *ret_size = size;
}
