/*
 * workers/recipe/search.c: the evaluator of greedy searches, as the method's parameters ask for it and as far as memory goes.
 */
#include "workers/recipe/combined.h"

#include <string.h>

bool recipe_screens(const json_t *spec, const struct prune_method *method)
{
    struct recipe_compute compute;
    if (method == NULL) {
        return false;
    }
    const char *screening = json_string_value(json_object_get(recipe_search_parameters(spec), "screening"));
    recipe_read_compute(spec, &compute);
    return screening != NULL && strcmp(screening, "bf16") == 0 && compute.dtype == DTYPE_F32;
}

/* The budget of memory without what is not states, shared by two engines where there is a screen. 0: no limit. */
static uint64_t state_limit(const struct recipe *recipe)
{
    if (recipe->memory.limit_bytes == 0 && !recipe->memory.is_streamed) {
        return 0;
    }
    /* With little left, few states are kept. */
    size_t rows = recipe->windows->count * recipe->windows->window_tokens;
    const struct model_config *config = &recipe->inventory->config;
    bool has_screen = recipe->memory.screen_bytes > 0;
    uint64_t beside = head_reference_bytes(config, rows) +
                      prefix_evaluator_values_bytes(2 * config->layer_count, rows, has_screen);
    uint64_t bytes = recipe->memory.evaluator_bytes;
    if (has_screen) {
        bytes = bytes > recipe->memory.screen_bytes ? (bytes - recipe->memory.screen_bytes) / 2 : 0;
    }
    return bytes > beside ? bytes - beside : 1;
}

static bool open_screen(struct recipe *recipe, struct recipe_search *search, struct error *error)
{
    if (recipe->memory.screen_bytes == 0) {
        if (recipe_screens(recipe->spec, recipe->method)) {
            recipe_warn(recipe, "the weights are streamed: candidates are not screened in bf16");
        }
        return true;
    }
    struct model_options options = {.backend = recipe->compute.backend,
                                    .dtype = DTYPE_BF16,
                                    .pool = recipe->pool,
                                    .cancel = recipe->job->cancel};
    search->screen = model_open(recipe->inventory, recipe->job->model_folder, &options, error);
    return search->screen != NULL;
}

bool recipe_open_search(struct recipe *recipe, struct recipe_search *search, struct error *error)
{
    struct prefix_options options;
    prefix_options_read(recipe_search_parameters(recipe->spec), &options);
    options.wave.memory_limit_bytes = state_limit(recipe);
    if (!open_screen(recipe, search, error)) {
        return false;
    }
    options.screen = search->screen;
    struct objective_text text = {.batch = {recipe->windows->sequences, recipe->windows->count}};
    search->evaluator = prefix_evaluator_create(recipe->model, &text, &options);
    return true;
}

void recipe_search_finish(struct recipe_search *search)
{
    prefix_evaluator_destroy(search->evaluator);
    model_destroy(search->screen);
    *search = (struct recipe_search){0};
}
