/*
 * workers/recipe/page.c: report.html from report.json: one file, no script, no link to anywhere, figures as inline SVG in the page's own
 * colours, light and dark. Every text that comes from outside goes through text_append_html.
 *
 * page_figures.c, page_layers.c and page_measures.c draw and list the parts, page_selection.c those of a selection (page.h).
 */
#include "workers/recipe/page.h"

#include "base/cleanup.h"
#include "workers/recipe/recipe_internal.h"
#include <inttypes.h>
#include <math.h>
#include <string.h>

static const char page_style[] =
    ":root{color-scheme:light dark;--page:#f7f6f3;--card:#fff;--ink:#1d2327;--soft:#5d6a72;--line:#dfe0dc;--keep:#2f6f8f;"
    "--ffn:#7aa5b8;--gone:#d8694a;--before:#9aa7ad;--good:#3d8b5f;--bad:#c04f33}"
    "@media(prefers-color-scheme:dark){:root{--page:#14181b;--card:#1c2226;--ink:#e6e9ea;--soft:#98a5ac;--line:#313a40;"
    "--keep:#5ba7cb;--ffn:#35637a;--gone:#e8805f;--before:#5c6970;--good:#62b987;--bad:#e8805f}}"
    "*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"
    "\"Segoe UI\",Roboto,sans-serif}main{max-width:1000px;margin:0 auto;padding:32px 20px 64px}"
    "h1{font-size:26px;line-height:1.25;margin:0 0 4px;overflow-wrap:anywhere}h2{font-size:17px;margin:0 0 12px}"
    ".lead{color:var(--soft);margin:0 0 24px}section{background:var(--card);border:1px solid var(--line);border-radius:10px;"
    "padding:18px 20px;margin:0 0 16px}.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:12px;"
    "margin:0 0 16px}.tile{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 16px}"
    ".tile b{display:block;font-size:22px;font-weight:600;font-variant-numeric:tabular-nums}.tile span{color:var(--soft);"
    "font-size:13px}.good{color:var(--good)}.bad{color:var(--bad)}"
    ".scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}"
    "th,td{text-align:right;padding:6px 10px;border-bottom:1px solid var(--line);white-space:nowrap}"
    "th:first-child,td:first-child{text-align:left;padding-left:0;white-space:normal}th{color:var(--soft);font-weight:500}"
    "tr:last-child td{border-bottom:0}svg{display:block;width:100%;height:auto;overflow:visible}"
    "svg text{fill:var(--soft);font:12px system-ui,sans-serif}svg .strong{fill:var(--ink)}"
    ".note{color:var(--soft);font-size:13px;margin:10px 0 0}code{font:13px ui-monospace,Menlo,Consolas,monospace;"
    "overflow-wrap:anywhere}ul{margin:0;padding-left:18px}.warn{border-color:var(--gone)}"
    ".key{display:inline-block;width:10px;height:10px;border-radius:2px;margin:0 5px 0 12px}";

double page_number(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);
    return json_is_number(value) ? json_number_value(value) : (double)NAN;
}

const char *page_text(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text != NULL ? text : "";
}

static bool is_selection(const json_t *report)
{
    return strcmp(page_text(report, "type"), "selection") == 0;
}

void page_append_count(struct text *page, double value)
{
    static const char *const suffixes[] = {"", " k", " M", " G", " T"};
    if (isnan(value)) {
        text_append(page, "–");
        return;
    }
    size_t suffix = 0;
    while (fabs(value) >= 10000 && suffix < 4) {
        value /= 1000;
        suffix++;
    }
    text_append_format(page, suffix == 0 ? "%.0f%s" : "%.4g%s", value, suffixes[suffix]);
}

void page_append_bytes(struct text *page, double value)
{
    static const char *const suffixes[] = {"B", "KB", "MB", "GB", "TB"};
    if (isnan(value)) {
        text_append(page, "–");
        return;
    }
    size_t suffix = 0;
    while (fabs(value) >= 1000 && suffix < 4) {
        value /= 1000;
        suffix++;
    }
    text_append_format(page, "%.4g %s", value, suffixes[suffix]);
}

