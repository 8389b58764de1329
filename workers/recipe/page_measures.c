/*
 * workers/recipe/page_measures.c: what was measured, in report.html: perplexity by position, accuracies with their errors, distance from
 * the original, speed and memory, continuations. With two models before and after stand side by side; an evaluation has one.
 */
#include "workers/recipe/page.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

struct pair { /* what stands in the two columns; first NULL: there is one model */
    const json_t *first, *last;
};

static struct pair sides_of(const json_t *report)
{
    const json_t *evaluation = json_object_get(report, "evaluation");
    const json_t *model = json_object_get(evaluation, "model");
    return model != NULL
               ? (struct pair){NULL, model}
               : (struct pair){json_object_get(evaluation, "before"), json_object_get(evaluation, "after")};
}

static struct pair member(struct pair pair, const char *name)
{
    return (struct pair){json_object_get(pair.first, name), json_object_get(pair.last, name)};
}

static struct pair item(struct pair pair, size_t index)
{
    return (struct pair){json_array_get(pair.first, index), json_array_get(pair.last, index)};
}

static void append_header(struct text *page, struct pair pair, const char *first, const char *one,
                          const char *both)
{
    text_append_format(page, "<div class=\"scroll\"><table><tr><th>%s</th>%s</tr>", first,
                       pair.first != NULL ? both : one);
}

/* ---- by position ------------------------------------------------------------------------------------------------- */

static double largest_nll(struct pair buckets)
{
    double most = 0;
    for (size_t i = 0; i < json_array_size(buckets.last); i++) {
        struct pair bucket = item(buckets, i);
        most = fmax(most, fmax(page_number(bucket.first, "nll_mean"), page_number(bucket.last, "nll_mean")));
    }
    return most;
}

/* At most five characters, so that neighbours do not touch. */
static void append_short(struct text *page, double value)
{
    if (value < 1000) {
        text_append_format(page, "%.3g", value);
    } else if (value < 1e6) {
        text_append_format(page, "%.0fk", value / 1e3);
    } else {
        text_append_format(page, "%.0e", value);
    }
}

static void append_position_bar(struct text *page, double x, double width, double bottom, double scale,
                                const json_t *bucket, const char *side, const char *colour)
{
    double nll = page_number(bucket, "nll_mean");
    if (!isfinite(nll)) {
        return;
    }
    double height = nll * scale > 1 ? nll * scale : 1;
    text_append_format(
        page,
        "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" rx=\"2\" fill=\"var(--%s)\"><title>%s, "
        "%.0f to %.0f tokens of context: %.4g nats, perplexity %.5g, over %.0f tokens</title></rect>",
        x, bottom - height, width, height, colour, side, page_number(bucket, "first"),
        page_number(bucket, "last"), nll, page_number(bucket, "perplexity"), page_number(bucket, "tokens"));
    text_append_format(page, "<text x=\"%.2f\" y=\"%.2f\" text-anchor=\"middle\">", x + width / 2,
                       bottom - height - 4);
    append_short(page, page_number(bucket, "perplexity"));
    text_append(page, "</text>");
}

static void append_position_label(struct text *page, double x, double y, const json_t *bucket)
{
    double first = page_number(bucket, "first"), last = page_number(bucket, "last");
    text_append_format(page, "<text x=\"%.2f\" y=\"%.1f\" text-anchor=\"middle\">", x, y);
    text_append_format(page, first < last ? "%.0f&#8211;%.0f" : "%.0f", first, last);
    text_append(page, "</text>");
}

static void append_positions(struct text *page, const char *protocol, struct pair buckets)
{
    size_t count = json_array_size(buckets.last);
    double most = largest_nll(buckets), left = 10, bottom = 170, top = 24;
    if (count == 0 || most <= 0) {
        return;
    }
    double step = (PAGE_FIGURE_WIDTH - left) / (double)count;
    step = step > 110 ? 110 : step;
    double gap = step * 0.16, width = (step - gap) / (buckets.first != NULL ? 2 : 1);
    text_append_format(page, "<section><h2>Perplexity by position (%s)</h2>", protocol);
    text_append_format(
        page, "<svg viewBox=\"0 0 %.0f 212\" role=\"img\" aria-label=\"perplexity by tokens of context\">",
        PAGE_FIGURE_WIDTH);
    text_append_format(page, "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"var(--line)\"/>",
                       left, left + step * (double)count, bottom, bottom);
    for (size_t i = 0; i < count; i++) {
        struct pair bucket = item(buckets, i);
        double x = left + step * (double)i + gap / 2, scale = (bottom - top) / most;
        if (buckets.first != NULL) {
            append_position_bar(page, x, width, bottom, scale, bucket.first, "before", "before");
        }
        append_position_bar(page, x + (buckets.first != NULL ? width : 0), width, bottom, scale, bucket.last,
                            buckets.first != NULL ? "after" : "model", "keep");
        append_position_label(page, left + step * ((double)i + 0.5), bottom + 18, bucket.last);
    }
    text_append_format(
        page,
        "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">tokens that the prediction could see</text>",
        left + step * (double)count / 2, bottom + 38);
    text_append(page, "</svg><p class=\"note\">");
    if (buckets.first != NULL) {
        text_append(page, "<span class=\"key\" style=\"background:var(--before);margin-left:0\"></span>before"
                          "<span class=\"key\" style=\"background:var(--keep)\"></span>after; ");
    }
    text_append(
        page, "heights are mean negative log-likelihoods, the numbers above them perplexities</p></section>");
}

