/* workers/recipe/layers.c: what the request says of single layers, read against the model. */
#include "workers/recipe/recipe_internal.h"

#include "base/memory.h"
#include "base/text.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* "3", "first", "last". */
static bool read_layer(const char *text, size_t length, size_t layer_count, uint64_t *ret_layer)
{
    if (length == 5 && memcmp(text, "first", 5) == 0) {
        *ret_layer = 0;
        return true;
    }
    if (length == 4 && memcmp(text, "last", 4) == 0) {
        *ret_layer = layer_count > 0 ? layer_count - 1 : 0;
        return true;
    }
    return text_parse_u64(text, length, ret_layer);
}

static void read_skip(const char *text, const char *pointer, struct prune_layers *layers,
                      struct error_list *faults)
{
    uint64_t first = 0;
    uint64_t last = 0;
    const char *dash = strchr(text, '-');
    size_t length = dash != NULL ? (size_t)(dash - text) : strlen(text);
    const char *end = dash != NULL ? dash + 1 : text;
    if (!read_layer(text, length, layers->layer_count, &first) ||
        !read_layer(end, strlen(end), layers->layer_count, &last) || last < first) {
        error_list_add(faults, ERROR_INVALID_ARGUMENT, pointer,
                       "\"%.32s\" is neither a layer nor a range of layers (\"3\", \"0-1\", \"last\")", text);
    } else if (last >= layers->layer_count) {
        error_list_add(faults, ERROR_OUT_OF_RANGE, pointer, "the model has layers 0 to %zu, not %llu",
                       layers->layer_count - 1, (unsigned long long)last);
    } else {
        for (uint64_t layer = first; layer <= last; layer++) {
            layers->skip[layer] = true;
        }
    }
}

static void read_ratios(const json_t *per_layer, struct prune_layers *layers, struct error_list *faults)
{
    const char *key;
    const json_t *value;
    json_object_foreach((json_t *)(uintptr_t)per_layer, key, value)
    {
        char pointer[128];
        uint64_t layer = 0;
        (void)snprintf(pointer, sizeof pointer, "/layers/per_layer/%s", key);
        if (!text_parse_u64(key, strlen(key), &layer)) {
            error_list_add(faults, ERROR_INVALID_ARGUMENT, pointer, "\"%.32s\" is no layer's number", key);
        } else if (layer >= layers->layer_count) {
            error_list_add(faults, ERROR_OUT_OF_RANGE, pointer, "the model has layers 0 to %zu, not %llu",
                           layers->layer_count - 1, (unsigned long long)layer);
        } else if (layers->skip[layer]) {
            error_list_add(faults, ERROR_INVALID_ARGUMENT, pointer, "layer %llu is in layers.skip as well",
                           (unsigned long long)layer);
        } else {
            layers->ratio[layer] = json_number_value(json_object_get(value, "sparsity"));
        }
    }
}

struct prune_layers *recipe_read_layers(const json_t *spec, size_t layer_count, struct error_list *faults)
{
    const json_t *object = json_object_get(spec, "layers");
    const json_t *skip = json_object_get(object, "skip");
    const json_t *per_layer = json_object_get(object, "per_layer");
    struct prune_layers *layers = memory_create(1, sizeof *layers);
    layers->layer_count = layer_count;
    layers->skip = memory_create(layer_count + 1, sizeof *layers->skip);
    layers->ratio = memory_create(layer_count + 1, sizeof *layers->ratio);
    for (size_t i = 0; i < layer_count; i++) {
        layers->ratio[i] = NAN;
    }
    for (size_t i = 0; i < json_array_size(skip); i++) {
        char pointer[64];
        (void)snprintf(pointer, sizeof pointer, "/layers/skip/%zu", i);
        read_skip(json_string_value(json_array_get(skip, i)), pointer, layers, faults);
    }
    read_ratios(per_layer, layers, faults);
    return layers;
}

void recipe_free_layers(struct prune_layers *layers)
{
    if (layers != NULL) {
        free(layers->skip);
        free(layers->ratio);
        free(layers);
    }
}

void recipe_check_traits(const json_t *spec, const struct prune_method *method, struct error_list *faults)
{
    static const char *const members[] = {"allocation", "compensation"};
    if ((method->traits & PRUNE_TRAIT_WIDTH) != 0) {
        return;
    }
    for (size_t i = 0; i < sizeof members / sizeof members[0]; i++) {
        if (json_object_get(spec, members[i]) != NULL) {
            char pointer[32];
            (void)snprintf(pointer, sizeof pointer, "/%s", members[i]);
            error_list_add(faults, ERROR_UNSUPPORTED, pointer,
                           "method %s narrows no layer, so it takes no %s", method->name, members[i]);
        }
    }
    if (json_object_size(json_object_get(json_object_get(spec, "layers"), "per_layer")) > 0) {
        error_list_add(faults, ERROR_UNSUPPORTED, "/layers/per_layer",
                       "method %s removes whole sublayers, so a layer takes no share of its own",
                       method->name);
    }
}
