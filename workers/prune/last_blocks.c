/* workers/prune/last_blocks.c: the baseline without data: whole blocks from the end backwards. */
#include "workers/prune/prune.h"

#include <math.h>
#include <stdlib.h>

static bool last_blocks_decide(struct prune_run *run, const struct prune_target *target,
                               struct plan *ret_plan, struct error *error)
{
    struct prune_unit *units = NULL;
    size_t count = prune_list_units(run, PRUNE_BY_BLOCK, &units);
    for (size_t i = count; i-- > 0;) {
        prune_add_unit(ret_plan, &units[i], NAN);
    }
    free(units);
    return prune_target_cut(target, ret_plan, run->inventory, error);
}

const struct prune_method prune_method_last_blocks = {
    .name = "last_blocks",
    .summary = "Baseline: removes whole blocks from the end backwards; needs no data.",
    .reference = "baseline",
    .traits = PRUNE_TRAIT_PACKS,
    .decide = last_blocks_decide,
};
