/*
 * workers/recipe/gate_choose.c: the largest step towards a target that passes the gate, by bisection between nothing, which passes, and
 * the target, which does not: with n steps about log2(n) judgements. It assumes that more removed is not better; where a curve is not
 * monotone, what is found passes and its next step does not.
 *
 * Steps are the points of a removal curve, or the targets of a sweep. A method that narrows layers has a plan for every sparsity: there the
 * bisection goes over the sparsity that is asked for, until what passes and what fails are neighbours or less than GATE_TOLERANCE apart.
 */
#include "workers/recipe/gate.h"

#include "base/check.h"
#include "base/memory.h"
#include <stdlib.h>
#include <string.h>

#define GATE_TOLERANCE 1e-4 /* of the prunable weights */

/* Steps towards what was asked for, the smallest first. */
struct steps {
    struct recipe *recipe;
    size_t count;
    size_t *cuts;                    /* [count]: of the head's curve; NULL: the points of the sweep, */
    size_t order[RECIPE_POINTS_MAX]; /* in this order */
};

static const json_t *judge_step(const struct steps *steps, size_t index, struct error *error)
{
    struct recipe_points *points = &steps->recipe->points;
    if (steps->cuts == NULL) {
        const struct recipe_point *point = &points->items[steps->order[index]];
        return gate_judge(steps->recipe, point->name, point->plan, error);
    }
    struct plan *plan = points->items[points->head].plan;
    char name[48];
    size_t wanted = plan->removed_count;
    (void)snprintf(name, sizeof name, "sublayers_removed-%zu", steps->cuts[index]);
    plan_cut(plan, steps->cuts[index]);
    const json_t *item = gate_judge(steps->recipe, name, plan, error);
    plan_cut(plan, wanted);
    return item;
}

/* *ret_step: the largest that passes with the next one failing; SIZE_MAX: none does. *ret_failed: the last that did not. */
static bool bisect(const struct steps *steps, size_t *ret_step, const json_t **ret_failed,
                   struct error *error)
{
    size_t low = 0; /* steps below pass */
    size_t high = steps->count - 1;
    const json_t *item = judge_step(steps, high, error);
    if (item == NULL) {
        return false;
    }
    *ret_failed = item;
    if (gate_passes(item)) {
        *ret_step = high;
        return true;
    }
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        item = judge_step(steps, middle, error);
        if (item == NULL) {
            return false;
        }
        if (gate_passes(item)) {
            low = middle + 1;
        } else {
            high = middle;
            *ret_failed = item;
        }
    }
    *ret_step = low > 0 ? low - 1 : SIZE_MAX;
    return true;
}

static void list_cuts(const struct recipe *recipe, struct plan *plan, struct steps *steps)
{
    const struct prune_target any = {.kind = PRUNE_TARGET_SUBLAYERS_REMOVED,
                                     .require_packable = recipe->target.require_packable};
    size_t wanted = plan->removed_count;
    steps->cuts = memory_create(plan->point_count + 1, sizeof *steps->cuts);
    for (size_t count = 1; count <= wanted; count++) {
        plan_cut(plan, count);
        if (count == wanted ||
            (plan->points[count - 1].is_cut && prune_target_reached(&any, plan, recipe->inventory))) {
            steps->cuts[steps->count++] = count;
        }
    }
    plan_cut(plan, wanted);
}

static double removed_share(const struct recipe *recipe, size_t index)
{
    struct plan_size size;
    plan_measure(recipe->points.items[index].plan, recipe->inventory, 0, &size);
    return size.sparsity_ratio;
}

static void list_points(const struct recipe *recipe, struct steps *steps)
{
    for (size_t i = 0; i < recipe->points.count; i++) {
        size_t at = i;
        for (; at > 0 && removed_share(recipe, i) < removed_share(recipe, steps->order[at - 1]); at--) {
            steps->order[at] = steps->order[at - 1];
        }
        steps->order[at] = i;
    }
    steps->count = recipe->points.count;
}

static bool choose_cut(struct recipe *recipe, struct steps *steps, const char **ret_outcome,
                       struct error *error)
{
    struct plan *plan = recipe->points.items[recipe->points.head].plan;
    const json_t *failed = NULL;
    size_t step = 0;
    list_cuts(recipe, plan, steps);
    if (steps->count == 0) {
        *ret_outcome = "nothing_removed";
        return true;
    }
    if (!gate_is_backing_off(json_object_get(recipe->spec, "quality_gate"))) {
        const json_t *item = judge_step(steps, steps->count - 1, error);
        *ret_outcome = "passed";
        return item != NULL && (gate_passes(item) || gate_fail(recipe, item, "", error));
    }
    if (!bisect(steps, &step, &failed, error)) {
        return false;
    }
    if (step == SIZE_MAX) {
        return gate_fail(recipe, failed, ", and no smaller step passes", error);
    }
    *ret_outcome = step + 1 == steps->count ? "passed" : "backed_off";
    plan_cut(plan, steps->cuts[step]);
    return true;
}

