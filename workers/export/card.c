/*
 * workers/export/card.c: README.md, the model card (ecosystem 3.2): front matter that hubs read, then what
 * was done, what it cost, and how to open it. Only figures that are the same in every run stand here.
 */
#include "workers/export/export.h"

#include "base/check.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"
#include <ctype.h>
#include <string.h>

#define README_LIMIT_BYTES (1u << 20)

char *export_read_license(const char *source_path)
{
    OWNED_MEMORY char *source_folder = inventory_folder(source_path);
    OWNED_MEMORY char *path = file_join(source_folder, "README.md");
    size_t count = 0;
    OWNED_MEMORY char *bytes = file_exists(path) ? file_load(path, README_LIMIT_BYTES, &count, NULL) : NULL;
    if (bytes == NULL || !text_starts_with(bytes, "---\n")) {
        return NULL;
    }
    char *end = strstr(bytes + 4, "\n---");
    if (end == NULL) {
        return NULL;
    }
    *end = '\0';
    const char *line = strstr(bytes, "\nlicense:");
    if (line == NULL) {
        return NULL;
    }
    line += strlen("\nlicense:");
    while (*line == ' ') {
        line++;
    }
    struct text license = {0};
    for (; *line != '\0' && *line != '\n' && license.length < 64; line++) {
        if (isalnum((unsigned char)*line) || strchr("-._+", *line) != NULL) {
            text_append_bytes(&license, line, 1);
        }
    }
    return text_take(&license);
}

/* A name as a quoted YAML scalar, one line. */
static void append_yaml_text(struct text *card, const char *text)
{
    OWNED_MEMORY char *quoted = NULL;
    JSON_OWNED wrapper = json_object();
    json_put_text(wrapper, "v", text);
    quoted = json_format(wrapper, false);
    size_t length = strlen(quoted); /* {"v":"..."} */
    text_append_bytes(card, quoted + 5, length - 6);
}

static double find_perplexity(const json_t *evaluation, const char *protocol)
{
    const json_t *measured = json_object_get(json_object_get(evaluation, "perplexity"), protocol);
    const json_t *value = json_object_get(measured, "perplexity");
    return json_is_number(value) ? json_number_value(value) : -1;
}

static void append_front_matter(struct text *card, const struct export_card *content)
{
    text_append(card, "---\nbase_model:\n- ");
    append_yaml_text(card, content->model_name);
    text_append(card, "\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- pruned\n");
    text_append_format(card, "- %s\n", content->method);
    if (content->license != NULL && content->license[0] != '\0') {
        text_append_format(card, "license: %s\n", content->license);
    }
    double perplexity = find_perplexity(content->after, "gptq");
    const char *dataset =
        json_string_value(json_object_get(json_object_get(content->after, "dataset"), "name"));
    if (perplexity >= 0 && dataset != NULL) {
        text_append(card, "model-index:\n- name: ");
        append_yaml_text(card, content->model_name);
        text_append(card, "\n  results:\n  - task:\n      type: text-generation\n    dataset:\n      type: "
                          "text\n      name: ");
        append_yaml_text(card, dataset);
        text_append_format(card, "\n    metrics:\n    - type: perplexity\n      value: %.6g\n", perplexity);
    }
    text_append(card, "---\n\n");
}

static void append_count_row(struct text *card, const json_t *summary, const char *label, const char *key)
{
    const json_t *before = json_object_get(json_object_get(summary, "before"), key);
    const json_t *after = json_object_get(json_object_get(summary, "after"), key);
    if (json_is_integer(before) && json_is_integer(after)) {
        text_append_format(card, "| %s | %" JSON_INTEGER_FORMAT " | %" JSON_INTEGER_FORMAT " |\n", label,
                           json_integer_value(before), json_integer_value(after));
    }
}

