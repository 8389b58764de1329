/*
 * workers/export/layout_decilm.c: DeciLM's config.json (structured_pruning 15.1): Llama's, with block_configs. vLLM opens it with the
 * configuration file beside it, since it takes blocks as objects; its rules (15.2) are checked here, all of them:
 *   - one number of query heads for all blocks;
 *   - channels a multiple of 256, given as ffn_mult = 3 I / 2 d to six decimals, from which I is found again by rounding up;
 *   - the first block has attention, since what comes before any has no residual there.
 * A block without attention has n_heads_in_group null, one without an FFN ffn_mult null: that is how other readers tell.
 */
#include "workers/export/layout_internal.h"

#include "base/check.h"
#include "base/text.h"
#include <math.h>
#include <string.h>

#define CHANNEL_STEP 256u

static double ffn_mult(size_t channels, size_t hidden)
{
    return round(3e6 * (double)channels / (2.0 * (double)hidden)) / 1e6;
}

/* As readers find the channels. */
static size_t channels_of(double mult, size_t hidden)
{
    size_t found = (size_t)(2.0 * mult * (double)hidden / 3.0);
    return (found + CHANNEL_STEP - 1) / CHANNEL_STEP * CHANNEL_STEP;
}

bool layout_check_decilm(const struct layout *layout, struct error *error)
{
    FINISHED(text) broken = {0};
    size_t heads = 0, hidden = layout->config->hidden_size;
    bool has_said_heads = false, has_said_channels = false;
    if (layout->block_count > 0 && layout_attention(layout, 0) == NULL) {
        text_append(&broken, "; its first block has no attention");
    }
    for (size_t i = 0; i < layout->block_count; i++) {
        const struct model_layer *attention = layout_attention(layout, i), *ffn = layout_ffn(layout, i);
        heads = heads == 0 && attention != NULL ? attention->head_count : heads;
        if (attention != NULL && attention->head_count != heads && !has_said_heads) {
            has_said_heads = true;
            text_append_format(&broken, "; block %zu has %zu query heads and others %zu", i,
                               attention->head_count, heads);
        }
        size_t channels = ffn != NULL ? ffn->intermediate_size : 0;
        bool is_exact = ffn == NULL || (channels % CHANNEL_STEP == 0 &&
                                        channels_of(ffn_mult(channels, hidden), hidden) == channels);
        if (!is_exact && !has_said_channels) {
            has_said_channels = true;
            text_append_format(&broken, "; block %zu has %zu channels, which are no multiple of %u", i,
                               channels, CHANNEL_STEP);
        }
    }
    return broken.length == 0 ||
           error_set_field(error, ERROR_UNSUPPORTED, "/output/layout",
                           "layout decilm cannot express this plan: %.180s; ask for heterogeneous",
                           broken.bytes + 2);
}

static json_t *format_attention(const struct model_layer *attention)
{
    json_t *part = json_object();
    static const char *const absent[] = {"sparsify", "num_sink_tokens", "window_length"};
    static const char *const off[] = {"replace_with_linear", "unshifted_sink",
                                      "use_prefill_window_in_sink_attention"};
    json_put(part, "n_heads_in_group",
             attention != NULL ? json_integer((json_int_t)(attention->head_count / attention->kv_head_count))
                               : json_null());
    json_put(part, "no_op", json_boolean(attention == NULL));
    for (size_t i = 0; i < 3; i++) {
        json_put(part, absent[i], json_null());
        json_put(part, off[i], json_false());
    }
    return part;
}

static json_t *format_ffn(const struct model_layer *ffn, size_t hidden)
{
    json_t *part = json_object();
    json_put(part, "ffn_mult",
             ffn != NULL ? json_real(ffn_mult(ffn->intermediate_size, hidden)) : json_null());
    json_put(part, "no_op", json_boolean(ffn == NULL));
    json_put(part, "replace_with_linear", json_false());
    json_put(part, "sparsify", json_null());
    return part;
}

void layout_put_decilm(const struct layout *layout, json_t *json)
{
    json_t *blocks = json_array();
    size_t heads = 0, kv_heads = 0, channels = 0;
    for (size_t i = 0; i < layout->block_count; i++) {
        const struct model_layer *attention = layout_attention(layout, i), *ffn = layout_ffn(layout, i);
        json_t *block = json_object();
        json_put(block, "attention", format_attention(attention));
        json_put(block, "ffn", format_ffn(ffn, layout->config->hidden_size));
        CHECK(json_array_append_new(blocks, block) == 0);
        if (attention != NULL) {
            heads = attention->head_count;
            kv_heads = attention->kv_head_count > kv_heads ? attention->kv_head_count : kv_heads;
        }
        channels = ffn != NULL && ffn->intermediate_size > channels ? ffn->intermediate_size : channels;
    }
    json_put(json, "block_configs", blocks);
    json_put_text(json, "model_type", MODEL_DECILM_TYPE);
    json_put(json, "architectures", json_pack("[s]", "DeciLMForCausalLM"));
    json_put(json, "auto_map",
             json_pack("{s: s, s: s}", "AutoConfig", "configuration_decilm.DeciLMConfig",
                       "AutoModelForCausalLM", "modeling_decilm.DeciLMForCausalLM"));
    json_put_i64(json, "num_attention_heads", (int64_t)heads);
    json_put_i64(json, "num_key_value_heads", (int64_t)kv_heads);
    json_put_i64(json, "head_dim", (int64_t)layout->config->head_size);
    if (channels > 0) {
        json_put_i64(json, "intermediate_size", (int64_t)channels);
    }
}
