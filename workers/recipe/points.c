/*
 * workers/recipe/points.c: one job, several targets. A point is a target with its plan, its draft and its folder. The stages know one
 * point at a time, the current one, whose parts stand in the recipe itself; selecting another puts them away and takes its own. So a job
 * with a single target is a job with a single point.
 *
 * The point at top level (`head`) is that of `target`; without one the quality gate chooses it from the sweep, or it is the first of
 * the sweep. Its files lie in out/, those of the others in out/<name>/, so that the result loads as it always did.
 */
#include "workers/recipe/recipe_internal.h"

#include "base/check.h"
#include "base/file.h"
#include "base/memory.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const measures[] = {"sparsity", "params", "memory_bytes", "num_layers",
                                       "sublayers_removed"};
#define MEASURE_COUNT (sizeof measures / sizeof measures[0])

/* ---- from the request -------------------------------------------------------------------------------------------- */

static json_t *make_target(const char *measure, const json_t *value, const json_t *beside)
{
    json_t *target = json_object();
    json_put(target, measure, json_deep_copy(value));
    json_t *rule = json_object_get(beside, "require_packable");
    json_put(target, "require_packable", rule != NULL ? json_incref(rule) : json_false());
    return target;
}

static void add_point(struct recipe_points *points, const char *name, json_t *requested, size_t element_bytes,
                      const char *pointer)
{
    struct recipe_point *point = &points->items[points->count++];
    point->requested = requested;
    (void)snprintf(point->name, sizeof point->name, "%s", name);
    (void)snprintf(point->pointer, sizeof point->pointer, "%s", pointer);
    CHECK(prune_target_parse(point->requested, &point->target, NULL));
    point->target.element_bytes = element_bytes;
    point->plan_target = point->target;
}

/* Takes requested. A name is a folder, so it may stand for one point only; that of the target may stand in the sweep as well. */
static void read_point(struct recipe_points *points, const char *measure, const json_t *value,
                       json_t *requested, size_t element_bytes, const char *pointer,
                       struct error_list *faults)
{
    struct recipe_point *same = NULL;
    char name[sizeof same->name];
    (void)snprintf(name, sizeof name, "%s-%.15g", measure, json_number_value(value));
    for (size_t i = 0; i < points->count; i++) {
        same = strcmp(points->items[i].name, name) == 0 ? &points->items[i] : same;
    }
    if (same == NULL) {
        add_point(points, name, requested, element_bytes, pointer);
        return;
    }
    if (strncmp(same->pointer, "/sweep", strlen("/sweep")) == 0) {
        error_list_add(faults, ERROR_INVALID_ARGUMENT, pointer, "the value stands at %s as well",
                       same->pointer);
    } else if (!json_equal(same->requested, requested)) {
        error_list_add(faults, ERROR_INVALID_ARGUMENT, pointer,
                       "the value is that of %s, with another require_packable", same->pointer);
    }
    json_decref(requested);
}

void recipe_read_points(const json_t *spec, size_t element_bytes, struct recipe_points *points,
                        struct error_list *faults)
{
    const json_t *target = json_object_get(spec, "target");
    const json_t *sweep = json_object_get(spec, "sweep");
    points->has_target = target != NULL;
    for (size_t m = 0; m < MEASURE_COUNT; m++) {
        const json_t *value = json_object_get(target, measures[m]);
        if (value != NULL) {
            char pointer[48];
            (void)snprintf(pointer, sizeof pointer, "/target/%s", measures[m]);
            read_point(points, measures[m], value, make_target(measures[m], value, target), element_bytes,
                       pointer, faults);
        }
    }
    for (size_t m = 0; m < MEASURE_COUNT; m++) {
        const json_t *values = json_object_get(sweep, measures[m]);
        for (size_t i = 0; i < json_array_size(values) && points->count < RECIPE_POINTS_MAX; i++) {
            const json_t *value = json_array_get(values, i);
            char pointer[48];
            (void)snprintf(pointer, sizeof pointer, "/sweep/%s/%zu", measures[m], i);
            read_point(points, measures[m], value, make_target(measures[m], value, sweep), element_bytes,
                       pointer, faults);
        }
    }
}

