/* workers/prune/prune.c: the registry, and what methods share. */
#include "workers/prune/prune.h"

#include "base/memory.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

const struct prune_method *const *prune_methods(void)
{
    static const struct prune_method *const methods[] = {
#define PRUNE_METHOD(id) &prune_method_##id,
#include "workers/prune/methods.def"
#undef PRUNE_METHOD
        NULL,
    };
    return methods;
}

const struct prune_method *prune_method_find(const char *name)
{
    for (const struct prune_method *const *method = prune_methods(); *method != NULL; method++) {
        if (strcmp((*method)->name, name) == 0) {
            return *method;
        }
    }
    return NULL;
}

bool prune_is_skipped(const struct prune_run *run, size_t layer)
{
    return run->layers != NULL && layer < run->layers->layer_count && run->layers->skip[layer];
}

size_t prune_list_units(const struct prune_run *run, enum prune_granularity granularity,
                        struct prune_unit **ret_units)
{
    struct prune_unit *units = memory_create(run->sublayer_count + 1, sizeof *units);
    size_t count = 0;
    for (size_t i = 0; i < run->sublayer_count; i++) {
        if (prune_is_skipped(run, run->sublayers[i].layer)) {
            continue;
        }
        bool joins =
            granularity == PRUNE_BY_BLOCK && i > 0 && run->sublayers[i].layer == run->sublayers[i - 1].layer;
        if (joins) {
            units[count - 1].count++;
        } else {
            units[count++] = (struct prune_unit){i, 1};
        }
    }
    *ret_units = units;
    return count;
}

void prune_add_unit(struct plan *plan, const struct prune_unit *unit, double score)
{
    for (size_t i = 0; i < unit->count; i++) {
        bool is_last = i + 1 == unit->count;
        plan_add_point(plan, unit->first + i, is_last ? score : (double)NAN, is_last);
    }
}

/* Units with their sizes, in the order in which they go; what is equally large goes from the end. */
static int compare_sizes(const void *left, const void *right)
{
    const uint64_t *a = left, *b = right; /* {size, index} */
    return a[0] != b[0] ? (a[0] < b[0] ? -1 : 1) : (a[1] > b[1] ? -1 : a[1] < b[1]);
}

static struct plan *remove_by_size(const struct prune_run *run, const struct prune_unit *units, size_t count,
                                   bool is_largest_first)
{
    OWNED_MEMORY uint64_t *order = memory_create(2 * count + 1, sizeof *order);
    struct plan *plan = plan_create(run->sublayer_count);
    size_t sublayers = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t size = 0;
        for (size_t s = 0; s < units[i].count; s++) {
            size += run->sublayers[units[i].first + s].parameter_count;
        }
        order[2 * i] = is_largest_first ? UINT64_MAX - size : size;
        order[2 * i + 1] = i;
        sublayers += units[i].count;
    }
    qsort(order, count, 2 * sizeof *order, compare_sizes);
    size_t rounds = sublayers == run->sublayer_count && count > 0 ? count - 1 : count;
    for (size_t i = 0; i < rounds; i++) {
        prune_add_unit(plan, &units[order[2 * i + 1]], NAN);
    }
    return plan;
}

bool prune_estimate(const struct prune_run *run, const struct prune_unit *units, size_t count,
                    const struct prune_target *target, struct plan *ret_plan, struct error *error)
{
    struct prune_target any = *target;
    any.require_packable = false;
    OWNED(plan) most = remove_by_size(run, units, count, true);
    if (!prune_target_cut(&any, most, run->inventory, error)) {
        return false;
    }
    OWNED(plan) least = remove_by_size(run, units, count, false);
    const struct plan *found = prune_target_cut(&any, least, run->inventory, NULL) ? least : most;
    for (size_t i = 0; i < found->point_count; i++) {
        plan_add_point(ret_plan, found->points[i].sublayer, NAN, found->points[i].is_cut);
    }
    plan_cut(ret_plan, found->removed_count);
    return true;
}

enum prune_granularity prune_run_granularity(const struct prune_run *run)
{
    const char *text = json_string_value(json_object_get(run->parameters, "granularity"));
    return text != NULL && strcmp(text, "block") == 0 ? PRUNE_BY_BLOCK : PRUNE_BY_SUBLAYER;
}

bool prune_angles_of_all_tokens(const json_t *parameters)
{
    const char *text = json_string_value(json_object_get(parameters, "tokens"));
    return text != NULL && strcmp(text, "all") == 0;
}
