/*
 * workers/recipe/page_selection.c: report.html of a selection job, from top to bottom: what was chosen, what was left out, the clusters
 * (page_clusters.c), sources, how many clusters there are, what was measured beside, and how it was made.
 *
 * Records are foreign text, and so are names: all of it goes through text_append_html.
 */
#include "workers/recipe/page.h"

#include "base/cleanup.h"
#include "base/memory.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char page_selection_style[] =
    ".stack{display:flex;gap:1px;height:16px;min-width:220px}.stack i{background:var(--tone);min-width:1px;border-radius:1px}"
    ".sources{display:grid;grid-template-columns:minmax(0,1fr) minmax(0,1.2fr) minmax(0,1.2fr);gap:8px 14px;align-items:center;"
    "font-variant-numeric:tabular-nums}.sources .head{color:var(--soft);font-size:13px}.sources .name{overflow-wrap:anywhere}.name small{display:block;color:var(--soft)}"
    ".passes td:last-child,.passes th,.shares th{white-space:normal}.spectrum{max-width:760px}.facts td:last-child{white-space:normal;overflow-wrap:anywhere;min-width:110px}"
    ".facts td:first-child{min-width:190px}"
    ".facts td:first-child::first-letter{text-transform:uppercase}"
    "@media(max-width:640px){table{font-size:13.5px}th,td{padding:6px 4px}.stack{min-width:80px}.facts td:first-child{min-width:90px}.spectrum text{font-size:24px}.sources{grid-template-columns:1fr;gap:4px}.sources .head{display:none}"
    ".sources .name{margin-top:8px}.sources .cell em{min-width:72px}}";

/* ---- tiles and what was left out ---------------------------------------------------------------------------------- */

static void append_tile(struct text *page, double value, const char *label)
{
    text_append(page, "<div class=\"tile\"><b>");
    page_append_count(page, value);
    text_append_format(page, "</b><span>%s</span></div>", label);
}

/* Of all records: the mean of the clusters' means by their records; NAN where a cluster has none. */
static double find_mean_damage(const json_t *clusters)
{
    double sum = 0, records = 0;
    size_t index;
    const json_t *cluster;
    json_array_foreach(clusters, index, cluster)
    {
        sum += page_number(cluster, "damage") * page_number(cluster, "records");
        records += page_number(cluster, "records");
    }
    return records > 0 ? sum / records : (double)NAN;
}

static void append_tiles(struct text *page, const json_t *report)
{
    const json_t *budget = json_object_get(report, "budget"), *clusters = json_object_get(report, "clusters");
    double chosen = page_number(budget, "records"), tokens = page_number(budget, "tokens");
    double valid = page_number(json_object_get(report, "dataset"), "valid");
    double damage = find_mean_damage(clusters);
    if (!isfinite(chosen)) {
        return;
    }
    char label[64] = "records chosen";
    if (isfinite(valid)) {
        (void)snprintf(label, sizeof label, "records chosen of %.0f", valid);
    }
    text_append(page, "<div class=\"tiles\">");
    append_tile(page, chosen, label);
    if (isfinite(tokens)) {
        append_tile(page, tokens, "tokens in them");
    }
    if (json_array_size(clusters) > 0) {
        append_tile(page, (double)json_array_size(clusters), "clusters");
    }
    if (isfinite(damage)) {
        text_append_format(
            page, "<div class=\"tile\"><b>%.4g</b><span>mean damage of all records, nats</span></div>",
            damage);
    }
    text_append(page, "</div>");
}

