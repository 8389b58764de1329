/* What report.html says of what went and of what was chosen, from the members of report.json that say it. */
#include "base/cleanup.h"
#include "base/json.h"
#include "base/text.h"
#include "workers/recipe/page.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* Two layers of 8 heads and 48 channels; removed of their 4 sublayers, narrowed FFNs, and residual channels kept (0: all). */
static json_t *make_report(const char *method, size_t removed, size_t narrowed, size_t hidden)
{
    json_t *layers = json_array();
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(json_array_append_new(layers, json_pack("{s:i, s:{s:i, s:i}, s:{s:i, s:i}}", "layer",
                                                                 (int)i, "attention", "heads", 8,
                                                                 "kept_heads", i < removed ? 0 : 8, "ffn",
                                                                 "of", 48, "kept", i < narrowed ? 32 : 48)),
                         0);
    }
    json_t *plan = json_pack("{s:[b, b], s:[], s:i}", "kept", 1, 1, "points", "removed_count", (int)removed);
    if (hidden > 0) {
        json_put_i64(plan, "hidden_count", (int64_t)hidden);
    }
    return json_pack("{s:s, s:{s:s, s:i}, s:{s:s}, s:{s:s, s:f, s:f, s:i}, s:o, s:o, s:{s:{s:i}}}", "type",
                     "pruning", "model", "name", "tiny", "hidden_size", 32, "method", "name", method,
                     "target", "kind", "sparsity", "requested", 0.25, "achieved", 0.26, "sublayers_removed",
                     (int)removed, "plan", plan, "layers", layers, "size", "before", "sublayers", 4);
}

