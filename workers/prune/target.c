/*
 * workers/prune/target.c: targets, the same for every method (design section 3). The result is the first
 * point of the curve at or past the target; both what was asked for and what was reached are reported.
 */
#include "workers/prune/prune.h"

#include "base/check.h"
#include <math.h>

static const char *const target_names[] = {
    [PRUNE_TARGET_SPARSITY] = "sparsity",
    [PRUNE_TARGET_PARAMS] = "params",
    [PRUNE_TARGET_MEMORY_BYTES] = "memory_bytes",
    [PRUNE_TARGET_NUM_LAYERS] = "num_layers",
    [PRUNE_TARGET_SUBLAYERS_REMOVED] = "sublayers_removed",
};

const char *prune_target_name(enum prune_target_kind kind)
{
    return target_names[kind];
}

bool prune_target_parse(const json_t *target, struct prune_target *ret_target, struct error *error)
{
    struct prune_target parsed = {0};
    bool is_found = false;
    for (size_t i = 0; i < sizeof target_names / sizeof target_names[0]; i++) {
        const json_t *value = json_object_get(target, target_names[i]);
        if (value == NULL || json_is_null(value)) {
            continue;
        }
        if (!json_is_number(value) || is_found) {
            return error_set_field(error, ERROR_INVALID_ARGUMENT, "/target",
                                   "target needs exactly one number");
        }
        is_found = true;
        parsed.kind = (enum prune_target_kind)i;
        parsed.ratio = json_number_value(value);
        parsed.count = parsed.ratio > 0 ? (uint64_t)parsed.ratio : 0;
    }
    if (!is_found) {
        return error_set_field(error, ERROR_MISSING_FIELD, "/target", "target names no measure");
    }
    if (!json_find_bool(target, "/target", "require_packable", &parsed.require_packable, error)) {
        return false;
    }
    *ret_target = parsed;
    return true;
}

double prune_target_achieved(const struct prune_target *target, const struct plan_size *size)
{
    switch (target->kind) {
    case PRUNE_TARGET_SPARSITY:
        return size->sparsity_ratio;
    case PRUNE_TARGET_PARAMS:
        return (double)size->parameter_count;
    case PRUNE_TARGET_MEMORY_BYTES:
        return (double)size->weight_bytes;
    case PRUNE_TARGET_NUM_LAYERS:
        return (double)size->block_count;
    case PRUNE_TARGET_SUBLAYERS_REMOVED:
        return (double)size->removed_sublayer_count;
    }
    return NAN;
}

static bool packs(const struct plan *plan, const struct inventory *inventory)
{
    FINISHED(plan_blocks) blocks = {0};
    plan_pack(plan, inventory, &blocks);
    return blocks.is_uniform;
}

static bool size_meets(const struct prune_target *target, const struct plan_size *size)
{
    switch (target->kind) {
    case PRUNE_TARGET_SPARSITY:
        return size->sparsity_ratio >= target->ratio;
    case PRUNE_TARGET_PARAMS:
        return size->parameter_count <= target->count;
    case PRUNE_TARGET_MEMORY_BYTES:
        return size->weight_bytes <= target->count;
    case PRUNE_TARGET_NUM_LAYERS:
        return size->block_count <= target->count;
    case PRUNE_TARGET_SUBLAYERS_REMOVED:
        return size->removed_sublayer_count >= target->count;
    }
    return false;
}

bool prune_target_reached(const struct prune_target *target, const struct plan *plan,
                          const struct inventory *inventory)
{
    struct plan_size size;
    plan_measure(plan, inventory, target->element_bytes, &size);
    return size.block_count > 0 && size_meets(target, &size) &&
           (!target->require_packable || packs(plan, inventory));
}

/* The point that comes closest without being enough: the one that removes most and leaves a model that packs
 * if it must. */
static bool find_nearest(const struct prune_target *target, struct plan *plan,
                         const struct inventory *inventory, struct plan_size *ret_size)
{
    for (size_t count = plan->point_count + 1; count-- > 0;) {
        if (count > 0 && !plan->points[count - 1].is_cut) {
            continue;
        }
        plan_cut(plan, count);
        plan_measure(plan, inventory, target->element_bytes, ret_size);
        if (ret_size->block_count > 0 && (!target->require_packable || packs(plan, inventory))) {
            return true;
        }
    }
    return false;
}

bool prune_target_cut(const struct prune_target *target, struct plan *plan, const struct inventory *inventory,
                      struct error *error)
{
    for (size_t count = 0; count <= plan->point_count; count++) {
        if (count > 0 && !plan->points[count - 1].is_cut) {
            continue;
        }
        plan_cut(plan, count);
        if (prune_target_reached(target, plan, inventory)) {
            return true;
        }
    }
    char field[64];
    (void)snprintf(field, sizeof field, "/target/%s", target_names[target->kind]);
    struct plan_size nearest = {0};
    bool is_found = find_nearest(target, plan, inventory, &nearest);
    plan_cut(plan, 0);
    double wanted = target->kind == PRUNE_TARGET_SPARSITY ? target->ratio : (double)target->count;
    const char *rule = target->require_packable ? " in whole blocks of attention and FFN" : "";
    if (!is_found) {
        return error_set_field(error, ERROR_UNREACHABLE, field,
                               "%s %.10g cannot be reached%s: no point of the curve qualifies",
                               target_names[target->kind], wanted, rule);
    }
    return error_set_field(
        error, ERROR_UNREACHABLE, field,
        "%s %.10g cannot be reached%s; the nearest point removes %zu sublayers and reaches %.10g",
        target_names[target->kind], wanted, rule, nearest.removed_sublayer_count,
        prune_target_achieved(target, &nearest));
}
