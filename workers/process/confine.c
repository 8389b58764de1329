/* workers/process/confine.c: the sandbox, open for the inputs of a job. See process_internal.h. */
#include "base/cleanup.h"
#include "base/memory.h"
#include "workers/process/process_internal.h"
#include "workers/recipe/recipe.h"
#include <stdint.h>
#include <stdlib.h>

/* Owned; NULL where there is no model. */
static char *find_folder(const json_t *model)
{
    const char *folder = json_string_value(json_object_get(model, "folder"));
    return folder != NULL ? recipe_model_folder(folder) : NULL;
}

bool confine(const json_t *order, struct sandbox_paths paths, struct error *error)
{
    const char *uri;
    json_t *value;
    json_t *models = json_object_get(order, "models");
    json_t *inputs = json_object_get(order, "inputs");
    size_t model_count = json_object_size(models) + 1;
    size_t count = model_count + json_object_size(inputs);
    size_t filled = 0;
    char **folders = memory_create(model_count, sizeof *folders);
    const char **readable = memory_create(count, sizeof *readable);
    readable[filled] = folders[filled] = find_folder(json_object_get(order, "model"));
    filled++;
    json_object_foreach(models, uri, value)
    {
        readable[filled] = folders[filled] = find_folder(value);
        filled++;
    }
    json_object_foreach(inputs, uri, value)
    {
        readable[filled++] = json_string_value(value);
    }
    paths.readable = readable;
    paths.readable_count = count;
    bool is_fine = sandbox_enter(&paths, error);
    for (size_t i = 0; i < model_count; i++) {
        free(folders[i]);
    }
    free(folders);
    free(readable);
    return is_fine;
}