static void append_tile(struct text *page, const char *label, const char *class_name, const char *format,
                        double value)
{
    text_append_format(page, "<div class=\"tile\"><b class=\"%s\">", class_name);
    char number[64];
    switch (format[0]) {
    case 'c':
        page_append_count(page, value);
        break;
    case 'b':
        page_append_bytes(page, value);
        break;
    case 'p':
        (void)snprintf(number, sizeof number, "%+.1f %%", value * 100);
        text_append(page, number);
        break;
    default:
        (void)snprintf(number, sizeof number, "%.4g", value);
        text_append(page, number);
        break;
    }
    text_append_format(page, "</b><span>%s</span></div>", label);
}

/* ---- tables ------------------------------------------------------------------------------------------------------ */

enum row_kind { ROW_COUNT, ROW_BYTES, ROW_NUMBER, ROW_PERCENT };

static void append_value(struct text *page, enum row_kind kind, double value)
{
    if (isnan(value)) {
        text_append(page, "&ndash;");
        return;
    }
    switch (kind) {
    case ROW_COUNT:
        text_append_format(page, "%.0f", value);
        break;
    case ROW_BYTES:
        page_append_bytes(page, value);
        break;
    case ROW_NUMBER:
        text_append_format(page, "%.6g", value);
        break;
    case ROW_PERCENT:
        text_append_format(page, "%.2f %%", value * 100);
        break;
    }
}

/* direction: +1 more is better, -1 less is better, 0 neither. */
static void append_row(struct text *page, const char *label, enum row_kind kind, double before, double after,
                       int direction)
{
    text_append(page, "<tr><td>");
    text_append_html(page, label);
    text_append(page, "</td><td>");
    append_value(page, kind, before);
    text_append(page, "</td><td>");
    append_value(page, kind, after);
    double change = kind == ROW_PERCENT ? after - before : (after - before) / before;
    bool is_known = isfinite(change);
    const char *class_name = !is_known || direction == 0 || fabs(change) < 5e-5 ? ""
                             : change * direction > 0                           ? "good"
                                                                                : "bad";
    text_append_format(page, "</td><td class=\"%s\">", class_name);
    if (is_known && fabs(change) < 5e-5) {
        text_append(page, "same");
    } else if (is_known) {
        text_append_format(page, kind == ROW_PERCENT ? "%+.2f points" : "%+.2f %%", change * 100);
    }
    text_append(page, "</td></tr>");
}

static void append_comparison(struct text *page, const json_t *report)
{
    const json_t *size = json_object_get(report, "size");
    const json_t *evaluation = json_object_get(report, "evaluation");
    const json_t *before = json_object_get(evaluation, "before");
    const json_t *after = json_object_get(evaluation, "after");
    const json_t *small = json_object_get(size, "after");
    const json_t *large = json_object_get(size, "before");
    text_append(
        page,
        "<section><h2>Before and after</h2><div class=\"scroll\"><table><tr><th></th><th>before</th><th>after</th>"
        "<th>change</th></tr>");
    append_row(page, "Parameters", ROW_COUNT, page_number(large, "parameters"),
               page_number(small, "parameters"), 0);
    append_row(page, "Weight bytes", ROW_BYTES, page_number(large, "weight_bytes"),
               page_number(small, "weight_bytes"), -1);
    append_row(page, "Blocks", ROW_COUNT, page_number(large, "blocks"), page_number(small, "blocks"), 0);
    append_row(page, "Sublayers in use", ROW_COUNT, page_number(large, "sublayers"),
               page_number(small, "sublayers"), 0);
    static const char *const protocols[] = {"gptq", "rolling"};
    for (size_t i = 0; i < 2; i++) {
        const json_t *from = json_object_get(json_object_get(before, "perplexity"), protocols[i]);
        const json_t *to = json_object_get(json_object_get(after, "perplexity"), protocols[i]);
        if (to != NULL) {
            char label[64];
            (void)snprintf(label, sizeof label, "Perplexity (%s)", protocols[i]);
            append_row(page, label, ROW_NUMBER, page_number(from, "perplexity"),
                       page_number(to, "perplexity"), -1);
        }
    }
    text_append(page, "</table></div></section>");
}

