/*
 * workers/prune/width_gather.c: the statistics of width methods, in one dense pass. Layer by layer the whole batch goes through a layer's
 * sublayers (both in one visit: parallel layers share what they read); a tap looks at what passes.
 *
 * Gram matrices (gram.h) are as large as a layer's widest projection squared, so only their leverage is kept, layer by layer.
 */
#include "workers/prune/width.h"

#include "base/check.h"
#include "base/memory.h"
#include "workers/model/architecture.h"
#include "workers/model/tap.h"
#include "workers/prune/gram.h"
#include "workers/prune/prune.h"
#include "workers/tensor/dense.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static void finish_sublayer(struct width_sublayer *sublayer)
{
    for (size_t p = 0; p < sublayer->part_count; p++) {
        if (sublayer->moments != NULL) {
            moments_destroy(sublayer->moments[p]);
        }
        if (sublayer->leverage != NULL) {
            free(sublayer->leverage[p]);
        }
        if (sublayer->columns != NULL) {
            weight_columns_finish(&sublayer->columns[p]);
        }
    }
    free(sublayer->moments);
    free(sublayer->leverage);
    free(sublayer->columns);
    free(sublayer->routed);
    moments_destroy(sublayer->residual);
}

void width_statistics_destroy(struct width_statistics *statistics)
{
    for (size_t i = 0; statistics != NULL && i < statistics->sublayer_count; i++) {
        finish_sublayer(&statistics->sublayers[i]);
    }
    if (statistics != NULL) {
        free(statistics->sublayers);
        free(statistics->angles);
        free(statistics->cosines);
        free(statistics);
    }
}

static bool create_part(struct width_sublayer *sublayer, size_t part, unsigned wanted, struct error *error)
{
    if ((wanted & WIDTH_MOMENTS) != 0) {
        sublayer->moments[part] = moments_create(sublayer->count, error);
        if (sublayer->moments[part] == NULL) {
            return false;
        }
    }
    if ((wanted & WIDTH_LEVERAGE) != 0) {
        sublayer->leverage[part] =
            memory_try_array(sublayer->count, sizeof *sublayer->leverage[part], "leverage", error);
        if (sublayer->leverage[part] == NULL) {
            return false;
        }
    }
    return (wanted & WIDTH_WEIGHTS) == 0 ||
           weight_columns_start(&sublayer->columns[part], sublayer->count, error);
}

static bool create_sublayer(struct width_sublayer *sublayer, const struct model_config *config,
                            const struct plan_sublayer *listed, unsigned wanted, struct error *error)
{
    const struct model_layer *layer = &config->layers[listed->layer];
    sublayer->count = listed->is_attention ? layer->head_count * config->head_size : layer->intermediate_size;
    sublayer->part_count = !listed->is_attention && layer->expert_count > 0 ? layer->expert_count : 1;
    size_t parts = sublayer->part_count;
    if ((wanted & WIDTH_MOMENTS) != 0) {
        sublayer->moments = memory_create(parts, sizeof(struct moments *));
    }
    if ((wanted & WIDTH_LEVERAGE) != 0) {
        sublayer->leverage = memory_create(parts, sizeof(double *));
    }
    if ((wanted & WIDTH_WEIGHTS) != 0) {
        sublayer->columns = memory_create(parts, sizeof *sublayer->columns);
    }
    if ((wanted & WIDTH_ROUTED) != 0) {
        sublayer->routed = memory_create(parts, sizeof *sublayer->routed);
    }
    if ((wanted & WIDTH_RESIDUAL) != 0) {
        sublayer->residual = moments_create(config->hidden_size, error);
        if (sublayer->residual == NULL) {
            return false;
        }
    }
    for (size_t p = 0; p < parts; p++) {
        if (!create_part(sublayer, p, wanted, error)) {
            return false;
        }
    }
    return true;
}

