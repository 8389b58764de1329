/* workers/prune/prune.c: the registry, and what methods share. */
#include "workers/prune/prune.h"

#include "base/memory.h"
#include <math.h>
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
