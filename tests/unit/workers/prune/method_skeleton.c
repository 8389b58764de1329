/*
 * A pruning method to copy: put it into workers/prune/<name>.c, give it its name, and add PRUNE_METHOD(<name>) to methods.def. This one
 * removes the sublayer with the most (or fewest) parameters first.
 *
 * The tests compile and run it, so it cannot rot.
 */
#include "workers/prune/prune.h"

#include "base/memory.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const orders[] = {"largest", "smallest", NULL};
static const struct param_spec params[] = {
    {.name = "order",
     .type = PARAM_ENUM,
     .values = orders,
     .default_json = "\"largest\"",
     .help = "Which sublayers go first."},
};

static bool skeleton_decide(struct prune_run *run, const struct prune_target *target, struct plan *ret_plan,
                            struct error *error)
{
    const char *order = json_string_value(json_object_get(run->parameters, "order"));
    bool is_smallest_first = order != NULL && strcmp(order, "smallest") == 0;
    struct prune_unit *units = NULL; /* sublayers, in residual order */
    size_t count = prune_list_units(run, PRUNE_BY_SUBLAYER, &units);
    bool *gone = memory_create(count + 1, sizeof *gone);
    for (size_t round = 0; round < count; round++) {
        size_t best = count;
        for (size_t i = 0; i < count; i++) {
            if (gone[i]) {
                continue;
            }
            uint64_t size = run->sublayers[i].parameter_count;
            uint64_t best_size = best < count ? run->sublayers[best].parameter_count : 0;
            if (best == count ||
                (is_smallest_first ? size < best_size : size > best_size)) { /* ties: lower index */
                best = i;
            }
        }
        gone[best] = true;
        prune_add_unit(ret_plan, &units[best], NAN); /* NAN: this method has no score of the whole model */
    }
    free(gone);
    free(units);
    return prune_target_cut(target, ret_plan, run->inventory,
                            error); /* the first point at or past the target */
}

extern const struct prune_method prune_method_skeleton; /* what a line in methods.def gives the others */
const struct prune_method prune_method_skeleton = {
    .name = "skeleton",
    .summary = "Removes sublayers by their number of parameters.",
    .reference = "an example",
    .needs = 0,
    .traits = 0,
    .params = params,
    .param_count = sizeof params / sizeof params[0],
    .decide = skeleton_decide,
};
