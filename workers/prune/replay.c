/*
 * workers/prune/replay.c: no search at all: the curve of an earlier job's plan.json, cut at another target or exported in another
 * layout. Scores stay what they were.
 */
#include "workers/prune/prune.h"

#include "base/file.h"
#include "base/memory.h"
#include "workers/model/patch.h"

static const struct param_spec params[] = {
    {.name = "source",
     .type = PARAM_TEXT,
     .flags = PARAM_REQUIRED,
     .min = 1,
     .max = 4096,
     .help = "The plan.json of an earlier job on the same model."},
};

static bool copy_patch(const struct prune_run *run, struct plan *plan, struct error *error)
{
    if (run->given->patch == NULL) {
        return true;
    }
    OWNED_MEMORY char *path = file_join(run->work_folder, PATCH_FILE);
    JSON_OWNED index = patch_format(run->given->patch);
    if (!patch_copy(run->given->patch, path, error)) {
        return false;
    }
    plan->patch = patch_open(path, index, error);
    return plan->patch != NULL;
}

/* A plan with widths is one point, and what it replaces belongs to that point: it is taken as it is. */
static bool take_whole(const struct prune_run *run, const struct prune_target *target, struct plan *plan,
                       struct error *error)
{
    OWNED(plan) copy = plan_copy(run->given);
    for (size_t i = 0; i < plan->sublayer_count; i++) {
        struct plan_width width = plan->widths[i];
        plan->widths[i] = copy->widths[i];
        copy->widths[i] = width;
    }
    plan->hidden = copy->hidden;
    copy->hidden = NULL;
    plan->hidden_count = copy->hidden_count;
    plan->is_rotated = copy->is_rotated;
    plan->adds_attention_bias = copy->adds_attention_bias;
    plan->adds_ffn_bias = copy->adds_ffn_bias;
    if (plan->point_count != run->given->point_count) {
        return error_set_field(error, ERROR_UNSUPPORTED, "/layers/skip",
                               "the plan of %s narrows layers and is taken as it is; it cannot skip some",
                               "/method/replay/source");
    }
    plan_cut(plan, run->given->removed_count);
    return copy_patch(run, plan, error) &&
           (prune_target_reached(target, plan, run->inventory) ||
            error_set_field(
                error, ERROR_UNREACHABLE, "/target",
                "the plan of /method/replay/source narrows layers and is taken as it is; it does not "
                "reach the target"));
}

static bool replay_decide(struct prune_run *run, const struct prune_target *target, struct plan *ret_plan,
                          struct error *error)
{
    if (run->given->sublayer_count != run->sublayer_count) {
        return error_set_field(error, ERROR_INVALID_ARGUMENT, "/method/replay/source",
                               "the plan is of a model with %zu sublayers, this one has %zu",
                               run->given->sublayer_count, run->sublayer_count);
    }
    for (size_t i = 0; i < run->given->point_count; i++) {
        const struct plan_point *point = &run->given->points[i];
        if (!prune_is_skipped(run, run->sublayers[point->sublayer].layer)) {
            plan_add_point(ret_plan, point->sublayer, point->score, point->is_cut);
        }
    }
    if (plan_has_widths(run->given)) {
        return take_whole(run, target, ret_plan, error);
    }
    return prune_target_cut(target, ret_plan, run->inventory, error);
}

const struct prune_method prune_method_replay = {
    .name = "replay",
    .summary =
        "Cuts the stored plan of an earlier job at another target or exports it anew, without a search.",
    .reference = "the plan's own",
    .needs = PRUNE_NEED_PLAN,
    .params = params,
    .param_count = sizeof params / sizeof params[0],
    .decide = replay_decide,
};