static struct width_statistics *create_statistics(const struct model_config *config, unsigned wanted,
                                                  struct error *error)
{
    struct plan_sublayer *listed = NULL;
    OWNED(width_statistics) statistics = memory_create(1, sizeof *statistics);
    size_t count = plan_list_sublayers(config, &listed);
    statistics->have = wanted;
    statistics->sublayers = memory_create(count + 1, sizeof *statistics->sublayers);
    statistics->layer_count = config->layer_count;
    if ((wanted & WIDTH_ANGLES) != 0) {
        statistics->angles = memory_create(config->layer_count + 1, sizeof *statistics->angles);
        statistics->cosines = memory_create(config->layer_count + 1, sizeof *statistics->cosines);
    }
    bool is_good = true;
    for (size_t i = 0; i < count && is_good; i++) {
        statistics->sublayer_count++;
        is_good = create_sublayer(&statistics->sublayers[i], config, &listed[i], wanted, error);
    }
    free(listed);
    return is_good ? TAKE(statistics) : NULL;
}

static uint64_t columns_of(const struct model_config *config, const struct model_layer *layer)
{
    uint64_t parts = layer->expert_count > 0 ? layer->expert_count : 1;
    return (layer->has_attention ? layer->head_count * config->head_size : 0) +
           (layer->has_ffn ? parts * layer->intermediate_size : 0);
}

uint64_t width_statistics_bytes(const struct model_config *config, unsigned wanted)
{
    uint64_t doubles = 0;
    for (size_t i = 0; i < config->layer_count; i++) {
        uint64_t columns = columns_of(config, &config->layers[i]);
        doubles += (wanted & WIDTH_MOMENTS) != 0 ? MOMENTS_SUMS * columns : 0;
        doubles += (wanted & WIDTH_LEVERAGE) != 0 ? columns : 0;
        doubles += (wanted & WIDTH_WEIGHTS) != 0 ? 2 * columns : 0;
        doubles += (wanted & WIDTH_RESIDUAL) != 0 ? 2 * MOMENTS_SUMS * config->hidden_size : 0;
    }
    return doubles * sizeof(double);
}

/* The Gram matrices of one layer, and the factorisation's copy of the largest. */
uint64_t width_gather_bytes(const struct model_config *config, unsigned wanted)
{
    uint64_t most = 0;
    for (size_t i = 0; i < config->layer_count && (wanted & WIDTH_LEVERAGE) != 0; i++) {
        const struct model_layer *layer = &config->layers[i];
        size_t heads = layer->has_attention ? layer->head_count * config->head_size : 0;
        size_t channels = layer->has_ffn ? layer->intermediate_size : 0;
        uint64_t parts = layer->expert_count > 0 ? layer->expert_count : 1;
        uint64_t largest = heads > channels ? heads : channels;
        uint64_t bytes = (heads > 0 ? gram_bytes(heads, 0) : 0) +
                         (channels > 0 ? parts * gram_bytes(channels, 0) : 0) +
                         largest * largest * sizeof(double);
        most = bytes > most ? bytes : most;
    }
    return width_statistics_bytes(config, wanted) + most;
}

/* ---- one layer --------------------------------------------------------------------------------------------------- */

struct pass {
    const struct width_gathering *gathering;
    struct width_statistics *statistics;
    struct dense_threads threads;
    size_t first, end;      /* sublayers of the layer */
    size_t *sequences;      /* [rows of a chunk] */
    size_t *shown;          /* the same, of the rows that a tap sees */
    double *cosines;        /* [rows of a chunk] */
    struct hidden *before;  /* of the chunk */
    struct gram **grams[2]; /* of the layer's sublayers, [part_count] each; NULL: none */
    double angle_sum, cosine_sum;
    uint64_t tokens;
};

static const size_t *sequences_of(const struct pass *pass, const struct tap_rows *rows)
{
    if (rows->numbers == NULL) {
        return pass->sequences + rows->first_row;
    }
    for (size_t r = 0; r < rows->rows; r++) {
        pass->shown[r] = pass->sequences[rows->first_row + (size_t)rows->numbers[r]];
    }
    return pass->shown;
}