void page_append_positions(struct text *page, const json_t *report)
{
    static const char *const protocols[] = {"gptq", "rolling"};
    struct pair perplexity = member(sides_of(report), "perplexity");
    for (size_t i = 0; i < 2; i++) {
        struct pair buckets = member(member(perplexity, protocols[i]), "by_position");
        if (buckets.last != NULL) {
            append_positions(page, protocols[i], buckets);
            return;
        }
    }
}

/* ---- accuracies -------------------------------------------------------------------------------------------------- */

static void append_accuracy_cell(struct text *page, const json_t *task, const char *name)
{
    char error_name[48];
    (void)snprintf(error_name, sizeof error_name, "%s_stderr", name);
    double value = page_number(task, name), error = page_number(task, error_name);
    if (!isfinite(value)) {
        text_append(page, "<td>&ndash;</td>");
    } else if (isfinite(error)) {
        text_append_format(page, "<td>%.2f &plusmn; %.2f %%</td>", value * 100, error * 100);
    } else {
        text_append_format(page, "<td>%.2f %%</td>", value * 100);
    }
}

/* Both sides answer the same records, so the errors are not independent: theirs as if they were is an upper bound as a rule. */
static void append_accuracy_change(struct text *page, struct pair task, const char *name)
{
    char error_name[48];
    (void)snprintf(error_name, sizeof error_name, "%s_stderr", name);
    double change = page_number(task.last, name) - page_number(task.first, name);
    double error = hypot(page_number(task.first, error_name), page_number(task.last, error_name));
    if (!isfinite(change)) {
        text_append(page, "<td>&ndash;</td>");
        return;
    }
    bool is_clear = !isfinite(error) || fabs(change) > 2 * error;
    text_append_format(page, "<td class=\"%s\">%+.2f points%s</td>",
                       !is_clear || change == 0 ? ""
                       : change > 0             ? "good"
                                                : "bad",
                       change * 100, is_clear ? "" : ", within 2 errors");
}

static void append_task(struct text *page, struct pair task, const char *name, const char *suffix)
{
    const char *title = json_string_value(json_object_get(task.last, "name"));
    if (!isfinite(page_number(task.last, name))) {
        return;
    }
    text_append(page, "<tr><td>");
    text_append_html(page, title != NULL ? title : "task");
    double records = page_number(task.last, "records");
    text_append_format(page, "%s</td>", suffix);
    if (isfinite(records)) {
        text_append_format(page, "<td>%.0f</td>", records);
    } else {
        text_append(page, "<td></td>");
    }
    if (task.first != NULL) {
        append_accuracy_cell(page, task.first, name);
    }
    append_accuracy_cell(page, task.last, name);
    if (task.first != NULL) {
        append_accuracy_change(page, task, name);
    }
    text_append(page, "</tr>");
}

static void append_task_perplexity(struct text *page, struct pair task)
{
    double after = page_number(task.last, "perplexity");
    const char *title = json_string_value(json_object_get(task.last, "name"));
    if (!isfinite(after)) {
        return;
    }
    text_append(page, "<tr><td>");
    text_append_html(page, title != NULL ? title : "task");
    text_append_format(page, ", perplexity</td><td>%.0f</td>", page_number(task.last, "records"));
    if (task.first != NULL) {
        double before = page_number(task.first, "perplexity");
        text_append_format(page, "<td>%.5g</td><td>%.5g</td><td class=\"%s\">%+.2f %%</td></tr>", before,
                           after, after > before ? "bad" : "good", (after / before - 1) * 100);
    } else {
        text_append_format(page, "<td>%.5g</td></tr>", after);
    }
}