static void append_left_out(struct text *page, const json_t *report)
{
    static const struct {
        const char *name, *why;
    } reasons[] = {
        {"empty_response", "The response is empty"},
        {"long_prompt", "The prompt alone is as long as a record may be"},
        {"duplicate", "A copy of a record before it"},
    };
    const json_t *dataset = json_object_get(report, "dataset"), *count;
    double records = page_number(dataset, "records"), truncated = page_number(dataset, "truncated"),
           most = page_number(dataset, "max_tokens");
    const char *name;
    if (!isfinite(records)) {
        return;
    }
    text_append_format(
        page,
        "<section><h2>What was left out</h2><div class=\"scroll\"><table><tr><th></th><th>records</th>"
        "</tr><tr><td>Records read</td><td>%.0f</td></tr>",
        records);
    json_object_foreach((json_t *)(uintptr_t)json_object_get(dataset, "left_out"), name, count)
    {
        const char *why = name;
        for (size_t i = 0; i < sizeof reasons / sizeof reasons[0]; i++) {
            why = strcmp(name, reasons[i].name) == 0 ? reasons[i].why : why;
        }
        text_append(page, "<tr><td>");
        text_append_html(page, why);
        text_append_format(page, "</td><td>%s%.0f</td></tr>", json_number_value(count) > 0 ? "&minus;" : "",
                           json_number_value(count));
    }
    double valid = page_number(dataset, "valid"), tokens = page_number(dataset, "tokens");
    if (isfinite(valid)) {
        text_append_format(page, "<tr><td>Can be chosen</td><td><b>%.0f</b></td></tr>", valid);
    }
    text_append(page, "</table></div><p class=\"note\">");
    if (isfinite(tokens)) {
        text_append(page, "What can be chosen holds ");
        page_append_count(page, tokens);
        text_append(page, " tokens. ");
    }
    if (truncated > 0 && most > 0) {
        text_append_format(page, "%.0f responses lost their end, so that a record has at most %.0f tokens.",
                           truncated, most);
    }
    text_append(page, "</p></section>");
}

/* ---- sources ------------------------------------------------------------------------------------------------------ */

static double sum_members(const json_t *list, const char *name)
{
    double sum = 0;
    size_t index;
    const json_t *item;
    json_array_foreach(list, index, item)
    {
        double value = page_number(item, name);
        sum += isfinite(value) ? value : 0;
    }
    return sum;
}

static void append_source_bar(struct text *page, const char *label, const char *tone, double count,
                              double all)
{
    double share = all > 0 && isfinite(count) ? count / all : 0;
    text_append_format(
        page,
        "<span class=\"cell\"><em>%s</em><span class=\"bar\"><i class=\"%s\" style=\"width:%.2f%%\"></i>"
        "</span><b class=\"wide\">%.1f %% <small>%.0f</small></b></span>",
        label, tone, share * 100, share * 100, isfinite(count) ? count : 0);
}

static void append_source_name(struct text *page, const json_t *source)
{
    double records = page_number(source, "records"), tokens = page_number(source, "tokens_chosen");
    text_append(page, "<span class=\"name\">");
    text_append_html(page, page_text(source, "name"));
    text_append(page, "<small>");
    if (isfinite(records)) {
        text_append_format(page, "%.0f records read", records);
    }
    if (isfinite(tokens)) {
        text_append(page, isfinite(records) ? ", " : "");
        page_append_count(page, tokens);
        text_append(page, " tokens chosen");
    }
    text_append(page, "</small></span>");
}

static void append_sources(struct text *page, const json_t *report)
{
    const json_t *sources = json_object_get(json_object_get(report, "dataset"), "sources"), *source;
    double valid = sum_members(sources, "valid"), chosen = sum_members(sources, "chosen");
    size_t index;
    if (json_array_size(sources) == 0) {
        return;
    }
    text_append(page,
                "<section><h2>Sources</h2><div class=\"sources\"><span class=\"head\">source</span>"
                "<span class=\"head\">of the records that can be chosen</span><span class=\"head\">of the "
                "chosen ones</span>");
    json_array_foreach(sources, index, source)
    {
        append_source_name(page, source);
        append_source_bar(page, "of all", "rest", page_number(source, "valid"), valid);
        append_source_bar(page, "of chosen", "budget", page_number(source, "chosen"), chosen);
    }
    text_append(page, "</div></section>");
}

/* ---- how many clusters -------------------------------------------------------------------------------------------- */

struct plot {
    double left, right, top, bottom, low, high, step; /* step: between eigenvalues */
};

static double plot_x(const struct plot *plot, double index)
{
    return plot->left + plot->step * (index + 0.5);
}

static double plot_y(const struct plot *plot, double value)
{
    return plot->bottom - (plot->bottom - plot->top) * (value - plot->low) / (plot->high - plot->low);
}

