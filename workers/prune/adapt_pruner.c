/*
 * workers/prune/adapt_pruner.c: Adapt-Pruner (Wang et al., arXiv 2502.03460) without its training: layers give by how much they turn the
 * residual (allocation "adapt"), and what goes may be merged into what stays (structured_pruning section 3). The published group importance
 * is first-order Taylor and needs gradients; forward-only stands-ins rank the units inside a layer.
 *
 * Merging (parameter `merges`): rows of up and gate, and columns of down, join the most similar ones that stay (merging.h). The merged
 * tensors are replacement weights of the plan. Rows inside heads turn with position by pairs and are cut plainly, and so are biases.
 */
#include "workers/prune/merging.h"
#include "workers/prune/width_score.h"

#include "base/check.h"
#include "base/memory.h"
#include "workers/model/patch.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const criteria[] = {"wanda_sp", "magnitude_sp", NULL};
static const struct param_spec params[] = {
    WIDTH_STRUCTURES_PARAM("all"),
    {.name = "criterion",
     .type = PARAM_ENUM,
     .values = criteria,
     .default_json = "\"wanda_sp\"",
     .help = "What ranks the units of a layer: weights times norms of their inputs, or weights alone."},
    {.name = "merges",
     .type = PARAM_BOOL,
     .default_json = "false",
     .help =
         "Add FFN channels that go to the most similar ones that stay, as published for pruning with training "
         "in between; else they are cut."},
};

static void choose(const json_t *parameters, unsigned *ret_kinds, unsigned *ret_statistics)
{
    *ret_kinds = width_structures_chosen(parameters);
    *ret_statistics = WIDTH_ANGLES | WIDTH_WEIGHTS;
    *ret_statistics |= width_find_value(parameters, "criterion", criteria) == 0 ? WIDTH_MOMENTS : 0;
}

static bool score_part(const struct prune_run *run, const struct width_part *part, double *ret_scores,
                       struct error *error)
{
    (void)error;
    if (width_find_value(run->parameters, "criterion", criteria) == 0) {
        score_wanda_sp(width_part_moments(part), width_part_columns(part), ret_scores);
    } else {
        score_magnitude_sp(width_part_columns(part), ret_scores);
    }
    return true;
}

static bool adapt_pruner_score(const struct prune_run *run, struct width_groups *groups, struct error *error)
{
    return width_score_columns(run, groups, score_part, SCORE_SUM, error);
}

/* ---- merging ----------------------------------------------------------------------------------------------------- */

struct merging {
    const struct prune_run *run;
    struct plan *plan;
    struct dense_threads threads;
    size_t layer, expert;
    const uint32_t *kept;
    size_t kept_count;
};

/* [rows, columns] under the name of `role`, in the order of the checkpoint. */
static bool put_weight(const struct merging *merging, enum weight_role role, float *values, size_t rows,
                       size_t columns, struct error *error)
{
    struct weight_shape shape;
    CHECK(
        architecture_tensor(&merging->run->inventory->config, role, merging->layer, merging->expert, &shape));
    uint64_t size[2] = {shape.is_transposed ? columns : rows, shape.is_transposed ? rows : columns};
    OWNED_MEMORY float *turned = NULL;
    if (shape.is_transposed) {
        turned = memory_try_array(rows * columns, sizeof *turned, shape.name, error);
        for (size_t r = 0; turned != NULL && r < rows; r++) {
            for (size_t c = 0; c < columns; c++) {
                turned[c * rows + r] = values[r * columns + c];
            }
        }
    }
    return (!shape.is_transposed || turned != NULL) &&
           patch_put(merging->plan->patch, shape.name, 2, size, turned != NULL ? turned : values, error);
}