static double sparsity_of(const struct recipe *recipe, const struct plan *plan)
{
    struct plan_size size;
    plan_measure(plan, recipe->inventory, recipe->target.element_bytes, &size);
    return size.sparsity_ratio;
}

/* The plan of a smaller target, and what the gate says of it; *ret_item NULL: it is the plan that failed (of sparsity `failed`) once more. */
static bool try_sparsity(struct recipe *recipe, const struct prune_target *target, double failed,
                         struct plan **ret_plan, const json_t **ret_item, struct error *error)
{
    char name[48];
    OWNED(plan) plan = NULL;
    *ret_item = NULL;
    if (!recipe_find_plan(recipe, target, &plan, error) ||
        (plan == NULL && !recipe_choose(recipe, target, NULL, &plan, error))) {
        return false;
    }
    if (sparsity_of(recipe, plan) >= failed) {
        (void)json_object_del(recipe->done, "search"); /* it was this plan's */
        return true;
    }
    if (!recipe_finish_plan(recipe, target, plan, error)) {
        return false;
    }
    (void)snprintf(name, sizeof name, "sparsity-%.9g", target->ratio);
    *ret_item = gate_judge(recipe, name, plan, error);
    *ret_plan = TAKE(plan);
    return *ret_item != NULL;
}

static bool choose_sparsity(struct recipe *recipe, const char **ret_outcome, struct error *error)
{
    struct recipe_point *point = &recipe->points.items[recipe->points.head];
    const json_t *failed = gate_judge(recipe, point->name, point->plan, error);
    *ret_outcome = "passed";
    if (failed == NULL || gate_passes(failed)) {
        return failed != NULL;
    }
    if (!gate_is_backing_off(json_object_get(recipe->spec, "quality_gate"))) {
        return gate_fail(recipe, failed, "", error);
    }
    OWNED(plan) best = NULL;
    double low = 0, high = sparsity_of(recipe, point->plan);
    double bound = high; /* whoever asks for this much or more, up to high, gets the plan that failed */
    struct prune_target target = {.kind = PRUNE_TARGET_SPARSITY,
                                  .require_packable = point->target.require_packable,
                                  .element_bytes = point->target.element_bytes};
    while (bound - low > GATE_TOLERANCE) {
        const json_t *item = NULL;
        OWNED(plan) plan = NULL;
        target.ratio = low + (bound - low) / 2;
        if (!try_sparsity(recipe, &target, high, &plan, &item, error)) {
            return false;
        }
        if (item != NULL && gate_passes(item)) {
            low = sparsity_of(recipe, plan);
            plan_destroy(best);
            best = TAKE(plan);
            point->plan_target = target;
            point->is_backed_off = true;
            continue;
        }
        bound = target.ratio;
        if (item != NULL) {
            high = sparsity_of(recipe, plan);
            failed = item;
        }
    }
    if (best == NULL) {
        return gate_fail(recipe, failed, ", and no smaller step passes", error);
    }
    *ret_outcome = "backed_off";
    plan_destroy(point->plan);
    point->plan = TAKE(best);
    return true;
}

/* Without a target the head is the largest of the sweep that passes. */
static bool choose_point(struct recipe *recipe, struct steps *steps, const char **ret_outcome,
                         struct error *error)
{
    const json_t *failed = NULL;
    size_t step = 0;
    list_points(recipe, steps);
    if (!bisect(steps, &step, &failed, error)) {
        return false;
    }
    if (step == SIZE_MAX) {
        return gate_fail(recipe, failed, ", and no target of the sweep passes", error);
    }
    *ret_outcome = step + 1 == steps->count ? "passed" : "backed_off";
    recipe->points.head = steps->order[step];
    return true;
}

bool gate_choose(struct recipe *recipe, struct error *error)
{
    if (recipe->gate_windows == NULL) {
        return true;
    }
    if (!gate_start(recipe, error)) {
        return false;
    }
    struct steps steps = {.recipe = recipe};
    const char *outcome = NULL;
    const struct plan *head = recipe->points.items[recipe->points.head].plan;
    unsigned traits = recipe->method->traits;
    bool is_made = (traits & PRUNE_TRAIT_APART) != 0 ||
                   ((traits & (PRUNE_TRAIT_WIDTH | PRUNE_TRAIT_REPLACE)) != 0 &&
                    (plan_has_widths(head) || head->point_count == 0)); /* else its curve can be cut */
    bool is_good = !recipe->points.has_target ? choose_point(recipe, &steps, &outcome, error)
                   : is_made                  ? choose_sparsity(recipe, &outcome, error)
                                              : choose_cut(recipe, &steps, &outcome, error);
    free(steps.cuts);
    if (is_good) {
        json_t *gate = json_object_get(recipe->done, "gate");
        json_put_text(gate, "outcome", outcome);
        (void)json_object_del(gate, "place");
        (void)json_object_del(gate, "place_part");
        (void)json_object_del(gate, "has_states");
    }
    return is_good;
}
