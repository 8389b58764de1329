/*
 * workers/prune/width_decide.c: from scores to widths. Groups of a method become groups of the allocation, whose target is asked of a
 * plan with as many units of each; the counts it finds become the units of the highest scores.
 */
#include "workers/prune/width.h"

#include "base/check.h"
#include "base/memory.h"
#include "workers/prune/allocation.h"
#include "workers/prune/evolution.h"
#include "workers/prune/knapsack.h"
#include "workers/prune/prune.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what is asked for ------------------------------------------------------------------------------------------- */

const char *width_allocation_name(const struct prune_method *method, const json_t *allocation)
{
    const char *type = json_string_value(json_object_get(allocation, "type"));
    return type == NULL || strcmp(type, "auto") == 0 ? method->default_allocation : type;
}

unsigned width_wanted(const struct prune_method *method, const json_t *parameters, const json_t *allocation)
{
    const char *name = width_allocation_name(method, allocation);
    unsigned kinds = 0, wanted = 0;
    method->choose(parameters, &kinds, &wanted);
    bool asks_for_angles = name != NULL && (strcmp(name, "cfsp") == 0 || strcmp(name, "adapt") == 0);
    return wanted | (asks_for_angles ? WIDTH_ANGLES : 0);
}

const char *width_cost(const struct prune_method *method, const json_t *allocation)
{
    const char *name = width_allocation_name(method, allocation);
    bool is_asked = name != NULL && (strcmp(name, "global") == 0 || strcmp(name, "knapsack") == 0);
    return is_asked ? json_string_value(json_object_get(allocation, "cost")) : NULL;
}

bool width_needs_judge(const struct prune_method *method, const json_t *allocation)
{
    const char *name = width_allocation_name(method, allocation);
    return name != NULL && (strcmp(name, "knapsack") == 0 || strcmp(name, "evolutionary") == 0);
}

static double number_of(const json_t *object, const char *name, double preset)
{
    const json_t *value = json_object_get(object, name);
    return json_is_number(value) ? json_number_value(value) : preset;
}

/* ---- groups ------------------------------------------------------------------------------------------------------ */

struct decision {
    const struct prune_run *run;
    const struct prune_target *target;
    struct plan *plan; /* of the caller; its removals count */
    struct width_groups groups;
    struct allocation_group *places; /* [groups.count] */
    bool is_estimate;                /* no scores: the same ratio everywhere */
    double **folded;                 /* [groups.count] owned: scores of KV groups; NULL: the group's own */
};

static const struct model_layer *layer_of(const struct decision *decision, const struct width_group *group)
{
    const struct model_config *config = &decision->run->inventory->config;
    return &config->layers[group->layer < config->layer_count ? group->layer : 0];
}

/* Heads go as whole KV groups unless the method ranks inside them, which needs more than one to a group. */
static bool is_within_groups(const struct decision *decision, const struct width_group *group)
{
    const struct model_layer *layer = layer_of(decision, group);
    return decision->run->method->ranks_within_groups && layer->head_count > layer->kv_head_count;
}

static double parameters_of_unit(const struct decision *decision, const struct width_group *group)
{
    const struct model_config *config = &decision->run->inventory->config;
    const struct model_layer *layer = layer_of(decision, group);
    double hidden = (double)config->hidden_size, size = (double)config->head_size;
    double projections = architecture_of(config)->is_gated ? 3 : 2;
    double each = (double)layer->head_count / (double)layer->kv_head_count;
    switch (group->kind) {
    case WIDTH_HEADS:
        return is_within_groups(decision, group) ? 2 * hidden * size * (double)layer->kv_head_count
                                                 : 2 * hidden * size * (each + 1);
    case WIDTH_CHANNELS:
        return projections * hidden;
    case WIDTH_EXPERTS:
        return projections * hidden * (double)layer->intermediate_size + hidden;
    case WIDTH_EXPERT_CHANNELS:
        return projections * hidden * (double)group->rows;
    case WIDTH_HIDDEN:
        break;
    }
    double all = 0;
    for (size_t i = 0; i < decision->run->inventory->config.layer_count; i++) {
        const struct model_layer *item = &config->layers[i];
        double experts = item->expert_count > 0 ? (double)item->expert_count : 1;
        all += 2 * size * (double)(item->head_count + item->kv_head_count) +
               projections * experts * (double)item->intermediate_size;
    }
    return all;
}

