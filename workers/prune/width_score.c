/* workers/prune/width_score.c: see width_score.h. */
#include "workers/prune/width_score.h"

#include "base/check.h"
#include "base/memory.h"
#include "workers/model/source.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const width_structures[] = {"all", "channels", "heads", NULL};

unsigned width_structures_chosen(const json_t *parameters)
{
    static const unsigned kinds[] = {WIDTH_KINDS_ALL, WIDTH_KINDS_CHANNELS, WIDTH_KIND(WIDTH_HEADS)};
    return kinds[width_find_value(parameters, "structures", width_structures)];
}

void width_choose_structures(const json_t *parameters, unsigned *ret_kinds, unsigned *ret_statistics)
{
    *ret_kinds = width_structures_chosen(parameters);
    *ret_statistics = WIDTH_MOMENTS | WIDTH_WEIGHTS;
}

size_t width_find_value(const json_t *parameters, const char *name, const char *const *values)
{
    const char *text = json_string_value(json_object_get(parameters, name));
    size_t index = 0;
    while (values[index] != NULL && (text == NULL || strcmp(values[index], text) != 0)) {
        index++;
    }
    CHECK(values[index] != NULL);
    return index;
}

double width_find_number(const json_t *parameters, const char *name)
{
    const json_t *value = json_object_get(parameters, name);
    CHECK(json_is_number(value));
    return json_number_value(value);
}

static bool check_statistics(const struct prune_run *run, struct error *error)
{
    return run->statistics != NULL || error_set(error, ERROR_INTERNAL, "no statistics were gathered for %s",
                                                run->method != NULL ? run->method->name : "a width method");
}

static bool score_group(const struct prune_run *run, struct width_group *group, width_column_score score,
                        enum score_fold head_fold, struct error *error)
{
    const struct width_sublayer *sublayer = &run->statistics->sublayers[group->sublayer];
    OWNED_MEMORY double *columns = memory_create(sublayer->count + 1, sizeof *columns);
    for (size_t part = 0; part < group->rows; part++) {
        struct width_part place = {group, sublayer, part};
        double *scores = group->scores + part * group->count;
        if (!score(run, &place, columns, error)) {
            return false;
        }
        if (group->kind == WIDTH_HEADS) {
            score_fold(head_fold, columns, sublayer->count, sublayer->count / group->count, scores);
        } else {
            CHECK(group->count == sublayer->count);
            memcpy(scores, columns, sublayer->count * sizeof *columns);
        }
    }
    char what[64];
    (void)snprintf(what, sizeof what, "sublayer %zu (layer %zu)", group->sublayer, group->layer);
    return score_check(group->scores, group->rows * group->count, what, error);
}

bool width_score_columns(const struct prune_run *run, struct width_groups *groups, width_column_score score,
                         enum score_fold head_fold, struct error *error)
{
    if (!check_statistics(run, error)) {
        return false;
    }
    for (size_t i = 0; i < groups->count; i++) {
        struct width_group *group = &groups->items[i];
        bool has_columns = group->kind == WIDTH_HEADS || group->kind == WIDTH_CHANNELS ||
                           group->kind == WIDTH_EXPERT_CHANNELS;
        if (has_columns &&
            (!cancel_check(run->cancel, error) || !score_group(run, group, score, head_fold, error))) {
            return false;
        }
    }
    return true;
}

bool width_score_experts(const struct prune_run *run, struct width_groups *groups, struct error *error)
{
    if (!check_statistics(run, error)) {
        return false;
    }
    for (size_t i = 0; i < groups->count; i++) {
        struct width_group *group = &groups->items[i];
        if (group->kind != WIDTH_EXPERTS) {
            continue;
        }
        const struct width_sublayer *sublayer = &run->statistics->sublayers[group->sublayer];
        for (size_t expert = 0; expert < group->count; expert++) {
            group->scores[expert] = routed_norm_mean(&sublayer->routed[expert]);
        }
        if (!score_check(group->scores, group->count, "experts", error)) {
            return error_prefix(error, "layer %zu: ", group->layer);
        }
    }
    return true;
}

float *width_read_weight(const struct prune_run *run, enum weight_role role, size_t layer, size_t expert,
                         size_t *ret_rows, size_t *ret_columns, struct error *error)
{
    struct source_view view;
    CHECK(width_view(run->inventory, role, layer, expert, &view));
    OWNED_MEMORY float *values =
        memory_try_array((size_t)(view.rows * view.columns), sizeof *values, view.tensor->name, error);
    OWNED_MEMORY void *window =
        memory_try_array(source_window_bytes(&view, view.rows), 1, view.tensor->name, error);
    if (values == NULL || window == NULL ||
        !source_read_rows(run->weights, &view, 0, view.rows, window, values, error)) {
        return NULL;
    }
    *ret_rows = (size_t)view.rows;
    *ret_columns = (size_t)view.columns;
    return TAKE(values);
}

bool width_read_inputs(const struct prune_run *run, size_t layer, size_t expert, float **ret_up,
                       float **ret_gate, struct error *error)
{
    const struct model_config *config = &run->inventory->config;
    bool is_expert = config->layers[layer].expert_count > 0;
    struct weight_shape shape;
    size_t rows = 0, columns = 0;
    OWNED_MEMORY float *up = NULL;
    OWNED_MEMORY float *gate = NULL;
    if (!is_expert && architecture_tensor(config, WEIGHT_GATE_UP, layer, 0, &shape)) { /* [gate | up] */
        gate = width_read_weight(run, WEIGHT_GATE_UP, layer, 0, &rows, &columns, error);
        up = gate != NULL ? memory_try_array(rows / 2 * columns, sizeof *up, shape.name, error) : NULL;
        if (up == NULL) {
            return false;
        }
        memcpy(up, gate + rows / 2 * columns, rows / 2 * columns * sizeof *up);
    } else {
        enum weight_role gate_role = is_expert ? WEIGHT_EXPERT_GATE : WEIGHT_GATE;
        up = width_read_weight(run, is_expert ? WEIGHT_EXPERT_UP : WEIGHT_UP, layer, expert, &rows, &columns,
                               error);
        if (up == NULL) {
            return false;
        }
        if (architecture_tensor(config, gate_role, layer, expert, &shape)) {
            gate = width_read_weight(run, gate_role, layer, expert, &rows, &columns, error);
            if (gate == NULL) {
                return false;
            }
        }
    }
    *ret_up = TAKE(up);
    *ret_gate = TAKE(gate);
    return true;
}
