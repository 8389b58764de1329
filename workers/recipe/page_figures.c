/*
 * workers/recipe/page_figures.c: the figures of report.html as inline SVG. Colours are the page's variables, so that they follow light
 * and dark; every mark that matters has a <title>, which browsers show on hovering and readers read out.
 */
#include "workers/recipe/page.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#define FIGURE_WIDTH PAGE_FIGURE_WIDTH

/* ---- the strip ---------------------------------------------------------------------------------------------------- */

static void append_cell(struct text *page, double x, double y, double width, double height,
                        const json_t *kept, size_t layer, const char *kind, const char *colour)
{
    if (kept == NULL) { /* the source has no such sublayer */
        return;
    }
    bool is_kept = json_is_true(kept);
    text_append_format(page, "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" rx=\"3\" ", x, y,
                       width, height);
    if (is_kept) {
        text_append_format(page, "fill=\"var(--%s)\">", colour);
    } else {
        text_append(page,
                    "fill=\"none\" stroke=\"var(--gone)\" stroke-width=\"1.5\" stroke-dasharray=\"4 3\">");
    }
    text_append_format(page, "<title>layer %zu %s: %s</title></rect>", layer, kind,
                       is_kept ? "kept" : "removed");
    if (!is_kept && width >= 9) {
        double cx = x + width / 2;
        double cy = y + height / 2;
        text_append_format(
            page, "<path d=\"M%.2f %.2fl7 7m0-7l-7 7\" stroke=\"var(--gone)\" stroke-width=\"1.8\"/>",
            cx - 3.5, cy - 3.5);
    }
}

void page_append_strip(struct text *page, const json_t *report)
{
    enum { PER_ROW = 48 };
    const json_t *layers = json_object_get(json_object_get(report, "plan"), "kept");
    size_t count = json_array_size(layers);
    size_t per_row = count < PER_ROW ? count : PER_ROW;
    size_t rows = per_row > 0 ? (count + per_row - 1) / per_row : 0;
    double left = 70;
    double step = per_row > 0 ? (FIGURE_WIDTH - left) / (double)per_row : 0;
    step = step > 60 ? 60 : step;
    double gap = step > 12 ? 4 : 1;
    double row_height = 74;
    text_append(page, "<section><h2>What was removed</h2>");
    text_append_format(
        page,
        "<svg viewBox=\"0 0 %.0f %.0f\" role=\"img\" aria-label=\"kept and removed sublayers by layer\">",
        FIGURE_WIDTH, row_height * (double)rows);
    for (size_t row = 0; row < rows; row++) {
        double y = row_height * (double)row;
        text_append_format(page,
                           "<text x=\"0\" y=\"%.1f\">attention</text><text x=\"0\" y=\"%.1f\">FFN</text>",
                           y + 17, y + 45);
        for (size_t i = row * per_row; i < count && i < (row + 1) * per_row; i++) {
            const json_t *layer = json_array_get(layers, i);
            double x = left + step * (double)(i - row * per_row);
            append_cell(page, x, y, step - gap, 24, json_object_get(layer, "attention"), i, "attention",
                        "keep");
            append_cell(page, x, y + 28, step - gap, 24, json_object_get(layer, "ffn"), i, "FFN", "ffn");
            if (step >= 16 || i % 4 == 0) {
                text_append_format(page, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%zu</text>",
                                   x + (step - gap) / 2, y + 68, i);
            }
        }
    }
    text_append(
        page,
        "</svg><p class=\"note\"><span class=\"key\" style=\"background:var(--keep);margin-left:0\"></span>attention kept"
        "<span class=\"key\" style=\"background:var(--ffn)\"></span>FFN kept"
        "<span class=\"key\" style=\"border:1.5px dashed var(--gone)\"></span>removed; numbers are layers of the "
        "source</p></section>");
}

/* ---- the curve ----------------------------------------------------------------------------------------------------- */

struct axis {
    double left, right, top, bottom; /* of the plot area */
    double x_max, y_max;
};

/* A round step that cuts the range into four to eight. */
static double round_step(double range, double parts)
{
    double raw = range / parts;
    double magnitude = pow(10, floor(log10(raw)));
    double fraction = raw / magnitude;
    return magnitude * (fraction < 1.5 ? 1 : fraction < 3.5 ? 2 : fraction < 7.5 ? 5 : 10);
}

static double axis_x(const struct axis *axis, double value)
{
    return axis->left + (axis->right - axis->left) * value / axis->x_max;
}

static double axis_y(const struct axis *axis, double value)
{
    return axis->bottom - (axis->bottom - axis->top) * value / axis->y_max;
}