/* The band between the last eigenvalue that counts and the next one: the gap that says how many clusters there are. */
static void append_gap(struct text *page, const struct plot *plot, const json_t *values, size_t clusters)
{
    if (clusters == 0 || clusters >= json_array_size(values)) {
        return;
    }
    double above = plot_y(plot, json_number_value(json_array_get(values, clusters - 1)));
    double below = plot_y(plot, json_number_value(json_array_get(values, clusters)));
    text_append_format(page,
                       "<rect x=\"%.1f\" y=\"%.2f\" width=\"%.1f\" height=\"%.2f\" fill=\"var(--gone)\" "
                       "fill-opacity=\"0.25\"><title>the gap after %zu eigenvalues</title></rect>",
                       plot->left, above, plot->right - plot->left, fmax(below - above, 1), clusters);
    text_append_format(page,
                       "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"var(--gone)\" "
                       "stroke-dasharray=\"4 3\"/>",
                       plot->left + plot->step * (double)clusters, plot->left + plot->step * (double)clusters,
                       plot->top, plot->bottom);
    bool is_right = clusters * 2 > json_array_size(values);
    text_append_format(page,
                       "<text class=\"strong\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%zu clusters</text>",
                       plot->left + plot->step * (double)clusters + (is_right ? -8 : 8),
                       is_right ? plot->bottom - 8 : plot->top + 4, is_right ? "end" : "start", clusters);
}

static void append_eigenvalues(struct text *page, const json_t *values, size_t clusters)
{
    size_t count = json_array_size(values), index;
    const json_t *value;
    double low = 1, high = 1;
    json_array_foreach(values, index, value)
    {
        low = fmin(low, json_number_value(value));
        high = fmax(high, json_number_value(value));
    }
    struct plot plot = {
        .left = 66, .right = 760, .top = 14, .bottom = 200, .low = low < 1 ? low : 0, .high = high};
    plot.step = (plot.right - plot.left) / (double)count;
    text_append(
        page, "<svg class=\"spectrum\" viewBox=\"0 0 760 236\" role=\"img\" aria-label=\"eigenvalues of the "
              "graph of records, and the gap that says how many clusters there are\">");
    for (int i = 0; i <= 2; i++) {
        double mark = plot.low + (plot.high - plot.low) * i / 2;
        text_append_format(page,
                           "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.2f\" y2=\"%.2f\" stroke=\"var(--line)\"/>"
                           "<text x=\"%.1f\" y=\"%.2f\" text-anchor=\"end\">%.3g</text>",
                           plot.left, plot.right, plot_y(&plot, mark), plot_y(&plot, mark), plot.left - 8,
                           plot_y(&plot, mark) + 4, mark);
    }
    append_gap(page, &plot, values, clusters);
    size_t every = count <= 12 ? 1 : count <= 24 ? 2 : (count + 11) / 12;
    json_array_foreach(values, index, value)
    {
        double x = plot_x(&plot, (double)index);
        text_append_format(
            page,
            "<circle cx=\"%.1f\" cy=\"%.2f\" r=\"5\" fill=\"var(--%s)\"><title>eigenvalue %zu: "
            "%.6g</title></circle>",
            x, plot_y(&plot, json_number_value(value)), index < clusters ? "keep" : "before", index + 1,
            json_number_value(value));
        if ((index + 1) % every == 0) {
            text_append_format(page, "<text x=\"%.1f\" y=\"226\" text-anchor=\"middle\">%zu</text>", x,
                               index + 1);
        }
    }
    text_append(page, "</svg>");
}

static int compare_falling(const void *left, const void *right)
{
    const double *a = left, *b = right;
    return *a > *b ? -1 : *a < *b ? 1 : 0;
}