/* Of one token: two operations a weight, and for heads the scores and the mixing over half of the context on average; of experts the share
 * that a token is sent to. */
static double flops_of_unit(const struct decision *decision, const struct width_group *group)
{
    const struct model_config *config = &decision->run->inventory->config;
    const struct model_layer *layer = layer_of(decision, group);
    double flops = 2 * parameters_of_unit(decision, group);
    if (group->kind == WIDTH_HEADS) {
        double heads = is_within_groups(decision, group)
                           ? (double)layer->kv_head_count
                           : (double)layer->head_count / (double)layer->kv_head_count;
        double context = config->context_tokens < 2048 ? (double)config->context_tokens : 2048;
        flops += 2 * heads * (double)config->head_size * context;
    }
    if (layer->expert_count > 0 && (group->kind == WIDTH_EXPERTS || group->kind == WIDTH_EXPERT_CHANNELS)) {
        flops *= (double)layer->active_expert_count / (double)layer->expert_count;
    }
    return flops;
}

/* Of the weights as they will be written: a checkpoint may mix element types. */
static double element_bytes(const struct decision *decision, const struct width_group *group)
{
    const struct inventory *inventory = decision->run->inventory;
    bool has_experts = group->kind == WIDTH_EXPERTS || group->kind == WIDTH_EXPERT_CHANNELS;
    enum weight_role role = group->kind == WIDTH_HEADS ? WEIGHT_O
                            : has_experts              ? WEIGHT_EXPERT_DOWN
                                                       : WEIGHT_DOWN;
    struct source_view view;
    if (decision->target->element_bytes > 0) {
        return (double)decision->target->element_bytes;
    }
    bool is_found = group->kind != WIDTH_HIDDEN && width_view(inventory, role, group->layer, 0, &view);
    return (double)dtype_bytes(inventory_kept_dtype(is_found ? view.tensor : &inventory->tensors[0]));
}

static double cost_of_unit(const struct decision *decision, const struct width_group *group, size_t units)
{
    const struct prune_run *run = decision->run;
    const char *cost = width_cost(run->method, run->allocation);
    if (cost != NULL && strcmp(cost, "flops") == 0) {
        return flops_of_unit(decision, group);
    }
    if (cost != NULL && strcmp(cost, "milliseconds") == 0 && run->sublayer_milliseconds != NULL) {
        double all = 0;
        for (size_t i = 0; i < run->sublayer_count; i++) {
            bool is_of_group = group->kind == WIDTH_HIDDEN || i == group->sublayer;
            all += is_of_group ? run->sublayer_milliseconds[i] : 0;
        }
        return all / (double)units;
    }
    double bytes = cost != NULL && strcmp(cost, "bytes") == 0 ? element_bytes(decision, group) : 1;
    return bytes * parameters_of_unit(decision, group);
}

static void constrain(const struct decision *decision, const struct width_group *group,
                      struct allocation_group *place)
{
    const struct prune_run *run = decision->run;
    const struct prune_layers *layers = run->layers;
    const json_t *align = json_object_get(run->allocation, "align");
    bool is_narrow =
        group->kind == WIDTH_CHANNELS || group->kind == WIDTH_EXPERT_CHANNELS || group->kind == WIDTH_HIDDEN;
    if (json_is_integer(align) && is_narrow) {
        place->alignment = json_integer_value(align) > 1 ? (size_t)json_integer_value(align) : 1;
    }
    if (group->kind == WIDTH_EXPERTS) {
        place->floor = layer_of(decision, group)->active_expert_count;
    }
    if (layers == NULL || group->kind == WIDTH_HIDDEN) {
        return;
    }
    place->is_fixed = layers->skip[group->layer];
    if (!place->is_fixed && !isnan(layers->ratio[group->layer])) {
        place->is_given = true;
        place->given_ratio = layers->ratio[group->layer];
    }
}

