/* workers/recipe/spec.c: the body of a job, checked against the catalogue once more and with every default filled in. */
#include "workers/recipe/spec.h"

#include "base/text.h"
#include "workers/recipe/catalogue.h"
#include <string.h>

json_t *recipe_resolve_spec(const json_t *spec, const char **ret_type, struct error_list *faults)
{
    if (!json_is_object(spec)) {
        error_list_add(faults, ERROR_WRONG_TYPE, "", "the request must be an object");
        return NULL;
    }
    const char *type = json_string_value(json_object_get(spec, "type"));
    const struct param_spec *body = type != NULL ? catalogue_body(type) : NULL;
    if (body == NULL) {
        error_list_add(faults, type == NULL ? ERROR_MISSING_FIELD : ERROR_UNKNOWN_VALUE, "/type",
                       "type must be pruning, selection or evaluation");
        return NULL;
    }
    JSON_OWNED stripped = json_object();
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)spec, key, value)
    {
        if (key[0] != '_' && strcmp(key, "type") != 0) {
            (void)json_object_set(stripped, key, value);
        }
    }
    if (!param_validate(body, stripped, "", faults)) {
        return NULL;
    }
    json_t *resolved = param_resolve(body, stripped);
    json_put_text(resolved, "type", type);
    *ret_type = json_string_value(json_object_get(resolved, "type"));
    return resolved;
}
