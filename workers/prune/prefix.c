/*
 * workers/prune/prefix.c: see prefix.h.
 *
 * Positions: state j is the residual before sublayer j, state N the input of the final norm. A trajectory is
 * an array of N + 1 pointers, NULL where nothing is kept. State j of the cache is valid for the current
 * model, whether j is alive or not: it is what the alive sublayers below j make.
 */
#include "workers/prune/prefix.h"

#include "base/check.h"
#include "base/memory.h"
#include "workers/model/weights.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct prefix_evaluator {
    struct prune_evaluator interface;
    struct model *model;
    const struct token_batch *batch;
    struct head_reference *reference;
    size_t sublayer_count;
    bool *removed;         /* [sublayer_count], of the current model */
    struct hidden **cache; /* [sublayer_count + 1] */
    struct hidden *
        *best; /* [sublayer_count + 1], the best candidate of this round; empty without recording */
    struct hidden **current; /* [sublayer_count + 1] */
    struct hidden *work;
    size_t stride; /* every stride-th state is kept */
    size_t state_count;
    bool is_recording;
    bool has_best;
    struct prune_unit best_unit;
    double *terms; /* [sequence_count] */
};

enum head_metric prune_head_metric(const json_t *parameters)
{
    const char *metric = json_string_value(json_object_get(parameters, "metric"));
    const char *js_form = json_string_value(json_object_get(parameters, "js_form"));
    if (metric == NULL || strcmp(metric, "js") == 0) {
        return js_form != NULL && strcmp(js_form, "textbook") == 0 ? HEAD_METRIC_JS_TEXTBOOK : HEAD_METRIC_JS;
    }
    return strcmp(metric, "norm") == 0 ? HEAD_METRIC_NORM
           : strcmp(metric, "kl") == 0 ? HEAD_METRIC_KL
                                       : HEAD_METRIC_ANGULAR;
}

static bool is_kept(const struct prefix_evaluator *evaluator, size_t position)
{
    return position % evaluator->stride == 0;
}

/* Copies `from` into slot `position` of a trajectory, creating it when it is empty. */
static bool keep_state(const struct prefix_evaluator *evaluator, struct hidden **trajectory, size_t position,
                       const struct hidden *from, struct error *error)
{
    if (trajectory[position] == NULL) {
        trajectory[position] = hidden_create(evaluator->model, evaluator->batch, error);
    }
    if (trajectory[position] == NULL) {
        return false;
    }
    return hidden_copy(trajectory[position], from, error);
}

/* Runs the alive sublayers in [first, end) but those of `unit`, on `work`. States from `record_from` on go
 * into `trajectory` (may be NULL). */
static bool run_range(struct prefix_evaluator *evaluator, size_t first, size_t end,
                      const struct prune_unit *unit, struct hidden **trajectory, size_t record_from,
                      struct error *error)
{
    for (size_t j = first; j <= end; j++) {
        if (trajectory != NULL && j >= record_from && is_kept(evaluator, j) &&
            !keep_state(evaluator, trajectory, j, evaluator->work, error)) {
            return false;
        }
        bool is_candidate = unit != NULL && j >= unit->first && j < unit->first + unit->count;
        if (j < end && !evaluator->removed[j] && !is_candidate &&
            !model_run_sublayer(evaluator->model, j, evaluator->work, error)) {
            return false;
        }
    }
    return true;
}

/* work := state `position` of the current model, from the nearest cached state at or before it. */
static bool load_state(struct prefix_evaluator *evaluator, size_t position, struct error *error)
{
    size_t start = position - position % evaluator->stride;
    CHECK(evaluator->cache[start] != NULL);
    return hidden_copy(evaluator->work, evaluator->cache[start], error) &&
           run_range(evaluator, start, position, NULL, NULL, 0, error);
}

static bool prefix_restart(void *context, const bool *removed, struct error *error)
{
    struct prefix_evaluator *evaluator = context;
    memcpy(evaluator->removed, removed, evaluator->sublayer_count * sizeof *removed);
    weights_set_removed(model_get_weights(evaluator->model), evaluator->removed);
    evaluator->has_best = false;
    return model_embed(evaluator->model, evaluator->batch, evaluator->work, error) &&
           run_range(evaluator, 0, evaluator->sublayer_count, NULL, evaluator->cache, 0, error);
}

static bool prefix_evaluate(void *context, const struct prune_unit *unit, double best, double *ret_score,
                            struct error *error)
{
    struct prefix_evaluator *evaluator = context;
    if (isinf(best)) {
        evaluator->has_best = false;
    }
    struct hidden **trajectory = evaluator->is_recording ? evaluator->current : NULL;
    if (!load_state(evaluator, unit->first, error) ||
        !run_range(evaluator, unit->first, evaluator->sublayer_count, unit, trajectory, unit->first + 1,
                   error) ||
        !head_distance(evaluator->model, evaluator->reference, evaluator->work, 0,
                       evaluator->batch->sequence_count, evaluator->terms, error)) {
        return false;
    }
    double score = head_distance_total(evaluator->reference, evaluator->terms);
    if (evaluator->is_recording && score < best) {
        struct hidden **swapped = evaluator->best;
        evaluator->best = evaluator->current;
        evaluator->current = swapped;
        evaluator->best_unit = *unit;
        evaluator->has_best = true;
    }
    *ret_score = score;
    return true;
}