static bool merge_inputs(const struct merging *merging, size_t channels, struct error *error)
{
    const struct model_config *config = &merging->run->inventory->config;
    bool is_expert = config->layers[merging->layer].expert_count > 0;
    size_t hidden = config->hidden_size, left = merging->kept_count * hidden;
    struct weight_shape shape;
    OWNED_MEMORY float *up = NULL;
    OWNED_MEMORY float *gate = NULL;
    if (!width_read_inputs(merging->run, merging->layer, merging->expert, &up, &gate, error) ||
        !merge_rows(&merging->threads, up, channels, hidden, merging->kept, merging->kept_count, true,
                    error) ||
        (gate != NULL && !merge_rows(&merging->threads, gate, channels, hidden, merging->kept,
                                     merging->kept_count, true, error))) {
        return false;
    }
    if (!is_expert && architecture_tensor(config, WEIGHT_GATE_UP, merging->layer, 0, &shape)) {
        OWNED_MEMORY float *both = memory_try_array(2 * left, sizeof *both, shape.name, error);
        if (both == NULL) {
            return false;
        }
        memcpy(both, gate, left * sizeof *both);
        memcpy(both + left, up, left * sizeof *both);
        return put_weight(merging, WEIGHT_GATE_UP, both, 2 * merging->kept_count, hidden, error);
    }
    return put_weight(merging, is_expert ? WEIGHT_EXPERT_UP : WEIGHT_UP, up, merging->kept_count, hidden,
                      error) &&
           (gate == NULL || put_weight(merging, is_expert ? WEIGHT_EXPERT_GATE : WEIGHT_GATE, gate,
                                       merging->kept_count, hidden, error));
}

static bool merge_ffn(const struct merging *merging, struct error *error)
{
    bool is_expert = merging->run->inventory->config.layers[merging->layer].expert_count > 0;
    enum weight_role role = is_expert ? WEIGHT_EXPERT_DOWN : WEIGHT_DOWN;
    size_t rows = 0, channels = 0;
    OWNED_MEMORY float *down =
        width_read_weight(merging->run, role, merging->layer, merging->expert, &rows, &channels, error);
    return down != NULL &&
           merge_columns(&merging->threads, down, rows, channels, merging->kept, merging->kept_count, false,
                         error) &&
           put_weight(merging, role, down, rows, merging->kept_count, error) &&
           merge_inputs(merging, channels, error);
}

static bool merge_all(struct prune_run *run, struct plan *plan, struct error *error)
{
    struct merging merging = {.run = run, .plan = plan, .threads = {run->pool, run->cancel}};
    for (size_t i = 0; i < run->sublayer_count; i++) {
        const struct plan_width *width = &plan->widths[i];
        if (width->channels == NULL || plan->removed[i]) {
            continue;
        }
        if (plan->patch == NULL) {
            char path[4096];
            (void)snprintf(path, sizeof path, "%s/%s", run->work_folder, PATCH_FILE);
            plan->patch = patch_create(path, error);
            if (plan->patch == NULL) {
                return false;
            }
        }
        merging.layer = run->sublayers[i].layer;
        merging.kept_count = width->channel_count;
        for (merging.expert = 0; merging.expert < width->channel_lists; merging.expert++) {
            merging.kept = width->channels + merging.expert * width->channel_count;
            if (!cancel_check(run->cancel, error) || !merge_ffn(&merging, error)) {
                return false;
            }
        }
    }
    return plan->patch == NULL || patch_sync(plan->patch, error);
}

static bool adapt_pruner_decide(struct prune_run *run, const struct prune_target *target,
                                struct plan *ret_plan, struct error *error)
{
    bool merges = json_is_true(json_object_get(run->parameters, "merges"));
    return width_decide(run, target, ret_plan, error) && (!merges || merge_all(run, ret_plan, error));
}

const struct prune_method prune_method_adapt_pruner = {
    .name = "adapt_pruner",
    .summary =
        "Narrows layers by how little they turn the residual; what goes may be merged into what stays.",
    .reference =
        "Wang et al. 2025, Adapt-Pruner, arXiv 2502.03460: layer importance, allocation, merging; no training",
    .needs = PRUNE_NEED_CALIBRATION | PRUNE_NEED_WIDTH,
    .traits = PRUNE_TRAIT_WIDTH,
    .params = params,
    .param_count = sizeof params / sizeof params[0],
    .decide = adapt_pruner_decide,
    .default_allocation = "adapt",
    .default_compensation = "none",
    .choose = choose,
    .score = adapt_pruner_score,
    .standardises = true,
};
