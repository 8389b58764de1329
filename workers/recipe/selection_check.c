/* workers/recipe/selection_check.c: what a selection job asks for and cannot have, all faults at once, before any data set is read: the plan
 * before the job and the job itself go by the same rules. */
#include "workers/recipe/selection.h"

#include "workers/model/architecture.h"
#include <string.h>

static void check_template(const json_t *spec, struct error_list *faults)
{
    const json_t *dataset = json_object_get(spec, "dataset");
    const char *texts[] = {json_string_value(json_object_get(dataset, "template_full")),
                           json_string_value(json_object_get(dataset, "template_lone"))};
    const char *const pointers[] = {"/dataset/template_full", "/dataset/template_lone"};
    bool is_custom = strcmp(json_string_value(json_object_get(dataset, "template")), "custom") == 0;
    for (size_t i = 0; i < 2; i++) {
        if (is_custom && texts[i] == NULL) {
            error_list_add(faults, ERROR_MISSING_FIELD, pointers[i], "a custom template needs both texts");
        } else if (!is_custom && texts[i] != NULL) {
            error_list_add(faults, ERROR_INVALID_ARGUMENT, pointers[i],
                           "only template \"custom\" takes a text");
        }
    }
    if (is_custom && texts[0] != NULL && texts[1] != NULL) {
        struct error error = {0};
        const struct instruction_template form = {"custom", texts[0], texts[1], false};
        if (!instruction_template_check(&form, &error)) {
            error_list_add(faults, error.code, "/dataset/template", "%s", error.message);
        }
    }
}

static void check_window(const json_t *spec, const struct inventory *inventory, const char *what,
                         struct error_list *faults)
{
    uint64_t tokens =
        (uint64_t)json_integer_value(json_object_get(json_object_get(spec, "dataset"), "max_tokens"));
    if (tokens > inventory->config.context_tokens) {
        error_list_add(faults, ERROR_OUT_OF_RANGE, "/dataset/max_tokens",
                       "%llu tokens are more than the %s model's context of %zu", (unsigned long long)tokens,
                       what, inventory->config.context_tokens);
    }
}

static void check_pruned(const json_t *spec, const struct select_method *method,
                         const struct inventory *pruned, struct error_list *faults)
{
    if (pruned != NULL && architecture_of(&pruned->config)->is_encoder) {
        error_list_add(faults, ERROR_UNSUPPORTED, "/pruned_model",
                       "a model of type %s is an encoder: it predicts nothing", pruned->config.model_type);
    } else if (pruned != NULL) {
        check_window(spec, pruned, "pruned", faults);
    } else if (select_needs_pruned(method) && !json_is_string(json_object_get(spec, "pruned_model"))) {
        error_list_add(faults, ERROR_MISSING_FIELD, "/pruned_model",
                       "method %s asks what pruning broke: it needs the pruned model", method->name);
    }
}

static void check_fields(const json_t *sources, const char *where, struct error_list *faults)
{
    for (size_t i = 0; i < json_array_size(sources); i++) {
        const json_t *item = json_array_get(sources, i);
        bool has_messages = json_is_string(json_object_get(item, "messages"));
        bool has_instruction = json_is_string(json_object_get(item, "instruction"));
        bool has_response = json_is_string(json_object_get(item, "response"));
        bool has_input = json_is_string(json_object_get(item, "input"));
        if ((has_messages && (has_instruction || has_response || has_input)) ||
            has_instruction != has_response || (has_input && !has_instruction)) {
            char pointer[128];
            (void)snprintf(pointer, sizeof pointer, "%s/%zu", where, i);
            error_list_add(faults, ERROR_INVALID_ARGUMENT, pointer,
                           "say messages alone, or instruction and response (and perhaps input), or nothing");
        }
    }
}

static void check_parameters(const struct select_method *method, const json_t *parameters,
                             struct error_list *faults)
{
    struct error found = {0};
    if (method->check != NULL && !method->check(parameters, &found)) {
        char pointer[sizeof found.field];
        (void)snprintf(pointer, sizeof pointer, "/method/%s%.80s", method->name, found.field);
        error_list_add(faults, found.code, pointer, "%s", found.message);
    }
}

void selection_check(const json_t *spec, const struct inventory *original, const struct inventory *pruned,
                     struct error_list *faults)
{
    const json_t *parameters = NULL;
    const struct select_method *method = selection_method(spec, &parameters);
    char targets[80];
    (void)snprintf(targets, sizeof targets, "/method/%s/targets", method->name);
    check_fields(json_object_get(json_object_get(spec, "dataset"), "sources"), "/dataset/sources", faults);
    check_fields(json_object_get(parameters, "targets"), targets, faults);
    check_parameters(method, parameters, faults);
    check_template(spec, faults);
    check_window(spec, original, "original", faults);
    check_pruned(spec, method, pruned, faults);
}