static enum allocation_kind kind_of(enum width_kind kind)
{
    static const enum allocation_kind kinds[] = {
        [WIDTH_HEADS] = ALLOCATION_HEADS,     [WIDTH_CHANNELS] = ALLOCATION_CHANNELS,
        [WIDTH_EXPERTS] = ALLOCATION_EXPERTS, [WIDTH_EXPERT_CHANNELS] = ALLOCATION_EXPERT_CHANNELS,
        [WIDTH_HIDDEN] = ALLOCATION_HIDDEN,
    };
    return kinds[kind];
}

static void make_place(struct decision *decision, size_t index)
{
    const struct width_group *group = &decision->groups.items[index];
    const struct width_statistics *statistics = decision->run->statistics;
    const char *rule = width_allocation_name(decision->run->method, decision->run->allocation);
    struct allocation_group place = {.sublayer = group->sublayer,
                                     .layer = group->layer,
                                     .kind = kind_of(group->kind),
                                     .unit_count = group->count,
                                     .set_count = group->rows,
                                     .scores = group->scores};
    if (group->kind == WIDTH_HEADS) {
        const struct model_layer *layer = layer_of(decision, group);
        size_t each = layer->head_count / layer->kv_head_count;
        if (is_within_groups(decision, group)) {
            place.unit_count = each;
            place.set_count = layer->kv_head_count;
        } else {
            double *folded = memory_create(layer->kv_head_count + 1, sizeof *folded);
            score_fold(SCORE_MEAN, group->scores, group->count, each, folded);
            decision->folded[index] = folded;
            place.unit_count = layer->kv_head_count;
            place.scores = folded;
        }
    }
    if (statistics != NULL && statistics->angles != NULL && group->layer < statistics->layer_count) {
        place.importance = strcmp(rule, "adapt") == 0 ? -statistics->cosines[group->layer]
                                                      : statistics->angles[group->layer];
    }
    constrain(decision, group, &place);
    place.unit_cost = cost_of_unit(decision, group, place.unit_count);
    decision->places[index] = place;
}

/* ---- plans of counts --------------------------------------------------------------------------------------------- */

/* Query heads of the KV groups kept, or of the places kept in every group. */
static size_t list_heads(const struct decision *decision, const struct width_group *group,
                         const uint32_t *kept, size_t kept_count, uint32_t *ret_heads)
{
    const struct model_layer *layer = layer_of(decision, group);
    size_t each = layer->head_count / layer->kv_head_count, count = 0;
    if (is_within_groups(decision, group)) {
        for (size_t g = 0; g < layer->kv_head_count; g++) {
            for (size_t i = 0; i < kept_count; i++) {
                ret_heads[count++] = (uint32_t)(g * each + kept[g * kept_count + i]);
            }
        }
        return count;
    }
    for (size_t i = 0; i < kept_count; i++) {
        for (size_t h = 0; h < each; h++) {
            ret_heads[count++] = (uint32_t)(kept[i] * each + h);
        }
    }
    return count;
}

