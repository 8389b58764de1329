/*
 * tests/fuzz/param_fuzz.c: a JSON array [spec, value, ...]. A spec that parses must print and parse as the same, give a
 * schema, and judge every value; a value that passes resolves to one that passes and resolves to itself.
 */
#include "base/check.h"
#include "base/param.h"
#include "tests/fuzz/fuzz.h"

static void judge(const struct param_spec *spec, const json_t *value)
{
    FINISHED(error_list) faults = {0};
    bool valid = param_validate(spec, value, "", &faults);
    CHECK(valid == (faults.count == 0));
    for (size_t i = 0; i < faults.stored; i++) {
        CHECK(faults.items[i].code != ERROR_NONE && faults.items[i].message[0] != '\0');
    }
    JSON_OWNED resolved = param_resolve(spec, value);
    CHECK(resolved != NULL);
    if (valid) {
        CHECK(param_validate(spec, resolved, "", &faults));
        JSON_OWNED twice = param_resolve(spec, resolved);
        CHECK(json_equal(resolved, twice));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    struct param_tree tree = {0}, again = {0};
    JSON_OWNED json = json_parse((const char *)bytes, count, JSON_LIMIT_BYTES, NULL);
    if (!json_is_array(json) || !param_parse(json_array_get(json, 0), &tree, NULL)) {
        return 0;
    }
    JSON_OWNED form = param_format(tree.root);
    CHECK(param_parse(form, &again, NULL));
    JSON_OWNED form_again = param_format(again.root);
    CHECK(json_equal(form, form_again));
    JSON_OWNED schema = param_schema(tree.root);
    CHECK(json_is_object(schema));
    for (size_t i = 1; i < json_array_size(json); i++) {
        judge(tree.root, json_array_get(json, i));
    }
    param_tree_finish(&tree);
    param_tree_finish(&again);
    return 0;
}
