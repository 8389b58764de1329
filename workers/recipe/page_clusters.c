/*
 * workers/recipe/page_clusters.c: the clusters of a selection in report.html: a map of the records, and cluster by cluster what pruning
 * damaged and what of the budget it takes, with examples.
 *
 * Colours say the mean damage of a cluster, from the least to the most damaged one in steps of one scale (.d0 ... .d8 of
 * page_cluster_style; .dn: not known). Bars are boxes of the page and no SVG, so that they stay legible on a narrow screen.
 */
#include "workers/recipe/page.h"

#include "base/cleanup.h"
#include "base/memory.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SCALE_STEPS = 9, EXAMPLES_SHOWN = 3 };

const char page_cluster_style[] =
    ":root{--d0:#e6c688;--d1:#e8b97c;--d2:#e39c5f;--d3:#dc7d4e;--d4:#cf5f49;--d5:#b7474d;--d6:#973652;--d7:#742a50;--d8:#4c2045}"
    "@media(prefers-color-scheme:dark){:root{--d0:#6d5578;--d1:#7f4c74;--d2:#914268;--d3:#b04a64;--d4:#cb595b;--d5:#df7056;"
    "--d6:#eb8f5f;--d7:#f2b27a;--d8:#f8d8a4}}"
    ".d0{--tone:var(--d0)}.d1{--tone:var(--d1)}.d2{--tone:var(--d2)}.d3{--tone:var(--d3)}.d4{--tone:var(--d4)}.d5{--tone:var(--d5)}"
    ".d6{--tone:var(--d6)}.d7{--tone:var(--d7)}.d8{--tone:var(--d8)}.dn{--tone:var(--before)}.budget{--tone:var(--keep)}"
    ".rest{--tone:var(--ffn)}"
    ".map{display:flex;flex-wrap:wrap;gap:20px 28px;align-items:flex-start}.map svg{flex:1 1 560px;max-width:640px}"
    ".map path{fill:none;stroke:var(--tone);stroke-width:3.6;stroke-linecap:round;opacity:.55}"
    ".map circle{fill:var(--tone);stroke:var(--card);stroke-width:.8}"
    ".map text{fill:var(--ink);font-size:15px;font-weight:700;text-anchor:middle;paint-order:stroke;stroke:var(--card);"
    "stroke-width:4px;stroke-linejoin:round}"
    ".legend{flex:1 1 220px;color:var(--soft);font-size:13px}.legend p{margin:0 0 8px}.legend b{color:var(--ink);margin-right:6px}"
    ".scale{display:flex;max-width:300px}.scale i{flex:1;height:12px;background:var(--tone)}"
    ".ends{display:flex;justify-content:space-between;max-width:300px;margin:2px 0 14px;font-variant-numeric:tabular-nums}"
    ".disc{display:inline-block;width:11px;height:11px;border-radius:50%;background:var(--tone);margin-right:7px;flex:none}"
    ".small{width:6px;height:6px;margin:0 10px 2px 2px;opacity:.6}"
    ".clusters summary,.names{display:grid;grid-template-columns:18px 44px 64px minmax(0,1fr) minmax(0,1fr);gap:2px 12px;"
    "align-items:center;font-variant-numeric:tabular-nums}.plain summary,.plain .names{grid-template-columns:18px 44px 64px minmax(0,1fr)}"
    ".names{color:var(--soft);font-size:13px;padding:0 0 6px}.clusters details{border-top:1px solid var(--line)}"
    ".clusters summary{cursor:pointer;list-style:none;padding:8px 0}.clusters summary::-webkit-details-marker{display:none}"
    ".clusters summary:hover{background:var(--page)}.clusters summary .disc{margin:0 0 0 3px}.count{text-align:right}"
    ".count em,.cell em{display:none;font-style:normal;color:var(--soft);font-size:13px}"
    ".cell{display:flex;align-items:center;gap:8px}.cell b{font-weight:400;min-width:52px}.cell .wide{min-width:100px}"
    ".cell small{color:var(--soft);margin-left:4px}.bar{flex:1;position:relative;height:14px;border-radius:2px;background:var(--page)}"
    ".bar i{display:block;height:100%;border-radius:2px;background:var(--tone)}"
    ".bar s{position:absolute;top:-2px;bottom:-2px;width:2px;margin-left:-1px;background:var(--ink);box-shadow:0 0 0 1px var(--card)}"
    ".clusters details>.note,.example{margin:0 0 10px 30px}"
    ".example .note{margin:0 0 3px}.pair{display:grid;grid-template-columns:1fr 1fr;gap:8px}"
    ".quote{background:var(--page);border-left:3px solid var(--line);border-radius:3px;padding:6px 10px;font-size:13.5px;white-space:pre-wrap;"
    "overflow-wrap:anywhere;max-height:11em;overflow:auto}.answer{border-color:var(--keep)}"
    "@media(max-width:640px){main{padding:20px 12px 40px}section{padding:14px}.map text{font-size:26px;stroke-width:6px}"
    ".map circle{r:5.5px}.map path{stroke-width:5.5}"
    ".names{display:none}.clusters summary,.plain summary{grid-template-columns:18px 40px 1fr;row-gap:6px}"
    ".count em,.cell em{display:inline}.cell{grid-column:1/-1}.cell em{min-width:56px}.cell b,.cell .wide{min-width:88px}"
    ".clusters details>.note,.example{margin-left:0}.pair{grid-template-columns:1fr}}";

