/*
 * workers/prune/random.c: the baseline every method must beat: a permutation drawn from the seed. Reports
 * that compare with it use ten seeds.
 */
#include "workers/prune/prune.h"

#include "base/memory.h"
#include "base/rng.h"
#include <math.h>
#include <stdlib.h>

static const char *const granularities[] = {"sublayer", "block", NULL};
static const struct param_spec params[] = {
    {.name = "granularity",
     .type = PARAM_ENUM,
     .values = granularities,
     .default_json = "\"sublayer\"",
     .help = "What goes in one step: an attention or FFN sublayer, or a whole block."},
};

static bool random_decide(struct prune_run *run, const struct prune_target *target, struct plan *ret_plan,
                          struct error *error)
{
    enum { RANDOM_STREAM = 1 };
    struct prune_unit *units = NULL;
    size_t count = prune_list_units(run, prune_run_granularity(run), &units);
    size_t *order = memory_create(count + 1, sizeof *order);
    struct rng rng = {.seed = run->seed, .stream = RANDOM_STREAM};
    rng_permutation(&rng, count, order);
    for (size_t i = 0; i < count; i++) {
        prune_add_unit(ret_plan, &units[order[i]], NAN);
    }
    free(order);
    free(units);
    return prune_target_cut(target, ret_plan, run->inventory, error);
}

const struct prune_method prune_method_random = {
    .name = "random",
    .summary = "Baseline: removes sublayers or blocks in a random order drawn from the seed.",
    .reference = "baseline",
    .traits = PRUNE_TRAIT_SEEDED,
    .params = params,
    .param_count = sizeof params / sizeof params[0],
    .decide = random_decide,
};
