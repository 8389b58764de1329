/* workers/prune/rotation.c: see rotation.h. */
#include "workers/prune/rotation.h"

#include "base/check.h"
#include "base/memory.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

bool rotation_check(const struct model_config *config, struct error *error)
{
    const struct architecture *row = architecture_of(config);
    struct weight_shape shape;
    const char *reason = NULL;
    if (row->norm != NORM_RMS) {
        reason = "their norms subtract the mean of all channels, which a rotation does not keep";
    } else if (row->norm_placement != NORM_BEFORE) {
        reason = "they have norms after sublayers, whose weights cannot be moved through a rotation";
    } else if (architecture_tensor(config, WEIGHT_EMBEDDING_NORM, 0, 0, &shape)) {
        reason = "they have a norm of embeddings, whose weights cannot be moved through a rotation";
    }
    return reason == NULL || error_set(error, ERROR_UNSUPPORTED, "models of type %s cannot be rotated: %s",
                                       config->model_type, reason);
}

/* ---- the sum of all signals' C ----------------------------------------------------------------------------------- */

enum { SIGNALS = 2 }; /* of one layer */

struct signal {
    float *
        rows; /* [DENSE_BLOCK_ROWS, size]: blocks are counted from the batch's first row, whatever the chunks */
    size_t row_count;
    struct dense_symmetric gram;
};
struct gathering {
    const struct rotation_gathering *options;
    struct dense_threads threads;
    size_t size, first, end; /* sublayers of the current layer; none: the final norm's signal */
    struct signal signals[SIGNALS];
    double *sum;
};

static bool flush(struct gathering *gathering, struct signal *signal, struct error *error)
{
    size_t count = signal->row_count;
    signal->row_count = 0;
    return count == 0 ||
           dense_add_gram(&gathering->threads, count, signal->rows, gathering->size, &signal->gram, error);
}

static void normalise(float *row, size_t size)
{
    double square = 0;
    for (size_t i = 0; i < size; i++) {
        square += (double)row[i] * (double)row[i];
    }
    double scale = square > 0 ? 1 / sqrt(square) : 0;
    for (size_t i = 0; i < size; i++) {
        row[i] = (float)((double)row[i] * scale);
    }
}

static bool add_rows(struct gathering *gathering, struct signal *signal, const struct hidden *hidden,
                     struct error *error)
{
    size_t size = gathering->size;
    for (size_t done = 0; done < hidden->row_count;) {
        size_t room = DENSE_BLOCK_ROWS - signal->row_count;
        size_t now = hidden->row_count - done < room ? hidden->row_count - done : room;
        float *rows = signal->rows + signal->row_count * size;
        if (!hidden_read(hidden, done, now, rows, error)) {
            return false;
        }
        for (size_t r = 0; r < now && gathering->options->is_normed; r++) {
            normalise(rows + r * size, size);
        }
        signal->row_count += now;
        done += now;
        if (signal->row_count == DENSE_BLOCK_ROWS && !flush(gathering, signal, error)) {
            return false;
        }
    }
    return true;
}

static bool gather_chunk(void *context, const struct sweep_chunk *chunk, struct error *error)
{
    struct gathering *gathering = context;
    if (gathering->first == gathering->end) {
        return add_rows(gathering, &gathering->signals[0], chunk->hidden, error);
    }
    for (size_t i = gathering->first; i < gathering->end; i++) {
        if (!add_rows(gathering, &gathering->signals[i - gathering->first], chunk->hidden, error) ||
            !model_run_sublayer(gathering->options->model, i, chunk->hidden, error)) {
            return false;
        }
    }
    return true;
}

/* sum += C / trace C, and C is zero again. */
static bool close_signal(struct gathering *gathering, struct signal *signal, struct error *error)
{
    size_t size = gathering->size;
    if (!flush(gathering, signal, error)) {
        return false;
    }
    double trace = 0;
    for (size_t i = 0; i < size; i++) {
        trace += dense_symmetric_get(&signal->gram, i, i);
    }
    for (size_t i = 0; i < size; i++) {
        for (size_t j = 0; j <= i; j++) {
            gathering->sum[i * size + j] += trace > 0 ? dense_symmetric_get(&signal->gram, i, j) / trace : 0;
        }
    }
    return true;
}

static bool gather_signals(struct gathering *gathering, struct sweep *sweep, double *pair, bool is_changed,
                           struct error *error)
{
    size_t count = gathering->end > gathering->first ? gathering->end - gathering->first : 1;
    memset(pair, 0, gathering->size * (gathering->size + 1) * sizeof *pair);
    if (!sweep_each(sweep, is_changed, gather_chunk, gathering, error)) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (!close_signal(gathering, &gathering->signals[i], error)) {
            return false;
        }
    }
    return true;
}