static void append_measured(struct text *page, const json_t *report)
{
    const json_t *model = json_object_get(json_object_get(report, "evaluation"), "model");
    if (json_object_get(model, "perplexity") == NULL) {
        return;
    }
    text_append(page,
                "<section><h2>Measured</h2><div class=\"scroll\"><table><tr><th></th><th>value</th></tr>");
    const char *protocol;
    const json_t *value;
    json_object_foreach(json_object_get(model, "perplexity"), protocol, value)
    {
        text_append_format(
            page,
            "<tr><td>Perplexity (%s)</td><td>%.17g</td></tr><tr><td>Bits per byte (%s)</td><td>%.6g</td></tr>",
            protocol, page_number(value, "perplexity"), protocol, page_number(value, "bits_per_byte"));
    }
    text_append(page, "</table></div></section>");
}

/* ---- the rest ---------------------------------------------------------------------------------------------------- */

/* Change of a figure from before to after as a share; NAN where either is missing. */
static double change_of(const json_t *before, const json_t *after, const char *name)
{
    return page_number(after, name) / page_number(before, name) - 1;
}

static void append_change_tile(struct text *page, const char *label, double change, int direction)
{
    if (isfinite(change)) {
        bool is_still = fabs(change) < 5e-4 || direction == 0;
        append_tile(page, label, is_still ? "" : change * direction > 0 ? "good" : "bad", "p", change);
    }
}

static void append_tiles(struct text *page, const json_t *report)
{
    const json_t *size = json_object_get(report, "size");
    const json_t *large = json_object_get(size, "before");
    const json_t *small = json_object_get(size, "after");
    const json_t *before = json_object_get(json_object_get(report, "evaluation"), "before");
    const json_t *after = json_object_get(json_object_get(report, "evaluation"), "after");
    text_append(page, "<div class=\"tiles\">");
    if (small == NULL) {
        append_tile(page, "parameters", "", "c", page_number(large, "parameters"));
        append_tile(page, "of weights", "", "b", page_number(large, "weight_bytes"));
    } else {
        double parameters = change_of(large, small, "parameters");
        double sublayers = change_of(large, small, "sublayers");
        if (fabs(sublayers) > 0) {
            append_change_tile(page, "sublayers in use", sublayers, 0);
        }
        append_change_tile(page, fabs(parameters) > 0 ? "parameters" : "parameters (layout identity)",
                           parameters, 0);
        const json_t *from = json_object_get(json_object_get(before, "perplexity"), "gptq");
        const json_t *to = json_object_get(json_object_get(after, "perplexity"), "gptq");
        append_change_tile(page, "perplexity (gptq)", change_of(from, to, "perplexity"), -1);
        double kl = page_number(json_object_get(after, "divergence"), "kl_mean");
        if (isfinite(kl)) {
            append_tile(page, "KL to the original, nats", "", "n", kl);
        }
        append_change_tile(page, "mean accuracy of the tasks", change_of(before, after, "task_accuracy_mean"),
                           1);
        const json_t *skipped = json_object_get(after, "speed_skipped");
        append_change_tile(
            page, skipped != NULL ? "prompt tokens per second, skipping" : "prompt tokens per second",
            change_of(json_object_get(before, "speed"),
                      skipped != NULL ? skipped : json_object_get(after, "speed"),
                      "prefill_tokens_per_second"),
            1);
    }
    text_append(page, "</div>");
}

static void append_warnings(struct text *page, const json_t *report)
{
    const json_t *warnings = json_object_get(report, "warnings");
    if (json_array_size(warnings) == 0) {
        return;
    }
    text_append(page, "<section class=\"warn\"><h2>Warnings</h2><ul>");
    size_t index;
    const json_t *warning;
    json_array_foreach(warnings, index, warning)
    {
        text_append(page, "<li>");
        text_append_html(page, json_string_value(warning));
        text_append(page, "</li>");
    }
    text_append(page, "</ul></section>");
}

