/*
 * workers/recipe/page_layers.c: figures of report.html over the layers (what share of each is kept, what each scored) and over the
 * targets of a sweep (the curve with its knee).
 */
#include "workers/recipe/page.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

/* ---- kept shares ------------------------------------------------------------------------------------------------- */

struct column {
    double kept, of; /* heads or channels; of NAN: the source has no such sublayer */
};

static struct column attention_of(const json_t *layer)
{
    const json_t *part = json_object_get(layer, "attention");
    return (struct column){page_number(part, "kept_heads"), page_number(part, "heads")};
}

/* Of a mixture the experts' channels together. */
static struct column ffn_of(const json_t *layer)
{
    const json_t *part = json_object_get(layer, "ffn");
    struct column column = {page_number(part, "kept"), page_number(part, "of")};
    double experts = page_number(part, "experts");
    if (!isnan(experts)) {
        column.of *= experts;
        column.kept *= page_number(part, "kept_experts");
    }
    return column;
}

static bool is_partial(struct column column)
{
    return column.kept > 0 && column.kept < column.of;
}

size_t page_count_narrowed(const json_t *report)
{
    const json_t *layer;
    size_t index, count = 0;
    json_array_foreach(json_object_get(report, "layers"), index, layer)
    {
        count += is_partial(attention_of(layer)) ? 1 : 0;
        count += is_partial(ffn_of(layer)) ? 1 : 0;
    }
    return count;
}

/* A column of full height in outline, filled from below as far as it is kept. */
static void append_column(struct text *page, double x, double top, double width, double height,
                          struct column column, size_t layer, const char *kind, const char *unit,
                          const char *colour)
{
    if (isnan(column.of) || column.of <= 0) {
        return;
    }
    double share = column.kept / column.of, filled = height * share;
    text_append_format(
        page,
        "<g><title>layer %zu %s: %.0f of %.0f %s kept (%.1f %%)</title><rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" "
        "height=\"%.2f\" fill=\"var(--gone)\" fill-opacity=\"0.18\"/>",
        layer, kind, column.kept, column.of, unit, share * 100, x, top, width, height - filled);
    text_append_format(page,
                       "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" fill=\"var(--%s)\"/></g>",
                       x, top + height - filled, width, filled, colour);
}

static void append_share_axis(struct text *page, double left, double right, double top, double height)
{
    for (int i = 0; i <= 4; i++) {
        double y = top + height * (1 - i / 4.0);
        text_append_format(page,
                           "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.2f\" y2=\"%.2f\" stroke=\"var(--line)\"/>"
                           "<text x=\"%.1f\" y=\"%.2f\" text-anchor=\"end\">%d %%</text>",
                           left, right, y, y, left - 8, y + 4, i * 25);
    }
}

static void append_layer_numbers(struct text *page, double left, double step, double y, size_t count)
{
    size_t every = step >= 18 ? 1 : step >= 9 ? 2 : step >= 4.5 ? 4 : 16;
    for (size_t i = 0; i < count; i += every) {
        text_append_format(page, "<text x=\"%.2f\" y=\"%.1f\" text-anchor=\"middle\">%zu</text>",
                           left + step * ((double)i + 0.5), y, i);
    }
}

void page_append_widths(struct text *page, const json_t *report)
{
    const json_t *layers = json_object_get(report, "layers"), *layer;
    double left = 60, right = PAGE_FIGURE_WIDTH, top = 10, height = 150;
    size_t count = json_array_size(layers), index;
    double step = (right - left) / (double)(count > 0 ? count : 1);
    step = step > 80 ? 80 : step;
    double gap = step * 0.14, width = (step - gap) / 2;
    text_append(page, "<section><h2>What is kept of each layer</h2>");
    text_append_format(
        page,
        "<svg viewBox=\"0 0 %.0f 200\" role=\"img\" aria-label=\"kept share of attention and FFN by "
        "layer\">",
        PAGE_FIGURE_WIDTH);
    append_share_axis(page, left, left + step * (double)count, top, height);
    json_array_foreach(layers, index, layer)
    {
        double x = left + step * (double)index + gap / 2;
        append_column(page, x, top, width, height, attention_of(layer), index, "attention", "heads", "keep");
        append_column(page, x + width, top, width, height, ffn_of(layer), index, "FFN", "channels", "ffn");
    }
    append_layer_numbers(page, left, step, top + height + 18, count);
    text_append_format(page, "<text x=\"%.1f\" y=\"196\" text-anchor=\"middle\">layer of the source</text>",
                       left + step * (double)count / 2);
    text_append(
        page,
        "</svg><p class=\"note\"><span class=\"key\" style=\"background:var(--keep);margin-left:0\"></span>attention "
        "heads kept<span class=\"key\" style=\"background:var(--ffn)\"></span>FFN channels kept"
        "<span class=\"key\" style=\"background:var(--gone);opacity:.3\"></span>removed</p></section>");
}