static bool look(void *context, const struct tap_rows *rows, struct error *error)
{
    struct pass *pass = context;
    struct width_sublayer *sublayer = &pass->statistics->sublayers[rows->sublayer];
    struct pool *pool = pass->gathering->pool;
    switch (rows->point) {
    case TAP_ATTENTION_INPUT:
    case TAP_FFN_INPUT:
        moments_add(sublayer->residual, rows->values, rows->rows, rows->stride, sequences_of(pass, rows),
                    pool);
        break;
    case TAP_FFN_OUTPUT:
        if (rows->weights != NULL) {
            routed_norm_add(&sublayer->routed[rows->expert], rows->values, rows->rows, rows->size,
                            rows->stride, rows->weights);
        }
        break;
    case TAP_HEADS:
    case TAP_CHANNELS:
        if (sublayer->moments != NULL) {
            moments_add(sublayer->moments[rows->expert], rows->values, rows->rows, rows->stride,
                        sequences_of(pass, rows), pool);
        }
        if (pass->grams[rows->sublayer - pass->first] != NULL) {
            struct gram_rows some = {.rows = rows->rows, .x = rows->values, .x_stride = rows->stride};
            return gram_add(pass->grams[rows->sublayer - pass->first][rows->expert], &pass->threads, GRAM_FIT,
                            &some, error);
        }
        break;
    case TAP_ATTENTION_OUTPUT:
        break;
    }
    return true;
}

static unsigned points_of(unsigned wanted)
{
    unsigned points = 0;
    points |= (wanted & (WIDTH_MOMENTS | WIDTH_LEVERAGE)) != 0 ? 1u << TAP_HEADS | 1u << TAP_CHANNELS : 0;
    points |= (wanted & WIDTH_RESIDUAL) != 0 ? 1u << TAP_ATTENTION_INPUT | 1u << TAP_FFN_INPUT : 0;
    points |= (wanted & WIDTH_ROUTED) != 0 ? 1u << TAP_FFN_OUTPUT : 0;
    return points;
}

static bool keep_before(struct pass *pass, const struct hidden *hidden, struct error *error)
{
    if (pass->before == NULL || pass->before->row_count != hidden->row_count) {
        hidden_destroy(pass->before);
        struct token_sequence rows = {.count = hidden->row_count};
        struct token_batch batch = {&rows, 1};
        pass->before = hidden_create(pass->gathering->model, &batch, error);
    }
    return pass->before != NULL && hidden_copy(pass->before, hidden, error);
}

static bool add_angles(struct pass *pass, const struct hidden *hidden, struct error *error)
{
    if (!hidden_cosines(pass->before, hidden, pass->cosines, error)) {
        return false;
    }
    for (size_t r = 0; r < hidden->row_count; r++) {
        pass->cosine_sum += pass->cosines[r];
        pass->angle_sum += acos(fmax(-1.0, fmin(1.0, pass->cosines[r]))) / M_PI;
    }
    pass->tokens += hidden->row_count;
    return true;
}

static bool run_chunk(void *context, const struct sweep_chunk *chunk, struct error *error)
{
    struct pass *pass = context;
    const struct hidden *hidden = chunk->hidden;
    for (size_t s = 0; s < hidden->sequence_count; s++) {
        for (size_t r = 0; r < hidden->segments[s].count; r++) {
            pass->sequences[hidden->segments[s].first_row + r] = chunk->first_sequence + s;
        }
    }
    bool has_angles = pass->statistics->angles != NULL;
    if (has_angles && !keep_before(pass, hidden, error)) {
        return false;
    }
    for (size_t i = pass->first; i < pass->end; i++) {
        if (!model_run_sublayer(pass->gathering->model, i, chunk->hidden, error)) {
            return false;
        }
    }
    return !has_angles || add_angles(pass, hidden, error);
}

static bool open_grams(struct pass *pass, struct error *error)
{
    for (size_t i = pass->first; i < pass->end && (pass->gathering->wanted & WIDTH_LEVERAGE) != 0; i++) {
        const struct width_sublayer *sublayer = &pass->statistics->sublayers[i];
        struct gram **grams = memory_create(sublayer->part_count, sizeof(struct gram *));
        pass->grams[i - pass->first] = grams;
        for (size_t p = 0; p < sublayer->part_count; p++) {
            grams[p] = gram_create(sublayer->count, 0, error);
            if (grams[p] == NULL) {
                return false;
            }
        }
    }
    return true;
}

