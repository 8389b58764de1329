/*
 * workers/model/config_rope.c: rotary positions. Old configs have rope_theta and rope_scaling at the top; new ones have
 * rope_parameters, which holds rope_theta as well, and for Gemma 3 one such object for each type of layer. Where both are
 * there, rope_scaling wins, as in transformers. What a kind of scaling leaves open is computed here as transformers computes
 * it; the angles are made from it by rope.c.
 */
#include "workers/model/config_internal.h"

#include <math.h>
#include <string.h>

#define FACTOR_MAX 1e6

static const char *const known_keys[] = {
    "rope_type",
    "type",
    "rope_theta",
    "factor",
    "partial_rotary_factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "attention_factor",
    "short_factor",
    "long_factor",
    "finetuned",
};

/* One object that describes a rotation: where it stands, and what it fills. */
struct rotation {
    const char *key;
    const json_t *object;
    struct rope_config *rope;
};

static bool number(struct config_parser *parser, const struct rotation *rotation, const char *key, double max,
                   double *ret_value)
{
    return config_read_number(parser, rotation->object, key, 0.0, max, ret_value);
}

/* Phi-3 says it at the top, which counts more than what stands in the object. */
static size_t original_context(struct config_parser *parser, const struct rotation *rotation)
{
    size_t outer = parser->family->is_rope_longrope_only ? 4096 : 0;
    double inner = (double)parser->config->context_tokens;
    (void)number(parser, rotation, "original_max_position_embeddings", 1e9, &inner);
    if (parser->family->is_rope_longrope_only) {
        (void)config_read_size(parser, "original_max_position_embeddings", false, 1, 1000000000, &outer);
    }
    return outer > 0 ? outer : (size_t)inner;
}

static void read_llama3(struct config_parser *parser, const struct rotation *rotation)
{
    struct rope_scaling *scaling = &rotation->rope->scaling;
    if (!number(parser, rotation, "low_freq_factor", FACTOR_MAX, &scaling->low_freq_factor) ||
        !number(parser, rotation, "high_freq_factor", FACTOR_MAX, &scaling->high_freq_factor)) {
        (void)config_fault(parser, ERROR_MISSING_FIELD, rotation->key,
                           "of type llama3 needs low_freq_factor and high_freq_factor");
        return;
    }
    if (!(scaling->low_freq_factor < scaling->high_freq_factor)) {
        (void)config_fault(parser, ERROR_OUT_OF_RANGE, rotation->key,
                           "needs low_freq_factor below high_freq_factor");
    }
}

static double attention_scale(double factor, double weight)
{
    return factor <= 1.0 ? 1.0 : 0.1 * weight * log(factor) + 1.0;
}

static void read_yarn(struct config_parser *parser, const struct rotation *rotation)
{
    struct rope_scaling *scaling = &rotation->rope->scaling;
    double mscale = 0.0, mscale_all = 0.0;
    scaling->beta_fast = 32.0;
    scaling->beta_slow = 1.0;
    (void)number(parser, rotation, "beta_fast", FACTOR_MAX, &scaling->beta_fast);
    (void)number(parser, rotation, "beta_slow", FACTOR_MAX, &scaling->beta_slow);
    (void)number(parser, rotation, "mscale", FACTOR_MAX, &mscale);
    (void)number(parser, rotation, "mscale_all_dim", FACTOR_MAX, &mscale_all);
    scaling->attention_factor =
        mscale > 0.0 && mscale_all > 0.0
            ? attention_scale(scaling->factor, mscale) / attention_scale(scaling->factor, mscale_all)
            : attention_scale(scaling->factor, 1.0);
    (void)number(parser, rotation, "attention_factor", FACTOR_MAX, &scaling->attention_factor);
    if (!(rotation->rope->base > 1.0)) {
        (void)config_fault(parser, ERROR_OUT_OF_RANGE, rotation->key,
                           "of type yarn needs a rope_theta above 1");
    }
    const json_t *truncate = json_object_get(rotation->object, "truncate");
    if (truncate != NULL && !json_is_true(truncate)) {
        (void)config_fault(parser, ERROR_UNSUPPORTED, rotation->key,
                           "sets truncate, which is known as true only");
    }
}

