/* workers/recipe/selection_report.c: what a selection job leaves behind. selected.jsonl, scores.jsonl and request.json are the same bytes in
 * every run; report.json and report.html also carry times and memory. */
#include "workers/recipe/selection.h"

#include "base/check.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"
#include "workers/model/architecture.h"
#include "workers/recipe/page.h"
#include "workers/recipe/report.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAP_POINTS    4000
#define EXAMPLE_BYTES 600

static const char *const reason_names[] = {"not_chosen", "chosen",   "refilled",
                                           "despite",    "rejected", "filtered"};

/* ---- files ------------------------------------------------------------------------------------------------------- */

/* The record's own JSON on one line: what lies between its parts may be anything blank. */
static void append_record(struct text *lines, const struct instructions *set,
                          const struct instruction_record *record)
{
    for (uint64_t i = 0; i < record->byte_count; i++) {
        char c = set->bytes[record->first_byte + i];
        text_append_bytes(lines, c == '\n' || c == '\r' ? " " : &c, 1);
    }
    text_append_bytes(lines, "\n", 1);
}

static bool save_lines(const struct recipe *recipe, const char *name, const struct text *lines,
                       struct error *error)
{
    OWNED_MEMORY char *path = file_join(recipe->out_folder, name);
    return file_save(path, lines->bytes != NULL ? lines->bytes : "", lines->length, 0644, error);
}

static bool write_selected(const struct recipe *recipe, struct error *error)
{
    const struct selection_job *selection = recipe->selection;
    FINISHED(text) lines = {0};
    for (size_t i = 0; i < selection->selection->chosen_count; i++) {
        size_t item = selection->dataset.candidates->valid[selection->selection->order[i]];
        append_record(&lines, selection->dataset.sets[selection->dataset.candidates->items[item].source],
                      candidates_record(selection->dataset.candidates, item));
    }
    return save_lines(recipe, "selected.jsonl", &lines, error);
}

static void put_place_of(json_t *object, const struct candidates *candidates, const struct candidate *item)
{
    json_put_text(object, "source", candidates->sets[item->source]->name);
    json_put_i64(object, "record", (int64_t)item->record + 1);
}

static void put_place(json_t *object, const struct selection_job *selection, const struct candidate *item)
{
    put_place_of(object, selection->dataset.candidates, item);
}

static void put_known(json_t *object, const char *name, const double *column, size_t index)
{
    if (column != NULL) {
        json_put_double(object, name, column[index]);
    }
}

/* Every record of the data set, in its order, with what is known of it. */
static bool write_scores(const struct recipe *recipe, struct error *error)
{
    const struct selection_job *selection = recipe->selection;
    const struct selection *chosen = selection->selection;
    const struct candidates *candidates = selection->dataset.candidates;
    FINISHED(text) lines = {0};
    OWNED_MEMORY size_t *ranks = memory_try_array(chosen->count, sizeof *ranks, "ranks of records", error);
    if (ranks == NULL) {
        return false;
    }
    for (size_t i = 0; i < chosen->chosen_count; i++) {
        ranks[chosen->order[i]] = i + 1;
    }
    for (size_t i = 0, v = 0; i < candidates->item_count; i++) {
        const struct candidate *item = &candidates->items[i];
        JSON_OWNED line = json_object();
        put_place(line, selection, item);
        json_put_i64(line, "prompt_tokens", item->prompt_count);
        json_put_i64(line, "response_tokens", item->response_count);
        if (item->status != CANDIDATE_VALID) {
            json_put_text(line, "status", candidate_status_names[item->status]);
            if (item->status == CANDIDATE_DUPLICATE) {
                json_t *original = json_object();
                put_place(original, selection, &candidates->items[item->copy_of]);
                json_put(line, "copy_of", original);
            }
        } else {
            json_put_text(line, "status", reason_names[chosen->reasons[v]]);
            json_put(line, "is_truncated", json_boolean(item->is_truncated));
            json_put_double(line, "score", chosen->scores[v]);
            if (ranks[v] > 0) {
                json_put_i64(line, "rank", (int64_t)ranks[v]);
            }
            if (chosen->labels != NULL) {
                json_put_i64(line, "cluster", chosen->labels[v]);
            }
            put_known(line, "damage", selection->damages, v);
            put_known(line, "entropy", selection->entropies, v);
            put_known(line, "loss", selection->losses, v);
            put_known(line, "loss_alone", selection->alone_losses, v);
            put_known(line, "el2n", selection->el2n, v);
            put_known(line, "effort", selection->efforts, v);
            v++;
        }
        OWNED_MEMORY char *text = json_format(line, false);
        text_append(&lines, text);
        text_append(&lines, "\n");
    }
    return save_lines(recipe, "scores.jsonl", &lines, error);
}