/* Puts a group's units into the plan; by_score false: the first ones, which measure the same. */
static void keep_group(const struct decision *decision, struct plan *plan, size_t index, size_t kept_count,
                       bool by_score)
{
    const struct width_group *group = &decision->groups.items[index];
    const struct allocation_group *place = &decision->places[index];
    size_t sets = place->set_count > 0 ? place->set_count : 1;
    OWNED_MEMORY uint32_t *kept = memory_create(sets * kept_count + 1, sizeof *kept);
    for (size_t s = 0; s < sets; s++) {
        for (size_t i = 0; i < kept_count; i++) {
            kept[s * kept_count + i] = (uint32_t)i;
        }
        if (by_score && place->scores != NULL) {
            allocation_pick(place->scores + s * place->unit_count, place->unit_count, kept_count,
                            kept + s * kept_count);
        }
    }
    if (group->kind == WIDTH_HEADS) {
        OWNED_MEMORY uint32_t *heads = memory_create(group->count + 1, sizeof *heads);
        size_t count = list_heads(decision, group, kept, kept_count, heads);
        width_keep(plan, group, heads, count);
    } else {
        width_keep(plan, group, kept, kept_count);
    }
}

static struct plan *plan_of_counts(const struct decision *decision, const size_t *kept, bool by_score)
{
    struct plan *plan = plan_copy(decision->plan);
    for (size_t i = 0; i < decision->groups.count; i++) {
        keep_group(decision, plan, i, kept[i], by_score);
    }
    return plan;
}

static bool reach(void *context, const size_t *kept, bool *ret_is_reached, struct error *error)
{
    const struct decision *decision = context;
    const struct model_config *config = &decision->run->inventory->config;
    OWNED(plan) plan = plan_of_counts(decision, kept, false);
    plan->adds_attention_bias = decision->run->adds_biases && plan_can_add_bias(config, true);
    plan->adds_ffn_bias = decision->run->adds_biases && plan_can_add_bias(config, false);
    if (!cancel_check(decision->run->cancel, error)) {
        return false;
    }
    *ret_is_reached = prune_target_reached(decision->target, plan, decision->run->inventory);
    return true;
}

/* ---- searches ---------------------------------------------------------------------------------------------------- */

static bool damage_of_level(void *context, size_t group, size_t kept, double *ret_damage, struct error *error)
{
    const struct decision *decision = context;
    OWNED(plan) plan = plan_copy(decision->plan);
    keep_group(decision, plan, group, kept, true);
    return width_judge_plan(decision->run->judge, plan, 0, ret_damage, error);
}

/* Stages see a quarter of the sequences, then all. */
static bool fitness(void *context, const size_t *kept, size_t stage, double *ret_fitness, struct error *error)
{
    const struct decision *decision = context;
    OWNED(plan) plan = plan_of_counts(decision, kept, true);
    return width_judge_plan(decision->run->judge, plan, stage == 0 ? SIZE_MAX : 0, ret_fitness, error);
}

static bool save_generation(void *context, size_t generation, const size_t *parent, double parent_fitness,
                            struct error *error)
{
    const struct decision *decision = context;
    const struct prune_observer *observer = &decision->run->observer;
    if (observer->progress != NULL) {
        size_t all = (size_t)number_of(decision->run->allocation, "generations", WIDTH_GENERATIONS);
        observer->progress(observer->context, generation, all > generation ? all : generation, "generation");
    }
    JSON_OWNED state = json_object();
    json_t *counts = json_array();
    for (size_t i = 0; i < decision->groups.count; i++) {
        CHECK(json_array_append_new(counts, json_integer((json_int_t)parent[i])) == 0);
    }
    json_put_i64(state, "generation", (int64_t)generation);
    json_put(state, "parent", counts);
    json_put_double(state, "fitness", parent_fitness);
    return observer->save == NULL || observer->save(observer->context, state, false, error);
}