static void append_axes(struct text *page, const struct axis *axis, const char *x_label, const char *y_label)
{
    double step = round_step(axis->y_max, 4);
    for (double value = 0; value <= axis->y_max * 1.0001; value += step) {
        double y = axis_y(axis, value);
        text_append_format(page,
                           "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.2f\" y2=\"%.2f\" stroke=\"var(--line)\"/>"
                           "<text x=\"%.1f\" y=\"%.2f\" text-anchor=\"end\">%.3g</text>",
                           axis->left, axis->right, y, y, axis->left - 8, y + 4, value);
    }
    double x_step = round_step(axis->x_max, 10);
    x_step = x_step < 1 ? 1 : x_step;
    for (double value = 0; value <= axis->x_max * 1.0001; value += x_step) {
        text_append_format(page, "<text x=\"%.2f\" y=\"%.1f\" text-anchor=\"middle\">%.0f</text>",
                           axis_x(axis, value), axis->bottom + 18, value);
    }
    text_append_format(
        page, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%s</text><text x=\"0\" y=\"12\">%s</text>",
        (axis->left + axis->right) / 2, axis->bottom + 38, x_label, y_label);
}

static size_t read_points(const json_t *points, size_t limit, double *ret_scores, double *ret_max)
{
    size_t known = 0;
    double highest = 0;
    for (size_t i = 0; i < json_array_size(points) && i < limit; i++) {
        ret_scores[i] = page_number(json_array_get(points, i), "score");
        if (!isnan(ret_scores[i])) {
            known++;
            highest = ret_scores[i] > highest ? ret_scores[i] : highest;
        }
    }
    *ret_max = highest;
    return known;
}

static void append_dots(struct text *page, const struct axis *axis, const json_t *points,
                        const double *scores, size_t count, size_t removed)
{
    text_append(
        page,
        "<polyline fill=\"none\" stroke=\"var(--keep)\" stroke-width=\"2\" stroke-linejoin=\"round\" points=\"");
    text_append_format(page, "%.2f,%.2f", axis_x(axis, 0), axis_y(axis, 0));
    for (size_t i = 0; i < count; i++) {
        if (!isnan(scores[i])) {
            text_append_format(page, " %.2f,%.2f", axis_x(axis, (double)i + 1), axis_y(axis, scores[i]));
        }
    }
    text_append(page, "\"/>");
    for (size_t i = 0; i < count; i++) {
        if (isnan(scores[i])) {
            continue;
        }
        const json_t *point = json_array_get(points, i);
        bool is_chosen = i + 1 == removed;
        text_append_format(
            page,
            "<circle cx=\"%.2f\" cy=\"%.2f\" r=\"%d\" fill=\"var(--%s)\"><title>%zu removed: layer %.0f %s, "
            "score %.6g</title></circle>",
            axis_x(axis, (double)i + 1), axis_y(axis, scores[i]), is_chosen ? 6 : 3,
            is_chosen ? "gone" : "keep", i + 1, page_number(point, "layer"),
            json_string_value(json_object_get(point, "kind")), scores[i]);
        if (is_chosen) {
            bool is_right = axis_x(axis, (double)i + 1) > axis->right - 130;
            text_append_format(
                page, "<text class=\"strong\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">this result</text>",
                axis_x(axis, (double)i + 1) + (is_right ? -12 : 0), axis_y(axis, scores[i]) - 12,
                is_right ? "end" : "middle");
        }
    }
}

void page_append_curve(struct text *page, const json_t *report)
{
    enum { POINTS_MAX = 2048 };
    const json_t *plan = json_object_get(report, "plan");
    const json_t *points = json_object_get(plan, "points");
    static _Thread_local double scores[POINTS_MAX];
    double highest = 0;
    size_t count = json_array_size(points) < POINTS_MAX ? json_array_size(points) : POINTS_MAX;
    bool is_curve = json_is_true(json_object_get(json_object_get(report, "method"), "is_curve"));
    if (!is_curve || read_points(points, count, scores, &highest) == 0 || highest <= 0) {
        return;
    }
    struct axis axis = {
        .left = 70, .right = FIGURE_WIDTH - 10, .top = 30, .bottom = 250, .x_max = (double)count};
    double step = round_step(highest, 4);
    axis.y_max = ceil(highest / step) * step;
    text_append(page, "<section><h2>Removal curve</h2>");
    text_append_format(
        page,
        "<svg viewBox=\"0 0 %.0f 292\" role=\"img\" aria-label=\"distance from the original against sublayers "
        "removed\">",
        FIGURE_WIDTH);
    append_axes(page, &axis, "sublayers removed", "distance from the original");
    append_dots(page, &axis, points, scores, count, (size_t)page_number(plan, "removed_count"));
    text_append(
        page,
        "</svg><p class=\"note\">Every point is a model that can be exported without a new search.</p></section>");
}

/* ---- the bars ------------------------------------------------------------------------------------------------------ */

struct bar {
    const char *label;
    double before, after;
    bool is_bytes, is_share; /* is_share: 0..1, drawn on a scale of its own */
};