static void the_page_says_what_went_however_it_went(void **state)
{
    (void)state;
    static const struct {
        const char *method;
        size_t removed, narrowed, hidden;
        const char *sentence;
    } rows[] = {
        {"finercut", 2, 0, 0, "finercut removed 2 of 4 sublayers. Target sparsity: 0.25 asked for"},
        {"finercut", 0, 0, 0, "finercut removed 0 of 4 sublayers. Target"},
        {"flap", 0, 2, 0, "flap narrowed 2 of 4 sublayers. Target"},
        {"combined", 1, 2, 0, "combined removed 1 and narrowed 2 of 4 sublayers. Target"},
        {"slicegpt", 0, 0, 24, "slicegpt kept 24 of 32 residual channels. Target"},
        {"minitron", 0, 1, 24,
         "minitron kept 24 of 32 residual channels and narrowed 1 of 4 sublayers. Target"},
        {"minitron", 2, 0, 24,
         "minitron kept 24 of 32 residual channels and removed 2 of 4 sublayers. Target"},
        {"minitron", 2, 1, 24,
         "minitron kept 24 of 32 residual channels and removed 2 and narrowed 1 of 4 sublayers. Target"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        JSON_OWNED report = make_report(rows[i].method, rows[i].removed, rows[i].narrowed, rows[i].hidden);
        assert_non_null(report);
        OWNED_MEMORY char *page = page_format(report);
        if (strstr(page, rows[i].sentence) == NULL) {
            const char *lead = strstr(page, "<p class=\"lead\">");
            fail_msg("row %zu: %.160s", i, lead != NULL ? lead : "no lead");
        }
    }
}

/* ---- selections --------------------------------------------------------------------------------------------------- */

/* As paser writes it (selection_report.c, clustering.c, method_paser.c, assembly.c), with other figures: three clusters, of which number 2 is the
 * most damaged and 1 the least; one point of the map belongs to none. */
static const char selection_json[] =
    "{'version':1,'type':'selection','name':'mine','request':{},'model':{'name':'tiny','sha256':'0a1b'},"
    "'pruned_model':{'name':'tiny-cut','sha256':'2c3d'},"
    "'embedding':{'kind':'states','name':'tiny','dimensions':64},"
    "'dataset':{'records':1250,'valid':1200,'left_out':{'empty_response':3,'long_prompt':2,'duplicate':45},"
    "'truncated':12,'tokens':180000,'template':'alpaca','max_tokens':512,'sources':["
    "{'name':'a.jsonl','records':850,'valid':800,'chosen':30,'tokens_chosen':4000},"
    "{'name':'b.jsonl','records':400,'valid':400,'chosen':70,'tokens_chosen':9000}]},"
    "'method':{'name':'paser','summary':'The summary.','reference':'The reference.','parameters':"
    "{'conflict':'graph','trim_ratio':0.01,'shrinks':true}},"
    "'budget':{'requested':{'samples':100},'unit':'samples','limit':100,'records':100,'tokens':13000},"
    "'score_name':'efficiency','clusters':["
    "{'records':600,'tokens':90000,'share':25,'taken':30,'taken_tokens':4000,'chosen':25,'refilled':5,'despite':0,"
    "'asked':32,'rejected':7,'damage':0.2,'damage_error':0.01,'damage_shrunk':0.22,'weight':0.22,'examples':["
    "{'source':'a.jsonl','record':11,'instruction':'ask-1','input':'','response':'say-1','score':0.5,'damage':0.6},"
    "{'source':'a.jsonl','record':12,'instruction':'ask-2','input':'','response':'say-2','score':0.4,'damage':0.5},"
    "{'source':'a.jsonl','record':13,'instruction':'ask-3','input':'','response':'say-3','score':0.3,'damage':0.4},"
    "{'source':'a.jsonl','record':14,'instruction':'ask-4','input':'','response':'say-4','score':0.2,'damage':0.3}]},"
    "{'records':400,'tokens':60000,'share':10,'taken':10,'taken_tokens':1300,'chosen':10,'refilled':0,'despite':0,"
    "'asked':10,'rejected':0,'damage':0.1,'damage_error':0.01,'damage_shrunk':0.12,'weight':0.12,'examples':[]},"
    "{'records':200,'tokens':30000,'share':65,'taken':60,'taken_tokens':7700,'chosen':56,'refilled':0,'despite':4,"
    "'asked':65,'rejected':9,'damage':0.4,'damage_error':0.02,'damage_shrunk':0.38,'weight':0.38,'examples':["
    "{'source':'b.jsonl','record':3,'instruction':'ask-5','input':'given','response':'say-5','score':0.9,"
    "'damage':0.8}]}],"
    "'details':{'compat':'mended','clustering':{'records':1200,'zero_rows':6,'notes':['first note','second note'],"
    "'neighbours':{'count':32,'search':'cells','recall':0.9875,'cells':40},"
    "'graph':{'edges':654,'components':1,'components_linked':3,'alpha':1.0},"
    "'spectrum':{'solver':'lanczos','products':77,'largest_residual':1e-9,'eigenvalues':[1.0,0.9,0.8,0.5,0.4]},"
    "'clusters':{'count':3,'wanted':3,'chosen_by':'eigengap','labels':'qr','gap':0.3}},"
    "'damage':{'mean':0.25,'between_variance':0.5,'within_variance':0.125},"
    "'sensitivity':[{'clusters':2,'agreement':0.75,'moved_ratio':0.0625,'shares':[25,75]},"
    "{'clusters':5,'agreement':0.5,'moved_ratio':0.125,'shares':[10,40,20,20,10]}],"
    "'conflicts':{'conflict':'graph','vertices':321,'edges':987,'asked':107,'rejected':16},"
    "'correlations':{'response_tokens':{'pearson':-0.25,'spearman':-0.5},'entropy':null},'source_agreement':0.1875},"
    "'map':{'points':[[0,0,0,0,0.2],[0.5,0.1,0,1,0.3],[2,1,1,0,0.1],[-1,2,2,1,0.4],[-1,2.5,2,0,0.4],[1,1,7,1,null]],"
    "'of':1200},"
    "'passes':{'original':{'cache':'hit','records':1200,'tokens':9000,'bytes':5000,'seconds':0.5},"
    "'pruned':{'cache':'off','records':1200,'tokens':9000,'bytes':4000,'seconds':70.25},"
    "'one_shot':{'cache':'off','records':1200,'bytes':3000,'seconds':7.5}},"
    "'resources':{'planned_memory_bytes':2000000,'peak_rss_bytes':1000000,'weights_streamed':false,"
    "'weight_bytes_read':5000,'machine':'x86','threads':2,'version':'1.0',"
    "'stage_seconds':{'inspect':0,'read':1.5,'search':0,'select':2.5}},'warnings':['a warning']}";

static json_t *make_selection(void)
{
    char text[sizeof selection_json];
    memcpy(text, selection_json, sizeof text);
    for (char *at = text; *at != '\0'; at++) {
        *at = *at == '\'' ? '"' : *at;
    }
    struct error error = {0};
    json_t *report = json_parse(text, strlen(text), sizeof text, &error);
    if (report == NULL) {
        fail_msg("%s", error.message);
    }
    return report;
}

/* Of a list of texts each stands after the one before it. */
static void assert_in_order(const char *page, const char *const *texts, size_t count)
{
    const char *at = page;
    for (size_t i = 0; i < count; i++) {
        const char *found = strstr(at, texts[i]);
        if (found == NULL) {
            fail_msg("\"%s\" is %s", texts[i], strstr(page, texts[i]) == NULL ? "missing" : "too early");
        }
        at = found + strlen(texts[i]);
    }
}

static size_t count_text(const char *page, const char *text)
{
    size_t count = 0;
    for (const char *at = strstr(page, text); at != NULL; at = strstr(at + 1, text)) {
        count++;
    }
    return count;
}

/* Every element is closed by its own end, attributes end, and nothing reads as a number that is none. */
static void assert_sound(const char *page, const char *what)
{
    enum { DEEPEST = 64, LONGEST = 16 };
    char open[DEEPEST][LONGEST];
    size_t depth = 0;
    static const char *const bad[] = {"nan", "inf ", "inf<", "inf%", "(null)", "-nan"};
    const char *body = strstr(page, "</style>");
    assert_non_null(body);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (strstr(body, bad[i]) != NULL) {
            fail_msg("%s: \"%s\" at %.60s", what, bad[i], strstr(body, bad[i]) - 30);
        }
    }
    for (const char *at = strchr(page, '<'); at != NULL; at = strchr(at, '<')) {
        bool is_end = at[1] == '/', is_quoted = false;
        const char *name = at + (is_end ? 2 : 1);
        size_t length = strcspn(name, " />");
        for (at = name; *at != '\0' && (is_quoted || *at != '>'); at++) {
            is_quoted = is_quoted != (*at == '"');
        }
        if (*at == '\0' || length >= LONGEST) {
            fail_msg("%s: an element without an end: %.40s", what, name);
        }
        bool is_single = name[0] == '!' || strncmp(name, "meta", 4) == 0 || at[-1] == '/';
        if (is_end) {
            if (depth == 0 || strncmp(open[depth - 1], name, length) != 0 ||
                open[depth - 1][length] != '\0') {
                fail_msg("%s: </%.*s> ends %s", what, (int)length, name,
                         depth > 0 ? open[depth - 1] : "nothing");
            }
            depth--;
        } else if (!is_single) {
            assert_true(depth < DEEPEST);
            memcpy(open[depth], name, length);
            open[depth++][length] = '\0';
        }
    }
    assert_int_equal(depth, 0);
}