void page_append_accuracy(struct text *page, const json_t *report)
{
    struct pair sides = sides_of(report), tasks = member(sides, "tasks");
    size_t count = json_array_size(tasks.last);
    if (count == 0) {
        return;
    }
    text_append(page, "<section><h2>Tasks</h2>");
    append_header(page, sides, "task", "<th>records</th><th>accuracy</th>",
                  "<th>records</th><th>before</th><th>after</th><th>change</th>");
    for (size_t i = 0; i < count; i++) {
        struct pair task = item(tasks, i);
        append_task(page, task, "accuracy", "");
        append_task(page, task, "accuracy_norm", ", by length");
        append_task_perplexity(page, task);
    }
    if (count > 1) {
        double before = page_number(sides.first, "task_accuracy_mean"),
               after = page_number(sides.last, "task_accuracy_mean");
        text_append(page, "<tr><td class=\"strong\">mean of all tasks</td><td></td>");
        if (sides.first != NULL) {
            text_append_format(page, "<td>%.2f %%</td>", before * 100);
        }
        text_append_format(page, "<td>%.2f %%</td>", after * 100);
        if (sides.first != NULL) {
            text_append_format(page, "<td>%+.2f points</td>", (after - before) * 100);
        }
        text_append(page, "</tr>");
    }
    text_append(
        page,
        "</table></div><p class=\"note\">Choices by log-likelihood, with the rules of lm-evaluation-harness and no "
        "examples in the prompt; &plusmn; is the standard error of the mean over records. By length: per character of "
        "the choice.</p></section>");
}

/* ---- distance from the original ---------------------------------------------------------------------------------- */

void page_append_divergence(struct text *page, const json_t *report)
{
    const json_t *divergence = json_object_get(sides_of(report).last, "divergence");
    const json_t *agreement = json_object_get(divergence, "agreement");
    if (divergence == NULL) {
        return;
    }
    double left = 190, width = PAGE_FIGURE_WIDTH - left - 110;
    static const struct {
        const char *name, *label;
    } rows[] = {{"top_1", "is the result's likeliest"},
                {"top_5", "among its 5 likeliest"},
                {"top_10", "among its 10 likeliest"}};
    text_append_format(
        page,
        "<section><h2>Distance from the original</h2><p style=\"margin:0 0 12px\">KL(original || result) is "
        "<b>%.4g nats</b> a token. The original's likeliest next token:</p>",
        page_number(divergence, "kl_mean"));
    text_append_format(
        page, "<svg viewBox=\"0 0 %.0f 84\" role=\"img\" aria-label=\"agreement of likeliest tokens\">",
        PAGE_FIGURE_WIDTH);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        double share = page_number(agreement, rows[i].name), y = 28 * (double)i;
        text_append_format(
            page,
            "<text class=\"strong\" x=\"0\" y=\"%.1f\">%s</text><rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" "
            "height=\"18\" rx=\"2\" fill=\"var(--line)\"/><rect x=\"%.1f\" y=\"%.1f\" width=\"%.2f\" "
            "height=\"18\" rx=\"2\" fill=\"var(--keep)\"/><text x=\"%.2f\" y=\"%.1f\">%.1f %%</text>",
            y + 14, rows[i].label, left, y, width, left, y, width * share, left + width + 8, y + 14,
            share * 100);
    }
    text_append_format(
        page,
        "</svg><p class=\"note\">Over %.0f predictions in %.0f windows of %.0f tokens of the evaluation "
        "text.</p></section>",
        page_number(divergence, "tokens"), page_number(divergence, "windows"),
        page_number(divergence, "window_tokens"));
}

/* ---- speed and memory -------------------------------------------------------------------------------------------- */

static void append_figure(struct text *page, bool is_bytes, double value)
{
    text_append(page, "<td>");
    if (!isfinite(value)) {
        text_append(page, "&ndash;");
    } else if (is_bytes) {
        page_append_bytes(page, value);
    } else {
        text_append_format(page, "%.4g", value);
    }
    text_append(page, "</td>");
}

static void append_figures(struct text *page, const char *label, struct pair pair, const char *name,
                           bool is_bytes, int direction)
{
    double before = page_number(pair.first, name), after = page_number(pair.last, name);
    if (!isfinite(after)) {
        return;
    }
    text_append_format(page, "<tr><td>%s</td>", label);
    if (pair.first != NULL) {
        append_figure(page, is_bytes, before);
    }
    append_figure(page, is_bytes, after);
    if (pair.first != NULL) {
        double change = after / before - 1;
        if (isfinite(change)) {
            text_append_format(page, "<td class=\"%s\">%+.1f %%</td>",
                               fabs(change) < 5e-3      ? ""
                               : change * direction > 0 ? "good"
                                                        : "bad",
                               change * 100);
        } else {
            text_append(page, "<td></td>");
        }
    }
    text_append(page, "</tr>");
}

