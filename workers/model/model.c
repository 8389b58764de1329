/* workers/model/model.c: opening a model, its list of sublayers, and the machinery of work: exec, scratch,
 * tiled matmul. */
#include "workers/model/model_internal.h"

#include "base/check.h"
#include "base/memory.h"
#include "workers/model/architecture.h"
#include <string.h>

/* Measured: a worker that has done nothing yet, and what OpenBLAS packs into per thread. */
#define PROCESS_BYTES ((uint64_t)16 << 20)
#define BLAS_BYTES    ((uint64_t)8 << 20)

/* ---- work ------------------------------------------------------------------------------------ */

bool exec_run(const struct exec *exec, size_t count, void (*task)(void *context, size_t index, size_t thread),
              void *context, struct error *error)
{
    if (exec->is_shared) {
        return pool_run(exec->model->pool, count, task, context, exec->model->cancel, error);
    }
    for (size_t i = 0; i < count; i++) {
        if (!cancel_check_now(exec->model->cancel, error)) {
            return false;
        }
        task(context, i, exec->thread);
    }
    return true;
}

bool scratch_reserve(struct model *model, size_t slot, size_t count, struct error *error)
{
    struct scratch *scratch = &model->scratch[slot];
    if (scratch->count >= count) {
        return true;
    }
    free(scratch->values);
    *scratch = (struct scratch){0};
    scratch->values = memory_try_array(count, sizeof *scratch->values, "scratch of the forward pass", error);
    if (scratch->values == NULL) {
        return false;
    }
    scratch->count = count;
    return true;
}

bool scratch_reserve_threads(struct model *model, size_t count, struct error *error)
{
    for (size_t i = 0; i < model->thread_count; i++) {
        if (!scratch_reserve(model, i, count, error)) {
            return false;
        }
    }
    return true;
}

struct matmul_context {
    const struct backend *backend;
    const struct tile_matmul *job;
    size_t panel_count;
};

static void matmul_task(void *context, size_t index, size_t thread)
{
    (void)thread;
    const struct matmul_context *run = context;
    const struct tile_matmul *job = run->job;
    size_t tile = index / run->panel_count, column = index % run->panel_count * PANEL_COLUMNS;
    size_t row = tile * TILE_ROWS;
    struct matmul piece = {.rows = job->tiles[tile].rows,
                           .n = job->n - column < PANEL_COLUMNS ? job->n - column : PANEL_COLUMNS,
                           .k = job->k,
                           .x = job->x + row * job->x_stride,
                           .w = job->w + column * job->k,
                           .bias = job->bias != NULL ? job->bias + column : NULL,
                           .out = job->out + row * job->out_stride + column,
                           .x_stride = job->x_stride,
                           .w_stride = job->k,
                           .out_stride = job->out_stride};
    run->backend->matmul(&piece);
}

bool tile_matmul_run(const struct exec *exec, const struct tile_matmul *job, struct error *error)
{
    struct matmul_context context = {exec->model->backend, job, (job->n + PANEL_COLUMNS - 1) / PANEL_COLUMNS};
    return exec_run(exec, job->tile_count * context.panel_count, matmul_task, &context, error);
}

/* ---- the model ------------------------------------------------------------------------------ */

static bool is_zero(const float *values, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (values[i] != 0.0f) {
            return false;
        }
    }
    return true;
}

static void count_parameters(enum weight_role role, size_t layer, const struct weight_shape *shape,
                             void *context)
{
    (void)role;
    struct model *model = context;
    for (size_t i = 0; shape->part != WEIGHT_PART_MODEL && i < model->sublayer_count; i++) {
        struct sublayer *sublayer = &model->sublayers[i];
        if (sublayer->layer == layer &&
            (sublayer->kind == SUBLAYER_ATTENTION) == (shape->part == WEIGHT_PART_ATTENTION)) {
            *(shape->is_norm ? &sublayer->norm_count : &sublayer->parameter_count) += shape->count;
        }
    }
}