static void every_piece_of_a_selection_has_its_place(void **state)
{
    (void)state;
    JSON_OWNED report = make_selection();
    OWNED_MEMORY char *page = page_format(report);
    static const char *const texts[] = {
        "<title>tiny, data for its recovery</title>",
        "paser chose 100 of 1200 records to recover tiny-cut with. Budget: 100 samples.",
        "a warning",
        "<b>100</b><span>records chosen of 1200</span>",
        "<b>13 k</b><span>tokens in them</span>",
        "<b>3</b><span>clusters</span>",
        "<b>0.2</b><span>mean damage of all records, nats</span>", /* (600 x 0.2 + 400 x 0.1 + 200 x 0.4) / 1200 */
        "What was left out",
        "Records read</td><td>1250",
        "The response is empty</td><td>&minus;3<",
        "is as long as a record may be</td><td>&minus;2<",
        "A copy of a record before it</td><td>&minus;45<",
        "Can be chosen</td><td><b>1200</b>",
        "12 responses lost their end, so that a record has at most 512 tokens.",
        "Map of the records",
        "cluster 2: 200 records, 60 chosen, mean damage 0.4 nats",
        "<span>0.1</span><span>0.25</span><span>0.4</span>",
        "6 of 1200 records, 3 of them chosen",
        "Clusters, by damage",
        "<details open><summary><i class=\"disc d8\"></i><b>2</b><span class=\"count\">200",
        "<i class=\"d8\" style=\"width:100.00%\"></i><s style=\"left:95.00%\"></s></span><b>0.4000</b>",
        "<i class=\"budget\" style=\"width:100.00%\"></i><s style=\"left:25.64%\"></s>", /* 200 / 1200 of 0.65 */
        "65.0 % <small>60</small>",
        "60 records chosen &middot; 7700 tokens chosen &middot; 56 chosen by their own merit &middot; 4 chosen despite",
        "9 rejected for a conflict",
        "b.jsonl, record 3",
        "efficiency 0.9",
        "damage 0.8 nats",
        "ask-5\n\ngiven</div>",
        "say-5",
        "<details><summary><i class=\"disc d3\"></i><b>0</b><span class=\"count\">600",
        "<i class=\"d3\" style=\"width:50.00%\"></i>",
        "25.0 % <small>30</small>",
        "5 with budget that other clusters left",
        "a.jsonl, record 11",
        "ask-3",
        "<details><summary><i class=\"disc d0\"></i><b>1</b><span class=\"count\">400",
        "Sources",
        "a.jsonl<small>850 records read, 4000 tokens chosen",
        "66.7 % <small>800</small>",
        "30.0 % <small>30</small>",
        "b.jsonl<small>400 records read, 9000 tokens chosen",
        "33.3 % <small>400</small>",
        "70.0 % <small>70</small>",
        "How many clusters",
        "the gap after 3 eigenvalues",
        ">3 clusters</text>",
        "eigenvalue 5: 0.4",
        "numbered from the largest. The gap is 0.3. Chosen by: eigengap",
        "tokens of the response</td><td>-0.250</td><td>-0.500</td>",
        "entropy of the original&#39;s predictions</td><td>&ndash;</td><td>&ndash;</td>",
        "zero rows</td><td>6",
        "notes</td><td>first note; second note",
        "Nearest neighbours found, of the true ones</td><td>98.75 %",
        "neighbours cells</td><td>40",
        "graph components linked</td><td>3",
        "spectrum solver</td><td>lanczos",
        "spectrum products</td><td>77",
        "clusters labels</td><td>qr",
        "conflicts vertices</td><td>321",
        "conflict with the chosen ones</td><td>107",
        "Rejected for a conflict</td><td>16",
        "adjusted Rand index; 1: the same)</td><td>0.1875",
        "original</td><td>1200</td><td>9000</td><td>0.5</td><td>reused<",
        "pruned</td><td>1200</td><td>9000</td><td>70.2</td><td>computed<",
        "one_shot</td><td>1200</td><td>&ndash;</td><td>7.5</td><td>computed<",
        "<tr><td>2</td><td><div class=\"stack\">",
        "title=\"75.0 %\"",
        "75.0 %</td><td>6.2 %</td><td>0.750</td>",
        "<b>3</b>, as chosen</td>",
        "65.0 %</td><td>&ndash;</td><td>&ndash;</td>",
        "<tr><td>5</td><td><div class=\"stack\">",
        "40.0 %</td><td>12.5 %</td><td>0.500</td>",
        "How the records were chosen",
        "The summary.",
        "The reference.",
        "parameter conflict</td><td>graph",
        "parameter trim ratio</td><td>1.00 %",
        "parameter shrinks</td><td>yes",
        "hidden states of tiny, 64 dimensions",
        "alpaca",
        "How these figures were made",
        "0a1b",
        "2c3d",
        "planned 2 MB, measured 1 MB",
        "read 1.5 s, select 2.5 s<",
    };
    assert_in_order(page, texts, sizeof texts / sizeof texts[0]);
    assert_sound(page, "the whole");
    const char *map = strstr(page, "<div class=\"map\">"), *gap = strstr(page, "How many clusters");
    OWNED_MEMORY char *figure = strndup(map, (size_t)(strstr(map, "</svg>") - map));
    assert_int_equal(count_text(figure, "<circle"), 3); /* the chosen points, one of which is of no cluster */
    assert_int_equal(count_text(figure, "h0"), 3);      /* the others */
    assert_int_equal(count_text(figure, "<text"), 3);
    assert_int_equal(count_text(gap, "<circle"), 5);
    assert_null(strstr(page, "ask-4")); /* three examples are enough */
    assert_null(strstr(page, "clusters gap"));
}

