/* workers/recipe/page.h: pieces of report.html, shared by page.c (text and tables) and page_figures.c (SVG). */
#ifndef WORKERS_RECIPE_PAGE_H
#define WORKERS_RECIPE_PAGE_H

#include "base/json.h"
#include "base/text.h"

double page_number(const json_t *object, const char *name); /* NAN where there is none */
void page_append_count(struct text *page, double value);    /* "12.3 M" */
void page_append_bytes(struct text *page, double value);    /* "60.8 MB" */

void page_append_strip(struct text *page, const json_t *report); /* what was removed, layer by layer */
void page_append_curve(struct text *page, const json_t *report); /* score against sublayers removed */
void page_append_bars(struct text *page, const json_t *report);  /* before and after */

#endif
