/*
 * workers/prune/replay.c: no search at all: the curve of an earlier job's plan.json, cut at another target or exported in another
 * layout. Scores stay what they were.
 */
#include "workers/prune/prune.h"

static const struct param_spec params[] = {
    {.name = "source",
     .type = PARAM_TEXT,
     .flags = PARAM_REQUIRED,
     .min = 1,
     .max = 4096,
     .help = "The plan.json of an earlier job on the same model."},
};

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