/* ---- scores ------------------------------------------------------------------------------------------------------ */

/* A point's score, or what the layers say; ret_largest: of all. */
static size_t count_scores(const json_t *points, double *ret_largest)
{
    const json_t *point;
    size_t index, count = 0;
    *ret_largest = 0;
    json_array_foreach(points, index, point)
    {
        double score = page_number(point, "score");
        if (isfinite(score)) {
            count++;
            *ret_largest = score > *ret_largest ? score : *ret_largest;
        }
    }
    return count;
}

void page_append_scores(struct text *page, const json_t *report)
{
    const json_t *plan = json_object_get(report, "plan"), *points = json_object_get(plan, "points"), *point;
    size_t layers = json_array_size(json_object_get(plan, "kept")), index;
    double removed = page_number(plan, "removed_count"), largest = 0;
    double left = 60, top = 10, height = 120, step = (PAGE_FIGURE_WIDTH - left) / (double)(layers + 1);
    step = step > 80 ? 80 : step;
    double gap = step * 0.14, width = (step - gap) / 2;
    if (count_scores(points, &largest) == 0 || largest <= 0) {
        return;
    }
    text_append(page, "<section><h2>Scores by layer</h2>");
    text_append_format(page, "<svg viewBox=\"0 0 %.0f 172\" role=\"img\" aria-label=\"scores by layer\">",
                       PAGE_FIGURE_WIDTH);
    text_append_format(page,
                       "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"var(--line)\"/>"
                       "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">0</text>"
                       "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%.3g</text>",
                       left, left + step * (double)layers, top + height, top + height, left - 8,
                       top + height + 4, left - 8, top + 8, largest);
    json_array_foreach(points, index, point)
    {
        double score = page_number(point, "score"), layer = page_number(point, "layer");
        const char *kind = json_string_value(json_object_get(point, "kind"));
        bool is_ffn = kind != NULL && strcmp(kind, "ffn") == 0;
        if (!isfinite(score)) {
            continue;
        }
        double bar = height * (score > 0 ? score : 0) / largest;
        bar = bar < 1.5 ? 1.5 : bar;
        text_append_format(
            page,
            "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" fill=\"var(--%s)\"><title>layer "
            "%.0f %s, number %zu: %.6g</title></rect>",
            left + step * layer + gap / 2 + (is_ffn ? width : 0), top + height - bar, width, bar,
            (double)index < removed ? "gone"
            : is_ffn                ? "ffn"
                                    : "keep",
            layer, is_ffn ? "FFN" : "attention", index + 1, score);
    }
    append_layer_numbers(page, left, step, top + height + 18, layers);
    text_append_format(page, "<text x=\"%.1f\" y=\"168\" text-anchor=\"middle\">layer of the source</text>",
                       left + step * (double)layers / 2);
    text_append(
        page,
        "</svg><p class=\"note\"><span class=\"key\" style=\"background:var(--gone);margin-left:0\"></span>removed"
        "<span class=\"key\" style=\"background:var(--keep)\"></span>attention"
        "<span class=\"key\" style=\"background:var(--ffn)\"></span>FFN; the method's score of what it put on its "
        "list (of a block, at its FFN), low goes first</p></section>");
}

/* ---- the curve of a sweep ---------------------------------------------------------------------------------------- */

#define POINTS_MAX 256

struct sweep_point {
    double share, perplexity;
    bool is_knee, is_head;
    const json_t *item;
};

static double perplexity_in(const json_t *values, const char *protocol)
{
    const json_t *value = json_object_get(values, protocol);
    return json_is_object(value) ? page_number(value, "perplexity") : page_number(values, protocol);
}

/* The unpruned model first, where it was measured. */
static size_t read_sweep(const json_t *report, const char *protocol, struct sweep_point *points)
{
    const json_t *before =
        json_object_get(json_object_get(json_object_get(report, "evaluation"), "before"), "perplexity");
    const json_t *item;
    size_t index, count = 0;
    double original = perplexity_in(before, protocol);
    if (isfinite(original)) {
        points[count++] = (struct sweep_point){.share = 0, .perplexity = original};
    }
    json_array_foreach(json_object_get(report, "curve"), index, item)
    {
        double perplexity = perplexity_in(json_object_get(item, "perplexity"), protocol);
        const char *path = json_string_value(json_object_get(item, "path"));
        if (count < POINTS_MAX && isfinite(perplexity) && perplexity > 0) {
            points[count++] = (struct sweep_point){
                .share = page_number(json_object_get(item, "achieved"), "sparsity_ratio"),
                .perplexity = perplexity,
                .is_knee = json_is_true(json_object_get(item, "knee")),
                .is_head = path != NULL && path[0] == '\0',
                .item = item};
        }
    }
    return count;
}

