/*
 * workers/model/config_internal.h: shared by config.c (the shape of a model), config_layers.c (what differs from layer to
 * layer), config_rope.c (rotary positions) and config_family.c (how each family spells it all, and which keys it may have).
 */
#ifndef WORKERS_MODEL_CONFIG_INTERNAL_H
#define WORKERS_MODEL_CONFIG_INTERNAL_H

#include "workers/model/architecture.h"
#include "workers/model/config.h"

enum window_rule {
    WINDOW_NONE,
    WINDOW_EVERYWHERE,
    WINDOW_FROM_LAYER, /* max_window_layers and above, or as layer_types says */
    WINDOW_PATTERN     /* all but every n-th, or as layer_types says */
};
/* A switch of config.json: key NULL: always `value`; else where the key is absent. */
struct config_switch {
    const char *key;
    bool value;
};
/* How a family's config.json spells what struct model_config holds, and what transformers assumes where a key is absent. */
struct config_family {
    const char *model_type;
    const char *hidden, *layers, *heads, *ffn, *context, *epsilon, *activation;
    bool is_ffn_optional;             /* four times the hidden size where absent */
    bool has_kv_heads, has_head_size; /* num_key_value_heads, head_dim */
    size_t kv_heads, head_size;       /* 0: as many as heads; hidden over heads */
    size_t context_tokens;
    double epsilon_value;
    const char *activation_name;
    enum position_kind positions;
    size_t position_offset;
    double rope_base, local_rope_base; /* local: of layers with a window; 0: there is no such */
    const char *rope_base_key;         /* besides rope_theta, and before it */
    const char *rotary_share_key;      /* besides partial_rotary_factor; NULL: heads turn as a whole */
    double rotary_share;
    bool is_rope_longrope_only; /* Phi-3: its "yarn" and "su" are longrope */
    enum window_rule windows;
    bool is_window_optional; /* use_sliding_window, false where absent */
    size_t window_tokens, window_pattern;
    struct config_switch attention_bias, ffn_bias, tied, parallel;
    bool has_o_bias; /* where attention has biases, so has its output projection */
    int32_t bos, eos;
    size_t expert_count, active_expert_count; /* 0: no experts */
    bool is_expert_sized_apart;               /* moe_intermediate_size, and some layers may be plain */
    bool scales_embedding, has_softcaps;
    double attention_softcap, final_softcap;
    const char *const *keys;     /* further ones that are read; NULL-terminated */
    const char *const *required; /* "key=value" pairs: anything else is refused; NULL-terminated */
};
const struct config_family *config_family_find(const char *model_type); /* NULL: none */
bool config_family_knows(const struct config_family *family, const char *key);

struct config_parser {
    const json_t *json;
    const struct config_family *family;
    struct model_config *config;
    struct error_list *faults;
};
/* Adds "config.json: <key> <message>"; false. */
bool config_fault(struct config_parser *parser, enum error_code code, const char *key, const char *format,
                  ...) PRINTF(4, 5);
/* The member, NULL when absent or null. */
const json_t *config_member(const struct config_parser *parser, const char *key);
bool config_has_null(const struct config_parser *parser, const char *key); /* there, and null */
/* These leave ret_value alone when the key is absent, and say so by false when it is, or is wrong. min < value <= max. */
bool config_read_size(struct config_parser *parser, const char *key, bool is_required, size_t min, size_t max,
                      size_t *ret_value);
bool config_read_bool(struct config_parser *parser, const char *key, bool *ret_value);
bool config_read_number(struct config_parser *parser, const json_t *object, const char *key, double min,
                        double max, double *ret_value);
/* A member of an object within config.json's `key`: *ret_value stays where it is absent; false: it is no number in 1..max. */
bool config_read_layer_size(struct config_parser *parser, const json_t *object, const char *name,
                            const char *key, size_t max, size_t *ret_value);
json_t *config_iterable(const json_t *json);           /* for jansson's iterators, which change nothing */
void config_read_rope(struct config_parser *parser);   /* wants head_size, context_tokens */
void config_read_layers(struct config_parser *parser); /* wants the shape */
void config_refuse_unknown_keys(struct config_parser *parser);

#endif
