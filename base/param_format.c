/*
 * base/param_format.c: a spec as JSON and back, for the way from the worker, which knows the methods, to the
 * daemon. {"name","type","flags":[...],"min","max","item_max","default","values","members","unit","help"};
 * what is absent has its zero value, except that a bound given alone leaves the other side open.
 */
#include "base/arena.h"
#include "base/check.h"
#include "base/param.h"
#include "base/param_internal.h"
#include "base/text.h"

#include <math.h>
#include <string.h>

static const char *const param_type_names[] = {
    [PARAM_BOOL] = "bool", [PARAM_INTEGER] = "integer", [PARAM_NUMBER] = "number", [PARAM_TEXT] = "text",
    [PARAM_ENUM] = "enum", [PARAM_OBJECT] = "object",   [PARAM_UNION] = "union",   [PARAM_ARRAY] = "array",
    [PARAM_MAP] = "map",   [PARAM_ANY] = "any",
};
#define PARAM_TYPE_COUNT (sizeof param_type_names / sizeof param_type_names[0])

static const struct {
    const char *name;
    unsigned flag;
} param_flag_names[] = {
    {"required", PARAM_REQUIRED}, {"exactly_one", PARAM_EXACTLY_ONE}, {"open_min", PARAM_OPEN_MIN},
    {"open_max", PARAM_OPEN_MAX}, {"nullable", PARAM_NULLABLE},       {"beside", PARAM_BESIDE},
    {"either", PARAM_EITHER},
};
#define PARAM_FLAG_COUNT (sizeof param_flag_names / sizeof param_flag_names[0])

const char *param_type_name(enum param_type type)
{
    return param_type_names[type];
}

static json_t *param_new_array(void)
{
    json_t *array = json_array();
    CHECK(array != NULL);
    return array;
}

static void param_format_flags(json_t *object, unsigned flags)
{
    if (flags == 0) {
        return;
    }
    json_t *names = param_new_array();
    for (size_t i = 0; i < PARAM_FLAG_COUNT; i++) {
        if ((flags & param_flag_names[i].flag) != 0) {
            CHECK(json_array_append_new(names, json_string(param_flag_names[i].name)) == 0);
        }
    }
    json_put(object, "flags", names);
}

json_t *param_format(const struct param_spec *spec)
{
    json_t *object = json_object();
    CHECK(object != NULL);
    if (spec->name != NULL) {
        json_put_text(object, "name", spec->name);
    }
    json_put_text(object, "type", param_type_name(spec->type));
    param_format_flags(object, spec->flags);
    if (param_is_bounded(spec)) {
        if (isfinite(spec->min)) {
            json_put_double(object, "min", spec->min);
        }
        if (isfinite(spec->max)) {
            json_put_double(object, "max", spec->max);
        }
    }
    if (spec->item_max > 0) {
        json_put_double(object, "item_max", spec->item_max);
    }
    if (spec->default_json != NULL) {
        json_t *value = json_loads(spec->default_json, JSON_DECODE_ANY, NULL);
        CHECK(value != NULL);
        json_put(object, "default", value);
    }
    if (spec->values != NULL) {
        json_t *values = param_new_array();
        for (const char *const *value = spec->values; *value != NULL; value++) {
            CHECK(json_array_append_new(values, json_string(*value)) == 0);
        }
        json_put(object, "values", values);
    }
    if (spec->member_count > 0) {
        json_t *members = param_new_array();
        for (size_t i = 0; i < spec->member_count; i++) {
            CHECK(json_array_append_new(members, param_format(&spec->members[i])) == 0);
        }
        json_put(object, "members", members);
    }
    if (spec->unit != NULL) {
        json_put_text(object, "unit", spec->unit);
    }
    if (spec->help != NULL) {
        json_put_text(object, "help", spec->help);
    }
    return object;
}

/* Parsing. */

static bool param_parse_spec(const json_t *json, struct arena *arena, struct text *pointer,
                             struct param_spec *ret_spec, struct error *error);

static const char *param_keep_text(struct arena *arena, const char *text)
{
    return text != NULL ? arena_copy_text(arena, text, strlen(text)) : NULL;
}

static bool param_parse_type(const char *name, const char *pointer, enum param_type *ret_type,
                             struct error *error)
{
    for (size_t i = 0; i < PARAM_TYPE_COUNT; i++) {
        if (strcmp(name, param_type_names[i]) == 0) {
            *ret_type = (enum param_type)i;
            return true;
        }
    }
    return error_set_field(error, ERROR_UNKNOWN_VALUE, pointer, "%s/type: unknown parameter type \"%s\"",
                           pointer, name);
}

static bool param_parse_flags(const json_t *json, const char *pointer, unsigned *ret_flags,
                              struct error *error)
{
    const json_t *names = json_object_get(json, "flags");
    unsigned flags = 0;
    for (size_t i = 0; i < json_array_size(names); i++) {
        const char *name = json_string_value(json_array_get(names, i));
        size_t at = 0;
        while (name != NULL && at < PARAM_FLAG_COUNT && strcmp(name, param_flag_names[at].name) != 0) {
            at++;
        }
        if (name == NULL || at == PARAM_FLAG_COUNT) {
            return error_set_field(error, ERROR_UNKNOWN_VALUE, pointer, "%s/flags/%zu: unknown flag \"%s\"",
                                   pointer, i, name != NULL ? name : "");
        }
        flags |= param_flag_names[at].flag;
    }
    *ret_flags = flags;
    return true;
}

