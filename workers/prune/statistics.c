/*
 * workers/prune/statistics.c: what one dense forward pass over the calibration batch can tell. The batch goes through the model
 * layer by layer (sweep.h), so weights are read once for it.
 *
 * A cosine is clamped to [-1, 1]; two zero vectors do not differ (cosine 1). Sums in double, tokens in order, whatever the chunks.
 *
 * Angles of spans need the states before every layer at once. Of last tokens these are few; of all tokens they are
 * (layers + 1) times the batch, so the batch is cut into groups of sequences whose states fit, each of which goes through the
 * whole model: streamed weights are read once for each group. Angles are then summed sequence by sequence.
 */
#include "workers/prune/prune.h"

#include "base/memory.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PI 3.14159265358979323846
enum { TASK_ROWS = 64 };

size_t prune_span_count(size_t layer_count)
{
    return layer_count * (layer_count + 1) / 2;
}

size_t prune_span_index(size_t layer_count, size_t from, size_t to)
{
    return from * (2 * layer_count - from + 1) / 2 + (to - from - 1);
}

/* ---- cosines --------------------------------------------------------------------------------------------- */

struct gathering {
    struct model *model;
    const struct prune_turn_options *options;
    const struct prune_observer *observer;
    size_t layer_count, sublayer_count;
    struct prune_turns sums;                       /* owned; NULL: not asked for */
    struct hidden *block_before, *sublayer_before; /* copies of a chunk; made anew where the shape changes */
    double *row_cosines;                           /* [rows of the largest chunk] */
    size_t tokens;                                 /* of groups that are done */
    size_t angle_tokens;                           /* that angles were summed over */
    size_t layer, first, end;                      /* the current layer and its sublayers */
    struct token_batch batch;                      /* of the current group */
    float *states; /* [layer_count + 1, state_rows, hidden_size] of the current group */
    size_t state_rows;
};

static bool copy_chunk(const struct gathering *gathering, struct hidden **copy, const struct hidden *hidden,
                       struct error *error)
{
    if (*copy == NULL || (*copy)->row_count != hidden->row_count) {
        hidden_destroy(*copy);
        struct token_sequence rows = {.count = hidden->row_count};
        struct token_batch batch = {&rows, 1};
        *copy = hidden_create(gathering->model, &batch, error);
    }
    return *copy != NULL && hidden_copy(*copy, hidden, error);
}

static bool add_cosines(const struct gathering *gathering, const struct hidden *before,
                        const struct hidden *after, double *sum, struct error *error)
{
    if (!hidden_cosines(before, after, gathering->row_cosines, error)) {
        return false;
    }
    for (size_t r = 0; r < after->row_count; r++) {
        *sum += gathering->row_cosines[r];
    }
    return true;
}

/* The rows that angles are made of, as they are before layer `boundary`. */
static bool keep_states(const struct gathering *gathering, const struct sweep_chunk *chunk, size_t boundary,
                        struct error *error)
{
    const struct hidden *hidden = chunk->hidden;
    size_t size = hidden->hidden_size;
    float *to = gathering->states + boundary * gathering->state_rows * size;
    if (gathering->options->angles_of_all_tokens) {
        return hidden_read(hidden, 0, hidden->row_count, to + chunk->first_row * size, error);
    }
    for (size_t s = 0; s < hidden->sequence_count; s++) {
        const struct segment *segment = &hidden->segments[s];
        if (segment->count > 0 && !hidden_read(hidden, segment->first_row + segment->count - 1, 1,
                                               to + (chunk->first_sequence + s) * size, error)) {
            return false;
        }
    }
    return true;
}

