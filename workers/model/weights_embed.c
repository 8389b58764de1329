/* workers/model/weights_embed.c: what enters the first sublayer, row by row from the file. */
#include "workers/model/weights_internal.h"

#include "base/check.h"
#include "base/memory.h"
#include <math.h>

static float *read_vector(struct weights *weights, enum weight_role role, struct error *error)
{
    struct source_view view;
    bool has_tensor = weights_view(weights->inventory, role, 0, 0, &view);
    CHECK(has_tensor);
    /* Row 0 of a matrix (token types), all of a vector. */
    uint64_t rows = view.columns > 1 ? 1 : view.rows;
    float *values = memory_try_array((size_t)(rows * view.columns), sizeof *values, view.tensor->name, error);
    void *window = memory_try_array(source_window_bytes(&view, rows), 1, view.tensor->name, error);
    bool is_good = values != NULL && window != NULL &&
                   source_read_rows(weights->source, &view, 0, rows, window, values, error);
    free(window);
    if (!is_good) {
        free(values);
        return NULL;
    }
    return values;
}

bool embed_open(struct weights *weights, struct error *error)
{
    struct {
        enum weight_role role;
        float **values;
    } vectors[] = {{WEIGHT_EMBEDDING_NORM, &weights->embedding_norm},
                   {WEIGHT_EMBEDDING_NORM_BIAS, &weights->embedding_norm_bias},
                   {WEIGHT_TOKEN_TYPE_EMBEDDING, &weights->token_type}};
    for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++) {
        struct weight_shape shape;
        if (architecture_tensor(weights->config, vectors[i].role, 0, 0, &shape)) {
            *vectors[i].values = read_vector(weights, vectors[i].role, error);
            if (*vectors[i].values == NULL) {
                return false;
            }
        }
    }
    return true;
}

static void normalise(const struct weights *weights, float *row, size_t size)
{
    double mean = 0;
    double squares = 0;
    bool is_layer = weights->architecture->norm == NORM_LAYER;
    for (size_t i = 0; is_layer && i < size; i++) {
        mean += (double)row[i];
    }
    mean /= (double)size;
    for (size_t i = 0; i < size; i++) {
        double centred = (double)row[i] - mean;
        squares += centred * centred;
    }
    double factor = 1 / sqrt(squares / (double)size + weights->config->norm_epsilon);
    for (size_t i = 0; i < size; i++) {
        float bias = weights->embedding_norm_bias != NULL ? weights->embedding_norm_bias[i] : 0.0f;
        row[i] = (float)(((double)row[i] - mean) * factor) * weights->embedding_norm[i] + bias;
    }
}

struct embedding {
    struct source_view tokens, positions;
    float *row;   /* [hidden] of the position */
    void *window; /* for one row of either */
};

static bool embed_token(const struct weights *weights, const struct embedding *embedding, int32_t token,
                        size_t position, float *ret_row, struct error *error)
{
    const struct model_config *config = weights->config;
    size_t size = config->hidden_size;
    CHECK(token >= 0 && (uint64_t)token < embedding->tokens.rows);
    if (!source_read_rows(weights->source, &embedding->tokens, (uint64_t)token, 1, embedding->window, ret_row,
                          error)) {
        return false;
    }
    float scale = (float)config->embedding_scale;
    for (size_t i = 0; i < size; i++) {
        ret_row[i] *= scale;
    }
    for (size_t i = 0; weights->token_type != NULL && i < size; i++) {
        ret_row[i] += weights->token_type[i];
    }
    if (config->position_kind == POSITION_LEARNED) {
        uint64_t row = position + config->position_offset;
        CHECK(row < embedding->positions.rows); /* windows are no longer than the context */
        if (!source_read_rows(weights->source, &embedding->positions, row, 1, embedding->window,
                              embedding->row, error)) {
            return false;
        }
        for (size_t i = 0; i < size; i++) {
            ret_row[i] += embedding->row[i];
        }
    }
    if (weights->embedding_norm != NULL) {
        normalise(weights, ret_row, size);
    }
    return true;
}

bool weights_embed(const struct weights *weights, const int32_t *tokens, size_t count, size_t first_position,
                   float *ret_rows, struct error *error)
{
    struct embedding embedding = {0};
    size_t size = weights->config->hidden_size;
    bool has_tokens = weights_view(weights->inventory, WEIGHT_EMBEDDING, 0, 0, &embedding.tokens);
    CHECK(has_tokens && embedding.tokens.columns == size);
    size_t window = source_window_bytes(&embedding.tokens, 1);
    if (weights->config->position_kind == POSITION_LEARNED) {
        bool has_positions =
            weights_view(weights->inventory, WEIGHT_POSITION_EMBEDDING, 0, 0, &embedding.positions);
        CHECK(has_positions && embedding.positions.columns == size);
        size_t other = source_window_bytes(&embedding.positions, 1);
        window = other > window ? other : window;
    }
    embedding.row = memory_try_array(size, sizeof *embedding.row, "an embedding", error);
    embedding.window = memory_try_array(window, 1, "an embedding", error);
    bool is_good = embedding.row != NULL && embedding.window != NULL;
    for (size_t i = 0; i < count && is_good; i++) {
        is_good = embed_token(weights, &embedding, tokens[i], first_position + i, ret_rows + i * size, error);
    }
    free(embedding.row);
    free(embedding.window);
    return is_good;
}
