/* tests/unit/workers/select/parameters.h: the parameters of a selector, as a request's JSON says them and with its defaults. */
#ifndef TESTS_UNIT_WORKERS_SELECT_PARAMETERS_H
#define TESTS_UNIT_WORKERS_SELECT_PARAMETERS_H

#include "tests/unit/workers/select/plain.h"
#include "workers/select/select.h"

/* Owned. */
static inline json_t *parameters_resolve(const struct select_method *method, const char *text)
{
    const struct param_spec spec = {
        .type = PARAM_OBJECT, .members = method->params, .member_count = method->param_count};
    struct error error = {0};
    struct error_list faults = {0};
    JSON_OWNED given = json_parse(text, strlen(text), JSON_LIMIT_BYTES, &error);
    assert_non_null(given);
    assert_true(param_validate(&spec, given, "", &faults));
    return param_resolve(&spec, given);
}

#endif
