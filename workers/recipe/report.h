/* workers/recipe/report.h: pieces of report.json that all types of jobs have, and how the files are written. Everything returned is owned. */
#ifndef WORKERS_RECIPE_REPORT_H
#define WORKERS_RECIPE_REPORT_H

#include "workers/recipe/recipe_internal.h"

json_t *report_format_model(const struct recipe *recipe) MUST_USE;     /* the model that the request names */
json_t *report_format_resources(const struct recipe *recipe) MUST_USE; /* memory, times, the machine */
bool report_save_json(const struct recipe *recipe, const char *name, const json_t *json,
                      struct error *error) MUST_USE;
bool report_save_text(const struct recipe *recipe, const char *name, const char *text,
                      struct error *error) MUST_USE;

#endif