static bool write_masks(const struct recipe *recipe, struct error *error)
{
    const struct selection_job *selection = recipe->selection;
    FINISHED(text) lines = {0};
    if (selection->selection->is_token_pruned == NULL) {
        return true;
    }
    json_t *counts = json_object();
    json_put(selection->selection->details, "token_masks", counts);
    return selection_format_masks(selection, &lines, counts, error) &&
           save_lines(recipe, "token_masks.jsonl", &lines, error);
}

/* ---- request.json ------------------------------------------------------------------------------------------------ */

static json_t *format_request(const struct recipe *recipe)
{
    const struct selection_job *selection = recipe->selection;
    json_t *request = json_deep_copy(recipe->spec), *resolved = json_object(), *sources = json_array();
    json_put_text(resolved, "model_sha256", recipe->model_sha256);
    if (selection->pruned.inventory != NULL) {
        json_put_text(resolved, "pruned_model_sha256", selection->pruned.sha256);
    }
    if (selection->encoder.inventory != NULL) {
        json_put_text(resolved, "embedding_model_sha256", selection->encoder.sha256);
    }
    json_put_text(resolved, "backend", recipe->machine.backend);
    json_put_text(resolved, "tokenizer_sha256", tokenizer_sha256(recipe->tokenizer));
    json_put_text(resolved, "records_sha256", selection->dataset.candidates->sha256);
    for (size_t i = 0; i < selection->dataset.count; i++) {
        const struct instruction_fields *fields = &selection->dataset.sets[i]->fields;
        json_t *source = json_object();
        json_put_text(source, "name", selection->dataset.sets[i]->name);
        json_put_text(source, "sha256", selection->dataset.sets[i]->sha256);
        json_put_text(source, "messages", fields->messages);
        json_put_text(source, "instruction", fields->instruction);
        json_put_text(source, "input", fields->input);
        json_put_text(source, "response", fields->response);
        CHECK(json_array_append_new(sources, source) == 0);
    }
    json_put(resolved, "sources", sources);
    json_put(request, "_resolved", resolved);
    return request;
}

/* ---- report.json ------------------------------------------------------------------------------------------------- */