static bool gather_layers(struct gathering *gathering, struct sweep *sweep, double *pair, struct error *error)
{
    struct model *model = gathering->options->model;
    const struct prune_observer *observer = gathering->options->observer;
    size_t layers = model_get_config(model)->layer_count;
    for (size_t layer = 0; layer < layers; layer++) {
        gathering->first = gathering->end;
        while (gathering->end < model_sublayer_count(model) &&
               model_sublayer(model, gathering->end)->layer == layer) {
            gathering->end++;
        }
        if (gathering->end > gathering->first && !gather_signals(gathering, sweep, pair, true, error)) {
            return false;
        }
        if (observer != NULL && observer->progress != NULL) {
            observer->progress(observer->context, layer + 1, layers, "layer");
        }
    }
    gathering->first = gathering->end;
    return gather_signals(gathering, sweep, pair, false, error);
}

bool rotation_gather(const struct rotation_gathering *options, double *ret_sum, struct error *error)
{
    size_t size = model_get_config(options->model)->hidden_size;
    struct gathering gathering = {.options = options, .size = size, .sum = ret_sum};
    gathering.threads =
        (struct dense_threads){model_get_pool(options->model), model_get_cancel(options->model)};
    OWNED_MEMORY double *pair = memory_try_array(size * (size + 1), sizeof *pair, "Gram matrices", error);
    OWNED_MEMORY float *rows = memory_try_array(SIGNALS * DENSE_BLOCK_ROWS * size, sizeof *rows,
                                                "rows of the residual stream", error);
    OWNED(sweep) sweep = sweep_create(options->model, options->batch, &options->sweep, error);
    if (pair == NULL || rows == NULL || sweep == NULL) {
        return false;
    }
    dense_symmetric_pair(pair, size, &gathering.signals[0].gram, &gathering.signals[1].gram);
    for (size_t i = 0; i < SIGNALS; i++) {
        gathering.signals[i].rows = rows + i * DENSE_BLOCK_ROWS * size;
    }
    memset(ret_sum, 0, size * size * sizeof *ret_sum);
    return sweep_embed(sweep, error) && gather_layers(&gathering, sweep, pair, error);
}

/* ---- weights ----------------------------------------------------------------------------------------------------- */

struct put {
    const struct mixing *mixing;
    const struct model_config *config; /* the source's */
    const double *basis;
    size_t size, count;
    double *scaled; /* [count, size]: basis diag(g) of the norm named */
    char scaled_norm[128];
};

enum side { SIDE_NONE, SIDE_READS, SIDE_READS_PLAIN, SIDE_WRITES, SIDE_NORM };

/* Where the residual stream is in a role's tensor. */
static enum side side_of(enum weight_role role)
{
    switch (role) {
    case WEIGHT_EMBEDDING:
    case WEIGHT_POSITION_EMBEDDING:
    case WEIGHT_TOKEN_TYPE_EMBEDDING:
        return SIDE_READS_PLAIN; /* rows of states: as columns of what reads them, without a norm */
    case WEIGHT_HEAD:
    case WEIGHT_Q:
    case WEIGHT_K:
    case WEIGHT_V:
    case WEIGHT_QKV:
    case WEIGHT_GATE:
    case WEIGHT_UP:
    case WEIGHT_GATE_UP:
    case WEIGHT_ROUTER:
    case WEIGHT_EXPERT_GATE:
    case WEIGHT_EXPERT_UP:
        return SIDE_READS;
    case WEIGHT_O:
    case WEIGHT_O_BIAS:
    case WEIGHT_DOWN:
    case WEIGHT_DOWN_BIAS:
    case WEIGHT_EXPERT_DOWN:
        return SIDE_WRITES;
    case WEIGHT_FINAL_NORM:
    case WEIGHT_ATTENTION_NORM:
    case WEIGHT_FFN_NORM:
        return SIDE_NORM;
    case WEIGHT_EMBEDDING_NORM: /* rotation_check refuses these */
    case WEIGHT_EMBEDDING_NORM_BIAS:
    case WEIGHT_FINAL_NORM_BIAS:
    case WEIGHT_ATTENTION_NORM_BIAS:
    case WEIGHT_FFN_NORM_BIAS:
    case WEIGHT_ATTENTION_POST_NORM:
    case WEIGHT_FFN_POST_NORM:
    case WEIGHT_Q_BIAS: /* of a head, or a channel */
    case WEIGHT_K_BIAS:
    case WEIGHT_V_BIAS:
    case WEIGHT_QKV_BIAS:
    case WEIGHT_GATE_BIAS:
    case WEIGHT_UP_BIAS:
    case WEIGHT_Q_NORM:
    case WEIGHT_K_NORM:
    case WEIGHT_ROLE_COUNT:
        break;
    }
    return SIDE_NONE;
}

