/* workers/recipe/page.h: pieces of report.html: page.c (the page, its tables), page_figures.c (what was removed, the removal curve, bars),
 * page_layers.c (layer by layer; all targets), page_measures.c (what was measured); of a selection page_selection.c (all of it but the
 * head and what all pages share) and page_clusters.c. A piece with nothing to show appends nothing. */
#ifndef WORKERS_RECIPE_PAGE_H
#define WORKERS_RECIPE_PAGE_H

#include "base/json.h"
#include "base/text.h"
#include <stdbool.h>

/* report.html from report.json: owned. */
char *page_format(const json_t *report) MUST_USE;

double page_number(const json_t *object, const char *name);    /* NAN where there is none */
const char *page_text(const json_t *object, const char *name); /* "" where there is none; borrowed */
void page_append_count(struct text *page, double value);       /* "12.3 M"; NAN: a dash */
void page_append_bytes(struct text *page, double value);       /* "60.8 MB"; NAN: a dash */

void page_append_strip(struct text *page, const json_t *report); /* what was removed, layer by layer */
void page_append_curve(struct text *page, const json_t *report); /* score against sublayers removed */
void page_append_bars(struct text *page, const json_t *report);  /* before and after */

#define PAGE_FIGURE_WIDTH 920.0

size_t page_count_narrowed(const json_t *report); /* sublayers that are narrower and not gone */
void page_append_widths(struct text *page, const json_t *report);
void page_append_scores(struct text *page, const json_t *report);
void page_append_sweep(struct text *page,
                       const json_t *report); /* the curve of all targets, its knee, their table */

void page_append_positions(struct text *page, const json_t *report);
void page_append_accuracy(struct text *page, const json_t *report);
void page_append_divergence(struct text *page, const json_t *report);
void page_append_speed(struct text *page, const json_t *report);
void page_append_continuations(struct text *page, const json_t *report);

extern const char page_selection_style[], page_cluster_style[]; /* beside the style of all pages */
void page_append_selection(struct text *page, const json_t *report);
void page_append_clusters(struct text *page, const json_t *report); /* their map; one by one */

#endif