/* Logarithmic upwards, as the knee is found. */
struct frame {
    double left, right, top, bottom, share_most, low, high;
};

static double frame_x(const struct frame *frame, double share)
{
    return frame->left + (frame->right - frame->left) * share / frame->share_most;
}

static double frame_y(const struct frame *frame, double perplexity)
{
    return frame->bottom -
           (frame->bottom - frame->top) * (log(perplexity) - frame->low) / (frame->high - frame->low);
}

static void append_frame(struct text *page, const struct frame *frame)
{
    static const double marks[] = {1, 1.5, 2, 3, 5, 7};
    for (double power = floor(frame->low / log(10)); power <= frame->high / log(10) + 1; power++) {
        for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++) {
            double value = marks[i] * pow(10, power);
            bool is_fine = frame->high - frame->low > 3 && marks[i] != 1 && marks[i] != 3;
            if (log(value) < frame->low || log(value) > frame->high || is_fine) {
                continue;
            }
            double y = frame_y(frame, value);
            text_append_format(
                page,
                "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.2f\" y2=\"%.2f\" stroke=\"var(--line)\"/>"
                "<text x=\"%.1f\" y=\"%.2f\" text-anchor=\"end\">%.4g</text>",
                frame->left, frame->right, y, y, frame->left - 8, y + 4, value);
        }
    }
    double step = frame->share_most > 0.5 ? 0.1 : frame->share_most > 0.2 ? 0.05 : 0.02;
    for (double share = 0; share <= frame->share_most * 1.0001; share += step) {
        text_append_format(page, "<text x=\"%.2f\" y=\"%.1f\" text-anchor=\"middle\">%.0f %%</text>",
                           frame_x(frame, share), frame->bottom + 18, share * 100);
    }
    text_append_format(
        page,
        "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">share of prunable parameters removed</text>"
        "<text x=\"0\" y=\"12\">perplexity (logarithmic)</text>",
        (frame->left + frame->right) / 2, frame->bottom + 38);
}

static void append_sweep_points(struct text *page, const struct frame *frame,
                                const struct sweep_point *points, size_t count)
{
    text_append_format(page,
                       "<line x1=\"%.2f\" y1=\"%.2f\" x2=\"%.2f\" y2=\"%.2f\" stroke=\"var(--before)\" "
                       "stroke-dasharray=\"5 4\"/>",
                       frame_x(frame, points[0].share), frame_y(frame, points[0].perplexity),
                       frame_x(frame, points[count - 1].share), frame_y(frame, points[count - 1].perplexity));
    text_append(page, "<polyline fill=\"none\" stroke=\"var(--keep)\" stroke-width=\"2\" points=\"");
    for (size_t i = 0; i < count; i++) {
        text_append_format(page, "%.2f,%.2f ", frame_x(frame, points[i].share),
                           frame_y(frame, points[i].perplexity));
    }
    text_append(page, "\"/>");
    for (size_t i = 0; i < count; i++) {
        double x = frame_x(frame, points[i].share), y = frame_y(frame, points[i].perplexity);
        text_append_format(
            page,
            "<circle cx=\"%.2f\" cy=\"%.2f\" r=\"%d\" fill=\"var(--%s)\"><title>%.2f %% removed: perplexity "
            "%.6g</title></circle>",
            x, y, points[i].is_knee ? 7 : 4,
            points[i].is_knee        ? "gone"
            : points[i].item == NULL ? "before"
                                     : "keep",
            points[i].share * 100, points[i].perplexity);
        bool is_right = x > frame->right - 120;
        const char *label = points[i].is_knee && points[i].is_head ? "knee, this result"
                            : points[i].is_knee                    ? "knee"
                            : points[i].is_head                    ? "this result"
                            : points[i].item == NULL               ? "unpruned"
                                                                   : NULL;
        if (label != NULL) {
            text_append_format(page,
                               "<text class=\"strong\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s</text>",
                               x + (is_right ? -10 : 10), y + 18, is_right ? "end" : "start", label);
        }
    }
}