void recipe_points_finish(struct recipe_points *points)
{
    for (size_t i = 0; i < points->count; i++) {
        json_decref(points->items[i].requested);
        plan_destroy(points->items[i].plan);
        export_draft_finish(&points->items[i].draft);
    }
    *points = (struct recipe_points){0};
}

json_t *recipe_point_spec(const json_t *spec, const struct recipe_points *points, size_t index)
{
    json_t *copy = json_deep_copy(spec);
    if (index != points->head) {
        (void)json_object_del(copy, "sweep");
        (void)json_object_del(copy, "quality_gate");
        json_put(copy, "target", json_incref(points->items[index].requested));
    }
    return copy;
}

/* ---- the current point ------------------------------------------------------------------------------------------- */

static void set_folder(struct recipe *recipe)
{
    free(recipe->out_folder);
    OWNED_MEMORY char *top = file_join(recipe->job->work_folder, "out");
    recipe->out_folder = recipe->points.current == recipe->points.head
                             ? TAKE(top)
                             : file_join(top, recipe->points.items[recipe->points.current].name);
}

/* What of the checkpoint belongs to one point and not to the job. */
static const char *const own_members[] = {"check", "exported", "after"};
#define OWN_COUNT (sizeof own_members / sizeof own_members[0])

static void move_members(json_t *from, json_t *to)
{
    for (size_t i = 0; i < OWN_COUNT; i++) {
        json_t *member = json_object_get(from, own_members[i]);
        if (member != NULL) {
            json_put(to, own_members[i], json_incref(member));
            (void)json_object_del(from, own_members[i]);
        }
    }
}

static void put_away(struct recipe *recipe)
{
    struct recipe_point *point = &recipe->points.items[recipe->points.current];
    json_t *kept = json_object_get(recipe->done, "points");
    if (kept == NULL) {
        kept = json_object();
        json_put(recipe->done, "points", kept);
    }
    json_t *members = json_object();
    move_members(recipe->done, members);
    json_put(kept, point->name, members);
    point->plan = recipe->plan;
    point->draft = recipe->draft;
    recipe->plan = NULL;
    recipe->draft = (struct export_draft){0};
}

static void take_out(struct recipe *recipe, size_t index)
{
    struct recipe_point *point = &recipe->points.items[index];
    json_t *kept = json_object_get(recipe->done, "points");
    json_t *members = json_object_get(kept, point->name);
    if (members != NULL) {
        move_members(members, recipe->done);
        (void)json_object_del(kept, point->name);
    }
    recipe->plan = point->plan;
    recipe->draft = point->draft;
    point->plan = NULL;
    point->draft = (struct export_draft){0};
    recipe->target = point->target;
    recipe->points.current = index;
    recipe_derive(recipe);
    json_put_text(recipe->done, "point", point->name);
}

void recipe_select_point(struct recipe *recipe, size_t index)
{
    if (index != recipe->points.current) {
        put_away(recipe);
        take_out(recipe, index);
    }
    set_folder(recipe);
}

static void start_points(struct recipe *recipe)
{
    struct recipe_points *points = &recipe->points;
    const char *name = json_string_value(json_object_get(recipe->done, "point"));
    points->current = points->head;
    for (size_t i = 0; name != NULL && i < points->count; i++) {
        points->current = strcmp(points->items[i].name, name) == 0 ? i : points->current;
    }
    take_out(recipe, points->current);
    set_folder(recipe);
}

const json_t *recipe_point_member(const struct recipe *recipe, size_t index, const char *name)
{
    const json_t *kept = json_object_get(recipe->done, "points");
    return json_object_get(index == recipe->points.current
                               ? recipe->done
                               : json_object_get(kept, recipe->points.items[index].name),
                           name);
}