static bool evolve(struct decision *decision, const struct allocation_problem *problem, size_t *ret_kept,
                   struct error *error)
{
    const struct prune_run *run = decision->run;
    const json_t *parent = json_object_get(run->state, "parent");
    OWNED_MEMORY size_t *counts = memory_create(problem->group_count + 1, sizeof *counts);
    struct evolution_options options = {
        .seed = run->seed,
        .generations = (size_t)number_of(run->allocation, "generations", WIDTH_GENERATIONS),
        .offspring = (size_t)number_of(run->allocation, "offspring", WIDTH_OFFSPRING),
        .stage_count = 2,
        .survivors = {2},
        .context = decision,
        .fitness = fitness,
        .save = save_generation};
    if (json_array_size(parent) == problem->group_count && problem->group_count > 0) {
        for (size_t i = 0; i < problem->group_count; i++) {
            counts[i] = (size_t)json_integer_value(json_array_get(parent, i));
        }
        options.parent = counts;
        options.first_generation = (size_t)number_of(run->state, "generation", 0);
        options.parent_fitness = number_of(run->state, "fitness", 0);
    }
    return allocation_evolve(problem, &options, ret_kept, NULL, error);
}

static bool allocate(struct decision *decision, size_t *ret_kept, struct error *error)
{
    const struct prune_run *run = decision->run;
    const char *name =
        decision->is_estimate ? "uniform" : width_allocation_name(run->method, run->allocation);
    struct allocation_problem problem = {.groups = decision->places,
                                         .group_count = decision->groups.count,
                                         .context = decision,
                                         .reach = reach,
                                         .cancel = run->cancel};
    if (strcmp(name, "evolutionary") == 0) {
        return evolve(decision, &problem, ret_kept, error);
    }
    if (strcmp(name, "knapsack") == 0) {
        struct knapsack_options options = {.level_limit =
                                               (size_t)number_of(run->allocation, "levels", WIDTH_LEVELS),
                                           .context = decision,
                                           .damage = damage_of_level};
        return allocation_solve_knapsack(&problem, &options, ret_kept, error);
    }
    struct allocation_rule rule = {
        .kind = strcmp(name, "global") == 0  ? ALLOCATION_GLOBAL
                : strcmp(name, "cfsp") == 0  ? ALLOCATION_CFSP
                : strcmp(name, "adapt") == 0 ? ALLOCATION_ADAPT
                                             : ALLOCATION_UNIFORM,
        .cost_power = width_cost(run->method, run->allocation) != NULL ? 1 : 0,
        .is_standardised = run->method->standardises,
        .sharpness = number_of(run->allocation, "sharpness", WIDTH_SHARPNESS),
        .amplitude = number_of(run->allocation, "amplitude", WIDTH_AMPLITUDE),
        .increment = number_of(run->allocation, "increment", WIDTH_INCREMENT),
    };
    return allocation_solve(&problem, &rule, ret_kept, error);
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

static bool check_request(const struct prune_run *run, const struct prune_target *target, struct error *error)
{
    if (target->kind == PRUNE_TARGET_NUM_LAYERS || target->kind == PRUNE_TARGET_SUBLAYERS_REMOVED) {
        char field[64];
        (void)snprintf(field, sizeof field, "/target/%s", prune_target_name(target->kind));
        return error_set_field(error, ERROR_UNSUPPORTED, field,
                               "%s narrows layers and removes none: ask for sparsity, params or memory_bytes",
                               run->method->name);
    }
    return true;
}

/* A layer's given share is of all its attention and FFN weights: where only some of them may go, more of these do. */
static void scale_given(const struct decision *decision)
{
    const struct prune_run *run = decision->run;
    for (size_t i = 0; i < decision->groups.count; i++) {
        struct allocation_group *place = &decision->places[i];
        double all = 0, may_go = 0;
        for (size_t s = 0; place->is_given && s < run->sublayer_count; s++) {
            all += run->sublayers[s].layer == place->layer ? (double)run->sublayers[s].parameter_count : 0;
        }
        for (size_t j = 0; place->is_given && j < decision->groups.count; j++) {
            const struct width_group *group = &decision->groups.items[j];
            may_go += group->layer == place->layer
                          ? parameters_of_unit(decision, group) * (double)decision->places[j].unit_count
                          : 0;
        }
        if (place->is_given && may_go > 0 && all > may_go) {
            place->given_ratio = fmin(place->given_ratio * all / may_go, 1);
        }
    }
}

static bool beyond_reach(const struct decision *decision, const size_t *least, struct error *error)
{
    const struct prune_target *target = decision->target;
    struct plan_size size;
    char field[64];
    OWNED(plan) plan = plan_of_counts(decision, least, false);
    plan_measure(plan, decision->run->inventory, target->element_bytes, &size);
    (void)snprintf(field, sizeof field, "/target/%s", prune_target_name(target->kind));
    double wanted = target->kind == PRUNE_TARGET_SPARSITY ? target->ratio : (double)target->count;
    return error_set_field(
        error, ERROR_UNREACHABLE, field,
        "%s %.10g cannot be reached; with the fewest units that every layer may keep it is "
        "%.10g",
        prune_target_name(target->kind), wanted, prune_target_achieved(target, &size));
}

static bool solve(struct decision *decision, struct error *error)
{
    const struct prune_run *run = decision->run;
    size_t count = decision->groups.count;
    decision->places = memory_create(count + 1, sizeof *decision->places);
    decision->folded = memory_create(count + 1, sizeof(double *));
    OWNED_MEMORY size_t *kept = memory_create(count + 1, sizeof *kept);
    if (!decision->is_estimate && !run->method->score(run, &decision->groups, error)) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        make_place(decision, i);
    }
    scale_given(decision);
    bool is_whole = false;
    OWNED(plan) none = plan_copy(decision->plan);
    is_whole = prune_target_reached(decision->target, none, run->inventory);
    if (is_whole) {
        return true; /* nothing has to go */
    }
    struct error fault = {0};
    if (!allocate(decision, kept, &fault)) {
        if (fault.code == ERROR_UNREACHABLE) {
            struct allocation_problem problem = {.groups = decision->places, .group_count = count};
            allocation_least(&problem, kept);
            return beyond_reach(decision, kept, error);
        }
        if (error != NULL) {
            *error = fault;
        }
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        keep_group(decision, decision->plan, i, kept[i], true);
    }
    return true;
}

