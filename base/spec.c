/* base/spec.c: see spec.h. */
#include "base/spec.h"

const char *const spec_models[SPEC_MODEL_COUNT] = {"model", "pruned_model", "embedding_model"};

const char *spec_model(const json_t *spec, size_t index)
{
    return json_string_value(json_object_get(spec, spec_models[index]));
}