/* A row of the table of allocations: shares of the budget in falling order, as one bar. other: NULL, as chosen. */
static void append_allocation(struct text *page, size_t clusters, const json_t *shares, const json_t *other)
{
    size_t count = json_array_size(shares), index;
    const json_t *share;
    OWNED_MEMORY double *values = memory_create(count, sizeof *values);
    double sum = 0;
    json_array_foreach(shares, index, share)
    {
        const json_t *value = json_is_object(share) ? json_object_get(share, "share") : share;
        values[index] = fmax(json_number_value(value), 0);
        sum += values[index];
    }
    qsort(values, count, sizeof *values, compare_falling);
    text_append_format(page, "<tr><td>%s%zu%s</td><td><div class=\"stack\">", other == NULL ? "<b>" : "",
                       clusters, other == NULL ? "</b>, as chosen" : "");
    for (size_t i = 0; i < count && sum > 0; i++) {
        text_append_format(page, "<i class=\"%s\" style=\"flex:%.5f 1 0\" title=\"%.1f %%\"></i>",
                           other == NULL ? "budget" : "rest", values[i] / sum, values[i] / sum * 100);
    }
    text_append_format(page, "</div></td><td>%.1f %%</td><td>",
                       count > 0 && sum > 0 ? values[0] / sum * 100 : 0);
    double moved = page_number(other, "moved_ratio"), agreement = page_number(other, "agreement");
    text_append_format(page, isfinite(moved) ? "%.1f %%</td><td>" : "&ndash;</td><td>", moved * 100);
    text_append_format(page, isfinite(agreement) ? "%.3f</td></tr>" : "&ndash;</td></tr>", agreement);
}

static void append_sensitivity(struct text *page, const json_t *report)
{
    const json_t *others = json_object_get(json_object_get(report, "details"), "sensitivity"), *other;
    const json_t *clusters = json_object_get(report, "clusters");
    size_t chosen = json_array_size(clusters), index;
    bool is_done = chosen == 0;
    if (json_array_size(others) == 0) {
        return;
    }
    text_append(page,
                "<section><h2>With other numbers of clusters</h2><div class=\"scroll\"><table "
                "class=\"shares\"><tr><th>clusters</th><th style=\"text-align:left\">shares of the budget, "
                "falling</th><th>largest</th><th>budget moved</th><th>agreement</th></tr>");
    json_array_foreach(others, index, other)
    {
        double count = page_number(other, "clusters");
        if (!is_done && count > (double)chosen) {
            append_allocation(page, chosen, clusters, NULL);
            is_done = true;
        }
        append_allocation(page, count > 0 ? (size_t)count : 0, json_object_get(other, "shares"), other);
    }
    if (!is_done) {
        append_allocation(page, chosen, clusters, NULL);
    }
    text_append(
        page,
        "</table></div><p class=\"note\">How the budget would be shared with more and with fewer clusters. Budget "
        "moved: what part of it other records would get; agreement: of the clusters with the chosen ones "
        "(adjusted Rand index). Little moved: the choice hangs little on the number.</p></section>");
}

/* What said how many clusters there are. compat "published" is told the number; its eigenvalues are the Laplacian's. */
static void append_spectrum(struct text *page, const json_t *report)
{
    const json_t *clustering = json_object_get(json_object_get(report, "details"), "clustering");
    const json_t *spectrum = json_object_get(clustering, "spectrum"),
                 *choice = json_object_get(clustering, "clusters");
    const json_t *values = json_object_get(spectrum, "eigenvalues"),
                 *published = json_object_get(clustering, "eigenvalues");
    double clusters = page_number(choice, "wanted"), gap = page_number(choice, "gap");
    const char *how = page_text(choice, "chosen_by");
    const char *caption = "";
    if (json_array_size(published) > 1) {
        values = published;
        clusters = json_number_value(choice);
        caption =
            "Smallest eigenvalues of the Laplacian of all pairs of records, numbered from the smallest: one for "
            "each cluster that was asked for.";
    } else if (json_array_size(values) > 1) {
        caption =
            "Leading eigenvalues of the graph of records that ask for alike, numbered from the largest. ";
    } else if (how[0] == '\0') {
        return;
    }
    text_append(page, "<section><h2>How many clusters</h2>");
    if (json_array_size(values) > 1) {
        append_eigenvalues(page, values, clusters > 0 ? (size_t)clusters : 0);
    }
    text_append_format(page, "<p class=\"note\">%s", caption);
    if (isfinite(gap)) {
        text_append_format(page, "The gap is %.3g. ", gap);
    }
    text_append(page, how[0] != '\0' ? "Chosen by: " : "");
    text_append_html(page, how);
    text_append(page, "</p></section>");
}

/* ---- what was measured beside -------------------------------------------------------------------------------------- */

