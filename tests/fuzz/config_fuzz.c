/* tests/fuzz/config_fuzz.c: config.json. An accepted one keeps its promises: ranges, divisors, shapes that do not overflow. */
#include "base/check.h"
#include "base/json.h"
#include "base/memory.h"
#include "tests/fuzz/fuzz.h"
#include "workers/model/architecture.h"

#include <math.h>
#include <stdlib.h>

struct visit {
    const struct model_config *config;
    size_t count;
};

static void check_shape(enum weight_role role, size_t layer, const struct weight_shape *shape, void *context)
{
    struct visit *visit = context;
    size_t found_layer = 0, expert = 0;
    const char *suffix = NULL;
    enum weight_role found = WEIGHT_EMBEDDING;
    CHECK(shape->name[0] != '\0' && shape->count > 0 && shape->count < UINT64_C(1) << 48);
    if (shape->part != WEIGHT_PART_MODEL) {
        CHECK(architecture_split_name(visit->config, shape->name, &found_layer, &suffix) &&
              found_layer == layer);
        CHECK(architecture_find_role(visit->config, suffix, &found, &expert) && found == role &&
              expert == shape->expert);
    }
    visit->count++;
}

static void check_layers(const struct model_config *config)
{
    for (size_t i = 0; i < config->layer_count; i++) {
        const struct model_layer *layer = &config->layers[i];
        CHECK(layer->rope < 2 && layer->active_expert_count <= layer->expert_count &&
              layer->expert_count <= MODEL_EXPERTS_MAX && layer->intermediate_size > 0);
    }
}

static size_t count_parts(const struct model_config *config)
{
    size_t count = 0;
    for (size_t i = 0; i < config->layer_count; i++) {
        count += 1 + config->layers[i].expert_count;
    }
    return count;
}

static void check_rope(const struct model_config *config, const struct rope_config *rope)
{
    CHECK(config->rotary_size <= config->head_size && config->rotary_size % 2 == 0);
    if (config->position_kind == POSITION_ROPE) {
        CHECK(config->rotary_size > 0 && isfinite(rope->scaling.attention_factor) &&
              rope->scaling.attention_factor > 0.0);
        CHECK(rope->scaling.kind == NULL || rope->scaling.factor > 0.0);
    } else {
        CHECK(config->position_rows >= config->context_tokens);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    JSON_OWNED json = json_parse((const char *)bytes, count, JSON_LIMIT_BYTES, NULL);
    if (json == NULL) {
        return 0;
    }
    struct model_config *config = memory_create(1, sizeof *config);
    struct error_list faults = {0};
    if (model_config_parse(json, config, &faults)) {
        CHECK(faults.count == 0);
        CHECK(config->layer_count >= 1 && config->layer_count <= MODEL_LAYERS_MAX &&
              config->head_size % 2 == 0);
        CHECK(config->head_count % config->kv_head_count == 0 && config->eos_token_count <= 8);
        check_layers(config);
        check_rope(config, &config->ropes[0]);
        CHECK(isfinite(config->attention_scale) && isfinite(config->embedding_scale));
        struct visit visit = {config, 0};
        if (count_parts(config) <= 4096) { /* in time */
            architecture_visit(config, check_shape, &visit);
            CHECK(visit.count >= 2);
        }
    } else {
        CHECK(faults.count > 0);
    }
    error_list_finish(&faults);
    free(config);
    return 0;
}