struct cluster {
    const json_t *item;
    double number, damage, records;
    double chosen;      /* all that were, for whatever reason */
    double share;       /* of the budget */
    double record_part; /* of all records that can be chosen */
};
struct clusters {
    struct cluster *items; /* owned: falling by damage, then by number */
    size_t count;
    double low, high; /* least and largest damage; NAN: no damage is known */
    double share_most;
};

static void clusters_finish(struct clusters *clusters)
{
    free(clusters->items);
}

static int compare_clusters(const void *left, const void *right)
{
    const struct cluster *a = left, *b = right;
    bool is_a = isfinite(a->damage), is_b = isfinite(b->damage);
    if (is_a != is_b) {
        return is_a ? -1 : 1;
    }
    if (is_a && fabs(a->damage - b->damage) > 0) {
        return a->damage > b->damage ? -1 : 1;
    }
    return a->number < b->number ? -1 : a->number > b->number ? 1 : 0;
}

static double zero_if_unknown(double value)
{
    return isfinite(value) ? value : 0;
}

static struct clusters clusters_read(const json_t *report)
{
    const json_t *list = json_object_get(report, "clusters"), *item;
    struct clusters clusters = {.count = json_array_size(list), .low = (double)NAN, .high = (double)NAN};
    clusters.items = memory_create(clusters.count, sizeof *clusters.items);
    double records = 0, shares = 0; /* shares: in the budget's unit */
    size_t index;
    json_array_foreach(list, index, item)
    {
        struct cluster *cluster = &clusters.items[index];
        *cluster = (struct cluster){.item = item,
                                    .number = (double)index,
                                    .damage = page_number(item, "damage"),
                                    .records = page_number(item, "records"),
                                    .chosen = page_number(item, "taken"),
                                    .share = page_number(item, "share")};
        records += zero_if_unknown(cluster->records);
        shares += zero_if_unknown(cluster->share);
        clusters.low = fmin(clusters.low, cluster->damage); /* fmin and fmax pass over NAN */
        clusters.high = fmax(clusters.high, cluster->damage);
    }
    for (size_t i = 0; i < clusters.count; i++) {
        struct cluster *cluster = &clusters.items[i];
        cluster->record_part = cluster->records / records;
        cluster->share /= shares;
        clusters.share_most = fmax(clusters.share_most, fmax(zero_if_unknown(cluster->share),
                                                             zero_if_unknown(cluster->record_part)));
    }
    if (clusters.count > 0) {
        qsort(clusters.items, clusters.count, sizeof *clusters.items, compare_clusters);
    }
    return clusters;
}