/* put->scaled for what reads the norm that stands before this part of the layer. */
static bool scale_basis(struct put *put, enum weight_part part, size_t layer, struct error *error)
{
    enum weight_role role = part == WEIGHT_PART_MODEL       ? WEIGHT_FINAL_NORM
                            : part == WEIGHT_PART_ATTENTION ? WEIGHT_ATTENTION_NORM
                                                            : WEIGHT_FFN_NORM;
    struct weight_shape norm;
    if (!architecture_tensor(put->config, role, layer, 0, &norm)) {
        return error_set(error, ERROR_UNSUPPORTED, "layer %zu has no norm before its sublayers", layer);
    }
    if (strcmp(put->scaled_norm, norm.name) == 0) {
        return true;
    }
    OWNED_MEMORY double *weights = memory_create(put->size, sizeof *weights);
    if (!mixing_read_vector(put->mixing, norm.name, put->size, weights, error)) {
        return false;
    }
    double one = architecture_of(put->config)->norm_adds_one ? 1 : 0;
    for (size_t i = 0; i < put->count; i++) {
        for (size_t j = 0; j < put->size; j++) {
            put->scaled[i * put->size + j] = put->basis[i * put->size + j] * (weights[j] + one);
        }
    }
    (void)snprintf(put->scaled_norm, sizeof put->scaled_norm, "%s", norm.name);
    return true;
}

static bool put_norm(const struct put *put, const char *name, struct error *error)
{
    OWNED_MEMORY float *values = memory_create(put->count, sizeof *values);
    double one = architecture_of(put->config)->norm_adds_one ? 1 : 0;
    double weight = sqrt((double)put->size / (double)put->count) - one;
    for (size_t i = 0; i < put->count; i++) {
        values[i] = (float)weight;
    }
    return patch_put(put->mixing->patch, name, 1, (uint64_t[]){put->count}, values, error);
}

static bool put_tensor(struct put *put, enum weight_role role, size_t layer, const struct weight_shape *shape,
                       struct error *error)
{
    switch (side_of(role)) {
    case SIDE_NONE:
        return true;
    case SIDE_READS:
        return scale_basis(put, shape->part, layer, error) &&
               mixing_put_inputs(put->mixing, shape, shape->name, put->scaled, put->count, error);
    case SIDE_READS_PLAIN:
        return mixing_put_inputs(put->mixing, shape, shape->name, put->basis, put->count, error);
    case SIDE_WRITES:
        return mixing_put_outputs(put->mixing, shape, shape->name, put->basis, put->count, error);
    case SIDE_NORM:
        return put_norm(put, shape->name, error);
    }
    return false;
}

/* A head that was tied: the embedding's rows, read by the final norm. */
static bool put_untied_head(struct put *put, struct error *error)
{
    OWNED_MEMORY struct model_config *untied = memory_create(1, sizeof *untied);
    struct weight_shape head;
    struct weight_shape embedding;
    *untied = *put->config;
    untied->has_tied_head = false;
    return !put->config->has_tied_head || !architecture_tensor(untied, WEIGHT_HEAD, 0, 0, &head) ||
           (architecture_tensor(put->config, WEIGHT_EMBEDDING, 0, 0, &embedding) &&
            scale_basis(put, WEIGHT_PART_MODEL, 0, error) &&
            mixing_put_inputs(put->mixing, &embedding, head.name, put->scaled, put->count, error));
}

struct listed {
    enum weight_role role;
    size_t layer;
    struct weight_shape shape;
};
struct list {
    struct listed *items;
    size_t count, capacity;
};

static void list_tensor(enum weight_role role, size_t layer, const struct weight_shape *shape, void *context)
{
    struct list *list = context;
    if (list->count == list->capacity) {
        list->capacity = 2 * list->capacity + 64;
        list->items = memory_resize(list->items, list->capacity, sizeof *list->items);
    }
    list->items[list->count++] = (struct listed){role, layer, *shape};
}

bool rotation_put(const struct mixing *mixing, const double *basis, size_t count,
                  const struct prune_observer *observer, struct error *error)
{
    const struct model_config *config = &mixing->inventory->config;
    struct put put = {
        .mixing = mixing, .config = config, .basis = basis, .size = config->hidden_size, .count = count};
    CHECK(count > 0 && count <= config->hidden_size);
    OWNED_MEMORY double *scaled =
        memory_try_array(count * put.size, sizeof *scaled, "a basis of the residual stream", error);
    put.scaled = scaled;
    if (scaled == NULL || !rotation_check(config, error)) {
        return false;
    }
    struct list list = {0};
    architecture_visit(config, list_tensor, &list);
    bool is_good = true;
    for (size_t i = 0; i < list.count && is_good; i++) {
        const struct listed *item = &list.items[i];
        is_good = put_tensor(&put, item->role, item->layer, &item->shape, error);
        if (observer != NULL && observer->progress != NULL) {
            observer->progress(observer->context, i + 1, list.count, "tensor");
        }
    }
    free(list.items);
    return is_good && put_untied_head(&put, error);
}

static void find_largest(enum weight_role role, size_t layer, const struct weight_shape *shape, void *context)
{
    (void)layer;
    uint64_t *most = context;
    uint64_t bytes =
        side_of(role) == SIDE_WRITES && shape->rank == 2 ? mixing_bytes(shape->shape[0], shape->shape[1]) : 0;
    *most = bytes > *most ? bytes : *most;
}

uint64_t rotation_put_bytes(const struct model_config *config)
{
    uint64_t most = mixing_bytes(512, config->hidden_size);
    architecture_visit(config, find_largest, &most);
    return most + (uint64_t)config->hidden_size * config->hidden_size * sizeof(double);
}
