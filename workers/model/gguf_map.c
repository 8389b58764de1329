/* workers/model/gguf_map.c: the tensors of a GGUF file under the names of a Hugging Face checkpoint. */
#include "base/arena.h"
#include "base/text.h"
#include "workers/model/gguf.h"
#include "workers/model/gguf_internal.h"
#include "workers/model/gguf_names.h"

#include <stdlib.h>
#include <string.h>

struct mapper {
    const struct gguf *gguf;
    const struct gguf_family *family;
    struct gguf_map *map;
    size_t head_count, kv_head_count;
    struct gguf_layer_sizes *layers; /* [layer_count], owned; NULL: all alike */
    size_t layer_count;
    struct error *error;
};

/* What config.json expresses instead. */
static bool is_factor(const char *name)
{
    for (size_t i = 0; i < GGUF_FACTORS_COUNT; i++) {
        if (strcmp(name, gguf_factor_names[i]) == 0) {
            return true;
        }
    }
    return false;
}

static bool refuse(const struct mapper *mapper, enum error_code code, const char *name, const char *what)
{
    return error_set_field(mapper->error, code, name, "GGUF tensor %.120s %s", name, what);
}

static const char *name_of(struct mapper *mapper, const struct gguf_place *place)
{
    FINISHED(text) name = {0};
    gguf_place_format_hf(mapper->family, place, &name);
    return arena_copy_text(mapper->map->arena, name.bytes, name.length);
}

/* The shape and place of what one tensor of the file holds; for experts, of the first of them. */
static bool describe(const struct mapper *mapper, const struct gguf_tensor *tensor,
                     const struct gguf_place *place, struct gguf_tensor_map *entry)
{
    size_t skip = place->row->is_expert ? 1 : 0;
    if (tensor->rank != (place->is_bias ? 1 : tensor->rank) || tensor->rank <= skip ||
        tensor->rank - skip > 2) {
        return refuse(mapper, ERROR_CORRUPT_FILE, tensor->name, "has a rank that its family's does not have");
    }
    *entry = (struct gguf_tensor_map){.source = tensor->name,
                                      .dtype = tensor->dtype,
                                      .rank = tensor->rank - skip,
                                      .offset_bytes = tensor->offset_bytes,
                                      .bytes = tensor->bytes / (skip > 0 ? tensor->shape[0] : 1),
                                      .layout = gguf_place_layout(place)};
    memcpy(entry->shape, tensor->shape + skip, entry->rank * sizeof entry->shape[0]);
    if (entry->layout == LAYOUT_ROPE_PAIRS || entry->layout == LAYOUT_QKV_CONCATENATED) {
        bool is_layer = mapper->layers != NULL && place->layer < mapper->layer_count;
        size_t heads = is_layer ? mapper->layers[place->layer].head_count : mapper->head_count,
               kv_heads = is_layer ? mapper->layers[place->layer].kv_head_count : mapper->kv_head_count;
        entry->layout_heads = place->row->is_kv ? kv_heads : heads;
    }
    if (!layout_fits(entry->layout, entry->layout_heads, (size_t)entry->shape[0])) {
        return refuse(mapper, ERROR_CORRUPT_FILE, tensor->name, "has rows that its heads do not divide");
    }
    if (entry->layout == LAYOUT_TRANSPOSED) {
        if (entry->rank != 2) {
            return refuse(mapper, ERROR_CORRUPT_FILE, tensor->name, "is no matrix");
        }
        uint64_t out = entry->shape[0];
        entry->shape[0] = entry->shape[1];
        entry->shape[1] = out;
    }
    return true;
}

static bool add_tensor(struct mapper *mapper, const struct gguf_tensor *tensor, size_t *capacity)
{
    struct gguf_map *map = mapper->map;
    struct gguf_place place;
    struct gguf_tensor_map entry;
    if (is_factor(tensor->name)) {
        return true;
    }
    if (!gguf_place_parse(mapper->family, tensor->name, &place)) {
        return error_set_field(mapper->error, ERROR_UNSUPPORTED, tensor->name,
                               "GGUF tensor %.120s is none of a model of type %s", tensor->name,
                               mapper->family->model_type);
    }
    if (!describe(mapper, tensor, &place, &entry)) {
        return false;
    }
    uint64_t count = place.row->is_expert ? tensor->shape[0] : 1;
    if (count > *capacity) { /* no file has so many distinct tensors of so many experts */
        return refuse(mapper, ERROR_CORRUPT_FILE, tensor->name, "has more experts than are read");
    }
    *capacity -= (size_t)count;
    for (place.expert = 0; place.expert < count; place.expert++) {
        entry.name = name_of(mapper, &place);
        map->tensors[map->count++] = entry;
        entry.offset_bytes += entry.bytes;
    }
    return true;
}

static int compare(const void *left, const void *right)
{
    return strcmp(((const struct gguf_tensor_map *)left)->name,
                  ((const struct gguf_tensor_map *)right)->name);
}

/* How many entries there will be: experts are counted apart, bounded by what an architecture may have. */
static bool count_entries(const struct mapper *mapper, size_t *ret_count)
{
    size_t count = mapper->gguf->tensor_count;
    for (size_t i = 0; i < mapper->gguf->tensor_count; i++) {
        const struct gguf_tensor *tensor = &mapper->gguf->tensors[i];
        struct gguf_place place;
        if (gguf_place_parse(mapper->family, tensor->name, &place) && place.row->is_expert) {
            if (tensor->shape[0] > GGUF_EXPERTS_MAX || count > GGUF_TENSORS_MAX) {
                return refuse(mapper, ERROR_CORRUPT_FILE, tensor->name, "has more experts than are read");
            }
            count += (size_t)tensor->shape[0];
        }
    }
    *ret_count = count;
    return true;
}

bool gguf_map(const struct gguf *gguf, struct gguf_map *ret_map, struct error *error)
{
    struct gguf_map map = {.arena = arena_create(0)};
    struct mapper mapper = {.gguf = gguf, .map = &map, .error = error};
    size_t capacity = 0;
    mapper.family = gguf_family_read(gguf, error);
    bool is_good = mapper.family != NULL &&
                   (mapper.family->has_layers
                        ? gguf_read_layers(gguf, &mapper.layers, &mapper.layer_count, error)
                        : gguf_read_heads(gguf, &mapper.head_count, &mapper.kv_head_count, error)) &&
                   count_entries(&mapper, &capacity);
    if (is_good) {
        map.tensors = arena_allocate(map.arena, capacity + 1, sizeof *map.tensors);
    }
    for (size_t i = 0; is_good && i < gguf->tensor_count; i++) {
        is_good = add_tensor(&mapper, &gguf->tensors[i], &capacity);
    }
    free(mapper.layers);
    if (!is_good) {
        gguf_map_finish(&map);
        return false;
    }
    qsort(map.tensors, map.count, sizeof *map.tensors, compare);
    *ret_map = map;
    return true;
}

void gguf_map_finish(struct gguf_map *map)
{
    arena_destroy(map->arena);
    *map = (struct gguf_map){0};
}