/* The class of a mean damage's colour. */
static const char *tone_of(const struct clusters *clusters, double damage)
{
    static const char *const tones[SCALE_STEPS] = {"d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7", "d8"};
    double range = clusters->high - clusters->low;
    if (!isfinite(damage)) {
        return "dn";
    }
    double place = range > 0 ? (damage - clusters->low) / range : 0.5;
    return tones[(size_t)fmin(floor(place * SCALE_STEPS), SCALE_STEPS - 1)];
}

/* ---- the map ------------------------------------------------------------------------------------------------------ */

#define MAP_WIDTH  640.0
#define MAP_MARGIN 14.0

struct map_point {
    double x, y;
    size_t cluster; /* of clusters->items; their count: none of them */
    bool is_chosen;
};
struct map {
    struct map_point *points;
    size_t count, chosen_count;
    double height;
};

static size_t find_cluster(const struct clusters *clusters, const json_t *number)
{
    size_t found = 0;
    while (json_is_number(number) && found < clusters->count &&
           fabs(clusters->items[found].number - json_number_value(number)) > 0) {
        found++;
    }
    return json_is_number(number) ? found : clusters->count;
}

/* To the figure's coordinates, by one factor in both directions so that distances stay what they are. */
static void map_fit(struct map *map)
{
    double left = INFINITY, right = -INFINITY, low = INFINITY, high = -INFINITY;
    for (size_t i = 0; i < map->count; i++) {
        left = fmin(left, map->points[i].x);
        right = fmax(right, map->points[i].x);
        low = fmin(low, map->points[i].y);
        high = fmax(high, map->points[i].y);
    }
    double wide = right - left, tall = high - low, inner = MAP_WIDTH - 2 * MAP_MARGIN;
    double factor = fmin(inner / wide, (560 - 2 * MAP_MARGIN) / tall); /* of no extent: INFINITY */
    factor = isfinite(factor) ? factor : 0;
    map->height = fmax(tall * factor + 2 * MAP_MARGIN, 120);
    for (size_t i = 0; i < map->count; i++) {
        map->points[i].x = MAP_WIDTH / 2 + (map->points[i].x - (left + right) / 2) * factor;
        map->points[i].y = map->height / 2 - (map->points[i].y - (low + high) / 2) * factor;
    }
}

static struct map map_read(const json_t *report, const struct clusters *clusters)
{
    const json_t *points = json_object_get(json_object_get(report, "map"), "points"), *point;
    struct map map = {.points = memory_create(json_array_size(points), sizeof *map.points)};
    size_t index;
    json_array_foreach(points, index, point)
    {
        const json_t *x = json_array_get(point, 0), *y = json_array_get(point, 1);
        if (json_is_number(x) && json_is_number(y)) {
            struct map_point *read = &map.points[map.count++];
            *read = (struct map_point){.x = json_number_value(x),
                                       .y = json_number_value(y),
                                       .cluster = find_cluster(clusters, json_array_get(point, 2)),
                                       .is_chosen = json_number_value(json_array_get(point, 3)) > 0};
            map.chosen_count += read->is_chosen ? 1 : 0;
        }
    }
    if (map.count > 0) {
        map_fit(&map);
    }
    return map;
}