/* The head comes first: writing it clears the folder that the others lie in. share: of the stage that the first takes. */
bool recipe_for_points(struct recipe *recipe, bool (*run)(struct recipe *recipe, struct error *error),
                       double share, struct error *error)
{
    const struct recipe_points *points = &recipe->points;
    double rest = points->count > 1 ? (1 - share) / (double)(points->count - 1) : 0;
    double start = 0;
    for (size_t i = 0; i < points->count; i++) {
        size_t index = i == 0 ? points->head : i <= points->head ? i - 1 : i;
        double end = points->count == 1 ? 1 : i == 0 ? share : start + rest;
        recipe_select_point(recipe, index);
        progress_scope(recipe, start, end);
        if (!run(recipe, error)) {
            return false;
        }
        start = end;
    }
    progress_scope(recipe, 0, 1);
    recipe_select_point(recipe, points->head);
    return true;
}

/* ---- search ------------------------------------------------------------------------------------------------------ */

/* Of one measure, whether the first asks for more to go. */
static bool is_harder(const struct prune_target *first, const struct prune_target *second)
{
    if (first->kind != second->kind) {
        return first->kind < second->kind;
    }
    return first->kind == PRUNE_TARGET_SPARSITY            ? first->ratio > second->ratio
           : first->kind == PRUNE_TARGET_SUBLAYERS_REMOVED ? first->count > second->count
                                                           : first->count < second->count;
}

static bool is_full_curve(const struct recipe *recipe)
{
    const char *curve = json_string_value(json_object_get(recipe->parameters, "curve"));
    return curve != NULL && strcmp(curve, "full") == 0;
}

static bool is_searching(const struct recipe *recipe)
{
    return (recipe->method->needs & PRUNE_NEED_EVALUATOR) != 0 &&
           (recipe->method->traits & PRUNE_TRAIT_CURVE) != 0;
}

/* All that can go is gone: a search has nothing left to do. */
static bool is_complete(const struct recipe *recipe, const struct plan *curve)
{
    struct plan_sublayer *listed = NULL;
    size_t count = plan_list_sublayers(&recipe->inventory->config, &listed);
    size_t candidates = 0;
    for (size_t i = 0; i < count; i++) {
        candidates += recipe->layers->skip[listed[i].layer] ? 0 : 1;
    }
    free(listed);
    return curve->point_count == candidates;
}

static struct plan *copy_curve(const struct plan *curve, size_t point_count)
{
    struct plan *copy = plan_create(curve->sublayer_count);
    for (size_t i = 0; i < point_count; i++) {
        plan_add_point(copy, curve->points[i].sublayer, curve->points[i].score, curve->points[i].is_cut);
    }
    return copy;
}

/* A curve that reaches the target is all a search would have given; else the search goes on where it ends. */
static bool search_point(struct recipe *recipe, struct recipe_point *point, struct plan **curve,
                         struct error *error)
{
    bool is_usable = *curve != NULL && (!is_full_curve(recipe) || is_complete(recipe, *curve));
    OWNED(plan) plan = is_usable ? copy_curve(*curve, (*curve)->point_count) : NULL;
    if (plan == NULL ||
        (!prune_target_cut(&point->target, plan, recipe->inventory, NULL) && !is_complete(recipe, *curve))) {
        plan_destroy(plan);
        plan = NULL;
        if (!recipe_decide(recipe, &point->target, *curve, &plan, error)) {
            return false;
        }
        plan_destroy(*curve);
        *curve = copy_curve(plan, plan->point_count);
        json_put(recipe->done, "curve", plan_format(*curve, recipe->inventory));
        (void)json_object_del(recipe->done, "search");
        if (!recipe_save(recipe, error)) {
            return false;
        }
    } else if (!prune_target_cut(&point->target, plan, recipe->inventory, error)) {
        return false;
    }
    point->plan = TAKE(plan);
    return true;
}

/* Every plan of a job has the job's whole curve: as far as the farthest of its targets, whatever was known before. */
static void share_curve(struct recipe *recipe, const struct plan *curve)
{
    struct recipe_points *points = &recipe->points;
    size_t farthest = 0;
    for (size_t i = 0; i < points->count; i++) {
        size_t removed = points->items[i].plan->removed_count;
        farthest = removed > farthest ? removed : farthest;
    }
    farthest = is_full_curve(recipe) ? curve->point_count : farthest;
    for (size_t i = 0; i < points->count; i++) {
        struct plan *plan = copy_curve(curve, farthest);
        plan_cut(plan, points->items[i].plan->removed_count);
        plan_destroy(points->items[i].plan);
        points->items[i].plan = plan;
    }
}

