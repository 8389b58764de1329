/*
 * workers/recipe/combined.c: depth and width in one job: a depth method removes whole sublayers up to depth_ratio of what the target takes away,
 * then a width method narrows what is left until the target is reached. To the rest of the job it is the width method, whose plan already
 * lacks sublayers and which also needs what the depth method needs.
 */
#include "workers/recipe/combined.h"

#include "base/check.h"
#include "workers/prune/width.h"
#include <stdlib.h>
#include <string.h>

#define NAME        "combined"
#define METHODS_MAX 64

static struct param_spec depth_methods[METHODS_MAX], width_methods[METHODS_MAX];
static struct param_spec params[] = {
    {.name = "depth",
     .type = PARAM_UNION,
     .flags = PARAM_REQUIRED,
     .members = depth_methods,
     .help = "The method that removes sublayers, and its parameters."},
    {.name = "width",
     .type = PARAM_UNION,
     .flags = PARAM_REQUIRED,
     .members = width_methods,
     .help = "The method that narrows what is left, and its parameters."},
    {.name = "depth_ratio",
     .type = PARAM_NUMBER,
     .flags = PARAM_OPEN_MIN | PARAM_OPEN_MAX,
     .min = 0,
     .max = 1,
     .default_json = "0.5",
     .help = "Share of what the target takes away that goes as whole sublayers."},
};

static bool is_depth(const struct prune_method *method)
{
    return (method->traits & (PRUNE_TRAIT_WIDTH | PRUNE_TRAIT_REPLACE)) == 0 &&
           (method->needs & (PRUNE_NEED_PLAN | PRUNE_NEED_MODEL)) == 0;
}

/* Those that narrow by scores and an allocation alone: they start from any plan. */
static bool is_width(const struct prune_method *method)
{
    return method->decide == width_decide;
}

const struct param_spec *combined_spec(void)
{
    static struct param_spec spec;
    if (spec.name != NULL) {
        return &spec;
    }
    for (const struct prune_method *const *method = prune_methods(); *method != NULL; method++) {
        const struct param_spec member = {.name = (*method)->name,
                                          .type = PARAM_OBJECT,
                                          .members = (*method)->params,
                                          .member_count = (*method)->param_count,
                                          .help = (*method)->summary};
        CHECK(params[0].member_count < METHODS_MAX && params[1].member_count < METHODS_MAX);
        if (is_depth(*method)) {
            depth_methods[params[0].member_count++] = member;
        } else if (is_width(*method)) {
            width_methods[params[1].member_count++] = member;
        }
    }
    spec = (struct param_spec){.name = NAME,
                               .type = PARAM_OBJECT,
                               .members = params,
                               .member_count = sizeof params / sizeof params[0],
                               .help = COMBINED_SUMMARY};
    return &spec;
}

/* The chosen member of a union. */
static const struct prune_method *find_member(const json_t *object, const json_t **ret_parameters)
{
    const char *name = json_string_value(json_object_get(object, "type"));
    *ret_parameters = json_object_get(object, name != NULL ? name : "");
    return name != NULL ? prune_method_find(name) : NULL;
}

void recipe_find_method(const json_t *spec, struct recipe_method *ret_method)
{
    const json_t *object = json_object_get(spec, "method");
    const char *type = json_string_value(json_object_get(object, "type"));
    struct recipe_method found = {.name = type};
    if (type == NULL) {
        *ret_method = found;
        return;
    }
    if (strcmp(type, NAME) != 0) {
        found.method = find_member(object, &found.parameters);
        *ret_method = found;
        return;
    }
    const json_t *own = json_object_get(object, NAME);
    const struct prune_method *width = find_member(json_object_get(own, "width"), &found.parameters);
    found.depth = find_member(json_object_get(own, "depth"), &found.depth_parameters);
    found.depth_ratio = json_number_value(json_object_get(own, "depth_ratio"));
    if (width == NULL || found.depth == NULL) {
        *ret_method = (struct recipe_method){.name = type};
        return;
    }
    found.merged = *width;
    found.merged.summary = COMBINED_SUMMARY;
    found.merged.needs |= found.depth->needs;
    found.merged.traits |= found.depth->traits & PRUNE_TRAIT_SEEDED;
    *ret_method = found;
}

const struct prune_method *recipe_method_of(const struct recipe_method *found)
{
    return found->depth != NULL ? &found->merged : found->method;
}

const json_t *recipe_method_parameters(const json_t *spec, const char *name)
{
    const json_t *object = json_object_get(spec, "method");
    const json_t *width = json_object_get(json_object_get(object, NAME), "width");
    const json_t *plain = json_object_get(object, name);
    return plain != NULL ? plain : json_object_get(width, name);
}