static bool list_sublayers(struct model *model, struct error *error)
{
    const struct model_config *config = model->config;
    model->sublayers = memory_create(2 * config->layer_count, sizeof *model->sublayers);
    for (size_t layer = 0; layer < config->layer_count; layer++) {
        if (config->layers[layer].has_attention) {
            model->sublayers[model->sublayer_count++] =
                (struct sublayer){.kind = SUBLAYER_ATTENTION, .layer = layer};
        }
        if (config->layers[layer].has_ffn) {
            model->sublayers[model->sublayer_count++] =
                (struct sublayer){.kind = SUBLAYER_FFN, .layer = layer};
        }
    }
    architecture_visit(config, count_parameters, model);
    for (size_t i = 0; i < model->sublayer_count; i++) {
        struct sublayer *sublayer = &model->sublayers[i];
        bool is_attention = sublayer->kind == SUBLAYER_ATTENTION;
        struct sublayer_weights weights;
        if (!weights_acquire(model->weights, sublayer->layer, is_attention, &weights, error)) {
            return false;
        }
        sublayer->is_identity = is_zero(weights.out, config->hidden_size * weights.out_columns) &&
                                (weights.out_bias == NULL || is_zero(weights.out_bias, config->hidden_size));
        weights_release(model->weights, sublayer->layer, is_attention);
    }
    return true;
}

struct model *model_open(const struct inventory *inventory, const char *folder,
                         const struct model_options *options, struct error *error)
{
    OWNED(model) model = memory_create(1, sizeof *model);
    model->inventory = inventory;
    model->config = &inventory->config;
    model->pool = options->pool;
    model->thread_count = pool_thread_count(options->pool);
    model->cancel = options->cancel;
    model->scratch = memory_create(model->thread_count + 1, sizeof *model->scratch);
    rope_init(&model->rope, model->config);
    model->backend = backend_open(options->backend, error);
    if (model->backend == NULL) {
        return NULL;
    }
    model->weights = weights_open(inventory, folder, options->cancel, error);
    if (model->weights == NULL || !list_sublayers(model, error)) {
        return NULL;
    }
    return TAKE(model);
}

void model_destroy(struct model *model)
{
    if (model == NULL) {
        return;
    }
    for (size_t i = 0; model->scratch != NULL && i <= model->thread_count; i++) {
        free(model->scratch[i].values);
    }
    free(model->scratch);
    rope_finish(&model->rope);
    weights_destroy(model->weights);
    free(model->sublayers);
    free(model);
}

const struct model_config *model_get_config(const struct model *model)
{
    return model->config;
}

size_t model_sublayer_count(const struct model *model)
{
    return model->sublayer_count;
}

const struct sublayer *model_sublayer(const struct model *model, size_t index)
{
    CHECK(index < model->sublayer_count);
    return &model->sublayers[index];
}

struct model_work model_get_work(const struct model *model)
{
    return model->work;
}

uint64_t model_estimate_bytes(const struct inventory *inventory, const struct model_config *config,
                              size_t threads, size_t rows)
{
    uint64_t widest_in = 0, widest_out = 0;
    for (size_t i = 0; i < config->layer_count; i++) {
        const struct model_layer *layer = &config->layers[i];
        uint64_t qkv = (layer->head_count + 2 * layer->kv_head_count) * config->head_size,
                 heads = layer->head_count * config->head_size;
        uint64_t gate_up = 2 * layer->intermediate_size;
        widest_in = qkv > widest_in ? qkv : widest_in;
        widest_in = gate_up > widest_in ? gate_up : widest_in;
        widest_out = heads > widest_out ? heads : widest_out;
    }
    uint64_t per_row =
        2 * config->hidden_size + widest_in + widest_out; /* normed, result, projections, mixed heads */
    uint64_t scores = TILE_ROWS * (rows + TILE_ROWS);
    uint64_t head = (uint64_t)TILE_ROWS *
                    (2 * config->vocab_size + config->hidden_size); /* a candidate's and the original's */
    uint64_t per_thread = scores > head ? scores : head;
    uint64_t process = PROCESS_BYTES + threads * BLAS_BYTES;
    return process + sizeof(float) * (inventory->parameter_count + rows * (config->hidden_size + per_row) +
                                      threads * per_thread);
}