static void append_cell(struct text *page, bool is_share, double value)
{
    if (!isfinite(value)) {
        text_append(page, "<td>&ndash;</td>");
    } else if (is_share) {
        text_append_format(page, "<td>%.2f %%</td>", value * 100);
    } else {
        text_append_format(page, "<td>%.5g</td>", value);
    }
}

static void append_sweep_table(struct text *page, const json_t *report, const char *protocol)
{
    const json_t *item;
    size_t index;
    text_append(
        page,
        "<div class=\"scroll\"><table><tr><th>target</th><th>removed</th><th>parameters</th><th>weight bytes</th>"
        "<th>perplexity</th><th>KL, nats</th><th>accuracy</th><th>prompt tokens/s</th></tr>");
    json_array_foreach(json_object_get(report, "curve"), index, item)
    {
        const json_t *achieved = json_object_get(item, "achieved");
        const char *name = json_string_value(json_object_get(item, "name"));
        text_append(page, "<tr><td>");
        text_append_html(page, name != NULL ? name : "");
        text_append(page, json_is_true(json_object_get(item, "knee")) ? " (knee)</td>" : "</td>");
        append_cell(page, true, page_number(achieved, "sparsity_ratio"));
        text_append(page, "<td>");
        page_append_count(page, page_number(achieved, "parameter_count"));
        text_append(page, "</td><td>");
        page_append_bytes(page, page_number(achieved, "weight_bytes"));
        text_append(page, "</td>");
        append_cell(page, false, perplexity_in(json_object_get(item, "perplexity"), protocol));
        append_cell(page, false, page_number(item, "kl"));
        append_cell(page, true, page_number(item, "task_accuracy_mean"));
        append_cell(page, false, page_number(json_object_get(item, "speed"), "prefill_tokens_per_second"));
        text_append(page, "</tr>");
    }
    text_append(page, "</table></div>");
}

/* By how much the perplexity grows with one more hundredth of the prunable parameters removed, from one point to another. */
static double growth(const struct sweep_point *from, const struct sweep_point *to)
{
    return exp(log(to->perplexity / from->perplexity) / ((to->share - from->share) * 100)) - 1;
}

static void append_knee(struct text *page, const struct sweep_point *points, size_t count)
{
    for (size_t i = 1; i + 1 < count; i++) {
        if (points[i].is_knee) {
            text_append_format(
                page,
                "<p class=\"note\">The knee is at %.1f %% removed: of all targets it lies farthest below the dashed chord from "
                "the unpruned model to the smallest result. Up to it each hundredth of the prunable parameters that goes costs "
                "%.2f %% of perplexity, beyond it %.2f %%.</p>",
                points[i].share * 100, 100 * growth(&points[0], &points[i]),
                100 * growth(&points[i], &points[count - 1]));
            return;
        }
    }
    text_append(
        page,
        "<p class=\"note\">The curve has no knee: no target lies below the chord from the unpruned model to the "
        "smallest result.</p>");
}

void page_append_sweep(struct text *page, const json_t *report)
{
    static _Thread_local struct sweep_point points[POINTS_MAX + 1];
    const char *protocol = "gptq";
    size_t count = read_sweep(report, protocol, points);
    if (count < 3) {
        protocol = "rolling";
        count = read_sweep(report, protocol, points);
    }
    if (json_array_size(json_object_get(report, "curve")) == 0) {
        return;
    }
    text_append(page, "<section><h2>All targets</h2>");
    if (count >= 3 && points[0].item == NULL) {
        struct frame frame = {.left = 70, .right = PAGE_FIGURE_WIDTH - 10, .top = 26, .bottom = 260};
        frame.low = log(points[0].perplexity);
        frame.high = frame.low;
        for (size_t i = 0; i < count; i++) {
            frame.low = fmin(frame.low, log(points[i].perplexity));
            frame.high = fmax(frame.high, log(points[i].perplexity));
            frame.share_most = fmax(frame.share_most, points[i].share);
        }
        frame.low -= 0.08 * (frame.high - frame.low) + 1e-3;
        frame.high += 0.05 * (frame.high - frame.low) + 1e-3;
        frame.share_most = frame.share_most > 0 ? frame.share_most * 1.02 : 1;
        text_append_format(
            page,
            "<svg viewBox=\"0 0 %.0f 304\" role=\"img\" aria-label=\"perplexity against the share removed\">",
            PAGE_FIGURE_WIDTH);
        append_frame(page, &frame);
        append_sweep_points(page, &frame, points, count);
        text_append(page, "</svg>");
        append_knee(page, points, count);
    }
    append_sweep_table(page, report, protocol);
    text_append(page, "</section>");
}