/* A group of one cluster's points: those not chosen as one path of dots, the chosen ones as discs. */
static void append_points(struct text *page, const struct map *map, const struct clusters *clusters,
                          size_t cluster, bool is_chosen)
{
    const struct cluster *shown = cluster < clusters->count ? &clusters->items[cluster] : NULL;
    text_append_format(page, "<g class=\"%s\">",
                       tone_of(clusters, shown != NULL ? shown->damage : (double)NAN));
    if (shown != NULL) {
        text_append_format(page, "<title>cluster %.0f: %.0f records, %.0f chosen", shown->number,
                           zero_if_unknown(shown->records), zero_if_unknown(shown->chosen));
        if (isfinite(shown->damage)) {
            text_append_format(page, ", mean damage %.4g nats", shown->damage);
        }
        text_append(page, "</title>");
    }
    text_append(page, is_chosen ? "" : "<path d=\"");
    for (size_t i = 0; i < map->count; i++) {
        const struct map_point *point = &map->points[i];
        if (point->cluster == cluster && point->is_chosen == is_chosen) {
            text_append_format(page,
                               is_chosen ? "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.6\"/>" : "M%.1f %.1fh0",
                               point->x, point->y);
        }
    }
    text_append(page, is_chosen ? "</g>" : "\"/></g>");
}

struct map_label {
    double x, y, points;
};

/* Centroids; labels that would lie on each other are pushed apart, each by half. */
static void place_labels(const struct map *map, struct map_label *labels, size_t count)
{
    for (size_t i = 0; i < map->count; i++) {
        if (map->points[i].cluster < count) {
            struct map_label *label = &labels[map->points[i].cluster];
            label->x += map->points[i].x;
            label->y += map->points[i].y;
            label->points++;
        }
    }
    for (size_t i = 0; i < count; i++) {
        labels[i].x /= labels[i].points;
        labels[i].y /= labels[i].points;
    }
    for (size_t round = 0; round < 20; round++) {
        for (size_t i = 0; i < count; i++) {
            for (size_t j = i + 1; j < count; j++) {
                double apart = labels[j].y - labels[i].y;
                if (fabs(labels[j].x - labels[i].x) < 28 && fabs(apart) < 24) {
                    double push = (24 - fabs(apart)) / 2 * (apart < 0 ? -1 : 1);
                    labels[i].y -= push;
                    labels[j].y += push;
                }
            }
        }
    }
}

static void append_legend(struct text *page, const struct map *map, const struct clusters *clusters,
                          double record_count)
{
    text_append(page, "<div class=\"legend\">");
    if (clusters->high > clusters->low) {
        text_append(page, "<p>mean damage of the cluster, nats</p><div class=\"scale\">");
        for (int i = 0; i < SCALE_STEPS; i++) {
            text_append_format(page, "<i class=\"d%d\"></i>", i);
        }
        text_append_format(
            page, "</div><div class=\"ends\"><span>%.3g</span><span>%.3g</span><span>%.3g</span></div>",
            clusters->low, (clusters->low + clusters->high) / 2, clusters->high);
    } else if (isfinite(clusters->high)) {
        text_append_format(page, "<p><i class=\"disc d4\"></i>mean damage of the cluster: %.3g nats</p>",
                           clusters->high);
    }
    text_append(page,
                "<p><i class=\"disc dn\"></i>chosen</p><p><i class=\"disc small dn\"></i>not chosen</p>");
    if (clusters->count > 0) {
        text_append(page, "<p><b>7</b> number of a cluster, at its centre</p>");
    }
    text_append_format(page, "<p>%zu", map->count);
    if (record_count > (double)map->count) {
        text_append_format(page, " of %.0f", record_count);
    }
    text_append_format(
        page,
        " records, %zu of them chosen. Near each other is what asks for alike; of many dimensions two are "
        "shown.</p></div>",
        map->chosen_count);
}

