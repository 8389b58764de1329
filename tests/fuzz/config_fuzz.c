/* tests/fuzz/config_fuzz.c: config.json. An accepted one keeps its promises: ranges, divisors, shapes that do not overflow. */
#include "base/check.h"
#include "base/json.h"
#include "base/memory.h"
#include "tests/fuzz/fuzz.h"
#include "workers/model/architecture.h"

#include <stdlib.h>

static void check_shape(enum weight_role role, size_t layer, const struct weight_shape *shape, void *context)
{
    (void)role;
    (void)layer;
    size_t *count = context;
    CHECK(shape->name[0] != '\0' && shape->count > 0 && shape->count < UINT64_C(1) << 48);
    (*count)++;
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
        size_t tensors = 0;
        CHECK(faults.count == 0);
        CHECK(config->layer_count >= 1 && config->layer_count <= MODEL_LAYERS_MAX &&
              config->head_size % 2 == 0);
        CHECK(config->head_count % config->kv_head_count == 0 && config->eos_token_count <= 8);
        architecture_visit(config, check_shape, &tensors);
        CHECK(tensors >= 2);
    } else {
        CHECK(faults.count > 0);
    }
    error_list_finish(&faults);
    free(config);
    return 0;
}
