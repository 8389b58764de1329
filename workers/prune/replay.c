/*
 * workers/prune/replay.c: no search at all: the curve of an earlier job's plan.json, cut at another target or exported in another
 * layout. Scores stay what they were. A plan that narrows layers or replaces weights has one point, its own: it is exported anew as it is,
 * for any target that it reaches.
 */
#include "workers/prune/prune.h"

#include "base/cleanup.h"
#include "base/file.h"
#include "workers/model/patch.h"

static const struct param_spec params[] = {
    {.name = "source",
     .type = PARAM_TEXT,
     .flags = PARAM_REQUIRED,
     .min = 1,
     .max = 4096,
     .help = "The plan.json of an earlier job on the same model."},
};

/* The given plan whole; its patch is copied to where this job's plans lie. Before a job there is no such place, and no weight is asked for. */
static bool take_whole(const struct prune_run *run, struct plan *ret_plan, struct error *error)
{
    struct plan *copy = plan_copy(run->given);
    struct plan empty = *ret_plan;
    *ret_plan = *copy;
    *copy = empty;
    plan_destroy(copy);
    if (run->given->patch == NULL || run->work_folder == NULL) {
        return true;
    }
    OWNED_MEMORY char *path = file_join(run->work_folder, PATCH_FILE);
    JSON_OWNED index = patch_format(run->given->patch);
    if (!patch_copy(run->given->patch, path, error)) {
        return false;
    }
    ret_plan->patch = patch_open(path, index, error);
    return ret_plan->patch != NULL;
}

static bool replay_widths(const struct prune_run *run, const struct prune_target *target,
                          struct plan *ret_plan, struct error *error)
{
    for (size_t i = 0; i < run->sublayer_count; i++) {
        const struct plan_width *width = &run->given->widths[i];
        bool is_touched = run->given->removed[i] || width->heads != NULL || width->experts != NULL ||
                          width->channels != NULL;
        if (is_touched && prune_is_skipped(run, run->sublayers[i].layer)) {
            return error_set_field(error, ERROR_INVALID_ARGUMENT, "/layers/skip",
                                   "the stored plan takes something of layer %zu, and is replayed as it is",
                                   run->sublayers[i].layer);
        }
    }
    if (!prune_target_reached(target, run->given, run->inventory)) {
        struct plan_size size;
        plan_measure(run->given, run->inventory, target->element_bytes, &size);
        return error_set_field(error, ERROR_UNREACHABLE, "/target",
                               "the stored plan narrows layers and can only be replayed as it is: %s %.10g",
                               prune_target_name(target->kind), prune_target_achieved(target, &size));
    }
    return take_whole(run, ret_plan, error);
}

static bool replay_decide(struct prune_run *run, const struct prune_target *target, struct plan *ret_plan,
                          struct error *error)
{
    if (run->given->sublayer_count != run->sublayer_count) {
        return error_set_field(error, ERROR_INVALID_ARGUMENT, "/method/replay/source",
                               "the plan is of a model with %zu sublayers, this one has %zu",
                               run->given->sublayer_count, run->sublayer_count);
    }
    if (plan_has_widths(run->given)) {
        return replay_widths(run, target, ret_plan, error);
    }
    for (size_t i = 0; i < run->given->point_count; i++) {
        const struct plan_point *point = &run->given->points[i];
        if (!prune_is_skipped(run, run->sublayers[point->sublayer].layer)) {
            plan_add_point(ret_plan, point->sublayer, point->score, point->is_cut);
        }
    }
    return prune_target_cut(target, ret_plan, run->inventory, error);
}

const struct prune_method prune_method_replay = {
    .name = "replay",
    .summary =
        "Cuts the stored plan of an earlier job at another target or exports it anew, without a search.",
    .reference = "the plan's own",
    .needs = PRUNE_NEED_PLAN,
    .traits = PRUNE_TRAIT_REPLACE,
    .params = params,
    .param_count = sizeof params / sizeof params[0],
    .decide = replay_decide,
};
