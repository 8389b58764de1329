/* workers/recipe/combined.h: the method of a job, which may be two: depth first, then width. */
#ifndef WORKERS_RECIPE_COMBINED_H
#define WORKERS_RECIPE_COMBINED_H

#include "workers/recipe/recipe_internal.h"

#define COMBINED_SUMMARY                                                                                     \
    "Removes whole sublayers first, then narrows what is left, each by a method of its own."

struct recipe_method {
    const char *name; /* of the request: "combined", or the method's own */
    const struct prune_method *method;
    const json_t *parameters; /* of the method, of a combination the width method's; borrowed from the spec */
    const struct prune_method *depth; /* NULL: no combination */
    const json_t *depth_parameters;
    double depth_ratio;
    struct prune_method merged; /* the width method, with what both need */
};
void recipe_find_method(const json_t *spec, struct recipe_method *ret_method);
/* Valid as long as *found. NULL: the spec has none. */
const struct prune_method *recipe_method_of(const struct recipe_method *found);
/* The parameters of a method of this name in a resolved spec, alone or as the width of a combination. */
const json_t *recipe_method_parameters(const json_t *spec, const char *name);
/* Those of the method that removes sublayers, alone or as the depth of a combination. */
const json_t *recipe_search_parameters(const json_t *spec);
/* The member of the union of methods, static. */
const struct param_spec *combined_spec(void);
/* The method's decide, after that of the depth method where there is one. */
bool combined_decide(struct recipe *recipe, struct prune_run *run, const struct prune_target *target,
                     struct plan *ret_plan, struct error *error) MUST_USE;
/* What it will leave, by arithmetic alone (prune_method.estimate). run: of the method, whose parameters it has. */
bool combined_estimate(const struct recipe_method *found, const struct prune_run *run,
                       const struct prune_target *target, struct plan *ret_plan,
                       struct error *error) MUST_USE;

#endif