static bool take_leverage(struct pass *pass, struct gram *gram, double *ret_leverage, struct error *error)
{
    if (!gram_finish(gram, &pass->threads, error)) {
        return false;
    }
    const struct gram_sums *sums = &gram->parts[GRAM_FIT];
    double lambda = pass->gathering->leverage_ratio * gram_mean_diagonal(sums);
    return !(lambda > 0) || dense_leverage(&pass->threads, &sums->c, lambda, ret_leverage, error);
}

static bool close_grams(struct pass *pass, bool is_wanted, struct error *error)
{
    bool is_good = is_wanted;
    for (size_t i = pass->first; i < pass->end; i++) {
        struct gram **grams = pass->grams[i - pass->first];
        const struct width_sublayer *sublayer = &pass->statistics->sublayers[i];
        for (size_t p = 0; grams != NULL && p < sublayer->part_count; p++) {
            is_good = is_good && take_leverage(pass, grams[p], sublayer->leverage[p], error);
            gram_destroy(grams[p]);
        }
        free(grams);
        pass->grams[i - pass->first] = NULL;
    }
    return is_good || !is_wanted;
}

static bool run_layers(struct pass *pass, struct sweep *sweep, struct error *error)
{
    const struct width_gathering *gathering = pass->gathering;
    size_t layers = pass->statistics->layer_count, count = pass->statistics->sublayer_count;
    for (size_t layer = 0; layer < layers; layer++) {
        pass->first = pass->end;
        while (pass->end < count && model_sublayer(gathering->model, pass->end)->layer == layer) {
            pass->end++;
        }
        pass->angle_sum = pass->cosine_sum = 0;
        pass->tokens = 0;
        bool is_good = pass->first == pass->end ||
                       (open_grams(pass, error) && sweep_each(sweep, true, run_chunk, pass, error));
        if (!close_grams(pass, is_good, error) || !is_good) {
            return false;
        }
        if (pass->statistics->angles != NULL) {
            double tokens = (double)pass->tokens;
            pass->statistics->angles[layer] = pass->tokens > 0 ? pass->angle_sum / tokens : (double)NAN;
            pass->statistics->cosines[layer] = pass->tokens > 0 ? pass->cosine_sum / tokens : (double)NAN;
        }
        if (gathering->observer != NULL && gathering->observer->progress != NULL) {
            gathering->observer->progress(gathering->observer->context, layer + 1, layers, "layer");
        }
    }
    return true;
}

static void close_moments(struct width_statistics *statistics)
{
    for (size_t i = 0; i < statistics->sublayer_count; i++) {
        struct width_sublayer *sublayer = &statistics->sublayers[i];
        for (size_t p = 0; sublayer->moments != NULL && p < sublayer->part_count; p++) {
            moments_close(sublayer->moments[p]);
        }
        if (sublayer->residual != NULL) {
            moments_close(sublayer->residual);
        }
    }
}

static bool gather_data(const struct width_gathering *gathering, struct width_statistics *statistics,
                        struct error *error)
{
    OWNED(sweep) sweep = sweep_create(gathering->model, gathering->batch, &gathering->sweep, error);
    if (sweep == NULL || !sweep_embed(sweep, error)) {
        return false;
    }
    size_t rows = sweep_most_rows(sweep) + 1;
    OWNED_MEMORY size_t *sequences = memory_try_array(rows, sizeof *sequences, "row numbers", error);
    OWNED_MEMORY size_t *shown = memory_try_array(rows, sizeof *shown, "row numbers", error);
    OWNED_MEMORY double *cosines = memory_try_array(rows, sizeof *cosines, "cosines", error);
    if (sequences == NULL || shown == NULL || cosines == NULL) {
        return false;
    }
    struct pass pass = {.gathering = gathering,
                        .statistics = statistics,
                        .threads = {gathering->pool, gathering->cancel},
                        .sequences = sequences,
                        .shown = shown,
                        .cosines = cosines};
    struct model_tap tap = {.context = &pass, .points = points_of(gathering->wanted), .visit = look};
    model_set_tap(gathering->model, &tap);
    bool is_good = run_layers(&pass, sweep, error);
    model_set_tap(gathering->model, NULL);
    hidden_destroy(pass.before);
    close_moments(statistics);
    return is_good;
}