static void read_factors(struct config_parser *parser, const struct rotation *rotation, const char *name,
                         double *ret_factors)
{
    const json_t *list = json_object_get(rotation->object, name);
    size_t count = parser->config->rotary_size / 2;
    if (!json_is_array(list) || json_array_size(list) != count) {
        (void)config_fault(parser, list == NULL ? ERROR_MISSING_FIELD : ERROR_OUT_OF_RANGE, rotation->key,
                           "of type longrope needs %s: %zu numbers", name, count);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        double factor = json_number_value(json_array_get(list, i));
        if (!(factor > 0.0 && factor <= FACTOR_MAX)) {
            (void)config_fault(parser, ERROR_OUT_OF_RANGE, rotation->key, "has a bad %s for pair %zu", name,
                               i);
            return;
        }
        ret_factors[i] = factor;
    }
}

static void read_longrope(struct config_parser *parser, const struct rotation *rotation)
{
    struct rope_scaling *scaling = &rotation->rope->scaling;
    read_factors(parser, rotation, "short_factor", scaling->short_factors);
    read_factors(parser, rotation, "long_factor", scaling->long_factors);
    double original = (double)scaling->original_context_tokens;
    if (!(original > 1.0)) {
        (void)config_fault(parser, ERROR_OUT_OF_RANGE, rotation->key,
                           "of type longrope needs original_max_position_embeddings above 1");
        return;
    }
    if (!number(parser, rotation, "factor", FACTOR_MAX, &scaling->factor)) {
        scaling->factor = (double)parser->config->context_tokens / original;
    }
    scaling->attention_factor =
        scaling->factor <= 1.0 ? 1.0 : sqrt(1.0 + log(scaling->factor) / log(original));
    (void)number(parser, rotation, "attention_factor", FACTOR_MAX, &scaling->attention_factor);
}

static void read_kind(struct config_parser *parser, const struct rotation *rotation, const char *name)
{
    static const struct {
        const char *kind;
        bool needs_factor;
        void (*read)(struct config_parser *parser, const struct rotation *rotation);
    } kinds[] = {{"linear", true, NULL},
                 {"llama3", true, read_llama3},
                 {"yarn", true, read_yarn},
                 {"longrope", false, read_longrope}};
    bool is_phi3 = parser->family->is_rope_longrope_only;
    if (is_phi3 && (strcmp(name, "su") == 0 || strcmp(name, "yarn") == 0)) {
        name = "longrope";
    }
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(kinds[i].kind, name) != 0 || (is_phi3 && kinds[i].read != read_longrope)) {
            continue;
        }
        struct rope_scaling *scaling = &rotation->rope->scaling;
        scaling->kind = kinds[i].kind;
        scaling->original_context_tokens = original_context(parser, rotation);
        if (kinds[i].needs_factor && !number(parser, rotation, "factor", FACTOR_MAX, &scaling->factor)) {
            (void)config_fault(parser, ERROR_MISSING_FIELD, rotation->key, "of type %s needs a factor", name);
        } else if (kinds[i].read != NULL) {
            kinds[i].read(parser, rotation);
        }
        return;
    }
    (void)config_fault(parser, ERROR_UNSUPPORTED, rotation->key, "has rope_type \"%.40s\"; %s known", name,
                       is_phi3 ? "default and longrope are"
                               : "default, linear, llama3, yarn and longrope are");
}

static void refuse_unknown(struct config_parser *parser, const struct rotation *rotation)
{
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach(config_iterable(rotation->object), key, value)
    {
        bool is_known = json_is_null(value) || json_is_false(value) || strcmp(key, "truncate") == 0;
        for (size_t i = 0; i < sizeof known_keys / sizeof known_keys[0]; i++) {
            is_known = is_known || strcmp(known_keys[i], key) == 0;
        }
        if (!is_known) {
            (void)config_fault(parser, ERROR_UNSUPPORTED, rotation->key,
                               "has %.40s, which is not known; it could change what the model computes", key);
        }
    }
}

