/* workers/model/weights.c: the resident form. One array holds all weights in fp32; `starts` says where each
 * (role, layer) lies. */
#include "workers/model/weights.h"

#include "base/check.h"
#include "base/file.h"
#include "base/memory.h"
#include "workers/model/architecture.h"
#include "workers/tensor/dtype.h"
#include <inttypes.h>
#include <math.h>
#include <string.h>

#define WINDOW_BYTES (1u << 20)
#define ALIGNMENT    16 /* floats: tensors start on a cache line unless they continue a matrix */
#define ABSENT       SIZE_MAX

struct weights {
    const struct inventory *inventory; /* borrowed */
    float *values;                     /* [value_count] */
    size_t value_count;
    size_t (*starts)[WEIGHT_ROLE_COUNT]; /* [layer_count + 1]; the model's own tensors in the last row */
};

static size_t *start_of(const struct weights *weights, enum weight_role role, size_t layer,
                        enum weight_part part)
{
    size_t row = part == WEIGHT_PART_MODEL ? weights->inventory->config.layer_count : layer;
    return &weights->starts[row][role];
}

/* Roles whose matrix continues the one before. */
static bool is_continued(enum weight_role role)
{
    return role == WEIGHT_K || role == WEIGHT_V || role == WEIGHT_K_BIAS || role == WEIGHT_V_BIAS ||
           role == WEIGHT_UP || role == WEIGHT_UP_BIAS;
}