static void append_coefficient(struct text *page, double value)
{
    if (isfinite(value)) {
        text_append_format(page, "<td>%+.3f</td>", value);
    } else {
        text_append(page, "<td>&ndash;</td>");
    }
}

static void append_correlations(struct text *page, const json_t *report)
{
    static const struct {
        const char *name, *label;
    } columns[] = {{"response_tokens", "tokens of the response"},
                   {"entropy", "entropy of the original's predictions"}};
    const json_t *correlations = json_object_get(json_object_get(report, "details"), "correlations"), *pair;
    const char *name;
    if (json_object_size(correlations) == 0) {
        return;
    }
    text_append(
        page,
        "<section><h2>Damage, and what it could be mistaken for</h2><div class=\"scroll\"><table><tr><th>damage "
        "of a record with its</th><th>Pearson</th><th>Spearman</th></tr>");
    json_object_foreach((json_t *)(uintptr_t)correlations, name, pair)
    {
        const char *label = name;
        for (size_t i = 0; i < sizeof columns / sizeof columns[0]; i++) {
            label = strcmp(name, columns[i].name) == 0 ? columns[i].label : label;
        }
        text_append(page, "<tr><td>");
        text_append_html(page, label);
        text_append(page, "</td>");
        append_coefficient(page, page_number(pair, "pearson"));
        append_coefficient(page, page_number(pair, "spearman"));
        text_append(page, "</tr>");
    }
    text_append(
        page,
        "</table></div><p class=\"note\">Far from 0: the choice may follow length or open answers more than "
        "what pruning took.</p></section>");
}

static void append_passes(struct text *page, const json_t *report)
{
    const json_t *passes = json_object_get(report, "passes"), *pass;
    const char *name;
    if (json_object_size(passes) == 0) {
        return;
    }
    text_append(
        page,
        "<section><h2>Passes of the models</h2><div class=\"scroll\"><table class=\"passes\"><tr><th>model</th><th>records</th>"
        "<th>tokens</th><th>seconds</th><th>result</th></tr>");
    json_object_foreach((json_t *)(uintptr_t)passes, name, pass)
    {
        const char *cache = page_text(pass, "cache");
        double figures[] = {page_number(pass, "records"), page_number(pass, "tokens"),
                            page_number(pass, "seconds")};
        if (!json_is_object(pass)) {
            continue;
        }
        text_append(page, "<tr><td>");
        text_append_html(page, name);
        for (size_t i = 0; i < 3; i++) {
            text_append(page, isfinite(figures[i]) ? "</td><td>" : "</td><td>&ndash;");
            if (isfinite(figures[i]) && i < 2) {
                page_append_count(page, figures[i]);
            } else if (isfinite(figures[i])) {
                text_append_format(page, "%.1f", figures[i]);
            }
        }
        text_append(page, "</td><td>");
        text_append_html(page, strcmp(cache, "hit") == 0    ? "reused"
                               : strcmp(cache, "miss") == 0 ? "computed, kept"
                               : strcmp(cache, "off") == 0  ? "computed"
                                                            : cache);
        text_append(page, "</td></tr>");
    }
    text_append(
        page,
        "</table></div><p class=\"note\">Reused: an earlier job had measured the same records. Kept: for later jobs.</p></section>");
}

static void append_figure(struct text *page, const char *name, const json_t *value)
{
    double number = json_number_value(value);
    if (json_is_array(value)) { /* of texts */
        for (size_t i = 0; i < json_array_size(value); i++) {
            const char *text = json_string_value(json_array_get(value, i));
            text_append(page, i > 0 ? "; " : "");
            text_append_html(page, text != NULL ? text : "");
        }
    } else if (json_is_string(value)) {
        text_append_html(page, json_string_value(value));
    } else if (json_is_boolean(value)) {
        text_append(page, json_is_true(value) ? "yes" : "no");
    } else if (text_ends_with(name, "ratio") || text_ends_with(name, "recall")) {
        text_append_format(page, "%.2f %%", number * 100);
    } else if (text_ends_with(name, "bytes")) {
        page_append_bytes(page, number);
    } else {
        text_append_format(page, json_is_integer(value) ? "%.0f" : "%.4g", number);
    }
}