static bool gather_chunk(void *context, const struct sweep_chunk *chunk, struct error *error)
{
    struct gathering *gathering = context;
    struct hidden *hidden = chunk->hidden;
    if ((gathering->states != NULL && gathering->layer == 0 && !keep_states(gathering, chunk, 0, error)) ||
        (gathering->sums.block_cosines != NULL &&
         !copy_chunk(gathering, &gathering->block_before, hidden, error))) {
        return false;
    }
    for (size_t i = gathering->first; i < gathering->end; i++) {
        bool is_asked = gathering->sums.sublayer_cosines != NULL;
        if ((is_asked && !copy_chunk(gathering, &gathering->sublayer_before, hidden, error)) ||
            !model_run_sublayer(gathering->model, i, hidden, error) ||
            (is_asked && !add_cosines(gathering, gathering->sublayer_before, hidden,
                                      &gathering->sums.sublayer_cosines[i], error))) {
            return false;
        }
    }
    return (gathering->sums.block_cosines == NULL ||
            add_cosines(gathering, gathering->block_before, hidden,
                        &gathering->sums.block_cosines[gathering->layer], error)) &&
           (gathering->states == NULL || keep_states(gathering, chunk, gathering->layer + 1, error));
}

/* ---- angles ---------------------------------------------------------------------------------------------- */

struct angle_task { /* rows of one sequence */
    size_t first_row, count;
};
struct angle_run {
    const struct gathering *gathering;
    const struct angle_task *tasks;
    double *sums;  /* [tasks, spans] */
    double *norms; /* [threads, layer_count + 1] */
};

enum { LANES = 8 }; /* added up in order: something to vectorise, and the same bits everywhere */

static double dot(const float *a, const float *b, size_t count)
{
    double lanes[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        for (size_t lane = 0; lane < LANES; lane++) {
            lanes[lane] += (double)a[i + lane] * (double)b[i + lane];
        }
    }
    for (size_t lane = 0; i < count; i++, lane++) {
        lanes[lane] += (double)a[i] * (double)b[i];
    }
    double sum = 0;
    for (size_t lane = 0; lane < LANES; lane++) {
        sum += lanes[lane];
    }
    return sum;
}

double prune_angle(double product, double norm_a, double norm_b)
{
    if (norm_a <= 0 || norm_b <= 0) {
        return norm_a <= 0 && norm_b <= 0 ? 0 : 0.5;
    }
    double cosine = product / (norm_a * norm_b);
    return acos(cosine > 1 ? 1 : cosine < -1 ? -1 : cosine) / PI;
}

static void angle_task_run(void *context, size_t index, size_t thread)
{
    const struct angle_run *run = context;
    const struct gathering *gathering = run->gathering;
    size_t boundaries = gathering->layer_count + 1;
    size_t size = model_get_config(gathering->model)->hidden_size;
    size_t stride = gathering->state_rows * size;
    double *sums = run->sums + index * prune_span_count(gathering->layer_count);
    double *norms = run->norms + thread * boundaries;
    for (size_t r = 0; r < run->tasks[index].count; r++) {
        const float *row = gathering->states + (run->tasks[index].first_row + r) * size;
        for (size_t b = 0; b < boundaries; b++) {
            norms[b] = sqrt(dot(row + b * stride, row + b * stride, size));
        }
        size_t span = 0;
        for (size_t from = 0; from < boundaries; from++) {
            for (size_t to = from + 1; to < boundaries; to++) {
                double product = dot(row + from * stride, row + to * stride, size);
                sums[span++] += prune_angle(product, norms[from], norms[to]);
            }
        }
    }
}

static size_t list_tasks(const struct gathering *gathering, struct angle_task **ret_tasks)
{
    struct angle_task *tasks = memory_create(gathering->state_rows + 1, sizeof *tasks);
    size_t count = 0;
    size_t row = 0;
    for (size_t s = 0; s < gathering->batch.sequence_count; s++) {
        size_t rows = gathering->batch.sequences[s].count;
        if (!gathering->options->angles_of_all_tokens) {
            tasks[count++] = (struct angle_task){s, rows > 0 ? 1 : 0};
            continue;
        }
        for (size_t done = 0; done < rows; done += TASK_ROWS) {
            tasks[count++] =
                (struct angle_task){row + done, rows - done < TASK_ROWS ? rows - done : TASK_ROWS};
        }
        row += rows;
    }
    *ret_tasks = tasks;
    return count;
}