static bool prefix_commit(void *context, const struct prune_unit *unit, struct error *error)
{
    struct prefix_evaluator *evaluator = context;
    for (size_t i = 0; i < unit->count; i++) {
        evaluator->removed[unit->first + i] = true;
    }
    weights_set_removed(model_get_weights(evaluator->model), evaluator->removed);
    bool is_recorded = evaluator->has_best && evaluator->best_unit.first == unit->first;
    evaluator->has_best = false;
    if (!is_recorded) {
        return load_state(evaluator, unit->first, error) &&
               run_range(evaluator, unit->first, evaluator->sublayer_count, NULL, evaluator->cache,
                         unit->first + 1, error);
    }
    for (size_t j = unit->first + 1; j <= evaluator->sublayer_count; j++) {
        struct hidden *swapped = evaluator->cache[j];
        evaluator->cache[j] = evaluator->best[j];
        evaluator->best[j] = swapped;
    }
    return true;
}

/* How many states fit decides what is kept (prefix.h). */
static void choose_memory(struct prefix_evaluator *evaluator, uint64_t memory_limit_bytes)
{
    size_t states = evaluator->sublayer_count + 1;
    uint64_t fitting =
        memory_limit_bytes == 0 ? UINT64_MAX : memory_limit_bytes / hidden_bytes(evaluator->work);
    fitting = fitting > 1 ? fitting - 1 : 1; /* one is the work state */
    evaluator->stride = 1;
    evaluator->is_recording = fitting >= 3 * (uint64_t)states;
    if (fitting < states) {
        evaluator->stride = (states + (size_t)fitting - 1) / (size_t)fitting;
    }
    CHECK(evaluator->stride > 0);
    evaluator->state_count =
        (evaluator->is_recording ? 3 : 1) * ((states + evaluator->stride - 1) / evaluator->stride) + 1;
}

struct prefix_evaluator *prefix_evaluator_create(struct model *model, const struct token_batch *batch,
                                                 enum head_metric metric, uint64_t memory_limit_bytes,
                                                 struct error *error)
{
    OWNED(prefix_evaluator) evaluator = memory_create(1, sizeof *evaluator);
    evaluator->interface =
        (struct prune_evaluator){evaluator, prefix_restart, prefix_evaluate, prefix_commit};
    evaluator->model = model;
    evaluator->batch = batch;
    evaluator->sublayer_count = model_sublayer_count(model);
    size_t states = evaluator->sublayer_count + 1;
    evaluator->removed = memory_create(states, sizeof *evaluator->removed);
    evaluator->cache = memory_create(states, sizeof(struct hidden *));
    evaluator->best = memory_create(states, sizeof(struct hidden *));
    evaluator->current = memory_create(states, sizeof(struct hidden *));
    evaluator->terms = memory_create(batch->sequence_count + 1, sizeof *evaluator->terms);
    evaluator->work = hidden_create(model, batch, error);
    if (evaluator->work == NULL) {
        return NULL;
    }
    choose_memory(evaluator, memory_limit_bytes);
    if (!model_embed(model, batch, evaluator->work, error) ||
        !model_run_from(model, 0, NULL, evaluator->work, error)) {
        return NULL;
    }
    evaluator->reference = head_reference_create(model, evaluator->work, metric, error);
    return evaluator->reference != NULL ? TAKE(evaluator) : NULL;
}

static void destroy_trajectory(struct hidden **trajectory, size_t count)
{
    for (size_t i = 0; trajectory != NULL && i < count; i++) {
        hidden_destroy(trajectory[i]);
    }
    free(trajectory);
}

void prefix_evaluator_destroy(struct prefix_evaluator *evaluator)
{
    if (evaluator == NULL) {
        return;
    }
    destroy_trajectory(evaluator->cache, evaluator->sublayer_count + 1);
    destroy_trajectory(evaluator->best, evaluator->sublayer_count + 1);
    destroy_trajectory(evaluator->current, evaluator->sublayer_count + 1);
    hidden_destroy(evaluator->work);
    head_reference_destroy(evaluator->reference);
    free(evaluator->removed);
    free(evaluator->terms);
    free(evaluator);
}

struct prune_evaluator *prefix_evaluator_interface(struct prefix_evaluator *evaluator)
{
    return &evaluator->interface;
}

size_t prefix_evaluator_state_count(const struct prefix_evaluator *evaluator)
{
    return evaluator->state_count;
}