static bool param_parse_range(const json_t *json, const char *pointer, struct param_spec *spec,
                              struct error *error)
{
    bool has_min = json_object_get(json, "min") != NULL, has_max = json_object_get(json, "max") != NULL;
    spec->min = has_max ? -HUGE_VAL : 0;
    spec->max = has_min ? HUGE_VAL : 0;
    return json_find_double(json, pointer, "min", &spec->min, error) &&
           json_find_double(json, pointer, "max", &spec->max, error) &&
           json_find_double(json, pointer, "item_max", &spec->item_max, error);
}

static bool param_parse_values(const json_t *json, struct arena *arena, const char *pointer,
                               struct param_spec *spec, struct error *error)
{
    const json_t *values = json_object_get(json, "values");
    if (values == NULL) {
        return true;
    }
    const char **kept = arena_allocate(arena, json_array_size(values) + 1, sizeof *kept);
    for (size_t i = 0; i < json_array_size(values); i++) {
        kept[i] = param_keep_text(arena, json_string_value(json_array_get(values, i)));
        if (kept[i] == NULL) {
            return error_set_field(error, ERROR_WRONG_TYPE, pointer, "%s/values/%zu must be a string",
                                   pointer, i);
        }
    }
    spec->values = kept;
    return true;
}

static bool param_parse_members(const json_t *json, struct arena *arena, struct text *pointer,
                                struct param_spec *spec, struct error *error)
{
    const json_t *members = json_object_get(json, "members");
    size_t count = json_array_size(members), length = pointer->length;
    if (count == 0) {
        return true;
    }
    struct param_spec *kept = arena_allocate(arena, count, sizeof *kept);
    for (size_t i = 0; i < count; i++) {
        text_append_format(pointer, "/members/%zu", i);
        if (!param_parse_spec(json_array_get(members, i), arena, pointer, &kept[i], error)) {
            return false;
        }
        if (kept[i].name == NULL && spec->type != PARAM_ARRAY && spec->type != PARAM_MAP) {
            return error_set_field(error, ERROR_MISSING_FIELD, pointer->bytes, "%s/name is required",
                                   pointer->bytes);
        }
        pointer->length = length;
        pointer->bytes[length] = '\0';
    }
    spec->members = kept;
    spec->member_count = count;
    return true;
}

static bool param_parse_default(const json_t *json, struct arena *arena, const char *pointer,
                                struct param_spec *spec, struct error *error)
{
    const json_t *value = json_object_get(json, "default");
    if (value == NULL) {
        return true;
    }
    FINISHED(error_list) faults = {0};
    if (!param_validate(spec, value, "", &faults)) {
        return error_set_field(error, faults.items[0].code, pointer, "%s/default%s %s", pointer,
                               faults.items[0].field, faults.items[0].message);
    }
    OWNED_MEMORY char *text = json_format(value, false);
    spec->default_json = param_keep_text(arena, text);
    return true;
}

static bool param_parse_spec(const json_t *json, struct arena *arena, struct text *pointer,
                             struct param_spec *ret_spec, struct error *error)
{
    struct param_spec spec = {0};
    const char *at = pointer->bytes, *type = NULL, *name = NULL, *unit = NULL, *help = NULL;
    if (!json_get_text(json, at, "type", &type, error) || !json_find_text(json, at, "name", &name, error) ||
        !json_find_text(json, at, "unit", &unit, error) || !json_find_text(json, at, "help", &help, error) ||
        !param_parse_type(type, at, &spec.type, error) || !param_parse_flags(json, at, &spec.flags, error) ||
        !param_parse_range(json, at, &spec, error) || !param_parse_values(json, arena, at, &spec, error) ||
        !param_parse_members(json, arena, pointer, &spec, error) ||
        !param_parse_default(json, arena, pointer->bytes, &spec, error)) {
        return false;
    }
    spec.name = param_keep_text(arena, name);
    spec.unit = param_keep_text(arena, unit);
    spec.help = param_keep_text(arena, help);
    *ret_spec = spec;
    return true;
}

bool param_parse(const json_t *json, struct param_tree *ret_tree, struct error *error)
{
    OWNED(arena) arena = arena_create(0);
    struct param_spec *root = arena_allocate(arena, 1, sizeof *root);
    struct text pointer = {0};
    text_append(&pointer, "");
    bool parsed = param_parse_spec(json, arena, &pointer, root, error);
    text_finish(&pointer);
    if (parsed) {
        *ret_tree = (struct param_tree){.arena = TAKE(arena), .root = root};
    }
    return parsed;
}

void param_tree_finish(struct param_tree *tree)
{
    if (tree != NULL) {
        arena_destroy(tree->arena);
        *tree = (struct param_tree){0};
    }
}
