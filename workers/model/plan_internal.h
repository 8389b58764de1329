/* workers/model/plan_internal.h: plan.json, shared by plan.c and plan_width.c. */
#ifndef WORKERS_MODEL_PLAN_INTERNAL_H
#define WORKERS_MODEL_PLAN_INTERNAL_H

#include "workers/model/plan.h"

/* Adds "widths" and what else belongs to width, with the index of the patch. */
void plan_format_widths(const struct plan *plan, json_t *root);
/* All but the patch, which is opened by whoever knows where its file is. */
bool plan_parse_widths(const json_t *root, struct plan *plan, struct error *error);

/* The counts that widths change; those of a plan without widths are plan.c's. */
void plan_measure_widths(const struct plan *plan, const struct inventory *inventory, size_t element_bytes,
                         struct plan_size *size);

#endif
