/*
 * workers/export/gguf_deci.c: layers that differ, as architecture "deci" of GGUF has them (structured_pruning 15.3): one number
 * of heads, key-value heads and channels for every layer, 0 where the sublayer is absent. It computes what Llama computes.
 *
 * Two things llama.cpp would do otherwise are written round, at the cost of a few zeros and exactly:
 *   - a layer without an FFN loses what its attention adds (the graph goes on to the next layer before the sum), so it gets an FFN
 *     of GGUF_ZERO_CHANNELS channels of zeros;
 *   - sizes of heads are taken from layer 0, which therefore must have attention: it gets one head of zeros where it has none.
 */
#include "workers/export/gguf_internal.h"

#include "base/memory.h"
#include "base/text.h"
#include "workers/model/config.h"
#include <stdlib.h>
#include <string.h>

static uint64_t size_of(const json_t *side, const char *name, uint64_t whole)
{
    const json_t *value = json_object_get(side, name);
    return json_is_false(side)                                       ? 0
           : json_is_integer(value) && json_integer_value(value) > 0 ? (uint64_t)json_integer_value(value)
                                                                     : whole;
}

bool gguf_layers_read(const json_t *config, struct gguf_metadata *metadata, uint64_t head_size, uint64_t ffn,
                      struct error *error)
{
    const json_t *layers = json_object_get(json_object_get(config, "pruning"), "layers");
    bool has_bias = json_is_true(json_object_get(config, "attention_bias"));
    if (json_array_size(layers) != metadata->layer_count) {
        return error_set_field(error, ERROR_CONFIG_MISMATCH, "config.json/pruning",
                               "config.json: pruning has %zu layers of %zu", json_array_size(layers),
                               (size_t)metadata->layer_count);
    }
    metadata->layers = memory_create((size_t)metadata->layer_count, sizeof *metadata->layers);
    for (size_t i = 0; i < metadata->layer_count; i++) {
        struct gguf_layer *layer = &metadata->layers[i];
        const json_t *attention = json_object_get(json_array_get(layers, i), "attention");
        const json_t *side = json_object_get(json_array_get(layers, i), "ffn");
        layer->head_count = size_of(attention, "num_attention_heads", metadata->head_count);
        layer->kv_head_count = size_of(attention, "num_key_value_heads", metadata->kv_head_count);
        layer->ffn = size_of(side, "intermediate_size", ffn);
        if (has_bias && layer->head_count > 0 && layer->head_count * head_size != metadata->hidden_size) {
            return error_set_field(
                error, ERROR_UNSUPPORTED, "config.json/attention_bias",
                "config.json: attention_bias with %llu heads of %llu in layer %zu: the deci "
                "architecture of GGUF has biases as long as the hidden size only",
                (unsigned long long)layer->head_count, (unsigned long long)head_size, i);
        }
        layer->adds_ffn = layer->ffn == 0;
        layer->adds_attention = i == 0 && layer->head_count == 0;
        layer->ffn = layer->adds_ffn ? GGUF_ZERO_CHANNELS : layer->ffn;
        layer->head_count = layer->adds_attention ? 1 : layer->head_count;
        layer->kv_head_count = layer->adds_attention ? 1 : layer->kv_head_count;
    }
    metadata->ones = memory_create((size_t)metadata->hidden_size, sizeof *metadata->ones);
    for (size_t i = 0; i < metadata->hidden_size; i++) {
        metadata->ones[i] = 1.0f;
    }
    return true;
}

static void put_list(struct gguf_pairs *pairs, const char *key, const struct gguf_metadata *metadata,
                     uint64_t (*pick)(const struct gguf_layer *layer))
{
    gguf_pairs_begin_list(pairs, key, GGUF_I32, metadata->layer_count);
    for (size_t i = 0; i < metadata->layer_count; i++) {
        gguf_append_integer(&pairs->bytes, pick(&metadata->layers[i]), 4);
    }
}

static uint64_t pick_heads(const struct gguf_layer *layer)
{
    return layer->head_count;
}

static uint64_t pick_kv_heads(const struct gguf_layer *layer)
{
    return layer->kv_head_count;
}

static uint64_t pick_ffn(const struct gguf_layer *layer)
{
    return layer->ffn;
}

void gguf_layers_put(const struct gguf_metadata *metadata, struct gguf_pairs *pairs)
{
    put_list(pairs, ".feed_forward_length", metadata, pick_ffn);
    put_list(pairs, ".attention.head_count", metadata, pick_heads);
    put_list(pairs, ".attention.head_count_kv", metadata, pick_kv_heads);
}

size_t gguf_layers_list_added(const struct gguf_metadata *metadata, size_t layer,
                              struct gguf_added ret_added[GGUF_ADDED_MAX])
{
    const struct gguf_layer *at = &metadata->layers[layer];
    uint64_t hidden = metadata->hidden_size, head = metadata->head_size;
    size_t count = 0;
    if (at->adds_attention) {
        ret_added[count++] = (struct gguf_added){"attn_norm", metadata->ones, {hidden, 0}};
        ret_added[count++] = (struct gguf_added){"attn_q", NULL, {head, hidden}};
        ret_added[count++] = (struct gguf_added){"attn_k", NULL, {head, hidden}};
        ret_added[count++] = (struct gguf_added){"attn_v", NULL, {head, hidden}};
        ret_added[count++] = (struct gguf_added){"attn_output", NULL, {hidden, head}};
    }
    if (at->adds_ffn) {
        ret_added[count++] = (struct gguf_added){"ffn_norm", metadata->ones, {hidden, 0}};
        ret_added[count++] = (struct gguf_added){"ffn_gate", NULL, {GGUF_ZERO_CHANNELS, hidden}};
        ret_added[count++] = (struct gguf_added){"ffn_up", NULL, {GGUF_ZERO_CHANNELS, hidden}};
        ret_added[count++] = (struct gguf_added){"ffn_down", NULL, {hidden, GGUF_ZERO_CHANNELS}};
    }
    return count;
}