static void append_table(struct text *card, const struct export_card *content)
{
    text_append(card, "| | before | after |\n|---|---|---|\n");
    append_count_row(card, content->summary, "parameters", "parameters");
    append_count_row(card, content->summary, "weight bytes", "weight_bytes");
    append_count_row(card, content->summary, "blocks", "blocks");
    append_count_row(card, content->summary, "sublayers", "sublayers");
    static const char *const protocols[] = {"gptq", "rolling"};
    for (size_t i = 0; i < 2; i++) {
        double before = find_perplexity(content->before, protocols[i]);
        double after = find_perplexity(content->after, protocols[i]);
        if (before >= 0 && after >= 0) {
            text_append_format(card, "| perplexity (%s) | %.6g | %.6g |\n", protocols[i], before, after);
        }
    }
    const json_t *tasks = json_object_get(content->after, "tasks");
    for (size_t i = 0; i < json_array_size(tasks); i++) {
        const json_t *after = json_array_get(tasks, i);
        const json_t *before = json_array_get(json_object_get(content->before, "tasks"), i);
        text_append_format(card, "| %s | %.4f | %.4f |\n", json_string_value(json_object_get(after, "name")),
                           json_number_value(json_object_get(before, "accuracy")),
                           json_number_value(json_object_get(after, "accuracy")));
    }
    text_append(card, "\n");
}

static void append_body(struct text *card, const struct export_card *content)
{
    text_append_format(card, "# %s, pruned\n\n", content->model_name);
    text_append_format(card,
                       "Made smaller with `%s` (%s). What was removed stands in `plan.json`, all figures in "
                       "`report.json` and `report.html`.\n\n",
                       content->method, content->method_reference);
    append_table(card, content);
    bool is_remote = false;
    const json_t *loader;
    size_t index;
    json_array_foreach(content->loaders, index, loader)
    {
        const char *line = json_string_value(json_object_get(loader, "line"));
        is_remote = is_remote || (line != NULL && strstr(line, "trust_remote_code") != NULL);
    }
    const char *option = is_remote ? ", trust_remote_code=True" : "";
    text_append_format(
        card,
        "## Open it\n\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        "model = AutoModelForCausalLM.from_pretrained(folder%s)\n"
        "tokenizer = AutoTokenizer.from_pretrained(folder%s)\n```\n\n",
        option, option);
    text_append(
        card, "What each runtime does with it (verified: run by our tests; by_rule: by what is known of its "
              "code):\n\n");
    json_array_foreach(content->loaders, index, loader)
    {
        const char *line = json_string_value(json_object_get(loader, "line"));
        text_append_format(card, "- %s: %s (%s): %s%s%s%s\n",
                           json_string_value(json_object_get(loader, "loader")),
                           json_string_value(json_object_get(loader, "verdict")),
                           json_string_value(json_object_get(loader, "basis")),
                           json_string_value(json_object_get(loader, "reason")), line != NULL ? ": `" : "",
                           line != NULL ? line : "", line != NULL ? "`" : "");
    }
    if (content->calibration != NULL) {
        const char *name = json_string_value(json_object_get(content->calibration, "name"));
        const char *sha256 = json_string_value(json_object_get(content->calibration, "sha256"));
        text_append_format(card,
                           "\n## Calibration\n\n%s (sha256 `%s`), %" JSON_INTEGER_FORMAT
                           " windows of %" JSON_INTEGER_FORMAT " tokens.\n",
                           name != NULL ? name : "", sha256 != NULL ? sha256 : "",
                           json_integer_value(json_object_get(content->calibration, "windows")),
                           json_integer_value(json_object_get(content->calibration, "window_tokens")));
    }
    OWNED_MEMORY char *request = json_format(content->request, true);
    text_append(card, "\n## Reproduce it\n\n`pruned run request.json --out DIR` with\n\n```json\n");
    text_append(card, request);
    text_append(card, request[strlen(request) - 1] == '\n' ? "```\n" : "\n```\n");
}

bool export_write_card(const struct export_card *card, const char *out_folder, struct error *error)
{
    struct text text = {0};
    append_front_matter(&text, card);
    append_body(&text, card);
    OWNED_MEMORY char *path = file_join(out_folder, "README.md");
    bool is_good = file_save(path, text.bytes, text.length, 0644, error);
    text_finish(&text);
    return is_good;
}