/* compat "published" (paser.c): so many clusters as were asked for, beside eigenvalues that rise from 0, perhaps above 1. */
static void eigenvalues_of_the_published_code_are_drawn(void **state)
{
    (void)state;
    JSON_OWNED report = make_selection();
    json_t *details = json_object_get(report, "details");
    json_t *clustering =
        json_pack("{s:f, s:i, s:[f, f, f]}", "bandwidth", 1.5, "clusters", 3, "eigenvalues", 0.0, 0.5, 1.25);
    assert_non_null(clustering);
    json_put(details, "clustering", clustering);
    json_put_text(details, "compat", "published");
    OWNED_MEMORY char *page = page_format(report);
    static const char *const texts[] = {
        "How many clusters",
        "y=\"204.00\" text-anchor=\"end\">0</text>",
        "y=\"18.00\" text-anchor=\"end\">1.25</text>",
        "cy=\"200.00\"",
        "eigenvalue 1: 0<",
        "cy=\"125.60\"",
        "eigenvalue 2: 0.5<",
        "cy=\"14.00\" r=\"5\" fill=\"var(--keep)\"",
        "eigenvalue 3: 1.25<",
        "Smallest eigenvalues of the Laplacian",
        "compat</td><td>published",
        "bandwidth</td><td>1.5",
        "clusters</td><td>3<",
    };
    assert_in_order(page, texts, sizeof texts / sizeof texts[0]);
    assert_null(strstr(page, "numbered from the largest"));
    assert_null(strstr(page, "Chosen by"));
    assert_sound(page, "published");
}