static void append_map(struct text *page, const json_t *report, const struct clusters *clusters)
{
    struct map map = map_read(report, clusters);
    OWNED_MEMORY struct map_point *points = map.points;
    if (map.count == 0) {
        return;
    }
    OWNED_MEMORY struct map_label *labels = memory_create(clusters->count, sizeof *labels);
    place_labels(&map, labels, clusters->count);
    text_append_format(
        page,
        "<section><h2>Map of the records</h2><div class=\"map\"><svg viewBox=\"0 0 %.0f %.0f\" role=\"img\" "
        "aria-label=\"records by what they ask, coloured by the damage of their cluster\">",
        MAP_WIDTH, map.height);
    for (int is_chosen = 0; is_chosen <= 1; is_chosen++) {
        for (size_t i = clusters->count + 1; i-- > 0;) { /* the most damaged on top */
            append_points(page, &map, clusters, i, is_chosen == 1);
        }
    }
    for (size_t i = 0; i < clusters->count; i++) {
        if (labels[i].points > 0) {
            text_append_format(page, "<text x=\"%.1f\" y=\"%.1f\">%.0f</text>", labels[i].x, labels[i].y + 5,
                               clusters->items[i].number);
        }
    }
    text_append(page, "</svg>");
    append_legend(page, &map, clusters, page_number(json_object_get(report, "map"), "of"));
    text_append(page, "</div></section>");
}

/* ---- cluster by cluster ------------------------------------------------------------------------------------------- */

/* tone: class of the bar; mark: where a line crosses it, NAN for none; most: as long as there is room. */
static void append_bar(struct text *page, const char *tone, double value, double mark, double most)
{
    double length = most > 0 ? fmax(zero_if_unknown(value), 0) / most * 100 : 0;
    text_append_format(page, "<span class=\"bar\"><i class=\"%s\" style=\"width:%.2f%%\"></i>", tone, length);
    if (isfinite(mark) && most > 0) {
        text_append_format(page, "<s style=\"left:%.2f%%\"></s>", fmin(fmax(mark, 0) / most, 1) * 100);
    }
    text_append(page, "</span>");
}

static void append_damage(struct text *page, const struct clusters *clusters, const struct cluster *cluster)
{
    text_append(page, "<span class=\"cell\"><em>damage</em>");
    append_bar(page, tone_of(clusters, cluster->damage), cluster->damage,
               page_number(cluster->item, "damage_shrunk"), clusters->high);
    text_append(page, "<b>");
    if (isfinite(cluster->damage)) {
        text_append_format(page, "%.4f", cluster->damage);
    } else {
        text_append(page, "&ndash;");
    }
    text_append(page, "</b></span>");
}

static void append_budget(struct text *page, const struct clusters *clusters, const struct cluster *cluster)
{
    text_append(page, "<span class=\"cell\"><em>budget</em>");
    append_bar(page, "budget", cluster->share, cluster->record_part, clusters->share_most);
    text_append(page, "<b class=\"wide\">");
    if (isfinite(cluster->share)) {
        text_append_format(page, "%.1f %%", cluster->share * 100);
    } else {
        text_append(page, "&ndash;");
    }
    if (isfinite(cluster->chosen)) {
        text_append_format(page, " <small>%.0f</small>", cluster->chosen);
    }
    text_append(page, "</b></span>");
}

/* At most so many characters, and an ellipsis where some are left. */
static void append_excerpt(struct text *page, const char *string, size_t characters)
{
    size_t length = 0;
    for (size_t count = 0; string[length] != '\0'; length++) {
        if (((unsigned char)string[length] & 0xc0) != 0x80 && count++ == characters) {
            break;
        }
    }
    struct text excerpt = {0};
    text_append_bytes(&excerpt, string, length);
    text_append(&excerpt, string[length] != '\0' ? "…" : "");
    text_append_html(page, excerpt.bytes);
    text_finish(&excerpt);
}

static void append_example(struct text *page, const json_t *example, const char *score_name)
{
    double record = page_number(example, "record"), score = page_number(example, "score"),
           damage = page_number(example, "damage");
    text_append(page, "<div class=\"example\"><p class=\"note\">");
    append_excerpt(page, page_text(example, "source"), 80);
    if (isfinite(record)) {
        text_append_format(page, ", record %.0f", record);
    }
    if (isfinite(score)) {
        text_append(page, " &middot; ");
        text_append_html(page, score_name[0] != '\0' ? score_name : "score");
        text_append_format(page, " %.4g", score);
    }
    if (isfinite(damage)) {
        text_append_format(page, " &middot; damage %.4g nats", damage);
    }
    text_append(page, "</p><div class=\"pair\"><div class=\"quote\" dir=\"auto\">");
    append_excerpt(page, page_text(example, "instruction"), 360);
    text_append(page, page_text(example, "input")[0] != '\0' ? "\n\n" : "");
    append_excerpt(page, page_text(example, "input"), 360);
    text_append(page, "</div><div class=\"quote answer\" dir=\"auto\">");
    append_excerpt(page, page_text(example, "response"), 360);
    text_append(page, "</div></div></div>");
}

