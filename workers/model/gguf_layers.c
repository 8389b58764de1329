/*
 * workers/model/gguf_layers.c: architecture "deci": Llama with layers that differ. Numbers of heads, key-value heads and channels
 * stand once, or once for each layer; 0: the layer has no such sublayer. What llama.cpp would compute otherwise than it reads is
 * refused: attention without an FFN (its graph goes on before the sum) and attention without key-value heads (a linear map).
 */
#include "workers/model/gguf_internal.h"

#include "base/check.h"
#include "base/memory.h"
#include <stdlib.h>

static bool read_list(const struct gguf *gguf, const char *name, uint64_t max, size_t count,
                      uint64_t *ret_values, struct error *error)
{
    char key[GGUF_KEY_BYTES];
    const struct gguf_pair *pair = gguf_find(gguf, gguf_key(gguf, name, key));
    if (pair == NULL || (pair->is_array && pair->count != count)) {
        return error_set_field(error, ERROR_MISSING_FIELD, key, "GGUF key %s must be there for %zu layers",
                               key, count);
    }
    for (size_t i = 0; i < count; i++) {
        int64_t value = 0;
        if (!gguf_integer_at(pair, pair->is_array ? i : 0, &value) || value < 0 || (uint64_t)value > max) {
            return error_set_field(error, ERROR_WRONG_TYPE, key, "GGUF key %s: integers in range are needed",
                                   key);
        }
        ret_values[i] = (uint64_t)value;
    }
    return true;
}

static bool check_layer(const struct gguf_layer_sizes *layer, size_t index, struct error *error)
{
    const char *what = NULL;
    if ((layer->head_count == 0) != (layer->kv_head_count == 0)) {
        what = "has heads without key-value heads, which is a linear map and not known";
    } else if (layer->head_count > 0 && layer->ffn == 0) {
        what = "has attention and no FFN, of which llama.cpp loses what attention adds";
    } else if (layer->head_count == 0 && layer->ffn == 0) {
        what = "has nothing in it, which is not known";
    } else if (layer->head_count > 0 && layer->head_count % layer->kv_head_count != 0) {
        what = "has key-value heads that do not divide its heads";
    }
    return what == NULL ? true
                        : error_set_field(error, ERROR_UNSUPPORTED, "general.architecture",
                                          "GGUF architecture deci: layer %zu %s", index, what);
}

bool gguf_read_layers(const struct gguf *gguf, struct gguf_layer_sizes **ret_layers, size_t *ret_count,
                      struct error *error)
{
    char key[GGUF_KEY_BYTES];
    uint64_t count = 0;
    if (!gguf_get_u64(gguf, gguf_key(gguf, "block_count", key), 1, GGUF_LAYERS_MAX, &count, error)) {
        return false;
    }
    size_t n = (size_t)count;
    OWNED_MEMORY uint64_t *values = memory_create(3 * n, sizeof *values);
    if (!read_list(gguf, "attention.head_count", 1024, n, values, error) ||
        !read_list(gguf, "attention.head_count_kv", 1024, n, values + n, error) ||
        !read_list(gguf, "feed_forward_length", UINT64_C(1) << 20, n, values + 2 * n, error)) {
        return false;
    }
    OWNED_MEMORY struct gguf_layer_sizes *layers = memory_create(n, sizeof *layers);
    for (size_t i = 0; i < n; i++) {
        layers[i] =
            (struct gguf_layer_sizes){(size_t)values[i], (size_t)values[n + i], (size_t)values[2 * n + i]};
        if (!check_layer(&layers[i], i, error)) {
            return false;
        }
    }
    *ret_layers = layers;
    layers = NULL;
    *ret_count = n;
    return true;
}

struct gguf_layer_sizes gguf_widest_layer(const struct gguf_layer_sizes *layers, size_t count)
{
    struct gguf_layer_sizes widest = {0};
    for (size_t i = 0; i < count; i++) {
        if (layers[i].head_count > widest.head_count) {
            widest.head_count = layers[i].head_count;
            widest.kv_head_count = layers[i].kv_head_count;
        }
        widest.ffn = layers[i].ffn > widest.ffn ? layers[i].ffn : widest.ffn;
    }
    return widest;
}

json_t *gguf_format_layers(const struct gguf_layer_sizes *layers, size_t count)
{
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++) {
        json_t *layer = json_object(), *attention = json_false(), *ffn = json_false();
        if (layers[i].head_count > 0) {
            attention = json_object();
            json_put_i64(attention, "num_attention_heads", (int64_t)layers[i].head_count);
            json_put_i64(attention, "num_key_value_heads", (int64_t)layers[i].kv_head_count);
        }
        if (layers[i].ffn > 0) {
            ffn = json_object();
            json_put_i64(ffn, "intermediate_size", (int64_t)layers[i].ffn);
        }
        json_put(layer, "attention", attention);
        json_put(layer, "ffn", ffn);
        CHECK(json_array_append_new(list, layer) == 0);
    }
    return list;
}