/* Every text of a report, names of members that are the report's own words too. */
static json_t *make_hostile(const json_t *value, const char *text)
{
    if (json_is_string(value)) {
        return json_string(text);
    }
    json_t *copy = json_is_object(value)  ? json_object()
                   : json_is_array(value) ? json_array()
                                          : json_deep_copy(value);
    const char *name;
    size_t index;
    json_t *member;
    json_object_foreach((json_t *)(uintptr_t)value, name, member)
    {
        json_put(copy, name, make_hostile(member, text));
    }
    if (json_is_array(value)) {
        json_array_foreach(value, index, member)
        {
            assert_int_equal(json_array_append_new(copy, make_hostile(member, text)), 0);
        }
    }
    return copy;
}

static void foreign_text_stays_text(void **state)
{
    (void)state;
    static const char hostile[] = "\"'><script>x</script>&amp;";
    JSON_OWNED plain = make_selection();
    JSON_OWNED report = make_hostile(plain, hostile);
    json_put_text(report, "type", "selection");
    json_t *dataset = json_object_get(report, "dataset"), *details = json_object_get(report, "details");
    json_put_i64(json_object_get(dataset, "left_out"), hostile, 1);
    json_put_i64(details, hostile, 1);
    json_put(json_object_get(details, "correlations"), hostile, json_object());
    json_put(json_object_get(report, "passes"), hostile, json_object());
    json_put_i64(json_object_get(json_object_get(report, "budget"), "requested"), hostile, 1);
    json_put_i64(json_object_get(json_object_get(report, "resources"), "stage_seconds"), hostile, 1);
    OWNED_MEMORY char *page = page_format(report);
    assert_sound(page, "hostile");
    assert_null(strstr(page, "<script"));
    assert_null(strstr(page, "\"'>"));
    static const char escaped[] = "&quot;&#39;&gt;&lt;script&gt;x&lt;/script&gt;&amp;amp;";
    static const char *const places[] = {
        "<title>",
        "<h1>",
        "to recover ",
        "Budget: 1 ",
        "<li>",
        "<div class=\"quote\" dir=\"auto\">",
        "<div class=\"quote answer\" dir=\"auto\">",
        "<span class=\"name\">",
        "Chosen by: ",
        "Reference</td><td>",
        "hidden states of ",
    };
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        struct text expected = {0};
        text_append(&expected, places[i]);
        text_append(&expected, escaped);
        if (strstr(page, expected.bytes) == NULL) {
            fail_msg("nothing escaped after %s", places[i]);
        }
        text_finish(&expected);
    }
}