static void append_bar_value(struct text *page, const struct bar *bar, double value)
{
    if (bar->is_share) {
        text_append_format(page, "%.1f %%", value * 100);
    } else if (bar->is_bytes) {
        page_append_bytes(page, value);
    } else if (fabs(value) >= 10000) {
        page_append_count(page, value);
    } else {
        text_append_format(page, "%.4g", value);
    }
}

static void append_bar(struct text *page, const struct bar *bar, double y)
{
    double left = 190;
    double width = FIGURE_WIDTH - left - 110;
    double most = bar->before > bar->after ? bar->before : bar->after;
    most = bar->is_share || most <= 0 ? 1 : most;
    double lengths[] = {width * bar->before / most, width * bar->after / most};
    double values[] = {bar->before, bar->after};
    static const char *const colours[] = {"before", "keep"};
    text_append_format(page, "<text class=\"strong\" x=\"0\" y=\"%.1f\">", y + 21);
    text_append_html(page, bar->label);
    text_append(page, "</text>");
    for (size_t i = 0; i < 2; i++) {
        double length = lengths[i] > 2 ? lengths[i] : 2;
        text_append_format(
            page,
            "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.2f\" height=\"14\" rx=\"2\" fill=\"var(--%s)\"/>"
            "<text x=\"%.2f\" y=\"%.1f\">",
            left, y + 16 * (double)i, length, colours[i], left + length + 8, y + 16 * (double)i + 11);
        append_bar_value(page, bar, values[i]);
        text_append(page, "</text>");
    }
}

void page_append_bars(struct text *page, const json_t *report)
{
    const json_t *size = json_object_get(report, "size");
    const json_t *evaluation = json_object_get(report, "evaluation");
    const json_t *sides[2][4];
    static const char *const names[] = {"before", "after"};
    for (size_t i = 0; i < 2; i++) {
        const json_t *measured = json_object_get(evaluation, names[i]);
        sides[i][0] = json_object_get(size, names[i]);
        sides[i][1] = json_object_get(json_object_get(measured, "perplexity"), "gptq");
        const json_t *skipped = json_object_get(measured, "speed_skipped");
        sides[i][2] = skipped != NULL ? skipped : json_object_get(measured, "speed");
        sides[i][3] = json_object_get(measured, skipped != NULL ? "memory_skipped" : "memory");
    }
    enum { TASKS_SHOWN = 24, BARS = 6 + TASKS_SHOWN };
    struct bar bars[BARS] = {
        {"parameters", page_number(sides[0][0], "parameters"), page_number(sides[1][0], "parameters"), false,
         false},
        {"bytes of weights", page_number(sides[0][0], "weight_bytes"),
         page_number(sides[1][0], "weight_bytes"), true, false},
        {"perplexity (gptq)", page_number(sides[0][1], "perplexity"), page_number(sides[1][1], "perplexity"),
         false, false},
        {"prompt tokens / s", page_number(sides[0][2], "prefill_tokens_per_second"),
         page_number(sides[1][2], "prefill_tokens_per_second"), false, false},
        {"generated tokens / s", page_number(sides[0][2], "decode_tokens_per_second"),
         page_number(sides[1][2], "decode_tokens_per_second"), false, false},
        {"peak memory, model alone", page_number(sides[0][3], "peak_bytes"),
         page_number(sides[1][3], "peak_bytes"), true, false},
    };
    size_t count = 6;
    const json_t *tasks = json_object_get(json_object_get(evaluation, "after"), "tasks");
    for (size_t i = 0; i < json_array_size(tasks) && count < BARS; i++) {
        const json_t *after = json_array_get(tasks, i);
        const json_t *before =
            json_array_get(json_object_get(json_object_get(evaluation, "before"), "tasks"), i);
        const char *name = json_string_value(json_object_get(after, "name"));
        bars[count++] = (struct bar){name != NULL ? name : "task", page_number(before, "accuracy"),
                                     page_number(after, "accuracy"), false, true};
    }
    size_t shown = 0;
    for (size_t i = 0; i < count; i++) {
        shown += isfinite(bars[i].before) && isfinite(bars[i].after) ? 1 : 0;
    }
    text_append(page, "<section><h2>In short</h2>");
    text_append_format(page, "<svg viewBox=\"0 0 %.0f %.0f\" role=\"img\" aria-label=\"before and after\">",
                       FIGURE_WIDTH, 46 * (double)shown - 10);
    double y = 0;
    for (size_t i = 0; i < count; i++) {
        if (isfinite(bars[i].before) && isfinite(bars[i].after)) {
            append_bar(page, &bars[i], y);
            y += 46;
        }
    }
    text_append(
        page,
        "</svg><p class=\"note\"><span class=\"key\" style=\"background:var(--before);margin-left:0\"></span>before"
        "<span class=\"key\" style=\"background:var(--keep)\"></span>after (speed: removed sublayers skipped; "
        "tasks: accuracy)</p></section>");
}
