/*
 * workers/recipe/catalogue.h: what can be asked for, as param specs: the one place of bounds and defaults.
 * The specs are static and live forever; the first call builds the union of methods (call it once before
 * threads).
 */
#ifndef WORKERS_RECIPE_CATALOGUE_H
#define WORKERS_RECIPE_CATALOGUE_H

#include "base/param.h"

/* The body of a job type without its "type"; NULL: no such type. */
const struct param_spec *catalogue_body(const char *job_type);
/* A text to measure on: source, text_field, half. */
#define CATALOGUE_TEXT_MEMBERS 3
extern const struct param_spec catalogue_text_members[CATALOGUE_TEXT_MEMBERS];
/* catalogue_pruning.c: target, sweep, quality_gate, layers, allocation, compensation. */
const struct param_spec *catalogue_shaping(size_t *ret_count);

#endif