/* What reading the folder back showed, and why the logits are not the plan's to the last digit where they are not. */
static void append_check(struct text *page, const json_t *report)
{
    static const struct {
        const char *dtype, *what;
    } roundings[] = {
        {"float16", "float16 keeps 11 significant bits, so that a weight moves by at most 0.05 % of itself"},
        {"bfloat16", "bfloat16 keeps 8 significant bits, so that a weight moves by at most 0.4 % of itself"},
    };
    const json_t *check = json_object_get(report, "check");
    const json_t *options = json_object_get(json_object_get(report, "request"), "output");
    double difference = page_number(check, "logit_difference_max"),
           magnitude = page_number(check, "logit_magnitude_max");
    text_append_format(page, "The written folder was opened again: over %.0f tokens its logits ",
                       page_number(check, "tokens"));
    if (difference == 0) {
        text_append(page, "are the plan's, bit by bit.");
    } else {
        text_append_format(page, "differ from the plan's by at most %.3g", difference);
        if (isfinite(magnitude) && magnitude > 0) {
            text_append_format(page, ", %.3g %% of the largest", difference / magnitude * 100);
        }
        text_append(page, ".");
    }
    if (json_is_true(json_object_get(check, "is_rounded"))) {
        text_append(page, " Its weights were rounded");
        for (size_t i = 0; i < sizeof roundings / sizeof roundings[0]; i++) {
            if (strcmp(page_text(options, "dtype"), roundings[i].dtype) == 0) {
                text_append_format(page, " (%s)", roundings[i].what);
            }
        }
        text_append(page, ", which is where the difference comes from.");
    }
    const json_t *format;
    size_t index;
    json_array_foreach(json_object_get(options, "formats"), index, format)
    {
        if (json_is_string(format) && strcmp(json_string_value(format), "gguf:q8_0") == 0) {
            text_append(
                page,
                " The Q8_0 file holds 8 bits a weight in blocks of 32: a weight moves by at most 0.4 % of the "
                "largest of its block, and its logits by as much as that makes.");
        }
    }
}

static void append_opening(struct text *page, const json_t *report)
{
    const json_t *output = json_object_get(report, "output");
    if (output == NULL) {
        return;
    }
    text_append(
        page, "<section><h2>Open it</h2><div class=\"scroll\"><table><tr><th>loader</th><th>verdict</th><th "
              "style=\"text-align:left\">why, and how</th></tr>");
    size_t index;
    const json_t *loader;
    json_array_foreach(json_object_get(output, "loaders"), index, loader)
    {
        text_append(page, "<tr><td>");
        text_append_html(page, page_text(loader, "loader"));
        text_append(page, "</td><td>");
        text_append_html(page, page_text(loader, "verdict"));
        text_append(page, " (");
        text_append_html(page, page_text(loader, "basis"));
        text_append(page, ")</td><td style=\"text-align:left;white-space:normal\">");
        text_append_html(page, page_text(loader, "reason"));
        text_append(page, " <code>");
        text_append_html(page, page_text(loader, "line"));
        text_append(page, "</code></td></tr>");
    }
    text_append(page, "</table></div><p class=\"note\">Layout ");
    text_append_html(page, page_text(output, "layout"));
    text_append(page, ". ");
    append_check(page, report);
    text_append(page, "</p></section>");
}

static void append_fact(struct text *page, const char *label, const char *value)
{
    if (value[0] != '\0') {
        text_append_format(page, "<tr><td>%s</td><td style=\"white-space:normal\">", label);
        text_append_html(page, value);
        text_append(page, "</td></tr>");
    }
}

static void append_dataset(struct text *page, const char *label, const json_t *data)
{
    if (data == NULL) {
        return;
    }
    struct text line = {0};
    text_append_format(&line, "%s, %s, window %.0f tokens, sha256 %.12s…", page_text(data, "name"),
                       page_text(data, "half"), page_number(data, "window_tokens"),
                       page_text(data, "sha256"));
    append_fact(page, label, line.bytes);
    text_finish(&line);
}