static bool decide(const struct prune_run *run, const struct prune_target *target, bool is_estimate,
                   struct plan *ret_plan, struct error *error)
{
    struct decision decision = {.run = run, .target = target, .plan = ret_plan, .is_estimate = is_estimate};
    unsigned kinds = 0, wanted = 0;
    run->method->choose(run->parameters, &kinds, &wanted);
    if (!check_request(run, target, error)) {
        return false;
    }
    width_list_groups(run, kinds, &decision.groups);
    size_t left = 0; /* without those of sublayers that are gone */
    for (size_t i = 0; i < decision.groups.count; i++) {
        struct width_group *group = &decision.groups.items[i];
        if (group->kind != WIDTH_HIDDEN && ret_plan->removed[group->sublayer]) {
            free(group->scores);
        } else {
            decision.groups.items[left++] = *group;
        }
    }
    decision.groups.count = left;
    bool is_good =
        left > 0 || error_set_field(error, ERROR_UNSUPPORTED, "/method",
                                    "%s finds nothing in this model that it could narrow", run->method->name);
    is_good = is_good && solve(&decision, error);
    for (size_t i = 0; decision.folded != NULL && i < left; i++) {
        free(decision.folded[i]);
    }
    free(decision.folded);
    free(decision.places);
    width_groups_finish(&decision.groups);
    return is_good;
}

bool width_decide(struct prune_run *run, const struct prune_target *target, struct plan *ret_plan,
                  struct error *error)
{
    return decide(run, target, false, ret_plan, error);
}

bool width_estimate(const struct prune_run *run, const struct prune_target *target, struct plan *ret_plan,
                    struct error *error)
{
    return decide(run, target, true, ret_plan, error);
}
