/* workers/recipe/gate.h: what the files of the quality gate share: gate.c judges, gate_choose.c chooses. */
#ifndef WORKERS_RECIPE_GATE_H
#define WORKERS_RECIPE_GATE_H

#include "workers/recipe/recipe_internal.h"

bool gate_is_backing_off(const json_t *gate);
/* recipe->done.gate with what is known of the original. */
bool gate_start(struct recipe *recipe, struct error *error) MUST_USE;
/* A plan's entry in done.gate.tries: {name, sparsity_ratio, ..., passed}; measured unless there is one of this name. Borrowed; NULL on
 * failure. */
const json_t *gate_judge(struct recipe *recipe, const char *name, const struct plan *plan,
                         struct error *error) MUST_USE;
bool gate_passes(const json_t *item);
/* QUALITY_GATE_FAILED with what was measured, and `rest` at its end. Returns false. */
bool gate_fail(struct recipe *recipe, const json_t *item, const char *rest, struct error *error);

#endif