static void long_texts_are_cut_between_characters(void **state)
{
    (void)state;
    enum { WHOLE = 360 };
    for (size_t more = 0; more < 2; more++) {
        struct text text = {0}, expected = {0};
        text_append(&expected, ">");
        for (size_t i = 0; i < WHOLE + more; i++) {
            text_append(&text, "é");
            text_append(&expected, i < WHOLE ? "é" : "…");
        }
        text_append(&expected, "</div>");
        JSON_OWNED report = make_selection();
        json_t *cluster = json_array_get(json_object_get(report, "clusters"), 0);
        json_put_text(json_array_get(json_object_get(cluster, "examples"), 0), "instruction", text.bytes);
        OWNED_MEMORY char *page = page_format(report);
        assert_non_null(strstr(page, expected.bytes));
        text_finish(&text);
        text_finish(&expected);
    }
}

/* Takes away one member after another of a part of the report, and then gives it as null. */
static void try_without(json_t *report, json_t *part)
{
    JSON_OWNED names = json_array();
    const char *name;
    size_t index;
    json_t *value;
    if (json_is_array(part)) {
        json_array_foreach(part, index, value)
        {
            try_without(report, value);
        }
        return;
    }
    json_object_foreach(part, name, value)
    {
        assert_int_equal(json_array_append_new(names, json_string(name)), 0);
    }
    json_t *text;
    json_array_foreach(names, index, text)
    {
        name = json_string_value(text);
        if (part == report && strcmp(name, "type") == 0) {
            continue;
        }
        JSON_OWNED kept = json_incref(json_object_get(part, name));
        (void)json_object_del(part, name);
        OWNED_MEMORY char *page = page_format(report);
        assert_sound(page, name);
        json_put(part, name, json_null());
        OWNED_MEMORY char *null_page = page_format(report);
        assert_sound(null_page, name);
        (void)json_object_set(part, name, kept);
        try_without(report, kept);
    }
}

static void any_member_of_a_selection_may_be_missing(void **state)
{
    (void)state;
    JSON_OWNED report = make_selection();
    try_without(report, report);
    JSON_OWNED nothing = json_pack("{s:s}", "type", "selection");
    OWNED_MEMORY char *page = page_format(nothing);
    assert_sound(page, "nothing");
    assert_int_equal(count_text(page, "<section>"), 1); /* how it was made */
}

