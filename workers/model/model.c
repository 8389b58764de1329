/* workers/model/model.c: opening a model, its list of sublayers, scratch, and what it all takes. */
#include "workers/model/model_internal.h"

#include "base/check.h"
#include "base/memory.h"
#include <string.h>

/* ---- scratch, positions ------------------------------------------------------------------------------------------ */

bool scratch_reserve(struct model *model, size_t count, struct error *error)
{
    if (model->scratch_count >= count) {
        return true;
    }
    model->backend->memory_destroy(model->device, model->scratch);
    model->scratch_count = 0;
    model->scratch = model->backend->memory_create(model->device, count * sizeof *model->scratch,
                                                   "scratch of the forward pass", error);
    if (model->scratch == NULL) {
        return false;
    }
    model->scratch_count = count;
    return true;
}

bool model_extend_ropes(struct model *model, size_t count, struct error *error)
{
    for (size_t i = 0; i < 4; i++) {
        struct rope_table *table = &model->ropes[i / 2][i % 2];
        if (table->device != NULL && !rope_extend(table, count, error)) {
            return false;
        }
    }
    return true;
}

static void init_ropes(struct model *model)
{
    const struct model_config *config = model->config;
    if (config->position_kind != POSITION_ROPE) {
        return;
    }
    size_t count = 1;
    for (size_t i = 0; i < config->layer_count; i++) {
        count = config->layers[i].rope + 1 > count ? config->layers[i].rope + 1 : count;
    }
    for (size_t i = 0; i < count; i++) {
        const char *kind = config->ropes[i].scaling.kind;
        rope_init(&model->ropes[i][0], model->device, config, i, false);
        if (kind != NULL && strcmp(kind, "longrope") == 0) {
            rope_init(&model->ropes[i][1], model->device, config, i, true);
        }
    }
}

/* ---- the model --------------------------------------------------------------------------------------------------- */

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
        if (!weights_is_identity(model->weights, sublayer->layer, sublayer->kind == SUBLAYER_ATTENTION,
                                 &sublayer->is_identity, error)) {
            return false;
        }
    }
    return true;
}

struct model *model_open(const struct inventory *inventory, const char *folder,
                         const struct model_options *options, struct error *error)
{
    OWNED(model) model = memory_create(1, sizeof *model);
    model->inventory = inventory;
    model->config = &inventory->config;
    model->architecture = architecture_of(model->config);
    model->pool = options->pool;
    model->cancel = options->cancel;
    model->device = device_open(options->backend, options->dtype, options->pool, options->cancel, error);
    if (model->device == NULL) {
        return NULL;
    }
    model->backend = device_get_backend(model->device);
    model->exec = (struct exec){.device = model->device, .is_shared = true};
    init_ropes(model);
    struct weights_options weights = {.device = model->device,
                                      .pool = options->pool,
                                      .dtype = options->dtype,
                                      .budget_bytes = options->weights_budget_bytes,
                                      .cancel = options->cancel};
    model->weights = weights_open(inventory, folder, &weights, error);
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
    if (model->backend != NULL) {
        model->backend->memory_destroy(model->device, model->scratch);
    }
    for (size_t i = 0; i < 4; i++) {
        rope_finish(&model->ropes[i / 2][i % 2]);
    }
    weights_destroy(model->weights);
    device_destroy(model->device);
    free(model->tap_rows);
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

void model_forget_sublayer(struct model *model, size_t index)
{
    CHECK(index < model->sublayer_count);
    const struct sublayer *sublayer = &model->sublayers[index];
    weights_forget(model->weights, sublayer->layer, sublayer->kind == SUBLAYER_ATTENTION);
}

struct model_work model_get_work(const struct model *model)
{
    return model->work;
}

const char *model_get_identity(const struct model *model)
{
    return device_identity(model->device);
}

struct weights *model_get_weights(const struct model *model)
{
    return model->weights;
}

struct pool *model_get_pool(const struct model *model)
{
    return model->pool;
}

const struct cancel *model_get_cancel(const struct model *model)
{
    return model->cancel;
}

bool model_is_resident(const struct model *model)
{
    return weights_is_resident(model->weights);
}

/* ---- what it takes ----------------------------------------------------------------------------------------------- */

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

void model_measure(const struct inventory *inventory, const char *backend, enum dtype dtype, size_t threads,
                   size_t longest_tokens, struct model_size *ret_size)
{
    const struct model_config *config = &inventory->config;
    struct weights_size weights;
    weights_measure(inventory, backend, dtype, &weights);
    uint64_t attention = 0, ffn = 0, widest = larger(config->hidden_size, config->vocab_size);
    for (size_t i = 0; i < config->layer_count; i++) {
        const struct model_layer *layer = &config->layers[i];
        uint64_t mixed = (2 * layer->head_count + 2 * layer->kv_head_count) * config->head_size;
        uint64_t gate_up = 2 * layer->intermediate_size;
        uint64_t experts = layer->expert_count > 0 ? config->hidden_size + layer->expert_count : 0;
        attention = larger(attention, config->hidden_size + mixed);
        ffn = larger(ffn, 2 * config->hidden_size + gate_up + experts);
        widest = larger(larger(widest, mixed), gate_up);
    }
    uint64_t attention_rows = larger(longest_tokens, CHUNK_ROWS);
    uint64_t head = head_scratch_count(config);
    uint64_t ropes = 2 * (uint64_t)(longest_tokens + longest_tokens / 4 + 256) * config->head_size;
    uint64_t most = larger(larger(attention * attention_rows, ffn * CHUNK_ROWS), head);
    *ret_size = (struct model_size){
        .weights_resident_bytes = weights.resident_bytes,
        .weights_least_bytes = weights.least_bytes,
        .working_bytes =
            sizeof(float) * (most + ropes) +
            device_overhead_bytes(backend, dtype, threads, (size_t)attention_rows, (size_t)widest),
    };
}
