/*
 * base/param_resolve.c: the two outputs of a spec: a request with every default written down, so that what
 * ran can be read from the job alone, and JSON Schema for clients.
 */
#include "base/check.h"
#include "base/param.h"
#include "base/param_internal.h"

#include <math.h>
#include <string.h>

/* Owned copy of a value, which is not NULL. */
static json_t *param_copy(const json_t *value)
{
    json_t *copy = json_deep_copy(value);
    CHECK(copy != NULL);
    return copy;
}

static json_t *param_new_object(void)
{
    json_t *object = json_object();
    CHECK(object != NULL);
    return object;
}

/* True if an object that was not given can be made from defaults alone. */
static bool param_fills_itself(const struct param_spec *spec)
{
    if (spec->type != PARAM_OBJECT || (spec->flags & PARAM_EXACTLY_ONE) != 0) {
        return false;
    }
    for (size_t i = 0; i < spec->member_count; i++) {
        const struct param_spec *member = &spec->members[i];
        if ((member->flags & PARAM_REQUIRED) != 0 && member->default_json == NULL &&
            !param_fills_itself(member)) {
            return false;
        }
    }
    return true;
}

json_t *param_default(const struct param_spec *spec)
{
    if (spec->default_json != NULL) {
        json_t *value = json_loads(spec->default_json, JSON_DECODE_ANY, NULL);
        CHECK(value != NULL);
        json_t *resolved = param_resolve(spec, value);
        json_decref(value);
        return resolved;
    }
    if (param_fills_itself(spec)) {
        json_t *empty = param_new_object();
        json_t *resolved = param_resolve(spec, empty);
        json_decref(empty);
        return resolved;
    }
    return NULL;
}

static void param_resolve_member(const struct param_spec *member, bool fill, json_t *object)
{
    const json_t *given = json_object_get(object, member->name);
    if (!param_is_absent(member, given)) {
        json_put(object, member->name, param_resolve(member, given));
        return;
    }
    (void)json_object_del(object, member->name); /* a null that counts as absent */
    if (fill) {
        json_put(object, member->name, param_default(member));
    }
}

static json_t *param_resolve_union(const struct param_spec *spec, json_t *copy)
{
    const char *type = json_string_value(json_object_get(copy, "type"));
    const struct param_spec *chosen = type != NULL ? param_find_member(spec, type) : NULL;
    if (chosen != NULL) {
        const json_t *given = json_object_get(copy, chosen->name);
        json_t *empty = param_is_absent(chosen, given) ? param_new_object() : NULL;
        json_put(copy, chosen->name, param_resolve(chosen, empty != NULL ? empty : given));
        json_decref(empty);
    }
    return copy;
}

json_t *param_resolve(const struct param_spec *spec, const json_t *value)
{
    if (param_is_absent(spec, value)) {
        json_t *filled = param_default(spec);
        return filled != NULL ? filled : json_null();
    }
    json_t *copy = param_copy(value);
    if (spec->type == PARAM_UNION && json_is_object(copy)) {
        return param_resolve_union(spec, copy);
    }
    if (spec->type == PARAM_OBJECT && json_is_object(copy)) {
        for (size_t i = 0; i < spec->member_count; i++) {
            bool choice =
                (spec->flags & PARAM_EXACTLY_ONE) != 0 && (spec->members[i].flags & PARAM_BESIDE) == 0;
            param_resolve_member(&spec->members[i], !choice, copy);
        }
    } else if (spec->type == PARAM_MAP && json_is_object(copy) && spec->member_count > 0) {
        const char *key;
        json_t *item;
        json_object_foreach(copy, key, item)
        {
            CHECK(json_object_set_new(copy, key, param_resolve(&spec->members[0], item)) == 0);
        }
    } else if (spec->type == PARAM_ARRAY && json_is_array(copy) && spec->member_count > 0) {
        for (size_t i = 0; i < json_array_size(copy); i++) {
            json_t *item = param_resolve(&spec->members[0], json_array_get(copy, i));
            CHECK(json_array_set_new(copy, i, item) == 0);
        }
    }
    return copy;
}