/* rope_type and what goes with it; base and share were read before. */
static void read_rotation(struct config_parser *parser, const struct rotation *rotation)
{
    if (!json_is_object(rotation->object)) {
        (void)config_fault(parser, ERROR_WRONG_TYPE, rotation->key, "must be an object or null");
        return;
    }
    (void)number(parser, rotation, "rope_theta", 1e15, &rotation->rope->base);
    const json_t *type = json_object_get(rotation->object, "rope_type");
    type = type != NULL ? type : json_object_get(rotation->object, "type");
    const char *name = type == NULL ? "default" : json_string_value(type);
    if (name == NULL) {
        (void)config_fault(parser, ERROR_WRONG_TYPE, rotation->key, "has a rope_type that is not a string");
    } else if (strcmp(name, "default") != 0) {
        read_kind(parser, rotation, name);
    }
    refuse_unknown(parser, rotation);
}

/* How much of each head turns. Of several places the first that says it counts. */
static void read_share(struct config_parser *parser, const json_t *object)
{
    const struct config_family *family = parser->family;
    struct model_config *config = parser->config;
    double share = family->rotary_share;
    bool is_said = config_read_number(parser, object, "partial_rotary_factor", 0.0, 1.0, &share) ||
                   (family->rotary_share_key != NULL &&
                    config_read_number(parser, parser->json, family->rotary_share_key, 0.0, 1.0, &share)) ||
                   config_read_number(parser, parser->json, "partial_rotary_factor", 0.0, 1.0, &share);
    if (is_said && share < 1.0 && family->rotary_share_key == NULL) {
        (void)config_fault(parser, ERROR_UNSUPPORTED, "partial_rotary_factor",
                           "is %g; models of type %s turn whole heads", share, family->model_type);
        share = 1.0;
    }
    config->rotary_size = (size_t)((double)config->head_size * share);
    if (config->head_size > 0 && (config->rotary_size == 0 || config->rotary_size % 2 != 0)) {
        (void)config_fault(parser, ERROR_OUT_OF_RANGE, "partial_rotary_factor",
                           "turns %zu elements of each head; it must be an even number", config->rotary_size);
        config->rotary_size = 0;
    }
}

void config_read_rope(struct config_parser *parser)
{
    const struct config_family *family = parser->family;
    struct model_config *config = parser->config;
    const json_t *scaling = config_member(parser, "rope_scaling");
    const json_t *parameters = config_member(parser, "rope_parameters");
    bool has_scaling = scaling != NULL && !(json_is_object(scaling) && json_object_size(scaling) == 0);
    struct rotation main_one = {.key = has_scaling ? "rope_scaling" : "rope_parameters",
                                .object = has_scaling ? scaling : parameters,
                                .rope = &config->ropes[0]};
    if (family->positions != POSITION_ROPE) {
        return;
    }
    config->ropes[0] = (struct rope_config){.base = family->rope_base, .scaling.attention_factor = 1.0};
    config->ropes[1] = (struct rope_config){.base = family->local_rope_base, .scaling.attention_factor = 1.0};
    if (family->rope_base_key == NULL ||
        !config_read_number(parser, parser->json, family->rope_base_key, 0.0, 1e15, &config->ropes[0].base)) {
        (void)config_read_number(parser, parser->json, "rope_theta", 0.0, 1e15, &config->ropes[0].base);
    }
    if (family->local_rope_base == 0.0) {
        read_share(parser, main_one.object);
        if (main_one.object != NULL) {
            read_rotation(parser, &main_one);
        }
        return;
    }
    (void)config_read_number(parser, parser->json, "rope_local_base_freq", 0.0, 1e15, &config->ropes[1].base);
    const json_t *full = json_object_get(parameters, "full_attention");
    const json_t *local = json_object_get(parameters, "sliding_attention");
    read_share(parser, local);
    read_share(parser, full);
    if (parameters != NULL && full == NULL && local == NULL) {
        (void)config_fault(parser, ERROR_UNSUPPORTED, "rope_parameters",
                           "needs full_attention and sliding_attention");
    }
    if (full != NULL && !json_is_null(full)) {
        read_rotation(parser, &(struct rotation){"rope_parameters", full, &config->ropes[0]});
    }
    if (local != NULL && !json_is_null(local)) {
        read_rotation(parser, &(struct rotation){"rope_parameters", local, &config->ropes[1]});
    }
    if (has_scaling) { /* of old configs: of full layers only */
        read_rotation(parser, &main_one);
    }
}