static void place(enum weight_role role, size_t layer, const struct weight_shape *shape, void *context)
{
    struct weights *weights = context;
    if (!is_continued(role)) {
        weights->value_count = (weights->value_count + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    }
    *start_of(weights, role, layer, shape->part) = weights->value_count;
    weights->value_count += (size_t)shape->count;
}

struct loader {
    struct weights *weights;
    const struct cancel *cancel;
    int folder_fd;
    int *fds; /* [file_count], -1: not yet open */
    unsigned char *window;
    struct error *error;
    bool has_failed;
};

static bool check_finite(const float *values, size_t count, uint64_t first, const char *name,
                         struct error *error)
{
    bool is_sound = true;
    for (size_t i = 0; i < count; i++) {
        is_sound &= fabsf(values[i]) < INFINITY;
    }
    for (size_t i = 0; i < count && !is_sound; i++) {
        if (!isfinite(values[i])) {
            uint64_t element = first + i;
            return error_set_field(error, ERROR_NUMERIC, name, "tensor %s holds %s at element %" PRIu64, name,
                                   isnan(values[i]) ? "NaN" : "infinity", element);
        }
    }
    return true;
}

static bool open_file(struct loader *loader, size_t file)
{
    if (loader->fds[file] < 0) {
        const char *path = loader->weights->inventory->files[file].path;
        loader->fds[file] = file_open_beneath(loader->folder_fd, path, true, loader->error);
    }
    return loader->fds[file] >= 0;
}

static bool read_tensor(struct loader *loader, const struct inventory_tensor *tensor, float *to)
{
    uint64_t element = dtype_bytes(tensor->dtype), count = tensor->bytes / element,
             window = WINDOW_BYTES / element;
    const char *path = loader->weights->inventory->files[tensor->file].path;
    if (!open_file(loader, tensor->file)) {
        return false;
    }
    for (uint64_t done = 0; done < count;) {
        size_t part = (size_t)(count - done < window ? count - done : window);
        if (!cancel_check_now(loader->cancel, loader->error) ||
            !file_read_at(loader->fds[tensor->file], loader->window, part * (size_t)element,
                          tensor->offset_bytes + done * element, path, loader->error)) {
            return false;
        }
        dtype_to_f32(tensor->dtype, loader->window, part, to + done);
        if (!check_finite(to + done, part, done, tensor->name, loader->error)) {
            return false;
        }
        done += part;
    }
    return true;
}

static void load(enum weight_role role, size_t layer, const struct weight_shape *shape, void *context)
{
    struct loader *loader = context;
    if (loader->has_failed) {
        return;
    }
    const struct inventory_tensor *tensor = inventory_find(loader->weights->inventory, shape->name);
    CHECK(tensor != NULL &&
          tensor->bytes == shape->count * dtype_bytes(tensor->dtype)); /* inventory checked it */
    float *to = loader->weights->values + *start_of(loader->weights, role, layer, shape->part);
    loader->has_failed = !read_tensor(loader, tensor, to);
}

static bool load_all(struct weights *weights, const char *folder, const struct cancel *cancel,
                     struct error *error)
{
    const struct inventory *inventory = weights->inventory;
    OWNED_MEMORY int *fds = memory_create(inventory->file_count + 1, sizeof *fds);
    OWNED_MEMORY unsigned char *window = memory_create(WINDOW_BYTES, 1);
    OWNED_FD int folder_fd = file_open_folder(folder, error);
    if (folder_fd < 0) {
        return false;
    }
    for (size_t i = 0; i < inventory->file_count; i++) {
        fds[i] = -1;
    }
    struct loader loader = {weights, cancel, folder_fd, fds, window, error, false};
    architecture_visit(&inventory->config, load, &loader);
    for (size_t i = 0; i < inventory->file_count; i++) {
        if (fds[i] >= 0) {
            (void)close(fds[i]);
        }
    }
    return !loader.has_failed;
}

struct weights *weights_open(const struct inventory *inventory, const char *folder,
                             const struct cancel *cancel, struct error *error)
{
    OWNED(weights) weights = memory_create(1, sizeof *weights);
    size_t rows = inventory->config.layer_count + 1;
    weights->inventory = inventory;
    weights->starts = memory_create(rows, sizeof *weights->starts);
    for (size_t i = 0; i < rows; i++) {
        for (size_t role = 0; role < WEIGHT_ROLE_COUNT; role++) {
            weights->starts[i][role] = ABSENT;
        }
    }
    architecture_visit(&inventory->config, place, weights);
    weights->values =
        memory_try_array(weights->value_count, sizeof *weights->values, "the weights in fp32", error);
    if (weights->values == NULL || !load_all(weights, folder, cancel, error)) {
        return NULL;
    }
    return TAKE(weights);
}

void weights_destroy(struct weights *weights)
{
    if (weights == NULL) {
        return;
    }
    free(weights->starts);
    free(weights->values);
    free(weights);
}

static const float *find(const struct weights *weights, enum weight_role role, size_t row)
{
    size_t start = weights->starts[row][role];
    return start == ABSENT ? NULL : weights->values + start;
}

bool weights_acquire(const struct weights *weights, size_t layer, bool is_attention,
                     struct sublayer_weights *ret_weights, struct error *error)
{
    (void)error;
    const struct model_config *config = &weights->inventory->config;
    const struct model_layer *shape = &config->layers[layer];
    bool is_at = is_attention;
    *ret_weights = (struct sublayer_weights){
        .norm = find(weights, is_at ? WEIGHT_ATTENTION_NORM : WEIGHT_FFN_NORM, layer),
        .in = find(weights, is_at ? WEIGHT_Q : WEIGHT_GATE, layer),
        .in_bias = find(weights, is_at ? WEIGHT_Q_BIAS : WEIGHT_GATE_BIAS, layer),
        .out = find(weights, is_at ? WEIGHT_O : WEIGHT_DOWN, layer),
        .out_bias = find(weights, is_at ? WEIGHT_O_BIAS : WEIGHT_DOWN_BIAS, layer),
        .in_rows = is_at ? (shape->head_count + 2 * shape->kv_head_count) * config->head_size
                         : 2 * shape->intermediate_size,
        .out_columns = is_at ? shape->head_count * config->head_size : shape->intermediate_size,
    };
    CHECK(ret_weights->norm != NULL && ret_weights->in != NULL && ret_weights->out != NULL);
    return true;
}

void weights_release(const struct weights *weights, size_t layer, bool is_attention)
{
    (void)weights;
    (void)layer;
    (void)is_attention;
}

const float *weights_embedding(const struct weights *weights)
{
    return find(weights, WEIGHT_EMBEDDING, weights->inventory->config.layer_count);
}

const float *weights_head(const struct weights *weights)
{
    const float *head = find(weights, WEIGHT_HEAD, weights->inventory->config.layer_count);
    return head != NULL ? head : weights_embedding(weights);
}

const float *weights_final_norm(const struct weights *weights)
{
    return find(weights, WEIGHT_FINAL_NORM, weights->inventory->config.layer_count);
}