static bool add_angles(struct gathering *gathering, struct pool *pool, const struct cancel *cancel,
                       struct error *error)
{
    OWNED_MEMORY struct angle_task *tasks = NULL;
    size_t count = list_tasks(gathering, &tasks);
    size_t spans = prune_span_count(gathering->layer_count);
    enum { TASKS_AT_ONCE = 64 };
    OWNED_MEMORY double *sums = memory_try_array(TASKS_AT_ONCE * spans + 1, sizeof *sums, "angles", error);
    OWNED_MEMORY double *norms =
        memory_create(pool_thread_count(pool) * (gathering->layer_count + 1), sizeof *norms);
    for (size_t first = 0; sums != NULL && first < count; first += TASKS_AT_ONCE) {
        size_t now = count - first < TASKS_AT_ONCE ? count - first : TASKS_AT_ONCE;
        struct angle_run run = {gathering, tasks + first, sums, norms};
        memset(sums, 0, now * spans * sizeof *sums);
        if (!pool_run(pool, now, angle_task_run, &run, cancel, error)) {
            return false;
        }
        for (size_t i = 0; i < now; i++) {
            gathering->angle_tokens += tasks[first + i].count;
            for (size_t span = 0; span < spans; span++) {
                gathering->sums.span_angles[span] += sums[i * spans + span];
            }
        }
    }
    return sums != NULL;
}

/* ---- groups ---------------------------------------------------------------------------------------------- */

static size_t sequence_states(const struct gathering *gathering, const struct token_sequence *sequence)
{
    return gathering->options->angles_of_all_tokens ? sequence->count : 1;
}

/* How many of the sequences from `first` on make the next group. */
static size_t group_size(const struct gathering *gathering, const struct token_batch *batch, size_t first)
{
    uint64_t limit = gathering->options->angle_memory_bytes;
    uint64_t row_bytes = (uint64_t)(gathering->layer_count + 1) *
                         model_get_config(gathering->model)->hidden_size * sizeof(float);
    uint64_t bytes = 0;
    size_t count = 0;
    if (gathering->sums.span_angles == NULL || limit == 0) {
        return batch->sequence_count - first;
    }
    while (first + count < batch->sequence_count) {
        bytes += sequence_states(gathering, &batch->sequences[first + count]) * row_bytes;
        if (count > 0 && bytes > limit) {
            break;
        }
        count++;
    }
    return count;
}

static bool gather_layers(struct gathering *gathering, struct sweep *sweep, size_t tokens_before,
                          size_t tokens_all, struct error *error)
{
    const struct prune_observer *observer = gathering->observer;
    size_t group_tokens = gathering->tokens - tokens_before;
    gathering->end = 0;
    for (size_t layer = 0; layer < gathering->layer_count; layer++) {
        gathering->layer = layer;
        gathering->first = gathering->end;
        while (gathering->end < gathering->sublayer_count &&
               model_sublayer(gathering->model, gathering->end)->layer == layer) {
            gathering->end++;
        }
        if (!sweep_each(sweep, true, gather_chunk, gathering, error)) {
            return false;
        }
        if (observer != NULL && observer->progress != NULL) {
            uint64_t done = (uint64_t)tokens_before * gathering->layer_count + (layer + 1) * group_tokens;
            uint64_t all = (uint64_t)tokens_all * gathering->layer_count;
            /* As if the batch were one group: layers of it that are done. */
            observer->progress(observer->context,
                               all > 0 ? done * gathering->layer_count / all : gathering->layer_count,
                               gathering->layer_count, "layer");
        }
    }
    return true;
}

static bool gather_group(struct gathering *gathering, size_t tokens_all, struct error *error)
{
    size_t size = model_get_config(gathering->model)->hidden_size;
    size_t tokens_before = gathering->tokens;
    gathering->state_rows = 0;
    for (size_t s = 0; s < gathering->batch.sequence_count; s++) {
        gathering->tokens += gathering->batch.sequences[s].count;
        gathering->state_rows += sequence_states(gathering, &gathering->batch.sequences[s]);
    }
    OWNED(sweep) sweep = sweep_create(gathering->model, &gathering->batch, &gathering->options->sweep, error);
    if (sweep == NULL) {
        return false;
    }
    OWNED_MEMORY float *states = NULL;
    OWNED_MEMORY double *row_cosines =
        memory_try_array(sweep_most_rows(sweep) + 1, sizeof *row_cosines, "cosines", error);
    if (gathering->sums.span_angles != NULL) {
        states = memory_try_array((gathering->layer_count + 1) * gathering->state_rows + 1,
                                  size * sizeof *states, "states of all layers", error);
    }
    gathering->row_cosines = row_cosines;
    gathering->states = states;
    return row_cosines != NULL && (gathering->sums.span_angles == NULL || states != NULL) &&
           sweep_embed(sweep, error) && gather_layers(gathering, sweep, tokens_before, tokens_all, error) &&
           (states == NULL || add_angles(gathering, model_get_pool(gathering->model),
                                         model_get_cancel(gathering->model), error));
}