static json_t *format_dataset(const struct selection_job *selection)
{
    const struct candidates *candidates = selection->dataset.candidates;
    const struct selection *chosen = selection->selection;
    json_t *dataset = json_object(), *left_out = json_object(), *sources = json_array();
    size_t valid[SELECTION_SOURCES_MAX] = {0}, all[SELECTION_SOURCES_MAX] = {0};
    size_t taken[SELECTION_SOURCES_MAX] = {0};
    uint64_t tokens[SELECTION_SOURCES_MAX] = {0};
    for (size_t i = 0; i < candidates->item_count; i++) {
        all[candidates->items[i].source]++;
    }
    for (size_t v = 0; v < candidates->valid_count; v++) {
        valid[candidates->items[candidates->valid[v]].source]++;
    }
    for (size_t i = 0; i < chosen->chosen_count; i++) {
        const struct candidate *item = &candidates->items[candidates->valid[chosen->order[i]]];
        taken[item->source]++;
        tokens[item->source] += (uint64_t)item->prompt_count + item->response_count;
    }
    for (size_t i = 0; i < selection->dataset.count; i++) {
        json_t *source = json_object();
        json_put_text(source, "name", selection->dataset.sets[i]->name);
        json_put_text(source, "sha256", selection->dataset.sets[i]->sha256);
        json_put_i64(source, "records", (int64_t)all[i]);
        json_put_i64(source, "valid", (int64_t)valid[i]);
        json_put_i64(source, "chosen", (int64_t)taken[i]);
        json_put_i64(source, "tokens_chosen", (int64_t)tokens[i]);
        CHECK(json_array_append_new(sources, source) == 0);
    }
    json_put_i64(dataset, "records", (int64_t)candidates->item_count);
    json_put_i64(dataset, "valid", (int64_t)candidates->valid_count);
    for (size_t status = CANDIDATE_VALID + 1; status < CANDIDATE_STATUS_COUNT; status++) {
        json_put_i64(left_out, candidate_status_names[status], (int64_t)candidates->status_counts[status]);
    }
    json_put(dataset, "left_out", left_out);
    json_put_i64(dataset, "truncated", (int64_t)candidates->truncated_count);
    json_put_i64(dataset, "tokens", (int64_t)candidates->valid_tokens);
    json_put_text(dataset, "template", selection->form.name);
    json_put_i64(dataset, "max_tokens", (int64_t)selection->max_tokens);
    json_put(dataset, "sources", sources);
    return dataset;
}

static json_t *cut_text(const char *text)
{
    size_t length = strlen(text);
    if (length <= EXAMPLE_BYTES) {
        return json_string(text);
    }
    size_t end = EXAMPLE_BYTES;
    while (end > 0 && ((unsigned char)text[end] & 0xc0) == 0x80) {
        end--;
    }
    FINISHED(text) cut = {0};
    text_append_bytes(&cut, text, end);
    text_append(&cut, "\xe2\x80\xa6");
    return json_string(cut.bytes);
}

/* Examples come as indices and leave in their own words. */
static json_t *format_clusters(const struct selection_job *selection)
{
    json_t *clusters = json_deep_copy(selection->selection->clusters);
    size_t c, e;
    json_t *cluster, *example;
    json_array_foreach(clusters, c, cluster)
    {
        json_t *examples = json_array();
        json_array_foreach(json_object_get(cluster, "examples"), e, example)
        {
            size_t v = (size_t)json_integer_value(example);
            size_t item = selection->dataset.candidates->valid[v];
            const struct instruction_record *record = candidates_record(selection->dataset.candidates, item);
            json_t *shown = json_object();
            put_place(shown, selection, &selection->dataset.candidates->items[item]);
            json_put(shown, "instruction", cut_text(record->instruction));
            json_put(shown, "input", cut_text(record->input));
            json_put(shown, "response", cut_text(record->response));
            json_put_double(shown, "score", selection->selection->scores[v]);
            put_known(shown, "damage", selection->damages, v);
            CHECK(json_array_append_new(examples, shown) == 0);
        }
        json_put(cluster, "examples", examples);
    }
    return clusters;
}