void page_append_speed(struct text *page, const json_t *report)
{
    struct pair sides = sides_of(report), speed = member(sides, "speed"), memory = member(sides, "memory");
    /* What is skipped stands beside the original as it is. */
    struct pair skipping = {speed.first, json_object_get(sides.last, "speed_skipped")};
    struct pair skipping_memory = {memory.first, json_object_get(sides.last, "memory_skipped")};
    if (speed.last == NULL) {
        return;
    }
    text_append(page, "<section><h2>Speed and memory</h2>");
    append_header(page, sides, "", "<th>measured</th>", "<th>before</th><th>after</th><th>change</th>");
    append_figures(page, "Prompt tokens per second, as loaded", speed, "prefill_tokens_per_second", false, 1);
    append_figures(page, "Prompt tokens per second, removed sublayers skipped", skipping,
                   "prefill_tokens_per_second", false, 1);
    append_figures(page, "Generated tokens per second, as loaded", speed, "decode_tokens_per_second", false,
                   1);
    append_figures(page, "Generated tokens per second, removed sublayers skipped", skipping,
                   "decode_tokens_per_second", false, 1);
    append_figures(page, "Peak memory of the model alone, as loaded", memory, "peak_bytes", true, -1);
    append_figures(page, "Peak memory of the model alone, removed sublayers skipped", skipping_memory,
                   "peak_bytes", true, -1);
    const char *backend = json_string_value(json_object_get(speed.last, "backend"));
    const char *dtype = json_string_value(json_object_get(speed.last, "dtype"));
    text_append_format(
        page,
        "</table></div><p class=\"note\">A prompt of %.0f tokens at once, then %.0f tokens one by one, on one sequence; medians of "
        "%.0f runs after %.0f warm-up; %.0f threads, %s, %s.",
        page_number(speed.last, "prompt_tokens"), page_number(speed.last, "decode_tokens"),
        page_number(speed.last, "runs"), page_number(speed.last, "warmups"),
        page_number(speed.last, "threads"), backend != NULL ? backend : "", dtype != NULL ? dtype : "");
    const char *how = json_string_value(json_object_get(memory.last, "how"));
    if (how != NULL) {
        text_append(page, " Memory: ");
        text_append_html(page, how);
        text_append(page, ".");
    }
    text_append(page, "</p></section>");
}

/* ---- continuations ----------------------------------------------------------------------------------------------- */

static void append_continuation(struct text *page, const json_t *continuation)
{
    const char *text = json_string_value(json_object_get(continuation, "text"));
    const char *error = json_string_value(json_object_get(continuation, "error"));
    text_append(
        page,
        "<td style=\"text-align:left;white-space:pre-wrap;overflow-wrap:anywhere;vertical-align:top\">");
    if (error != NULL) {
        text_append(page, "<span class=\"bad\">");
        text_append_html(page, error);
        text_append(page, "</span></td>");
        return;
    }
    text_append_html(page, text != NULL ? text : "");
    bool is_bad = json_is_true(json_object_get(continuation, "is_degenerate"));
    if (json_is_true(json_object_get(continuation, "is_empty"))) {
        text_append(page, "<div class=\"bad\">nothing but white space</div></td>");
    } else {
        text_append_format(
            page, "<div class=\"note\">%s%.0f %% of 4-grams repeated, %.0f %% of tokens different</div></td>",
            is_bad ? "<b class=\"bad\">degenerate</b>: " : "",
            page_number(continuation, "repetition_ratio") * 100,
            page_number(continuation, "distinct_1") * 100);
    }
}

void page_append_continuations(struct text *page, const json_t *report)
{
    struct pair sides = sides_of(report), lists = member(sides, "continuations");
    size_t count = json_array_size(lists.last);
    if (count == 0) {
        return;
    }
    text_append(page, "<section><h2>What it writes</h2>");
    append_header(page, sides, "prompt", "<th style=\"text-align:left\">continuation</th>",
                  "<th style=\"text-align:left\">before</th><th style=\"text-align:left\">after</th>");
    for (size_t i = 0; i < count; i++) {
        struct pair pair = item(lists, i);
        const char *prompt = json_string_value(json_object_get(pair.last, "prompt"));
        text_append(page, "<tr><td style=\"vertical-align:top;min-width:110px\">");
        text_append_html(page, prompt != NULL ? prompt : "");
        text_append(page, "</td>");
        if (lists.first != NULL) {
            append_continuation(page, pair.first);
        }
        append_continuation(page, pair.last);
        text_append(page, "</tr>");
    }
    text_append(
        page,
        "</table></div><p class=\"note\">Greedy, at most 48 tokens. Small models repeat themselves unpruned as well, "
        "so compare the columns.</p></section>");
}