static void append_memory(struct text *page, const json_t *report)
{
    const json_t *resources = json_object_get(report, "resources");
    const json_t *evaluation = json_object_get(report, "evaluation");
    struct text memory = {0};
    text_append(&memory, "planned ");
    page_append_bytes(&memory, page_number(resources, "planned_memory_bytes"));
    text_append(&memory, ", measured ");
    page_append_bytes(&memory, page_number(resources, "peak_rss_bytes"));
    static const char *const sides[] = {"before", "after", "model"};
    for (size_t i = 0; i < 3; i++) {
        double peak = page_number(json_object_get(evaluation, sides[i]), "peak_rss_bytes");
        if (!isnan(peak)) {
            text_append_format(&memory, "; evaluating %s ", i == 2 ? "the model" : sides[i]);
            page_append_bytes(&memory, peak);
        }
    }
    double limit = page_number(resources, "memory_limit_bytes");
    if (!isnan(limit)) {
        text_append(&memory, "; limit ");
        page_append_bytes(&memory, limit);
    }
    append_fact(page, "Peak memory of the job", memory.bytes);
    text_finish(&memory);
    struct text weights = {0};
    text_append(&weights,
                json_is_true(json_object_get(resources, "weights_streamed")) ? "streamed, " : "held, ");
    page_append_bytes(&weights, page_number(resources, "weight_bytes_read"));
    text_append(&weights, " read");
    if (json_is_true(json_object_get(resources, "states_spilled"))) {
        text_append(&weights, "; hidden states spilled to disk");
    }
    append_fact(page, "Weights", weights.bytes);
    text_finish(&weights);
}

/* Seconds of the stages that took any; of the other jobs, those that their pages always name. */
static void append_seconds(struct text *page, const json_t *report)
{
    const json_t *seconds = json_object_get(json_object_get(report, "resources"), "stage_seconds"), *value;
    const char *stage;
    struct text line = {0};
    if (is_selection(report)) {
        json_object_foreach((json_t *)(uintptr_t)seconds, stage, value)
        {
            if (json_number_value(value) > 0) {
                text_append_format(&line, "%s%s %.1f s", line.length > 0 ? ", " : "", stage,
                                   json_number_value(value));
            }
        }
    } else {
        text_append_format(&line, "search %.1f s, export %.1f s, evaluate %.1f s",
                           page_number(seconds, "search"), page_number(seconds, "export"),
                           page_number(seconds, "evaluate"));
    }
    append_fact(page, "Time", line.length > 0 ? line.bytes : "");
    text_finish(&line);
}

static void append_machine(struct text *page, const json_t *report)
{
    const json_t *resources = json_object_get(report, "resources");
    char line[256];
    double threads = page_number(resources, "threads");
    (void)snprintf(line, sizeof line, "%s, %.0f threads, pruned %s", page_text(resources, "machine"),
                   isnan(threads) ? 0 : threads, page_text(resources, "version"));
    append_fact(page, "Machine", line);
    append_seconds(page, report);
}

static void append_provenance(struct text *page, const json_t *report)
{
    const json_t *evaluation = json_object_get(report, "evaluation");
    const json_t *measured = json_object_get(evaluation, "after");
    measured = measured != NULL ? measured : json_object_get(evaluation, "model");
    text_append(page, "<section><h2>How these figures were made</h2><div class=\"scroll\"><table>");
    append_fact(page, "Model sha256", page_text(json_object_get(report, "model"), "sha256"));
    append_dataset(page, "Calibration", json_object_get(report, "calibration"));
    append_dataset(page, "Evaluation", json_object_get(measured, "dataset"));
    const json_t *overlap = json_object_get(report, "overlap");
    if (overlap != NULL) {
        char line[128];
        (void)snprintf(line, sizeof line, "%.3f %% of evaluation %.0f-grams also occur in calibration",
                       page_number(overlap, "ngram_ratio") * 100, page_number(overlap, "ngram_tokens"));
        append_fact(page, "Overlap", line);
    }
    append_fact(page, "Pruned model sha256", page_text(json_object_get(report, "pruned_model"), "sha256"));
    if (json_is_object(json_object_get(report, "resources"))) {
        append_memory(page, report);
        append_machine(page, report);
    }
    text_append(page, "</table></div></section>");
}