/* Every so manieth record: a picture, not a list. */
static json_t *format_map(const struct selection_job *selection)
{
    const struct selection *chosen = selection->selection;
    if (chosen->map == NULL || chosen->count == 0) {
        return NULL;
    }
    json_t *map = json_object(), *points = json_array();
    size_t shown = chosen->count < MAP_POINTS ? chosen->count : MAP_POINTS;
    for (size_t i = 0; i < shown; i++) {
        size_t v = (size_t)((uint64_t)i * chosen->count / shown);
        bool is_chosen = chosen->reasons[v] == SELECT_CHOSEN || chosen->reasons[v] == SELECT_REFILLED ||
                         chosen->reasons[v] == SELECT_DESPITE;
        json_t *point = json_array();
        double x = round((double)chosen->map[2 * v] * 1e5) / 1e5;
        double y = round((double)chosen->map[2 * v + 1] * 1e5) / 1e5;
        CHECK(json_array_append_new(point, json_real(x)) == 0 &&
              json_array_append_new(point, json_real(y)) == 0 &&
              json_array_append_new(point, json_integer(chosen->labels != NULL ? chosen->labels[v] : 0)) ==
                  0 &&
              json_array_append_new(point, json_integer(is_chosen)) == 0 &&
              json_array_append_new(point, selection->damages != NULL ? json_real(selection->damages[v])
                                                                      : json_null()) == 0);
        CHECK(json_array_append_new(points, point) == 0);
    }
    json_put(map, "points", points);
    json_put_i64(map, "of", (int64_t)chosen->count);
    return map;
}

/* tokens: that went through the model, 0: not known. */
static json_t *format_pass(const struct recipe *recipe, const struct selection_pass *pass, const char *cache,
                           uint64_t tokens)
{
    if (pass->fd < 0) {
        return NULL;
    }
    json_t *object = json_object();
    json_put_text(object, "cache", cache);
    json_put_i64(object, "records", (int64_t)recipe->selection->dataset.candidates->valid_count);
    if (tokens > 0) {
        json_put_i64(object, "tokens", (int64_t)tokens);
    }
    json_put_i64(object, "bytes", (int64_t)pass->layout.bytes);
    json_put_double(object, "seconds", pass->seconds);
    return object;
}

static json_t *format_model(const struct selection_model *model)
{
    if (model->inventory == NULL) {
        return NULL;
    }
    json_t *object = json_object();
    json_put_text(object, "name", model->name);
    json_put_text(object, "sha256", model->sha256);
    json_put_text(object, "architecture", model->inventory->config.model_type);
    json_put_i64(object, "parameters", (int64_t)model->inventory->parameter_count);
    json_put_i64(object, "weight_bytes", (int64_t)model->inventory->weight_bytes);
    return object;
}

static json_t *format_budget(const struct recipe *recipe)
{
    const struct selection_job *selection = recipe->selection;
    json_t *budget = json_object();
    uint64_t tokens = 0;
    for (size_t i = 0; i < selection->selection->chosen_count; i++) {
        const struct candidate *item =
            &selection->dataset.candidates
                 ->items[selection->dataset.candidates->valid[selection->selection->order[i]]];
        tokens += (uint64_t)item->prompt_count + item->response_count;
    }
    json_put(budget, "requested", json_incref(json_object_get(recipe->spec, "budget")));
    json_put_text(budget, "unit", selection->budget.unit == BUDGET_TOKENS ? "tokens" : "samples");
    json_put_i64(budget, "limit", (int64_t)selection->budget.limit);
    json_put_i64(budget, "records", (int64_t)selection->selection->chosen_count);
    json_put_i64(budget, "tokens", (int64_t)tokens);
    return budget;
}

static json_t *format_method(const struct recipe *recipe)
{
    const struct selection_job *selection = recipe->selection;
    json_t *method = json_object();
    json_put_text(method, "name", selection->method->name);
    json_put_text(method, "summary", selection->method->summary);
    json_put_text(method, "reference", selection->method->reference);
    json_put(method, "parameters", json_deep_copy(selection->parameters));
    return method;
}

static json_t *format_embedding(const struct recipe *recipe)
{
    const struct selection_job *selection = recipe->selection;
    if (selection->dataset.embeddings == NULL) {
        return NULL;
    }
    bool is_given = selection->encoder.inventory != NULL;
    bool is_encoder = is_given && architecture_of(&selection->encoder.inventory->config)->is_encoder;
    json_t *embedding = json_object();
    json_put_text(embedding, "kind", is_encoder ? "encoder" : "states");
    json_put_text(embedding, "name", is_given ? selection->encoder.name : recipe->model_name);
    json_put_i64(embedding, "dimensions", (int64_t)selection->embedding_size);
    return embedding;
}

