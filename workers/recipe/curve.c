/*
 * workers/recipe/curve.c: the results of several targets side by side, and the knee of their curve: the point farthest below the chord
 * from the unpruned model to the smallest result, with the removed share across and the logarithm of the perplexity up (Satopaa et al.
 * 2011, for a curve that rises ever faster). Beyond it each further share costs more than the average one.
 */
#include "workers/recipe/recipe_internal.h"

#include "base/check.h"
#include "base/memory.h"
#include <math.h>
#include <string.h>

static const json_t *find_measured(const json_t *measured, const char **ret_protocol)
{
    const json_t *all = json_object_get(measured, "perplexity");
    static const char *const protocols[] = {"gptq", "rolling"};
    for (size_t i = 0; i < 2; i++) {
        const json_t *value = json_object_get(json_object_get(all, protocols[i]), "perplexity");
        if (json_is_number(value)) {
            *ret_protocol = protocols[i];
            return value;
        }
    }
    return NULL;
}

/* {"gptq": 12.3, ...}, or NULL. */
static json_t *sum_perplexity(const json_t *measured)
{
    const json_t *all = json_object_get(measured, "perplexity");
    const char *protocol;
    const json_t *value;
    if (json_object_size(all) == 0) {
        return NULL;
    }
    json_t *sums = json_object();
    json_object_foreach((json_t *)(uintptr_t)all, protocol, value)
    {
        json_put(sums, protocol, json_incref(json_object_get(value, "perplexity")));
    }
    return sums;
}

static json_t *format_point(const struct recipe *recipe, size_t index)
{
    const struct recipe_points *points = &recipe->points;
    const struct recipe_point *point = &points->items[index];
    bool is_current = index == points->current;
    const struct plan *plan = is_current ? recipe->plan : point->plan;
    const struct export_draft *draft = is_current ? &recipe->draft : &point->draft;
    const json_t *after = recipe_point_member(recipe, index, "after");
    struct plan_size size;
    plan_measure(plan, recipe->inventory, point->target.element_bytes, &size);
    json_t *item = json_object();
    json_put_text(item, "name", point->name);
    json_put_text(item, "path", index == points->head ? "" : point->name);
    json_put(item, "requested", json_incref(point->requested));
    json_t *achieved = json_object();
    json_put_double(achieved, "sparsity_ratio", size.sparsity_ratio);
    json_put_i64(achieved, "parameter_count", (int64_t)draft->parameter_count);
    json_put_i64(achieved, "weight_bytes", (int64_t)draft->weight_bytes);
    json_put_i64(achieved, "blocks", (int64_t)draft->block_count);
    json_put_i64(achieved, "sublayers_removed", (int64_t)size.removed_sublayer_count);
    json_put(item, "achieved", achieved);
    json_put_text(item, "layout", export_layout_name(draft->layout));
    json_put(item, "check", json_incref((json_t *)(uintptr_t)recipe_point_member(recipe, index, "check")));
    json_put(item, "perplexity", sum_perplexity(after));
    json_put(item, "kl", json_incref(json_object_get(json_object_get(after, "divergence"), "kl_mean")));
    json_put(item, "task_accuracy_mean", json_incref(json_object_get(after, "task_accuracy_mean")));
    json_put(item, "speed", json_incref(json_object_get(after, "speed")));
    json_put(item, "knee", json_false());
    return item;
}

static double share_of(const json_t *item)
{
    return json_number_value(json_object_get(json_object_get(item, "achieved"), "sparsity_ratio"));
}

static void mark_knee(json_t *curve, const json_t *before)
{
    const char *protocol = NULL;
    const json_t *first = find_measured(before, &protocol);
    size_t count = json_array_size(curve);
    const json_t *last = json_array_get(curve, count - 1);
    if (first == NULL || count < 2 || share_of(last) <= 0) {
        return;
    }
    double start = log(json_number_value(first));
    const json_t *end_value = json_object_get(json_object_get(last, "perplexity"), protocol);
    double rise = log(json_number_value(end_value)) - start;
    double farthest = 0;
    json_t *knee = NULL;
    for (size_t i = 0; i + 1 < count; i++) {
        json_t *item = json_array_get(curve, i);
        const json_t *value = json_object_get(json_object_get(item, "perplexity"), protocol);
        double below = rise * share_of(item) / share_of(last) - (log(json_number_value(value)) - start);
        if (below > farthest) {
            farthest = below;
            knee = item;
        }
    }
    if (knee != NULL) {
        json_put(knee, "knee", json_true());
    }
}

json_t *curve_format(const struct recipe *recipe)
{
    if (json_object_get(recipe->spec, "sweep") == NULL) {
        return NULL;
    }
    json_t *curve = json_array();
    for (size_t i = 0; i < recipe->points.count; i++) {
        json_t *item = format_point(recipe, i);
        size_t at = json_array_size(curve);
        while (at > 0 && share_of(json_array_get(curve, at - 1)) > share_of(item)) {
            at--;
        }
        CHECK(json_array_insert_new(curve, at, item) == 0);
    }
    mark_knee(curve, json_object_get(recipe->done, "before"));
    return curve;
}