/* JSON Schema. */

/* An integer bound as it can be written; a bound nobody can reach is left out. */
static void schema_put_integer(json_t *schema, const char *name, double value)
{
    if (fabs(value) <= PARAM_INTEGER_LIMIT) {
        json_put_i64(schema, name, (int64_t)value);
    }
}

static void schema_put_range(json_t *schema, const struct param_spec *spec)
{
    const char *min_name = (spec->flags & PARAM_OPEN_MIN) != 0 ? "exclusiveMinimum" : "minimum";
    const char *max_name = (spec->flags & PARAM_OPEN_MAX) != 0 ? "exclusiveMaximum" : "maximum";
    if (!param_is_bounded(spec)) {
        return;
    }
    if (spec->type == PARAM_INTEGER) {
        schema_put_integer(schema, min_name, ceil(spec->min));
        schema_put_integer(schema, max_name, floor(spec->max));
        return;
    }
    if (isfinite(spec->min)) {
        json_put_double(schema, min_name, spec->min);
    }
    if (isfinite(spec->max)) {
        json_put_double(schema, max_name, spec->max);
    }
}

/* Counts and lengths. Ours are bytes, JSON Schema's characters: a character has 1 to 4 bytes. */
static void schema_put_sizes(json_t *schema, const struct param_spec *spec, const char *min_name,
                             const char *max_name, double unit_bytes)
{
    if (param_is_bounded(spec)) {
        if (spec->min > 0) {
            schema_put_integer(schema, min_name, ceil(spec->min / unit_bytes));
        }
        schema_put_integer(schema, max_name, floor(spec->max));
    }
}

static json_t *schema_of(const struct param_spec *spec);

/* The members of which at least one is required. */
static void schema_put_either(json_t *schema, const struct param_spec *spec)
{
    json_t *choices = json_array();
    CHECK(choices != NULL);
    for (size_t i = 0; i < spec->member_count; i++) {
        if ((spec->members[i].flags & PARAM_EITHER) != 0) {
            json_t *choice = json_pack("{s:[s]}", "required", spec->members[i].name);
            CHECK(json_array_append_new(choices, choice) == 0);
        }
    }
    if (json_array_size(choices) > 0) {
        json_put(schema, "anyOf", choices);
    } else {
        json_decref(choices);
    }
}

static void schema_put_object(json_t *schema, const struct param_spec *spec)
{
    json_t *properties = param_new_object(), *required = json_array();
    CHECK(required != NULL);
    for (size_t i = 0; i < spec->member_count; i++) {
        const struct param_spec *member = &spec->members[i];
        json_put(properties, member->name, schema_of(member));
        if ((member->flags & PARAM_REQUIRED) != 0 && member->default_json == NULL) {
            CHECK(json_array_append_new(required, json_string(member->name)) == 0);
        }
    }
    json_put(schema, "properties", properties);
    json_put(schema, "additionalProperties", json_false());
    schema_put_either(schema, spec);
    if ((spec->flags & PARAM_EXACTLY_ONE) != 0) {
        json_t *choices = json_array();
        for (size_t i = 0; i < spec->member_count; i++) {
            if ((spec->members[i].flags & PARAM_BESIDE) == 0) {
                json_t *choice = json_pack("{s:[s]}", "required", spec->members[i].name);
                CHECK(json_array_append_new(choices, choice) == 0);
            }
        }
        json_put(schema, "oneOf", choices);
    }
    if (json_array_size(required) > 0) {
        json_put(schema, "required", required);
    } else {
        json_decref(required);
    }
}

static void schema_put_union(json_t *schema, const struct param_spec *spec)
{
    json_t *choices = json_array();
    CHECK(choices != NULL);
    for (size_t i = 0; i < spec->member_count; i++) {
        const struct param_spec *member = &spec->members[i];
        json_t *choice = param_new_object(), *properties = param_new_object(), *type = param_new_object();
        json_put_text(type, "const", member->name);
        json_put(properties, "type", type);
        json_put(properties, member->name, schema_of(member));
        json_put(choice, "properties", properties);
        json_put(choice, "additionalProperties", json_false());
        json_put(choice, "required",
                 param_fills_itself(member) ? json_pack("[s]", "type")
                                            : json_pack("[ss]", "type", member->name));
        CHECK(json_array_append_new(choices, choice) == 0);
    }
    json_put(schema, "oneOf", choices);
}