/* In the order in which they were asked. */
static json_t *format_anchors(const struct selection_job *selection)
{
    json_t *anchors = selection->anchor_count > 0 ? json_array() : NULL;
    for (size_t j = 0; j < selection->anchor_count; j++) {
        json_t *anchor = json_object();
        put_place_of(anchor, selection->anchors[j].set, selection->anchors[j].item);
        CHECK(json_array_append_new(anchors, anchor) == 0);
    }
    return anchors;
}

static json_t *format_report(const struct recipe *recipe)
{
    const struct selection_job *selection = recipe->selection;
    json_t *report = json_object(), *passes = json_object();
    json_put_i64(report, "version", 1);
    json_put_text(report, "type", "selection");
    json_put_text(report, "name", json_string_value(json_object_get(recipe->spec, "name")));
    json_put(report, "request", json_incref(recipe->spec));
    json_put(report, "model", report_format_model(recipe));
    json_put(report, "pruned_model", format_model(&selection->pruned));
    json_put(report, "embedding_model", format_model(&selection->encoder));
    json_put(report, "embedding", format_embedding(recipe));
    json_put(report, "dataset", format_dataset(selection));
    json_put(report, "method", format_method(recipe));
    json_put(report, "budget", format_budget(recipe));
    json_put_text(report, "score_name", selection->selection->score_name);
    json_put(report, "clusters", format_clusters(selection));
    json_put(report, "details", json_incref(selection->selection->details));
    json_put(report, "map", format_map(selection));
    json_put(report, "anchors", format_anchors(selection));
    uint64_t tokens = selection->dataset.candidates->valid_tokens;
    json_put(passes, "original",
             format_pass(recipe, &selection->original,
                         recipe->job->cache_folder == NULL   ? "off"
                         : selection->original.is_from_cache ? "hit"
                                                             : "miss",
                         tokens));
    json_put(passes, "pruned", format_pass(recipe, &selection->damaged, "off", tokens));
    json_put(passes, "one_shot",
             format_pass(recipe, &selection->asking, "off", 0)); /* each record many times */
    json_put(report, "passes", passes);
    json_put(report, "resources", report_format_resources(recipe));
    json_put(report, "warnings", json_incref(recipe->warnings));
    return report;
}

static json_t *format_result(const json_t *report)
{
    json_t *result = json_object();
    static const char *const copied[] = {"dataset", "budget", "embedding", "passes"};
    for (size_t i = 0; i < sizeof copied / sizeof copied[0]; i++) {
        json_put(result, copied[i], json_incref(json_object_get(report, copied[i])));
    }
    json_put(result, "method", json_incref(json_object_get(json_object_get(report, "method"), "name")));
    json_put_i64(result, "clusters", (int64_t)json_array_size(json_object_get(report, "clusters")));
    return result;
}

bool selection_export(struct recipe *recipe, json_t **ret_result, struct error *error)
{
    if (!file_remove_tree(recipe->out_folder, error) || !file_make_folders(recipe->out_folder, 0755, error)) {
        return false;
    }
    if (!write_masks(recipe, error)) {
        return false;
    }
    JSON_OWNED request = format_request(recipe);
    JSON_OWNED report = format_report(recipe);
    OWNED_MEMORY char *page = page_format(report);
    if (!write_selected(recipe, error) || !write_scores(recipe, error) ||
        !report_save_json(recipe, "request.json", request, error) ||
        !report_save_json(recipe, "report.json", report, error) ||
        !report_save_text(recipe, "report.html", page, error)) {
        return false;
    }
    *ret_result = format_result(report);
    return true;
}