/* Rows of all that an object says in figures and words, its inner objects' too, under their names: "Graph edges". What has a
 * figure or a table of its own is passed over. */
static void append_figures(struct text *page, const json_t *object, const char *outer)
{
    static const struct {
        const char *name, *label; /* label NULL: passed over */
    } known[] = {
        {"correlations", NULL},
        {"clusters count", NULL},
        {"clusters wanted", NULL},
        {"clusters chosen_by", NULL},
        {"clusters gap", NULL},
        {"source_agreement", "Agreement of clusters with sources (adjusted Rand index; 1: the same)"},
        {"conflicts asked", "Records asked whether they conflict with the chosen ones"},
        {"conflicts rejected", "Rejected for a conflict"},
        {"neighbours recall", "Nearest neighbours found, of the true ones"},
    };
    const char *name;
    const json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, name, value)
    {
        struct text path = {0};
        text_append(&path, outer);
        text_append(&path, outer[0] != '\0' ? " " : "");
        text_append(&path, name);
        const char *label = path.bytes;
        for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
            label = strcmp(path.bytes, known[i].name) == 0 ? known[i].label : label;
        }
        if (json_is_object(value) && label != NULL) {
            append_figures(page, value, strcmp(path.bytes, "clustering") == 0 ? "" : path.bytes);
        } else if (label != NULL && !json_is_null(value) &&
                   (!json_is_array(value) || json_is_string(json_array_get(value, 0)))) {
            if (label == path.bytes) {
                for (size_t i = 0; i < path.length; i++) {
                    path.bytes[i] = path.bytes[i] == '_' ? ' ' : path.bytes[i];
                }
            }
            text_append(page, "<tr><td>");
            text_append_html(page, label);
            text_append(page, "</td><td>");
            append_figure(page, name, value);
            text_append(page, "</td></tr>");
        }
        text_finish(&path);
    }
}

static void append_table(struct text *page, const char *title, const struct text *rows)
{
    if (rows->length > 0) {
        text_append_format(page, "<section><h2>%s</h2><div class=\"scroll\"><table class=\"facts\">", title);
        text_append_bytes(page, rows->bytes, rows->length);
        text_append(page, "</table></div></section>");
    }
}

static void append_word(struct text *rows, const char *label, const char *value)
{
    if (value[0] != '\0') {
        text_append_format(rows, "<tr><td>%s</td><td>", label);
        text_append_html(rows, value);
        text_append(rows, "</td></tr>");
    }
}

/* How the records were chosen: the method with its parameters, and what read the records. */
static void append_method(struct text *page, const json_t *report)
{
    const json_t *method = json_object_get(report, "method"),
                 *embedding = json_object_get(report, "embedding");
    struct text rows = {0}, line = {0};
    append_word(&rows, "Method", page_text(method, "name"));
    append_word(&rows, "What it does", page_text(method, "summary"));
    append_word(&rows, "Reference", page_text(method, "reference"));
    append_figures(&rows, json_object_get(method, "parameters"), "parameter");
    if (json_is_object(embedding)) {
        text_append(&line, strcmp(page_text(embedding, "kind"), "encoder") == 0 ? "" : "hidden states of ");
        text_append(&line, page_text(embedding, "name"));
        double dimensions = page_number(embedding, "dimensions");
        if (isfinite(dimensions)) {
            text_append_format(&line, ", %.0f dimensions", dimensions);
        }
        append_word(&rows, "Records are compared by", line.bytes);
        text_clear(&line);
    }
    append_word(&rows, "Template", page_text(json_object_get(report, "dataset"), "template"));
    append_table(page, "How the records were chosen", &rows);
    text_finish(&rows);
    text_finish(&line);
}

void page_append_selection(struct text *page, const json_t *report)
{
    append_tiles(page, report);
    append_left_out(page, report);
    page_append_clusters(page, report);
    append_sources(page, report);
    append_spectrum(page, report);
    append_correlations(page, report);
    struct text rows = {0};
    append_figures(&rows, json_object_get(report, "details"), "");
    append_table(page, "What the method says beside", &rows);
    text_finish(&rows);
    append_passes(page, report);
    append_sensitivity(page, report);
    append_method(page, report);
}