/* " removed 3 and narrowed 20 of 60 sublayers", " kept 432 of 576 residual channels", or both. */
static void append_what_went(struct text *page, const json_t *report, double removed)
{
    double channels = page_number(json_object_get(report, "plan"), "hidden_count");
    size_t narrowed = page_count_narrowed(report);
    bool is_stream = channels > 0;
    if (is_stream) {
        text_append_format(page, " kept %.0f of %.0f residual channels", channels,
                           page_number(json_object_get(report, "model"), "hidden_size"));
    }
    if (is_stream && removed == 0 && narrowed == 0) {
        return;
    }
    const char *joint = is_stream ? " and" : "";
    if (removed > 0 || narrowed == 0) {
        text_append_format(page, "%s removed %.0f%s", joint, removed, narrowed > 0 ? "" : " of");
        joint = " and";
    }
    if (narrowed > 0) {
        text_append_format(page, "%s narrowed %zu of", joint, narrowed);
    }
    text_append_format(page, " %.0f sublayers",
                       page_number(json_object_get(json_object_get(report, "size"), "before"), "sublayers"));
}

/* "paser chose 1000 of 19000 records to recover NAME with. Budget: 1000 samples." */
static void append_choice(struct text *page, const json_t *report)
{
    const json_t *budget = json_object_get(report, "budget"), *value;
    const char *pruned = page_text(json_object_get(report, "pruned_model"), "name"), *unit;
    double chosen = page_number(budget, "records"),
           valid = page_number(json_object_get(report, "dataset"), "valid");
    if (!isfinite(chosen) || !isfinite(valid)) {
        return;
    }
    text_append_html(page, page_text(json_object_get(report, "method"), "name"));
    text_append_format(page, " chose %.0f of %.0f records", chosen, valid);
    if (pruned[0] != '\0') {
        text_append(page, " to recover ");
        text_append_html(page, pruned);
        text_append(page, " with");
    }
    text_append(page, ".");
    json_object_foreach((json_t *)(uintptr_t)json_object_get(budget, "requested"), unit, value)
    {
        if (json_is_number(value)) {
            text_append_format(page, " Budget: %.10g ", json_number_value(value));
            text_append_html(page, strcmp(unit, "fraction") == 0 ? "of the whole" : unit);
            text_append(page, ".");
        }
    }
}

static void append_head(struct text *page, const json_t *report)
{
    bool is_pruning = strcmp(page_text(report, "type"), "pruning") == 0, is_choice = is_selection(report);
    const char *name = page_text(json_object_get(report, "model"), "name");
    const char *what = is_pruning ? ", pruned" : is_choice ? ", data for its recovery" : ", measured";
    text_append(page,
                "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
                "content=\"width=device-width,initial-scale=1\"><title>");
    text_append_html(page, name);
    text_append_format(page, "%s</title><style>%s%s%s</style></head>\n<body><main><h1>", what, page_style,
                       is_choice ? page_selection_style : "", is_choice ? page_cluster_style : "");
    text_append_html(page, name);
    text_append(page, what);
    text_append(page, "</h1><p class=\"lead\">");
    if (is_pruning) {
        const json_t *target = json_object_get(report, "target");
        text_append_html(page, page_text(json_object_get(report, "method"), "name"));
        append_what_went(page, report, page_number(target, "sublayers_removed"));
        text_append_format(page, ". Target %s: %.6g asked for, %.6g reached.", page_text(target, "kind"),
                           page_number(target, "requested"), page_number(target, "achieved"));
    } else if (is_choice) {
        append_choice(page, report);
    } else {
        text_append(page, "An evaluation of the model as it is.");
    }
    text_append(page, "</p>");
}

static void append_models(struct text *page, const json_t *report)
{
    append_tiles(page, report);
    append_warnings(page, report);
    if (json_object_get(report, "plan") != NULL) {
        page_append_sweep(page, report);
        (page_count_narrowed(report) > 0 ? page_append_widths : page_append_strip)(page, report);
        page_append_scores(page, report);
        page_append_curve(page, report);
        page_append_bars(page, report);
        append_comparison(page, report);
    } else {
        append_measured(page, report);
    }
    page_append_divergence(page, report);
    page_append_positions(page, report);
    page_append_accuracy(page, report);
    page_append_speed(page, report);
    page_append_continuations(page, report);
    append_opening(page, report);
}

char *page_format(const json_t *report)
{
    struct text page = {0};
    append_head(&page, report);
    if (is_selection(report)) {
        append_warnings(&page, report);
        page_append_selection(&page, report);
    } else {
        append_models(&page, report);
    }
    append_provenance(&page, report);
    text_append(&page, "</main></body></html>\n");
    return text_take(&page);
}