const json_t *recipe_search_parameters(const json_t *spec)
{
    struct recipe_method found;
    recipe_find_method(spec, &found);
    return found.depth != NULL ? found.depth_parameters : found.parameters;
}

/* ---- the depth that comes first ---------------------------------------------------------------------------------- */

static struct prune_target depth_target(const struct inventory *inventory, double depth_ratio,
                                        const struct prune_target *target)
{
    struct prune_target depth = *target;
    struct plan_size size;
    size_t count = 0;
    struct plan_sublayer *listed = NULL;
    count = plan_list_sublayers(&inventory->config, &listed);
    free(listed);
    OWNED(plan) nothing = plan_create(count);
    plan_measure(nothing, inventory, target->element_bytes, &size);
    uint64_t whole = target->kind == PRUNE_TARGET_MEMORY_BYTES ? size.weight_bytes : size.parameter_count;
    double gone = whole > target->count ? (double)(whole - target->count) : 0;
    depth.ratio = target->ratio * depth_ratio;
    depth.count = whole - (uint64_t)(gone * depth_ratio);
    return depth;
}

static bool estimate(const struct prune_run *run, const struct prune_target *target, struct plan *ret_plan,
                     struct error *error)
{
    const struct prune_method *method = run->method;
    if (method->estimate != NULL) {
        return method->estimate(run, target, ret_plan, error);
    }
    if ((method->needs & PRUNE_NEED_WIDTH) != 0) {
        return width_estimate(run, target, ret_plan, error);
    }
    bool is_block = (method->traits & PRUNE_TRAIT_PACKS) != 0 || prune_run_granularity(run) == PRUNE_BY_BLOCK;
    OWNED_MEMORY struct prune_unit *units = NULL;
    size_t count = prune_list_units(run, is_block ? PRUNE_BY_BLOCK : PRUNE_BY_SUBLAYER, &units);
    return prune_estimate(run, units, count, target, ret_plan, error);
}

bool combined_estimate(const struct recipe_method *found, const struct prune_run *run,
                       const struct prune_target *target, struct plan *ret_plan, struct error *error)
{
    bool has_share =
        target->kind != PRUNE_TARGET_NUM_LAYERS && target->kind != PRUNE_TARGET_SUBLAYERS_REMOVED;
    if (found->depth != NULL && has_share) { /* the width method refuses the others */
        const struct prune_target depth = depth_target(run->inventory, found->depth_ratio, target);
        struct prune_run first = *run;
        first.method = found->depth;
        first.parameters = found->depth_parameters;
        if (!estimate(&first, &depth, ret_plan, error)) {
            return false;
        }
    }
    return estimate(run, target, ret_plan, error);
}

/* Of the depth method, as far as its share goes; its curve stands in the checkpoint, and the next target goes on from it. */
static bool choose_depth(struct recipe *recipe, struct prune_run *run, const struct prune_target *target,
                         struct plan *ret_plan, struct error *error)
{
    const struct prune_target depth = depth_target(recipe->inventory, recipe->depth_ratio, target);
    const json_t *saved = json_object_get(recipe->done, "curve");
    bool is_curve = (recipe->depth->traits & PRUNE_TRAIT_CURVE) != 0;
    OWNED(plan) plan = saved != NULL ? plan_parse(saved, error) : NULL;
    if (saved != NULL && plan == NULL) {
        return false;
    }
    if (plan == NULL || !prune_target_cut(&depth, plan, recipe->inventory, NULL)) {
        OWNED(plan) fresh = plan_create(run->sublayer_count);
        struct prune_run first = *run;
        first.method = recipe->depth;
        first.parameters = recipe->depth_parameters;
        first.curve = plan;
        if (!recipe->depth->decide(&first, &depth, fresh, error)) {
            return false;
        }
        plan_destroy(plan);
        plan = TAKE(fresh);
        if (is_curve) {
            json_put(recipe->done, "curve", plan_format(plan, recipe->inventory));
            (void)json_object_del(recipe->done, "search");
            if (!recipe_save(recipe, error)) {
                return false;
            }
        }
    }
    for (size_t i = 0; i < plan->removed_count; i++) {
        plan_add_point(ret_plan, plan->points[i].sublayer, plan->points[i].score, plan->points[i].is_cut);
    }
    plan_cut(ret_plan, plan->removed_count);
    return true;
}

bool combined_decide(struct recipe *recipe, struct prune_run *run, const struct prune_target *target,
                     struct plan *ret_plan, struct error *error)
{
    if (recipe->depth == NULL) {
        return recipe->method->decide(run, target, ret_plan, error);
    }
    if (!choose_depth(recipe, run, target, ret_plan, error)) {
        return false;
    }
    run->state = json_object_get(recipe->done, "search"); /* from here on it is the allocation's */
    return recipe->method->decide(run, target, ret_plan, error);
}