static void schema_put_map(json_t *schema, const struct param_spec *spec)
{
    json_t *names = param_new_object();
    json_t *values = spec->member_count > 0 ? schema_of(&spec->members[0]) : param_new_object();
    json_put_i64(names, "minLength", 1);
    json_put_i64(names, "maxLength", PARAM_MAP_KEY_BYTES);
    json_put(schema, "propertyNames", names);
    if (spec->member_count == 0) {
        json_put_text(values, "type", "string");
    }
    if (spec->item_max > 0) {
        schema_put_integer(values, "maxLength", floor(spec->item_max));
    }
    json_put(schema, "additionalProperties", values);
    schema_put_sizes(schema, spec, "minProperties", "maxProperties", 1);
}

static void schema_put_enum(json_t *schema, const struct param_spec *spec)
{
    json_t *values = json_array();
    for (const char *const *value = spec->values; value != NULL && *value != NULL; value++) {
        CHECK(json_array_append_new(values, json_string(*value)) == 0);
    }
    json_put(schema, "enum", values);
}

/* What the type alone says. */
static json_t *schema_of_type(const struct param_spec *spec)
{
    static const char *const types[] = {
        [PARAM_BOOL] = "boolean", [PARAM_INTEGER] = "integer", [PARAM_NUMBER] = "number",
        [PARAM_TEXT] = "string",  [PARAM_ENUM] = "string",     [PARAM_OBJECT] = "object",
        [PARAM_UNION] = "object", [PARAM_ARRAY] = "array",     [PARAM_MAP] = "object",
        [PARAM_ANY] = NULL,
    };
    json_t *schema = param_new_object();
    if (types[spec->type] != NULL) {
        json_put_text(schema, "type", types[spec->type]);
    }
    switch (spec->type) {
    case PARAM_INTEGER:
    case PARAM_NUMBER:
        schema_put_range(schema, spec);
        break;
    case PARAM_TEXT:
        schema_put_sizes(schema, spec, "minLength", "maxLength", 4);
        break;
    case PARAM_ENUM:
        schema_put_enum(schema, spec);
        break;
    case PARAM_OBJECT:
        schema_put_object(schema, spec);
        break;
    case PARAM_UNION:
        schema_put_union(schema, spec);
        break;
    case PARAM_ARRAY:
        schema_put_sizes(schema, spec, "minItems", "maxItems", 1);
        if (spec->member_count > 0) {
            json_put(schema, "items", schema_of(&spec->members[0]));
        }
        break;
    case PARAM_MAP:
        schema_put_map(schema, spec);
        break;
    case PARAM_BOOL:
    case PARAM_ANY:
        break;
    }
    return schema;
}

static json_t *schema_of(const struct param_spec *spec)
{
    json_t *schema = schema_of_type(spec);
    if ((spec->flags & PARAM_NULLABLE) != 0 && spec->type != PARAM_ANY) {
        json_t *either = json_pack("{s:[o,{s:s}]}", "anyOf", schema, "type", "null");
        CHECK(either != NULL);
        schema = either;
    }
    if (spec->help != NULL) {
        json_put_text(schema, "description", spec->help);
    }
    if (spec->unit != NULL) {
        json_put_text(schema, "x-unit", spec->unit);
    }
    if (spec->default_json != NULL) {
        json_t *value = json_loads(spec->default_json, JSON_DECODE_ANY, NULL);
        CHECK(value != NULL);
        json_put(schema, "default", value);
    }
    return schema;
}

json_t *param_schema(const struct param_spec *spec)
{
    json_t *schema = schema_of(spec);
    json_put_text(schema, "$schema", "https://json-schema.org/draft/2020-12/schema");
    return schema;
}