static bool search_all(struct recipe *recipe, struct error *error)
{
    struct recipe_points *points = &recipe->points;
    size_t order[RECIPE_POINTS_MAX];
    for (size_t i = 0; i < points->count; i++) { /* hardest first: one search serves all */
        size_t at = i;
        for (; at > 0 && is_harder(&points->items[i].target, &points->items[order[at - 1]].target); at--) {
            order[at] = order[at - 1];
        }
        order[at] = i;
    }
    const json_t *saved = json_object_get(recipe->done, "curve");
    OWNED(plan) curve = saved != NULL ? plan_parse(saved, error) : NULL;
    if (saved != NULL && curve == NULL) {
        return false;
    }
    for (size_t i = 0; i < points->count; i++) {
        struct recipe_point *point = &points->items[order[i]];
        bool is_good = is_searching(recipe)
                           ? search_point(recipe, point, &curve, error)
                           : recipe_decide(recipe, &point->target, NULL, &point->plan, error);
        if (!is_good) {
            bool is_of_target = error->field[0] == '\0' || strncmp(error->field, "/target", 7) == 0;
            if (error->code == ERROR_UNREACHABLE && is_of_target) {
                (void)snprintf(error->field, sizeof error->field, "%s", point->pointer);
            }
            return false;
        }
    }
    if (is_searching(recipe) && curve != NULL) {
        scores_keep_curve(recipe, curve);
        share_curve(recipe, curve);
    }
    return true;
}

static bool load_plans(struct recipe *recipe, const json_t *saved, struct error *error)
{
    struct recipe_points *points = &recipe->points;
    points->head = (size_t)json_integer_value(json_object_get(recipe->done, "head"));
    if (json_array_size(saved) != points->count || points->head >= points->count) {
        return error_set(error, ERROR_CORRUPT_FILE, "checkpoint: %zu plans for %zu targets",
                         json_array_size(saved), points->count);
    }
    for (size_t i = 0; i < points->count; i++) {
        struct recipe_point *point = &points->items[i];
        const json_t *plan = json_array_get(saved, i);
        const json_t *backed_off = json_object_get(recipe->done, "head_plan_sparsity");
        if (i == points->head && backed_off != NULL) {
            point->plan_target.kind = PRUNE_TARGET_SPARSITY;
            point->plan_target.ratio = json_number_value(backed_off);
        }
        point->plan = plan_parse(plan, error);
        if (point->plan == NULL ||
            !recipe_reopen_patch(recipe, &point->plan_target, plan, point->plan, error)) {
            return false;
        }
    }
    return true;
}

bool stage_search(struct recipe *recipe, struct error *error)
{
    const json_t *saved = json_object_get(recipe->done, "plans");
    if (saved != NULL) {
        if (!load_plans(recipe, saved, error)) {
            return false;
        }
        start_points(recipe);
        return true;
    }
    recipe->saved_ns = clock_boot_ns(&clock_system);
    progress_scope(recipe, 0, gate_search_share(recipe));
    if (!search_all(recipe, error)) {
        return false;
    }
    progress_scope(recipe, gate_search_share(recipe), 1);
    if (!gate_choose(recipe, error)) {
        return false;
    }
    progress_scope(recipe, 0, 1);
    json_t *plans = json_array();
    for (size_t i = 0; i < recipe->points.count; i++) {
        json_t *plan = plan_format(recipe->points.items[i].plan, recipe->inventory);
        CHECK(json_array_append_new(plans, plan) == 0);
    }
    json_put(recipe->done, "plans", plans);
    json_put_i64(recipe->done, "head", (int64_t)recipe->points.head);
    const struct recipe_point *head = &recipe->points.items[recipe->points.head];
    if (head->is_backed_off) {
        json_put(recipe->done, "head_plan_sparsity", json_real(head->plan_target.ratio));
    }
    (void)json_object_del(recipe->done, "search");
    (void)json_object_del(recipe->done, "curve");
    json_put(recipe->done, "scores", scores_format(recipe));
    start_points(recipe);
    return recipe_save(recipe, error);
}