static void a_selection_without_clusters_is_a_simple_page(void **state)
{
    (void)state;
    static const char *const members[] = {"clusters",     "map",       "details",   "passes",
                                          "pruned_model", "embedding", "score_name"};
    JSON_OWNED report = make_selection();
    for (size_t i = 0; i < sizeof members / sizeof members[0]; i++) {
        json_put(report, members[i], json_null());
    }
    OWNED_MEMORY char *page = page_format(report);
    static const char *const texts[] = {"chose 100 of 1200 records. Budget",
                                        "<b>100</b>",
                                        "<b>13 k</b>",
                                        "What was left out",
                                        "Sources",
                                        "How the records were chosen",
                                        "How these figures were made"};
    assert_in_order(page, texts, sizeof texts / sizeof texts[0]);
    assert_sound(page, "no clusters");
    assert_int_equal(count_text(page, "<section"), 5); /* with the warnings */
    assert_int_equal(count_text(page, "class=\"tile\""), 2);
    assert_null(strstr(page, "<svg"));
    assert_null(strstr(page, "<details"));
}

/* Damage is what some methods know nothing of; of clusters all alike, and of records all in one place, there is still a picture. */
static void clusters_without_differences_are_drawn(void **state)
{
    (void)state;
    for (size_t is_known = 0; is_known < 2; is_known++) {
        JSON_OWNED report = make_selection();
        size_t index;
        json_t *item;
        const json_t *clustering = json_object_get(json_object_get(report, "details"), "clustering");
        json_array_foreach(json_object_get(report, "clusters"), index, item)
        {
            json_put(item, "damage", is_known ? json_real(0) : json_null());
        }
        json_array_foreach(json_object_get(json_object_get(report, "map"), "points"), index, item)
        {
            (void)json_array_set_new(item, 0, json_real(0.5));
            (void)json_array_set_new(item, 1, json_real(-1e300));
        }
        json_array_foreach(json_object_get(json_object_get(clustering, "spectrum"), "eigenvalues"), index,
                           item)
        {
            (void)json_real_set(item, 1);
        }
        OWNED_MEMORY char *page = page_format(report);
        assert_sound(page, is_known ? "equal" : "unknown");
        assert_int_equal(count_text(page, "<span class=\"cell\"><em>damage"), is_known ? 3 : 0);
        assert_int_equal(count_text(page, "mean damage of all records"), is_known ? 1 : 0);
        assert_int_equal(count_text(page, "<div class=\"scale\">"), 0);
        assert_int_equal(count_text(page, "<circle cx=\"320.0\" cy=\"60.0\""), 3);
        const char *const numbers[] = {"</i><b>0</b>", "25.0 % <small>30</small>",
                                       "</i><b>1</b>", "10.0 % <small>10</small>",
                                       "</i><b>2</b>", "65.0 % <small>60</small>"};
        assert_in_order(page, numbers, sizeof numbers / sizeof numbers[0]);
    }
}

static void other_pages_know_nothing_of_selections(void **state)
{
    (void)state;
    JSON_OWNED report = make_report("finercut", 2, 0, 0);
    OWNED_MEMORY char *page = page_format(report);
    assert_non_null(strstr(page, "<title>tiny, pruned</title>"));
    assert_null(strstr(page, ".clusters"));
    assert_null(strstr(page, ".sources"));
}

int main(void)
{
    json_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_page_says_what_went_however_it_went),
        cmocka_unit_test(every_piece_of_a_selection_has_its_place),
        cmocka_unit_test(eigenvalues_of_the_published_code_are_drawn),
        cmocka_unit_test(foreign_text_stays_text),
        cmocka_unit_test(long_texts_are_cut_between_characters),
        cmocka_unit_test(any_member_of_a_selection_may_be_missing),
        cmocka_unit_test(a_selection_without_clusters_is_a_simple_page),
        cmocka_unit_test(clusters_without_differences_are_drawn),
        cmocka_unit_test(other_pages_know_nothing_of_selections),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
