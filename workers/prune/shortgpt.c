/*
 * workers/prune/shortgpt.c: ShortGPT (Men et al., arXiv 2403.03853): block influence BI = 1 - E[cos(h_in,
 * h_out)]; the blocks with the least go, in one shot. The score of a point is the block's own BI, not a
 * distance of the whole model.
 */
#include "workers/prune/prune.h"

#include "base/memory.h"
#include <math.h>
#include <stdlib.h>

static bool shortgpt_decide(struct prune_run *run, const struct prune_target *target, struct plan *ret_plan,
                            struct error *error)
{
    struct prune_unit *units = NULL;
    size_t count = prune_list_units(run, PRUNE_BY_BLOCK, &units);
    bool is_good = true;
    for (size_t round = 0; round < count && is_good; round++) {
        size_t best = count;
        double lowest = INFINITY;
        for (size_t i = 0; i < count; i++) {
            if (units[i].count > 0) {
                double influence = 1 - run->block_cosines[run->sublayers[units[i].first].layer];
                if (!isfinite(influence)) {
                    is_good =
                        error_set(error, ERROR_NUMERIC, "the influence of block %zu is not a finite number",
                                  run->sublayers[units[i].first].layer);
                    break;
                }
                if (influence < lowest) {
                    lowest = influence;
                    best = i;
                }
            }
        }
        if (is_good) {
            prune_add_unit(ret_plan, &units[best], lowest);
            units[best].count = 0;
        }
    }
    free(units);
    return is_good && prune_target_cut(target, ret_plan, run->inventory, error);
}

const struct prune_method prune_method_shortgpt = {
    .name = "shortgpt",
    .summary = "Removes, in one shot, the blocks that turn the hidden state least (block influence).",
    .reference = "Men et al. 2024, ShortGPT, arXiv 2403.03853, equation 1",
    .needs = PRUNE_NEED_CALIBRATION | PRUNE_NEED_BLOCK_COSINES,
    .traits = PRUNE_TRAIT_PACKS,
    .decide = shortgpt_decide,
};