/* ---- weights ----------------------------------------------------------------------------------------------------- */

#define WEIGHT_ROWS 256

static bool add_columns(const struct width_gathering *gathering, const struct source *source,
                        enum weight_role role, size_t layer, size_t expert, struct weight_columns *columns,
                        struct error *error)
{
    struct source_view view;
    if (!width_view(gathering->inventory, role, layer, expert, &view)) {
        return error_set(error, ERROR_INTERNAL, "layer %zu has no output projection", layer);
    }
    CHECK(view.columns == columns->count);
    uint64_t step = view.rows < WEIGHT_ROWS ? view.rows : WEIGHT_ROWS;
    OWNED_MEMORY float *rows =
        memory_try_array((size_t)(step * view.columns), sizeof *rows, view.tensor->name, error);
    OWNED_MEMORY void *window =
        memory_try_array(source_window_bytes(&view, step), 1, view.tensor->name, error);
    for (uint64_t done = 0; rows != NULL && window != NULL && done < view.rows; done += step) {
        uint64_t count = view.rows - done < step ? view.rows - done : step;
        if (!cancel_check(gathering->cancel, error) ||
            !source_read_rows(source, &view, done, count, window, rows, error)) {
            return false;
        }
        weight_columns_add(columns, rows, (size_t)count, (size_t)view.columns);
    }
    return rows != NULL && window != NULL;
}

bool width_view(const struct inventory *inventory, enum weight_role role, size_t layer, size_t expert,
                struct source_view *ret_view)
{
    struct weight_shape shape;
    if (!architecture_tensor(&inventory->config, role, layer, expert, &shape)) {
        return false;
    }
    const struct inventory_tensor *tensor = inventory_find(inventory, shape.name);
    CHECK(tensor != NULL);
    source_view_canonical(tensor, ret_view);
    if (shape.is_transposed) {
        source_view_transpose(ret_view);
    }
    return true;
}

static bool gather_weights(const struct width_gathering *gathering, struct width_statistics *statistics,
                           struct error *error)
{
    OWNED(source) source = source_open(gathering->inventory, gathering->folder, error);
    struct plan_sublayer *listed = NULL;
    size_t count = plan_list_sublayers(&gathering->inventory->config, &listed);
    bool is_good = source != NULL;
    for (size_t i = 0; i < count && is_good; i++) {
        struct width_sublayer *sublayer = &statistics->sublayers[i];
        bool has_experts = gathering->inventory->config.layers[listed[i].layer].expert_count > 0;
        enum weight_role role = listed[i].is_attention ? WEIGHT_O
                                : has_experts          ? WEIGHT_EXPERT_DOWN
                                                       : WEIGHT_DOWN;
        for (size_t p = 0; p < sublayer->part_count && is_good; p++) {
            is_good = add_columns(gathering, source, role, listed[i].layer, p, &sublayer->columns[p], error);
        }
    }
    free(listed);
    return is_good;
}

struct width_statistics *width_gather(const struct width_gathering *gathering, struct error *error)
{
    OWNED(width_statistics)
    statistics = create_statistics(&gathering->inventory->config, gathering->wanted, error);
    if (statistics == NULL ||
        ((gathering->wanted & WIDTH_WEIGHTS) != 0 && !gather_weights(gathering, statistics, error)) ||
        ((gathering->wanted & WIDTH_NEEDS_DATA) != 0 && !gather_data(gathering, statistics, error))) {
        return NULL;
    }
    return TAKE(statistics);
}