static void append_counts(struct text *page, const json_t *item)
{
    static const struct {
        const char *name, *after;
    } counts[] = {
        {"records", " records"},
        {"tokens", " tokens"},
        {"taken", " records chosen"},
        {"taken_tokens", " tokens chosen"},
        {"chosen", " chosen by their own merit"},
        {"refilled", " with budget that other clusters left"},
        {"despite", " chosen despite a conflict"},
        {"rejected", " rejected for a conflict"},
    };
    bool is_any = false;
    text_append(page, "<p class=\"note\">");
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        double value = page_number(item, counts[i].name);
        if (isfinite(value) && (value > 0 || i < 3)) {
            text_append(page, is_any ? " &middot; " : "");
            page_append_count(page, value);
            text_append(page, counts[i].after);
            is_any = true;
        }
    }
    double shrunk = page_number(item, "damage_shrunk");
    if (isfinite(shrunk)) {
        text_append_format(page, "%sdamage that the budget follows: %.4f nats", is_any ? " &middot; " : "",
                           shrunk);
    }
    text_append(page, "</p>");
}

static void append_cluster(struct text *page, const json_t *report, const struct clusters *clusters,
                           const struct cluster *cluster, bool is_open)
{
    const json_t *examples = json_object_get(cluster->item, "examples"), *example;
    text_append_format(page,
                       "<details%s><summary><i class=\"disc %s\"></i><b>%.0f</b><span class=\"count\">%.0f"
                       "<em> records</em></span>",
                       is_open ? " open" : "", tone_of(clusters, cluster->damage), cluster->number,
                       zero_if_unknown(cluster->records));
    if (isfinite(clusters->high)) {
        append_damage(page, clusters, cluster);
    }
    append_budget(page, clusters, cluster);
    text_append(page, "</summary>");
    append_counts(page, cluster->item);
    size_t index;
    json_array_foreach(examples, index, example)
    {
        if (index < EXAMPLES_SHOWN) {
            append_example(page, example, page_text(report, "score_name"));
        }
    }
    text_append(page, "</details>");
}

static void append_clusters(struct text *page, const json_t *report, const struct clusters *clusters)
{
    bool is_damage = isfinite(clusters->high);
    text_append_format(
        page,
        "<section><h2>Clusters%s</h2><div class=\"clusters%s\"><div class=\"names\"><span></span>"
        "<span>cluster</span><span class=\"count\">records</span>%s<span>share of the "
        "budget, and records chosen</span></div>",
        is_damage ? ", by damage" : "", is_damage ? "" : " plain",
        is_damage ? "<span>mean damage, nats</span>" : "");
    for (size_t i = 0; i < clusters->count; i++) {
        append_cluster(page, report, clusters, &clusters->items[i], i == 0);
    }
    text_append(page, "</div><p class=\"note\">");
    if (is_damage) {
        text_append(
            page,
            "The line across a bar of damage is the damage that the budget follows: small and scattered clusters are "
            "drawn towards the common mean. ");
    }
    text_append(
        page,
        "The line across a bar of budget is the cluster's part of all records that can be chosen: a bar that passes "
        "it is a cluster that is given more than its part.</p></section>");
}

void page_append_clusters(struct text *page, const json_t *report)
{
    struct clusters clusters = clusters_read(report);
    append_map(page, report, &clusters);
    if (clusters.count > 0) {
        append_clusters(page, report, &clusters);
    }
    clusters_finish(&clusters);
}