static void fill(const double *sums, size_t count, double divisor, double *ret_means)
{
    for (size_t i = 0; ret_means != NULL && i < count; i++) {
        ret_means[i] = divisor > 0 ? sums[i] / divisor : (double)NAN;
    }
}

static void fill_turns(const struct gathering *gathering, const struct prune_turns *ret_turns)
{
    double tokens = (double)gathering->tokens;
    fill(gathering->sums.block_cosines, gathering->layer_count, tokens, ret_turns->block_cosines);
    fill(gathering->sums.sublayer_cosines, gathering->sublayer_count, tokens, ret_turns->sublayer_cosines);
    fill(gathering->sums.span_angles, prune_span_count(gathering->layer_count),
         (double)gathering->angle_tokens, ret_turns->span_angles);
    const struct model_config *config = model_get_config(gathering->model);
    for (size_t layer = 0; ret_turns->block_cosines != NULL && layer < gathering->layer_count; layer++) {
        if (!config->layers[layer].has_attention && !config->layers[layer].has_ffn) {
            ret_turns->block_cosines[layer] = (double)NAN;
        }
    }
}

bool prune_gather_turns(struct model *model, const struct token_batch *batch,
                        const struct prune_turn_options *options, const struct prune_observer *observer,
                        const struct prune_turns *ret_turns, struct error *error)
{
    size_t layers = model_get_config(model)->layer_count;
    struct gathering gathering = {.model = model, .options = options, .observer = observer};
    gathering.layer_count = layers;
    gathering.sublayer_count = model_sublayer_count(model);
    OWNED_MEMORY double *blocks = memory_create(layers + 1, sizeof *blocks);
    OWNED_MEMORY double *sublayers = memory_create(gathering.sublayer_count + 1, sizeof *sublayers);
    OWNED_MEMORY double *spans = memory_create(prune_span_count(layers) + 1, sizeof *spans);
    gathering.sums.block_cosines = ret_turns->block_cosines != NULL ? blocks : NULL;
    gathering.sums.sublayer_cosines = ret_turns->sublayer_cosines != NULL ? sublayers : NULL;
    gathering.sums.span_angles = ret_turns->span_angles != NULL ? spans : NULL;
    size_t tokens_all = 0;
    for (size_t s = 0; s < batch->sequence_count; s++) {
        tokens_all += batch->sequences[s].count;
    }
    bool is_good = true;
    for (size_t first = 0; is_good && first < batch->sequence_count;) {
        size_t count = group_size(&gathering, batch, first);
        gathering.batch = (struct token_batch){batch->sequences + first, count};
        is_good = gather_group(&gathering, tokens_all, error);
        first += count;
    }
    hidden_destroy(gathering.block_before);
    hidden_destroy(gathering.sublayer_before);
    if (is_good) {
        fill_turns(&gathering, ret_turns);
    }
    return is_good;
}

void prune_measure_turns(const struct model_config *config, size_t sequence_count, size_t longest_rows,
                         bool angles_of_all_tokens, uint64_t *ret_best_bytes, uint64_t *ret_least_bytes)
{
    uint64_t row_bytes = (uint64_t)(config->layer_count + 1) * config->hidden_size * sizeof(float);
    uint64_t rows = angles_of_all_tokens ? longest_rows : 1;
    enum { SUMS_AT_ONCE = 64 + 2 };
    uint64_t sums = SUMS_AT_ONCE * (uint64_t)prune_span_count(config->layer_count) * sizeof(double);
    *ret_least_bytes = rows * row_bytes + sums;
    *ret_best_bytes = sequence_count * rows * row_bytes + sums;
}
