/*
 * workers/prune/llm_drop.c: LLM-Drop (He et al., arXiv 2406.15786): the importance of a sublayer is S = 1 - E[cos(x, x + f(norm
 * x))], how far it turns the residual stream; the sublayers with the least go, in one shot. Attention alone ("attention drop"), FFN
 * alone ("MLP drop") or both ranked together ("joint layer drop").
 *
 * The score of a point is the sublayer's own importance, not a distance of the whole model.
 */
#include "workers/prune/prune.h"

#include "base/memory.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const kinds[] = {"both", "attention", "ffn", NULL};
static const struct param_spec params[] = {
    {.name = "sublayers",
     .type = PARAM_ENUM,
     .values = kinds,
     .default_json = "\"both\"",
     .help = "Which sublayers may go: attention, FFN, or both in one ranking."},
};

static bool is_candidate(const struct sublayer *sublayer, const char *kind)
{
    return kind == NULL || strcmp(kind, "both") == 0 ||
           (strcmp(kind, "attention") == 0) == (sublayer->kind == SUBLAYER_ATTENTION);
}

static bool llm_drop_decide(struct prune_run *run, const struct prune_target *target, struct plan *ret_plan,
                            struct error *error)
{
    const char *kind = json_string_value(json_object_get(run->parameters, "sublayers"));
    OWNED_MEMORY bool *gone = memory_create(run->sublayer_count + 1, sizeof *gone);
    size_t left = 0;
    for (size_t i = 0; i < run->sublayer_count; i++) {
        gone[i] = !is_candidate(&run->sublayers[i], kind) || prune_is_skipped(run, run->sublayers[i].layer);
        left += gone[i] ? 0 : 1;
        if (!gone[i] && !isfinite(run->sublayer_cosines[i])) {
            return error_set(error, ERROR_NUMERIC, "the importance of sublayer %zu is not a finite number",
                             i);
        }
    }
    for (; left > 0; left--) {
        size_t best = run->sublayer_count;
        for (size_t i = 0; i < run->sublayer_count; i++) {
            if (!gone[i] &&
                (best == run->sublayer_count ||
                 run->sublayer_cosines[i] > run->sublayer_cosines[best])) { /* ties: lower index */
                best = i;
            }
        }
        gone[best] = true;
        prune_add_unit(ret_plan, &(struct prune_unit){best, 1}, 1 - run->sublayer_cosines[best]);
    }
    return prune_target_cut(target, ret_plan, run->inventory, error);
}

static bool llm_drop_estimate(const struct prune_run *run, const struct prune_target *target,
                              struct plan *ret_plan, struct error *error)
{
    const char *kind = json_string_value(json_object_get(run->parameters, "sublayers"));
    OWNED_MEMORY struct prune_unit *units = NULL;
    size_t count = prune_list_units(run, PRUNE_BY_SUBLAYER, &units), left = 0;
    for (size_t i = 0; i < count; i++) {
        if (is_candidate(&run->sublayers[units[i].first], kind)) {
            units[left++] = units[i];
        }
    }
    return prune_estimate(run, units, left, target, ret_plan, error);
}

static const char *const late_params[] = {"sublayers", NULL};

const struct prune_method prune_method_llm_drop = {
    .name = "llm_drop",
    .summary = "Removes, in one shot, the attention or FFN sublayers that turn the residual stream least.",
    .reference = "He et al. 2024, What Matters in Transformers? (LLM-Drop), arXiv 2406.15786, section 3",
    .needs = PRUNE_NEED_CALIBRATION | PRUNE_NEED_SUBLAYER_COSINES,
    .params = params,
    .param_count = sizeof params / sizeof params[0],
    .late_params = late_params,
    .decide = llm_drop_decide,
    .estimate = llm_drop_estimate,
};
